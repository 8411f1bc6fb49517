"""This library's own loop with its defaults: metrics, checks of finiteness, logging; or in lower precision."""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness import CHANNELS, CLIP, DECAY, RATE, WIDTHS, begin

from vaelab.core.config import build_config
from vaelab.training.engine import Engine
from vaelab.training.evaluate import evaluate
from vaelab.training.folder import RunFolder
from vaelab.training.job import prepare
from vaelab.training.loop import Loop
from vaelab.training.show import Display

NETWORKS = {
    "mlp": {"encoder": "mlp", "decoder": "mlp", "hidden": list(WIDTHS)},
    "conv": {"encoder": "conv", "decoder": "conv", "channels": list(CHANNELS)},
}

task, gate = begin()
settings = {
    "model": {**NETWORKS[task.network], "latent": task.latent, "scale": "softplus", "init": "pytorch"},
    "likelihood": "bernoulli",
    "seed": task.seed,
    "train": {
        "precision": task.variant or "float32",
        "epochs": 50,
        "batch_size": task.batch,
        "learning_rate": RATE,
        "schedule": "constant",
        "weight_decay": DECAY,
        "clip_norm": CLIP,
        "evaluate_every": 10**9,  # the peers neither evaluate nor save between steps
        "checkpoint_every": 10**9,
    },
}
engine = Engine("cpu")
job = prepare(task.data, build_config(settings), engine, None, None)
loop = Loop(
    job.model,
    job.objective,
    job.rows,
    job.held_out,
    config=job.config,
    engine=engine,
    folder=RunFolder(Path(tempfile.mkdtemp())),
    display=Display(),
    shift=job.spec.log_abs_det,
)
job.model.train()


def test_loss() -> float:
    """The held-out bound that a run reports."""
    return evaluate(job.model, job.held_out, seed=0, engine=engine, shift=loop.shift)["negative_elbo"]


gate.open(sum(parameter.numel() for parameter in job.model.parameters()), test_loss)
while True:
    loop._advance(loop.progress.step)
    loop.progress.step += 1
    loop._due(loop.progress.step)
    gate.step()
