"""Hamiltonian transitions along the geometric path between two densities of z, for many rows and chains at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.seeds import generator

STEEPNESS = 4.0  # of the sigmoid of temperatures: steps at either end are a fourteenth of those in the middle
TARGET = 0.65  # acceptance at which Hamiltonian moves of a given cost go furthest (Beskos et al. 2013)
GAIN = 0.2  # of the size's logarithm per unit of acceptance: an e-fold in some eight moves, and a few per cent of noise
FIRST_SIZE = 1.9  # times L^(-1/4): the size that has TARGET on a standard normal of L dimensions
JITTER = 0.2  # of the step size: near a Gaussian all orbits have one period, and a trajectory of just that goes nowhere
LOST = 1e6  # a momentum beyond is refused, there and back alike, before the model is asked for states near overflow
BLOCK = 16  # transitions whose noise a row draws at once
EXTRA_NOISE = 2  # numbers a transition draws beside the momentum: whether to accept, and the jitter


class Point(NamedTuple):
    """States with all that a transition at any temperature asks of them. Shapes: K chains, B rows, L dimensions.

    Args:
        z: [K, B, L].
        start: log q0(z) in nats, float64, [K, B].
        ratio: log p(x, z) - log q0(z) in nats, float64, [K, B].
        start_slope: Gradient of `start` with respect to z, [K, B, L].
        ratio_slope: Gradient of `ratio`, [K, B, L].
    """

    z: Tensor
    start: Tensor
    ratio: Tensor
    start_slope: Tensor
    ratio_slope: Tensor

    def height(self, beta: float) -> Tensor:
        """log f(z) = log q0(z) + beta (log p(x, z) - log q0(z)), [K, B]."""
        return self.start + beta * self.ratio

    def slope(self, beta: float) -> Tensor:
        """Gradient of the height, [K, B, L]."""
        return torch.add(self.start_slope, self.ratio_slope, alpha=beta)

    def moved(self, there: Point, accepted: Tensor) -> Point:
        """The states of `there` where `accepted` [K, B], else these."""
        return Point(*(_choose(accepted, new, old) for new, old in zip(there, self, strict=True)))


def _choose(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted if new.ndim == 2 else accepted.unsqueeze(-1), new, old)


@dataclass(frozen=True)
class Path:
    """The path q0(z)^(1 - beta) p(x, z)^beta over temperatures beta in [0, 1], and moves that leave a stop invariant.

    Args:
        densities: z [K, B, L] to (log q0(z), log p(x, z) - log q0(z)) in nats, [K, B] each; differentiable.
        start_precision: Scale of q0 as inverse variances, broadcastable to [B, L].
        end_precision: The same of the posterior, or a guess at it: it costs no exactness, only acceptance.
        leapfrog: Steps of a trajectory.
    """

    densities: Callable[[Tensor], tuple[Tensor, Tensor]]
    start_precision: Tensor
    end_precision: Tensor
    leapfrog: int

    def at(self, z: Tensor) -> Point:
        """The states z with their log-densities and gradients: one decoding and one pass back."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            start, ratio = self.densities(z)
            if not (start.requires_grad and ratio.requires_grad):
                raise BadInput("model", "log-densities without a gradient", "must be differentiable functions of z")
            # The ratio may hold the start's graph, which must outlive the first pass.
            (start_slope,) = torch.autograd.grad(start.sum(), z, retain_graph=True)
            (ratio_slope,) = torch.autograd.grad(ratio.sum(), z)
        return Point(z.detach(), start.detach().double(), ratio.detach().double(), start_slope, ratio_slope)

    def move(self, here: Point, beta: float, size: Tensor, noise: Tensor) -> tuple[Point, Tensor]:
        """One Hamiltonian transition, which leaves q0^(1 - beta) p^beta invariant and is its own reverse.

        A momentum is drawn, the leapfrog rule follows the trajectory, and min(1, exp(-change of energy)) is the
        probability of going there; a trajectory that runs away is refused.

        Reference: Neal, MCMC Using Hamiltonian Dynamics, 2011, section 5.3.

        Args:
            here: States of K chains and B rows.
            beta: Temperature.
            size: Step size of each row in units of the path's scale at beta, [B].
            noise: Standard normal numbers, [K, B, L + EXTRA_NOISE].

        Returns:
            The states after it, and the probability of acceptance, [K, B].
        """
        momentum, coin, shake = noise[..., :-EXTRA_NOISE], noise[..., -2], noise[..., -1]
        precision = (1 - beta) * self.start_precision + beta * self.end_precision
        # The factor is uniform and knows nothing of the state: whatever it is, the move keeps the density.
        factor = 1 + JITTER * (2 * torch.special.ndtr(shake) - 1)
        step = (size * factor).unsqueeze(-1) * precision.rsqrt()
        there, kicked = here, momentum
        for _ in range(self.leapfrog):
            kicked = torch.addcmul(kicked, step, there.slope(beta), value=0.5)
            kicked = torch.where(kicked.abs() < LOST, kicked, torch.nan)
            there = self.at(there.z + (step * kicked).nan_to_num(nan=0.0))
            kicked = torch.addcmul(kicked, step, there.slope(beta), value=0.5)
        energy = 0.5 * (kicked.square() - momentum.square()).sum(-1).double()
        gain = (there.height(beta) - here.height(beta) - energy).nan_to_num(nan=-torch.inf)
        accepted = torch.special.log_ndtr(coin).double() < gain
        return here.moved(there, accepted), gain.clamp(max=0.0).exp()


def temperatures(steps: int) -> list[float]:
    """A sigmoid's values from 0 to 1, steps + 1 of them: close together at both ends, where the densities change most.

    Example:
        >>> [round(value, 3) for value in temperatures(4)]
        [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    curve = 1 / (1 + np.exp(-STEEPNESS * np.linspace(-1, 1, steps + 1)))
    return list(((curve - curve[0]) / (curve[-1] - curve[0])).tolist())


def find_sizes(path: Path, z: Tensor, betas: list[float], noise: Iterator[Tensor]) -> Tensor:
    """Step sizes for each inner temperature and row, [T - 1, B], from chains of their own that begin at z [K, B, L]."""
    size = z.new_full(z.shape[1:2], FIRST_SIZE * z.shape[-1] ** -0.25)
    point, sizes = path.at(z), []
    for beta in betas[1:-1]:
        sizes.append(size)
        point, acceptance = path.move(point, beta, size, next(noise))
        size = size * (GAIN * (acceptance.mean(0) - TARGET)).exp().to(size)
    return torch.stack(sizes)


def anneal(
    path: Path, z: Tensor, betas: list[float], sizes: Tensor, noise: Iterator[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Chains along the path, and their weights.

    .. math:: \sum_t (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{q_0(z_{t-1})}

    Run with rising temperatures from draws of q0, exp(weight) is p(x) in expectation; run with falling ones from draws
    of the posterior, it is 1 / p(x).

    Args:
        path: The densities and the moves.
        z: Where the chains begin, [K, B, L].
        betas: From 0 to 1, or from 1 to 0, T + 1 of them.
        sizes: Step sizes at the inner temperatures in that order, [T - 1, B].
        noise: A source of what `Path.move` draws.

    Returns:
        Ends of the chains [K, B, L], log-weights [K, B], and the mean probability of acceptance, [B].
    """
    point = path.at(z)
    log_w, acceptance = (betas[1] - betas[0]) * point.ratio, torch.zeros_like(point.ratio[0])
    for beta, following, size in zip(betas[1:-1], betas[2:], sizes, strict=True):
        point, accepted = path.move(point, beta, size, next(noise))
        log_w = log_w + (following - beta) * point.ratio
        acceptance = acceptance + accepted.mean(0)
    return point.z, log_w, acceptance / len(sizes)


def noise_of_moves(z: Tensor, first: int, seed: int, *purpose: str) -> Iterator[Tensor]:
    """What `Path.move` draws, for one move after the other of states z [K, B, L], of which the first is row `first`.

    Row i has noise from (seed, purpose, i), so that other rows do not change its states.
    """
    count, rows, size = z.shape
    coins = [generator(seed, *purpose, row, device=z.device) for row in range(first, first + rows)]
    while True:
        drawn = [torch.randn(BLOCK, count, size + EXTRA_NOISE, generator=coin, device=z.device) for coin in coins]
        yield from torch.stack(drawn, 2).to(z.dtype)


def resampled(z: Tensor, log_w: Tensor, coin: Tensor) -> Tensor:
    """States z [K, B, L] drawn again by weight, systematically: floor(K w) times or once more.

    Reference: Carpenter, Clifford and Fearnhead, Improved Particle Filter for Nonlinear Problems, 1999.
    """
    count = len(z)
    edges = log_w.softmax(0).cumsum(0).T.contiguous()
    ticks = torch.arange(count, device=z.device, dtype=edges.dtype)
    places = (torch.special.ndtr(coin.double()) + ticks) / count
    chosen = torch.searchsorted(edges, places).clamp(max=count - 1).T
    return z.gather(0, chosen.unsqueeze(-1).expand_as(z))
