"""Recipes and the catalogue: every recipe trains, its card says what it is, and every part is listed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vaelab
from vaelab.catalogue import about, card, everything
from vaelab.core.config import build_config
from vaelab.core.errors import BadInput
from vaelab.models.parts import AFTER, DECODERS, ENCODERS, LIKELIHOOD_BUILDERS, NETWORKS, POSTERIORS, PRIORS, READERS
from vaelab.objectives.build import OBJECTIVES
from vaelab.recipes import RECIPES

RANDOM = np.random.default_rng(0)
ASKED_FOR = {
    "beta-vae", "iwae", "vampprior", "cvae", "ssvae", "vq-vae", "hvae", "ladder", "flow-posterior", "flow-prior",
    "tcvae", "factorvae", "pixel-vae", "smiles-vae", "wae", "two-stage", "mixed-table", "series",
}  # fmt: skip
FEW: dict[str, Any] = {
    "train": {"steps": 4, "batch_size": 16, "warmup_steps": 0},
    "report": {"html": False},
}


def data_for(name: str, folder: Path) -> Any:
    """A few rows of the kind that a recipe is for."""
    if name == "smiles-vae":
        return np.array(["C" * n + "(=O)N" for n in range(1, 31)] * 3)
    if name in ("mixed-table", "imputation-mixed"):
        lines = [f"{RANDOM.normal():.3f},{colour},{n}" for n in range(20) for colour in ("red", "blue", "green")]
        path = folder / "table.csv"
        path.write_text("\n".join(["size,colour,count", *lines]))
        return path
    if name == "cells":
        return RANDOM.poisson(3.0, (120, 30))
    if name == "series":
        return RANDOM.normal(size=600)
    side = 32 if RECIPES[name].data == "shapes" else 28
    images = (RANDOM.random((120, side, side)) ** 3 * 255).astype(np.uint8)
    return images, np.arange(120) % 10


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_is_used(name: str, tmp_path: Path) -> None:
    few = {section: dict(values) for section, values in FEW.items()}
    if name == "ssvae":
        few["data"] = {"labelled": 30}
    prior = RECIPES[name].settings.get("prior", {})
    small = {"components": 10} if "components" in prior else {"after_steps": 4} if "after" in prior else {}
    few["prior"] = small
    run = vaelab.train(data_for(name, tmp_path), out=tmp_path / "run", recipe=name, config=few, progress=False)
    assert run.config.recipe == name and run.metrics["rows"] > 0
    assert np.isfinite(run.metrics["reconstruction"])
    assert len(run.sample(3)) == 3
    assert len(vaelab.load(tmp_path / "run").embed(run.preview[:2], condition=_condition(run))) == 2


def _condition(run: Any) -> Any:
    given = run.preview_condition
    return None if given is None else given[:2]


def test_every_recipe_that_was_asked_for_is_there_with_a_card() -> None:
    assert set(RECIPES) >= ASKED_FOR
    for name, recipe in RECIPES.items():
        text = card(name)
        for line in (recipe.title, recipe.source, recipe.published, recipe.ours, recipe.command(name)):
            assert line in text
        build_config(dict(recipe.settings))


def test_the_catalogue_lists_every_part_and_says_more_of_each() -> None:
    listed = everything()
    decoders = {**DECODERS, **READERS}
    assert set(NETWORKS) == {*ENCODERS, *decoders}
    parts = (*ENCODERS, *POSTERIORS, *PRIORS, *AFTER, *decoders, *LIKELIHOOD_BUILDERS, *OBJECTIVES)
    lines = [line.split(maxsplit=1) for line in listed.splitlines() if line.startswith("  ")]
    for name in (*parts, *RECIPES):
        assert name in about(name) and any(line[0] == name and len(line) == 2 for line in lines), name
    assert not [line for line in lines if len(line) < 2], "each name has words beside it"
    with pytest.raises(BadInput, match="did you mean gaussian"):
        about("gausian")


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("wae", ["wae\n", "wae (objective)"]),
        ("iwae", ["iwae\n", "iwae (objective)"]),
        ("recurrent", ["recurrent (encoder)", "recurrent (decoder)"]),
        ("pixel_cnn", ["pixel_cnn (decoder)"]),
        ("flow", ["flow (prior)", "flow (fitted after training"]),
        ("autoregressive", ["autoregressive (fitted after training", "posteriors: vq, residual_vq, fsq, gumbel"]),
    ],
)
def test_a_name_is_told_of_in_all_that_it_means(name: str, kinds: list[str]) -> None:
    assert all(kind in about(name) for kind in kinds)


def test_figures_of_ours_stand_in_committed_tables() -> None:
    """Every table that a recipe names is there, and holds the first figure that the recipe gives, rounded as there."""
    results = Path(__file__).parents[1] / "benchmarks" / "results"
    named = {name: recipe for name, recipe in RECIPES.items() if "results/" in recipe.ours}
    assert len(named) >= 13
    for name, recipe in named.items():
        (figure, *_), (table,) = re.findall(r"\d+\.\d+", recipe.ours), re.findall(r"results/([\w-]+\.txt)", recipe.ours)
        digits = len(figure.partition(".")[2])
        numbers = [round(float(number), digits) for number in re.findall(r"\d+\.\d+", (results / table).read_text())]
        assert float(figure) in numbers, name
