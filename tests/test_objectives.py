"""The objective and the schedules, against formulas written out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

import vaelab
from vaelab import schedules
from vaelab.core.config import build_config
from vaelab.core.errors import BadInput
from vaelab.core.output import VAEOutput
from vaelab.objectives.build import build_objective
from vaelab.objectives.elbo import ELBO


def output(kl: torch.Tensor, log_px: torch.Tensor, **extra: torch.Tensor) -> VAEOutput:
    nothing = torch.zeros(0)
    return VAEOutput(nothing, nothing, log_px, kl, True, None, None, None, extra)


@pytest.fixture
def parts() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    kl = torch.rand(5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    return kl, torch.randn(2, 5, generator=generator, dtype=torch.float64)


def test_elbo_is_reconstruction_plus_beta_times_kl(parts) -> None:
    kl, log_px = parts
    objective = ELBO(beta=2.5)
    loss = objective(output(kl, log_px), objective.weights(0))
    by_hand = sum(-log_px[:, i].mean() + 2.5 * kl[i].sum() for i in range(5)) / 5
    assert torch.allclose(loss.total, by_hand)
    assert loss.terms["kl"].shape == loss.terms["reconstruction"].shape == (5,)
    assert loss.weights == {"beta": 2.5}


def test_extra_terms_are_added(parts) -> None:
    kl, log_px = parts
    plain = ELBO()(output(kl, log_px), {"beta": 1.0}).total
    more = ELBO()(output(kl, log_px, commitment=torch.arange(5.0)), {"beta": 1.0})
    assert torch.allclose(more.total, plain + 2.0)
    assert set(more.terms) == {"reconstruction", "kl", "commitment"}


@pytest.mark.parametrize("per", ["dimension", "group"])
def test_free_bits_floor_the_batch_average_and_keep_gradients_of_single_samples(parts, per: str) -> None:
    kl, log_px = parts
    groups = kl.mean(0) if per == "dimension" else kl.sum(1).mean(0, keepdim=True)
    floor = groups.sort().values[-1].item() - 1e-3 if per == "dimension" else groups.item() + 1
    loss = ELBO(free_bits=floor, free_bits_per=per)(output(kl, log_px), {"beta": 3.0})
    assert torch.allclose(loss.total, -log_px.mean() + 3.0 * groups.clamp(min=floor).sum())
    gradient = torch.autograd.grad(loss.total, kl)[0]
    above = (groups > floor).to(kl.dtype).expand_as(kl)
    assert torch.allclose(gradient, 3.0 * above / 5)


@pytest.mark.parametrize("target", [0.2, 9.0])
def test_capacity_pulls_the_rate_to_its_target_from_both_sides(parts, target: float) -> None:
    kl, log_px = parts
    objective = ELBO(beta=4.0, capacity=target)
    loss = objective(output(kl, log_px), objective.weights(0))
    assert torch.allclose(loss.total, -log_px.mean() + 4.0 * (kl.sum(1).mean() - target).abs())
    gradient = torch.autograd.grad(loss.total, kl)[0]
    assert torch.allclose(gradient, torch.full_like(gradient, math.copysign(4.0 / 5, kl.sum(1).mean().item() - target)))


def test_gradient_reaches_every_parameter_and_agrees_with_finite_differences() -> None:
    torch.manual_seed(0)
    model = vaelab.VAE(nn.Linear(4, 4), nn.Linear(2, 4), likelihood="bernoulli", latent=2).double()
    x, noise = torch.rand(6, 4, dtype=torch.float64).round(), torch.randn(3, 6, 2, dtype=torch.float64)
    parameters = list(model.parameters())

    def loss(*values: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in model.named_parameters()]

        class Draw(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self) -> torch.Tensor:
                return ELBO(beta=0.7)(self.model.draw(x, 3, noise), {"beta": 0.7}).total

        replaced = {f"model.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Draw(), replaced)

    assert torch.autograd.gradcheck(loss, tuple(parameters))
    loss(*parameters).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parameters)


SHAPES = {
    "linear": lambda t: t,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "cyclical": lambda t: min(1.0, 2 * t),
}


@pytest.mark.parametrize("shape", ["linear", "cosine", "sigmoid"])
def test_schedules_rise_from_start_to_end_and_stay(shape: str) -> None:
    schedule = getattr(schedules, shape)(0.5, 2.0, 100)
    values = [schedule(step) for step in range(150)]
    assert values[0] == 0.5
    assert values[100:] == [2.0] * 50
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert schedule(50) == pytest.approx(1.25)
    if shape in SHAPES:
        assert values[:100] == pytest.approx([0.5 + 1.5 * SHAPES[shape](t / 100) for t in range(100)])


def test_a_cyclical_schedule_restarts_each_cycle() -> None:
    schedule = schedules.cyclical(0.0, 1.0, 10, cycles=3)
    assert [schedule(step) for step in (0, 10, 20)] == [0.0, 0.0, 0.0]
    assert [schedule(step) for step in (5, 9, 15, 29, 30, 99)] == [1.0] * 6
    assert schedule.ends == 30


@pytest.mark.parametrize("anneal", ["linear", "cosine", "sigmoid", "cyclical"])
def test_the_config_makes_the_same_schedule(anneal: str) -> None:
    config = build_config({"objective": {"anneal": anneal, "warmup_steps": 20, "beta": 4.0, "cycles": 2}}).objective
    objective = build_objective(config)
    assert objective.weights(0)["beta"] == 0.0
    assert objective.weights(40)["beta"] == 4.0
    assert objective.warmup_ends == (40 if anneal == "cyclical" else 20)


@pytest.mark.parametrize("arguments", [{"beta": -1.0}, {"beta": math.nan}, {"free_bits": 1, "capacity": 2}])
def test_wrong_weights_are_refused_by_name(arguments: dict) -> None:
    with pytest.raises(BadInput, match=r"beta|capacity"):
        ELBO(**arguments)


def test_nan_beta_in_a_config_is_refused() -> None:
    with pytest.raises(BadInput, match=r"objective.beta"):
        build_config({"objective": {"beta": math.nan}})
