"""`check` before training and `diagnose` after it, for what users have: models, data, runs, and logs of others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .checks.run import foreign, full
from .core.config import build_config
from .core.errors import BadInput
from .core.finding import Finding
from .diagnosis.run import Diagnosis, diagnose_run
from .monitoring.causes import explained
from .objectives.base import Objective
from .training.fit import checked, constant_baseline, engine_for
from .training.job import prepare
from .training.rules import applicable
from .training.run import Run

BATCH = 128  # rows that a stranger's model is tried on


def check(
    model: nn.Module | None,
    x: Any,
    *,
    config: Mapping[str, Any] | None = None,
    objective: Objective | None = None,
    loss: Any = None,
) -> list[Finding]:
    """Everything that can be known before training: the data against the likelihood, and one step of the model.

    Nothing is changed: weights, buffers, modes and random numbers are as they were.

    Args:
        model: One of ours, such as `vaelab.VAE(...)`; None: the one that the settings describe; or any `nn.Module`
            together with `loss`.
        x: Data, as `vaelab.train` takes it; for a stranger's module a tensor of rows.
        config: Settings, as `vaelab.train` takes them.
        objective: An objective of your own.
        loss: For a stranger's module: `loss(model, batch)`, a scalar in nats per sample to minimise.

    Returns:
        Findings, the cause first; an empty list never means that nothing was looked at.

    Raises:
        BadInput: for data or settings that break a rule.
    """
    if loss is not None:
        return explained(foreign(_module(model), loss, _rows(x)))
    if model is not None and not callable(getattr(model, "draw", None)):
        fix = "pass loss=..., a function of the model and a batch"
        raise BadInput("model", type(model).__name__, "is none of vaelab's, so that its loss is not known", fix)
    settings = build_config(config or {})
    with engine_for(settings) as engine:
        job = prepare(x, settings, engine, model, objective)
        job.model.to(engine.device)
        found = checked(job, full, constant_baseline(job)["negative_elbo"])
    return explained(applicable([*job.findings, *found], job.config))


def diagnose(
    subject: Run | str | os.PathLike[str], *, mapping: Mapping[str, str] | None = None, model: nn.Module | None = None
) -> Diagnosis:
    """What went wrong in a training, from which number, and what to do first.

    Args:
        subject: A run, its folder, or a log of any training: TensorBoard events, a CSV file, or JSON lines.
        mapping: For a log: which tag holds which role, such as `{"kl": "train/kld"}`; what is left out is guessed.
        model: For a run of a model of your own.

    Returns:
        Its `findings`, the cause first, and for a run its `numbers`, each with an interval. It iterates over findings.

    Raises:
        BadInput: if there is neither a run nor a log.
        Corrupt: if a file of the run does not match its digest.
    """
    from .diagnosis.logs import diagnose_log, read_log

    if not isinstance(subject, Run) and not (Path(subject) / "config.yaml").is_file():
        _refuse_folder_of_runs(Path(subject))
        log = read_log(subject, mapping)
        return Diagnosis(findings=explained(diagnose_log(log)), heading=str(log))
    run = subject if isinstance(subject, Run) else Run(subject, model)
    if unmeasured := _unmeasured(run):
        return Diagnosis(findings=run.findings, heading=unmeasured)
    found = diagnose_run(run)
    found = replace(found, findings=applicable(found.findings, run.config))
    run.keep_diagnosis(found.to_dict())
    return replace(found, findings=run.findings)


def _unmeasured(run: Run) -> str:
    """Why there is no model to measure; what was found during training is told all the same."""
    if not run.metrics:
        return f"{run.folder}: no evaluation yet, so that there are no weights to look at"
    if run.lacks_model:
        return f"{run.folder}: trained a model of your own; pass it to measure it: vaelab.diagnose(folder, model=...)"
    return ""


def _refuse_folder_of_runs(path: Path) -> None:
    inside = sorted(str(run.parent) for run in path.glob("*/config.yaml")) if path.is_dir() else []
    if inside:
        raise BadInput("subject", path, f"is a folder of {len(inside)} runs", f"name one of them, such as {inside[-1]}")


def _module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise BadInput("model", type(model).__name__, "must be a torch.nn.Module")
    return model


def _rows(x: Any) -> torch.Tensor:
    if not isinstance(x, torch.Tensor | np.ndarray) or x.ndim < 1 or not len(x):
        raise BadInput("x", type(x).__name__, "must be a tensor or an array of rows, as the model takes them")
    return torch.as_tensor(x)[:BATCH]
