"""Rules about the labels that a finished run tells."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

from ..core.finding import Finding

FEW_ERRORS = 3  # standard errors


def label_rules(selected: dict[str, Any]) -> Iterator[Finding]:
    """How often the classifier of a run is right; nothing for a model without one.

    Args:
        selected: The held-out numbers of the selected weights; without `accuracy` there is no classifier.
    """
    if "accuracy" not in selected:
        return
    share, commonest = selected["accuracy"], selected["commonest_label"]
    error = sqrt(share * (1 - share) / selected["rows"])
    blind = share < commonest + FEW_ERRORS * error
    yield Finding(
        "TR181" if blind else "TR180",
        "warning" if blind else "ok",
        "the classifier tells no labels" if blind else "accuracy of the classifier",
        100 * share,
        "% of the held-out rows",
        196 * error,
        f"the commonest label is that of {100 * commonest:.1f} %",
        why="too few labels, too few steps, or labels that have nothing to do with the rows" if blind else "",
        advice="more labelled rows, more steps, or model.classifier_weight=1" if blind else "",
        expected="more right than by always guessing the commonest label" if blind else "",
    )
