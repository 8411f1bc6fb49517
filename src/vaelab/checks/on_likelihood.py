"""Likelihoods that do not fit the data: a table of mistakes, each with the number that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..core.finding import Finding, Severity
from .facts import Facts

TWO_VALUED = 0.999  # share of entries at the two ends from which the data are zeros and ones
REAL_VALUED = 0.1  # share of entries at the ends, up to which columns are no ink on blank paper
MANY_ZEROS = 0.6  # a normal density has no place for so many equal values; gray digits have a half
FEW_LEVELS = 8  # times as many levels as are in use
NARROW_COUNTS = 0.2  # variance over mean, far below a Poisson's 1, which no rate per row can bring down
WIDE_COUNTS = 10.0  # variance over mean that rates per row would have to explain

REAL = ("gaussian", "laplace", "student_t")
ENDS = "% of the entries lie at the two ends of the range"
DISPERSION = "variance over mean, the median column"


@dataclass(frozen=True)
class _Mistake:
    """A likelihood that does not fit, when that is so, and what to say."""

    code: str
    likelihoods: tuple[str, ...]
    applies: Callable[[Facts], bool]
    title: str
    measure: Callable[[Facts], float]
    unit: str
    why: str
    edit: dict[str, Any] = field(default_factory=dict)
    advice: str = ""
    expected: str = ""
    severity: Severity = "warning"


def wrong_likelihood(facts: Facts) -> Iterator[Finding]:
    """The first mistake that applies."""
    for mistake in MISTAKES:
        if facts.likelihood in mistake.likelihoods and mistake.applies(facts):
            yield Finding(
                mistake.code,
                mistake.severity,
                mistake.title,
                mistake.measure(facts),
                mistake.unit,
                evidence=f"{len(facts.x)} training rows",
                why=mistake.why,
                advice=mistake.advice,
                edit=mistake.edit,
                expected=mistake.expected,
            )
            return


def _two_valued(facts: Facts) -> bool:
    return facts.ends > TWO_VALUED


def _at_ends(facts: Facts) -> float:
    return 100 * facts.ends


def _sparse_counts(facts: Facts) -> bool:
    """Whole numbers of at least 0 without a known range, mostly zeros."""
    return facts.whole and facts.raw.min() >= 0 and facts.spec.top is None and facts.zeros > MANY_ZEROS


MISTAKES = (
    _Mistake(
        "DA129",
        REAL,
        _two_valued,
        "a density of real numbers on zeros and ones",
        _at_ends,
        ENDS,
        "a density on two values grows without bound as its noise shrinks, so its nats measure no fit",
        edit={"likelihood.name": "bernoulli", "data.scale": "unit"},
        expected="nats of a mass: at least 0, and below D ln 2 for a model that has learned anything",
    ),
    _Mistake(
        "DA130",
        REAL,
        _sparse_counts,
        "a density of real numbers on counts that are mostly zero",
        lambda facts: 100 * facts.zeros,
        "% of the entries are 0",
        "it covers numbers that counts never take, and has one width for zeros and for large counts",
        edit={"likelihood.name": "poisson", "data.scale": "auto"},
        expected="nats of a mass over whole numbers, and samples without negative counts",
    ),
    _Mistake(
        "DA131",
        ("bernoulli",),
        lambda facts: facts.is_table and facts.ends < REAL_VALUED,
        "a Bernoulli on columns of real numbers",
        _at_ends,
        ENDS,
        "a Bernoulli gives probability to 0 and 1 alone; between them it is a cross-entropy that never comes near 0",
        edit={"likelihood.name": "gaussian", "data.scale": "auto"},
        expected="a density of the columns themselves, with a noise that is learned",
    ),
    _Mistake(
        "DA132",
        ("continuous_bernoulli",),
        _two_valued,
        "a density on [0, 1] for zeros and ones",
        _at_ends,
        ENDS,
        "a density grows without bound at the two ends, where all the values lie, so its nats measure no fit",
        edit={"likelihood.name": "bernoulli", "data.scale": "unit"},
        expected="nats of a mass, at least 0",
    ),
    _Mistake(
        "DA133",
        ("continuous_bernoulli",),
        lambda facts: facts.ends > REAL_VALUED,
        "a density on [0, 1] for values piled up at its ends",
        _at_ends,
        ENDS,
        "the density gains at the ends whatever it loses between them, which makes the nats low without a better fit",
        advice="compare its nats with those of the same likelihood only; likelihood=gaussian keeps one noise for all",
        severity="info",
    ),
    _Mistake(
        "DA134",
        ("poisson", "negative_binomial", "zero_inflated_negative_binomial"),
        lambda facts: facts.dispersion < NARROW_COUNTS,
        "a mass of counts on numbers that vary less than counts do",
        lambda facts: facts.dispersion,
        DISPERSION,
        "a Poisson's variance is its mean; rates that differ from row to row, and any dispersion, only add to it",
        edit={"likelihood.name": "gaussian", "data.scale": "auto"},
        expected="noise as narrow as the data's own",
    ),
    _Mistake(
        "DA135",
        ("poisson",),
        lambda facts: facts.dispersion > WIDE_COUNTS,
        "counts that vary far more than a Poisson of one rate",
        lambda facts: facts.dispersion,
        DISPERSION,
        "the code of a row has to explain the rest, and where it cannot, samples vary too little",
        edit={"likelihood.name": "negative_binomial"},
        expected="a spread of its own for each count, and a lower bound where the code cannot explain it",
        severity="info",
    ),
    _Mistake(
        "DA136",
        ("categorical", "logistic_mixture", "beta_binomial"),
        lambda facts: FEW_LEVELS * (facts.x.max() + 1) <= facts.module.levels,
        "few of the levels are in use",
        lambda facts: facts.x.max() + 1,
        "levels up to the highest value",
        "mass on levels that never come only learns to be zero, and a categorical has a number for each of them",
        advice="likelihood.levels as high as the data can go; or likelihood=poisson or bernoulli where they fit",
        severity="info",
    ),
)
