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


def ends(number: Estimate, size: int) -> tuple[float, float]:
    """Between which counts of a number of dimensions lies: undecided ones go no further than none and all of them.

    Example:
        >>> ends(Estimate(3.0, 9.0, "dimensions"), 8)
        (0.0, 8.0)
    """
    return max(number.low, 0.0), min(number.high, float(size))


def judge_betas(points: Sequence[Any], readings: Sequence[Reading], entries: int) -> Iterator[Finding]:
    """Where the bound is best, and which runs are off the curve."""
    if (count := _measured(points)) < 2:
        yield _nothing_to_compare(count)
        return
    yield _best_beta(points)
    beaten = [(one, other) for one in range(len(points)) if (other := _beaten_by(one, readings)) is not None]
    for code, larger in (("EV202", True), ("EV203", False)):
        cases = [(one, other) for one, other in beaten if (points[one].value > points[other].value) == larger]
        if cases:
            yield _off_the_curve(code, points, readings, cases)


def _measured(points: Sequence[Any]) -> int:
    return int(np.isfinite([point.negative_elbo.value for point in points]).sum())


def _nothing_to_compare(count: int) -> Finding:
    return Finding(
        "EV200",
        "info",
        "no advice follows: it takes two runs with a finite bound to compare",
        float(count),
        _in_number(count, "run"),
        advice="further values in the same folder, which keeps its runs",
    )


def _best_beta(points: Sequence[Any]) -> Finding:
    """The best run by its bound; at an end of the scan it may be better still beyond, and is no advice yet."""
    place = int(np.argmin([np.nan_to_num(point.negative_elbo.value, nan=np.inf) for point in points]))
    best = points[place]
    like = [f"{point.value:g}" for point in points if point is not best and point.behind.low <= 0]
    close = f"; not told from it: {', '.join(like)}" if like else ""
    measured: dict[str, Any] = {
        "measured": best.negative_elbo.value,
        "unit": f"{NATS}, negative ELBO",
        "interval": best.negative_elbo.interval,
        "evidence": f"of {len(points)} runs on the same rows{close}",
    }
    if 0 < place < len(points) - 1:
        return Finding(
            "EV201",
            "info",
            f"the held-out bound at beta = 1 is best for beta = {best.value:g}",
            **measured,
            edit={"objective.beta": float(best.value)},
            expected="the lowest negative ELBO of this scan",
        )
    further = 2 * best.value if place else (best.value or points[1].value) / 2
    free = "beta = 0 leaves the codes free of the prior, whose samples then mean nothing: it is no advice"
    return Finding(
        "EV204",
        "info",
        f"the held-out bound at beta = 1 is best where the scan ends: beta = {best.value:g} is the "
        f"{'largest' if place else 'smallest'} tried",
        **measured,
        why=f"a {'larger' if place else 'smaller'} one may be better still" if best.value else free,
        advice=f"go on to beta = {further:g} in the same folder, which keeps its runs",
    )


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
    """How many dimensions the data need: the answer of the bound, then what the active units say of it."""
    if (count := _measured(points)) < 2:
        yield _nothing_to_compare(count)
        return
    sizes, units = [int(point.value) for point in points], [point.active_by_mean for point in points]
    place, best = as_good(sizes, [reading.elbo for reading in readings])
    reached, end = plateau(units), len(sizes) - 1
    more = sizes[end] < entries
    open_ended = more and place == end
    yield _too_early(points, entries) if open_ended else _by_bound(points, place, best, len(readings[0].elbo))
    if units[reached].value < sizes[reached] or reached < end or not more:
        yield _by_units(units[reached], sizes, reached, None if open_ended else place)
    elif place < end:
        yield Finding(
            "EV214",
            "info",
            "second reading: every dimension is in use at all sizes, although the bound stops improving",
            units[end].value,
            units[end].unit,
            _half_width(units[end], sizes[end]),
            evidence="means of q that vary by more than 0.01 over rows",
            why="spare dimensions are fitted to the noise of the training rows, or are not switched off yet",
            advice="trust EV211, the bound: units tell nothing here",
        )


def _too_early(points: Sequence[Any], entries: int) -> Finding:
    largest = int(points[-1].value)
    return Finding(
        "EV213",
        "warning",
        "the scan ends too early: its largest size has the best bound",
        float(largest),
        f"{_in_number(largest, 'dimension')} at least",
        evidence=_behind(points, len(points) - 2),
        why="the rows vary in more directions than smaller codes hold, or the decoder's noise is too simple",
        advice=f"go on to latent = {min(2 * largest, entries)} in the same folder, which keeps its runs; where columns "
        "differ in their noise, likelihood.noise=pixel, since further dimensions else stand in for it",
    )


def _by_bound(points: Sequence[Any], place: int, best: int, rows: int) -> Finding:
    """The answer; one below which nothing was tried is a ceiling and no advice yet."""
    size, smaller = int(points[place].value), f"; {_behind(points, place - 1)}" if place else ""
    ceiling = place == 0 and size > 1
    expected = f"a bound as good as any of this scan, as far as {rows} held-out rows can tell"
    further = f"go on to latent = {size // 2} in the same folder, which keeps its runs: the scan ends here"
    return Finding(
        "EV211",
        "info",
        "smallest latent size whose held-out bound is as good as the best",
        float(size),
        _in_number(size, "dimension") + " at most" * ceiling,
        evidence=f"the best is latent = {points[best].value:g}; {_behind(points, place)}{smaller}",
        advice=further if ceiling else "",
        edit={} if ceiling else {"model.latent": size},
        expected="" if ceiling else expected,
    )


def _by_units(number: Estimate, sizes: Sequence[int], reached: int, place: int | None) -> Finding:
    """The second reading beside the answer of the bound.

    Args:
        reached: Where units stop, as a place in the sizes.
        place: Of the bound's answer; None: it is beyond the largest size.
    """
    low, high = ends(number, sizes[reached])
    if place is None:
        why, advice = "dimensions stay unused while the bound still improves", "trust EV213, the bound"
    elif low <= sizes[place] and high > (sizes[place - 1] if place else 0):
        why, advice = "it agrees with EV211, as far as the sizes tried and the undecided units can tell", ""
    elif low > sizes[place]:
        why = "a unit counts once its mean follows the rows, also where no gain in the bound can be seen"
        advice = "trust EV211, the bound; with more held-out rows it tells smaller gains"
    else:
        why = "the larger size was trained to a better bound, although it leaves dimensions unused"
        advice = "trust EV211, the bound"
    return Finding(
        "EV212",
        "info",
        "second reading: units in use where more dimensions bring no more into use",
        number.value,
        _in_number(number.value, "dimension"),
        _half_width(number, sizes[reached]),
        evidence=f"means of q that vary by more than 0.01 over rows, first reached at latent = {sizes[reached]}",
        why=why,
        advice=advice,
    )


def _half_width(number: Estimate, size: int) -> float | None:
    low, high = ends(number, size)
    return max(number.value - low, high - number.value) or None


def _in_number(count: float, what: str) -> str:
    return what if count == 1 else f"{what}s"


def _behind(points: Sequence[Any], place: int) -> str:
    number = points[place].behind
    return f"latent = {points[place].value:g} is {number.value:.3f} ± {number.interval:.2g} nats behind the best"
