"""What an observation y = A x + noise says: log p(y|z), and x given z and y, for each likelihood it can be said of.

Shapes: K samples, B rows. Images are [K, B, C, H, W] on the data's own scale; p is what the decoder gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..data.transforms import Affine
from ..distributions.heavy_tails import LaplaceObservation
from ..distributions.incomplete import IncompleteObservation
from ..distributions.levels import BetaBinomialObservation
from ..distributions.normal import HALF_LOG_2PI
from ..distributions.observations import (
    BernoulliObservation,
    CategoricalObservation,
    ContinuousBernoulliObservation,
    NormalObservation,
    PoissonObservation,
)
from ..distributions.special import Generator
from .operators import Mask, Operator

MOST_ITERATIONS, SETTLED = 100, 1e-5  # of conjugate gradients; the relative residual at which they end
LEAST_VARIANCE = 1e-10  # on the model's scale: a probability that has become 0 in float32 is none


class Evidence(Protocol):
    """What is known of rows by an observation of each."""

    def log_prob(self, p: Any) -> Tensor:
        """log p(y|z) in nats on the data's own scale, float64 [K, B]."""

    def mean(self, p: Any) -> Tensor:
        """E[x|z, y]."""

    def sample(self, p: Any, generator: Generator) -> Tensor:
        """One draw of p(x|z, y) for each z."""


@dataclass(frozen=True)
class Known:
    """Entries that are known without noise: exact for every likelihood of single entries.

    Args:
        mask: Which.
        rows: As the model sees them, [B, C, H, W]; anything where they are hidden.
        given: On the data's own scale.
        transform: From that scale to the model's.
        nats: log |dy/dx| over the known entries of a row, where the likelihood is a density; else 0.
    """

    mask: Mask
    rows: Tensor
    given: Tensor
    transform: Affine
    nats: float

    def log_prob(self, p: Any) -> Tensor:
        """Σ over the known entries of log p(x_d|z)."""
        nats = plain(p).per_entry(self.rows)
        return torch.where(self.mask.known, nats, 0.0).flatten(2).sum(-1).double() + self.nats

    def mean(self, p: Any) -> Tensor:
        """Known entries as they were given, the mean of p(x|z) elsewhere."""
        return torch.where(self.mask.known, self.given, self.transform.inverse(plain(p).mean))

    def sample(self, p: Any, generator: Generator) -> Tensor:
        """Known entries as they were given, a draw of p(x|z) elsewhere."""
        return torch.where(self.mask.known, self.given, self.transform.inverse(plain(p).sample(generator)))


@dataclass(frozen=True)
class NoisyBits:
    r"""Bits of which some are known with Gaussian noise: exact, since p(x|z, y) is a Bernoulli with other logits.

    .. math:: \log p(y|z) = \log N(y; 0, \sigma^2) + \log \frac{1 + e^{l + (2 y - 1) / 2 \sigma^2}}{1 + e^l}

    Args:
        mask: Which.
        tilt: (2 y - 1) / 2 σ² on the model's scale, [B, C, H, W]; 0 where nothing is known.
        nats: Σ log N(y; 0, σ²) over known entries, [B].
        transform: From the data's own scale to the model's.
    """

    mask: Mask
    tilt: Tensor
    nats: Tensor
    transform: Affine

    def log_prob(self, p: Any) -> Tensor:
        """The sum over known entries."""
        logits = plain(p).logits
        gain = torch.nn.functional.softplus(logits + self.tilt) - torch.nn.functional.softplus(logits)
        return gain.flatten(2).sum(-1).double() + self.nats

    def mean(self, p: Any) -> Tensor:
        """The probability of a one, on the data's own scale."""
        return self.transform.inverse(BernoulliObservation(plain(p).logits + self.tilt).mean)

    def sample(self, p: Any, generator: Generator) -> Tensor:
        """Bits, on the data's own scale."""
        return self.transform.inverse(BernoulliObservation(plain(p).logits + self.tilt).sample(generator))


@dataclass(frozen=True)
class Moments:
    r"""A general operator, by mean m and variance v of each entry given z: exact where p(x|z) is Gaussian.

    .. math:: p(y|z) = N(y; A m, \mathrm{diag}(A^2 v + \sigma^2)), \quad
        E[x|z, y] = m + V A^T (A V A^T + \sigma^2)^{-1} (y - A m)

    The diagonal is the whole covariance where no entry enters two observed numbers, as in averages; in a blur it is
    an approximation, which leaves out how neighbours of y hang together through the noise of p(x|z).

    Where the likelihood is a mass, a variance that vanishes would make every other value impossible, which it is not:
    `rounding` keeps the density as wide as the steps between the values that y can have.

    Reference: Hoffman and Ribak, Constrained realizations of Gaussian fields, 1991 (the draw).

    Args:
        operator: A.
        y: Observed numbers, [B, *observed].
        noise: σ on the data's own scale.
        rounding: A variance beside σ² in the density, [*observed], or 0.
        transform: From that scale to the model's.
        fitted: Brings images to values the data can have.
    """

    operator: Operator
    y: Tensor
    noise: float
    rounding: Tensor | float
    transform: Affine
    fitted: Callable[[Tensor], Tensor]

    def log_prob(self, p: Any) -> Tensor:
        """The normal log-density."""
        mean, variance = self._moments(p)
        spread = (self.operator.squared(variance) + self.noise**2 + self.rounding).double()
        squares = (self.y - self.operator.forward(mean)).double().square()
        return -(0.5 * squares / spread + 0.5 * spread.log() + HALF_LOG_2PI).flatten(2).sum(-1)

    def mean(self, p: Any) -> Tensor:
        """The linear estimate of least squared error."""
        mean, variance = self._moments(p)
        return mean + self._pulled(variance, self.y - self.operator.forward(mean))

    def sample(self, p: Any, generator: Generator) -> Tensor:
        """A draw of p(x|z) and of the noise, pulled to the observation as the mean is; at values the data can have."""
        _, variance = self._moments(p)
        x = self.transform.inverse(plain(p).sample(generator))
        seen = self.operator.forward(x)
        seen = seen + self.noise * torch.randn(seen.shape, generator=generator, dtype=seen.dtype)
        return self.fitted(x + self._pulled(variance, self.y - seen))

    def _moments(self, p: Any) -> tuple[Tensor, Tensor]:
        variance = variance_of(p).clamp(min=LEAST_VARIANCE) * self.transform.scale.square()
        return self.transform.inverse(plain(p).mean), variance

    def _pulled(self, variance: Tensor, residual: Tensor) -> Tensor:
        """V Aᵀ (A V Aᵀ + σ²)⁻¹ r, by conjugate gradients: one step where no entry enters two observed numbers."""
        apart = residual.shape[2:].numel()

        def product(u: Tensor) -> Tensor:
            back = self.operator.forward(variance * self.operator.adjoint(u.view(residual.shape)))
            return back.flatten(2) + self.noise**2 * u

        spread = (self.operator.squared(variance) + self.noise**2).reshape(*residual.shape[:2], apart)
        return variance * self.operator.adjoint(_solved(product, spread, residual.flatten(2)).view(residual.shape))


def _solved(product: Callable[[Tensor], Tensor], diagonal: Tensor, right: Tensor) -> Tensor:
    """u with product(u) = right, all [K, B, N], by conjugate gradients preconditioned with the diagonal.

    Reference: Hestenes and Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, 1952.
    """
    u, left = torch.zeros_like(right), right
    scaled = left / diagonal
    direction, height = scaled, (left * scaled).sum(-1, keepdim=True)
    goal = SETTLED**2 * height
    for _ in range(MOST_ITERATIONS):
        if (height <= goal).all():
            break
        along = product(direction)
        step = height / (direction * along).sum(-1, keepdim=True).clamp(min=torch.finfo(right.dtype).tiny)
        u, left = u + step * direction, left - step * along
        scaled = left / diagonal
        before, height = height, (left * scaled).sum(-1, keepdim=True)
        direction = scaled + height / before.clamp(min=torch.finfo(right.dtype).tiny) * direction
    return u


def plain(p: Any) -> Any:
    """The distribution of complete rows."""
    return p.complete if isinstance(p, IncompleteObservation) else p


def variance_of(p: Any) -> Tensor:
    """Variance of each entry, [K, B, C, H, W].

    Raises:
        BadInput: for a likelihood of which it is not known here.
    """
    p = plain(p)
    if type(p) not in VARIANCES:
        rule = "the variance of its entries is not known here, which noise, averages and blurs need"
        raise BadInput("run", type(p).__name__, rule, "vaelab inpaint without noise works with it")
    return VARIANCES[type(p)](p)


def _of_levels(p: CategoricalObservation) -> Tensor:
    levels = torch.arange(p.logits.shape[2], dtype=p.logits.dtype, device=p.logits.device)
    squares = torch.tensordot(p.logits.softmax(2), levels.square(), dims=([2], [0]))
    return squares - p.mean.square()


def _of_continuous_bernoulli(p: ContinuousBernoulliObservation) -> Tensor:
    """1/l² - 1 / (4 sinh²(l/2)), and its series near 0."""
    near = p.logits.abs() < 0.5
    large = torch.where(near, 1.0, p.logits.clamp(-BENT, BENT))
    far = large.square().reciprocal() - 0.25 * (large / 2).sinh().square().reciprocal()
    small = torch.where(near, p.logits, 0.0).square()
    far = torch.where(p.logits.abs() > BENT, p.logits.square().clamp(min=1.0).reciprocal(), far)
    return torch.where(near, 1 / 12 - small / 240 + small.square() / 6048, far)


BENT = 50.0  # beyond, sinh overflows in its square, and 1/l² is all that counts


def _of_beta_binomial(p: BetaBinomialObservation) -> Tensor:
    share, both = (p.log_alpha - p.log_beta).sigmoid(), p.log_alpha.exp() + p.log_beta.exp()
    return p.total * share * (1 - share) * (both + p.total) / (both + 1)


VARIANCES: dict[type, Callable[[Any], Tensor]] = {
    BernoulliObservation: lambda p: p.mean * (1 - p.mean),
    ContinuousBernoulliObservation: _of_continuous_bernoulli,
    NormalObservation: lambda p: (2 * p.log_sigma(None)).exp().expand(p.mean.shape),
    LaplaceObservation: lambda p: 2 * (2 * p.log_scale(None)).exp().expand(p.mean.shape),
    CategoricalObservation: _of_levels,
    BetaBinomialObservation: _of_beta_binomial,
    PoissonObservation: lambda p: p.mean,
}
