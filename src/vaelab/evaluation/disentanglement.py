"""Disentanglement of a run's posterior means against the factors its data was made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.errors import BadInput
from ..core.seeds import derive
from ..measure.disentanglement import disentanglement_scores
from ..measure.estimate import Estimate
from .case import Case, Numbers

MOST_ROWS = 5000  # half of them teach, which is what the scores of trained classifiers need to settle
CHUNK = 1024
TABLE = "mutual_information"


def known_factors(found: tuple[Tensor | Batch, np.ndarray] | None) -> tuple[Tensor | Batch, np.ndarray]:
    """Rows and their factors, where the data has any.

    Raises:
        BadInput: for data without known factors.
    """
    if found is None:
        fix = "use `shapes`, or an .npz file with whole numbers `factors` [N, F] beside the rows `x`"
        raise BadInput("disentanglement", None, "needs data with known factors", fix)
    return found


def disentanglement(case: Case) -> Numbers:
    """Every score of `measure.disentanglement`, for the posterior means of at most `MOST_ROWS` rows, and beside each
    what it gives by chance, with the factors shuffled among these rows.

    The rows are a random choice of all that have factors, whether they were trained on or held out.

    Raises:
        BadInput: for data without known factors.
    """
    x, factors = known_factors(case.factors)
    random = np.random.default_rng(derive(case.seed, "disentanglement"))
    rows = np.sort(random.permutation(len(x))[:MOST_ROWS])
    codes, factors = _means(case.model, x[rows]), np.asarray(factors)[rows]
    found = disentanglement_scores(codes, factors, case.seed)
    chance = disentanglement_scores(codes, random.permutation(factors), case.seed)
    numbers = {"rows": Estimate(float(len(rows)), None, "rows with known factors")}
    for name in found:
        numbers |= {name: found[name]} | ({f"{name}_by_chance": chance[name]} if name != TABLE else {})
    return numbers


@torch.no_grad()
def _means(model: Any, x: Tensor | Batch) -> np.ndarray:
    """Posterior means [n, L] of rows x [n, ...]."""
    return torch.cat([model.encode(part).mean for part in x.split(CHUNK)]).double().cpu().numpy()
