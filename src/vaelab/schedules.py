"""Schedules: pure functions from a step to a float, for the weights of an objective and for the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


def _sigmoid(progress: float) -> float:
    """A logistic curve rescaled so that it starts at exactly 0 and ends at exactly 1."""
    low, high = 1 / (1 + math.exp(6)), 1 / (1 + math.exp(-6))
    return (1 / (1 + math.exp(-12 * (progress - 0.5))) - low) / (high - low)


SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: progress,
    "cosine": lambda progress: 0.5 * (1 - math.cos(math.pi * progress)),
    "sigmoid": _sigmoid,
    # Rises in the first half of a cycle and then holds: Fu, Li, Liu, Gao, Celikyilmaz, Carin, Cyclical Annealing
    # Schedule: A Simple Approach to Mitigating KL Vanishing, 2019.
    "cyclical": lambda progress: min(1.0, 2 * progress),
}


@dataclass(frozen=True)
class Schedule:
    """A value that goes from `start` to `end` over `steps` steps, `cycles` times over, and then stays at `end`.

    Args:
        shape: A key of `SHAPES`.
        start: Value at step 0 (of every cycle).
        end: Value from step `steps * cycles` on.
        steps: Length of one cycle; 0 means `end` from the beginning.
        cycles: How often the rise is repeated.

    Example:
        >>> warmup = Schedule("linear", 0.0, 1.0, steps=100)
        >>> warmup(0), warmup(50), warmup(100), warmup(10_000)
        (0.0, 0.5, 1.0, 1.0)
    """

    shape: str
    start: float
    end: float
    steps: int = 0
    cycles: int = 1

    @property
    def ends(self) -> int:
        """The first step from which the value no longer moves."""
        return 0 if self.shape == "constant" else self.steps * self.cycles

    def __call__(self, step: int) -> float:
        if step >= self.ends:
            return self.end
        progress = (step % self.steps) / self.steps
        return self.start + (self.end - self.start) * SHAPES[self.shape](progress)


def constant(value: float) -> Schedule:
    """The same value at every step.

    Example:
        >>> constant(4.0)(123)
        4.0
    """
    return Schedule("constant", value, value)


def linear(start: float, end: float, steps: int) -> Schedule:
    """A straight line over `steps` steps."""
    return Schedule("linear", start, end, steps)


def cosine(start: float, end: float, steps: int) -> Schedule:
    """Half a cosine wave over `steps` steps: slow, fast, slow."""
    return Schedule("cosine", start, end, steps)


def sigmoid(start: float, end: float, steps: int) -> Schedule:
    """A logistic curve over `steps` steps."""
    return Schedule("sigmoid", start, end, steps)


def cyclical(start: float, end: float, steps: int, cycles: int = 4) -> Schedule:
    """`cycles` cycles of `steps` steps, each rising linearly in its first half and holding in its second."""
    return Schedule("cyclical", start, end, steps, cycles)
