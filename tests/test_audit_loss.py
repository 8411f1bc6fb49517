"""Mutations of a right loss: each code of the audit that a loss can show, told from values and gradients alone.

The audit's inputs are B = 6 rows of P = 12 entries and D = 4 latents, and every expected beta is worked out from these
by hand: in `L = a sum_i R_i + b sum_i KL_i`, with a = 1 / B for a mean over rows, beta is b / a.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as td

from vaelab.auditing.codes import NAMES
from vaelab.auditing.loss import audit_loss

B, P, D = 6, 12, 4
# Errors that may stand beside the one named, since both are true of the mutation; any other blames the wrong thing.
BESIDE: dict[str, set[str]] = {
    "RE007": {"RE001"},
    "RE008": {"RE001"},
    "KL006": {"KL005"},
    "KL008": {"KL004"},
    "GR004": {"UN002"},
    "UN002": {"KL005", "RE008"},
}
ELSEWHERE = {"GR003"}  # beside those of models, samplers and estimators, which a loss cannot show


class Mutation(NamedTuple):
    """What must be said about a loss with one thing wrong; `beta` None where none describes it."""

    code: str
    severity: str
    beta: float | None
    loss: Callable[..., Any]
    options: dict[str, Any] = {}  # noqa: RUF012


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """The divergence from N(0, 1) by row, right."""
    return -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp(), dim=1)


def bce(output: Tensor, x: Tensor) -> Tensor:
    """The Bernoulli negative log-likelihood by entry, right."""
    return F.binary_cross_entropy(output, x, reduction="none")


def logits_bce(output: Tensor, x: Tensor) -> Tensor:
    """Likewise on logits."""
    return F.binary_cross_entropy_with_logits(output, x, reduction="none")


def rates_nll(rate: Tensor, x: Tensor) -> Tensor:
    """The Poisson negative log-likelihood by entry, right up to a constant."""
    return F.poisson_nll_loss(rate, x, log_input=False, eps=0, reduction="none")


def rec(term: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A loss with this reconstruction term beside the right divergence."""
    return lambda x, recon, mu, logvar: term(x, recon) + kl(mu, logvar).mean()


def div(term: Callable[[Tensor, Tensor], Any]) -> Callable[..., Tensor]:
    """A loss with this divergence beside the right reconstruction term."""
    return lambda x, recon, mu, logvar: bce(recon, x).sum(1).mean() + term(mu, logvar)


def std_div(term: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Likewise where the head is a standard deviation."""
    return lambda x, recon, mu, std: bce(recon, x).sum(1).mean() + term(mu, std)


def by_halves(x: Tensor, recon: Tensor) -> Tensor:
    """The first half of the columns summed, the second averaged."""
    left, right = bce(recon, x).chunk(2, dim=1)
    return (left.sum(1) + right.mean(1)).mean()


CENTRED = np.linspace(-1, 1, B * P).reshape(B, P)
RECONSTRUCTION = {
    # A mean of squares over B P entries is 2 / (B P) of half the sum of squares.
    "mean of squares": Mutation("RE001", "error", P / 2, rec(lambda x, o: F.mse_loss(o, x))),
    "mean cross entropy": Mutation("RE001", "error", P, rec(lambda x, o: F.binary_cross_entropy(o, x))),
    "mean over each picture": Mutation("RE001", "error", P, rec(lambda x, o: (x - o).abs().flatten(1).mean(1).mean())),
    "root of P in it": Mutation(
        "RE001", "error", P**0.5, rec(lambda x, o: (bce(o, x).sum(1) / P**0.5).mean() * (P / x.shape[1]) ** 0.5)
    ),
    "sigmoid twice": Mutation("RE002", "error", None, rec(lambda x, o: logits_bce(o.sigmoid(), x).sum(1).mean())),
    "logits as probabilities": Mutation(
        "RE002", "error", None, lambda x, logits, mu, logvar: (bce(logits, x).sum(1) + kl(mu, logvar)).mean()
    ),
    "probabilities as logits": Mutation(
        "RE002", "error", None, lambda x, probs, mu, logvar: (logits_bce(probs, x).sum(1) + kl(mu, logvar)).mean()
    ),
    "softmax twice": Mutation(
        "RE002",
        "error",
        None,
        rec(lambda x, o: F.cross_entropy(o.softmax(-1).transpose(1, 2), x, reduction="none").sum(1).mean()),
        {"family": "categorical"},
    ),
    "data from -1": Mutation("RE003", "error", 1, rec(lambda x, o: logits_bce(o, x).sum(1).mean()), {"data": CENTRED}),
    "data to 255": Mutation(
        "RE003", "error", 1, rec(lambda x, o: bce(o, x).sum(1).mean()), {"data": 127.5 * (CENTRED + 1)}
    ),
    "negative counts": Mutation(
        "RE003", "error", 1, rec(lambda x, o: rates_nll(o, x).sum(1).mean()), {"data": CENTRED}
    ),
    "any target taken": Mutation("RE003", "info", 1, rec(lambda x, o: logits_bce(o, x).sum(1).mean())),
    "swapped": Mutation("RE004", "error", None, rec(lambda x, o: bce(x, o).sum(1).mean())),
    "swapped logits": Mutation("RE004", "error", None, rec(lambda x, o: logits_bce(x, o).sum() / len(x))),
    "swapped rates": Mutation("RE004", "error", None, rec(lambda x, o: rates_nll(x, o).sum(1).mean())),
    "swapped in a distribution": Mutation(
        "RE004", "error", None, rec(lambda x, o: -td.Poisson(x).log_prob(o.round()).sum(1).mean())
    ),
    "likelihood not negated": Mutation(
        "RE005", "error", -1, rec(lambda x, o: td.Normal(o, 1.0).log_prob(x).sum(1).mean())
    ),
    "cross entropy negated": Mutation("RE005", "error", -1, rec(lambda x, o: -bce(o, x).sum(1).mean())),
    # w r^2 is r^2 / (2 sigma^2) at sigma^2 = 1 / (2 w).
    "noise too wide": Mutation("RE006", "error", 500, rec(lambda x, o: 0.001 * (x - o).square().sum(1).mean())),
    "noise too fine": Mutation("RE006", "error", 1e-8, rec(lambda x, o: 5e7 * (x - o).square().sum(1).mean())),
    "Laplace too wide": Mutation("RE006", "error", 100, rec(lambda x, o: 0.01 * (x - o).abs().sum(1).mean())),
    "wide for this data": Mutation(
        "RE006", "error", 50, rec(lambda x, o: 0.01 * (x - o).square().sum(1).mean()), {"data": 0.1 * CENTRED}
    ),
    "root of the mean": Mutation("RE007", "error", None, rec(lambda x, o: F.mse_loss(o, x).sqrt())),
    "norm of each row": Mutation(
        "RE007", "error", None, rec(lambda x, o: torch.linalg.vector_norm(x - o, dim=1).mean())
    ),
    "cosine": Mutation("RE007", "error", None, rec(lambda x, o: (1 - F.cosine_similarity(o, x)).mean())),
    "ones alone": Mutation("RE007", "error", None, rec(lambda x, o: -(x * o.log()).sum(1).mean())),
    "x beside x": Mutation("RE007", "error", None, rec(lambda x, o: (x - x).square().sum(1).mean())),
    "difference not squared": Mutation("RE007", "error", None, rec(lambda x, o: (x - o).sum(1).mean())),
    "channels averaged": Mutation(
        "RE008", "error", 3, rec(lambda x, o: bce(o, x).mean(1).sum((1, 2)).mean()), {"sizes": {"pixels": (3, 2, 2)}}
    ),
    "steps averaged": Mutation(
        "RE008", "error", 6, rec(lambda x, o: bce(o, x).sum(2).mean(1).mean()), {"sizes": {"pixels": (6, 2)}}
    ),
    "every row with every other": Mutation(
        "RE008", "error", None, rec(lambda x, o: (x - o[:, None]).square().sum(-1).mean())
    ),
    "half of the columns averaged": Mutation("RE008", "error", None, rec(by_halves)),
}

DIVERGENCE = {
    "clamped away": Mutation("KL001", "error", 0, div(lambda mu, lv: kl(mu, lv).clamp(0, 0).mean())),
    "times nothing": Mutation("KL001", "error", 0, div(lambda mu, lv: 1 // 2 * kl(mu, lv).mean())),
    "left out": Mutation("KL001", "error", 0, div(lambda mu, lv: torch.zeros(()))),
    "subtracted": Mutation("KL002", "error", -1, div(lambda mu, lv: -kl(mu, lv).mean())),
    "minus forgotten": Mutation(
        "KL002", "error", -1, div(lambda mu, lv: 0.5 * (1 + lv - mu**2 - lv.exp()).sum(1).mean())
    ),
    "mean over latents": Mutation(
        "KL003", "error", 1 / D, div(lambda mu, lv: -0.5 * (1 + lv - mu**2 - lv.exp()).mean())
    ),
    "mean of distributions": Mutation(
        "KL003", "error", 1 / D, std_div(lambda mu, std: td.kl_divergence(td.Normal(mu, std), td.Normal(0, 1)).mean())
    ),
    "summed over rows": Mutation("KL004", "error", B, div(lambda mu, lv: kl(mu, lv).sum())),
    "divided by rows twice": Mutation("KL004", "error", 1 / B, div(lambda mu, lv: kl(mu, lv).mean() / len(mu))),
    "no square of the mean": Mutation(
        "KL005", "error", None, div(lambda mu, lv: -0.5 * (1 + lv - lv.exp()).sum(1).mean())
    ),
    "no logarithm": Mutation("KL005", "error", None, div(lambda mu, lv: 0.5 * (mu**2 + lv.exp() - 1).sum(1).mean())),
    "no variance": Mutation("KL005", "error", None, div(lambda mu, lv: 0.5 * (mu**2 - lv - 1).sum(1).mean())),
    "mean not squared": Mutation(
        "KL005", "error", None, div(lambda mu, lv: -0.5 * (1 + lv - mu - lv.exp()).sum(1).mean())
    ),
    "sign within": Mutation(
        "KL005", "error", None, div(lambda mu, lv: -0.5 * (1 + lv - mu**2 + lv.exp()).sum(1).mean())
    ),
    "logarithm as a std": Mutation(
        "KL005", "error", None, div(lambda mu, lv: 0.5 * (mu**2 + lv**2 - 1 - (lv**2).log()).sum(1).mean())
    ),
    "half on one term": Mutation(
        "KL005", "error", None, div(lambda mu, lv: (0.5 * mu**2 + lv.exp() - lv - 1).sum(1).mean())
    ),
    "squared": Mutation("KL005", "error", None, div(lambda mu, lv: (kl(mu, lv) ** 2).mean())),
    "a penalty on the mean": Mutation("KL005", "error", None, div(lambda mu, lv: (mu**2).sum(1).mean())),
    "log-std and its square": Mutation(
        "KL006", "error", None, div(lambda mu, lv: -0.5 * (1 + lv - mu**2 - (2 * lv).exp()).sum(1).mean())
    ),
    "twice the log-variance": Mutation(
        "KL006", "error", None, div(lambda mu, lv: -0.5 * (1 + 2 * lv - mu**2 - lv.exp()).sum(1).mean())
    ),
    "log of std beside its square": Mutation(
        "KL006", "error", None, std_div(lambda mu, std: -0.5 * (1 + std.log() - mu**2 - std**2).sum(1).mean())
    ),
    "softplus in one term": Mutation(
        "KL006", "error", None, div(lambda mu, lv: -0.5 * (1 + lv - mu**2 - F.softplus(lv)).sum(1).mean())
    ),
    "free nats a latent": Mutation(
        "KL007", "info", 1, div(lambda mu, lv: (0.5 * (mu**2 + lv.exp() - lv - 1)).clamp(min=0.5).sum(1).mean())
    ),
    "free nats a row": Mutation("KL007", "info", 1, div(lambda mu, lv: kl(mu, lv).clamp(min=3.0).mean())),
    "a capacity": Mutation("KL007", "info", 30, div(lambda mu, lv: 30 * (kl(mu, lv).mean() - 5.0).abs())),
    "a cap": Mutation("KL007", "info", 1, div(lambda mu, lv: kl(mu, lv).clamp(max=20.0).mean())),
    "784 in the code": Mutation(
        "KL008", "error", P / 784, lambda x, recon, mu, logvar: bce(recon, x).mean() + kl(mu, logvar).mean() / 784
    ),
    "128 in the code": Mutation("KL008", "error", B / 128, div(lambda mu, lv: kl(mu, lv).sum() / 128)),
    "128 and 784 in the code": Mutation(
        "KL008",
        "error",
        B * P / 128 / 784,
        lambda x, recon, mu, logvar: bce(recon, x).mean() + kl(mu, logvar).sum() / (128 * 784),
    ),
    "784 in the reconstruction": Mutation(
        "KL008", "error", P / 784, rec(lambda x, o: 784 * F.binary_cross_entropy(o, x))
    ),
}


class WrongBackward(torch.autograd.Function):
    """A square whose derivative was written down without its 2."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor) -> Tensor:
        ctx.save_for_backward(mu)
        return mu**2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * ctx.saved_tensors[0]


def quiet_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """The right value, and no gradient."""
    with torch.no_grad():
        return kl(mu, logvar).mean()


def slipped(mu: Tensor, logvar: Tensor) -> Tensor:
    """The right value, and half of the gradient in mu."""
    return 0.5 * (WrongBackward.apply(mu) + logvar.exp() - logvar - 1).sum(1).mean()


def beta_unused(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0) -> Tensor:
    return (bce(recon, x).sum(1) + kl(mu, logvar)).mean()


def kl_weight_unused(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, kl_weight: float) -> Tensor:
    return (bce(recon, x).sum(1) + kl(mu, logvar)).mean()


def capacity_unused(
    x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0, capacity: float = 5.0
) -> Tensor:
    return (bce(recon, x).sum(1) + beta * kl(mu, logvar)).mean()


GRADIENTS = {
    "detached": Mutation("GR001", "error", 0, div(lambda mu, lv: kl(mu, lv).mean().detach())),
    "a plain number": Mutation("GR001", "error", 0, div(lambda mu, lv: kl(mu, lv).mean().item())),
    "under no_grad": Mutation("GR001", "error", 0, div(quiet_kl)),
    "through NumPy": Mutation(
        "GR001", "error", 0, div(lambda mu, lv: torch.as_tensor(kl(mu, lv).detach().numpy().mean()))
    ),
    "reconstruction detached": Mutation("GR001", "error", None, rec(lambda x, o: bce(o.detach(), x).sum(1).mean())),
    "mean detached": Mutation("GR001", "error", None, div(lambda mu, lv: kl(mu.detach(), lv).mean())),
    "variance detached": Mutation(
        "GR002", "error", None, div(lambda mu, lv: 0.5 * (mu**2 + lv.exp().detach() - lv - 1).sum(1).mean())
    ),
    "a wrong backward": Mutation("GR002", "error", None, div(slipped)),
    "a half detached": Mutation(
        "GR002", "error", None, rec(lambda x, o: (-x * o.log() - (1 - x) * (1 - o.detach()).log()).sum(1).mean())
    ),
    "beta unused": Mutation("GR004", "error", None, beta_unused),
    "beta given and unused": Mutation("GR004", "error", None, beta_unused, {"constants": {"beta": 4.0}}),
    "weight asked for and unused": Mutation("GR004", "error", None, kl_weight_unused),
    "capacity given and unused": Mutation("GR004", "warning", 1, capacity_unused, {"constants": {"capacity": 25.0}}),
    "capacity left and unused": Mutation("GR004", "info", 1, capacity_unused),
}


def naive_softplus(x: Tensor, recon: Tensor, mu: Tensor, rho: Tensor) -> Tensor:
    std = torch.log(1 + torch.exp(rho))
    return (bce(recon, x).sum(1) + 0.5 * (mu**2 + std**2 - 1 - 2 * std.log()).sum(1)).mean()


def bound(term: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A loss from the two right terms by row, however it joins them."""
    return lambda x, recon, mu, logvar: term(bce(recon, x).sum(1), kl(mu, logvar))


def elbo(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return -(bce(recon, x).sum(1) + kl(mu, logvar)).mean()


NUMBERS = {
    "log of a square": Mutation(
        "NU001",
        "warning",
        1,
        div(lambda mu, lv: 0.5 * (mu**2 + lv.exp() - 1 - 0.5 * (lv.exp() ** 2).log()).sum(1).mean()),
    ),
    "log(1 + exp)": Mutation("NU001", "warning", 1, naive_softplus),
    "logarithm of a probability": Mutation(
        "NU002", "warning", 1, rec(lambda x, o: -(x * o.log() + (1 - x) * (1 - o).log()).sum(1).mean())
    ),
    "logarithm of a sigmoid": Mutation(
        "NU002",
        "warning",
        1,
        rec(lambda x, o: -(x * o.sigmoid().log() + (1 - x) * (1 - o.sigmoid()).log()).sum(1).mean()),
    ),
    "summed over the batch": Mutation("UN001", "info", 1, bound(lambda r, k: (r + k).sum())),
    "in bits": Mutation("UN001", "info", 1, bound(lambda r, k: (r + k).mean() / math.log(2))),
    "by dimension": Mutation(
        "UN001", "info", 1, lambda x, recon, mu, logvar: bce(recon, x).mean() + kl(mu, logvar).mean() / x.shape[1]
    ),
    "a tenth": Mutation("UN002", "error", 0.1, bound(lambda r, k: (r + 0.1 * k).mean())),
    "ten": Mutation("UN002", "error", 10, bound(lambda r, k: (r + 10 * k).mean())),
    "a half": Mutation("UN002", "info", 0.5, bound(lambda r, k: (r + 0.5 * k).mean())),
    "multiplied": Mutation("UN002", "error", None, bound(lambda r, k: (r * k).mean())),
    "under one logarithm": Mutation("UN002", "error", None, bound(lambda r, k: (r + k).mean().log())),
    "to be maximised": Mutation("UN002", "info", 1, elbo),
}
MUTATIONS = {**RECONSTRUCTION, **DIVERGENCE, **GRADIENTS, **NUMBERS}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name: str) -> None:
    code, severity, beta, loss, options = MUTATIONS[name]
    report = audit_loss(loss, **options)
    assert (code, severity) in {(f.code, f.severity) for f in report.findings}, str(report)
    assert {f.code for f in report.findings if f.severity == "error"} <= {code} | BESIDE.get(code, set()), str(report)
    if beta is not None:
        assert report.effective_beta == pytest.approx(beta, rel=1e-4, abs=1e-9)


def test_every_code_of_a_loss_has_a_mutation() -> None:
    of_losses = {code for code in NAMES if code[:2] in {"RE", "KL", "GR", "NU", "UN"}} - ELSEWHERE
    assert {mutation.code for mutation in MUTATIONS.values()} == of_losses
