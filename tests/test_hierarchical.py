"""Hierarchies against linear-Gaussian chains in closed form, against flat models, and against themselves."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch import distributions as td

import vaelab
from vaelab.core.batch import Batch
from vaelab.core.config import Config, build_config
from vaelab.core.errors import BadInput
from vaelab.core.facts import Facts
from vaelab.core.output import VAEOutput
from vaelab.distributions.kl import divergence
from vaelab.distributions.ladder import GroupPrior, LadderPosterior, TopPosterior
from vaelab.distributions.mixtures import MixturePrior
from vaelab.distributions.normal import DiagonalNormal, StandardNormal
from vaelab.evaluation.latent import _decomposition
from vaelab.measure.bound import BoundSums
from vaelab.measure.importance import importance_bound
from vaelab.models.build import acquaint, build_hierarchy, build_model, resolve
from vaelab.models.fits import refuse_misfits
from vaelab.models.hierarchical import Hierarchy
from vaelab.models.parts import Plan
from vaelab.models.vae import VAE
from vaelab.objectives.elbo import ELBO
from vaelab.training.rules import _empty_groups, _unused

ROWS, SIDE = 4, 8
KINDS: dict[str, dict[str, Any]] = {
    "two levels": {"groups": [3, 2], "ladder": False, "encoder": "mlp"},
    "chain": {"groups": [2, 3, 2], "ladder": False, "encoder": "conv"},
    "ladder": {"groups": [3, 2], "encoder": "mlp"},
    "deep ladder": {"groups": [2, 1, 3, 1, 2], "encoder": "conv", "norm": "layer"},
    "softplus": {"groups": [2, 2], "encoder": "mlp", "scale": "softplus"},
    "linear": {"groups": [2, 2], "encoder": "linear", "ladder": False},
}
TOPS = ("standard", "mixture", "vamp", "exemplar", "flow")


def settings(**model: Any) -> Config:
    base = {"hidden": [12, 10], "channels": [4, 6], **model}
    config = build_config({"model": base, "likelihood": "bernoulli", "prior": {"components": 3, "hidden": [8]}})
    return resolve(config, Facts((1, SIDE, SIDE)), "image")


def made(prior: str = "standard", condition: int = 0, **model: Any) -> Hierarchy:
    config = settings(**model).updated(prior={"name": prior})
    built = build_model(config, Facts((1, SIDE, SIDE), condition=condition)).double()
    assert isinstance(built, Hierarchy)
    if not condition:
        acquaint(built, rows())
    return built.eval()


def rows(count: int = ROWS) -> Tensor:
    coins = torch.Generator().manual_seed(5)
    return torch.rand(count, 1, SIDE, SIDE, generator=coins, dtype=torch.float64).round()


def shaken(model: nn.Module, size: float = 0.2) -> Any:
    """The same model away from its start values, where nothing is nearly zero by construction."""
    coins = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=coins, dtype=parameter.dtype))
    return model


def widened(model: Hierarchy) -> None:
    """Posteriors about as wide as the prior, so that neither has a heavy tail under the other."""
    with torch.no_grad():
        for head, size in zip(model.encoder.heads, model.descent.sizes, strict=True):
            lasts = [part for part in head.modules() if isinstance(part, nn.Linear) and part.out_features == 2 * size]
            for last in lasts:
                last.weight[:size] *= 0.3
                last.weight[size:] = 0
            lasts[-1].bias[size:] = 0.2


def noise_for(model: Hierarchy, samples: int, count: int = ROWS) -> Tensor:
    coins = torch.Generator().manual_seed(7)
    return torch.randn(samples, count, model.noise_size, generator=coins, dtype=torch.float64)


# The walk, told in different ways ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_one_walk_agrees_with_the_three_distributions(kind: str) -> None:
    model, x = shaken(made(**KINDS[kind])), rows()
    out = model.draw(x, 3, noise_for(model, 3))
    groups = KINDS[kind]["groups"]
    assert out.z.shape == (3, ROWS, sum(groups))
    assert out.kl.shape == (ROWS, len(groups))
    assert out.posterior.group_sizes == tuple(groups)
    z, q, p = out.z.clone(), model.encode(x), model.prior_distribution()
    torch.testing.assert_close(model.decode(z).log_prob(x), out.log_px)
    torch.testing.assert_close(p.log_prob(z), out.log_pz)
    torch.testing.assert_close(q.log_prob(z), out.log_qz)
    kl, exact = divergence(q, p, z)
    torch.testing.assert_close(kl, out.kl)
    assert not exact
    assert not out.kl_is_exact
    assert q.mean.shape == q.variance.shape == (ROWS, sum(groups))
    assert p.mean.shape == p.variance.shape == (1, sum(groups))
    torch.testing.assert_close(model.decode(z[0]).log_prob(x)[0], out.log_px[0])


@pytest.mark.parametrize("kind", KINDS)
def test_noise_of_zero_is_the_walk_along_the_means(kind: str) -> None:
    model, x = shaken(made(**KINDS[kind])), rows()
    q, size = model.encode(x), model.latent
    z, log_q = q.pushed(torch.zeros(1, ROWS, size, dtype=torch.float64))
    torch.testing.assert_close(z[0], q.mode)
    log_std = sum(part.log_std.sum(1) for part in q.along.q)
    torch.testing.assert_close(log_q[0], -log_std - 0.5 * size * math.log(2 * math.pi))


@pytest.mark.parametrize("kind", ["two levels", "ladder", "linear"])
def test_mean_and_variance_are_those_of_samples_and_leave_the_last_ones(kind: str) -> None:
    q = shaken(made(**KINDS[kind])).encode(rows())
    with torch.no_grad():
        z, _ = q.rsample_with_log_prob(20_000, noise_for(made(**KINDS[kind]), 20_000))
        assert q.walk is not None and q.walk.z is z
        mean, variance = q.mean, q.variance
        assert q.walk.z is z
    torch.testing.assert_close(mean, z.mean(0), atol=0.3, rtol=0)  # 32 points against 20 000 draws
    torch.testing.assert_close(variance.log(), z.var(0).log(), atol=0.6, rtol=0)


class Close:
    """q(z_1) = N(0, 1) and q(z_2|z_1) = N(0.99 z_1, 1 - 0.99²): every z_j is N(0, 1), as the prior has it."""

    def conditional(self, group: int, features: Tensor, state: Tensor | None) -> DiagonalNormal:
        if state is None:
            return DiagonalNormal(torch.zeros_like(features), torch.zeros_like(features))
        return DiagonalNormal(0.99 * state, torch.full_like(state, 0.5 * math.log(1 - 0.99**2)))


class Straight:
    """A way down whose state is the code above."""

    sizes = (1, 1)

    def below(self, group: int, state: Tensor | None, z: Tensor) -> Tensor:
        return z


def test_moments_of_groups_that_hang_together_are_the_marginal_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    features: Any = torch.zeros(500, 1, dtype=torch.float64)
    parts: Any = Close(), Straight()
    q, prior = LadderPosterior(*parts, [features] * 2), StandardNormal(2, dtype=torch.float64)
    assert q.variance.var(0, correction=0).max() < 1e-20 and q.mean.abs().max() < 1e-12
    torch.testing.assert_close(q.variance, torch.ones(500, 2, dtype=torch.float64), atol=0.1, rtol=0)
    torch.manual_seed(0)
    z = q.rsample(1)
    kl, exact = divergence(q, prior, z)
    sums = BoundSums(2, 2)
    sums.update(VAEOutput(features, z, z.new_zeros(1, 500), kl, exact, q, prior, None))
    found = sums.compute()
    assert found["kl"] > 1.4
    assert found["aggregate_kl"] < 0.01  # 1.45 nats were the variance taken given the mean of the group above
    with torch.no_grad():
        model: Any = SimpleNamespace(encode=lambda x: q, prior_distribution=lambda: prior)
        numbers = _decomposition(model, features)
    assert "mutual_information" in numbers and not {"total_correlation", "marginal_kl"} & set(numbers)


@pytest.mark.parametrize("kind", ["two levels", "deep ladder"])
def test_log_q_is_the_density_that_pushing_noise_makes(kind: str) -> None:
    """By the change of variables: log N(noise) - log |det dz/dnoise|, with autograd's Jacobian."""
    model = shaken(made(**KINDS[kind]))
    q, noise = model.encode(rows(1)), noise_for(model, 1, 1)
    jacobian = torch.autograd.functional.jacobian(lambda e: q.pushed(e.view(1, 1, -1))[0].view(-1), noise.view(-1))
    z, log_q = q.pushed(noise)
    standard = td.Normal(0.0, 1.0).log_prob(noise).sum()
    torch.testing.assert_close(log_q.squeeze(), standard - torch.linalg.slogdet(jacobian)[1])
    torch.testing.assert_close(log_q, q.log_prob(z.clone()))


@pytest.mark.parametrize("kind", ["two levels", "ladder"])
def test_samples_and_densities_belong_together(kind: str) -> None:
    """E_p[q / p] = 1 over the prior's samples, and E_q[p / q] = 1 over the posterior's, where neither tail is heavy."""
    model = made(**KINDS[kind])
    widened(model)
    with torch.no_grad():
        p, q = model.prior_distribution(), model.encode(rows(1))
        from_prior = p.sample(200_000, torch.Generator().manual_seed(1))[:, None]
        from_posterior = q.pushed(noise_for(model, 200_000, 1))[0]
        for z, sign in ((from_prior, 1), (from_posterior, -1)):
            weight = (sign * (q.log_prob(z) - p.log_prob(z))).exp()
            assert weight.std() > 0.05
            assert abs(weight.mean() - 1) < 5 * weight.std() / len(z) ** 0.5


@pytest.mark.parametrize("kind", ["two levels", "deep ladder"])
def test_each_groups_divergence_is_the_mean_of_its_log_ratio(kind: str) -> None:
    """The closed form given the groups above, against sampled log q(z_g | ...) - log p(z_g | ...) of each group."""
    model = shaken(made(**KINDS[kind]), 0.1)
    with torch.no_grad():
        out = model.draw(rows(1), 100_000, noise_for(model, 100_000, 1))
        walk = out.posterior.walk
        for group, (q, part) in enumerate(zip(walk.q, walk.parts, strict=True)):
            ratio = q.log_prob(part) - td.Normal(0.0, 1.0).log_prob(part).sum(-1)
            assert abs(ratio.mean() - out.kl[0, group]) < 5 * ratio.std() / len(ratio) ** 0.5
    torch.testing.assert_close(out.kl.sum(1), (out.log_qz - out.log_pz).mean(0), atol=0.1, rtol=0)


# Closed forms --------------------------------------------------------------------------------------------------------


def chain(sizes: tuple[int, ...], entries: int = 5) -> tuple[Hierarchy, np.ndarray, np.ndarray]:
    """A linear-Gaussian chain with random weights, and the mean and covariance of (z, x) together."""
    facts = Facts((entries,))
    model = {"groups": sizes, "ladder": False, "encoder": "linear", "decoder": "linear"}
    config = build_config({"model": model, "likelihood": {"name": "gaussian", "noise": "fixed", "sigma": 0.5}})
    built: Any = shaken(build_model(resolve(config, facts, "table"), facts).double(), 0.3)
    with torch.no_grad():
        built.decoder.net.layers[-1].weight.mul_(0.5)
    total, above = sum(sizes), sizes[0]
    mean, covariance = np.zeros(total + entries), np.zeros((total + entries,) * 2)
    covariance[:above, :above] = np.eye(above)

    def add(layer: nn.Linear, outputs: int, variance: np.ndarray) -> None:
        """The joint with one more variable, linear in all before it."""
        nonlocal above
        weight, bias = (part.detach().numpy()[:outputs] for part in (layer.weight, layer.bias))
        new = slice(above, above + outputs)
        mean[new] = weight @ mean[:above] + bias
        covariance[new, :above] = weight @ covariance[:above, :above]
        covariance[:above, new] = covariance[new, :above].T
        covariance[new, new] = weight @ covariance[:above, new] + np.diag(variance)
        above += outputs

    for head, size in zip(built.descent.heads, sizes[1:], strict=True):
        layer = head.net.layers[-1]
        with torch.no_grad():
            layer.weight[size:] = 0  # a variance that depends on nothing
        raw = layer.bias.detach().numpy()[size:]
        add(layer, size, np.exp(14 * np.tanh(raw / 14)))
    add(built.decoder.net.layers[-1], entries, np.full(entries, 0.5**2))
    return built, mean, covariance


def conditional(mean: np.ndarray, covariance: np.ndarray, of: slice, given: Any) -> tuple[Any, Any, Any]:
    """Of a joint normal: weight and bias of E[of | given], and the covariance."""
    weight = covariance[of, given] @ np.linalg.inv(covariance[given, given])
    return weight, mean[of] - weight @ mean[given], covariance[of, of] - weight @ covariance[given, of]


def log_normal(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    gap = x - mean
    squares = np.einsum("ni,ij,nj->n", gap, np.linalg.inv(covariance), gap)
    return -0.5 * (squares + np.linalg.slogdet(covariance)[1] + len(mean) * math.log(2 * math.pi))


@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (2, 1, 2)])
def test_the_bound_of_a_linear_gaussian_chain_converges_to_its_evidence(sizes: tuple[int, ...]) -> None:
    model, mean, covariance = chain(sizes)
    widened(model)
    total = sum(sizes)
    x = np.random.default_rng(0).multivariate_normal(mean[total:], covariance[total:, total:], 8)
    truth = log_normal(x, mean[total:], covariance[total:, total:])
    bound = importance_bound(model, torch.from_numpy(x), 20_000)
    assert bound.elbo.mean() < truth.mean() - 0.5, "a posterior away from the true one leaves a gap that samples close"
    assert abs(bound.mean - truth.mean()) < max(5 * bound.sampling_error, 0.005)
    assert bound.sampling_error < 0.02


def test_with_the_true_posterior_a_chains_bound_is_its_evidence_from_one_sample() -> None:
    model, mean, covariance = chain((1, 1))
    z1, seen = slice(0, 1), slice(2, 7)
    top = conditional(mean, covariance, z1, seen)
    both = np.r_[0, 2:7]
    weight = covariance[1, both] @ np.linalg.inv(covariance[np.ix_(both, both)])
    bias = mean[1] - weight @ mean[both]
    spread = covariance[1, 1] - weight @ covariance[both, 1]
    head = model.descent.heads[0].net.layers[-1]
    p_weight, p_bias, p_std = (
        head.weight[0, 0].item(),
        head.bias[0].item(),
        math.exp(7 * math.tanh(head.bias[1].item() / 14)),
    )

    def raw(variance: float) -> float:
        return 14 * math.atanh(math.log(variance) / 14)

    first, below = model.encoder.heads[0], model.encoder.heads[1].reads
    with torch.no_grad():
        first.weight[0], first.weight[1] = torch.from_numpy(top[0][0]), 0
        first.bias[0], first.bias[1] = top[1].item(), raw(top[2].item())
        below[0].weight[0], below[0].weight[1] = torch.from_numpy(weight[1:] / p_std), 0
        below[1].weight[0, 0], below[1].weight[1, 0] = (weight[0] - p_weight) / p_std, 0
        below[1].bias[0], below[1].bias[1] = (bias - p_bias) / p_std, raw(spread / p_std**2)
    x = np.random.default_rng(0).multivariate_normal(mean[seen], covariance[seen, seen], 8)
    out = model.draw(torch.from_numpy(x), 3)
    truth = log_normal(x, mean[seen], covariance[seen, seen])
    np.testing.assert_allclose(out.log_weights.detach().numpy(), np.tile(truth, (3, 1)), rtol=1e-7)  # sigma is float32


def test_one_group_is_the_flat_model() -> None:
    flat: Any = build_model(settings(latent=4, encoder="mlp"), Facts((1, SIDE, SIDE))).double()
    config = settings(groups=[4], ladder=False, encoder="mlp")
    assert isinstance(build_model(config, Facts((1, SIDE, SIDE))), VAE), "and is built as one"
    one: Any = build_hierarchy(Plan(config, Facts((1, SIDE, SIDE)))).double()
    with torch.no_grad():
        for new, old in zip(one.encoder.parameters(), flat.encoder.parameters(), strict=True):
            new.copy_(old)
        for new, old in zip(one.decoder.parameters(), flat.decoder.parameters(), strict=True):
            new.copy_(old)
    x, noise = rows(), noise_for(one, 3)
    ours, theirs = one.draw(x, 3, noise), flat.draw(x, 3, noise)
    for name in ("z", "log_px", "log_pz", "log_qz", "elbo"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.kl, theirs.kl.sum(1, keepdim=True))
    assert ours.kl_is_exact


# Gradients, start values, weights that are kept ---------------------------------------------------------------------


@pytest.mark.parametrize("prior", TOPS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right_and_reach_every_parameter(kind: str, prior: str) -> None:
    model, x = shaken(made(prior, **KINDS[kind]), 0.1), rows()
    noise, objective = noise_for(model, 2), ELBO()

    def loss() -> Tensor:
        return objective(model.draw(x, 2, noise), {"beta": 1.0}).total

    loss().backward()
    missed = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missed
    coins = torch.Generator().manual_seed(11)
    moves = [torch.randn(p.shape, generator=coins, dtype=p.dtype) for p in model.parameters()]
    slope = sum((p.grad * move).sum() for p, move in zip(model.parameters(), moves, strict=True) if p.grad is not None)
    ends = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for p, move in zip(model.parameters(), moves, strict=True):
                p.add_(step * move)
            ends.append(loss().item())
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kind", ["two levels", "deep ladder"])
def test_free_bits_are_given_to_each_group(kind: str) -> None:
    model, x = shaken(made(**KINDS[kind])), rows()
    out = model.draw(x, 1, noise_for(model, 1))
    floor = out.kl.mean(0).median().item() + 1e-3
    loss = ELBO(free_bits=floor)(out, {"beta": 1.0}).total
    expected = out.kl.mean(0).clamp(min=floor).sum() - out.log_px.mean()
    torch.testing.assert_close(loss, expected)
    assert (out.kl.mean(0) < floor).any()
    assert (out.kl.mean(0) > floor).any()


@pytest.mark.parametrize("prior", TOPS)
def test_a_model_comes_back_from_its_weights(prior: str) -> None:
    model = shaken(made(prior, **KINDS["ladder"]))
    config = settings(**KINDS["ladder"]).updated(prior={"name": prior}, seed=5)
    again: Any = build_model(config, Facts((1, SIDE, SIDE))).double().eval()
    x, noise = rows(), noise_for(model, 2)
    assert not torch.equal(again.draw(x, 2, noise).z, model.draw(x, 2, noise).z)
    again.load_state_dict(model.state_dict())
    ours, theirs = again.draw(x, 2, noise), model.draw(x, 2, noise)
    for name in ("z", "log_px", "log_pz", "log_qz", "kl"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("ladder", [True, False])
def test_a_deep_hierarchy_starts_calm(ladder: bool) -> None:
    """Each group starts near the prior's N(0, 1) whatever stands above, and the loss near that of a flat model."""
    config = settings(groups=[3] * 8, ladder=ladder, encoder="mlp", hidden=[64, 64])
    deep: Any = build_model(config, Facts((1, SIDE, SIDE))).double()
    flat = build_model(settings(latent=24, encoder="mlp", hidden=[64, 64]), Facts((1, SIDE, SIDE))).double()
    z = deep.prior_distribution().sample(2000, torch.Generator().manual_seed(0))
    assert (z.var(0) / 1.0).sub(1).abs().max() < 0.25
    losses = [-model.draw(rows(32), 4).elbo.mean().item() for model in (deep, flat)]
    assert abs(losses[0] - losses[1]) < 0.15 * losses[1]


def learned(steps: int = 400, **model: Any) -> float:
    """Negative ELBO of held-out digits in nats after some steps, the same for every model."""
    data = torch.from_numpy(load_digits().data / 16).float().view(-1, 1, SIDE, SIDE)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    train, held_out = data[order[:-300]], data[order[-300:]]
    built = build_model(settings(encoder="mlp", hidden=[64, 64], **model), Facts((1, SIDE, SIDE)))
    optimizer, objective = torch.optim.Adam(built.parameters(), 2e-3), ELBO()
    torch.manual_seed(0)
    for _ in range(steps):
        x = torch.bernoulli(train[torch.randint(len(train), (100,))])
        optimizer.zero_grad()
        objective(built.draw(x), {"beta": 1.0}).total.backward()
        optimizer.step()
    with torch.no_grad():
        return -built.draw(torch.bernoulli(held_out), 8).elbo.mean().item()


def test_hierarchies_learn_digits_as_fast_as_a_flat_model() -> None:
    """Within the noise of a seed; on 60,000 rows they are ahead by nats, on 1,497 there is little to gain."""
    flat = learned(latent=12)
    for model in ({"groups": [6, 6], "ladder": False}, {"groups": [4, 4, 4]}):
        assert learned(**model) < flat + 0.5


def test_a_resumed_ladder_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path: Path) -> None:
    model = {"groups": [2, 3], "hidden": [12], "encoder": "mlp", "dropout": 0.2}
    train = {"batch_size": 32, "evaluate_every": 10, "checkpoint_every": 10, "log_every": 5, "schedule": "constant"}
    config: dict[str, Any] = {"model": model, "report": {"html": False}}
    ends = {"whole": 30, "cut": 15}
    for name, steps in ends.items():
        vaelab.train("digits", out=tmp_path / name, config=config | {"train": train | {"steps": steps}}, progress=False)
    vaelab.train(resume=tmp_path / "cut", config={"train": {"steps": 30}}, progress=False)
    whole, cut = (vaelab.load(tmp_path / name) for name in ends)
    assert whole.metrics == cut.metrics
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, cut.model.state_dict()[name]), name
    assert whole.traverse(dimensions=[1, 5], steps=3).shape == (2, 3, 8, 8)


def test_an_empty_group_is_told_by_its_place() -> None:
    numbers = {"kl_per_dimension": [5.0, 0.02, 3.0], "active_units": 3}
    facts: Any = {"config": build_config({"model": {"groups": [4, 2, 6]}}), "selected": numbers}
    (found,) = _empty_groups(SimpleNamespace(**facts))
    assert found.title == "latent group 2 of 3 carries next to nothing"
    assert "model.groups=[4, 6]" in found.advice
    assert not list(_unused(SimpleNamespace(**facts)))


# The prior of the top group, conditions, refusals --------------------------------------------------------------------


@pytest.mark.parametrize("ladder", [True, False])
def test_a_vampprior_of_the_top_group_is_a_mixture_of_its_posteriors(ladder: bool) -> None:
    model: Any = shaken(made("vamp", groups=[3, 2], ladder=ladder, encoder="mlp"))
    z = torch.randn(6, 1, 5, dtype=torch.float64)
    parts = TopPosterior(model.encoder)(model.prior.top.inputs)
    first = td.Independent(td.Normal(parts.mean, parts.std), 1).log_prob(z[..., :3])
    second = td.Normal(0.0, 1.0).log_prob(z[..., 3:]).sum(-1)
    expected = first.logsumexp(-1, keepdim=True) - math.log(first.shape[-1]) + second
    torch.testing.assert_close(model.prior_distribution().log_prob(z), expected)
    assert not any("whole" in name or "source" in name for name in model.state_dict())


@pytest.mark.parametrize("prior", TOPS)
def test_every_prior_of_the_top_group_samples_what_it_describes(prior: str) -> None:
    model = made(prior, **KINDS["ladder"])
    p = model.prior_distribution()
    z = p.sample(4000, torch.Generator().manual_seed(3))
    assert z.shape == (4000, model.latent)
    assert torch.equal(z, p.sample(4000, torch.Generator().manual_seed(3)))
    top = model.prior.top()
    torch.testing.assert_close(z[:, :3].mean(0), top.mean[0], atol=0.2, rtol=0)
    bound = importance_bound(model, rows(), 50)
    assert np.isfinite(bound.values).all()
    assert model.sample(3).mean.shape == (1, 3, 1, SIDE, SIDE)


def test_a_condition_reaches_encoder_and_decoder() -> None:
    model: Any = shaken(made(condition=3, **KINDS["ladder"]))
    x, noise = rows(), noise_for(model, 1)
    first, second = (
        model.draw(Batch(x, torch.eye(3, dtype=torch.float64)[[k] * ROWS]), 1, noise).log_px for k in (0, 1)
    )
    assert not torch.allclose(first, second)
    condition = torch.eye(3, dtype=torch.float64)[[0] * ROWS]
    assert model.sample(ROWS, condition=condition).mean.shape == (1, ROWS, 1, SIDE, SIDE)
    with pytest.raises(BadInput, match="the encoder reads what is given beside a row"):
        model.draw(x)


REFUSED = {
    "posterior": ({"model": {"posterior": "full"}}, r"groups of a hierarchy are diagonal normals"),
    "fitted later": ({"prior": {"after": "gmm"}}, r"fitted in training"),
    "doubly reparameterised": ({"objective": {"name": "dreg"}}, r"a hierarchy is none"),
    "balance of one": ({"model": {"groups": [4]}, "objective": {"balance": True}}, r"nothing to balance"),
    "prior on a sphere": ({"prior": {"name": "sphere", "components": 100}}, r"codes on the unit sphere"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_hierarchy_cannot_have_is_refused(name: str) -> None:
    changes, words = REFUSED[name]
    config = settings(groups=[2, 2]).updated(**{"model": {"latent": None}, "prior": {"components": 100}, **changes})
    requires = frozenset({"normal"}) if "objective" in changes else frozenset()
    with pytest.raises(BadInput, match=words):
        refuse_misfits(config, Facts((1, SIDE, SIDE)), requires)


def test_a_latent_size_that_is_not_the_groups_total_is_refused() -> None:
    with pytest.raises(BadInput, match=r"the groups \(2, 3\) have 5 dimensions together"):
        settings(groups=[2, 3], latent=4)


def test_noise_of_another_shape_is_refused() -> None:
    with pytest.raises(BadInput, match=r"must have the shape \(samples, rows, latent\) = \(2, 4, 5\)"):
        made(**KINDS["ladder"]).draw(rows(), 2, torch.zeros(1, ROWS, 5, dtype=torch.float64))


def test_a_prior_that_is_not_of_groups_leaves_the_estimate_from_samples() -> None:
    model, other = made(**KINDS["ladder"]), MixturePrior(5, 3).double()
    q, p = model.encode(rows()), other()
    z = q.rsample(50)
    kl, exact = divergence(q, p, z)
    assert not exact
    torch.testing.assert_close(kl, (q.log_prob(z) - p.log_prob(z)).mean(0).unsqueeze(1))


def test_a_grouped_prior_is_its_top_beside_standard_normals() -> None:
    top = MixturePrior(2, 3).double()
    p = GroupPrior(top, 3)()
    z = torch.randn(7, 1, 5, dtype=torch.float64)
    expected = top().log_prob(z[..., :2]) + td.Normal(0.0, 1.0).log_prob(z[..., 2:]).sum(-1)
    torch.testing.assert_close(p.log_prob(z), expected)
    torch.testing.assert_close(p.mean, torch.cat([top().mean, torch.zeros(1, 3, dtype=torch.float64)], 1))
    torch.testing.assert_close(p.variance[:, 2:], torch.ones(1, 3, dtype=torch.float64))
