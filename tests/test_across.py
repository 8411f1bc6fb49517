"""Means over the batch of all processes."""

from __future__ import annotations

import socket

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from vaelab.core.across import global_mean, of_the_first
from vaelab.distributions.quantize import VectorBook

DOUBLE = {"dtype": torch.float64}


def _mean_of_two(rank, port):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        totals = [torch.tensor(6.0, **DOUBLE), torch.tensor([1.0, 2.0], **DOUBLE)]
        torch.testing.assert_close(global_mean((1 + rank) * totals[0], 1 + 3 * rank), torch.tensor(18 / 5, **DOUBLE))
        torch.testing.assert_close(global_mean((1 + rank) * totals[1], 2), torch.tensor([0.75, 1.5], **DOUBLE))
        assert of_the_first(torch.arange(6.0).view(2, 3).T + rank).tolist() == [[0, 3], [1, 4], [2, 5]]
        torch.manual_seed(rank)
        book = VectorBook(8, 2, depth=2, decay=0.1).train()
        book.entries.copy_(100 + torch.arange(32.0).view(2, 8, 2))  # all but the nearest are dead at once
        for _ in range(3):
            book(torch.randn(5 + rank, 2, 2))
            assert torch.equal(book.entries, of_the_first(book.entries)), "the processes have one book"
        assert book.entries.abs().max() < 50
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_a_mean_over_two_processes_weighs_each_by_its_count():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_mean_of_two, (port,), nprocs=2)


def test_a_mean_carries_no_gradient():
    assert not global_mean(torch.ones((), requires_grad=True) * 3, 2).requires_grad
