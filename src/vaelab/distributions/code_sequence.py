"""A prior over codes that is fitted to them after training: the symbols of a row one after the other."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nets.transformer import TransformerDecoder
from .codes import CODES
from .fitting import minimise
from .quantize import Book

AT_ONCE = 2**22  # logits computed at once: 16 MiB in float32


class CodeSequence:
    r"""P(z) = prod_t P(i_t | i_1, ..., i_{t-1}), a mass over the codes i of z in the order in which z holds them.

    Args:
        prior: Whose networks these are.
    """

    offers = CODES

    def __init__(self, prior: AutoregressivePrior) -> None:
        self.prior = prior

    @property
    def mean(self) -> Tensor:
        """Mean of the codes that it was fitted to, [1, L]."""
        return self.prior.moments[:1]

    @property
    def variance(self) -> Tensor:
        """Variance of the codes that it was fitted to, [1, L]."""
        return self.prior.moments[1:]

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-mass in nats of codes z [K, B, L], [K, B]."""
        return self.prior.log_mass(self.prior.book.indices(z).flatten(0, 1)).view(z.shape[:2])

    def rsample(self, samples: int, noise: Tensor | None = None) -> Tensor:
        """Samples [K, 1, L]; they carry no gradients."""
        return self.sample(samples)[:, None]

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples [count, L]."""
        return self.prior.book.vectors(self.prior.drawn(count, generator))


class AutoregressivePrior(nn.Module):
    """P(z) over the codes of a posterior by a causal transformer; uniform until it is fitted.

    Args:
        posterior: Whose book it is; the book stays the posterior's.
        width: Numbers of a position in the transformer.
        layers: Blocks of it.

    References:
        van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017, section 3.3: a prior
        over the codes, fitted after the codes; Vaswani et al., Attention is all you need, 2017.
    """

    moments: Tensor

    def __init__(self, posterior: Any, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self._shared = (posterior.book,)  # in a tuple, or the book would be saved twice
        self.latent, self.length = posterior.latent, posterior.positions * posterior.book.depth
        symbols = posterior.book.symbols
        self.net = TransformerDecoder(1, self.length, symbols + 1, symbols, width, layers)
        self.register_buffer("moments", torch.cat([torch.zeros(1, self.latent), torch.ones(1, self.latent)]))

    @property
    def book(self) -> Book:
        """What a position can hold."""
        return self._shared[0]

    def start(self) -> None:
        """Begin at the uniform distribution."""
        nn.init.zeros_(self.net.outputs.weight)
        nn.init.zeros_(self.net.outputs.bias)

    def forward(self, context: Tensor | None = None) -> CodeSequence:
        """The distribution; it depends on no context."""
        return CodeSequence(self)

    def log_mass(self, indices: Tensor) -> Tensor:
        """Log-mass in nats of sequences of symbols [N, T], [N]."""
        parts = indices.split(max(1, AT_ONCE // (self.length * self.book.symbols)))
        return torch.cat([-self._nats(part).sum(1) for part in parts])

    def _nats(self, indices: Tensor) -> Tensor:
        """-log P of each symbol given those before it, [N, T]."""
        read = F.pad(indices[:, :-1], (1, 0), value=self.book.symbols)  # the first is read after a sign of its own
        logits = self.net(self._nothing(len(read)), read, read.new_full((len(read),), self.length))
        return F.cross_entropy(logits, indices.flatten(), reduction="none").view(indices.shape)

    def _nothing(self, count: int) -> Tensor:
        """What stands where a decoder's transformer has its code."""
        return self.moments.new_zeros(count, 1)

    @torch.no_grad()
    def drawn(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Sequences of symbols, [count, T]."""
        written = self.net.begin(self._nothing(count))
        token = torch.full((count,), self.book.symbols, device=self.moments.device)
        found = []
        for _ in range(self.length):
            logits, written = self.net.step(token, written)
            token = logits.softmax(-1).multinomial(1, generator=generator)[:, 0]
            found.append(token)
        return torch.stack(found, 1)

    def fit(self, z: Tensor, steps: int, seed: int = 0) -> None:
        """Fits it to codes z [N, L] in `steps` steps, by maximum likelihood."""
        self.moments.copy_(torch.stack([z.mean(0), z.var(0, correction=0)]))
        minimise(self, lambda some: self._nats(some).sum(1).mean(), self.book.indices(z), steps, seed)
