"""Tables in text files: separators, headers, quotes and decimal commas."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

from ..core.errors import BadInput
from ..core.files import read_text
from ..core.finding import Finding
from .arrays import Parts, column_name
from .tables import Cells, Table, as_parts, is_value, numbers
from .text import as_strings
from .text_columns import LOOKED_AT, column_of, is_text, lines_of_text

DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")


def from_text(path: Path, text_column: str | None = None) -> Parts:
    """The rows of a text table, see `read_table`; or the strings of a file that holds strings."""
    where, text = str(path), read_text(path)
    if text_column is None and (lines := lines_of_text(path, text)):
        return Parts(as_strings(lines, where))
    delimiter = _delimiter(text)
    if text_column is not None or _is_one_column(text, delimiter):
        _, (names, *rows) = _records(text, delimiter, where)
        values = [[row[i] if i < len(row) else "" for row in rows] for i in range(len(names))]
        if text_column is not None or is_text(values[0]):
            return column_of(names, values, text_column, where)
    return as_parts(read_table(path))


def _is_one_column(text: str, delimiter: str) -> bool:
    """Whether the first lines have nothing to separate, and some rows follow a header."""
    lines = [line for line in text[:1_000_000].splitlines() if line.strip()][:LOOKED_AT]
    return len(lines) > 1 and delimiter == "," and not any("," in re.sub(r'"[^"]*"', "", line) for line in lines)


class Written(NamedTuple):
    """A table as it was written.

    Args:
        names: Of the columns; "" where the header has none.
        values: The text of each cell, [D][N].
        lines: Of the rows in the file, N.
        delimiter: Between cells.
        bare: Whether there is no header, so that columns are called column_1, column_2, and so on.
    """

    names: list[str]
    values: list[list[str]]
    lines: list[int]
    delimiter: str
    bare: bool


def read_cells(path: Path) -> Written:
    """The text of every cell of a table of comma-, semicolon-, tab- or space-separated text, gzipped or not.

    A first line of values alone is a row and not a header.

    Raises:
        BadInput: naming the line of a ragged row or a broken quote; also for a table without rows.
    """
    where = str(path)
    text = read_text(path)
    delimiter = _delimiter(text)
    lines, records = _records(text, delimiter, where)
    if not records:
        raise BadInput(where, "no lines but blank ones", "must hold rows of numbers")
    bare = all(is_value(cell) for cell in records[0])
    names = [column_name(i) if bare else name for i, name in enumerate(records[0])]
    rows, lines = (records, lines) if bare else (records[1:], lines[1:])
    if not rows:
        raise BadInput(where, "a header and no rows", "must hold rows of numbers")
    for row, (line, record) in enumerate(zip(lines, rows, strict=True), 1):
        if len(record) != len(names):
            what = f"{len(record)} cells in row {row} (line {line})"
            raise BadInput(where, what, f"must be {len(names)} as in the first line", "mend the line")
    values = [list(column) for column in zip(*rows, strict=True)]
    return Written(names, values, lines, delimiter, bare)


def read_table(path: Path) -> Table:
    """A table of numbers and words from text, see `read_cells`.

    Raises:
        BadInput: likewise, for columns of one name, and for every column that holds text among numbers.
    """
    where = str(path)
    names, values, lines, delimiter, bare = read_cells(path)
    commas = 0 if delimiter == "," else turn_decimal_commas(values)
    table = numbers(Cells(where, tuple(name or column_name(i) for i, name in enumerate(names)), values, lines))
    table.warn(
        "DA105",
        "decimal commas are read as points",
        commas,
        "cell",
        "numbers such as 1,5 stand between other separators",
        "write numbers with points",
    )
    table.warn(
        "DA106",
        "columns without a name are called by their position",
        sum(not name for name in names),
        "column",
        "the header has empty cells",
        "name the columns",
    )
    if bare:
        why = "the first line holds values alone"
        table.findings.append(
            Finding(
                "DA107", "info", "no header: columns are called column_1, ...", why=why, advice="add a line of names"
            )
        )
    return table


def _delimiter(text: str) -> str:
    """The separator of the first line; blanks count only where the second line has as many fields."""
    filled = (line for line in text[:1_000_000].splitlines() if line.strip())
    first, second = next(filled, ""), next(filled, "")
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


def turn_decimal_commas(values: list[list[str]]) -> int:
    """Writes numbers such as 1,5 with a point, in place, and says how many."""
    count = 0
    for column in values:
        for row, cell in enumerate(column):
            if "," in cell and DECIMAL_COMMA.fullmatch(cell):
                column[row] = cell.replace(",", ".")
                count += 1
    return count
