"""How alike rows of tokens are."""

from __future__ import annotations

import numpy as np

from ..core.tokens import END, PADDING

Rows = np.ndarray


def agreement(x: Rows, back: Rows) -> np.ndarray:
    """Share of tokens that stand in their place, of those of the longer string and its end, [n].

    Args:
        x, back: Rows of tokens, [n, T].

    Example:
        >>> agreement(np.array([[4, 5, 2, 0]]), np.array([[4, 6, 7, 2]])).tolist()
        [0.25]
    """
    either = (x != PADDING) | (back != PADDING)
    return ((x == back) & either).sum(1) / either.sum(1)


def frequencies(x: Rows, vocabulary: int) -> np.ndarray:
    """Share of each token among all that are written in rows [n, T], the ends included, [vocabulary]."""
    written = x[x >= END].astype(np.int64)
    return np.bincount(written, minlength=vocabulary) / max(len(written), 1)
