"""Paths through latent space, in plain arrays: between codes, along one dimension, over the prior's quantiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from ..core.errors import BadInput, did_you_mean


def latent_path(start: np.ndarray, end: np.ndarray, steps: int, path: str = "linear") -> np.ndarray:
    """Codes from `start` to `end`, both included, [steps, L].

    `linear` is `(1 - t) a + t b`. `spherical` turns the direction at a constant rate, by
    `(sin((1 - t) w) a' + sin(t w) b') / sin w` with unit vectors `a'`, `b'` at the angle `w`, while the length changes
    linearly; it avoids the low-norm region that a straight line crosses in many dimensions.
    Reference: White, Sampling Generative Networks, 2016.

    Args:
        start: A code, [L].
        end: A code, [L].
        steps: Number of codes, at least 2.
        path: `linear` or `spherical`.

    Raises:
        BadInput: for fewer than 2 steps, an unknown path, or a spherical path between opposite or zero codes.

    Example:
        >>> latent_path(np.array([0.0, 2.0]), np.array([1.0, 0.0]), 3).tolist()
        [[0.0, 2.0], [0.5, 1.0], [1.0, 0.0]]
    """
    if path not in PATHS:
        raise BadInput("path", path, "no such path", did_you_mean(path, PATHS))
    return PATHS[path](start, end, _shares(steps))


def axis_walk(
    base: np.ndarray,
    dimensions: Sequence[int],
    steps: int,
    span: float = 3.0,
    middle: np.ndarray | float = 0.0,
    deviation: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Codes that equal `base` but for one dimension, which runs from -span to span, [len(dimensions), steps, L].

    Args:
        base: The code walked from, [L].
        dimensions: The dimensions varied in turn, counted from 0.
        steps: Codes along each dimension, at least 2.
        span: Half-width of the walk, in standard deviations of the prior.
        middle, deviation: The prior's mean and standard deviation, [L] or of all dimensions.

    Raises:
        BadInput: for fewer than 2 steps.
    """
    codes = np.tile(base, (len(dimensions), steps, 1))
    chosen, walk = list(dimensions), span * (2 * _shares(steps)[:, 0] - 1)
    middle, deviation = (np.broadcast_to(part, base.shape)[chosen, None] for part in (middle, deviation))
    codes[np.arange(len(chosen)), :, chosen] = middle + deviation * walk
    return codes


def quantile_grid(steps: int) -> np.ndarray:
    """Pairs of normal quantiles at the middles of `steps` equally probable intervals, top left first, [steps², 2].

    Example:
        >>> quantile_grid(2).round(3).tolist()
        [[-0.674, 0.674], [0.674, 0.674], [-0.674, -0.674], [0.674, -0.674]]
    """
    levels = [NormalDist().inv_cdf((step + 0.5) / steps) for step in range(steps)]
    return np.array([(first, second) for second in reversed(levels) for first in levels])


def _shares(steps: int) -> np.ndarray:
    if steps < 2:
        raise BadInput("steps", steps, "a path has at least 2 steps", "both ends are counted")
    return np.linspace(0.0, 1.0, steps)[:, None]


def _linear(start: Any, end: Any, share: np.ndarray) -> np.ndarray:
    return (1 - share) * start + share * end


def _spherical(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm([start, end], axis=1)
    if not lengths.all() or start @ end <= -(1 - 1e-9) * lengths.prod():
        raise BadInput("path", "spherical", "opposite or zero codes have no shortest arc between them", "use linear")
    first, second = start / lengths[0], end / lengths[1]
    angle = np.arccos(np.clip(first @ second, -1, 1))
    if angle < 1e-6:
        return _linear(start, end, share)
    arc = np.sin((1 - share) * angle) * first + np.sin(share * angle) * second
    return arc / np.sin(angle) * _linear(lengths[0], lengths[1], share)


PATHS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "linear": _linear,
    "spherical": _spherical,
}
