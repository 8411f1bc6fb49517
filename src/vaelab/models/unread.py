"""Settings that nothing reads: set, not at their default, and without use beside the other settings of a config."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ..core.config import Config
from ..core.facts import Facts
from .parts import NEGATIVE_BINOMIALS, READERS

WEIGHTED, UNWEIGHED = {"iwae", "miwae", "ciwae", "dreg"}, {"wae", "wae_gan"}
SPREADS = {"dip_i", "dip_ii"}
WITH_NOISE = {"gaussian", "laplace", "student_t"}
BOOKS = {"vq", "residual_vq"}  # of vectors
DETERMINISTIC = {*BOOKS, "fsq"}  # codes without noise


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


def _beside(setting: str, names: Collection[str]) -> Callable[[Config], bool]:
    """Whether a setting is one of these."""
    return lambda config: _value(config, setting) in names


def _without(setting: str, names: Collection[str]) -> Callable[[Config], bool]:
    """Whether a setting is none of these."""
    return lambda config: _value(config, setting) not in names


# Settings, when nothing reads them, why not, and what to do.
UNREAD: tuple[tuple[tuple[str, ...], Callable[[Config], bool], str, str], ...] = (
    (
        ("objective.free_bits", "objective.capacity", "objective.balance"),
        _beside("objective.name", WEIGHTED),
        "an importance-weighted bound has no divergence apart from the rest",
        "objective.name=elbo has one",
    ),
    (
        tuple(
            f"objective.{key}"
            for key in ("beta", "anneal", "free_bits", "capacity", "target_rate", "target_reconstruction", "balance")
        ),
        _beside("objective.name", UNWEIGHED),
        "a Wasserstein autoencoder has no divergence of each row",
        "objective.penalty weighs the term of its own",
    ),
    (
        tuple(f"objective.{key}" for key in ("beta", "anneal", "warmup_steps", "free_bits", "capacity")),
        _beside("model.posterior", DETERMINISTIC),
        "the divergence of a deterministic code is a constant, which no weight or floor moves",
        "leave it at its default; model.commitment and the size of the book act",
    ),
    (
        ("train.on_collapse",),
        lambda config: config.model.posterior in DETERMINISTIC or config.objective.name in UNWEIGHED,
        "there is no weight of a divergence that could rise again",
        "leave it at none",
    ),
    (
        ("objective.penalty",),
        _beside("objective.name", {"elbo", *WEIGHTED}),
        "this objective has no term of its own",
        "objective.beta weighs the divergence",
    ),
    (
        ("objective.diagonal",),
        _without("objective.name", SPREADS),
        "only dip_i and dip_ii weigh variances",
        "leave it at null",
    ),
    (("objective.outer",), _without("objective.name", {"miwae"}), "it is for miwae alone", "objective=miwae"),
    (("objective.mix",), _without("objective.name", {"ciwae"}), "it is for ciwae alone", "objective=ciwae"),
    (("objective.estimator",), _without("objective.name", {"beta_tc"}), "it is for beta_tc alone", "objective=beta_tc"),
    (
        ("objective.kernel",),
        _without("objective.name", {"info", "wae"}),
        "only info and wae measure a discrepancy with a kernel",
        "leave it out",
    ),
    (
        ("model.word_dropout",),
        _without("model.decoder", READERS),
        "this decoder does not read its own output",
        f"model.decoder={', '.join(READERS)} do",
    ),
    (
        ("model.classifier_weight",),
        _beside("model.missing_labels", {"refuse"}),
        "only a model of labels that may be missing has a classifier",
        "model.missing_labels=marginal or gumbel",
    ),
    (
        ("model.temperature",),
        lambda config: "gumbel" not in (config.model.posterior, config.model.missing_labels),
        "nothing is drawn by Gumbel-softmax",
        "model.posterior=gumbel or model.missing_labels=gumbel",
    ),
    (
        ("model.codebook", "model.code_size"),
        _without("model.posterior", {*BOOKS, "gumbel"}),
        "this posterior has no book of vectors",
        "model.posterior=vq, residual_vq or gumbel",
    ),
    (("model.code_levels",), _without("model.posterior", {"fsq"}), "it is for fsq alone", "model.posterior=fsq"),
    (
        ("model.quantizers",),
        _without("model.posterior", {"residual_vq"}),
        "it is for residual_vq alone",
        "model.posterior=residual_vq",
    ),
    (
        ("model.commitment",),
        _without("model.posterior", BOOKS),
        "only vq and residual_vq keep an encoder near its codes",
        "leave it out",
    ),
    (
        ("model.flow_steps", "model.flow_hidden"),
        _without("model.posterior", {"iaf", "coupling", "spline"}),
        "this posterior is no flow",
        "model.posterior=iaf, coupling or spline",
    ),
    (
        ("prior.components",),
        lambda config: config.prior.name not in ("mixture", "vamp", "exemplar") and config.prior.after != "gmm",
        "this prior has no components",
        "prior=mixture, vamp or exemplar, or prior.after=gmm",
    ),
    (
        ("prior.steps",),
        lambda config: "flow" not in (config.prior.name, config.prior.after),
        "this prior is no flow",
        "prior=flow or prior.after=flow",
    ),
    (
        ("prior.after_steps",),
        _beside("prior.after", {"none", "gmm"}),
        "no prior is fitted in steps after training",
        "prior.after names one; gmm takes no steps",
    ),
    (
        ("likelihood.noise", "likelihood.sigma"),
        _without("likelihood.name", WITH_NOISE),
        "this likelihood has no noise that is added to a mean",
        "likelihood=gaussian, laplace or student_t",
    ),
    (
        ("likelihood.floor",),
        _beside("likelihood.noise", {"shared", "fixed", "pixel", "optimal"}),
        "only deviations that are learned for each entry have a floor",
        "likelihood.floor=0, or likelihood.noise=feature",
    ),
    (
        ("likelihood.components",),
        _without("likelihood.name", {"logistic_mixture", "mixed"}),
        "this likelihood has no components",
        "likelihood=logistic_mixture or mixed",
    ),
    (
        ("likelihood.levels",),
        _without("likelihood.name", {"categorical", "logistic_mixture", "beta_binomial"}),
        "this likelihood is over no fixed number of levels",
        "likelihood=categorical, logistic_mixture or beta_binomial",
    ),
    (
        ("likelihood.library", "likelihood.dispersion"),
        _without("likelihood.name", NEGATIVE_BINOMIALS),
        "it is for negative binomials alone",
        "likelihood=negative_binomial or zero_inflated_negative_binomial",
    ),
)


def read_by(setting: str, name: str) -> list[str]:
    """The settings that are read where another one has this name, and not by default, each with its default value.

    Example:
        >>> read_by("prior.after", "flow")
        ['prior.steps=4', 'prior.after_steps=3000']
    """
    plain = Config()
    section, _, key = setting.partition(".")
    given = getattr(plain, section).model_copy(update={key: name})
    chosen = plain.model_copy(update={section: given})
    return [
        f"{other}={_value(plain, other)}"
        for settings, unread, _, _ in UNREAD
        if unread(plain) and not unread(chosen)
        for other in settings
    ]


def changed(config: Config, section: str) -> list[str]:
    """The dotted names of a section's settings that are not at their default."""
    values = getattr(config, section)
    return [f"{section}.{key}" for key in type(values).model_fields if _is_set(config, f"{section}.{key}")]


def _value(config: Config, setting: str) -> Any:
    section, _, key = setting.partition(".")
    return getattr(getattr(config, section), key)


def _is_set(config: Config, setting: str) -> bool:
    """Whether a setting is not at its default."""
    section, _, key = setting.partition(".")
    values = getattr(config, section)
    return bool(getattr(values, key) != type(values).model_fields[key].default)


def _in_vain(setting: str, unread: Callable[[Config], bool]) -> Callable[[Config, Facts], bool]:
    return lambda config, facts: _is_set(config, setting) and unread(config)


# Rules that read settings alone, so that what a finding advises can be held against them.
OF_SETTINGS = [
    Rule(setting, _in_vain(setting, unread), rule, fix)
    for settings, unread, rule, fix in UNREAD
    for setting in settings
]
