"""The mass of every symbol of every entry of a row, from what the decoder returned.

Shapes: B rows, D entries of a row, M symbols; parameters have one sample, [1, B, *shape].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distributions.counts import NegativeBinomialObservation, ZeroInflatedObservation
from ..distributions.levels import BetaBinomialObservation, LogisticMixtureObservation
from ..distributions.mixed import MixedObservation
from ..distributions.observations import BernoulliObservation, CategoricalObservation, PoissonObservation


def masses(observation: Any, symbols: int) -> Tensor:
    """Masses of the symbols 0, ..., M - 1 of each entry, [B, D, M]."""
    return MASSES[type(observation)](observation, symbols)


def _bernoulli(observation: BernoulliObservation, symbols: int) -> Tensor:
    logits = observation.logits[0].flatten(1)
    return torch.stack([(-logits).sigmoid(), logits.sigmoid()], -1)


def _categorical(observation: CategoricalObservation, symbols: int) -> Tensor:
    return observation.logits[0].flatten(2).softmax(1).transpose(1, 2)


def _logistic_mixture(observation: LogisticMixtureObservation, symbols: int) -> Tensor:
    """Differences of the distribution function between the ends of the bins; the outer bins take the tails."""
    weights, centres, rates = (
        part[0].flatten(2)[..., None]
        for part in (observation.log_weights.exp(), observation.centres, (-observation.log_scales).exp())
    )
    ends = torch.arange(1, symbols, dtype=centres.dtype) * (2 / (symbols - 1)) - 1 - 1 / (symbols - 1)
    below = torch.zeros(*centres.shape[::2], symbols - 1, dtype=centres.dtype)
    for weight, centre, rate in zip(*(part.unbind(1) for part in (weights, centres, rates)), strict=True):
        below += weight * ((ends - centre) * rate).sigmoid()
    return F.pad(below, (0, 1), value=1.0).diff(dim=-1, prepend=torch.zeros_like(below[..., :1])).clamp(min=0)


def _beta_binomial(observation: BetaBinomialObservation, symbols: int) -> Tensor:
    """By p(x + 1) / p(x) = (n - x) (x + α) / ((x + 1) (n - x - 1 + β)): a logarithm, where p takes three log-gammas."""
    alpha, beta = (part[0].flatten(1)[..., None].exp() for part in (observation.log_alpha, observation.log_beta))
    x = torch.arange(symbols - 1, dtype=alpha.dtype)
    left = symbols - 2 - x
    steps = (((left + 1) / (x + 1)) * (x + alpha) / (left + beta)).log()
    return F.pad(steps.cumsum(-1), (1, 0)).softmax(-1)


def _mixed(observation: MixedObservation, symbols: int) -> Tensor:
    """Columns with fewer levels than others have masses of 0 at the end."""
    tables = [F.pad(table[0].exp(), (0, symbols - table.shape[-1])) for table in observation.tables]
    return torch.stack(tables, 1)[:, observation.order]


def _counts(observation: Any, symbols: int) -> Tensor:
    """Of counts below `symbols`, in all 1: rows with a higher one are not to be coded."""
    like = observation.mean[0]
    each = [observation.per_entry(torch.full_like(like, count))[0].flatten(1) for count in range(symbols)]
    return torch.stack(each, -1).softmax(-1)


MASSES: dict[type, Callable[[Any, int], Tensor]] = {
    BernoulliObservation: _bernoulli,
    CategoricalObservation: _categorical,
    LogisticMixtureObservation: _logistic_mixture,
    BetaBinomialObservation: _beta_binomial,
    MixedObservation: _mixed,
    PoissonObservation: _counts,
    NegativeBinomialObservation: _counts,
    ZeroInflatedObservation: _counts,
}
