"""Reading NumPy's .npy and .npz files: never a pickle, and every header checked against the size of its file."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from .errors import BadInput
from .files import check_file, reason
from .units import readable_bytes

if TYPE_CHECKING:
    import numpy as np

ARCHIVE_BYTES = 8 << 30
# DEFLATE reaches 1032:1 at most. Sparse pictures reach some 100:1, and a small archive cannot fill the memory whatever
# its ratio: only what is both large and denser than real data is refused.
BOMB_BYTES, BOMB_RATIO = 256 << 20, 200
HEADER_BYTES = 1 << 16
KINDS = {"O": "Python objects", "c": "complex numbers", "V": "structured rows", "M": "dates", "m": "time spans"}


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of an .npy file, mapped into memory read-only; its header is checked against the file's size.

    Raises:
        BadInput: for what `check_file` refuses, a damaged header, objects, complex or structured values, or a size that
            is not the header's.
    """
    import numpy as np

    path = check_file(path)
    with path.open("rb") as handle:
        shape, order, dtype = _npy_header(handle, path.stat().st_size, str(path))
        return np.memmap(path, dtype, mode="r", offset=handle.tell(), shape=shape, order=order)


def _npy_header(handle: IO[bytes], size: int, where: str) -> tuple[tuple[int, ...], Any, np.dtype]:
    """Shape, order and dtype of an array in NumPy's format; the handle is left where the entries begin."""
    from numpy.lib import format as npy

    start = handle.read(12)
    version, length_bytes = tuple(start[6:8]), 2 if start[6:7] == b"\x01" else 4
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if not start.startswith(npy.MAGIC_PREFIX) or version not in readers:
        raise BadInput(where, None, "is not an array in NumPy's .npy format", "write it with numpy.save")
    if int.from_bytes(start[8 : 8 + length_bytes], "little") > HEADER_BYTES:
        raise BadInput(where, None, "has a header too long for a plain array", "write it with numpy.save")
    handle.seek(8)
    try:
        shape, fortran, dtype = readers[version](handle)
    except Exception as error:  # NumPy's parser fed damaged bytes raises whatever its tokenizer does
        raise BadInput(where, None, f"has a damaged header ({reason(error)})", "write it again") from None
    if dtype.kind not in "biufUS":
        raise BadInput(where, KINDS.get(dtype.kind, str(dtype)), "must hold plain numbers", "convert it to float32")
    if 0 in shape:
        raise BadInput(where, f"an array of shape {shape}", "must hold at least one entry")
    claimed, there = math.prod(shape) * dtype.itemsize, size - handle.tell()
    if claimed != there or min(shape, default=0) < 0:
        what = f"a header for {'x'.join(map(str, shape))} {dtype} ({readable_bytes(claimed)})"
        raise BadInput(where, f"{what} and {readable_bytes(there)} of entries", "must hold what its header says")
    return shape, "F" if fortran else "C", dtype


class Archive(Mapping[str, "np.ndarray"]):
    """The arrays of an .npz file by name, each read when it is asked for.

    Raises:
        BadInput: when opened, for what is no plain archive of arrays or would swell beyond `ARCHIVE_BYTES`; when an
            array is read, for what `read_npy` refuses.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_file(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BadInput(str(path), None, f"is not an .npz archive ({reason(error)})", "use numpy.savez") from None
        for info in infos:
            self._check(info)
        if (total := sum(info.file_size for info in infos)) > ARCHIVE_BYTES:
            raise BadInput(str(path), readable_bytes(total), f"limit {readable_bytes(ARCHIVE_BYTES)}", "use .npy")
        self._infos = {info.filename.removesuffix(".npy"): info for info in infos}

    def _check(self, info: zipfile.ZipInfo) -> None:
        where, ratio = f"{self.path}: {info.filename}", info.file_size / max(info.compress_size, 1)
        if not info.filename.endswith(".npy") or ".." in info.filename or info.filename.startswith("/"):
            raise BadInput(where, None, "is not the name of an array", "write the archive with numpy.savez")
        if info.file_size > BOMB_BYTES and ratio > BOMB_RATIO:
            size = f"{readable_bytes(info.file_size)} packed {ratio:.0f}:1"
            raise BadInput(where, size, "is denser than any data and may be a bomb", "use .npy if it is real")

    def __getitem__(self, name: str) -> np.ndarray:
        import numpy as np

        info = self._infos[name]
        where = f"{self.path}: {info.filename}"
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(info) as handle:
                shape, order, dtype = _npy_header(handle, info.file_size, where)
                entries = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
                _fill(handle, entries)
        except (zipfile.BadZipFile, OSError, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
            raise BadInput(where, None, f"is damaged ({reason(error)})", "copy the file again") from None
        return entries.view(dtype).reshape(shape, order=order)

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)


def _fill(handle: IO[bytes], entries: np.ndarray) -> None:
    done = 0
    while chunk := handle.read(1 << 20):
        entries[done : done + len(chunk)] = memoryview(chunk)
        done += len(chunk)
    if done != len(entries):
        raise EOFError(f"{len(entries) - done} bytes are missing")


def read_npz(path: str | os.PathLike[str]) -> Archive:
    """The arrays of an .npz file by name; see `Archive`."""
    return Archive(path)
