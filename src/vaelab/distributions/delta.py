"""Codes without noise: the posterior of regularised and Wasserstein autoencoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadInput
from .normal import full_precision


class Delta:
    """All of q(z|x) in one point; it has no density, so that no bound on log p(x) follows from it.

    Its divergence from any prior is infinite; `divergence` gives 0, which stands for none, and what keeps the codes
    at the prior is the objective's own penalty.

    References: Tolstikhin et al., Wasserstein Auto-Encoders, 2018; Ghosh et al., From Variational to Deterministic
    Autoencoders, 2020.

    Args:
        mean: The point, [B, L].
    """

    offers = frozenset({"euclidean"})

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    @property
    def variance(self) -> Tensor:
        """Zeros, [B, L]."""
        return torch.zeros_like(self.mean)

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """The point again and again, [K, B, L].

        Raises:
            BadInput: for noise, which it has no use for.
        """
        if noise is not None:
            raise BadInput("noise", tuple(noise.shape), "codes without noise take none")
        return self.mean.expand(samples, *self.mean.shape)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """The point without gradients, [count, L] where B = 1, else [count, B, L]."""
        return self.rsample(count).detach().squeeze(1)

    def log_prob(self, z: Tensor) -> Tensor:
        """There is none.

        Raises:
            BadInput: always.
        """
        rule = "codes without noise have no density, and a model with them no bound on log p(x)"
        raise BadInput("model.posterior", "delta", rule, "use a posterior with noise, such as diagonal")

    def divergence(self, prior: Any, z: Tensor) -> tuple[Tensor, bool]:
        """Zeros, [B, 1]: no divergence is in force."""
        return self.mean.new_zeros(len(self.mean), 1), True


class DeltaPosterior(nn.Module):
    """z = linear(net(x)), without noise.

    Args:
        net: Maps a batch [B, ...] to features [B, features].
        features: Width of the features.
        latent: Dimensions L of z.
    """

    def __init__(self, net: nn.Module, features: int, latent: int) -> None:
        super().__init__()
        self.latent, self.net, self.head = latent, net, nn.Linear(features, latent)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Delta:
        """The code of each row of x, [B, ...]; a network that reads a condition [B, C] takes it as well."""
        return Delta(full_precision(self.head(self.net(x) if condition is None else self.net(x, condition))))
