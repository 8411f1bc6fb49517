"""The aggregate posterior q(z) = mean over rows of q(z|x) against the prior, from draws of both, in plain arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .estimate import Z95, Estimate, mean_of

FOLDS = 5
SHRINK = 0.01  # of a class's covariance towards its mean: a few dozen rows do not determine 16 x 16 entries
END = 0.05  # of the range, counted from either end: a uniform code has 10 % of its rows there, a normal one 0.3 %


def two_sample(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The Kolmogorov-Smirnov distance sup |F - G| of each column of left [n, L] and right [m, L], [L].

    Example:
        >>> two_sample(np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])).tolist()
        [1.0]
    """
    pooled = np.concatenate([left, right])
    order = np.argsort(pooled, axis=0, kind="stable")
    steps = np.where(order < len(left), 1 / len(left), -1 / len(right)).cumsum(0)
    ordered = np.take_along_axis(pooled, order, 0)
    last = np.concatenate([ordered[1:] != ordered[:-1], np.ones((1, pooled.shape[1]), bool)])  # ties step together
    return np.abs(np.where(last, steps, 0.0)).max(0)


def two_sample_limit(left: int, right: int) -> float:
    """The distance that samples of one distribution exceed once in twenty times, 1.358 sqrt(1/n + 1/m)."""
    return 1.358 * math.sqrt(1 / left + 1 / right)


def jarque_bera(rows: np.ndarray) -> np.ndarray:
    """n (skewness² / 6 + excess kurtosis² / 24) of each column of [n, L]; about 2 for a normal, above 6 once in twenty.

    Reference: Jarque and Bera, A Test for Normality of Observations and Regression Residuals, 1987.
    """
    centred = rows - rows.mean(0)
    scaled = centred / np.maximum(centred.std(0), np.finfo(np.float64).tiny)
    skewness, excess = (scaled**3).mean(0), (scaled**4).mean(0) - 3
    return len(rows) * (skewness**2 / 6 + excess**2 / 24)


def area_under_curve(positive: np.ndarray, negative: np.ndarray) -> Estimate:
    """P(a positive score is above a negative one), ties counting half, from scores [n] and [m].

    Reference: DeLong, DeLong and Clarke-Pearson, Comparing the Areas under Two or More Correlated ROC Curves, 1988.
    """
    over = _placements(positive, negative)
    under = 1 - _placements(negative, positive)
    error = math.hypot(*(part.std(ddof=1) / math.sqrt(len(part)) for part in (over, under)))
    return Estimate(float(over.mean()), Z95 * error, "area under the curve")


def _placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each score the share of others below it, ties counting half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / (2 * len(others))


def separability(left: np.ndarray, right: np.ndarray) -> Estimate | None:
    """How well a classifier tells rows of left [n, L] from rows of right [m, L]: the area under its curve.

    Quadratic discriminants see other means and covariances, nearest neighbours see clusters and gaps; their
    probabilities are averaged. Each row is scored by classifiers that have not seen it (5 folds); 0.5 is chance.
    Neighbours alone judge where there are too few rows for covariances; None for fewer than 20 rows on a side, from
    which nothing can be learned.
    """
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
    from sklearn.ensemble import VotingClassifier
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    smallest = min(len(left), len(right))
    if smallest < 4 * FOLDS:
        return None
    rows, labels = np.concatenate([left, right]), np.repeat([1, 0], [len(left), len(right)])
    near = KNeighborsClassifier(max(5, math.isqrt(smallest)))
    parts: list[tuple[str, Any]] = [("near", near)]
    if smallest > 2 * left.shape[1]:
        parts.append(("quadratic", QuadraticDiscriminantAnalysis(reg_param=SHRINK)))
    scores = cross_val_predict(VotingClassifier(parts, voting="soft"), rows, labels, cv=FOLDS, method="predict_proba")[
        :, 1
    ]
    return area_under_curve(scores[: len(left)], scores[len(left) :])


def holes(prior: np.ndarray, codes: np.ndarray, centres: np.ndarray, scales: np.ndarray, own: bool) -> Estimate:
    """The share of prior draws farther from every posterior than all but 1 % of held-out codes are.

    Distances are in units of the mean posterior deviation of each dimension, to the nearest posterior mean, so that
    dimensions without information count little.

    Args:
        prior: Draws from the prior, [m, L].
        codes: One draw of q(z|x) for each held-out row, [n, L].
        centres: Posterior means, [N, L].
        scales: A deviation for each dimension, [L].
        own: Whether the centres are of the same rows as the codes, in their order; a code's own is then left out.
    """
    from sklearn.metrics import pairwise_distances

    def nearest(rows: np.ndarray, without_own: bool) -> np.ndarray:
        table = pairwise_distances(rows / scales, centres / scales)
        if without_own:
            np.fill_diagonal(table, np.inf)
        return table.min(1)

    limit = np.quantile(nearest(codes, own), 0.99)
    return mean_of((nearest(prior, False) > limit).astype(np.float64), "share of prior draws")


def saturation(codes: np.ndarray) -> np.ndarray:
    """The share of rows within 5 % of the range from either of its ends, for each column of [n, L], [L].

    Example:
        >>> saturation(np.array([[-1.0], [-1.0], [0.0], [1.0]])).tolist()
        [0.75]
    """
    low, high = codes.min(0), codes.max(0)
    margin = END * (high - low)
    return ((codes <= low + margin) | (codes >= high - margin)).mean(0)
