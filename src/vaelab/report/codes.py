"""Which entries of a book the held-out rows use, for models whose codes are such entries."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .style import BLUE, GRAY, ORANGE, Panel, plot


def codes(run: Any) -> list[Panel]:
    """How often each entry is used, and how many different ones each position has use for."""
    book = run.model.encoder.book
    indices = run.indices(run.preview, run.preview_condition).reshape(len(run.preview), -1, book.depth)
    counts = np.stack([np.bincount(level.ravel(), minlength=book.symbols) for level in np.moveaxis(indices, 2, 0)])
    places = [[perplexity(np.unique(one, return_counts=True)[1]) for one in level] for level in indices.T]
    return [
        plot(
            "Use of the codes, held-out",
            "The share of all codes that each entry of the book stands for, the most used first; the dashed line is an "
            "even share. Healthy: a line that falls slowly; one that ends early leaves entries unused.",
            partial(_use, shares=-np.sort(-counts / counts.sum(1, keepdims=True))),
            height=3.2,
        ),
        plot(
            "Codes at each position",
            f"The perplexity of the codes at each of the {indices.shape[1]} positions: how many different ones it has "
            f"use for, of {book.symbols}. A position with 1 says the same of every row.",
            partial(_places, perplexities=np.array(places)),
            height=3.2,
        ),
    ]


def perplexity(counts: np.ndarray) -> float:
    """The exponential of the entropy of counts above 0.

    Example:
        >>> perplexity(np.array([3, 3]))
        2.0
    """
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()).round(12))


def _use(figure: Figure, shares: np.ndarray) -> None:
    axes = figure.subplots()
    ranks = np.arange(1, shares.shape[1] + 1)
    for level, line in enumerate(shares):
        axes.step(ranks, 100 * line, where="mid", label=f"book {level + 1}")
    axes.axhline(100 / shares.shape[1], color=GRAY, linestyle="--", label="even")
    axes.set(xlabel="entry, by use", ylabel="% of the codes", ylim=(0, None))
    if len(shares) > 1:
        axes.legend()


def _places(figure: Figure, perplexities: np.ndarray) -> None:
    axes = figure.subplots()
    levels, count = perplexities.shape
    for level, values in enumerate(perplexities):
        color = BLUE if level % 2 == 0 else ORANGE
        axes.bar(np.arange(1, count + 1) + (level - (levels - 1) / 2) / levels, values, 0.9 / levels, color=color)
    axes.set(xlabel="position", ylabel="perplexity", ylim=(0, None))
