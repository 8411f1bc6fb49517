"""p-values of scores by comparison with rows that training never saw."""

from __future__ import annotations

import math

import numpy as np

from ..core.errors import BadInput


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    r"""Conformal p-values [n] of scores [n], where higher is stranger.

    .. math:: p = \frac{1 + \#\{i : c_i \ge s\}}{m + 1}

    For a row that comes from where the m calibration rows come from, and where training saw none of them, the chance of
    p <= alpha is at most alpha, for every alpha, whatever the model: the m + 1 rows could stand in any order.

    Reference: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005.

    Args:
        scores: Of new rows.
        calibration: Of rows that training never saw, [m].

    Example:
        >>> p_values(np.array([0.5, 2.5]), np.array([1.0, 2.0, 3.0])).tolist()
        [1.0, 0.5]
    """
    below = np.searchsorted(np.sort(calibration), scores, side="left")
    return (1 + len(calibration) - below) / (len(calibration) + 1)


def threshold(calibration: np.ndarray, false_alarms: float) -> float:
    """The score above which p is at most `false_alarms`; infinite where there are too few calibration rows for that.

    Raises:
        BadInput: for a rate that is not between 0 and 1.

    Example:
        >>> threshold(np.array([1.0, 2.0, 3.0]), 0.5)
        2.0
    """
    if not 0 < false_alarms < 1:
        raise BadInput("false_alarms", false_alarms, "is a share of the rows in order, between 0 and 1", "such as 0.05")
    rank = math.floor(false_alarms * (len(calibration) + 1) + 1e-9)
    return float(np.sort(calibration)[-rank]) if rank else math.inf
