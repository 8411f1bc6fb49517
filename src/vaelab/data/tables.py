"""Text tables and data frames: columns of numbers, with truth values and dates turned into numbers and said so."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import BadInput
from ..core.files import read_text
from ..core.finding import Finding
from .arrays import EXACT_IN_FLOAT32, Parts, column_name, rounded

MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
TRUTH = {"false": 0.0, "true": 1.0, "0": 0.0, "1": 1.0}
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
DAY = 86_400.0


@dataclass
class Table:
    """A table of numbers.

    Args:
        columns: Names, one a column.
        rows: float64 [N, D]; a missing entry is NaN.
        findings: What was met while reading.
    """

    columns: tuple[str, ...]
    rows: np.ndarray
    findings: list[Finding] = field(default_factory=list)

    def warn(self, code: str, title: str, measured: float, unit: str, why: str, advice: str) -> None:
        """Adds a warning where `measured` is above 0."""
        if measured:
            self.findings.append(Finding(code, "warning", title, measured, unit, why=why, advice=advice))


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


def from_text(path: Path) -> Parts:
    """The rows of a text table; see `read_table`."""
    return _parts(read_table(path))


def from_frame(frame: Any, where: str) -> Parts:
    """The rows of a pandas data frame; the same rules as for a file hold for its columns."""
    columns = [frame.iloc[:, position] for position in range(frame.shape[1])]
    cells = [
        ["" if missing else str(value) for value, missing in zip(column.tolist(), column.isna(), strict=True)]
        for column in columns
    ]
    return _parts(numbers(Cells(where, tuple(str(name) for name in frame.columns), cells, ())))


def _parts(table: Table) -> Parts:
    return Parts(table.rows, columns=table.columns, findings=tuple(table.findings))


def read_table(path: Path) -> Table:
    """A table from comma-, semicolon-, tab- or space-separated text, gzipped or not.

    A first line of values alone is a row and not a header; its columns are then called column_1, column_2, and so on.

    Raises:
        BadInput: naming the line of a ragged row or a broken quote, columns of one name, and every column that holds
            text; also for a table without rows.
    """
    where = str(path)
    text = read_text(path)
    delimiter = _delimiter(text)
    lines, records = _records(text, delimiter, where)
    if not records:
        raise BadInput(where, "no lines but blank ones", "must hold rows of numbers")
    bare = all(_is_value(cell) for cell in records[0])
    names = [column_name(i) if bare else name for i, name in enumerate(records[0])]
    rows, lines = (records, lines) if bare else (records[1:], lines[1:])
    if not rows:
        raise BadInput(where, "a header and no rows", "must hold rows of numbers")
    for row, (line, record) in enumerate(zip(lines, rows, strict=True), 1):
        if len(record) != len(names):
            what = f"{len(record)} cells in row {row} (line {line})"
            raise BadInput(where, what, f"must be {len(names)} as in the first line", "mend the line")
    values = [list(column) for column in zip(*rows, strict=True)]
    commas = 0 if delimiter == "," else _turn_decimal_commas(values)
    table = numbers(Cells(where, tuple(name or column_name(i) for i, name in enumerate(names)), values, lines))
    table.warn("DA105", "decimal commas are read as points", commas, "cells",
               "numbers such as 1,5 stand between other separators", "write numbers with points")  # fmt: skip
    table.warn("DA106", "columns without a name are called by their position", sum(not name for name in names),
               "columns", "the header has empty cells", "name the columns")  # fmt: skip
    if bare:
        table.findings.append(Finding("DA107", "info", "no header: columns are called column_1, column_2, ...",
                                      why="the first line holds values alone", advice="add a line of names"))  # fmt: skip
    return table


def _delimiter(text: str) -> str:
    """The separator of the first line; blanks count only where the second line has as many fields."""
    first, second = [*(line for line in text[:1_000_000].splitlines() if line.strip())[:2], "", ""][:2]
    unquoted = re.sub(r'"[^"]*"', "", first)
    marks = [mark for mark in "\t;," if mark in unquoted]
    blanks = len(first.split()) == len(second.split()) > 1
    return marks[0] if marks else " " if blanks else ","


def _records(text: str, delimiter: str, where: str) -> tuple[list[int], list[list[str]]]:
    lines: list[int] = []
    records: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            record = [cell.strip() for cell in (" ".join(cells).split() if delimiter == " " else cells)]
            if any(record) or len(record) > 1:
                records.append(record)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise BadInput(where, None, f"is broken in line {reader.line_num}: {error}", "mend the quotes") from None
    return lines, records


def _is_value(cell: str) -> bool:
    return cell.lower() in MISSING or any(_read([cell], reading) is not None for reading in READINGS)


def _read(cells: Sequence[str], reading: Reading) -> np.ndarray | None:
    """A column's numbers, or None where a cell cannot be read this way."""
    try:
        return np.array([np.nan if cell.lower() in MISSING else reading.value(cell) for cell in cells])
    except (ValueError, OverflowError):
        return None


def _turn_decimal_commas(values: list[list[str]]) -> int:
    count = 0
    for column in values:
        for row, cell in enumerate(column):
            if "," in cell and DECIMAL_COMMA.fullmatch(cell):
                column[row] = cell.replace(",", ".")
                count += 1
    return count


def numbers(cells: Cells) -> Table:
    """A table of numbers from its text; columns and rows without any value are dropped.

    Raises:
        BadInput: for two columns of one name, text, values beyond float64, and a table without a value.
    """
    _refuse_twins(cells)
    read = [next(((r, c) for r in READINGS if (c := _read(v, r)) is not None), None) for v in cells.values]
    _refuse_text(cells, [i for i, found in enumerate(read) if found is None])
    rows = np.stack([found[1] for found in read if found], axis=1)
    _refuse_infinite(cells, rows)
    table = Table(cells.columns, rows)
    for reading in READINGS[1:]:
        columns = [name for name, found in zip(cells.columns, read, strict=True) if found and found[0] is reading]
        table.warn(reading.code, f"{reading.name}: {listed(columns)}", len(columns), "columns", reading.why,
                   "encode the columns yourself where you mean something else")  # fmt: skip
    _note_large(cells, table)
    return _without_empty(cells.where, table)


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _refuse_twins(cells: Cells) -> None:
    for position, name in enumerate(cells.columns):
        if (first := cells.columns.index(name)) != position:
            raise BadInput(cells.where, f"columns {first + 1} and {position + 1} both called {name}",
                           "names must differ", "rename one")  # fmt: skip


def _refuse_text(cells: Cells, positions: list[int]) -> None:
    if not positions:
        return
    column = cells.values[positions[0]]
    row = next(row for row, cell in enumerate(column) if _read([cell], READINGS[0]) is None)
    names = ", ".join(cells.columns[i] for i in positions)
    example = f"{column[row][:40]!r} in {cells.spot(row)}, column {cells.columns[positions[0]]}"
    rule = f"columns must hold numbers, and these do not: {names}"
    raise BadInput(cells.where, example, rule, "remove them or encode them as numbers")


def _refuse_infinite(cells: Cells, rows: np.ndarray) -> None:
    for row, column in np.argwhere(np.isinf(rows))[:1]:
        what = f"{cells.values[column][row][:40]} in {cells.spot(row)}, column {cells.columns[column]}"
        raise BadInput(cells.where, what, "numbers must be finite", "correct it, or leave the cell empty")


def _note_large(cells: Cells, table: Table) -> None:
    for column, name in enumerate(table.columns):
        sizes = np.nan_to_num(np.abs(table.rows[:, column]))
        large = [row for row in np.flatnonzero(sizes > EXACT_IN_FLOAT32) if _is_whole(cells.values[column][row])]
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
    table.warn("DA101", f"columns without any value are left out: {listed(empty)}", len(empty), "columns",
               "nothing can be learned from them", "remove them from the table")  # fmt: skip
    table.warn("DA102", "rows without any value are left out", int((~rows).sum()), "rows",
               "nothing can be learned from them", "remove them from the table")  # fmt: skip
    table.columns = tuple(name for name, kept in zip(table.columns, columns, strict=True) if kept)
    table.rows = table.rows[rows][:, columns]
    return table
