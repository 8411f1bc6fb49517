"""Models by name: tables from the words of a config to constructors."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..core.config import Config, LikelihoodConfig, ModelConfig
from ..core.errors import BadInput
from ..core.seeds import derive
from ..distributions.likelihoods import LIKELIHOODS, Decoder, Gaussian, Likelihood
from ..distributions.posteriors import GaussianPosterior
from ..nets.conv import ConvDecoder, ConvEncoder
from ..nets.init import initialise
from ..nets.mlp import MLP
from .vae import VAE

Shape = tuple[int, ...]
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

    def forward(self, x: Tensor) -> Tensor:
        return self.net((self.function(x) - self.shift) / self.scale)

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
ENCODERS: dict[str, Callable[[Shape, ModelConfig, dict[str, Any]], nn.Module]] = {
    "linear": lambda shape, model, style: MLP(prod(shape)),
    "mlp": lambda shape, model, style: MLP(prod(shape), model.hidden, **style),
    "conv": lambda shape, model, style: ConvEncoder(shape, model.channels, **style),
}
DECODERS: dict[str, Callable[[int, Shape, ModelConfig, dict[str, Any]], nn.Module]] = {
    "linear": lambda latent, shape, model, style: MLP(latent, (), prod(shape)),
    "mlp": lambda latent, shape, model, style: MLP(latent, mirrored(model), prod(shape), **style),
    "conv": lambda latent, shape, model, style: ConvDecoder(latent, model.channels, shape, **style),
}


def resolve(config: Config, shape: Shape, layout: str) -> Config:
    """The config with every choice that depends on the data made.

    Latent dimensions: half the entries of a row, at most 16; unused ones cost nothing, the bound switches them off.
    """
    model = config.model
    big = layout == "image" and prod(shape) > LARGE_IMAGE and min(shape[1:]) >= 2 ** len(model.channels)
    encoder = model.encoder or ("conv" if big else "mlp")
    latent = model.latent or min(16, max(1, prod(shape) // 2))
    return config.updated(model={"latent": latent, "encoder": encoder, "decoder": model.decoder or encoder})


def mirrored(model: ModelConfig) -> tuple[int, ...]:
    """Widths of the decoder's hidden layers."""
    return model.decoder_hidden if model.decoder_hidden is not None else tuple(reversed(model.hidden))


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


def build_likelihood(config: LikelihoodConfig) -> Likelihood:
    """The likelihood that a config describes."""
    kind = LIKELIHOODS[config.name]
    return Gaussian(config.noise, config.sigma) if kind is Gaussian else kind()


def build_model(config: Config, shape: Shape) -> VAE:
    """The model that a resolved config describes, for rows of a shape; its weights follow from the seed.

    Args:
        config: With encoder, decoder, latent size and likelihood all named, as `resolve` leaves it.
        shape: [D] for a table's row, [C, H, W] for an image.

    Raises:
        BadInput: for a convolutional network over rows that are no images, or too many blocks for their size.
    """
    parts = config.model
    assert parts.latent and parts.encoder and parts.decoder, "the config is not resolved"
    style = {"activation": parts.activation, "norm": parts.norm, "dropout": parts.dropout}
    likelihood = build_likelihood(config.likelihood)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "weights"))
        net: Any = ENCODERS[parts.encoder](as_image(shape, parts.encoder, "model.encoder"), parts, style)
        features = net.features
        if config.likelihood.name in PREPARE:
            net = Prepare(PREPARE[config.likelihood.name], net)
        encoder = GaussianPosterior(net, features, parts.latent, parts.posterior, parts.scale)
        wide = widened(as_image(shape, parts.decoder, "model.decoder"), likelihood.channels)
        decoder = Decoder(DECODERS[parts.decoder](parts.latent, wide, parts, style), likelihood, shape)
        model = VAE(encoder, decoder)
        initialise(model, parts.init)
        return model


def as_image(shape: Shape, net: str | None, argument: str) -> Shape:
    """The shape that a network is built for; a convolutional one needs images."""
    if net == "conv" and len(shape) != 3:
        rule = f"needs images of shape (channels, height, width), and these rows have shape {shape}"
        raise BadInput(argument, "conv", rule, f"use {argument}=mlp")
    return shape


def widened(shape: Shape, channels: int) -> Shape:
    """The shape of a decoder network's output: `channels` parameters for each entry, first."""
    return (channels * shape[0], *shape[1:])
