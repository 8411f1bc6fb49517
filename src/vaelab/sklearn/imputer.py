"""`VAEImputer`: missing entries filled in, with draws and intervals."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..core.errors import whole
from ..core.seeds import derive
from ..recipes import RECIPES
from ..use.imputing import Imputation, check_summary, impute
from .base import VAEEstimator


LENGTHS = (3000, 8000, 20_000)  # steps of training to choose from
HIDDEN = 0.1  # share of the known entries that are hidden for that
FEW_HIDDEN = 50  # entries below which they cannot tell
WORSE = 1.05  # of the least error: longer trainings are then not tried


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, VAEEstimator):
    """Fills in missing entries by a VAE that was trained on what is known of incomplete rows, without filling them.

    Known entries come back as they were.

    References:
        Mattei and Frellsen, MIWAE: deep generative modelling and imputation of incomplete data sets, 2019.

    Args:
        members: Models from different seeds, of whose even mixture all is said: its guesses are better than those of one
            model, and its intervals also tell where the models disagree.
        summary: "mean", best for squared errors, or "median", for absolute ones; categories become the likeliest level.
        samples: Draws of z for each row, from each model.
        steps: Of training. Some tables are filled best after a short training and others after a long one. None: a
            tenth of the known entries is hidden, and one model each is trained for 3000, 8000 and 20,000 steps, until
            that fills these entries clearly worse; the best is taken. Where fewer than 50 would be hidden, it is 3000.
        latent, config, random_state, verbose: See `VAEEstimator`; None: as in the recipe `imputation`.

    Attributes:
        run_: The run of the first member.
        steps_: Steps of training.
        errors_: For each number of steps that was tried, the error at the hidden entries: the mean over them of squared
            errors in units of their column's variance, and of 1 for each wrong category; 1 is what means would have.
            Empty where nothing was tried.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> rows = load_iris().data
        >>> rows[::3, 2] = np.nan
        >>> imputer = VAEImputer(steps=50).fit(rows)
        >>> bool(np.isnan(imputer.transform(rows)).any()), len(imputer.sample(rows, 5))
        (False, 5)
    """

    def __init__(
        self,
        *,
        members: int = 5,
        summary: str = "mean",
        samples: int = 1000,
        latent: int | None = None,
        steps: int | None = None,
        config: Any = None,
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(latent=latent, steps=steps, config=config, random_state=random_state, verbose=verbose)
        self.members = members
        self.summary = summary
        self.samples = samples

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _settings(self) -> dict[str, Any]:
        return dict(RECIPES["imputation-mixed" if self._worded else "imputation"].settings)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains on rows X [n, D], an array or a data frame, NaN or None where an entry is missing; y is not read."""
        whole("members", self.members)
        whole("samples", self.samples)
        check_summary(self.summary)
        rows = self._read(X, fitting=True, least=2)
        self.steps_, self.errors_ = self._length(rows)
        return self._trained(rows, self.steps_, self.members)

    def _trained(self, rows: Any, steps: int, members: int) -> Self:
        """Fitted for so many steps, with one evaluation at the end whatever the steps: see the recipe."""
        return self._fit_runs(rows, members, train={"steps": steps, "evaluate_every": steps})

    def _length(self, rows: Any) -> tuple[int, dict[int, float]]:
        """How many steps to train for, and the errors at hidden entries that say so."""
        if given := self.steps or (self.config or {}).get("train", {}).get("steps"):
            return given, {}
        coins = np.random.default_rng(derive(self._seed(), "hidden entries"))
        gone = _known(rows) & (coins.random(rows.shape) < HIDDEN)
        errors: dict[int, float] = {}
        for steps in LENGTHS if gone.sum() >= FEW_HIDDEN else ():
            filled = self._trained(_without(rows, gone), steps, 1)._imputed(_without(rows, gone)).rows
            errors[steps] = _error(rows, filled, gone)
            if errors[steps] > WORSE * min(errors.values()):
                break
        return min(errors, key=errors.__getitem__, default=LENGTHS[0]), errors

    def transform(self, X: Any) -> Any:
        """Rows X [n, D] with the best guess for each missing entry, of the type that was given."""
        return self._imputed(X).rows

    def sample(self, X: Any, draws: int = 20) -> list[Any]:
        """Complete tables drawn at random: their spread is how uncertain the guess is, whatever is computed of them."""
        return list(self._imputed(X, draws=draws).draws)

    def interval(self, X: Any, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Ends of an interval of that probability for each missing number, [n, D] each; NaN elsewhere."""
        found = self._imputed(X, interval=level)
        assert found.lower is not None and found.upper is not None
        return found.lower, found.upper

    def effective_samples(self, X: Any) -> np.ndarray:
        """How many draws of z count for each row, of `members * samples` at most, [n]; NaN for complete rows."""
        return self._imputed(X).ess

    def _imputed(self, X: Any, **wanted: Any) -> Imputation:
        check_is_fitted(self, "runs_")
        fixed: dict[str, Any] = {"samples": self.samples, "summary": self.summary, "seed": self._seed()}
        return impute([kept.run for kept in self.runs_], self._read(X), **fixed, **wanted)


def _known(rows: Any) -> np.ndarray:
    """Which entries are not missing, bool [n, D]."""
    return np.asarray(rows.notna() if hasattr(rows, "notna") else ~np.isnan(rows))


def _without(rows: Any, gone: np.ndarray) -> Any:
    """A copy of rows with some of their entries missing."""
    if not hasattr(rows, "iloc"):
        return np.where(gone, np.nan, rows)
    out = rows.copy()
    for at in range(rows.shape[1]):
        column = rows.iloc[:, at]
        as_numbers = column.dtype.kind in "iuf"
        kept = column.astype(np.float64 if as_numbers else object)
        out.isetitem(at, kept.where(~gone[:, at], np.nan if as_numbers else None))
    return out


def _error(truth: Any, filled: Any, gone: np.ndarray) -> float:
    """The mean error at entries, as `VAEImputer.errors_` says."""
    errors = []
    for at in range(truth.shape[1]):
        own, found = (rows.iloc[:, at] if hasattr(rows, "iloc") else rows[:, at] for rows in (truth, filled))
        if own.dtype.kind in "iuf":
            errors.append((np.asarray(found, float) - own)[gone[:, at]] ** 2 / (np.nanvar(own) or 1.0))
        else:
            errors.append(np.asarray(own != found)[gone[:, at]])
    return float(np.concatenate(errors).mean())
