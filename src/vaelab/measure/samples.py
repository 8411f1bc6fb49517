"""Samples against data by their distances: coverage, density, spread, and copies of training rows, in plain arrays."""

from __future__ import annotations

import numpy as np

from .estimate import Estimate, mean_of, ratio_of

NEIGHBOURS = 5  # as Naeem et al. recommend
COPY = 0.5  # a copy lies at less than half the distance of the next row; unrelated rows in many dimensions at about 1


def coverage_density(real: np.ndarray, made: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[Estimate, Estimate]:
    """The share of real rows with a made one in their neighbourhood, and how many neighbourhoods a made row is in.

    A neighbourhood is the ball to the k-th nearest other real row; density is divided by k, so that both are about 1
    for rows of the same distribution (coverage: 1 - 2^-k for as many made as real rows).

    Reference: Naeem, Oh, Uh, Choi and Yoo, Reliable Fidelity and Diversity Metrics for Generative Models, 2020.

    Args:
        real: [n, D].
        made: [m, D].
        neighbours: k; fewer where there are not so many rows.
    """
    from sklearn.metrics import pairwise_distances

    neighbours = min(neighbours, len(real) - 1)
    radii = np.partition(pairwise_distances(real), neighbours, axis=1)[:, neighbours]  # the row itself is the nearest
    inside = pairwise_distances(real, made) < radii[:, None]
    coverage = mean_of(inside.any(1).astype(np.float64), "share of held-out rows")
    return coverage, mean_of(inside.sum(0) / neighbours, "neighbourhoods, 1 expected")


def spread_ratio(made: np.ndarray, real: np.ndarray) -> Estimate:
    """The mean squared distance between made rows [m, D] over that between real rows [n, D].

    The mean squared distance of two rows is twice the total variance; so this is a ratio of total variances.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(100, 3))
        >>> round(spread_ratio(2 * rows, rows).value, 6)
        4.0
    """
    count = min(len(made), len(real))
    top, bottom = (((rows - rows.mean(0)) ** 2).sum(1)[:count] for rows in (made, real))
    return ratio_of(top, bottom, "of the variance expected")


def nearest_two(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances of each row [n, D] to its nearest and second nearest distinct other [N, D], [n, 2]."""
    from sklearn.metrics import pairwise_distances

    table = pairwise_distances(rows, np.unique(others, axis=0))
    return np.sort(np.partition(table, 1, axis=1)[:, :2], axis=1)


def copies(nearest: np.ndarray) -> np.ndarray:
    """Which rows are copies: less than half as far from the nearest as from the second nearest, [n], from [n, 2]."""
    return (nearest[:, 0] < COPY * nearest[:, 1]).astype(np.float64)
