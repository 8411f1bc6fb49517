"""Rules about the labels that a finished run tells."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

from ..core.finding import Finding

FEW_ERRORS = 2.5  # standard errors that always guessing the commonest label would have
NORMAL_95 = 1.96


def label_rules(selected: dict[str, Any]) -> Iterator[Finding]:
    """How often the classifier of a run is right; nothing for a model without one.

    Args:
        selected: The held-out numbers of the selected weights; without `accuracy` there is no classifier.
    """
    if "accuracy" not in selected:
        return
    share, commonest, rows = selected["accuracy"], selected["commonest_label"], selected["labelled_rows"]
    blind = share - commonest <= FEW_ERRORS * sqrt(commonest * (1 - commonest) / rows)
    yield Finding(
        "TR181" if blind else "TR180",
        "warning" if blind else "ok",
        "the classifier is not shown to tell labels" if blind else "accuracy of the classifier",
        100 * share,
        "% of the held-out rows with a known label",
        100 * wilson(share, rows, NORMAL_95)[1],
        f"the commonest label is that of {100 * commonest:.1f} %",
        why="too few labels, too few steps, or labels that have nothing to do with the rows" if blind else "",
        advice="more labelled rows, more steps, or model.classifier_weight=1" if blind else "",
        expected="more right than by always guessing the commonest label" if blind else "",
    )


def wilson(share: float, count: float, errors: float) -> tuple[float, float]:
    """Middle and half-width of the interval around a share, of so many standard errors (Wilson, 1927).

    Args:
        share: Of `count` independent rows, from 0 to 1.
        count: At least 1.
        errors: Half-width in standard errors; 1.96 for 95 %.

    Example:
        >>> [round(number, 4) for number in wilson(1.0, 20, 1.96)]
        [0.9194, 0.0806]
    """
    added = errors**2 / count
    half = errors * sqrt(share * (1 - share) / count + added / (4 * count)) / (1 + added)
    return (share + added / 2) / (1 + added), half
