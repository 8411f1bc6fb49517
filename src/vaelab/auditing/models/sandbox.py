"""A stranger's model in a sandbox: a copy to work on, a batch that it takes, and names for the tensors it makes."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial, wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import BadInput, one_line
from ..care import same_randomness
from ..probe import parts_of
from ..roles import size_of

ENCODE, DECODE = ("encode", "encoder"), ("decode", "decoder", "generate")
SAMPLE = ("reparameterize", "reparametrize", "reparameterise", "reparam", "sample_z", "sampling", "sample", "rsample")
PARTS = (*ENCODE, *SAMPLE, *DECODE)
WIDTHS = {"pixels": 16, "latents": 4, "batch": 6}
MORE_WIDTHS = {
    16: "input_dim input_size in_features n_features data_dim x_dim in_dim d_in original_dim n_input n_genes",
    1: "in_channels channels n_channels num_channels input_channels img_channels image_channels c_in",
    4: "latent_dim latent_size z_dim n_latent latent_dims nz zdim embedding_dim code_dim latent num_latents dim_z",
    8: "hidden_dim hidden_size hidden h_dim n_hidden hid_dim intermediate_dim",
    32: "image_size img_size resolution",
}
WIDTH_OF = {name: width for width, names in MORE_WIDTHS.items() for name in names.split()}
SIDES = (28, 32, 64, 16, 128, 96, 48, 40, 224)
FIRST_LAYERS = (nn.Embedding, nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU, nn.RNN)


# ------------------------------------------------------------------------------------------------------------ the copy
def constructed(model: Any) -> nn.Module:
    """An instance: the model itself, or one of its class with required sizes guessed from their names.

    Raises:
        BadInput: for what is no torch module, and for a class that cannot be constructed so.
    """
    if isinstance(model, nn.Module):
        return model
    if not (isinstance(model, type) and issubclass(model, nn.Module)):
        rule = "must be a torch.nn.Module, a Lightning module or a Keras model"
        raise BadInput("model", type(model).__name__, rule, "pass an instance")
    required = [
        p.name
        for p in inspect.signature(model).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if unknown := [name for name in required if not _width(name)]:
        raise BadInput("model", f"the class {model.__name__}", f"needs {', '.join(unknown)}", "pass an instance")
    try:
        with same_randomness():
            seeded(0)  # the same weights in every run
            return model(**{name: _width(name) for name in required})
    except Exception as error:  # whatever a stranger's constructor raises
        said = one_line(f"{type(error).__name__}: {error}")[:200]
        raise BadInput(
            "model", f"the class {model.__name__}", f"cannot be made ({said})", "pass an instance"
        ) from error


def _width(name: str) -> int | None:
    return WIDTH_OF.get(name) or WIDTHS.get(size_of(name) or "")


def original(model: nn.Module) -> nn.Module:
    """A compiled module's original; another module as it is."""
    return getattr(model, "_orig_mod", model)


class Snapshot:
    """All that a step may change in a module: attributes, modes, values of parameters and buffers, gradients."""

    def __init__(self, model: nn.Module) -> None:
        modules = [*original(model).modules(), *loose_modules(model).values()]
        self._attributes = [(m, _shelves(vars(m))) for m in modules]
        tensors = {id(t): t for m in modules for t in _own_tensors(m)}.values()
        self._tensors = [(t, t.detach().clone()) for t in tensors]
        leaves = [t for t in tensors if t.is_leaf]
        self._gradients = [(t, t.grad, None if t.grad is None else t.grad.clone()) for t in leaves]

    def restore(self) -> None:
        """Puts everything back; values only where they moved."""
        self.restore_attributes()
        with torch.no_grad():
            for tensor, value in self._tensors:
                if not torch.equal(tensor, value):
                    tensor.data.copy_(value)  # which leaves the version alone, that a graph of the user's may rely on
            for leaf, gradient, content in self._gradients:
                leaf.grad = gradient
                if gradient is not None and content is not None:
                    gradient.copy_(content)

    def restore_attributes(self) -> None:
        """Puts attributes and modes back, such as a step's counters."""
        for module, attributes in self._attributes:
            vars(module).clear()
            vars(module).update(_shelves(attributes))


def loose_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that a plain list, tuple or mapping among the attributes holds, which `parameters()` does not know."""
    registered = {id(m) for m in original(model).modules()}
    found = {
        f"{path}.{inner}".strip("."): part
        for path, module in original(model).named_modules()
        for key, value in vars(module).items()
        if isinstance(value, (list, tuple, dict)) and key not in ("_modules", "_parameters", "_buffers")
        for inner, part in _modules_within(value, key)
    }
    return {name: m for name, m in found.items() if id(m) not in registered}


def _modules_within(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield from ((f"{name}.{inner}" if inner else name, part) for inner, part in value.named_modules())
    elif isinstance(value, (list, tuple, dict)) and depth < 3:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _modules_within(item, f"{name}.{key}", depth + 1)


def loose_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of such modules, by name."""
    return {
        f"{name}.{key}": weight
        for name, module in loose_modules(model).items()
        for key, weight in module.named_parameters(recurse=False)
    }


def doubled(model: nn.Module) -> nn.Module:
    """A copy in double precision."""
    made = copied(model).double()
    for module in loose_modules(made).values():
        module.double()
    return made


class Sealed:
    """A function whose insides the audit of a loss does not put back after every call: recordings are made once.

    Args:
        call: The function, which puts back itself what it changes.
        func: What it calls of the user's, which is looked after as in any loss.
    """

    __slots__ = ("call", "func")

    def __init__(self, call: Callable[..., Any], func: Callable[..., Any] | None) -> None:
        self.call, self.func = call, func

    def __call__(self, *tensors: Tensor) -> Any:
        return self.call(*tensors)


def _shelves(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes, with their dictionaries, lists and sets copied one level deep."""
    return {key: copy.copy(value) if type(value) in (dict, list, set) else value for key, value in attributes.items()}


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    for value in (*vars(module).values(), *module._parameters.values(), *module._buffers.values()):
        if isinstance(value, Tensor):
            yield value


def copied(model: nn.Module) -> nn.Module:
    """A deep copy.

    A tensor kept from an earlier step (`self.kl`) is no leaf, which torch refuses to copy; it is copied alone.
    """
    modules = original(model).modules()
    history = {id(t): t.detach().clone() for m in modules for t in _own_tensors(m) if not t.is_leaf}
    return copy.deepcopy(original(model), history)


@contextmanager
def borrowed(model: nn.Module) -> Iterator[nn.Module]:
    """A deep copy of a model; where it cannot be copied the model itself. Either way the model ends as it was."""
    snapshot = Snapshot(model)
    try:
        work = copied(model)
    except Exception:  # a stranger's attribute that cannot be copied: a lock, a file
        work = original(model)
    try:
        yield work
    finally:
        snapshot.restore()


def seeded(seed: int) -> None:
    """Seeds every global generator that a model on the CPU may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # a tenth of the time of torch.manual_seed, which visits every device


# ----------------------------------------------------------------------------------------------------------- the batch
def shapes_to_try(model: nn.Module) -> list[tuple[int, ...]]:
    """Row shapes a model may take, read off its first layer with weights."""
    first = next((m for m in original(model).modules() if isinstance(m, FIRST_LAYERS)), None)
    if isinstance(first, nn.Linear):
        wide = first.in_features
        squares = [(c, s, s) for c in (1, 3) if c * (s := round((wide / c) ** 0.5)) ** 2 == wide and s > 3]
        return [(wide,), *squares, (8, wide)]
    if isinstance(first, nn.Conv2d):
        return [(first.in_channels, side, side) for side in SIDES]
    if isinstance(first, nn.Conv1d):
        return [(first.in_channels, side) for side in SIDES]
    if isinstance(first, nn.RNNBase):
        return [(8, first.input_size)]
    return [(8,), (16,), (32,)] if isinstance(first, nn.Embedding) else []


# Within (0, 1); zeros and ones, for a likelihood that takes no others; counts.
KINDS: tuple[Callable[[Tensor], Tensor], ...] = (lambda u: u, lambda u: u.round(), lambda u: (5 * u).floor())


def batches(model: nn.Module, data: Tensor | None, rows: int, seed: int) -> Iterator[Tensor]:
    """Batches to try: the given data as they are and flattened, or made-up ones of every shape and kind."""
    if data is not None:
        given = rows_like(data, rows)
        shapes = (given, given.flatten(1)) if given.ndim > 2 else (given,)
        whole = [x for x in shapes if not x.is_floating_point()]
        yield from (*shapes, *(x.long() for x in whole), *(x.float() for x in whole))
        return
    first = next((m for m in original(model).modules() if isinstance(m, FIRST_LAYERS)), None)
    tools = torch.Generator().manual_seed(seed)
    for shape in shapes_to_try(model):
        if isinstance(first, nn.Embedding):
            yield torch.randint(1, first.num_embeddings, (rows, *shape), generator=tools)
            continue
        uniform = torch.rand((rows, *shape), generator=tools) * 0.9 + 0.05
        yield from (kind(uniform) for kind in KINDS)


def rows_like(item: Any, rows: int) -> Any:
    """The first rows of a tensor, repeated as often as needed; anything else as it is."""
    if isinstance(item, Tensor) and item.ndim:
        return item.repeat(-(-rows // len(item)), *(1,) * (item.ndim - 1))[:rows]
    return item


# ---------------------------------------------------------------------------------------------------- names of tensors
def labelled(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Tensors in a result with a path each: of tuples, mappings, dataclasses, distributions and plain objects.

    Example:
        >>> [name for name, _ in labelled({"recon": torch.zeros(1), "q": (torch.ones(1), 3)}, "forward")]
        ['forward.recon', 'forward.q.0']
    """
    if isinstance(value, Tensor):
        yield name, value
        return
    if isinstance(value, (Mapping, tuple, list)) or (is_dataclass(value) and not isinstance(value, type)):
        parts = parts_of(value)
    elif hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)):
        parts = {key.lstrip("_"): part for key, part in vars(value).items()}
    else:
        parts = {}
    for key, part in parts.items() if depth < 3 else ():
        yield from labelled(part, f"{name}.{key}", depth + 1)


class Watch:
    """Names for the tensors that a model's methods and submodules take and return, noted while it is entered."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.seen: list[tuple[str, Tensor]] = []
        self._handles: list[Any] = []
        self._before: dict[str, Any] = {}

    def __enter__(self) -> Watch:
        for name, module in self.model.named_modules():
            hook = partial(self._hook, name or "forward")
            self._handles.append(module.register_forward_hook(hook, with_kwargs=True))
        for name in (*PARTS, "forward"):
            method = getattr(self.model, name, None)
            if inspect.isroutine(method):
                self._before[name] = vars(self.model).get(name)
                vars(self.model)[name] = self._wrapped(name, method)
        return self

    def _hook(self, name: str, _: Any, args: Any, kwargs: Any, result: Any) -> None:
        self.note(name, args, kwargs, result)

    def _wrapped(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self.note(name, args, kwargs, result)
            return result

        return call

    def note(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """Remembers the tensors of one call: those taken by `name:in`, those returned by `name`."""
        self.seen += labelled([*args, *kwargs.values()], f"{name}:in")
        self.seen += labelled(result, name)

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        for name, before in self._before.items():
            vars(self.model).pop(name)
            if before is not None:
                vars(self.model)[name] = before
