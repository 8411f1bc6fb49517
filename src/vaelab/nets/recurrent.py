"""Gated recurrent networks over sequences of tokens: one that reads a row, one that writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..core.tokens import lengths

GROUPS, LEAST_GROUP = 4, 16  # rows of like length go through the steps together


class RecurrentEncoder(nn.Module):
    """Reads a row of tokens; its features are the state after the last one, and the mean of all states.

    References:
        Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine translation, 2014.

    Args:
        vocabulary: Tokens there are.
        embedding: Numbers that stand for a token.
        width: Hidden units of a layer.
        layers: Layers of them.
        dropout: Share of hidden units dropped between layers in training.

    Example:
        >>> RecurrentEncoder(9, 4, 8)(torch.tensor([[4.0, 5.0, 2.0, 0.0]])).shape
        torch.Size([1, 16])
    """

    def __init__(self, vocabulary: int, embedding: int, width: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = 2 * width
        self.embed = nn.Embedding(vocabulary, embedding)
        self.units = _units(embedding, width, layers, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Rows of tokens [B, T] to [B, features]; padding is not read."""
        tokens, counts = x.long(), lengths(x)
        found, places = [], []
        for rows, steps in by_length(counts):
            states, _ = self.units(self.embed(tokens[rows, :steps]))
            own = counts[rows, None]
            counted = torch.arange(steps, device=x.device) < own
            last = states.gather(1, (own - 1)[..., None].expand(-1, 1, states.shape[-1]))[:, 0]
            found.append(torch.cat([last, (states * counted[..., None]).sum(1) / own], -1))
            places.append(rows)
        return torch.cat(found)[torch.cat(places).argsort()]


class Written(NamedTuple):
    """Where a recurrent decoder is: its codes [N, L] and the states of its layers [layers, N, width]."""

    codes: Tensor
    hidden: Tensor


class RecurrentDecoder(nn.Module):
    """Writes tokens one after the other; it begins at a state made from the code, and reads the code at every step.

    References:
        Bowman et al., Generating sentences from a continuous space, 2016.

    Args:
        codes: Entries of a code.
        vocabulary: Tokens that can be read.
        outputs: Tokens that can be written.
        embedding, width, layers, dropout: As of the encoder.
    """

    def __init__(
        self,
        codes: int,
        vocabulary: int,
        outputs: int,
        embedding: int,
        width: int,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers, self.width = layers, width
        self.embed = nn.Embedding(vocabulary, embedding)
        self.first = nn.Linear(codes, layers * width)
        self.units = _units(embedding + codes, width, layers, dropout)
        self.outputs = nn.Linear(width, outputs)

    def forward(self, codes: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
        """Logits of what follows each token that was read.

        Args:
            codes: [N, L].
            tokens: What was read, [N, T].
            counts: How many tokens of each row count, at least one, [N].

        Returns:
            [sum of counts, outputs], row after row.
        """
        begun = self.begin(codes).hidden
        found, places = [], []
        for rows, steps in by_length(counts):
            read = self._reading(tokens[rows, :steps], codes[rows, None].expand(-1, steps, -1))
            states, _ = self.units(read, begun[:, rows].contiguous())
            counted = (torch.arange(steps, device=counts.device) < counts[rows, None]).flatten().nonzero()[:, 0]
            found.append(states.flatten(0, 1).index_select(0, counted))
            places.append(rows[counted // steps] * tokens.shape[1] + counted % steps)
        return self.outputs(torch.cat(found)).index_select(0, torch.cat(places).argsort())

    def begin(self, codes: Tensor) -> Written:
        """Where it is before the first token, for codes [N, L]."""
        hidden = self.first(codes).tanh().view(len(codes), self.layers, self.width)
        return Written(codes, hidden.transpose(0, 1).contiguous())

    def step(self, token: Tensor, written: Written) -> tuple[Tensor, Written]:
        """Logits [N, outputs] of what follows the tokens [N], and where it is then."""
        states, hidden = self.units(self._reading(token, written.codes)[:, None], written.hidden)
        return self.outputs(states[:, 0]), Written(written.codes, hidden)

    def _reading(self, tokens: Tensor, codes: Tensor) -> Tensor:
        return torch.cat([self.embed(tokens), codes], -1)


def by_length(counts: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows in groups of like length, and the longest of each: a batch then costs little more than its tokens.

    Packed sequences would cost the tokens alone, but going backward through them takes the square of their steps.
    """
    order = counts.argsort(descending=True)
    for rows in order.chunk(max(1, min(GROUPS, len(order) // LEAST_GROUP))):
        yield rows, int(counts[rows[0]])


def _units(inputs: int, width: int, layers: int, dropout: float) -> nn.GRU:
    return nn.GRU(inputs, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
