"""Tables as columns of numbers, with truth values and dates turned into numbers and said so; and data frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import BadInput
from ..core.finding import Finding
from .arrays import EXACT_IN_FLOAT32, Parts, rounded

MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
TRUTH = {"false": 0.0, "true": 1.0, "0": 0.0, "1": 1.0}
DAY = 86_400.0


@dataclass
class Table:
    """A table of numbers.

    Args:
        columns: Names, one a column.
        rows: float64 [N, D], a missing entry NaN; or objects, where columns hold text: text, floats and None.
        findings: What was met while reading.
        kept: Which rows of the text were kept, bool; None: all.
        empty: Columns without any value, which are left out.
    """

    columns: tuple[str, ...]
    rows: np.ndarray
    findings: list[Finding] = field(default_factory=list)
    kept: np.ndarray | None = None
    empty: tuple[str, ...] = ()

    def warn(self, code: str, title: str, measured: float, unit: str, why: str, advice: str) -> None:
        """Adds a warning where `measured` is above 0."""
        if measured:
            self.findings.append(
                Finding(code, "warning", title, measured, plural(measured, unit), why=why, advice=advice)
            )


class Cells(NamedTuple):
    """The text of a table before its columns are read; `lines` are line numbers of a file, where there is one."""

    where: str
    columns: tuple[str, ...]
    values: Sequence[Sequence[str]]  # [D][N]
    lines: Sequence[int]

    def spot(self, row: int) -> str:
        """A row as a person finds it again."""
        return f"row {row + 1} (line {self.lines[row]})" if self.lines else f"row {row} (counting from 0)"


class Reading(NamedTuple):
    """One way to read every cell of a column as a number; a named one is told in a finding with its code."""

    value: Callable[[str], float]
    code: str = ""
    name: str = ""
    why: str = ""


def _number(cell: str) -> float:
    if "_" in cell:  # float() takes 12_34, which in a table is an identifier
        raise ValueError(cell)
    return float(cell)


def _truth(cell: str) -> float:
    try:
        return TRUTH[cell.lower()]
    except KeyError:
        raise ValueError(cell) from None


def _date(cell: str) -> float:
    date = datetime.fromisoformat(cell)
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() / DAY


READINGS = (
    Reading(_number),
    Reading(_truth, "DA103", "truth values are read as 0 and 1", "networks compute with numbers"),
    Reading(_date, "DA104", "dates are read as days since 1970-01-01", "networks compute with numbers"),
)


def from_frame(frame: Any, where: str) -> Parts:
    """The rows of a pandas data frame; the same rules as for a file hold for its columns."""
    columns = [frame.iloc[:, position] for position in range(frame.shape[1])]
    cells = [
        ["" if missing else str(value) for value, missing in zip(column.tolist(), column.isna(), strict=True)]
        for column in columns
    ]
    counted = getattr(frame.index, "start", None) is not None  # a range, which names no row
    names = None if counted else [str(name) for name in frame.index]
    return as_parts(numbers(Cells(where, tuple(str(name) for name in frame.columns), cells, ())), names)


def as_parts(table: Table, names: Sequence[str] | None = None) -> Parts:
    """The parts of a source that a table brings; `names` are those of the rows before some were left out."""
    worded = table.rows.dtype == object
    kept = slice(None) if table.kept is None else table.kept
    called = None if names is None else np.array(names, object)[kept]
    said = tuple(table.findings)
    return Parts(table.rows, columns=table.columns, findings=said, worded=worded, names=called, empty=table.empty)


def is_value(cell: str) -> bool:
    """Whether a cell is missing, a number, a truth value or a date, and so is no name."""
    return cell.lower() in MISSING or any(_read([cell], reading) is not None for reading in READINGS)


def numbers_of(cells: Sequence[str]) -> np.ndarray | None:
    """A column's numbers, dates as days and NaN where one is missing, float64 [N]; None where a cell is text."""
    return next((found for reading in READINGS if (found := _read(cells, reading)) is not None), None)


def _read(cells: Sequence[str], reading: Reading) -> np.ndarray | None:
    """A column's numbers, or None where a cell cannot be read this way."""
    try:
        return np.array([np.nan if cell.lower() in MISSING else reading.value(cell) for cell in cells])
    except (ValueError, OverflowError):
        return None


def numbers(cells: Cells) -> Table:
    """A table of numbers from its text; columns and rows without any value are dropped.

    Where columns hold text or truth values, the rows are objects: text, floats, and None where an entry is missing.

    Raises:
        BadInput: for two columns of one name, text in a column of numbers, values beyond float64, and a table without a
            value.
    """
    _refuse_twins(cells)
    read = [next(((r, c) for r in READINGS if (c := _read(v, r)) is not None), None) for v in cells.values]
    _refuse_text(cells, [i for i, found in enumerate(read) if found is None])
    words = {i: _words(cells.values[i]) for i, found in enumerate(read) if found is None or _is_truth(cells.values[i])}
    read = [None if place in words else found for place, found in enumerate(read)]
    rows = np.stack([words[i][1] if found is None else found[1] for i, found in enumerate(read)], axis=1)
    _refuse_infinite(cells, rows)
    table = Table(cells.columns, rows)
    for reading in READINGS[1:]:
        columns = [name for name, found in zip(cells.columns, read, strict=True) if found and found[0] is reading]
        table.warn(
            reading.code,
            f"{reading.name}: {listed(columns)}",
            len(columns),
            "column",
            reading.why,
            "encode the columns yourself where you mean something else",
        )
    _note_large(cells, table)
    table = _without_empty(cells.where, table)
    return _worded(table, {cells.columns[i]: levels for i, (levels, _) in words.items()}) if words else table


def _is_truth(cells: Sequence[str]) -> bool:
    """Whether a column holds nothing but true and false, and what is missing."""
    found = {cell.lower() for cell in cells} - MISSING
    return bool(found) and found <= {"false", "true"}


def _words(cells: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The different texts of a column and None, and the place of each cell among them, NaN where it is missing."""
    levels, codes = np.unique(np.array(cells), return_inverse=True)
    missing = np.array([level.lower() in MISSING for level in levels.tolist()])
    return np.array([*levels.tolist(), None], object), np.where(missing[codes], np.nan, codes)


def _worded(table: Table, levels: dict[str, np.ndarray]) -> Table:
    """The table with the texts for their places; NaN becomes None."""
    rows = np.empty(table.rows.shape, object)
    for column, name in enumerate(table.columns):
        values = table.rows[:, column]
        if name in levels:
            rows[:, column] = levels[name][np.nan_to_num(values, nan=-1).astype(int)]
        else:
            rows[:, column] = [None if value != value else value for value in values.tolist()]
    table.rows = rows
    return table


def plural(count: float, unit: str) -> str:
    """The unit as it is written after the count."""
    return unit if count == 1 else f"{unit}s"


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _refuse_twins(cells: Cells) -> None:
    for position, name in enumerate(cells.columns):
        if (first := cells.columns.index(name)) != position:
            raise BadInput(
                cells.where,
                f"columns {first + 1} and {position + 1} both called {name}",
                "names must differ",
                "rename one",
            )


def _refuse_text(cells: Cells, positions: list[int]) -> None:
    """Refuses text in columns of which half or more are numbers: that is no category, but a slip."""
    positions = [place for place in positions if _mostly_numbers(cells.values[place])]
    if not positions:
        return
    column = cells.values[positions[0]]
    row = next(row for row, cell in enumerate(column) if _read([cell], READINGS[0]) is None)
    names = ", ".join(cells.columns[i] for i in positions)
    example = f"{column[row][:40]!r} in {cells.spot(row)}, column {cells.columns[positions[0]]}"
    rule = f"columns must hold numbers, and these do not: {names}"
    raise BadInput(cells.where, example, rule, "remove them or encode them as numbers")


def _mostly_numbers(cells: Sequence[str]) -> bool:
    known = [cell for cell in cells if cell.lower() not in MISSING]
    return 2 * sum(_read([cell], READINGS[0]) is not None for cell in known) >= len(known)


def _refuse_infinite(cells: Cells, rows: np.ndarray) -> None:
    for row, column in np.argwhere(np.isinf(rows))[:1]:
        what = f"{cells.values[column][row][:40]} in {cells.spot(row)}, column {cells.columns[column]}"
        raise BadInput(cells.where, what, "numbers must be finite", "correct it, or drop its row")


def _note_large(cells: Cells, table: Table) -> None:
    for column, name in enumerate(table.columns):
        sizes = np.nan_to_num(np.abs(table.rows[:, column]))
        large = [
            row for row in np.flatnonzero(sizes > EXACT_IN_FLOAT32).tolist() if _is_whole(cells.values[column][row])
        ]
        if large:
            table.findings.append(rounded(float(sizes[large].max()), f"column {name}"))


def _is_whole(cell: str) -> bool:
    return cell.lstrip("+-").isdigit()


def _without_empty(where: str, table: Table) -> Table:
    missing = np.isnan(table.rows)
    columns, rows = ~missing.all(axis=0), ~missing.all(axis=1)
    if not columns.any():
        raise BadInput(where, "a table without a single value", "must hold rows of numbers")
    empty = [name for name, kept in zip(table.columns, columns, strict=True) if not kept]
    table.warn(
        "DA101",
        f"columns without any value are left out: {listed(empty)}",
        len(empty),
        "column",
        "nothing can be learned from them",
        "remove them from the table",
    )
    table.warn(
        "DA102",
        "rows without any value are left out",
        int((~rows).sum()),
        "row",
        "nothing can be learned from them",
        "remove them from the table",
    )
    table.columns = tuple(name for name, kept in zip(table.columns, columns, strict=True) if kept)
    table.rows, table.kept, table.empty = table.rows[rows][:, columns], rows, tuple(empty)
    return table
