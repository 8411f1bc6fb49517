"""Mixed tables: every column has a distribution of its own, and entries that are missing are left out.

Shapes: K samples, B rows, D columns. A row is float [D]: codes 0, 1, ... of categories, numbers as they are, NaN where
an entry is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.batch import Batch, rows_of
from ..core.errors import BadInput
from ..core.facts import Column, Shape
from .likelihood import Likelihood
from .logistic import LOG_SCALE_BOUND, LogisticMixtures, known_moments, spread_out
from .normal import full_precision, soft_clamp

FITTED_ROWS = 2000  # rows that the columns' own distributions are fitted to
FIT_STEPS = 60


class MixedObservation:
    """Independent columns at given parameters.

    Args:
        numbers: Of the columns of numbers and counts.
        tables: Log-mass of each category's levels, [K, B, levels] each.
        order: Where each column of the table stands in the numbers followed by the categories, [D].
    """

    def __init__(self, numbers: LogisticMixtures, tables: Sequence[Tensor], order: Tensor) -> None:
        self.numbers, self.tables, self.order = numbers, tables, order

    @property
    def mean(self) -> Tensor:
        """Means of numbers, the likeliest level of categories, [K, B, D]."""
        levels = [table.argmax(-1, keepdim=True).to(table.dtype) for table in self.tables]
        return self._in_order([self.numbers.mean, *levels])

    def expected(self, weights: Tensor) -> Tensor:
        """The K distributions mixed by weights [K, B]: means of numbers, then chances of all levels, [B, F]."""
        each = weights[..., None]
        return torch.cat([(each * part).sum(0) for part in (self.numbers.mean, *(t.exp() for t in self.tables))], -1)

    def per_entry(self, x: Tensor) -> Tensor:
        """Log-density or log-mass in nats of every entry of x [B, D], [K, B, D]; 0 where it is missing."""
        known = ~x.isnan()
        filled = torch.where(known, x, 0.0)
        parts = filled[:, self.order.argsort()].split([self.numbers.whole.numel(), *([1] * len(self.tables))], -1)
        nats = [self.numbers.log_prob(parts[0].to(self.numbers.center.dtype))]
        for table, codes in zip(self.tables, parts[1:], strict=True):
            shape = torch.broadcast_shapes(table.shape[:2], (1, len(x)))
            nats.append(table.expand(*shape, -1).gather(-1, codes.long().expand(*shape, 1)))
        return torch.where(known, self._in_order(nats), 0.0)

    def log_prob(self, x: Tensor) -> Tensor:
        """The same, summed over the columns, [K, B]."""
        return self.per_entry(x).sum(-1)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw for each sample and row, without missing entries, [K, B, D]."""
        drawn = [self.numbers.sample(generator)]
        for table in self.tables:
            level = torch.multinomial(table.exp().flatten(0, -2), 1, generator=generator)
            drawn.append(level.view(*table.shape[:-1], 1).to(table.dtype))
        return self._in_order(drawn)

    def _in_order(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), -1)[..., self.order]


def guess(expected: Tensor, columns: Sequence[Column], values: Mapping[int, Tensor | None]) -> Tensor:
    """Rows [B, D] of what `MixedObservation.expected` gave: means of numbers as they are, and codes of categories.

    Args:
        expected: [B, F].
        columns: D of them.
        values: By the place of each category the numbers that its levels are, of which the one nearest the mean is
            taken; None: they are none, and the likeliest level is.
    """
    numbers, categories = by_kind(columns)
    sizes = [1] * len(numbers) + [len(columns[at].levels) for at in categories]
    parts = dict(zip([*numbers, *categories], expected.split(sizes, -1), strict=True))
    codes = {at: _code(parts[at], values[at]).to(expected.dtype) for at in categories}
    return torch.cat([{**parts, **codes}[at] for at in range(len(columns))], -1)


def _code(chances: Tensor, values: Tensor | None) -> Tensor:
    """A level for each row of chances [B, levels], [B, 1]."""
    if values is None:
        return chances.argmax(-1, keepdim=True)
    mean = chances @ values.to(chances)
    return (mean[:, None] - values.to(chances)).abs().argmin(-1, keepdim=True)


class Mixed(Likelihood):
    """p(x|z) of a mixed table, the product over the columns that are not missing.

    Categories have a mass over their levels; numbers a mixture of logistic densities; counts the mass that such a
    mixture has around each whole number. The decoder's output is added to parameters that `see` fits to each column by
    itself, so that a decoder whose output is 0 is the table of independent columns, and training begins there.

    Args:
        columns: D of them.
        components: Of a mixture.

    Example:
        >>> likelihood = Mixed([Column("size", "number"), Column("colour", "category", ("red", "blue"))], components=2)
        >>> decoded = likelihood(torch.zeros(1, 1, *likelihood.layout((2,))))
        >>> decoded.per_entry(torch.tensor([[float("nan"), 1.0]]))
        tensor([[[ 0.0000, -0.6931]]])
    """

    discrete = False
    support = "a mixed table: codes of levels, whole counts of at least 0, finite numbers; NaN where one is missing"
    center: Tensor
    unit: Tensor
    base: Tensor
    order: Tensor
    whole: Tensor
    highest: Tensor

    def __init__(self, columns: Sequence[Column], components: int = 5) -> None:
        super().__init__()
        if not columns:
            raise BadInput("likelihood.name", "mixed", "is for tables whose columns are known", "train on a table")
        self.columns, self.components = tuple(columns), components
        numbers, self.categories = by_kind(columns)
        self.levels = [len(columns[place].levels) for place in self.categories]
        self.sizes = [3 * components * len(numbers), *self.levels]
        self.channels = math.ceil(sum(self.sizes) / len(columns))
        self.register_buffer("center", torch.zeros(len(numbers), components))
        self.register_buffer("unit", torch.ones(len(numbers), components))
        self.register_buffer("base", torch.zeros(sum(self.sizes)))
        self.register_buffer("order", torch.tensor([*numbers, *self.categories]).argsort(), persistent=False)
        whole = torch.tensor([columns[place].kind == "count" for place in numbers], dtype=torch.bool)
        self.register_buffer("whole", whole, persistent=False)
        highest = torch.tensor([len(column.levels) - 1 if column.levels else math.inf for column in columns])
        self.register_buffer("highest", highest, persistent=False)

    def layout(self, shape: Shape) -> Shape:
        """All parameters of a row as channels of a single entry, since columns have different numbers of them."""
        return (sum(self.sizes), 1)

    def holds(self, x: Tensor) -> Tensor:
        """Which entries of x [..., D] are levels, counts, finite numbers, or missing."""
        real = torch.tensor([column.kind == "number" for column in self.columns], device=x.device)
        coded = (x >= 0) & (x == x.round()) & (x <= self.highest.to(x)) & x.isfinite()
        return torch.where(real, x.isfinite(), coded) | x.isnan()

    def forward(self, parameters: Tensor) -> MixedObservation:
        """The distribution of x at what is added to the columns' own parameters, [K, B, P, 1]."""
        own = full_precision(parameters)[..., 0]
        numbers, *logits = (own + self.base.to(own)).split(self.sizes, -1)
        return MixedObservation(self._mixtures(numbers), [part.log_softmax(-1) for part in logits], self.order)

    def _mixtures(self, own: Tensor) -> LogisticMixtures:
        """Mixtures at weights' logits, shifts in units of the scales that `see` found, and changes of the scales."""
        logits, shift, change = own.unflatten(-1, (len(self.whole), 3, self.components)).unbind(-2)
        unit, center = self.unit.to(own), self.center.to(own)
        log_scale = unit.log() + soft_clamp(change, LOG_SCALE_BOUND)
        return LogisticMixtures(logits.log_softmax(-1), center + unit * shift, log_scale, self.whole)

    @torch.no_grad()
    def see(self, rows: Tensor | Batch) -> None:
        """Fits every column by itself to training rows [N, D]: what the columns are when nothing is known of a row.

        Levels have their shares, with one made-up row that holds each of them equally; mixtures are fitted by maximum
        likelihood from an even share of the rows, on `FITTED_ROWS` of them.
        """
        x = rows_of(rows).to(self.base.device, torch.float64)
        numbers = x[:, self.order.argsort()[: len(self.whole)]]
        numbers = numbers[torch.linspace(0, len(x) - 1, min(len(x), FITTED_ROWS)).long()]
        shares = [_log_shares(x[:, place], levels) for place, levels in zip(self.categories, self.levels, strict=True)]
        for buffer, found in zip((self.center, self.unit), spread_out(numbers, self.components), strict=True):
            buffer.copy_(found)
        self.base.copy_(torch.cat([self._fitted(numbers), *shares]))

    def _fitted(self, numbers: Tensor) -> Tensor:
        """Parameters of all mixtures that are the likeliest for columns [N, Dn], by quasi-Newton steps, float64."""
        own = torch.zeros(self.sizes[0], dtype=torch.float64, device=numbers.device, requires_grad=True)
        if not own.numel():
            return own.detach()
        known = ~numbers.isnan()
        filled, count = torch.where(known, numbers, 0.0), known.sum(0).clamp(min=1)
        optimiser = torch.optim.LBFGS([own], max_iter=FIT_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            nats = self._mixtures(own.expand(1, len(filled), -1)).log_prob(filled)[0]
            mean = -(torch.where(known, nats, 0.0).sum(0) / count).sum()
            mean.backward()
            return mean

        with torch.enable_grad():
            optimiser.step(loss)
        return own.detach().nan_to_num()


class MixedInput(nn.Module):
    """What an encoder sees of a row [B, D]: numbers of the order of one.

    A level is a one among zeros; a number is seen through smooth steps at its quantiles, and as the inverse hyperbolic
    sine of its standard score; a missing entry is zeros, with a flag for columns that miss some in training.

    Args:
        columns: D of them.
        steps: For each number.

    Attributes:
        size: Entries of what the encoder sees.
    """

    center: Tensor
    unit: Tensor
    owner: Tensor
    level: Tensor

    def __init__(self, columns: Sequence[Column], steps: int = 8) -> None:
        super().__init__()
        self.numbers, categories = by_kind(columns)
        self.flagged = [place for place, column in enumerate(columns) if column.missing]
        self.register_buffer("center", torch.zeros(len(self.numbers), steps + 1))
        self.register_buffer("unit", torch.ones(len(self.numbers), steps + 1))
        pairs = [(place, level) for place in categories for level in range(len(columns[place].levels))]
        self.register_buffer("owner", torch.tensor([p for p, _ in pairs], dtype=torch.long), persistent=False)
        self.register_buffer("level", torch.tensor([float(level) for _, level in pairs]), persistent=False)
        self.size = self.center.numel() + len(pairs) + len(self.flagged)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] to [B, size]."""
        known = ~x.isnan()
        level = self.level.to(x)
        levels = (1 - (x[:, self.owner].nan_to_num(nan=-1.0) - level).abs()).clamp(min=0)
        flags = (~known[:, self.flagged]).to(x)
        if not self.numbers:
            return torch.cat([levels, flags], -1)
        at = (x[:, self.numbers, None].nan_to_num() - self.center.to(x)) / self.unit.to(x)
        seen = torch.cat([at[..., :1].asinh(), (at[..., 1:] / 2).tanh()], -1)
        seen = torch.where(known[:, self.numbers, None], seen, 0.0)
        return torch.cat([seen.flatten(1), levels, flags], -1)

    @torch.no_grad()
    def see(self, rows: Tensor | Batch) -> None:
        """Takes means, deviations and quantiles of the numbers from training rows [N, D]."""
        if not self.numbers:
            return
        x = rows_of(rows)[:, self.numbers].double()
        mean, deviation = known_moments(x)
        center, unit = spread_out(x, self.center.shape[1] - 1)
        self.center.copy_(torch.cat([mean[:, None], center], 1))
        self.unit.copy_(torch.cat([torch.where(deviation > 0, deviation, 1.0)[:, None], unit], 1))


def by_kind(columns: Sequence[Column]) -> tuple[list[int], list[int]]:
    """Places of the columns of numbers and counts, and of those of categories.

    Example:
        >>> by_kind([Column("colour", "category", ("red",)), Column("size", "number"), Column("legs", "count")])
        ([1, 2], [0])
    """
    categories = [place for place, column in enumerate(columns) if column.kind == "category"]
    return [place for place in range(len(columns)) if place not in categories], categories


def _log_shares(codes: Tensor, levels: int) -> Tensor:
    """log of the levels' shares among codes [N] and a made-up row that holds each equally, [levels]."""
    counts = torch.bincount(codes[~codes.isnan()].long(), minlength=levels).double() + 1 / levels
    return (counts / counts.sum()).log()
