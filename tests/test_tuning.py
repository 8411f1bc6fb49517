"""What is chosen by measurement: restored, true float32 only, recorded and kept; and the pace of steps."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vaelab
from vaelab.core.config import build_config
from vaelab.core.errors import BadInput
from vaelab.training import tuning
from vaelab.training.fit import engine_for
from vaelab.training.loop import Loop
from vaelab.training.tuning import MATMUL, Pace, Tuning, as_before, float32_of, tune, tuned

WIDE = nn.Sequential(nn.Linear(300, 300), nn.SiLU(), nn.Linear(300, 4))
ROWS = np.random.default_rng(0).random((600, 784)).astype(np.float32)
LARGE: dict[str, Any] = {
    "model": {"encoder": "mlp", "hidden": [512], "latent": 2},
    "likelihood": "gaussian",
    "train": {"steps": 4, "batch_size": 256, "log_every": 1},
    "report": {"html": False},
}


def now() -> tuple[str, int]:
    return MATMUL.fp32_precision, torch.get_num_threads()


def timed(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Times by library and number of threads, such as `onednn_1=0.5`."""
    monkeypatch.setattr(
        tuning, "_timed", lambda candidates, *_: {(name, n): seconds[f"{name}_{n}"] for name, n in candidates}
    )


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"default_1": 1.0, "default_2": 0.5, "onednn_1": 0.9, "onednn_2": 0.45}, ("default", 2)),
        ({"default_1": 1.0, "default_2": 0.5, "onednn_1": 0.5, "onednn_2": 0.25}, ("onednn", 2)),
        ({"default_1": 1.0, "default_2": 9.0, "onednn_1": 0.95, "onednn_2": 8.0}, ("default", 1)),
        ({"default_1": 1.0, "default_2": 0.9, "onednn_1": 0.4, "onednn_2": 0.39}, ("onednn", 1)),
    ],
    ids=["threads", "both", "busy", "library"],
)
def test_a_choice_has_to_be_worth_it(monkeypatch: Any, seconds: dict[str, float], chosen: tuple[str, int]) -> None:
    before = now()
    timed(monkeypatch, **seconds)
    monkeypatch.setattr(tuning, "_is_true", lambda *_: True)
    found = tune(WIDE, 128, [1, 2])
    assert found is not None and (found.products, found.threads) == chosen
    assert found.milliseconds["default, 1 threads"] == 1000 and now() == before


def test_products_that_are_not_true_float32_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor that multiplies in bfloat16 where it may: simulated by rounding the inputs."""
    real = tuning._products

    def lower(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rounds = MATMUL.fp32_precision == "bf16" and arguments[0].dtype == torch.float32
        return real(*(part.bfloat16().float() for part in arguments)) if rounds else real(*arguments)

    x, w, g = tuning._probe(WIDE[0].weight, 64)  # type: ignore[arg-type]
    assert tuning._is_true(x, w, g) in (True, False)  # whatever this processor does
    monkeypatch.setattr(tuning, "_products", lower)
    assert not tuning._is_true(x, w, g)
    timed(monkeypatch, default_1=1.0, onednn_1=0.1)
    found = tune(WIDE, 64, [1])
    assert found is not None and found.products == "default"
    known = tuned(Tuning("onednn", 1).to_dict(), WIDE, 64)
    assert known is not None and known.products == "default"


def test_everything_is_put_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    before = now()

    def fails(*_: Any) -> Any:
        Tuning("onednn", 3).apply()
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_timed", fails)
    with pytest.raises(KeyboardInterrupt):
        tune(WIDE, 64, [1])
    with as_before():
        Tuning("onednn", 3).apply()
        assert now() == ("bf16", 3)
    assert now() == before


def test_who_set_precision_by_pytorch_s_newer_names_trains_all_the_same() -> None:
    was = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with engine_for(build_config({})):
            pass
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = was


@pytest.mark.parametrize(
    ("precision", "device", "inside"),
    [("float32", "cuda", "ieee"), ("tf32", "cuda", "tf32"), ("bfloat16", "cuda", "ieee"), ("float32", "cpu", None)],
)
def test_float32_on_a_gpu_is_float32_unless_tf32_is_asked_for(precision: str, device: str, inside: str | None) -> None:
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [kind.fp32_precision for kind in kinds]
    with contextlib.suppress(KeyboardInterrupt), float32_of(precision, torch.device(device)):
        found = [kind.fp32_precision for kind in kinds]
        raise KeyboardInterrupt
    assert found == ([inside] * 3 if inside else before)
    assert [kind.fp32_precision for kind in kinds] == before


def test_tf32_is_refused_on_a_processor(tmp_path: Path) -> None:
    config = {"train": {"precision": "tf32", "device": "cpu"}}
    with pytest.raises(BadInput, match=r"train.precision: got tf32; is for a GPU"):
        vaelab.train(ROWS, config=config, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_small_networks_are_not_measured() -> None:
    assert tune(nn.Linear(10, 10), 64, [1, 2]) is None and tune(nn.Conv2d(1, 2, 3), 64, [1]) is None
    assert tune(WIDE.double(), 64, [1]) is None
    WIDE.float()


@pytest.mark.parametrize("found", [None, 3, {"threads": 2}, {"products": "default", "threads": 1, "more": 1}])
def test_what_cannot_be_read_is_no_tuning(found: Any) -> None:
    assert tuned(found, WIDE, 64) is None


def test_a_resume_keeps_the_choice_and_takes_other_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    real = Loop._advance

    def advance(self: Loop, number: int) -> bool:
        seen.append(now())
        return real(self, number)

    monkeypatch.setattr(Loop, "_advance", advance)
    timed(monkeypatch, default_1=1.0, default_2=1.0, onednn_1=0.1, onednn_2=0.01)
    monkeypatch.setattr(tuning, "_is_true", lambda *_: True)
    before = now()
    vaelab.train(ROWS, config=LARGE, out=tmp_path / "run", progress=False)
    assert seen[0][0] == "bf16" and now() == before
    recorded = json.loads((tmp_path / "run" / "environment.json").read_text())["tuning"]
    assert recorded["products"] == "onednn"
    timed(monkeypatch, default_1=0.01, default_2=0.01, onednn_1=1.0, onednn_2=1.0)
    for steps, threads in ((5, None), (6, 2)):
        changes: dict[str, Any] = {"steps": steps} | ({"threads": threads} if threads else {})
        vaelab.train(ROWS, resume=tmp_path / "run", config={"train": changes}, progress=False)
        assert seen[-1] == ("bf16", threads or seen[0][1])
    assert now() == before


@pytest.mark.parametrize("products", ["default", "onednn"])
def test_a_library_that_is_named_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, products: str) -> None:
    monkeypatch.setattr(tuning, "_is_true", lambda *_: True)
    config = LARGE | {"train": LARGE["train"] | {"products": products}}
    run = vaelab.train(ROWS, config=config, out=tmp_path / "run", progress=False)
    assert run.environment["tuning"]["products"] == products


def test_nothing_is_measured_where_bits_have_to_repeat(tmp_path: Path) -> None:
    config = LARGE | {"train": LARGE["train"] | {"deterministic": True}}
    assert "tuning" not in vaelab.train(ROWS, config=config, out=tmp_path / "run", progress=False).environment


def test_the_pace_is_told_once_and_of_whole_stretches() -> None:
    pace = Pace(10)
    found = []
    for seconds, steps in ((0.001, 1), (1.0, 10), (1.1, 10), (4.0, 10), (5.0, 10)):
        pace.add(seconds, steps)
        found.append(pace.slowed())
    assert found == [None, None, None, pytest.approx(4.0), None]
