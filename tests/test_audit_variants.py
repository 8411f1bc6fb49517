"""Right losses in their many guises: nothing above information, and effective beta exact.

Effective beta is worked out by hand from `L = a sum_i R_i + b sum_i KL_i` at B = 6 rows of P = 12 entries and D = 4
latents; for a squared error, R is half the sum of squares, so that `w r^2` beside one divergence has beta = 1 / (2 w).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from right_losses import Variants, bce, check, kl, logits_bce
from torch import Tensor
from torch import distributions as td

from vaelab.auditing.loss import audit_loss

B, P, D = 6, 12, 4
VARIANTS = Variants()
right = VARIANTS.right


# ----------------------------------------------------------------------------------------- names, orders and reductions
@right()
def summed_over_everything(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return F.binary_cross_entropy(recon_x, x, reduction="sum") - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


@right()
def averaged_alike(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return F.binary_cross_entropy(recon_x, x) + kl(mu, logvar).sum() / x.numel()


@right()
def one_number_a_row(x: Tensor, x_hat: Tensor, z_mean: Tensor, z_log_var: Tensor) -> Tensor:
    return bce(x_hat, x) + kl(z_mean, z_log_var).sum(1)


@right()
def heads_first(mean: Tensor, log_variance: Tensor, reconstruction: Tensor, target: Tensor) -> Tensor:
    return (bce(reconstruction, target) + kl(mean, log_variance).sum(-1)).mean()


@right()
def by_keyword(*, inputs: Tensor, outputs: Tensor, z_mu: Tensor, z_logvar: Tensor) -> Tensor:
    return (logits_bce(outputs, inputs) + kl(z_mu, z_logvar).sum(1)).mean()


@right(inputs="(output mu head) x")
def grouped(everything: tuple[Tensor, ...], batch: Tensor) -> Tensor:
    output, mu, logvar = everything
    return (bce(output, batch) + kl(mu, logvar).sum(1)).mean()


@right(inputs="mu output head x")
def names_that_tell_nothing(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return (bce(b, d) + kl(a, c).sum(1)).mean()


@right(inputs="output x mu head")
def open_ended(*args: Tensor, **kwargs: Any) -> Tensor:
    output, x, mu, logvar = args
    return (bce(output, x) + kl(mu, logvar).sum(1)).mean()


@right()
def flattened_inside(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return F.binary_cross_entropy(recon.view(-1, 784), x.view(-1, 784), reduction="sum") + kl(mu, logvar).sum()


@right()
def sizes_as_arguments(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, batch_size: int, input_dim: int) -> Tensor:
    return F.binary_cross_entropy(recon, x) * input_dim + kl(mu, logvar).sum() / batch_size


@right()
def nodes_of_a_graph(preds: Tensor, labels: Tensor, mu: Tensor, logvar: Tensor, n_nodes: int) -> Tensor:
    return F.binary_cross_entropy_with_logits(preds, labels) * labels.shape[1] + kl(mu, logvar).sum() / n_nodes


# ----------------------------------------------------------------------------------------------------- a declared beta
@right(4.0)
def beta_by_default(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, beta: float = 4.0) -> Tensor:
    return (bce(recon, x) + beta * kl(mu, logvar).sum(1)).mean()


@right(0.25, constants={"kl_weight": 0.25})
def beta_given(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, kl_weight: float) -> Tensor:
    return (bce(recon, x) + kl_weight * kl(mu, logvar).sum(1)).mean()


@right(P / (2 * D), "squared error", declared_beta=P / (2 * D))
def two_means_declared(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return F.mse_loss(recon, x) + kl(mu, logvar).mean()


@right(0.1, declared_beta=0.1)
def tenth_declared(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (bce(recon, x) + 0.1 * kl(mu, logvar).sum(1)).mean()


@right(0.5)  # information: within a factor of 3
def half_undeclared(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (2 * bce(recon, x) + kl(mu, logvar).sum(1)).mean()


# ---------------------------------------------------------------------------------------------------- likelihoods
@right(0.5, "squared error")
def sum_of_squares(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return F.mse_loss(recon, x, reduction="sum") / len(x) + kl(mu, logvar).sum(1).mean()


@right(0.01, "squared error")  # sigma = 0.1
def fifty_squares(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (50 * (x - recon).square().sum(1) + kl(mu, logvar).sum(1)).mean()


@right(0.04, "squared error")  # sigma = 0.2
def normal_of_known_noise(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (-td.Normal(recon, 0.2).log_prob(x).sum(1) + kl(mu, logvar).sum(1)).mean()


@right(500.0, "squared error", data=np.linspace(0, 255, B * P).reshape(B, P))  # sigma = 22 of 255
def bytes_with_wide_noise(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (0.001 * (x - recon).square().sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "absolute error")
def absolute(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (F.l1_loss(recon, x, reduction="none").sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "Huber")
def huber(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return F.smooth_l1_loss(recon, x, reduction="sum") / len(x) + kl(mu, logvar).sum(1).mean()


@right(1.0, "log-cosh")
def log_cosh(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return torch.cosh(x - recon).log().sum(1).mean() + kl(mu, logvar).sum(1).mean()


@right(1.0, "Gaussian with learned noise")
def learned_variance(x: Tensor, recon: Tensor, x_var: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return F.gaussian_nll_loss(recon, x, x_var, reduction="sum", full=True) / len(x) + kl(mu, logvar).sum(1).mean()


@right(1.0, "Gaussian with learned noise")
def one_learned_log_scale(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor, x_log_scale: Tensor) -> Tensor:
    return (-td.Normal(recon, x_log_scale.exp()).log_prob(x).sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "Laplace with learned noise")
def learned_laplace(x: Tensor, recon: Tensor, recon_scale: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (-td.Laplace(recon, recon_scale).log_prob(x).sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "Gaussian with optimal noise")
def optimal_noise(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    log_sigma = (x - recon).square().mean().sqrt().log()
    nll = 0.5 * ((x - recon) / log_sigma.exp()) ** 2 + log_sigma + 0.5 * math.log(2 * math.pi)
    return nll.sum() / len(x) + kl(mu, logvar).sum() / len(x)


@right(1.0, "continuous Bernoulli")
def continuous_bernoulli(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (-td.ContinuousBernoulli(recon).log_prob(x).sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "Poisson")
def poisson(x: Tensor, rate: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (-td.Poisson(rate, validate_args=False).log_prob(x).sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "Poisson")
def poisson_of_log_rates(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return F.poisson_nll_loss(recon, x, log_input=True, reduction="sum") / len(x) + kl(mu, logvar).sum(1).mean()


@right(1.0, "negative binomial", family="counts")
def negative_binomial(x: Tensor, px_rate: Tensor, theta: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    p = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    p = p + theta * (theta / (theta + px_rate)).log() + x * (px_rate / (theta + px_rate)).log()
    return (-p.sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "multinomial")
def multinomial(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return -(F.log_softmax(recon_x, 1) * x).sum(1).mean() + kl(mu, logvar).sum(1).mean()


@right(1.0, "categorical", family="categorical")
def tokens_by_position(logits: Tensor, tokens: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum") / len(mu)
        + kl(mu, logvar).sum(1).mean()
    )


@right(1.0, "categorical", family="categorical")
def padded_tokens(logits: Tensor, targets: Tensor, mu: Tensor, logvar: Tensor, pad: int = 0) -> Tensor:
    each = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=pad, reduction="none")
    return (each.sum(1) + kl(mu, logvar).sum(1)).mean()


@right(1.0, "categorical")
def tokens_unannounced(logp: Tensor, target: Tensor, mean: Tensor, logv: Tensor) -> Tensor:
    nll = F.nll_loss(F.log_softmax(logp, -1).view(-1, logp.size(-1)), target.view(-1), reduction="sum")
    return (nll + kl(mean, logv).sum()) / target.size(0)


@right(sizes={"pixels": (3, 4, 4)})
def pictures(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (F.binary_cross_entropy(recon, x, reduction="none").sum((1, 2, 3)) + kl(mu, logvar).sum(1)).mean()


@right(sizes={"pixels": (4, 3, 1)})  # a mean over one channel
def mean_over_one_channel(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return F.binary_cross_entropy(recon, x, reduction="none").mean(-1).sum((1, 2)).mean() + kl(mu, logvar).sum(1).mean()


@right(0.5, "squared error", sizes={"pixels": (5, 3), "latents": (2, 4)})
def sequences(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return ((x - recon).square().sum((1, 2)) + kl(mu, logvar).sum((1, 2))).mean()


@right(sizes={"latents": (2, 3, 3)})
def latent_maps(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return (bce(recon, x) + torch.einsum("bchw->b", kl(mu, logvar))).mean()


@right()
def small_numbers_in_logarithms(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    nll = -(x * (recon + 1e-8).log() + (1 - x) * (1 - recon + 1e-8).log()).sum(1)
    return (nll + kl(mu, logvar).sum(1)).mean()


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_raises_nothing(name: str) -> None:
    check(VARIANTS[name])


def test_a_prior_of_several_components() -> None:
    """One draw of z, held: the weight of log q(z|x) is beta whatever the prior (Tomczak, Welling, VampPrior, 2018)."""

    def loss(x: Tensor, logits: Tensor, mu: Tensor, std: Tensor, z: Tensor) -> Tensor:
        log_q = td.Normal(mu, std).log_prob(z).sum(-1)
        parts = [td.Normal(centre, 1.0).log_prob(z).sum(-1) for centre in (-1.0, 0.5, 2.0)]
        log_p = torch.logsumexp(torch.stack(parts), 0) - math.log(3)
        return (logits_bce(logits, x) + 0.5 * (log_q - log_p)).mean()

    report = audit_loss(loss)
    assert report.effective_beta == pytest.approx(0.5) and report.second_head == "std"
    assert report.severity == "info"
