"""One pass over the training rows: the statistics that choices and judgements about the data rest on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Rows, chunks
from .transforms import Moments

DUPLICATE_BYTES = 256 << 20
FEW_ROWS = 10  # below this, a column in order by chance is no sign of an identifier


@dataclass(frozen=True)
class Summary:
    """What one pass over the training rows tells; columns are the entries of a flattened row, D of them.

    Missing entries (NaN) are left out of all of it, but a row with one is in no order.

    Args:
        rows: Number of rows.
        shape: Shape of a row.
        minimum: Lowest value.
        maximum: Highest value.
        zeros: Share of known entries that are 0.
        between: Share of known entries strictly between the lowest and the highest value.
        all_integer: Whether every known entry is a whole number.
        mean: Mean of each column, float64 [D].
        std: Standard deviation of each column, float64 [D]; exactly 0 for a constant column.
        identifier: Whether each column holds whole numbers in strictly rising or falling order, bool [D].
        duplicates: Share of rows that repeat an earlier one, among the first 256 MiB.
    """

    rows: int
    shape: tuple[int, ...]
    minimum: float
    maximum: float
    zeros: float
    between: float
    all_integer: bool
    mean: np.ndarray
    std: np.ndarray
    identifier: np.ndarray
    duplicates: float

    @property
    def overall(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over all entries."""
        return self.mean.mean(), np.sqrt((self.std**2).mean() + self.mean.var())


def summarise(rows: Any) -> Summary:
    """Statistics of the rows in one pass over chunks, so that a memory map is never read whole.

    Args:
        rows: [N, ...], an array, a tensor, or whatever has a shape and gives slices of rows.

    Example:
        >>> summary = summarise(np.array([[0.0, 2.0], [1.0, 4.0]]))
        >>> summary.mean, summary.zeros, summary.all_integer
        (array([0.5, 3. ]), 0.25, True)
    """
    running = _Running(rows)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN are refused by `choose`, with their place
        for chunk in chunks(rows):
            running.update(chunk.reshape(len(chunk), -1))
    return running.summary(tuple(rows.shape[1:]))


class _Running:
    """The state of `summarise` between chunks."""

    def __init__(self, rows: Rows) -> None:
        columns = math.prod(rows.shape[1:])
        self.moments = Moments(columns)
        self.low, self.high = (math.inf, 0), (-math.inf, 0)  # value and how often it was met
        self.column_low, self.column_high = np.full(columns, np.inf), np.full(columns, -np.inf)
        self.whole, self.rising, self.falling = (np.full(columns, True) for _ in range(3))
        self.ordered = rows.ndim == 2  # only a table's columns can be identifiers
        self.rows, self.zeros, self.hashed_rows, self.hashed_bytes = 0, 0, 0, 0
        self.hashes: set[int] = set()
        self.last: np.ndarray | None = None

    def update(self, chunk: np.ndarray) -> None:
        """Takes in rows [B, D]."""
        self.rows += len(chunk)
        self.moments.update(chunk)
        self.low = _extreme(self.low, chunk, min, np.fmin.reduce)
        self.high = _extreme(self.high, chunk, max, np.fmax.reduce)
        self.column_low = np.fmin(self.column_low, np.fmin.reduce(chunk))
        self.column_high = np.fmax(self.column_high, np.fmax.reduce(chunk))
        self.zeros += chunk.size - int(np.count_nonzero(chunk))
        if chunk.dtype.kind == "f":
            self.whole &= ((chunk == np.floor(chunk)) | np.isnan(chunk)).all(0)
        if self.ordered:
            self._update_order(chunk)
        if self.hashed_bytes <= DUPLICATE_BYTES:
            self.hashes.update(hash(row.tobytes()) for row in chunk)
            self.hashed_rows += len(chunk)
            self.hashed_bytes += chunk.nbytes

    def _update_order(self, chunk: np.ndarray) -> None:
        joined = chunk if self.last is None else np.concatenate([self.last, chunk])
        self.rising &= (joined[1:] > joined[:-1]).all(0)
        self.falling &= (joined[1:] < joined[:-1]).all(0)
        self.last = chunk[-1:]

    def summary(self, shape: tuple[int, ...]) -> Summary:
        """What the pass found."""
        (minimum, lowest), (maximum, highest) = self.low, self.high
        rows, entries = self.rows, max(1, int(self.moments.count.sum()))
        constant = self.column_low == self.column_high
        ordered = (self.rising | self.falling) & (self.ordered and rows >= FEW_ROWS)
        return Summary(
            rows=rows,
            shape=shape,
            minimum=minimum,
            maximum=maximum,
            zeros=self.zeros / entries,
            between=(entries - lowest - highest) / entries if minimum < maximum else 0.0,
            all_integer=bool(self.whole.all()),
            mean=self.moments.mean,
            std=np.where(constant, 0.0, self.moments.std),
            identifier=self.whole & ordered,
            duplicates=1 - len(self.hashes) / self.hashed_rows,
        )


def _extreme(
    known: tuple[float, int], chunk: np.ndarray, better: Callable[[float, float], float], of: Callable[..., float]
) -> tuple[float, int]:
    value = better(known[0], float(of(chunk, axis=None)))
    return value, (known[1] if value == known[0] else 0) + int(np.count_nonzero(chunk == value))
