"""The training rows nearest to samples: whether a model makes new rows or repeats those it has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..core.missing import stood_in
from ..data.mixed import Metric
from .style import GRAY, ORANGE, Panel, plot

MOST_ROWS = 500


@dataclass(frozen=True)
class Nearest:
    """The nearest training row of each sample.

    Args:
        index: Into `run.training_preview`, [n].
        ratio: Its distance over the median distance of held-out rows to their nearest training row, [n].
        held_out: The same of the held-out rows themselves, [m].
    """

    index: np.ndarray
    ratio: np.ndarray
    held_out: np.ndarray


def nearest(run: Any, made: np.ndarray) -> Nearest | None:
    """The nearest kept training rows of samples; None where the run kept none.

    Args:
        made: Samples on the data's scale, [n, *spec.shape]; columns of a table are divided by their spread.
    """
    if run.training_preview is None or not len(run.training_preview):
        return None
    points = _points(run)
    known = points(run.training_preview)
    index, distance = _closest(points(made), known)
    _, usual = _closest(points(run.preview[:MOST_ROWS]), known)
    scale = float(np.median(usual)) or 1.0
    return Nearest(index, distance / scale, usual / scale)


def distances(found: Nearest) -> Panel:
    """Histograms of the distance to the nearest training row, of samples and of held-out rows."""
    return plot(
        "Distance to the nearest training row",
        "Of samples, and of held-out rows, whose middle is 1. Healthy: samples lie where held-out rows do, or somewhat "
        "to the right; those far to the left repeat training rows, those far to the right look like none of them.",
        partial(_histograms, found=found),
        height=2.4,
        wide=True,
    )


def _histograms(figure: Figure, found: Nearest) -> None:
    axes = figure.subplots()
    high = float(np.quantile(np.concatenate([found.ratio, found.held_out]), 0.995)) * 1.05
    for values, color, words in ((found.held_out, GRAY, "held-out"), (found.ratio, ORANGE, "samples")):
        weights = np.full(len(values), 1 / len(values))
        bins = np.linspace(0, max(high, 1e-6), 41).tolist()
        axes.hist(values, bins, weights=weights, histtype="stepfilled", color=color, alpha=0.55, label=words)
    axes.set(xlabel="distance, 1 for the middle held-out row", yticks=[], xlim=(0, None))
    axes.legend()


def _points(run: Any) -> Callable[[np.ndarray], np.ndarray]:
    """From rows on the data's own scale to points whose distances mean something."""
    if run.spec.mixed:
        metric = Metric(run.spec.mixed, run.spec.to_model(run.training_preview).numpy())
        return lambda rows: metric(run.spec.to_model(rows).numpy())
    if run.spec.layout != "table":
        return _flat
    unit = np.nanstd(np.asarray(run.training_preview, np.float64), 0)
    return lambda rows: _flat(stood_in(np.asarray(rows, np.float64))) / np.where(unit > 0, unit, 1.0)


def _closest(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.metrics import pairwise_distances_argmin_min

    index, distance = pairwise_distances_argmin_min(rows, others)
    return index, distance


def _flat(rows: np.ndarray) -> np.ndarray:
    """Rows in float64 with 0 for whatever is not finite, since a distance needs a number."""
    return np.nan_to_num(np.asarray(rows, np.float64).reshape(len(rows), -1), posinf=0.0, neginf=0.0)
