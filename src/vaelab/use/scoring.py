"""How strange rows are to trained models, in nats, with what each entry of a row has to do with it.

Shapes: K samples, n rows, D entries of a row.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, beside, rows_of
from ..core.errors import BadInput, whole
from ..core.seeds import derive, generator, seed_global
from ..core.tables import pick
from ..distributions.kl import divergence
from ..evaluation.rows import given_rows
from ..measure.importance import weight_numbers
from ..measure.latent import takes_noise

CHUNK_VALUES = 2**21  # numbers that a decoder gives at once
REST = "prior"  # what is left of a score beside the entries: what the code costs
SAMPLES = 50
PRECISE: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # float64 copies of models


@dataclass(frozen=True)
class Scores:
    """Scores of rows, in nats; higher is stranger.

    Args:
        values: [n].
        parts: What each entry adds to a score, and last what the code adds, [n, D + 1]; a row adds up to its score.
        error: Standard error of each value for other draws of z, by the delta method, which says too little where
            draws are few, [n]; NaN for a single draw.
        names: Of the parts.
        kind: One of `KINDS`.
    """

    values: np.ndarray
    parts: np.ndarray
    error: np.ndarray
    names: tuple[str, ...]
    kind: str

    def strangest(self, row: int, count: int, usual: np.ndarray | None = None) -> list[tuple[str, float]]:
        """The entries of a row that add the most, and how many nats more than `usual`, [D + 1], most first."""
        above = self.parts[row] - (0.0 if usual is None else usual)
        return [(self.names[place], float(above[place])) for place in np.argsort(-above, kind="stable")[:count]]


Numbers = tuple[Tensor, Tensor, Tensor]  # values [B], parts [B, D + 1], variances of the values over other draws [B]


@dataclass(frozen=True)
class Draws:
    """Draws of q(z|x) for some rows, from one model.

    Args:
        entries: -log p(x_d|z) of every entry on the data's own scale, [K, B, D].
        log_w: log p(x, z) - log q(z|x) on the same scale, [K, B].
        divergence: KL(q(z|x) || p(z)), [B].
    """

    entries: Tensor
    log_w: Tensor
    divergence: Tensor


Read = Callable[[Draws, float | None], Numbers]


def score(
    runs: Any,
    x: Any,
    kind: str = "likelihood",
    samples: int = SAMPLES,
    seed: int = 0,
    condition: Any = None,
    usual: float | None = None,
) -> Scores:
    r"""How strange rows are to a run, or on average to several.

    `likelihood` is the importance-weighted estimate of -log p(x),

    .. math:: -\log \frac{1}{K} \sum_k \frac{p(x|z_k) p(z_k)}{q(z_k|x)};

    an entry's part is the mean of -log p(x_d|z) under the weights, and the last part is the rest: what the code costs.
    `reconstruction` is -E_q log p(x|z), `latent` the divergence KL(q || p), and `typicality` how far `likelihood` is
    from its usual value, either way.

    A missing entry adds nothing. A level of a category that none of N rows had is missing too, but adds log(N + 1) nats
    to every score but `latent`, which reads no entry.

    A row's noise follows from its entries and the seed, and all is computed in float64, so that a row's score does not
    depend on the others and errors of different rows are independent.

    References:
        Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016.
        Nalisnick et al., Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality, 2019.

    Args:
        runs: A run, or several of the same data.
        x: Rows [n, ...] on the data's own scale.
        kind: One of `KINDS`.
        samples: K, of each run.
        seed: Of the noise.
        condition: What is given beside the rows.
        usual: The mean of `likelihood` over rows that are in order; `typicality` needs it.

    Raises:
        BadInput: for an unknown kind, a run without a bound on log p(x), and rows that do not fit.
    """
    members = list(runs) if isinstance(runs, Sequence) else [runs]
    read = pick(KINDS, kind, "kind")
    whole("samples", samples)
    if kind == "typicality" and usual is None:
        raise BadInput("usual", None, "typicality is a distance from the usual score", "give the mean of usual rows")
    for run in members:
        _refuse(run, kind)
    rows = [given_rows(run, x, seed, condition=condition) for run in members]
    each = [
        _of_run(run, part, read, samples, derive(seed, place), usual)
        for place, (run, part) in enumerate(zip(members, rows, strict=True))
    ]
    values, parts, variance = (np.mean(found, 0) for found in zip(*each, strict=True))
    if kind != "latent":
        cost = np.mean([_cost_of_unseen(run, x) for run in members], 0)
        values, parts[:, :-1] = values + cost.sum(-1), parts[:, :-1] + cost
    return Scores(values, parts, np.sqrt(variance / len(members)), entry_names(members[0]), kind)


def _of_run(run: Any, x: Any, read: Read, samples: int, seed: int, usual: float | None) -> tuple[np.ndarray, ...]:
    """Values [n], parts [n, D + 1] and variances [n] of one run for rows x as its model sees them."""
    model = precise(run)
    size = max(1, CHUNK_VALUES // (samples * math.prod(run.spec.shape) * getattr(model, "channels", 1)))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        found = [read(drawn(run, model, part, samples, seed), usual) for part in x.split(size)]
    return tuple(torch.cat(each).numpy() for each in zip(*found, strict=True))


def joined(scores: Sequence[Scores]) -> Scores:
    """Scores of several sets of rows as those of one."""
    first = scores[0]
    values, parts, error = (np.concatenate([getattr(s, name) for s in scores]) for name in ("values", "parts", "error"))
    return Scores(values, parts, error, first.names, first.kind)


def precise(run: Any) -> Any:
    """A copy of the run's model in float64, whose numbers for a row do not change with the rows beside it.

    It is made once and kept as long as the model, since a stream of single rows asks for it again and again.
    """
    if run.model not in PRECISE:
        PRECISE[run.model] = copy.deepcopy(run.model).double()
    return PRECISE[run.model]


def entry_names(run: Any) -> tuple[str, ...]:
    """What the parts of a score are called: columns or places of an image counted from 0, and last the code."""
    if not _by_entry(run):
        return ("row", REST)
    names = run.spec.columns or tuple(",".join(map(str, place)) for place in np.ndindex(*run.spec.user_shape))
    return (*names, REST)


def _cost_of_unseen(run: Any, x: Any) -> np.ndarray:
    """What levels that none of N rows had cost, log(N + 1) nats each, [n, D]; [1, 1] where there are none.

    N counts held-out rows too, whose levels are known as well. A level that N rows did not have is held to come once in
    N + 1 rows.
    """
    unseen, count = run.spec.unseen(x), run.spec.rows + run.spec.held_out_rows
    return np.zeros((1, 1)) if unseen is None else unseen * math.log(count + 1)


def drawn(run: Any, model: Any, x: Tensor | Batch, samples: int, seed: int) -> Draws:
    """K draws of q(z|x) for rows x as the model sees them, with noise that follows from the row and the seed."""
    x = x.to(torch.float64)
    q, given = model.encode(x), beside(x)
    z, log_q = _draw(q, x, samples, seed)
    prior = model.prior_distribution(*given)
    log_pz = prior.log_prob(z)
    observation = model.decode(z, *given)
    each = _in_users_order(run, observation.per_entry(rows_of(x))) if _by_entry(run) else None
    log_px = observation.log_prob(rows_of(x))[..., None] if each is None else each
    change = _log_scales(run, rows_of(x), each is not None)
    entries = (change - log_px).expand(samples, -1, -1)
    kl = divergence(q, prior, z, log_q, log_pz)[0].sum(1)
    return Draws(entries, log_pz - log_q - entries.sum(-1), kl)


def _draw(q: Any, x: Tensor | Batch, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples [K, B, L] of q and their log-density [K, B]."""
    if not takes_noise(q):
        seed_global(seed, "score")
        z = q.rsample(samples)
        return z, q.log_prob(z)
    _, size = q.noise_shape
    coins = [generator(seed, "score", _digest(row)) for row in rows_of(x)]
    noise = [torch.randn(samples, size, generator=coin, dtype=torch.float64) for coin in coins]
    return q.pushed(torch.stack(noise, 1))


def _digest(row: Tensor) -> int:
    """A number that follows from the entries of a row."""
    return int.from_bytes(blake2b(row.numpy().tobytes(), digest_size=8).digest(), "big")


def _by_entry(run: Any) -> bool:
    """Whether the likelihood is a product over the entries of a row."""
    return bool(getattr(getattr(getattr(run.model, "decoder", None), "likelihood", None), "by_entry", False))


def _in_users_order(run: Any, each: Tensor) -> Tensor:
    """Numbers of entries [K, B, *shape] as a person has the rows, [K, B, D]."""
    return (each.movedim(2, -1) if run.spec.axes == "HWC" else each).flatten(2)


def _log_scales(run: Any, x: Tensor, by_entry: bool) -> Tensor:
    """What -log p(x_d) grows by on the data's own scale, [B, D] or [B, 1]; 0 for masses and missing entries."""
    if not run.spec.log_abs_det:
        return torch.zeros(1, 1, dtype=torch.float64)
    scales = run.spec.transform.scale.double().log().expand(run.spec.shape)[None]
    each = _in_users_order(run, torch.where(x.isnan(), 0.0, scales)[None])[0]
    return each if by_entry else each.sum(-1, keepdim=True)


def _refuse(run: Any, kind: str) -> None:
    if kind != "reconstruction" and not run.has_bound:
        rule = "its codes have no density, so that there is no bound on log p(x)"
        raise BadInput("kind", kind, rule, "kind=reconstruction")


def _likelihood(draws: Draws, usual: float | None) -> Numbers:
    bound, variance, _, _ = (torch.from_numpy(found) for found in weight_numbers(draws.log_w.numpy()))
    entries = (draws.log_w.softmax(0)[..., None] * draws.entries).sum(0)
    return -bound, torch.cat([entries, (-bound - entries.sum(-1))[:, None]], 1), variance


def _reconstruction(draws: Draws, usual: float | None) -> Numbers:
    entries, each = draws.entries.mean(0), draws.entries.sum(-1)
    variance = each.var(0) / len(each) if len(each) > 1 else torch.full_like(each[0], math.nan)
    return entries.sum(-1), torch.cat([entries, torch.zeros_like(entries[:, :1])], 1), variance


def _latent(draws: Draws, usual: float | None) -> Numbers:
    rest = draws.divergence
    return rest, torch.cat([torch.zeros_like(draws.entries[0]), rest[:, None]], 1), torch.zeros_like(rest)


def _typicality(draws: Draws, usual: float | None) -> Numbers:
    assert usual is not None
    total, parts, variance = _likelihood(draws, None)
    parts[:, -1] -= usual
    sign = torch.where(total >= usual, 1.0, -1.0)
    return (total - usual).abs(), parts * sign[:, None], variance


KINDS: dict[str, Read] = {
    "likelihood": _likelihood,
    "reconstruction": _reconstruction,
    "latent": _latent,
    "typicality": _typicality,
}
