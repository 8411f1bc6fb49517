"""Posteriors q(z|x): modules that turn a batch into a distribution for each of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.tables import pick
from .normal import DiagonalNormal, FullNormal, Normal, full_precision, soft_clamp

LOG_VARIANCE_BOUND = 14.0
START_LOG_VARIANCE = -1.0
SMALLEST_STD = 1e-8


class GaussianPosterior(nn.Module):
    """q(z|x) = N(mean(x), covariance(x)): a network, and one linear layer for all parameters, the mean first.

    The log-variance h is clamped softly, 14 tanh(h / 14): beyond e^±14 (a deviation of a thousandth or a thousand of
    the prior's) nothing is gained, while exp(h) in float32 would overflow at 88 and leave a NaN. The softplus scale is
    log(1 + e^h) + 1e-8. A full covariance adds the entries of its Cholesky factor below the diagonal, in units of the
    diagonal's in the same row.

    Args:
        net: Maps a batch [B, ...] to features [B, features].
        features: Width of the features.
        latent: Dimensions L of z.
        covariance: `diagonal` or `full`.
        scale: `log_variance` or `softplus`: how the deviations (the Cholesky diagonal) follow from the linear layer.

    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, 2014.

    Raises:
        BadInput: for an unknown covariance or scale.

    Example:
        >>> GaussianPosterior(nn.Flatten(), 4, 2)(torch.zeros(5, 4)).mean.shape
        torch.Size([5, 2])
    """

    def __init__(
        self, net: nn.Module, features: int, latent: int, covariance: str = "diagonal", scale: str = "log_variance"
    ) -> None:
        super().__init__()
        self.latent, self.noise_size, self.scale = latent, latent, scale
        self.deviations, _ = pick(SCALES, scale, "model.scale")
        self.build, below = pick(COVARIANCES, covariance, "model.posterior")
        self.net = net
        self.head = nn.Linear(features, 2 * latent + below(latent))

    def start(self) -> None:
        """Begin at a log-variance of -1: a little narrower than the prior, so that z says something from the start."""
        _, begin = SCALES[self.scale]
        with torch.no_grad():
            self.head.bias[self.latent : 2 * self.latent].fill_(begin)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Normal:
        """The posterior of each row of x, [B, ...]; a network that reads a condition [B, C] takes it as well."""
        features = self.net(x) if condition is None else self.net(x, condition)
        parameters = full_precision(self.head(features))
        mean, raw, below = parameters.tensor_split((self.latent, 2 * self.latent), dim=-1)
        return self.build(mean, *self.deviations(raw), below)


def _log_variance(raw: Tensor) -> tuple[Tensor, Tensor]:
    """log σ and σ."""
    log_std = soft_clamp(raw, LOG_VARIANCE_BOUND) * 0.5
    return log_std, log_std.exp()


def _softplus(raw: Tensor) -> tuple[Tensor, Tensor]:
    """log σ and σ."""
    std = F.softplus(raw) + SMALLEST_STD
    return std.log(), std


def _diagonal(mean: Tensor, log_std: Tensor, std: Tensor, below: Tensor) -> DiagonalNormal:
    return DiagonalNormal(mean, log_std, std)


def _full(mean: Tensor, log_std: Tensor, std: Tensor, below: Tensor) -> FullNormal:
    size = mean.shape[-1]
    row, column = torch.tril_indices(size, size, -1, device=mean.device)
    scale_tril = torch.diag_embed(std)
    # In units of the row's own deviation, so that a tiny one does not leave a factor that cannot be inverted.
    scale_tril[:, row, column] = below * std[:, row]
    return FullNormal(mean, scale_tril)


Deviations = Callable[[Tensor], tuple[Tensor, Tensor]]
Build = Callable[[Tensor, Tensor, Tensor, Tensor], Normal]

SCALES: dict[str, tuple[Deviations, float]] = {
    "log_variance": (_log_variance, START_LOG_VARIANCE),
    "softplus": (_softplus, math.log(math.expm1(math.exp(START_LOG_VARIANCE / 2)))),
}
COVARIANCES: dict[str, tuple[Build, Callable[[int], int]]] = {
    "diagonal": (_diagonal, lambda latent: 0),
    "full": (_full, lambda latent: latent * (latent - 1) // 2),
}
