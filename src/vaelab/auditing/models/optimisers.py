"""The optimisers of a model, given or its own, on its working copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .sandbox import loose_weights


def optimisers_of(module: nn.Module, work: nn.Module, optimizer: Any) -> list[Any]:
    """The optimisers on the working copy: the given ones by the names of their parameters, or the model's own."""
    if optimizer is not None:
        given = optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]
        every = [[*m.parameters(), *loose_weights(m).values()] for m in (module, work)]
        twin = dict(zip(map(id, every[0]), every[1], strict=True))
        held = [twin[id(p)] for o in given for group in o.param_groups for p in group["params"] if id(p) in twin]
        return [_Held([{"params": held}])]
    configure = getattr(work, "configure_optimizers", None)
    if not callable(configure):
        return []
    try:
        return list(_optimisers(configure()))
    except Exception:  # a stranger's code that asks for its trainer
        return []


@dataclass(frozen=True)
class _Held:
    param_groups: list[dict[str, Any]]


def _optimisers(made: Any) -> Iterator[Any]:
    """Optimisers in what `configure_optimizers` returns: one, a sequence, or a mapping with `optimizer`."""
    if hasattr(made, "param_groups"):
        yield made
    elif isinstance(made, Mapping):
        yield from _optimisers(made.get("optimizer"))
    elif isinstance(made, (list, tuple)):
        for item in made:
            yield from _optimisers(item)
