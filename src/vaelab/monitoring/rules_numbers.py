"""Rules about numbers that are not finite: which steps, and who did it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..core.finding import Finding
from .readings import FAST, fastest, lower_rate, remedy
from .trace import Trace

CAUSES: dict[str, tuple[str, str, str]] = {
    "data": ("TR130", "NaN or infinity from the data", "rows of the batch hold values that no network can take"),
    "scale": (
        "TR137",
        "NaN or infinity, because the data are not scaled",
        "numbers this large overflow in the first layers, or in the steps they cause",
    ),
    "unknown": ("TR133", "the loss became NaN or infinite", "rows, a variance or the rate: it was not replayed"),
    "variance": (
        "TR132",
        "NaN or infinity from a variance",
        "a log-variance was exponentiated beyond what numbers hold, or a variance shrank to 0",
    ),
    "rate": ("TR131", "NaN or infinity from the learning rate", "steps this long throw the weights out of all bounds"),
    "layer": (
        "TR133",
        "NaN or infinity inside a layer",
        "an operation of this layer has no finite value or gradient here",
    ),
    "gone": ("TR134", "a passing NaN or infinity", "the same step was finite when it was done again"),
}


EVIDENCE = {"text": "{}", "rows": "rows {} of the batch", "data_rows": "rows {} of the data, counted from 0"}


def not_finite(trace: Trace) -> Iterator[Finding]:
    """Every refused step counts; the first one of each cause is described."""
    refused = [event for event in trace.events if event["what"] in ("refused", "not_finite")]
    by_cause: dict[str, list[Any]] = {}
    known: Mapping[str, Any] = {"cause": "unknown"}
    for event in refused:
        known = event if "cause" in event else known  # of many refused steps only the first are looked into
        by_cause.setdefault(_cause(trace, {**event, "cause": known["cause"]}), []).append(event)
    for cause, events in by_cause.items():
        code, title, why = CAUSES[cause]
        first = events[0]
        finished = trace.last_step > events[-1]["step"]
        yield Finding(
            code,
            "warning" if finished else "error",
            f"{title}: the loss was not finite, first at step {first['step']:.0f}",
            float(len(events)),
            "step" if len(events) == 1 else "steps",
            evidence="; ".join(word.format(first[key]) for key, word in EVIDENCE.items() if first.get(key)),
            why=why,
            **_finite_again(trace, cause),
        )
    if not refused:
        yield from _missing_values(trace)


def _cause(trace: Trace, event: Any) -> str:
    """A loss that left all bounds before it became NaN did so by the length of the steps, whatever layer broke."""
    cause = event["cause"]
    if cause == "data" and "not scaled" in str(event.get("text")):
        return "scale"
    if cause == "layer" and not event.get("layer"):
        cause = "unknown"
    before = trace.get("loss").values[trace.get("loss").steps < event["step"]]
    norms = trace.get("gradient_norm_max", "gradient_norm")
    norms = norms.values[norms.steps < event["step"]]
    wild = _blew_up(before) or _blew_up(norms) or fastest(trace) > FAST
    return "rate" if cause in ("layer", "variance", "unknown") and wild else cause


def _blew_up(values: np.ndarray) -> bool:
    """Whether the last of these values is a thousand times their median: no noise does that."""
    values = np.abs(values[np.isfinite(values)])
    return len(values) > 1 and bool(values[-1] > 1e3 * np.median(values) > 0)


def _finite_again(trace: Trace, cause: str) -> dict[str, Any]:
    if cause == "data":
        return {"advice": "look at the rows named, and mend or drop them", "expected": "no refused step"}
    if cause == "scale":
        words = "standardise the columns, or divide gray levels by 255"
        return {**remedy(trace, {"data.scale": "standardize"}, words), "expected": "no refused step"}
    if cause == "unknown" and not trace.ours:
        return {"advice": "pass batch= and replay= to the monitor, and it names layer and rows", "expected": "a cause"}
    if cause == "gone":
        return {**remedy(trace, {"train.on_nan": "rollback"}, "skip such a step"), "expected": "the run goes on"}
    if cause == "variance":
        words = "clamp the log-variance to [-10, 10], or use softplus plus a small constant"
        return {
            **remedy(trace, {"model.scale": "softplus", "train.clip_norm": 1.0}, words),
            "expected": "no refused step",
        }
    return {**lower_rate(trace), "expected": "no refused step"}


def _missing_values(trace: Trace) -> Iterator[Finding]:
    """A curve that holds NaN, where nobody recorded the step that did it."""
    for role, code in (("loss", "TR133"), ("held_out_loss", "TR113")):
        series = trace.get(role)
        missing = ~np.isfinite(series.values)
        if missing.any():
            first, to_the_end = series.steps[np.argmax(missing)], bool(missing[-1])
            words = "the training loss" if role == "loss" else "some held-out evaluations"
            if code == "TR133" and (_blew_up(series.values[: np.argmax(missing) + 1]) or fastest(trace) > FAST):
                code = "TR131"
            yield Finding(
                code,
                "error" if to_the_end else "warning",
                f"{words} became NaN or infinite in the steps up to {first:.0f}",
                float(missing.sum()),
                f"of {len(series)} points",
                why="the learning rate is too high, a variance overflowed, or some rows are extreme",
                **lower_rate(trace),
                expected="every point finite",
            )
