"""What an objective is: a function of the model's record and of the step's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from ..core.output import Loss, VAEOutput


@runtime_checkable
class Objective(Protocol):
    """What the loop asks of an objective. One with parameters of its own (a discriminator) is an `nn.Module` too.

    Attributes:
        samples: Posterior samples per row (K).
        bound_samples: Samples of the importance-weighted bound that it maximises, by which weights are then selected;
            1 where that is the ELBO.
        requires: Words that posterior and prior must offer, see `vaelab.models.fits`.
        bends: Whether the loss is no mean over rows, so that it cannot be added up from slices of a batch.
        warmup_ends: The first step from which no weight moves any more.
    """

    samples: int
    bound_samples: int
    requires: frozenset[str]

    @property
    def bends(self) -> bool:
        """Whether the loss is no mean over rows."""

    @property
    def warmup_ends(self) -> int:
        """The first step from which no weight moves any more."""

    def weights(self, step: int) -> dict[str, float]:
        """The weights in force at a step; the divergence's is called `beta`."""

    def __call__(self, output: VAEOutput, weights: Mapping[str, float]) -> Loss:
        """The loss of a batch under given weights, with the terms `reconstruction` and `kl` among others."""
