"""What in the training rows a person should know before training; each judgement is a finding with its number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..core.config import Config
from ..core.finding import Finding, Severity
from .arrays import column_name
from .source import Source
from .summary import Summary
from .tables import listed, plural

MANY_DUPLICATES = 0.05  # a repeated measurement here and there is usual
WIDE_SPAN = 1e6  # squared errors then differ by 10^12, more than a sum in float32 holds
FLATTENED = 16  # columns: images of four by four pixels are the smallest anybody flattens


@dataclass(frozen=True)
class _Worry:
    """A warning, raised where `measure` gives a number; only a note where `mild` says so."""

    code: str
    measure: Callable[[Summary, Source, Config], tuple[float, str, str] | None]  # number, unit, title
    why: str
    advice: str
    mild: Callable[[Source], bool] = lambda source: False


def worries(summary: Summary, source: Source, config: Config) -> Iterator[Finding]:
    """Warnings about the training rows, worst news for learning first."""
    for worry in WORRIES:
        if found := worry.measure(summary, source, config):
            number, unit, title = found
            severity: Severity = "info" if worry.mild(source) else "warning"
            yield Finding(worry.code, severity, title, number, unit, why=worry.why, advice=worry.advice)


def _columns(which: np.ndarray, source: Source, title: str) -> tuple[float, str, str] | None:
    """The named columns of a table; the pixels of images may well be constant."""
    names = [name for name, found in zip(source.columns, which, strict=True) if found] if source.columns else []
    return (len(names), plural(len(names), "column"), f"{title}: {listed(names)}") if names else None


def _flattened(source: Source) -> bool:
    """Many columns without names of their own: most likely images as rows, whose borders are blank."""
    return len(source.columns) >= FLATTENED and source.columns == tuple(map(column_name, range(len(source.columns))))


def _constant(summary: Summary, source: Source, config: Config) -> tuple[float, str, str] | None:
    return _columns(summary.std == 0, source, "constant columns")


def _identifier(summary: Summary, source: Source, config: Config) -> tuple[float, str, str] | None:
    return _columns(summary.identifier, source, "columns that look like identifiers")


def _few_rows(summary: Summary, source: Source, config: Config) -> tuple[float, str, str] | None:
    latent = config.model.latent
    few = latent is not None and summary.rows < latent
    return (summary.rows, "rows", f"fewer training rows than the {latent} latent dimensions") if few else None


def _wide(summary: Summary, source: Source, config: Config) -> tuple[float, str, str] | None:
    spread = summary.std[summary.std > 0]
    span = float(spread.max() / spread.min()) if source.layout == "table" and len(spread) and not source.mixed else 1.0
    return (span, "times", "the widest column varies far more than the narrowest") if span > WIDE_SPAN else None


def _duplicates(summary: Summary, source: Source, config: Config) -> tuple[float, str, str] | None:
    many = summary.duplicates > MANY_DUPLICATES
    return (100 * summary.duplicates, "% of the rows", "many rows repeat an earlier one") if many else None


def _single(summary: Summary, source: Source, config: Config) -> tuple[float, str, str] | None:
    return (
        (1, "column", "the table has a single column") if source.layout == "table" and summary.std.size == 1 else None
    )


WORRIES = (
    _Worry(
        "DA122",
        _few_rows,
        "a code with more dimensions than rows can store every row by heart",
        "a smaller model.latent",
    ),
    _Worry(
        "DA121",
        _constant,
        "they tell nothing, and a density may grow without bound on them",
        "remove the columns",
        mild=_flattened,
    ),
    _Worry(
        "DA123",
        _identifier,
        "whole numbers in strict order number the rows and say nothing of them",
        "remove the columns, unless time itself is to be modelled",
    ),
    _Worry(
        "DA124",
        _wide,
        "without standardising, the widest columns alone decide the loss",
        "data.scale=standardize, or a logarithm of the widest columns",
    ),
    _Worry(
        "DA125",
        _duplicates,
        "copies in both splits make the held-out loss look better than it is",
        "remove the copies, or split by what they have in common",
        mild=lambda source: True,  # copies that stand in both splits are a finding of their own
    ),
    _Worry(
        "DA126",
        _single,
        "a latent variable explains what columns share, and one column shares nothing",
        "add columns, or fit a density to it",
    ),
)
