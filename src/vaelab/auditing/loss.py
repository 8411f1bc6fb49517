"""The audit of a loss: from a callable to a report."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np

from ..core.errors import BadInput
from ..core.finding import Finding
from .care import Failed, Kept, detached, same_randomness
from .case import Case
from .frameworks import channels_last
from .inputs import DEFAULTS, domains_to_try, layouts
from .judge import judge
from .judge_sizes import unit_of
from .judge_terms import proportions
from .measured import Measured, measure
from .probe import open_probe
from .report import AuditReport, sorted_findings
from .roles import Binding, bind, is_beta, number_of


def audit_loss(
    fn: Callable[..., Any],
    *,
    inputs: str | None = None,
    constants: Mapping[str, Any] | None = None,
    sizes: Mapping[str, Any] | None = None,
    declared_beta: float | None = None,
    family: str | None = None,
    framework: str | None = None,
    total: str | None = None,
    data: Any = None,
    fixed: Iterable[str] = (),
    name: str | None = None,
    seconds: float = 20.0,
) -> AuditReport:
    """Audits a loss as a black box; arguments as in `vaelab.audit`, and:

    Args:
        fixed: Sizes that the callable cannot change ("pixels", "latents").
        name: What the report calls it.

    Raises:
        BadInput: where the loss cannot be called, with what it said and what to add.
    """
    if declared_beta is not None and not (isinstance(declared_beta, int | float) and 0 <= declared_beta < float("inf")):
        raise BadInput("declared_beta", declared_beta, "must be a finite number of at least 0")
    if not (isinstance(seconds, int | float) and 0 < seconds < float("inf")):
        raise BadInput("seconds", seconds, "must be a finite number above 0")
    span = _range(data)
    fn = detached(fn)
    binding = bind(fn, inputs, constants)
    with same_randomness():
        kept = Kept(fn)
        try:
            named = _named_sizes(binding, sizes)
            binding = replace(
                binding,
                sizes={n: s for n, s in binding.sizes.items() if binding.constants.get(n) is None or s in named},
            )
            found_layouts = layouts(
                sizes,
                named,
                square=binding.square and _square(sizes),
                channels_last=channels_last(fn),
            )
            probe = open_probe(fn, binding, found_layouts, domains_to_try(family), framework, total, seconds)
            measured = measure(probe, fixed)
        except Failed as error:
            raise BadInput(
                "the callable", None, str(error), "it returned a number for other inputs of the same shapes"
            ) from error
        finally:
            kept.restore(whole=True)
    called = name or _name(fn)
    named = {**_attributes(fn), **binding.constants}
    found = {key: number for key, v in named.items() if is_beta(key) and (number := number_of(v)) is not None}
    by, declared = next(iter(found.items()), ("", 1.0)) if declared_beta is None else ("", float(declared_beta))
    case = Case(measured, declared, declared_beta is not None, span, name=" ".join([called, *probe.choice]), by=by)
    return _report(case, called)


def _attributes(fn: Callable[..., Any]) -> dict[str, Any]:
    """Attributes of the object behind a callable, one of which may declare beta."""
    owner = getattr(fn, "__self__", fn)
    return {name: value for name, value in getattr(owner, "__dict__", {}).items() if name == "beta"}


def _square(sizes: Mapping[str, Any] | None) -> bool:
    """Whether the sizes leave room for an adjacency."""
    given = dict(sizes or {})
    return given.get("pixels") in (None, given.get("batch", DEFAULTS["batch"]), (given.get("batch"),))


def _named_sizes(binding: Binding, sizes: Mapping[str, Any] | None) -> dict[str, int]:
    """Sizes that constants name, such as `batch_size=128`: followed, unless `sizes` says something else."""
    found = {}
    for name, size in binding.sizes.items():
        value, given = binding.constants.get(name), dict(sizes or {}).get(size)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0 and given in (None, value):
            found[size] = value
    return found


def _name(fn: Callable[..., Any]) -> str:
    plain = inspect.unwrap(fn)
    return getattr(plain, "__qualname__", None) or type(fn).__name__


def _range(data: Any) -> tuple[float, float, float] | None:
    if data is None:
        return None
    try:
        array = np.asarray(data, float)
    except (TypeError, ValueError):
        raise BadInput(
            "data", type(data).__name__, "must be an array of numbers", "the command's --data reads files"
        ) from None
    if not array.size or not np.isfinite(array).all():
        what = "NaN or infinite entries" if array.size else "no entries"
        raise BadInput("data", what, "must be finite numbers", "pass a batch as your loss gets it")
    return float(array.min()), float(array.max()), float(array.std())


def _report(case: Case, name: str) -> AuditReport:
    m = case.m
    findings = sorted_findings(judge(case))
    rec, form = m.reconstruction, m.divergence.form
    if form is not None and proportions(case):
        case = replace(case, defined=False)
    noise = m.beta if rec.family is not None and rec.family.noise and isfinite(case.beta) and case.beta > 0 else None
    return AuditReport(
        subject=name,
        verdict=verdict(case, findings),
        findings=findings,
        effective_beta=case.beta,
        implied_noise=noise,
        reconstruction=rec.name,
        second_head=_head_of(m),
        scaling=_scaling(case),
        unit=unit_of(m),
        declared_beta=case.declared,
        sizes=m.probe.layout.sizes,
        arguments=tuple(f"{p}={r}" for r, p in m.probe.binding.names.items())
        or tuple(map(str, m.probe.binding.arguments)),
        framework=_called_with(m),
        measured=_rows(case, noise),
        notes=_notes(m),
    )


def _called_with(m: Measured) -> str:
    shape = (m.probe.layout.batch, *m.probe.layout.data)
    return f"{m.probe.framework.name} {m.probe.dtype}, x {shape} ({m.probe.domain})"


def _head_of(m: Measured) -> str | None:
    form = m.divergence.form
    if form is None:
        return m.divergence.draw.name if m.divergence.shape == "sampled" else None
    return form.head.name if form.variance or form.log else None


def _known(exponent: float) -> float | None:
    return exponent if isfinite(exponent) else None


def _scaling(case: Case) -> dict[str, float | None]:
    """Exponents of beta in batch, data as a whole (of axes that differ, the largest), latents, and single axes."""
    scaling = case.m.scaling
    varied = {name.split(" ")[0] for name in scaling}
    whole = {size: _known(case.exponent(size)) if size in varied else None for size in ("batch", "pixels", "latents")}
    return whole | {name: _known(s.beta) for name, s in scaling.items() if name not in whole}


def _rows(case: Case, noise: float | None) -> dict[str, str]:
    m = case.m
    rec, div, batch = m.reconstruction, m.divergence, m.probe.layout.batch
    rows = {"reconstruction": f"{rec.weight * batch:.6g} x {rec.name}" if rec.family else rec.name}
    if rec.parts:
        rows["of it"] = ", ".join(f"{weight * batch:.6g} x {part}" for part, weight in rec.parts)
    if div.form and not case.defined:
        terms = (w * batch for w in div.parts)
        rows["divergence"] = "none: {:.4g} mu^2/2 + {:.4g} variance/2 - {:.4g} log-variance/2".format(*terms)
    elif div.form:
        read = f", head read as {div.form.head.name}" if div.form.variance or div.form.log else ""
        mean, variance = m.prior or (0.0, 1.0)
        rows["divergence"] = f"{div.weight * batch:.6g} x KL(q | N({mean:.3g}, {variance:.3g})){read}, {div.shape}"
    elif div.shape == "sampled":
        rows["divergence"] = f"{div.weight * batch:.6g} x (log q(z|x) - log p(z)), head read as {div.draw.name}"
    else:
        rows["divergence"] = "0 nats: no effect" if div.shape == "flat" else "no known form"
    rows["effective beta"] = _digits(case.beta)
    rows["effective beta"] += f" ± {case.spread:.2g} (95 %)" if case.spread and isfinite(case.beta) else ""
    if noise is not None and rec.family is not None:
        rows["implied noise"] = (
            f"{rec.family.noise} = {noise:.6g} at beta = 1, in the data's units (effective beta is at unit noise)"
        )
    if m.scaling and div.form and rec.family:
        rows["scaling of beta"] = ", ".join(f"{size}^{s.beta:.3g}" for size, s in m.scaling.items())
    rows["unit"] = unit_of(m)
    return rows


def _notes(m: Measured) -> tuple[str, ...]:
    notes = []
    if "z" in m.probe.binding.roles:
        notes.append(
            "the divergence is a one-sample estimate: right on average, and averaged here over a quadrature of z"
        )
    if m.divergence.shape == "sampled":
        notes.append(
            "the prior is no single Gaussian: beta is the weight of log q(z|x), and was not tried at other sizes"
        )
    if m.probe.inside:
        notes.append("the loss draws noise of its own: every value is a mean over a quadrature of it")
    if m.probe.seeds > 1:
        notes.append(f"the loss is random: every value is a mean over {m.probe.seeds} seeds")
    if m.prior is not None and m.prior != (0.0, 1.0):
        notes.append(f"the prior has mean {m.prior[0]:.4g} and variance {m.prior[1]:.4g}")
    if len(m.shape) > 1:
        notes.append(f"the result has shape {m.shape} and was averaged")
    return tuple(notes)


def _digits(beta: float) -> str:
    """Three decimals, or four digits of a small number."""
    return f"{beta:.3f}" if beta == 0 or not abs(beta) < 0.1 else f"{beta:.4g}"


def verdict(case: Case, findings: tuple[Finding, ...]) -> str:
    """One sentence: what is minimised."""
    errors = [f for f in findings if f.severity == "error"]
    rec, div = case.m.reconstruction, case.m.divergence
    roles = case.m.probe.binding.roles
    if errors:
        here = (
            f"beta = {case.beta:.4g} here; "
            if isfinite(case.beta) and rec.family is not None and not rec.family.wrong
            else ""
        )
        return f"not right: {here}{'; '.join(dict.fromkeys(f'{f.code} {f.title}' for f in errors))}"
    if "output" not in roles:
        return "the divergence alone, and nothing wrong with it"
    if "mu" not in roles:
        return "the reconstruction alone: without the divergence of the posterior it is no bound"
    if case.upside_down:
        return f"this is minus beta times KL minus the negative log-likelihood, to be maximised, beta = {case.beta:.3f}"
    if rec.family is None:
        weight = div.weight * case.m.probe.layout.batch
        return f"{weight:.4g} times KL beside a term that is no known likelihood"
    bent = {"floor": ", above a floor", "cap": ", below a cap", "capacity": ", held at a capacity"}.get(div.shape, "")
    traps = sum(f.severity == "warning" for f in findings)
    noise = f" at unit noise, or beta = 1 at {rec.family.noise} = {case.m.beta:.4g}" if rec.family.noise else ""
    return (
        "this is beta times KL plus the negative log-likelihood, "
        f"in {unit_of(case.m)}, beta = {_digits(case.beta)}{noise}{bent}"
        + (f"; {traps} trap{'s' * (traps > 1)} above" if traps else "")
    )
