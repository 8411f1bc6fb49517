"""Who is to blame for a step that is not finite, and how the learning rate goes down and comes back.

A run goes back once for a step, with half the learning rate. Where the same step fails again, its batch is on trial: it
is left out, and if a step soon after is finite the batch was to blame and the rate is restored; if not, the weights
were, and the run goes back again with half of what the rate was. All that is known stands in `Progress`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .checkpoint import Progress

MOST_ROLLBACKS = 16  # each factor is tried twice at most: enough for eight halvings, down to 1/256 of the rate
MOST_ON_TRIAL = 3  # batches at fault are rare, and three of them in a row are not: weights gone astray fail every time
MOST_FAILURES = 2  # one failure from a factor may be chance; after two the rate stays below it
OUTLIVE = ("refused", "rollbacks", "rate_factor", "suspect", "trial", "blamed", "failures")  # what going back keeps
REFUSALS = ("refused", "skipped", "rollback")  # events that did happen, even where the steps are done once more


def leave_out(progress: Progress, number: int) -> bool:
    """Whether a refused step is left out, its batch being at fault or on trial; else the run has to go back."""
    if number in progress.blamed:
        return True
    if number == progress.suspect or 0 < len(progress.trial) < MOST_ON_TRIAL:
        progress.trial.append(number)
        return True
    return False


def lower(progress: Progress, number: int, passing: bool) -> None:
    """Notes that the run goes back for a step, with half the learning rate.

    Args:
        passing: The step was finite when it was done again, which is not held against the rate.
    """
    _count(progress, 0 if passing else 1)
    progress.suspect = progress.trial[0] if progress.trial else number
    progress.trial = []
    progress.rate_factor /= 2
    progress.rollbacks += 1


def acquitted(progress: Progress) -> bool:
    """After a finite step: whether that ends a trial. Then the batches were to blame, and the rate is restored."""
    if not progress.trial:
        return False
    progress.blamed = [*progress.blamed, *progress.trial]
    progress.trial, progress.suspect = [], None
    progress.rate_factor = min(1.0, 2 * progress.rate_factor)
    _count(progress, -1)
    return True


def recovered(progress: Progress) -> bool:
    """At a checkpoint reached without a fault: doubles the rate, unless it has failed from there often enough."""
    higher = 2 * progress.rate_factor
    if higher > 1 or progress.failures.get(repr(higher), 0) >= MOST_FAILURES:
        return False
    progress.rate_factor = higher
    return True


def gone_back(now: Progress, saved: Progress) -> Progress:
    """The saved progress with what is known now of faults."""
    return replace(saved, **{name: getattr(now, name) for name in OUTLIVE})


def refusals(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of metrics that outlive going back."""
    return [line for line in metrics if line["kind"] == "event" and line["what"] in REFUSALS]


def _count(progress: Progress, change: int) -> None:
    factor = repr(progress.rate_factor)
    progress.failures[factor] = max(0, progress.failures.get(factor, 0) + change)
