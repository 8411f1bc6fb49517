"""Likelihoods p(x|z): modules that turn a decoder network's output into a distribution of x, and the decoder itself.

Layout of the parameters: [K, B, channels, *shape], where `channels` counts the parameters of one data entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadInput
from ..core.facts import Shape
from .counts import Multinomial, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .heavy_tails import Laplace, StudentT
from .levels import BetaBinomial, Levels, LogisticMixture
from .likelihood import LOG_RATE_BOUND, Likelihood, only
from .noise import (
    LOG_SIGMA_BOUND,
    NOISES,
    SMALLEST_VARIANCE,
    FeatureNoise,
    FixedNoise,
    OptimalNoise,
    PixelNoise,
    SharedNoise,
    build_noise,
)
from .normal import full_precision
from .observations import (
    BernoulliObservation,
    CategoricalObservation,
    ContinuousBernoulliObservation,
    NormalObservation,
)

__all__ = [
    "LIKELIHOODS",
    "LOG_RATE_BOUND",
    "LOG_SIGMA_BOUND",
    "NOISES",
    "SMALLEST_VARIANCE",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Decoder",
    "FeatureNoise",
    "FixedNoise",
    "Gaussian",
    "Levels",
    "Likelihood",
    "OptimalNoise",
    "PixelNoise",
    "Poisson",
    "SharedNoise",
    "beside",
]


class Bernoulli(Likelihood):
    """p(x|z) of binary entries, on logits; gray levels in [0, 1] are allowed, and the number is then only a loss."""

    discrete = True
    support = "numbers in [0, 1]"

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of x lie in [0, 1], but for rounding."""
        return (x >= -1e-6) & (x <= 1 + 1e-6)

    def forward(self, parameters: Tensor) -> BernoulliObservation:
        """The distribution of x at logits [K, B, 1, *shape]."""
        return BernoulliObservation(only(parameters))


class ContinuousBernoulli(Likelihood):
    """A density on [0, 1], on logits."""

    discrete = False
    support, holds = Bernoulli.support, Bernoulli.holds

    def forward(self, parameters: Tensor) -> ContinuousBernoulliObservation:
        """The distribution of x at logits [K, B, 1, *shape]."""
        return ContinuousBernoulliObservation(only(parameters))


class Gaussian(Likelihood):
    """A normal density around the decoder's output.

    Args:
        noise: `fixed`: the deviation is `sigma`; `shared`: one learned deviation; `feature`: one for each entry;
            `pixel`: one from z for each entry; `optimal`: in closed form from the batch.
        sigma: The fixed deviation, or where learned ones and the optimal one begin.
        shape: Of a row, which `feature` needs.
        floor: Of `feature`, in quadrature: no learned deviation is below it.

    Raises:
        BadInput: for an unknown noise, and for sigma not above 0.
    """

    discrete = False

    def __init__(self, noise: str = "shared", sigma: float = 1.0, shape: Shape = (), floor: float = 0.0) -> None:
        super().__init__()
        self.noise = build_noise(noise, sigma, shape=shape, floor=floor)
        self.channels = 2 if noise == "pixel" else 1

    def forward(self, parameters: Tensor) -> NormalObservation:
        """The distribution of x at means, and log-deviations where they are per entry, [K, B, channels, *shape]."""
        parameters = full_precision(parameters)
        return NormalObservation(parameters.select(2, 0), partial(self.noise, parameters[:, :, 1:]))


class Categorical(Levels):
    """A mass over whole numbers 0, ..., levels - 1, such as the 256 levels of an image, each with its own logit.

    Args:
        levels: How many there are.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__(levels)
        self.channels = levels

    def forward(self, parameters: Tensor) -> CategoricalObservation:
        """The distribution of x at logits [K, B, levels, *shape]."""
        return CategoricalObservation(full_precision(parameters))


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
        z = beside(z, condition)
        output = self.net(z.reshape(-1, z.shape[-1]))
        channels = self.likelihood.channels
        first, *rest = output.shape[1:]
        shape = self.shape or (first // channels, *rest)
        layout = self.likelihood.layout(shape)
        if output.numel() != samples * rows * prod(layout):
            rule = f"the likelihood reads {channels} numbers for each entry of a row of shape {shape}"
            raise BadInput("decoder", f"a network with output {tuple(output.shape[1:])}", rule)
        return self.likelihood(output.reshape(samples, rows, *layout))


def beside(z: Tensor, condition: Tensor | None) -> Tensor:
    """Codes [K, B, L] or [B, L] with a condition [B, C], where there is one, set beside each."""
    return z if condition is None else torch.cat([z, condition.expand(*z.shape[:-1], -1)], -1)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "student_t": StudentT,
    "categorical": Categorical,
    "logistic_mixture": LogisticMixture,
    "beta_binomial": BetaBinomial,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
    "multinomial": Multinomial,
}
