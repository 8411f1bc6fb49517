"""Which likelihood and which transform fit the data, with the reasons as findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..core.config import Config
from ..core.errors import BadInput
from ..core.finding import Finding
from ..distributions.likelihoods import LIKELIHOODS
from .arrays import chunks, place
from .missing import counted, is_modelled, missing_in, refuse_incomplete
from .source import Source
from .summary import Summary, summarise
from .transforms import Affine, standardising
from .worries import worries

__all__ = ["Choice", "Summary", "choose", "summarise"]

FLOAT32_MAX = float(np.finfo(np.float32).max)
AMOUNTS = 1e3  # variance over mean: a Poisson's is 1, and counts of words or of molecules reach a hundred
PILED_UP = 0.1  # share of entries at the ends from which they drive a density on [0, 1]


@dataclass(frozen=True)
class Choice:
    """What training uses.

    Args:
        likelihood: Name of p(x|z).
        transform: Applied to every row before the model sees it.
        findings: The reasons, and what to look at in the data.
        discrete: Whether the likelihood is a probability mass, so that log|det| is not counted.
        missing: Share of the rows in which each entry is missing, [D], where missing entries are left out; else [0].
    """

    likelihood: str
    transform: Affine
    findings: tuple[Finding, ...]
    discrete: bool
    missing: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class _Facts:
    """What the rules below look at."""

    summary: Summary
    source: Source
    config: Config
    trained_on: Summary

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Lowest and highest value of everything loaded: a held-out row must not leave the range a transform maps."""
        parts = [self.source.train] if self.source.test is None else [self.source.train, self.source.test]
        ends = np.fmin, np.fmax  # which leave missing entries out
        found = [tuple(float(end.reduce(chunk, axis=None)) for end in ends) for part in parts for chunk in chunks(part)]
        return min(low for low, _ in found), max(high for _, high in found)

    @property
    def ceiling(self) -> float | None:
        """The value that becomes 1 where the values are known to lie in [0, ceiling], else None."""
        low, high = self.extent
        return next((top for top in (1.0, self.source.top) if top is not None and low >= 0 and high <= top), None)

    @property
    def scale(self) -> str:
        """`unit` where values are binarised, which needs probabilities, else what the config says."""
        return "unit" if self.config.data.binarize != "none" else self.config.data.scale

    @property
    def is_binary(self) -> bool:
        """Whether every value is 0 or the ceiling."""
        ends = {self.summary.minimum, self.summary.maximum}
        return self.summary.between == 0 and self.ceiling is not None and ends <= {0.0, self.ceiling}

    @property
    def is_bounded(self) -> bool:
        """Whether the values reach the model in [0, 1]."""
        return self.ceiling == 1 or (self.ceiling is not None and self.scale != "none")

    @property
    def is_piled_up(self) -> bool:
        """Whether many values sit exactly at an end of the known range, as the blank border of an image does."""
        reached = self.summary.minimum == 0 or self.summary.maximum == self.ceiling
        return reached and 1 - self.summary.between > PILED_UP

    @property
    def is_counts(self) -> bool:
        """Whether every value is a whole number of at least 0, and is to stay one.

        A column whose variance is a thousand times its mean holds amounts in some unit, and no counts.
        """
        whole = self.summary.all_integer and self.extent[0] >= 0 and self.scale in ("auto", "none")
        return whole and bool((self.summary.std**2 <= AMOUNTS * self.summary.mean).all())


@dataclass(frozen=True)
class _Rule:
    """A likelihood, when it is chosen, and the reason as a person reads it."""

    likelihood: str
    applies: Callable[[_Facts], bool]
    reason: str


RULES = (
    _Rule("bernoulli", lambda f: f.config.data.binarize != "none", "data.binarize makes every value 0 or 1"),
    _Rule("gaussian", lambda f: f.scale == "standardize", "standardised values are real numbers of either sign"),
    _Rule("bernoulli", lambda f: f.is_binary, "every value is one of two, the ends of its range"),
    _Rule(
        "gaussian",
        lambda f: f.is_bounded and f.is_piled_up,
        "many values sit exactly at the ends of the range, where a density on [0, 1] would grow without bound; one "
        "noise for all entries keeps it finite",
    ),
    _Rule("continuous_bernoulli", lambda f: f.is_bounded, "the values fill a known range, which is scaled to [0, 1]"),
    _Rule("poisson", lambda f: f.is_counts, "every value is a whole number of at least 0, as counts are"),
    _Rule("gaussian", lambda f: True, "the values are real numbers without a known range"),
)

SCALES: dict[str, Callable[[_Facts], Affine]] = {
    "none": lambda f: Affine(),
    "unit": lambda f: _unit(f),
    "standardize": lambda f: _standardize(f),
}
DISCRETE = {name for name, kind in LIKELIHOODS.items() if kind.discrete}


def choose(summary: Summary, source: Source, config: Config, trained_on: Summary | None = None) -> Choice:
    """The likelihood and the transform for these data under this config, with the reasons as findings.

    Args:
        summary: Of all rows, so that the likelihood fits held-out ones too.
        trained_on: Of the rows trained on, whose mean and deviation standardise; None: of all.
        source: All rows, so that a value that breaks a rule is named by its place, held-out rows included.
        config: `likelihood.name`, `data.scale` and `data.binarize` decide; `auto` leaves the decision to the data.

    Raises:
        BadInput: for missing or infinite entries, and values outside a likelihood's support.

    Example:
        >>> from vaelab.data.source import load
        >>> source = load("digits")
        >>> choice = choose(summarise(source.train), source, Config())
        >>> choice.likelihood, choice.transform.scale.item()
        ('gaussian', 6.016...)
    """
    if source.layout == "sequence":
        return _of_strings(summary, source, config)
    if source.mixed:
        return Choice("mixed", Affine(), tuple(worries(summary, source, config)), discrete=False)
    modelled = is_modelled(source, config)
    for predicate, *words in UNUSABLE[modelled:]:
        _refuse_where(source, predicate, *words)
    facts = _Facts(summary, source, config, trained_on or summary)
    rule = next(rule for rule in RULES if rule.applies(facts))
    given = config.likelihood.name
    name = rule.likelihood if given == "auto" else given
    transform = SCALES[facts.scale if facts.scale != "auto" else _natural_scale(name, facts)](facts)
    _binarisable(name, facts)
    CHECKS.get(name, lambda *_: None)(name, facts, transform)
    notes = [_chosen(rule, facts)] if given == "auto" else []
    gray = name == "bernoulli" and config.data.binarize == "none" and not facts.is_binary
    notes += [_gray_levels(summary)] if gray else []
    missing = missing_in(source) if modelled else np.zeros(0)
    if missing.any():
        refuse_incomplete(source, config)
        notes.append(counted(source, missing))
    return Choice(name, transform, (*notes, *worries(summary, source, config)), name in DISCRETE, missing)


def _of_strings(summary: Summary, source: Source, config: Config) -> Choice:
    """Tokens have no order and no scale; another likelihood is refused when the model is built."""
    for name, plain in (("scale", ("auto", "none")), ("binarize", ("none",))):
        if (given := getattr(config.data, name)) not in plain:
            raise BadInput(f"data.{name}", given, "the rows are strings, whose tokens are no numbers", "leave it out")
    given = config.likelihood.name
    return Choice("tokens" if given == "auto" else given, Affine(), tuple(worries(summary, source, config)), True)


def _chosen(rule: _Rule, facts: _Facts) -> Finding:
    low, high = facts.extent
    return Finding(
        "DA001",
        "info",
        f"likelihood {rule.likelihood}, chosen from the data",
        100 * facts.summary.between,
        f"% of the entries lie strictly between the lowest, {facts.summary.minimum:.6g}, "
        f"and the highest, {facts.summary.maximum:.6g}",
        evidence=f"{facts.summary.rows} rows; everything loaded lies in [{low:.6g}, {high:.6g}]",
        why=rule.reason,
        advice="likelihood=NAME sets another; vaelab models lists them",
    )


def _gray_levels(summary: Summary) -> Finding:
    return Finding(
        "DA002",
        "info",
        "a Bernoulli on gray levels is a loss, and no likelihood of the data",
        100 * summary.between,
        "% of the entries are neither 0 nor 1 after scaling",
        why="a Bernoulli gives probability to 0 and 1 alone, so its nats cannot be compared with those of other models",
        advice="likelihood=continuous_bernoulli, or data.binarize=dynamic",
    )


def _natural_scale(name: str, facts: _Facts) -> str:
    if name in ("gaussian", "laplace", "student_t"):
        return "standardize"
    return "unit" if name in ("bernoulli", "continuous_bernoulli") and facts.ceiling is not None else "none"


def _unit(facts: _Facts) -> Affine:
    low, high = facts.extent
    return Affine(0.0, facts.ceiling) if facts.ceiling is not None else Affine(low, (high - low) or 1.0)


def _standardize(facts: _Facts) -> Affine:
    summary = facts.trained_on
    if facts.source.layout == "image":  # one scale for all pixels keeps their contrasts comparable
        return standardising(*summary.overall, ())
    return standardising(summary.mean, summary.std, summary.shape)


def _refuse_where(
    source: Source, predicate: Callable[[np.ndarray], np.ndarray], kind: str, rule: str, fix: str
) -> None:
    """Raises at the first entry of which the predicate holds, and says where it is."""
    for part, rows in (("", source.train), ("test ", source.test)):
        done = 0
        for chunk in chunks(rows) if rows is not None else ():
            for row, *entry in np.argwhere(predicate(chunk))[:1]:
                where = place((done + row, *entry), source.columns)
                value = f" ({chunk[(row, *entry)]:.6g})"
                raise BadInput(source.name, f"{kind}{value} in {part}{where}", rule, fix)
            done += len(chunk)


def _is_missing(chunk: np.ndarray) -> np.ndarray:
    return np.isnan(chunk) if chunk.dtype.kind == "f" else np.empty((0, 1))


def _is_beyond(chunk: np.ndarray) -> np.ndarray:
    return np.abs(chunk) > FLOAT32_MAX if chunk.dtype.kind == "f" else np.empty((0, 1))


UNUSABLE = (
    (_is_missing, "a missing entry", "every entry must have a value", "fill it, or data.missing=model leaves it out"),
    (_is_beyond, "an entry", "must be finite and within float32", "correct it, or drop its row or column"),
)


def _binarisable(name: str, facts: _Facts) -> None:
    given = facts.config.data.binarize
    if given != "none" and name != "bernoulli":
        raise BadInput("likelihood.name", name, f"data.binarize={given} makes zeros and ones", "likelihood=bernoulli")
    if given == "dynamic" and facts.ceiling is None:
        low, high = facts.extent
        rule = f"needs probabilities, or levels of a known range, and the values go from {low:.6g} to {high:.6g}"
        raise BadInput("data.binarize", given, rule, "scale the values to [0, 1] first, or leave data.binarize out")


def _within_unit(name: str, facts: _Facts, transform: Affine) -> None:
    if transform.scale.numel() > 1:
        raise BadInput("data.scale", facts.scale, f"{name} needs values in [0, 1]", "data.scale=auto")
    low, high = ((value - transform.shift.item()) / transform.scale.item() for value in facts.extent)
    if low < 0 or high > 1 + 1e-6:
        fix = "data.scale=unit maps the range to [0, 1]; or likelihood=gaussian for real values"
        raise BadInput("likelihood.name", f"{name} for values from {low:.6g} to {high:.6g}", "needs [0, 1]", fix)


def _whole(name: str, facts: _Facts, transform: Affine) -> None:
    if not transform.is_identity:
        setting = "data.binarize" if facts.config.data.binarize != "none" else "data.scale"
        raise BadInput(
            setting,
            getattr(facts.config.data, setting[5:]),
            f"{name} takes whole numbers as they are",
            f"leave {setting} out",
        )
    rule, fix = f"{name} needs whole numbers of at least 0", "likelihood=gaussian for real values"
    _refuse_where(facts.source, lambda chunk: (chunk < 0) | (np.floor(chunk) < chunk), "an entry", rule, fix)


def _levels(name: str, facts: _Facts, transform: Affine) -> None:
    _whole(name, facts, transform)
    levels = facts.config.likelihood.levels
    rule, fix = f"{name} has the levels 0 to {levels - 1}", "a larger likelihood.levels, or likelihood=poisson"
    _refuse_where(facts.source, lambda chunk: chunk >= levels, "an entry", rule, fix)


CHECKS: dict[str, Callable[[str, _Facts, Affine], None]] = {
    "bernoulli": _within_unit,
    "continuous_bernoulli": _within_unit,
    **dict.fromkeys(("poisson", "negative_binomial", "zero_inflated_negative_binomial", "multinomial"), _whole),
    **dict.fromkeys(("categorical", "logistic_mixture", "beta_binomial"), _levels),
}
