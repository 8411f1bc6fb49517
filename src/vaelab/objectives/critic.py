"""A critic that tells two kinds of vectors or rows apart: the second player of an objective."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributions.normal import full_precision


class Critic(nn.Module):
    r"""A network D to one logit, trained to tell samples of p from samples of r; its optimum is log p / r.

    Goodfellow et al., Generative Adversarial Nets, 2014.

    Args:
        net: From [N, ...] to [N, 1].

    Example:
        >>> Critic(nn.Linear(2, 1)).judged(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def judged(self, given: Tensor) -> Tensor:
        """Logits [N] of what is given, [N, ...]; their gradient reaches what is given and none of our parameters."""
        frozen = {name: value.detach() for name, value in self.net.named_parameters()}
        return full_precision(torch.func.functional_call(self.net, frozen, given).squeeze(-1))

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """The mean cross-entropy in nats of telling `first` (p) from `second` (r); it reaches our parameters alone."""
        logits = full_precision(self.net(torch.cat([first.detach(), second.detach()])).squeeze(-1))
        return 0.5 * (F.softplus(-logits[: len(first)]).mean() + F.softplus(logits[len(first) :]).mean())
