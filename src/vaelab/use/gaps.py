"""Rows with gaps, as the model takes them, and completed rows as the user has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput
from ..data.mixed import FEW_VALUES


def entries(run: Any, x: Any) -> Tensor:
    """Rows as the model sees them, NaN where an entry is missing, whatever the run was trained on."""
    spec = run.spec
    if hasattr(x, "iloc"):
        x = _own_columns(x, spec.columns)
        x = x if spec.mixed else _numbers_of(x)
    return (spec if spec.mixed else replace(spec, incomplete=True)).to_model(x)


def _own_columns(frame: Any, columns: tuple[str, ...]) -> Any:
    """The model's columns of a data frame, where it has them all by name."""
    places = {str(name): place for place, name in enumerate(frame.columns)}
    return frame.iloc[:, [places[name] for name in columns]] if set(columns) <= places.keys() else frame


def _numbers_of(frame: Any) -> Any:
    """A data frame with floats in its columns, whatever marks what is missing there."""
    import pandas

    try:
        return frame.astype(object).where(frame.notna(), np.nan).astype(np.float64)
    except (TypeError, ValueError) as error:
        wrong = next((name for name in frame if not pandas.api.types.is_numeric_dtype(frame[name])), frame.columns[0])
        raise BadInput("x", f"column {wrong}: {error}", "the model takes numbers") from None


class Back:
    """Completed rows on the model's scale as the user has them, with all that was known left as it was."""

    def __init__(self, run: Any, x: Any, missing: Tensor) -> None:
        self.run, self.x = run, x
        lead = (len(missing), *run.spec.user_shape) if not run.spec.mixed else missing.shape
        self.missing = np.asarray(self._laid_out(missing).reshape(lead))

    def _laid_out(self, entries: Tensor) -> np.ndarray:
        """Entries [n, *shape] in the order that the user has them."""
        return np.moveaxis(entries.numpy(), 1, -1) if self.run.spec.axes == "HWC" else entries.numpy()

    def rows(self, y: Tensor) -> Any:
        """Completed rows [n, *shape] in the type of the rows that were given."""
        values = self.run.spec.to_user(y)
        if hasattr(self.x, "iloc"):
            return _in_frame(self.x, self.run.spec.columns, self.missing, values)
        out = np.ma.filled(np.array(self.x, copy=True), np.nan) if np.ma.isMaskedArray(self.x) else np.array(self.x)
        out = out.reshape(self.missing.shape) if out.shape != self.missing.shape else out
        out[self.missing] = values[self.missing]
        return out

    def ends(self, y: Tensor | None) -> np.ndarray | None:
        """Ends of intervals [n, *shape] on the data's own scale, float64 [n, D]; NaN where nothing was missing."""
        if y is None:
            return None
        spec = self.run.spec
        own = y.double() if spec.mixed else spec.transform.inverse(y.double())
        numbers = own.flatten(1).numpy()
        for at, values in level_values(self.run).items():
            if values is not None:
                numbers[:, at] = np.interp(numbers[:, at], np.arange(len(values)), values.numpy())
        return np.where(is_category(self.run, y).flatten().numpy(), np.nan, numbers)


def _in_frame(frame: Any, columns: tuple[str, ...], missing: np.ndarray, values: np.ndarray) -> Any:
    """A copy of a data frame with the missing entries of the model's columns filled in."""
    out = frame.copy()
    named = [str(name) for name in frame.columns]
    for at, name in enumerate(columns):
        place, gaps = (named.index(name) if name in named else at), missing[:, at]
        if gaps.any():
            column = out.iloc[:, place].copy()
            cells = values[gaps, at].tolist()  # an array of objects would not fit a column of floats
            as_text = str(column.dtype).startswith("str")  # numbers that came as text go as text
            column[gaps] = [str(cell) if as_text and cell is not None else cell for cell in cells]
            out.isetitem(place, column)
    return out


def level_values(run: Any) -> dict[int, Tensor | None]:
    """For each column of a mixed table that is a category, the numbers that its levels are, in rising order, float64.

    None where they are text or truth values, or few numbers, which are mostly codes of something: a class of 1, 2 or 3;
    and where `data.kinds` called the column a category.
    """
    named = run.config.data.kinds or {}
    found: dict[int, Tensor | None] = {}
    for at, column in enumerate(run.spec.mixed):
        if column.kind == "category":
            many = column.levels_are == "numbers" and len(column.levels) > FEW_VALUES and column.name not in named
            found[at] = torch.tensor([float(level) for level in column.levels], dtype=torch.float64) if many else None
    return found


def is_category(run: Any, y: Tensor) -> Tensor:
    """Which entries of rows are levels of a category that are no numbers, and so have no median."""
    found = torch.zeros(y.shape[1:], dtype=torch.bool)
    for at, values in level_values(run).items():
        found[at] = values is None
    return found
