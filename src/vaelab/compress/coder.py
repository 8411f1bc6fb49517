"""Rows of symbols onto a stack and off again, by bits-back coding: the code of a row is drawn with bits of the others.

A block of rows is coded as: take codes off by q(z|x); put the rows on by p(x|z); put the codes on by p(z). It costs
-log p(x|z) - log p(z) + log q(z|x), which is the negative ELBO on average. Decoding does the opposite, backwards.

References: Townsend, Bird and Barber, Practical lossless compression with latent variables using bits back coding,
2019; Kingma, Abbeel and Ho, Bit-Swap: recursive bits-back coding for lossless compression with hierarchical latent
variables, 2019; Townsend, Bird, Kunze and Barber, HiLLoC: lossless image compression with hierarchical latent variable
models, 2020.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput
from .codes import draw, pop_prior, push_prior, undraw
from .masses import masses
from .stack import WORD_BITS, Stack, Table

SEED_BITS = 12  # for each latent dimension: what a draw from a posterior takes, and some more
LEAST_SEED = 8  # words: 256 bits, by which a wrong row cannot pass as right
MOST_ROWS, MOST_MASSES = 64, 2**21  # of a block
BEHIND = 16  # a block has at most this share of the rows coded before it, whose bits it draws its codes with


class Coder:
    """A model as a code of rows of symbols.

    Networks run in float64, with one thread and in the same blocks whichever way, and what they say is rounded to a
    grid before it is used: so that both ways are bound to agree on one machine, and nearly always do on two.

    Args:
        model: One that `check_model` lets pass, in evaluation mode.
        shape: Of a row as the model sees it.
        symbols: That an entry can be.
    """

    def __init__(self, model: Any, shape: tuple[int, ...], symbols: int) -> None:
        self.model, self.shape, self.symbols = copy.deepcopy(model).double(), shape, symbols
        self.entries, self.latent = math.prod(shape), int(model.latent)

    @torch.no_grad()
    def encode(self, rows: np.ndarray) -> np.ndarray:
        """The words of rows of symbols [n, D]."""
        stack = Stack(self.seed(rows))
        with _one_thread():
            for block in self._blocks(len(rows)):
                symbols = rows[block].astype(np.int32)
                z = draw(stack, self._posterior(symbols))
                self._table(z).push(stack, symbols.ravel())
                push_prior(stack, z)
        return stack.words

    @torch.no_grad()
    def decode(self, words: np.ndarray, count: int) -> np.ndarray:
        """The `count` rows that words were made of, [n, D].

        Raises:
            ValueError: where they are not: what is left in the end is no seed of these rows.
        """
        rows, stack = np.empty((count, self.entries), np.int32), Stack(words, sealed=True)
        with _one_thread():
            for block in reversed(list(self._blocks(count))):
                z = pop_prior(stack, block.stop - block.start, self.latent)
                rows[block] = self._table(z).pop(stack).reshape(-1, self.entries)
                undraw(stack, self._posterior(rows[block]), z)
        if not np.array_equal(stack.unsealed, self.seed(rows)):
            raise ValueError("the rows do not match their digest")
        return rows

    @property
    def seed_words(self) -> int:
        """Words that a stack begins with, for the first code to be drawn from."""
        return max(LEAST_SEED, -(-self.latent * SEED_BITS // WORD_BITS))

    def seed(self, rows: np.ndarray) -> np.ndarray:
        """A digest of rows [n, D] as long as need be: as good as random, and what is left once they are decoded."""
        digest = hashlib.shake_256(np.ascontiguousarray(rows, "<i4").tobytes()).digest(4 * self.seed_words)
        return np.frombuffer(digest, "<u4")

    def _blocks(self, count: int) -> Iterator[slice]:
        """Rows that are coded at once: the first ones alone, since later ones find more bits to draw codes with."""
        most, start = max(1, min(MOST_ROWS, MOST_MASSES // (self.entries * self.symbols))), 0
        while start < count:
            end = min(count, start + max(1, min(most, start // BEHIND)))
            yield slice(start, end)
            start = end

    def _posterior(self, symbols: np.ndarray) -> Any:
        return self.model.encode(torch.tensor(symbols, dtype=torch.float64).view(-1, *self.shape))

    def _table(self, z: Tensor) -> Table:
        found = masses(self.model.decode(z), self.symbols).flatten(0, 1)
        if not found.isfinite().all():
            raise BadInput("run", "masses that are not finite", "cannot be coded", "train the model again")
        return Table(found.numpy())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products of matrices may depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
