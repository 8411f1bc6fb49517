"""Annealed importance sampling: log p(x) between a lower and an upper bound, each with its error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, beside
from ..core.errors import BadInput, did_you_mean, whole
from ..core.seeds import derive, generator
from ..distributions.normal import EUCLIDEAN, Distribution
from .estimate import Z95, Estimate, between, mean_of
from .hmc import Path, anneal, find_sizes, noise_of_moves, resampled, temperatures
from .importance import CHUNK_VALUES, DEVICE_VALUES, LEAST_DECODED, UNIT, draw_z, evaluating, weight_numbers
from .latent import LatentModel, latent_model, takes_noise

STARTS = ("encoder", "prior")
PILOT_CHAINS = 4  # enough for a rate of acceptance; of 16 chains there and back they cost a ninth
MIXING = 10  # moves at the posterior before the way back, so that chains which begin at one state part first
SCALE_DRAWS = 256  # of a distribution, for its scale to within a tenth


@dataclass(frozen=True)
class Bracket:
    """log p(x) of each row between two bounds, in nats on the scale of the rows; higher is better.

    In expectation `lower` is below log p(x), whatever the steps and chains; `upper` is above it where `upper_is_exact`,
    else as far as the chains have reached the posterior.

    Args:
        lower: log mean_chains w of the chains from the start to the posterior, [n].
        upper: -log mean_chains 1/w of the chains back, [n].
        lower_error: Standard error over chains, by the delta method, [n]; NaN for one chain. Where `ess` is a few
            chains only, it is itself a guess.
        upper_error: The same of `upper`, [n]; for these starts of the chains back, which they share in part.
        ess: Effective number of forward chains (sum w)² / sum w², [n].
        acceptance: Mean probability that a transition was accepted, forward, [n].
        steps: Temperatures after the start.
        chains: Chains of a row in either direction.
        start: Where they started: "encoder" or "prior".
        upper_is_exact: Whether the chains back began at exact draws of the posterior.
        unit: Of the bounds.
        note: As of `Bound`.
    """

    lower: np.ndarray
    upper: np.ndarray
    lower_error: np.ndarray
    upper_error: np.ndarray
    ess: np.ndarray
    acceptance: np.ndarray
    steps: int
    chains: int
    start: str
    upper_is_exact: bool
    unit: str = UNIT
    note: str = ""

    @property
    def mean(self) -> float:
        """The mean of the lower bound over rows: the figure to report."""
        return float(self.lower.mean())

    @property
    def estimate(self) -> Estimate:
        """The mean of the lower bound with its 95 % interval for other rows."""
        return mean_of(self.lower, self.unit)

    @property
    def interval(self) -> float:
        """Half-width of the mean's 95 % interval for other rows."""
        return float(self.estimate.interval)

    @property
    def standard_error(self) -> float:
        """Of the mean, for other rows."""
        return self.interval / Z95

    @property
    def sampling_error(self) -> float:
        """Of the mean, for other chains and these very rows."""
        return _error_of_mean(self.lower_error)

    @property
    def gap(self) -> Estimate:
        """Upper less lower bound: what the two leave open, in the mean over rows."""
        return mean_of(self.upper - self.lower, self.unit)

    @property
    def between(self) -> Estimate:
        """Mean log p(x) of these very rows: from the lower to the upper bound, widened by their errors over chains."""
        error = Z95 * max(self.sampling_error, _error_of_mean(self.upper_error))
        return between(self.mean, float(self.upper.mean()), error, self.unit)

    def shifted(self, nats: float) -> Bracket:
        """The same on another scale of the data: every row's log-density plus a number of nats."""
        return replace(self, lower=self.lower + nats, upper=self.upper + nats)

    def __repr__(self) -> str:
        kind = "exact" if self.upper_is_exact else "as far as the chains mix"
        ends = f"{self.mean:.4f} ± {self.sampling_error:.4f} to {self.upper.mean():.4f} ({kind})"
        return f"Bracket({ends} {self.unit}, {len(self.lower)} rows, {self.chains} chains, {self.steps} steps)"


def _error_of_mean(errors: np.ndarray) -> float:
    return math.sqrt(np.square(errors).sum()) / len(errors)


def ais(
    model: Any,
    x: Tensor | Batch,
    steps: int = 1000,
    chains: int = 16,
    *,
    start: Literal["encoder", "prior"] = "encoder",
    leapfrog: int = 3,
    z: Tensor | None = None,
    seed: int = 0,
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bracket:
    r"""log p(x) from both sides, for rows as the model sees them.

    Chains move from q0, which is q(z|x) or p(z), to the posterior along :math:`q_0^{1 - \beta_t} p(x, z)^{\beta_t}` by
    Hamiltonian transitions, and collect

    .. math:: \log w = \sum_t (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{q_0(z_{t-1})}, \quad E[w] = p(x).

    So log mean w is below log p(x) in expectation, by about Var(w) / 2 C p(x)² for C chains. Chains that begin at a
    draw of the posterior and go back have E[1/w] = 1 / p(x), and -log mean 1/w is above it. Such a draw is `z`, where
    the rows were drawn from the model with it (`simulated_ais`). For other rows the chains back begin at ends of the
    chains forth, resampled by weight: the upper bound then holds **as far as those have reached the posterior**; a part
    of it that no chain found is missing in both bounds. The gap on simulated rows, which is exact, says how far to
    trust it.

    The step sizes, one for each row and temperature, are learned in a pilot run with other noise and then held: the
    weights are unbiased whatever the pilot found. Row i has noise from (seed, i), so that neither chunks nor other rows
    change its value beyond the rounding of the model's products. Weights are added up in float64.

    Cost: about (2 chains + 4) * steps * leapfrog decodings with a gradient for each row.

    References: Neal, Annealed Importance Sampling, 2001; Grosse, Ghahramani and Adams, Sandwiching the Marginal
    Likelihood Using Bidirectional Monte Carlo, 2015; Wu, Burda, Salakhutdinov and Grosse, On the Quantitative Analysis
    of Decoder-Based Generative Models, 2017.

    Args:
        model: One of ours, or a stranger's functions, differentiable in z; see `latent_model`. In the mode of
            evaluation meanwhile; its parameters' gradients are left alone.
        x: Rows [n, ...].
        steps: Temperatures after the start, on a sigmoid schedule.
        chains: Of each row, in either direction.
        start: "encoder", or "prior", which needs more steps and asks nothing of q(z|x) but its scale.
        leapfrog: Steps of a trajectory. Where q(z|x) is near the posterior two or three do, and more temperatures are
            the better use of time.
        z: Exact draws of the posterior of each row, [n, L], where they are known.
        seed: Of the noise.
        chunk: Rows advanced at once; None: as many as fit the cache.
        progress: Told how many rows are done, and of how many.

    Raises:
        BadInput: for steps below 2, chains, leapfrog or a chunk below 1, an unknown start, no rows, a prior that cannot
            be sampled where it is the start, z of another shape, and functions that do not fit.

    Example:
        >>> functions = {  # x = z + noise: p(x) = N(0, 2)
        ...     "encode": lambda x: (x / 2, torch.zeros(len(x), 1)),
        ...     "log_px": lambda x, z: torch.distributions.Normal(z, 1.0).log_prob(x).sum(1),
        ... }
        >>> bracket = ais(functions, torch.ones(1, 1), steps=100).between
        >>> bool(bracket.low < -0.25 - 0.5 * math.log(4 * math.pi) < bracket.high)
        True
    """
    check_options(steps, chains, start, leapfrog)
    whole("chunk", 1 if chunk is None else chunk)
    found = latent_model(model)
    x = found.rows(x)
    _refuse_jumps(found, x)
    if z is not None and (z.ndim != 2 or len(z) != len(x)):
        raise BadInput("z", f"shape {tuple(z.shape)}", f"must be one vector for each of the {len(x)} rows")
    if chunk is None:
        values = CHUNK_VALUES if x.device.type == "cpu" else DEVICE_VALUES
        chunk = max(1, max(LEAST_DECODED, values // found.width(x)) // chains)
    plan = _Plan(found, steps, chains, start, leapfrog, seed)
    with evaluating(found.module), torch.random.fork_rng(devices=[]), torch.no_grad():
        groups = range(0, len(x), chunk)
        parts = []
        for i in groups:
            parts.append(plan.numbers(x[i : i + chunk], None if z is None else z[i : i + chunk], i))
            if progress is not None:
                progress(min(i + chunk, len(x)), len(x))
    lower, upper, lower_error, upper_error, ess, acceptance = np.concatenate(parts, 1)
    exact = z is not None
    return Bracket(lower, upper, lower_error, upper_error, ess, acceptance, steps, chains, start, exact)


@torch.no_grad()
def _refuse_jumps(model: LatentModel, x: Tensor | Batch) -> None:
    """Refuses codes that cannot be moved along a slope."""
    if "euclidean" not in getattr(model.encode(x[:1]), "offers", EUCLIDEAN):
        rule = "annealing moves codes along a slope, and these are no points of a Euclidean space"
        raise BadInput("model", type(model.module).__name__, rule, "the importance-weighted bound needs no slope")


def check_options(steps: int = 1000, chains: int = 16, start: str = "encoder", leapfrog: int = 3) -> None:
    """Refuses options of `ais` that break a rule.

    Raises:
        BadInput: for steps below 2, chains or leapfrog below 1, and an unknown start.
    """
    for name, value, least in (("steps", steps, 2), ("chains", chains, 1), ("leapfrog", leapfrog, 1)):
        whole(name, value, least)
    if start not in STARTS:
        raise BadInput("start", start, "is no place to start from", did_you_mean(str(start), STARTS))


def simulated_ais(
    model: Any,
    like: Tensor | Batch,
    rows: int = 64,
    steps: int = 1000,
    chains: int = 16,
    *,
    seed: int = 0,
    **options: Any,
) -> Bracket:
    """The bracket on rows drawn from the model, whose posteriors have an exact draw: both of its bounds are proven.

    Its `gap` bounds the error of either in the mean, on rows such as the model makes.

    Reference: Grosse, Ancha and Roy, Measuring the Reliability of MCMC Inference with Bidirectional Monte Carlo, 2016.

    Args:
        model: As for `ais`, with `draw_x` where it is a stranger's.
        like: Rows [n, ...] as the model sees them; one is encoded, to learn the size of z.
        rows: Rows to draw.
        steps: As for `ais`, and so are the other options.
        chains: As for `ais`.
        seed: Of the rows, and of the noise.
        options: Further ones of `ais`.

    Raises:
        BadInput: as `ais`, and where no rows can be drawn from the model.
    """
    x, z = simulate(model, like, rows, seed)
    return ais(model, x, steps, chains, z=z, seed=seed, **options)


@torch.no_grad()
def simulate(model: Any, like: Tensor | Batch, rows: int, seed: int = 0) -> tuple[Any, Tensor]:
    """Rows x [rows, ...] drawn from the model, and the z [rows, L] that made each: an exact draw of p(z|x).

    Raises:
        BadInput: for rows below 1, a stranger's functions without `draw_x`, and a prior that cannot be sampled.
    """
    found = latent_model(model)
    whole("rows", rows)
    if found.draw_x is None:
        raise BadInput("model", "no draw_x", "is needed to draw rows from the model", "add draw_x(z), a draw of p(x|z)")
    with evaluating(found.module), torch.random.fork_rng(devices=[]):
        like = found.rows(like)
        coins = generator(seed, "simulated", "z", device=like.device)
        if isinstance(like, Batch):  # the rows are drawn under its conditions, in turn
            like = like[torch.arange(rows) % len(like)]
        given = beside(like)
        prior = _prior(found, like, seed)
        z = prior.sample(rows, coins)
        if z.ndim == 3:  # one prior for each row
            z = z[0]
        x = found.draw_x(z[None], generator(seed, "simulated", "x", device=z.device), *given)[0]
    return (Batch(x, *given) if given else x), z


@dataclass(frozen=True)
class _Plan:
    """What `ais` does with a group of rows."""

    model: LatentModel
    steps: int
    chains: int
    start: str
    leapfrog: int
    seed: int

    def numbers(self, x: Tensor | Batch, z: Tensor | None, first: int) -> np.ndarray:
        """The numbers of `Bracket` for rows x [B, ...], of which the first is row `first`, [6, B]."""
        path, betas = self._path(x, first), temperatures(self.steps)
        begin = self._starts(x, first, min(PILOT_CHAINS, self.chains), "pilot")
        sizes = find_sizes(path, begin, betas, self._noise(begin, first, "pilot"))
        begin = self._starts(x, first, self.chains, "forth")
        ends, log_w, acceptance = anneal(path, begin, betas, sizes, self._noise(begin, first, "forth"))
        noise = self._noise(ends, first, "back")
        begin = resampled(ends, log_w, next(noise)[0, :, :1]) if z is None else z.to(ends).expand_as(ends)
        # A move at one temperature collects no weight, so that these leave the bound what it is.
        back = [1.0] * MIXING + betas[::-1]
        _, log_v, _ = anneal(path, begin, back, torch.cat([sizes[-1:].expand(MIXING, -1), sizes.flip(0)]), noise)
        lower, variance, ess, _ = weight_numbers(log_w.cpu().numpy())
        upper, upper_variance, _, _ = weight_numbers(log_v.cpu().numpy())
        errors = np.sqrt([variance, upper_variance])
        return np.stack([lower, -upper, *errors, ess, acceptance.cpu().numpy()])

    def _path(self, x: Tensor | Batch, first: int) -> Path:
        """From q(z|x) or p(z) to p(x, z), scaled by the variances of either."""
        model, q = self.model, self.model.encode(x)
        scale = q.variance if takes_noise(q) else self._encoded(x, first, SCALE_DRAWS, "scale").var(0)
        if self.start == "encoder":
            prior = model.prior(draw_z(model.encode(x[:1]), 1, self.seed, 0), x)  # once: some encode rows to be made
            return Path(lambda z: _densities(q, prior, model, x, z), 1 / scale, 1 / scale, self.leapfrog)
        prior = _prior(model, x, self.seed)
        draws = prior.sample(SCALE_DRAWS, generator(self.seed, "ais", "prior", device=x.device))
        return Path(lambda z: (prior.log_prob(z), model.log_px(x, z)), 1 / draws.var(0), 1 / scale, self.leapfrog)

    def _starts(self, x: Tensor | Batch, first: int, count: int, purpose: str) -> Tensor:
        """Draws of q0, [count, B, L]; each row has noise of its own."""
        if self.start == "encoder":
            return self._encoded(x, first, count, purpose)
        shared, rows = _prior(self.model, x, self.seed), range(len(x))
        given = isinstance(x, Batch)  # a prior of its own for each row
        priors = (_prior(self.model, x[row : row + 1], self.seed) if given else shared for row in rows)
        coins = (generator(self.seed, "ais", purpose, "start", first + row, device=x.device) for row in rows)
        draws = [prior.sample(count, coin) for prior, coin in zip(priors, coins, strict=True)]
        return torch.stack([z.reshape(count, -1) for z in draws], 1)

    def _encoded(self, x: Tensor | Batch, first: int, count: int, purpose: str) -> Tensor:
        """Draws of q(z|x), [count, B, L]; row by row, since a stranger's distribution may know no noise of a row."""
        seed = derive(self.seed, "ais", purpose)
        draws = (draw_z(self.model.encode(row[None]), count, seed, index) for index, row in enumerate(x, first))
        return torch.cat(list(draws), 1)

    def _noise(self, z: Tensor, first: int, purpose: str) -> Iterator[Tensor]:
        """Standard normal numbers for one move after the other of the states z [K, B, L]."""
        return noise_of_moves(z, first, self.seed, "ais", purpose, "moves")


def _densities(q: Distribution, prior: Any, model: LatentModel, x: Tensor | Batch, z: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z|x) and log p(x, z) - log q(z|x), [K, B] each."""
    log_qz = q.log_prob(z)
    return log_qz, model.log_px(x, z).double() + (prior.log_prob(z).double() - log_qz.double())


def _prior(model: LatentModel, x: Tensor | Batch, seed: int) -> Any:
    """p(z), which can be sampled; a row is encoded to learn the size of z."""
    prior = model.prior(draw_z(model.encode(x[:1]), 1, seed, 0), x)
    if not callable(getattr(prior, "sample", None)):
        rule = "must offer sample(count, generator): log_pz gives its density alone"
        raise BadInput("prior", type(prior).__name__, rule, "start from the encoder, on rows of your own")
    return prior
