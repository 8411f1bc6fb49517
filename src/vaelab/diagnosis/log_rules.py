"""Rules that only a stranger's log needs: scales, a rising KL explained, and what could not be judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..core.finding import Finding
from ..monitoring.trace import Series, Trace
from .log_terms import beginning, has_code, mean_like, rises

NATS = "nats per sample"
RISE = 0.5  # nats by which a KL must rise to be asked about: less is the noise of batches
MADE_UP = 0.02  # with less weight the KL is no heavier beside a mean over fifty dimensions than beside their sum
# Below, the KL is decoration: at a twentieth of its weight a posterior is some four times narrower than the bound's.
HARDLY = 0.05
SUM_LIKE = 10.0  # no mean over dimensions begins here but that of data on a raw scale, whose weight is as small
# What is looked at in which series, by what a reader would miss.
NEEDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("loss",), "divergence and spikes"),
    (("kl", "held_out_kl", "kl_per_dimension", "held_out_kl_per_dimension"), "collapse"),
    (("kl_per_dimension", "held_out_kl_per_dimension"), "active and dominating dimensions"),
    (("reconstruction",), "the balance of the two terms"),
    (("beta",), "the weight of the KL, and its warm-up"),
    (("held_out_loss",), "overfitting"),
    (("posterior_variance", "held_out_posterior_variance"), "exploding and vanishing variances"),
    (("gradient_norm", "update_ratio"), "the length of the steps"),
)


def judge_log(trace: Trace) -> list[Finding]:
    """All findings of the rules here; a rule without its series says nothing."""
    return [finding for rule in RULES for finding in rule(trace)]


def wrong_scale(trace: Trace) -> Iterator[Finding]:
    """A reconstruction far too small for nats per sample, and a KL that was pushed out by it."""
    reconstruction, kl, beta = trace.get("reconstruction"), trace.get("kl"), trace.get("beta")
    if len(reconstruction) < 3 or not len(kl) or not mean_like(reconstruction):
        return
    weight = float(beta.last) if len(beta) else 1.0
    if not has_code(kl) and weight > MADE_UP:
        yield Finding(
            "LG102",
            "warning",
            "wrong scale: the reconstruction is too small beside the KL, and the code is lost",
            beginning(reconstruction),
            f"{NATS} in the reconstruction at the start, below any sum over dimensions",
            evidence=f"the KL ends at {kl.settled():.3g} nats with a weight of {weight:.3g}",
            why="the reconstruction is a mean over dimensions, or a squared error without its variance, and the KL a "
            "sum: the KL weighs as many times too much as there are dimensions",
            advice="sum the reconstruction over the dimensions and take the mean over rows only, as in "
            "binary_cross_entropy(..., reduction='sum') / len(x); or multiply it by the number of dimensions",
            expected="a KL of some nats",
        )


def small_weight(trace: Trace) -> Iterator[Finding]:
    """A KL of next to no weight beside a reconstruction that is a sum, and a code that makes use of it."""
    reconstruction, kl, beta = trace.get("reconstruction"), trace.get("kl"), trace.get("beta")
    if not len(kl) or not len(beta) or beginning(reconstruction) < SUM_LIKE or trace.warmup_ends >= beta.steps[-1] > 0:
        return
    weight, settled = float(beta.last), float(kl.settled())
    if 0 <= weight < HARDLY and settled > 1:
        yield Finding(
            "LG112",
            "warning",
            "the KL hardly enters the loss",
            weight,
            "times the reconstruction's weight",
            evidence=f"the KL ends at {settled:.3g} nats, the reconstruction begins at {beginning(reconstruction):.3g}",
            why="the code costs next to nothing, so the posterior is far from the prior, and samples from the prior "
            "fall where the decoder was never trained",
            advice="a weight of 1 on the KL (per sample: sum over dimensions, mean over rows)",
            expected="the KL falls, the reconstruction rises by less, and samples look like the data",
        )


def rising_kl(trace: Trace) -> Iterator[Finding]:
    """A KL that rises while the reconstruction falls by more is the code filling; one that falls as beta rises too."""
    kl, reconstruction, beta = trace.get("kl"), trace.get("reconstruction"), trace.get("beta")
    if len(kl) < 5 or not np.isfinite(kl.values).all():
        return
    peak, start, end = float(kl.values.max()), float(kl.values[0]), float(kl.settled())
    warmed = len(beta) > 1 and trace.warmup_ends > beta.steps[0] and beta.last > beta.values[0]
    if warmed and peak - end > RISE and kl.steps[int(np.argmax(kl.values))] < trace.warmup_ends:
        yield Finding(
            "LG103",
            "info",
            "the KL rises to a peak and falls again: this is the warm-up",
            peak,
            f"nats at the peak, {end:.3g} at the end",
            evidence=f"the weight of the KL moves until step {trace.warmup_ends}",
            why="while the weight is small the code is cheap; the KL falls to its price as the weight rises",
        )
    elif end - start > RISE and len(reconstruction) and _fall(reconstruction) > end - start:
        yield Finding(
            "LG103",
            "info",
            "the KL rises: the code is filling",
            end - start,
            "nats more than at the start",
            evidence=f"the reconstruction fell by {_fall(reconstruction):.3g} meanwhile",
            why="an untrained encoder says nothing and costs nothing; what it learns to say saves more than it costs",
        )


def _fall(series: Series) -> float:
    return float(series.values[0] - series.settled()) if np.isfinite(series.values[0]) and not rises(series) else 0.0


def not_judged(trace: Trace) -> Iterator[Finding]:
    """What could not be looked at, since the log lacks the series."""
    missing = [(names[0], what) for names, what in NEEDS if not any(trace.has(name) for name in names)]
    if missing:
        yield Finding(
            "LG105",
            "info",
            "not judged, since the log lacks the series: " + "; ".join(f"{what} ({name})" for name, what in missing),
            float(len(missing)),
            f"of {len(NEEDS)} questions",
            advice="log them, or name their tags by a mapping such as kl=train/my_tag",
        )


RULES: tuple[Callable[[Trace], Iterator[Finding]], ...] = (wrong_scale, small_weight, rising_kl, not_judged)
