"""The stack of bits that everything is coded onto, and the codecs that push symbols onto it and pop them again.

The law of every codec: what `pop` takes off, `push` puts back, and the other way round, bit for bit.

References: Duda, Asymmetric numeral systems, 2009; Bamler, Understanding entropy coding with asymmetric numeral systems
(ANS): a statistician's perspective, 2022, on the package `constriction`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..core.errors import MissingExtra

WORD_BITS = 32
FINE = 64  # bins in a coarse one
STEP = 2.0**-9  # width of a bin of a code: a small part of the narrowest posteriors, whose draws it rounds
REACH = 64  # coarse bins on either side of 0: codes lie within ± 8, and the prior has 1e-15 of its mass outside
OFFSET = (FINE - 1) / 2  # bin b has its centre at (b - OFFSET) STEP: the coarse bin 0 is around 0
GRID = 2.0**-8  # of a bin: what means and deviations are rounded to before they are used
MASS_GRID = 2.0**-22  # what masses are rounded to: sums of them are exact in float32, in whatever order
MOST_LEVELS = 2**12  # symbols of a table, each of which takes at least 2^-24 of the mass
FURTHEST = 2.0**20  # bins: a mean or a deviation beyond says no more


class Stack:
    """Bits that are taken off in the reverse order in which they were put on.

    A stack that runs empty gives each codec's first symbols, and takes them back just as well: what it holds in the end
    is exact, and only longer than it had to be.

    Args:
        words: 32-bit words, uint32 [n]: those to begin with, or those that `words` gave.
        sealed: Whether they are what `words` gave; otherwise they are sealed, so that any words can be begun with.

    Raises:
        MissingExtra: without the package `constriction`.
        ValueError: for sealed words that no stack gives.
    """

    def __init__(self, words: np.ndarray, sealed: bool = False) -> None:
        self.package = _constriction()
        self._coder = self.package.stream.stack.AnsCoder(np.ascontiguousarray(words, np.uint32), seal=not sealed)

    @property
    def words(self) -> np.ndarray:
        """All that is on the stack, uint32 [n]."""
        return np.asarray(self._coder.get_compressed())

    @property
    def unsealed(self) -> np.ndarray:
        """The words it was begun with, once all that was put on them is off again.

        Raises:
            ValueError: where something else is on it.
        """
        try:
            return np.asarray(self._coder.get_compressed(unseal=True))
        except AssertionError:
            raise ValueError("what is left is not what was begun with") from None

    def push(self, symbols: np.ndarray, model: Any, *parameters: np.ndarray) -> None:
        """Puts symbols on, the last one first."""
        self._coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), model, *parameters)

    def pop(self, model: Any, *parameters: np.ndarray) -> np.ndarray:
        """Takes symbols off, the first one first, int32 [n]."""
        return np.asarray(self._coder.decode(model, *parameters))


class Codec(Protocol):
    """A distribution of n symbols, each independent of the others."""

    def push(self, stack: Stack, symbols: np.ndarray) -> None:
        """Puts symbols [n] on the stack: -log2 of their masses in bits."""

    def pop(self, stack: Stack) -> np.ndarray:
        """Takes them off: a draw, where the stack holds bits that are as good as random."""


class Table:
    """Symbols 0, ..., M - 1 with a mass each.

    Args:
        masses: Finite numbers of at least 0, not all of them 0, [n, M]; their sums need not be 1.
    """

    def __init__(self, masses: np.ndarray) -> None:
        shares = masses / masses.sum(1, keepdims=True)
        rounded = np.rint(shares / MASS_GRID) * MASS_GRID
        self.masses = rounded.astype(np.float32, order="C")  # what the package takes any other order for

    def push(self, stack: Stack, symbols: np.ndarray) -> None:
        """Puts symbols [n] on the stack."""
        stack.push(symbols, self._model(stack), self.masses)

    def pop(self, stack: Stack) -> np.ndarray:
        """Takes symbols off, [n]."""
        return stack.pop(self._model(stack), self.masses)

    @staticmethod
    def _model(stack: Stack) -> Any:
        return stack.package.stream.model.Categorical(perfect=False)


class Bins:
    """Bins of width `STEP` of a normal distribution, in two steps: a coarse bin, and the one in it.

    A table gives each symbol at least 2^-24. Over all bins at once that would send one code in some thousand anywhere,
    where its row costs a hundred bits more; so it is one in a hundred thousand, and all others stay near.

    Args:
        mean: [n].
        std: [n].
    """

    def __init__(self, mean: np.ndarray, std: np.ndarray) -> None:
        self.mean = np.clip(_rounded(mean / STEP), -FURTHEST, FURTHEST)
        self.std = np.clip(_rounded(std / STEP), GRID, FURTHEST)

    def push(self, stack: Stack, symbols: np.ndarray) -> None:
        """Puts bins [n] on the stack."""
        coarse, fine = np.divmod(symbols.astype(np.int64), FINE)
        self._within(coarse).push(stack, fine)
        stack.push(coarse, *self._coarse(stack))

    def pop(self, stack: Stack) -> np.ndarray:
        """Takes bins off, [n]."""
        coarse = stack.pop(*self._coarse(stack))
        return coarse * FINE + self._within(coarse).pop(stack)

    def _coarse(self, stack: Stack) -> tuple[Any, np.ndarray, np.ndarray]:
        return stack.package.stream.model.QuantizedGaussian(-REACH, REACH), self.mean / FINE, self.std / FINE

    def _within(self, coarse: np.ndarray) -> Table:
        """The bins of coarse ones [n], by the density at their centres."""
        centres = coarse[:, None] * FINE + np.arange(FINE) - OFFSET
        nats = -0.5 * ((centres - self.mean[:, None]) / self.std[:, None]) ** 2
        return Table(np.exp(nats - nats.max(1, keepdims=True)))


def standard_bins(count: int) -> Bins:
    """The bins of `count` standard normal numbers."""
    return Bins(np.zeros(count), np.ones(count))


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values.astype(np.float64) / GRID) * GRID


def _constriction() -> Any:
    try:
        import constriction
    except ImportError:
        raise MissingExtra("constriction", "codec", "compress") from None
    return constriction
