"""Rules about the latent code: collapse and its causes, domination, variances, dead units, codebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.finding import Finding
from .readings import FAST, FEW_POINTS, NATS, beta, fastest, full_beta, last, lower_rate, ratio_words, remedy
from .trace import Trace

NOTHING = 0.03  # nats in a dimension: a correlation of a quarter, which hardly any decoder gains from
NEXT_TO_NOTHING = 0.1  # nats in all: rows cannot be told apart by that
FULL_WEIGHT = 0.99  # share of its final value from which beta counts as arrived
HIGH_BETA = 1.5  # a weight above 1 buys a lower rate; below this the price is small
LOW_BETA = 0.5  # below half its weight the divergence no longer keeps q(z) at the prior
DOMINATING = 0.9  # share of the whole KL in one dimension
MANY_NATS = 3.0  # and nats there: one of twenty kinds; less is what a single weak factor carries
EXPLODED = 10.0  # the prior's variance is 1: a posterior ten times as wide says that the code is meaningless noise
VANISHED = 1e-4  # a posterior a hundred times narrower than the prior costs 4 nats a dimension: a plain autoencoder


def collapse(trace: Trace) -> Iterator[Finding]:
    """Next to no nats in any dimension once beta has its full weight; while beta is small a low KL is no collapse."""
    per_dimension, whole = _kl(trace)
    if whole is None or beta(trace) < FULL_WEIGHT * full_beta(trace) or _too_soon(trace):
        return
    carried = float(np.max(per_dimension)) if per_dimension is not None else whole
    if not (carried <= NOTHING and whole <= NEXT_TO_NOTHING):  # NaN is no collapse
        return
    for applies, code, why, edit, words in COLLAPSES:
        if applies(trace):
            yield Finding(
                code,
                "error",
                f"posterior collapse: {why[0]}",
                whole,
                NATS,
                evidence=f"KL(q(z|x) || p(z)); the largest dimension has {carried:.2g} nats, beta is {beta(trace):.3g}"
                + ratio_words(trace),
                why=why[1],
                **remedy(trace, edit(trace), words),
                expected="a KL of some nats, with dimensions above 0.01",
            )
            return


def _too_soon(trace: Trace) -> bool:
    """Whether beta still rises, or so little is known that a KL that is small at first could not have risen."""
    weights, points = trace.get("beta").values, trace.get("held_out_kl", "kl", "kl_per_dimension")
    rising = len(weights) > 1 and weights[-1] > 1.001 * weights[-1 - max(1, len(weights) // 10)]
    return trace.last_step < trace.warmup_ends or (not trace.ours and (len(points) < FEW_POINTS or bool(rising)))


def _few_rows(trace: Trace) -> bool:
    """Whether there are held-out rows, and too few to tell a variance."""
    rows = trace.get("held_out_rows")
    return len(rows) > 0 and bool(rows.last < FEW_ROWS)


def _kl(trace: Trace) -> tuple[Any, float | None]:
    """KL of each dimension, where known, and the whole, over the last points; held-out where there is that."""
    dims = trace.get("held_out_kl_per_dimension", "kl_per_dimension")
    whole = trace.get("held_out_kl", "kl")
    per_dimension = dims.settled() if len(dims) else None
    if len(whole):
        return per_dimension, float(whole.settled())
    return per_dimension, None if per_dimension is None else float(np.sum(per_dimension))


def _strong_decoder(trace: Trace) -> bool:
    """Better than any decoder without z: whatever is known of a row then comes from the row itself."""
    held, error = trace.get("held_out_loss"), last(trace.get("held_out_error"))
    return trace.baseline is not None and len(held) > 0 and held.settled() < trace.baseline - max(5 * error, 0.02)


def _annealed(trace: Trace) -> dict[str, Any]:
    steps = trace.total or int(trace.last_step)
    if trace.settings.get("objective.anneal", "constant") == "constant":
        return {"objective.anneal": "linear", "objective.warmup_steps": max(1, steps // 3)}
    return {"objective.free_bits": 0.1, "objective.anneal": "constant", "objective.warmup_steps": 0}


COLLAPSES: tuple[tuple[Callable[[Trace], bool], str, tuple[str, str], Callable[[Trace], Any], str], ...] = (
    (
        _strong_decoder,
        "TR122",
        (
            "the decoder is so strong that it needs no code",
            "the decoder models the row by itself, so that z costs more than it tells",
        ),
        lambda trace: {"objective.free_bits": 0.2},
        "a weaker decoder (less context, word dropout), free bits of 0.2 nats a dimension, or a slow warm-up of beta",
    ),
    (
        lambda trace: fastest(trace) > FAST or float(trace.settings.get("train.learning_rate") or 0) >= 1e-2,
        "TR123",
        (
            "the learning rate is too high",
            "long first steps drive the encoder where its gradient is gone, and it stays there",
        ),
        lambda trace: lower_rate(trace)["edit"] if trace.ours else {},
        "a tenth of the learning rate, and a warm-up of it",
    ),
    (
        lambda trace: beta(trace) >= HIGH_BETA,
        "TR121",
        (
            "beta is too high",
            "each nat of the code is charged beta times, which is more than it saves in reconstruction",
        ),
        lambda trace: {"objective.beta": 1.0},
        "a weight of 1 on the KL (per sample: sum over dimensions, mean over rows)",
    ),
    (
        lambda trace: True,
        "TR101",
        (
            "the latent code carries no information",
            "ignoring z serves the bound best, or did in the first steps: the decoder's noise is large, "
            "the start was cold, or the data is noise",
        ),
        _annealed,
        "a warm-up of beta over a third of the steps, or free bits of 0.1 nats a dimension",
    ),
)


def dominating(trace: Trace) -> Iterator[Finding]:
    """Nearly the whole KL in one of several dimensions, and more of it than a code of meaning needs."""
    dims, whole = _kl(trace)
    if dims is None or len(dims) < 3 or not whole or not np.isfinite(dims).all():
        return
    if trace.settings.get("model.groups"):  # a group holds what many dimensions do
        return
    first = int(np.argmax(dims))
    scaled = trace.settings.get("data.scale") in ("auto", "standardize")  # then one factor is what the data have
    if dims[first] > DOMINATING * whole and dims[first] > MANY_NATS and not scaled:
        yield Finding(
            "TR127",
            "warning",
            f"one latent dimension dominates: z{first + 1} holds nearly the whole KL",
            100 * float(dims[first] / whole),
            f"% of {whole:.3g} nats, in one of {len(dims)} dimensions",
            why="one direction of the data is far larger than all others, such as a column that is not scaled",
            **remedy(trace, {"data.scale": "standardize"}, "standardise the columns of the data"),
            expected="a KL spread over several dimensions",
        )


def variances(trace: Trace) -> Iterator[Finding]:
    spread = trace.get("held_out_posterior_variance", "posterior_variance")
    if not len(spread):
        return
    values = spread.settled()
    values = values[np.isfinite(values)]
    if not len(values):
        return
    if (widest := float(values.max())) > EXPLODED:
        yield Finding(
            "TR128",
            "warning",
            "the posterior variance explodes",
            widest,
            "times the prior's, in the widest dimension",
            why="nothing keeps q(z|x) near the prior: beta is too small, the KL's sign is wrong, or the rate is high",
            **(
                remedy(trace, {"objective.beta": 1.0}, "beta = 1, and clamp the log-variance")
                if beta(trace) < LOW_BETA
                else lower_rate(trace)
            ),
            expected="posterior variances between 0 and 1",
        )
    if (widest < VANISHED) and len(values):
        yield Finding(
            "TR129",
            "warning",
            "the posterior variance vanishes: this is a plain autoencoder",
            widest,
            "times the prior's, in the widest dimension",
            why="the KL hardly counts beside so large a reconstruction: beta or the decoder's noise is too small",
            **remedy(
                trace,
                {"objective.beta": 1.0} if beta(trace) < LOW_BETA else {"likelihood.noise": "shared"},
                "beta = 1, data scaled to order one, and a learned noise of the decoder",
            ),
            expected="posterior variances between 0.001 and 1",
        )


ELSEWHERE = 0.25  # share of the KL, and more than half a nat: what q(z) costs by being elsewhere than the prior


def holes(trace: Trace) -> Iterator[Finding]:
    """KL(N(0, s) || N(0, 1)) at the variances s of q(z): a part of the KL that says nothing about a row."""
    names = ("held_out_mean_variance", "mean_variance"), ("held_out_posterior_variance", "posterior_variance")
    means, spread = (trace.get(*pair) for pair in names)
    kl = _kl(trace)[1]
    if trace.ours or not len(means) or not len(spread) or kl is None or _few_rows(trace):
        return
    whole = means.settled() + spread.settled()
    spent = float(np.sum(0.5 * (whole - 1 - np.log(np.maximum(whole, 1e-30)))))
    small = beta(trace) < LOW_BETA
    if spent > 0.5 and (small or spent > ELSEWHERE * kl):  # at a small weight the KL itself is no measure
        yield Finding(
            "TR119" if small else "TR110",
            "warning",
            "beta is too small: the codes of the data leave the prior, and samples fall into holes"
            if small
            else "the codes of the data lie elsewhere than the prior: samples from the prior will differ from the data",
            spent,
            NATS,
            evidence=f"KL from N(0, 1) of normals with the codes' variances; the whole KL is {kl:.3g}",
            why="little holds q(z) at the prior, from which samples are drawn",
            advice="a weight of 1 on the KL (per sample: sum over dimensions, mean over rows), or longer training",
            expected="below a tenth of the KL",
        )


DEAD = 0.5  # half of a layer's units can be dead in a healthy rectified network; more of all units waste it
SATURATED = 0.9  # of all outputs; gates of a recurrent network sit at their ends by half


def units(trace: Trace) -> Iterator[Finding]:
    """Units that answer every row alike; where single steps tore the weights apart, that is what killed them."""
    wild = fastest(trace) > FAST
    for role, most, code, title, words in (
        ("dead_units", DEAD, "TR125", "most rectified units are dead", "SiLU or leaky ReLU, and a lower learning rate"),
        ("saturated_units", SATURATED, "TR135", "most bounded units are saturated", "SiLU, or smaller first weights"),
    ):
        series = trace.get(role)
        if len(series) and (share := float(series.settled())) > most:
            yield Finding(
                "TR120" if wild else code,
                "warning",
                f"the learning rate is too high: {title}" if wild else title,
                100 * share,
                "% of them, at the last look",
                evidence=ratio_words(trace).removeprefix("; "),
                why="they answer every row alike and get no gradient",
                **(lower_rate(trace) if wild else remedy(trace, {"model.activation": "silu"}, words)),
                expected="units that differ between rows",
            )


FEW_ROWS = 10  # held-out rows, from which no variance can be told
SAME = 1e-8  # variance over rows, of codes whose prior has 1: rounding errors


def same_code(trace: Trace) -> Iterator[Finding]:
    """A rate of some nats, though the posterior mean is the same for every row."""
    variance = trace.get("held_out_mean_variance", "mean_variance")
    whole, wild = _kl(trace)[1], fastest(trace) > FAST
    if not len(variance) or whole is None or _few_rows(trace):
        return
    if whole > 1 and (largest := float(np.max(variance.settled()))) < SAME:
        yield Finding(
            "TR120" if wild else "TR139",
            "error",
            "the learning rate is too high: " * wild + "the encoder gives every row the same code",
            largest,
            "variance of the posterior mean over rows, in the widest dimension",
            evidence=f"the KL is {whole:.3g} nats, and none of them tells rows apart{ratio_words(trace)}",
            why="units of the encoder are dead or saturated on every row",
            **remedy(trace, lower_rate(trace)["edit"] if trace.ours else {}, "scale the data, SiLU, and a lower rate"),
            expected="posterior means that differ between rows",
        )


AT_ENDS = 0.6  # of the rows; a uniform code has 10 % there, a normal one 2 %


def saturated_codes(trace: Trace) -> Iterator[Finding]:
    """Posterior means at the two ends of their range in most dimensions that vary."""
    ends, variance = trace.get("means_at_ends"), trace.get("mean_variance")
    if not len(ends) or not len(variance):
        return
    used = ends.settled()[variance.settled() > NOTHING]
    if len(used) and (share := float(np.median(used))) > AT_ENDS:
        yield Finding(
            "TR136",
            "warning",
            "codes are saturated: they sit at the two ends of their range, like entries of a codebook",
            share,
            "share of rows, in the middle dimension in use",
            why="the encoder's output is bounded or has grown until it saturates, and its gradient is gone there",
            advice="leave the posterior mean unbounded (no tanh or sigmoid on it), and lower the learning rate",
            expected="posterior means spread like the prior",
        )


FEW_CODES = 0.1  # share of the codebook in use, below which it is far too large or its codes have died


def codes(trace: Trace) -> Iterator[Finding]:
    used = trace.get("codes_used")
    if len(used) and (share := float(used.settled())) < FEW_CODES:
        yield Finding(
            "TR140",
            "warning",
            "codebook collapse: few codes are in use",
            100 * share,
            "% of the codes",
            why="codes far from every row are never chosen and so never moved",
            advice="move dead codes onto rows, update the codebook by moving averages, or make it smaller",
            expected="most of the codes in use",
        )
