"""Reading Parquet files as columns of cells: sizes are looked at first; only numbers, text and dates are read."""

from __future__ import annotations

import json
import os
from typing import Any

from .errors import BadInput, MissingExtra
from .files import TEXT_BYTES, check_file, reason
from .units import readable_bytes

MOST_CELLS = 2**26  # each becomes text for a while, some 60 bytes
ROWS_AT_ONCE = 2**16


def read_parquet(path: str | os.PathLike[str]) -> tuple[list[str], list[list[Any]], list[str] | None]:
    """A Parquet file's columns: their names, their entries (None where one is missing), and the rows' own names.

    The rows' names are the index that pandas wrote, where it is no count; it is then no column.

    Raises:
        BadInput: for what `check_file` refuses, another format, a damaged file, no rows, columns of lists or bytes, and
            more than can be read whole.
        MissingExtra: without the package.
    """
    path, where = check_file(path), str(path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "data", "reading .parquet") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as probe:
            _check(probe, where)
            words = [one.name for one in probe.schema_arrow if pyarrow.types.is_string(one.type)]
        with pyarrow.parquet.ParquetFile(path, read_dictionary=words) as file:
            table = _read(file, where)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, NotImplementedError) as error:
        if isinstance(error, BadInput):
            raise
        fix = "write it again, such as with DataFrame.to_parquet"
        raise BadInput(where, None, f"is no Parquet file, or is damaged ({reason(error)})", fix) from None
    index = _index_of(table.schema)
    names = [str(name) for name in table.column(index).to_pylist()] if index else None
    kept = [name for name in table.column_names if name != index]
    return kept, [table.column(name).to_pylist() for name in kept], names


def _check(file: Any, where: str) -> None:
    """Refuses what cannot be read whole, and columns that are no numbers, text, truth values or dates."""
    import pyarrow

    rows, schema = file.metadata.num_rows, file.schema_arrow
    if not rows or not len(schema):
        raise BadInput(where, f"{rows} rows of {len(schema)} columns", "must hold rows of numbers")
    if rows * len(schema) > MOST_CELLS:
        rule = f"at most {MOST_CELLS} cells are read whole"
        raise BadInput(where, f"{rows} rows of {len(schema)} columns", rule, "write the rows as .npy")
    if twins := [name for name in schema.names if schema.names.count(name) > 1]:
        raise BadInput(where, f"columns both called {twins[0]}", "names must differ", "rename one")
    kinds = pyarrow.types
    for one in schema:
        kind = one.type.value_type if kinds.is_dictionary(one.type) else one.type
        plain = (kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_string, kinds.is_large_string)
        further = (kinds.is_timestamp, kinds.is_date, kinds.is_decimal, kinds.is_null)
        if not any(fits(kind) for fits in (*plain, *further)):
            raise BadInput(where, f"{one.type} in column {one.name}", "columns must hold numbers, text or dates")


def _read(file: Any, where: str) -> Any:
    """The table, batch by batch; text stays in dictionaries, so that repeats of one long text take no memory."""
    import pyarrow

    parts, size = [], 0
    for part in file.iter_batches(ROWS_AT_ONCE):
        parts.append(part)
        if (size := size + part.nbytes) > TEXT_BYTES:
            raise BadInput(
                where, f"more than {readable_bytes(TEXT_BYTES)}", "is too large to be read whole", "use .npy"
            )
    table = pyarrow.Table.from_batches(parts)
    for name in table.column_names:
        longest = max(_lengths(table.column(name)), default=0)
        if 4 * longest * len(table) > TEXT_BYTES:
            raise BadInput(where, f"a text of {longest} characters in column {name}", "is too long for that many rows")
    return table


def _lengths(column: Any) -> list[int]:
    import pyarrow

    if not pyarrow.types.is_dictionary(column.type):
        return []
    return [len(text or "") for part in column.chunks for text in map(str, part.dictionary.to_pylist())]


def _index_of(schema: Any) -> str | None:
    """The column that pandas wrote its index to; None where it counts the rows."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    except (ValueError, AttributeError, RecursionError):
        return None
    named = [one for one in noted if isinstance(one, str) and one in schema.names]
    return named[0] if len(named) == 1 and len(schema.names) > 1 else None
