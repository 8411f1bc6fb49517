"""Mixtures of logistic distributions for columns of a table: a density of real numbers, a mass of whole ones.

Shapes: K samples, B rows, D columns, M components.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_SCALE_BOUND = math.log(100.0)
NARROWEST = 1e-2  # of a column's deviation: the spread of a component where many rows share one value
LEAST_DEVIATION = 1e-12  # of a column's largest number; what is below is rounding of a constant


class LogisticMixtures:
    """p(x) = sum_m w_m f((x - μ_m) / s_m) / s_m for each column, with f(t) = σ(t) σ(-t).

    A column of whole numbers has the mass of the interval [x - 1/2, x + 1/2] instead; 0 has all that is below 1/2.

    Args:
        log_weight: log w, [K, B, D, M].
        center: μ, likewise.
        log_scale: log s, likewise.
        whole: Which columns hold whole numbers of at least 0, [D].

    References:
        Salimans, Karpathy, Chen and Kingma, PixelCNN++, 2017, for the mass of whole numbers.

    Example:
        >>> one = torch.zeros(1, 1, 1, 1)
        >>> LogisticMixtures(one, one, one, torch.tensor([False])).log_prob(torch.zeros(1, 1)).exp()
        tensor([[[0.2500]]])
    """

    def __init__(self, log_weight: Tensor, center: Tensor, log_scale: Tensor, whole: Tensor) -> None:
        self.log_weight, self.center, self.log_scale, self.whole = log_weight, center, log_scale, whole

    @property
    def mean(self) -> Tensor:
        """sum w μ, [K, B, D]; of whole numbers that of the part above 0, s log(1 + exp(μ / s)), to within rounding."""
        scale = self.log_scale.exp()
        center = torch.where(self.whole[:, None], scale * F.softplus(self.center / scale), self.center)
        return (self.log_weight.exp() * center).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density or log-mass in nats of every entry of x [B, D], [K, B, D]."""
        inverse = (-self.log_scale).exp()
        at = (x[..., None] - self.center) * inverse
        density = F.logsigmoid(at) + F.logsigmoid(-at) - self.log_scale
        if self.whole.any():
            mass = _log_between(at, inverse / 2, (x <= 0)[..., None])
            density = torch.where(self.whole[:, None], mass, density)
        return (self.log_weight + density).logsumexp(-1)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw of every entry, [K, B, D]."""
        weight = self.log_weight.exp()
        chosen = torch.multinomial(weight.flatten(0, -2), 1, generator=generator).view(*weight.shape[:-1], 1)
        center, log_scale = (part.gather(-1, chosen)[..., 0] for part in (self.center, self.log_scale))
        uniform = torch.rand(center.shape, generator=generator, dtype=center.dtype, device=center.device)
        x = center + log_scale.exp() * uniform.logit(eps=torch.finfo(center.dtype).eps / 4)
        return torch.where(self.whole, (x + 0.5).floor().clamp(min=0), x)


def _log_between(at: Tensor, half: Tensor, lowest: Tensor) -> Tensor:
    """log(σ(a + h) - σ(a - h)), and log σ(a + h) where there is nothing below.

    Written as log(1 - e^-2h) + log σ(a + h) + log σ(h - a), which loses no digit however narrow the interval is.
    """
    above = F.logsigmoid(at + half)
    return torch.where(lowest, above, above + F.logsigmoid(half - at) + (-(-2 * half).expm1()).log())


def spread_out(x: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Centres and scales of components that share out the rows of x [N, D] evenly, both [D, M]; NaN is left out.

    A centre is the middle of its share of the rows, and a scale a quarter of the share's width: the middle half of a
    logistic distribution is 2.2 scales wide. Columns without a value are taken as 0.
    """
    if not x.shape[1]:
        return x.new_zeros(0, components), x.new_ones(0, components)
    shares = torch.linspace(0, 1, 2 * components + 1, dtype=x.dtype, device=x.device)
    quantiles = torch.nanquantile(x, shares, dim=0).nan_to_num().T
    _, deviation = known_moments(x)
    least = torch.where(deviation > 0, deviation * NARROWEST, 1.0)
    width = (quantiles[:, 2::2] - quantiles[:, :-1:2]) / 4
    return quantiles[:, 1::2].contiguous(), torch.maximum(width, least[:, None])


def known_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the columns of x [N, D], float64; NaN is left out, and a constant has no deviation.

    Example:
        >>> known_moments(torch.tensor([[0.1, 3e-20], [0.1, 1e-20], [0.1, torch.nan]]).double())[1] > 0
        tensor([False,  True])
    """
    known = ~x.isnan()
    count = known.sum(0).clamp(min=1)
    filled = torch.where(known, x, 0.0)
    mean = filled.sum(0) / count
    deviation = (torch.where(known, filled - mean, 0.0).square().sum(0) / count).sqrt()
    varies = deviation > LEAST_DEVIATION * filled.abs().amax(0)
    return mean, torch.where(varies, deviation, 0.0)
