"""Convolutional networks for images of any size, and their exact mirrors.

Kernels are 4 x 4 with stride 2: a kernel that the stride divides leaves no checkerboard in the mirrored direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from ..core.errors import BadInput
from .mlp import Norms, after


def _one_group(width: int) -> nn.Module:
    """Layer norm of an image: over channels and pixels together, with a scale and a shift for each channel."""
    return nn.GroupNorm(1, width)


NORMS: Norms = {"none": nn.Identity, "batch": nn.BatchNorm2d, "layer": _one_group}


class ConvEncoder(nn.Module):
    """Images to feature vectors; each block halves height and width, rounding down.

    Args:
        shape: (channels, height, width) of an image.
        channels: Width of each block.
        outputs: Width of a last linear layer; None: the last block's output, flattened.
        activation: A name of `vaelab.nets.mlp.ACTIVATIONS`.
        norm: A name of `NORMS`.
        dropout: Probability with which a unit is dropped in training.

    Attributes:
        features: Entries of an output row.

    Raises:
        BadInput: for an image too small for that many blocks, and for an unknown activation or norm.

    Example:
        >>> import torch
        >>> ConvEncoder((1, 28, 28), (8, 16))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 784])
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        outputs: int | None = None,
        *,
        activation: str = "silu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        layers: list[nn.Module] = []
        for before, width in pairwise([shape[0], *channels]):
            layers.append(nn.Conv2d(before, width, kernel_size=4, stride=2, padding=1, bias=norm != "batch"))
            layers += after(width, activation, NORMS, norm, dropout)
        self.features = prod(_block_shapes(shape, channels)[-1])
        layers.append(nn.Flatten())
        if outputs is not None:
            layers.append(nn.Linear(self.features, outputs))
            self.features = outputs
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W], or [B, H, W] where C = 1, to [B, features]."""
        return self.layers(x.reshape(-1, *self.shape))


class ConvDecoder(nn.Module):
    """Vectors to images: the mirror of `ConvEncoder`, block by block, exact for odd sizes too.

    Args:
        inputs: Entries of a vector.
        channels: Widths of the mirrored encoder's blocks, in the encoder's order.
        shape: (channels, height, width) of an output.
        activation: A name of `vaelab.nets.mlp.ACTIVATIONS`.
        norm: A name of `NORMS`.
        dropout: Probability with which a unit is dropped in training.
        raster: Whether a vector holds the pixels of the smallest map, row by row, each with its own entries.

    Attributes:
        features: Entries of an output row.

    Raises:
        BadInput: for an image too small for that many blocks, and for an unknown activation or norm.

    Example:
        >>> import torch
        >>> ConvDecoder(2, (8, 16), (3, 33, 28))(torch.zeros(5, 2)).shape
        torch.Size([5, 3, 33, 28])
    """

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        shape: Sequence[int],
        *,
        activation: str = "silu",
        norm: str = "none",
        dropout: float = 0.0,
        raster: bool = False,
    ) -> None:
        super().__init__()
        first, *rest = reversed(_block_shapes(shape, channels))
        layers: list[nn.Module] = [nn.Linear(inputs, prod(first)), nn.Unflatten(1, first)]
        if raster:
            layers = [Raster(*first[1:]), nn.Conv2d(inputs // prod(first[1:]), first[0], kernel_size=3, padding=1)]
        for (before, _, _), (width, height, breadth) in pairwise([first, *rest]):
            layers += after(before, activation, NORMS, norm, dropout)
            normed = norm == "batch" and height < shape[1]
            odd = (height % 2, breadth % 2)
            layers.append(nn.ConvTranspose2d(before, width, 4, 2, padding=1, output_padding=odd, bias=not normed))
        self.layers = nn.Sequential(*layers)
        self.features = prod(shape)

    def forward(self, z: Tensor) -> Tensor:
        """Vectors [B, inputs] to [B, C, H, W]."""
        return self.layers(z)


class Raster(nn.Module):
    """Vectors [B, height * width * entries], pixel after pixel, as maps [B, entries, height, width]."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, z: Tensor) -> Tensor:
        """The maps."""
        return z.unflatten(1, (self.height, self.width, -1)).movedim(-1, 1)


def map_shape(shape: Sequence[int], channels: Sequence[int]) -> tuple[int, int, int]:
    """(channels, height, width) of the last block's output."""
    return _block_shapes(shape, channels)[-1]


def _block_shapes(shape: Sequence[int], channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """(channels, height, width) of the image and after each block."""
    _, height, breadth = shape
    if min(height, breadth) < 2 ** len(channels):
        fix = f"each block halves the image; give at most {min(height, breadth).bit_length() - 1} channels"
        raise BadInput("model.channels", tuple(channels), f"too many blocks for {height} x {breadth} pixels", fix)
    halved = [(width, height >> step, breadth >> step) for step, width in enumerate(channels, 1)]
    return [(shape[0], height, breadth), *halved]
