"""The rulers against scipy, scikit-learn, brute force and each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, gammaln
from scipy.stats import multivariate_normal, norm
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from torch import nn

import vaelab
from vaelab import rulers
from vaelab.core.errors import BadInput
from vaelab.distributions.likelihoods import Decoder, Gaussian
from vaelab.measure.exact import linear_gaussian_of, linear_vae


def drawn(latent: int, entries: int = 5, seed: int = 0, shared: bool = False) -> rulers.LinearGaussian:
    draw = np.random.default_rng(seed)
    variance = 0.4 if shared else draw.uniform(0.2, 1.5, entries)
    return rulers.LinearGaussian(draw.normal(size=(entries, latent)), draw.normal(size=entries), variance)


def dense(model: rulers.LinearGaussian) -> Any:
    """The same distribution of x, by its covariance."""
    return multivariate_normal(model.offset, model.weight @ model.weight.T + np.diag(model.variance))


@pytest.mark.parametrize("latent", [1, 2, 7])
@pytest.mark.parametrize("shared", [True, False])
def test_log_prob_is_that_of_the_normal_distribution(latent: int, shared: bool) -> None:
    model = drawn(latent, shared=shared)
    x = 3 * np.random.default_rng(1).normal(size=(20, 5))
    np.testing.assert_allclose(model.log_prob(x), dense(model).logpdf(x), rtol=1e-12)
    assert model.expected == pytest.approx(-dense(model).entropy(), rel=1e-12)


@pytest.mark.parametrize("rows", [load_digits().data, load_wine().data], ids=["digits", "wine"])
def test_principal_components_and_factors_have_the_likelihood_that_scikit_learn_gives(rows: np.ndarray) -> None:
    pca = PCA(4).fit(rows)
    scale = np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    model = rulers.LinearGaussian(pca.components_.T * scale, pca.mean_, pca.noise_variance_)
    np.testing.assert_allclose(model.log_prob(rows), pca.score_samples(rows), rtol=1e-8)
    factors = FactorAnalysis(3, random_state=0).fit(rows / rows.std())
    model = rulers.LinearGaussian(factors.components_.T, factors.mean_, np.maximum(factors.noise_variance_, 1e-12))
    np.testing.assert_allclose(model.log_prob(rows / rows.std()), factors.score_samples(rows / rows.std()), rtol=1e-6)


def test_small_noise_cancels_no_digits() -> None:
    model = rulers.LinearGaussian([[1.0], [1.0]], [0.0, 0.0], 1e-10)
    x = np.array([[0.5, 0.5]])  # on the line: C = [[1 + v, 1], [1, 1 + v]], det = v (2 + v), xᵀC⁻¹x = 0.5 / (2 + v)
    truth = -0.5 * (0.5 / (2 + 1e-10) + math.log(1e-10) + math.log(2 + 1e-10) + 2 * math.log(2 * math.pi))
    assert model.log_prob(x)[0] == pytest.approx(truth, abs=1e-9)


def test_the_posterior_is_bayes_rule() -> None:
    """Joint minus posterior is log p(x) at every z, not only at the mean."""
    model = drawn(3)
    x = model.sample(6)[0]
    mean, covariance = model.posterior(x)
    z = np.random.default_rng(2).normal(size=(4, 6, 3))
    log_posterior = np.stack([multivariate_normal(mean[i], covariance).logpdf(z[:, i]) for i in range(6)], 1)
    evidence = model.log_joint(x, z) - log_posterior
    np.testing.assert_allclose(evidence, np.tile(dense(model).logpdf(x), (4, 1)), rtol=1e-10)


def test_divergences_are_those_of_torch() -> None:
    model = drawn(3)
    x = model.sample(6)[0]
    mean, covariance = (torch.from_numpy(part) for part in model.posterior(x))
    posterior = torch.distributions.MultivariateNormal(mean, covariance)
    prior = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    np.testing.assert_allclose(model.kl(x), torch.distributions.kl_divergence(posterior, prior), rtol=1e-10)
    other, variance = torch.randn(6, 3).double(), torch.rand(6, 3).double() + 0.1
    q = torch.distributions.MultivariateNormal(other, torch.diag_embed(variance))
    gap = dense(model).logpdf(x) - torch.distributions.kl_divergence(q, posterior).numpy()
    np.testing.assert_allclose(model.elbo(x, other.numpy(), variance.numpy()), gap, rtol=1e-10)


def test_the_elbo_is_reconstruction_minus_divergence() -> None:
    """Directly: E_q log p(x|z) = log p(x|mean) - sum_jd v_j W_dj² / 2 s_d, and the divergence of a diagonal normal."""
    model = drawn(2)
    x = model.sample(5)[0]
    mean, variance = np.random.default_rng(1).normal(size=(5, 2)), np.array([0.3, 1.9])
    at_mean = norm.logpdf(x, mean @ model.weight.T + model.offset, np.sqrt(model.variance)).sum(1)
    spread = 0.5 * (model.weight**2 / model.variance[:, None]).sum(0) @ variance
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(1)
    np.testing.assert_allclose(model.elbo(x, mean, variance), at_mean - spread - kl, rtol=1e-12)


def test_draws_have_the_moments_of_the_model() -> None:
    model = drawn(2)
    x, z = model.sample(200_000, seed=3)
    np.testing.assert_allclose(x.mean(0), model.offset, atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), model.weight @ model.weight.T + np.diag(model.variance), atol=0.06)
    np.testing.assert_allclose((x - model.offset).T @ z / len(x), model.weight, atol=0.03)
    assert (model.sample(3, seed=1)[0] == model.sample(3, seed=1)[0]).all()


@pytest.mark.parametrize(
    "bad", [([1.0], [0.0], 1.0), ([[1.0]], [0.0, 1.0], 1.0), ([[1.0]], [0.0], 0.0), ([[1.0]], [0.0], [1.0, 1.0])]
)
def test_parts_that_do_not_fit_are_refused(bad: Any) -> None:
    with pytest.raises(BadInput, match="variance: "):
        rulers.LinearGaussian(*bad)


# ------------------------------------------------------------------------------------------- quadrature and summation


@pytest.mark.parametrize(("latent", "noise"), [(1, 1.0), (1, 1e-6), (2, 1.0), (2, 0.05)])
def test_quadrature_is_within_its_error_of_the_closed_form(latent: int, noise: float) -> None:
    model = rulers.LinearGaussian(drawn(latent).weight, drawn(latent).offset, np.array(noise))
    x = model.sample(4)[0]
    found = rulers.by_quadrature(lambda z: model.log_joint(x, z[:, None]), latent)
    assert (np.abs(found.values - dense(model).logpdf(x)) <= found.error + 1e-8).all()
    assert found.error.max() < 1e-8


@pytest.mark.parametrize("latent", [1, 2])
def test_quadrature_says_when_its_grid_ends_too_early(latent: int) -> None:
    model = drawn(latent)
    x = model.sample(4)[0]
    off, stated = {}, {}
    for reach in (0.5, 1.5, 2.5, 9.0):
        found = rulers.by_quadrature(lambda z: model.log_joint(x, z[:, None]), latent, reach=reach)
        off[reach], stated[reach] = np.abs(found.values - dense(model).logpdf(x)), found.error
        assert (off[reach] <= stated[reach] + 1e-12).all()
    assert off[0.5].max() > 0.1
    assert stated[0.5].max() == np.inf
    assert off[9.0].max() < 1e-12


def test_a_posterior_finer_than_every_grid_has_no_stated_error() -> None:
    model = rulers.LinearGaussian(drawn(2).weight, drawn(2).offset, np.array(1e-4))
    x = model.sample(4)[0]
    found = rulers.by_quadrature(lambda z: model.log_joint(x, z[:, None]), 2)
    assert (found.error == np.inf).all()


def test_quadrature_says_when_no_grid_is_fine_enough() -> None:
    needle = rulers.by_quadrature(lambda z: norm.logpdf(z[:, :1], 0.001, 1e-7), 1)
    assert needle.error[0] == np.inf


def test_quadrature_of_counts_is_the_negative_binomial() -> None:
    """x | z ~ Poisson(e^z) with e^z ~ Gamma(a, 1): log p(x) is known; z has the density of a log-gamma variable."""
    shape, x = 2.5, np.array([0, 1, 7])

    def log_joint(z: np.ndarray) -> np.ndarray:
        return x * z - np.exp(z) - gammaln(x + 1) + shape * z - np.exp(z) - gammaln(shape)

    truth = gammaln(x + shape) - gammaln(shape) - gammaln(x + 1) - (x + shape) * math.log(2)
    found = rulers.by_quadrature(log_joint, 1, reach=30.0)
    np.testing.assert_allclose(found.values, truth, atol=1e-10)


def test_three_latents_are_refused() -> None:
    with pytest.raises(BadInput, match="latent: got 3; must be 1 or 2"):
        rulers.by_quadrature(lambda z: z[:, :1], 3)


def noisy_or(z: np.ndarray, x: np.ndarray) -> np.ndarray:
    """log p(x, z) of a Bernoulli model with independent codes of unequal sizes, [m, n]."""
    draw = np.random.default_rng(0)
    p = expit(z @ draw.normal(size=(3, 6)) - 0.5)
    prior = np.array([[0.7, 0.3, np.nan], [0.2, 0.5, 0.3], [0.6, 0.4, np.nan]])
    log_prior = sum(np.log(prior[j, z[:, j]]) for j in range(3))
    return (np.log(p) @ x.T + np.log1p(-p) @ (1 - x).T) + np.asarray(log_prior)[:, None]


def test_summation_is_a_distribution_and_brute_force() -> None:
    """Over all 64 rows the masses sum to one; and each is the plain sum over codes."""
    x = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    codes = rulers.all_codes([2, 3, 2])
    found = rulers.by_summation(lambda z: noisy_or(z, x), codes)
    assert np.exp(found).sum() == pytest.approx(1.0, rel=1e-12)
    each = [np.exp(noisy_or(np.array([code]), x)[0]) for code in itertools.product(range(2), range(3), range(2))]
    np.testing.assert_allclose(np.exp(found), np.sum(each, 0), rtol=1e-12)


def test_summation_in_blocks_leaves_out_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codes = np.ones((2, 6)), rulers.all_codes([2, 3, 2])
    whole = rulers.by_summation(lambda z: noisy_or(z, x), codes)
    monkeypatch.setattr(rulers, "BLOCK", 5)
    np.testing.assert_allclose(rulers.by_summation(lambda z: noisy_or(z, x), codes), whole, rtol=1e-14)


@pytest.mark.parametrize("sizes", [[], [2, 0], [2] * 21])
def test_codes_that_cannot_be_listed_are_refused(sizes: list[int]) -> None:
    with pytest.raises(BadInput, match="sizes: "):
        rulers.all_codes(sizes)


# ------------------------------------------------------------------------------------------------- the expected bound


def weights_of(model: rulers.LinearGaussian, x: np.ndarray, shift: float, spread: float) -> tuple[Any, Any, Any]:
    """log w of a diagonal q that misses the posterior, as a function of noise; its mean and variance."""
    mean, covariance = model.posterior(x)
    variance = spread * np.diag(covariance)
    mean = mean + shift * np.sqrt(variance)

    def log_weight(noise: np.ndarray) -> np.ndarray:
        z = mean + np.sqrt(variance) * noise[:, None]
        log_q = norm.logpdf(z, mean, np.sqrt(variance)).sum(-1)
        return model.log_joint(x, z) - log_q

    return log_weight, mean, variance


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize(("shift", "spread"), [(0.0, 2.0), (0.8, 1.5), (0.3, 0.8)])
def test_the_expected_bound_lies_where_theory_says(latent: int, shift: float, spread: float) -> None:
    """K = 1: the ELBO; growing with K; for large K at log p(x) minus half the relative variance of a weight over K."""
    model = drawn(latent)
    x = model.sample(2)[0]
    log_weight, mean, variance = weights_of(model, x, shift, spread)
    bounds = [rulers.expected_bound(log_weight, latent, k) for k in (1, 2, 5, 50, 2000)]
    np.testing.assert_allclose(bounds[0], model.elbo(x, mean, variance), atol=1e-9)
    assert (np.diff(bounds, axis=0) > 0).all()
    assert (bounds[-1] < model.log_prob(x)).all()
    relative = np.exp(rulers.expected_bound(lambda e: 0 * log_weight(e), latent, 3))  # log of mean of ones: nothing
    np.testing.assert_allclose(relative, 1.0, atol=1e-12)
    if spread > 1:  # else the weights' fourth moment is large, and the expansion slow
        noise = np.random.default_rng(0).standard_normal((400_000, latent))
        w = np.exp(log_weight(noise) - model.log_prob(x))
        np.testing.assert_allclose(model.log_prob(x) - bounds[-1], w.var(0) / 4000, rtol=0.03)


def test_the_expected_bound_is_the_mean_over_many_draws() -> None:
    model = drawn(2)
    x = model.sample(1)[0]
    log_weight, _, _ = weights_of(model, x, 0.5, 1.7)
    noise = np.random.default_rng(0).standard_normal((300_000 * 3, 2))
    values = rulers.log_sum_exp(log_weight(noise).reshape(-1, 3), 1) - math.log(3)
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - rulers.expected_bound(log_weight, 2, 3)[0]) < 4 * error


def test_the_expected_bound_of_two_weights_by_two_integrals() -> None:
    """E log((w1 + w2) / 2) by a grid over both, for log w = sin e: no Frullani."""
    axis = np.linspace(-9, 9, 361)
    mass = norm.pdf(axis) * 0.05
    w = np.exp(np.sin(axis))
    truth = mass @ np.log((w[:, None] + w) / 2) @ mass
    assert rulers.expected_bound(np.sin, 1, 2)[0] == pytest.approx(truth, abs=1e-12)


# ------------------------------------------------------------------------------------------- reading one of our models


def small_vae(noise: str = "fixed", shape: tuple[int, ...] = (6,), net: nn.Module | None = None) -> vaelab.VAE:
    torch.manual_seed(0)
    likelihood = Gaussian(noise, sigma=0.7)
    net = net or nn.Linear(2, likelihood.channels * math.prod(shape))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 4))
    return vaelab.VAE(encoder, Decoder(net, likelihood, shape), latent=2)


@pytest.mark.parametrize("noise", ["fixed", "shared", "optimal"])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_a_linear_decoder_is_read_exactly(noise: str, shape: tuple[int, ...]) -> None:
    model = small_vae(noise, shape)
    if noise == "optimal":
        model.train().draw(torch.randn(50, *shape))  # its running average, from one batch
    ruler = linear_gaussian_of(model)
    np.testing.assert_allclose(ruler.weight, model.decoder.net.weight.detach().double(), atol=1e-12)
    np.testing.assert_allclose(ruler.offset, model.decoder.net.bias.detach().double(), atol=1e-12)
    x, z = torch.randn(3, *shape), torch.randn(5, 3, 2)
    with torch.no_grad():
        log_px = model.eval().decode(z).log_prob(x).double()
    log_pz = norm.logpdf(z.numpy()).sum(-1)
    np.testing.assert_allclose(ruler.log_joint(x.numpy(), z.double().numpy()) - log_pz, log_px, rtol=1e-5)
    if noise == "fixed":
        np.testing.assert_allclose(ruler.variance, 0.49, rtol=1e-6)


def test_reading_leaves_the_model_as_it_was() -> None:
    model = small_vae("optimal").train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    linear_gaussian_of(model)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(before[k], v) and before[k].dtype == v.dtype for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


class Bent(nn.Linear):
    """Linear but for a part in a million of the square."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return super().forward(z) + 1e-6 * super().forward(z).square()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "tanh": (lambda: small_vae(net=nn.Sequential(nn.Linear(2, 6), nn.Tanh())), "must be linear"),
    "relu": (lambda: small_vae(net=nn.Sequential(nn.Linear(2, 6), nn.ReLU())), "must be linear"),
    "bent": (lambda: small_vae(net=Bent(2, 6)), "must be linear"),
    "pixel": (lambda: small_vae("pixel"), "its noise constant"),
    "bernoulli": (
        lambda: vaelab.VAE(nn.Linear(6, 4), nn.Linear(2, 6), likelihood="bernoulli", latent=2),
        "must have a Gaussian likelihood",
    ),
}


@pytest.mark.parametrize(("build", "rule"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_linear_gaussian_is_refused(build: Callable[[], Any], rule: str) -> None:
    with pytest.raises(BadInput, match=rule):
        linear_gaussian_of(build())


def test_another_prior_is_refused() -> None:
    class Wide(nn.Module):
        latent = 2

        def forward(self) -> torch.distributions.Distribution:
            return torch.distributions.Normal(torch.zeros(2), 2 * torch.ones(2))

    model = small_vae()
    model.prior = Wide()
    with pytest.raises(BadInput, match="must be the standard normal"):
        linear_gaussian_of(model)


def test_a_model_in_training_is_read_as_in_evaluation() -> None:
    net = nn.Sequential(nn.Linear(2, 6), nn.Dropout(0.5))
    weight = linear_gaussian_of(small_vae(net=net).train()).weight
    np.testing.assert_allclose(weight, net[0].weight.detach().double(), atol=1e-12)


@pytest.mark.parametrize("latent", [1, 3])
def test_a_linear_vae_is_the_model_it_was_made_from(latent: int) -> None:
    ruler = drawn(latent, shared=True)
    model = linear_vae(ruler, shift=0.5, spread=1.7)
    again = linear_gaussian_of(model)
    for part in ("weight", "offset", "variance"):
        np.testing.assert_allclose(getattr(again, part), getattr(ruler, part), rtol=1e-12, atol=1e-14)
    x = ruler.sample(4)[0]
    with torch.no_grad():
        q = model.encode(torch.from_numpy(x))
    mean, covariance = ruler.posterior(x)
    np.testing.assert_allclose(q.mean, mean + 0.5 * np.sqrt(np.diag(covariance)), atol=1e-12)
    np.testing.assert_allclose(q.variance, np.tile(1.7 * np.diag(covariance), (4, 1)), rtol=1e-12)
    gap = ruler.log_prob(x) - ruler.elbo(x, q.mean.numpy(), q.variance.numpy())
    assert np.ptp(gap) < 1e-12 < gap[0]


def test_noise_that_differs_between_entries_is_refused() -> None:
    with pytest.raises(BadInput, match="must be the same for all entries"):
        linear_vae(drawn(2))
