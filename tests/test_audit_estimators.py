"""The audit of likelihood estimators and K-sample objectives: right ones pass in many writings, mutations are named."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit
from scipy.stats import multivariate_normal
from torch import Tensor

from vaelab.auditing.estimators.estimator import audit_likelihood, promised
from vaelab.auditing.estimators.exact import (
    FAMILIES,
    LinearBernoulli,
    LinearBernoulliLogits,
    LinearGaussian,
    array,
    log_mean_exp,
)
from vaelab.auditing.estimators.importance import audit_importance, is_importance
from vaelab.auditing.report import AuditReport
from vaelab.core.errors import BadInput

LOG_2PI = math.log(2 * math.pi)
Fn = Callable[..., Any]


def codes(report: AuditReport, *severities: str) -> list[str]:
    return [item.code for item in report.findings if item.severity in (severities or ("warning", "error"))]


# ---------------------------------------------------------------------------------------------------- the known models
@pytest.mark.parametrize("pixels", [3, 6, 20])
def test_log_likelihood_of_the_gaussian_is_that_of_scipy(pixels: int) -> None:
    model = LinearGaussian(pixels, seed=3)
    x = np.concatenate([model.sample(5, 1), model.sample(5, 2, stretch=2.5), model.sample(5, 3, noise=-2.0)])
    weight = array(model.weight)
    truth = multivariate_normal(array(model.offset), weight @ weight.T + np.eye(pixels)).logpdf(x)
    np.testing.assert_allclose(model.exact(x), truth, rtol=1e-12)
    np.testing.assert_allclose(model.log_likelihood(x), truth, rtol=1e-9)


@pytest.mark.parametrize("kind", [LinearBernoulli, LinearBernoulliLogits])
def test_likelihood_of_the_bernoulli_sums_to_one_over_all_rows(kind: type[LinearBernoulli]) -> None:
    rows = np.array(list(itertools.product((0.0, 1.0), repeat=4)))
    assert np.exp(kind(4, seed=1).log_likelihood(rows)).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", FAMILIES.values())
def test_log_weights_average_to_the_likelihood(kind: type[LinearGaussian]) -> None:
    model = kind(6, seed=2)
    x = model.sample(4, 1)
    for prior in (False, True):
        weights = model.log_weights(x, 100_000, 5, prior=prior)
        error = np.exp(weights - model.log_likelihood(x)).std(0) / math.sqrt(100_000)
        assert (np.abs(np.exp(log_mean_exp(weights) - model.log_likelihood(x)) - 1) < 5 * error).all()


def test_elbo_of_the_gaussian_is_the_mean_of_the_log_weights() -> None:
    model = LinearGaussian(6, seed=2)
    x = model.sample(4, 1)
    weights = model.log_weights(x, 100_000, 5)
    assert (np.abs(weights.mean(0) - model.elbo(x)) < 5 * weights.std(0) / math.sqrt(100_000)).all()
    assert (model.exact(x) - model.elbo(x) > 0.5).all(), "a tight bound would hide what an estimator does"


def test_the_model_answers_to_the_names_that_code_looks_for() -> None:
    model = LinearGaussian()
    x = torch.from_numpy(model.sample(4, 0)).float()
    mu, logvar = model.encode(x)
    assert torch.equal(model.encoder(x).embedding, mu) and torch.equal(model.encode(x).log_covariance, logvar)
    assert model.encode(x).rsample((3,)).shape == (3, 4, 2)
    torch.testing.assert_close(model.decoder(mu)["reconstruction"], mu @ model.weight.T + model.offset)
    assert isinstance(model.decode(mu.detach().numpy()), np.ndarray)
    density = torch.distributions.Normal(model.decode(mu), 1).log_prob(x).sum(-1)
    torch.testing.assert_close(model.log_px_given_z(x, mu), density)
    model.drawn()
    model(x), model.decode(torch.zeros(5, 4, 2)), model.log_px_given_z(x, mu)
    assert model.drawn() == 4 + 20 + 4


# ------------------------------------------------------------------------------------------- estimators: one table each
def draw(model: Any, x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """z [k, B, D], its standard normal noise and log q(z|x) up to the constant that log p(z) shares."""
    mu, logvar = model.encode(x)
    noise = torch.randn(k, *mu.shape)
    return mu + torch.exp(0.5 * logvar) * noise, noise, (-0.5 * noise**2 - 0.5 * logvar).sum(-1)


def weights(model: Any, x: Tensor, k: int, log_px: Fn | None = None) -> Tensor:
    z, _, log_q = draw(model, x, k)
    density = log_px or (lambda x, y: -0.5 * (x - y) ** 2 - 0.5 * LOG_2PI)
    return density(x, model.decode(z)).sum(-1) - 0.5 * (z**2).sum(-1) - log_q


def bound(log_w: Tensor) -> Tensor:
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


def nll(model: Any, x: Tensor, n_samples: int) -> Tensor:
    return -bound(weights(model, x, n_samples)).mean()


def nll_of_rows(model: Any, data: Tensor, K: int) -> list[float]:
    return [float(nll(model, row[None], K)) for row in data]


def log_likelihood_in_passes(vae: Any, x: Tensor, num_samples: int, batch_size: int) -> Tensor:
    parts, left = [], num_samples
    while left:
        parts.append(weights(vae, x, min(left, batch_size)))
        left -= min(left, batch_size)
    return bound(torch.cat(parts)).mean()


def nll_numpy(model: Any, x: Any, k: int) -> float:
    x = np.asarray(x)
    mu, logvar = model.encode(x)
    noise = np.random.standard_normal((k, *mu.shape))
    z = mu + np.exp(0.5 * logvar) * noise
    log_w = (-0.5 * (x - model.decode(z)) ** 2 - 0.5 * LOG_2PI).sum(-1)
    log_w = log_w + (-0.5 * z**2 + 0.5 * noise**2 + 0.5 * logvar).sum(-1)
    top = log_w.max(0)
    return float(-(np.log(np.exp(log_w - top).mean(0)) + top).mean())


def nll_with_distributions(model: Any, x: Tensor, k: int) -> Tensor:
    q, prior = model.encode(x), torch.distributions.Normal(0.0, 1.0)
    z = q.rsample((k,))
    log_px = torch.distributions.Normal(model.decode(z), 1.0).log_prob(x).sum(-1)
    return -bound(log_px + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)).mean()


def nll_from_forward(model: Any, test_loader: Any, device: Any, K: int = 200) -> float:
    total, count = 0.0, 0
    for x, _ in test_loader:
        _, mu, logvar = model(x.to(device))
        z = mu + torch.exp(0.5 * logvar) * torch.randn(K, *mu.shape)
        log_q = torch.distributions.Normal(mu, torch.exp(0.5 * logvar)).log_prob(z).sum(-1)
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        total, count = total - bound(model.log_px_given_z(x, z) + log_p - log_q).sum().item(), count + len(x)
    return total / count


def nll_from_parts(encoder: Fn, decoder: Fn, x: Tensor, k: int) -> Tensor:
    return nll(SimpleNamespace(encode=encoder, decode=decoder), x, k)


def log_likelihood_from_prior(decode: Fn, x: Tensor, k: int) -> Tensor:
    y = decode(torch.randn(k, 2))
    return bound((-0.5 * (x - y[:, None]) ** 2 - 0.5 * LOG_2PI).sum(-1))


def nll_bernoulli(model: Any, x: Tensor, k: int) -> Tensor:
    log_px = lambda x, p: -F.binary_cross_entropy(p, x.expand_as(p), reduction="none")  # noqa: E731
    return -bound(weights(model, x, k, log_px)).mean()


def nll_logits(model: Any, x: Tensor, k: int) -> Tensor:
    log_px = lambda x, y: -F.binary_cross_entropy_with_logits(y, x.expand_as(y), reduction="none")  # noqa: E731
    return -bound(weights(model, x, k, log_px)).mean()


def nll_mnist(model: Any, x: Tensor, k: int) -> Tensor:
    return nll(model, x.view(-1, 784), k)


def nll_fixed(model: Any, x: Tensor) -> Tensor:
    return nll(model, x, 64)


def elbo(model: Any, x: Tensor, k: int) -> Tensor:
    return weights(model, x, k).mean()


class TheirVAE(torch.nn.Module):
    def get_nll(self, data: Tensor, n_samples: int = 1) -> Tensor:
        mu, logvar = self.encode(data)
        z, eps = self._sample_gauss(mu.expand(n_samples, -1, -1), torch.exp(0.5 * logvar))
        log_w = -0.5 * ((data - self.decoder(z)["reconstruction"]) ** 2 + LOG_2PI).sum(-1)
        return -bound(log_w + (0.5 * eps**2 + 0.5 * logvar - 0.5 * z**2).sum(-1)).mean()


RIGHT = (
    nll, nll_of_rows, log_likelihood_in_passes, nll_numpy, nll_with_distributions, nll_from_forward, nll_from_parts,
    log_likelihood_from_prior, nll_bernoulli, nll_logits, nll_fixed, elbo, TheirVAE.get_nll, TheirVAE().get_nll,
    nll_mnist,
)  # fmt: skip


@pytest.mark.parametrize("fn", RIGHT, ids=[f"{i}-{fn.__name__}" for i, fn in enumerate(RIGHT)])
def test_a_right_estimator_raises_nothing(fn: Fn) -> None:
    report = audit_likelihood(fn)
    assert report.severity in ("ok", "info"), str(report)
    assert report.findings[-1].severity == "ok"
    assert report.findings[-1].measured < report.findings[-1].interval + 0.01


@pytest.mark.parametrize(
    ("scale", "unit"),
    [
        (lambda x: len(x), "nats summed over the rows"),
        (lambda x: 1 / x.shape[1], "nats per dimension"),
        (lambda x: 1 / math.log(2), "bits per sample"),
        (lambda x: 1 / math.log(2) / x.shape[1], "bits per dimension"),
    ],
    ids=["sum", "dimension", "bits", "bits-dimension"],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_units_are_told_and_are_no_error(scale: Fn, unit: str, sign: int) -> None:
    report = audit_likelihood(lambda model, x, k: sign * scale(x) * nll(model, x, k))
    assert (report.unit, codes(report)) == (unit, [])
    assert codes(report, "info") == ["UN001"]


def get_nll_positive(model: Any, x: Tensor, n_samples: int) -> Tensor:
    return -nll(model, x, n_samples)


def get_nll_whole_passes(self: Any, data: Tensor, n_samples: int = 1, batch_size: int = 100) -> Tensor:
    passes = max(1, n_samples // batch_size)
    return -bound(torch.cat([weights(self, data, batch_size) for _ in range(passes)])).mean()


def marginal_ll(model: Any, x: Tensor, n_mc_samples: int, n_mc_samples_per_pass: int = 1) -> Tensor:
    passes = math.ceil(n_mc_samples / n_mc_samples_per_pass)
    log_w = torch.cat([weights(model, x, n_mc_samples_per_pass) for _ in range(passes)])
    return (torch.logsumexp(log_w, 0) - math.log(n_mc_samples)).mean()


def nll_averaging(model: Any, x: Tensor, k: int) -> Tensor:
    return -weights(model, x, k).mean()


def nll_summing(model: Any, x: Tensor, k: int) -> Tensor:
    return -torch.logsumexp(weights(model, x, k), 0).mean()


def nll_underflowing(model: Any, x: Tensor, k: int) -> Tensor:
    return -torch.log(weights(model, x, k).exp().mean(0) + 1e-30).mean()


def nll_deaf(model: Any, x: Tensor, k: int) -> Tensor:
    return nll(model, x, 50)


def nll_without_constant(model: Any, x: Tensor, k: int) -> Tensor:
    return -bound(weights(model, x, k, lambda x, y: -0.5 * (x - y) ** 2)).mean()


def nll_of_mean_error(model: Any, x: Tensor, k: int) -> Tensor:
    return -bound(weights(model, x, k, lambda x, y: -((x - y) ** 2) / x.shape[-1])).mean()


def nll_without_q(model: Any, x: Tensor, k: int) -> Tensor:
    z, _, _ = draw(model, x, k)
    return -bound(model.log_px_given_z(x, z) - 0.5 * (z**2 + LOG_2PI).sum(-1)).mean()


def nll_without_prior(model: Any, x: Tensor, k: int) -> Tensor:
    z, _, log_q = draw(model, x, k)
    return -bound(model.log_px_given_z(x, z) - log_q + LOG_2PI).mean()


def nll_of_other_noise(model: Any, x: Tensor, k: int) -> Tensor:
    mu, logvar = model.encode(x)
    z = mu + 0.5 * torch.exp(0.5 * logvar) * torch.randn(k, *mu.shape)
    log_q = torch.distributions.Normal(mu, torch.exp(0.5 * logvar)).log_prob(z).sum(-1)
    return -bound(model.log_px_given_z(x, z) - 0.5 * (z**2 + LOG_2PI).sum(-1) - log_q).mean()


WRONG: dict[Fn, tuple[str, str]] = {
    get_nll_positive: ("LI001", "error"),
    nll_summing: ("LI002", "error"),
    nll_without_constant: ("LI002", "warning"),
    nll_of_other_noise: ("LI002", "error"),
    nll_averaging: ("LI003", "error"),
    nll_without_q: ("LI003", "error"),
    marginal_ll: ("LI004", "error"),
    get_nll_whole_passes: ("LI004", "warning"),
    nll_deaf: ("LI004", "error"),
    nll_underflowing: ("NU002", "warning"),
    nll_of_mean_error: ("RE001", "error"),
    nll_without_prior: ("UN001", "error"),
}


@pytest.mark.parametrize(("fn", "expected"), WRONG.items(), ids=[fn.__name__ for fn in WRONG])
def test_a_mutation_is_named(fn: Fn, expected: tuple[str, str]) -> None:
    report = audit_likelihood(fn)
    assert expected in {(item.code, item.severity) for item in report.findings}, str(report)
    assert "ok" not in {item.severity for item in report.findings}
    for item in report.findings:
        assert item.measured is not None and item.unit and item.evidence and item.why and item.advice


def test_the_bias_of_whole_passes_is_the_log_ratio_of_the_counts() -> None:
    (count,) = (item for item in audit_likelihood(marginal_ll).findings if item.code == "LI004")
    assert abs(count.measured - math.log(120 / 100)) < count.interval + 0.01


def test_an_estimate_above_the_truth_says_by_how_much() -> None:
    (height,) = (item for item in audit_likelihood(nll_summing).findings if item.code == "LI002")
    assert abs(height.measured - math.log(100)) < 0.03 and "log K" in height.why
    (constant,) = (item for item in audit_likelihood(nll_without_constant).findings if item.code == "LI002")
    assert abs(constant.measured - 3 * LOG_2PI) < 0.03 and "constant" in constant.why


@pytest.mark.parametrize("seed", range(1, 9))
def test_no_seed_makes_a_false_alarm(seed: int) -> None:
    for fn in (nll, nll_numpy, log_likelihood_from_prior, nll_bernoulli, log_likelihood_in_passes):
        assert codes(audit_likelihood(fn, seed=seed)) == [], f"{fn.__name__} at seed {seed}"


@pytest.mark.parametrize(
    ("name", "said"),
    [("get_nll", "nll"), ("log_p", "log_likelihood"), ("VAE.logLikelihood", "log_likelihood"), ("run", None)],
)
def test_a_name_promises_a_sign(name: str, said: str | None) -> None:
    assert promised(name) == said


def test_returns_overrules_the_name_and_silence_accepts_either() -> None:
    assert codes(audit_likelihood(get_nll_positive, returns="log_likelihood")) == []
    assert codes(audit_likelihood(lambda model, x, k: -nll(model, x, k))) == []
    assert codes(audit_likelihood(lambda model, x, k: nll(model, x, k), returns="log_likelihood")) == ["LI001"]


def test_inputs_and_constants_say_how_to_call() -> None:
    def odd(a: Tensor, b: Any, c: int, *, power: float) -> Tensor:
        return power * nll(b, a, c)

    assert codes(audit_likelihood(odd, inputs="x model samples", constants={"power": 1.0})) == []
    with pytest.raises(BadInput, match=r"role of 'a', 'b', 'c', 'power' cannot be told.*inputs="):
        audit_likelihood(odd)
    with pytest.raises(BadInput, match="'rows' is no role; roles are"):
        audit_likelihood(odd, inputs="rows model samples")


def raises(model: Any, x: Tensor) -> Tensor:
    raise RuntimeError("no such\nlayer")


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (raises, r"RuntimeError: no such\\nlayer; could not be run"),
        (lambda model, x: x, "240 numbers for 40 rows; must be one number, or one a row"),
        (lambda model, x: "nine", "str; must be a number"),
        (lambda model, x: float("nan"), "nan; must be finite"),
        (lambda x, k: x.sum(), "takes no model"),
    ],
    ids=["raises", "shape", "text", "nan", "no-model"],
)
def test_what_is_no_estimator_gets_one_line(fn: Fn, text: str) -> None:
    with pytest.raises(BadInput, match=text) as caught:
        audit_likelihood(fn)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fn", [nll, raises])
def test_global_random_numbers_are_put_back(fn: Fn) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for audit in (audit_likelihood, audit_importance):
        try:
            audit(fn)
        except BadInput:
            assert fn is raises
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_an_audit_takes_seconds_and_says_the_same_again() -> None:
    start = time.perf_counter()
    first = audit_likelihood(nll_fixed)
    assert time.perf_counter() - start < 10
    assert (
        first.verdict
        == audit_likelihood(nll_fixed).verdict
        == "this is minus a lower bound on log p(x) that tightens, in nats per sample"
    )


# ----------------------------------------------------------------------------------------------- K-sample objectives
def iwae_loss(log_w: Tensor) -> Tensor:
    return -bound(log_w).mean()


def iwae_loss_samples_second(log_weights: Tensor) -> Tensor:
    return -bound(log_weights.T).sum()


def iwae_bound_by_row(lw: Tensor) -> Tensor:
    return bound(lw)


def iwae_bound_numpy(log_w: np.ndarray) -> float:
    return float(np.logaddexp.reduce(log_w, 0).mean() - math.log(len(log_w)))


def iwae_surrogate_loss(log_w: Tensor) -> Tensor:
    return -(torch.softmax(log_w, 0).detach() * log_w).sum(0).mean()


def dreg_loss(log_w: Tensor) -> Tensor:
    return -(torch.softmax(log_w, 0).detach() ** 2 * log_w).sum(0).mean()


def renyi_loss(log_w: Tensor) -> Tensor:
    return -bound(0.5 * log_w).mean() / 0.5


def ciwae_loss(log_w: Tensor) -> Tensor:
    return -0.3 * log_w.mean() - 0.7 * bound(log_w).mean()


def elbo_objective(log_w: Tensor) -> Tensor:
    return log_w.mean()


def iwae_from_terms(log_px: Tensor, log_pz: Tensor, log_qz: Tensor) -> Tensor:
    return -bound(log_px + log_pz - log_qz).mean()


def iwae_sticking_the_landing(log_px: Tensor, log_pz: Tensor, log_qz: Tensor) -> Tensor:
    return -bound(log_px + log_pz - log_qz.detach()).mean()


def iwae_from_losses(recon_loss: Tensor, kl: Tensor) -> Tensor:
    return -bound(-(recon_loss + kl).T).mean()


def iwae_of_model(model: Any, x: Tensor, K: int) -> Tensor:
    return -bound(weights(model, x, K)).mean()


def iwae_of_model_in_loops(model: Any, x: Tensor, n_samples: int) -> Tensor:
    return torch.stack(
        [-bound(torch.cat([weights(model, row[None], 1) for _ in range(n_samples)])) for row in x]
    ).mean()


def iwae_of_bernoulli(model: Any, x: Tensor, K: int) -> Tensor:
    return nll_bernoulli(model, x, K)


def iwae_from_pieces(recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor) -> Tensor:
    log_px = -0.5 * ((recon_x - x.unsqueeze(1)) ** 2).sum(-1)
    log_ratio = (-0.5 * z**2 + 0.5 * log_var + 0.5 * (z - mu) ** 2 / log_var.exp()).sum(-1)
    return -(torch.logsumexp(log_px + log_ratio, 1) - math.log(z.shape[1])).mean()


def iwae_from_pieces_samples_first(z: Tensor, mu: Tensor, logvar: Tensor, x: Tensor, x_probs: Tensor, k: int) -> Tensor:
    q, prior = torch.distributions.Normal(mu, torch.exp(0.5 * logvar)), torch.distributions.Normal(0.0, 1.0)
    log_px = -F.binary_cross_entropy(x_probs, x.expand(k, -1, -1), reduction="none").sum(-1)
    return -(torch.logsumexp(log_px + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1), 0) - math.log(k)).mean()


OBJECTIVES = (
    iwae_loss, iwae_loss_samples_second, iwae_bound_by_row, iwae_bound_numpy, iwae_surrogate_loss, dreg_loss,
    renyi_loss, ciwae_loss, elbo_objective, iwae_from_terms, iwae_sticking_the_landing, iwae_from_losses, iwae_of_model,
    iwae_of_model_in_loops, iwae_of_bernoulli, iwae_from_pieces, iwae_from_pieces_samples_first,
)  # fmt: skip


@pytest.mark.parametrize("fn", OBJECTIVES, ids=[fn.__name__ for fn in OBJECTIVES])
def test_a_right_objective_raises_nothing(fn: Fn) -> None:
    report = audit_importance(fn)
    assert report.severity in ("ok", "info"), str(report)
    assert report.findings[-1].severity == "ok"


def test_the_best_sample_has_its_normalised_weight() -> None:
    report = audit_importance(iwae_loss)
    draws = [np.random.default_rng(seed).normal(-8, 1.5, (5, 7)) for seed in range(3)]
    best = np.mean([(np.exp(d) / np.exp(d).sum(0)).max(0).mean() for d in draws])
    assert report.findings[0].measured == pytest.approx(best, rel=1e-6)


def iwae_loss_averaging(log_w: Tensor) -> Tensor:
    return -log_w.mean()


def iwae_loss_without_log_k(log_w: Tensor) -> Tensor:
    return -torch.logsumexp(log_w, 0).mean()


def iwae_loss_over_everything(log_w: Tensor) -> Tensor:
    return -(torch.logsumexp(log_w.flatten(), 0) - math.log(log_w.numel()))


def iwae_loss_worst_first(log_w: Tensor) -> Tensor:
    return -(torch.softmax(-log_w, 0).detach() * log_w).sum(0).mean()


def iwae_loss_moving_weights(log_w: Tensor) -> Tensor:
    return -(torch.softmax(log_w, 0) * log_w).sum(0).mean()


def iwae_loss_wrong_sign(log_w: Tensor) -> Tensor:
    return bound(log_w).mean()


def iwae_loss_best_only(log_w: Tensor) -> Tensor:
    return -log_w.max(0).values.mean()


def iwae_loss_detached(log_w: Tensor) -> Tensor:
    return -bound(log_w.detach()).mean()


def iwae_loss_adding_q(log_px: Tensor, log_pz: Tensor, log_qz: Tensor) -> Tensor:
    return -bound(log_px + log_pz + log_qz).mean()


def iwae_softmax_of_losses(recon_x: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    per_sample = x.unsqueeze(1).repeat(1, mu.shape[1], 1).reshape(-1, x.shape[-1])
    recon = F.mse_loss(recon_x, per_sample, reduction="none").sum(-1).reshape(len(x), -1)
    kl = -0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), -1)
    log_w = recon + kl
    return (F.softmax(log_w, -1) * log_w).sum(-1).mean(), recon.mean()


def iwae_of_images(recons: Tensor, x: Tensor, mu: Tensor, log_var: Tensor, z: Tensor) -> dict[str, Tensor]:
    error = ((recons - x.unsqueeze(1)) ** 2).flatten(2).mean(-1)
    kl = -0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), 2)
    return {"loss": (F.softmax(error + kl, -1) * (error + kl)).sum(-1).mean()}


def iwae_with_closed_divergence(model: Any, x: Tensor, K: int) -> Tensor:
    z, _, _ = draw(model, x, K)
    mu, logvar = model.encode(x)
    return -bound(model.log_px_given_z(x, z) + 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(-1)).mean()


def iwae_deaf(model: Any, x: Tensor, K: int) -> Tensor:
    return -bound(weights(model, x, 3)).mean()


BROKEN: dict[Fn, tuple[str, str, str]] = {
    iwae_loss_averaging: ("UN002", "error", "the ELBO averaged over K samples"),
    iwae_loss_without_log_k: ("UN002", "warning", "log K is not subtracted"),
    iwae_loss_over_everything: ("UN002", "error", "weights normalised over samples and batch"),
    iwae_loss_worst_first: ("UN002", "error", "the worst sample first"),
    iwae_loss_moving_weights: ("UN002", "error", "weights not held fixed"),
    iwae_loss_wrong_sign: ("LI001", "error", "rises with the weights"),
    iwae_loss_best_only: ("UN002", "error", "the best sample only"),
    iwae_loss_detached: ("GR001", "error", "no gradient reaches the samples"),
    iwae_loss_adding_q: ("UN002", "error", "log_qz enters with the wrong sign"),
    iwae_softmax_of_losses: ("UN002", "error", "the worst sample first, weights not held fixed"),
    iwae_of_images: ("RE001", "error", "averaged over features"),
    iwae_with_closed_divergence: ("UN002", "error", "the divergence is in closed form inside the weights"),
    iwae_deaf: ("LI004", "warning", "3 samples for 5 asked"),
}


@pytest.mark.parametrize(("fn", "expected"), BROKEN.items(), ids=[fn.__name__ for fn in BROKEN])
def test_a_broken_objective_is_named(fn: Fn, expected: tuple[str, str, str]) -> None:
    report = audit_importance(fn)
    code, severity, title = expected
    assert any((item.code, item.severity) == (code, severity) and title in item.title for item in report.findings), str(
        report
    )


def test_the_axis_of_the_samples_can_be_declared() -> None:
    assert codes(audit_importance(iwae_loss, samples_axis=0)) == []
    assert "UN002" in codes(audit_importance(iwae_loss, samples_axis=1), "error")
    with pytest.raises(BadInput, match="samples_axis: got 2"):
        audit_importance(iwae_loss, samples_axis=2)


def test_a_method_with_star_arguments_is_called_by_inputs() -> None:
    class Theirs:
        def loss_function(self, *args: Tensor, **kwargs: float) -> dict[str, Tensor]:
            recons, x, log_var = args[0], args[1], args[3]
            assert log_var.shape[-1] == 3
            return iwae_of_images(recons, x, args[2], log_var, args[4])

    report = audit_importance(Theirs.loss_function, inputs="model output x mu head z", constants={"M_N": 1.0})
    assert any("the worst sample first" in item.title for item in report.findings)


def test_jax_objectives_are_measured() -> None:
    jax = pytest.importorskip("jax")

    def loss(log_w: Any) -> Any:
        return -(jax.nn.logsumexp(log_w, axis=0) - jax.numpy.log(log_w.shape[0])).mean()

    assert codes(audit_importance(loss)) == []


@pytest.mark.parametrize(
    ("fn", "said"),
    [(iwae_loss, True), (iwae_from_terms, True), (iwae_of_model, True), (lambda x, recon, mu, logvar: x, False)],
)
def test_importance_objectives_are_told_from_plain_losses(fn: Fn, said: bool) -> None:
    assert is_importance(fn) is said


def test_probabilities_of_the_bernoulli_are_the_sigmoid_of_its_logits() -> None:
    z = np.random.default_rng(0).standard_normal((5, 2))
    np.testing.assert_allclose(LinearBernoulli().outputs(z), expit(LinearBernoulliLogits().outputs(z)), rtol=1e-12)
