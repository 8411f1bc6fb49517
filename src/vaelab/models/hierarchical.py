"""A hierarchy of latent groups of any depth, drawn from the top down."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch, condition_of, rows_of
from ..core.output import VAEOutput
from ..distributions.foreign import as_distribution
from ..distributions.ladder import BottomUp, Descent, LadderPosterior
from ..distributions.normal import Distribution
from .vae import Model, recorded


class Hierarchy(Model):
    r"""A variational autoencoder whose latent groups are drawn one given the other.

    .. math:: q(z|x) = \prod_g q(z_g | x, z_{<g}), \quad p(z) = p(z_1) \prod_{g > 1} N(z_g; 0, I), \quad p(x | z)

    where z_g is a group in units of its prior given the groups above it: it stands for u_g = mean(u_<g) +
    deviation(u_<g) z_g, so that p(u_g | u_<g) is a diagonal normal. Over a `Chain` two groups are the two-level model
    q(u_1|x) q(u_2|x,u_1), p(u_1) p(u_2|u_1), p(x|u_1,u_2); over a `Ladder` any number of them share a deterministic
    path down, and read features of a path up. z holds all groups, the top one first; the divergence is told by group.

    References: Tomczak and Welling, VAE with a VampPrior, 2018; Sønderby, Raiko, Maaløe, Sønderby and Winther, Ladder
    Variational Autoencoders, 2016; Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, Improved Variational
    Inference with Inverse Autoregressive Flow, 2016; Vahdat and Kautz, NVAE, 2020.

    Args:
        encoder: x to what the groups' posteriors read of it.
        prior: Nothing to p(z), such as a `GroupPrior`.
        descent: The way down, from z to the state below all groups.
        decoder: From that state, and from z where `skips`, to p(x|z).
        skips: Whether the decoder reads z beside the state.
        condition: Which of "encoder", "prior" and "decoder" take what is given beside a row.
    """

    def __init__(
        self,
        encoder: BottomUp,
        prior: nn.Module,
        descent: Descent,
        decoder: nn.Module,
        skips: bool,
        condition: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.encoder, self.prior, self.descent, self.decoder, self.skips = encoder, prior, descent, decoder, skips
        self.latent = self.noise_size = sum(descent.sizes)
        self.conditioned = frozenset(condition)
        read = getattr(decoder, "likelihood", None)
        self.channels = getattr(decoder, "working_channels", getattr(read, "channels", 1))

    def draw(self, x: Tensor | Batch, samples: int = 1, noise: Tensor | None = None) -> VAEOutput:
        """The record of a batch x [B, ...] with K = `samples` draws of z, from given base noise [K, B, L] or fresh."""
        condition = condition_of(x)
        posterior, prior = self.encode(x), self.prior_distribution(condition)
        z, log_q = posterior.rsample_with_log_prob(samples, noise)
        assert posterior.walk is not None
        likelihood = self._decoded(posterior.walk.state, z, condition)
        return recorded(x, z, log_q, posterior, prior, likelihood)

    def encode(self, x: Tensor | Batch) -> LadderPosterior:
        """q(z|x) for a batch [B, ...], or q(z|x, c)."""
        features = self.encoder(rows_of(x), *self._given("encoder", condition_of(x)))
        return LadderPosterior(self.encoder, self.descent, features)

    def prior_distribution(self, condition: Tensor | None = None) -> Distribution:
        """p(z) with one row, or p(z|c) with B."""
        return as_distribution(self.prior(*self._given("prior", condition)))

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Any:
        """p(x|z) for z [K, B, L] or [B, L], or p(x|z, c)."""
        return self._decoded(self.descent(z), z, condition)

    def _decoded(self, state: Tensor, z: Tensor, condition: Tensor | None) -> Any:
        read = torch.cat([state, z], -1) if self.skips else state
        return self.decoder(read, *self._given("decoder", condition))
