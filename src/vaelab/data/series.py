"""Time series as rows: sorted, on a regular grid, cut into windows that overlap, with the clock beside each."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..core.errors import BadInput, did_you_mean
from ..core.facts import Sampling
from ..core.finding import Finding
from .arrays import Parts, column_name
from .grid import UNEVEN, Grid, averaged, grid_of, other_step
from .tables import MISSING, Cells, numbers, plural
from .text_tables import read_cells, turn_decimal_commas

AUTO = "auto"
DAY, WEEK = 86_400.0, 604_800.0
CLOCK = ("time_of_day_sin", "time_of_day_cos", "time_of_week_sin", "time_of_week_cos")
LONGEST, SHORTEST, WINDOWS = 128, 8, 16  # points of a window, and how many windows end to end a series has at least
MOST_MISSING = 0.25  # share of a window's entries; windows across a larger gap are left out
MOST_ENTRIES = 2**27  # of all windows together: beyond, not every point begins one
MOST_POINTS = 10**7  # of the grid: one stray time stamp must not fill the memory


@dataclass(frozen=True)
class Series:
    """Points in time on a regular grid.

    Args:
        times: Of the points, [n]: seconds since 1970-01-01 UTC where there is a clock, else the file's own numbers.
        values: [n, C], NaN where a channel is missing.
        sampling: Channels and step; `window` is 0 before windows are cut.
        findings: What was met while reading.
    """

    times: np.ndarray
    values: np.ndarray
    sampling: Sampling
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.times)

    def labels(self) -> list[Any]:
        """The times as a person writes them: ISO text, or numbers."""
        if not self.sampling.clock:
            return [int(time) if float(time).is_integer() else float(time) for time in self.times.tolist()]
        return [written(time) for time in self.times.tolist()]


def written(seconds: float) -> str:
    """Seconds since 1970-01-01 as ISO text."""
    return (datetime(1970, 1, 1) + timedelta(seconds=round(seconds, 6))).isoformat(sep=" ")


def read_series(source: Any, timestamp: str | None = None, step: float | None = None) -> Series:
    """A series from a table of text, a data frame or an array [n] or [n, C], on a grid of its own step.

    Times are ISO text, read as UTC where they name no zone, or numbers. They are sorted; values of one time, or nearest
    to one point of the grid, are averaged; a point without any is missing.

    Args:
        source: What to read.
        timestamp: The column of times; None: the first one of dates, or one called timestamp, time or date; where there
            is none, as of an array, the points are steps 0, 1, 2.
        step: Of the grid, from the first time on; None: the median step, or where the times lie beside that one's
            grid, the step of least squares.

    Raises:
        BadInput: for a column that is not there, a time or value that cannot be read, fewer than two times, and times
            of another step than the one given.
    """
    where, cells = _cells(source)
    place = _time_column(cells, timestamp)
    kept = [i for i in range(len(cells.columns)) if i != place]
    if not kept:
        raise BadInput(where, "times alone", "must have a column of values beside them")
    names = tuple(cells.columns[i] for i in kept)
    values = _values(Cells(where, names, [cells.values[i] for i in kept], cells.lines))
    if place is None:
        times, clock = np.arange(len(values), dtype=np.float64), False
    else:
        times, clock = _times(cells, place)
    if len(times) < 2:
        raise BadInput(where, "one point in time", "a series has two at least")
    return _on_grid(where, times, values, Sampling(names, 0, 0.0, clock), step)


def _cells(source: Any) -> tuple[str, Cells]:
    """The text of a table, with a name for it."""
    if isinstance(source, str | os.PathLike):
        found = read_cells(Path(source))
        if found.delimiter != ",":
            turn_decimal_commas(found.values)
        columns = tuple(name or column_name(i) for i, name in enumerate(found.names))
        return str(source), Cells(str(source), columns, found.values, found.lines)
    if hasattr(source, "iloc"):
        parts = [source.iloc[:, i] for i in range(source.shape[1])]
        values = [["" if gone else str(v) for v, gone in zip(c.tolist(), c.isna(), strict=True)] for c in parts]
        return "series", Cells("series", tuple(map(str, source.columns)), values, ())
    rows = source if isinstance(source, np.ndarray) else np.zeros(0)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.dtype.kind not in "biuf" or not rows.size:
        rule = "must be numbers of shape (points,) or (points, channels), a data frame or a table of text"
        raise BadInput("series", f"{type(source).__name__} of shape {getattr(source, 'shape', None)}", rule)
    names = tuple(column_name(i) for i in range(rows.shape[1]))
    return "series", Cells("series", names, [[repr(v) for v in column] for column in rows.T.tolist()], ())


def _time_column(cells: Cells, asked: str | None) -> int | None:
    """Which column holds the times; None where none does."""
    if asked is not None:
        if asked not in cells.columns:
            raise BadInput(
                "data.timestamp", asked, f"{cells.where} has no such column", did_you_mean(asked, cells.columns)
            )
        return cells.columns.index(asked)
    called = [i for i, name in enumerate(cells.columns) if name.lower() in ("timestamp", "time", "date", "datetime")]
    dates = (
        i for i, column in enumerate(cells.values) if _seconds(column[0]) is not None and not _is_number(column[0])
    )
    return called[0] if called else next(dates, None)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _seconds(cell: str) -> float | None:
    """An ISO time as seconds since 1970-01-01 UTC; None for other text."""
    try:
        found = datetime.fromisoformat(cell)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def time_of(given: Any, clock: bool) -> float:
    """A time as a number: seconds since 1970-01-01 UTC of ISO text or a datetime, else the number itself.

    Raises:
        BadInput: for a time of the other kind.
    """
    text = str(given)
    found = (None if _is_number(text) else _seconds(text)) if clock else float(text) if _is_number(text) else None
    if found is None:
        raise BadInput("timestamp", given, "must be ISO text or a datetime" if clock else "must be a number")
    return found


def in_words(step: float, clock: bool) -> str:
    """A step with its unit where it has one."""
    return f"{step:g}{' s' * clock}"


def _times(cells: Cells, place: int) -> tuple[np.ndarray, bool]:
    """Times as numbers, and whether they are of a clock."""
    column = cells.values[place]
    clock = not all(map(_is_number, column))
    found = [_seconds(cell) if clock else float(cell) for cell in column]
    for row, time in enumerate(found):
        if time is None or (clock and _is_number(column[row])):
            what = f"{column[row][:40]!r} in {cells.spot(row)}, column {cells.columns[place]}"
            raise BadInput(cells.where, what, "times must be ISO text, such as 2014-07-01 00:30:00, or all numbers")
    return np.array(found, dtype=np.float64), clock


def _values(cells: Cells) -> np.ndarray:
    """The channels as numbers, [n, C]."""
    for name, column in zip(cells.columns, cells.values, strict=True):
        if all(cell.lower() in MISSING for cell in column):
            raise BadInput(
                cells.where, f"column {name} without a single value", "every channel must have some", "drop it"
            )
    marked = cells._replace(  # a column that counts the points keeps `numbers` from dropping rows without values
        columns=(*cells.columns, "\0"), values=[*cells.values, [str(i) for i in range(len(cells.values[0]))]]
    )
    rows = numbers(marked).rows
    if rows.dtype == object:
        words = next(i for i in range(len(cells.columns)) if any(isinstance(cell, str) for cell in rows[:, i]))
        rule = "the channels of a series are numbers"
        raise BadInput(cells.where, f"text in column {cells.columns[words]}", rule, "leave the column out")
    return np.asarray(rows[:, :-1], dtype=np.float64)


def _on_grid(where: str, times: np.ndarray, values: np.ndarray, sampling: Sampling, step: float | None) -> Series:
    """Points by the grid's own places: values of one place are averaged, and one without any is missing."""
    findings = []
    if (steps := np.diff(times)).min() < 0:
        order = np.argsort(times, kind="stable")
        times, values, back = times[order], values[order], int((steps < 0).sum())
        findings.append(_found("DA150", "the times were out of order and are sorted", back, "step back"))
    gaps = np.diff(times)
    if not (gaps > 0).any():
        raise BadInput(where, "a single time for all points", "must go on in time")
    if twins := int((gaps == 0).sum()):
        findings.append(_found("DA151", "values of the same time are averaged", twins, "repeated time"))
    median = float(np.median(gaps[gaps > 0])) if step is None else step
    if (times[-1] - times[0]) / median >= MOST_POINTS:
        rule = f"a grid of the median step {median:g} would have more than {MOST_POINTS} points"
        raise BadInput(where, f"times from {times[0]:g} to {times[-1]:g}", rule, "look for a stray time")
    if step is not None:
        refuse_other_step(times, step, sampling.clock)
    grid = grid_of(times, median) if step is None else Grid(float(times[0]), step)
    exact = grid.exact(times)
    places = np.rint(exact).astype(int)
    if uneven := int((np.abs(exact - places) > UNEVEN).sum()):
        findings.append(_found("DA152", f"times are moved to a grid of {grid.step:g}", uneven, "point"))
    points = averaged(places - places[0], values)
    if missing := int(np.isnan(points).all(1).sum()):
        findings.append(_found("DA153", "points of the grid without a value are missing entries", missing, "point"))
    sampling = Sampling(sampling.channels, 0, grid.step, sampling.clock)
    moments = grid.origin + grid.step * (places[0] + np.arange(len(points)))
    return Series(moments, points, sampling, tuple(findings))


def refuse_other_step(times: np.ndarray, step: float, clock: bool) -> None:
    """Raises BadInput where ascending times do not fit the step that a run was trained with."""
    if found := other_step(times, step):
        rule = f"the run was trained with a step of {in_words(step, clock)}"
        raise BadInput("step", in_words(found, clock), rule, "resample the series, or train on it")


def _found(code: str, title: str, count: int, unit: str) -> Finding:
    return Finding(code, "info", title, float(count), plural(count, unit))


def window_length(points: int) -> int:
    """Points of a window where nobody says: the largest power of two up to 128 of which a series holds sixteen.

    Example:
        >>> window_length(100_000), window_length(1000), window_length(100)
        (128, 32, 8)
    """
    return min(LONGEST, max(SHORTEST, 2 ** int(math.log2(max(1, points // WINDOWS)))))


def windows_of(values: np.ndarray, window: int, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Windows [m, C * window], a channel after the other, and the place of each one's first point, [m].

    Those of which more than a quarter is missing are left out.
    """
    starts = np.arange(0, len(values) - window + 1, stride)
    gone = np.isnan(values).sum(1)
    share = np.convolve(gone, np.ones(window), "valid")[::stride] / (window * values.shape[1])
    starts = starts[share <= MOST_MISSING]
    return sliding_window_view(values, window, axis=0)[starts].reshape(len(starts), -1), starts


def clock_of(times: np.ndarray) -> np.ndarray:
    """Time of day and of the week of seconds since 1970 as points on two circles, [n, 4].

    Example:
        >>> clock_of(np.array([DAY / 4])).round(3)[0, :2].tolist()
        [1.0, 0.0]
    """
    turns = 2 * np.pi * np.stack([times / DAY, times / WEEK], 1)
    return np.stack([np.sin(turns), np.cos(turns)], 2).reshape(len(times), 4)


def beside(series: Series, starts: np.ndarray, window: int) -> np.ndarray | None:
    """The clock at each window's last point, [m, 4]; None where there is none."""
    return clock_of(series.times[starts + window - 1]) if series.sampling.clock else None


def entry_names(channels: Sequence[str], window: int) -> tuple[str, ...]:
    """Names of a window's entries: the channel, and how many steps before the last point."""
    return tuple(f"{name}[{lag}]" for name in channels for lag in range(1 - window, 1))


def from_series(source: Any, window: int | str, timestamp: str | None) -> Parts:
    """The windows of a series as rows.

    Raises:
        BadInput: as `read_series`, and for a series too short for two windows.
    """
    series = read_series(source, timestamp)
    length = window_length(len(series)) if window == AUTO else int(window)
    where = str(source) if isinstance(source, str | os.PathLike) else "series"
    if len(series) < 4 * length:
        rule = f"a window takes {length}, and there must be four windows, of which one is held out"
        raise BadInput(where, f"{len(series)} points in time", rule, "a longer series, or a smaller data.window")
    stride = math.ceil(len(series) * length * len(series.sampling.channels) / MOST_ENTRIES)
    rows, starts = windows_of(series.values, length, stride)
    if len(starts) < 2:
        raise BadInput(
            where, "gaps everywhere", f"no {length} points have a quarter missing at most", "a smaller data.window"
        )
    known = Sampling(series.sampling.channels, length, series.sampling.step, series.sampling.clock)
    return Parts(
        rows,
        columns=entry_names(known.channels, length),
        findings=(*series.findings, _cut(known, len(rows), window == AUTO)),
        condition=beside(series, starts, length),
        series=known,
        starts=starts,
    )


def _cut(sampling: Sampling, count: int, chosen: bool) -> Finding:
    title = f"the rows are windows of {sampling.window} points{', chosen from the length of the series' * chosen}"
    why = "windows overlap, so that rows are not independent; held-out windows share no point with training windows"
    return Finding("DA154", "info", title, float(count), "windows", why=why, advice="data.window=N sets another length")


def held_out_blocks(starts: np.ndarray, window: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and of held-out windows that share no point in time.

    Held out are blocks of time of at least four windows where the share allows it, at most ten, one at random in each
    stretch of equal length; windows across a block's border are in neither part.

    Args:
        starts: First points of the windows, ascending.
        window: Points of a window.
        share: Of the time that is held out.
        seed: Of the places of the blocks.

    Example:
        >>> train, held_out = held_out_blocks(np.arange(990), 11, 0.1, seed=0)
        >>> train.size, held_out.size
        (870, 80)
    """
    points = int(starts[-1]) + window
    total = max(2 * window, round(share * points))
    blocks = min(10, max(1, total // (4 * window)))
    length, stretch = total // blocks, points // blocks
    rng = np.random.default_rng(seed)
    begins = np.array([i * stretch + rng.integers(0, max(1, stretch - length + 1)) for i in range(blocks)])[:, None]
    ends = starts + window
    inside = ((starts >= begins) & (ends <= begins + length)).any(0)
    outside = ((ends <= begins) | (starts >= begins + length)).all(0)
    train, held_out = np.flatnonzero(outside), np.flatnonzero(inside)
    if not len(train) or not len(held_out):
        rule = "leaves no whole window for training, or none to hold out"
        raise BadInput(
            "data.held_out", f"{share:g} of {points} points", rule, "a smaller data.window, or a longer series"
        )
    return train, held_out
