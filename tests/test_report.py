"""The report: what it says is measured against independent numbers, and no name from data can run or break it."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from linear_run import LinearRun, digits_run, wine_run
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import r2_score

from vaelab.core.config import build_config
from vaelab.core.errors import NoSpace, one_line
from vaelab.core.finding import Finding
from vaelab.report import dimensions, latents, plots, tables
from vaelab.report.examples import pick
from vaelab.report.page import render, write_report
from vaelab.report.verdict import numbers, urgent, verdict

DONE = Finding("TR100", "ok", "held-out negative ELBO", 62.0, "nats per sample")
NOTE = Finding("DA001", "info", "likelihood chosen from the data")
WARNING = Finding("TR101", "warning", "posterior collapse")
ERROR = Finding("TR199", "error", "the loss is wrong", why="a sign", advice="turn it")

INJECTIONS = (
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '"><script>alert(1)</script>',
    "'><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "javascript:alert(1)",
    '<a href="javascript:alert(1)">x</a>',
    "<iframe src=https://evil.example></iframe>",
    "<object data=https://evil.example>",
    "<embed src=https://evil.example>",
    "<link rel=stylesheet href=https://evil.example>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example>",
    "<form action=https://evil.example><input type=submit>",
    "<style>body{background:url(https://evil.example)}</style>",
    "<!-- comment",
    "--><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)",
    "{{ 7 * 7 }}",
    "{% for x in (1,) %}x{% endfor %}",
    "{{ self.__init__.__globals__ }}",
    "${alert(1)}",
    "$\\foo{$",
    "$x_",
    "_hidden",
    "line\nbreak",
    "nul\0byte",
    "\u202eright to left",
    "\x1b[31mred",
    "lone \udcff surrogate",
    "名前 😀",
    "%s %(x)s {0}",
    "x" * 500,
)
ELEMENTS = """
    html head meta link title style body header main section nav footer p h1 h2 h3 span small code pre ul ol li dl dt dd
    div a figure figcaption picture source img table thead tbody tr th td details summary br
"""


class Page(HTMLParser):
    """What a browser would see: elements, attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return "".join(self.words)

    def values(self, *names: str) -> list[str]:
        return [given[name] or "" for _, given in self.elements for name in names if name in given]


def hostile_table(folder: Path) -> LinearRun:
    rows = np.random.default_rng(0).standard_normal((120, len(INJECTIONS))) @ np.diag(np.linspace(0.1, 3, 40))
    labels = np.arange(60) % len(INJECTIONS)
    run = LinearRun(folder / INJECTIONS[0], rows[60:], rows[:60], labels, INJECTIONS, columns=INJECTIONS)
    run.findings = [Finding("DA101", "warning", text, 1.0, text, None, text, text, text) for text in INJECTIONS]
    run.environment = {text: {text: text} for text in INJECTIONS}
    run.config = build_config({"data": {"source": " ".join(INJECTIONS)}, "train": {"steps": 9000}})
    run.spec.name = " ".join(INJECTIONS)
    run.history += [event("refused", 5000, layer=text, text=text, operation=text) for text in INJECTIONS]
    run.diagnosis = {"numbers": {text: {"value": 1.0, "interval": None, "unit": text} for text in INJECTIONS}}
    return run


def event(what: str, step: int, **facts: Any) -> dict[str, Any]:
    return {"kind": "event", "what": what, "step": step, "loss": None, "gradient_norm": None, **facts}


def hostile_images(folder: Path) -> LinearRun:
    run = digits_run(folder / INJECTIONS[3], name=INJECTIONS[1])
    run.spec.label_names = INJECTIONS[:10]
    run.findings = [replace(ERROR, title=text) for text in INJECTIONS]
    return run


@pytest.fixture(scope="module", params=[hostile_table, hostile_images], ids=["table", "images"])
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LinearRun, str]:
    run = request.param(tmp_path_factory.mktemp("run"))
    return run, render(run)


def test_names_from_data_add_no_element_attribute_or_reference(hostile: tuple[LinearRun, str]) -> None:
    page = Page(hostile[1])
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
    assert not [name for _, given in page.elements for name in given if name.startswith("on") or name == "style"]
    assert all(value.startswith("data:") for value in page.values("src", "srcset"))
    assert all(value.startswith(("#", "data:,")) for value in page.values("href"))
    (policy,) = [given["content"] for tag, given in page.elements if given.get("http-equiv")]
    assert "default-src 'none'" in (policy or "")
    assert sum(tag == "style" for tag, _ in page.elements) == 1


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
def test_names_from_data_are_shown_as_they_are(hostile: tuple[LinearRun, str], text: str) -> None:
    assert one_line(text) in Page(hostile[1]).text


def test_the_page_is_text_that_can_be_written(hostile: tuple[LinearRun, str]) -> None:
    assert len(hostile[1].encode("utf-8")) < 3 * 2**20


def test_every_picture_shows_something_in_both_schemes(hostile: tuple[LinearRun, str]) -> None:
    pictures = Page(hostile[1]).values("src", "srcset")
    assert len(pictures) > 10
    for uri in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))
        assert min(image.size) > 40
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_the_verdict_comes_first_then_advice_then_figures(tmp_path: Path) -> None:
    run = digits_run(tmp_path, findings=[NOTE, WARNING, ERROR, DONE], config=build_config({"train": {"steps": 77}}))
    shown = Page(render(run)).text.partition("vaelab report")[2]
    head, *rest = shown.partition("Environment")  # the last of the links to the sections
    places = [head.index(words) for words in ("Something is wrong", "The loss is wrong", "A sign.", "active units")]
    assert places == sorted(places)
    assert "And 1 more finding below." in head
    order = ["the loss is wrong", "turn it", "posterior collapse", "likelihood chosen"]
    order += ["Loss", "Reconstructions", "Samples from the prior"]
    order += ["Latent space", "Interpolation", "Decoded plane", "train.steps"]
    places = ["".join(rest).index(words) for words in order]
    assert places == sorted(places)
    assert matplotlib.rcParams["text.parse_math"]  # the process keeps its own settings


def test_the_page_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    run = digits_run(tmp_path, findings=[DONE])
    run.metrics = {}
    (tmp_path / "report.html").write_text("old")
    assert write_report(run) == tmp_path / "report.html"
    assert "old" not in (tmp_path / "report.html").read_text()[:100]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(NoSpace, match="nowhere"):
        write_report(run, tmp_path / "nowhere" / "report.html")


@pytest.mark.parametrize("layout", [digits_run, wine_run])
def test_a_run_without_an_evaluation_gets_a_page_that_says_so(tmp_path: Path, layout: Any) -> None:
    run = layout(tmp_path)
    run.metrics, run.history = {}, []
    page = Page(render(run))
    assert "no evaluation yet after 0 steps" in page.text
    assert not page.values("srcset")


def test_a_finished_run_without_a_finite_evaluation_is_not_to_be_continued(tmp_path: Path) -> None:
    run = digits_run(tmp_path, findings=[Finding("TR112", "error", "no held-out evaluation was finite")])
    run.metrics = {}
    run.history.append({"kind": "train", "step": 10_000, "loss": None})
    assert "--resume" not in verdict(run).because
    assert "no model to look at" in verdict(run).because


def test_a_run_that_failed_half_way_is_not_called_healthy(tmp_path: Path) -> None:
    run = digits_run(tmp_path, findings=[NOTE])
    for line in run.history[60:]:
        line.update(dict.fromkeys(("loss", "reconstruction", "kl", "negative_elbo", "gradient_norm"), None))
    run.decode = lambda z, condition=None: np.full((len(z), 8, 8), np.nan)  # type: ignore[method-assign]
    page = Page(render(run))
    assert verdict(run).severity == "warning"
    assert "Training has not ended" in page.text
    assert "at step 5000 of 10000" in page.text


@pytest.mark.parametrize(
    ("findings", "severity", "sentence"),
    [
        ([DONE], "ok", "No check found anything wrong."),
        ([NOTE, DONE], "info", "No check found anything wrong."),
        ([NOTE, WARNING, DONE], "warning", "Posterior collapse."),
        ([WARNING, DONE, ERROR], "error", "The loss is wrong (and 1 more finding below)."),
        ([WARNING, ERROR, WARNING, DONE], "error", "The loss is wrong (and 2 more findings below)."),
    ],
)
def test_the_verdict_is_the_worst_finding(
    tmp_path: Path, findings: list[Finding], severity: str, sentence: str
) -> None:
    found = verdict(digits_run(tmp_path, findings=findings))
    assert (found.severity, found.sentence) == (severity, sentence)
    assert [finding.severity for finding in urgent(findings)] == sorted(
        [finding.severity for finding in findings if finding.severity in ("error", "warning")]
    )


def test_the_numbers_are_those_of_the_run(tmp_path: Path) -> None:
    run = wine_run(tmp_path, config=build_config({"model": {"latent": 3}}))
    run.metrics |= {"negative_elbo": 13 * np.log(2) * 1.5, "reconstruction": 9.25, "kl": 4.125}
    run.metrics["kl_per_dimension"] = [4.0, 0.12, 0.005]
    told = numbers(run)
    assert [number.value for number in told] == ["13.52", "9.25", "4.12", "2"]
    assert told[0].remark == "± 95 %, over held-out rows"  # a density has no code length
    run.is_mass = True
    assert numbers(run)[0].remark == "± 95 %, over held-out rows; 1.500 bits per dimension"
    assert told[3].unit == "of 3 dimensions"


def test_r_squared_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    data = random.standard_normal((50, 4)) * [1, 10, 0.1, 3] + 5
    decoded = data + random.standard_normal((50, 4)) * [0.1, 20, 0.05, 0]
    assert np.allclose(tables.explained(data, decoded), r2_score(data, decoded, multioutput="raw_values"))
    assert np.isnan(tables.explained(np.ones((5, 1)), np.zeros((5, 1)))).all()


def test_the_plane_is_that_of_the_largest_spread_and_keeps_the_prior_round() -> None:
    means = np.random.default_rng(0).standard_normal((200, 5)) @ np.diag([0.1, 3, 1, 2, 0.5]) + 7
    plane = latents.plane(means)
    truth = PCA(2).fit(means)
    assert np.allclose(np.abs(plane.directions @ truth.components_.T), np.eye(2), atol=1e-9)
    assert np.allclose(plane.directions @ plane.directions.T, np.eye(2))
    for share, words in zip(truth.explained_variance_ratio_, plane.labels, strict=True):
        assert f"({100 * share:.0f} %)" in words
    assert latents.plane(means[:, :2]).labels == ("z1", "z2")
    assert latents.plane(means[:1]).labels == ("z1", "z2")


def test_the_circle_holds_its_share_of_the_prior() -> None:
    draws = np.random.default_rng(0).standard_normal((400_000, 2))
    assert np.mean(np.linalg.norm(draws, axis=1) < latents.CIRCLE) == pytest.approx(latents.INSIDE, abs=0.002)


def test_examples_show_every_label_before_any_twice(tmp_path: Path) -> None:
    run = digits_run(tmp_path)
    assert run.preview_labels is not None
    assert run.preview_labels[pick(run, 10)].tolist() == list(range(10))
    assert run.preview_labels[pick(run, 14)].tolist() == [*range(10), 0, 1, 2, 3]
    run.preview_labels = None
    assert pick(run, 4).tolist() == [0, 59, 119, 179]


def test_rare_labels_are_one_group() -> None:
    labels = np.concatenate([np.repeat(np.arange(10), 5), [10, 11]])
    groups = latents._groups(labels, ("same", "same"))
    assert list(groups)[:3] == ["same", "same (1)", "2"]
    assert groups["2 others"].sum() == 2
    assert np.sum(list(groups.values())) == len(labels)


def test_numbers_that_were_not_finite_are_gaps_in_a_curve() -> None:
    lines = [{"kind": "train", "step": 1, "kl": 2.0}, {"kind": "train", "step": 2, "kl": None}, {"kind": "held_out"}]
    steps, values = plots.series(lines, "train", "kl")
    assert steps.tolist() == [1, 2]
    assert values[0] == 2.0
    assert np.isnan(values[1])


@pytest.mark.parametrize("latent", [1, 3])
def test_one_and_many_latents_have_their_figures(tmp_path: Path, latent: int) -> None:
    panels = latents.latent(digits_run(tmp_path, latent))
    assert [panel.title for panel in panels][-1] == "Marginals of the aggregate posterior"
    assert len(panels) == (1 if latent == 1 else 3)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_map_of_the_divergence_has_a_cell_for_every_group_and_evaluation(groups: int) -> None:
    figure, steps = Figure(), np.array([10, 20, 40, 80])
    values = np.arange(4.0 * groups).reshape(4, groups)
    dimensions._kl_map(figure, steps, values, values[-1], [f"z{index}" for index in range(groups)], "dimension")
    (mesh,) = [found for axes in figure.axes for found in axes.collections if isinstance(found, QuadMesh)][:1]
    corners = mesh.get_coordinates()
    assert np.array_equal(mesh.get_array(), np.maximum(values.T, 1e-3))
    assert corners[0, :, 0].tolist() == [5, 15, 30, 60, 100]
    assert corners[:, 0, 1].tolist() == [place - 0.5 for place in range(groups + 1)]
