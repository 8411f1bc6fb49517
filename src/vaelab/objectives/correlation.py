"""Penalties of dependence between latent dimensions: total correlation, by two estimators, and covariance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import whole
from ..core.output import VAEOutput
from ..core.tables import pick
from ..distributions.normal import HALF_LOG_2PI
from ..nets.mlp import MLP
from .critic import Critic
from .penalised import Charge, Penalty

WIDTHS = (256, 256, 256)


class TotalCorrelation(Penalty):
    r"""Total correlation of the aggregate posterior, KL(q(z) || prod_j q(z_j)), in nats, from the rows of a batch.

    .. math:: E[\log q(z) - \sum_j \log q(z_j)], \qquad q(z) = \frac{1}{N} \sum_{n=1}^N q(z|x_n)

    The two densities are sums over the batch's B rows with the weights of `estimator`:

    - "weighted": 1 / (N B) each, minibatch weighted sampling; biased, by a number that takes no part in the gradient
      among others.
    - "stratified": 1 / N for the row that z was drawn from and (N - 1) / (N (B - 1)) for each other one, so that the
      sum is an unbiased estimate of q(z), exact where the batch is all rows. The paper gives one row picked from the
      others another weight; this is the mean over all ways to pick it, with less variance.
    - "naive": 1 / B each, as if the batch were all rows.

    Shown besides, and with the penalty summing up to log q(z|x) - log p(z) of each row: `mutual_information`, log
    q(z|x) - log q(z), and `dimension_kl`, log prod_j q(z_j) - log p(z). The objective of the paper with its weights
    alpha = gamma = 1 and beta is the ELBO with this penalty at the weight beta - 1.

    Reference: Chen, Li, Grosse and Duvenaud, Isolating Sources of Disentanglement in Variational Autoencoders, 2018.

    Args:
        estimator: "weighted", "stratified" or "naive".
        rows: N, training rows; None: the batch is all there is.
    """

    name = "total_correlation"
    requires = frozenset({"normal", "diagonal"})
    bends = True

    def __init__(self, estimator: str = "weighted", rows: int | None = None) -> None:
        super().__init__()
        pick(WEIGHTS, estimator, "estimator")
        whole("rows", 1 if rows is None else rows)
        self.estimator, self.rows = estimator, rows

    def forward(self, output: VAEOutput) -> Charge:
        """Differences of log-densities at the samples, their mean for each row."""
        log_q, log_product = self.log_densities(output.posterior, output.z)
        parts = {"mutual_information": output.log_qz - log_q, "dimension_kl": log_product - output.log_pz}
        shown = {name: part.detach().mean(0) for name, part in parts.items()}
        return Charge((log_q - log_product).mean(0), shown=shown)

    def log_densities(self, posterior: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates of log q(z) and of log prod_j q(z_j) in nats, [K, B] each, for z [K, B, L]."""
        standard = (z.unsqueeze(2) - posterior.mean) / posterior.std
        pairs = standard.square() * -0.5 - posterior.log_std - HALF_LOG_2PI  # [K, B of z, B of q, L]
        size = z.shape[1]
        own, other = WEIGHTS[self.estimator](max(self.rows or size, size), size)
        weights = torch.full((size, size), other, dtype=z.dtype, device=z.device).fill_diagonal_(own).log()
        log_q = (pairs.sum(-1) + weights).logsumexp(-1)
        return log_q, (pairs + weights.unsqueeze(-1)).logsumexp(2).sum(-1)


# From training rows and rows of a batch to the weight of the row that z was drawn from, and of each other one.
WEIGHTS = {
    "weighted": lambda rows, batch: (1 / (rows * batch), 1 / (rows * batch)),
    "stratified": lambda rows, batch: (1 / rows, (rows - 1) / (rows * max(batch - 1, 1))),
    "naive": lambda rows, batch: (1 / batch, 1 / batch),
}


class DensityRatio(Penalty):
    r"""Total correlation E[log D / (1 - D)] by a critic D of z against z with dimensions permuted over the batch.

    The critic is a second player: it is trained in the same step on the same rows, by its own loss, which is shown in
    nats (log 2 where it can tell nothing). The paper permutes the codes of a second batch, and uses six layers of 1000
    units for images; codes of some dozens of dimensions do not need them.

    Reference: Kim and Mnih, Disentangling by Factorising, 2018.

    Args:
        latent: Dimensions L of z.
        hidden: Widths of the critic's layers.
    """

    name = "total_correlation"
    requires = frozenset({"euclidean"})

    def __init__(self, latent: int, hidden: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.critic = Critic(MLP(latent, hidden, 1, activation="silu"))

    def forward(self, output: VAEOutput) -> Charge:
        """The critic's logit of each row's codes, and its own loss."""
        z = output.z.flatten(0, 1)
        logits = self.critic.judged(z).view(output.z.shape[:2])
        player = self.critic.loss(z, permuted(z.detach()))
        shown = {"critic": player.detach().expand(logits.shape[1])}
        return Charge(logits.mean(0), player, shown)


def permuted(z: Tensor) -> Tensor:
    """Codes [N, L] with the entries of each dimension in a random order of their own."""
    return z.gather(0, torch.rand_like(z).argsort(0))


class Covariance(Penalty):
    r"""Squared entries of the covariance of codes, off the diagonal, or their distance to one on it.

    .. math:: \sum_{i \ne j} C_{ij}^2 \quad\text{or}\quad \sum_i (C_{ii} - 1)^2

    with C the covariance over the batch of the posterior's mean, or of a sample, C + E[Cov(z|x)]. DIP-VAE-I is the ELBO
    with both terms of the means (weights 10 and 100 by default), DIP-VAE-II with both terms of samples (10 and 10).

    Reference: Kumar, Sattigeri and Balakrishnan, Variational Inference of Disentangled Latent Concepts from Unlabeled
    Observations, 2018.

    Args:
        sampled: Of a sample, instead of the mean.
        diagonal: The term of the diagonal, called `variance`.
    """

    requires = frozenset({"normal"})
    bends = True

    def __init__(self, sampled: bool = False, diagonal: bool = False) -> None:
        super().__init__()
        self.name = "variance" if diagonal else "covariance"
        self.sampled, self.diagonal = sampled, diagonal

    def forward(self, output: VAEOutput) -> Charge:
        """One number, for every row."""
        covariance = self.of(output.posterior)
        on = covariance.diagonal()
        term = (on - 1).square().sum() if self.diagonal else covariance.square().sum() - on.square().sum()
        return Charge(term.expand(len(output.posterior.mean)))

    def of(self, posterior: Any) -> Tensor:
        """The covariance over the rows of a batch, [L, L]."""
        with torch.autocast(posterior.mean.device.type, enabled=False):  # it would round the matrix products
            means = torch.atleast_2d(posterior.mean.T.cov(correction=0))
            if not self.sampled:
                return means
            factor = posterior.scale_tril
            return means + (factor @ factor.mT).mean(0)
