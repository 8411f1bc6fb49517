"""`VAEDensity`: log p(x) of rows, and rows drawn from p(x)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state

from ..core.errors import whole
from ..use.scoring import score
from .base import VAEEstimator


class VAEDensity(DensityMixin, VAEEstimator):
    """Estimates log p(x) by the importance-weighted bound of a VAE, in nats on the data's own scale.

    Reference: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016.

    Args:
        samples: Draws of z for each row; more make the bound tighter.
        latent, steps, config, random_state, verbose: See `VAEEstimator`.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> rows = load_iris().data
        >>> density = VAEDensity(steps=50).fit(rows)
        >>> density.score_samples(rows).shape, density.sample(3).shape
        ((150,), (3, 4))
    """

    def __init__(
        self,
        *,
        samples: int = 100,
        latent: int | None = None,
        steps: int | None = None,
        config: Any = None,
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(latent=latent, steps=steps, config=config, random_state=random_state, verbose=verbose)
        self.samples = samples

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains on rows X [n, D], an array or a data frame; y is not read."""
        whole("samples", self.samples)
        return self._fit_runs(self._read(X, fitting=True, least=2))

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) in nats of each row of X [n, D], [n]; higher is likelier. In expectation a lower bound."""
        return -score(self.run_, self._read(X), samples=self.samples).values

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`, so that a search over settings finds the likeliest model of held-out rows."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Rows drawn from p(x), [n_samples, D]; None: with the estimator's own seed.

        A data frame where it was fitted on one, whose columns that the model left out hold nothing.
        """
        seed = self._seed() if random_state is None else int(check_random_state(random_state).randint(2**31))
        rows = self.run_.sample(n_samples, seed=seed, noisy=True)
        if self._columns is None:
            return rows
        import pandas

        own = list(map(str, self._columns))
        drawn = pandas.DataFrame(rows, columns=list(self.run_.spec.columns) if self._worded else own).infer_objects()
        return drawn.reindex(columns=own).set_axis(self._columns, axis=1)
