"""Half of the entries of three tables hidden, and filled in: ours beside four imputers of scikit-learn.

python benchmarks/imputation.py ../shared/data/tables                    (five masks; about two hours on one core)
python benchmarks/imputation.py ../shared/data/tables --masks 1 --only numbers
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from table import write_table

import vaelab
from vaelab.sklearn import VAEImputer
from vaelab.use.imputing import impute

BOUNDS = {"breast cancer": 0.285, "banknote": 0.46, "concrete": 0.52}
LEVEL = 0.9
MIXED_ROWS = 2000  # of adult: a one-hot regression on all of them takes hours
SETTINGS: dict[str, Any] = {"report": {"html": False}}


def numeric(folder: Path) -> dict[str, np.ndarray]:
    """The three tables, all of their columns standardised."""
    read = {
        "breast cancer": load_breast_cancer().data,
        "banknote": np.loadtxt(folder / "banknote.csv", delimiter=","),
        "concrete": np.loadtxt(folder / "concrete.txt"),
    }
    return {name: (x - x.mean(0)) / x.std(0) for name, x in read.items()}


def hidden(x: np.ndarray, mask: int, share: float = 0.5) -> np.ndarray:
    return np.asarray(np.random.default_rng(mask).random(x.shape) < share)


def ours(x: Any, config: Any, seed: int, recipe: str | None = None, **options: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        settings = SETTINGS | config | {"seed": seed}
        run = vaelab.train(x, out=Path(folder) / "run", recipe=recipe, config=settings, progress=False)
        return impute(run, x, **options)


def forest(seed: int) -> Any:
    return IterativeImputer(RandomForestRegressor(30, random_state=seed), max_iter=3, random_state=seed)


OTHERS: dict[str, Callable[[int], Any]] = {
    "mean": lambda seed: SimpleImputer(),
    "KNN": lambda seed: KNNImputer(),
    "iterative": lambda seed: IterativeImputer(max_iter=20, random_state=seed),
    "forest": forest,
}


def on_numbers(tables: dict[str, np.ndarray], mask: int) -> list[dict[str, Any]]:
    rows = []
    for name, x in tables.items():
        gone = hidden(x, mask)
        with_gaps = np.where(gone, np.nan, x)
        began = time.perf_counter()
        imputer = VAEImputer(random_state=mask).fit(with_gaps)
        filled, (low, high) = imputer.transform(with_gaps), imputer.interval(with_gaps, LEVEL)
        row = {"table": name, "mask": mask, "vaelab": float(((filled - x)[gone] ** 2).mean())}
        row["covered"] = float(((low <= x) & (x <= high))[gone].mean())
        row |= {"steps": imputer.steps_, "seconds": time.perf_counter() - began}
        for other, build in OTHERS.items():
            filled = build(mask).fit_transform(with_gaps)
            row[other] = float(((filled - x)[gone] ** 2).mean())
        rows.append(row)
        print(row, flush=True)
    return rows


def numbers_table(rows: list[dict[str, Any]]) -> list[str]:
    masks = len({row["mask"] for row in rows})
    lines = [
        f"Numbers: half of the entries hidden at random, {masks} mask(s); mean squared error of standardised columns",
        "at hidden entries, +- the deviation over masks; covered: share of them in 90 % intervals. vaelab: VAEImputer",
        "with its defaults, which chose so many steps of training, median over masks; s: of one fit and all that it",
        "fills, on a busy machine. forest: IterativeImputer over random forests of 30 trees, 3 rounds.",
        "",
        f"{'table':14} {'vaelab':>15} {'at most':>8} {'covered':>8}    mean     KNN iterative  forest   steps     s",
    ]
    for name, bound in BOUNDS.items():
        own = [row for row in rows if row["table"] == name]
        if own:
            mse = np.array([row["vaelab"] for row in own])
            rest = [np.mean([row[other] for row in own]) for other in OTHERS]
            spread = f"{mse.mean():.3f} +- {mse.std(ddof=1):.3f}" if len(mse) > 1 else f"{mse.mean():.3f} -"
            shown = [f"{value:{width}.3f}" for value, width in zip(rest, (7, 7, 9, 7), strict=True)]
            covered = np.mean([row["covered"] for row in own])
            steps, seconds = (np.median([row[what] for row in own]) for what in ("steps", "seconds"))
            told = f"{name:14} {spread:>15} {bound:8.3f} {100 * covered:7.1f}% {' '.join(shown)}"
            lines.append(f"{told} {steps:7.0f} {seconds:5.0f}")
    return [*lines, ""]


def on_words(folder: Path, name: str, share: float, seed: int) -> list[str]:
    """Entries of a table of words and numbers hidden beyond those that are missing anyway."""
    frame = pd.read_csv(folder / f"{name}.csv", skipinitialspace=True)
    frame = frame.sample(min(MIXED_ROWS, len(frame)), random_state=0).reset_index(drop=True)
    frame = frame.replace("?", np.nan)
    numbers = [c for c in frame if pd.api.types.is_float_dtype(frame[c]) or frame[c].nunique() > 20]
    numbers = [c for c in numbers if pd.api.types.is_numeric_dtype(frame[c])]
    words = [c for c in frame if c not in numbers]
    frame[words] = frame[words].astype(object).where(frame[words].notna(), None)
    frame[words] = frame[words].map(lambda value: None if value is None else f"level {value}")
    frame[numbers] = frame[numbers].astype(float)
    gone = hidden(frame.to_numpy(), seed, share) & frame.notna().to_numpy()
    with_gaps = frame.mask(gone)
    with_gaps[words] = with_gaps[words].astype(object).where(with_gaps[words].notna(), None)
    found = VAEImputer(random_state=seed, samples=500).fit_transform(with_gaps)
    filled = one_hot(with_gaps, numbers, words)
    lines, better = [], 0
    for at, column in enumerate(frame):
        rows = gone[:, at]
        truth, mine, theirs = (part[column][rows] for part in (frame, found, filled))
        if column in numbers:
            spread = frame[column].std()
            errors = [float(np.sqrt((((part.astype(float) - truth) / spread) ** 2).mean())) for part in (mine, theirs)]
            won, what = errors[0] < errors[1], "RMSE"
        else:
            errors = [float((part == truth).mean()) for part in (mine, theirs)]
            won, what = errors[0] > errors[1], "accuracy"
        better += won
        lines.append(f"{column:16} {what:9} {errors[0]:7.3f} {errors[1]:10.3f} {'better' if won else ''}".rstrip())
    head = f"{name}: {len(frame)} rows, {100 * share:.0f} % hidden; better in {better} of {len(frame.columns)} columns"
    return [head, f"{'column':16} {'measure':9} {'vaelab':>7} {'iterative':>10}", *lines, ""]


def one_hot(frame: pd.DataFrame, numbers: list[str], words: list[str]) -> pd.DataFrame:
    """IterativeImputer over standard scores and ones among zeros; a gap is NaN in all columns of its levels."""
    scale = StandardScaler().fit(frame[numbers])
    levels = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    known = frame[words].map(lambda value: "missing" if value is None or value != value else value)
    coded = make_column_transformer((levels, words)).fit(known)
    encoder = coded.named_transformers_["onehotencoder"]
    table, blocks = coded.transform(known), []
    for column, names in zip(words, encoder.categories_, strict=True):
        block = table[:, sum(len(c) for c in encoder.categories_[: words.index(column)]) :][:, : len(names)]
        block = np.where((known[column] == "missing").to_numpy()[:, None], np.nan, block)[:, names != "missing"]
        blocks.append((column, names[names != "missing"], block))
    whole = np.concatenate([scale.transform(frame[numbers]), *(block for _, _, block in blocks)], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filled = IterativeImputer(max_iter=5, random_state=0, n_nearest_features=30).fit_transform(whole)
    out, at = pd.DataFrame(scale.inverse_transform(filled[:, : len(numbers)]), columns=numbers), len(numbers)
    for column, names, block in blocks:
        out[column] = names[filled[:, at : at + block.shape[1]].argmax(1)]
        at += block.shape[1]
    return out


def not_at_random(tables: dict[str, np.ndarray], seed: int) -> list[str]:
    """Values above the mean are removed from half of the columns, with and without a model of why."""
    lines = [
        "Not at random: all values above the mean of their column are removed from the first half of the columns.",
        "Mean squared error of standardised columns at removed entries; recipe imputation with a Gaussian of shared",
        "noise, and tanh.",
        "",
        f"{'table':14} {'data.mask_model':>16} {'vaelab':>8}",
    ]
    for name in ("banknote",):
        x = tables[name]
        gone = (x > 0) & (np.arange(x.shape[1]) < x.shape[1] // 2)
        with_gaps = np.where(gone, np.nan, x).astype(np.float32)
        for why in ("none", "self", "above"):
            likelihood = {"name": "gaussian", "noise": "shared", "floor": 0.0}
            config = {"data": {"mask_model": why}, "likelihood": likelihood, "model": {"activation": "tanh"}}
            found = ours(with_gaps, config, seed, "imputation", samples=500)
            lines.append(f"{name:14} {why:>16} {((found.rows - x)[gone] ** 2).mean():8.3f}")
            print(lines[-1], flush=True)
        for other in ("mean", "iterative"):
            filled = OTHERS[other](seed).fit_transform(with_gaps)
            lines.append(f"{name:14} {other:>16} {((filled - x)[gone] ** 2).mean():8.3f}")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", type=Path)
    parser.add_argument("--masks", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", choices=("numbers", "mixed", "mnar"))
    arguments = parser.parse_args()
    tables, rows, rest = numeric(arguments.tables), [], []
    if arguments.only in (None, "mnar"):
        rest += not_at_random(tables, 0)
    title = "Imputation" if arguments.only is None else f"Imputation: {arguments.only}"
    name = "imputation" if arguments.only is None else f"imputation-{arguments.only}"
    if arguments.only in (None, "mixed"):
        for table, share in (("titanic", 0.3), ("adult", 0.3)):
            rest += on_words(arguments.tables, table, share, 0)
            write_table(name, title, rest)
    masks = range(arguments.masks if arguments.only in (None, "numbers") else 0)
    with ProcessPoolExecutor(arguments.processes) as pool:
        for found in pool.map(partial(on_numbers, tables), masks):
            rows += found
            write_table(name, title, [*numbers_table(rows), *rest])
    if not rows:
        write_table(name, title, rest)


if __name__ == "__main__":
    main()
