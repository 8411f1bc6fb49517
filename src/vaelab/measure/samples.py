"""Samples against data: Frechet and kernel distance, precision, recall, density, coverage, spread, copies, in arrays.

Rows are points in any space: entries, or the features of a network. Which one belongs to the name of every number:
only over the features of the Inception network is the Frechet distance the FID, and the kernel distance the KID.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..core.errors import BadInput
from .estimate import Z95, Estimate, mean_of, ratio_of

NEIGHBOURS = 5  # as Naeem et al. recommend
MANIFOLD_NEIGHBOURS = 3  # as Kynkäänniemi et al. recommend
COPY = 0.5  # a copy lies at less than half the distance of the next row; unrelated rows in many dimensions at about 1
PARTS, T_PARTS = 10, 2.262157  # of a jackknife by parts, and Student's 97.5 % point for 9 degrees of freedom
HALVES, T_HALVES = 20, 2.093024  # random halves, and the same for 19
KERNEL_VALUES = 2**22  # of a table at once
Pair = tuple[np.ndarray, np.ndarray]


def frechet_distance(left: np.ndarray, right: np.ndarray, unit: str = "squared distance") -> tuple[Estimate, Estimate]:
    r"""The squared 2-Wasserstein distance between normals fitted to two sets of rows, and the same freed of its bias.

    .. math:: |m_1 - m_2|^2 + \mathrm{tr}(S_1 + S_2 - 2 (S_1^{1/2} S_2 S_1^{1/2})^{1/2})

    The first is what every other tool gives (covariances divide by n - 1). It is too high: for equal unit covariances
    by about (1/n + 1/m) (D + D (D + 1) / 4), so that two sets of the same distribution are not at 0. Its interval
    spans that bias too, as a jackknife over ten parts of the rows shows it. The second has the bias of order 1/n taken
    off by the same jackknife; it may be below 0, and its interval is its spread over other rows.

    References:
        Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, GANs Trained by a Two Time-Scale Update Rule Converge to
        a Local Nash Equilibrium, 2017; Chong and Forsyth, Effectively Unbiased FID and Inception Score and where to
        find them, 2020 (the bias); Shao and Tu, The Jackknife and Bootstrap, 1995.

    Args:
        left: [n, D], in random order.
        right: [m, D], in random order.
        unit: Of the result, which names the features.

    Raises:
        BadInput: where either has no more rows than features, whose covariance then has no full rank, or ten or fewer.
    """
    left, right = _sets(left, right)
    count, size = min(len(left), len(right)), left.shape[1]
    if count <= frechet_limit(size):
        rule = f"a covariance of {size} features and its jackknife need more than {frechet_limit(size)} rows"
        raise BadInput("rows", count, rule, "take more rows, or features of fewer dimensions")
    value = _frechet(left, right)
    parts = zip(*(np.array_split(np.arange(len(rows)), PARTS) for rows in (left, right)), strict=True)
    without = np.array([_frechet(np.delete(left, i, 0), np.delete(right, j, 0)) for i, j in parts])
    bias = (PARTS - 1) * (without.mean() - value)
    half_width = T_PARTS * math.sqrt((PARTS - 1) * without.var())
    return Estimate(value, half_width + abs(bias), unit), Estimate(value - bias, half_width, unit)


def frechet_limit(features: int) -> int:
    """How many rows a side has to have more than, for a covariance of full rank and ten parts of the jackknife."""
    return max(features, PARTS)


def _frechet(left: np.ndarray, right: np.ndarray) -> float:
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (left, right))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    apart = ((left.mean(0) - right.mean(0)) ** 2).sum()
    return max(float(apart + np.trace(first) + np.trace(second) - 2 * overlap), 0.0)


def kernel_distance(left: np.ndarray, right: np.ndarray, unit: str = "squared distance in the kernel") -> Estimate:
    r"""The squared maximum mean discrepancy under k(x, y) = (x'y / D + 1)³, from all pairs of different rows.

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j)}{n (n - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m - 1)}
        - \frac{2 \sum_{i, j} k(x_i, y_j)}{n m}

    It has no bias, whatever the number of rows, and is therefore below 0 half the time for equal distributions. The
    interval is a jackknife over single rows, which is on the safe side; the usual subsets of rows, drawn again and
    again from the same ones, would show too little.

    References:
        Binkowski, Sutherland, Arbel and Gretton, Demystifying MMD GANs, 2018; Efron and Stein, The Jackknife Estimate
        of Variance, 1981.

    Args:
        left: [n, D], at least 3 rows.
        right: [m, D], at least 3 rows.
        unit: Of the result, which names the features.
    """
    left, right = _sets(left, right)
    across, back = _kernel_sums(left, right)
    own = [_kernel_sums(rows, rows)[0] - _kernel((rows**2).sum(1), rows.shape[1]) for rows in (left, right)]
    value = _mean_pair(own[0]) + _mean_pair(own[1]) - 2 * across.mean() / len(right)
    variance = _left_out(own[0], across, len(right)) + _left_out(own[1], back, len(left))
    return Estimate(float(value), Z95 * math.sqrt(variance), unit)


def _kernel(products: np.ndarray, size: int) -> np.ndarray:
    return (products / size + 1) ** 3


def _kernel_sums(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the kernel for each row over all others, [n], and for each of the others over all rows, [m]."""
    each, back = [], np.zeros(len(others))
    for part in np.array_split(rows, math.ceil(len(rows) * len(others) / KERNEL_VALUES)):
        table = _kernel(part @ others.T, rows.shape[1])
        each.append(table.sum(1))
        back += table.sum(0)
    return np.concatenate(each), back


def _mean_pair(own: np.ndarray) -> float:
    """The mean over pairs of different rows, from each row's sum over the others."""
    return float(own.sum() / (len(own) * (len(own) - 1)))


def _left_out(own: np.ndarray, across: np.ndarray, others: int) -> float:
    """The jackknife's variance of the distance over the rows of one side, from each row's sums."""
    count = len(own)
    within, between = (own.sum() - 2 * own) / (count - 2), 2 * (across.sum() - across) / others
    return float(((within - between) / (count - 1)).var() * (count - 1))


def precision_recall(
    real: np.ndarray, made: np.ndarray, neighbours: int = MANIFOLD_NEIGHBOURS
) -> tuple[Estimate, Estimate]:
    """The share of made rows on the manifold of real ones, and the share of real rows on the manifold of made ones.

    A manifold is the union of balls around its rows to the k-th nearest other one. Precision falls where samples are
    wrong, recall where some kind of row is never made. Both depend on the number of rows and are below 1 for equal
    distributions too: compare with real against real rows, as many. Intervals as those of `coverage_density`: a share
    of 1 has one too, of which only the lower side is meant.

    Reference: Kynkäänniemi, Karras, Laine, Lehtinen and Aila, Improved Precision and Recall Metric for Assessing
    Generative Models, 2019.

    Args:
        real: [n, D].
        made: [m, D].
        neighbours: k; fewer where there are not so many rows.
    """
    from sklearn.metrics import pairwise_distances

    real, made = _sets(real, made)
    own, other, between = (pairwise_distances(*pair) for pair in ((real,), (made,), (real, made)))

    def rows(i: np.ndarray, j: np.ndarray) -> Pair:
        table = between[np.ix_(i, j)]
        return (
            (table <= _radii(own, i, neighbours)[:, None]).any(0),
            (table <= _radii(other, j, neighbours)).any(1),
        )

    return _halved(rows, len(real), len(made), ("share of samples", "share of held-out rows"))


def coverage_density(real: np.ndarray, made: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[Estimate, Estimate]:
    """The share of real rows with a made one in their neighbourhood, and how many neighbourhoods a made row is in.

    A neighbourhood is the ball to the k-th nearest other real row; density is divided by k, so that both are about 1
    for rows of the same distribution (coverage: 1 - 2^-k for as many made as real rows). Rows share neighbourhoods, so
    that their spread alone says too little: intervals come from twenty random halves of the rows, and are no narrower
    than for independent rows of which two more are 0 and two more are 1 (Agresti and Coull, Approximate Is Better than
    "Exact" for Interval Estimation of Binomial Proportions, 1998), whose interval around its own middle they hold.
    For a share they end where the farther of 0 and 1 is reached.

    Reference: Naeem, Oh, Uh, Choi and Yoo, Reliable Fidelity and Diversity Metrics for Generative Models, 2020.

    Args:
        real: [n, D].
        made: [m, D].
        neighbours: k; fewer where there are not so many rows.
    """
    from sklearn.metrics import pairwise_distances

    real, made = _sets(real, made)
    own, between = pairwise_distances(real), pairwise_distances(real, made)
    used = min(neighbours, len(real) - 1)

    def rows(i: np.ndarray, j: np.ndarray) -> Pair:
        inside = between[np.ix_(i, j)] < _radii(own, i, used)[:, None]
        return inside.any(1), inside.sum(0) / used

    return _halved(rows, len(real), len(made), ("share of held-out rows", "neighbourhoods, 1 expected"))


def _radii(distances: np.ndarray, chosen: np.ndarray, neighbours: int) -> np.ndarray:
    """Distance of each chosen row to its k-th nearest other chosen one; the row itself is the nearest of all."""
    neighbours = min(neighbours, len(chosen) - 1)
    return np.partition(distances[np.ix_(chosen, chosen)], neighbours, axis=1)[:, neighbours]


def _halved(
    statistic: Callable[[np.ndarray, np.ndarray], Pair], left: int, right: int, units: tuple[str, str]
) -> tuple[Estimate, Estimate]:
    """Means of two numbers of rows; their spread over random halves is that of all rows over other sets of rows.

    Reference: Shao and Wu, A General Theory for Jackknife Variance Estimation, 1989 (half of the rows left out).
    """
    random = np.random.default_rng(0)
    halves = [
        [part.mean() for part in statistic(*(random.permutation(count)[: count // 2] for count in (left, right)))]
        for _ in range(HALVES)
    ]
    widths = T_HALVES * np.std(halves, 0, ddof=1)
    whole = statistic(np.arange(left), np.arange(right))
    first, second = (_no_narrower(*each) for each in zip(whole, widths, units, strict=True))
    return first, second


def _no_narrower(rows: np.ndarray, width: float, unit: str) -> Estimate:
    """The mean of rows, within at least Agresti and Coull's interval and, for yes and no, at most [0, 1]."""
    value, careful = float(rows.mean()), mean_of(np.append(rows, (0, 0, 1, 1)))
    if rows.dtype != bool:
        return Estimate(value, max(float(width), careful.interval), unit)
    reach = abs(careful.value - value) + careful.interval  # theirs lies around its own middle, not around the share
    return Estimate(value, min(max(float(width), reach), max(value, 1 - value)), f"{unit}, 1 at most")


def _sets(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of at least three rows over the same features, in float64."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1] or min(len(left), len(right)) < 3:
        got = f"shapes {left.shape} and {right.shape}"
        raise BadInput("rows", got, "must be at least 3 rows over the same features, [n, D] and [m, D]")
    return left, right


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
