"""Gaussian likelihoods whose deviation is learned, or follows from the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from vaelab.distributions.likelihoods import Gaussian

SAMPLES, ROWS, SHAPE = 2, 3, (2, 5)
DOUBLE = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_optimal_noise_maximises_the_density_and_needs_no_gradient_of_its_own():
    parameters = torch.randn(SAMPLES, ROWS, 1, *SHAPE, **DOUBLE, requires_grad=True)
    x = torch.randn(ROWS, *SHAPE, **DOUBLE)
    log_prob = Gaussian("optimal").double()(parameters).log_prob(x)
    fixed = [Gaussian("fixed", sigma).double()(parameters).log_prob(x).sum() for sigma in np.geomspace(0.1, 10, 200)]
    assert max(fixed).item() <= log_prob.sum().item() < max(fixed).item() + 0.1

    error = (x - parameters.select(2, 0)).square().mean()
    truth = -0.5 * SAMPLES * ROWS * math.prod(SHAPE) * (error.log() + 1 + math.log(2 * math.pi))
    torch.testing.assert_close(log_prob.sum(), truth)
    through_sigma, detached = (torch.autograd.grad(value, parameters)[0] for value in (truth, log_prob.sum()))
    torch.testing.assert_close(detached, through_sigma)


def test_optimal_noise_keeps_a_running_average_for_evaluation():
    likelihood, mean = Gaussian("optimal", 0.5).double(), torch.zeros(1, 2, 1, 3, **DOUBLE)
    likelihood.eval()
    x = torch.ones(2, 3, **DOUBLE)
    untrained = likelihood(mean).log_prob(x)
    torch.testing.assert_close(untrained, torch.full((1, 2), 3 * stats.norm.logpdf(1, 0, 0.5), **DOUBLE))
    likelihood.train()
    for size in (1.0, 2.0, 3.0):
        likelihood(mean).log_prob(size * x)
    likelihood.eval()
    decay = likelihood.noise.DECAY
    variance = (decay**2 * 1 + decay * 4 + 9) / (decay**2 + decay + 1)
    evaluated = likelihood(mean).log_prob(x)
    torch.testing.assert_close(
        evaluated, torch.full((1, 2), 3 * stats.norm.logpdf(1, 0, math.sqrt(variance)), **DOUBLE)
    )
    loaded = Gaussian("optimal", 0.5).double().eval()
    loaded.load_state_dict(likelihood.state_dict())
    assert torch.equal(loaded(mean).log_prob(x), evaluated)


def test_optimal_noise_survives_a_perfect_fit():
    parameters = torch.zeros(1, 2, 1, 3, requires_grad=True)
    log_prob = Gaussian("optimal")(parameters).log_prob(torch.zeros(2, 3))
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert parameters.grad.isfinite().all()


def test_shared_noise_is_learned():
    likelihood = Gaussian("shared", 2.0)
    likelihood(torch.zeros(1, 4, 1, 3)).log_prob(torch.ones(4, 3)).sum().backward()
    # d log N / d log σ = (x - μ)² / σ² - 1
    assert likelihood.noise.log_sigma.grad.item() == pytest.approx(12 * (0.25 - 1))
