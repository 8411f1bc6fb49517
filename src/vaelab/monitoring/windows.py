"""Numbers of a training as sums and counts over windows of steps, which neighbours can be merged from exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_WINDOWS = 400  # as many points as a plot of a curve can show; beyond it neighbours are merged in pairs
HIGHEST = {"loss": "loss_max", "gradient_norm": "gradient_norm_max"}


@dataclass
class Window:
    """Sums and counts over some steps, and the highest values of single steps.

    Args:
        step: The last of the steps.
        sums: By role: numbers or [L]; and `codes`, how often each code was used, [K].
        counts: By role: how many values the sum is of.
        highest: By role.
    """

    step: float = 0.0
    steps: int = 0
    sums: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    highest: dict[str, float] = field(default_factory=dict)

    def add(self, role: str, total: Any, count: float = 1.0) -> None:
        """Adds a sum of so many values."""
        self.sums[role] = self.sums.get(role, 0.0) + total
        self.counts[role] = self.counts.get(role, 0.0) + count

    def top(self, role: str, value: float) -> None:
        """Takes a value into account where only the highest is kept."""
        self.highest[role] = max(self.highest.get(role, value), value)

    def merged(self, later: Window) -> Window:
        """This window and the next as one."""
        both = Window(later.step, self.steps + later.steps)
        for part in (self, later):
            for role, total in part.sums.items():
                both.sums[role] = both.sums.get(role, 0.0) + total
                both.counts[role] = both.counts.get(role, 0.0) + part.counts[role]
            for role, value in part.highest.items():
                both.top(role, value)
        return both

    def points(self) -> dict[str, Any]:
        """Values by the roles of the trace: means, and what follows from the moments and the codes."""
        plain = [role for role in self.sums if role not in ("codes", *MOMENTS)]
        means = {role: self.sums[role] / self.counts[role] for role in plain}
        return {**self._moments(), **means, **self.highest, **self._codes()}

    def _moments(self) -> dict[str, Any]:
        """KL of each dimension from N(0, 1) in nats, 1/2 (E mu^2 + E var - 1 - E log var), and the variances, [L]."""
        if "mu" not in self.sums:
            return {}
        mean, square, variance, log_variance = (self.sums[name] / self.counts[name] for name in MOMENTS)
        kl = 0.5 * (square + variance - 1 - log_variance)
        spread = np.maximum(square - mean**2, 0.0)
        return {"kl": kl.sum(), "kl_per_dimension": kl, "mean_variance": spread, "posterior_variance": variance}

    def _codes(self) -> dict[str, float]:
        """The share of the codes in use, beside what as many draws of equally likely codes would use; perplexity."""
        if "codes" not in self.sums:
            return {}
        used, draws = self.sums["codes"], self.sums["codes"].sum()
        share = used[used > 0] / draws
        reachable = len(used) * -np.expm1(draws * np.log1p(-1 / len(used))) if len(used) > 1 else 1.0
        return {
            "codes_used": min(1.0, float((used > 0).sum() / reachable)),
            "code_perplexity": float(np.exp(-(share * np.log(share)).sum())),
        }


MOMENTS = ("mu", "mu_square", "variance", "log_variance")


class Windows:
    """Windows of `every` steps, at most some 400 of them: beyond that `every` doubles."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.current = Window()
        self.closed: list[Window] = []

    @property
    def full(self) -> bool:
        """Whether the current window has all its steps."""
        return self.current.steps >= self.every

    def close(self) -> None:
        """Begins the next window."""
        self.closed.append(self.current)
        self.current = Window()
        if len(self.closed) >= MOST_WINDOWS:
            self.closed = [a.merged(b) for a, b in zip(self.closed[::2], self.closed[1::2], strict=True)]
            self.every *= 2

    def columns(self) -> dict[str, list[tuple[float, Any]]]:
        """(step, value) pairs by role, the unfinished window included."""
        found: dict[str, list[tuple[float, Any]]] = {}
        for step, role, value in self._points():
            found.setdefault(role, []).append((step, value))
        return found

    def _points(self) -> Iterator[tuple[float, str, Any]]:
        for window in (*self.closed, self.current):
            for role, value in window.points().items():
                yield window.step, role, value
