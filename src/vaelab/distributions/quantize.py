"""Books of codes: what a position of z can hold, how a network's output is brought to it, and back to numbers.

Shapes: B rows, P positions, D numbers of a position as the network gives it. A position holds `depth` symbols out of
`symbols`, written into z as `size` numbers; T = P depth symbols make a row's sequence, L = P size numbers its z.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import log, prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.across import global_mean, of_the_first
from ..core.errors import BadInput

AT_ONCE = 2**24  # distances computed at once: 64 MiB in float32
DEAD = 0.1  # of an even share of the vectors: an entry that gets less is moved to where vectors are
BEYOND = 1e-3  # the outer levels of a grid reach this much further, so that two levels have a finite centre


class Book(nn.Module, ABC):
    """A finite set of vectors that a position of z can hold.

    Attributes:
        symbols: Different symbols.
        depth: Symbols of a position.
        size: Numbers of z that a position takes.
        width: Numbers of a network's output for a position.
    """

    symbols: int
    depth: int
    size: int
    width: int

    @abstractmethod
    def indices(self, z: Tensor) -> Tensor:
        """The symbols nearest to z [..., P size], [..., P depth]; exact for what `vectors` gives."""

    @abstractmethod
    def vectors(self, indices: Tensor) -> Tensor:
        """The z [..., P size] of symbols [..., P depth]."""

    @property
    def nats(self) -> float:
        """The logarithm of the number of vectors a position can hold."""
        return self.depth * log(self.symbols)

    def everything(self) -> Tensor:
        """What each symbol stands for, at every depth, [symbols, size]."""
        device = next(self.buffers(), next(self.parameters(), torch.empty(()))).device
        return self.vectors(torch.arange(self.symbols, device=device)[:, None].expand(-1, self.depth))


class Quantiser(Book):
    """A book with a rule that brings a network's output to it, past which gradients go straight through."""

    @abstractmethod
    def forward(self, h: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """z [B, P size] for outputs h [B, P, width], and named [B] terms in nats for the loss."""

    def begin(self, h: Tensor) -> None:
        """Starts at a network's outputs for training rows, [N, P, width]."""


class _Table(Book):
    """Books that are a list: `entries` [depth, symbols, D]."""

    entries: Tensor

    def __init__(self, symbols: int, width: int, depth: int) -> None:
        super().__init__()
        self.symbols, self.width, self.depth, self.size = symbols, width, depth, depth * width

    def indices(self, z: Tensor) -> Tensor:
        """The nearest entry at each depth; of equal ones the first."""
        parts = z.unflatten(-1, (-1, self.depth, self.width)).unbind(-2)
        found = [nearest(part, entries) for part, entries in zip(parts, self.entries, strict=True)]
        return torch.stack(found, -1).flatten(-2)

    def vectors(self, indices: Tensor) -> Tensor:
        """The entries themselves, side by side."""
        parts = indices.unflatten(-1, (-1, self.depth)).unbind(-1)
        found = [entries[part] for part, entries in zip(parts, self.entries, strict=True)]
        return torch.stack(found, -2).flatten(-3)


class LearnedBook(_Table):
    """Entries that gradients move, for codes drawn from a categorical distribution.

    Example:
        >>> LearnedBook(8, 3).vectors(torch.zeros(5, 2, dtype=torch.long)).shape
        torch.Size([5, 6])
    """

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__(symbols, width, 1)
        self.entries = nn.Parameter(torch.randn(1, symbols, width))


class VectorBook(_Table, Quantiser):
    r"""Nearest entries, at each depth of what the depth before left over; entries follow the vectors they stand for.

    .. math:: i_d = \arg\min_j |r_d - e_{dj}|, \quad r_{d+1} = r_d - e_{d i_d}, \quad r_1 = h

    An entry is the moving average of its vectors: with the share n of the batch's vectors that it gets and their sum s
    over the batch's count, `n' = decay n + (1 - decay) n_batch` and `e' = (decay n e + (1 - decay) s) / n'`. One that
    gets less than a tenth of an even share is moved to a vector of the batch. Both happen in training mode only,
    after the batch was quantised. z holds the entries of all depths side by side: from their sum they could not be
    told. The `commitment` term is `commitment * sum_d |r_d - e_d|²`, whose gradient keeps the network near its entries.

    Args:
        symbols: Entries at each depth.
        width: Numbers of an entry.
        depth: Entries of a position; 1: plain vector quantisation.
        commitment: Weight of that term.
        decay: Of the moving averages.

    References:
        van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017 (appendix A for the moving
        averages); Zeghidour et al., SoundStream, 2021, for residuals; Dhariwal et al., Jukebox, 2020, for revival.

    Example:
        >>> book = VectorBook(8, 3)
        >>> z, terms = book(torch.zeros(5, 2, 3))
        >>> z.shape, terms["commitment"].shape, book.indices(z).shape
        (torch.Size([5, 6]), torch.Size([5]), torch.Size([5, 2]))
    """

    shares: Tensor

    def __init__(
        self, symbols: int, width: int, depth: int = 1, *, commitment: float = 0.25, decay: float = 0.99
    ) -> None:
        super().__init__(symbols, width, depth)
        self.commitment, self.decay = commitment, decay
        self.register_buffer("entries", torch.randn(depth, symbols, width))
        self.register_buffer("shares", torch.full((depth, symbols), 1 / symbols))

    def forward(self, h: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """z [B, P depth width] and the commitment, for outputs h [B, P, width]."""
        left, parts, apart = h, [], h.new_zeros(len(h))
        for level in range(self.depth):
            index = nearest(left, self.entries[level])
            chosen = self.entries[level][index]
            parts.append(straight_through(left, chosen))
            apart = apart + (left - chosen).square().sum((1, 2))
            if self.training:
                self._follow(level, left.detach().flatten(0, 1), index.flatten())
            left = left - chosen
        return torch.stack(parts, 2).flatten(1), {"commitment": self.commitment * apart}

    @torch.no_grad()
    def _follow(self, level: int, vectors: Tensor, index: Tensor) -> None:
        """Moves the entries of a level toward vectors [N, width] that were assigned to them, and revives dead ones."""
        entries, shares, count = self.entries[level], self.shares[level], len(vectors)
        sums = torch.cat([torch.zeros_like(entries).index_add_(0, index, vectors), _counts(index, shares)[:, None]], 1)
        mean = global_mean(sums, count)
        old = shares * self.decay
        new = old + (1 - self.decay) * mean[:, -1]
        moved = (entries * old[:, None] + (1 - self.decay) * mean[:, :-1]) / new[:, None]
        dead = new * self.symbols < DEAD
        entries.copy_(torch.where(dead[:, None], of_the_first(some_of(vectors, self.symbols)), moved))
        shares.copy_(torch.where(dead, 1 / self.symbols, new))

    @torch.no_grad()
    def begin(self, h: Tensor) -> None:
        """Starts at outputs for training rows, drawn by a fixed order, each depth at what the one before leaves."""
        left, order = h.flatten(0, 1), torch.Generator().manual_seed(0)
        for entries in self.entries:
            entries.copy_(some_of(left, self.symbols, order))
            left = left - entries[nearest(left, entries)]
        self.shares.fill_(1 / self.symbols)


class GridBook(Quantiser):
    r"""Finite scalar quantisation: each number is rounded to one of a few levels, evenly spaced.

    .. math:: z = \frac{\mathrm{round}(a \tanh(h + s) - o)}{\lfloor L / 2 \rfloor}

    with a = (L - 1) / 2, o = 1/2 for an even number of levels L and else 0, and s such that h = 0 is the middle one.
    The levels go from -1 to 1, or to 1 - 2 / L where L is even, since 0 is one of them.
    Nothing is learned and nothing can die.

    Args:
        levels: Of each number of a position.

    References:
        Mentzer, Minnen, Agustsson and Tschannen, Finite Scalar Quantization: VQ-VAE Made Simple, 2023.

    Raises:
        BadInput: for fewer than two levels.

    Example:
        >>> GridBook((3, 2)).everything()
        tensor([[-1., -1.],
                [ 0., -1.],
                [ 1., -1.],
                [-1.,  0.],
                [ 0.,  0.],
                [ 1.,  0.]])
    """

    levels: Tensor
    bases: Tensor
    anchor: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if min(levels) < 2 or prod(levels) > 2**16:
            rule = "needs at least two levels everywhere, and at most 65536 combinations"
            raise BadInput("model.code_levels", tuple(levels), rule, "such as [8, 5, 5]")
        self.symbols, self.depth, self.width, self.size = prod(levels), 1, len(levels), len(levels)
        # Whole numbers, so that no precision rounds them; they follow from the settings and are not saved.
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        bases = torch.tensor([prod(levels[:place]) for place in range(len(levels))])
        self.register_buffer("bases", bases, persistent=False)
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # carries the precision

    def forward(self, h: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """z [B, P size], for outputs h [B, P, size]."""
        levels = self.levels.to(h.dtype)
        reach, offset = (levels - 1) * ((1 + BEYOND) / 2), (1 - levels % 2) / 2
        bounded = (h + (offset / reach).atanh()).tanh() * reach - offset
        return (straight_through(bounded, bounded.round()) / (self.levels // 2)).flatten(1), {}

    def indices(self, z: Tensor) -> Tensor:
        """The levels as digits of a number, the first the lowest."""
        half = self.levels // 2
        digits = (z.unflatten(-1, (-1, self.size)) * half).round().long() + half
        return (digits.clamp(min=0).minimum(self.levels - 1) * self.bases).sum(-1)

    def vectors(self, indices: Tensor) -> Tensor:
        """The digits, from -1 to 1, or to 1 - 2 / L where L is even."""
        digits, half = indices[..., None] // self.bases % self.levels, self.levels // 2
        return ((digits - half).to(self.anchor.dtype) / half).flatten(-2)


class _StraightThrough(torch.autograd.Function):
    """Forward one tensor, backward to another: exactly on the entries, where `h + (e - h)` would be beside them."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, chosen: Tensor) -> Tensor:
        return chosen.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(h: Tensor, chosen: Tensor) -> Tensor:
    """`chosen`, whose gradient is passed on to h of the same shape (Bengio et al., Estimating Gradients, 2013).

    Example:
        >>> h = torch.tensor([0.3], requires_grad=True)
        >>> torch.autograd.grad(3 * straight_through(h, h.round()), h)
        (tensor([3.]),)
    """
    return _StraightThrough.apply(h, chosen)


@torch.no_grad()
def nearest(h: Tensor, entries: Tensor) -> Tensor:
    """The index of the nearest of `entries` [N, D] for each vector of h [..., D], [...]; of equal ones the first.

    Distances are summed from differences: expanded squares cannot tell close entries apart.
    """
    exact = "donot_use_mm_for_euclid_dist"
    parts = h.reshape(-1, h.shape[-1]).split(max(1, AT_ONCE // len(entries)))
    found = [torch.cdist(part, entries.to(h.dtype), compute_mode=exact).argmin(-1) for part in parts]
    return torch.cat(found).reshape(h.shape[:-1])


def some_of(vectors: Tensor, count: int, order: torch.Generator | None = None) -> Tensor:
    """`count` of the vectors [N, D] in a random order, again from the first where there are fewer."""
    device = vectors.device if order is None else order.device
    chosen = torch.randperm(len(vectors), generator=order, device=device).to(vectors.device)
    return vectors[chosen[torch.arange(count, device=vectors.device) % len(vectors)]]


def _counts(index: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).index_add_(0, index, torch.ones_like(index, dtype=like.dtype))
