"""What the report tells: the verdict and its remedy, where a run stopped, and pictures of the numbers it recorded."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from linear_run import LinearRun, digits_run, wine_run
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from test_report import DONE, WARNING, Page, event

from vaelab.core.config import build_config, parse_overrides
from vaelab.core.finding import Finding
from vaelab.report import dimensions, facts, latents, nearest, plots, style, tables
from vaelab.report.in_use import UNITS
from vaelab.report.page import VIEWS, render
from vaelab.report.verdict import again, numbers, stopped, verdict

# The verdict and its remedy -------------------------------------------------------------------------------------------

COLLAPSE = Finding(
    "TR121", "error", "posterior collapse: beta is too high", 0.003, edit={"objective.beta": 1.0}, expected="a KL"
)


@pytest.mark.parametrize(
    ("findings", "mark", "headline", "expected"),
    [
        ([DONE], "✓", "Healthy", ""),
        ([WARNING, DONE], "!", "Posterior collapse", ""),
        ([WARNING, COLLAPSE, DONE], "✕", "Posterior collapse: beta is too high", "a KL"),
    ],
)
def test_three_runs_are_told_apart_by_mark_words_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, findings: list[Finding], mark: str, headline: str, expected: str
) -> None:
    monkeypatch.setattr("vaelab.report.page.sections", lambda run: [])
    run = digits_run(tmp_path, findings=findings)
    told, page = verdict(run), Page(render(run))
    assert (told.mark, told.headline, told.expected) == (mark, headline, expected)
    assert bool(told.command) == bool(expected)
    assert mark in page.text
    assert headline in page.text.partition("What to do next")[0]
    assert ("Try first" in page.text) == bool(expected)


@pytest.mark.parametrize("folder", ["run", "a run; rm -rf $HOME", "it's"])
@pytest.mark.parametrize("edit", [{"objective.beta": 1.0}, {"model.hidden": (64, 32), "train.clip_norm": None}])
def test_the_command_names_the_config_and_makes_the_edit(tmp_path: Path, folder: str, edit: dict[str, Any]) -> None:
    run = digits_run(tmp_path / folder, config=build_config({"data": {"source": "digits"}, "train": {"steps": 7}}))
    *head, path = (words := shlex.split(again(run, edit)))[:4]
    assert (head, path) == (["vaelab", "train", "--config"], str(tmp_path / folder / "config.yaml"))
    assert build_config(run.config.model_dump(), parse_overrides(tuple(words[4:]))) == run.config.edited(edit)


def test_a_run_of_an_array_is_trained_again_in_python(tmp_path: Path) -> None:
    run = digits_run(tmp_path)
    run.environment["own_model"] = True
    calls: dict[str, Any] = {}
    lab = SimpleNamespace(train=lambda x, **given: calls.update(given))
    eval(again(run, COLLAPSE.edit), {"vaelab": lab, "x": None, "run": run, "model": "mine"})
    assert calls["model"] == "mine"
    assert calls["config"].objective.beta == 1.0
    assert again(run, {}) == ""


# A run that stopped ---------------------------------------------------------------------------------------------------


def broken_run(folder: Path, **facts: Any) -> LinearRun:
    run = digits_run(folder, findings=[Finding("TR131", "error", "NaN from the learning rate", why="too long steps")])
    run.history = [line for line in run.history if line["step"] <= 1200]
    told = {"layer": "decoder.net.4 (Linear)", "rows": [3, 5], "largest_input": 1e23, "text": "weights have grown"}
    run.history += [event("rollback", 900, to=800, factor=0.5), event("refused", 1217, **told | facts)]
    return run


def test_a_run_that_stopped_shows_the_step_the_layer_and_the_rows(tmp_path: Path) -> None:
    run = broken_run(tmp_path)
    run.metrics = {}
    page = Page(render(run))
    head, _, rest = page.text.partition("What to do next")
    assert "NaN from the learning rate" in head
    assert "Too long steps; training stopped at step 1217 of 10000, before any evaluation." in head
    assert "--resume" not in page.text
    for words in ("decoder.net.4 (Linear)", "3, 5", "1e+23", "weights have grown", "NaN or infinite"):
        assert words in rest
    assert [number.value for number in numbers(run)] == ["1217", "70.00", "NaN", "1"]


def test_a_run_broken_at_its_first_step_has_a_page(tmp_path: Path) -> None:
    run = broken_run(tmp_path)
    run.metrics, run.history = {}, run.history[-1:]
    assert "none: no step before it reached the record" in Page(render(run)).text


def test_a_run_that_went_on_after_a_refused_step_did_not_stop(tmp_path: Path) -> None:
    run = broken_run(tmp_path)
    assert stopped(run) is not None
    assert facts.broken(run)
    run.findings.append(DONE)
    assert stopped(run) is None
    run.findings.pop()
    run.history.append({"kind": "train", "step": 1300, "loss": 1.0})
    assert stopped(run) is None
    assert not facts.broken(run)


def _list(values: Any) -> list[float]:
    return np.asarray(values).tolist()


def test_events_are_marked_at_their_steps(tmp_path: Path) -> None:
    figure = Figure()
    plots._loss(figure, broken_run(tmp_path))
    marks = [line for line in figure.axes[0].lines if line.get_marker() in ("X", "v")]
    places = {str(line.get_label()): _list(line.get_xdata()) for line in marks}
    assert places == {"refused at step 1217": [1217], "rollback at step 900": [900]}


# The pictures ---------------------------------------------------------------------------------------------------------


def test_active_units_are_drawn_as_they_were_recorded() -> None:
    by_rule = [(UNITS["dimensions"], [4, 2, 3]), (UNITS["whole"], [5, 3, 4])]
    figure = Figure()
    dimensions._active_lines(figure, [10, 20, 30], by_rule, 5)
    by_kl, by_mean, every = figure.axes[0].lines
    assert [_list(line.get_ydata()) for line in (by_kl, by_mean)] == [[4, 2, 3], [5, 3, 4]]
    assert {*_list(every.get_ydata())} == {5}


def test_rate_and_distortion_of_the_constant_decoder_add_up_to_its_bound(tmp_path: Path) -> None:
    run = digits_run(tmp_path)
    lines = [line for line in run.history if line["kind"] == "held_out"]
    figure = Figure()
    dimensions._path(figure, run, lines, 150.0)
    path, kept, constant = figure.axes[0].lines
    assert np.allclose(np.add(constant.get_xdata(), constant.get_ydata()), 150.0)
    assert [*_list(kept.get_xdata()), *_list(kept.get_ydata())] == [run.metrics["kl"], run.metrics["reconstruction"]]
    assert _list(path.get_ydata()) == [line["reconstruction"] for line in lines]


def test_rows_are_sorted_from_best_to_worst(tmp_path: Path) -> None:
    run = wine_run(tmp_path)
    table = next(panel for panel in tables.reconstructions(run) if panel.title == "Rows from best to worst")
    off = np.abs(run.reconstruct(run.preview) - run.preview) / run.preview.std(0)
    errors = np.sqrt((off**2).mean(1))
    found = [int(row[0]) for row in table.rows]
    assert (found[0], found[-1]) == (errors.argmin(), errors.argmax())
    assert [float(row[1]) for row in table.rows] == pytest.approx(errors[found], abs=1e-3)
    assert [row[2] for row in table.rows] == [run.spec.columns[off[row].argmax()] for row in found]
    assert np.all(np.diff(errors[found]) >= 0)


@pytest.mark.parametrize("layout", [digits_run, wine_run])
def test_copies_lie_at_no_distance_from_the_rows_they_copy(tmp_path: Path, layout: Any) -> None:
    run = layout(tmp_path)
    found = nearest.nearest(run, run.training_preview[[7, 3, 60]])
    assert found is not None
    assert np.allclose(found.ratio, 0)
    assert np.array_equal(run.training_preview[found.index], run.training_preview[[7, 3, 60]])
    assert np.median(found.held_out) == pytest.approx(1)
    run.training_preview = None
    assert nearest.nearest(run, run.preview) is None
    assert not [panel.title for panel in VIEWS[run.spec.layout].samples(run) if "nearest" in panel.title]


def test_the_normality_of_the_marginals_is_that_of_one_draw_of_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def normality(draws: np.ndarray) -> np.ndarray:
        seen.append(draws)
        return np.arange(3.0) + 7

    monkeypatch.setattr(latents, "jarque_bera", normality)
    run = wine_run(tmp_path)
    drawn: list[Figure] = []

    def paint(title: str, caption: str, painter: Any, height: float, wide: bool = False) -> None:
        drawn.append(Figure())
        painter(drawn[-1])

    monkeypatch.setattr(latents, "plot", paint)
    latents.latent(run)
    assert seen[0].shape == run.posterior(run.preview)[0].shape
    assert {axes.get_title() for axes in drawn[-1].axes} == {"z1   7.0", "z2   8.0", "z3   9.0"}


def test_every_number_of_a_diagnosis_is_told_with_its_interval(tmp_path: Path) -> None:
    run = wine_run(tmp_path)
    numbers = {
        "holes": {"value": 0.25, "interval": 0.031, "unit": "share of prior draws"},
        "brand_new": {"value": 7.0, "interval": None, "unit": "apples"},
        "kl_per_dimension": {"value": [0.5, None, 2.5, 1.5], "interval": None, "unit": "nats"},
    }
    run.diagnosis = {"numbers": numbers, "findings": []}
    single, spread = facts.diagnosed(run)
    assert single.rows[0][1:] == ("0.25", "± 0.031", "share of prior draws")
    assert single.rows[1] == ("brand new", "7", "", "apples")
    assert spread.rows == (("kl per dimension", "0.5", "1.5", "2.5", "nats"),)
    run.diagnosis = {}
    assert facts.diagnosed(run) == []


def test_nothing_keeps_a_light_colour_on_a_dark_page() -> None:
    with style._own_settings():
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.plot([1, 2], [3, 4], label="line")
        axes.set(title="title", xlabel="x")
        axes.annotate("text", (1, 3), path_effects=style.outline())
        axes.legend()
        style._drawn(figure)
        style._darken(figure)
    words = [text for text in figure.findobj(Text) if text.get_text()]
    assert len(words) > 8
    assert {to_hex(text.get_color()) for text in words} == {style.DARK["text.color"]}
    assert {to_hex(line.get_color()) for line in axes.get_xgridlines()} == {style.DARK["grid.color"]}
