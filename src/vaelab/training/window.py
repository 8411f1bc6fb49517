"""Sums and counts since the last line of metrics, kept without waiting for the device at every step."""

from __future__ import annotations

from typing import Any

import torch

from .engine import Engine


class Window:
    """Training numbers between two lines of metrics.

    Steps are added one after the other in float64, so that a run cut at a checkpoint adds up to the same bits.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: torch.Tensor | None = None  # [rows, terms..., KL per group...], this process's part
        self.plain: dict[str, float] = {}  # loss, gradient norm, share of clipped steps: the same in every process
        self.steps = 0
        self._pending: list[Any] = []

    def add(self, record: list[Any], **numbers: float) -> None:
        """Adds a step: (rows, sums of terms, sums of KL per group) of each slice, and numbers of the whole step."""
        self._pending += record
        for name, value in numbers.items():
            self.plain[name] = self.plain.get(name, 0.0) + value
        self.steps += 1

    def line(self, engine: Engine, shift: float) -> dict[str, Any]:
        """Means over the window: terms in nats per sample on the data's own scale."""
        self._settle()
        plain = {name: value / self.steps for name, value in self.plain.items()}
        if self.sums is None:
            return plain
        rows, *values = engine.total(self.sums.clone()).tolist()
        means = [value / rows for value in values]
        terms = dict(zip(self.names, means, strict=False))
        loss = engine.total(torch.tensor(plain.pop("loss"), dtype=torch.float64)).item()
        terms["reconstruction"] -= shift
        line = {"loss": loss / engine.world - shift, **terms, **plain}
        return line | {"kl_per_dimension": means[len(self.names) :]}

    def saved(self, engine: Engine) -> dict[str, Any]:
        """Plain values for a checkpoint; sums are those of all processes, held by the first."""
        self._settle()
        if engine.world > 1 and self.sums is not None:
            self.sums = engine.total(self.sums)
            self.plain["loss"] = (
                engine.total(torch.tensor(self.plain["loss"], dtype=torch.float64)).item() / engine.world
            )
            if not engine.is_main:
                self.sums = torch.zeros_like(self.sums)
        sums = None if self.sums is None else self.sums.tolist()
        return {"names": self.names, "sums": sums, "plain": dict(self.plain), "steps": self.steps}

    @classmethod
    def restored(cls, saved: dict[str, Any], engine: Engine) -> Window:
        """The window that `saved` described."""
        window = cls()
        window.names, window.plain, window.steps = saved["names"], saved["plain"], saved["steps"]
        if saved["sums"] is not None:
            sums = torch.tensor(saved["sums"], dtype=torch.float64)
            window.sums = sums if engine.is_main else torch.zeros_like(sums)
        return window

    def _settle(self) -> None:
        if not self._pending:
            return
        self.names = list(self._pending[0][1])
        values = torch.stack([torch.cat([torch.stack([*terms.values()]), kl]) for _, terms, kl in self._pending])
        counts = torch.tensor([float(rows) for rows, _, _ in self._pending], dtype=torch.float64)
        for row in torch.cat([counts[:, None], values.double().cpu()], 1):
            self.sums = row if self.sums is None else self.sums + row
        self._pending = []
