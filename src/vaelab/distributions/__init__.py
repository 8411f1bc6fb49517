"""Conditional distributions: modules whose forward returns an object that knows its own mathematics."""

from .code_posteriors import GumbelPosterior, QuantisedPosterior
from .code_sequence import AutoregressivePrior
from .codes import UniformCodePrior
from .counts import Multinomial, NegativeBinomial, ZeroInflatedNegativeBinomial
from .foreign import as_distribution
from .heavy_tails import Laplace, StudentT
from .kl import divergence
from .levels import BetaBinomial, LogisticMixture
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
from .quantize import GridBook, LearnedBook, VectorBook
from .sequence import SequenceDecoder, Tokens

__all__ = [
    "LIKELIHOODS",
    "AutoregressivePrior",
    "Bernoulli",
    "BetaBinomial",
    "Categorical",
    "ContinuousBernoulli",
    "Decoder",
    "DiagonalNormal",
    "Distribution",
    "FullNormal",
    "Gaussian",
    "GaussianPosterior",
    "GridBook",
    "GumbelPosterior",
    "Laplace",
    "LearnedBook",
    "Likelihood",
    "LogisticMixture",
    "Multinomial",
    "NegativeBinomial",
    "Observation",
    "Poisson",
    "QuantisedPosterior",
    "SequenceDecoder",
    "StandardNormal",
    "StandardNormalPrior",
    "StudentT",
    "Tokens",
    "UniformCodePrior",
    "VectorBook",
    "ZeroInflatedNegativeBinomial",
    "as_distribution",
    "divergence",
]

LIKELIHOODS["tokens"] = Tokens
