"""Arrays in and numbers out in whatever framework a stranger's callable is written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np

from ..core.errors import BadInput, MissingExtra

Arrays = Mapping[str, np.ndarray]


class NumPy:
    """Plain arrays; no gradients."""

    name = "numpy"

    def make(self, array: np.ndarray, dtype: str) -> Any:
        """A tensor of the framework, in "float64" or "float32"; whole numbers stay whole."""
        return array.astype(np.int64 if array.dtype.kind in "iu" else dtype)

    def run(self, call: Callable[[dict[str, Any]], Any], tensors: dict[str, Any], key: str) -> Any:
        """The call's result; calls of one key differ in their tensors alone."""
        return call(tensors)

    def gradients(
        self, call: Callable[[dict[str, Any]], Any], arrays: Arrays, wanted: Iterable[str], dtype: str
    ) -> dict[str, np.ndarray] | None:
        """Gradients of a scalar by role; None where the framework has none, zeros where a role has none."""
        return None

    def seed(self, seed: int) -> None:
        """Seeds the framework's global random numbers."""

    def noise(self) -> list[tuple[Any, str, Callable[[float], Callable[..., Any]]]]:
        """Where standard normal noise comes from: an owner, a name, and from a node the function that stands in."""
        make = np.ones
        return [
            (np.random, "randn", lambda node: lambda *shape: node * make(shape)),
            (np.random, "standard_normal", lambda node: lambda size=None: node * make(size or ())),
            (
                np.random,
                "normal",
                lambda node: lambda loc=0.0, scale=1.0, size=None: loc + scale * node * make(size or np.shape(loc)),
            ),
        ]

    def precision(self, dtype: str) -> AbstractContextManager[Any]:
        """A block in which tensors of that precision are computed with as they are."""
        return nullcontext()

    def mean(self, value: Any) -> Any:
        """The mean over all entries, still in the framework."""
        return value.mean() if getattr(value, "ndim", 0) else value

    def number(self, value: Any) -> np.ndarray | None:
        """A result as numbers; None where it is none."""
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.double() if value.dtype.is_floating_point else value
        try:
            array = np.asarray(value)
            return array.astype(float) if array.dtype.kind in "fiub" or array.dtype.kind == "V" else None
        except (TypeError, ValueError):
            return None


class Torch(NumPy):
    """PyTorch, and Keras on PyTorch."""

    name = "torch"

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def noise(self) -> list[tuple[Any, str, Callable[[float], Callable[..., Any]]]]:
        torch, normal = self.torch, self.torch.normal
        drop = ("generator", "out")

        def kept(options: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in options.items() if key not in drop}

        def stand_in(node: float) -> Callable[..., Any]:
            def drawn(mean: Any = 0.0, std: Any = 1.0, *size: Any, **options: Any) -> Any:
                return mean + std * node * torch.ones_like(normal(mean, std, *size, **options))

            return drawn

        return [
            *super().noise(),
            (torch, "randn", lambda node: lambda *size, **options: node * torch.ones(*size, **kept(options))),
            (torch, "randn_like", lambda node: lambda like, **options: node * torch.ones_like(like, **options)),
            (torch, "normal", stand_in),
            (
                torch.Tensor,
                "normal_",
                lambda node: lambda tensor, mean=0.0, std=1.0, **_: tensor.fill_(mean + std * node),
            ),
        ]

    def make(self, array: np.ndarray, dtype: str) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(super().make(array, dtype)))

    def gradients(
        self, call: Callable[[dict[str, Any]], Any], arrays: Arrays, wanted: Iterable[str], dtype: str
    ) -> dict[str, np.ndarray] | None:
        tensors = {role: self.make(array, dtype) for role, array in arrays.items()}
        leaves = {role: tensors[role].requires_grad_() for role in wanted}
        with self.torch.enable_grad():  # on copies, which a callable may change in place
            value = call({**tensors, **{role: leaf.clone() for role, leaf in leaves.items()}})
        value = value if isinstance(value, self.torch.Tensor) else self.torch.tensor(float(value))
        if not value.requires_grad:
            return {role: np.zeros(leaf.shape) for role, leaf in leaves.items()}
        found = self.torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return {
            role: np.zeros(leaf.shape) if slope is None else slope.detach().double().numpy()
            for (role, leaf), slope in zip(leaves.items(), found, strict=True)
        }

    def seed(self, seed: int) -> None:
        self.torch.default_generator.manual_seed(seed)  # a tenth of the time of torch.manual_seed


class Jax(NumPy):
    """JAX, and Keras on JAX."""

    name = "jax"

    def __init__(self) -> None:
        import jax

        self.jax = jax
        self.compiled: dict[str, Any] = {}
        self.leaves = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, TypeError)

    def make(self, array: np.ndarray, dtype: str) -> Any:
        with self.precision(dtype):
            return self.jax.numpy.asarray(super().make(array, dtype))

    def precision(self, dtype: str) -> AbstractContextManager[Any]:
        return self.jax.enable_x64(dtype == "float64")

    def run(self, call: Callable[[dict[str, Any]], Any], tensors: dict[str, Any], key: str) -> Any:
        """Compiled whole: operation by operation, a loss of ten operations compiles ten times for every shape."""
        try:
            return self.compiled.setdefault(key, self.jax.jit(call))(tensors)
        except self.leaves:
            self.compiled[key] = call
            return call(tensors)

    def gradients(
        self, call: Callable[[dict[str, Any]], Any], arrays: Arrays, wanted: Iterable[str], dtype: str
    ) -> dict[str, np.ndarray] | None:
        tensors = {role: self.make(array, dtype) for role, array in arrays.items()}
        leaves = {role: tensors[role] for role in wanted}
        try:
            with self.precision(dtype):
                found = self.jax.grad(lambda inner: call({**tensors, **inner}))(leaves)
        except self.leaves:
            return None  # the callable leaves JAX: only its values can be seen
        return {role: np.asarray(slope, float) for role, slope in found.items()}


class TensorFlow(NumPy):
    """TensorFlow, and Keras on TensorFlow."""

    name = "tensorflow"

    def __init__(self) -> None:
        import tensorflow

        self.tf = tensorflow

    def make(self, array: np.ndarray, dtype: str) -> Any:
        return self.tf.constant(super().make(array, dtype))

    def gradients(
        self, call: Callable[[dict[str, Any]], Any], arrays: Arrays, wanted: Iterable[str], dtype: str
    ) -> dict[str, np.ndarray] | None:
        tensors = {role: self.make(array, dtype) for role, array in arrays.items()}
        leaves = {role: tensors[role] for role in wanted}
        with self.tf.GradientTape() as tape:
            tape.watch(list(leaves.values()))
            value = call(tensors)
        found = tape.gradient(value, leaves, unconnected_gradients="zero")
        return {role: np.asarray(slope, float) for role, slope in found.items()}

    def seed(self, seed: int) -> None:
        self.tf.random.set_seed(seed)

    def mean(self, value: Any) -> Any:
        return self.tf.reduce_mean(value)


@contextmanager
def fixed_noise(framework: NumPy, node: float | None) -> Iterator[None]:
    """Within the block the usual sources of standard normal noise give one number; None leaves them alone."""
    sources = [] if node is None else framework.noise()
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in sources]
    try:
        for owner, name, stand_in in sources:
            setattr(owner, name, stand_in(node))  # type: ignore[arg-type]
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


FRAMEWORKS: dict[str, type[NumPy]] = {"torch": Torch, "numpy": NumPy, "jax": Jax, "tensorflow": TensorFlow}
ROOTS = {"torch": "torch", "jax": "jax", "flax": "jax", "tensorflow": "tensorflow", "numpy": "numpy"}


def candidates(fn: Callable[..., Any], wanted: str | None) -> list[NumPy]:
    """Frameworks to try on a callable: the wanted one, or those that its global names belong to, the likeliest first.

    Raises:
        BadInput: for an unknown name, and for one that is not installed.
    """
    if wanted is not None:
        if wanted not in {*FRAMEWORKS, "keras"}:
            raise BadInput("framework", wanted, f"there are {', '.join(FRAMEWORKS)}, keras")
        return [_open(_keras_backend() if wanted == "keras" else wanted)]
    roots = _roots(fn)
    if "keras" in roots:
        roots = {_keras_backend()} | roots
    named = [name for name in ("torch", "jax", "tensorflow", "numpy") if name in {ROOTS.get(r, r) for r in roots}]
    unknown = ["torch"] if not named or "torch" in sys.modules else []  # importing it costs a second
    return [_open(name) for name in dict.fromkeys([*named, *unknown, "numpy"])]


def _open(name: str) -> NumPy:
    try:
        return FRAMEWORKS[name]()
    except ImportError:
        raise MissingExtra(name, name, "auditing a callable of that framework") from None


def _keras_backend() -> str:
    import keras

    return str(keras.config.backend())


def channels_last(fn: Callable[..., Any]) -> bool:
    """Whether a callable belongs to frameworks whose images are [H, W, C]."""
    return bool(_roots(fn) & {"keras", "jax", "flax", "tensorflow"})


def _roots(fn: Callable[..., Any]) -> set[str]:
    """Top-level packages that a callable's global names belong to, through the functions it calls."""
    found = {module.split(".")[0] for item in reached(fn) for module in _modules(item)}
    return found & {*ROOTS, "keras"}


def reached(fn: Callable[..., Any]) -> list[Any]:
    """The objects that a callable names: globals and closures, through the functions it calls, five calls deep."""
    found: dict[int, Any] = {}
    queue: list[tuple[Any, int]] = [(fn, 0)]
    while queue:
        item, depth = queue.pop()
        if item is None or id(item) in found or depth > 5:
            continue
        found[id(item)] = item
        queue += [(value, depth + 1) for value in _named_by(item)]
    return list(found.values())


def _named_by(item: Any) -> list[Any]:
    plain = getattr(item, "__func__", item)
    code = getattr(plain, "__code__", None)
    if code is None:
        own = vars(item).values() if not isinstance(item, type | ModuleType) and hasattr(item, "__dict__") else ()
        inside = [value for value in own if callable(value)]  # partial objects, objects that hold a function
        return [
            getattr(item, "__wrapped__", None),
            getattr(item, "func", None),
            vars(type(item)).get("__call__"),
            *inside,
        ]
    space = getattr(plain, "__globals__", {})
    closed = [_content(cell) for cell in getattr(plain, "__closure__", None) or ()]
    return [*(space[name] for name in code.co_names if name in space), *closed, getattr(item, "__self__", None)]


def _modules(item: Any) -> list[str]:
    """Modules that an object comes from: its own, and those of its class and its bases."""
    if isinstance(item, ModuleType):
        return [item.__name__]
    kinds = (item if isinstance(item, type) else type(item)).__mro__
    return [str(getattr(source, "__module__", "")) for source in (item, *kinds)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
