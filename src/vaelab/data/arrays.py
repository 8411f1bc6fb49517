"""Arrays and tensors as rows: which values and shapes are taken, and how they are laid out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.array_files import read_npy, read_npz
from ..core.errors import BadInput
from ..core.facts import Sampling
from ..core.finding import Finding
from ..core.tables import pick

Rows = np.ndarray | Tensor
Layout = Literal["table", "image", "text", "sequence"]
Axes = Literal["", "HW", "HWC", "CHW"]

EXACT_IN_FLOAT32 = 2**24
CASTS = {"b": np.uint8, "i": np.int64, "u": np.int64, "f": np.float32}
ROW_KEYS, LABEL_KEYS = ("x_train", "x", "X", "data"), {"x_train": "y_train"}
FACTOR_KEYS = ("factors", "factors_test", "factor_names")
CHUNK_BYTES = 32 << 20
UNKNOWN = -1  # the code of a label that is missing


@dataclass(frozen=True)
class Parts:
    """What a reader found, before it is checked and laid out; the fields are those of `Source`, in any dtype."""

    x: Any
    y: Any = None
    x_test: Any = None
    y_test: Any = None
    columns: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    top: float | None = None
    findings: tuple[Finding, ...] = ()
    factors: Any = None
    factors_test: Any = None
    factor_names: Any = ()
    condition: Any = None
    condition_test: Any = None
    worded: bool = False  # rows of a table are objects: text, floats, and None where an entry is missing
    names: Any = None
    empty: tuple[str, ...] = ()
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)
    series: Sampling | None = None
    starts: np.ndarray | None = None


def from_npy(path: Path) -> Parts:
    """The rows of an .npy file, mapped into memory."""
    return Parts(read_npy(path))


def from_npz(path: Path, key: str | None) -> Parts:
    """The rows of an .npz file.

    They are the array called `key`, else `x_train` with its companions, else `x`, `X` or `data`, else the only one. The
    arrays `factors`, `factors_test` and `factor_names` say what the rows were made from; `key` leaves them alone. The
    arrays `condition` and `condition_test` hold numbers that are given beside the rows.

    Raises:
        BadInput: where several arrays could be meant, or none has the name.
    """
    return from_arrays(read_npz(path), str(path), key)


def from_arrays(archive: Mapping[str, Any], where: str, key: str | None) -> Parts:
    """The rows of a mapping of arrays, as of an .npz file."""
    if key is not None:
        return Parts(pick(archive, key, f"{where}: key"))
    named = [name for name in ROW_KEYS if name in archive] or (list(archive) if len(archive) == 1 else [])
    if not named:
        raise BadInput(where, f"the arrays {', '.join(archive)}", "one of them has to be chosen", "data.key=NAME")
    rows, labels = named[0], LABEL_KEYS.get(named[0], "y")
    has_test = rows == "x_train" and "x_test" in archive
    factors, factors_test, factor_names = (archive.get(name) for name in FACTOR_KEYS)
    return Parts(
        archive[rows],
        archive.get(labels),
        archive["x_test"] if has_test else None,
        archive.get("y_test") if has_test else None,
        factors=factors,
        factors_test=factors_test if has_test else None,
        factor_names=() if factor_names is None else factor_names,
        condition=archive.get("condition"),
        condition_test=archive.get("condition_test") if has_test else None,
    )


def checked(x: Any, where: str, columns: tuple[str, ...] = ()) -> tuple[Rows, tuple[Finding, ...]]:
    """Rows as uint8, int64 or float32; a memory map keeps its own dtype, and a tensor its device.

    Raises:
        BadInput: for objects, text, complex, structured or sparse values, and for numbers the dtype cannot hold.
    """
    if isinstance(x, Tensor):
        if x.layout != torch.strided:
            raise BadInput(where, f"a sparse tensor ({x.layout})", "must be dense", "use x.to_dense()")
        dense = x.detach().cpu()
        rows, findings = checked((dense.float() if dense.dtype == torch.bfloat16 else dense).numpy(), where)
        return torch.from_numpy(rows).to(x.device), findings
    if hasattr(x, "nnz") and hasattr(x, "toarray"):
        raise BadInput(where, f"a sparse matrix ({type(x).__name__})", "must be dense", "use x.toarray()")
    masked = np.ma.isMaskedArray(x)
    rows = x.astype(np.float64).filled(np.nan) if masked else x
    if rows.dtype.kind not in CASTS:
        kind = "Python objects" if rows.dtype.hasobject else f"dtype {rows.dtype}"
        raise BadInput(where, kind, "must hold plain numbers", "convert it, such as x.astype('float32')")
    if not isinstance(rows, np.memmap):
        rows = _cast(rows, where, columns)
    notes = [_masked(int(np.ma.count_masked(x)))] if masked else []
    if rows.dtype.kind in "iu" and rows.dtype.itemsize > 2 and rows.size:
        largest = max(abs(int(rows.min())), abs(int(rows.max())))
        notes += [rounded(float(largest), where)] if largest > EXACT_IN_FLOAT32 else []
    return rows, tuple(notes)


def _cast(rows: np.ndarray, where: str, columns: tuple[str, ...]) -> np.ndarray:
    target = np.uint8 if rows.dtype == np.uint8 else CASTS[rows.dtype.kind]
    with np.errstate(over="ignore"):
        cast = rows.astype(target, order="C", copy=False)
    lost = (rows > np.iinfo(np.int64).max) if rows.dtype == np.uint64 else _overflown(rows, cast)
    if np.any(lost):
        index = np.argwhere(lost)[0]
        value, name = rows[tuple(index)], np.dtype(target).name
        raise BadInput(where, f"{value} in {place(index, columns)}", f"is beyond {name}", "rescale it, or drop the row")
    return cast


def _overflown(rows: np.ndarray, cast: np.ndarray) -> np.ndarray | bool:
    return np.isinf(cast) & np.isfinite(rows) if rows.dtype.kind == "f" and rows.dtype.itemsize > 4 else False


def _masked(count: int) -> Finding:
    return Finding(
        "DA109",
        "warning",
        "masked entries are read as missing",
        measured=count,
        unit="entries",
        why="a NumPy mask marks entries without a value",
        advice="fill them first, such as x.filled(0), where that is what they mean",
    )


def rounded(largest: float, where: str) -> Finding:
    """The warning for whole numbers that float32 cannot tell from their neighbours."""
    return Finding(
        "DA108",
        "warning",
        f"whole numbers in {where} are rounded",
        measured=largest,
        unit="as the largest magnitude",
        why=f"networks compute in float32, which holds whole numbers exactly up to {EXACT_IN_FLOAT32}",
        advice="subtract an offset or change the unit; drop the column where it is an identifier",
    )


def arranged(rows: Rows, where: str) -> tuple[Rows, Layout, Axes]:
    """Tables as [N, D] and images as [N, C, H, W], with how an image looked to the user.

    Raises:
        BadInput: for other shapes, with a hint; and for fewer than one row or one entry.
    """
    shape = tuple(rows.shape)
    shown = f"shape {shape}"
    if len(shape) < 2:
        fix = "x.reshape(-1, 1) for one column of many rows"
        raise BadInput(where, shown, "must be rows: [N, D] for tables, [N, H, W] for images", fix)
    if 0 in shape:
        raise BadInput(where, shown, "must hold at least one row and one entry")
    if len(shape) == 2:
        return rows, "table", ""
    if len(shape) == 3:
        return rows[:, None], "image", "HW"
    if len(shape) == 4 and shape[1] in (1, 3):
        return rows, "image", "CHW"
    if len(shape) == 4 and shape[3] in (1, 3):
        return _channels_first(rows), "image", "HWC"
    fix = "x[..., :3] drops a last alpha channel" if 4 in shape[1::2] else "x.reshape(len(x), -1) makes it a table"
    raise BadInput(where, shown, "images must be [N, H, W], or have 1 or 3 channels", fix)


def _channels_first(rows: Rows) -> Rows:
    if isinstance(rows, Tensor):
        return rows.movedim(3, 1).contiguous()
    moved = np.moveaxis(rows, 3, 1)
    return moved if isinstance(rows, np.memmap) else np.ascontiguousarray(moved)


class Labels(NamedTuple):
    """Labels of both splits as int64 codes [N], what the codes stand for, and what was met while reading them."""

    train: np.ndarray | None = None
    test: np.ndarray | None = None
    names: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def labels_of(parts: Parts, rows: int, test_rows: int, where: str) -> Labels:
    """Whole numbers stay as they are, names become positions in their sorted list, and anything else is left out.

    A label that is missing, NaN, None or an empty name beside others, becomes -1.

    Raises:
        BadInput: where there is not one label a row.
    """
    if parts.y is None:
        return Labels()
    train = _label_column(parts.y, rows, where)
    test = train[:0] if parts.y_test is None else _label_column(parts.y_test, test_rows, where)
    together = np.concatenate([train, test])
    if together.dtype.kind == "U":
        found, codes = np.unique(together, return_inverse=True)
        unnamed = int(found[0] == "" and len(found) > 1)  # it comes first
        codes, names = codes - unnamed, tuple(str(name) for name in found[unnamed:])
    elif _whole(together):
        codes, names = np.nan_to_num(together, nan=UNKNOWN), parts.label_names
    else:
        return Labels(findings=(_LABELS_LEFT_OUT,))
    codes = codes.astype(np.int64)
    return Labels(codes[:rows], None if parts.y_test is None else codes[rows:], names)


def _label_column(y: Any, rows: int, where: str) -> np.ndarray:
    column = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    column = column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
    if column.shape != (rows,):
        raise BadInput(where, f"labels of shape {column.shape} for {rows} rows", "must be one label a row")
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    names = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in column.tolist()]
    if all(name is None or isinstance(name, int | float) for name in names):  # of a table with text elsewhere
        return np.array([np.nan if name is None else name for name in names], dtype=np.float64)
    if any(isinstance(name, str) for name in names):
        names = ["" if name is None or name != name else name for name in names]
    if not all(isinstance(name, str) for name in names):
        return np.full(rows, np.nan)  # no classes, which the caller tells
    return np.array(names, dtype=np.str_)


def _whole(labels: np.ndarray) -> bool:
    """Whether labels are whole numbers, some of which may be missing."""
    known = labels[~np.isnan(labels)]
    return len(known) > 0 and bool(np.array_equal(known, np.floor(known)) and np.abs(known).max() < EXACT_IN_FLOAT32)


_LABELS_LEFT_OUT = Finding(
    "DA111",
    "warning",
    "the labels are no classes and are left out",
    why="labels only colour pictures, which needs whole numbers or names",
    advice="give one whole number or name a row, or no labels",
)


class Factors(NamedTuple):
    """Known factors of both splits as int64 [N, F], and their names."""

    train: np.ndarray | None = None
    test: np.ndarray | None = None
    names: tuple[str, ...] = ()


def factors_of(parts: Parts, rows: int, test_rows: int, where: str) -> Factors:
    """What each row was made from, as whole numbers.

    Raises:
        BadInput: where there is not one whole number a row and factor, or not one name a factor.
    """
    if parts.factors is None:
        return Factors()
    train = _factor_table(parts.factors, rows, f"{where}: factors")
    count = train.shape[1]
    test = parts.factors_test
    test = None if test is None else _factor_table(test, test_rows, f"{where}: factors_test", count)
    given = np.asarray(parts.factor_names)
    names = tuple(map(str, given.tolist())) if given.size else tuple(f"factor_{i + 1}" for i in range(count))
    if given.size and (given.ndim != 1 or given.dtype.kind != "U" or len(set(names)) != count):
        received = f"{', '.join(map(str, given.ravel().tolist()))} for {count} columns of factors"
        raise BadInput(f"{where}: factor_names", received, "must be one text a column, all different")
    return Factors(train, test, names)


def _factor_table(factors: Any, rows: int, where: str, count: int | None = None) -> np.ndarray:
    table = np.asarray(factors)
    if table.ndim != 2 or len(table) != rows or (count is not None and table.shape[1] != count):
        wanted = f"({rows}, {'F' if count is None else count})"
        fix = "factors[:, None] for a single factor" if table.ndim == 1 else ""
        raise BadInput(where, f"shape {table.shape}", f"must be {wanted}, a row for each row of the data", fix)
    whole = table.dtype.kind in "biu" or (table.dtype.kind == "f" and (table == np.floor(table)).all())
    if not whole or np.abs(table).max(initial=0) >= EXACT_IN_FLOAT32:
        fix = "number the values of a factor, such as with np.unique(column, return_inverse=True)[1]"
        raise BadInput(where, f"dtype {table.dtype}", f"must be whole numbers below {EXACT_IN_FLOAT32}", fix)
    return table.astype(np.int64)


def conditions_of(parts: Parts, rows: int, test_rows: int, where: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Numbers that are given beside the rows of either split, float64 [N, C].

    Raises:
        BadInput: where they are no numbers, or not as many for each row.
    """
    train = _condition_table(parts.condition, rows, f"{where}: condition")
    test = _condition_table(parts.condition_test, test_rows, f"{where}: condition_test")
    if train is not None and test is not None and train.shape[1] != test.shape[1]:
        rule = f"must have {train.shape[1]} columns, as for training"
        raise BadInput(f"{where}: condition_test", f"shape {test.shape}", rule)
    return train, test


def _condition_table(given: Any, rows: int, where: str) -> np.ndarray | None:
    if given is None:
        return None
    table = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != rows or not table.shape[1] or table.dtype.kind not in "biuf":
        received = f"shape {table.shape}, dtype {table.dtype}"
        raise BadInput(where, received, f"must be numbers of shape ({rows}, C), as many for each row")
    return table.astype(np.float64)


def place(index: Iterable[int], columns: tuple[str, ...] = ()) -> str:
    """Where an entry is, in words.

    Example:
        >>> place((3, 0), ("age", "income"))
        'row 3 (counting from 0), column age'
    """
    row, *entry = (int(i) for i in index)
    if len(entry) == 1:
        return f"row {row} (counting from 0), column {columns[entry[0]] if columns else column_name(entry[0])}"
    return f"row {row} (counting from 0), entry {tuple(entry)}"


def column_name(position: int) -> str:
    """What a column without a name is called, from its position counted from 0."""
    return f"column_{position + 1}"


def chunks(rows: Rows) -> Iterator[np.ndarray]:
    """The rows in order, as native NumPy arrays of some 32 MiB each, so that a memory map is never read whole."""
    step = max(1, CHUNK_BYTES // (8 * math.prod(rows.shape[1:])))
    for start in range(0, len(rows), step):
        yield as_numpy(rows[start : start + step])


def as_numpy(rows: Rows) -> np.ndarray:
    """A plain array in this machine's byte order."""
    if isinstance(rows, Tensor):
        return rows.detach().cpu().numpy()
    return np.asarray(rows).astype(rows.dtype.newbyteorder("="), copy=False)
