"""`compare_text` and `write_compare`: runs side by side, and which of their numbers may be compared at all."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.batch import Batch
from ..core.config import flat
from ..core.durable import write_text
from ..core.errors import BadInput, one_line
from ..core.files import read_json
from ..core.seeds import seed_global
from ..measure.estimate import Z95, mean_of
from ..models.prepare import COUNTS, LEVELS
from .beside import sections
from .in_use import in_use
from .page import template
from .verdict import verdict

SAMPLES, CHUNK = 8, 256  # posterior samples of a row whose bound is taken, and rows at once
WIDTH = 34  # letters of a column of the text
# What a bound is the logarithm of; only those of one kind can be subtracted. All densities are on the data's own scale.
KINDS = {
    **dict.fromkeys(("gaussian", "laplace", "student_t"), "a density"),
    "continuous_bernoulli": "a density",
    **dict.fromkeys((*LEVELS, *COUNTS), "a probability of whole numbers"),
    "multinomial": "a probability of counts, their total given",
    "bernoulli": "a probability of bits",
}


@dataclass(frozen=True)
class Difference:
    """The held-out negative ELBO of a run minus that of the first one.

    Args:
        value: Nats per sample; None where the two cannot be compared.
        interval: Half-width of the 95 % interval.
        words: On what rows it was measured, or why it was not.
    """

    value: float | None
    interval: float = math.nan
    words: str = ""

    def __str__(self) -> str:
        return self.words if self.value is None else f"{self.value:+.2f} ± {self.interval:.2g} ({self.words})"


def write_compare(runs: Sequence[Any], path: str | os.PathLike[str]) -> Path:
    """Writes a page with the runs side by side, the first one being what the others are compared with.

    Args:
        runs: Two runs or more.
        path: The file.

    Returns:
        The file written.

    Raises:
        BadInput: for fewer than two runs.
        NoSpace: where the page cannot be written.
    """
    runs = _several(runs)
    page = template("compare.html").render(
        names=names(runs),
        verdicts=[(name, verdict(run)) for name, run in zip(names(runs), runs, strict=True)],
        outcome=outcome(runs),
        rows=rows(runs),
        settings=settings(runs),
        sections=[section for section in sections(runs, names(runs)) if section.panels],
    )
    write_text(Path(path), page)
    return Path(path)


def compare_text(runs: Sequence[Any]) -> str:
    """The same numbers as lines of text, a column for each run.

    Args:
        runs: Two runs or more; differences are those to the first one.

    Raises:
        BadInput: for fewer than two runs.
    """
    runs = _several(runs)
    table = [("", names(runs)), *rows(runs), *settings(runs)]
    first = max(len(name) for name, _ in table)
    lines = [line for name, cells in table for line in _line(name.ljust(first), cells)]
    return "\n".join([*lines, f"outcome   {outcome(runs)}"])


def names(runs: Sequence[Any]) -> list[str]:
    """The runs' folders, with as many of the folders around them as it takes to tell them apart."""
    paths = [Path(os.path.abspath(run.folder)).parts for run in runs]
    deepest = max(len(path) for path in paths)
    for depth in range(1, deepest + 1):
        told = ["/".join(path[-depth:]) for path in paths]
        if len(set(told)) == len({*paths}):
            break
    return told


def rows(runs: Sequence[Any]) -> list[tuple[str, list[str]]]:
    """The names of the numbers, and what each is for every run."""
    apart = ["", *(str(difference(runs[0], run)) for run in runs[1:])]
    return [
        ("finding", [verdict(run).headline for run in runs]),
        ("held-out negative ELBO", [_bound(run) for run in runs]),
        ("minus the first", apart),
        *((name, [read(run) for run in runs]) for name, read in FACTS.items()),
    ]


def settings(runs: Sequence[Any]) -> list[tuple[str, list[str]]]:
    """The settings in which any two of the runs differ."""
    told = [flat(run.config.model_dump(mode="json")) for run in runs]
    keys = dict.fromkeys(key for each in told for key in each)
    each_run = {key: [str(each.get(key, "–")) for each in told] for key in keys}
    return [(key, values) for key, values in each_run.items() if len(set(values)) > 1]


def outcome(runs: Sequence[Any]) -> str:
    """Which run has the lowest negative ELBO, in one sentence, and which ones cannot be compared with the first."""
    told = names(runs)
    found = dict(zip(told[1:], (difference(runs[0], run) for run in runs[1:]), strict=True))
    apart = {name: each.value for name, each in found.items() if each.value is not None}
    left = [f"{name} is {found[name].words}" for name in found if name not in apart]
    return "; ".join(([_best(told[0], apart, found)] if apart else []) + left)


def _best(first: str, apart: dict[str, float], found: dict[str, Difference]) -> str:
    certain = {name: value for name, value in apart.items() if abs(value) > found[name].interval}
    if not certain:
        return "the bounds do not differ by more than chance"
    best = min(certain, key=lambda name: certain[name])
    if certain[best] > 0:
        chance = "" if len(certain) == len(apart) else ", within chance of others"
        return f"{first} has the lowest negative ELBO{chance}"
    return f"{best} has the lowest negative ELBO, {-certain[best]:.2f} ± {found[best].interval:.2g} nats below {first}"


def difference(first: Any, other: Any) -> Difference:
    """The difference of two bounds, row by row where both runs hold the same rows out; see `Difference`."""
    reason = incomparable(first, other)
    if reason:
        return Difference(None, words=f"not comparable: {reason}")
    if same_rows(first, other):
        found = mean_of(bounds(other) - bounds(first))
        return Difference(found.value, found.interval, f"paired, {len(first.preview)} rows")
    apart = other.metrics["negative_elbo"] - first.metrics["negative_elbo"]
    errors = math.hypot(*(run.metrics["standard_error"] for run in (first, other)))
    return Difference(apart, Z95 * errors, "other held-out rows")


def incomparable(first: Any, other: Any) -> str:
    """Why two bounds are not of the same thing, or an empty string."""
    for run in (first, other):
        if not run.metrics:
            return f"{run.folder.name} has no evaluation"
    if first.spec.fingerprint != other.spec.fingerprint:
        return f"other data, {first.spec.name} and {other.spec.name}"
    if first.has_bound != other.has_bound:
        return "codes without noise have no bound"
    kinds = [_kind(run) for run in (first, other)]
    return "" if kinds[0] == kinds[1] else f"{kinds[0]} and {kinds[1]}"


def same_rows(first: Any, other: Any) -> bool:
    """Whether both runs hold the same rows out."""
    return first.spec.held_out_rows == other.spec.held_out_rows and np.array_equal(first.preview, other.preview)


@torch.no_grad()
def bounds(run: Any) -> np.ndarray:
    """The negative ELBO of each kept held-out row at beta = 1, nats on the data's own scale, [n].

    The draws follow from a fixed seed, and so do the bits of gray levels that are drawn anew at every step.
    """
    with torch.random.fork_rng(devices=[]):
        seed_global(0, "compare")
        x = run.spec.to_model(run.preview)
        x = x.clamp(0, 1).bernoulli() if run.spec.binarize == "dynamic" else x
        given, _ = run.conditions
        rows = x if given is None else Batch(x, given)
        parts = [-run.model.draw(part, samples=SAMPLES).elbo for part in rows.split(CHUNK)]
    return torch.cat(parts).double().numpy() - run.spec.log_abs_det


def _kind(run: Any) -> str:
    kind = KINDS.get(run.config.likelihood.name, run.config.likelihood.name)
    if run.config.likelihood.name != "bernoulli":
        return kind
    return f"{kind} ({run.spec.binarize})" if run.spec.binarize not in ("", "none") else "a cost of gray levels"


def _several(runs: Sequence[Any]) -> list[Any]:
    if len(runs) < 2:
        raise BadInput("runs", f"{len(runs)} given", "a comparison takes two or more", "name another run folder")
    return list(runs)


def _bound(run: Any) -> str:
    if not run.metrics:
        return "–"
    return f"{run.metrics['negative_elbo']:.2f} ± {Z95 * run.metrics['standard_error']:.2f}"


def _number(key: str) -> Callable[[Any], str]:
    return lambda run: f"{run.metrics[key]:.2f}" if run.metrics else "–"


def _kl(run: Any) -> str:
    return f"{run.metrics['kl']:.2f}" if run.metrics and run.has_bound else "–"


def _active(run: Any) -> str:
    found = in_use(run) if run.metrics else None
    return f"{found[1]} of {found[2]} {found[0].noun}" if found else "–"


def _steps(run: Any) -> str:
    last = max((line["step"] for line in run.history), default=0)
    kept = f"{run.metrics['step']} kept, " if run.metrics else ""
    return f"{kept}{last} of {run.config.train.total}"


def _seconds(run: Any) -> str:
    """Time spent in training, from the newest checkpoint."""
    saved = sorted(Path(run.folder).glob("checkpoints/step-*/progress.json"))
    return f"{read_json(saved[-1])['seconds']:.1f}" if saved else "–"


FACTS: dict[str, Callable[[Any], str]] = {
    "reconstruction": _number("reconstruction"),
    "KL": _kl,
    "in use": _active,
    "parameters": lambda run: f"{run.environment['parameters']:,}" if "parameters" in run.environment else "–",
    "steps": _steps,
    "seconds": _seconds,
}


def _line(name: str, cells: Sequence[str]) -> list[str]:
    """A row of the text, of as many lines as its longest cell takes."""
    wrapped = [textwrap.wrap(one_line(cell), WIDTH) or [""] for cell in cells]
    columns = [[name], *wrapped]
    widths = [len(name), *(WIDTH for _ in cells)]
    return [
        "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*columns, fillvalue="")
    ]
