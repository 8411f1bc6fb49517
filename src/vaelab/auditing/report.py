"""`AuditReport`: what an audit says, as a page, as JSON, and as SARIF for code scanning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from ..core.finding import SEVERITIES, Finding, Severity, worst
from .codes import NAMES

PAGES = "docs/audit"
LEVELS = {"error": "error", "warning": "warning", "info": "note", "ok": "none"}


@dataclass(frozen=True)
class AuditReport:
    """What an audit found out.

    For `L = (1/B) sum_i (a R_i + b KL_i) + const`, with R_i the negative log-likelihood and KL_i the divergence of
    sample i in nats, effective beta is b / a.

    Args:
        subject: What was audited.
        verdict: One sentence.
        findings: Judgements, the worst first.
        effective_beta: b / a at `sizes`; for a residual family at unit noise. NaN where it cannot be said.
        implied_noise: sigma^2 (squared error) or b (absolute error) at beta = 1, in the data's units squared or plain;
            None for other families.
        reconstruction: The family of the reconstruction term.
        second_head: How the divergence reads the second head; None where there is none or it cannot be told.
        scaling: Exponents of effective beta in `batch`, `pixels` and `latents`, and in single axes of the data where
            they differ ("pixels axis 0"); None where a size could not be varied.
        unit: The unit of the number that is returned.
        declared_beta: The weight that the user declared, or 1.
        sizes: Sizes at which effective beta is stated.
        arguments: Role of each argument, in the callable's order.
        framework: Whose tensors were used, and in which precision.
        measured: The further numbers the verdict rests on, by name, with their units.
        notes: Plain remarks.
    """

    subject: str
    verdict: str
    findings: tuple[Finding, ...]
    effective_beta: float = float("nan")
    implied_noise: float | None = None
    reconstruction: str = "unknown"
    second_head: str | None = None
    scaling: Mapping[str, float | None] = field(default_factory=dict)
    unit: str = "unknown"
    declared_beta: float = 1.0
    sizes: Mapping[str, int] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    framework: str = ""
    measured: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """The worst severity among the findings."""
        return worst(self.findings)

    @property
    def status(self) -> int:
        """The exit status: 1 where a finding is an error."""
        return int(self.severity == "error")

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the findings, the worst first."""
        return tuple(finding.code for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes None."""
        return _plain(asdict(self) | {"severity": self.severity})

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_sarif(self, file: str | None = None, line: int = 1) -> dict[str, Any]:
        """The findings in SARIF 2.1.0, for code scanning.

        Args:
            file: Path of the audited source; the subject without it.
            line: Line where the callable begins.
        """
        place = {"physicalLocation": {"artifactLocation": {"uri": file or self.subject}, "region": {"startLine": line}}}
        shown = [finding for finding in self.findings if finding.severity != "ok"]
        rules = [
            {
                "id": code,
                "name": NAMES.get(code, code),
                "helpUri": f"{PAGES}/{code}.md",
                "shortDescription": {"text": NAMES.get(code, code)},
            }
            for code in sorted({finding.code for finding in shown})
        ]
        results = [
            {"ruleId": f.code, "level": LEVELS[f.severity], "message": {"text": _message(f)}, "locations": [place]}
            for f in shown
        ]
        return {
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{"tool": {"driver": {"name": "vaelab audit", "rules": rules}}, "results": results}],
        }

    def __str__(self) -> str:
        rows = [("audit", self.subject), *self._rows(), *(("note", note) for note in self.notes)]
        width = max(len(name) for name, _ in rows) + 1
        lines = [f"{name:<{width}} {value}" for name, value in rows]
        for finding in self.findings:
            page = [f"         more: {PAGES}/{finding.code}.md"] if finding.code in NAMES else []
            seen = [f"         seen: {finding.evidence}"] if finding.evidence else []
            whole = SEVERITIES.index(finding.severity) >= SEVERITIES.index("warning")
            # What is merely worth knowing takes one line; its page says the rest.
            lines += [str(finding), *seen, *page] if whole else [str(finding).splitlines()[0]]
        return "\n".join([*lines, f"{'verdict':<{width}} {self.verdict}"])

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("arguments", " ".join(self.arguments)), ("called with", self.framework)]
        if self.sizes:
            rows.append(("sizes", ", ".join(f"{name} {size}" for name, size in self.sizes.items())))
        rows += list(self.measured.items())
        return [(name, value) for name, value in rows if value]


def sorted_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """The worst first; among equals in the order in which they were found."""
    return tuple(sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity)))


def _message(finding: Finding) -> str:
    parts = [f"{finding.title}: {finding.number}" if finding.number else finding.title, finding.why, finding.advice]
    return ". ".join(part for part in parts if part)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
