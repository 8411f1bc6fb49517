"""A bound with a further term: every objective of the kind bound + weight * penalty is this one wrapper."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..core.errors import BadInput
from ..core.output import Loss, VAEOutput
from ..schedules import Schedule, constant
from .base import Objective


@dataclass
class Charge:
    """What a penalty says of a batch.

    Args:
        term: What the weight multiplies, for each row, [B]; a number of the whole batch stands in every row.
        player: The loss of the penalty's own parameters; None where it has none to train.
        shown: Further named [B] terms to look at.
    """

    term: Tensor
    player: Tensor | None = None
    shown: Mapping[str, Tensor] = field(default_factory=dict)


class Penalty(nn.Module, ABC):
    """A term of its own, computed from a model's record alone.

    Attributes:
        name: What its term is called; the weight is `<name>_weight`.
        requires: Words that posterior and prior must offer, see `vaelab.models.fits`.
        bends: Whether it is no mean over rows.
    """

    name: str
    requires: frozenset[str] = frozenset()
    bends: bool = False

    def __repr__(self) -> str:
        settings = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        parts = {name: type(part).__name__ for name, part in self.named_children()}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in (settings | parts).items())})"

    @abstractmethod
    def forward(self, output: VAEOutput) -> Charge:
        """The charge for a batch."""


class Penalised(nn.Module):
    """An objective plus a weighted penalty; it is an objective again, so that penalties can be stacked.

    The loss is L + weight * mean_B term. With a term that is nowhere negative in expectation and a bound L it is still
    an upper bound of -log p(x), only a looser one. What is measured on held-out rows leaves the term out.

    Args:
        bound: The objective to add to.
        penalty: The term.
        weight: A number or a schedule.

    Raises:
        BadInput: for a negative or non-finite weight.

    Example:
        >>> from vaelab.objectives import ELBO, Covariance
        >>> Penalised(ELBO(), Covariance(), 10.0).weights(0)
        {'beta': 1.0, 'covariance_weight': 10.0}
    """

    def __init__(self, bound: Objective, penalty: Penalty, weight: float | Schedule) -> None:
        super().__init__()
        if not isinstance(weight, Schedule) and not 0 <= weight < math.inf:
            raise BadInput("weight", weight, "must be a finite number of at least 0")
        self.bound: Any = bound
        self.penalty = penalty
        self.weight = weight if isinstance(weight, Schedule) else constant(float(weight))
        self._weight = f"{penalty.name}_weight"
        self.samples, self.bound_samples = bound.samples, bound.bound_samples
        self.requires = bound.requires | penalty.requires

    def __repr__(self) -> str:
        return f"Penalised({self.bound!r}, {self.penalty!r}, weight={self.weight!r})"

    @property
    def bends(self) -> bool:
        """Whether the loss is no mean over rows."""
        return self.bound.bends or self.penalty.bends

    @property
    def warmup_ends(self) -> int:
        """The first step from which no weight moves any more."""
        return max(self.bound.warmup_ends, self.weight.ends)

    def weights(self, step: int) -> dict[str, float]:
        """The weights in force at a step."""
        return self.bound.weights(step) | {self._weight: self.weight(step)}

    def forward(self, output: VAEOutput, weights: Mapping[str, float]) -> Loss:
        """The loss of a batch under given weights."""
        loss, charge = self.bound(output, weights), self.penalty(output)
        terms = {self.penalty.name: charge.term, **charge.shown}
        return Loss(
            loss.total + weights[self._weight] * charge.term.mean(),
            loss.terms | {name: term.detach() for name, term in terms.items()},
            dict(weights),
            _together(loss.player, charge.player),
        )


def _together(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """The loss of both players."""
    return first if second is None else second if first is None else first + second
