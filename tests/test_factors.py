"""Known factors of data: the pictures drawn from them, and files that bring their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reading import load_refused

from vaelab.data.factors import FACTOR_NAMES, RADII, SHAPES, shapes
from vaelab.data.source import load

PARTS = shapes(None)
GRID = PARTS.x.reshape(3, 4, 8, 8, 8, 32, 32).astype(int)  # shape, scale, rotation, x, y, then the picture
# Areas for radius 1: half a disc; an upright bar and the rest of its foot; half of base times height.
AREAS = (np.pi * 0.91**2 / 2, 0.44 * 1.7 + 0.6 * 0.44, 1.2 * 1.8 / 2)
ROWS = np.arange(12.0).reshape(6, 2)
FACTORS = np.array([[0, 3], [1, 3], [2, 3], [0, 4], [1, 4], [2, 4]])


# --------------------------------------------------------------------------------------------------------- the pictures
def test_every_combination_is_there_once_and_is_another_picture() -> None:
    assert PARTS.factors.tolist() == sorted(map(list, np.ndindex(3, 4, 8, 8, 8)))
    assert len(np.unique(PARTS.x.reshape(len(PARTS.x), -1), axis=0)) == len(PARTS.x) == 6144
    np.testing.assert_array_equal(shapes(None).x, PARTS.x)


def test_nothing_is_cut_off() -> None:
    assert GRID[..., [0, -1], :].max() == GRID[..., [0, -1]].max() == 0
    assert GRID.max() == 255


@pytest.mark.parametrize("shape", range(3))
@pytest.mark.parametrize("scale", range(4))
def test_brightness_is_area(shape: int, scale: int) -> None:
    area = GRID[shape, scale].sum((-1, -2)) / 255
    np.testing.assert_allclose(area, AREAS[shape] * RADII[scale] ** 2, rtol=0.06)


def test_positions_move_the_picture_right_and_down() -> None:
    for axis, along in ((3, -1), (4, -2)):
        first, second = (GRID.take(range(*ends), axis) for ends in ((0, 7), (1, 8)))
        np.testing.assert_array_equal(np.roll(first, 2, along), second)


def test_rotations_turn_it_against_the_clock() -> None:
    middle = GRID[:, :, :, 3, 3, 7:23, 7:23]  # around the position
    turned = np.rot90(middle, axes=(-2, -1))
    assert np.abs(turned - np.roll(middle, -2, axis=2)).max() <= 1


def test_the_source_carries_factors_names_and_labels() -> None:
    found = load("shapes")
    assert found.factors is not None and found.train_labels is not None
    assert (found.factor_names, found.label_names, found.top) == (FACTOR_NAMES, SHAPES, 255)
    np.testing.assert_array_equal(found.factors, PARTS.factors)
    np.testing.assert_array_equal(found.train_labels, found.factors[:, 0])
    assert found.factors_test is None and found.factors.dtype == np.int64


# ------------------------------------------------------------------------------------------------------------ own files
def saved(folder: Path, **arrays: object) -> str:
    np.savez(folder / "d.npz", **arrays)  # type: ignore[arg-type]
    return str(folder / "d.npz")


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, bool])
def test_a_file_brings_factors(tmp_path: Path, kind: type) -> None:
    found = load(saved(tmp_path, x=ROWS, factors=FACTORS.astype(kind), y=FACTORS[:, 0]))
    assert found.factors is not None and found.factors.dtype == np.int64
    np.testing.assert_array_equal(found.factors, FACTORS.astype(kind))
    assert found.factor_names == ("factor_1", "factor_2")
    np.testing.assert_array_equal(found.train_labels, FACTORS[:, 0])


def test_a_file_brings_factors_of_both_splits_and_names(tmp_path: Path) -> None:
    arrays = {"x_train": ROWS[:4], "factors": FACTORS[:4], "factors_test": FACTORS[4:], "factor_names": ["a", "b"]}
    found = load(saved(tmp_path, **arrays, x_test=ROWS[4:]))
    assert found.factors is not None and found.factors_test is not None
    np.testing.assert_array_equal(found.factors, FACTORS[:4])
    np.testing.assert_array_equal(found.factors_test, FACTORS[4:])
    assert found.factor_names == ("a", "b")
    assert load(saved(tmp_path, **arrays)).factors_test is None  # without held-out rows they belong to nothing
    assert load(saved(tmp_path, **arrays), key="x_train").factors is None


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"factors": FACTORS[:5]}, ("d.npz: factors: got shape (5, 2)", "must be (6, F)")),
        ({"factors": FACTORS[:, 0]}, ("factors: got shape (6,)", "must be (6, F)", "factors[:, None]")),
        ({"factors": FACTORS + 0.5}, ("factors: got dtype float64", "whole numbers", "np.unique")),
        ({"factors": FACTORS * np.nan}, ("factors: got dtype float64", "whole numbers")),
        ({"factors": FACTORS * 2**30}, ("factors:", "below 16777216")),
        ({"factors": FACTORS.astype(str)}, ("factors: got dtype <U21", "whole numbers")),
        ({"factors": FACTORS, "factor_names": ["a"]}, ("factor_names: got a for 2 columns", "one text a column")),
        ({"factors": FACTORS, "factor_names": ["a", "a"]}, ("factor_names: got a, a", "all different")),
        ({"factors": FACTORS, "factor_names": [1, 2]}, ("factor_names: got 1, 2", "one text a column")),
        ({"x_train": ROWS, "x_test": ROWS[:3], "factors": FACTORS, "factors_test": FACTORS[:2]}, ("(3, 2)",)),
        ({"x_train": ROWS, "x_test": ROWS[:2], "factors": FACTORS, "factors_test": FACTORS[:2, :1]}, ("(2, 2)",)),
    ],
)
def test_factors_that_are_refused(tmp_path: Path, arrays: dict[str, object], parts: tuple[str, ...]) -> None:
    load_refused(saved(tmp_path, **({"x": ROWS} | arrays if "x_train" not in arrays else arrays)), *parts)
