"""What the columns of a mixed table say of each other under a model: -log p(x_d | the other columns)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, beside, rows_of
from ..core.errors import BadInput
from ..core.seeds import seed_global
from ..distributions.mixed import Mixed, MixedObservation

CHUNK_VALUES = 2**22  # parameters at once


@torch.no_grad()
def given_others(model: Any, x: Tensor | Batch, samples: int = 100, seed: int = 0) -> np.ndarray:
    """-log p(x_d | x without d) in nats of every entry of rows x [n, D], [n, D]; NaN where it is missing.

    The ratio of p(x) to p(x without d), both by importance weights over the same 2 K codes, half of them from q(z|x)
    and half from q(z|x without d), weighted with the mixture of the two (the balance heuristic), so that neither number
    misses where its integrand lies. As K grows it converges to the model's own conditional.

    Args:
        model: Of a mixed table, with a posterior that has a density.
        samples: K.
        seed: Of the codes.

    Raises:
        BadInput: for another likelihood, and for a posterior without a density.

    References:
        Veach and Guibas, Optimally combining sampling techniques for Monte Carlo rendering, 1995.
    """
    _refuse_others(model, x)
    parameters = samples * sum(model.decoder.likelihood.sizes) * 2
    size = max(1, CHUNK_VALUES // parameters)
    with torch.random.fork_rng(devices=[]):
        seed_global(seed, "columns")
        return torch.cat([_of_rows(model, part, samples) for part in x.split(size)]).double().numpy()


def independent(likelihood: Mixed, training: Tensor, x: Tensor) -> np.ndarray:
    """-log p(x_d) in nats of every entry of x [n, D] when each column is fitted to training rows by itself, [n, D].

    NaN where an entry is missing.
    """
    alone = Mixed(likelihood.columns, likelihood.components).double()
    alone.see(training)
    nats = alone(torch.zeros(1, 1, *alone.layout((x.shape[1],)), dtype=torch.float64)).per_entry(x.double())[0]
    return torch.where(x.isnan(), math.nan, -nats).numpy()


def _of_rows(model: Any, x: Any, samples: int) -> Tensor:
    rows, given = rows_of(x), beside(x)
    whole = model.encode(x)
    z = whole.rsample(samples)
    with_all, prior = _nats(model, z, rows, given)
    found = torch.full_like(rows, math.nan)
    for column in range(rows.shape[1]):
        without = rows.clone()
        without[:, column] = math.nan
        rest = model.encode(Batch(without, *given) if given else without)
        more = rest.rsample(samples)
        nats, more_prior = _nats(model, more, rows, given)
        both, each = torch.cat([z, more]), torch.cat([with_all, nats])
        proposal = torch.logaddexp(whole.log_prob(both), rest.log_prob(both))
        weights = torch.cat([prior, more_prior]) - proposal + each.sum(-1)
        found[:, column] = (weights - each[..., column]).logsumexp(0) - weights.logsumexp(0)
    return torch.where(rows.isnan(), math.nan, found)


def _nats(model: Any, z: Tensor, rows: Tensor, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """log p(x_d|z) of every entry, [K, B, D], and log p(z), [K, B]."""
    decoded: MixedObservation = model.decode(z, *given)
    return decoded.per_entry(rows), model.prior_distribution(*given).log_prob(z)


def _refuse_others(model: Any, x: Any) -> None:
    likelihood = getattr(getattr(model, "decoder", None), "likelihood", None)
    if not isinstance(likelihood, Mixed):
        raise BadInput("columns", type(likelihood).__name__, "is for mixed tables", "train with likelihood=mixed")
    offers: frozenset[str] = getattr(model.encode(x[:1]), "offers", frozenset())
    if not {"density", "euclidean"} <= offers:
        raise BadInput("columns", "a posterior without a density", "weights codes by their density", "leave it out")
