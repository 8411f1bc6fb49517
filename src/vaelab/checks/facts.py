"""`Facts`: what the checks see of the rows, on the data's own scale and on the model's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch

from ..core.config import Config
from ..core.missing import stood_in
from ..core.seeds import generator
from ..data.batches import Rows
from ..data.spec import Spec
from ..data.tables import listed
from ..distributions.incomplete import complete_of
from ..distributions.likelihoods import LIKELIHOODS, NOISES

MOST_ROWS = 2000  # rows looked at, evenly spaced; shares of entries are then known to a per cent
MOST_VALUES = 2**22  # entries looked at, which large images reach first
SPECTRUM_COLUMNS = 1024  # a covariance of this size takes a tenth of a second
MOST_VARIANCE = 0.99
LEAST_MEAN = 0.5  # of a count, below which variance over mean is 1 whatever the law


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Args:
        rows, held_out: The two parts of the split.
        spec: Layout, columns, and range of the data.
        config: Resolved.
        module: The decoder's likelihood; None for one that is not ours.
    """

    rows: Rows
    held_out: Rows
    spec: Spec
    config: Config
    module: Any

    @property
    def likelihood(self) -> str:
        """The name of p(x|z); empty for one that is not ours."""
        module = complete_of(self.module)
        return next((name for name, kind in LIKELIHOODS.items() if kind is type(module)), "")

    @property
    def noise(self) -> str:
        """The kind of a Gaussian's noise; empty where there is none."""
        return next(
            (name for name, kind in NOISES.items() if kind is type(getattr(complete_of(self.module), "noise", None))),
            "",
        )

    @cached_property
    def index(self) -> np.ndarray:
        """Evenly spaced training rows."""
        most = max(2, min(MOST_ROWS, MOST_VALUES // prod(self.spec.shape)))
        return np.unique(np.linspace(0, len(self.rows) - 1, most).astype(int))

    @cached_property
    def x(self) -> np.ndarray:
        """Training rows on the model's scale, [n, D]; of a mixed table standard scores, 0 where an entry is missing.

        In tables of numbers known entries of the same column stand in for missing ones, see `stood_in`.
        """
        coins = generator(self.config.seed, "check", device=self.rows.device)
        x = self.rows.x(torch.from_numpy(self.index), coins).flatten(1).double().cpu().numpy()
        return _scores(x) if self.spec.mixed else stood_in(x)

    @cached_property
    def raw(self) -> np.ndarray:
        """The same rows on the data's own scale, [n, D]."""
        return self._given if self.spec.mixed else stood_in(self._given)

    @cached_property
    def _given(self) -> np.ndarray:
        """The same with missing entries."""
        return self.rows.raw(self.index).reshape(len(self.index), -1)

    @cached_property
    def std(self) -> np.ndarray:
        """Deviation of each entry on the model's scale, [D]."""
        return self.x.std(0)

    @property
    def spread(self) -> float:
        """Root mean square of the entries' deviations."""
        return float(np.sqrt(np.mean(self.std**2)))

    @cached_property
    def ends(self) -> float:
        """Share of entries that lie at the lowest or the highest value, on the data's own scale."""
        return float(np.mean((self.raw == self.raw.min()) | (self.raw == self.raw.max())))

    @cached_property
    def zeros(self) -> float:
        """Share of entries that are 0 on the data's own scale."""
        return float(np.mean(self.raw == 0))

    @cached_property
    def whole(self) -> bool:
        """Whether every entry is a whole number on the data's own scale."""
        return self.raw.dtype.kind in "biu" or bool((self.raw == np.floor(self.raw)).all())

    @property
    def is_table(self) -> bool:
        """Whether a row is one of a table."""
        return self.spec.layout == "table"

    @cached_property
    def dispersion(self) -> float:
        """Median over entries of variance over mean, where the mean is large enough to tell."""
        mean = self.x.mean(0)
        known = mean > LEAST_MEAN
        return float(np.median(self.std[known] ** 2 / mean[known])) if known.any() else 1.0

    @cached_property
    def needed(self) -> int | None:
        """Principal components that hold 99 % of the variance; None where there are too many entries to say."""
        if self.x.shape[1] > SPECTRUM_COLUMNS or not self.std.any():
            return None
        values = np.linalg.eigvalsh(np.cov(self.x, rowvar=False).reshape(self.x.shape[1], -1))[::-1].clip(0)
        return int(np.searchsorted(np.cumsum(values) / values.sum(), MOST_VARIANCE) + 1)

    @property
    def missing(self) -> float:
        """Share of entries that are missing."""
        return float(np.isnan(self._given).mean()) if self._given.dtype.kind == "f" else 0.0

    def names(self, which: np.ndarray) -> str:
        """The names of some columns; nothing for images."""
        return listed([name for name, chosen in zip(self.spec.columns, which, strict=True) if chosen])


def _scores(codes: np.ndarray) -> np.ndarray:
    """Standard scores of each column, levels counted in their order; 0 where an entry is missing."""
    masked = np.ma.masked_invalid(codes)
    std = masked.std(0).filled(0)
    return ((masked - masked.mean(0)) / np.where(std > 0, std, 1.0)).filled(0)
