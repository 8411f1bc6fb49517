"""Distributions p(x|z) of the data, at given parameters: what a likelihood returns.

Shapes: K samples, B rows, then the shape of a row; parameters are [K, B, *shape], log-densities [K, B].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .normal import HALF_LOG_2PI
from .special import Generator, per_row


class Observation(Protocol):
    """What the decoder returns: a distribution of x for each sample and row."""

    @property
    def mean(self) -> Tensor:
        """Mean, [K, B, *shape]."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density or log-mass in nats of x [B, *shape], summed over the entries of a row, [K, B].

        Where entries are independent given z, `per_entry` gives that of each, [K, B, *shape]; masses of counts and of
        beta-binomial levels in float64, others in the parameters' type.
        """

    def sample(self, generator: Generator = None) -> Tensor:
        """One draw for each sample and row, [K, B, *shape]; the generator is on the parameters' device."""


class BernoulliObservation:
    """Mass x log p + (1 - x) log(1 - p) with logit p = `logits`; for gray x it is a loss (a cross-entropy), no mass."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @property
    def mean(self) -> Tensor:
        """p, [K, B, *shape]."""
        return self.logits.sigmoid()

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-mass in nats of each entry of x [B, *shape], [K, B, *shape]."""
        target, logits = torch.broadcast_tensors(x.to(self.logits.dtype), self.logits)
        return -F.binary_cross_entropy_with_logits(logits, target, reduction="none")

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of x [B, *shape], [K, B]."""
        if torch.is_grad_enabled():  # what a tensor itself says of its gradient is not to be trusted under vmap
            return per_row(self.per_entry(x))
        target = x.to(self.logits.dtype)
        # log(1 + e^l) - x l is the same; without a backward pass to serve it takes half the time for many codes.
        add = Tensor.addcmul_ if len(target) in (1, self.logits.shape[1]) else Tensor.addcmul  # rows may be spread
        return -per_row(add(F.softplus(self.logits), self.logits, target, value=-1))

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Zeros and ones, [K, B, *shape]."""
        return self.mean.bernoulli(generator=generator)


class ContinuousBernoulliObservation:
    """Density exp(l x) l / (e^l - 1) on [0, 1], with l = `logits`: the Bernoulli form, normalised for gray x.

    References:
        Loaiza-Ganem and Cunningham, The continuous Bernoulli: fixing a pervasive error in variational autoencoders,
        2019.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @property
    def mean(self) -> Tensor:
        """The derivative of the log-normaliser, 1/2 + coth(l/2)/2 - 1/l, [K, B, *shape]."""
        near, small, large = _split(self.logits)
        half = small / 2
        series = half * _polynomial([power * c for power, c in enumerate(LOG_SINHC, 1)], half.square())
        far = torch.copysign(0.5 / (large / 2).tanh() - 1 / large, self.logits)
        return 0.5 + torch.where(near, series, far)

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-density in nats of each entry of x [B, *shape], [K, B, *shape]."""
        return (x - 0.5) * self.logits - log_sinhc(self.logits)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of x [B, *shape], [K, B]."""
        return per_row(self.per_entry(x))

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Values in [0, 1] by the inverse distribution function, [K, B, *shape]."""
        uniform = torch.rand(self.logits.shape, generator=generator, dtype=self.logits.dtype, device=self.logits.device)
        # With a negative logit nothing overflows; a positive one is its mirror image.
        negative = -self.logits.abs().clamp(min=1e-6)
        drawn = (uniform * negative.expm1()).log1p() / negative
        return torch.where(self.logits > 0, 1 - drawn, drawn)


class NormalObservation:
    """Density N(x; mean, σ²) of each entry.

    Args:
        mean: [K, B, *shape].
        log_sigma: log σ, broadcastable to the mean, as a function of the squared errors [K, B, *shape], or of None
            where there are none: noise in closed form is a function of them, other noise is not.
    """

    def __init__(self, mean: Tensor, log_sigma: Callable[[Tensor | None], Tensor]) -> None:
        self.mean, self.log_sigma = mean, log_sigma

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of x [B, *shape], [K, B]."""
        entries = self._above_constant(x)
        return per_row(entries) - entries.shape[2:].numel() * HALF_LOG_2PI

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-density in nats of each entry of x [B, *shape], [K, B, *shape]."""
        return self._above_constant(x) - HALF_LOG_2PI

    def _above_constant(self, x: Tensor) -> Tensor:
        squares = (x - self.mean).square()
        log_sigma = self.log_sigma(squares)
        return -(squares * (0.5 * (-2 * log_sigma).exp()) + log_sigma)

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """[K, B, *shape]."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.log_sigma(None).exp() * noise


class CategoricalObservation:
    """Mass softmax(logits)[x] of each entry, x in 0, 1, ..., levels - 1.

    Args:
        logits: [K, B, levels, *shape].
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @property
    def mean(self) -> Tensor:
        """Mean level, [K, B, *shape]."""
        levels = torch.arange(self.logits.shape[2], dtype=self.logits.dtype, device=self.logits.device)
        return torch.tensordot(self.logits.softmax(2), levels, dims=([2], [0]))

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-mass in nats of each entry of x [B, *shape], whole numbers of any type, [K, B, *shape]."""
        target = x.long().expand(len(self.logits), *x.shape)
        nats = F.cross_entropy(self.logits.flatten(0, 1), target.flatten(0, 1), reduction="none")
        return -nats.view(target.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of x [B, *shape], [K, B]."""
        return per_row(self.per_entry(x))

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Whole numbers in the logits' type, [K, B, *shape]."""
        table = self.logits.softmax(2).movedim(2, -1)
        drawn = torch.multinomial(table.flatten(0, -2), 1, generator=generator)
        return drawn.view(table.shape[:-1]).to(self.logits.dtype)


class PoissonObservation:
    """Mass e^-λ λ^x / x! of each count, with log λ = `log_rate`."""

    def __init__(self, log_rate: Tensor) -> None:
        self.log_rate = log_rate

    @property
    def mean(self) -> Tensor:
        """λ, [K, B, *shape]."""
        return self.log_rate.exp()

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-mass in nats of each entry of counts x [B, *shape], [K, B, *shape]."""
        counts = x.to(self.log_rate.dtype)
        return counts * self.log_rate - self.mean - (counts + 1).lgamma()

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of counts x [B, *shape], [K, B]."""
        return per_row(self.per_entry(x))

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Counts in the rate's type, [K, B, *shape]."""
        return torch.poisson(self.mean, generator=generator)


# Coefficients of log(sinh(h) / h) in powers of h², h = l / 2; within |l| < 1/2 the first term left out is below 1e-16.
LOG_SINHC = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250)
NEAR = 0.5


def log_sinhc(logits: Tensor) -> Tensor:
    """log(sinh(l/2) / (l/2)), the even part of the continuous Bernoulli's log-normaliser log((e^l - 1) / l).

    Near 0 it is a Taylor series, since the closed form loses its digits there, and its gradient 1/l - 1/l more so.
    """
    near, small, large = _split(logits)
    squared = (small / 2).square()
    far = large / 2 + (-(-large).exp()).log1p() - large.log()
    return torch.where(near, squared * _polynomial(LOG_SINHC, squared), far)


def _split(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where l is near 0; l there, else 0; |l| elsewhere, else `NEAR`: neither branch sees what belongs to the other."""
    size = logits.abs()
    near = size < NEAR
    return near, torch.where(near, logits, 0.0), torch.where(near, NEAR, size)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """c0 + c1 x + c2 x² + ..., by Horner's rule."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
