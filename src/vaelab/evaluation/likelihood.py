"""`vaelab.log_likelihood` and `vaelab.ais`: log p(x) of rows, under a run, a model, or a stranger's functions."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.errors import BadInput, whole
from ..measure.ais import Bracket
from ..measure.ais import ais as anneal
from ..measure.importance import Bound, importance_bound
from ..training.run import Run
from .rows import given_rows, how_read


def log_likelihood(
    model: Any,
    x: Any,
    samples: int = 5000,
    *,
    seed: int = 0,
    chunk: int | None = None,
    dequantize: bool = False,
    condition: Any = None,
) -> Bound:
    """The importance-weighted bound on log p(x) of every row, in nats; higher is better.

    Args:
        model: A run or its folder, a model of ours, or an object or mapping with `encode(x)`, `log_px(x, z)` and, for
            another prior than the standard normal, `log_pz(z)`; see `vaelab.measure.latent.latent_model` for shapes.
        x: Rows [n, ...]: for a run on the data's own scale, and so are the nats; else as the model sees them. Gray
            levels that a run draws anew as bits are drawn once, by the seed.
        samples: K. The same K with other chunks gives the same number.
        seed: Of all draws.
        chunk: Samples decoded at once; None: chosen for speed within little memory.
        dequantize: For whole numbers under a density of a run: adds uniform noise of width 1, which makes the number a
            lower bound of a log-mass.
        condition: What is given beside the rows, for log p(x|c): for a run in the data's own words, such as labels;
            else as the model reads it, [n, C].

    Returns:
        `.values` for each row, `.mean`, `.standard_error`, `.ess`, `.k_hat`, `.gain`, `.unit`; see `Bound`.

    Raises:
        BadInput: for rows, numbers or functions that do not fit.

    Example:
        >>> import torch, vaelab
        >>> from torch import nn
        >>> model = vaelab.VAE(nn.Linear(8, 4), nn.Linear(2, 8), likelihood="bernoulli", latent=2)
        >>> bound = log_likelihood(model, torch.ones(5, 8), samples=100)
        >>> bound.values.shape, bound.unit, bool(bound.mean < 0)
        ((5,), 'nats per sample', True)
    """
    subject = _subject(model)
    rows, shift, note = _rows(subject, x, seed, dequantize, condition)
    found = importance_bound(_bare(subject), rows, samples, seed=seed, chunk=chunk).shifted(shift)
    return replace(found, note=note)


def ais(
    model: Any,
    x: Any,
    steps: int = 1000,
    chains: int = 16,
    *,
    seed: int = 0,
    dequantize: bool = False,
    condition: Any = None,
    **options: Any,
) -> Bracket:
    """Annealed importance sampling: a lower and an upper bound around log p(x) of every row, in nats.

    Args:
        model: As for `log_likelihood`.
        x: Likewise.
        steps: Distributions between the start and the posterior; more are tighter.
        chains: Independent chains a row.
        seed: Of all draws.
        dequantize: As for `log_likelihood`.
        condition: Likewise.
        options: `start` ("encoder" begins at q(z|x), "prior" at p(z)) and the others of `vaelab.measure.ais.ais`.

    Returns:
        `.lower` and `.upper`, [n] each; see `Bracket` for what the upper one rests on.

    Raises:
        BadInput: for rows, numbers or functions that do not fit.
    """
    subject = _subject(model)
    rows, shift, note = _rows(subject, x, seed, dequantize, condition)
    return replace(anneal(_bare(subject), rows, steps, chains, seed=seed, **options).shifted(shift), note=note)


def _subject(model: Any) -> Any:
    """A run for its folder."""
    return Run(model) if isinstance(model, str | os.PathLike) else model


def _bare(model: Any) -> Any:
    return model.model if isinstance(model, Run) else model


def _rows(model: Any, x: Any, seed: int, dequantize: bool, condition: Any) -> tuple[Tensor | Batch, float, str]:
    """Rows as the model sees them, log|det| of the way there, and what was done to their entries."""
    whole("seed", seed, 0)
    if isinstance(model, Run):
        rows, note = given_rows(model, x, seed, dequantize, condition), how_read(model, seed, dequantize)
        return rows, model.spec.log_abs_det, note if dequantize or model.spec.binarize != "none" else ""
    if dequantize:
        raise BadInput("dequantize", True, "needs a run, which knows the data's own scale", "add the noise yourself")
    if not isinstance(x, Tensor | np.ndarray):
        raise BadInput("x", type(x).__name__, "must be a tensor or an array of rows, as the model takes them")
    rows = torch.as_tensor(x)
    return rows if condition is None else Batch(rows, torch.as_tensor(condition).to(rows)), 0.0, ""
