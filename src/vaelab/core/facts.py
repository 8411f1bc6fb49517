"""What a model must know of the data before it can be built."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]


LABELLED_SHARE = 0.125  # of a batch, at least, where few labels are known


def labelled_share(known: int, rows: int) -> float:
    """Share of a training batch whose label is known: as in the data, but an eighth at least, unless none is known.

    Example:
        >>> labelled_share(100, 60_000), labelled_share(50, 100)
        (0.125, 0.5)
    """
    return max(known / max(rows, 1), LABELLED_SHARE if known else 0.0)


@dataclass(frozen=True)
class Column:
    """A column of a mixed table.

    Args:
        name: As the user calls it.
        kind: "number" (a real number), "count" (a whole number of at least 0) or "category" (codes from 0).
        levels: The values that the codes of a category stand for, as text; empty for other kinds.
        missing: Whether entries were missing in the training rows.
        levels_are: "text", "numbers" or "truth": what a level's text means.
        decimals: Digits after the point that numbers are written with; None: as many as it takes.
    """

    name: str
    kind: str
    levels: tuple[str, ...] = ()
    missing: bool = False
    levels_are: str = "text"
    decimals: int | None = None


@dataclass(frozen=True)
class Sampling:
    """How a time series was cut into rows.

    Args:
        channels: Names of the columns beside the time.
        window: Points of a row.
        step: Between points, in seconds where there is a clock, else in the file's own unit of time.
        clock: Whether times are dates, so that the time of day and of the week stand beside a row.
    """

    channels: tuple[str, ...]
    window: int
    step: float
    clock: bool


@dataclass(frozen=True)
class Facts:
    """What a model must know of the data.

    Args:
        shape: Of a row: [D] of a table, [C, H, W] of images, [T] of token sequences.
        condition: Entries of what is given beside a row; 0: nothing is.
        classes: Of the labels, where the condition is a one-hot label; else 0.
        columns: Of a mixed table; empty for other data.
        vocabulary: Tokens there are; 0 for other data.
        rows: Training rows.
        frequencies: Training rows of each class whose label is known; empty where the condition is none.
        incomplete: Whether rows of numbers may miss entries.
        missing: Columns, or channels of images, that miss some in training.
    """

    shape: Shape
    condition: int = 0
    classes: int = 0
    columns: tuple[Column, ...] = ()
    vocabulary: int = 0
    rows: int = 0
    frequencies: tuple[int, ...] = ()
    incomplete: bool = False
    missing: tuple[int, ...] = ()
