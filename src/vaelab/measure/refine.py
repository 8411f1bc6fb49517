"""The gaps of inference: what better posteriors of single rows gain, within the encoder's family and beyond it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.seeds import seed_global
from ..distributions.normal import DiagonalNormal, FullNormal, Normal
from .baseline import spaced
from .importance import log_mean_exp
from .latent import LatentModel, latent_model

LEAST_ROWS, MOST_ROWS = 8, 64
# Steps that show whether there is a gap, and steps that leave a hundredth of a nat of it where the best q is known in
# closed form and the encoder's is some nats away; the rates of Adam fall along them.
STEPS, MANY_STEPS = 50, 300
QUICK, THOROUGH = tuple(np.geomspace(0.1, 0.01, STEPS)), tuple(np.geomspace(0.1, 0.001, MANY_STEPS))
SAMPLES, JUDGED = 2, 32  # posterior samples of a step, and those that before and after are compared with
WEIGHED = 2000  # those that bound log p(x)
CHUNK_VALUES = 2**22  # numbers of a decoder at once: 16 MiB in float32
MOST_VALUES = 2**16  # of one decoding of all rows whose gaps are sought, at each of some thousands: fewer of large rows


@dataclass(frozen=True)
class Refined:
    """What local optimisation changed.

    Args:
        gain: In the ELBO, nats, [n].
        log_variance: Change of the posterior's log-variance, [n, L].
    """

    gain: np.ndarray
    log_variance: np.ndarray


@dataclass(frozen=True)
class Gaps:
    """log p(x) - ELBO in two parts, in nats for each row, [n].

    Args:
        amortisation: ELBO of the best q of the family minus that of the encoder's: what one network for all rows costs.
        approximation: log p(x) minus ELBO of the best q: what the family costs.
    """

    amortisation: np.ndarray
    approximation: np.ndarray


def refine(model: Any, x: Tensor | Batch, rows: int) -> Refined | None:
    """Maximises the ELBO of single rows over the parameters of q, the decoder held fast.

    A lower bound of the true gap, since the steps are few; noise for judging is not the noise of the steps.

    Reference: Cremer, Li and Duvenaud, Inference Suboptimality in Variational Autoencoders, 2018.

    Args:
        model: In evaluation mode; its gradients are left alone.
        x: Rows as the model sees them, [n, *shape].
        rows: How many of them to take, kept within 8 and 64.

    Returns:
        None for a posterior that is no diagonal or full normal.
    """
    found, x = latent_model(model), x[: min(max(rows, LEAST_ROWS), MOST_ROWS)]
    start = _encoded(found, x)
    if start is None:
        return None
    noise = _opposite(start, JUDGED)
    best = _optimised(found, x, start, QUICK)
    before, after = (_elbo(found, x, q, noise) for q in (start, best))
    return Refined(after - before, (best.variance / start.variance).log().double().numpy())


def inference_gaps(
    model: Any, x: Tensor | Batch, *, samples: int = WEIGHED, rates: Sequence[float] = THOROUGH, seed: int = 0
) -> Gaps | None:
    """The amortisation and the approximation gap of 64 evenly spaced rows; of 8 at least where rows are large.

    The best q of the encoder's family is sought first, and from there on the best normal of any covariance. log p(x) is
    bounded by importance weighting with K draws of each of the three as draws of their mixture, whose weights are at
    most three times those of any of them: a search that went astray spoils no more than its third of the draws. Both
    gaps lean on lower bounds: the amortisation gap is too low by what the steps did not find, the approximation gap too
    high by that, and too low by how loose the bound on log p(x) is, about (3K / ESS - 1) / 6K.

    References: Cremer, Li and Duvenaud, Inference Suboptimality in Variational Autoencoders, 2018; Veach and Guibas,
    Optimally Combining Sampling Techniques for Monte Carlo Rendering, 1995 (the mixture: their balance heuristic).

    Args:
        model: In evaluation mode, on the CPU; its gradients are left alone.
        x: Rows as the model sees them, [n, *shape].
        samples: K of each of the three, an even number.
        rates: Of Adam's steps, for each of the two searches.
        seed: Of all noise; random state is left as it was.

    Returns:
        None for a posterior that is no diagonal or full normal.
    """
    found = latent_model(model)
    x = x[spaced(len(x), min(max(MOST_VALUES // found.width(x), LEAST_ROWS), MOST_ROWS))]
    with torch.random.fork_rng(devices=[]):
        seed_global(seed, "gaps")
        start = _encoded(found, x)
        if start is None:
            return None
        noise = _opposite(start, samples)
        best = _optimised(found, x, start, rates)
        proposal = _optimised(found, x, FullNormal(best.mean, best.scale_tril), rates)
        before, after, log_px = _bounds(found, x, (start, best, proposal), noise)
    return Gaps(after - before, log_px - after)


@torch.no_grad()
def _encoded(model: LatentModel, x: Tensor | Batch) -> DiagonalNormal | FullNormal | None:
    found = model.encode(x)
    return found if isinstance(found, DiagonalNormal | FullNormal) else None


def _opposite(q: Normal, samples: int) -> Tensor:
    """Standard noise [K, B, L] in pairs of opposite sign, which cancel whatever is odd in it."""
    half = torch.randn(samples // 2, *q.mean.shape, dtype=q.mean.dtype)
    return torch.cat([half, -half])


def _optimised(
    model: LatentModel, x: Tensor | Batch, start: DiagonalNormal | FullNormal, rates: Sequence[float]
) -> DiagonalNormal | FullNormal:
    """The normal of the start's kind with the highest ELBO that steps of these rates find.

    The slope is taken along z alone, not along the parameters of log q, whose part is zero on average: its noise then
    vanishes where q is the posterior, and Adam, which makes full steps of the smallest slopes, stays there.

    Reference: Roeder, Wu and Duvenaud, Sticking the Landing, 2017.
    """
    move, size = MOVES[type(start)](start)

    def bound(change: Tensor) -> Tensor:
        z = move(change).rsample(SAMPLES)
        log_q = move(change.detach()).log_prob(z)
        return (model.log_px(x, z) + model.prior(z, x).log_prob(z) - log_q).mean(0).sum()

    with torch.enable_grad():
        change = _ascend(bound, torch.zeros(size, *start.mean.shape, dtype=start.mean.dtype), rates)
    return move(change)


def _diagonal(start: DiagonalNormal) -> Move:
    """A mean moved by so many deviations, and deviations widened by so much of a logarithm: change [2, B, L]."""
    return lambda change: DiagonalNormal(start.mean + start.std * change[0], start.log_std + change[1]), 2


def _full(start: FullNormal) -> Move:
    """The same in the coordinates of the start's Cholesky factor, and entries below its diagonal: [2 + L, B, L].

    These come over sqrt(L): Adam moves every one of them by the rate, and a row of L such steps would be as long as the
    row of the best factor itself in some ten dimensions.
    """
    share = 1 / math.sqrt(start.mean.shape[1])

    def move(change: Tensor) -> FullNormal:
        mean = start.mean + (start.scale_tril @ change[0].unsqueeze(-1)).squeeze(-1)
        factor = share * change[2:].movedim(0, 1).tril(-1) + torch.diag_embed(change[1].exp())
        return FullNormal(mean, start.scale_tril @ factor)

    return move, 2 + start.mean.shape[1]


Move = tuple[Callable[[Tensor], Any], int]  # from a change to the normal it makes, and how many [B, L] it has
MOVES: dict[type, Callable[[Any], Move]] = {DiagonalNormal: _diagonal, FullNormal: _full}


def _bounds(
    model: LatentModel, x: Tensor | Batch, family: Sequence[Normal], noise: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ELBOs of the first two, and log p(x) from below with draws of all as draws of their mixture, [B] each.

    The mean of p(x, z) over the mixture's density has the mean p(x) whatever the draws share, so that its logarithm is
    a lower bound in expectation; which of them fits best is never asked, and so cannot bias it.
    """
    drawn = [q.push(noise) for q in family]
    joint = [_log_joint(model, x, z) for z in drawn]
    elbo = [(part - q.log_prob(z).double().numpy()).mean(0) for q, z, part in zip(family, drawn, joint, strict=True)]
    mixed = [np.logaddexp.reduce([q.log_prob(z).double().numpy() for q in family]) for z in drawn]
    weights = np.concatenate(joint) - np.concatenate(mixed) + math.log(len(family))
    return elbo[0], elbo[1], log_mean_exp(weights)


@torch.no_grad()
def _log_joint(model: LatentModel, x: Tensor | Batch, z: Tensor) -> np.ndarray:
    """log p(x, z), [K, B], in float64."""
    parts = z.split(max(1, CHUNK_VALUES // (len(x) * model.width(x))))
    log_px = torch.cat([model.log_px(x, part) for part in parts])
    return (log_px.double() + model.prior(z, x).log_prob(z).double()).numpy()


@torch.no_grad()
def _elbo(model: LatentModel, x: Tensor | Batch, q: Normal, noise: Tensor) -> np.ndarray:
    """The mean of log p(x, z) - log q(z|x), [B] from noise [K, B, L]: exact where q is the posterior."""
    z = q.push(noise)
    return (_log_joint(model, x, z) - q.log_prob(z).double().numpy()).mean(0)


def _ascend(value: Callable[[Tensor], Tensor], change: Tensor, rates: Sequence[float]) -> Tensor:
    """Adam's steps to a higher value; by hand, since importing PyTorch's optimisers takes longer than the steps."""
    first, second = torch.zeros_like(change), torch.zeros_like(change)
    for step, rate in enumerate(rates, 1):
        change = change.detach().requires_grad_()
        (slope,) = torch.autograd.grad(value(change), change)
        first, second = first.lerp(slope, 0.1), second.lerp(slope.square(), 0.001)
        scale = (second / (1 - 0.999**step)).sqrt() + 1e-8
        change = change.detach() + rate * first / (1 - 0.9**step) / scale
    return change.detach()
