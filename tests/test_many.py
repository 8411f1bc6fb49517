"""Runs trained as one stack of models: each equals the run alone, refuses and stops for itself, and resumes alone."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import vaelab
from vaelab.core.config import Config, build_config
from vaelab.core.errors import BadInput, Diverged, Interrupted
from vaelab.core.output import VAEOutput
from vaelab.core.seeds import derive
from vaelab.data.batches import Rows
from vaelab.distributions.mixtures import MixturePrior
from vaelab.evaluation import scan_runs
from vaelab.evaluation.scan import rate_distortion
from vaelab.models.vae import VAE
from vaelab.objectives import ELBO
from vaelab.objectives.build import OBJECTIVES
from vaelab.report.compare import compare_text
from vaelab.training import many
from vaelab.training.checkpoint import Checkpoints
from vaelab.training.engine import Engine
from vaelab.training.fit import fit, resume
from vaelab.training.loop import Loop
from vaelab.training.many import fit_many, prepared, variations
from vaelab.training.run import Run
from vaelab.training.show import Bar, Display
from vaelab.training.stack import Stack
from vaelab.training.stackable import KEPT_OUT, NoStack, pays, tried_stack
from vaelab.training.step import Draws
from vaelab.training.together import Member, Together, Told

SEEDS = (0, 3)
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(200, 2)) @ RANDOM.normal(size=(2, 6)) + 0.3 * RANDOM.normal(size=(200, 6))
DIGITS, LABELS = (load_digits().images[:200] / 16).astype(np.float32), load_digits().target[:200]
STRINGS = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCCC", "CNC", "COC", "C=C"] * 15
TRAIN: dict[str, Any] = {
    "steps": 36,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "clip_norm": 2.5,
    "warmup_steps": 5,
    "evaluate_every": 12,
    "checkpoint_every": 12,
    "log_every": 6,
    "threads": 1,
}
SMALL: dict[str, Any] = {"hidden": [12], "latent": 2}


def settings(*others: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {"model": SMALL, "train": TRAIN}
    for other in others:
        for section, values in other.items():
            merged[section] = merged.get(section, {}) | values if isinstance(values, dict) else values
    return merged


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64, so that what is left of a difference is no rounding of float32."""
    rows_in_single = Rows.x
    monkeypatch.setattr(Rows, "x", lambda self, index, coins=None: rows_in_single(self, index, coins).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def apart(one: Run, other: Run) -> float:
    """The largest difference of the last weights of two runs."""
    states = [Checkpoints(run.folder / "checkpoints").load_last()[1]["model"] for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    return max((states[0][name].double() - states[1][name].double()).abs().max().item() for name in states[0])


def same_metrics(one: Run, other: Run) -> None:
    """The same lines, with the same numbers up to rounding."""
    assert len(one.history) == len(other.history)
    for line, twin in zip(one.history, other.history, strict=True):
        assert line.keys() == twin.keys()
        for key, value in line.items():
            numbers = value if isinstance(value, int | float | list) and not isinstance(value, bool) else None
            assert twin[key] == (value if numbers is None else pytest.approx(numbers, rel=1e-6, abs=1e-8)), key


def stack_and_alone(x: Any, configs: list[Config], folder: Path) -> list[tuple[Run, Run]]:
    """Each run of a stack with the same run trained alone."""
    together = {folder / f"{number}": config for number, config in enumerate(configs)}
    runs = fit_many(x, together, progress=False)
    alone = [fit(x, config, out=folder / f"alone-{number}", progress=False) for number, config in enumerate(configs)]
    return list(zip(runs, alone, strict=True))


FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "gaussian": (TABLE, {}),
    "averaged": (TABLE, {"train": {"ema": 0.9, "schedule": "linear"}}),
    "bits": (DIGITS, {"likelihood": "bernoulli", "data": {"binarize": "dynamic"}}),
    "conv": (DIGITS, {"model": {"encoder": "conv", "decoder": "conv", "channels": [4, 8]}}),
    "pixels": (
        DIGITS[:60],
        {
            "model": {"decoder": "pixel_cnn", "layers": 1, "width": 4},
            "likelihood": "bernoulli",
            "train": {"steps": 6, "batch_size": 8},
        },
    ),
    "full": (TABLE, {"model": {"posterior": "full"}, "likelihood": "student_t"}),
    "sphere": (TABLE, {"model": {"posterior": "vmf", "latent": 3}}),
    "mixture": (TABLE, {"prior": {"name": "mixture", "components": 3}}),
    "vamp": (TABLE, {"prior": {"name": "vamp", "components": 5}}),
    "hierarchy": (TABLE, {"model": {"groups": [2, 2], "latent": None}}),
    "labels": ((DIGITS, LABELS), {"model": {"condition_on": ["encoder", "decoder"]}, "data": {"condition": "labels"}}),
    "iaf": (TABLE, {"model": {"posterior": "iaf", "flow_hidden": [8]}}),
    "weighted": (TABLE, {"objective": "iwae"}),
    "correlation": (TABLE, {"objective": "beta_tc"}),
    "floors": (TABLE, {"objective": {"free_bits": 0.1}}),
    "counts": (RANDOM.poisson(3, (200, 6)), {"likelihood": "negative_binomial"}),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("family", FAMILIES)
def test_each_model_of_a_stack_is_the_run_of_its_seed(family: str, tmp_path: Path) -> None:
    x, others = FAMILIES[family]
    configs = [build_config(settings(others), {"seed": seed}) for seed in SEEDS]
    for run, alone in stack_and_alone(x, configs, tmp_path):
        assert apart(run, alone) < 1e-8
        same_metrics(run, alone)
        assert [found.code for found in run.findings] == [found.code for found in alone.findings]
        assert run.metrics["step"] == alone.metrics["step"]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("family", ["gaussian", "floors", "labels", "correlation"])
def test_each_model_of_a_stack_has_its_own_beta(family: str, tmp_path: Path) -> None:
    x, others = FAMILIES[family]
    annealed = {"objective": {"anneal": "linear", "warmup_steps": 10}}
    base = settings({"objective": {"name": others.get("objective", "elbo")}} if family == "correlation" else others)
    base["objective"] = base.get("objective", {}) | annealed["objective"]
    runs = variations(build_config(base), SEEDS, (0.0, 0.5, 4.0), tmp_path)
    assert [path.name for path in runs][:3] == ["beta-0-seed-0", "beta-0-seed-3", "beta-0.5-seed-0"]
    pairs = stack_and_alone(x, list(runs.values()), tmp_path)
    for run, alone in pairs:
        assert apart(run, alone) < 1e-8
        same_metrics(run, alone)
    assert apart(pairs[0][0], pairs[4][0]) > 1e-3


# Refused by name, for a critic, or since they draw within the step; those of Wasserstein take no beta either.
ALONE = ("dreg", "factor", "info", "wae", "wae_gan")


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ALONE])
def test_every_objective_of_a_stack_takes_betas_with_and_without_a_warm_up(
    name: str, warmup: int, tmp_path: Path
) -> None:
    annealed = {"anneal": "linear", "warmup_steps": warmup} if warmup else {}
    base = settings({"objective": {"name": name, **annealed}, "train": {"steps": 8}})
    for run, alone in stack_and_alone(
        TABLE, list(variations(build_config(base), 1, (1, 4), tmp_path).values()), tmp_path
    ):
        assert apart(run, alone) < 1e-8
        same_metrics(run, alone)


@pytest.mark.usefixtures("double")
def test_some_steps_were_clipped_and_some_were_not(tmp_path: Path) -> None:
    """Else the comparison above would not have seen the clipping of each model by its own norm."""
    configs = [build_config(settings(), {"seed": seed}) for seed in SEEDS]
    runs = fit_many(TABLE, dict(zip((tmp_path / "a", tmp_path / "b"), configs, strict=True)), progress=False)
    shares = [line["clipped"] for run in runs for line in run.history if line["kind"] == "train"]
    assert min(shares) == 0 < max(shares)


# What is not finite -------------------------------------------------------------------------------------------------


def spoilt(monkeypatch: pytest.MonkeyPatch, seed: int, *steps: int) -> None:
    """The rows that the run of a seed sees in some steps are no numbers."""
    real = Draws.__call__

    def drawn(self: Draws, number: int, noise_size: int | None) -> Any:
        x, noise = real(self, number, noise_size)
        return (x * torch.nan, noise) if self.seed == seed and number in steps else (x, noise)

    monkeypatch.setattr(Draws, "__call__", drawn)


@pytest.mark.usefixtures("double")
def test_a_step_that_is_not_finite_is_refused_to_its_model_alone(tmp_path: Path, monkeypatch: Any) -> None:
    spoilt(monkeypatch, 3, 7, 8)
    configs = [build_config(settings({"train": {"on_nan": "skip"}}), {"seed": seed}) for seed in (0, 3, 4)]
    pairs = stack_and_alone(TABLE, configs, tmp_path)
    for run, alone in pairs:
        assert apart(run, alone) < 1e-8
        same_metrics(run, alone)
    events = [[line["what"] for line in run.history if line["kind"] == "event"] for run, _ in pairs]
    assert events == [[], ["refused", "skipped"] * 2, []]


def test_parameters_and_moments_of_a_refused_step_stay(tmp_path: Path, monkeypatch: Any) -> None:
    spoilt(monkeypatch, 3, 7)
    seen: list[list[Tensor]] = []
    real = Together.advance

    def advance(self: Together, number: int) -> None:
        state = self.stack.optimizer.state["1"]
        seen.append([self.stack.values[1].clone(), *(value.clone() for value in state.values())])
        real(self, number)

    monkeypatch.setattr(Together, "advance", advance)
    configs = [build_config(settings({"train": {"on_nan": "skip"}}), {"seed": seed}) for seed in SEEDS]
    fit_many(TABLE, dict(zip((tmp_path / "a", tmp_path / "b"), configs, strict=True)), progress=False)
    same = [all(map(torch.equal, *pair)) for pair in pairwise(seen)]
    assert same == [number == 7 for number in range(len(same))]


def test_one_run_stops_and_the_others_are_finished(tmp_path: Path, monkeypatch: Any) -> None:
    spoilt(monkeypatch, 1, 20)
    with pytest.raises(
        Diverged, match=r"1 of 3 runs stopped \(seed-1\), the others are finished; seed-1: step 20"
    ) as e:
        vaelab.train_many(TABLE, 3, config=settings(), out=tmp_path / "m", progress=False)
    assert e.value.folder == tmp_path / "m" / "seed-1"
    runs = [vaelab.load(tmp_path / "m" / f"seed-{seed}") for seed in range(3)]
    assert [run.is_finished for run in runs] == [True, False, True]
    assert Checkpoints(runs[1].folder / "checkpoints").load_last()[0].step == 20
    assert any(found.severity == "error" for found in runs[1].findings)


@pytest.mark.usefixtures("double")
def test_each_run_ends_by_its_own_patience(tmp_path: Path) -> None:
    patient = settings({"train": {"patience": 1, "steps": 200, "evaluate_every": 4, "learning_rate": 0.05}})
    configs = [build_config(patient, {"seed": seed}) for seed in (0, 1, 2, 3)]
    pairs = stack_and_alone(TABLE, configs, tmp_path)
    for run, alone in pairs:
        same_metrics(run, alone)
        assert apart(run, alone) < 1e-8
    assert len({run.history[-1]["step"] for run, _ in pairs}) > 1


# Resuming -----------------------------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


@pytest.mark.usefixtures("double")
def test_a_run_of_a_killed_stack_resumes_alone(tmp_path: Path, monkeypatch: Any) -> None:
    config = build_config(settings({"train": {"ema": 0.9}}))
    real = Together.advance

    def advance(self: Together, number: int) -> None:
        if number == 20:
            raise KilledError
        real(self, number)

    monkeypatch.setattr(Together, "advance", advance)
    with pytest.raises(KilledError):
        fit_many(TABLE, variations(config, SEEDS, None, tmp_path), progress=False)
    for seed in SEEDS:
        path = tmp_path / f"seed-{seed}"
        assert Checkpoints(path / "checkpoints").load_last()[0].step == 12
        run = resume(path, x=TABLE, progress=False)
        alone = fit(TABLE, config.edited({"seed": seed}), out=tmp_path / f"alone-{seed}", progress=False)
        assert run.is_finished and apart(run, alone) < 1e-8
        same_metrics(run, alone)


def signalled(monkeypatch: Any) -> None:
    """SIGTERM comes after 17 steps of a stack."""
    real = Together.advance

    def advance(self: Together, number: int) -> None:
        real(self, number)
        if number == 16:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Together, "advance", advance)


def test_a_signal_saves_every_run(tmp_path: Path, monkeypatch: Any) -> None:
    signalled(monkeypatch)
    with pytest.raises(Interrupted, match="SIGTERM: saved at step 17; continue each run with --resume") as caught:
        vaelab.train_many(TABLE, SEEDS, config=settings(), out=tmp_path / "m", progress=False)
    assert caught.value.status == 143
    for seed in SEEDS:
        folder = tmp_path / "m" / f"seed-{seed}"
        assert Checkpoints(folder / "checkpoints").load_last()[0].step == 17
        assert resume(folder, x=TABLE, progress=False).is_finished


# What does not go into a stack --------------------------------------------------------------------------------------

REFUSED: dict[str, dict[str, Any]] = {
    "train.accumulate": {"train": {"accumulate": 2}},
    "train.aggressive": {"train": {"aggressive": 2, "aggressive_until": 9}},
    "train.on_nan": {"train": {"on_nan": "rollback"}},
    "objective.target_rate": {"objective": {"target_rate": 2.0}},
    "objective.target_reconstruction": {"objective": {"target_reconstruction": 2.0}},
    "objective.adversarial": {"objective": {"adversarial": 1.0}},
    "objective.name": {"objective": "dreg"},
    "model.dropout": {"model": {"dropout": 0.1}},
    "model.word_dropout": {"model": {"word_dropout": 0.1}},
}


@pytest.mark.parametrize("setting", REFUSED)
def test_a_setting_that_keeps_a_run_out_is_named(setting: str, tmp_path: Path) -> None:
    with pytest.raises(NoStack, match=f"^{setting}: got .*; .*; leave it out, or train its seeds one after the other"):
        vaelab.train_many(TABLE, 2, config=settings(REFUSED[setting]), out=tmp_path / "m", progress=False)
    assert not (tmp_path / "m").exists()


def test_every_refused_setting_is_tested() -> None:
    assert [setting for setting, _, _ in KEPT_OUT] == list(REFUSED)


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ({"model": {"norm": "batch"}}, "a step moves its encoder.*running_mean, which is no parameter"),
        ({"likelihood": {"name": "gaussian", "noise": "optimal"}}, "a step moves its decoder.likelihood.*"),
        ({"model": {"posterior": "vq", "latent": None}}, "it draws within the step"),
        ({"objective": "factor"}, "its critic is a second player"),
        (
            {"model": {"encoder": "recurrent", "width": 8, "embedding": 4}},
            "encoder=recurrent.*vmap cannot take it: vmap",
        ),
    ],
)
def test_a_part_that_keeps_a_run_out_is_named(others: dict[str, Any], why: str, tmp_path: Path) -> None:
    rows = STRINGS if "recurrent" in str(others) else TABLE
    with pytest.raises(NoStack, match=why):
        vaelab.train_many(rows, 2, config=settings(others), out=tmp_path / "m", progress=False)
    assert not (tmp_path / "m").exists()


class Looks(nn.Module):
    """A layer that does something else where it is told that there is no gradient, or asks what a number is."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.layer, self.asks = nn.Linear(2, 6), asks

    def forward(self, z: Tensor) -> Tensor:
        if self.asks:
            return self.layer(z) if z.sum() > 0 else -self.layer(z)
        return self.layer(z) if z.requires_grad else 2 * self.layer(z)


@pytest.mark.parametrize(("asks", "why"), [(True, "vmap cannot take it: "), (False, "has another gradient in a stack")])
def test_a_module_that_vmap_cannot_take_is_refused(asks: bool, why: str) -> None:
    models = [VAE(nn.Linear(6, 4), Looks(asks), likelihood="bernoulli", latent=2) for _ in range(2)]
    for model in models:
        model.noise_size = 2
    drawn = [(torch.rand(8, 6).round(), torch.randn(1, 8, 2)) for _ in models]
    with pytest.raises(NoStack, match=why):
        tried_stack(models, ELBO(), build_config({}), drawn, [{"beta": 1.0}] * 2)


class FreeAtZero(ELBO):
    """Leaves the divergence out where its weight is 0, and with it the prior's parameters."""

    def __call__(self, output: VAEOutput, weights: Any) -> Any:
        loss, beta = super().__call__(output, weights), weights["beta"]
        return replace(loss, total=-output.log_px.mean()) if isinstance(beta, float) and beta == 0 else loss


def small_models(prior: Any = None) -> tuple[list[VAE], list[Any]]:
    """Three models of 6 entries and 2 latent dimensions, and what each sees in a step."""
    parts = [(nn.Linear(6, 4), nn.Linear(2, 6), prior and prior()) for _ in range(3)]
    models = [VAE(*part, likelihood="bernoulli", latent=2) for part in parts]
    for model in models:
        model.noise_size = 2
    return models, [(torch.rand(8, 6).round(), torch.randn(1, 8, 2)) for _ in models]


def test_what_a_stack_trains_is_what_any_weight_reaches() -> None:
    models, drawn = small_models(lambda: MixturePrior(2, 3))
    stack = tried_stack(models, FreeAtZero(), build_config({}), drawn, [{"beta": 0.0}] * 3)
    assert set(stack.names) == {name for name, _ in models[0].named_parameters()}


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("apart", [True, False])
def test_the_first_and_the_last_model_of_a_stack_are_compared(place: int, apart: bool, monkeypatch: Any) -> None:
    models, drawn = small_models()
    real = Stack.gradients

    def gradients(self: Stack, drawn: Any, weights: Any) -> Any:
        found = real(self, drawn, weights)
        if (weights[0] != weights[1]) == apart:
            self.gradient[place] *= 1.01
        return found

    tried_stack(models, ELBO(), build_config({}), drawn, [{"beta": 1.0}] * 3)
    monkeypatch.setattr(Stack, "gradients", gradients)
    with pytest.raises(NoStack, match="has another gradient in a stack than alone"):
        tried_stack(models, ELBO(), build_config({}), drawn, [{"beta": 1.0}] * 3)


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    stand_in = {"world": 2, "rank": 0, "device": torch.device("cpu")}
    monkeypatch.setattr(Engine, "__init__", lambda self, device: vars(self).update(stand_in))
    monkeypatch.setattr(Engine, "close", lambda self: None)
    with pytest.raises(NoStack, match="processes: got 2; a stack trains in one process"):
        vaelab.train_many(TABLE, 2, config=settings(), out=tmp_path / "m", progress=False)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"seeds": 0}, "seeds: got 0; must be a whole number of at least 1"),
        ({"seeds": [1, 1]}, "seeds: got .1, 1.; must be how many, or a list of one or more whole numbers, each once"),
        ({"seeds": []}, "seeds: got ..; must be how many, or a list of one or more"),
        ({"seeds": 2.5}, "seeds: got 2.5; must be how many"),
        ({"seeds": True}, "seeds: got True; must be a whole number"),
        ({"seeds": ["a"]}, "seeds: got .'a'.; must be how many"),
        ({"seeds": "3"}, "seeds: got .'3'.; must be how many"),
        ({"seeds": None}, "seeds: must be how many"),
        ({"seeds": np.array([0.0, 1.0])}, "seeds: got .*; must be how many"),
        ({"seeds": 1, "betas": 1.0}, "betas: got 1.0; must be a list of one or more numbers"),
        ({"seeds": 1, "betas": [None]}, "betas: got .None.; must be a list"),
        ({"seeds": 1, "betas": [True]}, "betas: got .True.; must be a list"),
        ({"seeds": 1, "betas": [10**400]}, "betas: got .10*.; must be a list"),
        ({"seeds": 1, "betas": [2, 2.0]}, "betas: .*each once"),
        ({"seeds": 1, "betas": [-1.0]}, "objective.beta: .*greater than or equal to 0"),
    ],
)
def test_wrong_seeds_and_betas_are_refused(given: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=why):
        vaelab.train_many(TABLE, **given, config=settings(), out=tmp_path / "m", progress=False)


def test_numbers_of_numpy_are_seeds_and_betas_too() -> None:
    plain = variations(build_config(settings()), 2, (1.0, 2.0), Path("m"))
    for seeds, betas in ((np.int64(2), np.array([1, 2])), (np.arange(2), range(1, 3)), (range(2), np.float32([1, 2]))):
        assert variations(build_config(settings()), seeds, betas, Path("m")) == plain


# What comes out -----------------------------------------------------------------------------------------------------


def test_a_run_of_a_stack_is_a_run_like_any_other(tmp_path: Path) -> None:
    runs = vaelab.train_many(TABLE, 2, (0.5, 1.0), config=settings(), out=tmp_path / "m", progress=False)
    names = ["beta-0.5-seed-0", "beta-0.5-seed-1", "beta-1-seed-0", "beta-1-seed-1"]
    assert [run.folder.name for run in runs] == names and all(run.is_finished for run in runs)
    assert [(run.config.objective.beta, run.config.seed) for run in runs] == [(0.5, 0), (0.5, 1), (1.0, 0), (1.0, 1)]
    assert all(run.environment["stack"] == {"runs": 4, "folders": names} for run in runs)
    assert vaelab.write_report(runs[1]).exists()
    assert vaelab.evaluate(runs[1], metrics="reconstruction", samples=8)["bound.log_likelihood"].value < 0
    assert "held-out negative ELBO" in compare_text(runs)
    assert runs[0].embed(TABLE).shape == (200, 2)


def test_runs_on_the_same_rows_share_them(tmp_path: Path) -> None:
    base = build_config(settings())
    betas = list(variations(base, 1, (1.0, 2.0), tmp_path).values())
    seeds = list(variations(base, 2, None, tmp_path).values())
    engine = Engine("cpu")
    one, two = prepared(TABLE, betas, engine)
    assert one.rows is two.rows and one.held_out is two.held_out
    one, two = prepared(TABLE, seeds, engine)
    assert one.rows is not two.rows and one.spec.fingerprint == two.spec.fingerprint
    np.savez(tmp_path / "both.npz", x_train=TABLE, x_test=TABLE[:50])
    one, two = prepared(tmp_path / "both.npz", seeds, engine)
    assert one.rows is two.rows and one.held_out is two.held_out


def test_the_seeds_of_a_stack_see_what_their_seed_says(tmp_path: Path) -> None:
    """The order of rows is a permutation that a generator of the run's own seed made, which no other code gives."""
    job = prepared(TABLE, [build_config(settings(), {"seed": 5})], Engine("cpu"))[0]
    draws = Draws(job.rows, 32, 1, 5, Engine("cpu"))
    coins = torch.Generator().manual_seed(derive(derive(5, "rows"), "order", 0))
    assert torch.equal(draws.order.batch(0), torch.randperm(len(job.rows), generator=coins)[:32])


# Scans --------------------------------------------------------------------------------------------------------------


def test_a_rate_distortion_curve_comes_from_a_stack_where_that_pays(tmp_path: Path, monkeypatch: Any) -> None:
    betas, config = (0.25, 1.0, 2.0, 4.0), settings()
    at_once = rate_distortion(TABLE, betas, config=config, out=tmp_path / "one", progress=False)
    monkeypatch.setattr(scan_runs, "pays", lambda job, models: False)
    in_turn = rate_distortion(TABLE, betas, config=config, out=tmp_path / "two", progress=False)
    for point, twin in zip(at_once.points, in_turn.points, strict=True):
        assert point.negative_elbo.value == pytest.approx(twin.negative_elbo.value, abs=1e-3)
        assert point.rate.value == pytest.approx(twin.rate.value, abs=1e-3)
    environments = [
        [Run(scan.folder / point.folder).environment for point in scan.points] for scan in (at_once, in_turn)
    ]
    assert all("stack" in one for one in environments[0]) and not any("stack" in one for one in environments[1])


def test_a_curve_of_models_that_take_no_stack_is_trained_in_turn(tmp_path: Path) -> None:
    config = settings({"model": {"dropout": 0.1}})
    scan = rate_distortion(TABLE, (0.5, 1.0, 2.0, 4.0), config=config, out=tmp_path / "s", progress=False)
    assert len(scan.points) == 4 and "stack" not in Run(scan.folder / "beta-1").environment


def test_a_stack_pays_for_small_models_and_for_several(tmp_path: Path) -> None:
    small, large = (
        prepared(TABLE, [build_config(settings({"model": {"hidden": [w, w]}}))], Engine("cpu"))[0] for w in (16, 640)
    )
    assert pays(small, 6) and not pays(small, 2) and not pays(large, 6)


def test_an_interrupted_scan_in_a_stack_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    signalled(monkeypatch)
    with pytest.raises(Interrupted, match=r"stopped in all runs at once, and saved; to go on .* --out .*scan$"):
        rate_distortion(TABLE, (0.5, 1.0, 2.0, 4.0), config=settings(), out=tmp_path / "scan", progress=False)
    scan = rate_distortion(TABLE, (0.5, 1.0, 2.0, 4.0), config=settings(), out=tmp_path / "scan", progress=False)
    assert len(scan.points) == 4 and all(Run(scan.folder / point.folder).is_finished for point in scan.points)


def test_the_command_prints_a_line_for_each_run(tmp_path: Path, capsys: Any) -> None:
    from vaelab.cli.app import main

    np.savez(tmp_path / "t.npz", x=TABLE)
    words = ["train-many", str(tmp_path / "t.npz"), "model.hidden=[12]", "train.steps=12", "--quiet"]
    with pytest.raises(SystemExit) as caught:
        main([*words, "--seeds", "0,4", "--betas", "1,2", "--out", str(tmp_path / "m")])
    assert not caught.value.code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].rpartition("/")[2] for line in lines] == [
        f"beta-{beta}-seed-{seed}" for beta in (1, 2) for seed in (0, 4)
    ]
    assert all("held-out negative ELBO" in line for line in lines)


def test_what_a_run_says_has_its_name_and_may_come_before_training(capsys: Any) -> None:
    Told("seed-3", Bar()).say("look at the data")
    assert capsys.readouterr().err == "seed-3: look at the data\n"


class Kept(Display):
    """Keeps the losses it is shown, and what is said."""

    def __init__(self) -> None:
        self.losses: list[tuple[int, float]] = []
        self.said: list[str] = []

    def train(self, step: int, line: dict[str, Any]) -> None:
        self.losses.append((step, line.get("loss", math.nan)))

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("seeds", [(0, 1, 2), (2, 0, 1)])
def test_another_run_is_shown_where_the_one_that_is_stops(seeds: Any, tmp_path: Path, monkeypatch: Any) -> None:
    display = Kept()
    monkeypatch.setattr(many, "choose_display", lambda progress: display)
    spoilt(monkeypatch, seeds[0], 20)
    with pytest.raises(Diverged):
        vaelab.train_many(TABLE, seeds, config=settings(), out=tmp_path / "m")
    lines = [
        {line["step"]: line["loss"] for line in Run(tmp_path / "m" / f"seed-{seed}").history if line["kind"] == "train"}
        for seed in seeds
    ]
    assert display.losses == [(step, lines[int(step > 20)][step]) for step in range(6, 37, 6)]
    assert f"the numbers shown from here on are those of seed-{seeds[1]}" in display.said


def test_a_loop_alone_is_not_a_member() -> None:
    """The stack adds to the loop and changes nothing of it."""
    own = {name for name, value in vars(Member).items() if callable(value) or isinstance(value, property)}
    assert not {name for name in own if hasattr(Loop, name) and name[:2] != "__"}
