"""Which finding explains which: a cause is told first, and what follows from it becomes a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..core.finding import SEVERITIES, Finding

# Causes in the order in which they act. Where a line has a finding of severity warning or error, whatever stands in a
# later line and is no graver may follow from it: mend that first and look again. Codes in no line stand for themselves.
TIERS: tuple[tuple[str, ...], ...] = (
    ("CH101", "CH102", "CH103", "CH104", "CH105", "TR112", "TR130", "LG111"),  # a step cannot be taken
    # data that the model or its likelihood cannot take
    ("DA128", "DA129", "DA130", "DA131", "DA132", "DA134", "DA137", "DA138", "DA141", "DA142", "DG127"),
    ("TR137",),  # data that are not scaled, seen when they broke a step
    # parts that cannot learn
    ("CH106", "CH107", "CH108", "CH109", "CH118", "CH120", "CH121", "TR140", "TR141", "TR139", "TR142", "TR143"),
    ("TR131", "TR132", "TR133", "TR134"),  # numbers that were not finite
    ("TR120", "TR123", "TR126", "CH116", "CH117", "DG105", "TR118"),  # the learning rate, and other bars to learning
    ("DG113", "DG114", "DG124", "LG102", "LG112"),  # the decoder's noise, and terms on other scales
    ("TR121", "TR119", "TR114", "TR117"),  # beta, free bits and targets
    ("DG116", "TR136"),  # saturated codes
    ("DA139",),  # far more latent dimensions than entries
    ("TR116", "TR115"),  # worse than a constant
    ("DG125",),  # the same, seen after training
    ("TR128", "DG122"),  # posteriors wider than the prior
    ("DG104",),  # a decoder that does not listen though there is something to hear
    ("TR122", "TR101"),  # other collapses
    ("DG101", "DG102", "DG103", "DG110"),  # collapse and small beta, seen after training
    ("DG117", "DG118", "TR125", "TR135"),  # dead and saturated units
    ("TR129", "DG123"),  # posteriors that are points
    ("TR127", "DG121"),  # one dimension
    ("TR110", "DG128", "DG111"),  # samples
    ("TR113",),  # single evaluations
    ("TR106",),  # a run that was too short
    ("CH110", "CH111", "CH112", "CH113"),  # the start
)
TIER = {code: tier for tier, codes in enumerate(TIERS) for code in codes}
PRESSING = ("warning", "error")


def explained(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, the cause first; what follows from it is kept as a note that names the cause.

    Example:
        >>> beta = Finding("TR121", "error", "posterior collapse: beta is too high")
        >>> worse = Finding("TR115", "warning", "worse than a constant")
        >>> [(found.code, found.severity) for found in explained([worse, beta])]
        [('TR121', 'error'), ('TR115', 'info')]
    """
    pressing = [finding for finding in findings if finding.severity in PRESSING and finding.code in TIER]
    told = [_told(finding, pressing) for finding in findings]
    return sorted(told, key=_order)


def _told(finding: Finding, pressing: Sequence[Finding]) -> Finding:
    """The finding, or a note where something before it, and no less grave, may be its cause."""
    tier, gravity = TIER.get(finding.code, -1), SEVERITIES.index(finding.severity)
    before = [other for other in pressing if TIER[other.code] < tier and SEVERITIES.index(other.severity) >= gravity]
    if finding.severity not in PRESSING or not before:
        return finding
    root = min(before, key=lambda other: TIER[other.code])
    why = f"follows from {root.code}, or is hidden by it: mend that first"
    return replace(finding, severity="info", why=why, advice="", edit={}, expected="")


def _order(finding: Finding) -> tuple[bool, int, int]:
    """Pressing ones first: causes in the order of the lines, then the rest, errors before warnings."""
    if finding.severity not in PRESSING:
        return True, 0, 0
    return False, TIER.get(finding.code, len(TIERS)), -SEVERITIES.index(finding.severity)
