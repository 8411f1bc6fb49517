"""What a judgement may look at: the measurements, and what the user declared."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from .measured import Measured


@dataclass(frozen=True)
class Case:
    """What a judgement may look at.

    Args:
        m: The measurements.
        declared: The declared weight of the divergence.
        explicit: Whether it was given as `declared_beta`, which declares the dependence on sizes too.
        data: Smallest and largest value of the user's data, and its standard deviation; None without data.
        name: The callable's name.
        defined: False where what stands for the divergence is none, so that no beta can be said.
        by: The name of the constant that declares the weight; empty where none does.
    """

    m: Measured
    declared: float = 1.0
    explicit: bool = False
    data: tuple[float, float, float] | None = None
    name: str = ""
    by: str = ""
    defined: bool = True

    @property
    def beta(self) -> float:
        """Effective beta as the gradients have it: a divergence without gradient weighs nothing."""
        roles = self.m.probe.binding.roles
        if not self.defined or "mu" not in roles or "output" not in roles:
            return float("nan")
        lost = [self.m.slopes[r].missing for r in ("mu", "head") if r in self.m.slopes]
        if lost and all(lost):
            return 0.0
        if "output" in self.m.slopes and self.m.slopes["output"].missing and self.m.divergence.weight:
            return float("inf")
        return self.m.beta

    @property
    def tolerance(self) -> float:
        """How near two weights must be to count as equal."""
        return 0.15 if self.m.noise else 0.02

    @property
    def matches(self) -> bool:
        """Whether effective beta is the declared one."""
        return abs(self.beta / self.declared - 1) < max(0.01, self.m.noise) if self.declared else self.beta == 0

    @property
    def spread(self) -> float | None:
        """Half-width of the 95 % interval of effective beta; None where it is exact."""
        return self.m.noise * abs(self.m.beta) if self.m.noise else None

    @property
    def upside_down(self) -> bool:
        """Whether both terms have the sign of a bound that is maximised."""
        return self.m.reconstruction.weight < 0 and self.m.divergence.weight < 0

    def exponent(self, size: str, term: str = "beta") -> float:
        """The largest exponent in a size, over its axes."""
        found = [getattr(s, term) for name, s in self.m.scaling.items() if name.split(" ")[0] == size]
        return max((e for e in found if isfinite(e)), key=abs, default=0.0)

    @property
    def here(self) -> str:
        """The sizes at which effective beta is stated, in words."""
        return ", ".join(f"{name} {size}" for name, size in self.m.probe.layout.sizes.items())


def near(a: float, b: float, tolerance: float) -> bool:
    """Whether two numbers are equal up to a share of the larger one."""
    return abs(a - b) <= tolerance * max(abs(a), abs(b))
