"""Codes on MNIST: four ways to quantise, with a uniform prior over the codes and with one fitted to them.

Usage: python benchmarks/codes.py mnist.npz [--only vq residual_vq fsq gumbel] [--steps 2500] [--after 1200]
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
from vaelab.core.units import bits_per_dimension
from vaelab.use.files import save_rows

KINDS: dict[str, dict[str, Any]] = {
    "vq": {"codebook": 128, "code_size": 16, "latent": 16 * 16},
    "residual_vq": {"codebook": 128, "code_size": 16, "quantizers": 2, "latent": 8 * 2 * 16},
    "fsq": {"code_levels": [8, 4, 4], "latent": 16 * 3},
    "gumbel": {"codebook": 128, "code_size": 16, "latent": 16 * 16},
}
SHOWN = 16
NOTES = """Dynamically binarised MNIST, the 10,000 test images, nats per sample; one seed. Encoder and decoder: two
layers of 256. Every row is 16 codes out of 128 (residual_vq: 8 positions of two books). perplexity: of the
entries' use over the test images, in % of the book, the smaller one of two books; used: entries that some
test image uses. uniform and autoregressive: negative ELBO, -log p(x|z) - log P(codes), a bound on -log
p(x), with each prior; the second is a causal transformer of two layers of 64 fitted to the codes of the
training images after training. gain: of the fitted prior, with its 95 % interval over images. Samples
through the fitted prior are in codes-samples.png, a row for each kind."""


def result(path: str, kind: str, steps: int, after: int, folder: Path) -> tuple[str, Any]:
    """Trains one run; its line of the table, and the run."""
    start = time.perf_counter()
    settings = {
        "model": KINDS[kind] | {"posterior": kind, "encoder": "mlp"},
        "prior": {"after": "autoregressive", "after_steps": after},
        "likelihood": "bernoulli",
        "data": {"binarize": "dynamic"},
        "train": {"steps": steps, "learning_rate": 2e-3, "evaluate_every": max(1, steps // 5)},
        "report": {"html": False},
    }
    run = vaelab.train(path, out=folder / kind, config=settings, progress=False)
    m = run.metrics
    fit, used = m["prior_fit"], min(m["codes_used"])
    perplexity = 100 * min(m["code_perplexity"]) / m["codebook"]
    line = (
        f"{kind:<12} {run.environment['parameters']:>9} {perplexity:>10.1f} {used:>4}/{m['codebook']:<4} "
        f"{m['reconstruction']:>8.2f} {fit['before']:>8.2f} {m['negative_elbo']:>14.2f} ±{m['standard_error']:>5.2f} "
        f"{bits_per_dimension(m['negative_elbo'], 784):>8.4f} {fit['gain']:>7.2f} ±{1.96 * fit['error']:>5.2f} "
        f"{time.perf_counter() - start:>7.0f}"
    )
    print(line, flush=True)
    return line, run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", help="npz with x_train and x_test")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--after", type=int, default=1200, help="steps of the fit of the prior over the codes")
    arguments = parser.parse_args()
    head = (
        f"{'kind':<12} {'weights':>9} {'perplexity':>10} {'used':>9} {'recon.':>8} {'uniform':>8} "
        f"{'autoregressive':>14}  {'s.e.':>5} {'bits/dim':>8} {'gain':>7}  {'':>5} {'seconds':>7}"
    )
    with tempfile.TemporaryDirectory() as folder:
        found = [
            result(arguments.path, kind, arguments.steps, arguments.after, Path(folder)) for kind in arguments.only
        ]
        pictures = np.stack([run.sample(SHOWN) for _, run in found])
        save_rows(found[0][1], pictures, Path(__file__).parent / "results" / "codes-samples.png")
    lines = [line for line, _ in found]
    write_table("codes", "Codes on MNIST", [*textwrap.wrap(NOTES, 120), "", head, *lines])


if __name__ == "__main__":
    main()
