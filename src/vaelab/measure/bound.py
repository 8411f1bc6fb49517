"""The bound on held-out rows, kept as sums and counts so that chunks, short batches and processes agree."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..core.output import VAEOutput

ACTIVE_NATS = 0.01  # a dimension is active when its average divergence is above this (the field's usual 0.01 nats)


class BoundSums:
    """Sums over rows of the negative ELBO and its parts, always at beta = 1, in nats.

    Example:
        >>> sums = BoundSums(latent_groups=2)
        >>> sums.vector.shape
        torch.Size([6])
    """

    def __init__(self, latent_groups: int) -> None:
        # count, negative ELBO, its square, reconstruction, KL of each group
        self.vector = torch.zeros(4 + latent_groups, dtype=torch.float64)

    def update(self, output: VAEOutput) -> None:
        """Adds the rows of a batch."""
        negative = -output.elbo.double()
        reconstruction = -output.log_px.double().mean(0)
        head = torch.stack([torch.ones_like(negative), negative, negative.square(), reconstruction]).sum(1)
        self.vector += torch.cat([head, output.kl.double().sum(0)]).cpu()

    def compute(self, shift: float = 0.0) -> dict[str, Any]:
        """Means in nats per sample on the data's own scale.

        Args:
            shift: log|det| of the transform from the data's scale to the model's, in nats per sample: a density of the
                transformed rows is one of the rows themselves after adding it.

        Returns:
            `negative_elbo` with its `standard_error` (of the mean over rows), `reconstruction`, `kl`,
            `kl_per_dimension` and `active_units` (dimensions with more than 0.01 nats).
        """
        count, negative, square, reconstruction, *groups = self.vector.tolist()
        mean = negative / count
        variance = max(square / count - mean**2, 0.0) * count / max(count - 1, 1)
        kl = [group / count for group in groups]
        return {
            "rows": int(count),
            "negative_elbo": mean - shift,
            "standard_error": math.sqrt(variance / count),
            "reconstruction": reconstruction / count - shift,
            "kl": sum(kl),
            "kl_per_dimension": kl,
            "active_units": sum(value > ACTIVE_NATS for value in kl),
        }

