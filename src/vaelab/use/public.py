"""What of a run may leave the machine: its files without paths, commands and, unless asked for, rows of its data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..core.durable import load_folder, manifest_of, to_json
from ..training.checkpoint import Checkpoints, pack
from ..training.run import Run

Files = dict[str, bytes]
# Of `environment.json`; the command, the platform and the state of a repository stay on the machine.
ENVIRONMENT = (
    "versions", "device", "processes", "threads", "seed", "not_deterministic", "parameters", "own_model",
    "own_objective", "objective", "settings", "tuning", "data",
)  # fmt: skip
MEASURED = ("metrics.jsonl", "findings.jsonl", "diagnosis.json", "evaluation.json")
# A path from the root, the home or the folder above; what is kept of it is the last name.
PATH = re.compile(r"(?<![\w./\\])(?:~|\.{1,2}|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:()\[\]]+[/\\])+([^\s/\\'\",;:()\[\]]*)")


def run_files(run: Run, rows: bool = False) -> Files:
    """The files of a run folder that holds only what a loaded run needs, by their names.

    Args:
        run: With selected weights.
        rows: Whether the held-out and training rows, labels and conditions that the run keeps go along.
    """
    weights, measured = Checkpoints(run.folder / "checkpoints").load_best()
    files = {
        "config.yaml": yaml.safe_dump(_config(run), sort_keys=False).encode(),
        "environment.json": _json({key: run.environment[key] for key in ENVIRONMENT if key in run.environment}, run),
    }
    files |= {name: _lines(run.folder / name, run) for name in MEASURED if (run.folder / name).is_file()}
    files |= _in_folder("data", _data(run, rows))
    best = {"model.safetensors": pack(weights), "measured.json": _json(measured, run)}
    return files | _in_folder(f"checkpoints/best-{measured['step']:09d}", best)


def left_out(run: Run, rows: bool = False) -> list[str]:
    """What `run_files` leaves behind, in words."""
    machine = [key for key in ("command", "platform", "git") if run.environment.get(key)]
    kept = sum(len(part) for part in (run.preview, run.training_preview) if part is not None) if run.keeps_rows else 0
    told = [f"{', '.join(machine)} of this machine"] if machine else []
    told += ["paths, but for the last name of each"]
    return told if rows or not kept else [*told, f"{kept} rows of the data (--rows takes them along)"]


def _config(run: Run) -> dict[str, Any]:
    """The settings, with the last name of the source alone."""
    source = run.config.data.source
    named = {"data_dir": None, "source": source and Path(source).name}
    return run.config.updated(data=named).model_dump(mode="json")


def _data(run: Run, rows: bool) -> Files:
    """The content of `data`; without rows there is an array of none in their place."""
    spec = replace(run.spec, name=_public(run.spec.name, run))
    bare = spec.to_files(np.zeros((0, *spec.shape), np.float32), None)
    return load_folder(run.folder / "data") | {"spec.json": bare["spec.json"]} if rows else bare


def _in_folder(name: str, files: Files) -> Files:
    """The same below a folder, with a manifest of their digests."""
    return {f"{name}/{inner}": data for inner, data in (files | {"manifest.json": manifest_of(files)}).items()}


def _lines(path: Path, run: Run) -> bytes:
    """A file of JSON, or of a value a line, with public texts."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return _json(json.loads(text), run)
    return "".join(
        to_json(_public(json.loads(line), run)) + "\n" for line in text.splitlines() if line.strip()
    ).encode()


def _json(value: Any, run: Run) -> bytes:
    return to_json(_public(value, run), indent=1).encode() + b"\n"


def _public(value: Any, run: Run) -> Any:
    """Plain values with no path in any text."""
    return _mapped(value, _places(run))


def _places(run: Run) -> list[tuple[str, str]]:
    """Paths that are known, with what stands for them, the longest first: these may hold blanks."""
    data = run.config.data
    known: Iterable[Any] = (data.source, data.data_dir, run.folder, run.folder.resolve(), Path.cwd(), Path.home())
    pairs = {str(path): Path(path).name for path in known if path is not None and len(Path(path).parts) > 1}
    return sorted(pairs.items(), key=lambda pair: -len(pair[0]))


def _mapped(value: Any, places: list[tuple[str, str]]) -> Any:
    if isinstance(value, str):
        for path, name in places:
            value = value.replace(path, name)
        return PATH.sub(r"\1", value)
    if isinstance(value, dict):
        return {key: _mapped(item, places) for key, item in value.items()}
    return [_mapped(item, places) for item in value] if isinstance(value, list | tuple) else value
