"""Mistakes in a stranger's loop on digits: the monitor names each by its cause, and is silent on a right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import vaelab

ROWS = torch.tensor(load_digits().data / 16).float()
LATENT = 8


def mlp(*widths: int) -> nn.Sequential:
    first, hidden, last = widths
    return nn.Sequential(nn.Linear(first, hidden), nn.ReLU(), nn.Linear(hidden, last))


def everything(model: nn.ModuleDict) -> Iterator[nn.Parameter]:
    return model.parameters()


def identity(values: Tensor) -> Tensor:
    return values


def loop(
    trained: Callable[[nn.ModuleDict], Any] = everything,
    rate: float = 1e-3,
    beta: float = 1.0,
    mean: Callable[[Tensor], Tensor] = identity,
    spread: Callable[[Tensor], Tensor] = identity,
    prepare: Callable[[nn.ModuleDict], Any] = identity,
) -> vaelab.Monitor:
    """Three hundred steps of a plain PyTorch loop; each argument is a place for a mistake."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"encoder": mlp(64, 128, 2 * LATENT), "decoder": mlp(LATENT, 128, 64)})
    prepare(model)
    optimizer = torch.optim.Adam(trained(model), lr=rate)
    monitor = vaelab.Monitor(latent_dim=LATENT)
    for step in range(300):
        rows = ROWS[torch.randint(len(ROWS), (128,))]
        mu, log_var = model["encoder"](rows).chunk(2, -1)
        mu, log_var = mean(mu), spread(log_var)
        z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        crossed = nn.functional.binary_cross_entropy_with_logits(model["decoder"](z), rows, reduction="none").sum(1)
        kl = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(1)
        loss = (crossed + beta * kl).mean()
        optimizer.zero_grad()
        loss.backward()
        monitor.update(step, loss=loss, reconstruction=crossed, kl=kl, mu=mu, log_var=log_var, beta=beta, model=model)
        optimizer.step()
    return monitor


def frozen(model: nn.ModuleDict) -> None:
    model["encoder"].requires_grad_(False)


MISTAKES: dict[str, tuple[str, dict[str, Any]]] = {
    "the decoder is not in the optimiser": ("TR143", {"trained": lambda model: model["encoder"].parameters()}),
    "the encoder is not in the optimiser": ("TR143", {"trained": lambda model: model["decoder"].parameters()}),
    "the optimiser holds nothing that is used": ("TR143", {"trained": lambda model: [nn.Parameter(torch.zeros(1))]}),
    "the encoder is frozen": (
        "TR142",
        {"prepare": frozen, "trained": lambda model: [p for p in model.parameters() if p.requires_grad]},
    ),
    "codes saturate": (
        "TR136",
        {"mean": lambda mu: 2 * torch.tanh(100 * mu), "spread": lambda log_var: log_var - 3},
    ),
    "the rate is too high": ("TR120", {"rate": 0.1}),
    "beta is too high": ("TR121", {"beta": 50.0}),
    "beta is 0": ("TR119", {"beta": 0.0, "mean": lambda mu: 5 * mu}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str) -> None:
    code, changes = MISTAKES[mistake]
    found = [finding for finding in loop(**changes).findings if finding.severity in ("warning", "error")]
    assert found
    assert found[0].code == code


@pytest.mark.parametrize("right", [{}, {"rate": 3e-3}, {"beta": 0.7}, {"spread": lambda log_var: log_var - 1}])
def test_nothing_is_said_of_a_right_loop(right: dict[str, Any]) -> None:
    assert [str(finding) for finding in loop(**right).findings if finding.severity in ("warning", "error")] == []
