"""What moves the weight of the divergence in a run besides its schedule: controllers, and a second warm-up.

Controllers move it until the rate, or the reconstruction, is what was asked for. They act on log beta, since what a
factor does to the rate is much the same whatever beta is. The error is bounded, so that no single batch moves beta far,
and beta too, so that a target out of reach winds nothing up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..core.config import Config
from ..core.settings import ObjectiveConfig
from ..objectives.base import Objective
from ..schedules import linear
from .checkpoint import Progress

ANNEALED = 5  # a fifth of the steps left: long enough to learn from z, short enough for the rest at full weight
COLLAPSED = 2  # evaluations in a row: one may catch a model on its way
LOWEST, HIGHEST = math.log(1e-4), math.log(1e4)  # beyond these a target is out of reach, and float32 near its end
FAR_OFF = 0.1  # of the integral's speed while the error is at its bound: a young model is far off whatever beta is


@dataclass(frozen=True)
class Controller:
    """A proportional-integral controller of log beta: log beta = gain * e + integral of speed * e over the steps.

    With `term` "kl" this is ControlVAE (Shao et al., ControlVAE: Controllable Variational Autoencoder, 2020) with
    e = log(KL / target). With "reconstruction" it is GECO (Rezende and Viola, Taming VAEs, 2018), whose multiplier of
    the constraint is 1 / beta: e is the averaged constraint, target minus reconstruction, in units of beta * KL, which
    is what moving beta by a factor can move.

    Args:
        term: What is held.
        target: Nats per sample, on the model's scale.
        speed: Share of the error added to log beta in a step.
        gain: Factor of the error that acts at once.
        memory: Decay of the averages that the error is computed from.
    """

    term: str
    target: float
    speed: float = 0.05
    gain: float = 2.0
    memory: float = 0.9

    def beta(self, state: Mapping[str, float]) -> float:
        """The weight to use next."""
        return state.get("beta", 1.0)

    def updated(self, state: Mapping[str, float], means: Mapping[str, float]) -> dict[str, float]:
        """The state after a step whose batch had these means, nats per sample on the model's scale."""
        keep = self.memory if state else 0.0
        averages = {name: keep * state.get(name, 0.0) + (1 - keep) * means[name] for name in ("kl", "reconstruction")}
        error = max(-1.0, min(1.0, self._error(averages, self.beta(state))))
        speed = self.speed * (FAR_OFF if abs(error) == 1 else 1)
        integral = max(LOWEST, min(HIGHEST, state.get("integral", 0.0) + speed * error))
        beta = math.exp(max(LOWEST, min(HIGHEST, integral + self.gain * error)))
        return {"beta": beta, "integral": integral, **averages}

    def _error(self, averages: Mapping[str, float], beta: float) -> float:
        """Positive where beta has to rise."""
        rate = max(averages["kl"], 1e-6)
        if self.term == "kl":
            return math.log(rate / self.target)
        return (self.target - averages["reconstruction"]) / (beta * rate)


def build_controller(config: ObjectiveConfig, shift: float) -> Controller | None:
    """The controller that a config describes; None where no target is set.

    Args:
        shift: log|det| of the data's transform, nats per sample.
    """
    if config.target_rate is not None:
        return Controller("kl", config.target_rate)
    if config.target_reconstruction is not None:
        return Controller("reconstruction", config.target_reconstruction + shift)
    return None


class Weighting:
    """The weights of an objective in the steps of a run; what it knows stands in `Progress`.

    Args:
        objective: Brings the schedule.
        config: Brings the target of a controller, and the remedy for a collapse.
        shift: log|det| of the data's transform, nats per sample.
    """

    def __init__(self, objective: Objective, config: Config, shift: float) -> None:
        self.objective, self.controller = objective, build_controller(config.objective, shift)
        self.total, self.anneals = config.train.total, config.train.on_collapse == "anneal"

    def __call__(self, number: int, progress: Progress) -> dict[str, float]:
        """The weights of step `number`, with beta where a controller or a second warm-up has it."""
        weights = self.objective.weights(number)
        if self.controller is not None:
            weights["beta"] = self.controller.beta(progress.control)
        if progress.annealed is not None:
            weights["beta"] *= linear(0.0, 1.0, progress.anneal_steps)(number - progress.annealed)
        return weights

    def observe(self, progress: Progress, means: Mapping[str, float]) -> None:
        """Tells the controller the means of a step, nats per sample on the model's scale."""
        assert self.controller is not None
        progress.control = self.controller.updated(progress.control, means)

    def settled(self, progress: Progress) -> int:
        """The step from which no weight follows a schedule any more."""
        return max(self.objective.warmup_ends, (progress.annealed or 0) + progress.anneal_steps)

    def restarts(self, progress: Progress, active: int) -> bool:
        """Whether the divergence is free again from now on, since no dimension was in use twice in a row.

        Once in a run its weight goes back to 0 and rises over a fifth of the steps that are left. The decoder learns to
        use z while z is free, and keeps to it if the bound at full weight is better so. Free bits would hold dimensions
        open that the bound has no use for, and the loss would no longer be the one that was asked for.

        Args:
            active: Dimensions in use at this evaluation.
        """
        left = self.total - progress.step
        progress.collapsed = progress.collapsed + 1 if active == 0 and progress.step > self.settled(progress) else 0
        if not self.anneals or progress.collapsed < COLLAPSED or progress.annealed is not None or left == 0:
            return False
        progress.annealed, progress.anneal_steps, progress.stale = progress.step, math.ceil(left / ANNEALED), 0
        return True
