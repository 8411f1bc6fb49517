"""A level that no row had in training: missing to the model, costly to a score, and kept by an imputer."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

import vaelab
from vaelab.core.errors import UnseenLevel
from vaelab.sklearn import VAEAnomalyDetector, VAEDensity, VAEEmbedder, VAEImputer


def table(seed: int = 0) -> pandas.DataFrame:
    draw = np.random.default_rng(seed)
    colour = draw.choice(["blue", "green", "red"], 80)
    return pandas.DataFrame({"size": draw.normal(size=80) + (colour == "red"), "colour": colour})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vaelab.Run:
    settings = {"train": {"steps": 40}, "report": {"html": False}}
    return vaelab.train(table(), out=tmp_path_factory.mktemp("unseen") / "run", config=settings, progress=False)


@pytest.mark.parametrize("kind", ["likelihood", "reconstruction", "latent", "typicality"])
def test_it_costs_the_chance_of_a_first_one_and_else_what_a_gap_costs(run: vaelab.Run, kind: str) -> None:
    from vaelab.use.scoring import score

    new, gap = table(1)[:5], table(1)[:5]
    new.loc[2, "colour"], gap.loc[2, "colour"] = "pink", None
    with pytest.warns(UnseenLevel, match="'pink' in row 2"):
        scored = score(run, new, kind, usual=3.0)
    cost = 0.0 if kind == "latent" else math.log(80 + 1)
    plain = score(run, gap, kind, usual=3.0)
    np.testing.assert_allclose(scored.values - plain.values, [0, 0, cost, 0, 0], atol=1e-12)
    np.testing.assert_allclose(scored.parts[2] - plain.parts[2], [0, cost, 0], atol=1e-12)
    np.testing.assert_allclose(scored.parts.sum(1), scored.values)


@pytest.mark.filterwarnings("ignore::vaelab.core.errors.UnseenLevel")
def test_every_estimator_takes_it(run: vaelab.Run) -> None:
    quick = {"steps": 20, "random_state": 0}
    new = table(2)[:6].astype({"colour": object})
    new.loc[1, "colour"], new.loc[3, "colour"] = "pink", None
    detector = VAEAnomalyDetector(members=1, false_alarms=0.1, **quick).fit(table())
    assert VAEEmbedder(**quick).fit(table()).transform(new).shape == (6, 1)
    assert np.isfinite(VAEDensity(**quick).fit(table()).score(new))
    assert np.isfinite(detector.score_samples(new)).all()
    filled = VAEImputer(members=1, **quick).fit(table()).transform(new)
    assert filled.loc[1, "colour"] == "pink"
    assert filled.loc[3, "colour"] in ("blue", "green", "red")
    pandas.testing.assert_frame_equal(filled.drop(index=3), new.drop(index=3), check_dtype=False)


def test_a_command_scores_the_rest_and_says_so(run: vaelab.Run, tmp_path: Path) -> None:
    new = table(1)[:5]
    new.loc[2, "colour"] = "pink"
    new.to_csv(tmp_path / "new.csv", index=False)
    command = [sys.executable, "-c", "from vaelab.cli.app import main; main()", "score", run.folder, "new.csv"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stderr.startswith("warning   x: levels that no row had in training are taken as missing: 1 in all")
    assert ".py" not in ended.stderr
    scores = pandas.read_csv(tmp_path / "scores.csv")
    assert len(scores) == 5
    assert scores["why"][2].startswith("colour +")
