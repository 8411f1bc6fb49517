"""Residual cells, and the two ways to pass on what was drawn: set side by side, or added to a path that runs down.

All of them take vectors with any leading dimensions, [..., width].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .mlp import MLP, NORMS, after

SMALL = 0.1  # of the usual start values: a cell begins near the identity, so that a deep stack of them starts calm


class OverRows(nn.Module):
    """A network over rows [N, ...], for vectors with any leading dimensions.

    Example:
        >>> OverRows(MLP(4, (8,), 2))(torch.zeros(3, 5, 4)).shape
        torch.Size([3, 5, 2])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return self.net(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])


class Residual(nn.Module):
    """h + W2 a(W1 a(h)), with the norm before each activation a, and dropout after it.

    Reference: He, Zhang, Ren and Sun, Identity Mappings in Deep Residual Networks, 2016.

    Args:
        width: Entries of h.
        activation, norm, dropout: As of `vaelab.nets.mlp.MLP`.

    Example:
        >>> Residual(8)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, activation: str = "silu", norm: str = "none", dropout: float = 0.0) -> None:
        super().__init__()
        first, second = (after(width, activation, NORMS, norm, drop) for drop in (0.0, dropout))
        self.last = nn.Linear(width, width)
        # Batch norm subtracts the mean, so that a bias before it would have no effect and no gradient.
        self.branch = OverRows(nn.Sequential(*first, nn.Linear(width, width, bias=norm != "batch"), *second, self.last))

    def start(self) -> None:
        """Begin near the identity."""
        with torch.no_grad():
            self.last.weight.mul_(SMALL)

    def forward(self, h: Tensor) -> Tensor:
        """[..., width] to the same shape."""
        return h + self.branch(h)


class Joint(nn.Module):
    """An MLP of several vectors; each has a first matrix of its own, so that what is shared by samples is read once.

    Args:
        inputs: Entries of each vector.
        hidden: Widths of the hidden layers; () for a linear map.
        outputs: Width of the last linear layer.
        style: Activation, norm and dropout, as of `vaelab.nets.mlp.MLP`.

    Example:
        >>> Joint((3, 2), (8,), 4)(torch.zeros(5, 3), torch.zeros(7, 5, 2)).shape
        torch.Size([7, 5, 4])
    """

    def __init__(self, inputs: Sequence[int], hidden: Sequence[int], outputs: int, **style: Any) -> None:
        super().__init__()
        widths = (*hidden, outputs)
        *others, last = inputs
        reads = [*(nn.Linear(size, widths[0], bias=False) for size in others), nn.Linear(last, widths[0])]
        self.reads = nn.ModuleList(reads)
        self.rest = OverRows(_beyond(widths, **style)) if hidden else nn.Identity()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Vectors [..., inputs[i]], of which each may lack leading dimensions, to [..., outputs]."""
        first, *others = (read(x) for read, x in zip(self.reads, inputs, strict=True))
        return self.rest(sum(others, first))


def _beyond(widths: Sequence[int], **style: Any) -> nn.Module:
    """What follows the first linear map of an MLP."""
    plain: dict[str, Any] = {"activation": "silu", "norm": "none", "dropout": 0.0, **style}
    return nn.Sequential(*after(widths[0], norms=NORMS, **plain), MLP(widths[0], widths[1:-1], widths[-1], **style))


class Climb(nn.Module):
    """The way up: a network's features for the lowest group, and one residual cell more for each group above it.

    Args:
        net: Rows [B, ...] to features, with an attribute `features`.
        width: Entries of what each group gets; None: the network's features for all of them, without cells.
        groups: How many.
        style: Of the cells.

    Attributes:
        features: Entries of what each group gets.

    Example:
        >>> [part.shape for part in Climb(MLP(4, (8,)), 6, 2)(torch.zeros(5, 4))]
        [torch.Size([5, 6]), torch.Size([5, 6])]
    """

    def __init__(self, net: nn.Module, width: int | None, groups: int, **style: Any) -> None:
        super().__init__()
        found = int(net.features)  # type: ignore[arg-type]
        self.net, self.groups, self.features = net, groups, found if width is None else width
        self.enter = nn.Identity() if width in (None, found) else nn.Linear(found, self.features)
        cells = groups - 1 if width is not None else 0
        self.cells = nn.ModuleList(Residual(self.features, **style) for _ in range(cells))

    def forward(self, x: Tensor, *condition: Tensor) -> list[Tensor]:
        """Rows [B, ...] to [B, features] for each group, the top one first."""
        features = [self.enter(self.net(x, *condition))]
        for cell in self.cells:
            features.append(cell(features[-1]))
        return features[::-1] if len(self.cells) else features * self.groups


class Chain(nn.Module):
    """The way down without a path of its own: the state is all that has been drawn.

    Args:
        sizes: Entries of each group, the top one first.

    Attributes:
        widths: Entries of the state after each group.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.widths = [sum(sizes[: number + 1]) for number in range(len(sizes))]

    def forward(self, group: int, state: Tensor | None, z: Tensor) -> Tensor:
        """The state above a group (None: it is the top one) and its z [..., L] to the state below it."""
        return z if state is None else torch.cat([state.expand(*z.shape[:-1], -1), z], -1)


class Ladder(nn.Module):
    """A deterministic path down, which every group adds to: h' = cell(h + W z).

    References: Sønderby, Raiko, Maaløe, Sønderby and Winther, Ladder Variational Autoencoders, 2016; Vahdat and Kautz,
    NVAE: A Deep Hierarchical Variational Autoencoder, 2020.

    Args:
        sizes: Entries of each group, the top one first.
        width: Entries of h.
        style: Of the cells.

    Attributes:
        widths: Entries of the state after each group.
    """

    def __init__(self, sizes: Sequence[int], width: int, **style: Any) -> None:
        super().__init__()
        self.widths = [width] * len(sizes)
        self.reads = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.cells = nn.ModuleList(Residual(width, **style) for _ in sizes)

    def forward(self, group: int, state: Tensor | None, z: Tensor) -> Tensor:
        """The state above a group (None: it is the top one) and its z [..., L] to the state below it."""
        read = self.reads[group](z)
        return self.cells[group](read if state is None else state + read)
