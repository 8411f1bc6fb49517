"""Priors p(z): modules whose forward returns a distribution with one row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .normal import StandardNormal


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
