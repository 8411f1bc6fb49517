"""Conditions: what is given beside a row - its label, covariates, an embedding - and how new ones are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.config import Config
from ..core.errors import BadInput, did_you_mean
from .arrays import Parts, Rows, as_numpy, labels_of
from .source import Source

MISSING = ("", "-1", "nan", "None")  # a label that is not known, as text
SHOWN = 12  # names that an error lists
ARRAY = "array"


@dataclass(frozen=True)
class Conditioning:
    """How conditions are read: labels as one-hot vectors, numbers standardised by the training rows.

    Args:
        names: Of the entries: the labels, or what the numbers are called.
        mean, scale: Of each number; empty for labels.
        frequencies: Training rows of each label whose label is known; empty for numbers.

    Example:
        >>> Conditioning(("cat", "dog")).encode("dog", rows=2)
        tensor([[0., 1.],
                [0., 1.]])
    """

    names: tuple[str, ...]
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    frequencies: tuple[int, ...] = ()

    @property
    def labels(self) -> bool:
        """Whether the condition is a label."""
        return not self.scale

    def encode(self, given: Any, rows: int) -> Tensor:
        """Conditions as a person has them, one for all rows or one each, as the model reads them, float32 [rows, C].

        Args:
            given: A label's name or number, numbers in the order of `names`, a mapping from these to numbers, or a
                sequence of as many as there are rows. A label that is not known is -1, NaN, None or "".
            rows: How many rows they are for.

        Raises:
            BadInput: naming the row, and the label that no training row has or the number that is missing.
        """
        found = self._one_hot(given) if self.labels else self._standardised(given)
        if len(found) not in (1, rows):
            rule = f"there must be one for each of the {rows} rows, or one for all"
            raise BadInput("condition", f"{len(found)} of them", rule)
        return torch.from_numpy(found).expand(rows, -1).contiguous()

    def decode(self, condition: Tensor) -> np.ndarray:
        """The inverse of `encode`: names of labels, "" where not known, [n]; or numbers on their own scale, [n, C]."""
        values = condition.detach().cpu().double().numpy()
        if not self.labels:
            return values * np.array(self.scale) + np.array(self.mean)
        known = ~np.isnan(values[:, 0])
        return np.where(known, np.array(self.names)[np.nan_to_num(values).argmax(1)], "")

    def _one_hot(self, given: Any) -> np.ndarray:
        names = [label_name(item) for item in np.asarray(_plain(given), dtype=object).reshape(-1)]
        places = {name: place for place, name in enumerate(self.names)} | dict.fromkeys(MISSING, -1)
        for row, name in enumerate(names):
            if name not in places:
                rule = "no training row has that label"
                near = did_you_mean(name, self.names)
                fix = f"{near} The labels are {_listed(self.names)}" if near.endswith("?") else near
                raise BadInput("condition", f"{name!r}{f' in row {row}' if len(names) > 1 else ''}", rule, fix)
        return one_hot(np.array([places[name] for name in names], dtype=np.int64), len(self.names))

    def _standardised(self, given: Any) -> np.ndarray:
        width = len(self.names)
        what = f"{'a number' if width == 1 else f'{width} numbers'}: {_listed(self.names)}"
        if isinstance(given, Mapping):
            given = self._in_order(given)
        try:
            values = np.asarray(_plain(given), dtype=np.float64)
        except (ValueError, TypeError):
            raise BadInput("condition", str(given)[:60], f"must be {what}") from None
        values = values.reshape(-1, 1) if width == 1 else values
        values = values[None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[1] != width:
            raise BadInput("condition", f"shape {np.shape(given)}", f"must be {what}, for all rows or for each")
        if not np.isfinite(values).all():
            row, entry = np.argwhere(~np.isfinite(values))[0]
            seen = f"{values[row, entry]} in row {row}, {self.names[entry]}"
            raise BadInput("condition", seen, "every number has to be there, and finite", "fill it first")
        return ((values - np.array(self.mean)) / np.array(self.scale)).astype(np.float32)

    def _in_order(self, given: Mapping[str, Any]) -> np.ndarray:
        for name in (*given, *self.names):
            if name not in self.names or name not in given:
                rule = "is not what the model was trained on" if name not in self.names else "is missing"
                raise BadInput("condition", name, rule, f"give {_listed(self.names)}")
        return np.stack(np.broadcast_arrays(*(np.asarray(given[name], float) for name in self.names)), -1)


def conditioned(source: Source, config: Config, index: np.ndarray | None) -> tuple[Source, Conditioning | None]:
    """A source whose `condition` holds what the model reads, and how it came about; without the columns it came from.

    Args:
        source: As it was loaded.
        config: Its `data.condition` says what is given beside a row; None: nothing.
        index: The training rows; None: all of `source.train`.

    Raises:
        BadInput: for labels or columns that are not there, a label that is not known or that no training row has, and
            a number that is missing.
    """
    asked, chosen = config.data.condition, slice(None) if index is None else index
    if config.data.labelled is not None and not _are_labels(source, config):
        fix = "add data.condition=labels or, of a table, data.condition=COLUMN, with model.missing_labels=marginal"
        raise BadInput("data.labelled", config.data.labelled, "needs a model that reads labels", fix)
    if asked is None:
        return replace(source, condition=None, condition_test=None), None
    if asked == "labels":
        return _by_labels(source, config, chosen)
    if asked == ARRAY:
        if source.condition is None:
            fix = "pass {'x': rows, 'condition': numbers}, or an .npz file with these arrays"
            raise BadInput("data.condition", asked, "the data holds no array called condition", fix)
        train, test = (None if part is None else _as_table(part) for part in (source.condition, source.condition_test))
        names = tuple(f"condition_{place + 1}" for place in range(train.shape[1]))  # type: ignore[union-attr]
        rest = source
    else:
        _refuse_strangers(source, asked)
        if _are_labels(source, config):
            return _by_labels(_with_labels(source, asked[0]), config, chosen)
        rest, train, test, names = _taken_out(source, asked)
    assert train is not None
    return _by_numbers(rest, train, test, names, chosen)


def _are_labels(source: Source, config: Config) -> bool:
    """Whether what is given beside a row is a label: that of the data, or one column of text, or one to be guessed."""
    asked = config.data.condition
    if asked is None or isinstance(asked, str):
        return asked == "labels"
    one = len(asked) == 1 and asked[0] in (*source.columns, *source.beside)
    return one and (config.model.missing_labels != "refuse" or _holds_text(source, asked[0]))


def words_in(source: Source, asked: Any, test: bool) -> Any:
    """What stands beside the rows of a source, in its own words; None where nothing does.

    Args:
        source: As it was loaded.
        asked: `data.condition`.
        test: Whether its test rows are meant.
    """
    if asked == "labels":
        return named(source.test_labels if test else source.train_labels, source.label_names)
    if asked == ARRAY:
        return source.condition_test if test else source.condition
    if asked is None or not set(asked) <= {*source.columns, *source.beside}:
        return None
    if len(asked) == 1 and _holds_text(source, asked[0]):
        column = _column(source, asked[0], test)
        return np.array(["" if cell is None else str(cell) for cell in column.tolist()])
    return np.stack([_column(source, name, test) for name in asked], 1).astype(np.float64)


def named(labels: np.ndarray | None, names: Sequence[str]) -> np.ndarray | None:
    """Labels [n] by their names where they have some, "" where one is not known."""
    return labels if labels is None or not names else np.where(labels < 0, "", np.array(names)[labels])


def keep_labelled(codes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Codes [n] of which all but `count` are -1, as many of each class as there can be.

    Example:
        >>> kept = keep_labelled(np.array([0, 0, 0, 0, 1, 1, 2]), 5, seed=0)
        >>> np.unique(kept[kept >= 0], return_counts=True)[1].tolist()
        [2, 2, 1]
    """
    order = np.random.default_rng(seed).permutation(len(codes))
    order = order[codes[order] >= 0]
    turn = np.empty(len(order), dtype=np.int64)  # how many of its class come before it
    for code in np.unique(codes[order]):
        members = codes[order] == code
        turn[members] = np.arange(members.sum())
    chosen = order[np.argsort(turn, kind="stable")][:count]
    kept = np.full_like(codes, -1)
    kept[chosen] = codes[chosen]
    return kept


def one_hot(codes: np.ndarray, classes: int) -> np.ndarray:
    """Float32 [n, classes]; a row of NaN for a code of -1."""
    found = np.eye(classes, dtype=np.float32)[codes]
    found[codes < 0] = np.nan
    return found


def label_name(label: Any) -> str:
    """A label as its name: whole numbers without a point, whatever their type.

    Example:
        >>> label_name(3.0), label_name(np.int64(3)), label_name("cat")
        ('3', '3', 'cat')
    """
    if isinstance(label, int | float | np.number) and float(label).is_integer():
        return str(int(label))
    return str(label)


def _by_labels(source: Source, config: Config, chosen: Any) -> tuple[Source, Conditioning]:
    if source.train_labels is None:
        fix = "pass (rows, labels), or an .npz file with x_train and y_train"
        raise BadInput("data.condition", "labels", f"{source.name} has no labels", fix)
    labels = np.full(len(source.train_labels), -1)
    labels[chosen] = source.train_labels[chosen]  # what a held-out row has says nothing of the training rows
    values = np.unique(labels[labels >= 0])
    if len(values) < 2:
        raise BadInput("data.condition", "labels", f"there must be two at least, and the training rows have {values}")
    names = tuple(source.label_names[value] if source.label_names else str(value) for value in values)
    train = _codes(source.train_labels, values, source, "rows")
    test = None if source.test_labels is None else _codes(source.test_labels, values, source, "test rows")
    if source.test is not None and test is None:
        raise BadInput("data.condition", "labels", "the test rows have none", "give y_test as well")
    for codes, where in ((train, "rows"), (test, "test rows")):
        if codes is not None:
            _refuse_unknown(codes, config.model.missing_labels, where)
    if config.data.labelled is not None:
        kept = np.full_like(train, -1)
        kept[chosen] = train[chosen]
        kept = keep_labelled(kept, config.data.labelled, config.seed)
        train[chosen] = kept[chosen]
        if config.model.missing_labels == "refuse" and (train[chosen] < 0).any():
            rule = "the other rows would have no label, and this model needs them all"
            raise BadInput("data.labelled", config.data.labelled, rule, "model.missing_labels=marginal")
    known = train[chosen][train[chosen] >= 0]
    frequencies = tuple(np.bincount(known, minlength=len(values)).tolist())
    read, read_test = (None if codes is None else one_hot(codes, len(values)) for codes in (train, test))
    return replace(source, condition=read, condition_test=read_test), Conditioning(names, frequencies=frequencies)


def _codes(labels: np.ndarray, values: np.ndarray, source: Source, where: str) -> np.ndarray:
    """Places of labels among the values, -1 for one that is not known."""
    codes = np.searchsorted(values, labels).clip(max=len(values) - 1)
    codes[labels < 0] = -1
    strange = np.flatnonzero((codes >= 0) & (values[codes] != labels))
    if len(strange):
        label = labels[strange[0]]
        name = source.label_names[label] if source.label_names else label
        what = f"label {name} of row {strange[0]} (counting from 0) of the {where}"
        raise BadInput("data.condition", what, "no training row has it", "drop the row, or move one like it")
    return codes


def _refuse_unknown(codes: np.ndarray, missing: str, where: str) -> None:
    unknown = np.flatnonzero(codes < 0)
    if len(unknown) and missing == "refuse":
        what = f"{len(unknown)} {where} without a label, the first is row {unknown[0]} (counting from 0)"
        raise BadInput("data.condition", what, "a conditional model needs them all", "model.missing_labels=marginal")


def _refuse_strangers(source: Source, asked: Sequence[str]) -> None:
    """Refuses columns that are not there."""
    for name in asked:
        known = (*source.columns, *source.beside)
        if name not in known:
            near = source.beside or source.columns  # of cells not the genes, of which there are thousands
            fix = did_you_mean(name, near) if known else "data.condition=labels"
            raise BadInput("data.condition", name, f"{source.name} has no such column", fix)


def _taken_out(source: Source, asked: Sequence[str]) -> tuple[Source, np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """The source without some columns of numbers, and those."""
    for name in asked:
        if _holds_text(source, name):
            rule = "holds text, which is one label a row"
            raise BadInput("data.condition", name, rule, "name it alone, or encode it as numbers")
    train = np.stack([_column(source, name) for name in asked], 1).astype(np.float64)
    test = None if source.test is None else np.stack([_column(source, name, True) for name in asked], 1)
    test = None if test is None else test.astype(np.float64)
    return _without(source, asked), train, test, tuple(asked)


def _with_labels(source: Source, name: str) -> Source:
    """The source with a column as its labels in place of what it had."""
    train = _column(source, name)
    test = None if source.test is None else _column(source, name, test=True)
    parts = Parts(None, y=train, y_test=test)
    labels = labels_of(parts, len(train), 0 if test is None else len(test), f"column {name}")
    if labels.train is None:
        raise BadInput("data.condition", name, "holds numbers that are no labels", "labels are whole numbers or names")
    rest = _without(source, [name])
    return replace(rest, train_labels=labels.train, test_labels=labels.test, label_names=labels.names)


def _column(source: Source, name: str, test: bool = False) -> np.ndarray:
    """What rows of a source have in a column, or beside them, [n]."""
    if name in source.beside:
        return source.beside[name]
    rows = source.test if test else source.train
    assert rows is not None
    return as_numpy(rows[:, source.columns.index(name)])


def _holds_text(source: Source, name: str) -> bool:
    if name not in source.beside and source.train.dtype != object:
        return False
    return any(isinstance(cell, str) for cell in _column(source, name).tolist())


def _without(source: Source, names: Sequence[str]) -> Source:
    """The source without some of its columns."""
    kept = [place for place, name in enumerate(source.columns) if name in source.beside or name not in names]
    if len(kept) == len(source.columns):
        return source
    if not kept:
        raise BadInput("data.condition", _listed(names), "no column is left to learn", "leave one out")
    rest = replace(
        source,
        train=_columns(source.train, kept),
        test=None if source.test is None else _columns(source.test, kept),
        columns=tuple(source.columns[place] for place in kept),
    )
    if source.train.dtype != object or any(_holds_text(rest, name) for name in rest.columns):
        return rest
    train, test = (None if rows is None else as_numpy(rows).astype(np.float32) for rows in (rest.train, rest.test))
    assert train is not None
    return replace(rest, train=train, test=test)


def _columns(rows: Rows, kept: list[int]) -> Rows:
    part: Any = rows[:, kept]
    if isinstance(part, Tensor):
        return part.contiguous()
    return np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part  # sparse rows stay sparse


def _by_numbers(
    source: Source, train: np.ndarray, test: np.ndarray | None, names: tuple[str, ...], chosen: Any
) -> tuple[Source, Conditioning]:
    for part, where in ((train, "rows"), (test, "test rows")):
        if part is not None and not np.isfinite(part).all():
            row, entry = np.argwhere(~np.isfinite(part))[0]
            what = f"no finite number in row {row} (counting from 0) of the {where}, {names[entry]}"
            raise BadInput("data.condition", what, "must be complete", "fill it, or drop the row")
    if source.test is not None and test is None:
        raise BadInput("data.condition", _listed(names), "the test rows have none", "give condition_test as well")
    mean, scale = train[chosen].mean(0), train[chosen].std(0)
    scale = np.where(scale > 1e-12 * (np.abs(mean) + np.finfo(float).tiny), scale, 1.0)
    reading = Conditioning(names, tuple(mean.tolist()), tuple(scale.tolist()))
    train_read, test_read = (
        None if part is None else ((part - mean) / scale).astype(np.float32) for part in (train, test)
    )
    return replace(source, condition=train_read, condition_test=test_read), reading


def _as_table(values: Any) -> np.ndarray:
    table = np.asarray(values, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table


def _plain(given: Any) -> Any:
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else given


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
