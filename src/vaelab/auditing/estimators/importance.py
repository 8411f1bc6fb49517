"""Audits an importance-weighted objective: is it the K-sample bound, and does the best sample weigh the most?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ...core.errors import BadInput
from ...core.finding import SEVERITIES, Finding, Severity
from .. import roles
from ..codes import finding
from ..report import AuditReport, sorted_findings
from .calls import DRAWS, Call, Rules, bind, guess_draws, squeezed
from .exact import LOG_2PI, own_randomness
from .samples import from_model, from_pieces
from .terms import TERMS, from_terms
from .weights import BATCH, BOUND, ELBO, PIXELS, SAMPLES, VALUES, Form, Reading, read_value, recognise, softmax

_TERM_NAMES: Rules = {
    role: frozenset(names.split())
    for role, names in {
        "log_w": """logw logweights logweight logiw logiws lw logimportanceweights logimportanceweight logratio
            logratios persampleelbo elbos elbosamples logwxz logws logwi logunnormalizedweights logwk iwlogweights""",
        "log_px": """logpx logpxgivenz logpxz logpxzs lpx lpxz lpxgz logpxgz loglik loglikelihood logprobx recll
            logpygivenz""",
        "log_joint": "logp logjoint logpjoint logprobjoint lpjoint",
        "log_pz": "logpz logpzs lpz logprior logprobz priorlogprob priorll logpriorz",
        "log_qz": "logqz logqzx logqzgivenx lqzx lqz logposterior logq logvariational logqzxs lqzgx logqzgx",
        "nll": "reconloss reconstloss reconstructionloss nll recloss negloglik recerror",
        "kl": "kl kld klloss klz kldloss kldivergence",
    }.items()
}
ROLES = frozenset(TERMS) | frozenset(DRAWS) | {"x", "output", "mu", "head", "z", "beta"}
_DECLARED = re.compile(r"iw|import|multi_?sample")


def guess(name: str) -> str | None:
    """The role of an objective's parameter by its name, or None.

    Example:
        >>> [guess(n) for n in ("log_w", "log_qz", "recon_x", "mu", "logvar", "z", "num_samples", "model")]
        ['log_w', 'log_qz', 'output', 'mu', 'head', 'z', 'samples', 'model']
    """
    term = next((role for role, names in _TERM_NAMES.items() if squeezed(name) in names), None)
    draws = guess_draws(name)
    if term or draws in ("samples", "model", "encode", "decode", "device"):
        return term or draws
    return "beta" if roles.is_beta(name) else roles.guess(name) or draws


def is_importance(fn: Callable[..., Any]) -> bool:
    """Whether a callable's name or parameters say that it is an importance-weighted objective."""
    named = getattr(fn, "__qualname__", type(fn).__qualname__)
    try:
        found = bind(fn, None, None, guess, ROLES).roles
    except BadInput:
        found = frozenset()
    return bool(found & {"log_w"} or found >= {"log_qz"} or _DECLARED.search(named.lower()))


def audit_importance(
    objective: Callable[..., Any],
    *,
    inputs: str | None = None,
    constants: Mapping[str, Any] | None = None,
    samples_axis: int | None = None,
    seed: int = 0,
) -> AuditReport:
    """Measures an objective over K samples: the weight of each in the gradient, and what the returned number is.

    The K-sample bound is `log (1/K) sum_k w_k` with `w_k = p(x, z_k) / q(z_k|x)`; its slope in `log w_k` is the
    normalised weight `w_k / sum_j w_j`. Reference: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders,
    2016.

    Args:
        objective: A callable of log weights (`log_w`), of terms (`log_px log_pz log_qz`, or `nll kl`), of pieces
            (`output x mu head z`, a draw of z for each sample), or of `model x samples`.
        inputs: Roles in the callable's order; None finds them from the names.
        constants: Values for further parameters, by name.
        samples_axis: Axis of the samples where terms are taken, 0 or 1; None tries both.
        seed: Of the inputs and the global random numbers, which are put back afterwards.

    Raises:
        BadInput: where the callable cannot be called, or what comes back cannot be read.
    """
    if samples_axis not in (None, 0, 1):
        raise BadInput("samples_axis", samples_axis, "must be 0, 1 or None")
    call = bind(objective, inputs, constants, guess, ROLES)
    with own_randomness(seed), np.errstate(all="ignore"):
        forms = list(_forms(call, samples_axis, seed))
    form, reading = _best(forms)
    if reading is None:
        findings: list[Finding] = [_unread(form)]
    else:
        findings = list(_judge(call, form, reading))
        if all(item.severity == "info" for item in findings):
            findings.append(_right(form, reading, bool(findings)))
    judged = sorted_findings(findings)
    return AuditReport(
        call.name,
        _verdict(judged),
        judged,
        sizes={"batch": BATCH, "samples": SAMPLES},
        arguments=tuple(call.keywords.values()) or call.positional,
        framework=form.framework,
        measured=_numbers(form, reading),
    )


def _forms(call: Call, samples_axis: int | None, seed: int) -> Iterator[Form]:
    """Every reading of the callable's arguments that it takes without an error.

    Raises:
        BadInput: where there is none.
    """
    failures: list[Exception] = []
    if call.roles & set(TERMS):
        source = from_terms(call, (samples_axis,) if samples_axis is not None else (0, 1), seed, failures)
    elif "output" in call.roles:
        source = from_pieces(call, seed, failures)
    else:
        source = from_model(call, seed, failures)
    found = False
    for form in source:
        found = True
        yield form
    if not found:
        shown = f"{type(failures[0]).__name__}: {failures[0]}" if failures else "nothing"
        raise BadInput(
            call.name,
            shown,
            "could not be run on inputs of any layout",
            'pass inputs= with the roles in order, such as "log_w"',
        )


def _best(forms: list[Form]) -> tuple[Form, Reading | None]:
    """The form under which the least is wrong; of equals one whose value is known, then the first."""
    read = [(form, recognise(form.seen)) for form in forms]

    def wrong(form: Form, reading: Reading | None) -> tuple[int, bool]:
        if reading is None:
            return 4 * len(SEVERITIES), True
        # Equal weights come last: a layout that the code does not mean may sum the samples away first.
        rank = 2 * len(SEVERITIES) if reading.pattern is ELBO else SEVERITIES.index(reading.pattern.severity)
        return rank + len(SEVERITIES) * form.flaw, read_value(form.seen, reading, form.exact) is None

    return min(read, key=lambda pair: wrong(*pair))


def _judge(call: Call, form: Form, reading: Reading) -> Iterator[Finding]:
    severity, pattern = reading.pattern.severity, reading.pattern
    if severity == "warning" and _DECLARED.search(call.name.lower()):
        severity = "error"  # its name promises the K-sample bound
    elif pattern is ELBO and "elbo" in call.name.lower():
        severity = "info"
    share, due = best_share(form, reading), _mean_best(form)
    if severity != "ok":
        yield finding(
            "UN002", severity, pattern.name, measured=share, unit="of a row's gradient goes to its best sample",
            evidence=f"its normalised weight is {due:.4f}; slopes measured for {SAMPLES} samples of {BATCH} rows",
            why=pattern.why, advice=pattern.advice,
        )  # fmt: skip
    yield from form.findings
    yield from _sign(call, form, reading)
    yield from _value(form, reading)
    yield from _scale(form, reading)


def best_share(form: Form, reading: Reading) -> float:
    """The mean share of a row's slopes that its best sample has."""
    shares = [reading.sign * one.slopes for one in form.seen]
    best = [one.log_weights.argmax(0) for one in form.seen]
    totals = [np.abs(s).sum(0) for s in shares]
    picked = [s[b, np.arange(s.shape[1])] / np.where(t > 0, t, 1) for s, b, t in zip(shares, best, totals, strict=True)]
    return float(np.mean(picked))


def _mean_best(form: Form) -> float:
    return float(np.mean([softmax(one.log_weights).max(0).mean() for one in form.seen]))


def _sign(call: Call, form: Form, reading: Reading) -> Iterator[Finding]:
    name = call.name.rsplit(".", 1)[-1].lower()
    loss = re.search(r"loss|nll|neg", name)
    if loss and reading.sign > 0:
        yield finding(
            "LI001", "error", "a loss that rises with the weights", measured=reading.scale * BATCH,
            unit="slope of the returned number in a row's bound", evidence="the returned number rises when log w rises",
            why="minimising it makes the data less likely", advice="loss = -bound.mean()",
        )  # fmt: skip


def _value(form: Form, reading: Reading) -> Iterator[Finding]:
    name, constant = _told(form, reading) or ("a number that is none of the known ones", math.nan)
    exact = form.exact and name == next(iter(VALUES))
    if reading.pattern is not BOUND or (name == next(iter(VALUES)) and not (exact and abs(constant) > 1e-3)):
        return
    severity, detail, why = _cause_of_value(name, constant)
    yield finding(
        "UN002", severity, detail,
        measured=math.log(SAMPLES) if "log K" in detail else constant, unit="nats per row above the bound",
        evidence=f"the value is {name}, and the slopes are those of the bound", why=why,
        advice="bound = torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])",
    )  # fmt: skip


def _told(form: Form, reading: Reading) -> tuple[str, float] | None:
    """The value's name and the constant beside it: without one if possible."""
    return read_value(form.seen, reading, form.exact) or read_value(form.seen, reading, False)


def _cause_of_value(name: str, constant: float) -> tuple[Severity, str, str]:
    """Severity, detail and cause of a value beside the bound where the gradient is the bound's."""
    if "own softmax" in name:
        return (
            "info",
            f"the number is {name}",
            "the weights are held fixed: a surrogate that only its gradient makes right",
        )
    if "log K" in name:
        return "warning", "log K is not subtracted", "the number grows with K, so it is no bound; the gradient is right"
    if math.isclose(constant, PIXELS / 2 * LOG_2PI, rel_tol=1e-3):
        return "info", "the Gaussian's constant is left out", "P/2 log(2 pi) shifts the number and not the gradient"
    return (
        "warning",
        f"the number is {name}, off by a constant",
        "the gradient is right, and the number is not the bound",
    )


def _scale(form: Form, reading: Reading) -> Iterator[Finding]:
    vector = form.seen[0].values.size == form.seen[0].log_weights.shape[1]
    scale = abs(reading.scale)
    if vector or math.isclose(scale * BATCH, 1, rel_tol=1e-3):
        return
    summed = math.isclose(scale, 1, rel_tol=1e-3)
    yield finding(
        "UN001", "info", "summed over the batch" if summed else "scaled",
        measured=scale * BATCH, unit="times nats per sample",
        evidence="slope of the returned number in the log weights",
        why="a constant factor acts like a factor on the learning rate",
        advice="loss = -bound.mean()",
    )  # fmt: skip


def _right(form: Form, reading: Reading, noted: bool) -> Finding:
    name = "the K-sample bound" if reading.pattern.severity == "ok" else reading.pattern.name
    return Finding(
        "UN002", "ok", f"this is {'minus ' * (reading.sign < 0)}{name}" + (", with notes" if noted else ""),
        measured=best_share(form, reading), unit="of a row's gradient goes to its best sample",
        evidence=f"slopes are the normalised weights; the best sample's is {_mean_best(form):.4f}",
    )  # fmt: skip


def _unread(form: Form) -> Finding:
    dead = all(not one.slopes.any() for one in form.seen)
    return finding(
        "GR001" if dead else "UN002", "error" if dead else "warning",
        "no gradient reaches the samples" if dead else "the samples are weighed in no known way",
        measured=float(max(np.abs(one.slopes).max() for one in form.seen)), unit="largest slope in a log weight",
        evidence=f"{len(form.seen)} calls with {SAMPLES} samples of {BATCH} rows, read as {form.name}",
        why="the terms are detached, or made under no_grad" if dead
        else "no softmax of the log weights, over samples or rows, gives the slopes that were measured",
        advice="bound = torch.logsumexp(log_px + log_pz - log_qz, 0) - math.log(K)",
    )  # fmt: skip


def _verdict(findings: tuple[Finding, ...]) -> str:
    worst = findings[0].severity
    if worst in ("error", "warning"):
        return "; ".join(item.title for item in findings if item.severity == worst)
    return findings[-1].title


def _numbers(form: Form, reading: Reading | None) -> dict[str, str]:
    shown = {"read as": form.name, "best sample's weight": f"{_mean_best(form):.4f} of its row, by its log weight"}
    if reading is None:
        return shown
    told = _told(form, reading)
    return shown | {
        "its measured share": f"{best_share(form, reading):.4f} of its row's gradient",
        "weighed as": reading.pattern.name,
        "slope": f"{reading.scale * BATCH:.4f} times the mean bound over the batch",
        "returned": told[0] if told else "none of the known values",
    }
