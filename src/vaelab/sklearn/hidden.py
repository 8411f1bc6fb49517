"""Entries that are hidden from training, to see how well they are filled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..data.mixed import is_missing
from ..use.gaps import level_values

FEW_HIDDEN = 50  # entries below which they cannot tell


def known(rows: Any) -> np.ndarray:
    """Which entries of an array or a data frame are not missing, bool [n, D]."""
    if not hasattr(rows, "iloc"):
        return ~np.isnan(rows)
    columns = [rows.iloc[:, at] for at in range(rows.shape[1])]
    return np.array([[not is_missing(cell) for cell in column] for column in columns], bool).T


def without(rows: Any, gone: np.ndarray) -> Any:
    """A copy of rows with some of their entries missing."""
    if not hasattr(rows, "iloc"):
        return np.where(gone, np.nan, rows)
    out = rows.copy()
    for at in range(rows.shape[1]):
        out.isetitem(at, rows.iloc[:, at].astype(object).where(~gone[:, at], None))
    return out


def error(run: Any, truth: Any, filled: Any, gone: np.ndarray) -> float:
    """The mean over entries of their errors: in units of a column's variance squared, or 1 for a wrong level.

    Columns that the run left out, such as text that hardly ever repeats, do not count; NaN where fewer than
    `FEW_HIDDEN` entries are left, which say nothing.

    Args:
        run: That filled them, which knows which columns are categories.
        truth, filled: Rows [n, D], of one type.
        gone: Which entries, bool [n, D].
    """
    errors, levels = [np.zeros(0)], level_values(run)
    names = [str(name) for name in truth.columns] if hasattr(truth, "iloc") else None
    for place, name in enumerate(run.spec.columns):
        at = place if names is None else names.index(name)
        own, found = (_cells(rows, at)[gone[:, at]] for rows in (truth, filled))
        if not len(own):
            continue
        if place in levels and levels[place] is None:
            errors.append(np.array([_text(a) != _text(b) for a, b in zip(own, found, strict=True)], float))
        else:
            every = [float(cell) for cell in _cells(truth, at) if not is_missing(cell)]
            errors.append((found.astype(float) - own.astype(float)) ** 2 / (np.var(every) or 1.0))
    counted = np.concatenate(errors)
    return float(counted.mean()) if len(counted) >= FEW_HIDDEN else math.nan


def _cells(rows: Any, at: int) -> np.ndarray:
    return rows.iloc[:, at].to_numpy(object) if hasattr(rows, "iloc") else rows[:, at].astype(object)


def _text(cell: Any) -> str:
    """What a level is called, whether it came as text, a number or a truth value."""
    try:
        return repr(float(cell))
    except (TypeError, ValueError):
        return str(cell).strip().lower()
