"""Steps whose numbers are read together: a device that is waited for at every step stands still half of the time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .loop import Loop

MOST = 64  # steps: a signal waits for them, and the small tensors of each are held


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


def take(loop: Loop, count: int) -> int:
    """Takes so many steps, or those before the first that is not finite, and returns how many.

    Whether a step is finite is decided on the device, by a flag that stays up: from the first one that is not, the
    optimiser changes nothing and buffers are put back. So nothing non-finite enters the weights, which are those before
    that step, as if each had been looked at; the loop then does it again and looks.
    """
    first = loop.progress.step
    refused = torch.zeros((), device=loop.engine.device)
    unread, records, used = [], [], []
    for number in range(first, first + count):
        numbers, record, weights = _step(loop, number, refused)
        unread.append(numbers)
        records.append(record)
        used.append(weights)
    clip = loop.config.train.clip_norm or math.inf
    for place, (loss, norm, stopped) in enumerate(torch.stack(unread).tolist()):
        if stopped:
            loop._measured = {}  # of a step that was not taken
            return place
        loop.window.add(records[place], loss=loss, gradient_norm=norm, clipped=float(norm > clip))
        loop._used = used[place]
    return count


def _step(loop: Loop, number: int, refused: Tensor) -> tuple[Tensor, list[Any], dict[str, float]]:
    """Step `number` without reading: loss, norm and flag, [3] in float64; what is recorded; the weights of terms."""
    (x, noise), weights = loop._draw(number), loop.weighting(number, loop.progress)
    before = [buffer.clone() for buffer in loop.buffers]
    loop.optimizer.zero_grad()
    loop.opponent.zero_grad()
    total, terms, kl = loop.step(x, weights, noise)
    total.backward()
    norm, others = (loop.norm_of(parameters) for parameters in (loop.parameters, loop.opponents))
    refused.copy_(torch.maximum(refused, (~torch.isfinite(total.detach() + norm + others)).to(refused.dtype)))
    for buffer, value in zip(loop.buffers, before, strict=True):
        buffer.copy_(torch.where(refused > 0, value, buffer))
    clip = loop.config.train.clip_norm
    loop._update(number, (norm / clip).clamp(min=1) if clip else None, refused)
    return torch.stack([total.detach().double(), norm.double(), refused.double()]), [(len(x), terms, kl)], weights
