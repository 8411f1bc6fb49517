"""Penalties on decoded rows: distances between features of a user's network, and a critic of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.output import VAEOutput
from ..distributions.normal import full_precision
from ..nets.conv import ConvEncoder
from ..nets.mlp import MLP
from .critic import Critic
from .penalised import Charge, Penalty

LEAST_SIDE = 8  # pixels, of an image that the critic's two convolutions have something to look at


class Perceptual(Penalty):
    r"""Squared distance between features of a row and of its reconstruction, the likelihood's mean.

    .. math:: \sum_f |f(x) - f(E[x|z])|^2

    The features' scale is theirs, so the weight is in nats per unit of that distance. It acts on means, which no
    likelihood is a function of alone: with it the loss is a bound no more, while held-out bounds leave it out.

    Reference: Hou, Shen, Sun and Qiu, Deep Feature Consistent Variational Autoencoder, 2017.

    Args:
        features: From rows [N, ...] on the model's scale to a tensor [N, ...] or several; a copy of it is kept, in the
            mode of evaluation and without gradients of its own.
    """

    name = "perceptual"

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = deepcopy(features).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Perceptual:
        """The features stay in the mode of evaluation."""
        self.training = mode
        return self

    def forward(self, output: VAEOutput) -> Charge:
        """The mean over the K samples of each row's distance."""
        mean = output.likelihood.mean
        pairs = zip(_several(self.features(output.x)), _several(self.features(mean.flatten(0, 1))), strict=True)
        distances = [_squares(seen, decoded.unflatten(0, mean.shape[:2])) for seen, decoded in pairs]
        return Charge(sum(distances[1:], distances[0]).mean(0))


def _several(found: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def _squares(seen: Tensor, decoded: Tensor) -> Tensor:
    """Squared distances, [K, B], of [B, ...] from [K, B, ...]."""
    return (full_precision(decoded) - full_precision(seen)).square().flatten(2).sum(-1)


class RowCritic(Penalty):
    r"""A critic that tells rows from their reconstructions, the likelihood's means; these are charged -log D.

    Reconstructions grow sharper, and the loss is no bound any more: what the decoder gains with the critic it loses in
    likelihood, which the held-out bound, free of this term, shows. The critic is a second player of the same step; its
    loss is shown in nats, log 2 where it can tell nothing. Rows of zeros and ones are told from any mean at a glance,
    so the term is for gray or real ones.

    Reference: Larsen, Sønderby, Larochelle and Winther, Autoencoding beyond Pixels Using a Learned Similarity Metric,
    2016.

    Args:
        net: From rows [N, ...] on the model's scale to one logit, [N, 1].
    """

    name = "adversarial"

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.critic = Critic(net)

    def forward(self, output: VAEOutput) -> Charge:
        """What each row's reconstructions are charged, and the critic's own loss."""
        mean = output.likelihood.mean
        decoded = mean.flatten(0, 1)
        charged = F.softplus(-self.critic.judged(decoded)).view(mean.shape[:2])
        player = self.critic.loss(output.x.to(mean.dtype).view(len(output.x), *mean.shape[2:]), decoded)
        return Charge(charged.mean(0), player, {"row_critic": player.detach().expand(len(output.x))})


def row_net(shape: Sequence[int]) -> nn.Module:
    """A network from rows of a shape to one logit: convolutions for images, else fully connected layers.

    A layer's units are normalised, since rows may be counts.
    """
    if len(shape) == 3 and min(shape[1:]) >= LEAST_SIDE:
        return ConvEncoder(shape, (32, 64), 1, activation="silu", norm="layer")
    return MLP(prod(shape), (256, 256), 1, activation="silu", norm="layer")
