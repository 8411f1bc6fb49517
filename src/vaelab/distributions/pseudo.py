"""Priors made of encoded rows: mixtures of the encoder's own posteriors at pseudo-inputs or at training rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch, condition_of, rows_of
from ..core.facts import Shape
from .mixtures import Mixture
from .normal import DiagonalNormal

EDGE = 0.05  # of the range: pseudo-inputs begin at least so far inside, since at the very edge they could not move
NARROW = 1e-6  # an entry whose training rows differ by less is held at their value


class _Encoded(nn.Module):
    """Rows, and what is given beside them, that go through an encoder which belongs to the model."""

    given: Tensor | None

    def __init__(self, encoder: nn.Module, components: int, condition: int) -> None:
        super().__init__()
        self.latent, self.components = encoder.latent, components
        self.register_buffer("given", torch.zeros(components, condition) if condition else None)
        self._encoder = [encoder]  # not a part: its weights are saved and trained with the model once

    def encoded(self, rows: Tensor) -> Any:
        """The encoder's posterior of rows [M, ...]."""
        (encoder,) = self._encoder
        return encoder(rows) if self.given is None else encoder(rows, self.given)

    def first(self, rows: Tensor | Batch) -> Tensor:
        """The first M of some rows, again from the start where there are fewer; what stands beside them is kept."""
        index = torch.arange(self.components) % len(rows)
        condition = condition_of(rows)
        if self.given is not None and condition is not None:
            self.given.copy_(condition[index])
        return rows_of(rows)[index]


class VampPrior(nn.Module):
    r"""p(z) = 1/M sum_m q(z|u_m): the encoder's posteriors at M learned pseudo-inputs u.

    Pseudo-inputs begin at training rows. Where the likelihood's rows are bounded they stay, entry by entry, within the
    range of the training rows: u = low + (high - low) sigmoid(v), and v is learned.

    References: Tomczak and Welling, VAE with a VampPrior, 2018.

    Args:
        encoder: The model's own; its forward gives normal distributions.
        shape: Of a row.
        components: M.
        bounded: Whether rows lie in a bounded range.
        condition: Entries of what the encoder reads beside a row; that of the first rows seen is kept.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, encoder: nn.Module, shape: Shape, components: int = 100, bounded: bool = False, condition: int = 0
    ) -> None:
        super().__init__()
        self.source = _Encoded(encoder, components, condition)
        self.latent, self.bounded = self.source.latent, bounded
        self.raw = nn.Parameter(torch.randn(components, *shape))
        self.register_buffer("low", torch.zeros(shape))
        self.register_buffer("high", torch.ones(shape))

    @torch.no_grad()
    def see(self, rows: Tensor | Batch) -> None:
        """Begin at the first of some training rows; the range is that of all of them."""
        first, every = self.source.first(rows), rows_of(rows)
        if self.bounded:
            self.low.copy_(every.amin(0))
            self.high.copy_(every.amax(0))
            share = (first - self.low) / (self.high - self.low).clamp(min=NARROW)
            first = share.clamp(EDGE, 1 - EDGE).logit()
        self.raw.copy_(first)

    @property
    def inputs(self) -> Tensor:
        """The pseudo-inputs, [M, ...]."""
        return self.low + (self.high - self.low) * self.raw.sigmoid() if self.bounded else self.raw

    def forward(self, context: Tensor | None = None) -> Mixture:
        """The mixture at the encoder's present weights; it depends on no context."""
        return Mixture(self.raw.new_zeros(len(self.raw)), self.source.encoded(self.inputs))


class ExemplarPrior(nn.Module):
    r"""p(z) = 1/M sum_m N(z; mean of q(z|x_m), s² I): the encoder's means of M training rows x, and one learned s.

    The paper takes all training rows as exemplars, leaves the row at hand out of its own prior and finds the nearest
    ones by an index that is brought up to date now and then; here M rows, drawn once, serve all rows, and a row that is
    among them (a share M / N) meets itself.

    References: Norouzi, Fleet and Norouzi, Exemplar VAE, 2020.

    Args:
        encoder: The model's own; its forward gives distributions with a mean.
        shape: Of a row.
        components: M.
        condition: Entries of what the encoder reads beside a row.
    """

    rows: Tensor

    def __init__(self, encoder: nn.Module, shape: Shape, components: int = 100, condition: int = 0) -> None:
        super().__init__()
        self.source = _Encoded(encoder, components, condition)
        self.latent = self.source.latent
        self.register_buffer("rows", torch.zeros(components, *shape))
        self.log_std = nn.Parameter(torch.tensor(-0.5))

    @torch.no_grad()
    def see(self, rows: Tensor | Batch) -> None:
        """Keep the first of some training rows."""
        self.rows.copy_(self.source.first(rows))

    def forward(self, context: Tensor | None = None) -> Mixture:
        """The mixture at the encoder's present weights; it depends on no context."""
        means = self.source.encoded(self.rows).mean
        return Mixture(means.new_zeros(len(means)), DiagonalNormal(means, self.log_std.expand_as(means)))
