"""Checks before training: every cause is named, healthy set-ups raise nothing, and nothing of the model is moved."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, stats
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from torch import Tensor, nn

from vaelab import ELBO, VAE
from vaelab.checks.copies import leaked
from vaelab.checks.facts import Facts
from vaelab.checks.on_data import check_data
from vaelab.checks.on_model import check_model
from vaelab.checks.run import foreign, full, quick
from vaelab.checks.step import Step
from vaelab.core.config import build_config
from vaelab.core.finding import Finding
from vaelab.distributions.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    Likelihood,
    Poisson,
)
from vaelab.measure.baseline import baseline
from vaelab.training.engine import Engine
from vaelab.training.job import Job, prepare

SHARED = Path(__file__).parents[2] / "shared" / "data"
DIGITS, WINE, CANCER = load_digits().data, load_wine().data, load_breast_cancer().data
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.gamma(0.3, 1.0, (800, 1)) * RNG.random(20))


def job_of(x: Any, config: dict[str, Any] | None = None, model: Any = None) -> Job:
    small = {"model": {"hidden": 32}, "train": {"batch_size": 64}}
    return prepare(x, build_config(small, config or {}), Engine("cpu"), model, None)


def checked(x: Any, config: dict[str, Any] | None = None, model: Any = None, how: Any = quick) -> list[Finding]:
    job = job_of(x, config, model)
    return how(job.model, job.objective, job.rows, job.held_out, spec=job.spec, config=job.config)


def bad(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings if finding.severity in ("warning", "error")]


def the(findings: list[Finding], code: str) -> Finding:
    return next(finding for finding in findings if finding.code == code)


# The baseline against closed forms -----------------------------------------------------------------------------------


def rows_of(seed: int, draw: Callable[[np.random.Generator], np.ndarray]) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    train, held_out = torch.from_numpy(draw(generator)), torch.from_numpy(draw(generator))
    return train.double(), held_out.double()


def with_one_more(x: np.ndarray, made_up: float) -> np.ndarray:
    return np.concatenate([x, np.full((1, x.shape[1]), made_up)]).mean(0)


def bernoulli_truth(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    p = with_one_more(train, 0.5)
    return -stats.bernoulli.logpmf(held_out.astype(int), p).sum(1)


def poisson_truth(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    return -stats.poisson.logpmf(held_out.astype(int), with_one_more(train, train.mean())).sum(1)


def gaussian_truth(noise: str, sigma: float = 0.7) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def truth(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        variance = ((train - train.mean(0)) ** 2).mean()
        pixel = np.sqrt(with_one_more((train - train.mean(0)) ** 2, variance))
        scale = {"fixed": sigma, "shared": math.sqrt(variance), "optimal": math.sqrt(variance), "pixel": pixel}[noise]
        return -stats.norm.logpdf(held_out, train.mean(0), scale).sum(1)

    return truth


def categorical_truth(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    nats = np.zeros(len(held_out))
    for column in range(train.shape[1]):
        p = (np.bincount(train[:, column].astype(int), minlength=5) + 1 / 5) / (len(train) + 1)
        nats -= np.log(p[held_out[:, column].astype(int)])
    return nats


def continuous_bernoulli_truth(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    def density(x: np.ndarray, logit: float) -> np.ndarray:
        return x * logit - np.log(np.expm1(logit) / logit)

    nats = np.zeros(len(held_out))
    padded = np.concatenate([train, np.full((1, train.shape[1]), 0.5)])  # the made-up row enters as one more row
    for column in range(train.shape[1]):
        best = optimize.minimize_scalar(
            lambda logit, column=column: -density(padded[:, column], logit).sum(),
            bounds=(-40.1, 40.2),
            method="bounded",
        )
        nats -= density(held_out[:, column], best.x)
    return nats


RATES = np.array([0.05, 0.4, 0.9])
BASELINES = {
    "bernoulli": (Bernoulli(), lambda g: (g.random((300, 3)) < RATES).astype(float), bernoulli_truth),
    "poisson": (Poisson(), lambda g: g.poisson(10 * RATES, (300, 3)).astype(float), poisson_truth),
    "categorical": (Categorical(5), lambda g: g.integers(0, 5, (300, 3)).astype(float), categorical_truth),
    "continuous": (ContinuousBernoulli(), lambda g: g.beta(RATES + 0.2, 1.0, (300, 3)), continuous_bernoulli_truth),
    **{
        noise: (Gaussian(noise, 0.7), lambda g: g.normal(RATES, 3 * RATES, (300, 3)), gaussian_truth(noise))
        for noise in ("fixed", "shared", "pixel", "optimal")
    },
}


@pytest.mark.parametrize("name", BASELINES)
def test_the_baseline_is_that_of_a_closed_form(name: str) -> None:
    likelihood, draw, truth = BASELINES[name]
    train, held_out = rows_of(3, draw)
    nats = truth(train.numpy(), held_out.numpy())
    before = copy.deepcopy(likelihood.state_dict())
    mean, error = baseline(likelihood, train, held_out)
    assert mean == pytest.approx(nats.mean(), rel=1e-5)
    assert error == pytest.approx(stats.sem(nats), rel=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in likelihood.state_dict().items())


@pytest.mark.parametrize("name", BASELINES)
def test_an_entry_that_is_constant_in_training_costs_no_infinity(name: str) -> None:
    likelihood, draw, _ = BASELINES[name]
    train, held_out = rows_of(4, draw)
    train[:, 0] = 0.0
    mean, _ = baseline(likelihood, train, held_out)
    assert math.isfinite(mean)


def test_the_baseline_keeps_the_shape_of_images_and_thins_rows() -> None:
    images = torch.rand(5000, 1, 4, 4).round()
    mean, _ = baseline(Bernoulli(), images, images)
    assert mean == pytest.approx(16 * math.log(2), rel=0.01)


def test_a_likelihood_that_is_not_ours_has_no_baseline() -> None:
    class Own(Likelihood):
        pass

    assert baseline(Own(), torch.zeros(3, 2), torch.zeros(3, 2)) is None
    assert baseline(None, torch.zeros(3, 2), torch.zeros(3, 2)) is None


# Healthy set-ups ------------------------------------------------------------------------------------------------------

HEALTHY = [
    ("digits", {}),
    ("digits", {"likelihood": "bernoulli"}),
    ("digits", {"likelihood": "continuous_bernoulli"}),
    ("digits", {"likelihood": "poisson"}),
    ("digits", {"likelihood": "bernoulli", "data": {"binarize": "dynamic"}}),
    ("digits", {"likelihood": {"noise": "optimal", "name": "gaussian"}}),
    ("digits", {"likelihood": {"noise": "fixed", "sigma": 0.3, "name": "gaussian"}}),
    ("digits", {"model": {"norm": "batch", "dropout": 0.2}}),
    ("digits", {"model": {"encoder": "conv", "decoder": "conv", "channels": [8, 16]}}),
    ("digits", {"model": {"posterior": "full", "scale": "softplus", "init": "pytorch", "latent": 32}}),
    ("digits", {"objective": {"free_bits": 0.1, "samples": 3}}),
    ("digits", {"objective": {"capacity": 10.0}}),
    ("digits", {"train": {"learning_rate": 1e-2}}),
    (DIGITS, {"likelihood": "gaussian"}),
    (DIGITS / 16, {"likelihood": "bernoulli"}),
    (WINE, {}),
    (WINE, {"model": {"encoder": "linear", "decoder": "linear"}}),
    (WINE, {"likelihood": {"noise": "pixel", "name": "gaussian"}}),
    (WINE, {"train": {"learning_rate": 1e-4, "batch_size": 1}}),
    (CANCER, {"model": {"latent": 16}}),
    (COUNTS, {}),
]


@pytest.mark.parametrize(("x", "config"), HEALTHY, ids=lambda value: str(value)[:60].replace("\n", ""))
def test_a_healthy_set_up_raises_nothing(x: Any, config: dict[str, Any]) -> None:
    assert bad(checked(x, config, how=full)) == []


TABLES = ["titanic", "adult", "penguins", "mpg"]


@pytest.mark.skipif(not SHARED.exists(), reason=f"no real data in {SHARED}")
@pytest.mark.parametrize("name", [*TABLES, "mnist", "omniglot28", *sorted(p.name for p in SHARED.glob("adbench/*"))])
def test_real_data_under_default_settings_raise_nothing(name: str) -> None:
    if name in TABLES:
        x: Any = pd.read_csv(SHARED / f"tables/{name}.csv").select_dtypes("number").dropna()
    elif name.endswith(".npz"):
        x = np.load(SHARED / "adbench" / name)["X"]
    else:
        x = np.load(SHARED / f"{name}.npz")["x_train"][:3000]
    assert bad(checked(x)) == []


# Data that do not fit -------------------------------------------------------------------------------------------------

UNIT_WINE = (WINE - WINE.min(0)) / np.ptp(WINE, axis=0)
OUTLIER = np.where(np.arange(WINE.size).reshape(WINE.shape) == 713, 1e9, WINE)
YEARS = RNG.integers(1990, 2000, (300, 1)) + np.array([0, 5, 9])
SHUFFLED = np.stack([np.random.default_rng(column).permutation(WINE[:, column]) for column in range(13)], 1)
WRONG: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("twice", "DA127", np.concatenate([DIGITS, DIGITS]), {"likelihood": "gaussian"}),
    ("some twice", "DA127", np.concatenate([CANCER, CANCER[:100]]), {}),
    ("not scaled", "DA128", WINE, {"data": {"scale": "none"}}),
    ("far too small", "DA128", WINE / 1e7, {"data": {"scale": "none"}}),
    ("gaussian on bits", "DA129", (DIGITS > 8).astype(float), {"likelihood": "gaussian"}),
    ("gaussian on counts", "DA130", COUNTS, {"likelihood": "gaussian"}),
    ("bernoulli on numbers", "DA131", UNIT_WINE, {"likelihood": "bernoulli"}),
    ("density on bits", "DA132", (DIGITS > 8).astype(float), {"likelihood": "continuous_bernoulli"}),
    ("poisson on years", "DA134", YEARS, {"likelihood": "poisson"}),
    ("noise by pixel", "DA137", "digits", {"likelihood": {"name": "gaussian", "noise": "pixel"}}),
    ("loud noise", "DA138", "digits", {"likelihood": {"name": "gaussian", "noise": "fixed", "sigma": 3.0}}),
    ("too many dimensions", "DA139", "digits", {"model": {"latent": 256}}),
    ("independent", "DA141", SHUFFLED, {}),
    ("one outlier", "DA142", OUTLIER, {}),
]


@pytest.mark.parametrize(("code", "x", "config"), [item[1:] for item in WRONG], ids=[item[0] for item in WRONG])
def test_data_that_do_not_fit_are_named_and_the_edit_mends_it(code: str, x: Any, config: dict[str, Any]) -> None:
    job = job_of(x, config)
    found = quick(job.model, job.objective, job.rows, job.held_out, spec=job.spec, config=job.config)
    assert bad(found) == [code]
    finding = the(found, code)
    assert finding.measured is not None and math.isfinite(finding.measured)
    assert finding.why and finding.advice and finding.expected
    if finding.edit:
        mended = build_config({"model": {"hidden": 32}}, config).edited(finding.edit)
        assert code not in bad(checked(x, mended.model_dump(exclude_unset=True)))


@pytest.mark.parametrize(
    ("code", "x", "config"),
    [
        ("DA133", "digits", {"likelihood": "continuous_bernoulli"}),
        ("DA135", RNG.poisson(np.exp(RNG.normal(3, 0.8, (300, 1))) * np.ones((1, 4))), {}),
        ("DA136", "digits", {"likelihood": "categorical"}),
        ("DA140", np.outer(RNG.normal(size=300), [1.0, 2, 3, 4, 5]) + 1e-3, {"model": {"latent": 2}}),
        ("DA143", np.concatenate([WINE, -3 * WINE[:, :1] + 5], 1), {}),
    ],
)
def test_what_is_worth_knowing_is_no_warning(code: str, x: Any, config: dict[str, Any]) -> None:
    found = checked(x, config)
    assert the(found, code).severity == "info"
    assert bad(found) == []


def test_a_duplicated_column_is_named() -> None:
    table = pd.DataFrame(WINE[:, :3], columns=["a", "b", "c"]).assign(d=lambda t: 2 - t["a"])
    assert "d" in the(checked(table), "DA143").title or "a" in the(checked(table), "DA143").title


def brute_force_share(job: Job) -> float:
    train = job.rows.raw(np.arange(len(job.rows))).reshape(len(job.rows), -1)
    held_out = job.held_out.raw(np.arange(len(job.held_out))).reshape(len(job.held_out), -1)
    return float(np.mean([(train == row).all(1).any() for row in held_out]))


def test_the_share_of_copies_is_that_of_brute_force() -> None:
    job = job_of(np.concatenate([WINE, WINE[:60]]))
    found = leaked(job.rows, job.held_out, 0)
    assert found is not None
    assert found.share == brute_force_share(job) > 0


def test_repeats_of_coarse_values_are_no_leak() -> None:
    coarse = np.random.default_rng(1).integers(0, 4, (1500, 5)) + np.random.default_rng(2).integers(0, 4, (1500, 1))
    job = job_of(coarse)
    assert brute_force_share(job) > 0.3
    assert leaked(job.rows, job.held_out, 0) is None


def test_a_test_set_that_holds_training_rows_is_seen_though_training_rows_do_not_repeat(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x_train=WINE[:120], x_test=np.concatenate([WINE[:30], WINE[120:]]))
    finding = the(checked(str(tmp_path / "data.npz")), "DA127")
    assert finding.measured == pytest.approx(100 * 30 / 88)


def test_a_test_set_of_coarse_training_rows_is_seen_though_halves_agree_by_chance(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 12, (3000, 6))
    np.savez(tmp_path / "data.npz", x_train=coarse[:2000], x_test=np.concatenate([coarse[:150], coarse[2000:]]))
    job = job_of(str(tmp_path / "data.npz"))
    found = leaked(job.rows, job.held_out, 0)
    assert found is not None and found.halves > found.share > found.inside


def test_columns_dependent_only_by_their_squares_are_not_independent() -> None:
    angle = np.random.default_rng(0).random(500) * 2 * np.pi
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    assert abs(np.corrcoef(ring.T)[0, 1]) < 0.1
    assert bad(checked(ring)) == []


def test_independence_is_told_in_19_of_20_seeds() -> None:
    told, measured = [], []
    for seed in range(20):
        job = job_of(np.random.default_rng(seed).normal(size=(400, 6)))
        facts = Facts(job.rows, job.held_out, job.spec, job.config, job.model.decoder.likelihood)
        found = [finding for finding in check_data(facts) if finding.code == "DA141"]
        told.append(bool(found))
        measured += [finding.measured for finding in found]
    assert sum(told) >= 19
    assert np.mean(measured) == pytest.approx(1, abs=0.1)


# Models that are broken -----------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """An encoder or decoder with a fault."""

    def __init__(self, sizes: tuple[int, ...], fault: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.relu, self.last = nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2])
        self.fault = fault or (lambda h: h)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fault(self.relu(self.first(x.flatten(1)))))


def vae(encoder: Callable[[Tensor], Tensor] | None = None, decoder: Callable[[Tensor], Tensor] | None = None) -> VAE:
    torch.manual_seed(0)
    return VAE(Plain((13, 32, 8), encoder), Plain((4, 32, 13), decoder), likelihood="gaussian", latent=4)


def changed(change: Callable[[VAE], Any]) -> VAE:
    model = vae()
    with torch.no_grad():
        change(model)
    return model


def spare(model: VAE) -> None:
    model.encoder.spare = nn.Linear(3, 3)


def freeze(model: VAE) -> None:
    model.decoder.net.first.weight.requires_grad_(False)


def kill(part: Plain) -> None:
    part.first.bias.fill_(-1e3)


BROKEN: list[tuple[str, str, str, Callable[[], VAE]]] = [
    ("unused", "CH106", "encoder.spare (Linear)", lambda: changed(spare)),
    ("frozen", "CH107", "encoder (Plain)", lambda: changed(lambda m: m.encoder.requires_grad_(False))),
    ("frozen layer", "CH107", "net.first.weight", lambda: changed(freeze)),
    ("dead encoder", "CH108", "encoder", lambda: changed(lambda m: kill(m.encoder))),
    ("blind encoder", "CH108", "code", lambda: vae(encoder=lambda h: h.mean(0, keepdim=True).expand_as(h))),
    ("dead decoder", "CH109", "decoder.net.relu (ReLU)", lambda: changed(lambda m: kill(m.decoder.net))),
    ("deaf decoder", "CH109", "row", lambda: vae(decoder=lambda h: h * 0 + 1)),
    ("cut graph", "CH120", "encoder", lambda: vae(decoder=lambda h: h)),
    ("large means", "CH110", "means", lambda: changed(lambda m: m.encoder.last.weight[:4].mul_(100))),
    ("large variance", "CH111", "variances", lambda: changed(lambda m: m.encoder.last.bias[4:].fill_(12.0))),
    ("far away", "CH112", "range", lambda: changed(lambda m: m.decoder.net.last.bias.fill_(500.0))),
    ("wild decoder", "CH113", "too high", lambda: changed(lambda m: m.decoder.net.last.weight.mul_(30))),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "make"), [item[1:] for item in BROKEN], ids=[item[0] for item in BROKEN])
def test_a_broken_model_is_named(code: str, text: str, make: Callable[[], VAE], monkeypatch: Any) -> None:
    model = make()
    if code == "CH120":
        inner = type(model).draw

        def detached(self: VAE, x: Tensor, samples: int = 1, noise: Tensor | None = None) -> Any:
            output = inner(self, x, samples, noise)
            output.log_px = self.decode(output.z.detach()).log_prob(x)
            return output

        monkeypatch.setattr(VAE, "draw", detached)
    found = checked(WINE, model=model)
    assert bad(found) == [code]
    assert text in the(found, code).title


def test_the_noise_of_ones_own_model_is_looked_at_and_told_in_words() -> None:
    model = vae()
    model.decoder.likelihood = Gaussian("fixed", 5.0)
    job = job_of(WINE, model=model)
    facts = {"spec": job.spec, "config": job.config}
    found = quick(model, job.objective, job.rows, job.held_out, own_model=True, **facts)
    assert bad(found) == ["DA138"]
    assert the(found, "DA138").measured == pytest.approx(5, rel=0.05)
    assert the(found, "DA138").edit == {} and the(found, "DA138").advice


def test_a_healthy_model_of_ones_own_raises_nothing() -> None:
    assert bad(checked(WINE, model=vae(), how=full)) == []


def test_last_layers_that_start_at_zero_are_healthy() -> None:
    def zero(model: VAE) -> None:
        for layer in (model.encoder.last, model.decoder.net.last):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)

    assert bad(checked(WINE, model=changed(zero), how=full)) == []


def test_the_first_module_that_is_not_finite_is_named() -> None:
    found = checked(WINE, model=changed(lambda m: m.encoder.first.weight[0, 0].fill_(math.inf)))
    assert bad(found) == ["CH103"]
    assert "encoder.first (Linear)" in found[-1].title


@pytest.mark.parametrize(
    ("code", "text", "loss", "batch"),
    [
        ("CH101", "Linear", lambda m, x: m(x[:, :2]).sum(), torch.randn(8, 4)),
        ("CH102", "batch", lambda m, x: m(x).square().mean(), torch.full((8, 4), math.nan)),
        ("CH103", "NaN or infinite", lambda m, x: m(x).square().mean() / 0, torch.randn(8, 4)),
        ("CH104", "0.weight", lambda m, x: (m(x) * 0).square().sum().sqrt(), torch.randn(8, 4)),
        ("CH105", "no parameter", lambda m, x: m(x).detach().square().mean(), torch.randn(8, 4)),
        ("CH118", "by heart", lambda m, x: m(x).sign().sum() + 1e-6 * m(x).sum() * 0 + 5, torch.randn(8, 4)),
        ("CH106", "2.bias", lambda m, x: (m[0](x) @ m[2].weight.T[:3]).square().mean(), torch.randn(8, 4)),
    ],
)  # fmt: skip
def test_a_strangers_module_is_checked_with_its_own_loss(code: str, text: str, loss: Any, batch: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))
    found = foreign(model, loss, batch)
    assert code in bad(found)
    assert text in the(found, code).title


def test_a_strangers_healthy_module_raises_nothing_and_its_cost_is_told() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))
    found = foreign(model, lambda m, x: (m(x) - x).square().sum(1).mean(), torch.randn(64, 4))
    assert bad(found) == []
    assert the(found, "CH119").title.startswith(f"{4 * 3 + 3 + 3 * 4 + 4} parameters")


@pytest.mark.parametrize(("rate", "code"), [(1.0, "CH116"), (1e-8, "CH117")])
def test_a_rate_that_cannot_work_is_named(rate: float, code: str) -> None:
    found = checked(WINE, {"train": {"learning_rate": rate}}, how=full)
    assert bad(found) == [code]
    assert the(found, code).edit == {"train.learning_rate": 1e-3}


def test_noise_from_elsewhere_gives_another_step() -> None:
    def noisy(h: Tensor) -> Tensor:
        return h + torch.from_numpy(np.random.normal(size=h.shape)).float()

    assert "CH115" in bad(checked(WINE, model=vae(decoder=noisy), how=full))


# Nothing is moved -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [quick, full])
def test_weights_buffers_gradients_modes_and_random_numbers_stay(how: Any) -> None:
    job = job_of("digits", {"model": {"norm": "batch", "dropout": 0.1}, "likelihood": {"noise": "optimal"}})
    job.model.eval()
    job.model.encoder.head.weight.grad = torch.ones_like(job.model.encoder.head.weight)
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    how(job.model, job.objective, job.rows, job.held_out, spec=job.spec, config=job.config, baseline=70.0)
    assert all(torch.equal(value, before[name]) for name, value in job.model.state_dict().items())
    assert not any(module.training for module in job.model.modules())
    assert [name for name, p in job.model.named_parameters() if p.grad is not None] == ["encoder.head.weight"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in job.model.modules())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]


def test_the_same_checks_say_the_same() -> None:
    assert checked("digits") == checked("digits")


def test_the_start_is_compared_with_outputs_of_zero() -> None:
    job = job_of((DIGITS > 8).astype(float), {"likelihood": "bernoulli"})
    found = quick(job.model, job.objective, job.rows, job.held_out, spec=job.spec, config=job.config, baseline=25.0)
    finding = the(found, "CH114")
    assert f"{64 * math.log(2):.6g}" in finding.evidence and "25" in finding.evidence
    assert finding.measured == pytest.approx(64 * math.log(2), rel=0.1)


def test_a_model_alone_is_checked_by_its_step() -> None:
    model, objective = vae(), ELBO()

    def draw(model: Any, x: Tensor) -> Any:
        return model.draw(x)

    step = Step(model, lambda m, x: objective(draw(m, x), {"beta": 1.0}).total, torch.randn(32, 13), draw)
    assert bad(check_model(step)) == []
