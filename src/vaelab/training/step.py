"""What a step draws, and `Step`: its whole computation as one module, which synchronisation hangs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.seeds import derive, seed_global
from ..data.batches import Rows
from ..models.vae import Model
from ..objectives.base import Objective
from .engine import Engine


class Draws:
    """What a step draws, as a function of its number: rows, their coins, base noise, and the seed of all else.

    Args:
        rows: The training rows.
        size: Rows of a batch over all processes.
        samples: Posterior samples per row.
        seed: Of the run.
    """

    def __init__(self, rows: Rows, size: int, samples: int, seed: int, engine: Engine) -> None:
        self.rows, self.size, self.samples, self.seed, self.engine = rows, size, samples, seed, engine
        self.order = rows.order(size, derive(seed, "rows"))
        self._coins, self._noise = torch.Generator(engine.device), torch.Generator(engine.device)

    def __call__(self, number: int, noise_size: int | None) -> tuple[Tensor | Batch, Tensor | None]:
        """This process's share of the rows of a step and of their base noise; the global generators are seeded too."""
        share = self.engine.share
        self._coins.manual_seed(derive(self.seed, "coins", number))
        x = share(self.rows.take(self.order.batch(number), self._coins))
        self.seed_others(number)
        if noise_size is None:
            return x, None
        self._noise.manual_seed(derive(self.seed, "noise", number))
        shape = (self.samples, self.size, noise_size)
        return x, share(torch.randn(shape, generator=self._noise, device=self.engine.device), 1)

    def seed_others(self, number: int) -> None:
        """Seeds what a model draws by itself in a step, such as dropout."""
        seed_global(self.seed, "step", number, self.engine.rank, device=self.engine.device)


def relative_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Norm of the change of all tensors together over their norm before it."""
    changes = [new.detach() - old for old, new in zip(before, after, strict=True)]
    return (nn.utils.get_total_norm(changes) / nn.utils.get_total_norm(before).clamp(min=1e-30)).item()


class Step(nn.Module):
    """A model under an objective.

    Args:
        model: Anything that offers `draw(x, samples, noise) -> VAEOutput`.
        objective: A function of that record and of the step's weights; its own parameters, if any, are trained too.
        autocast: The lower precision to compute the networks in; None for full precision.
    """

    def __init__(self, model: Model, objective: Objective, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model, self.objective, self.autocast = model, objective, autocast

    def forward(
        self, x: Tensor | Batch, weights: Mapping[str, float], noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss of all players, a mean over the batch; sums over rows of its terms, and of KL per group [G]."""
        if self.autocast is None:
            return self._computed(x, weights, noise)
        with torch.autocast(x.device.type, self.autocast):
            return self._computed(x, weights, noise)

    def _computed(
        self, x: Tensor | Batch, weights: Mapping[str, float], noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        output = self.model.draw(x, samples=self.objective.samples, noise=noise)
        loss = self.objective(output, weights)
        return loss.minimised, {name: term.sum() for name, term in loss.terms.items()}, output.kl.detach().sum(0)
