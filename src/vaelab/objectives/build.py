"""Objectives by name: a table from the words of a config to constructors."""

from __future__ import annotations

from collections.abc import Callable

from ..core.config import ObjectiveConfig
from ..core.facts import Facts
from ..core.tables import pick
from ..schedules import SHAPES, Schedule
from .base import Objective
from .elbo import ELBO


def bound_of(config: ObjectiveConfig) -> ELBO:
    """The ELBO with the weights, floors and schedules of a config."""
    assert config.anneal in SHAPES
    cycles = config.cycles if config.anneal == "cyclical" else 1
    beta = Schedule(config.anneal, 0.0, config.beta, config.warmup_steps, cycles)
    capacity: float | Schedule | None = config.capacity
    if config.capacity is not None and config.capacity_steps:
        capacity = Schedule("linear", 0.0, config.capacity, config.capacity_steps)
    return ELBO(
        beta if beta.ends else config.beta,
        free_bits=config.free_bits,
        free_bits_per=config.free_bits_per,
        capacity=capacity,
        samples=config.samples,
    )


OBJECTIVES: dict[str, Callable[[ObjectiveConfig, Facts, int], Objective]] = {
    "elbo": lambda config, facts, latent: bound_of(config),
}


def build_objective(config: ObjectiveConfig, facts: Facts | None = None, latent: int = 0) -> Objective:
    """The objective that a config describes.

    Args:
        facts: Of the data, for objectives that count its rows; None where they are not known.
        latent: Dimensions of z, for objectives with a network of their own.
    """
    return pick(OBJECTIVES, config.name, "objective.name")(config, facts or Facts(()), latent)
