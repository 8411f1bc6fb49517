"""Objectives by name: a table from the words of a config to constructors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..core.facts import Facts
from ..core.seeds import derive
from ..core.settings import ObjectiveConfig
from ..core.tables import pick
from ..schedules import SHAPES, Schedule
from .base import Objective
from .correlation import Covariance, DensityRatio, TotalCorrelation
from .divergence import CodeCritic, Discrepancy
from .elbo import ELBO
from .importance import ImportanceWeighted
from .penalised import Penalised, Penalty
from .perceptual import RowCritic, row_net

Build = Callable[[ObjectiveConfig, Facts, int], Objective]


@dataclass(frozen=True)
class ObjectiveKind:
    """An objective by name.

    Args:
        title: In words.
        build: From its settings, the facts of the data and the dimensions of z.
    """

    title: str
    build: Build


def beta_of(config: ObjectiveConfig) -> float | Schedule:
    """The weight of the divergence that a config describes."""
    assert config.anneal in SHAPES
    cycles = config.cycles if config.anneal == "cyclical" else 1
    beta = Schedule(config.anneal, 0.0, config.beta, config.warmup_steps, cycles)
    return beta if beta.ends else config.beta


def bound_of(config: ObjectiveConfig) -> ELBO:
    """The ELBO with the weights, floors and schedules of a config."""
    capacity: float | Schedule | None = config.capacity
    if config.capacity is not None and config.capacity_steps:
        capacity = Schedule("linear", 0.0, config.capacity, config.capacity_steps)
    return ELBO(
        beta_of(config),
        free_bits=config.free_bits,
        free_bits_per=config.free_bits_per,
        capacity=capacity,
        samples=config.drawn,
        balance=config.balance,
    )


def _weighted(config: ObjectiveConfig, outer: int = 1, mix: float = 0.0, doubly: bool = False) -> Objective:
    return ImportanceWeighted(config.drawn, outer=outer, mix=mix, doubly=doubly, beta=beta_of(config))


def _penalised(weight: float, penalty: Callable[[ObjectiveConfig, Facts, int], Penalty]) -> Build:
    """The ELBO and a penalty, whose weight is this one where the config names none."""
    return lambda config, facts, latent: Penalised(
        bound_of(config), penalty(config, facts, latent), weight if config.penalty is None else config.penalty
    )


def _wasserstein(weight: float, penalty: Callable[[ObjectiveConfig, Facts, int], Penalty]) -> Build:
    """The reconstruction and a penalty."""
    build = _penalised(weight, penalty)
    return lambda config, facts, latent: build(config.model_copy(update={"beta": 0.0}), facts, latent)


def _covariances(sampled: bool, diagonal: float) -> Build:
    """Both terms of DIP-VAE; the diagonal's weight is so many times the other's where the config names none."""
    outer = _penalised(10.0, lambda config, facts, latent: Covariance(sampled))

    def build(config: ObjectiveConfig, facts: Facts, latent: int) -> Objective:
        other = 10.0 if config.penalty is None else config.penalty
        weight = diagonal * other if config.diagonal is None else config.diagonal
        return Penalised(outer(config, facts, latent), Covariance(sampled, diagonal=True), weight)

    return build


OBJECTIVES: dict[str, ObjectiveKind] = {
    "elbo": ObjectiveKind("evidence lower bound, with beta, free bits or a capacity", lambda c, f, latent: bound_of(c)),
    "iwae": ObjectiveKind("importance-weighted bound", lambda c, f, latent: _weighted(c)),
    "miwae": ObjectiveKind(
        "mean of several importance-weighted bounds", lambda c, f, latent: _weighted(c, outer=c.outer)
    ),
    "ciwae": ObjectiveKind(
        "mixture of the ELBO and the importance-weighted bound", lambda c, f, latent: _weighted(c, mix=c.mix)
    ),
    "dreg": ObjectiveKind(
        "importance-weighted bound, doubly reparameterised gradient", lambda c, f, latent: _weighted(c, doubly=True)
    ),
    "beta_tc": ObjectiveKind(
        "ELBO and the total correlation of q(z), estimated from the batch",
        _penalised(5.0, lambda c, f, latent: TotalCorrelation(c.estimator, f.rows or None)),
    ),
    "factor": ObjectiveKind(
        "ELBO and the total correlation of q(z), by a critic",
        _penalised(10.0, lambda c, f, latent: DensityRatio(latent)),
    ),
    "dip_i": ObjectiveKind("ELBO and the covariance of the posterior means", _covariances(False, 10.0)),
    "dip_ii": ObjectiveKind("ELBO and the covariance of q(z)", _covariances(True, 1.0)),
    "info": ObjectiveKind(
        "ELBO and the discrepancy of q(z) from the prior (InfoVAE)",
        _penalised(1000.0, lambda c, f, latent: Discrepancy(c.kernel)),
    ),
    "wae": ObjectiveKind(
        "reconstruction and the discrepancy of q(z) from the prior (Wasserstein)",
        _wasserstein(10.0, lambda c, f, latent: Discrepancy(c.kernel)),
    ),
    "wae_gan": ObjectiveKind(
        "reconstruction and a critic of codes (Wasserstein)",
        _wasserstein(10.0, lambda c, f, latent: CodeCritic(latent)),
    ),
}


def build_objective(config: ObjectiveConfig, facts: Facts | None = None, latent: int = 0, seed: int = 0) -> Objective:
    """The objective that a config describes.

    Args:
        facts: Of the data, for objectives that count its rows or look at them; None where they are not known.
        latent: Dimensions of z, for objectives with a network of their own.
        seed: Of the start of such networks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "objective"))
        known = facts or Facts(())
        built = pick(OBJECTIVES, config.name, "objective.name").build(config, known, latent)
        return Penalised(built, RowCritic(row_net(known.shape)), config.adversarial) if config.adversarial else built
