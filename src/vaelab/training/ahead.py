"""Steps whose numbers are read together: a device that is waited for at every step stands still half of the time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.batch import Batch
from .graph import Graph, Replays

if TYPE_CHECKING:
    from .loop import Loop

MOST = 64  # steps: a signal waits for them, and the numbers of each are held


def room(loop: Loop) -> int:
    """How many steps may be taken before a number of theirs is read: up to the next one after which something is due.

    One where a step asks for what the one before it gave (a controller, a rate on trial), where numbers are those of
    several processes or slices, where an average of the weights follows, and on a processor, which nobody waits for.
    """
    train, step = loop.config.train, loop.progress.step
    asked = loop.weighting.controller is not None or bool(loop.progress.trial) or loop.averaged is not None
    if not loop.reads_late or asked or loop.engine.world > 1 or train.accumulate > 1:
        return 1
    due = (loop._every("log_every", 200), loop._every("checkpoint_every", 10), loop._evaluate_every)
    return min(MOST, train.total - step, *(every - step % every for every in due))


class Ahead:
    """Takes steps of a loop without reading their numbers in between.

    Whether a step is finite is decided on the device, by a flag that stays up: from the first one that is not, the
    optimiser changes nothing and buffers are put back. So nothing non-finite enters the weights, which are those before
    that step, as if each had been looked at; the loop then does it again and looks.

    Args:
        loop: Whose steps they are.
        graphs: Records a function on the device; None: its kernels are launched one by one.
    """

    def __init__(self, loop: Loop, graphs: type[Graph] | None = None) -> None:
        self.loop, self.refused = loop, torch.zeros((), device=loop.engine.device)
        self.names: list[str] = []  # of the terms
        self.replays = None if graphs is None else Replays(graphs, self._numbers, self.refused, loop.display.say)

    def take(self, count: int) -> int:
        """Takes so many steps, or those before the first that is not finite, and returns how many."""
        loop, first = self.loop, self.loop.progress.step
        self.refused.zero_()
        drawn = [self._step(number) for number in range(first, first + count)]
        unread, sizes, used = zip(*drawn, strict=True)
        clip = loop.config.train.clip_norm or math.inf
        for place, row in enumerate(torch.stack(unread).cpu()):
            loss, norm, stopped = row[:3].tolist()
            if stopped:
                loop._measured = {}  # of a step that was not taken
                return place
            terms, kl = row[3:].tensor_split([len(self.names)])
            record = [(sizes[place], dict(zip(self.names, terms, strict=True)), kl)]
            loop.window.add(record, loss=loss, gradient_norm=norm, clipped=float(norm > clip))
            loop._used = used[place]
        return count

    def _step(self, number: int) -> tuple[Tensor, int, dict[str, float]]:
        """The numbers of step `number`, how many rows it had, and the weights of its terms."""
        loop = self.loop
        (x, noise), weights = loop._draw(number), loop.weighting(number, loop.progress)
        before, rate = loop._before_update(number), loop._rate(number)
        if self.replays is None or loop._encoder_only(number):
            numbers = self._numbers(x, noise, weights, rate, loop._encoder_only(number))
        else:
            numbers = self.replays(x, noise, weights, rate)
        loop._after_update(number, before)
        return numbers, len(x), weights

    def _numbers(
        self,
        x: Tensor | Batch,
        noise: Tensor | None,
        weights: Mapping[str, float],
        rate: float | Tensor,
        encoder_only: bool = False,
    ) -> Tensor:
        """Loss, norm, flag, sums of terms and of the KL of each group, float64, after a step that nobody looks at."""
        loop = self.loop
        kept = [buffer.clone() for buffer in loop.buffers]
        loop.optimizer.zero_grad()
        loop.opponent.zero_grad()
        total, terms, kl = loop.step(x, weights, noise)
        total.backward()
        norm, others = (loop.norm_of(parameters) for parameters in (loop.parameters, loop.opponents))
        finite = torch.isfinite(total.detach() + norm + others)
        self.refused.copy_(torch.maximum(self.refused, (~finite).to(self.refused.dtype)))
        for buffer, value in zip(loop.buffers, kept, strict=True):
            buffer.copy_(torch.where(self.refused > 0, value, buffer))
        clip = loop.config.train.clip_norm
        loop._move(rate, (norm / clip).clamp(min=1) if clip else None, self.refused, encoder_only)
        self.names = list(terms)
        first = torch.stack([part.double() for part in (total.detach(), norm, self.refused, *terms.values())])
        return torch.cat([first, kl.double()])
