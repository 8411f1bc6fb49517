"""Everything that is measured on a loss, before anything is judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import log2

import numpy as np

from . import divergence, reconstruction
from .care import Failed
from .divergence import Divergence, flat
from .extremes import REGIME, log_of_zero, more_latents, overflow, prior_of, silent, typical
from .inputs import Batch, Layout, draw_batch
from .probe import Probe
from .reconstruction import Reconstruction
from .roles import is_beta, is_weight, number_of


@dataclass(frozen=True)
class Slope:
    """A directional derivative by automatic differentiation, and the same by differences of values."""

    automatic: float
    by_values: float
    rounding: float

    @property
    def missing(self) -> bool:
        """The value moves and there is no gradient."""
        return abs(self.by_values) > self.rounding and abs(self.automatic) < 1e-3 * abs(self.by_values)

    @property
    def wrong(self) -> bool:
        """Both are there and differ."""
        return not self.missing and abs(self.automatic - self.by_values) > self.rounding + 0.02 * abs(self.by_values)


@dataclass(frozen=True)
class Scaling:
    """Exponents, in one size, of the two weights; a mean over a size has -1 and a sum 0."""

    reconstruction: float
    divergence: float

    @property
    def beta(self) -> float:
        """The exponent of effective beta."""
        return self.divergence - self.reconstruction


@dataclass(frozen=True)
class Measured:
    """All measurements of a loss.

    Args:
        probe: How it was called.
        reconstruction: The reconstruction term.
        divergence: The divergence.
        scaling: Exponents by size: "batch", "latents", "pixels" (all axes alike), or "pixels axis 0" and so on.
        slopes: Gradient against values by role; empty where the framework has no gradients.
        interaction: Share of the spread that is no sum of a reconstruction term and a divergence.
        revived: Constants whose other value gives a dead divergence its effect, with both values.
        unused: Constants that move nothing, with the two values tried.
        overflow: Extreme inputs at which the loss is not finite though it could be: what, and the number tried.
        log_of_zero: Likewise for the decoder's output at the ends of its range.
        silent: The loss for data outside the range of the family; None where it refuses or there is no range.
        shape: Shape of the result, or of the part that is the loss.
        prior: Mean and variance of the prior where form and constant of the divergence belong to one; None otherwise.
        noise: Relative half-width of the 95 % interval of effective beta where the loss is random; 0 where it is exact.
    """

    probe: Probe
    reconstruction: Reconstruction
    divergence: Divergence
    scaling: dict[str, Scaling]
    slopes: dict[str, Slope]
    interaction: float
    revived: dict[str, tuple[float, float]]
    unused: dict[str, tuple[float, float]]
    overflow: tuple[tuple[str, float], ...]
    log_of_zero: tuple[tuple[str, float], ...]
    silent: float | None
    shape: tuple[int, ...] = ()
    prior: tuple[float, float] | None = None
    noise: float = 0.0

    @property
    def beta(self) -> float:
        """Effective beta as the values show it: b / a."""
        a, b = self.reconstruction.weight, self.divergence.weight
        return b / a if a else float("nan")


def measure(probe: Probe, fixed: Iterable[str] = ()) -> Measured:
    """Measures a loss: its terms, how they scale, their gradients, and where its numbers break."""
    if _drifts(probe):
        raise Failed(
            "gives two values for the same inputs and seeds: it keeps state, or draws from a source of its own"
        )
    if _random(probe):
        inside = replace(probe, inside=True)
        probe = _many(probe) if _random(inside) else inside
    div = divergence.measure(probe)
    probe = replace(probe, draw=div.draw)
    prior = prior_of(probe, div)
    if prior is not None and div.form is not None:  # the logarithm weighs the same whatever the prior's variance
        div = replace(div, weight=div.weight * div.form.log / div.form.weight)
    rec, probe = _reconstruction(probe)
    return Measured(
        probe,
        rec,
        div,
        _scalings(probe, rec, div, set(fixed)),
        _slopes(probe, div),
        _interaction(probe, rec, div),
        _revived(probe, div),
        _unused(probe, div),
        overflow(probe, div),
        log_of_zero(probe, rec),
        silent(probe, rec),
        _shape(probe),
        prior,
        _noise(probe, div),
    )


def _reconstruction(probe: Probe) -> tuple[Reconstruction, Probe]:
    """The reconstruction term, where it is not known also with other shapes of the decoder's second output."""
    rec = reconstruction.measure(probe)
    scales = ("columns", "number") if rec.family is None and "scale" in probe.binding.roles else ()
    for scale in scales:
        other = replace(probe, layout=replace(probe.layout, scale=scale))
        try:
            again = reconstruction.measure(other)
        except Failed:
            continue
        if again.family is not None:
            return again, other
    return rec, probe


def _shape(probe: Probe) -> tuple[int, ...]:
    found = probe.result(draw_batch(np.random.default_rng(0), probe.layout, probe.domain))
    return next((found[name].shape for name in probe.choice or found), ())


def _drifts(probe: Probe) -> bool:
    batch = draw_batch(np.random.default_rng(3), probe.layout, probe.domain)
    values = [probe.value(batch) for _ in range(3)]
    return float(np.ptp(values)) > (1e-12 if probe.dtype == "float64" else 1e-6) * max(map(abs, values))


def _random(probe: Probe) -> bool:
    batch = draw_batch(np.random.default_rng(3), probe.layout, probe.domain)
    return len({probe.value(batch, seed=seed) for seed in (0, 1, 2)}) > 1


def _many(probe: Probe) -> Probe:
    """The same with many rows and seeds, for the average of a random loss."""
    rows = replace(probe, layout=probe.layout.rows(8 * probe.layout.batch), seeds=24)
    try:
        rows.value(draw_batch(np.random.default_rng(3), rows.layout, rows.domain))
        return rows
    except Failed:
        return replace(probe, seeds=96)


def _noise(probe: Probe, div: Divergence) -> float:
    """Relative half-width of the 95 % interval of the weight of a random loss's divergence, from four sets of seeds."""
    if probe.seeds == 1 or div.form is None:
        return 0.0
    base = draw_batch(np.random.default_rng(5), probe.layout, probe.domain)
    sets = [replace(probe, first_seed=1000 * k) for k in range(4)]
    found = [divergence.slope(p, div.form, base, REGIME[div.shape], np.random.default_rng(29)) for p in sets]
    return 3.18 * float(np.std(found, ddof=1)) / 2 / max(abs(div.weight), 1e-300)  # Student's t, 3 degrees of freedom


# ------------------------------------------------------------------------------------------------------------- scaling
def variations(layout: Layout, fixed: set[str]) -> dict[str, Layout]:
    """The layout with one size doubled at a time."""
    found = {"batch": layout.rows(2 * layout.batch)}
    found |= {"latents": more_latents(layout)}
    many = len(layout.data) > 1
    if layout.square:
        return {name: changed for name, changed in found.items() if name not in fixed}
    found |= {(f"pixels axis {i}" if many else "pixels"): layout.axis(i, 2) for i in range(len(layout.data))}
    if (
        many and len(layout.latent) > 1 and layout.data[0] == layout.latent[0]
    ):  # a series of codes beside a series of data
        found["pixels axis 0"] = replace(layout.axis(0, 2), latent=(2 * layout.latent[0], *layout.latent[1:]))
        found["latents"] = replace(layout, latent=(*layout.latent[:-1], 2 * layout.latent[-1]))
    return {name: changed for name, changed in found.items() if name.split(" ")[0] not in fixed}


def weights(probe: Probe, rec: Reconstruction, div: Divergence) -> tuple[float, float] | None:
    """The weights of both terms at another layout; None where the callable refuses it or changes its nature."""
    rng = np.random.default_rng(5)
    base = draw_batch(rng, probe.layout, probe.domain)
    try:
        a = reconstruction.weight_at(probe, rec) if rec.moves[1] else rec.weight
        b = divergence.slope(probe, div.form, base, REGIME[div.shape], rng) if div.form else 0.0
    except Failed:
        return None
    return None if a is None else (a, b)


def _scalings(probe: Probe, rec: Reconstruction, div: Divergence, fixed: set[str]) -> dict[str, Scaling]:
    here = weights(probe, rec, div)
    found: dict[str, Scaling] = {}
    for name, layout in variations(probe.layout, fixed).items():
        there = weights(replace(probe, layout=layout), rec, div)
        if here is not None and there is not None:
            found[name] = Scaling(*(_exponent(*pair) for pair in zip(here, there, strict=True)))
    axes = [scaling for name, scaling in found.items() if name.startswith("pixels axis")]
    if axes and len(axes) == len(probe.layout.data) and _alike(axes):
        found = {name: scaling for name, scaling in found.items() if not name.startswith("pixels axis")}
        found["pixels"] = axes[0]
    return found


def _alike(scalings: list[Scaling]) -> bool:
    first = scalings[0]
    return all(
        _same(s.reconstruction, first.reconstruction) and _same(s.divergence, first.divergence) for s in scalings
    )


def _same(a: float, b: float) -> bool:
    return abs(a - b) < 0.05 or (np.isnan(a) and np.isnan(b))


def _exponent(here: float, there: float) -> float:
    if not np.isfinite(here + there) or here * there < 0:
        return float("nan")
    if here == 0 or there == 0:
        return 0.0
    exponent = log2(there / here)
    return round(exponent) + 0.0 if abs(exponent - round(exponent)) < 0.02 else exponent


# ----------------------------------------------------------------------------------------------------------- gradients
def _slopes(probe: Probe, div: Divergence) -> dict[str, Slope]:
    """Gradient against values by role; mu and the head move z along, and both sides are averaged over its noise.

    So an estimator that leaves out the score of q (Roeder, Wu, Duvenaud, Sticking the Landing, 2017) counts as right.
    """
    single, batch = replace(probe, seeds=1), typical(probe, div)
    arrays = single.draws(batch)[0][2]
    wanted: list[str] = [r for r in ("output", "mu", "head", "scale") if r in arrays and arrays[r].dtype.kind == "f"]
    try:
        gradients = _gradients(single, batch, wanted)
    except Failed:
        return {}
    if gradients is None:
        return {}
    rng = np.random.default_rng(13)
    return {role: _slope(single, batch, role, gradients[role], rng) for role in wanted}


def _gradients(probe: Probe, batch: Batch, roles: list[str]) -> dict[str, np.ndarray] | None:
    total = {role: np.zeros(batch.arrays()[role].shape) for role in roles}
    step = 1e-6
    bend = (probe.std(batch.head + step) - probe.std(batch.head - step)) / (2 * step)
    for weight, node, arrays in probe.draws(batch):
        found = probe.gradients(arrays, [*roles, "z"] if "z" in arrays else roles, node)
        if found is None:
            return None
        through = {"mu": 1.0, "head": node * bend} if "z" in arrays else {}
        for role in roles:
            total[role] = total[role] + weight * (
                found[role] + (found["z"] * through[role] if role in through else 0.0)
            )
    return total


def _slope(probe: Probe, batch: Batch, role: str, gradient: np.ndarray, rng: np.random.Generator) -> Slope:
    step = 1e-5 if probe.dtype == "float64" else max(5e-3, 0.3 * probe.rough ** (1 / 3))
    here = batch.arrays()[role]
    direction = rng.choice([-1.0, 1.0], here.shape) * rng.uniform(0.5, 1.0, here.shape)
    try:
        up, down = (probe.value(replace(batch, **{role: here + side * step * direction})) for side in (1, -1))
    except Failed:
        return Slope(0.0, 0.0, 0.0)
    size = max(abs(up), abs(down), 1e-30)
    return Slope(float((gradient * direction).sum()), (up - down) / (2 * step), 40 * probe.precision * size / step)


def _interaction(probe: Probe, rec: Reconstruction, div: Divergence) -> float:
    """Whether the two terms add up: L(A, b) + L(a, B) - L(A, B) - L(a, b), as a share of the larger move."""
    if not rec.moves[1] or div.shape == "flat":
        return 0.0
    one, other = typical(probe, div, 21), typical(probe, div, 22)
    data = {"x": other.x, "output": other.output, "scale": other.scale}
    values = [
        probe.value(b) for b in (one, other, replace(one, **data), replace(other, **{k: getattr(one, k) for k in data}))
    ]
    moves = max(abs(values[0] - values[2]), abs(values[0] - values[3]), 1e-300)
    share = abs(values[0] + values[1] - values[2] - values[3]) / moves
    return 0.0 if flat(values, probe) or share < 1e3 * probe.precision * max(map(abs, values)) / moves else share


# ----------------------------------------------------------------------------------------------------------- constants
def _numbers(probe: Probe) -> dict[str, tuple[float, float]]:
    """Constants that are numbers and no sizes, with another value to try."""
    constants = probe.binding.constants.items()
    numbers = {n: number for n, v in constants if (number := number_of(v)) is not None}
    return {n: (value, 1.7 * value + 0.37) for n, value in numbers.items() if n not in probe.binding.sizes}


def _revived(probe: Probe, div: Divergence) -> dict[str, tuple[float, float]]:
    """What to set so that a divergence without effect gets one."""
    if div.shape != "flat":
        return {}
    near, far = (typical(probe, div, 31, regime) for regime in ("small", "medium"))
    tried = {name: (value, 5.0 + 10 * abs(value)) for name, (value, _) in _numbers(probe).items()}
    return {name: pair for name, pair in tried.items() if _differ(probe, near, far, {name: pair[1]})}


def _differ(probe: Probe, one: Batch, other: Batch, constants: dict[str, float]) -> bool:
    try:
        return not flat([probe.value(one, constants), probe.value(other, constants)], probe)
    except Failed:
        return False


def _unused(probe: Probe, div: Divergence) -> dict[str, tuple[float, float]]:
    """Weights that are given and move nothing, here and at three sizes of the divergence."""
    batches = [typical(probe, div, 31, regime) for regime in ("small", "medium", "large")]
    weights = {n: pair for n, pair in _numbers(probe).items() if is_beta(n) or is_weight(n)}
    return {n: pair for n, pair in weights.items() if not any(_moved_by(probe, b, n, *pair) for b in batches)}


def _moved_by(probe: Probe, batch: Batch, name: str, value: float, other: float) -> bool:
    try:
        return not flat([probe.value(batch, {name: value}), probe.value(batch, {name: other})], probe)
    except Failed:
        return True
