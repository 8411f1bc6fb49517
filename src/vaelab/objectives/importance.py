"""Importance-weighted bounds on log p(x), and the doubly reparameterised estimator of their gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import TypeVar

import torch
from torch import Tensor

from ..core.errors import BadInput, whole
from ..core.output import Loss, VAEOutput, weighted_bound
from ..distributions.normal import Normal
from ..schedules import Schedule, constant
from .base import loss_of

AnyNormal = TypeVar("AnyNormal", bound=Normal)


class ImportanceWeighted:
    r"""Negative importance-weighted bound, minimised; nats per sample, a mean over the batch.

    .. math:: L = -E\Big[\lambda \frac{1}{K} \sum_k \log w_k + (1 - \lambda) \frac{1}{M} \sum_m
        \log \frac{M}{K} \sum_{k \in m} w_k\Big], \qquad w_k = p(x|z_k) \Big(\frac{p(z_k)}{q(z_k|x)}\Big)^\beta

    over K samples in M groups, M = `outer` and lambda = `mix`. One group and no mixture is IWAE (Burda, Grosse and
    Salakhutdinov, Importance Weighted Autoencoders, 2016); several groups are MIWAE, a mixture is CIWAE (Rainforth et
    al., Tighter Variational Bounds are Not Necessarily Better, 2018). At K = 1 all of them are the ELBO with the
    divergence by Monte Carlo, log q(z|x) - log p(z), even where a closed form is known.

    With beta = 1 this is a bound on log p(x). Another beta tempers the ratio of prior and posterior, as in a warm-up
    (Sønderby et al., Ladder Variational Autoencoders, 2016), and the loss is a bound again when it reaches 1.

    With `doubly` the value is the same, and the gradient is the doubly reparameterised one (Tucker, Lawson, Gu and
    Maddison, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, 2019): the encoder's comes through
    z alone, each sample's weighted by w - beta (w - w²) of its normalised weight w, by the square where beta is 1, and
    that of log q(z|x) in its own parameters is left out, whose part in expectation beta (w - w²) is. It has the same
    expectation and, with more than one sample, a variance that does not drown the signal as K grows. Decoder
    and prior keep the gradient of the bound. Since it is another estimator it is not the derivative of the value at
    fixed noise. It takes one more pass back to z.

    Args:
        samples: Posterior samples per row (K), over all groups.
        outer: Groups that they fall into (M).
        mix: Weight of the ELBO beside the bound, from 0 to 1.
        doubly: Whether the gradient is the doubly reparameterised one; it needs a normal posterior.
        beta: Weight of log p(z) - log q(z|x), a number or a schedule.

    Attributes:
        bound_samples: Samples of a group, K / M.

    Raises:
        BadInput: for groups that the samples do not fill evenly, and for numbers out of range.

    Example:
        >>> ImportanceWeighted(64, outer=8).bound_samples
        8
    """

    bends = False

    def __init__(
        self,
        samples: int = 5,
        *,
        outer: int = 1,
        mix: float = 0.0,
        doubly: bool = False,
        beta: float | Schedule = 1.0,
    ) -> None:
        whole("samples", samples)
        whole("outer", outer)
        if samples % outer:
            fix = f"such as objective.samples={math.ceil(samples / outer) * outer}, or another objective.outer"
            raise BadInput("objective.samples", samples, f"must fall evenly into the {outer} groups of outer", fix)
        if not 0 <= mix <= 1:
            raise BadInput("mix", mix, "must be from 0 to 1")
        if not isinstance(beta, Schedule) and not 0 <= beta < math.inf:
            raise BadInput("beta", beta, "must be a finite number of at least 0")
        self.samples, self.outer, self.mix, self.doubly = samples, outer, mix, doubly
        self.beta = beta if isinstance(beta, Schedule) else constant(float(beta))

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"ImportanceWeighted({settings})"

    @property
    def bound_samples(self) -> int:
        """Samples of the importance-weighted bound: those of a group."""
        return self.samples // self.outer

    @property
    def requires(self) -> frozenset[str]:
        """Words that posterior and prior must offer."""
        return frozenset({"density", "continuous"} | ({"normal"} if self.doubly else set()))

    @property
    def warmup_ends(self) -> int:
        """The first step from which beta no longer moves."""
        return self.beta.ends

    def weights(self, step: int) -> dict[str, float]:
        """The weights in force at a step."""
        return {"beta": self.beta(step)}

    def __call__(self, output: VAEOutput, weights: Mapping[str, float]) -> Loss:
        """The loss of a batch under given weights; its term `negative_bound` is that at beta = 1, [B]."""
        beta = weights["beta"]
        log_qz = stopped(output.posterior).log_prob(output.z) if self.doubly else output.log_qz
        log_w = output.log_px + beta * (output.log_pz - log_qz)
        loss = -self._bound(log_w)
        known = isinstance(beta, float) and beta == 1  # in a stack of models it may be a tensor, one number a model
        shown = loss.detach() if known else -self._bound(output.log_weights.detach())
        total = loss.mean()
        if self.doubly and log_w.requires_grad and output.z.requires_grad:
            surrogate = self._surrogate(log_w, output.z, beta)
            total = surrogate + (total - surrogate).detach()
        return loss_of(total, output, weights, negative_bound=shown)

    def _bound(self, log_w: Tensor) -> Tensor:
        """The bound of each row, [B], from log weights [K, B]."""
        weighted = weighted_bound(log_w, self.bound_samples)
        return weighted if not self.mix else self.mix * log_w.mean(0) + (1 - self.mix) * weighted

    def _surrogate(self, log_w: Tensor, z: Tensor, beta: float) -> Tensor:
        """A scalar whose gradient is the doubly reparameterised estimate.

        Each log weight counts as in the gradient of the bound, `once`; along z it counts `less`, by what the left out
        gradient, beta times that of log q(z|x), is in expectation. The difference is put on z by hand, so that the
        record is left as it was, and whatever else reads z is not touched.

        Args:
            log_w: [K, B], without a gradient in the posterior's own parameters.
            z: [K, B, L].
            beta: The power of the ratio in the weights.
        """
        normalised = log_w.detach().unflatten(0, (self.outer, -1)).softmax(1).flatten(0, 1)
        share = (1 - self.mix) / self.outer
        once = self.mix / len(log_w) + share * normalised
        less = beta * share * (normalised.square() - normalised)
        (slope,) = torch.autograd.grad(log_w.sum(), z, retain_graph=True)
        along_z = (less.unsqueeze(-1) * slope * z).sum()
        return -((once * log_w).sum() + along_z) / log_w.shape[1]


def stopped(posterior: AnyNormal) -> AnyNormal:
    """The same normal distribution with parameters that take no gradient.

    Raises:
        BadInput: for a distribution that is not normal.
    """
    if not isinstance(posterior, Normal):
        rule = "the doubly reparameterised gradient needs a normal posterior"
        raise BadInput("posterior", type(posterior).__name__, rule, "objective.name=iwae takes any density")
    frozen = copy(posterior)
    tensors = {name: value for name, value in vars(posterior).items() if isinstance(value, Tensor)}
    vars(frozen).update({name: value.detach() for name, value in tensors.items()})
    return frozen
