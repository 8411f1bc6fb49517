"""Runs side by side: differences against independent numbers, and no number where two bounds are not of one thing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from test_report import ELEMENTS, INJECTIONS, Page

import vaelab
from vaelab.core.errors import BadInput, one_line
from vaelab.report import compare

BASE = {"report": {"html": False}, "model": {"latent": 3, "hidden": [16]}, "train": {"steps": 60}}
CONTINUOUS = {"likelihood": {"name": "continuous_bernoulli"}}
RUNS: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "first": ("digits", {}),
    "longer": ("digits", {"train": {"steps": 120}}),
    "collapsed": ("digits", {"objective": {"beta": 100.0}}),
    "other rows": ("digits", {"seed": 7}),
    "density": ("digits", CONTINUOUS),
    "bits": ("digits", {"likelihood": {"name": "bernoulli"}}),
    "thresholded": ("digits", {"likelihood": {"name": "bernoulli"}, "data": {"binarize": "threshold"}}),
    "drawn": ("digits", {"likelihood": {"name": "bernoulli"}, "data": {"binarize": "dynamic"}}),
    "other data": (load_digits().data[:300], {}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, vaelab.Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(folder / name, data, settings) for name, (data, settings) in RUNS.items()}


def train(folder: Path, data: Any, settings: Mapping[str, Any]) -> vaelab.Run:
    config = vaelab.core.config.build_config(BASE, settings).model_dump(exclude_unset=True)
    return vaelab.train(data, out=folder, config=config, progress=False)


@pytest.mark.parametrize("name", ["first", "density", "bits", "thresholded", "drawn", "other data"])
def test_bounds_of_rows_add_up_to_that_of_the_run(runs: dict[str, vaelab.Run], name: str) -> None:
    run, found = runs[name], compare.bounds(runs[name])
    assert found.shape == (run.spec.held_out_rows,)
    assert found.mean() == pytest.approx(run.metrics["negative_elbo"], abs=3 * run.metrics["standard_error"])


def test_bounds_are_the_same_each_time_and_leave_the_random_state(runs: dict[str, vaelab.Run]) -> None:
    found = compare.bounds(runs["drawn"])
    torch.rand(3)
    state = torch.get_rng_state()
    assert np.array_equal(compare.bounds(runs["drawn"]), found)
    assert torch.equal(state, torch.get_rng_state())


def test_a_difference_on_the_same_rows_is_that_of_the_bounds_and_more_certain(runs: dict[str, vaelab.Run]) -> None:
    first, longer = runs["first"], runs["longer"]
    found = compare.difference(first, longer)
    apart = longer.metrics["negative_elbo"] - first.metrics["negative_elbo"]
    unpaired = 1.96 * np.hypot(*(run.metrics["standard_error"] for run in (first, longer)))
    assert found.value == pytest.approx(apart, abs=0.2)
    assert found.interval < unpaired
    assert str(found).endswith(f"(paired, {first.spec.held_out_rows} rows)")
    assert compare.difference(longer, first).value == pytest.approx(-(found.value or 0.0))
    itself = compare.difference(first, first)
    assert (itself.value, itself.interval) == (0.0, 0.0)


def test_a_difference_on_other_rows_has_both_errors(runs: dict[str, vaelab.Run]) -> None:
    first, other = runs["first"], runs["other rows"]
    found = compare.difference(first, other)
    assert found.value == other.metrics["negative_elbo"] - first.metrics["negative_elbo"]
    errors = [run.metrics["standard_error"] for run in (first, other)]
    assert found.interval == pytest.approx(1.96 * np.sqrt(np.sum(np.square(errors))), rel=1e-4)
    assert "other held-out rows" in str(found)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("first", ""),
        ("collapsed", ""),
        ("other rows", ""),
        ("density", ""),
        ("other data", "other data, digits and array"),
        ("bits", "a density and a cost of gray levels"),
        ("thresholded", "a density and a probability of bits (threshold)"),
    ],
)
def test_bounds_of_different_things_are_not_subtracted(runs: dict[str, vaelab.Run], other: str, reason: str) -> None:
    assert compare.incomparable(runs["first"], runs[other]) == reason
    assert (compare.difference(runs["first"], runs[other]).value is None) == bool(reason)


def test_bits_are_compared_with_bits_made_in_the_same_way(runs: dict[str, vaelab.Run]) -> None:
    assert not compare.incomparable(runs["drawn"], runs["drawn"])
    assert compare.incomparable(runs["drawn"], runs["thresholded"])
    assert compare.incomparable(runs["bits"], runs["thresholded"])


def test_a_run_without_an_evaluation_is_not_compared(runs: dict[str, vaelab.Run], tmp_path: Path) -> None:
    config = BASE | {"train": {"steps": 60, "learning_rate": 1e3}}
    with pytest.raises(vaelab.core.errors.Diverged):
        vaelab.train("digits", out=tmp_path / "nan", config=config, progress=False)
    broken = vaelab.load(tmp_path / "nan")
    text = compare.compare_text([runs["first"], broken])
    assert "not comparable: nan has no" in text
    assert text.splitlines()[-1] == "outcome   nan is not comparable: nan has no evaluation"
    page = compare.write_compare([runs["first"], broken], tmp_path / "page.html").read_text()
    assert "first" in page


def test_the_text_names_numbers_settings_and_outcome(runs: dict[str, vaelab.Run]) -> None:
    chosen = [runs["first"], runs["longer"], runs["collapsed"]]
    lines = {line[:24].strip(): line for line in compare.compare_text(chosen).splitlines()}
    for run in chosen:
        assert f"{run.metrics['negative_elbo']:.2f} ± " in lines["held-out negative ELBO"]
        assert f"{run.metrics['kl']:.2f}" in lines["KL"]
    assert lines["objective.beta"].split()[1:] == ["1.0", "1.0", "100.0"]
    assert lines["train.steps"].split()[1:] == ["60", "120", "60"]
    assert not {"seed", "model.latent"} & set(lines)
    best = compare.difference(chosen[0], chosen[1])
    assert f"longer has the lowest negative ELBO, {-(best.value or 0):.2f} ± " in compare.outcome(chosen)
    assert compare.outcome([chosen[1], chosen[0]]) == "longer has the lowest negative ELBO"
    assert compare.outcome([chosen[0], chosen[0]]) == "the bounds do not differ by more than chance"


def test_the_seconds_are_those_of_the_newest_checkpoint(runs: dict[str, vaelab.Run]) -> None:
    told = float(compare.FACTS["seconds"](runs["longer"]))
    assert 0 < told < 120


@pytest.mark.parametrize("chosen", [("first", "longer", "collapsed"), ("first", "other data"), ("bits", "drawn")])
def test_the_page_puts_runs_side_by_side(runs: dict[str, vaelab.Run], tmp_path: Path, chosen: tuple[str, ...]) -> None:
    path = compare.write_compare([runs[name] for name in chosen], tmp_path / "compare.html")
    page = Page(path.read_text("utf-8"))
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
    assert all(name in page.text for name in chosen)
    same = {runs[name].spec.fingerprint for name in chosen}
    assert ("Reconstructions of the same rows" in page.text) == (len(same) == 1)
    assert path.stat().st_size < 2 * 2**20
    assert sum(tag == "img" for tag, _ in page.elements) >= 5


def test_names_of_runs_cannot_run(runs: dict[str, vaelab.Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hostile = INJECTIONS[:36]
    monkeypatch.setattr(compare, "sections", lambda runs, names: [])
    monkeypatch.setattr(compare, "names", lambda runs: list(hostile))
    monkeypatch.setattr(compare, "difference", lambda first, other: compare.Difference(None, words=INJECTIONS[0]))
    monkeypatch.setattr(compare, "settings", lambda runs: [(text, [text] * len(hostile)) for text in hostile])
    page = Page(compare.write_compare([runs["first"]] * len(hostile), tmp_path / "x.html").read_text("utf-8"))
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
    assert not [name for _, given in page.elements for name in given if name.startswith("on") or name == "style"]
    assert all(one_line(text) in page.text for text in hostile)


def test_runs_of_one_name_are_told_apart(runs: dict[str, vaelab.Run], monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = runs["first"], runs["longer"]
    assert compare.names([first, other]) == ["first", "longer"]
    monkeypatch.setattr(first, "folder", Path("a/run"))
    monkeypatch.setattr(other, "folder", Path("b/run"))
    assert compare.names([first, other]) == ["a/run", "b/run"]
    assert compare.names([first, first]) == ["run", "run"]


def test_one_run_is_no_comparison(runs: dict[str, vaelab.Run], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="two or more"):
        compare.compare_text([runs["first"]])
    with pytest.raises(BadInput, match="two or more"):
        compare.write_compare([], tmp_path / "compare.html")
    assert not list(tmp_path.iterdir())
