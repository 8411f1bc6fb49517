"""Foreign files: what is read is right, what is malformed is refused in one line that names it, and no code runs."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reading import refused

from vaelab.core import array_files, files
from vaelab.core.array_files import read_npy, read_npz
from vaelab.core.errors import BadInput, Corrupt
from vaelab.core.files import check_file, parse_yaml, read_bytes, read_json, read_json_lines, read_text, read_yaml
from vaelab.core.image_files import read_image


class Canary:
    """An object whose unpickling would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


# ---------------------------------------------------------------------------------------------------------------- paths
READERS = [read_yaml, read_json, read_json_lines, read_npy, read_npz, read_image, read_text]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "must be a file"),
        (lambda path: path.touch(), "an empty file"),
        (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
        (lambda path: path.symlink_to(path), "cannot be read"),
        (os.mkfifo, "a device or pipe"),
    ],
)
def test_paths_that_are_no_readable_file(tmp_path: Path, read: Callable, make: Callable, rule: str) -> None:
    path = tmp_path / "given"
    make(path)
    refused(lambda: read(path), str(path), rule)


@pytest.mark.parametrize("name", ["x" * 5000, "nul\0byte"])
def test_names_no_file_can_have(name: str) -> None:
    refused(lambda: check_file(name), "cannot be read")


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "secret.csv"
    path.write_text("a\n1\n")
    monkeypatch.setattr(Path, "open", denied)  # rights bind no superuser, whom tests may run as
    refused(lambda: check_file(path), str(path), "Permission denied")


# ----------------------------------------------------------------------------------------------------------------- YAML
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abz_ é:'\"#-", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(PLAIN)
def test_yaml_round_trip(value: object) -> None:
    assert parse_yaml(json.dumps(value), where="test") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("-2E+4", -2e4), (".5e1", 5.0), ("1.", 1.0), ("bernoulli", "bernoulli"), ("null", None),
        ("[400, 200]", [400, 200]), ("e3", "e3"), ("1e", "1e"), ("true", True), ("a/b:c", "a/b:c"), ("'1e-3'", "1e-3"),
    ],
)  # fmt: skip
def test_yaml_scalars(text: str, value: object) -> None:
    read = parse_yaml(text, where="test")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a: !!python/object/apply:os.system [echo]", "a tag in line 1"),
        ("a: !!binary aGk=", "a tag"),
        ("a: 1\nb: &x [1]\nc: *x", "an alias or anchor in line 2"),
        ("a: *x", "an alias"),
        ("a: 1\na: 2", "key 'a' given twice"),
        ("a: {b: 1, b: 2}", "key 'b' given twice"),
        ("[" * 3000, "nesting deeper"),
        ("a: [1", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("--- 1\n--- 2", "not valid YAML"),
        ("a: \x01", "not valid YAML"),
        ("a: 2020-99-99", "not valid YAML"),
        ("9" * 5000, "not valid YAML"),
        ("#" * (files.YAML_BYTES + 1), "must be at most"),
    ],
)
def test_yaml_refusals(text: str, rule: str) -> None:
    refused(lambda: parse_yaml(text, where="my.key"), "my.key", rule)


@pytest.mark.parametrize(("text", "kind"), [("- 1", "a list"), ("# nothing", "nothing but comments"), ("5", "a int")])
def test_a_config_file_must_be_a_mapping(tmp_path: Path, text: str, kind: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    refused(lambda: read_yaml(path), str(path), kind, "must be a mapping")
    path.write_text("train: {steps: 10}")
    assert read_yaml(path) == {"train": {"steps": 10}}


# ----------------------------------------------------------------------------------------------------------------- JSON
@pytest.mark.parametrize(
    ("text", "values"),
    [('{"a": 1}\n{"a": 2}\n', [1, 2]), ('{"a": 1}\n{"a": 2}', [1, 2]), ('{"a": 1}\n{"a":', [1]), ('{"a"', [])],
)
def test_json_lines_forgive_a_cut_last_line(tmp_path: Path, text: str, values: list[int]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    assert [line["a"] for line in read_json_lines(path)] == values


def test_json_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a":\n{"a": 3}\n')
    with pytest.raises(Corrupt, match="line 2"):
        read_json_lines(path)
    for text in ('{"a": ', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(Corrupt, match=r"metrics\.jsonl: is not valid JSON"):
            read_json(path)
    path.write_text('{"a": [1, null]}')
    assert read_json(path) == {"a": [1, None]}


# ----------------------------------------------------------------------------------------------------------------- text
@pytest.mark.parametrize("encode", [lambda t: t.encode(), lambda t: t.encode("utf-8-sig"), lambda t: t.encode("utf-16"),
                                    lambda t: gzip.compress(t.encode(), mtime=0)])  # fmt: skip
def test_text_in_known_encodings(tmp_path: Path, encode: Callable[[str], bytes]) -> None:
    path = tmp_path / "text"
    path.write_bytes(encode("größe,β\n1,2\n"))
    assert read_text(path) == "größe,β\n1,2\n"


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"a,b\n\xff\xfa,1\n", "bytes in line 2 that are not utf-8"),
        (b"a\n\0\n", "a NUL character in line 2"),
        (b"PK\x03\x04rest", "a zip archive"),
        (gzip.compress(b"a\n1\n" * 99, mtime=0)[:-12], "damaged or cut short"),
        (gzip.compress(b"a\n1\n", mtime=0)[:10] + b"\xff" * 20, "damaged or cut short"),
    ],
)
def test_text_refusals(tmp_path: Path, data: bytes, rule: str) -> None:
    path = tmp_path / "text.csv"
    path.write_bytes(data)
    refused(lambda: read_text(path), str(path), rule)


def test_a_gzip_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"0" * 10_000_000))
    refused(lambda: read_bytes(path, limit=1000), "more than 1000 B")


# --------------------------------------------------------------------------------------------------------------- arrays
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["<f4", ">f8", "f2", "u1", "i8", "?", "<U3"]),
    st.lists(st.integers(1, 4), max_size=3),
    st.booleans(),
)
def test_npy_and_npz_round_trips(tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: list, turn: bool) -> None:
    path = tmp_path_factory.mktemp("npy") / "a"
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    array = np.asfortranarray(array) if turn else array
    np.save(f"{path}.npy", array)
    np.savez_compressed(f"{path}.npz", first=array, second=array[..., None])
    mapped, archive = read_npy(f"{path}.npy"), read_npz(f"{path}.npz")
    assert not mapped.flags.writeable
    assert list(archive) == ["first", "second"]
    for read in (mapped, archive["first"], archive["second"][..., 0]):
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def npy(header: str, entries: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + entries


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


BAD_NPY = {
    "truncated": (saved(np.zeros((10, 10)))[:-8], "must hold what its header says"),
    "too long": (saved(np.zeros((10, 10))) + b"\0", "must hold what its header says"),
    "1e13 elements": (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000, 1000000), }"), "72.8 TiB"),
    "negative": (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -2), }", b"\0" * 32), "header"),
    "wrong magic": (b"\x93NUMPX" + bytes(100), "is not an array"),
    "version 9": (b"\x93NUMPY\x09\x00" + bytes(100), "is not an array"),
    "damaged header": (npy("{'descr': "), "a damaged header"),
    "code in header": (npy("{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (1,)}"), "damaged"),
    "long header": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + b"{}", "a header too long"),
    "objects": (saved(np.array([None, {}])), "Python objects"),
    "complex": (saved(np.zeros((3, 3), complex)), "complex numbers"),
    "structured": (saved(np.zeros(3, [("a", "f4"), ("b", "i4")])), "structured rows"),
    "no rows": (saved(np.zeros((0, 3))), "at least one entry"),
    "text": (b"a,b\n1,2\n", "is not an array"),
}


@pytest.mark.parametrize("name", BAD_NPY)
def test_npy_refusals_alone_and_in_an_archive(tmp_path: Path, name: str) -> None:
    data, rule = BAD_NPY[name]
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    refused(lambda: read_npy(path), str(path), rule)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    refused(lambda: read_npz(tmp_path / "a.npz")["x"], "a.npz: x.npy", rule)


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    canary, array = tmp_path / "ran", np.empty(1, object)
    array[0] = Canary(canary)
    (tmp_path / "a.npy").write_bytes(saved(array))
    np.savez(tmp_path / "a.npz", x=array)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Canary(canary)))
    for read in (read_npy, read_npz):
        refused(lambda read=read: read(tmp_path / f"a.np{read.__name__[-1]}")["x"])
    refused(lambda: read_npz(tmp_path / "b.npz"), "is not an .npz archive")
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary))).close()
    assert canary.exists()  # the payload works, so its silence above means something


@pytest.mark.parametrize("member", ["../x.npy", "/x.npy", "readme.txt"])
def test_archive_members_with_strange_names(tmp_path: Path, member: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(member, saved(np.ones(2)))
    refused(lambda: read_npz(tmp_path / "a.npz"), member, "is not the name of an array")


def test_an_archive_bomb_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1_000_000))
    assert read_npz(tmp_path / "a.npz")["x"].shape == (1_000_000,)  # dense, but small: an empty picture is no bomb
    monkeypatch.setattr(array_files, "BOMB_BYTES", 1 << 20)
    refused(lambda: read_npz(tmp_path / "a.npz"), "7.6 MiB packed", "may be a bomb")
    monkeypatch.undo()
    monkeypatch.setattr(array_files, "ARCHIVE_BYTES", 1 << 20)
    refused(lambda: read_npz(tmp_path / "a.npz"), "7.6 MiB", "limit 1.0 MiB")


def test_every_cut_of_an_archive_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", x=np.arange(50.0))
    data = (tmp_path / "whole.npz").read_bytes()
    for end in range(1, len(data), 7):
        (tmp_path / "cut.npz").write_bytes(data[:end])
        refused(lambda: read_npz(tmp_path / "cut.npz")["x"], "cut.npz")


def test_every_flipped_byte_of_an_archive_is_refused_or_harmless(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", x=np.arange(50.0))
    data = bytearray((tmp_path / "whole.npz").read_bytes())
    for place in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= 0xFF
        (tmp_path / "flipped.npz").write_bytes(flipped)
        with contextlib.suppress(BadInput):
            np.testing.assert_array_equal(read_npz(tmp_path / "flipped.npz").get("x", np.arange(50.0)), np.arange(50.0))


# --------------------------------------------------------------------------------------------------------------- images
RGB = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def saved_image(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_pixels_are_the_files(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(saved_image(tmp_path / "c.png", Image.fromarray(RGB))).pixels, RGB)
    gray = Image.fromarray(RGB[..., 0])
    np.testing.assert_array_equal(read_image(saved_image(tmp_path / "g.png", gray)).pixels, RGB[..., :1])
    deep = Image.fromarray(np.array([[0, 257, 65535, 128 * 257]], np.uint16))
    np.testing.assert_array_equal(read_image(saved_image(tmp_path / "d.png", deep)).pixels[0, :, 0], [0, 1, 255, 128])


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8), "RGBA")
    for name, picture in (("full", image), ("palette", image.quantize(4))):
        pixels = read_image(saved_image(tmp_path / f"{name}.png", picture)).pixels
        np.testing.assert_array_equal(pixels, [[[10, 20, 30], [255, 255, 255]]])
    faded = Image.fromarray(np.array([[[0, 255], [0, 0]]], np.uint8), "LA")
    np.testing.assert_array_equal(read_image(saved_image(tmp_path / "la.png", faded)).pixels, [[[0], [255]]])


@pytest.mark.parametrize(("mode", "channels"), [("CMYK", 3), ("1", 1), ("P", 1), ("YCbCr", 3), ("L", 1)])
def test_other_modes(tmp_path: Path, mode: str, channels: int) -> None:
    white = Image.new("RGB", (4, 3), "white").convert(mode)
    suffix = ".jpg" if mode in ("CMYK", "YCbCr") else ".png"
    pixels = read_image(saved_image(tmp_path / f"image{suffix}", white)).pixels
    assert pixels.shape == (3, 4, channels)
    assert pixels.min() >= 254


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image, exif = Image.fromarray(RGB), Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    pixels = read_image(saved_image(tmp_path / "turned.png", image, exif=exif)).pixels
    np.testing.assert_array_equal(pixels, np.rot90(RGB, -1))


def test_an_animation_gives_its_first_frame_and_says_so(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200, 90)]
    picture = read_image(saved_image(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:]))
    assert picture.frames == 3
    assert np.unique(picture.pixels).tolist() == [10]


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda data: data[: len(data) // 2], "cannot be decoded"),
        (lambda data: b"just text", "is not an image"),
        (lambda data: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
    ],
)
def test_image_refusals(tmp_path: Path, make: Callable[[bytes], bytes], rule: str) -> None:
    path = saved_image(tmp_path / "image.png", Image.effect_noise((64, 64), 90))
    path.write_bytes(make(path.read_bytes()))
    refused(lambda: read_image(path), str(path), rule)


def test_image_bombs(tmp_path: Path) -> None:
    path = saved_image(tmp_path / "bomb.png", Image.new("1", (20_000, 10_000)))
    assert path.stat().st_size < 100_000
    refused(lambda: read_image(path), str(path))
    small = saved_image(tmp_path / "small.png", Image.new("L", (20, 10)))
    refused(lambda: read_image(small, max_pixels=199), "20x10 pixels", "at most 199")
    assert read_image(small, max_pixels=200).pixels.shape == (10, 20, 1)


def test_pixels_beyond_16_bits_are_refused_and_not_clipped(tmp_path: Path) -> None:
    path = saved_image(tmp_path / "deep.tiff", Image.fromarray(np.array([[0, 70_000]], np.int32)))
    refused(lambda: read_image(path), str(path), "more than 16 bits")


def test_reading_an_image_raises_no_warnings(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(saved_image(tmp_path / "g.png", Image.fromarray(RGB)))
