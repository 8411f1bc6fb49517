"""What every likelihood p(x|z) is: a module that reads a decoder network's output as a distribution of x.

Layout of the parameters: [K, B, channels, *shape], where `channels` counts the parameters of one data entry.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from ..core.facts import Shape
from .normal import full_precision
from .observations import Observation

LOG_RATE_BOUND = 20.0


class Likelihood(nn.Module):
    """What every likelihood is.

    Attributes:
        channels: Parameters of one data entry, which the decoder network has to give.
        discrete: True for a mass over values that can be counted, False for a density.
        support: Where entries lie, in words.
        by_entry: True where entries are independent given z, each with parameters of its own.
    """

    channels: int = 1
    discrete: bool
    by_entry = True
    support = "finite numbers"

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of x, of any shape, lie where there is mass or density."""
        return x.isfinite()

    def layout(self, shape: Shape) -> Shape:
        """Shape of the parameters of a row, for rows of a shape."""
        return (self.channels, *shape)

    @abstractmethod
    def forward(self, parameters: Tensor) -> Observation:
        """The distribution of x at parameters [K, B, channels, *shape]."""


class CountLikelihood(Likelihood):
    """A mass over counts; a decoder of counts starts at the training rows' moments."""

    discrete = True
    support = "whole numbers of at least 0"

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of x are counts."""
        return (x >= 0) & (x == x.round()) & x.isfinite()

    @abstractmethod
    def at_moments(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Parameters [channels, D] near those of entries with these means and variances, both [D] and above 0."""


def only(parameters: Tensor) -> Tensor:
    """The one parameter of each entry: [K, B, 1, *shape] to [K, B, *shape]."""
    return full_precision(parameters).select(2, 0)
