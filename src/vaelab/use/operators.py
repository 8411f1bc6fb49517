"""Linear observations of an image: what is given of it, the adjoint, and how variances pass through.

Images are [..., C, H, W] throughout, on the data's own scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadInput, did_you_mean, whole


class Operator(Protocol):
    """A linear map A from images to what is observed of them."""

    def given(self, x: Tensor) -> Tensor:
        """What a person holds in hand, of images x [..., C, H, W]: an image again."""

    def read(self, given: Tensor) -> Tensor:
        """The observed numbers [..., *observed] in what is given: all of it, or the part that is not hidden."""

    def forward(self, x: Tensor) -> Tensor:
        """A x, [..., *observed]."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, [..., C, H, W]."""

    def shown(self, given: Tensor) -> Tensor:
        """What is given as a picture of the run's size, [..., C, H, W]; NaN where nothing is known."""

    def squared(self, v: Tensor) -> Tensor:
        """Variances of A x where entries of x are independent and have the variances v: Σ_j a_ij² v_j."""


class Mask:
    """Some entries, as they are.

    Args:
        known: Which entries are observed, bool [C, H, W].

    Raises:
        BadInput: where none is.
    """

    def __init__(self, known: Tensor) -> None:
        if not known.any():
            raise BadInput("mask", "no known pixel", "something must be known", "vaelab sample draws whole images")
        self.known = known
        self._places = known.flatten().nonzero()[:, 0]

    def given(self, x: Tensor) -> Tensor:
        """x with zeros where it is hidden."""
        return torch.where(self.known, x, 0.0)

    def read(self, given: Tensor) -> Tensor:
        """The known entries, [..., known]."""
        return self.forward(given)

    def forward(self, x: Tensor) -> Tensor:
        """The known entries, [..., known]."""
        return x.flatten(-3)[..., self._places]

    def adjoint(self, y: Tensor) -> Tensor:
        """Entries back in their places, zeros elsewhere."""
        flat = y.new_zeros(*y.shape[:-1], self.known.numel())
        flat[..., self._places] = y
        return flat.unflatten(-1, self.known.shape)

    def shown(self, given: Tensor) -> Tensor:
        """The known part."""
        return torch.where(self.known, given, torch.nan)

    squared = forward


class Average:
    """Means of squares of factor by factor pixels.

    Args:
        factor: Pixels a side.
    """

    def __init__(self, factor: int) -> None:
        whole("factor", factor)
        self.factor = factor

    def given(self, x: Tensor) -> Tensor:
        """A x."""
        return self.forward(x)

    def read(self, given: Tensor) -> Tensor:
        """All of it."""
        return given

    def forward(self, x: Tensor) -> Tensor:
        """[..., C, H / factor, W / factor]."""
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            size = f"{x.shape[-2]} x {x.shape[-1]} pixels"
            raise BadInput("factor", self.factor, f"must divide the sides of the run's images, {size}")
        pooled = F.avg_pool2d(x.reshape(-1, *x.shape[-3:]), self.factor)
        return pooled.reshape(*x.shape[:-3], *pooled.shape[1:])

    def adjoint(self, y: Tensor) -> Tensor:
        """Each number over its square of pixels, divided by their number."""
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1) / self.factor**2

    def shown(self, given: Tensor) -> Tensor:
        """Each pixel as a square."""
        return self.adjoint(given) * self.factor**2

    def squared(self, v: Tensor) -> Tensor:
        """The mean variance over the number of pixels."""
        return self.forward(v) / self.factor**2


class Blur:
    """Convolution with a Gaussian; beyond its edges the image is 0.

    Args:
        width: Standard deviation in pixels.
    """

    def __init__(self, width: float) -> None:
        if not (math.isfinite(width) and width > 0):
            raise BadInput("width", width, "must be a number of pixels above 0")
        reach = math.ceil(3 * width)
        bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
        self.kernel = bell / bell.sum()

    def given(self, x: Tensor) -> Tensor:
        """A x."""
        return self.forward(x)

    def read(self, given: Tensor) -> Tensor:
        """All of it."""
        return given

    def forward(self, x: Tensor) -> Tensor:
        """[..., C, H, W]."""
        return _convolved(x, self.kernel)

    adjoint = forward  # the kernel is even

    def shown(self, given: Tensor) -> Tensor:
        """As it is."""
        return given

    def squared(self, v: Tensor) -> Tensor:
        """Convolution with the kernel's square."""
        return _convolved(v, self.kernel.square())


def _convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """Rows and columns convolved with a kernel of odd length."""
    reach, planes = len(kernel) // 2, x.reshape(-1, 1, *x.shape[-2:])
    bell = kernel.to(x.dtype)
    planes = F.conv2d(planes, bell.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(planes, bell.view(1, 1, -1, 1), padding=(reach, 0)).reshape(x.shape)


HALVES: dict[str, Callable[[int, int], tuple[slice, slice]]] = {
    "lower": lambda height, width: (slice(height // 2, None), slice(None)),
    "upper": lambda height, width: (slice(None, height // 2), slice(None)),
    "left": lambda height, width: (slice(None), slice(None, width // 2)),
    "right": lambda height, width: (slice(None), slice(width // 2, None)),
}


def hiding(what: str | Any, shape: tuple[int, ...]) -> Mask:
    """The mask that hides a part of images.

    Args:
        what: A half by its name (lower, upper, left, right); a box as "x0,y0,x1,y1" in pixels from the upper left
            corner, its ends not included; or an array [H, W] or [C, H, W] that is not 0 where it is hidden.
        shape: Of an image, (C, H, W).

    Raises:
        BadInput: for other words, a box beyond the image, and an array of another shape.

    Example:
        >>> hiding("lower", (1, 4, 2)).known[0].tolist()
        [[True, True], [True, True], [False, False], [False, False]]
    """
    known = torch.ones(shape, dtype=torch.bool)
    if isinstance(what, str):
        known[:, *_area(what, *shape[1:])] = False
        return Mask(known)
    hidden = torch.from_numpy(np.asarray(what) != 0)
    if tuple(hidden.shape) not in (shape, shape[1:]):
        size = " x ".join(map(str, hidden.shape))
        raise BadInput("mask", size, f"must have the size of the model's images, {shape[1]} x {shape[2]}")
    return Mask(known & ~hidden)


def _area(what: str, height: int, width: int) -> tuple[slice, slice]:
    if what in HALVES:
        return HALVES[what](height, width)
    try:
        left, top, right, bottom = map(int, what.split(","))
    except ValueError:
        raise BadInput("mask", what, "must be a file, half or a box x0,y0,x1,y1", did_you_mean(what, HALVES)) from None
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        rule = f"a box x0,y0,x1,y1 lies within the image: 0 <= x0 < x1 <= {width}, 0 <= y0 < y1 <= {height}"
        raise BadInput("mask", what, rule)
    return slice(top, bottom), slice(left, right)
