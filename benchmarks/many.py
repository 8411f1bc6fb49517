"""What a step of M models in a stack costs beside M steps of one model trained alone, in one run.

Both take turns in blocks of steps, with all that a run does between evaluations; the ratio is that of the medians, and
below 1 a stack pays. With --runs whole runs are measured instead, once.
Usage: python benchmarks/many.py [--blocks 9] [--device cpu] [--runs]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import write_table

from vaelab.core.config import Config, build_config
from vaelab.training.engine import Engine
from vaelab.training.fit import fit, ready
from vaelab.training.folder import RunFolder
from vaelab.training.job import prepare
from vaelab.training.loop import Loop
from vaelab.training.many import fit_many, prepared, stack_of, variations
from vaelab.training.show import Display
from vaelab.training.stackable import LEAST_MODELS, TINY_STEP, work_of
from vaelab.training.together import Member, Together

ROWS, BATCH, LATENT = 8_000, 128, 8
CASES = tuple(itertools.product((64, 784), (16, 64, 128, 256, 512)))  # columns of the data, width of two hidden layers
SIZES = (2, 4, 8, 32)
WIDTHS = (7, 6, 9, 7, 8, 9, 9, 7)  # of the table's columns
EVERY = ("evaluate_every", "checkpoint_every", "log_every")  # settings that whole runs leave at their defaults
STEPS = 8  # of a stack in a block; a model alone does M times as many


def config_of(width: int, **others: Any) -> Config:
    """Two hidden layers, the rest as by default, and neither evaluation nor checkpoint within the measurement."""
    train = {"clip_norm": 1.0, "evaluate_every": 10**9, "checkpoint_every": 10**9, "steps": 100_000, "log_every": 50}
    model = {"hidden": [width, width], "latent": LATENT, "encoder": "mlp"}
    return build_config({"model": model, "likelihood": "bernoulli", "train": {**train, "batch_size": BATCH}, **others})


def alone(x: np.ndarray, config: Config, engine: Engine) -> tuple[Callable[[int], None], float]:
    """A function that does so many steps of one model, and the work of one in millions of multiplications."""
    job = prepare(x, config, engine, None, None)
    loop, _ = ready(job, RunFolder(Path(tempfile.mkdtemp())), engine, Display(), Loop)
    loop.model.train()

    def steps(count: int) -> None:
        for _ in range(count):
            loop._advance(loop.progress.step)
            loop.progress.step += 1
            loop._due(loop.progress.step)

    return steps, work_of(job) / 1e6


def together(x: np.ndarray, configs: list[Config], engine: Engine) -> Callable[[int], None]:
    """A function that does so many steps of a stack of models."""
    jobs = prepared(x, configs, engine)
    stack = stack_of(jobs, engine)
    folders = [RunFolder(Path(tempfile.mkdtemp())) for _ in jobs]
    made = [ready(job, folder, engine, Display(), Member)[0] for job, folder in zip(jobs, folders, strict=True)]
    all_of_them = Together(made, [], stack, engine)
    for member in made:
        member.model.train()

    def steps(count: int) -> None:
        for _ in range(count):
            all_of_them.advance(made[0].progress.step)
            for member in made:
                member.next_step()

    return steps


def measured(columns: int, width: int, models: int, by_beta: bool, blocks: int, engine: Engine) -> str:
    """A line of the table."""
    x = (np.random.default_rng(0).random((ROWS, columns)) < 0.3).astype(np.float32)
    betas = np.geomspace(0.25, 8, models).tolist()
    varied: list[dict[str, Any]] = [{"objective": {"beta": b}} if by_beta else {"seed": s} for s, b in enumerate(betas)]
    one, work = alone(x, config_of(width, **varied[0]), engine)
    many = together(x, [config_of(width, **other) for other in varied], engine)
    times: dict[str, list[float]] = {"one": [], "many": []}
    for _ in range(blocks + 1):
        for label, steps, count in (("one", one, max(STEPS, 16)), ("many", many, max(2, STEPS // (1 + models // 8)))):
            start = time.perf_counter()
            steps(count)
            if engine.device.type == "cuda":
                torch.cuda.synchronize()
            times[label].append(1e3 * (time.perf_counter() - start) / count)
    single, stack = (statistics.median(times[label][1:]) for label in ("one", "many"))
    what = "beta" if by_beta else "seed"
    cells = (columns, width, f"{work:.1f}", models, what, f"{single:.3f}", f"{stack:.3f}")
    ratio = f"{stack / (models * single):.3f}"
    return " ".join(f"{cell:>{space}}" for cell, space in zip((*cells, ratio), WIDTHS, strict=True))


def whole_runs(width: int, models: int, steps: int, device: str) -> str:
    """A line of the second table: whole runs, from the settings to the findings, evaluations included."""
    x = (np.random.default_rng(0).random((2_000, 64)) < 0.3).astype(np.float32)
    train = dict.fromkeys(EVERY) | {"steps": steps, "device": device}
    base = build_config(config_of(width).model_dump(), {"train": train})
    folder = Path(tempfile.mkdtemp())
    start = time.perf_counter()
    for seed in range(models):
        fit(x, base.edited({"seed": seed}), out=folder / f"alone-{seed}", progress=False)
    between = time.perf_counter()
    fit_many(x, variations(base, models, None, folder / "many"), progress=False)
    one, many = between - start, time.perf_counter() - between
    cells = (64, width, models, steps, f"{one:.1f}", f"{many:.1f}", f"{many / one:.3f}")
    return " ".join(f"{cell:>{space}}" for cell, space in zip(cells, (7, 6, 7, 6, 11, 9, 7), strict=True))


def steps_table(blocks: int, engine: Engine) -> None:
    """Measures single steps."""
    cases = [(*case, size, False) for case in CASES for size in SIZES] + [(64, 64, 8, True), (784, 64, 8, True)]
    lines = []
    for case in cases:
        lines.append(measured(*case, blocks, engine))
        print(lines[-1], flush=True)
    names = zip(("columns", "width", "work", "models", "differ", "one ms", "stack ms", "ratio"), WIDTHS, strict=True)
    head = " ".join(f"{name:>{width}}" for name, width in names)
    note = [
        "work: millions of multiplications of a batch of 128 with every weight, an entry's likelihood counted as 100;",
        "differ: in what the models differ.",
        "one ms: a step of one model alone; stack ms: a step of all models; ratio: stack / (models * one).",
        f"on a processor rate-distortion stacks {LEAST_MODELS} models or more of a work below {TINY_STEP // 10**6}.",
    ]
    write_table("many", "A step of M models in a stack beside M steps of one", [head, *lines, "", *note])


def runs_table(device: str) -> None:
    """Measures whole runs."""
    head = f"{'columns':>7} {'width':>6} {'models':>7} {'steps':>6} {'in turn s':>11} {'at once s':>9} {'ratio':>7}"
    lines = [whole_runs(width, 8, 300, device) for width in (64, 512)]
    title = "Whole runs with evaluations, checkpoints and findings, which are each model's own in both"
    write_table("many-runs", title, [head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", action="store_true")
    given = parser.parse_args()
    if given.runs:
        runs_table(given.device)
    else:
        steps_table(given.blocks, Engine(given.device))


if __name__ == "__main__":
    main()
