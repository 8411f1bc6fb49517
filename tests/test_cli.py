"""The command as a user calls it: bad input exits with 2 and one line, leaves nothing behind and destroys nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vaelab
from vaelab.cli import main

QUICK = ["train.steps=20", "train.batch_size=16", "model.hidden=[8]", "--quiet"]


def call(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def images(folder: Path, *sizes: tuple[int, int]) -> Path:
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.new("L", size, 10 * number).save(folder / f"{number}.png")
    return folder


def spoilt_images(folder: Path) -> Path:
    images(folder, (16, 16), (16, 16))
    (folder / "2.png").write_text("this is text")
    return folder


def npy(folder: Path, array: np.ndarray, cut: int = 0) -> Path:
    path = folder / "data.npy"
    np.save(path, array, allow_pickle=array.dtype == object)
    path.write_bytes(path.read_bytes()[: -cut or None])
    return path


def text(folder: Path, content: str | bytes, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


RANDOM = np.random.default_rng(0)
BAD_DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing file": (lambda f: f / "no.csv", "no.csv"),
    "unknown name": (lambda f: "digit", "digit"),
    "folder without images": (lambda f: f, "image"),
    "empty table": (lambda f: text(f, ""), "empty"),
    "header only": (lambda f: text(f, "a,b\n"), "header"),
    "one row": (lambda f: text(f, "a,b\n1,2\n"), "row"),
    "ragged row": (lambda f: text(f, "a,b\n1,2\n3\n4,5\n"), "row 2"),
    "duplicate columns": (lambda f: text(f, "a,a\n1,2\n3,4\n"), "both called a"),
    "text in a column": (lambda f: text(f, "a,b\n1,x\n3,4\n5,6\n"), "column b"),
    "infinity": (lambda f: text(f, "a,b\n1,inf\n3,4\n"), "finite"),
    "beyond float64": (lambda f: text(f, "a,b\n1,1e400\n3,4\n"), "finite"),
    "NUL bytes": (lambda f: text(f, b"a,b\n1,\0\n3,4\n"), "NUL"),
    "not UTF-8": (lambda f: text(f, b"a,b\n1,\xff\xfe\n3,4\n"), "UTF-8"),
    "unbalanced quote": (lambda f: text(f, 'a,b\n1,"2\n3,4\n'), "line"),
    "a workbook named csv": (lambda f: text(f, b"PK\x03\x04" + bytes(50)), "data.csv"),
    "a cut gzip": (lambda f: text(f, b"\x1f\x8b\x08\0\0\0\0\0", "data.csv.gz"), "data.csv.gz"),
    "objects": (lambda f: npy(f, np.array([[{}, 1], [2, 3]], dtype=object)), "objects"),
    "a cut array": (lambda f: npy(f, RANDOM.random((50, 3)), cut=100), "data.npy"),
    "complex numbers": (lambda f: npy(f, np.ones((5, 2), complex)), "complex"),
    "no dimension": (lambda f: npy(f, np.array(3.0)), "shape"),
    "one dimension": (lambda f: npy(f, np.ones(9)), "reshape"),
    "no rows": (lambda f: npy(f, np.ones((0, 3))), "(0, 3)"),
    "no columns": (lambda f: npy(f, np.ones((9, 0))), "(9, 0)"),
    "mixed sizes": (lambda f: images(f / "i", (16, 16), (16, 17)), "16x17"),
    "one image": (lambda f: images(f / "i", (16, 16)), "one"),
    "text named png": (lambda f: spoilt_images(f / "i"), "2.png"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_refused_in_one_line(tmp_path: Path, capsys, name: str) -> None:
    make, said = BAD_DATA[name]
    source = make(tmp_path)
    before = snapshot(tmp_path)
    status, out, error = call(["train", source, *QUICK, "--out", tmp_path / "run"], capsys)
    assert (status, out) == (2, "")
    assert error.startswith("vaelab: ")
    assert said.lower() in error.lower()
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "run").exists()


BAD_WORDS: dict[str, tuple[list[str], str]] = {
    "no data": ([], "nothing to train on"),
    "unknown key": (["digits", "train.stepz=5"], "did you mean steps?"),
    "unknown option": (["digits", "--otu", "x"], "--out"),
    "rate nan": (["digits", "train.learning_rate=.nan"], "finite"),
    "latent 0": (["digits", "model.latent=0"], "model.latent"),
    "latent 1e9": (["digits", "model.latent=1e9"], "model.latent"),
    "epochs 0": (["digits", "train.epochs=0"], "train.epochs"),
    "seed": (["digits", "seed=-1"], "seed"),
    "device": (["digits", "train.device=cuda:7"], "train.device"),
    "recipe": (["digits", "--recipe", "tutorial-mnst"], "did you mean tutorial-mnist?"),
    "likelihood against data": (["digits", "likelihood=poisson", "data.scale=unit"], "data.scale"),
    "Bernoulli on real numbers": (["digits", "likelihood=bernoulli", "data.scale=standardize"], "[0, 1]"),
    "conv on a table": (["TABLE", "model.encoder=conv"], "images"),
    "no config": (["digits", "--config", "no.yaml"], "no.yaml"),
    "resume of nothing": (["--resume", "no-run"], "no-run"),
    "a path too long": (["digits", "--out", "x" * 5000], "out"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_settings_are_refused_in_one_line(tmp_path: Path, capsys, monkeypatch, name: str) -> None:
    words, said = BAD_WORDS[name]
    monkeypatch.chdir(tmp_path)
    table = text(tmp_path, "a,b\n" + "".join(f"{i}.5,{i % 7}.25\n" for i in range(40)))
    status, out, error = call(["train", *[table if word == "TABLE" else word for word in words]], capsys)
    assert (status, out) == (2, "")
    assert said in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [table]


@pytest.fixture
def run(tmp_path: Path, capsys) -> Path:
    path = tmp_path / "run"
    assert call(["train", "digits", *QUICK, "--out", path], capsys)[0] == 0
    return path


def test_a_run_is_never_overwritten(run: Path, capsys) -> None:
    before = snapshot(run)
    for words, said in (
        (["digits", "--out", run], "already holds a run"),
        (["--resume", run, "train.learning_rate=0.5"], "train.learning_rate 0.001 -> 0.5"),
        (["--resume", run, "--out", run / "b"], "keeps its folder"),
        (["digits", "--out", run / "config.yaml"], "is a file"),
        (["digits", "--out", run / "checkpoints"], "other things in it"),
    ):
        status, _, error = call(["train", *words], capsys)
        assert status == 2
        assert said in error
    assert snapshot(run) == before


def test_resuming_a_finished_run_says_what_it_found_again(run: Path, capsys) -> None:
    metrics = (run / "metrics.jsonl").read_bytes()
    status, out, _ = call(["train", "--resume", run, "--quiet"], capsys)
    assert status == 0
    assert "held-out negative ELBO" in out
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_training_says_where_the_page_is_and_what_was_found(tmp_path: Path, capsys) -> None:
    status, out, _ = call(["train", "digits", *QUICK, "--out", tmp_path / "run"], capsys)
    assert status == 0
    assert str(tmp_path / "run" / "report.html") in out
    assert "TR100" in out
    assert "DA001" in out
    assert "verdict" in out
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_what_the_commands_write_is_what_the_run_computes(run: Path, capsys) -> None:
    loaded = vaelab.load(run)
    expected = {
        "sample --count 5": loaded.sample(5),
        "reconstruct --count 7": loaded.reconstruct(loaded.preview[:7]),
        "embed --count 7": loaded.embed(loaded.preview[:7]),
        "interpolate --first 2 --second 4 --steps 6": loaded.interpolate(loaded.preview[2], loaded.preview[4], 6),
    }
    for words, values in expected.items():
        name, *options = words.split()
        status, out, _ = call([name, run, *options, "--to", run.parent / "o.npy"], capsys)
        assert status == 0
        assert "o.npy" in out
        assert np.allclose(np.load(run.parent / "o.npy"), values, atol=1e-6)
    status, _, _ = call(["traverse", run, "--dimension", "1", "--steps", 5, "--to", run.parent / "t.npy"], capsys)
    assert status == 0
    walk = np.load(run.parent / "t.npy")
    middle = loaded.decode(np.zeros((1, loaded.latent)))
    assert walk.shape[:2] == (1, 5)
    assert np.allclose(walk[0, 2], middle[0], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "RUN", "--count", "0"], "count"),
        (["sample", "RUN", "--to", "x.doc"], ".png"),
        (["sample", "RUN", "--to", "no/x.png"], "no folder"),
        (["embed", "RUN", "no.npy"], "no.npy"),
        (["embed", "RUN", "TABLE"], "the model takes numbers of shape (n, 8, 8)"),
        (["interpolate", "RUN", "--second", "9999"], "second"),
        (["interpolate", "RUN", "--path", "curved"], "path"),
        (["traverse", "RUN", "--dimension", "99"], "dimension"),
        (["report", "EMPTY"], "holds no run"),
    ],
)
def test_wrong_uses_are_refused_in_one_line(run: Path, tmp_path: Path, capsys, monkeypatch, words, said) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    table = text(tmp_path, "a,b\n1,2\n3,4\n")
    places = {"RUN": run, "TABLE": table, "EMPTY": tmp_path / "empty"}
    before = snapshot(tmp_path)
    status, out, error = call([places.get(word, word) for word in words], capsys)
    assert (status, out) == (2, "")
    assert said in error
    assert len(error.splitlines()) == 1
    assert snapshot(tmp_path) == before


def test_columns_are_matched_by_name_at_use(tmp_path: Path, capsys) -> None:
    rows = RANDOM.normal(size=(60, 3))
    first = text(tmp_path, "a,b,c\n" + "\n".join(",".join(map(str, row)) for row in rows))
    other = text(tmp_path, "c,extra,a,b\n" + "\n".join(f"{c},9,{a},{b}" for a, b, c in rows), "other.csv")
    short = text(tmp_path, "a,b\n1,2\n3,4\n", "short.csv")
    run = tmp_path / "run"
    assert call(["train", first, *QUICK, "--out", run], capsys)[0] == 0
    for source, name in ((first, "one.npy"), (other, "two.npy")):
        assert call(["embed", run, source, "--to", tmp_path / name], capsys)[0] == 0
    assert np.allclose(np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy"), atol=1e-6)
    status, _, error = call(["embed", run, short], capsys)
    assert status == 2
    assert "no column 'c'" in error


def test_damage_is_status_4_and_a_read_only_place_status_5(run: Path, tmp_path: Path, capsys) -> None:
    spec = run / "data" / "spec.json"
    spec.write_text(spec.read_text().replace("digits", "digitz"))
    status, _, error = call(["report", run], capsys)
    assert status == 4
    assert "spec.json" in error
    (tmp_path / "file").write_text("")
    status, _, error = call(["train", "digits", *QUICK, "--out", tmp_path / "file" / "run"], capsys)
    assert status == 5
    assert "run" in error


def test_names_from_data_cannot_break_the_line(tmp_path: Path, capsys) -> None:
    source = text(tmp_path, 'a,"evil\x1b[31m"\n1,x\n2,3\n4,5\n')
    status, _, error = call(["train", source, *QUICK, "--out", tmp_path / "run"], capsys)
    assert status == 2
    assert "\x1b" not in error


def test_the_saved_config_is_resolved_and_makes_the_same_model(run: Path) -> None:
    loaded = vaelab.load(run)
    assert loaded.config.model.latent == 16
    assert loaded.config.likelihood.name == "gaussian"
    assert loaded.config.data.source == "digits"
    environment = json.loads((run / "environment.json").read_text())
    assert environment["parameters"] == sum(p.numel() for p in loaded.model.parameters())
