"""Conditional distributions: modules whose forward returns an object that knows its own mathematics."""

from .foreign import as_distribution
from .kl import divergence
from .likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Decoder,
    Gaussian,
    Likelihood,
    Poisson,
)
from .normal import DiagonalNormal, Distribution, FullNormal, StandardNormal
from .observations import Observation
from .posteriors import GaussianPosterior
from .priors import StandardNormalPrior

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Decoder",
    "DiagonalNormal",
    "Distribution",
    "FullNormal",
    "Gaussian",
    "GaussianPosterior",
    "Likelihood",
    "Observation",
    "Poisson",
    "StandardNormal",
    "StandardNormalPrior",
    "as_distribution",
    "divergence",
]
