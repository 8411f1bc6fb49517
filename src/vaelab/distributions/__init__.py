"""Conditional distributions: modules whose forward returns an object that knows its own mathematics."""

from .code_posteriors import GumbelPosterior, QuantisedPosterior
from .code_sequence import AutoregressivePrior
from .codes import UniformCodePrior
from .counts import Multinomial, NegativeBinomial, ZeroInflatedNegativeBinomial
from .delta import DeltaPosterior
from .flows import FlowPosterior, FlowPrior
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
from .mixtures import MixturePrior
from .normal import DiagonalNormal, Distribution, FullNormal, StandardNormal
from .observations import Observation
from .posteriors import GaussianPosterior
from .priors import StandardNormalPrior
from .pseudo import ExemplarPrior, VampPrior
from .quantize import GridBook, LearnedBook, VectorBook
from .sequence import SequenceDecoder, Tokens
from .sphere import UniformSpherePrior, VonMisesFisherPosterior

__all__ = [
    "LIKELIHOODS",
    "AutoregressivePrior",
    "Bernoulli",
    "BetaBinomial",
    "Categorical",
    "ContinuousBernoulli",
    "Decoder",
    "DeltaPosterior",
    "DiagonalNormal",
    "Distribution",
    "ExemplarPrior",
    "FlowPosterior",
    "FlowPrior",
    "FullNormal",
    "Gaussian",
    "GaussianPosterior",
    "GridBook",
    "GumbelPosterior",
    "Laplace",
    "LearnedBook",
    "Likelihood",
    "LogisticMixture",
    "MixturePrior",
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
    "UniformSpherePrior",
    "VampPrior",
    "VectorBook",
    "VonMisesFisherPosterior",
    "ZeroInflatedNegativeBinomial",
    "as_distribution",
    "divergence",
]

LIKELIHOODS["tokens"] = Tokens
