"""Masses over counts: Poisson, negative binomial with and without further zeros, and multinomial."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.batch import Batch, rows_of
from .likelihood import LOG_RATE_BOUND, CountLikelihood, only
from .normal import full_precision, soft_clamp, soft_unclamp
from .observations import Generator, PoissonObservation
from .special import draw_log_gamma, log_rising, per_row

LOG_DISPERSION_BOUND = 15.0
LEAST_DISPERSION, MOST_DISPERSION = 1e-3, 1e3  # that a decoder starts with
BEGIN_ZEROS = -2.0  # logit of the share of further zeros that a decoder starts with


class NegativeBinomialObservation:
    """Mass of counts with mean μ and variance μ + φ μ²: a Poisson whose rate is gamma distributed.

    With r = 1/φ it is Γ(x + r) / (Γ(r) x!) (r / (r + μ))^r (μ / (r + μ))^x. The sums are taken in float64.

    Args:
        log_mean: log μ, [K, B, *shape].
        log_dispersion: log φ, [K, B, *shape]; as φ goes to 0 the mass becomes a Poisson's.
    """

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor) -> None:
        self.log_mean, self.log_dispersion = log_mean, log_dispersion

    @property
    def mean(self) -> Tensor:
        """μ, [K, B, *shape]."""
        return self.log_mean.exp()

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-mass in nats of each entry of counts x [B, *shape], float64 [K, B, *shape]."""
        counts, log_dispersion = x.double(), self.log_dispersion.double()
        size, odds = (-log_dispersion).exp(), self.log_mean.double() + log_dispersion
        ways = log_rising(size, counts) - (counts + 1).lgamma()
        return ways + size * F.logsigmoid(-odds) + counts * F.logsigmoid(odds)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of counts x [B, *shape], [K, B]."""
        return per_row(self.per_entry(x)).to(self.log_mean.dtype)

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Counts in the parameters' type, [K, B, *shape]."""
        log_dispersion = self.log_dispersion.double()
        log_rate = draw_log_gamma((-log_dispersion).exp(), generator) + log_dispersion + self.log_mean
        return torch.poisson(log_rate.exp(), generator=generator).to(self.log_mean.dtype)


class ZeroInflatedObservation:
    """Mass of counts that are 0 with a probability of their own, and else follow another observation of counts.

    Args:
        counts: What they follow.
        logit: Of the probability of a further zero, [K, B, *shape].
    """

    def __init__(self, counts: NegativeBinomialObservation, logit: Tensor) -> None:
        self.counts, self.logit = counts, logit

    @property
    def mean(self) -> Tensor:
        """The counts' mean times the probability that nothing made it 0, [K, B, *shape]."""
        return self.counts.mean * (-self.logit).sigmoid()

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-mass in nats of each entry of counts x [B, *shape], float64 [K, B, *shape]."""
        logit = self.logit.double()
        counted = F.logsigmoid(-logit) + self.counts.per_entry(x)
        return torch.where(x == 0, torch.logaddexp(F.logsigmoid(logit), counted), counted)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of counts x [B, *shape], [K, B]."""
        return per_row(self.per_entry(x)).to(self.logit.dtype)

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Counts in the parameters' type, [K, B, *shape]."""
        kept = (-self.logit).sigmoid().bernoulli(generator=generator)
        return self.counts.sample(generator) * kept


class MultinomialObservation:
    """Mass N! / Π x! Π p^x of a row of counts with N = Σ x: how a total falls on the entries.

    The total of a row is taken from the row, and has no probability of its own.

    Args:
        log_shares: log p, [K, B, *shape]; p adds up to 1 over a row.
        total: Of a row that is drawn, and of the mean, where none is at hand to take it from.
    """

    def __init__(self, log_shares: Tensor, total: Tensor) -> None:
        self.log_shares, self.total = log_shares, total

    @property
    def mean(self) -> Tensor:
        """The total times p, [K, B, *shape]."""
        return self.total * self.log_shares.exp()

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of counts x [B, *shape] given their total, [K, B]."""
        counts = x.double()
        ways = (counts.flatten(1).sum(1) + 1).lgamma() - (counts + 1).lgamma().flatten(1).sum(1)
        return (per_row(counts * self.log_shares.double()) + ways).to(self.log_shares.dtype)

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Counts in the parameters' type that add up to the total, rounded, [K, B, *shape]."""
        shares = self.log_shares.double().flatten(2).exp()
        left = self.total.round().double().expand(shares.shape[:2]).clone()
        # What is left of the total falls on each entry in turn with its share of the shares that are left.
        behind = shares.flip(-1).cumsum(-1).flip(-1).clamp(min=torch.finfo(shares.dtype).tiny)
        drawn = torch.empty_like(shares)
        for entry in range(shares.shape[-1]):
            odds = (shares[..., entry] / behind[..., entry]).clamp(max=1)
            drawn[..., entry] = left if entry == shares.shape[-1] - 1 else torch.binomial(left, odds, generator)
            left = left - drawn[..., entry]
        return drawn.view(self.log_shares.shape).to(self.log_shares.dtype)


class Poisson(CountLikelihood):
    """A mass over counts; the decoder gives the log-rate, softly clamped to ±20.

    The logarithm is the link under which the gradient is x - λ, bounded as λ goes to 0 (with a softplus it is x / λ);
    the clamp keeps e^20, half a thousand million, as the highest rate and λ finite.
    """

    def forward(self, parameters: Tensor) -> PoissonObservation:
        """The distribution of x at log-rates [K, B, 1, *shape]."""
        return PoissonObservation(soft_clamp(only(parameters), LOG_RATE_BOUND))

    def at_moments(self, mean: Tensor, variance: Tensor) -> Tensor:
        """The log-rate of each entry, [1, D]."""
        return soft_unclamp(mean.log(), LOG_RATE_BOUND)[None]


class NegativeBinomial(CountLikelihood):
    """Counts that vary more than a Poisson's: log-mean and log-dispersion of each entry, softly clamped.

    The dispersion φ is that of the variance μ + φ μ²; 1/φ is called the size, or the inverse dispersion.

    References:
        Lopez, Regier, Cole, Jordan and Yosef, Deep generative modeling for single-cell transcriptomics, 2018.
    """

    channels = 2

    def forward(self, parameters: Tensor) -> NegativeBinomialObservation:
        """The distribution of x at log μ and log φ, [K, B, 2, *shape]."""
        log_mean, log_dispersion = full_precision(parameters).unbind(2)
        return NegativeBinomialObservation(
            soft_clamp(log_mean, LOG_RATE_BOUND), soft_clamp(log_dispersion, LOG_DISPERSION_BOUND)
        )

    def at_moments(self, mean: Tensor, variance: Tensor) -> Tensor:
        """log μ, and log of (variance - mean) / mean², [2, D]."""
        dispersion = ((variance - mean) / mean.square()).clamp(LEAST_DISPERSION, MOST_DISPERSION)
        log_mean = soft_unclamp(mean.log(), LOG_RATE_BOUND)
        return torch.stack([log_mean, soft_unclamp(dispersion.log(), LOG_DISPERSION_BOUND)])


class ZeroInflatedNegativeBinomial(CountLikelihood):
    """A negative binomial, and a probability of each entry that a count was lost and reads 0."""

    channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.counts = NegativeBinomial()

    def forward(self, parameters: Tensor) -> ZeroInflatedObservation:
        """The distribution of x at log μ, log φ and the logit of a further zero, [K, B, 3, *shape]."""
        return ZeroInflatedObservation(self.counts(parameters[:, :, :2]), full_precision(parameters).select(2, 2))

    def at_moments(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Those of a negative binomial of as much higher a mean, and few further zeros, [3, D]."""
        logit = torch.full_like(mean, BEGIN_ZEROS)
        return torch.cat([self.counts.at_moments(mean / (-logit).sigmoid(), variance), logit[None]])


class Multinomial(CountLikelihood):
    """How a row's total falls on its entries; a row is given its own total, which costs nothing.

    Where a row is made from a code alone, by `mean` and `sample`, its total is that of the training rows on average,
    which `see` takes down; 1 before that, so that the mean is the shares.
    """

    by_entry = False
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.ones(()))

    def see(self, rows: Tensor | Batch) -> None:
        """Takes down the mean total of training rows [n, ...]."""
        self.total.copy_(rows_of(rows).flatten(1).sum(1).double().mean())

    def forward(self, parameters: Tensor) -> MultinomialObservation:
        """The distribution of x at logits [K, B, 1, *shape], which are compared over all entries of a row."""
        logits = only(parameters)
        return MultinomialObservation(logits.flatten(2).log_softmax(-1).view(logits.shape), self.total)

    def at_moments(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Logits of which the softmax are the shares, [1, D]."""
        return (mean / mean.mean()).log()[None]
