"""Tables in Parquet files, by the rules of text tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.parquet_files import read_parquet
from .arrays import Parts
from .tables import Cells, as_parts, numbers
from .text_columns import column_of, is_text


def from_parquet(path: Path, text_column: str | None = None) -> Parts:
    """The rows of a Parquet file, or the strings of its only column or of the one that is named.

    Raises:
        BadInput: for what `read_parquet` and `numbers` refuse.
        MissingExtra: without the package.
    """
    where = str(path)
    columns, values, names = read_parquet(path)
    cells = [[_cell(entry) for entry in column] for column in values]
    if text_column is not None or (len(columns) == 1 and is_text(cells[0])):
        return column_of(columns, cells, text_column, where)
    return as_parts(numbers(Cells(where, tuple(columns), cells, ())), names)


def _cell(entry: Any) -> str:
    """An entry as the text that a CSV file would hold; "" where it is missing."""
    return "" if entry is None or entry != entry else str(entry)
