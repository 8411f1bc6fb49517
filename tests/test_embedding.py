"""Embeddings and neighbours: files read back by other libraries, distances by brute force, Parquet as CSV."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits, load_wine

import vaelab
from vaelab.cli import main
from vaelab.core.errors import BadInput
from vaelab.data.source import load
from vaelab.use.embedding import Embedding, embed, facts_of, nearest, save_embedding

QUICK = {"train": {"steps": 20}, "report": {"html": False}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vaelab.Run:
    x, y = load_wine(return_X_y=True)
    config = QUICK | {"model": {"latent": 3, "hidden": [8]}}
    return vaelab.train((x, y), out=tmp_path_factory.mktemp("wine") / "run", config=config, progress=False)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> vaelab.Run:
    out = tmp_path_factory.mktemp("digits") / "run"
    return vaelab.train("digits", out=out, config=QUICK | {"model": {"latent": 2, "hidden": [16]}}, progress=False)


def call(words: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out + said.err


def random_embedding(rows: int, latent: int = 3, seed: int = 0) -> Embedding:
    random = np.random.default_rng(seed)
    return Embedding(random.standard_normal((rows, latent)), random.uniform(0.1, 1, (rows, latent)))


def test_means_and_deviations_are_those_of_the_posterior_and_draws_scatter_as_they_say(run) -> None:
    found = embed(run, run.preview[:4], "both", seed=1)
    q = run.model.encode(run.spec.to_model(run.preview[:4]))
    np.testing.assert_allclose(found.z, q.mean.detach(), atol=1e-6)
    np.testing.assert_allclose(found.std, q.std.detach(), atol=1e-6)
    many = embed(run, np.repeat(run.preview[:1], 4000, 0), "sample", seed=2)
    scaled = (many.z - found.z[0]) / found.std[0]
    assert np.abs(scaled.mean(0)).max() < 4 / np.sqrt(4000)
    assert np.abs(scaled.var(0) - 1).max() < 4 * np.sqrt(2 / 4000)
    assert not np.array_equal(embed(run, run.preview, "sample", seed=3).z, embed(run, run.preview, "sample", seed=4).z)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_are_read_back_by_pandas(run, tmp_path: Path, suffix: str) -> None:
    names, labels = np.array(["a", "b, c", '"d"'], object), np.array(["x", "", "z"])
    found = embed(run, run.preview[:3], "both", names=names, labels=labels)
    path = save_embedding(found, tmp_path / f"z{suffix}")
    table = pd.read_csv(path, keep_default_na=False) if suffix == ".csv" else pd.read_parquet(path)
    assert list(table) == ["name", *(f"{of}_{k}" for of in ("z", "std", "sample") for k in (1, 2, 3)), "label"]
    assert np.array_equal(table.filter(like="z_").to_numpy(np.float32), found.z)
    assert np.array_equal(table.filter(like="std_").to_numpy(np.float32), found.std)
    assert list(table.name) == list(names) and list(table.label) == list(labels)


def test_what_is_handed_on_names_no_folder_of_the_machine(run) -> None:
    said = facts_of(run)
    assert said["run"] == "run" and not any("/" in value for value in said.values())
    spec = SimpleNamespace(rows=3, name="/home/ada/cells.h5ad", fingerprint="")
    elsewhere = SimpleNamespace(folder=run.folder, metrics={}, environment={}, config=run.config, spec=spec)
    assert facts_of(elsewhere)["trained_on"] == "3 rows of cells.h5ad"


def test_one_seed_has_no_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    spanned = importlib.import_module("embeddings").spanned
    assert spanned([0.51], 3) == "0.510 (-)" and spanned([1.0, 3.0, 2.0], 1) == "2.0 (1.0 to 3.0)"


def test_arrays_and_cells_are_read_back(run, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata", reason="the extra cells is not installed")
    found = embed(run, run.preview[:3], "both", labels=np.array([1, 0, 2]), names=np.array(["p", "q", "r"], object))
    stored = np.load(save_embedding(found, tmp_path / "z.npz"), allow_pickle=False)
    assert sorted(stored) == ["names", "sample", "std", "y", "z"] and np.array_equal(stored["sample"], found.sample)
    cells = anndata.read_h5ad(save_embedding(found, tmp_path / "z.h5ad", {"run": "here"}))
    assert np.array_equal(cells.obsm["X_vae_std"], found.std) and list(cells.obs_names) == ["p", "q", "r"]
    assert cells.uns["vaelab"]["run"] == "here" and list(cells.obs["label"]) == ["1", "0", "2"]
    with pytest.raises(BadInput, match="holds one array"):
        save_embedding(found, tmp_path / "z.npy")
    alone = save_embedding(embed(run, run.preview[:3]), tmp_path / "z.npy")
    assert np.array_equal(np.load(alone), run.embed(run.preview[:3]))


@pytest.mark.parametrize("distance", ["means", "wasserstein"])
def test_neighbours_are_those_of_brute_force(distance: str) -> None:
    query, among = random_embedding(7), random_embedding(50, seed=1)
    truth = cdist(query.z, among.z) ** 2
    if distance == "wasserstein":  # of normals, in closed form with the matrix root that diagonal covariances have
        truth += np.array([[np.sum(a**2 + b**2 - 2 * np.sqrt(a**2 * b**2)) for b in among.std] for a in query.std])
    found = nearest(query, among, 4, distance)
    assert np.array_equal(found.rows, truth.argsort(1)[:, :4])
    np.testing.assert_allclose(found.distances**2, np.sort(truth, 1)[:, :4], atol=1e-9)


def test_rows_searched_among_themselves_leave_themselves_out() -> None:
    rows = random_embedding(20)
    assert not (nearest(rows, None, 19).rows == np.arange(20)[:, None]).any()
    assert (nearest(rows, rows, 1).rows[:, 0] == np.arange(20)).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"neighbours": 21}, "neighbours: got 21; there are 20 rows"),
        ({"neighbours": 0}, "at least 1"),
        ({"distance": "wasserstien"}, "did you mean wasserstein"),
        ({"among": random_embedding(20, 2)}, "compared within one run"),
    ],
)
def test_what_has_no_neighbours_is_refused(arguments, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        nearest(random_embedding(20), **{"among": random_embedding(20), **arguments})


def test_the_commands_write_what_the_functions_give(run, digits, tmp_path: Path, capsys) -> None:
    table = tmp_path / "rows.csv"
    pd.DataFrame(run.preview, columns=run.spec.columns).to_csv(table, index=False)
    assert call(["embed", run.folder, table, "--to", tmp_path / "z.parquet", "--what", "both"], capsys)[0] == 0
    assert len(pd.read_parquet(tmp_path / "z.parquet")) == len(run.preview)
    assert call(["nearest", run.folder, table, table, "--to", tmp_path / "n.csv", "--neighbours", 2], capsys)[0] == 0
    found = pd.read_csv(tmp_path / "n.csv")
    truth = nearest(embed(run, run.preview), None, 2)
    assert np.array_equal(found["row"], truth.rows.ravel()) and np.allclose(found.distance, truth.distances.ravel())
    assert call(["nearest", digits.folder, "--count", 3, "--to", tmp_path / "n.png"], capsys)[0] == 0
    assert Image.open(tmp_path / "n.png").size == (6 * 48 + 5 * 2, 3 * 48 + 2 * 2)


def test_parquet_tables_are_read_as_csv_ones(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "a": [1.5, None, 3.0],
            "b": pd.to_datetime(["2020-01-01", "2021-01-01", "2022-01-01"]),
            "c": [True, False, None],
            "d": ["x", "y", "x"],
        },
        index=["first", "second", "third"],
    )
    frame.to_parquet(tmp_path / "rows.parquet")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    ours, theirs = load(tmp_path / "rows.parquet"), load(tmp_path / "rows.csv")
    assert ours.columns == theirs.columns and ours.train.tolist() == theirs.train.tolist()
    assert [f.code for f in ours.findings] == [f.code for f in theirs.findings]
    assert list(ours.names) == list(load(frame).names) == ["first", "second", "third"]
    assert load(frame.reset_index(drop=True)).names is None


def test_names_stay_with_their_rows_where_an_empty_row_is_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, None, 3.0], "b": [4.0, None, 6.0]}, index=["p", "q", "r"])
    frame.to_parquet(tmp_path / "rows.parquet")
    assert list(load(tmp_path / "rows.parquet").names) == ["p", "r"]


def test_what_is_no_readable_parquet_is_refused_in_one_line(run, tmp_path: Path, capsys, monkeypatch) -> None:
    write = lambda name, table: pq.write_table(table, tmp_path / f"{name}.parquet")  # noqa: E731
    whole = load_digits().data
    write("whole", pa.table({f"c{k}": column for k, column in enumerate(whole.T)}))
    data = (tmp_path / "whole.parquet").read_bytes()
    for name, content in (("text", b"a,b\n1,2\n"), ("empty", b""), ("cut", data[: len(data) // 2])):
        (tmp_path / f"{name}.parquet").write_bytes(content)
    write("lists", pa.table({"a": [[1, 2], [3]]}))
    write("bytes", pa.table({"a": [b"x", b"y"]}))
    write("none", pa.table({"a": pa.array([], pa.float64())}))
    write("other", pa.table({"a": [1.0, 2.0]}))
    write("long", pa.table({"a": ["x" * 10_000] * 40_000}))  # a small file of repeats
    monkeypatch.setattr("vaelab.core.parquet_files.MOST_CELLS", 100_000)
    said = {
        "text": "no Parquet file",
        "empty": "an empty file",
        "cut": "damaged",
        "lists": "list<",
        "bytes": "binary",
        "none": "0 rows",
        "other": "13",
        "long": "10000 characters",
        "whole": "at most 100000 cells",
    }
    for name, words in said.items():
        target = tmp_path / "z.csv"
        status, line = call(["embed", run.folder, tmp_path / f"{name}.parquet", "--to", target], capsys)
        assert status == 2 and words in line and len(line.strip().splitlines()) == 1, line
        assert not target.exists()


def test_pandas_notes_of_a_stranger_are_not_believed(tmp_path: Path) -> None:
    table = pa.table({"a": [1.0, 2.0]})
    for noted in (b"[", b"[]", json.dumps({"index_columns": [{"kind": "x"}, "b", 3]}).encode(), b"{" * 9000):
        pq.write_table(table.replace_schema_metadata({b"pandas": noted}), tmp_path / "rows.parquet")
        assert load(tmp_path / "rows.parquet").columns == ("a",)
