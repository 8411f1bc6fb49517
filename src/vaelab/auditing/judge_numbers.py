"""Judgements on gradients, constants, extreme numbers and the range of the data."""

from __future__ import annotations

from ..core.finding import Finding, Severity
from .case import Case
from .codes import finding
from .roles import is_beta

LOST = "the term was computed without gradient: detach, item, no_grad, or another framework"
ASTRAY = "part of the term was computed without gradient, or a gradient was put in its place"


def gradients(case: Case) -> list[Finding]:
    """Roles whose gradient is missing or wrong; both halves of the divergence in one finding where they fail alike."""
    found = []
    for code, picked, why in (("GR001", "missing", LOST), ("GR002", "wrong", ASTRAY)):
        failing = {role: slope for role, slope in case.m.slopes.items() if getattr(slope, picked)}
        both = {"mu", "head"} <= failing.keys()
        terms = {role: f"reconstruction in the {role}" for role in ("output", "scale")}
        terms |= {"mu": "divergence" if both else "divergence in mu", "head": "divergence in the second head"}
        for role, slope in failing.items():
            if role == "head" and both:
                continue
            found.append(
                finding(
                    code,
                    "error",
                    terms[role],
                    measured=slope.automatic,
                    unit=f"is the derivative, by values {slope.by_values:.4g}",
                    evidence="one direction, automatic differentiation against central differences",
                    why=why,
                    advice="take detach(), item() and no_grad() out of the loss, and check a backward of your own",
                )
            )
    return found


def constants(case: Case) -> list[Finding]:
    found = []
    for name, (value, other) in case.m.unused.items():
        given = name not in case.m.probe.binding.optional
        if case.m.divergence.shape == "flat" and is_beta(name) and not given:
            continue  # there is nothing to weigh, which KL001 says
        severity: Severity = "error" if is_beta(name) else "warning" if given else "info"
        found.append(
            finding(
                "GR004",
                severity,
                f"{name!r}",
                measured=0.0,
                unit=f"change of the loss between {name} = {value:g} and {other:g}",
                evidence="at small, medium and large divergences",
                why="the argument is accepted and never reaches the loss",
                advice=f"multiply the term by {name}, or take the argument away",
            )
        )
    return found


def numbers(case: Case) -> list[Finding]:
    m = case.m
    found = []
    if m.overflow:
        places = " and ".join(f"{what} {at:g}" for what, at in m.overflow)
        found.append(
            finding(
                "NU001",
                "warning",
                f"not finite at a {places}",
                measured=m.overflow[0][1],
                unit="(float32)",
                evidence="the closed form is finite there",
                why="an exponential, a square or a quotient overflows before it is needed",
                advice="work with log_var, and clamp it to [-30, 20]",
            )
        )
    if m.log_of_zero:
        at = " and ".join(f"{end:g}" for _, end in m.log_of_zero)
        found.append(
            finding(
                "NU002",
                "warning",
                f"not finite at an output of {at}",
                measured=m.log_of_zero[0][1],
                unit="(float32)",
                evidence="targets of 0 and 1 at outputs at the end of their range",
                why="a saturated sigmoid is exactly 0 or 1, and its logarithm infinite",
                advice="use F.binary_cross_entropy_with_logits on the raw output",
            )
        )
    return found


def data_range(case: Case) -> list[Finding]:
    family = case.m.reconstruction.family
    name = family.name if family else ""
    unit = name.startswith(("Bernoulli", "continuous"))
    positive = name.startswith(("Poisson", "negative", "exponential", "multinomial"))
    if case.data is None and case.m.silent is None:
        return []
    if case.data is None:
        return [
            finding(
                "RE003",
                "info",
                "targets outside [0, 1] are taken without a word",
                measured=case.m.silent,
                unit="is the loss of targets from -0.85 to 1.85",
                evidence="made-up targets",
                why="the formula has a value there, and no meaning",
                advice="check the range of the data once, when it is loaded, or pass data= here",
            )
        ]
    low, high, _ = case.data
    if not ((unit and (low < 0 or high > 1)) or (positive and low < 0)):
        return []
    return [
        finding(
            "RE003",
            "error",
            f"the data run from {low:.4g} to {high:.4g}",
            measured=low if low < 0 else high,
            unit="where the family ends at 0 and 1" if unit else "where the family begins at 0",
            evidence="the smallest and the largest value given",
            why=f"{name} has no meaning for such targets",
            advice="scale the data to [0, 1], or use a Gaussian likelihood",
        )
    ]


def sum_of_terms(case: Case) -> list[Finding]:
    if case.m.interaction < 1e-3:
        return []
    return [
        finding(
            "UN002",
            "error",
            "the terms are not added",
            measured=case.m.interaction,
            unit="of the loss's move is neither of the two terms",
            evidence="second difference in (data, output) and (mu, head)",
            why="the weight of one term depends on the other",
            advice="add the reconstruction and beta times the divergence",
        )
    ]
