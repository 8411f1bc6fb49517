"""The networks in plain PyTorch: an encoder from rows to the parameters of q(z|x), and a decoder from z to logits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from harness import CHANNELS, WIDTHS
from torch import Tensor, nn

SMALLEST = 1e-8


def mlp(latent: int) -> tuple[nn.Module, nn.Module]:
    """784-512-256-128-64-2L and the mirror from L."""
    return _dense([784, *WIDTHS, 2 * latent]), _dense([latent, *reversed(WIDTHS), 784])


def _dense(widths: list[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def conv(latent: int) -> tuple[nn.Module, nn.Module]:
    """Three blocks of 4 x 4 kernels with stride 2, 28-14-7-3 pixels, and the mirror."""
    narrow, middle, wide = CHANNELS
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, narrow, 4, 2, 1), nn.SiLU()),
        *(nn.Conv2d(narrow, middle, 4, 2, 1), nn.SiLU()),
        *(nn.Conv2d(middle, wide, 4, 2, 1), nn.SiLU()),
        *(nn.Flatten(), nn.Linear(9 * wide, 2 * latent)),
    )
    decoder = nn.Sequential(
        *(nn.Linear(latent, 9 * wide), nn.Unflatten(1, (wide, 3, 3)), nn.SiLU()),
        *(nn.ConvTranspose2d(wide, middle, 4, 2, 1, output_padding=1), nn.SiLU()),
        *(nn.ConvTranspose2d(middle, narrow, 4, 2, 1), nn.SiLU()),
        *(nn.ConvTranspose2d(narrow, 1, 4, 2, 1), nn.Flatten()),
    )
    return encoder, decoder


NETWORKS: dict[str, Callable[[int], tuple[nn.Module, nn.Module]]] = {"mlp": mlp, "conv": conv}


class Network(nn.Module):
    """A VAE with a diagonal normal posterior, its deviation a softplus, and Bernoulli pixels.

    Args:
        name: A name of `NETWORKS`.
        latent: Dimensions of z.
    """

    def __init__(self, name: str, latent: int) -> None:
        super().__init__()
        self.encoder, self.decoder = NETWORKS[name](latent)

    @property
    def size(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.numel() for parameter in self.parameters())

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of q(z|x), [B, L]."""
        mean, raw = self.encoder(x).chunk(2, -1)
        return mean, F.softplus(raw) + SMALLEST

    def loss(self, x: Tensor) -> Tensor:
        """The negative bound at beta = 1 with one sample, nats per sample."""
        mean, std = self.posterior(x)
        z = torch.addcmul(mean, std, torch.randn_like(mean))
        nats = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return (nats + 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum()) / len(x)

    @torch.no_grad()
    def test_loss(self, rows: np.ndarray) -> float:
        """The mean of the loss over rows [N, 784] in [0, 1]."""
        return sum(self.loss(part).item() * len(part) for part in torch.from_numpy(rows).split(1000)) / len(rows)
