"""The files of restored images: a picture with a line for each, or arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..measure.pictures import channels_first, image_grid, png_bytes
from .files import npy_bytes, npz_bytes
from .observed import Restored, laid_in
from .operators import Operator


def picture(run: Any, operator: Operator, given: Any, found: Restored, ends: tuple[float, float]) -> bytes:
    """A line for each image: what was given, the mean, the draws, and the deviation.

    What is not known is gray; the deviation is white where it is half the range, the largest there can be.

    Args:
        run: The run the images come from.
        operator: How they were observed.
        given: What was given, as `restore` takes it.
        found: What was made of it.
        ends: The values of black and white.
    """
    low, top = ends
    seen = operator.shown(laid_in(run, given, operator)).nan_to_num(nan=(low + top) / 2).numpy()
    rest = [channels_first(part, run.spec.axes) for part in (found.mean, *found.draws, low + 2 * found.std)]
    lines = np.stack([seen, *rest], 1)
    return png_bytes(image_grid(lines.reshape(-1, *lines.shape[2:]), lines.shape[1], top, low))


def _arrays(run: Any, operator: Operator, given: Any, found: Restored, ends: tuple[float, float]) -> bytes:
    names = ("mean", "std", "draws", "codes", "log_likelihood", "ess")
    return npz_bytes(
        given=np.asarray(given), noise=np.array(found.noise), **{name: getattr(found, name) for name in names}
    )


FORMATS: dict[str, Callable[..., bytes]] = {
    ".png": picture,
    ".npz": _arrays,
    ".npy": lambda run, operator, given, found, ends: npy_bytes(found.mean),
}
