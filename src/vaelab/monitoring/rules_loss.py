"""Rules about the curves of the loss: divergence, spikes, standstill, overfitting, clipping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..core.finding import Finding
from .readings import (
    FAST,
    FEW_POINTS,
    NATS,
    fastest,
    lower_rate,
    minimised,
    noise,
    ratio_words,
    remedy,
    smooth,
    total,
    usual_rate,
    worse_than_constant,
)
from .trace import Series, Trace

SLOW = 1e-4  # ten thousand steps in one direction move the weights by their norm; Adam's usual rate has ten times that
LOW_RATE = 1e-5  # where nothing but the rate is known: a hundredth of Adam's usual one
TARGETS = ("objective.target_rate", "objective.target_reconstruction")
DRIFT = 0.02  # of the best: a smooth curve has no noise, and drifts by as much at a good rate
DIVERGED = 0.5  # share of all that was gained, lost again by the end: no noise of batches does that


def diverged(trace: Trace) -> Iterator[Finding]:
    """The loss ends far above its best, or above that of a constant after steps that tore the weights apart."""
    loss = minimised(trace)
    values = loss.values[np.isfinite(loss.values)]
    if len(values) < 2 * FEW_POINTS:
        return
    wild = fastest(trace) > FAST
    curve, short = smooth(values), worse_than_constant(trace, errors=1 if wild else 3)
    best, end, start = curve.min(), curve[-1], curve[0]
    lost = end - best
    steered = any(trace.settings.get(target) is not None for target in TARGETS)  # a controller may raise the loss
    rose = not steered and lost > max(DIVERGED * max(start - best, 0.0), 10 * noise(values), DRIFT * abs(best))
    if rose or (short and wild):
        yield Finding(
            "TR120",
            "error",
            f"the learning rate is too high: {'the loss went up and stayed' if rose else 'nothing was learned'}",
            float(lost if rose else short),
            f"{NATS} above its best" if rose else f"{NATS} worse than a decoder that ignores z",
            evidence=f"best {best:.4g}, at the end {end:.4g}{ratio_words(trace)}",
            why="steps this long leave every minimum they find",
            **lower_rate(trace),
            expected="a loss that falls and stays",
        )


SPIKE = 20  # robust deviations above the running median: of normal noise none in any run, of heavy tails few
RISE = 0.5  # and by half of all that was gained since the first line, else it is no matter
RUNNING = 20  # points that the running median and deviation are taken over


def spikes(trace: Trace) -> Iterator[Finding]:
    """Steps whose loss stands far above its running median and comes back; the first fifth of a run is not settled."""
    highest, level = trace.get("loss_max", "loss"), trace.get("loss")
    found = [
        (step, value - median)
        for step, value, median, spread in _running(highest, level)
        if value - median > max(SPIKE * spread, RISE * abs(level.values[0] - median))
    ]
    if found:
        step, height = max(found, key=lambda pair: pair[1])
        yield Finding(
            "TR124",
            "warning",
            f"the loss spikes, worst in the steps up to {step:.0f}",
            float(height),
            "above its running median",
            evidence="highest loss of a single step against the median of the lines before",
            why="single batches with extreme rows, or a learning rate at the edge of stability",
            **remedy(
                trace, {"train.clip_norm": 1.0}, "clip the gradient's norm at 1, and look at the rows of those steps"
            ),
            expected="no step far above its neighbours",
        )


def _running(highest: Series, level: Series) -> Iterator[tuple[float, float, float, float]]:
    """Step, highest loss, running median and robust deviation of the lines before, after the first fifth."""
    if len(highest) != len(level):
        return
    for place in range(max(RUNNING // 2, len(level) // 5), len(level)):
        before, tops = (part.values[max(0, place - RUNNING) : place] for part in (level, highest))
        known = np.isfinite(before) & np.isfinite(tops)
        if not known.any() or not np.isfinite(highest.values[place]):
            continue
        median, middle = float(np.median(before[known])), float(np.median(tops[known]))
        spread = 1.4826 * float(np.median(np.abs(tops[known] - middle))) + middle - median
        yield float(level.steps[place]), float(highest.values[place]), median, max(spread, 1e-12)


STILL = 0.02  # less than 2 % between the first and the last tenth


def not_moving(trace: Trace) -> Iterator[Finding]:
    """Neither the loss nor the weights move: too low a rate, or nothing to be trained."""
    loss, ratios = minimised(trace), trace.get("update_ratio").values
    values = loss.values[np.isfinite(loss.values)]
    if len(values) < 2 * FEW_POINTS:
        return
    curve = smooth(values)
    moved = abs(curve[-1] - curve[0]) / max(abs(curve[0]), 1e-12)
    ratio = float(np.nanmedian(ratios)) if np.isfinite(ratios).any() else None
    rate = usual_rate(trace)
    slow = ratio < SLOW if ratio is not None else bool(rate) and rate < LOW_RATE
    falling = len(curve) > FEW_POINTS and curve[-FEW_POINTS] - curve[-1] > 0.05 * abs(curve[0] - curve[-1])
    if slow and fastest(trace) < FAST and (moved < STILL or falling or worse_than_constant(trace)):
        yield Finding(
            "TR126",
            "warning",
            f"the learning rate is too low: the loss {'does not move' if moved < STILL else 'has a long way to go'}",
            100 * float(moved),
            "% between the start and the end",
            evidence=f"a step moves the weights by {ratio:.1e} of their norm" if ratio is not None else "",
            why="at this pace the training would need many times as many steps",
            **remedy(trace, {"train.learning_rate": 1e-3}, "a learning rate of 1e-3 with Adam"),
            expected="a loss that falls from the first hundred steps on, and settles",
        )


def overfitting(trace: Trace) -> Iterator[Finding]:
    """The held-out loss rises from its best while the training loss still falls; annealing is not mistaken for it."""
    held, train = trace.get("held_out_loss").since(trace.warmup_ends), total(trace).since(trace.warmup_ends)
    if len(held) < FEW_POINTS or len(train) < FEW_POINTS or not np.isfinite(held.values).any():
        return
    best = int(np.nanargmin(held.values))
    at, value, end = held.steps[best], held.values[best], held.settled()
    errors = trace.get("held_out_error").since(trace.warmup_ends)
    error = errors.values[best] if len(errors) == len(held) else noise(held.values[np.isfinite(held.values)])
    rise, fell = end - value, _at(train, at) - train.settled()
    learned = max((trace.baseline if trace.baseline is not None else held.values[0]) - value, 1e-12)
    sure = rise > 3 * error or rise > max(error, LOST * learned, 3 * noise(held.values[np.isfinite(held.values)]))
    if sure and fell > 0 and held.steps[-1] > at:
        grave = rise > OVERFIT * learned
        yield Finding(
            "TR103",
            "warning" if grave else "info",
            "overfitting: the held-out loss rises while the training loss falls",
            float(rise),
            NATS,
            evidence=f"best at step {at:.0f}; the training loss fell by {fell:.3g} since; all that was learned is "
            f"{learned:.3g} nats" + ("; the weights of the best step are kept" if trace.ours else ""),
            why="the model goes on to learn the training rows by heart",
            **remedy(
                trace, _regularised(trace, at), "stop at the best step, or more weight decay, dropout, a smaller net"
            ),
            expected="a held-out loss that stays level after its best",
        )


LOST = 1.0  # all that was learned is lost again: few held-out rows may not prove it, but the curve does
OVERFIT = 0.25  # a quarter of all that was learned about new rows lost again: more data or less model is needed


def _regularised(trace: Trace, step: float) -> dict[str, Any]:
    """Less model: dropout and weight decay."""
    if trace.settings.get("model.dropout", 1) == 0:
        return {"model.dropout": 0.2, "train.weight_decay": 0.05}
    return {"train.steps": max(1, int(step))}


def _at(series: Series, step: float) -> float:
    """The value of a series at the point nearest to a step, the median of it and its neighbours."""
    place = int(np.argmin(np.abs(series.steps - step)))
    return float(np.nanmedian(series.values[max(0, place - 2) : place + 3]))


def clipped(trace: Trace) -> Iterator[Finding]:
    """Clipping in more than half of the steps means that its bound sets the step's length, not the gradient."""
    clipped = trace.get("clipped")
    later = clipped.values[len(clipped) // 5 :]  # the first steps of any run are clipped
    if len(later) and (share := float(np.nanmean(later))) > 0.5:
        yield Finding(
            "TR107",
            "info",
            "most gradients were clipped",
            100 * share,
            "% of steps after the first fifth",
            why="with Adam this is harmless unless the norm varies a lot: it only rescales what Adam rescales again",
            **remedy(trace, {"train.clip_norm": None}, "a higher bound, if the curve of the norm is flat"),
        )
