"""Rules about the codes of a finished run: how much of a book is in use, and what a uniform prior costs."""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import Any

from ..core.finding import Finding

ENOUGH = 10  # held-out codes for each entry, below which an entry can be left out by chance
ALIKE = 1.5  # of so low a perplexity that nearly every code is the same
LOW_USE = 0.3  # of the book; from here on a book of half the size says as much
UNUSED = 0.5  # of the entries; a book of half the size holds the others


def code_rules(selected: dict[str, Any], settings: dict[str, Any]) -> Iterator[Finding]:
    """Findings about codes.

    Args:
        selected: The held-out numbers of the selected weights; without `code_perplexity` there are no codes.
        settings: Of the run, under dotted names.
    """
    if not selected.get("code_perplexity"):
        return
    symbols, seen = selected["codebook"], selected["codes_seen"]
    for level, perplexity in enumerate(selected["code_perplexity"]):
        which = f"book {level + 1} of {len(selected['code_perplexity'])}" if level or _several(selected) else "the book"
        yield _use(perplexity, symbols, seen, which, settings)
        if seen >= ENOUGH * symbols:
            yield from _unused(symbols - selected["codes_used"][level], symbols, seen, which)
    if settings.get("prior.after") == "none":
        yield from _uniform(selected, seen / selected["rows"])


def _several(selected: dict[str, Any]) -> bool:
    return len(selected["code_perplexity"]) > 1


def _use(perplexity: float, symbols: int, seen: int, which: str, settings: dict[str, Any]) -> Finding:
    """The perplexity of a book, as a share of its size."""
    number: dict[str, Any] = {
        "measured": 100 * perplexity / symbols,
        "unit": "% of the entries, by the perplexity of their use",
        "evidence": f"perplexity {perplexity:.4g} of {symbols} entries, over {seen} codes of held-out rows",
    }
    if perplexity < ALIKE:
        return Finding(
            "TR170",
            "warning",
            f"nearly every code is the same entry of {which}",
            **number,
            why="nothing tells the codes apart",
            advice="see which part does not learn: vaelab check, with the same settings",
            expected="a perplexity of tens",
        )
    if perplexity < LOW_USE * min(symbols, seen):
        smaller = {"model.codebook": max(2, 2 ** round(log(2 * perplexity, 2)))}
        return Finding(
            "TR171",
            "info",
            f"little of {which} is in use",
            **number,
            why="fewer entries would say as much",
            edit=smaller if settings.get("model.posterior") != "fsq" else {},
            advice="" if settings.get("model.posterior") != "fsq" else "fewer levels in model.code_levels",
            expected="a larger share",
        )
    return Finding("TR172", "ok", f"{which} is in use", **number)


def _unused(unused: int, symbols: int, seen: int, which: str) -> Iterator[Finding]:
    if unused:
        yield Finding(
            "TR173",
            "warning" if unused > UNUSED * symbols else "info",
            f"entries of {which} that no held-out row uses",
            float(unused),
            f"of {symbols} entries",
            evidence=f"{seen} codes of held-out rows",
            why="no row of these data is near them",
            advice="a smaller book",
            expected="hardly any",
        )


def _uniform(selected: dict[str, Any], codes: float) -> Iterator[Finding]:
    """What the uniform prior wastes on how often entries are used alone, whatever follows what."""
    levels = selected["code_perplexity"]
    wasted = codes / len(levels) * sum(log(selected["codebook"] / perplexity) for perplexity in levels)
    yield Finding(
        "TR174",
        "info",
        "the prior over the codes is uniform: samples from it are no rows, and the bound pays for it",
        wasted,
        "nats per sample, at least",
        evidence="entropy that the use of single entries lacks; which code follows which comes on top",
        why="training needs no other prior, samples and likelihoods do",
        edit={"prior.after": "autoregressive"},
        expected="rows that look like the data, and a higher bound by more than this",
    )
