"""The verdict in one sentence and four numbers, in words only: no judgement is made here that no finding made before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vaelab.core.finding import SEVERITIES, Finding, Severity, worst

WORDS: dict[Severity, str] = {
    "ok": "Healthy",
    "info": "Healthy",
    "warning": "Worth a look",
    "error": "Something is wrong",
}
UNJUDGED = "there is no evaluation yet, so nothing can be said about the model; train for longer or resume the run"


@dataclass(frozen=True)
class Verdict:
    """The worst severity, two or three words for it, and one sentence."""

    severity: Severity
    words: str
    sentence: str


@dataclass(frozen=True)
class Number:
    """A number that matters: its name, its value as text, its unit, and a remark."""

    name: str
    value: str
    unit: str
    remark: str = ""


def verdict(run: Any) -> Verdict:
    """The worst that any finding says, and what it is."""
    severity = worst(run.findings)
    if not run.summary:
        severity = max(severity, "warning", key=SEVERITIES.index)
    pressing = urgent(run.findings)
    parts = [_lead(pressing)] if pressing else []
    parts += [] if run.summary else [UNJUDGED]
    return Verdict(severity, WORDS[severity], _sentence("; ".join(parts) or "nothing that was checked looks wrong"))


def urgent(findings: list[Finding]) -> list[Finding]:
    """Errors, then warnings, each in the order they were found."""
    serious = [finding for finding in findings if finding.severity in ("error", "warning")]
    return sorted(serious, key=lambda finding: -SEVERITIES.index(finding.severity))


def numbers(run: Any) -> list[Number]:
    """Held-out negative ELBO, its two terms, and the active units; nothing before the first evaluation."""
    summary: Mapping[str, Any] = run.summary
    if not summary:
        return []
    error, training = summary.get("standard_error"), summary.get("training_negative_elbo")
    bits = summary.get("bits_per_dimension")
    nats = "nats" if error is None else f"± {error:.2f} nats"
    remarks = [
        "" if bits is None else f"{bits:.3f} bits per dimension",
        "" if training is None else f"{_fixed(training)} on the training rows",
    ]
    return [
        Number("held-out negative ELBO", _fixed(summary["negative_elbo"]), nats, " · ".join(filter(None, remarks))),
        Number("reconstruction", _fixed(summary["reconstruction"]), "nats", "-log p(x|z), held-out mean"),
        Number("KL", _fixed(summary["kl"]), "nats", "what the code carries at most about a row"),
        Number("active units", f"{summary['active_units']}", f"of {run.latent}", "latents whose mean varies with x"),
    ]


def _lead(pressing: list[Finding]) -> str:
    first, more = pressing[0], len(pressing) - 1
    return first.title + (f" (and {more} more finding{'s' * (more > 1)} below)" if more else "")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _fixed(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2f}"
