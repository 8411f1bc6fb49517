"""Densities of real numbers with heavier tails than the normal one: single values far out cost less, and pull less."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..core.errors import BadInput
from ..core.facts import Shape
from .likelihood import Likelihood
from .noise import build_noise
from .normal import full_precision, soft_clamp
from .special import Generator, draw_log_gamma, per_row

LOG_2 = math.log(2)
EXCESS_BOUND = 9.0  # of log(ν - 2); e^9 degrees are a normal density to four digits
BEGIN_EXCESS = EXCESS_BOUND * math.atanh(math.log(3.0) / EXCESS_BOUND)  # ν = 5: outliers make it less, clean rows more


class LaplaceObservation:
    """Density exp(-|x - mean| / b) / 2b of each entry.

    Args:
        mean: [K, B, *shape].
        log_scale: log b, broadcastable to the mean, as a function of the absolute errors [K, B, *shape], or of None
            where there are none: a width in closed form is a function of them, others are not.
    """

    def __init__(self, mean: Tensor, log_scale: Callable[[Tensor | None], Tensor]) -> None:
        self.mean, self.log_scale = mean, log_scale

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-density in nats of each entry of x [B, *shape], [K, B, *shape]."""
        errors = (x - self.mean).abs()
        log_scale = self.log_scale(errors)
        return -(errors * (-log_scale).exp() + log_scale + LOG_2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of x [B, *shape], [K, B]."""
        return per_row(self.per_entry(x))

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """The difference of two exponential draws, [K, B, *shape]."""
        ahead, behind = (torch.empty_like(self.mean).exponential_(generator=generator) for _ in range(2))
        return self.mean + self.log_scale(None).exp() * (ahead - behind)


class StudentTObservation:
    """Density Γ((ν+1)/2) / (Γ(ν/2) √(νπ) σ) (1 + t²/ν)^(-(ν+1)/2) of each entry, with t = (x - mean) / σ.

    Args:
        mean: [K, B, *shape].
        log_sigma: log σ, broadcastable to the mean.
        degrees: ν, a scalar above 2, so that mean and variance exist.
    """

    def __init__(self, mean: Tensor, log_sigma: Tensor, degrees: Tensor) -> None:
        self.mean, self.log_sigma, self.degrees = mean, log_sigma, degrees

    @property
    def variance(self) -> Tensor:
        """σ² ν / (ν - 2), broadcastable to the mean."""
        return (2 * self.log_sigma).exp() * self.degrees / (self.degrees - 2)

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-density in nats of each entry of x [B, *shape], [K, B, *shape]."""
        half = 0.5 * self.degrees.double()  # the difference of two lgamma has few digits left in float32
        constant = (half + 0.5).lgamma() - half.lgamma() - 0.5 * (2 * math.pi * half).log()
        squares = ((x - self.mean) * (-self.log_sigma).exp()).double().square()  # beyond float32 for x = 1e20
        entries = (half + 0.5) * (squares / self.degrees).log1p() + self.log_sigma
        return (constant - entries).to(self.mean.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of x [B, *shape], [K, B]."""
        return per_row(self.per_entry(x))

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """A normal draw over the root of a gamma draw of mean 1, [K, B, *shape]."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        half = (0.5 * self.degrees).to(noise.dtype).expand_as(noise)
        log_precision = draw_log_gamma(half, generator) - half.log()
        return self.mean + (self.log_sigma - 0.5 * log_precision).exp() * noise


class Laplace(Likelihood):
    """A Laplace density around the decoder's output: the absolute error, with a width b.

    Args:
        noise: `fixed`: b is `sigma`; `shared`: one learned width; `feature`: one for each entry; `pixel`: one from z
            for each entry; `optimal`: the batch's mean absolute error.
        sigma: The fixed width, or where learned ones and the optimal one begin.
        shape: Of a row, which `feature` needs.
        floor: Of `feature`, in quadrature: no learned deviation is below it.

    Raises:
        BadInput: for an unknown noise, and for sigma not above 0.
    """

    discrete = False

    def __init__(self, noise: str = "shared", sigma: float = 1.0, shape: Shape = (), floor: float = 0.0) -> None:
        super().__init__()
        self.noise = build_noise(noise, sigma, power=1, shape=shape, floor=floor)
        self.channels = 2 if noise == "pixel" else 1

    def forward(self, parameters: Tensor) -> LaplaceObservation:
        """The distribution of x at means, and log-widths where they are per entry, [K, B, channels, *shape]."""
        parameters = full_precision(parameters)
        return LaplaceObservation(parameters.select(2, 0), partial(self.noise, parameters[:, :, 1:]))


class StudentT(Likelihood):
    """Student's t density around the decoder's output, with learned degrees of freedom ν > 2 for all entries.

    The tails fall as |x|^-(ν+1): an entry ten widths off pulls at the decoder less than one a width off.

    Args:
        noise: Of the width σ, as a Gaussian's: `fixed`, `shared`, `feature` or `pixel`; it has no closed form.
        sigma: The fixed width, or where learned ones begin.
        shape: Of a row, which `feature` needs.
        floor: Of `feature`, in quadrature: no learned deviation is below it.

    References:
        Lange, Little and Taylor, Robust statistical modeling using the t distribution, 1989.

    Raises:
        BadInput: for an unknown noise, for `optimal`, and for sigma not above 0.
    """

    discrete = False

    def __init__(self, noise: str = "shared", sigma: float = 1.0, shape: Shape = (), floor: float = 0.0) -> None:
        super().__init__()
        if noise == "optimal":
            rule = "the best width of a student_t has no closed form"
            raise BadInput("likelihood.noise", noise, rule, "use shared, feature, fixed or pixel")
        self.noise = build_noise(noise, sigma, shape=shape, floor=floor)
        self.channels = 2 if noise == "pixel" else 1
        self.log_excess = nn.Parameter(torch.tensor(BEGIN_EXCESS))

    @property
    def degrees(self) -> Tensor:
        """ν = 2 + exp(log_excess), softly clamped, a scalar."""
        return 2 + soft_clamp(self.log_excess, EXCESS_BOUND).exp()

    def forward(self, parameters: Tensor) -> StudentTObservation:
        """The distribution of x at means, and log-widths where they are per entry, [K, B, channels, *shape]."""
        parameters = full_precision(parameters)
        return StudentTObservation(parameters.select(2, 0), self.noise(parameters[:, :, 1:], None), self.degrees)
