"""The files that commands write rows, labels and pictures to: the ending of the name chooses the format."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.durable import saying_why, write_bytes
from ..core.errors import BadInput, MissingExtra
from ..core.facts import Column
from ..data.mixed import LEVEL_TEXT, TRUTH, is_missing


def save_rows(run: Any, rows: np.ndarray, path: str | Path, beside: Mapping[str, Any] | None = None) -> Path:
    """Writes rows on the data's own scale as a picture, an array or a table; an older file of that name is replaced.

    Args:
        run: The run the rows come from.
        rows: [..., a row as the user has it]; of several leading dimensions the last is a line of the picture.
        path: A name ending in .npy or .npz (key `x`), for images also .png (one grid), for tables also .csv and
            .parquet, for strings also .csv and .txt (one a line).
        beside: Columns of a number for each row, by name, that a .csv or .parquet file begins with; other files go
            without.

    Returns:
        The file written.

    Raises:
        BadInput: for another ending, a folder, or a parent folder that is not there.
        MissingExtra: where the ending needs a package that is not installed.
        NoSpace: where the system refuses to write.
    """
    return save(path, FILES[run.spec.layout], run, np.asarray(rows), dict(beside or {}))


def save_labels(probabilities: np.ndarray, names: Sequence[str], path: str | Path) -> Path:
    """Writes what a classifier tells: a table with the columns `label` and `p_NAME`, or the probabilities alone.

    Args:
        probabilities: q(y|x), [n, C].
        names: Of the C labels.
        path: A name ending in .csv, .npy or .npz (keys `p` and `labels`).

    Returns:
        The file written.

    Raises:
        BadInput: for another ending, a folder, or a parent folder that is not there.
        NoSpace: where the system refuses to write.
    """
    return save(path, LABEL_FILES, np.asarray(probabilities), list(names))


NO_FORMAT = "the name's ending chooses the format"


def save(path: str | Path, formats: Mapping[str, Callable[..., bytes]], *content: Any) -> Path:
    """Writes what the format of the name's ending makes of some content; an older file of that name is replaced.

    Raises:
        BadInput: for an ending without a format, a folder, or a parent folder that is not there.
        NoSpace: where the system refuses to write.
    """
    target = refuse_path(path, formats)
    write_bytes(target, formats[target.suffix.lower()](*content))
    return target


def refuse_path(path: str | Path, formats: Iterable[str]) -> Path:
    """The path, unless no file of one of these formats can be written there.

    Raises:
        BadInput: for an ending without a format, a folder, or a parent folder that is not there.
        MissingExtra: where the ending needs a package that is not installed.
        NoSpace: where the system refuses to look.
    """
    target, formats = Path(path), list(formats)
    suffix = target.suffix.lower()
    if suffix not in formats and not target.is_dir():
        rule = "the name's ending chooses the format, and these are no pictures" if suffix == ".png" else NO_FORMAT
        raise BadInput("output", target, rule, f"end it in {', '.join(formats)}")
    with saying_why(target):
        if target.is_dir():
            raise BadInput("output", target, "is a folder", f"name a file in it, such as {target / ('out' + suffix)}")
        if not target.parent.is_dir():
            raise BadInput("output", target, f"there is no folder {target.parent}", "make it first")
    if suffix == ".parquet":
        _pyarrow()
    return target


def rows_png(run: Any, rows: np.ndarray, beside: Mapping[str, Any]) -> bytes:
    """Images as one grid; of several leading dimensions the last is a line."""
    from ..measure.pictures import channels_first, image_grid, png_bytes, value_range

    images = channels_first(rows, run.spec.axes)
    columns = images.shape[-4] if images.ndim > 4 else None
    low, top = value_range(run.preview if run.keeps_rows else rows, run.spec.top)
    return png_bytes(image_grid(images.reshape(-1, *images.shape[-3:]), columns, top, low))


def _rows_csv(run: Any, rows: np.ndarray, beside: Mapping[str, Any]) -> bytes:
    return _beside(beside, run.spec.columns, rows.reshape(-1, len(run.spec.columns)))


def _beside(beside: Mapping[str, Any], columns: Sequence[str], rows: np.ndarray) -> bytes:
    """A table that begins with columns of its own."""
    numbers = list(zip(*beside.values(), strict=True)) or [()] * len(rows)
    return csv_bytes([*beside, *columns], ([*number, *row] for number, row in zip(numbers, rows, strict=True)))


def _rows_parquet(run: Any, rows: np.ndarray, beside: Mapping[str, Any]) -> bytes:
    columns = run.spec.columns
    refuse_twins(beside, columns)
    table = rows.reshape(-1, len(columns))
    kinds = run.spec.mixed or (None,) * len(columns)
    own = {name: _cast(table[:, at], kind) for at, (name, kind) in enumerate(zip(columns, kinds, strict=True))}
    return parquet_bytes({**beside, **own})


def refuse_twins(beside: Iterable[str], columns: Sequence[str]) -> None:
    """Refuses columns beside a table that are called as one of its own."""
    if twins := sorted(set(beside) & set(columns)):
        raise BadInput("output", f"two columns called {twins[0]}", "names must differ in .parquet", "end it in .csv")


def _cast(values: np.ndarray, kind: Column | None) -> Any:
    """Entries of a mixed table's column, also such as were read as text, as the numbers or truth values they are."""
    if kind is None or (kind.kind == "category" and kind.levels_are == "text"):
        return values
    cells = [None if is_missing(cell) else cell for cell in values.tolist()]
    if kind.levels_are == "truth":
        words = [None if cell is None else LEVEL_TEXT["truth"](cell) for cell in cells]
        known = all(word is None or word in TRUTH for word in words)
        return [None if word is None else bool(TRUTH[word]) for word in words] if known else values
    try:
        numbers = [None if cell is None else float(cell) for cell in cells]
    except ValueError:  # a level that no row had in training
        return values
    if kind.kind == "number" or not all(number is None or number.is_integer() for number in numbers):
        return numbers
    return [None if number is None else int(number) for number in numbers]


def _strings_csv(run: Any, rows: np.ndarray, beside: Mapping[str, Any]) -> bytes:
    return _beside(beside, [run.config.data.text_column or "string"], rows.reshape(-1, 1))


def _strings_txt(run: Any, rows: np.ndarray, beside: Mapping[str, Any]) -> bytes:
    if any(len(string.splitlines()) > 1 for string in rows.flat):
        raise BadInput("output", ".txt", "a string with a line break takes two lines", "end the name in .csv")
    return "".join(f"{string}\n" for string in rows.flat).encode("utf-8", "backslashreplace")


def _labels_csv(probabilities: np.ndarray, names: Sequence[str]) -> bytes:
    rows = ([names[row.argmax()], *row] for row in probabilities)
    return csv_bytes(["label", *(f"p_{name}" for name in names)], rows)


def csv_bytes(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """Comma-separated values; numbers with the fewest digits that read back to the same value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _without_objects(rows: np.ndarray) -> np.ndarray:
    """Rows of a mixed table as text, "" where an entry is missing: an array file holds nothing of several kinds."""
    return np.where(rows == np.array(None), "", rows).astype(str) if rows.dtype == object else rows


def parquet_bytes(columns: Mapping[str, Any]) -> bytes:
    """The content of a .parquet file, from columns of numbers or text by name; null where an object is missing.

    Raises:
        MissingExtra: without the package.
    """
    pyarrow, buffer = _pyarrow(), io.BytesIO()
    table = pyarrow.table({name: _typed(values) for name, values in columns.items()})
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "data", "writing .parquet") from None
    return pyarrow


def _typed(values: Any) -> Any:
    """A column of one type: text, where its entries are of several."""
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OU":
        return np.ascontiguousarray(values)
    cells = [None if cell is None or cell != cell else cell for cell in np.asarray(values, object).tolist()]
    pyarrow = _pyarrow()
    if not any(isinstance(cell, str) for cell in cells):
        try:
            return pyarrow.array(cells)
        except (pyarrow.ArrowException, OverflowError):
            pass
    return [None if cell is None else str(cell).encode("utf-8", "backslashreplace").decode() for cell in cells]


def npy_bytes(array: np.ndarray) -> bytes:
    """The content of an .npy file, without pickles."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    """The content of an .npz file, without pickles."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


_ARRAY_FILES: dict[str, Callable[..., bytes]] = {
    ".npy": lambda run, rows, beside: npy_bytes(_without_objects(rows)),
    ".npz": lambda run, rows, beside: npz_bytes(x=_without_objects(rows)),
}
IMAGE_FILES: dict[str, Callable[..., bytes]] = {".png": rows_png} | _ARRAY_FILES
TABLE_FILES: dict[str, Callable[..., bytes]] = {".csv": _rows_csv, ".parquet": _rows_parquet} | _ARRAY_FILES
STRING_FILES: dict[str, Callable[..., bytes]] = {
    ".txt": _strings_txt,
    ".csv": _strings_csv,
} | _ARRAY_FILES
FILES = {"image": IMAGE_FILES, "table": TABLE_FILES, "sequence": STRING_FILES}
LABEL_FILES: dict[str, Callable[..., bytes]] = {
    ".csv": _labels_csv,
    ".npy": lambda probabilities, names: npy_bytes(probabilities),
    ".npz": lambda probabilities, names: npz_bytes(p=probabilities, labels=np.asarray(names)),
}
