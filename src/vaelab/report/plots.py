"""The curves of training, and the divergence per latent dimension over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..measure.bound import ACTIVE_NATS
from . import style
from .style import BLUE, GRAY, GREEN, ORANGE, PURPLE, Panel, plot

DIMENSIONS_SHOWN = 64
Line = Mapping[str, Any]
KINDS = {"train": ("training", BLUE), "held_out": ("held-out", ORANGE)}
TERMS = (("reconstruction", "reconstruction"), ("kl", "KL"))
SCHEDULES = (("beta", "beta"), ("learning_rate", "learning rate"))
SETTLED = 0.05  # share of the steps that an axis may leave out, since the first losses dwarf all later ones


def training(run: Any) -> list[Panel]:
    """Loss, terms, schedules and gradient norm over the steps; nothing where no step was recorded."""
    if not any(line["kind"] == "train" for line in run.history):
        return []
    return [
        plot(
            "Loss",
            "Healthy: both lines fall and stay together; a held-out line that turns up while training falls is "
            "overfitting. Training is shown at beta = 1 too, so that the two can be compared.",
            partial(_loss, run=run),
        ),
        plot(
            "Reconstruction and KL (nats)",
            "Healthy: the reconstruction falls and the KL settles above zero; a KL that stays at zero means that "
            "the decoder ignores the code.",
            partial(_stacked, lines=run.history, keys=TERMS, settled=True),
        ),
        plot(
            "Beta and learning rate",
            "What the schedules did: a bend in the other curves at the same step is explained here.",
            partial(_stacked, lines=run.history, keys=SCHEDULES),
        ),
        plot("Gradient norm", _clip_caption(run.history), partial(_gradient, run=run)),
    ]


def divergence(run: Any) -> list[Panel]:
    """KL per latent dimension over the evaluations, and what each carries at the end."""
    lines = [line for line in run.history if line["kind"] == "held_out" and line.get("kl_per_dimension")]
    if not lines:
        return []
    steps = np.array([line["step"] for line in lines])
    values = np.array([line["kl_per_dimension"] for line in lines], np.float64)
    final = np.array(run.metrics.get("kl_per_dimension") or values[-1], np.float64)
    order = np.argsort(-final, kind="stable")[:DIMENSIONS_SHOWN]
    names = [
        f"z{index + 1}" if run.config.model.latent in (None, len(final)) else f"group {index + 1}" for index in order
    ]
    shown = "" if len(final) <= DIMENSIONS_SHOWN else f" The {DIMENSIONS_SHOWN} largest of {len(final)} are shown."
    return [
        plot(
            "KL per latent dimension, held-out",
            f"Healthy: bars well above the dashed line at {ACTIVE_NATS} nats; a dimension below it carries nothing "
            f"about the data and could be left out.{shown}",
            partial(_kl_map, steps=steps, values=values[:, order], final=final[order], names=names),
            height=min(6.5, 1.6 + 0.2 * len(order)),
            wide=True,
        )
    ]


def series(lines: Sequence[Line], kind: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one recorded number; what was not finite is NaN."""
    kept = [line for line in lines if line["kind"] == kind and key in line]
    return np.array([line["step"] for line in kept]), np.array([line[key] for line in kept], np.float64)


def _loss(figure: Figure, run: Any) -> None:
    axes = figure.subplots()
    steps, reconstruction = series(run.history, "train", "reconstruction")
    _, kl = series(run.history, "train", "kl")
    axes.plot(steps, reconstruction + kl, color=BLUE, label="training", alpha=0.85)
    lines = [(steps, reconstruction + kl)]
    held_steps, held = series(run.history, "held_out", "negative_elbo")
    if held.size:
        _, error = series(run.history, "held_out", "standard_error")
        axes.fill_between(held_steps, held - error, held + error, color=ORANGE, alpha=0.25, linewidth=0)
        axes.plot(held_steps, held, color=ORANGE, label="held-out ± s.e.")
        lines.append((held_steps, held))
    if "step" in run.metrics:
        axes.axvline(run.metrics["step"], color=GRAY, linestyle=":", label="kept checkpoint")
    _settled_limits(axes, lines)
    axes.set(xlabel="step", ylabel="negative ELBO (nats per sample)")
    axes.legend()


def _stacked(figure: Figure, lines: Sequence[Line], keys: tuple[tuple[str, str], ...], settled: bool = False) -> None:
    """One number above the other over the same steps, training and, where it was recorded, held-out."""
    panels = figure.subplots(len(keys), 1, sharex=True)
    for axes, (key, label) in zip(panels, keys, strict=True):
        drawn = [series(lines, kind, key) for kind in KINDS]
        for (steps, values), (words, color) in zip(drawn, KINDS.values(), strict=True):
            if values.size:
                axes.plot(steps, values, color=color, label=words)
        if settled:
            _settled_limits(axes, drawn)
        else:
            axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
        axes.yaxis.set_major_locator(MaxNLocator(4))
    if len(panels[0].lines) > 1:
        panels[0].legend()
    panels[-1].set_xlabel("step")


def _gradient(figure: Figure, run: Any) -> None:
    axes = figure.subplots()
    steps, norm = series(run.history, "train", "gradient_norm")
    axes.plot(steps, norm, color=GREEN)
    if np.any(norm > 0):
        style.plain_log(axes)
    if run.config.train.clip_norm is not None:
        axes.axhline(run.config.train.clip_norm, color=PURPLE, linestyle="--", label="clipped above")
        axes.legend()
    axes.set(xlabel="step", ylabel="norm before clipping")


def _clip_caption(lines: Sequence[Line]) -> str:
    _, clipped = series(lines, "train", "clipped")
    share = f" {100 * np.nanmean(clipped):.1f} % of the steps were clipped." if np.isfinite(clipped).any() else ""
    return f"Healthy: falls or stays level, with few steps at the clip level; a rise warns of divergence.{share}"


def _settled_limits(axes: Axes, lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Limits that show all values but those of the first steps."""
    last = max((steps[-1] for steps, _ in lines if steps.size), default=0)
    late = [values[(steps >= SETTLED * last) & np.isfinite(values)] for steps, values in lines if steps.size]
    kept = np.concatenate(late) if late else np.empty(0)
    if kept.size and kept.max() > kept.min():
        margin = 0.06 * (kept.max() - kept.min())
        axes.set_ylim(kept.min() - margin, kept.max() + margin)


def _kl_map(figure: Figure, steps: np.ndarray, values: np.ndarray, final: np.ndarray, names: list[str]) -> None:
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = np.arange(len(names))
    scale = LogNorm(1e-3, max(1.0, float(np.nanmax(values, initial=1.0))))
    left.grid(visible=False)
    if len(steps) > 1:
        middles = (steps[1:] + steps[:-1]) / 2
        edges = np.concatenate([[2 * steps[0] - middles[0]], middles, [2 * steps[-1] - middles[-1]]])
        cells = np.clip(values, 1e-3, None).T
        mesh = left.pcolormesh(edges, np.arange(len(names) + 1) - 0.5, cells, norm=scale, cmap="viridis")
        figure.colorbar(mesh, ax=left, location="left", format="%g", label="nats", pad=0.02)
    left.set(xlabel="step", ylabel="latent dimension", title="over the evaluations")
    right.barh(places, np.maximum(final, 1e-3), color=[BLUE if value > ACTIVE_NATS else GRAY for value in final])
    style.plain_log(right, "x", marks=(1,))
    right.set_xlim(left=1e-3)
    right.axvline(ACTIVE_NATS, color=ORANGE, linestyle="--")
    right.set(xlabel="nats", title="of the kept checkpoint")
    right.grid(visible=False, axis="y")
    every = math.ceil(len(names) / 32)
    left.set_yticks(places[::every], names[::every])
    left.invert_yaxis()
