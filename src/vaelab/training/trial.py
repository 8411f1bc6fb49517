"""A trial of a model and an objective of one's own on two rows, before anything is written."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..core.errors import BadInput, VaelabError
from ..core.output import Loss, VAEOutput
from ..data.batches import Rows


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
    """Draws from the model and calls the objective once; weights, buffers, mode and random numbers stay as they were.

    Raises:
        BadInput: naming model or objective, and what it did wrong.
    """
    x = rows.take(torch.arange(min(2, len(rows))), torch.Generator(rows.device).manual_seed(0))
    draw: Any = model.draw
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        output = _called("model", lambda: draw(x, 2), f"a batch of shape {tuple(x.shape)}")
        _check_shapes(output, model, len(x))
        loss = _called("objective", lambda: objective(output, objective.weights(0)), "the model's output")
    model.train(was_training)
    if not isinstance(loss, Loss):
        raise BadInput("objective", type(loss).__name__, "must return a vaelab.Loss")


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
