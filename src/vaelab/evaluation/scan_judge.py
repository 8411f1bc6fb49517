"""What follows from the runs of a scan: the best one, those that others beat, and how many dimensions data need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..core.finding import Finding
from ..measure.bound import ACTIVE_NATS
from ..measure.estimate import Estimate, mean_of
from .scan_runs import Reading

NATS = "nats per sample"


def envelope(rates: Sequence[float], distortions: Sequence[float]) -> list[bool]:
    """Which runs no other one beats: the steps of the monotonic lower envelope of the curve.

    Example:
        >>> envelope([3.0, 2.0, 1.0], [1.0, 4.0, 3.0])
        [True, False, True]
    """
    pairs = list(zip(rates, distortions, strict=True))
    return [
        bool(np.isfinite(one).all())
        and not any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in pairs)
        for one in pairs
    ]


def as_good(values: Sequence[float], elbos: Sequence[np.ndarray]) -> tuple[int, int]:
    """The smallest size whose ELBO is as good as the best one, and the best one, as places in ascending sizes.

    As good is: not behind by more than the 95 % error of the difference over rows, and `ACTIVE_NATS` for each dimension
    that the best one has more, since a dimension that brings less is not in use.

    Args:
        values: Sizes.
        elbos: Of each, [n], of the same rows.
    """
    best = int(np.argmax(np.nan_to_num([elbo.mean() for elbo in elbos], nan=-np.inf)))
    for place, elbo in enumerate(elbos):
        behind, fewer = mean_of(elbos[best] - elbo), max(values[best] - values[place], 0)
        if place == best or behind.low <= ACTIVE_NATS * fewer:
            break
    return place, best


def plateau(active: Sequence[Estimate]) -> int:
    """The first size at which as many units are in use as ever, give or take the undecided ones, as a place.

    Example:
        >>> plateau([Estimate(1.0, 0.0), Estimate(2.0, 0.0), Estimate(3.0, 0.0), Estimate(3.0, 1.0)])
        2
    """
    most = max(one.value for one in active)
    return next(place for place, one in enumerate(active) if one.high >= most)


def judge_betas(points: Sequence[Any], readings: Sequence[Reading], entries: int) -> Iterator[Finding]:
    """Where the bound is best, and which runs are off the curve."""
    best = min(points, key=lambda point: np.nan_to_num(point.negative_elbo.value, nan=np.inf))
    like = [f"{point.value:g}" for point in points if point is not best and point.behind.low <= 0]
    close = f"; not told from it: {', '.join(like)}" if like else ""
    yield Finding(
        "EV201",
        "info",
        f"the held-out bound at beta = 1 is best for beta = {best.value:g}",
        best.negative_elbo.value,
        f"{NATS}, negative ELBO",
        best.negative_elbo.interval,
        evidence=f"of {len(points)} runs on the same rows{close}",
        edit={"objective.beta": float(best.value)},
        expected="the lowest negative ELBO of this scan",
    )
    beaten = [(one, other) for one in range(len(points)) if (other := _beaten_by(one, readings)) is not None]
    for code, larger in (("EV202", True), ("EV203", False)):
        cases = [(one, other) for one, other in beaten if (points[one].value > points[other].value) == larger]
        if cases:
            yield _off_the_curve(code, points, readings, cases)


def _beaten_by(one: int, readings: Sequence[Reading]) -> int | None:
    """A run with less rate and less distortion, both beyond their errors over rows."""
    mine = readings[one]
    for place, other in enumerate(readings):
        ahead = mean_of(mine.rate - other.rate), mean_of(mine.distortion - other.distortion)
        if place != one and min(number.low for number in ahead) > 0:
            return place
    return None


def _off_the_curve(
    code: str, points: Sequence[Any], readings: Sequence[Reading], cases: Sequence[tuple[int, int]]
) -> Finding:
    """A larger beta that is beaten has not arrived; a smaller one paid for what only training rows have."""
    listed = ", ".join(f"{points[one].value:g} by {points[other].value:g}" for one, other in cases)
    lost = {pair: mean_of(readings[pair[1]].elbo - readings[pair[0]].elbo) for pair in cases}
    most = max(lost.values(), key=lambda number: number.value)
    measured = {"measured": most.value, "unit": f"{NATS} of rate and distortion", "interval": most.interval}
    evidence = f"both rate and distortion are higher beyond their errors: {listed}"
    if code == "EV202":
        return Finding(
            code,
            "warning",
            "a run is beaten in rate and distortion by one of smaller beta",
            **measured,
            evidence=evidence,
            why="at its own optimum a larger beta has the lower rate: this run has not come there",
            advice="twice train.steps in a new folder",
        )
    return Finding(
        code,
        "info",
        "a run is beaten in rate and distortion by one of larger beta",
        **measured,
        evidence=evidence,
        why="what the smaller beta spends on the code serves the training rows alone",
        advice="more data, or leave such betas out: the curve ends at the larger one",
    )


def judge_latents(points: Sequence[Any], readings: Sequence[Reading], entries: int) -> Iterator[Finding]:
    """How many dimensions the data need, by the bound and by active units."""
    sizes, units = [int(point.value) for point in points], [point.active_by_mean for point in points]
    place, best = as_good(sizes, [reading.elbo for reading in readings])
    reached, end = plateau(units), len(sizes) - 1
    more = sizes[end] < entries
    if more and place == end:
        yield Finding(
            "EV213",
            "warning",
            "the scan ends too early: its largest size has the best bound",
            float(sizes[end]),
            "dimensions at least",
            evidence=_behind(points, end - 1) if end else "",
            why="the rows vary in more directions than smaller codes hold, or the decoder's noise is too simple",
            advice=f"go on to latent = {2 * sizes[end]} in the same folder, which keeps its runs; where columns differ "
            "in their noise, likelihood.noise=pixel, since further dimensions else stand in for it",
        )
    else:
        yield _by_bound(points, place, best, len(readings[0].elbo))
    if units[reached].value < sizes[reached] or reached < end or not more:
        yield Finding(
            "EV212",
            "info",
            "units in use where more dimensions bring no more into use",
            units[reached].value,
            units[reached].unit,
            units[reached].interval or None,
            evidence=f"means of q that vary by more than 0.01 over rows, first reached at latent = {sizes[reached]}",
        )
    elif place < end:
        yield Finding(
            "EV214",
            "info",
            "every dimension is in use at all sizes, although the bound stops improving: units tell nothing here",
            units[end].value,
            units[end].unit,
            units[end].interval or None,
            evidence="means of q that vary by more than 0.01 over rows",
            why="spare dimensions are fitted to the noise of the training rows, or are not switched off yet",
            advice="go by the bound",
        )


def _by_bound(points: Sequence[Any], place: int, best: int, rows: int) -> Finding:
    smaller = f"; {_behind(points, place - 1)}" if place else ""
    return Finding(
        "EV211",
        "info",
        "smallest latent size whose held-out bound is as good as the best",
        float(points[place].value),
        "dimensions",
        evidence=f"the best is latent = {points[best].value:g}; {_behind(points, place)}{smaller}",
        edit={"model.latent": int(points[place].value)},
        expected=f"a bound as good as any of this scan, as far as {rows} held-out rows can tell",
    )


def _behind(points: Sequence[Any], place: int) -> str:
    number = points[place].behind
    return f"latent = {points[place].value:g} is {number.value:.3f} ± {number.interval:.2g} nats behind the best"
