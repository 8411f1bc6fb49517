"""How often the entries of a book are used, kept as counts so that chunks and processes agree."""

from __future__ import annotations

from typing import Any

import torch

from ..core.output import VAEOutput


class CodeUse:
    """Counts of the entries of each book that a model has, at the first sample of every row.

    Attributes:
        counts: [depth, symbols]; empty before the first rows, and for a model without codes.

    Example:
        >>> use = CodeUse()
        >>> use.counts = torch.tensor([[2.0, 2.0, 0.0]])
        >>> use.compute()
        {'code_perplexity': [2.0], 'codes_used': [2], 'codebook': 3, 'codes_seen': 4}
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, output: VAEOutput) -> None:
        """Adds the rows of a batch."""
        book = getattr(output.posterior, "book", None)
        if book is None:
            return
        indices = book.indices(output.z[0]).unflatten(1, (-1, book.depth))
        uses = [level.bincount(minlength=book.symbols) for level in indices.flatten(0, 1).T]
        counted = torch.stack(uses).double().cpu()
        self.counts = self.counts + counted if len(self.counts) else counted

    def compute(self) -> dict[str, Any]:
        """For each book `code_perplexity`, the exponential of the entropy with which its entries are used, and
        `codes_used`, how many are; with `codebook`, how many there are, and `codes_seen`. {} for no codes.
        """
        if not len(self.counts):
            return {}
        seen = self.counts[0].sum()
        entropy = torch.special.entr(self.counts / seen).sum(1)
        return {
            "code_perplexity": entropy.exp().tolist(),
            "codes_used": (self.counts > 0).sum(1).tolist(),
            "codebook": self.counts.shape[1],
            "codes_seen": int(seen),
        }
