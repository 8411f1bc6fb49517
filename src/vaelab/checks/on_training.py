"""What takes some steps to see: one batch learned by heart, the same seed twice, memory and time."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..core.finding import Finding
from ..core.units import readable_bytes
from ..data.tables import listed
from .step import SAFE_RATE, Step, gradients, stepped, trainable, undisturbed, watch

OVERFIT_ROWS, OVERFIT_STEPS = 32, 80
LEAST_FALL = 0.002  # of the loss's size; a usual rate brings 10 % and more, one of 1e-5 still this much
SMALL_LOSS = 0.1  # nats an entry: a loss that happens to start near 0 is no small one
TIMED_STEPS = 5


def check_training(step: Step) -> list[Finding]:
    """What takes some steps: one batch learned by heart, the same seed twice, memory and time."""
    return [*_same_step(step), *_overfit(step), *_cost(step)]


def _same_step(step: Step) -> Iterator[Finding]:
    with undisturbed(step.model, step.seed):
        first = watch(step)
        random.seed(step.seed), np.random.seed(step.seed)  # training seeds PyTorch's generators alone
        second = watch(step)
    differs = [n for n, g in first.gradients.items() if g is not None and not _same(g, second.gradients[n])]
    if differs:
        yield Finding(
            "CH115",
            "warning",
            f"the same seed gives another step: {listed(differs)}",
            float(len(differs)),
            f"of {len(first.gradients)} gradients differ",
            evidence="the same weights, batch and seed twice, compared bit by bit",
            why="something draws from a generator that is not seeded, or an operation sums in an order that depends on "
            "timing",
            advice="draw with torch's own generators, and train.deterministic=true",
            expected="the same run from the same seed",
        )


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and torch.equal(one, other)


def _overfit(step: Step) -> Iterator[Finding]:
    """Some steps of Adam on a few rows: the loss has to fall, and a safe rate tells the rate from the wiring."""
    fall = _fall(step, step.rate)
    if fall is None or fall > LEAST_FALL:
        return
    safe = _fall(step, SAFE_RATE) or 0.0
    measured = 100 * fall if math.isfinite(fall) else None
    evidence = "the loss does not stay finite " if measured is None else ""
    evidence += f"at a rate of {step.rate:g}; at {SAFE_RATE:g} it is {100 * safe:.3g} %"
    unit = f"% less loss after {OVERFIT_STEPS} steps on the same {min(OVERFIT_ROWS, len(step.batch))} rows"
    if safe > LEAST_FALL:
        high = step.rate > SAFE_RATE
        yield Finding(
            "CH116" if high else "CH117",
            "warning",
            f"the learning rate is too {'high' if high else 'low'}",
            measured,
            unit,
            evidence=evidence,
            why="the steps overshoot" if high else "the steps are too small to move the weights",
            edit={"train.learning_rate": SAFE_RATE},
            expected="a loss that falls from the first steps on",
        )
        return
    yield Finding(
        "CH118",
        "error",
        "a few rows cannot be learned by heart",
        measured,
        unit,
        evidence=evidence,
        why="no rate lets the loss fall, so the gradient does not lead down it",
        advice="look for dead units, a cut graph, or a loss whose sign is turned",
        expected="a loss that falls from the first steps on",
    )


def _fall(step: Step, rate: float) -> float | None:
    """Fall of the loss over its size; -inf where it became non-finite, None where there is no copy to train."""
    done = stepped(step, OVERFIT_STEPS, rate, OVERFIT_ROWS)
    if done is None or not done[1]:
        return None
    start, end = done[1][0], statistics.fmean(done[1][-5:])
    size = max(abs(start), SMALL_LOSS * step.batch[0].numel())
    return (start - end) / size if math.isfinite(end) else -math.inf


def _cost(step: Step) -> Iterator[Finding]:
    count = sum(p.numel() for p in step.model.parameters())
    size = sum(p.numel() * p.element_size() * (4 if p.requires_grad else 1) for p in step.model.parameters())
    yield Finding(
        "CH119",
        "info",
        f"{count} parameters; weights, gradients and Adam's averages take {readable_bytes(size)}",
        1000 * statistics.median(_seconds(step) for _ in range(TIMED_STEPS)),
        f"ms for {len(step.batch)} rows forward and back",
        evidence=f"the median of {TIMED_STEPS} steps",
    )


def _seconds(step: Step) -> float:
    parameters = trainable(step.model)
    with undisturbed(step.model, step.seed), torch.enable_grad():
        step.model.train()
        begin = time.perf_counter()
        gradients(step.loss(step.model, step.batch), parameters)
        return time.perf_counter() - begin
