"""What keeps a PixelCNN decoder from ignoring its code: the usual remedies on Omniglot, beside plain training.

Usage: python benchmarks/collapse.py omniglot28.npz [--only plain "free bits"] [--side 14] [--steps 2500]
"""

from __future__ import annotations

import argparse
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
from table import write_table

import vaelab
from vaelab.measure.importance import importance_bound

BASE: dict[str, Any] = {
    "data": {"binarize": "dynamic"},
    "likelihood": "bernoulli",
    "model": {"encoder": "mlp", "decoder": "pixel_cnn", "hidden": [128, 128], "latent": 8, "width": 16, "layers": 3},
    "train": {"batch_size": 64, "learning_rate": 2e-3, "evaluate_every": 500, "device": "cpu"},
    "report": {"html": False},
}
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "free bits": {"objective": {"free_bits": 0.5}},
    "annealing": {"objective": {"anneal": "linear", "warmup_steps": 1000}},
    "aggressive": {"train": {"aggressive": 4, "aggressive_until": 1000}},
    "word dropout": {"model": {"word_dropout": 0.3}},
}
HELD_OUT, SAMPLES = 500, 64
NOTES = """Held-out images of characters that no training image shows. log p: the importance-weighted bound on log p(x)
with K samples, nats per image, higher is better, ± its standard error over images; against plain: the mean difference
of the same images, ± its standard error. KL: of q(z|x) from the prior, nats per image. Every run keeps the weights of
its best held-out loss. word dropout hides pixels in training only. Images are drawn as bits once for the bound, the
same for all runs; larger images are averaged down to the stated side first."""


def smaller(images: np.ndarray, side: int) -> np.ndarray:
    """Images [n, 28, 28] averaged down to a side that divides 28."""
    step = images.shape[1] // side
    parts = images.reshape(len(images), side, step, side, step)
    return parts.mean((2, 4)).round().astype(np.uint8)


def trained(name: str, data: Path, steps: int, seed: int, folder: str) -> Any:
    """The run of a remedy."""
    settings = {section: dict(values) if isinstance(values, dict) else values for section, values in BASE.items()}
    for section, values in RUNS[name].items():
        settings[section] = settings.get(section, {}) | values
    settings["train"]["steps"] = steps
    settings["seed"] = seed
    return vaelab.train(str(data), out=Path(folder) / "run", config=settings, progress=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", help="npz with x_train and x_test")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--side", type=int, choices=(7, 14, 28), default=14)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with np.load(arguments.path, allow_pickle=False) as arrays:
        parts = {name: smaller(arrays[name], arguments.side) for name in ("x_train", "x_test")}
    order = np.random.default_rng(0).permutation(len(parts["x_test"]))
    held_out, parts["x_test"] = parts["x_test"][order[:HELD_OUT]], parts["x_test"][order[HELD_OUT:][:1000]]
    bits = np.random.default_rng(1).random(held_out.shape) < held_out / 255
    head = f"{'run':<14} {'log p':>8} {'s.e.':>6} {'against plain':>15} {'KL':>6} {'active':>7} {'seconds':>8}"
    lines, plain = [head], None
    for name in arguments.only:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "omniglot.npz"
            np.savez(data, x_train=parts["x_train"], x_test=parts["x_test"])
            run = trained(name, data, arguments.steps, arguments.seed, folder)
            seconds, metrics = time.perf_counter() - start, run.metrics
            x = run.spec.to_model(255 * bits.astype(np.uint8))
            bound = importance_bound(run.model, x, SAMPLES)
        plain = bound.values if name == "plain" else plain
        gain = bound.values - plain if plain is not None else np.full(2, np.nan)
        beside = f"{gain.mean():+.2f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.2f}"
        active = f"{metrics['active_units']}/{len(metrics['kl_per_dimension'])}"
        lines.append(
            f"{name:<14} {bound.mean:>8.2f} {bound.standard_error:>6.2f} {beside:>15} {metrics['kl']:>6.2f} "
            f"{active:>7} {seconds:>8.0f}"
        )
        print(lines[-1], flush=True)
    side, steps = arguments.side, arguments.steps
    title = f"A PixelCNN decoder on Omniglot, {side} x {side} bits, {steps} steps, K = {SAMPLES}"
    write_table("collapse", title, [*textwrap.wrap(" ".join(NOTES.split()), 120), "", *lines])


if __name__ == "__main__":
    main()
