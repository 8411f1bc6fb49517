"""How many bits a file takes, beside the model's own bound on the same rows and what general-purpose coders make."""

from __future__ import annotations

import bz2
import gzip
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..core.finding import Finding
from ..core.seeds import seed_global
from ..core.units import nats_to_bits
from .coder import Coder
from .container import unpack
from .rows import as_symbols, in_order
from .stack import WORD_BITS

BOUND_SAMPLES, CHUNK = 4, 512
PLAIN = {"gzip": lambda raw: gzip.compress(raw, 9, mtime=0), "bz2": lambda raw: bz2.compress(raw, 9)}


@dataclass(frozen=True)
class Rates:
    """Bits per entry of the rows, unless said.

    Args:
        rows: n.
        entries: Of all rows.
        size: Of the file, bytes.
        seed: Of the bits that the first code was drawn with, and which hold the rows' digest, bits.
        bound: The negative ELBO.
        bound_error: Half-width of its 95 % interval, by the draws of the codes alone, since the rows are these.
        others: What gzip and bz2 make of the same rows, without a header, as bits where they are, else as bytes.
    """

    rows: int
    entries: int
    size: int
    seed: int
    bound: float
    bound_error: float
    others: dict[str, float]

    @property
    def total(self) -> float:
        """Of the whole file."""
        return 8 * self.size / self.entries

    @property
    def net(self) -> float:
        """Without the bits that the first code was drawn with."""
        return self.total - self.seed / self.entries

    @property
    def findings(self) -> list[Finding]:
        """A warning where a general-purpose coder would do better than the model's bound."""
        name, least = min(self.others.items(), key=lambda item: item[1])
        if self.bound <= least:
            return []
        return [
            Finding(
                "CM100",
                "warning",
                f"{name} needs fewer bits than the model",
                least,
                "bits per entry",
                evidence=f"the same rows, of which the model's bound is {self.bound:.4g}",
                why="the model's bound on these rows is above what a coder that knows nothing of them needs",
                advice=f"use {name}; or train longer, and on rows like these",
            )
        ]

    def __str__(self) -> str:
        others = ", ".join(f"{name} {rate:.4f}" for name, rate in self.others.items())
        lines = [
            f"rate      {self.total:.4f} bits per entry, {self.net:.4f} without the first bits ({self.size} bytes)",
            f"bound     {self.bound:.4f} ± {self.bound_error:.1g} (95 %) bits per entry: -ELBO of the same rows",
            f"ratio     {self.total / self.bound:.4f}",
            f"others    {others}",
        ]
        return "\n".join(lines)


def rates(run: Any, rows: Any, data: bytes) -> Rates:
    """The rates of `data`, which `compress` made of `rows` [n, ...].

    Raises:
        BadInput: for other rows than `compress` takes.
    """
    header, _ = unpack(data, "data")
    symbols, levels = as_symbols(run, in_order(run, rows))
    coder = Coder(run.model, run.spec.shape, header.symbols)
    bound, error = _bound(coder, symbols)
    per_entry = nats_to_bits(1.0) / coder.entries
    others = {name: 8 * len(packed(raw_bytes(symbols, levels))) / symbols.size for name, packed in PLAIN.items()}
    seed = WORD_BITS * coder.seed_words
    return Rates(len(symbols), symbols.size, len(data), seed, bound * per_entry, error * per_entry, others)


def raw_bytes(symbols: np.ndarray, levels: int) -> bytes:
    """Symbols as a person would store them: eight to a byte where they are bits, else a byte or two each."""
    if levels == 2:
        return np.packbits(symbols.astype(bool)).tobytes()
    return symbols.astype(np.min_scalar_type(levels - 1)).tobytes()


@torch.no_grad()
def _bound(coder: Coder, symbols: np.ndarray) -> tuple[float, float]:
    """The negative ELBO in nats per row, and the half-width of its 95 % interval over draws of the codes."""
    total, variance = 0.0, 0.0
    with torch.random.fork_rng(devices=[]):
        seed_global(0, "compress")
        for start in range(0, len(symbols), CHUNK):
            rows = torch.tensor(symbols[start : start + CHUNK], dtype=torch.float64).view(-1, *coder.shape)
            nats = -coder.model.draw(rows, BOUND_SAMPLES).log_weights
            total += float(nats.mean(0).sum())
            variance += float(nats.var(0).sum()) / BOUND_SAMPLES
    return total / len(symbols), 1.96 * math.sqrt(variance) / len(symbols)
