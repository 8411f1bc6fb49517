"""The evidence lower bound and its weighted relatives: beta, annealing, capacity, free bits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..core.across import global_mean
from ..core.errors import BadInput, whole
from ..core.output import Loss, VAEOutput
from ..core.tables import pick
from ..schedules import Schedule, constant


class ELBO:
    r"""Negative evidence lower bound, minimised; nats per sample: sums over dimensions, a mean over the batch.

    .. math:: L = E[-\log p(x|z)] + \beta \, KL(q(z|x) \| p(z))

    With `free_bits` (Kingma, Salimans et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016)
    the divergence of each dimension or group is averaged over the batch first and then floored, which keeps a gradient
    for single samples: `sum_g max(free_bits, mean_B KL_g)`. With `capacity` (Burgess et al., Understanding
    Disentangling in beta-VAE, 2018) the divergence is held at a target: `beta * |mean_B KL - capacity|`.

    Args:
        beta: Weight of the divergence, a number or a schedule (Higgins et al., beta-VAE, 2017).
        free_bits: Nats per dimension or group that cost nothing; 0 switches it off.
        free_bits_per: "dimension", or "group" for one floor under the whole divergence.
        capacity: Target rate in nats, a number or a schedule; None switches it off.
        samples: Posterior samples per row (K).

    Raises:
        BadInput: for a negative or non-finite weight, and for free bits together with a capacity.

    Example:
        >>> ELBO(beta=4.0).weights(step=0)
        {'beta': 4.0}
    """

    bound_samples = 1
    requires = frozenset({"density"})

    def __init__(
        self,
        beta: float | Schedule = 1.0,
        *,
        free_bits: float = 0.0,
        free_bits_per: str = "dimension",
        capacity: float | Schedule | None = None,
        samples: int = 1,
    ) -> None:
        numbers = {"beta": beta, "free_bits": free_bits, "capacity": capacity}
        for name, value in numbers.items():
            if not isinstance(value, int | float | Schedule | None):
                raise BadInput(name, value, "must be a number or a schedule")
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise BadInput(name, value, "must be a finite number of at least 0")
        if capacity is not None and free_bits > 0:
            raise BadInput("capacity", capacity, "cannot be combined with free_bits", "set one of them")
        whole("samples", samples)
        pick({"dimension": 0, "group": 0}, free_bits_per, "free_bits_per")
        self.beta = beta if isinstance(beta, Schedule) else constant(float(beta))
        self.capacity = constant(float(capacity)) if isinstance(capacity, int | float) else capacity
        self.free_bits, self.free_bits_per, self.samples = free_bits, free_bits_per, samples

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"ELBO({settings})"

    @property
    def bends(self) -> bool:
        """Whether the loss is no mean over rows: free bits and a capacity bend the batch's mean."""
        return bool(self.free_bits) or self.capacity is not None

    @property
    def warmup_ends(self) -> int:
        """The first step from which no weight moves any more."""
        return max(self.beta.ends, self.capacity.ends if self.capacity else 0)

    def weights(self, step: int) -> dict[str, float]:
        """The weights in force at a step."""
        weights = {"beta": self.beta(step)}
        return weights | {"capacity": self.capacity(step)} if self.capacity else weights

    def __call__(self, output: VAEOutput, weights: Mapping[str, float]) -> Loss:
        """The loss of a batch under given weights."""
        total = weights["beta"] * self._rate(output.kl, weights) - output.log_px.mean()
        for term in output.extra.values():
            total = total + term.mean()
        # What is shown carries no gradient: on a small model its share of the backward pass could be measured.
        terms = {"reconstruction": -output.log_px.detach().mean(0), "kl": output.kl.detach().sum(1)}
        return Loss(total, terms | {name: term.detach() for name, term in output.extra.items()}, dict(weights))

    def _rate(self, kl: Tensor, weights: Mapping[str, float]) -> Tensor:
        """The batch's divergence after capacity or free bits; `kl` is [B, G].

        Both bend the batch's mean, so over several processes the side of the bend is decided by the global batch.
        """
        if "capacity" not in weights and not self.free_bits:
            return kl.sum() / len(kl)
        per_group = kl if self.free_bits and self.free_bits_per == "dimension" else kl.sum(1, keepdim=True)
        local, everywhere = per_group.mean(0), global_mean(per_group.sum(0), len(kl))
        if "capacity" in weights:
            target = weights["capacity"]
            return ((local - target) * (everywhere - target).sign()).sum()
        return local.where(everywhere > self.free_bits, everywhere.new_tensor(self.free_bits)).sum()
