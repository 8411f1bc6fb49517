"""Runs a K-sample objective of log weights, or of the terms that add up to them, and measures its slopes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.errors import BadInput
from ...core.finding import Finding
from ..codes import finding
from ..frameworks import NumPy, candidates
from .calls import Call, main_value, numbers
from .weights import BATCH, CALLS, SAMPLES, Form, Seen

TERMS = {"log_w": 1.0, "log_px": 1.0, "log_joint": 1.0, "nll": -1.0, "log_pz": 1.0, "log_qz": -1.0, "kl": -1.0}
_LEADS = ("log_w", "log_px", "log_joint", "nll")
_TYPICAL = {  # mean and spread
    "log_w": (-8, 1.5),
    "log_px": (-6, 1),
    "log_joint": (-8, 1),
    "nll": (6, 1),
    "log_pz": (-3, 1),
    "log_qz": (-1, 1),
    "kl": (2, 0.5),
}


def from_terms(call: Call, axes: Sequence[int | None], seed: int, failures: list[Exception]) -> Iterator[Form]:
    """Forms of an objective of log weights, or of the terms that add up to them."""
    used = [role for role in TERMS if role in call.roles]
    if not any(role in _LEADS for role in used):
        raise BadInput("inputs", ", ".join(used), f"one of {', '.join(_LEADS)} must be among the terms")
    for axis in axes:
        for framework in candidates(call.fn, None):
            try:
                slopes = [_slopes(call, framework, used, axis == 1, seed + i) for i in range(CALLS)]
            except Exception as error:  # a stranger's code may raise anything
                failures.append(error)
                continue
            name = f"{' '.join(used)}, samples on axis {axis}"
            yield _form_of_terms(used, slopes, name, framework.name)
            break


@dataclass(frozen=True)
class Slopes:
    """One call on terms [K, B] by role: the slope of the returned number in each entry of each, and that number."""

    terms: Mapping[str, np.ndarray]
    found: Mapping[str, np.ndarray]
    values: np.ndarray


def _slopes(call: Call, framework: NumPy, used: list[str], turned: bool, seed: int) -> Slopes:
    draw = np.random.default_rng(seed)
    terms = {role: draw.normal(*_TYPICAL[role], (SAMPLES, BATCH)) for role in used}
    given = {role: term.T if turned else term for role, term in terms.items()}

    def value(tensors: Mapping[str, Any]) -> Any:
        return main_value(call({"samples": SAMPLES, "beta": 1.0, "device": "cpu", "model": None, **tensors}))

    def total(tensors: Mapping[str, Any]) -> Any:
        out = value(tensors)
        return out.sum() if hasattr(out, "sum") else out

    found = framework.gradients(total, given, used, "float64")
    if found is None:
        found = {role: _differences(lambda t: float(numbers(value(t)).sum()), given, role) for role in used}
    values = numbers(value({role: framework.make(term, "float32") for role, term in given.items()}))
    return Slopes(terms, {role: slope.T if turned else slope for role, slope in found.items()}, values)


def _differences(
    value: Callable[[Mapping[str, Any]], float], terms: Mapping[str, np.ndarray], role: str, step: float = 1e-5
) -> np.ndarray:
    """Central differences in every entry of one term."""
    slope = np.zeros_like(terms[role])
    for index in np.ndindex(slope.shape):
        nudge = np.zeros_like(slope)
        nudge[index] = step
        up, down = (value({**terms, role: terms[role] + way * nudge}) for way in (1, -1))
        slope[index] = (up - down) / (2 * step)
    return slope


def _form_of_terms(used: list[str], calls: list[Slopes], name: str, framework: str) -> Form:
    lead = next(role for role in _LEADS if role in used)
    slope = np.stack([one.found[lead] for one in calls])
    size = max(float((slope**2).sum()), 1e-300)
    factors = {
        role: TERMS[lead] * float((np.stack([c.found[role] for c in calls]) * slope).sum()) / size for role in used
    }
    # A term without a slope still enters the weight where its gradient alone is stopped: its value is there.
    weight = {role: factor if abs(factor) > 1e-6 else TERMS[role] for role, factor in factors.items()}
    seen = tuple(
        Seen(np.asarray(sum(weight[role] * c.terms[role] for role in used)), TERMS[lead] * c.found[lead], c.values)
        for c in calls
    )
    odd = [role for role in used if slope.any() and abs(factors[role] - TERMS[role]) > 1e-3]
    findings = tuple(_term_finding(role, factors[role]) for role in odd)
    return Form(name, seen, True, framework, any(item.severity == "error" for item in findings), findings)


def _term_finding(role: str, factor: float) -> Finding:
    due = TERMS[role]
    stopped = abs(factor) < 1e-6
    shared: dict[str, Any] = {
        "measured": factor,
        "unit": f"times {role} in the log weight",
        "evidence": f"slope in {role} over the slope in the leading term; the bound has {due:+g}",
        "advice": "log_w = log_px + log_pz - log_qz",
    }
    if stopped:
        why = "its gradient is stopped: the path derivative of log q (Roeder and others, 2017) where z carries the rest"
        return finding(
            "GR001", "info" if role == "log_qz" else "warning", f"{role} without gradient", why=why, **shared
        )
    if factor * due < 0:
        return finding(
            "UN002", "error", f"{role} enters with the wrong sign", why="a weight is p(x|z) p(z) / q(z|x)", **shared
        )
    return finding(
        "UN002",
        "info",
        f"{role} is weighted",
        why="a declared weight trades the terms off, and it is no bound then",
        **shared,
    )
