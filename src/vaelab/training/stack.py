"""`Stack`: several models of one kind computed as one, their parameters side by side in one tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ..core.batch import Batch, condition_of, rows_of
from ..models.vae import Model
from ..objectives.base import Objective
from .optimizer import AdamW
from .step import Step

Drawn = tuple[Tensor | Batch, Tensor | None]


class Stack:
    """M models whose trained parameters are the rows of one tensor [M, P]: one computation and one optimiser serve all.

    Each model's parameters become views of its row, so that a model can be evaluated and saved by itself at any time.
    Parameters and buffers that are not trained are side by side too where they differ between models.

    Args:
        models: Of the same parts and shapes, on one device.
        objective: Without parameters; what differs between models is given with the weights of a step.
        trained: Names of the parameters that a step moves.
    """

    def __init__(
        self,
        models: Sequence[Model],
        objective: Objective,
        trained: Iterable[str],
        *,
        weight_decay: float,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.step = Step(deepcopy(models[0]), objective, autocast).train()
        parameters, buffers = stack_module_state(list(models))
        wanted = set(trained)
        self.names = [name for name in parameters if name in wanted]
        self.shapes = [parameters[name].shape[1:] for name in self.names]
        self.values = torch.cat([parameters[name].detach().reshape(len(models), -1) for name in self.names], 1)
        self.gradient = torch.empty_like(self.values)
        self.rows = [nn.Parameter(row) for row in self.values]
        self.optimizer = AdamW(self.rows, weight_decay)
        self.leaves = [part.requires_grad_() for part in self.cut(self.values)]
        for row, model in zip(self.rows, models, strict=True):
            own = dict(model.named_parameters())
            for name, value in zip(self.names, self.cut(row.data), strict=True):
                own[name].data = value
        others = {name: value.detach() for name, value in {**parameters, **buffers}.items() if name not in wanted}
        self.held = {name: value for name, value in others.items() if not _alike(value)}

    def cut(self, values: Tensor) -> list[Tensor]:
        """A tensor [..., P] as views of the shapes of the parameters."""
        parts = values.split([shape.numel() for shape in self.shapes], -1)
        return [part.view((*values.shape[:-1], *shape)) for part, shape in zip(parts, self.shapes, strict=True)]

    def gradients(
        self, drawn: Sequence[Drawn], weights: Sequence[Mapping[str, float]]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
        """Computes the gradient of each model's loss.

        Args:
            drawn: Rows and base noise of each model; what is the same object for all is computed with once.
            weights: Of each model.

        Returns:
            The losses [M] and the norms of their gradients [M]; sums over rows of the terms, [M] each, and of KL per
            group, [M, G].
        """
        xs, noises = zip(*drawn, strict=True)
        columns: list[list[Tensor | None]] = [[rows_of(x) for x in xs], [condition_of(x) for x in xs], list(noises)]
        given, axes = zip(*map(_beside, columns), strict=True)
        common, own = self._told_apart(weights)

        def of_one(leaves: list[Tensor], held: dict[str, Tensor], own: dict[str, Tensor], *given: Any) -> Any:
            x, condition, noise = given
            tensors = {f"model.{name}": value for name, value in (*zip(self.names, leaves, strict=True), *held.items())}
            batch = x if condition is None else Batch(x, condition)
            return functional_call(self.step, tensors, (batch, common | own, noise))

        losses, terms, kl = vmap(of_one, in_dims=(0, 0, 0, *axes))(self.leaves, self.held, own, *given)
        found = torch.autograd.grad(losses.sum(), self.leaves, materialize_grads=True, allow_unused=True)
        torch.cat([part.reshape(len(part), -1) for part in found], 1, out=self.gradient)
        return losses.detach(), torch.linalg.vector_norm(self.gradient, dim=1), terms, kl

    def update(self, rate: float, taken: Sequence[bool], divisors: Tensor | None) -> None:
        """Moves the models whose step is taken; parameters and moments of the others stay as they are.

        Args:
            divisors: What the gradient of each model is divided by first, [M]; None for 1.
        """
        if divisors is not None:
            self.gradient.div_(divisors[:, None])
        for row, gradient, moved in zip(self.rows, self.gradient, taken, strict=True):
            row.grad = gradient if moved else None
        if any(taken):
            self.optimizer.step(rate)

    def moments(self, number: int) -> dict[str, dict[str, Tensor]]:
        """The optimiser's state of a model by the names of its parameters, sharing memory."""
        slot = self.optimizer.state[str(number)]
        parts = {name: self.cut(value) for name, value in slot.items() if name != "step"}
        return {
            name: {"step": slot["step"], **{moment: values[place] for moment, values in parts.items()}}
            for place, name in enumerate(self.names)
        }

    def _told_apart(self, weights: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The weights that all models have as numbers, and the others as tensors [M]."""
        columns = {name: [one[name] for one in weights] for name in weights[0]}
        common = {name: column[0] for name, column in columns.items() if len(set(column)) == 1}
        return common, {name: self.values.new_tensor(columns[name]) for name in columns.keys() - common.keys()}


def _beside(parts: Sequence[Tensor | None]) -> tuple[Tensor | None, int | None]:
    """Tensors of all models side by side with the axis of the models; None for the axis where all have the same one."""
    first = parts[0]
    if all(part is first for part in parts):
        return first, None
    return torch.stack([part for part in parts if part is not None]), 0


def _alike(stacked: Tensor) -> bool:
    """Whether a tensor [M, ...] is the same for all models."""
    return bool((stacked == stacked[:1]).all())
