"""Runs that differ in one setting, side by side: the rate-distortion curve, and how many dimensions data need."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..core.config import Config, build_config, flat
from ..core.durable import write_json, write_text
from ..core.errors import BadInput, Interrupted
from ..core.finding import Finding
from ..core.seeds import generator
from ..measure.baseline import spaced
from ..measure.estimate import Estimate, mean_of
from ..training.fit import engine_for
from ..training.job import Job, prepare
from ..training.show import Lines
from .latent import dimensions
from .scan_judge import judge_betas, judge_latents
from .scan_runs import Reading, check_kept, read_best, run_of, scan_folder, train_together
from .scan_text import as_text

BETAS, LATENTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0), (1, 2, 4, 8, 16, 32)
SAMPLES = 64  # posterior samples of a row: the ELBO's noise is then far below the spread of rows
MOST_ROWS = 10_000  # held-out rows looked at
NATS = "nats per sample"


@dataclass(frozen=True)
class Kind:
    """A scan: the setting it changes, what that is called for short, what its values must be, and what judges it."""

    name: str
    setting: str
    word: str
    number: type
    rule: str
    least: int
    judge: Callable[[Sequence[Any], Sequence[Reading], int], Iterator[Finding]]


CURVE = Kind("rate-distortion", "objective.beta", "beta", float, "must be finite numbers from 0 on", 0, judge_betas)
SIZES = Kind("intrinsic-dimension", "model.latent", "latent", int, "must be whole numbers from 1 on", 1, judge_latents)


@dataclass(frozen=True)
class Point:
    """One run of a scan on held-out rows, in nats per sample on the data's own scale, at beta = 1 whatever it was.

    Args:
        value: Of the setting.
        folder: Of the run, in that of the scan.
        step: At which its weights were reached.
        rate: E[KL(q(z|x) || p(z))].
        distortion: -E[log p(x|z)].
        negative_elbo: Their sum.
        negative_bound: Minus the importance-weighted bound on log p(x).
        behind: Its negative ELBO minus that of the best run, row by row.
        latent: Dimensions of its code.
        active_units: Dimensions with more than 0.01 nats, or, where these are not known singly, the next number.
        active_by_mean: Dimensions whose posterior mean varies by more than 0.01 over rows.
    """

    value: float
    folder: str
    step: int
    rate: Estimate
    distortion: Estimate
    negative_elbo: Estimate
    negative_bound: Estimate
    behind: Estimate
    latent: int
    active_units: Estimate
    active_by_mean: Estimate


@dataclass(frozen=True)
class Scan:
    """What a scan found; printed, a table and what follows from it.

    Args:
        kind: "rate-distortion" or "intrinsic-dimension".
        word: What a value is called, "beta" or "latent".
        data: Name of the data.
        fingerprint: Of its rows.
        rows: Held-out rows looked at.
        samples: Posterior samples of each, and K of the bound on log p(x).
        binarize: How gray levels became bits.
        seed: Of the runs, the split and all draws.
        points: The runs, by ascending value.
        findings: What follows from them.
        folder: Where the runs, `scan.json` and `scan.txt` are.
    """

    kind: str
    word: str
    data: str
    fingerprint: str
    rows: int
    samples: int
    binarize: str
    seed: int
    points: tuple[Point, ...]
    findings: tuple[Finding, ...]
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        points = [
            {name: item.to_dict() if isinstance(item, Estimate) else item for name, item in vars(point).items()}
            for point in self.points
        ]
        plain = {name: item for name, item in vars(self).items() if name not in ("points", "findings", "folder")}
        return {**plain, "points": points, "findings": [finding.to_dict() for finding in self.findings]}

    def __str__(self) -> str:
        return as_text(self)


def rate_distortion(
    source: Any = None,
    betas: Sequence[float] = BETAS,
    *,
    config: Config | Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Scan:
    """The rate-distortion curve of a model: a run for each weight of the divergence, with the same seed and split.

    A linear model of a Gaussian source has the curve of reverse water-filling, and everywhere its slope is -beta. Of
    the weights a run keeps, those with the lower distortion + beta * rate on the held-out rows count: the selected ones
    have the best bound at beta = 1, which a run at beta = 8 may pass early on its way, and the last ones may overfit.
    Where that takes less time and the models allow it, the runs are trained at once, as by `vaelab.train_many`.

    Reference: Alemi, Poole, Fischer, Dillon, Saurous and Murphy, Fixing a Broken ELBO, 2018.

    Args:
        source: As for `vaelab.train`; None: `data.source`.
        betas: Weights of the divergence.
        config: All other settings; one that sets beta itself is refused.
        out: A new folder, or that of the same scan: finished runs are kept, an interrupted one goes on, others are
            added. None: a fresh one under `runs/`.
        progress: Show progress on standard error, where damage in a kept run is told in any case.

    Raises:
        BadInput: for values, data or settings that break a rule, and for a folder that holds something else.
        Diverged, Interrupted, NoSpace, InUse: as their names say; what is finished is kept.
    """
    return _scan(CURVE, source, betas, config, out, progress)


def intrinsic_dimension(
    source: Any = None,
    latents: Sequence[int] | None = None,
    *,
    config: Config | Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Scan:
    """How many latent dimensions the data need: a run for each size, read in two ways.

    By the bound: the smallest size whose held-out ELBO is behind the best one by no more than the error of their
    difference over rows and 0.01 nats for each dimension less. By active units: how many are in use where more
    dimensions bring no more into use. The first may be too high by the luck of training, which an error over rows does
    not know; the second where a model fits dimensions to the noise of few rows.

    Args:
        source: As for `vaelab.train`; None: `data.source`.
        latents: Sizes, none above the number of entries of a row; None: 1, 2, 4, 8, 16 and 32, as far as that goes.
        config: All other settings; one that sets the size itself is refused.
        out, progress: As for `rate_distortion`.

    Raises:
        As `rate_distortion`.
    """
    return _scan(SIZES, source, latents, config, out, progress)


def _scan(
    kind: Kind,
    source: Any,
    given: Sequence[float] | None,
    settings: Config | Mapping[str, Any] | None,
    out: str | os.PathLike[str] | None,
    progress: bool,
) -> Scan:
    config = settings if isinstance(settings, Config) else build_config(settings or {})
    source = config.data.source if source is None else source
    if source is None:
        raise BadInput("source", None, "there is nothing to train on", "name a file, a folder, digits, mnist or shapes")
    _refuse_swept(kind, config)
    values = None if given is None else _checked(kind, given)
    with engine_for(config) as engine:
        job = prepare(source, config, engine, None, None)
    entries = math.prod(job.spec.shape)
    values = values or sorted({min(size, entries) for size in LATENTS})
    if kind is SIZES and values[-1] > entries:
        rule = f"must be at most {entries}, the entries of a row: in more directions rows cannot vary"
        raise BadInput(kind.word, values[-1], rule, f"such as {entries}")
    configs = {value: config.edited({kind.setting: value}) for value in values}  # all settings are seen before a step
    resolved = {_name(kind, value): job.config.edited({kind.setting: value}) for value in values}
    coins = generator(config.seed, "coins", device=job.held_out.device)
    x = job.held_out.take(spaced(len(job.held_out), MOST_ROWS), coins)
    with scan_folder(out, f"{Path(job.spec.name).stem}-{kind.name}", kind.word) as folder:
        check_kept(folder, kind.word, kind.setting, resolved, job.spec.fingerprint)
        readings, paths = [], {value: folder / _name(kind, value) for value in values}
        if kind is CURVE:
            try:
                train_together(source, {paths[value]: configs[value] for value in values}, job, progress)
            except Interrupted as error:
                raise _stopped(error, "all runs at once", folder) from None
        for number, value in enumerate(values, 1):
            path, which = paths[value], f"run {number} of {len(values)}"
            if progress:
                Lines().say(f"{which}: {kind.setting}={value:g}, in {path}")
            try:
                run = run_of(source, configs[value], path, progress)
            except Interrupted as error:
                raise _stopped(error, f"{which}, {path.name}", folder) from None
            readings.append(read_best(run, x, SAMPLES, config.seed, job.spec.log_abs_det))
        scan = _summed_up(kind, values, readings, job, len(x), folder)
        write_json(folder / "scan.json", scan.to_dict())
        write_text(folder / "scan.txt", f"{scan}\n")
    return scan


def _refuse_swept(kind: Kind, config: Config) -> None:
    """A setting of which the scan tries values cannot have one of its own beside them."""
    given, default = (flat(one.model_dump())[kind.setting] for one in (config, Config()))
    if given != default:
        rule = f"the scan itself sets it, to another {kind.word} for each run"
        raise BadInput(kind.setting, given, rule, f"leave it out, and name it among the values of {kind.word}")


def _stopped(error: Interrupted, where: str, folder: Path) -> Interrupted:
    """The same error with what a scan needs to go on: training would advise an option that no scan has."""
    number = error.status - 128
    name = signal.Signals(number).name
    text = f"{name}: stopped in {where}, and saved; to go on give the same command again with --out {folder}"
    return Interrupted(text, number)


def _checked(kind: Kind, given: Sequence[float]) -> list[float]:
    """The values, ascending."""
    rule = f"{kind.rule}, each once"
    values = [given] if isinstance(given, int | float) else list(given)
    if not values:
        raise BadInput(kind.word, "no values", rule, "such as 0.5,1,2" if kind is CURVE else "such as 1,2,4")
    for value in values:
        right = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not (right and math.isfinite(value) and value >= kind.least and kind.number(value) == value):
            raise BadInput(kind.word, repr(value), rule)
    known = sorted(kind.number(value) for value in values)
    twice = [value for value, again in pairwise(known) if value == again]
    if twice:
        raise BadInput(kind.word, twice[0], rule, "leave one of them out")
    return known


def _name(kind: Kind, value: float) -> str:
    """Of a run's folder.

    Example:
        >>> _name(CURVE, 1.0), _name(CURVE, 0.25), _name(CURVE, 0.12345678)
        ('beta-1', 'beta-0.25', 'beta-0.12345678')
    """
    return f"{kind.word}-{value:.15g}"


def _summed_up(
    kind: Kind, values: Sequence[float], readings: Sequence[Reading], job: Job, rows: int, folder: Path
) -> Scan:
    best = max(readings, key=lambda reading: np.nan_to_num(reading.elbo.mean(), nan=-np.inf))
    points = tuple(_point(value, reading, best) for value, reading in zip(values, readings, strict=True))
    return Scan(
        kind=kind.name,
        word=kind.word,
        data=job.spec.name,
        fingerprint=job.spec.fingerprint,
        rows=rows,
        samples=SAMPLES,
        binarize=job.spec.binarize,
        seed=job.config.seed,
        points=points,
        findings=tuple(kind.judge(points, readings, math.prod(job.spec.shape))),
        folder=folder,
    )


def _point(value: float, reading: Reading, best: Reading) -> Point:
    coded = dimensions(reading.kl, reading.mean)
    by_mean = coded["active_units_variance"]
    return Point(
        value=value,
        folder=reading.folder,
        step=reading.step,
        rate=coded["rate"],
        distortion=mean_of(reading.distortion, NATS),
        negative_elbo=mean_of(-reading.elbo, NATS),
        negative_bound=mean_of(-reading.bound, NATS),
        behind=mean_of(best.elbo - reading.elbo, NATS),
        latent=reading.mean.shape[1],
        active_units=coded.get("active_units_kl", by_mean),
        active_by_mean=by_mean,
    )
