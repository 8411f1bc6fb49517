"""The variational autoencoder: an encoder q(z|x), a prior p(z) and a decoder p(x|z), put together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch, condition_of, rows_of
from ..core.errors import BadInput
from ..core.output import VAEOutput
from ..core.tables import pick
from ..distributions.foreign import as_distribution, diagonal_normal
from ..distributions.kl import divergence
from ..distributions.likelihoods import LIKELIHOODS, Decoder, Likelihood
from ..distributions.normal import Distribution, Normal
from ..distributions.priors import StandardNormalPrior

PARTS = ("encoder", "prior", "decoder")


class Model(nn.Module):
    """What a model offers: objectives, the loop and the run folder ask for nothing else.

    Attributes:
        latent: Dimensions of z.
        noise_size: Standard normal entries that the posterior takes for each row and sample; None: it draws its own.
        channels: Parameters of the likelihood for each entry of a row, or what a decoder holds besides to find them.
        conditioned: Which of "encoder", "prior" and "decoder" read the condition c that stands beside a row; a model
            with one takes a `Batch` for x, and c [B, C] where something is asked of the prior or the decoder.
        guesses: Whether a condition may be left out, or be NaN in a row: the model then sums over what it could be.
    """

    latent: int | None
    noise_size: int | None = None
    channels: int = 1
    conditioned: frozenset[str] = frozenset()
    guesses: bool = False

    @abstractmethod
    def draw(self, x: Tensor | Batch, samples: int = 1, noise: Tensor | None = None) -> VAEOutput:
        """The record of a batch x [B, ...] with K = `samples` draws of z."""

    @abstractmethod
    def encode(self, x: Tensor | Batch) -> Distribution:
        """q(z|x) for a batch [B, ...], or q(z|x, c)."""

    @abstractmethod
    def decode(self, z: Tensor, condition: Tensor | None = None) -> Any:
        """p(x|z) for z [K, B, L] or [B, L], or p(x|z, c)."""

    @abstractmethod
    def prior_distribution(self, condition: Tensor | None = None) -> Distribution:
        """p(z) with one row, or p(z|c) with B."""

    def sample(self, count: int, generator: torch.Generator | None = None, condition: Tensor | None = None) -> Any:
        """p(x|z) for `count` draws of z from the prior, with leading shape [1, count]; c is [count, C]."""
        given = () if condition is None else (condition,)
        return self.decode(prior_codes(self, count, generator, *given)[None], *given)

    def _given(self, part: str, condition: Tensor | None) -> tuple[Tensor, ...]:
        """The further arguments of a part."""
        if part not in self.conditioned:
            return ()
        if condition is None:
            rule = f"the {part} reads what is given beside a row, and nothing is"
            raise BadInput("condition", None, rule, "pass a vaelab.core.batch.Batch, or condition=...")
        return (condition,)


def prior_codes(model: Any, count: int, generator: torch.Generator | None = None, *given: Tensor) -> Tensor:
    """Codes from p(z), [count, L], or one from each p(z|c) for conditions c [count, C]."""
    if "prior" in getattr(model, "conditioned", ()):
        return model.prior_distribution(*given).sample(1, generator).reshape(count, -1)
    return model.prior_distribution().sample(count, generator)


def recorded(
    x: Tensor | Batch, z: Tensor, log_q: Tensor | None, posterior: Any, prior: Any, likelihood: Any
) -> VAEOutput:
    """The record of a batch x [B, ...] with codes z [K, B, L] of q(z|x), and log q(z|x) of these, [K, B]."""
    kl, exact = divergence(posterior, prior, z, log_q)
    return VAEOutput(
        x=rows_of(x),
        z=z,
        log_px=likelihood.log_prob(rows_of(x)),
        kl=kl,
        kl_is_exact=exact,
        posterior=posterior,
        prior=prior,
        likelihood=likelihood,
        extra=getattr(posterior, "extra", {}),
        log_q=log_q,
        condition=condition_of(x),
    )


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
        condition: Which parts take what is given beside a row as their second argument: any of "encoder", "prior"
            (which then takes it as its only one) and "decoder".

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
        condition: Collection[str] = (),
    ) -> None:
        super().__init__()
        for part in condition:
            pick(dict.fromkeys(PARTS), part, "condition")
        latent = latent or getattr(encoder, "latent", None) or getattr(prior, "latent", None)
        if prior is None and latent is None:
            raise BadInput("latent", None, "is needed where neither encoder nor prior says it", "such as latent=16")
        self.encoder = encoder
        self.prior = prior if prior is not None else StandardNormalPrior(int(latent or 0))
        self.decoder = decoder if likelihood is None else Decoder(decoder, _likelihood(likelihood))
        self.latent, self.conditioned = latent, frozenset(condition)
        self.noise_size = getattr(encoder, "noise_size", None)
        read = getattr(self.decoder, "likelihood", None)
        self.channels = getattr(self.decoder, "working_channels", getattr(read, "channels", 1))

    def draw(self, x: Tensor | Batch, samples: int = 1, noise: Tensor | None = None) -> VAEOutput:
        """The record of a batch x [B, ...] with K = `samples` draws of z, from given base noise [K, B, N] or fresh."""
        rows, condition = rows_of(x), condition_of(x)
        if isinstance(self.decoder, Decoder):
            self.decoder.shape = self.decoder.shape or tuple(rows.shape[1:])
        posterior, prior = self.encode(x), self.prior_distribution(condition)
        if self.noise_size is None and isinstance(posterior, Normal):
            self.noise_size = posterior.mean.shape[-1]
        z, log_q = drawn(posterior, samples, noise)
        likelihood = self.decode(z, condition)
        return recorded(x, z, log_q, posterior, prior, likelihood)

    def encode(self, x: Tensor | Batch) -> Distribution:
        """q(z|x) for a batch [B, ...], or q(z|x, c)."""
        posterior = self.encoder(rows_of(x), *self._given("encoder", condition_of(x)))
        if isinstance(posterior, tuple | Tensor):
            return diagonal_normal(posterior, "encoder")
        return as_distribution(posterior)

    def prior_distribution(self, condition: Tensor | None = None) -> Distribution:
        """p(z) with one row, or p(z|c) with B."""
        return as_distribution(self.prior(*self._given("prior", condition)))

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Any:
        """p(x|z) for z [K, B, L] or [B, L], or p(x|z, c)."""
        likelihood = self.decoder(z, *self._given("decoder", condition))
        if isinstance(likelihood, Tensor):
            fix = f"pass likelihood=..., one of {', '.join(LIKELIHOODS)}"
            raise BadInput("decoder", "a tensor", "must return a distribution over x", fix)
        return likelihood


def drawn(posterior: Any, samples: int, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """K samples of a posterior [K, B, L], and their log-density [K, B] where drawing them gives it anyway."""
    together = getattr(posterior, "rsample_with_log_prob", None)
    return (posterior.rsample(samples, noise), None) if together is None else together(samples, noise)


def _likelihood(given: str | Likelihood) -> Likelihood:
    return pick(LIKELIHOODS, given, "likelihood")() if isinstance(given, str) else given
