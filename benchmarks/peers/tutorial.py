"""The tutorial's script as a person writes it: a data loader, and normal distributions by their Cholesky factor.

Variants: "samples" turns one image after the other into floats, "tensors" has them all as floats from the start.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from harness import CLIP, DECAY, RATE, begin
from networks import Network
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Images(Dataset):
    """Images as they came; each is converted when it is asked for."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor]:
        return (torch.from_numpy(self.images[row]).to(torch.float32).div(255).view(-1),)


task, gate = begin()
dataset = Images(task.train) if task.variant == "samples" else TensorDataset(torch.from_numpy(task.scaled))
loader = DataLoader(dataset, batch_size=task.batch, shuffle=True)
network = Network(task.network, task.latent)
optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
gate.open(network.size, lambda: network.test_loss(task.test))
while True:
    total = 0.0
    for (x,) in loader:
        optimizer.zero_grad()
        mean, std = network.posterior(x)
        posterior = MultivariateNormal(mean, scale_tril=torch.diag_embed(std))
        z = posterior.rsample()
        unit = torch.eye(task.latent).expand(len(z), -1, -1)
        prior = MultivariateNormal(torch.zeros_like(z), scale_tril=unit)
        pixels = F.binary_cross_entropy(network.decoder(z).sigmoid(), x, reduction="none").sum(-1)
        loss = pixels.mean() + kl_divergence(posterior, prior).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        total += loss.item()
        gate.step()
