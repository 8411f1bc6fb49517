"""The pictures of a model of mixed tables: values and levels side by side, and every column against chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..core.facts import Column
from .examples import between, cells_words, far_apart, path_words, pick, plane, reconstructed
from .nearest import distances, nearest
from .style import GRAY, ORANGE, Panel
from .tables import columns_panel, explained, surface, two_histograms

ROWS_SHOWN, LEVELS_SHOWN, STEPS, PLANE_STEPS = 8, 12, 9, 25
DRAWN = 500  # samples at least
_DRAWN = (
    "Each is a draw of z and of every entry given it: a draw from the model, which may put together what no row of the "
    "table has, and fills in every entry, also where the table has missing ones."
)


def reconstructions(run: Any) -> list[Panel]:
    """How much of every column comes back, and some rows above what became of them."""
    data, decoded = run.preview, reconstructed(run)
    x, back = coded(run, data), coded(run, decoded)
    table = Panel(
        "What comes back of every column, held-out",
        "Levels that are given back rightly, against the share of the commonest level; and R² of numbers, 1 for a "
        "perfect reconstruction and 0 for one no better than the mean. Missing entries are left out.",
        wide=True,
        rows=tuple(fidelity(column, x[:, at], back[:, at]) for at, column in enumerate(run.spec.mixed)),
        head=("column", "kind", "comes back", "without a code"),
    )
    chosen = pick(run, ROWS_SHOWN // 2)
    lines = [(what, rows[at]) for at in chosen for what, rows in (("held-out", data), ("reconstructed", decoded))]
    shown = "Held-out rows, each above its reconstruction: the likeliest level and the mean of numbers."
    return [table, _rows_panel(run, "Rows and their reconstructions", shown, lines)]


def samples(run: Any) -> list[Panel]:
    """Shares of levels and histograms of numbers, of draws from the model and of held-out rows; and some draws."""
    made = run.sample(max(DRAWN, len(run.preview)), seed=0, noisy=True)
    x, drawn = coded(run, run.preview), coded(run, made)
    panel = columns_panel(
        run,
        "Samples from the model and held-out rows",
        "Rows drawn from p(x|z) with z from the prior; a missing entry is never drawn, and held-out entries that are "
        "missing are left out. Healthy: both agree in every level but for chance, and in place, width and number of "
        f"peaks. {_chance(len(x), len(drawn))}",
        lambda axes, at: _compared(axes, run.spec.mixed[at], x[:, at], drawn[:, at]),
    )
    lines = [(f"{row + 1}", made[row]) for row in range(ROWS_SHOWN)]
    some = _rows_panel(run, "Some samples", _DRAWN, lines)
    found = nearest(run, made[: len(run.preview)])
    return [panel, some] + ([distances(found)] if found is not None else [])


def _chance(rows: int, drawn: int) -> str:
    """How far the shares of a level may lie apart by chance alone."""
    half = 2 * (0.25 * (1 / rows + 1 / drawn)) ** 0.5
    return (
        f"With {rows} held-out rows and {drawn} samples a share p differs by up to 2 sqrt(p (1 - p) (1/{rows} + "
        f"1/{drawn})) by chance, ± {half:.2f} at p = 0.5."
    )


def interpolations(run: Any) -> list[Panel]:
    """Rows along a straight line between the codes of two held-out rows."""
    ends = far_apart(run, 1)
    lines = [(f"{row + 1}", line) for a, b in ends for row, line in enumerate(between(run, a, b, STEPS))]
    caption = (
        f"From one held-out row to another that is far from it, {path_words(run)} in latent space. Healthy: columns "
        "change together and not all at once."
    )
    return [_rows_panel(run, "Interpolation", caption, lines)] if lines else []


def grid(run: Any) -> list[Panel]:
    """The value, or the place of the likeliest level, of each column over the plane of a model with two latents."""
    decoded = coded(run, plane(run, PLANE_STEPS)).reshape(PLANE_STEPS, PLANE_STEPS, -1)
    caption = (
        f"Mean of each number and place of the likeliest level, over the prior's quantiles, z1 to the right"
        f"{cells_words(run)}."
    )
    return [columns_panel(run, "Decoded plane", caption, lambda axes, at: surface(axes, decoded[..., at]))]


def coded(run: Any, rows: np.ndarray) -> np.ndarray:
    """Rows [n, D] as the model sees them: codes of levels, numbers, NaN where an entry is missing."""
    return np.asarray(run.spec.to_model(rows).double().numpy())


def fidelity(column: Column, x: np.ndarray, back: np.ndarray) -> tuple[str, str, str, str]:
    """A column's name and kind, how much of its codes or numbers [n] comes back, and what would without a code."""
    known = ~np.isnan(x)
    if not known.any():
        return column.name, column.kind, "no entry", ""
    if column.kind == "category":
        commonest = np.bincount(x[known].astype(int)).max() / known.sum()
        return column.name, column.kind, f"{(x == back)[known].mean():.1%}", f"{commonest:.1%}"
    return column.name, column.kind, f"R² {explained(x[known, None], back[known, None])[0]:.3f}", "R² 0"


def _rows_panel(run: Any, title: str, caption: str, lines: list[tuple[str, np.ndarray]]) -> Panel:
    rows = tuple((what, *("" if cell is None else str(cell) for cell in line)) for what, line in lines)
    return Panel(title, caption, wide=True, rows=rows, head=("", *run.spec.columns))


def _compared(axes: Axes, column: Column, data: np.ndarray, drawn: np.ndarray) -> None:
    if column.kind != "category":
        two_histograms(axes, data, drawn)
        return
    shares = [
        np.bincount(values[~np.isnan(values)].astype(int), minlength=len(column.levels)) for values in (data, drawn)
    ]
    shown = np.sort(np.argsort(-shares[0], kind="stable")[:LEVELS_SHOWN])
    for counts, color, words, width in ((shares[0], GRAY, "held-out", 0.8), (shares[1], ORANGE, "samples", 0.4)):
        axes.bar(range(len(shown)), counts[shown] / max(1, counts.sum()), width, color=color, alpha=0.7, label=words)
    axes.set_xticks(
        range(len(shown)), [_short(column.levels[level]) for level in shown], rotation=45, ha="right", fontsize=8
    )
    axes.set_yticks([])


def _short(level: str) -> str:
    """A level as it fits under a bar, without what matplotlib would read as a formula."""
    return (level if len(level) <= 12 else level[:11] + "…").replace("$", r"\$")
