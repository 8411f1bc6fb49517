"""Right losses whose heads, draws, results, callables and frameworks differ: nothing above information, beta exact.

The audit's inputs are B = 6 rows of P = 12 entries and D = 4 latents; effective beta is worked out by hand.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from right_losses import Variant, Variants, bce, check, kl, logits_bce
from torch import Tensor, nn
from torch import distributions as td
from torch.nn import functional as F

VARIANTS = Variants()
right = VARIANTS.right


# ------------------------------------------------------------------------------------------------------------- heads
@right(head="log-std")
def log_std(x: Tensor, recon: Tensor, mu: Tensor, log_std: Tensor) -> Tensor:
    return (bce(recon, x) - 0.5 * (1 + 2 * log_std - mu**2 - (2 * log_std).exp()).sum(1)).mean()


@right(head="std")
def std(x: Tensor, recon: Tensor, mu: Tensor, std: Tensor) -> Tensor:
    return (bce(recon, x) + td.kl_divergence(td.Normal(mu, std), td.Normal(0.0, 1.0)).sum(1)).mean()


@right(head="std")
def independent(x: Tensor, recon: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    q, p = td.Normal(loc, scale), td.Normal(torch.zeros_like(loc), torch.ones_like(scale))
    pair = td.Independent(q, 1), td.Independent(p, 1)
    return (-td.Independent(td.Bernoulli(logits=recon), 1).log_prob(x) + td.kl_divergence(*pair)).mean()


@right(head="variance")
def variance(x: Tensor, recon: Tensor, mu: Tensor, var: Tensor) -> Tensor:
    return (bce(recon, x) + 0.5 * (mu**2 + var - (var + 1e-10).log() - 1).sum(1)).mean()


@right(head="std through softplus")
def softplus(x: Tensor, recon: Tensor, mu: Tensor, rho: Tensor) -> Tensor:
    std = F.softplus(rho)
    return (bce(recon, x) + 0.5 * (mu**2 + std**2 - 2 * std.log() - 1).sum(1)).mean()


@right()
def clamped(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (bce(recon, x) + kl(mu, logvar.clamp(-30, 20)).sum(1)).mean()


@right()
def wide_prior(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    prior = td.Normal(0.0, 2.0)
    return (bce(recon, x) + td.kl_divergence(td.Normal(mu, (0.5 * logvar).exp()), prior).sum(1)).mean()


@right()
def free_bits(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (bce(recon, x) + kl(mu, logvar).clamp(min=0.25).sum(1)).mean()


@right()
def free_bits_of_the_batch(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return bce(recon, x).mean() + torch.maximum(kl(mu, logvar).mean(0), torch.tensor(0.1)).sum()


@right(100.0)
def capacity(
    x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, gamma: float = 100.0, capacity: float = 3.0
) -> Tensor:
    return (bce(recon, x) + gamma * (kl(mu, logvar).sum(1) - capacity).abs()).mean()


# ------------------------------------------------------------------------------------------------------- one sample
@right()
def one_sample(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
    log_q, log_p = td.Normal(mu, (0.5 * logvar).exp()).log_prob(z), td.Normal(0.0, 1.0).log_prob(z)
    return (bce(recon, x) + (log_q - log_p).sum(1)).mean()


@right(head="std")
def one_sample_of_a_std(x: Tensor, x_logits: Tensor, z: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    density = 0.5 * (z**2 - ((z - mean) / sigma) ** 2) - sigma.log()
    return (logits_bce(x_logits, x) + density.sum(1)).mean()


@right()
def sticking_the_landing(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
    log_q = td.Normal(mu.detach(), (0.5 * logvar.detach()).exp()).log_prob(z)
    return (bce(recon, x) + (log_q - td.Normal(0.0, 1.0).log_prob(z)).sum(1)).mean()


# ---------------------------------------------------------------------------------------------- results and callables
Terms = namedtuple("Terms", "total reconstruction divergence")


@dataclass
class Losses:
    """A structured result."""

    loss: Tensor
    kl: Tensor


@right()
def dictionary(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> dict[str, Tensor]:
    nll, divergence = bce(recon, x).mean(), kl(mu, logvar).sum(1).mean()
    return {"KLD": -divergence.detach(), "Reconstruction_Loss": nll.detach(), "loss": nll + divergence}


@right()
def triple(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
    nll, divergence = bce(recon, x).mean(), kl(mu, logvar).sum(1).mean()
    return nll + divergence, nll, divergence


@right()
def two_terms(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, ...]:
    return bce(recon, x).mean(), kl(mu, logvar).sum(1).mean()


@right()
def named_tuple(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Terms:
    nll, divergence = bce(recon, x).mean(), kl(mu, logvar).sum(1).mean()
    return Terms(nll + divergence, nll, divergence)


@right()
def data_class(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Losses:
    divergence = kl(mu, logvar).sum(1).mean()
    return Losses(bce(recon, x).mean() + divergence, divergence)


class Loss(nn.Module):
    """A loss with a parameter of its own and a count of its calls."""

    def __init__(self, beta: float = 2.0) -> None:
        super().__init__()
        self.beta, self.calls = beta, 0
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        self.calls += 1
        nll = -td.Normal(recon, self.log_scale.exp()).log_prob(x).flatten(1).sum(1)
        return (nll + self.beta * kl(mu, logvar).sum(1)).mean()

    def method(self, recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        return self(recon, x, mu, logvar)


def weighted(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, beta: float) -> Tensor:
    return (bce(recon, x) + beta * kl(mu, logvar).sum(1)).mean()


VARIANTS["a module"] = Variant(Loss(), 2.0, "squared error", "log-variance", {})
VARIANTS["a method"] = Variant(Loss().method, 2.0, "squared error", "log-variance", {})
VARIANTS["a partial"] = Variant(functools.partial(weighted, beta=0.5), 0.5, "Bernoulli", "log-variance", {})


# ------------------------------------------------------------------------------------------------------- frameworks
@right(1.0, "squared error")
def numpy_loss(x: np.ndarray, recon: np.ndarray, mu: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    divergence = 0.5 * np.sum(mu**2 + np.exp(logvar) - logvar - 1, axis=1)
    return np.mean(0.5 * np.sum((x - recon) ** 2, axis=1) + divergence)


@right(head="variance")
def numpy_by_row(z_mean: np.ndarray, z_var: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    p = np.clip(y_pred, 1e-7, 1 - 1e-7)
    nll = -np.sum(y_true * np.log(p) + (1 - y_true) * np.log1p(-p), axis=-1)
    return nll + 0.5 * np.sum(z_mean**2 + z_var - np.log(z_var) - 1, axis=-1)


@right()
def single_precision(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (bce(recon.float(), x.float()) + kl(mu.float(), logvar.float()).sum(1)).mean()


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_raises_nothing(name: str) -> None:
    check(VARIANTS[name])


JAX = """
import jax, jax.numpy as jnp

def by_row(x, logits, mu, logvar):
    nll = jnp.sum(jnp.logaddexp(0.0, logits) - x * logits)
    return nll + 0.5 * jnp.sum(mu**2 + jnp.exp(logvar) - logvar - 1)

@jax.jit
def loss(x, logits, mu, logvar):
    return jax.vmap(by_row)(x, logits, mu, logvar).mean()
"""
KERAS = """
import keras
from keras import ops

def loss(data, reconstruction, z_mean, z_log_var):
    nll = ops.sum(keras.losses.binary_crossentropy(data, reconstruction), axis=(1, 2))
    divergence = -0.5 * (1 + z_log_var - ops.square(z_mean) - ops.exp(z_log_var))
    return ops.mean(nll) + ops.mean(ops.sum(divergence, axis=1))
"""
RUN = """
from vaelab.auditing.loss import audit_loss
report = audit_loss(loss)
print(report.framework.split()[0], report.severity, report.effective_beta, report.reconstruction.split()[0])
"""


@pytest.mark.parametrize(
    ("code", "backend"), [(JAX, "jax"), (KERAS, "torch"), (KERAS, "jax")], ids=["jax", "keras-torch", "keras-jax"]
)
def test_other_frameworks(code: str, backend: str) -> None:
    """In a process of its own, since Keras takes one backend a process."""
    pytest.importorskip("jax")
    if code is KERAS and importlib.util.find_spec("keras") is None:
        pytest.skip("no keras")
    env = os.environ | {"KERAS_BACKEND": backend}
    ran = subprocess.run([sys.executable, "-c", code + RUN], capture_output=True, text=True, timeout=120, env=env)
    assert ran.returncode == 0, ran.stderr
    framework, severity, beta, family = ran.stdout.split()[-4:]
    assert (framework, family) == (backend, "Bernoulli")
    assert severity in ("ok", "info")
    assert float(beta) == pytest.approx(1, rel=1e-4)
