"""Judgements on the two terms: which likelihood, which divergence, with which sign."""

from __future__ import annotations

import numpy as np

from ..core.finding import Finding
from .case import Case, near
from .codes import finding
from .measured import Measured
from .roles import words


def reconstruction(case: Case) -> list[Finding]:
    rec = case.m.reconstruction
    roles = case.m.probe.binding.roles
    if "output" not in roles:
        return []
    if not rec.moves[1]:
        return [
            finding(
                "RE007",
                "error",
                "the decoder's output does not move the loss",
                measured=0.0,
                unit="change of the loss",
                evidence="three made-up outputs, everything else held still",
                why="there is no reconstruction term",
                advice="add the negative log-likelihood of x given the output",
            )
        ]
    if rec.family is None and case.m.interaction > 1e-3:
        return []  # a term of both, which another finding names
    if rec.family is None and rec.mixed:
        return [
            finding(
                "RE008",
                "error",
                "one row's data meets another row's output",
                measured=float(case.m.probe.layout.batch),
                unit="outputs meet each row",
                evidence="second difference in the first row's data and the second row's output",
                why="shapes that do not match were broadcast against each other, or the batch was reduced too early",
                advice="print both shapes: x and output must be the same, [B, ...]",
            )
        ]
    if rec.family is None and rec.falls:
        return [
            finding(
                "RE007",
                "error",
                "unbounded below",
                measured=rec.falls,
                unit="lower is the loss at an output of 900 than at 1",
                evidence="outputs of 1, 30 and 900, everything else held still",
                why="an output without end costs less and less, so there is no best one",
                advice="check the signs and logarithms of the term: a negative log-likelihood has a smallest value",
            )
        ]
    if rec.family is None:
        return [
            finding(
                "RE007",
                "info" if rec.separable else "warning",
                "no family known here explains the reconstruction term",
                measured=rec.residual,
                unit="of its spread is left unexplained by the best one",
                evidence="a sum over rows and entries" if rec.separable else "entries of a row act on each other",
                why="effective beta has a meaning only beside a negative log-likelihood",
                advice="make sure that it is one, with the constants that depend on the output",
            )
        ]
    ignored = sum(w == 0 for w in rec.columns)
    if ignored:
        return [
            finding(
                "RE008",
                "warning" if ignored > len(rec.columns) / 2 else "info",
                "entries of x that weigh nothing",
                measured=float(ignored),
                unit=f"of {len(rec.columns)} entries",
                evidence="the weight of every entry, by least squares",
                why="a mask, or an index that takes one entry for all",
                advice="meant as a mask: nothing; otherwise look for an index such as x[:, 0]",
            )
        ]
    if rec.family.wrong:
        return [
            finding(
                rec.family.wrong,
                "error",
                rec.family.detail,
                measured=rec.weight * case.m.probe.layout.batch,
                unit=f"x {rec.family.name} is the term",
                evidence=f"least squares; {rec.residual:.1g} of its spread is left unexplained",
                why="what is minimised is no likelihood of the data given the output",
                advice=ADVICE[rec.family.wrong],
            )
        ]
    return []


ADVICE = {
    "RE002": "one sigmoid in all: binary_cross_entropy_with_logits on raw outputs, or binary_cross_entropy on sigmoids",
    "RE004": "swap the two arguments: F.binary_cross_entropy(output, x), keras.losses.binary_crossentropy(x, output)",
    "RE007": "use F.mse_loss(output, x, reduction='sum') / len(x), or another negative log-likelihood",
}


def named_wrong(case: Case) -> list[Finding]:
    """A parameter that calls itself logits and is read as probabilities, or the other way round."""
    rec, name = case.m.reconstruction, case.m.probe.binding.names.get("output", "")
    called = set(words(name)) | {"".join(words(name))}
    logits = any("logit" in word for word in called)
    probabilities = bool(called & {"prob", "probs", "probability", "probabilities", "sigmoid"})
    family = rec.family.name if rec.family else ""
    wrong = (logits and family.endswith("on probabilities")) or (probabilities and family.endswith("on logits"))
    if not wrong or (rec.family and rec.family.wrong):
        return []
    return [
        finding(
            "RE002",
            "error",
            f"{name!r} is read as {family.split(' on ')[1]}",
            measured=rec.weight * case.m.probe.layout.batch,
            unit=f"x {family} is the term",
            evidence=f"least squares; {rec.residual:.1g} of its spread is left unexplained",
            why="the parameter's name promises the other one",
            advice=ADVICE["RE002"],
        )
    ]


def _is_bound(name: str) -> bool:
    """Whether a callable, or the part of its result that is taken, calls itself a bound and no loss."""
    last = [word for part in name.split(" ") for word in words(part.rsplit(".", 1)[-1])]
    bound = {"elbo", "bound", "likelihood", "evidence", "loglikelihood"} & set(last)
    return bool(bound) and not {"loss", "neg", "negative", "nll", "nelbo", "cost", "minus"} & set(last)


def signs(case: Case) -> list[Finding]:
    rec, div = case.m.reconstruction, case.m.divergence
    if case.upside_down and _is_bound(case.name):
        return [
            finding(
                "UN002",
                "info",
                "the value is the bound itself, to be maximised",
                measured=-div.weight / -rec.weight,
                unit="beta",
                evidence="both terms have a negative weight",
                why="an optimiser minimises",
                advice="minimise its negative",
            )
        ]
    found = []
    both = (
        "minimise the negative: both terms have the wrong sign, so this is the bound itself" if case.upside_down else ""
    )
    if rec.weight < 0:
        found.append(
            finding(
                "RE005",
                "error",
                measured=rec.weight * case.m.probe.layout.batch,
                unit="times the negative log-likelihood",
                evidence=f"slope of the loss in {rec.name}",
                why="minimising it makes the reconstruction worse",
                advice=both or "change the sign of the reconstruction term",
            )
        )
    if div.weight < -1e-9 * max(abs(s) for s in (*div.parts, 0.0)):
        found.append(
            finding(
                "KL002",
                "error",
                "unbounded below",
                measured=div.weight * case.m.probe.layout.batch,
                unit="times the divergence",
                evidence="slope of the loss in the closed form",
                why="minimising it drives the posterior away from the prior without end",
                advice=both or "use -0.5 * (1 + log_var - mu**2 - log_var.exp()), added",
            )
        )
    return found


def divergence(case: Case) -> list[Finding]:
    m, roles = case.m, case.m.probe.binding.roles
    if "mu" not in roles and "head" not in roles:
        return [_only_z(case)] if "z" in roles else []
    if m.divergence.shape == "flat" and not any(m.divergence.moves):
        return [] if case.declared == 0 else [_no_effect(m)]
    if m.divergence.shape == "sampled":
        return []
    if m.divergence.form is None:
        return [
            finding(
                "KL005",
                "error",
                "no known form",
                measured=m.divergence.residual,
                unit="of its spread is left unexplained by the best form",
                evidence="least squares on mu^2, variance and log-variance under every reading of the head",
                why="it is no divergence of a diagonal Gaussian from a Gaussian prior",
                advice="use -0.5 * (1 + log_var - mu**2 - log_var.exp()), summed over latents",
            )
        ]
    return proportions(case) or _name_of_head(case)


def _only_z(case: Case) -> Finding:
    return finding(
        "UN002",
        "warning",
        "there is no divergence of the posterior, only a term in z",
        measured=float("nan"),
        unit="effective beta",
        evidence="the loss takes z, and neither a mean nor a second head",
        why="a discrepancy between draws is no divergence of q(z|x) from the prior, so this is no bound",
        advice="call it a regularised autoencoder, or give the loss mu and the head",
    )


def _no_effect(m: Measured) -> Finding:
    name, (value, other) = next(iter(m.revived.items()), ("", (0.0, 0.0)))
    why = (
        f"{name} = {value:g} switches it off; at {name} = {other:g} it moves the loss"
        if name
        else "it is clamped to a constant, weighed by zero, or left out"
    )
    fix = (
        f"pass {name} above {value:g}, or take {name} away"
        if name
        else "add the divergence, -0.5 * (1 + log_var - mu**2 - log_var.exp()) summed over latents"
    )
    return finding(
        "KL001",
        "error",
        "the divergence never moves the loss",
        measured=0.0,
        unit="nats of change over divergences from 0.02 to 1000 nats an entry",
        evidence="mu and the head moved, everything else held still",
        why=why,
        advice=fix,
    )


def proportions(case: Case) -> list[Finding]:
    """The three terms weigh the same, unless the prior has another variance and the constant that goes with it."""
    m, form = case.m, case.m.divergence.form
    assert form is not None
    if "head" not in m.probe.binding.roles:
        return []
    mean, variance, logarithm = form.mean, form.variance, form.log
    equal = near(mean, variance, case.tolerance) and near(variance, logarithm, case.tolerance)
    if equal and not form.two_ways and (form.shift == 0 or m.prior is not None):
        return []
    if near(mean, variance, case.tolerance) and not form.two_ways and mean * logarithm > 0 and m.prior is not None:
        return []
    batch = m.probe.layout.batch
    shown = (mean * batch, variance * batch, logarithm * batch)
    shares = "weights of mu^2/2, variance/2 and -log-variance/2: {:.4g}, {:.4g}, {:.4g}".format(*shown)
    shares += f", the head read as {form.head.name}"
    return [*_two_ways(case, shares), _out_of_proportion(case, shares)]


def _two_ways(case: Case, shares: str) -> list[Finding]:
    form = case.m.divergence.form
    assert form is not None
    ratio = abs(form.log / form.variance) if form.variance else 0.0
    doubled = any(near(ratio, r, case.tolerance) for r in (0.5, 2.0)) and near(form.mean, form.variance, case.tolerance)
    if not (form.two_ways or doubled):
        return []
    return [
        finding(
            "KL006",
            "error",
            measured=ratio,
            unit="times the logarithm that belongs to the variance term",
            evidence=shares,
            why=f"one term reads the head as {form.head.name}, the other as something else",
            advice="choose one reading: with log_var the variance is log_var.exp() and the logarithm log_var",
        )
    ]


def _out_of_proportion(case: Case, shares: str) -> Finding:
    """What is missing or too heavy, with the number that shows it."""
    form = case.m.divergence.form
    assert form is not None
    parts = {"mu^2": form.mean, "the variance": form.variance, "the log-variance": form.log}
    missing = [word for word, share in parts.items() if share == 0]
    why = "the three terms of the divergence are not in proportion 1 : 1 : 1"
    advice = "use -0.5 * (1 + log_var - mu**2 - log_var.exp()), summed over latents"
    if form.shift and not missing:
        detail, measured = "its minimum is not at the prior", -form.shift / form.mean
        unit = "is the mean at its minimum, for a prior of 0"
    elif missing:
        detail, measured, unit = f"the term in {' and '.join(missing)} is missing", 0.0, "times its share is there"
    elif near(form.variance, form.log, case.tolerance) and not form.two_ways:
        detail, measured = "mu^2 weighs unlike the variance terms", form.mean / form.variance
        unit = "times the weight of the variance terms"
    elif form.two_ways or form.log * form.variance < 0:
        detail, measured, unit = (
            "its terms do not belong together",
            form.mean / form.variance,
            "times the weight of the variance",
        )
    else:
        detail, measured = "its minimum is not at the prior", form.log / form.variance
        unit = "is the variance at its minimum, for a prior of 1"
    return finding("KL005", "error", detail, measured=measured, unit=unit, evidence=shares, why=why, advice=advice)


def _name_of_head(case: Case) -> list[Finding]:
    """The reading that the parameter's name promises, against the one that the formula has."""
    form, name = case.m.divergence.form, case.m.probe.binding.names.get("head", "")
    assert form is not None
    called = "".join(words(name))
    log_named = bool(words(name)) and ("log" in called or called.endswith("lv"))
    positive = form.head.name in ("std", "variance")
    if not name or "head" not in case.m.probe.binding.roles:
        return []
    if log_named and positive:
        lowest = 1.0  # log-variance at the minimum of the formula: the head is 1 there
        return [
            finding(
                "KL005",
                "error",
                f"{name!r} is read as a {form.head.name}",
                measured=np.exp(lowest),
                unit="is the variance at its minimum, for a prior of 1",
                evidence=f"the formula is exact for a head that is the {form.head.name}",
                why="a logarithm, which may be negative, is used as if it were positive",
                advice=f"use {name}.exp() for the variance",
            )
        ]
    squares = ("std" in called or "dev" in called) and not log_named and form.head.name == "variance"
    squares |= "var" in called and not log_named and form.head.name == "std"
    other = (log_named and "var" in called and form.head.name == "log-std") or (
        log_named
        and ("std" in called or "sigma" in called)
        and "2" not in called
        and "sq" not in called
        and form.head.name == "log-variance"
    )
    other |= (
        not log_named
        and any(w in called for w in ("std", "sigma", "var", "scale"))
        and form.head.name.startswith("log-")
    )
    if not (squares or other):
        return []
    return [
        finding(
            "KL006",
            "warning" if squares else "info",
            f"{name!r} is read as {form.head.name}",
            measured=1.0,
            unit="times the exact divergence of that reading",
            evidence="least squares under every reading of the head",
            why="the name suggests another reading; the sampler must use this one",
            advice=f"draw z with the {form.head.name}, and rename {name!r}",
        )
    ]


def bends(case: Case) -> list[Finding]:
    div = case.m.divergence
    if div.form is None or div.shape in ("linear", "flat"):
        return []
    slopes = [slope * case.m.probe.layout.batch for slope in div.slopes]
    seen = (
        f"weights at 0.02, 1, 40 and 1000 nats an entry: {', '.join(f'{s:.4g}' for s in slopes)} (nan: it bends there)"
    )
    known = [s for s in slopes if not np.isnan(s)]
    if case.m.interaction > 1e-3:
        return []
    if div.shape == "bent" and (not known or max(known) - min(known) > 0.02 * max(map(abs, known))):
        return [
            finding(
                "KL005",
                "error",
                "its weight moves with its size",
                measured=slopes[-1] / slopes[0] if slopes[0] else slopes[-1],
                unit="times the weight at 0.02 nats, at 1000 nats an entry",
                evidence=seen,
                why="the divergence enters through a curve, so no beta describes the loss",
                advice="add the divergence itself, times beta",
            )
        ]
    words_of = {
        "floor": "divergences below it cost nothing (free bits)",
        "cap": "divergences above it cost nothing more",
        "capacity": "the divergence is held at a target",
        "bent": "single entries are bent near half a nat",
    }
    where = f"nats per {div.per}" if div.threshold is not None else "nats per entry, roughly"
    return [
        finding(
            "KL007",
            "info",
            words_of[div.shape],
            measured=float(f"{div.threshold:.3g}") if div.threshold is not None else 0.5,
            unit=where,
            evidence=seen,
            why="below or above the threshold the divergence has no gradient",
            advice="meant so: nothing; otherwise take the clamp away",
        )
    ]
