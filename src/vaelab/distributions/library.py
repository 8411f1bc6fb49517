"""Counts of a row whose total is given, as of a cell's molecules: shares of it, and dispersions that rows share."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch, rows_of
from ..core.facts import Shape
from .counts import (
    BEGIN_ZEROS,
    LEAST_DISPERSION,
    LOG_DISPERSION_BOUND,
    MOST_DISPERSION,
    NegativeBinomialObservation,
    ZeroInflatedObservation,
)
from .likelihood import LOG_RATE_BOUND, CountLikelihood
from .normal import full_precision, soft_clamp, soft_unclamp
from .observations import Generator
from .special import per_row

LEAST_TOTAL = 1e-20  # of a row that is all zeros, which then has mass one


class LibraryObservation:
    """Mass of counts x given their total l = Σ x: negative binomials with the means l p, where p adds up to 1.

    It is a mass over all rows of counts, of which rows with another total than l take some: as in the reference, l is
    a size factor that is read from the row, and costs nothing. So what a model with it bounds is log p(x | l).

    Reference: Lopez, Regier, Cole, Jordan and Yosef, Deep generative modeling for single-cell transcriptomics, 2018.

    Args:
        log_shares: log p, [K, B, *shape].
        log_dispersion: log φ, [K, B, *shape] or [*shape].
        total: l of a row that is drawn, and of the mean, where none is at hand to read it from.
    """

    def __init__(self, log_shares: Tensor, log_dispersion: Tensor, total: Tensor) -> None:
        self.log_shares, self.log_dispersion, self.total = log_shares, log_dispersion.expand_as(log_shares), total

    @property
    def mean(self) -> Tensor:
        """The total times p, [K, B, *shape]."""
        return self.total * self.log_shares.exp()

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-mass in nats of each entry of counts x [B, *shape] given the total of its row, float64 [K, B, *shape]."""
        total = x.double().flatten(1).sum(1).clamp(min=LEAST_TOTAL)
        return self._given(total.view(-1, *[1] * (x.ndim - 1))).per_entry(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass in nats of counts x [B, *shape] given the total of each row, [K, B]."""
        return per_row(self.per_entry(x)).to(self.log_shares.dtype)

    @torch.no_grad()
    def sample(self, generator: Generator = None) -> Tensor:
        """Counts in the parameters' type, [K, B, *shape]."""
        return self._given(self.total).sample(generator).to(self.log_shares.dtype)

    def _given(self, total: Tensor) -> NegativeBinomialObservation:
        return NegativeBinomialObservation(self.log_shares.double() + total.double().log(), self.log_dispersion)


class Library(CountLikelihood):
    """Negative binomials of which rows share something: one dispersion a column, or a total that is given.

    Args:
        shape: Of a row.
        observed: Whether the decoder gives shares of the row's own total, and the mass is that of x given it; else it
            gives means.
        by_column: Whether there is one learned dispersion for each column; else the decoder gives one from z.
        zeros: Whether an entry may be 0 for another reason besides, with a probability from z.
    """

    total: Tensor

    def __init__(self, shape: Shape, observed: bool = True, by_column: bool = True, zeros: bool = False) -> None:
        super().__init__()
        self.observed, self.zeros, self.by_entry = observed, zeros, not observed
        self.channels = 1 + (not by_column) + zeros
        self.log_dispersion = nn.Parameter(torch.zeros(shape)) if by_column else None
        self.register_buffer("total", torch.ones(()))

    def see(self, rows: Tensor | Batch) -> None:
        """Takes down the mean total of training rows [n, ...]."""
        self.total.copy_(rows_of(rows).flatten(1).sum(1).double().mean())

    def forward(self, parameters: Tensor) -> LibraryObservation | NegativeBinomialObservation | ZeroInflatedObservation:
        """The distribution of x at logits of shares or log-means, and further parameters, [K, B, channels, *shape]."""
        first, *rest = full_precision(parameters).unbind(2)
        logit = rest.pop() if self.zeros else None
        dispersion = soft_clamp(rest[0] if rest else self.log_dispersion, LOG_DISPERSION_BOUND)  # type: ignore[arg-type]
        counts: Any = self._shares(first, dispersion) if self.observed else self._means(first, dispersion)
        return counts if logit is None else ZeroInflatedObservation(counts, logit)

    def _shares(self, logits: Tensor, log_dispersion: Tensor) -> LibraryObservation:
        shares = logits.flatten(2).log_softmax(-1).view(logits.shape)
        return LibraryObservation(shares, log_dispersion, self.total)

    def _means(self, log_mean: Tensor, log_dispersion: Tensor) -> NegativeBinomialObservation:
        return NegativeBinomialObservation(soft_clamp(log_mean, LOG_RATE_BOUND), log_dispersion.expand_as(log_mean))

    def at_moments(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Parameters near rows with these moments, [channels, D]; the dispersions of the columns are set besides."""
        logit = torch.full_like(mean, BEGIN_ZEROS)
        mean = mean / (-logit).sigmoid() if self.zeros else mean
        first = (mean / mean.mean()).log() if self.observed else soft_unclamp(mean.log(), LOG_RATE_BOUND)
        dispersion = ((variance - mean) / mean.square()).clamp(LEAST_DISPERSION, MOST_DISPERSION)
        begin = soft_unclamp(dispersion.log(), LOG_DISPERSION_BOUND)
        if self.log_dispersion is not None:
            size = prod(self.log_dispersion.shape)
            self.log_dispersion.data.copy_(begin.expand(size).view(self.log_dispersion.shape))
        return torch.stack([first, *([begin] if self.log_dispersion is None else []), *([logit] if self.zeros else [])])
