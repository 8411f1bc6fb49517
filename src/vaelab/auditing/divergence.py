"""The divergence in a loss: its weight, how it reads the second head, its proportions, floors and caps.

The data and the decoder's output are held still while mu and the head move. Between random points the loss is fitted by

    constant + s sum(mu) + m sum(mu^2)/2 + v sum(variance(head))/2 - l sum(log variance(head))/2,

and a divergence from the standard normal distribution has m = v = l (Kingma, Welling, Auto-Encoding Variational
Bayes, 2014).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .care import Failed
from .fit import fit, smallest
from .inputs import Batch, draw_batch
from .laws import CURVED_HEADS, HEADS, LOGARITHMS, Head
from .probe import Probe

EXACT, NOISY = 2e-3, 0.1  # the share of the spread that a form may leave unexplained
HALF = Head("exp(head / 2)", lambda h: np.exp(h / 2), lambda h: h, lambda v: v, "linear")
PLACE = {head.name: place for place, head in enumerate(HEADS)}  # of readings that explain alike, the first
REGIMES = ("small", "low", "medium", "large")


@dataclass(frozen=True)
class Form:
    """What the divergence is made of, per entry and for the loss as it stands (not yet times the batch)."""

    head: Head
    logarithm: str
    shift: float  # slope of mu itself: a prior with another mean
    mean: float  # weight of mu^2 / 2
    variance: float  # weight of variance / 2
    log: float  # weight of -log variance / 2, with the variance as `head` reads it
    residual: float

    @property
    def weight(self) -> float:
        """The weight of the divergence: of the terms that are there, the middle one."""
        return float(np.median([w for w in (self.mean, self.variance, self.log) if w] or [0.0]))

    @property
    def two_ways(self) -> bool:
        """Whether the logarithm reads the head in another way than the variance does."""
        return self.logarithm != self.head.log_kind and abs(self.log) > 0 and abs(self.variance) > 0

    def total(self, batch: Batch) -> float:
        """The fitted form over a batch, in nats, up to its constant."""
        return float(
            self.shift * batch.mu.sum()
            + 0.5 * self.mean * (batch.mu**2).sum()
            + 0.5 * self.variance * self.head.variance(batch.head).sum()
            - 0.5 * self.log * self._log(batch.head).sum()
        )

    def _log(self, h: np.ndarray) -> np.ndarray:
        return self.head.log_variance(h) if not self.two_ways else LOGARITHMS[self.logarithm](h)


@dataclass(frozen=True)
class Divergence:
    """What was measured.

    Args:
        form: The fitted form; None where the loss does not move with mu and the head, or in no known way.
        slopes: The weight at small (0.02 nats an entry), low (1), medium (40) and large (1000) divergences; NaN where
            the loss bends inside.
        weight: The weight where the loss is linear, per entry and not yet times the batch.
        shape: "linear", "floor", "cap", "capacity", "bent", "flat", or "sampled" (log q(z|x) beside any prior).
        threshold: Where it bends, in nats; None for a linear one.
        per: "dimension" or "sample": what the threshold is counted on.
        moves: Whether mu and the head move the loss at all.
        residual: Without a form, the share of the spread that the best one leaves unexplained.
    """

    form: Form | None
    slopes: tuple[float, ...]
    weight: float
    shape: str
    threshold: float | None = None
    per: str = ""
    moves: tuple[bool, bool] = (True, True)
    residual: float = 1.0
    draw: Head = HEADS[0]

    @property
    def parts(self) -> tuple[float, ...]:
        """The weights of the three terms; empty without a form."""
        return () if self.form is None else (self.form.mean, self.form.variance, self.form.log)


FLAT = Divergence(None, (0.0,) * len(REGIMES), 0.0, "flat", moves=(False, False))


def measure(probe: Probe, seed: int = 0) -> Divergence:
    """Measures the divergence of a loss."""
    rng = np.random.default_rng(seed)
    base = draw_batch(rng, probe.layout, probe.domain)
    found = _recognise(probe, base, rng)
    if found is None:
        moves = _moves(probe, base, rng)
        if not any(moves):
            return FLAT
        other = _sampled(probe, base, rng) if "z" in probe.binding.roles else None
        return other or replace(FLAT, moves=moves, shape="bent", weight=float("nan"), residual=_least(probe, base, rng))
    form, probe = found
    slopes = tuple(slope(probe, form, base, regime, rng) for regime in REGIMES)
    shape, weight = _shape(slopes, 0.02 if probe.seeds == 1 else 0.3)
    if shape == "linear" and probe.seeds == 1 and _bent(probe, form, base, rng):
        shape = "bent"
    threshold, per = _threshold(probe, form, base) if shape in ("floor", "cap", "capacity") else (None, "")
    return Divergence(form, slopes, weight, shape, threshold, per, _moves(probe, base, rng), draw=probe.draw)


def _sampled(probe: Probe, base: Batch, rng: np.random.Generator) -> Divergence | None:
    """The weight of log q(z|x) with z held still: the divergence from a prior that is no single Gaussian."""
    z = rng.normal(size=base.mu.shape)
    batches = [replace(_positive(base, rng), mu=rng.normal(size=base.mu.shape)) for _ in range(24)]
    roles = probe.binding.roles
    try:
        values = [probe.at({**{r: a for r, a in b.arrays().items() if r in roles}, "z": z}) for b in batches]
    except Failed:
        return None
    for head in HEADS:
        with np.errstate(all="ignore"):
            logs = [_log_q(z, b, head) for b in batches]
        if np.all(np.isfinite(logs)) and (found := fit(logs, values)).residual < _tolerance(probe):
            weight = float(found.slopes[0])
            return Divergence(None, (), weight, "sampled", moves=(True, True), residual=found.residual, draw=head)
    return None


def _log_q(z: np.ndarray, batch: Batch, head: Head) -> float:
    return -0.5 * float(((z - batch.mu) ** 2 / head.variance(batch.head) + head.log_variance(batch.head)).sum())


def _least(probe: Probe, base: Batch, rng: np.random.Generator) -> float:
    """What the best form leaves unexplained."""
    found = _best(probe, _half_still([_positive(base, rng) for _ in range(24)]))
    return 1.0 if found is None else found[0].residual


def slope(probe: Probe, form: Form, base: Batch, regime: str, rng: np.random.Generator, count: int = 8) -> float:
    """The weight of the divergence in a regime: the loss's slope in the fitted form, times the form's weight."""
    batches = [drawn(base, form.head, regime, rng) for _ in range(count if probe.seeds == 1 else 2 * count)]
    values = [_value(probe, batch) for batch in batches]
    if not np.all(np.isfinite(values)):
        return float("nan")
    if flat(values, probe):
        return 0.0
    found = fit([form.total(b) for b in batches], values)
    straight = found.residual < max(10 * form.residual, 5 * _tolerance(probe)) or _coarse(values, found.residual, probe)
    return float(found.slopes[0] * form.weight) if straight else float("nan")


def _tolerance(probe: Probe) -> float:
    return EXACT if probe.seeds == 1 else NOISY


def _coarse(values: Sequence[float], residual: float, probe: Probe) -> bool:
    """Whether what a fit leaves is rounding."""
    return residual * float(np.std(values)) < 5 * probe.precision * float(np.max(np.abs(values)))


def flat(values: Sequence[float], probe: Probe) -> bool:
    """Whether values differ by no more than rounding."""
    return float(np.ptp(values)) <= 20 * probe.precision * float(np.max(np.abs(values)) + 1e-30)


def _value(probe: Probe, batch: Batch) -> float:
    try:
        return probe.value(batch)
    except Failed:
        return float("nan")


def _recognise(probe: Probe, base: Batch, rng: np.random.Generator) -> tuple[Form, Probe] | None:
    """The best form, first where divergences are large (no floor in force), then near the prior (no cap in force)."""
    draws = HEADS if "z" in probe.binding.roles else (probe.draw,)
    probes = [replace(probe, draw=draw) for draw in draws]
    count = 24 if probe.seeds == 1 else 60
    for scale in (1.0, 8.0):
        far = _half_still([_positive(base, rng, scale) for _ in range(count)])
        good = _explained([found for p in probes if (found := _best(p, far)) is not None], probe)
        exact = 1e-7 if probe.dtype == "float64" else 1e-4
        if not good or good[0][0].residual > exact:
            good = _explained(good + _searched(probe, far), probe)
        if good and good[0][0].residual <= exact and not _half_clamped(good[0][0], probe):
            return good[0]
    near = [(p, _half_still([drawn(base, h, "small", rng) for _ in range(count)])) for p in probes for h in HEADS]
    close = _explained([found for p, b in near if (found := _best(p, b)) is not None], probe)
    # With a head that does nothing when it is positive, look where it is negative.
    below = [replace(b, head=-b.head) for b in far]
    under = _explained([found for p in probes if (found := _best(p, below)) is not None], probe) if good else []
    spoken = [found for found in (*under, *close) if not _half_clamped(found[0], probe)]
    sure = [found for found in spoken if found[0].residual <= exact]  # one form that is exact beats one that is near
    dead = bool(good) and _half_clamped(good[0][0], probe)
    return next(iter(sure or (spoken if dead else []) or good or spoken), None)


def _half_still(batches: list[Batch]) -> list[Batch]:
    """The first half with one mu, so that the head's part is seen alone."""
    half = len(batches) // 2
    return [replace(b, mu=batches[0].mu) if i < half else b for i, b in enumerate(batches)]


def _half_clamped(form: Form, probe: Probe) -> bool:
    """Whether a positive head does nothing: it may be clamped from above, and speak where it is negative."""
    return "head" in probe.binding.roles and form.variance == 0 and form.log == 0


def _explained(found: list[tuple[Form, Probe]], probe: Probe) -> list[tuple[Form, Probe]]:
    """Forms that explain the loss, the best first."""
    return sorted((pair for pair in found if pair[0].residual <= _tolerance(probe)), key=lambda pair: pair[0].residual)


def _searched(probe: Probe, batches: Sequence[Batch]) -> list[tuple[Form, Probe]]:
    """Readings of the head with a parameter, such as a soft clamp or a smallest std."""
    values = [_value(probe, batch) for batch in batches]
    if "z" in probe.binding.roles or not np.all(np.isfinite(values)) or flat(values, probe):
        return []
    found = []
    for make, low, high in CURVED_HEADS:
        residual = partial(_residual_at, make, batches, values)
        form = _fitted(batches, values, make(smallest(residual, low, high)), "own")
        found += [(form, probe)] if form is not None else []
    return found


def _residual_at(make: Callable[[float], Head], batches: Sequence[Batch], values: Sequence[float], at: float) -> float:
    form = _fitted(batches, values, make(at), "own")
    return 1.0 if form is None else form.residual


def _best(probe: Probe, batches: Sequence[Batch]) -> tuple[Form, Probe] | None:
    values = [_value(probe, batch) for batch in batches]
    if not np.all(np.isfinite(values)) or flat(values, probe):
        return None
    forms = [form for head in (*HEADS, HALF) for log in LOGARITHMS if (form := _fitted(batches, values, head, log))]
    best = min(forms, key=lambda form: form.residual)
    # Of forms that explain equally well, the one with its own logarithm.
    near = [form for form in forms if form.residual <= 1.5 * best.residual + 1e-9]
    return min(near, key=lambda form: (form.two_ways, form.head is HALF, PLACE.get(form.head.name, 99))), probe


def _fitted(batches: Sequence[Batch], values: Sequence[float], head: Head, log: str) -> Form | None:
    own = log == head.log_kind
    logarithm = head.log_variance if own else LOGARITHMS[log]
    with np.errstate(all="ignore"):
        rows = [
            [b.mu.sum(), 0.5 * (b.mu**2).sum(), 0.5 * head.variance(b.head).sum(), -0.5 * logarithm(b.head).sum()]
            for b in batches
        ]
    if not np.all(np.isfinite(rows)):
        return None
    found = fit(rows, values)
    scale = max(abs(found.slopes[1:]))
    shift, mean, variance, share = (0.0 if abs(s) < 3e-3 * scale else float(s) for s in found.slopes)
    # The first half of the batches have one mu: what the head does must be explained by itself.
    half = len(batches) // 2
    left = np.asarray(values[:half]) - found.constant - np.asarray(rows[:half]) @ found.slopes
    spread = float(np.std(values[:half]))
    alone = float(np.sqrt(np.mean(left**2))) / spread if spread > 1e-6 * found.spread else 0.0
    return Form(head, log, shift, mean, variance, share, max(found.residual, alone))


# -------------------------------------------------------------------------------------------------------- made-up heads
def _positive(base: Batch, rng: np.random.Generator, scale: float = 1.0) -> Batch:
    """Large divergences under every reading of the head: |mu| from 3 to 6 times a scale, the head positive.

    Besides every entry, the whole batch has a scale and a centre: what moves all entries together stands out of the
    noise of a random loss.
    """
    sign, shape = rng.choice([-1.0, 1.0], base.mu.shape), base.mu.shape
    mu = sign * rng.uniform(3, 4.5, shape) * rng.uniform(1, 1.4) * scale
    return replace(base, mu=mu, head=rng.uniform(0.3, 0.9, shape) * rng.uniform(1, 2.5))


def drawn(base: Batch, head: Head, regime: str, rng: np.random.Generator) -> Batch:
    """mu and head whose divergence is small, medium, large or typical, given the head's reading."""
    spread, low, high, centre = {
        "small": (0.15, 0.0, 0.3, 0.0),
        "typical": (1.2, 0.0, 2.0, -1.0),
        "low": (0.3, 1.2, 1.6, 0.0),
        "medium": (0.6, 8.0, 10.0, 0.0),
        "large": (0.6, 40.0, 50.0, 0.0),
    }[regime]
    sign, together = rng.choice([-1.0, 1.0], base.mu.shape), rng.uniform(0.9, 1.0)
    log_variance = rng.normal(centre, spread, base.head.shape) + spread * rng.normal()
    return replace(
        base, mu=sign * rng.uniform(low, high, base.mu.shape) * together, head=head.from_log_variance(log_variance)
    )


def _moves(probe: Probe, base: Batch, rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether mu, and whether the head, move the loss."""
    other = draw_batch(rng, probe.layout, probe.domain)
    changes: tuple[Callable[[float], Batch], ...] = (
        lambda k: replace(base, mu=other.mu * k),
        lambda k: replace(base, head=other.head * k),
    )
    found = []
    for change in changes:
        values = [_value(probe, change(k)) for k in (0.3, 1.0, 4.0)]
        values = [v for v in values if np.isfinite(v)]
        found.append(bool(values) and not flat(values, probe))
    return found[0], found[1]


# --------------------------------------------------------------------------------------------- floors, caps, capacities
def _shape(slopes: Sequence[float], tolerance: float) -> tuple[str, float]:
    """The shape of the divergence's way into the loss, and its weight where it is linear.

    A regime in which the loss bends (NaN) says nothing and is passed over.
    """
    known = [s for s in slopes if not np.isnan(s)]
    top = max(known, key=abs, default=0.0)
    signs = [0 if abs(s) <= 1e-9 * abs(top) else 1 if abs(s - top) <= tolerance * abs(top) else -1 for s in known]
    exact = all(sign >= 0 or abs(s + top) <= tolerance * abs(top) for s, sign in zip(known, signs, strict=True))
    if not known or not exact:
        return "bent", known[-1] if known else float("nan")
    if all(sign == 1 for sign in signs) and len(known) == len(slopes):
        return "linear", known[len(known) // 2]
    if -1 in signs:
        return "capacity", abs(top)
    steps = [b - a for a, b in itertools.pairwise(signs)]
    shape = {(True, False): "floor", (False, True): "cap"}.get((1 in steps, -1 in steps), "bent")
    return shape, float(top)


def _bent(probe: Probe, form: Form, base: Batch, rng: np.random.Generator) -> bool:
    """Whether typical divergences (half a nat an entry) leave the straight line: a floor under entries, a clamp."""
    batches = [drawn(base, form.head, "typical", rng) for _ in range(12)]
    values = [_value(probe, batch) for batch in batches]
    if not np.all(np.isfinite(values)):
        return True
    return fit([form.total(b) for b in batches], values).residual > 2 * EXACT


def _threshold(probe: Probe, form: Form, base: Batch) -> tuple[float | None, str]:
    """Where the loss bends, in nats, and whether that is counted a dimension or a sample."""
    everywhere = _kink(probe, form, base, np.ones(base.mu.shape[1:], bool))
    one = np.zeros(base.mu.shape[1:], bool)
    one.flat[0] = True
    alone = _kink(probe, form, base, one)
    latents = probe.layout.latents
    if everywhere is None:
        return None, ""
    per_dimension = alone is not None and abs(alone / everywhere - 1) < 0.2
    return (everywhere, "dimension") if per_dimension else (everywhere * latents, "sample")


def _kink(probe: Probe, form: Form, base: Batch, where: np.ndarray) -> float | None:
    """The divergence of a moved entry, in nats, at which the loss changes its slope for the first time."""
    unit = form.head.from_log_variance(np.zeros(base.head.shape))

    def value(nats: float) -> float:
        return _value(
            probe, replace(base, mu=np.zeros(base.mu.shape) + np.where(where, np.sqrt(2 * nats), 0.0), head=unit)
        )

    grid = np.geomspace(1e-3, 1e4, 60)
    slopes = [(value(n * 1.01) - value(n)) / (0.01 * n) for n in grid]
    if not np.all(np.isfinite(slopes)):
        return None
    top = max(abs(s) for s in slopes)
    state = [0 if abs(s) < 0.05 * top else int(np.sign(s)) for s in slopes]
    change = next((i for i in range(1, len(grid)) if state[i] != state[i - 1]), None)
    if change is None:
        return None
    low, high = grid[change - 1], grid[change]
    for _ in range(20):
        middle = float(np.sqrt(low * high))
        inside = (value(middle * 1.001) - value(middle)) / (0.001 * middle)
        here = 0 if not abs(inside) >= 0.05 * top else int(np.sign(inside))
        low, high = (middle, high) if here == state[change - 1] else (low, middle)
    return float(np.sqrt(low * high))
