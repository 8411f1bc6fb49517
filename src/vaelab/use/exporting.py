"""`export`: a run as files to hand on; each kind is made and checked before the first is written."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.durable import save_tree, to_json
from ..core.errors import BadInput
from ..core.tables import pick
from ..training.run import Run
from .card import model_card
from .graph_files import onnx_files, torch_files
from .graphs import graphs
from .public import Files, left_out, run_files

KINDS = {
    "safetensors": "the run: weights, config and the description of its data; `vaelab.load` takes the folder",
    "onnx": "encoder.onnx and decoder.onnx",
    "torch": "encoder.pt2 and decoder.pt2, of torch.export",
    "card": "README.md, the model card",
}
GRAPH_FILES = {"onnx": onnx_files, "torch": torch_files}
CONTENTS, CARD, FORMAT = "export.json", "README.md", 1


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: Where.
        files: Their names, in order.
        left_out: What of the run stayed behind, in words.
        gaps: Of graphs by their kind, the largest difference |a - b| / max(unit, |b|) from the model.
    """

    folder: Path
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    gaps: dict[str, float]


def export(
    run: Run | str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    kinds: Sequence[str] = ("safetensors", "card"),
    rows: bool = False,
) -> Exported:
    """Writes a run as a folder of files that others can use.

    Args:
        run: A run or its folder.
        to: A new or an empty folder; None: beside the run's, with `-export` at the end of its name.
        kinds: Any of `KINDS`.
        rows: With safetensors, whether the rows of the data that the run keeps go along.

    Raises:
        BadInput: for a run of a model of your own or without weights, a folder with something in it, and for graphs of
            a model that has none, or that do not agree with it; nothing has been written then.
        MissingExtra: for ONNX without the extra onnx.
        NoSpace: where the system refuses to write.

    Example:
        >>> import tempfile, vaelab
        >>> settings = {"train": {"steps": 20}, "report": {"html": False}}
        >>> run = vaelab.train("digits", out=tempfile.mkdtemp(), config=settings, progress=False)
        >>> made = export(run, tempfile.mkdtemp())
        >>> again = vaelab.load(made.folder)
        >>> bool((again.embed(run.preview) == run.embed(run.preview)).all()), again.keeps_rows
        (True, False)
    """
    loaded = run if isinstance(run, Run) else Run(run)
    folder = loaded.folder.resolve()
    target = new_target(to if to is not None else folder.with_name(f"{folder.name}-export"), "to")
    for kind in kinds:
        pick(KINDS, kind, "export")
    if rows and "safetensors" not in kinds:
        raise BadInput("rows", ", ".join(kinds), "go with the kind safetensors alone", "add --safetensors")
    refuse_unexportable(loaded)
    files, gaps = exported_files(loaded, kinds, rows)
    save_tree(target, files)
    told = left_out(loaded, rows) if "safetensors" in kinds else []
    return Exported(target, tuple(files), tuple(told), gaps)


def new_target(path: str | os.PathLike[str], argument: str) -> Path:
    """A path where a folder can be made: nothing is there, or an empty folder.

    Raises:
        BadInput: for anything else.
    """
    target = Path(path)
    try:
        if target.is_dir() and any(target.iterdir()):
            raise BadInput(argument, target, "is a folder with something in it", "name a new or an empty one")
        if target.exists() and not target.is_dir():
            raise BadInput(argument, target, "is a file", "name a folder")
    except OSError as error:
        raise BadInput(argument, str(target)[:80], f"cannot be used ({error.strerror})", "name another") from None
    return target


def refuse_unexportable(run: Run) -> None:
    """Raises BadInput for a run that files alone do not bring back."""
    if run.environment.get("own_model"):
        rule = "trained a model of your own, whose code no file of it holds"
        raise BadInput("run", run.folder, rule, "hand on its weights with your code: checkpoints/best-*")
    if not run.metrics:
        raise BadInput("run", run.folder, "has no selected weights yet", f"vaelab train --resume {run.folder}")


def exported_files(run: Run, kinds: Collection[str], rows: bool = False) -> tuple[Files, dict[str, float]]:
    """The files of an export by name, their digests in `export.json`, and how far graphs are from the model.

    The card is made of the run as it is read back from the public files, so that it says no more than they do.
    """
    files: Files = {}
    gaps: dict[str, float] = {}
    halves: Any = graphs(run) if any(kind in GRAPH_FILES for kind in kinds) else []
    for kind in (kind for kind in GRAPH_FILES if kind in kinds):
        made, gaps[kind] = GRAPH_FILES[kind](run, halves)
        files |= made
    bare = run_files(run, rows)
    files |= bare if "safetensors" in kinds else {}
    facts = {"format": FORMAT, "differences": gaps, "left_out": left_out(run, rows)}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[CONTENTS] = (to_json(facts | {"files": digests}, indent=1) + "\n").encode()
    return files | ({CARD: _card(bare, rows)} if "card" in kinds else {}), gaps


def _card(bare: Files, rows: bool) -> bytes:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        save_tree(folder, bare)
        return model_card(Run(folder), not rows).encode()
