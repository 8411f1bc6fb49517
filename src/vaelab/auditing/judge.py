"""Measurements in, findings out: what is wrong with a loss, from which number, and what to change."""

from __future__ import annotations

from collections.abc import Callable

from ..core.finding import Finding
from .case import Case
from .judge_numbers import constants, data_range, gradients, numbers, sum_of_terms
from .judge_sizes import sizes, unit, weight
from .judge_terms import bends, divergence, named_wrong, reconstruction, signs

RULES: tuple[Callable[[Case], list[Finding]], ...] = (
    reconstruction,
    named_wrong,
    signs,
    divergence,
    bends,
    sizes,
    gradients,
    constants,
    sum_of_terms,
    weight,
    numbers,
    data_range,
    unit,
)


def judge(case: Case) -> list[Finding]:
    """All findings on a loss."""
    return [found for rule in RULES for found in rule(case)]
