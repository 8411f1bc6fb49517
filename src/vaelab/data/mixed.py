"""Mixed tables: what each column is, how a row becomes numbers, and how numbers become a row again."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ..core.config import Config
from ..core.errors import BadInput, UnseenLevel, did_you_mean
from ..core.facts import Column
from ..core.finding import Finding
from .arrays import as_numpy, place
from .source import Source
from .tables import MISSING, listed, plural

FEW_VALUES = 10  # numbers with so few different values are categories, whatever the rows
MANY_WHOLE, MANY_REAL = 130, 20  # and whole or other numbers with so many, where ...
ROWS_EACH = 20  # ... there are so many rows for each of them
MOST_LEVELS = 1000  # of text
MOST_DECIMALS = 6
FLOAT32_DIGITS = 3e-7  # relative: what float32 rounds off, and some more
TRUTH = {"false": 0, "true": 1, "0": 0, "1": 1}


def as_mixed(source: Source, config: Config) -> Source:
    """The source of a mixed table with its rows in numbers, float32 [N, D], and with what its columns are.

    A table with columns of text or truth values is one; another becomes one by `likelihood=mixed` or `data.kinds`. Text
    and truth values are categories. Numbers are categories where they have few different values (`FEW_VALUES`, or with
    enough rows for each `MANY_WHOLE` whole and `MANY_REAL` other ones), else counts where they are whole and at least
    0, else numbers. Levels are those of all rows loaded, so that a held-out row has none that is not known. A column of
    text that hardly ever repeats is left out, and said so.

    Returns:
        The source as it is, where it is no mixed table.

    Raises:
        BadInput: for another likelihood on text, a kind that a column cannot have, and settings that scale columns.
    """
    worded = source.layout == "table" and source.train.dtype == object
    if not worded and config.likelihood.name != "mixed" and not config.data.kinds:
        return source
    _refuse(source, config, worded)
    source = _without_free_text(source, config.data.kinds or {})
    parts = [as_numpy(rows) for rows in (source.train, source.test) if rows is not None]
    together = np.concatenate(parts)
    kinds = config.data.kinds or {}
    columns = tuple(_column(name, together[:, at], kinds.get(name)) for at, name in enumerate(source.columns))
    train = encode(columns, as_numpy(source.train))
    test = None if source.test is None else encode(columns, as_numpy(source.test))
    return replace(source, train=train, test=test, mixed=columns, findings=(*source.findings, _chosen(columns)))


def encode(columns: Sequence[Column], rows: np.ndarray, where: str = "x") -> np.ndarray:
    """Rows [n, D] as a person has them, as float32 [n, D]: codes of levels, numbers, NaN where an entry is missing.

    Raises:
        BadInput: naming the row and the column of a level that no row had in training, of text among numbers, of an
            infinite number and of a count that is none.

    Example:
        >>> columns = Column("size", "number"), Column("colour", "category", ("blue", "red"))
        >>> encode(columns, np.array([[2.5, "red"], [None, "blue"]], dtype=object))
        array([[2.5, 1. ],
               [nan, 0. ]], dtype=float32)
    """
    found = np.full(rows.shape, np.nan, np.float32)
    names = tuple(column.name for column in columns)
    for at, column in enumerate(columns):
        read = _level_reader(column) if column.kind == "category" else _number_reader(column)
        known: dict[Any, float] = {}
        for row, cell in enumerate(rows[:, at].tolist()):
            if cell not in known:
                try:
                    known[cell] = read(cell)
                except ValueError as error:
                    rule, _, fix = str(error).partition("; ")
                    raise BadInput(where, f"{str(cell)[:40]!r} in {place((row, at), names)}", rule, fix) from None
            found[row, at] = known[cell]
    return found


def numbers_of(rows: np.ndarray, columns: tuple[str, ...]) -> np.ndarray:
    """Rows of objects [n, D] as float64, NaN where an entry is missing.

    Raises:
        BadInput: naming the row and the column of what is no number, where there are names for D columns.
    """
    found = np.empty(rows.shape)
    for index, cell in np.ndenumerate(rows):
        try:
            if isinstance(cell, str) and "_" in cell:  # float() takes 12_34, which in a table is an identifier
                raise ValueError(cell)
            found[index] = math.nan if is_missing(cell) else float(cell)
        except (TypeError, ValueError, OverflowError):
            where = place(index, columns if len(columns) == rows.shape[1] else ())
            rule, fix = "the model takes numbers", "correct it, or leave the entry empty"
            raise BadInput("x", f"{str(cell)[:40]!r} in {where}", rule, fix) from None
    return found


def unseen_levels(columns: Sequence[Column], rows: np.ndarray) -> np.ndarray:
    """Which entries of rows [n, D], as a person has them, are levels that no row had in training, bool [n, D].

    Example:
        >>> columns = Column("size", "number"), Column("colour", "category", ("blue", "red"))
        >>> unseen_levels(columns, np.array([[2.5, "green"], [None, "blue"]], dtype=object)).tolist()
        [[False, True], [False, False]]
    """
    found = np.zeros(rows.shape, bool)
    for at, column in enumerate(columns):
        if column.kind != "category":
            continue
        read, known = _level_reader(column), dict[Any, bool]()
        for row, cell in enumerate(rows[:, at].tolist()):
            if cell not in known:
                try:
                    known[cell] = read(cell) is None
                except ValueError:
                    known[cell] = cell not in (math.inf, -math.inf)  # which are refused
            found[row, at] = known[cell]
    return found


def without_unseen(columns: Sequence[Column], rows: np.ndarray) -> np.ndarray:
    """Rows [n, D] with levels that no row had in training taken as missing, of which a warning tells."""
    unseen = unseen_levels(columns, rows)
    if not unseen.any():
        return rows
    row, at = (int(index[0]) for index in unseen.nonzero())
    column, text = columns[at], str(rows[row, at])[:40]
    hints = [f"{int(unseen.sum())} in all, such as {text!r} in {place((row, at), tuple(c.name for c in columns))}"]
    if len(column.levels) <= FEW_VALUES or did_you_mean(text, column.levels).endswith("?"):
        hints.append(did_you_mean(text, column.levels))
    if column.levels_are == "numbers":
        hints.append(f"data.kinds={{{column.name}: number}} in training makes it a number")
    told = f"x: levels that no row had in training are taken as missing: {'; '.join(hints)}"
    warnings.warn(told, UnseenLevel, stacklevel=2)
    found = rows.astype(object)
    found[unseen] = None
    return found


def decode(columns: Sequence[Column], y: Tensor | np.ndarray) -> np.ndarray:
    """The inverse of `encode`: rows [..., D] of Python's own text, truth values, whole numbers and floats, as objects.

    Numbers have as many decimals as the table had; a missing entry is None.

    Example:
        >>> columns = Column("size", "number", decimals=1), Column("colour", "category", ("blue", "red"))
        >>> decode(columns, np.array([[2.4999, 1.0], [3.0, np.nan]])).tolist()
        [[2.5, 'red'], [3.0, None]]
    """
    values = np.asarray(y, np.float32)
    rows = np.empty(values.shape, object)
    for at, column in enumerate(columns):
        write = _level_writer(column) if column.kind == "category" else _number_writer(column)
        cells = [None if math.isnan(value) else write(value) for value in values[..., at].ravel().tolist()]
        rows[..., at] = np.array([*cells, None], object)[:-1].reshape(values.shape[:-1])
    return rows


class Metric:
    """Rows of a mixed table as points whose distances mean something: what compares rows with each other works there.

    Numbers and counts become standard scores; two different levels of a category are at distance 1; a missing entry is
    at the mean of the numbers, and at the same distance from all levels.

    Args:
        columns: D of them.
        reference: Coded rows [n, D], whose means and deviations the scores have.

    Example:
        >>> columns = Column("size", "number"), Column("colour", "category", ("blue", "red"))
        >>> Metric(columns, np.array([[1.0, 0], [3.0, 1]]))(np.array([[4.0, 1]])).round(3)
        array([[2.   , 0.   , 0.707]])
    """

    def __init__(self, columns: Sequence[Column], reference: np.ndarray) -> None:
        categories = [column.kind == "category" for column in columns]
        self.numbers = np.flatnonzero(~np.array(categories))
        self.levels = [(at, len(column.levels)) for at, column in enumerate(columns) if column.kind == "category"]
        known = np.ma.masked_invalid(np.asarray(reference, np.float64)[:, self.numbers])
        self.mean, std = known.mean(0).filled(0), known.std(0).filled(0)
        self.std = np.where(std > 0, std, 1.0)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Coded rows [n, D] as float64 [n, F]."""
        codes = np.asarray(rows, np.float64)
        scores = np.nan_to_num((codes[:, self.numbers] - self.mean) / self.std)
        shares = [(codes[:, [at]] == np.arange(levels)) * np.sqrt(0.5) for at, levels in self.levels]
        return np.concatenate([scores, *shares], axis=1)


def _refuse(source: Source, config: Config, worded: bool) -> None:
    if source.layout != "table" or not source.columns:
        raise BadInput("likelihood.name", "mixed", f"is for tables, and {source.name} holds images")
    if config.likelihood.name not in ("auto", "mixed"):
        names = [name for at, name in enumerate(source.columns) if worded and _is_text(source.train[:, at])]
        rule = f"columns must hold numbers, and these do not: {', '.join(names)}" if names else "data.kinds are given"
        fix = "likelihood=mixed, or a recipe: mixed-table or imputation-mixed"
        raise BadInput("likelihood.name", config.likelihood.name, rule, fix)
    for setting, off in (("scale", "auto"), ("binarize", "none")):
        if getattr(config.data, setting) != off:
            rule = "the columns of a mixed table are modelled as they are"
            raise BadInput(f"data.{setting}", getattr(config.data, setting), rule, f"leave data.{setting} out")
    for name in config.data.kinds or ():
        if name not in source.columns:
            raise BadInput("data.kinds", name, f"{source.name} has no such column", did_you_mean(name, source.columns))


def _without_free_text(source: Source, kinds: Mapping[str, str]) -> Source:
    """The source without columns of text that hardly ever repeats: such as names, which have no distribution."""
    free = [
        at
        for at, name in enumerate(source.columns)
        if name not in kinds and _is_text(source.train[:, at]) and _is_free(source.train[:, at])
    ]
    if not free:
        return source
    names, kept = [source.columns[at] for at in free], [at for at in range(len(source.columns)) if at not in free]
    if not kept:
        rule = "hold text that hardly ever repeats, and no other column is left"
        raise BadInput(source.name, f"columns {listed(names)}", rule, "data.text_column learns the strings of one")
    finding = Finding(
        "DA114",
        "warning",
        f"columns of text that hardly ever repeats are left out: {listed(names)}",
        len(free),
        plural(len(free), "column"),
        why="a level that comes once or twice says nothing that the next row could share",
        advice="remove them, group their values, or name one a category in data.kinds to keep it",
    )
    return replace(
        source,
        train=source.train[:, kept],
        test=None if source.test is None else source.test[:, kept],
        columns=tuple(source.columns[at] for at in kept),
        findings=(*source.findings, finding),
    )


def _is_text(cells: Any) -> bool:
    return cells.dtype == object and any(isinstance(cell, str) for cell in cells)


def _is_free(cells: Any) -> bool:
    levels, rows = len({cell for cell in cells if cell is not None}), sum(cell is not None for cell in cells)
    return levels > min(MOST_LEVELS, max(FEW_VALUES, rows / 2))


def _column(name: str, cells: np.ndarray, kind: str | None) -> Column:
    """What a column is, from all its cells [N] and the kind that was asked for."""
    if _is_text(cells):
        return _of_text(name, cells, kind)
    values = cells.astype(np.float64)
    found = np.unique(values[~np.isnan(values)]).astype(np.float32)
    missing, whole = bool(np.isnan(values).any()), bool((found == np.floor(found)).all())
    enough = (len(values) - np.isnan(values).sum()) / max(1, len(found)) >= ROWS_EACH
    few = len(found) <= FEW_VALUES or (enough and len(found) <= (MANY_WHOLE if whole else MANY_REAL))
    counts = whole and bool((found >= 0).all())
    if kind == "count" and not counts:
        wrong = next(value for value in found if value < 0 or value != np.floor(value))
        raise BadInput(
            "data.kinds", f"count for {name}", f"it holds {wrong:.6g}, and counts are 0, 1, 2, ...", "number"
        )
    kind = kind or ("category" if few else "count" if counts else "number")
    if kind == "category":
        return Column(name, kind, tuple(map(_number_text, found)), missing, "numbers")
    return Column(name, kind, (), missing, decimals=0 if kind == "count" else _decimals(found))


def _of_text(name: str, cells: np.ndarray, kind: str | None) -> Column:
    levels, missing = sorted({cell for cell in cells if cell is not None}), any(cell is None for cell in cells)
    if kind not in (None, "category"):
        raise BadInput("data.kinds", f"{kind} for {name}", f"it holds text, such as {levels[0]!r}", "category")
    if all(level.lower() in ("false", "true") for level in levels):
        return Column(name, "category", ("False", "True"), missing, "truth")
    return Column(name, "category", tuple(levels), missing)


def _decimals(values: np.ndarray) -> int | None:
    """Fewest digits after the point that lose nothing of the values; None: more than there is any point in."""
    exact = values.astype(np.float64)
    wide = range(MOST_DECIMALS + 1)
    return next((d for d in wide if np.allclose(exact.round(d), exact, rtol=FLOAT32_DIGITS, atol=0)), None)


def _chosen(columns: Sequence[Column]) -> Finding:
    said = {
        "category": lambda c: f"{len(c.levels)} {'numbers' if c.levels_are == 'numbers' else 'levels'}",
        "count": lambda c: "whole numbers",
        "number": lambda c: "real numbers",
    }
    names = {kind: [f"{c.name} ({said[kind](c)})" for c in columns if c.kind == kind] for kind in said}
    missing = [column.name for column in columns if column.missing]
    told = [f"{kind}: {', '.join(those)}" for kind, those in names.items() if those]
    return Finding(
        "DA003",
        "info",
        "a mixed table: every column has a distribution of its own",
        len(columns),
        plural(len(columns), "column"),
        evidence="; ".join(told) + (f"; entries are missing in {', '.join(missing)}" if missing else ""),
        why="text, truth values and numbers of few different values are categories; other whole numbers of at least 0 "
        "are counts, and what is left are numbers; missing entries are left out of the bound",
        advice="data.kinds names another kind by the column's name",
    )


def is_missing(cell: Any) -> bool:
    """None, NaN and what pandas writes for them, and text that says so."""
    if isinstance(cell, str):
        return cell.strip().lower() in MISSING
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or cell != cell


def _number_text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(np.float32(value))


def _level_reader(column: Column) -> Callable[[Any], float]:
    codes = TRUTH if column.levels_are == "truth" else {level: code for code, level in enumerate(column.levels)}
    as_text = LEVEL_TEXT[column.levels_are]
    equal: dict[float, list[str]] = {}  # levels by their value: a file of few rows may show 007 as a number
    for level in column.levels if column.levels_are == "text" else ():
        with contextlib.suppress(ValueError):
            equal.setdefault(float(level), []).append(level)

    def read(cell: Any) -> float:
        if is_missing(cell):
            return math.nan
        text = as_text(cell)
        if text not in codes and isinstance(cell, int | float) and len(equal.get(cell, ())) == 1:
            text = equal[cell][0]
        if text not in codes:
            hint = did_you_mean(text, column.levels)
            hint = f"{hint}{'' if hint.endswith('?') else ';'} " if hint else ""
            raise ValueError(f"no row had that level in training; {hint}correct it, or leave the entry empty")
        return codes[text]

    return read


def _plain_text(cell: Any) -> str:
    """Text as it is but for blanks at its ends, and numbers without a needless point."""
    return _number_text(cell) if isinstance(cell, float) else str(cell).strip()


def _as_number(cell: Any) -> str:
    """A number as its text, whether it came as one or as text; other text as it is."""
    try:
        return _number_text(float(cell))
    except (TypeError, ValueError, OverflowError):
        return str(cell)


LEVEL_TEXT: dict[str, Callable[[Any], str]] = {
    "text": _plain_text,
    "numbers": _as_number,
    "truth": lambda cell: _plain_text(cell).lower(),
}
LEVEL_VALUE: dict[str, Callable[[str], Any]] = {
    "text": str,
    "numbers": lambda level: int(level) if float(level).is_integer() else float(level),
    "truth": lambda level: level == "True",
}


def _number_reader(column: Column) -> Callable[[Any], float]:
    def read(cell: Any) -> float:
        if is_missing(cell):
            return math.nan
        try:
            value = float(cell)
        except (ValueError, TypeError):
            raise ValueError("the column holds numbers; correct it, or leave the entry empty") from None
        if not abs(value) <= np.finfo(np.float32).max:
            raise ValueError("numbers must be finite and within float32; correct it, or leave the entry empty")
        if column.kind == "count" and (value < 0 or not value.is_integer()):
            raise ValueError("the column holds whole numbers of at least 0; correct it, or leave the entry empty")
        return value

    return read


def _level_writer(column: Column) -> Callable[[float], Any]:
    values = [LEVEL_VALUE[column.levels_are](level) for level in column.levels]
    return lambda code: values[round(code)]


def _number_writer(column: Column) -> Callable[[float], Any]:
    decimals = column.decimals
    if decimals is None:
        return lambda value: float(str(np.float32(value)))
    return lambda value: round(value, decimals) if decimals else round(value)
