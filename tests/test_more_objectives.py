"""Importance-weighted bounds, penalties and players, against brute force, closed forms and exact models."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch import distributions as td

import vaelab
from vaelab.core.config import Config, build_config
from vaelab.core.errors import BadInput
from vaelab.core.facts import Facts
from vaelab.core.output import VAEOutput
from vaelab.distributions import DiagonalNormal, FullNormal, StandardNormal, as_distribution, divergence
from vaelab.models.build import build_model, resolve
from vaelab.models.fits import refuse_misfits
from vaelab.nets.mlp import MLP
from vaelab.objectives import (
    ELBO,
    OBJECTIVES,
    CodeCritic,
    Covariance,
    Critic,
    DensityRatio,
    Discrepancy,
    ImportanceWeighted,
    Penalised,
    Perceptual,
    RowCritic,
    TotalCorrelation,
    build_objective,
)
from vaelab.objectives.divergence import prior_draws
from vaelab.rulers import LinearGaussian, expected_bound, log_standard_normal
from vaelab.training.job import _refuse_slices

ROWS, LATENT = 6, 3


def coins(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=coins(seed), dtype=torch.float64)


def small_model() -> vaelab.VAE:
    torch.manual_seed(0)
    return vaelab.VAE(nn.Linear(5, 2 * LATENT), nn.Linear(LATENT, 5), likelihood="bernoulli", latent=LATENT).double()


X = (random(ROWS, 5, seed=9) > 0).double()


def record(samples: int, rows: int = ROWS, seed: int = 0, prior: Any = None, full: bool = False) -> VAEOutput:
    """A record of a random posterior, with gradients to its parameters."""
    mean = random(rows, LATENT, seed=seed).requires_grad_()
    log_std = (random(rows, LATENT, seed=seed + 1) * 0.3 - 0.5).requires_grad_()
    factor = torch.diag_embed(log_std.exp()) + random(rows, LATENT, LATENT, seed=seed + 5).tril(-1) * 0.2
    q = FullNormal(mean, factor) if full else DiagonalNormal(mean, log_std)
    p = StandardNormal(LATENT, dtype=torch.float64) if prior is None else prior
    z = q.rsample(samples, random(samples, rows, LATENT, seed=seed + 2))
    kl, exact = divergence(q, p, z)
    observed = td.Normal(z @ random(LATENT, 4, seed=seed + 3), 1.0)
    x = random(rows, 4, seed=seed + 4)
    return VAEOutput(x, z, observed.log_prob(x).sum(-1), kl, exact, q, p, observed)


# Importance-weighted bounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "outer", "mix"), [(1, 1, 0.0), (5, 1, 0.0), (6, 3, 0.0), (6, 1, 0.3), (6, 2, 1.0)])
@pytest.mark.parametrize("doubly", [False, True])
def test_the_value_is_that_of_numpy(samples: int, outer: int, mix: float, doubly: bool) -> None:
    output = record(samples)
    loss = ImportanceWeighted(samples, outer=outer, mix=mix, doubly=doubly)(output, {"beta": 1.0})
    log_w = output.log_weights.detach().numpy()
    groups = [logsumexp(part, 0) - math.log(samples // outer) for part in np.split(log_w, outer)]
    by_hand = -(mix * log_w.mean(0) + (1 - mix) * np.mean(groups, 0))
    assert loss.total.item() == pytest.approx(by_hand.mean(), rel=1e-12)
    np.testing.assert_allclose(loss.terms["negative_bound"], by_hand, rtol=1e-12)


def test_one_sample_is_the_elbo_by_monte_carlo_whatever_closed_form_there_is() -> None:
    heavy = as_distribution(td.StudentT(5.0, torch.zeros(LATENT).double(), torch.ones(LATENT).double()))
    for prior, exact in ((None, True), (heavy, False)):
        output = record(1, prior=prior)
        assert output.kl_is_exact is exact
        total = ImportanceWeighted(1)(output, {"beta": 1.0}).total
        kl = output.log_qz - output.log_pz
        assert total.item() == pytest.approx((kl - output.log_px).mean().item(), rel=1e-13)
        if not exact:
            assert total.item() == pytest.approx(ELBO()(output, {"beta": 1.0}).total.item(), rel=1e-13)


def test_beta_tempers_the_ratio_and_the_bound_shown_stays() -> None:
    output = record(4)
    loss = ImportanceWeighted(4, beta=0.5)(output, {"beta": 0.5})
    tempered = output.log_px + 0.5 * (output.log_pz - output.log_qz)
    assert loss.total.item() == pytest.approx(-(tempered.logsumexp(0) - math.log(4)).mean().item())
    plain = ImportanceWeighted(4)(output, {"beta": 1.0}).terms["negative_bound"]
    torch.testing.assert_close(loss.terms["negative_bound"], plain)


@pytest.mark.parametrize(("outer", "mix"), [(1, 0.0), (2, 0.0), (1, 0.4)])
def test_its_gradient_is_that_of_finite_differences(outer: int, mix: float) -> None:
    model, noise = small_model(), random(4, ROWS, LATENT)
    names = dict(model.named_parameters())
    objective = ImportanceWeighted(4, outer=outer, mix=mix)

    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return objective(self.model.draw(X, 4, noise), {"beta": 1.0}).total

    def loss(*values: Tensor) -> Tensor:
        return torch.func.functional_call(Drawn(), {f"model.{n}": v for n, v in zip(names, values, strict=True)})

    assert torch.autograd.gradcheck(loss, tuple(names.values()))


def linear_gaussian() -> tuple[LinearGaussian, vaelab.VAE, Tensor]:
    """An exact model and a VAE that is it, with a posterior that is off."""
    weight, offset = np.array([[1.0], [-0.5], [2.0]]), np.array([0.1, 0.2, -0.3])
    exact = LinearGaussian(weight, offset, 0.25)
    decoder = nn.Linear(1, 3)
    likelihood = vaelab.distributions.likelihoods.Gaussian("fixed", 0.5)  # type: ignore[attr-defined]
    model = vaelab.VAE(nn.Linear(3, 2), decoder, likelihood=likelihood, latent=1).double()
    with torch.no_grad():
        decoder.weight.copy_(torch.from_numpy(weight))
        decoder.bias.copy_(torch.from_numpy(offset))
        for parameter in model.encoder.parameters():
            parameter.copy_(random(*parameter.shape, seed=3) * 0.3)
    return exact, model, torch.from_numpy(exact.sample(3, seed=1)[0])


def test_bounds_rise_with_k_to_log_p_and_their_mean_is_the_exact_one() -> None:
    exact, model, x = linear_gaussian()
    q = model.encode(x)
    mean, std = q.mean.detach().numpy(), q.std.detach().numpy()

    def log_weight(noise: np.ndarray) -> np.ndarray:
        z = mean[None] + std[None] * noise[:, None]
        log_q = log_standard_normal(noise)[:, None] - np.log(std[:, 0])
        return np.stack([exact.log_joint(x.numpy()[[i]], z[:, i]) for i in range(len(x))], 1) - log_q

    truth = exact.log_prob(x.numpy())
    last = np.full(len(x), -np.inf)
    for samples in (1, 2, 5, 20):
        expected = expected_bound(log_weight, 1, samples)
        assert (expected > last).all() and (expected < truth).all()
        last = expected
        with torch.no_grad():
            many = model.draw(x, samples * 4000, random(samples * 4000, len(x), 1, seed=samples))
            objective = ImportanceWeighted(samples * 4000, outer=4000)
            found = -objective(many, {"beta": 1.0}).terms["negative_bound"].numpy()
            parts = many.log_weights.unflatten(0, (4000, samples)).logsumexp(1) - math.log(samples)
        error = parts.std(0).numpy() / math.sqrt(4000)
        assert (np.abs(found - expected) < 4.5 * error).all()


def gradients(objective: ImportanceWeighted, draws: int) -> tuple[Tensor, Tensor]:
    """Of the encoder and of the decoder for many draws, [draws, N] each."""
    model, found = small_model(), []
    for seed in range(draws):
        noise = random(objective.samples, ROWS, LATENT, seed=seed)
        total = objective(model.draw(X, objective.samples, noise), {"beta": 1.0}).total
        found.append(torch.autograd.grad(total, [*model.encoder.parameters(), *model.decoder.parameters()]))
    count = len(list(model.encoder.parameters()))
    parts = [[torch.cat([g.flatten() for g in each[s]]) for each in found] for s in (slice(count), slice(count, None))]
    return torch.stack(parts[0]), torch.stack(parts[1])


@pytest.mark.parametrize(("outer", "mix"), [(1, 0.0), (2, 0.0), (1, 0.5)])
def test_the_doubly_reparameterised_gradient_has_the_same_mean_and_less_variance(outer: int, mix: float) -> None:
    (plain, decoder), (doubly, other) = (
        gradients(ImportanceWeighted(8, outer=outer, mix=mix, doubly=d), 500) for d in (False, True)
    )
    torch.testing.assert_close(decoder, other)
    apart = plain - doubly
    t = apart.mean(0) / (apart.std(0) / math.sqrt(len(apart)))
    assert t.abs().max() < 4.5  # of 36 entries
    ratio = (doubly.var(0).sum() / plain.var(0).sum()).item()
    assert ratio < 0.6  # 0.1 to 0.4 as measured


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("outer", "mix"), [(1, 0.0), (2, 0.0), (1, 0.5)])
def test_it_has_the_same_mean_at_every_beta_of_a_linear_gaussian_model(outer: int, mix: float, beta: float) -> None:
    """In each row's own parameters of q, of which many equal rows are as many draws."""
    draws, weight = 20_000, random(LATENT, 5, seed=3)
    mean = random(1, LATENT, seed=4).repeat(draws, 1).requires_grad_()
    log_std = torch.full_like(mean, -0.7).requires_grad_()
    q, x = DiagonalNormal(mean, log_std), random(1, 5, seed=6).expand(draws, -1)
    z = q.rsample(4, random(4, draws, LATENT, seed=7))
    log_px = td.Normal(z @ weight, 1.0).log_prob(x).sum(-1)
    p = StandardNormal(LATENT, dtype=torch.float64)
    output = VAEOutput(x, z, log_px, z.new_zeros(draws, 1), False, q, p, None)
    plain, doubly = (
        ImportanceWeighted(4, outer=outer, mix=mix, doubly=doubly)(output, {"beta": beta}).total * draws
        for doubly in (False, True)
    )
    ends = [mean, log_std]
    plain, doubly = (torch.cat(torch.autograd.grad(total, ends, retain_graph=True), 1) for total in (plain, doubly))
    apart = plain - doubly
    error = apart.std(0) / math.sqrt(draws) + 1e-12  # without the ratio log q has no part, and both are the same
    assert (apart.mean(0) / error).abs().max() < 4.5  # of 6 entries


def test_a_single_sample_leaves_the_path_alone() -> None:
    """At K = 1 the estimator is the ELBO's without the score of log q(z|x)."""
    output = record(1)
    q = output.posterior
    (found,) = torch.autograd.grad(
        ImportanceWeighted(1, doubly=True)(output, {"beta": 1.0}).total, q.log_std, retain_graph=True
    )
    frozen = td.Normal(q.mean.detach(), q.std.detach()).log_prob(output.z).sum(-1)
    (path,) = torch.autograd.grad((frozen - output.log_pz - output.log_px).mean(), q.log_std)
    torch.testing.assert_close(found, path)


def test_the_record_is_left_as_it_was() -> None:
    """Twice the same gradient from one record, and what else reads z has its own."""
    output, objective = record(4), ImportanceWeighted(4, doubly=True)
    first, second = (
        torch.autograd.grad(objective(output, {"beta": 1.0}).total, output.posterior.mean, retain_graph=True)[0]
        for _ in range(2)
    )
    torch.testing.assert_close(first, second)
    (alone,) = torch.autograd.grad(output.z.sum(), output.posterior.mean, retain_graph=True)
    torch.testing.assert_close(alone, torch.full_like(alone, 4.0))
    with torch.no_grad():
        assert objective(output, {"beta": 1.0}).total.item() == pytest.approx(
            ImportanceWeighted(4)(output, {"beta": 1.0}).total.item()
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"samples": 5, "outer": 2}, "must fall evenly into the 2 groups"),
        ({"mix": 1.5}, "mix: got 1.5"),
        ({"beta": math.nan}, "beta: got nan"),
        ({"samples": 0}, "samples"),
    ],
)
def test_wrong_numbers_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ImportanceWeighted(**arguments)


def test_no_normal_posterior_no_doubly_reparameterised_gradient() -> None:
    output = record(2)
    output.posterior = as_distribution(td.Laplace(torch.zeros(ROWS, LATENT), torch.ones(ROWS, LATENT)))
    with pytest.raises(BadInput, match="needs a normal posterior"):
        ImportanceWeighted(2, doubly=True)(output, {"beta": 1.0})


# Total correlation ----------------------------------------------------------------------------------------------------


def brute_force(output: VAEOutput, weight: Callable[[int, int], float]) -> tuple[np.ndarray, np.ndarray]:
    """log q(z) and log prod q(z_j) at every sample by loops, [K, B]."""
    q = td.Normal(output.posterior.mean.detach(), output.posterior.std.detach())
    samples, rows, _ = output.z.shape
    joint, product = np.zeros((samples, rows)), np.zeros((samples, rows))
    for k in range(samples):
        for b in range(rows):
            density = q.log_prob(output.z[k, b].detach()).exp().numpy()  # of every row's posterior, [B, L]
            weights = np.array([weight(b, i) for i in range(rows)])
            joint[k, b] = np.log((weights * density.prod(1)).sum())
            product[k, b] = np.log((weights[:, None] * density).sum(0)).sum()
    return joint, product


ALL_ROWS = 50
KINDS: dict[str, Callable[[int, int], float]] = {
    "weighted": lambda b, i: 1 / (ALL_ROWS * ROWS),
    "stratified": lambda b, i: 1 / ALL_ROWS if b == i else (ALL_ROWS - 1) / ALL_ROWS / (ROWS - 1),
    "naive": lambda b, i: 1 / ROWS,
}


@pytest.mark.parametrize("estimator", KINDS)
def test_estimators_are_those_of_loops(estimator: str) -> None:
    output = record(2)
    penalty = TotalCorrelation(estimator, ALL_ROWS)
    joint, product = brute_force(output, KINDS[estimator])
    for found, expected in zip(penalty.log_densities(output.posterior, output.z), (joint, product), strict=True):
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-10)
    charge = penalty(output)
    np.testing.assert_allclose(charge.term.detach(), (joint - product).mean(0), rtol=1e-8)


@pytest.mark.parametrize("estimator", ["stratified", "naive"])
def test_they_are_exact_where_the_batch_is_all_rows(estimator: str) -> None:
    output = record(3)
    posteriors = td.Independent(td.Normal(output.posterior.mean, output.posterior.std), 1)
    aggregate = td.MixtureSameFamily(td.Categorical(torch.ones(ROWS).double()), posteriors)
    found, _ = TotalCorrelation(estimator, ROWS).log_densities(output.posterior, output.z)
    torch.testing.assert_close(found, aggregate.log_prob(output.z))


def test_stratified_sampling_is_unbiased_and_weighted_sampling_is_not() -> None:
    """The mean of exp(log q(z)) over all batches of 3 rows that hold the row of z, against the density itself."""
    from itertools import combinations

    output = record(1)
    truth, _ = TotalCorrelation("naive").log_densities(output.posterior, output.z)
    sums: dict[str, list[float]] = {"stratified": [], "weighted": []}
    for others in combinations(range(1, ROWS), 2):
        rows = [0, *others]
        part = DiagonalNormal(output.posterior.mean[rows], output.posterior.log_std[rows])
        for name, values in sums.items():
            found, _ = TotalCorrelation(name, ROWS).log_densities(part, output.z[:, rows])
            values.append(found[0, 0].exp().item())
    assert np.mean(sums["stratified"]) == pytest.approx(truth[0, 0].exp().item(), rel=1e-10)
    assert abs(np.mean(sums["weighted"]) / truth[0, 0].exp().item() - 1) > 0.1


@pytest.mark.parametrize("estimator", KINDS)
def test_the_parts_add_up_to_the_divergence(estimator: str) -> None:
    output = record(2)
    charge = TotalCorrelation(estimator, ALL_ROWS)(output)
    total = charge.term + charge.shown["mutual_information"] + charge.shown["dimension_kl"]
    torch.testing.assert_close(total, (output.log_qz - output.log_pz).mean(0))


def test_total_correlation_of_a_known_aggregate() -> None:
    """Many rows whose means are a correlated normal: q(z) is a normal, and its total correlation is known."""
    rows, correlation, noise = 1500, 0.8, 0.3
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]]).double()
    mean = random(rows, 2) @ torch.linalg.cholesky(covariance).T
    q = DiagonalNormal(mean, torch.full_like(mean, math.log(noise)))
    z = q.rsample(1, random(1, rows, 2, seed=1))
    output = VAEOutput(mean, z, z.sum(-1), mean, True, q, StandardNormal(2, dtype=torch.float64), None)
    with_noise = covariance + noise**2 * torch.eye(2)
    truth = 0.5 * (with_noise.diagonal().log().sum() - torch.logdet(with_noise))
    found = TotalCorrelation("naive")(output).term
    # The own row's posterior is a part of the sum, which costs log(1 + 1 / (rows * q)) or so; and sampling.
    assert found.mean().item() == pytest.approx(truth.item(), abs=0.06)


# Covariance -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
def test_covariances_by_hand(sampled: bool, full: bool) -> None:
    output = record(2, full=full)
    covariance = np.cov(output.posterior.mean.detach().numpy().T, bias=True)
    if sampled:
        factors = output.posterior.scale_tril.detach().numpy()
        covariance = covariance + np.mean([factor @ factor.T for factor in factors], 0)
    off, on = covariance - np.diag(np.diag(covariance)), np.diag(covariance)
    for penalty, expected in (
        (Covariance(sampled), (off**2).sum()),
        (Covariance(sampled, diagonal=True), ((on - 1) ** 2).sum()),
    ):
        term = penalty(output).term
        assert term.shape == (ROWS,) and term[0].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "off", "on"), [("dip_i", 10.0, 100.0), ("dip_ii", 10.0, 10.0)])
def test_the_weights_of_the_paper(name: str, off: float, on: float) -> None:
    built = build_objective(build_config({"objective": name}).objective)
    assert built.weights(0) == {"beta": 1.0, "covariance_weight": off, "variance_weight": on}
    assert {"covariance", "variance"} <= set(built(record(1), built.weights(0)).terms)


# Discrepancy ----------------------------------------------------------------------------------------------------------


def test_the_discrepancy_of_normals_under_a_gaussian_kernel_is_the_closed_form() -> None:
    """E exp(-|z - u|² / C) for z - u ~ N(m, v I) in L dimensions is (1 + 2 v / C)^(-L / 2) exp(-|m|² / (C + 2 v))."""
    size, scale, shift, spread = 3, 0.5, 0.7, 1.5
    length = 2 * size * scale

    def similar(mean: float, variance: float) -> float:
        return (1 + 2 * variance / length) ** (-size / 2) * math.exp(-size * mean**2 / (length + 2 * variance))

    truth = similar(0, 2 * spread**2) + similar(0, 2) - 2 * similar(shift, spread**2 + 1)
    penalty = Discrepancy("rbf", scales=(scale,))
    first, second = shift + spread * random(400, 40, size, seed=1), random(400, 40, size, seed=2)
    found = penalty.between(first, second)
    assert found.mean().item() == pytest.approx(truth, abs=4 * found.std().item() / 20)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_the_discrepancy_of_equal_distributions_is_zero_in_the_mean(kernel: str) -> None:
    found = Discrepancy(kernel).between(random(1500, 8, 2, seed=3), random(1500, 8, 2, seed=4))
    assert found.min() < 0
    assert abs(found.mean().item()) < 4 * found.std().item() / math.sqrt(1500)


def test_the_multiquadric_kernel_by_loops() -> None:
    first, second = random(1, 4, 2, seed=5), random(1, 3, 2, seed=6)

    def similar(a: Tensor, b: Tensor) -> float:
        squares = float((a - b).square().sum())
        return sum(4 * s / (4 * s + squares) for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))

    pairs = [
        np.mean([similar(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])
        for z in (first[0], second[0])
    ]
    cross = np.mean([similar(a, b) for a in first[0] for b in second[0]])
    assert Discrepancy().between(first, second).item() == pytest.approx(sum(pairs) - 2 * cross, rel=1e-12)


def test_samples_of_one_row_are_not_compared_with_each_other() -> None:
    """Codes of a delta posterior repeat over the samples; the estimate is that of one sample then."""
    output = record(3)
    output.z = output.z[:1].expand(3, -1, -1).detach().clone()
    torch.manual_seed(0)
    found = Discrepancy()(output).term[0]
    torch.manual_seed(0)
    drawn = prior_draws(output)
    alone = [Discrepancy().between(output.z[:1], part[None]) for part in drawn]
    torch.testing.assert_close(found, torch.cat(alone).mean())


# Players --------------------------------------------------------------------------------------------------------------


def test_a_critic_learns_the_logarithm_of_the_ratio() -> None:
    """N(1, 1) against N(0, 1): the best logit is z - 1/2."""
    torch.manual_seed(0)
    critic = Critic(MLP(1, (16,), 1)).double()
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    for _ in range(500):
        optimizer.zero_grad()
        critic.loss(torch.randn(256, 1).double() + 1, torch.randn(256, 1).double()).backward()
        optimizer.step()
    at = torch.linspace(-1, 2, 13).double()[:, None]
    assert (critic.judged(at) - (at[:, 0] - 0.5)).abs().max() < 0.25


def test_permuting_keeps_every_dimension_and_breaks_their_ties() -> None:
    from vaelab.objectives.correlation import permuted

    torch.manual_seed(0)
    z = random(4000, 1).expand(-1, 3) * torch.tensor([1.0, 2.0, 3.0])
    shuffled = permuted(z)
    torch.testing.assert_close(shuffled.sort(0).values, z.sort(0).values)
    assert torch.corrcoef(shuffled.T).fill_diagonal_(0).abs().max() < 0.06


CRITICS: dict[str, Callable[[], Any]] = {
    "factor": lambda: DensityRatio(LATENT, (8,)),
    "codes": lambda: CodeCritic(LATENT, (8,)),
    "rows": lambda: RowCritic(MLP(5, (8,), 1)),
}


@pytest.mark.parametrize("name", CRITICS)
def test_neither_player_reaches_the_other(name: str) -> None:
    torch.manual_seed(0)
    model, penalty = small_model(), CRITICS[name]().double()
    objective = Penalised(ELBO(), penalty, 3.0)
    loss = objective(model.draw(X, 2, random(2, ROWS, LATENT)), objective.weights(0))
    assert loss.player is not None
    theirs, ours = list(penalty.parameters()), list(model.parameters())

    def reached(scalar: Tensor, parameters: list[nn.Parameter]) -> list[bool]:
        found = torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True)
        return [gradient is not None and bool(gradient.any()) for gradient in found]

    assert not any(reached(loss.total, theirs)) and all(reached(loss.total, ours))
    assert not any(reached(loss.player, ours)) and all(reached(loss.player, theirs))
    together = torch.autograd.grad(loss.minimised, [*ours, *theirs], retain_graph=True)
    apart = [*torch.autograd.grad(loss.total, ours, retain_graph=True), *torch.autograd.grad(loss.player, theirs)]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)
    assert loss.minimised.item() == pytest.approx(loss.total.item())


PENALTIES: dict[str, Callable[[], Any]] = {
    **CRITICS,
    "perceptual": lambda: Perceptual(nn.Linear(5, 7)),
    "dip_i": Covariance,
    "dip_ii": lambda: Covariance(sampled=True),
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", PENALTIES)
def test_mixed_precision_rounds_networks_and_not_the_mathematics_after_them(name: str, full: bool) -> None:
    """Against float64 of what the networks said, where means of numbers near 1 have two digits in bfloat16."""
    torch.manual_seed(0)
    penalty = PENALTIES[name]().float()
    many = 400
    mean, factor = torch.randn(many, LATENT) + 30, torch.randn(many, LATENT, LATENT).tril() + 3 * torch.eye(LATENT)
    q = FullNormal(mean, factor) if full else DiagonalNormal(mean, 0.3 * torch.randn(many, LATENT))
    z, zero = q.rsample(1), torch.zeros(1, many)
    p_x = vaelab.distributions.LIKELIHOODS["bernoulli"]()(torch.randn(1, many, 1, 5))
    output = VAEOutput(torch.rand(many, 5), z, zero, zero.T, True, q, StandardNormal(LATENT), p_x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        found = penalty(output)
    assert found.term.dtype == torch.float32 and (found.player is None or found.player.dtype == torch.float32)
    if isinstance(penalty, Covariance):
        torch.testing.assert_close(found.term, penalty(output).term)
    if isinstance(penalty, Perceptual):
        with torch.autocast("cpu", torch.bfloat16):
            seen, decoded = (penalty.features(rows).double() for rows in (output.x, p_x.mean[0]))
        torch.testing.assert_close(found.term.double(), (seen - decoded).square().sum(1), rtol=1e-6, atol=0)


def test_what_the_model_is_charged_by_a_critic() -> None:
    output = record(2)
    codes, ratio = CodeCritic(LATENT, (8,)).double(), DensityRatio(LATENT, (8,)).double()
    logits = codes.critic.net(output.z.flatten(0, 1)).view(2, ROWS)
    torch.testing.assert_close(codes(output).term, -logits.sigmoid().log().mean(0))
    logits = ratio.critic.net(output.z.flatten(0, 1)).view(2, ROWS)
    torch.testing.assert_close(ratio(output).term, (logits.sigmoid() / (1 - logits.sigmoid())).log().mean(0))


# Decoded rows ---------------------------------------------------------------------------------------------------------


def test_a_perceptual_term_on_a_network_of_ones_own() -> None:
    features = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU()).double()
    before = {name: value.clone() for name, value in features.state_dict().items()}
    model, objective = small_model(), Penalised(ELBO(), Perceptual(features), 0.5)
    objective.train()
    output = model.draw(X, 2, random(2, ROWS, LATENT))
    loss = objective(output, objective.weights(0))
    features.eval()
    by_hand = [(features(X) - features(output.likelihood.mean[k])).square().sum(1) for k in range(2)]
    torch.testing.assert_close(loss.terms["perceptual"], (sum(by_hand) / 2).detach())
    plain = ELBO()(output, {"beta": 1.0}).total
    torch.testing.assert_close(loss.total, plain + 0.5 * loss.terms["perceptual"].mean())
    loss.total.backward()
    assert all(p.grad is None for p in features.parameters()) and model.encoder.weight.grad is not None
    assert all(torch.equal(value, features.state_dict()[name]) for name, value in before.items())


def test_penalties_can_be_stacked() -> None:
    output = record(2)
    inner = Penalised(ImportanceWeighted(2), Covariance(), 2.0)
    outer = Penalised(inner, CodeCritic(LATENT, (4,)).double(), vaelab.schedules.linear(0.0, 1.0, 10))
    assert outer.samples == 2 and outer.bound_samples == 2 and outer.bends and outer.warmup_ends == 10
    assert outer.weights(5) == {"beta": 1.0, "covariance_weight": 2.0, "deception_weight": 0.5}
    loss = outer(output, outer.weights(5))
    by_hand = inner(output, inner.weights(0)).total + 0.5 * loss.terms["deception"].mean()
    torch.testing.assert_close(loss.total, by_hand)


# Through our own audit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mix", "said"), [(0.0, "minus the K-sample bound"), (0.5, "a mixture with 0.500 of the ELBO")]
)
def test_the_audit_knows_the_importance_weighted_bounds(mix: float, said: str) -> None:
    def loss(log_px: Tensor, log_pz: Tensor, log_qz: Tensor) -> Tensor:
        z = log_px.new_zeros(*log_px.shape, 1)
        output = VAEOutput(z[0], z, log_px, z[0], False, None, None, None, log_q=log_qz)
        vars(output)["log_pz"] = log_pz
        return ImportanceWeighted(len(log_px), mix=mix)(output, {"beta": 1.0}).total

    report = vaelab.audit(loss, kind="importance")
    assert report.severity in ("ok", "info") and said in str(report.verdict), report


def bare(objective: Any, output: VAEOutput, weights: dict[str, float]) -> Tensor:
    """The loss without the terms that were added to a bound."""
    torch.manual_seed(0)
    total = objective(output, weights).total
    torch.manual_seed(0)
    while isinstance(objective, Penalised):
        charge = objective.penalty(output)
        total = total - weights[f"{objective.penalty.name}_weight"] * charge.term.mean()
        objective = objective.bound
    return total


@pytest.mark.parametrize("name", ["beta_tc", "factor", "dip_i", "info"])
def test_what_is_left_without_its_term_passes_the_audit_as_the_bound(name: str) -> None:
    objective: Any = build_objective(build_config({"objective": name}).objective, Facts((12,), rows=100), 4).double()

    def loss(x: Tensor, output: Tensor, mu: Tensor, head: Tensor) -> Tensor:
        q, p = DiagonalNormal(mu, 0.5 * head), StandardNormal(mu.shape[-1], dtype=mu.dtype)
        z, observed = mu[None], vaelab.distributions.Bernoulli()(output[None, :, None])  # type: ignore[attr-defined]
        record = VAEOutput(x, z, observed.log_prob(x), *divergence(q, p, z), q, p, observed)
        return bare(objective, record, objective.weights(0))

    report = vaelab.audit(loss, sizes={"batch": 6, "pixels": 12, "latents": 4})
    assert report.severity in ("ok", "info"), report
    assert report.effective_beta == pytest.approx(1, rel=1e-5)


# Balancing ------------------------------------------------------------------------------------------------------------


def test_groups_are_balanced_while_beta_rises() -> None:
    output = record(1)
    output.posterior.group_sizes = (1, 2, 5)
    objective = ELBO(vaelab.schedules.linear(0.0, 1.0, 10), balance=True)
    kl = output.kl.detach().mean(0)
    weights = kl * torch.tensor([1.0, 2.0, 5.0])
    weights = weights / weights.mean()
    rising, done = (objective(output, objective.weights(step)) for step in (5, 10))
    assert rising.total.item() == pytest.approx((0.5 * (weights * kl).sum() - output.log_px.mean()).item())
    assert done.total.item() == pytest.approx((kl.sum() - output.log_px.mean()).item())
    slope = torch.autograd.grad(rising.total, output.kl)[0]
    torch.testing.assert_close(slope, (0.5 * weights / ROWS).expand(ROWS, -1))


# Refusals -------------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"objective": {"name": "iwae", "free_bits": 0.1}}, "no divergence apart"),
    ({"objective": {"name": "dreg", "capacity": 3.0}}, "no divergence apart"),
    ({"objective": {"name": "wae", "beta": 4.0}}, "no divergence of each row"),
    ({"objective": {"name": "wae_gan", "target_rate": 4.0}}, "no divergence of each row"),
    ({"objective": {"name": "iwae", "penalty": 4.0}}, "no term of its own"),
    ({"objective": {"name": "factor", "diagonal": 4.0}}, "only dip_i and dip_ii"),
    ({"objective": {"name": "dip_i"}, "train": {"batch_size": 1}}, "compares the rows"),
    ({"objective": {"name": "dreg", "samples": 4}, "model": {"groups": [2, 2]}}, "it needs the encoder to describe"),
    ({"objective": "info", "prior": "mixture"}, "a prior without parameters"),
    ({"objective": {"balance": True}, "model": {"groups": [2, 2]}}, "while beta rises"),
    ({"objective": {"name": "miwae", "samples": 3}}, "^objective.samples: got 3; must fall evenly"),
    (
        {"objective": {"name": "wae"}, "train": {"on_collapse": "anneal"}},
        "train.on_collapse: got anneal; .* rise again",
    ),
    ({"objective": "wae_gan", "train": {"on_collapse": "anneal"}}, "train.on_collapse: got anneal"),
    (
        {"objective": {"balance": True, "anneal": "linear", "warmup_steps": 5, "free_bits": 0.1}},
        "^objective.balance: got True",
    ),
]


def put_together(config: Config, facts: Facts) -> None:
    config = resolve(config, facts, "table")
    refuse_misfits(config, facts, build_objective(config.objective, facts, 2).requires)


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_what_does_not_go_together_is_refused_in_a_sentence(settings: dict[str, Any], said: str) -> None:
    facts = Facts((8,), rows=20)
    with pytest.raises(BadInput, match=said) as caught:
        put_together(build_config(settings, {"likelihood": "gaussian"}), facts)
    assert str(caught.value).count("\n") == 0


# In the product -------------------------------------------------------------------------------------------------------

DIGITS = (load_digits().images[:300] / 16).astype(np.float32)
SETTINGS: dict[str, Any] = {
    "model": {"latent": 3, "hidden": [16], "encoder": "mlp"},
    "likelihood": "bernoulli",
    "train": {"batch_size": 32, "steps": 50, "checkpoint_every": 20, "evaluate_every": 25, "log_every": 10},
    "report": {"html": False},
}
ARMS: dict[str, dict[str, Any]] = {
    **{name: {"name": name, "samples": 2} for name in OBJECTIVES if name not in ("elbo", "miwae")},
    "miwae": {"name": "miwae", "samples": 2, "outer": 2},
    "miwae of two": {"name": "miwae", "samples": 4, "outer": 2},
    "adversarial": {"adversarial": 0.5},
}


class Stopped(Exception):
    """What stands for a kill."""


@pytest.mark.parametrize("name", ARMS)
def test_it_trains_and_resumes_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vaelab.training.loop import Loop

    config = SETTINGS | {"objective": ARMS[name]}
    whole = vaelab.train(DIGITS, config=config, out=tmp_path / "whole", progress=False)
    advance = Loop._advance

    def until(self: Loop, number: int) -> bool:
        if number == 33:
            raise Stopped
        return advance(self, number)

    monkeypatch.setattr(Loop, "_advance", until)
    with pytest.raises(Stopped):
        vaelab.train(DIGITS, config=config, out=tmp_path / "cut", progress=False)
    monkeypatch.setattr(Loop, "_advance", advance)
    cut = vaelab.train(DIGITS, resume=tmp_path / "cut", progress=False)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, cut.model.state_dict()[key]), key
    saved = sorted((tmp_path / "whole" / "checkpoints" / "step-000000050").iterdir())
    for path in saved:
        if path.suffix == ".safetensors":
            assert path.read_bytes() == (tmp_path / "cut" / "checkpoints" / "step-000000050" / path.name).read_bytes()
    has_player = any(path.name == "objective.safetensors" for path in saved)
    assert has_player == (name in ("factor", "wae_gan", "adversarial"))
    assert len(whole.history) == len(cut.history)


def test_weights_are_selected_by_the_bound_that_is_maximised(tmp_path: Path) -> None:
    config = SETTINGS | {"objective": {"name": "iwae", "samples": 5}}
    run = vaelab.train(DIGITS, config=config, out=tmp_path / "run", progress=False)
    held_out = [line for line in run.history if line["kind"] == "held_out"]
    assert run.metrics["step"] == min(held_out, key=lambda line: line["negative_bound"])["step"]
    assert run.metrics["bound_samples"] == 5 and run.metrics["samples"] % 5 == 0
    assert run.metrics["negative_bound"] < run.metrics["negative_elbo"]
    assert "held-out negative 5-sample bound" in repr(run)
    assert any(finding.code == "TR100" and "5-sample bound" in finding.title for finding in run.findings)


def test_a_critic_starts_from_the_seed() -> None:
    config = build_config({"objective": "factor"}).objective
    state = torch.random.get_rng_state()
    first, again, other = (build_objective(config, latent=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [next(part.parameters()) for part in (first, again, other) if isinstance(part, nn.Module)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_term_of_a_whole_batch_is_not_added_up_from_slices(tmp_path: Path) -> None:
    config = SETTINGS | {"objective": "beta_tc", "train": {"accumulate": 2, "steps": 2}}
    with pytest.raises(BadInput, match="a term of a whole batch"):
        vaelab.train(DIGITS, config=config, out=tmp_path / "run", progress=False)


@pytest.mark.parametrize(("name", "refused"), [("beta_tc", True), ("dip_ii", True), ("wae", True), ("wae_gan", False)])
def test_a_term_of_a_whole_batch_is_not_made_of_the_parts_of_processes(name: str, refused: bool) -> None:
    config = build_config(SETTINGS, {"objective": {"name": name, "adversarial": 0.5}})
    objective = build_objective(config.objective, Facts((8,), rows=20), 2)
    engine: Any = SimpleNamespace(world=2)
    with pytest.raises(BadInput, match="each of the 2 processes has a part") if refused else nullcontext():
        _refuse_slices(config, objective, nn.Linear(1, 1), engine, 20)
    engine.world = 1
    _refuse_slices(config, objective, nn.Linear(1, 1), engine, 20)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_model_from_the_config_takes_every_objective(name: str) -> None:
    groups = {"outer": 2} if name == "miwae" else {}
    objective = {"name": name, "samples": 2} | groups
    settings = {"objective": objective, "likelihood": "gaussian", "model": {"latent": 2}}
    facts = Facts((4,), rows=20)
    config = resolve(build_config(settings), facts, "table")
    objective = build_objective(config.objective, facts, 2)
    refuse_misfits(config, facts, objective.requires)
    output = build_model(config, facts).draw(torch.randn(5, 4), objective.samples)
    loss = objective(output, objective.weights(0))
    assert loss.total.ndim == 0 and all(term.shape == (5,) for term in loss.terms.values())
    assert name not in ("elbo",) or loss.player is None


def test_where_no_divergence_is_charged_the_reconstruction_selects(tmp_path: Path) -> None:
    config = {"objective": "wae", "train": {"steps": 200}, "report": {"html": False}}
    run = vaelab.train("digits", config=config, out=tmp_path / "run", progress=False)
    lines = [line for line in run.history if line["kind"] == "held_out"]
    best = min(lines, key=lambda line: line["reconstruction"])
    assert run.metrics["step"] == best["step"] > min(lines, key=lambda line: line["negative_elbo"])["step"]
    assert run.findings[0].title.startswith("held-out reconstruction") or run.findings[0].code == "TR154"
