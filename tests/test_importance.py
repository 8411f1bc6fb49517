"""The importance-weighted bound against closed forms, exact expectations, brute force and other libraries."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import genpareto, norm, t
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch import distributions as td

import vaelab
from vaelab import rulers
from vaelab.core.errors import BadInput
from vaelab.distributions.likelihoods import Decoder, Gaussian
from vaelab.measure.exact import linear_gaussian_of, linear_vae
from vaelab.measure.importance import Bound, importance_bound, log_mean_exp
from vaelab.measure.pareto import pareto_k

DATA: dict[str, Callable[[], Any]] = {"digits": load_digits, "wine": load_wine, "breast cancer": load_breast_cancer}
SHIFT, SPREAD = 0.5, 1.6  # how the encoders here miss the posterior: the bound is loose by 0.38 nats in two dimensions
FIELDS = ("values", "elbo", "half", "ess", "k_hat", "variance")


def principal(rows: np.ndarray, latent: int) -> rulers.LinearGaussian:
    """Probabilistic PCA by scikit-learn: the closed form that a linear VAE's training ends at."""
    pca = PCA(latent).fit(rows)
    weight = pca.components_.T * np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    return rulers.LinearGaussian(weight, pca.mean_, pca.noise_variance_)


def drawn(latent: int = 2, entries: int = 5, seed: int = 0) -> rulers.LinearGaussian:
    """A model with orthogonal directions, so that its posterior is diagonal."""
    draw = np.random.default_rng(seed)
    weight = np.linalg.qr(draw.normal(size=(entries, latent)))[0] * draw.uniform(0.5, 2, latent)
    return rulers.LinearGaussian(weight, draw.normal(size=entries), np.array(0.6))


def expected_gap(latent: int, samples: int, shift: float = SHIFT, spread: float = SPREAD) -> float:
    """log p(x) less the bound's mean, where q misses a diagonal posterior: in units of it, the same for every x."""

    def log_weight(noise: np.ndarray) -> np.ndarray:
        z = math.sqrt(spread) * (noise + shift / math.sqrt(spread))
        return (norm.logpdf(z) - norm.logpdf(noise) + 0.5 * math.log(spread)).sum(1, keepdims=True)

    return float(-rulers.expected_bound(log_weight, latent, samples)[0])


def rows_of(name: str) -> np.ndarray:
    rows = DATA[name]().data
    return rows / 16 if name == "digits" else (rows - rows.mean(0)) / rows.std(0)


# ------------------------------------------------------------------------------- the value, against exact expectations


@pytest.mark.parametrize("name", DATA)
def test_on_real_rows_the_bound_grows_to_the_closed_form(name: str) -> None:
    """For every K the mean over rows is at its exact expectation, and for K large within 0.01 nats of log p(x)."""
    rows = rows_of(name)
    ruler = principal(rows, 2)
    x, truth = torch.from_numpy(rows), ruler.log_prob(rows)
    np.testing.assert_allclose(truth, PCA(2).fit(rows).score_samples(rows), rtol=1e-8)
    model = linear_vae(ruler, SHIFT, SPREAD)
    for samples in (1, 3, 10, 100):
        below = truth - importance_bound(model, x, samples, seed=samples).values
        error = below.std(ddof=1) / math.sqrt(len(below))
        assert abs(below.mean() - expected_gap(2, samples)) < 4 * error, samples
    bound = importance_bound(model, x[:200], 5000)
    assert abs(bound.mean - truth[:200].mean()) < 0.01
    assert bound.mean < truth[:200].mean() + 3 * bound.sampling_error


@pytest.mark.parametrize("name", DATA)
def test_with_more_latents_it_is_from_below_and_within_a_hundredth(name: str) -> None:
    rows = rows_of(name)[:150]
    ruler = principal(rows_of(name), 6)
    model, x, truth = linear_vae(ruler, 0.4, 1.5), torch.from_numpy(rows), ruler.log_prob(rows)
    bounds = [importance_bound(model, x, samples) for samples in (1, 10, 3000)]
    assert (np.diff([bound.mean for bound in bounds]) > 0).all()
    for bound in bounds:
        below = truth - bound.values
        assert below.mean() > -3 * below.std(ddof=1) / math.sqrt(len(below))
    assert abs(truth.mean() - bounds[-1].mean) < 0.01
    single = importance_bound(model.float(), x.float(), 3000)
    assert single.values.dtype == np.float64
    np.testing.assert_allclose(single.values, bounds[-1].values, atol=2e-4)


def test_the_exact_posterior_needs_one_sample() -> None:
    """Every weight is p(x): whatever is added to or left out of one shows at once."""
    ruler = drawn()
    x = ruler.sample(20)[0]
    for samples in (1, 7, 30):
        bound = importance_bound(linear_vae(ruler), torch.from_numpy(x), samples)
        np.testing.assert_allclose(bound.values, ruler.log_prob(x), atol=1e-10)
        np.testing.assert_allclose(bound.ess, samples, rtol=1e-10)
    np.testing.assert_allclose(bound.half, ruler.log_prob(x), atol=1e-10)
    assert bound.sampling_error < 1e-10


def test_the_elbo_is_the_closed_form() -> None:
    ruler = drawn()
    x = torch.from_numpy(ruler.sample(4000)[0])
    model = linear_vae(ruler, SHIFT, SPREAD)
    with torch.no_grad():
        q = model.encode(x)
    truth = ruler.elbo(x.numpy(), q.mean.numpy(), q.variance.numpy())
    for samples in (1, 10):
        difference = importance_bound(model, x, samples).elbo - truth
        assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(x))
        # One sample's spread is that of log p(x|z) alone: the divergence is in closed form.
        log_px = model.decode(q.rsample(1)).log_prob(x)[0].detach().numpy()
        spread = (log_px - log_px.mean() - truth + truth.mean()).var()
        assert difference.var() < 1.2 * spread / samples


def test_half_the_samples_and_the_gain_are_at_their_expectation() -> None:
    ruler = drawn()
    x = torch.from_numpy(ruler.sample(3000)[0])
    bound = importance_bound(linear_vae(ruler, SHIFT, SPREAD), x, 20)
    below = ruler.log_prob(x.numpy()) - bound.half
    assert abs(below.mean() - expected_gap(2, 10)) < 4 * below.std() / math.sqrt(len(x))
    gain = expected_gap(2, 10) - expected_gap(2, 20)
    assert abs(bound.gain.value - gain) < 2 * bound.gain.interval < gain
    odd = importance_bound(linear_vae(ruler, SHIFT, SPREAD), x, 21)
    assert abs((ruler.log_prob(x.numpy()) - odd.half).mean() - expected_gap(2, 10)) < 0.02


# ------------------------------------------------------------------------------------------------------------- errors


def covered(estimate: np.ndarray, error: np.ndarray, truth: float | np.ndarray) -> float:
    return float((np.abs(estimate - truth) < 1.959964 * error).mean())


def test_intervals_for_these_rows_cover_in_93_to_97_of_100_seeds() -> None:
    ruler = drawn()
    x = ruler.sample(5)[0]
    model, truth = linear_vae(ruler, SHIFT, SPREAD), ruler.log_prob(x).mean()
    bounds = [importance_bound(model, torch.from_numpy(x), 400, seed=seed) for seed in range(100)]
    share = covered(np.array([b.mean for b in bounds]), np.array([b.sampling_error for b in bounds]), truth)
    assert 0.93 <= share <= 0.97


def test_intervals_for_these_rows_cover_at_their_rate_in_two_thousand_repeats() -> None:
    """The same rows 2000 times, each time with other noise: an error 15 % off would show."""
    ruler, times = drawn(), 2000
    x = ruler.sample(5)[0]
    found = importance_bound(linear_vae(ruler, SHIFT, SPREAD), torch.from_numpy(np.tile(x, (times, 1))), 300)
    means = found.values.reshape(times, 5).mean(1)
    errors = np.sqrt(found.variance.reshape(times, 5).sum(1)) / 5
    assert 0.935 < covered(means, errors, ruler.log_prob(x).mean()) < 0.965
    assert errors.mean() == pytest.approx(means.std(), rel=0.06)


def test_intervals_over_rows_cover_in_93_to_97_of_100_seeds() -> None:
    """Rows drawn from the model, whose mean log p(x) is minus its entropy."""
    ruler, times, count = drawn(), 100, 100
    model = linear_vae(ruler, SHIFT, SPREAD)
    x = torch.from_numpy(ruler.sample(times * count)[0]).reshape(times, count, -1)
    bounds = [importance_bound(model, rows, 30, seed=seed) for seed, rows in enumerate(x)]
    means, errors = np.array([b.mean for b in bounds]), np.array([b.standard_error for b in bounds])
    assert 0.93 <= covered(means, errors, ruler.expected) <= 0.97
    assert errors.mean() == pytest.approx(math.sqrt(5 / 2 / count), rel=0.05)  # log p(x) has variance D / 2
    for bound in bounds[:3]:
        assert bound.estimate.interval == pytest.approx(t.ppf(0.975, count - 1) * bound.standard_error, rel=1e-5)


def test_bias_is_as_stated() -> None:
    """log p(x) - E[bound] = (K / ESS - 1) / 2K for K large, with the ESS that the bound itself reports."""
    ruler, samples = drawn(), 200
    bound = importance_bound(linear_vae(ruler, SHIFT, SPREAD), torch.from_numpy(ruler.sample(500)[0]), samples)
    stated = (samples / bound.ess - 1).mean() / (2 * samples)
    assert stated == pytest.approx(expected_gap(2, samples), rel=0.05)


# -------------------------------------------------------------------------------------------- chunks, threads and rows


def laplace_vae(entries: int = 6, latent: int = 2) -> vaelab.VAE:
    class Posterior(nn.Linear):
        def forward(self, x: Tensor) -> td.Distribution:
            mean, log_scale = super().forward(x).chunk(2, -1)
            return td.Laplace(mean, log_scale.exp())

    torch.manual_seed(0)
    likelihood = Decoder(nn.Linear(latent, entries), Gaussian("fixed", 0.8))
    return vaelab.VAE(Posterior(entries, 2 * latent), likelihood, latent=latent).double()


def full_vae(entries: int = 6, latent: int = 2) -> vaelab.VAE:
    """A linear model with a correlated posterior, which its encoder has exactly."""
    torch.manual_seed(1)
    model = vaelab.VAE(nn.Identity(), Decoder(nn.Linear(latent, entries), Gaussian("fixed", 0.8)), latent=latent)
    ruler = linear_gaussian_of(model)

    class Posterior(nn.Module):
        def forward(self, x: Tensor) -> td.Distribution:
            mean, covariance = (torch.from_numpy(part) for part in ruler.posterior(x.numpy()))
            return td.MultivariateNormal(mean, covariance)

    model.encoder = Posterior()
    return model.double()


def bernoulli_vae(entries: int = 6, latent: int = 2) -> vaelab.VAE:
    torch.manual_seed(2)
    decoder = nn.Sequential(nn.Linear(latent, 9), nn.Tanh(), nn.Linear(9, entries))
    return vaelab.VAE(nn.Linear(entries, 2 * latent), decoder, likelihood="bernoulli", latent=latent).double()


MODELS: dict[str, Callable[[], vaelab.VAE]] = {
    "linear": lambda: linear_vae(drawn(entries=6), SHIFT, SPREAD), "bernoulli": bernoulli_vae, "laplace": laplace_vae,
    "full": full_vae,
}  # fmt: skip


def some_rows(count: int = 9) -> Tensor:
    return (torch.rand(count, 6, generator=torch.Generator().manual_seed(0)) > 0.5).double()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("samples", [1, 100, 101])
def test_chunks_do_not_change_the_number(name: str, samples: int) -> None:
    model, x = MODELS[name](), some_rows()
    whole = importance_bound(model, x, samples)
    for chunk in (1, 30, 99, 100, 1000):
        parts = importance_bound(model, x, samples, chunk=chunk)
        for field in FIELDS:
            np.testing.assert_allclose(getattr(parts, field), getattr(whole, field), atol=1e-6, rtol=0, err_msg=field)


def test_every_sample_of_a_chunked_bound_is_decoded_once() -> None:
    decoded: list[int] = []
    model = linear_vae(drawn(), SHIFT, SPREAD)
    model.decoder.net.register_forward_hook(lambda module, given, output: decoded.append(len(given[0])))
    encoded: list[int] = []
    model.encoder.register_forward_hook(lambda module, given, output: encoded.append(len(given[0])))
    importance_bound(model, torch.from_numpy(drawn().sample(3)[0]), 100, chunk=30)
    assert decoded == [90, 90, 90, 30]
    assert encoded == [3]


@pytest.mark.parametrize("name", MODELS)
def test_threads_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelab.measure.importance.CHUNK_VALUES", 40)  # many small groups
    model, x = MODELS[name](), some_rows(80)
    one = importance_bound(model, x, 20, threads=1)
    for _ in range(3):
        many = importance_bound(model, x, 20, threads=4)
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(many, field), getattr(one, field))


@pytest.mark.parametrize("name", MODELS)
def test_the_other_rows_do_not_change_a_row(name: str) -> None:
    model, x = MODELS[name](), some_rows()
    whole = importance_bound(model, x, 50)
    for others in (x[:4], torch.cat([x[:4], 1 - x[4:]]), x[:1]):
        part = importance_bound(model, others, 50)
        count = min(len(others), 4)
        for field in FIELDS:
            ours, theirs = getattr(part, field)[:count], getattr(whole, field)[:count]
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12, err_msg=field)
    assert np.ptp(importance_bound(model, x[:1].expand(5, -1), 50).elbo) > 0, "each row has noise of its own"


@pytest.mark.parametrize("name", MODELS)
def test_rows_done_at_once_do_not_change_a_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = MODELS[name](), some_rows()
    whole = importance_bound(model, x, 20)
    monkeypatch.setattr("vaelab.measure.importance.CHUNK_VALUES", 40)
    for field in FIELDS:
        np.testing.assert_allclose(
            getattr(importance_bound(model, x, 20), field), getattr(whole, field), rtol=1e-9, atol=1e-12, err_msg=field
        )


def test_the_seed_is_what_the_noise_depends_on() -> None:
    model, x = bernoulli_vae(), some_rows()
    first = importance_bound(model, x, 10, seed=1).values
    torch.manual_seed(77)
    np.testing.assert_array_equal(importance_bound(model, x, 10, seed=1).values, first)
    assert (importance_bound(model, x, 10, seed=2).values != first).all()


# -------------------------------------------------------------------------------------------------------- brute force


def recorded(model: vaelab.VAE, x: Tensor, samples: int, seed: int) -> tuple[Bound, np.ndarray, np.ndarray]:
    """The bound, the codes it decoded [K, B, L], and log weights of these by scipy and torch alone [K, B]."""
    codes: list[Tensor] = []
    hook = model.decoder.register_forward_hook(lambda module, given, output: codes.append(given[0].clone()))
    bound = importance_bound(model, x, samples, seed=seed)
    hook.remove()
    z = torch.cat(codes)
    with torch.no_grad():
        q = model.encode(x).as_torch()
        logits = model.decoder.net(z)
    log_px = td.Bernoulli(logits=logits).log_prob(x).sum(-1).numpy()
    return bound, z.numpy(), log_px + norm.logpdf(z.numpy()).sum(-1) - q.log_prob(z).numpy()


@pytest.mark.parametrize("samples", [60, 61])
def test_every_number_follows_from_the_weights(samples: int) -> None:
    bound, _, log_w = recorded(bernoulli_vae(), some_rows(), samples, 3)
    w = np.exp(log_w)
    np.testing.assert_allclose(bound.values, logsumexp(log_w, 0) - math.log(samples), rtol=1e-12)
    np.testing.assert_allclose(bound.ess, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-10)
    halves = [logsumexp(part, 0) - math.log(30) for part in (log_w[:30], log_w[30:60])]
    np.testing.assert_allclose(bound.half, np.mean(halves, 0), rtol=1e-12)
    np.testing.assert_allclose(bound.variance, w.var(0, ddof=1) / samples / w.mean(0) ** 2, rtol=1e-10)
    assert bound.gain.value == pytest.approx((bound.values - bound.half).mean())
    assert bound.sampling_error == pytest.approx(math.sqrt(bound.variance.sum()) / 9)
    assert bound.standard_error == pytest.approx(np.std(bound.values, ddof=1) / 3)
    assert bound.bits_per_dimension == pytest.approx(-bound.mean / 6 / math.log(2))
    assert repr(bound) == (
        f"Bound({bound.mean:.4f} ± {bound.standard_error:.4f} (standard error) nats per sample, 9 rows, K = {samples})"
    )


def test_the_elbo_is_reconstruction_less_the_divergence_of_torch() -> None:
    model, x = bernoulli_vae(), some_rows()
    bound, z, _ = recorded(model, x, 60, 3)
    with torch.no_grad():
        q = model.encode(x).as_torch()
        log_px = td.Bernoulli(logits=model.decoder.net(torch.from_numpy(z))).log_prob(x).sum(-1)
    kl = td.kl_divergence(q, td.Independent(td.Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean)), 1))
    np.testing.assert_allclose(bound.elbo, log_px.mean(0) - kl, rtol=1e-12)


def test_the_noise_is_standard_normal_and_differs_between_rows() -> None:
    model = bernoulli_vae()
    _, z, _ = recorded(model, some_rows(), 4000, 0)
    with torch.no_grad():
        q = model.encode(some_rows())
    noise = (z - q.mean.numpy()) / q.std.numpy()
    flat = noise.reshape(len(noise), -1)
    np.testing.assert_allclose(np.corrcoef(flat.T), np.eye(18), atol=0.08)
    np.testing.assert_allclose(flat.mean(0), 0, atol=0.08)
    np.testing.assert_allclose(flat.var(0), 1, atol=0.1)


def test_two_latents_against_quadrature() -> None:
    model, x = bernoulli_vae(), some_rows(30)

    def log_joint(z: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits = model.decoder.net(torch.from_numpy(z))[:, None]
        return td.Bernoulli(logits=logits).log_prob(x).sum(-1).numpy() + norm.logpdf(z).sum(1)[:, None]

    truth = rulers.by_quadrature(log_joint, 2)
    assert truth.error.max() < 1e-8
    bound = importance_bound(model, x, 5000)
    assert abs(bound.mean - truth.values.mean()) < 0.01
    assert (np.abs(bound.values - truth.values) < 5 * np.sqrt(bound.variance)).all()


# ---------------------------------------------------------------------------------------------------- Pareto's k-hat


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.5, 0.7, 1.0, 1.5])
@pytest.mark.parametrize("samples", [1000, 20_000])
def test_known_tails_are_found(k: float, samples: int) -> None:
    """Excesses of a generalised Pareto variable have its own k; the estimate is drawn a little towards 0.5."""
    draws = genpareto.rvs(k, size=(samples, 200), random_state=np.random.default_rng(0)) + 1e-12
    found = pareto_k(np.log(draws))
    size = min(samples // 5, math.ceil(3 * math.sqrt(samples)))
    towards = (k * size + 5) / (size + 10)
    error = found.std() / math.sqrt(200)
    assert abs(found.mean() - towards) < 4 * error + 0.03
    assert found.std() < 1.6 * (1 + max(k, 0)) / math.sqrt(size)


def fitted_plainly(log_weights: np.ndarray) -> float:
    """Zhang and Stephens' estimate, and the prior of Vehtari et al., one number at a time."""
    count = len(log_weights)
    size = min(count // 5, math.ceil(3 * math.sqrt(count)))
    ordered = sorted(math.exp(v - max(log_weights)) for v in log_weights)
    excess = [value - ordered[-size - 1] for value in ordered[-size:]]
    quarter, most = excess[math.floor(size / 4 + 0.5) - 1], 30 + math.isqrt(size)
    thetas = [1 / excess[-1] + (1 - math.sqrt(most / (j - 0.5))) / (3 * quarter) for j in range(1, most + 1)]

    def shape(theta: float) -> float:
        return sum(math.log1p(-theta * e) for e in excess) / size

    likelihoods = [size * (math.log(-t / shape(t)) - shape(t) - 1) for t in thetas]
    weights = [1 / sum(math.exp(other - own) for other in likelihoods) for own in likelihoods]
    k = shape(sum(t * w for t, w in zip(thetas, weights, strict=True)))
    return (size * k + 5) / (size + 10)


@pytest.mark.parametrize("samples", [25, 26, 100, 1003])
def test_k_hat_is_the_published_formula(samples: int) -> None:
    log_w = np.random.default_rng(samples).normal(-80, 2, (samples, 4))
    np.testing.assert_allclose(pareto_k(log_w), [fitted_plainly(list(column)) for column in log_w.T], rtol=1e-9)
    np.testing.assert_allclose(pareto_k(log_w + 700), pareto_k(log_w), rtol=1e-9)


def test_k_hat_where_there_is_no_tail() -> None:
    assert np.isnan(pareto_k(np.zeros((24, 2)))).all()
    assert (pareto_k(np.zeros((500, 2))) == -np.inf).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_w = np.random.default_rng(0).normal(0, 1, (500, 2))
        log_w[:450] = -np.inf  # most weights nothing
        assert np.isfinite(pareto_k(log_w)).all()


def test_the_bound_reports_the_tail_of_its_weights() -> None:
    """q with a fifth of the posterior's variance: w ~ exp(2 e²), a tail with k = 1 - 1/5; with 1.6 of it, bounded."""
    ruler = drawn(latent=1)
    x = torch.from_numpy(ruler.sample(100)[0])
    narrow = importance_bound(linear_vae(ruler, 0.0, 0.2), x, 20_000)
    assert narrow.k_hat.mean() == pytest.approx(0.8, abs=0.12)  # a slow limit: the tail's own logarithm bends it
    assert importance_bound(linear_vae(ruler, 0.0, SPREAD), x, 1000).k_hat.max() < 0.3


# -------------------------------------------------------------------------------------- a stranger's functions, priors


def functions_of(model: vaelab.VAE) -> dict[str, Callable[..., Any]]:
    """What a stranger would write for the Bernoulli model: rows and codes side by side, [N, ...] and [N, L]."""

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = model.encoder(x).chunk(2, 1)
        return mean, log_variance

    def log_px(x: Tensor, z: Tensor) -> Tensor:
        return td.Bernoulli(logits=model.decoder.net(z)).log_prob(x).sum(1)

    def log_pz(z: Tensor) -> Tensor:
        return td.Normal(0.0, 1.0).log_prob(z).sum(1)

    return {"encode": encode, "log_px": log_px, "log_pz": log_pz}


@pytest.mark.parametrize("left_out", [(), ("log_pz",)])
@pytest.mark.parametrize("kind", ["mapping", "object", "module"])
def test_a_strangers_functions_are_our_own_model(left_out: tuple[str, ...], kind: str) -> None:
    model, x = bernoulli_vae(), some_rows()
    functions = {name: part for name, part in functions_of(model).items() if name not in left_out}
    given: Any = functions
    if kind != "mapping":
        base = nn.Module if kind == "module" else object
        given = type("Theirs", (base,), {name: staticmethod(part) for name, part in functions.items()})()
    ours, theirs = importance_bound(model, x, 40, chunk=7), importance_bound(given, x, 40, chunk=9)
    for field in FIELDS:
        if field == "elbo" and not left_out:  # of a density alone no divergence is known: by the samples
            assert abs(theirs.elbo - ours.elbo).max() < 1
            continue
        np.testing.assert_allclose(getattr(theirs, field), getattr(ours, field), rtol=1e-9, err_msg=field)


def test_a_full_covariance_that_is_the_posterior_is_exact() -> None:
    model, x = full_vae(), some_rows()
    ruler = linear_gaussian_of(model)
    bound = importance_bound(model, x, 5)
    np.testing.assert_allclose(bound.values, ruler.log_prob(x.numpy()), atol=1e-9)
    difference = importance_bound(model, x, 4000).elbo - ruler.log_prob(x.numpy())
    assert np.abs(difference).max() < 0.1  # E_q log p(x|z) by samples, the divergence in closed form


@pytest.mark.parametrize("spread", [1.0, 1.5])
def test_a_laplace_posterior_under_a_prior_of_its_own_reaches_the_truth(spread: float) -> None:
    """p(z) = N(0, spread²): the same as a standard prior with weights `spread` times as large."""

    class Prior(nn.Module):
        latent = 2

        def forward(self) -> td.Distribution:
            return td.Normal(torch.zeros(2).double(), spread * torch.ones(2).double())

    model, x = laplace_vae(), some_rows(40)
    ruler = linear_gaussian_of(model)
    model.prior = Prior()
    with torch.no_grad():  # a proposal that covers every row's posterior: the weights then have light tails
        model.encoder.weight.zero_()
        model.encoder.bias.copy_(torch.tensor([0.0, 0.0, 0.5, 0.5]))
    wide = rulers.LinearGaussian(ruler.weight * spread, ruler.offset, ruler.variance)
    bound, truth = importance_bound(model, x, 10_000), wide.log_prob(x.numpy())
    assert abs(bound.mean - truth.mean()) < 0.01 + 3 * bound.sampling_error
    assert (np.abs(bound.values - truth) < 5 * np.sqrt(bound.variance) + 0.01).all()


@pytest.mark.parametrize("kind", ["bits", "one of five"])
def test_a_discrete_latent_against_summation(kind: str) -> None:
    """A stranger's discrete posterior; log p(x) by summing over all codes."""
    draw = np.random.default_rng(0)
    size = 4 if kind == "bits" else 5
    weight, logits = torch.from_numpy(1.5 * draw.normal(size=(size, 6))), torch.from_numpy(draw.normal(size=size))
    prior = td.Independent(td.Bernoulli(logits=logits), 1) if kind == "bits" else td.OneHotCategorical(logits=logits)

    def encode(x: Tensor) -> td.Distribution:
        tilted = 0.3 * x @ weight.T
        return td.Bernoulli(logits=tilted) if kind == "bits" else td.OneHotCategorical(logits=tilted)

    def log_px(x: Tensor, z: Tensor) -> Tensor:
        return td.Bernoulli(logits=z @ weight).log_prob(x).sum(1)

    codes = rulers.all_codes([2] * 4) if kind == "bits" else np.eye(5)
    x = some_rows()

    def log_joint(z: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(z).double()
        each = [log_px(row.expand(len(z), -1), z) + prior.log_prob(z) for row in x]
        return torch.stack(each, 1).numpy()

    truth = rulers.by_summation(log_joint, codes)
    bound = importance_bound({"encode": encode, "log_px": log_px, "log_pz": prior.log_prob}, x, 20_000, chunk=999)
    assert (np.abs(bound.values - truth) < 4 * np.sqrt(bound.variance) + 1e-3).all()
    assert abs(bound.mean - truth.mean()) < min(3 * bound.sampling_error, 0.03)


def test_whole_numbers_and_single_rows() -> None:
    model = vaelab.VAE(nn.Linear(6, 4), nn.Linear(2, 6), likelihood="poisson", latent=2)
    counts = torch.randint(0, 5, (3, 6))
    np.testing.assert_array_equal(
        importance_bound(model, counts, 30).values, importance_bound(model, counts.float(), 30).values
    )
    single = importance_bound(model, counts[:1], 1)
    assert single.standard_error == math.inf
    assert np.isnan([single.half[0], single.variance[0], single.k_hat[0]]).all()
    assert single.ess[0] == 1


def test_weights_of_any_size_do_not_overflow() -> None:
    """Rows of 3000 entries far from the model: log p(x) near -10^8 in single precision, and still a number."""
    model = vaelab.VAE(nn.Linear(3000, 4), nn.Linear(2, 3000), likelihood="gaussian", latent=2)
    nn.init.zeros_(model.encoder.weight)
    bound = importance_bound(model, 300 * torch.ones(2, 3000), 50)
    assert np.isfinite(bound.values).all()
    assert (bound.values < -1e7).all()
    assert log_mean_exp(np.array([[-1e8, 1e8], [-1e8, -1e8]])).tolist() == [-1e8, 1e8 - math.log(2)]


def test_a_shift_of_scale_moves_the_nats_and_nothing_else() -> None:
    bound = importance_bound(bernoulli_vae(), some_rows(), 30)
    moved = bound.shifted(2.5)
    for field, by in zip(FIELDS, (2.5, 2.5, 2.5, 0, 0, 0), strict=True):
        np.testing.assert_allclose(getattr(moved, field), getattr(bound, field) + by)
    assert moved.gain.value == pytest.approx(bound.gain.value)


# ------------------------------------------------------------------------------------------ what is left as it was


class Restless(nn.Module):
    """Dropout and batch norm, which would tell of a mode of training."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


def test_modes_random_state_buffers_and_gradients_are_left_alone() -> None:
    model = vaelab.VAE(Restless(), nn.Linear(2, 6), likelihood="bernoulli", latent=2).double()
    model.decoder.eval()
    modes = [part.training for part in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    np.random.seed(5)
    state, numpy_state, threads = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()
    first = importance_bound(model, some_rows(), 10, threads=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(importance_bound(model.eval(), some_rows(), 10, threads=2).values, first.values)


@pytest.mark.parametrize("name", MODELS)
def test_no_posterior_moves_the_random_state(name: str) -> None:
    """A distribution of torch draws from the global generator: seeded for a moment, and put back."""
    model = MODELS[name]()
    state = torch.get_rng_state()
    importance_bound(model, some_rows(), 10)
    assert torch.equal(torch.get_rng_state(), state)


def test_modes_are_put_back_after_an_error() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("broken")

    model = bernoulli_vae().train()
    model.encoder.forward = broken
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        importance_bound(model, some_rows(), 3)
    assert all(part.training for part in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


# -------------------------------------------------------------------------------------------------------- wrong input


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no samples": ({"samples": 0}, "samples: got 0; must be a whole number of at least 1"),
    "half a sample": ({"samples": 2.5}, "samples: got 2.5"),
    "a truth value": ({"samples": True}, "samples: got True"),
    "no chunk": ({"chunk": 0}, "chunk: got 0"),
    "one row without its axis": ({"x": torch.ones(6)}, r"x: got shape \(6,\); must be rows, \[n, ...\]"),
    "no rows": ({"x": torch.ones(0, 6)}, r"x: got shape \(0, 6\)"),
}


@pytest.mark.parametrize(("change", "text"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        importance_bound(bernoulli_vae(), **({"x": some_rows(), "samples": 3} | change))


def test_functions_that_do_not_fit_are_named() -> None:
    functions, x = functions_of(bernoulli_vae()), some_rows()
    for given, text in (
        ({"encode": functions["encode"]}, "add log_px"),
        (functions | {"log_qz": None}, "did you mean log_pz"),
        (functions | {"log_px": lambda x, z: torch.zeros(3)}, r"log_px: got shape \(3,\); must give one number"),
        (functions | {"log_pz": lambda z: z}, "log_pz: got shape"),
        (object(), "add encode"),
    ):
        with pytest.raises(BadInput, match=text):
            importance_bound(given, x, 3)
