"""Start values of weights."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import nn

from ..core.tables import pick


def initialise(module: nn.Module, scheme: str = "fan") -> nn.Module:
    """Set the start values of a module and everything in it, and return it.

    `fan` draws linear weights by Xavier's rule, variance 2 / (fan in + fan out), convolutions by He's, variance
    2 / fan in, and sets their biases to 0; then every part with a method `start` sets what it wants otherwise.
    `pytorch` leaves PyTorch's own values.

    References:
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010;
        He, Zhang, Ren and Sun, Delving deep into rectifiers, 2015.

    Raises:
        BadInput: for an unknown scheme.
    """
    pick(SCHEMES, scheme, "model.init")(module)
    return module


def _fan(module: nn.Module) -> None:
    for part in module.modules():
        if type(part) in RULES:
            RULES[type(part)](part)
            if part.bias is not None:
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    for part in module.modules():
        if callable(start := getattr(part, "start", None)):
            start()


def _leave(module: nn.Module) -> None:
    """PyTorch has set its values when the module was made."""


def _xavier(part: Any) -> None:
    nn.init.xavier_uniform_(part.weight)


def _he(part: Any) -> None:
    nn.init.kaiming_normal_(part.weight, nonlinearity="relu")


def _he_transposed(part: Any) -> None:
    # An output pixel receives only every stride-th row and column of the kernel.
    fan_in = part.in_channels * prod(part.kernel_size) / prod(part.stride)
    nn.init.normal_(part.weight, std=(2 / fan_in) ** 0.5)


RULES: dict[type[nn.Module], Callable[[Any], None]] = {
    nn.Linear: _xavier,
    nn.Conv2d: _he,
    nn.ConvTranspose2d: _he_transposed,
}
SCHEMES: dict[str, Callable[[nn.Module], None]] = {"fan": _fan, "pytorch": _leave}
