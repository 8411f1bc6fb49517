"""Numbers of the tokens that every vocabulary begins with, and the form of a row of tokens.

A row [T] holds the tokens of a string, the end, and padding: a string has at most T - 1 tokens.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

PADDING, BEGIN, END, UNKNOWN = range(4)
SPECIALS = ("<padding>", "<begin>", "<end>", "<unknown>")


def over(x: Tensor) -> Tensor:
    """Where a string in rows x [..., T] has ended: at its end token and in the padding after it."""
    return (x == END) | (x == PADDING)


def lengths(x: Tensor) -> Tensor:
    """Tokens up to the end and with it, at most T, for rows x [N, T], [N].

    Example:
        >>> import torch
        >>> lengths(torch.tensor([[4, 5, END, PADDING], [END, PADDING, PADDING, PADDING]]))
        tensor([3, 1])
    """
    ended = over(x)
    return (x.shape[-1] - ended.sum(-1) + ended.any(-1)).clamp(max=x.shape[-1])


def in_form(x: Tensor) -> Tensor:
    """Which entries of rows x [..., T] are what the form allows there: tokens, then one end, then padding to T."""
    before = F.pad(over(x)[..., :-1], (1, 0), value=False)
    fine = (x == PADDING) == before
    fine &= x != BEGIN
    fine[..., -1] &= over(x)[..., -1]
    return fine


def shifted(x: Tensor) -> Tensor:
    """What a decoder has read when it writes each token of x [..., T]: the begin token and all before it."""
    return F.pad(x[..., :-1], (1, 0), value=BEGIN)
