"""The recipes on MNIST: the tutorial's run for several seeds, the same network trained better, and the guide's run.

Usage: python benchmarks/mnist.py mnist.npz [--seeds 1 2 3] [--only tutorial improved guide]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from table import write_table

import vaelab

EPOCH = 469  # steps: 60,000 rows in batches of 128, rounded up
EVERY: dict[str, Any] = {"train": {"evaluate_every": EPOCH, "checkpoint_every": 10 * EPOCH}, "report": {"html": False}}
# The same network, data, batch and number of epochs; what differs is how it is trained.
BETTER: dict[str, Any] = {
    "train": {"learning_rate": 2e-3, "schedule": "cosine", "weight_decay": 0.0, "clip_norm": 100.0},
}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "tutorial": ("tutorial-mnist", {}),
    "improved": ("tutorial-mnist", BETTER),
    "guide": ("guide-mnist", {}),
}
NOTES = """Held-out (the 10,000 test images) negative ELBO at beta = 1 in nats per sample, evaluated once an epoch.
selected: the best of those, which the run keeps; last 10: mean over the last ten epochs. tutorial and
improved: 50 epochs, gray images under a Bernoulli, so a loss and no likelihood (published: about 140; bound
asked for: 139). guide: 100 epochs, dynamically binarised images, so a bound on a likelihood. improved:
learning rate 2e-3 with a cosine to 0, no weight decay, clip at 100; same network, batch and epochs as
tutorial."""


def results(path: str, names: list[str], seeds: list[int]) -> Iterator[str]:
    """A line of the table for each run."""
    for name in names:
        for seed in seeds if name != "guide" else seeds[:1]:
            yield result(path, name, seed)


def result(path: str, name: str, seed: int) -> str:
    """Trains one run and returns its line."""
    recipe, changes = RUNS[name]
    settings: dict[str, Any] = {section: dict(values) for section, values in EVERY.items()}
    for section, values in changes.items():
        settings[section] = settings.get(section, {}) | values
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        settings["seed"] = seed
        run = vaelab.train(path, out=Path(folder) / "run", recipe=recipe, config=settings, progress=False)
        seconds = time.perf_counter() - start
        held_out = [line["negative_elbo"] for line in run.history if line["kind"] == "held_out"]
        m, parameters = run.metrics, run.environment["parameters"]
    tenth = statistics.mean(held_out[-10:])
    line = (
        f"{name:<10} {seed:>4} {parameters:>9} {m['negative_elbo']:>8.2f} ±{m['standard_error']:>5.2f} "
        f"{m['step'] / EPOCH:>6.0f} {held_out[-1]:>8.2f} {tenth:>8.2f} {m['reconstruction']:>8.2f} {m['kl']:>7.2f} "
        f"{m['active_units']:>4}/{len(m['kl_per_dimension']):<3} {seconds:>7.0f}"
    )
    print(line, flush=True)
    return line


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", help="npz with x_train and x_test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    arguments = parser.parse_args()
    head = (
        f"{'run':<10} {'seed':>4} {'weights':>9} {'selected':>8}  {'s.e.':>5} {'epoch':>6} {'last':>8} {'last 10':>8} "
        f"{'recon.':>8} {'KL':>7} {'active':>8} {'seconds':>7}"
    )
    lines = list(results(arguments.path, arguments.only, arguments.seeds))
    name = "-".join(["mnist", *arguments.only])
    write_table(name, "Recipes on MNIST", [*textwrap.wrap(NOTES, 120), "", head, *lines])


if __name__ == "__main__":
    main()
