"""Batches: rows gathered by index from memory, from the device or from a memory map, never sample by sample."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.seeds import generator
from .arrays import as_numpy
from .transforms import Affine

RESIDENT_BYTES = 2 * 2**30  # rows up to this size are kept transformed, in float32, where the model is


class Part:
    """Some rows of an array, read chunk by chunk."""

    def __init__(self, rows: np.ndarray | Tensor, indices: np.ndarray) -> None:
        self.rows, self.indices = rows, indices
        self.shape, self.ndim, self.dtype = (len(indices), *rows.shape[1:]), rows.ndim, rows.dtype

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, part: slice) -> np.ndarray:
        return as_numpy(self.rows[self.indices[part]])


class Rows:
    """Rows ready for a model: raw values, an invertible transform, and binarisation where it was asked for.

    Args:
        raw: [N, *shape], a tensor or a NumPy array (possibly a memory map).
        indices: The rows that belong to this part of the split; None for all.
        transform: From the data's own scale to the model's.
        binarize: "none", "threshold" (at one half) or "dynamic" (each value is the probability of a one).
        shape: Shape of a row as the model sees it.
    """

    def __init__(
        self,
        raw: np.ndarray | Tensor,
        indices: np.ndarray | None,
        transform: Affine,
        *,
        binarize: str,
        shape: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self.shape, self.device = shape, device
        self.dynamic = binarize == "dynamic"
        self._raw, self._indices, self._threshold = raw, indices, binarize == "threshold"
        self._transform = transform
        self._resident: Tensor | None = None
        self.count = len(raw) if indices is None else len(indices)
        if self.count * int(np.prod(shape)) * 4 <= RESIDENT_BYTES:
            self._resident = torch.cat([self._read(chunk) for chunk in np.array_split(np.arange(self.count), 16)])

    def __len__(self) -> int:
        return self.count

    def take(self, index: Tensor, coins: torch.Generator | None = None) -> Tensor:
        """The rows at `index` [B] as float32 [B, *shape]; `coins` decides a dynamic binarisation."""
        if self._resident is not None:
            x = self._resident.index_select(0, index.to(self.device))
        else:
            x = self._read(index.cpu().numpy())
        return torch.bernoulli(x, generator=coins) if self.dynamic else x

    def raw(self, index: np.ndarray) -> np.ndarray:
        """The rows at `index` on the data's own scale."""
        return as_numpy(self._raw[self.places(index)])

    def places(self, index: np.ndarray) -> np.ndarray:
        """Where the rows at `index` stand in the data as it was given, counted from 0."""
        return index if self._indices is None else self._indices[index]

    def _read(self, index: np.ndarray) -> Tensor:
        raw = torch.from_numpy(np.ascontiguousarray(self.raw(index))).to(self.device)
        x = self._transform.to(self.device)(raw).reshape(-1, *self.shape)
        return (x >= 0.5).float() if self._threshold else x


class Order:
    """An endless seeded order: permutation after permutation of all rows, cut into batches of one size.

    A batch may straddle two passes, so none is ever short and every row weighs the same. Batch t is a function of
    (seed, t) alone, which makes an exact resume a matter of knowing t.

    Example:
        >>> order = Order(count=3, size=2, seed=0)
        >>> sorted(torch.cat([order.batch(t) for t in range(3)]).tolist())
        [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size, self.seed = count, size, seed
        self._passes: dict[int, Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """Indices of the rows of batch `step`, [size]."""
        start, parts = step * self.size, []
        while (missing := (step + 1) * self.size - start) > 0:
            number, offset = divmod(start, self.count)
            parts.append(self._pass(number)[offset : offset + missing])
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pass(self, number: int) -> Tensor:
        if number not in self._passes:
            order = torch.randperm(self.count, generator=generator(self.seed, "order", number))
            self._passes = {number: order}  # only the current pass is kept
        return self._passes[number]
