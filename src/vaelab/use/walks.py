"""Decoded walks through latent space along one dimension at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.errors import BadInput
from ..measure.paths import axis_walk


def traverse(
    run: Any, row: np.ndarray | None = None, dimensions: Sequence[int] | None = None, steps: int = 11, span: float = 3.0
) -> np.ndarray:
    """Decodes walks along single latent dimensions, all others held fast, [len(dimensions), steps, *shape].

    Each dimension in turn runs from -span to span, in standard deviations of the prior, while the others stay at the
    posterior mean of `row`. Reference: Higgins et al., beta-VAE, 2017.

    Args:
        run: A run.
        row: A row on the data's own scale; None walks around the mean of the prior.
        dimensions: The dimensions, counted from 1 as in the report; None walks along all.
        steps: Rows along each dimension, at least 2.
        span: Half-width of the walk.

    Raises:
        BadInput: for a dimension the model does not have, or fewer than 2 steps.
    """
    chosen = range(1, run.latent + 1) if dimensions is None else dimensions
    for dimension in chosen:
        if not 1 <= dimension <= run.latent:
            raise BadInput("dimension", dimension, f"the model has the latent dimensions 1 to {run.latent}")
    base = np.zeros(run.latent, np.float32) if row is None else run.embed(row[None])[0]
    codes = axis_walk(base, [dimension - 1 for dimension in chosen], steps, span)
    decoded = run.decode(codes.reshape(-1, run.latent))
    return decoded.reshape(len(chosen), steps, *decoded.shape[1:])
