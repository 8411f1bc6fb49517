"""A scan as a person reads it: a line for each run, then what follows from them."""

from __future__ import annotations

from typing import Any

from ..measure.estimate import Estimate
from .scan_judge import ends, envelope

DRAWN = {"dynamic": "; gray levels were drawn as bits once, the same for all runs", "threshold": "; cut at one half"}

HEAD = ("rate", "distortion", "-ELBO", "behind best", "-log p(x) <=", "in use", "by mean", "step")


def as_text(scan: Any) -> str:
    """What the commands print.

    Args:
        scan: A `vaelab.evaluation.scan.Scan`.
    """
    drawn, samples = DRAWN.get(scan.binarize, ""), scan.samples
    head = (
        f"{scan.kind} of {scan.data}: {scan.rows} held-out rows, which also chose the weights of each run{drawn}\n"
        f"nats per sample ± half a 95 % interval over rows, {samples} posterior samples each; seed {scan.seed}\n"
        f"last bound: importance-weighted with K = {samples}; dimensions in use: by more than 0.01 nats, and by the "
        "variance of the mean of q, more than 0.01 (from and to: what the rows leave undecided)"
    )
    on_curve = envelope([p.rate.value for p in scan.points], [p.distortion.value for p in scan.points])
    curve = scan.kind == "rate-distortion"
    rows = [(scan.word, *HEAD, "curve" * curve)]
    for point, on in zip(scan.points, on_curve, strict=True):
        numbers = (point.rate, point.distortion, point.negative_elbo, point.behind, point.negative_bound)
        units = [_count(number, point.latent) for number in (point.active_units, point.active_by_mean)]
        mark = ("yes" if on else "beaten") * curve
        rows.append((f"{point.value:g}", *map(_nats, numbers), *units, f"{point.step}", mark))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([head, "", *lines, "", *map(str, scan.findings)])


def _nats(number: Estimate) -> str:
    return f"{number.value:.3f} ± {number.interval:.3f}" if number.interval else "best"


def _count(number: Estimate, size: int) -> str:
    low, high = ends(number, size)
    return f"{number.value:.0f}" + (f" ({low:.0f} to {high:.0f})" if number.interval else "")
