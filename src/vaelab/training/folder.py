"""The run folder: everything a later command needs, and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..core.config import Config, build_config
from ..core.durable import remove_leftovers, save_folder, saying_why, to_json, write_json, write_text
from ..core.errors import BadInput, Corrupt
from ..core.files import read_json, read_json_lines, read_yaml
from ..core.finding import Finding

BEGUN = ("data", "environment.json")  # what a run that was killed before its config was written leaves behind


def new_folder(out: str | os.PathLike[str] | None, name: str) -> Path:
    """A path for a new run: `out`, or a fresh one under `runs/`; nothing is made yet.

    Raises:
        BadInput: if the path is a file, or a folder with something in it.
    """
    if out is None:
        stem = "".join(char if char.isalnum() else "-" for char in Path(name).stem)[:40].strip("-") or "run"
        base = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        numbered = (base.with_name(f"{base.name}-{n}") if n else base for n in range(10_000))
        return next(path for path in numbered if not path.exists())
    path = Path(out)
    try:
        if path.is_file():
            raise BadInput("out", path, "is a file", "name a folder for the run")
        refuse_second_run(path)
        if path.is_dir() and not _only_begun(path):
            raise BadInput("out", path, "is a folder with other things in it", "name a new or an empty folder")
    except OSError as error:
        raise BadInput("out", str(path)[:80], f"cannot be used ({error.strerror})", "name another folder") from None
    return path


def _only_begun(path: Path) -> bool:
    """Whether a folder is empty, or holds no more than a run of ours that was killed before its config was written."""
    found = {item.name for item in path.iterdir() if item.name[0] != "."}
    ours = all((path / "data" / name).is_file() for name in ("manifest.json", "spec.json"))
    return not found or (ours and found <= set(BEGUN))


def refuse_second_run(path: Path) -> None:
    """Raises where a folder already holds a run; to be asked again once the lock is held."""
    if (path / "config.yaml").exists():
        raise BadInput("out", path, "already holds a run", f"continue it with --resume {path}, or name another")


def existing_folder(path: str | os.PathLike[str]) -> Path:
    """A path that holds a run.

    Raises:
        BadInput: if it does not.
    """
    if not isinstance(path, str | os.PathLike):
        raise BadInput("run", path, "must be the path of a run folder")
    path = Path(path)
    if not (path / "config.yaml").is_file():
        what = "is not there" if not path.exists() else "holds no run (no config.yaml in it)"
        raise BadInput("run", path, what, "name a folder that `vaelab train` made")
    return path


class RunFolder:
    """Reads and writes the files of a run; only the holder of the lock writes."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._lines: list[str] = []

    # Writing ------------------------------------------------------------------------------------------------------

    def begin(self, config: Config, environment: Mapping[str, Any], data: Mapping[str, bytes]) -> None:
        """Writes what is known before the first step."""
        if not self.writes:
            return
        save_folder(self.path / "data", data)
        write_json(self.path / "environment.json", environment)
        self.save_config(config)

    def save_config(self, config: Config) -> None:
        """Writes the resolved config; its presence is what makes a folder a run."""
        if self.writes:
            write_text(self.path / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Appends a line to `metrics.jsonl`; it is on disk after `flush_metrics`."""
        if self.writes:
            self._lines.append(to_json(line) + "\n")
            if len(self._lines) >= 10:
                self._append()

    def flush_metrics(self) -> int:
        """Brings all lines to the disk; returns the length of the file in bytes."""
        with saying_why(self._metrics):
            self._append()
            with open(self._metrics, "ab") as handle:
                os.fsync(handle.fileno())
                return handle.tell()

    def cut_metrics(self, length: int) -> None:
        """Forgets the lines after a checkpoint, which the resumed run will write again."""
        self._lines = []
        if self.writes:
            with saying_why(self._metrics), open(self._metrics, "ab") as handle:
                if handle.tell() < length:
                    raise Corrupt(f"{self._metrics}: shorter than when the checkpoint was saved")
                handle.truncate(length)

    def save_findings(self, findings: Iterable[Finding]) -> None:
        """Writes `findings.jsonl`."""
        if self.writes:
            write_text(self.path / "findings.jsonl", "".join(to_json(f.to_dict()) + "\n" for f in findings))

    def keep(self, name: str, found: Mapping[str, Any]) -> None:
        """Writes `NAME.json`, what was measured after training: a diagnosis or an evaluation."""
        if self.writes:
            write_json(self.path / f"{name}.json", found)

    def clean(self) -> None:
        """Removes what interrupted writes left behind."""
        if self.writes:
            for folder in (self.path, self.path / "checkpoints"):
                remove_leftovers(folder)

    # Reading ------------------------------------------------------------------------------------------------------

    def config(self) -> Config:
        """The resolved config."""
        try:
            return build_config(read_yaml(self.path / "config.yaml"))
        except BadInput as error:
            raise Corrupt(f"{self.path / 'config.yaml'}: {str(error).splitlines()[0]}") from None

    def environment(self) -> dict[str, Any]:
        """Versions, device, seed, data."""
        return read_json(self.path / "environment.json")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics."""
        there = self._metrics.exists() and self._metrics.stat().st_size
        return read_json_lines(self._metrics) if there else []

    def findings(self) -> list[Finding]:
        """All findings."""
        path = self.path / "findings.jsonl"
        return as_findings(read_json_lines(path), path) if path.exists() else []

    def kept(self, name: str) -> dict[str, Any]:
        """The last diagnosis or evaluation, by its name; empty where there is none."""
        path = self.path / f"{name}.json"
        kept = read_json(path) if path.exists() else {}
        if not isinstance(kept, dict):
            raise Corrupt(f"{path}: no {name}")
        return kept

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def _append(self) -> None:
        with saying_why(self._metrics), open(self._metrics, "a", encoding="utf-8") as handle:
            handle.write("".join(self._lines))
        self._lines = []


def as_findings(lines: Iterable[Any], path: Path) -> list[Finding]:
    """Findings from a file of a run.

    Raises:
        Corrupt: if one of them is none.
    """
    try:
        return [Finding.from_dict(line) for line in lines]
    except (ValueError, TypeError) as error:
        raise Corrupt(f"{path}: {error}") from None
