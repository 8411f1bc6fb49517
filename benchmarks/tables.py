"""Mixed tables: what a column costs given the others, and a tree model trained on generated rows; TVAE beside it.

Usage: python benchmarks/tables.py FOLDER [--only adult titanic] [--epochs 300] [--steps N]

FOLDER holds adult.csv and titanic.csv. TVAE is measured where the package `ctgan` can be imported; `--epochs 0` leaves
it out.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from table import write_table

import vaelab
from vaelab.evaluation.columns import mean_over_known
from vaelab.measure.columns import given_others, independent

TEST_SHARE, ROWS, SAMPLES = 0.2, 300, 100
TARGET, POSITIVE = "income", ">50K"
SETTINGS: dict[str, dict[str, Any]] = {
    "adult": {
        "model": {"latent": 16, "hidden": [256, 256]},
        "train": {"steps": 6000, "batch_size": 256, "learning_rate": 2e-3},
    },
    "titanic": {
        "model": {"latent": 8, "hidden": [128, 128], "dropout": 0.2},
        "train": {"steps": 3000, "batch_size": 128, "learning_rate": 1e-3},
    },
}
EVERY = {"report": {"html": False}}
NOTES = f"""Rows are split 80 to 20 at random; a tenth of the 80 chooses the weights that are kept, and the 20 are
looked at once: the columns on the first {ROWS} of them, the trees on all. given others: -log p(x_d | the other
columns) under the model, nats an entry, by importance weights over {2 * SAMPLES} codes; by itself: the same
distribution of the column fitted to all training rows alone; saved: their difference, +- 95 % over those {ROWS} test
rows. AUC: gradient-boosted trees (scikit-learn's HistGradientBoosting, default settings) tell the income of test rows
after training on real rows, or on as many generated ones. TVAE (Xu et al., Modeling tabular data using conditional
GAN, 2019): the package ctgan with its default settings."""


def split(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test rows; a test row with a level that no training row has is left out."""
    frame = pd.read_csv(path, skipinitialspace=True, na_values="?")
    order = np.random.default_rng(0).permutation(len(frame))
    cut = round((1 - TEST_SHARE) * len(frame))
    train, test = (frame.iloc[part].reset_index(drop=True) for part in (order[:cut], order[cut:]))
    for column in train.columns:
        test = test[test[column].isna() | test[column].isin(train[column]) | _is_number(train[column])]
    return train, test.reset_index(drop=True)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)


def columns(run: Any, train: pd.DataFrame, test: pd.DataFrame) -> Iterator[str]:
    """A line for each column, and how many the model makes cheaper."""
    known = {column.name: column for column in run.spec.mixed}
    for name, column in known.items():  # numbers that are categories have levels of the training rows alone
        if column.levels_are == "numbers":
            test = test[test[name].isna() | test[name].astype(float).isin([float(level) for level in column.levels])]
    x, training = run.spec.to_model(test[:ROWS]), run.spec.to_model(train)
    ours = given_others(run.model, x, SAMPLES)
    alone = independent(run.model.decoder.likelihood, training, x)
    one, other, saved = (mean_over_known(values, "nats") for values in (ours, alone, alone - ours))
    yield f"{'column':<16} {'kind':<9} {'given others':>12} {'by itself':>10} {'saved':>8}  +-"
    for at, (name, column) in enumerate(known.items()):
        numbers = f"{one.value[at]:>12.3f} {other.value[at]:>10.3f} {saved.value[at]:>8.3f}  {saved.interval[at]:.3f}"
        yield f"{name:<16} {column.kind:<9} {numbers}"
    better = int((saved.value > 0).sum())
    yield f"cheaper given the others: {better} of {len(known)} columns ({better / len(known):.0%}); {len(x)} test rows"


def auc(rows: pd.DataFrame, test: pd.DataFrame, everything: pd.DataFrame) -> float:
    """Of trees that are trained on some rows and tell the target of the test rows."""
    levels = {name: sorted(map(str, everything[name].dropna().unique())) for name in everything if name != TARGET}

    def features(frame: pd.DataFrame) -> pd.DataFrame:
        found = {}
        for name in levels:
            if _is_number(everything[name]):
                found[name] = frame[name].astype(float)
            else:
                found[name] = pd.Categorical(frame[name].astype(object), categories=levels[name])
        return pd.DataFrame(found)

    trees = HistGradientBoostingClassifier(random_state=0, categorical_features="from_dtype")
    trees.fit(features(rows), rows[TARGET] == POSITIVE)
    return float(roc_auc_score(test[TARGET] == POSITIVE, trees.predict_proba(features(test))[:, 1]))


def tvae(train: pd.DataFrame, epochs: int) -> pd.DataFrame:
    """As many rows generated by TVAE; a missing entry of a category is a level of its own there."""
    from ctgan import TVAE

    discrete = [name for name in train if not _is_number(train[name])]
    filled = train.assign(**{name: train[name].astype(object).fillna("missing") for name in discrete})
    np.random.seed(0)
    model = TVAE(epochs=epochs)
    model.set_random_state(0)
    model.fit(filled, discrete)
    return model.sample(len(train)).replace("missing", np.nan)


def result(name: str, path: Path, epochs: int, steps: int | None) -> Iterator[str]:
    """The lines of a data set."""
    train, test = split(path)
    settings = {section: dict(values) for section, values in (SETTINGS[name] | EVERY).items()}
    if steps is not None:
        settings["train"]["steps"] = steps
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = vaelab.train(train, out=Path(folder) / "run", config=settings, progress=False)
        seconds = time.perf_counter() - start
        m = run.metrics
        made = pd.DataFrame(run.sample(len(train), seed=1), columns=run.spec.columns).infer_objects()
        total = settings["train"]["steps"]
        yield f"{name}: {len(train)} training rows, {len(test)} test rows, {total} steps in {seconds:.0f} s"
        chosen = f"negative ELBO {m['negative_elbo']:.3f}, KL {m['kl']:.2f} nats, {m['active_units']} active"
        yield f"chosen at step {m['step']}: {chosen}"
        yield ""
        yield from columns(run, train, test)
    if name == "adult":
        yield ""
        yield f"{'trees trained on':<22} {'AUC on test rows':>16} {'seconds':>8}"
        yield f"{'real rows':<22} {auc(train, test, train):>16.4f}"
        yield f"{'rows of vaelab':<22} {auc(made, test, train):>16.4f} {seconds:>8.0f}"
        if epochs and importlib.util.find_spec("ctgan"):
            start = time.perf_counter()
            rows = tvae(train, epochs)
            words = f"rows of TVAE, {epochs} epochs"
            yield f"{words:<22} {auc(rows, test, train):>16.4f} {time.perf_counter() - start:>8.0f}"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--epochs", type=int, default=300, help="of TVAE; 0 leaves it out")
    parser.add_argument("--steps", type=int, help="of vaelab; default: those of the table")
    arguments = parser.parse_args()
    lines = []
    for name in arguments.only:
        for line in result(name, arguments.folder / f"{name}.csv", arguments.epochs, arguments.steps):
            print(line, flush=True)
            lines.append(line)
    write_table("tables", "Mixed tables", [*textwrap.wrap(NOTES, 120), "", *lines])


if __name__ == "__main__":
    main()
