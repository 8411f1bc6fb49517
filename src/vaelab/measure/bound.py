"""The bound on held-out rows, kept as sums and counts so that chunks, short batches and processes agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..core.output import VAEOutput, weighted_bound
from ..distributions.normal import StandardNormal
from .code_use import CodeUse

ACTIVE_NATS = 0.01  # a dimension is in use when its average divergence is above this
DENSITY = frozenset({"density"})  # what a distribution has that does not say otherwise
ACTIVE_VARIANCE = 0.01  # or, in the older definition, when its posterior mean varies by more than this over rows


class BoundSums:
    """Sums over rows of the negative ELBO and its parts, always at beta = 1, in nats.

    Example:
        >>> sums = BoundSums(groups=1, latent=2)
        >>> sums.vector.shape
        torch.Size([12])

    Args:
        groups: Of the divergence.
        latent: Dimensions of z.
        bound_samples: Samples of the importance-weighted bound that is added up as well; 1: none is.
    """

    def __init__(self, groups: int, latent: int, bound_samples: int = 1) -> None:
        self.groups, self.kl_is_exact, self.standard_prior, self.is_bound = groups, True, True, True
        self.bound_samples, self.codes = bound_samples, CodeUse()
        # count, negative ELBO, its square, reconstruction, its square; KL of each group; sums of the posterior's means,
        # of their squares and of its variances; the negative importance-weighted bound and its square
        self.vector = torch.zeros(5 + groups + 3 * latent + self._further, dtype=torch.float64)

    @property
    def _further(self) -> int:
        """Numbers that the importance-weighted bound takes."""
        return 2 if self.bound_samples > 1 else 0

    def update(self, output: VAEOutput) -> None:
        """Adds the rows of a batch."""
        self.kl_is_exact &= output.kl_is_exact
        self.standard_prior &= isinstance(output.prior, StandardNormal)
        self.is_bound &= "density" in getattr(output.posterior, "offers", DENSITY)
        negative = -output.elbo.double()
        reconstruction = -output.log_px.double().mean(0)
        squares = negative.square(), reconstruction.square()
        head = torch.stack([torch.ones_like(negative), negative, squares[0], reconstruction, squares[1]]).sum(1)
        mean, variance = output.posterior.mean.double(), output.posterior.variance.double()
        moments = [mean.sum(0), mean.square().sum(0), variance.sum(0)]
        if self._further:
            bound = -weighted_bound(output.log_weights.double(), self.bound_samples)
            moments.append(torch.stack([bound.sum(), bound.square().sum()]))
        self.codes.update(output)
        self.vector += torch.cat([head, output.kl.double().sum(0), *moments]).cpu()

    def compute(self, shift: float = 0.0) -> dict[str, Any]:
        """Means in nats per sample on the data's own scale.

        Args:
            shift: log|det| of the transform from the data's scale to the model's, in nats per sample: a density of the
                transformed rows is one of the rows themselves after adding it.

        Returns:
            `negative_elbo` with its `standard_error` (of the mean over rows), `reconstruction` likewise, `kl`,
            `kl_per_dimension`, `active_units` (dimensions with more than 0.01 nats) and `aggregate_kl`: the divergence
            from N(0, 1) of a normal with the moments of the aggregate posterior q(z), summed over dimensions. It is a
            part of `kl` that says nothing about a row: what a prior in the wrong place costs; None for another prior.
            `mean_variance` and `posterior_variance`, [L]: variance over rows of the posterior mean, and mean over rows
            of the posterior variance; `active_by_mean` counts dimensions whose mean varies by more than 0.01 (Burda,
            Grosse, Salakhutdinov, Importance Weighted Autoencoders, 2016).
            `posterior_variance` is empty for posteriors that are points by their making.
            `kl_is_exact` is False where the divergence is a Monte Carlo estimate.
            `is_bound` is False for codes without noise, which have no divergence: `negative_elbo` is then the
            reconstruction alone, and bounds nothing.
            Where z is made of codes, what `CodeUse.compute` says of them.
            Where it was added up, `negative_bound`, the negative importance-weighted bound, with its `bound_error` and
            its `bound_samples`.
        """
        count, negative, square, reconstruction, its_square, *rest = self.vector.tolist()
        groups, moments = rest[: self.groups], self.vector[5 + self.groups : len(self.vector) - self._further] / count
        mean, error = _with_error(negative, square, count)
        kl = [group / count for group in groups]
        first, squares, spread = moments.chunk(3)
        mean_variance = (squares - first.square()).clamp(min=0)
        return {
            "rows": int(count),
            "negative_elbo": mean - shift,
            "standard_error": error,
            "reconstruction": reconstruction / count - shift,
            "reconstruction_error": _with_error(reconstruction, its_square, count)[1],
            "kl": sum(kl),
            "kl_per_dimension": kl,
            "active_units": sum(value > ACTIVE_NATS for value in kl),
            "active_by_mean": int((mean_variance > ACTIVE_VARIANCE).sum()),
            "mean_variance": mean_variance.tolist(),
            "posterior_variance": spread.tolist() if spread.any() else [],
            "aggregate_kl": _from_standard(first, squares + spread) if self.standard_prior else None,
            "kl_is_exact": self.kl_is_exact,
            "is_bound": self.is_bound,
            **self._weighted(count, shift),
            **self.codes.compute(),
        }

    def _weighted(self, count: float, shift: float) -> dict[str, Any]:
        """What is said of the importance-weighted bound."""
        if not self._further:
            return {}
        total, squares = self.vector[-2:].tolist()
        mean, error = _with_error(total, squares, count)
        return {"negative_bound": mean - shift, "bound_error": error, "bound_samples": self.bound_samples}


def selected_by(measured: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """What weights are selected by: its name, its value and its standard error in nats per sample.

    Args:
        measured: What `BoundSums.compute` returned, or a line of metrics; a value that was not finite is None there.
    """
    if not measured.get("is_bound", True):
        return "reconstruction (codes without noise have no ELBO)", *_reconstruction(measured)
    if not measured.get("charged", True):
        return "reconstruction (this objective charges no KL)", *_reconstruction(measured)
    if "negative_bound" not in measured:
        return "negative ELBO", measured["negative_elbo"], measured.get("standard_error")
    name = f"negative {measured['bound_samples']}-sample bound"
    return name, measured["negative_bound"], measured["bound_error"]


def _reconstruction(measured: Mapping[str, Any]) -> tuple[Any, Any]:
    """It and its standard error; of older runs only that of the ELBO is known."""
    return measured["reconstruction"], measured.get("reconstruction_error", measured.get("standard_error"))


def _with_error(total: float, squares: float, count: float) -> tuple[float, float]:
    """A mean over rows and its standard error."""
    mean = total / count
    variance = max(squares / count - mean**2, 0.0) * count / max(count - 1, 1)
    return mean, math.sqrt(variance / count)


def _from_standard(first: torch.Tensor, second: torch.Tensor) -> float:
    """KL(N(m, v) || N(0, 1)) summed over dimensions, from first and second moments, [L] each."""
    variance = (second - first.square()).clamp(min=1e-30)
    return 0.5 * (second - 1 - variance.log()).sum().item()
