"""Rows with what is given beside them: the batch of a conditional model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows x and a condition for each; where a model takes rows, a conditional one takes this.

    It has a tensor's length, slices, splits and devices, so that what hands rows on need not know the difference.

    Args:
        x: Rows, [B, ...].
        condition: One-hot labels, covariates or embeddings, float [B, C]; a row of NaN is not known.
    """

    x: Tensor
    condition: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Batch:
        return Batch(self.x[index], self.condition[index])

    def __iter__(self) -> Iterator[Batch]:
        return (self[row] for row in range(len(self)))

    @property
    def shape(self) -> torch.Size:
        """Of the rows."""
        return self.x.shape

    @property
    def ndim(self) -> int:
        """Of the rows."""
        return self.x.ndim

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return self.x.dtype

    def numel(self) -> int:
        """Entries of the rows."""
        return self.x.numel()

    def split(self, size: int) -> list[Batch]:
        """Consecutive parts of at most `size` rows."""
        return [Batch(*pair) for pair in zip(self.x.split(size), self.condition.split(size), strict=True)]

    def tensor_split(self, parts: int, dim: int = 0) -> list[Batch]:
        """That many consecutive parts."""
        assert dim == 0, "a batch is split by rows"
        pairs = zip(self.x.tensor_split(parts), self.condition.tensor_split(parts), strict=True)
        return [Batch(*pair) for pair in pairs]

    def to(self, *where: Any) -> Batch:
        """The same on another device or in another precision."""
        return Batch(self.x.to(*where), self.condition.to(*where))


def rows_of(batch: Tensor | Batch) -> Tensor:
    """The rows themselves, [B, ...].

    Example:
        >>> rows_of(Batch(torch.ones(2, 3), torch.zeros(2, 1))).shape
        torch.Size([2, 3])
    """
    return batch.x if isinstance(batch, Batch) else batch


def beside(batch: Tensor | Batch) -> tuple[Tensor, ...]:
    """The further argument of what reads a condition: `(c,)`, or `()` where nothing is given beside the rows."""
    return (batch.condition,) if isinstance(batch, Batch) else ()


def condition_of(batch: Tensor | Batch) -> Tensor | None:
    """What is given beside the rows, [B, C]; None where nothing is."""
    return batch.condition if isinstance(batch, Batch) else None
