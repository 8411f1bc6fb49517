"""Missing entries filled in: a best guess, complete tables drawn at random, and intervals, from q(z|x) and its weights.

K draws of z are weighed by w ∝ p(x_known, z) / q(z|x), so that what is said of a missing entry holds under the model's
own posterior p(z|x_known), however rough the encoder is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, beside, rows_of
from ..core.errors import BadInput, whole
from ..core.finding import Finding
from ..core.seeds import derive, generator
from ..data.tables import listed
from ..distributions.incomplete import NODES, Incomplete, IncompleteObservation, known_entries
from ..distributions.mixed import MixedObservation
from ..distributions.normal import NORMAL
from ..measure.importance import draw, weight_numbers
from .gaps import Back, entries
from .mixing import Completed, even_mixture, refuse_different

SUMMARIES = ("mean", "median")
SAMPLES = 1000
LEAST_RESAMPLED = 1000  # draws of a missing entry that medians and intervals are read from
FEW, FEW_SHARE = 20.0, 0.05  # effective draws below which a guess is uncertain in itself; share of rows to say so
ROUNDS = 5  # of filling in and encoding again, where the encoder knows no missing entries
AT_ONCE = 2**22  # numbers of a layer at once


@dataclass(frozen=True)
class Imputation:
    """Rows with their missing entries filled in; known entries are as they came.

    Args:
        rows: The best guess, of the type that was given.
        draws: Complete tables drawn at random, likewise; their spread is how uncertain the guess is.
        lower, upper: Ends of the interval of each missing number on the data's own scale, [n, D]; NaN elsewhere, and
            for categories (but those of more than ten numbers); None where none was asked for.
        missing: Which entries were missing, [n, D], in the order of the columns the model was trained on.
        ess: Effective number of draws of z for each row, of `samples` at most; NaN for complete rows.
        samples: Draws of z for each row, those of all runs.
        findings: What to know before relying on it.
    """

    rows: Any
    draws: tuple[Any, ...]
    lower: np.ndarray | None
    upper: np.ndarray | None
    missing: np.ndarray
    ess: np.ndarray
    samples: int
    findings: tuple[Finding, ...] = field(default=())

    @property
    def filled(self) -> int:
        """Entries that were missing."""
        return int(self.missing.sum())

    @property
    def told(self) -> str:
        """What was done, in words."""
        known = self.ess[~np.isnan(self.ess)]
        if not len(known):
            return f"{len(self.missing)} rows as they were: nothing is missing"
        drawn = f", {len(self.draws)} draws" if self.draws else ""
        ess = f"{np.median(known):.0f} of {self.samples} in the middle row, {known.min():.0f} in the worst"
        return f"{self.filled} entries of {len(known)} rows filled{drawn}; effective draws of z: {ess}"


@dataclass(frozen=True)
class _Wanted:
    """What is asked for."""

    samples: int
    summary: str
    draws: int
    interval: float | None
    seed: int

    members: int

    @property
    def resampled(self) -> int:
        """Draws of each missing entry, from each run."""
        read = self.interval is not None or self.summary == "median"
        return math.ceil(max(self.draws, LEAST_RESAMPLED if read else 0) / self.members)


def impute(
    runs: Any,
    x: Any,
    *,
    samples: int = SAMPLES,
    summary: str = "mean",
    draws: int = 0,
    interval: float | None = None,
    seed: int = 0,
    condition: Any = None,
) -> Imputation:
    """Fills in the missing entries of rows: NaN, or None in tables with words. Levels that no row had in training stay.

    Args:
        runs: A `vaelab.Run`; one that was trained on rows with missing entries knows them best. Or several of the same
            data: what is said is then that of their even mixture, whose intervals tell also where they disagree.
        x: Rows [n, ...] on the data's own scale: an array, or a data frame.
        samples: K, draws of z for each row, from each run.
        summary: "mean", which is best for squared errors, or "median", for absolute ones. A category becomes its
            likeliest level with either; one whose levels are more than ten numbers, the level nearest the mean.
        draws: Complete tables drawn at random from p(x_missing|x_known): z by its weight, then x from p(x|z).
        interval: Probability of an interval for each missing number, such as 0.9; None: none. Its ends are quantiles
            that leave out as much on either side.
        seed: Of everything that is drawn.
        condition: What is given beside the rows, as `vaelab.Run.embed` takes it.

    References:
        Mattei and Frellsen, MIWAE: deep generative modelling and imputation of incomplete data sets, 2019; Rubin,
        Multiple imputation for nonresponse in surveys, 1987.

    Raises:
        BadInput: for rows that do not fit, and for models without weights: strings, entries that hang together given
            z, codes without a density.

    Example:
        >>> import tempfile, vaelab
        >>> rows = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
        >>> rows[::4, 1] = np.nan
        >>> run = vaelab.train(rows, out=tempfile.mkdtemp(), config={"train": {"steps": 50}}, progress=False)
        >>> found = impute(run, rows, interval=0.9)
        >>> found.filled, bool(np.isnan(found.rows).any()), bool((found.lower[::4, 1] < found.upper[::4, 1]).all())
        (50, False, True)
    """
    members = list(runs) if isinstance(runs, Sequence) else [runs]
    wanted = _asked(samples, summary, draws, interval, seed, len(members))
    refuse_different(members)
    for run in members:
        _refuse_without_weights(run)
    run = members[0]
    rows = [_rows_of(member, x, condition) for member in members]
    y = rows_of(rows[0])
    missing, filled = y.isnan(), _Table(y, wanted)
    if (unseen := run.spec.unseen(x)) is not None:
        missing &= ~torch.from_numpy(unseen)  # the model cannot read them, and they stay as they are
    gaps = missing.flatten(1).any(1).nonzero()[:, 0]
    size = max(1, AT_ONCE // (max(samples, wanted.resampled) * _width(run, y)))
    for start in range(0, len(gaps), size):  # noise goes by the place among rows with gaps, whatever the chunks
        part = gaps[start : start + size]
        each = [_of_rows(members, place, rows[place][part], wanted, start) for place in range(len(members))]
        mixed = even_mixture(run, y, each, wanted.summary, interval, derive(seed, "order of runs"))
        filled.take(part, *mixed)
    lacking, ess = missing.flatten(1).numpy(), filled.ess.numpy()
    back = Back(run, x, missing)
    guess, drawn = back.rows(filled.guess), tuple(back.rows(one) for one in filled.drawn)
    lower, upper = (back.ends(None if end is None else end.masked_fill(~missing, torch.nan)) for end in filled.ends)
    drawn_z = samples * len(members)
    return Imputation(guess, drawn, lower, upper, lacking, ess, drawn_z, tuple(_findings(run, lacking, ess, drawn_z)))


def _rows_of(run: Any, x: Any, condition: Any) -> Tensor | Batch:
    """Rows as a run's model sees them, with what is given beside them."""
    y = entries(run, x)
    given = run.given(condition, len(y), "encoder", "decoder")
    return Batch(y, *given) if given else y


class _Table:
    """Completed rows on the model's scale, part by part."""

    def __init__(self, y: Tensor, wanted: _Wanted) -> None:
        self.y, self.guess = y, y.clone()
        self.drawn = [y.clone() for _ in range(wanted.draws)]
        ends = 0 if wanted.interval is None else 2
        self.ends: list[Tensor | None] = [torch.full_like(y, torch.nan) for _ in range(ends)] or [None, None]
        self.ess = torch.full((len(y),), torch.nan, dtype=torch.float64)

    def take(self, part: Tensor, guess: Tensor, drawn: Tensor, ends: Sequence[Tensor], ess: Tensor) -> None:
        """Takes in what was found for the rows of an index [B]."""
        known = self.y[part]
        self.guess[part] = torch.where(known.isnan(), guess, known)
        for table, one in zip(self.drawn, drawn, strict=False):  # there may be more, to read intervals from
            table[part] = torch.where(known.isnan(), one, known)
        for both, end in zip(self.ends, ends, strict=False):
            assert both is not None
            both[part] = torch.where(known.isnan(), end, torch.nan)
        self.ess[part] = ess


@torch.no_grad()
def _of_rows(members: Sequence[Any], place: int, x: Tensor | Batch, wanted: _Wanted, first: int) -> Completed:
    """What the run at a place makes of incomplete rows, the first of which is at another."""
    run, y, given = members[place], rows_of(x), beside(x)
    seed = derive(wanted.seed, place)
    z, log_q = draw(_proposal(run, x), wanted.samples, seed, first)
    p = run.model.decode(z, *given)
    each = p.per_entry(y) if isinstance(p, IncompleteObservation) else known_entries(p, y)
    log_w = each.flatten(2).sum(-1).double() + run.model.prior_distribution(*given).log_prob(z) - log_q
    weights = log_w.softmax(0)
    drawn = _resampled(run, z, weights, given, wanted.resampled, generator(seed, "imputed", first))
    ess = torch.from_numpy(weight_numbers(log_w.cpu().numpy())[2])
    if isinstance(p, MixedObservation):
        return Completed(p.expected(weights.to(y.dtype)), drawn, ess)
    mean = p.mean_if_missing if isinstance(p, IncompleteObservation) else p.mean
    return Completed(_weighted(mean, weights), drawn, ess).on_scale(run, members[0])


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Σ_k w_k v_k of values [K, B, ...], [B, ...]."""
    return torch.einsum("kb...,kb->b...", values.double(), weights).to(values.dtype)


def _resampled(
    run: Any, z: Tensor, weights: Tensor, given: tuple[Tensor, ...], count: int, coins: torch.Generator
) -> Tensor:
    """Draws of p(x|x_known) [count, B, ...]: codes by their weight, then a row from p(x|z)."""
    if not count:
        return z.new_zeros(0, len(weights[0]), *run.spec.shape)
    chosen = torch.multinomial(weights.T, count, replacement=True, generator=coins).T
    p = run.model.decode(z.gather(0, chosen[..., None].expand(-1, -1, z.shape[-1])), *given)
    return p.sample_if_missing(coins) if isinstance(p, IncompleteObservation) else p.sample(coins)


def _proposal(run: Any, x: Tensor | Batch) -> Any:
    """q(z|x) of incomplete rows; an encoder of complete ones reads them filled with what the model makes of them."""
    if _knows_gaps(run):
        q = run.model.encode(x)
    else:
        y, given = rows_of(x), beside(x)
        guess = _centre(run, y)
        for _ in range(ROUNDS):
            filled = torch.where(y.isnan(), guess, y)
            q = run.model.encode(Batch(filled, *given) if given else filled)
            guess = run.model.decode(q.mean[None], *given).mean[0]
    if "density" not in getattr(q, "offers", NORMAL):
        rule = "its codes have no density, so that draws cannot be weighed by what is known of a row"
        raise BadInput("run", run.folder, rule, "train with model.posterior=diagonal")
    return q


def _centre(run: Any, y: Tensor) -> Tensor:
    """The means of training rows that the run kept, on the model's scale; 0 where it kept none."""
    if run.training_preview is None:
        return torch.zeros_like(y)
    return entries(run, run.training_preview).nanmean(0).nan_to_num().expand_as(y)


def _knows_gaps(run: Any) -> bool:
    return bool(run.spec.mixed) or run.spec.incomplete


def _asked(samples: int, summary: str, draws: int, interval: float | None, seed: int, members: int) -> _Wanted:
    whole("samples", samples)
    check_summary(summary)
    if not isinstance(draws, int) or draws < 0:
        raise BadInput("draws", draws, "must be a whole number of at least 0")
    if interval is not None and not (isinstance(interval, Real) and 0 < interval < 1):
        raise BadInput("interval", interval, "must be a probability between 0 and 1", "such as 0.9")
    return _Wanted(samples, summary, draws, interval, seed, members)


def check_summary(summary: str) -> None:
    """Refuses other summaries than `SUMMARIES`."""
    if summary not in SUMMARIES:
        raise BadInput("summary", summary, f"must be one of {', '.join(SUMMARIES)}")


def refuse_dependent(run: Any) -> None:
    """Refuses models of which the entries of a row hang together given z, or that tell labels first."""
    likelihood = getattr(getattr(run.model, "decoder", None), "likelihood", None)
    sequential = bool(run.spec.vocabulary) or run.config.model.decoder == "pixel_cnn"
    if likelihood is None or sequential or not likelihood.by_entry:
        rule = "given z the entries of its rows hang together, so that those that are known cannot be told apart"
        raise BadInput("run", run.folder, rule, "train with a likelihood by entry and model.decoder=mlp or conv")
    if getattr(run.model, "guesses", False):
        raise BadInput("run", run.folder, "its model tells labels before codes", "train without missing_labels")


def _refuse_without_weights(run: Any) -> None:
    """Refuses those, and rows that become bits."""
    refuse_dependent(run)
    if run.spec.binarize != "none":
        rule = f"data.binarize={run.spec.binarize} makes bits of its rows, and a missing entry is none"
        raise BadInput("run", run.folder, rule, "train without it")


def _width(run: Any, y: Tensor) -> int:
    """Numbers of a decoder's widest layer, for rows like y."""
    likelihood = run.model.decoder.likelihood
    masked = isinstance(likelihood, Incomplete) and likelihood.masking is not None
    entries = y[0].numel() * max(1, likelihood.channels) * (NODES if masked else 1)
    return int(max(entries, *(run.config.model.hidden or (1,))))


def _findings(run: Any, missing: np.ndarray, ess: np.ndarray, samples: int) -> list[Finding]:
    found = []
    unseen = [place for place in np.flatnonzero(missing.any(0)) if place not in _missed_in_training(run)]
    if unseen and run.spec.layout == "table":
        names = listed([run.spec.columns[place] for place in unseen])
        found.append(
            Finding(
                "IM101",
                "warning",
                f"columns that missed no entry in training: {names}",
                len(unseen),
                "columns",
                why="the encoder has learned nothing of gaps there; weights of its draws make up for it, as far as "
                "there are enough",
                advice="train on rows that miss entries as these do, or draw more, --samples 10000",
            )
        )
    few = float(np.mean(ess[~np.isnan(ess)] < min(FEW, samples))) if (~np.isnan(ess)).any() else 0.0
    if few > FEW_SHARE:
        found.append(
            Finding(
                "IM102",
                "warning",
                "the draws of z that count are few in some rows",
                100 * few,
                f"% of the incomplete rows have an effective sample size below {FEW:g} of {samples}",
                why="an importance-weighted mean of a few draws is noise, and its interval is too narrow",
                advice="--samples 10000; or train longer, with objective=iwae objective.samples=20",
            )
        )
    return found


def _missed_in_training(run: Any) -> set[int]:
    """Places of a row that missed entries in training."""
    if run.spec.mixed:
        return {place for place, column in enumerate(run.spec.mixed) if column.missing}
    return set(run.spec.missing)
