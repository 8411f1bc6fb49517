"""The gallery: trainings that go wrong for a known reason, and healthy ones of different kinds, on real data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import parts
import torch
from parts import binary_mnist, digits, mnist, omniglot, table, vae

import vaelab


@dataclass(frozen=True)
class Case:
    """A training.

    Args:
        name: Short.
        x: Makes the data.
        settings: Of `vaelab.train`.
        causes: Codes of findings that name the cause; empty for a healthy run.
        model: Makes a model of one's own; None: the one that the settings describe.
        objective: Likewise.
    """

    name: str
    x: Callable[[], Any]
    settings: dict[str, Any] = field(default_factory=dict)
    causes: frozenset[str] = frozenset()
    model: Callable[[], Any] | None = None
    objective: Callable[[], Any] | None = None


def failing(name: str, causes: str, x: Callable[[], Any], settings: Any = None, **more: Any) -> Case:
    """A training that goes wrong; `causes` are codes, separated by blanks."""
    return Case(name, x, settings or {}, frozenset(causes.split()), **more)


def steps(count: int, **train: Any) -> dict[str, Any]:
    """The settings of so many steps."""
    return {"train": {"steps": count, **train}}


def _with_copies() -> np.ndarray:
    """Digits of which four in ten rows stand twice."""
    rows = digits().reshape(-1, 64)
    return np.concatenate([rows, rows[: len(rows) * 4 // 10]])


def _corrupted() -> np.ndarray:
    """A table in which one row in five hundred was read in other units."""
    rows = np.tile(table("cancer"), (3, 1)) * np.random.default_rng(0).normal(1, 0.01, (3 * 569, 30))
    rows = (rows - rows.mean(0)) / rows.std(0)
    rows[::500] *= 1000
    return rows


def _noise_table() -> np.ndarray:
    """Wine with each column shuffled by itself: nothing is left that columns share."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(column) for column in np.tile(table("wine"), (4, 1)).T], 1) + rng.normal(0, 1e-3)


FAILURES: tuple[Case, ...] = (
    failing("collapse: beta 50", "TR121", digits, {"objective": {"beta": 50}, **steps(1500)}),
    failing("collapse: beta 20, MNIST", "TR121", binary_mnist, {"objective": {"beta": 40}, **steps(1000)}),
    failing(
        "collapse: a decoder that reads the row",
        "TR122 DG102",
        parts.binary_digits,
        steps(2000),
        model=lambda: parts.Reading(64, 8),
    ),
    failing("collapse: a high rate", "TR123 TR120", digits, steps(1500, learning_rate=0.3)),
    failing(
        "latent size 512 for 13 columns",
        "DA139 DA122",
        lambda: table("wine"),
        {"model": {"latent": 512}, **steps(1000)},
    ),
    failing("rate far too high", "TR120", digits, steps(1500, learning_rate=0.1)),
    failing("rate far too high, table", "TR120", lambda: table("cancer"), steps(1500, learning_rate=0.3)),
    failing("rate far too low", "TR126", digits, steps(1500, learning_rate=1e-7)),
    failing(
        "NaN from the rate", "TR131", digits, {"likelihood": {"name": "gaussian"}, **steps(800, learning_rate=500.0)}
    ),
    failing(
        "NaN from a variance",
        "TR132 CH103",
        digits,
        steps(800),
        model=lambda: vae(
            64, encoder=parts.Shifted(parts.mlp(64, 128, 16), 1.0, torch.tensor([0.0] * 8 + [200.0] * 8))
        ),
    ),
    failing("beta 0.001: holes", "TR119 DG110", digits, {"objective": {"beta": 0.001}, **steps(1500)}),
    failing("beta 0.01, MNIST: holes", "TR119 DG110", binary_mnist, {"objective": {"beta": 0.01}, **steps(1500)}),
    failing("unscaled columns", "DA128", lambda: table("cancer"), {"data": {"scale": "none"}, **steps(1500)}),
    failing(
        "one column dominates", "DA128 DG127 TR127", lambda: table("wine"), {"data": {"scale": "none"}, **steps(1500)}
    ),
    failing("spike: rows in other units", "TR124 DA142 DA128", _corrupted, {"data": {"scale": "none"}, **steps(1500)}),
    failing("Gaussian on zeros and ones", "DA129", binary_mnist, {"likelihood": {"name": "gaussian"}, **steps(1000)}),
    failing(
        "Bernoulli on a table of real numbers",
        "DA131",
        lambda: table("cancer"),
        {"likelihood": "bernoulli", "data": {"scale": "unit"}, **steps(1500)},
    ),
    failing("leaked duplicates", "DA127", _with_copies, steps(1500)),
    failing("dead encoder", "CH108", digits, steps(1000), model=lambda: vae(64, encoder=parts.dead_encoder(64, 8))),
    failing("dead decoder", "CH109", digits, steps(1000), model=lambda: vae(64, decoder=parts.dead_decoder(64, 8))),
    failing(
        "frozen encoder",
        "CH107",
        digits,
        steps(1000),
        model=lambda: vae(64, encoder=parts.frozen(parts.mlp(64, 128, 16))),
    ),
    failing(
        "frozen decoder",
        "CH107",
        digits,
        steps(1000),
        model=lambda: vae(64, decoder=parts.frozen(parts.mlp(8, 128, 64))),
    ),
    failing(
        "overfit: 200 rows, wide networks",
        "DG119 TR103",
        lambda: digits()[:200],
        {"model": {"hidden": [512, 512]}, **steps(3000)},
    ),
    failing(
        "blur by a fixed noise",
        "DG113 DA138",
        lambda: mnist(),
        {"likelihood": {"name": "gaussian", "noise": "fixed", "sigma": 1.0}, "data": {"scale": "unit"}, **steps(1500)},
    ),
    failing(
        "fixed noise far too small",
        "DG114",
        digits,
        {"likelihood": {"name": "gaussian", "noise": "fixed", "sigma": 0.01}, **steps(1500)},
    ),
    failing(
        "noise for each pixel, blank border",
        "DA137 DG124",
        mnist,
        {"likelihood": {"name": "gaussian", "noise": "pixel"}, **steps(1000)},
    ),
    failing(
        "codes at the corners, like a codebook",
        "DG116",
        digits,
        steps(1500),
        model=lambda: vae(64, encoder=parts.Bounded(64, 8)),
    ),
    failing(
        "exploding variance",
        "DG122 TR128 TR119",
        digits,
        steps(1500),
        objective=lambda: vaelab.ELBO(beta=0.0),
        model=lambda: vae(64, encoder=parts.Shifted(parts.mlp(64, 128, 16), 1.0, torch.tensor([0.0] * 8 + [5.0] * 8))),
    ),
    failing("nothing to code: shuffled columns", "DA141", _noise_table, steps(1500)),
)

HEALTHY: tuple[Case, ...] = (
    Case("digits, defaults", lambda: "digits"),
    Case("digits in [0, 1]", digits, steps(2000)),
    Case("digits, Bernoulli", lambda: "digits", {"likelihood": "bernoulli", **steps(2000)}),
    Case("digits, two latents", lambda: "digits", {"model": {"latent": 2}, **steps(2000)}),
    Case("digits, 64 latents", lambda: "digits", {"model": {"latent": 64}, **steps(2000)}),
    Case("digits, warm-up", lambda: "digits", {"objective": {"anneal": "linear", "warmup_steps": 800}, **steps(2000)}),
    Case("digits, beta 2", lambda: "digits", {"objective": {"beta": 2}, **steps(2000)}),
    Case("digits, free bits", lambda: "digits", {"objective": {"free_bits": 0.1}, **steps(2000)}),
    Case("digits, full covariance", lambda: "digits", {"model": {"posterior": "full", "latent": 8}, **steps(1500)}),
    Case("digits, linear", lambda: "digits", {"model": {"encoder": "linear", "decoder": "linear"}, **steps(3000)}),
    Case(
        "digits, ReLU and batch norm",
        lambda: "digits",
        {"model": {"activation": "relu", "norm": "batch"}, **steps(1500)},
    ),
    Case("digits, moving averages", lambda: "digits", steps(1500, ema=0.99)),
    Case("wine, defaults", lambda: table("wine")),
    Case("breast cancer, defaults", lambda: table("cancer")),
    Case("cardio", lambda: table("6_cardio")),
    Case("thyroid", lambda: table("38_thyroid")),
    Case("ionosphere", lambda: table("18_Ionosphere"), steps(1500)),
    Case("shuttle", lambda: table("32_shuttle"), steps(2500)),
    Case("MNIST, zeros and ones", binary_mnist, steps(3000)),
    Case("MNIST, gray, Gaussian", mnist, {"data": {"scale": "unit"}, **steps(2500)}),
    Case("MNIST, gray, Bernoulli", mnist, {"likelihood": "bernoulli", "data": {"scale": "unit"}, **steps(2500)}),
    Case("MNIST, dynamic binarisation", mnist, {"data": {"binarize": "dynamic"}, **steps(2500)}),
    Case("Omniglot", omniglot, steps(3000)),
    Case("digits, a model of one's own", digits, steps(2000), model=lambda: vae(64)),
    Case(
        "wine, a linear model of one's own",
        lambda: table("wine"),
        steps(3000, learning_rate=1e-2),
        model=lambda: vae(13, 3, "gaussian", encoder=torch.nn.Linear(13, 6), decoder=torch.nn.Linear(3, 13)),
    ),
)
