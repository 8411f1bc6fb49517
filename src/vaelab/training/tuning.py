"""What makes steps fast on this processor, found by a short measurement and recorded in the run."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

LEAST_WEIGHTS = 2**16  # of a layer: below, a product takes less than what surrounds it
MATMUL: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
PRODUCTS = ("default", "onednn")
ROUNDS = 9  # every candidate in turn
GAIN = 1.2  # a choice that gains less is left: the last bits depend on it, and another run might choose otherwise
TRUE = 2.0  # a product in float32 is true where its error is at most so many times that of the default
KEPT_BYTES = 30 * 2**20
SLOWER = 3.0  # a step that takes so many times as long as the fastest stretch shares its processor with others


@dataclass(frozen=True)
class Tuning:
    """What was chosen, and what it was chosen by.

    Args:
        products: The library that multiplies float32 matrices: "default", PyTorch's, or "onednn", taken only where its
            products are true float32 on this processor.
        threads: Of the processor.
        milliseconds: Of the products of the largest layer, there and back, by candidate; medians.
    """

    products: str
    threads: int
    milliseconds: dict[str, float] = field(default_factory=dict)

    def apply(self) -> None:
        """Sets both for the process; `as_before` puts them back."""
        _use(self.products)
        torch.set_num_threads(self.threads)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def tuned(found: Any, model: nn.Module, batch: int) -> Tuning | None:
    """What a run was tuned to, for its resume on this processor; None where nothing was, or it cannot be read.

    oneDNN's products may be lower ones on another processor, and then the default is taken.
    """
    if not isinstance(found, Mapping) or set(found) != {"products", "threads", "milliseconds"}:
        return None
    known = Tuning(**found)
    weight = _largest(model)
    if known.products == "onednn" and (weight is None or not _is_true(*_probe(weight, batch))):
        return replace(known, products="default")
    return known


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Puts back the number of threads and the library that multiplies, if they were changed meanwhile."""
    threads, precision = torch.get_num_threads(), MATMUL.fp32_precision
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if MATMUL.fp32_precision != precision:
            MATMUL.fp32_precision = precision


@contextlib.contextmanager
def float32_of(precision: str, device: torch.device) -> Iterator[None]:
    """Has a GPU multiply and convolve float32 numbers as float32, or in TF32, of 10 bits, where `precision` is "tf32".

    PyTorch's own default is neither: products in float32, and convolutions in TF32.
    """
    kinds: list[Any] = []
    if device.type == "cuda":
        cudnn: Any = torch.backends.cudnn
        kinds = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for kind, value in zip(kinds, before, strict=True):
            kind.fp32_precision = value


def tune(model: nn.Module, batch: int, threads: Sequence[int], products: Sequence[str] = PRODUCTS) -> Tuning | None:
    """The faster way to multiply: PyTorch's default library or oneDNN, with one thread or with all.

    PyTorch's default product runs at half of the rate of some processors, and oneDNN, which a precision of "bf16"
    names, at all of it; where a processor would take lower precision then, it is not taken. A second thread whose core
    another process uses makes a product many times slower, and is left out.

    Args:
        model: The products of its largest linear layer are measured, forward and backward.
        batch: Rows of a step.
        threads: Numbers of threads to choose from, the plainest first.
        products: Libraries likewise.

    Returns:
        None where no layer is large enough to matter.
    """
    weight = _largest(model)
    if weight is None or weight.numel() < LEAST_WEIGHTS or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    x, w, g = _probe(weight, batch)
    with as_before():
        libraries = [name for name in products if name == "default" or _is_true(x, w, g)] or ["default"]
        seconds = _timed([(name, count) for name in libraries for count in threads], x, w, g)
    chosen = next(iter(seconds))
    for candidate in seconds:  # from the plainest on; each has to be worth it
        if seconds[candidate] * GAIN < seconds[chosen]:
            chosen = candidate
    names = {f"{name}, {count} threads": 1e3 * value for (name, count), value in seconds.items()}
    return Tuning(*chosen, names)


def _use(products: str) -> None:
    if products == "onednn":
        MATMUL.fp32_precision = "bf16"
    elif MATMUL.fp32_precision == "bf16":
        MATMUL.fp32_precision = "none"


def _largest(model: nn.Module) -> Tensor | None:
    """The weight [out, in] of the largest linear layer."""
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    return max((weight for weight in weights if not nn.parameter.is_lazy(weight)), key=Tensor.numel, default=None)


def _probe(weight: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [B, in], a weight [out, in] and a gradient [B, out] like those of a step."""
    noise = torch.Generator().manual_seed(0)
    wide, narrow = weight.shape[1], weight.shape[0]
    x, w, g = (torch.randn(*size, generator=noise) for size in ((batch, wide), (narrow, wide), (batch, narrow)))
    return x, w, g


def _products(x: Tensor, w: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three products of a layer: forward, to its weights and to its input."""
    return x @ w.T, g.T @ x, g @ w


def _is_true(x: Tensor, w: Tensor, g: Tensor) -> bool:
    """Whether oneDNN's products are as exact here as the default ones, against float64."""
    exact = _products(x.double(), w.double(), g.double())
    errors = []
    with as_before():
        for name in PRODUCTS:
            _use(name)
            errors.append([(found - true).norm().item() for found, true in zip(_products(x, w, g), exact, strict=True)])
    return all(other <= TRUE * plain for plain, other in zip(*errors, strict=True))


def _timed(candidates: Sequence[tuple[str, int]], x: Tensor, w: Tensor, g: Tensor) -> dict[tuple[str, int], float]:
    """Seconds of the products by candidate, medians of turns."""
    turns: dict[tuple[str, int], list[float]] = {candidate: [] for candidate in candidates}
    for _ in range(ROUNDS):
        for name, count in candidates:
            _use(name)
            torch.set_num_threads(count)
            _products(x, w, g)  # the first ones wake the threads
            start = time.perf_counter()
            _products(x, w, g)
            turns[name, count].append(time.perf_counter() - start)
    return {candidate: statistics.median(seconds) for candidate, seconds in turns.items()}


def keep_memory() -> None:
    """Has the C library keep what is freed: a step that asks the system for its pages anew takes a tenth longer.

    glibc raises the size from which it asks the system to that of the largest block so far that was given back.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8)


class Pace:
    """Whether steps have become much slower than they were.

    Args:
        stretch: Steps that are timed together; fewer say nothing.
    """

    def __init__(self, stretch: int) -> None:
        self.stretch, self.best, self.told = stretch, math.inf, False
        self._seconds, self._steps = 0.0, 0

    def add(self, seconds: float, steps: int) -> None:
        """Takes in steps."""
        self._seconds, self._steps = self._seconds + seconds, self._steps + steps

    def slowed(self) -> float | None:
        """How many times as long as in the fastest stretch a step of this one took, where that is much; told once."""
        seconds, steps = self._seconds, self._steps
        self._seconds, self._steps = 0.0, 0
        if steps < self.stretch:
            return None
        self.best = min(self.best, seconds / steps)
        if self.told or seconds / steps <= SLOWER * self.best:
            return None
        self.told = True
        return seconds / steps / self.best
