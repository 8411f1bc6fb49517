"""The figures of a comparison: curves over each other, and the same rows as each run has them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..measure.pictures import channels_first
from .examples import pick, reconstructed, strip
from .in_use import UNITS, kind_of
from .mixed import coded, fidelity
from .page import Section
from .plots import series, settled_limits
from .style import CLASSES, Panel, name, plot
from .tables import explained, flat_rows

CURVES = (
    ("negative_elbo", "Held-out negative ELBO (nats)", "Lower is better where the bounds can be compared at all."),
    ("reconstruction", "Reconstruction (nats)", "-log p(x|z), held-out: what the code leaves unsaid."),
    ("kl", "KL (nats)", "What the code carries about a row, at most; one at zero has collapsed."),
    ("active_units", "Active units", "Latent dimensions with a KL above 0.01 nats."),
)
# What the runs have to count for a curve to mean the same in all of them; see `in_use.kind_of`.
NEEDS = {"kl": tuple(UNITS), "active_units": ("dimensions",)}


def sections(runs: Sequence[Any], names: Sequence[str]) -> list[Section]:
    """Every section of figures in the order of the page."""
    trained = [(run, label) for run, label in zip(runs, names, strict=True) if run.metrics]
    alike = [pair for pair in trained if _rows_alike(trained[0][0], pair[0])] if trained else []
    return [
        Section("Training", _curves(runs, names)),
        Section("Reconstructions of the same rows", _reconstructions(alike) if len(alike) > 1 else []),
        Section("Samples", [_pictures(run, label) for run, label in trained if run.spec.layout == "image"]),
    ]


def _rows_alike(first: Any, other: Any) -> bool:
    return first.spec.layout == other.spec.layout and np.array_equal(first.preview, other.preview)


def _curves(runs: Sequence[Any], names: Sequence[str]) -> list[Panel]:
    panels = []
    for key, title, caption in CURVES:
        if not all(key not in NEEDS or kind_of(run) in NEEDS[key] for run in runs if run.metrics):
            continue
        lines = [(*series(run.history, "held_out", key), label) for run, label in zip(runs, names, strict=True)]
        if any(np.isfinite(values).any() for _, values, _ in lines):
            panels.append(plot(title, caption, partial(_over, lines=lines)))
    return panels


def _over(figure: Figure, lines: Sequence[tuple[np.ndarray, np.ndarray, str]]) -> None:
    axes = figure.subplots()
    for place, (steps, values, label) in enumerate(lines):
        axes.plot(steps, values, color=CLASSES[place % len(CLASSES)], label=name(label))
    settled_limits(axes, [(steps, values) for steps, values, _ in lines])
    axes.set_xlabel("step")
    axes.legend()


def _reconstructions(runs: Sequence[tuple[Any, str]]) -> list[Panel]:
    first = runs[0][0]
    if first.spec.mixed:
        return [_mixed_columns(runs)]
    return [_columns(runs) if first.spec.layout == "table" else _rows(runs)]


def _rows(runs: Sequence[tuple[Any, str]]) -> Panel:
    first = runs[0][0]
    rows = pick(first, first.config.report.images)
    strips = [strip(first, first.preview[rows].reshape(len(rows), *first.spec.shape), len(rows), "original")]
    for run, label in runs:
        decoded = channels_first(reconstructed(run, rows), run.spec.axes)
        strips.append(strip(first, decoded, len(rows), name(label)))
    return Panel("Held-out rows", "The same held-out rows, as each run has them.", tuple(strips), True, True)


def _columns(runs: Sequence[tuple[Any, str]]) -> Panel:
    data = flat_rows(runs[0][0].preview)
    shares = [explained(data, flat_rows(reconstructed(run))) for run, _ in runs]
    return Panel(
        "R² of every column",
        "Of the same held-out rows: 1 is a perfect reconstruction, 0 no better than the column's mean.",
        wide=True,
        rows=tuple(
            (column, *(f"{share[place]:.3f}" for share in shares))
            for place, column in enumerate(runs[0][0].spec.columns)
        ),
        head=("column", *(label for _, label in runs)),
    )


def _mixed_columns(runs: Sequence[tuple[Any, str]]) -> Panel:
    first = runs[0][0]
    data = coded(first, first.preview)
    decoded = [coded(first, reconstructed(run)) for run, _ in runs]
    return Panel(
        "What comes back of every column",
        "Of the same held-out rows: the share of levels that are given back rightly, and R² of numbers.",
        wide=True,
        rows=tuple(
            (column.name, *(fidelity(column, data[:, place], back[:, place])[2] for back in decoded))
            for place, column in enumerate(first.spec.mixed)
        ),
        head=("column", *(label for _, label in runs)),
    )


def _pictures(run: Any, label: str) -> Panel:
    columns = run.config.report.images
    made = channels_first(run.sample(2 * columns, seed=0), run.spec.axes)
    caption = "Means of p(x|z) for z from the prior, drawn with the same seed for every run."
    return Panel(name(label), caption, (strip(run, made, columns),), True, True)
