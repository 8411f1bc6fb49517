"""Parts by name: what each is, what it offers to the others and what it needs of them, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import nn

from ..core.config import Config
from ..core.facts import Facts, Shape
from ..core.settings import LikelihoodConfig
from ..core.tables import pick
from ..distributions.code_sequence import AutoregressivePrior
from ..distributions.codes import CODES, UniformCodePrior
from ..distributions.delta import DeltaPosterior
from ..distributions.flows import FlowPosterior, FlowPrior
from ..distributions.heavy_tails import Laplace, StudentT
from ..distributions.later import GaussianMixturePrior
from ..distributions.levels import BetaBinomial, LogisticMixture
from ..distributions.library import Library
from ..distributions.likelihoods import LIKELIHOODS, Categorical, Gaussian, Likelihood
from ..distributions.mixed import Mixed
from ..distributions.mixtures import MixturePrior
from ..distributions.normal import EUCLIDEAN, NORMAL
from ..distributions.pixel import PixelDecoder
from ..distributions.posteriors import GaussianPosterior
from ..distributions.priors import ConditionalNormalPrior, StandardNormalPrior
from ..distributions.pseudo import ExemplarPrior, VampPrior
from ..distributions.sequence import SequenceDecoder, Tokens
from ..distributions.sphere import SPHERE, UniformSpherePrior, VonMisesFisherPosterior
from ..nets.conv import ConvDecoder, ConvEncoder
from ..nets.embedded import Embedded
from ..nets.mlp import MLP
from ..nets.pixel_cnn import PLANES, PixelCNN
from ..nets.recurrent import RecurrentDecoder, RecurrentEncoder
from ..nets.transformer import TransformerDecoder, TransformerEncoder
from .codes import grid_of, gumbel, quantised
from .prepare import centred
from .second_stage import SecondStage

NEGATIVE_BINOMIALS = ("negative_binomial", "zero_inflated_negative_binomial")
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """A model that is being built.

    Args:
        config: Resolved.
        facts: Of the data.
    """

    config: Config
    facts: Facts

    @property
    def latent(self) -> int:
        """Dimensions of z."""
        assert self.config.model.latent, "the config is not resolved"
        return self.config.model.latent

    @property
    def style(self) -> dict[str, Any]:
        """How hidden layers look."""
        model = self.config.model
        return {"activation": model.activation, "norm": model.norm, "dropout": model.dropout}

    @property
    def stack(self) -> dict[str, Any]:
        """Sizes of a recurrent or transformer network."""
        model = self.config.model
        return {"width": model.width, "layers": model.layers, "dropout": model.dropout}

    def given_to(self, part: str) -> int:
        """Entries of the condition that a part reads; 0: it reads none."""
        return self.facts.condition if part in self.config.model.condition_on else 0


@dataclass(frozen=True)
class PosteriorKind:
    """A family of q(z|x).

    Args:
        title: In words.
        build: From a plan, a network to features and their number to a module whose forward gives the posterior.
        offers: Words, see `vaelab.models.fits.WORDS`.
    """

    title: str
    build: Callable[[Plan, nn.Module, int], nn.Module]
    offers: frozenset[str]


@dataclass(frozen=True)
class PriorKind:
    """A family of p(z).

    Args:
        title: In words.
        build: From a plan and the encoder to a module whose forward gives the prior.
        needs: Words that the posterior has to offer.
        offers: Words.
    """

    title: str
    build: Callable[[Plan, Any], nn.Module]
    needs: frozenset[str]
    offers: frozenset[str] = field(default=NOTHING)


def _gaussian(plan: Plan, net: nn.Module, features: int) -> nn.Module:
    model = plan.config.model
    return GaussianPosterior(net, features, plan.latent, model.posterior, model.scale)


def _flow(plan: Plan, net: nn.Module, features: int) -> nn.Module:
    model = plan.config.model
    return FlowPosterior(net, features, plan.latent, model.posterior, model.flow_steps, model.flow_hidden, model.scale)


def _on_sphere(plan: Plan, net: nn.Module, features: int) -> nn.Module:
    return VonMisesFisherPosterior(net, features, plan.latent)


def _vamp(plan: Plan, encoder: Any) -> nn.Module:
    """Pseudo-inputs stay in the range of the rows where the likelihood has one."""
    likelihood = build_likelihood(plan.config.likelihood, plan.facts)
    bounded = not bool(likelihood.holds(torch.full((1, *plan.facts.shape), -1e9)).all())
    return VampPrior(encoder, plan.facts.shape, plan.config.prior.components, bounded, plan.given_to("encoder"))


def _exemplar(plan: Plan, encoder: Any) -> nn.Module:
    return ExemplarPrior(encoder, plan.facts.shape, plan.config.prior.components, plan.given_to("encoder"))


def _normal(plan: Plan, encoder: Any) -> nn.Module:
    """N(0, I), or N(mean(c), deviation(c)²) where the prior reads a condition."""
    if not (given := plan.given_to("prior")):
        return StandardNormalPrior(plan.latent)
    net = MLP(given, plan.config.prior.hidden, **plan.style)
    return ConditionalNormalPrior(net, net.features, plan.latent)


POSTERIORS: dict[str, PosteriorKind] = {
    "diagonal": PosteriorKind("normal, independent dimensions", _gaussian, NORMAL | {"diagonal"}),
    "full": PosteriorKind("normal, full covariance", _gaussian, NORMAL),
    "iaf": PosteriorKind("inverse autoregressive flow of a normal", _flow, EUCLIDEAN),
    "coupling": PosteriorKind("affine coupling flow of a normal", _flow, EUCLIDEAN),
    "spline": PosteriorKind("spline coupling flow of a normal", _flow, EUCLIDEAN),
    "vmf": PosteriorKind("von Mises-Fisher, on the unit sphere", _on_sphere, SPHERE),
    "delta": PosteriorKind(
        "a point, without noise",
        lambda plan, net, features: DeltaPosterior(net, features, plan.latent),
        frozenset({"euclidean"}),
    ),
    "vq": PosteriorKind("the nearest entry of a book of vectors", quantised, CODES),
    "residual_vq": PosteriorKind("entries of several books, each for what the last one left", quantised, CODES),
    "fsq": PosteriorKind("numbers rounded to a few levels", quantised, CODES),
    "gumbel": PosteriorKind("categorical, by Gumbel-softmax", gumbel, CODES),
}
PRIORS: dict[str, PriorKind] = {
    "standard": PriorKind(
        "standard normal",
        _normal,
        frozenset({"euclidean"}),
        frozenset({"fixed", "factorised"}),
    ),
    "mixture": PriorKind(
        "mixture of normals",
        lambda plan, encoder: MixturePrior(plan.latent, plan.config.prior.components),
        EUCLIDEAN,
    ),
    "vamp": PriorKind("mixture of posteriors at learned pseudo-inputs", _vamp, frozenset({"normal"})),
    "exemplar": PriorKind("mixture around the codes of training rows", _exemplar, EUCLIDEAN),
    "flow": PriorKind(
        "masked autoregressive flow of the standard normal",
        lambda plan, encoder: FlowPrior(plan.latent, plan.config.prior.steps, plan.config.prior.hidden),
        EUCLIDEAN,
    ),
    "sphere": PriorKind(
        "uniform on the unit sphere",
        lambda plan, encoder: UniformSpherePrior(plan.latent),
        frozenset({"sphere"}),
        frozenset({"fixed"}),
    ),
    "uniform": PriorKind(
        "every code equally likely",
        lambda plan, encoder: UniformCodePrior(encoder),
        frozenset({"codes"}),
        frozenset({"fixed", "factorised"}),
    ),
}


# What takes the prior's place after training, and what it needs of the posterior.
AFTER: dict[str, PriorKind] = {
    "gmm": PriorKind(
        "mixture of normals with full covariances",
        lambda plan, encoder: GaussianMixturePrior(plan.latent, plan.config.prior.components),
        frozenset({"euclidean"}),
    ),
    "flow": PriorKind(
        "masked autoregressive flow of the standard normal",
        lambda plan, encoder: FlowPrior(plan.latent, plan.config.prior.steps, plan.config.prior.hidden),
        frozenset({"euclidean"}),
    ),
    "two_stage": PriorKind(
        "a second autoencoder over the codes",
        lambda plan, encoder: SecondStage(plan.latent, plan.config.prior.hidden),
        frozenset({"euclidean"}),
    ),
    "autoregressive": PriorKind(
        "one code after the other, by a transformer",
        lambda plan, encoder: AutoregressivePrior(encoder, plan.config.model.width, plan.config.model.layers),
        frozenset({"codes"}),
    ),
}


def _mlp_encoder(plan: Plan, shape: Shape, hidden: tuple[int, ...]) -> nn.Module:
    size, vocabulary = plan.config.model.embedding, plan.facts.vocabulary
    net = MLP(prod(shape) * (size if vocabulary else 1), hidden, **plan.style)
    return Embedded(vocabulary, size, net) if vocabulary else net


def _recurrent(plan: Plan, inputs: int, likelihood: Any) -> nn.Module:
    sizes = plan.facts.vocabulary, likelihood.channels, plan.config.model.embedding
    return _sequence(plan, likelihood, RecurrentDecoder(inputs, *sizes, **plan.stack))


def _transformer(plan: Plan, inputs: int, likelihood: Any) -> nn.Module:
    sizes = plan.facts.shape[0], plan.facts.vocabulary, likelihood.channels
    return _sequence(plan, likelihood, TransformerDecoder(inputs, *sizes, **plan.stack))


def _pixel_cnn(plan: Plan, inputs: int, likelihood: Any) -> nn.Module:
    model, (colours, height, breadth) = plan.config.model, plan.facts.shape
    shape = height, breadth * colours
    planes = DECODERS["mlp"](plan, inputs, (PLANES, *shape))
    size, style = {"layers": model.layers, "width": model.width}, model.activation
    net = PixelCNN(planes, shape, likelihood.channels, **size, activation=style)
    return PixelDecoder(net, likelihood, plan.facts.shape, centred(plan.config.likelihood), model.word_dropout)


def _sequence(plan: Plan, likelihood: Any, net: nn.Module) -> nn.Module:
    return SequenceDecoder(net, likelihood, plan.facts.shape[0], plan.config.model.word_dropout)


ENCODERS: dict[str, Callable[[Plan, Shape], nn.Module]] = {
    "linear": lambda plan, shape: _mlp_encoder(plan, shape, ()),
    "mlp": lambda plan, shape: _mlp_encoder(plan, shape, plan.config.model.hidden),
    "conv": lambda plan, shape: ConvEncoder(shape, plan.config.model.channels, **plan.style),
    "recurrent": lambda plan, shape: RecurrentEncoder(plan.facts.vocabulary, plan.config.model.embedding, **plan.stack),
    "transformer": lambda plan, shape: TransformerEncoder(shape[0], plan.facts.vocabulary, **plan.stack),
}
# A decoder network reads z, and what is given beside it, as one vector of that many entries.
DECODERS: dict[str, Callable[[Plan, int, Shape], nn.Module]] = {
    "linear": lambda plan, inputs, shape: MLP(inputs, (), prod(shape)),
    "mlp": lambda plan, inputs, shape: MLP(inputs, mirrored(plan.config), prod(shape), **plan.style),
    "conv": lambda plan, inputs, shape: ConvDecoder(
        inputs,
        plan.config.model.channels,
        shape,
        raster=inputs == plan.latent and grid_of(plan.config, shape, "conv") is not None,
        **plan.style,
    ),
}
# A decoder that reads its own output is a module of its own, from a plan, the entries it reads and the likelihood.
READERS: dict[str, Callable[[Plan, int, Any], nn.Module]] = {
    "pixel_cnn": _pixel_cnn,
    "recurrent": _recurrent,
    "transformer": _transformer,
}
# What the networks are, in words, as encoders and as decoders.
NETWORKS: dict[str, str] = {
    "linear": "one linear layer",
    "mlp": "fully connected layers: model.hidden",
    "conv": "convolutions over images: model.channels",
    "pixel_cnn": "gated convolutions that draw an image pixel by pixel: model.layers, model.width",
    "recurrent": "gated recurrent units over tokens: model.layers, model.width",
    "transformer": "attention over tokens: model.layers, model.width",
}


def _negative_binomial(config: LikelihoodConfig, facts: Facts) -> Likelihood:
    if not config.shares:
        return LIKELIHOODS[config.name]()
    zeros = config.name.startswith("zero")
    return Library(facts.shape, config.library == "observed", config.dispersion == "column", zeros)


LIKELIHOOD_BUILDERS: dict[str, Callable[[LikelihoodConfig, Facts], Likelihood]] = {
    **{name: lambda config, facts, kind=kind: kind() for name, kind in LIKELIHOODS.items()},  # type: ignore[misc]
    "gaussian": lambda config, facts: Gaussian(config.noise, config.sigma, facts.shape, config.floor),
    "laplace": lambda config, facts: Laplace(config.noise, config.sigma, facts.shape, config.floor),
    "student_t": lambda config, facts: StudentT(config.noise, config.sigma, facts.shape, config.floor),
    "categorical": lambda config, facts: Categorical(config.levels),
    "logistic_mixture": lambda config, facts: LogisticMixture(config.levels, config.components),
    "beta_binomial": lambda config, facts: BetaBinomial(config.levels),
    **dict.fromkeys(NEGATIVE_BINOMIALS, _negative_binomial),
    "mixed": lambda config, facts: Mixed(facts.columns, config.components),
    "tokens": lambda config, facts: Tokens(facts.vocabulary),
}


def build_likelihood(config: LikelihoodConfig, facts: Facts | None = None) -> Likelihood:
    """The likelihood that a config describes."""
    return pick(LIKELIHOOD_BUILDERS, config.name, "likelihood.name")(config, facts or Facts(()))


def mirrored(config: Config) -> tuple[int, ...]:
    """Widths of the decoder's hidden layers."""
    model = config.model
    return model.decoder_hidden if model.decoder_hidden is not None else tuple(reversed(model.hidden))
