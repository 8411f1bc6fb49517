"""What the monitor costs in a plain loop: the same steps with it and without, in one run.

Both take turns in blocks of steps on the same model; the ratio is that of the medians. It is processor time, so that
other work on the machine has little part in it. The time within `update` is taken as well, since the ratio of a few
blocks is known to a few percent only.
Usage: python benchmarks/monitor.py [--blocks 40]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from table import write_table
from torch import Tensor, nn

from vaelab.monitoring.monitor import LOOK_EVERY, Monitor

WIDTH, HIDDEN, LATENT, BATCH = 784, 400, 20, 128
STEPS = LOOK_EVERY  # of a block: a look in each


class Plain(nn.Module):
    """The MLP VAE of the PyTorch examples."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU())
        self.mu, self.log_var = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, log_var = self.mu(h), self.log_var(h)
        z = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
        nats = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") / len(x)
        return nats, 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum() / len(x), mu, log_var


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=40)
    blocks = parser.parse_args().blocks
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = (torch.rand(20_000, WIDTH) < 0.3).float()
    model, monitor = Plain(), Monitor(latent_dim=LATENT)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    done, inside = 0, 0.0

    def block(watched: bool) -> float:
        nonlocal done, inside
        start = time.process_time()
        for _ in range(STEPS):
            x = rows[torch.randint(len(rows), (BATCH,))]
            reconstruction, kl, mu, log_var = model(x)
            loss = reconstruction + kl
            optimizer.zero_grad()
            loss.backward()
            if watched:
                done += 1
                terms = {"loss": loss, "reconstruction": reconstruction, "kl": kl, "mu": mu, "log_var": log_var}
                began = time.process_time()
                monitor.update(done, **terms, model=model, beta=1.0, batch=x)
                inside += time.process_time() - began
            optimizer.step()
            loss.item()  # as any loop that prints it does
        return 1e3 * (time.process_time() - start) / STEPS

    times = [(block(True), block(False)) for _ in range(blocks + 1)][1:]
    watched, plain = (statistics.median(column) for column in zip(*times, strict=True))
    update = 1e3 * inside / done
    head = f"{'model (batch 128, Adam)':<24} {'watched ms':>11} {'plain ms':>9} {'ratio':>7}"
    head += f" {'update ms':>10} {'share':>7}"
    line = f"{f'MLP {WIDTH}-{HIDDEN}-{LATENT}':<24} {watched:>11.3f} {plain:>9.3f} {watched / plain:>7.3f}"
    line += f" {update:>10.3f} {update / plain:>7.3f}"
    write_table("monitor", "Training step with and without the monitor (bound: ratio 1.03, share 0.03)", [head, line])


if __name__ == "__main__":
    main()
