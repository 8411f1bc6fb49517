"""Several runs trained at once, as one stack of models: the same data and settings, other seeds or weights beta."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.config import Config
from ..core.durable import locked, saying_why
from ..core.errors import Diverged, Interrupted
from ..data.batches import Rows
from ..data.source import load
from .controllers import Weighting
from .checkpoint import Progress
from .engine import Engine
from .fit import begin, begun, engine_for, finish, memory_for, ready, stopped
from .folder import refuse_second_run
from .job import Job, prepare
from .loop import Loop
from .run import Run
from .show import Display, choose_display
from .signals import Signals
from .stack import Stack
from .stackable import refuse_settings, tried_stack
from .step import Draws, relative_change


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

    def before_update(self, number: int) -> list[Tensor]:
        """The parameters, where a line of metrics follows that says by how much they moved."""
        logged = (number + 1) % self._every("log_every", 200) == 0
        return [parameter.detach().clone() for parameter in self.parameters] if logged else []

    def after_update(self, number: int, before: list[Tensor]) -> None:
        """Notes by how much the parameters moved, and takes them into their average."""
        self._measured = {"update_ratio": relative_change(before, self.parameters)} if before else {}
        if self.averaged is not None:
            self.averaged.update(number)

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
    """What a run of a stack says, with its name, on the display of the stack; its numbers are in its folder."""

    def __init__(self, name: str, display: Display) -> None:
        self.name, self.display = name, display

    def say(self, text: str) -> None:
        self.display.say(f"{self.name}: {text}")


class Together:
    """Trains the runs of a stack, a step of all at a time.

    Args:
        members: In the order of the stack's models.
    """

    def __init__(self, members: Sequence[Member], stack: Stack, engine: Engine) -> None:
        self.members, self.stack, self.signals = members, stack, Signals(engine)
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
                self._advance(number)
                number += 1
                for member in going:
                    if member.stopped is None:
                        member.next_step()
                if received := self.signals.anywhere():
                    self._interrupted(received, number)

    def _advance(self, number: int) -> None:
        """Does step `number` of all models."""
        weights = [member.weighting(number, member.progress) for member in self.members]
        drawn = drawn_by([member.draws for member in self.members], self.stack.step.model, number)
        losses, norms, terms, kl = self.stack.gradients(drawn, weights)
        pairs = list(zip(*torch.stack([losses, norms]).tolist(), strict=True))
        taken = [member.takes(number, *pair) for member, pair in zip(self.members, pairs, strict=True)]
        moved = [place for place, one in enumerate(taken) if one]
        before = {place: self.members[place].before_update(number) for place in moved}
        clipped = any(pairs[place][1] > self.clip for place in moved)
        rate = self.members[0].rate(number)
        self.stack.update(rate, taken, (norms / self.clip).clamp(min=1) if clipped else None)
        columns, sizes = zip(*(value.unbind() for value in terms.values()), strict=True), kl.unbind()
        shown = [dict(zip(terms, column, strict=True)) for column in columns]
        for place in moved:
            member = self.members[place]
            member.took((len(drawn[place][0]), shown[place], sizes[place]), weights[place], *pairs[place])
            member.after_update(number, before[place])

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


def fit_many(x: Any, runs: Mapping[Path, Config], *, progress: bool = True) -> list[Run]:
    """Trains runs on the same data at once; each is then a run like any other.

    Where the loss or gradient of one is not finite, that one is refused the step, or stops, and the others go on.

    Args:
        runs: Their folders, and settings that differ in the seed and in `objective.beta` alone.

    Raises:
        BadInput: for data or settings that break a rule, and as `NoStack` for what does not go into a stack; nothing
            has been written then.
        Diverged: where a run stopped, once the others are finished.
        Interrupted, NoSpace, InUse: as their names say.
    """
    first = next(iter(runs.values()))
    with contextlib.ExitStack() as held:
        engine = held.enter_context(engine_for(first))
        refuse_settings(first, engine)
        jobs = prepared(x, list(runs.values()), engine)
        stack = _stack_of(jobs, engine)
        for path in runs:
            refuse_second_run(path)
            with saying_why(path):
                path.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(path))
        ended = _train(dict(zip(runs, jobs, strict=True)), stack, engine, progress)
    if ended:
        raise _all_told(ended, len(runs))
    return [Run(path) for path in runs]


def prepared(x: Any, configs: Sequence[Config], engine: Engine) -> list[Job]:
    """The jobs of several configs; those that train on the same rows share them."""
    data = configs[0].data
    source = load(x, key=data.key, data_dir=data.data_dir, text_column=data.text_column)
    jobs: list[Job] = []
    for config in configs:
        job = prepare(x, config, engine, None, None, source=source)
        twin = next((other for other in jobs if same_rows(job.rows, other.rows)), None)
        jobs.append(job if twin is None else replace(job, rows=twin.rows, held_out=twin.held_out))
    return jobs


def same_rows(one: Rows, other: Rows) -> bool:
    """Whether two parts of the same data hold the same rows with the same beside them."""
    index = np.arange(len(one))
    if len(one) != len(other) or not np.array_equal(one.places(index), other.places(index)):
        return False
    given = one.condition, other.condition
    return given[0] is None or (given[1] is not None and torch.equal(given[0].nan_to_num(-1), given[1].nan_to_num(-1)))


def _stack_of(jobs: Sequence[Job], engine: Engine) -> Stack:
    first = jobs[0]
    for job in jobs:
        job.model.to(engine.device)
    with torch.random.fork_rng(devices=[engine.device] if engine.device.type == "cuda" else []):
        draws = [Draws(j.rows, j.config.train.batch_size, j.objective.samples, j.config.seed, engine) for j in jobs]
        weights = [Weighting(job.objective, job.config, job.spec.log_abs_det)(0, Progress()) for job in jobs]
        drawn = drawn_by(draws, first.model, 0)
        return tried_stack([job.model for job in jobs], first.objective, first.config, drawn, weights)


def _train(jobs: Mapping[Path, Job], stack: Stack, engine: Engine, progress: bool) -> dict[Path, Diverged]:
    """Trains and finishes the runs; returns the errors of those that stopped."""
    display = choose_display(progress)
    facts = {"stack": {"runs": len(jobs), "folders": [path.name for path in jobs]}}
    folders = {path: begun(job, path, engine, **facts) for path, job in jobs.items()}
    shown = [display, *(Told(path.name, display) for path in list(jobs)[1:])]
    made = [ready(jobs[path], folders[path], engine, one, Member) for path, one in zip(jobs, shown, strict=True)]
    members = dict(zip(jobs, (member for member, _ in made), strict=True))
    config, spec = members[next(iter(jobs))].config, jobs[next(iter(jobs))].spec
    with torch.random.fork_rng(devices=[]), memory_for(config, spec):
        for member, line in made:
            begin(member, line)
        display.say(f"{len(jobs)} runs at once; the numbers shown are those of {next(iter(jobs)).name}")
        try:
            Together(list(members.values()), stack, engine).run()
        finally:
            display.end()
        for path, member in members.items():
            if member.stopped is None:
                finish(jobs[path], member, folders[path], engine)
    return {
        path: stopped(member.stopped, jobs[path], folders[path])
        for path, member in members.items()
        if member.stopped is not None
    }


def _all_told(ended: Mapping[Path, Diverged], runs: int) -> Diverged:
    """One error for the runs of a stack that stopped; it has the folder of the first of them."""
    path, first = next(iter(ended.items()))
    names = ", ".join(path.name for path in ended)
    error = Diverged(f"{len(ended)} of {runs} runs stopped ({names}), the others are finished; {path.name}: {first}")
    error.folder = path
    return error
