"""Folders of images: all of one size, and one level of sub-folders names the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.errors import BadInput, one_line
from ..core.finding import Finding
from ..core.image_files import IMAGE_SUFFIXES, read_image
from ..core.units import readable_bytes
from .arrays import Parts

FOLDER_BYTES = 4 << 30


def from_folder(folder: Path) -> Parts:
    """Every image of a folder in order of names, uint8 [N, H, W, C]; sub-folders, where there are any, are the labels.

    Raises:
        BadInput: for a folder without images, two sizes, more than `FOLDER_BYTES`, a file that is no whole image, and
            images both beside and inside sub-folders.
    """
    direct, folders = _images(folder), _folders(folder)
    inside = {name: files for name in folders if (files := _images(folder / name))}
    if direct and inside:
        what = f"images both in it and in its folder {next(iter(inside))}"
        raise BadInput(str(folder), what, "sub-folders are classes", "move all images into sub-folders, or none")
    files = direct or [file for group in inside.values() for file in group]
    if not files:
        raise BadInput(str(folder), "a folder without images", f"images end in {', '.join(IMAGE_SUFFIXES)}")
    pixels, animated = _read_all(folder, files)
    labels = np.repeat(np.arange(len(inside)), [len(group) for group in inside.values()]) if inside else None
    names = tuple(one_line(os.fsencode(name).decode("utf-8", "replace")) for name in inside)
    return Parts(pixels, labels, label_names=names, findings=_first_frames(animated))


def _images(folder: Path) -> list[Path]:
    return sorted(folder / name for name in _names(folder) if name.lower().endswith(IMAGE_SUFFIXES))


def _folders(folder: Path) -> list[str]:
    above = {folder.resolve(), *folder.resolve().parents}
    found = [name for name in _names(folder) if (folder / name).is_dir()]
    for name in found:
        if (folder / name).resolve() in above:
            raise BadInput(str(folder / name), "a link to a folder above itself", "would never end", "remove the link")
    return found


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise BadInput(str(folder), None, f"cannot be read ({error.strerror})", "check its rights") from None


def _read_all(folder: Path, files: Sequence[Path]) -> tuple[np.ndarray, list[Path]]:
    pictures: list[np.ndarray] = []
    animated: list[Path] = []
    for file in files:
        pixels, frames = read_image(file)
        animated += [file] if frames > 1 else []
        if (need := pixels.nbytes * len(files)) > FOLDER_BYTES:
            raise BadInput(str(folder), readable_bytes(need), f"limit {readable_bytes(FOLDER_BYTES)}", "use one .npy")
        if pictures and pixels.shape[:2] != pictures[0].shape[:2]:
            sizes = " and ".join(
                f"{f.name} {p.shape[1]}x{p.shape[0]}" for f, p in ((files[0], pictures[0]), (file, pixels))
            )
            raise BadInput(str(folder), sizes, "images must have one size", "resize or crop them")
        pictures.append(pixels)
    colours = max(pixels.shape[2] for pixels in pictures)
    return np.stack([np.broadcast_to(p, (*p.shape[:2], colours)) for p in pictures]), animated


def _first_frames(animated: Sequence[Path]) -> tuple[Finding, ...]:
    if not animated:
        return ()
    title = f"only the first frame of an animation is read, such as {one_line(animated[0].name)}"
    return (Finding("DA112", "warning", title, len(animated), "files", advice="save the frames as single images"),)
