"""Mixed tables column by column: what comes back, and what a column costs given the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput
from ..data.mixed import Metric
from ..measure.baseline import spaced
from ..measure.columns import given_others, independent
from ..measure.estimate import Estimate, mean_of, student95
from ..measure.features import Features
from .case import Case, Numbers

MOST_ROWS = 300  # whose columns are told from each other, each by twice as many codes as `SAMPLES`
SAMPLES = 50


def columns(case: Case) -> Numbers:
    """What every column of held-out rows costs in nats, given the others and by itself; entries there are alone.

    `given_others` is -log p(x_d | the other columns) under the model, `by_itself` -log p(x_d) under the same kind of
    distribution fitted to the column of `case.training` alone, whose number of rows stands in the unit, and `saved`
    their difference, with its interval over rows.

    Raises:
        BadInput: for other data than mixed tables, and for runs that kept no training rows.
    """
    if not case.spec.mixed:
        raise BadInput("metrics", "columns", "is for mixed tables", "train with likelihood=mixed")
    if case.training is None:
        raise BadInput("metrics", "columns", "needs training rows, and the run kept none")
    rows = case.rows[spaced(len(case.x), MOST_ROWS)]
    x = rows if isinstance(rows, Tensor) else rows.x
    ours = given_others(case.model, rows, SAMPLES, case.seed)
    alone = independent(case.model.decoder.likelihood, case.training, x)
    saved = mean_over_known(alone - ours, "nats that the other columns save")
    return {
        "given_others": mean_over_known(ours, "nats"),
        "by_itself": mean_over_known(alone, f"nats, fitted to {len(case.training)} training rows"),
        "saved": saved,
        "columns_saved": Estimate(float((saved.value > 0).mean()), None, f"of the columns, {len(x)} rows"),
    }


def mean_over_known(values: np.ndarray, unit: str) -> Estimate:
    """The mean of each column [n, D] over its entries that are there, with the half-width from their spread.

    Example:
        >>> mean_over_known(np.array([[1.0], [3.0], [np.nan]]), "nats").value
        array([2.])
    """
    known = np.ma.masked_invalid(values)
    count = known.count(0)
    spread = known.std(0, ddof=1).filled(np.inf) / np.sqrt(np.maximum(count, 1))
    half = np.array([student95(int(n)) if n > 1 else np.inf for n in count])
    return Estimate(known.mean(0).filled(np.nan), half * spread, unit)


def columns_back(case: Case, fitted: Tensor) -> Numbers:
    """Shares of levels given back rightly, beside those of the commonest levels, and R² of numbers.

    Args:
        fitted: Likeliest levels and means of numbers, [n, D].
    """
    x, back = case.x.double().numpy(), fitted.double().numpy()
    categories = np.array([column.kind == "category" for column in case.spec.mixed])
    right = np.where(np.isnan(x) | ~categories, np.nan, x == back)
    commonest = np.where(np.isnan(x) | ~categories, np.nan, x == _commonest(x))
    with np.errstate(invalid="ignore", divide="ignore"):
        left = (x - back) ** 2 / np.nanmean((x - np.nanmean(x, 0)) ** 2, 0)
    per_column = {
        "accuracy_per_column": mean_over_known(right, "share of levels given back rightly"),
        "commonest_per_column": mean_over_known(commonest, "share of the commonest level"),
        "r2_per_column": _one_minus(mean_over_known(np.where(categories, np.nan, left), "of the column's variance")),
    }
    rows = np.isfinite(right).any(1)
    whole = {"accuracy": mean_of(np.nanmean(right[rows], 1), "share of levels, mean over rows")} if rows.any() else {}
    return whole | per_column


def metric_features(case: Case) -> Features:
    """Features of mixed rows: levels as ones among zeros, and standard scores of numbers."""
    metric = Metric(case.spec.mixed, (case.x if case.training is None else case.training).numpy())
    return Features("levels and standard scores", lambda rows: torch.from_numpy(metric(rows.numpy())), True)


def _one_minus(share: Estimate) -> Estimate:
    return replace(share, value=1 - share.value)


def _commonest(codes: np.ndarray) -> np.ndarray:
    """The most frequent code of each column."""
    found = [np.unique(column[~np.isnan(column)], return_counts=True) for column in codes.T]
    return np.array([values[counts.argmax()] if len(values) else np.nan for values, counts in found])
