"""A diagnosis as a person reads it: findings, then a table of symptom, evidence, cause and what to change."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..core.durable import to_json
from ..core.finding import Finding, worst
from ..monitoring.causes import PRESSING

WIDTHS = (30, 30, 34, 34)
HEAD = ("symptom", "evidence", "cause", "what to change")
UNJUDGED = "LG105"  # the note that names the series which a log lacks
WORDS = {"ok": "healthy", "info": "healthy", "warning": "worth a look", "error": "something is wrong"}


def as_text(findings: Sequence[Finding], heading: str = "", command: str = "") -> str:
    """What `vaelab diagnose` prints.

    Args:
        findings: The cause first.
        heading: What was read.
        command: What applies the first remedy.
    """
    pressing = [finding for finding in findings if finding.severity in PRESSING]
    notes = [str(finding) for finding in findings if finding not in pressing]
    table = [_table(pressing)] if pressing else []
    judged = WORDS[worst(findings)]
    if not pressing and any(finding.code == UNJUDGED for finding in findings):
        judged = "nothing is wrong in what was logged; not everything could be judged"
    parts = [heading, *notes, *table, f"verdict   {judged}{_first(pressing)}"]
    parts += [f"next      {command}"] if command else []
    return "\n".join(part for part in parts if part)


def as_json(findings: Sequence[Finding], numbers: dict[str, object]) -> str:
    """The findings and the numbers as JSON."""
    return to_json({"findings": [finding.to_dict() for finding in findings], "numbers": numbers}, indent=1)


def cells(finding: Finding) -> tuple[str, str, str, str]:
    """Symptom, evidence, cause and what to change, of one finding."""
    evidence = "; ".join(part for part in (finding.number, finding.evidence) if part)
    change = "; ".join(part for part in (finding.advice, finding.expected and f"expect {finding.expected}") if part)
    return f"{finding.severity} {finding.code}: {finding.title}", evidence, finding.why, change


def _table(findings: Sequence[Finding]) -> str:
    rule = tuple("-" * width for width in WIDTHS)
    return "\n".join(_row(row) for row in (HEAD, rule, *(cells(finding) for finding in findings)))


def _row(row: Sequence[str]) -> str:
    wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, WIDTHS, strict=True)]
    lines = max(len(cell) for cell in wrapped)
    padded = [[*cell, *[""] * (lines - len(cell))] for cell in wrapped]
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(line, WIDTHS, strict=True)).rstrip()
        for line in zip(*padded, strict=True)
    )


def _first(pressing: Sequence[Finding]) -> str:
    return f": {pressing[0].title}" if pressing else ""
