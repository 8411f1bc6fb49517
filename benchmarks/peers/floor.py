"""The matrix products of a step alone, forward and backward, in buffers that are there from the start.

Variants: what `torch.set_float32_matmul_precision` takes. A product that is not computed in float32 is refused.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from harness import WIDTHS, begin

task, gate = begin()
torch.set_float32_matmul_precision(task.variant)


def product(rows: int, inner: int, columns: int, flip: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two factors, laid out as a linear layer has them, and a buffer for their product."""
    left = torch.randn(inner, rows).T if flip == "left" else torch.randn(rows, inner)
    right = torch.randn(columns, inner).T if flip == "right" else torch.randn(inner, columns)
    return left, right, torch.empty(rows, columns)


chains = ([784, *WIDTHS, 2 * task.latent], [task.latent, *reversed(WIDTHS), 784])
products = []
for number, widths in enumerate(chains):
    for wide, narrow in pairwise(widths):
        products.append(product(task.batch, wide, narrow, "right"))  # x Wᵀ
        products.append(product(narrow, task.batch, wide, "left"))  # gᵀ x
        if number > 0 or wide != widths[0]:
            products.append(product(task.batch, narrow, wide, ""))  # g W; no gradient of the data
for left, right, out in products:
    exact = left.double() @ right.double()
    error = (torch.mm(left, right, out=out) - exact).norm() / exact.norm()
    assert error < 1e-5, f"relative error {error:.1e}: not float32"
gate.open(sum(wide * narrow + narrow for widths in chains for wide, narrow in pairwise(widths)))
while True:
    for left, right, out in products:
        torch.mm(left, right, out=out)
    gate.step()
