"""Rules: small functions from a trace to findings, each threshold beside its reason, worst news first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..core.finding import Finding
from .rules_code import codes, collapse, dominating, holes, same_code, saturated_codes, units, variances
from .rules_loss import clipped, diverged, not_moving, overfitting, spikes
from .rules_numbers import not_finite
from .trace import Trace


def judge(trace: Trace) -> list[Finding]:
    """All findings of a trace; a rule without its series says nothing."""
    return [finding for rule in RULES for finding in rule(trace)]


RULES: tuple[Callable[[Trace], Iterator[Finding]], ...] = (
    not_finite,
    diverged,
    collapse,
    dominating,
    variances,
    holes,
    spikes,
    not_moving,
    overfitting,
    units,
    same_code,
    saturated_codes,
    codes,
    clipped,
)
