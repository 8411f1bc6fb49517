"""Several runs trained at once, as one stack of models: the same data and settings, other seeds or weights beta."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.config import Config
from ..core.durable import locked, saying_why
from ..core.errors import BadInput, Diverged, whole
from ..data.batches import Rows
from ..data.source import load
from .checkpoint import Progress
from .controllers import Weighting
from .engine import Engine
from .fit import begin, begun, engine_for, finish, memory_for, ready, stopped
from .folder import refuse_second_run
from .job import Job, prepare
from .run import Run
from .show import choose_display
from .stack import Stack
from .stackable import refuse_settings, tried_stack
from .step import Draws
from .together import Member, Together, Told, drawn_by


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
        stack = stack_of(jobs, engine)
        for path in runs:
            refuse_second_run(path)
            with saying_why(path):
                path.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(path))
        ended = _train(dict(zip(runs, jobs, strict=True)), stack, engine, progress)
    if ended:
        raise _all_told(ended, len(runs))
    return [Run(path) for path in runs]


def variations(
    config: Config, seeds: int | Sequence[int], betas: Sequence[float] | None, folder: Path
) -> dict[Path, Config]:
    """The runs of every beta from every seed: their folders, and their settings.

    Args:
        seeds: How many, from that of the config on, or which.
        betas: None: that of the config.
    """
    if isinstance(seeds, Integral):
        whole("seeds", seeds if isinstance(seeds, bool) else int(seeds))
        seeds = range(config.seed, config.seed + int(seeds))
    chosen = _listed("seeds", seeds, Integral, int, "how many, or a list of one or more whole numbers")
    weights = [None] if betas is None else _listed("betas", betas, Real, float, "a list of one or more numbers")
    runs = {}
    for beta in weights:
        for seed in chosen:
            name = "" if beta is None else f"beta-{beta:.15g}-"
            other = {"seed": seed} if beta is None else {"seed": seed, "objective.beta": beta}
            runs[folder / f"{name}seed-{seed}"] = config.edited(other)
    return runs


def _listed(name: str, values: Any, kind: type, turned: Callable[[Any], Any], what: str) -> list[Any]:
    """Numbers of a kind as Python's own, one or more, each once."""
    given, found = values, []
    try:
        given = list(values)
        if all(isinstance(value, kind) and not isinstance(value, bool) for value in given):
            found = [turned(value) for value in given]
    except (TypeError, OverflowError):
        pass  # no list, or a number that no float is: nothing was found
    if not found or len(set(found)) < len(found):
        raise BadInput(name, given, f"must be {what}, each once")
    return found


def prepared(x: Any, configs: Sequence[Config], engine: Engine) -> list[Job]:
    """The jobs of several configs; those that train on the same rows share them."""
    data = configs[0].data
    source = load(x, **data.reading)
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


def stack_of(jobs: Sequence[Job], engine: Engine) -> Stack:
    """The stack of the models of several jobs, tried out."""
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
    shown = [Told(path.name, display, shown=not place) for place, path in enumerate(jobs)]
    made = [ready(jobs[path], folders[path], engine, one, Member) for path, one in zip(jobs, shown, strict=True)]
    members = dict(zip(jobs, (member for member, _ in made), strict=True))
    config, spec = members[next(iter(jobs))].config, jobs[next(iter(jobs))].spec
    with torch.random.fork_rng(devices=[]), memory_for(config, spec, len(jobs)):
        for member, line in made:
            begin(member, line)
        display.say(f"{len(jobs)} runs at once; the numbers shown are those of {next(iter(jobs)).name}")
        try:
            Together(list(members.values()), shown, stack, engine).run()
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
    names, others = ", ".join(path.name for path in ended), ", the others are finished" * (len(ended) < runs)
    error = Diverged(f"{len(ended)} of {runs} runs stopped ({names}){others}; {path.name}: {first}")
    error.folder = path
    return error
