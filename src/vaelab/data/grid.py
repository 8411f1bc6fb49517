"""The regular grid that times lie near: its origin and step, and whether times fit a given step; means by place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

UNEVEN = 0.01  # of a step: how far a time may be from the grid without a word
STEPS_AGREE, ERRORS = 0.01, 3.0  # how far a step may be from another one: as a share, and in standard errors


class Grid(NamedTuple):
    """Place k of the grid is at origin + k step; `error` is the standard error of the step."""

    origin: float
    step: float
    error: float = 0.0

    def exact(self, times: np.ndarray) -> np.ndarray:
        """Places of the times as real numbers."""
        return (times - self.origin) / self.step


def grid_of(times: np.ndarray, step: float) -> Grid:
    """The grid of ascending times [n]: of a step near that one, which is kept from the first time on where half lie.

    Example:
        >>> grid_of(np.array([0.0, 10.0, 21.0, 30.0]), 10.0).step
        10.0
    """
    plain = Grid(float(times[0]), step)
    exact = plain.exact(times)
    return plain if np.median(np.abs(exact - np.rint(exact))) <= UNEVEN else fitted(times, step)


def fitted(times: np.ndarray, step: float) -> Grid:
    """Least squares of ascending times [n] on their places, which are counted gap by gap, and then from the line.

    A step that is a little off misses a gap by next to nothing, and the last of many points by whole places. Gaps of
    one place come first: what makes one of them longer makes the next one shorter, so that their mean is near enough
    to count long gaps by.
    """
    gaps = np.diff(times)
    single = gaps[np.rint(gaps / step) == 1]
    step = single.mean() if len(single) else step
    places = np.concatenate([[0.0], np.cumsum(np.rint(gaps / step))])
    found = _line(times, places)
    return _line(times, np.rint(found.exact(times)))


def _line(times: np.ndarray, places: np.ndarray) -> Grid:
    """The line through times over places, [n] each, with the origin at the first place."""
    at, since = places - places.mean(), times - times[0]
    step = float(at @ since / (at @ at))
    left = since - since.mean() - step * at
    error = float(np.sqrt(left @ left / max(1, len(times) - 2) / (at @ at)))
    return Grid(float(times[0] + since.mean() + step * (places[0] - places.mean())), step, error)


def other_step(times: np.ndarray, step: float) -> float | None:
    """The step of ascending times [n] where they do not fit the one given; None where they do.

    They fit where most points follow the one before by one place, and the step that fits them best is that one within
    its standard error: the median gap of few and uneven times says little.

    Example:
        >>> other_step(np.array([0.0, 9.0, 21.0, 30.0]), 10.0), other_step(np.array([0.0, 20.0, 40.0]), 10.0)
        (None, 20.0)
    """
    gaps = np.diff(times)
    gaps = gaps[gaps > 0]
    if np.median(np.rint(gaps / step)) != 1:
        return float(np.median(gaps))
    found = fitted(times, step)
    return None if abs(found.step - step) <= max(STEPS_AGREE * step, ERRORS * found.error) else found.step


def averaged(places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means of the values [m, C] of each place, [max + 1, C]; NaN where there is none.

    Example:
        >>> averaged(np.array([0, 0, 2]), np.array([[1.0], [3.0], [5.0]]))[:, 0].tolist()
        [2.0, nan, 5.0]
    """
    total, count = np.zeros((2, places[-1] + 1, values.shape[1]))
    np.add.at(total, places, np.nan_to_num(values))
    np.add.at(count, places, ~np.isnan(values))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
