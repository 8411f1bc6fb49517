"""What the rules share: readings of a trace, and remedies as settings of a run or as words."""

from __future__ import annotations

from typing import Any

import numpy as np

from .trace import Series, Trace

NATS = "nats per sample"
FEW_POINTS = 5  # fewer points than this make no curve
FAST = 0.1  # a step that moves the parameters by a tenth of their norm: ten of them forget all that was there; Adam
# begins at about 0.01 with its usual rate, and comes down to 0.001


def remedy(trace: Trace, edit: dict[str, Any], words: str) -> dict[str, Any]:
    """The first remedy: settings that a run of ours does not have yet, words for a stranger's training."""
    new = {key: value for key, value in edit.items() if trace.settings.get(key, value) != value}
    return {"edit": new} if new else {"advice": words}


def lower_rate(trace: Trace, factor: float = 10) -> dict[str, Any]:
    """The remedy of a learning rate that is too high."""
    rate = usual_rate(trace)
    lower = min(rate / factor, 1e-3) if rate else 1e-4
    words = f"a learning rate of {lower:.2g}, and the gradient's norm clipped at 1"
    return remedy(trace, {"train.learning_rate": float(f"{lower:.2g}"), "train.clip_norm": 1.0}, words)


def usual_rate(trace: Trace) -> float:
    """The learning rate at its highest, which a schedule brings down to nothing; 0 where it is not known."""
    rates = trace.get("learning_rate").values
    known = float(np.nanmax(rates)) if np.isfinite(rates).any() else 0.0
    return float(trace.settings.get("train.learning_rate") or known)


def last(series: Series) -> float:
    """The last finite value, 0 where there is none."""
    finite = series.values[np.isfinite(series.values)] if series.values.ndim == 1 else np.empty(0)
    return float(finite[-1]) if len(finite) else 0.0


def beta(trace: Trace) -> float:
    """The weight of the divergence in the last steps, whoever set it."""
    return last(trace.get("beta")) if trace.has("beta") else float(trace.settings.get("objective.beta", 1.0))


def full_beta(trace: Trace) -> float:
    """The highest weight it had, or is to have."""
    values = trace.get("beta").values
    return float(max(np.nanmax(values), trace.settings.get("objective.beta", 0.0))) if len(values) else 0.0


def fastest(trace: Trace) -> float:
    """The largest share of their norm that a step moved the weights by, where it was measured; else 0."""
    ratios = trace.get("update_ratio").values
    return float(np.nanmax(ratios)) if np.isfinite(ratios).any() else 0.0


def ratio_words(trace: Trace) -> str:
    """How fast the weights move, as part of a sentence."""
    ratio = fastest(trace)
    return f"; the fastest step moved the weights by {100 * ratio:.2g} % of their norm" if ratio else ""


def total(trace: Trace) -> Series:
    """The training loss at beta = 1 where its terms are known, so that an annealed weight does not bend it."""
    reconstruction, kl = trace.get("reconstruction"), trace.get("kl")
    if len(reconstruction) and len(reconstruction) == len(kl):
        return Series(reconstruction.steps, reconstruction.values + kl.values)
    return trace.get("loss")


def smooth(values: np.ndarray) -> np.ndarray:
    """Medians of at most forty stretches, which single spikes do not move."""
    return np.array([np.median(part) for part in np.array_split(values, min(40, len(values)))])


def noise(values: np.ndarray) -> float:
    """Robust deviation of the points of a curve around its neighbours."""
    steps = np.diff(values)
    return float(1.4826 * np.median(np.abs(steps - np.median(steps))) / np.sqrt(2)) if len(steps) else 0.0


def minimised(trace: Trace) -> Series:
    """The training loss where its weights stood still, and at beta = 1 where something moved them."""
    weights, loss = trace.get("beta").since(trace.warmup_ends).values, trace.get("loss").since(trace.warmup_ends)
    moved = len(weights) and np.ptp(weights) > 0.01 * np.max(np.abs(weights))
    return total(trace).since(trace.warmup_ends) if moved or not len(loss) else loss


def worse_than_constant(trace: Trace, errors: float = 3) -> float:
    """Nats by which the best held-out bound lies above the best decoder without z, less its errors; at least 0."""
    held, error = trace.get("held_out_loss"), trace.get("held_out_error")
    if trace.baseline is None or not np.isfinite(held.values).any():
        return 0.0
    best = int(np.nanargmin(held.values))
    spread = np.nan_to_num(error.values[best]) if len(error) == len(held) else 0.0
    return max(0.0, float(held.values[best] - trace.baseline - errors * spread))
