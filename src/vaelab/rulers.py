"""Models whose log p(x) is known, to measure estimators against: linear-Gaussian ones, few latents, discrete latents.

All numbers are float64, in nats per row. Shapes: n rows, D entries of a row, L latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .core.errors import BadInput

LOG_2PI = math.log(2 * math.pi)
REACH = 9.0  # of a grid, in standard deviations of a latent: a standard normal has 1e-19 of its mass beyond
FIRST_STEP = 0.5  # of the grid; a standard normal is summed with an error of 1e-34 already at this one
MOST_POINTS = 2**20  # of a grid, or codes of a discrete latent: seconds, for a decoder with some ten outputs
SETTLED = 0.1  # nats; above, a peak between the points or beyond the edge may have any height
BLOCK = 2**14  # codes given to a function at once
NOISE_STEP = 0.125  # of the grid over the noise of a single weight
SCALES = np.arange(-36.0, 60.0, 0.25)  # log t in `expected_bound`: the rule errs by exp(-2 pi (pi / 2) / 0.25) = 1e-17

LogJoint = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class LinearGaussian:
    """x = W z + m + e with z ~ N(0, I) and e ~ N(0, diag(variance)): probabilistic PCA, or factor analysis.

    References:
        Tipping and Bishop, Probabilistic Principal Component Analysis, 1999.

    Args:
        weight: W, [D, L].
        offset: m, [D].
        variance: Of the noise, a number or [D].

    Raises:
        BadInput: for shapes that do not fit, and a variance not above 0.

    Example:
        >>> model = LinearGaussian([[1.0]], [0.0], 1.0)
        >>> bool(np.isclose(model.log_prob(np.zeros((1, 1)))[0], -0.5 * math.log(2 * math.pi * 2)))
        True
    """

    weight: np.ndarray
    offset: np.ndarray
    variance: np.ndarray

    def __post_init__(self) -> None:
        weight, offset, variance = (np.asarray(part, np.float64) for part in (self.weight, self.offset, self.variance))
        if weight.ndim != 2 or offset.shape != weight.shape[:1] or variance.shape not in ((), offset.shape):
            shapes = f"shapes {weight.shape}, {offset.shape} and {variance.shape}"
            raise BadInput("weight, offset, variance", shapes, "must be [D, L], [D], and one number or [D]")
        if not (variance > 0).all():
            raise BadInput("variance", variance.min(), "must be above 0")
        variance = np.broadcast_to(variance, offset.shape)
        for name, part in (("weight", weight), ("offset", offset), ("variance", variance)):
            object.__setattr__(self, name, part)

    @property
    def latent(self) -> int:
        """L."""
        return self.weight.shape[1]

    @cached_property
    def precision(self) -> np.ndarray:
        """Of the posterior, the same for every x: I + Wᵀ diag(1 / variance) W, [L, L]."""
        return np.eye(self.latent) + (self.weight.T / self.variance) @ self.weight

    @cached_property
    def log_det(self) -> float:
        """log det of the covariance of x, W Wᵀ + diag(variance)."""
        return float(np.log(self.variance).sum() + np.linalg.slogdet(self.precision)[1])

    @property
    def expected(self) -> float:
        """The mean of log p(x) over rows of the model: minus their entropy."""
        return -0.5 * (len(self.offset) * (LOG_2PI + 1) + self.log_det)

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """p(z|x): means [n, L] and the covariance that all rows share, [L, L], for rows x [n, ...]."""
        covariance = np.linalg.inv(self.precision)
        return (self._centred(x) / self.variance) @ self.weight @ covariance, covariance

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log p(x) = log p(x, z) - log p(z|x) at the posterior mean, which cancels no digits; [n] for x [n, ...]."""
        at_mean = self.log_joint(x, self.posterior(x)[0])
        return at_mean + 0.5 * (self.latent * LOG_2PI - np.linalg.slogdet(self.precision)[1])

    def log_joint(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """log p(x, z), [..., n] for x [n, ...] and z [..., n, L]."""
        error = self._centred(x) - z @ self.weight.T
        log_px = -0.5 * (error**2 / self.variance + np.log(self.variance) + LOG_2PI).sum(-1)
        return log_px + log_standard_normal(z)

    def kl(self, x: np.ndarray) -> np.ndarray:
        """KL(p(z|x) || p(z)), [n] for x [n, ...]."""
        mean, covariance = self.posterior(x)
        return normal_kl(mean, covariance, np.zeros(self.latent), np.eye(self.latent))

    def elbo(self, x: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """log p(x) - KL(q || p(z|x)) for q = N(mean, diag(variance)), each [n, L] or [L]; [n] for x [n, ...]."""
        covariance = np.asarray(variance)[..., None] * np.eye(self.latent)
        return self.log_prob(x) - normal_kl(mean, covariance, self.posterior(x)[0], self.precision)

    def sample(self, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Rows [count, D], and the latents [count, L] they came from: exact draws of their posteriors."""
        draw = np.random.default_rng(seed)
        z = draw.standard_normal((count, self.latent))
        noise = draw.standard_normal((count, len(self.offset))) * np.sqrt(self.variance)
        return z @ self.weight.T + self.offset + noise, z

    def _centred(self, x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64)
        return x.reshape(len(x), -1) - self.offset


class Quadrature(NamedTuple):
    """log p(x) and how far it may be off, [n] each, in nats."""

    values: np.ndarray
    error: np.ndarray


def by_quadrature(log_joint: LogJoint, latent: int, *, reach: float = REACH, tolerance: float = 1e-9) -> Quadrature:
    """log p(x) = log ∫ p(x, z) dz over one or two latents by the trapezoidal rule, its step halved until it settles.

    For a smooth density the error falls faster than any power of the step, so that the stated one, the change at the
    last halving plus what may lie beyond the edge (its density times one unit), is above the true one, to rounding.
    It is infinite where it would be above 0.1 nats, since the grid has then not seen where the density is.

    Reference: Trefethen and Weideman, The Exponentially Convergent Trapezoidal Rule, 2014.

    Args:
        log_joint: From codes z [m, L] to log p(x, z), [m, n].
        latent: L, 1 or 2.
        reach: The grid spans ±reach in each dimension.
        tolerance: Nats at which halving ends; it also ends where a grid would pass 2^20 points.

    Raises:
        BadInput: for more than two latents.

    Example:
        >>> model = LinearGaussian([[1.0], [2.0]], [0.0, 1.0], 0.5)
        >>> x = model.sample(3)[0]
        >>> found = by_quadrature(lambda z: model.log_joint(x, z[:, None]), 1)
        >>> bool(np.allclose(found.values, model.log_prob(x)) and found.error.max() < 1e-9)
        True
    """
    if latent not in (1, 2):
        raise BadInput("latent", latent, "must be 1 or 2: a grid grows with the power of the dimensions")
    intervals = math.ceil(2 * reach / FIRST_STEP)
    values, edge = _trapezoid(log_joint, latent, reach, intervals)
    while True:
        previous, intervals = values, 2 * intervals
        values, edge = _trapezoid(log_joint, latent, reach, intervals)
        error = np.abs(values - previous) + edge
        if error.max() <= tolerance or (2 * intervals + 1) ** latent > MOST_POINTS:
            return Quadrature(values, np.where(error <= SETTLED, error, np.inf))


def by_summation(log_joint: LogJoint, codes: np.ndarray) -> np.ndarray:
    """log p(x) = log sum_z p(x, z) over all codes of a discrete latent, [n].

    Args:
        log_joint: From codes [m, L] to log p(x, z), [m, n]; the prior's mass is part of it.
        codes: Every code once, [m, L], see `all_codes`.

    Example:
        >>> float(np.exp(by_summation(lambda z: np.log(0.25 * (z[:, :1] + 1)), all_codes([2]))[0]).round(12))
        0.75
    """
    parts = [log_sum_exp(log_joint(codes[start : start + BLOCK])) for start in range(0, len(codes), BLOCK)]
    return log_sum_exp(np.stack(parts))


def all_codes(sizes: Sequence[int]) -> np.ndarray:
    """Every code whose dimension j takes the values 0, ..., sizes[j] - 1, [prod(sizes), L].

    Raises:
        BadInput: for sizes below 1, and for more than 2^20 codes.

    Example:
        >>> all_codes([2, 3])[3:].tolist()
        [[1, 0], [1, 1], [1, 2]]
    """
    if not sizes or min(sizes) < 1 or math.prod(sizes) > MOST_POINTS:
        raise BadInput("sizes", list(sizes), f"must be at least 1 each, and at most {MOST_POINTS} codes in all")
    return np.indices(sizes).reshape(len(sizes), -1).T


def expected_bound(log_weight: LogJoint, latent: int, samples: int) -> np.ndarray:
    r"""The exact mean of the importance-weighted bound, E[log mean_K w(e_k)] with e_k ~ N(0, I), for any K, [n].

    .. math:: E[\log \bar w] = \int_0^\infty \left(e^{-t} - E[e^{-t w / K}]^K\right) \frac{dt}{t}

    It is Frullani's integral of the logarithm, with an expectation over one weight in place of K. For K = 1 it is the
    ELBO. The weights must not be zero with a probability that is worth mentioning.

    Args:
        log_weight: From noise e [m, L] to log p(x, z) - log q(z|x) at z(e), [m, n].
        latent: L, 1 or 2.
        samples: K.

    Example:
        >>> log_normal = expected_bound(lambda noise: noise, latent=1, samples=1)
        >>> bool(abs(log_normal[0]) < 1e-9)
        True
    """
    noise, _ = _grid(latent, REACH, round(2 * REACH / NOISE_STEP))
    mass = np.exp(log_standard_normal(noise) + latent * math.log(NOISE_STEP))
    return np.array([_frullani(column, mass / mass.sum(), samples) for column in log_weight(noise).T])


def _frullani(log_w: np.ndarray, mass: np.ndarray, samples: int) -> float:
    """The integral over log t, for weights of a given mass, [m] each."""
    shift = log_sum_exp(log_w + np.log(mass))
    w = np.exp(log_w - shift)
    change = np.array([mass @ np.expm1(-t / samples * w) for t in np.exp(SCALES)])
    with np.errstate(divide="ignore"):  # a mean of exp(-t w) that is zero to rounding
        powers = np.exp(samples * np.log1p(np.maximum(change, -1.0)))
    return float(shift + (np.exp(-np.exp(SCALES)) - powers).sum() * (SCALES[1] - SCALES[0]))


def normal_kl(mean: np.ndarray, covariance: np.ndarray, centre: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """KL(N(mean, covariance) || N(centre, precision⁻¹)), [n], for [n, L], [n, L, L] or [L, L], [n, L] and [L, L]."""
    away = mean - centre
    squares = (away @ precision * away).sum(-1) + np.trace(precision @ covariance, axis1=-2, axis2=-1)
    log_dets = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(precision)[1]
    return 0.5 * (squares - len(precision) - log_dets)


def log_standard_normal(z: np.ndarray) -> np.ndarray:
    """log N(z; 0, I), [...] for [..., L]."""
    return -0.5 * (z**2 + LOG_2PI).sum(-1)


def log_sum_exp(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """log of the sum of exponentials along an axis; minus infinity where nothing is added up.

    Example:
        >>> float(log_sum_exp(np.log([1.0, 3.0])).round(6)) == round(math.log(4), 6)
        True
    """
    top = values.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - top).sum(axis)) + top.squeeze(axis)


def _trapezoid(log_joint: LogJoint, latent: int, reach: float, intervals: int) -> tuple[np.ndarray, np.ndarray]:
    """log of the integral over a grid, and the share of it that one unit beyond the edge may hold, [n] each."""
    codes, on_edge = _grid(latent, reach, intervals)
    step = 2 * reach / intervals
    total = by_summation(log_joint, codes) + latent * math.log(step)
    edge = by_summation(log_joint, codes[on_edge]) + (latent - 1) * math.log(step)
    return total, np.exp(edge - total)


def _grid(latent: int, reach: float, intervals: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of a grid over ±reach in every dimension, [m, L], and which of them lie on its edge, [m]."""
    places = all_codes([intervals + 1] * latent)
    return reach * (2 * places / intervals - 1), ((places == 0) | (places == intervals)).any(1)
