"""Priors: mixtures, pseudo-inputs, exemplars, flows, and those fitted after training; against sums and quadrature."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import vaelab
from vaelab.core.batch import Batch
from vaelab.core.config import build_config
from vaelab.core.durable import MANIFEST
from vaelab.core.errors import BadInput, Diverged
from vaelab.core.facts import Facts
from vaelab.data.batches import Rows
from vaelab.data.transforms import Affine
from vaelab.distributions import mixtures
from vaelab.distributions.fitting import minimise
from vaelab.distributions.flows import FlowPrior
from vaelab.distributions.later import FittedLater, GaussianMixturePrior
from vaelab.distributions.mixtures import Mixture, MixturePrior
from vaelab.distributions.normal import DiagonalNormal, FullNormal, StandardNormal
from vaelab.distributions.posteriors import GaussianPosterior
from vaelab.distributions.priors import StandardNormalPrior
from vaelab.distributions.pseudo import EDGE, ExemplarPrior, VampPrior
from vaelab.measure.ais import ais
from vaelab.measure.importance import importance_bound
from vaelab.models.build import acquaint, build_model, resolve
from vaelab.models.fits import refuse_misfits
from vaelab.models.second_stage import SecondStage
from vaelab.models.vae import VAE
from vaelab.training.after import _bounds, _spread
from vaelab.training.checkpoint import Checkpoints
from vaelab.training.rules_prior import prior_rules

DOUBLE = torch.float64


def normals(rows: int = 4, size: int = 2, full: bool = False) -> Any:
    coins = torch.Generator().manual_seed(3)
    mean = torch.randn(rows, size, generator=coins, dtype=DOUBLE)
    if not full:
        return DiagonalNormal(mean, 0.3 * torch.randn(rows, size, generator=coins, dtype=DOUBLE))
    below = torch.randn(rows, size, size, generator=coins, dtype=DOUBLE).tril(-1)
    return FullNormal(mean, below + torch.eye(size, dtype=DOUBLE) * 0.6)


def densities(q: Any, z: Tensor) -> Tensor:
    """Of every component by torch.distributions, [..., M]."""
    return q.as_torch().log_prob(z[..., None, :])


# Mixtures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("most", [mixtures.MOST_VALUES, 1])
def test_a_mixture_is_the_weighted_sum_of_densities(full: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixtures, "MOST_VALUES", most)
    q, raw = normals(full=full), torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=DOUBLE)
    z = torch.randn(5, 3, 2, dtype=DOUBLE)
    expected = (densities(q, z).exp() * raw.softmax(0)).sum(-1).log()
    torch.testing.assert_close(Mixture(raw, q).log_prob(z), expected)


@pytest.mark.parametrize("full", [False, True])
def test_a_mixture_has_the_moments_of_its_samples(full: bool) -> None:
    p = Mixture(torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=DOUBLE), normals(full=full))
    z = p.sample(200_000, torch.Generator().manual_seed(0))
    assert ((z.mean(0) - p.mean[0]).abs() < 5 * (p.variance[0] / 200_000).sqrt()).all()
    torch.testing.assert_close(z.var(0), p.variance[0], rtol=0.03, atol=0)
    inner = DiagonalNormal(p.components.mean[1:2], torch.full((1, 2), -1.5, dtype=DOUBLE))  # inside p's reach
    weights = (inner.log_prob(z[:, None]) - p.log_prob(z[:, None])).exp()
    assert abs(weights.mean() - 1) < 5 * weights.std() / 200_000**0.5, "E_p[q / p] = 1"
    assert weights.std() > 0.1
    assert p.sample(1).shape == (1, 2)


@pytest.mark.parametrize("count", [1, 5000])
@pytest.mark.parametrize("components", [1, 500])
def test_memory_stays_bounded_for_many_components_and_samples(
    components: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The differences that are held at once, a number for each sample, component and dimension."""
    whole, held = DiagonalNormal.log_prob, []

    def counted(self: DiagonalNormal, z: Tensor) -> Tensor:
        held.append(torch.broadcast_shapes(z.shape, self.mean.shape))
        return whole(self, z)

    monkeypatch.setattr(DiagonalNormal, "log_prob", counted)
    with torch.no_grad():
        assert MixturePrior(40, components)().log_prob(torch.randn(count, 1, 40)).shape == (count, 1)
    assert max(math.prod(shape) for shape in held) <= mixtures.MOST_VALUES <= 2**22
    assert sum(math.prod(shape) for shape in held) == count * components * 40


@pytest.mark.parametrize("name", ["mixture", "vamp", "exemplar"])
def test_the_importance_identity(name: str) -> None:
    """The mean of N(z; 0, s²) / p(z) over samples of p is 1."""
    model = digits_model(name)
    with torch.no_grad():
        p = model.prior_distribution()
        z = p.sample(100_000, torch.Generator().manual_seed(1))[:, None]
        inner = DiagonalNormal(p.mean, 0.5 * p.variance.log() - 0.7)
        weights = (inner.log_prob(z) - p.log_prob(z)).exp()
    assert abs(weights.mean() - 1) < 5 * weights.std() / 100_000**0.5


def digits_model(prior: str) -> Any:
    facts = Facts((6,), rows=500)
    config = build_config(
        {
            "model": {"latent": 2, "hidden": (8,), "encoder": "mlp", "decoder": "mlp"},
            "prior": {"name": prior, "components": 7, "hidden": (8,), "steps": 2},
            "likelihood": {"name": "continuous_bernoulli"},
        }
    )
    model = build_model(resolve(config, facts, "table"), facts).double()
    acquaint(model, torch.rand(40, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)))
    return model


# Pseudo-inputs and exemplars ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_the_vamp_prior_is_the_mixture_of_the_encoder_s_posteriors(covariance: str) -> None:
    torch.manual_seed(0)
    encoder = GaussianPosterior(nn.Flatten(), 6, 2, covariance).double()
    prior = VampPrior(encoder, (6,), 5).double()
    z = torch.randn(4, 3, 2, dtype=DOUBLE)
    q = encoder(prior.inputs)
    expected = densities(q, z).logsumexp(-1) - math.log(5)
    torch.testing.assert_close(prior().log_prob(z), expected)
    prior().log_prob(z).sum().backward()
    assert prior.raw.grad.abs().sum() > 0
    assert encoder.head.weight.grad.abs().sum() > 0
    assert not any("encoder" in name for name in prior.state_dict()), "the encoder would be saved twice"


def test_pseudo_inputs_begin_at_training_rows_and_stay_in_their_range() -> None:
    rows = torch.rand(30, 6, dtype=DOUBLE) * torch.tensor([1, 2, 3, 4, 5, 0], dtype=DOUBLE)
    rows[:, 5] = 0.25
    encoder = GaussianPosterior(nn.Flatten(), 6, 2).double()
    free, held = VampPrior(encoder, (6,), 5).double(), VampPrior(encoder, (6,), 5, bounded=True).double()
    for prior in (free, held):
        prior.see(rows)
    torch.testing.assert_close(free.inputs, rows[:5])
    low, high = rows.amin(0), rows.amax(0)
    assert ((held.inputs - rows[:5]).abs() <= EDGE * (high - low) + 1e-9).all()
    with torch.no_grad():
        held.raw.add_(100 * torch.randn(5, 6, dtype=DOUBLE))
    assert (held.inputs >= low).all()
    assert (held.inputs <= high).all()
    assert torch.isfinite(held.inputs).all()


def test_an_exemplar_prior_is_a_mixture_around_the_codes_of_rows() -> None:
    torch.manual_seed(0)
    encoder = GaussianPosterior(nn.Flatten(), 6, 2).double()
    prior, rows = ExemplarPrior(encoder, (6,), 5).double(), torch.rand(30, 6, dtype=DOUBLE)
    prior.see(rows)
    assert torch.equal(prior.rows, rows[:5])
    z, std = torch.randn(4, 3, 2, dtype=DOUBLE), prior.log_std.exp()
    normal = torch.distributions.Independent(torch.distributions.Normal(encoder(rows[:5]).mean, std), 1)
    expected = normal.log_prob(z[:, :, None]).logsumexp(-1) - math.log(5)
    torch.testing.assert_close(prior().log_prob(z), expected)


class Given(nn.Module):
    """A network that reads a condition."""

    latent = 2

    def __init__(self) -> None:
        super().__init__()
        self.inner = GaussianPosterior(nn.Flatten(), 4, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Any:
        return self.inner(torch.cat([x, condition], 1))


@pytest.mark.parametrize("kind", [VampPrior, ExemplarPrior])
def test_what_stands_beside_the_first_rows_is_kept(kind: Any) -> None:
    prior = kind(Given(), (3,), 5, condition=1)
    batch = Batch(torch.rand(9, 3), torch.rand(9, 1))
    prior.see(batch)
    assert torch.equal(prior.source.given, batch.condition[:5])
    again = kind(Given(), (3,), 5, condition=1)
    again.load_state_dict(prior.state_dict())
    again.source._encoder = prior.source._encoder
    z = torch.randn(2, 4, 2)
    torch.testing.assert_close(again().log_prob(z), prior().log_prob(z))


# In a model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["mixture", "vamp", "exemplar", "flow"])
def test_annealed_chains_and_importance_sampling_agree_with_quadrature(prior: str) -> None:
    model = digits_model(prior)
    with torch.no_grad():
        model.decoder.net.layers[-1].weight.mul_(3)
    x = torch.rand(2, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(9))
    axis = torch.linspace(-7, 7, 281, dtype=DOUBLE)
    grid = torch.cartesian_prod(axis, axis)[:, None]
    with torch.no_grad():
        joint = model.decode(grid).log_prob(x) + model.prior_distribution().log_prob(grid)
    truth = (joint.logsumexp(0) + 2 * math.log((axis[1] - axis[0]).item())).numpy()
    bound = importance_bound(model, x, 20_000)
    assert (np.abs(bound.values - truth) < 5 * np.sqrt(bound.variance) + 0.01).all()
    bracket = ais(model, x, steps=60, chains=16, seed=1)
    assert (bracket.lower < truth + 0.15).all()
    assert (bracket.upper > truth - 0.15).all()
    assert np.abs(bracket.lower - truth).max() < 0.3


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"model.posterior": "iaf", "prior.name": "vamp"}, "normal distributions, and iaf is none"),
        ({"model.posterior": "delta", "prior.name": "mixture"}, "which delta codes do not have"),
        ({"model.posterior": "vmf", "prior.name": "flow"}, "real vectors, and those of vmf are not"),
        ({"prior.name": "sphere"}, "on the unit sphere, and those of diagonal are not"),
        ({"prior.name": "vamp", "prior.components": 501}, "prior.components: got 501; each begins at a training row"),
        ({"prior.name": "exemplar", "model.norm": "batch"}, "normalised apart from the batch"),
        ({"prior.after": "autoregressive"}, "another kind of codes"),
        ({"prior.after": "gmm", "model.posterior": "vmf"}, "another kind of codes"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(settings: dict[str, Any], text: str) -> None:
    config = build_config({}).edited({"likelihood.name": "gaussian", **settings})
    with pytest.raises(BadInput, match=text) as caught:
        refuse_misfits(config, Facts((6,), rows=500), frozenset({"density"}))
    assert "\n" not in str(caught.value)


# Fitted after training ----------------------------------------------------------------------------------------------


def ring(count: int) -> Tensor:
    """Codes that no normal describes: on a ring."""
    coins = torch.Generator().manual_seed(4)
    angle = 2 * math.pi * torch.rand(count, generator=coins)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * torch.randn(count, 2, generator=coins)


LATER: dict[str, Any] = {
    "gmm": lambda: GaussianMixturePrior(2, 20),
    "two_stage": lambda: SecondStage(2, (32, 32)),
    "flow": lambda: FlowPrior(2, 3, (32,)),
}
BETTER = {"gmm": 0.5, "flow": 0.3}  # nats by which it has to beat the best normal


def fitted_to_a_ring(kind: str) -> tuple[Any, Tensor, Any]:
    """A prior after 400 steps on codes of a ring, those codes, and the normal that fits them best."""
    torch.manual_seed(0)
    prior, train = FittedLater(StandardNormalPrior(2), LATER[kind]()), ring(4000)
    prior.fit(train, 400, seed=1)
    return prior, train, FullNormal(train.mean(0)[None], torch.linalg.cholesky(train.T.cov())[None])


@pytest.mark.parametrize("kind", BETTER)
def test_a_later_prior_fits_codes_better_than_a_normal(kind: str) -> None:
    (prior, _, best_normal), test = fitted_to_a_ring(kind), ring(5000)[4000:][:, None]
    with torch.no_grad():
        assert prior().log_prob(test).mean() > best_normal.log_prob(test).mean() + BETTER[kind]
        z = prior().sample(2000, torch.Generator().manual_seed(0))
    assert ((z.norm(dim=1) - 2).abs() < 1).double().mean() > 0.85


def test_a_second_stage_comes_near_the_best_normal_in_400_steps() -> None:
    """It begins slowly, and 400 steps show no more: no worse than 0.05 nats below it."""
    (prior, _, best_normal), test = fitted_to_a_ring("two_stage"), ring(5000)[4000:][:, None]
    with torch.no_grad():
        aim = best_normal.log_prob(test).mean()
        assert prior().log_prob(test).mean() > aim - 0.05


@pytest.mark.parametrize("kind", LATER)
def test_a_later_prior_is_put_in_force_and_saved(kind: str) -> None:
    torch.manual_seed(0)
    build, later = LATER[kind], LATER[kind]()
    prior = FittedLater(StandardNormalPrior(2), later)
    train, test = ring(4000), ring(5000)[4000:][:, None]
    assert isinstance(prior(), StandardNormal)
    assert not any(parameter.requires_grad for parameter in later.parameters())
    prior.fit(train, 400, seed=1)
    assert prior.in_force
    torch.testing.assert_close(prior().mean[0], train.mean(0), atol=0.25, rtol=0)
    torch.testing.assert_close(prior().variance[0], train.var(0), atol=0.5, rtol=0)
    torch.manual_seed(1)
    again = FittedLater(StandardNormalPrior(2), build())
    again.load_state_dict(prior.state_dict())
    torch.testing.assert_close(again().log_prob(test), prior().log_prob(test))
    assert not any(parameter.requires_grad for parameter in later.parameters())


def test_the_fit_is_a_function_of_its_seed() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        later = SecondStage(2, (8,))
        later.fit(ring(200), 20, seed=3)
        torch.rand(3)
        found.append(later.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_gradient_that_is_not_finite_stays_out_of_the_weights() -> None:
    """The slope of |w|^(1/2) at 0 is infinite, where the loss is finite."""
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.zero_()
    with pytest.raises(Diverged, match="a gradient is not finite"):
        minimise(module, lambda z: module.weight.abs().sqrt().sum() + module(z).mean(), ring(20), 3, seed=0)
    assert not module.weight.any()


def test_the_error_of_a_second_stage_s_gain_has_the_spread_over_its_noise_in_it(monkeypatch: Any) -> None:
    monkeypatch.setattr("vaelab.training.after.evaluated_rows", lambda rows: 2 * len(rows))
    torch.manual_seed(0)
    model = VAE(GaussianPosterior(nn.Flatten(), 6, 2), nn.Linear(2, 6), likelihood="bernoulli", latent=2)
    model.prior = FittedLater(StandardNormalPrior(2), SecondStage(2, (8,)))
    held_out = Rows(
        np.random.default_rng(0).random((40, 6)).round(),
        None,
        Affine(torch.zeros(()), torch.ones(())),
        binarize="none",
        shape=(6,),
        device=torch.device("cpu"),
    )
    assert _spread(model, held_out, 1) == 0, "as long as another prior is in force"
    model.prior.in_force.fill_(True)
    stage, means = model.prior.later, []
    before = stage.noise.clone()
    spread = _spread(model, held_out, 1)
    assert torch.equal(stage.noise, before), "it holds its own noise again"
    for seed in range(100, 130):
        stage.hold(seed)
        means.append(_bounds(model, held_out, 1).mean())
    truth = torch.stack(means).std().item()
    assert 0.2 * truth < spread < 3 * truth
    assert torch.equal(SecondStage(2, (8,)).noise, before)
    model.prior = FittedLater(StandardNormalPrior(2), GaussianMixturePrior(2, 3))
    assert _spread(model, held_out, 1) == 0


def test_the_second_stage_s_density_is_an_unbiased_estimate() -> None:
    """Over many draws of its noise, p-hat integrates to 1, and log p-hat stays below the log of the mean."""
    torch.manual_seed(0)
    stage = SecondStage(1, (8,)).double()
    axis = torch.linspace(-12, 12, 2001, dtype=DOUBLE)[:, None, None]
    found = []
    with torch.no_grad():
        for seed in range(60):
            stage.noise.copy_(torch.randn(stage.noise.shape, generator=torch.Generator().manual_seed(seed)))
            found.append(stage().log_prob(axis)[:, 0])
    logs = torch.stack(found)
    mass = logs.exp().sum(1) * (axis[1] - axis[0]).item()
    assert abs(mass.mean() - 1) < 4 * mass.std() / 60**0.5 + 1e-3
    assert (logs.mean(0) <= logs.exp().mean(0).log()).all()


def digits(**settings: Any) -> dict[str, Any]:
    small: dict[str, Any] = {"model.hidden": (16,), "model.latent": 4, "train.steps": 60, "report.html": False}
    after = settings.get("prior.after", "none")
    if after != "none":
        small |= {"prior.after_steps": 60, "prior.hidden": (8,)} if after != "gmm" else {}
    if {after, settings.get("prior.name")} & {"gmm", "mixture", "vamp", "exemplar"}:
        small["prior.components"] = 5
    return vaelab.Config().edited(small | settings).model_dump()


@pytest.mark.parametrize("after", ["gmm", "flow", "two_stage"])
def test_a_run_with_a_prior_fitted_later(after: str, tmp_path: Path) -> None:
    x = load_digits().data[:600]
    run = vaelab.train(x, config=digits(**{"prior.after": after}), out=tmp_path / "run", progress=False)
    fitted = run.metrics["prior_fit"]
    before = [line for line in run.history if line["kind"] == "held_out" and line["step"] == run.metrics["step"]]
    assert fitted["before"] == before[-1]["negative_elbo"]
    # The same rows and draws of z: the change of the two evaluations and the paired gain are near each other.
    assert fitted["before"] - run.metrics["negative_elbo"] == pytest.approx(fitted["gain"], abs=0.3)
    (finding,) = [found for found in run.findings if found.code == "TR150"]
    assert finding.severity == ("warning" if fitted["gain"] < -3 * fitted["error"] else "ok")
    assert finding.measured == fitted["gain"]
    assert run.model.prior.in_force
    assert run.sample(5).shape == (5, 64)
    plain, weights = (Checkpoints(run.folder / "checkpoints").load_best()[0], run.model.state_dict())
    assert all(torch.equal(plain[name], weights[name]) for name in weights)


def test_a_run_killed_before_its_prior_was_fitted_is_whole_and_is_fitted_when_resumed(tmp_path: Path) -> None:
    x, settings = load_digits().data[:600], digits(**{"prior.after": "gmm"})
    whole = vaelab.train(x, config=settings, out=tmp_path / "whole", progress=False)
    (fitted,) = (whole.folder / "checkpoints").glob("fitted-*")
    for path in (fitted / MANIFEST, *fitted.iterdir()):
        path.unlink(missing_ok=True)
    fitted.rmdir()
    cut = vaelab.load(whole.folder)
    assert not cut.model.prior.in_force
    assert "prior_fit" not in cut.metrics
    again = vaelab.train(x, resume=whole.folder, progress=False)
    assert again.metrics == whole.metrics
    weights = again.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in whole.model.state_dict().items())
    longer = vaelab.train(x, config={"train": {"steps": 120}}, resume=whole.folder, progress=False)
    assert longer.metrics["prior_fit"]
    assert longer.model.prior.in_force


@pytest.mark.parametrize("settings", [{"prior.name": "mixture", "prior.after_steps": 3000}, {"prior.after": "gmm"}])
def test_a_traversal_is_in_the_prior_s_own_units(settings: dict[str, Any], tmp_path: Path) -> None:
    run = vaelab.train(load_digits().data[:300], config=digits(**settings), out=tmp_path / "run", progress=False)
    draws = run.model.prior_distribution().sample(200_000, torch.Generator().manual_seed(0)).detach().numpy()
    codes = np.tile(draws.mean(0), (3, 1))
    codes[:, 2] += draws.std(0)[2] * np.array([-2.0, 0.0, 2.0])
    walked, expected = run.traverse(dimensions=[3], steps=3, span=2.0)[0], run.decode(codes)
    assert np.abs(walked - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_fit_that_diverges_leaves_the_run_whole_with_the_trained_prior(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, settings = load_digits().data[:300], digits(**{"prior.after": "flow", "prior.components": 100})
    true = FlowPrior.forward

    def broken(self: FlowPrior) -> Any:
        density = true(self)
        if what == "loss":
            density.log_prob = lambda z: z.sum(-1) * math.nan
        else:  # finite itself, with a slope of 0 / 0
            density.log_prob = lambda z: (z.sum(-1) * 0 + next(self.parameters()).sum() * 0).clamp(min=0).sqrt()
        return density

    monkeypatch.setattr(FlowPrior, "forward", broken)
    run = vaelab.train(x, config=settings, out=tmp_path / "run", progress=False)
    (finding,) = [found for found in run.findings if found.code == "TR153"]
    (told,) = prior_rules({"prior_fit": {"prior": "flow", "failed": finding.evidence}})
    assert finding.severity == "warning" and told.edit == {"prior.after": "none"}
    assert "step 0 of fitting the prior" in finding.evidence
    assert run.is_finished and not run.model.prior.in_force
    before = [line for line in run.history if line["kind"] == "held_out" and line["step"] == run.metrics["step"]]
    assert run.metrics["negative_elbo"] == before[-1]["negative_elbo"]
    assert not any(found.code == "TR150" for found in run.findings)
    assert run.sample(3).shape == (3, 64)


def test_a_damaged_fit_leaves_the_weights_as_they_were_trained(tmp_path: Path) -> None:
    run = vaelab.train(
        load_digits().data[:600], config=digits(**{"prior.after": "gmm"}), out=tmp_path / "run", progress=False
    )
    (fitted,) = (run.folder / "checkpoints").glob("fitted-*")
    (fitted / "measured.json").write_text(json.dumps({"step": 3}))
    with pytest.warns(RuntimeWarning, match="does not match the digest"):
        assert not vaelab.load(run.folder).model.prior.in_force
