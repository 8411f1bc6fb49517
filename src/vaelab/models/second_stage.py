"""A second autoencoder over the codes of the first, as its prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from ..distributions.fitting import minimise
from ..distributions.likelihoods import Decoder, Gaussian
from ..distributions.normal import EUCLIDEAN
from ..distributions.posteriors import GaussianPosterior
from ..nets.mlp import MLP
from .vae import VAE

DRAWS = 16  # of the second stage's posterior for one code
MOMENTS = 4096  # codes that mean and variance are taken over
AT_ONCE = 2**22  # numbers of a hidden layer computed at once


class SecondStage(nn.Module):
    r"""p(z) of a variational autoencoder over the codes z: u ~ N(0, I), z ~ N(decoder(u), s² I), s learned.

    References: Dai and Wipf, Diagnosing and Enhancing VAE Models, 2019.

    Args:
        latent: Dimensions L of z, and of u.
        hidden: Widths of the encoder's layers; the decoder's are mirrored.
        style: Activation, norm and dropout, as of `MLP`.
    """

    noise: Tensor

    def __init__(self, latent: int, hidden: Sequence[int] = (128, 128), **style: object) -> None:
        super().__init__()
        self.latent, self.width = latent, max(latent, *hidden) if hidden else latent
        reads, writes = MLP(latent, hidden, **style), MLP(latent, tuple(reversed(hidden)), latent, **style)  # type: ignore[arg-type]
        self.vae = VAE(GaussianPosterior(reads, reads.features, latent), Decoder(writes, Gaussian("shared"), (latent,)))
        self.register_buffer("noise", torch.empty(DRAWS, 1, latent), persistent=False)
        self.hold()

    def forward(self, context: Tensor | None = None) -> SecondStageDensity:
        """The distribution of codes, one row; it depends on no context."""
        return SecondStageDensity(self)

    def hold(self, seed: int = 0) -> None:
        """Draws the noise of the density's estimate; what is built or loaded holds that of seed 0."""
        self.noise.copy_(torch.randn(self.noise.shape, generator=torch.Generator().manual_seed(seed)))

    def fit(self, z: Tensor, steps: int, seed: int) -> None:
        """Trains it on codes z [N, L] by its own bound."""
        minimise(self, lambda part: -self.vae.draw(part).elbo.mean(), z, steps, seed)


class SecondStageDensity:
    r"""p(z) with one row, as far as it can be computed.

    .. math:: \hat p(z) = \frac{1}{S} \sum_s \frac{p(z|u_s) p(u_s)}{q(u_s|z)}, \quad u_s \sim q(u|z)

    from base noise that is drawn once, held, and the same for every z. Over that noise it is an unbiased estimate of
    p(z), and its logarithm is below log p(z) in expectation: with `log_prob` for log p(z), the first stage's ELBO and
    its importance-weighted bound are lower bounds on log p(x) in expectation over the held noise too. For the noise
    that is held they may lie above log p(x), and since all rows and all draws of z share it, more of them do not
    average that out; `SecondStage.hold` with other seeds shows by how much.

    Args:
        stage: The modules.
    """

    offers = EUCLIDEAN

    def __init__(self, stage: SecondStage) -> None:
        self.stage = stage

    def log_prob(self, z: Tensor) -> Tensor:
        """log of the estimate of p(z) in nats, for z [K, B, L], [K, B]."""
        at_once = max(1, AT_ONCE // (DRAWS * self.stage.width))
        parts = [self._estimate(part) for part in z.reshape(-1, z.shape[-1]).split(at_once)]
        return torch.cat(parts).reshape(z.shape[:-1])

    def _estimate(self, z: Tensor) -> Tensor:
        """For z [N, L], [N]."""
        drawn = self.stage.vae.draw(z, DRAWS, self.stage.noise.expand(-1, len(z), -1))
        return drawn.log_weights.logsumexp(0) - math.log(DRAWS)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without gradients, [count, L]; the generator is on our device."""
        return self.stage.vae.sample(count, generator).sample(generator)[0]

    @property
    def mean(self) -> Tensor:
        """Mean of a fixed set of samples, [1, L]."""
        return self._some.mean(0, keepdim=True)

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension over a fixed set of samples, [1, L]."""
        return self._some.var(0, keepdim=True)

    @cached_property
    def _some(self) -> Tensor:
        return self.sample(MOMENTS, torch.Generator(self.stage.noise.device).manual_seed(0))
