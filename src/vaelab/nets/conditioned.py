"""Networks that read a condition beside their input, whatever the network: before it where that fits, else after it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Beside(nn.Module):
    """The entries of a row and its condition as one vector, in front of a network.

    Example:
        >>> Beside(nn.Linear(6, 2))(torch.zeros(5, 2, 2), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Rows [B, ...] and conditions [B, C]."""
        return self.net(torch.cat([x.flatten(1), condition.to(x.dtype)], 1))

    @staticmethod
    def widened(shape: Sequence[int], condition: int) -> Shape:
        """The shape that the network is built for."""
        return (prod(shape) + condition,)

    @property
    def features(self) -> int:
        """Width of the network's output."""
        return int(self.net.features)  # type: ignore[arg-type]


class Planes(nn.Module):
    """An image with a constant plane for each entry of its condition, in front of a convolutional network."""

    def __init__(self, net: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.net, self.shape = net, tuple(shape)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Images [B, ...] and conditions [B, C]."""
        images = x.reshape(-1, *self.shape)
        planes = condition.to(x.dtype)[:, :, None, None].expand(-1, -1, *self.shape[1:])
        return self.net(torch.cat([images, planes], 1))

    @staticmethod
    def widened(shape: Sequence[int], condition: int) -> Shape:
        """The shape that the network is built for."""
        return (shape[0] + condition, *shape[1:])

    @property
    def features(self) -> int:
        """Width of the network's output."""
        return int(self.net.features)  # type: ignore[arg-type]


class After(nn.Module):
    """A network's features and the condition, through one more layer: for networks that read no numbers, as of tokens.

    Args:
        net: With an attribute `features`.
        condition: Entries of the condition.
    """

    def __init__(self, net: Any, condition: int) -> None:
        super().__init__()
        self.net, self.features = net, int(net.features)
        self.mix = nn.Sequential(nn.Linear(self.features + condition, self.features), nn.SiLU())

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Rows [B, ...] and conditions [B, C]."""
        features = self.net(x)
        return self.mix(torch.cat([features, condition.to(features.dtype)], 1))
