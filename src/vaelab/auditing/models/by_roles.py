"""A loss that is a function of tensors, called on those that one forward pass of a model shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...core.errors import BadInput
from ..roles import Binding, bind
from .sandbox import Watch


def by_roles(
    model: nn.Module,
    loss: Callable[..., Any],
    forward: Callable[[Tensor], Any],
    inputs: str | None,
    constants: Mapping[str, Any],
    suppliers: Callable[[], Mapping[str, str]],
) -> Callable[[Tensor], Any]:
    """A loss on tensors that the forward pass makes, each by its role.

    Args:
        suppliers: Finds the name under which each role is seen in a forward pass.

    Raises:
        BadInput: where a role that the loss asks for is not seen.
    """
    binding = bind(loss, inputs, dict(constants))
    paths = suppliers() if set(binding.roles) - {"x"} else {}
    if missing := [role for role in binding.roles if not paths.get(role) and role != "x"]:
        rule = f"its forward pass shows no {', '.join(missing)} that the loss asks for"
        raise BadInput("model", None, rule, "return it from forward")
    return ByRoles(model, loss, forward, binding, paths)


@dataclass(frozen=True)
class ByRoles:
    """A loss on what one forward pass shows, each tensor by its role.

    Attributes:
        paths: The name under which each role is seen, such as `forward.1` for mu.
    """

    model: nn.Module
    loss: Callable[..., Any]
    forward: Callable[[Tensor], Any]
    binding: Binding
    paths: Mapping[str, str]

    def __call__(self, x: Tensor) -> Any:
        with Watch(self.model) as watch:
            self.forward(x)
        seen, binding = dict(watch.seen), self.binding
        known = {**binding.constants, **{role: seen[p] for role, p in self.paths.items() if p in seen}, "x": x}
        arguments = [
            tuple(known[a] for a in item) if isinstance(item, tuple) else known[item] for item in binding.arguments
        ]
        return self.loss(*arguments, **{name: known[name] for name in binding.keywords if name in known})

    def crossed(self) -> tuple[str, ...]:
        """The heads in the order of the tuple that forward returns, where the loss takes them in the other order."""
        places = {role: re.fullmatch(r"forward\.(\d+)", self.paths.get(role, "")) for role in ("mu", "head")}
        returned = sorted((int(place[1]), role) for role, place in places.items() if place)
        order = tuple(role for _, role in returned)
        taken = tuple(a for a in self.binding.arguments if a in places)
        return order if len(taken) == len(order) == 2 and taken != order else ()
