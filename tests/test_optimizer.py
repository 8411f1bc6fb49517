"""`AdamW` against PyTorch's class, bit for bit, and what it adds: a divisor, a flag, what is passed over."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vaelab.training.optimizer import AdamW


def network(dtype: torch.dtype = torch.float32, convolves: bool = False) -> nn.Module:
    torch.manual_seed(0)
    if not convolves:
        return nn.Sequential(nn.Linear(7, 5), nn.SiLU(), nn.Linear(5, 3)).to(dtype)
    layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.Conv2d(4, 3, 2)).to(dtype)
    return layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def gradients(model: nn.Module, step: int, missing: bool = False) -> None:
    """Gradients of a made-up loss; in every third step the first layer has none."""
    torch.manual_seed(step)
    for place, parameter in enumerate(model.parameters()):
        values = torch.randn(parameter.shape, dtype=parameter.dtype) * 10.0 ** (step % 3)
        parameter.grad = torch.empty_like(parameter).copy_(values)
        if missing and place < 2 and step % 3 == 1:
            parameter.grad = None


KINDS: dict[str, Callable[[], nn.Module]] = {
    "float32": network,
    "float64": lambda: network(torch.float64),
    "channels last": lambda: network(convolves=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_pytorch_s_class(kind: str) -> None:
    ours = KINDS[kind]()
    theirs = copy.deepcopy(ours)
    mine = AdamW(ours.parameters(), 0.02)
    other = torch.optim.AdamW(theirs.parameters(), lr=1.0, weight_decay=0.02, fused=True)
    for step in range(20):
        for model in (ours, theirs):
            gradients(model, step, missing=True)
        other.param_groups[0]["lr"] = rate = 1e-2 / (1 + step)
        mine.step(rate)
        other.step()
        if step == 9:  # what a checkpoint holds is enough to go on
            saved = {name: value.clone() for name, value in mine.tensors().items()}
            mine = AdamW(ours.parameters(), 0.02)
            mine.load(saved)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_divisor_scales_the_gradients(kind: str) -> None:
    ours = KINDS[kind]()
    theirs = copy.deepcopy(ours)
    mine, other = AdamW(ours.parameters(), 0.0), AdamW(theirs.parameters(), 0.0)
    divisor = torch.tensor(3.7)
    for step in range(10):
        for model in (ours, theirs):
            gradients(model, step)
        for parameter in theirs.parameters():
            parameter.grad = parameter.grad / divisor
        mine.step(1e-2, divisor)
        other.step(1e-2)
    exact = 1e-14 if kind == "float64" else 1e-6
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=exact, atol=exact)


@pytest.mark.parametrize("gradient", [float("nan"), float("inf"), 1.0])
def test_the_flag_keeps_everything_still(gradient: float) -> None:
    model = network()
    optimizer = AdamW(model.parameters(), 0.1)
    gradients(model, 0)
    optimizer.step(1e-2)
    before = state(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step(1e-2, torch.tensor(float("nan")), torch.ones(()))
    assert all(torch.equal(a, b) for a, b in zip(before, state(model, optimizer), strict=True))
    optimizer.step(1e-2, None, torch.zeros(()))
    assert not all(torch.equal(a, b) for a, b in zip(before, state(model, optimizer), strict=True))


def state(model: nn.Module, optimizer: AdamW) -> list[Tensor]:
    return [value.detach().clone() for value in (*model.parameters(), *optimizer.tensors().values())]


def test_numbers_of_parameters_go_on_where_they_are_said_to() -> None:
    model = network()
    assert set(AdamW(model.parameters(), 0.0, 4).tensors()) == {
        f"{place}.{name}" for place in (4, 5, 6, 7) for name in ("step", "exp_avg", "exp_avg_sq")
    }
