"""`VAEEmbedder`: rows as latent codes."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..core.errors import BadInput
from ..training.run import CHUNK
from ..use.scoring import precise
from .base import VAEEstimator


class VAEEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VAEEstimator):
    """Embeds rows as posterior means of a VAE, and decodes codes to rows.

    Args:
        latent, steps, config, random_state, verbose: See `VAEEstimator`.

    Attributes:
        run_: The run.
        components_count_: Latent dimensions, L.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> VAEEmbedder(latent=2, steps=50).fit_transform(load_iris().data).shape
        (150, 2)
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Trains on rows X [n, D], an array or a data frame; y is not read."""
        return self._fit_runs(self._read(X, fitting=True, least=2))

    @property
    def _n_features_out(self) -> int:
        return self.run_.latent

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means [n, L] of rows X [n, D]."""
        return self.posterior(X)[0]

    def posterior(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of q(z|x), [n, L] each, for rows X [n, D]."""
        rows = self._read(X)
        dtype = rows.dtype if isinstance(rows, np.ndarray) else np.dtype(np.float64)
        model, x = precise(self.run_), self.run_.batch(rows)
        with torch.no_grad():
            found = [model.encode(part.to(torch.float64)) for part in x.split(CHUNK)]
        mean, variance = (torch.cat([getattr(q, name) for q in found]).numpy() for name in ("mean", "variance"))
        return mean.astype(dtype), np.sqrt(variance).astype(dtype)

    def inverse_transform(self, X: Any) -> Any:
        """Rows [n, D] of codes X [n, L]: means of p(x|z)."""
        check_is_fitted(self, "runs_")
        codes = np.asarray(X)
        if codes.ndim != 2 or codes.shape[1] != self._n_features_out:
            raise BadInput("X", f"shape {codes.shape}", f"codes have the shape (n, {self._n_features_out})")
        return self.run_.decode(codes)
