"""What the numbers of an evaluation say about themselves: how loose a bound is, and what it may be compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..core.batch import rows_of
from ..core.finding import Finding
from ..measure.estimate import Estimate, mean_of
from ..measure.importance import Bound
from .rows import Taken

LOOSE_NATS = 0.1  # gained by the second half of the samples: the papers' tables are read to a tenth of a nat
HEAVY_TAIL = 0.7  # of k-hat: above it a mean of weights converges too slowly to be used (Vehtari et al., 2024)
HEAVY_SHARE, MOST_ROWS_HEAVY = 0.1, 0.5  # of rows with such weights: worth a note; the mean itself rests on them
WIDE_NATS = 1.0  # between the two sides of annealed importance sampling


def judge_bound(bound: Bound) -> Iterator[Finding]:
    """The bound itself, whether every row has one, and whether it is loose."""
    impossible = np.isneginf(bound.values)
    if impossible.any():
        yield Finding(
            "EV103",
            "error",
            "rows that the model holds impossible: log p(x) is minus infinity",
            float(impossible.sum()),
            f"of {len(impossible)} rows",
            evidence=f"the first is row {int(impossible.argmax())}",
            why="their density is 0 at every draw of z: they are far outside of what was trained on",
            advice="look at these rows; units or scale may differ from the training rows'",
        )
        return
    mean = bound.estimate
    yield Finding(
        "EV100",
        "ok",
        f"log p(x) is at least, with K = {bound.samples}",
        mean.value,
        bound.unit,
        mean.interval if len(bound.values) > 1 else None,
        evidence=f"importance-weighted bound over {len(bound.values)} rows",
    )
    if bound.samples < 2:
        return
    gain = bound.gain
    if gain.low > LOOSE_NATS:
        yield Finding(
            "EV101",
            "warning",
            "the bound is loose: it still grows with the number of samples",
            gain.value,
            f"nats from K = {bound.samples // 2} to {bound.samples}",
            gain.interval,
            evidence="mean over rows of the bound with all samples minus the bound with half of them",
            why="few of the encoder's draws fall where the posterior has its mass",
            advice="more --samples, or --ais for a bound that anneals from the encoder to the posterior",
        )
    heavy = mean_of((bound.k_hat > HEAVY_TAIL).astype(np.float64), f"of the rows have k-hat above {HEAVY_TAIL}")
    if np.isfinite(bound.k_hat).any() and heavy.value > HEAVY_SHARE:
        yield Finding(
            "EV102",
            "warning" if heavy.value > MOST_ROWS_HEAVY else "info",
            "a few weights carry the sum in many rows",
            heavy.value,
            heavy.unit,
            heavy.interval,
            evidence="shape of a generalised Pareto distribution fitted to the largest weights of each row",
            why="the value is still a bound, but so heavy a tail hides how loose it is: its gain and its error for "
            "these rows are understated",
            advice="--ais, which says how much is missing",
        )


def judge_rows(run: Any, taken: Taken, dequantized: bool) -> Iterator[Finding]:
    """What the rows and the likelihood make of the numbers."""
    if taken.trained_on:
        yield Finding(
            "EV113",
            "warning",
            "rows that equal training rows are among them",
            float(taken.trained_on),
            f"of {len(taken.x)} rows",
            why="a model has seen them, so that their numbers are better than those of new rows",
            advice="leave the rows out, which takes the held-out ones of the run",
        )
    if taken.kept_only:
        yield Finding(
            "EV110",
            "info",
            "measured on the held-out rows that the run folder keeps",
            float(len(taken.x)),
            f"rows of {run.spec.held_out_rows}",
            why=taken.kept_only,
            advice="name the rows: vaelab evaluate RUN FILE",
        )
    if not run.is_mass and taken.whole and not dequantized:
        yield Finding(
            "EV111",
            "info",
            "a density of whole numbers, which is no code length",
            why="a density can be made as high as one likes on values that repeat exactly",
            advice="compare it with densities of the same rows alone; --dequantize gives a bound on a log-mass",
        )
    x = rows_of(taken.x)
    if run.config.likelihood.name == "bernoulli" and bool(((x != 0) & (x != 1)).any()):
        yield Finding(
            "EV112",
            "warning",
            "a cross-entropy of gray levels, which is no likelihood",
            float(((x != 0) & (x != 1)).double().mean()),
            "of the entries are neither 0 nor 1",
            why="a Bernoulli has mass on 0 and 1 alone, and its form over [0, 1] does not integrate to one",
            advice="data.binarize=dynamic for numbers that stand beside the literature's",
        )


def judge_bracket(bracket: Any, gap: Estimate | None) -> Iterator[Finding]:
    """How far apart the two sides of annealed importance sampling are."""
    lower = mean_of(bracket.lower, bracket.unit)
    yield Finding(
        "EV120",
        "ok",
        "log p(x) is at least, by annealed importance sampling",
        lower.value,
        bracket.unit,
        lower.interval,
        evidence=f"{len(bracket.lower)} rows",
    )
    if gap is not None and gap.value > WIDE_NATS:
        yield Finding(
            "EV121",
            "warning",
            "the two sides of annealed importance sampling are far apart",
            gap.value,
            gap.unit,
            gap.interval,
            evidence="rows drawn from the model itself, for which the upper side starts at their true codes",
            why="the chains do not reach the posterior in so many steps",
            advice="more --steps; twice as many about halve the gap",
        )


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, warnings, then the rest, each in their order."""
    rank = {"error": 0, "warning": 1, "info": 2, "ok": 3}
    return sorted(findings, key=lambda finding: rank[finding.severity])
