"""The held-out bound, over all processes, with the same noise at every evaluation so that they can be compared."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from ..core.seeds import derive, generator, seed_global
from ..data.batches import Rows
from ..measure.bound import BoundSums
from ..models.vae import Model
from .engine import Engine

CHUNK_VALUES = 2**25  # values of a likelihood's parameters computed at once: 128 MiB in float32
DRAWS = 8192  # posterior samples at least, over all rows: few rows get more each, so that their noise averages out
MOST_SAMPLES = 256


@torch.no_grad()
def evaluate(
    model: Model, rows: Rows, *, seed: int, engine: Engine, shift: float, index: Tensor | None = None
) -> dict[str, Any]:
    """The bound on rows at beta = 1; see `BoundSums.compute` for what is returned.

    Each row gets one posterior sample, and more where there are fewer than `DRAWS` rows; `samples` says how many.

    Args:
        index: Only these rows; None for all.
    """
    was_training = model.training
    model.eval()
    sums: BoundSums | None = None
    index = torch.arange(len(rows)) if index is None else index
    samples = _samples(len(index))
    with torch.random.fork_rng(devices=[]):
        for number, part in enumerate(index.split(_chunk(model, rows, samples))):
            sums = _add(sums, model, rows, part, samples, derive(seed, "held out", number), engine)
    model.train(was_training)
    assert sums is not None
    sums.vector = engine.total(sums.vector)
    return {"samples": samples, **sums.compute(shift)}


def evaluated_rows(rows: Rows) -> int:
    """How many rows an evaluation decodes, counting each posterior sample."""
    return len(rows) * _samples(len(rows))


def _samples(rows: int) -> int:
    return max(1, min(MOST_SAMPLES, DRAWS // rows))


def _add(
    sums: BoundSums | None, model: Model, rows: Rows, index: torch.Tensor, samples: int, seed: int, engine: Engine
) -> BoundSums:
    x = engine.share(rows.take(index, generator(seed, "coins", device=engine.device)))
    seed_global(seed, engine.rank, device=engine.device)
    size = getattr(model, "noise_size", None)
    noise = None
    if size is not None:
        coins = generator(seed, "noise", device=engine.device)
        noise = engine.share(torch.randn((samples, len(index), size), generator=coins, device=engine.device), 1)
    if len(x) == 0 and sums is not None:  # more processes than rows in the last chunk
        return sums
    output = model.draw(x, samples=samples, noise=noise)
    sums = sums or BoundSums(output.kl.shape[1], output.z.shape[2])
    sums.update(output)
    return sums


def _chunk(model: Model, rows: Rows, samples: int) -> int:
    values = prod(rows.shape) * getattr(model, "channels", 1) * samples
    return max(16, min(2048, CHUNK_VALUES // values))
