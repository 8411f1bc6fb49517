"""An evaluation as a person reads it: facts, a table for each group, findings."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..core.finding import Finding
from ..measure.estimate import Estimate

WIDTH = 118
MOST_ENTRIES = 32  # of a number that has many, shown one by one


def as_text(
    facts: Mapping[str, str],
    numbers: Mapping[str, Mapping[str, Estimate]],
    findings: Sequence[Finding],
    names: Mapping[int, Sequence[str]],
    factor_names: Sequence[str] = (),
) -> str:
    """What `vaelab evaluate` prints."""
    lines = [_folded(f"{name:<12}", text) for name, text in facts.items()]
    for group, found in numbers.items():
        lines += ["", group, *_group(found, names, factor_names)]
    return "\n".join([*lines, "", *map(str, findings)]).rstrip()


def _group(found: Mapping[str, Estimate], names: Mapping[int, Sequence[str]], heads: Sequence[str]) -> Iterable[str]:
    """A line for each number; those with many entries come last, as columns of tables."""
    width = max((len(name) for name in found), default=0) + 2
    for name, number in found.items():
        if np.ndim(number.value) == 0:
            shown = f"{plain(number.value, number.interval):>12} {spread(number.interval):<12}"
            yield f"  {name.replace('_', ' '):<{width}}{shown} {number.unit}".rstrip()
    flat = {name: number for name, number in found.items() if np.ndim(number.value) == 1}
    for size in dict.fromkeys(len(number.value) for number in flat.values()):
        same = {name: number for name, number in flat.items() if len(number.value) == size}
        yield from (_table(same, names.get(size)) if size <= MOST_ENTRIES else map(_range, same.items()))
    for name, number in found.items():
        if np.ndim(number.value) == 2:
            yield from _matrix(name, number, heads)


def _table(found: Mapping[str, Estimate], names: Sequence[str] | None) -> Iterable[str]:
    """Numbers over the same entries, side by side."""
    size = len(next(iter(found.values())).value)
    rows = list(names) if names is not None else [str(entry + 1) for entry in range(size)]
    left = min(max(map(len, rows)), 30) + 2
    heads = [name.replace("_", " ") for name in found]
    widths = [max(len(head), 20) for head in heads]
    yield ""
    yield "  " + " " * left + "  ".join(head.rjust(width) for head, width in zip(heads, widths, strict=True))
    for entry, row in enumerate(rows):
        cells = [_cell(number, entry) for number in found.values()]
        joined = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"  {row[:30]:<{left}}{joined}"
    units = [f"{head}: {number.unit}" for head, number in zip(heads, found.values(), strict=True) if number.unit]
    yield from textwrap.wrap("; ".join(units), WIDTH, initial_indent="  ", subsequent_indent="  ")


def _cell(number: Estimate, entry: int) -> str:
    interval = None if number.interval is None else float(number.interval[entry])
    return f"{plain(number.value[entry], interval)} {spread(interval)}".strip()


def _range(item: tuple[str, Estimate]) -> str:
    name, number = item
    low, middle, high = np.nanquantile(number.value, (0, 0.5, 1))
    words = f"{plain(low)}, {plain(middle)}, {plain(high)}: lowest, middle and highest of {len(number.value)}"
    return f"  {name.replace('_', ' ')}: {words}; {number.unit}"


def _matrix(name: str, number: Estimate, heads: Sequence[str]) -> Iterable[str]:
    """Latent dimensions down, known factors across."""
    yield ""
    yield f"  {name.replace('_', ' ')} ({number.unit})"
    values = np.asarray(number.value)
    if len(heads) == values.shape[1]:
        yield " " * 6 + "".join(f"{head[:11]:>13}" for head in heads)
    for row, entries in enumerate(values[:MOST_ENTRIES], 1):
        yield f"    {row:<2}" + "".join(f"{plain(value):>13}" for value in entries)


def plain(value: float, interval: float | None = None) -> str:
    """A number with the digits that its interval leaves it, or four.

    Example:
        >>> plain(-90.21234, 0.0123), plain(0.0012345, 0.00054), plain(250.0)
        ('-90.212', '0.00123', '250')
    """
    if interval is None or not 0 < interval < math.inf or not math.isfinite(value):
        return f"{value:.4g}"
    return f"{value:.{min(max(1 - math.floor(math.log10(interval)), 0), 8)}f}"


def spread(interval: float | None) -> str:
    """The half-width of an interval, or nothing.

    Example:
        >>> spread(0.01234), spread(6123.0), spread(None)
        ('± 0.012', '± 6100', '')
    """
    return "" if interval is None or not math.isfinite(interval) else f"± {float(f'{interval:.2g}'):g}"


def _folded(name: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=name, subsequent_indent=" " * len(name))
