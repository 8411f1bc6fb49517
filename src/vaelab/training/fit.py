"""From data and settings to a finished run folder; and from an unfinished folder to a finished one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from ..checks.run import quick
from ..core.config import Config, build_config, differences
from ..core.durable import locked, saying_why
from ..core.errors import BadInput, Diverged, VaelabError
from ..core.finding import Finding
from ..core.seeds import generator
from ..core.units import readable_bytes
from ..data.batches import Order
from ..data.spec import Spec, condition_files, preview_count
from ..measure.baseline import baseline, spaced
from ..monitoring.causes import PRESSING, explained
from ..monitoring.rules import judge as judge_trace
from ..objectives import ELBO, ImportanceWeighted, Penalised
from ..objectives.base import Objective
from .after import fit_prior
from .checkpoint import Progress, load_weights
from .engine import Engine
from .environment import MAY_CHANGE, describe, settings_digest
from .evaluate import evaluate
from .events import Events
from .folder import RunFolder, existing_folder, new_folder, refuse_second_run
from .job import Job, is_small, prepare
from .loop import Loop
from .rules import Measured, applicable, judge, never_finite, run_trace
from .run import Run
from .show import Display, Several, choose_display
from .tuning import PRODUCTS, Tuning, as_before, float32_of, tune, tuned

Checks = Callable[..., list[Finding]]
Trained = TypeVar("Trained", bound=Loop)
OURS = (ELBO, ImportanceWeighted, Penalised)  # objectives whose words say all that they are


def fit(
    x: Any,
    config: Config,
    *,
    out: str | os.PathLike[str] | None = None,
    model: nn.Module | None = None,
    objective: Objective | None = None,
    progress: bool = True,
) -> Run:
    """Trains on data and returns the run.

    Raises:
        BadInput: for data or settings that break a rule; nothing has been written then.
        Diverged, Interrupted, NoSpace, InUse: as their names say.
    """
    with engine_for(config) as engine:
        job = prepare(x, config, engine, model, objective)
        path = Path(engine.tell(str(new_folder(out, job.spec.name)) if engine.is_main else ""))
        if engine.is_main:
            with saying_why(path):
                path.mkdir(parents=True, exist_ok=True)
        with _lock(path, engine):
            chosen = _tuning(job, engine)
            facts = {} if chosen is None else {"tuning": chosen.to_dict()}
            _train(job, begun(job, path, engine, **facts), engine, progress, resumed=False)
    return Run(path, model)


def resume(
    path: str | os.PathLike[str],
    changes: Mapping[str, Any] | None = None,
    *,
    x: Any = None,
    model: nn.Module | None = None,
    objective: Objective | None = None,
    progress: bool = True,
) -> Run:
    """Continues a run from its newest whole checkpoint, on the same data and settings.

    Args:
        changes: Settings that differ from the saved ones; only those that do not rewrite history are taken.
        x: The data, for a run that was given an array.

    Raises:
        BadInput: if data or settings differ, with the list of differences.
        Corrupt: if no checkpoint is whole.
    """
    folder_path = existing_folder(path)
    saved = RunFolder(folder_path, writes=False)
    old, environment = saved.config(), saved.environment()
    config = build_config(old.model_dump(), changes or {})
    changed = {key: pair for key, pair in differences(old, config).items() if not key.startswith("data.source")}
    _refuse_changes(changed)
    _refuse_fewer_steps(changed, folder_path)
    if environment["settings"] != settings_digest(old):
        raise BadInput("config.yaml", "other settings", "a run keeps those it was started with", "put them back")
    for name, given in (("model", model), ("objective", objective)):
        if environment[f"own_{name}"] and given is None:
            raise BadInput(name, None, f"this run trains a {name} of your own", f"pass it again: {name}=...")
        if given is not None and not environment[f"own_{name}"]:
            raise BadInput(name, type(given).__name__, f"this run trains the {name} that its settings describe")
    source = x if x is not None else config.data.source
    if source is None:
        raise BadInput("x", None, "this run was given its data as an object", "pass the same data again")
    with engine_for(config) as engine:
        job = prepare(source, config, engine, model, objective)
        if job.spec.fingerprint != environment["data"]["fingerprint"]:
            was, now = environment["data"]["fingerprint"][:12], job.spec.fingerprint[:12]
            raise BadInput("data", f"rows with fingerprint {now}", f"this run trains on {was}", "name the same data")
        if engine.device.type == "cpu" and (known := _known_tuning(environment, job, "train.threads" in changed)):
            known.apply()
        if isinstance(job.objective, OURS) and repr(job.objective) != environment["objective"]:
            raise BadInput("objective", job.objective, f"must be that of the run, {environment['objective']}")
        with _lock(folder_path, engine):
            folder = RunFolder(folder_path, writes=engine.is_main)
            folder.clean()
            if changed:
                folder.save_config(config)
                job.findings.append(_resumed_otherwise(changed, config))
            _train(job, folder, engine, progress, resumed=True)
    return Run(folder_path, model)


def _tuning(job: Job, engine: Engine) -> Tuning | None:
    """What makes this job's steps fast on this processor, in force from here on; None where nothing is measured."""
    train = job.config.train
    if engine.device.type != "cpu" or engine.world > 1 or train.deterministic or train.precision != "float32":
        return None
    if is_small(job.model, train.batch_size):
        return None
    threads = [train.threads] if train.threads else sorted({1, torch.get_num_threads()})
    found = tune(job.model, train.batch_size, threads, PRODUCTS if train.products == "auto" else [train.products])
    if found is not None:
        found.apply()
    return found


def _known_tuning(environment: Mapping[str, Any], job: Job, other_threads: bool) -> Tuning | None:
    """What a run was tuned to, so that it goes on with the same bits, whatever is faster now."""
    train = job.config.train
    found = tuned(environment.get("tuning"), job.model, train.batch_size)
    return replace(found, threads=train.threads) if found and other_threads and train.threads else found


def begun(job: Job, path: Path, engine: Engine, **facts: Any) -> RunFolder:
    """The folder of a new run, whose lock is held, with all that is known before the first step.

    Args:
        facts: What `environment.json` holds besides.
    """
    if engine.is_main:
        refuse_second_run(path)
    folder = RunFolder(path, writes=engine.is_main)
    folder.begin(job.config, describe(job, engine) | facts, _data_files(job) if engine.is_main else {})
    folder.save_findings(job.findings)
    return folder


def _data_files(job: Job) -> dict[str, bytes]:
    """What the run folder keeps of the data: its description, and some rows of either part to look at."""
    shown, spread = (preview_count(job.spec.shape, len(part)) for part in (job.held_out, job.rows))
    held_out = job.held_out.raw(np.arange(shown)).reshape(-1, *job.spec.shape)
    # Evenly spaced: the rows of a file often stand in the order of their labels.
    chosen = np.linspace(0, len(job.rows) - 1, spread).astype(int)
    training = job.rows.raw(chosen).reshape(-1, *job.spec.shape)
    files = job.spec.to_files(held_out, None if job.labels is None else job.labels[: len(held_out)], training)
    if job.rows.condition is None or job.held_out.condition is None:
        return files
    return files | condition_files(job.held_out.condition[:shown], job.rows.condition[torch.from_numpy(chosen)])


def _train(job: Job, folder: RunFolder, engine: Engine, progress: bool, resumed: bool) -> None:
    loop, line = ready(job, folder, engine, choose_display(progress and engine.is_main), Loop)
    with torch.random.fork_rng(devices=[]), memory_for(job.config, job.spec):
        if resumed:
            _say_damage(loop.restore(), loop.display)
        begin(loop, line)
        try:
            loop.run()
        except Diverged as error:
            raise stopped(error, job, folder) from None
        finally:
            loop.display.end()
        finish(job, loop, folder, engine)


def ready(
    job: Job, folder: RunFolder, engine: Engine, display: Display, kind: type[Trained]
) -> tuple[Trained, dict[str, Any]]:
    """The loop of a job, which is checked, and the line of metrics with what a constant decoder would cost."""
    config = job.config
    job.model.to(engine.device)
    line = constant_baseline(job)
    if engine.world == 1:
        found = checked(job, quick, line["negative_elbo"])
        for finding in explained(found):
            if finding.severity in PRESSING:
                display.say(str(finding))
        job.findings += applicable(found, config)
        folder.save_findings(job.findings)
    if config.report.tensorboard and engine.is_main:
        events = Events(folder.path / "events", job.held_out, images=config.report.images, seed=config.seed)
        display = Several(display, events)
    loop = kind(
        job.model,
        job.objective,
        job.rows,
        job.held_out,
        config=config,
        engine=engine,
        folder=folder,
        display=display,
        shift=job.spec.log_abs_det,
    )
    return loop, line


def begin(loop: Loop, line: dict[str, Any]) -> None:
    """Shows that training begins, and keeps the first line of metrics where there is none."""
    loop.display.begin(loop.progress.step, loop.config.train.total)
    if loop.progress.step == 0 and loop.engine.is_main and not loop.folder.metrics():
        loop.folder.add_metrics(line)


def stopped(error: Diverged, job: Job, folder: RunFolder) -> Diverged:
    """The error of a run that stopped at a number that is not finite, with its folder, which holds the findings now."""
    found = applicable(judge_trace(run_trace(job.config, folder.metrics())), job.config)
    folder.save_findings([*found, *job.findings])
    error.folder = folder.path
    return error


def finish(job: Job, loop: Loop, folder: RunFolder, engine: Engine) -> None:
    """What comes after the last step: a prior that is fitted to the codes, and the findings."""
    del loop.step  # frees the wrapped module before the processes part
    fit_prior(job, loop, engine)
    _judge(job, loop.progress, folder, engine, loop)


def checked(job: Job, checks: Checks, baseline: float | None) -> list[Finding]:
    """What checks say about a job that is ready to start; random numbers stay as they were."""
    on_model_scale = None if baseline is None else baseline + job.spec.log_abs_det
    with torch.random.fork_rng(devices=[]):
        return checks(
            job.model,
            job.objective,
            job.rows,
            job.held_out,
            spec=job.spec,
            config=job.config,
            baseline=on_model_scale,
            own_model=job.own_model,
        )


def constant_baseline(job: Job) -> dict[str, Any]:
    """A line of metrics: what the best decoder that ignores z would cost on the held-out rows, on the data's scale."""
    likelihood = getattr(getattr(job.model, "decoder", None), "likelihood", None)
    rows, held_out = (
        part.x(spaced(len(part)), generator(job.config.seed, "baseline", device=part.device))
        for part in (job.rows, job.held_out)
    )
    found = baseline(likelihood, rows, held_out)
    value, error = (None, None) if found is None else (found[0] - job.spec.log_abs_det, found[1])
    return {"kind": "baseline", "step": 0, "negative_elbo": value, "standard_error": error}


def _judge(job: Job, done: Progress, folder: RunFolder, engine: Engine, loop: Loop) -> None:
    """The findings of a finished run, measured with the selected weights."""
    if loop.selected is None:
        trace = run_trace(job.config, folder.metrics())
        folder.save_findings([never_finite(done), *judge_trace(trace), *job.findings])
        return
    weights, selected = loop.selected
    load_weights(job.model, weights, folder.path)
    some = Order(len(job.rows), min(len(job.rows), len(job.held_out)), job.config.seed).batch(0)
    training = evaluate(
        job.model,
        job.rows,
        seed=job.config.seed,
        engine=engine,
        shift=job.spec.log_abs_det,
        index=some,
        bound_samples=loop.bound_samples,
        charged=job.config.objective.selects_by_bound,
    )
    if engine.is_main:
        metrics = folder.metrics()
        last = [line for line in metrics if line["kind"] == "held_out"][-1]
        measured = Measured(job.config, selected, training, last, done, metrics)
        folder.save_findings([*judge(measured), *job.findings])


def _refuse_changes(changed: Mapping[str, tuple[Any, Any]]) -> None:
    frozen = {key: pair for key, pair in changed.items() if not key.startswith(MAY_CHANGE)}
    if frozen:
        listed = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in frozen.items())
        raise BadInput("setting", listed, "a resumed run keeps its settings", "train a new run with the new ones")


def _refuse_fewer_steps(changed: Mapping[str, tuple[Any, Any]], folder: Path) -> None:
    """A run cannot end before the step it has reached."""
    reached = max((int(path.name.partition("-")[2]) for path in (folder / "checkpoints").glob("step-*")), default=0)
    if "train.steps" in changed and (changed["train.steps"][1] or 0) <= reached:
        raise BadInput("train.steps", changed["train.steps"][1], f"the run is at step {reached} already", "give more")


def _resumed_otherwise(changed: Mapping[str, tuple[Any, Any]], config: Config) -> Finding:
    listed = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in changed.items())
    moved = "train.steps" in changed and config.train.schedule != "constant"
    why = f"the {config.train.schedule} schedule of the learning rate ends elsewhere: not the weights of one long run"
    return Finding(
        "TR109",
        "info",
        f"resumed with other settings: {listed}",
        evidence="config.yaml holds the new ones",
        why=why if moved else "",
    )


def _say_damage(damaged: list[str], display: Display) -> None:
    for line in damaged:
        display.say(f"passed over a damaged checkpoint: {line}")


@contextlib.contextmanager
def engine_for(config: Config) -> Iterator[Engine]:
    """The engine with threads and determinism as configured; all put back afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    engine = Engine(config.train.device)
    try:
        with as_before(), float32_of(config.train.precision, engine.device):
            yield engine
        engine.close()
    finally:
        if torch.are_deterministic_algorithms_enabled() != deterministic:  # setting it takes seconds the first time
            torch.use_deterministic_algorithms(deterministic)


@contextlib.contextmanager
def _lock(path: Path, engine: Engine) -> Iterator[None]:
    if not engine.is_main:
        yield
        return
    with locked(path):
        yield


@contextlib.contextmanager
def memory_for(config: Config, spec: Spec, runs: int = 1) -> Iterator[None]:
    """Says what to set when memory runs out, with so many runs at once."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        size = config.train.batch_size
        batch = readable_bytes(4 * size * int(np.prod(spec.shape)))
        other = f"train.accumulate={2 * config.train.accumulate}" if runs == 1 else f"fewer than {runs} runs at once"
        raise VaelabError(
            f"out of memory with train.batch_size={size} ({batch} a batch before the networks); "
            f"try train.batch_size={max(1, size // 2)} or {other}; "
            "the last checkpoint is intact"
        ) from None
