"""Batches: rows gathered by index from memory, from the device or from a memory map, never sample by sample."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.facts import labelled_share
from ..core.seeds import derive, generator
from .arrays import as_numpy
from .transforms import Affine

RESIDENT_BYTES = 2 * 2**30  # rows that take no more in float32 are kept in memory, where the model is
MAPPED_BYTES = 2**28  # the same of a memory map on the CPU: the system keeps its pages, and can drop them


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
        condition: What is given beside each row of `raw`, float32 [N, C]; None: nothing.
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
        condition: np.ndarray | None = None,
    ) -> None:
        self.shape, self.device = shape, device
        self.dynamic = binarize == "dynamic"
        self._raw, self._indices, self._threshold = raw, indices, binarize == "threshold"
        self._transform = transform.to(device)
        self.count = len(raw) if indices is None else len(indices)
        self.condition: Tensor | None = None
        if condition is not None:
            self.condition = torch.from_numpy(condition if indices is None else condition[indices]).to(device)
        # Numbers of one or two bytes stay as they came; others would gain nothing, and are transformed once.
        self._kept_raw = self._raw_tensor(np.arange(1)).element_size() < 4
        self._resident = self._kept() if self._fits() else None

    def __len__(self) -> int:
        return self.count

    def take(self, index: Tensor, coins: torch.Generator | None = None) -> Tensor | Batch:
        """The rows at `index` [B], with their condition where they have one; `coins` decides dynamic binarisation."""
        x = self.x(index, coins)
        return x if self.condition is None else Batch(x, self.condition.index_select(0, index.to(self.device)))

    def x(self, index: Tensor, coins: torch.Generator | None = None) -> Tensor:
        """The rows at `index` [B] alone, as float32 [B, *shape]."""
        if self._resident is None:
            x = self._ready(self._raw_tensor(index.cpu().numpy()))
        else:
            x = self._resident.index_select(0, index.to(self.device))
            x = self._ready(x) if self._kept_raw else x
        return torch.bernoulli(x, generator=coins) if self.dynamic else x

    def order(self, size: int, seed: int) -> Order | Quota:
        """The order in which batches of a size take the rows."""
        everything = Order(self.count, size, seed)
        if self.condition is None:
            return everything
        known = (~self.condition.isnan().any(1)).nonzero()[:, 0].cpu()
        wanted = max(1, round(size * labelled_share(len(known), self.count)))
        if not 0 < len(known) < self.count or wanted == size:
            return everything
        return Quota(known, Order(len(known), wanted, derive(seed, "known")), Order(self.count, size - wanted, seed))

    def raw(self, index: np.ndarray) -> np.ndarray:
        """The rows at `index` on the data's own scale."""
        return as_numpy(self._raw[self.places(index)])

    def places(self, index: np.ndarray) -> np.ndarray:
        """Where the rows at `index` stand in the data as it was given, counted from 0."""
        return index if self._indices is None else self._indices[index]

    def _fits(self) -> bool:
        mapped = isinstance(self._raw, np.memmap) and self.device.type == "cpu"
        return self.count * prod(self.shape) * 4 <= (MAPPED_BYTES if mapped else RESIDENT_BYTES)

    def _kept(self) -> Tensor:
        parts = (self._raw_tensor(part) for part in np.array_split(np.arange(self.count), 16))
        return torch.cat([part if self._kept_raw else self._ready(part) for part in parts])

    def _raw_tensor(self, index: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.raw(index))).to(self.device)

    def _ready(self, raw: Tensor) -> Tensor:
        """Raw rows as the model sees them, but for coins."""
        x = self._transform(raw).reshape(-1, *self.shape)
        return (x >= 0.5).float() if self._threshold else x


class Quota:
    """An order in which every batch begins with rows whose condition is known, and goes on with any rows.

    One labelled row in hundreds would be seen once in several batches, and what it says drowned in between.

    Args:
        known: Those rows.
        first: Their own order, in batches of the size that each begins with.
        rest: The order of all rows.
    """

    def __init__(self, known: Tensor, first: Order, rest: Order) -> None:
        self.known, self.first, self.rest = known, first, rest

    def batch(self, step: int) -> Tensor:
        """Indices of the rows of batch `step`, [size]."""
        return torch.cat([self.known[self.first.batch(step)], self.rest.batch(step)])


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
