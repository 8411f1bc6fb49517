"""What networks see of rows whose numbers are not of the order of one, and where a decoder of counts starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch, rows_of
from ..core.facts import Shape
from ..core.settings import LikelihoodConfig
from ..distributions.likelihood import CountLikelihood
from ..distributions.likelihoods import LIKELIHOODS, Levels

LEAST_RATE = 1e-2  # counts a row, where a column of the training rows holds none or next to none
LEAST_SPREAD = 1e-6  # of what an encoder of counts sees; below it they are one number
COUNTS = tuple(name for name, kind in LIKELIHOODS.items() if issubclass(kind, CountLikelihood))
LEVELS = tuple(name for name, kind in LIKELIHOODS.items() if issubclass(kind, Levels))
# Counts and levels reach the likelihood as they are; a network wants them near one.
PREPARE: dict[str, Callable[[LikelihoodConfig], Callable[[Tensor], Tensor]]] = {
    **dict.fromkeys(LEVELS, lambda config: lambda x: x / ((config.levels - 1) / 2) - 1),
    **dict.fromkeys(COUNTS, lambda config: torch.log1p),
}
# A decoder that reads its own output wants 0 for what it cannot see besides.
CENTRED: dict[str, Callable[[LikelihoodConfig], Callable[[Tensor], Tensor]]] = {
    **PREPARE,
    **dict.fromkeys(("bernoulli", "continuous_bernoulli"), lambda config: lambda x: 2 * x - 1),
}


def prepared(config: LikelihoodConfig) -> Callable[[Tensor], Tensor] | None:
    """What brings rows of a likelihood near one for an encoder; None where they are as they reach the model."""
    return PREPARE[config.name](config) if config.name in PREPARE else None


def centred(config: LikelihoodConfig) -> Callable[[Tensor], Tensor] | None:
    """The same for a decoder that reads what it has drawn."""
    return CENTRED[config.name](config) if config.name in CENTRED else None


class Prepare(nn.Module):
    """A fixed function in front of an encoder, for data whose numbers are not of the order of one."""

    shift: Tensor
    scale: Tensor

    def __init__(self, function: Callable[[Tensor], Tensor], net: nn.Module) -> None:
        super().__init__()
        self.function, self.net = function, net
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        return self.net((self.function(x) - self.shift) / self.scale, *condition)

    @property
    def features(self) -> int:
        """Width of the network's output."""
        return int(self.net.features)  # type: ignore[arg-type]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Weights that were saved before there were shift and scale have none."""
        for name in ("shift", "scale"):
            state.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state, prefix, *arguments)


class Filled(nn.Module):
    """What an encoder sees of incomplete rows: the mean where an entry is missing, and flags.

    Args:
        function: Brings known entries near one; None: they are.
        shape: Of a row.
        flagged: Columns, or channels of images, that miss some in training, each with a flag for its entries.

    Attributes:
        shape: Of what the encoder sees.
    """

    center: Tensor
    places: Tensor

    def __init__(self, function: Callable[[Tensor], Tensor] | None, shape: Shape, flagged: Sequence[int]) -> None:
        super().__init__()
        self.function, self.shape = function or (lambda x: x), (shape[0] + len(flagged), *shape[1:])
        self.register_buffer("center", torch.zeros(shape))
        self.register_buffer("places", torch.tensor(flagged, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, ...] to [B, D + flags, ...]."""
        missing = x.isnan()
        seen = torch.where(missing, self.center.to(x), self.function(torch.where(missing, 0.0, x)))
        return torch.cat([seen, missing[:, self.places].to(x)], 1)

    @torch.no_grad()
    def see(self, rows: Tensor | Batch) -> None:
        """Takes the means of known entries from training rows [N, *shape]."""
        x = rows_of(rows)
        self.center.copy_(torch.where(x.isnan(), x, self.function(x.nan_to_num())).nanmean(0).nan_to_num())


def start_at(model: Any, mean: Tensor, std: Tensor) -> None:
    """Starts a model of counts at their moments, and centres what its encoder sees; both [D], per entry.

    A log-rate of 4 is else thousands of steps away from 0, and on the way the encoder pushes all codes away from the
    prior to raise all rates at once. The logarithm's mean and deviation are those of its linearisation.
    """
    bias = [module.bias for module in model.decoder.modules() if getattr(module, "bias", None) is not None][-1]
    likelihood, rate, variance = model.decoder.likelihood, mean.clamp(min=LEAST_RATE), std.square()
    prepare = next(module for module in model.modules() if isinstance(module, Prepare))
    if likelihood.channels * len(rate) != len(bias):  # a layer with one bias for all pixels
        rate, variance = (part.mean().expand(len(bias) // likelihood.channels) for part in (rate, variance))
    with torch.no_grad():
        bias.copy_(likelihood.at_moments(rate, variance).flatten())
        prepare.shift.copy_(torch.log1p(mean.mean()))
        spread = (std.square().mean() + mean.var(correction=0)).sqrt() / (1 + mean.mean())
        prepare.scale.copy_(spread if spread > LEAST_SPREAD else torch.ones(()))
