"""What a run does about NaN and about collapse: weights, rates, events and resumes, against undisturbed runs."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import StopError, contents, settings, stopped_at
from torch import Tensor, nn

import vaelab
from vaelab.core.durable import load_folder, save_folder
from vaelab.core.errors import BadInput, Diverged
from vaelab.training.checkpoint import Checkpoints, Progress
from vaelab.training.loop import Loop
from vaelab.training.remedies import MOST_ROLLBACKS, acquitted, leave_out, lower, recovered

QUICK = settings({"likelihood": "bernoulli", "train": {"steps": 60, "checkpoint_every": 10, "on_nan": "rollback"}})


class Faulty(vaelab.VAE):
    """Its loss is NaN in training where `fault(call, x)` says so; `call` counts the steps tried, and -1 is no step."""

    fault: Callable[[int, Tensor], bool] = staticmethod(lambda call, x: False)
    call, tried = -1, -1

    def draw(self, *arguments: Any, **named: Any) -> vaelab.VAEOutput:
        output = super().draw(*arguments, **named)
        if self.training and self.fault(self.call, output.x):
            output.log_px = output.log_px * math.nan
        return output


def network(fault: Callable[[int, Tensor], bool] | None = None) -> Faulty:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.SiLU(), nn.Linear(64, 12))
    decoder = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64))
    model = Faulty(encoder, decoder, likelihood="bernoulli", latent=6)
    if fault is not None:
        model.fault = fault  # type: ignore[method-assign]
    return model


def passing(*calls: int) -> Callable[[int, Tensor], bool]:
    return lambda call, x: call in calls


def mark(x: Tensor) -> str:
    """What tells a batch from others."""
    return str(x.flatten(1).sum(1).tolist())


class Recorder:
    """No fault; notes the batches of all steps."""

    def __init__(self) -> None:
        self.marks: list[str] = []

    def __call__(self, call: int, x: Tensor) -> bool:
        if call >= 0:
            self.marks.append(mark(x))
        return False

    def bad(self, *numbers: int) -> Callable[[int, Tensor], bool]:
        """A fault tied to the batches of these steps: it comes back whenever they do."""
        marks = {self.marks[number] for number in numbers}
        return lambda call, x: mark(x) in marks


@pytest.fixture
def batches(tmp_path: Path) -> Recorder:
    recorder = Recorder()
    trained(tmp_path / "recorded", QUICK, network(recorder))
    return recorder


@pytest.fixture(autouse=True)
def _steps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks before training and the search for a culprit call the model too; faults are counted in steps tried."""
    real = Loop._gradients

    def gradients(self: Loop, *arguments: Any) -> Any:
        model: Any = self.model
        model.call = model.tried = getattr(model, "tried", -1) + 1
        try:
            return real(self, *arguments)
        finally:
            model.call = -1

    monkeypatch.setattr(Loop, "_gradients", gradients)


def trained(out: Path, config: dict[str, Any], model: nn.Module | None = None, **named: Any) -> vaelab.Run:
    return vaelab.train("digits", out=out, config=config, model=model, progress=False, **named)


def events(run: vaelab.Run) -> list[tuple[str, int]]:
    return [(line["what"], line["step"]) for line in run.history if line["kind"] == "event"]


def rates(run: vaelab.Run) -> dict[int, float]:
    return {line["step"]: line["learning_rate"] for line in run.history if line["kind"] == "train"}


# NaN ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("kind", ["passing", "batch"])
def test_nan_at_three_steps_costs_less_than_a_nat(tmp_path: Path, policy: str, kind: str) -> None:
    config = settings(QUICK, {"train": {"steps": 300, "checkpoint_every": 30, "evaluate_every": 50, "on_nan": policy}})
    recorder = Recorder()
    whole = trained(tmp_path / "whole", config, network(recorder))
    fault = passing(45, 130, 220) if kind == "passing" else recorder.bad(45, 130, 220)
    run = trained(tmp_path / "run", config, network(fault))
    assert sum(what == "refused" for what, _ in events(run)) >= 3
    assert whole.metrics["negative_elbo"] < 220  # far below the 266 nats of a model that has learnt nothing
    assert run.metrics["negative_elbo"] == pytest.approx(whole.metrics["negative_elbo"], abs=1.0)


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_a_refused_step_leaves_weights_buffers_and_optimiser_bit_for_bit(tmp_path: Path, monkeypatch, policy) -> None:
    seen: list[tuple[bool, int]] = []
    real = Loop._refuse

    def state(loop: Loop) -> list[Tensor]:
        return [value.clone() for value in (*loop.state.values(), *loop.optimizer.tensors().values())]

    before: dict[int, list[Tensor]] = {}
    real_advance = Loop._advance

    def advance(self: Loop, number: int) -> bool:
        before[number] = state(self)
        return real_advance(self, number)

    def refuse(self: Loop, number: int, *arguments: Any) -> bool:
        rollback = policy == "rollback"
        if rollback:
            monkeypatch.setattr(self, "_roll_back", lambda *_, **__: seen.append((same(number, self), number)))
        done = None
        try:
            done = real(self, number, *arguments)
        finally:
            if not rollback:
                seen.append((same(number, self), number))
        return done or rollback

    def same(number: int, loop: Loop) -> bool:
        return all(torch.equal(a, b) for a, b in zip(before[number], state(loop), strict=True))

    monkeypatch.setattr(Loop, "_advance", advance)
    monkeypatch.setattr(Loop, "_refuse", refuse)
    config = settings(QUICK, {"train": {"steps": 20, "on_nan": policy}})
    if policy == "stop":
        with pytest.raises(Diverged, match="step 7"):
            trained(tmp_path / "run", config, network(passing(7, 12)))
    else:
        trained(tmp_path / "run", config, network(passing(7, 12)))
    assert seen == ([(True, 7)] if policy == "stop" else [(True, 7), (True, 12)])


def test_a_passing_fault_halves_the_rate_until_the_next_checkpoint(tmp_path: Path) -> None:
    config = settings(QUICK, {"train": {"schedule": "constant"}})
    run = trained(tmp_path / "run", config, network(passing(23)))
    assert events(run) == [("refused", 23), ("rollback", 23), ("recovered", 30)]
    assert {step: rate for step, rate in rates(run).items() if rate < 1e-3} == {25: 5e-4, 30: 5e-4}
    back = next(line for line in run.history if line.get("what") == "rollback")
    assert (back["to"], back["factor"]) == (20, 0.5)


def test_a_batch_that_fails_again_is_left_out_and_the_rate_restored(tmp_path: Path, batches: Recorder) -> None:
    config = settings(QUICK, {"train": {"schedule": "constant"}})
    run = trained(tmp_path / "run", config, network(batches.bad(23)))
    again = [("refused", 23), ("rollback", 23), ("refused", 23), ("skipped", 23), ("recovered", 24)]
    assert events(run) == again
    assert {step for step, rate in rates(run).items() if rate < 1e-3} == set()  # line 25 comes after step 24
    progress = Checkpoints(run.folder / "checkpoints").load_last()[0]
    assert (progress.blamed, progress.refused, progress.rollbacks, progress.rate_factor) == ([23], 2, 1, 1.0)
    assert progress.failures == {"1.0": 0}


def test_a_passing_fault_is_not_held_against_the_rate() -> None:
    progress = Progress()
    for step in (5, 15, 25):
        lower(progress, step, passing=True)
        assert progress.rate_factor == 0.5
        assert recovered(progress)
        assert not recovered(progress)


def test_a_second_fault_between_checkpoints_skips_the_blamed_batch_at_once(tmp_path: Path, batches: Recorder) -> None:
    run = trained(tmp_path / "run", QUICK, network(batches.bad(23, 27)))
    done = [pair for pair in events(run) if pair[0] in ("rollback", "skipped")]
    assert done == [("rollback", 23), ("skipped", 23), ("rollback", 27), ("skipped", 23), ("skipped", 27)]


def test_neighbouring_bad_batches_are_both_left_out(tmp_path: Path, batches: Recorder) -> None:
    run = trained(tmp_path / "run", QUICK, network(batches.bad(23, 24)))
    assert [pair for pair in events(run) if pair[0] == "rollback"] == [("rollback", 23)]
    assert Checkpoints(run.folder / "checkpoints").load_last()[0].blamed == [23, 24]


def test_weights_that_fail_whatever_the_batch_lower_the_rate_until_it_holds(tmp_path: Path) -> None:
    """A rate far too high: no batch is blamed for long, and the run ends with a rate that holds."""
    config = settings(QUICK, {"train": {"learning_rate": 3e3 / 32, "steps": 100, "log_every": 1}})

    def too_fast(call: int, x: Tensor) -> bool:
        return bool(next(iter(model.decoder.parameters())).abs().max() > 300)

    model = network(too_fast)
    run = trained(tmp_path / "run", config, model)
    progress = Checkpoints(run.folder / "checkpoints").load_last()[0]
    assert 0 < progress.rollbacks <= MOST_ROLLBACKS
    assert progress.rate_factor < 1
    assert len([pair for pair in events(run) if pair[0] == "rollback"]) == progress.rollbacks


def test_a_run_that_cannot_go_on_gives_up_after_so_many_rollbacks(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"step 2[0-3]"):
        trained(tmp_path / "run", QUICK, network(lambda call, x: call >= 20))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    happened = [line for line in lines if line["kind"] == "event"]
    assert sum(line["what"] == "rollback" for line in happened) == MOST_ROLLBACKS
    assert happened[-1]["what"] == "refused"  # what stopped it is on disk too


@pytest.mark.parametrize(
    ("steps", "factors"),
    [
        ([5], [0.5, 1.0]),  # once from 1: back to 1
        ([5, 15], [0.5, 1.0, 0.5, 0.5]),  # twice from 1: never again
        ([5, 15, 25], [0.5, 1.0, 0.5, 0.5, 0.25, 0.5]),
    ],
)
def test_the_rate_comes_back_but_not_to_where_it_failed_twice(steps: list[int], factors: list[float]) -> None:
    progress, seen = Progress(), []
    for step in steps:
        assert not leave_out(progress, step)
        lower(progress, step, passing=False)
        seen.append(progress.rate_factor)
        assert not acquitted(progress)
        recovered(progress)
        seen.append(progress.rate_factor)
    assert seen == factors


@pytest.mark.parametrize("cut", [22, 24, 26, 31])
@pytest.mark.parametrize("how", ["killed", "signal"])
def test_interrupted_runs_with_rollbacks_end_like_uninterrupted_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: Recorder, cut: int, how: str
) -> None:
    """Weights that come back bit for bit, counters and events too, wherever the run was cut."""
    config = settings(QUICK, {"train": {"ema": 0.9}})
    bad = batches.bad(23, 27, 45)
    whole = trained(tmp_path / "whole", config, network(bad))
    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        if how == "killed":
            stopped_at(patch, cut)
        else:
            asked = iter([0] * cut + [15])
            patch.setattr("vaelab.training.signals.Signals.anywhere", lambda self: next(asked))
        with pytest.raises((StopError, vaelab.VaelabError)):
            trained(out, config, network(bad))
    vaelab.train(resume=out, model=network(bad), progress=False)
    if how == "killed":
        assert contents(out) == contents(whole.folder)
    assert contents(out)["metrics"] == contents(whole.folder)["metrics"]
    last = [Checkpoints(folder / "checkpoints").load_last()[1] for folder in (out, whole.folder)]
    assert all(torch.equal(last[0][k][n], last[1][k][n]) for k in last[0] for n in last[0][k])


def test_the_culprit_is_named_in_the_event_and_in_the_message(tmp_path: Path) -> None:
    class Roots(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z + (2 - z[:, :1]).log()  # NaN for the few rows beyond 2

    torch.manual_seed(0)
    parts = nn.Sequential(nn.Flatten(), nn.Linear(64, 12)), nn.Sequential(Roots(), nn.Linear(6, 64))
    model = vaelab.VAE(*parts, likelihood="bernoulli", latent=6)
    with pytest.raises(Diverged, match=r"decoder\.0|Roots") as caught:
        trained(tmp_path / "run", settings(QUICK, {"train": {"on_nan": "stop"}}), model)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    event = next(line for line in lines if line["kind"] == "event")
    assert event["what"] == "refused"
    assert event["text"] in str(caught.value)
    assert event["rows"]


NEW = ("anchor", "suspect", "trial", "blamed", "failures", "collapsed", "annealed", "anneal_steps", "control")


def test_an_old_checkpoint_without_the_new_counters_is_continued(tmp_path: Path) -> None:
    config = settings({"train": {"steps": 30}})
    whole = contents(trained(tmp_path / "run", config).folder)
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        if path != newest:
            saved = json.loads((path / "progress.json").read_text())
            saved["window"].pop("most")
            text = json.dumps({key: value for key, value in saved.items() if key not in NEW}).encode()
            rewritten(path, text)
    (newest / "model.safetensors").unlink()
    vaelab.train(resume=tmp_path / "run", progress=False)
    assert (
        contents(tmp_path / "run")["checkpoints/step-000000030/model.safetensors"]
        == whole["checkpoints/step-000000030/model.safetensors"]
    )


def rewritten(path: Path, progress: bytes) -> None:
    save_folder(path, {**load_folder(path), "progress.json": progress})


# Numbers of single steps ----------------------------------------------------------------------------------------------


def test_highest_values_and_the_size_of_a_change_are_those_of_the_steps(tmp_path: Path, monkeypatch) -> None:
    """Against the same run with a line for every step, and against the weights before and after."""
    ratios: dict[int, float] = {}
    real = Loop._advance

    def advance(self: Loop, number: int) -> bool:
        before = torch.cat([p.detach().flatten() for p in self.parameters])
        done = real(self, number)
        after = torch.cat([p.detach().flatten() for p in self.parameters])
        ratios[number + 1] = float((after - before).norm() / before.norm())
        return done

    every = trained(tmp_path / "every", settings({"train": {"log_every": 1}}))
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_advance", advance)
        fifth = trained(tmp_path / "fifth", settings())
    single = {line["step"]: line for line in every.history if line["kind"] == "train"}
    lines = [line for line in fifth.history if line["kind"] == "train"]
    assert len(lines) == 12
    for line in lines:
        steps = [single[number] for number in range(line["step"] - 4, line["step"] + 1)]
        assert line["loss_max"] == max(step["loss"] for step in steps)
        assert line["gradient_norm_max"] == max(step["gradient_norm"] for step in steps)
        assert line["update_ratio"] == pytest.approx(ratios[line["step"]], rel=1e-4)
        assert line["update_ratio"] == single[line["step"]]["update_ratio"]


# Keywords -------------------------------------------------------------------------------------------------------------


def test_remedies_are_keywords_too(tmp_path: Path) -> None:
    run = trained(tmp_path / "a", settings({"train": {"steps": 2}}), on_nan="rollback", on_collapse="anneal")
    assert (run.config.train.on_nan, run.config.train.on_collapse) == ("rollback", "anneal")
    trained(tmp_path / "b", settings(QUICK, {"train": {"steps": 2}}), on_nan="rollback")
    with pytest.raises(BadInput, match=r"on_nan: got skip; the config says train.on_nan=rollback"):
        trained(tmp_path / "c", QUICK, on_nan="skip")
    with pytest.raises(BadInput, match=r"train.on_collapse: got restart; must be 'none' or 'anneal'"):
        trained(tmp_path / "c", settings(), on_collapse="restart")


def test_a_finding_is_applied_by_the_config_of_the_run_and_a_setting(tmp_path: Path, capsys) -> None:
    from vaelab.cli import main

    first = trained(tmp_path / "first", settings({"train": {"steps": 2}}))
    with pytest.raises(SystemExit):
        main(["train", "--config", f"{first.folder}/config.yaml", "objective.beta=2", "--quiet", "--out",
              str(tmp_path / "second")])  # fmt: skip
    second = vaelab.load(tmp_path / "second")
    assert second.config == first.config.edited({"objective.beta": 2.0})
    assert second.spec.fingerprint == first.spec.fingerprint


def test_checkpoints_newer_than_the_one_gone_back_to_are_removed_before_metrics_are_cut(
    tmp_path: Path, batches: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill right after the cut must not leave a checkpoint that counts on lines which are gone."""
    real, left = Loop.restore, []

    def restore(self: Loop, newest: int | None = None) -> list[str]:
        steps = [int(path.name.partition("-")[2]) for path in self.checkpoints.folder.glob("step-*")]
        left.extend(step for step in steps if newest is not None and step > newest)
        return real(self, newest)

    monkeypatch.setattr(Loop, "restore", restore)
    often = settings({"likelihood": "bernoulli", "train": {"steps": 60, "checkpoint_every": 1, "on_nan": "rollback"}})
    with contextlib.suppress(Diverged):  # so many neighbours are more than it leaves out
        trained(tmp_path / "run", often, network(batches.bad(23, 24, 25, 26)))
    assert left == []
