"""The importance-weighted bound on log p(x), with its errors: every sample counted once, whatever the chunks."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.errors import BadInput, whole
from ..core.seeds import generator
from ..core.units import bits_per_dimension, readable_bytes
from ..distributions.foreign import Foreign, seeded
from ..distributions.kl import divergence
from ..distributions.normal import Distribution
from .estimate import Estimate, mean_of
from .latent import LatentModel, is_point, latent_model, takes_noise
from .pareto import pareto_k

CHUNK_VALUES = 2**18  # numbers a decoder gives at once on a CPU: what follows each product then stays in its cache
DEVICE_VALUES = 2**25  # and on an accelerator: 128 MiB in float32
LEAST_DECODED = 32  # codes at once at least: a product with large weights is slow for fewer
MOST_NOISE = 2**28  # entries of the noise of one row: 1 GiB, of which some copies are made
UNIT = "nats per sample"
GLOBAL = threading.Lock()  # a stranger's distribution draws from the global generator, which threads share


@dataclass(frozen=True)
class Bound:
    """Lower bounds on log p(x) for each row, in nats on the scale of the rows; higher is better.

    Args:
        values: log mean_K p(x, z_k) / q(z_k|x), [n].
        elbo: E_q[log p(x|z)] - KL(q || p) from the same samples, the divergence in closed form where there is one, [n].
        half: The same bound with half the samples: the mean over the two halves, [n]; NaN for one sample.
        ess: Effective sample size (sum w)² / sum w², of K at most, [n].
        k_hat: Shape of the weights' tail, see `pareto_k`, [n].
        variance: Of each value over other draws of z, by the delta method, [n]; NaN for one sample.
        samples: K.
        dimensions: Entries of a row.
        unit: Of all of them.
        note: What was done to the rows before the model saw them, such as drawing bits; empty where nothing was.
    """

    values: np.ndarray
    elbo: np.ndarray
    half: np.ndarray
    ess: np.ndarray
    k_hat: np.ndarray
    variance: np.ndarray
    samples: int
    dimensions: int
    unit: str = UNIT
    note: str = ""

    @property
    def mean(self) -> float:
        """The mean over rows."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean, for other rows and other draws of z: the spread of the rows over sqrt(n)."""
        count = len(self.values)
        return float(self.values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.inf

    @property
    def sampling_error(self) -> float:
        """Of the mean, for other draws of z and these very rows."""
        return math.sqrt(self.variance.sum()) / len(self.values)

    @property
    def gain(self) -> Estimate:
        """What the second half of the samples added to the mean: a bound that still grows is loose."""
        return mean_of(self.values - self.half, self.unit)

    @property
    def estimate(self) -> Estimate:
        """The mean with its 95 % interval over rows."""
        return mean_of(self.values, self.unit)

    @property
    def bits_per_dimension(self) -> float:
        """The code length that the mean stands for, where the likelihood is a mass."""
        return bits_per_dimension(-self.mean, self.dimensions)

    def shifted(self, nats: float) -> Bound:
        """The same on another scale of the data: every row's log-density plus a number of nats."""
        return replace(self, values=self.values + nats, elbo=self.elbo + nats, half=self.half + nats)

    def __repr__(self) -> str:
        error = f"{self.mean:.4f} ± {self.standard_error:.4f} (standard error)"
        note = f"; {self.note}" if self.note else ""
        return f"Bound({error} {self.unit}, {len(self.values)} rows, K = {self.samples}{note})"


def importance_bound(
    model: Any,
    x: Tensor | Batch,
    samples: int = 5000,
    *,
    seed: int = 0,
    chunk: int | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bound:
    r"""log p(x) from below, for rows as the model sees them.

    .. math:: \log \frac{1}{K} \sum_k \frac{p(x|z_k) p(z_k)}{q(z_k|x)} \le \log p(x) \text{ in expectation}

    Its bias is about -(K / ESS - 1) / 2K; it vanishes as K grows. Row i gets noise from (seed, i), so that neither the
    chunks nor the other rows change its value. Weights are added up in float64.

    Reference: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016.

    Args:
        model: One of ours, or a stranger's functions; see `latent_model`. In the mode of evaluation meanwhile.
        x: Rows [n, ...].
        samples: K.
        seed: Of the noise.
        chunk: Samples of a row that are decoded at once; None: what fits the cache.
        threads: Rows evaluated at once on a CPU; None: as many as PyTorch has threads, for a model of ours.
        progress: Told how many rows are done, and of how many.

    Raises:
        BadInput: for K or a chunk below 1, no rows, and functions that do not fit.
    """
    found = latent_model(model)
    whole("samples", samples)
    whole("chunk", 1 if chunk is None else chunk)
    x = found.rows(x)
    on_cpu = x.device.type == "cpu"
    at_once = max(LEAST_DECODED, (CHUNK_VALUES if on_cpu else DEVICE_VALUES) // found.width(x))
    rows = max(1, at_once // samples)
    starts = range(0, len(x), rows)

    @torch.no_grad()
    def group(start: int) -> np.ndarray:
        return _row_numbers(found, x[start : start + rows], start, samples, seed, chunk or max(1, at_once // rows))

    with evaluating(found.module), torch.random.fork_rng(devices=[]):
        workers = (threads or torch.get_num_threads()) if on_cpu and found.thread_safe else 1
        parts = []
        for part in _each(group, starts, workers):
            parts.append(part)
            if progress is not None:
                progress(min(len(parts) * rows, len(x)), len(x))
    values, elbo, half, ess, k_hat, variance = np.concatenate(parts, 1)
    return Bound(values, elbo, half, ess, k_hat, variance, samples, x[0].numel())


def _each(function: Any, items: range, workers: int) -> Iterator[np.ndarray]:
    """The function of every item, in order; each worker computes with one thread, so that none waits for another."""
    if workers == 1 or len(items) == 1:
        yield from map(function, items)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(function, items)
    finally:
        torch.set_num_threads(threads)


def _row_numbers(model: LatentModel, x: Tensor | Batch, first: int, samples: int, seed: int, chunk: int) -> np.ndarray:
    """The numbers of `Bound` for rows x [B, ...], of which the first is row `first`, [6, B]."""
    q = model.encode(x)
    if takes_noise(q) or len(x) == 1:
        z, log_qz = draw(q, 1 if is_point(q) else samples, seed, first)
    else:  # what knows no noise of a row is drawn row by row, so that the others do not change its value
        z = torch.cat([draw_z(model.encode(row[None]), samples, seed, at) for at, row in enumerate(x, first)], 1)
        log_qz = q.log_prob(z)
    prior = model.prior(z, x)
    log_px = torch.cat([model.log_px(x, part) for part in z.split(chunk)])
    log_pz = prior.log_prob(z)
    for name, nats in (("log p(x|z)", log_px), ("log p(z)", log_pz), ("log q(z|x)", log_qz)):
        _refuse_nan(name, nats, first)
    log_w = (log_px.double() + log_pz.double() - log_qz.double()).expand(samples, -1).cpu().numpy()
    kl = divergence(q, prior, z, log_qz, log_pz)[0].double().sum(1)
    elbo = (log_px.double().mean(0) - kl).cpu().numpy()
    values, variance, ess, k_hat = weight_numbers(log_w)
    return np.stack([values, elbo, _half(log_w), ess, k_hat, variance])


def _refuse_nan(name: str, nats: Tensor, first: int) -> None:
    """Refuses numbers [K, B] that are none; minus infinity is one, of a row that the model holds impossible."""
    wrong = nats.isnan() | nats.isposinf()
    if wrong.any():
        row, what = first + int(wrong.any(0).nonzero()[0]), "NaN" if nats.isnan().any() else "infinite"
        raise BadInput("x", f"row {row}, for which {name} is {what}", "every row needs a number", "look at both")


def draw_z(q: Distribution, samples: int, seed: int, first: int) -> Tensor:
    """Samples [K, B, L] of q, whose row 0 is row `first` of all: each row has noise of its own, by (seed, row)."""
    return draw(q, samples, seed, first)[0] if takes_noise(q) else _by_seed(q, samples, seed, first)


def draw(q: Distribution, samples: int, seed: int, first: int) -> tuple[Tensor, Tensor]:
    """The samples of `draw_z` and log q(z) in nats, [K, B]; a normal's from the noise itself, which loses no digits."""
    if not takes_noise(q):
        z = _by_seed(q, samples, seed, first)
        return z, q.log_prob(z)
    rows, size = q.noise_shape  # type: ignore[attr-defined]
    device, dtype = q.mean.device, q.mean.dtype
    if samples * size > MOST_NOISE:
        rule = f"the noise of one row would take {readable_bytes(4.0 * samples * size)}"
        raise BadInput("samples", samples, rule, f"at most {MOST_NOISE // size} here")
    noise = [
        torch.randn(samples, size, generator=generator(seed, "importance", first + row, device=device), device=device)
        for row in range(rows)
    ]
    together = torch.stack(noise, 1).to(dtype)
    return q.pushed(together)  # type: ignore[attr-defined]


def _by_seed(q: Distribution, samples: int, seed: int, first: int) -> Tensor:
    """Samples [K, B, L] of a q that takes no noise: of all its rows together, by (seed, first row)."""
    with GLOBAL, seeded(generator(seed, "importance", first)):
        z = q.sample(samples) if isinstance(q, Foreign) else q.rsample(samples)  # discrete ones have no other
    return z if z.ndim == 3 else z.unsqueeze(1)


def log_mean_exp(log_w: np.ndarray) -> np.ndarray:
    """log of the mean of exp over the first axis, [B] from [K, B].

    Example:
        >>> log_mean_exp(np.log([[1.0], [3.0]])).round(6).tolist()
        [0.693147]
    """
    shift = _shift(log_w)
    with np.errstate(divide="ignore"):
        return shift + np.log(np.exp(log_w - shift).mean(0))


def _shift(log_w: np.ndarray) -> np.ndarray:
    """The largest of each column, or 0 where all are minus infinity."""
    top = log_w.max(0)
    return np.where(np.isfinite(top), top, 0.0)


def weight_numbers(log_w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of weights [K, B]: log of their mean, its variance by the delta method (NaN for one), effective number, tail.

    Each [B]. The effective number is (sum w)² / sum w² (Kong, A Note on Importance Sampling, 1992).
    """
    samples = len(log_w)
    # A row that is impossible has no largest weight; its other numbers are those of equal weights.
    relative = np.where(np.isneginf(log_w).all(0), 0.0, log_w - _shift(log_w))
    weights = np.exp(relative)
    ess = weights.sum(0) ** 2 / (weights**2).sum(0)
    nan = np.full(log_w.shape[1], np.nan)
    variance = weights.var(0, ddof=1) / weights.mean(0) ** 2 / samples if samples > 1 else nan
    return log_mean_exp(log_w), variance, ess, pareto_k(relative)


def _half(log_w: np.ndarray) -> np.ndarray:
    """The bound with half the samples, the mean over both halves, [B] from [K, B]; NaN for one sample."""
    middle = len(log_w) // 2
    if middle == 0:
        return np.full(log_w.shape[1], np.nan)
    return (log_mean_exp(log_w[:middle]) + log_mean_exp(log_w[middle : 2 * middle])) / 2


@contextlib.contextmanager
def evaluating(module: torch.nn.Module | None) -> Iterator[None]:
    """The module in the mode of evaluation, and every part back in its own afterwards."""
    modes = [] if module is None else [(part, part.training) for part in module.modules()]
    try:
        if module is not None:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training
