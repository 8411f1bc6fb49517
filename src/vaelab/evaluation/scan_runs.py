"""The runs of a scan: trained, continued or kept, each in a folder of its own, and what held-out rows say of each."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, beside
from ..core.config import Config, differences, flat
from ..core.durable import locked, saying_why
from ..core.errors import BadInput, Diverged
from ..distributions.kl import divergence
from ..measure.importance import draw_z, importance_bound
from ..training.checkpoint import Checkpoints, load_weights
from ..training.fit import fit, resume
from ..training.folder import RunFolder, new_folder
from ..training.job import Job
from ..training.many import fit_many
from ..training.run import Run
from ..training.show import Lines
from ..training.stackable import NoStack, pays

FILES = ("scan.json", "scan.txt", "scan.svg", "scan.png")  # of a scan, beside its runs
FREE = ("data.source", "data.data_dir", "report.", "train.device", "train.threads")  # a kept run may differ in these
ENCODED = 1024  # rows at once


@dataclass(frozen=True)
class Reading:
    """What a run makes of n held-out rows, in nats on the data's own scale.

    Args:
        folder: Name of the run's folder.
        step: At which its weights were reached.
        kl: KL(q(z|x) || p(z)), [n, L], or [n, 1] where it is known for all dimensions together.
        mean: Posterior means, [n, L].
        elbo: [n].
        bound: The importance-weighted bound on log p(x), [n].
    """

    folder: str
    step: int
    kl: np.ndarray
    mean: np.ndarray
    elbo: np.ndarray
    bound: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """KL(q(z|x) || p(z)), [n]."""
        return self.kl.sum(1)

    @property
    def distortion(self) -> np.ndarray:
        """-E[log p(x|z)], [n]."""
        return -self.elbo - self.rate


@contextmanager
def scan_folder(out: str | os.PathLike[str] | None, name: str, word: str) -> Iterator[Path]:
    """The folder of a scan, held for this process.

    Args:
        out: Where; None: a fresh one under `runs/`.
        name: Of the data and the scan, for a fresh one.
        word: What the folders of its runs begin with.

    Raises:
        BadInput: if something else is there.
        InUse: if another process holds it.
    """
    folder = new_folder(None, name) if out is None else Path(out)
    with saying_why(folder):
        if folder.exists() and not folder.is_dir():
            raise BadInput("out", folder, "is a file", "name a folder for the scan")
        there = [item.name for item in folder.iterdir()] if folder.is_dir() else []
        others = [item for item in there if item[0] != "." and item not in FILES and not item.startswith(f"{word}-")]
        if others:
            raise BadInput("out", folder, f"holds something else: {others[0]}", "name a new folder or this scan's")
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield folder


def check_kept(folder: Path, word: str, setting: str, resolved: Mapping[str, Config], fingerprint: str) -> None:
    """Raises where a run in the folder has other settings or other data than the scan.

    Args:
        resolved: What the runs of the scan have to have, by the names of their folders.
    """
    one = next(iter(resolved.values()))
    for path in sorted(folder.glob(f"{word}-*")):
        if not (path / "config.yaml").is_file():
            continue
        kept = RunFolder(path, writes=False)
        old = kept.config()
        wanted = resolved.get(path.name) or one.edited({setting: flat(old.model_dump())[setting]})
        changed = {key: pair for key, pair in differences(old, wanted).items() if not key.startswith(FREE)}
        if changed:
            listed = ", ".join(f"{key} {was} -> {now}" for key, (was, now) in changed.items())
            raise BadInput("out", path, f"is a run with other settings: {listed}", "name another folder for the scan")
        if kept.environment()["data"]["fingerprint"] != fingerprint:
            raise BadInput("out", path, "is a run on other data", "name another folder for the scan")


def train_together(source: Any, runs: Mapping[Path, Config], job: Job, progress: bool) -> None:
    """Trains those runs of a scan that have not begun at once, where that pays and where their models go into a stack.

    Args:
        runs: Their folders, and settings that differ in the seed and in beta alone.
        job: One of them.
    """
    fresh = {path: config for path, config in runs.items() if not (path / "config.yaml").is_file()}
    if len(fresh) > 1 and pays(job, len(fresh)):
        with suppress(NoStack):
            fit_many(source, fresh, progress=progress)


def run_of(source: Any, config: Config, path: Path, progress: bool) -> Run:
    """The finished run in a folder: kept as it is, continued from where it stopped, or trained.

    Damage in it is told on standard error, with or without progress: its numbers may differ from what they were.

    Raises:
        Diverged: if no evaluation of it was finite.
    """
    if not (path / "config.yaml").is_file():
        run = fit(source, config, out=path, progress=progress)
    else:
        run = Run(path)
        for line in _damage(run):
            Lines().say(f"{path}: {line}")
        run = run if run.is_finished else resume(path, x=source, progress=progress)
    if not run.metrics:
        raise Diverged(f"{path}: no held-out evaluation was finite; leave this value out of the scan")
    return run


def _damage(run: Run) -> list[str]:
    """What is amiss with the checkpoints of a run, and what comes of it, a line each."""
    folder = run.folder / "checkpoints"
    if any(folder.glob("step-*")):
        return [f"damaged, an earlier checkpoint counts: {line}" for line in Checkpoints(folder).load_last()[2]]
    trained = max((line["step"] for line in run.history), default=0)
    if run.is_finished or not trained:  # it can do without them, or was killed before the first
        return []
    return [f"damaged, its checkpoints are gone after {trained} steps: trained anew"]


def read_best(run: Run, x: Tensor | Batch, samples: int, seed: int, shift: float) -> Reading:
    """The reading of whichever kept weights have the lower distortion + beta * rate: the selected or the last ones."""
    model = copy.deepcopy(run.model).to(x.device)
    found = [_read(run, model, run.metrics["step"], x, samples, seed, shift)]
    last = _last(run)
    if last is not None and last[0] != found[0].step:
        load_weights(model, last[1], run.folder)
        found.append(_read(run, model, last[0], x, samples, seed, shift))
    beta = run.config.objective.beta
    losses = [float((reading.distortion + beta * reading.rate).mean()) for reading in found]
    return found[int(np.argmin(np.nan_to_num(losses, nan=np.inf)))]


def _last(run: Run) -> tuple[int, dict[str, Tensor]] | None:
    """The last weights, averaged ones where the run averages, and their step; None where they were removed."""
    folder = run.folder / "checkpoints"
    if not any(folder.glob("step-*")):
        return None
    progress, tensors, _ = Checkpoints(folder).load_last()
    return progress.step, tensors.get("ema", tensors["model"])


def _read(run: Run, model: Any, step: int, x: Tensor | Batch, samples: int, seed: int, shift: float) -> Reading:
    bound = importance_bound(model, x, samples, seed=seed).shifted(shift)
    starts = range(0, len(x), ENCODED)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        coded = [_encoded(model, x[start : start + ENCODED], start, samples, seed) for start in starts]
    kl, mean = (torch.cat(column).double().cpu().numpy() for column in zip(*coded, strict=True))
    return Reading(run.folder.name, step, kl, mean, bound.elbo, bound.values)


def _encoded(model: Any, x: Tensor | Batch, first: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """KL(q(z|x) || p(z)) of rows of which the first is row `first`, from the draws of the bound, and means of q."""
    q = model.encode(x)
    return divergence(q, model.prior_distribution(*beside(x)), draw_z(q, samples, seed, first))[0], q.mean
