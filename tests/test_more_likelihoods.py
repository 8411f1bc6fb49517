"""Heavy tails, levels and counts against scipy, brute force, quadrature, moments and real data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from sklearn.datasets import load_digits, load_wine

import vaelab
from vaelab.core.errors import BadInput
from vaelab.data.source import split
from vaelab.distributions import (
    LIKELIHOODS,
    BetaBinomial,
    Laplace,
    LogisticMixture,
    Multinomial,
    StudentT,
)
from vaelab.distributions.counts import LOG_DISPERSION_BOUND
from vaelab.distributions.levels import LOG_SCALE_BOUND, LOG_SHAPE_BOUND
from vaelab.distributions.likelihoods import LOG_RATE_BOUND, LOG_SIGMA_BOUND
from vaelab.distributions.logistic import LogisticMixtures
from vaelab.distributions.normal import soft_clamp, soft_unclamp
from vaelab.distributions.special import draw_log_gamma
from vaelab.measure.baseline import baseline

SAMPLES, ROWS, SHAPE, MANY = 2, 3, (2, 3), 100_000
DOUBLE = {"dtype": torch.float64}
DEGREES = 5.0
LEVELS = 6


def clamped(parameter, bound):
    return bound * np.tanh(parameter / bound)


def negative_binomial(p, x):
    mean, size = np.exp(clamped(p[0], LOG_RATE_BOUND)), np.exp(-clamped(p[1], LOG_DISPERSION_BOUND))
    return stats.nbinom.logpmf(x, size, size / (size + mean))


def zero_inflated(p, x):
    share = special.expit(p[2])
    return np.log(share * (x == 0) + (1 - share) * np.exp(negative_binomial(p, x)))


def logistic_mixture(p, x):
    """Differences of scipy's distribution functions, with infinite outer bins."""
    weights, centres = special.softmax(p[:5]), p[5:10]
    scales = np.exp(clamped(p[10:], LOG_SCALE_BOUND))
    low, high = ((2 * x + side) / (LEVELS - 1) - 1 for side in (-1, 1))
    low, high = (-np.inf if x == 0 else low), (np.inf if x == LEVELS - 1 else high)
    between = stats.logistic.cdf(high, centres, scales) - stats.logistic.cdf(low, centres, scales)
    return np.log((weights * between).sum())


def beta_binomial(p, x):
    alpha, beta = np.exp(clamped(p, LOG_SHAPE_BOUND))
    return stats.betabinom.logpmf(x, LEVELS - 1, alpha, beta)


def reals(shape):
    return torch.randn(shape, **DOUBLE)


def levels(shape):
    return torch.randint(LEVELS, shape).double()


def counts(shape):
    return torch.poisson(torch.full(shape, 2.0, **DOUBLE))


def pixel(p):
    return np.exp(clamped(p[1], LOG_SIGMA_BOUND))


# name: how to build it, draws of x for a given shape, and log p of one entry from its own parameters
MEMBERS = {
    "laplace fixed": (lambda: Laplace("fixed", 0.3), reals, lambda p, x: stats.laplace.logpdf(x, p[0], 0.3)),
    "laplace shared": (lambda: Laplace("shared", 0.7), reals, lambda p, x: stats.laplace.logpdf(x, p[0], 0.7)),
    "laplace feature": (lambda: Laplace("feature", 0.7, (1,)), reals, lambda p, x: stats.laplace.logpdf(x, p[0], 0.7)),
    "laplace pixel": (lambda: Laplace("pixel"), reals, lambda p, x: stats.laplace.logpdf(x, p[0], pixel(p))),
    "student_t fixed": (lambda: StudentT("fixed", 0.3), reals, lambda p, x: stats.t.logpdf(x, DEGREES, p[0], 0.3)),
    "student_t shared": (lambda: StudentT("shared", 2.0), reals, lambda p, x: stats.t.logpdf(x, DEGREES, p[0], 2.0)),
    "student_t pixel": (lambda: StudentT("pixel"), reals, lambda p, x: stats.t.logpdf(x, DEGREES, p[0], pixel(p))),
    "logistic_mixture": (lambda: LogisticMixture(LEVELS), levels, logistic_mixture),
    "beta_binomial": (lambda: BetaBinomial(LEVELS), levels, beta_binomial),
    "negative_binomial": (LIKELIHOODS["negative_binomial"], counts, negative_binomial),
    "zero_inflated_negative_binomial": (LIKELIHOODS["zero_inflated_negative_binomial"], counts, zero_inflated),
}  # fmt: skip
DENSITIES = [name for name in MEMBERS if MEMBERS[name][1] is reals]
MASSES = {name: 5000 if MEMBERS[name][1] is counts else LEVELS for name in MEMBERS if name not in DENSITIES}
NAMES = ("laplace", "student_t", "logistic_mixture", "beta_binomial", "negative_binomial",
         "zero_inflated_negative_binomial", "multinomial")  # fmt: skip


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=MEMBERS)
def member(request):
    build, draw, truth = MEMBERS[request.param]
    likelihood = build().double()
    return likelihood, draw, truth, torch.randn(SAMPLES, ROWS, likelihood.channels, *SHAPE, **DOUBLE)


def test_every_entry_has_its_true_log_density_and_a_row_their_sum(member):
    likelihood, draw, truth, parameters = member
    x = draw((ROWS, *SHAPE))
    expected = torch.zeros(SAMPLES, ROWS, *SHAPE, **DOUBLE)
    for sample, row, *entry in np.ndindex(SAMPLES, ROWS, *SHAPE):
        own = parameters[(sample, row, slice(None), *entry)].numpy()
        expected[(sample, row, *entry)] = float(truth(own, x[(row, *entry)].item()))
    # Learned widths and degrees begin in float32, and are as exact as that.
    observation = likelihood(parameters)
    torch.testing.assert_close(observation.per_entry(x), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(observation.log_prob(x), expected.sum((2, 3)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("level", [-3.0, 0.0, 0.4])
def test_densities_integrate_to_one_and_have_the_stated_mean(name, level):
    likelihood = MEMBERS[name][0]().double().eval()
    observation = likelihood(torch.full((1, 1, likelihood.channels, 1), level, **DOUBLE))

    def density(x):
        return observation.log_prob(torch.full((1, 1), x, **DOUBLE)).exp().item()

    def both(function):
        return sum(integrate.quad(function, *ends, limit=400)[0] for ends in ((-np.inf, level), (level, np.inf)))

    assert observation.mean.item() == level
    assert both(density) == pytest.approx(1, abs=1e-6)
    assert both(lambda x: (x - level) * density(x)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", MASSES)
def test_masses_sum_to_one_and_have_the_stated_mean(name):
    likelihood = MEMBERS[name][0]().double()
    values = torch.arange(MASSES[name], **DOUBLE)
    parameters = torch.randn(1, 1, likelihood.channels, 1, **DOUBLE)
    observation = likelihood(parameters)
    mass = likelihood(parameters.expand(1, len(values), -1, -1)).log_prob(values[:, None]).exp()[0]
    assert mass.sum().item() == pytest.approx(1, abs=1e-9)
    assert (mass * values).sum().item() == pytest.approx(observation.mean.item(), abs=1e-7)


def test_samples_have_the_stated_mean_and_the_true_frequencies_and_the_generator_decides_them(member):
    likelihood, draw, truth, parameters = member
    own = parameters[:1, :1, ..., :1, :2]
    observation = likelihood(own.expand(1, MANY, -1, -1, -1))
    drawn, again = (observation.sample(torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(drawn, again)
    assert drawn.shape == observation.mean.shape == (1, MANY, 1, 2)
    error = drawn.std(1) / math.sqrt(MANY)
    assert ((drawn.mean(1) - observation.mean.mean(1)).abs() < 5 * error).all()
    if draw is reals:
        return
    values = torch.arange(MASSES["negative_binomial"] if draw is counts else LEVELS)
    for entry in range(2):
        p = own[0, 0, :, 0, entry].numpy()
        mass = np.exp(np.array([float(truth(p, value)) for value in values[:40].tolist()]))
        found = np.bincount(drawn[0, :, 0, entry].long().clamp(max=40).numpy(), minlength=41)[:40][: len(mass)] / MANY
        assert (np.abs(found - mass) < 5 * np.sqrt(mass * (1 - mass) / MANY) + 1e-4).all()


@pytest.mark.parametrize("name", DENSITIES)
def test_samples_follow_scipys_distribution_function(name):
    likelihood = MEMBERS[name][0]().double().eval()
    drawn = likelihood(torch.full((1, 5000, likelihood.channels, 1), 0.4, **DOUBLE)).sample().flatten().numpy()
    width = {"fixed": 0.3, "pixel": math.exp(clamped(0.4, LOG_SIGMA_BOUND))}.get(
        name.split()[1], 2.0 if name.startswith("student") else 0.7
    )
    truth = stats.laplace(0.4, width) if name.startswith("laplace") else stats.t(DEGREES, 0.4, width)
    assert stats.kstest(drawn, truth.cdf).pvalue > 1e-4


def test_gradients_are_finite_differences(member):
    likelihood, draw, _, parameters = member
    x = draw((ROWS, *SHAPE))
    own = [parameters[:1].clone().requires_grad_(), *(p for p in likelihood.parameters())]
    assert torch.autograd.gradcheck(lambda *_: likelihood(own[0]).log_prob(x), own, atol=1e-5)


EXTREMES = {
    "reals": [-1e6, -1.0, 0.0, 1.0, 1e6],
    "levels": [0.0, 1.0, 254.0, 255.0],
    "counts": [0.0, 1.0, 1e3, 1e7],
}
KIND = {"laplace": "reals", "student_t": "reals", "logistic_mixture": "levels", "beta_binomial": "levels"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1e4])
def test_log_prob_and_gradient_are_finite_in_float32_however_far_the_decoder_is_off(name, size):
    likelihood = LIKELIHOODS[name]()
    x = torch.tensor(EXTREMES[KIND.get(name, "counts")])[None]
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=min(likelihood.channels, 3))))
    for sign in signs.repeat_interleave(likelihood.channels // signs.shape[1], 1):
        parameters = (size * sign)[None, None, :, None].repeat(1, 1, 1, x.shape[1]).requires_grad_()
        log_p = likelihood(parameters).log_prob(x)
        log_p.sum().backward()
        assert log_p.isfinite().all()
        assert parameters.grad.isfinite().all()


def test_a_logistic_mixture_keeps_its_gradient_far_in_the_tail():
    """A difference of two sigmoids is 0 in float32 here, and so is its gradient."""
    likelihood = LogisticMixture(256, 1)
    parameters = torch.tensor([0.0, 0.9, -5.0]).view(1, 1, 3, 1).requires_grad_()
    log_p = likelihood(parameters).log_prob(torch.tensor([[3.0]]))
    low, high = stats.logistic.logcdf([5 / 255 - 1, 7 / 255 - 1], 0.9, math.exp(clamped(-5.0, LOG_SCALE_BOUND)))
    exact = high + math.log1p(-math.exp(low - high))
    assert log_p.item() == pytest.approx(exact, rel=1e-3)
    log_p.backward()
    assert parameters.grad[0, 0, 1, 0].item() == pytest.approx(-math.exp(-clamped(-5.0, LOG_SCALE_BOUND)), rel=1e-4)


@pytest.mark.parametrize("name", ["beta_binomial", "negative_binomial", "zero_inflated_negative_binomial"])
def test_float32_has_the_digits_of_float64(name):
    likelihood = LIKELIHOODS[name]()
    parameters = 6 * torch.randn(1, 40, likelihood.channels, 20)
    x = likelihood(parameters).sample()[0]
    assert likelihood.holds(x).all()
    exact = likelihood(parameters.double()).log_prob(x.double())
    torch.testing.assert_close(likelihood(parameters).log_prob(x).double(), exact, rtol=3e-6, atol=1e-4)


def test_a_negative_binomial_without_dispersion_is_a_poisson():
    log_mean = torch.tensor([-3.0, 0.0, 3.0]).double()
    parameters = torch.stack([log_mean, torch.full_like(log_mean, -200.0)])[None, None]
    x = torch.tensor([[0.0, 2.0, 25.0]]).double()
    poisson = LIKELIHOODS["poisson"]()(log_mean[None, None, None]).log_prob(x)
    assert LIKELIHOODS["negative_binomial"]()(parameters).log_prob(x).item() == pytest.approx(poisson.item(), abs=1e-3)


def test_student_degrees_are_learned_and_stay_above_two():
    likelihood = StudentT()
    assert likelihood.degrees.item() == pytest.approx(DEGREES, rel=1e-3)
    for value in (-1e4, 1e4):
        likelihood.log_excess.data.fill_(value)
        assert 2 < likelihood.degrees.item() < 1e4
        assert likelihood(torch.zeros(1, 1, 1, 4)).log_prob(torch.randn(1, 4)).isfinite().all()


@pytest.mark.parametrize("x", [1e3, 1e17, 1e30])
def test_a_student_t_does_not_overflow_however_far_out_a_row_is(x):
    likelihood = StudentT("fixed", 0.1)
    mean = torch.zeros(1, 1, 1, 1, requires_grad=True)
    log_p = likelihood(mean).log_prob(torch.tensor([[x]]))
    log_p.backward()
    degrees = likelihood.degrees.item()
    assert log_p.item() == pytest.approx(stats.t.logpdf(float(np.float32(x)) / 0.1, degrees) - math.log(0.1), rel=1e-5)
    assert mean.grad.item() == pytest.approx((degrees + 1) / x, rel=1e-3)


def test_the_least_uniform_number_is_no_outlier(monkeypatch):
    """0 is drawn with the chance 2^-24, of which a logistic's quantile is -16.6 scales."""
    p = LogisticMixture(256, 1)(torch.tensor([0.0, 0.5, -3.0]).view(1, 1, 3, 1))
    scale = math.exp(clamped(-3.0, LOG_SCALE_BOUND))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, generator=None: self.zero_())
    at = p.sample().item() / 127.5 - 1
    assert at == pytest.approx(p.centres.item() - 17.33 * scale, abs=0.01)
    columns = LogisticMixtures(*torch.zeros(3, 1, 1, 1, 1), torch.tensor([False]))
    monkeypatch.setattr(torch, "rand", lambda shape, **kind: torch.zeros(shape))
    assert columns.sample().item() == pytest.approx(-17.33, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_beyond_a_soft_clamp_is_as_near_as_it_comes_and_finite(dtype):
    y = torch.tensor([-1e9, -6.9, 0.3, 7.0, 1e9], dtype=dtype)
    found = soft_unclamp(y, 7.0)
    assert found.isfinite().all()
    torch.testing.assert_close(soft_clamp(found, 7.0), y.clamp(-7, 7))


def test_optimal_laplace_noise_is_the_mean_absolute_error():
    likelihood = Laplace("optimal").double()
    x, mean = torch.randn(50, 7, **DOUBLE), torch.randn(1, 50, 1, 7, **DOUBLE)
    width = (x - mean[:, :, 0]).abs().mean().item()
    expected = stats.laplace.logpdf(x.numpy(), mean[0, :, 0].numpy(), width).sum(1)
    np.testing.assert_allclose(likelihood(mean).log_prob(x)[0].numpy(), expected, rtol=1e-9)
    best = [stats.laplace.logpdf(x.numpy(), mean[0, :, 0].numpy(), factor * width).sum() for factor in (0.99, 1.01)]
    assert expected.sum() > max(best)
    likelihood.eval()
    assert likelihood(mean).log_scale(None).exp().item() == pytest.approx(width, rel=1e-5)


# Multinomial: a row hangs together --------------------------------------------------------------------------------


def compositions(total, parts):
    """All rows of counts with that total."""
    bars = itertools.combinations(range(total + parts - 1), parts - 1)
    return [np.diff([-1, *bar, total + parts - 1]) - 1 for bar in bars]


def test_multinomial_is_scipys_and_sums_to_one_over_all_rows_of_a_total():
    parameters = torch.randn(1, 1, 1, 4, **DOUBLE)
    observation = Multinomial()(parameters)
    shares = special.softmax(parameters.flatten().numpy())
    rows = compositions(7, 4)
    found = [observation.log_prob(torch.tensor(row[None]).double()).item() for row in rows]
    np.testing.assert_allclose(found, [stats.multinomial.logpmf(row, 7, shares) for row in rows], rtol=1e-10)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-12)


def test_multinomial_rows_have_the_training_rows_mean_total_and_the_moments_of_it():
    likelihood = Multinomial().double()
    rows = torch.tensor([[5.0, 3.0, 2.0, 0.0], [4.0, 4.0, 4.0, 2.0]])
    likelihood.see(rows)
    assert likelihood.total.item() == 12
    parameters = torch.randn(1, 1, 1, 4, **DOUBLE)
    observation = likelihood(parameters.expand(1, MANY, -1, -1))
    drawn, again = (observation.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(drawn, again)
    assert (drawn.sum(-1) == 12).all()
    truth = stats.multinomial(12, special.softmax(parameters.flatten().numpy()))
    np.testing.assert_allclose(observation.mean[0, 0], 12 * special.softmax(parameters.flatten().numpy()))
    np.testing.assert_allclose(np.cov(drawn[0].T.numpy()), truth.cov(), atol=0.05)
    torch.testing.assert_close(drawn.mean(1), observation.mean[:, 0], rtol=0.01, atol=0.02)


def test_the_total_is_saved_with_the_weights():
    likelihood = Multinomial()
    likelihood.see(torch.full((2, 3), 5.0))
    other = Multinomial()
    other.load_state_dict(likelihood.state_dict())
    assert other.total.item() == 15


# Draws, refusals, real data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [1e-3, 0.3, 1.0, 40.0])
def test_log_gamma_draws_follow_scipy_where_the_draws_themselves_underflow(shape):
    drawn = draw_log_gamma(torch.full((5000,), shape, **DOUBLE), torch.Generator().manual_seed(0))
    assert drawn.isfinite().all()
    assert stats.kstest(drawn.numpy(), stats.loggamma(shape).cdf).pvalue > 1e-4


def test_supports():
    for name in NAMES:
        likelihood = LIKELIHOODS[name]()
        x = torch.tensor([0.0, 3.0, 0.5, -1.0, 300.0, math.inf, math.nan])
        expected = {"reals": [1, 1, 1, 1, 1, 0, 0], "levels": [1, 1, 0, 0, 0, 0, 0], "counts": [1, 1, 0, 0, 1, 0, 0]}
        assert likelihood.holds(x).tolist() == [bool(v) for v in expected[KIND.get(name, "counts")]]


def test_optimal_student_noise_is_refused_in_one_sentence():
    with pytest.raises(BadInput, match="no closed form"):
        StudentT("optimal")


def test_logistic_mixture_begins_spread_over_all_levels():
    mass = [LogisticMixture(256)(torch.zeros(1, 1, 15, 1)).log_prob(torch.full((1, 1), v)).item() for v in (0.0, 128.0)]
    assert min(mass) > -8


# Real data ---------------------------------------------------------------------------------------------------------


def trained(folder, rows, likelihood, **train):
    settings = {"steps": 300, "learning_rate": 5e-3, "device": "cpu", "evaluate_every": 100, **train}
    model = {"hidden": [32], "latent": 3}
    config = {"likelihood": likelihood, "model": model, "train": settings, "report": {"html": False}}
    return vaelab.train(rows, out=folder, config=config, progress=False)


def test_student_t_beats_a_gaussian_on_wine_with_outliers(tmp_path):
    rng = np.random.default_rng(0)
    rows = load_wine().data.copy()
    spoiled = rng.random(rows.shape) < 0.03
    rows[spoiled] += (10 * rows.std(0) * rng.choice([-1, 1], rows.shape))[spoiled]
    found = {name: trained(tmp_path / name, rows, name) for name in ("gaussian", "student_t")}
    bounds = {name: run.metrics["negative_elbo"] for name, run in found.items()}
    print(bounds)
    assert bounds["student_t"] < bounds["gaussian"] - 3
    assert 2 < found["student_t"].model.decoder.likelihood.degrees.item() < 5


def test_digits_of_seventeen_levels(tmp_path):
    """Ordered levels need a fraction of a categorical's numbers, and start nearer the data than equal masses."""
    rows = load_digits().images
    equal = 64 * math.log(17)
    for name, most in (("logistic_mixture", 0.9), ("beta_binomial", 0.75)):
        run = trained(tmp_path / name, rows, {"name": name, "levels": 17})
        assert run.metrics["negative_elbo"] < most * equal
        drawn = run.sample(20, noisy=True)
        assert ((drawn >= 0) & (drawn <= 16) & (drawn == drawn.round())).all()


def test_counts_that_come_in_bursts(tmp_path):
    """Where rates vary within a column beyond what a code tells, a dispersion of its own beats a Poisson."""
    rng = np.random.default_rng(0)
    rows = rng.negative_binomial(0.7, 0.05, size=(600, 6)).astype(np.float32)
    bounds = {
        name: trained(tmp_path / name, rows, name).metrics["negative_elbo"]
        for name in ("poisson", "negative_binomial", "zero_inflated_negative_binomial")
    }
    truth = -stats.nbinom.logpmf(rows, 0.7, 0.05).sum(1).mean()
    assert bounds["poisson"] > bounds["negative_binomial"] + 5
    assert abs(bounds["negative_binomial"] - truth) < 1.5
    assert abs(bounds["zero_inflated_negative_binomial"] - truth) < 1.5


def test_levels_and_counts_beyond_the_support_are_named(tmp_path):
    rows = np.arange(40.0).reshape(10, 4)
    with pytest.raises(BadInput, match="levels 0 to 16"):
        trained(tmp_path / "a", rows, {"name": "beta_binomial", "levels": 17})
    with pytest.raises(BadInput, match="whole numbers of at least 0"):
        trained(tmp_path / "b", rows - 5, "zero_inflated_negative_binomial")
    with pytest.raises(BadInput, match="no closed form"):
        trained(tmp_path / "c", rows, {"name": "student_t", "noise": "optimal"})


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "zero_inflated_negative_binomial", "multinomial"])
def test_a_decoder_of_counts_starts_at_the_training_rows_moments(tmp_path, name):
    rng = np.random.default_rng(0)
    rows = rng.poisson([3.0, 20.0, 7.0, 150.0, 1e3, 1e4, 3e4, 1e5], size=(500, 8)) * 1.0
    start = trained(tmp_path / "run", rows, name, steps=1, learning_rate=1e-9).model
    with torch.no_grad():  # a code of zeros meets the last layer's bias alone
        mean = start.decode(torch.zeros(1, 3)).mean[0, 0]
    index = split(len(rows), 0.1, 0)[0]
    np.testing.assert_allclose(mean, rows[index].mean(0), rtol=0.01)


@pytest.mark.parametrize("noise", ["shared", "fixed", "feature", "pixel", "optimal"])
def test_the_best_constant_laplace_decoder_is_scipys_fit(noise):
    rows = torch.from_numpy(np.random.default_rng(0).laplace([0.0, 3.0], [1.0, 0.5], (1500, 2)))
    found, _ = baseline(Laplace(noise, 1.3, (2,)), rows, rows)
    fits = [stats.laplace.fit(column) for column in rows.numpy().T]
    each = [fit[1] for fit in fits]
    width = {"fixed": [1.3, 1.3], "feature": each, "pixel": each}.get(noise, [np.mean(each)] * 2)
    truth = [stats.laplace.logpdf(x, fit[0], b).mean() for x, fit, b in zip(rows.numpy().T, fits, width, strict=True)]
    assert found == pytest.approx(-sum(truth), abs=2e-3)


def test_the_best_constant_multinomial_decoder_has_the_rows_shares():
    rows = np.random.default_rng(0).multinomial(30, [0.1, 0.2, 0.7], size=1000)
    found, _ = baseline(Multinomial(), torch.from_numpy(rows).double(), torch.from_numpy(rows).double())
    truth = [stats.multinomial.logpmf(row, 30, rows.sum(0) / rows.sum()) for row in rows]
    assert found == pytest.approx(-np.mean(truth), abs=1e-4)


def test_a_floor_is_added_to_each_deviation_in_quadrature():
    likelihood = Laplace("feature", 0.3, (2,), floor=0.4).double()
    assert likelihood.noise(None, None).exp().tolist() == pytest.approx([0.5, 0.5])
    with torch.no_grad():
        likelihood.noise.log_sigma.fill_(-50.0)
    assert likelihood.noise(None, None).exp().tolist() == pytest.approx([0.4, 0.4], rel=1e-4)
