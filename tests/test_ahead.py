"""Steps whose numbers are read together give the bits, the numbers and the events of steps looked at one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_remedies import Recorder, network, trained
from test_training import contents, settings
from torch import Tensor, nn

import vaelab
from vaelab.core.errors import BadInput, Diverged
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


class Again:
    """Stands in for a recording: what reads the recording's tensors is done again."""

    made = 0

    def __init__(self, function: Callable[[], Tensor]) -> None:
        self.function = function
        type(self).made += 1

    def replay(self) -> Tensor:
        return self.function()


class Other(Again):
    """Another result than that of the step itself."""

    def replay(self) -> Tensor:
        return self.function() + 1


class Unable(Again):
    def __init__(self, function: Callable[[], Tensor]) -> None:
        raise RuntimeError("operation not permitted")


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


GRAPHED = ("plain", "clipped", "warmup", "codes", "critic", "labels")


@pytest.mark.parametrize("kind", GRAPHED)
@pytest.mark.parametrize("graphs", [Again, Other, Unable])
def test_replays_are_the_steps_themselves(
    tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch, kind: str, graphs: Any
) -> None:
    """A recording that cannot be made, or gives other numbers, is given up, and nothing has moved through it."""
    config = merged(SHORT, KINDS[kind])
    trained(tmp_path / "one", config)
    request.getfixturevalue("late")
    said = replaying(monkeypatch, graphs)
    trained(tmp_path / "two", config)
    one, two = vaelab.load(tmp_path / "one"), vaelab.load(tmp_path / "two")
    for name, value in one.model.state_dict().items():
        assert torch.allclose(value.double(), two.model.state_dict()[name].double(), atol=1e-5, rtol=1e-4), name
    assert [line["step"] for line in one.history] == [line["step"] for line in two.history]
    assert two.metrics["negative_elbo"] == pytest.approx(one.metrics["negative_elbo"], abs=1e-3)
    reasons = {Again: [], Other: ["other numbers than the step"], Unable: ["operation not permitted"]}[graphs]
    assert len(said) == len(reasons) and all(reason in line for reason, line in zip(reasons, said, strict=True))


def test_a_resume_has_the_bits_of_a_run_whose_steps_were_replayed(
    tmp_path: Path, late: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording begins anew after a resume, some steps later than in the run that was not stopped."""
    replaying(monkeypatch, Again)
    made = Again.made
    trained(tmp_path / "one", SHORT)
    monkeypatch.setattr(Loop, "_is_over", lambda self: self.progress.step >= 30)
    trained(tmp_path / "two", SHORT)
    monkeypatch.undo()
    monkeypatch.setattr(Loop, "__init__", init_late(Again))
    vaelab.train(resume=tmp_path / "two", progress=False)
    assert Again.made - made == 3
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    last = "checkpoints/step-000000060/model.safetensors"
    assert one[last] == two[last]


def test_a_graph_is_for_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train.cuda_graph: got True; is for a GPU, and this run is on cpu"):
        trained(tmp_path / "run", merged(SHORT, {"train": {"cuda_graph": True}}))


REAL_INIT = Loop.__init__


def init_late(graphs: Any, said: list[str] | None = None) -> Callable[..., None]:
    def init(self: Loop, *arguments: Any, **named: Any) -> None:
        REAL_INIT(self, *arguments, **named)
        self.reads_late = True
        self.ahead = ahead.Ahead(self, graphs)
        if said is not None:
            assert self.ahead.replays is not None
            self.ahead.replays.say = said.append

    return init


def replaying(monkeypatch: pytest.MonkeyPatch, graphs: Any) -> list[str]:
    """Loops replay by a stand-in; returns what they say of it."""
    said: list[str] = []
    monkeypatch.setattr(Loop, "__init__", init_late(graphs, said))
    return said
