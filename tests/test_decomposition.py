"""The parts of the average divergence and the gaps of inference, against closed forms, quadrature and an optimiser."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.datasets import load_digits, load_wine
from torch import Tensor, distributions, nn

import vaelab
from vaelab.core.config import build_config
from vaelab.distributions.likelihoods import Decoder, Gaussian
from vaelab.distributions.normal import DiagonalNormal, FullNormal
from vaelab.evaluation import latent as latent_module
from vaelab.evaluation.case import Case
from vaelab.evaluation.latent import dimensions, latent
from vaelab.measure import refine as refine_module
from vaelab.measure.baseline import spaced
from vaelab.measure.importance import importance_bound
from vaelab.measure.information import Information, in_use, information, most_paired, paired
from vaelab.measure.latent import latent_model
from vaelab.measure.refine import Gaps, inference_gaps, refine

SEEDS = 100


# The parts, from arrays -----------------------------------------------------------------------------------------------

MODELS = {
    "a little": (np.array([[0.6, 0.2], [0.1, 0.5]]), np.array([0.8, 0.7])),
    "some": (np.array([[1.0, 0.6, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 0.9]]), np.array([0.2, 0.1, 0.3])),
    "far from the prior": (np.array([[3.0, 2.0], [0.0, 2.0]]), np.array([0.5, 0.3])),
    "collapsed": (np.zeros((2, 2)), np.ones(2)),
}


def drawn(seed: int, rows: int, gains: np.ndarray, variance: np.ndarray) -> tuple[Information, np.ndarray]:
    """q(z|x) = N(x A, diag(v)) for x ~ N(0, I), and log q(z_i|x_i) - log p(z_i)."""
    random = np.random.default_rng(seed)
    mean = random.standard_normal((rows, len(gains))) @ gains
    spread = np.broadcast_to(variance, mean.shape)
    z = mean + np.sqrt(spread) * random.standard_normal(mean.shape)
    pairs = -0.5 * ((z[:, None] - mean) ** 2 / variance + np.log(2 * math.pi * variance)).sum(-1)
    each = stats.norm.logpdf(z)
    return information(z, pairs, each.sum(1), mean, spread, each), np.diag(pairs) - each.sum(1)


def closed_forms(gains: np.ndarray, variance: np.ndarray) -> dict[str, Any]:
    """All parts from determinants, traces and diagonals of the covariance of z."""
    covariance = gains.T @ gains + np.diag(variance)
    log_det, own = np.linalg.slogdet(covariance)[1], np.diag(covariance)
    return {
        "mutual": 0.5 * (log_det - np.log(variance).sum()),
        "marginal": 0.5 * (own.sum() - len(own) - log_det),
        "correlation": 0.5 * (np.log(own).sum() - log_det),
        "single": 0.5 * (own - 1 - np.log(own)).sum(),
        "each": 0.5 * (own - 1 - np.log(own)),
    }


@pytest.mark.parametrize("name", MODELS)
def test_every_part_lies_in_its_interval(name: str) -> None:
    truth = closed_forms(*MODELS[name])
    assert truth["marginal"] == pytest.approx(truth["correlation"] + truth["single"])
    hits = dict.fromkeys(truth, 0.0)
    for seed in range(SEEDS):
        found, _ = drawn(seed, 300, *MODELS[name])
        for key, value in truth.items():
            number = getattr(found, key)
            hits[key] += np.mean((number.low <= value) & (value <= number.high))
    assert min(hits.values()) >= 90, hits


def test_the_intervals_of_single_dimensions_are_narrow() -> None:
    """Bounds on a density of one dimension from a thousand rows are close, whatever they are in all dimensions."""
    found, _ = drawn(0, 1000, *MODELS["some"])
    assert found.single is not None and found.each is not None
    assert found.single.interval < 0.35 and found.each.interval.max() < 0.15
    assert found.each.value.sum() == pytest.approx(found.single.value)


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_add_up_to_the_divergence_of_the_draws(name: str) -> None:
    found, log_ratio = drawn(7, 200, *MODELS[name])
    assert found.single is not None
    assert found.mutual.value + found.marginal.value == pytest.approx(log_ratio.mean(), abs=1e-9)
    three = found.mutual.value + found.correlation.value + found.single.value
    assert three == pytest.approx(log_ratio.mean(), abs=1e-9)


def test_rows_too_few_to_tell_say_so_and_their_interval_ends_at_the_divergence() -> None:
    """I = 34.7 nats in 50 dimensions, of which 50 rows show 3.9: the bound by the prior ends the interval."""
    gains, variance = np.eye(50) * 3**0.5 / 2, np.full(50, 0.25)
    found, log_ratio = drawn(0, 50, gains, variance)
    truth = closed_forms(gains, variance)
    for name in ("mutual", "marginal", "correlation"):
        number = getattr(found, name)
        assert "cannot be told from 50 rows, ceiling log N = 3.91" in number.unit
        assert number.low <= truth[name] <= number.high
    assert found.mutual.high < log_ratio.mean() + 6 and found.mutual.low > 0
    told, _ = drawn(0, 300, *MODELS["some"])
    assert told.mutual.unit == "nats per sample"


@pytest.mark.parametrize("full", [False, True])
def test_pairs_are_the_density_of_each_code_under_each_posterior(full: bool) -> None:
    torch.manual_seed(0)
    mean, factor = torch.randn(7, 3).double(), torch.randn(7, 3, 3).double().tril(-1) + torch.eye(3).double() * 0.5
    q: Any = FullNormal(mean, factor) if full else DiagonalNormal(mean, torch.randn(7, 3).double())
    z = torch.randn(7, 3).double()
    covariance = (factor @ factor.mT if full else torch.diag_embed(q.variance)).numpy()
    pairs = zip(mean.numpy(), covariance, strict=True)
    expected = [stats.multivariate_normal.logpdf(z.numpy(), m, c) for m, c in pairs]
    assert paired(q, z).numpy() == pytest.approx(np.stack(expected, 1))
    assert [most_paired(*size) for size in ((50, 2), (5000, 2), (5000, 64), (5000, 4096))] == [50, 1000, 512, 64]


# Gaps of a linear model, in closed form -------------------------------------------------------------------------------


class Fixed(nn.Module):
    """q(z|x) = N(A x + shift, covariance), diagonal or full."""

    def __init__(self, read: np.ndarray, shift: float, covariance: np.ndarray) -> None:
        super().__init__()
        self.read = nn.Parameter(torch.tensor(read))
        self.shift, self.covariance = shift, torch.tensor(covariance)
        self.latent = len(read)

    def forward(self, x: Tensor) -> Any:
        mean = x @ self.read.T + self.shift
        if self.covariance.ndim == 1:
            return DiagonalNormal(mean, 0.5 * self.covariance.log().expand_as(mean))
        return FullNormal(mean, torch.linalg.cholesky(self.covariance).expand(len(x), -1, -1))


WEIGHT = np.random.default_rng(3).normal(size=(6, 3)) @ np.array([[1.0, 0.9, 0.3], [0.0, 0.8, 0.6], [0.0, 0.0, 0.7]])
NOISE = 0.8
PRECISION = np.eye(3) + WEIGHT.T @ WEIGHT / NOISE**2
POSTERIOR = np.linalg.inv(PRECISION)
READ = POSTERIOR @ WEIGHT.T / NOISE**2  # x to the posterior's mean


def linear_case(shift: float, covariance: np.ndarray, rows: int = 700, prior: nn.Module | None = None) -> Case:
    decoder = nn.Linear(3, 6, bias=False).double()
    decoder.weight.data = torch.tensor(WEIGHT)
    likelihood = Decoder(decoder, Gaussian("fixed", NOISE), (6,))
    model = vaelab.VAE(Fixed(READ, shift, covariance), likelihood, prior, latent=3)
    random = np.random.default_rng(1)
    x = random.standard_normal((rows, 3)) @ WEIGHT.T + NOISE * random.standard_normal((rows, 6))
    return Case(build_config({}), SimpleNamespace(layout="table"), model.double().eval(), torch.tensor(x))  # type: ignore[arg-type]


def kl_to_posterior(shift: float, covariance: np.ndarray) -> float:
    """KL(q || p(z|x)), the same for every x: log p(x) - ELBO."""
    full = np.diag(covariance) if covariance.ndim == 1 else covariance
    trace, square = np.trace(PRECISION @ full), shift**2 * PRECISION.sum()
    return 0.5 * (trace + square - 3 - np.linalg.slogdet(PRECISION)[1] - np.linalg.slogdet(full)[1])


BEST = 1 / np.diag(PRECISION)  # of all diagonal normals: the diagonal of the precision
assert kl_to_posterior(0.0, BEST) > 0.3
FAMILIES = {
    "diagonal, best already": (0.0, BEST),
    "diagonal, too narrow": (0.0, 0.3 * BEST),
    "diagonal, too wide and off": (0.15, 3 * BEST),
    "full, the posterior itself": (0.0, POSTERIOR),
    "full, off and narrow": (0.2, 0.4 * POSTERIOR),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_both_gaps_of_a_linear_model_are_the_closed_forms(name: str) -> None:
    shift, covariance = FAMILIES[name]
    case = linear_case(shift, covariance, rows=64)
    found = inference_gaps(case.model, case.x, seed=2)
    assert found is not None
    beyond = kl_to_posterior(0.0, BEST) if covariance.ndim == 1 else 0.0
    truth = {"amortisation": kl_to_posterior(shift, covariance) - beyond, "approximation": beyond}
    for key, value in truth.items():
        gap = getattr(found, key)
        error = 4 * gap.std() / 8 + 0.01
        assert gap.mean() == pytest.approx(value, abs=error) and error < 0.1 + 0.1 * value, key


def test_the_gap_of_many_dimensions_is_the_closed_form_too() -> None:
    """50 correlated dimensions, where steps as long as in three of them scatter the full covariance."""
    random = np.random.default_rng(0)
    weight, noise = random.standard_normal((60, 50)) * 0.5, 1.5
    precision = np.eye(50) + weight.T @ weight / noise**2
    truth = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    covariance = weight @ weight.T + noise**2 * np.eye(60)
    x = random.multivariate_normal(np.zeros(60), covariance, 16)
    read, width = np.linalg.solve(precision, weight.T) / noise**2, -np.log(np.diag(precision))
    functions = {
        "encode": lambda x: (x @ torch.tensor(read).T, torch.tensor(width).expand(len(x), -1)),
        "log_px": lambda x, z: distributions.Normal(z @ torch.tensor(weight).T, noise).log_prob(x).sum(1),
    }
    found = inference_gaps(functions, torch.tensor(x), samples=1000)
    assert found is not None and truth > 3
    assert found.approximation.mean() == pytest.approx(truth, rel=0.1)
    assert found.amortisation.mean() == pytest.approx(0, abs=0.1)


def test_a_search_that_went_astray_spoils_no_bound() -> None:
    """A third of the draws lies 50 deviations away, a third is too narrow: the rest, which is wide, holds log p(x)."""
    case = linear_case(0.0, BEST, rows=32)
    model, best = latent_model(case.model), refine_module._encoded(latent_model(case.model), case.x)
    assert isinstance(best, DiagonalNormal)
    wide = DiagonalNormal(best.mean, best.log_std + 1.5)
    astray = FullNormal(best.mean + 50 * best.std, best.scale_tril)
    torch.manual_seed(0)
    noise = torch.randn(4000, 32, 3).double()
    _, elbo, log_px = refine_module._bounds(model, case.x, (wide, best, astray), noise)
    covariance = WEIGHT @ WEIGHT.T + NOISE**2 * np.eye(6)
    truth = stats.multivariate_normal.logpdf(case.x.numpy(), np.zeros(6), covariance)
    assert log_px == pytest.approx(truth, abs=0.15) and log_px.mean() == pytest.approx(truth.mean(), abs=0.03)
    assert (truth - elbo).mean() == pytest.approx(kl_to_posterior(0.0, BEST), abs=0.05)


@pytest.mark.parametrize("below", [0.0, 0.1])
def test_a_gap_that_cannot_be_is_left_out(below: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = Gaps(np.full(64, 0.5), np.random.default_rng(0).standard_normal(64) * 0.05 - below)
    monkeypatch.setattr(latent_module, "inference_gaps", lambda *_, **__: gaps)
    found = latent(linear_case(0.0, BEST, rows=64))
    assert ("approximation_gap" in found) == (below == 0) and found["amortisation_gap"].unit.endswith(", 64 rows")


def test_few_steps_give_a_lower_bound() -> None:
    case = linear_case(0.15, 3 * BEST, rows=64)
    truth = kl_to_posterior(0.15, 3 * BEST) - kl_to_posterior(0.0, BEST)
    gains = [inference_gaps(case.model, case.x, rates=(0.02,) * steps).amortisation.mean() for steps in (1, 10, 40)]  # type: ignore[union-attr]
    assert 0 < gains[0] < gains[1] < gains[2] < truth


def test_large_rows_are_fewer_and_all_are_evenly_spaced() -> None:
    """The gap of row i is i times a hundredth: which rows were taken can be read from it."""

    def model(width: int) -> dict[str, Any]:
        return {
            "encode": lambda x: (torch.zeros(len(x), 1), (0.02 * x[:, :1]).log1p()),
            "log_px": lambda x, z: 0 * (x[:, 0] + z[:, 0]),
        }

    for width, rows in ((5, 64), (2**12, 16), (2**15, 8)):
        x = torch.linspace(0, 99, 100)[:, None].expand(100, width)
        found = inference_gaps(model(width), x, rates=(0.0,), samples=4000)
        assert found is not None and len(found.amortisation) == rows
        variance = 1 + 0.02 * torch.linspace(0, 99, 100).long()[spaced(100, rows)].numpy()
        total = 0.5 * (variance - 1 - np.log(variance))  # KL(q || p), since x says nothing of z
        assert found.approximation == pytest.approx(total, abs=0.06)


def test_the_quick_search_reports_how_far_it_widened_q() -> None:
    case = linear_case(0.0, 0.3 * BEST, rows=64)
    torch.manual_seed(0)
    found = refine(case.model, case.x, 64)
    assert found is not None
    assert found.log_variance.mean() == pytest.approx(-math.log(0.3), abs=0.1)
    full = refine(linear_case(0.0, 0.4 * POSTERIOR, rows=64).model, case.x, 64)
    assert full is not None and full.log_variance.mean() == pytest.approx(-math.log(0.4), abs=0.1)


def test_the_gaps_of_a_model_of_bits_by_quadrature_and_a_library_optimiser() -> None:
    """One latent: log p(x) and the ELBO of any q by the trapezoidal rule, the best q by Nelder and Mead."""
    gains, bias = np.array([2.5, -3.0, 1.5, 4.0]), np.array([0.5, 0.0, -1.0, 1.0])
    x = np.array([[1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 0]], np.float64)
    grid = np.linspace(-12, 12, 4001)
    step = grid[1] - grid[0]

    def log_joint(row: np.ndarray) -> np.ndarray:
        logits = grid[:, None] * gains + bias
        return (row * logits - np.logaddexp(0, logits)).sum(1) + stats.norm.logpdf(grid)

    def elbo(row: np.ndarray, mean: float, log_std: float) -> float:
        log_q = stats.norm.logpdf(grid, mean, math.exp(log_std))
        return float((np.exp(log_q) * (log_joint(row) - log_q)).sum() * step)

    log_px = np.array([np.logaddexp.reduce(log_joint(row)) + math.log(step) for row in x])
    found = [optimize.minimize(lambda p, row=row: -elbo(row, *p), (0.0, -0.5), method="Nelder-Mead") for row in x]
    best = np.array([-one.fun for one in found])
    own = np.array([elbo(row, 0.3, math.log(0.9)) for row in x])
    scale, shift = torch.tensor(gains), torch.tensor(bias)
    one = torch.ones(64, 1).double()
    functions = {
        "encode": lambda rows: (0.3 * one, 2 * math.log(0.9) * one),
        "log_px": lambda rows, z: distributions.Bernoulli(logits=z * scale + shift).log_prob(rows).sum(1),
    }
    gaps = inference_gaps(functions, torch.tensor(np.repeat(x, 16, axis=0)), samples=4000)
    assert gaps is not None
    for gap, truth in ((gaps.amortisation, best - own), (gaps.approximation, log_px - best)):
        assert gap.reshape(4, 16).mean(1) == pytest.approx(truth, abs=0.03)
    assert (log_px - best).max() > 0.02  # there is a gap to see


def test_a_search_leaves_the_model_and_the_random_state_alone() -> None:
    case = linear_case(0.2, BEST)
    before, weights = torch.get_rng_state(), {name: value.clone() for name, value in case.model.state_dict().items()}
    first, second = latent(case), latent(case)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(weights[name], value) for name, value in case.model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in case.model.parameters())
    assert all(np.array_equal(first[name].value, second[name].value) for name in first)


# All of it, of a case -------------------------------------------------------------------------------------------------


def truths(shift: float, variance: np.ndarray) -> dict[str, Any]:
    """Of q(z|x) = N(A x + shift, diag(v)) for rows of the model: z ~ N(shift, A S A' + diag(v))."""
    covariance = READ @ (WEIGHT @ WEIGHT.T + NOISE**2 * np.eye(6)) @ READ.T + np.diag(variance)
    log_det, own = np.linalg.slogdet(covariance)[1], np.diag(covariance)
    each = 0.5 * (own + shift**2 - 1 - np.log(own))
    per_row = 0.5 * (own + shift**2 - 1 - np.log(variance))
    return {
        "rate": per_row.sum(),
        "kl_per_dimension": per_row,
        "mutual_information": 0.5 * (log_det - np.log(variance).sum()),
        "aggregate_kl": 0.5 * (own.sum() + 3 * shift**2 - 3 - log_det),
        "total_correlation": 0.5 * (np.log(own).sum() - log_det),
        "marginal_kl": each.sum(),
        "marginal_kl_per_dimension": each,
        "decomposition_error": 0.0,
        "amortisation_gap": kl_to_posterior(shift, variance) - kl_to_posterior(0.0, BEST),
        "approximation_gap": kl_to_posterior(0.0, BEST),
        "active_units_kl": 3.0,
        "active_units_variance": 3.0,
    }


@pytest.mark.parametrize(("shift", "factor"), [(0.0, 1.0), (0.3, 2.0)])
def test_every_number_of_a_linear_model(shift: float, factor: float) -> None:
    found, known = latent(linear_case(shift, factor * BEST)), truths(shift, factor * BEST)
    assert set(found) == {*known, "information_ceiling"}
    for name, truth in known.items():
        number = found[name]
        away = np.abs(number.value - truth)
        assert np.all(away <= 1.5 * np.asarray(number.interval) + 0.01), f"{name}: {number} is not {truth}"
        assert number.unit
    parts = found["mutual_information"].value + found["total_correlation"].value + found["marginal_kl"].value
    same_rows = found["rate"].value + found["decomposition_error"].value
    assert parts == pytest.approx(same_rows, abs=1e-6)


@pytest.mark.parametrize("broken", ["density", "divergence"])
def test_the_error_of_the_sum_shows_a_density_and_a_divergence_that_disagree(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "density":
        monkeypatch.setattr(latent_module, "paired", lambda q, z: paired(q, z) + 0.5)
    else:
        known = latent_module.divergence
        monkeypatch.setattr(latent_module, "divergence", lambda q, p, z: (known(q, p, z)[0] * 0.5, True))
    error = latent(linear_case(0.0, BEST))["decomposition_error"]
    assert error.low > 0


class Correlated(nn.Module):
    def forward(self) -> Any:
        return distributions.MultivariateNormal(torch.zeros(3).double(), torch.tensor(POSTERIOR))


def test_what_does_not_apply_is_left_out() -> None:
    of_prior = latent(linear_case(0.0, BEST, prior=Correlated()))
    assert "mutual_information" in of_prior and "aggregate_kl" in of_prior
    assert not {"total_correlation", "marginal_kl", "active_units_kl"} & set(of_prior)
    of_full = latent(linear_case(0.0, POSTERIOR, rows=80))
    assert "active_units_kl" not in of_full and of_full["approximation_gap"].value == pytest.approx(0, abs=0.01)
    single = latent(linear_case(0.0, BEST, rows=1))
    assert "mutual_information" not in single and "rate" in single


def test_units_in_use_are_counted_with_the_undecided() -> None:
    """Of three dimensions one has 2 nats, one none, and one hovers around the limit."""
    random = np.random.default_rng(0)
    kl = np.stack([np.full(100, 2.0), np.zeros(100), 0.011 + 0.05 * random.standard_normal(100)], 1)
    mean = np.stack([random.standard_normal(100), np.full(100, 5.0), 0.02 * random.standard_normal(100)], 1)
    found = dimensions(kl, mean)
    assert (found["active_units_kl"].value, found["active_units_kl"].interval) in ((2.0, 1.0), (1.0, 1.0))
    assert (found["active_units_variance"].value, found["active_units_variance"].interval) == (1.0, 0.0)
    assert in_use(found["kl_per_dimension"], 5.0).value == 0


@pytest.mark.parametrize("data", ["digits", "wine"])
def test_the_parts_of_real_runs_are_consistent(data: str, tmp_path: Any) -> None:
    rows = load_digits().images[:600] if data == "digits" else load_wine().data
    settings = {"train": {"steps": 250, "evaluate_every": 125}, "model": {"hidden": [48], "latent": 4}}
    run = vaelab.train(rows, out=tmp_path / "run", config={**settings, "report": {"html": False}}, progress=False)
    found = latent(Case(run.config, run.spec, run.model, run.spec.to_model(rows)))
    assert abs(found["decomposition_error"].value) <= 1.5 * found["decomposition_error"].interval
    assert found["mutual_information"].low <= found["rate"].value
    assert found["total_correlation"].high > 0 and found["mutual_information"].high > 0
    assert found["amortisation_gap"].high > 0 and found["approximation_gap"].value > 0
    some = run.spec.to_model(rows)[:64]
    gaps, bound = inference_gaps(run.model, some), importance_bound(run.model, some, 2000)
    assert gaps is not None
    total = bound.values - bound.elbo
    assert (gaps.amortisation + gaps.approximation).mean() == pytest.approx(total.mean(), abs=0.25)
