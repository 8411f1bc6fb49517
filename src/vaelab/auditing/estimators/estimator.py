"""Audits an estimator of the likelihood: on models whose log p(x) is known, is it a bound that tightens?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, Literal

import numpy as np

from ...core.errors import BadInput
from ...core.finding import Finding, Severity
from ..codes import finding
from ..report import AuditReport, sorted_findings
from .bench import FEW, MANY, ROWS, SOME, SURE, Bench, Fit, fit, units
from .calls import DRAWS, Call, bind, guess_draws
from .exact import FAMILIES, LinearGaussian, own_randomness

Returns = Literal["nll", "log_likelihood"]

NATS = "nats per sample"
_NEGATIVE = re.compile(r"nll|neg|loss|bpd|bits|error|cost")
_POSITIVE = re.compile(r"log_?lik|log_?p|log_?ml|evidence|marginal|elbo|bound|likelihood|(^|_)ll(_|$)|iwae")


def audit_likelihood(
    get_nll: Callable[..., Any],
    *,
    inputs: str | None = None,
    constants: Mapping[str, Any] | None = None,
    returns: Returns | None = None,
    pixels: int | None = None,
    seed: int = 0,
) -> AuditReport:
    """Measures an estimator of log p(x) on a linear model whose log p(x) is known exactly.

    A right one returns, up to sign and unit, `log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x)`: below log p(x) on average,
    and closer with every draw. The model answers to `encode(x) -> (mu, logvar)`, `decode(z)`, `encoder`, `decoder`,
    `reparameterize`, `forward(x) -> (output, mu, logvar)` and `log_px_given_z(x, z)`; its density is N(x; output, 1),
    or a Bernoulli where the estimator takes no other. Reference: Burda, Grosse and Salakhutdinov, Importance Weighted
    Autoencoders, 2016.

    Args:
        get_nll: The estimator; a method taken from its class gets the model as `self`.
        inputs: Roles in the callable's order, such as "model x samples per_pass"; None finds them from the names.
        constants: Values for further parameters, by name.
        returns: "nll" or "log_likelihood"; None goes by the callable's name, and takes either where that is silent.
        pixels: Features of a row; None tries 6, then the 784 that code for MNIST writes out.
        seed: Of the model, the data and the global random numbers, which are put back afterwards.

    Raises:
        BadInput: where the callable cannot be called, or returns no number.
    """
    if returns not in (None, "nll", "log_likelihood"):
        raise BadInput("returns", repr(returns), 'must be "nll", "log_likelihood" or None')
    # The method of a model is taken from its class: log p(x) is known of our model alone, which takes self's place.
    call = bind(getattr(get_nll, "__func__", get_nll), inputs, constants, guess_draws, DRAWS)
    if not call.roles & {"model", "encode", "decode", "log_px"}:
        raise BadInput(
            call.name,
            f"({', '.join(sorted(call.roles))})",
            "takes no model, and log p(x) is known of ours alone",
            "write it as get_nll(model, x, samples), or name the method of the class, MyVAE.get_nll",
        )
    with own_randomness(seed), np.errstate(all="ignore"):
        found = _best(call, pixels, seed)
        findings = sorted_findings(judge(found, returns or promised(call.name), _far(found)))
        measured = _numbers(found)
    model = found.bench.model
    return AuditReport(
        call.name,
        _verdict(found, findings),
        findings,
        reconstruction=found.reading.name,
        unit=found.unit,
        sizes={"batch": found.bench.size, "pixels": model.pixels, "latents": model.latents},
        arguments=tuple(call.keywords.values()) or call.positional,
        framework="numpy" if found.bench.numpy else "torch",
        measured=measured,
    )


def promised(name: str) -> Returns | None:
    """What a callable's name says it returns.

    Example:
        >>> promised("get_nll"), promised("marginal_ll"), promised("evaluate")
        ('nll', 'log_likelihood', None)
    """
    own = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.rsplit(".", 1)[-1]).lower()
    return "nll" if _NEGATIVE.search(own) else "log_likelihood" if _POSITIVE.search(own) else None


def _best(call: Call, pixels: int | None, seed: int) -> Fit:
    """The family under which the estimator follows the truth; the first that it runs on where it follows none."""
    fits: list[Fit] = []
    failures: list[Exception] = []
    for size, kind, numpy in product((pixels,) if pixels else (6, 784), FAMILIES.values(), (False, True)):
        if any(f.bench.model.pixels < size or isinstance(f.bench.model, kind) for f in fits):
            continue  # a further size or kind of array is for code that takes no other
        bench = Bench(kind(size, seed), call, numpy, seed)
        try:
            bench.measure()
        except Exception as error:  # a stranger's code may raise anything
            failures.append(error)
            continue
        fits.append(fit(bench))
        if fits[-1].matched:
            return fits[-1]
    if not fits:
        first = failures[0]
        raise BadInput(
            call.name,
            str(first) if isinstance(first, BadInput) else f"{type(first).__name__}: {first}",
            "could not be run on the known model",
            "write it against encode(x) -> (mu, logvar) and decode(z) -> output, or pass inputs=",
        ) from first
    return fits[0]


def _far(found: Fit) -> tuple[float, float] | None:
    """The estimate and log p(x) on rows so improbable that plain weights underflow; None where nothing can be said."""
    model = found.bench.model
    if not found.matched or not isinstance(model, LinearGaussian) or found.reading.code or found.reading.prior:
        return None
    rows = model.sample(ROWS, found.bench.seed, noise=30.0)
    try:
        value = found.bench.run(rows, SOME)
    except Exception:  # refusing such rows is no defect
        return None
    return found.sign * value / units(model.pixels)[found.unit], float(model.exact(rows).mean())


def _verdict(found: Fit, findings: tuple[Finding, ...]) -> str:
    worst = findings[0].severity if findings else "ok"
    if worst in ("error", "warning"):
        return "; ".join(item.title for item in findings if item.severity == worst)
    return f"this is {'minus ' * (found.sign < 0)}{findings[-1].title}"


def _numbers(found: Fit) -> dict[str, str]:
    """Means over the batches, in nats per sample, and the draws that were counted."""
    bound = found.bench.expected(found.reading, 1).mean()
    return {
        "model": f"linear, {found.bench.model.family}, of known log p(x)",
        "returned": f"the {'negative ' * (found.sign < 0)}log-likelihood, in {found.unit}",
        "p(x|z) read as": found.reading.name,
        "log p(x)": f"{found.truth.mean():.4f} {NATS}, exact",
        "elbo": f"{bound:.4f} {NATS}",
        f"at {FEW} draw": f"{found.nats(FEW).mean():.4f} ± {1.96 * found.error(FEW):.2g} (95 %) {NATS}",
        f"at {MANY} draws": f"{found.nats(MANY).mean():.4f} ± {1.96 * found.error(MANY):.2g} (95 %) {NATS}",
        "a right estimator": f"{found.bounds[MANY].mean():.4f} {NATS} at {found.bench.used(MANY)} draws",
        "draws made": ", ".join(f"{drawn:g} for {asked} asked" for asked, drawn in sorted(found.drawn.items())),
    }


def judge(found: Fit, returns: Returns | None, far: tuple[float, float] | None) -> list[Finding]:
    """All findings on one fit; a plain statement that it is right where nothing worse than information is found."""
    findings = [
        *_sign(found, returns),
        *_unit(found),
        *_density(found),
        *_underflow(far),
        *_count(found),
        *_height(found),
    ]
    if not {item.code for item in findings} & {"LI002", "LI004"}:
        findings += _tightening(found)
    if found.matched and all(item.severity == "info" for item in findings):
        findings.append(_right(found, all(item.code != "LI003" for item in findings)))
    return findings


def _sign(found: Fit, returns: Returns | None) -> Iterator[Finding]:
    if returns is None or (found.sign > 0) == (returns == "log_likelihood"):
        return
    value, truth = found.sign * float(found.nats(MANY).mean()), float(found.truth.mean())
    yield finding(
        "LI001", "error", f"a {'negative ' * (found.sign < 0)}log-likelihood is returned as {returns}",
        measured=value, unit=NATS, interval=1.96 * found.error(MANY),
        evidence=f"log p(x) is {truth:.3f} on these rows, and the estimate rises with it by {found.sign:+d} to 1",
        why="the sign of the returned number is not the one that the name promises",
        advice="return " + ("-log_p.mean()" if returns == "nll" else "log_p.mean()"),
    )  # fmt: skip


def _unit(found: Fit) -> Iterator[Finding]:
    if not found.matched:
        value, truth = found.bench.values[MANY].mean(0), found.truth
        rest = value - np.polyval(np.polyfit(truth, value, 1), truth)
        scaled = np.abs(rest).max() < 0.02 * np.ptp(value)  # a unit that we do not know
        shown = ", ".join(f"{v:.3f} where log p(x) is {t:.3f}" for v, t in zip(value, truth, strict=True))
        yield finding(
            "UN001", "warning" if scaled else "error",
            "an unknown unit" if scaled else "the estimate does not follow log p(x) from one batch to another",
            measured=float(np.polyfit(truth, value, 1)[0]), unit="times log p(x)",
            evidence=f"means over batches: {shown}",
            why="a term of the weight is missing or scaled, or the number is reduced over rows in an unusual way",
            advice="log_p = torch.logsumexp(log_px + log_pz - log_qz, 0) - math.log(K), then log_p.mean()",
        )  # fmt: skip
    elif found.unit != NATS:
        yield finding(
            "UN001", "info", f"reported in {found.unit}", measured=units(found.bench.model.pixels)[found.unit],
            unit="times nats per sample", evidence="slope of the estimate against log p(x) over three batches",
            why="the number is right in a unit of its own", advice="say the unit where the number is shown",
        )  # fmt: skip


def _density(found: Fit) -> Iterator[Finding]:
    if not found.reading.code:
        return
    wrong = found.reading.code == "RE001"
    yield finding(
        found.reading.code, "error" if wrong else "info", found.reading.name,
        measured=float(found.truth.mean()), unit=f"{NATS}, log p(x) under that reading",
        evidence="the estimates follow this reading of the decoder's output over three batches, and no other",
        why="a mean over features shrinks the log-likelihood against log p(z) and log q(z|x)" if wrong
        else "a squared error is the log-density of a Gaussian whose variance its factor sets",
        advice="log_px = -0.5 * ((x - x_hat) ** 2 + math.log(2 * math.pi)).sum(-1)",
    )  # fmt: skip


def _underflow(far: tuple[float, float] | None) -> Iterator[Finding]:
    if far is None or (math.isfinite(far[0]) and far[0] < far[1] + 0.02 * abs(far[1])):
        return
    yield finding(
        "NU002", "warning", "the weights underflow on improbable rows",
        measured=far[1], unit=f"{NATS}, log p(x) of these rows",
        evidence=f"the estimate there is {far[0]:.4g}; images have such log-likelihoods",
        why="exp(log_w) is 0 below -103 in float32, before the logarithm is taken",
        advice="log_p = torch.logsumexp(log_w, 0) - math.log(K)",
    )  # fmt: skip


def _count(found: Fit) -> Iterator[Finding]:
    if not found.bench.asks or not found.drawn[MANY]:
        return
    rows = found.bench.size
    missed = {
        k: n
        for k, n in found.drawn.items()
        if not (math.isclose(n, k, rel_tol=1e-3) or math.isclose(n * rows, k, rel_tol=1e-3))
    }
    if not missed:
        return
    asked = MANY if MANY in missed else max(missed)
    drawn = missed[asked]
    bias = math.log(drawn / asked)
    ignored = math.isclose(found.drawn[FEW], found.drawn[MANY])
    biased = abs(bias) > found.margin and abs(found.off(asked) - bias) < found.margin if asked == MANY else False
    severity: Severity = "error" if ignored or biased else "warning" if drawn < asked else "info"
    detail = "the argument has no effect" if ignored else f"{drawn:g} draws for {asked} asked"
    yield finding(
        "LI004", severity, detail,
        measured=found.off(MANY) if biased else drawn, unit="nats of bias" if biased else f"draws for {asked} asked",
        interval=1.96 * found.error(MANY) if biased else None,
        evidence=f"latent vectors decoded for each row; log({drawn:g}/{asked}) is {bias:.3f} nats",
        why="the sum is over the draws made, and the count subtracted is the count asked for" if biased
        else "draws are made in whole passes, or the count never reaches the loop",
        advice="log_p = torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])  # and a short last pass",
    )  # fmt: skip


def _height(found: Fit) -> Iterator[Finding]:
    slope = 1.0 if found.matched else float(np.polyfit(found.truth, found.nats(MANY).mean(0), 1)[0])
    if found.above <= found.margin or not 0.5 < slope < 2:  # in an unknown unit height means nothing
        return
    severity, why, advice = _cause_of_height(found)
    yield finding(
        "LI002", severity, f"{found.above:.3f} nats more than log p(x)",
        measured=found.above, unit=f"nats above log p(x) at {MANY} draws", interval=1.96 * found.error(MANY),
        evidence=f"mean over {found.nats(MANY).size} calls; a right estimator lies {-_gap(found):.3f} below",
        why=why, advice=advice,
    )  # fmt: skip


def _gap(found: Fit) -> float:
    """How far the right estimator lies above log p(x) at many draws: below 0."""
    return float((found.bounds[MANY] - found.truth).mean())


def _cause_of_height(found: Fit) -> tuple[Severity, str, str]:
    """Severity, cause and edit of the first known constant that explains the excess."""
    drawn, pixels = found.drawn[MANY] or MANY, found.bench.model.pixels
    causes: tuple[tuple[float, Severity, str, str], ...] = (
        (pixels * found.reading.constant, "warning",
         "the constant of the Gaussian density is left out, which shifts every row alike",
         "log_px = log_px - 0.5 * P * math.log(2 * math.pi)"),
        (math.log(found.bench.used(MANY)), "error", "the weights are summed and not averaged: log K is not subtracted",
         "log_p = torch.logsumexp(log_w, 0) - math.log(K)"),
        (math.log(drawn / MANY), "error", "more draws are summed than are divided by",
         "log_p = torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])"),
    )  # fmt: skip
    known = (
        cause[1:] for cause in causes if abs(cause[0]) > found.margin and abs(found.off(MANY) - cause[0]) < found.margin
    )
    unknown: tuple[Severity, str, str] = (
        "error", "the weights are not p(x|z) p(z) / q(z|x) at draws of q: a density or the noise is off",
        "log_w = log_px + log_pz - log_qz, with z drawn from that very q",
    )  # fmt: skip
    return next(known, unknown)


def _tightening(found: Fit) -> Iterator[Finding]:
    start = found.nats(FEW).mean() if found.bench.asks else found.bench.expected(found.reading, 1).mean()
    first = found.bounds[FEW].mean() if found.bench.asks else start
    gain, due = float(found.nats(MANY).mean() - start), float(found.bounds[MANY].mean() - first)
    error = math.hypot(found.error(MANY), found.error(FEW))
    shown = {
        "interval": 1.96 * error,
        "evidence": f"a right estimator gains {due:.3f} nats from 1 to {found.bench.used(MANY)} draws",
    }
    if gain < 0.5 * due and due - gain > SURE * error:
        named = re.search(r"elbo", found.bench.call.name.lower()) and not re.search(
            r"iw|import", found.bench.call.name.lower()
        )
        yield finding(
            "LI003", "info" if named else "error", "more draws do not bring it closer",
            measured=gain, unit="nats gained by more draws", **shown,
            why="log weights are averaged, which gives the ELBO however many draws there are",
            advice="log_p = torch.logsumexp(log_w, 0) - math.log(K)",
        )  # fmt: skip
    elif found.matched and found.off(MANY) < -found.margin:
        short = not found.bench.asks or not found.closes()
        yield finding(
            "LI003", "error" if short else "info",
            "it stops short of the truth" if short else "looser than it could be",
            measured=found.off(MANY), unit=f"nats below a right estimator at {MANY} draws", **shown,
            why="a density is missing from the weights, or a constant is subtracted that belongs to none" if short
            else "its draws come from elsewhere than the encoder",
            advice="log_w = log_px + log_pz - log_qz, each density with its own constants",
        )  # fmt: skip


def _right(found: Fit, tightens: bool) -> Finding:
    return Finding(
        "LI002", "ok", f"a lower bound on log p(x){' that tightens' * tightens}, in {found.unit}",
        measured=found.above, unit=f"nats above log p(x) at {MANY} draws", interval=1.96 * found.error(MANY),
        evidence=f"a right estimator lies {-_gap(found):.4f} below; log p(x) is {found.truth.mean():.4f}",
    )  # fmt: skip
