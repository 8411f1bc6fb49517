"""`VAEImputer`: missing entries filled in, with draws and intervals."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..core.errors import whole
from ..recipes import RECIPES
from ..use.imputing import Imputation, check_summary, impute
from .base import VAEEstimator


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
        latent, steps, config, random_state, verbose: See `VAEEstimator`; None: as in the recipe `imputation`.

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
        if self._worded:
            return dict(RECIPES["imputation-mixed"].settings)
        own = RECIPES["imputation"].settings
        # One evaluation, at the end, whatever the steps: see the recipe.
        return {**own, "train": {**own["train"], "evaluate_every": self.steps or own["train"]["steps"]}}

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains on rows X [n, D], an array or a data frame, NaN or None where an entry is missing; y is not read."""
        whole("members", self.members)
        whole("samples", self.samples)
        check_summary(self.summary)
        return self._fit_runs(self._read(X, fitting=True, least=2), self.members)

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
