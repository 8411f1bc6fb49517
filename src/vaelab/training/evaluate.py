"""The held-out bound, over all processes, with the same noise at every evaluation so that they can be compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.batch import condition_of, rows_of
from ..core.seeds import derive, generator, seed_global
from ..data.batches import Rows
from ..measure.bound import BoundSums
from ..models.vae import Model
from .engine import Engine

CHUNK_VALUES = 2**25  # values of a likelihood's parameters computed at once: 128 MiB in float32
DRAWS = 8192  # posterior samples at least, over all rows: few rows get more each, so that their noise averages out
MOST_SAMPLES = 256
CLASSIFIED = 2048  # rows at once


@torch.no_grad()
def evaluate(
    model: Model,
    rows: Rows,
    *,
    seed: int,
    engine: Engine,
    shift: float,
    index: Tensor | None = None,
    bound_samples: int = 1,
    charged: bool = True,
) -> dict[str, Any]:
    """The bound on rows at beta = 1; see `BoundSums.compute` for what is returned.

    Each row gets one posterior sample, and more where there are fewer than `DRAWS` rows; `samples` says how many.

    Args:
        index: Only these rows; None for all.
        bound_samples: Samples of the importance-weighted bound that is wanted as well; 1: none is.
        charged: Whether the divergence is part of what is trained; else the bound is no measure, and `charged` says so.
    """
    was_training = model.training
    model.eval()
    sums: BoundSums | None = None
    made = partial(BoundSums, bound_samples=bound_samples)
    index = torch.arange(len(rows)) if index is None else index
    samples = _samples(len(index), bound_samples)
    with torch.random.fork_rng(devices=[]):
        for number, part in enumerate(index.split(_chunk(model, rows, samples))):
            sums = _add(sums, made, model, rows, part, samples, derive(seed, "held out", number), engine)
    model.train(was_training)
    assert sums is not None
    sums.vector, sums.codes.counts = engine.total(sums.vector), engine.total(sums.codes.counts)
    unlike = {} if charged else {"charged": False}
    return {"samples": samples, **unlike, **sums.compute(shift), **_accuracy(model, rows, index, seed, engine)}


def evaluated_rows(rows: Rows, bound_samples: int = 1) -> int:
    """How many rows an evaluation decodes, counting each posterior sample."""
    return len(rows) * _samples(len(rows), bound_samples)


def _samples(rows: int, bound_samples: int) -> int:
    """Samples of a row: a multiple of those that a bound takes."""
    return max(1, min(MOST_SAMPLES, DRAWS // rows) // bound_samples) * bound_samples


def _add(
    sums: BoundSums | None,
    made: Callable[[int, int], BoundSums],
    model: Model,
    rows: Rows,
    index: torch.Tensor,
    samples: int,
    seed: int,
    engine: Engine,
) -> BoundSums:
    x = engine.share(rows.take(index, generator(seed, "coins", device=engine.device)))
    x = rows_of(x) if getattr(model, "guesses", False) else x  # a bound on log p(x), whatever is known of the labels
    seed_global(seed, engine.rank, device=engine.device)
    size = getattr(model, "noise_size", None)
    noise = None
    if size is not None:
        coins = generator(seed, "noise", device=engine.device)
        noise = engine.share(torch.randn((samples, len(index), size), generator=coins, device=engine.device), 1)
    if len(x) == 0 and sums is not None:  # more processes than rows in the last chunk
        return sums
    output = model.draw(x, samples=samples, noise=noise)
    sums = sums or made(output.kl.shape[1], output.z.shape[2])
    sums.update(output)
    return sums


@torch.no_grad()
def _accuracy(model: Any, rows: Rows, index: Tensor, seed: int, engine: Engine) -> dict[str, float]:
    """Share of rows with a known label that a model's classifier gives that label; nothing where there is none."""
    if rows.condition is None or not getattr(model, "guesses", False):
        return {}
    was_training = model.training
    model.eval()
    right, labels = torch.zeros(1, dtype=torch.float64), torch.zeros(model.classes, dtype=torch.float64)
    for number, part in enumerate(index.split(CLASSIFIED)):
        coins = generator(derive(seed, "held out", number), "coins", device=engine.device)
        batch = engine.share(rows.take(part, coins))
        given = condition_of(batch)
        assert given is not None
        told = F.one_hot(model.classify(batch).argmax(1), model.classes)
        right += (told * given.nan_to_num()).sum().double().cpu()
        labels += given.nan_to_num().sum(0).double().cpu()
    model.train(was_training)
    right, labels = engine.total(right), engine.total(labels)
    known = labels.sum().item()
    if not known:
        return {}
    shares = {"accuracy": right.item() / known, "commonest_label": labels.max().item() / known}
    return {**shares, "labelled_rows": int(known)}


def _chunk(model: Model, rows: Rows, samples: int) -> int:
    values = prod(rows.shape) * getattr(model, "channels", 1) * samples
    return max(16, min(2048, CHUNK_VALUES // values))
