"""Where the held-out rows lie in latent space, beside the prior they were asked to fill."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ..measure.aggregate import jarque_bera
from .codes import codes
from .style import BLUE, CLASSES, GRAY, ORANGE, Panel, name, outline, plot

DRAWS, PASSES = 10_000, 60  # samples of the aggregate posterior, and at most so many of one row
MARGINALS = 8
INSIDE = 0.95
CIRCLE = math.sqrt(-2 * math.log(1 - INSIDE))  # radius that holds this share of a standard normal in the plane


@dataclass(frozen=True)
class Plane:
    """The two directions of latent space that are shown.

    Args:
        directions: Orthonormal rows, [2, L]; a standard normal prior is standard normal along them too.
        labels: Words for the two axes.
    """

    directions: np.ndarray
    labels: tuple[str, str]


def plane(means: np.ndarray) -> Plane:
    """The plane of the two latents where there are two, else that of the largest spread of the posterior means.

    The spread is found by principal components. Reference: Pearson, On Lines and Planes of Closest Fit, 1901.

    Args:
        means: Posterior means, [n, L] with L of 2 or more.
    """
    if means.shape[1] == 2 or len(means) < 2:
        return Plane(np.eye(2, means.shape[1]), ("z1", "z2"))
    _, spread, directions = np.linalg.svd(means - means.mean(0), full_matrices=False)
    share = 100 * spread**2 / (np.sum(spread**2) or 1.0)
    first, second = (f"principal direction {i + 1} of the means ({share[i]:.0f} %)" for i in range(2))
    return Plane(directions[:2], (first, second))


def latent(run: Any) -> list[Panel]:
    """Scatter of the posterior means, histogram of the aggregate posterior, and its marginals; or the use of codes."""
    if run.has_codes:
        return codes(run)
    moments = run.posterior(run.preview, run.preview_condition)
    means, deviations = (_finite(np.asarray(part, np.float64)) for part in moments)
    passes = min(PASSES, math.ceil(DRAWS / len(means)))
    noise = np.random.default_rng(0).standard_normal((passes, *means.shape))
    draws = (means + deviations * noise).reshape(-1, means.shape[1])
    normality = jarque_bera(draws[: len(means)])  # one draw of each row: repeated ones would count as independent
    return [*_planar(run, means, draws), _marginals(run, means, draws, normality)]


def _planar(run: Any, means: np.ndarray, draws: np.ndarray) -> list[Panel]:
    if means.shape[1] < 2:
        return []
    view = plane(means)
    codes, spread = means @ view.directions.T, draws @ view.directions.T
    reach = max(_reach(codes), _reach(spread))
    return [
        plot(
            "Held-out rows in latent space",
            f"Posterior means{', coloured by label' if run.preview_labels is not None else ''}. Healthy: the cloud "
            f"fills the dashed circle, which holds {INSIDE:.0%} of the prior; rows far outside it, or all in the "
            "middle, do not match the prior.",
            partial(_scatter, run=run, codes=codes, view=view, reach=reach),
            height=4.6,
        ),
        plot(
            "Aggregate posterior",
            "Samples of q(z|x) over the held-out rows, counted on a logarithmic scale. Healthy: one round cloud "
            "without holes; samples from the prior that fall into a hole decode to something never seen.",
            partial(_histogram, draws=spread, view=view, reach=reach),
            height=4.6,
        ),
    ]


def _scatter(figure: Figure, run: Any, codes: np.ndarray, view: Plane, reach: float) -> None:
    axes = figure.subplots()
    labels = run.preview_labels
    groups = {"": np.ones(len(codes), bool)} if labels is None else _groups(labels, run.spec.label_names)
    for place, (words, members) in enumerate(groups.items()):
        color = BLUE if labels is None else CLASSES[place] if place < len(CLASSES) else GRAY
        size = 9 if len(codes) > 500 else 20
        axes.scatter(codes[members, 0], codes[members, 1], s=size, color=color, alpha=0.85, linewidth=0, label=words)
        center = axes.annotate(words, np.median(codes[members], 0), ha="center", va="center", fontweight="bold")
        center.set_path_effects(outline())
    if labels is not None:
        figure.legend(loc="outside lower center", ncols=5, markerscale=1.8, handletextpad=0.1, columnspacing=1.0)
    _prior_circle(axes, view, reach)


def _groups(labels: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Members of each label in the order of the labels; beyond ten labels, those of few rows are one group."""
    found, counts = np.unique(labels, return_counts=True)
    kept = np.sort(found[np.argsort(-counts, kind="stable")[: len(CLASSES)]])
    groups = {}
    for label in kept:
        words = name(names[label], 14) if 0 <= label < len(names) else str(label)
        groups[words if words not in groups else f"{words} ({label})"] = labels == label
    if len(found) > len(kept):
        groups[f"{len(found) - len(kept)} others"] = ~np.isin(labels, kept)
    return groups


def _histogram(figure: Figure, draws: np.ndarray, view: Plane, reach: float) -> None:
    axes = figure.subplots()
    edges = np.linspace(-reach, reach, 61)
    counts, _, _ = np.histogram2d(draws[:, 0], draws[:, 1], bins=(edges, edges))
    shown = np.ma.masked_equal(counts.T, 0)
    mesh = axes.pcolormesh(edges, edges, shown, norm=LogNorm(1, max(2.0, counts.max())), cmap="viridis")
    marks = LogLocator(subs=(1, 2, 5))
    bar = figure.colorbar(
        mesh, ax=axes, ticks=marks, format="%g", label="samples in a cell", location="bottom", shrink=0.7, aspect=40
    )
    bar.minorticks_off()
    _prior_circle(axes, view, reach)


def _prior_circle(axes: Axes, view: Plane, reach: float) -> None:
    turn = np.linspace(0, 2 * np.pi, 200)
    axes.plot(CIRCLE * np.cos(turn), CIRCLE * np.sin(turn), color=rcParams["text.color"], linestyle="--", linewidth=1.2)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=view.labels[0], ylabel=view.labels[1])


def _reach(codes: np.ndarray) -> float:
    return 1.05 * max(1.25 * CIRCLE, float(np.abs(codes).max(initial=0.0)))


def _marginals(run: Any, means: np.ndarray, draws: np.ndarray, normality: np.ndarray) -> Panel:
    carried = run.metrics.get("kl_per_dimension") or []
    rank = np.array(carried if len(carried) == run.latent else means.var(0), np.float64)
    order = np.argsort(-rank, kind="stable")[:MARGINALS]
    which = "" if draws.shape[1] <= MARGINALS else f" The {MARGINALS} dimensions of the largest KL are shown."
    return plot(
        "Marginals of the aggregate posterior",
        "Healthy: the histogram follows the line, the standard normal prior; a narrow, shifted or split one means "
        "that samples from the prior do not look like codes of data. The number is the Jarque-Bera statistic of "
        f"normality: about 2 for a normal, above 6 in one of twenty by chance.{which}",
        partial(_marginal_rows, draws=draws, order=order, normality=normality),
        height=1.9 * math.ceil(len(order) / 4) + 0.3,
        wide=True,
    )


def _marginal_rows(figure: Figure, draws: np.ndarray, order: np.ndarray, normality: np.ndarray) -> None:
    lines, across = math.ceil(len(order) / 4), min(4, len(order))
    grid = list(figure.subplots(lines, across, sharex=True, sharey=True, squeeze=False).flat)
    reach = min(_reach(draws[:, order]), 8.0)
    points = np.linspace(-reach, reach, 161)
    density = [NormalDist().pdf(point) for point in points]
    for axes, dimension in zip(grid, order, strict=False):
        weights = np.full(len(draws), 1 / (len(draws) * (points[4] - points[0])))  # a density, also of an empty range
        axes.hist(draws[:, dimension], bins=points[::4], weights=weights, histtype="stepfilled", color=BLUE, alpha=0.55)
        axes.plot(points, density, color=ORANGE)
        axes.set(title=f"z{dimension + 1}   {normality[dimension]:.1f}", yticks=[])
    for axes in grid[len(order) :]:
        axes.set_visible(False)


def _finite(codes: np.ndarray) -> np.ndarray:
    return np.nan_to_num(codes, nan=0.0, posinf=0.0, neginf=0.0)
