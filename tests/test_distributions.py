"""Posteriors, priors and divergences against scipy, PyTorch and Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import distributions as td
from torch import nn

from vaelab.core.errors import BadInput
from vaelab.distributions import (
    DiagonalNormal,
    FullNormal,
    GaussianPosterior,
    StandardNormal,
    StandardNormalPrior,
    as_distribution,
    divergence,
)
from vaelab.nets.init import initialise
from vaelab.nets.mlp import MLP

ROWS, LATENT, MANY = 4, 3, 400_000
DOUBLE = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def vectors():
    return torch.randn(ROWS, LATENT, **DOUBLE)


def diagonal():
    return DiagonalNormal(vectors(), 0.4 * vectors())


def full(rows=ROWS):
    below = torch.randn(rows, LATENT, LATENT, **DOUBLE).tril(-1)
    return FullNormal(vectors()[:rows], below + torch.diag_embed(0.5 + torch.rand(rows, LATENT, **DOUBLE)))


def standard():
    return StandardNormal(LATENT, dtype=torch.float64)


def laplace():
    return as_distribution(td.Laplace(vectors(), 1 + torch.rand(ROWS, LATENT, **DOUBLE)))


def student():
    return as_distribution(td.StudentT(torch.full((ROWS, LATENT), 8.0, **DOUBLE), vectors()))


def one_row():
    return as_distribution(td.Normal(torch.zeros(LATENT, **DOUBLE), torch.arange(1, LATENT + 1, **DOUBLE)))


def mixture():
    """Two normals along a line, as one wide vector distribution: nobody's closed form."""
    parts = td.Independent(td.Normal(torch.tensor([[-1.0] * LATENT, [1.0] * LATENT], **DOUBLE), 1.0), 1)
    return as_distribution(td.MixtureSameFamily(td.Categorical(torch.ones(2, **DOUBLE)), parts))


class Home:
    """A user's own distribution, which offers nothing but the protocol."""

    def __init__(self):
        self.inner = diagonal()
        self.rsample, self.log_prob = self.inner.rsample, self.inner.log_prob


NORMALS = [standard, diagonal, full]


@pytest.mark.parametrize("build", [*NORMALS, one_row])
def test_log_density_is_that_of_scipy(build):
    p = build()
    z = torch.randn(5, ROWS, LATENT, **DOUBLE)
    for row in range(ROWS):
        own = min(row, len(p.mean) - 1)
        truth = stats.multivariate_normal(p.mean[own], p.scale_tril[own] @ p.scale_tril[own].T).logpdf(z[:, row])
        torch.testing.assert_close(p.log_prob(z)[:, row], torch.as_tensor(truth))


@pytest.mark.parametrize("build", [*NORMALS, laplace, student, one_row])
def test_moments_of_samples_are_the_stated_ones(build):
    p = build()
    z = p.rsample(MANY)
    rows = len(p.mean)
    assert z.shape == (MANY, rows, LATENT)
    error = (p.variance / MANY).sqrt()
    assert ((z.mean(0) - p.mean).abs() < 5 * error).all()
    torch.testing.assert_close(z.var(0), p.variance, rtol=0.03, atol=0)
    drawn = p.sample(7, torch.Generator().manual_seed(3))
    assert drawn.shape == ((7, LATENT) if rows == 1 else (7, rows, LATENT))
    assert not drawn.requires_grad


@pytest.mark.parametrize("build", [*NORMALS, laplace, one_row])
def test_a_generator_decides_the_samples_and_leaves_the_global_one_alone(build):
    p = build()
    state = torch.get_rng_state()
    first, again, other = (p.sample(7, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_covariance_of_full_samples_is_that_of_the_factor():
    p = full()
    z = p.rsample(MANY)
    for row in range(ROWS):
        truth = p.scale_tril[row] @ p.scale_tril[row].T
        torch.testing.assert_close(z[:, row].T.cov(), truth, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("build", NORMALS)
def test_given_noise_is_what_the_sample_is_made_of(build):
    p = build()
    noise = torch.randn(2, *p.mean.shape, **DOUBLE)
    whitened = torch.linalg.solve(p.scale_tril, (p.rsample(2, noise) - p.mean).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(whitened, noise)


PAIRS = {
    "diagonal standard": (diagonal, standard, True, LATENT),
    "diagonal diagonal": (diagonal, diagonal, True, LATENT),
    "diagonal one row": (diagonal, one_row, True, LATENT),
    "full standard": (full, standard, True, 1),
    "full full": (full, full, True, 1),
    "full one full row": (full, lambda: full(1), True, 1),
    "full diagonal": (full, diagonal, True, 1),
    "diagonal full": (diagonal, full, True, 1),
    "laplace standard": (laplace, standard, True, LATENT),
    "laplace laplace": (laplace, laplace, True, LATENT),
    "student standard": (student, standard, False, 1),
    "diagonal mixture": (diagonal, mixture, False, 1),
    "a user's own": (Home, standard, False, 1),
}


@pytest.mark.parametrize(("left", "right", "is_exact", "groups"), PAIRS.values(), ids=PAIRS)
def test_divergence_is_its_monte_carlo_estimate(left, right, is_exact, groups):
    q, p = left(), right()
    measured, exact = divergence(q, p, q.rsample(MANY))
    assert exact is is_exact
    assert measured.shape == (ROWS, groups)
    z = q.rsample(MANY)
    ratio = q.log_prob(z) - p.log_prob(z)
    error = ratio.std(0) * math.sqrt((1 if exact else 2) / MANY)
    assert ((measured.sum(1) - ratio.mean(0)).abs() < 5 * error).all()


@pytest.mark.parametrize("left", [diagonal, full])
@pytest.mark.parametrize("right", [standard, diagonal, full])
def test_divergence_of_normals_is_that_of_pytorch(left, right):
    q, p = left(), right()
    truth = td.kl_divergence(*(td.MultivariateNormal(d.mean, scale_tril=d.scale_tril) for d in (q, p)))
    torch.testing.assert_close(divergence(q, p, q.rsample(1))[0].sum(1), truth)


@pytest.mark.parametrize("right", [standard, diagonal, one_row])
def test_divergence_per_dimension_is_that_of_pytorch(right):
    q, p = diagonal(), right()
    truth = td.kl_divergence(*(td.Normal(d.mean, d.variance.sqrt()) for d in (q, p)))
    torch.testing.assert_close(divergence(q, p, q.rsample(1))[0], truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergence_of_almost_the_prior_keeps_its_digits(dtype):
    log_std = torch.tensor([[1e-4, -1e-4, 0.0]], dtype=dtype)
    kl, _ = divergence(DiagonalNormal(torch.zeros(1, 3, dtype=dtype), log_std), StandardNormal(3), log_std)
    # (e^2s - 1 - 2s) / 2 = s² + 2s³/3 + ...
    assert (kl >= 0).all()
    torch.testing.assert_close(kl, log_std.square() + 2 * log_std**3 / 3, rtol=1e-3, atol=0)


CASES = [("diagonal", "log_variance"), ("diagonal", "softplus"), ("full", "log_variance"), ("full", "softplus")]


def posterior(covariance="diagonal", scale="log_variance"):
    return GaussianPosterior(MLP(6, (5,)), 5, LATENT, covariance, scale)


@pytest.mark.parametrize("case", CASES)
def test_gradients_through_posterior_sample_and_divergence_are_finite_differences(case):
    head, noise = posterior(*case).double(), torch.randn(2, ROWS, LATENT, **DOUBLE)

    def all_of_it(x):
        q = head(x)
        z = q.rsample(2, noise)
        return z, q.log_prob(z), q.mean, q.variance, divergence(q, StandardNormal(LATENT), z)[0]

    assert torch.autograd.gradcheck(all_of_it, torch.randn(ROWS, 2, 3, **DOUBLE, requires_grad=True))


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_of_a_posterior_gets_a_gradient(case):
    head = posterior(*case)
    q = head(torch.randn(ROWS, 6))
    (divergence(q, StandardNormal(LATENT), q.mean)[0].sum() + q.rsample(3).sum()).backward()
    for name, parameter in head.named_parameters():
        assert (parameter.grad != 0).any(), name
    assert (head.head.bias.grad != 0).all()


@pytest.mark.parametrize("value", [1e4, -1e4])
@pytest.mark.parametrize("case", CASES)
def test_extreme_heads_stay_finite_in_value_and_gradient(case, value):
    head = GaussianPosterior(nn.Flatten(), 6, LATENT, *case)
    nn.init.zeros_(head.head.weight)
    nn.init.constant_(head.head.bias, value)
    q = head(torch.randn(ROWS, 6))
    z = q.rsample(2)
    parts = [z, q.log_prob(z.detach()), divergence(q, StandardNormal(LATENT), z)[0]]
    sum(part.sum() for part in parts).backward()
    assert all(part.isfinite().all() for part in parts)
    assert head.head.bias.grad.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_fan_begins_at_a_log_variance_of_minus_one_on_the_average_input(case):
    head = initialise(posterior(*case), "fan").eval()
    q = head(torch.zeros(1, 6))
    torch.testing.assert_close(q.mean, torch.zeros(1, LATENT))
    torch.testing.assert_close(q.variance.log(), torch.full((1, LATENT), -1.0), rtol=5e-3, atol=0)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_low_precision_ends_at_the_head(covariance):
    head = posterior(covariance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = head(torch.randn(ROWS, 6))
        z = q.rsample(2, torch.ones(2, ROWS, LATENT))
        parts = [z, q.mean, q.variance, q.log_prob(z), divergence(q, StandardNormal(LATENT), z)[0]]
    assert {part.dtype for part in parts} == {torch.float32}
    torch.testing.assert_close(z[0] - q.mean, q.scale_tril.sum(-1))


def test_the_prior_follows_its_module_and_leaves_nothing_to_save():
    prior = StandardNormalPrior(LATENT).double()
    assert prior().sample(2).dtype == torch.float64
    assert not prior.state_dict()


def test_torch_distributions_in_any_arrangement_become_rows_of_vectors():
    loc, scale = vectors(), vectors().exp()
    for given in (td.Normal(loc, scale), td.Independent(td.Normal(loc, scale), 1)):
        ours = as_distribution(given)
        assert isinstance(ours, DiagonalNormal)
        torch.testing.assert_close(ours.variance, scale.square())
    assert isinstance(as_distribution(td.MultivariateNormal(loc, torch.eye(LATENT, **DOUBLE))), FullNormal)
    assert as_distribution(ours) is ours
    assert one_row().mean.shape == (1, LATENT)


REFUSED = {
    "no distribution": (lambda: as_distribution(3), "distribution: got int; must offer log_prob"),
    "a scalar": (lambda: as_distribution(td.Normal(0.0, 1.0)), "distribution: got batch and event shape ((), ())"),
    "images": (
        lambda: as_distribution(td.Normal(torch.zeros(2, 3, 4), 1.0)),
        "distribution: got batch and event shape ((2, 3), (4,)); must be one vector, or one for each row",
    ),
    "noise": (lambda: laplace().rsample(1, vectors()[None]), "posterior: got Laplace; takes no base noise"),
    "no gradient": (
        lambda: as_distribution(td.Poisson(vectors().exp())).rsample(1),
        "posterior: got Poisson; cannot be sampled with gradients",
    ),
    "noise of another shape": (
        lambda: diagonal().rsample(2, vectors()),
        "noise: got (4, 3); must have the shape (samples, rows, latent) = (2, 4, 3)",
    ),
    "covariance": (lambda: posterior("ful"), "model.posterior: got ful; no such name; did you mean full?"),
    "scale": (lambda: posterior("full", "soft"), "model.scale: got soft; no such name; "),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_in_a_sentence(call, message):
    with pytest.raises(BadInput) as refusal:
        call()
    assert str(refusal.value).startswith(message)
