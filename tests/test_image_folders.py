"""Folders of images: what they become, and what is refused, in one line that names the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reading import load_refused

from vaelab.data import images
from vaelab.data.source import load

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(6, 3)).astype(np.float32)
BYTES = RANDOM.integers(0, 256, (5, 4, 6, 3)).astype(np.uint8)


def picture(path: Path, value: int = 9, size: tuple[int, int] = (5, 4), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path)
    return path


def test_a_folder_of_images_in_order_of_names(tmp_path: Path) -> None:
    for name, value in (("b.png", 2), ("a.PNG", 1), ("c.bmp", 3)):
        picture(tmp_path / name, value)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    found = load(tmp_path)
    assert found.train.shape == (3, 1, 4, 5)
    assert (found.train[:, 0, 0, 0].tolist(), found.top, found.axes) == ([1, 2, 3], 255, "HWC")
    picture(tmp_path / "d.png", 4, mode="RGB")
    assert load(tmp_path).train[:, :, 0, 0].tolist() == [[1] * 3, [2] * 3, [3] * 3, [4] * 3]


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for name, value in (("dog/1.png", 1), ("dog/2.png", 2), ("cat/9.png", 3)):
        picture(tmp_path / name, value)
    (tmp_path / "empty").mkdir()
    found = load(tmp_path)
    assert found.train[:, 0, 0, 0].tolist() == [3, 1, 2]
    assert found.train_labels is not None
    assert (found.train_labels.tolist(), found.label_names) == ([0, 1, 1], ("cat", "dog"))
    picture(tmp_path / "top.png")
    load_refused(tmp_path, "both in it and in its folder cat")


def test_file_names_that_are_not_utf_8(tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / "plain.png").rename(tmp_path / os.fsdecode(b"\xff%d.png" % number))
    assert len(load(tmp_path).train) == 2
    (tmp_path / os.fsdecode(b"\xff0.png")).write_text("no image")
    load_refused(tmp_path, "\\udcff0.png", "is not an image")


def loop(folder: Path) -> None:
    (folder / "again").symlink_to(folder, target_is_directory=True)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda folder: [path.unlink() for path in folder.iterdir()], ("a folder without images", ".png")),
        (lambda folder: (folder / "1.png").unlink(), ("one row", "at least two")),
        (lambda folder: picture(folder / "2.png", size=(7, 7)), ("0.png 5x4 and 2.png 7x7", "one size")),
        (lambda folder: (folder / "2.png").write_text("no image"), ("2.png", "is not an image")),
        (lambda folder: (folder / "2.png").write_bytes((folder / "0.png").read_bytes()[:50]), ("2.png", "decoded")),
        (lambda folder: (folder / "2.png").symlink_to("nowhere"), ("2.png", "a link to nothing")),
        (lambda folder: (folder / "2.png").symlink_to("2.png"), ("2.png", "cannot be read")),
        (loop, ("again", "a link to a folder above itself")),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, spoil: Callable[[Path], object], parts: tuple[str, ...]) -> None:
    folder = tmp_path / "images"
    for number in range(2):
        picture(folder / f"{number}.png")
    spoil(folder)
    load_refused(folder, str(folder), *parts)


def test_animations_are_told_and_sizes_are_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("L", (5, 4), value) for value in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture(tmp_path / "b.png")
    (told,) = load(tmp_path).findings
    assert (told.code, told.measured) == ("DA112", 1)
    assert "a.gif" in told.title
    monkeypatch.setattr(images, "FOLDER_BYTES", 30)
    load_refused(tmp_path, "40 B", "limit 30 B", ".npy")
