"""The amortisation gap: what a few gradient steps on a row's own q(z|x) gain over what the encoder gave it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributions.kl import divergence
from ..distributions.normal import DiagonalNormal

LEAST_ROWS, MOST_ROWS, STEPS, RATE = 8, 64, 50, 0.05
SAMPLES, JUDGED = 2, 32  # posterior samples of a step, and those that before and after are compared with


@dataclass(frozen=True)
class Refined:
    """What local optimisation changed.

    Args:
        gain: In the ELBO, nats, [n].
        log_variance: Change of the posterior's log-variance, [n, L].
    """

    gain: np.ndarray
    log_variance: np.ndarray


def refine(model: Any, x: Tensor, rows: int) -> Refined | None:
    """Maximises the ELBO of single rows over the mean and log-variance of q, the decoder held fast.

    A lower bound of the true gap, since the steps are few; noise for judging is not the noise of the steps.

    Reference: Cremer, Li and Duvenaud, Inference Suboptimality in Variational Autoencoders, 2018.

    Args:
        model: In evaluation mode; its gradients are left alone.
        x: Rows as the model sees them, [n, *shape].
        rows: How many of them to take, kept within 8 and 64.
    """
    x = x[: min(max(rows, LEAST_ROWS), MOST_ROWS)]
    start = model.encode(x)
    if type(start) is not DiagonalNormal:
        return None
    prior = model.prior_distribution()
    noise = torch.randn(JUDGED, *start.mean.shape)

    def bound(moved: Tensor, widened: Tensor, noise: Tensor) -> Tensor:
        q = DiagonalNormal(start.mean + start.std * moved, start.log_std + widened)
        z = q.push(noise)
        return model.decode(z).log_prob(x).mean(0) - divergence(q, prior, z)[0].sum(1)

    with torch.enable_grad():
        moved, widened = _ascend(
            lambda change: bound(change[0], change[1], torch.randn(SAMPLES, *start.mean.shape)).sum(),
            torch.zeros(2, *start.mean.shape),
        )
    zero = torch.zeros_like(moved)
    gain = bound(moved, widened, noise) - bound(zero, zero, noise)
    return Refined(gain.double().numpy(), 2 * widened.double().numpy())


def _ascend(value: Callable[[Tensor], Tensor], change: Tensor) -> Tensor:
    """Adam's steps to a higher value; by hand, since importing PyTorch's optimisers takes longer than the steps."""
    first, second = torch.zeros_like(change), torch.zeros_like(change)
    for step in range(1, STEPS + 1):
        change = change.detach().requires_grad_()
        (slope,) = torch.autograd.grad(value(change), change)
        first, second = first.lerp(slope, 0.1), second.lerp(slope.square(), 0.001)
        scale = (second / (1 - 0.999**step)).sqrt() + 1e-8
        change = change.detach() + RATE * first / (1 - 0.9**step) / scale
    return change
