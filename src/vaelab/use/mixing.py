"""What several runs of the same data say of the missing entries of rows, taken together.

Shapes: M runs, R draws of each, B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ..core.errors import BadInput
from ..distributions.mixed import guess
from .gaps import is_category, level_values

FAR = 3.0  # deviations between means, and ratio of deviations, from which on two runs saw different data


@dataclass(frozen=True)
class Completed:
    """What one run says of some rows, on the scale of its model.

    Args:
        expected: Means of the entries [B, ...]; of a mixed table means and chances of levels [B, F].
        drawn: Complete rows, [R, B, ...].
        ess: Effective number of draws of z, [B].
    """

    expected: Tensor
    drawn: Tensor
    ess: Tensor

    def on_scale(self, run: Any, other: Any) -> Self:
        """The same of rows of numbers on the scale of another run, which standardised by other rows."""
        if run is other:
            return self
        own, wanted = run.spec.transform, other.spec.transform
        expected, drawn = (wanted(own.inverse(rows.double())) for rows in (self.expected, self.drawn))
        return replace(self, expected=expected, drawn=drawn)


def refuse_different(runs: Sequence[Any]) -> None:
    """Refuses no runs at all, and runs of data that differ, by their columns or by where their numbers lie."""
    if not runs:
        raise BadInput("runs", "none", "must be a run, or several of the same data")
    specs = [(run.spec.columns, run.spec.mixed, run.spec.shape, run.spec.axes) for run in runs]
    for run, spec in zip(runs, specs, strict=True):
        fix = "give runs that were trained on the same data"
        if spec != specs[0]:
            rule = f"its columns, their kinds or the shape of its rows are not those of {runs[0].folder}"
            raise BadInput("runs", run.folder, rule, fix)
        if not run.spec.mixed and _far_apart(run.spec.transform, runs[0].spec.transform):
            rule = f"its numbers lie elsewhere, or on another scale, than those of {runs[0].folder}"
            raise BadInput("runs", run.folder, rule, fix)


def _far_apart(one: Any, other: Any) -> bool:
    """Whether means or deviations of training rows differ by more than other rows of the same data would make them.

    By the median over columns: one that hardly varies may be constant in the rows of one run.
    """
    wide, narrow = torch.maximum(one.scale, other.scale), torch.minimum(one.scale, other.scale)
    apart = (one.shift - other.shift).abs() / wide
    return bool(apart.median() > FAR or (wide / narrow).median() > FAR)


def even_mixture(
    run: Any, y: Tensor, each: Sequence[Completed], summary: str, interval: float | None, seed: int
) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """The even mixture of what runs say of rows: a guess, draws, the ends of intervals and effective numbers.

    Args:
        run: The first of them.
        y: Rows like those of its model.
        each: What they say, on its scale.
        summary: "mean" or "median".
        interval: Probability of the intervals; None: none.
        seed: Of the order in which the runs give draws.

    Returns:
        The guess [B, ...]; draws [M R, B, ...], from one run after the other; both ends [B, ...], or none; and
        M² / Σ 1/ess, the number of draws that would say as much if all weighed the same, [B].
    """
    expected = torch.stack([found.expected for found in each]).mean(0)
    columns = run.spec.mixed
    best = guess(expected, columns, level_values(run)) if columns else expected
    order = torch.randperm(len(each), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = torch.stack([each[place].drawn for place in order], 1).flatten(0, 1)
    if summary == "median":
        best = torch.where(is_category(run, y), best, drawn.median(0).values)
    ends = [] if interval is None else _ends(drawn, interval)
    return best, drawn, ends, len(each) ** 2 / torch.stack([1 / found.ess for found in each]).sum(0)


def _ends(drawn: Tensor, level: float) -> list[Tensor]:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=drawn.dtype)
    return list(torch.quantile(drawn, tails, dim=0))
