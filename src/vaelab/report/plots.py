"""The curves of training, with what happened once as marks at its step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..measure.estimate import Z95
from ..monitoring.readings import FAST
from . import style
from .style import BLUE, GRAY, GREEN, ORANGE, PURPLE, RED, Panel, plot

Line = Mapping[str, Any]
KINDS = {"train": ("training", BLUE), "held_out": ("held-out", ORANGE)}
TERMS = (("reconstruction", "reconstruction"), ("kl", "KL"))
SCHEDULES = (("beta", "beta"), ("learning_rate", "learning rate"))
EVENTS = {"refused": RED, "rollback": PURPLE, "annealed": GREEN}
UNCHARGED = " This objective does not charge the KL, so that it may grow as far as the reconstruction gains by it."
NO_MEASURE = " It holds the whole KL, which this objective does not charge: a rise of both lines is no overfitting."
EVENTS_DRAWN = 40  # marks of a kind; more would hide the curve
FLOOR = 1e-5  # change of the weights where the axis ends, since a rate that falls to 0 has no lowest value
WILD = 1e3  # times the median: values beyond it make a linear axis show nothing else
SETTLED = 0.05  # share of the steps that an axis may leave out, since the first losses dwarf all later ones


def training(run: Any) -> list[Panel]:
    """Loss, terms, schedules and the size of the steps; nothing where no step was recorded."""
    if not any(line["kind"] == "train" for line in run.history):
        return []
    noisy = run.has_bound  # codes without noise have no KL, and beta no meaning
    at_one = (
        "Training is shown at beta = 1 too, so that the two can be compared; its"
        if noisy
        else "It is the reconstruction alone, since codes without noise have no KL; the"
    )
    return [
        plot(
            "Loss" if noisy else "Reconstruction",
            "Healthy: both lines fall and stay together; a held-out line that turns up while training falls is "
            f"overfitting. {at_one} pale band reaches to the worst step of each line, and the band around the held-out "
            "line holds its true mean 95 times in 100."
            + NO_MEASURE * (noisy and not run.config.objective.charges)
            + _told(run.history),
            partial(_loss, run=run),
        ),
        *([_terms(run)] if noisy else []),
        plot(
            "Beta and learning rate" if noisy else "Learning rate",
            "What the schedules did: a bend in the other curves at the same step is explained here.",
            partial(_stacked, lines=run.history, keys=SCHEDULES if noisy else SCHEDULES[1:]),
        ),
        plot("Gradient norm and size of the steps", _steps_caption(run.history), partial(_steps, run=run)),
    ]


def _terms(run: Any) -> Panel:
    """The two terms of the bound."""
    return plot(
        "Reconstruction and KL (nats)",
        "Healthy: the reconstruction falls and the KL settles above zero; a KL that stays at zero means that "
        "the decoder ignores the code." + _of_kl(run),
        partial(_stacked, lines=run.history, keys=TERMS, settled=True),
    )


def _of_kl(run: Any) -> str:
    """What is different about this run's KL; empty where nothing is."""
    if run.config.prior.name == "uniform":
        return " Under the uniform prior of the training the KL of so many codes is one number, whatever they say."
    return "" if run.config.objective.charges else UNCHARGED


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
    _, mean = series(run.history, "train", "loss")
    _, most = series(run.history, "train", "loss_max")
    if most.shape == mean.shape == kl.shape:
        axes.fill_between(steps, lines[0][1], lines[0][1] + most - mean, color=BLUE, alpha=0.2, linewidth=0)
    held_steps, held = series(run.history, "held_out", "negative_elbo")
    if held.size:
        _, error = series(run.history, "held_out", "standard_error")
        axes.fill_between(held_steps, held - Z95 * error, held + Z95 * error, color=ORANGE, alpha=0.25, linewidth=0)
        axes.plot(held_steps, held, color=ORANGE, label="held-out ± 95 %")
        lines.append((held_steps, held))
    if "step" in run.metrics:
        axes.axvline(run.metrics["step"], color=GRAY, linestyle=":", label="kept checkpoint")
    settled_limits(axes, lines)
    _mark_events(axes, run.history)
    axes.set(xlabel="step", ylabel=f"{'negative ELBO' if run.has_bound else '-log p(x|z)'} (nats per sample)")
    axes.legend()


def _events(lines: Sequence[Line], what: str) -> list[int]:
    return [line["step"] for line in lines if line["kind"] == "event" and line["what"] == what]


def _mark_events(axes: Axes, lines: Sequence[Line]) -> None:
    """A vertical line at each event; a cross on it where the loss or the gradient was not finite."""
    for what, color in EVENTS.items():
        steps = _events(lines, what)
        for step in steps[:EVENTS_DRAWN]:
            axes.axvline(step, color=color, linewidth=0.9, alpha=0.7)
        if steps:
            count = f"at step {steps[0]}" if len(steps) == 1 else f"{len(steps)} times"
            marker = "X" if what == "refused" else "v"
            at_top = axes.get_xaxis_transform()
            label, top = f"{what} {count}", [0.95 if what == "refused" else 0.88] * len(steps)
            axes.plot(steps, top, marker, color=color, markersize=7, transform=at_top, label=label)


def _told(lines: Sequence[Line]) -> str:
    """What the marks in the figure stand for."""
    words = {
        "refused": "a step whose loss or gradient was not finite, and which was not taken",
        "rollback": "where the run went back to a checkpoint",
        "annealed": "where the weight of the divergence began anew",
    }
    told = [f"{what}: {words[what]}" for what in EVENTS if _events(lines, what)]
    return f" Marks: {'; '.join(told)}." if told else ""


def _stacked(figure: Figure, lines: Sequence[Line], keys: tuple[tuple[str, str], ...], settled: bool = False) -> None:
    """One number above the other over the same steps, training and, where it was recorded, held-out."""
    panels = figure.subplots(len(keys), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, label) in zip(panels, keys, strict=True):
        drawn = [series(lines, kind, key) for kind in KINDS]
        for (steps, values), (words, color) in zip(drawn, KINDS.values(), strict=True):
            if values.size:
                axes.plot(steps, values, color=color, label=words)
        if settled:
            settled_limits(axes, drawn)
        else:
            axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
        if axes.get_yscale() == "linear":
            axes.yaxis.set_major_locator(MaxNLocator(4))
    if len(panels[0].lines) > 1:
        panels[0].legend()
    panels[-1].set_xlabel("step")


def _steps(figure: Figure, run: Any) -> None:
    """The norm of the gradient, and beneath it what a step changes, each on a logarithmic scale."""
    changed_at, changed = series(run.history, "train", "update_ratio")
    panels = figure.subplots(2 if changed.size else 1, 1, sharex=True, squeeze=False)[:, 0]
    steps, norm = series(run.history, "train", "gradient_norm")
    _, most = series(run.history, "train", "gradient_norm_max")
    if most.shape == norm.shape:
        panels[0].fill_between(steps, norm, most, color=GREEN, alpha=0.2, linewidth=0)
    _logarithmic(panels[0], steps, norm, GREEN, "gradient norm")
    if run.config.train.clip_norm is not None:
        panels[0].axhline(run.config.train.clip_norm, color=PURPLE, linestyle="--", label="clipped above")
        panels[0].legend()
    if changed.size:
        _logarithmic(panels[1], changed_at, changed, BLUE, "change / weights")
        ends = max(float(np.nanmin(changed)) / 1.5, FLOOR), 2 * max(float(np.nanmax(changed)), FAST)
        panels[1].set_ylim(*ends)
        panels[1].axhline(FAST, color=RED, linestyle="--", label=f"too fast above {FAST:g}")
        panels[1].legend(loc="lower left")
    panels[-1].set_xlabel("step")


def _logarithmic(axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    axes.plot(steps, values, color=color)
    if np.any(values > 0):
        wide = np.ptp(np.log10(values[values > 0])) > 2
        style.plain_log(axes, marks=(1,) if wide else (1, 2, 5))
    axes.set_ylabel(label)


def _steps_caption(lines: Sequence[Line]) -> str:
    _, clipped = series(lines, "train", "clipped")
    share = f" {100 * np.nanmean(clipped):.1f} % of the steps were clipped." if np.isfinite(clipped).any() else ""
    below = " Below: how far a step moves the weights, as part of their size." * any("update_ratio" in n for n in lines)
    return f"Healthy: falls or stays level, with few steps at the clip level; a rise warns of divergence.{share}{below}"


def settled_limits(axes: Axes, lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Limits that show all values but those of the first steps; a logarithmic axis where a few dwarf all others."""
    last = max((steps[-1] for steps, _ in lines if steps.size), default=0)
    late = [values[(steps >= SETTLED * last) & np.isfinite(values)] for steps, values in lines if steps.size]
    kept = np.concatenate(late) if late else np.empty(0)
    if kept.size and kept.min() > 0 and kept.max() > WILD * np.median(kept):
        style.plain_log(axes, marks=(1,))
    elif kept.size and kept.max() > kept.min():
        margin = 0.06 * (kept.max() - kept.min())
        axes.set_ylim(kept.min() - margin, kept.max() + margin)
