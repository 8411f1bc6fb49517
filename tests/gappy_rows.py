"""Rows with missing entries that two factors explain."""

from __future__ import annotations

import numpy as np


def gaps(rows: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """A copy with entries removed at random."""
    missing = np.random.default_rng(seed).random(rows.shape) < share
    return np.where(missing, np.nan, rows).astype(np.float32)


def linear_rows(count: int = 400, seed: int = 0) -> np.ndarray:
    """Rows of four columns that two factors explain."""
    random = np.random.default_rng(seed)
    loadings = np.array([[1.0, 0.8, 0.0, 0.5], [0.0, 0.6, 1.0, -0.5]])
    return random.normal(size=(count, 2)) @ loadings + 0.2 * random.normal(size=(count, 4))
