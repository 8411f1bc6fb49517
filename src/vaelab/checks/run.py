"""All checks of a training before it starts: the quick ones that every run makes, and the full ones of a command."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.config import Config
from ..core.finding import Finding
from ..core.output import VAEOutput
from ..core.seeds import generator
from ..data.batches import Rows
from ..data.spec import Spec
from .facts import Facts
from .on_data import check_data, describe_data
from .on_model import check_model
from .on_training import check_training
from .step import Step

FEWEST_ROWS, MOST_ROWS = 16, 256  # of a batch: enough to see how rows differ, and what a step does
MOST_VALUES = 2**18  # entries of a batch, where rows are large: a step then takes well under a second
# What a cause does besides: unscaled data and odd codes to the numbers at the start, dead units to the gradients of
# what lies before them. Only the cause is told.
EFFECTS = {
    "DA128": {"CH108", "CH110", "CH111", "CH112", "CH113"},
    "CH108": {"CH106", "CH120"},
    "CH109": {"CH106", "CH120"},
    "CH110": {"CH112", "CH113"},
    "CH111": {"CH112", "CH113"},
    "CH112": {"CH113"},
}


def quick(
    model: Any,
    objective: Any,
    rows: Rows,
    held_out: Rows,
    *,
    spec: Spec,
    config: Config,
    baseline: float | None = None,
    own_model: bool = False,
) -> list[Finding]:
    """What every training looks at first; weights, buffers, modes and random numbers stay as they were.

    Args:
        model: Offers `draw`, `encode` and `decode`; on the rows' device.
        objective: Of the model's record and the weights of its last step.
        spec, config: Of the data; resolved.
        baseline: Negative log-likelihood of the best decoder that ignores z, held-out, nats per sample on the model's
            scale.
        own_model: Whether the model is the user's own, which settings do not describe.
    """
    found = check_data(_facts(model, rows, held_out, spec, config))
    found += check_model(step_of(model, objective, rows, config), baseline)
    explained = {effect for finding in found for effect in EFFECTS.get(finding.code, ())}
    told = [finding for finding in found if finding.code not in explained]
    return [_in_words(finding) for finding in told] if own_model else told


def full(model: Any, objective: Any, rows: Rows, held_out: Rows, *, config: Config, **facts: Any) -> list[Finding]:
    """The quick checks, and what takes some steps: one batch by heart, the same seed twice, memory and time."""
    found = quick(model, objective, rows, held_out, config=config, **facts)
    found.append(describe_data(_facts(model, rows, held_out, facts["spec"], config)))
    return found + _if_it_runs(found, step_of(model, objective, rows, config))


def _in_words(finding: Finding) -> Finding:
    """The finding without settings of the model, which are not those of the user's own."""
    kept = {key: value for key, value in finding.edit.items() if not key.startswith(("model.", "likelihood."))}
    return replace(finding, edit=kept)


def foreign(model: nn.Module, loss: Any, batch: Tensor, *, rate: float = 1e-3, seed: int = 0) -> list[Finding]:
    """The checks of a stranger's module.

    Args:
        loss: Of the model and a batch: a scalar to minimise.
        batch: Some rows as the model takes them, [B, ...].
        rate: The learning rate it will be trained with.
    """
    device = next((parameter.device for parameter in model.parameters()), batch.device)
    step = Step(model, loss, batch[:MOST_ROWS].to(device), seed=seed, rate=rate)
    found = check_model(step)
    return found + _if_it_runs(found, step)


def step_of(model: Any, objective: Any, rows: Rows, config: Config) -> Step:
    """A step of a model under an objective, with the weights that its terms have at the end of the warm-up."""
    most = min(config.train.batch_size, MOST_ROWS, MOST_VALUES // prod(rows.shape))
    size = min(max(most, FEWEST_ROWS), len(rows))
    index = torch.randperm(len(rows), generator=generator(config.seed, "check rows"))[:size]
    weights = objective.weights(config.train.total)

    def draw(model: Any, x: Tensor) -> VAEOutput:
        return model.draw(x, objective.samples)

    def loss(model: Any, x: Tensor) -> Tensor:
        return objective(draw(model, x), weights).total

    batch = rows.take(index, generator(config.seed, "check coins", device=rows.device))
    return Step(model, loss, batch, draw, config.seed, config.train.rate)


def _facts(model: Any, rows: Rows, held_out: Rows, spec: Spec, config: Config) -> Facts:
    return Facts(rows, held_out, spec, config, getattr(getattr(model, "decoder", None), "likelihood", None))


def _if_it_runs(found: list[Finding], step: Step) -> list[Finding]:
    return [] if any(finding.severity == "error" for finding in found) else check_training(step)
