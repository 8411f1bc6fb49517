"""A tape of every torch call of a step, and its replay with some results replaced.

The tape is a graph: a node for each tensor, with the tensors it was made from. It holds what the step computed, not how
the code is written, so that methods, submodules, distributions and plain lines of code are all seen alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...core.errors import BadInput

NORMAL = frozenset(("randn", "randn_like", "normal", "normal_"))
NOISE = NORMAL | {"rand", "rand_like", "uniform_", "exponential_", "log_normal_", "cauchy_"}
IN_PLACE = frozenset(f"__{name}__" for name in ("setitem", "iadd", "isub", "imul", "itruediv", "ipow", "imatmul"))
LEAF = (-1, 0)
Key = tuple[int, int]


SHAPED = {"expand_as", "view_as", "reshape_as", "type_as"}


class Stopped(BaseException):
    """A replay has all that was asked for; no `except Exception` of the model may catch it."""


@dataclass(frozen=True)
class Node:
    """A tensor of the step: what made it, the nodes its value was made from, and those that lent their shape alone."""

    number: int
    name: str
    tensor: Tensor
    parents: tuple[int, ...]
    key: Key
    shaped: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Entries."""
        return self.tensor.numel()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)


class Tape(TorchFunctionMode):
    """Records the calls made while it is entered; `backward` is noted and not run.

    Attributes:
        nodes: In the order they were made.
        losses: Tensors that `backward` was called on.
        outside: Ranges of what a cross-entropy was given in place of probabilities, by its argument.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.names: list[str] = []
        self.losses: list[Tensor] = []
        self.outside: dict[str, tuple[float, float]] = {}
        self._results: dict[int, Any] = {}
        self._latest: dict[int, int] = {}
        self._memory: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "backward":
            self.losses.append(args[0])
            return None
        given = [self._known(tensor) for tensor in (*tensors_in(args), *tensors_in(kwargs or {}))]
        args = self._within(args) if name == "binary_cross_entropy" else args
        result = func(*args, **(kwargs or {}))
        self.names.append(name)
        made = [args[0]] if name == "__setitem__" else list(tensors_in(result))
        if made:
            self._results[len(self.names) - 1] = result
        for position, tensor in enumerate(made):
            # Each result of this one call is made of its own argument alone; distributions put all they hold through.
            parents = tuple(dict.fromkeys(given[position : position + 1] if name == "broadcast_tensors" else given))
            # Of some arguments the shape alone is taken: all of those of randn_like, all but the first of expand_as.
            told = 0 if name.endswith("_like") or name.startswith("new_") else 1 if name in SHAPED else len(parents)
            self._add(name, tensor, parents[:told], (len(self.names) - 1, position), parents[told:])
        return result

    def _within(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments of a cross-entropy of probabilities held within [0, 1], where torch would stop the step."""
        for role, tensor in zip(("input", "target"), args, strict=False):
            low, high = float(tensor.detach().min()), float(tensor.detach().max())
            if low < 0 or high > 1:
                self.outside[role] = low, high
        return (*(t.clamp(0, 1) for t in args[:2]), *args[2:]) if self.outside else args

    def _add(self, name: str, tensor: Tensor, parents: tuple[int, ...], key: Key, shaped: tuple[int, ...] = ()) -> int:
        number = len(self.nodes)
        self.nodes.append(Node(number, name, tensor, parents, key, shaped))
        self._latest[id(tensor)] = number
        if tensor.numel():
            self._memory[tensor.data_ptr()] = number
        return number

    def _known(self, tensor: Tensor) -> int:
        """The node of a tensor; one that no call made is a leaf, or another view of a known node's memory."""
        if id(tensor) not in self._latest:
            alias = self._memory.get(tensor.data_ptr()) if tensor.numel() else None
            self._add("leaf", tensor, () if alias is None else (alias,), LEAF)
        return self._latest[id(tensor)]

    def find(self, tensor: Tensor) -> Node | None:
        """The latest node that is this very tensor."""
        number = self._latest.get(id(tensor))
        return None if number is None else self.nodes[number]

    def result(self, call: int) -> Any:
        """What a call returned; None where that was no tensor."""
        return self._results.get(call)

    def at(self, key: Key) -> Tensor:
        """The tensor that a call made, by key."""
        return next(itertools.islice(tensors_in(self._results[key[0]]), key[1], None))

    def reaches(self, roots: Iterable[int], stop: Collection[int] = ()) -> set[int]:
        """Nodes that the roots were made from, themselves included, not looking behind nodes in `stop`."""
        seen: set[int] = set()
        queue = list(roots)
        while queue:
            number = queue.pop()
            if number not in seen:
                seen.add(number)
                queue += () if number in stop else self.nodes[number].parents
        return seen

    def made_from(
        self, sources: Iterable[int], through: Callable[[Node], bool] = lambda node: True, shapes: bool = False
    ) -> set[int]:
        """Nodes made from the sources, these included, following only calls that `through` accepts.

        Args:
            shapes: Whether having taken its shape from a source counts.
        """
        found = set(sources)
        for node in self.nodes:
            behind = (*node.parents, *node.shaped) if shapes else node.parents
            if node.number not in found and not found.isdisjoint(behind) and through(node):
                found.add(node.number)
        return found


class Replay(TorchFunctionMode):
    """Runs the step again with some results replaced.

    Args:
        tape: The recording of the same step on data of the same shape.
        swap: Tensors to use in place of a call's result, by key.
        watch: Keys whose tensors are wanted.
        skip: Calls whose recorded result will do, since nothing that matters is made from it.
        early: Whether to stop as soon as all watched tensors are there.
    """

    def __init__(
        self,
        tape: Tape,
        swap: Mapping[Key, Tensor],
        watch: Collection[Key] = (),
        skip: Collection[int] = (),
        early: bool = False,
    ) -> None:
        super().__init__()
        self.tape, self.swap, self.skip, self.early = tape, swap, frozenset(skip), early
        self.watch = frozenset(watch)
        self.seen: dict[Key, Tensor] = {}
        self.losses: list[Tensor] = []
        self._calls = {call for call, _ in (*swap, *self.watch)}
        self._count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "backward":
            self.losses.append(args[0])
            return None
        call, self._count = self._count, self._count + 1
        if call in self.skip and name == self.tape.names[call]:
            return self.tape.result(call)
        result = func(*args, **(kwargs or {}))
        if call not in self._calls:
            return result
        if name != self.tape.names[call]:
            raise BadInput(
                "model",
                name,
                f"the step made other calls before ({self.tape.names[call]})",
                "give it fixed control flow",
            )
        result = self._swapped(result, call)
        self.seen |= {(call, i): t for i, t in enumerate(tensors_in(result)) if (call, i) in self.watch}
        if self.early and len(self.seen) == len(self.watch):
            raise Stopped
        return result

    def _swapped(self, result: Any, call: int) -> Any:
        positions = itertools.count()

        def put(item: Any) -> Any:
            if isinstance(item, Tensor):
                return self.swap.get((call, next(positions)), item)
            if isinstance(item, (tuple, list)) and not isinstance(item, torch.Size):
                return type(item)(put(inner) for inner in item)
            return item

        return put(result)


def writes(name: str) -> bool:
    """Whether a call of that name writes into its argument.

    Example:
        >>> [writes(name) for name in ("add_", "__iadd__", "__setitem__", "__add__", "relu")]
        [True, True, True, False, False]
    """
    return name in IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def grown_by(shapes: list[torch.Size]) -> float:
    """How much larger the broadcast of two shapes is than the larger of them; 0 where it is not, or they do not fit."""
    try:
        whole = torch.broadcast_shapes(*shapes[:2]).numel()
    except RuntimeError:
        return 0.0
    largest = max(s.numel() for s in shapes[:2])
    return whole / largest if whole > largest else 0.0
