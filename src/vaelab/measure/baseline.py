"""The best decoder that ignores z: what a model has to beat before its code says anything of a row."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.missing import stood_in
from ..distributions.counts import Multinomial
from ..distributions.heavy_tails import Laplace
from ..distributions.incomplete import Incomplete, complete_of
from ..distributions.likelihoods import (
    LOG_RATE_BOUND,
    LOG_SIGMA_BOUND,
    SMALLEST_VARIANCE,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    FeatureNoise,
    Gaussian,
    OptimalNoise,
    PixelNoise,
    Poisson,
    SharedNoise,
)
from ..distributions.mixed import Mixed
from ..distributions.normal import soft_unclamp
from ..distributions.observations import ContinuousBernoulliObservation

MOST_ROWS = 2000  # the standard error is then a few hundredths of the spread over rows
MOST_VALUES = 2**26  # parameters looked at in all, which a categorical with 256 for each entry needs: about a second
CHUNK_VALUES = 2**22  # parameters at once: 32 MiB in float64
BISECTIONS = 64  # halvings of an interval: all the digits of a float64


def baseline(likelihood: Any, train: Tensor, held_out: Tensor) -> tuple[float, float] | None:
    """Mean negative log-likelihood of held-out rows under the best constant decoder, and its standard error, in nats.

    The parameters of each entry, and the likelihood's own noise, maximise the likelihood of the training rows; all have
    closed forms but the continuous Bernoulli, whose mean is inverted by bisection. One made-up row is counted with
    the training rows, so that an entry which is constant there cannot cost an infinity on a held-out row: it holds
    one half (Bernoulli and its continuous relative), the mean of all entries (Poisson, multinomial), each level with
    equal weight (categorical), or an error of the average size (a Gaussian or Laplace with noise for each entry).
    Where entries are missing the fit is to known ones of their column in turn, which keeps its mean and spread.

    Args:
        likelihood: The decoder's likelihood module; it is left as it is.
        train, held_out: Rows as the likelihood sees them, [N, *shape]; evenly spaced ones where there are many.

    Returns:
        None where the likelihood is none of `FITS`.

    Example:
        >>> rows = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).repeat(500, 1)
        >>> mean, error = baseline(Bernoulli(), rows, rows)
        >>> round(mean, 2)
        0.69
    """
    complete = complete_of(likelihood)
    fit = FITS.get(type(complete))
    if fit is None:
        return None
    fitted = copy.deepcopy(likelihood).double().eval().requires_grad_(False)
    most = min(MOST_ROWS, max(1, MOST_VALUES // (fitted.channels * train[0].numel())))
    rows = train[spaced(len(train), most)].double()
    if isinstance(likelihood, Incomplete):
        rows = torch.from_numpy(stood_in(rows.flatten(1).cpu().numpy())).view(rows.shape).to(rows.device)
    parameters = fit(complete_of(fitted), rows)
    size = max(1, CHUNK_VALUES // parameters.numel())
    rows = held_out[spaced(len(held_out), most)].double()
    nats = torch.cat([_nats(fitted, parameters, part) for part in rows.split(size)])
    return nats.mean().item(), nats.std(correction=min(1, len(nats) - 1)).item() / math.sqrt(len(nats))


def spaced(count: int, most: int = MOST_ROWS) -> Tensor:
    """Indices of at most so many of `count` rows, evenly spaced, since rows often come in the order of their labels.

    Example:
        >>> spaced(10, 4)
        tensor([0, 3, 6, 9])
    """
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).long()


@torch.no_grad()
def _nats(likelihood: Any, parameters: Tensor, x: Tensor) -> Tensor:
    """-log p(x) of rows x [B, *shape] under parameters [channels, *shape], [B]."""
    return -likelihood(parameters.expand(1, len(x), *parameters.shape)).log_prob(x)[0]


def _mean_with(made_up: float | Tensor, x: Tensor) -> Tensor:
    """The mean of each entry over the rows and a made-up one."""
    return (x.sum(0) + made_up) / (len(x) + 1)


def _bernoulli(likelihood: Bernoulli, x: Tensor) -> Tensor:
    return _mean_with(0.5, x).logit()[None]


def _continuous_bernoulli(likelihood: ContinuousBernoulli, x: Tensor) -> Tensor:
    mean = _mean_with(0.5, x)
    high = torch.full_like(mean, 4.0 * (len(x) + 1))  # the mean there, about 1 - 1 / l, is beyond any that can be asked
    low = -high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = ContinuousBernoulliObservation(middle).mean > mean
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2)[None]


def _gaussian(likelihood: Gaussian, x: Tensor) -> Tensor:
    mean, squares = x.mean(0), (x - x.mean(0)).square()
    variance = squares.mean().clamp(min=SMALLEST_VARIANCE)
    noise = likelihood.noise
    if isinstance(noise, PixelNoise):
        return torch.stack([mean, soft_unclamp(0.5 * _mean_with(variance, squares).log(), LOG_SIGMA_BOUND)])
    each = _mean_with(variance, squares).sqrt() if isinstance(noise, FeatureNoise) else variance.sqrt()
    _set_noise(noise, each, variance)
    return mean[None]


def _laplace(likelihood: Laplace, x: Tensor) -> Tensor:
    median = x.median(0).values
    errors = (x - median).abs()
    width = errors.mean().clamp(min=SMALLEST_VARIANCE**0.5)
    if isinstance(likelihood.noise, PixelNoise):
        return torch.stack([median, soft_unclamp(_mean_with(width, errors).log(), LOG_SIGMA_BOUND)])
    each = _mean_with(width, errors) if isinstance(likelihood.noise, FeatureNoise) else width
    _set_noise(likelihood.noise, each, width)
    return median[None]


def _multinomial(likelihood: Multinomial, x: Tensor) -> Tensor:
    return _mean_with(x.mean(), x).log()[None]


def _set_noise(noise: Any, sigma: Tensor, powered: Tensor) -> None:
    """Sets a learned noise, or one in closed form by its mean power of the errors."""
    if isinstance(noise, SharedNoise):
        noise.log_sigma.copy_(sigma.log())
    if isinstance(noise, FeatureNoise):
        noise.log_sigma.copy_(soft_unclamp(sigma.log(), LOG_SIGMA_BOUND))
    if isinstance(noise, OptimalNoise):
        noise.weighted.copy_(powered), noise.weight.fill_(1.0)


def _categorical(likelihood: Categorical, x: Tensor) -> Tensor:
    levels, entries = likelihood.channels, x[0].numel()
    cells = x.reshape(len(x), entries).long() + levels * torch.arange(entries, device=x.device)
    counts = torch.bincount(cells.flatten(), minlength=levels * entries).double().reshape(entries, levels)
    return ((counts + 1 / levels) / (len(x) + 1)).log().T.reshape(levels, *x.shape[1:])


def _poisson(likelihood: Poisson, x: Tensor) -> Tensor:
    return soft_unclamp(_mean_with(x.mean(), x).log(), LOG_RATE_BOUND)[None]


def _mixed(likelihood: Mixed, x: Tensor) -> Tensor:
    likelihood.see(x)
    return x.new_zeros(likelihood.layout(tuple(x.shape[1:])))


FITS: dict[type, Callable[[Any, Tensor], Tensor]] = {
    Mixed: _mixed,
    Bernoulli: _bernoulli,
    ContinuousBernoulli: _continuous_bernoulli,
    Gaussian: _gaussian,
    Laplace: _laplace,
    Categorical: _categorical,
    Poisson: _poisson,
    Multinomial: _multinomial,
}
