"""A trial of a model and an objective of one's own on two rows, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..core.errors import BadInput, VaelabError
from ..core.output import Loss, VAEOutput
from ..data.batches import Rows

# Whether a parameter that is trained, with its gradient in place, cannot be; why, and what to do.
UNTRAINABLE: tuple[tuple[Callable[[Tensor], bool], str, str], ...] = (
    (is_lazy, "has no size, since no row reaches it", "leave it out"),
    (
        lambda parameter: not parameter.is_floating_point(),
        "is not of real numbers, which alone are trained",
        "hold a complex one as its real and its imaginary part",
    ),
    (
        lambda parameter: torch.empty_like(parameter).stride() != parameter.stride(),  # the layout of its moments
        "is a view with gaps, which cannot be trained in place",
        "nn.Parameter(tensor.clone(memory_format=torch.contiguous_format))",
    ),
    (
        lambda parameter: parameter.grad is not None and parameter.grad.layout != torch.strided,
        "has a sparse gradient, which the optimiser does not take",
        "such as nn.Embedding(..., sparse=False)",
    ),
)


def check_kinds(model: Any, objective: Any) -> None:
    """Refuses what is no model or no objective; None stands for the one that the settings describe.

    Raises:
        BadInput: naming model or objective, and what it is.
    """
    if model is not None and not (isinstance(model, nn.Module) and callable(getattr(model, "draw", None))):
        fix = "put the parts together: vaelab.VAE(encoder, decoder, ...)"
        raise BadInput("model", type(model).__name__, "must be a module that offers draw, encode and decode", fix)
    if objective is not None and not (callable(objective) and callable(getattr(objective, "weights", None))):
        raise BadInput("objective", type(objective).__name__, "must be an objective", "such as vaelab.ELBO(beta=4.0)")


def try_out(model: nn.Module, objective: Any, rows: Rows) -> None:
    """Draws from the model, calls the objective once, and goes back to the parameters, which have to be trainable.

    Weights, gradients, buffers, mode and random numbers stay as they were.

    Raises:
        BadInput: naming model or objective, and what it did wrong.
    """
    x = rows.take(torch.arange(min(2, len(rows))), torch.Generator(rows.device).manual_seed(0))
    draw: Any = model.draw
    was_training = model.training
    model.eval()
    # A recurrent network in evaluation mode has a backward pass in PyTorch's own kernels, and none in those of cuDNN.
    with torch.enable_grad(), torch.random.fork_rng(devices=[]), torch.backends.cudnn.flags(enabled=False):
        output = _called("model", lambda: draw(x, 2), f"a batch of shape {tuple(x.shape)}")
        _check_shapes(output, model, len(x))
        loss = _called("objective", lambda: objective(output, objective.weights(0)), "the model's output")
        if not isinstance(loss, Loss):
            raise BadInput("objective", type(loss).__name__, "must return a vaelab.Loss")
        _check_trainable(model, objective, loss)
    model.train(was_training)


def _check_trainable(model: nn.Module, objective: Any, loss: Loss) -> None:
    """Refuses a loss that reaches no parameter, and parameters that the optimiser cannot move."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        fix = "thaw those that are to be trained: parameter.requires_grad_(True)"
        raise BadInput("model", "no trainable parameter", "there is nothing to train", fix)
    if not loss.minimised.requires_grad:
        rule = "a loss without a gradient trains nothing: it is cut off from every parameter"
        raise BadInput("model", "a loss without a gradient", rule, "look for detach, no_grad and numpy on the way")
    players = {"model": model, "objective": objective if isinstance(objective, nn.Module) else nn.Module()}
    trained = [
        (player, name, parameter)
        for player, module in players.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    ]
    before = [parameter.grad for *_, parameter in trained]
    for *_, parameter in trained:
        parameter.grad = None
    try:
        _called("model", loss.minimised.backward, "the way back from its loss")
        for player, name, parameter in trained:
            for is_so, rule, fix in UNTRAINABLE:
                if is_so(parameter):
                    raise BadInput(player, f"the parameter {name}", rule, fix)
    finally:
        for (*_, parameter), gradient in zip(trained, before, strict=True):
            parameter.grad = gradient


def _called(name: str, call: Any, what: str) -> Any:
    try:
        return call()
    except VaelabError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise BadInput(name, f"{type(error).__name__}: {reason}", f"fails on {what}") from error


def _check_shapes(output: Any, model: Any, rows: int) -> None:
    if not isinstance(output, VAEOutput):
        raise BadInput("model", type(output).__name__, "its draw must return a vaelab.VAEOutput")
    if output.log_px.shape != (2, rows):
        rule = f"log p(x|z) must be summed to (samples, rows) = (2, {rows})"
        raise BadInput("model", f"log p(x|z) of shape {tuple(output.log_px.shape)}", rule)
    if model.latent is not None and output.z.shape != (2, rows, model.latent):
        rule = f"the encoder must describe {model.latent} latent dimensions, a mean and a log-variance each"
        raise BadInput("model", f"codes of shape {tuple(output.z.shape[1:])}", rule)
