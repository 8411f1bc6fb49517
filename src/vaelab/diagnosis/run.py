"""`diagnose_run`: what a trained model learned, in numbers with intervals, and what to do about what it did not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..core.finding import Finding
from ..measure.estimate import Estimate
from .case import Case
from .drawn import Drawn, draw
from .judge import judge
from .measured import measure


@dataclass(frozen=True)
class Diagnosis:
    """The numbers of a run, each with its interval, and the findings that rest on them.

    Args:
        numbers: By name; one number, or one for each dimension.
        findings: Causes first, then symptoms without a known cause, then notes.
        heading: What was read, for a log: which tag was taken for which role.
    """

    numbers: dict[str, Estimate] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    heading: str = ""

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        numbers = {name: number.to_dict() for name, number in self.numbers.items()}
        return {"numbers": numbers, "findings": [finding.to_dict() for finding in self.findings]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        numbers = {name: Estimate.from_dict(number) for name, number in plain["numbers"].items()}
        return cls(numbers, [Finding.from_dict(finding) for finding in plain["findings"]])

    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings)


def diagnose_run(run: Any, seed: int = 0) -> Diagnosis:
    """Measures a finished run on its held-out rows and says what is wrong, from which number, and what to do first.

    The model and the state of all random generators are as they were; the same seed gives the same numbers.

    Args:
        run: A `vaelab.Run`.
        seed: Of the draws.
    """
    drawn = draw(run, seed)
    numbers = measure(drawn)
    return Diagnosis(numbers, judge(_case(drawn, numbers)))


def _case(drawn: Drawn, numbers: dict[str, Estimate]) -> Case:
    return Case(
        config=drawn.config,
        numbers=numbers,
        rows=len(drawn.held_out.x),
        beta=drawn.beta,
        fixed_noise=drawn.fixed_noise,
        counts=drawn.config.likelihood.name == "poisson",
        image=drawn.image,
    )
