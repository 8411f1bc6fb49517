"""Where a table or a file holds strings to learn, and no numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import BadInput, did_you_mean
from ..core.finding import Finding
from .arrays import Parts
from .tables import is_value, listed, plural
from .text import are_strings, as_strings

LOOKED_AT = 100  # cells or lines that tell strings from numbers


def is_text(cells: Sequence[str]) -> bool:
    """Whether most of the first cells are neither numbers nor truth values nor dates nor missing."""
    some = cells[:LOOKED_AT]
    return 2 * sum(map(is_value, some)) < len(some)


def lines_of_text(path: Path, text: str) -> list[str]:
    """The strings of a file with one a line: a .smi, whose first words they are, or a .txt that is no table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if ".smi" in path.suffixes:
        return [line.split()[0] for line in lines]
    cells = [re.split(r"[\s,;]+", line) for line in lines[:LOOKED_AT]]
    widths = {len(line) for line in cells}
    table = len(widths) == 1 and widths != {1}
    return lines if ".txt" in path.suffixes and not table and is_text([line[0] for line in cells]) else []


def column_of(columns: Sequence[str], values: Sequence[Sequence[str]], column: str | None, where: str) -> Parts:
    """The strings of one of a table's columns; rows without one are left out, and said so.

    Args:
        columns: Names.
        values: Cells, column by column; an empty one is missing.
        column: The name; None: the only one.
        where: What an error calls the table.

    Raises:
        BadInput: where there is no such column.
    """
    if column is not None and column not in columns:
        raise BadInput("data.text_column", column, f"no column of {where}", did_you_mean(column, columns))
    cells = values[0 if column is None else list(columns).index(column)]
    filled = [cell for cell in cells if cell]
    others = [name for name in columns if name != column] if column is not None else []
    found = [_left_out(others)] if others else []
    found += [_empty(len(cells) - len(filled))] if len(filled) < len(cells) else []
    return Parts(as_strings(filled, where), findings=tuple(found))


def frame_of_text(frame: Any, where: str, column: str | None) -> Parts | None:
    """The strings of a data frame with one column of them, or of the column that is named; None where it has none."""
    columns = [str(name) for name in frame.columns]
    if column is None and (len(columns) != 1 or not are_strings(frame.iloc[:, 0].dropna())):
        return None
    values = [["" if missing else str(cell) for cell, missing in zip(one.tolist(), one.isna(), strict=True)]
              for one in (frame.iloc[:, position] for position in range(frame.shape[1]))]  # fmt: skip
    return column_of(columns, values, column, where) if column is not None or is_text(values[0]) else None


def _left_out(others: Sequence[str]) -> Finding:
    return Finding(
        "DA117",
        "info",
        f"columns beside data.text_column are left out: {listed(others)}",
        float(len(others)),
        plural(len(others), "column"),
        why="a model of strings reads strings alone",
    )


def _empty(count: int) -> Finding:
    return Finding(
        "DA118",
        "warning",
        "rows without a string are left out",
        float(count),
        plural(count, "row"),
        why="a missing string and an empty one look alike",
        advice="fill them in, or remove them",
    )
