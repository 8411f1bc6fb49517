"""Posteriors besides the normal: flows, von Mises-Fisher, points; against autograd, quadrature and scipy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

from vaelab.core.errors import BadInput, MissingExtra
from vaelab.distributions import flows
from vaelab.distributions.delta import Delta, DeltaPosterior
from vaelab.distributions.flows import Flow, FlowPosterior, FlowPrior
from vaelab.distributions.kl import divergence
from vaelab.distributions.normal import StandardNormal
from vaelab.distributions.posteriors import GaussianPosterior
from vaelab.distributions.sphere import (
    Angle,
    OnSphere,
    UniformSphere,
    VonMisesFisher,
    VonMisesFisherPosterior,
    log_area,
    unit,
)
from vaelab.models.vae import VAE
from vaelab.objectives.elbo import ELBO

DOUBLE = torch.float64
KINDS = ["iaf", "coupling", "spline"]
LATENTS = [1, 2, 3, 5]


def bent(module: nn.Module, seed: int = 0) -> Any:
    """The module in float64, far from the identity at which it starts."""
    coins = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=coins, dtype=DOUBLE))
    return module


def flow_posterior(kind: str, latent: int, steps: int = 3) -> Flow:
    torch.manual_seed(1)
    module = bent(FlowPosterior(nn.Flatten(), 4, latent, kind, steps, (8, 8)))
    return module(torch.randn(3, 4, dtype=DOUBLE))


def flow_prior(latent: int) -> Flow:
    torch.manual_seed(1)
    return bent(FlowPrior(latent, 3, (8, 8)))()


# Flows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_log_density_is_that_of_autograd_s_jacobian_and_the_inverse_finds_it_again(kind: str, latent: int) -> None:
    q = flow_posterior(kind, latent)
    noise = torch.randn(4, 3, latent, dtype=DOUBLE)
    z, log_q = q.pushed(noise)
    for row in range(3):
        for sample in range(4):

            def push(e: Tensor, row: int = row, sample: int = sample) -> Tensor:
                full = noise.clone()
                full[sample, row] = e
                return q.pushed(full)[0][sample, row]

            jacobian = torch.autograd.functional.jacobian(push, noise[sample, row])
            normal = -0.5 * noise[sample, row].square().sum() - latent / 2 * math.log(2 * math.pi)
            expected = normal - torch.linalg.slogdet(jacobian).logabsdet
            assert log_q[sample, row].item() == pytest.approx(expected.item(), abs=1e-9)
    torch.testing.assert_close(q.log_prob(z), log_q, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("latent", LATENTS)
def test_the_flow_prior_s_density_agrees_with_its_samples_maps(latent: int) -> None:
    p = flow_prior(latent)
    z, log_p = p.pushed(torch.randn(50, 1, latent, dtype=DOUBLE))
    torch.testing.assert_close(p.log_prob(z), log_p, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("kind", [*KINDS, "prior"])
@pytest.mark.parametrize("latent", [1, 2])
def test_a_flow_integrates_to_one(kind: str, latent: int) -> None:
    q = flow_prior(latent) if kind == "prior" else flow_posterior(kind, latent)
    with torch.no_grad():
        spread = q.pushed(1.5 * torch.randn(4000, *q.noise_shape, dtype=DOUBLE))[0][:, 0]
    low, high = spread.amin(0) - 1, spread.amax(0) + 1
    axes = [torch.linspace(a, b, 20001 if latent == 1 else 300, dtype=DOUBLE) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes).reshape(-1, 1, latent).expand(-1, q.noise_shape[0], -1)
    with torch.no_grad():
        mass = q.log_prob(grid)[:, 0].exp().sum() * math.prod((axis[1] - axis[0]).item() for axis in axes)
    assert mass.item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_variance_are_those_of_samples(kind: str) -> None:
    q = flow_posterior(kind, 3)
    q.points = 2**14
    z = q.sample(200_000, torch.Generator().manual_seed(3))
    error = q.variance.sqrt() / 80
    assert ((z.mean(0) - q.mean).abs() < 5 * error).all()
    assert ((z.var(0) / q.variance - 1).abs() < 0.15).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_maps_it_is_the_diagonal_posterior_and_with_them_it_starts_near_it(kind: str) -> None:
    x, noise = torch.randn(3, 4, dtype=DOUBLE), torch.randn(2, 3, 2, dtype=DOUBLE)
    torch.manual_seed(0)
    module = FlowPosterior(nn.Flatten(), 4, 2, kind, 0, (8,)).double()
    plain = GaussianPosterior(nn.Flatten(), 4, 2).double()
    plain.head.load_state_dict(module.base.head.state_dict())
    q, normal = module(x), plain(x)
    for ours, theirs in zip(q.pushed(noise), normal.pushed(noise), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(q.mean, normal.mean)
    torch.testing.assert_close(q.variance, normal.variance)
    started = FlowPosterior(nn.Flatten(), 4, 2, kind, 4, (8,)).double()
    started.base.load_state_dict(module.base.state_dict())
    assert (started(x).pushed(noise)[0] - q.pushed(noise)[0]).abs().max() < 0.1


class Banana(nn.Module):
    """x = z2 + z1² and little noise: given x the posterior is a bow, which no normal is."""

    def forward(self, z: Tensor) -> Any:
        normal = torch.distributions.Normal((z[..., 1:] + z[..., :1].square()) / 0.3, 1.0)
        return torch.distributions.Independent(normal, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_posterior_has_the_better_bound_where_the_posterior_is_a_banana(kind: str) -> None:
    found = {}
    for posterior in ("diagonal", kind):
        torch.manual_seed(0)
        encoder = (
            GaussianPosterior(nn.Flatten(), 1, 2)
            if posterior == "diagonal"
            else FlowPosterior(nn.Flatten(), 1, 2, kind, 4, (32,))
        )
        model = VAE(encoder, Banana(), latent=2).double()
        x = torch.full((1, 1), 1.5 / 0.3, dtype=DOUBLE)
        optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
        for _ in range(500):
            optimizer.zero_grad()
            ELBO(samples=32)(model.draw(x, 32), {"beta": 1.0}).total.backward()
            optimizer.step()
        with torch.no_grad():
            found[posterior] = model.draw(x, 20_000).elbo.item()
    axis = torch.linspace(-6, 6, 1201, dtype=DOUBLE)
    grid = torch.cartesian_prod(axis, axis)
    joint = StandardNormal(2, dtype=DOUBLE).log_prob(grid[:, None])[:, 0]
    joint = joint + Banana()(grid).log_prob(torch.full((1,), 5.0, dtype=DOUBLE))
    truth = (joint.logsumexp(0) + 2 * math.log((axis[1] - axis[0]).item())).item()
    assert found[kind] < truth
    assert truth - found[kind] < 0.75 * (truth - found["diagonal"])


def test_importing_the_flows_leaves_the_checks_of_torch_distributions_on() -> None:
    torch.manual_seed(0)
    FlowPrior(2, 1, (4,))
    with pytest.raises(ValueError, match="constraint"):
        torch.distributions.Normal(0.0, -1.0)


def test_what_is_missing_or_unknown_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="did you mean iaf"):
        flows.flow_steps("iat", 2, 1, (4,))
    with pytest.raises(BadInput, match=r"noise: got \(2, 3\); must have the shape"):
        flow_posterior("iaf", 2).rsample(2, torch.zeros(2, 3))
    monkeypatch.setitem(__import__("sys").modules, "zuko", None)
    with pytest.raises(MissingExtra, match=r"model.posterior=iaf.*vaelab\[flows\]"):
        FlowPosterior(nn.Flatten(), 4, 2, "iaf")


# The sphere -----------------------------------------------------------------------------------------------------------

SIZES = [2, 3, 4, 7, 16, 50]
KAPPAS = torch.tensor([1e-3, 0.3, 1.0, 7.0, 60.0, 1e3, 1e6], dtype=DOUBLE)


def direction(rows: int, size: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    noise = torch.randn(rows, size, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
    return nn.functional.normalize(noise, dim=-1).to(dtype)


@pytest.mark.parametrize("size", SIZES)
def test_the_integral_is_the_bessel_function_of_scipy_and_so_is_its_gradient(size: int) -> None:
    kappa, order = KAPPAS.clone().requires_grad_(), size / 2 - 1
    found, x = Angle(kappa, size), KAPPAS.numpy()
    expected = np.log(special.ive(order, x)) + 0.5 * math.log(math.pi) + special.gammaln(order + 0.5)
    expected += order * np.log(2 / x)
    np.testing.assert_allclose(found.log_total.detach(), expected, rtol=1e-11, atol=1e-11)
    (slope,) = torch.autograd.grad(found.log_total.sum(), kappa, retain_graph=True)
    ratio = special.ive(order + 1, x) / special.ive(order, x) - 1
    np.testing.assert_allclose(slope, ratio, atol=1e-11)
    # A'(k) = 1 - A² - (L - 1) A / k
    (bend,) = torch.autograd.grad(found.cosine.sum(), kappa)
    mean = 1 + ratio
    np.testing.assert_allclose(bend, -ratio * (1 + mean) - (size - 1) * mean / x, atol=1e-8)


@pytest.mark.parametrize("kappa", [0.0, 1e-3, 50.0, 1e8])
@pytest.mark.parametrize("size", [2, 300, 2000])
def test_where_bessel_functions_underflow_the_integral_does_not(size: int, kappa: float) -> None:
    found = Angle(torch.tensor([kappa], dtype=DOUBLE, requires_grad=True), size)
    assert torch.isfinite(found.log_total).all()
    assert -2 <= found.cosine.item() <= 0
    if kappa == 0:
        flat = 0.5 * math.log(math.pi) + special.gammaln((size - 1) / 2) - special.gammaln(size / 2)
        assert found.log_total.item() == pytest.approx(flat, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_density_and_moments_are_those_of_scipy(size: int, dtype: torch.dtype) -> None:
    kappa = torch.tensor([[0.2], [3.0], [40.0]], dtype=dtype)
    q = VonMisesFisher(direction(3, size, dtype), kappa)
    z = q.rsample(20_000, torch.randn(20_000, 3, size + 1, dtype=dtype, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(z.square().sum(-1), torch.ones(20_000, 3, dtype=dtype))
    log_q = q.log_prob(z)
    for row in range(3):
        mu = q.direction[row].double().numpy()
        theirs = stats.vonmises_fisher(mu / np.linalg.norm(mu), kappa[row].item())
        points = z[:50, row].double().numpy()
        expected = theirs.logpdf(points / np.linalg.norm(points, axis=1, keepdims=True))
        np.testing.assert_allclose(log_q[:50, row], expected, atol=1e-9 if dtype == DOUBLE else 2e-4)
        drawn = torch.as_tensor(theirs.rvs(20_000, random_state=1))
        cosines = torch.stack([z[:, row].double(), drawn]) @ torch.as_tensor(mu)
        assert stats.ks_2samp(*cosines.numpy()).pvalue > 1e-3
    error = 5 * (q.variance / 20_000).sqrt()
    assert ((z.mean(0) - q.mean).abs() < error).all()
    torch.testing.assert_close(z.var(0), q.variance, rtol=0.08, atol=1e-4)


def test_samples_have_the_log_density_that_comes_with_them_and_integrate_to_one() -> None:
    q = VonMisesFisher(direction(4, 5), torch.tensor([[0.0], [2.0], [30.0], [1e4]], dtype=DOUBLE))
    z, log_q = q.rsample_with_log_prob(1000)
    torch.testing.assert_close(q.log_prob(z), log_q, atol=1e-8, rtol=1e-8)
    weights = (UniformSphere(5, dtype=DOUBLE).log_prob(z) - log_q)[:, :2].exp()
    assert ((weights.mean(0) - 1).abs() < 5 * weights.std(0) / 1000**0.5 + 1e-12).all()
    angle = torch.linspace(0, 2 * math.pi, 4001, dtype=DOUBLE)[:-1]
    circle = torch.stack([angle.cos(), angle.sin()], -1)[:, None]
    two = VonMisesFisher(direction(1, 2), torch.tensor([[4.0]], dtype=DOUBLE))
    assert (two.log_prob(circle).exp().mean() * 2 * math.pi).item() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("size", [2, 3, 8, 40])
def test_the_divergence_from_the_uniform_distribution(size: int) -> None:
    kappa = torch.tensor([[0.0], [0.5], [5.0], [200.0]], dtype=DOUBLE, requires_grad=True)
    q, p = VonMisesFisher(direction(4, size), kappa), UniformSphere(size, dtype=DOUBLE)
    z, log_q = q.rsample_with_log_prob(40_000)
    kl, exact = divergence(q, p, z, log_q)
    assert exact
    assert kl.shape == (4, 1)
    assert kl[0].item() == pytest.approx(0, abs=1e-12)
    drawn = log_q - p.log_prob(z)
    assert ((drawn.mean(0) - kl[:, 0]).abs() < 5 * drawn.std(0) / 200 + 1e-9).all()
    (slope,) = torch.autograd.grad(kl.sum(), kappa)
    step = 1e-4

    def shifted(by: float) -> Tensor:
        return divergence(VonMisesFisher(q.direction, (kappa + by).detach()), p, z)[0]

    torch.testing.assert_close(
        slope[1:], ((shifted(step) - shifted(-step)) / (2 * step))[1:].detach(), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_gradient_of_samples_is_that_of_the_expectation(size: int) -> None:
    """Along the path by finite differences at fixed noise; and in the mean, d E[mu.z] / d kappa = A'(kappa)."""
    mu = direction(2, size)
    kappa = torch.tensor([[0.7], [9.0]], dtype=DOUBLE, requires_grad=True)
    noise = torch.randn(50_000, 2, size + 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    cosine = (VonMisesFisher(mu, kappa).pushed(noise)[0] * mu).sum(-1)
    (slope,) = torch.autograd.grad(cosine.mean(0).sum(), kappa)
    along = [(VonMisesFisher(mu, kappa.detach() + by).pushed(noise)[0] * mu).sum(-1).mean(0) for by in (1e-4, -1e-4)]
    torch.testing.assert_close(slope[:, 0], (along[0] - along[1]) / 2e-4, atol=1e-7, rtol=1e-5)
    x = kappa.detach()[:, 0].numpy()
    mean = special.ive(size / 2, x) / special.ive(size / 2 - 1, x)
    np.testing.assert_allclose(slope[:, 0], 1 - mean**2 - (size - 1) * mean / x, rtol=0.02)


def test_the_gradient_reaches_the_direction() -> None:
    raw = torch.randn(2, 4, dtype=DOUBLE, requires_grad=True)
    noise = torch.randn(3, 2, 5, dtype=DOUBLE)

    def value(raw: Tensor) -> Tensor:
        q = VonMisesFisher(nn.functional.normalize(raw, dim=-1), torch.full((2, 1), 3.0, dtype=DOUBLE))
        return q.pushed(noise)[0]

    assert torch.autograd.gradcheck(value, raw)


def test_the_sphere_in_a_model() -> None:
    module = VonMisesFisherPosterior(nn.Flatten(), 4, 3)
    module.start()
    assert module(torch.zeros(1, 4)).concentration.item() == pytest.approx(3, abs=1e-5)
    with pytest.raises(BadInput, match="at least 2 dimensions"):
        VonMisesFisherPosterior(nn.Flatten(), 4, 1)
    z = UniformSphere(3).sample(7, torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(7))
    net = OnSphere(nn.Identity(), 3)
    torch.testing.assert_close(net(5 * z), net(z))
    torch.testing.assert_close(net(torch.cat([z, z], -1))[:, 3:], z)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kappa", [1e12, 1e15])
def test_a_concentration_is_good_up_to_what_is_said(size: int, kappa: float) -> None:
    """For large kappa the angle is that of a normal across: KL = log area + (L - 1) / 2 (log(kappa / 2 pi) - 1)."""
    given = torch.tensor([[kappa]], dtype=DOUBLE, requires_grad=True)
    q, p = VonMisesFisher(direction(1, size), given), UniformSphere(size, dtype=DOUBLE)
    z, log_q = q.rsample_with_log_prob(200)
    kl = q.divergence(p, z)[0]
    expected = log_area(size) + (size - 1) / 2 * (math.log(kappa / (2 * math.pi)) - 1)
    assert kl.item() == pytest.approx(expected, rel=1e-6)
    (slope,) = torch.autograd.grad(kl.sum() + 0 * z.sum() + 0 * log_q.sum(), given)
    assert slope.item() == pytest.approx((size - 1) / (2 * kappa), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_head_can_ask_for_no_concentration_or_direction_that_has_no_samples(dtype: torch.dtype) -> None:
    module = VonMisesFisherPosterior(nn.Flatten(), 1, 3).to(dtype)
    x = torch.tensor([[-1e30], [-1e3], [0.0], [30.0], [1e6], [1e13], [1e18], [1e30]], dtype=dtype)
    with torch.no_grad():
        module.head.weight.copy_(torch.tensor([[0.0], [0.0], [0.0], [1.0]]))
        module.head.bias.zero_()
    q = module(x)
    z, log_q = q.rsample_with_log_prob(50)
    assert torch.equal(q.direction, torch.eye(3, dtype=dtype)[:1].expand(8, 3)), "a zero stands for the first axis"
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(50, 8, dtype=dtype))
    kl = q.divergence(UniformSphere(3, dtype=dtype), z)[0]
    (z.sum() + log_q.sum() + kl.sum()).backward()
    assert all(part.isfinite().all() for part in (log_q, kl, q.mean, q.variance, module.head.bias.grad))
    assert (q.concentration.diff(dim=0) >= 0).all()
    assert q.concentration.max() <= 1e12
    torch.testing.assert_close(q.concentration[2:5], nn.functional.softplus(x[2:5]), rtol=2e-6, atol=0)


def test_a_direction_that_is_one_is_left_as_it_is() -> None:
    v = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unit(v), nn.functional.normalize(v, dim=-1))
    tiny = torch.tensor([[1e-13, 0.0], [0.0, 1e-30], [0.0, -1e-9]])
    torch.testing.assert_close(unit(tiny), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, -1.0]]))


# Points -------------------------------------------------------------------------------------------------------------


def test_a_point_is_its_own_sample_and_has_no_density() -> None:
    q = DeltaPosterior(nn.Flatten(), 4, 2)(torch.randn(3, 4))
    assert torch.equal(q.rsample(2), q.mean.expand(2, 3, 2))
    assert q.variance.abs().sum() == 0
    kl, exact = divergence(q, StandardNormal(2), q.rsample(1))
    assert kl.tolist() == [[0.0], [0.0], [0.0]]
    assert exact
    with pytest.raises(BadInput, match=r"model.posterior: got delta; codes without noise have no density"):
        q.log_prob(q.rsample(1))
    with pytest.raises(BadInput, match="take none"):
        q.rsample(1, torch.zeros(1, 3, 2))
    assert Delta(torch.zeros(1, 2)).sample(4).shape == (4, 2)
