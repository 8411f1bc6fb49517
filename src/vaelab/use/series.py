"""How strange each point of a time series is to a run, at once or one new point after the other.

Shapes: n points of the grid, m windows, W points of a window, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import BadInput
from ..core.facts import Sampling
from ..data.series import MOST_MISSING, Series, clock_of, in_words, read_series, refuse_other_step, time_of, windows_of
from .conformal import p_values, threshold
from .files import csv_bytes, npz_bytes, save
from .scoring import REST, score

SAMPLES = 8


@dataclass(frozen=True)
class SeriesScores:
    """Scores of the points of a series, in nats per time point; higher is stranger.

    Args:
        series: The points, on the grid of the run.
        values: Score of each point, [n]; NaN where no window tells it.
        parts: What each channel adds to a score, and last what the code adds, [n, C + 1]; a row adds up to its score.
        calibration: Scores of points of held-out time, in the same way, sorted.
        usual: What the parts are there on average, [C + 1].
        false_alarms: Share of points in order that may be called anomalies.
        causal: Whether a score reads the past alone.
    """

    series: Series
    values: np.ndarray
    parts: np.ndarray
    calibration: np.ndarray
    usual: np.ndarray
    false_alarms: float
    causal: bool

    @property
    def limit(self) -> float:
        """Scores above it are anomalies; infinite where there are too few held-out points for the share."""
        return threshold(self.calibration, self.false_alarms)

    @property
    def p_values(self) -> np.ndarray:
        """Share of held-out points that are as strange, [n]; NaN where there is no score; see `score_series`."""
        return np.where(np.isnan(self.values), np.nan, p_values(self.values, self.calibration))

    @property
    def anomalies(self) -> np.ndarray:
        """Which points are anomalies, bool [n]."""
        return self.values > self.limit

    @property
    def channels(self) -> list[str]:
        """The channel that adds the most above what is usual to each point's score, n names; "" where there is none."""
        names = self.series.sampling.channels
        above = (self.parts - self.usual)[:, :-1]
        return ["" if np.isnan(row).any() else names[int(row.argmax())] for row in above]


def score_series(
    run: Any, source: Any, causal: bool = False, false_alarms: float = 0.05, samples: int = SAMPLES, seed: int = 0
) -> SeriesScores:
    r"""Scores every point of a series by the windows that contain it.

    A window's score is the importance-weighted estimate of -log p(window | clock) over its known points,

    .. math:: s_w = -\frac{1}{n_w} \log \frac{1}{K} \sum_k \frac{p(x_w|z_k, c_w) p(z_k)}{q(z_k|x_w)},

    and a point's score the mean of those of all windows that contain it: it is smoothed over the window before and the
    one after. With `causal` it is the score of the window that ends there, which needs nothing of the future, and is
    what `SeriesScorer` gives. The p-value compares with points of held-out time, scored likewise. Were those
    independent, at most a share alpha of points in order would have p <= alpha; neighbours are not, so that the share
    is near alpha on average, and alarms come in stretches.

    Args:
        run: A run trained with `data.window`.
        source: The series: a table of text, a data frame or an array.
        causal: Score by the past alone.
        false_alarms: In (0, 1).
        samples: K.
        seed: Of the noise, the same for all windows.

    Raises:
        BadInput: for a run of other data, other channels, another step, fewer points than a window, and what
            `read_series` refuses.
    """
    sampling = sampling_of(run)
    threshold(np.zeros(1), false_alarms)
    series = on_grid_of(run, source)
    rows, starts = windows_of(series.values, sampling.window)
    clock = clock_of(series.times[starts + sampling.window - 1]) if sampling.clock else None
    ends = starts + sampling.window - 1
    parts = np.full((len(series), len(sampling.channels) + 1), np.nan)
    found = window_parts(run, rows, clock, samples, seed)
    if causal:
        parts[ends] = found
    else:
        parts = spread_over(found, starts, sampling.window, len(series))
    calibration = _calibration(run, causal, samples, seed)
    usual = calibration.mean(0) if len(calibration) else np.zeros(parts.shape[1])
    return SeriesScores(series, parts.sum(1), parts, np.sort(calibration.sum(1)), usual, false_alarms, causal)


def sampling_of(run: Any) -> Sampling:
    """How the run's series was cut into windows.

    Raises:
        BadInput: for a run of other data.
    """
    if run.spec.series is None:
        rule = "was not trained on a time series"
        raise BadInput("run", run.folder, rule, "vaelab train FILE --recipe series")
    found: Sampling = run.spec.series
    return found


def on_grid_of(run: Any, source: Any) -> Series:
    """A series with the channels of the run, in their order, and its step.

    Raises:
        BadInput: where they are others, or there are fewer points than a window.
    """
    wanted = sampling_of(run)
    series = read_series(source, run.config.data.timestamp)
    found = series.sampling
    missing = [name for name in wanted.channels if name not in found.channels]
    if missing:
        rule = f"the run was trained on {', '.join(wanted.channels)}, and here are {', '.join(found.channels)}"
        raise BadInput("channels", f"no column {missing[0]}", rule, "name the columns as they were")
    if found.clock != wanted.clock:
        kinds = {True: "dates", False: "numbers or steps"}
        raise BadInput("timestamp", kinds[found.clock], f"the run was trained with {kinds[wanted.clock]} as times")
    if found.step != wanted.step:
        series = read_series(source, run.config.data.timestamp, wanted.step)
    if len(series) < wanted.window:
        raise BadInput("series", f"{len(series)} points in time", f"a window of this run takes {wanted.window}")
    order = [found.channels.index(name) for name in wanted.channels]
    return Series(series.times, series.values[:, order], wanted, series.findings)


def window_parts(run: Any, rows: np.ndarray, clock: np.ndarray | None, samples: int, seed: int) -> np.ndarray:
    """What channels and code add to each window's score, nats per known point, [m, C + 1]."""
    channels = len(sampling_of(run).channels)
    if not len(rows):
        return np.zeros((0, channels + 1))
    given = clock if run.spec.condition else None
    entries = score(run, rows.astype(np.float32), "likelihood", samples, seed, given).parts
    each = entries[:, :-1].reshape(len(rows), channels, -1).sum(2)
    known = (~np.isnan(rows)).reshape(len(rows), channels, -1).any(1).sum(1)
    return np.concatenate([each, entries[:, -1:]], 1) / known[:, None]


def spread_over(parts: np.ndarray, starts: np.ndarray, window: int, points: int) -> np.ndarray:
    """Means over the windows that contain each point, [points, C + 1], of what windows have, [m, C + 1].

    Example:
        >>> spread_over(np.array([[1.0], [3.0]]), np.array([0, 1]), 2, 4)[:, 0].tolist()
        [1.0, 2.0, 3.0, nan]
    """
    total, count = np.zeros((points, parts.shape[1])), np.zeros((points, 1))
    for lag in range(window):
        total[starts + lag] += parts
        count[starts + lag] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _calibration(run: Any, causal: bool, samples: int, seed: int) -> np.ndarray:
    """Parts of the scores of the held-out points that the run keeps, [k, C + 1]."""
    window = sampling_of(run).window
    rows = np.asarray(run.preview, dtype=np.float64)
    parts = window_parts(run, rows, run.preview_condition, samples, seed)
    if causal:
        return parts
    # A point of a series is in as many windows as a window has points, so that only such points compare.
    stretches = np.split(np.arange(len(rows)), np.flatnonzero(~_follows(rows, window)) + 1)
    means = [
        np.lib.stride_tricks.sliding_window_view(parts[s], window, 0).mean(-1) for s in stretches if len(s) >= window
    ]
    return np.concatenate(means) if means else np.zeros((0, parts.shape[1]))


def _follows(rows: np.ndarray, window: int) -> np.ndarray:
    """Whether each window but the first begins a point after the one before, [m - 1]: they agree in all but a point."""
    cut = rows.reshape(len(rows), -1, window)
    one, other = cut[:-1, :, 1:], cut[1:, :, :-1]
    return ((one == other) | (np.isnan(one) & np.isnan(other))).all((1, 2))


class SeriesScorer:
    """Scores one new point of a series at a time, as `score_series(..., causal=True)` scores them together.

    The first point fixes the grid. A step without a point is a missing one.

    Args:
        run: A run trained with `data.window`.
        false_alarms: As of `score_series`.
        samples, seed: Likewise.

    Attributes:
        limit: Scores above it are anomalies.
    """

    def __init__(self, run: Any, false_alarms: float = 0.05, samples: int = SAMPLES, seed: int = 0) -> None:
        self.sampling = sampling_of(run)
        self._run, self._samples, self._seed = run, samples, seed
        self._calibration = np.sort(_calibration(run, True, samples, seed).sum(1))
        self.limit = threshold(self._calibration, false_alarms)
        self._last = np.full((self.sampling.window, len(self.sampling.channels)), np.nan)
        self._origin: float | None = None
        self._place = -1
        self._first: list[float] = []  # times of the first points, by which the step is judged once

    def update(self, timestamp: Any, values: Any) -> float:
        """The score of a new point in nats per time point; NaN before a whole window, and across a large gap.

        Args:
            timestamp: ISO text or a datetime where the run has a clock, else a number; later than the one before.
            values: A number for each channel, [C], or one alone; NaN where one is missing.

        Raises:
            BadInput: for a time that is not later by a step, other channels, and, once there are as many times as
                points of a window, another step.
        """
        values = np.asarray(values, dtype=np.float64).reshape(-1)
        if len(values) != len(self.sampling.channels) or np.isinf(values).any():
            rule = f"takes one finite number for each of {', '.join(self.sampling.channels)}, NaN where it is missing"
            raise BadInput("values", values.tolist(), rule)
        time = time_of(timestamp, self.sampling.clock)
        self._origin = time if self._origin is None else self._origin
        place = round((time - self._origin) / self.sampling.step)
        if place <= self._place:
            step = in_words(self.sampling.step, self.sampling.clock)
            raise BadInput("timestamp", timestamp, f"must be later than the one before by a step of {step}")
        if len(self._first) < self.sampling.window:
            first = [*self._first, time]
            if len(first) == self.sampling.window:
                refuse_other_step(np.array(first), self.sampling.step, self.sampling.clock)
            self._first = first
        skipped = min(place - self._place, len(self._last))
        self._last = np.concatenate([self._last[skipped:], np.full((skipped, len(values)), np.nan)])
        self._last[-1] = values
        self._place = place
        return self._score()

    def p_value(self, found: float) -> float:
        """Share of held-out points as strange as a score."""
        return math.nan if math.isnan(found) else float(p_values(np.array([found]), self._calibration)[0])

    def _score(self) -> float:
        window = self.sampling.window
        if self._place + 1 < window or np.isnan(self._last).mean() > MOST_MISSING:
            return math.nan
        assert self._origin is not None
        end = np.array([self._origin + self.sampling.step * self._place])
        clock = clock_of(end) if self.sampling.clock else None
        return float(window_parts(self._run, self._last.T.reshape(1, -1), clock, self._samples, self._seed).sum())


def save_series(scores: SeriesScores, path: str | Path) -> Path:
    """Writes a line for each point, or arrays.

    Args:
        scores: What `score_series` returned.
        path: A name ending in .csv (`timestamp`, the channels, `score` in nats per time point, `p_value`, `anomaly`,
            and of several channels `channel`, which adds the most; cells are empty where there is no score) or .npz
            (the same, and `parts` [n, C + 1] with their `names`).

    Raises:
        BadInput: for another ending, a folder, or a parent folder that is not there.
        NoSpace: where the system refuses to write.
    """
    return save(path, {".csv": _csv, ".npz": _npz}, scores)


def _csv(scores: SeriesScores) -> bytes:
    names = scores.series.sampling.channels
    columns: dict[str, Sequence[Any]] = {"timestamp": scores.series.labels()}
    columns |= {name: _cells(scores.series.values[:, place]) for place, name in enumerate(names)}
    columns |= {"score": _cells(scores.values), "p_value": _cells(scores.p_values)}
    columns["anomaly"] = scores.anomalies.astype(int).tolist()
    if len(names) > 1:
        columns["channel"] = scores.channels
    return csv_bytes(list(columns), zip(*columns.values(), strict=True))


def _cells(numbers: np.ndarray) -> list[Any]:
    return ["" if math.isnan(number) else number for number in numbers.tolist()]


def _npz(scores: SeriesScores) -> bytes:
    return npz_bytes(
        timestamp=np.array(scores.series.labels()),
        values=scores.series.values,
        score=scores.values,
        p_value=scores.p_values,
        anomaly=scores.anomalies,
        parts=scores.parts,
        names=np.array([*scores.series.sampling.channels, REST]),
    )
