"""The examples of a model of strings: text beside text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..measure.strings import agreement
from .examples import between, far_apart, path_words, plane, quantiles, reconstructed
from .style import Panel

ROWS_SHOWN, SAMPLES, STEPS, PLANE_STEPS = 12, 1000, 11, 4
SHOWN_CHARACTERS = 160


def reconstructions(run: Any) -> list[Panel]:
    """Strings beside what became of them, from the best to the worst."""
    back = reconstructed(run)
    share = agreement(*(run.spec.to_model(rows).numpy() for rows in (run.preview, back)))
    rows = quantiles(-share, ROWS_SHOWN)
    lines = [(f"{100 * share[row]:.0f} %", run.preview[row], back[row]) for row in rows]
    caption = (
        f"{np.mean(back == run.preview):.1%} of {len(back)} held-out strings come back exactly. Shown are strings "
        "evenly spaced over all of them sorted by the share of tokens in their place. Healthy: the same kind of string "
        "on both sides; strings that all come back alike mean that the code carries nothing."
    )
    head = ("in place", "held-out", "reconstructed")
    return [_table("Strings from best to worst", caption, head, lines)]


def samples(run: Any) -> list[Panel]:
    """Strings drawn from the model, and how many of them differ from each other and from those it has seen."""
    made = run.sample(SAMPLES, seed=0, noisy=True)
    seen = np.unique(run.training_preview) if run.training_preview is not None else made[:0]
    caption = (
        f"Drawn token by token from p(x|z) with z from the prior. Of {SAMPLES} such strings "
        f"{len(np.unique(made)) / SAMPLES:.1%} are different, and {np.isin(made, seen).mean():.1%} stand among the "
        f"{len(seen)} kept training strings. Healthy: nearly all different, few among them."
    )
    likeliest = run.sample(ROWS_SHOWN, seed=0)
    lines = list(zip(made[:ROWS_SHOWN], likeliest, strict=True))
    return [_table("Strings from the prior", caption, ("drawn", "the likeliest token at each step"), lines)]


def interpolations(run: Any) -> list[Panel]:
    """Strings along a straight line between the codes of two held-out strings."""
    ends = far_apart(run, 1)
    lines = [(f"{step + 1}", string) for a, b in ends for step, string in enumerate(between(run, a, b, STEPS))]
    caption = (
        f"The likeliest token at each step, {path_words(run)} in latent space between two held-out strings that are "
        "far apart. Healthy: the string changes little by little, and stays a possible one."
    )
    return [_table("Interpolation", caption, ("step", "string"), lines)] if lines else []


def grid(run: Any) -> list[Panel]:
    """Strings over the plane of a model with two latents."""
    strings = plane(run, PLANE_STEPS).reshape(PLANE_STEPS, PLANE_STEPS)
    caption = "The likeliest strings at quantiles of the prior, z1 to the right and z2 upwards."
    return [_table("Decoded plane", caption, [f"{column + 1}" for column in range(PLANE_STEPS)], strings)]


def _table(title: str, caption: str, head: Sequence[str], lines: Iterable[Sequence[str]]) -> Panel:
    rows = tuple(tuple(str(cell)[:SHOWN_CHARACTERS] for cell in line) for line in lines)
    return Panel(title, caption, wide=True, rows=rows, head=tuple(head), strings=True)
