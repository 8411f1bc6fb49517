"""Recognises a K-sample objective by how it weighs its samples, and by its value: tables of what such code does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...core.finding import Finding, Severity
from .exact import log_mean_exp, log_sum_exp

SAMPLES, BATCH, PIXELS, LATENTS = 5, 7, 6, 3  # all different, so that no two axes can be mixed up unseen
CALLS = 3

_CLOSE = 2e-4  # of the largest entry: above rounding in float32, far below any other pattern
_LOGSUMEXP = "bound = torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])  # [K, B] -> [B]"


@dataclass(frozen=True)
class Seen:
    """One call of an objective: log weights [K, B], the slope of the returned number in each, and what was returned."""

    log_weights: np.ndarray
    slopes: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Form:
    """One reading of an objective's arguments, and what was seen under it.

    Args:
        name: What the arguments are read as.
        seen: One entry a call.
        exact: Whether the log weights are known with their constants.
        framework: Whose tensors were used.
        flaw: Whether the reading itself says that the weights are wrong.
        findings: On the terms.
    """

    name: str
    seen: tuple[Seen, ...]
    exact: bool
    framework: str = "torch float64"
    flaw: bool = False
    findings: tuple[Finding, ...] = field(default=())


@dataclass(frozen=True)
class Pattern:
    """A way to weigh samples: the share of each in the gradient, [K, B], summing to 1 over K where it is right."""

    name: str
    shares: Callable[[np.ndarray], np.ndarray]
    severity: Severity
    why: str = ""
    advice: str = _LOGSUMEXP


def softmax(log_weights: np.ndarray, axis: int | None = 0) -> np.ndarray:
    """exp(log_w), normalised over an axis, or over everything."""
    raised = np.exp(log_weights - log_weights.max(axis, keepdims=True))
    return raised / raised.sum(axis, keepdims=True)


def _with_weights_moving(log_weights: np.ndarray) -> np.ndarray:
    """The slope of sum_k w_k log w_k with w = softmax(log w): the weights' own slopes come along."""
    share = softmax(log_weights)
    return share * (1 + log_weights - (share * log_weights).sum(0))


PATTERNS: tuple[Pattern, ...] = (
    Pattern("the K-sample bound", softmax, "ok"),
    Pattern(
        "the ELBO averaged over K samples", lambda lw: np.full_like(lw, 1 / len(lw)), "warning",
        "the log weights are averaged, so every sample counts alike and more samples do not tighten the bound",
    ),
    Pattern("a surrogate with squared weights", lambda lw: softmax(lw) ** 2, "info",
            "squared weights are the doubly reparameterised gradient of the encoder (Tucker and others, 2018)", ""),
    Pattern("the worst sample first", lambda lw: softmax(-lw), "error",
            "the softmax is over losses, so the sample with the smallest weight counts most"),
    Pattern("the worst sample first, weights not held fixed", lambda lw: _with_weights_moving(-lw), "error",
            "the softmax is over losses, so the smallest weight counts most, and it is differentiated too"),
    Pattern("weights not held fixed", _with_weights_moving, "error",
            "sum(softmax(log_w) * log_w) is no bound, and its gradient also runs through the softmax"),
    Pattern("the best sample only", lambda lw: (lw == lw.max(0)).astype(float), "warning",
            "the maximum over samples is taken where the bound takes log-mean-exp"),
    Pattern("weights normalised over the batch", lambda lw: softmax(lw, 1), "error",
            "the log-sum-exp runs over the rows of the batch and not over the samples"),
    Pattern("weights normalised over samples and batch", lambda lw: softmax(lw, None), "error",
            "the log-sum-exp runs over samples and rows together, so one row takes the gradient of all"),
)  # fmt: skip

BOUND, ELBO = PATTERNS[:2]

VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log-mean-exp over K": lambda lw: log_mean_exp(lw, 0),
    "log-sum-exp over K, log K not subtracted": lambda lw: log_sum_exp(lw, 0),
    "the mean of the log weights": lambda lw: lw.mean(0),
    "the log weights weighted by their own softmax": lambda lw: (softmax(lw) * lw).sum(0),
    "the log weights weighted by the softmax of their negatives": lambda lw: (softmax(-lw) * lw).sum(0),
    "the log weights weighted by squared weights": lambda lw: (softmax(lw) ** 2 * lw).sum(0),
    "the largest log weight": lambda lw: lw.max(0),
}


@dataclass(frozen=True)
class Reading:
    """What an objective was recognised as, with the scale of its slopes (1/B for a mean over the batch, signed)."""

    pattern: Pattern
    scale: float

    @property
    def sign(self) -> int:
        """+1 for an objective that rises with the weights, -1 for a loss."""
        return 1 if self.scale > 0 else -1


def recognise(seen: Sequence[Seen]) -> Reading | None:
    """The pattern that the slopes of all calls follow up to one scale, or a power or a mixture of weights, or None."""
    slopes = np.stack([one.slopes for one in seen])
    if not slopes.any():
        return None
    logs = [one.log_weights for one in seen]
    for pattern in PATTERNS:
        scale = _scale(slopes, np.stack([pattern.shares(lw) for lw in logs]))
        if scale is not None:
            return Reading(pattern, scale)
    return _power(slopes, np.stack(logs)) or _mixture(slopes, np.stack(logs))


def _scale(slopes: np.ndarray, shares: np.ndarray) -> float | None:
    """The factor between slopes and shares, or None where there is none."""
    scale = float((slopes * shares).sum() / (shares**2).sum())
    return scale if np.abs(slopes - scale * shares).max() <= _CLOSE * np.abs(slopes).max() else None


def _power(slopes: np.ndarray, logs: np.ndarray) -> Reading | None:
    """Weights raised to a power a and normalised: the variational Renyi bound of order 1 - a."""
    sign = np.sign(slopes.sum())
    if not (sign * slopes > 0).all():
        return None
    left = np.log(sign * slopes) - np.log(sign * slopes).mean(1, keepdims=True)
    right = logs - logs.mean(1, keepdims=True)
    power = float((left * right).sum() / (right**2).sum())
    shares = np.stack([softmax(power * lw) for lw in logs])
    scale = _scale(slopes, shares)
    if scale is None or power <= 0:
        return None
    why = "a power of the weights makes it the variational Renyi bound of that order (Li and Turner, 2016)"
    name = f"the Renyi bound of order {1 - power:.3f}"
    return Reading(Pattern(name, lambda lw: softmax(power * lw), "info", why, ""), scale)


def _mixture(slopes: np.ndarray, logs: np.ndarray) -> Reading | None:
    """A convex mixture of the ELBO and of the K-sample bound."""
    shares = np.stack([softmax(lw) for lw in logs])
    basis = np.stack([np.full_like(shares, 1 / shares.shape[1]), shares], -1).reshape(-1, 2)
    parts = np.linalg.lstsq(basis, slopes.reshape(-1), rcond=None)[0]
    if np.abs(basis @ parts - slopes.reshape(-1)).max() > _CLOSE * np.abs(slopes).max() or parts.prod() <= 0:
        return None
    share = float(parts[0] / parts.sum())
    why = "a mixture of the ELBO and the K-sample bound is a bound too (Rainforth and others, 2018)"

    def mixed(lw: np.ndarray) -> np.ndarray:
        return share / len(lw) + (1 - share) * softmax(lw)

    return Reading(Pattern(f"a mixture with {share:.3f} of the ELBO", mixed, "info", why, ""), float(parts.sum()))


def read_value(seen: Sequence[Seen], reading: Reading, exact: bool) -> tuple[str, float] | None:
    """Which of `VALUES` is returned, and the constant beside it in nats per row; None where it is none of them.

    Args:
        exact: Whether the log weights are known with their constants; else a constant is taken as zero.
    """
    columns = seen[0].log_weights.shape[1]
    for name, form in VALUES.items():
        wanted = [form(one.log_weights) for one in seen]
        for rows in (1, columns):  # a mean over the batch, or a sum
            pairs = zip(seen, wanted, strict=True)
            rest = np.concatenate([_rest(one.values, want, reading.sign, rows) for one, want in pairs])
            spread = _CLOSE / 10 * (1 + max(np.abs(want).max() for want in wanted))
            if np.ptp(rest) <= spread and (not exact or abs(rest.mean()) <= spread):
                return name, float(rest.mean())
    return None


def _rest(values: np.ndarray, wanted: np.ndarray, sign: int, rows: int) -> np.ndarray:
    """What is left of the returned number over the wanted one, in nats per row."""
    if values.size == wanted.size:
        return np.asarray(sign * values - wanted)
    return np.array([sign * values.mean() / rows - wanted.mean()])
