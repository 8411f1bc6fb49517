"""The verdict in one sentence and four numbers: words only, no judgement that no finding made before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.finding import SEVERITIES, Finding, Severity, worst
from ..core.units import bits_per_dimension
from ..measure.bound import ACTIVE_NATS

WORDS: dict[Severity, str] = {
    "ok": "Healthy",
    "info": "Healthy",
    "warning": "Worth a look",
    "error": "Something is wrong",
}
FINISHED = "TR100"  # the finding that every finished run has


@dataclass(frozen=True)
class Verdict:
    """The worst severity, two or three words for it, one sentence, and what to do where no finding is pressing."""

    severity: Severity
    words: str
    sentence: str
    action: str = ""


@dataclass(frozen=True)
class Number:
    """A number that matters: its name, its value as text, its unit, and a remark."""

    name: str
    value: str
    unit: str
    remark: str = ""


def verdict(run: Any) -> Verdict:
    """The worst that any finding says, and what it is."""
    pressing, unfinished = urgent(run.findings), _unfinished(run)
    floor: Severity = "warning" if unfinished else "ok"
    severity: Severity = max(worst(run.findings), floor, key=SEVERITIES.index)
    parts = [_lead(pressing)] if pressing else []
    parts += [unfinished] if unfinished else []
    notes = sum(finding.severity == "info" and bool(finding.advice) for finding in run.findings)
    fine = "no check found anything wrong" + (
        f"; {notes} note{'s' * (notes > 1)} on what could be better" * bool(notes)
    )
    action = "Continue the run: vaelab train --resume, and its folder." if unfinished else "Nothing has to be done."
    return Verdict(severity, WORDS[severity], _sentence("; ".join(parts) or fine), action)


def urgent(findings: list[Finding]) -> list[Finding]:
    """Errors, then warnings, each in the order they were found."""
    serious = [finding for finding in findings if finding.severity in ("error", "warning")]
    return sorted(serious, key=lambda finding: -SEVERITIES.index(finding.severity))


def numbers(run: Any) -> list[Number]:
    """Held-out negative ELBO, its two terms, and the active units; nothing before the first evaluation."""
    summary: Mapping[str, Any] = run.metrics
    if not summary:
        return []
    bits = bits_per_dimension(summary["negative_elbo"], math.prod(run.spec.shape))
    error, groups = f"± {summary['standard_error']:.2f} nats", len(summary["kl_per_dimension"])
    remark = f"± its standard error; {bits:.3f} bits per dimension"
    units = f"of {groups}" + ("" if run.config.model.latent in (None, groups) else " in groups")
    active = f"latents with a KL above {ACTIVE_NATS} nats"
    return [
        Number("held-out negative ELBO", f"{summary['negative_elbo']:.2f}", error, remark),
        Number("reconstruction", f"{summary['reconstruction']:.2f}", "nats", "-log p(x|z), held-out mean"),
        Number("KL", f"{summary['kl']:.2f}", "nats", "what the code carries about a row, at most"),
        Number("active units", f"{summary['active_units']}", units, active),
    ]


def _unfinished(run: Any) -> str:
    """Why the model cannot be judged, or an empty string."""
    last = max((line["step"] for line in run.history), default=0)
    if not run.metrics:
        return f"there is no evaluation yet after {last} steps, so that nothing can be said; continue with --resume"
    if any(finding.code == FINISHED for finding in run.findings):
        return ""
    of = f"at step {last} of {run.config.train.steps}"
    return f"training has not ended: these are the numbers so far, {of}; continue with --resume"


def _lead(pressing: list[Finding]) -> str:
    first, more = pressing[0], len(pressing) - 1
    return first.title + (f" (and {more} more finding{'s' * (more > 1)} below)" if more else "")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
