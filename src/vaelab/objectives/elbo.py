"""The evidence lower bound and its weighted relatives: beta, annealing, capacity, free bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core.across import global_mean
from ..core.errors import BadInput, whole
from ..core.output import Loss, VAEOutput
from ..core.tables import pick
from ..schedules import Schedule, constant
from .base import loss_of


class ELBO:
    r"""Negative evidence lower bound, minimised; nats per sample: sums over dimensions, a mean over the batch.

    .. math:: L = E[-\log p(x|z)] + \beta \, KL(q(z|x) \| p(z))

    With `free_bits` (Kingma, Salimans et al., Improved Variational Inference with Inverse Autoregressive Flow, 2016)
    the divergence of each dimension or group is averaged over the batch first and then floored, which keeps a gradient
    for single samples: `sum_g max(free_bits, mean_B KL_g)`. With `capacity` (Burgess et al., Understanding
    Disentangling in beta-VAE, 2018) the divergence is held at a target: `beta * |mean_B KL - capacity|`.

    With `balance` the groups of a hierarchy are balanced while beta rises: each group's divergence is weighted by its
    mean over the batch times the group's size, scaled to a mean weight of one, so that the ones that carry most pay
    most and no group is switched off early (Vahdat and Kautz, NVAE: A Deep Hierarchical Variational Autoencoder, 2020).

    Args:
        beta: Weight of the divergence, a number or a schedule (Higgins et al., beta-VAE, 2017).
        free_bits: Nats per dimension or group that cost nothing; 0 switches it off.
        free_bits_per: "dimension", or "group" for one floor under the whole divergence.
        capacity: Target rate in nats, a number or a schedule; None switches it off.
        samples: Posterior samples per row (K).
        balance: Whether groups are balanced during the warm-up.

    Raises:
        BadInput: for a negative or non-finite weight, and for two of free bits, a capacity and balancing.

    Example:
        >>> ELBO(beta=4.0).weights(step=0)
        {'beta': 4.0}
    """

    bound_samples = 1

    def __init__(
        self,
        beta: float | Schedule = 1.0,
        *,
        free_bits: float = 0.0,
        free_bits_per: str = "dimension",
        capacity: float | Schedule | None = None,
        samples: int = 1,
        balance: bool = False,
    ) -> None:
        numbers = {"beta": beta, "free_bits": free_bits, "capacity": capacity}
        for name, value in numbers.items():
            if not isinstance(value, int | float | Schedule | None):
                raise BadInput(name, value, "must be a number or a schedule")
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise BadInput(name, value, "must be a finite number of at least 0")
        if capacity is not None and free_bits > 0:
            raise BadInput("capacity", capacity, "cannot be combined with free_bits", "set one of them")
        if balance and (free_bits > 0 or capacity is not None):
            rule = "cannot be combined with free_bits or capacity"
            raise BadInput("objective.balance", balance, rule, "set one of them")
        whole("samples", samples)
        pick({"dimension": 0, "group": 0}, free_bits_per, "free_bits_per")
        self.beta = beta if isinstance(beta, Schedule) else constant(float(beta))
        self.capacity = constant(float(capacity)) if isinstance(capacity, int | float) else capacity
        self.free_bits, self.free_bits_per, self.samples = free_bits, free_bits_per, samples
        self.balance = balance

    def __repr__(self) -> str:
        # A run is resumed where this is what it was; balance, which came later, is named where it is on.
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value is not False)
        return f"ELBO({settings})"

    @property
    def requires(self) -> frozenset[str]:
        """Words that posterior and prior must offer: beta = 0 asks for no density, and no prior learns through it."""
        return frozenset({"density"} if max(self.beta.start, self.beta.end) > 0 else {"fixed"})

    @property
    def bends(self) -> bool:
        """Whether the loss is no mean over rows: free bits, a capacity and balancing bend the batch's mean."""
        return bool(self.free_bits) or self.capacity is not None or self.balance

    @property
    def warmup_ends(self) -> int:
        """The first step from which no weight moves any more."""
        return max(self.beta.ends, self.capacity.ends if self.capacity else 0)

    def weights(self, step: int) -> dict[str, float]:
        """The weights in force at a step."""
        weights = {"beta": self.beta(step)}
        if self.balance:
            weights["balance"] = float(step < self.beta.ends)
        return weights | {"capacity": self.capacity(step)} if self.capacity else weights

    def __call__(self, output: VAEOutput, weights: Mapping[str, float]) -> Loss:
        """The loss of a batch under given weights."""
        kl = output.kl
        if weights.get("balance"):
            kl = kl * _balance(kl, getattr(output.posterior, "group_sizes", (1,) * kl.shape[1]))
        total = weights["beta"] * self._rate(kl, weights) - output.log_px.mean()
        return loss_of(total, output, weights)

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


def _balance(kl: Tensor, sizes: Sequence[int]) -> Tensor:
    """The weights of groups, [G], from their divergences [B, G] and dimensions; of mean one, and without gradient."""
    carried = global_mean(kl.sum(0), len(kl)).clamp(min=0) * kl.new_tensor(sizes) + torch.finfo(kl.dtype).tiny
    return carried / carried.mean()
