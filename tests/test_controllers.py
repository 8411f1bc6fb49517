"""Controllers hold what was asked for on real data and in a closed loop; a collapsed run gets a second warm-up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_wine
from test_training import StopError, contents, settings, stopped_at

import vaelab
from vaelab.core.config import build_config
from vaelab.core.errors import BadInput
from vaelab.objectives.elbo import ELBO
from vaelab.training.checkpoint import Progress
from vaelab.training.controllers import HIGHEST, LOWEST, Controller, Weighting, build_controller

STEPS = {"model": {"hidden": [64], "latent": 8}, "train": {"steps": 600, "log_every": 10, "evaluate_every": 300}}


def held(run: vaelab.Run, name: str) -> float:
    """The training mean of a term over the last fifth of the steps."""
    values = [line[name] for line in run.history if line["kind"] == "train"]
    return float(np.mean(values[-len(values) // 5 :]))


@pytest.mark.parametrize(("target", "batch"), [(5.0, 32), (5.0, 256), (15.0, 128)])
def test_a_target_rate_is_held_within_five_per_cent(tmp_path: Path, target: float, batch: int) -> None:
    config = settings(STEPS, {"objective": {"target_rate": target}, "train": {"batch_size": batch}})
    run = vaelab.train("digits", out=tmp_path / "run", config=config, progress=False)
    assert held(run, "kl") == pytest.approx(target, rel=0.05)
    assert run.metrics["step"] == 600  # the last weights, whatever the bound


@pytest.mark.parametrize(("likelihood", "target"), [("bernoulli", 22.0), ("gaussian", 165.0)])
def test_a_target_reconstruction_is_held_on_the_datas_own_scale(tmp_path: Path, likelihood: str, target: float) -> None:
    config = settings(STEPS, {"likelihood": likelihood, "objective": {"target_reconstruction": target}})
    run = vaelab.train("digits", out=tmp_path / "run", config=config, progress=False)
    assert held(run, "reconstruction") == pytest.approx(target, rel=0.01)


def test_a_table_with_a_shifted_scale_holds_its_target_too(tmp_path: Path) -> None:
    """Columns standardised for the model: the target is in nats of the raw columns."""
    x = load_wine().data.astype(np.float32)
    config = settings(STEPS, {"objective": {"target_reconstruction": 22.0}, "train": {"batch_size": 64}})
    run = vaelab.train(x, out=tmp_path / "run", config=config, progress=False)
    assert abs(run.spec.log_abs_det) > 1
    assert held(run, "reconstruction") == pytest.approx(22.0, abs=0.3)


# The closed loop, on a plant that is known ----------------------------------------------------------------------------


def driven(controller: Controller, lag: float, noise: float, steps: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Rates and reconstructions of a plant R = 20 beta^(-1/2) with its D(R), dD/dR = -beta, that follows with a lag."""
    random, state, rate = np.random.default_rng(0), {}, 0.1
    rates, distortions = [], []
    for _ in range(steps):
        rate += (20 * controller.beta(state) ** -0.5 - rate) / lag
        distortion = 100 + 400 / rate  # beta = (20 / R)^2, so D = 400 / R and a constant
        rates.append(rate)
        distortions.append(distortion)
        seen = {"kl": rate * (1 + noise * random.normal()), "reconstruction": distortion + noise * random.normal()}
        state = controller.updated(state, seen)
    return np.array(rates), np.array(distortions)


@pytest.mark.parametrize("lag", [2.0, 20.0, 100.0])
@pytest.mark.parametrize("target", [2.0, 10.0, 50.0])
def test_the_loop_settles_on_a_rate_whatever_the_lag(lag: float, target: float) -> None:
    rates, _ = driven(Controller("kl", target), lag, noise=0.02)
    assert rates[-1000:].mean() == pytest.approx(target, rel=0.01)
    assert rates[-1000:].std() < 0.05 * target


@pytest.mark.parametrize("lag", [2.0, 20.0, 100.0])
@pytest.mark.parametrize("target", [110.0, 120.0, 140.0])
def test_the_loop_settles_on_a_reconstruction_whatever_the_lag(lag: float, target: float) -> None:
    _, distortions = driven(Controller("reconstruction", target), lag, noise=0.2)
    assert distortions[-1000:].mean() == pytest.approx(target, rel=0.01)


@pytest.mark.parametrize(("term", "target", "end"), [("kl", 1e-9, HIGHEST), ("reconstruction", -1e9, LOWEST)])
def test_a_target_out_of_reach_ends_at_a_bound(term: str, target: float, end: float) -> None:
    controller, state = Controller(term, target), {}
    for _ in range(5000):
        state = controller.updated(state, {"kl": 3.0, "reconstruction": 50.0})
    assert controller.beta(state) == pytest.approx(math.exp(end))


# Exact resume, config -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [{"target_rate": 5.0}, {"target_reconstruction": 150.0}])
def test_a_resumed_run_with_a_target_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, monkeypatch, target) -> None:
    config = settings({"objective": target})
    whole = vaelab.train("digits", out=tmp_path / "whole", config=config, progress=False)
    with monkeypatch.context() as patch:
        stopped_at(patch, 41)
        with pytest.raises(StopError):
            vaelab.train("digits", out=tmp_path / "cut", config=config, progress=False)
    vaelab.train(resume=tmp_path / "cut", progress=False)
    assert contents(tmp_path / "cut") == contents(whole.folder)
    betas = [line["beta"] for line in whole.history if line["kind"] == "train"]
    assert len(set(betas)) == len(betas)  # what was used is on record, and it moves


def test_no_target_is_no_controller_and_shifts_are_undone() -> None:
    assert build_controller(build_config({}).objective, 3.0) is None
    config = build_config({"objective": {"target_reconstruction": 10.0}})
    assert build_controller(config.objective, 3.0) == Controller("reconstruction", 13.0)
    weighting = Weighting(ELBO(beta=4.0), build_config({"train": {"steps": 10}}), 0.0)
    assert weighting(5, Progress()) == {"beta": 4.0}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"objective": {"beta": 2.0}}, "leave objective.beta at 1.0"),
        ({"objective": {"anneal": "linear", "warmup_steps": 5}}, "leave objective.anneal at constant"),
        ({"objective": {"capacity": 3.0}}, "leave objective.capacity at null"),
        ({"objective": {"free_bits": 0.1}}, "leave objective.free_bits at 0.0"),
        ({"train": {"on_collapse": "anneal"}}, "leave train.on_collapse at none"),
        ({"train": {"patience": 3}}, "leave train.patience at null"),
        ({"objective": {"target_reconstruction": 0.0}}, "both move beta"),
        ({"objective": {"target_rate": 0.0}}, "objective.target_rate: got 0.0; must be greater than 0"),
    ],
)
def test_a_target_and_another_hand_on_beta_are_refused(other: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        build_config({"objective": {"target_rate": 5.0}}, other)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# Collapse -------------------------------------------------------------------------------------------------------------


def weighting(total: int = 1000, **objective: Any) -> Weighting:
    config = build_config({"train": {"steps": total, "on_collapse": "anneal"}})
    return Weighting(ELBO(**objective), config, 0.0)


def test_the_weight_starts_again_after_two_evaluations_without_a_dimension_in_use_and_once() -> None:
    remedy, progress, restarted = weighting(beta=4.0), Progress(stale=3), []
    for step, active in [(100, 0), (200, 1), (300, 0), (400, 0), (500, 0), (600, 0), (700, 0), (800, 0)]:
        progress.step = step
        if remedy.restarts(progress, active):
            restarted.append(step)
    assert restarted == [400]
    assert (progress.annealed, progress.anneal_steps, progress.stale) == (400, 120, 0)
    assert [remedy(step, progress)["beta"] for step in (400, 460, 520, 999)] == [0.0, 2.0, 4.0, 4.0]
    assert remedy.settled(progress) == 520


def test_a_warm_up_is_no_collapse() -> None:
    from vaelab.schedules import linear

    remedy, progress = weighting(beta=linear(0.0, 1.0, 500)), Progress()
    for step in (100, 200, 300, 400, 500):
        progress.step = step
        assert not remedy.restarts(progress, 0)
    progress.step = 600
    assert not remedy.restarts(progress, 0)
    progress.step = 700
    assert remedy.restarts(progress, 0)


@pytest.mark.parametrize("cut", [18, 33])
def test_a_restarted_warm_up_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    collapsed = {"objective": {"beta": 1e3}, "train": {"on_collapse": "anneal", "learning_rate": 0.03}}
    config = settings(collapsed, {"likelihood": "bernoulli", "train": {"evaluate_every": 5}})
    whole = vaelab.train("digits", out=tmp_path / "whole", config=config, progress=False)
    (event,) = [line for line in whole.history if line.get("what") == "annealed"]
    with monkeypatch.context() as patch:
        stopped_at(patch, cut)
        with pytest.raises(StopError):
            vaelab.train("digits", out=tmp_path / "cut", config=config, progress=False)
    vaelab.train(resume=tmp_path / "cut", progress=False)
    assert contents(tmp_path / "cut") == contents(whole.folder)
    betas = {line["step"]: line["beta"] for line in whole.history if line["kind"] == "train"}
    first = min(step for step in betas if step > event["step"])
    assert betas[first] == pytest.approx(1e3 * (first - 1 - event["step"]) / event["steps"])
