"""Embeddings beside principal components: labels by the nearest neighbours, and proteins of cells by their RNA.

Usage: python benchmarks/embeddings.py mnist.npz pbmc.h5ad [--seeds 3] [--only digits mnist cells]
"""

from __future__ import annotations

import argparse
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from table import write_table

import vaelab
from vaelab.core.cell_files import read_h5ad
from vaelab.recipes import recipe
from vaelab.use.embedding import embed

SIZES = {"digits": (2, 8, 16), "mnist": (8, 16)}
STEPS = {"digits": 3000, "mnist": 4000}
CODED, NEIGHBOURS, CELL_SIZES, CELL_NEIGHBOURS, FOLDS = 10_000, 5, (5, 10, 20), 10, 5
NOTES = """VAE: posterior means of `vaelab.train` with its defaults but for latent and steps, no label seen. PCA: of the
same rows and size. digits and MNIST: % of test rows whose label is that of the 5 nearest codes (10,000 training rows
of MNIST, 1297 of digits; tested on 10,000 and 500), mean over seeds and its range. Cells: 200 cells with 14 surface
proteins measured beside their RNA, the 4000 genes marked as highly variable; log(1 + protein) predicted from the
mean of the 10 nearest cells in 5-fold cross-validation, R² over all cells, mean over the 14 proteins, then over five
ways to cut the folds; ±: standard error over cells of the mean R² (jackknife). No protein is seen by either
embedding; both see the RNA of all cells. PCA of log(1 + counts at the median library size)."""


def accuracy(train: np.ndarray, y: np.ndarray, test: np.ndarray, y_test: np.ndarray) -> float:
    """Share of test rows with the right label, %."""
    return 100 * KNeighborsClassifier(NEIGHBOURS).fit(train, y).score(test, y_test)


def trained(x: Any, config: dict[str, Any], seed: int, folder: Path) -> vaelab.Run:
    """A run into a folder of its own."""
    config = config | {"seed": seed, "report": {"html": False}}
    return vaelab.train(x, out=Path(tempfile.mkdtemp(dir=folder)) / "run", config=config, progress=False)


def spanned(values: Sequence[float], digits: int) -> str:
    """The mean over seeds, and their range where there are several."""
    ends = f"{min(values):.{digits}f} to {max(values):.{digits}f}" if len(values) > 1 else "-"
    return f"{np.mean(values):.{digits}f} ({ends})"


def images(name: str, path: str, seeds: int, folder: Path) -> Iterator[str]:
    """A line for each size."""
    if name == "digits":
        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order].reshape(-1, 8, 8).astype(np.uint8), y[order]
        (train, y_train), (test, y_test) = (x[:-500], y[:-500]), (x[-500:], y[-500:])
    else:
        data = np.load(path, allow_pickle=False)
        train, y_train, test, y_test = (data[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    coded, y_coded = train[:CODED], y_train[:CODED]
    flat, flat_test = (part.reshape(len(part), -1).astype(np.float32) for part in (coded, test))
    for size in SIZES[name]:
        pca = PCA(size, random_state=0).fit(flat)
        theirs = accuracy(pca.transform(flat), y_coded, pca.transform(flat_test), y_test)
        ours = []
        for seed in range(seeds):
            config = {"model": {"latent": size}, "train": {"steps": STEPS[name], "evaluate_every": STEPS[name] // 5}}
            run = trained(train, config, seed, folder)
            ours.append(accuracy(run.embed(coded), y_coded, run.embed(test), y_test))
        yield f"{name:<8} {size:>4}  {spanned(ours, 1):<32} {theirs:7.1f}"


def predicted(codes: np.ndarray, proteins: np.ndarray) -> tuple[float, float]:
    """Mean R² of proteins by neighbours in the codes, and its standard error over cells."""
    misses = []
    for seed in range(FOLDS):
        guess = np.empty_like(proteins)
        for there, held in KFold(FOLDS, shuffle=True, random_state=seed).split(codes):
            guess[held] = KNeighborsRegressor(CELL_NEIGHBOURS).fit(codes[there], proteins[there]).predict(codes[held])
        misses.append((proteins - guess) ** 2)
    missed, spread = np.mean(misses, 0), (proteins - proteins.mean(0)) ** 2

    def score(kept: np.ndarray) -> float:
        return float((1 - missed[kept].sum(0) / spread[kept].sum(0)).mean())

    count = len(codes)
    without = np.array([score(np.arange(count) != cell) for cell in range(count)])
    return score(np.arange(count)), float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))


def cells(path: str, seeds: int, folder: Path) -> Iterator[str]:
    """A line for each size."""
    import h5py

    found = read_h5ad(path)
    assert found.variable is not None
    counts = found.x[:, found.variable].astype(np.float64)
    with h5py.File(path) as file:
        proteins = np.log1p(file["obsm/protein_expression"][()].astype(np.float64))
    total = counts.sum(1, keepdims=True)
    logs = np.log1p(counts / total * np.median(total))
    for size in CELL_SIZES:
        theirs = predicted(PCA(size, random_state=0).fit_transform(logs), proteins)
        ours = []
        for seed in range(seeds):
            settings = dict(recipe("cells").settings)
            settings["model"] = settings["model"] | {"latent": size}
            run = trained(path, settings, seed, folder)
            ours.append(predicted(embed(run, run_rows(run, found)).z, proteins))
        span = f"{spanned([score for score, _ in ours], 3)} ±{np.mean([error for _, error in ours]):.3f}"
        yield f"{'cells':<8} {size:>4}  {span:<32} {theirs[0]:7.3f} ±{theirs[1]:.3f}"


def run_rows(run: vaelab.Run, found: Any) -> np.ndarray:
    """The genes that the run was trained on, in its order."""
    return run.spec.in_order(np.asarray(found.x, np.float32), found.genes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mnist", help="npz with x_train, y_train, x_test and y_test")
    parser.add_argument("cells", help="h5ad with counts, var.highly_variable and obsm.protein_expression")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=("digits", "mnist", "cells"), default=["digits", "mnist", "cells"])
    arguments = parser.parse_args()
    lines = [*textwrap.wrap(NOTES, 120), "", f"{'data':<8} {'size':>4}  {'VAE, mean (range of seeds)':<32} {'PCA':>7}"]
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            given = (arguments.seeds, Path(folder))
            found = cells(arguments.cells, *given) if name == "cells" else images(name, arguments.mnist, *given)
            for line in found:  # a run that is stopped leaves what it has measured
                print(line, flush=True)
                write_table("embeddings", "Embeddings beside PCA", lines := [*lines, line])


if __name__ == "__main__":
    main()
