"""What a look at the model tells at a sampled step: gradients, the size of a step, and parameters that get neither."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .units import Census

ENTRIES = 10_000  # of each parameter that a step's size is estimated from: to about 1 %
MANY_LOOKS = 5  # a parameter without gradient in as many looks, and in none with one, is not reached


class Looks:
    """Looks at a model from one step to the next, and remembers which parameters never had a gradient.

    Args:
        model: What is trained; nothing of it is changed but for hooks during the step that is looked at.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._without = dict.fromkeys(self._trained, 0)  # looks without a gradient; those once reached are dropped
        self._unmoved = dict.fromkeys(self._trained, 0)  # looks with a gradient and no change, though others moved
        self._standing = 0  # looks in a row with gradients and no change of any parameter
        coins = torch.Generator().manual_seed(0)
        self._places = {
            name: torch.randint(p.numel(), (ENTRIES,), generator=coins).to(p.device)
            for name, p in self._trained.items()
            if p.numel() > 2 * ENTRIES
        }
        self._census: Census | None = None
        self._before: dict[str, Tensor] = {}

    @property
    def open(self) -> bool:
        """Whether a step is being looked at."""
        return self._census is not None

    @property
    def unreached(self) -> list[str]:
        """Parameters that had no gradient in all of at least five looks."""
        return [name for name, looks in self._without.items() if looks >= MANY_LOOKS]

    @property
    def unmoved(self) -> list[str]:
        """Parameters that had a gradient and did not move in all of at least five looks."""
        if self._standing >= MANY_LOOKS:
            return list(self._trained)
        return [name for name, looks in self._unmoved.items() if looks >= MANY_LOOKS]

    @property
    def frozen_share(self) -> float:
        """Share of all parameters' entries that are not to be trained."""
        frozen = sum(p.numel() for p in self.model.parameters() if not p.requires_grad)
        return frozen / max(1, sum(p.numel() for p in self.model.parameters()))

    @property
    def parameters(self) -> int:
        """How many parameters, as tensors, are to be trained."""
        return len(self._trained)

    def start(self) -> None:
        """The next step is the one that is looked at."""
        self._census = Census(self.model)
        self._before = {name: self._entries(name).clone() for name in self._trained}

    def end(self) -> dict[str, float]:
        """What was seen since `start`, by the names of the trace."""
        assert self._census is not None, "no look was started"
        seen, self._census = self._census.close(), None
        changes, sizes = (self._norm({name: f(name) for name in self._before}) for f in (self._change, self._entries))
        if self._before and changes > 0 and sizes > 0:  # 0 between two steps that the optimiser did not take
            seen["update_ratio"] = changes / sizes
            self._note_moves()
        gradients = self._gradients()
        self._standing = self._standing + 1 if gradients and changes == 0 else 0
        self._before = {}
        return seen | gradients

    def _note_moves(self) -> None:
        """A parameter that moved once is in the optimiser's care; one with a gradient that stands still may not be."""
        for name in list(self._unmoved):
            if self._change(name).any():
                del self._unmoved[name]
            elif (gradient := self._trained[name].grad) is not None and gradient.any():
                self._unmoved[name] += 1

    def _gradients(self) -> dict[str, float]:
        """The norm of all gradients; nothing where they have been cleared already."""
        gradients = {name: p.grad.detach() for name, p in self._trained.items() if p.grad is not None}
        values = torch.stack([g.norm().float() for g in gradients.values()]).tolist() if gradients else []
        if not any(values):
            return {}
        norms = dict(zip(gradients, values, strict=True))
        for name in list(self._without):
            if norms.get(name, 0.0) != 0:
                del self._without[name]
            else:
                self._without[name] += 1
        return {"gradient_norm": math.hypot(*values)}

    def _entries(self, name: str) -> Tensor:
        """A parameter's entries, or a fixed random choice of them."""
        flat = self._trained[name].detach().flatten()
        return flat[self._places[name]] if name in self._places else flat

    def _change(self, name: str) -> Tensor:
        return self._entries(name) - self._before[name]

    def _norm(self, entries: dict[str, Tensor]) -> float:
        """The norm over all parameters, estimated from the entries that were chosen."""
        squares = [e.square().sum().float() * (self._trained[name].numel() / len(e)) for name, e in entries.items()]
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
