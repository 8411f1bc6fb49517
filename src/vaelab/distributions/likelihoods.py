"""Likelihoods p(x|z): modules that turn a decoder network's output into a distribution of x, and the decoder itself.

Layout of the parameters: [K, B, channels, *shape], where `channels` counts the parameters of one data entry.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.across import global_mean
from ..core.errors import BadInput
from ..core.tables import pick
from .normal import full_precision, soft_clamp
from .observations import (
    BernoulliObservation,
    CategoricalObservation,
    ContinuousBernoulliObservation,
    NormalObservation,
    Observation,
    PoissonObservation,
)

LOG_SIGMA_BOUND = 7.0
LOG_RATE_BOUND = 20.0
SMALLEST_VARIANCE = 1e-12


class Likelihood(nn.Module):
    """What every likelihood is.

    Attributes:
        channels: Parameters of one data entry, which the decoder network has to give.
        discrete: True for a mass over values that can be counted, False for a density.
        support: Where entries lie, in words.
    """

    channels: int = 1
    discrete: bool
    support = "finite numbers"

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of x, of any shape, lie where there is mass or density."""
        return x.isfinite()

    @abstractmethod
    def forward(self, parameters: Tensor) -> Observation:
        """The distribution of x at parameters [K, B, channels, *shape]."""


class Bernoulli(Likelihood):
    """p(x|z) of binary entries, on logits; gray levels in [0, 1] are allowed, and the number is then only a loss."""

    discrete = True
    support = "numbers in [0, 1]"

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of x lie in [0, 1], but for rounding."""
        return (x >= -1e-6) & (x <= 1 + 1e-6)

    def forward(self, parameters: Tensor) -> BernoulliObservation:
        """The distribution of x at logits [K, B, 1, *shape]."""
        return BernoulliObservation(_only(parameters))


class ContinuousBernoulli(Likelihood):
    """A density on [0, 1], on logits."""

    discrete = False
    support, holds = Bernoulli.support, Bernoulli.holds

    def forward(self, parameters: Tensor) -> ContinuousBernoulliObservation:
        """The distribution of x at logits [K, B, 1, *shape]."""
        return ContinuousBernoulliObservation(_only(parameters))


class Gaussian(Likelihood):
    """A normal density around the decoder's output.

    Args:
        noise: `fixed`: the deviation is `sigma`; `shared`: one learned deviation; `pixel`: one from z for each entry;
            `optimal`: in closed form from the batch.
        sigma: The fixed deviation, or where the shared and the optimal one begin.

    Raises:
        BadInput: for an unknown noise, and for sigma not above 0.
    """

    discrete = False

    def __init__(self, noise: str = "shared", sigma: float = 1.0) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise BadInput("likelihood.sigma", sigma, "must be a finite number above 0")
        self.noise = pick(NOISES, noise, "likelihood.noise")(math.log(sigma))
        self.channels = 2 if noise == "pixel" else 1

    def forward(self, parameters: Tensor) -> NormalObservation:
        """The distribution of x at means, and log-deviations where they are per entry, [K, B, channels, *shape]."""
        parameters = full_precision(parameters)
        return NormalObservation(parameters.select(2, 0), partial(self.noise, parameters[:, :, 1:]))


class FixedNoise(nn.Module):
    """A given deviation."""

    log_sigma: Tensor

    def __init__(self, log_sigma: float) -> None:
        super().__init__()
        self.register_buffer("log_sigma", torch.tensor(log_sigma), persistent=False)

    def forward(self, own: Tensor, squares: Tensor | None) -> Tensor:
        """log σ, a scalar."""
        return self.log_sigma


class SharedNoise(nn.Module):
    """One learned deviation for all entries."""

    def __init__(self, log_sigma: float) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(log_sigma))

    def forward(self, own: Tensor, squares: Tensor | None) -> Tensor:
        """log σ, a scalar."""
        return self.log_sigma


class PixelNoise(nn.Module):
    """A deviation for each entry, from the decoder; softly clamped, else one perfect entry could win everything."""

    def __init__(self, log_sigma: float) -> None:
        super().__init__()

    def forward(self, own: Tensor, squares: Tensor | None) -> Tensor:
        """log σ, [K, B, *shape]."""
        return soft_clamp(own.select(2, 0), LOG_SIGMA_BOUND)


class OptimalNoise(nn.Module):
    """The deviation that fits the batch best: σ² is its mean squared error, over all processes.

    It carries no gradient, and needs none: at the optimum the loss does not change with σ, so that the gradient is
    that of the number of entries times log(mean squared error) / 2. In evaluation σ² is training's running average.

    References:
        Rybkin, Daniilidis and Levine, Simple and effective VAE training with calibrated decoders, 2021.
    """

    DECAY = 0.99
    log_begin: Tensor
    weighted: Tensor
    weight: Tensor

    def __init__(self, log_sigma: float) -> None:
        super().__init__()
        self.register_buffer("log_begin", torch.tensor(log_sigma), persistent=False)
        self.register_buffer("weighted", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, own: Tensor, squares: Tensor | None) -> Tensor:
        """log σ, a scalar: of this batch in training, of the running average otherwise."""
        if squares is None or not self.training:
            average = (self.weighted / self.weight).clamp(min=SMALLEST_VARIANCE)
            return torch.where(self.weight > 0, 0.5 * average.log(), self.log_begin)
        variance = global_mean(squares.sum(), squares.numel()).clamp(min=SMALLEST_VARIANCE)
        # The same average of ones divides out the zeros that the running average began with.
        self.weighted.lerp_(variance.to(self.weighted.dtype), 1 - self.DECAY)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.DECAY)
        return 0.5 * variance.log()


class Categorical(Likelihood):
    """A mass over whole numbers 0, ..., levels - 1, such as the 256 levels of an image.

    Args:
        levels: How many there are.
    """

    discrete = True
    channels = 256

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.channels = levels
        self.support = f"whole numbers from 0 to {levels - 1}"

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of x are levels."""
        return (x >= 0) & (x < self.channels) & (x == x.round())

    def forward(self, parameters: Tensor) -> CategoricalObservation:
        """The distribution of x at logits [K, B, levels, *shape]."""
        return CategoricalObservation(full_precision(parameters))


class Poisson(Likelihood):
    """A mass over counts; the decoder gives the log-rate, softly clamped to ±20.

    The logarithm is the link under which the gradient is x - λ, bounded as λ goes to 0 (with a softplus it is x / λ);
    the clamp keeps e^20, half a thousand million, as the highest rate and λ finite.
    """

    discrete = True
    support = "whole numbers of at least 0"

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of x are counts."""
        return (x >= 0) & (x == x.round()) & x.isfinite()

    def forward(self, parameters: Tensor) -> PoissonObservation:
        """The distribution of x at log-rates [K, B, 1, *shape]."""
        return PoissonObservation(soft_clamp(_only(parameters), LOG_RATE_BOUND))


class Decoder(nn.Module):
    """p(x|z): a network, and a likelihood that reads its output as parameters.

    Args:
        net: Maps [N, L] to [N, channels * entries of a row] in any shape, channels first, such as
            [N, channels * colours, height, width].
        likelihood: What the output means.
        shape: Shape of a row of data; None: of the network's output, its first dimension divided by `channels`.

    Example:
        >>> decoder = Decoder(nn.Linear(2, 12), Bernoulli(), (3, 4))
        >>> decoder(torch.zeros(7, 5, 2)).mean.shape
        torch.Size([7, 5, 3, 4])
    """

    def __init__(self, net: nn.Module, likelihood: Likelihood, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.net, self.likelihood = net, likelihood
        self.shape = None if shape is None else tuple(shape)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Any:
        """The distribution of x for each z, [K, B, L]; [B, L] counts as K = 1. A condition [B, C] is set beside z.

        Raises:
            BadInput: where the network's output has another number of entries than the likelihood reads.
        """
        samples, rows = (1, *z.shape[:-1])[-2:]
        if condition is not None:
            z = torch.cat([z, condition.expand(*z.shape[:-1], -1)], -1)
        output = self.net(z.reshape(-1, z.shape[-1]))
        channels = self.likelihood.channels
        first, *rest = output.shape[1:]
        shape = self.shape or (first // channels, *rest)
        if output.numel() != samples * rows * channels * prod(shape):
            rule = f"the likelihood reads {channels} numbers for each entry of a row of shape {shape}"
            raise BadInput("decoder", f"a network with output {tuple(output.shape[1:])}", rule)
        return self.likelihood(output.reshape(samples, rows, channels, *shape))


def _only(parameters: Tensor) -> Tensor:
    """The one parameter of each entry: [K, B, 1, *shape] to [K, B, *shape]."""
    return full_precision(parameters).select(2, 0)


NOISES: dict[str, Callable[[float], nn.Module]] = {
    "fixed": FixedNoise,
    "shared": SharedNoise,
    "pixel": PixelNoise,
    "optimal": OptimalNoise,
}
LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "categorical": Categorical,
    "poisson": Poisson,
}
