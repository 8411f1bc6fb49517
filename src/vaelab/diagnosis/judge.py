"""From the numbers of a diagnosis to findings: causes first; symptoms only where no cause explains them; then notes."""

from __future__ import annotations

from collections.abc import Callable

from ..core.finding import Finding
from . import causes, symptoms
from .case import Case, Found


def judge(case: Case) -> list[Finding]:
    """All findings, the most urgent kind first; symptoms are told only where no cause was found."""
    found = [finding for rule in CAUSES for finding in rule(case)]
    if not any(finding.severity in ("warning", "error") for finding in found):
        found = [finding for rule in SYMPTOMS for finding in rule(case)]
    return [*found, *(finding for rule in NOTES for finding in rule(case))]


CAUSES: tuple[Callable[[Case], Found], ...] = (
    causes.dead,
    causes.one_column,
    causes.noise,
    causes.beta_small,
    causes.collapse,
    causes.cut_off,
    causes.saturated,
    causes.noise_floor,
    causes.memorised,
    causes.overfit,
)
SYMPTOMS: tuple[Callable[[Case], Found], ...] = (
    symptoms.exploding,
    symptoms.worse_than_constant,
    symptoms.vanishing,
    symptoms.low_diversity,
    symptoms.dominating,
)
NOTES: tuple[Callable[[Case], Found], ...] = (
    symptoms.listens,
    symptoms.blurred,
    symptoms.far_from_prior,
    symptoms.amortisation,
    symptoms.dispersion,
)
