"""The parts of the field on MNIST, one network: priors, posteriors, objectives and hierarchies beside the plain model.

Usage: python benchmarks/families.py mnist.npz --runs FOLDER [--only plain vamp ...] [--seeds 0]

Runs that FOLDER holds already are not trained again, and one that was broken off is resumed, so that the table can be
made in several sittings; the seconds of a sitting that was killed are not known, and are missing from the sum.
"""

from __future__ import annotations

import argparse
import json
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
from table import write_table

import vaelab
from vaelab.recipes import on_digits

SAMPLES = 500
BASE: dict[str, Any] = on_digits(report={"html": False})
BASE["train"] |= {"evaluate_every": 1500, "checkpoint_every": 3000, "threads": 1}
STEPS = BASE["train"]["steps"]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("standard normal prior, diagonal posterior", {}),
    "vamp": ("VampPrior, 500 pseudo-inputs", {"prior": {"name": "vamp", "components": 500}}),
    "mixture": ("mixture of 500 Gaussians as prior", {"prior": {"name": "mixture", "components": 500}}),
    "flow-prior": ("flow as prior", {"prior": {"name": "flow"}}),
    "flow-posterior": ("inverse autoregressive flow as posterior", {"model": {"posterior": "iaf"}}),
    "iwae-5": ("importance-weighted objective, 5 samples", {"objective": {"name": "iwae", "samples": 5}}),
    "two-level": (
        "two levels, 40 + 40",
        {"model": {"latent": None, "groups": [40, 40], "ladder": False}},
    ),
    "ladder": (
        "three groups, 20 each, one deterministic path down",
        {"model": {"latent": None, "groups": [20, 20, 20], "ladder": True}},
    ),
}
NOTES = f"""784-300-300 and its mirror (SiLU), 40 latent dimensions unless said, {STEPS} steps of 128 rows (64 epochs),
Adam at 1e-3 with a cosine to 0, dynamically binarised images, one thread of one core. -ELBO: all 10,000 test images,
one sample. -log p(x): the importance-weighted bound with {SAMPLES} samples on the same images with the same bits,
± 95 % over images. to plain: difference of the latter to the plain model's first seed, image by image (negative is
better), ± 95 %. Weights are selected by the held-out bound, which these images serve too: 20 looks at 10,000 images.
seconds: on a machine shared with other work, without sittings that were killed."""


def trained(data: str, folder: Path, family: str, seed: int) -> tuple[vaelab.Run, float]:
    """The run of a family and a seed, trained if it is not there, and the seconds that took."""
    path = folder / f"{family}-{seed}"
    clock = path / "benchmark.json"
    known = json.loads(clock.read_text()) if clock.exists() else {"seconds": 0.0, "done": False}
    if known.get("done", True):
        return vaelab.load(path), known["seconds"]
    settings = {section: dict(values) for section, values in BASE.items()} | {"seed": seed}
    for section, values in FAMILIES[family][1].items():
        settings[section] = settings.get(section, {}) | values
    begun = (path / "config.yaml").exists()
    how: dict[str, Any] = {"resume": path} if begun else {"out": path, "config": settings}
    start, done = time.perf_counter(), False
    try:
        run = vaelab.train(data, progress=False, **how)
        done = True
    finally:  # a sitting that is broken off counts too, as long as it can still write
        seconds = known["seconds"] + time.perf_counter() - start
        if path.exists():
            clock.write_text(json.dumps({"seconds": seconds, "done": done}))
    return run, seconds


def bounds(data: str, folder: Path, family: str, seed: int, run: vaelab.Run) -> np.ndarray:
    """The importance-weighted bound of every test image, kept beside the run, [10,000]."""
    path = folder / f"{family}-{seed}" / f"bound-{SAMPLES}.npy"
    if not path.exists():
        with np.load(data) as file:
            np.save(path, vaelab.log_likelihood(run, file["x_test"], samples=SAMPLES, seed=0).values)
    return np.load(path)


def line(family: str, seed: int, run: vaelab.Run, seconds: float, values: np.ndarray, plain: np.ndarray) -> str:
    """A line of the table."""
    half = 1.96 / np.sqrt(len(values))
    behind = plain - values
    m = run.metrics
    return (
        f"{family:<15} {seed:>4} {run.environment['parameters']:>9} {m['negative_elbo']:>8.2f} "
        f"{-values.mean():>9.2f} ±{half * values.std():>5.2f} {behind.mean():>8.2f} ±{half * behind.std():>5.2f} "
        f"{m['kl']:>7.2f} {seconds:>8.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", help="npz with x_train and x_test")
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps the runs")
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", action="store_true", help="write the table of all runs that the folder holds")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for family in arguments.only:
            run, seconds = trained(arguments.path, arguments.runs, family, seed)
            values = bounds(arguments.path, arguments.runs, family, seed, run)
            print(f"{family} {seed}: {-values.mean():.2f} after {seconds:.0f} s", flush=True)
    if arguments.table:
        write_table("families", "The parts of the field on MNIST", table(arguments.path, arguments.runs))


def table(data: str, folder: Path) -> list[str]:
    """Every run of the folder as a line, under the notes and a head."""
    plain = np.load(folder / "plain-0" / f"bound-{SAMPLES}.npy")
    head = (
        f"{'model':<15} {'seed':>4} {'weights':>9} {'-ELBO':>8} {'-log p(x)':>9} {'':>6} {'to plain':>8} {'':>6} "
        f"{'KL':>7} {'seconds':>8}"
    )
    lines = []
    for family in FAMILIES:
        for path in sorted(folder.glob(f"{family}-[0-9]")):
            seed = int(path.name.rpartition("-")[2])
            run, seconds = trained(data, folder, family, seed)
            lines.append(line(family, seed, run, seconds, bounds(data, folder, family, seed, run), plain))
    titles = [f"{name}: {title}." for name, (title, _) in FAMILIES.items()]
    return [*textwrap.wrap(NOTES, 120), "", *titles, "", head, *lines]


if __name__ == "__main__":
    main()
