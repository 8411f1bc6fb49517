"""Numbers that belong to the whole batch when its rows are spread over several processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def global_mean(total: Tensor, count: int) -> Tensor:
    """Mean over the batch of all processes, from this process's sum and count; carries no gradient.

    Args:
        total: Sum over this process's entries, of any shape.
        count: Number of those entries; it may differ between processes.

    Example:
        >>> global_mean(torch.tensor(6.0), 4)
        tensor(1.5000)
    """
    total = total.detach()
    if not _several():
        return total / count
    sums = torch.cat([total.flatten(), total.new_tensor([count])])
    dist.all_reduce(sums)
    return (sums[:-1] / sums[-1]).reshape(total.shape)


def of_the_first(values: Tensor) -> Tensor:
    """What the first process has, in every process; of the same shape everywhere, and without gradient.

    Example:
        >>> of_the_first(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    values = values.detach()
    if not _several():
        return values
    shared = values.clone(memory_format=torch.contiguous_format)
    dist.broadcast(shared, 0)
    return shared


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
