"""Reading and adding to .h5ad files (AnnData in HDF5): plain arrays and text alone, their sizes known beforehand.

HDF5 holds no pickles, but it can point into other files and claim any size: links and datasets that lead outside are
refused, and so is what would swell beyond the limits. What is added goes into a copy, byte for byte the same besides.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .array_files import ARCHIVE_BYTES, BOMB_BYTES, BOMB_RATIO
from .errors import BadInput, MissingExtra
from .files import check_file, read_bytes, reason
from .units import readable_bytes

MAGIC = b"\x89HDF\r\n\x1a\n"
NAMES_AT_ONCE, MOST_TEXT = 256, 1 << 28  # names read at once, and characters of all names of a column
EXTRA = ("anndata", "cells", "reading .h5ad")


@dataclass(frozen=True)
class CellFile:
    """Cells of an .h5ad file.

    Args:
        x: Entries, an array [N, G] or a SciPy matrix in compressed rows.
        genes, cells: Names, [G] and [N].
        beside: What is known of each cell besides (`obs`), float64 [N] or text, NaN or "" where an entry is missing.
        variable: Genes that are marked as highly variable, bool [G]; None where none is.
        layers: Names of the matrices there are.
    """

    x: Any
    genes: tuple[str, ...]
    cells: tuple[str, ...]
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)
    variable: np.ndarray | None = None
    layers: tuple[str, ...] = ()


def read_h5ad(path: str | os.PathLike[str], key: str | None = None) -> CellFile:
    """The cells of an .h5ad file.

    Args:
        path: The file.
        key: A matrix: "X", a layer's name, or "raw"; None: X.

    Raises:
        BadInput: for what `check_file` refuses, another format, a damaged file, one that points elsewhere or would
            swell beyond the limits, and a matrix that is not there.
        MissingExtra: without the package.
    """
    with _opened(path) as file:
        where = str(path)
        layers = _matrices(file)
        if (place := layers.get(key or "X")) is None:
            there = ", ".join(layers) or "none"
            raise BadInput(where, f"no matrix {key or 'X'}", f"there are: {there}", "data.key=NAME")
        var = "raw/var" if place == "raw/X" else "var"
        for part in ("obs", var):
            if not hasattr(file.get(part), "keys"):
                raise BadInput(
                    where, f"no table {part}", "is no AnnData file of version 0.7 or later", "write it again"
                )
        columns = _table(file["obs"], where)
        genes, cells = (tuple(_text(_index(file[part]), where)) for part in (var, "obs"))
        marked = file[var].get("highly_variable")
        variable = None if marked is None else _column(marked, where, "highly_variable").astype(bool)
        found = CellFile(_matrix(file[place], where), genes, cells, columns, variable, tuple(layers))
    if found.x.shape != (len(cells), len(genes)):
        raise BadInput(where, f"a matrix of shape {found.x.shape}", f"there are {len(cells)} cells, {len(genes)} genes")
    return found


def with_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], name: str, facts: Mapping[str, Any]
) -> bytes:
    """The file's content with arrays [N, ...] in `obsm`, and facts as text in `uns[name]`; older ones are replaced.

    Raises:
        BadInput: for what `read_h5ad` refuses.
    """
    content = io.BytesIO(read_bytes(path, ARCHIVE_BYTES))
    with _opened(path, content) as file:
        for key, value in arrays.items():
            _put(_group(file, "obsm"), key, value, {"encoding-type": "array", "encoding-version": "0.2.0"})
        noted = _group(file, "uns")
        noted.pop(name, None)
        for key, value in facts.items():
            _put(_group(noted, name), key, str(value), {"encoding-type": "string", "encoding-version": "0.2.0"})
    return content.getvalue()


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], content: io.BytesIO | None = None) -> Iterator[Any]:
    """The file, to be read, or its content, to be added to."""
    path = check_file(path)
    with path.open("rb") as handle:
        if handle.read(len(MAGIC)) != MAGIC:
            raise BadInput(str(path), None, "is no HDF5 file, which .h5ad is", "write it with AnnData.write_h5ad")
    try:
        import h5py
    except ImportError:
        raise MissingExtra(*EXTRA) from None
    try:
        with h5py.File(path, "r") if content is None else h5py.File(content, "r+") as file:
            _refuse_elsewhere(file, path, set())
            yield file
    except BadInput:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadInput(str(path), None, f"is damaged or cut short ({reason(error)})", "copy it again") from None


def _refuse_elsewhere(group: Any, path: Path, seen: set[int], prefix: str = "") -> None:
    """Refuses links and datasets that lead to other files; a group that is its own member is looked at once."""
    import h5py

    seen.add(h5py.h5o.get_info(group.id).addr)
    for name in group:
        place = f"{path}: {prefix}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise BadInput(place, "a link", "only what lies in the file itself is read", "copy what it leads to in")
        member = group[name]
        if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
            raise BadInput(place, "entries in other files", "only what lies in the file itself is read", "copy them in")
        if isinstance(member, h5py.Group) and h5py.h5o.get_info(member.id).addr not in seen:
            _refuse_elsewhere(member, path, seen, f"{prefix}{name}/")


def _matrices(file: Any) -> dict[str, str]:
    """Names of the matrices, and where they are."""
    found = {"X": "X"} if "X" in file else {}
    found |= {name: f"layers/{name}" for name in file.get("layers", ())}
    return found | ({"raw": "raw/X"} if "raw/X" in file else {})


def _entries(dataset: Any, where: str) -> np.ndarray:
    """The entries of a dataset of numbers, whose size is looked at first."""
    name = f"{where}: {dataset.name.strip('/')}"
    if dataset.dtype.kind not in "biuf":
        raise BadInput(name, f"dtype {dataset.dtype}", "must hold plain numbers")
    size, packed = dataset.size * dataset.dtype.itemsize, max(dataset.id.get_storage_size(), 1)
    if size > ARCHIVE_BYTES:
        raise BadInput(
            name, readable_bytes(size), f"limit {readable_bytes(ARCHIVE_BYTES)}", "take fewer cells or genes"
        )
    if size > BOMB_BYTES and size / packed > BOMB_RATIO:
        what = f"{readable_bytes(size)} packed {size / packed:.0f}:1"
        raise BadInput(name, what, "is denser than any data and may be a bomb", "write it sparse if it is real")
    return dataset[()]


def _text(dataset: Any, where: str) -> list[str]:
    """The entries of a dataset of text, few at a time, since many of them may be one and the same long text."""
    name, found, length = f"{where}: {dataset.name.strip('/')}", [], 0
    if dataset.ndim != 1 or dataset.dtype.kind not in "OS":
        raise BadInput(name, f"dtype {dataset.dtype}, shape {dataset.shape}", "must be a list of text")
    for start in range(0, len(dataset), NAMES_AT_ONCE):
        part = dataset[start : start + NAMES_AT_ONCE]
        found += [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in part]
        if (length := length + sum(map(len, found[start:]))) > MOST_TEXT:
            raise BadInput(name, f"more than {MOST_TEXT} characters", "is too much text for names")
    return found


def _matrix(member: Any, where: str) -> Any:
    """A dense array, or a sparse matrix in compressed rows whose indices all lie inside."""
    if not hasattr(member, "keys"):
        dense = _entries(member, where)
        if dense.ndim != 2:
            raise BadInput(f"{where}: {member.name.strip('/')}", f"shape {dense.shape}", "must be cells by genes")
        return dense
    from scipy import sparse

    shape = tuple(int(size) for size in member.attrs.get("shape", member.attrs.get("h5sparse_shape", ())))
    kind = str(member.attrs.get("encoding-type", member.attrs.get("h5sparse_format", "")))
    build = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}.get(kind[:3])
    if build is None or len(shape) != 2:
        raise BadInput(f"{where}: {member.name.strip('/')}", f"a {kind or 'group'}", "must be an array, or csr or csc")
    matrix = build(tuple(_entries(member[part], where) for part in ("data", "indices", "indptr")), shape=shape)
    matrix.check_format(full_check=True)
    return matrix.tocsr()


def _index(table: Any) -> Any:
    return table[str(table.attrs.get("_index", "index"))]


def _table(table: Any, where: str) -> dict[str, np.ndarray]:
    """The columns of a table but for its index, those that are lists of numbers or text."""
    index = str(table.attrs.get("_index", "index"))
    names = [name for name in table if name not in (index, "__categories")]
    return {name: _column(table[name], where, name) for name in names}


def _column(member: Any, where: str, name: str) -> np.ndarray:
    """A column: numbers and truth values as float64, NaN where missing; text and categories as text, "" likewise."""
    import h5py

    parts = member if hasattr(member, "keys") else {}
    codes, levels = parts.get("codes"), parts.get("categories")
    if codes is None and "categories" in member.attrs:  # as anndata 0.6 and 0.7 wrote them
        codes, levels = member, member.file[member.attrs["categories"]]
    if codes is not None and levels is not None:
        known = _column(levels, where, name)
        names = np.array([*map(_plain, known.tolist()), ""], object)
        return names[_entries(codes, where).astype(np.int64).clip(-1, len(known))]
    values = parts.get("values", member)
    if not isinstance(values, h5py.Dataset) or values.ndim != 1:
        raise BadInput(f"{where}: {name}", "a column of another kind", "must be numbers, text or categories")
    if values.dtype.kind not in "biuf":
        return np.array(_text(values, where), object)
    column = _entries(values, where).astype(np.float64)
    if "mask" in parts:
        column[_entries(parts["mask"], where).astype(bool)] = np.nan
    return column


def _plain(level: Any) -> str:
    """A category's name; whole numbers go without a point."""
    return str(int(level)) if isinstance(level, float) and level.is_integer() else str(level)


def _group(file: Any, name: str) -> Any:
    group = file.require_group(name)
    group.attrs.setdefault("encoding-type", "dict")
    group.attrs.setdefault("encoding-version", "0.1.0")
    return group


def _put(group: Any, name: str, value: Any, attributes: Mapping[str, str]) -> None:
    group.pop(name, None)
    group[name] = value
    group[name].attrs.update(attributes)
