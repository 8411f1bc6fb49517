"""The diagnosis of runs: models known exactly, real failures named by their cause, and nothing said of sound ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_wine
from torch import Tensor, distributions, nn

import vaelab
from vaelab.core.config import build_config
from vaelab.core.durable import write_json
from vaelab.core.finding import Finding
from vaelab.data.transforms import Affine
from vaelab.diagnosis import causes, symptoms
from vaelab.diagnosis.case import Case
from vaelab.diagnosis.run import Diagnosis, diagnose_run
from vaelab.diagnosis.units import census
from vaelab.distributions.likelihoods import Decoder, Gaussian
from vaelab.distributions.normal import DiagonalNormal
from vaelab.measure.estimate import Estimate

DIGITS = load_digits().images / 16.0
WINE = load_wine().data


def stand_in(model: Any, held_out: np.ndarray, training: np.ndarray | None = None, **settings: Any) -> Any:
    """What a diagnosis reads of a run, around a model."""
    spec = {"transform": Affine(), "shape": held_out.shape[1:], "log_abs_det": 0.0, "binarize": "none"}
    layout = "image" if held_out.ndim > 2 else "table"
    return SimpleNamespace(
        model=model.eval(),
        preview=held_out,
        training_preview=training,
        conditions=(None, None),
        spec=SimpleNamespace(layout=layout, vocabulary=(), mixed=(), condition=(), **spec),
        config=build_config(settings),
        history=[],
        metrics={},
    )


def worrying(diagnosis: Diagnosis) -> list[str]:
    return [finding.code for finding in diagnosis.findings if finding.severity in ("warning", "error")]


# A model that is known exactly ----------------------------------------------------------------------------------------


class Exact(nn.Module):
    """q(z|x) of x ~ N(W z, s² I), z ~ N(0, I), with orthogonal columns of W: N(m(x), v) for each dimension.

    Args:
        narrow: What the true deviation is multiplied by.
    """

    def __init__(self, weights: Tensor, sigma: float, narrow: float = 1.0) -> None:
        super().__init__()
        self.latent = weights.shape[1]
        self.variance = 1 / (1 + weights.square().sum(0) / sigma**2)
        self.read = nn.Parameter(weights * self.variance / sigma**2)
        self.log_std = 0.5 * self.variance.log() + math.log(narrow)

    def forward(self, x: Tensor) -> DiagonalNormal:
        mean = x @ self.read
        return DiagonalNormal(mean, self.log_std.expand_as(mean))


WEIGHTS = torch.zeros(6, 3)
WEIGHTS[0, 0], WEIGHTS[1, 1], WEIGHTS[2, 2] = 2.0, 1.0, 0.5
SIGMA = 0.5


def exact_run(narrow: float = 1.0, sigma: float = SIGMA, rows: int = 1500, **settings: Any) -> Any:
    """Rows of the model itself; the decoder's noise is `sigma`, the rows' is `SIGMA`."""
    decoder = nn.Linear(3, 6, bias=False)
    decoder.weight.data = WEIGHTS.clone()
    model = vaelab.VAE(Exact(WEIGHTS, SIGMA, narrow), Decoder(decoder, Gaussian("fixed", sigma), (6,)), latent=3)
    random = np.random.default_rng(0)
    x = random.standard_normal((2 * rows, 3)) @ WEIGHTS.numpy().T + SIGMA * random.standard_normal((2 * rows, 6))
    x = x.astype(np.float32)
    return stand_in(model, x[:rows], x[rows:], **settings)


@pytest.fixture(scope="module")
def exact() -> Diagnosis:
    return diagnose_run(exact_run())


VARIANCE = Exact(WEIGHTS, SIGMA).variance.numpy()
KNOWN = {
    "code_mean": np.zeros(3),
    "code_variance": 1 - VARIANCE,
    "posterior_variance": VARIANCE,
    "kl_per_dimension": -0.5 * np.log(VARIANCE),
    "rate": -0.5 * np.log(VARIANCE).sum(),
    "mutual_information": -0.5 * np.log(VARIANCE).sum(),
    "aggregate_kl": 0.0,
    "total_correlation": 0.0,
    "separability": 0.5,
    "bound": 0.5 * np.log(2 * math.pi * math.e * (WEIGHTS.square().sum(1).numpy() + SIGMA**2)).sum(),
    "overfit_gap": 0.0,
    "dispersion": 1.0,
    "diversity": 1.0,
    "nearest_training": None,
    "amortisation_gap": 0.0,
    "widening": 0.0,
}
SLACK = {"amortisation_gap": 0.02, "widening": 0.02, "separability": 0.02, "posterior_variance": 1e-6}


@pytest.mark.parametrize("name", [name for name, value in KNOWN.items() if value is not None])
def test_numbers_of_a_model_that_is_known_exactly(exact: Diagnosis, name: str) -> None:
    """Twice the interval, since some twenty numbers are looked at."""
    number = exact.numbers[name]
    away = np.abs(number.value - KNOWN[name])
    assert np.all(away <= 2 * np.asarray(number.interval) + SLACK.get(name, 0.0)), f"{number} is not {KNOWN[name]}"


def test_nothing_is_wrong_with_the_exact_model(exact: Diagnosis) -> None:
    assert worrying(exact) == []
    assert exact.numbers["active_units_kl"].value == exact.numbers["active_units_variance"].value == 3
    assert exact.numbers["holes"].value < 0.05 and exact.numbers["two_sample"].value.max() < 0.08


@pytest.mark.parametrize("narrow", [0.5, 1.5])
def test_the_amortisation_gap_of_a_posterior_of_the_wrong_width(narrow: float) -> None:
    """KL(N(m, n² v) || N(m, v)) = (n² - 1) / 2 - log n for each of three dimensions; the best width is n times off."""
    found = diagnose_run(exact_run(narrow)).numbers
    gap = 3 * (0.5 * (narrow**2 - 1) - math.log(narrow))
    assert found["amortisation_gap"].value == pytest.approx(gap, rel=0.1)
    assert found["widening"].value == pytest.approx(-2 * math.log(narrow), abs=0.1)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_the_calibration_of_a_noise_that_is_wrong(sigma: float) -> None:
    """Residuals at z ~ q are W (z - m) + noise about the truth: s² for each entry, whatever the decoder's noise."""
    found = diagnose_run(exact_run(sigma=sigma))
    assert found.numbers["dispersion"].value == pytest.approx((SIGMA / sigma) ** 2, rel=0.03)
    assert worrying(found) == ["DG114" if sigma < SIGMA else "DG113"]


def test_shuffled_codes_cost_what_they_must(exact: Diagnosis) -> None:
    """E log p(x|z) at another row's z is lower by |W (z - z')|² / 2 s² = sum_d w² cov(z, z; x) / s², by hand."""
    drawn = np.random.default_rng(1)
    z, noise = drawn.standard_normal((200_000, 3)), drawn.standard_normal((200_000, 6))
    x = z @ WEIGHTS.numpy().T + SIGMA * noise
    mean = x @ Exact(WEIGHTS, SIGMA).read.detach().numpy()
    code = mean + np.sqrt(VARIANCE) * drawn.standard_normal(mean.shape)
    nats = [-0.5 * ((x - c @ WEIGHTS.numpy().T) ** 2).sum(1) / SIGMA**2 for c in (code, np.roll(code, 1, 0))]
    listening = exact.numbers["listening"]
    assert listening.value == pytest.approx((nats[0] - nats[1]).mean(), abs=1.5 * listening.interval)


# Real runs ------------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"model": {"hidden": [64], "latent": 8}, "train": {"steps": 600, "threads": 1}}
UNSCALED = np.concatenate([WINE[:, :1] * 1e4, WINE[:, 1:]], axis=1)
RATE, PIXEL = "train.learning_rate", {"name": "gaussian", "noise": "pixel"}
FIXED = {"name": "gaussian", "noise": "fixed"}
FAILURES: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "beta too small": (DIGITS, {"objective": {"beta": 0.001}}, "DG110", "objective.beta"),
    "beta too high": (DIGITS, {"objective": {"beta": 50.0}}, "DG101", "objective.beta"),
    "noise too large": (DIGITS, {"likelihood": {**FIXED, "sigma": 1.0}}, "DG113", "likelihood.noise"),
    "noise too small": (DIGITS, {"likelihood": {**FIXED, "sigma": 0.01}}, "DG114", "likelihood.noise"),
    "noise of constant entries": (DIGITS, {"likelihood": PIXEL, "train": {"steps": 1200}}, "DG124", "likelihood.noise"),
    "rate too high": (DIGITS, {"train": {"learning_rate": 0.3}, "model": {"activation": "relu"}}, "DG105", RATE),
    "columns not scaled": (UNSCALED, {"data": {"scale": "none"}, "likelihood": "gaussian"}, "DG127", "data.scale"),
}
SOUND: dict[str, tuple[Any, dict[str, Any]]] = {
    "digits": (DIGITS, {}),
    "wine": (WINE, {}),
    "bits": (DIGITS, {"data": {"binarize": "threshold"}}),
    "gray levels as bits": (DIGITS, {"likelihood": "bernoulli", "train": {"steps": 1200}}),
    "counts": ((16 * DIGITS).astype(np.uint8), {"likelihood": "poisson"}),
    "one dimension": (WINE, {"model": {"latent": 1}}),
    "many dimensions": (WINE, {"model": {"latent": 40}}),
    "full covariance": (WINE, {"model": {"posterior": "full"}}),
    "linear": (WINE, {"model": {"encoder": "linear", "decoder": "linear"}}),
}


def trained(x: Any, folder: Path, settings: dict[str, Any]) -> vaelab.Run:
    sections = {name: {**SMALL.get(name, {}), **settings.get(name, {})} for name in SMALL}
    config = {**settings, **sections, "report": {"html": False}}
    return vaelab.train(x, out=folder / "run", progress=False, config=config)


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_named_by_its_cause(tmp_path: Path, name: str) -> None:
    x, settings, code, key = FAILURES[name]
    run = trained(x, tmp_path, settings)
    found = [finding for finding in diagnose_run(run).findings if finding.severity in ("warning", "error")]
    assert {finding.code for finding in found} == {code}
    assert key in found[0].edit and found[0].why and found[0].expected
    assert run.config.edited(found[0].edit) != run.config


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_said_against_a_sound_run(tmp_path: Path, name: str) -> None:
    x, settings = SOUND[name]
    found = diagnose_run(trained(x, tmp_path, settings))
    assert worrying(found) == []
    assert any(finding.code == "DG100" for finding in found.findings)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: Any) -> vaelab.Run:
    return trained(DIGITS, tmp_path_factory.mktemp("digits"), {"train": {"steps": 300}})


def test_a_diagnosis_leaves_model_and_random_numbers_as_they_were(digits_run: vaelab.Run) -> None:
    model = digits_run.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    coins, numpy_coins = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = diagnose_run(digits_run), diagnose_run(digits_run)
    assert json.dumps(first.to_dict()) == json.dumps(second.to_dict())
    assert diagnose_run(digits_run, seed=1).to_dict() != first.to_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert torch.equal(coins, torch.get_rng_state()) and np.array_equal(numpy_coins, np.random.get_state()[1])
    model.eval()


def test_a_diagnosis_comes_back_from_its_file(tmp_path: Path, digits_run: vaelab.Run) -> None:
    found = diagnose_run(digits_run)
    write_json(tmp_path / "diagnosis.json", found.to_dict())
    back = Diagnosis.from_dict(json.loads((tmp_path / "diagnosis.json").read_text()))
    assert back.findings == found.findings and str(back) == str(found)
    assert back.to_dict() == json.loads(json.dumps(found.to_dict()))


def test_every_number_has_a_unit_and_an_interval_of_its_shape(digits_run: vaelab.Run) -> None:
    numbers = diagnose_run(digits_run).numbers
    assert {"detail_samples", "copied", "coverage", "training_bound", "skill", "dead_encoder"} <= set(numbers)
    for name, number in numbers.items():
        assert number.unit, name
        assert number.interval is None or np.shape(number.interval) == np.shape(number.value), name
        assert np.isfinite(number.value).all() and np.all(np.asarray(number.low) <= np.asarray(number.high)), name


# Models of one's own, and little data ---------------------------------------------------------------------------------


class Laplace(nn.Linear):
    """A posterior that is no normal."""

    def forward(self, x: Tensor) -> Any:
        mean, scale = super().forward(x).chunk(2, -1)
        return distributions.Independent(distributions.Laplace(mean, scale.exp()), 1)


class Studentised(nn.Linear):
    """A decoder's distribution without `log_sigma`."""

    def forward(self, z: Tensor) -> Any:
        mean = super().forward(z)
        inner = distributions.Independent(distributions.StudentT(5.0, mean), 1)
        return SimpleNamespace(mean=mean, log_prob=inner.log_prob, sample=lambda: inner.sample())


@pytest.mark.parametrize("rows", [1, 2, 20])
@pytest.mark.parametrize("training", [True, False])
def test_strange_models_and_few_rows(rows: int, training: bool) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)
    model = vaelab.VAE(Laplace(5, 4), Studentised(2, 5), latent=2)
    found = diagnose_run(stand_in(model, x, x + 1 if training else None))
    assert {"rate", "bound", "mutual_information"} <= set(found.numbers)
    assert "amortisation_gap" not in found.numbers and ("training_bound" in found.numbers) == training


def test_five_hundred_dimensions() -> None:
    model = vaelab.VAE(nn.Linear(5, 1024), nn.Linear(512, 5), likelihood="gaussian", latent=512)
    x = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    assert np.isfinite(diagnose_run(stand_in(model, x)).numbers["mutual_information"].interval)


def mended(part: str) -> Any:
    """A sound linear model in which one part gives every row the same."""
    run = exact_run(sigma=SIGMA, rows=200)
    (run.model.encoder.read if part == "encoder" else run.model.decoder.net.weight).data.zero_()
    return run


@pytest.mark.parametrize(("part", "code"), [("encoder", "DG117"), ("decoder", "DG118")])
def test_a_part_that_gives_every_row_the_same_is_dead(part: str, code: str) -> None:
    assert code in worrying(diagnose_run(mended(part)))


def test_codes_at_two_ends() -> None:
    run = exact_run(rows=400)

    class Bounded(nn.Module):
        def forward(self, x: Tensor) -> DiagonalNormal:
            return DiagonalNormal((50 * x[:, :3]).tanh(), torch.full((len(x), 3), -3.0))

    run.model.encoder = Bounded()
    assert "DG116" in worrying(diagnose_run(run))


def test_a_posterior_wider_than_the_prior() -> None:
    run = exact_run(rows=200)
    run.model.encoder.log_std = torch.full((3,), 1.0)
    assert "DG122" in worrying(diagnose_run(run))


def test_a_decoder_that_gives_back_training_rows() -> None:
    """Every draw from the prior is sent to one of 300 stored rows."""
    random = np.random.default_rng(0)
    stored = random.normal(size=(300, 6)).astype(np.float32)

    class Store(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            index = (z.double().sum(-1) * 1e4).long().remainder(300)
            return torch.from_numpy(stored)[index]

    run = exact_run(rows=200)
    run.model.decoder.net, run.training_preview = Store(), stored
    assert "DG112" in worrying(diagnose_run(run))


def test_units_that_are_dead_are_counted() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Tanh())
    net[0].weight.data[:2], net[0].bias.data[:2] = 0.0, -1.0
    net[2].weight.data.zero_()
    net[2].bias.data = torch.tensor([9.0, 0.0, -9.0])
    with census(SimpleNamespace(encoder=net)) as (encoder, decoder):
        net(torch.randn(50, 4))
        net(torch.randn(50, 4))
    assert encoder.dead["encoder.1"] >= 2 / 6 and encoder.dead["encoder.3"] == 1.0
    assert encoder.ends == {"encoder.3": pytest.approx(2 / 3)} and not decoder.dead
    assert not net[1]._forward_hooks


def test_findings_say_cause_remedy_and_effect() -> None:
    found = diagnose_run(exact_run(sigma=2.0, rows=200)).findings[0]
    assert isinstance(found, Finding) and found.edit and found.why and found.expected and found.unit
    assert "DG113" in str(found) and "likelihood.noise=shared" in str(found)


@pytest.mark.parametrize("objective", [{"name": "wae"}, {"name": "wae_gan"}, {"beta": 0.0}, {"beta": 0.1}], ids=str)
def test_a_divergence_that_was_not_charged_is_no_fault_of_its_weight(objective: dict[str, Any]) -> None:
    """Wide posteriors fitted again, and a bound below the constant's, say something only where the KL had a weight."""
    numbers = {"widening": Estimate(3.0), "skill": Estimate(-5.0, 1.0)}
    config = build_config({"objective": objective})
    case = Case(config, numbers, 100, objective.get("beta", 0.0), fixed_noise=False, counts=False, image=False)
    told = bool(objective.get("beta"))
    assert [bool(list(rule(case))) for rule in (causes.beta_small, symptoms.worse_than_constant)] == [told, told]
