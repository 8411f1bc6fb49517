"""`Estimate`: a number with its interval and unit, and the two ways most intervals here come about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

Z95 = 1.959964  # half-width of a normal's 95 % interval, in standard errors
FEW = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's, where the expansion has not converged


@dataclass(frozen=True)
class Estimate:
    """A number, or one for each dimension, with the half-width of its 95 % interval.

    Args:
        value: A number or [L].
        interval: Half-width, of the value's shape; None where the value is exact for the rows looked at.
        unit: Such as "nats per sample".

    Example:
        >>> Estimate.from_dict(Estimate(np.array([1.0, 2.0]), None, "nats").to_dict()).value
        array([1., 2.])
    """

    value: Any
    interval: Any = None
    unit: str = ""

    @property
    def low(self) -> Any:
        """Lower end of the interval."""
        return self.value - (0.0 if self.interval is None else self.interval)

    @property
    def high(self) -> Any:
        """Upper end of the interval."""
        return self.value + (0.0 if self.interval is None else self.interval)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"value": _plain(self.value), "interval": _plain(self.interval), "unit": self.unit}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """What `to_dict` gave; null is NaN in a value."""
        return cls(_read(plain["value"], math.nan), _read(plain["interval"], None), str(plain["unit"]))


def student95(count: int) -> float:
    """Half-width of a 95 % interval in standard errors that were themselves estimated from so many rows.

    Student's quantile, by Cornish and Fisher's expansion in 1/(n - 1), which is right to 1e-3 from 6 rows on.

    Example:
        >>> round(student95(11), 3), round(student95(10**6), 3)
        (2.228, 1.96)
    """
    free = count - 1
    if free in FEW:
        return FEW[free]
    z = Z95
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / free + second / free**2 + third / free**3


def mean_of(values: np.ndarray, unit: str = "") -> Estimate:
    """The mean over rows [n] or [n, L], with the half-width from the spread of the rows.

    Example:
        >>> round(mean_of(np.arange(11.0)).interval, 2)
        2.23
    """
    count = len(values)
    spread = values.std(0, ddof=1) / math.sqrt(count) if count > 1 else np.full(values.shape[1:], np.inf)
    half = student95(count) if count > 1 else Z95
    return Estimate(_plain_or_array(values.mean(0)), _plain_or_array(half * spread), unit)


def ratio_of(top: np.ndarray, bottom: np.ndarray, unit: str = "") -> Estimate:
    """sum(top) / sum(bottom) over rows [n] or [n, L]; the interval follows from the linearised ratio.

    Reference: Cochran, Sampling Techniques, 1977, section 6.4.
    """
    mean = bottom.mean(0)
    below = np.where(mean > 0, mean, np.nan)  # a ratio to nothing is no number
    value = top.mean(0) / below
    return Estimate(_plain_or_array(value), mean_of((top - value * bottom) / below).interval, unit)


def between(low: float, high: float, error: float, unit: str = "") -> Estimate:
    """A number known to lie between two bounds, each with that 95 % error: the middle, and half the width."""
    low, high = min(low, high), max(low, high)
    return Estimate((low + high) / 2, (high - low) / 2 + error, unit)


def _plain_or_array(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _read(value: Any, missing: float | None) -> Any:
    if isinstance(value, list):
        return np.array([math.nan if item is None else item for item in value], np.float64)
    return missing if value is None else float(value)
