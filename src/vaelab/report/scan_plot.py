"""The picture of a scan: the rate-distortion curve, or bounds and active units against the latent size."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.durable import write_bytes
from ..core.errors import BadInput
from ..evaluation.scan_judge import ends, envelope
from .style import BLUE, DOTS, FULL, GRAY, GREEN, LIGHT, ORANGE, SETTINGS, plain_log

# Without a date and with fixed names of its parts a picture is the same bytes for the same scan.
FORMATS: dict[str, Any] = {"svg": {"Date": None}, "png": {"Software": None}}
STYLE: Any = {**SETTINGS, **LIGHT, "svg.hashsalt": "vaelab"}


def write_scan_plot(scan: Any, path: str | os.PathLike[str]) -> Path:
    """Draws a scan into a file, .svg or .png, the same bytes for the same scan.

    Raises:
        BadInput: for another ending.
        NoSpace: where the file cannot be written.
    """
    target = Path(path)
    kind = target.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise BadInput("to", target.name, "a picture ends in .svg or .png")
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(FULL, 3.6), dpi=DOTS, layout="constrained")
        PAINTERS[scan.kind](figure, scan)
        figure.savefig(buffer, format=kind, metadata=FORMATS[kind])
    write_bytes(target, buffer.getvalue())
    return target


def _numbers(scan: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and half-widths of one number of all runs."""
    found = [getattr(point, name) for point in scan.points]
    return np.array([one.value for one in found]), np.array([one.interval or 0.0 for one in found])


def _curve(figure: Figure, scan: Any) -> None:
    left, right = figure.subplots(1, 2)
    (rate, rate_error), (distortion, error) = _numbers(scan, "rate"), _numbers(scan, "distortion")
    left.errorbar(rate, distortion, error, rate_error, fmt="o", color=BLUE, markersize=4, elinewidth=1)
    on = np.flatnonzero(envelope(rate.tolist(), distortion.tolist()))
    order = on[np.argsort(rate[on])]
    left.step(rate[order], distortion[order], where="post", color=BLUE, linewidth=1, alpha=0.5, label="lower envelope")
    best = int(np.nanargmin(rate + distortion))
    ends = np.array([np.nanmin(rate), np.nanmax(rate)])
    left.plot(ends, (rate + distortion)[best] - ends, "--", color=GRAY, linewidth=1, label="as good as the best bound")
    for point, x, y in zip(scan.points, rate, distortion, strict=True):
        left.annotate(f"{point.value:g}", (x, y), (5, 4), textcoords="offset points")
    left.set(title="Rate and distortion, by beta", xlabel="rate: KL, nats", ylabel="distortion: -log p(x|z), nats")
    left.legend()
    _bounds(right, scan, "beta")


def _dimension(figure: Figure, scan: Any) -> None:
    left, right = figure.subplots(1, 2)
    _bounds(left, scan, "latent size")
    sizes = np.array([point.value for point in scan.points])
    for name, label, look in (
        ("active_units", "more than 0.01 nats", {"fmt": "s-", "color": ORANGE, "markersize": 7, "fillstyle": "none"}),
        ("active_by_mean", "mean of q varies", {"fmt": "o--", "color": BLUE, "markersize": 4}),
    ):
        count = _numbers(scan, name)[0]
        low, high = np.array([ends(getattr(point, name), point.latent) for point in scan.points]).T
        right.errorbar(sizes, count, (count - low, high - count), elinewidth=1, label=label, **look)
    right.plot(sizes, sizes, ":", color=GRAY, label="all")
    right.set(title="Units in use", xlabel="latent size", ylabel="dimensions")
    _ticks(right, sizes)
    right.legend()


def _bounds(axes: Axes, scan: Any, label: str) -> None:
    """Negative ELBO and negative importance-weighted bound against the values, the best run marked."""
    values = np.array([point.value for point in scan.points], np.float64)
    for name, words, color in (
        ("negative_elbo", "negative ELBO", BLUE),
        ("negative_bound", f"importance-weighted, K = {scan.samples}", GREEN),
    ):
        number, error = _numbers(scan, name)
        axes.fill_between(values, number - error, number + error, color=color, alpha=0.15, linewidth=0)
        axes.plot(values, number, "o-", color=color, markersize=4, label=words)
    axes.set(title="Held-out bounds at beta = 1", xlabel=label, ylabel="nats per sample, lower is better")
    _ticks(axes, values)
    axes.legend()


def _ticks(axes: Axes, values: np.ndarray) -> None:
    """A tick at each run, on a logarithmic axis unless there is a zero."""
    if values.min() > 0:
        plain_log(axes, "x")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xticks([], minor=True)


PAINTERS: dict[str, Callable[[Figure, Any], None]] = {"rate-distortion": _curve, "intrinsic-dimension": _dimension}
