"""A stranger's series brought to the conventions of a `Trace`: steps that rise, shapes, signs, lengths.

Each function changes `series`, a dictionary by role, and says what it did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..core.errors import one_line
from ..core.finding import Finding
from ..core.log_files import DISTINCT_STEPS, Points
from ..monitoring.tags import maximised
from ..monitoring.trace import ROLES, Series
from .log_terms import is_negative, mean_like, middle, rises, warmup_end
from .log_weights import wrong_sign

COSTS = ("loss", "reconstruction", "kl")
EPOCHS = 5.0  # training has this many times the steps of a counter of epochs, at the least
FEWEST = 3  # evaluations that make a curve
MAX_LENGTH = 2000  # points of a series: a curve shows no more, and the rules go over them one by one


def in_order(points: Points) -> tuple[Points, int, bool]:
    """Points with rising steps, how many a resumed run went over again, and whether steps had to be counted anew."""
    if len({step for step, _ in points}) < DISTINCT_STEPS * len(points):
        return [(float(index), value) for index, (_, value) in enumerate(points)], 0, True
    kept: Points = []
    replaced = 0
    for step, value in points:
        while kept and kept[-1][0] >= step:
            replaced += kept.pop()[0] > step
        kept.append((step, value))
    return kept, replaced, False


def mend_widths(series: dict[str, Series]) -> Iterator[Finding]:
    """A KL logged as a list is that of each dimension; other roles are one number, or a list, as `ROLES` says."""
    for role in ("kl", "held_out_kl"):
        if role in series and series[role].values.ndim == 2:
            one = series[role]
            series.setdefault(f"{role}_per_dimension", one)
            series[role] = Series(one.steps, one.values.sum(axis=1))
    for role in [role for role, one in series.items() if one.values.ndim != 1 + ("[L]" in ROLES[role])]:
        del series[role]
        yield Finding("LG110", "info", f"{role} is left out: it is {ROLES[role]}, and the log has another shape")


def mend_counters(series: dict[str, Series]) -> Iterator[Finding]:
    """Series counted in epochs beside others counted in steps are stretched to the same end."""
    end = max((one.steps[-1] for one in series.values()), default=0.0)
    for role, one in series.items():
        if len(one) >= FEWEST and np.all(np.diff(one.steps) == 1) and EPOCHS * (one.steps[-1] + 1) <= end:
            length = end / (one.steps[-1] - one.steps[0] + 1)
            series[role] = Series((one.steps - one.steps[0] + 1) * length, one.values)
            yield Finding(
                "LG110",
                "info",
                f"{role} is counted in epochs and other series in steps: it is stretched to their end",
                float(length),
                "steps per epoch",
                why="its numbers rise by one and end long before those of other series",
            )


def mend_signs(series: dict[str, Series], tags: Mapping[str, str]) -> Iterator[Finding]:
    """What was logged to be maximised, or with a minus sign, is turned round."""
    turned = [role for role, tag in tags.items() if role in series and _upside_down(role, tag, series)]
    for role in turned:
        series[role] = Series(series[role].steps, -series[role].values)
    if turned:
        names = one_line(", ".join(f"{tags[role]} ({role})" for role in turned))
        yield Finding(
            "LG107",
            "info",
            f"logged with the other sign and turned round: {names}",
            float(len(turned)),
            "series",
            why="here a loss, a reconstruction and a KL are costs: less is better",
        )


def _upside_down(role: str, tag: str, series: Mapping[str, Series]) -> bool:
    one = series[role]
    if role.removeprefix("held_out_") == "kl":
        return is_negative(one) and wrong_sign(series) is None
    if role.removeprefix("held_out_") not in COSTS or not maximised(tag):
        return False
    return rises(one) or middle(one.values) < 0


def mend_held_out(series: dict[str, Series]) -> Iterator[Finding]:
    """A held-out loss whose weight moves or is unknown is summed anew from its terms, or kept where it stands still."""
    beta, loss = series.get("beta"), series.get("held_out_loss")
    end = warmup_end(beta) if beta is not None else 0
    if loss is None or (beta is not None and end == 0) or (beta is None and not _can_be_summed(series)):
        return
    meanwhile = loss.steps <= end
    rose = bool(meanwhile.any()) and rises(Series(loss.steps[meanwhile], loss.values[meanwhile]))
    if _can_be_summed(series):
        reconstruction, kl = series["held_out_reconstruction"], series["held_out_kl"]
        weight = float(beta.last) if beta is not None else 1.0
        series["held_out_loss"] = Series(kl.steps, reconstruction.values + weight * kl.values)
        done = f"it is judged at weight {weight:.3g}, from its two terms"
    elif len(kept := loss.since(end)) >= FEWEST:
        series["held_out_loss"], done = kept, f"it is judged from step {end} on"
    else:
        del series["held_out_loss"]
        done = "it cannot be judged: too few evaluations follow"
    if end:
        yield Finding(
            "LG104",
            "info",
            f"the held-out loss {'rises' if rose else 'moves'} while the weight of the KL does: {done}",
            float(end),
            "steps until the weight stands still",
            why="a loss with a rising weight rises without any overfitting, since the same KL costs more",
            advice="compare the bound at weight 1, not the training loss" if rose else "",
        )


def _can_be_summed(series: Mapping[str, Series]) -> bool:
    """Whether both terms are there on held-out rows, at the same steps and on the scale of a bound."""
    reconstruction, kl = series.get("held_out_reconstruction"), series.get("held_out_kl")
    if reconstruction is None or kl is None or mean_like(reconstruction):
        return False
    return np.array_equal(reconstruction.steps, kl.steps)


def thinned(series: Mapping[str, Series]) -> dict[str, Series]:
    """Long series as means over equal stretches, as a run of ours logs them, with the highest loss of each."""
    thin = {role: _means(one) for role, one in series.items()}
    if "loss_max" not in series and "loss" in series and len(series["loss"]) > MAX_LENGTH:
        highest = np.array([part.max() for part in _stretches(series["loss"].values)])
        thin["loss_max"] = Series(thin["loss"].steps, highest)
    return thin


def _means(one: Series) -> Series:
    if len(one) <= MAX_LENGTH:
        return one
    ends = np.array([part[-1] for part in _stretches(one.steps)])
    return Series(ends, np.array([part.mean(axis=0) for part in _stretches(one.values)]))


def _stretches(values: np.ndarray) -> list[np.ndarray]:
    return np.array_split(values, min(MAX_LENGTH, len(values)))
