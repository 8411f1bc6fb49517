"""Codes taken off a stack by q(z|x), which is where a row gets the bits that its code costs back, and put on again.

Shapes: B rows, L latent dimensions of all groups together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributions.ladder import LadderPosterior
from ..distributions.normal import DiagonalNormal
from .stack import OFFSET, STEP, Bins, Stack, standard_bins

POSTERIORS = (DiagonalNormal, LadderPosterior)


def draw(stack: Stack, posterior: Any) -> Tensor:
    """A code of each row by q(z|x), [B, L], taken off group by group from the top down."""
    parts: list[Tensor] = []

    def take(q: DiagonalNormal) -> Tensor:
        parts.append(_numbers(_bins(q).pop(stack), q.mean.shape))
        return parts[-1]

    _walk(posterior, take)
    return torch.cat(parts, -1)


def undraw(stack: Stack, posterior: Any, z: Tensor) -> None:
    """Puts codes [B, L] back that `draw` took off: the groups from the bottom up."""
    sizes = getattr(posterior, "group_sizes", (z.shape[-1],))
    left: list[Tensor] = [part.contiguous() for part in z.split(sizes, -1)]  # laid out as when they were drawn
    found: list[DiagonalNormal] = []

    def place(q: DiagonalNormal) -> Tensor:
        found.append(q)
        return left[len(found) - 1]

    _walk(posterior, place)
    for q, part in zip(reversed(found), reversed(left), strict=True):
        _bins(q).push(stack, _symbols(part))


def push_prior(stack: Stack, z: Tensor) -> None:
    """Puts codes [B, L] on by N(0, I)."""
    standard_bins(z.numel()).push(stack, _symbols(z))


def pop_prior(stack: Stack, rows: int, latent: int) -> Tensor:
    """Takes codes off by N(0, I), [rows, latent]."""
    return _numbers(standard_bins(rows * latent).pop(stack), (rows, latent))


def _walk(posterior: Any, place: Callable[[DiagonalNormal], Tensor]) -> None:
    """Goes down the groups of a posterior, of which a flat one has one; `place` says each one's code."""
    if isinstance(posterior, DiagonalNormal):
        place(posterior)
        return
    state = None
    for group, features in enumerate(posterior.features):
        part = place(posterior.encoder.conditional(group, features, state))
        state = posterior.descent.below(group, state, part)


def _bins(q: DiagonalNormal) -> Bins:
    return Bins(q.mean.flatten().numpy(), q.std.flatten().numpy())


def _numbers(bins: np.ndarray, shape: Any) -> Tensor:
    """In memory of torch's own, whose alignment is the same wherever the bins came from: products may depend on it."""
    return torch.tensor(bins, dtype=torch.float64).sub_(OFFSET).mul_(STEP).view(shape)


def _symbols(z: Tensor) -> np.ndarray:
    return (z / STEP + OFFSET).round().flatten().numpy()
