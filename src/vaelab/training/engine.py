"""The engine: PyTorch's own processes, behind one small class. Alone it costs nothing.

Started by `torchrun`, it reads the launcher's environment; every process holds the whole data and takes its slice of
each global batch, so that the numbers are those of a single process.
"""

from __future__ import annotations

import contextlib
import gc
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..core.errors import BadInput
from .tuning import keep_memory


class Engine:
    """One process of a run.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        BadInput: if the device is not there.
    """

    def __init__(self, device: str = "auto") -> None:
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = _device(device)
        if self.device.type == "cpu":
            keep_memory()
        if self.world > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")

    @property
    def is_main(self) -> bool:
        """True for the process that writes."""
        return self.rank == 0

    def share(self, batch: Any, dim: int = 0) -> Any:
        """This process's slice of a global batch."""
        return batch if self.world == 1 else batch.tensor_split(self.world, dim)[self.rank]

    def wrap(self, step: nn.Module) -> nn.Module:
        """The module whose forward synchronises gradients."""
        if self.world == 1:
            return step
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(step, device_ids=ids)

    def delayed(self, step: nn.Module) -> Any:
        """A context in which gradients are added up without being exchanged."""
        return contextlib.nullcontext() if self.world == 1 else step.no_sync()  # type: ignore[operator]

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def most(self, value: Tensor) -> Tensor:
        """The largest value over all processes."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        """Over all processes, by way of the device: NCCL takes nothing else."""
        if self.world == 1:
            return values
        there = values.to(self.device)
        dist.all_reduce(there, how)
        return there.to(values.device)

    def tell(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def close(self) -> None:
        """Leaves the group of processes; what was wrapped must be gone before."""
        if self.world > 1:
            gc.collect()
            dist.barrier()
            dist.destroy_process_group()


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise BadInput("train.device", name, "no CUDA device is here", "use train.device=cpu")
        index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise BadInput("train.device", name, f"there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        device = torch.device("cuda", index)
    return device
