"""One training step of a model, watched: where it fails, what is not finite, which parameters it reaches."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.output import VAEOutput
from ..core.seeds import seed_global

Parameters = dict[str, nn.Parameter]
SAFE_RATE = 1e-3  # of Adam, at which every right set-up that was measured learns a batch by heart


@dataclass(frozen=True)
class Step:
    """A model and what it is trained on, ours or a stranger's.

    Args:
        model: Any module; a check leaves its weights, buffers, gradients and modes as they were.
        loss: Of the model and a batch: a scalar to minimise, nats per sample.
        batch: Rows as the model sees them, [B, ...].
        draw: Of the model and a batch: the model's record; None where it makes none.
        seed: Of the noise.
        rate: The learning rate that training will have.
    """

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    batch: Tensor | Batch
    draw: Callable[[nn.Module, Any], VAEOutput] | None = None
    seed: int = 0
    rate: float = 1e-3


@dataclass
class Watched:
    """What a step did.

    Args:
        loss: Its value; None where the step failed before.
        failure: The exception, where there was one.
        stage: "forward" or "backward", the one that failed or was reached last.
        module: The module in which the forward pass failed, or the first with a non-finite output; "" for neither.
        gradients: By parameter name; None for one that the loss does not reach.
    """

    loss: float | None = None
    failure: Exception | None = None
    stage: str = "forward"
    module: str = ""
    gradients: dict[str, Tensor | None] = field(default_factory=dict)

    @property
    def unreached(self) -> set[str]:
        """Parameters whose gradient is missing or exactly 0."""
        return {name for name, gradient in self.gradients.items() if gradient is None or not gradient.any()}

    @property
    def not_finite(self) -> list[str]:
        """Parameters whose gradient has an entry that is not finite."""
        return [n for n, gradient in self.gradients.items() if gradient is not None and not gradient.isfinite().all()]


@contextlib.contextmanager
def undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """Seeds what is random, and puts back random states, modes and buffers at the end."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    states = random.getstate(), np.random.get_state()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seed_global(seed, "check", device=device)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def watch(step: Step, seed: int = 0) -> Watched:
    """One forward and backward pass in training mode; gradients are handed back and not added to the parameters'."""
    seen = Watched()
    with undisturbed(step.model, step.seed + seed), torch.enable_grad(), _following(step.model) as trail:
        step.model.train()
        try:
            loss = step.loss(step.model, step.batch)
            seen.loss, seen.stage = float(loss.detach()), "backward"
            seen.module = trail.not_finite
            seen.gradients = gradients(loss, trainable(step.model))
        except Exception as error:
            seen.failure, seen.module = error, trail.inside
    return seen


def trainable(model: nn.Module) -> Parameters:
    """The parameters that take a gradient, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def gradients(loss: Tensor, parameters: Parameters) -> dict[str, Tensor | None]:
    """d loss / d parameter by name, None where the loss does not depend on it."""
    if not loss.requires_grad or not parameters:
        return dict.fromkeys(parameters)
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def stepped(step: Step, steps: int, rate: float, rows: int | None = None) -> tuple[nn.Module, list[float]] | None:
    """A copy of the model after some steps of Adam on one batch, and the losses before each; None if it has no copy.

    Every step draws the same noise, so that the smallest fall of the loss can be told from it.
    It has none where the module cannot be copied, or where the loss asks another model than the one it is given.
    """
    try:
        model = copy.deepcopy(step.model)
    except Exception:  # a stranger's module may hold anything: open files, graphs, locks
        return None
    parameters, batch, losses = trainable(model), step.batch[:rows], []
    optimizer = torch.optim.Adam(parameters.values(), lr=rate) if parameters else None
    with undisturbed(model, step.seed), torch.enable_grad():
        model.train()
        for _ in range(steps if optimizer is not None else 0):
            seed_global(step.seed, "check", device=batch.device)
            loss = step.loss(model, batch)
            found = gradients(loss, parameters)
            if all(gradient is None for gradient in found.values()):
                return None
            losses.append(float(loss.detach()))
            for name, parameter in parameters.items():
                parameter.grad = found[name]
            optimizer.step()  # type: ignore[union-attr]
    return model, losses


# Where in the model ---------------------------------------------------------------------------------------------------


@dataclass
class _Trail:
    """Which modules are being computed, and the first whose output was not finite."""

    names: list[str] = field(default_factory=list)
    not_finite: str = ""

    @property
    def inside(self) -> str:
        """The innermost module that was entered and not left."""
        return self.names[-1] if self.names else ""

    def enter(self, name: str) -> Callable[..., None]:
        return lambda module, inputs: self.names.append(described(name, module))

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        name = self.names.pop()
        if not self.not_finite and any(not tensor.isfinite().all() for tensor in tensors(output)):
            self.not_finite = name


@contextlib.contextmanager
def _following(model: nn.Module) -> Iterator[_Trail]:
    trail, hooks = _Trail(), []
    for name, module in model.named_modules():
        hooks += [module.register_forward_pre_hook(trail.enter(name)), module.register_forward_hook(trail.leave)]
    try:
        yield trail
    finally:
        for hook in hooks:
            hook.remove()


def described(name: str, module: nn.Module) -> str:
    """A module by its name and kind, such as `encoder.net.0 (Linear)`."""
    return f"{name} ({type(module).__name__})" if name else type(module).__name__


def tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in what a module returns."""
    if isinstance(value, Tensor):
        yield from [value] if value.is_floating_point() else []
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def first_constant(model: nn.Module, call: Callable[[], Any], rows: int) -> str:
    """The first module whose output is the same for all rows; "" where each differs."""
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            flat = [tensor for tensor in tensors(output) if tensor.dim() > 1 and len(tensor) == rows]
            if not found and flat and all(is_constant(tensor) for tensor in flat):
                found.append(described(name, module))

        return hook

    hooks = [m.register_forward_hook(look(n)) for n, m in model.named_modules() if not list(m.children())]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


CONSTANT = 1e-10  # variance over rows, over the mean square: far below anything learned, above rounding in float32


def is_constant(values: Tensor, scale: float = 0.0) -> bool:
    """Whether values [B, ...] are the same for all rows B, relative to their own size and a given variance."""
    flat = values.detach().double().flatten(1)
    return bool(flat.var(0, correction=0).max() <= CONSTANT * (flat.square().mean() + scale))
