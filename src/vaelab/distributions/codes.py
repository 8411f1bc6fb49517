"""Posteriors and priors over codes: z is made of entries of a finite book, and densities are masses.

Shapes: K samples, B rows, P positions, N symbols, L entries of z. With a deterministic code q(z|x) is one point, its
log-mass is 0, and KL(q || p) = -log p(z): the bound log p(x|z) + log p(z) is one on log p(x), whatever the prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .quantize import Book, LearnedBook

CODES = frozenset({"density", "codes"})


class Codes:
    """The one code of each row.

    Args:
        z: What the decoder reads, [B, L]; its gradient goes straight through to the network.
        book: What a position can hold.
        extra: Named [B] terms in nats for the loss.

    Attributes:
        noise_shape: (B, 0): a sample takes no noise, so that all samples of a row are the same.
    """

    offers = CODES

    def __init__(self, z: Tensor, book: Book, extra: Mapping[str, Tensor]) -> None:
        self.mean, self.book, self.extra = z, book, extra
        self.noise_shape = (len(z), 0)

    @property
    def indices(self) -> Tensor:
        """The symbols, [1, B, T]."""
        return self.book.indices(self.mean)[None]

    @property
    def variance(self) -> Tensor:
        """Zeros, [B, L]."""
        return torch.zeros_like(self.mean)

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """The code, K times, [K, B, L]."""
        return self.mean.expand(samples, *self.mean.shape)

    def rsample_with_log_prob(self, samples: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The code, K times, and its log-mass, which is 0."""
        return self.rsample(samples), self.mean.new_zeros(samples, len(self.mean))

    def pushed(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The same, for noise [K, B, 0]."""
        return self.rsample_with_log_prob(len(noise))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-mass of z [K, B, L], [K, B]: 0 for the row's code, minus infinity for any other."""
        same = (z == self.mean).all(-1)
        return torch.where(same, 0.0, -torch.inf).to(z.dtype)

    def divergence(self, prior: Any, z: Tensor) -> tuple[Tensor, bool]:
        """-log p(z), [B, 1], or for each position, [B, P], where the prior is uniform; exact."""
        if isinstance(prior, UniformCodes):
            return prior.nats_of(self.mean), True
        return -prior.log_prob(z[:1]).T, True

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples without gradients, [count, L] where B = 1, else [count, B, L]."""
        return self.rsample(count).squeeze(1)


class CategoricalCodes:
    """A categorical distribution at each position of each row.

    Args:
        logits: [B, P, N].
        book: The entries, D numbers each.
        temperature: Of the relaxed samples that carry gradients; None: samples are entries of the book.

    Attributes:
        noise_shape: (B, P N); standard normal noise n is turned into Gumbel noise, -log(-log Φ(n)).

    Means and samples are made in the precision of the logits, in an autocast region too.
    """

    offers = CODES

    def __init__(self, logits: Tensor, book: LearnedBook, temperature: Tensor | None = None) -> None:
        self.log_mass, self.book, self.temperature = logits.log_softmax(-1), book, temperature
        self.noise_shape = (len(logits), logits.shape[1] * logits.shape[2])

    @property
    def mass(self) -> Tensor:
        """Probabilities, [B, P, N]."""
        return self.log_mass.exp()

    @property
    def mode(self) -> Tensor:
        """The most likely code, [B, L]."""
        return self.book.vectors(self.log_mass.argmax(-1))

    @property
    def mean(self) -> Tensor:
        """Mean, [B, L]."""
        return self._averaged(self.mass, self.book.entries[0]).flatten(1)

    @property
    def variance(self) -> Tensor:
        """Variance of each entry, [B, L]."""
        second = self._averaged(self.mass, self.book.entries[0].square()).flatten(1)
        return (second - self.mean.square()).clamp(min=0)

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """Samples [K, B, L], relaxed where there is a temperature; from standard normal noise [K, B, P N]."""
        if noise is None:
            noise = torch.randn(samples, *self.noise_shape, dtype=self.log_mass.dtype, device=self.log_mass.device)
        # log Φ keeps its digits in both tails, where Φ itself would be 0 or 1.
        gumbel = -(-torch.special.log_ndtr(noise)).log()
        scores = self.log_mass + gumbel.unflatten(-1, self.log_mass.shape[1:])
        if self.temperature is None:
            return self.book.vectors(scores.argmax(-1))
        return self._averaged((scores / self.temperature).softmax(-1), self.book.entries[0]).flatten(2)

    @staticmethod
    def _averaged(shares: Tensor, values: Tensor) -> Tensor:
        """Of values [N, D] with shares [..., P, N], [..., P, D]."""
        # Mixed precision would round a matrix product to bfloat16, and all that follows from it.
        with torch.autocast(shares.device.type, enabled=False):
            return shares @ values

    def pushed(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Samples from standard normal noise [K, B, P N], and their log-mass."""
        z = self.rsample(len(noise), noise)
        return z, self.log_prob(z)

    def indices(self, z: Tensor) -> Tensor:
        """The symbols nearest to z [K, B, L], [K, B, P]."""
        return self.book.indices(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-mass in nats of the code nearest to z [K, B, L], [K, B]."""
        everywhere = len(z), *self.log_mass.shape[:2], -1
        index = self.book.indices(z)[..., None].expand(everywhere)  # z may be one for all rows
        return self.log_mass.expand(everywhere).gather(-1, index)[..., 0].sum(-1)

    def divergence(self, prior: Any, z: Tensor) -> tuple[Tensor, bool] | None:
        """KL(q || p) of each position, [B, P], in closed form under a uniform prior; None under another."""
        if not isinstance(prior, UniformCodes):
            return None
        return (self.mass * self.log_mass).sum(-1) + prior.nats_of(self.log_mass), True

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes without gradients, [count, L] where B = 1, else [count, B, L]."""
        like = self.log_mass
        noise = torch.randn(count, *self.noise_shape, generator=generator, dtype=like.dtype, device=like.device)
        return CategoricalCodes(like, self.book).rsample(count, noise).squeeze(1)


class UniformCodes:
    """Every vector of the book equally likely, at each of `positions` independently.

    Args:
        book: What a position can hold.
        positions: P.

    Example:
        >>> from .quantize import GridBook
        >>> UniformCodes(GridBook((2, 2)), 3).log_prob(torch.ones(1, 1, 6))
        tensor([[-4.1589]])
    """

    offers = CODES

    def __init__(self, book: Book, positions: int) -> None:
        self.book, self.positions = book, positions

    @property
    def mean(self) -> Tensor:
        """Mean over the book, [1, L]."""
        return self.book.everything().mean(0).repeat(self.positions)[None]

    @property
    def variance(self) -> Tensor:
        """Variance over the book, [1, L]."""
        return self.book.everything().var(0, correction=0).repeat(self.positions)[None]

    def nats_of(self, like: Tensor) -> Tensor:
        """-log p of each position of B codes, in the precision of `like` [B, ...], [B, P]."""
        return like.new_full((len(like), self.positions), self.book.nats)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-mass in nats of codes z [K, B, L], [K, B]: minus the logarithm of how many there are."""
        return z.new_full(z.shape[:2], -self.positions * self.book.nats)

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """Samples [K, 1, L]; they carry no gradients."""
        return self.sample(samples)[:, None]

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples [count, L]."""
        device = self.book.everything().device
        shape = (count, self.positions * self.book.depth)
        return self.book.vectors(torch.randint(self.book.symbols, shape, generator=generator, device=device))


class UniformCodePrior(nn.Module):
    """p(z): every code of a posterior's book equally likely.

    Args:
        posterior: A module with `book`, `positions` and `latent`; the book stays the posterior's.
    """

    def __init__(self, posterior: Any) -> None:
        super().__init__()
        self._shared = (posterior.book,)  # in a tuple, or the book would be saved twice
        self.positions, self.latent = posterior.positions, posterior.latent

    def forward(self, context: Tensor | None = None) -> UniformCodes:
        """The uniform distribution; it depends on no context."""
        return UniformCodes(self._shared[0], self.positions)
