"""Conditional and semi-supervised models on MNIST: is a digit asked for the digit seen, and what do few labels buy?

Usage: python benchmarks/conditional.py mnist.npz [--only conditional labels] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from table import write_table
from torch import Tensor, nn

import vaelab
from vaelab.models.build import build_model

PER_DIGIT = 1000
LABELLED = 100
CONDITIONAL: dict[str, Any] = {
    "data": {"condition": "labels", "binarize": "dynamic"},
    "model": {"encoder": "mlp", "latent": 8, "hidden": [256, 256]},
    "train": {"steps": 15_000, "learning_rate": 3e-3, "evaluate_every": 5000},
    "report": {"html": False},
}
SEMI: dict[str, Any] = {
    "data": {"condition": "labels", "labelled": LABELLED, "binarize": "dynamic"},
    "model": {"encoder": "mlp", "latent": 16, "hidden": [256, 256], "missing_labels": "gumbel"},
    "train": {"steps": 8000, "evaluate_every": 2000},
    "report": {"html": False},
}
NOTES = """recognised: share of generated digits, 1000 of each label, that a convolutional classifier trained on 60,000
real training images, of the test accuracy that is stated, takes for the digit asked for; means are those of p(x|z, y),
draws are binary images from it. Labels: 100 of the 60,000, ten of each digit; alone is the same classifier network,
trained on these 100 alone with binarised images, Adam and early stopping by nothing (its best test accuracy over all
steps is shown too, which no one could have chosen); held-out are the 10,000 test images."""


class Judge(nn.Module):
    """A small convolutional classifier."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(), nn.Flatten()]
        self.layers = nn.Sequential(*convolutions, nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images [n, 1, 28, 28] in [0, 1]."""
        return self.layers(x)


def images(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(rows, np.float32)).reshape(-1, 1, 28, 28)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        told = torch.cat([model(part).argmax(1) for part in x.split(1000)])
    return (told == y).double().mean().item()


def fitted(model: nn.Module, x: Tensor, y: Tensor, steps: int, bits: bool = False) -> Iterator[int]:
    """Trains a classifier, a step at a time; every second batch is binarised, or every one."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(steps):
        index = torch.randint(len(x), (min(128, len(x)),))
        rows = torch.bernoulli(x[index]) if bits or step % 2 else x[index]
        optimizer.zero_grad()
        F.cross_entropy(model(rows), y[index]).backward()
        optimizer.step()
        yield step


def conditional(path: str, data: dict[str, Any], seed: int) -> Iterator[str]:
    """The lines of the conditional model."""
    torch.manual_seed(seed)
    judge, start = Judge(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = vaelab.train(path, out=Path(folder) / "run", config=CONDITIONAL | {"seed": seed}, progress=False)
        seconds = time.perf_counter() - start
        for _ in fitted(judge, data["x"], data["y"], 3000):
            pass
        asked = np.arange(10 * PER_DIGIT) % 10
        for what, noisy in (("means", False), ("draws", True)):
            made = images(run.sample(len(asked), seed=seed, noisy=noisy, condition=asked) / 255)
            seen = accuracy(judge, made, torch.from_numpy(asked))
            real = torch.bernoulli(data["x_test"]) if noisy else data["x_test"]
            known = accuracy(judge, real, data["y_test"])
            yield (
                f"{what:<8} {seed:>4} {100 * seen:>11.2f} {100 * known:>15.2f} "
                f"{run.metrics['negative_elbo']:>9.2f} {seconds:>8.0f}"
            )


def labels(path: str, data: dict[str, Any], seed: int) -> str:
    """The line of a semi-supervised model and of its classifier alone."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = vaelab.train(path, out=Path(folder) / "run", config=SEMI | {"seed": seed}, progress=False)
        seconds = time.perf_counter() - start
        measured, few = run.metrics, known_rows(data, seed)
        alone = build_model(run.config, run.spec.facts).get_submodule("classifier")
    torch.manual_seed(seed)
    test = torch.bernoulli(data["x_test"])
    best = last = 0.0
    for step in fitted(alone, data["x"][few], data["y"][few], 1000, bits=True):
        if step % 50 == 49:
            last = accuracy(alone, test, data["y_test"])
            best = max(best, last)
    return (
        f"{seed:>4} {100 * measured['accuracy']:>16.2f} {100 * last:>8.2f} {100 * best:>8.2f} "
        f"{measured['negative_elbo']:>9.2f} {seconds:>8.0f}"
    )


def known_rows(data: dict[str, Any], seed: int) -> Tensor:
    """The rows whose label the run was told."""
    from vaelab.data.conditions import keep_labelled

    return torch.from_numpy(np.flatnonzero(keep_labelled(data["y"].numpy(), LABELLED, seed) >= 0))


def told(line: str) -> str:
    print(line, flush=True)
    return line


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", help="npz with x_train, y_train, x_test and y_test")
    parser.add_argument("--only", nargs="+", choices=("conditional", "labels"), default=["conditional", "labels"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    archive = np.load(arguments.path)
    data = {"x": images(archive["x_train"]) / 255, "x_test": images(archive["x_test"]) / 255}
    data["y"] = torch.from_numpy(archive["y_train"]).long()
    data["y_test"] = torch.from_numpy(archive["y_test"]).long()
    lines = []
    if "conditional" in arguments.only:
        head = f"{'made':<8} {'seed':>4} {'recognised %':>11} {'real digits %':>14} {'-ELBO':>9} {'seconds':>8}"
        lines += [head, *map(told, conditional(arguments.path, data, arguments.seeds[0])), ""]
    if "labels" in arguments.only:
        lines += [f"{'seed':>4} {'semi-supervised %':>16} {'alone %':>7} {'(best)':>8} {'-ELBO':>9} {'seconds':>8}"]
        lines += [told(labels(arguments.path, data, seed)) for seed in arguments.seeds]
    write_table("conditional", "Labels on MNIST", [*textwrap.wrap(NOTES, 120), "", *lines])


if __name__ == "__main__":
    main()
