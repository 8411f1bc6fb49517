"""Exported runs: graphs against the model and against SciPy, the card against the run, and every refusal."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import vaelab
from vaelab.cli import main
from vaelab.core.errors import BadInput, MissingExtra
from vaelab.use.card import escaped, model_card
from vaelab.use.exporting import export
from vaelab.use.graph_files import LIMIT, onnx_files, torch_files
from vaelab.use.graphs import apart, graphs

QUICK: dict[str, Any] = {"train": {"steps": 25}, "report": {"html": False}}
NET = {"hidden": [16], "latent": 2}
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(200, 4)) * [1, 1e-3, 1e6, 10] + [0, 5, 1e9, -3]  # float32 would lose the third column
GAPS = np.where(RANDOM.random(TABLE.shape) < 0.2, np.nan, TABLE)
IMAGES = RANDOM.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
GRAY = (RANDOM.random((150, 8, 8)) < 0.3).astype(np.float32)
COUNTS = RANDOM.negative_binomial(3, 0.3, (200, 5)).astype(np.float64)
LABELS = RANDOM.integers(0, 3, 200)
MIXED = pd.DataFrame(
    {
        "size": np.where(RANDOM.random(200) < 0.1, np.nan, RANDOM.normal(size=200)),
        "colour": RANDOM.choice(["red", "blue", "<i>green</i>"], 200),
        "n": RANDOM.poisson(300, 200),
    }
)
CONV = {"encoder": "conv", "decoder": "conv", "channels": [4, 8], "latent": 2}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gaussian": (TABLE, {"likelihood": {"name": "gaussian"}}),
    "pixel noise": (TABLE, {"likelihood": {"name": "gaussian", "noise": "pixel"}}),
    "laplace": (TABLE, {"likelihood": {"name": "laplace", "noise": "optimal"}}),
    "student_t": (TABLE, {"likelihood": {"name": "student_t"}}),
    "gaps": (GAPS, {"likelihood": {"name": "gaussian", "noise": "pixel"}}),
    "full covariance": (TABLE, {"model": {**NET, "posterior": "full"}}),
    "without noise": (TABLE, {"model": {**NET, "posterior": "delta"}, "objective": {"name": "wae"}}),
    "bernoulli": (GRAY, {"likelihood": {"name": "bernoulli"}}),
    "continuous bernoulli": (IMAGES, {"likelihood": {"name": "continuous_bernoulli"}}),
    "logistic mixture": (IMAGES, {"model": CONV, "likelihood": {"name": "logistic_mixture"}}),
    "categorical": (COUNTS.clip(max=7), {"likelihood": {"name": "categorical", "levels": 8}}),
    "beta binomial": (IMAGES, {"likelihood": {"name": "beta_binomial"}}),
    "poisson": (COUNTS, {"likelihood": {"name": "poisson"}}),
    "negative binomial": (COUNTS, {"likelihood": {"name": "negative_binomial"}}),
    "zero inflated": (COUNTS, {"likelihood": {"name": "zero_inflated_negative_binomial"}}),
    "shares of a total": (
        COUNTS,
        {"likelihood": {"name": "zero_inflated_negative_binomial", "library": "observed", "dispersion": "column"}},
    ),
    "multinomial": (COUNTS, {"likelihood": {"name": "multinomial"}}),
    "mixed": (MIXED, {"likelihood": {"name": "mixed"}}),
    "labels": ((TABLE, LABELS), {"data": {"condition": "labels"}}),
    "numbers beside": ({"x": TABLE, "condition": TABLE[:, :2] * 3 + 1}, {"data": {"condition": "array"}}),
}
AS_ONNX = ("gaussian", "bernoulli", "logistic mixture", "negative binomial", "mixed", "labels")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], vaelab.Run]:
    runs: dict[str, vaelab.Run] = {}

    def build(kind: str) -> vaelab.Run:
        if kind not in runs:
            x, settings = KINDS[kind]
            out = tmp_path_factory.mktemp("run") / "one"
            runs[kind] = vaelab.train(x, out=out, config={"model": NET, **QUICK, **settings}, progress=False)
        return runs[kind]

    return build


# Graphs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_take_and_give_rows_on_the_data_s_own_scale(made: Callable[[str], vaelab.Run], kind: str) -> None:
    run = made(kind)
    encoder, decoder = graphs(run)
    rows = len(encoder.inputs["x"])
    given = None if run.preview_condition is None else run.preview_condition[:rows]
    mean, deviation = run.posterior(run.preview[:rows], given)
    expected = {"mean": torch.from_numpy(mean)}
    if kind != "without noise":
        expected["log_variance"] = 2 * torch.from_numpy(deviation).log()
    assert apart(encoder.outputs, expected, {}) < 1e-5
    if run.spec.mixed:
        x = run.spec.to_model(run.decode(mean)).numpy()
        whole = [column.kind != "number" for column in run.spec.mixed]
        assert np.allclose(np.where(whole, decoder.outputs["mean"].round(), decoder.outputs["mean"]), x, atol=1e-5)
        return
    again = run.decode(mean, condition=given)
    assert decoder.outputs["mean"].shape == again.shape
    assert encoder.inputs["x"].shape == again.shape
    assert apart({"mean": decoder.outputs["mean"]}, {"mean": torch.from_numpy(again)}, decoder.units) < 1e-5


def _softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _mixture(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    """Mass of the logistic mixture over 256 levels, from its distribution function alone."""
    scale, half = np.exp(p["log_scales"]), 1 / 255
    at = (x / 127.5 - 1)[:, None]
    upper = np.where(x[:, None] == 255, 1, stats.logistic.cdf(at + half, p["centres"], scale))
    lower = np.where(x[:, None] == 0, 0, stats.logistic.cdf(at - half, p["centres"], scale))
    return np.log((np.exp(p["log_weights"]) * (upper - lower)).sum(1))


def _negative_binomial(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    size = np.exp(-p["log_dispersion"])
    return stats.nbinom.logpmf(x, size, size / (size + np.exp(p["log_mean"])))


def _zero_inflated(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    zero = _sigmoid(p["logit_zero"])
    return np.log(np.where(x == 0, zero, 0) + (1 - zero) * np.exp(_negative_binomial(x, p)))


def _given_total(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    means = x.sum(1, keepdims=True) * np.exp(p["log_shares"])
    return _zero_inflated(x, p | {"log_mean": np.log(means)})


def _beta_binomial(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    return stats.betabinom.logpmf(x, 255, np.exp(p["log_alpha"]), np.exp(p["log_beta"]))


def _multinomial(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    shares = np.exp(p["log_shares"])
    return stats.multinomial.logpmf(x, x.sum(1), shares / shares.sum(1, keepdims=True))[:, None]


SCIPY: dict[str, Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]] = {
    "gaussian": lambda x, p: stats.norm.logpdf(x, p["mean"], np.exp(p["log_sigma"])),
    "pixel noise": lambda x, p: stats.norm.logpdf(x, p["mean"], np.exp(p["log_sigma"])),
    "gaps": lambda x, p: np.nan_to_num(stats.norm.logpdf(x, p["mean"], np.exp(p["log_sigma"]))),
    "laplace": lambda x, p: stats.laplace.logpdf(x, p["mean"], np.exp(p["log_scale"])),
    "student_t": lambda x, p: stats.t.logpdf(x, p["degrees"], p["mean"], np.exp(p["log_sigma"])),
    "bernoulli": lambda x, p: stats.bernoulli.logpmf(x, _sigmoid(p["logits"])),
    "logistic mixture": _mixture,
    "categorical": lambda x, p: np.log(np.take_along_axis(_softmax(p["logits"], 1), x[:, None].astype(int), 1)),
    "beta binomial": _beta_binomial,
    "poisson": lambda x, p: stats.poisson.logpmf(x, np.exp(p["log_rate"])),
    "negative binomial": _negative_binomial,
    "zero inflated": _zero_inflated,
    "shares of a total": _given_total,
    "multinomial": _multinomial,
}


@pytest.mark.parametrize("kind", SCIPY)
def test_parameters_are_those_of_p_of_x_on_the_data_s_own_scale(made: Callable[[str], vaelab.Run], kind: str) -> None:
    run = made(kind)
    encoder, decoder = graphs(run)
    x = encoder.inputs["x"].double().numpy()
    p = {name: value.double().numpy() for name, value in decoder.outputs.items()}
    nats = SCIPY[kind](x, p).reshape(len(x), -1).sum(1)
    with torch.no_grad():
        own = run.model.decode(decoder.inputs["z"][None]).log_prob(run.spec.to_model(run.preview[: len(x)]))[0]
    log_scale = run.spec.transform.scale.log().numpy() if run.spec.log_abs_det else 0.0
    shift = -np.where(np.isnan(x), 0.0, log_scale).reshape(len(x), -1).sum(1)
    assert np.allclose(nats, own.numpy() + shift, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", AS_ONNX)
def test_files_of_graphs_agree_with_the_model(made: Callable[[str], vaelab.Run], kind: str) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    import onnxruntime

    run = made(kind)
    halves = graphs(run)
    files, gap = onnx_files(run, halves)
    assert set(files) == {"encoder.onnx", "decoder.onnx"} and gap <= LIMIT
    for half in halves:
        data = files[f"{half.name}.onnx"]
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        for rows in (1, 3, len(half.outputs["mean"])):
            fed = {name: value[:rows].numpy() for name, value in half.inputs.items()}
            found = dict(zip(half.outputs, session.run(list(half.outputs), fed), strict=True))
            assert apart(found, {name: value[:rows] for name, value in half.outputs.items()}, half.units) <= LIMIT
        told = session.get_modelmeta().custom_metadata_map
        assert int(told["latent"]) == run.latent and told["likelihood"] == run.config.likelihood.name
        assert {entry.shape[0] for entry in (*session.get_inputs(), *session.get_outputs())} == {"rows"}
        for name in run.spec.columns:
            assert name in told["columns"]
        assert not any("andom" in node.op_type for node in onnx.load_model_from_string(data).graph.node)
        _names_no_file(data)


def test_programs_of_torch_agree_and_hold_no_row(made: Callable[[str], vaelab.Run]) -> None:
    run = made("labels")
    files, gap = torch_files(run, graphs(run))
    assert gap <= LIMIT
    for data in files.values():
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        _names_no_file(b"".join(contents.values()))
        others = {name: content for name, content in contents.items() if not re.search(r"/(weight|tensor)_\d+$", name)}
        assert not [name for name, content in others.items() if content.startswith((b"\x80", b"PK"))]  # no pickle
        rows = run.preview.astype(np.float64)
        assert not [name for name, content in contents.items() if rows[0].tobytes() in content]
    module = torch.export.load(io.BytesIO(files["encoder.pt2"])).module()
    x, c = torch.from_numpy(run.preview[:2]).double(), torch.tensor([0, 2])
    mean, _ = run.posterior(run.preview[:2], ["0", "2"])
    assert np.allclose(module(x, c)["mean"].detach(), mean, atol=1e-5)


def _names_no_file(data: bytes) -> None:
    for private in (str(Path(vaelab.__file__).parent), str(Path(torch.__file__).parent), str(Path.home())):
        assert private.encode() not in data


def test_a_graph_that_disagrees_is_refused_and_nothing_is_written(
    made: Callable[[str], vaelab.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from vaelab.use import graph_files

    by_onnx = graph_files._by_onnx

    def off(session: Any, inputs: Any) -> dict[str, Any]:
        return {name: value + 1e-4 for name, value in by_onnx(session, inputs).items()}

    monkeypatch.setattr(graph_files, "_by_onnx", off)
    with pytest.raises(
        BadInput, match=r"a difference of 0\.0001 in the encoder; must agree with the model to 1e-05 of max"
    ):
        export(made("gaussian"), tmp_path / "out", ["onnx", "safetensors"])
    assert not list(tmp_path.iterdir())


NO_GRAPH: dict[str, tuple[Any, dict[str, Any], str]] = {
    "hierarchy": (TABLE, {"model": {"groups": [2, 2], "hidden": [8]}}, "a model without model.groups would go"),
    "flow": (TABLE, {"model": {**NET, "posterior": "iaf"}}, "model.posterior=diagonal, full or delta would go"),
    "codes": (TABLE, {"model": {"posterior": "vq", "hidden": [8]}}, "model.posterior=diagonal, full or delta would go"),
    "strings": (["CCO", "CCN", "CCC", "COC"] * 20, {"model": {"width": 8, "embedding": 4, "latent": 2}}, "strings"),
    "pixels": (
        GRAY,
        {"model": {"decoder": "pixel_cnn", "hidden": [8], "latent": 2, "layers": 1, "width": 8}},
        "model.decoder=mlp, conv or linear would go",
    ),
    "labels to guess": (
        (TABLE, np.where(LABELS == 2, -1, LABELS)),
        {"data": {"condition": "labels"}, "model": {**NET, "missing_labels": "marginal"}},
        "model.missing_labels=refuse",
    ),
}


@pytest.mark.parametrize("kind", NO_GRAPH)
def test_what_has_no_graph_is_refused_by_name_and_goes_as_a_run(tmp_path: Path, kind: str) -> None:
    x, settings, fix = NO_GRAPH[kind]
    if kind == "flow":
        pytest.importorskip("zuko", reason="needs the extra flows")
    config = {"model": NET, **QUICK, "train": {"steps": 3}, **settings}
    run = vaelab.train(x, out=tmp_path / "run", config=config, progress=False)
    for graph in ("onnx", "torch"):
        with pytest.raises(BadInput, match=f"so that there is no graph of it; .*{re.escape(fix)}|strings"):
            export(run, tmp_path / "out", [graph])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    again = vaelab.load(export(run, tmp_path / "out").folder)
    assert np.array_equal(again.embed(run.preview[:3]), run.embed(run.preview[:3]))


# The folder -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "logistic mixture", "mixed", "labels", "numbers beside"])
@pytest.mark.parametrize("rows", [False, True])
def test_an_exported_run_is_the_run(made: Callable[[str], vaelab.Run], tmp_path: Path, kind: str, rows: bool) -> None:
    run = made(kind)
    again = vaelab.load(export(run, tmp_path / "out", ["safetensors"], rows).folder)
    x, given = run.preview[:9], None if run.preview_condition is None else run.preview_condition[:9]
    assert again.keeps_rows == rows
    assert np.array_equal(again.embed(x, condition=given), run.embed(x, condition=given))
    one = None if given is None else given[:1]
    drawn = (each.sample(4, seed=2, condition=one) for each in (again, run))
    assert np.array_equal(*(np.asarray(part, str) for part in drawn))
    assert [finding.code for finding in again.findings] == [finding.code for finding in run.findings]
    assert again.metrics == run.metrics and again.spec.fingerprint == run.spec.fingerprint
    if rows:
        assert np.array_equal(np.asarray(again.preview, str), np.asarray(run.preview, str))


def test_uses_of_a_run_without_rows_say_so(
    made: Callable[[str], vaelab.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export(made("labels"), tmp_path / "out").folder
    labels = vaelab.load(folder)
    assert labels.sample(3).shape == (3, 4)  # the labels by their shares
    for words in (
        ["embed", str(folder)],
        ["report", str(folder)],
        ["evaluate", str(folder)],
        ["diagnose", str(folder)],
    ):
        assert _status(words) == 2, words
        error = capsys.readouterr().err
        assert "holds no rows of its data" in error and error.count("\n") == 1, (words, error)
    beside = vaelab.load(export(made("numbers beside"), tmp_path / "beside").folder)
    with pytest.raises(BadInput, match="holds no rows to draw it from"):
        beside.sample(3)
    picture = vaelab.load(export(made("logistic mixture"), tmp_path / "picture").folder).folder
    assert _status(["sample", str(picture), "--count", "2", "--to", str(tmp_path / "x.png")]) == 0


def _status(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_paths_and_the_machine_stay_behind(tmp_path: Path) -> None:
    secret = tmp_path / "the client Miller" / "q3"
    secret.mkdir(parents=True)
    pd.DataFrame(TABLE, columns=["/a/b/c", "b", "c", "d"]).to_csv(secret / "salaries.csv", index=False)
    vaelab.train(secret / "salaries.csv", out=secret / "run", config=QUICK | {"model": NET}, progress=False)
    path = secret / "run" / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"command": "train x", "git": {"commit": "f00dface"}}))
    made = export(secret / "run", tmp_path / "out")
    for file in made.folder.rglob("*.*"):
        content = file.read_bytes() if file.is_file() else b""
        assert b"Miller" not in content, file
        assert b"platform" not in content or file.name == "export.json"
        assert b"f00dface" not in content and b"train x" not in content
    again = vaelab.load(made.folder)
    assert again.config.data.source == "salaries.csv"
    assert again.spec.columns[0] == "/a/b/c"  # a name of the data's own, and no path
    assert made.left_out[0] == "command, platform, git of this machine"


def test_a_folder_with_something_in_it_and_a_file_are_left_alone(
    made: Callable[[str], vaelab.Run], tmp_path: Path
) -> None:
    run = made("gaussian")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="is a folder with something in it; name a new or an empty one"):
        export(run, tmp_path / "full")
    with pytest.raises(BadInput, match="is a file; name a folder"):
        export(run, tmp_path / "full" / "mine")
    assert (tmp_path / "full" / "mine").read_text() == "x"
    assert export(run, tmp_path / "empty").folder == tmp_path / "empty"
    assert export(run, tmp_path / "new" / "deep").folder.is_dir()
    assert not list(tmp_path.rglob("*.part"))


def test_refusals_are_one_line_and_status_two(
    made: Callable[[str], vaelab.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(made("gaussian").folder)
    cases = {
        "is not there": ["export", str(tmp_path / "nothing")],
        "holds no run": ["export", str(tmp_path)],
        "add --safetensors": ["export", run, "--card", "--rows", "--to", str(tmp_path / "out")],
        "must be user/name": ["push", run, "name"],
        "Unknown option": ["export", run, "--onxx"],
    }
    for text, words in cases.items():
        assert _status(words) == 2, words
        error = capsys.readouterr().err
        assert text in error and error.count("\n") == 1, error
    with pytest.raises(BadInput, match="did you mean onnx"):
        export(run, tmp_path / "out", ["onx"])
    assert not list(tmp_path.iterdir())


def test_a_model_of_your_own_is_refused(tmp_path: Path) -> None:
    from torch import nn

    model = vaelab.VAE(nn.Linear(4, 4), nn.Linear(2, 4), likelihood="gaussian", latent=2)
    run = vaelab.train(TABLE, out=tmp_path / "run", model=model, config=QUICK, progress=False)
    with pytest.raises(BadInput, match="a model of your own, whose code no file of it holds"):
        export(run, tmp_path / "out")


@pytest.mark.parametrize(("package", "extra", "words"), [("onnxruntime", "onnx", "--onnx"), ("onnx", "onnx", "--onnx")])
def test_a_missing_package_names_its_extra(
    made: Callable[[str], vaelab.Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
    words: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"no package {package}; needs the extra {extra}"):
        export(made("gaussian"), tmp_path / "out", [words.strip("-")])


def test_export_needs_no_optional_package() -> None:
    code = "import sys, vaelab.use.exporting, vaelab.use.hub\n"
    code += "print([name for name in ('onnx', 'huggingface_hub') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# The card -------------------------------------------------------------------------------------------------------------


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _rendered(card: str) -> _Tags:
    """What a hub shows of a card: tables and links as in GitHub's Markdown, and HTML as it is."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable(["table"])
    tags = _Tags()
    tags.feed(markdown.render(card.split("---\n", 2)[2]))
    return tags


def test_the_card_holds_the_numbers_of_the_run(made: Callable[[str], vaelab.Run]) -> None:
    run = made("gaussian")
    measured = run.metrics
    card = model_card(run)
    assert f"{measured['negative_elbo']:.3f}"[:5] in card and "held-out rows, beta = 1" in card
    found = vaelab.evaluate(run, samples=20)
    number = found["bound.log_likelihood"]
    card = model_card(run)
    row = next(line for line in card.splitlines() if line.startswith("| log likelihood |"))
    value, half = map(float, re.findall(r"-?\d+\.?\d*", row)[:2])
    assert value == pytest.approx(number.value, abs=number.interval / 5) and half == pytest.approx(
        number.interval, rel=0.06
    )
    assert "K = 20" in card and run.spec.fingerprint in card and f"{run.environment['parameters']:,}" in card
    for finding in run.findings:
        if finding.severity in ("warning", "error"):
            assert f"| {finding.severity} | {finding.code} |" in card and finding.number.split()[0] in card
    text = _rendered(card).text
    assert "chosen" not in text or "why this one" in text
    assert all(f"## {name}" in card for name in ("Data", "Model", "Measured", "Findings", "Limits", "Versions"))


def test_the_metadata_is_plain_yaml(made: Callable[[str], vaelab.Run]) -> None:
    import yaml

    head = model_card(made("mixed")).split("---\n")[1]
    assert yaml.safe_load(head) == {
        "library_name": "vaelab",
        "tags": ["vae", "variational-autoencoder", "table", "mixed"],
    }


HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "![x](http://evil/p.png)",
    "a | b | c", "`code`", "**bold** __b__ *i* _i_ ~~s~~", "# head", "<!-- note", "&lt;b&gt; &amp; &#60;", "http://evil.example",
    "www.evil.example", "a@evil.example", "line\nbreak\r\n\n# new", "$\\foo$", "\\", "\\\\`", "[^1]", "[x]: http://evil",
    "---\nlicense: mit\n---", "‮evil", "<a href=http://evil>x</a>", "</td></table><h1>", "{{ x }}", "x" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_from_data_do_nothing_in_a_card(text: str) -> None:
    for place in (f"| name | {escaped(text)} |\n", f"- {escaped('name')}: {escaped(text)}\n", f"# {escaped(text)}\n"):
        table = f"| a | b |\n| --- | --- |\n{place}" if place.startswith("|") else place
        tags = _rendered("---\n---\n" + table + "\nafter\n")
        names = {tag for tag, _ in tags.found}
        assert names <= {"table", "thead", "tbody", "tr", "th", "td", "ul", "li", "h1", "p"}, (text, names)
        shown = tags.text.replace("\n", "")
        assert vaelab.core.errors.one_line(text)[:300].strip() in shown, (text, shown)
    assert not re.search(
        r"(?<!\\)(https?|ftp)://|(?<![\\\w])www\.|(?<!\\)@", escaped(text)
    )  # what hubs link by themselves


def test_columns_with_markup_come_out_as_text(tmp_path: Path) -> None:
    columns = ["<script>alert(1)</script>", "[a](http://b)", "c|d", "$x$"]
    table = pd.DataFrame(TABLE, columns=columns)
    run = vaelab.train(table, out=tmp_path / "run", config=QUICK | {"model": NET}, progress=False)
    tags = _rendered((export(run, tmp_path / "out").folder / "README.md").read_text())
    assert not {"script", "a", "img"} & {tag for tag, _ in tags.found}
    assert ", ".join(columns) in tags.text
