"""The verdict at a glance, the first remedy and four numbers: words only, no judgement that no finding made before."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.finding import SEVERITIES, Finding, Severity, settings_text, worst
from ..core.units import bits_per_dimension
from ..measure.bound import selected_by
from ..measure.estimate import Z95
from ..monitoring.causes import PRESSING
from .in_use import in_use, label_entries

WORDS: dict[Severity, str] = {
    "ok": "Healthy",
    "info": "Healthy",
    "warning": "Worth a look",
    "error": "Something is wrong",
}
MARKS: dict[Severity, str] = {"ok": "✓", "info": "✓", "warning": "!", "error": "✕"}
LARGE = 1e6  # from here on digits after the point say nothing
FINISHED = "TR100"  # the finding that every finished run has
ACCURACY = ("TR180", "TR181")  # the findings that have the accuracy's interval
GIVEN_SHOWN = 4  # names of columns that are given beside a row


@dataclass(frozen=True)
class Verdict:
    """What a person sees first.

    Args:
        severity: The worst of all findings; a warning at least while the run has not ended.
        words: Two or three words for it.
        sentence: What was found, in one sentence.
        headline: The leading finding in its own words, or what `words` say where there is none.
        because: Its cause in one sentence.
        command: What to type to train again with its remedy; empty where that is not one of settings.
        expected: What that should do.
        action: What to do where no finding is pressing.
    """

    severity: Severity
    words: str
    sentence: str
    headline: str
    because: str
    command: str = ""
    expected: str = ""
    action: str = ""

    @property
    def mark(self) -> str:
        """One character that can be told apart without its colour."""
        return MARKS[self.severity]


@dataclass(frozen=True)
class Number:
    """A number that matters: its name, its value as text, its unit, and a remark."""

    name: str
    value: str
    unit: str
    remark: str = ""


def verdict(run: Any) -> Verdict:
    """The worst that any finding says, what it is, and what to do first."""
    findings = run.findings
    pressing, unfinished = urgent(findings), _unfinished(run)
    floor: Severity = "warning" if unfinished else "ok"
    severity: Severity = max(worst(findings), floor, key=SEVERITIES.index)
    parts = ([_lead(pressing)] if pressing else []) + ([unfinished] if unfinished else [])
    sentence = _sentence("; ".join(parts) or _fine(findings))
    lead = pressing[0] if pressing else Finding("", severity, WORDS[severity])
    causes = [part for part in (lead.why, unfinished) if part] if pressing else []
    return Verdict(
        severity,
        WORDS[severity],
        sentence,
        headline=_sentence(lead.title)[:-1],
        because=_sentence("; ".join(causes)) if causes else sentence,
        command=again(run, lead.edit),
        expected=lead.expected if lead.edit else "",
        action="Continue the run: vaelab train --resume, and its folder." if unfinished else "Nothing has to be done.",
    )


def urgent(findings: list[Finding]) -> list[Finding]:
    """Errors, then warnings, each in the order they were found."""
    serious = [finding for finding in findings if finding.severity in PRESSING]
    return sorted(serious, key=lambda finding: -SEVERITIES.index(finding.severity))


def again(run: Any, edit: Mapping[str, Any]) -> str:
    """What to type to train a new run with some settings changed; in Python where a command cannot name the data."""
    if not edit:
        return ""
    own = [f"{part}={part}, " for part in ("model", "objective") if run.environment.get(f"own_{part}")]
    if own or run.config.data.source is None:
        return f"vaelab.train(x, {''.join(own)}config=run.config.edited({dict(edit)!r}))"
    settings = [settings_text({key: value}) for key, value in edit.items()]
    return shlex.join(["vaelab", "train", "--config", str(Path(run.folder) / "config.yaml"), *settings])


def stopped(run: Any) -> Mapping[str, Any] | None:
    """The refused step at which a run gave up, as its line of metrics; None for a run that went on."""
    reached = max((line["step"] for line in run.history if line["kind"] in ("train", "held_out")), default=0)
    refused = [line for line in run.history if line["kind"] == "event" and line["what"] == "refused"]
    over = any(finding.code == FINISHED for finding in run.findings)
    return None if over or not refused or refused[-1]["step"] < reached else refused[-1]


def numbers(run: Any) -> list[Number]:
    """Held-out negative ELBO, its terms, how much of the code is in use; without an evaluation, where it stopped."""
    summary: Mapping[str, Any] = run.metrics
    if not summary:
        return _last_words(run)
    name, bound, spread = selected_by(summary)
    error = f"± {_shown(Z95 * spread)} nats"
    remark = "± 95 %, over held-out rows"
    if (
        run.is_mass and not run.spec.vocabulary and summary.get("is_bound", True) and summary.get("charged", True)
    ):  # a density has no code length
        remark += f"; {_shown(bits_per_dimension(bound, math.prod(run.spec.shape)), 3)} bits per dimension"
    first = Number(f"held-out {name}", _shown(bound), error, remark)
    return [first, *(_terms(run) if summary.get("is_bound", True) else []), *_accuracy(run)]


def _terms(run: Any) -> list[Number]:
    """The two terms of the bound, and how much of the code is in use."""
    unit, active, whole = in_use(run) or (None, None, 0)
    terms = [
        Number("reconstruction", _shown(run.metrics["reconstruction"]), "nats", "-log p(x|z), held-out mean"),
        Number("KL", _shown(run.metrics["kl"]), "nats", "what the code carries about a row, at most"),
    ]
    return terms if unit is None else [*terms, Number(unit.name, f"{active}", f"of {whole} {unit.noun}", unit.rule)]


def _accuracy(run: Any) -> list[Number]:
    """How often a model that tells labels is right, with the interval of its finding; nothing for others."""
    if "accuracy" not in run.metrics:
        return []
    half = next((finding.interval for finding in run.findings if finding.code in ACCURACY), None)
    unit = "%" if half is None else f"± {half:.1f} %"
    rows = f"of {run.metrics['labelled_rows']} held-out rows given their own label"
    return [Number("accuracy", f"{100 * run.metrics['accuracy']:.2f}", unit, rows + ("; ± 95 %" if half else ""))]


def given(run: Any) -> str:
    """What stands beside the rows, so that the head of the page says what its numbers are of; empty for nothing."""
    names, classes = run.spec.condition, run.spec.classes
    if not names:
        return ""
    if label_entries(run):
        return f"{sum(run.spec.frequencies):,} of the training rows labelled"
    what = f"the label ({classes} labels)" if classes else ", ".join(names[:GIVEN_SHOWN])
    more = "" if classes or len(names) <= GIVEN_SHOWN else f" and {len(names) - GIVEN_SHOWN} more"
    return f"every number is given {what}{more}"


def _shown(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if abs(value) < LARGE else f"{value:.3g}"


def _last_words(run: Any) -> list[Number]:
    end = stopped(run)
    if end is None:
        return []
    refused = sum(line["kind"] == "event" and line["what"] == "refused" for line in run.history)
    loss = [line["loss"] for line in run.history if line["kind"] == "train" and line.get("loss") is not None]
    return [
        Number("stopped at step", f"{end['step']}", f"of {run.config.train.total}", "the weights before it are saved"),
        Number("last loss", f"{loss[-1]:.2f}" if loss else "none", "nats" * bool(loss), "mean of the last line"),
        Number("loss of that step", _not_finite(end["loss"]), "", "not let into the weights"),
        Number("refused steps", f"{refused}", "", "loss or gradient not finite"),
    ]


def _not_finite(value: float | None) -> str:
    return "NaN" if value is None else f"{value:.3g}"


def _unfinished(run: Any) -> str:
    """Why the model cannot be judged, or an empty string."""
    last, end = max((line["step"] for line in run.history), default=0), stopped(run)
    if end is not None:
        kept = ": the numbers are those of the last evaluation" if run.metrics else ", before any evaluation"
        return f"training stopped at step {end['step']} of {run.config.train.total}{kept}"
    if not run.metrics and last >= run.config.train.total:
        return "no held-out evaluation was finite, so that there is no model to look at"
    if not run.metrics:
        return f"there is no evaluation yet after {last} steps, so that nothing can be said; continue with --resume"
    if any(finding.code == FINISHED for finding in run.findings):
        return ""
    of = f"at step {last} of {run.config.train.steps}"
    return f"training has not ended: these are the numbers so far, {of}; continue with --resume"


def _fine(findings: list[Finding]) -> str:
    better = any(finding.severity == "info" and finding.advice for finding in findings)
    return "no check found anything wrong" + "; the notes say what could be better" * better


def _lead(pressing: list[Finding]) -> str:
    first, more = pressing[0], len(pressing) - 1
    return first.title + (f" (and {more} more finding{'s' * (more > 1)} below)" if more else "")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
