"""What this library minimises passes its own audit: every likelihood with the bound and its weighted relatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vaelab
from vaelab.core.output import VAEOutput
from vaelab.distributions.kl import divergence
from vaelab.distributions.likelihoods import LIKELIHOODS, Likelihood
from vaelab.distributions.normal import DiagonalNormal, StandardNormal
from vaelab.distributions.posteriors import SCALES
from vaelab.objectives.elbo import ELBO

SIZES = {"batch": 6, "pixels": 12, "latents": 4}


def loss_of(likelihood: Likelihood, objective: ELBO, scale: str = "plain", levels_axis: int | None = None) -> Any:
    """An objective as a function of the decoder's output and the heads, through the library's own distributions."""

    def loss(x: Tensor, output: Tensor, mu: Tensor, head: Tensor) -> Tensor:
        posterior = DiagonalNormal(mu, 0.5 * head) if scale == "plain" else DiagonalNormal(mu, *SCALES[scale][0](head))
        prior = StandardNormal(mu.shape[-1], dtype=mu.dtype)
        z = posterior.rsample(1, torch.zeros(1, *mu.shape, dtype=mu.dtype))
        parameters = output[None] if levels_axis is not None else output[None, :, None]
        observed = likelihood(parameters)
        kl, exact = divergence(posterior, prior, z)
        record = VAEOutput(x, z, observed.log_prob(x), kl, exact, posterior, prior, observed)
        return objective(record, objective.weights(0)).total

    return loss


FAMILIES = {
    "bernoulli": ("Bernoulli on logits", None, 1.0),
    "continuous_bernoulli": ("continuous Bernoulli on logits", None, 1.0),
    "gaussian": ("squared error", None, 1.0),
    "poisson": ("Poisson on log-rates", "counts", 1.0),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("beta", [1.0, 4.0, 0.1])
def test_every_likelihood_with_the_bound(name: str, beta: float) -> None:
    family, data, _ = FAMILIES[name]
    report = vaelab.audit(loss_of(LIKELIHOODS[name](), ELBO(beta=beta)), declared_beta=beta, sizes=SIZES, family=data)
    assert report.severity in ("ok", "info"), report
    clamped = name == "poisson"  # its log-rate is softly clamped at 20, which bends it a little everywhere
    assert report.effective_beta == pytest.approx(beta, rel=1e-2 if clamped else 1e-6)
    assert report.reconstruction == family and report.second_head == "log-variance"
    assert all(exponent == 0 for exponent in report.scaling.values())


def test_the_categorical_likelihood() -> None:
    report = vaelab.audit(
        loss_of(LIKELIHOODS["categorical"](), ELBO(), levels_axis=1), family="categorical", inputs="x output mu head"
    )
    assert report.severity in ("ok", "info"), report
    assert report.effective_beta == pytest.approx(1, rel=1e-6) and report.reconstruction == "categorical on logits"


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_a_fixed_noise_is_the_implied_one(sigma: float) -> None:
    fixed = vaelab.distributions.likelihoods.Gaussian("fixed", sigma)  # type: ignore[attr-defined]
    report = vaelab.audit(loss_of(fixed, ELBO()), sizes=SIZES)
    assert report.severity in ("ok", "info"), report
    assert report.implied_noise == pytest.approx(sigma**2, rel=1e-5)


def test_noise_in_closed_form_is_recognised() -> None:
    optimal = vaelab.distributions.likelihoods.Gaussian("optimal")  # type: ignore[attr-defined]
    report = vaelab.audit(loss_of(optimal, ELBO()), sizes=SIZES)
    assert report.severity in ("ok", "info"), report
    assert report.reconstruction == "Gaussian with optimal noise"
    assert report.effective_beta == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    "objective", [ELBO(free_bits=0.5), ELBO(free_bits=2.0, free_bits_per="group"), ELBO(capacity=25.0)]
)
def test_floors_and_capacities_are_information(objective: ELBO) -> None:
    report = vaelab.audit(loss_of(LIKELIHOODS["bernoulli"](), objective), sizes=SIZES)
    assert "KL007" in report.codes and report.severity == "info", report
    threshold = next(f for f in report.findings if f.code == "KL007").measured
    assert threshold == pytest.approx(objective.free_bits or 25.0, rel=0.03)


@pytest.mark.parametrize("scale", SCALES)
def test_the_posteriors_own_scales(scale: str) -> None:
    report = vaelab.audit(loss_of(LIKELIHOODS["bernoulli"](), ELBO(), scale), sizes=SIZES)
    assert report.severity in ("ok", "info"), report
    assert report.effective_beta == pytest.approx(1, rel=1e-3)
