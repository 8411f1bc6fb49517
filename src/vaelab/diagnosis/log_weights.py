"""The weight of the KL as a logged loss has it, and the scale of the two terms; see `log_terms` for the fit.

A mean over dimensions beside a KL of small weight is the bound divided by that: r + w KL = w (r / w + KL). So a weight
says nothing before the scale of the reconstruction is known, and the scale is mended with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..core.finding import Finding
from ..monitoring.trace import Series
from .log_terms import (
    EXACT,
    Weights,
    fit_weights,
    fitted_weights,
    has_code,
    is_negative,
    mean_like,
    near,
    rises,
    rising_weight,
    warmup_end,
)

SMALL = 0.5  # below half, a weight beside a mean over dimensions is meant to make up for the mean
NEEDED = ("loss", "reconstruction", "kl")


def mend_weights(series: dict[str, Series]) -> Iterator[Finding]:
    """Says the weight of the KL, brings the terms to one scale by it, and puts in a beta that was not logged."""
    if not all(name in series for name in NEEDED):
        return
    if (fit := wrong_sign(series)) is not None:
        for role in set(series) & {"reconstruction", "kl", "held_out_loss", "held_out_reconstruction", "held_out_kl"}:
            del series[role]  # the terms of such a loss are no curves to judge
        yield _subtracted(fit)
        return
    yield from _mend_likelihood(series)
    loss, reconstruction, kl = (series[name] for name in NEEDED)
    beta, plain = series.get("beta"), fitted_weights(series)
    weighted = fit_weights(loss, reconstruction, kl, beta) if beta is not None else None
    if weighted is not None and weighted.exact:
        yield from _logged(series, weighted)
    elif plain is not None and plain.exact:
        yield from _unlogged(series, plain) if beta is None else _without_effect(plain, beta)
    elif beta is None and (rise := rising_weight(loss, reconstruction, kl)) is not None:
        series["beta"] = rise
        yield Finding(
            "LG101",
            "info",
            "the weight of the KL rises: a warm-up that was not logged",
            float(rise.last),
            f"at the end, from {rise.values[0]:.3g}; it moves until step {warmup_end(rise)}",
            evidence="(loss - reconstruction) / KL, step by step",
        )
    elif plain is not None:
        yield _unknown(plain)


def wrong_sign(series: Mapping[str, Series]) -> Weights | None:
    """The fit of a loss that falls as the KL grows: one that is subtracted, or below 0 and added."""
    fit = fitted_weights(series)
    if fit is None or fit.residual >= EXACT or abs(fit.b) <= fit.b_error or fit.a + fit.a_error < 0:
        return None
    sign = -1 if is_negative(series["kl"]) else 1
    grows = rises(Series(series["kl"].steps, np.abs(series["kl"].values)))
    return fit if sign * fit.b < 0 and grows and not rises(series["loss"]) else None


def _subtracted(fit: Weights) -> Finding:
    return Finding(
        "LG111",
        "error",
        "the KL enters the loss with the wrong sign",
        -abs(fit.b),
        "weight of the KL in the loss",
        fit.b_error,
        _sum_text(fit),
        "the loss falls as the KL grows without bound: -0.5 sum(1 + log var - mu^2 - var) has lost its minus sign, or "
        "the KL is subtracted",
        "add the KL to the loss, with the sign that makes it positive",
        expected="the KL stays finite and the posterior near the prior",
    )


def _mend_likelihood(series: dict[str, Series]) -> Iterator[Finding]:
    """A reconstruction that the loss subtracts is a log-likelihood."""
    fit = fitted_weights(series)
    if fit is not None and fit.exact and fit.a < 0:
        for role in ("reconstruction", "held_out_reconstruction"):
            _scale(series, role, -1.0)
        yield Finding(
            "LG107",
            "info",
            "the reconstruction is a log-likelihood, which the loss subtracts: it is turned round",
            fit.a,
            "times it in the loss",
            fit.a_error,
            _sum_text(fit),
        )


def _logged(series: dict[str, Series], fit: Weights) -> Iterator[Finding]:
    beta, ratio = series["beta"], fit.b / fit.a
    factor, done = _one_scale(series, fit, float(beta.last))
    yield from done
    series["beta"] = Series(beta.steps, factor * beta.values)
    other = "" if near(ratio, 1.0) else ", times a factor"
    title = f"the KL enters the loss with the weight that is logged{other}"
    yield Finding(
        "LG101", "info", title, ratio, "times the logged weight", fit.b_error / abs(fit.a), _sum_text(fit, "beta ")
    )


def _unlogged(series: dict[str, Series], fit: Weights) -> Iterator[Finding]:
    weight, done = _one_scale(series, fit, 1.0)
    kl = series["kl"]
    series["beta"] = Series(kl.steps, np.full(len(kl), weight))
    yield from (_read(fit), *done)


def _read(fit: Weights) -> Finding:
    return Finding(
        "LG101",
        "info",
        "the weight of the KL, read from the loss",
        fit.b / fit.a,
        "times the reconstruction's weight",
        fit.b_error / abs(fit.a),
        _sum_text(fit),
        "no weight is logged; if the reconstruction is a mean over D dimensions, beside a sum it is D times this",
    )


def _without_effect(fit: Weights, beta: Series) -> Iterator[Finding]:
    if abs(fit.b) <= fit.b_error and not np.nanmax(np.abs(beta.values)):
        return  # a weight of 0 was logged, and one of 0 was found
    yield Finding(
        "LG101",
        "info",
        "the loss adds the logged KL without the logged weight",
        fit.b / fit.a,
        "times the reconstruction's weight",
        fit.b_error / abs(fit.a),
        _sum_text(fit),
        "the logged KL already holds its weight, or the weight is not applied",
        "log the KL without its weight",
    )


def _unknown(fit: Weights) -> Finding:
    together = fit.residual < EXACT
    return Finding(
        "LG101",
        "info",
        "the weight of the KL cannot be read from the loss" + (": its terms move together" if together else ""),
        fit.b_error if together else fit.residual,
        "half-width of its 95 % interval" if together else "of the loss's spread is no weighted sum of its terms",
        evidence=_sum_text(fit),
        why="" if together else "the loss has a further term, or the three were not taken over the same rows",
        advice="log the weight of the KL as well",
    )


def _one_scale(series: dict[str, Series], fit: Weights, beta: float) -> tuple[float, list[Finding]]:
    """Brings loss and reconstruction to the scale on which they stand beside a KL in nats per sample.

    Returns:
        The factor of the logged weight from now on, and what was done.
    """
    full = fit.b * beta
    scales = {"reconstruction": 1.0, "loss": 1 / fit.a}
    if mean_like(series["reconstruction"]) and has_code(series["kl"]) and 0 < full / fit.a < SMALL:
        scales = {"reconstruction": fit.a / full, "loss": 1 / full}
    elif near(fit.b, 1.0):
        scales = {"reconstruction": fit.a, "loss": 1.0}
    changed = {name: scale for name, scale in scales.items() if not near(scale, 1.0)}
    for name, scale in changed.items():
        _scale(series, name, scale)
        _scale(series, f"held_out_{name}", scale)
    weight = fit.b / fit.a * changed.get("reconstruction", 1.0)
    return weight, [_rescaled(changed, fit)] if changed else []


def _rescaled(changed: Mapping[str, float], fit: Weights) -> Finding:
    factors = ", ".join(f"the {name} times {scale:.4g}" for name, scale in changed.items())
    return Finding(
        "LG106",
        "info",
        f"read on the scale of a bound: {factors}",
        next(iter(changed.values())),
        "times what is logged",
        evidence=_sum_text(fit),
        why="a mean over dimensions or a squared error enters the loss with a factor, or the loss is a sum over rows; "
        "the rules compare the terms as they stand beside a KL in nats per sample",
    )


def _scale(series: dict[str, Series], role: str, scale: float) -> None:
    if role in series:
        series[role] = Series(series[role].steps, scale * series[role].values)


def _sum_text(fit: Weights, beta: str = "") -> str:
    return (
        f"loss = ({fit.a:.4g} ± {fit.a_error:.1g}) reconstruction + ({fit.b:.4g} ± {fit.b_error:.1g}) {beta}KL + "
        f"const, least squares over {fit.points} steps, {fit.residual:.1g} of the loss's spread left"
    )
