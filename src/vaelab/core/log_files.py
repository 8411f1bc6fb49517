"""Reading logs of scalars that others wrote: TensorBoard events, CSV, JSON lines and JSON.

No code runs and nothing is unpickled; lengths are checked against the file before memory is taken.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BadInput, MissingExtra
from .files import check_file, read_text, reason

Points = list[tuple[float, Any]]
LOG_BYTES = 64 << 20  # as Python objects some ten times as much; a number a step for a million steps is less
MAX_POINTS = 5_000_000  # some 500 MB of pairs
SCALAR_BYTES = 1 << 10  # an event of scalars takes some 60 bytes; what is far longer is a picture, a graph, a histogram
MAX_FILES = 200
MAX_WIDTH = 65_536  # entries of a list in one cell: latent dimensions at most
MAX_DEPTH = 4  # of objects in objects: train/loss/kl and one more
CLOCKS = ("step", "global_step", "_step", "iteration", "iter", "it", "steps", "epoch", "epochs")
ABSENT = frozenset({"", "na", "n/a", "none", "null", "-"})
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "eval", "evaluation", "test", "dev"})
# Of a clock's values, this share at least differ: below, it starts anew every epoch or never moves. A run that was
# started again from scratch in the same file has every step twice.
DISTINCT_STEPS = 0.4
GAPS = 0.3  # share of a column's rows
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)


@dataclass
class LogFile:
    """The scalars of a log, as they stand there.

    Args:
        kind: What the file is, such as "CSV".
        columns: (step, value) by tag, in the file's order; a value is a number, a list of numbers, or None where it
            was not finite.
        left_out: Why, by tag.
        clock: What the steps are.
        cut: Where the log breaks off; empty where it is whole.
        rows: The records of a log of records, as they were read.
    """

    kind: str
    columns: dict[str, Points]
    left_out: dict[str, str] = field(default_factory=dict)
    clock: str = "step"
    cut: str = ""
    rows: Sequence[Mapping[str, Any]] = ()


def read_log_file(path: str | os.PathLike[str]) -> LogFile:
    """The scalars of a file of events, a folder of such files, a table or a file of JSON; told apart by content.

    Raises:
        BadInput: for a file that is missing, empty, too large, damaged from the start, or without any number.
        MissingExtra: for events where TensorBoard is not installed.
    """
    path = Path(path)
    events = path.is_dir() or "tfevents" in path.name
    log = _read_events(path) if events else _read_text_log(path)
    if not log.columns:
        there = f"; left out: {', '.join(sorted(log.left_out)[:8])}" if log.left_out else ""
        raise BadInput(str(path), f"{log.kind} without numbers{there}", "must hold numbers by name", "name another log")
    return log


# TensorBoard events


class _Damage(Exception):
    """The records of a file end before the file does."""


def _read_events(path: Path) -> LogFile:
    folders: dict[str, dict[str, Points]] = {}
    cuts = []
    for file in _event_files(path):
        folder = file.parent.relative_to(path).as_posix() if path.is_dir() else "."
        columns = folders.setdefault(folder, {})
        try:
            _add_events(file, columns)
        except _Damage as damage:
            cuts.append(f"{file.name}: {damage}")
    _check_one_run(path, folders)
    prefixed = {
        tag if len(folders) == 1 or folder == "." else f"{folder}/{tag}": points
        for folder, columns in folders.items()
        for tag, points in columns.items()
    }
    if not prefixed and cuts:
        raise BadInput(str(path), None, f"is no log of events, or damaged ({cuts[0]})", "copy it again")
    return LogFile("TensorBoard events", prefixed, cut="; ".join(cuts))


def _event_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [check_file(path)]
    files = sorted(file for file in path.rglob("*tfevents*") if file.is_file() and file.stat().st_size)
    if not files:
        others = sorted(file.name for file in path.iterdir() if file.suffix in (".csv", ".json", ".jsonl"))[:5]
        fix = f"name a file: {', '.join(others)}" if others else "name a folder of *.tfevents* files, or a file"
        raise BadInput(str(path), "a folder without events", "must hold a log", fix)
    if len(files) > MAX_FILES:
        raise BadInput(str(path), f"{len(files)} files of events", "must be one run", "name the folder of one run")
    return files


def _check_one_run(path: Path, folders: Mapping[str, Mapping[str, Points]]) -> None:
    """Folders that log the same tags are runs of their own, unless their names tell training from validation."""
    seen: dict[str, str] = {}
    for folder, columns in folders.items():
        words = set(re.split(r"[^a-z]+", Path(folder).name.lower()))
        for tag in columns if not words & SPLITS else ():
            if (other := seen.setdefault(tag, folder)) != folder:
                raise BadInput(str(path), f"several runs: {other}, {folder}", "must be one run", "name one of them")


def _add_events(path: Path, columns: dict[str, Points]) -> None:
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    except ImportError:
        raise MissingExtra("tensorboard", "tensorboard", "reading TensorBoard events") from None
    count = sum(len(points) for points in columns.values())
    for record in _records(path, masked_crc32c):
        try:
            event = Event.FromString(record)
        except Exception as error:  # the parser's own class, which depends on how protobuf was built
            raise _Damage(f"a record that is no event ({reason(error)})") from None
        for value in event.summary.value:
            number = _scalar(value)
            if number is not None:
                columns.setdefault(value.tag, []).append((float(event.step), _finite(number)))
                count += 1
        if count > MAX_POINTS:
            raise BadInput(str(path), f"more than {MAX_POINTS} numbers", "is too large to be read whole", "thin it out")


def _records(path: Path, checksum: Callable[[bytes], int]) -> Iterator[bytes]:
    """The short records of a file: length, checksum, bytes, checksum; long ones hold no scalars and are passed over."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        while head := handle.read(12):
            if len(head) < 12:
                raise _Damage("cut short in the last record")
            length, check = struct.unpack("<QI", head)
            if checksum(head[:8]) != check:
                raise _Damage(f"a wrong checksum at byte {handle.tell() - 12}")
            if length + 4 > size - handle.tell():
                raise _Damage("cut short in the last record")
            if length > SCALAR_BYTES:
                handle.seek(length + 4, os.SEEK_CUR)
                continue
            record = handle.read(length)
            if struct.unpack("<I", handle.read(4))[0] != checksum(record):
                raise _Damage(f"a wrong checksum at byte {handle.tell() - 4}")
            yield record


def _scalar(value: Any) -> float | None:
    """The number of a summary, old style or a tensor of one number; None for anything else."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or math.prod(d.size for d in value.tensor.tensor_shape.dim) != 1:
        return None
    from tensorboard.util.tensor_util import make_ndarray

    try:
        array = make_ndarray(value.tensor)
        return float(array.reshape(-1)[0]) if array.dtype.kind in "fiu" else None
    except (TypeError, ValueError, IndexError):
        return None


# Tables and JSON


def _read_text_log(path: Path) -> LogFile:
    text = read_text(path, LOG_BYTES)
    if not text.strip():
        raise BadInput(str(path), "nothing but blanks", "must hold numbers by name")
    if text.lstrip()[0] in "{[":
        return _from_rows("JSON", *_json_rows(text, str(path)))
    return _from_rows("CSV", *_csv_rows(text, str(path)))


def _json_rows(text: str, where: str) -> tuple[list[Mapping[str, Any]], str]:
    """Records of JSON lines, of a list of objects, of `log_history` in a trainer's state, or of an object of lists."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _json_lines(text, where)
    if isinstance(value, dict):
        history = value.get("log_history", value.get("history"))
        value = history if isinstance(history, list | dict) else value
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        length = max(len(column) for column in value.values())
        value = [{tag: column[i] for tag, column in value.items() if i < len(column)} for i in range(length)]
    return _objects(value if isinstance(value, list) else [value], where), ""


def _json_lines(text: str, where: str) -> tuple[list[Mapping[str, Any]], str]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    values: list[Any] = []
    for number, line in lines:
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number == lines[-1][0] and values:
                return _objects(values, where), f"cut short in line {number}"
            raise BadInput(where, None, f"line {number} is not valid JSON ({reason(error)})", "mend it") from None
    return _objects(values, where), ""


def _objects(values: Sequence[Any], where: str) -> list[Mapping[str, Any]]:
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise BadInput(where, f"a {type(value).__name__} as record {number}", 'must be objects such as {"loss": 1}')
    return list(values)


def _csv_rows(text: str, where: str) -> tuple[list[Mapping[str, Any]], str]:
    """Records of a table with a header; a header that stands again, after a restart, is passed over."""
    first = text.lstrip().splitlines()[0]
    mark = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=mark, skipinitialspace=True, strict=True)
    try:
        records = [(reader.line_num, [cell.strip() for cell in record]) for record in reader if any(record)]
    except csv.Error as error:
        raise BadInput(where, None, f"is broken in line {reader.line_num}: {error}", "mend the quotes") from None
    if not records:
        raise BadInput(where, "no cells", "must hold a header and rows")
    header = [name or f"column_{i}" for i, name in enumerate(records[0][1], 1)]
    if all(_number(name) is not _ABSENT for name in header):
        raise BadInput(where, "a first line of numbers", "must begin with the columns' names", "add a line of names")
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise BadInput(where, f"two columns called {twice}", "must have names of their own", "rename one")
    rows: list[Mapping[str, Any]] = []
    cut = ""
    for line, record in records[1:]:
        if len(record) != len(header):
            if line != records[-1][0]:
                what = f"{len(record)} cells in line {line}"
                raise BadInput(where, what, f"must be {len(header)} as in the first line", "mend the line")
            cut = f"cut short in line {line}"
        elif record != records[0][1]:
            commas = mark != ","
            rows.append({tag: _point(cell) if commas else cell for tag, cell in zip(header, record, strict=True)})
    return rows, cut


def _point(cell: str) -> str:
    """A decimal comma as a point; only where commas separate nothing."""
    return cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell


_ABSENT = object()


def _number(cell: Any) -> Any:
    """A float, a list of floats, None for what is not finite, `_ABSENT` for what is no number."""
    if isinstance(cell, str):
        return _finite(float(cell)) if NUMBER.fullmatch(cell) else _ABSENT
    if isinstance(cell, list):
        entries = [_number(entry) for entry in cell] if 0 < len(cell) <= MAX_WIDTH else [_ABSENT]
        plain = all(entry is None or isinstance(entry, float) for entry in entries)
        return [math.nan if entry is None else entry for entry in entries] if plain else _ABSENT
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return _ABSENT
    try:
        return _finite(float(cell))
    except OverflowError:
        return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _flat(record: Mapping[str, Any], prefix: str = "", depth: int = MAX_DEPTH) -> Iterator[tuple[str, Any]]:
    """Cells by name, those of an object inside under its name and a slash."""
    for key, cell in record.items():
        if isinstance(cell, dict) and depth:
            yield from _flat(cell, f"{prefix}{key}/", depth - 1)
        else:
            yield f"{prefix}{key}", cell


def _from_rows(kind: str, rows: Sequence[Mapping[str, Any]], cut: str) -> LogFile:
    cells: dict[str, dict[int, Any]] = {}
    left_out: dict[str, str] = {}
    for index, row in enumerate(rows):
        for tag, cell in _flat(row):
            value = _number(cell)
            if value is not _ABSENT:
                cells.setdefault(tag, {})[index] = value
            elif str(cell).strip().lower() not in ABSENT and not (tag in cells and index == len(rows) - 1):
                left_out[tag] = "holds what is no number"  # but in the last row, which may be half written
    for tag in left_out:
        cells.pop(tag, None)
    clock, steps = _clock(cells, len(rows))
    columns: dict[str, Points] = {}
    for tag, column in cells.items():
        if _clock_name(tag) in CLOCKS:
            left_out[tag] = "counts steps"
        else:
            columns[tag] = [(steps[index], value) for index, value in _without_gaps(column).items()]
    return LogFile(kind, columns, left_out, clock, cut, rows)


def _without_gaps(column: dict[int, Any]) -> dict[int, Any]:
    """Without NaN where it says that a row has no such number: in many rows, and not in all of the last ones.

    A loss that became NaN in so many rows stays so up to the end.
    """
    holes = sum(value is None for value in column.values())
    late = list(column.values())[-math.ceil(GAPS * len(column)) :]
    gaps = holes > GAPS * len(column) and any(value is not None for value in late)
    return {index: value for index, value in column.items() if value is not None} if gaps else column


def _clock_name(tag: str) -> str:
    return re.split(r"[/.]", tag.lower())[-1]


def _clock(cells: Mapping[str, Mapping[int, Any]], count: int) -> tuple[str, Sequence[float]]:
    """What counts the steps, and its value by row: the first clock that moves on over the longest column's rows."""
    clocks = sorted((CLOCKS.index(_clock_name(tag)), tag) for tag in cells if _clock_name(tag) in CLOCKS)
    longest: Mapping[int, Any] = max(
        (column for tag, column in cells.items() if _clock_name(tag) not in CLOCKS), key=len, default={}
    )
    for _, tag in clocks:
        steps, last = [], 0.0
        for index in range(count):
            value = cells[tag].get(index)
            last = value if isinstance(value, float) else last
            steps.append(last)
        if len({steps[index] for index in longest}) >= DISTINCT_STEPS * len(longest):
            return tag, steps
    return "row number", range(1, count + 1)
