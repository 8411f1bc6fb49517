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
from .plots import series
from .style import BLUE, GRAY, GREEN, ORANGE, Panel, plot

DIMENSIONS_SHOWN = 64
Line = Mapping[str, Any]


def dimensions(run: Any) -> list[Panel]:
    """KL per latent dimension, active units, rate and distortion, and variances; nothing before an evaluation."""
    lines = [line for line in run.history if line["kind"] == "held_out" and line.get("kl_per_dimension")]
    if not lines:
        return []
    final = np.array(run.metrics.get("kl_per_dimension") or lines[-1]["kl_per_dimension"], np.float64)
    order = np.argsort(-final, kind="stable")[:DIMENSIONS_SHOWN]
    return [_map(run, lines, final, order), _active(lines), _rate_distortion(run, lines), *_variances(run, lines)]


def _map(run: Any, lines: Sequence[Line], final: np.ndarray, order: np.ndarray) -> Panel:
    steps = np.array([line["step"] for line in lines])
    values = np.array([line["kl_per_dimension"] for line in lines], np.float64)
    grouped = run.config.model.latent not in (None, len(final))
    word, what = ("group ", "latent group") if grouped else ("z", "latent dimension")
    names = [f"{word}{index + 1}" for index in order]
    shown = "" if len(final) <= DIMENSIONS_SHOWN else f" The {DIMENSIONS_SHOWN} largest of {len(final)} are shown."
    return plot(
        f"KL per {what}, held-out",
        f"Healthy: bars well above the dashed line at {ACTIVE_NATS} nats; a {what.split()[1]} below it carries nothing "
        f"about the data and could be left out.{' Groups are counted from the top.' * grouped}{shown}",
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
    right.set_xlim(left=1e-3)
    right.axvline(ACTIVE_NATS, color=ORANGE, linestyle="--")
    right.set(xlabel="nats", title="of the kept checkpoint")
    right.grid(visible=False, axis="y")
    every = math.ceil(len(names) / 32)
    left.set_yticks(places[::every], names[::every])
    left.invert_yaxis()


def _active(lines: Sequence[Line]) -> Panel:
    return plot(
        "Active units, held-out",
        f"How many dimensions are in use: by a KL above {ACTIVE_NATS} nats, and by a posterior mean that varies over "
        f"rows by more than {ACTIVE_VARIANCE}. Healthy: rises and stays; a fall to zero is collapse.",
        partial(_active_lines, lines=lines),
    )


def _active_lines(figure: Figure, lines: Sequence[Line]) -> None:
    axes = figure.subplots()
    most = len(lines[-1]["kl_per_dimension"])
    for key, words, color, width in (("active_units", "by KL", BLUE, 3.2), ("active_by_mean", "by mean", ORANGE, 1.4)):
        steps, values = series(lines, "held_out", key)
        if values.size:
            axes.plot(steps, values, color=color, label=words, linewidth=width, drawstyle="steps-post")
            most = max(most, int(np.nanmax(values, initial=0)))
    axes.axhline(most, color=GRAY, linestyle=":", label="all")
    axes.set(xlabel="step", ylabel="dimensions", ylim=(-0.03 * most, 1.08 * most))
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
        f"gains downwards.{below}",
        partial(_path, run=run, lines=lines, constant=constant),
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


def _variances(run: Any, lines: Sequence[Line]) -> list[Panel]:
    told = run.metrics if "posterior_variance" in run.metrics else lines[-1]
    if not told.get("posterior_variance"):
        return []
    inner, outer = (np.array(told[key], np.float64) for key in ("posterior_variance", "mean_variance"))
    order = np.argsort(inner, kind="stable")[:DIMENSIONS_SHOWN]
    return [
        plot(
            "Posterior variances, held-out",
            "The mean variance of q(z|x), and on top of it the variance of its mean over rows; the prior has 1 in all. "
            "Healthy: the sum is near 1 everywhere, and dimensions in use have little of the first part. A first part "
            "near 1 is a dimension that says nothing; one near 0 stores rows as points.",
            partial(_variance_bars, inner=inner[order], outer=outer[order], names=[f"z{i + 1}" for i in order]),
            height=2.8,
            wide=True,
        )
    ]


def _variance_bars(figure: Figure, inner: np.ndarray, outer: np.ndarray, names: list[str]) -> None:
    axes, places = figure.subplots(), np.arange(len(names))
    axes.bar(places, inner, color=BLUE, label="variance of q(z|x)")
    axes.bar(places, outer, bottom=inner, color=ORANGE, label="variance of its mean")
    axes.axhline(1, color=GRAY, linestyle="--", label="prior")
    every = math.ceil(len(names) / 32)
    axes.set_xticks(places[::every], names[::every])
    axes.set(ylabel="variance", ylim=(0, min(10.0, max(1.35, 1.2 * float(np.nanmax(inner + outer, initial=1.0))))))
    axes.grid(visible=False, axis="x")
    axes.legend(ncols=3, loc="upper left")
