"""What stands in words and numbers instead of pictures: where a run broke, and the numbers of its diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .style import Panel
from .verdict import stopped

REFUSALS_TOLD = 20
# What the names of `diagnosis.measured` mean, in the order of the table.
NAMES: dict[str, str | None] = {
    "bound": "negative ELBO, held-out",
    "training_bound": "negative ELBO, training rows",
    "overfit_gap": "held-out minus training",
    "baseline": "best constant decoder",
    "skill": "better than the constant decoder by",
    "rate": "KL",
    "mutual_information": "information between row and code, I(x; z)",
    "information_ceiling": "the most that so many rows can show of it",
    "aggregate_kl": "KL of the aggregate posterior from the prior",
    "total_correlation": "total correlation of the code",
    "listening": "loss of log p(x|z) with another row's code",
    "amortisation_gap": "what optimising q for each row gains",
    "active_units_kl": "active units, by KL",
    "active_units_variance": "active units, by variance of the mean",
    "separability": "codes told from prior draws, 0.5 is not at all",
    "holes": "prior draws far from every code",
    "dispersion": "squared residuals",
    "training_dispersion": "squared residuals, training rows",
    "reconstruction_spread": "spread of reconstructions, of that of the rows",
    "diversity": "spread of samples, of that of reconstructions",
    "detail_reconstructions": "fine detail of reconstructions",
    "detail_samples": "fine detail of samples",
    "coverage": "coverage: rows with a sample near them",
    "density": "density: samples near rows",
    "nearest_training": "samples farther from training rows than held-out rows are",
    "distance_ratio": "distance of samples to training rows, over that of held-out rows",
    "copied": "samples that copy a training row",
    "copied_held_out": "held-out rows that copy a training row",
}


# What a few of them are for codes without noise, which have no KL; None: nothing.
POINTS = {
    "bound": "-log p(x|z), held-out",
    "training_bound": "-log p(x|z), training rows",
    **dict.fromkeys(("rate", "kl_per_dimension", "active_units_kl", "posterior_variance", "posterior_variance_median")),
}


def broken(run: Any) -> list[Panel]:
    """What happened at the step where the run gave up, and the refused steps before it; nothing for other runs."""
    end = stopped(run)
    if end is None:
        return []
    refused = [line for line in run.history if line["kind"] == "event" and line["what"] in ("refused", "rollback")]
    told = next((line for line in reversed(refused) if "layer" in line), end)
    rows = told.get("rows") or []
    last = [line for line in run.history if line["kind"] == "train" and line["step"] <= end["step"]]
    entries = {
        "step": f"{end['step']} of {run.config.train.total}",
        "what was found": told.get("text"),
        "layer": told.get("layer"),
        "operation": told.get("operation"),
        "rows of the batch": ", ".join(map(str, rows)) if rows else "all",
        "rows of the data, from 0": ", ".join(map(str, told.get("data_rows") or [])),
        "largest input of that call": _number(told.get("largest_input")),
        "largest weight of that layer": _number(told.get("largest_weight")),
        "loss of the step": _number(end.get("loss"), "NaN or infinite"),
        "gradient norm of the step": _number(end.get("gradient_norm"), "NaN or infinite"),
        "last line before it": _line(last[-1]) if last else "none: no step before it reached the record",
    }
    panels = [
        Panel(
            "The step that was not taken",
            "Its loss or gradient was not finite, so that it never reached the weights: the last checkpoint is intact. "
            "The step was done again to find the first call that is not finite.",
            wide=True,
            rows=tuple((name, text) for name, text in entries.items() if text),
            head=("", "at that step"),
        )
    ]
    return panels if len(refused) < 2 else [*panels, _refusals(refused)]


def _refusals(lines: list[Mapping[str, Any]]) -> Panel:
    shown = [
        (f"{line['what']}", f"{line['step']}", str(line.get("layer") or ""), _told(line))
        for line in lines[:REFUSALS_TOLD]
    ]
    more = f"The first {REFUSALS_TOLD} of {len(lines)}. " if len(lines) > REFUSALS_TOLD else ""
    caption = f"{more}Every step that was refused, and how the run went on."
    return Panel("Refused steps", caption, wide=True, rows=tuple(shown), head=("event", "step", "layer", "what"))


def _told(line: Mapping[str, Any]) -> str:
    if line["what"] == "rollback":
        return f"back to step {line['to']}, learning rate times {line['factor']:.3g}"
    return str(line.get("text") or f"loss {_number(line.get('loss'), 'not finite')}")


def _line(line: Mapping[str, Any]) -> str:
    told = (f"{name.replace('_', ' ')} {_number(line.get(name), 'not finite')}" for name in ("loss", "gradient_norm"))
    return f"step {line['step']}: {', '.join(told)}, learning rate {line.get('learning_rate', float('nan')):.3g}"


def _number(value: float | None, missing: str = "") -> str:
    return missing if value is None else f"{value:.4g}"


def diagnosed(run: Any) -> list[Panel]:
    """The numbers of the diagnosis with their intervals; nothing where none was made."""
    names = NAMES if run.has_bound else NAMES | POINTS
    found = {name: number for name, number in run.diagnosis.get("numbers", {}).items() if names.get(name, name)}
    order = [*(name for name in names if name in found), *(name for name in found if name not in names)]
    words = {name: names.get(name) or _words(name) for name in order}
    single = [_row(words[name], found[name]) for name in order if not isinstance(found[name]["value"], list)]
    spread = [_spread(words[name], found[name]) for name in order if isinstance(found[name]["value"], list)]
    panels = [
        Panel(
            "Numbers of the diagnosis",
            "Measured with the kept weights on held-out rows. An interval holds the true number 95 times in 100; "
            "without one the number is exact for the rows that were looked at.",
            wide=True,
            rows=tuple(single),
            head=("number", "value", "95 % interval", "unit"),
        ),
        Panel(
            "The same for each dimension or entry",
            "Lowest, middle and highest over the latent dimensions, or over the entries of a row.",
            wide=True,
            rows=tuple(spread),
            head=("number", "lowest", "middle", "highest", "unit"),
        ),
    ]
    return [panel for panel in panels if panel.rows]


def evaluated(run: Any) -> list[Panel]:
    """The numbers of the last `vaelab evaluate`, a table for each group; nothing where there was none."""
    found = run.evaluation
    about = "; ".join(f"{name}: {text}" for name, text in found.get("facts", {}).items() if name != "run")
    panels: list[Panel] = []
    for group, numbers in found.get("numbers", {}).items():
        single = [
            _row(_words(name), number) for name, number in numbers.items() if not isinstance(number["value"], list)
        ]
        panels.append(
            Panel(
                group.capitalize(),
                f"{about}." if not panels else "",
                wide=True,
                rows=tuple(single),
                head=("number", "value", "95 % interval", "unit"),
            )
        )
    return [panel for panel in panels if panel.rows]


def _row(name: str, number: Mapping[str, Any]) -> tuple[str, ...]:
    spread = "" if number["interval"] is None else f"± {number['interval']:.2g}"
    return name, _number(number["value"], "–"), spread, number["unit"]


def _spread(name: str, number: Mapping[str, Any]) -> tuple[str, ...]:
    values = np.array([value for value in number["value"] if value is not None], np.float64)
    parts = np.quantile(values, (0, 0.5, 1)) if values.size else np.full(3, np.nan)
    return name, *(f"{part:.4g}" for part in parts), number["unit"]


def _words(name: str) -> str:
    return NAMES.get(name) or name.replace("_", " ")
