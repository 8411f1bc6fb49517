"""The house itself: imports go down only, public names and flags are frozen, the command starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vaelab

SOURCE = Path(vaelab.__file__).parent
LAYERS = (
    {"core"},
    {"rulers"},
    {"nets", "schedules", "auditing", "monitoring"},
    {"distributions"},
    {"models", "objectives", "data"},
    {"measure", "checks"},
    {"training"},
    {"diagnosis", "evaluation"},
    {"report", "use", "compress"},
    {"recipes", "catalogue", "api", "health", "cli", "sklearn", "testing", "pytest_plugin", "__init__", "__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
TOP = len(LAYERS) - 1


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported_rooms(path: Path) -> set[str]:
    """First-level names inside the package that a module imports, wherever the import stands."""
    inside = path.relative_to(SOURCE).parts
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            full = [*inside[: len(inside) - node.level], *(node.module or "").split(".")]
            first = [part for part in full if part][:1]
            rooms |= set(first) if first else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vaelab"):
            rooms |= set((node.module or "").split(".")[1:2])
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("vaelab.")}
    return rooms


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    for other in imported_rooms(path) - {room}:
        level, below = LEVEL[room], LEVEL[other]
        assert below < level or level == TOP, f"{room} imports {other}, which is not below it"


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(path) for path in SOURCE.rglob("*.py")}
    assert rooms == set(LEVEL), "a room was added or removed: give it a layer here and in docs/architecture.md"


def test_public_names_are_frozen() -> None:
    assert vaelab.__all__ == [
        "__version__", "train", "train_many", "load", "check", "diagnose", "evaluate", "log_likelihood", "ais",
        "Monitor", "audit", "AuditReport", "write_report", "Run", "Config", "Finding", "VAEOutput", "Loss", "VAE",
        "ELBO", "objectives", "schedules", "distributions", "VaelabError", "BadInput",
    ]  # fmt: skip
    assert len(vaelab.__all__) <= 25
    assert all(getattr(vaelab, name) is not None for name in vaelab.__all__)


def test_a_moved_name_warns_and_still_works() -> None:
    with pytest.warns(DeprecationWarning, match=r"vaelab\.distributions\.Decoder"):
        assert vaelab.Decoder is vaelab.distributions.Decoder


COMMANDS = (
    "train", "train-many", "check", "diagnose", "compare", "audit", "report", "sample", "reconstruct", "embed",
    "nearest", "classify", "interpolate", "traverse", "evaluate", "rate-distortion", "intrinsic-dimension", "impute",
    "score", "score-series",
    "inpaint", "denoise", "upscale",
    "export", "push", "pull",
    "compress", "decompress",
)  # fmt: skip


def test_flags_are_frozen() -> None:
    from vaelab.cli import app

    flags = {
        command: sorted(
            {name for item in app[command].assemble_argument_collection() for name in item.names if name[0] == "-"}
        )
        for command in COMMANDS
    }
    assert flags == {
        "train": ["--config", "--data-dir", "--out", "--quiet", "--recipe", "--resume"],
        "train-many": ["--betas", "--config", "--data-dir", "--out", "--quiet", "--recipe", "--seeds"],
        "check": ["--config", "--data-dir"],
        "diagnose": ["--json"],
        "audit": [
            "--data",
            "--declared-beta",
            "--family",
            "--framework",
            "--importance",
            "--inputs",
            "--json",
            "--likelihood",
            "--loss",
            "--sarif",
            "--seconds",
            "--total",
        ],
        "report": ["--to"],
        "compare": ["--to"],
        "sample": ["--condition", "--count", "--no-noisy", "--noisy", "--seed", "--to"],
        "reconstruct": ["--condition", "--count", "--to"],
        "embed": ["--count", "--no-sample", "--sample", "--seed", "--to", "--what"],
        "nearest": ["--count", "--distance", "--neighbours", "--to"],
        "classify": ["--count", "--to"],
        "impute": ["--condition", "--draws", "--interval", "--samples", "--seed", "--summary", "--to"],
        "score": ["--count", "--explain", "--false-alarms", "--kind", "--samples", "--seed", "--to"],
        "inpaint": ["--condition", "--count", "--draws", "--mask", "--seed", "--steps", "--to"],
        "denoise": ["--condition", "--count", "--draws", "--noise", "--seed", "--steps", "--to"],
        "upscale": ["--condition", "--count", "--draws", "--factor", "--noise", "--seed", "--steps", "--to"],
        "interpolate": ["--condition", "--first", "--path", "--second", "--steps", "--to"],
        "traverse": ["--condition", "--dimension", "--empty-dimension", "--row", "--span", "--steps", "--to"],
        "evaluate": [
            "--ais",
            "--chains",
            "--dequantize",
            "--inception",
            "--json",
            "--metrics",
            "--quiet",
            "--rows",
            "--samples",
            "--seed",
            "--self-test",
            "--steps",
        ],
        "score-series": ["--causal", "--false-alarms", "--no-causal", "--samples", "--seed", "--to"],
        "export": ["--card", "--onnx", "--rows", "--safetensors", "--to", "--torch"],
        "push": ["--private"],
        "pull": ["--revision", "--to"],
        "rate-distortion": ["--beta", "--config", "--data-dir", "--out", "--quiet"],
        "compress": ["--count", "--to"],
        "decompress": ["--to"],
        "intrinsic-dimension": ["--config", "--data-dir", "--latent", "--out", "--quiet"],
    }


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["audit", "--help"], ["--version"], ["settings"]]
)
def test_the_command_starts_without_torch(arguments: list[str]) -> None:
    code = f"import sys, vaelab.cli\ntry: vaelab.cli.main({arguments!r})\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_training_begins_without_libraries_that_take_seconds_to_import(tmp_path: Path) -> None:
    """Neither the compiler, nor the plotting library, nor scikit-learn is needed for steps."""
    code = (
        "import sys, vaelab\n"
        f"vaelab.train('digits', out={str(tmp_path / 'run')!r}, progress=False,"
        " config={'train': {'steps': 2}, 'report': {'html': False}})\n"
        "print([name for name in ('torch._dynamo', 'matplotlib', 'sklearn', 'scipy', 'pandas') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
