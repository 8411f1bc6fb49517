"""Normal distributions over the latent space, and what every distribution there offers.

Shapes: K samples, B rows, L latent dimensions. A distribution that depends on no row, such as a prior, has B = 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache, cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import Independent, MultivariateNormal
from torch.distributions import Normal as TorchNormal

from ..core.errors import BadInput

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
ROW_POINTS = 32  # of base noise, for the moments of a row's posterior that have no closed form


EUCLIDEAN = frozenset({"density", "continuous", "euclidean"})
NORMAL = EUCLIDEAN | {"normal"}


class Distribution(Protocol):
    """What a posterior or a prior is.

    A posterior offers `mean`, `variance`, `rsample` and `log_prob`, with B rows, one for each row of data; `sample` too
    where codes are drawn without gradients. A prior offers `mean`, `variance`, `log_prob` and `sample`, with one row,
    or with B where it reads a condition; `rsample` is never asked of it.

    Attributes that need not be there:
        offers: Words for what other parts may ask of it; see `vaelab.models.fits`.
        noise_shape: (B, N), where samples are a function of N standard normal numbers for each row; then `pushed`
            takes noise [K, B, N] to samples [K, B, L] and their log-density [K, B].
        divergence: From a prior and samples z to KL(q || p), as the function `divergence` returns it; None where only
            the Monte Carlo estimate is left.
        extra: Named [B] terms that come with it, such as a commitment loss.
    """

    @property
    def mean(self) -> Tensor:
        """Mean, [B, L]."""

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, [B, L]."""

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """Samples [K, B, L] that carry gradients; from base noise of that shape where it is given. Of posteriors."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of z [K, B, L], [K, B]."""

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without gradients, [count, L] where B = 1, else [count, B, L]. Of priors."""


class Normal(ABC):
    """A normal distribution: standard noise pushed through an affine map."""

    mean: Tensor
    scale_tril: Tensor
    offers = NORMAL

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows, and standard normal numbers that a sample of one takes."""
        rows, size = self.mean.shape
        return rows, size

    def pushed(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Samples from standard noise, both [K, B, L], and their log-density in nats, [K, B]."""
        return self.push(noise), self.log_prob_pushed(noise)

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Variance of each dimension, [B, L]."""

    @abstractmethod
    def push(self, noise: Tensor) -> Tensor:
        """Samples from standard noise, both [K, B, L]."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of z [K, B, L], [K, B]."""

    @property
    @abstractmethod
    def half_log_det(self) -> Tensor:
        """Half the logarithm of the covariance's determinant, [B]."""

    @abstractmethod
    def as_torch(self) -> TorchDistribution:
        """The same distribution as one of `torch.distributions`."""

    def log_prob_pushed(self, noise: Tensor) -> Tensor:
        """Log-density in nats of what `push` makes of standard noise [K, B, L], [K, B].

        It needs no division by the deviation, which leaves no digit of a sample that lies within its rounding.
        """
        return noise.square().sum(-1) * -0.5 - self.half_log_det - noise.shape[-1] * HALF_LOG_2PI

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """Samples [K, B, L] that carry gradients; from base noise of that shape where it is given.

        Raises:
            BadInput: for noise of another shape.
        """
        shape = (samples, *self.mean.shape)
        if noise is None:
            noise = torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device)
        elif noise.shape != shape:
            raise BadInput("noise", tuple(noise.shape), f"must have the shape (samples, rows, latent) = {shape}")
        return self.push(noise)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without gradients, [count, L] where B = 1, else [count, B, L]; the generator is on our device."""
        shape = (count, *self.mean.shape)
        noise = torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.push(noise).squeeze(1)


class StandardNormal(Normal):
    """N(0, I) over `size` dimensions.

    Example:
        >>> StandardNormal(2).log_prob(torch.zeros(1, 3, 2))
        tensor([[-1.8379, -1.8379, -1.8379]])
    """

    offers = NORMAL | {"diagonal"}

    def __init__(self, size: int, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        self.size, self.device, self.dtype = size, device, dtype

    @cached_property
    def mean(self) -> Tensor:  # type: ignore[override]
        """Zeros, [1, L]; made when first read, since a closed-form divergence has no use for them."""
        return torch.zeros(1, self.size, device=self.device, dtype=self.dtype)

    @property
    def variance(self) -> Tensor:
        """Ones, [1, L]."""
        return torch.ones_like(self.mean)

    @cached_property
    def scale_tril(self) -> Tensor:  # type: ignore[override]
        """The identity, [1, L, L]."""
        return torch.diag_embed(self.variance)

    @property
    def half_log_det(self) -> Tensor:
        """Zero, [1]."""
        return self.mean.new_zeros(1)

    def push(self, noise: Tensor) -> Tensor:
        """The noise itself."""
        return noise

    def log_prob(self, z: Tensor) -> Tensor:
        """-(z² + log 2π) / 2, summed over dimensions, in nats, [K, B]."""
        return z.square().sum(-1) * -0.5 - self.size * HALF_LOG_2PI

    def as_torch(self) -> TorchDistribution:
        """The same distribution as one of `torch.distributions`."""
        return Independent(TorchNormal(self.mean, self.variance, validate_args=False), 1, validate_args=False)


class DiagonalNormal(Normal):
    """N(mean, diag(std²)) for each row.

    Args:
        mean: [B, L].
        log_std: Logarithm of the standard deviation, [B, L].
        std: The standard deviation itself, where it is at hand; None: computed when first read.
    """

    offers = NORMAL | {"diagonal"}

    def __init__(self, mean: Tensor, log_std: Tensor, std: Tensor | None = None) -> None:
        self.mean, self.log_std = mean, log_std
        if std is not None:
            self.std = std

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation, [B, L]."""
        return self.log_std.exp()

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, [B, L]."""
        return self.std.square()

    @cached_property
    def scale_tril(self) -> Tensor:  # type: ignore[override]
        """Cholesky factor of the covariance, [B, L, L]."""
        return torch.diag_embed(self.std)

    @property
    def half_log_det(self) -> Tensor:
        """The sum of the logarithms of the deviations, [B]."""
        return self.log_std.sum(-1)

    def push(self, noise: Tensor) -> Tensor:
        """mean + std * noise, [K, B, L]."""
        return torch.addcmul(self.mean, self.std, noise)

    def chosen(self, index: Tensor) -> DiagonalNormal:
        """Some of the rows."""
        return DiagonalNormal(self.mean[index], self.log_std[index])

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of z [K, B, L], [K, B]."""
        squares = ((z - self.mean) / self.std).square().sum(-1)
        return squares * -0.5 - self.half_log_det - z.shape[-1] * HALF_LOG_2PI

    def as_torch(self) -> TorchDistribution:
        """The same distribution as one of `torch.distributions`."""
        return Independent(TorchNormal(self.mean, self.std, validate_args=False), 1, validate_args=False)


class FullNormal(Normal):
    """N(mean, scale_tril scale_trilᵀ) for each row.

    Args:
        mean: [B, L].
        scale_tril: Lower triangular with a positive diagonal, [B, L, L].
    """

    def __init__(self, mean: Tensor, scale_tril: Tensor) -> None:
        self.mean, self.scale_tril = mean, scale_tril

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, [B, L]."""
        return self.scale_tril.square().sum(-1)

    @property
    def half_log_det(self) -> Tensor:
        """The sum of the logarithms of the factor's diagonal, [B]."""
        return half_log_det(self.scale_tril)

    def push(self, noise: Tensor) -> Tensor:
        """mean + scale_tril noise, [K, B, L]."""
        # Mixed precision would round a matrix product to bfloat16.
        with torch.autocast(noise.device.type, enabled=False):
            return self.mean + (self.scale_tril @ noise.permute(1, 2, 0)).permute(2, 0, 1)

    def chosen(self, index: Tensor) -> FullNormal:
        """Some of the rows."""
        return FullNormal(self.mean[index], self.scale_tril[index])

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of z [K, B, L], [K, B]."""
        squares = whiten(self.scale_tril, (z - self.mean).permute(1, 2, 0)).square().sum(1).T
        return squares * -0.5 - self.half_log_det - z.shape[-1] * HALF_LOG_2PI

    def as_torch(self) -> TorchDistribution:
        """The same distribution as one of `torch.distributions`."""
        return MultivariateNormal(self.mean, scale_tril=self.scale_tril, validate_args=False)


def whiten(scale_tril: Tensor, columns: Tensor) -> Tensor:
    """scale_tril⁻¹ columns, for [B, L, L] and [B, L, N]."""
    return torch.linalg.solve_triangular(scale_tril, columns, upper=False)


def half_log_det(scale_tril: Tensor) -> Tensor:
    """Half the logarithm of the covariance's determinant, [B]."""
    return scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def fixed_noise(points: int, shape: tuple[int, int]) -> Tensor:
    """The same standard normal numbers for every row of a `noise_shape` (B, N), [points, B, N], float64.

    They are antithetic, and their squares have the mean 1, so that moments over them are exact for what scales and
    shifts, repeatable, and differentiable.
    """
    rows, size = shape
    return _fixed(points, size)[:, None].expand(-1, rows, -1)


@cache
def _fixed(points: int, size: int) -> Tensor:
    half = torch.randn(points // 2, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    half = half / half.square().mean(0).sqrt()
    return torch.cat([half, -half])


def soft_clamp(x: Tensor, bound: float) -> Tensor:
    """bound * tanh(x / bound): within ±bound, the identity near 0, without a corner."""
    return (x * (1 / bound)).tanh() * bound


def soft_unclamp(y: Tensor, bound: float) -> Tensor:
    """What `soft_clamp` makes y of, or as near as it comes."""
    inside = bound * (1 - 4 * torch.finfo(y.dtype).eps)
    return bound * (y.clamp(-inside, inside) / bound).atanh()


def full_precision(x: Tensor) -> Tensor:
    """At least float32: a sum of hundreds of terms has no right digit left in bfloat16."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
