"""Who made a loss or a gradient non-finite: the step is replayed, and the first call that went wrong is named.

Every torch call of the replay is recorded with its layer, and every node of the backward pass is watched. Going back
from the loss along what is not finite leads to the call that made it of finite numbers; values that are masked out
on the way, such as the -inf of an attention mask, are no culprits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import rows_of
from .replay import Call, Record, all_finite, first_bad_node, label_of, largest, named_layers

# Weights at start map inputs of size 1 to outputs of size 1, give or take a factor of 2, and trained ones on digits and
# tables stay below 3; a rate that is too high passes 10 within steps.
GROWN = 10.0
# With weights of the usual size a layer hands the size of its input on, and exp overflows at 88.
LARGE_INPUT = 100.0
# Heavy tails of real tables reach some hundred times the typical row; a slip of unit or a missing-value code, more.
OUTLYING = 1e3
MOST_ROWS = 16  # rows that are named

Forward = Callable[..., Tensor]


def find_culprit(forward: Forward, model: nn.Module, batch: Any = None) -> dict[str, Any]:
    """What made a step non-finite, as plain values for JSON; weights, gradients, buffers and random state stay.

    The cause is one of: `data` (entries of the batch are not finite, or far too large), `rate` (weights are not finite,
    or have grown far beyond their start), `variance` (an exponential left its range), `layer` (another call went wrong)
    and `gone` (loss and gradients of the replay are finite: a passing fault).

    Args:
        forward: The loss to minimise: of the batch where one is given, else of nothing. The caller sets the seeds.
        model: Its parameters and layers.
        batch: Rows [B, ...] of the step.

    Returns:
        `cause`; `layer`, such as "decoder.net.2 (Linear)", the one the call was made in, or whose output it was given;
        `operation`, such as "ExpBackward0"; `rows` of the batch that went wrong, at most 16, none where all did;
        `largest_input` of that call and `largest_weight` of that layer, in absolute value; `text`, one sentence.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> rows = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
        >>> find_culprit(lambda x: model(x).mean(), model, rows)["text"]
        'row 1 of the batch holds 1 entry that is not finite'
    """
    rows, again = None if batch is None else rows_of(batch), forward if batch is None else partial(forward, batch)
    with _left_as_it_was(model, rows):
        return bad_data(rows) or _bad_weights(model) or _replayed(again, model, rows)


def gain(weight: Tensor) -> Tensor:
    """Root mean square over the outputs of a weight's norm: what it does to the size of independent inputs, []."""
    return weight.detach().norm() / math.sqrt(len(weight))


def bad_data(batch: Tensor | None) -> dict[str, Any] | None:
    """Entries that are no numbers."""
    if batch is None or all_finite([batch]):
        return None
    rows = _rows([batch], len(batch)) or [0]
    count = int((~batch[rows[0]].isfinite()).sum())
    text = f"row {rows[0]} of the batch holds {count} {'entry' if count == 1 else 'entries'} that is not finite"
    return _answer("data", text if count == 1 else text.replace(" is ", " are "), rows=rows, inputs=[batch])


def _bad_weights(model: nn.Module) -> dict[str, Any] | None:
    """Weights that are no numbers, which only an optimiser's step leaves behind."""
    for name, parameter in model.named_parameters():
        if not all_finite([parameter]):
            layer = _layer_of(model, name)
            text = f"weights of {layer} are not finite: an earlier step was too large, or a non-finite one was taken"
            return _answer("rate", text, layer=layer, weights=[parameter])
    return None


def _replayed(forward: Forward, model: nn.Module, batch: Tensor | None) -> dict[str, Any]:
    record = Record()
    loss = None
    with named_layers(model, record.layers), torch.enable_grad(), contextlib.suppress(ValueError, RuntimeError), record:
        loss = forward()
    call = record.source(loss)
    if call is not None:
        return _named(call, call.operation, call.outputs, record, model, batch)
    if loss is None or not loss.requires_grad or not any(p.requires_grad for p in model.parameters()):
        return _gone()
    return _in_backward(loss, record, model, batch)


def _in_backward(loss: Tensor, record: Record, model: nn.Module, batch: Tensor | None) -> dict[str, Any]:
    """The first node whose gradients are not finite, or the parameter whose gradient is too large to have a norm."""
    calls = record.by_node(loss)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with first_bad_node(calls) as found:
        gradients = torch.autograd.grad(loss.sum(), list(parameters.values()), allow_unused=True)
    if found:
        node, made = found[0]
        return _named(calls[node] or record.calls[-1], node.name(), made, record, model, batch)
    norms = {name: float(g.norm()) for name, g in zip(parameters, gradients, strict=True) if g is not None}
    if math.isfinite(sum(norms.values())):
        return _gone()
    layer = _layer_of(model, max(norms, key=lambda name: norms[name]))
    text = f"the gradient of {layer} is too large for its norm to be a number"
    cause, reason = behind(model, batch) or ("layer", "")
    return _answer(cause, f"{reason}; {text}" if reason else text, layer=layer)


def _named(
    call: Call, operation: str, made: Iterable[Tensor], record: Record, model: nn.Module, batch: Tensor | None
) -> dict[str, Any]:
    """The cause behind the first call that went wrong: what it was given says more than the call itself."""
    made = list(made)
    rows = _rows(made, len(batch)) if batch is not None else []
    where = operation + (f" at {call.layer}" if call.layer else "")
    inside = dict(model.named_modules()).get((call.layer or "").partition(" ")[0])
    facts: dict[str, Any] = {
        "layer": call.layer,
        "operation": operation,
        "rows": rows,
        "inputs": call.inputs,
        "weights": list((inside or model).parameters()) or list(model.parameters()),
    }
    if reasons := behind(model, batch, rows):
        cause, reason = reasons
        return _answer(cause, f"{reason}; {where} is the first call that is not finite", **facts)
    strained = record.strained(call)
    if strained is not None:
        place = f" at {strained.layer}" if strained.layer else ""
        text = f"{strained.name.strip('_')}{place} was given up to {largest(strained.inputs):.3g} in absolute value"
        return _answer("variance", f"{text}: a log-variance, or the like, is out of range", **facts)
    text = f"{where} is the first call that is not finite, given up to {largest(call.inputs):.3g} in absolute value"
    return _answer("layer", text, **facts)


def behind(model: nn.Module, batch: Tensor | None, rows: Sequence[int] = ()) -> tuple[str, str] | None:
    """A cause, and a sentence, in the weights or the data that a call was given."""
    gains = {name: float(gain(p)) for name, p in model.named_parameters() if p.ndim > 1}
    name = max(gains, key=lambda key: gains[key], default="")
    if gains.get(name, 0.0) > GROWN:
        where = _layer_of(model, name)
        return "rate", f"weights of {where} have grown to {gains[name]:.3g} times what keeps the size of their input"
    if batch is None:
        return None
    sizes = batch.detach().abs().reshape(len(batch), -1).amax(1).double()
    row = rows[int(sizes[list(rows)].argmax())] if rows else int(sizes.argmax())
    size, typical = float(sizes[row]), float(sizes.median())
    if size > OUTLYING * typical > 0:
        return "data", f"row {row} of the batch holds {size:.3g}, where the typical row's largest is {typical:.3g}"
    if size > LARGE_INPUT:
        return "data", f"row {row} of the batch holds {size:.3g}: the data is not scaled for a network"
    return None


def _gone() -> dict[str, Any]:
    return _answer("gone", "loss and gradients are finite when the step is replayed: a passing fault")


def _answer(cause: str, text: str, **facts: Any) -> dict[str, Any]:
    return {
        "cause": cause,
        "layer": facts.get("layer"),
        "operation": facts.get("operation"),
        "rows": facts.get("rows", []),
        "largest_input": _plain(facts.get("inputs")),
        "largest_weight": _plain(facts.get("weights")),
        "text": text,
    }


@contextlib.contextmanager
def _left_as_it_was(model: nn.Module, batch: Tensor | None) -> Iterator[None]:
    """Buffers and random state are put back; gradients are never written."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {tensor.device for tensor in (*model.parameters(), *([] if batch is None else [batch]))}
    cuda = [device.index for device in devices if device.type == "cuda"]
    try:
        with torch.random.fork_rng(cuda):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def _layer_of(model: nn.Module, parameter: str) -> str:
    """The layer that a parameter of that name belongs to."""
    name = parameter.rpartition(".")[0]
    return label_of(name, model.get_submodule(name))


def _rows(tensors: Iterable[Tensor], count: int) -> list[int]:
    """Rows of the batch with a non-finite entry; none where every row has one, or where there is no axis of rows.

    The axis of rows is the first that is as long as the batch, or a multiple of it, samples before rows.
    """
    for tensor in tensors:
        axis = next((axis for axis, size in enumerate(tensor.shape) if size and size % count == 0), None)
        if axis is not None and not tensor.isfinite().all():
            bad = (~tensor.isfinite()).movedim(axis, 0).flatten(1) if tensor.ndim > 1 else ~tensor.isfinite()[:, None]
            rows = sorted({number % count for number in bad.any(1).nonzero()[:, 0].tolist()})
            return rows[:MOST_ROWS] if len(rows) < count else []
    return []


def _plain(tensors: Iterable[Tensor] | None) -> float | None:
    value = largest(tensors or ())
    return value if math.isfinite(value) else None
