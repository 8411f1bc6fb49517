"""Does our loop learn as much as a plain one in equal steps? Test losses over seeds, and bfloat16 beside them.

The network and the batches are those of `throughput.py`. Every loop starts from weights of its own seed, so the means
are compared; bfloat16 starts from the weights of our float32 loop and sees its rows, so these two are also paired.

Usage: python benchmarks/seeds.py mnist.npz [--seeds 8] [--epochs 3] [--processes 2]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from table import write_table
from throughput import ROWS, Peer, start

BATCH = 128
LOOPS = {"bare loop": Peer("bare"), "ours": Peer("ours"), "ours, bfloat16": Peer("ours", "bfloat16")}
PAIRED = ("ours, bfloat16", "ours")


def loss_of(peer: Peer, seed: int, data: str, steps: int, folder: Path) -> float:
    """The test loss in nats of one loop after so many steps."""
    log = folder / f"{peer.script}-{peer.variant}-{seed}.log"
    running = start(peer, sys.executable, 1, log, network="mlp", data=data, batch=BATCH, block=steps, seed=seed)
    if running.answer() is None:
        sys.exit(log.read_text()[-1000:])
    running.ask(steps=steps)
    running.answer()
    running.ask(loss=True)
    told = running.answer()
    running.end()
    if told is None:
        sys.exit(log.read_text()[-1000:])
    return float(told["loss"])


def lines_of(losses: dict[str, np.ndarray], steps: int) -> list[str]:
    """Means over seeds, and their differences, with standard errors."""
    seeds = len(next(iter(losses.values())))
    lines = [
        f"MLP 784-512-256-128-64-4 and mirror, batch {BATCH}; after {steps} steps, {seeds} seeds, nats a test image",
        f"{'loop':<20}{'mean':>9}{'deviation':>11}   seeds",
    ]
    for name, found in losses.items():
        each = " ".join(f"{value:.2f}" for value in found)
        lines.append(f"{name:<20}{found.mean():>9.2f}{found.std(ddof=1):>11.2f}   {each}")
    plain = losses["bare loop"]
    difference = losses["ours"] - plain.mean()
    error = np.sqrt(sum(part.var(ddof=1) / seeds for part in (losses["ours"], plain)))
    lines += ["", f"ours less bare loop: {difference.mean():+.2f} +- {error:.2f}"]
    change = losses[PAIRED[0]] - losses[PAIRED[1]]
    lines.append(f"bfloat16 less ours, paired: {change.mean():+.2f} +- {change.std(ddof=1) / np.sqrt(seeds):.2f}")
    return [*lines, "+-: a standard error."]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", help="an .npz file with uint8 images x_train and x_test, 28 x 28")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    steps, data = given.epochs * ROWS // BATCH, os.path.abspath(given.data)
    tasks = [(name, seed) for name in LOOPS for seed in range(given.seeds)]
    with tempfile.TemporaryDirectory() as made, ThreadPoolExecutor(given.processes) as pool:
        found = list(pool.map(lambda task: loss_of(LOOPS[task[0]], task[1], data, steps, Path(made)), tasks))
    losses = {name: np.array([v for (n, _), v in zip(tasks, found, strict=True) if n == name]) for name in LOOPS}
    write_table("seeds", "Test losses after equal steps, over seeds", lines_of(losses, steps))


if __name__ == "__main__":
    main()
