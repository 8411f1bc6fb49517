"""Steps whose numbers are read together give the bits, the numbers and the events of steps looked at one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_remedies import Recorder, network, trained
from test_training import contents, settings
from torch import nn

import vaelab
from vaelab.core.errors import Diverged
from vaelab.training import ahead
from vaelab.training.loop import Loop

SHORT = settings({"likelihood": "bernoulli", "train": {"steps": 60, "log_every": 6, "checkpoint_every": 10}})
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"train": {"clip_norm": 5.0}},
    "warmup": {"objective": {"anneal": "linear", "warmup_steps": 20}, "train": {"warmup_steps": 5}},
    "codes": {"model": {"posterior": "vq", "codebook": 8, "code_size": 2, "latent": 8}, "prior": {"name": "uniform"}},
    "critic": {"objective": {"name": "factor"}},
    "labels": {"data": {"condition": "labels", "labelled": 50}, "model": {"missing_labels": "gumbel"}},
    "encoder first": {"train": {"aggressive": 3, "aggressive_until": 30}},
    "average": {"train": {"ema": 0.9}},
}


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Loops behave as on a device that would have to be waited for; what each stretch had room for."""
    stretches: list[int] = []
    real_init, real_room = Loop.__init__, ahead.room

    def init(self: Loop, *arguments: Any, **named: Any) -> None:
        real_init(self, *arguments, **named)
        self.reads_late = True

    def room(loop: Loop) -> int:
        stretches.append(real_room(loop))
        return stretches[-1]

    monkeypatch.setattr(Loop, "__init__", init)
    monkeypatch.setattr("vaelab.training.loop.room", room)
    return stretches


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            both = isinstance(values, dict) and isinstance(found.get(section), dict)
            found[section] = found[section] | values if both else values
    return found


def same(first: Path, second: Path) -> None:
    """Every weight, moment, selection, line of metrics and event."""
    one, other = vaelab.load(first), vaelab.load(second)
    assert one.history == other.history
    assert contents(first) == contents(second)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_differs_from_steps_that_are_looked_at(tmp_path: Path, request: Any, kind: str) -> None:
    config = merged(SHORT, KINDS[kind])
    trained(tmp_path / "one", config)
    stretches = request.getfixturevalue("late")
    trained(tmp_path / "two", config)
    same(tmp_path / "one", tmp_path / "two")
    assert (max(stretches) > 1) == (kind != "average")


@pytest.mark.parametrize("policy", ["skip", "rollback", "stop"])
@pytest.mark.parametrize("steps", [(7,), (24, 25), (0, 59)], ids=str)
def test_what_is_not_finite_is_refused_all_the_same(
    tmp_path: Path, request: Any, policy: str, steps: tuple[int, ...]
) -> None:
    """Also in a network with batch norm, whose buffers a refused step must not move."""
    config = merged(SHORT, {"train": {"on_nan": policy}})
    recorder = Recorder()
    trained(tmp_path / "recorded", config, looking(recorder))
    fault = recorder.bad(*steps)
    for name in ("one", "two"):
        try:
            trained(tmp_path / name, config, network(fault))
        except Diverged:
            assert policy == "stop"
        if name == "one":
            request.getfixturevalue("late")
    one, two = (vaelab.load(tmp_path / name, network(fault)) for name in ("one", "two"))
    assert one.history == two.history and any(line["kind"] == "event" for line in one.history)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def looking(recorder: Recorder) -> nn.Module:
    """A network that notes each batch of training."""
    model = network()
    model.fault = lambda call, x: recorder(0 if torch.is_grad_enabled() else -1, x)  # type: ignore[method-assign]
    return model
