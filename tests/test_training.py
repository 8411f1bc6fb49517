"""The loop: exact resume, nothing non-finite in the weights, processes and slices that agree, a known optimum."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA
from torch import nn

import vaelab
from vaelab.core.errors import BadInput, Corrupt, Diverged, InUse
from vaelab.training.checkpoint import Checkpoints

BASE: dict[str, Any] = {
    "model": {"hidden": [16], "latent": 3, "channels": [4, 8]},
    "train": {"steps": 60, "batch_size": 32, "evaluate_every": 7, "checkpoint_every": 13, "log_every": 5, "threads": 1},
    "report": {"html": False},
}
KINDS: dict[str, dict[str, Any]] = {
    "mlp": {"model": {"encoder": "mlp", "norm": "batch", "dropout": 0.2}},
    "conv": {"model": {"encoder": "conv"}, "likelihood": {"name": "gaussian", "noise": "optimal"}},
}
FANCY = {"train": {"ema": 0.9}, "objective": {"anneal": "cosine", "warmup_steps": 30, "free_bits": 0.05}}


def settings(*layers: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in (BASE, *layers):
        for section, values in layer.items():
            merged[section] = {**merged.get(section, {}), **values} if isinstance(values, dict) else values
    return merged


def contents(folder: Path) -> dict[str, Any]:
    """Everything that must be equal bit for bit: metrics, tensors and counters of every checkpoint."""
    found: dict[str, Any] = {"metrics": (folder / "metrics.jsonl").read_bytes()}
    for path in sorted((folder / "checkpoints").rglob("*")):
        if path.suffix == ".safetensors":
            found[str(path.relative_to(folder))] = path.read_bytes()
        if path.name == "progress.json":
            found[str(path.relative_to(folder))] = {**json.loads(path.read_text()), "seconds": None}
    return found


class StopError(Exception):
    pass


def stopped_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The loop dies after that many steps, as suddenly as an exception can."""
    from vaelab.training.loop import Loop

    real = Loop._advance

    def advance(self: Loop, number: int) -> bool:
        if number == step:
            raise StopError
        return real(self, number)

    monkeypatch.setattr(Loop, "_advance", advance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, monkeypatch, kind: str) -> None:
    config = settings(KINDS[kind], FANCY)
    vaelab.train("digits", out=tmp_path / "whole", config=config, progress=False)
    for cut in (3, 41):  # before and after the first evaluation and checkpoint
        out = tmp_path / f"cut-{cut}"
        with monkeypatch.context() as patch:
            stopped_at(patch, cut)
            with pytest.raises(StopError):
                vaelab.train("digits", out=out, config=config, progress=False)
        vaelab.train(resume=out, progress=False)
        assert contents(out) == contents(tmp_path / "whole")


def test_the_same_seed_gives_the_same_bits_whatever_is_written_beside(tmp_path) -> None:
    plain = vaelab.train("digits", out=tmp_path / "a", config=settings(), progress=False)
    torch.manual_seed(123)
    often = {"evaluate_every": 3, "log_every": 1, "checkpoint_every": 2}
    watched = settings({"train": often, "report": {"tensorboard": True}})
    other = vaelab.train("digits", out=tmp_path / "b", config=watched, progress=False)
    last = [Checkpoints(run.folder / "checkpoints").load_last()[1]["model"] for run in (plain, other)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_training_leaves_the_callers_random_numbers_alone(tmp_path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    vaelab.train("digits", out=tmp_path / "a", config=settings({"train": {"steps": 3}}), progress=False)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("count", [2, 3])
def test_accumulated_slices_give_the_gradient_of_the_whole_batch(tmp_path, count: int) -> None:
    losses = []
    for accumulate in (1, count):
        config = settings({"train": {"accumulate": accumulate, "steps": 20}})
        run = vaelab.train("digits", out=tmp_path / f"{accumulate}", config=config, progress=False)
        losses.append([line["loss"] for line in run.history if line["kind"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# Nothing non-finite enters the weights -----------------------------------------------------------------------------


class Poisoned(vaelab.VAE):
    """Returns a NaN loss at chosen calls of `draw` in training."""

    calls, bad = 0, frozenset[int]()

    def draw(self, *arguments: Any, **named: Any) -> vaelab.VAEOutput:
        output = super().draw(*arguments, **named)
        if self.training:
            self.calls += 1
            if self.calls - 1 in self.bad:
                output.log_px = output.log_px * math.nan
        return output


@pytest.fixture(autouse=True)
def _calls_are_counted_from_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks before training call a model too."""
    from vaelab.training.loop import Loop

    real = Loop.run

    def run(self: Loop) -> Any:
        if isinstance(self.model, Poisoned):
            self.model.calls = 0
        return real(self)

    monkeypatch.setattr(Loop, "run", run)


def poisoned(*bad: int) -> Poisoned:
    torch.manual_seed(0)
    model = Poisoned(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 4)),
        nn.Sequential(nn.Linear(2, 64), nn.BatchNorm1d(64)),
        likelihood="bernoulli",
        latent=2,
    )
    model.bad = frozenset(bad)
    return model


NAN = settings({"likelihood": {"name": "bernoulli"}, "train": {"steps": 20, "checkpoint_every": 5}})


def test_a_nan_loss_stops_training_and_leaves_the_weights_as_they_were(tmp_path) -> None:
    model = poisoned(12)
    with pytest.raises(Diverged, match=r"step 12: the loss is nan.*train.learning_rate=") as caught:
        vaelab.train("digits", out=tmp_path / "a", config=NAN, model=model, progress=False)
    assert caught.value.status == 6
    reference = poisoned()
    shorter = settings(NAN, {"train": {"steps": 12, "schedule": "constant"}})
    longer = settings(NAN, {"train": {"schedule": "constant"}})
    vaelab.train("digits", out=tmp_path / "b", config=shorter, model=reference, progress=False)
    with pytest.raises(Diverged):
        vaelab.train("digits", out=tmp_path / "c", config=longer, model=poisoned(12), progress=False)
    saved = [Checkpoints(tmp_path / name / "checkpoints").load_last()[1]["model"] for name in "bc"]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


def test_skipping_goes_on_and_is_reported(tmp_path) -> None:
    config = settings(NAN, {"train": {"on_nan": "skip"}})
    run = vaelab.train("digits", out=tmp_path / "a", config=config, model=poisoned(3, 12), progress=False)
    finding = next(f for f in run.findings if f.code == "TR134")  # the same steps are finite when done again
    assert (finding.measured, finding.severity) == (2, "warning")
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())


def test_rolling_back_lowers_the_rate_until_the_next_checkpoint_and_finishes(tmp_path) -> None:
    config = settings(NAN, {"train": {"on_nan": "rollback", "schedule": "constant"}})
    run = vaelab.train("digits", out=tmp_path / "a", config=config, model=poisoned(12), progress=False)
    rates = {line["step"]: line["learning_rate"] for line in run.history if line["kind"] == "train"}
    assert rates[10] == 1e-3
    assert rates[15] == 5e-4
    assert rates[20] == 1e-3


# Held-out numbers, early stopping, resume with other things -----------------------------------------------------------


def test_the_held_out_loss_is_at_beta_one_whatever_the_training_weight(tmp_path) -> None:
    for beta in (0.0, 50.0):
        config = settings({"objective": {"beta": beta}})
        run = vaelab.train("digits", out=tmp_path / f"{beta}", config=config, progress=False)
        measured = run.metrics
        assert measured["negative_elbo"] == pytest.approx(measured["reconstruction"] + measured["kl"], abs=1e-6)
        best = min(line["negative_elbo"] for line in run.history if line["kind"] == "held_out")
        assert measured["negative_elbo"] == best


def test_early_stopping_waits_for_the_warm_up(tmp_path) -> None:
    rough = {"train": {"learning_rate": 0.5, "patience": 1, "steps": 200, "schedule": "constant", "on_nan": "skip"}}
    warmup = {"objective": {"anneal": "linear", "warmup_steps": 100}}
    early = vaelab.train("digits", out=tmp_path / "a", config=settings(rough), progress=False)
    late = vaelab.train("digits", out=tmp_path / "b", config=settings(rough, warmup), progress=False)
    steps = [max(line["step"] for line in run.history) for run in (early, late)]
    assert steps[0] < 100 < steps[1] < 200
    assert any(f.code == "TR108" for f in early.findings)


def test_a_resume_with_other_settings_or_data_is_refused_with_the_differences(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    config = settings({"train": {"steps": 10}})
    out = tmp_path / "a"
    vaelab.train(x, out=out, config=config, progress=False)
    with pytest.raises(BadInput, match=r"train.learning_rate 0.001 -> 0.01, model.latent 3 -> 4|model.latent 3 -> 4"):
        vaelab.train(x, resume=out, config={"train": {"learning_rate": 0.01}, "model": {"latent": 4}}, progress=False)
    with pytest.raises(BadInput, match="fingerprint"):
        vaelab.train(x + 1, resume=out, progress=False)
    with pytest.raises(BadInput, match="pass the same data again"):
        vaelab.train(resume=out, progress=False)
    with pytest.raises(BadInput, match="the run is at step 10 already"):
        vaelab.train(x, resume=out, config={"train": {"steps": 5}}, progress=False)
    longer = vaelab.train(x, resume=out, config={"train": {"steps": 30}}, progress=False)
    assert max(line["step"] for line in longer.history) == 30
    assert any("train.steps 10 -> 30" in f.title for f in longer.findings)


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path, monkeypatch) -> None:
    from vaelab.training.checkpoint import Checkpoints
    from vaelab.training.folder import RunFolder

    config = settings({"train": {"steps": 10}})
    whole = contents(vaelab.train("digits", out=tmp_path / "whole", config=config, progress=False).folder)

    def die(*_: Any) -> None:
        raise StopError

    for owner, name, again in ((Checkpoints, "save", {"resume": tmp_path / "a"}), (RunFolder, "save_config", None)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, die)
            with pytest.raises(StopError):
                vaelab.train("digits", out=tmp_path / "a", config=config, progress=False)
        vaelab.train(**again, progress=False) if again else vaelab.train(
            "digits", out=tmp_path / "a", config=config, progress=False
        )
        assert contents(tmp_path / "a") == whole
        shutil.rmtree(tmp_path / "a")


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(tmp_path, damage: str) -> None:
    config, out = settings(), tmp_path / "a"
    whole = contents(vaelab.train("digits", out=out, config=config, progress=False).folder)
    newest = sorted((out / "checkpoints").glob("step-*"))[-1] / "model.safetensors"
    data = newest.read_bytes()
    if damage == "delete":
        newest.unlink()
    else:
        newest.write_bytes(data[:-100] if damage == "cut" else data[:100] + bytes([data[100] ^ 1]) + data[101:])
    vaelab.train(resume=out, progress=False)
    assert contents(out)["metrics"] == whole["metrics"]
    assert contents(out)["checkpoints/step-000000060/model.safetensors"] == data


def test_no_whole_checkpoint_is_an_error_that_names_them(tmp_path) -> None:
    out = tmp_path / "a"
    vaelab.train("digits", out=out, config=settings({"train": {"steps": 5}}), progress=False)
    for path in (out / "checkpoints").rglob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(Corrupt, match="step-000000005"):
        vaelab.train(resume=out, progress=False)
    with pytest.raises(Corrupt, match="best-"):
        _ = vaelab.load(out).model


# Processes and signals ------------------------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "vaelab", *map(str, arguments)]


def overrides(config: dict[str, Any]) -> list[str]:
    pairs = [(f"{section}.{key}", value) for section, values in config.items() for key, value in values.items()]
    return [f"{name}={json.dumps(value)}" for name, value in pairs]


QUIET = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True}


def test_two_processes_give_the_losses_of_one(tmp_path) -> None:
    config = overrides(settings({"train": {"steps": 30}}, {"objective": {"free_bits": 0.1}}))
    train = ["vaelab", "train", "digits", *config, "--quiet", "--out"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29533", "-m"]
    subprocess.run([sys.executable, "-m", *train, tmp_path / "one"], check=True, **QUIET)
    done = subprocess.run([*launch, *train, tmp_path / "two"], check=False, **QUIET)
    assert done.returncode == 0, done.stderr
    runs = [vaelab.load(tmp_path / name) for name in ("one", "two")]
    assert runs[1].environment["processes"] == 2
    for first, second in zip(runs[0].history, runs[1].history, strict=True):
        assert first.keys() == second.keys()
        for key, value in first.items():
            if key not in ("kind", "clipped"):
                assert second[key] == pytest.approx(value, rel=1e-5, abs=1e-5), (key, first, second)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits_with_its_status(tmp_path, number: int, status: int) -> None:
    config = settings({"train": {"steps": 100_000}})
    out = tmp_path / "a"
    train = command("train", "digits", *overrides(config), "--out", out)
    child = subprocess.Popen(train, stderr=subprocess.PIPE, text=True)
    wait_for(out / "metrics.jsonl", child)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == status, said
    progress = Checkpoints(out / "checkpoints").load_last()[0]
    assert f"saved at step {progress.step}" in said
    assert 0 < progress.step < 100_000


def wait_for(path: Path, child: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size) and time.monotonic() < end:
        assert child.poll() is None, "the command ended before it trained"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_kills_at_random_moments_change_nothing(tmp_path, kind: str) -> None:
    """Kill -9 in a step or inside a save, then resume; in the end nothing differs from a run that nobody touched."""
    often = {"steps": 200, "checkpoint_every": 20, "evaluate_every": 30, "log_every": 7}
    config = settings(KINDS[kind], FANCY, {"train": often})
    vaelab.train("digits", out=tmp_path / "whole", config=config, progress=False)
    out, chance, script = tmp_path / "killed", random.Random(0), tmp_path / "child.py"
    script.write_text(CHILD)
    for _ in range(20):
        moments = chance.randint(1, 60)
        run = subprocess.run([sys.executable, script, out, json.dumps(config), str(moments)], check=False, **QUIET)
        assert run.returncode in (0, -signal.SIGKILL), run.stderr
    vaelab.train(resume=out, progress=False)
    assert contents(out) == contents(tmp_path / "whole")


CHILD = """
import json, os, pathlib, signal, sys
import vaelab
from vaelab.core import durable
from vaelab.training.loop import Loop

left = int(sys.argv[3])

def dying(real):
    def call(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return call

Loop._advance = dying(Loop._advance)
for name in ("_write", "_flush", "_rename"):
    setattr(durable, name, dying(getattr(durable, name)))
out = pathlib.Path(sys.argv[1])
if (out / "config.yaml").exists():
    vaelab.train(resume=out, progress=False)
else:
    vaelab.train("digits", out=out, config=json.loads(sys.argv[2]), progress=False)
"""


def test_a_second_trainer_in_a_folder_is_told_who_holds_it(tmp_path) -> None:
    config = settings({"train": {"steps": 100_000}})
    out = tmp_path / "a"
    child = subprocess.Popen(command("train", "digits", *overrides(config), "--quiet", "--out", out))
    try:
        wait_for(out / "metrics.jsonl", child)
        with pytest.raises(InUse, match=f"process {child.pid}"):
            vaelab.train(resume=out, progress=False)
    finally:
        child.kill()
        child.wait()


# The optimum of a linear model is known -------------------------------------------------------------------------------

TABLES = {"wine": (load_wine, 3), "breast cancer": (load_breast_cancer, 5), "digits": (load_digits, 8)}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_linear_model_reaches_the_closed_form_optimum(tmp_path, name: str) -> None:
    """Probabilistic PCA (Tipping and Bishop 1999) is the optimum of a linear Gaussian VAE (Lucas et al. 2019)."""
    load, latent = TABLES[name]
    x = load().data.astype(np.float64)
    x = x[:, x.std(0) > 0]
    order = np.random.default_rng(0).permutation(len(x))
    train, test = x[order[: int(0.8 * len(x))]], x[order[int(0.8 * len(x)) :]]
    mean, std = train.mean(0), train.std(0)
    std[std == 0] = 1.0
    train, test = (train - mean) / std, (test - mean) / std
    path = tmp_path / "data.npz"
    np.savez(path, x_train=train.astype(np.float32), x_test=test.astype(np.float32))
    config = {
        "model": {"latent": latent, "encoder": "linear", "decoder": "linear"},
        "likelihood": "gaussian",
        "train": {"steps": 8000},
        "data": {"scale": "none"},
        "report": {"html": False},
    }
    run = vaelab.train(path, out=tmp_path / "run", config=config, progress=False)
    optimum = PCA(latent).fit(train).score(test)
    last = [line for line in run.history if line["kind"] == "held_out"][-1]
    assert -last["negative_elbo"] == pytest.approx(optimum, abs=0.05)
    # Selection may stop before the training rows' own optimum, where that serves the held-out rows better.
    assert -run.metrics["negative_elbo"] >= optimum - 0.05
