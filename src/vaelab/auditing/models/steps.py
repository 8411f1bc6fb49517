"""Which of a model's own methods gives its loss, and how to call it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import BadInput, one_line
from ..care import Failed
from ..probe import TOTALS, parts_of
from ..roles import guess
from .by_roles import by_roles
from .hooks import Tape
from .sandbox import DECODE, ENCODE, SAMPLE, rows_like, seeded

STEPS = ("training_step", "training_forward")
LOSSES = (
    *("loss_function", "compute_loss", "get_loss", "calc_loss", "calculate_loss", "loss_fn", "vae_loss", "elbo_loss"),
    *("loss", "negative_elbo", "neg_elbo", "nelbo", "compute_elbo", "elbo"),
)
MODEL_NAMES = ("model", "net", "network", "vae", "module", "autoencoder")
STUBS = ["log", "log_dict", "print", "toggle_optimizer", "untoggle_optimizer", "clip_gradients"]
Suppliers = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Step:
    """A way to run the model.

    Attributes:
        name: For the report, such as `training_step`.
        run: x to what the model's own code returns.
        has_loss: False where only the forward pass could be run.
    """

    name: str
    run: Callable[[Tensor], Any]
    has_loss: bool = True


class Refused(BadInput):
    """No way of calling worked; the message is what the model said at the plainest one."""


# ---------------------------------------------------------------------------------------------------------- the losses
def losses_in(raw: Any, rows: int) -> dict[str, Tensor]:
    """The parts of a result that may be losses: what is named a loss, else single numbers, else one per row.

    Example:
        >>> sorted(losses_in({"loss": torch.tensor(1.0), "recon": torch.zeros(3, 2)}, 3))
        ['loss']
    """
    named: dict[str, Any] = parts_of(raw)
    floats: dict[str, Tensor] = {
        k: v for k, v in named.items() if isinstance(v, Tensor) and v.is_floating_point() and v.ndim <= 1
    }
    known = {k: v for k, v in floats.items() if k.lower() in TOTALS}
    single = {k: v for k, v in floats.items() if v.numel() == 1}
    lone: dict[str, Tensor] = {k: v for k, v in floats.items() if not k and v.shape == (rows,)}
    return known or single or lone


def only_losses(raw: Any, rows: int) -> Any:
    """What the audit of the loss is given: the one loss, or its parts by name where there are several."""
    found = losses_in(raw, rows)
    return next(iter(found.values())) if len(found) == 1 else found


# ---------------------------------------------------------------------------------------------------- running a model
def batch_forms(x: Tensor, rest: tuple[Any, ...]) -> Iterator[Any]:
    """Ways to hand over a batch: alone, with labels, in a tuple, by name; with the user's further entries if any."""
    if rest:
        yield (x, *(rows_like(item, len(x)) for item in rest))
    yield from (  # labels beside the data are often for another use
        x,
        (x, torch.zeros(len(x), dtype=torch.long)),
        (x,),
        *({name: x} for name in ["data", "x", "image", "input", "inputs"]),
    )


def first_form(calls: Mapping[str, Callable[[Tensor], Any]], x: Tensor) -> tuple[str, Callable[[Tensor], Any]]:
    """The first call that returns.

    Raises:
        Refused: where none does.
    """
    said = ""
    for name, call in calls.items():
        try:
            seeded(0)
            with Tape():  # which leaves `backward` out
                call(x)
        except Failed:
            raise  # the time is over
        except Exception as error:  # a stranger's code
            said = said or f"{type(error).__name__}: {one_line(str(error))[:200]}"
        else:
            return name, call
    raise Refused("model", said, "raised on every kind of batch tried", "pass data=, a batch as your loader gives it")


def _form_calls(
    call: Callable[..., Any], rest: tuple[Any, ...], name: str, *tail: Any
) -> dict[str, Callable[[Tensor], Any]]:
    """One call for each way to hand over a batch."""

    def runner(index: int) -> Callable[[Tensor], Any]:
        return lambda x: call(list(batch_forms(x, rest))[index], *tail)

    count = len(list(batch_forms(torch.zeros(1, 1), rest)))
    return {f"{name}/{i}": runner(i) for i in range(count)}


def forward_of(model: nn.Module, x: Tensor, rest: tuple[Any, ...]) -> Callable[[Tensor], Any]:
    """The forward pass, or encode, reparameterize and decode in turn where a model has no forward.

    Raises:
        Refused: where the batch is not accepted.
    """
    missing = type(model).forward is nn.Module.forward or type(model).forward.__qualname__.startswith("LightningModule")
    if missing or type(model).forward.__qualname__.startswith("LightningModule"):
        names = [
            next((n for n in group if callable(getattr(model, n, None))), None) for group in (ENCODE, SAMPLE, DECODE)
        ]
        if None in names and (steps := _training(model, rest)):
            return first_form(steps, x)[1]
        if None in names:
            raise Refused("model", type(model).__name__, "has neither forward nor encode, reparameterize and decode")
        encode, sample, decode = (getattr(model, str(name)) for name in names)

        def run(x: Tensor) -> Any:
            heads = encode(x)
            heads = heads if isinstance(heads, tuple) else (heads,)
            return (decode(sample(*heads[:2])), *heads)

        return first_form({"parts": run}, x)[1]
    unpacked: dict[str, Callable[[Tensor], Any]] = (
        {"apart": lambda x: model(*next(batch_forms(x, rest)))} if rest else {}
    )
    return first_form(unpacked | _form_calls(model, rest, "forward"), x)[1]


# ------------------------------------------------------------------------------------------------------ finding a loss
def stub_trainer(model: nn.Module) -> None:
    """Gives a Lightning module what it asks its trainer for: logging goes nowhere, backward is left out."""
    vars(model).update(dict.fromkeys(STUBS, _nothing))
    vars(model).update(manual_backward=_backward, optimizers=lambda *args, **kwargs: _IdleOptimiser())


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands in for logging."""


def _backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
    loss.backward()


class _IdleOptimiser:
    """Stands in for the trainer's optimiser; the tape leaves `backward` out, so there would be nothing to step by."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _nothing


def find_step(
    model: nn.Module,
    x: Tensor,
    forward: Callable[[Tensor], Any],
    rest: tuple[Any, ...],
    loss: Callable[..., Any] | None,
    inputs: str | None,
    constants: Mapping[str, Any],
    suppliers: Callable[[], Mapping[str, str]],
) -> Step:
    """The model's own loss: the given one, else its training step, its loss method, or what forward returns.

    Args:
        suppliers: Finds the name under which each role is seen in a forward pass, such as `forward.1` for mu.
    """
    if loss is not None:
        named = {n: model for n in MODEL_NAMES if n in _names(loss)}
        called = getattr(loss, "__name__", "loss")
        others = [n for n in _names(loss) if n not in {**constants, **named}]
        if named and inputs is None and len(others) == 1:
            return Step(called, lambda x: loss(**{others[0]: x}, **named, **_wanted(loss, constants)))
        return Step(called, by_roles(model, loss, forward, inputs, {**constants, **named}, suppliers))
    if calls := _training(model, rest):
        name = next(iter(calls)).split("/")[0]
        try:
            return Step(name, first_form(calls, x)[1])
        except Refused as refused:
            raise BadInput(f"model.{name}", str(refused), "", "or pass loss=") from refused
    for name in LOSSES:
        if callable(method := getattr(model, name, None)) and not isinstance(method, type):
            known = _missing_keywords(method, forward(x), constants) if _takes_all(method) else {}
            extra = "".join(f", {key} = 1 for want of constants" for key in known.keys() - constants.keys())
            return Step(name + extra, _method(model, name, x, forward, inputs, {**constants, **known}, suppliers))
    with Tape():
        raw = forward(x)
    found = losses_in(raw, len(x))
    return Step(
        "forward",
        forward,
        any(v.requires_grad for v in found.values()) and not (torch.is_tensor(raw) and raw.shape == x.shape),
    )


def _training(model: nn.Module, rest: tuple[Any, ...]) -> dict[str, Callable[[Tensor], Any]]:
    """Calls of the training step, where there is one."""
    name = next((n for n in STEPS if callable(getattr(model, n, None))), None)
    if name is None:
        return {}
    stub_trainer(model)
    step = getattr(model, name)
    return _form_calls(step, rest, name, 0) | _form_calls(step, rest, name + " ")


def _names(call: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(call).parameters)
    except (TypeError, ValueError):
        return []


def _method(
    model: nn.Module,
    name: str,
    x: Tensor,
    forward: Callable[[Tensor], Any],
    inputs: str | None,
    constants: Mapping[str, Any],
    suppliers: Callable[[], Mapping[str, str]],
) -> Callable[[Tensor], Any]:
    """A loss method on what it asks for: the batch, what forward returned, or tensors by its parameters' names."""
    method = getattr(model, name)
    parameters = [
        p for p in inspect.signature(method).parameters.values() if p.default is p.empty or p.kind is p.VAR_POSITIONAL
    ]
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    calls: dict[str, Callable[[Tensor], Any]] = {}
    if inputs is None and len(plain) - sum(p.name in constants for p in plain) == 1:
        calls["batch"] = lambda x: method(x, **_wanted(method, constants))
        calls["result"] = lambda x: method(forward(x), **_wanted(method, constants))
    if inputs is None and not plain and any(p.kind is p.VAR_POSITIONAL for p in parameters):
        calls["results"] = lambda x: _spread(method, forward(x), _wanted(method, constants))
    if calls:
        try:
            return _checked(first_form(calls, x)[1], x)
        except Refused as refused:
            if len(plain) == 1 and guess(plain[0].name) in (None, "x"):
                raise BadInput(f"model.{name}", str(refused)) from refused
    return by_roles(model, method, forward, inputs, constants, suppliers)


def _checked(call: Callable[[Tensor], Any], x: Tensor) -> Callable[[Tensor], Any]:
    with Tape():
        raw = call(x)
    if not losses_in(raw, len(x)):
        raise Refused("model", None, "returned no loss")
    return call


def _wanted(method: Callable[..., Any], constants: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(method).parameters
    return {
        k: v
        for k, v in constants.items()
        if k in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    }


def _takes_all(method: Callable[..., Any]) -> bool:
    """Whether a method is `loss_function(*args, **kwargs)`."""
    kinds = {p.kind for p in inspect.signature(method).parameters.values()}
    return kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _missing_keywords(method: Callable[..., Any], results: Any, constants: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords that such a method looks up and is not given, each 1."""
    known: dict[str, Any] = {}
    for _ in range(8):
        try:
            _spread(method, results, {**constants, **known})
        except KeyError as missing:
            known[str(missing.args[0])] = 1.0
        except Exception:  # told by the call that counts
            break
        else:
            break
    return known


def _spread(method: Callable[..., Any], results: Any, constants: Mapping[str, Any]) -> Any:
    return method(*(results if isinstance(results, (tuple, list)) else (results,)), **constants)
