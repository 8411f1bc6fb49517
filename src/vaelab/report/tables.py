"""The pictures of a model of tables: columns instead of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vaelab.measure.paths import quantile_grid

from .examples import pairs
from .style import BLUE, CLASSES, GRAY, ORANGE, Panel, name, plot

COLUMNS_SHOWN, ACROSS = 6, 3
STEPS = 25


def explained(data: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """R² of each column, `1 - sum (x - x')² / sum (x - mean x)²`; NaN where a column is constant.

    Args:
        data: Rows, [n, D].
        decoded: Their reconstructions, [n, D].

    Example:
        >>> explained(np.array([[0.0], [2.0]]), np.array([[0.5], [1.5]])).tolist()
        [0.75]
    """
    total = ((data - data.mean(0)) ** 2).sum(0)
    rest = ((data - decoded) ** 2).sum(0)
    return np.where(total > 0, 1 - rest / np.where(total > 0, total, 1), np.nan)


def reconstructions(run: Any) -> list[Panel]:
    """Original against reconstructed values, and R² of every column."""
    data, decoded = _rows(run.preview), _rows(run.reconstruct(run.preview))
    share = explained(data, decoded)
    order = np.argsort(-np.nan_to_num(share, nan=-np.inf), kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, COLUMNS_SHOWN).astype(int))]
    titles = [f"{name(run.columns[column])}   R² {share[column]:.3f}" for column in chosen]
    drawn = plot(
        "Held-out rows and their reconstructions",
        "Healthy: points along the diagonal; a flat cloud is a column the code carries nothing about." + _shown(run),
        partial(_columns, titles=titles, paint=lambda axes, place: _agreement(axes, data, decoded, chosen[place])),
        height=_height(titles, 2.7),
        wide=True,
    )
    table = Panel(
        "R² of every column, held-out",
        "1 is a perfect reconstruction, 0 no better than the column's mean, below 0 worse than that.",
        wide=True,
        header=("column", "R²"),
        rows=tuple((run.columns[column], f"{share[column]:.3f}") for column in order),
    )
    return [drawn, table]


def samples(run: Any) -> list[Panel]:
    """Histograms of rows drawn from the model over those of held-out rows."""
    data, drawn = _rows(run.preview), _rows(run.sample(max(500, len(run.preview)), seed=0, noisy=True))
    chosen = _spread(run)
    return [
        plot(
            "Samples from the model and held-out rows",
            "Rows drawn from p(x|z) with z from the prior. Healthy: both histograms agree in place, width and "
            "number of peaks." + _shown(run),
            partial(
                _columns,
                titles=[name(run.columns[column]) for column in chosen],
                paint=lambda axes, place: _two_histograms(axes, data[:, chosen[place]], drawn[:, chosen[place]]),
            ),
            height=_height(chosen, 2.1),
            wide=True,
        )
    ]


def interpolations(run: Any) -> list[Panel]:
    """Values of the columns along straight lines between the codes of held-out rows."""
    lines = [_rows(run.interpolate(run.preview[a], run.preview[b], STEPS)) for a, b in pairs(run)]
    chosen = _spread(run)
    titles = [name(run.columns[column]) for column in chosen]
    return [
        plot(
            "Interpolation",
            "Each line goes straight through latent space from one held-out row to another. Healthy: gradual changes; "
            "jumps and excursions beyond both ends show holes between the two." + _shown(run),
            partial(_columns, titles=titles, paint=lambda axes, place: _walks(axes, lines, chosen[place])),
            height=_height(chosen, 2.1),
            wide=True,
        )
    ]


def grid(run: Any) -> list[Panel]:
    """The value of each column over the plane of a model with two latents."""
    values = _rows(run.decode(quantile_grid(STEPS))).reshape(STEPS, STEPS, -1)
    chosen = _spread(run)
    return [
        plot(
            "Decoded plane",
            "Mean of each column over the prior's quantiles, z1 to the right and z2 upwards. Healthy: every column "
            "changes somewhere; columns that share a pattern are told by the same code." + _shown(run),
            partial(
                _columns,
                titles=[name(run.columns[column]) for column in chosen],
                paint=lambda axes, place: _surface(axes, values[..., chosen[place]]),
            ),
            height=_height(chosen, 2.7),
            wide=True,
        )
    ]


def _rows(rows: Any) -> np.ndarray:
    """Rows in float64 with NaN for whatever is not finite, which figures leave out."""
    values = np.array(rows, np.float64).reshape(len(rows), -1)
    values[~np.isfinite(values)] = np.nan
    return values


def _spread(run: Any) -> np.ndarray:
    return np.unique(np.linspace(0, len(run.columns) - 1, COLUMNS_SHOWN).astype(int))


def _shown(run: Any) -> str:
    return f" {COLUMNS_SHOWN} of {len(run.columns)} columns are shown." if len(run.columns) > COLUMNS_SHOWN else ""


def _height(shown: Any, line: float) -> float:
    return line * math.ceil(len(shown) / ACROSS) + 0.2


def _columns(figure: Figure, titles: list[str], paint: Callable[[Axes, int], None]) -> None:
    """A small plot for each shown column; words that explain the colours stand in the first."""
    panels = list(figure.subplots(math.ceil(len(titles) / ACROSS), ACROSS, squeeze=False).flat)
    for place, (axes, title) in enumerate(zip(panels, titles, strict=False)):
        paint(axes, place)
        axes.set_title(title)
    for axes in panels[len(titles) :]:
        axes.set_visible(False)
    if panels[0].get_legend_handles_labels()[1]:
        panels[0].legend()


def _agreement(axes: Axes, data: np.ndarray, decoded: np.ndarray, column: int) -> None:
    axes.scatter(data[:, column], decoded[:, column], s=8, alpha=0.5, color=BLUE, linewidth=0)
    if np.isfinite(data[:, column]).any():
        ends = [np.nanmin(data[:, column]), np.nanmax(data[:, column])]
        axes.plot(ends, ends, color=GRAY, linestyle="--", linewidth=1)
    axes.set(xlabel="original", ylabel="reconstructed")


def _two_histograms(axes: Axes, data: np.ndarray, drawn: np.ndarray) -> None:
    both = np.concatenate([data, drawn])
    both = both[np.isfinite(both)]
    edges = np.linspace(*np.quantile(both, [0.002, 0.998]), 31) if both.size and np.ptp(both) > 0 else 10
    for values, color, words in ((data, GRAY, "held-out"), (drawn, ORANGE, "samples")):
        kept = values[np.isfinite(values)]
        weights = np.full(len(kept), 1 / max(1, len(kept)))
        axes.hist(kept, bins=edges, weights=weights, color=color, alpha=0.55, label=words)
    axes.set_yticks([])


def _walks(axes: Axes, lines: list[np.ndarray], column: int) -> None:
    for line, color in zip(lines, CLASSES, strict=False):
        axes.plot(np.linspace(0, 1, len(line)), line[:, column], color=color)
        axes.plot([0, 1], line[[0, -1], column], "o", color=color, markersize=4)
    axes.set_xticks([0, 1], ["first", "second"])


def _surface(axes: Axes, values: np.ndarray) -> None:
    mesh = axes.imshow(values, cmap="viridis")
    axes.figure.colorbar(mesh, ax=axes, shrink=0.85)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
