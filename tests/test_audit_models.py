"""The audit of whole models: parts found in strangers' code, mistakes caught, correct code left in peace."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import strange_models as strange
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelab.auditing.laws import HEADS
from vaelab.auditing.models import model as auditing_model
from vaelab.auditing.models.hooks import Replay, Tape, grown_by
from vaelab.auditing.models.model import Bench, audit_model
from vaelab.auditing.models.sampler import audit_sampler, clamp_of, measured_reading, read_head
from vaelab.auditing.models.subject import Subject
from vaelab.core.errors import BadInput
from vaelab.core.finding import SEVERITIES


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def loud(report: Any) -> list[str]:
    """Findings above information."""
    return [str(f) for f in report.findings if SEVERITIES.index(f.severity) > SEVERITIES.index("info")]


# ------------------------------------------------------------------------------------------------- right and wrong ones
@pytest.mark.parametrize("kind", strange.RIGHT, ids=lambda kind: kind.__name__)
def test_right_models_raise_nothing_above_information_and_have_beta_one(kind: type[nn.Module]) -> None:
    report = audit_model(made(kind))
    assert not loud(report)
    assert report.effective_beta == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("kind", strange.BEYOND, ids=lambda kind: kind.__name__)
def test_objectives_beyond_a_fixed_normal_prior_are_named_and_not_judged(kind: type[nn.Module]) -> None:
    report = audit_model(made(kind))
    assert not loud(report)
    assert any("could not be taken apart" in note for note in report.notes)
    assert "could not be taken apart" in report.verdict


@pytest.mark.parametrize(("kind", "code"), strange.MUTATIONS.items(), ids=lambda item: getattr(item, "__name__", item))
def test_every_mutation_is_caught_with_its_cause(kind: type[nn.Module], code: str) -> None:
    found = [f for f in audit_model(made(kind)).findings if f.code == code]
    assert found and max(SEVERITIES.index(f.severity) for f in found) >= SEVERITIES.index("warning")
    assert all(f.measured is not None and f.unit is not None and f.evidence and f.why and f.advice for f in found)


def test_noise_in_evaluation_is_information_and_absent_where_the_mean_is_returned() -> None:
    class Mean(strange.Plain):
        def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
            return super().reparameterize(mu, logvar) if self.training else mu

    noisy, still = (audit_model(made(kind)) for kind in (strange.Plain, Mean))
    assert [f.severity for f in noisy.findings if f.code == "SA004"] == ["info"]
    assert "SA004" not in still.codes


@pytest.mark.parametrize(
    ("kind", "ratio"),
    [(strange.VarianceAsStd, np.exp(-1)), (strange.QuarterLog, np.exp(0.5)), (strange.TenthNoise, 0.1)],
    ids=lambda item: getattr(item, "__name__", ""),
)  # fmt: skip
def test_the_noise_scale_is_measured_within_its_interval(kind: type[nn.Module], ratio: float) -> None:
    """At log-variance -2 the variance is too small a deviation by e, exp(logvar / 4) too large by sqrt(e)."""
    finding = next(f for f in audit_model(made(kind)).findings if f.code == "SA001")
    assert finding.interval is not None and abs(finding.measured - ratio) < 2 * finding.interval


def test_a_parameter_that_no_given_optimiser_has() -> None:
    model = made(strange.Plain)
    left = audit_model(model, optimizer=torch.optim.SGD(model.dec.parameters(), 0.1))
    assert "GR003" in [f.code for f in left.findings if f.severity == "error"]
    assert not loud(audit_model(model, optimizer=[torch.optim.SGD(model.parameters(), 0.1)]))


def test_data_that_the_decoder_cannot_reach() -> None:
    class Squared(strange.Plain):
        def loss_function(self, recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
            return (0.5 * ((recon_x - x) ** 2).sum() + strange.kl(mu, logvar).sum()) / len(x)

    wide, unit = 2 * torch.rand(50, strange.P) - 1, torch.rand(50, strange.P)
    finding = next(f for f in audit_model(made(Squared), data=wide).findings if f.code == "RE003")
    assert finding.measured == pytest.approx(float((wide < -0.02).double().mean()))
    assert "RE003" not in audit_model(made(Squared), data=unit).codes


@pytest.mark.parametrize(
    ("given", "reach"),
    [(lambda u: 255 * u, 255), (lambda u: (255 * u).to(torch.uint8), 255), (lambda u: 2 * u - 1, -1)],
    ids=["floats to 255", "bytes", "around zero"],
)
def test_data_beyond_a_bernoulli_are_one_error_and_no_refusal(given: Any, reach: float) -> None:
    unit = torch.linspace(0, 1, 9 * strange.P)[torch.randperm(9 * strange.P)].reshape(9, strange.P)
    report = audit_model(made(strange.Plain), data=(given(unit), torch.zeros(9)))
    error = [f for f in report.findings if f.severity == "error"]
    assert [f.code for f in error] == ["RE003"] and report.effective_beta == pytest.approx(1)
    assert error[0].measured == pytest.approx(reach, rel=0.2)


def test_a_collapsed_posterior_is_told_from_given_data_alone() -> None:
    """KL of N(m, s^2) from N(0, 1) in each of D latents, by its closed form."""
    model, x = made(strange.Plain), torch.rand(40, strange.P)
    assert "MO001" not in audit_model(model, data=x).codes
    with torch.no_grad():
        for layer, bias in ((model.fc_mu, 0.03), (model.fc_logvar, 0.02)):
            layer.weight.zero_()
            layer.bias.fill_(bias)
    found = [f for f in audit_model(model, data=x).findings if f.code == "MO001"]
    assert [f.severity for f in found] == ["warning"]
    assert found[0].measured == pytest.approx(strange.D * 0.5 * (0.03**2 + np.exp(0.02) - 1 - 0.02), rel=1e-4)
    assert "MO001" not in audit_model(model).codes


@pytest.mark.parametrize(
    ("kind", "code"),
    [(strange.OneHead, "KL005"), (strange.SharedOverRows, "SA002"), (strange.OneNumber, "SA002"),
     (strange.FreeNoise, "RE007")],
    ids=lambda item: getattr(item, "__name__", item),
)  # fmt: skip
def test_one_cause_is_one_error(kind: type[nn.Module], code: str) -> None:
    assert [f.code for f in audit_model(made(kind)).findings if f.severity == "error"] == [code]


def test_noise_shared_over_rows_does_not_look_shared_over_latents() -> None:
    """A hundred samplers: draws are only as many as calls, so an accident among 20 latents is easily had."""
    for trial in range(100):

        def sample(mu: np.ndarray, head: np.ndarray, seed: int, start: int = 1000 * trial) -> np.ndarray:
            return mu + np.exp(0.5 * head) * np.random.default_rng(start + seed).normal(size=(1, mu.shape[1]))

        (found,) = audit_sampler(sample, 64, 20, HEADS[0], "test")
        assert found.title.endswith("shared over the batch")


def test_the_order_of_a_dictionary_and_an_order_that_agrees_are_no_finding() -> None:
    class ByName(strange.Plain):
        def forward(self, x: Tensor) -> Any:
            recon, mu, logvar = super().forward(x)
            return {"logvar": logvar, "mu": mu, "recon": recon}

    class Between(strange.Plain):
        def forward(self, x: Tensor) -> Any:
            recon, mu, logvar = super().forward(x)
            return mu, recon, logvar

    assert not any(loud(audit_model(made(kind))) for kind in (ByName, Between))


def test_a_list_of_layers_that_an_optimiser_has_or_that_is_frozen_is_meant() -> None:
    model = made(strange.PlainList)
    every = [*model.parameters(), *model.more[0].parameters()]
    assert not loud(audit_model(model, optimizer=torch.optim.SGD(every, 0.1)))
    left = audit_model(model, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    assert [f.code for f in left.findings if f.severity == "error"] == ["GR003"]
    model.more[0].requires_grad_(False)
    assert not loud(audit_model(model))


def test_a_class_gives_the_same_report_in_every_run_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    first, second = (audit_model(strange.Plain).to_json() for _ in range(2))
    assert first == second and torch.equal(before, torch.get_rng_state())


def test_what_there_was_no_time_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing_model, "BUDGET", 0.0)
    report = audit_model(made(strange.VarianceAsStd))
    assert "not looked at: the draws of z" in report.verdict and "SA001" not in report.codes


def test_a_step_is_recorded_a_few_times_and_not_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made_at: list[int] = []
    record = Subject.record
    monkeypatch.setattr(Subject, "record", lambda self, x, seed=0: made_at.append(len(x)) or record(self, x, seed))
    audit_model(made(strange.Plain))
    assert 0 < len(made_at) < 20


def test_a_module_that_is_a_loss_is_audited_by_its_inputs() -> None:
    class Loss(nn.Module):
        def forward(self, outputs: Any, target: Tensor) -> Tensor:
            return strange.bernoulli_loss(outputs[0], target, *outputs[1:])

    assert audit_model(Loss(), inputs="(output mu head) x").effective_beta == pytest.approx(1)


# ------------------------------------------------------------------------------------------- the loss as a function
def given_tensors(rows: int, pixels: tuple[int, ...], latents: tuple[int, ...]) -> list[Tensor]:
    tools = torch.Generator().manual_seed(1)
    shapes = ((rows, *pixels), (rows, *pixels), (rows, *latents), (rows, *latents))
    tensors = [torch.rand(shape, generator=tools, dtype=torch.float64) * 0.8 + 0.1 for shape in shapes]
    return [tensors[0], *(t.requires_grad_() for t in tensors[1:])]


def by_hand(x: Tensor, output: Tensor, mu: Tensor, logvar: Tensor, reconstruction: Any) -> Tensor:
    return (reconstruction(output, x).sum() - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()) / len(x)


def bce(output: Tensor, x: Tensor) -> Tensor:
    return -(x * output.log() + (1 - x) * (1 - output).log())


def logits(output: Tensor, x: Tensor) -> Tensor:
    return F.softplus(output) - x * output


def square(output: Tensor, x: Tensor) -> Tensor:
    return 0.5 * (x - output) ** 2


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize(
    ("kind", "reconstruction", "pixels", "latents"),
    [(strange.Plain, bce, (12,), (4,)), (strange.Lightning, bce, (12,), (4,)), (strange.Manual, bce, (12,), (4,)),
     (strange.Named, bce, (12,), (4,)), (strange.Denoising, bce, (12,), (4,)),
     (strange.ManySamples, logits, (12,), (4,)),
     (strange.Spatial, square, (3, 28, 28), (3, 7, 7)), (strange.Conv, logits, (1, 28, 28), (6,))],
    ids=lambda item: getattr(item, "__name__", ""),
)  # fmt: skip
def test_the_models_step_with_parts_given_is_the_loss_by_hand(
    kind: type[nn.Module], reconstruction: Any, pixels: tuple[int, ...], latents: tuple[int, ...], rows: int
) -> None:
    loss = Bench.open(made(kind), None, None, None, {}, 0, 60).loss()
    tensors = given_tensors(rows, pixels, latents)
    found, expected = loss(*tensors), by_hand(*tensors, reconstruction)
    assert float(found) == pytest.approx(float(expected), rel=1e-10)
    for mine, true in zip(*(torch.autograd.grad(value, tensors[1:]) for value in (found, expected)), strict=True):
        torch.testing.assert_close(mine, true)


@pytest.mark.parametrize("kind", [strange.Plain, strange.Lightning, strange.OneSample, strange.StdHead])
def test_the_parts_are_where_the_code_has_them(kind: type[nn.Module]) -> None:
    subject = Bench.open(made(kind), None, None, None, {}, 0, 60).subject
    sizes = {role: getattr(subject.parts, role)[0].tensor.shape for role in ("mu", "head", "output")}
    assert sizes == {"mu": (7, 4), "head": (7, 4), "output": (7, 12)}
    mu, head = torch.full((7, 4), 3.0), torch.full((7, 4), 1e-9 if kind is strange.StdHead else -60.0)
    torch.testing.assert_close(subject.run({"mu": mu, "head": head}, "z", 7, 0).float(), mu, atol=1e-6, rtol=0)


def test_a_loss_given_beside_the_model() -> None:
    report = audit_model(made(strange.KeepsKl), loss=strange.loss_of_keeps_kl)
    assert not loud(report)
    assert report.effective_beta == pytest.approx(1) and report.second_head == "log-std"

    def doubled(recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 2.0) -> Tensor:
        return strange.bernoulli_loss(recon, x, mu, logvar) + (beta - 1) * strange.kl(mu, logvar).mean()

    assert audit_model(made(strange.Plain), loss=doubled, declared_beta=2).effective_beta == pytest.approx(2)


def test_keywords_of_a_loss_method_are_named_in_the_report_or_taken_from_constants() -> None:
    report = audit_model(made(strange.Starred), constants={"M_N": 0.3})
    assert not loud(report) and report.effective_beta == pytest.approx(0.3 * strange.P / 2)
    assert any("M_N = 1" in note for note in audit_model(made(strange.Starred)).notes)


def test_data_with_labels_and_classes_that_can_be_made() -> None:
    data = (torch.rand(9, strange.P), torch.eye(3).repeat(3, 1))
    assert audit_model(made(strange.Conditional), data=data).effective_beta == pytest.approx(1)
    rows = np.random.default_rng(0).random((5, 3, 4))
    assert audit_model(strange.Plain, data=rows).effective_beta == pytest.approx(1)


def test_the_installed_pyod_model() -> None:
    vae = pytest.importorskip("pyod.models.vae")
    model = vae.VAEModel(12, [8], [8], latent_dim=3)
    alone = audit_model(model)
    assert not loud(alone) and any("no loss was found" in note for note in alone.notes)
    assert "KL001" in audit_model(model, loss=vae.vae_loss).codes


# ----------------------------------------------------------------------------------------------------- leaving no trace
def state_of(model: nn.Module) -> list[Any]:
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    plain = [{k: v for k, v in vars(m).items() if isinstance(v, int | float | bool | str)} for m in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    versions = [p._version for p in model.parameters()]
    generators = [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]
    keys = [sorted(vars(m)) for m in model.modules()]
    return [[t.tolist() for t in tensors], plain, hooks, versions, generators, keys, torch.is_grad_enabled()]


@pytest.mark.parametrize("kind", [strange.Plain, strange.Conv, strange.Counting, strange.Manual, strange.KeepsKl])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_nothing_of_the_users_is_changed(kind: type[nn.Module], training: bool) -> None:
    model = made(kind).train(training)
    result = model(torch.rand(4, 1, 28, 28) if kind is strange.Conv else torch.rand(4, strange.P))
    sum(t.sum() for t in ([result] if torch.is_tensor(result) else _values(result))).backward()
    before = state_of(model)
    audit_model(model, loss=strange.loss_of_keeps_kl if kind is strange.KeepsKl else None)
    assert state_of(model) == before


def _values(result: Any) -> list[Tensor]:
    return list(result.values() if isinstance(result, dict) else result)


@pytest.mark.parametrize("call", range(1, 30, 4))
@pytest.mark.parametrize("copies", [True, False], ids=["copied", "borrowed"])
def test_nothing_is_changed_by_an_exception_in_the_middle(call: int, copies: bool) -> None:
    class Fails(strange.Counting if not copies else strange.Plain):
        calls = 0

        def decode(self, z: Tensor) -> Tensor:
            Fails.calls += 1
            self.memory = z
            if Fails.calls >= call:
                raise RuntimeError("out of order")
            return super().decode(z)

    model = made(Fails)
    before = state_of(model)
    try:
        audit_model(model)
    except BadInput as error:
        assert "out of order" in str(error)
    assert state_of(model) == before


# ------------------------------------------------------------------------------------------------------------ messages
class Needy(strange.Plain):
    def __init__(self, secret: str) -> None:
        super().__init__()


class Broken(strange.Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("two\nlines")


class AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 4), nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Endless(strange.Plain):
    def forward(self, x: Tensor) -> Tensor:
        while True:
            x = x + 0


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (3, {}, "must be a torch.nn.Module"),
        (Needy, {}, "needs secret"),
        (nn.Module(), {}, "a module whose forward is a loss"),
        (Broken, {}, r"ValueError: two\\nlines"),
        (AutoEncoder, {}, "no code z could be found"),
        (strange.Plain, {"data": torch.rand(5, 11)}, "mat1 and mat2"),
        (strange.Plain, {"data": torch.rand(5)}, r"must be a batch \[B, ...\]"),
        (strange.Plain, {"data": [["a"]]}, "must be an array of numbers"),
        (strange.Plain, {"loss": lambda a, b, c, d: a}, "role"),
        (Endless, {"seconds": 0.5}, "time limit"),
    ],
    ids=["number", "needy", "empty", "raises", "no vae", "shape", "no batch", "text", "roles", "endless"],
)
def test_what_cannot_be_audited_is_told_in_one_line(model: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says) as told:
        audit_model(model, **options)
    assert "\n" not in str(told.value)


# ------------------------------------------------------------------------------------------------------ smaller pieces
def test_a_replay_swaps_by_call_and_leaves_backward_out() -> None:
    weight = torch.ones(2, 2, requires_grad=True)

    def step(x: Tensor) -> Tensor:
        first, second = (x @ weight).chunk(2, 1)
        loss = (first * second).sum()
        loss.backward()
        return loss

    with Tape() as tape:
        step(torch.ones(1, 2))
    assert weight.grad is None and float(tape.losses[0]) == 4
    chunk = next(n for n in tape.nodes if n.name == "chunk" and n.key[1] == 1)
    with Replay(tape, {chunk.key: torch.full((1, 1), 5.0)}) as replay:
        step(torch.ones(1, 2))
    assert float(replay.losses[0]) == 10


@pytest.mark.parametrize(("shapes", "grown"), [((7, 12, 7, 12), 0), ((7, 1, 12), 0), ((3,), 0)], ids=str)
def test_shapes_that_fit_do_not_grow(shapes: tuple[int, ...], grown: float) -> None:
    assert grown_by([torch.Size(shapes), torch.Size(shapes)]) == grown


def test_rows_against_rows_grow_by_their_number() -> None:
    assert grown_by([torch.Size((7, 1, 12)), torch.Size((7, 12))]) == 7


def normal(mu: np.ndarray, head: np.ndarray, seed: int, index: int = 0) -> np.ndarray:
    with np.errstate(all="ignore"):  # a head of another reading may be negative
        std = np.exp(0.5 * HEADS[index].log_variance(head))
    return mu + std * np.random.default_rng(seed).normal(size=mu.shape)


@pytest.mark.parametrize("index", range(len(HEADS)), ids=[head.name for head in HEADS])
@pytest.mark.parametrize("latents", [1, 8])
def test_right_draws_give_no_finding_and_tell_their_reading(index: int, latents: int) -> None:
    def sample(mu: np.ndarray, head: np.ndarray, seed: int) -> np.ndarray:
        return normal(mu, head, seed, index)

    assert audit_sampler(sample, 64, latents, HEADS[index], "test") == []
    assert measured_reading(sample, 64, latents) is HEADS[index]


def test_two_hundred_right_samplers_raise_no_false_alarm() -> None:
    """At five standard errors about one in a million is due."""
    for trial in range(200):

        def sample(mu: np.ndarray, head: np.ndarray, seed: int, start: int = 1000 * trial) -> np.ndarray:
            return normal(mu, head, start + seed)

        assert audit_sampler(sample, 16, 3, HEADS[0], "test", wanted=500) == []


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "latents"])
def test_shared_noise_is_that_one_finding_and_no_other(axis: int) -> None:
    """Shared noise makes the other moments less certain than as many independent draws would."""

    def sample(mu: np.ndarray, head: np.ndarray, seed: int) -> np.ndarray:
        shape = [1 if i == axis else size for i, size in enumerate(mu.shape)]
        return mu + np.exp(0.5 * head) * np.random.default_rng(seed).normal(size=shape)

    assert [f.code for f in audit_sampler(sample, 64, 8, HEADS[0], "test")] == ["SA002"]


@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize("bound", [3.0, 5.0, 9.0])
def test_a_clamp_is_found_where_it_is(side: float, bound: float) -> None:
    def sample(mu: np.ndarray, head: np.ndarray, seed: int) -> np.ndarray:
        return normal(mu, np.minimum(head, bound) if side > 0 else np.maximum(head, -bound), seed)

    assert clamp_of(sample, 64, 4, HEADS[0], side) == pytest.approx(side * bound, abs=0.3)
    assert clamp_of(sample, 64, 4, HEADS[0], -side) is None
    assert clamp_of(normal, 64, 4, HEADS[0], side) is None


def test_a_heads_name_tells_its_reading_where_it_can() -> None:
    names = ("logvar", "z_log_var", "std", "variance", "log_sigma")
    readings = [head and head.name for head in map(read_head, names)]
    assert readings == ["log-variance", "log-variance", "std", "variance", None]


# --------------------------------------------------------------------------------------------------------------- keras
KERAS = textwrap.dedent("""
    import json, sys
    import keras, numpy as np
    from keras import layers, ops
    from vaelab.auditing.models.model import audit_model

    class Sampling(layers.Layer):
        power = 0.5
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed_generator = keras.random.SeedGenerator(1)
        def call(self, inputs):
            mean, log_var = inputs
            return mean + ops.exp(self.power * log_var) * keras.random.normal(ops.shape(mean), seed=self.seed_generator)

    class Wrong(Sampling):
        power = 1.0

    def built(sampling, channels=1, use_z=True, use_x=True):
        x = keras.Input((8, 8, channels))
        h = layers.Dense(8)(layers.Flatten()(x if use_x else ops.ones_like(x)))
        mean, log_var = layers.Dense(2)(h), layers.Dense(2)(h)
        encoder = keras.Model(x, [mean, log_var, sampling()([mean, log_var])])
        z = keras.Input((2,))
        out = layers.Dense(64 * channels, activation="sigmoid")(z if use_z else ops.ones_like(z))
        return encoder, keras.Model(z, layers.Reshape((8, 8, channels))(out))

    class Base(keras.Model):
        def __init__(self, encoder, decoder):
            super().__init__()
            self.encoder, self.decoder, self.tracker = encoder, decoder, keras.metrics.Mean(name="loss")
        def total(self, x):
            mean, log_var, z = self.encoder(x)
            rec = ops.mean(ops.sum(keras.losses.binary_crossentropy(x, self.decoder(z)), axis=(1, 2)))
            loss = rec + ops.mean(ops.sum(-0.5 * (1 + log_var - ops.square(mean) - ops.exp(log_var)), axis=1))
            return loss

    class Step(Base):
        def train_step(self, data):
            self.zero_grad()
            loss = self.total(data)
            loss.backward()
            self.optimizer.apply([w.value.grad for w in self.trainable_weights], self.trainable_weights)
            self.tracker.update_state(loss)
            return {"loss": self.tracker.result()}

    class Method(Base):
        def call(self, x, training=None):
            return self.decoder(self.encoder(x)[2])
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = self.total(x)
            self.tracker.update_state(loss)
            return loss

    def told(model):
        model.compile(optimizer="adam", loss="mse")
        before = [np.array(w) for w in model.get_weights()] + [float(model.tracker.result())]
        report = audit_model(model)
        after = [np.array(w) for w in model.get_weights()] + [float(model.tracker.result())]
        same = all(np.array_equal(a, b) for a, b in zip(before, after))
        loud = [f.code for f in report.findings if f.severity in ("warning", "error")]
        beta = report.effective_beta
        return {"beta": beta if beta == beta else None, "loud": loud, "same": same, "notes": report.notes}

    print(json.dumps({
        "step": told(Step(*built(Sampling))), "method": told(Method(*built(Sampling))),
        "rgb": told(Method(*built(Sampling, 3))), "wrong": told(Method(*built(Wrong))),
        "no z": told(Method(*built(Sampling, use_z=False))), "no x": told(Method(*built(Sampling, use_x=False))),
    }))
""")


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_keras_models_on_both_backends(backend: str) -> None:
    if not all(map(importlib.util.find_spec, ("keras", backend))):  # importing Keras here would fix its backend
        pytest.skip(f"keras and {backend} are not both installed")
    settings = {**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KERAS], capture_output=True, text=True, env=settings, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert all(case["same"] for case in told.values())
    assert not told["method"]["loud"] and told["method"]["beta"] == pytest.approx(1, rel=2e-3)
    assert told["rgb"]["beta"] == pytest.approx(3, rel=2e-3)
    assert "SA001" in told["wrong"]["loud"] and "MO001" in told["no z"]["loud"] and "MO002" in told["no x"]["loud"]
    if backend == "torch":
        assert not told["step"]["loud"] and told["step"]["beta"] == pytest.approx(1, rel=2e-3)
    else:
        assert any("PyTorch backend only" in note for note in told["step"]["notes"])


@pytest.mark.parametrize(("total", "codes"), [("sum", set()), ("mean", {"RE001", "KL003"})])
def test_two_latents_beside_a_squared_error_are_no_mean(total: str, codes: set[str]) -> None:
    """Without its half a squared error has beta 1/2, which is 1/D for two latents and no mean over them."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(40, 4), nn.Linear(2, 40)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            mu, log_var = self.encoder(x).chunk(2, -1)
            return self.decoder(mu + (0.5 * log_var).exp() * torch.randn_like(mu)), mu, log_var

        def loss_function(self, recon: torch.Tensor, x: torch.Tensor, mu: torch.Tensor, log_var: torch.Tensor) -> Any:
            squares, divergence = (recon - x) ** 2, 0.5 * (mu**2 + log_var.exp() - log_var - 1)
            if total == "mean":
                return squares.mean() + divergence.mean()
            return (squares.sum() + divergence.sum()) / len(x)

    report = audit_model(Two())
    assert {f.code for f in report.findings if f.severity in ("warning", "error")} == codes
    assert report.effective_beta == pytest.approx(0.5 if total == "sum" else 40 / (2 * 2))
