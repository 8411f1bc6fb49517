"""What z says about x, and what its dimensions say about each other, in nats, between bounds from N rows.

.. math:: E[KL(q(z|x) || p(z))] = I(x; z) + KL(q(z) || p(z)) = I(x; z) + TC(z) + sum_j KL(q(z_j) || p(z_j))

The second equation holds for a prior with independent dimensions. The density of the aggregate posterior is known only
as the mixture of the posteriors of the rows at hand. With a row's own posterior counted in, the mixture is too high at
its draw, and I(x; z) comes out too low, never above log N; with it left out, too high. A normal with the moments of
q(z), and the prior, are too low on average as well: they give two more upper bounds. The lowest upper bound and the
lower one are what N rows can say; the middle of the two has a bias of unknown sign within the interval. Where the
upper one is above log N, the lower one cannot reach it: so many rows cannot tell, and the unit says so. Densities of
single dimensions are bounded in the same way, where N rows say far more.

References:
    Hoffman and Johnson, ELBO surgery, 2016; Chen, Li, Grosse and Duvenaud, Isolating Sources of Disentanglement in
    Variational Autoencoders, 2018; Poole, Ozair, van den Oord, Alemi and Tucker, On Variational Bounds of Mutual
    Information, 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..distributions.normal import HALF_LOG_2PI, Distribution
from ..rulers import log_sum_exp
from .estimate import Estimate, between, mean_of

NATS = "nats per sample"
MOST_PAIRED = 1000  # rows whose posteriors are all compared
PAIRS, AT_ONCE = 2**24, 2**22  # differences of codes in all, and at once


@dataclass(frozen=True)
class Information:
    """The parts of the average divergence, in nats per sample.

    Args:
        mutual: I(x; z).
        marginal: KL(q(z) || p(z)).
        correlation: TC(z) = KL(q(z) || prod q(z_j)); None where the q(z_j|x) are not known to be normal.
        ceiling: log N, which the lower bound on I(x; z) cannot pass.
        single: sum_j KL(q(z_j) || p(z_j)); None there, and where the prior's dimensions are not known singly.
        each: Its terms, [L]; None likewise.
    """

    mutual: Estimate
    marginal: Estimate
    correlation: Estimate | None
    ceiling: float
    single: Estimate | None = None
    each: Estimate | None = None


def information(
    z: np.ndarray,
    pairs: np.ndarray,
    prior: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    prior_each: np.ndarray | None = None,
    masses: bool = False,
    normal: bool = True,
) -> Information:
    """I(x; z), KL(q(z) || p(z)) and its parts from one draw of z for each row.

    I = E[log q(z|x) - log q(z)], KL = E[log q(z) - log p(z)], TC = E[log q(z) - sum_j log q(z_j)]; log q(z) lies
    between bounds, and the densities of single dimensions are mixtures of normals with the posteriors' moments, between
    the own one left out and counted in. The values add up to the mean of log q(z|x) - log p(z) over the draws, digit by
    digit, since what is uncertain in log q(z) and in log q(z_j) cancels.

    Args:
        z: Draws, [n, L].
        pairs: log q(z_i|x_j), [n, n].
        prior: log p(z_i), [n].
        mean: Posterior means, [n, L].
        variance: Posterior variances, [n, L].
        prior_each: log p(z_ij) of single dimensions, [n, L]; None where they are not independent.
        masses: Whether z is made of entries of a book or lies on a sphere, so that q and p are no densities over real
            vectors, which a normal's could bound.
        normal: Whether the q(z_j|x) are normal; those of a flow or of a hierarchy are not.
    """
    own = np.diag(pairs)
    counted, left_out = _mixture(pairs)
    references = [(left_out, 0.0), (prior, 0.0), *([] if masses else [_matched_normal(z, mean, variance)])]
    below, bias = max(references, key=lambda reference: reference[0].mean() - reference[1])
    ceiling = math.log(len(z))
    told = (own - below).mean() <= ceiling
    unit = NATS if told else f"{NATS}; cannot be told from {len(z)} rows, ceiling log N = {ceiling:.2f}"

    def bounds(high: np.ndarray, low: np.ndarray, more: float) -> Estimate:
        ends = mean_of(low), mean_of(high)
        return between(ends[0].value, ends[1].value, max(end.interval for end in ends) + more, unit)

    mutual, marginal = bounds(own - below, own - counted, bias), bounds(counted - prior, below - prior, bias)
    if masses or not normal:
        return Information(mutual, marginal, None, ceiling)
    with_own, without = _marginals(z, mean, variance)
    each, spread = (with_own + without) / 2, np.abs(with_own - without).mean(0) / 2
    uncertain = float(np.abs((with_own - without).sum(1)).mean()) / 2
    known = prior_each is not None
    return Information(
        mutual=mutual,
        marginal=marginal,
        correlation=bounds(counted - each.sum(1), below - each.sum(1), bias + uncertain),
        ceiling=ceiling,
        single=_widened((each - prior_each).sum(1), uncertain) if known else None,
        each=_widened(each - prior_each, spread) if known else None,
    )


@torch.no_grad()
def paired(q: Distribution, z: Tensor) -> Tensor:
    """log q(z_i|x_j) of codes z [n, L] under the posteriors of n rows, [n, n]."""
    return torch.cat([q.log_prob(part[:, None]) for part in z.split(max(1, AT_ONCE // z.numel()))])


def most_paired(rows: int, latent: int) -> int:
    """How many of the rows `paired` is called for: a table of some million differences, of at most 1000 rows."""
    return min(rows, MOST_PAIRED, math.isqrt(PAIRS // latent))


def in_use(number: Estimate, limit: float) -> Estimate:
    """How many dimensions are above a limit; those whose interval holds the limit may be on either side.

    Example:
        >>> in_use(Estimate(np.array([2.0, 0.5, 0.1]), np.array([0.1, 0.6, 0.1])), 0.3)
        Estimate(value=2.0, interval=1.0, unit='dimensions')
    """
    count, sure, possible = (float(np.sum(part > limit)) for part in (number.value, number.low, number.high))
    return Estimate(count, max(count - sure, possible - count), "dimensions")


def _widened(values: np.ndarray, more: float | np.ndarray) -> Estimate:
    """The mean over rows, its interval wider by what is uncertain in each value."""
    found = mean_of(values, NATS)
    return Estimate(found.value, found.interval + more, NATS)


def _mixture(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log-density of the mixture at each draw, with its own component and without, from log q(z_i|x_j) [n, n]."""
    count = len(pairs)
    without = pairs.copy()
    np.fill_diagonal(without, -np.inf)
    return log_sum_exp(pairs, 1) - math.log(count), log_sum_exp(without, 1) - math.log(max(count - 1, 1))


def _marginals(z: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`_mixture` of every single dimension, [n, L] each."""
    found = []
    for codes, centres, spreads in zip(z.T, mean.T, variance.T, strict=True):
        pairs = -0.5 * ((codes[:, None] - centres) ** 2 / spreads + np.log(spreads)) - HALF_LOG_2PI
        found.append(_mixture(pairs))
    with_own, without = (np.stack(columns, 1) for columns in zip(*found, strict=True))
    return with_own, without


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
