"""Right losses in their many guises: nothing above information, and effective beta exact.

Effective beta is worked out by hand from `L = a sum_i R_i + b sum_i KL_i` at B = 6 rows of P = 12 entries and D = 4
latents; for a squared error, R is half the sum of squares, so that `w r^2` beside one divergence has beta = 1 / (2 w).
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributions as td

from vaelab.auditing.loss import audit_loss

B, P, D = 6, 12, 4


class Variant(NamedTuple):
    """A right loss: its effective beta, the words its family begins with, and how its head is read."""

    loss: Callable[..., Any]
    beta: float
    told: str
    head: str
    options: dict[str, Any]


VARIANTS: dict[str, Variant] = {}


def right(beta: float = 1.0, told: str = "Bernoulli", head: str = "log-variance", **options: Any) -> Callable[..., Any]:
    """Puts a loss into the table under its name."""

    def keep(loss: Callable[..., Any]) -> Callable[..., Any]:
        VARIANTS[loss.__name__] = Variant(loss, beta, told, head, options)
        return loss

    return keep


def kl(mu: Any, logvar: Any) -> Any:
    """The divergence from N(0, 1) by entry."""
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1)


def bce(output: Tensor, x: Tensor) -> Tensor:
    """The Bernoulli negative log-likelihood by row."""
    return F.binary_cross_entropy(output, x, reduction="none").flatten(1).sum(1)


def logits_bce(output: Tensor, x: Tensor) -> Tensor:
    """Likewise on logits."""
    return F.binary_cross_entropy_with_logits(output, x, reduction="none").flatten(1).sum(1)


# ----------------------------------------------------------------------------------------- names, orders and reductions
@right()
def summed_over_everything(recon_x, x, mu, logvar):
    return F.binary_cross_entropy(recon_x, x, reduction="sum") - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


@right()
def averaged_alike(recon_x, x, mu, logvar):
    return F.binary_cross_entropy(recon_x, x) + kl(mu, logvar).sum() / x.numel()


@right()
def one_number_a_row(x, x_hat, z_mean, z_log_var):
    return bce(x_hat, x) + kl(z_mean, z_log_var).sum(1)


@right()
def heads_first(mean, log_variance, reconstruction, target):
    return (bce(reconstruction, target) + kl(mean, log_variance).sum(-1)).mean()


@right()
def by_keyword(*, inputs, outputs, z_mu, z_logvar):
    return (logits_bce(outputs, inputs) + kl(z_mu, z_logvar).sum(1)).mean()


@right(inputs="(output mu head) x")
def grouped(everything, batch):
    output, mu, logvar = everything
    return (bce(output, batch) + kl(mu, logvar).sum(1)).mean()


@right(inputs="mu output head x")
def names_that_tell_nothing(a, b, c, d):
    return (bce(b, d) + kl(a, c).sum(1)).mean()


@right(inputs="output x mu head")
def open_ended(*args, **kwargs):
    output, x, mu, logvar = args
    return (bce(output, x) + kl(mu, logvar).sum(1)).mean()


@right()
def flattened_inside(recon, x, mu, logvar):
    return F.binary_cross_entropy(recon.view(-1, 784), x.view(-1, 784), reduction="sum") + kl(mu, logvar).sum()


@right()
def sizes_as_arguments(x, recon, mu, logvar, batch_size, input_dim):
    return F.binary_cross_entropy(recon, x) * input_dim + kl(mu, logvar).sum() / batch_size


@right()
def nodes_of_a_graph(preds, labels, mu, logvar, n_nodes):
    return F.binary_cross_entropy_with_logits(preds, labels) * labels.shape[1] + kl(mu, logvar).sum() / n_nodes


# ----------------------------------------------------------------------------------------------------- a declared beta
@right(4.0)
def beta_by_default(x, recon, mu, logvar, beta=4.0):
    return (bce(recon, x) + beta * kl(mu, logvar).sum(1)).mean()


@right(0.25, constants={"kl_weight": 0.25})
def beta_given(x, recon, mu, logvar, kl_weight):
    return (bce(recon, x) + kl_weight * kl(mu, logvar).sum(1)).mean()


@right(P / (2 * D), "squared error", declared_beta=P / (2 * D))
def two_means_declared(x, recon, mu, logvar):
    return F.mse_loss(recon, x) + kl(mu, logvar).mean()


@right(0.1, declared_beta=0.1)
def tenth_declared(x, recon, mu, logvar):
    return (bce(recon, x) + 0.1 * kl(mu, logvar).sum(1)).mean()


@right(0.5)  # information: within a factor of 3
def half_undeclared(x, recon, mu, logvar):
    return (2 * bce(recon, x) + kl(mu, logvar).sum(1)).mean()


# ---------------------------------------------------------------------------------------------------- likelihoods
@right(0.5, "squared error")
def sum_of_squares(x, recon, mu, logvar):
    return F.mse_loss(recon, x, reduction="sum") / len(x) + kl(mu, logvar).sum(1).mean()


@right(0.01, "squared error")  # sigma = 0.1
def fifty_squares(x, recon, mu, logvar):
    return (50 * (x - recon).square().sum(1) + kl(mu, logvar).sum(1)).mean()


@right(0.04, "squared error")  # sigma = 0.2
def normal_of_known_noise(x, recon, mu, logvar):
    return (-td.Normal(recon, 0.2).log_prob(x).sum(1) + kl(mu, logvar).sum(1)).mean()


@right(500.0, "squared error", data=np.linspace(0, 255, B * P).reshape(B, P))  # sigma = 22 of 255
def bytes_with_wide_noise(x, recon, mu, logvar):
    return (0.001 * (x - recon).square().sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "absolute error")
def absolute(x, recon, mu, logvar):
    return (F.l1_loss(recon, x, reduction="none").sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "Huber")
def huber(x, recon, mu, logvar):
    return F.smooth_l1_loss(recon, x, reduction="sum") / len(x) + kl(mu, logvar).sum(1).mean()


@right(1.0, "log-cosh")
def log_cosh(x, recon, mu, logvar):
    return torch.cosh(x - recon).log().sum(1).mean() + kl(mu, logvar).sum(1).mean()


@right(1.0, "Gaussian with learned noise")
def learned_variance(x, recon, x_var, mu, logvar):
    return F.gaussian_nll_loss(recon, x, x_var, reduction="sum", full=True) / len(x) + kl(mu, logvar).sum(1).mean()


@right(1.0, "Gaussian with learned noise")
def one_learned_log_scale(x, recon, mu, logvar, x_log_scale):
    return (-td.Normal(recon, x_log_scale.exp()).log_prob(x).sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "Laplace with learned noise")
def learned_laplace(x, recon, recon_scale, mu, logvar):
    return (-td.Laplace(recon, recon_scale).log_prob(x).sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "Gaussian with optimal noise")
def optimal_noise(x, recon, mu, logvar):
    log_sigma = (x - recon).square().mean().sqrt().log()
    nll = 0.5 * ((x - recon) / log_sigma.exp()) ** 2 + log_sigma + 0.5 * math.log(2 * math.pi)
    return nll.sum() / len(x) + kl(mu, logvar).sum() / len(x)


@right(1.0, "continuous Bernoulli")
def continuous_bernoulli(x, recon, mu, logvar):
    return (-td.ContinuousBernoulli(recon).log_prob(x).sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "Poisson")
def poisson(x, rate, mu, logvar):
    return (-td.Poisson(rate, validate_args=False).log_prob(x).sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "Poisson")
def poisson_of_log_rates(x, recon, mu, logvar):
    return F.poisson_nll_loss(recon, x, log_input=True, reduction="sum") / len(x) + kl(mu, logvar).sum(1).mean()


@right(1.0, "negative binomial", family="counts")
def negative_binomial(x, px_rate, theta, mu, logvar):
    p = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    p = p + theta * (theta / (theta + px_rate)).log() + x * (px_rate / (theta + px_rate)).log()
    return (-p.sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "multinomial")
def multinomial(recon_x, x, mu, logvar):
    return -(F.log_softmax(recon_x, 1) * x).sum(1).mean() + kl(mu, logvar).sum(1).mean()


@right(1.0, "categorical", family="categorical")
def tokens_by_position(logits, tokens, mu, logvar):
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum") / len(mu) + kl(mu, logvar).sum(1).mean()


@right(1.0, "categorical", family="categorical")
def padded_tokens(logits, targets, mu, logvar, pad=0):
    each = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=pad, reduction="none")
    return (each.sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "categorical")
def tokens_unannounced(logp, target, mean, logv):
    nll = F.nll_loss(F.log_softmax(logp, -1).view(-1, logp.size(-1)), target.view(-1), reduction="sum")
    return (nll + kl(mean, logv).sum()) / target.size(0)


@right(sizes={"pixels": (3, 4, 4)})
def pictures(x, recon, mu, logvar):
    return (F.binary_cross_entropy(recon, x, reduction="none").sum((1, 2, 3)) + kl(mu, logvar).sum(1)).mean()


@right(sizes={"pixels": (4, 3, 1)})  # a mean over one channel
def mean_over_one_channel(x, recon, mu, logvar):
    return F.binary_cross_entropy(recon, x, reduction="none").mean(-1).sum((1, 2)).mean() + kl(mu, logvar).sum(1).mean()


@right(0.5, "squared error", sizes={"pixels": (5, 3), "latents": (2, 4)})
def sequences(x, recon, mu, logvar):
    return ((x - recon).square().sum((1, 2)) + kl(mu, logvar).sum((1, 2))).mean()


@right(sizes={"latents": (2, 3, 3)})
def latent_maps(x, recon, mu, logvar):
    return (bce(recon, x) + torch.einsum("bchw->b", kl(mu, logvar))).mean()


@right()
def small_numbers_in_logarithms(x, recon, mu, logvar):
    nll = -(x * (recon + 1e-8).log() + (1 - x) * (1 - recon + 1e-8).log()).sum(1)
    return (nll + kl(mu, logvar).sum(1)).mean()


# ------------------------------------------------------------------------------------------------------------- heads
@right(head="log-std")
def log_std(x, recon, mu, log_std):
    return (bce(recon, x) - 0.5 * (1 + 2 * log_std - mu**2 - (2 * log_std).exp()).sum(1)).mean()


@right(head="std")
def std(x, recon, mu, std):
    return (bce(recon, x) + td.kl_divergence(td.Normal(mu, std), td.Normal(0.0, 1.0)).sum(1)).mean()


@right(head="std")
def independent(x, recon, loc, scale):
    q, p = td.Normal(loc, scale), td.Normal(torch.zeros_like(loc), torch.ones_like(scale))
    pair = td.Independent(q, 1), td.Independent(p, 1)
    return (-td.Independent(td.Bernoulli(logits=recon), 1).log_prob(x) + td.kl_divergence(*pair)).mean()


@right(head="variance")
def variance(x, recon, mu, var):
    return (bce(recon, x) + 0.5 * (mu**2 + var - (var + 1e-10).log() - 1).sum(1)).mean()


@right(head="std through softplus")
def softplus(x, recon, mu, rho):
    std = F.softplus(rho)
    return (bce(recon, x) + 0.5 * (mu**2 + std**2 - 2 * std.log() - 1).sum(1)).mean()


@right()
def clamped(x, recon, mu, logvar):
    return (bce(recon, x) + kl(mu, logvar.clamp(-30, 20)).sum(1)).mean()


@right()
def wide_prior(x, recon, mu, logvar):
    prior = td.Normal(0.0, 2.0)
    return (bce(recon, x) + td.kl_divergence(td.Normal(mu, (0.5 * logvar).exp()), prior).sum(1)).mean()


@right()
def free_bits(x, recon, mu, logvar):
    return (bce(recon, x) + kl(mu, logvar).clamp(min=0.25).sum(1)).mean()


@right()
def free_bits_of_the_batch(x, recon, mu, logvar):
    return bce(recon, x).mean() + torch.maximum(kl(mu, logvar).mean(0), torch.tensor(0.1)).sum()


@right(100.0)
def capacity(x, recon, mu, logvar, gamma=100.0, capacity=3.0):
    return (bce(recon, x) + gamma * (kl(mu, logvar).sum(1) - capacity).abs()).mean()


# ------------------------------------------------------------------------------------------------------- one sample
@right()
def one_sample(x, recon, mu, logvar, z):
    log_q, log_p = td.Normal(mu, (0.5 * logvar).exp()).log_prob(z), td.Normal(0.0, 1.0).log_prob(z)
    return (bce(recon, x) + (log_q - log_p).sum(1)).mean()


@right(head="std")
def one_sample_of_a_std(x, x_logits, z, mean, sigma):
    density = 0.5 * (z**2 - ((z - mean) / sigma) ** 2) - sigma.log()
    return (logits_bce(x_logits, x) + density.sum(1)).mean()


@right()
def sticking_the_landing(x, recon, mu, logvar, z):
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
def dictionary(x, recon, mu, logvar):
    nll, divergence = bce(recon, x).mean(), kl(mu, logvar).sum(1).mean()
    return {"KLD": -divergence.detach(), "Reconstruction_Loss": nll.detach(), "loss": nll + divergence}


@right()
def triple(x, recon, mu, logvar):
    nll, divergence = bce(recon, x).mean(), kl(mu, logvar).sum(1).mean()
    return nll + divergence, nll, divergence


@right()
def two_terms(x, recon, mu, logvar):
    return bce(recon, x).mean(), kl(mu, logvar).sum(1).mean()


@right()
def named_tuple(x, recon, mu, logvar):
    nll, divergence = bce(recon, x).mean(), kl(mu, logvar).sum(1).mean()
    return Terms(nll + divergence, nll, divergence)


@right()
def data_class(x, recon, mu, logvar):
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


VARIANTS["a module"] = Variant(Loss(), 2.0, "squared error", "log-variance", {})
VARIANTS["a method"] = Variant(Loss().method, 2.0, "squared error", "log-variance", {})
VARIANTS["a partial"] = Variant(functools.partial(beta_by_default, beta=0.5), 0.5, "Bernoulli", "log-variance", {})


# ------------------------------------------------------------------------------------------------------- frameworks
@right(1.0, "squared error")
def numpy_loss(x, recon, mu, logvar):
    divergence = 0.5 * np.sum(mu**2 + np.exp(logvar) - logvar - 1, axis=1)
    return np.mean(0.5 * np.sum((x - recon) ** 2, axis=1) + divergence)


@right(head="variance")
def numpy_by_row(z_mean, z_var, y_true, y_pred):
    nll = -np.sum(y_true * np.log(y_pred) + (1 - y_true) * np.log1p(-y_pred), axis=-1)
    return nll + 0.5 * np.sum(z_mean**2 + z_var - np.log(z_var) - 1, axis=-1)


@right()
def single_precision(x, recon, mu, logvar):
    return (bce(recon.float(), x.float()) + kl(mu.float(), logvar.float()).sum(1)).mean()


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_raises_nothing(name: str) -> None:
    loss, beta, told, head, options = VARIANTS[name]
    report = audit_loss(loss, **options)
    assert report.severity in ("ok", "info") and report.status == 0, str(report)
    assert report.effective_beta == pytest.approx(beta, rel=1e-5)
    assert report.reconstruction.startswith(told)
    assert report.second_head == head


def test_there_are_forty() -> None:
    assert len(VARIANTS) >= 40


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


@pytest.mark.parametrize(("code", "backend"), [(JAX, "jax"), (KERAS, "torch"), (KERAS, "jax")], ids=["jax", "keras-torch", "keras-jax"])
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
    assert float(beta) == pytest.approx(1, rel=1e-5)
