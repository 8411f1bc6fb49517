"""The width of a density around the decoder's output: given, learned, of each entry, or in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..core.across import global_mean
from ..core.errors import BadInput
from ..core.facts import Shape
from ..core.tables import pick
from .normal import soft_clamp, soft_unclamp

LOG_SIGMA_BOUND = 7.0
SMALLEST_VARIANCE = 1e-12


class FixedNoise(nn.Module):
    """A given deviation."""

    log_sigma: Tensor

    def __init__(self, log_sigma: float) -> None:
        super().__init__()
        self.register_buffer("log_sigma", torch.tensor(log_sigma), persistent=False)

    def forward(self, own: Tensor, errors: Tensor | None) -> Tensor:
        """log σ, a scalar."""
        return self.log_sigma


class SharedNoise(nn.Module):
    """One learned deviation for all entries."""

    def __init__(self, log_sigma: float) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(log_sigma))

    def forward(self, own: Tensor, errors: Tensor | None) -> Tensor:
        """log σ, a scalar."""
        return self.log_sigma


class FeatureNoise(nn.Module):
    """A learned deviation of each entry, the same for every row.

    Args:
        log_sigma: Where all begin, before the floor is added.
        shape: Of a row.
        floor: Deviation that is always there: σ² is the learned one's square plus its.
    """

    def __init__(self, log_sigma: float, shape: Shape, floor: float = 0.0) -> None:
        super().__init__()
        self.floor = floor
        self.log_sigma = nn.Parameter(soft_unclamp(torch.full(shape, log_sigma), LOG_SIGMA_BOUND))

    def forward(self, own: Tensor, errors: Tensor | None) -> Tensor:
        """log σ, [*shape]; softly clamped, else a constant entry could win everything."""
        learned = soft_clamp(self.log_sigma, LOG_SIGMA_BOUND)
        return 0.5 * ((2 * learned).exp() + self.floor**2).log() if self.floor else learned


class PixelNoise(nn.Module):
    """A deviation for each entry, from the decoder; softly clamped, else one perfect entry could win everything."""

    def __init__(self, log_sigma: float) -> None:
        super().__init__()

    def forward(self, own: Tensor, errors: Tensor | None) -> Tensor:
        """log σ, [K, B, *shape]."""
        return soft_clamp(own.select(2, 0), LOG_SIGMA_BOUND)


class OptimalNoise(nn.Module):
    """The width that fits the batch best: σ² is its mean squared error, or a Laplace's width its mean absolute error.

    It carries no gradient, and needs none: at the optimum the loss does not change with σ, so that the gradient is
    that of the number of entries times log(mean error) / power. In evaluation it is training's running average. The
    mean is over all processes.

    Args:
        log_sigma: Where it begins.
        power: Of the errors that the density is a function of: 2 of a normal one, 1 of a Laplace.

    References:
        Rybkin, Daniilidis and Levine, Simple and effective VAE training with calibrated decoders, 2021.
    """

    DECAY = 0.99
    log_begin: Tensor
    weighted: Tensor
    weight: Tensor

    def __init__(self, log_sigma: float, power: int = 2) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("log_begin", torch.tensor(log_sigma), persistent=False)
        self.register_buffer("weighted", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, own: Tensor, errors: Tensor | None) -> Tensor:
        """log σ, a scalar: of this batch in training, of the running average otherwise."""
        least = SMALLEST_VARIANCE ** (self.power / 2)
        if errors is None or not self.training:
            average = (self.weighted / self.weight).clamp(min=least)
            return torch.where(self.weight > 0, average.log() / self.power, self.log_begin)
        mean = global_mean(errors.sum(), errors.numel()).clamp(min=least)
        # The same average of ones divides out the zeros that the running average began with.
        self.weighted.lerp_(mean.to(self.weighted.dtype), 1 - self.DECAY)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.DECAY)
        return mean.log() / self.power


NOISES: dict[str, Callable[..., nn.Module]] = {
    "fixed": FixedNoise,
    "shared": SharedNoise,
    "feature": FeatureNoise,
    "pixel": PixelNoise,
    "optimal": OptimalNoise,
}


def build_noise(name: str, sigma: float, power: int = 2, shape: Shape = (), floor: float = 0.0) -> nn.Module:
    """A noise by name, beginning at `sigma`, for rows of a shape and, where each entry has its own, with a floor.

    Raises:
        BadInput: for an unknown name, for sigma not above 0, and for deviations of entries that are not known.
    """
    if not 0 < sigma < math.inf:
        raise BadInput("likelihood.sigma", sigma, "must be a finite number above 0")
    if name == "feature" and not shape:
        raise BadInput("shape", shape, "every entry has a deviation of its own", "pass the shape of a row: shape=(D,)")
    feature = partial(FeatureNoise, shape=shape, floor=floor)
    kinds = NOISES | {"optimal": partial(OptimalNoise, power=power), "feature": feature}
    return pick(kinds, name, "likelihood.noise")(math.log(sigma))
