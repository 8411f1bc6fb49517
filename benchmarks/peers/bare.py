"""A loop by hand: rows in memory as floats, closed-form losses, a fused optimiser, and nothing else."""

from __future__ import annotations

import torch
from harness import CLIP, DECAY, RATE, begin
from networks import Network
from torch import nn

task, gate = begin()
torch.manual_seed(task.seed)
rows, network = torch.from_numpy(task.scaled), Network(task.network, task.latent)
optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
gate.open(network.size, lambda: network.test_loss(task.test))
while True:
    for index in torch.randperm(len(rows)).split(task.batch):
        optimizer.zero_grad()
        loss = network.loss(rows.index_select(0, index))
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        loss.item()
        gate.step()
