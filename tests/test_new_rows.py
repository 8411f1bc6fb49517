"""New rows as they come: one alone, with empty columns, text beside numbers, or gaps; and files that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image
from reading import refused

import vaelab
from vaelab.cli.app import main
from vaelab.core.facts import Column
from vaelab.data.mixed import encode
from vaelab.sklearn import VAEAnomalyDetector, VAEDensity, VAEEmbedder
from vaelab.training.run import CHUNK

QUICK = {"train": {"steps": 20}, "report": {"html": False}}


def table(rows: int = 60) -> pandas.DataFrame:
    draw = np.random.default_rng(0)
    sizes = pandas.DataFrame(draw.normal(size=(rows, 3)).round(2), columns=["long", "wide", "high"])
    return sizes.assign(kind=draw.choice(["oak", "elm"], rows))


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a table, a run on it, and a run on its numbers."""
    path = tmp_path_factory.mktemp("rows")
    table().to_csv(path / "mixed.csv", index=False)
    table().drop(columns="kind").to_csv(path / "numbers.csv", index=False)
    for name in ("mixed", "numbers"):
        vaelab.train(str(path / f"{name}.csv"), out=path / f"run-{name}", config=QUICK, progress=False)
    return path


@pytest.mark.parametrize(
    "words", [["score", "--to", "o.csv"], ["embed", "--to", "o.csv"], ["reconstruct"], ["evaluate"]]
)
@pytest.mark.parametrize("kind", ["mixed", "numbers"])
def test_a_row_alone_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    table(1).to_csv("one.csv", index=False)
    assert command(words[0], folder / f"run-{kind}", "one.csv", *words[1:]) == 0


def test_training_still_takes_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(1).to_csv(tmp_path / "one.csv", index=False)
    assert command("train", tmp_path / "one.csv", "--out", tmp_path / "run") == 2
    assert "must have at least two; one is held out" in capsys.readouterr().err


def test_a_column_that_is_empty_is_one_of_gaps(folder: Path, tmp_path: Path) -> None:
    from vaelab.use.scoring import score

    new = table()[:4].assign(kind=None, wide=None)
    new.to_csv(tmp_path / "new.csv", index=False)
    assert command("score", folder / "run-mixed", tmp_path / "new.csv", "--to", tmp_path / "o.csv") == 0
    written = pandas.read_csv(tmp_path / "o.csv")["score"]
    np.testing.assert_allclose(written, score(vaelab.load(folder / "run-mixed"), new).values, rtol=1e-6)


def test_text_in_columns_that_a_model_of_numbers_does_not_know_is_left_out(folder: Path) -> None:
    run = vaelab.load(folder / "run-numbers")
    new = table()[:5]
    np.testing.assert_array_equal(run.embed(new), run.embed(new.drop(columns="kind")))
    new = new.astype({"wide": object})
    new.loc[3, "wide"] = "broad"
    refused(lambda: run.embed(new), "'broad' in row 3 (counting from 0), column wide", "takes numbers")


def test_a_gap_has_a_place(folder: Path) -> None:
    new = table()[["long", "wide", "high"]][:5]
    new.loc[2, "high"] = np.nan
    run = vaelab.load(folder / "run-numbers")
    refused(lambda: run.embed(new), "the first in row 2 (counting from 0), column high", "impute")
    many = np.zeros((CHUNK + 10, 3))
    many[CHUNK + 5, 1] = np.nan
    refused(lambda: run.embed(many), f"the first in row {CHUNK + 5} (counting from 0), column wide")


def test_a_name_with_another_capital_is_suggested(folder: Path) -> None:
    new = table().rename(columns={"wide": "Wide"})
    refused(lambda: vaelab.load(folder / "run-mixed").embed(new), "no column 'wide'", "did you mean Wide?")


@pytest.mark.parametrize(
    "words", [["score", "new.csv"], ["embed", "new.csv"], ["impute", "new.csv"], ["sample"], ["traverse"]]
)
def test_what_a_run_was_trained_on_is_not_written_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    table()[:5].to_csv(tmp_path / "new.csv", index=False)
    before = (folder / "mixed.csv").read_bytes()
    given = [tmp_path / word for word in words[1:]]
    assert command(words[0], folder / "run-mixed", *given, "--to", folder / "mixed.csv") == 2
    assert "is what the run was trained on; name another file to write" in capsys.readouterr().err
    assert (folder / "mixed.csv").read_bytes() == before


@pytest.mark.parametrize("shape", [(12, 6, 6), (12, 6, 6, 1)])
def test_images_come_back_from_a_file_in_the_shape_they_had(tmp_path: Path, shape: tuple[int, ...]) -> None:
    bits = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)
    np.savez(tmp_path / "bits.npz", x=bits)
    settings = QUICK | {"likelihood": "bernoulli", "model": {"encoder": "mlp", "decoder": "mlp"}}
    vaelab.train(str(tmp_path / "bits.npz"), out=tmp_path / "run", config=settings, progress=False)
    assert command("compress", tmp_path / "run", tmp_path / "bits.npz", "--to", tmp_path / "bits.vlz") == 0
    assert command("decompress", tmp_path / "run", tmp_path / "bits.vlz", "--to", tmp_path / "back.npz") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "back.npz")["x"], bits, strict=True)


def test_rows_without_any_value_are_told_of(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (folder / "numbers.csv").read_text().splitlines()
    (tmp_path / "holes.csv").write_text("\n".join([*lines[:4], ",,", *lines[4:]]) + "\n")
    assert command("embed", folder / "run-numbers", tmp_path / "holes.csv", "--to", tmp_path / "z.csv") == 0
    told = capsys.readouterr().out
    assert "rows without any value are left out: 1 of" in told and "codes of 60 rows" in told


def test_noise_is_a_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 6, 6)).astype(np.uint8)
    np.savez(tmp_path / "gray.npz", x=images)
    vaelab.train(str(tmp_path / "gray.npz"), out=tmp_path / "run", config=QUICK, progress=False)
    assert command("denoise", tmp_path / "run", tmp_path / "gray.npz", "--noise", 25, "--to", tmp_path / "o.png") == 2
    assert "noise: got 25.0; is a share of the way from black to white" in capsys.readouterr().err


def test_estimators_speak_of_columns_by_their_names() -> None:
    numbers, quick = table()[["long", "wide", "high"]], {"steps": 20}
    detector = VAEAnomalyDetector(members=1, false_alarms=0.1, **quick).fit(numbers)
    assert detector.explain(numbers).names == ("long", "wide", "high", "prior")
    for rows in (numbers, table()):
        drawn = VAEDensity(**quick).fit(rows).sample(5)
        assert list(drawn.columns) == list(rows.columns)
        assert [kind.kind for kind in drawn.dtypes] == [kind.kind for kind in rows.dtypes]
    refused(lambda: VAEEmbedder(**quick).fit(numbers.set_axis(["a", "b", "a"], axis=1)), "several columns called 'a'")


def test_bits_in_bytes_are_shown_from_black_to_white(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (12, 6, 6)).astype(np.uint8)
    images = {"bits": bits, "gray": bits * 255}
    for name, rows in images.items():
        np.savez(tmp_path / f"{name}.npz", x=rows)
        run = vaelab.train(rows, out=tmp_path / name, config=QUICK, progress=False)
        assert run.spec.top == rows.max()
    Image.fromarray(images["gray"][0]).save(tmp_path / "one.png")
    masked = ("--mask", "lower", "--steps", 2, "--to", tmp_path / "o.npz")
    assert command("inpaint", tmp_path / "bits", tmp_path / "one.png", *masked) == 0
    assert 0 <= np.load(tmp_path / "o.npz")["mean"].min() <= np.load(tmp_path / "o.npz")["mean"].max() <= 1
    capsys.readouterr()
    assert command("embed", tmp_path / "gray", tmp_path / "bits.npz", "--to", tmp_path / "o.csv") == 0
    assert "the largest value is 1, and the run was trained on 0 to 255: another scale?" in capsys.readouterr().out


def test_a_name_that_no_file_can_have_is_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("sample", folder / "run-mixed", "--to", f"{'a' * 300}.csv") == 5
    assert "cannot be written (File name too long)" in capsys.readouterr().err


def test_images_of_a_folder_that_was_trained_on_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (6, 6, 6)).astype(np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    vaelab.train(str(tmp_path / "images"), out=tmp_path / "run", config=QUICK, progress=False)
    first = tmp_path / "images" / "0.png"
    before = first.read_bytes()
    assert command("denoise", tmp_path / "run", tmp_path / "images" / "1.png", "--to", first) == 2
    assert first.read_bytes() == before


def test_a_level_of_text_is_known_where_a_short_file_shows_it_as_a_number() -> None:
    column = Column("code", "category", ("0.50", "007", "1e3", "A1"))
    codes = encode((column,), np.array([[7.0], [0.5], ["007"], ["A1"]], dtype=object))
    assert codes[:, 0].tolist() == [1, 0, 1, 3]


def test_samples_of_frames_have_all_columns(folder: Path) -> None:
    named = table().assign(name=[f"tree {number}" for number in range(60)])
    density = VAEDensity(steps=20).fit(named)
    drawn = density.sample(4)
    assert list(drawn.columns) == list(named.columns)
    assert drawn["name"].isna().all()
    assert np.isfinite(density.score(drawn))
    numbered = VAEDensity(steps=20).fit(table().set_axis(range(4), axis=1))
    assert list(numbered.sample(4).columns) == [0, 1, 2, 3]

    with pytest.raises((ValueError, TypeError), match="2-dimensional"):
        VAEDensity(steps=20).fit(table()["long"])


@pytest.mark.parametrize("likelihood", ["gaussian", {"name": "gaussian"}, {"noise": "feature"}])
def test_the_least_noise_does_not_hang_on_how_a_likelihood_is_written(likelihood: object) -> None:
    rows = table()[["long", "wide", "high"]].to_numpy()
    found = VAEAnomalyDetector(config={"likelihood": likelihood}, steps=5, members=1, false_alarms=0.1).fit(rows)
    assert found.run_.config.likelihood.floor == pytest.approx(0.4 * 60 ** (-2 / 7))
