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

from ..measure.aggregate import jarque_bera, two_sample, two_sample_limit
from .codes import codes
from .in_use import kind_of, label_entries
from .prior import INSIDE, dense_region, prior_draws
from .style import BLUE, CLASSES, GRAY, ORANGE, Panel, name, outline, plot

DRAWS, PASSES = 10_000, 60  # samples of the aggregate posterior, and at most so many of one row
MARGINALS = 8
BY_MOMENTS = ("diagonal", "delta")  # posteriors that mean and deviation say everything about
CELLS = 60  # of the plane, along either axis
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
    size = run._walkable  # what stands behind are entries of a label
    means, deviations = (_finite(np.asarray(part, np.float64)[:, :size]) for part in moments)
    draws = _draws(run, means, deviations)
    prior = prior_draws(run)
    return [*_planar(run, means, draws, prior), _marginals(run, means, draws, prior)]


def _draws(run: Any, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Samples of q(z|x), all rows again and again, [passes * n, dimensions]."""
    passes = min(PASSES, math.ceil(DRAWS / len(means)))
    model = run.config.model
    if model.posterior in BY_MOMENTS and not model.groups and not label_entries(run):
        noise = np.random.default_rng(0).standard_normal((passes, *means.shape))
        return (means + deviations * noise).reshape(-1, means.shape[1])
    drawn = [run.embed(run.preview, sample=True, seed=at, condition=run.preview_condition) for at in range(passes)]
    return _finite(np.concatenate(drawn).astype(np.float64)[:, : means.shape[1]])


def _planar(run: Any, means: np.ndarray, draws: np.ndarray, prior: np.ndarray | None) -> list[Panel]:
    if means.shape[1] < 2:
        return []
    view = plane(means)
    codes, spread = means @ view.directions.T, draws @ view.directions.T
    expected = None if prior is None else prior @ view.directions.T
    reach = max(_reach(codes, prior is None), _reach(spread, prior is None))
    reach = reach if expected is None else max(reach, _bulk(expected))
    shape = "circle, which holds" if prior is None else "outline, which holds the densest"
    whole = "one round cloud" if prior is None else "a cloud of the outline's shape"
    return [
        plot(
            "Held-out rows in latent space",
            f"Posterior means{', coloured by label' if run.preview_labels is not None else ''}. Healthy: the cloud "
            f"fills the dashed {shape} {INSIDE:.0%} of the prior; rows far outside it, or all in the "
            "middle, do not match the prior.",
            partial(_scatter, run=run, codes=codes, view=view, reach=reach, prior=expected),
            height=4.6,
        ),
        plot(
            "Aggregate posterior",
            f"Samples of q(z|x) over the held-out rows, counted on a logarithmic scale. Healthy: {whole} "
            "without holes; samples from the prior that fall into a hole decode to something never seen.",
            partial(_histogram, draws=spread, view=view, reach=reach, prior=expected),
            height=4.6,
        ),
    ]


def _scatter(
    figure: Figure, run: Any, codes: np.ndarray, view: Plane, reach: float, prior: np.ndarray | None = None
) -> None:
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
    _prior_line(axes, view, reach, prior)


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


def _histogram(figure: Figure, draws: np.ndarray, view: Plane, reach: float, prior: np.ndarray | None = None) -> None:
    axes = figure.subplots()
    edges = np.linspace(-reach, reach, CELLS + 1)
    counts, _, _ = np.histogram2d(draws[:, 0], draws[:, 1], bins=(edges, edges))
    shown = np.ma.masked_equal(counts.T, 0)
    mesh = axes.pcolormesh(edges, edges, shown, norm=LogNorm(1, max(2.0, counts.max())), cmap="viridis")
    marks = LogLocator(subs=(1, 2, 5))
    bar = figure.colorbar(
        mesh, ax=axes, ticks=marks, format="%g", label="samples in a cell", location="bottom", shrink=0.7, aspect=40
    )
    bar.minorticks_off()
    _prior_line(axes, view, reach, prior)


def _prior_line(axes: Axes, view: Plane, reach: float, prior: np.ndarray | None) -> None:
    """The line around most of the prior: a circle for N(0, I), else what its draws [n, 2] show."""
    turn, edges = np.linspace(0, 2 * np.pi, 200), np.linspace(-reach, reach, CELLS + 1)
    lines: list[Any] = [CIRCLE * np.stack([np.cos(turn), np.sin(turn)], 1)]
    if prior is not None:
        density, level = dense_region(prior, edges)
        middles = (edges[1:] + edges[:-1]) / 2
        drawn = axes.contour(middles, middles, density, levels=[level], linewidths=0)
        lines = [line for path in drawn.get_paths() for line in path.to_polygons(closed_only=False)]
    for line in lines:  # as lines, since these change their colour with the page
        axes.plot(line[:, 0], line[:, 1], color=rcParams["text.color"], linestyle="--", linewidth=1.2)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=view.labels[0], ylabel=view.labels[1])


def _reach(codes: np.ndarray, normal: bool = True) -> float:
    """Half the width of a figure that shows all codes, and the circle where the prior is N(0, I)."""
    return 1.05 * max(1.25 * CIRCLE if normal else 0.1, float(np.abs(codes).max(initial=0.0)))


def _bulk(prior: np.ndarray) -> float:
    """Half the width that shows all but one in a thousand draws of the prior, whose tails may be long."""
    return 1.2 * float(np.quantile(np.abs(prior), 0.999))


def _marginals(run: Any, means: np.ndarray, draws: np.ndarray, prior: np.ndarray | None) -> Panel:
    ranked = kind_of(run) == "dimensions"
    rank = np.array(run.metrics["kl_per_dimension"][: means.shape[1]] if ranked else means.var(0), np.float64)
    order = np.argsort(-rank, kind="stable")[:MARGINALS]
    most = "of the largest KL" if ranked else "whose means vary the most"
    which = "" if draws.shape[1] <= MARGINALS else f" The {MARGINALS} dimensions {most} are shown."
    line, number, fit = _fit(draws[: len(means)], prior)  # one draw a row: repeated ones would count as independent
    return plot(
        "Marginals of the aggregate posterior",
        f"Healthy: the histogram follows the line, the {line}; a narrow, shifted or split one means "
        f"that samples from the prior do not look like codes of data. The number is {number}.{which}",
        partial(_marginal_rows, draws=draws, order=order, fit=fit, prior=prior),
        height=1.9 * math.ceil(len(order) / 4) + 0.3,
        wide=True,
    )


def _fit(draws: np.ndarray, prior: np.ndarray | None) -> tuple[str, str, list[str]]:
    """What the line of each marginal is, what the number beside its name is, and the numbers."""
    if prior is None:
        words = "the Jarque-Bera statistic of normality: about 2 for a normal, above 6 in one of twenty by chance"
        return "standard normal prior", words, [f"{value:.1f}" for value in jarque_bera(draws)]
    limit = two_sample_limit(len(draws), len(prior))
    words = f"the Kolmogorov-Smirnov distance from the prior: above {limit:.2g} in one of twenty by chance, 1 at most"
    return "prior by its draws", words, [f"{value:.2f}" for value in two_sample(draws, prior)]


def _marginal_rows(
    figure: Figure, draws: np.ndarray, order: np.ndarray, fit: list[str], prior: np.ndarray | None = None
) -> None:
    lines, across = math.ceil(len(order) / 4), min(4, len(order))
    grid = list(figure.subplots(lines, across, sharex=True, sharey=True, squeeze=False).flat)
    reach = _reach(draws[:, order], prior is None)
    reach = min(reach, 8.0) if prior is None else max(reach, _bulk(prior[:, order]))
    points = np.linspace(-reach, reach, 161)
    bins, normal = points[::4], [NormalDist().pdf(point) for point in points]
    for axes, dimension in zip(grid, order, strict=False):
        weights = np.full(len(draws), 1 / (len(draws) * (points[4] - points[0])))  # a density, also of an empty range
        axes.hist(draws[:, dimension], bins=bins, weights=weights, histtype="stepfilled", color=BLUE, alpha=0.55)
        if prior is None:
            axes.plot(points, normal, color=ORANGE)
        else:
            axes.stairs(np.histogram(prior[:, dimension], bins, density=True)[0], bins, color=ORANGE, linewidth=1.4)
        axes.set(title=f"z{dimension + 1}   {fit[dimension]}", yticks=[])
    for axes in grid[len(order) :]:
        axes.set_visible(False)


def _finite(codes: np.ndarray) -> np.ndarray:
    return np.nan_to_num(codes, nan=0.0, posinf=0.0, neginf=0.0)
