"""The reconstruction term of a loss: its family and its weight.

mu and the head are held still while the data and the decoder's output move; the loss is then a constant plus its weight
times one of the known negative log-likelihoods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .care import Failed
from .divergence import EXACT, NOISY, flat
from .fit import Fit, fit, smallest
from .inputs import Batch, draw_batch, draw_data
from .laws import CURVED, FAMILIES, Family, curved
from .probe import Probe

ROUGH = 0.015
ONES_ONLY = "Bernoulli on probabilities, ones only"
ONE_HOT = next(f for f in FAMILIES if f.name == "categorical on probabilities, one-hot data")


@dataclass(frozen=True)
class Reconstruction:
    """What was measured.

    Args:
        family: The family that explains the term; None where none does.
        weight: Its weight, not yet times the batch (of several terms or entries, their mean).
        residual: The share of the spread that is left unexplained.
        name: The family's name in words, with what is special.
        terms: The families whose totals make up the term.
        parts: Weights of the two terms of a sum, or of ones and zeros of a Bernoulli, by name.
        columns: Weights of single entries of a row where they differ.
        moves: Whether the data, and whether the output, move the loss.
        falls: Where no family explains it: how far a large output takes the loss below all others, in nats.
        separable: Where no family explains it: whether it is a sum over the entries of a row.
        mixed: Where no family explains it: whether a row's data meets another row's output.
        domain: Kind of data on which it was told; empty for the probe's own.
    """

    family: Family | None
    weight: float
    residual: float
    name: str
    terms: tuple[Family, ...] = ()
    parts: tuple[tuple[str, float], ...] = ()
    columns: tuple[float, ...] = ()
    moves: tuple[bool, bool] = (True, True)
    falls: float = 0.0
    separable: bool = False
    mixed: bool = False
    domain: str = ""


def measure(probe: Probe, seed: int = 1) -> Reconstruction:
    """Measures the reconstruction term of a loss."""
    rng = np.random.default_rng(seed)
    base = draw_batch(rng, probe.layout, probe.domain)
    moves = _moves(probe, base, rng)
    if not moves[1]:
        return Reconstruction(None, 0.0, 1.0, "none", moves=moves)
    others: tuple[str, ...] = (
        ("binary", "counts", "one-hot", "swapped counts") if probe.domain == "unit" and probe.seeds == 1 else ()
    )
    ways = (_plain, _summed, _columns, _roughly) if probe.seeds == 1 else (_plain,)
    tries = ((replace(probe, domain=domain), way) for domain in (probe.domain, *others) for way in ways)
    found = next((replace(rec, domain=rec.domain or p.domain) for p, way in tries if (rec := way(p, base, rng))), None)
    if found is None:
        found = _unknown(probe, base, rng)
    if len(probe.layout.data) > 1 and found.name == ONES_ONLY:  # an axis for the classes: rows may be one-hot
        found = replace(found, family=ONE_HOT, name=ONE_HOT.name)
    return replace(found, moves=moves)


def weight_at(probe: Probe, rec: Reconstruction, seed: int = 1) -> float | None:
    """The weight of the same term at another layout; None where it is not the same there."""
    rng = np.random.default_rng(seed)
    base = draw_batch(rng, probe.layout, probe.domain)
    if rec.columns:
        again = _columns(probe, base, rng)
        return again.weight if again is not None and again.family is rec.family else None
    if not rec.terms:
        return rec.weight
    count = 6 if probe.seeds == 1 else 40
    batches, values = moved(probe, base, rng, count, rec.domain or probe.domain)
    if not batches or flat(values, probe):
        return None
    found = fit(np.transpose([totals(family, batches) for family in rec.terms]), values)
    if found.residual > 2 * max(_tolerance(probe), rec.residual):
        return None
    return float(np.mean(found.slopes)) if "classes" in rec.name else float(found.slopes[0])


Pair = tuple[Batch, Batch]  # the same data with two outputs: terms in the data alone, such as log x!, drop out


def totals(family: Family, pairs: Sequence[Pair]) -> list[float]:
    """A family's total over each batch, less that of the same data with the other output."""
    with np.errstate(all="ignore"):
        return [_total(family, one) - _total(family, other) for one, other in pairs]


def _total(family: Family, batch: Batch) -> float:
    return family.total(*((batch.x, batch.output, batch.scale) if family.scaled else (batch.x, batch.output)))


def moved(
    probe: Probe, base: Batch, rng: np.random.Generator, count: int, domain: str
) -> tuple[list[Pair], list[float]]:
    """Data with two outputs each, and the differences of their losses; both empty where the callable refuses them."""
    pairs, values = [], []
    for _ in range(count):
        (x, output, scale), (_, other, wider) = (draw_data(rng, probe.layout, domain) for _ in range(2))
        pairs.append((replace(base, x=x, output=output, scale=scale), replace(base, x=x, output=other, scale=wider)))
    try:
        values = [probe.value(one) - probe.value(other) for one, other in pairs]
    except Failed:
        return [], []
    return (pairs, values) if np.all(np.isfinite(values)) else ([], [])


def _known(probe: Probe, domain: str) -> list[Family]:
    scaled = "scale" in probe.binding.roles
    return [f for f in FAMILIES if domain in f.domains and (not f.scaled or scaled)]


def _tolerance(probe: Probe) -> float:
    return EXACT if probe.seeds == 1 else NOISY


def _single(families: Sequence[Family], batches: Sequence[Pair], values: Sequence[float]) -> tuple[Family, Fit] | None:
    """The family that leaves least unexplained; of many, the likeliest on a few batches first."""
    few = 6
    if len(batches) > few and len(families) > few:
        families = [family for family, _ in _ranked(families, batches[:few], values[:few])[:few]]
    return next(iter(_ranked(families, batches, values)), None)


def _ranked(families: Sequence[Family], batches: Sequence[Pair], values: Sequence[float]) -> list[tuple[Family, Fit]]:
    fits = []
    for family in families:
        try:
            cost = totals(family, batches)
        except (ValueError, IndexError):  # a shape that this family cannot have
            continue
        if np.all(np.isfinite(cost)) and np.ptp(cost) > 0:
            fits.append((family, fit(cost, values)))
    return sorted(fits, key=lambda pair: pair[1].residual)


def _plain(probe: Probe, base: Batch, rng: np.random.Generator) -> Reconstruction | None:
    batches, values = moved(probe, base, rng, 20 if probe.seeds == 1 else 60, probe.domain)
    best = _single(_known(probe, probe.domain), batches, values) if batches else None
    good = best is not None and best[1].residual <= _tolerance(probe)
    if good and best is not None and (probe.domain not in ("unit", "binary") or not best[0].noise):
        return _result(*best)
    # Residual families agree near zero: look at wide data before one of them is named.
    wide, wide_values = moved(probe, base, rng, 24, "wide")
    if not wide:
        return _result(*best) if good and best is not None else None
    best_wide = _single(_known(probe, "wide"), wide, wide_values)
    if best_wide is not None and best_wide[1].residual <= _tolerance(probe):
        return replace(_result(*best_wide), domain="wide")
    searched = _searched(wide, wide_values, _tolerance(probe))
    if searched is not None:
        return replace(searched, domain="wide")
    return _result(*best) if good and best is not None else None


def _roughly(probe: Probe, base: Batch, rng: np.random.Generator) -> Reconstruction | None:
    """A family that explains all but a hundredth: one whose output is softly clamped, say."""
    batches, values = moved(probe, base, rng, 40, probe.domain)
    best = _single(_known(probe, probe.domain), batches, values) if batches else None
    return _result(*best) if best is not None and best[1].residual <= ROUGH else None


def _result(family: Family, found: Fit) -> Reconstruction:
    return Reconstruction(family, float(found.slopes[0]), found.residual, family.name, (family,))


def _searched(pairs: Sequence[Pair], values: Sequence[float], tolerance: float) -> Reconstruction | None:
    """Huber and log-cosh losses, whose threshold is found by search."""
    tried = []
    for name, shape in CURVED.items():
        family = curved(name, shape, smallest(partial(_residual_at, name, pairs, values), 0.02, 200))
        tried.append(_result(family, fit(totals(family, pairs), values)))
    best = min(tried, key=lambda found: found.residual)
    return best if best.residual <= tolerance else None


def _residual_at(name: str, pairs: Sequence[Pair], values: Sequence[float], parameter: float) -> float:
    return fit(totals(curved(name, CURVED[name], parameter), pairs), values).residual


HALVES = (
    Family("ones", lambda x, o: float(-(x * np.log(o)).sum()), ("unit", "binary")),
    Family("zeros", lambda x, o: float(-((1 - x) * np.log1p(-o)).sum()), ("unit", "binary")),
)
LOGIT_HALVES = (
    Family("ones", lambda x, o: float((x * np.logaddexp(0, -o)).sum()), ("unit", "binary")),
    Family("zeros", lambda x, o: float(((1 - x) * np.logaddexp(0, o)).sum()), ("unit", "binary")),
)


def _summed(probe: Probe, base: Batch, rng: np.random.Generator) -> Reconstruction | None:
    """Weighted halves of a Bernoulli, or a sum of two families."""
    domain = "wide" if moved(probe, base, rng, 2, "wide")[0] and probe.domain == "unit" else probe.domain
    tried = [(probe.domain, HALVES, "Bernoulli on probabilities, classes weighted"),
             (probe.domain, LOGIT_HALVES, "Bernoulli on logits, classes weighted")]  # fmt: skip
    batches, values = moved(probe, base, rng, 30, probe.domain)
    if not batches:
        return None
    if probe.domain in ("unit", "binary"):
        for _, halves, name in tried:
            found = fit(np.transpose([totals(half, batches) for half in halves]), values)
            if found.residual <= _tolerance(probe):
                return _parts(halves, found, name, next(f for f in FAMILIES if f.name == name.split(",")[0]))
    batches, values = moved(probe, base, rng, 30, domain)
    families = [f for f in _known(probe, domain) if not f.wrong]
    costs = {i: totals(f, batches) for i, f in enumerate(families)}
    costs = {i: cost for i, cost in costs.items() if np.all(np.isfinite(cost)) and np.ptp(cost) > 0}
    pairs = [(fit(np.transpose([costs[i], costs[j]]), values), i, j) for i in costs for j in costs if i < j]
    best = min(pairs, key=lambda pair: pair[0].residual, default=None)
    # Two slopes can mimic much: a sum of families must be exact.
    if best is None or best[0].residual > (_tolerance(probe) if probe.dtype == "float32" else 1e-6):
        return None
    both = (families[best[1]], families[best[2]])
    return replace(_parts(both, best[0], " + ".join(f.name for f in both), both[0]), domain=domain)


def _parts(families: Sequence[Family], found: Fit, name: str, family: Family) -> Reconstruction:
    weights = [float(slope) for slope in found.slopes]
    parts = tuple((f.name, w) for f, w in zip(families, weights, strict=True))
    weight = float(np.mean(weights)) if "classes" in name else weights[0]
    return Reconstruction(family, weight, found.residual, name, tuple(families), parts)


def _columns(probe: Probe, base: Batch, rng: np.random.Generator) -> Reconstruction | None:
    """One family with a weight for each entry of a row: masks and column weights."""
    count = probe.layout.pixels
    batches, values = moved(probe, base, rng, 2 * count + 20, probe.domain)
    if not batches or count > 128 or batches[0][0].x.shape != batches[0][0].output.shape:
        return None
    best: tuple[float, Family, Fit] | None = None
    for family in _known(probe, probe.domain):
        if family.wrong or family.scaled:
            continue
        rows = np.transpose(
            [totals(family, [(_column(a, j), _column(b, j)) for a, b in batches]) for j in range(count)]
        )
        found = fit(rows, values) if np.all(np.isfinite(rows)) else None
        if found is not None and (best is None or found.residual < best[0]):
            best = (found.residual, family, found)
    if best is None or best[0] > _tolerance(probe):
        return None
    slopes = best[2].slopes
    weights = tuple(0.0 if abs(s) < 1e-6 * max(abs(slopes)) else float(s) for s in slopes)
    mean = float(np.mean([w for w in weights if w] or [0.0]))  # entries that a mask leaves out have no weight at all
    name = f"{best[1].name}, entries weighted"
    return Reconstruction(best[1], mean, best[0], name, columns=weights)


def _column(batch: Batch, j: int) -> Batch:
    """One entry of every row."""
    x, output = (part.reshape(len(part), -1)[:, [j]] for part in (batch.x, batch.output))
    return replace(batch, x=x, output=output)


def _unknown(probe: Probe, base: Batch, rng: np.random.Generator) -> Reconstruction:
    """What can be said of a term that no family explains."""
    pairs, values = moved(probe, base, rng, 20, probe.domain)
    best = _single(_known(probe, probe.domain), pairs, values) if pairs else None
    residual = 1.0 if best is None else best[1].residual
    other = draw_batch(rng, probe.layout, probe.domain)
    x, output = base.x.copy(), base.output.copy()
    x[0], output[1] = other.x[0], other.output[1]
    rows = _meet(probe, base, {"x": x}, {"output": output})
    first, second = base.output.copy(), base.output.copy()
    first.reshape(len(first), -1)[0, 0], second.reshape(len(second), -1)[0, 1] = (
        other.output.flat[0],
        other.output.flat[1],
    )
    entries = _meet(probe, base, {"output": first}, {"output": second})
    return Reconstruction(
        None,
        float("nan"),
        residual,
        "unknown",
        falls=_falls(probe, base),
        separable=not rows and not entries,
        mixed=rows,
    )


def _falls(probe: Probe, base: Batch) -> float:
    """How far the loss falls on the way to a large output, where it goes on falling: 0 where it is bounded below."""
    worst = 0.0
    for x in (base.x, np.full(base.x.shape, 3.0)):
        for sign in (-1.0, 1.0):
            try:
                values = [
                    probe.value(replace(base, x=x, output=np.full(base.output.shape, sign * o))) for o in (1, 30, 900)
                ]
            except Failed:
                continue
            steady = np.all(np.isfinite(values)) and values[2] - values[1] < 10 * (values[1] - values[0]) < -1e-3
            worst = max(worst, values[0] - values[2]) if steady else worst
    return float(worst)


def _meet(probe: Probe, base: Batch, one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    """Whether two changes act on each other: their second difference is not zero."""
    both = {**one, **two}
    if one.keys() == two.keys():  # two entries of one array, each changed in one of them
        name = next(iter(one))
        here = base.arrays()[name]
        both = {name: np.where(one[name] != here, one[name], two[name])}
    try:
        values = [probe.value(replace(base, **change)) for change in ({}, one, two, both)]
    except (Failed, IndexError):
        return False
    return abs(values[0] + values[3] - values[1] - values[2]) > 100 * probe.precision * max(map(abs, values))


def _moves(probe: Probe, base: Batch, rng: np.random.Generator) -> tuple[bool, bool]:
    found = []
    others = [draw_batch(rng, probe.layout, probe.domain) for _ in range(3)]
    for role in ("x", "output"):
        values = [probe.value(replace(base, **{role: getattr(other, role)})) for other in others]
        found.append(not flat(values, probe))
    return found[0], found[1]
