"""The shape of the tail of importance weights: whether their mean can be trusted."""

from __future__ import annotations

import math

import numpy as np

LEAST_TAIL = 5  # values that a tail is fitted to at least
EQUAL = 1e-6  # of the largest weight: what weights differ by when they are equal but for float32's rounding
PRIOR_SHAPE, PRIOR_VALUES = 0.5, 10  # what a short tail is drawn towards, as if by so many values


def tail_size(samples: int) -> int:
    """How many of the largest weights are the tail: min(K / 5, 3 sqrt(K)) (Vehtari et al., 2024)."""
    return min(samples // 5, math.ceil(3 * math.sqrt(samples)))


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """The shape k of a generalised Pareto distribution fitted to the largest weights of each column, [B] from [K, B].

    Below 0.5 the weights have a variance, below 0.7 their mean converges at a useful rate; above 1 they have no mean
    that a sample could show. NaN where there are fewer than 25 weights, and minus infinity where all are equal.

    References:
        Zhang and Stephens, A New and Efficient Estimation Method for the Generalized Pareto Distribution, 2009;
        Vehtari, Simpson, Gelman, Yao and Gabry, Pareto Smoothed Importance Sampling, 2024.

    Example:
        >>> exponential = np.random.default_rng(0).exponential(size=(20000, 1))
        >>> round(float(pareto_k(np.log(exponential))[0]), 1)
        0.0
    """
    samples, rows = log_weights.shape
    size = tail_size(samples)
    if size < LEAST_TAIL:
        return np.full(rows, np.nan)
    top = np.sort(np.partition(log_weights, samples - size - 1, axis=0)[samples - size - 1 :], axis=0).T
    weights = np.exp(top - top[:, -1:])
    excess = weights[:, 1:] - weights[:, :1]
    flat = excess[:, -1] <= EQUAL
    excess[flat] = 1.0
    shape = _fit(np.maximum(excess, np.finfo(np.float64).tiny))
    return np.where(flat, -np.inf, (shape * size + PRIOR_SHAPE * PRIOR_VALUES) / (size + PRIOR_VALUES))


def _fit(excess: np.ndarray) -> np.ndarray:
    """The shape for sorted excesses over a threshold, [B] from [B, M]: a posterior mean over a grid of scales."""
    size = excess.shape[1]
    points = 30 + math.isqrt(size)
    quarter = excess[:, math.floor(size / 4 + 0.5) - 1]
    grid = 1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))
    theta = grid / (3 * quarter[:, None]) + 1 / excess[:, -1:]
    shapes = np.stack([np.log1p(-theta[:, j : j + 1] * excess).mean(1) for j in range(points)], 1)
    profile = size * (np.log(-theta / shapes) - shapes - 1)
    weight = np.exp(profile - profile.max(1, keepdims=True))
    best = (theta * weight).sum(1) / weight.sum(1)
    return np.log1p(-best[:, None] * excess).mean(1)
