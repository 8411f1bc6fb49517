"""`VAEOutput` and `Loss`: the two records between models, objectives and the loop.

Shapes: K samples of the posterior, B rows in the batch, L latent dimensions, G groups of the divergence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor


@dataclass
class VAEOutput:
    """What a model returns for a batch; every objective and estimator is a function of this record alone.

    Args:
        x: The batch as the likelihood sees it, [B, ...].
        z: Samples of the posterior, [K, B, L].
        log_px: log p(x|z) in nats, [K, B].
        kl: KL(q(z|x) || p(z)) in nats per latent dimension or group, [B, G].
        kl_is_exact: True for a closed form, False where `kl` is the Monte Carlo estimate from `z`.
        posterior: The distribution q(z|x).
        prior: The distribution p(z).
        likelihood: The distribution p(x|z) at `z`.
        extra: Further named [B] terms in nats, such as a commitment loss; an objective adds them to its total.
        log_q: log q(z|x) in nats, [K, B], where drawing z gave it anyway, as a flow does; None: computed when read.
        condition: What is given beside the rows, [B, C]; None where nothing is.
    """

    x: Tensor
    z: Tensor
    log_px: Tensor
    kl: Tensor
    kl_is_exact: bool
    posterior: Any
    prior: Any
    likelihood: Any
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    log_q: Tensor | None = None
    condition: Tensor | None = None

    @cached_property
    def log_pz(self) -> Tensor:
        """log p(z) in nats, [K, B]; computed when first read, since a closed-form bound has no use for it."""
        return self.prior.log_prob(self.z)

    @cached_property
    def log_qz(self) -> Tensor:
        """log q(z|x) in nats, [K, B]; computed when first read."""
        return self.posterior.log_prob(self.z) if self.log_q is None else self.log_q

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z|x) in nats, [K, B]: what importance-weighted bounds are made of."""
        return self.log_px + self.log_pz - self.log_qz

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound in nats per sample, [B], at beta = 1 and without `extra` terms."""
        return self.log_px.mean(0) - self.kl.sum(1)


@dataclass
class Loss:
    """What an objective returns.

    Args:
        total: The scalar to minimise, a mean over the batch.
        terms: Named [B] terms in nats per sample, unweighted and without gradient: what is shown.
        weights: The floats really used for this step, such as `{"beta": 0.5}`.
        player: The scalar that the objective's own parameters minimise, such as a discriminator's loss; it must reach
            no other parameters, and `total` none of these. None for an objective without parameters.
    """

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    player: Tensor | None = None

    @property
    def minimised(self) -> Tensor:
        """A scalar of the value of `total` whose gradient is that of both players."""
        return self.total if self.player is None else self.total + (self.player - self.player.detach())


def weighted_bound(log_w: Tensor, samples: int) -> Tensor:
    """The importance-weighted bound of so many samples in nats, [B], its mean over the groups that [K, B] weights fill.

    Reference: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016.

    Args:
        log_w: Log weights log p(x, z) - log q(z|x), [K, B]; those that fill no group are left out.
        samples: Of a group.

    Example:
        >>> import torch
        >>> weighted_bound(torch.tensor([[1.0], [3.0]]).log(), 2)
        tensor([0.6931])
    """
    groups = log_w[: len(log_w) // samples * samples].unflatten(0, (-1, samples))
    return groups.logsumexp(1).mean(0) - math.log(samples)
