"""What the rules of a diagnosis read, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.config import Config
from ..core.finding import Finding
from ..measure.bound import ACTIVE_NATS
from ..measure.estimate import Estimate
from .measured import Numbers

DEAF = 0.2  # nats a row that the right code gains over another row's: ten dimensions at the limit of being in use
HIGH_BETA, LOW_BETA = 1.5, 0.5  # a weight of the divergence between these is a matter of taste
FAST = 1e-2  # ten times the usual learning rate
MANY_ROWS = 50  # fewer say too little of shapes of distributions


@dataclass(frozen=True)
class Case:
    """What the rules read.

    Args:
        config: The resolved config.
        numbers: Of `measure`.
        rows: Held-out rows looked at.
        beta: Weight of the divergence in the last steps.
        fixed_noise: Whether the decoder's noise is given and not learned.
        counts: Whether the likelihood is one of counts.
        image: Whether rows are images.
    """

    config: Config
    numbers: Numbers
    rows: int
    beta: float
    fixed_noise: bool
    counts: bool
    image: bool

    def value(self, name: str, missing: Any = np.nan) -> Any:
        """A number's value; comparisons with NaN, where it is missing, are false."""
        return self.numbers[name].value if name in self.numbers else missing

    @property
    def active(self) -> np.ndarray:
        """Which groups of the divergence are in use."""
        return np.atleast_1d(self.value("kl_per_dimension")) > ACTIVE_NATS

    @property
    def collapsed(self) -> bool:
        """Whether no dimension carries anything."""
        return "kl_per_dimension" in self.numbers and not self.active.any()

    @property
    def deaf(self) -> bool:
        """Whether the decoder does as well with the code of another row."""
        return self.value("listening") < DEAF

    @property
    def surely_deaf(self) -> bool:
        """Whether the rows are enough to be sure of that."""
        return self.deaf and self.numbers["listening"].high < DEAF


Found = Iterator[Finding]


def of(number: Estimate, index: int | None = None) -> dict[str, Any]:
    """The measured number of a finding, with interval and unit."""
    pick: Callable[[Any], Any] = lambda value: float(value if index is None else value[index])  # noqa: E731
    interval = None if number.interval is None else pick(number.interval)
    return {"measured": pick(number.value), "interval": interval, "unit": number.unit}


def slower(c: Case) -> dict[str, Any]:
    """A tenth of the learning rate, and no more than the usual one."""
    return {"train.learning_rate": float(f"{min(1e-3, (c.config.train.learning_rate or 1e-3) / 10):.2g}")}
