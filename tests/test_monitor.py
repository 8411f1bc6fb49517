"""The monitor: its numbers against closed forms and brute force, its judgement on real loops, and both callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_wine
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vaelab.core.errors import BadInput
from vaelab.core.finding import SEVERITIES, Finding
from vaelab.monitoring.looks import Looks
from vaelab.monitoring.monitor import Monitor
from vaelab.monitoring.units import Census
from vaelab.monitoring.windows import MOST_WINDOWS, Window

DIGITS = torch.tensor(load_digits().data / 16, dtype=torch.float32)
WINE = torch.tensor(load_wine().data, dtype=torch.float32)
WINE = (WINE - WINE.mean(0)) / WINE.std(0)


class Plain(nn.Module):
    """A VAE as people write it; returns nats per sample, and the head."""

    def __init__(self, width: int = 64, latent: int = 8, gaussian: bool = False) -> None:
        super().__init__()
        self.gaussian = gaussian
        self.encoder = nn.Sequential(nn.Linear(width, 64), nn.ReLU())
        self.mu, self.log_var = nn.Linear(64, latent), nn.Linear(64, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.encoder(x)
        mu, log_var = self.mu(h), self.log_var(h)
        out = self.decoder(mu + (0.5 * log_var).exp() * torch.randn_like(mu))
        nats = F.binary_cross_entropy_with_logits(out, x, reduction="none")
        nats = 0.5 * (out - x).square() / 0.25 if self.gaussian else nats
        kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var)
        return {"reconstruction": nats.sum(1), "kl": kl.sum(1), "mu": mu, "log_var": log_var}


def batches(x: Tensor, steps: int, size: int = 64) -> Iterator[Tensor]:
    coins = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield x[torch.randint(len(x), (size,), generator=coins)]


def train(
    x: Tensor, monitor: Monitor | None, *, steps: int = 400, beta: Any = 1.0, rate: float = 2e-3, **shape: Any
) -> nn.Module:
    """A plain loop."""
    torch.manual_seed(0)
    model = Plain(x.shape[1], **shape)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for step, rows in enumerate(batches(x, steps)):
        weight = beta(step) if callable(beta) else beta
        seen = model(rows)
        loss = (seen["reconstruction"] + weight * seen["kl"]).mean()
        optimizer.zero_grad()
        loss.backward()
        if monitor is not None:
            monitor.update(step, loss=loss, **seen, model=model, beta=weight, learning_rate=rate, batch=rows)
        optimizer.step()
    return model


def graver(findings: list[Finding]) -> list[str]:
    """Codes of warnings and errors."""
    return [f.code for f in findings if SEVERITIES.index(f.severity) >= SEVERITIES.index("warning")]


# Numbers ----------------------------------------------------------------------------------------------------------


def test_the_posterior_s_numbers_are_those_of_all_rows() -> None:
    torch.manual_seed(0)
    heads = [(3 + torch.randn(size, 5), torch.randn(size, 5)) for size in (8, 3, 17, 1)]
    monitor = Monitor(5, every=4)
    for step, (mu, log_var) in enumerate(heads):
        monitor.update(step, mu=mu, log_var=log_var)
    mu, log_var = (torch.cat(part).double() for part in zip(*heads, strict=True))
    exact = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)).mean(0).numpy()
    series = monitor.trace.series
    np.testing.assert_allclose(series["kl_per_dimension"].last, exact, rtol=1e-5)
    np.testing.assert_allclose(series["kl"].last, exact.sum(), rtol=1e-5)
    np.testing.assert_allclose(series["mean_variance"].last, mu.numpy().var(0), rtol=1e-5)
    np.testing.assert_allclose(series["posterior_variance"].last, log_var.exp().mean(0).numpy(), rtol=1e-5)


FORMS = {
    "float": lambda v: float(v.mean()),
    "scalar": lambda v: v.mean(),
    "rows": lambda v: v,
    "array": lambda v: v.numpy(),
    "float32": lambda v: np.float32(v.mean()),
    "with a graph": lambda v: v.clone().requires_grad_(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_number_may_come_in_any_form(form: str) -> None:
    values = torch.arange(12.0).reshape(3, 4)
    monitor = Monitor(every=3)
    for step, row in enumerate(values):
        monitor.update(step, loss=FORMS[form](row), kl=FORMS[form](row))
    series = monitor.trace.series
    assert (series["loss"].last, series["kl"].last, series["loss_max"].last) == (5.5, 5.5, 9.5)
    assert series["loss"].steps.tolist() == [2.0]


def test_kl_per_dimension_and_deviations_are_taken_too() -> None:
    kl = torch.rand(6, 3)
    monitor = Monitor(every=1)
    monitor.update(0, kl=kl)
    np.testing.assert_allclose(monitor.trace.series["kl_per_dimension"].last, kl.mean(0), rtol=1e-6)
    assert monitor.trace.series["kl"].last == pytest.approx(kl.sum(1).mean().item())
    other = Monitor(every=1)
    other.update(0, mu=np.zeros((4, 2)), std=np.full((4, 2), 0.5))
    np.testing.assert_allclose(other.trace.series["posterior_variance"].last, [0.25, 0.25], rtol=1e-6)


def test_nothing_keeps_a_graph_alive() -> None:
    model, monitor = Plain(), Monitor(every=100)
    seen = model(DIGITS[:8])
    monitor.update(0, loss=seen["kl"].mean(), **seen)
    kept = [v for values in monitor._pending.values() for v in values if isinstance(v, Tensor)]
    assert kept and all(v.grad_fn is None for v in kept)


@pytest.mark.parametrize("steps", [MOST_WINDOWS - 1, MOST_WINDOWS, 3 * MOST_WINDOWS + 7])
def test_merged_windows_are_exact(steps: int) -> None:
    values = np.random.default_rng(0).normal(size=steps)
    monitor = Monitor(every=1)
    for step, value in enumerate(values):
        monitor.update(step, loss=value)
    _ = monitor.trace
    windows = [window for window in (*monitor._windows.closed, monitor._windows.current) if window.steps]
    assert len(windows) <= MOST_WINDOWS
    whole = Window()
    for window in windows:
        whole = whole.merged(window)
    assert whole.counts["loss"] == whole.steps == steps
    assert whole.points()["loss"] == pytest.approx(values.mean(), abs=1e-12)
    assert whole.points()["loss_max"] == values.max()
    assert whole.step == steps - 1


def test_codes() -> None:
    coins = torch.Generator().manual_seed(0)
    every, few = Monitor(every=5), Monitor(every=5)
    for step in range(20):
        every.update(step, codes=torch.randint(64, (8, 4), generator=coins), codebook_size=64)
        few.update(step, codes=torch.randint(3, (8, 4), generator=coins), codebook_size=64)
    assert every.trace.series["codes_used"].last == pytest.approx(1.0, abs=0.1)
    assert few.trace.series["codes_used"].last == pytest.approx(3 / 64, rel=0.1)
    assert few.trace.series["code_perplexity"].last == pytest.approx(3, rel=0.05)
    assert graver(every.findings) == [] and graver(few.findings) == ["TR140"]


# Looks at the model -------------------------------------------------------------------------------------------------


def test_a_look_sees_the_step_s_size_and_the_gradient_s_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 500), nn.Tanh(), nn.Linear(500, 64))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    looks = Looks(model)
    looks.start()
    before = torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
    (model(DIGITS[:32]) - DIGITS[:32]).square().mean().backward()
    optimizer.step()
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    seen = looks.end()
    assert seen["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    # a hundredth of the places hold a hundredth of the squares: an estimate
    assert seen["update_ratio"] == pytest.approx(((after - before).norm() / after.norm()).item(), rel=0.05)
    assert looks.unreached == []


def test_dead_and_saturated_units_against_brute_force() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 40), nn.ReLU(), nn.Linear(40, 30), nn.Tanh(),
        nn.Linear(30, 64), nn.Sigmoid(),
    )  # fmt: skip
    model[0].bias.data[:2] = -50.0
    model[3].bias.data[:7] = -50.0
    model[5].weight.data *= 60
    model[7].bias.data.fill_(-20.0)  # black pixels: an output, whose saturation is no fault
    x = DIGITS[:32].reshape(-1, 1, 8, 8)
    census = Census(model)
    model(x)
    with torch.no_grad():
        model(100 * x)  # an evaluation is not counted
    model(x)
    seen = census.close()
    images, units, bounded = (model[: last + 1](x).detach() for last in (1, 4, 6))
    dead = sum(bool((images[:, c] == 0).all()) for c in range(6))
    dead += sum(bool((units[:, u] == 0).all()) for u in range(40))
    assert dead >= 9 and (bounded.abs() > 0.98).any() and seen["dead_units"] == pytest.approx(dead / 46)
    assert seen["saturated_units"] == pytest.approx((bounded.abs() > 0.98).float().mean().item())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_parameter_that_is_never_reached_is_named() -> None:
    class Two(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(3, 3)

    torch.manual_seed(0)
    model, monitor = Two(), Monitor()
    model.mu.bias.requires_grad_(False)
    for step, rows in enumerate(batches(DIGITS, 60)):
        model.zero_grad()
        model(rows)["reconstruction"].mean().backward()
        monitor.update(step, model=model)
    (reached, frozen) = (f for f in monitor.findings if f.code in ("TR141", "TR142"))
    assert (reached.code, reached.measured, reached.severity) == ("TR141", 2.0, "warning")
    assert "unused.weight, unused.bias" in reached.title
    assert frozen.severity == "info" and 0 < frozen.measured < 1 and "mu.bias" in frozen.title


def test_gradients_that_were_cleared_say_nothing() -> None:
    model, monitor = Plain(), Monitor()
    for step in range(60):
        model.zero_grad(set_to_none=step % 2 == 0)
        monitor.update(step, model=model)
    assert graver(monitor.findings) == [] and "gradient_norm" not in monitor.trace.series


def test_watching_does_not_change_the_weights() -> None:
    watched, alone = (train(DIGITS, monitor, steps=120) for monitor in (Monitor(8, every=7), None))
    for (name, a), b in zip(watched.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# What is not finite -------------------------------------------------------------------------------------------------


def test_a_nan_in_the_data_is_found_without_a_replay() -> None:
    monitor = Monitor()
    rows = DIGITS[:8].clone()
    rows[5, 3] = torch.nan
    for step in range(50):
        monitor.update(step, loss=torch.tensor(torch.nan if step == 30 else 1.0), batch=rows)
    (event,) = monitor.events
    assert (event["step"], event["cause"], event["rows"]) == (30, "data", [5])
    (finding,) = (f for f in monitor.findings if f.code == "TR130")
    assert finding.severity == "warning" and finding.measured == 1.0


def test_a_replay_names_the_layer() -> None:
    torch.manual_seed(0)
    model, monitor = Plain(), Monitor()
    rows = DIGITS[:8]

    def loss(x: Tensor) -> Tensor:
        seen = model(x)
        return (seen["reconstruction"] + seen["kl"]).mean()

    for step in range(40):
        if step == 35:
            model.log_var.bias.data.fill_(300.0)
        monitor.update(step, loss=loss(rows), model=model, batch=rows, replay=loss)
    assert [event["step"] for event in monitor.events] == [35, 36, 37, 38, 39]
    assert {event["cause"] for event in monitor.events} == {"variance"}
    assert {event["layer"] for event in monitor.events} == {"log_var (Linear)"}
    (finding,) = (f for f in monitor.findings if f.severity == "error")
    assert (finding.code, finding.measured) == ("TR132", 5.0)


def test_a_variance_is_blamed_from_the_head_alone() -> None:
    monitor = Monitor()
    mu, log_var = torch.zeros(8, 2), torch.full((8, 2), 200.0)
    monitor.update(0, loss=float("inf"), mu=mu, log_var=log_var)
    monitor.update(1, loss=float("nan"), mu=mu, std=torch.zeros(8, 2))
    assert [event["cause"] for event in monitor.events] == ["variance", "variance"]


def test_numbers_on_a_device_are_looked_at_once_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelab.monitoring.monitor._number", lambda value: torch.as_tensor(value).detach())
    monitor, model = Monitor(every=10), nn.Linear(64, 1)
    rows = DIGITS[:8].clone()
    rows[2] = torch.inf
    for step in range(15):
        monitor.update(step, loss=torch.tensor(torch.nan if step > 6 else 2.0), model=model, batch=rows)
    assert len(monitor.events) == 3 and monitor.events[0]["step"] == 9 and monitor.events[0]["rows"] == [2]
    trace = monitor.trace
    assert len(trace.events) == 8 and {event["cause"] for event in trace.events} == {"data"}
    assert trace.series["loss"].values.tolist() == [2.0]


def test_nan_to_the_end_is_an_error_and_bounded() -> None:
    monitor = Monitor()
    for step in range(3000):
        monitor.update(step, loss=1.0 if step < 100 else float("nan"), learning_rate=1e-3)
    assert len(monitor.events) == 1000 and monitor.events[-1]["step"] == 2999
    assert [f.severity for f in monitor.findings if f.code == "TR133"] == ["error"]


# Judgement on real loops ----------------------------------------------------------------------------------------------

HEALTHY: dict[str, tuple[Tensor, dict[str, Any]]] = {
    "digits": (DIGITS, {}),
    "digits, warm-up": (DIGITS, {"beta": lambda step: min(1.0, step / 200)}),
    "digits, low rate": (DIGITS, {"rate": 3e-4}),
    "digits, two latents": (DIGITS, {"latent": 2}),
    "wine": (WINE, {"latent": 4, "gaussian": True}),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_loop_is_left_in_peace(name: str) -> None:
    x, settings = HEALTHY[name]
    monitor = Monitor()
    train(x, monitor, **settings)
    assert graver(monitor.findings) == [], monitor.report()


def test_a_low_kl_while_beta_is_small_is_no_collapse() -> None:
    warm, cold = Monitor(warmup_steps=1000), Monitor()
    for step in range(200):
        head = {"mu": torch.zeros(4, 2), "log_var": torch.zeros(4, 2), "loss": 40.0}
        warm.update(step, **head, beta=step / 1000)
        cold.update(step, **head, beta=min(1.0, step / 50))
    assert graver(cold.findings) == ["TR101"]
    assert cold.trace.warmup_ends == pytest.approx(50, abs=10)
    assert warm.trace.warmup_ends == 1000


FAILING: dict[str, tuple[str, dict[str, Any]]] = {
    "beta of 60": ("TR121", {"beta": 60.0}),
    "a rate of 3": ("TR131", {"rate": 3.0}),
    "a rate of 0.1": ("TR123", {"rate": 0.1}),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_loop_is_named(name: str) -> None:
    code, settings = FAILING[name]
    monitor = Monitor(8)
    train(DIGITS, monitor, **settings)
    errors = [f.code for f in monitor.findings if f.severity == "error"]
    assert errors and errors[0].startswith(code), monitor.report()
    assert errors[0] in str(monitor) and "400 steps seen" in str(monitor)


def test_held_out_numbers_become_series() -> None:
    monitor = Monitor(every=10)
    for step in range(100):
        held_out = {"loss": torch.tensor(5.0 + step), "kl": 2.0} if step % 20 == 19 else None
        monitor.update(step, loss=1.0, held_out=held_out)
    monitor.update(100, held_out=7.0)
    series = monitor.trace.series
    assert series["held_out_loss"].values.tolist() == [24, 44, 64, 84, 104, 7]
    assert series["held_out_kl"].values.tolist() == [2.0] * 5


# Bad input ----------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "latent size": ({"latent_dim": 3}, {"mu": torch.zeros(4, 2), "log_var": torch.zeros(4, 2)}, "mu: got shape (4, 2)"),
    "held-out name": ({}, {"held_out": {"lss": 1.0}}, "held_out: got lss; no such number; did you mean loss?"),
    "codebook": ({}, {"codes": torch.zeros(3)}, "codebook_size: is needed beside codes"),
    "zero": ({"every": 0}, {}, "every: got 0; must be a whole number"),
    "truth": ({"total_steps": True}, {}, "total_steps: got True"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_refused(name: str) -> None:
    settings, given, text = WRONG[name]
    with pytest.raises(BadInput) as error:
        Monitor(**settings).update(0, **given)
    assert str(error.value).startswith(text)
