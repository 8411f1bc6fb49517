"""Models by name: tables from the words of a config to constructors."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.config import Config
from ..core.errors import BadInput
from ..core.facts import Facts, Shape
from ..core.seeds import derive
from ..core.tables import pick
from ..distributions.likelihoods import Decoder
from ..nets.init import initialise
from .fits import prior_of
from .parts import DECODERS, ENCODERS, POSTERIORS, PRIORS, Plan, build_likelihood
from .vae import VAE, Model

LEAST_RATE = 1e-2  # counts a row, where a column of the training rows holds none or next to none
LEAST_SPREAD = 1e-6  # of what an encoder of counts sees; below it they are one number
LARGE_IMAGE = 1024  # entries up to which an MLP is as good and, on a CPU, many times as fast


class Prepare(nn.Module):
    """A fixed function in front of an encoder, for data whose numbers are not of the order of one."""

    shift: Tensor
    scale: Tensor

    def __init__(self, function: Callable[[Tensor], Tensor], net: nn.Module) -> None:
        super().__init__()
        self.function, self.net = function, net
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        return self.net((self.function(x) - self.shift) / self.scale, *condition)

    @property
    def features(self) -> int:
        """Width of the network's output."""
        return int(self.net.features)  # type: ignore[arg-type]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Weights that were saved before there were shift and scale have none."""
        for name in ("shift", "scale"):
            state.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state, prefix, *arguments)


# Counts and levels reach the likelihood as they are; a network wants them near one.
PREPARE: dict[str, Callable[[Tensor], Tensor]] = {
    "categorical": lambda x: x / 127.5 - 1,
    "poisson": torch.log1p,
}


def resolve(config: Config, facts: Facts, layout: str) -> Config:
    """The config with every choice that depends on the data made.

    Latent dimensions: half the entries of a row, at most 16; unused ones cost nothing, the bound switches them off.
    """
    model, shape = config.model, facts.shape
    big = layout == "image" and prod(shape) > LARGE_IMAGE and min(shape[1:]) >= 2 ** len(model.channels)
    encoder = model.encoder or ("conv" if big else "mlp")
    latent = model.latent or min(16, max(1, prod(shape) // 2))
    chosen = {"latent": latent, "encoder": encoder, "decoder": model.decoder or encoder}
    return config.updated(model=chosen, prior={"name": prior_of(config)})


def start_at(model: Any, mean: Tensor, std: Tensor) -> None:
    """Starts a model of counts at their mean rates, and centres what its encoder sees; both [D], per entry.

    A log-rate of 4 is else thousands of steps away from 0, and on the way the encoder pushes all codes away from the
    prior to raise all rates at once. The logarithm's mean and deviation are those of its linearisation.
    """
    bias = [module.bias for module in model.decoder.modules() if getattr(module, "bias", None) is not None][-1]
    rate = mean.clamp(min=LEAST_RATE)
    prepare = next(module for module in model.modules() if isinstance(module, Prepare))
    with torch.no_grad():
        bias.copy_((rate if len(rate) == len(bias) else rate.mean()).log())
        prepare.shift.copy_(torch.log1p(mean.mean()))
        spread = (std.square().mean() + mean.var(correction=0)).sqrt() / (1 + mean.mean())
        prepare.scale.copy_(spread if spread > LEAST_SPREAD else torch.ones(()))


def build_model(config: Config, facts: Facts | Shape) -> Model:
    """The model that a resolved config describes, for rows of a shape; its weights follow from the seed.

    Args:
        config: With encoder, decoder, latent size, prior and likelihood all named, as `resolve` leaves it.
        facts: Of the data, or only the shape of a row: [D] for a table's row, [C, H, W] for an image.

    Raises:
        BadInput: for a convolutional network over rows that are no images, or too many blocks for their size.
    """
    plan = Plan(config, facts if isinstance(facts, Facts) else Facts(tuple(facts)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "weights"))
        model = next(build for applies, build in FAMILIES if applies(plan))(plan)
        initialise(model, config.model.init)
        return model


def build_encoder(plan: Plan) -> nn.Module:
    """The encoder network that a plan names, with an attribute `features`."""
    parts, shape = plan.config.model, plan.facts.shape
    assert parts.encoder, "the config is not resolved"
    net = pick(ENCODERS, parts.encoder, "model.encoder")(plan, as_image(shape, parts.encoder, "model.encoder"))
    return Prepare(PREPARE[plan.config.likelihood.name], net) if plan.config.likelihood.name in PREPARE else net


def build_flat(plan: Plan) -> VAE:
    """A model of one encoder, one prior and one decoder."""
    parts, facts = plan.config.model, plan.facts
    assert parts.latent and parts.decoder, "the config is not resolved"
    likelihood = build_likelihood(plan.config.likelihood, facts)
    net: Any = build_encoder(plan)
    encoder = pick(POSTERIORS, parts.posterior, "model.posterior").build(plan, net, net.features)
    prior = pick(PRIORS, prior_of(plan.config), "prior.name").build(plan, encoder)
    wide = widened(as_image(facts.shape, parts.decoder, "model.decoder"), likelihood.channels)
    inputs = parts.latent + plan.given_to("decoder")
    network = pick(DECODERS, parts.decoder, "model.decoder")(plan, inputs, wide)
    condition = parts.condition_on if facts.condition else ()
    return VAE(encoder, Decoder(network, likelihood, facts.shape), prior, latent=parts.latent, condition=condition)


# The first that applies builds the model.
FAMILIES: list[tuple[Callable[[Plan], Any], Callable[[Plan], Model]]] = [
    (lambda plan: True, build_flat),
]


def acquaint(model: Any, rows: Tensor | Batch) -> None:
    """Shows training rows, on the model's scale, to every part with a method `see`, before training starts.

    Pseudo-inputs, exemplars and codebooks begin at them.
    """
    for part in model.modules():
        if callable(see := getattr(part, "see", None)):
            see(rows)


def as_image(shape: Shape, net: str | None, argument: str) -> Shape:
    """The shape that a network is built for; a convolutional one needs images."""
    if net == "conv" and len(shape) != 3:
        rule = f"needs images of shape (channels, height, width), and these rows have shape {shape}"
        raise BadInput(argument, "conv", rule, f"use {argument}=mlp")
    return shape


def widened(shape: Shape, channels: int) -> Shape:
    """The shape of a decoder network's output: `channels` parameters for each entry, first."""
    return (channels * shape[0], *shape[1:])
