"""Files of rows that were filled in; of a text table, what was written there stays as it was, to the letter."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import BadInput
from ..data.arrays import column_name
from ..data.tables import MISSING, numbers_of
from ..data.text_tables import Written, read_cells, turn_decimal_commas
from .files import refuse_twins, save
from .imputing import Imputation

WRITES = (".csv", ".tsv", ".txt")
COLUMNS = (*WRITES, ".parquet")  # files with columns by name
TEXTS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")


def refuse_columns(run: Any, path: str | Path, draws: int, interval: float | None) -> None:
    """Refuses an interval where the file has no columns for its ends, and columns that would bear one name."""
    if interval is not None and not (run.spec.layout == "table" and Path(path).suffix.lower() in COLUMNS):
        rule = f"its ends are columns of a table, and {Path(path).name} has none"
        table = run.spec.layout == "table"
        advice = "end --to in .csv or .parquet" if table else "leave it out; --draws 20 says as much"
        raise BadInput("interval", interval, rule, advice)
    if Path(path).suffix.lower() == ".parquet":
        beside = {"draw"} if draws else set[str]()
        beside |= {f"{name}_{end}" for name in run.spec.columns for end in ("low", "high") if interval is not None}
        refuse_twins(beside, run.spec.columns)


def columns_beside(run: Any, found: Imputation) -> dict[str, np.ndarray]:
    """Columns for rows that were filled in, or for all that were drawn: `draw` from 1, and ends of intervals."""
    count = len(found.missing)
    columns = {"draw": np.repeat(np.arange(1, len(found.draws) + 1), count)} if found.draws else {}
    if found.lower is not None and found.upper is not None:
        for at in _with_ends(found):
            for end, values in (("low", found.lower), ("high", found.upper)):
                columns[f"{run.spec.columns[at]}_{end}"] = np.tile(values[:, at], max(1, len(found.draws)))
    return columns


def _with_ends(found: Imputation) -> list[int]:
    """Columns of numbers of the model with something missing."""
    assert found.lower is not None
    return np.flatnonzero(~np.isnan(found.lower).all(0)).tolist()


def is_text(path: str | Path) -> bool:
    """Whether a file is a table in text, by its name."""
    return str(path).lower().endswith(TEXTS)


class TextTable:
    """A text table whose gaps a run can fill.

    Args:
        path: Of the file.
        run: Whose columns are read; others are left as they are.

    Attributes:
        rows: The model's columns as the run takes rows: numbers, or text in tables with words, [n, D].

    Raises:
        BadInput: for a column that the run was trained on and the table does not have, and for text among numbers.
    """

    def __init__(self, path: str | Path, run: Any) -> None:
        self.path, self.run = Path(path), run
        self.written: Written = read_cells(self.path)
        self.names = [name or column_name(at) for at, name in enumerate(self.written.names)]
        cells = [list(column) for column in self.written.values]
        self.decimal_commas = self.written.delimiter != "," and turn_decimal_commas(cells) > 0
        self.places = self._places()
        columns = [cells[place] for place in self.places]
        read = [self._column(at, column) for at, column in enumerate(columns)]
        self.rows = np.array(read, object if run.spec.mixed else np.float64).T

    def _places(self) -> list[int]:
        """Where the model's columns stand in the table."""
        wanted = self.run.spec.columns
        if self.written.bare and len(self.names) == len(wanted):
            return list(range(len(wanted)))
        for name in wanted:
            if name not in self.names:
                rule = "the model was trained on it"
                raise BadInput(str(self.path), f"no column {name!r}", rule, "add it to the table; it may be empty")
        return [self.names.index(name) for name in wanted]

    def _column(self, at: int, cells: Sequence[str]) -> Any:
        if self.run.spec.mixed:
            return cells
        found = numbers_of(cells)
        if found is None:
            row = next(row for row, cell in enumerate(cells) if numbers_of([cell]) is None)
            what = f"{cells[row][:40]!r} in line {self.written.lines[row]}, column {self.run.spec.columns[at]}"
            raise BadInput(str(self.path), what, "the column holds numbers", "correct it, or leave the entry empty")
        return found

    def save(self, found: Imputation, path: str | Path) -> Path:
        """Writes the best guess, or where tables were drawn all of them, with a first column `draw` from 1.

        Where intervals were asked for, columns `NAME_low` and `NAME_high` follow, empty where nothing was missing.

        Raises:
            BadInput: for another ending of the name, a folder, or a parent folder that is not there.
            NoSpace: where the system refuses to write.
        """
        tables = found.draws or (found.rows,)
        header = ["draw"] * bool(found.draws) + self.names + self._interval_names(found)
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self.written.delimiter, lineterminator="\n")
        if not (self.written.bare and len(header) == len(self.names)):
            writer.writerow(header)
        for number, table in enumerate(tables, 1):
            ends = self._intervals(found)
            for row, line in enumerate(self._lines(table)):
                writer.writerow([str(number)] * bool(found.draws) + line + ends[row])
        return save(path, dict.fromkeys(WRITES, str.encode), text.getvalue())

    def _lines(self, table: np.ndarray) -> list[list[str]]:
        """Cells of a completed table, row after row."""
        columns = [list(column) for column in self.written.values]
        for at, place in enumerate(self.places):
            for row, cell in enumerate(columns[place]):
                if cell.strip().lower() in MISSING:
                    columns[place][row] = self._text(table[row, at])
        return [list(line) for line in zip(*columns, strict=True)]

    def _text(self, value: Any) -> str:
        """A number with the fewest digits that read back to it in float32, and other values as they are."""
        text = str(np.float32(value)) if isinstance(value, float | np.floating) else str(value)
        return text.replace(".", ",") if self.decimal_commas and not isinstance(value, str) else text

    def _interval_names(self, found: Imputation) -> list[str]:
        if found.lower is None:
            return []
        columns = self.run.spec.columns
        return [f"{columns[at]}_{end}" for at in _with_ends(found) for end in ("low", "high")]

    def _intervals(self, found: Imputation) -> list[list[str]]:
        if found.lower is None or found.upper is None:
            return [[] for _ in self.rows]
        ends = np.stack([found.lower, found.upper], -1)[:, _with_ends(found)].reshape(len(self.rows), -1)
        return [["" if np.isnan(value) else self._text(float(value)) for value in row] for row in ends]
