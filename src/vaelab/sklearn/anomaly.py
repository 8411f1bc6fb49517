"""`VAEAnomalyDetector`: how strange rows are, with a threshold whose false alarms are known."""

from __future__ import annotations

from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from ..core.errors import BadInput, whole
from ..core.tables import pick
from ..data.source import split
from ..use.conformal import p_values, threshold
from ..use.scoring import KINDS, SAMPLES, Scores, score
from .base import VAEEstimator

CALIBRATION = 0.2  # share of the rows that training never sees
LEAST_ROWS = 5
TABLE = {
    "model": {"hidden": (128, 128)},
    "likelihood": {"name": "gaussian", "noise": "feature"},
    "objective": {"name": "iwae"},
    "train": {"steps": 2500},
}


class VAEAnomalyDetector(OutlierMixin, VAEEstimator):
    """Scores rows by log p(x) under a small ensemble of VAEs, and says which are too strange.

    A fifth of the rows is kept from training, and says how high the scores of rows in order go: `p_values` are
    conformal, so that of new rows in order at most a share `false_alarms` is called an anomaly, whatever the model.

    Args:
        contamination: Share of anomalies among the rows to be fitted, in (0, 0.5]: so many of these are called
            anomalies, and the strangest of them are left out of a second training. "auto": rows are taken as in order,
            and the threshold is that of `false_alarms`.
        false_alarms: Share of rows in order that may be called anomalies, where contamination is "auto".
        members: Models, as one mixture.
        kind: Of score: "likelihood", "reconstruction", "latent" or "typicality"; see `vaelab.use.scoring.score`.
        samples: Draws of z of each model, for each row.
        latent, steps, config, random_state, verbose: See `VAEEstimator`.

    Attributes:
        run_: The run of the first member.
        calibration_: Scores of the rows kept from training, a `Scores`.
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
        self.members = members
        self.kind = kind
        self.samples = samples

    def _settings(self) -> dict[str, Any]:
        return {"objective": TABLE["objective"], "train": TABLE["train"]} if self._worded else TABLE

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains on rows X [n, D], an array or a data frame; y is not read.

        Raises:
            BadInput: for fewer than `LEAST_ROWS` rows, and arguments out of their range.
        """
        self._check()
        rows = self._read(X, fitting=True, least=LEAST_ROWS)
        index, kept = split(len(rows), CALIBRATION, self._seed())
        self._fit_runs(_at(rows, index), self.members)
        if self.contamination != "auto":
            strange = self._scores(_at(rows, index), "likelihood").values
            least = max(LEAST_ROWS, len(index) - round(self.contamination * len(index)))
            self._fit_runs(_at(rows, np.sort(index[np.argsort(strange, kind="stable")[:least]])), self.members)
        self.usual_ = float(self._scores(_at(rows, kept), "likelihood").values.mean())
        self.calibration_ = self._scores(_at(rows, kept))
        if self.contamination == "auto":
            self.offset_ = -threshold(self.calibration_.values, self.false_alarms)
        else:
            self.offset_ = float(np.percentile(-self._scores(rows).values, 100.0 * self.contamination))
        return self

    def _check(self) -> None:
        whole("members", self.members)
        whole("samples", self.samples)
        pick(KINDS, self.kind, "kind")
        threshold(np.zeros(1), self.false_alarms)
        share = self.contamination
        if share != "auto" and not (isinstance(share, Real) and not isinstance(share, bool) and 0 < share <= 0.5):
            raise BadInput("contamination", share, 'is a share in (0, 0.5], or "auto"', "such as 0.05")

    def _scores(self, rows: Any, kind: str | None = None) -> Scores:
        usual = getattr(self, "usual_", None)
        return score([kept.run for kept in self.runs_], rows, kind or self.kind, self.samples, usual=usual)

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
        """Conformal p-values [n] of rows X [n, D]: the chance that a row in order is as strange, see `p_values`."""
        return p_values(-self.score_samples(X), self.calibration_.values)

    def explain(self, X: Any) -> Scores:
        """Scores of rows X [n, D] with what each column adds to them; `usual_parts_` are the columns' usual parts."""
        return self._scores(self._read(X))

    @property
    def usual_parts_(self) -> np.ndarray:
        """What each column adds on average for the rows kept from training, [D + 1]."""
        check_is_fitted(self, "calibration_")
        return self.calibration_.parts.mean(0)


def _at(rows: Any, index: np.ndarray) -> Any:
    return rows.iloc[index] if hasattr(rows, "iloc") else rows[index]
