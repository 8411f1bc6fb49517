"""Least squares of measured values on closed forms, and the search for the form that explains them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fit:
    """Slopes, the constant, and the share of the spread that is left unexplained (0 is exact, 1 is nothing)."""

    slopes: np.ndarray
    constant: float
    residual: float
    spread: float


def fit(
    features: Sequence[Sequence[float]] | Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray
) -> Fit:
    """Fits `values ~ constant + features @ slopes`; features [n, k], values [n].

    Example:
        >>> found = fit([[1.0], [2.0], [4.0]], [3.0, 5.0, 9.0])
        >>> round(float(found.slopes[0]), 9), round(found.constant, 9), found.residual < 1e-12
        (2.0, 1.0, True)
    """
    matrix, target = np.asarray(features, float), np.asarray(values, float)
    matrix = matrix.reshape(len(target), -1)
    centre, middle = matrix.mean(0), target.mean()
    width = np.maximum(matrix.std(0), 1e-300)
    solution = np.linalg.lstsq((matrix - centre) / width, target - middle, rcond=1e-12)[0] / width
    left = target - middle - (matrix - centre) @ solution
    spread = float(np.sqrt(np.mean((target - middle) ** 2)))
    residual = float(np.sqrt(np.mean(left**2)) / spread) if spread > 0 else 1.0
    return Fit(solution, float(middle - centre @ solution), residual, spread)


def smallest(function: Callable[[float], float], low: float, high: float, coarse: int = 25, fine: int = 40) -> float:
    """Where a function of one positive number is smallest: a grid in its logarithm, then golden section.

    Example:
        >>> round(smallest(lambda s: (s - 0.3) ** 2, 0.01, 10), 6)
        0.3
    """
    grid = np.linspace(np.log(low), np.log(high), coarse)
    best = int(np.argmin([function(float(np.exp(g))) for g in grid]))
    left, right = grid[max(best - 1, 0)], grid[min(best + 1, coarse - 1)]
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(fine):
        a, b = right - ratio * (right - left), left + ratio * (right - left)
        if function(float(np.exp(a))) < function(float(np.exp(b))):
            right = b
        else:
            left = a
    return float(np.exp((left + right) / 2))
