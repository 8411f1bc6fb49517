"""A gated PixelCNN: for every pixel, numbers that depend on the pixels before it and on planes of a code.

Pixels come in raster order: row after row, each from the left. The vertical stack sees all rows above, the horizontal
one what is to the left in the same row and, through the vertical one, the rows above: together everything within
reach, without a blind spot.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.tables import pick
from .mlp import ACTIVATIONS

FIRST_REACH = 3  # pixels that the first layer looks back; every further one adds one
PLANES = 8  # that carry the code


class PixelCNN(nn.Module):
    """A gated PixelCNN over images of one channel.

    References:
        van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and Kavukcuoglu, Conditional image generation with
        PixelCNN decoders, 2016; Gulrajani et al., PixelVAE: a latent variable model for natural images, 2017.

    Args:
        planes: Maps codes [N, L] to [N, `PLANES` * height * breadth].
        shape: (height, breadth) of an image.
        outputs: Numbers for each pixel.
        layers: Gated layers after the first.
        width: Channels of each.
        activation: Before the output, a name of `vaelab.nets.mlp.ACTIVATIONS`.

    Attributes:
        reach: How many pixels the output at one looks back, in rows and in columns; for what lies farther the code has
            to speak.
    """

    def __init__(
        self,
        planes: nn.Module,
        shape: Sequence[int],
        outputs: int,
        *,
        layers: int = 2,
        width: int = 64,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.planes, self.shape = planes, tuple(shape)
        self.width, self.reach = width, FIRST_REACH + layers
        widths = pairwise([1] + [width] * (layers + 1))
        self.layers = nn.ModuleList(GatedLayer(*pair, first=not index) for index, pair in enumerate(widths))
        self.told = nn.Conv2d(PLANES, 4 * width * (layers + 1), 1)
        middle = nn.Conv2d(width, width, 1)
        kind = pick(ACTIVATIONS, activation, "activation")
        self.out = nn.Sequential(kind(), middle, kind(), nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Images [N, 1, H, W] and codes [N, L] to [N, outputs, H, W]; a pixel's numbers see only pixels before it."""
        told = self.read(z)
        return self.along(x, self.above(x, told))

    def read(self, z: Tensor) -> Tensor:
        """What codes [N, L] tell the layers at each pixel, [N, 4 width layers, H, W]."""
        return self.told(self.planes(z).reshape(len(z), PLANES, *self.shape))

    def above(self, x: Tensor, told: Tensor) -> Tensor:
        """What the rows above and the code tell the horizontal stack, [N, 2 width layers, H, W].

        A window of rows gives the right numbers in all but its first `reach` rows, or in all where it begins at the
        image's first.
        """
        found = []
        layer: Any
        for layer, part in zip(self.layers, told.chunk(len(self.layers), 1), strict=True):
            down, across = part.chunk(2, 1)
            x, here = layer.above(x, down)
            found.append(here + across)
        return torch.cat(found, 1)

    def along(self, x: Tensor, above: Tensor) -> Tensor:
        """The outputs, [N, outputs, H, W]; a window of columns likewise."""
        layer: Any
        for layer, part in zip(self.layers, above.chunk(len(self.layers), 1), strict=True):
            x = layer.along(x, part)
        return self.out(x)


class GatedLayer(nn.Module):
    """A layer of both stacks.

    Args:
        before, width: Channels of what it reads and of what it gives.
        first: Whether it reads the image itself, and so must not see the pixel it speaks of.
    """

    def __init__(self, before: int, width: int, first: bool) -> None:
        super().__init__()
        back, self.first = (FIRST_REACH if first else 1), first
        rows, columns = (back, back) if first else (2, 2)
        self.vertical = nn.Conv2d(before, 2 * width, (rows, 2 * back + 1))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.horizontal = nn.Conv2d(before, 2 * width, (1, columns))
        self.mixed = nn.Conv2d(width, width, 1)
        ahead = -1 if first else 0  # a negative padding crops: the rows above alone, the pixels to the left alone
        self.around, self.left = (back, back, back, ahead), (back, ahead, 0, 0)

    def above(self, x: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """The vertical stack's features, [N, width, H, W], and what the horizontal one hears, [N, 2 width, H, W]."""
        features = self.vertical(F.pad(x, self.around)) + told
        return _gated(features), self.across(features)

    def along(self, x: Tensor, told: Tensor) -> Tensor:
        """The horizontal stack's features, [N, width, H, W]."""
        new = self.mixed(_gated(self.horizontal(F.pad(x, self.left)) + told))
        return new if self.first else x + new


def _gated(x: Tensor) -> Tensor:
    """tanh of one half of the channels, times the sigmoid of the other."""
    signal, gate = x.chunk(2, 1)
    return signal.tanh() * gate.sigmoid()
