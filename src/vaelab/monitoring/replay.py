"""A record of the torch calls of a step, each with the layer it was made in, and a watch over its backward pass."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Calls that turn a log-variance, or the like, into a variance; in float32 they overflow above 88 and are 0 below -104.
EXPONENTIALS = frozenset({"exp", "exp_", "exp2", "expm1", "sinh", "cosh", "__rpow__", "softplus"})
HUGE = 1e13  # e^30: of a variance, a deviation of three million beside data of size 1


@dataclass(frozen=True)
class Call:
    """A torch call of the replay: its inputs and outputs, the calls these came from, and whether they were finite."""

    name: str
    layer: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    before: tuple[int, ...]
    finite: bool

    @property
    def operation(self) -> str:
        """The name autograd gives it, where it has one."""
        node = self.outputs[0].grad_fn
        return node.name() if node is not None else self.name

    @property
    def strained(self) -> bool:
        """Whether it is an exponential whose result no variance, rate or odds of data can be."""
        sizes = [out.detach().abs() for out in self.outputs] if self.name in EXPONENTIALS else []
        return any(bool(((size > HUGE) | (size < 1 / HUGE)).any()) for size in sizes)


class Record(TorchFunctionMode):
    """The torch calls made while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.layers: list[str] = []  # those being called, the innermost last; "" for one that is made of others
        self._made: dict[int, int] = {}  # id of a tensor: the call that wrote it last; calls keep their tensors alive

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        inputs = tuple(tensor for tensor in tensors_in((args, kwargs or {})) if tensor.is_floating_point())
        before = tuple(dict.fromkeys(self._made[id(tensor)] for tensor in inputs if id(tensor) in self._made))
        result = func(*args, **(kwargs or {}))
        made = [args[0]] if name == "__setitem__" else list(tensors_in(result))
        outputs = tuple(tensor for tensor in made if tensor.is_floating_point())
        if outputs:
            inside = self.layers[-1] if self.layers else ""
            behind = (self.calls[number].layer for number in reversed(before))
            layer = inside or next((layer for layer in behind if layer), None)
            self.calls.append(Call(name, layer, inputs, outputs, before, all_finite(outputs)))
            self._made |= {id(tensor): len(self.calls) - 1 for tensor in outputs}
        return result

    def source(self, loss: Tensor | None) -> Call | None:
        """The earliest call on the way to the loss that made non-finite numbers of finite ones; None where all is well.

        Where the replay broke off, it is on the way to the last call.
        """
        if not self.calls or (loss is not None and all_finite([loss])):
            return None
        last = len(self.calls) - 1 if loss is None else self._made.get(id(loss), len(self.calls) - 1)
        sources, queue, seen = [], [last], {last}
        while queue:
            number = queue.pop()
            behind = {n for n in self.calls[number].before if not self.calls[n].finite} - seen
            seen |= behind
            queue += behind
            if not any(not self.calls[n].finite for n in self.calls[number].before):
                sources.append(number)
        return self.calls[min(sources)]

    def strained(self, call: Call) -> Call | None:
        """The call itself or the nearest before it that is a strained exponential."""
        if call.strained:
            return call
        queue, seen = list(call.before), set(call.before)
        while queue:
            candidate = self.calls[queue.pop(0)]
            if candidate.strained:
                return candidate
            queue += set(candidate.before) - seen
            seen |= set(candidate.before)
        return None

    def by_node(self, loss: Tensor) -> dict[Any, Call | None]:
        """The nodes of the backward pass, each with the call it belongs to."""
        known: dict[Any, Call] = {
            tensor.grad_fn: call for call in self.calls for tensor in call.outputs if tensor.grad_fn is not None
        }
        found: dict[Any, Call | None] = {loss.grad_fn: known.get(loss.grad_fn)}
        queue: list[Any] = [loss.grad_fn]
        while queue:
            node = queue.pop()
            for following, _ in node.next_functions:
                if following is not None and following not in found:
                    found[following] = known.get(following, found[node])
                    queue.append(following)
        return {node: call for node, call in found.items() if not hasattr(node, "variable")}


@contextlib.contextmanager
def first_bad_node(nodes: Iterable[Any]) -> Iterator[list[tuple[Any, list[Tensor]]]]:
    """While entered, notes the first node that makes non-finite gradients of finite ones, with these gradients."""
    found: list[tuple[Any, list[Tensor]]] = []

    def look(node: Any, made: Iterable[Tensor | None], given: Iterable[Tensor | None]) -> None:
        bad = [tensor for tensor in made if tensor is not None]
        if not found and not all_finite(bad) and all_finite(tensor for tensor in given if tensor is not None):
            found.append((node, bad))

    handles = [node.register_hook(partial(look, node)) for node in nodes]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def named_layers(model: nn.Module, layers: list[str]) -> Iterator[None]:
    """While entered, `layers` holds the layers that are being called, "" for those that are made of others."""
    handles = []
    for name, module in model.named_modules():
        label = "" if any(True for _ in module.children()) else label_of(name, module)
        handles.append(module.register_forward_pre_hook(lambda *_, label=label: layers.append(label), prepend=True))
        handles.append(module.register_forward_hook(lambda *_: _leave(layers), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _leave(layers: list[str]) -> None:
    layers.pop()


def label_of(name: str, module: nn.Module) -> str:
    return f"{name or 'model'} ({type(module).__name__})"


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))


def all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(tensor.detach().isfinite().all()) for tensor in tensors)


def largest(tensors: Iterable[Tensor]) -> float:
    """The largest finite absolute value; NaN where there is none."""
    sizes = [tensor.detach().abs() for tensor in tensors]
    return max((float(size[size.isfinite()].max()) for size in sizes if size.isfinite().any()), default=math.nan)
