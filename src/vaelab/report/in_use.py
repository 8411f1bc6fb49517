"""How much of a code is in use, and what that is counted in: one unit for each kind of model, on every page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..measure.bound import ACTIVE_NATS, ACTIVE_VARIANCE

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Unit:
    """What is counted.

    Args:
        name: Of the count.
        noun: Of what is counted.
        rule: What makes one count.
        count: From a line of held-out numbers, and the latent dimensions, to how many are in use; None where the line
            does not tell.
        whole: How many there are.
    """

    name: str
    noun: str
    rule: str
    count: Callable[[Line, int], int | None]
    whole: Callable[[Line, int], int]


def _above(key: str, limit: float) -> Callable[[Line, int], int | None]:
    def count(line: Line, size: int) -> int | None:
        values = line.get(key)
        return None if values is None else sum(value is not None and value > limit for value in values[:size])

    return count


UNITS = {
    "dimensions": Unit(
        "active units",
        "dimensions",
        f"latents with a KL above {ACTIVE_NATS} nats",
        _above("kl_per_dimension", ACTIVE_NATS),
        lambda line, size: size,
    ),
    "groups": Unit(
        "active groups",
        "groups",
        f"latent groups with a KL above {ACTIVE_NATS} nats",
        _above("kl_per_dimension", ACTIVE_NATS),
        lambda line, size: len(line["kl_per_dimension"]),
    ),
    "whole": Unit(
        "active units",
        "dimensions",
        f"latents whose mean varies by more than {ACTIVE_VARIANCE} over rows; the KL is known of the whole code alone",
        _above("mean_variance", ACTIVE_VARIANCE),
        lambda line, size: size,
    ),
    "entries": Unit(
        "codes in use",
        "entries",
        "entries of the book that a held-out row uses",
        lambda line, size: sum(line["codes_used"]) if line.get("codes_used") else None,
        lambda line, size: line["codebook"] * len(line["codes_used"]),
    ),
}


def label_entries(run: Any) -> int:
    """Entries of a code that are no latent dimensions: the labels of a model that guesses them."""
    return run.spec.classes if run.config.model.missing_labels != "refuse" else 0


def dimensions_of(run: Any) -> int:
    """Latent dimensions without the entries of a label, as the held-out numbers have them."""
    return len(run.metrics["mean_variance"]) - label_entries(run)


def kind_of(run: Any) -> str:
    """Which of `UNITS` fits a run with held-out numbers; "none" for codes without noise, which have no KL at all."""
    told = len(run.metrics["kl_per_dimension"]) - bool(label_entries(run))
    if "codebook" in run.metrics:
        return "entries"
    if not run.metrics.get("is_bound", True):
        return "none"
    if told == dimensions_of(run):
        return "dimensions"
    return "whole" if told == 1 else "groups"


def in_use(run: Any) -> tuple[Unit, int | None, int] | None:
    """The unit, how many are in use with the kept weights, and of how many; None where there is nothing to count."""
    if (unit := UNITS.get(kind_of(run))) is None:
        return None
    size = dimensions_of(run)
    return unit, unit.count(run.metrics, size), unit.whole(run.metrics, size)
