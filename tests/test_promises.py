"""Promises that break easily at the edges: what is not ours stays, nothing half done is left, nothing is assumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vaelab
from vaelab.core.errors import BadInput, Corrupt
from vaelab.data.batches import Rows
from vaelab.data.transforms import Affine
from vaelab.training.checkpoint import Checkpoints
from vaelab.training.trial import try_out

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(80, 6)).astype(np.float32)
QUICK: dict[str, Any] = {
    "model": {"hidden": [8], "latent": 2},
    "train": {"steps": 10, "batch_size": 16, "threads": 1},
    "report": {"html": False},
}


def config(**sections: dict[str, Any] | str) -> dict[str, Any]:
    layers = {name: {**QUICK.get(name, {}), **v} if isinstance(v, dict) else v for name, v in sections.items()}
    return QUICK | layers


def own(encoder: nn.Module | None = None, **named: Any) -> vaelab.VAE:
    parts: dict[str, Any] = {"likelihood": "gaussian", "latent": 2, **named}
    return vaelab.VAE(encoder or nn.Linear(6, 4), nn.Linear(2, 6), **parts)


@pytest.mark.parametrize("name", ["data/mine.npy", "environment.json", "notes.txt", "data/manifest.json"])
def test_a_folder_with_somebodys_files_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "project" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    with pytest.raises(BadInput, match="other things in it"):
        vaelab.train(X, out=tmp_path / "project", config=QUICK, progress=False)
    assert [path for path in (tmp_path / "project").rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "{}"


class Sized(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :3].repeat(1, 2)


OWN_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "too wide an encoder": (
        {"model": vaelab.VAE(Sized(), nn.Linear(3, 6), likelihood="gaussian", latent=2)},
        "2 latent",
    ),
    "a decoder that does not fit": (
        {"model": vaelab.VAE(nn.Linear(6, 4), nn.Linear(3, 6), likelihood="gaussian", latent=2)},
        "fails on a batch of shape",
    ),
    "a network and no model": ({"model": nn.Linear(6, 2)}, "vaelab.VAE(encoder, decoder"),
    "a word for a model": ({"model": "mlp"}, "model: got str"),
    "a word for an objective": ({"objective": "elbo"}, "vaelab.ELBO"),
    "a mass for real numbers": ({"model": own(likelihood="bernoulli")}, "needs [0, 1]"),
    "counts for real numbers": ({"model": own(likelihood="poisson")}, "poisson needs whole numbers"),
    "more slices than rows": ({"config": config(train={"batch_size": 2, "accumulate": 4})}, "train.batch_size"),
    "bent means in slices": (
        {"config": config(train={"accumulate": 2}, objective={"free_bits": 0.1})},
        "free bits or a capacity",
    ),
    "fitted noise in slices": (
        {"config": config(train={"accumulate": 2}, likelihood={"name": "gaussian", "noise": "optimal"})},
        "likelihood.noise=optimal",
    ),
    "coins from real numbers": ({"config": config(data={"binarize": "dynamic"})}, "needs probabilities"),
    "a density on coins": (
        {"x": np.abs(X) / 9, "config": config(data={"binarize": "dynamic"}, likelihood="gaussian")},
        "makes zeros and ones",
    ),
}


class Weighs(nn.Module):
    """Multiplies rows by a parameter; what else it holds reaches no row."""

    def __init__(self, weight: torch.Tensor, **others: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.others = nn.ModuleDict(others)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(self.weight.dtype) @ self.weight).real


class Looked(nn.Module):
    """A row of an embedding, which is the same for all rows."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4, sparse=sparse)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(torch.zeros(len(x), dtype=torch.long))


OWN_PARAMETERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "frozen": (lambda: own().requires_grad_(False), "model: got no trainable parameter"),
    "sparse": (lambda: own(Looked(True)), "parameter encoder.table.weight; has a sparse gradient"),
    "complex": (
        lambda: own(Weighs(torch.randn(6, 4, dtype=torch.complex64))),
        "parameter encoder.weight; is not of real numbers",
    ),
    "gaps": (
        lambda: own(Weighs(torch.randn(6, 8)[:, ::2])),
        "parameter encoder.weight; is a view with gaps, which cannot be trained in place; nn.Parameter(tensor.clone(",
    ),
    "never reached": (
        lambda: own(Weighs(torch.randn(6, 4), spare=nn.LazyLinear(2))),
        "parameter encoder.others.spare.weight; has no size",
    ),
}


@pytest.mark.parametrize("name", OWN_PARAMETERS)
def test_parameters_that_cannot_be_trained_are_named_before_anything_is_written(tmp_path: Path, name: str) -> None:
    make, said = OWN_PARAMETERS[name]
    with pytest.raises(BadInput) as caught:
        vaelab.train(X, model=make(), config=QUICK, out=tmp_path / "run", progress=False)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


OWN_LAYOUTS: dict[str, Callable[[], nn.Module]] = {
    "transposed": lambda: Weighs(torch.randn(4, 6).t()),
    "rows of a larger one": lambda: Weighs(torch.randn(9, 4)[2:8]),
    "dense": lambda: Looked(False),
    "channels last": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 1, 3)), nn.Conv2d(2, 4, (1, 3)).to(memory_format=torch.channels_last), nn.Flatten()
    ),
}


@pytest.mark.parametrize("name", OWN_LAYOUTS)
def test_a_parameter_of_any_dense_layout_is_trained_like_a_plain_one(tmp_path: Path, name: str) -> None:
    model = own(OWN_LAYOUTS[name]())
    plain, start = deepcopy(model), {key: value.clone() for key, value in model.state_dict().items()}
    for parameter in plain.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    for folder, one in (("a", model), ("b", plain)):
        vaelab.train(X, model=one, config=QUICK, out=tmp_path / folder, progress=False)
    last, twin = (Checkpoints(tmp_path / folder / "checkpoints").load_last()[1]["model"] for folder in ("a", "b"))
    assert all(torch.allclose(value, twin[key], rtol=1e-4, atol=1e-5) for key, value in last.items())
    assert all(not torch.equal(value, start[key]) for key, value in last.items())


def test_a_lazy_layer_takes_its_size_from_the_data(tmp_path: Path) -> None:
    chosen = config(train={"threads": None})  # which looks at the size of the model
    run = vaelab.train(X, model=own(nn.LazyLinear(4)), config=chosen, out=tmp_path / "run", progress=False)
    assert np.isfinite(vaelab.load(run.folder, model=own(nn.LazyLinear(4))).embed(X)).all()


def test_a_trial_leaves_no_trace_in_a_model() -> None:
    model = own(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, coins = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    try_out(model, vaelab.ELBO(), Rows(X, None, Affine(), binarize="none", shape=(6,), device=torch.device("cpu")))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), coins) and model.training


@pytest.mark.parametrize("name", OWN_FAULTS)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    arguments, said = OWN_FAULTS[name]
    with pytest.raises(BadInput) as caught:
        vaelab.train(**({"x": X, "config": QUICK} | arguments), out=tmp_path / "run", progress=False)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_own_models_likelihood_decides_how_the_data_is_read(tmp_path: Path) -> None:
    x = RANDOM.integers(0, 256, (60, 6, 1)).astype(np.uint8)
    model = vaelab.VAE(nn.Sequential(nn.Flatten(), nn.Linear(6, 4)), nn.Linear(2, 6), likelihood="bernoulli", latent=2)
    run = vaelab.train(x, model=model, out=tmp_path / "run", config=QUICK, progress=False)
    assert run.config.likelihood.name == "bernoulli"
    assert (run.spec.transform.scale.item(), run.spec.log_abs_det) == (255.0, 0.0)
    assert run.config.model.latent == 2
    assert {"DA002"} <= {finding.code for finding in run.findings}


@pytest.mark.parametrize("cut", ["best", "metrics"])
def test_damage_beside_the_last_checkpoint_is_found_or_mended(tmp_path: Path, cut: str) -> None:
    out = tmp_path / "run"
    often = config(train={"evaluate_every": 5, "checkpoint_every": 5, "steps": 20})
    vaelab.train(X, out=out, config=often, progress=False)
    if cut == "metrics":
        (out / "metrics.jsonl").write_text("")
        with pytest.raises(Corrupt, match="shorter"):
            vaelab.train(X, resume=out, config={"train": {"steps": 30}}, progress=False)
        return
    newest = sorted((out / "checkpoints").glob("best-*"))[-1] / "model.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.warns(RuntimeWarning, match=newest.parent.name):
        assert vaelab.load(out).metrics["step"] < int(newest.parent.name[-9:])  # the last whole one, and it is said
    vaelab.train(X, resume=out, progress=False)
    assert vaelab.load(out).embed(X).shape == (80, 2)
    assert newest.read_bytes() == whole


def test_a_run_cut_at_its_last_step_has_its_last_evaluation(tmp_path: Path, monkeypatch) -> None:
    odd = config(train={"evaluate_every": 4, "checkpoint_every": 5})
    saved: list[int] = []
    real = Checkpoints.save

    def save(self: Checkpoints, progress: Any, tensors: Any) -> Path:
        saved.append(progress.step)
        return real(self, progress, tensors)

    monkeypatch.setattr(Checkpoints, "save", save)
    run = vaelab.train(X, out=tmp_path / "run", config=odd, progress=False)
    assert [line["step"] for line in run.history if line["kind"] == "held_out"] == [4, 8, 10]
    assert saved == [0, 5, 10]  # each step is saved once, and the last after its evaluation


def test_settings_changed_by_hand_and_other_objectives_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    vaelab.train(X, out=out, model=own(), objective=vaelab.ELBO(beta=4.0), config=QUICK, progress=False)
    with pytest.raises(BadInput, match="must be that of the run"):
        vaelab.train(X, resume=out, model=own(), objective=vaelab.ELBO(beta=0.1), progress=False)
    path = out / "config.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.001", "learning_rate: 0.5"))
    with pytest.raises(BadInput, match=r"config\.yaml"):
        vaelab.train(X, resume=out, model=own(), objective=vaelab.ELBO(beta=4.0), progress=False)


class Infinite(vaelab.VAE):
    """Overflows on held-out rows only."""

    def draw(self, *arguments: Any, **named: Any) -> vaelab.VAEOutput:
        output = super().draw(*arguments, **named)
        if not self.training:
            output.log_px = output.log_px - torch.inf
        return output


def test_a_run_without_a_finite_evaluation_is_an_error(tmp_path: Path) -> None:
    model = Infinite(nn.Linear(6, 4), nn.Linear(2, 6), likelihood="gaussian", latent=2)
    run = vaelab.train(X, model=model, out=tmp_path / "run", config=QUICK, progress=False)
    assert run.metrics == {}
    assert run.findings[0].code == "TR112"
    assert run.findings[0].severity == "error"


def test_scaling_is_fitted_on_training_rows_alone(tmp_path: Path) -> None:
    run = vaelab.train(X, out=tmp_path / "run", config=QUICK, progress=False)
    held_out = run.preview
    others = np.array([row for row in X if not (held_out == row).all(1).any()])
    assert np.allclose(run.spec.transform.shift.numpy(), others.mean(0), atol=1e-6)
    assert np.allclose(run.spec.transform.scale.numpy(), others.std(0), atol=1e-6)


def test_a_threshold_holds_at_use_too(tmp_path: Path) -> None:
    x = RANDOM.random((60, 5)).astype(np.float32)
    run = vaelab.train(x, out=tmp_path / "run", config=config(data={"binarize": "threshold"}), progress=False)
    assert np.array_equal(run.embed(x), run.embed((x >= 0.5).astype(np.float32)))


class Elsewhere(nn.Module):
    def forward(self) -> torch.distributions.Distribution:
        return torch.distributions.Normal(torch.full((2,), 3.0), torch.ones(2))


def test_another_prior_is_not_judged_as_if_it_were_standard(tmp_path: Path) -> None:
    run = vaelab.train(X, model=own(prior=Elsewhere()), out=tmp_path / "run", config=QUICK, progress=False)
    assert run.metrics["aggregate_kl"] is None
    assert "TR110" not in {finding.code for finding in run.findings}


def test_a_batch_of_more_than_all_rows_is_all_rows_and_said_so(tmp_path: Path) -> None:
    run = vaelab.train(X, out=tmp_path / "run", config=config(train={"batch_size": 500}), progress=False)
    finding = next(f for f in run.findings if f.code == "TR111")
    assert (finding.measured, finding.severity, run.config.train.batch_size) == (72, "warning", 72)


def test_frames_are_matched_by_column_at_use(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    run = vaelab.train(frame, out=tmp_path / "run", config=QUICK, progress=False)
    assert np.allclose(run.embed(frame[frame.columns[::-1]]), run.embed(frame), atol=1e-6)
    with pytest.raises(BadInput, match="no column 'f'"):
        run.embed(frame.drop(columns="f"))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: run.embed("rows.csv"), "str rows.csv"),
        (lambda run: run.embed(None), "NoneType"),
        (lambda run: run.sample(2.5), "whole number"),
        (lambda run: run.sample(10**12), "TiB"),
        (lambda run: run.decode(np.zeros((2, 3))), "(n, 2)"),
        (lambda run: run.traverse(dimensions=[3]), "dimension"),
        (lambda run: vaelab.load(3), "path of a run folder"),
        (lambda run: vaelab.ELBO(free_bits_per="dim"), "there are: dimension, group"),
        (lambda run: vaelab.ELBO(samples=0), "samples"),
        (lambda run: vaelab.ELBO(beta="x"), "beta"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, call: Any, said: str) -> None:
    run = vaelab.train(X, out=tmp_path / "run", config=config(train={"steps": 2}), progress=False)
    with pytest.raises(BadInput) as caught:
        call(run)
    assert said in str(caught.value)


def test_the_report_and_the_command_say_the_same(tmp_path: Path, capsys) -> None:
    from vaelab.cli import main

    run = vaelab.train(X, out=tmp_path / "run", config=QUICK, progress=False)
    (run.folder / "findings.jsonl").write_text(json.dumps(run.findings[-1].to_dict()) + "\n")  # as if it had been cut
    with pytest.raises(SystemExit):
        main(["report", str(run.folder)])
    said = capsys.readouterr().out
    assert "training has not ended" in said.lower()
    page = (run.folder / "report.html").read_text()
    assert "training has not ended" in page.lower()
    assert "vaelab train --resume" in page


@pytest.mark.parametrize("rows", [np.random.default_rng(0).poisson(5, (300, 1)), np.full((300, 3), 4)])
def test_counts_of_a_single_column_or_value_train(rows: np.ndarray, tmp_path: Path) -> None:
    """There is no spread over columns, or over rows, to scale the encoder's input by."""
    config = {**QUICK, "likelihood": "poisson"}
    run = vaelab.train(rows, out=tmp_path / "run", config=config, progress=False)
    assert np.isfinite(run.metrics["negative_elbo"])


@pytest.mark.parametrize(
    ("given", "sections", "named"),
    [
        ({"model": own()}, {"model": {"posterior": "full", "dropout": 0.1}}, "model.dropout, model.posterior"),
        ({"model": own()}, {"prior": {"name": "vamp"}}, "prior.name"),
        ({"objective": vaelab.ELBO()}, {"objective": {"beta": 3.0}}, "objective.beta"),
        ({"model": own(), "x": (X, np.arange(80) % 3)}, {"data": {"condition": "labels"}}, "labels; the model passed"),
    ],
)
def test_settings_that_what_was_passed_does_not_read_are_refused(
    given: dict[str, Any], sections: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=f"got {named}"):
        vaelab.train(**({"x": X} | given), config=config(**sections), out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
