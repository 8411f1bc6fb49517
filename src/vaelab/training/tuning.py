"""What makes steps fast on this processor, found by a short measurement and recorded in the run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

LEAST_WEIGHTS = 2**16  # of a layer: below, a product takes less than what surrounds it
ROUNDS, PRODUCTS = 7, 3  # every candidate in turn, so many products each time
GAIN = 1.2  # a choice that gains less is left: it would change the last bits from one run to the next for little
TRUE = 2.0  # a product in float32 is true where its error is at most so many times that of the default
KEPT_BYTES = 30 * 2**20
SLOWER = 3.0  # a step that takes so many times as long as the fastest stretch shares its processor with others


@dataclass(frozen=True)
class Tuning:
    """What was chosen, and what it was chosen by.

    Args:
        precision: Of `torch.set_float32_matmul_precision`; it chooses among libraries whose products are true float32
            on this processor, and never lower ones.
        threads: Of the processor.
        milliseconds: Of a product of the largest layer, by candidate; medians.
    """

    precision: str
    threads: int
    milliseconds: dict[str, float]

    def apply(self) -> None:
        """Sets both for the process; whoever calls puts them back."""
        torch.set_float32_matmul_precision(self.precision)
        torch.set_num_threads(self.threads)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def tuned(found: Mapping[str, Any] | None) -> Tuning | None:
    """The inverse of `to_dict`; None for None."""
    return None if found is None else Tuning(**found)


def tune(model: nn.Module, batch: int, threads: int) -> Tuning | None:
    """The faster way to multiply: PyTorch's default library or oneDNN, with one thread or with all.

    PyTorch's default product runs at half of the rate of some processors, and oneDNN, which "medium" names, at all of
    it; where a processor would take lower precision then, it is not taken. A second thread whose core another process
    uses makes a product many times slower, and is left out.

    Args:
        model: Its largest linear layer is what is measured.
        batch: Rows of a step.
        threads: That are there.

    Returns:
        None where no layer is large enough to matter.
    """
    layers = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    weight = max(layers, key=Tensor.numel, default=None)
    if weight is None or weight.numel() < LEAST_WEIGHTS or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    noise = torch.Generator().manual_seed(0)
    x, w = (torch.randn(rows, weight.shape[1], generator=noise) for rows in (batch, len(weight)))
    counts = sorted({1, threads})
    try:
        precisions = ["highest", *(["medium"] if _is_true("medium", x, w) else [])]
        seconds = _timed([(precision, count) for precision in precisions for count in counts], x, w)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.set_num_threads(before[1])
    chosen = ("highest", counts[0])
    for candidate in seconds:  # from the plainest on; each has to be worth it
        if seconds[candidate] * GAIN < seconds[chosen]:
            chosen = candidate
    names = {f"{precision}, {count} threads": 1e3 * value for (precision, count), value in seconds.items()}
    return Tuning(*chosen, names)


def _is_true(precision: str, x: Tensor, w: Tensor) -> bool:
    """Whether a product in this precision is as exact as the default one, against float64."""
    exact = x.double() @ w.double().T
    errors = []
    for name in ("highest", precision):
        torch.set_float32_matmul_precision(name)
        errors.append((torch.nn.functional.linear(x, w).double() - exact).norm().item())
    return errors[1] <= TRUE * errors[0]


def _timed(candidates: list[tuple[str, int]], x: Tensor, w: Tensor) -> dict[tuple[str, int], float]:
    """Seconds of a product by candidate, medians of turns."""
    turns: dict[tuple[str, int], list[float]] = {candidate: [] for candidate in candidates}
    for _ in range(ROUNDS):
        for precision, count in candidates:
            torch.set_float32_matmul_precision(precision)
            torch.set_num_threads(count)
            torch.nn.functional.linear(x, w)  # the first one wakes the threads
            start = time.perf_counter()
            for _ in range(PRODUCTS):
                torch.nn.functional.linear(x, w)
            turns[precision, count].append((time.perf_counter() - start) / PRODUCTS)
    return {candidate: statistics.median(seconds) for candidate, seconds in turns.items()}


def keep_memory() -> None:
    """Has the C library keep what is freed: a step that asks the system for its pages anew takes a tenth longer.

    glibc raises the size from which it asks the system to that of the largest block so far that was given back.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)


class Pace:
    """Whether steps have become much slower than they were."""

    def __init__(self) -> None:
        self.best: float | None = None
        self.told = False

    def slowed(self, seconds: float) -> float | None:
        """How many times as long a stretch of steps took as the fastest one as long, where that is much; told once."""
        self.best = min(seconds, self.best or seconds)
        if self.told or seconds <= SLOWER * self.best:
            return None
        self.told = True
        return seconds / self.best
