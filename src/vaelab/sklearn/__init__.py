"""Estimators for scikit-learn: in pipelines, searches, pickles and clones, on the product's own training loop."""

from .anomaly import VAEAnomalyDetector
from .density import VAEDensity
from .embedder import VAEEmbedder
from .imputer import VAEImputer

__all__ = ["VAEAnomalyDetector", "VAEDensity", "VAEEmbedder", "VAEImputer"]
