"""One run of a model's step: its graph, the names its tensors are seen under, and what depends on what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import LEAF, NOISE, Node, Tape


@dataclass(frozen=True)
class Recording:
    """One run of the step: its graph, its names, and what it returned.

    Attributes:
        data: Nodes that depend on the batch.
        weights: Nodes that depend on parameters.
        noise: Nodes that depend on random numbers.
        roots: Nodes of the loss, or of what the forward pass returned where there is none.
        idle: Calls that a replay may leave out, by what is replaced and what is wanted.
    """

    tape: Tape
    names: tuple[tuple[str, Node], ...]
    raw: Any
    x: Tensor
    roots: tuple[int, ...]
    data: frozenset[int] = field(init=False, repr=False)
    weights: frozenset[int] = field(init=False, repr=False)
    noise: frozenset[int] = field(init=False, repr=False)
    idle: dict[Any, frozenset[int]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        nodes = self.tape.nodes
        same = self.x.data_ptr()
        x = [n.number for n in nodes if n.key == LEAF and n.tensor.data_ptr() == same]
        parameters = [n.number for n in nodes if isinstance(n.tensor, nn.Parameter)]
        sources = [n.number for n in nodes if n.name in NOISE and not isinstance(n.tensor, nn.Parameter)]
        # An encoder that is given ones in the shape of the batch still works on a batch.
        for name, found in (("data", x), ("weights", parameters), ("noise", sources)):
            object.__setattr__(self, name, frozenset(self.tape.made_from(found, shapes=name == "data")))

    @property
    def rows(self) -> int:
        """B."""
        return len(self.x)

    def is_layer(self, node: Node) -> bool:
        """Whether a call takes weights and something that depends on the batch or on noise."""
        return not self._fixed.isdisjoint(node.parents) and not self._moving.isdisjoint(node.parents)

    @cached_property
    def _moving(self) -> frozenset[int]:
        return self.data | self.noise

    @cached_property
    def _fixed(self) -> frozenset[int]:
        return self.weights - self._moving

    def origins(self, node: Node) -> tuple[Node, ...]:
        """The first nodes with this very value, so that every copy of it follows when they are replaced."""
        same = [n for n in self.tape.nodes if n.key != LEAF and same_value(n.tensor, node.tensor)]
        numbers = {n.number for n in same}
        return tuple(n for n in same if numbers.isdisjoint(self.tape.reaches(n.parents)))

    def parameters(self, numbers: Iterable[int]) -> set[int]:
        """Ids of the parameters among nodes."""
        nodes = self.tape.nodes
        return {id(nodes[n].tensor) for n in numbers if isinstance(nodes[n].tensor, nn.Parameter)}


def same_value(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in shape, type and every entry."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.detach(), b.detach())
