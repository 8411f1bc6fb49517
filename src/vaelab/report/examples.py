"""Which held-out rows the report shows, and the pictures of a model of images."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ..measure.paths import quantile_grid
from ..measure.pictures import channels_first, image_grid, png_bytes, value_range
from .style import Panel, Strip, data_uri

SAMPLE_LINES, PATHS_SHOWN, GRID_STEPS = 4, 4, 16


def pick(run: Any, count: int) -> np.ndarray:
    """Indices of preview rows: each label in turn where there are labels, else evenly spaced."""
    rows = len(run.preview)
    if run.preview_labels is None:
        return np.unique(np.linspace(0, rows - 1, min(count, rows)).astype(int))
    labels = np.asarray(run.preview_labels)
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    turns = sorted((turn, label, row) for label, found in members.items() for turn, row in enumerate(found[:count]))
    return np.array([row for _, _, row in turns[:count]])


def pairs(run: Any) -> list[tuple[int, int]]:
    """Neighbouring picks, as the two ends of an interpolation."""
    picked = pick(run, PATHS_SHOWN + 1)
    return [(int(first), int(second)) for first, second in pairwise(picked)]


def reconstructions(run: Any) -> list[Panel]:
    """Originals above their reconstructions, for picked rows and for those that are reconstructed worst."""
    decoded = channels_first(run.reconstruct(run.preview), run.spec.axes)
    originals = run.preview.reshape(decoded.shape)
    distance = ((decoded - originals.astype(np.float64)) ** 2).reshape(len(decoded), -1).mean(1)
    hardest = np.argsort(-np.nan_to_num(distance), kind="stable")
    count = run.config.report.images
    shown = (
        ("Held-out rows and their reconstructions", _RECONSTRUCTED, pick(run, count)),
        ("Worst reconstructed", _WORST, hardest[:count]),
    )
    return [
        _pixels(
            title,
            caption,
            _strip(run, originals[rows], len(rows), "original"),
            _strip(run, decoded[rows], len(rows), "reconstructed"),
        )
        for title, caption, rows in shown
    ]


def samples(run: Any) -> list[Panel]:
    """Means of p(x|z) for z drawn from the prior."""
    columns = run.config.report.images
    strip = _user_strip(run, run.sample(SAMPLE_LINES * columns, seed=0), columns)
    return [_pixels("Samples from the prior", _SAMPLED, strip)]


def interpolations(run: Any) -> list[Panel]:
    """Decoded straight lines between the codes of held-out rows."""
    steps = max(2, run.config.report.images)
    lines = [run.interpolate(run.preview[a], run.preview[b], steps) for a, b in pairs(run)]
    return [_pixels("Interpolation", _BETWEEN, *(_user_strip(run, line, steps) for line in lines))] if lines else []


def grid(run: Any) -> list[Panel]:
    """The decoded plane of a model with two latents."""
    return [_pixels("Decoded plane", _PLANE, _user_strip(run, run.decode(quantile_grid(GRID_STEPS)), GRID_STEPS))]


def _pixels(title: str, caption: str, *strips: Strip) -> Panel:
    return Panel(title, caption, strips, wide=True, pixels=True)


def _user_strip(run: Any, rows: np.ndarray, columns: int) -> Strip:
    return _strip(run, channels_first(rows, run.spec.axes), columns)


def _strip(run: Any, rows: np.ndarray, columns: int, label: str = "") -> Strip:
    low, top = value_range(run.preview, run.spec.top)
    return Strip(data_uri(png_bytes(image_grid(np.asarray(rows), columns, top, low))), label)


_RECONSTRUCTED = (
    "Healthy: the same thing in every pair, at most a little softer; a reconstruction that is the same blur everywhere "
    "means that the code carries nothing."
)
_WORST = (
    "The held-out rows of the largest squared error: here stand mislabelled, damaged and rare examples, and whatever "
    "the model has not learned."
)
_SAMPLED = (
    "Means of p(x|z) for z from the prior. Healthy: as varied and as sharp as the reconstructions; worse than those "
    "means that the codes of data do not fill the prior."
)
_BETWEEN = (
    "Straight lines in latent space between held-out rows at both ends. Healthy: each step is plausible by itself; "
    "a ghostly cross-fade in the middle shows a hole between the two."
)
_PLANE = (
    "Decoded quantiles of the prior, z1 to the right and z2 upwards, every cell equally probable. Healthy: smooth "
    "changes, every kind of row has its region, and no region is mush."
)
