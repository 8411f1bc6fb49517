"""Public losses restated from their published formulas, each with what is true of it by hand.

`beta` is derived from the reductions alone. With a row's negative log-likelihood R summed over its P entries, and its
divergence K summed over its D latents, `L = a sum_i R_i + b sum_i K_i` over a batch of B rows has beta = b / a. A
squared error without its half has a = 2 and an absolute error a = 1, so that beta is sigma^2 or b at unit weight.
"""

from __future__ import annotations

import importlib
import os
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import log, prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributions as td

os.environ.setdefault("KERAS_BACKEND", "torch")
Beta = Callable[[float, float, float], float]


@dataclass(frozen=True)
class Case:
    """A loss and what is true of it.

    Args:
        name: Test id.
        source: Where the form is published.
        fn: The restatement.
        beta: Effective beta of (B, P, D); None where no beta describes the loss.
        codes: Findings that name the cause; all others may at most inform.
        also: Findings above information that are true as well and not asked for.
        worst: The severity of the worst finding; "info" allows anything up to it.
        numbers: What findings measure, by code.
        unit: The unit of the number that is returned; "" is not looked at.
        head: How the divergence reads the second head; "" is not looked at.
        needs: Packages without which the case is skipped.
        tied: Whether sizes can only move together (the nodes of a graph), so that single exponents say nothing.
        sizes: Sizes in place of B = 6, P = 12, D = 4.
        options: Further arguments of the audit.
    """

    name: str
    source: str
    fn: Callable[..., Any]
    beta: Beta | None = lambda B, P, D: 1.0
    codes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    worst: str = "info"
    numbers: Mapping[str, float] = field(default_factory=dict)
    unit: str = ""
    head: str = ""
    needs: str = ""
    tied: bool = False
    sizes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Any]:
        """Sizes as the audit takes them."""
        return {"batch": 6, "pixels": 12, "latents": 4} | dict(self.sizes)

    def beta_at(self, **factors: float) -> float:
        """Beta at the case's sizes, each times its factor."""
        assert self.beta is not None
        counts = {k: prod(v) if isinstance(v, tuple) else v for k, v in self.shapes.items()}
        return self.beta(*(counts[k] * factors.get(k, 1) for k in ("batch", "pixels", "latents")))


def optional(name: str) -> Any:
    """A module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


jax, jnp, keras = optional("jax"), optional("jax.numpy"), optional("keras")


def kl(mu: Any, logvar: Any) -> Any:
    """KL(N(mu, exp(logvar)) || N(0, 1)) per entry."""
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar)


def kl_std(mu: Any, std: Any, tiny: float = 0.0) -> Any:
    """The same of a standard deviation."""
    return 0.5 * (mu**2 + std**2 - 1 - torch.log(std**2 + tiny))


def rows(t: Tensor) -> Tensor:
    """Sums over all axes but the first."""
    return t.flatten(1).sum(1)


def bce(output: Tensor, x: Tensor, how: str = "none") -> Tensor:
    return F.binary_cross_entropy(output, x, reduction=how)


def bce_logits(output: Tensor, x: Tensor, how: str = "none") -> Tensor:
    return F.binary_cross_entropy_with_logits(output, x, reduction=how)


def mse(output: Tensor, x: Tensor, how: str = "none") -> Tensor:
    return F.mse_loss(output, x, reduction=how)


def one_sample(z: Tensor, mu: Tensor, std: Tensor) -> Tensor:
    """log q(z) - log p(z) per entry."""
    return td.Normal(mu, std).log_prob(z) - td.Normal(torch.zeros_like(mu), torch.ones_like(std)).log_prob(z)


def bce_all(output: Tensor, x: Tensor) -> Tensor:
    """Summed over everything."""
    return bce(output, x, "sum")


def nll(output: Tensor, x: Tensor) -> Tensor:
    """Summed over a row, averaged over rows."""
    return rows(bce(output, x)).mean()


def kl_all(mu: Tensor, logvar: Tensor) -> Tensor:
    """Summed over everything."""
    return kl(mu, logvar).sum()


def kl_row(mu: Tensor, logvar: Tensor) -> Tensor:
    """Summed over latents, averaged over rows."""
    return kl(mu, logvar).sum(1).mean()


# ------------------------------------------------------------------------------------------------------ stateful forms
class BetaVAE:
    """AntixK/PyTorch-VAE `models/beta_vae.py`, loss types H and B (Higgins et al., 2017; Burgess et al., 2018)."""

    def __init__(self, kind: str) -> None:
        self.kind, self.beta, self.gamma, self.num_iter, self.C_max, self.C_stop = kind, 4, 1000.0, 5000, 25.0, 10000

    def loss_function(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        self.num_iter += 1
        recons, x, mu, log_var = args
        recons_loss, kld = F.mse_loss(recons, x), kl(mu, log_var).sum(1).mean()
        if self.kind == "H":
            loss = recons_loss + self.beta * kwargs["M_N"] * kld
        else:
            capacity = min(self.C_max / self.C_stop * self.num_iter, self.C_max)
            loss = recons_loss + self.gamma * kwargs["M_N"] * (kld - capacity).abs()
        return {"loss": loss, "Reconstruction_Loss": recons_loss, "KLD": kld}


def vanilla(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """AntixK/PyTorch-VAE `models/vanilla_vae.py`."""
    recons_loss, kld = F.mse_loss(args[0], args[1]), kl(args[2], args[3]).sum(1).mean()
    loss = recons_loss + kwargs["M_N"] * kld
    return {"loss": loss, "Reconstruction_Loss": recons_loss.detach(), "KLD": -kld.detach()}


class SigmaVAE:
    """orybkin/sigma-vae-pytorch: the noise that is best for the batch."""

    def loss_function(self, recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        log_sigma = ((x - recon_x) ** 2).mean().sqrt().log()
        nll = 0.5 * ((x - recon_x) / log_sigma.exp()) ** 2 + log_sigma + 0.5 * log(2 * np.pi)
        return nll.sum(), kl(mu, logvar).sum()


def mnist_2017(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return bce(recon_x, x.view(-1, 784), "mean") + kl_all(mu, logvar) / (128 * 784)


class Criterion(nn.Module):
    """A loss as a module, with a submodule for its reconstruction term."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta, self.likelihood = beta, nn.BCEWithLogitsLoss(reduction="sum")

    def forward(self, x: Tensor, output: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        return (self.likelihood(output, x) + self.beta * kl(mu, logvar).sum()) / x.size(0)


class LearnedScale(nn.Module):
    """CompVis/latent-diffusion `LPIPSWithDiscriminator` without its perceptual term; one learned log-variance."""

    def __init__(self, kl_weight: float) -> None:
        super().__init__()
        self.kl_weight, self.logvar = kl_weight, nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor, reconstructions: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        nll = (inputs - reconstructions).abs() / self.logvar.exp() + self.logvar
        log_variance = log_variance.clamp(-30.0, 20.0)
        return nll.sum() / len(inputs) + self.kl_weight * kl(mean, log_variance).sum([1, 2, 3]).sum() / len(inputs)


class Weighted:
    """A callable object that keeps its weight."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, target: Tensor, prediction: Tensor, z_mean: Tensor, z_log_var: Tensor) -> Tensor:
        return rows(bce(prediction, target)).mean() + self.weight * kl(z_mean, z_log_var).sum(-1).mean()


@dataclass
class Losses:
    """A result in a dataclass."""

    reconstruction: Tensor
    divergence: Tensor
    total_loss: Tensor


Elbo = namedtuple("Elbo", "nll kld")


def in_dataclass(x: Tensor, x_hat: Tensor, mu: Tensor, log_var: Tensor) -> Losses:
    r, k = mse(x_hat, x, "sum") / 2, kl(mu, log_var).sum()
    return Losses(r, k, r + k)


def free_bits_per_latent(x: Tensor, logits: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Kingma et al., Improved variational inference with inverse autoregressive flow, 2016: a floor of batch means."""
    return rows(bce_logits(logits, x)).mean() + kl(mu, logvar).mean(0).clamp(min=0.25).sum()


def no_grad_kl(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    with torch.no_grad():
        kld = kl(mu, logvar).sum(1).mean()
    return rows(bce(recon, x)).mean() + kld


def in_numpy(x: Any, x_hat: Any, mu: Any, log_var: Any) -> Any:
    nll = -(x * np.log(x_hat) + (1 - x) * np.log(1 - x_hat)).sum(axis=1)
    return np.mean(nll - 0.5 * np.sum(1 + log_var - mu**2 - np.exp(log_var), axis=1))


def negative_binomial(x: Tensor, px_rate: Tensor, px_r: Tensor) -> Tensor:
    """Mean px_rate and inverse dispersion px_r: total count px_r, log-odds log(px_rate / px_r)."""
    return -td.NegativeBinomial(px_r, logits=(px_rate / px_r).log()).log_prob(x)


def graph(
    preds: Tensor, labels: Tensor, mu: Tensor, logvar: Tensor, n_nodes: int, norm: float, pos_weight: float
) -> Tensor:
    cost = norm * F.binary_cross_entropy_with_logits(preds, labels, pos_weight=torch.as_tensor(pos_weight))
    return cost - 0.5 / n_nodes * torch.mean(torch.sum(1 + 2 * logvar - mu**2 - logvar.exp() ** 2, 1))


def jax_scores(labels: Any, logits: Any) -> Any:
    """google/flax `examples/vae/train.py`: a row's Bernoulli on logits, through log-sigmoids."""
    p = jax.nn.log_sigmoid(logits)
    return -jnp.sum(labels * p + (1.0 - labels) * jnp.log(-jnp.expm1(p)))


def jax_kl(mean: Any, logvar: Any) -> Any:
    return -0.5 * jnp.sum(1 + logvar - jnp.square(mean) - jnp.exp(logvar))


def flax_loss(batch: Any, recon_x: Any, mean: Any, logvar: Any) -> Any:
    return jax.vmap(jax_scores)(batch, recon_x).mean() + jax.vmap(jax_kl)(mean, logvar).mean()


def stax_elbo(images: Any, logits_x: Any, mu_z: Any, sigmasq_z: Any) -> Any:
    """jax-ml/jax `examples/mnist_vae.py`: to be maximised."""
    logpx = -jnp.sum(jnp.logaddexp(0.0, jnp.where(images, -1.0, 1.0) * logits_x))
    return (logpx + 0.5 * jnp.sum(1.0 + jnp.log(sigmasq_z) - mu_z**2 - sigmasq_z)) / images.shape[0]


def keras_io(data: Any, reconstruction: Any, z_mean: Any, z_log_var: Any) -> tuple[Any, Any, Any]:
    """keras-io `examples/generative/vae.py`: the crossentropy is a mean over channels, summed over height and width."""
    ops = keras.ops
    reconstruction_loss = ops.mean(ops.sum(keras.losses.binary_crossentropy(data, reconstruction), axis=(1, 2)))
    kl_loss = -0.5 * (1 + z_log_var - ops.square(z_mean) - ops.exp(z_log_var))
    kl_loss = ops.mean(ops.sum(kl_loss, axis=1))
    return reconstruction_loss + kl_loss, reconstruction_loss, kl_loss


def keras_guide(x: Any, reconstructed: Any, z_mean: Any, z_log_var: Any) -> Any:
    """Keras, "Making new layers and models via subclassing": both are means over everything."""
    kl_loss = -0.5 * keras.ops.mean(z_log_var - keras.ops.square(z_mean) - keras.ops.exp(z_log_var) + 1)
    return keras.losses.MeanSquaredError()(x, reconstructed) + kl_loss


def keras_blog(x: Any, x_decoded_mean: Any, z_mean: Any, z_log_sigma: Any, original_dim: int) -> Any:
    """Chollet, Building autoencoders in Keras, 2016: the divergence is a mean over latents."""
    kl_loss = -0.5 * keras.ops.mean(1 + z_log_sigma - keras.ops.square(z_mean) - keras.ops.exp(z_log_sigma), axis=-1)
    return original_dim * keras.losses.binary_crossentropy(x, x_decoded_mean) + kl_loss


def tybalt(x: Any, x_decoded: Any, z_mean: Any, z_log_var: Any, original_dim: int, beta: float) -> Any:
    """greenelab/tybalt: a mean over genes times their number, and a sum over latents."""
    kl_loss = -0.5 * keras.ops.sum(1 + z_log_var - keras.ops.square(z_mean) - keras.ops.exp(z_log_var), axis=-1)
    return keras.ops.mean(original_dim * keras.losses.binary_crossentropy(x, x_decoded) + beta * kl_loss)


def elbo(x: Tensor, recon: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return -nll(recon, x) - kl_row(mu, logvar)


def hwalsuklee_elbo(x: Tensor, y: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    y = y.clamp(1e-8, 1 - 1e-8)
    likelihood = (x * torch.log(y) + (1 - x) * torch.log(1 - y)).sum(1).mean()
    return likelihood - kl_std(mu, sigma, 1e-8).sum(1).mean()


# --------------------------------------------------------------------------------------------------------------- right
IMAGE = {"pixels": (3, 2, 2)}
TOKENS = {"family": "categorical"}
SQUARES = nn.MSELoss(reduction="sum")
RIGHT: tuple[Case, ...] = (
    Case("pytorch-examples", "pytorch/examples vae/main.py",
         lambda recon_x, x, mu, logvar: bce_all(recon_x, x) + kl_all(mu, logvar),
         unit="nats summed over the batch", head="log-variance"),
    Case("pytorch-examples-2017", "pytorch/examples vae/main.py, October 2017: over B * 784, right on full batches",
         mnist_2017, lambda B, P, D: B * P / (128 * 784),
         codes=("KL008",), also=("KL004",), worst="warning", sizes={"batch": 128, "pixels": 784, "latents": 20}),
    Case("pyro-one-sample", "pyro-ppl/pyro examples/vae/vae.py under Trace_ELBO",
         lambda x, loc_img, z_loc, z_scale, z: bce_all(loc_img, x) + one_sample(z, z_loc, z_scale).sum(), head="std"),
    Case("tensorflow-cvae", "TensorFlow tutorial, Convolutional variational autoencoder",
         lambda x, x_logit, mean, logvar, z: rows(bce_logits(x_logit, x)).mean()
             + one_sample(z, mean, (0.5 * logvar).exp()).sum(1).mean(),
         unit="nats per sample", head="log-variance", sizes={"pixels": (4, 3, 1)}),
    Case("keras-io-grey", "keras-io examples/generative/vae.py, 1 channel", keras_io, needs="keras",
         sizes={"pixels": (4, 3, 1)}),
    Case("synthcity", "vanderschaarlab/synthcity tabular VAE: 50 * squared error, sigma = 0.1",
         lambda real, reconstructed, mu, logvar: (50 * (real - reconstructed) ** 2).sum() / len(real)
             + kl_all(mu, logvar) / len(real),
         lambda B, P, D: 0.01),
    Case("graph", "tkipf/gae and its PyTorch ports: mean over N * N entries, divergence over N * N", graph,
         tied=True, sizes={"pixels": 6}, options={"constants": {"norm": 1.0, "pos_weight": 1.0}}),
    Case("pythae-mse", "clementchadebec/benchmark_VAE vae_model.py, mse; z is handed over and unused",
         lambda recon_x, x, mu, log_var, z: ((0.5 * rows(mse(recon_x, x)) + kl(mu, log_var).sum(-1)).mean(0),
             rows(mse(recon_x, x)).mean()),
         unit="nats per sample"),
    Case("pythae-bce", "clementchadebec/benchmark_VAE vae_model.py, bce",
         lambda recon_x, x, mu, log_var: (rows(bce(recon_x, x)) + kl(mu, log_var).sum(-1)).mean(), sizes=IMAGE),
    Case("pythae-beta", "clementchadebec/benchmark_VAE beta_vae_model.py",
         lambda recon_x, x, mu, log_var, beta=4.0: (0.5 * rows(mse(recon_x, x))
             + beta * kl(mu, log_var).sum(-1)).mean(),
         lambda B, P, D: 4.0),
    Case("pythae-capacity", "clementchadebec/benchmark_VAE disentangled_beta_vae_model.py: |KL - C| per sample",
         lambda recon_x, x, mu, log_var, beta=10.0: (rows(bce(recon_x, x))
             + beta * (kl(mu, log_var).sum(-1) - 5.0).abs()).mean(),
         lambda B, P, D: 10.0, codes=("KL007",), numbers={"KL007": 5.0}),
    Case("capacity-gamma", "Burgess et al., Understanding disentangling in beta-VAE, 2018: gamma |KL - C|",
         lambda x, logits, mu, logvar, gamma=100.0, C=12.5: bce_logits(logits, x, "sum") / len(x)
             + gamma * (kl_row(mu, logvar) - C).abs(),
         lambda B, P, D: 100.0, codes=("KL007",), numbers={"KL007": 12.5}, options={"declared_beta": 100}),
    Case("konny-h", "1Konny/Beta-VAE solver.py, gaussian decoder, objective H: squared error of a sigmoid",
         lambda x, x_recon, mu, logvar, beta=4: mse(torch.sigmoid(x_recon), x, "sum").div(len(x))
             + beta * kl(mu, logvar).sum(1).mean(0, True),
         lambda B, P, D: 2.0),
    Case("yanndubs-gaussian", "YannDubs/disentangling-vae losses.py, gaussian: squared error on 0..255 over 255",
         lambda data, recon, mean, logvar: mse(recon * 255, data * 255, "sum") / 255 / len(data)
             + kl(mean, logvar).mean(0).sum(),
         lambda B, P, D: 1 / 510),
    Case("yanndubs-laplace", "YannDubs/disentangling-vae losses.py, laplace: 3 * absolute error",
         lambda data, recon, mean, logvar: 3 * F.l1_loss(recon, data, reduction="sum") / len(data)
             + kl(mean, logvar).mean(0).sum(),
         lambda B, P, D: 1 / 3),
    Case("scvi-nb", "scverse/scvi-tools VAE, gene_likelihood nb; the head is a variance",
         lambda x, px_rate, px_r, qz_m, qz_v, kl_weight=1.0: torch.mean(
             negative_binomial(x, px_rate, px_r).sum(-1)
             + kl_weight * td.kl_divergence(td.Normal(qz_m, qz_v.sqrt()), td.Normal(0.0, 1.0)).sum(1)),
         head="variance", options={"inputs": "x output scale mu head", "family": "counts"}),
    Case("autoencoder-kl", "CompVis/latent-diffusion, kl_weight declared", LearnedScale(1e-6), lambda B, P, D: 1e-6,
         sizes={"pixels": (3, 2, 2), "latents": (2, 2, 1)}, options={"declared_beta": 1e-6}),
    Case("world-models", "hardmaru/WorldModelsExperiments vae.py: squared error without half, floor on each sample",
         lambda x, y, mu, logvar: rows((x - y) ** 2).mean() + kl(mu, logvar).sum(1).clamp(min=0.5 * mu.shape[1]).mean(),
         lambda B, P, D: 0.5, codes=("KL007",), numbers={"KL007": 2.0}),
    Case("music-vae", "magenta music_vae base_model.py: free bits below a sample's divergence cost nothing",
         lambda x_target, logits, mu, sigma, free_bits=3.0: (
             F.cross_entropy(logits.flatten(0, 1), x_target.flatten(), reduction="sum") / len(mu)
             + (kl_std(mu, sigma).sum(1) - free_bits * log(2)).clamp(min=0).mean()),
         codes=("KL007",), numbers={"KL007": 3 * log(2)}, options=TOKENS, head="std"),
    Case("bowman", "timbmg/Sentence-VAE train.py: NLLLoss summed on log-probabilities, both over B",
         lambda logp, target, mean, logv, KL_weight=1.0: (
             F.nll_loss(logp.reshape(-1, logp.shape[-1]), target.flatten(), reduction="sum")
                 + KL_weight * kl_all(mean, logv)) / len(mean),
         options=TOKENS | {"inputs": "output x mu head"}),
    Case("mult-vae", "dawenl/vae_cf and its ports: multinomial on log-softmax, annealed weight declared",
         lambda recon_x, x, mu, logvar, anneal=0.2: -(F.log_softmax(recon_x, 1) * x).sum(-1).mean()
             + anneal * kl_row(mu, logvar),
         lambda B, P, D: 0.2, options={"declared_beta": 0.2}),
    Case("tybalt", "greenelab/tybalt", tybalt, needs="keras", options={"constants": {"beta": 1.0}}),
    Case("chainer", "chainer/chainer examples/vae/net.py: bernoulli_nll on logits, both over B",
         lambda x, y, mu, ln_var, beta=1.0: (F.softplus(y) - x * y).sum() / len(x)
             + beta * kl_all(mu, ln_var) / len(x)),
    Case("flax", "google/flax examples/vae/train.py", flax_loss, needs="jax", unit="nats per sample"),
    Case("haiku-std", "google-deepmind/dm-haiku examples/vae.py: the encoder gives a standard deviation",
         lambda x, logits, mean, stddev: jnp.mean(
             jnp.sum(jnp.logaddexp(0.0, logits) - x * logits, 1)
             + 0.5 * jnp.sum(-jnp.log(stddev**2) - 1.0 + stddev**2 + mean**2, -1)),
         needs="jax", head="std"),
    Case("jax-elbo", "jax-ml/jax examples/mnist_vae.py: the bound itself", stax_elbo, needs="jax", codes=("UN002",),
         head="variance", options={"family": "bernoulli"}),
    Case("sigma-vae", "Rybkin, Daniilidis, Levine, Simple and effective VAE training with calibrated decoders, 2021",
         SigmaVAE().loss_function),
    Case("learned-noise", "Kingma, Welling, Auto-encoding variational Bayes, 2014, appendix C.2: Gaussian decoder",
         lambda x, x_mu, x_logvar, z_mu, z_logvar: (
             rows(0.5 * ((x - x_mu) ** 2 / x_logvar.exp() + x_logvar)) + kl(z_mu, z_logvar).sum(1)).mean()),
    Case("gaussian-nll", "torch.nn.functional.gaussian_nll_loss summed, variance from the decoder",
         lambda x, x_mean, x_var, mu, logvar: F.gaussian_nll_loss(x_mean, x, x_var, full=True, reduction="sum")
             + kl_all(mu, logvar)),
    Case("fixed-noise", "Normal(output, 0.1).log_prob: sigma^2 = 0.01",
         lambda x, x_hat, mu, logvar: -rows(td.Normal(x_hat, 0.1).log_prob(x)).mean() + kl_row(mu, logvar),
         lambda B, P, D: 0.01),
    Case("laplace", "Laplace(output, 1).log_prob",
         lambda x, x_hat, mu, logvar: -rows(td.Laplace(x_hat, 1.0).log_prob(x)).mean() + kl_row(mu, logvar)),
    Case("poisson-log-rates", "torch.nn.functional.poisson_nll_loss on log-rates, summed",
         lambda x, log_rate, mu, logvar: F.poisson_nll_loss(log_rate, x, log_input=True, reduction="sum")
             + kl_all(mu, logvar)),
    Case("poisson-rates", "torch.distributions.Poisson on counts",
         lambda counts, rates, mu, logvar: -td.Poisson(rates, validate_args=False).log_prob(counts).sum(1).mean()
             + kl_row(mu, logvar)),
    Case("pixel-classes", "cross-entropy on [B, V, P] with integer targets, summed",
         lambda x, logits, mu, logvar: F.cross_entropy(logits, x, reduction="sum") / len(x) + kl_row(mu, logvar),
         options=TOKENS),
    Case("softplus-std", "pytorch/vision-style softplus head through torch.distributions",
         lambda x, logits, mu, rho: (rows(bce_logits(logits, x))
                                     + td.kl_divergence(td.Normal(mu, F.softplus(rho)),
                                         td.Normal(0.0, 1.0)).sum(1)).mean(),
         head="std through softplus"),
    Case("hwalsuklee", "hwalsuklee/tensorflow-mnist-VAE: clipped probabilities, 1e-8 inside the logarithm",
         lambda x, y, mu, sigma: -hwalsuklee_elbo(x, y, mu, sigma),
         codes=("NU002",), worst="warning", head="std"),  # 1 - 1e-8 is 1 in float32
    Case("independent", "torch.distributions Independent, MultivariateNormal-like divergence of a row",
         lambda x, probs, loc, scale: -td.Independent(td.Bernoulli(probs, validate_args=False), 1).log_prob(x).mean()
         + td.kl_divergence(td.Independent(td.Normal(loc, scale), 1),
             td.Independent(td.Normal(torch.zeros_like(loc), torch.ones_like(scale)), 1)).mean(),
         head="std"),
    Case("log-std", "1 + 2 log_std - mu^2 - exp(log_std)^2, named so",
         lambda x, recon, mu, log_std: bce_all(recon, x) - 0.5 * (1 + 2 * log_std - mu**2 - log_std.exp() ** 2).sum(),
         head="log-std"),
    Case("numpy", "NumPy alone", in_numpy, codes=("NU002",), worst="warning"),  # log of 0 at a saturated output
    Case("vector", "one number for each row", lambda x, x_hat, mu, logvar: rows(bce(x_hat, x)) + kl(mu, logvar).sum(1)),
    Case("tuple-of-terms", "TVAE-like: two terms returned, to be added",
         lambda x, recon, mu, logvar: (bce_all(recon, x) / len(x), kl_all(mu, logvar) / len(x))),
    Case("namedtuple", "a namedtuple of two terms",
         lambda x, recon, mu, logvar: Elbo(nll(recon, x), kl_row(mu, logvar))),
    Case("dict", "a dict with its parts", lambda x, recon, mu, logvar: {
        "kl": kl_row(mu, logvar), "recon": nll(recon, x),
            "loss": (rows(bce(recon, x)) + kl(mu, logvar).sum(1)).mean()}),
    Case("dataclass", "a dataclass with its parts", in_dataclass),
    Case("module", "a loss as nn.Module, forward(x, output, mu, logvar)", Criterion()),
    Case("module-beta", "the same, beta declared", Criterion(4.0), lambda B, P, D: 4.0, options={"declared_beta": 4}),
    Case("callable-object", "a class with __call__", Weighted(1.0)),
    Case("partial", "functools.partial with its weight bound",
         partial(lambda x, recon, mu, logvar, beta: nll(recon, x) + beta * kl_row(mu, logvar), beta=0.5),
         lambda B, P, D: 0.5),
    Case("criterion-argument", "reconstruction_function given as an argument (the pytorch-beginner form)",
         lambda recon_x, x, mu, logvar, criterion=SQUARES: criterion(recon_x, x) + kl_all(mu, logvar),
         lambda B, P, D: 0.5),
    Case("star-arguments", "*args in an order of its own",
         lambda *args: nll(args[0], args[1]) + kl_row(args[2], args[3]),
         options={"inputs": "output x mu head"}),
    Case("grouped", "the model's outputs as one argument",
         lambda outputs, batch: bce_all(outputs[0], batch) + kl_all(outputs[1], outputs[2]),
         options={"inputs": "(output mu head) x"}),
    Case("both-over-everything", "both terms over B * P, taken from the tensor: nats per dimension",
         lambda x, recon, mu, logvar: bce(recon, x, "mean") + kl_all(mu, logvar) / x.numel(),
         unit="nats per dimension"),
    Case("bits-per-dim", "bits per dimension: the bound over P log 2",
         lambda x, logits, mu, logvar: (rows(bce_logits(logits, x))
             + kl(mu, logvar).sum(1)).mean() / (x[0].numel() * log(2))),
    Case("beta-norm", "Higgins et al., beta-VAE, 2017, beta_norm = beta D / P beside two means",
         lambda x, recon, mu, logvar: bce(recon, x, "mean") + mu.shape[1] / x[0].numel() * kl(mu, logvar).mean()),
    Case("double-of-both", "squared error and divergence both without their half: beta 1",
         lambda x, recon, mu, logvar: mse(recon, x, "sum") + (mu**2 + logvar.exp() - logvar - 1).sum()),
    Case("missing-half", "the divergence without its half: beta 2, not off by more than 3",
         lambda x, recon, mu, logvar: bce_all(recon, x) - (1 + logvar - mu**2 - logvar.exp()).sum(),
         lambda B, P, D: 2.0, codes=("UN002",)),
    Case("conv-latents", "latents [B, C, H, W], summed over all three axes",
         lambda x, recon, mu, logvar: (rows(bce(recon, x)) + kl(mu, logvar).sum([1, 2, 3])).mean(),
         sizes={"pixels": (3, 2, 2), "latents": (1, 2, 2)}),
    Case("clamped-log-variance", "log-variance clamped to [-10, 10], as a guard",
         lambda x, recon, mu, logvar: (0.5 * rows(mse(recon, x)) + kl(mu, logvar.clamp(-10, 10)).sum(1)).mean()),
    Case("free-bits", "Kingma et al., 2016: a floor of 0.25 nats under each latent's batch mean", free_bits_per_latent,
         codes=("KL007",), numbers={"KL007": 0.25}),
    Case("huber", "torch.nn.functional.smooth_l1_loss summed: Huber's density, threshold 1",
         lambda x, recon, mu, logvar: F.smooth_l1_loss(recon, x, reduction="sum") + kl_all(mu, logvar)),
    Case("log-cosh", "log cosh summed (hyperbolic secant density), curvature 1 at 0",
         lambda x, recon, mu, logvar: torch.log(torch.cosh(recon - x)).sum() + kl_all(mu, logvar)),
    Case("wide-prior", "a prior N(0, 2^2) through torch.distributions: weight 1",
         lambda x, logits, mu, std: (rows(bce_logits(logits, x))
             + td.kl_divergence(td.Normal(mu, std), td.Normal(0.0, 2.0)).sum(1)).mean(), head="std"),
    Case("tanh-range", "data and output in [-1, 1], both moved to [0, 1] for the cross-entropy",
         lambda x, recon, mu, logvar: (rows(bce((recon + 1) / 2, (x + 1) / 2)) + kl(mu, logvar).sum(1)).mean()),
    Case("tvae-continuous", "sdv-dev/CTGAN tvae.py, loss_factor 2: Gaussian after tanh, learned std",
         lambda recon_x, x, sigmas, mu, logvar, factor=2: (
             factor * (((x - torch.tanh(recon_x)) ** 2 / 2 / sigmas**2).sum()
                 + (torch.log(sigmas) * torch.ones_like(x)).sum()) / len(x),
             kl_all(mu, logvar) / len(x)),
         lambda B, P, D: 0.5, codes=("UN002",)),
    Case("tvae-categories", "sdv-dev/CTGAN tvae.py, loss_factor 2, one-hot columns",
         lambda recon_x, x, mu, logvar, factor=2: (
        factor * F.cross_entropy(recon_x, x.argmax(-1), reduction="sum") / len(x), kl_all(mu, logvar) / len(x)),
         lambda B, P, D: 0.5, codes=("UN002",), sizes={"pixels": 5}, options={"inputs": "output x mu head"}),
    Case("bound-by-name", "a function named elbo that returns the bound", elbo, codes=("UN002",)),
    Case("loss-beside-bound", "a dict with the loss and the bound",
         lambda x, recon, mu, logvar: {"elbo": elbo(x, recon, mu, logvar), "loss": -elbo(x, recon, mu, logvar)}),
    Case("one-hot", "categorical crossentropy of one-hot rows, summed over positions",
         lambda x, probs, mu, logvar: -(x * torch.log(probs + 1e-10)).sum((1, 2)).mean() + kl_row(mu, logvar),
         options=TOKENS),
    Case("poisson-full", "torch.nn.functional.poisson_nll_loss on rates with Stirling's term",
         lambda x, rate, mu, logvar: F.poisson_nll_loss(rate, x, log_input=False, full=True, reduction="sum") / len(x)
             + kl_row(mu, logvar)),
    Case("sequences", "x [B, T, F] and latents [B, T, D], both summed over time",
         lambda x, recon, mu, logvar: (0.5 * rows(mse(recon, x)) + rows(kl(mu, logvar))).mean(),
         sizes={"pixels": (4, 3), "latents": (4, 2)}),
    Case("broadcast", "[B] + [B, 1] makes [B, B], whose mean is the same",
         lambda x, recon, mu, logvar: (rows(bce(recon, x)) + kl(mu, logvar).sum(1, keepdim=True)).mean()),
    Case("single-precision-inside", "a divergence in float32 beside a likelihood in the tensors' own precision",
         lambda x, recon, mu, logvar: nll(recon, x) + kl_row(mu.float(), logvar.float()).double()),
    Case("elu-head", "a standard deviation of elu(h) + 1",
         lambda x, recon, mu, h: nll(recon, x) + kl_std(mu, F.elu(h) + 1).sum(1).mean(),
         options={"inputs": "x output mu head"}),
    Case("divergence-alone", "pyg-team/pytorch_geometric VGAE.kl_loss",
         lambda mu, logstd: -0.5 * (1 + 2 * logstd - mu**2 - logstd.exp() ** 2).sum(1).mean(), None),
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- wrong
def wrong(name: str, source: str, fn: Callable[..., Any], beta: Beta | None, *codes: str, **more: Any) -> Case:
    """A case whose worst finding is an error."""
    return Case(name, source, fn, beta, codes, worst="error", **more)


WRONG: tuple[Case, ...] = (
    wrong("pytorch-examples-2017-short", "the same on a batch of 6: the divergence is still over 128 * 784", mnist_2017,
          lambda B, P, D: B * P / (128 * 784), "KL008", also=("KL004",), sizes={"pixels": 784}),
    wrong("keras-io-rgb", "keras-io examples/generative/vae.py, 3 channels", keras_io, lambda B, P, D: 3.0, "RE008",
          also=("RE001",), needs="keras", sizes={"pixels": (2, 2, 3)}),
    wrong("keras-guide", "Keras guide on subclassing", keras_guide, lambda B, P, D: P / (2 * D), "RE001", "KL003",
          needs="keras",
          sizes={"pixels": 784, "latents": 32}),
    wrong("bolts", "Lightning-Universe/lightning-bolts basic_vae_module.py: one-sample divergence, means, kl_coeff 0.1",
          lambda x, x_hat, p, q, z, kl_coeff=0.1: mse(x_hat, x, "mean") + kl_coeff * one_sample(z, p, q).mean(),
          lambda B, P, D: 0.1 * P / (2 * D), "RE001", "KL003", options={"inputs": "x output mu head z"}),
    wrong("vanilla-training", "AntixK/PyTorch-VAE, M_N = 0.00025", vanilla, lambda B, P, D: 0.00025 * P / 2, "RE001",
          sizes={"pixels": (3, 64, 64), "latents": 128},
          options={"inputs": "output x mu head", "constants": {"M_N": 0.00025}}),
    wrong("vanilla-validation", "AntixK/PyTorch-VAE, M_N = 1", vanilla, lambda B, P, D: P / 2, "RE001",
          sizes={"pixels": (3, 64, 64), "latents": 128},
          options={"inputs": "output x mu head", "constants": {"M_N": 1.0}}),
    wrong("antixk-beta-h", "AntixK/PyTorch-VAE beta_vae.py, loss type H", BetaVAE("H").loss_function,
          lambda B, P, D: 4 * 0.025 * P / 2, "RE001",
          options={"inputs": "output x mu head", "constants": {"M_N": 0.025}}),
    wrong("antixk-beta-b", "AntixK/PyTorch-VAE beta_vae.py, loss type B at step 5000", BetaVAE("B").loss_function,
          lambda B, P, D: 1000 * 0.00025 * P / 2, "RE001", "KL007",
          options={"inputs": "output x mu head", "constants": {"M_N": 0.00025}}),
    wrong("alibi-detect", "SeldonIO/alibi-detect elbo (sim = 1) beside the layer's mean over latents",
          lambda y_true, y_pred, z_mean, z_log_var: -td.Normal(y_pred, 1.0).log_prob(y_true).sum(1).mean()
              + kl(z_mean, z_log_var).mean(),
          lambda B, P, D: 1 / D, "KL003"),
    wrong("deepchem", "deepchem VAE_ELBO: means, and log-variance used as a standard deviation",
          lambda logvar, mu, x, reconstruction_x: bce(reconstruction_x, x).mean(-1)
              + kl_std(mu, logvar, 1e-20).mean(-1),
          lambda B, P, D: P / D, "KL005", "RE001", "KL003"),
    wrong("moses", "molecularsets/moses vae: cross-entropy a mean over tokens, divergence a sum over latents",
          lambda x, y, mu, logvar: F.cross_entropy(y.reshape(-1, y.size(-1)), x.flatten()) + kl_row(mu, logvar),
          lambda B, P, D: P, "RE001", options=TOKENS),
    wrong("keras-blog", "Keras blog, Building autoencoders", keras_blog, lambda B, P, D: 1 / D, "KL003", needs="keras"),
    wrong("keras-molecules", "maxhodak/keras-molecules: max_length * mean over [T, C], beta C / D",
          lambda x, x_decoded_mean, z_mean, z_log_var: x.shape[1] * bce(x_decoded_mean, x, "mean")
              + kl(z_mean, z_log_var).mean(),
          lambda B, P, D: P / 4 / D, "KL003", "RE008", also=("RE001",), sizes={"pixels": (4, 3)}),
    wrong("diffusers", "huggingface/diffusers train_autoencoderkl.py: both means, kl_scale 1e-6",
          lambda targets, reconstructions, mu, logvar: mse(reconstructions, targets, "mean")
              + 1e-6 * kl(mu, logvar).sum([1, 2, 3]).mean(),
          lambda B, P, D: 1e-6 * P / 2, "RE001", also=("RE006",), sizes={"pixels": (3, 2, 2), "latents": (2, 2, 1)}),
    wrong("monai", "Project-MONAI autoencoder tutorial: mean absolute error, weight 1e-6",
          lambda images, reconstruction, z_mu, z_sigma: F.l1_loss(reconstruction, images)
              + 1e-6 * kl_std(z_mu, z_sigma).sum([1, 2, 3]).sum() / len(z_mu),
          lambda B, P, D: 1e-6 * P, "RE001", also=("RE006",), sizes={"pixels": (1, 4, 3), "latents": (2, 2, 1)},
          head="std"),
    wrong("undeclared-tiny-weight", "L1 sum with an undeclared weight of 1e-6: b = 1e-6 is no noise that data have",
          LearnedScale(1e-6),
          lambda B, P, D: 1e-6, "RE006", sizes={"pixels": (3, 2, 2), "latents": (2, 2, 1)}),
    wrong("sum-and-mean", "BCE summed, divergence `-0.5 * torch.mean(...)` over everything",
          lambda recon_x, x, mu, logvar: bce_all(recon_x, x) + kl(mu, logvar).mean(),
          lambda B, P, D: 1 / (B * D), "KL003", "KL004"),
    wrong("mean-and-sum", "BCE a mean over everything, divergence a sum over everything",
          lambda recon_x, x, mu, logvar: bce(recon_x, x, "mean") + kl_all(mu, logvar),
          lambda B, P, D: B * P, "RE001", "KL004"),
    wrong("mean-and-row-sum", "BCE a mean over everything, divergence summed over latents, averaged over the batch",
          lambda recon_x, x, mu, logvar: bce(recon_x, x, "mean") + kl_row(mu, logvar), lambda B, P, D: P, "RE001"),
    wrong("mean-and-mean", "two means", lambda recon_x, x, mu, logvar: bce(recon_x, x, "mean") + kl(mu, logvar).mean(),
          lambda B, P, D: P / D, "RE001", "KL003"),
    wrong("rows-and-sum", "BCE per sample averaged, divergence summed over the batch",
          lambda recon, x, mu, logvar: nll(recon, x) + kl_all(mu, logvar), lambda B, P, D: B, "KL004"),
    wrong("sum-and-rows", "squared error summed over the batch, divergence averaged over it",
          lambda recon, x, mu, logvar: mse(recon, x, "sum") + kl_row(mu, logvar), lambda B, P, D: 1 / (2 * B), "KL004"),
    wrong("wrong-axis", "divergence summed over the batch and averaged over latents",
          lambda x, recon, mu, logvar: nll(recon, x) + kl(mu, logvar).sum(0).mean(),
          lambda B, P, D: B / D, "KL003", "KL004"),
    wrong("hard-coded-batch", "divergence over a batch of 64 that stands in the code",
          lambda x, recon, mu, logvar: nll(recon, x) + kl_all(mu, logvar) / 64,
          lambda B, P, D: B / 64, "KL008", also=("KL004",)),
    wrong("hard-coded-pixels", "a mean over pixels times 784, whatever the image",
          lambda x, recon, mu, logvar: 784 * bce(recon, x, "mean") + kl_row(mu, logvar),
          lambda B, P, D: P / 784, "KL008"),
    wrong("rows-only-one-axis", "images summed over height and width, averaged over channels and the batch",
          lambda x, recon, mu, logvar: mse(recon, x).sum((2, 3)).mean() + kl_row(mu, logvar),
          lambda B, P, D: 3 / 2, "RE008", also=("RE001",), sizes=IMAGE),
    wrong("rmse", "the root of a mean squared error",
          lambda x, recon, mu, logvar: torch.sqrt(mse(recon, x, "mean")) + kl_row(mu, logvar),
          None, "RE007", also=("RE001", "UN002")),
    wrong("cosine", "cosine distance",
          lambda x, recon, mu, logvar: (1 - F.cosine_similarity(recon, x)).mean() + kl_row(mu, logvar), None, "RE007"),
    wrong("swapped", "F.binary_cross_entropy(x, recon)",
          lambda x, recon, mu, logvar: bce_all(x, recon) + kl_all(mu, logvar), None, "RE004"),
    wrong("double-sigmoid", "with_logits on a sigmoid's output",
          lambda x, logits, mu, logvar: bce_logits(torch.sigmoid(logits), x, "sum") + kl_all(mu, logvar),
          None, "RE002"),
    wrong("logits-as-probabilities", "binary_cross_entropy on what is named logits",
          lambda x, logits, mu, logvar: bce_all(logits, x) + kl_all(mu, logvar), lambda B, P, D: 1.0, "RE002"),
    wrong("half-cross-entropy", "-sum x log p alone",
          lambda x, recon, mu, logvar: -(x * torch.log(recon + 1e-8)).sum() + kl_all(mu, logvar), None, "RE007"),
    wrong("divergence-sign", "the divergence subtracted",
          lambda x, recon, mu, logvar: bce_all(recon, x) - kl_all(mu, logvar), lambda B, P, D: -1.0, "KL002"),
    wrong("likelihood-sign", "the log-likelihood added",
          lambda x, recon, mu, logvar: -bce_all(recon, x) + kl_all(mu, logvar), lambda B, P, D: -1.0, "RE005"),
    wrong("no-logarithm", "the log-variance left out",
          lambda x, recon, mu, logvar: bce_all(recon, x) + 0.5 * (mu**2 + logvar.exp() - 1).sum(), None, "KL005"),
    wrong("no-mean", "mu^2 left out",
          lambda x, recon, mu, logvar: bce_all(recon, x) + 0.5 * (logvar.exp() - 1 - logvar).sum(), None, "KL005"),
    wrong("means-only", "mu^2 alone",
          lambda x, recon, mu, logvar: bce_all(recon, x) + 0.5 * (mu**2).sum() + 0 * logvar.sum(), None, "KL005"),
    wrong("two-readings", "1 + log_sigma - mu^2 - exp(log_sigma)^2: the 2 before the logarithm is missing",
          lambda x, recon, mu, log_sigma: bce_all(recon, x)
              - 0.5 * (1 + log_sigma - mu**2 - log_sigma.exp() ** 2).sum(),
          None, "KL006", also=("KL005",)),
    wrong("two-readings-of-std", "1 + std - mu^2 - std^2: the logarithm is missing around the first",
          lambda x, recon, mu, std: bce_all(recon, x) - 0.5 * (1 + std - mu**2 - std**2).sum(),
          None, "KL006", also=("KL005",)),
    wrong("no-grad", "the divergence under no_grad", no_grad_kl, lambda B, P, D: 0.0, "GR001", also=("UN002",)),
    wrong("item", "the divergence as a number",
          lambda x, recon, mu, logvar: nll(recon, x) + kl(mu, logvar).sum(1).mean().item(),
          lambda B, P, D: 0.0, "GR001", also=("UN002",)),
    wrong("detached-mean", "mu detached in the divergence",
          lambda x, recon, mu, logvar: bce_all(recon, x) + kl(mu.detach(), logvar).sum(),
          None, "GR001"),
    wrong("unused-beta", "beta is taken and never used",
          lambda x, recon, mu, logvar, beta=4.0: bce_all(recon, x) + kl_all(mu, logvar),
          lambda B, P, D: 1.0, "GR004", also=("UN002",)),
    wrong("zero-capacity", "a divergence clamped to [0, capacity] with capacity 0",
          lambda x, recon, mu, logvar, capacity=0.0: nll(recon, x) + kl(mu, logvar).sum(1).mean().clamp(0, capacity),
          lambda B, P, D: 0.0, "KL001"),
    wrong("no-divergence", "the divergence is computed and left out",
          lambda x, recon, mu, logvar: nll(recon, x), lambda B, P, D: 0.0, "KL001"),
    wrong("no-reconstruction", "the output is compared with itself",
          lambda x, recon, mu, logvar: bce(recon.detach() * 0 + 0.5, x, "sum") * 0 + kl_all(mu, logvar),
          None, "RE007"),
    wrong("undeclared-weight", "reconstruction times 10: beta 0.1 undeclared",
          lambda x, recon, mu, logvar: 10 * bce_all(recon, x) + kl_all(mu, logvar),
          lambda B, P, D: 0.1, "UN002"),
    wrong("product", "the terms multiplied",
          lambda x, recon, mu, logvar: nll(recon, x) * kl_row(mu, logvar), None, "UN002", also=("KL003", "KL004")),
    wrong("root-of-divergence", "the root of the divergence",
          lambda x, recon, mu, logvar: nll(recon, x) + kl(mu, logvar).sum(1).sqrt().mean(), None, "KL005"),
    wrong("mean-absolute-error", "a mean absolute error beside a divergence of batch means",
          lambda x, recon, mu, logvar, beta=1.0: F.l1_loss(recon, x) + beta * kl(mu, logvar).mean(0).sum(),
          lambda B, P, D: P, "RE001"),
)  # fmt: skip
CASES = (*RIGHT, *WRONG)
