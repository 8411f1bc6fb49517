"""Small transformers over sequences of tokens: one that reads a row, one that writes it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.tokens import lengths

LEAST_HEAD = 16  # numbers of a head, below which it has little to compare by
MOST_HEADS = 8
Past = tuple[Tensor, Tensor]  # keys and values of what was read, [N, heads, T, head]


class Block(nn.Module):
    """Self-attention and a feed-forward network, each after a layer norm and added to its input.

    References:
        Vaswani et al., Attention is all you need, 2017; Xiong et al., On layer normalization in the transformer
        architecture, 2020.

    Args:
        width: Numbers of a position.
        dropout: Share dropped from each of the two before it is added, in training.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, min(MOST_HEADS, width // LEAST_HEAD)), 0, -1) if width % n == 0)
        self.norm, self.norm_after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.mix = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: Past | None = None, *, causal: bool = False, seen: Tensor | None = None
    ) -> tuple[Tensor, Past]:
        """Positions x [N, T, width] to the same, and the keys and values of all that was read.

        Args:
            past: Of the positions before x, where x is only the last one.
            causal: Whether a position sees only itself and those before it.
            seen: Which positions may be looked at, [N, T]; None: all.
        """
        parts = self.attend(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        mask = None if seen is None else seen[:, None, None]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        x = x + self.drop(self.mix(found.transpose(1, 2).flatten(2)))
        return x + self.drop(self.feed(self.norm_after(x))), (key, value)


class TransformerEncoder(nn.Module):
    """Reads a row of tokens at once; its features are the mean over the tokens' positions.

    Args:
        steps: T, the entries of a row.
        vocabulary: Tokens there are.
        width: Numbers of a position.
        layers: Blocks.
        dropout: As of a block.

    Example:
        >>> TransformerEncoder(4, 9, 16)(torch.tensor([[4.0, 5.0, 2.0, 0.0]])).shape
        torch.Size([1, 16])
    """

    def __init__(self, steps: int, vocabulary: int, width: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = width
        self.embed, self.places = nn.Embedding(vocabulary, width), nn.Embedding(steps, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Rows of tokens [B, T] to [B, features]; padding is not read."""
        tokens, counts = x.long(), lengths(x)
        tokens = tokens[:, : int(counts.max())]
        found = self.embed(tokens) + self.places.weight[: tokens.shape[1]]
        seen = torch.arange(tokens.shape[1], device=x.device) < counts[:, None]
        for block in self.blocks:
            found, _ = block(found, seen=seen)
        return (self.norm(found) * seen[..., None]).sum(1) / counts[:, None]


class Written(NamedTuple):
    """Where a transformer decoder is: its codes' part of every position [N, width], and the past of its blocks."""

    codes: Tensor
    past: tuple[Past, ...]


class TransformerDecoder(nn.Module):
    """Writes tokens one after the other from all that it has written; the code is added to every position.

    Args:
        codes: Entries of a code.
        steps: T, the entries of a row.
        vocabulary: Tokens that can be read.
        outputs: Tokens that can be written.
        width, layers, dropout: As of the encoder.
    """

    def __init__(
        self, codes: int, steps: int, vocabulary: int, outputs: int, width: int, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(vocabulary, width), nn.Embedding(steps, width)
        self.code = nn.Linear(codes, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(layers))
        self.norm, self.outputs = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, codes: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
        """Logits of what follows each token that was read; see `RecurrentDecoder.forward`."""
        tokens = tokens[:, : int(counts.max())]
        places = self.places.weight[: tokens.shape[1]]
        found = self.embed(tokens) + places + self.code(codes)[:, None]
        for block in self.blocks:
            found, _ = block(found, causal=True)
        counted = torch.arange(tokens.shape[1], device=counts.device) < counts[:, None]
        return self.outputs(self.norm(found[counted]))

    def begin(self, codes: Tensor) -> Written:
        """Where it is before the first token, for codes [N, L]."""
        return Written(self.code(codes), ())

    def step(self, token: Tensor, written: Written) -> tuple[Tensor, Written]:
        """Logits [N, outputs] of what follows the tokens [N], and where it is then."""
        place = written.past[0][0].shape[2] if written.past else 0
        found = (self.embed(token) + self.places.weight[place] + written.codes)[:, None]
        past = []
        for block, before in zip(self.blocks, written.past or [None] * len(self.blocks), strict=True):
            found, now = block(found, before)
            past.append(now)
        return self.outputs(self.norm(found[:, 0])), Written(written.codes, tuple(past))
