"""`VAEAnomalyDetector`: how strange rows are, with a threshold whose false alarms are known."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from ..core.errors import BadInput, whole
from ..core.tables import pick
from ..data.mixed import FEW_VALUES, MANY_WHOLE, MOST_LEVELS
from ..data.source import split
from ..use.conformal import p_values, threshold
from ..use.scoring import KINDS, SAMPLES, Scores, joined, score
from .base import VAEEstimator

LEAST_ROWS, MOST_LATENT = 5, 16
MOST_CLUSTERS, ROWS_EACH = 30, 5  # pseudo-inputs of the prior, and training rows for each of them
COARSE, LEAST_NOISE = 0.4, 0.05  # the least noise of a column: the first times the error of a density, or the second
MANY_ROWS, KEPT_SHARE, MOST_KEPT = 2500, 0.2, 2000  # where, and how many rows, "auto" keeps apart to calibrate
HELD_OUT, MOST_HELD_OUT = 0.1, 0.2  # least and most share of rows that each model takes no step on
CHOOSING = 0.05  # the least, where these rows only choose its weights and others calibrate
ENOUGH = 50  # rows that calibrate, of all models, or choose a model's weights
TABLE = {
    "model": {"hidden": (128, 128, 128)},
    "likelihood": {"name": "gaussian", "noise": "feature"},
    "objective": {"name": "iwae"},
    "train": {"steps": 2500, "learning_rate": 3e-3},
}


class VAEAnomalyDetector(OutlierMixin, VAEEstimator):
    """Scores rows by log p(x) under a small ensemble of VAEs, and says which are too strange.

    Rows that a model was not trained on say how high the scores of rows in order go, so that of new rows in order a
    share `false_alarms` is called an anomaly.

    Args:
        contamination: Share of anomalies among the rows to be fitted, in (0, 0.5]: so many of these are called
            anomalies, and the strangest of them are left out of a second training. "auto": rows are taken as in order,
            and the threshold is that of `false_alarms`.
        false_alarms: Share of rows in order that may be called anomalies, where contamination is "auto".
        calibration: Which rows say how high the scores of rows in order go. A share in (0, 1): so many rows are kept
            from all models, and the share of false alarms is at most the one asked for on average over such choices of
            rows, whatever the models are like; of m kept rows it varies from fit to fit by some
            sqrt(share (1 - share) / m). "cross": each model is trained on another nine tenths of the rows (four
            fifths of few), and gives scores of those that it was not trained on, which did choose its weights; no row
            is lost, and the share of false alarms is near the one asked for, or below it where rows are strange to few
            of the models. "auto": of 2500 rows of numbers or more a fifth is kept, at most 2000 rows; of fewer none,
            and it is "cross". Where rows are kept, each model holds out a twentieth of the others, and up to a fifth of
            few, to choose its weights.
        members: Models, whose scores are averaged. A column's noise is learned, in arrays of numbers down to
            max(0.05, 0.4 n^(-2 / (d + 4))) of the column's deviation, for n rows of d columns, or to
            `likelihood.floor` of `config`.
        kind: Of score: "likelihood", "reconstruction", "latent" or "typicality"; see `vaelab.use.scoring.score`.
        samples: Draws of z of each model, for each row.
        latent, steps, config, random_state, verbose: See `VAEEstimator`.

    Attributes:
        run_: The run of the first member.
        calibration_: Scores of rows by models that were not trained on them, a `Scores`.
        offset_: `score_samples` below this are anomalies.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> rows = load_iris().data
        >>> detector = VAEAnomalyDetector(members=2, steps=50).fit(rows)
        >>> detector.predict([[5.0, 3.4, 1.5, 0.2], [50.0, 3.0, 1.0, 0.0]])
        array([ 1, -1])
    """

    def __init__(
        self,
        *,
        contamination: float | str = "auto",
        false_alarms: float = 0.05,
        calibration: float | str = "auto",
        members: int = 5,
        kind: str = "likelihood",
        samples: int = SAMPLES,
        latent: int | None = None,
        steps: int | None = None,
        config: Any = None,
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(latent=latent, steps=steps, config=config, random_state=random_state, verbose=verbose)
        self.contamination = contamination
        self.false_alarms = false_alarms
        self.calibration = calibration
        self.members = members
        self.kind = kind
        self.samples = samples

    def _settings(self) -> dict[str, Any]:
        return {name: TABLE[name] for name in ("objective", "train")} if self._worded else TABLE

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains on rows X [n, D], an array or a data frame; y is not read.

        Raises:
            BadInput: for fewer than `LEAST_ROWS` rows, and arguments out of their range.
        """
        self._check()
        rows = self._read(X, fitting=True, least=LEAST_ROWS)
        index, kept = np.arange(len(rows)), np.array([], int)
        if share := self._kept(len(rows)):
            index, kept = _with_all_levels(rows, *split(len(rows), share, self._seed()))
        own = {} if self._worded else self._sizes(_at(rows, index))
        own["data"] = {"held_out": self._held_out(len(index), apart=len(kept) > 0)}
        self._fit_runs(_at(rows, index), self.members, **own)
        if self.contamination != "auto":
            strange = self._scores(_at(rows, index), "likelihood").values
            least = max(LEAST_ROWS, len(index) - round(float(self.contamination) * len(index)))
            order = index[np.argsort(strange, kind="stable")]
            index, _ = _with_all_levels(rows, np.sort(order[:least]), np.sort(order[least:]))
            self._fit_runs(_at(rows, index), self.members, **own)
        trained, apart = _at(rows, index), _at(rows, kept)
        self.usual_ = float(self._calibrated(trained, _at(rows, kept[:0]), "likelihood").values.mean())
        self.calibration_ = self._calibrated(trained, apart, self.kind)
        if self.contamination == "auto":
            self.offset_ = -threshold(self.calibration_.values, self.false_alarms)
            if np.isinf(self.offset_):
                count = len(self.calibration_.values)
                text = f"false_alarms={self.false_alarms:g} takes more than the {count} rows that calibrate"
                rest = f"so that no row is called an anomaly; {1 / (count + 1):.2g} or more would do"
                warnings.warn(f"{text}, {rest}", stacklevel=2)
        else:
            self.offset_ = float(np.percentile(-self._scores(rows).values, 100.0 * float(self.contamination)))
        return self

    def _sizes(self, rows: Any) -> dict[str, Any]:
        """Settings that follow from the rows: of complete ones the prior learns how their codes cluster.

        Not where some of them are anomalies, whose clusters it would learn as well. The fewer rows there are and the
        more columns, the less is known of the density at a point: at best with an error of the order n^(-2 / (d + 4))
        (Stone, Optimal Rates of Convergence for Nonparametric Estimators, 1980). Noise goes by it.
        """
        columns = self.n_features_in_
        found: dict[str, Any] = {"model": {"latent": min(MOST_LATENT, columns)}}
        config, named = self.config or {}, (("prior",), ("likelihood", "name"), ("model", "posterior"))
        part = config.get("likelihood")
        if not isinstance(part, Mapping) or part.get("noise", "feature") == "feature":
            found["likelihood"] = {"floor": max(LEAST_NOISE, COARSE * len(rows) ** (-2 / (columns + 4)))}
        in_order = self.contamination == "auto" and np.isfinite(rows).all()
        if in_order and not any(_names(config, *path) for path in named):
            found["prior"] = {"name": "vamp", "components": max(1, min(MOST_CLUSTERS, len(rows) // ROWS_EACH))}
        return found

    def _kept(self, count: int) -> float:
        """The share of so many rows that no model is trained on; 0 with "cross"."""
        if self.calibration == "auto":
            return min(KEPT_SHARE, MOST_KEPT / count) if count >= MANY_ROWS and not self._worded else 0.0
        return 0.0 if self.calibration == "cross" else float(self.calibration)

    def _held_out(self, count: int, apart: bool) -> float:
        """The share of so many rows that each model takes no step on: they choose its weights, and may calibrate."""
        calibrating = max(ENOUGH, math.ceil(1 / self.false_alarms)) / self.members  # of fewer there is no threshold
        least, enough = (CHOOSING, ENOUGH) if apart else (HELD_OUT, calibrating)
        return min(MOST_HELD_OUT, max(least, enough / count))

    def _calibrated(self, trained: Any, apart: Any, kind: str) -> Scores:
        """Scores of rows by models that took no step on them: of rows kept apart, or of each model's held-out rows."""
        if len(apart):
            return self._scores(apart, kind)
        found = []
        for kept in self.runs_:
            _, held_out = split(len(trained), kept.run.config.data.held_out, kept.run.config.seed)
            found.append(self._scores(_at(trained, held_out), kind, [kept.run]))
        return joined(found)

    def _check(self) -> None:
        whole("members", self.members)
        whole("samples", self.samples)
        pick(KINDS, self.kind, "kind")
        threshold(np.zeros(1), self.false_alarms)
        share = self.calibration
        if share not in ("auto", "cross") and not (_is_number(share) and 0 < float(share) < 1):
            raise BadInput("calibration", share, 'is a share in (0, 1), "cross" or "auto"', "such as 0.2")
        share = self.contamination
        if share != "auto" and not (_is_number(share) and 0 < float(share) <= 0.5):
            raise BadInput("contamination", share, 'is a share in (0, 0.5], or "auto"', "such as 0.05")

    def _scores(self, rows: Any, kind: str | None = None, runs: Sequence[Any] | None = None) -> Scores:
        usual = getattr(self, "usual_", None)
        return score(runs or [kept.run for kept in self.runs_], rows, kind or self.kind, self.samples, usual=usual)

    def score_samples(self, X: Any) -> np.ndarray:
        """Minus the score in nats of each row of X [n, D], [n]: log p(x) by default; lower is stranger."""
        return -self._scores(self._read(X)).values

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` less `offset_`, [n]; below 0 is an anomaly."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """-1 for anomalies and 1 for rows in order, [n]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """Conformal p-values [n] of rows X [n, D]; see `vaelab.use.conformal.p_values` and `calibration`."""
        return p_values(-self.score_samples(X), self.calibration_.values)

    def explain(self, X: Any) -> Scores:
        """Scores of rows X [n, D] with what each column adds to them; `usual_parts_` are the columns' usual parts."""
        found = self._scores(self._read(X))
        own = getattr(self, "feature_names_in_", None)
        if own is not None and not self._worded and len(found.names) == len(own) + 1:
            found = replace(found, names=(*map(str, own), found.names[-1]))
        return found

    @property
    def usual_parts_(self) -> np.ndarray:
        """What each column adds on average for the rows of `calibration_`, [D + 1]."""
        check_is_fitted(self, "calibration_")
        return self.calibration_.parts.mean(0)


def _names(config: Any, *path: str) -> bool:
    """Whether a config says something at a path of keys; text stands for a section's name."""
    for key in path:
        if isinstance(config, str):
            return True
        config = config.get(key) if isinstance(config, Mapping) else None
    return bool(config)


def _with_all_levels(rows: Any, index: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of rows, where those of the second that hold a level which the first lacks have gone to the first."""
    if not hasattr(rows, "iloc"):
        return index, apart
    needed = np.zeros(len(apart), bool)
    for at in range(rows.shape[1]):
        column = rows.iloc[:, at]
        most = MANY_WHOLE if column.dtype.kind in "iuf" else MOST_LEVELS
        if column.nunique() <= max(FEW_VALUES, min(most, len(column) / 2)):  # else numbers, or text that is left out
            own = column.iloc[apart]
            needed |= np.asarray(own.notna() & ~own.isin(column.iloc[index]))
    return np.sort(np.r_[index, apart[needed]]), apart[~needed]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _at(rows: Any, index: np.ndarray) -> Any:
    return rows.iloc[index] if hasattr(rows, "iloc") else rows[index]
