"""What an objective is: a function of the model's record and of the step's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

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

    @property
    def samples(self) -> int:
        """Posterior samples per row (K)."""

    @property
    def bound_samples(self) -> int:
        """Samples of the importance-weighted bound; 1 for the ELBO."""

    @property
    def requires(self) -> frozenset[str]:
        """Words that posterior and prior must offer."""

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


def loss_of(total: Tensor, output: VAEOutput, weights: Mapping[str, float], **terms: Tensor) -> Loss:
    """A bound's loss: the record's further terms are added to it, and what is shown carries no gradient.

    Args:
        total: The scalar so far, a mean over the batch.
        terms: Further named [B] terms to show.
    """
    for term in output.extra.values():
        total = total + term.mean()
    # On a small model the share of what is shown in the backward pass could be measured.
    shown = {
        "reconstruction": -output.log_px.detach().mean(0),
        "kl": output.kl.detach().sum(1),
        **terms,
        **output.extra,
    }
    return Loss(total, {name: term.detach() for name, term in shown.items()}, dict(weights))
