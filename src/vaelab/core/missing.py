"""Missing entries, which are NaN wherever rows are numbers: what stands in for them where a number is needed."""

from __future__ import annotations

import numpy as np


def stood_in(x: np.ndarray) -> np.ndarray:
    """Rows [n, D] with known entries of the same column, in turn, where one is missing; 0 where none is known.

    Columns keep their mean, deviation, range and kind of values, and rows what they have; what looks at columns or at
    distances needs no case of its own.

    Example:
        >>> stood_in(np.array([[1.0, np.nan], [np.nan, 5.0], [3.0, 6.0], [np.nan, 7.0]])).tolist()
        [[1.0, 5.0], [1.0, 5.0], [3.0, 6.0], [3.0, 7.0]]
    """
    if x.dtype.kind != "f" or not np.isnan(x).any():
        return x
    filled = x.copy()
    for column in filled.T:
        gaps = np.isnan(column)
        known = column[~gaps]
        column[gaps] = np.resize(known, gaps.sum()) if len(known) else 0.0
    return filled


def over_known(values: np.ndarray) -> np.ndarray:
    """The mean of each row [n, D] over the entries that are there, of the rows that have any, [m].

    Example:
        >>> over_known(np.array([[1.0, 3.0], [np.nan, 5.0], [np.nan, np.nan]])).tolist()
        [2.0, 5.0]
    """
    known = ~np.isnan(values)
    some = known.any(1)
    return np.asarray(np.where(known, values, 0.0)[some].sum(1) / known[some].sum(1))
