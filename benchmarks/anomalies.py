"""Anomalies in tables: the detector beside nearest neighbours, isolation forest, PCA and PyOD's VAE, on one split.

Usage: python benchmarks/anomalies.py FOLDER [--seeds 3] [--only glass wine] [--processes 2] [--picture FILE]

FOLDER holds the .npz files of ADBench (`X`, `y`, 1 = anomaly). PyOD's VAE is measured where `pyod` can be imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from table import write_table

from vaelab.sklearn import VAEAnomalyDetector

RATES = (0.05, 0.1)  # false alarms asked for
NOTES = """Rows are standardised by the training rows; half of the rows in order, drawn at random, are trained on, and
the other half and all anomalies are scored. AUROC times 100, mean over the seeds (+- standard deviation over them for
the detector). vaelab: VAEAnomalyDetector with its defaults for every table: five models, each trained on another nine
tenths of the training rows (four fifths of few); of 2500 training rows and more a fifth, at most 2000, are kept from
all of them. alarms: share in % of the test rows in order whose conformal p-value is at most 0.05 and 0.1. s: processor
seconds of one fit and its scores, on a busy machine."""

Scorer = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def split(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, test rows and their labels, standardised by the training rows."""
    with np.load(path, allow_pickle=False) as archive:
        x, y = archive["X"].astype(np.float64), archive["y"].astype(int)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(y == 0))
    train, rest = np.split(order, [len(order) // 2])
    test = np.concatenate([rest, np.flatnonzero(y == 1)])
    mean, std = x[train].mean(0), x[train].std(0)
    standard = (x - mean) / np.where(std > 0, std, 1.0)
    return standard[train], standard[test], y[test]


def nearest(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Distance to the fifth nearest training row."""
    return NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]


def forest(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


def principal(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Squared scores on all principal components over their variances, as PyOD's PCA."""
    found = PCA().fit(train)
    return (found.transform(test) ** 2 / np.maximum(found.explained_variance_, 1e-12)).sum(1)


def pyod_vae(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    from pyod.models.vae import VAE

    model = VAE(random_state=seed, verbose=0)
    model.fit(train)
    return np.nan_to_num(model.decision_function(test))


def ours(train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and p-values."""
    detector = VAEAnomalyDetector(random_state=seed).fit(train)
    return -detector.score_samples(test), detector.p_values(test)


PEERS: dict[str, Scorer] = {"kNN": nearest, "forest": forest, "PCA": principal}
if importlib.util.find_spec("pyod"):
    PEERS["PyOD VAE"] = pyod_vae


def measure(path: Path, seeds: int) -> dict[str, Any]:
    """Mean AUROC of each method over the seeds, and the detector's false alarms."""
    found: dict[str, list[float]] = {}
    alarms, seconds = [], 0.0
    for seed in range(seeds):
        train, test, labels = split(path, seed)
        for name, scorer in PEERS.items():
            found.setdefault(name, []).append(100 * roc_auc_score(labels, scorer(train, test, seed)))
        before = time.process_time()
        scores, p = ours(train, test, seed)
        seconds += time.process_time() - before
        found.setdefault("vaelab", []).append(100 * roc_auc_score(labels, scores))
        alarms.append([100 * (p[labels == 0] <= rate).mean() for rate in RATES])
    means = {name: float(np.mean(values)) for name, values in found.items()}
    spread = float(np.std(found["vaelab"]))
    return {"auroc": means, "spread": spread, "alarms": np.mean(alarms, 0) if alarms else None, "s": seconds / seeds}


def draw(path: Path, to: Path) -> None:
    """A picture of one table: the scores of both kinds of test rows with the threshold, and one row explained."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    train, test, labels = split(path, 0)
    detector = VAEAnomalyDetector().fit(train)
    why = detector.explain(test)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(3, 2), layout="constrained")
    edges = np.linspace(why.values.min(), np.quantile(why.values, 0.98), 60)
    for label, name, colour in ((0, "in order", "#4477aa"), (1, "anomalies", "#cc6644")):
        shown = np.clip(why.values[labels == label], None, edges[-1])
        left.hist(shown, edges, density=True, alpha=0.65, label=name, color=colour)
    left.axvline(-detector.offset_, color="black", lw=1)
    left.annotate("p = 0.05", (-detector.offset_, 0.97), xycoords=("data", "axes fraction"), va="top")
    left.set(xlabel="score, -log p(x) in nats (above the 98th percentile: last bar)", ylabel="density", yscale="log")
    left.legend(loc="upper right", frameon=False)
    row = int(np.argsort(-np.where(labels == 1, why.values, -np.inf))[np.sum(labels) // 2])
    above = why.strangest(row, 8, detector.usual_parts_)[::-1]
    right.barh([name for name, _ in above], [nats for _, nats in above], color="#cc6644")
    right.set(xlabel="nats above the usual", title=f"why row {row} is strange")
    figure.savefig(to, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="draw the first table to this file, and measure nothing")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    if given.picture:
        draw(
            next(path for path in sorted(given.folder.glob("*.npz")) if not given.only or given.only[0] in path.stem),
            given.picture,
        )
        return
    names = [*PEERS, "vaelab"]
    lines = [
        f"{'table':<14}" + "".join(f"{name:>10}" for name in names) + f"{'+-':>6}{'alarms at 5, 10 %':>20}{'s':>6}"
    ]
    paths = {path.stem.partition("_")[2] or path.stem: path for path in sorted(given.folder.glob("*.npz"))}
    paths = {table: path for table, path in paths.items() if not given.only or table in given.only}
    rows = []
    with ProcessPoolExecutor(given.processes) as pool:
        found = pool.map(measure, paths.values(), [given.seeds] * len(paths))
        for table, row in zip(paths, found, strict=True):
            rows.append(row)
            alarms = "-" if row["alarms"] is None else ", ".join(f"{rate:.1f}" for rate in row["alarms"])
            numbers = "".join(f"{row['auroc'][name]:>10.1f}" for name in names)
            lines.append(f"{table:<14}{numbers}{row['spread']:>6.1f}{alarms:>20}{row['s']:>6.0f}")
            print(lines[-1], flush=True)
    means = "".join(f"{np.mean([row['auroc'][name] for row in rows]):>10.1f}" for name in names)
    known = [row["alarms"] for row in rows if row["alarms"] is not None]
    alarms = ", ".join(f"{rate:.1f}" for rate in np.mean(known, 0)) if known else "-"
    lines.append(f"{'mean':<14}{means}{'':>6}{alarms:>20}")
    write_table("anomalies", f"Anomalies, {given.seeds} seeds", [*lines, "", *NOTES.splitlines()])


if __name__ == "__main__":
    main()
