"""Masses over the whole numbers 0, ..., levels - 1 that know of their order, and a few parameters for each entry."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .likelihood import Likelihood
from .normal import full_precision, soft_clamp
from .special import Generator, draw_log_gamma, log_choose, log_rising, per_row

LOG_SCALE_BOUND = 7.0
LOG_SHAPE_BOUND = 10.0
AT_ONCE = 2**20  # numbers at once in a mean over all levels


class LogisticMixtureObservation:
    """Mass of a mixture of logistic densities over [-1, 1] that falls into the bin of x; outer bins take the tails.

    Of one component it is σ(b) - σ(a) at the standardised ends a < b of the bin, and exactly
    log(σ(b) - σ(a)) = log σ(b) + log σ(-a) + log(1 - e^(a-b)), where no term cancels another however far x lies off.

    Args:
        log_weights: log π, [K, B, M, *shape].
        centres: [K, B, M, *shape], on the scale where 0 is -1 and levels - 1 is 1.
        log_scales: [K, B, M, *shape].
        levels: Whole numbers there are.
    """

    def __init__(self, log_weights: Tensor, centres: Tensor, log_scales: Tensor, levels: int) -> None:
        self.log_weights, self.centres, self.log_scales, self.levels = log_weights, centres, log_scales, levels

    @property
    def _half(self) -> float:
        """Half the width of a bin."""
        return 1 / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """Σ_j P(x ≥ j) over j = 1, ..., levels - 1, [K, B, *shape]."""
        rates, total = (-self.log_scales).exp(), torch.zeros_like(self.centres)
        ends = torch.arange(1, self.levels, dtype=rates.dtype, device=rates.device) * (2 * self._half) - self._half - 1
        for part in ends.split(max(1, AT_ONCE // rates.numel())):
            total = total + ((self.centres[..., None] - part) * rates[..., None]).sigmoid().sum(-1)
        return (self.log_weights.exp() * total).sum(2)

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-mass in nats of each entry of whole numbers x [B, *shape], [K, B, *shape]."""
        levels = x.to(self.centres.dtype).unsqueeze(1)
        rates = (-self.log_scales).exp()
        offset = (levels * (2 * self._half) - 1 - self.centres) * rates
        above, below = offset + self._half * rates, offset - self._half * rates
        log_mass = torch.where(levels == self.levels - 1, 0.0, F.logsigmoid(above))
        log_mass = log_mass + torch.where(levels == 0, 0.0, F.logsigmoid(-below))
        inner = (levels > 0) & (levels < self.levels - 1)
        log_mass = log_mass + torch.where(inner, (-(-2 * self._half * rates).expm1()).log(), 0.0)
        return (self.log_weights + log_mass).logsumexp(2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of whole numbers x [B, *shape], [K, B]."""
        return per_row(self.per_entry(x))

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Whole numbers in the parameters' type, [K, B, *shape]."""
        table = self.log_weights.exp().movedim(2, -1)
        chosen = torch.multinomial(table.flatten(0, -2), 1, generator=generator)
        chosen = chosen.view(table.shape[:-1]).unsqueeze(2)
        centre, log_scale = (part.gather(2, chosen).squeeze(2) for part in (self.centres, self.log_scales))
        uniform = torch.empty_like(centre).uniform_(generator=generator)
        drawn = centre + log_scale.exp() * uniform.logit(eps=torch.finfo(centre.dtype).eps / 4)
        return ((drawn + 1) / (2 * self._half)).round().clamp(0, self.levels - 1)


class BetaBinomialObservation:
    """Mass C(n, x) B(x + α, n - x + β) / B(α, β) of each entry, with n = levels - 1.

    Args:
        log_alpha, log_beta: [K, B, *shape].
        levels: n + 1.
    """

    def __init__(self, log_alpha: Tensor, log_beta: Tensor, levels: int) -> None:
        self.log_alpha, self.log_beta, self.total = log_alpha, log_beta, levels - 1

    @property
    def mean(self) -> Tensor:
        """n α / (α + β), [K, B, *shape]."""
        return self.total * (self.log_alpha - self.log_beta).sigmoid()

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-mass in nats of each entry of whole numbers x [B, *shape], float64 [K, B, *shape]."""
        alpha, beta, ones = self.log_alpha.double().exp(), self.log_beta.double().exp(), x.double()
        total = torch.full_like(ones, self.total)
        rising = log_rising(alpha, ones) + log_rising(beta, total - ones) - log_rising(alpha + beta, total)
        return rising + log_choose(total, ones)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of whole numbers x [B, *shape], [K, B]."""
        return per_row(self.per_entry(x)).to(self.log_alpha.dtype)

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Whole numbers in the parameters' type, [K, B, *shape]."""
        alpha, beta = (draw_log_gamma(part.double().exp(), generator) for part in (self.log_alpha, self.log_beta))
        share = (alpha - beta).sigmoid()
        return torch.binomial(torch.full_like(share, self.total), share, generator=generator).to(self.log_alpha.dtype)


class Levels(Likelihood):
    """A mass over whole numbers 0, ..., levels - 1.

    Args:
        levels: How many there are.
    """

    discrete = True

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = levels
        self.support = f"whole numbers from 0 to {levels - 1}"

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of x are levels."""
        return (x >= 0) & (x < self.levels) & (x == x.round())


class LogisticMixture(Levels):
    """A mixture of logistic densities, read off in bins: levels that lie close together are alike from the start.

    Args:
        levels: Whole numbers there are.
        components: Logistic densities that are mixed; each takes a weight, a centre and a log-scale of each entry.

    References:
        Salimans, Karpathy, Chen and Kingma, PixelCNN++: improving the PixelCNN with discretized logistic mixture
        likelihood and other modifications, 2017.
    """

    def __init__(self, levels: int = 256, components: int = 5) -> None:
        super().__init__(levels)
        self.components = components
        self.channels = 3 * components

    def forward(self, parameters: Tensor) -> LogisticMixtureObservation:
        """The distribution of x at logits, centres and log-scales, [K, B, 3 * components, *shape]."""
        logits, centres, log_scales = full_precision(parameters).split(self.components, dim=2)
        log_scales = soft_clamp(log_scales, LOG_SCALE_BOUND)
        return LogisticMixtureObservation(logits.log_softmax(2), centres, log_scales, self.levels)


class BetaBinomial(Levels):
    """A binomial whose probability varies as a beta distribution: two parameters for each entry, and any spread.

    At parameters 0 all levels have equal mass.

    Args:
        levels: Whole numbers there are; levels - 1 are the trials.
    """

    channels = 2

    def forward(self, parameters: Tensor) -> BetaBinomialObservation:
        """The distribution of x at log α and log β, softly clamped, [K, B, 2, *shape]."""
        log_alpha, log_beta = soft_clamp(full_precision(parameters), LOG_SHAPE_BOUND).unbind(2)
        return BetaBinomialObservation(log_alpha, log_beta, self.levels)
