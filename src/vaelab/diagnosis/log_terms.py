"""What enters a logged loss, and with which sign and weight, read from the numbers by least squares.

The model is loss = a * reconstruction + b * beta * KL + c, where beta is 1 if the log has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..monitoring.trace import Series

MIN_POINTS = 8  # three unknowns, and as many numbers again to see whether they fit
EXACT = 2e-3  # residual over the spread of the loss: logs of three digits pass, a missing term does not
FAR = 1e3  # times the median: where training diverges, one float32 carries more rounding than all other points together
SAME = 0.05  # two weights that differ by less are one: no one means 1.05
MOVES = 0.02  # share of its range that a weight must move to be called a schedule

# A sum over dimensions of an untrained model begins at D ln 2 (Bernoulli), about D (standardised), or D / 12 (values
# spread over [0, 1], where D is rarely below 20); a mean begins at 0.7, little above 1, or below.
MEAN_LIKE = 1.5
NO_CODE = 0.1  # nats in all dimensions together: a code that tells not even one row in ten from the rest


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of a loss.

    Args:
        a: Of the reconstruction, with the half-width of its 95 % interval.
        b: Of the KL times the logged beta, with the half-width of its 95 % interval.
        residual: Root mean square of what is left, over the standard deviation of the loss.
        points: Steps at which all are logged.
    """

    a: float
    a_error: float
    b: float
    b_error: float
    residual: float
    points: int

    @property
    def exact(self) -> bool:
        """Whether the loss is this sum, to the digits of a log, and the numbers can tell the two weights apart."""
        return self.residual < EXACT and self.told_apart

    @property
    def told_apart(self) -> bool:
        """Whether both weights are known to a tenth, or to a tenth of the other."""
        scale = max(abs(self.a), abs(self.b))
        return self.a_error < 0.1 * abs(self.a) and self.b_error < max(0.1 * abs(self.b), 1e-3 * scale)


def at_common_steps(*series: Series) -> tuple[np.ndarray, list[np.ndarray]]:
    """Steps at which all series are finite, [n], and their values there, each [n]."""
    common = series[0].steps
    for other in series[1:]:
        common = np.intersect1d(common, other.steps)
    columns = [one.values[np.isin(one.steps, common)] for one in series]
    kept = np.all([np.isfinite(column) for column in columns], axis=0)
    return common[kept], [column[kept] for column in columns]


def fit_weights(loss: Series, reconstruction: Series, kl: Series, beta: Series | None = None) -> Weights | None:
    """The weights of the terms by least squares; None where too few steps have them all or a term does not move."""
    series = [loss, reconstruction, kl, *([beta] if beta is not None else [])]
    _, (y, r, k, *weight) = at_common_steps(*series)
    k = k * weight[0] if weight else k
    usual = np.abs(y) <= FAR * np.median(np.abs(y)) if len(y) else np.zeros(0, bool)
    y, r, k = (column[usual] for column in (y, r, k))
    if len(y) < MIN_POINTS or min(np.ptp(r), np.ptp(k), np.ptp(y)) == 0:
        return None
    x = np.stack([r - r.mean(), k - k.mean()], axis=1)
    size = np.linalg.norm(x, axis=0)
    solution, _, rank, _ = np.linalg.lstsq(x / size, y - y.mean(), rcond=None)
    if rank < 2:
        return None
    left = y - y.mean() - (x / size) @ solution
    noise = left @ left / (len(y) - 3)
    errors = 1.96 * np.sqrt(noise * np.diag(np.linalg.inv((x / size).T @ (x / size)))) / size
    a, b = solution / size
    return Weights(float(a), float(errors[0]), float(b), float(errors[1]), float(left.std() / y.std()), len(y))


def rising_weight(loss: Series, reconstruction: Series, kl: Series) -> Series | None:
    """A warm-up that was not logged, from (loss - reconstruction) / KL; None where that is no weight that only rises.

    The end of a warm-up is flat, and its rise is not noise: all moves together are little more than the whole rise.
    """
    steps, (y, r, k) = at_common_steps(loss, reconstruction, kl)
    if len(steps) < MIN_POINTS or np.any(k <= 0):
        return None
    weight = (y - r) / k
    moves, rise = np.abs(np.diff(weight)).sum(), weight[-1] - weight[0]
    rises = weight[0] > -MOVES * rise and rise > 0.1 * weight[-1] and moves < (1 + 2 * MOVES) * rise
    return Series(steps, np.maximum(weight, 0.0)) if rises else None


def fitted_weights(series: Mapping[str, Series], prefix: str = "") -> Weights | None:
    """`fit_weights` of the loss, the reconstruction and the KL of training, or of held-out rows by their prefix."""
    names = [f"{prefix}{name}" for name in ("loss", "reconstruction", "kl")]
    return fit_weights(*(series[name] for name in names)) if all(name in series for name in names) else None


def warmup_end(beta: Series) -> int:
    """The step from which a weight no longer moves; the last step where it moves to the end."""
    span = np.ptp(beta.values)
    moving = np.flatnonzero(np.abs(beta.values - beta.last) > MOVES * span)
    return int(beta.steps[min(moving[-1] + 1, len(beta) - 1)]) if span > 0 and len(moving) else 0


def is_negative(series: Series) -> bool:
    """Whether a divergence was logged with a minus sign: almost every value below 0, and not by rounding."""
    values = series.values[np.isfinite(series.values)]
    return bool(len(values) and np.mean(values < 0) > 0.95 and np.median(values) < -1e-3)


def rises(series: Series) -> bool:
    """Whether the last fifth lies above the first fifth, by medians."""
    part = max(1, len(series) // 5)
    return middle(series.values[-part:]) > middle(series.values[:part])


def near(value: float, to: float) -> bool:
    """Whether two weights are one."""
    return abs(value - to) <= SAME * abs(to)


def middle(values: np.ndarray) -> float:
    """The median of what is finite; NaN where nothing is."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else math.nan


def beginning(series: Series) -> float:
    """The median of the first three values."""
    return middle(series.values[:3])


def has_code(kl: Series) -> bool:
    """Whether the KL ends above nothing."""
    return bool(kl.settled() >= NO_CODE)


def mean_like(reconstruction: Series) -> bool:
    """Whether a reconstruction begins below any sum over dimensions, and is none of a density, which can be below 0."""
    return bool(0 < beginning(reconstruction) < MEAN_LIKE and np.nanmin(reconstruction.values) >= 0)
