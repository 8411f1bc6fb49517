"""Posteriors over codes: a network, a head that gives each position its numbers, and a book they are brought to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.batch import Batch, condition_of, rows_of
from .codes import CategoricalCodes, Codes
from .normal import full_precision
from .quantize import Book, LearnedBook, Quantiser

SEEN = 2048  # rows whose outputs a book starts at
COOLING, STEPS_AT_A_TIME = 1e-4, 500  # of the temperature, as in the paper


class PositionHead(nn.Module):
    """From a network's features to `width` numbers for each of P positions.

    Args:
        features: Of the network.
        positions: P.
        width: Numbers of a position.
        grid: (channels, height, width) of a convolutional network's last map, where the positions are its pixels, each
            of which then sees its own channels only; None: every position sees all features.
    """

    def __init__(self, features: int, positions: int, width: int, grid: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        self.positions, self.grid = positions, grid
        self.layer: nn.Module = (
            nn.Linear(features, positions * width) if grid is None else nn.Conv2d(grid[0], width, kernel_size=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, F] to [B, P, width]."""
        if self.grid is None:
            return self.layer(features).unflatten(1, (self.positions, -1))
        return self.layer(features.unflatten(1, self.grid)).flatten(2).transpose(1, 2)


class _CodePosterior(nn.Module):
    """What both kinds of posteriors over codes are made of.

    Args:
        net: Maps a batch [B, ...] to features [B, features].
        features: Width of the features.
        positions: P.
        book: What a position can hold.
        grid: See `PositionHead`.
    """

    def __init__(
        self,
        net: nn.Module,
        features: int,
        positions: int,
        book: Book,
        width: int,
        grid: tuple[int, int, int] | None,
    ) -> None:
        super().__init__()
        self.net, self.book, self.positions, self.latent = net, book, positions, positions * book.size
        self.head = PositionHead(features, positions, width, grid)

    def raw(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The network's output for rows x [B, ...], [B, P, width]."""
        features = self.net(x) if condition is None else self.net(x, condition)
        return full_precision(self.head(features))


class QuantisedPosterior(_CodePosterior):
    """q(z|x) is one point: the network's output, brought to a book.

    Args:
        net: Maps a batch [B, ...] to features [B, features].
        features: Width of the features.
        positions: P, the codes of a row.
        book: What brings it there.
        grid: See `PositionHead`.
        conditioned: Whether the network reads what is given beside a row.

    References:
        van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017.

    Example:
        >>> from .quantize import VectorBook
        >>> posterior = QuantisedPosterior(nn.Flatten(), 4, 3, VectorBook(8, 2))(torch.zeros(5, 4))
        >>> posterior.mean.shape, posterior.indices.shape
        (torch.Size([5, 6]), torch.Size([1, 5, 3]))
    """

    noise_size = 0
    book: Quantiser

    def __init__(
        self,
        net: nn.Module,
        features: int,
        positions: int,
        book: Quantiser,
        grid: tuple[int, int, int] | None = None,
        *,
        conditioned: bool = False,
    ) -> None:
        super().__init__(net, features, positions, book, book.width, grid)
        self.conditioned = conditioned

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Codes:
        """The code of each row of x, [B, ...]."""
        h = self.raw(x, condition)
        with torch.autocast(h.device.type, enabled=False):
            return Codes(*self._brought(h))

    def _brought(self, h: Tensor) -> tuple[Tensor, Book, dict[str, Tensor]]:
        z, extra = self.book(h)
        return z, self.book, extra

    @torch.no_grad()
    def see(self, rows: Tensor | Batch) -> None:
        """Starts the book at the outputs for training rows."""
        training, some = self.training, rows[:SEEN]
        self.eval()
        self.book.begin(self.raw(rows_of(some), condition_of(some) if self.conditioned else None))
        self.train(training)


class GumbelPosterior(_CodePosterior):
    """q(z|x) is a categorical distribution at each position: relaxed samples in training, codes in evaluation.

    The temperature of the relaxed samples falls as max(temperature, exp(-1e-4 t)) with the steps t in training mode,
    500 at a time. The divergence is that of the categorical distributions, at any temperature; what is measured in
    training mode is no bound, what is measured in evaluation mode is one.

    Args:
        net: Maps a batch [B, ...] to features [B, features].
        features: Width of the features.
        positions: P, the codes of a row.
        book: The entries.
        temperature: At the end.
        grid: See `PositionHead`.

    References:
        Jang, Gu and Poole, Categorical Reparameterization with Gumbel-Softmax, 2017; Maddison, Mnih and Teh, The
        Concrete Distribution, 2017.
    """

    steps: Tensor
    book: LearnedBook

    def __init__(
        self,
        net: nn.Module,
        features: int,
        positions: int,
        book: LearnedBook,
        temperature: float = 0.5,
        grid: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(net, features, positions, book, book.symbols, grid)
        self.noise_size, self.lowest = positions * book.symbols, temperature
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @property
    def temperature(self) -> Tensor:
        """The temperature in force."""
        passed = self.steps // STEPS_AT_A_TIME * STEPS_AT_A_TIME
        return (-COOLING * passed).exp().clamp(min=self.lowest)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> CategoricalCodes:
        """The distribution of each row of x, [B, ...]."""
        logits = self.raw(x, condition)
        if not self.training:
            return CategoricalCodes(logits, self.book)
        temperature = self.temperature.to(logits.dtype)
        self.steps += 1
        return CategoricalCodes(logits, self.book, temperature)
