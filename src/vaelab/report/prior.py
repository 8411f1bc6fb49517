"""The prior that a run has, as figures show it: in formulas where it is N(0, I), else by draws from it."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

DRAWS = 20_000
INSIDE = 0.95  # share of the prior that its outline holds
BLUR = 1.0  # cells: the deviation of the kernel that smooths counted draws


def prior_draws(run: Any) -> np.ndarray | None:
    """Codes drawn from the prior in force, [n, dimensions], label entries left out; None where it is N(0, I).

    Where the prior reads a condition they are drawn under those of training rows.
    """
    if run.has_standard_prior:
        return None
    size = run._walkable
    return np.asarray(run.prior_codes(DRAWS, seed=0), np.float64)[:, :size]


def prior_variance(run: Any) -> np.ndarray:
    """The variance of each dimension of the prior, [dimensions]."""
    draws = prior_draws(run)
    return np.ones(run._walkable) if draws is None else draws.var(0)


def quantiles_of(run: Any, grid: np.ndarray) -> np.ndarray:
    """Codes of a grid over N(0, I), [n, L], moved to the same quantiles of each dimension of the prior."""
    draws = prior_draws(run)
    if draws is None:
        return grid
    shares = np.vectorize(NormalDist().cdf)(grid)
    return np.stack([np.quantile(column, share) for column, share in zip(draws.T, shares.T, strict=True)], 1)


def dense_region(draws: np.ndarray, edges: np.ndarray, inside: float = INSIDE) -> tuple[np.ndarray, float]:
    """A density over square cells, [cells, cells] with y first, and the level whose region holds a share of the draws.

    The region is the densest with that share, of whatever shape: islands for a mixture, a ring for a sphere.
    Reference: Hyndman, Computing and Graphing Highest Density Regions, 1996.

    Args:
        draws: Points of the plane, [n, 2].
        edges: Of the cells along either axis.
        inside: The share.
    """
    counts, _, _ = np.histogram2d(draws[:, 1], draws[:, 0], bins=(edges, edges))
    reach = np.arange(-round(4 * BLUR), round(4 * BLUR) + 1)
    kernel = np.exp(-0.5 * (reach / BLUR) ** 2)
    density = counts / max(counts.sum(), 1.0)
    for axis in (0, 1):
        density = np.apply_along_axis(np.convolve, axis, density, kernel / kernel.sum(), "same")
    inner = edges[1:-1]
    at_draws = density[np.digitize(draws[:, 1], inner), np.digitize(draws[:, 0], inner)]
    return density, float(np.quantile(at_draws, 1 - inside))
