"""Invertible elementwise transforms that know their log|det|, and the statistics they are fitted with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor


class Affine:
    """y = (x - shift) / scale, elementwise.

    Args:
        shift: A number, or float32 of one row's shape.
        scale: Above 0, likewise.

    Example:
        >>> unit = Affine(0.0, 16.0)
        >>> unit(torch.tensor([0, 4, 16]))
        tensor([0.0000, 0.2500, 1.0000])
        >>> unit.inverse(torch.tensor([0.25]))
        tensor([4.])
    """

    def __init__(self, shift: float | Tensor | np.ndarray = 0.0, scale: float | Tensor | np.ndarray = 1.0) -> None:
        self.shift = torch.as_tensor(shift, dtype=torch.float32)
        self.scale = torch.as_tensor(scale, dtype=torch.float32)
        self.is_identity = not self.shift.any().item() and bool((self.scale == 1).all())

    def __call__(self, x: Tensor) -> Tensor:
        """y in float32 from x [B, ...] of any dtype; float64 is brought to float32 only after the arithmetic."""
        x = x if x.dtype == torch.float64 else x.float()
        return x.float() if self.is_identity else ((x - self.shift) / self.scale).float()

    def inverse(self, y: Tensor) -> Tensor:
        """x = y * scale + shift, in y's dtype or float32, whichever is wider."""
        return y if self.is_identity else y * self.scale + self.shift

    def log_abs_det(self, shape: tuple[int, ...]) -> float:
        """log |det dy/dx| = -sum log scale, in nats per sample of a row of that shape.

        Example:
            >>> round(Affine(0.0, 2.0).log_abs_det((3,)), 4)
            -2.0794
        """
        return -self.scale.double().log().expand(shape).sum().item()

    def to(self, device: torch.device | str) -> Self:
        """The same transform on that device."""
        if self.shift.device == torch.device(device):
            return self
        return type(self)(self.shift.to(device), self.scale.to(device))

    def state(self) -> dict[str, Tensor]:
        """The tensors to save."""
        return {"shift": self.shift, "scale": self.scale}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The transform that `state` was taken from."""
        return cls(state["shift"], state["scale"])


class Moments:
    """Mean and standard deviation of each column, in float64, from chunks of rows; a missing entry (NaN) is left out.

    Chunks are merged by their counts, means and summed squares about the mean, which loses no digits where the mean is
    large (Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979).
    """

    def __init__(self, columns: int) -> None:
        self.count = np.zeros(columns, dtype=np.int64)
        self.mean = np.zeros(columns)
        self.squares = np.zeros(columns)

    def update(self, chunk: np.ndarray) -> None:
        """Takes in rows [B, D]."""
        rows = chunk.astype(np.float64)
        missing = np.isnan(rows)
        known = len(rows) - missing.sum(0)
        rows[missing] = 0
        mean = rows.sum(0) / np.maximum(known, 1)
        rows -= mean
        rows[missing] = 0
        total, step = self.count + known, mean - self.mean
        self.squares += np.einsum("bd,bd->d", rows, rows) + step**2 * (self.count * known / np.maximum(total, 1))
        self.mean += step * (known / np.maximum(total, 1))
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Standard deviation over the values seen (dividing by their number), [D]."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


def standardising(mean: np.ndarray, std: np.ndarray, shape: tuple[int, ...]) -> Affine:
    """The transform to mean 0 and standard deviation 1 of every entry; the scale of a constant entry is 1."""
    scale = np.where(std >= np.finfo(np.float32).tiny, std, 1.0)
    return Affine(mean.reshape(shape), scale.reshape(shape))
