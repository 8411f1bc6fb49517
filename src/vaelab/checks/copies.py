"""Copies: held-out rows that also stand in the training rows, told apart from repeats that coarse values bring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..data.batches import Rows

CHUNK = 4096
MOST_BYTES, MOST_ROWS = 512 << 20, 1 << 19  # read of either part, evenly spaced; about a second
LEAST_ROWS, LEAST_SHARE = 3, 0.04  # real tables hold some repeated measurements: three in a hundred of banknotes
FEW_COPIES = 20  # a row that stands there more often is a common value and no copy
HALVES = 8
STANDARD_ERRORS = 4.0


@dataclass(frozen=True)
class Leak:
    """Copies of training rows among the held-out ones.

    Args:
        count: Held-out rows that stand, entry by entry, in the training rows.
        share: Their share of the held-out rows.
        inside: Share of the training rows that stand there more than once.
        halves: Of the other held-out rows, the share that agree with a training row in half of the columns.
    """

    count: int
    share: float
    inside: float
    halves: float


def leaked(rows: Rows, held_out: Rows, seed: int) -> Leak | None:
    """The copies, where they are more than the data's own repeats; None where they are not.

    Rows repeat by chance where columns take few values, and a row drawn at random then meets its like in the training
    rows as often as these meet one another. So copies count as leaked where either holds: (1) held-out rows have a
    copy in the training rows clearly more often than training rows have one there; or (2) more rows agree in all
    columns than chance could bring, taking as its ceiling the share of rows that agree in a random half of them.
    """
    keys = _keys(rows, _spaced(rows))
    seen = Counter(keys)
    index = _spaced(held_out)
    times = np.array([seen[key] for key in _keys(held_out, index)])
    copies = (times > 0) & (times <= FEW_COPIES)
    count, share = int(copies.sum()), float(copies.mean())
    if count < LEAST_ROWS or share < LEAST_SHARE:
        return None
    inside = sum(2 <= seen[key] <= FEW_COPIES for key in keys) / len(keys)
    halves = _halves(rows, held_out, index[times == 0], seed)
    error = np.sqrt(share * (1 - share) / len(index))
    more_than_inside = share - inside > LEAST_SHARE + STANDARD_ERRORS * error
    return Leak(count, share, inside, halves) if more_than_inside or share > max(halves, LEAST_SHARE) else None


def _halves(rows: Rows, held_out: Rows, others: np.ndarray, seed: int) -> float:
    """Share of other held-out rows that agree with a training row in a random half of the columns, over several."""
    entries = int(np.prod(rows.shape))
    if not len(others) or entries < 2:
        return 0.0
    random, shares = np.random.default_rng(seed), []
    for _ in range(HALVES):
        columns = np.sort(random.permutation(entries)[: entries // 2])
        seen = set(_keys(rows, _spaced(rows), columns))
        shares.append(np.mean([key in seen for key in _keys(held_out, others, columns)]))
    return float(np.mean(shares))


def _spaced(rows: Rows) -> np.ndarray:
    """Evenly spaced rows, all of them where they can be read in a second."""
    most = min(MOST_ROWS, max(1, MOST_BYTES // max(1, rows.raw(np.arange(1)).nbytes)), len(rows))
    return np.unique(np.linspace(0, len(rows) - 1, most).astype(int))


def _keys(rows: Rows, index: np.ndarray, columns: np.ndarray | None = None) -> list[int]:
    """A hash of each row, or of some of its columns."""
    return [key for chunk in _chunks(rows, index) for key in map(hash, _as_bytes(chunk, columns))]


def _chunks(rows: Rows, index: np.ndarray) -> Iterator[np.ndarray]:
    for part in range(0, len(index), CHUNK):
        chunk = index[part : part + CHUNK]
        yield rows.raw(chunk).reshape(len(chunk), -1)


def _as_bytes(chunk: np.ndarray, columns: np.ndarray | None) -> Iterator[bytes]:
    chosen = np.ascontiguousarray(chunk if columns is None else chunk[:, columns])
    return (row.tobytes() for row in chosen)
