"""`Trace`: what is known of a training over its steps, whoever recorded it. The rules read nothing else.

A run's metrics, a stranger's loop and a stranger's log all become one; a rule applies where its series are there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ROLES: dict[str, str] = {
    # training, means over the steps since the last line
    "loss": "what is minimised",
    "loss_max": "its highest value in any of these steps",
    "reconstruction": "-log p(x|z), nats per sample",
    "kl": "KL(q(z|x) || p(z)), nats per sample",
    "beta": "weight of the KL",
    "learning_rate": "of the optimiser",
    "gradient_norm": "before clipping",
    "gradient_norm_max": "the highest of these steps",
    "clipped": "share of steps whose gradient was clipped",
    "update_ratio": "norm of a step's change over the norm of the parameters",
    "kl_per_dimension": "nats, [L]",
    "mean_variance": "variance over rows of the posterior mean, [L]",
    "posterior_variance": "mean over rows of the posterior variance, [L]",
    "dead_units": "share of rectified units that are 0 on every row of a batch",
    "saturated_units": "share of bounded units' outputs that lie within 1 % of a bound",
    "means_at_ends": "share of rows whose posterior mean lies in the outer 5 % of its range at either end, [L]",
    "codes_used": "share of the codebook that a batch window used",
    "code_perplexity": "exp of the entropy of the codes' frequencies",
    # held-out rows
    "held_out_loss": "negative bound, nats per sample",
    "held_out_error": "its standard error",
    "held_out_rows": "how many",
    "held_out_reconstruction": "nats per sample",
    "held_out_kl": "nats per sample",
    "held_out_kl_per_dimension": "nats, [L]",
    "held_out_mean_variance": "[L]",
    "held_out_posterior_variance": "[L]",
}
BEYOND = 1e150  # squares of larger numbers overflow, and no loss is meant to be one
HELD_OUT = {"negative_elbo": "held_out_loss", "standard_error": "held_out_error"}
HELD_BOUND = {"negative_bound": "held_out_loss", "bound_error": "held_out_error"} | dict.fromkeys(HELD_OUT, "")


@dataclass(frozen=True)
class Series:
    """A number over the steps.

    Args:
        steps: Rising step numbers, [n].
        values: [n] or [n, L]; NaN where a value was not finite.
    """

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> Any:
        """The last value, [] or [L]."""
        return self.values[-1]

    def since(self, step: float) -> Series:
        """The part from a step on."""
        kept = self.steps >= step
        return Series(self.steps[kept], self.values[kept])

    def settled(self, share: float = 0.1) -> Any:
        """The median of the last share of the values, at least one, [] or [L]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a stretch without any finite value, which stays NaN
            return np.nanmedian(self.values[-max(1, round(share * len(self))) :], axis=0)


EMPTY = Series(np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Trace:
    """What is known of a training.

    Args:
        series: By the names of `ROLES`.
        events: What happened once, each with "what" and "step": refused, rollback, skipped, annealed.
        warmup_ends: The step from which the weight of the KL no longer moves.
        total: Steps planned; None where that is not known.
        latent: Latent dimensions; None where that is not known.
        baseline: Negative log-likelihood of the best decoder that ignores z, held-out, nats per sample.
        settings: Settings of a run of ours under dotted names; empty for a stranger's.
    """

    series: Mapping[str, Series]
    events: Sequence[Mapping[str, Any]] = ()
    warmup_ends: int = 0
    total: int | None = None
    latent: int | None = None
    baseline: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def get(self, *names: str) -> Series:
        """The first of these series that is there; an empty one where none is."""
        return next((self.series[name] for name in names if len(self.series.get(name, EMPTY))), EMPTY)

    def has(self, *names: str) -> bool:
        """Whether all of these series are there."""
        return all(len(self.series.get(name, EMPTY)) for name in names)

    @property
    def ours(self) -> bool:
        """Whether advice can be given as settings of a run."""
        return bool(self.settings)

    @property
    def last_step(self) -> float:
        """The highest step of any series or event."""
        steps = [series.steps[-1] for series in self.series.values() if len(series)]
        return float(max([*steps, *(event["step"] for event in self.events)], default=0))


def from_columns(columns: Mapping[str, Sequence[tuple[float, Any]]], **facts: Any) -> Trace:
    """A trace from (step, value) pairs by role; pairs of one series that differ in length are left out.

    Args:
        columns: Pairs by the names of `ROLES`; a value is a number, a list of numbers, or None where it was not finite.
        facts: The other arguments of `Trace`.

    Example:
        >>> trace = from_columns({"kl": [(10, 3.0), (20, None)]})
        >>> trace.get("kl").values
        array([ 3., nan])
    """
    return Trace({role: _series(pairs) for role, pairs in columns.items() if pairs}, **facts)


def _series(pairs: Sequence[tuple[float, Any]]) -> Series:
    length = np.size(next((value for _, value in pairs if value is not None), 0.0))
    kept = [(step, value) for step, value in pairs if value is None or np.size(value) == length]
    rows = [np.full(length, np.nan) if value is None else np.asarray(value, np.float64).ravel() for _, value in kept]
    values = np.array(rows).reshape(len(kept), length)
    wide = any(isinstance(value, list | tuple | np.ndarray) and np.ndim(value) for _, value in kept)
    finite = np.where(np.abs(values) < BEYOND, values, np.nan)
    return Series(np.array([step for step, _ in kept], np.float64), finite if wide else finite[:, 0])


def from_metrics(lines: Sequence[Mapping[str, Any]], **facts: Any) -> Trace:
    """The trace of a run folder's metrics: lines of kind `train`, `held_out`, `event` and `baseline`."""
    columns: dict[str, list[tuple[float, Any]]] = {}
    events = [line for line in lines if line["kind"] == "event"]
    for line in lines:
        prefix = {"train": "", "held_out": "held_out_"}.get(line["kind"])
        named = HELD_BOUND if prefix and "negative_bound" in line else HELD_OUT  # weights are selected by this one
        for key, value in line.items() if prefix is not None else ():
            role = named.get(key, f"{prefix}{key}")
            if role in ROLES:
                columns.setdefault(role, []).append((line["step"], value))
    baseline = next((line["negative_elbo"] for line in lines if line["kind"] == "baseline"), None)
    return from_columns(columns, events=events, baseline=baseline, **facts)
