"""Parts by name: what each is, what it offers to the others and what it needs of them, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import nn

from ..core.config import Config, LikelihoodConfig
from ..core.facts import Facts, Shape
from ..core.tables import pick
from ..distributions.likelihoods import LIKELIHOODS, Gaussian, Likelihood
from ..distributions.normal import NORMAL
from ..distributions.posteriors import GaussianPosterior
from ..distributions.priors import StandardNormalPrior
from ..nets.conv import ConvDecoder, ConvEncoder
from ..nets.mlp import MLP

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


POSTERIORS: dict[str, PosteriorKind] = {
    "diagonal": PosteriorKind("normal, independent dimensions", _gaussian, NORMAL | {"diagonal"}),
    "full": PosteriorKind("normal, full covariance", _gaussian, NORMAL),
}
PRIORS: dict[str, PriorKind] = {
    "standard": PriorKind(
        "standard normal",
        lambda plan, encoder: StandardNormalPrior(plan.latent),
        frozenset({"euclidean"}),
        frozenset({"fixed", "factorised"}),
    ),
}
ENCODERS: dict[str, Callable[[Plan, Shape], nn.Module]] = {
    "linear": lambda plan, shape: MLP(prod(shape)),
    "mlp": lambda plan, shape: MLP(prod(shape), plan.config.model.hidden, **plan.style),
    "conv": lambda plan, shape: ConvEncoder(shape, plan.config.model.channels, **plan.style),
}
# A decoder network reads z, and what is given beside it, as one vector of that many entries.
DECODERS: dict[str, Callable[[Plan, int, Shape], nn.Module]] = {
    "linear": lambda plan, inputs, shape: MLP(inputs, (), prod(shape)),
    "mlp": lambda plan, inputs, shape: MLP(inputs, mirrored(plan.config), prod(shape), **plan.style),
    "conv": lambda plan, inputs, shape: ConvDecoder(inputs, plan.config.model.channels, shape, **plan.style),
}
LIKELIHOOD_BUILDERS: dict[str, Callable[[LikelihoodConfig, Facts], Likelihood]] = {
    **{name: lambda config, facts, kind=kind: kind() for name, kind in LIKELIHOODS.items()},  # type: ignore[misc]
    "gaussian": lambda config, facts: Gaussian(config.noise, config.sigma),
}


def build_likelihood(config: LikelihoodConfig, facts: Facts | None = None) -> Likelihood:
    """The likelihood that a config describes."""
    return pick(LIKELIHOOD_BUILDERS, config.name, "likelihood.name")(config, facts or Facts(()))


def mirrored(config: Config) -> tuple[int, ...]:
    """Widths of the decoder's hidden layers."""
    model = config.model
    return model.decoder_hidden if model.decoder_hidden is not None else tuple(reversed(model.hidden))
