"""A stand-in for a run whose model is known exactly: probabilistic PCA in closed form (Tipping and Bishop, 1999)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from sklearn.datasets import load_digits, load_wine

from vaelab.core.config import Config, build_config
from vaelab.core.finding import Finding


@dataclass
class LinearRun:
    """Everything a report reads of a run, with p(x|z) = N(W z + m, s² I) fitted to `rows`; `preview` is held out."""

    folder: Path
    rows: np.ndarray
    preview: np.ndarray
    preview_labels: np.ndarray | None
    label_names: tuple[str, ...]
    columns: tuple[str, ...] = ()
    top: float | None = None
    latent: int = 2
    config: Config = field(default_factory=lambda: build_config({"train": {"steps": 10_000}}))
    findings: list[Finding] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=lambda: {"seed": 0, "data": {"name": "digits"}})
    name: str = "digits"
    preview_condition: None = None  # nothing is given beside its rows
    has_codes: bool = False
    has_bound: bool = True
    keeps_rows: bool = True
    prior: Any = None  # draws z [n, L] from a generator where the prior is not N(0, I)
    is_mass: bool = False
    _book: None = None
    _guesses: bool = False
    diagnosis: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shape = self.rows.shape[1:]
        image = len(self.shape) == 3
        self.spec = SimpleNamespace(
            name=self.name,
            layout="image" if image else "table",
            axes="HW" if image else "",
            shape=self.shape,
            columns=self.columns,
            label_names=self.label_names,
            top=self.top,
            rows=len(self.rows),
            held_out_rows=len(self.preview),
            condition=(),
            classes=0,
            mixed=(),
            vocabulary=(),
        )
        flat = self.rows.reshape(len(self.rows), -1).astype(np.float64)
        self.mean, self.unit = flat.mean(0), flat.std() if image else flat.std(0) + 1e-12
        values, vectors = np.linalg.eigh(np.cov((flat - self.mean) / self.unit, rowvar=False))
        kept = slice(-1, -self.latent - 1, -1)
        self.noise = values[: -self.latent].mean()
        self.weights = vectors[:, kept] * np.sqrt(np.maximum(values[kept] - self.noise, 0))
        self.inverse = np.linalg.inv(self.weights.T @ self.weights + self.noise * np.eye(self.latent))
        self.history, self.metrics = self._told()
        self.training_preview = self.rows

    def posterior(self, x: np.ndarray, condition: None = None) -> tuple[np.ndarray, np.ndarray]:
        centred = (x.reshape(len(x), -1) - self.mean) / self.unit
        mean = centred @ self.weights @ self.inverse
        return mean, np.broadcast_to(np.sqrt(self.noise * np.diag(self.inverse)), mean.shape)

    @property
    def _walkable(self) -> int:
        return self.latent

    @property
    def has_standard_prior(self) -> bool:
        return self.prior is None

    def prior_codes(self, count: int, seed: int = 0, condition: None = None) -> np.ndarray:
        random = np.random.default_rng(seed)
        return random.standard_normal((count, self.latent)) if self.prior is None else self.prior(random, count)

    def _prior_moments(self, condition: None) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(self.latent), np.ones(self.latent)

    def embed(self, x: np.ndarray, condition: None = None) -> np.ndarray:
        return self.posterior(x)[0]

    def decode(self, z: np.ndarray, condition: None = None) -> np.ndarray:
        return ((z @ self.weights.T) * self.unit + self.mean).reshape(
            len(z), *(self.shape[1:] if self.spec.axes else self.shape)
        )

    def reconstruct(self, x: np.ndarray, condition: None = None) -> np.ndarray:
        return self.decode(self.embed(x))

    def sample(self, n: int, seed: int = 0, noisy: bool = False) -> np.ndarray:
        random = np.random.default_rng(seed)
        means = self.decode(random.standard_normal((n, self.latent)))
        spread = (np.sqrt(self.noise) * self.unit) if noisy else 0.0
        return means + (random.standard_normal((n, self.mean.size)) * spread).reshape(means.shape)

    def interpolate(self, a: np.ndarray, b: np.ndarray, steps: int, condition: None = None) -> np.ndarray:
        first, last = self.embed(np.stack([a, b]))
        share = np.linspace(0, 1, steps)[:, None]
        return self.decode((1 - share) * first + share * last)

    def _told(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        mean, std = self.posterior(self.preview)
        kl = (0.5 * (mean**2 + std**2 - 1) - np.log(std)).mean(0)
        end = {"reconstruction": 60.0, "kl": float(kl.sum()), "kl_per_dimension": kl.tolist()}
        lines: list[dict[str, Any]] = []
        for step in range(50, 5001, 50):
            left = np.exp(-step / 600)
            terms = {
                "reconstruction": 60 + 90 * left,
                "kl": end["kl"] * (1 - left),
                "kl_per_dimension": kl * (1 - left),
            }
            terms |= {"kl_per_dimension": terms["kl_per_dimension"].tolist()}
            rates = {"beta": min(1.0, step / 1500), "learning_rate": 5e-4 * (1 + np.cos(np.pi * step / 5000))}
            steepness = {"gradient_norm": 3 + 60 * left * (1 + 0.3 * np.sin(step)), "clipped": float(step < 900)}
            lines.append({"kind": "train", "step": step, "loss": 70.0, **terms, **rates, **steepness})
            if step % 100 == 0:
                held = {"mean_variance": (mean.var(0) * (1 - left)).tolist()}
                held |= {"negative_elbo": terms["reconstruction"] + terms["kl"] + 2, "standard_error": 0.8}
                lines.append({"kind": "held_out", "step": step, "active_units": self.latent, **terms, **held})
        spread = {
            "mean_variance": mean.var(0).tolist(),
            "posterior_variance": np.square(std).mean(0).tolist(),
            "active_by_mean": int((mean.var(0) > 0.01).sum()),
        }
        kept = spread | {
            "step": 4900,
            "negative_elbo": 62.0 + end["kl"],
            "standard_error": 0.81,
            "rows": len(self.preview),
        }
        return lines, end | kept | {"active_units": int((kl > 0.01).sum())}


def digits_run(folder: Path, latent: int = 2, **fields: Any) -> LinearRun:
    data = load_digits()
    images, labels = data.images[:, None].astype(np.float32), data.target
    names = tuple(str(name) for name in data.target_names)
    return LinearRun(folder, images[180:], images[:180], labels[:180], names, top=16.0, latent=latent, **fields)


def wine_run(folder: Path, latent: int = 3, **fields: Any) -> LinearRun:
    data = load_wine()
    order = np.random.default_rng(0).permutation(len(data.data))
    rows, labels = data.data[order], data.target[order]
    names = {"columns": tuple(data.feature_names), "label_names": tuple(data.target_names)} | fields
    return LinearRun(folder, rows[40:], rows[:40], labels[:40], latent=latent, **names)
