"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from ..core.tables import pick

Norms = Mapping[str, Callable[[int], nn.Module]]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}
NORMS: Norms = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class MLP(nn.Module):
    """A fully connected network that flattens its input: linear, norm, activation, dropout, and so on.

    Args:
        inputs: Entries of a row, all dimensions together.
        hidden: Widths of the hidden layers; () for a linear map.
        outputs: Width, or shape, of a last linear layer without activation; None ends with the last hidden layer,
            so that without hidden layers the network only flattens.
        activation: A name of `ACTIVATIONS`.
        norm: A name of `NORMS`.
        dropout: Probability with which a hidden unit is dropped in training.

    Attributes:
        features: Entries of an output row.

    Raises:
        BadInput: for an unknown activation or norm.

    Example:
        >>> import torch
        >>> MLP(4, (8,), (3, 2))(torch.zeros(5, 2, 2)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int] = (),
        outputs: int | Sequence[int] | None = None,
        *,
        activation: str = "silu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(widths):
            # Batch norm subtracts the mean, so that a bias before it would have no effect and no gradient.
            layers += [nn.Linear(wide, narrow, bias=norm != "batch"), *after(narrow, activation, NORMS, norm, dropout)]
        shape = (outputs,) if isinstance(outputs, int) else tuple(outputs or widths[-1:])
        self.features = prod(shape)
        if outputs is not None:
            layers.append(nn.Linear(widths[-1], self.features))
        if len(shape) > 1:
            layers.append(nn.Unflatten(1, shape))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [B, ...] to [B, features], or to [B, *outputs] where `outputs` is a shape."""
        return self.layers(x.flatten(1))


def after(width: int, activation: str, norms: Norms, norm: str, dropout: float) -> list[nn.Module]:
    """What follows a linear map of that width: norm, activation, dropout, each only where it does something."""
    steps: list[nn.Module] = [pick(norms, norm, "norm")(width), pick(ACTIVATIONS, activation, "activation")()]
    return [*(step for step in steps if not isinstance(step, nn.Identity)), *([nn.Dropout(dropout)] if dropout else [])]
