"""Missing entries: a likelihood that leaves them out, and a model of why they are missing.

Shapes: K samples, B rows, then the shape of a row. NaN marks a missing entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.batch import Batch, rows_of
from ..core.facts import Shape
from .likelihood import CountLikelihood, Likelihood
from .observations import NormalObservation
from .special import Generator, per_row

NODES = 32  # of the quadrature over a missing value: 1e-6 nats for a slope of 3 on the scale of its deviation
MOST_DRAWS = 256  # of a value that is to go missing; where π is smaller than that, the last one stands
SIGNS = {"self": 0.0, "above": 1.0, "below": -1.0}  # of the slope; 0: either
BEGIN_SLOPE = {"self": 0.0, "above": 0.5413, "below": 0.5413}  # softplus of it is 1


def known_entries(observation: Any, x: Tensor) -> Tensor:
    """log p(x_d|z) in nats of the known entries of rows x [B, *shape], [K, B, *shape]; 0 where one is missing."""
    known = ~x.isnan()
    return torch.where(known, observation.per_entry(torch.where(known, x, 0.0)), 0.0)


class IncompleteObservation:
    """The known entries of rows at given parameters, and where there is a model of the mask, the mask itself.

    log p(x_known, m|z) = Σ_known [log p(x_d|z) + log(1 - π_d(x_d))] + Σ_missing log ∫ π_d(x) p(x|z) dx; without a
    model of the mask, π is no function of x and drops out.

    Args:
        complete: The distribution of complete rows; with a mask a normal one, of which the integral is a quadrature.
        masking: π; None: what is missing says nothing of the value.
    """

    def __init__(self, complete: Any, masking: SelfMasking | None = None) -> None:
        self.complete, self.masking = complete, masking

    @property
    def mean(self) -> Tensor:
        """Of complete rows, [K, B, *shape]."""
        return self.complete.mean

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-density or log-mass in nats of every known entry, and of the mask, [K, B, *shape]."""
        nats = known_entries(self.complete, x)
        return nats if self.masking is None else nats + self.masking.log_mass(self.complete, x)

    def log_prob(self, x: Tensor) -> Tensor:
        """The same, summed over the entries of a row, [K, B]."""
        return per_row(self.per_entry(x)).to(self.complete.mean.dtype)

    def sample(self, generator: Generator = None) -> Tensor:
        """One draw of a complete row for each sample and row, [K, B, *shape]."""
        return self.complete.sample(generator)

    @property
    def mean_if_missing(self) -> Tensor:
        """Mean of each entry given that it is missing, [K, B, *shape]: ∫ x π(x) p(x|z) dx / ∫ π(x) p(x|z) dx."""
        if self.masking is None:
            return self.mean
        values, log_mass = self.masking.at_nodes(self.complete)
        return (log_mass.softmax(0) * values).sum(0)

    def sample_if_missing(self, generator: Generator = None) -> Tensor:
        """A draw of each entry given that it is missing, [K, B, *shape]: of p(x|z), and kept with chance π(x)."""
        drawn = self.sample(generator)
        if self.masking is None:
            return drawn
        kept = self.masking.accepts(drawn, generator)
        for _ in range(MOST_DRAWS):
            if kept.all():
                break
            again = self.sample(generator)
            drawn = torch.where(kept, drawn, again)
            kept = kept | self.masking.accepts(again, generator)
        return drawn


class SelfMasking(nn.Module):
    """Probability π_d(x) = σ(a_d + w_d x) that an entry is missing, given its own value: missing not at random.

    Under a normal p(x|z) the integral over a missing value is a Gauss-Hermite quadrature, so that nothing is drawn:
    the bound is that of a not-MIWAE with its inner samples integrated out.

    Args:
        shape: Of a row.
        direction: "above": large values are missing the more often (w > 0); "below": small ones; "self": either.

    References:
        Ipsen, Mattei and Frellsen, not-MIWAE: deep generative modelling with missing not at random data, 2021.
    """

    nodes: Tensor
    log_weights: Tensor

    def __init__(self, shape: Shape, direction: str = "self") -> None:
        super().__init__()
        self.sign = SIGNS[direction]
        self.offset = nn.Parameter(torch.zeros(shape))
        self.slope = nn.Parameter(torch.full(shape, BEGIN_SLOPE[direction]))
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        self.register_buffer("nodes", torch.from_numpy(nodes).float(), persistent=False)
        log_weights = torch.from_numpy(np.log(weights / weights.sum())).float()
        self.register_buffer("log_weights", log_weights, persistent=False)

    def logit(self, x: Tensor) -> Tensor:
        """Of π for values x [..., *shape]."""
        slope = self.sign * F.softplus(self.slope) if self.sign else self.slope
        return self.offset + slope * x

    @torch.no_grad()
    def accepts(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Whether each value of x [..., *shape] goes missing, by a coin of probability π(x)."""
        return self.logit(x).sigmoid().bernoulli(generator=generator).bool()

    def at_nodes(self, normal: NormalObservation) -> tuple[Tensor, Tensor]:
        """Values of each entry and log(weight · π) there, [nodes, K, B, *shape] each."""
        each = (-1, *(1,) * normal.mean.ndim)
        values = normal.mean + normal.log_sigma(None).exp() * self.nodes.to(normal.mean).view(each)
        return values, self.log_weights.to(normal.mean).view(each) + F.logsigmoid(self.logit(values))

    def log_mass(self, normal: NormalObservation, x: Tensor) -> Tensor:
        """log of the probability that what is known is known, and what is missing is missing, [K, B, *shape]."""
        known = F.logsigmoid(-self.logit(torch.where(x.isnan(), 0.0, x)))
        return torch.where(x.isnan(), self.at_nodes(normal)[1].logsumexp(0), known)

    @torch.no_grad()
    def see(self, rows: Tensor | Batch) -> None:
        """Begins at the share of training rows [N, *shape] in which each entry is missing."""
        gaps = rows_of(rows).isnan()
        self.offset.copy_(((gaps.sum(0) + 0.5) / (len(gaps) + 1)).logit())


class Incomplete(Likelihood):
    """Another likelihood over the entries that are known.

    Args:
        complete: A likelihood whose entries are independent given z.
        masking: Why entries are missing; None: for reasons that say nothing of their value.

    References:
        Mattei and Frellsen, MIWAE: deep generative modelling and imputation of incomplete data sets, 2019.
    """

    def __init__(self, complete: Likelihood, masking: SelfMasking | None = None) -> None:
        super().__init__()
        self.complete, self.masking = complete, masking
        self.channels, self.discrete = complete.channels, complete.discrete
        self.support = f"{complete.support}, or NaN where an entry is missing"

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of x are missing, or lie where there is mass or density."""
        return x.isnan() | self.complete.holds(torch.where(x.isnan(), 0.0, x))

    def layout(self, shape: Shape) -> Shape:
        """That of complete rows."""
        return self.complete.layout(shape)

    def forward(self, parameters: Tensor) -> IncompleteObservation:
        """The distribution of x at parameters [K, B, channels, *shape]."""
        return IncompleteObservation(self.complete(parameters), self.masking)

    def at_moments(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Of a likelihood of counts, see `CountLikelihood.at_moments`."""
        assert isinstance(self.complete, CountLikelihood), "asked of likelihoods of counts alone"
        return self.complete.at_moments(mean, variance)


def complete_of(likelihood: Any) -> Any:
    """The likelihood of complete rows: what `Incomplete` wraps, or the likelihood itself."""
    return likelihood.complete if isinstance(likelihood, Incomplete) else likelihood
