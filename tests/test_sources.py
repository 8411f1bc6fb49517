"""Everything a person may call data: what it becomes, and what is refused, in one line that names file and place."""

from __future__ import annotations

import gzip
import struct
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reading import codes, load_refused
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from vaelab.core.errors import BadInput
from vaelab.data import builtin, source, torchsets
from vaelab.data.source import fingerprint, load, split

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(6, 3)).astype(np.float32)
BYTES = RANDOM.integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------------- arrays
@pytest.mark.parametrize(
    ("x", "shape", "dtype", "axes", "top"),
    [
        (TABLE, (6, 3), "float32", "", None),
        (TABLE.astype(">f8"), (6, 3), "float32", "", None),
        (np.asfortranarray(TABLE), (6, 3), "float32", "", None),
        (TABLE.astype(np.float16), (6, 3), "float32", "", None),
        (TABLE > 0, (6, 3), "uint8", "", None),
        (TABLE.astype(np.int16), (6, 3), "int64", "", None),
        (BYTES[..., 0], (5, 1, 4, 6), "uint8", "HW", 255),
        (BYTES, (5, 3, 4, 6), "uint8", "HWC", 255),
        (BYTES[..., :1], (5, 1, 4, 6), "uint8", "HWC", 255),
        (BYTES.transpose(0, 3, 1, 2), (5, 3, 4, 6), "uint8", "CHW", 255),
        (BYTES.astype(np.uint16), (5, 3, 4, 6), "int64", "HWC", None),
    ],
)
@pytest.mark.parametrize("wrap", [np.asarray, lambda x: torch.from_numpy(x.astype(x.dtype.newbyteorder("=")))])
def test_arrays_and_tensors(x: np.ndarray, shape: tuple, dtype: str, axes: str, top: float, wrap: Callable) -> None:
    found = load(wrap(x))
    assert tuple(found.train.shape) == shape
    assert str(found.train.dtype).endswith(dtype)
    assert (found.axes, found.top, found.layout) == (axes, top, "image" if axes else "table")
    rows = np.asarray(found.train)
    rows = np.moveaxis(rows, 1, 3) if axes == "HWC" else rows
    np.testing.assert_allclose(rows.reshape(x.shape), x, rtol=1e-6)


def test_bfloat16_and_gradients() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16, requires_grad=True)
    found = load(x)
    assert isinstance(found.train, torch.Tensor)
    assert torch.equal(found.train, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize(
    ("x", "parts"),
    [
        (np.array([[None], [{}]]), ("Python objects", "plain numbers")),
        (np.array([["a"], ["b"]]), ("plain numbers",)),
        (TABLE.astype(complex), ("complex", "plain numbers")),
        (np.zeros(3, [("a", "f4")]), ("plain numbers",)),
        (np.array(1.0), ("shape ()", "must be rows")),
        (np.arange(5.0), ("shape (5,)", "reshape(-1, 1)")),
        (np.zeros((0, 3)), ("shape (0, 3)", "at least one row")),
        (np.zeros((3, 0)), ("shape (3, 0)", "at least one row and one entry")),
        (np.zeros((1, 3)), ("one row", "at least two")),
        (np.zeros((5, 4, 4, 4)), ("1 or 3 channels", "alpha")),
        (np.zeros((5, 8, 8, 2)), ("1 or 3 channels", "reshape")),
        (np.zeros((2, 3, 4, 5, 6)), ("1 or 3 channels",)),
        (np.array([[1.0, 1e300], [2, 3]]), ("1e+300 in row 0 (counting from 0), column column_2", "float32")),
        (np.array([[1], [2**63]], np.uint64), ("9223372036854775808 in row 1", "int64")),
        (scipy.sparse.eye(3).tocsr(), ("sparse", "toarray")),
        (torch.eye(3).to_sparse(), ("sparse", "to_dense")),
        (torch.zeros(3, 3, dtype=torch.complex64), ("complex",)),
        ([[1.0, 2.0]], ("data: got a list", "numpy.asarray")),
        ((TABLE, [1, 2]), ("labels of shape (2,) for 6 rows",)),
        ((TABLE, TABLE), ("one label a row",)),
    ],
)
def test_arrays_that_are_refused(x: object, parts: tuple[str, ...]) -> None:
    load_refused(x, *parts)


def test_masked_and_large_whole_numbers_are_told() -> None:
    masked = load(np.ma.masked_array(TABLE, TABLE > 1))
    assert "DA109" in codes(masked)
    np.testing.assert_array_equal(np.isnan(masked.train), TABLE > 1)
    assert "DA108" in codes(load(np.array([[1], [2**53 + 1]])))
    assert not codes(load(np.array([[1], [2**24]])))


@pytest.mark.parametrize(
    ("y", "expected", "names", "told"),
    [
        ([3, 1, 3, 1, 0, 0], [3, 1, 3, 1, 0, 0], (), set()),
        (np.array([[1.0], [2], [1], [2], [1], [2]]), [1, 2, 1, 2, 1, 2], (), set()),
        (torch.tensor([0, 1, 0, 1, 0, 1]), [0, 1, 0, 1, 0, 1], (), set()),
        (list("bacabc"), [1, 0, 2, 0, 1, 2], ("a", "b", "c"), set()),
        (np.array([b"x", b"\xff"] * 3), [0, 1] * 3, ("x", "�"), set()),
        ([0.5, 1, 2, 3, 4, 5], None, (), {"DA111"}),
        (np.array([None, {}] * 3), None, (), {"DA111"}),
    ],
)
def test_labels(y: object, expected: list[int] | None, names: tuple[str, ...], told: set[str]) -> None:
    found = load((TABLE, y))
    assert (None if found.train_labels is None else found.train_labels.tolist()) == expected
    assert found.label_names == names
    assert codes(found) == told


# ---------------------------------------------------------------------------------------------------------- npy and npz
def test_npz_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x_train=BYTES, y_train=list("ababa"), x_test=BYTES[:2], y_test=list("ca"))
    found = load(str(path))
    assert found.test is not None
    assert (len(found.train), found.test.shape) == (5, (2, 3, 4, 6))
    assert found.train_labels is not None
    assert found.test_labels is not None
    assert (found.train_labels.tolist(), found.test_labels.tolist()) == ([0, 1, 0, 1, 0], [2, 0])
    assert (found.name, found.label_names) == (str(path), ("a", "b", "c"))
    picked = load(path, key="x_test")
    assert (len(picked.train), picked.test, picked.train_labels) == (2, None, None)
    load_refused(path, "key", "no such name", "did you mean x_train?", key="x_trian")


@pytest.mark.parametrize("name", ["x", "X", "data", "anything"])
def test_npz_with_one_array_of_rows(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "a.npz", **{name: TABLE})
    np.testing.assert_array_equal(load(tmp_path / "a.npz").train, TABLE)


def test_npz_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, left=TABLE, right=TABLE)
    load_refused(path, "a.npz", "left, right", "data.key=NAME")
    np.savez(path, x_train=TABLE, x_test=TABLE[:, :2])
    load_refused(path, "test rows", "(2,) float32", "(3,)")
    np.savez(path, x=TABLE, y=np.arange(4))
    load_refused(path, "a.npz", "labels of shape (4,)")


@pytest.mark.parametrize("dtype", ["float64", ">f4", "uint8"])
@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 5), (6, 4, 5, 3)])
def test_npy_stays_mapped_in_its_own_dtype(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    rows = RANDOM.integers(0, 99, shape).astype(dtype)
    np.save(tmp_path / "a.npy", rows)
    found = load(tmp_path / "a.npy")
    assert isinstance(found.train, np.memmap)
    assert found.train.dtype == rows.dtype
    moved = np.moveaxis(found.train, 1, -1) if found.axes == "HWC" else found.train
    np.testing.assert_array_equal(moved.reshape(shape), rows)


# ------------------------------------------------------------------------------------------------------- PyTorch's sets
class Items(Dataset):
    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[np.ndarray]:
        yield from TABLE


class NoLength(Dataset):
    def __getitem__(self, index: int) -> np.ndarray:
        return TABLE[index]


LABELS = [0, 1, 2, 0, 1, 2]
TENSORS = TensorDataset(torch.from_numpy(TABLE), torch.tensor(LABELS))


@pytest.mark.parametrize(
    ("dataset", "labelled"),
    [
        (TENSORS, True),
        (TensorDataset(torch.from_numpy(TABLE)), False),
        (DataLoader(TENSORS, batch_size=4, shuffle=True), True),
        (Items(list(zip(TABLE, LABELS, strict=True))), True),
        (Items([(torch.from_numpy(x), torch.tensor(y)) for x, y in zip(TABLE, LABELS, strict=True)]), True),
        (Items([{"image": x, "label": y} for x, y in zip(TABLE, LABELS, strict=True)]), True),
        (Items([{"pixel_values": x} for x in TABLE]), False),
        (Items([(x, {"boxes": []}) for x in TABLE]), False),
        (Items([(x,) for x in TABLE]), False),
        (Items(list(TABLE)), False),
        (Stream(), False),
        (DataLoader(Stream(), batch_size=4), False),
    ],
)
def test_datasets_and_loaders(dataset: object, labelled: bool) -> None:
    found = load(dataset)
    np.testing.assert_array_equal(np.asarray(found.train), TABLE)
    assert (None if found.train_labels is None else found.train_labels.tolist()) == (LABELS if labelled else None)
    inner = dataset.dataset if isinstance(dataset, DataLoader) else dataset
    assert ("DA110" in codes(found)) == (not isinstance(inner, TensorDataset))


def test_items_may_be_pictures() -> None:
    found = load(Items([(Image.fromarray(row), index) for index, row in enumerate(BYTES)]))
    assert (found.layout, found.axes, found.top) == ("image", "HWC", 255)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(found.train), 1, 3), BYTES)


@pytest.mark.parametrize(
    ("dataset", "part"),
    [
        (Items([]), "no items"),
        (Items([TABLE[0], TABLE[0, :2]]), "items 0 and 1 of shapes (3,) and (2,)"),
        (Items([{"text": 1}]), "items with text"),
        (Items([1.0, 2.0]), "must be rows"),
        (NoLength(), "without a length"),
    ],
)
def test_datasets_that_are_refused(dataset: object, part: str) -> None:
    load_refused(dataset, part)


def test_a_dataset_beyond_memory_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchsets, "LIMIT_BYTES", 40)
    load_refused(Stream(), "Stream", "more than 40 B", ".npy")


# ---------------------------------------------------------------------------------------------------------------- names
def test_digits() -> None:
    found = load("digits")
    assert found.train.shape == (1797, 1, 8, 8)
    assert (found.train.dtype, found.top, found.train.max()) == (np.float32, 16, 16)
    assert found.test is None
    assert found.train_labels is not None
    assert np.bincount(found.train_labels).min() == 174


# ---------------------------------------------------------------------------------------------------------------- MNIST
@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vaelab"


def no_network(*args: object, **kwargs: object) -> None:
    raise OSError("unreachable")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def test_mnist_from_a_local_copy(shared: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    found = load("mnist", data_dir=str(shared))
    assert found.test is not None
    assert (found.train.shape, found.test.shape, found.top) == ((60000, 1, 28, 28), (10000, 1, 28, 28), 255)
    assert found.train_labels is not None
    assert found.train_labels[:3].tolist() == [5, 0, 4]
    assert not cache.exists()


def test_mnist_is_downloaded_checked_and_kept(shared: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(shared / "mnist.npz") as arrays:
        served = {f"{file}.gz": gzip.compress(idx(arrays[name]), 1) for name, file in builtin.IDX_FILES.items()}
    asked: list[str] = []

    def serve(url: str, timeout: float) -> BytesIO:
        asked.append(url)
        if url.startswith(builtin.MIRRORS[0]):
            raise OSError("the first mirror is down")
        return BytesIO(served[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    first = load("mnist")
    assert len(asked) == 8
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    again = load("mnist")
    assert fingerprint(first.train) == fingerprint(again.train)
    for file in cache.iterdir():  # the four files without gzip do as well
        (shared_copy := cache.parent / "plain").mkdir(exist_ok=True)
        (shared_copy / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    assert fingerprint(load("mnist", data_dir=str(cache.parent / "plain")).train) == fingerprint(first.train)
    files = sorted(cache.iterdir())
    files[0].write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12))
    load_refused("mnist", files[0].name, "is not a whole IDX file")


def test_mnist_without_network_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    load_refused("mnist", "cannot be downloaded (unreachable)", "mnist.npz", "--data-dir")
    assert list(cache.iterdir()) == []


def test_other_data_under_mnists_name_are_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"x_train": BYTES, "y_train": BYTES, "x_test": BYTES, "y_test": BYTES}
    np.savez(tmp_path / "mnist.npz", **other)
    load_refused("mnist", "other entries in x_train", "is not the original", data_dir=str(tmp_path))
    np.savez(tmp_path / "mnist.npz", x_train=BYTES)
    load_refused("mnist", "no y_train, x_test, y_test", data_dir=str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: BytesIO(idx(BYTES)))
    load_refused("mnist", "other entries in x_train")
    assert list(cache.iterdir()) == []  # what failed the check is not kept


# ------------------------------------------------------------------------------------------------ split and fingerprint
@settings(max_examples=100, deadline=None)
@given(st.integers(2, 500), st.floats(1e-6, 1 - 1e-6), st.integers(0, 2**40))
def test_splits_are_seeded_partitions(n: int, share: float, seed: int) -> None:
    train, held_out = split(n, share, seed)
    assert sorted([*train, *held_out]) == list(range(n))
    assert min(len(train), len(held_out)) >= 1
    assert abs(len(held_out) - n * share) <= 1
    assert np.array_equal(train, np.sort(train))
    assert np.array_equal(held_out, np.sort(held_out))
    assert np.array_equal(held_out, split(n, share, seed)[1])


def test_splits_differ_between_seeds_and_need_two_rows() -> None:
    assert not np.array_equal(split(100, 0.5, 0)[0], split(100, 0.5, 1)[0])
    with pytest.raises(BadInput, match="at least two"):
        split(1, 0.5, 0)


def test_fingerprints_tell_contents_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", TABLE)
    same = [TABLE, torch.from_numpy(TABLE), TABLE.astype(">f4"), np.load(tmp_path / "a.npy", mmap_mode="r")]
    assert len({fingerprint(rows) for rows in same}) == 1
    altered = TABLE.copy()
    altered[3, 1] += 1e-6
    other = [TABLE, altered, TABLE.astype(np.float64), TABLE.reshape(3, 6), TABLE[::-1]]
    assert len({fingerprint(rows) for rows in other}) == len(other)
    monkeypatch.setattr(source, "FINGERPRINT_BYTES", 10)
    monkeypatch.setattr(source, "FINGERPRINT_ROWS", 2)
    assert fingerprint(altered) == fingerprint(TABLE)  # of large data, only evenly spaced rows are read ...
    altered[-1, 0] += 1
    assert fingerprint(altered) != fingerprint(TABLE)  # ... with the first and the last


def test_digits_are_those_of_scikit_learn() -> None:
    own, theirs = builtin.digits(None), load_digits()
    assert np.array_equal(own.x, theirs.images) and np.array_equal(own.y, theirs.target)
    assert own.y.dtype.kind == "i" and own.top == theirs.images.max()
