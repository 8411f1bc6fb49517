"""Which rows are too strange for a run: scores, p-values from its held-out rows, and what each column did."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import BadInput
from .conformal import p_values, threshold
from .files import csv_bytes, npz_bytes, save
from .scoring import SAMPLES, Scores, score

MOST_WRITTEN = 1e6  # nats from which a number is written with an exponent


@dataclass(frozen=True)
class Judged:
    """Scores of rows beside those of the run's held-out rows.

    Args:
        scores: Of the rows.
        calibration: Of the held-out rows that the run keeps; None where it keeps none.
        false_alarms: Share of rows in order that may be called anomalies.
        limit: Scores above it are anomalies; infinite where there are too few held-out rows for the share.
    """

    scores: Scores
    calibration: Scores | None
    false_alarms: float
    limit: float

    @property
    def p_values(self) -> np.ndarray:
        """Conformal p-values, [n]; NaN where there is nothing to compare with."""
        if self.calibration is None:
            return np.full(len(self.scores.values), np.nan)
        return p_values(self.scores.values, self.calibration.values)

    @property
    def anomalies(self) -> np.ndarray:
        """Which rows are anomalies, bool [n]."""
        return self.scores.values > self.limit

    @property
    def usual(self) -> np.ndarray | None:
        """What each entry adds to the score of a held-out row on average, [D + 1]."""
        return None if self.calibration is None else self.calibration.parts.mean(0)

    def why(self, row: int, count: int) -> str:
        """The entries that add the most above what is usual, in words."""
        found = self.scores.strangest(row, count, self.usual)
        return "; ".join(f"{name} {nats:+{'.2f' if abs(nats) < MOST_WRITTEN else '.3g'}}" for name, nats in found)


def judge_rows(
    run: Any,
    x: Any,
    kind: str = "likelihood",
    samples: int = SAMPLES,
    false_alarms: float = 0.05,
    seed: int = 0,
    condition: Any = None,
) -> Judged:
    """Scores rows and calls those anomalies whose conformal p-value is at most `false_alarms`.

    The held-out rows that the run keeps calibrate: training never took a step on them, but they chose which of its
    weights were kept, so that the share of false alarms is near, and not exactly bounded by, the one asked for. A run
    that was exported without its rows gives scores alone.

    Args:
        run: A `vaelab.Run`.
        x: Rows [n, ...] on the data's own scale.
        kind, samples, seed, condition: See `score`.
        false_alarms: In (0, 1).

    Raises:
        BadInput: as `score`, and for a share that is none.
    """
    threshold(np.zeros(1), false_alarms)
    if not run.keeps_rows:
        return Judged(score(run, x, kind, samples, seed, condition), None, false_alarms, math.inf)
    held_out = run.preview, run.preview_condition
    usual = None
    if kind == "typicality":
        usual = float(score(run, held_out[0], "likelihood", samples, seed, held_out[1]).values.mean())
    scores = score(run, x, kind, samples, seed, condition, usual)
    calibration = score(run, held_out[0], kind, samples, seed, held_out[1], usual)
    return Judged(scores, calibration, false_alarms, threshold(calibration.values, false_alarms))


def save_scores(judged: Judged, path: str | Path, explain: int = 3) -> Path:
    """Writes a table with a line for each row, or arrays.

    Args:
        judged: What `judge_rows` returned.
        path: A name ending in .csv (`score` and `error` in nats, `p_value`, `anomaly`, `why`) or .npz (`score`,
            `error`, `p_value`, `anomaly`, `parts` [n, D + 1] and their `names`).
        explain: Entries named in `why`; 0 leaves the column out.

    Raises:
        BadInput: for another ending, a folder, or a parent folder that is not there.
        NoSpace: where the system refuses to write.
    """
    if explain < 0:
        raise BadInput("explain", explain, "must be at least 0")
    return save(path, SCORE_FILES, judged, explain)


def _csv(judged: Judged, explain: int) -> bytes:
    columns = {
        "score": judged.scores.values,
        "error": judged.scores.error,
        "p_value": judged.p_values,
        "anomaly": judged.anomalies.astype(int),
    }
    if explain:
        columns["why"] = np.array([judged.why(row, explain) for row in range(len(judged.scores.values))], object)
    return csv_bytes(list(columns), zip(*columns.values(), strict=True))


def _npz(judged: Judged, explain: int) -> bytes:
    return npz_bytes(
        score=judged.scores.values,
        error=judged.scores.error,
        p_value=judged.p_values,
        anomaly=judged.anomalies,
        parts=judged.scores.parts,
        names=np.array(judged.scores.names),
    )


SCORE_FILES: dict[str, Callable[..., bytes]] = {".csv": _csv, ".npz": _npz}
