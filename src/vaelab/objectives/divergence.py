"""Penalties of the distance between the aggregate posterior q(z) and the prior, both known by their samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..core.output import VAEOutput
from ..core.tables import pick
from ..nets.mlp import MLP
from .correlation import WIDTHS
from .critic import Critic
from .penalised import Charge, Penalty

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

# From squared distances and a length, squared as well, to similarities of at most 1.
KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "imq": lambda squares, length: length / (length + squares),
    "rbf": lambda squares, length: (squares / -length).exp(),
}


class Discrepancy(Penalty):
    r"""Squared maximum mean discrepancy of codes and draws of the prior, unbiased, so that it can be negative.

    .. math:: \sum_s E[k_s(z, z')] + E[k_s(u, u')] - 2 E[k_s(z, u)], \qquad z \sim q(z), u \sim p(z)

    where pairs leave out a code with itself. The kernels are C / (C + d²) ("imq") or exp(-d² / C) ("rbf") of distances
    d, with C = 2 L s: the expected squared distance of two draws of a standard normal of L dimensions, times each of
    the scales s, whose kernels are added up.

    With the ELBO it makes InfoVAE (Zhao, Song and Ermon, InfoVAE: Balancing Learning and Inference in Variational
    Autoencoders, 2019): beta is 1 - alpha of the paper, the weight here alpha + lambda - 1, 1000 by default. With the
    reconstruction alone, `ELBO(beta=0)`, it makes the Wasserstein autoencoder (Tolstikhin, Bousquet, Gelly and
    Schoelkopf, Wasserstein Auto-Encoders, 2018) with -log p(x|z) for the cost; the weight is its lambda, 10 by default.

    Args:
        kernel: "imq" or "rbf".
        scales: s.

    References:
        Gretton et al., A Kernel Two-Sample Test, 2012, for the estimate.
    """

    name = "discrepancy"
    requires = frozenset({"euclidean", "fixed"})  # draws of the prior carry no gradient to it
    bends = True

    def __init__(self, kernel: str = "imq", scales: Sequence[float] = SCALES) -> None:
        super().__init__()
        pick(KERNELS, kernel, "kernel")
        self.kernel, self.scales = kernel, tuple(scales)

    def forward(self, output: VAEOutput) -> Charge:
        """The mean over the K samples, for every row: codes of one row are no independent draws of q(z)."""
        return Charge(self.between(output.z, prior_draws(output)).mean().expand(output.z.shape[1]))

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        """The estimate for samples [K, B, L] and [K, B', L], [K]; a single row has no pair, and counts as 0."""
        return self._pairs(first) + self._pairs(second) - 2 * self._similar(first, second).mean((1, 2))

    def _pairs(self, z: Tensor) -> Tensor:
        """Mean similarity of two different rows, [K]."""
        rows, similar = z.shape[1], self._similar(z, z)
        apart = similar.sum((1, 2)) - similar.diagonal(dim1=1, dim2=2).sum(1)
        return apart / max(rows * (rows - 1), 1)

    def _similar(self, first: Tensor, second: Tensor) -> Tensor:
        """Similarities of all rows of one with all of the other, [K, B, B']."""
        squares = (first.unsqueeze(2) - second.unsqueeze(1)).square().sum(-1)
        kernel, length = KERNELS[self.kernel], 2.0 * first.shape[-1]
        parts = [kernel(squares, length * scale) for scale in self.scales]
        return sum(parts[1:], parts[0])


class CodeCritic(Penalty):
    r"""A critic that tells draws of the prior from codes; codes are charged -log D(z), a bound on no divergence.

    The critic is a second player of the same step; its loss is shown in nats, log 2 where it can tell nothing. With
    `ELBO(beta=0)` this is the adversarial Wasserstein autoencoder, weight 10 by default.

    References:
        Tolstikhin, Bousquet, Gelly and Schoelkopf, Wasserstein Auto-Encoders, 2018; Makhzani et al., Adversarial
        Autoencoders, 2016.

    Args:
        latent: Dimensions L of z.
        hidden: Widths of the critic's layers.
    """

    name = "deception"
    requires = frozenset({"euclidean", "fixed"})  # draws of the prior carry no gradient to it

    def __init__(self, latent: int, hidden: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.critic = Critic(MLP(latent, hidden, 1, activation="silu"))

    def forward(self, output: VAEOutput) -> Charge:
        """What each row's codes are charged, and the critic's own loss."""
        z, drawn = output.z.flatten(0, 1), prior_draws(output).flatten(0, 1)
        charged = F.softplus(-self.critic.judged(z)).view(output.z.shape[:2])
        player = self.critic.loss(drawn, z)
        return Charge(charged.mean(0), player, {"critic": player.detach().expand(charged.shape[1])})


def prior_draws(output: VAEOutput) -> Tensor:
    """As many draws of the prior as there are codes, [K, B, L], without gradient; under each row's own condition."""
    prior: Any = output.prior
    samples, rows, _ = output.z.shape
    drawn = prior.sample(samples)
    return drawn if drawn.ndim == 3 else prior.sample(samples * rows).view(output.z.shape)
