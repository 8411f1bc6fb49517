"""Images from what is observed of them: in-painting, denoising and super-resolution by one posterior.

y = A x + noise with a linear operator A; p(z|y) ∝ p(z) p(y|z) is sampled by tempered chains from the prior, and x is
read from p(x|z, y). Nothing is asked of the encoder, which has never seen such a y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput, whole
from ..core.finding import Finding
from ..core.seeds import generator
from ..data.arrays import as_numpy
from ..data.transforms import Affine
from ..distributions.incomplete import complete_of
from ..distributions.likelihoods import Bernoulli
from ..distributions.normal import HALF_LOG_2PI
from ..evaluation.rows import plain_rows
from ..measure.hmc import Path, noise_of_moves
from ..measure.importance import CHUNK_VALUES
from ..measure.latent import latent_model
from ..measure.tempered import Tempered, tempered
from .evidence import Evidence, Known, Moments, NoisyBits, plain
from .imputing import refuse_dependent
from .operators import Mask, Operator

STEPS, CHAINS, SAMPLES = 300, 32, 256
LEAPFROG = 3
SCALE_DRAWS = 256  # of the prior, for scales to within a tenth
FEW = 0.125  # share of the chains that count, below which the draws of an image stem from a handful of starts
MAD = 0.6745  # median of |N(0, 1)|


@dataclass(frozen=True)
class Restored:
    """Images given what was observed of them, on the data's own scale; what was known without noise is exact.

    Args:
        mean: E[x|y], the estimate of least squared error, [n, *row].
        std: Standard deviation of x given y, of single pixels, [n, *row].
        draws: Of p(x|y), [draws, n, *row].
        codes: Draws of p(z|y), all of one weight, [samples, n, L].
        log_likelihood: log p(y) in nats on the data's own scale, from below in expectation, [n].
        ess: Effective number of chains for each image, [n].
        chains: Of each image.
        noise: The deviation of the noise that was reckoned with, on the data's own scale.
        findings: What to know before relying on it.
    """

    mean: np.ndarray
    std: np.ndarray
    draws: np.ndarray
    codes: np.ndarray
    log_likelihood: np.ndarray
    ess: np.ndarray
    chains: int
    noise: float
    findings: tuple[Finding, ...]

    @property
    def told(self) -> str:
        """How sure to be of the draws, in words."""
        worst = f"{np.median(self.ess):.1f} of {self.chains} in the middle image, {self.ess.min():.1f} in the worst"
        return f"effective chains: {worst}"


def restore(
    run: Any,
    y: Any,
    operator: Operator,
    noise: float = 0.0,
    *,
    samples: int = SAMPLES,
    draws: int = 5,
    steps: int = STEPS,
    chains: int = CHAINS,
    seed: int = 0,
    condition: Any = None,
) -> Restored:
    r"""Images x of which y = A x + noise is given.

    .. math:: p(x|y) = \int p(x|z, y)\, p(z|y)\, dz, \quad p(z|y) \propto p(z)\, p(y|z)

    Image i has random numbers from (seed, i) on its way to p(z|y).

    Args:
        run: A `vaelab.Run` of images.
        y: What is observed, [n, ...], in the layout of the run's images; a mask reads nothing where it hides.
        operator: A; see `vaelab.use.operators`.
        noise: Standard deviation of the noise on the data's own scale; 0: exact.
        samples: Draws of z of each image; chains are moved on until there are as many.
        draws: Images to draw.
        steps: Temperatures between prior and posterior; more where the effective number of chains is low.
        chains: Of each image.
        seed: Of everything that is drawn.
        condition: What is given beside the images, as `vaelab.Run.embed` takes it.

    Raises:
        BadInput: for a run of no images, rows of another size or beyond the likelihood's values, noise below 0, and
            models without entries that are independent given z, or with codes that cannot be moved along a slope.
    """
    for name, value, least in (
        ("samples", samples, 1),
        ("draws", draws, 1),
        ("steps", steps, 2),
        ("chains", chains, 1),
    ):
        whole(name, value, least)
    _refuse(run, noise)
    given = laid_in(run, y, operator)
    beside = run.given(condition, len(given), "prior", "decoder")
    observed = _Observed(run, operator, float(noise), beside, seed)
    plan = {"steps": steps, "chains": chains, "moves": math.ceil(max(samples, draws) / chains)}
    rows, size = observed.rows(given), max(1, CHUNK_VALUES // (chains * math.prod(run.spec.shape)))
    places = [slice(at, at + size) for at in range(0, len(given), size)]
    parts = [observed.part(given[part], rows[part], part.start, plan, draws) for part in places]

    def joined(name: str, axis: int = 0) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts], axis)

    ess = joined("ess").numpy()
    return Restored(
        mean=laid_out(run, joined("mean")).numpy(),
        std=laid_out(run, joined("std")).numpy(),
        draws=laid_out(run, joined("draws", 1)).numpy(),
        codes=joined("codes", 1).numpy(),
        log_likelihood=joined("log_evidence").numpy(),
        ess=ess,
        chains=chains,
        noise=float(noise),
        findings=tuple(_findings(ess, chains, steps)),
    )


class _Part(NamedTuple):
    """What was found of some images; see `Restored`."""

    mean: Tensor
    std: Tensor
    draws: Tensor
    codes: Tensor
    log_evidence: Tensor
    ess: Tensor


@dataclass(frozen=True)
class _Observed:
    """A model seen through an operator."""

    run: Any
    operator: Operator
    noise: float
    beside: tuple[Tensor, ...]
    seed: int

    def rows(self, given: Tensor) -> Tensor:
        """Images [n, C, H, W] as the model sees them: gray levels as bits, where it learned such.

        Raises:
            BadInput: for known values that the likelihood has no place for.
        """
        if not isinstance(self.operator, Mask):
            return given
        if self.noise > 0:
            return self.run.spec.transform(given)
        return latent_model(self.run.model).rows(plain_rows(self.run, given, self.seed))

    def part(self, given: Tensor, rows: Tensor, first: int, plan: dict[str, int], draws: int) -> _Part:
        """What is found of images, of which the first is `first`."""
        beside = tuple(part[first : first + len(given)] for part in self.beside)
        evidence = self.evidence(given, rows)
        with torch.no_grad():
            found = self._chains(evidence, beside, len(given), first, plan)
            coins = generator(self.seed, "restored", "x", first)
            parts = [self.run.model.decode(z, *beside) for z in found.z.split(plan["chains"])]
            mean = torch.stack([evidence.mean(p).double().mean(0) for p in parts]).mean(0).float()
            drawn = torch.cat([evidence.sample(p, coins) for p in parts])
        std = drawn.double().std(0, correction=0).float()
        picked = torch.randperm(len(drawn), generator=coins)[:draws]  # neighbours stem from one start more often
        return _Part(self._within(mean), std, drawn[picked], found.z, found.log_evidence, found.ess)

    def evidence(self, given: Tensor, rows: Tensor) -> Evidence:
        """What is known by images that were given, [B, C, H, W], and are `rows` as `self.rows` gives them."""
        spec = self.run.spec
        scale = spec.transform.scale.expand(spec.shape)
        if isinstance(self.operator, Mask):
            log_scale = self.operator.forward(scale).double().log().sum().item()
            if self.noise == 0:
                return Known(self.operator, rows, given, spec.transform, 0.0 if self._discrete else -log_scale)
            if self._of_bits:
                return _noisy_bits(self.operator, rows, self.noise / scale, log_scale, spec.transform)
        steps = self.operator.squared(torch.ones_like(scale)[None])[0] * scale.mean()
        rounding = steps.square() / 12 if self._discrete else 0.0
        return Moments(self.operator, self.operator.read(given), self.noise, rounding, spec.transform, self._possible)

    @property
    def _discrete(self) -> bool:
        return bool(complete_of(self.run.model.decoder.likelihood).discrete)

    @property
    def _of_bits(self) -> bool:
        return isinstance(complete_of(self.run.model.decoder.likelihood), Bernoulli)

    def _within(self, x: Tensor) -> Tensor:
        """Images in the data's range, where it is known."""
        top = self.run.spec.top
        return x if top is None else x.clamp(0, top)

    def _possible(self, x: Tensor) -> Tensor:
        """Images of values that the data can have."""
        transform = self.run.spec.transform
        return self._within(transform.inverse(transform(x).round()) if self._discrete else x)

    def _chains(
        self, evidence: Evidence, beside: tuple[Tensor, ...], rows: int, first: int, plan: dict[str, int]
    ) -> Tempered:
        """Chains of images from p(z) to p(z|y)."""
        model = self.run.model
        prior = model.prior_distribution(*beside)
        own = [model.prior_distribution(*(part[i : i + 1] for part in beside)) for i in range(rows if beside else 1)]

        def densities(z: Tensor) -> tuple[Tensor, Tensor]:
            return prior.log_prob(z), evidence.log_prob(model.decode(z, *beside))

        def starts(count: int, purpose: str) -> Tensor:
            coins = (generator(self.seed, "restored", purpose, "start", first + row) for row in range(rows))
            drawn = (own[i % len(own)].sample(count, coin) for i, coin in enumerate(coins))
            return torch.stack([z.reshape(count, -1) for z in drawn], 1)

        def noise(z: Tensor, purpose: str) -> Iterator[Tensor]:
            return noise_of_moves(z, first, self.seed, "restored", purpose)

        z, information = self._scales
        loose = 1 / z.var(0)
        return tempered(Path(densities, loose, loose + information, LEAPFROG), starts, noise, **plan)

    @cached_property
    def _scales(self) -> tuple[Tensor, Tensor]:
        """Draws of the prior, [S, L], and the mean information about each dimension in y at them, [L].

        It is E[(∂ log p(y|z) / ∂z)²] over z ~ p(z), y ~ p(y|z) (Fisher's), and says how tight p(z|y) will be: a scale
        for the moves, which costs no more than acceptance where it is rough.
        """
        run, coins = self.run, generator(self.seed, "restored", "scales")
        first = tuple(part[:1] for part in self.beside)
        every = tuple(part.expand(SCALE_DRAWS, *part.shape[1:]) for part in first)
        z = run.model.prior_distribution(*first).sample(SCALE_DRAWS, coins).reshape(1, SCALE_DRAWS, -1)
        x = run.spec.transform.inverse(plain(run.model.decode(z, *every)).sample(coins)[0])
        y = self.operator.given(x)
        y = y + self.noise * torch.randn(y.shape, generator=coins)
        evidence = self.evidence(y, run.spec.transform(y) if isinstance(self.operator, Mask) else y)
        with torch.enable_grad():
            z = z.requires_grad_()
            (slope,) = torch.autograd.grad(evidence.log_prob(run.model.decode(z, *every)).sum(), z)
        return z.detach()[0], slope[0].square().mean(0)


def _noisy_bits(mask: Mask, rows: Tensor, sigma: Tensor, log_scale: float, transform: Affine) -> NoisyBits:
    """From rows and deviations on the model's scale, [B, C, H, W] and [C, H, W]."""
    tilt = torch.where(mask.known, (2 * rows - 1) / (2 * sigma.square()), 0.0)
    nats = mask.forward(-0.5 * (rows / sigma).square() - sigma.log() - HALF_LOG_2PI).double().sum(-1)
    return NoisyBits(mask, tilt, nats - log_scale, transform)


def noise_of(y: Any) -> float:
    """Standard deviation of the noise of images [n, ..., H, W], by the median of their finest diagonal differences.

    Of neighbours (a - b - c + d) / 2 has the noise's deviation, and most of an image leaves nothing else in it; fine
    texture makes it too large, and noise cut off at black or white too small.

    Reference: Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994.

    Example:
        >>> noise_of(3 * np.random.default_rng(0).normal(size=(1, 200, 200))).__round__()
        3
    """
    y = np.asarray(y, np.float64)
    if min(y.shape[-2:]) < 2:
        raise BadInput("image", f"{y.shape[-2]} x {y.shape[-1]} pixels", "too small to tell its noise", "give --noise")
    fine = (y[..., :-1, :-1] - y[..., 1:, :-1] - y[..., :-1, 1:] + y[..., 1:, 1:]) / 2
    return float(np.median(np.abs(fine)) / MAD)


def _refuse(run: Any, noise: float) -> None:
    if run.spec.layout != "image":
        raise BadInput("run", run.folder, "is no run of images", "vaelab impute fills gaps of tables")
    if not (math.isfinite(noise) and noise >= 0):
        raise BadInput("noise", noise, "is a standard deviation: a number of at least 0")
    refuse_dependent(run)
    prior = run.config.prior.name
    if run.has_codes or prior == "sphere" or run.config.model.posterior == "delta":
        rule = "chains move codes along a slope under a prior, and those of this run are no points of that kind"
        raise BadInput("run", run.folder, rule, "train with model.posterior=diagonal")


def laid_in(run: Any, y: Any, operator: Operator) -> Tensor:
    """What is observed as images [n, C, H, W], float32."""
    given = as_numpy(np.asarray(y))
    shape = tuple(operator.given(torch.zeros(1, *run.spec.shape)).shape[1:])
    looks: dict[tuple[int, ...], Callable[[np.ndarray], np.ndarray]] = {
        (*shape[1:], shape[0]): lambda rows: np.moveaxis(rows, -1, 1),
        shape[1:] if shape[0] == 1 else shape: lambda rows: rows.reshape(-1, *shape),
        shape: lambda rows: rows,
    }
    if given.dtype.kind not in "biuf" or given.shape[1:] not in looks or not len(given):
        size = " x ".join(map(str, (shape[1:] if shape[0] == 1 else shape)))
        raise BadInput("images", f"shape {given.shape}", f"must be numbers of shape (n, {size})", "of the run's size")
    rows = torch.from_numpy(np.array(looks[given.shape[1:]](given), np.float32))
    if not operator.read(rows).isfinite().all():
        raise BadInput("images", "a value that is not finite", "what is observed must be numbers")
    return operator.given(rows) if isinstance(operator, Mask) else rows


def laid_out(run: Any, x: Tensor) -> Tensor:
    """Images [..., C, H, W] as the user has them."""
    if run.spec.axes == "HWC":
        return x.movedim(-3, -1)
    return x.reshape(*x.shape[:-3], *run.spec.user_shape)


def _findings(ess: np.ndarray, chains: int, steps: int) -> list[Finding]:
    low = float(np.mean(ess < FEW * chains))
    if low == 0:
        return []
    finding = Finding(
        "OB101",
        "warning",
        "few chains count in some images",
        100 * low,
        f"% of the images have an effective number of chains below {FEW * chains:g} of {chains}",
        why="their draws stem from a few starts, so that other images which would fit may be missing among them",
        advice=f"--steps {3 * steps}, three times as many; it is slower in proportion",
    )
    return [finding]
