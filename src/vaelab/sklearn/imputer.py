"""`VAEImputer`: missing entries filled in, with draws and intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..core.errors import whole
from ..core.seeds import derive
from ..data.tables import listed
from ..recipes import RECIPES
from ..use.imputing import Imputation, check_summary, impute
from .base import KeptRun, VAEEstimator
from .hidden import FEW_HIDDEN, error, known, without

LENGTHS = (3000, 8000, 20_000)  # steps of training to choose from
WORDED_LENGTHS = (1500, 5000)  # and for data frames with words, whose steps take longer
HIDDEN = 0.1  # share of the known entries that are hidden for that
NEVER = 10**9  # steps between evaluations, of which one at the end is left
LEAST_KNOWN = 20  # entries of a column below which none of it is hidden
WORSE = 1.05  # times the least error: longer trainings are then not tried


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, VAEEstimator):
    """Fills in missing entries by a VAE that was trained on what is known of incomplete rows, without filling them.

    Known entries come back as they were.

    References:
        Mattei and Frellsen, MIWAE: deep generative modelling and imputation of incomplete data sets, 2019.

    Args:
        members: Models from different seeds, of whose even mixture all is said: its guesses are better than those of
            one model, and its intervals also tell where the models disagree.
        summary: "mean", best for squared errors, or "median", for absolute ones; categories become the likeliest level
            (numbers that are modelled as levels, where they are more than ten, the level nearest the mean).
        samples: Draws of z for each row, from each model.
        steps: Of training. Some tables are filled best after a short training and others after a long one. None: a
            tenth of the known entries is hidden, and one model each is trained for 3000, 8000 and 20,000 steps (1500
            and 5000 for data frames with words), until the error at these entries is more than 1.05 times the least.
            Of several members the longest training before that is taken, since their mixture evens out much of what
            each of them learned by heart; of one, the best. Where fewer than 50 would be hidden, or config sets
            `data.mask_model`, it is the first.
        latent, config, random_state, verbose: See `VAEEstimator`; None: as in the recipe `imputation`.

    Attributes:
        run_: The run of the first member.
        steps_: Steps of training; None where config gives epochs.
        errors_: For each number of steps that was tried, the error at the hidden entries: the mean over them of squared
            errors in units of their column's variance, of which means would have 1, and of 1 for each wrong level of a
            category. Empty where nothing was tried, or too few were hidden in columns that the models read.

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
        self._fit_runs(rows, self.members, **_steps(self.steps_))
        return self

    def _length(self, rows: Any) -> tuple[int | None, dict[int, float]]:
        """How many steps to train for, None where the config says epochs, and the errors at hidden entries."""
        train = dict((self.config or {}).get("train", {}))
        if given := train.get("steps", self.steps) or train.get("epochs"):
            return (None if "epochs" in train else given), {}
        lengths = WORDED_LENGTHS if self._worded else LENGTHS
        gone, errors = self._hidden(rows), dict[int, float]()
        for steps in lengths if gone.sum() >= FEW_HIDDEN else ():
            holed = without(rows, gone)
            kept = self._trained(holed, **_steps(steps))
            found = error(kept[0].run, rows, self._filled(kept, holed).rows, gone)
            if math.isnan(found):  # too many were hidden in columns that no model reads
                break
            errors[steps] = found
            if errors[steps] > WORSE * min(errors.values()):
                break
        most = min(errors.values(), default=math.inf) * (WORSE if self.members > 1 else 1.0)
        return max((steps for steps, found in errors.items() if found <= most), default=lengths[0]), errors

    def _hidden(self, rows: Any) -> np.ndarray:
        """Entries to hide, bool [n, D]: none where a model says why entries are missing, which is not by chance."""
        if (self.config or {}).get("data", {}).get("mask_model", "none") != "none":
            return np.zeros(rows.shape, bool)
        coins = np.random.default_rng(derive(self._seed(), "hidden entries")).random(rows.shape)
        entries = known(rows)
        return entries & (coins < HIDDEN) & (entries.sum(0) >= LEAST_KNOWN)

    def _left_out(self, rows: Any) -> list[str]:
        """Columns of a data frame that have gaps and that the models leave out."""
        if not hasattr(rows, "iloc"):
            return []
        read, gaps = set(self.run_.spec.columns), ~known(rows)
        return [str(name) for at, name in enumerate(rows.columns) if gaps[:, at].any() and str(name) not in read]

    def transform(self, X: Any) -> Any:
        """Rows X [n, D] with the best guess for each missing entry, of the type that was given.

        Columns of a data frame that hold no value, or text that hardly ever repeats, come back as they were, with a
        warning where they have gaps.
        """
        return self._imputed(X).rows

    def sample(self, X: Any, draws: int = 20) -> list[Any]:
        """Complete tables drawn at random: their spread is how uncertain the guess is, whatever is computed of them."""
        return list(self._imputed(X, draws=draws).draws)

    def interval(self, X: Any, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Ends of an interval of that probability for each missing number, arrays [n, D], in the order of X's columns.

        NaN elsewhere, and for categories; numbers with at most ten different values are such.
        """
        found = self._imputed(X, interval=math.nan if level is None else level)
        assert found.lower is not None and found.upper is not None
        return found.lower, found.upper

    def effective_samples(self, X: Any) -> np.ndarray:
        """How many draws of z count for each row, of `members * samples` at most, [n]; NaN for complete rows."""
        return self._imputed(X).ess

    def _imputed(self, X: Any, **wanted: Any) -> Imputation:
        check_is_fitted(self, "runs_")
        rows = self._read(X)
        if left_out := self._left_out(rows):
            warnings.warn(f"no model reads these columns, whose gaps stay: {listed(left_out)}", stacklevel=3)
        return self._filled(self.runs_, rows, **wanted)

    def _filled(self, runs: Sequence[KeptRun], rows: Any, **wanted: Any) -> Imputation:
        fixed: dict[str, Any] = {"samples": self.samples, "summary": self.summary, "seed": self._seed()}
        return impute([kept.run for kept in runs], rows, **fixed, **wanted)


def _steps(steps: int | None) -> dict[str, Any]:
    """Settings to train for so many steps, None: as the config says, and keep the last weights: see the recipe."""
    return {"train": {"steps": steps, "evaluate_every": steps or NEVER}}
