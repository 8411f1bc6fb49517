"""The variational autoencoder: an encoder q(z|x), a prior p(z) and a decoder p(x|z), put together."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadInput
from ..core.output import VAEOutput
from ..core.tables import pick
from ..distributions.foreign import as_distribution, diagonal_normal
from ..distributions.kl import divergence
from ..distributions.likelihoods import LIKELIHOODS, Decoder, Likelihood
from ..distributions.normal import Distribution, Normal
from ..distributions.posteriors import GaussianPosterior
from ..distributions.priors import StandardNormalPrior


class Model(nn.Module):
    """What a model offers: objectives, the loop and the run folder ask for nothing else.

    Attributes:
        latent: Dimensions of z.
        noise_size: Standard normal entries that the posterior takes for each row and sample; None: it draws its own.
        channels: Parameters of the likelihood for each entry of a row.
    """

    latent: int | None
    noise_size: int | None = None
    channels: int = 1

    @abstractmethod
    def draw(self, x: Tensor, samples: int = 1, noise: Tensor | None = None) -> VAEOutput:
        """The record of a batch x [B, ...] with K = `samples` draws of z."""

    @abstractmethod
    def encode(self, x: Tensor) -> Distribution:
        """q(z|x) for a batch [B, ...]."""

    @abstractmethod
    def decode(self, z: Tensor) -> Any:
        """p(x|z) for z [K, B, L] or [B, L]."""

    @abstractmethod
    def prior_distribution(self) -> Distribution:
        """p(z)."""

    def sample(self, count: int, generator: torch.Generator | None = None) -> Any:
        """p(x|z) for `count` draws of z from the prior, with leading shape [1, count]."""
        return self.decode(self.prior_distribution().sample(count, generator)[None])


class VAE(Model):
    """A model from three conditional distributions (Kingma and Welling, Auto-Encoding Variational Bayes, 2014).

    Each part is a module whose forward returns a distribution; plain networks are taken too. An encoder network that
    returns a tensor [B, 2 L] or a pair of [B, L] means a diagonal normal by its mean and log-variance. A decoder
    network that returns a tensor needs `likelihood`.

    Args:
        encoder: x [B, ...] to q(z|x).
        decoder: z [K * B, L] to p(x|z), or to its parameters where `likelihood` is given.
        prior: Nothing to p(z); None: the standard normal of `latent` dimensions.
        likelihood: A name ("bernoulli", "gaussian", ...) or a likelihood module, for a plain decoder network.
        latent: L; needed where neither prior nor encoder knows it.

    Raises:
        BadInput: where parts do not fit together.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = VAE(nn.Linear(8, 4), nn.Linear(2, 8), likelihood="bernoulli", latent=2)
        >>> output = model.draw(torch.rand(5, 8).round(), samples=3)
        >>> output.log_px.shape, output.kl.shape, output.kl_is_exact
        (torch.Size([3, 5]), torch.Size([5, 2]), True)
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: nn.Module | None = None,
        *,
        likelihood: str | Likelihood | None = None,
        latent: int | None = None,
    ) -> None:
        super().__init__()
        latent = latent or getattr(encoder, "latent", None) or getattr(prior, "latent", None)
        if prior is None and latent is None:
            raise BadInput("latent", None, "is needed where neither encoder nor prior says it", "such as latent=16")
        self.encoder = encoder
        self.prior = prior if prior is not None else StandardNormalPrior(int(latent or 0))
        self.decoder = decoder if likelihood is None else Decoder(decoder, _likelihood(likelihood))
        self.latent = latent
        self.noise_size = latent if isinstance(encoder, GaussianPosterior) else None
        self.channels = getattr(getattr(self.decoder, "likelihood", None), "channels", 1)

    def draw(self, x: Tensor, samples: int = 1, noise: Tensor | None = None) -> VAEOutput:
        """The record of a batch x [B, ...] with K = `samples` draws of z, from given base noise [K, B, L] or fresh."""
        if isinstance(self.decoder, Decoder):
            self.decoder.shape = self.decoder.shape or tuple(x.shape[1:])
        posterior, prior = self.encode(x), self.prior_distribution()
        if self.noise_size is None and isinstance(posterior, Normal):
            self.noise_size = posterior.mean.shape[-1]
        z = posterior.rsample(samples, noise)
        likelihood = self.decode(z)
        kl, exact = divergence(posterior, prior, z)
        return VAEOutput(
            x=x,
            z=z,
            log_px=likelihood.log_prob(x),
            kl=kl,
            kl_is_exact=exact,
            posterior=posterior,
            prior=prior,
            likelihood=likelihood,
        )

    def encode(self, x: Tensor) -> Distribution:
        """q(z|x) for a batch [B, ...]."""
        posterior = self.encoder(x)
        if isinstance(posterior, tuple | Tensor):
            return diagonal_normal(posterior, "encoder")
        return as_distribution(posterior)

    def prior_distribution(self) -> Distribution:
        """p(z)."""
        return as_distribution(self.prior())

    def decode(self, z: Tensor) -> Any:
        """p(x|z) for z [K, B, L] or [B, L]."""
        likelihood = self.decoder(z)
        if isinstance(likelihood, Tensor):
            fix = f"pass likelihood=..., one of {', '.join(LIKELIHOODS)}"
            raise BadInput("decoder", "a tensor", "must return a distribution over x", fix)
        return likelihood


def _likelihood(given: str | Likelihood) -> Likelihood:
    return pick(LIKELIHOODS, given, "likelihood")() if isinstance(given, str) else given
