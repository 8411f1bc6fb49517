"""Mixtures of normal distributions, as a prior p(z) of one row."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn

from .normal import EUCLIDEAN, DiagonalNormal, FullNormal

MOST_VALUES = 2**22  # differences held at once: 16 MiB in float32, which a cache and a small machine can bear
START_VARIANCE = 0.25  # of a component


class Mixture:
    r"""p(z) = sum_m w_m N(z; m-th mean, m-th covariance), one row.

    The differences z - mean are taken for each component as they are, since squares expanded into products lose all
    digits where a component is narrow; z is cut into parts, so that memory stays bounded however many there are.

    Args:
        log_weights: log w, [M], which need not be normalised.
        components: A normal distribution with M rows.

    Example:
        >>> one = DiagonalNormal(torch.zeros(1, 2), torch.zeros(1, 2))
        >>> Mixture(torch.zeros(1), one).log_prob(torch.zeros(1, 3, 2))
        tensor([[-1.8379, -1.8379, -1.8379]])
    """

    offers = EUCLIDEAN

    def __init__(self, log_weights: Tensor, components: DiagonalNormal | FullNormal) -> None:
        self.log_weights, self.components = log_weights.log_softmax(0), components

    @cached_property
    def mean(self) -> Tensor:
        """Mean, [1, L]."""
        return self.log_weights.exp()[None] @ self.components.mean

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, [1, L]: the mean of the components' own, and that of their means."""
        spread = self.components.variance + (self.components.mean - self.mean).square()
        return self.log_weights.exp()[None] @ spread

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of z [K, B, L], [K, B]."""
        points = z.reshape(-1, 1, z.shape[-1])
        at_once = max(1, MOST_VALUES // self.components.mean.numel())
        parts = [(self.components.log_prob(part) + self.log_weights).logsumexp(1) for part in points.split(at_once)]
        return torch.cat(parts).reshape(z.shape[:-1])

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without gradients, [count, L]; the generator is on our device."""
        index = self.log_weights.exp().multinomial(count, replacement=True, generator=generator)
        return self.components.chosen(index).sample(1, generator).reshape(count, -1)


class MixturePrior(nn.Module):
    """p(z): a mixture of diagonal normals with learned weights, means and deviations.

    Means begin at random with variance 3/4 and components with variance 1/4: together about the standard normal.

    Args:
        latent: Dimensions L of z.
        components: M.
    """

    def __init__(self, latent: int, components: int = 100) -> None:
        super().__init__()
        self.latent = latent
        self.log_weights = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent) * math.sqrt(1 - START_VARIANCE))
        self.log_stds = nn.Parameter(torch.full((components, latent), 0.5 * math.log(START_VARIANCE)))

    def forward(self, context: Tensor | None = None) -> Mixture:
        """The mixture; it depends on no context."""
        return Mixture(self.log_weights, DiagonalNormal(self.means, self.log_stds))
