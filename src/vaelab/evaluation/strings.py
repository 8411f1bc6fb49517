"""Strings that come back, and strings that are made: shares instead of errors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.batch import beside
from ..core.seeds import generator
from ..core.tokens import PADDING
from ..measure.estimate import Estimate, mean_of, ratio_of
from ..measure.importance import Bound
from ..measure.strings import agreement, frequencies
from .case import Case, Numbers

MOST_MADE = 2000
DECODED = 512  # rows at once


def strings_back(case: Case, at_mean: Tensor, at_draw: Tensor) -> Numbers:
    """Shares of strings and of tokens that the likeliest strings at z share with the rows.

    `exact` counts whole strings, `token_accuracy` tokens in their place, where the decoder reads its own output;
    `token_accuracy_given_the_rest` is of the likeliest next token where it reads the true ones, at the posterior mean.
    `..._at_a_draw` is with one draw of q(z|x) instead of its mean.

    Args:
        at_mean, at_draw: The likeliest strings, [n, T].
    """
    x = case.x.numpy()
    found: Numbers = {}
    for ending, back in (("", at_mean.numpy()), ("_at_a_draw", at_draw.numpy())):
        found[f"exact{ending}"] = mean_of((x == back).all(1).astype(float), "of the strings")
        found[f"token_accuracy{ending}"] = mean_of(agreement(x, back), "of a string's tokens, its end included")
    given = np.concatenate([_guessed(case, start) for start in range(0, len(x), DECODED)])
    return found | {"token_accuracy_given_the_rest": mean_of(given, "of a string's tokens, its end included")}


@torch.no_grad()
def _guessed(case: Case, start: int) -> np.ndarray:
    """Share of tokens that are the likeliest given those before, for some rows."""
    rows, x = case.rows[start : start + DECODED], case.x[start : start + DECODED]
    guessed = case.model.decode(case.model.encode(rows).mean[None], *beside(rows)).guesses(x)[0]
    asked = guessed != PADDING
    return (((guessed == x) & asked).sum(1) / asked.sum(1)).numpy()


def strings_made(case: Case) -> Numbers:
    """Draws of p(x|z), z from the prior: how many differ, how many are new, and how their tokens are shared out.

    `..._of_means` is of the likeliest strings at the same z, and `..._of_held_out` of as many held-out rows, to read
    the others by; `token_distance` is half the summed difference of the tokens' shares from those of the held-out rows.
    """
    count = min(len(case.x), MOST_MADE)
    real = case.x[np.linspace(0, len(case.x) - 1, count).astype(int)]
    drawn, likeliest = _made(case, count)
    known = set() if case.training is None else set(map(bytes, _whole(case.training)))
    usual = frequencies(real.numpy(), len(case.spec.vocabulary))
    found: Numbers = {}
    for ending, rows in (("", drawn), ("_of_means", likeliest), ("_of_held_out", real)):
        keys = [row.tobytes() for row in _whole(rows)]
        found[f"unique{ending}"] = Estimate(len(set(keys)) / count, None, f"of {count} strings")
        if known:
            new = np.array([key not in known for key in keys], float)
            found[f"novel{ending}"] = mean_of(new, f"of the strings are none of {len(known)} training strings")
        if ending != "_of_held_out":
            apart = np.abs(frequencies(rows.numpy(), len(usual)) - usual).sum() / 2
            found[f"token_distance{ending}"] = Estimate(float(apart), None, "total variation from held-out tokens")
    return found


@torch.no_grad()
def _made(case: Case, count: int) -> tuple[Tensor, Tensor]:
    coins, parts = generator(case.seed, "samples"), []
    condition = None if case.condition is None else case.condition[torch.arange(count) % len(case.condition)]
    for start in range(0, count, DECODED):
        given = None if condition is None else condition[start : start + DECODED]
        made = case.model.sample(min(DECODED, count - start), coins, given)
        parts.append(torch.cat([made.sample(coins), made.mean]))
    drawn, likeliest = torch.cat(parts, 1)
    return drawn, likeliest


def _whole(rows: Tensor) -> np.ndarray:
    return np.ascontiguousarray(rows.numpy().astype(np.int32))


def per_token(bound: Bound, x: Tensor) -> Estimate:
    """The bound on the negative log-likelihood of rows x [n, T] for each token: all nats over all tokens."""
    tokens = (x != PADDING).sum(1).double().numpy()
    return ratio_of(-bound.values, tokens, "nats per token, ends included, lower is better")
