"""Sums, ratios of gamma functions and gamma draws that keep their digits where the plain ones lose them."""

from __future__ import annotations

import torch
from torch import Tensor

Generator = torch.Generator | None


def per_row(entries: Tensor) -> Tensor:
    """Sum over the entries of a row: [K, B, *shape] to [K, B]."""
    return entries.flatten(2).sum(-1)


def log_rising(start: Tensor, count: Tensor) -> Tensor:
    """log of start (start + 1) ... (start + count - 1), in float64: in float32 two lgamma leave no digit."""
    return (start + count).lgamma() - start.lgamma()


def log_choose(total: Tensor, chosen: Tensor) -> Tensor:
    """log of total! / (chosen! (total - chosen)!), in float64."""
    return (total + 1).lgamma() - (chosen + 1).lgamma() - (total - chosen + 1).lgamma()


def draw_log_gamma(shape: Tensor, generator: Generator = None) -> Tensor:
    """Logarithms of draws from Gamma(shape, 1); the draw itself, U^(1 / shape) of one with shape + 1, underflows."""
    larger = torch._standard_gamma(shape + 1, generator=generator)
    # 1 - U is never 0.
    return larger.log() + (-torch.empty_like(shape).uniform_(generator=generator)).log1p() / shape
