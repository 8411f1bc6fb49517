"""How long an audit takes: the first one in a process, whole command included, and later ones in the same process.

Bounds: 5 s for a loss, 20 s for a model, on 2 cores without a GPU.
Usage: python benchmarks/audit.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import write_table

import vaelab

SOURCE = """
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def torch_loss(x, recon, mu, log_var):
    return F.binary_cross_entropy(recon, x, reduction="sum") - 0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp())


def sampled_loss(x, logits, mu, log_var, z):
    q, p = torch.distributions.Normal(mu, (0.5 * log_var).exp()), torch.distributions.Normal(0.0, 1.0)
    fit = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    return (fit + (q.log_prob(z) - p.log_prob(z)).sum(1)).mean()


def numpy_loss(x, recon, mu, std):
    return (0.5 * (x - recon) ** 2).sum(1).mean() + 0.5 * (mu**2 + std**2 - 2 * np.log(std) - 1).sum(1).mean()


def wide_loss(x, recon, mu, log_var):
    return torch_loss(x.reshape(-1, 784), recon.reshape(-1, 784), mu, log_var) / len(mu)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU())
        self.fc_mu, self.fc_var = nn.Linear(400, 20), nn.Linear(400, 20)
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid())

    def forward(self, x):
        h = self.encoder(x)
        mu, log_var = self.fc_mu(h), self.fc_var(h)
        z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        return self.decoder(z), mu, log_var

    def loss_function(self, recon, x, mu, log_var):
        return torch_loss(x, recon, mu, log_var) / len(x)
"""
SUBJECTS = ("torch_loss", "sampled_loss", "numpy_loss", "wide_loss", "Model")


def command(file: Path, name: str) -> float:
    """Seconds of the command in a process of its own."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "vaelab", "audit", f"{file}:{name}"], capture_output=True, check=False)
    return time.perf_counter() - begin


def again(file: Path, name: str) -> float:
    """Seconds of an audit where everything is imported."""
    from vaelab.auditing.run import find

    subject = find(f"{file}:{name}")[0]
    begin = time.perf_counter()
    vaelab.audit(subject)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    file = Path(tempfile.mkdtemp()) / "subjects.py"
    file.write_text(SOURCE)
    lines = [f"{'subject':<16}{'command s':>12}{'in process s':>14}"]
    for name in SUBJECTS:
        whole = statistics.median(command(file, name) for _ in range(repeats))
        inside = statistics.median(again(file, name) for _ in range(repeats))
        lines.append(f"{name:<16}{whole:>12.2f}{inside:>14.2f}")
    write_table("audit", "Seconds of an audit, medians (bounds: 5 for a loss, 20 for a model)", lines)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
