"""Where a loss's numbers break: float32 at extreme heads and outputs, targets out of range, the prior's constant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import divergence
from .care import Failed
from .divergence import Divergence
from .inputs import Batch, Layout, draw_batch
from .laws import HEADS
from .probe import Probe
from .reconstruction import Reconstruction

UPRIGHT = 78.0  # log-variance of 1e34, the last power of ten that float32 holds with room for sums
REGIME = {"linear": "medium", "bent": "medium", "floor": "large", "cap": "small", "capacity": "large"}


def typical(probe: Probe, div: Divergence, seed: int = 11, regime: str | None = None) -> Batch:
    """A batch where the loss is linear in its divergence."""
    rng = np.random.default_rng(seed)
    base = draw_batch(rng, probe.layout, probe.domain)
    if div.form is None:  # nothing is known of the head: it stays positive, and mu alone makes the size
        return replace(base, mu=base.mu * {"small": 0.1, "medium": 5.0, "large": 50.0}.get(regime or "", 1.0))
    head = div.form.head
    return divergence.drawn(base, head, regime or REGIME.get(div.shape, "medium"), rng)


def overflow(probe: Probe, div: Divergence) -> tuple[tuple[str, float], ...]:
    """Where a float32 loss is not finite though its closed form is."""
    if div.form is None:
        return ()
    head = div.form.head
    single = replace(probe, dtype="float32", seeds=1)
    base = typical(single, div)
    reach = UPRIGHT if head in HEADS and "softplus" not in head.name else 12.0
    ends = [("log-variance of the posterior", side * reach) for side in (-1, 1)]
    tried = [
        (what, end, replace(base, head=np.full(base.head.shape, head.from_log_variance(np.array(end)))))
        for what, end in ends
    ]
    tried += [("mean of the posterior", 1e4, replace(base, mu=np.full(base.mu.shape, 1e4)))]
    roles: list[str] = [role for role in ("mu", "head") if role in probe.binding.roles]
    return tuple((what, end) for what, end, batch in tried if not _finite(single, batch, roles))


def log_of_zero(probe: Probe, rec: Reconstruction) -> tuple[tuple[str, float], ...]:
    """Outputs at the ends of their range at which the loss is not finite."""
    if rec.family is None or rec.family.wrong or probe.domain not in ("unit", "binary"):
        return ()
    name = rec.family.name
    ends = {"probabilities": (0.0, 1.0), "logits": (-60.0, 60.0)}
    found = next(
        (value for key, value in ends.items() if name.startswith(("Bernoulli on", "continuous")) and key in name), ()
    )
    single = replace(probe, dtype="float32", seeds=1)
    base = draw_batch(np.random.default_rng(17), probe.layout, "binary")
    batches = [(end, replace(base, output=np.full(base.output.shape, end))) for end in found]
    return tuple(("output", end) for end, batch in batches if not _finite(single, batch, ["output"]))


def _finite(probe: Probe, batch: Batch, roles: list[str]) -> bool:
    arrays = probe.draws(batch)[0][2]
    try:
        value, gradients = probe.at(arrays), probe.gradients(arrays, roles)
    except Failed:
        return True  # refused with an error, which is not silent
    return bool(np.isfinite(value)) and all(np.isfinite(g).all() for g in (gradients or {}).values())


def silent(probe: Probe, rec: Reconstruction) -> float | None:
    """The loss of targets outside [0, 1] where a Bernoulli takes them without a word."""
    if (
        rec.family is None
        or not rec.family.name.startswith("Bernoulli on")
        or rec.family.wrong
        or probe.domain != "unit"
    ):
        return None
    base = draw_batch(np.random.default_rng(19), probe.layout, probe.domain)
    try:
        value = probe.value(replace(base, x=3 * base.x - 1))
    except Failed:
        return None
    return value if np.isfinite(value) else None


def prior_of(probe: Probe, div: Divergence) -> tuple[float, float] | None:
    """Mean m and variance s^2 of the prior N(m, s^2) to which the form belongs; None where it belongs to none.

    A wrong proportion is told from another prior by its constant: the divergence from N(m, s^2) at N(m, 1) is
    `(1/s^2 - 1 + log s^2) / 2` an entry. The value of an entry is seen when the number of latents is doubled; where it
    cannot be, a prior is believed in unless the logarithm is off by a factor of 2, which a prior hardly ever gives.
    """
    form = div.form
    if form is None or form.two_ways or form.mean * form.log <= 0 or abs(form.variance / form.mean - 1) > 0.02:
        return None
    mean, variance = 0.0 - form.shift / form.mean, form.log / form.mean
    variance = 1.0 if abs(variance - 1) < 0.02 else variance
    if mean == 0 and variance == 1:
        return 0.0, 1.0
    if probe.seeds > 1 or probe.layout.square:
        return None
    per_entry = (1 / variance - 1 + float(np.log(variance))) / 2
    try:
        doubled = more_latents(probe.layout)
        here, there = (_at_unit(replace(probe, layout=layout), form) for layout in (probe.layout, doubled))
    except Failed:
        return None if any(abs(variance / factor - 1) < 0.02 for factor in (0.5, 2.0)) else (mean, variance)
    found = (there - here) / (form.log * probe.layout.batch * probe.layout.latents)
    return (mean, variance) if abs(found - per_entry) < 0.02 * max(abs(per_entry), 0.05) else None


def _at_unit(probe: Probe, form: divergence.Form) -> float:
    base = draw_batch(np.random.default_rng(23), probe.layout, probe.domain)
    shape = (probe.layout.batch, *probe.layout.latent)
    return probe.value(
        replace(base, mu=np.full(shape, -form.shift / form.mean), head=form.head.from_log_variance(np.zeros(shape)))
    )


def more_latents(layout: Layout) -> Layout:
    """Twice as many latents."""
    return replace(layout, latent=(2 * layout.latent[0], *layout.latent[1:]))
