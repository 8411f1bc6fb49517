"""Missing entries of tables and images of numbers: whether they are modelled, and what stands in for them."""

from __future__ import annotations

import numpy as np

from ..core.config import Config
from ..core.errors import BadInput
from ..core.finding import Finding
from .arrays import Rows, chunks
from .source import Source
from .tables import listed

MANY = 0.1  # share of the entries from which that they are missing is worth a warning


def is_modelled(source: Source, config: Config) -> bool:
    """Whether missing entries are left out of the likelihood; else they are refused."""
    given = config.data.missing
    return given == "model" or (given == "auto" and source.layout == "table")


def missing_in(source: Source) -> np.ndarray:
    """Share of the rows, held-out ones included, in which each entry is missing, [D]."""
    parts = [source.train] if source.test is None else [source.train, source.test]
    counts = sum(_missing(rows) for rows in parts)
    return np.asarray(counts / sum(len(rows) for rows in parts))


def _missing(rows: Rows) -> np.ndarray:
    """Rows in which each entry is missing, [D]; a memory map is never read whole."""
    found = (np.isnan(chunk.reshape(len(chunk), -1)).sum(0) for chunk in chunks(rows) if chunk.dtype.kind == "f")
    return sum(found, np.zeros(int(np.prod(rows.shape[1:])), dtype=np.int64))


def refuse_incomplete(source: Source, config: Config) -> None:
    """Refuses entries that nobody knows in any row, and binarising where some are missing.

    Raises:
        BadInput: with the column, or the setting.
    """
    share = missing_in(source)
    if (share == 1).any():
        place = int(np.argmax(share == 1))
        name = f"column {source.columns[place]}" if source.columns else f"entry {place} (counting from 0) of every row"
        raise BadInput(source.name, f"{name} without a single value", "every one must have some", "leave it out")
    if config.data.binarize != "none":
        rule = "a missing entry is neither 0 nor 1"
        raise BadInput("data.binarize", config.data.binarize, rule, "leave it out: likelihood=bernoulli takes 0 and 1")


def counted(source: Source, share: np.ndarray) -> Finding:
    """The finding that says how many entries are missing, and what is done with them."""
    names = [name for name, some in zip(source.columns, share > 0, strict=True) if some] if source.columns else []
    return Finding(
        "DA119",
        "warning" if share.mean() >= MANY else "info",
        f"missing entries are left out of the likelihood{': ' * bool(names)}{listed(names)}",
        100 * float(share.mean()),
        "% of the entries",
        evidence=f"in {int((share > 0).sum())} of {share.size} columns, in one in {100 * share.max():.3g} % of rows",
        why="the encoder sees their column's mean and a flag; what is learned is p(x) of the entries that are known, "
        "which is right as long as what is missing does not depend on the missing value itself",
        advice="objective=iwae objective.samples=20 learns more from incomplete rows; vaelab impute fills the gaps; "
        "data.missing=refuse wants complete rows",
    )
