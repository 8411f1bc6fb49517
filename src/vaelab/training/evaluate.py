"""The held-out bound, over all processes, with the same noise at every evaluation so that they can be compared."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

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
    model: Model, rows: Rows, *, seed: int, engine: Engine, shift: float, most: int | None = None
) -> dict[str, Any]:
    """The bound on rows at beta = 1; see `BoundSums.compute` for what is returned.

    Each row gets one posterior sample, and more where there are fewer than `DRAWS` rows; `samples` says how many.

    Args:
        most: Only the first `most` rows; None for all.
    """
    was_training = model.training
    model.eval()
    sums: BoundSums | None = None
    samples = max(1, min(MOST_SAMPLES, DRAWS // min(len(rows), most or len(rows))))
    with torch.random.fork_rng(devices=[]):
        for number, index in enumerate(rows.chunks(_chunk(model, rows, samples))):
            if most is not None and int(index[0]) >= most:
                break
            sums = _add(sums, model, rows, index, samples, derive(seed, "held out", number), engine)
    model.train(was_training)
    assert sums is not None
    sums.vector = engine.total(sums.vector)
    return {"samples": samples, **sums.compute(shift)}


def _add(
    sums: BoundSums | None, model: Model, rows: Rows, index: torch.Tensor, samples: int, seed: int, engine: Engine
) -> BoundSums:
    x = engine.share(rows.take(index, generator(seed, "coins", device=engine.device)))
    seed_global(seed, engine.rank)
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
