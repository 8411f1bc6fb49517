"""`Finding`: what every judgement returns, whether it comes before, during or after training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Severity = Literal["ok", "info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True)
class Finding:
    """One judgement, the number it rests on, its cause, and what to try first.

    Args:
        code: Stable name, two letters and three digits, such as `DA001`.
        severity: `ok`, `info`, `warning` or `error`.
        title: One line that a newcomer understands.
        measured: The number the judgement rests on; None only for a plain statement.
        unit: Unit of `measured`, such as "nats per sample".
        interval: Half-width of the 95 % interval of `measured` where it is estimated; None where it is exact.
        evidence: How the number was obtained.
        why: One sentence of cause.
        advice: What to try first, as an edit of the user's code or config.
        edit: The same as settings of a run, `{"objective.beta": 1.0}`, where it can be said so; `Config.edited` applies
            it. The advice is then these settings unless it says more.
        expected: What the edit should do to which number.

    Example:
        >>> print(Finding("TR101", "ok", "the model learns", measured=-3.25, unit="nats", interval=0.1))
        ok       TR101  the model learns: -3.25 ± 0.1 (95 %) nats
    """

    code: str
    severity: Severity
    title: str
    measured: float | None = None
    unit: str = ""
    interval: float | None = None
    evidence: str = ""
    why: str = ""
    advice: str = ""
    edit: dict[str, Any] = field(default_factory=dict, hash=False)
    expected: str = ""

    def __post_init__(self) -> None:
        if self.edit and not self.advice:
            object.__setattr__(self, "advice", settings_text(self.edit))

    @classmethod
    def from_dict(cls, plain: Any) -> Finding:
        """What `to_dict` gave, read back from a file.

        Raises:
            ValueError: if it is none.
        """
        try:
            found = cls(**plain)
        except TypeError as error:
            raise ValueError(f"no finding: {error}") from None
        numbers = (found.measured, found.interval)
        if found.severity not in SEVERITIES or not all(n is None or isinstance(n, int | float) for n in numbers):
            raise ValueError(f"no finding: severity {found.severity!r}, measured {found.measured!r}")
        return found

    @property
    def number(self) -> str:
        """The measured number with its interval and unit, or an empty string."""
        if self.measured is None:
            return ""
        spread = f" ± {self.interval:.2g} (95 %)" if self.interval is not None else ""
        return f"{self.measured:.6g}{spread} {self.unit}".strip()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"{self.severity:<8} {self.code}  {self.title}" + (f": {self.number}" if self.number else "")
        tail = [f"why: {self.why}" if self.why else "", f"try: {self.advice}" if self.advice else ""]
        tail += [f"expect: {self.expected}"] if self.expected else []
        return "\n         ".join([head, *(line for line in tail if line)])


def worst(findings: Iterable[Finding]) -> Severity:
    """The worst severity among findings; `ok` where there are none."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")


def settings_text(edit: Mapping[str, Any]) -> str:
    """Settings as they are written at the command line.

    Example:
        >>> settings_text({"objective.beta": 1.0, "train.clip_norm": None, "model.hidden": (64, 32)})
        'objective.beta=1.0 train.clip_norm=null model.hidden=[64,32]'
    """
    return " ".join(f"{key}={_setting(value)}" for key, value in edit.items())


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(_setting(item) for item in value)}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else f"{value}"
