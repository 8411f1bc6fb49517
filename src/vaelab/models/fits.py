"""What goes together: one table of words that parts offer and need, and one list of further rules.

A model whose parts do not fit is refused in one sentence when it is built; `vaelab models` prints the same tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.config import Config
from ..core.errors import BadInput
from ..core.facts import Facts
from ..core.tables import pick
from .parts import POSTERIORS, PRIORS

WORDS: dict[str, str] = {
    "density": "log q(z|x), which {posterior} codes do not have",
    "euclidean": "codes in a space of real vectors, and those of {posterior} are not",
    "normal": "the encoder to describe normal distributions, and {posterior} is none",
    "diagonal": "dimensions that are independent given x, and those of {posterior} are not",
    "sphere": "codes on the unit sphere, and those of {posterior} are not",
    "codes": "codes out of a finite book, and those of {posterior} are not",
    "fixed": "a prior without parameters of its own, and {prior} has some",
    "factorised": "a prior of independent dimensions, and {prior} is none",
}
DEFAULT_PRIOR = (("sphere", "sphere"), ("codes", "uniform"))


def prior_of(config: Config) -> str:
    """The prior that a config names, or that its posterior gets where it names none."""
    if config.prior.name != "auto":
        return config.prior.name
    offers = pick(POSTERIORS, config.model.posterior, "model.posterior").offers
    return next((prior for word, prior in DEFAULT_PRIOR if word in offers), "standard")


def missing(posterior: str, prior: str, requires: frozenset[str] = frozenset()) -> tuple[str, str] | None:
    """Who lacks something, "prior" or "objective", and what, in words; None where the three go together.

    Args:
        posterior, prior: Names.
        requires: What the objective asks for.

    Example:
        >>> missing("diagonal", "standard", frozenset({"density"}))
    """
    offered = pick(POSTERIORS, posterior, "model.posterior").offers | pick(PRIORS, prior, "prior.name").offers
    for who, needs in (("prior", PRIORS[prior].needs), ("objective", requires)):
        for word in WORDS:
            if word in needs - offered:
                return who, WORDS[word].format(posterior=posterior, prior=prior)
    return None


@dataclass(frozen=True)
class Rule:
    """A further reason to refuse.

    Args:
        argument: The setting to name.
        broken: Whether a config for these data breaks it.
        rule, fix: In words.
    """

    argument: str
    broken: Callable[[Config, Facts], Any]
    rule: str
    fix: str = ""


RULES: list[Rule] = []


def refuse_misfits(config: Config, facts: Facts, requires: frozenset[str]) -> None:
    """Refuses a config whose parts do not go together.

    Raises:
        BadInput: naming the part that lacks something, and what.
    """
    for rule in RULES:
        if rule.broken(config, facts):
            section, _, key = rule.argument.partition(".")
            received = getattr(getattr(config, section), key or "name")
            raise BadInput(rule.argument, received, rule.rule, rule.fix)
    lacking = missing(config.model.posterior, prior_of(config), requires)
    if lacking is not None:
        who, what = lacking
        argument, received = (
            ("prior.name", config.prior.name) if who == "prior" else ("objective.name", config.objective.name)
        )
        raise BadInput(argument, received, f"it needs {what}", "vaelab models lists what goes together")
