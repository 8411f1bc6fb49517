"""Pictures of image rows, shared by the report, the commands and TensorBoard: whole pixels, no plotting library."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

TILE, GAP = 48, 2  # pixels: what a small image is enlarged to at least, and the clear strip between two images


def image_grid(rows: np.ndarray, columns: int | None = None, top: float | None = None, low: float = 0.0) -> Image.Image:
    """Images side by side on a clear ground, small ones enlarged by whole pixels.

    Args:
        rows: Images on the data's scale, [n, C, H, W] with C of 1 or 3; what is not finite is shown as `low`.
        columns: Images in each line; None makes the grid about as wide as high.
        top: The value shown as white; None takes the range of the rows themselves.
        low: The value shown as black, where `top` is given.

    Example:
        >>> image_grid(np.zeros((6, 1, 28, 28)), columns=3).size
        (172, 114)
    """
    low, top = value_range(rows) if top is None else (low, top)
    levels = _levels(rows, low, top)
    count, channels, height, width = levels.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    lines = math.ceil(count / columns)
    zoom = math.ceil(TILE / max(height, width))
    height, width = height * zoom, width * zoom
    canvas = np.zeros((lines * columns, height + GAP, width + GAP, channels + 1), np.uint8)
    canvas[:count, :height, :width, :channels] = levels.repeat(zoom, 2).repeat(zoom, 3).transpose(0, 2, 3, 1)
    canvas[:count, :height, :width, channels] = 255
    canvas = canvas.reshape(lines, columns, height + GAP, width + GAP, -1).swapaxes(1, 2)
    return Image.fromarray(canvas.reshape(lines * (height + GAP), columns * (width + GAP), -1)[:-GAP, :-GAP])


def channels_first(rows: np.ndarray, axes: str) -> np.ndarray:
    """Images of a known layout, as [..., C, H, W].

    Args:
        rows: [..., H, W], [..., H, W, C] or [..., C, H, W].
        axes: Which of these: "HW", "HWC" or "CHW".

    Example:
        >>> channels_first(np.zeros((5, 32, 24, 3)), "HWC").shape
        (5, 3, 32, 24)
    """
    return LAYOUTS[axes](rows)


def value_range(rows: np.ndarray, top: float | None = None) -> tuple[float, float]:
    """The values shown as black and white: [0, top] where it is known, else the range of the finite values.

    Example:
        >>> value_range(np.array([-1.0, np.nan, 3.0]))
        (-1.0, 3.0)
    """
    if top is not None:
        return 0.0, float(top)
    finite = rows[np.isfinite(rows)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def png_bytes(image: Image.Image) -> bytes:
    """The image as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "HW": lambda rows: rows[..., None, :, :],
    "HWC": lambda rows: np.moveaxis(rows, -1, -3),
    "CHW": lambda rows: rows,
}


def _levels(rows: np.ndarray, low: float, top: float) -> np.ndarray:
    """Gray levels 0..255; a range of no width shows as black."""
    share = (np.asarray(rows, np.float64) - low) / ((top - low) or 1.0)
    return np.rint(255 * np.clip(np.nan_to_num(share, nan=0.0, posinf=0.0, neginf=0.0), 0, 1)).astype(np.uint8)
