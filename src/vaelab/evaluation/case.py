"""`Case`: what every group of metrics reads, and `GROUPS`' common type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.config import Config
from ..core.missing import stood_in
from ..data.spec import Spec
from ..measure.estimate import Estimate

Numbers = dict[str, Estimate]


@dataclass(frozen=True)
class Case:
    """A model and the rows it is evaluated on.

    Args:
        config: Of the run, everything resolved.
        spec: What the run remembers of its data.
        model: In evaluation mode, on the CPU.
        x: Rows as the model sees them, [n, *shape]; gray levels that are drawn anew as bits were drawn once.
        training: Training rows likewise, as many as are looked at; None where the run kept none.
        factors: x [N, *shape] and known factors [N, F] of the whole data, whole numbers; None where it has none.
        factor_names: Their names, F.
        seed: Of everything that is drawn.
        condition: What is given beside each row of `x`, [n, C]; None: nothing.
        extractor: A network of the user's from rows [n, *shape] to features [n, D], for distances between samples.
    """

    config: Config
    spec: Spec
    model: Any
    x: Tensor
    training: Tensor | None = None
    factors: tuple[Tensor | Batch, np.ndarray] | None = None
    factor_names: tuple[str, ...] = ()
    seed: int = 0
    extractor: Any = None
    condition: Tensor | None = None

    @property
    def rows(self) -> Tensor | Batch:
        """The rows with what is given beside them."""
        return self.x if self.condition is None else Batch(self.x, self.condition)

    def complete(self, x: Tensor) -> Tensor:
        """Rows [n, *shape] of numbers with known entries of the same column where one is missing, see `stood_in`."""
        if self.spec.mixed or not x.isnan().any():
            return x
        return torch.from_numpy(stood_in(x.flatten(1).cpu().numpy())).view(x.shape)

    @property
    def is_image(self) -> bool:
        """Whether rows are images [C, H, W]."""
        return self.spec.layout == "image"
