"""Checkpoints: weights, optimiser and counters as safetensors and JSON, each with its digest; nothing is pickled."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ..core.durable import load_folder, remove_folder, save_folder, to_json
from ..core.errors import Corrupt

FORMAT = 1
KEEP = 2  # full checkpoints kept: the last, and the one before it for the day the last is damaged


@dataclass
class Progress:
    """Where a run stands: all that an exact resume needs besides tensors.

    Args:
        step: Optimiser steps done.
        best_step: Step of the selected weights; None before the first evaluation.
        best: What the weights were selected by on held-out rows, see `selected_by`, nats per sample.
        stale: Evaluations since the best one, counted after the warm-up.
        rate_factor: Factor on the learning rate; below 1 after a rollback.
        rollbacks: How often the run went back.
        refused: Steps whose loss or gradient was not finite.
        metrics_bytes: Length of `metrics.jsonl` at this step.
        seconds: Time spent in training.
        window: Sums since the last line of metrics.
        anchor: Step of the checkpoint that a rollback goes back to; None: the newest.
        suspect: The step that made the run go back last.
        trial: Steps left out in a row since the suspect failed again; whether batches or weights are to blame is open.
        blamed: Steps whose batch is to blame.
        failures: How often the run went back from each factor on the learning rate, by the factor's text.
        collapsed: Evaluations in a row without a dimension in use, counted after the warm-up.
        annealed: Step at which the weight of the divergence was taken back to 0; None: not so far.
        anneal_steps: Steps over which it rises again.
        control: The state of the controller of the weight; empty where there is none.
    """

    step: int = 0
    best_step: int | None = None
    best: float | None = None
    stale: int = 0
    rate_factor: float = 1.0
    rollbacks: int = 0
    refused: int = 0
    metrics_bytes: int = 0
    seconds: float = 0.0
    window: dict[str, Any] = field(default_factory=dict)
    anchor: int | None = None
    suspect: int | None = None
    trial: list[int] = field(default_factory=list)
    blamed: list[int] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    collapsed: int = 0
    annealed: int | None = None
    anneal_steps: int = 0
    control: dict[str, float] = field(default_factory=dict)


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors as safetensors; tied tensors are written once under each name."""
    return save_tensors({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})


def unpack(data: bytes, where: Path) -> dict[str, Tensor]:
    """Named tensors from safetensors.

    Raises:
        Corrupt: if the bytes are no safetensors.
    """
    try:
        return load_tensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{where}: not a file of tensors ({error})") from None


class Checkpoints:
    """The `checkpoints` folder of a run.

    `step-N` holds all that a resume needs; `best-N` holds the selected weights, and `fitted-N` the same with the prior
    that was fitted after training.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, progress: Progress, tensors: Mapping[str, Mapping[str, Tensor]]) -> Path:
        """Writes `step-N` and then removes the ones that are no longer needed."""
        path = self.folder / f"step-{progress.step:09d}"
        files = {f"{name}.safetensors": pack(group) for name, group in tensors.items()}
        files["progress.json"] = to_json({"format": FORMAT, **asdict(progress)}, indent=1).encode()
        save_folder(path, files)
        self._prune(progress)
        return path

    def forget_after(self, step: int) -> None:
        """Removes full checkpoints of later steps, which a run that went back has yet to reach."""
        for path in self.folder.glob("step-*"):
            if _number(path) > step:
                remove_folder(path)

    def save_best(self, weights: Mapping[str, Tensor], measured: Mapping[str, Any]) -> None:
        """Writes `best-N`: the selected weights and what was measured on held-out rows."""
        self._save_selection("best", weights, measured)

    def save_fitted(self, weights: Mapping[str, Tensor], measured: Mapping[str, Any]) -> None:
        """Writes `fitted-N`, which from then on stands for `best-N`: the same weights with a prior fitted later."""
        self._save_selection("fitted", weights, measured)

    def _save_selection(self, kind: str, weights: Mapping[str, Tensor], measured: Mapping[str, Any]) -> None:
        files = {"model.safetensors": pack(weights), "measured.json": to_json(dict(measured), indent=1).encode()}
        save_folder(self.folder / f"{kind}-{measured['step']:09d}", files)

    def load_last(self, newest: int | None = None) -> tuple[Progress, dict[str, dict[str, Tensor]], list[str]]:
        """The newest checkpoint that is whole, and a line for each damaged one that was passed over.

        Args:
            newest: Take none of a later step; None takes any.

        Raises:
            Corrupt: if none is whole, naming what is wrong with each.
        """
        damaged: list[str] = []
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            if newest is not None and _number(path) > newest:
                continue
            try:
                files = load_folder(path)
                progress = _progress(files.pop("progress.json"), path)
                if progress.best_step is not None:
                    self.load_best(progress.best_step)
                return progress, {name.partition(".")[0]: unpack(data, path) for name, data in files.items()}, damaged
            except (Corrupt, KeyError) as error:
                damaged.append(str(error) if isinstance(error, Corrupt) else f"{path}: the file {error} is missing")
        raise Corrupt("; ".join(damaged) or f"{self.folder}: holds no checkpoint")

    def load_best(self, step: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Selected weights and what was measured with them; the last whole ones where no step is named.

        A damaged selection that is passed over is named in a warning.

        Raises:
            Corrupt: if the named selection, or every one, is damaged.
        """
        named = f"{step:09d}" if step is not None else "*"
        selections: list[Path] = []
        for best in sorted(self.folder.glob(f"best-{named}"), reverse=True):
            fitted = best.with_name(f"fitted-{_number(best):09d}")
            selections += [fitted, best] if fitted.exists() else [best]
        damaged: list[str] = []
        for path in selections:
            try:
                found = _selection(path)
            except Corrupt as error:
                damaged.append(str(error))
                continue
            for line in damaged:
                warnings.warn(f"passed over: {line}", RuntimeWarning, stacklevel=2)
            return found
        raise Corrupt("; ".join(damaged) or f"{self.folder}: holds no selected weights yet")

    def _prune(self, progress: Progress) -> None:
        """Keeps the last `KEEP` full checkpoints, the anchor, and every selection that one of them refers to."""
        full = sorted(self.folder.glob("step-*"))
        kept = [path for path in full if path in full[-KEEP:] or _number(path) == progress.anchor]
        for path in set(full) - set(kept):
            remove_folder(path)
        needed = {progress.best_step}
        for path in kept[:-1]:
            try:
                needed.add(_progress((path / "progress.json").read_bytes(), path).best_step)
            except (Corrupt, OSError):
                continue
        for path in [*self.folder.glob("best-*"), *self.folder.glob("fitted-*")]:
            if _number(path) not in needed:
                remove_folder(path)


def _number(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _selection(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    files = load_folder(path)
    try:
        weights, measured = unpack(files["model.safetensors"], path), json.loads(files["measured.json"])
    except KeyError as error:
        raise Corrupt(f"{path}: the file {error} is missing") from None
    if _number(path) != measured["step"]:
        raise Corrupt(f"{path}: holds step {measured['step']}, which its name denies")
    return weights, measured


def _progress(data: bytes, path: Path) -> Progress:
    try:
        values = json.loads(data)
        if values.pop("format") != FORMAT:
            raise Corrupt(f"{path}: written by another format; this version reads format {FORMAT}")
        progress = Progress(**values)
        if path.name != f"step-{progress.step:09d}":
            raise Corrupt(f"{path}: holds step {progress.step}, which its name denies")
        return progress
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{path}: unreadable progress ({error})") from None


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Loads weights by name.

    Raises:
        Corrupt: if names or shapes do not fit the model.
    """
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise Corrupt(f"{where}: the weights do not fit the model ({str(error).splitlines()[-1].strip()})") from None
