"""Draws of a posterior p(z|y) that no encoder knows: chains from the prior, tempered, weighed and moved on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from .hmc import Path, anneal, find_sizes, resampled, temperatures
from .importance import weight_numbers

PILOT_CHAINS = 4  # enough for a rate of acceptance


@dataclass(frozen=True)
class Tempered:
    """What chains of B rows found.

    Args:
        z: Draws of p(z|y), all of one weight, [N, B, L].
        log_evidence: log p(y) in nats, from below in expectation, float64 [B].
        ess: Effective number of chains (sum w)² / sum w² before the last moves, [B].
        acceptance: Mean probability that a move was accepted, [B].
    """

    z: Tensor
    log_evidence: Tensor
    ess: Tensor
    acceptance: Tensor


@torch.no_grad()
def tempered(
    path: Path,
    starts: Callable[[int, str], Tensor],
    noise: Callable[[Tensor, str], Iterator[Tensor]],
    *,
    steps: int,
    chains: int,
    moves: int,
) -> Tempered:
    r"""Chains from draws of p(z) along :math:`p(z) p(y|z)^{\beta}`, resampled by weight, and moves at beta = 1.

    Far from p(y|z) in the beginning, chains reach parts of the posterior that lie apart, which moves alone would not.
    The step sizes are learned in a pilot run with other noise.

    References: Neal, Annealed Importance Sampling, 2001; Del Moral, Doucet and Jasra, Sequential Monte Carlo Samplers,
    2006.

    Args:
        path: Of (log p(z), log p(y|z)).
        starts: Draws of p(z) from how many and a purpose, [K, B, L].
        noise: Standard normal numbers for the moves of states and a purpose; see `vaelab.measure.hmc.noise_of_moves`.
        steps: Temperatures after the start.
        chains: Of each row.
        moves: After resampling; the chains are kept after each of them.
    """
    betas = temperatures(steps)
    begin = starts(PILOT_CHAINS, "pilot")
    sizes = find_sizes(path, begin, betas, noise(begin, "pilot"))
    begin = starts(chains, "forth")
    ends, log_w, acceptance = anneal(path, begin, betas, sizes, noise(begin, "forth"))
    log_evidence, _, ess, _ = map(torch.from_numpy, weight_numbers(log_w.cpu().numpy()))
    coins = noise(ends, "on")
    point, kept = path.at(resampled(ends, log_w, next(coins)[0, :, :1])), []
    for drawn in islice(coins, moves):
        point, _ = path.move(point, 1.0, sizes[-1], drawn)
        kept.append(point.z)
    return Tempered(torch.cat(kept), log_evidence, ess, acceptance)
