"""The audit of a Keras 3 model, on the PyTorch or the JAX backend: its encoder, decoder and sampling layer apart.

The loss is had by putting stand-ins in place of the encoder and the decoder, which return given tensors, and calling
what the model itself calls: its `train_step` up to `backward` (PyTorch), `compute_loss`, or `call` with `add_loss`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ...core.errors import BadInput, one_line
from ...core.finding import Finding
from ..care import same_randomness
from ..laws import HEADS, Head
from ..loss import audit_loss
from ..report import AuditReport
from ..roles import guess
from .hooks import Tape
from .sampler import audit_sampler, by_name, measured_reading
from .structure import STILL, ignores_x, ignores_z, joined

ROWS, SAMPLER_ROWS = 7, 64


def is_keras(model: Any) -> bool:
    """Whether it is a Keras model or a class of them; Keras is not imported to find out."""
    keras = sys.modules.get("keras")
    kind = model if isinstance(model, type) else type(model)
    return keras is not None and issubclass(kind, keras.Model)


class Reached(BaseException):
    """A training step has come to its loss."""


def audit_keras(
    model: Any,
    *,
    data: Any = None,
    inputs: str | None = None,
    constants: Mapping[str, Any] | None = None,
    declared_beta: float | None = None,
    loss: Callable[..., Any] | None = None,
    seed: int = 0,
    **loss_options: Any,
) -> AuditReport:
    """Audits a Keras model; arguments as in `audit_model`.

    Raises:
        BadInput: where no encoder and decoder are found, or they refuse the data.
    """
    if isinstance(model, type):
        raise BadInput("model", f"the class {model.__name__}", "must be an instance", "call the class")
    with warnings.catch_warnings(), same_randomness():
        warnings.simplefilter("ignore")
        bench = Bench.open(model, data, seed)
        with bench.unchanged():
            about = bench.loss_report(loss, inputs, constants, {"declared_beta": declared_beta, **loss_options})
            found = [*bench.ignored(), *bench.sampler(about)]
    return joined(about, found)


@dataclass
class Bench:
    """A Keras model taken apart.

    Attributes:
        names: The attributes that hold the encoder and the decoder.
        order: What the encoder returns, in order: roles, or "both" for mu and the head in one tensor.
        keys: The keys of its result where it returns a mapping.
    """

    model: Any
    names: tuple[str, str]
    x: np.ndarray
    order: tuple[str, ...]
    keys: tuple[str, ...]
    latent: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def open(cls, model: Any, data: Any, seed: int) -> Bench:
        """Finds the encoder and the decoder, and reads what they return."""
        names = (_part(model, "enc"), _part(model, "dec"))
        encoder, decoder = (getattr(model, name) for name in names)
        x = _batch(encoder, data, seed)
        first, second = (_called(encoder, x) for _ in range(2))
        keys = tuple(first) if isinstance(first, Mapping) else ()
        one, two = ([_numbers(item) for item in _items(result)] for result in (first, second))
        order = _order([not np.array_equal(a, b) for a, b in zip(one, two, strict=True)], keys)
        code = one[order.index("mu" if "mu" in order else "both")]
        latent = code.shape[1:] if "mu" in order else (*code.shape[1:-1], code.shape[-1] // 2)
        output = _items(_called(decoder, np.zeros((ROWS, *latent), "float32")))[0]
        return cls(model, names, x, order, keys, latent, _numbers(output).shape)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Puts every variable back: weights, metrics, and the states of random generators."""
        variables = {id(v): v for layer in self.model._flatten_layers() for v in layer.variables}.values()
        held = [(v, np.array(_numbers(v.value))) for v in (*variables, *self.model.metrics_variables)]
        try:
            yield
        finally:
            for variable, value in held:
                variable.assign(value)

    # ------------------------------------------------------------------------------------------------------- the parts
    def encode(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """What the encoder returns, by role."""
        return self._by_role([_numbers(item) for item in _items(_called(getattr(self.model, self.names[0]), x))])

    def _by_role(self, items: list[np.ndarray]) -> dict[str, np.ndarray]:
        found = dict(zip(self.order, items, strict=True))
        if "both" in found:
            found["mu"], found["head"] = np.split(found.pop("both"), 2, axis=-1)
        return found

    def ignored(self) -> Iterator[Finding]:
        """Whether the decoder ignores z, or the encoder x."""
        tools = np.random.default_rng(1)
        decoder = getattr(self.model, self.names[1])
        z = [tools.normal(size=(ROWS, *self.latent)).astype("float32") * 3 for _ in range(2)]
        moved = _move(*(_numbers(_items(_called(decoder, item))[0]) for item in z))
        if moved < STILL:
            yield ignores_z(moved, f"the decoder on two draws of z, {ROWS} rows, at the given weights")
        one, other = self.encode(self.x), self.encode(1 - self.x[::-1])
        blind = max(_move(one[role], other[role]) for role in ("mu", "head"))
        if blind < STILL:
            yield ignores_x(blind, f"the encoder on two batches of {ROWS} rows, at the given weights")

    def sampler(self, about: AuditReport) -> list[Finding]:
        """Findings on the sampling layer, called on given means and heads."""
        layer = self._sampling()
        if layer is None:
            return []
        width = prod(self.latent)

        def sample(mu: np.ndarray, head: np.ndarray, seed: int) -> np.ndarray:
            given = [part.astype("float32").reshape(-1, *self.latent) for part in (mu, head)]
            return _numbers(layer(given)).astype(float).reshape(mu.shape)

        known = by_name(about.second_head or "")
        said = "the divergence as measured" if known else "the draws themselves"
        head: Head = known or measured_reading(sample, SAMPLER_ROWS, width) or HEADS[0]
        return audit_sampler(sample, SAMPLER_ROWS, width, head, said)

    def _sampling(self) -> Callable[[list[np.ndarray]], Any] | None:
        """The layer that draws z from a pair of mu and head, taken as one argument or as two."""
        layers = [y for y in self.model._flatten_layers() if y is not self.model and not hasattr(y, "layers")]
        named = [y for y in layers if not type(y).__module__.startswith("keras.")]
        probe = [np.zeros((2, *self.latent), "float32") for _ in range(2)]
        for layer in named:
            for call in (lambda pair, y=layer: y(pair), lambda pair, y=layer: y(*pair)):
                try:
                    if _numbers(call(probe)).shape == probe[0].shape:
                        return call
                except Exception:  # another way of calling a stranger's layer
                    continue
        return None

    # -------------------------------------------------------------------------------------------------------- the loss
    def loss_report(self, loss: Any, inputs: str | None, constants: Any, options: dict[str, Any]) -> AuditReport:
        """The audit of the loss, where it can be had; a note says where it cannot."""
        name, backend = type(self.model).__name__, _backend()
        sizes = {"batch": 6, "pixels": tuple(self.x.shape[1:]), "latents": self.latent}
        common = {"sizes": sizes, "fixed": ("pixels", "latents"), "framework": backend, "name": name, **options}
        said = []
        for what, call in self._losses(loss).items():
            try:
                if loss is not None:
                    return audit_loss(loss, inputs=inputs, constants=constants, **common)
                roles = ("x", "output", "mu", "head", *(("z",) * self._takes_z(call)))
                report = audit_loss(self._fn(call, roles), inputs=" ".join(roles), **common)
                return replace(report, notes=(f"the loss is that of {what}", *report.notes))
            except Exception as error:  # a stranger's model that cannot be called so; the next way may do
                said.append(f"{what}: {type(error).__name__}: {one_line(str(error))[:160]}")
        own = type(self.model).train_step is not _base().train_step and backend != "torch"
        why = ("a train_step of its own can be followed on the PyTorch backend only",) * own
        return AuditReport(name, "", (), notes=("its loss could not be intercepted and is not audited", *why, *said))

    def _losses(self, loss: Any) -> dict[str, Callable[[Any], Any]]:
        """Ways to the loss, the model's own code first."""
        found: dict[str, Callable[[Any], Any]] = {}
        if loss is not None:
            return {"the given loss": loss}
        if type(self.model).train_step is not _base().train_step and _backend() == "torch":
            found["train_step"] = self._train_step
        found["call and compute_loss"] = self._compute_loss
        return found

    def _train_step(self, x: Any) -> Any:
        class UpToLoss(Tape):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if getattr(func, "__name__", "") == "backward":
                    self.losses.append(args[0])
                    raise Reached
                return func(*args, **(kwargs or {}))

        with UpToLoss() as tape, suppress(Reached):
            self.model.train_step(x)
        return tape.losses[-1]

    def _compute_loss(self, x: Any) -> Any:
        try:
            y_pred = self.model(x, training=True)
        except NotImplementedError:  # a model that has a loss and no call
            y_pred = None
        return self.model.compute_loss(x=x, y=x, y_pred=y_pred)

    def _fn(self, call: Callable[[Any], Any], roles: tuple[str, ...]) -> Callable[..., Any]:
        import keras

        def keras_loss(*tensors: Any) -> Any:
            if (dtype := keras.backend.standardize_dtype(tensors[0].dtype)) != keras.config.floatx():
                raise BadInput("model", dtype, f"Keras casts to {keras.config.floatx()}")
            given = dict(zip(roles, tensors, strict=True))
            with self._stand_ins(given):
                return call(given["x"])

        return keras_loss

    @contextmanager
    def _stand_ins(self, given: Mapping[str, Any]) -> Iterator[None]:
        """The encoder and the decoder replaced by what returns given tensors; every state put back afterwards."""
        import keras

        heads = {**given, "z": given.get("z", given["mu"])}
        if "both" in self.order:
            heads["both"] = keras.ops.concatenate([given["mu"], given["head"]], axis=-1)
        items = [heads[role] for role in self.order]
        code = dict(zip(self.keys, items, strict=True)) if self.keys else items[0] if len(items) == 1 else tuple(items)
        output = keras.ops.reshape(given["output"], (-1, *self.shape[1:]))
        space, states = vars(self.model), [(v, v._value) for v in self.model.metrics_variables]
        before = {name: space.get(name) for name in self.names}
        space.update({self.names[0]: lambda *args, **kwargs: code, self.names[1]: lambda *args, **kwargs: output})
        try:
            yield
        finally:
            for name, value in before.items():
                space.pop(name)
                if value is not None:
                    space[name] = value
            for variable, value in states:  # on JAX a metric would keep a tracer
                variable._value = value

    def _takes_z(self, call: Callable[[Any], Any]) -> bool:
        """Whether the loss moves with z while the output is held."""
        import keras

        tools = np.random.default_rng(4)
        roles = ("x", "output", "mu", "head", "z")
        shapes = [self.x.shape, self.shape, *((ROWS, *self.latent),) * 3]
        given = [tools.uniform(0.2, 0.8, shape).astype("float32") for shape in shapes]
        values = []
        for shift in (0.0, 0.5):
            tensors = [keras.ops.convert_to_tensor(item) for item in [*given[:4], given[4] + shift]]
            values.append(float(np.mean(_numbers(self._fn(call, roles)(*tensors)))))
        return values[0] != values[1]


# ----------------------------------------------------------------------------------------------------------- small help
def _backend() -> str:
    import keras

    return str(keras.config.backend())


def _base() -> Any:
    import keras

    return keras.Model


def _numbers(value: Any) -> np.ndarray:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(value))


def _items(result: Any) -> list[Any]:
    result = tuple(result.values()) if isinstance(result, Mapping) else result
    return list(result) if isinstance(result, (tuple, list)) else [result]


def _called(layer: Any, x: np.ndarray) -> Any:
    """A layer on a batch.

    Raises:
        BadInput: where it raises.
    """
    try:
        return layer(x.astype("float32"))
    except Exception as error:
        said = one_line(f"{type(error).__name__}: {error}")[:200]
        raise BadInput(f"model.{layer.name}", f"a batch of shape {x.shape}", f"raised {said}", "pass data=") from error


def _part(model: Any, start: str) -> str:
    """The attribute that holds the encoder or the decoder."""
    import keras

    names = [n for n in dir(model) if start in n.lower() and not n.startswith("__")]
    found = [n for n in names if isinstance(getattr(model, n, None), keras.layers.Layer)]
    if not found:
        raise BadInput("model", type(model).__name__, f"has no layer named {start}...", "audit its loss alone")
    return min(found, key=len)


def _batch(encoder: Any, data: Any, seed: int) -> np.ndarray:
    if data is not None:
        x = np.asarray(data[0] if isinstance(data, (tuple, list)) else data, "float32")
        return np.resize(x, (ROWS, *x.shape[1:]))
    try:
        shape = tuple(encoder.input_shape)[1:]
    except (AttributeError, ValueError):
        kernels = [w.shape for w in encoder.weights]
        shape = (kernels[0][0],) if kernels and len(kernels[0]) == 2 else ()
    if not shape or None in shape:
        raise BadInput("model", None, "the encoder does not say the shape of its data", "pass data=, a batch")
    return np.random.default_rng(seed).uniform(0.05, 0.95, (ROWS, *shape)).astype("float32")


def _order(random: list[bool], keys: tuple[str, ...]) -> tuple[str, ...]:
    """Roles of what the encoder returns: the random one is z, the others mu and the head in order, or by their keys."""
    if keys:
        return tuple(guess(key) or key for key in keys)
    if len(random) == 1:
        return ("both",)
    plain = iter(("mu", "head"))
    order = tuple("z" if drawn else next(plain, "more") for drawn in random)
    if "head" not in order:
        rule = "must return the mean and the second head"
        raise BadInput("model", f"an encoder with {len(random)} outputs", rule, "return z_mean, z_log_var, z")
    return order


def _move(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
