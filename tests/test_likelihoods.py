"""Likelihoods against scipy, hand integrals, moments and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import nn

from vaelab.core.errors import BadInput
from vaelab.core.tables import pick
from vaelab.distributions.likelihoods import LIKELIHOODS, LOG_RATE_BOUND, LOG_SIGMA_BOUND, Decoder, Gaussian
from vaelab.distributions.observations import LOG_SINHC, BernoulliObservation
from vaelab.nets.conv import ConvDecoder
from vaelab.nets.mlp import MLP

SAMPLES, ROWS, SHAPE, MANY = 2, 3, (2, 5), 200_000
DOUBLE = {"dtype": torch.float64}


def poisson_rate(parameter):
    return np.exp(LOG_RATE_BOUND * np.tanh(parameter / LOG_RATE_BOUND))


def pixel_sigma(parameter):
    return np.exp(LOG_SIGMA_BOUND * np.tanh(parameter / LOG_SIGMA_BOUND))


def hand_continuous_bernoulli(parameters, x):
    """The density λ^x (1-λ)^(1-x), normalised by quadrature."""
    weight = special.expit(parameters[0])

    def form(t):
        return weight**t * (1 - weight) ** (1 - t)

    return math.log(form(x) / integrate.quad(form, 0, 1)[0])


# name: how to build it, draws of x for given shape, and log p of one entry from its own parameters
MEMBERS = {
    "bernoulli": (LIKELIHOODS["bernoulli"], lambda shape: torch.rand(shape, **DOUBLE).round(),
                  lambda p, x: stats.bernoulli.logpmf(x, special.expit(p[0]))),
    "continuous_bernoulli": (LIKELIHOODS["continuous_bernoulli"], lambda shape: torch.rand(shape, **DOUBLE),
                             hand_continuous_bernoulli),
    "gaussian fixed": (lambda: Gaussian("fixed", 0.3), lambda shape: torch.randn(shape, **DOUBLE),
                       lambda p, x: stats.norm.logpdf(x, p[0], 0.3)),
    "gaussian shared": (lambda: Gaussian("shared", 0.7), lambda shape: torch.randn(shape, **DOUBLE),
                        lambda p, x: stats.norm.logpdf(x, p[0], 0.7)),
    "gaussian feature": (lambda: Gaussian("feature", 0.7, (1,)), lambda shape: torch.randn(shape, **DOUBLE),
                         lambda p, x: stats.norm.logpdf(x, p[0], 0.7)),
    "gaussian pixel": (lambda: Gaussian("pixel"), lambda shape: torch.randn(shape, **DOUBLE),
                       lambda p, x: stats.norm.logpdf(x, p[0], pixel_sigma(p[1]))),
    "categorical": (lambda: LIKELIHOODS["categorical"](6), lambda shape: torch.randint(6, shape).double(),
                    lambda p, x: special.log_softmax(p)[int(x)]),
    "poisson": (LIKELIHOODS["poisson"], lambda shape: torch.poisson(torch.full(shape, 3.0, **DOUBLE)),
                lambda p, x: stats.poisson.logpmf(x, poisson_rate(p[0]))),
}  # fmt: skip
DENSITIES = {"continuous_bernoulli": (0, 1), "gaussian fixed": (-50, 50), "gaussian shared": (-50, 50),
             "gaussian feature": (-50, 50), "gaussian pixel": (-50, 50)}  # fmt: skip
MASSES = {"bernoulli": 2, "categorical": 6, "poisson": 400}


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
        expected[(sample, row, *entry)] = truth(own, x[(row, *entry)].item())
    # A deviation is kept in float32, and is as exact as that.
    observation = likelihood(parameters)
    torch.testing.assert_close(observation.per_entry(x), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(observation.log_prob(x), expected.sum((2, 3)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("level", [-30.0, -0.6, -0.5, -0.4999, -1e-9, 0.0, 1e-3, 0.4999, 0.5, 3.0, 30.0])
def test_densities_integrate_to_one_and_have_the_stated_mean(name, level):
    likelihood = MEMBERS[name][0]().double()
    parameters = torch.full((1, 1, likelihood.channels, 1), level, **DOUBLE)
    if likelihood.channels == 2:
        parameters[:, :, 1] = level / 30
    observation = likelihood(parameters)

    def density(x):
        return observation.log_prob(torch.full((1, 1), x, **DOUBLE)).exp().item()

    points, mean = (*DENSITIES[name],), observation.mean.item()
    inside = [mean] if points[0] < mean < points[1] else None
    total, _ = integrate.quad(density, *points, points=inside, limit=400, epsabs=1e-12, epsrel=1e-11)
    first, _ = integrate.quad(lambda x: x * density(x), *points, points=inside, limit=400, epsabs=1e-12, epsrel=1e-11)
    assert total == pytest.approx(1, abs=1e-9)
    assert first == pytest.approx(mean, abs=1e-8)


@pytest.mark.parametrize("name", MASSES)
def test_masses_sum_to_one_and_have_the_stated_mean(name):
    likelihood = MEMBERS[name][0]().double()
    observation = likelihood(torch.randn(1, 1, likelihood.channels, 1, **DOUBLE))
    values = torch.arange(MASSES[name], **DOUBLE)
    mass = torch.stack([observation.log_prob(value.view(1, 1)).exp().squeeze() for value in values])
    assert mass.sum().item() == pytest.approx(1, abs=1e-12)
    assert (mass * values).sum().item() == pytest.approx(observation.mean.item(), abs=1e-12)


def test_samples_have_the_stated_mean_and_the_generator_decides_them(member):
    likelihood, _, _, parameters = member
    likelihood.eval()
    observation = likelihood(parameters[:1, :1, ..., :1, :2].expand(1, MANY, -1, -1, -1))
    drawn, again = (observation.sample(torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(drawn, again)
    assert drawn.shape == observation.mean.shape == (1, MANY, 1, 2)
    error = drawn.std(1) / math.sqrt(MANY)
    assert ((drawn.mean(1) - observation.mean.mean(1)).abs() < 5 * error).all()


@pytest.mark.parametrize("logit", [-40.0, -2.0, 0.0, 1e-7, 2.0, 40.0])
def test_continuous_bernoulli_samples_follow_its_distribution_function(logit):
    observation = LIKELIHOODS["continuous_bernoulli"]()(torch.full((1, 5000, 1, 1), logit, **DOUBLE))
    drawn = observation.sample(torch.Generator().manual_seed(1)).flatten()

    def distribution_function(x):
        return x if abs(logit) < 1e-3 else special.expm1(logit * x) / special.expm1(logit)

    assert stats.kstest(drawn.numpy(), distribution_function).pvalue > 1e-4


@pytest.mark.parametrize("name", ["gaussian fixed", "gaussian pixel", "poisson"])
def test_samples_have_the_variance_of_the_distribution(name):
    likelihood = MEMBERS[name][0]().double()
    parameters = torch.full((1, 1, likelihood.channels, 1), 0.6, **DOUBLE)
    truth = {"gaussian fixed": 0.09, "gaussian pixel": pixel_sigma(0.6) ** 2, "poisson": poisson_rate(0.6)}[name]
    drawn = likelihood(parameters.expand(1, MANY, -1, -1)).sample()
    assert drawn.var().item() == pytest.approx(truth, rel=0.03)


def test_gradients_of_density_and_mean_are_finite_differences(member):
    likelihood, draw, _, parameters = member
    x = draw((ROWS, *SHAPE))

    def all_of_it(values):
        observation = likelihood(values)
        return observation.log_prob(x), observation.mean

    assert torch.autograd.gradcheck(all_of_it, parameters.requires_grad_())


@pytest.mark.parametrize("logit", [0.0, 1e-12, 1e-4, 0.49999, 0.50001, 5.0, 700.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_continuous_bernoulli_slope_is_the_observed_minus_the_mean(logit, sign):
    """In an exponential family d log p(x) / d logit = x - E[x]; its derivative is minus the variance."""
    parameters = torch.full((1, 1, 1, 1), sign * logit, **DOUBLE, requires_grad=True)
    observation = LIKELIHOODS["continuous_bernoulli"]()(parameters)
    log_prob = observation.log_prob(torch.full((1, 1), 0.3, **DOUBLE))
    (slope,) = torch.autograd.grad(log_prob, parameters, create_graph=True)
    assert slope.item() == pytest.approx(0.3 - observation.mean.item(), abs=1e-13)
    (curvature,) = torch.autograd.grad(slope, parameters)
    truth = -1 / 12 if logit < 1e-3 else 0.25 / math.sinh(min(logit, 600) / 2) ** 2 - 1 / logit**2
    assert curvature.item() == pytest.approx(truth, abs=1e-6)


def test_continuous_bernoulli_series_has_the_coefficients_of_the_bernoulli_numbers():
    """log(sinh(h) / h) is the sum of 2^(2n - 1) B_2n h^2n / (n (2n)!), as its derivative coth(h) - 1/h shows."""
    numbers = special.bernoulli(2 * len(LOG_SINHC))[2::2]
    truth = [2 ** (2 * n - 1) * number / (n * math.factorial(2 * n)) for n, number in enumerate(numbers, 1)]
    assert pytest.approx(truth, rel=1e-12) == LOG_SINHC
    logits = torch.tensor([0.4999, 1.0, 1.4], **DOUBLE)
    mean = LIKELIHOODS["continuous_bernoulli"]()(logits.view(1, 1, 1, 3)).mean.flatten()
    torch.testing.assert_close(mean, 0.5 + 0.5 / (logits / 2).tanh() - 1 / logits, rtol=0, atol=1e-14)


def test_continuous_bernoulli_in_float32_agrees_with_float64_near_the_middle():
    logits = torch.linspace(-2, 2, 4001, **DOUBLE).view(1, -1, 1, 1)
    results = []
    for parameters in (logits, logits.float()):
        parameters.requires_grad_()
        x = torch.full((4001, 1), 0.25).to(parameters)
        log_prob = LIKELIHOODS["continuous_bernoulli"]()(parameters).log_prob(x)
        (slope,) = torch.autograd.grad(log_prob.sum(), parameters)
        results.append((log_prob.double(), slope.double()))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("value", [1e4, -1e4, 1e6, -1e6])
def test_extreme_parameters_stay_finite_in_value_and_gradient(member, value):
    likelihood, draw, _, parameters = member
    parameters = torch.full_like(parameters, value).float().requires_grad_()
    likelihood = likelihood.float()
    observation = likelihood(parameters)
    log_prob = observation.log_prob(draw((ROWS, *SHAPE)).float())
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert observation.mean.isfinite().all()
    assert observation.sample().isfinite().all()
    assert parameters.grad.isfinite().all()


def test_low_precision_ends_at_the_likelihood(member):
    likelihood, draw, _, parameters = member
    x = draw((ROWS, *SHAPE)).float()
    rounded = parameters.bfloat16()
    likelihood = likelihood.float()
    log_prob = likelihood(rounded).log_prob(x)
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, likelihood(rounded.float()).log_prob(x))


def test_gray_targets_of_a_bernoulli_give_the_cross_entropy():
    logits, x = torch.randn(1, 3, 1, 4, **DOUBLE), torch.rand(3, 4, **DOUBLE)
    p = logits[0, :, 0].sigmoid()
    truth = (x * p.log() + (1 - x) * (1 - p).log()).sum(1)
    torch.testing.assert_close(LIKELIHOODS["bernoulli"]()(logits).log_prob(x)[0], truth)


NETS = {
    "mlp": (lambda channels: MLP(4, (5,), channels * 30), (1, 5, 6)),
    "linear": (lambda channels: MLP(4, (), channels * 30), (30,)),
    "conv": (lambda channels: ConvDecoder(4, (3,), (channels * 3, 9, 10)), (3, 9, 10)),
}


@pytest.mark.parametrize("name", ["bernoulli", "gaussian pixel", "categorical"])
@pytest.mark.parametrize("net", NETS)
def test_decoder_puts_each_parameter_where_the_likelihood_reads_it(name, net):
    build, shape = NETS[net]
    likelihood = MEMBERS[name][0]()
    decoder = Decoder(build(likelihood.channels), likelihood, shape)
    z = torch.randn(SAMPLES, ROWS, 4)
    mean = decoder(z).mean
    assert mean.shape == (SAMPLES, ROWS, *shape)
    torch.testing.assert_close(decoder(z[1]).mean[0], mean[1])
    by_hand = likelihood(decoder.net(z[1, 2:]).view(1, 1, likelihood.channels, *shape)).mean[0, 0]
    torch.testing.assert_close(mean[1, 2], by_hand)
    log_prob = decoder(z).log_prob(torch.ones(ROWS, *shape))
    log_prob.sum().backward()
    assert log_prob.shape == (SAMPLES, ROWS)
    assert all((parameter.grad != 0).any() for parameter in decoder.parameters())


def test_decoder_reads_the_shape_of_a_row_off_the_network_where_none_is_given():
    decoder = Decoder(NETS["conv"][0](2), Gaussian("pixel"))
    assert decoder(torch.zeros(2, 4)).mean.shape == (1, 2, 3, 9, 10)


REFUSED = {
    "wrong width": (
        lambda: Decoder(nn.Linear(2, 7), Gaussian("pixel"), (4,))(torch.zeros(3, 2)),
        "decoder: got a network with output (7,); the likelihood reads 2 numbers for each entry of a row of shape (4,)",
    ),
    "odd width": (
        lambda: Decoder(nn.Linear(2, 7), Gaussian("pixel"))(torch.zeros(3, 2)),
        "decoder: got a network with output (7,); the likelihood reads 2 numbers for each entry of a row of shape (3,)",
    ),
    "shape": (
        lambda: Gaussian("feature"),
        "shape: got (); every entry has a deviation of its own; pass the shape of a row: shape=(D,)",
    ),
    "noise": (lambda: Gaussian("pixels"), "likelihood.noise: got pixels; no such name; did you mean pixel?"),
    "sigma": (lambda: Gaussian("fixed", 0.0), "likelihood.sigma: got 0.0; must be a finite number above 0"),
    "name": (
        lambda: pick(LIKELIHOODS, "bernouli", "likelihood"),
        "likelihood: got bernouli; no such name; did you mean bernoulli?",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_in_a_sentence(call, message):
    with pytest.raises(BadInput) as refusal:
        call()
    assert str(refusal.value) == message


@pytest.mark.parametrize("spread", [10.0, 30.0, 100.0])
def test_bernoulli_masses_without_a_backward_pass_keep_their_digits(spread: float) -> None:
    """Sums of hundreds of large terms that nearly cancel, against double precision."""
    torch.manual_seed(0)
    logits = spread * torch.randn(50, 1, 784)
    x = (logits[0] + torch.randn(1, 784) > 0).float()
    exact = BernoulliObservation(logits.double()).log_prob(x.double())
    found = BernoulliObservation(logits).log_prob(x)
    with_gradient = BernoulliObservation(logits.requires_grad_()).log_prob(x).detach()
    assert (found - exact).abs().max() < 2e-7 * exact.abs().max() + 1e-4
    assert (found - with_gradient).abs().max() < 2e-7 * exact.abs().max() + 1e-4
