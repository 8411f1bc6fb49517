"""What does not go into a stack of models, in one sentence each; and one step that tries a stack out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..core.config import Config
from ..core.errors import BadInput
from ..models.vae import Model
from ..objectives.base import Objective
from .engine import Engine
from .job import Job
from .stack import Drawn, Stack
from .step import Step

ALONE = "train its seeds one after the other: vaelab train ... seed=1"
# Rounding in another order moves a gradient by some 1e-6 of its norm, and in bfloat16 by some 1e-2.
CLOSE = {None: 1e-3, torch.bfloat16: 0.1}
PUSH = 1e-3  # between the weights beta of two models where a stack is tried out

TINY_STEP = 10**7  # multiplications in a batch, below which a step is mostly dispatch (benchmarks/many.py)
AN_ENTRY = 100  # multiplications that take as long as the likelihood of an entry with its exponentials and their slopes
LEAST_MODELS = 4  # fewer do not repay what vmap adds to each call


class NoStack(BadInput):
    """These models do not go into a stack; one after the other they train."""


# A setting, whether its value keeps a config out, and why.
KEPT_OUT: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("train.accumulate", lambda value: value > 1, "the models of a stack take whole batches"),
    ("train.aggressive", lambda value: value > 1, "the models of a stack move all of their parts in every step"),
    ("train.on_nan", lambda value: value == "rollback", "going back would take the other models of the stack along"),
    ("objective.target_rate", lambda value: value is not None, "a controller looks at one model's batch at a time"),
    ("objective.target_reconstruction", lambda value: value is not None, "a controller looks at one model's batch"),
    ("objective.adversarial", lambda value: value > 0, "a discriminator is a second player of a single model"),
    ("objective.name", lambda value: value == "dreg", "it takes a gradient of its own within the step"),
    ("model.dropout", lambda value: value > 0, "it draws within the step, where a stack cannot draw as each run does"),
    ("model.word_dropout", lambda value: value > 0, "it draws within the step, where a stack cannot draw as each run"),
)


def refuse_settings(config: Config, engine: Engine) -> None:
    """Raises NoStack for the first setting that keeps a config out of a stack."""
    if engine.world > 1:
        raise NoStack("processes", engine.world, "a stack trains in one process", "start it without a launcher")
    for setting, keeps_out, why in KEPT_OUT:
        section, _, name = setting.partition(".")
        value = getattr(getattr(config, section), name)
        if keeps_out(value):
            raise NoStack(setting, value, why, f"leave it out, or {ALONE}")


def pays(job: Job, models: int) -> bool:
    """Whether a stack of so many models like that of a job takes clearly less time than one after the other.

    A device that waits for its next command has room for more models; a processor has where a step is mostly dispatch.
    """
    return job.rows.device.type == "cuda" or (models >= LEAST_MODELS and work_of(job) < TINY_STEP)


def work_of(job: Job) -> int:
    """Multiplications of a batch with every weight, and what the likelihood of its entries adds to them."""
    weights = sum(parameter.numel() for parameter in job.model.parameters())
    return job.config.train.batch_size * (weights + AN_ENTRY * math.prod(job.rows.shape))


def tried_stack(
    models: Sequence[Model],
    objective: Objective,
    config: Config,
    drawn: Sequence[Drawn],
    weights: Sequence[Mapping[str, float]],
) -> Stack:
    """The stack of models, once it gave the first and the last the gradients that they have alone; nothing is moved.

    A later step may have other weights beta in each model where this one has the same, so that both are tried.

    Args:
        drawn, weights: Of a step of each model.

    Raises:
        NoStack: saying which part of the model does what a stack cannot do.
    """
    if isinstance(objective, nn.Module) and any(parameter.requires_grad for parameter in objective.parameters()):
        raise NoStack("objective.name", config.objective.name, "its critic is a second player of a single model", ALONE)
    autocast = torch.bfloat16 if config.train.precision == "bfloat16" else None
    parts, tries, compared = _parts(config), (_pushed_apart(weights), weights), (0, len(models) - 1)
    alone = [
        {at: _gradients_alone(models[at], objective, drawn[at], tried[at], autocast, parts) for at in compared}
        for tried in tries
    ]
    trained = {name for tried in alone for gradients in tried.values() for name in gradients}
    stack = Stack(models, objective, trained, weight_decay=config.train.weight_decay, autocast=autocast)
    for tried, expected in zip(tries, alone, strict=True):
        try:
            stack.gradients(drawn, tried)
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[0].partition(". ")[0]
            raise NoStack("model", parts, f"vmap cannot take it: {reason}", ALONE) from error
        if not all(_close(stack, at, gradients, autocast) for at, gradients in expected.items()):
            raise NoStack("model", parts, "has another gradient in a stack than alone", ALONE)
    return stack


def _pushed_apart(weights: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The weights with another beta for each model; the other weights are the same for all."""
    return [{**one, "beta": one["beta"] + PUSH * place} for place, one in enumerate(weights)]


def _close(stack: Stack, place: int, alone: Mapping[str, Tensor], autocast: torch.dtype | None) -> bool:
    """Whether a model of a stack has the gradient that it has alone, or one that is not finite."""
    theirs = torch.zeros_like(stack.gradient[place])
    for name, part in zip(stack.names, stack.cut(theirs), strict=True):
        part.copy_(alone.get(name, part))
    off, size = (stack.gradient[place] - theirs).norm().item(), theirs.norm().item()
    return not math.isfinite(off) or off <= CLOSE[autocast] * size


def _gradients_alone(
    model: Model,
    objective: Objective,
    drawn: Drawn,
    weights: Mapping[str, float],
    autocast: torch.dtype | None,
    parts: str,
) -> dict[str, Tensor]:
    """The gradient of each parameter that a step reaches, by a copy of the model.

    Raises:
        NoStack: for a model that draws by itself, or whose buffers a step moves.
    """
    twin, (x, noise) = deepcopy(model).train(), drawn
    before, coins = {name: value.clone() for name, value in twin.named_buffers()}, _coins(x.device)
    Step(twin, objective, autocast)(x, weights, noise)[0].backward()
    if not torch.equal(_coins(x.device), coins):
        raise NoStack("model", parts, "it draws within the step, where a stack cannot draw as each run does", ALONE)
    moved = [name for name, value in twin.named_buffers() if not torch.equal(value, before[name])]
    if moved:
        rule = f"a step moves its {moved[0]}, which is no parameter; a stack moves parameters alone"
        raise NoStack("model", parts, rule, ALONE)
    return {name: value.grad for name, value in twin.named_parameters() if value.grad is not None}


def _coins(device: torch.device) -> Tensor:
    """The state of the global generator that a model on that device would draw from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _parts(config: Config) -> str:
    """The parts of a model as settings."""
    model, prior = config.model, config.prior.name
    return (
        f"encoder={model.encoder} posterior={model.posterior} prior={prior} decoder={model.decoder} "
        f"likelihood={config.likelihood.name} objective={config.objective.name}"
    )
