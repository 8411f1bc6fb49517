"""What a run ran on: versions, device, threads, seed, the state of the code beside it, and the data's fingerprint."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ..core.config import Config, flat
from ..core.durable import to_json
from .engine import Engine
from .job import Job

PACKAGES = ("vaelab", "torch", "numpy", "scikit-learn", "safetensors", "pydantic")


MAY_CHANGE = (
    "train.steps",
    "train.patience",
    "train.device",
    "train.threads",
    "train.cuda_graph",
    "train.on_nan",
    "data.source",
    "data.data_dir",
    "report.",
)


def settings_digest(config: Config) -> str:
    """A digest of the settings that a resumed run has to keep.

    Those at their defaults are left out, so that a setting which a later version adds changes no digest.
    """
    given = flat(config.model_dump(mode="json", exclude_defaults=True))
    kept = {key: value for key, value in given.items() if not key.startswith(MAY_CHANGE)}
    return hashlib.sha256(to_json(kept).encode()).hexdigest()


def describe(job: Job, engine: Engine) -> dict[str, Any]:
    """Plain values for `environment.json`."""
    config, spec = job.config, job.spec
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": str(engine.device),
        "processes": engine.world,
        "threads": torch.get_num_threads(),
        "seed": config.seed,
        "not_deterministic": _not_deterministic(config, engine),
        "git": _git(),
        "command": " ".join(sys.argv[1:]),
        "parameters": sum(parameter.numel() for parameter in job.model.parameters()),
        "own_model": job.own_model,
        "own_objective": job.own_objective,
        "objective": repr(job.objective),
        "settings": settings_digest(config),
        "data": {
            "name": spec.name,
            "fingerprint": spec.fingerprint,
            "rows": spec.rows,
            "held_out_rows": spec.held_out_rows,
        },
    }


def _not_deterministic(config: Config, engine: Engine) -> list[str]:
    """What can change the bits of a repeated run."""
    causes = ["another number of threads, another processor, another version of torch"]
    if engine.world > 1:
        causes.append("the order in which processes add up gradients")
    if engine.device.type == "cuda" and not config.train.deterministic:
        causes.append("CUDA kernels that add up in any order; train.deterministic=true refuses them")
    return causes


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit and cleanliness of the repository that the command was called in; None outside of one."""
    try:
        commit = _output("git", "rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_output("git", "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()
