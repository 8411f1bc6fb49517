"""Small real trainings, and the loggers of others that write them down."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from vaelab.core.finding import Finding

Rows = tuple[Mapping[str, float], ...]


@functools.cache
def trained(
    beta: float = 1.0,
    rate: float = 2e-3,
    warmup: int = 0,
    mean: bool = False,
    sign: float = 1.0,
    steps: int = 300,
    rows: int = 1500,
    hidden: int = 64,
    rise_by: float = 0.0,
) -> Rows:
    """What a plain loop on the digits logs every five steps; held-out rows every twenty-five.

    `mean` takes the mean over dimensions in the reconstruction, `sign` is that of the KL in its own formula.
    """
    torch.manual_seed(0)
    x = torch.tensor(load_digits().data, dtype=torch.float32)[torch.randperm(1797)] / 16
    encoder = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 16))
    decoder = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 64))
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], rate)

    def terms(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mu, log_var = encoder(batch).chunk(2, 1)
        logits = decoder(mu + torch.randn_like(mu) * (log_var / 2).exp())
        each = functional.binary_cross_entropy_with_logits(logits, batch, reduction="none")
        kl = sign * 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1).mean()
        return each.mean() if mean else each.sum(1).mean(), kl

    logged = []
    for step in range(1, steps + 1):
        weight = beta * (min(1.0, step / warmup) if warmup else 1.0) + rise_by * step / steps
        reconstruction, kl = terms(x[torch.randint(rows, (128,))])
        loss = reconstruction + weight * kl
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 5 == 0:
            row = {"step": step, "loss": loss.item(), "recon": reconstruction.item(), "kl": kl.item(), "beta": weight}
            if step % 25 == 0:
                with torch.no_grad():
                    held, cost = terms(x[1500:])
                row |= {"val_loss": (held + weight * cost).item(), "val_recon": held.item(), "val_kl": cost.item()}
            logged.append(row)
    return tuple(logged)


def without(rows: Rows, *names: str) -> Rows:
    return tuple({key: value for key, value in row.items() if key not in names} for row in rows)


def json_lines(path: Path, rows: Rows) -> Path:
    path = path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lightning_csv(path: Path, rows: Rows) -> Path:
    """As Lightning writes training and validation: rows of their own with one step, and empty cells."""
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(path, name="run")
    for row in rows:
        named = {key: value for key, value in row.items() if key != "step"}
        training = {f"train/{key}": value for key, value in named.items() if not key.startswith("val_")}
        held_out = {f"val/{key[4:]}": value for key, value in named.items() if key.startswith("val_")}
        for part in (training, held_out):
            if part:
                logger.log_metrics({**part, "epoch": int(row["step"] // 20)}, step=int(row["step"]))
    logger.save()
    return Path(logger.log_dir) / "metrics.csv"


def semicolons(path: Path, rows: Rows) -> Path:
    """A spreadsheet's CSV: semicolons and decimal commas."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    lines = [";".join(names), *(";".join(str(row.get(n, "")).replace(".", ",") for n in names) for row in rows)]
    (path / "sheet.csv").write_text("\n".join(lines) + "\n")
    return path / "sheet.csv"


def events(path: Path, rows: Rows) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(path / "events")) as writer:
        writer.add_histogram("weights", np.arange(2000.0), 0)
        writer.add_text("notes", "hello", 0)
        for row in rows:
            for key, value in row.items():
                if key != "step":
                    writer.add_scalar(f"vae/{key}", value, row["step"])
    return path / "events"


def new_style_events(path: Path, rows: Rows) -> Path:
    """Scalars kept as tensors, as other libraries write them."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(path / "tensors")) as writer:
        for row in rows:
            for key, value in row.items():
                if key != "step":
                    writer.add_scalar(key, value, row["step"], new_style=True)
    return next((path / "tensors").iterdir())


def trainer_state(path: Path, rows: Rows) -> Path:
    """What the Hugging Face Trainer saves: its own state object, with held-out numbers called eval_."""
    from transformers import TrainerState

    history = [{key.replace("val_", "eval_"): value for key, value in row.items()} for row in rows]
    history.append({"train_runtime": 1.0, "train_loss": 9.9, "step": 300})
    file = path / "trainer_state.json"
    TrainerState(global_step=300, log_history=history).save_to_json(str(file))
    return file


def nested(path: Path, rows: Rows) -> Path:
    """Objects in objects, a step called _step, NaN as a word, as trackers export it."""
    turned = [
        {"_step": row["step"], "train": {k: v for k, v in row.items() if k != "step" and k[:4] != "val_"},
         "val": {k[4:]: v for k, v in row.items() if k[:4] == "val_"}, "_runtime": 1.5, "note": None}
        for row in rows
    ]  # fmt: skip
    return json_lines(path, tuple(turned))


def object_of_lists(path: Path, rows: Rows) -> Path:
    file = path / "history.json"
    file.write_text(json.dumps({key: [row[key] for row in rows] for key in rows[0]}))
    return file


WRITERS: tuple[Callable[[Path, Rows], Path], ...] = (
    json_lines, lightning_csv, semicolons, events, new_style_events, trainer_state, nested,
)  # fmt: skip


def serious(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings if finding.severity in ("warning", "error")}
