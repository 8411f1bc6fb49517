"""The culprit of a non-finite step: each cause is planted in a real model and must be named, with layer and rows."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from vaelab.core.config import build_config
from vaelab.models.build import build_model
from vaelab.monitoring.culprit import GROWN, find_culprit, gain
from vaelab.objectives.elbo import ELBO

ROWS, LATENT = 16, 4


class Plain(nn.Module):
    """A VAE as a stranger writes it: no clamp, exp of half the log-variance, batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1))
        self.mu, self.log_var = nn.Linear(32, LATENT), nn.Linear(32, LATENT)
        self.decoder = nn.Sequential(nn.Linear(LATENT, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        mu, log_var = self.mu(h), self.log_var(h)
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(1)
        return (F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1) + kl).mean()


@pytest.fixture
def x() -> Tensor:
    return torch.tensor(load_digits().data[:ROWS] / 16, dtype=torch.float32)


@pytest.fixture
def model() -> Plain:
    torch.manual_seed(0)
    return Plain()


def nan_pixel(model: Plain, x: Tensor) -> None:
    x[3, 17] = torch.nan


def infinite_row(model: Plain, x: Tensor) -> None:
    x[5] = torch.inf


def sentinel(model: Plain, x: Tensor) -> None:
    x[7, 2] = 1e30


def unscaled(model: Plain, x: Tensor) -> None:
    x *= 1e20


def infinite_weight(model: Plain, x: Tensor) -> None:
    model.decoder[2].weight.data[0, 0] = torch.inf


def nan_bias(model: Plain, x: Tensor) -> None:
    model.mu.bias.data[1] = torch.nan


def grown(model: Plain, x: Tensor) -> None:
    model.log_var.weight.data *= 1e4


def log_variance_200(model: Plain, x: Tensor) -> None:
    model.log_var.bias.data[2] = 200.0


def log_variance_of_two_rows(model: Plain, x: Tensor) -> None:
    model.log_var.register_forward_hook(lambda _m, _i, out: out + 500 * F.one_hot(torch.tensor(4), ROWS)[:, None])


PLANTED: dict[str, tuple[Callable[[Plain, Tensor], None], str, str | None, list[int]]] = {
    "nan pixel": (nan_pixel, "data", None, [3]),
    "infinite row": (infinite_row, "data", None, [5]),
    "a sentinel in one row": (sentinel, "data", None, []),
    "unscaled data": (unscaled, "data", None, []),
    "infinite weight": (infinite_weight, "rate", "decoder.2 (Linear)", []),
    "nan bias": (nan_bias, "rate", "mu (Linear)", []),
    "grown weights": (grown, "rate", None, []),
    "log-variance 200": (log_variance_200, "variance", "log_var (Linear)", []),
    "log-variance of one row": (log_variance_of_two_rows, "variance", "log_var (Linear)", [4]),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_cause_is_named(name: str, model: Plain, x: Tensor) -> None:
    plant, cause, layer, rows = PLANTED[name]
    plant(model, x)
    found = find_culprit(model, model, x)
    assert found["cause"] == cause, found
    assert layer is None or found["layer"] == layer, found
    assert not rows or found["rows"] == rows, found
    assert found["text"] and json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_numbers_are_those_of_the_call(model: Plain, x: Tensor) -> None:
    model.log_var.weight.data.zero_()
    model.log_var.bias.data.fill_(200.0)
    found = find_culprit(model, model, x)
    assert found["operation"] == "ExpBackward0"
    assert (found["largest_input"], found["largest_weight"]) == (100.0, 200.0)  # half the log-variance


def test_a_sound_step_is_gone(model: Plain, x: Tensor) -> None:
    assert find_culprit(model, model, x)["cause"] == "gone"


def test_a_passing_fault_is_gone(model: Plain, x: Tensor) -> None:
    torch.manual_seed(1)
    calls = iter([torch.nan, 1.0])
    assert not (model(x) * next(calls)).isfinite()
    assert find_culprit(lambda batch: model(batch) * next(calls), model, x)["cause"] == "gone"


def test_without_a_batch(model: Plain, x: Tensor) -> None:
    log_variance_200(model, x)
    assert find_culprit(lambda: model(x), model)["cause"] == "variance"


def test_finite_loss_with_a_gradient_that_is_not(x: Tensor) -> None:
    class Root(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h.clamp(min=0).sqrt()

    x[:, 0] = 0.5
    model = nn.Sequential(nn.Linear(64, 8), Root(), nn.Linear(8, 1))
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[0].bias, 1.0)
    model[0].weight.data[0, 0] = -2.0  # the first unit is exactly 0 on every row
    x[1::2, 0] = 0.0  # but for every other one
    assert model(x).isfinite().all()
    found = find_culprit(lambda batch: model(batch).mean(), model, x)
    assert (found["cause"], found["layer"], found["operation"]) == ("layer", "1 (Root)", "SqrtBackward0"), found
    assert found["rows"] == list(range(0, ROWS, 2))


def test_a_variance_of_zero_is_blamed_on_the_exponential(x: Tensor) -> None:
    model = nn.Linear(64, 2)

    def loss(batch: Tensor) -> Tensor:
        mean, log_var = model(batch).chunk(2, 1)
        return ((mean - 1).square() / (log_var - 200).exp()).mean()

    found = find_culprit(loss, model, x)
    assert (found["cause"], found["operation"], found["layer"]) == ("variance", "DivBackward0", "model (Linear)"), found
    assert "exp" in found["text"]


def test_a_distribution_that_refuses_its_scale(x: Tensor) -> None:
    model = nn.Linear(64, 2)

    def loss(batch: Tensor) -> Tensor:
        mean, log_std = model(batch).chunk(2, 1)
        return -torch.distributions.Normal(mean, (log_std - 200).exp()).log_prob(torch.ones(())).mean()

    with pytest.raises(ValueError, match="scale"):
        loss(x)
    assert find_culprit(loss, model, x)["cause"] == "variance"


def test_masked_infinities_are_no_culprits(x: Tensor) -> None:
    model = nn.Linear(64, 8)

    def loss(batch: Tensor) -> Tensor:
        scores = model(batch).masked_fill(torch.eye(8)[0] > 0, -torch.inf).softmax(1)
        return (scores.sum(1) + (scores - 2).log().sum(1)).mean()  # the log of a negative number

    found = find_culprit(loss, model, x)
    assert (found["cause"], found["operation"]) == ("layer", "LogBackward0"), found


def test_a_gradient_too_large_for_its_norm(x: Tensor) -> None:
    model = nn.Linear(64, 8)
    found = find_culprit(lambda batch: 1e30 * model(batch).mean(), model, x)
    assert (found["cause"], found["layer"]) == ("layer", "model (Linear)"), found


def test_everything_stays_as_it_was(model: Plain, x: Tensor) -> None:
    log_variance_200(model, x)
    model.decoder.eval()
    model.mu.weight.grad = torch.ones_like(model.mu.weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    find_culprit(model, model, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.mu.weight.grad, torch.ones(LATENT, 32))
    assert [p.grad is None for p in model.parameters()].count(False) == 1
    assert model.training and not model.decoder.training
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


@pytest.mark.parametrize(("rate", "cause"), [(1e-3, "gone"), (30.0, "rate")])
def test_our_own_model_under_a_rate(rate: float, cause: str, x: Tensor) -> None:
    torch.manual_seed(0)
    parts = {"latent": 4, "hidden": [32], "encoder": "mlp", "decoder": "mlp"}
    config = build_config({"model": parts, "likelihood": "gaussian"})
    model, objective = build_model(config, (64,)), ELBO()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)

    def loss(batch: Tensor) -> Tensor:
        return objective(model.draw(batch), {"beta": 1.0}).total

    for _ in range(20):
        value = loss(x)
        optimizer.zero_grad()
        value.backward()
        if not all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None) or not value.isfinite():
            break
        optimizer.step()
    assert find_culprit(loss, model, x)["cause"] == cause


def test_gain_is_what_a_layer_does_to_the_size_of_its_input() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(400, 300, bias=False)
    nn.init.normal_(layer.weight, std=0.2)
    out = layer(torch.randn(2000, 400))
    assert float(gain(layer.weight)) == pytest.approx(out.detach().square().mean().sqrt().item(), rel=0.02)
    assert float(gain(layer.weight)) == pytest.approx(4.0, rel=0.02) and GROWN > 4
