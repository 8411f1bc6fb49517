"""The pictures of a model of tables: columns instead of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .examples import PATHS_SHOWN, between, cells_words, far_apart, path_words, plane, quantiles, reconstructed
from .nearest import distances, nearest
from .style import BLUE, CLASSES, GRAY, ORANGE, Panel, name, plot

COLUMNS_SHOWN, ACROSS = 6, 3
STEPS, ROWS_SHOWN = 25, 9


def explained(data: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """R² of each column, `1 - sum (x - x')² / sum (x - mean x)²`; NaN where a column is constant.

    Args:
        data: Rows, [n, D]; NaN where an entry is missing.
        decoded: Their reconstructions, [n, D].

    Example:
        >>> explained(np.array([[0.0], [2.0]]), np.array([[0.5], [1.5]])).tolist()
        [0.75]
    """
    total = np.nansum((data - np.nanmean(data, 0)) ** 2, 0)
    rest = np.nansum((data - decoded) ** 2, 0)
    return np.where(total > 0, 1 - rest / np.where(total > 0, total, 1), np.nan)


def reconstructions(run: Any) -> list[Panel]:
    """Original against reconstructed values, and R² of every column."""
    data, decoded = flat_rows(run.preview), flat_rows(reconstructed(run))
    share = explained(data, decoded)
    order = np.argsort(-np.nan_to_num(share, nan=-np.inf), kind="stable")
    drawn = columns_panel(
        run,
        "Held-out rows and their reconstructions",
        "Healthy: points along the diagonal; a flat cloud is a column the code carries nothing about.",
        lambda axes, column: _agreement(axes, data[:, column], decoded[:, column], share[column]),
        [int(order[place]) for place in _spread(len(order))],
    )
    table = Panel(
        "R² of every column, held-out",
        "1 is a perfect reconstruction, 0 no better than the column's mean, below 0 worse than that.",
        wide=True,
        rows=tuple((run.spec.columns[column], f"{share[column]:.3f}") for column in order),
    )
    return [drawn, _sorted(run, data, decoded), table]


def _sorted(run: Any, data: np.ndarray, decoded: np.ndarray) -> Panel:
    """Rows from the best reconstructed to the worst, each with the column that is furthest off."""
    spread = np.nanstd(data, 0)
    off = np.abs(decoded - data) / np.where(spread > 0, spread, 1.0)
    errors = np.sqrt(np.nanmean(off**2, 1))
    worst = np.where(np.isfinite(off), off, np.where(np.isnan(data), -1.0, np.inf)).argmax(1)
    rows = quantiles(errors, ROWS_SHOWN)
    return Panel(
        "Rows from best to worst",
        "Held-out rows, evenly spaced over all of them sorted by their error, in standard deviations of the columns: 1 "
        "is no better than the means. Healthy: well below 1 but for the last ones, which are rare or damaged rows.",
        wide=True,
        rows=tuple(
            (f"{row}", f"{errors[row]:.3f}", run.spec.columns[at], f"{data[row, at]:.4g}", f"{decoded[row, at]:.4g}")
            for row, at in zip(rows.tolist(), worst[rows].tolist(), strict=True)
        ),
        head=("row", "error", "furthest off", "original", "reconstructed"),
    )


def samples(run: Any) -> list[Panel]:
    """Histograms of rows drawn from the model over those of held-out rows."""
    data, drawn = flat_rows(run.preview), flat_rows(run.sample(max(500, len(run.preview)), seed=0, noisy=True))
    panel = columns_panel(
        run,
        "Samples from the model and held-out rows",
        "Rows drawn from p(x|z) with z from the prior. Healthy: both histograms agree in place, width and number of "
        "peaks.",
        lambda axes, column: two_histograms(axes, data[:, column], drawn[:, column]),
    )
    found = nearest(run, drawn)
    return [panel] if found is None else [panel, distances(found)]


def interpolations(run: Any) -> list[Panel]:
    """Values of the columns along straight lines between the codes of held-out rows."""
    lines = [flat_rows(between(run, a, b, STEPS)) for a, b in far_apart(run, PATHS_SHOWN)]
    panel = columns_panel(
        run,
        "Interpolation",
        f"Each line goes {path_words(run)} in latent space, from one held-out row to another that is far from it. "
        "Healthy: gradual changes; jumps and excursions beyond both ends show holes between the two.",
        lambda axes, column: walks(axes, [line[:, column] for line in lines]),
    )
    return [panel]


def grid(run: Any) -> list[Panel]:
    """The value of each column over the plane of a model with two latents."""
    values = flat_rows(plane(run, STEPS)).reshape(STEPS, STEPS, -1)
    panel = columns_panel(
        run,
        "Decoded plane",
        f"Mean of each column over the prior's quantiles, z1 to the right and z2 upwards{cells_words(run)}. "
        "Healthy: every column "
        "changes somewhere; columns of the same pattern are told by the same code.",
        lambda axes, column: surface(axes, values[..., column]),
    )
    return [panel]


def columns_panel(
    run: Any, title: str, caption: str, paint: Callable[[Axes, int], None], columns: Sequence[int] | None = None
) -> Panel:
    """A small plot for each of a few columns; words that explain the colours stand in the first."""
    shown = _spread(len(run.spec.columns)) if columns is None else columns
    lines = math.ceil(len(shown) / ACROSS)

    def paint_all(figure: Figure) -> None:
        panels = list(figure.subplots(lines, ACROSS, squeeze=False).flat)
        for axes, column in zip(panels, shown, strict=False):
            paint(axes, column)
            axes.set_title(name(run.spec.columns[column]) + axes.get_title("left"))
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        if words := panels[0].get_legend_handles_labels()[1]:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(words))

    more = f" {len(shown)} of {len(run.spec.columns)} columns are shown." if len(shown) < len(run.spec.columns) else ""
    return plot(title, caption + more, paint_all, height=2.4 * lines + 0.2, wide=True)


def _spread(count: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, count - 1, COLUMNS_SHOWN).tolist()})


def flat_rows(rows: Any) -> np.ndarray:
    """Rows in float64 with NaN for whatever is not finite, which figures leave out."""
    values = np.array(rows, np.float64).reshape(len(rows), -1)
    values[~np.isfinite(values)] = np.nan
    return values


def _agreement(axes: Axes, data: np.ndarray, decoded: np.ndarray, share: float) -> None:
    axes.scatter(data, decoded, s=12, alpha=0.6, color=BLUE, linewidth=0)
    if np.isfinite(data).any():
        ends = [np.nanmin(data), np.nanmax(data)]
        axes.plot(ends, ends, color=GRAY, linestyle="--", linewidth=1)
    axes.set(xlabel="original", ylabel="reconstructed", title=f"   R² {share:.3f}")


def two_histograms(axes: Axes, data: np.ndarray, drawn: np.ndarray) -> None:
    """Shares of held-out rows and of samples over the same bins."""
    both = np.concatenate([data, drawn])
    low, high = np.nanquantile(both, (0.002, 0.998)) if np.isfinite(both).any() else (0.0, 1.0)
    bins = min(40, 5 + round(len(data) ** 0.5))
    edges = np.linspace(low, max(high, low + 1e-9 + 1e-6 * abs(low)), bins + 1).tolist()
    for values, color, words in ((data, GRAY, "held-out"), (drawn, ORANGE, "samples")):
        kept = values[np.isfinite(values)]
        weights = np.full(len(kept), 1 / max(1, len(kept)))
        axes.hist(kept, bins=edges, weights=weights, histtype="stepfilled", color=color, alpha=0.55, label=words)
    axes.set_yticks([])


def walks(axes: Axes, lines: list[np.ndarray]) -> None:
    """A column along some lines."""
    for line, color in zip(lines, CLASSES, strict=False):
        axes.plot(np.linspace(0, 1, len(line)), line, color=color)
        axes.plot([0, 1], line[[0, -1]], "o", color=color, markersize=4)
    axes.set_xticks([0, 1], ["first", "second"])


def surface(axes: Axes, values: np.ndarray) -> None:
    """A column over the decoded plane."""
    mesh = axes.imshow(values, cmap="viridis")
    axes.figure.colorbar(mesh, ax=axes, shrink=0.85)
    axes.set(xticks=[], yticks=[], xlabel="z1", ylabel="z2")
    axes.grid(visible=False)
