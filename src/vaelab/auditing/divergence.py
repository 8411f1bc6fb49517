"""The divergence in a loss: its weight, how it reads the second head, its proportions, floors and caps.

The data and the decoder's output are held still while mu and the head move. Between random points the loss is fitted by

    constant + s sum(mu) + m sum(mu^2)/2 + v sum(variance(head))/2 - l sum(log variance(head))/2,

and a divergence from the standard normal distribution has m = v = l (Kingma, Welling, Auto-Encoding Variational
Bayes, 2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .fit import fit
from .inputs import Batch, draw_batch
from .laws import HEADS, LOGARITHMS, Head, divergence
from .probe import Failed, Probe

EXACT, NOISY = 2e-3, 0.1  # the share of the spread that a form may leave unexplained
HALF = Head("exp(head / 2)", lambda h: np.exp(h / 2), lambda h: h, lambda v: v, "linear")
REGIMES = ("small", "medium", "large")


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
        """The weight of the divergence: of the three terms, the middle one."""
        return float(np.median([self.mean, self.variance, self.log]))

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
        slopes: The weight at small (0.02 nats an entry), medium (10) and large (1000) divergences.
        weight: The weight where the loss is linear, per entry and not yet times the batch.
        shape: "linear", "floor", "cap", "capacity", "bent" or "flat".
        threshold: Where it bends, in nats; None for a linear one.
        per: "dimension" or "sample": what the threshold is counted on.
        moves: Whether mu and the head move the loss at all.
        constant: The loss at the origin of the fit.
    """

    form: Form | None
    slopes: tuple[float, float, float]
    weight: float
    shape: str
    threshold: float | None = None
    per: str = ""
    moves: tuple[bool, bool] = (True, True)
    constant: float = 0.0
    draw: Head = HEADS[0]


FLAT = Divergence(None, (0.0, 0.0, 0.0), 0.0, "flat", moves=(False, False))


def measure(probe: Probe, seed: int = 0) -> Divergence:
    """Measures the divergence of a loss."""
    rng = np.random.default_rng(seed)
    base = draw_batch(rng, probe.layout, probe.domain)
    found = _recognise(probe, base, rng)
    if found is None:
        moves = _moves(probe, base, rng)
        return replace(FLAT, moves=moves, shape="bent" if any(moves) else "flat", weight=float("nan") if any(moves) else 0.0)
    form, probe = found
    slopes = tuple(slope(probe, form, base, regime, rng) for regime in REGIMES)
    shape, weight = _shape(slopes, 0.02 if probe.seeds == 1 else 0.3)
    if shape == "linear" and probe.seeds == 1 and _bent(probe, form, base, rng):
        shape = "bent"
    threshold, per = _threshold(probe, form, base) if shape in ("floor", "cap", "capacity") else (None, "")
    return Divergence(form, slopes, weight, shape, threshold, per, _moves(probe, base, rng), draw=probe.draw)  # type: ignore[arg-type]


def slope(probe: Probe, form: Form, base: Batch, regime: str, rng: np.random.Generator, count: int = 8) -> float:
    """The weight of the divergence in a regime: the loss's slope in the fitted form, times the form's weight."""
    batches = [drawn(base, form.head, regime, rng) for _ in range(count if probe.seeds == 1 else 2 * count)]
    values = [_value(probe, batch) for batch in batches]
    if not np.all(np.isfinite(values)) or flat(values, probe):
        return 0.0
    return float(fit([form.total(b) for b in batches], values).slopes[0] * form.weight)


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
    tolerance = EXACT if probe.seeds == 1 else NOISY
    draws = HEADS if "z" in probe.binding.roles else (probe.draw,)
    count = 24 if probe.seeds == 1 else 60
    medium = [_positive(base, rng) for _ in range(count)]
    tried = [found for draw in draws if (found := _best(replace(probe, draw=draw), medium)) is not None]
    if not tried or min(form.residual for form, _ in tried) > tolerance:
        for head in HEADS:
            near = [drawn(base, head, "small", rng) for _ in range(count)]
            tried += [found for draw in draws if (found := _best(replace(probe, draw=draw), near)) is not None]
    good = [found for found in tried if found[0].residual <= tolerance]
    return min(good, key=lambda found: found[0].residual) if good else None


def _best(probe: Probe, batches: Sequence[Batch]) -> tuple[Form, Probe] | None:
    values = [_value(probe, batch) for batch in batches]
    if not np.all(np.isfinite(values)) or flat(values, probe):
        return None
    with np.errstate(all="ignore"):
        forms = [form for head in (*HEADS, HALF) for log in LOGARITHMS if (form := _fitted(batches, values, head, log))]
    best = min(forms, key=lambda form: form.residual)
    # Of forms that explain equally well, the one with its own logarithm.
    near = [form for form in forms if form.residual <= 1.5 * best.residual + 1e-9]
    return min(near, key=lambda form: (form.two_ways, form.head is HALF, form.residual)), probe


def _fitted(batches: Sequence[Batch], values: Sequence[float], head: Head, log: str) -> Form | None:
    rows = [
        [b.mu.sum(), 0.5 * (b.mu**2).sum(), 0.5 * head.variance(b.head).sum(), -0.5 * LOGARITHMS[log](b.head).sum()]
        for b in batches
    ]
    if not np.all(np.isfinite(rows)):
        return None
    found = fit(rows, values)
    shift, mean, variance, logarithm = (float(s) for s in found.slopes)
    scale = max(abs(mean), abs(variance), abs(logarithm))
    shift, mean, variance, logarithm = (0.0 if abs(s) < 3e-3 * scale else s for s in (shift, mean, variance, logarithm))
    if log == head.log_kind and log == "linear" or log == head.log_kind:
        probe_at = np.array([0.7])
        logarithm /= float(head.log_variance(probe_at)[0] / LOGARITHMS[log](probe_at)[0])
    return Form(head, log, shift, mean, variance, logarithm, found.residual)


# -------------------------------------------------------------------------------------------------------- made-up heads
def _positive(base: Batch, rng: np.random.Generator) -> Batch:
    """Large divergences under every reading of the head: |mu| from 3 to 6, the head positive.

    Besides every entry, the whole batch has a scale and a centre: what moves all entries together stands out of the noise
    of a random loss.
    """
    sign, shape = rng.choice([-1.0, 1.0], base.mu.shape), base.mu.shape
    mu = sign * rng.uniform(3, 4.5, shape) * rng.uniform(1, 1.4)
    return replace(base, mu=mu, head=rng.uniform(0.3, 0.9, shape) * rng.uniform(1, 2.5))


def drawn(base: Batch, head: Head, regime: str, rng: np.random.Generator) -> Batch:
    """mu and head whose divergence is small, medium, large or typical, given the head's reading."""
    spread, low, high, centre = {
        "small": (0.15, 0.0, 0.3, 0.0),
        "typical": (1.2, 0.0, 2.0, -1.0),
        "medium": (0.6, 3.0, 6.0, 0.0),
        "large": (0.6, 30.0, 60.0, 0.0),
    }[regime]
    sign, together = rng.choice([-1.0, 1.0], base.mu.shape), rng.uniform(0.7, 1.0)
    log_variance = rng.normal(centre, spread, base.head.shape) + spread * rng.normal()
    return replace(base, mu=sign * rng.uniform(low, high, base.mu.shape) * together, head=head.from_log_variance(log_variance))


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
    """The shape of the divergence's way into the loss, and its weight where it is linear."""
    small, medium, large = slopes
    top = max(slopes, key=abs)
    near = [abs(s - top) <= tolerance * abs(top) for s in slopes]
    zero = [abs(s) <= tolerance * abs(top) for s in slopes]
    opposite = [abs(s + top) <= tolerance * abs(top) for s in slopes]
    if all(near):
        return "linear", medium
    if zero[0] and near[2] and (near[1] or zero[1]):
        return "floor", large
    if near[0] and zero[2]:
        return "cap", small
    if any(opposite) and all(n or o or z for n, o, z in zip(near, opposite, zero, strict=True)):
        return "capacity", abs(top)
    return "bent", medium


def _bent(probe: Probe, form: Form, base: Batch, rng: np.random.Generator) -> bool:
    """Whether typical divergences (half a nat an entry) leave the straight line: a floor under single entries, a clamp."""
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
        return _value(probe, replace(base, mu=np.where(where, np.sqrt(2 * nats), 0.0), head=unit))

    grid = np.geomspace(1e-3, 1e4, 60)
    slopes = [(value(n * 1.01) - value(n)) / (0.01 * n) for n in grid]
    top = max(abs(s) for s in slopes)
    state = [0 if abs(s) < 0.05 * top else int(np.sign(s)) for s in slopes]
    change = next((i for i in range(1, len(grid)) if state[i] != state[i - 1]), None)
    if change is None:
        return None
    low, high = grid[change - 1], grid[change]
    for _ in range(20):
        middle = float(np.sqrt(low * high))
        inside = (value(middle * 1.001) - value(middle)) / (0.001 * middle)
        here = 0 if abs(inside) < 0.05 * top else int(np.sign(inside))
        low, high = (middle, high) if here == state[change - 1] else (low, middle)
    return float(np.sqrt(low * high))


def true_total(batch: Batch, head: Head) -> float:
    """The exact divergence of a batch under a reading of the head, in nats."""
    return float(divergence(batch.mu, head.log_variance(batch.head)).sum())
