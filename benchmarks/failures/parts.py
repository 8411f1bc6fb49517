"""Models of one's own that go wrong, and data sets, for the gallery of failures."""

from __future__ import annotations

import os
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from torch import Tensor, nn

import vaelab
from vaelab.core.output import VAEOutput
from vaelab.distributions.kl import divergence
from vaelab.distributions.likelihoods import Bernoulli, Decoder, Gaussian, Likelihood
from vaelab.distributions.normal import DiagonalNormal
from vaelab.models.vae import Model

SHARED = Path(os.environ.get("VAELAB_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


@cache
def mnist(rows: int = 3000) -> np.ndarray:
    """The first MNIST images, gray levels 0 to 255, [rows, 28, 28]."""
    return np.load(SHARED / "mnist.npz")["x_train"][:rows]


@cache
def binary_mnist(rows: int = 3000) -> np.ndarray:
    """The same as zeros and ones, float32."""
    return (mnist(rows) > 127).astype(np.float32)


@cache
def omniglot(rows: int = 3000) -> np.ndarray:
    """Omniglot characters as zeros and ones, float32."""
    return (np.load(SHARED / "omniglot28.npz")["x_train"][::5][:rows] > 127).astype(np.float32)


@cache
def digits() -> np.ndarray:
    """Digits of 8 x 8 pixels in [0, 1], float32."""
    return (load_digits().images / 16).astype(np.float32)


@cache
def binary_digits() -> np.ndarray:
    """The same as zeros and ones."""
    return (digits() > 0.5).astype(np.float32)


@cache
def table(name: str) -> np.ndarray:
    """A table of numbers: wine, cancer, or one of the anomaly-detection tables by its file's name."""
    known = {"wine": load_wine, "cancer": load_breast_cancer}
    return known[name]().data if name in known else np.load(SHARED / "adbench" / f"{name}.npz")["X"][:5000]


def mlp(*widths: int, activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    """Linear layers of these widths with an activation between them; images are flattened."""
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


def vae(entries: int, latent: int = 8, likelihood: Any = "bernoulli", **parts: nn.Module) -> vaelab.VAE:
    """A small model, with some parts replaced."""
    torch.manual_seed(0)
    encoder = parts.get("encoder", mlp(entries, 128, 2 * latent))
    decoder = parts.get("decoder", mlp(latent, 128, entries))
    return vaelab.VAE(encoder, decoder, likelihood=likelihood, latent=latent)


class Reading(Model):
    """A decoder that reads the row it models: each entry's logit sees all entries before it, and z.

    Masks let unit k see entries up to its degree only, and entry d only units of a lower degree, so that the bound is
    one; the row explains itself and z is not needed. Reference: Germain, Gregor, Murray, Larochelle, MADE, 2015.
    """

    def __init__(self, entries: int, latent: int, hidden: int = 256) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.latent, self.noise_size = latent, latent
        self.encoder = mlp(entries, 128, 2 * latent)
        self.from_z, self.inner, self.outer = (
            nn.Linear(latent, entries),
            nn.Linear(entries, hidden),
            nn.Linear(hidden, entries),
        )
        degree, place = torch.arange(hidden) % (entries - 1), torch.arange(entries)
        self.register_buffer("sees", (degree[:, None] >= place).float())
        self.register_buffer("seen", (place[:, None] > degree).float())
        self.prior = vaelab.distributions.StandardNormalPrior(latent)
        self.decoder = Decoder(self.from_z, Bernoulli())

    def encode(self, x: Tensor) -> DiagonalNormal:
        mean, log_variance = self.encoder(x).chunk(2, -1)
        return DiagonalNormal(mean, 0.5 * log_variance)

    def prior_distribution(self) -> Any:
        return self.prior()

    def decode(self, z: Tensor) -> Any:
        return self.decoder(z)

    def draw(self, x: Tensor, samples: int = 1, noise: Tensor | None = None) -> VAEOutput:
        posterior, prior = self.encode(x), self.prior()
        z = posterior.rsample(samples, noise)
        inner = nn.functional.silu(nn.functional.linear(x.flatten(1), self.inner.weight * self.sees, self.inner.bias))
        row = nn.functional.linear(inner, self.outer.weight * self.seen, self.outer.bias)
        logits = 0.3 * self.from_z(z) + row
        likelihood = Bernoulli()(logits.reshape(*z.shape[:2], 1, *x.shape[1:]))
        kl, exact = divergence(posterior, prior, z)
        return VAEOutput(
            x=x, z=z, log_px=likelihood.log_prob(x), kl=kl, kl_is_exact=exact, posterior=posterior, prior=prior,
            likelihood=likelihood,
        )  # fmt: skip


class Bounded(nn.Module):
    """An encoder whose mean is a steep tanh, so that codes sit at the corners of a box."""

    def __init__(self, entries: int, latent: int) -> None:
        super().__init__()
        self.net, self.latent_size = mlp(entries, 128, 2 * latent), latent

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.net(x).chunk(2, -1)
        return torch.cat([1.5 * torch.tanh(200 * mean), log_variance - 4], -1)


class Shifted(nn.Module):
    """A network whose output is moved and stretched, as a wrong unit or a bad start would."""

    def __init__(self, net: nn.Module, times: float = 1.0, plus: Tensor | float = 0.0) -> None:
        super().__init__()
        self.net, self.times, self.plus = net, times, plus

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.times + self.plus


def dead_encoder(entries: int, latent: int) -> nn.Sequential:
    """An encoder whose rectified units are off for every row."""
    net = mlp(entries, 128, 2 * latent, activation=nn.ReLU)
    nn.init.constant_(net[1].bias, -100.0)
    return net


def dead_decoder(entries: int, latent: int) -> nn.Sequential:
    """A decoder whose rectified units are off for every code."""
    net = mlp(latent, 128, entries, activation=nn.ReLU)
    nn.init.constant_(net[1].bias, -100.0)
    return net


def frozen(module: nn.Module) -> nn.Module:
    """A module whose parameters do not train."""
    return module.requires_grad_(False)


def own_gaussian(sigma: float) -> Likelihood:
    """A Gaussian of fixed noise."""
    return Gaussian("fixed", sigma)
