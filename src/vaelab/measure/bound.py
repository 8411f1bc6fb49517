"""The bound on held-out rows, kept as sums and counts so that chunks, short batches and processes agree."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..core.output import VAEOutput
from ..distributions.normal import StandardNormal

ACTIVE_NATS = 0.01  # a dimension is in use when its average divergence is above this
ACTIVE_VARIANCE = 0.01  # or, in the older definition, when its posterior mean varies by more than this over rows


class BoundSums:
    """Sums over rows of the negative ELBO and its parts, always at beta = 1, in nats.

    Example:
        >>> sums = BoundSums(groups=1, latent=2)
        >>> sums.vector.shape
        torch.Size([11])
    """

    def __init__(self, groups: int, latent: int) -> None:
        self.groups, self.kl_is_exact, self.standard_prior = groups, True, True
        # count, negative ELBO, its square, reconstruction; KL of each group; sums of the posterior's means, of their
        # squares and of its variances
        self.vector = torch.zeros(4 + groups + 3 * latent, dtype=torch.float64)

    def update(self, output: VAEOutput) -> None:
        """Adds the rows of a batch."""
        self.kl_is_exact &= output.kl_is_exact
        self.standard_prior &= isinstance(output.prior, StandardNormal)
        negative = -output.elbo.double()
        reconstruction = -output.log_px.double().mean(0)
        head = torch.stack([torch.ones_like(negative), negative, negative.square(), reconstruction]).sum(1)
        mean, variance = output.posterior.mean.double(), output.posterior.variance.double()
        moments = [mean.sum(0), mean.square().sum(0), variance.sum(0)]
        self.vector += torch.cat([head, output.kl.double().sum(0), *moments]).cpu()

    def compute(self, shift: float = 0.0) -> dict[str, Any]:
        """Means in nats per sample on the data's own scale.

        Args:
            shift: log|det| of the transform from the data's scale to the model's, in nats per sample: a density of the
                transformed rows is one of the rows themselves after adding it.

        Returns:
            `negative_elbo` with its `standard_error` (of the mean over rows), `reconstruction`, `kl`,
            `kl_per_dimension`, `active_units` (dimensions with more than 0.01 nats) and `aggregate_kl`: the divergence
            from N(0, 1) of a normal with the moments of the aggregate posterior q(z), summed over dimensions. It is a
            part of `kl` that says nothing about a row: what a prior in the wrong place costs; None for another prior.
            `mean_variance` and `posterior_variance`, [L]: variance over rows of the posterior mean, and mean over rows
            of the posterior variance; `active_by_mean` counts dimensions whose mean varies by more than 0.01 (Burda,
            Grosse, Salakhutdinov, Importance Weighted Autoencoders, 2016).
            `kl_is_exact` is False where the divergence is a Monte Carlo estimate.
        """
        count, negative, square, reconstruction, *rest = self.vector.tolist()
        groups, moments = rest[: self.groups], self.vector[4 + self.groups :] / count
        mean = negative / count
        variance = max(square / count - mean**2, 0.0) * count / max(count - 1, 1)
        kl = [group / count for group in groups]
        first, squares, spread = moments.chunk(3)
        mean_variance = (squares - first.square()).clamp(min=0)
        return {
            "rows": int(count),
            "negative_elbo": mean - shift,
            "standard_error": math.sqrt(variance / count),
            "reconstruction": reconstruction / count - shift,
            "kl": sum(kl),
            "kl_per_dimension": kl,
            "active_units": sum(value > ACTIVE_NATS for value in kl),
            "active_by_mean": int((mean_variance > ACTIVE_VARIANCE).sum()),
            "mean_variance": mean_variance.tolist(),
            "posterior_variance": spread.tolist(),
            "aggregate_kl": _from_standard(first, squares + spread) if self.standard_prior else None,
            "kl_is_exact": self.kl_is_exact,
        }


def _from_standard(first: torch.Tensor, second: torch.Tensor) -> float:
    """KL(N(m, v) || N(0, 1)) summed over dimensions, from first and second moments, [L] each."""
    variance = (second - first.square()).clamp(min=1e-30)
    return 0.5 * (second - 1 - variance.log()).sum().item()
