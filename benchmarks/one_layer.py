"""The one-layer model of the importance-weighted autoencoders' paper on MNIST: its test bound beside the published one.

784-200-200-50 with tanh, each gray level drawn anew as a bit, plain objective (k = 1). Published, at K = 5000 after
3280 epochs in batches of 20: 86.76 nats (Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016). The
schedule here is shorter, with a cosine. A finished run in `--out` is evaluated again, not trained again.

Usage: python benchmarks/one_layer.py --data mnist.npz --out RUN [--steps 550000] [--rows 10000] [--annealed 50]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from table import write_table

import vaelab

BATCH, ROWS, SAMPLES, PUBLISHED = 100, 60_000, 5000, 86.76
CONFIG = {
    "data": {"binarize": "dynamic"},
    "likelihood": "bernoulli",
    "model": {"hidden": [200, 200], "activation": "tanh", "latent": 50},
    "report": {"html": False},
}


def trained(given: SimpleNamespace) -> tuple[vaelab.Run, str]:
    """The run, and how long it took."""
    if (Path(given.out) / "config.yaml").exists():
        return vaelab.load(given.out), "trained before"
    train = {"batch_size": BATCH, "learning_rate": 2e-3, "steps": given.steps, "threads": 1, "log_every": 1000}
    train["evaluate_every"] = max(1000, given.steps // 20)
    start = time.perf_counter()
    run = vaelab.train(given.data, out=given.out, config=CONFIG | {"train": train}, progress=True)
    return run, f"{(time.perf_counter() - start) / 60:.0f} min on one core"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=550_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--annealed", type=int, default=50)
    given: SimpleNamespace = parser.parse_args()  # type: ignore[assignment]
    torch.set_float32_matmul_precision("medium")  # still float32 on these processors, to 7e-7
    run, took = trained(given)
    steps = run.config.train.total
    found = vaelab.evaluate(run, given.data, samples=SAMPLES, rows=given.rows, progress=True)
    annealed = vaelab.evaluate(run, given.data, samples=SAMPLES, rows=given.annealed, ais=True, progress=True)
    rate = f"learning rate {run.config.train.rate} with a cosine to 0"
    lines = [
        f"schedule: {steps} steps of {BATCH}, {steps * BATCH / ROWS:.0f} epochs, {rate}; {took}",
        found.facts["rows"],
        "",
        f"{'number':<44}{'value':>10}  95 % interval, unit",
    ]
    shown = {
        "ELBO": found["bound.elbo"],
        f"importance-weighted bound, K = {SAMPLES}": found["bound.log_likelihood"],
        "the same for these rows and bits": found["bound.log_likelihood_of_these_rows"],
        f"gain from K = {SAMPLES // 2}": found["bound.gain_of_last_half"],
        "effective samples": found["bound.effective_samples"],
        f"AIS over the bound, {given.annealed} rows": annealed["ais.gain_over_importance_bound"],
        "AIS, upper less lower, the same rows": annealed["ais.gap"],
        "AIS, upper less lower, simulated rows": annealed["ais.gap_on_simulated_rows"],
    }
    for name, number in shown.items():
        spread = "" if number.interval is None else f"± {number.interval:.2g} "
        lines.append(f"{name:<44}{number.value:>10.3f}  {spread}{number.unit}")
    lines.append(f"{'published, plain objective, 3280 epochs':<44}{-PUBLISHED:>10.3f}  nats per sample")
    write_table("one-layer", "One stochastic layer, 200-200-50, on dynamically binarised MNIST", lines)


if __name__ == "__main__":
    main()
