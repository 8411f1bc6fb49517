"""Inputs of the audit's own making: their sizes, their shapes, and the kinds of data a loss may want."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ..core.errors import BadInput, did_you_mean
from .laws import log_softmax

DEFAULTS = {"batch": 6, "pixels": 12, "latents": 4, "classes": 5}
Draw = Callable[[np.random.Generator, "Layout"], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Layout:
    """Shapes of the made-up inputs: x is [batch, *data], mu and head are [batch, *latent]."""

    batch: int
    data: tuple[int, ...]
    latent: tuple[int, ...]
    classes: int = 5
    scale: str = "full"  # the decoder's second output: "full" as x, "columns" one for each entry, "number" a single one
    square: bool = False  # x is an adjacency, [nodes, nodes]

    @property
    def pixels(self) -> int:
        """Entries of one row of the data."""
        return prod(self.data)

    @property
    def latents(self) -> int:
        """Entries of one row of mu."""
        return prod(self.latent)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes as a report states them."""
        return {"batch": self.batch, "pixels": self.pixels, "latents": self.latents}

    def rows(self, batch: int) -> Layout:
        """Another batch size."""
        return replace(self, batch=batch, data=(batch,) if self.square else self.data)

    def axis(self, index: int, factor: int) -> Layout:
        """One axis of the data made larger."""
        data = tuple(size * factor if i == index else size for i, size in enumerate(self.data))
        return replace(self, data=data)


def layouts(sizes: Mapping[str, Any] | None, named: Mapping[str, Any] | None = None, *, square: bool = False,
            channels_last: bool = False) -> list[Layout]:  # fmt: skip
    """Layouts to try, the plainest first.

    Args:
        sizes: `batch`, `pixels` (a number, or the shape of a row), `latents` (likewise), `classes`; None for defaults.
        named: Sizes that the callable's own constants name, used where `sizes` is silent.
        square: The data are an adjacency, [batch, batch].
        channels_last: Images are tried as [H, W, 1] before [1, H, W].

    Raises:
        BadInput: for an unknown key or a size that is no whole number of at least 1.
    """
    given = dict(sizes or {})
    for key, value in given.items():
        if key not in DEFAULTS:
            raise BadInput("sizes", key, "is no size", did_you_mean(key, DEFAULTS))
        numbers = value if isinstance(value, tuple | list) and key in ("pixels", "latents") else (value,)
        if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
            raise BadInput(f"sizes[{key!r}]", value, "must be a whole number of at least 1, or a shape of them")
    batch, pixels, latents, classes = ({**DEFAULTS, **(named or {}), **given}[key] for key in DEFAULTS)
    if square:
        return [Layout(batch, (batch,), (latents,), classes, square=True)]
    data = [tuple(pixels)] if isinstance(pixels, tuple | list) else _shapes(pixels, channels_last)
    latent = [tuple(latents)] if isinstance(latents, tuple | list) else [(latents,), (1, *_rectangle(latents))]
    found = [Layout(batch, d, z, classes) for z in latent for d in data]
    # Sizes that tutorials write into their code, where the user and the callable's constants are silent.
    said = {*given, *(named or {})}
    known = (
        []
        if "pixels" in said
        else [(784,), (1, 28, 28), (28, 28, 1), (28, 28), (3, 32, 32), (3, 64, 64), (1, 64, 64), (64, 64, 3)]
    )
    codes = [] if "latents" in said else [2, 20, 10, 16, 32, 64, 128, 8]
    batches = [] if "batch" in said else [128, 64, 32, 100]
    found += [Layout(batch, d, latent[0], classes) for d in known]
    found += [Layout(batch, d, (z,), classes) for d in (data[0], *known[:2]) for z in codes]
    found += [
        Layout(b, d, z, classes)
        for d in (data[0], *known[:1])
        for z in (latent[0], (20,))[: 1 + bool(codes)]
        for b in batches
    ]
    return found


def _rectangle(count: int) -> tuple[int, int]:
    side = max(k for k in range(1, int(count**0.5) + 1) if count % k == 0)
    return side, count // side


def _shapes(pixels: int, channels_last: bool) -> list[tuple[int, ...]]:
    height, width = _rectangle(pixels)
    images = [(1, height, width), (height, width, 1)]
    return [(pixels,), *(images[::-1] if channels_last else images), (height, width)]


# ------------------------------------------------------------------------------------------------------ kinds of data
def _open_unit(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(0.05, 0.95, shape)


def _tokens(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    # From 1 on, since 0 is often the padding that a loss leaves out.
    return rng.integers(1, layout.classes, (layout.batch, *layout.data))


def _logits(rng: np.random.Generator, layout: Layout, first: bool) -> np.ndarray:
    logits = rng.normal(size=(layout.batch, *layout.data, layout.classes))
    return np.moveaxis(logits, -1, 1) if first else logits


def _probabilities(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    return np.exp(log_softmax(_logits(rng, layout, False), -1))


def _one_hot(rng: np.random.Generator, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    return np.eye(layout.classes)[_tokens(rng, layout)], _probabilities(rng, layout)


def _shape(layout: Layout) -> tuple[int, ...]:
    return (layout.batch, *layout.data)


DOMAINS: dict[str, Draw] = {
    "unit": lambda rng, s: (_open_unit(rng, _shape(s)), _open_unit(rng, _shape(s))),
    "binary": lambda rng, s: (rng.integers(0, 2, _shape(s)).astype(float), _open_unit(rng, _shape(s))),
    "wide": lambda rng, s: (rng.normal(0, 2, _shape(s)), rng.normal(0, 2, _shape(s))),
    "counts": lambda rng, s: (rng.poisson(2.0, _shape(s)).astype(float), rng.uniform(0.3, 1.6, _shape(s))),
    "tokens": lambda rng, s: (_tokens(rng, s), _logits(rng, s, False)),
    "tokens first": lambda rng, s: (_tokens(rng, s), _logits(rng, s, True)),
    "token probabilities": lambda rng, s: (_tokens(rng, s), _probabilities(rng, s)),
    "one-hot": _one_hot,
    # For a distribution that is asked for the probability of the output: only whole outputs have one.
    "swapped binary": lambda rng, s: (_open_unit(rng, _shape(s)), rng.integers(0, 2, _shape(s)).astype(float)),
    "swapped counts": lambda rng, s: (rng.uniform(0.3, 1.6, _shape(s)), rng.poisson(2.0, _shape(s)).astype(float)),
}
FAMILY_DOMAINS: dict[str, tuple[str, ...]] = {
    "bernoulli": ("unit", "binary"),
    "gaussian": ("unit", "wide"),
    "laplace": ("unit", "wide"),
    "poisson": ("counts",),
    "negative binomial": ("counts",),
    "counts": ("counts",),
    "categorical": ("tokens", "tokens first", "token probabilities", "one-hot"),
}


def domains_to_try(family: str | None) -> tuple[str, ...]:
    """Kinds of data to try, by the family that a user named, or all that can be told from each other.

    Raises:
        BadInput: for an unknown family.
    """
    if family is None:
        return "unit", "binary", "counts", "tokens", "tokens first", "swapped binary", "swapped counts"
    if family.lower() not in FAMILY_DOMAINS:
        raise BadInput("family", family, did_you_mean(family.lower(), FAMILY_DOMAINS))
    return FAMILY_DOMAINS[family.lower()]


@dataclass(frozen=True)
class Batch:
    """One set of inputs; `z` follows from mu, the head and the base noise where a loss takes it."""

    x: np.ndarray
    output: np.ndarray
    mu: np.ndarray
    head: np.ndarray
    scale: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """By role."""
        return {"x": self.x, "output": self.output, "mu": self.mu, "head": self.head, "scale": self.scale}


def draw_data(rng: np.random.Generator, layout: Layout, domain: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, output and the decoder's second output."""
    x, output = DOMAINS[domain](rng, layout)
    shape = {"full": output.shape, "columns": output.shape[1:], "number": ()}[layout.scale]
    return x, output, rng.uniform(0.3, 1.2, shape)


def draw_batch(rng: np.random.Generator, layout: Layout, domain: str) -> Batch:
    """A batch whose heads are positive, so that every reading of them has a meaning."""
    shape = (layout.batch, *layout.latent)
    return Batch(*draw_data(rng, layout, domain)[:2], rng.normal(size=shape), rng.uniform(0.3, 1.6, shape),
                 draw_data(rng, layout, domain)[2])  # fmt: skip
