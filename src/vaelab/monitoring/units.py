"""Dead and saturated units, counted by hooks during a single step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

RECTIFIED = (nn.ReLU, nn.ReLU6, nn.Threshold)
BOUNDED: dict[type[nn.Module], tuple[float, float]] = {nn.Tanh: (-1.0, 1.0), nn.Sigmoid: (0.0, 1.0)}
NEAR = 0.01  # share of the range from a bound within which a unit passes hardly a twentieth of its gradient on


class Census:
    """Counts the units of a model in the steps between its making and `close`.

    A rectified unit is dead if it is 0 on every row of a batch and, for a channel of an image, at every position; a
    bounded unit is saturated where it lies within 1 % of its range from a bound. What no layer with parameters follows
    is an output, such as the probabilities of black pixels, and is left out. Calls without gradients are not counted.

    Example:
        >>> layers = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = nn.init.constant_(layers[0].weight, 1.0), nn.init.constant_(layers[0].bias, 0.0)
        >>> layers[0].bias.data[1] = -5.0
        >>> census = Census(layers)
        >>> _ = layers(torch.ones(3, 1))
        >>> census.close()
        {'dead_units': 0.5}
    """

    def __init__(self, model: nn.Module) -> None:
        self._counted: list[tuple[str, Tensor, int]] = []  # role, units counted, of how many
        self._inside = 0  # how many of these a layer with parameters has followed
        self._handles: list[Any] = []
        for module in model.modules():
            hook = self._hook(module)
            if hook is not None:
                self._handles.append(module.register_forward_hook(hook))
        self._handles.append(model.register_forward_hook(self._over))

    def close(self) -> dict[str, float]:
        """Takes the hooks off; shares by the names of the trace, for the kinds of units that there are."""
        for handle in self._handles:
            handle.remove()
        inside = self._counted[: self._inside]
        kinds = dict.fromkeys(role for role, _, _ in inside)
        return {
            kind: sum(int(count) for role, count, _ in inside if role == kind)
            / sum(of for role, _, of in inside if role == kind)
            for kind in kinds
        }

    def _hook(self, module: nn.Module) -> Any:
        if isinstance(module, RECTIFIED):
            return self._rectified
        if type(module) in BOUNDED:
            return self._bounded
        return self._layer if any(True for _ in module.parameters(recurse=False)) else None

    def _layer(self, *_: Any) -> None:
        if torch.is_grad_enabled():
            self._inside = len(self._counted)

    def _over(self, *_: Any) -> None:
        """The whole model has been called: what came after the last layer is an output."""
        del self._counted[self._inside :]

    @torch.no_grad()
    def _add(self, role: str, hit: Tensor) -> None:
        self._counted.append((role, hit.sum(), hit.numel()))

    def _rectified(self, _module: nn.Module, _inputs: Any, out: Tensor) -> None:
        if torch.is_grad_enabled() and out.ndim > 1:
            units = out.detach().movedim(1, -1) if out.ndim > 3 else out.detach()
            self._add("dead_units", (units == 0).flatten(0, -2).all(0))

    def _bounded(self, module: nn.Module, _inputs: Any, out: Tensor) -> None:
        if torch.is_grad_enabled():
            low, high = BOUNDED[type(module)]
            margin = NEAR * (high - low)
            self._add("saturated_units", (out.detach() < low + margin) | (out.detach() > high - margin))


def at_ends(means: Tensor) -> Tensor:
    """Share of rows in the outer 5 % of each dimension's range, at either end; 0 where nothing varies.

    Args:
        means: Posterior means, [B, L].

    Example:
        >>> at_ends(torch.tensor([[0.0], [0.01], [0.5], [1.0]]))
        tensor([0.7500])
    """
    low, high = means.min(0).values, means.max(0).values
    margin = 0.05 * (high - low)
    return (((means <= low + margin) | (means >= high - margin)) & (high > low)).double().mean(0).float()
