"""A network of numbers in front of which tokens are turned into numbers."""

from __future__ import annotations

from torch import Tensor, nn


class Embedded(nn.Module):
    """Each token of a row as numbers that are learned, then a network over all of them at once.

    Args:
        vocabulary: Tokens there are.
        embedding: Numbers that stand for a token.
        net: Takes [B, T, embedding]; has an attribute `features`.
    """

    def __init__(self, vocabulary: int, embedding: int, net: nn.Module) -> None:
        super().__init__()
        self.embed, self.net, self.features = nn.Embedding(vocabulary, embedding), net, net.features

    def forward(self, x: Tensor) -> Tensor:
        """Rows of tokens [B, T] to [B, features]."""
        return self.net(self.embed(x.long()))
