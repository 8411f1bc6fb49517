"""Units of encoder and decoder that do the same on every row, found by looking on while rows pass through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish, nn.Softplus, nn.Tanh, nn.Sigmoid,
    nn.Hardtanh, nn.Hardswish, nn.ReLU6, nn.CELU,
)  # fmt: skip
BOUNDED = (nn.Tanh, nn.Sigmoid, nn.Hardtanh)
STILL = 1e-4  # a unit that varies by less than this part of its layer's largest output carries nothing float32 keeps
NEAR_END = 0.01  # of the range, as for the monitor's saturated units


@dataclass
class Census:
    """Counts over the activations of a network, in the order in which rows pass.

    Args:
        low: Lowest output of each unit so far, by layer, [units].
        high: Highest output.
        ends: Share of a bounded layer's outputs within 1 % of a bound, by layer.
    """

    low: dict[str, Tensor] = field(default_factory=dict)
    high: dict[str, Tensor] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)

    @property
    def dead(self) -> dict[str, float]:
        """By layer, the share of units whose output is the same on every row."""
        return {name: self._still(name) for name in self.low}

    def _still(self, name: str) -> float:
        low, high = self.low[name], self.high[name]
        largest = torch.maximum(low.abs(), high.abs()).max()
        return ((high - low) <= STILL * largest).double().mean().item()

    def look(self, name: str, module: nn.Module, output: Tensor) -> None:
        """Takes in a layer's output [B, units, ...]; positions of an image count as rows of their own channel."""
        rows = output.detach().transpose(0, 1).flatten(1) if output.ndim > 2 else output.detach().T
        low, high = rows.amin(1), rows.amax(1)
        known = name in self.low
        self.low[name] = torch.minimum(self.low[name], low) if known else low
        self.high[name] = torch.maximum(self.high[name], high) if known else high
        if isinstance(module, BOUNDED):
            bottom = 0.0 if isinstance(module, nn.Sigmoid) else -1.0
            share = (output - bottom) / (1.0 - bottom)
            near = ((share < NEAR_END) | (share > 1 - NEAR_END)).double().mean().item()
            self.ends[name] = max(self.ends.get(name, 0.0), near)


@contextmanager
def census(model: Any) -> Iterator[tuple[Census, Census]]:
    """Looks on at encoder and decoder while rows pass through; a model without such parts gives empty counts."""
    found = Census(), Census()
    hooks = []
    for part, counts in zip(("encoder", "decoder"), found, strict=True):
        for name, module in getattr(model, part, nn.Identity()).named_modules():
            if isinstance(module, ACTIVATIONS):
                hooks.append(module.register_forward_hook(_hook(counts, f"{part}.{name}")))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _hook(counts: Census, name: str) -> Any:
    return lambda module, inputs, output: counts.look(name, module, output)
