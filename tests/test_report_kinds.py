"""The page of every kind of model: its own prior, one unit for what is in use, and no word that is not true of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from linear_run import LinearRun, digits_run, wine_run
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from sklearn.decomposition import PCA
from test_report import Page

import vaelab
from vaelab.core.config import build_config
from vaelab.core.finding import Finding
from vaelab.measure.aggregate import two_sample
from vaelab.report import compare, dimensions, examples, facts, latents, mixed, plots, strings, style, tables
from vaelab.report.in_use import in_use, kind_of
from vaelab.report.page import render
from vaelab.report.prior import dense_region, prior_variance, quantiles_of
from vaelab.report.verdict import given, numbers, verdict

Draw = Callable[[np.random.Generator, int], np.ndarray]
MEAN, DEVIATION = np.array([6.0, -4.0]), np.array([0.5, 2.0])


def shifted(random: np.random.Generator, count: int) -> np.ndarray:
    return MEAN + DEVIATION * random.standard_normal((count, 2))


def islands(random: np.random.Generator, count: int) -> np.ndarray:
    return random.choice([-3.0, 3.0], (count, 1)) + 0.4 * random.standard_normal((count, 2))


def ring(random: np.random.Generator, count: int) -> np.ndarray:
    turn = random.uniform(0, 2 * np.pi, count)
    return 3 * np.stack([np.cos(turn), np.sin(turn)], 1) + 0.2 * random.standard_normal((count, 2))


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Figure, str]]:
    """Every figure that is drawn, with its caption, by its title."""
    found: dict[str, tuple[Figure, str]] = {}

    def paint(title: str, caption: str, painter: Any, height: float = 3.2, *, wide: bool = False) -> style.Panel:
        found[title] = Figure(), caption
        painter(found[title][0])
        return style.Panel(title, caption)

    for module in (latents, dimensions, plots, tables):
        monkeypatch.setattr(module, "plot", paint)
    return found


# The prior ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [shifted, islands, ring])
def test_the_outline_holds_its_share_of_the_prior_and_no_hole_of_it(draw: Draw) -> None:
    edges = np.linspace(-13, 13, 61)
    density, level = dense_region(draw(np.random.default_rng(0), 20_000), edges)
    fresh = np.floor((draw(np.random.default_rng(1), 20_000) + 13) / (edges[1] - edges[0])).astype(int)
    assert np.mean(density[fresh[:, 1], fresh[:, 0]] >= level) == pytest.approx(0.95, abs=0.025)
    assert density[30, 30] < level  # the middle, where N(0, I) would be densest
    assert np.mean(density >= level) < 0.2


def dashed(figure: Figure) -> np.ndarray:
    """Points of the dashed lines, [n, 2]."""
    lines = [line.get_xydata() for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    return np.concatenate([np.asarray(line) for line in lines])


@pytest.mark.parametrize("title", ["Held-out rows in latent space", "Aggregate posterior"])
def test_the_line_in_the_plane_is_the_prior_s_own(tmp_path: Path, painted: Any, title: str) -> None:
    run = digits_run(tmp_path)
    latents.latent(run)
    figure, usual = painted[title]
    assert np.allclose(np.linalg.norm(dashed(figure), axis=1), latents.CIRCLE)
    run.prior = shifted
    latents.latent(run)
    figure, caption = painted[title]
    away = (dashed(figure) - MEAN) / DEVIATION
    assert np.abs(away.mean(0)).max() < 0.5
    assert np.all(np.linalg.norm(away, axis=1) < 1.5 * latents.CIRCLE)
    assert usual != caption and "outline" in caption and "circle" not in caption


def test_the_line_of_a_marginal_is_the_prior_s_own(tmp_path: Path, painted: Any) -> None:
    run = digits_run(tmp_path)
    latents.latent(run)
    usual, words = painted["Marginals of the aggregate posterior"]
    line = usual.axes[0].lines[0]
    points, heights = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    assert np.allclose(heights, np.exp(-0.5 * points**2) / np.sqrt(2 * np.pi))
    assert "standard normal prior" in words and "Jarque-Bera" in words
    run.prior = shifted
    latents.latent(run)
    figure, words = painted["Marginals of the aggregate posterior"]
    assert "normal" not in words and "Kolmogorov-Smirnov" in words
    means = run.posterior(run.preview)[0]
    for axes in figure.axes:
        at = int(axes.get_title()[1]) - 1
        (stairs,) = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
        heights, edges, _ = stairs.get_data()
        middles, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
        assert np.sum(heights * width) == pytest.approx(1)
        assert np.sum(middles * heights * width) == pytest.approx(MEAN[at], abs=0.1)
        far = two_sample(means, shifted(np.random.default_rng(3), 5000))[at]
        assert float(axes.get_title().split()[1]) == pytest.approx(far, abs=0.08)


def test_the_variances_stand_beside_those_of_the_prior(tmp_path: Path, painted: Any) -> None:
    run = digits_run(tmp_path)
    title = "Posterior variances, held-out"
    for prior, truth in ((None, np.ones(2)), (shifted, DEVIATION**2)):
        run.prior = prior
        dimensions.dimensions(run)
        figure, caption = painted[title]
        names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
        (stairs,) = [patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch)]
        order = [int(name[1:]) - 1 for name in names]
        assert stairs.get_data()[0] == pytest.approx(truth[order], rel=0.05)
        assert ("the prior has 1 in all" in caption) == (prior is None)
        inner = np.array(run.metrics["posterior_variance"])
        assert order == np.argsort(inner, kind="stable").tolist() and "Sorted by" in caption


def test_an_axis_that_is_cut_says_so(tmp_path: Path, painted: Any) -> None:
    run = digits_run(tmp_path)
    dimensions.dimensions(run)
    assert "axis ends" not in painted["Posterior variances, held-out"][1]
    run.metrics["mean_variance"] = [0.5, 64.0]
    dimensions.dimensions(run)
    figure, caption = painted["Posterior variances, held-out"]
    assert figure.axes[0].get_ylim() == (0, 10)
    assert "The axis ends at 10; the highest bar goes on to 64" in caption


def test_the_decoded_plane_goes_over_the_prior_s_own_quantiles(tmp_path: Path) -> None:
    run = digits_run(tmp_path)
    grid = np.array([[-1.0, 1.0], [0.0, 0.0], [2.0, -2.0]])
    assert np.array_equal(quantiles_of(run, grid), grid)
    run.prior = shifted
    assert quantiles_of(run, grid) == pytest.approx(MEAN + DEVIATION * grid, abs=0.15)
    assert "equally probable" not in examples.cells_words(run)


FITTED = {"after": "autoregressive", "after_steps": 20}
CONDITIONS, MARGINAL = {"data": {"condition": "labels"}}, {"missing_labels": "marginal"}
KINDS: dict[str, tuple[dict[str, Any], bool, str]] = {
    "standard": ({}, True, "dimensions"),
    "vamp": ({"prior": {"name": "vamp", "components": 5}}, False, "whole"),
    "gmm": ({"prior": {"after": "gmm"}}, False, "whole"),
    "sphere": ({"model": {"posterior": "vmf"}}, False, "whole"),
    "full": ({"model": {"posterior": "full"}}, True, "whole"),
    "groups": ({"model": {"groups": [2, 3], "latent": 5}}, True, "groups"),
    "conditional": ({**CONDITIONS, "model": {"condition_on": ["prior", "decoder"]}}, False, "dimensions"),
    "labels": ({"data": {"condition": "labels", "labelled": 100}, "model": MARGINAL}, True, "dimensions"),
    "codes": ({"model": {"posterior": "vq", "latent": 32, "codebook": 8}, "prior": FITTED}, False, "entries"),
    "delta": ({"model": {"posterior": "delta"}, "objective": {"name": "wae"}}, True, "none"),
    "wae": ({"objective": {"name": "wae"}}, True, "dimensions"),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, vaelab.Run]:
    folder = tmp_path_factory.mktemp("kinds")
    base = {"model": {"latent": 3, "hidden": [16]}, "train": {"steps": 30}, "report": {"html": False}}
    configs = {name: build_config(base, settings) for name, (settings, _, _) in KINDS.items()}
    return {
        name: vaelab.train("digits", out=folder / name, config=config.model_dump(exclude_unset=True), progress=False)
        for name, config in configs.items()
    }


@pytest.mark.parametrize("name", KINDS)
def test_a_run_knows_its_prior_and_what_is_counted(runs: dict[str, vaelab.Run], name: str) -> None:
    run, (_, standard, kind) = runs[name], KINDS[name]
    assert (run.has_standard_prior, kind_of(run)) == (standard, kind)
    if run.preview_condition is None:
        assert np.allclose(run.decode(run.prior_codes(5, seed=3)), run.sample(5, seed=3))
    if standard and kind != "none":
        assert np.var(run.prior_codes(20_000)[:, : run._walkable], axis=0) == pytest.approx(1, abs=0.05)
        assert np.array_equal(prior_variance(run), np.ones(run._walkable))
    if found := in_use(run):
        unit, active, whole = found
        assert 0 <= (active or 0) <= whole
        sizes = {"groups": 2, "entries": 8, "dimensions": 3}
        assert whole == sizes.get(unit.noun) or name == "sphere"


@pytest.mark.parametrize("name", KINDS)
def test_the_page_of_every_kind_is_made_and_speaks_in_one_unit(runs: dict[str, vaelab.Run], name: str) -> None:
    text, (_, standard, kind) = Page(render(runs[name])).text, KINDS[name]
    assert ("KL per latent dimension" in text) == (kind == "dimensions")
    assert ("KL per latent group" in text) == (kind == "groups")
    assert ("active units" in text.partition("What to do next")[0]) == (kind in ("dimensions", "whole"))
    assert ("dashed circle" in text) == (standard and kind != "entries")
    assert ("Rate and distortion" in text) == (kind != "none")
    assert ("negative ELBO" in text.partition("Settings")[0]) == (kind != "none" and name != "wae")
    assert ("which this objective does not charge" in text) == (name == "wae")
    assert ("The star is off the path" in text) == (name in ("gmm", "codes"))
    assert ("over the entries of the book" in text) == (kind == "entries")


def test_labels_are_no_dimensions(runs: dict[str, vaelab.Run], painted: Any) -> None:
    run = runs["labels"]
    dimensions.dimensions(run)
    latents.latent(run)
    (names, _, _) = painted["KL per latent dimension, held-out"][0].axes
    words = [text.get_text() for text in names.get_yticklabels()]
    assert sorted(words[:-1]) == ["z1", "z2", "z3"] and words[-1] == "label"
    assert len(painted["Posterior variances, held-out"][0].axes[0].get_xticklabels()) == 3
    assert len(painted["Marginals of the aggregate posterior"][0].axes) == 3
    assert given(run) == "100 of the training rows labelled"
    assert given(runs["conditional"]) == "every number is given the label (10 labels)"
    assert given(runs["standard"]) == ""


def test_groups_stand_in_their_order_from_the_top(tmp_path: Path, painted: Any) -> None:
    run = digits_run(tmp_path, latent=4)
    for line in [*run.history, run.metrics]:
        if "kl_per_dimension" in line:
            line["kl_per_dimension"] = [0.5, 0.001, 3.0]
    dimensions.dimensions(run)
    left, right, _ = painted["KL per latent group, held-out"][0].axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["group 1", "group 2", "group 3"]
    assert right.get_xlim()[1] > 1.5 * 3.0
    (axes,) = painted["Active groups, held-out"][0].axes
    used, every = axes.lines
    assert axes.get_ylabel() == "groups"
    assert {*np.asarray(used.get_ydata())} == {2} and {*np.asarray(every.get_ydata())} == {3}
    assert numbers(run)[3].unit == "of 3 groups"


def test_where_the_kl_is_known_as_a_whole_units_are_counted_by_their_means(tmp_path: Path, painted: Any) -> None:
    run = digits_run(tmp_path, latent=4)
    for line in [*run.history, run.metrics]:
        if "kl_per_dimension" in line:
            line |= {"kl_per_dimension": [3.5], "active_units": 1, "mean_variance": [0.5, 0.02, 0.009, 1.0]}
    dimensions.dimensions(run)
    assert not [title for title in painted if title.startswith("KL per")]
    assert {*np.asarray(painted["Active units, held-out"][0].axes[0].lines[0].get_ydata())} == {3}
    assert (numbers(run)[3].value, numbers(run)[3].unit) == ("3", "of 4 dimensions")
    assert compare.FACTS["in use"](run) == "3 of 4 dimensions"


# Words that are true --------------------------------------------------------------------------------------------------


def test_codes_without_noise_have_a_reconstruction_and_no_divergence(tmp_path: Path, painted: Any) -> None:
    run = digits_run(tmp_path, has_bound=False)
    run.metrics |= {"is_bound": False}
    assert [number.name for number in numbers(run)] == ["held-out reconstruction (codes without noise have no ELBO)"]
    plots.training(run)
    dimensions.dimensions(run)
    shown = {"Reconstruction", "Learning rate", "Gradient norm and size of the steps", "Posterior variances, held-out"}
    assert set(painted) == shown
    assert painted["Reconstruction"][0].axes[0].get_ylabel() == "-log p(x|z) (nats per sample)"
    number = {"value": 1.0, "interval": None, "unit": "nats"}
    run.diagnosis = {"numbers": {"bound": number, "rate": number, "active_units_kl": number, "new": number}}
    assert [row[0] for row in facts.diagnosed(run)[0].rows] == ["-log p(x|z), held-out", "new"]
    other = digits_run(tmp_path)
    for each in (run, other):
        each.spec.fingerprint = "same"
    assert compare.incomparable(run, other) == "codes without noise have no bound"


def test_the_band_of_the_held_out_line_is_its_95_percent_interval(tmp_path: Path) -> None:
    run, figure = digits_run(tmp_path), Figure()
    plots._loss(figure, run)
    (band,) = figure.axes[0].collections
    heights = np.asarray(band.get_paths()[0].vertices)
    held = [line for line in run.history if line["kind"] == "held_out"]
    at = heights[heights[:, 0] == held[3]["step"], 1]
    assert np.ptp(at) == pytest.approx(2 * 1.96 * held[3]["standard_error"], rel=1e-3)


def test_the_accuracy_has_the_interval_of_its_finding(tmp_path: Path) -> None:
    finding = Finding("TR180", "ok", "accuracy of the classifier", 94.0, "%", 3.4)
    run = digits_run(tmp_path, findings=[finding])
    run.metrics |= {"accuracy": 0.94, "labelled_rows": 170}
    told = numbers(run)[-1]
    assert (told.name, told.value, told.unit) == ("accuracy", "94.00", "± 3.4 %")
    assert "170" in told.remark


def test_a_page_has_one_number_of_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelab.report.page.sections", lambda run: [])
    notes = [Finding(f"DA00{at}", "info", "a note", advice="do" * (at < 2)) for at in range(4)]
    run = digits_run(tmp_path, findings=[*notes, Finding("TR100", "ok", "done")])
    text = Page(render(run)).text
    assert text.count("5 notes") == 1 and text.count(" notes:") == 1
    assert not any(character.isdigit() for character in verdict(run).sentence)


def test_ends_of_an_interpolation_are_far_apart_and_not_the_strangest_rows(tmp_path: Path) -> None:
    run = wine_run(tmp_path)
    places = PCA(3).fit_transform(run.embed(run.preview))
    for direction, (first, last) in enumerate(examples.far_apart(run, 3)):
        ranks = np.argsort(np.argsort(places[:, direction]))
        assert sorted((ranks[first], ranks[last])) == [2, 37]  # 5 % and 95 % of 40 rows
    run.preview = run.preview[:1]
    assert examples.far_apart(run, 3) == []


def test_chance_is_that_of_two_shares() -> None:
    random = np.random.default_rng(0)
    apart = random.binomial(34, 0.5, 100_000) / 34 - random.binomial(500, 0.5, 100_000) / 500
    assert f"± {2 * apart.std():.2f} at p = 0.5" in mixed._chance(34, 500)


def test_a_table_of_strings_may_be_broken_and_no_other(tmp_path: Path, runs: dict[str, vaelab.Run]) -> None:
    page = Page(render(runs["standard"]))
    assert "rows strings" not in page.values("class")
    panel = strings._table("t", "c", ("a",), [("x" * 300,)])
    assert panel.strings and not style.Panel("t", "c").strings
    css = render(wine_run(tmp_path)).partition("</style>")[0]
    assert ".rows table, .columns td:last-child { overflow-wrap: normal;" in css


def test_columns_that_are_given_are_named(tmp_path: Path) -> None:
    run = LinearRun(tmp_path, np.eye(4), np.eye(4), None, (), columns=("a", "b", "c", "d"))
    run.spec.condition = ("age", "height")
    assert given(run) == "every number is given age, height"
    run.spec.condition = tuple("abcdef")
    assert given(run) == "every number is given a, b, c, d and 2 more"
    run.spec = SimpleNamespace(**vars(run.spec) | {"condition": ()})
    assert given(run) == ""
