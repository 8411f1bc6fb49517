"""What a training step costs beside a bare hand-written loop of the same model, batch and optimiser, in one run.

Both loops take turns in blocks of steps; the ratio is that of the medians.
Usage: python benchmarks/overhead.py [--blocks 15]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from table import write_table
from torch import Tensor, nn

from vaelab.core.config import build_config
from vaelab.training.engine import Engine
from vaelab.training.folder import RunFolder
from vaelab.training.job import prepare
from vaelab.training.loop import Loop
from vaelab.training.show import Display

CASES = {
    "tutorial MLP 784-512-256-128-64-2": (784, [512, 256, 128, 64], 2, 30),
    "MLP 784-400-200-20": (784, [400, 200], 20, 30),
    "small MLP 64-256-256-16": (64, [256, 256], 16, 60),
}


def ours(x: np.ndarray, hidden: list[int], latent: int) -> tuple[Callable[[int], None], nn.Module]:
    """A function that does so many steps of our loop, logging as by default, and the model."""
    settings = {
        "model": {"hidden": hidden, "latent": latent, "encoder": "mlp"},
        "likelihood": "bernoulli",
        "train": {"clip_norm": 1.0, "evaluate_every": 10**9, "checkpoint_every": 10**9, "steps": 10_000},
    }
    engine = Engine("cpu")
    job = prepare(x, build_config(settings), engine, None, None)
    folder = RunFolder(Path(tempfile.mkdtemp()))
    loop = Loop(
        job.model, job.objective, job.rows, job.held_out,
        config=job.config, engine=engine, folder=folder, display=Display(), shift=0.0,
    )  # fmt: skip
    job.model.train()

    def steps(count: int) -> None:
        for _ in range(count):
            loop._advance(loop.progress.step)
            loop.progress.step += 1
            loop._due(loop.progress.step)

    return steps, job.model


def bare(x: np.ndarray, hidden: list[int], latent: int) -> tuple[Callable[[int], None], nn.Module]:
    """The same by hand: tensors in memory, the same network, closed-form KL, clipping, fused AdamW."""
    rows = torch.from_numpy(x[: int(0.9 * len(x))])

    def stack(widths: list[int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.SiLU()]
        return nn.Sequential(*layers[:-1])

    encoder, decoder = stack([x.shape[1], *hidden]), stack([latent, *reversed(hidden), x.shape[1]])
    encoder.append(nn.SiLU())
    head = nn.Linear(hidden[-1], 2 * latent)
    model = nn.ModuleList([encoder, head, decoder])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)

    def loss(batch: Tensor) -> Tensor:
        mean, raw = head(encoder(batch)).chunk(2, -1)
        log_variance = 14 * (raw / 14).tanh()  # the model's soft clamp
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        nats = F.binary_cross_entropy_with_logits(decoder(z), batch, reduction="sum")
        return (nats + 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()) / len(batch)

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            value = loss(rows.index_select(0, torch.randint(len(rows), (128,))))
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            value.item()

    return steps, model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=15)
    blocks = parser.parse_args().blocks
    lines = []
    for name, (width, hidden, latent, count) in CASES.items():
        x = (np.random.default_rng(0).random((20_000, width)) < 0.3).astype(np.float32)
        (our_steps, model), (bare_steps, twin) = ours(x, hidden, latent), bare(x, hidden, latent)
        sizes = [sum(p.numel() for p in m.parameters()) for m in (model, twin)]
        assert sizes[0] == sizes[1], f"not the same model: {sizes}"
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(blocks + 2):
            for label, steps in (("ours", our_steps), ("bare", bare_steps)):
                start = time.perf_counter()
                steps(count)
                times[label].append(1e3 * (time.perf_counter() - start) / count)
        our, plain = (statistics.median(times[label][2:]) for label in ("ours", "bare"))
        lines.append(f"{name:<36} {our:>9.3f} {plain:>9.3f} {our / plain:>7.3f}")
    head = f"{'model (batch 128, AdamW, clipped)':<36} {'ours ms':>9} {'bare ms':>9} {'ratio':>7}"
    write_table("overhead", "Training step beside a bare loop (bound: ratio 1.15)", [head, *lines])


if __name__ == "__main__":
    main()
