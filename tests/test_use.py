"""Pictures, paths through latent space, and the files of the use-commands, against formulas written out by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_run import LinearRun, digits_run, wine_run
from PIL import Image
from scipy.stats import norm
from sklearn.datasets import load_digits

import vaelab
from vaelab.core.errors import BadInput
from vaelab.measure.paths import axis_walk, latent_path, quantile_grid
from vaelab.measure.pictures import GAP, channels_first, image_grid, value_range
from vaelab.training.run import Run
from vaelab.use.files import save_rows


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_image_at_its_place(channels: int) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (5, channels, 50, 60)).astype(np.float32)
    grid = np.asarray(image_grid(rows, columns=3, top=255))
    assert grid.shape == (2 * 50 + GAP, 3 * 60 + 2 * GAP, channels + 1)
    for place, row in enumerate(rows):
        top, left = (place // 3) * (50 + GAP), (place % 3) * (60 + GAP)
        tile = grid[top : top + 50, left : left + 60]
        assert np.array_equal(tile[..., :channels], row.transpose(1, 2, 0))
        assert (tile[..., channels] == 255).all()
    assert (grid[50:52, :, channels] == 0).all()
    assert (grid[52:, 2 * 62 :, channels] == 0).all()  # the sixth place is empty


def test_small_images_are_enlarged_by_whole_pixels() -> None:
    image = np.random.default_rng(0).random((1, 1, 8, 8))
    grid = np.asarray(image_grid(image, top=1.0))[..., 0]
    assert grid.shape == (48, 48)
    assert np.array_equal(grid, np.kron(np.rint(255 * image[0, 0]), np.ones((6, 6))))


def test_gray_levels_follow_the_range_and_survive_what_is_not_finite() -> None:
    image = np.array([-1.0, 0.0, 2.0, 4.0, 9.0, np.nan, np.inf, -np.inf, 1.0]).reshape(1, 1, 3, 3)
    levels = np.asarray(image_grid(image, top=4.0))[8::16, 8::16, 0].ravel()
    assert levels.tolist() == [0, 0, 128, 255, 255, 0, 0, 0, 64]
    assert value_range(image) == (-1.0, 9.0)
    assert value_range(np.full(3, np.nan)) == (0.0, 1.0)
    assert np.asarray(image_grid(np.ones((2, 1, 64, 64)))).max() == 255  # no width: black, and nothing is divided by 0


@pytest.mark.parametrize(("axes", "shape"), [("HW", (7, 5)), ("HWC", (7, 5, 3)), ("CHW", (3, 7, 5))])
def test_images_of_every_layout_come_channels_first(axes: str, shape: tuple[int, ...]) -> None:
    rows = np.random.default_rng(0).random((2, 4, *shape))
    found = channels_first(rows, axes)
    assert found.shape == (2, 4, 1 if axes == "HW" else 3, 7, 5)
    pixel = {"HW": (6, 4), "HWC": (6, 4, 0), "CHW": (0, 6, 4)}[axes]
    assert found[1, 2, 0, 6, 4] == rows[(1, 2, *pixel)]


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_paths_begin_and_end_at_the_codes(path: str) -> None:
    start, end = np.random.default_rng(0).standard_normal((2, 9))
    codes = latent_path(start, end, 7, path)
    assert np.allclose(codes[[0, -1]], [start, end])
    assert np.allclose(latent_path(end, start, 7, path), codes[::-1])


def test_a_spherical_path_turns_evenly_and_changes_its_length_evenly() -> None:
    start, end = 2 * np.array([np.cos(0.3), np.sin(0.3)]), 5 * np.array([np.cos(1.9), np.sin(1.9)])
    codes = latent_path(start, end, 5, "spherical")
    assert np.allclose(np.arctan2(codes[:, 1], codes[:, 0]), np.linspace(0.3, 1.9, 5))
    assert np.allclose(np.linalg.norm(codes, axis=1), np.linspace(2, 5, 5))


def test_paths_between_codes_of_one_direction_agree() -> None:
    start = np.array([1.0, -2.0, 0.5])
    assert np.allclose(latent_path(start, 3 * start, 6, "spherical"), latent_path(start, 3 * start, 6))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 1}, "steps: got 1; a path has at least 2 steps"),
        ({"path": "sperical"}, "did you mean spherical"),
        ({"path": "spherical", "end": np.array([-2.0, 0.0])}, "opposite or zero codes"),
        ({"path": "spherical", "end": np.zeros(2)}, "opposite or zero codes"),
    ],
)
def test_paths_refuse_what_they_cannot_walk(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        latent_path(**({"start": np.array([1.0, 0.0]), "end": np.array([0.0, 1.0]), "steps": 3} | arguments))


def test_a_quantile_grid_covers_cells_of_equal_probability() -> None:
    shares = norm.cdf(quantile_grid(4)).reshape(4, 4, 2)
    levels = (np.arange(4) + 0.5) / 4
    assert np.allclose(shares[..., 0], levels)  # to the right
    assert np.allclose(shares[..., 1], levels[::-1, None])  # upwards


def test_a_walk_changes_one_dimension_at_a_time() -> None:
    base = np.array([0.5, -1.0, 2.0])
    codes = axis_walk(base, [2, 0], 5, 3.0)
    assert np.array_equal(codes[0, :, 2], [-3, -1.5, 0, 1.5, 3])
    assert np.array_equal(codes[0, :, :2], np.tile(base[:2], (5, 1)))
    assert np.array_equal(codes[1, :, 1:], np.tile(base[1:], (5, 1)))


def test_a_walk_is_around_the_prior_and_in_its_deviations() -> None:
    codes = axis_walk(np.zeros(3), [1, 2], 3, 2.0, np.array([9.0, 1.0, -1.0]), np.array([9.0, 0.5, 3.0]))
    assert codes[0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 2, 0]]
    assert codes[1].tolist() == [[0, 0, -7], [0, 0, -1], [0, 0, 5]]


def test_a_traversal_of_a_linear_model_moves_along_its_columns(tmp_path: Path) -> None:
    run = wine_run(tmp_path)
    around, origin = Run.traverse(run, run.preview[0], [2], 3, 1.5), Run.traverse(run, steps=3, span=1.5)
    assert around.shape == (1, 3, 13)
    assert origin.shape == (3, 3, 13)
    move = 1.5 * run.weights * run.unit[:, None]
    assert np.allclose(around[0, 2] - around[0, 0], 2 * move[:, 1])
    assert np.allclose(origin[:, 2] - run.mean, move.T)
    assert np.allclose(origin[:, 1], run.mean)
    fixed = run.embed(run.preview[:1])[0] * [1, 0, 1]
    assert np.allclose(around[0, 1], run.decode(fixed[None])[0])


@pytest.mark.parametrize("dimension", [0, 4, -1])
def test_a_traversal_refuses_a_dimension_the_model_has_not(tmp_path: Path, dimension: int) -> None:
    with pytest.raises(BadInput, match=rf"dimension: got {dimension}; the model has the latent dimensions 1 to 3"):
        Run.traverse(wine_run(tmp_path), None, [1, dimension])


@pytest.mark.parametrize("make", [digits_run, wine_run])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".NPY"])
def test_arrays_are_read_back_as_they_were(tmp_path: Path, make: Any, suffix: str) -> None:
    run = make(tmp_path)
    rows = Run.traverse(run, steps=4)
    path = save_rows(run, rows, tmp_path / f"rows{suffix}")
    read = np.load(path, allow_pickle=False)
    assert np.array_equal(read["x"] if suffix == ".npz" else read, rows)


def test_a_table_is_read_back_to_the_last_digit(tmp_path: Path) -> None:
    run = wine_run(tmp_path)
    run.spec.columns = ('quoted "name"', "comma, name", *run.spec.columns[2:])
    rows = run.sample(20).astype(np.float32)
    with open(save_rows(run, rows, tmp_path / "rows.csv"), newline="") as handle:
        header, *lines = csv.reader(handle)
    assert tuple(header) == run.spec.columns
    assert np.array_equal(np.array(lines, np.float32), rows)
    assert len(lines[0][0]) < 12  # the shortest digits that read back, not those of a float64


def test_a_picture_has_a_line_for_each_walk(tmp_path: Path) -> None:
    run = digits_run(tmp_path)
    walks = Run.traverse(run, steps=5)
    image = np.asarray(Image.open(save_rows(run, walks, tmp_path / "walks.png")))
    assert image.shape == (2 * 48 + GAP, 5 * 48 + 4 * GAP, 2)
    expected = np.rint(255 * np.clip(walks[1, 2] / 16, 0, 1))
    assert np.array_equal(image[50:98:6, 100:148:6, 0], expected)
    square = Image.open(save_rows(run, run.sample(16), tmp_path / "square.png"))
    assert square.width == square.height


@pytest.mark.parametrize(
    ("make", "file", "words"),
    [
        (digits_run, "rows.csv", r"end it in \.png, \.npy, \.npz"),
        (wine_run, "rows.png", r"end it in \.csv, \.parquet, \.npy, \.npz"),
        (wine_run, "rows", "the name's ending chooses the format"),
        (wine_run, "folder.npy", "is a folder; name a file in it"),
        (wine_run, "nowhere/rows.npy", "there is no folder"),
    ],
)
def test_a_file_that_cannot_be_is_refused_and_nothing_is_left(tmp_path: Path, make: Any, file: str, words: str) -> None:
    run: LinearRun = make(tmp_path)
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(BadInput, match=words):
        save_rows(run, run.sample(4), tmp_path / file)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.npy"]


def test_only_the_named_file_is_replaced(tmp_path: Path) -> None:
    run = wine_run(tmp_path)
    (tmp_path / "rows.npy").write_text("old")
    (tmp_path / "other.npy").write_text("kept")
    save_rows(run, run.sample(3), tmp_path / "rows.npy")
    assert np.load(tmp_path / "rows.npy").shape == (3, 13)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.npy", "rows.npy"]


def test_a_memory_map_of_many_rows_is_embedded_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beyond a piece get the codes they get alone, and no more than a piece is turned at once."""
    rows = np.random.default_rng(0).integers(0, 17, (2500, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    config = {"train": {"steps": 5}, "data": {"condition": "labels"}, "report": {"html": False}}
    digits = load_digits()
    run = vaelab.train((digits.images, digits.target), config=config, out=tmp_path / "run", progress=False)
    seen: list[int] = []
    real = type(run.spec).to_model
    monkeypatch.setattr(
        type(run.spec), "to_model", lambda self, x, first=0: seen.append(len(x)) or real(self, x, first)
    )
    labels = np.arange(2500) % 10
    codes = run.embed(mapped, condition=labels)
    assert max(seen) == 1024 and sum(seen) == 2500
    for row in (0, 1023, 1024, 2499):
        assert np.allclose(run.embed(rows[row : row + 1], condition=labels[row]), codes[row], atol=1e-5)
