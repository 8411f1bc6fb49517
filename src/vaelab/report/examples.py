"""Which held-out rows the report shows, and the pictures of a model of images."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ..measure.paths import quantile_grid
from ..measure.pictures import channels_first, image_grid, png_bytes, value_range
from .nearest import distances, nearest
from .prior import quantiles_of
from .style import Panel, Strip, data_uri

SAMPLE_LINES, PATHS_SHOWN, GRID_STEPS = 4, 4, 16
LABELS_SHOWN = 20
END = 0.05  # of the rows lie beyond an end of an interpolation
SAMPLES = 200  # whose distance to training rows is taken


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


def far_apart(run: Any, count: int) -> list[tuple[int, int]]:
    """Pairs of preview rows that lie far apart in latent space, one along each of its widest directions.

    A row near either end of a principal direction of the codes: neither neighbours nor the strangest rows of all.
    """
    if len(run.preview) < 2:
        return []
    codes = np.nan_to_num(np.asarray(run.embed(run.preview, condition=run.preview_condition), np.float64))
    centred = codes[:, : run._walkable] - codes[:, : run._walkable].mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    ends = [round(share * (len(codes) - 1)) for share in (END, 1 - END)]
    ordered = [np.argsort(centred @ direction, kind="stable")[ends] for direction in directions[:count]]
    return [(int(first), int(last)) for first, last in ordered]


def path_words(run: Any) -> str:
    """What a path between two codes goes over."""
    return "over the entries of the book nearest to a straight line" if run.has_codes else "along a straight line"


def quantiles(errors: np.ndarray, count: int) -> np.ndarray:
    """Rows evenly spaced from the best reconstructed to the worst; an error that is no number is the worst.

    Example:
        >>> quantiles(np.array([3.0, 1.0, np.nan, 2.0, 0.0]), 3).tolist()
        [4, 3, 2]
    """
    order = np.argsort(np.nan_to_num(errors, nan=np.inf), kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]


def reconstructions(run: Any) -> list[Panel]:
    """Originals above their reconstructions, from the best to the worst, and the worst of all."""
    decoded = channels_first(reconstructed(run), run.spec.axes)
    originals = run.preview.reshape(decoded.shape)
    squares = ((decoded - originals.astype(np.float64)) ** 2).reshape(len(decoded), -1)
    errors, count = np.sqrt(squares.mean(1)), run.config.report.images
    hardest = np.argsort(-np.nan_to_num(errors, nan=np.inf), kind="stable")[:count]
    shown = (("From best to worst", _RECONSTRUCTED, quantiles(errors, count)), ("Worst reconstructed", _WORST, hardest))
    return [
        _pixels(
            title,
            caption,
            strip(run, originals[rows], len(rows), "original"),
            strip(run, decoded[rows], len(rows), "reconstructed, root mean squared error", _marks(errors[rows])),
        )
        for title, caption, rows in shown
    ]


def samples(run: Any) -> list[Panel]:
    """Means of p(x|z) for z drawn from the prior, and the training rows nearest to some of them."""
    columns = run.config.report.images
    made = channels_first(run.sample(max(SAMPLES, SAMPLE_LINES * columns), seed=0), run.spec.axes)
    panels = [_pixels("Samples from the prior", _SAMPLED, strip(run, made[: SAMPLE_LINES * columns], columns))]
    panels += for_each_label(run)
    found = nearest(run, made)
    if found is None:
        return panels
    near = np.asarray(run.training_preview)[found.index[:columns]].reshape(-1, *made.shape[1:])
    beside = _pixels(
        "Samples above their nearest training rows",
        f"Nearest of {len(run.training_preview):,} kept training rows. {_NEAREST}",
        strip(run, made[:columns], columns, "sample"),
        strip(run, near, columns, "nearest training row, and its distance", _marks(found.ratio[:columns])),
    )
    return [*panels, beside, distances(found)]


def reconstructed(run: Any, rows: Any = slice(None)) -> np.ndarray:
    """Rows of the preview as they come back, under their own conditions where the model reads some."""
    given = run.preview_condition
    return np.asarray(run.reconstruct(run.preview[rows], None if given is None else given[rows]))


def between(run: Any, a: int, b: int, steps: int) -> np.ndarray:
    """Rows from one of the preview to another, and from the condition of one to that of the other."""
    given = run.preview_condition
    ends = None if given is None else given[[a, b]]
    return np.asarray(run.interpolate(run.preview[a], run.preview[b], steps, condition=ends))


def plane(run: Any, steps: int) -> np.ndarray:
    """The decoded quantiles of a model with two latents, under the condition of the first row where it reads one."""
    given = run.preview_condition
    return np.asarray(
        run.decode(quantiles_of(run, quantile_grid(steps)), condition=None if given is None else given[0])
    )


def cells_words(run: Any) -> str:
    """How probable the cells of that plane are."""
    if run.has_standard_prior:
        return ", every cell equally probable"
    return ", taken for each by itself: where the two depend on each other, some cells are hardly ever drawn"


def for_each_label(run: Any) -> list[Panel]:
    """The same codes decoded under each label, a row of pictures a label; nothing for a model without labels."""
    columns, names = run.config.report.images, run.spec.condition[:LABELS_SHOWN] if run.spec.classes else ()
    strips = [
        strip(run, channels_first(run.sample(columns, seed=0, condition=label), run.spec.axes), columns, label)
        for label in names
    ]
    return [_pixels("Samples of each label", _LABELLED, *strips)] if strips else []


def interpolations(run: Any) -> list[Panel]:
    """Decoded straight lines between the codes of held-out rows."""
    steps = max(2, run.config.report.images)
    lines = [between(run, a, b, steps) for a, b in pairs(run)]
    caption = _BETWEEN.format(path_words(run))
    return (
        [
            _pixels(
                "Interpolation", caption[:1].upper() + caption[1:], *(_user_strip(run, line, steps) for line in lines)
            )
        ]
        if lines
        else []
    )


def grid(run: Any) -> list[Panel]:
    """The decoded plane of a model with two latents."""
    return [
        _pixels("Decoded plane", _PLANE.format(cells_words(run)), _user_strip(run, plane(run, GRID_STEPS), GRID_STEPS))
    ]


def _pixels(title: str, caption: str, *strips: Strip) -> Panel:
    return Panel(title, caption, strips, wide=True, pixels=True)


def _user_strip(run: Any, rows: np.ndarray, columns: int) -> Strip:
    return strip(run, channels_first(rows, run.spec.axes), columns)


def strip(run: Any, rows: np.ndarray, columns: int, label: str = "", marks: tuple[str, ...] = ()) -> Strip:
    """Rows [n, C, H, W] on the data's scale as images side by side, in the gray levels of the run's data."""
    low, top = value_range(run.preview, run.spec.top)
    return Strip(data_uri(png_bytes(image_grid(np.asarray(rows), columns, top, low))), label, marks=marks)


def _marks(values: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{value:.2g}" for value in values)


_RECONSTRUCTED = (
    "Held-out rows, evenly spaced over all of them sorted by their error. Healthy: the same thing in every pair, at "
    "most a little softer, but for the last ones; the same blur everywhere means that the code carries nothing."
)
_WORST = (
    "The held-out rows of the largest error: here stand mislabelled, damaged and rare examples, and whatever "
    "the model has not learned."
)
_SAMPLED = (
    "Means of p(x|z) for z from the prior. Healthy: as varied and as sharp as the reconstructions; worse than those "
    "means that the codes of data do not fill the prior."
)
_LABELLED = (
    "One row a label, the same draws of z in every row. Healthy: each row shows what its label says, and a column "
    "keeps what the label leaves open, such as slant and stroke."
)
_NEAREST = (
    "A distance of 1 is that of the middle held-out row to the training rows. Healthy: alike, and never the same; the "
    "same picture in every pair, at a distance far below 1, is a memory of training rows."
)
_BETWEEN = (
    "Steps {} in latent space, between held-out rows at both ends. Healthy: each step is plausible by itself; "
    "a ghostly cross-fade in the middle shows a hole between the two."
)
_PLANE = (
    "Decoded quantiles of the prior, z1 to the right and z2 upwards{}. Healthy: smooth "
    "changes, every kind of row has its region, and no region is mush."
)
