"""Sums and counts since the last line of metrics, kept without waiting for the device at every step."""

from __future__ import annotations

from typing import Any

import torch

from .engine import Engine

SHIFTED = {"reconstruction", "negative_bound"}  # terms that are costs of a density of the rows


class Window:
    """Training numbers between two lines of metrics.

    Steps are added one after the other in float64, so that a run cut at a checkpoint adds up to the same bits.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: torch.Tensor | None = None  # [rows, terms..., KL per group...], this process's part
        self.plain: dict[str, float] = {}  # loss, gradient norm, share of clipped steps
        self.most: dict[str, float] = {}  # the highest loss and gradient norm of a step; the same in every process
        self.steps = 0
        self._pending: list[Any] = []
        self._losses: list[float] = []  # this process's part of the loss of each step

    def add(self, record: list[Any], *, loss: float, gradient_norm: float, clipped: float) -> None:
        """Adds a step: (rows, sums of terms, sums of KL per group) of each slice, and numbers of the whole step."""
        self._pending += record
        for name, value in (("loss", loss), ("gradient_norm", gradient_norm), ("clipped", clipped)):
            self.plain[name] = self.plain.get(name, 0.0) + value
        self._losses.append(loss)
        self.most["gradient_norm"] = max(gradient_norm, self.most.get("gradient_norm", gradient_norm))
        self.steps += 1

    def line(self, engine: Engine, shift: float) -> dict[str, Any]:
        """Means and highest values over the window: terms in nats per sample on the data's own scale."""
        self._settle(engine)
        plain = {name: value / self.steps for name, value in self.plain.items()}
        if self.sums is None:
            return plain
        rows, *values = engine.total(self.sums.clone()).tolist()
        means = [value / rows for value in values]
        terms = dict(zip(self.names, means, strict=False))
        loss = engine.total(torch.tensor(plain.pop("loss"), dtype=torch.float64)).item()
        for name in SHIFTED & set(terms):
            terms[name] -= shift
        highest = {f"{name}_max": value - (shift if name == "loss" else 0) for name, value in self.most.items()}
        line = {"loss": loss / engine.world - shift, **terms, **plain, **highest}
        return line | {"kl_per_dimension": means[len(self.names) :]}

    def saved(self, engine: Engine) -> dict[str, Any]:
        """Plain values for a checkpoint; sums are those of all processes, held by the first."""
        self._settle(engine)
        if engine.world > 1 and self.sums is not None:
            self.sums = engine.total(self.sums)
            self.plain["loss"] = (
                engine.total(torch.tensor(self.plain["loss"], dtype=torch.float64)).item() / engine.world
            )
            if not engine.is_main:
                self.sums = torch.zeros_like(self.sums)
        sums = None if self.sums is None else self.sums.tolist()
        plain, most = dict(self.plain), dict(self.most)
        return {"names": self.names, "sums": sums, "plain": plain, "most": most, "steps": self.steps}

    @classmethod
    def restored(cls, saved: dict[str, Any], engine: Engine) -> Window:
        """The window that `saved` described."""
        window = cls()
        window.names, window.plain, window.steps = saved["names"], saved["plain"], saved["steps"]
        window.most = saved.get("most", {})
        if saved["sums"] is not None:
            sums = torch.tensor(saved["sums"], dtype=torch.float64)
            window.sums = sums if engine.is_main else torch.zeros_like(sums)
        return window

    def _settle(self, engine: Engine) -> None:
        if not self._pending:
            return
        losses = engine.total(torch.tensor(self._losses, dtype=torch.float64)) / engine.world
        highest = losses.max().item()
        self.most["loss"], self._losses = max(highest, self.most.get("loss", highest)), []
        self.names = list(self._pending[0][1])
        values = torch.stack([torch.cat([torch.stack([*terms.values()]), kl]) for _, terms, kl in self._pending])
        counts = torch.tensor([float(rows) for rows, _, _ in self._pending], dtype=torch.float64)
        for row in torch.cat([counts[:, None], values.double().cpu()], 1):
            self.sums = row if self.sums is None else self.sums + row
        self._pending = []


def means_of(record: list[Any], engine: Engine) -> dict[str, float]:
    """Means of the terms over the rows of a step, of all slices and processes."""
    sums = sum(torch.stack([*terms.values()]).double() for _, terms, _ in record)
    count = torch.tensor([float(sum(rows for rows, _, _ in record))], dtype=torch.float64)
    *totals, rows = engine.total(torch.cat([torch.as_tensor(sums).cpu(), count])).tolist()
    return {name: total / rows for name, total in zip(record[0][1], totals, strict=True)}
