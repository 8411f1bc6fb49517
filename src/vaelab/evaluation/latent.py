"""What the code holds: the parts of the average divergence, the dimensions in use, and what inference leaves behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, beside
from ..core.seeds import seed_global
from ..distributions.kl import divergence
from ..distributions.normal import HALF_LOG_2PI, NORMAL, DiagonalNormal, StandardNormal
from ..measure.baseline import spaced
from ..measure.bound import ACTIVE_NATS, ACTIVE_VARIANCE
from ..measure.estimate import Estimate, mean_of
from ..measure.information import NATS, in_use, information, most_paired, paired
from ..measure.refine import inference_gaps
from .case import Case, Numbers

ENCODED = 1024  # rows at once
ROUNDING = 0.01  # nats that sums over a row in float32 may be off: a gap of nothing may come out below 0 by that


def latent(case: Case) -> Numbers:
    """Rate, its parts, active units and the gaps of inference, on the rows of the case.

    `rate` is E[KL(q(z|x) || p(z))], over all rows and, as `kl_per_dimension`, for each dimension (one number where q or
    p does not take them apart). `mutual_information`, `total_correlation` and `marginal_kl` (the sum of
    KL(q(z_j) || p(z_j)); `marginal_kl_per_dimension` has its terms) add up to it. They come from 1000 of the rows at
    most, between bounds: see `measure.information`, also for their bias. `decomposition_error` is by how much the sum,
    which comes from draws, misses the divergence of the same rows: zero within its interval, else draws, densities and
    closed form contradict each other. Total correlation and marginal divergence need normal q(z_j|x), which flows
    and hierarchies do not have, and a prior with independent dimensions. `amortisation_gap` and `approximation_gap`
    make up log p(x) - ELBO, on at most 64 of the rows: see `measure.refine`. One that comes out below zero by more than
    its interval is left out: its search or its bound on log p(x) has failed.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        seed_global(case.seed, "latent")
        rows = [_encoded(case.model, part) for part in case.rows.split(ENCODED)]
        kl, mean = (torch.cat(column).double().numpy() for column in zip(*rows, strict=True))
        found = dimensions(kl, mean) | _decomposition(case.model, case.rows)
    gaps = inference_gaps(case.model, case.rows, seed=case.seed)
    if gaps is not None:
        parts = {"amortisation_gap": gaps.amortisation, "approximation_gap": gaps.approximation}
        numbers = {name: mean_of(values, f"{NATS}, {len(values)} rows") for name, values in parts.items()}
        found |= {name: number for name, number in numbers.items() if number.high >= -ROUNDING}
    return found


def dimensions(kl: np.ndarray, mean: np.ndarray) -> Numbers:
    """The rate, and how many dimensions are in use by either definition.

    Args:
        kl: KL(q(z|x) || p(z)), [n, L], or [n, 1] where it is known for all dimensions together.
        mean: Posterior means, [n, L].
    """
    each = mean_of(kl, "nats")
    moved = mean_of((mean - mean.mean(0)) ** 2 * len(mean) / max(len(mean) - 1, 1), "prior variances")
    by_kl = {"active_units_kl": in_use(each, ACTIVE_NATS)} if kl.shape == mean.shape else {}
    return {
        "rate": mean_of(kl.sum(1), NATS),
        "kl_per_dimension": each,
        **by_kl,
        "active_units_variance": in_use(moved, ACTIVE_VARIANCE),
    }


def _encoded(model: Any, x: Tensor | Batch) -> tuple[Tensor, Tensor]:
    """KL(q(z|x) || p(z)), [B, L] or [B, 1], and the posterior means, [B, L]."""
    q = model.encode(x)
    return divergence(q, model.prior_distribution(*beside(x)), q.rsample(1))[0], q.mean


def _decomposition(model: Any, x: Tensor | Batch) -> Numbers:
    """The parts of the rate from one draw for each row; a single row has no distribution of codes."""
    count = most_paired(len(x), model.encode(x[:1]).mean.shape[1])
    some = x[spaced(len(x), count)]
    q, prior = model.encode(some), model.prior_distribution(*beside(some))
    if len(q.mean) < 2:
        return {}
    z = q.rsample(1)[0]
    log_prior, pairs = prior.log_prob(z[None])[0].double().numpy(), paired(q, z).double().numpy()
    moments = q.mean.double().numpy(), q.variance.double().numpy()
    offers = getattr(q, "offers", NORMAL)
    masses, normal = "euclidean" not in offers, "normal" in offers
    parts = information(z.double().numpy(), pairs, log_prior, *moments, _prior_each(prior, z), masses, normal)
    kl, exact = divergence(q, prior, z[None])
    found = {
        "mutual_information": parts.mutual,
        "information_ceiling": Estimate(parts.ceiling, None, NATS),
        "aggregate_kl": parts.marginal,
    }
    if parts.correlation is not None and parts.single is not None and parts.each is not None:
        found |= {
            "total_correlation": parts.correlation,
            "marginal_kl": parts.single,
            "marginal_kl_per_dimension": parts.each,
        }
    if exact:
        missed = np.diag(pairs) - log_prior - kl.sum(1).double().numpy()
        found["decomposition_error"] = mean_of(missed, NATS)
    return found


def _prior_each(prior: Any, z: Tensor) -> np.ndarray | None:
    """log p(z_j) of codes z [n, L], [n, L]; None for a prior whose dimensions are not known to be independent."""
    if not isinstance(prior, StandardNormal | DiagonalNormal):
        return None
    mean, variance = prior.mean.double(), prior.variance.double()
    return (-0.5 * ((z.double() - mean).square() / variance + variance.log()) - HALF_LOG_2PI).numpy()
