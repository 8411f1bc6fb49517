"""`Step`: the whole computation of a training step as one module, which synchronisation and compilation hang on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..models.vae import Model
from ..objectives.elbo import ELBO


class Step(nn.Module):
    """A model under an objective.

    Args:
        model: Anything that offers `draw(x, samples, noise) -> VAEOutput`.
        objective: A function of that record and of the step's weights.
        autocast: The lower precision to compute the networks in; None for full precision.
    """

    def __init__(self, model: Model, objective: ELBO, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model, self.objective, self.autocast = model, objective, autocast

    def forward(
        self, x: Tensor, weights: Mapping[str, float], noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss to minimise (a mean over the batch), the sums over rows of its terms, and of KL per group [G]."""
        if self.autocast is None:
            return self._computed(x, weights, noise)
        with torch.autocast(x.device.type, self.autocast):
            return self._computed(x, weights, noise)

    def _computed(
        self, x: Tensor, weights: Mapping[str, float], noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        output = self.model.draw(x, samples=self.objective.samples, noise=noise)
        loss = self.objective(output, weights)
        return loss.total, {name: term.sum() for name, term in loss.terms.items()}, output.kl.detach().sum(0)
