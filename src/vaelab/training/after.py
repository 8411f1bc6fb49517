"""What happens between the last step and the judgement: a prior is fitted to the codes of the training rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..core.errors import Diverged
from ..core.seeds import derive, generator, seed_global
from ..data.batches import Rows
from ..distributions.later import FittedLater
from ..models.second_stage import SecondStage
from ..models.vae import Model
from .checkpoint import load_weights
from .engine import Engine
from .evaluate import evaluate, evaluated_rows
from .job import Job
from .loop import Loop

CHUNK = 1024
MOST_CODES = 100_000  # rows that give a code each
NOISES = 4  # that a second stage is measured with besides the one it holds


def fit_prior(job: Job, loop: Loop, engine: Engine) -> None:
    """Fits the prior that `prior.after` asks for, measures the held-out bound again, and saves both.

    Nothing happens without such a prior, without selected weights, and where it has been done already. The weights as
    they were trained stay in the folder beside the new ones until those are whole. A fit that diverges leaves the prior
    of the training in force, and the run goes on.
    """
    model, prior = job.model, getattr(job.model, "prior", None)
    if not isinstance(prior, FittedLater) or loop.selected is None:
        return
    weights, measured = loop.selected
    load_weights(model, weights, loop.checkpoints.folder)
    if prior.in_force:
        return
    config, seed = job.config, derive(job.config.seed, "after")
    loop.display.say(f"fitting the prior to the codes of the training rows: {config.prior.after}")
    before = _bounds(model, job.held_out, seed)
    try:
        prior.fit(codes_of(model, job.rows, seed), config.prior.after_steps, derive(seed, "fit"))
    except Diverged as error:  # the weights are those of before, and so is the prior in force
        loop.display.say(str(error))
        loop.selected = weights, {**measured, "prior_fit": {"prior": config.prior.after, "failed": str(error)}}
        return
    gain = _bounds(model, job.held_out, seed) - before
    again = evaluate(
        model,
        job.held_out,
        seed=config.seed,
        engine=engine,
        shift=job.spec.log_abs_det,
        bound_samples=getattr(job.objective, "bound_samples", 1),
        charged=config.objective.selects_by_bound,
    )
    fitted = {
        "prior": config.prior.after,
        "before": measured["negative_elbo"],
        "gain": gain.mean().item(),
        "error": math.hypot(gain.std().item() / math.sqrt(len(gain)), _spread(model, job.held_out, seed))
        if len(gain) > 1
        else None,
    }
    kept = {name: value.clone() for name, value in loop.state.items()}
    loop.selected = kept, {"step": measured["step"], **again, "prior_fit": fitted}
    if engine.is_main:
        loop.checkpoints.save_fitted(*loop.selected)


@torch.no_grad()
def codes_of(model: Model, rows: Rows, seed: int) -> Tensor:
    """A draw of q(z|x) for each of the rows, or of `MOST_CODES` of them, [N, L]."""
    model.eval()
    index = torch.randperm(len(rows), generator=generator(seed, "rows"))[:MOST_CODES]
    return torch.cat([model.encode(part).rsample(1)[0] for part in _parts(rows, index, seed)])


@torch.no_grad()
def _bounds(model: Model, rows: Rows, seed: int) -> Tensor:
    """The ELBO of each row in nats, [n]; the same noise every time."""
    model.eval()
    samples = evaluated_rows(rows) // len(rows)
    parts = _parts(rows, torch.arange(len(rows)), derive(seed, "held out"), max(16, CHUNK // samples))
    return torch.cat([model.draw(part, samples).elbo.double().cpu() for part in parts])


def _spread(model: Model, rows: Rows, seed: int) -> float:
    """Deviation of the mean ELBO over the noise that a second stage holds, which all rows share; 0 for other priors."""
    stage: Any = model.prior.later  # type: ignore[union-attr]
    if not isinstance(stage, SecondStage):
        return 0.0
    found = []
    for number in range(NOISES):
        stage.hold(derive(seed, "held noise", number))
        found.append(_bounds(model, rows, seed).mean())
    stage.hold()
    return torch.stack(found).std().item()


def _parts(rows: Rows, index: Tensor, seed: int, chunk: int = CHUNK) -> Any:
    """Rows in parts; the global generators are seeded for each, and put back at the end."""
    with torch.random.fork_rng(devices=[rows.device] if rows.device.type == "cuda" else []):
        for number, part in enumerate(index.split(chunk)):
            x = rows.take(part, generator(seed, "coins", number, device=rows.device))
            seed_global(seed, "noise", number, device=rows.device)
            yield x
