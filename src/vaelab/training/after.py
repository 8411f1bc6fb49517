"""What happens between the last step and the judgement: a prior is fitted to the codes of the training rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..core.seeds import derive, generator, seed_global
from ..data.batches import Rows
from ..distributions.later import FittedLater
from ..models.vae import Model
from .checkpoint import load_weights
from .engine import Engine
from .evaluate import evaluate, evaluated_rows
from .job import Job
from .loop import Loop

CHUNK = 1024
MOST_CODES = 100_000  # rows that give a code each


def fit_prior(job: Job, loop: Loop, engine: Engine) -> None:
    """Fits the prior that `prior.after` asks for, measures the held-out bound again, and saves both.

    Nothing happens without such a prior, without selected weights, and where it has been done already. The weights as
    they were trained stay in the folder beside the new ones until those are whole.
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
    prior.fit(codes_of(model, job.rows, seed), config.prior.after_steps, derive(seed, "fit"))
    gain = _bounds(model, job.held_out, seed) - before
    again = evaluate(
        model,
        job.held_out,
        seed=config.seed,
        engine=engine,
        shift=job.spec.log_abs_det,
        bound_samples=getattr(job.objective, "bound_samples", 1),
    )
    fitted = {
        "prior": config.prior.after,
        "before": measured["negative_elbo"],
        "gain": gain.mean().item(),
        "error": gain.std().item() / math.sqrt(len(gain)) if len(gain) > 1 else None,
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


def _parts(rows: Rows, index: Tensor, seed: int, chunk: int = CHUNK) -> Any:
    """Rows in parts; the global generators are seeded for each, and put back at the end."""
    with torch.random.fork_rng(devices=[]):
        for number, part in enumerate(index.split(chunk)):
            x = rows.take(part, generator(seed, "coins", number, device=rows.device))
            seed_global(seed, "noise", number, device=rows.device)
            yield x
