"""Priors p(z): modules whose forward returns a distribution with one row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .normal import DiagonalNormal, StandardNormal, full_precision, soft_clamp

LOG_STD_BOUND = 7.0  # a deviation of a thousandth or a thousand


class StandardNormalPrior(nn.Module):
    """p(z) = N(0, I) over `latent` dimensions, on the module's device and in its precision.

    Example:
        >>> StandardNormalPrior(2)().sample(5).shape
        torch.Size([5, 2])
    """

    anchor: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent
        # Moves with the module, and is no part of what is saved.
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def forward(self, context: Tensor | None = None) -> StandardNormal:
        """The standard normal; it depends on no context."""
        return StandardNormal(self.latent, self.anchor.device, self.anchor.dtype)


class ConditionalNormalPrior(nn.Module):
    """p(z|c) = N(mean(c), diag(deviation(c)²)): one network for both, which starts near the standard normal.

    Reference: Sohn, Lee and Yan, Learning Structured Output Representation using Deep Conditional Generative Models,
    2015.

    Args:
        net: Maps a condition [B, C] to features [B, features].
        features: Width of the features.
        latent: Dimensions L of z.

    Example:
        >>> ConditionalNormalPrior(nn.Identity(), 3, 2)(torch.zeros(5, 3)).mean.shape
        torch.Size([5, 2])
    """

    def __init__(self, net: nn.Module, features: int, latent: int) -> None:
        super().__init__()
        self.latent, self.net = latent, net
        self.head = nn.Linear(features, 2 * latent)

    def start(self) -> None:
        """Begin near N(0, I), where codes are pulled wherever the data wants them."""
        with torch.no_grad():
            self.head.weight.mul_(0.1)

    def forward(self, condition: Tensor) -> DiagonalNormal:
        """The prior of each row, from conditions [B, C]."""
        mean, log_std = full_precision(self.head(self.net(condition.to(self.head.weight.dtype)))).chunk(2, -1)
        return DiagonalNormal(mean, soft_clamp(log_std, LOG_STD_BOUND))
