"""What a run's model makes of its held-out rows, as plain arrays: all that the measures read."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, beside, rows_of
from ..core.config import Config
from ..core.seeds import derive, seed_global
from ..data.mixed import Metric
from ..distributions.likelihoods import FixedNoise
from ..distributions.normal import NORMAL
from ..measure.baseline import baseline
from ..measure.information import most_paired, paired
from ..measure.refine import Refined, refine
from ..models.vae import prior_codes
from .units import Census, census

CHUNK_VALUES = 2**22  # values of a likelihood's parameters at once: 16 MiB in float32
MOST_VALUES = 2**21  # of all rows looked at: 2000 rows of 28 x 28 gray levels, fewer of larger ones
LEAST_ROWS = 200
MOST_REFINED = 2**18  # of the rows whose posteriors are optimised, at each of a hundred decodings
DRAWS = 1000  # posterior samples at least, over all rows: few rows get more each
MOST_SAMPLES = 16


@dataclass(frozen=True)
class Reading:
    """What the model says of rows x, each read with K posterior samples; entries are flat, D to a row.

    Args:
        x: As the model sees them, [n, D]; a missing entry of a table of numbers is the model's own draw.
        bound: The negative ELBO in nats per sample on the data's own scale, [n].
        mean: Of q(z|x), [n, L].
        variance: Of q(z|x), [n, L].
        kl: KL(q(z|x) || p(z)), [n, L] or [n, G].
        z: One draw of q(z|x), [n, L].
        log_px: log p(x|z) at all draws, averaged, [n].
        fitted: Mean of p(x|z) at `z`, [n, D].
        drawn: One draw of p(x|z) at `z`, [n, D].
        log_sigma: Logarithm of the noise of each entry where it comes from z, averaged over rows, [D]; else None.
    """

    x: np.ndarray
    bound: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    kl: np.ndarray
    z: np.ndarray
    log_px: np.ndarray
    fitted: np.ndarray
    drawn: np.ndarray
    log_sigma: np.ndarray | None


@dataclass(frozen=True)
class Drawn:
    """Everything the measures read.

    Args:
        config: The resolved config.
        shape: Of a row as the model sees it.
        image: Whether the rows are images.
        held_out: The held-out rows.
        training: As many training rows or fewer; None where the run kept none.
        baseline: Negative log-likelihood of held-out rows under the best constant decoder, nats per sample; None where
            it is not known.
        beta: Weight of the divergence in the last steps, whoever set it.
        fixed_noise: Whether the decoder's noise was given and is not learned.
        prior: Draws from the prior, [m, L].
        shuffled: log p(x|z) at the code of another row, [n].
        made: Means of p(x|z) at `prior`, [m, D].
        made_noisy: Draws of p(x|z) at `prior`, [m, D].
        pairs: log q(z_i|x_j) of the first rows, [k, k]; None for codes without noise, which have no density.
        log_prior: log p(z_i) of the same, [k].
        offers: What q(z|x) is, in the words of `vaelab.models.fits`.
        encoder: What the encoder's units do on the held-out rows.
        decoder: The same of the decoder.
        refined: What some gradient steps on q itself gain; None for a posterior that is no diagonal normal.
    """

    config: Config
    shape: tuple[int, ...]
    image: bool
    held_out: Reading
    training: Reading | None
    baseline: float | None
    beta: float
    fixed_noise: bool
    prior: np.ndarray
    shuffled: np.ndarray
    made: np.ndarray
    made_noisy: np.ndarray
    pairs: np.ndarray | None
    log_prior: np.ndarray
    offers: frozenset[str]
    encoder: Census
    decoder: Census
    refined: Refined | None


@torch.no_grad()
def draw(run: Any, seed: int) -> Drawn:
    """Reads the held-out and training rows of a run with a copy of its model, and draws from its prior."""
    model = copy.deepcopy(run.model).cpu().eval()
    most = max(LEAST_ROWS, MOST_VALUES // (math.prod(run.spec.shape) * getattr(model, "channels", 1)))
    with torch.random.fork_rng(devices=[]):
        seed_global(seed, "diagnosis")
        x, shown = (
            None if raw is None else _rows(run, raw, most, condition)
            for raw, condition in zip((run.preview, run.training_preview), run.conditions, strict=True)
        )
        assert x is not None
        with census(model) as (encoder, decoder):
            held_out = _read(model, x, run.spec.log_abs_det, bool(run.spec.mixed))
        training = None if shown is None else _read(model, shown, run.spec.log_abs_det, bool(run.spec.mixed))
        metric = Metric(run.spec.mixed, rows_of(x).numpy()) if run.spec.mixed else np.asarray
        z = torch.from_numpy(held_out.z).to(x.dtype)
        count = max(len(x), 2)
        given = beside(x[torch.arange(count) % len(x)])
        prior = prior_codes(model, count, None, *given)
        size = x[0].numel() * getattr(model, "channels", 1)
        made, noisy = _in_parts(lambda part, *c: _made(model, part, *c), size, prior, *given)
        others = _another(len(x), seed)
        (shuffled,) = _in_parts(lambda code, row: (_density(model, code, row),), size, z[others], x)
        pairs, log_prior, offers = _pairs(model, x, z)
        return Drawn(
            config=run.config,
            shape=tuple(run.spec.shape),
            image=run.spec.layout == "image",
            held_out=_compared(held_out, metric),
            training=None if training is None else _compared(training, metric),
            baseline=_baseline(model, shown, x, run),
            beta=next((line["beta"] for line in reversed(run.history) if "beta" in line), run.config.objective.beta),
            fixed_noise=any(isinstance(module, FixedNoise) for module in model.modules()),
            prior=_array(prior),
            shuffled=_array(shuffled),
            made=metric(_array(made)),
            made_noisy=metric(_array(noisy)),
            pairs=None if pairs is None else _array(pairs),
            log_prior=_array(log_prior),
            offers=offers,
            encoder=encoder,
            decoder=decoder,
            refined=refine(model, x, MOST_REFINED // (x[0].numel() * getattr(model, "channels", 1))),
        )


def _rows(run: Any, raw: np.ndarray, most: int, condition: Tensor | None) -> Any:
    """Rows [n, *shape] of a preview as the model sees them; gray levels that are drawn anew as bits are drawn once."""
    x = _entries(run, raw, most)
    return x if condition is None else Batch(x, condition[:most])


def _entries(run: Any, raw: np.ndarray, most: int) -> Tensor:
    if run.spec.vocabulary or run.spec.mixed:
        return run.spec.to_model(raw[:most])
    x = run.spec.transform(torch.as_tensor(np.ascontiguousarray(raw[:most]))).reshape(-1, *run.spec.shape)
    if run.spec.binarize == "threshold":
        return (x >= 0.5).float()
    return x.clamp(0, 1).bernoulli() if run.spec.binarize == "dynamic" else x


def _baseline(model: Any, training: Tensor | Batch | None, held_out: Tensor | Batch, run: Any) -> float | None:
    """Of the same held-out rows as the bound, so that both can be compared; else what the run noted."""
    likelihood = getattr(getattr(model, "decoder", None), "likelihood", None)
    found = None if training is None else baseline(likelihood, rows_of(training), rows_of(held_out))
    return run.metrics.get("baseline") if found is None else found[0] - run.spec.log_abs_det


def _read(model: Any, x: Tensor | Batch, shift: float, mixed: bool) -> Reading:
    samples = max(1, min(MOST_SAMPLES, DRAWS // len(x)))
    size = x[0].numel() * getattr(model, "channels", 1) * samples

    def part(rows: Any) -> tuple[Tensor, ...]:
        out = model.draw(rows, samples=samples)
        first = model.decode(out.z[:1], *beside(rows))
        scale = getattr(first, "log_sigma", None)
        sigma = scale(None) if callable(scale) else torch.zeros(())
        own = sigma[0].flatten(1) if sigma.ndim > 1 else torch.zeros(len(rows), 0)
        fitted, drawn = first.mean[0].flatten(1), first.sample()[0].flatten(1)
        moments = out.posterior.mean, out.posterior.variance
        return -out.elbo - shift, *moments, out.kl, out.z[0], out.log_px.mean(0), fitted, drawn, own

    names = ("bound", "mean", "variance", "kl", "z", "log_px", "fitted", "drawn")
    *found, own = (_array(item) for item in _in_parts(part, size, x))
    log_sigma = own.mean(0) if own.size else None
    read = dict(zip(names, found, strict=True))
    seen = _array(rows_of(x).flatten(1))
    return Reading(x=seen if mixed else np.where(np.isnan(seen), read["drawn"], seen), log_sigma=log_sigma, **read)


def _compared(read: Reading, metric: Callable[[np.ndarray], np.ndarray]) -> Reading:
    """The same with rows where distances mean something, such as levels of a category instead of their codes."""
    return replace(read, x=metric(read.x), fitted=metric(read.fitted), drawn=metric(read.drawn))


def _made(model: Any, z: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
    likelihood = model.decode(z[None], *given)
    return likelihood.mean[0].flatten(1), likelihood.sample()[0].flatten(1)


def _density(model: Any, z: Tensor, x: Any) -> Tensor:
    return model.decode(z[None], *beside(x)).log_prob(rows_of(x))[0]


def _pairs(model: Any, x: Any, z: Tensor) -> tuple[Tensor | None, Tensor, frozenset[str]]:
    """log q(z_i|x_j) and log p(z_i) of as many rows as are compared with each other, and what q offers."""
    count = most_paired(*z.shape)
    prior, q = model.prior_distribution(*beside(x[:count])), model.encode(x[:count])
    offers = getattr(q, "offers", NORMAL)
    pairs = paired(q, z[:count]) if "density" in offers else None
    return pairs, prior.log_prob(z[None, :count])[0], offers


def _another(count: int, seed: int) -> Tensor:
    """For each row the number of another one (itself where it is alone): a random cycle through all rows."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(derive(seed, "shuffled")))
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def _in_parts(function: Callable[..., tuple[Tensor, ...]], size: int, *rows: Any) -> list[Tensor]:
    """The function's results for rows [n, ...], computed for as many rows at once as memory holds."""
    chunk = max(16, CHUNK_VALUES // size)
    parts = [function(*given) for given in zip(*(item.split(chunk) for item in rows), strict=True)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _array(values: Tensor) -> np.ndarray:
    return values.detach().double().numpy()
