"""Tables: what a file or a frame becomes, and what is refused, in one line that names file, row or column."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st
from reading import codes, load_refused

from vaelab.data.source import load
from vaelab.data.text_tables import read_table

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(6, 3)).astype(np.float32)
BYTES = RANDOM.integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)


def table(tmp_path: Path, data: str | bytes, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


ROWS = "a,b\n1,2.5\n3,4\n"


@pytest.mark.parametrize(
    ("data", "columns", "rows", "told"),
    [
        (ROWS, "ab", [[1, 2.5], [3, 4]], set()),
        (ROWS.replace(",", "\t"), "ab", [[1, 2.5], [3, 4]], set()),
        (ROWS.replace(",", ";"), "ab", [[1, 2.5], [3, 4]], set()),
        (ROWS.replace(",", "  "), "ab", [[1, 2.5], [3, 4]], set()),
        (ROWS.replace("\n", "\r\n\r\n"), "ab", [[1, 2.5], [3, 4]], set()),
        (ROWS.encode("utf-16"), "ab", [[1, 2.5], [3, 4]], set()),
        (gzip.compress(ROWS.encode(), mtime=0), "ab", [[1, 2.5], [3, 4]], set()),
        ("1,2\n3,4\n", ("column_1", "column_2"), [[1, 2], [3, 4]], {"DA107"}),
        ("1,NA\n3,4\n", ("column_1", "column_2"), [[1, np.nan], [3, 4]], {"DA107"}),
        ("a;b\n1,5;-2,5e1\n3;4\n", "ab", [[1.5, -25], [3, 4]], {"DA105"}),
        ("a,\n1,2\n3,4\n", ("a", "column_2"), [[1, 2], [3, 4]], {"DA106"}),
        ("a,b,\n1,2,\n3,4,\n", "ab", [[1, 2], [3, 4]], {"DA101", "DA106"}),
        ("a,b,c\n1,2,\n3,4,nan\n", "ab", [[1, 2], [3, 4]], {"DA101"}),
        ("a,b\n1,2\n,\n3,4\n", "ab", [[1, 2], [3, 4]], {"DA102"}),
        ("a,b\n1,TRUE\n3,0\n", "ab", [[1, 1], [3, 0]], {"DA103"}),
        ("a,b\n1,1970-01-02\n3,1970-01-01 12:00\n", "ab", [[1, 1], [3, 0.5]], {"DA104"}),
        ("a,b\n1,9007199254740993\n3,4\n", "ab", [[1, 2.0**53], [3, 4]], {"DA108"}),
        ("a,b\n1,1e30\n3,4\n", "ab", [[1, 1e30], [3, 4]], set()),
        ("a\n1\n\n3\n", "a", [[1], [3]], set()),
        ('"x,1","b ""c"""\n1,2\n3,4\n', ("x,1", 'b "c"'), [[1, 2], [3, 4]], set()),
        ("<script>,$\\foo$\n1,2\n3,4\n", ("<script>", "$\\foo$"), [[1, 2], [3, 4]], set()),
    ],
)
def test_tables(tmp_path: Path, data: str, columns: tuple[str, ...], rows: list[list[float]], told: set[str]) -> None:
    found = load(table(tmp_path, data))
    assert found.columns == tuple(columns)
    np.testing.assert_allclose(found.train, rows, rtol=1e-7)
    assert codes(found) == told
    for finding in found.findings:
        assert finding.why


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("", ("an empty file",)),
        ("\n\n", ("no lines but blank ones",)),
        ("a,b\n", ("a header and no rows",)),
        ("a,b\n1,2\n", ("one row", "at least two")),
        ("a,b\n1,2\n3,4,5\n", ("3 cells in row 2 (line 3)", "must be 2")),
        ("a,b\n\n1,2\n3\n", ("1 cells in row 2 (line 4)", "must be 2")),
        ("a,b,a\n1,2,3\n4,5,6\n", ("columns 1 and 3 both called a",)),
        ("a,b\n1,2\n3,x\n", ("'x' in row 2 (line 3), column b", "remove them")),
        ("a,b,c\n1,2,3\nv,4,w\n", ("'v' in row 2 (line 3), column a", "do not: a, c")),
        ("a,b\n1,12_3\n3,4\n", ("'12_3' in row 1",)),
        ("a,b\n1,inf\n3,4\n", ("inf in row 1 (line 2), column b", "finite")),
        ("a,b\n1,2\n3,1e400\n", ("1e400 in row 2 (line 3), column b", "finite")),
        ("a,b\n1,1e300\n3,4\n", ("1e+300 in row 0 (counting from 0), column b", "float32")),
        ("a,b\n,\nNA,\n", ("without a single value",)),
        ('a,b\n1,"2\n3,4\n', ("broken in line", "quotes")),
        ("a,b\n1,\x002\n", ("NUL character in line 2",)),
        (b"a,b\n1,\xe9\n", ("line 2", "not utf-8")),
        (b"PK\x03\x04 xl/workbook.xml", ("zip archive", "export it as CSV")),
        (gzip.compress(ROWS.encode() * 99, mtime=0)[:-9], ("damaged or cut short",)),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, data: str, parts: tuple[str, ...]) -> None:
    path = table(tmp_path, data)
    load_refused(path, str(path), *parts)


@pytest.mark.parametrize("name", ["t.feather", "t", "t.npy.gz"])
def test_unknown_suffixes_list_the_known_ones(tmp_path: Path, name: str) -> None:
    load_refused(table(tmp_path, ROWS, name), name, ".csv")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("nowhere.csv", "no such file"),
        ("digts", "did you mean digits?"),
        ("no\0where.csv", "cannot be read"),
        ("x" * 5000, "no such file"),
        ("x" * 5000 + ".csv", "cannot be read"),
    ],
)
def test_nothing_of_that_name(name: str, part: str) -> None:
    load_refused(name, part)


def test_a_folder_where_a_table_belongs(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    load_refused(tmp_path / "t.csv", "a folder without images")


@settings(max_examples=50, deadline=None)
@given(numpy_st.arrays(np.float64, st.tuples(st.integers(2, 6), st.integers(1, 4)),
                       elements=st.floats(-(2.0**99), 2.0**99, width=32)), st.sampled_from(",;\t "))  # fmt: skip
def test_what_numpy_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray, mark: str) -> None:
    path = tmp_path_factory.mktemp("table") / "t.txt"
    np.savetxt(path, rows, delimiter=mark, fmt="%.17g")
    np.testing.assert_array_equal(read_table(path).rows, rows)


def test_data_frames_follow_the_same_rules() -> None:
    frame = pandas.DataFrame({"a": [1, 2], "b": [True, 0], "c": pandas.to_datetime(["1970-01-02", "1970-01-03"])})
    found = load(frame)
    assert found.columns == ("a", "b", "c")
    assert codes(found) == {"DA103", "DA104"}
    np.testing.assert_allclose(found.train, [[1, 1, 1], [2, 0, 2]])
    np.testing.assert_array_equal(load(frame.assign(b=[None, 5.5])).train[:, 1], [np.nan, 5.5])
    load_refused(frame.assign(d=["x", "5"]), "'x' in row 0", "do not: d")
    assert load(frame.assign(d=["x", "y"])).train.tolist() == [[1.0, 1.0, 1.0, "x"], [2.0, 0.0, 2.0, "y"]]
    load_refused(frame.set_axis(["a", "a", "c"], axis=1), "both called a")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("tables/banknote.csv", (1372, 5)), ("tables/concrete.txt", (1030, 9)), ("adbench/45_wine.npz", (129, 13))],
)
def test_real_tables(shared: Path, name: str, shape: tuple[int, int]) -> None:
    found = load(shared / name)
    assert found.train.shape == shape
    if name.endswith(("csv", "txt")):
        expected = np.loadtxt(shared / name, delimiter="," if name.endswith("csv") else None)
        np.testing.assert_array_equal(found.train, expected.astype(np.float32))
    else:
        assert found.train_labels is not None


def test_a_real_series_has_dates(shared: Path) -> None:
    found = load(shared / "nab" / "nyc_taxi.csv")
    assert codes(found) == {"DA104"}
    assert np.diff(found.train[:, 0]).mean() == pytest.approx(0.5 / 24, rel=1e-3)


def test_reading_leaves_files_alone(tmp_path: Path) -> None:
    path = table(tmp_path, ROWS)
    kept = shutil.copy(path, tmp_path / "kept.csv")
    load(path)
    assert path.read_bytes() == Path(kept).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.csv", "t.csv"]
