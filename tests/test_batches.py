"""Rows are the same whether they are kept as they came, transformed once, or read from a memory map for each batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vaelab.data import batches
from vaelab.data.batches import Rows
from vaelab.data.transforms import Affine

INDEX = torch.tensor([5, 0, 5, 7])
CPU = torch.device("cpu")
TYPES = ("uint8", "int16", "int64", "float32", "float64", "bool")


def some_rows(kind: str) -> np.ndarray:
    """Twelve rows of 2 x 3 entries."""
    return np.random.default_rng(0).integers(0, 256, (12, 2, 3)).astype(kind)


def made(raw: np.ndarray | torch.Tensor, binarize: str = "none") -> Rows:
    """The odd rows, shifted and scaled."""
    transform = Affine(np.arange(6, dtype=np.float32).reshape(2, 3), 255.0)
    index = np.arange(1, len(raw), 2)
    return Rows(raw, index, transform, binarize=binarize, shape=(6,), device=CPU)


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory map is small enough to be kept."""
    monkeypatch.setattr(batches, "MAPPED_BYTES", 0)


@pytest.mark.parametrize("binarize", ["none", "threshold"])
@pytest.mark.parametrize("kind", TYPES)
def test_rows_follow_the_formula(kind: str, binarize: str) -> None:
    raw = np.concatenate([some_rows(kind), some_rows(kind)])
    shifted = (raw[1::2].astype(np.float64) - np.arange(6).reshape(2, 3)) / 255
    expected = shifted[INDEX.numpy()].reshape(len(INDEX), 6)
    expected = (expected >= 0.5).astype(float) if binarize == "threshold" else expected
    for given in (raw, torch.from_numpy(raw)):
        x = made(given, binarize).x(INDEX)
        assert x.dtype == torch.float32
        np.testing.assert_allclose(x.numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_a_memory_map_that_is_not_kept_gives_the_same_bits(tmp_path: Path, nothing_kept: None, kind: str) -> None:
    raw = np.concatenate([some_rows(kind), some_rows(kind)])
    np.save(tmp_path / "rows.npy", raw)
    mapped, kept = made(np.load(tmp_path / "rows.npy", mmap_mode="r")), made(raw)
    assert mapped._resident is None and kept._resident is not None
    assert torch.equal(mapped.x(INDEX), kept.x(INDEX))


def test_bytes_stay_bytes_in_memory() -> None:
    raw = some_rows("uint8").repeat(2, 0)
    assert made(raw)._resident.dtype == torch.uint8
    assert made(raw.astype(np.int64))._resident.dtype == torch.float32
