"""Recipes: named settings with their source and the published figure they stand beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .core.tables import pick


@dataclass(frozen=True)
class Recipe:
    """Settings by name.

    Args:
        title: What it trains.
        source: Where network and settings come from.
        published: The figure published there, with its unit.
        settings: Nested settings, as in a config file.
        data: The data it is meant for, when none is named.
    """

    title: str
    source: str
    published: str
    settings: Mapping[str, Any]
    data: str | None = None


RECIPES: dict[str, Recipe] = {
    "tutorial-mnist": Recipe(
        title="gray MNIST, two latent dimensions, MLP 784-512-256-128-64 and its mirror",
        source="a modern PyTorch tutorial of the VAE; its network has 1,149,972 parameters",
        published="test loss about 140 nats (reconstruction 133, KL 7); a loss, since the data is gray",
        data="mnist",
        settings={
            "model": {
                "latent": 2,
                "encoder": "mlp",
                "decoder": "mlp",
                "hidden": [512, 256, 128, 64],
                "activation": "silu",
                "scale": "softplus",
                "init": "pytorch",
            },
            "likelihood": {"name": "bernoulli"},
            "train": {
                "epochs": 50,
                "batch_size": 128,
                "learning_rate": 1e-3,
                "schedule": "constant",
                "weight_decay": 1e-2,
                "clip_norm": 1.0,
            },
        },
    ),
    "guide-mnist": Recipe(
        title="dynamically binarised MNIST, 20 latent dimensions, MLP 784-400-200 and its mirror, linear warm-up",
        source="a practical guide to training VAEs",
        published="none",
        data="mnist",
        settings={
            "data": {"binarize": "dynamic"},
            "model": {"latent": 20, "encoder": "mlp", "decoder": "mlp", "hidden": [400, 200], "activation": "relu"},
            "likelihood": {"name": "bernoulli"},
            "objective": {"beta": 1.0, "anneal": "linear", "warmup_steps": 4690},
            "train": {"epochs": 100, "batch_size": 128, "learning_rate": 1e-3},
        },
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        BadInput: with the nearest name there is.
    """
    return pick(RECIPES, name, "recipe")
