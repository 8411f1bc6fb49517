"""The runs of a stack, a step of all at a time: what each sees, whether it takes the step, and what is due then."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from typing import Any

import torch

from ..core.errors import Diverged, Interrupted
from ..models.vae import Model
from .engine import Engine
from .loop import Loop
from .show import Display
from .signals import Signals
from .stack import Stack
from .step import Draws


class Member(Loop):
    """The loop of one model of a stack: its gradients and updates come from there, and all else is that of a run."""

    stopped: Diverged | None = None  # what ended this run, while others of its stack go on

    def belongs(self, stack: Stack, number: int) -> None:
        """Makes the optimiser's state that this run saves be that of model `number` of a stack."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        moments = stack.moments(number)
        for place, parameter in enumerate(self.parameters):
            if (name := names[id(parameter)]) in moments:
                self.optimizer.state[str(place)] = moments[name]

    def starts(self) -> None:
        """Writes the first checkpoint."""
        self.model.train()
        self._regular_checkpoint()

    @property
    def goes_on(self) -> bool:
        """Whether a further step is wanted."""
        return self.stopped is None and not self._is_over()

    def takes(self, number: int, loss: float, norm: float) -> bool:
        """Whether step `number` is to be taken; one that is not finite is refused as by a run alone."""
        if not self.goes_on:
            return False
        if math.isfinite(loss + norm):
            return True
        try:
            self._refuse(number, loss, norm)
        except Diverged as error:
            self.stopped = error
            self.display.say(str(error))
        return False

    def took(self, record: Any, weights: dict[str, float], loss: float, norm: float) -> None:
        """Notes the numbers of a step that was taken."""
        clip = self.config.train.clip_norm or math.inf
        self.window.add([record], loss=loss, gradient_norm=norm, clipped=float(norm > clip))
        self._used = weights

    def next_step(self) -> None:
        """Counts the step, and does what is due after it."""
        self.progress.step += 1
        self._due(self.progress.step)

    def save(self) -> None:
        """Writes a checkpoint where the last one is older."""
        self._checkpoint()

    def rate(self, number: int) -> float:
        """The learning rate of a step, which is that of all models of a stack."""
        return self._rate(number)


class Told(Display):
    """What a run of a stack says, with its name, on the display of the stack, and its numbers where they are shown."""

    def __init__(self, name: str, display: Display, shown: bool = False) -> None:
        self.name, self.display, self.shown = name, display, shown

    def begin(self, step: int, steps: int) -> None:
        if self.shown:
            self.display.begin(step, steps)

    def train(self, step: int, line: dict[str, Any]) -> None:
        if self.shown:
            self.display.train(step, line)

    def held_out(self, step: int, measured: dict[str, Any], model: Model) -> None:
        if self.shown:
            self.display.held_out(step, measured, model)

    def say(self, text: str) -> None:
        self.display.say(f"{self.name}: {text}")

    def hand_over(self, heir: Told) -> None:
        """Shows the numbers of another run from now on."""
        self.shown, heir.shown = False, True
        self.display.say(f"the numbers shown from here on are those of {heir.name}")


class Together:
    """Trains the runs of a stack, a step of all at a time.

    Args:
        members: In the order of the stack's models.
        told: What each of them says; the first one's numbers are shown.
    """

    def __init__(self, members: Sequence[Member], told: Sequence[Told], stack: Stack, engine: Engine) -> None:
        self.members, self.told, self.stack, self.signals = members, told, stack, Signals(engine)
        self.shown = 0  # place of the run whose numbers are shown
        self.clip = members[0].config.train.clip_norm or math.inf
        for number, member in enumerate(members):
            member.belongs(stack, number)

    def run(self) -> None:
        """Trains until no run wants a further step, or until a signal.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with everything saved.
        """
        number = 0
        with self.signals.heard():
            for member in self.members:
                member.starts()
            while any(member.goes_on for member in self.members):
                going = [member for member in self.members if member.goes_on]
                self.advance(number)
                number += 1
                for member in going:
                    if member.stopped is None:
                        member.next_step()
                self._pass_on()
                if received := self.signals.anywhere():
                    self._interrupted(received, number)

    def advance(self, number: int) -> None:
        """Does step `number` of all models."""
        weights = [member.weighting(number, member.progress) for member in self.members]
        drawn = drawn_by([member.draws for member in self.members], self.stack.step.model, number)
        losses, norms, terms, kl = self.stack.gradients(drawn, weights)
        pairs = list(zip(*torch.stack([losses, norms]).tolist(), strict=True))
        taken = [member.takes(number, *pair) for member, pair in zip(self.members, pairs, strict=True)]
        moved = [place for place, one in enumerate(taken) if one]
        before = {place: self.members[place]._before_update(number) for place in moved}
        clipped = any(pairs[place][1] > self.clip for place in moved)
        rate = self.members[0].rate(number)
        self.stack.update(rate, taken, (norms / self.clip).clamp(min=1) if clipped else None)
        columns, sizes = zip(*(value.unbind() for value in terms.values()), strict=True), kl.unbind()
        shown = [dict(zip(terms, column, strict=True)) for column in columns]
        for place in moved:
            member = self.members[place]
            member.took((len(drawn[place][0]), shown[place], sizes[place]), weights[place], *pairs[place])
            member._after_update(number, before[place])

    def _pass_on(self) -> None:
        """Where the run whose numbers are shown is over, those of the next one that goes on are shown."""
        if self.members[self.shown].goes_on:
            return
        before, heirs = self.shown, (place for place, member in enumerate(self.members) if member.goes_on)
        self.shown = next(heirs, before)
        if self.shown != before:
            self.told[before].hand_over(self.told[self.shown])

    def _interrupted(self, received: int, step: int) -> None:
        for member in self.members:
            if member.stopped is None:
                member.save()
        name = signal.Signals(received).name
        raise Interrupted(f"{name}: saved at step {step}; continue each run with --resume", received)


def drawn_by(draws: Sequence[Draws], model: Any, number: int) -> list[Any]:
    """What each model sees in a step; runs of one seed on the same rows see the same, which is drawn once."""
    size = getattr(model, "noise_size", None)
    found: dict[tuple[int, int], Any] = {}
    for one in draws:
        key = one.seed, id(one.rows)
        if key not in found:
            found[key] = one(number, size)
    return [found[one.seed, id(one.rows)] for one in draws]
