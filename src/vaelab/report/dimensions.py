"""What the code carries: divergence and use of each latent dimension over time, and rate against distortion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..measure.bound import ACTIVE_NATS, ACTIVE_VARIANCE
from . import style
from .in_use import UNITS, Unit, dimensions_of, in_use, kind_of
from .plots import series
from .prior import prior_variance
from .style import BLUE, GRAY, GREEN, ORANGE, Panel, plot

DIMENSIONS_SHOWN = 64
CUT = 10.0  # times the prior's largest variance: bars beyond it would hide all others
Line = Mapping[str, Any]


def dimensions(run: Any) -> list[Panel]:
    """KL per latent dimension, what is in use, rate and distortion, and variances; nothing before an evaluation.

    Codes without noise have neither KL nor rate: of them only the variances are shown, where there are any.
    """
    lines = [line for line in run.history if line["kind"] == "held_out" and line.get("kl_per_dimension")]
    if not lines or not run.metrics:
        return []
    kind = kind_of(run)
    if kind == "none":
        return _variances(run)
    maps = [_map(run, lines, kind == "groups")] if kind in ("dimensions", "groups") else []
    return [*maps, _active(run, lines), _rate_distortion(run, lines), *_variances(run)]


def _map(run: Any, lines: Sequence[Line], grouped: bool) -> Panel:
    """The KL of each dimension, the largest first, and of a label last; or of each group, from the top down."""
    steps = np.array([line["step"] for line in lines])
    values = np.array([line["kl_per_dimension"] for line in lines], np.float64)
    final = np.array(run.metrics["kl_per_dimension"], np.float64)
    size = len(final) if grouped else dimensions_of(run)
    ranked = np.arange(size) if grouped else np.argsort(-final[:size], kind="stable")
    order = np.concatenate([ranked[:DIMENSIONS_SHOWN], np.arange(size, len(final))])
    word, what = ("group ", "latent group") if grouped else ("z", "latent dimension")
    names = [f"{word}{index + 1}" if index < size else "label" for index in order]
    shown = "" if size <= DIMENSIONS_SHOWN else f" The {DIMENSIONS_SHOWN} largest of {size} are shown."
    label = "" if size == len(final) else " The last bar is the KL of q(y|x), the guess of the label."
    return plot(
        f"KL per {what}, held-out",
        f"Healthy: bars well above the dashed line at {ACTIVE_NATS} nats; a {what.split()[1]} below it carries nothing "
        f"about the data and could be left out.{' Groups are counted from the top.' * grouped}{label}{shown}",
        partial(_kl_map, steps=steps, values=values[:, order], final=final[order], names=names, what=what),
        height=min(6.5, 1.6 + 0.2 * len(order)),
        wide=True,
    )


def _kl_map(
    figure: Figure, steps: np.ndarray, values: np.ndarray, final: np.ndarray, names: list[str], what: str
) -> None:
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = np.arange(len(names))
    scale = LogNorm(1e-3, max(1.0, float(np.nanmax(values, initial=1.0))))
    left.grid(visible=False)
    if len(steps) > 1:
        middles = (steps[1:] + steps[:-1]) / 2
        edges = np.concatenate([[2 * steps[0] - middles[0]], middles, [2 * steps[-1] - middles[-1]]])
        cells = np.clip(values, 1e-3, None).T
        mesh = left.pcolormesh(edges, np.arange(len(names) + 1) - 0.5, cells, norm=scale, cmap="viridis")
        figure.colorbar(mesh, ax=left, location="left", format="%g", label="nats", pad=0.02).minorticks_off()
    left.set(xlabel="step", ylabel=what, title="over the evaluations")
    right.barh(places, np.maximum(final, 1e-3), color=[BLUE if value > ACTIVE_NATS else GRAY for value in final])
    style.plain_log(right, "x", marks=(1,))
    right.set_xlim(1e-3, 1.6 * max(float(np.nanmax(final, initial=0.0)), ACTIVE_NATS))
    right.axvline(ACTIVE_NATS, color=ORANGE, linestyle="--")
    right.set(xlabel="nats", title="of the kept checkpoint")
    right.grid(visible=False, axis="y")
    every = math.ceil(len(names) / 32)
    left.set_yticks(places[::every], names[::every])
    left.invert_yaxis()


def _active(run: Any, lines: Sequence[Line]) -> Panel:
    unit, _, whole = in_use(run) or (UNITS["whole"], None, 0)
    rules = [unit] if kind_of(run) != "dimensions" else [unit, UNITS["whole"]]
    counted = [(each, [each.count(line, dimensions_of(run)) for line in lines]) for each in rules]
    by_mean = f", and those whose posterior mean varies over rows by more than {ACTIVE_VARIANCE}" * (len(rules) > 1)
    return plot(
        f"{unit.name.capitalize()}, held-out",
        f"How many {unit.noun} are in use. Counted are {unit.rule}{by_mean}. Healthy: rises and stays; a fall to "
        f"{'one is a book that says nothing' if unit is UNITS['entries'] else 'zero is collapse'}.",
        partial(_active_lines, steps=[line["step"] for line in lines], counted=counted, whole=whole),
    )


def _active_lines(
    figure: Figure, steps: Sequence[int], counted: Sequence[tuple[Unit, Sequence[int | None]]], whole: int
) -> None:
    """Counts of one unit over the evaluations, by one rule or by two."""
    axes = figure.subplots()
    looks = (("by KL", BLUE, 3.2), ("by mean", ORANGE, 1.4)) if len(counted) > 1 else (("in use", BLUE, 2.0),)
    for (_, values), (words, color, width) in zip(counted, looks, strict=True):
        known = np.array(values, np.float64)
        if np.isfinite(known).any():
            axes.plot(steps, known, color=color, label=words, linewidth=width, drawstyle="steps-post")
    axes.axhline(whole, color=GRAY, linestyle=":", label="all")
    axes.set(xlabel="step", ylabel=counted[0][0].noun, ylim=(-0.03 * whole, 1.08 * whole))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.legend()


def _rate_distortion(run: Any, lines: Sequence[Line]) -> Panel:
    """The path of the run in the plane of KL and reconstruction.

    Reference: Alemi, Poole, Fischer, Dillon, Saurous and Murphy, Fixing a Broken ELBO, 2018.
    """
    constant = next((line["negative_elbo"] for line in run.history if line["kind"] == "baseline"), None)
    below = (
        ""
        if constant is None
        else f" The dashed line is what the best constant decoder costs, {constant:.4g} nats: a "
        "code earns its keep below it, and a run that ends at its upper left end has collapsed."
    )
    return plot(
        "Rate and distortion",
        "Every evaluation as a point, from pale to dark. Healthy: the path goes down, and right no further than it "
        f"gains downwards.{below}{_moved(run)}",
        partial(_path, run=run, lines=lines, constant=constant),
    )


def _moved(run: Any) -> str:
    """Why the kept weights are no point of the path; empty where they are one."""
    fit = run.metrics.get("prior_fit") or {}
    if "gain" not in fit:
        return ""
    return (
        " The star is off the path: the evaluations were made with the prior of the training, the star with the "
        f"{fit['prior']} one that was fitted to the codes afterwards, which changes the rate alone."
    )


def _path(figure: Figure, run: Any, lines: Sequence[Line], constant: float | None) -> None:
    axes = figure.subplots()
    (_, rate), (_, distortion) = (series(lines, "held_out", key) for key in ("kl", "reconstruction"))
    axes.plot(rate, distortion, color=GRAY, linewidth=1, label="evaluations")
    axes.scatter(rate, distortion, c=np.arange(len(rate)), cmap="Blues", vmin=-0.5 * len(rate), s=16, zorder=3)
    if "kl" in run.metrics:
        axes.plot(run.metrics["kl"], run.metrics["reconstruction"], "*", color=ORANGE, markersize=13, label="kept")
    if constant is not None:
        right = max(float(np.nanmax(rate, initial=0.0)), 1.0)
        ends = np.array([0.0, right])
        axes.plot(ends, constant - ends, color=GREEN, linestyle="--", label="constant decoder")
    late = np.concatenate([distortion[len(distortion) // 20 :], [] if constant is None else [constant]])
    late = late[np.isfinite(late)]
    if late.size and np.ptp(late) > 0:
        axes.set_ylim(late.min() - 0.08 * np.ptp(late), late.max() + 0.08 * np.ptp(late))
    axes.set(xlabel="rate: KL (nats)", ylabel="distortion: -log p(x|z) (nats)", xlim=(0, None))
    axes.legend()


def _variances(run: Any) -> list[Panel]:
    """Variances of q(z|x) and of its mean beside the prior's; nothing for posteriors that are points or entries."""
    if not run.metrics.get("posterior_variance"):
        return []
    size = dimensions_of(run)
    inner, outer = (np.array(run.metrics[key], np.float64)[:size] for key in ("posterior_variance", "mean_variance"))
    prior = prior_variance(run)[:size]
    order = np.argsort(inner, kind="stable")[:DIMENSIONS_SHOWN]
    highest = 1.1 * max(float(np.nanmax(inner + outer, initial=1.0)), float(prior[order].max()))
    top = min(max(1.1, highest), CUT * float(prior[order].max()))
    of_prior = "the prior has 1 in all" if run.has_standard_prior else "the dashed line is the prior's, by its draws"
    level = "near 1" if run.has_standard_prior else "near the line"
    shown = f" The {DIMENSIONS_SHOWN} smallest of {size} are shown." * (size > DIMENSIONS_SHOWN)
    cut = f" The axis ends at {top:.3g}; the highest bar goes on to {highest / 1.1:.3g}." * (highest > top)
    return [
        plot(
            "Posterior variances, held-out",
            "The mean variance of q(z|x), and on top of it the variance of its mean over rows; "
            f"{of_prior}. Sorted by the first part, the most certain dimension first. "
            f"Healthy: the sum is {level} everywhere, and dimensions in use have little of the first part. A first "
            f"part {level} is a dimension that says nothing; one near 0 stores rows as points.{shown}{cut}",
            partial(
                _variance_bars,
                inner=inner[order],
                outer=outer[order],
                prior=prior[order],
                names=[f"z{i + 1}" for i in order],
                top=top,
            ),
            height=3.0,
            wide=True,
        )
    ]


def _variance_bars(
    figure: Figure, inner: np.ndarray, outer: np.ndarray, prior: np.ndarray, names: list[str], top: float
) -> None:
    axes, places = figure.subplots(), np.arange(len(names))
    axes.bar(places, inner, color=BLUE, label="variance of q(z|x)")
    axes.bar(places, outer, bottom=inner, color=ORANGE, label="variance of its mean")
    edges = np.arange(len(names) + 1) - 0.5
    axes.stairs(prior, edges, baseline=None, color=GRAY, linestyle="--", linewidth=1.6, label="prior")
    every = math.ceil(len(names) / 32)
    axes.set_xticks(places[::every], names[::every])
    axes.set(ylabel="variance", ylim=(0, top))
    axes.grid(visible=False, axis="x")
    figure.legend(ncols=3, loc="outside upper left")
