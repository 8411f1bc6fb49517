"""Fitting a density to points: the small loop of priors that are fitted to codes after training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core.errors import Diverged

BATCH, RATE, CLIP = 256, 2e-3, 5.0


def minimise(module: nn.Module, loss: Callable[[Tensor], Tensor], z: Tensor, steps: int, seed: int) -> None:
    """Adam on batches of points, the rate falling to 0 by a cosine; the same for the same seed.

    Args:
        module: Whose parameters are moved; they need no gradient before or after.
        loss: Of a batch [n, L], a scalar.
        z: Points, [N, L].
        steps: How many.
        seed: Of the batches, and of what the loss draws.

    Raises:
        Diverged: for a loss or a gradient that is not finite.
    """
    coins = torch.Generator().manual_seed(seed)
    module.requires_grad_(True).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        for step in range(steps):
            index = torch.randint(len(z), (min(BATCH, len(z)),), generator=coins)
            value = loss(z[index.to(z.device)])
            if not torch.isfinite(value):
                raise Diverged(f"step {step} of fitting the prior: the loss is {value.item():.6g}; it was left out")
            optimizer.zero_grad()
            value.backward()
            norm = nn.utils.clip_grad_norm_(module.parameters(), CLIP)
            if not torch.isfinite(norm):
                raise Diverged(f"step {step} of fitting the prior: a gradient is not finite; it was left out")
            optimizer.step()
            falling.step()
    module.requires_grad_(False).eval()
