"""The self test: every estimator of log p(x) held to models whose log p(x) is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributions as td

from .. import rulers
from ..core.seeds import derive, generator
from ..measure.ais import ais
from ..measure.bound import BoundSums
from ..measure.exact import linear_gaussian_of, linear_vae
from ..measure.importance import importance_bound
from ..measure.pareto import pareto_k
from ..models.vae import VAE

ERRORS = 4.0  # standard errors that an estimate may be off: one check in 16,000 fails by chance
CONVERGED = 0.01  # nats by which a bound that should have converged may be below
SAME = 1e-6  # nats by which the same number, computed otherwise, may differ
SHIFT, SPREAD = 0.5, 1.6  # how the encoder misses the posterior: the ELBO is loose by 0.38 nats, Var(w) is 0.46
ENTRIES, ROWS, FEW_ROWS = 6, 2000, 200


@dataclass(frozen=True)
class Check:
    """One number of an estimator beside the exact one.

    Args:
        what: Estimator and model.
        estimate: What the estimator gave.
        error: Its standard error; 0 where it draws nothing.
        truth: What it should give.
        below: How far under the truth it may be.
        above: How far over.
    """

    what: str
    estimate: float
    error: float
    truth: float
    below: float
    above: float

    @property
    def difference(self) -> float:
        """Estimate less truth."""
        return self.estimate - self.truth

    @property
    def ok(self) -> bool:
        """Whether the difference is allowed; a number that is none is not."""
        return -self.below <= self.difference <= self.above

    def __str__(self) -> str:
        numbers = f"{self.estimate:>11.5f} ± {self.error:<8.1g} {self.truth:>10.5f}  {self.difference:>+10.1e}"
        allowed = f"{-self.below:+.1e} to {self.above:+.1e}"
        return f"{self.what:<52} {numbers}  {allowed}  {'ok' if self.ok else 'FAILED'}"


@dataclass(frozen=True)
class SelfTest:
    """All checks; prints as a table."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether none failed."""
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        head = f"{'':<52} {'estimate ± standard error':>22} {'exact':>8}  {'difference':>10}  allowed"
        failed = sum(not check.ok for check in self.checks)
        tail = f"{failed} of {len(self.checks)} failed" if failed else f"all {len(self.checks)} ok"
        return "\n".join([head, *map(str, self.checks), tail])


def self_test(seed: int = 0) -> SelfTest:
    """Holds the ELBO, the importance bound, its errors, chunks and tails, and both sides of AIS to exact numbers.

    Args:
        seed: Of the models and of all draws.

    Example:
        >>> self_test().ok
        True
    """
    return SelfTest(tuple(check for group in GROUPS for check in group(seed)))


def _linear_gaussian(seed: int) -> Iterator[Check]:
    """A linear VAE whose encoder misses the posterior: the bound's exact mean is known for every K."""
    case = _Linear.drawn(seed, ROWS)
    x, truth, elbo = case.x, case.log_px, case.elbo
    grid = rulers.by_quadrature(lambda z: case.ruler.log_joint(x.numpy()[:20], z[:, None]), 2)
    yield _same("quadrature, of a linear-Gaussian model", grid.values, truth[:20])
    with torch.no_grad():
        output = case.model.draw(x, 10, torch.randn(10, ROWS, 2, generator=generator(seed, "elbo")).double())
    yield _within("ELBO, K = 10", output.elbo.numpy(), elbo)
    sums = BoundSums(groups=2, latent=2)
    sums.update(output)
    yield _same("ELBO, added up", np.array([-sums.compute()["negative_elbo"]]), output.elbo.mean(0, True).numpy())
    for samples in (1, 2, 10, 100):
        bound = importance_bound(case.model, x, samples, seed=derive(seed, "bound", samples))
        yield _within(f"importance bound, K = {samples}, and its exact mean", bound.values, case.bound(samples))
        if samples == 2:
            yield _within("half of K = 2, and the exact ELBO", bound.half, elbo)
    yield _within("ELBO of the importance bound, K = 100", bound.elbo, elbo)
    parts = importance_bound(case.model, x, 100, seed=derive(seed, "bound", 100), chunk=30)
    yield _same("K = 100 in chunks of 30, and in one", parts.values, bound.values)
    bound = importance_bound(case.model, x, 1000, seed=seed)
    yield _within("importance bound, K = 1000, and log p(x)", bound.values, truth, below=CONVERGED)
    yield _within("effective share of K = 1000 samples", bound.ess / 1000, case.share, 0.01, 0.01)
    stated, spread = math.sqrt(bound.variance.mean()), (bound.values - truth).std()
    error = 1 / math.sqrt(2 * ROWS)
    allowed = ERRORS * error
    yield Check("stated error of the bound, over the true one", stated / spread, error, 1.0, allowed, allowed)


def _annealing(seed: int) -> Iterator[Check]:
    """Both sides of AIS, on rows that come with an exact draw of their posterior."""
    case = _Linear.drawn(seed, FEW_ROWS)
    starts: tuple[tuple[Literal["encoder", "prior"], int], ...] = (("encoder", 50), ("prior", 150))
    for start, steps in starts:
        found = ais(case.model, case.x, steps, 8, start=start, leapfrog=3, z=case.z, seed=seed)
        yield _within(f"AIS, lower, from the {start}", found.lower, case.log_px, below=CONVERGED)
        yield _within(f"AIS, upper, from the {start}", found.upper, case.log_px, above=CONVERGED)


def _bernoulli(seed: int) -> Iterator[Check]:
    """Two latents and binary rows, and q(z|x) = p(z): log p(x) by quadrature."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "bernoulli"))
        decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, ENTRIES))
        encoder = nn.Linear(ENTRIES, 4)
        model = VAE(encoder, decoder, likelihood="bernoulli", latent=2).double()
    nn.init.zeros_(encoder.weight)
    nn.init.zeros_(encoder.bias)
    x = torch.bernoulli(torch.full((FEW_ROWS, ENTRIES), 0.5).double(), generator=generator(seed, "rows"))

    @torch.no_grad()
    def log_joint(z: np.ndarray) -> np.ndarray:
        codes = torch.from_numpy(z)[:, None]
        return (model.decode(codes).log_prob(x) + model.prior_distribution().log_prob(codes)).numpy()

    truth = rulers.by_quadrature(log_joint, 2, tolerance=SAME).values
    bound = importance_bound(model, x, 1000, seed=seed)
    yield _within("importance bound, K = 1000, bits of two latents", bound.values, truth, below=CONVERGED)


def _discrete(seed: int) -> Iterator[Check]:
    """A stranger's functions with a discrete latent: log p(x) by summation over all codes."""
    draw = np.random.default_rng(derive(seed, "discrete"))
    weight = torch.from_numpy(draw.normal(size=(4, ENTRIES)))
    prior = td.Independent(td.Bernoulli(logits=torch.from_numpy(draw.normal(size=4))), 1)
    x = torch.from_numpy(draw.normal(size=(FEW_ROWS, ENTRIES)))

    def log_px(x: Tensor, z: Tensor) -> Tensor:
        return td.Normal(z @ weight, 1.0).log_prob(x).sum(-1)

    def log_joint(z: np.ndarray) -> np.ndarray:
        codes = torch.from_numpy(z).double()
        return (log_px(x, codes[:, None]) + prior.log_prob(codes)[:, None]).numpy()

    functions: dict[str, Callable[..., Any]] = {
        "encode": lambda x: td.Bernoulli(logits=0.5 * x @ weight.T),
        "log_px": log_px,
        "log_pz": prior.log_prob,
    }
    truth = rulers.by_summation(log_joint, rulers.all_codes([2] * 4))
    bound = importance_bound(functions, x, 1000, seed=seed)
    yield _within("importance bound, K = 1000, bits as latents", bound.values, truth, below=CONVERGED)


def _tails(seed: int) -> Iterator[Check]:
    """Weights u^-k of uniform u have a tail of exactly that shape."""
    uniform = np.random.default_rng(derive(seed, "tails")).random((10_000, 100))
    for shape in (0.3, 0.7, 1.0):
        found = pareto_k(-shape * np.log(uniform))
        yield _within(f"Pareto k-hat of a tail with k = {shape}", found, np.array(shape), 0.03, 0.03)


GROUPS = (_linear_gaussian, _annealing, _bernoulli, _discrete, _tails)


@dataclass(frozen=True)
class _Linear:
    """A linear VAE, the exact model read out of it, and rows x [n, D] of that with the z [n, 2] that made them."""

    model: VAE
    ruler: rulers.LinearGaussian
    x: Tensor
    z: Tensor

    @classmethod
    def drawn(cls, seed: int, rows: int) -> _Linear:
        """Of a seed."""
        draw = np.random.default_rng(derive(seed, "linear"))
        weight = np.linalg.qr(draw.normal(size=(ENTRIES, 2)))[0] * (1.5, 0.8)
        model = linear_vae(rulers.LinearGaussian(weight, draw.normal(size=ENTRIES), np.array(0.5)), SHIFT, SPREAD)
        ruler = linear_gaussian_of(model)
        return cls(model, ruler, *map(torch.from_numpy, ruler.sample(rows, derive(seed, "linear rows"))))

    @cached_property
    def log_px(self) -> np.ndarray:
        """log p(x), [n]."""
        return self.ruler.log_prob(self.x.numpy())

    @cached_property
    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of q(z|x), [n, 2] each."""
        with torch.no_grad():
            q = self.model.encode(self.x)
        return q.mean.numpy(), q.variance.sqrt().numpy()

    @property
    def elbo(self) -> np.ndarray:
        """[n]."""
        mean, std = self.posterior
        return self.ruler.elbo(self.x.numpy(), mean, std**2)

    def bound(self, samples: int) -> np.ndarray:
        """The exact mean of the importance-weighted bound, [n]: every row's is as loose as the first one's."""
        return self.log_px + (rulers.expected_bound(self._log_weight, 2, samples) - self.log_px[0])

    @property
    def share(self) -> np.ndarray:
        """p(x)² / E[w²], which is ESS / K for K large, [1]: every row's is the first one's."""
        square = rulers.by_quadrature(
            lambda noise: 2 * self._log_weight(noise) + rulers.log_standard_normal(noise)[:, None], 2
        )
        return np.exp(2 * self.log_px[:1] - square.values)

    def _log_weight(self, noise: np.ndarray) -> np.ndarray:
        """log p(x, z) - log q(z|x) of the first row by the exact model alone, [m, 1] for noise [m, 2]."""
        mean, std = (part[:1] for part in self.posterior)
        log_q = rulers.log_standard_normal(noise)[:, None] - np.log(std).sum()
        return self.ruler.log_joint(self.x.numpy()[:1], mean + std * noise[:, None]) - log_q


def _within(what: str, values: np.ndarray, truth: np.ndarray, below: float = SAME, above: float = SAME) -> Check:
    """A mean over rows, which may be off by its errors, and by so much more on either side."""
    difference = values - truth
    error = float(difference.std(ddof=1) / math.sqrt(len(values)))
    noise = ERRORS * error
    return Check(what, float(values.mean()), error, float(truth.mean()), noise + below, noise + above)


def _same(what: str, values: np.ndarray, truth: np.ndarray) -> Check:
    """Numbers that are equal to rounding, each of them; the row that is furthest off is shown."""
    worst = int(np.argmax(np.abs(values - truth)))
    return Check(what, float(values[worst]), 0.0, float(truth[worst]), SAME, SAME)
