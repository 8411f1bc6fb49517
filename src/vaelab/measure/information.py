"""What z says about x, and what its dimensions say about each other, in nats, between bounds from N rows.

The density of the aggregate posterior is known only as the mixture of the posteriors of the rows at hand. With a row's
own posterior counted in, the mixture is too high at its draw, and I(x; z) comes out too low, never above log N; with it
left out, too high. A normal with the moments of q(z), and the prior, are too low on average as well: they give two more
upper bounds. The lowest upper bound and the lower one are what N rows can say.

References:
    Hoffman and Johnson, ELBO surgery, 2016; Poole, Ozair, van den Oord, Alemi and Tucker, On Variational Bounds of
    Mutual Information, 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .estimate import Estimate, between, mean_of

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Information:
    """In nats per sample: `mutual` is I(x; z), `marginal` KL(q(z) || p(z)), `correlation` TC(z), `ceiling` log N."""

    mutual: Estimate
    marginal: Estimate
    correlation: Estimate
    ceiling: float


def information(
    z: np.ndarray, pairs: np.ndarray, prior: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> Information:
    """I(x; z), KL(q(z) || p(z)) and the total correlation KL(q(z) || prod q(z_j)) from one draw of z for each row.

    I = E[log q(z|x) - log q(z)], KL = E[log q(z) - log p(z)], TC = E[log q(z) - sum_j log q(z_j)]; log q(z) lies
    between bounds, and the densities of single dimensions are mixtures of normals with the posteriors' moments, between
    the own one left out and counted in.

    Args:
        z: Draws, [n, L].
        pairs: log q(z_i|x_j), [n, n].
        prior: log p(z_i), [n].
        mean: Posterior means, [n, L].
        variance: Posterior variances, [n, L].
    """
    own = np.diag(pairs)
    counted, left_out = _mixture(pairs)
    normal, bias = _matched_normal(z, mean, variance)
    below = max((left_out, normal, prior), key=lambda reference: reference.mean())
    with_own, without = (sum(parts) for parts in zip(*(_marginals(z, mean, variance)), strict=True))
    single = (with_own + without) / 2

    def bounds(high: np.ndarray, low: np.ndarray, more: float) -> Estimate:
        ends = mean_of(low), mean_of(high)
        error = max(end.interval for end in ends) + more
        return between(ends[0].value, ends[1].value, error, "nats per sample")

    uncertain = float(np.abs(with_own - without).mean()) / 2
    return Information(
        mutual=bounds(own - below, own - counted, bias),
        marginal=bounds(counted - prior, below - prior, bias),
        correlation=bounds(counted - single, below - single, bias + uncertain),
        ceiling=math.log(len(z)),
    )


def _mixture(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log-density of the mixture at each draw, with its own component and without, from log q(z_i|x_j) [n, n]."""
    count = len(pairs)
    without = pairs.copy()
    np.fill_diagonal(without, -np.inf)
    return _log_sum(pairs) - math.log(count), _log_sum(without) - math.log(max(count - 1, 1))


def _marginals(z: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """`_mixture` of every single dimension."""
    found = []
    for codes, centres, spreads in zip(z.T, mean.T, variance.T, strict=True):
        pairs = -0.5 * ((codes[:, None] - centres) ** 2 / spreads + np.log(spreads)) - HALF_LOG_2PI
        found.append(_mixture(pairs))
    return found


def _matched_normal(z: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, float]:
    """Log-density of the normal with the mixture's mean and covariance, and by how much N rows flatter it."""
    count, size = z.shape
    centre = mean.mean(0)
    covariance = (mean - centre).T @ (mean - centre) / count + np.diag(variance.mean(0))
    covariance += 1e-9 * np.trace(covariance) / size * np.eye(size)  # codes of a plain autoencoder may be collinear
    factor = np.linalg.cholesky(covariance)
    squares = np.linalg.solve(factor, (z - centre).T) ** 2
    log_density = -0.5 * squares.sum(0) - np.log(np.diag(factor)).sum() - size * HALF_LOG_2PI
    return log_density, size * (size + 3) / (4 * count)


def _log_sum(table: np.ndarray) -> np.ndarray:
    """log of the sum of exponentials along each row."""
    top = table.max(1)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(table - top[:, None]).sum(1))
