"""Commands that hand a trained model on: export, push, pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .app import RunPath, app

Kind = Parameter(negative="")


@app.command
def export(
    run: RunPath,
    /,
    *,
    to: Annotated[Path | None, Parameter(help="new or empty folder; default: RUN-export")] = None,
    safetensors: Annotated[bool, Kind, Parameter(help="weights, config and data description: a run again")] = False,
    onnx: Annotated[bool, Kind, Parameter(help="encoder.onnx and decoder.onnx, compared with the model")] = False,
    torch: Annotated[bool, Kind, Parameter(help="encoder.pt2 and decoder.pt2 of torch.export, likewise")] = False,
    card: Annotated[bool, Kind, Parameter(help="README.md: what was measured and found")] = False,
    rows: Annotated[bool, Kind, Parameter(help="with --safetensors: rows of the data that the run keeps")] = False,
) -> int:
    """Write a run as files to hand on; without a kind, --safetensors and --card."""
    from ..use.exporting import export as write

    asked = {"safetensors": safetensors, "onnx": onnx, "torch": torch, "card": card}
    kinds = [kind for kind, wanted in asked.items() if wanted] or ["safetensors", "card"]
    made = write(run, to, kinds, rows)
    print(f"wrote     {made.folder} ({', '.join(kinds)}: {len(made.files)} files)")
    for kind, gap in made.gaps.items():
        print(f"checked   {kind}: at most {gap:.1g} from the model, of max(unit, number)")
    for what in made.left_out:
        print(f"left out  {what}")
    return 0


@app.command
def push(
    run: RunPath,
    name: Annotated[str, Parameter(help="user/name at the hub")],
    /,
    *,
    private: Annotated[bool, Kind, Parameter(help="make the repository private")] = False,
) -> int:
    """Send a run, or a folder that export wrote, to the hub; rows of the data stay, paths and commands too."""
    from ..use.hub import push as send

    sent = send(run, name, private)
    print(f"sent      {sent.address} ({len(sent.files)} files)")
    for what in sent.left_out:
        print(f"left out  {what}")
    return 0


@app.command
def pull(
    name: Annotated[str, Parameter(help="user/name at the hub")],
    /,
    *,
    to: Annotated[Path | None, Parameter(help="new or empty folder; default: runs/NAME")] = None,
    revision: Annotated[str | None, Parameter(help="branch, tag or commit")] = None,
) -> int:
    """Fetch a run from the hub; it is checked before it gets its name, and nothing in it can run code."""
    from ..use.hub import pull as fetch

    got = fetch(name, to, revision)
    print(f"wrote     {got.folder} ({len(got.files)} files of {name} at {got.commit[:12]})")
    for what in got.left_out:
        print(f"left out  {what}")
    return 0
