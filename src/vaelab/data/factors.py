"""`shapes`: pictures drawn from five known factors, on which disentanglement can be measured without a download."""

from __future__ import annotations

import numpy as np

from .arrays import Parts

SIDE, STEP = 32, 2  # pixels of a picture's side, and between neighbouring positions
SHAPES = ("half disc", "ell", "triangle")  # none looks the same after a turn, so that every rotation is another picture
RADII = (4.5, 5.5, 6.5, 7.5)  # of the circle around a shape, in pixels; the largest stays inside at every position
ROTATIONS = POSITIONS = 8
FACTOR_NAMES = ("shape", "scale", "rotation", "position x", "position y")


def shapes(data_dir: str | None) -> Parts:
    """6144 gray pictures of 32x32 pixels: every combination of shape (3), scale (4), rotation (8, a full turn), and
    position x and y (8 each), white on black with smooth edges, in the order of their factors; the same every time.

    The label is the shape. In the manner of dSprites (Matthey, Higgins, Hassabis and Lerchner, 2017), drawn anew.

    Example:
        >>> parts = shapes(None)
        >>> parts.x.shape, parts.x.dtype.name, parts.factors[-1].tolist()
        ((6144, 32, 32), 'uint8', [2, 3, 7, 7, 7])
    """
    reach = STEP * (POSITIONS - 1)
    turns = np.arange(ROTATIONS) * (2 * np.pi / ROTATIONS)
    canvases = _drawn(SIDE + reach, np.array(RADII, np.float32), turns.astype(np.float32))
    views = np.lib.stride_tricks.sliding_window_view(canvases, (SIDE, SIDE), axis=(3, 4))
    # The window moves against the shape: the last one shows it at the left and at the top. Axes: rows, then columns.
    windows = views[:, :, :, ::-STEP, ::-STEP].swapaxes(3, 4)
    sizes = windows.shape[:5]
    factors = np.indices(sizes).reshape(5, -1).T
    return Parts(
        np.ascontiguousarray(windows).reshape(-1, SIDE, SIDE),
        factors[:, 0],
        label_names=SHAPES,
        factors=factors,
        factor_names=FACTOR_NAMES,
    )


def _drawn(side: int, radii: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Every shape, scale and rotation in the middle of a canvas, uint8 [3, S, R, side, side].

    A pixel's brightness is its signed distance to the outline, in pixels, cut to half a pixel on either side.
    """
    across = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    right, up = across[None, :], -across[:, None]
    radius, turn = radii[:, None, None, None], turns[None, :, None, None]
    u = (np.cos(turn) * right + np.sin(turn) * up) / radius  # the pixel in the frame of the turned shape
    v = (np.cos(turn) * up - np.sin(turn) * right) / radius
    inside = radius * np.stack([_half_disc(u, v), _ell(u, v), _triangle(u, v)])
    return np.round(255 * np.clip(0.5 - inside, 0, 1)).astype(np.uint8)


def _half_disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to half a disc on its straight side; below 0 inside, as for the other shapes."""
    v = v + 0.4
    return np.maximum(np.hypot(u, v) - 0.91, -v)


def _ell(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to an upright bar with a foot to the right."""
    return np.minimum(_box(u + 0.3, v, 0.22, 0.85), _box(u, v + 0.63, 0.52, 0.22))


def _box(u: np.ndarray, v: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to a tall isosceles triangle with corners (0, 1) and (±0.6, -0.8)."""
    side = np.hypot(1.8, 0.6)
    return np.maximum(-0.8 - v, (1.8 * np.abs(u) + 0.6 * (v - 1)) / side)
