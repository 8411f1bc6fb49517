"""Rows of a sparse matrix, which become dense when they are asked for: batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np


class SparseRows:
    """Rows like those of an array [N, D], kept as a sparse matrix.

    Args:
        matrix: A SciPy matrix in compressed rows, [N, D].

    Example:
        >>> from scipy.sparse import csr_matrix
        >>> rows = SparseRows(csr_matrix([[0, 2, 0], [1, 0, 0]]))
        >>> rows[:1].tolist(), rows[:, [1, 0]][[1]].tolist()
        ([[0.0, 2.0, 0.0]], [[0.0, 1.0]])
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix.astype(np.float32, copy=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.matrix.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Rows as an array; of `[:, columns]`, sparse rows of these columns, or one column as an array."""
        if not isinstance(index, tuple):
            rows = self.matrix[index].toarray()
            return rows[0] if np.ndim(index) == 0 and not isinstance(index, slice) else rows
        _, columns = index
        if np.ndim(columns) == 0:
            return self.matrix[:, [columns]].toarray()[:, 0]
        return SparseRows(self.matrix[:, columns])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.matrix.toarray().astype(dtype or self.dtype, copy=False)
