"""Labels that are partly missing: the bound against enumeration, its densities, training, and every use of a run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from torch import Tensor

import vaelab
from vaelab.cli import main
from vaelab.core.batch import Batch
from vaelab.core.config import build_config
from vaelab.core.errors import BadInput
from vaelab.core.facts import Facts, labelled_share
from vaelab.data.batches import Rows
from vaelab.data.conditions import one_hot
from vaelab.data.transforms import Affine
from vaelab.measure.importance import importance_bound
from vaelab.models.build import build_model, resolve
from vaelab.models.fits import refuse_misfits
from vaelab.objectives.build import build_objective
from vaelab.training.engine import Engine
from vaelab.training.evaluate import evaluate
from vaelab.training.rules_labels import label_rules

CLASSES, ENTRIES, LATENT, FREQUENCIES = 3, 5, 2, (4, 2, 1)


def config_of(mode: str = "marginal", **model: Any) -> Any:
    settings = {"encoder": "mlp", "hidden": [8], "latent": LATENT, "missing_labels": mode, **model}
    return resolve(build_config({"model": settings, "likelihood": {"name": "bernoulli"}}), FACTS, "table")


FACTS = Facts((ENTRIES,), condition=CLASSES, classes=CLASSES, rows=70, frequencies=FREQUENCIES)


def model_of(mode: str = "marginal", **model: Any) -> Any:
    built = build_model(config_of(mode, **model), FACTS).double().eval()
    with torch.no_grad():  # away from the start, where nothing depends on anything much
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)).double())
        built.encoder.head.weight.mul_(0.3)
        built.encoder.head.bias[LATENT : 2 * LATENT] = 1.0  # wider than any posterior, so that draws of q cover it
    return built


@pytest.fixture
def batch() -> Batch:
    x = torch.rand(4, ENTRIES, generator=torch.Generator().manual_seed(0)).double().round()
    labels = torch.full((4, CLASSES), torch.nan).double()
    labels[1], labels[3] = torch.eye(CLASSES)[2].double(), torch.eye(CLASSES)[0].double()
    return Batch(x, labels)


def bound_given(model: Any, x: Tensor, label: int, samples: int) -> Tensor:
    """The conditional model's bound on log p(x|y), [B]."""
    y = torch.eye(CLASSES).double()[[label] * len(x)]
    torch.manual_seed(label)
    return model.vae.draw(Batch(x, y), samples).elbo


@pytest.mark.parametrize("settings", [{}, {"posterior": "full"}, {"condition_on": ("encoder", "prior", "decoder")}])
def test_the_bound_is_the_sum_over_labels(batch: Batch, settings: dict[str, Any]) -> None:
    model, samples = model_of(**settings), 20_000
    torch.manual_seed(0)
    output = model.draw(batch, samples)
    prior = (torch.tensor(FREQUENCIES) + 1).double() / (sum(FREQUENCIES) + CLASSES)
    each = torch.stack([bound_given(model, batch.x, label, samples) for label in range(CLASSES)], 1)
    guessed = model.classify(batch)
    unknown = (guessed * (each + prior.log() - guessed.log())).sum(1)
    known = each.gather(1, batch.condition.nan_to_num().argmax(1, keepdim=True))[:, 0]
    known = known + prior.log()[batch.condition.nan_to_num().argmax(1)]
    expected = torch.where(batch.condition[:, 0].isnan(), unknown, known)
    assert torch.allclose(output.elbo, expected, atol=0.03)
    assert output.kl_is_exact and torch.allclose(output.kl[:, -1][[1, 3]], -prior.log()[[2, 0]])
    assert output.z.shape == (samples, 4, LATENT + CLASSES)


@torch.no_grad()
def log_evidence(model: Any, x: Tensor) -> Tensor:
    """log p(x, y) of rows and each label by a fine grid over z, [C, B]."""
    line = torch.linspace(-6, 6, 241).double()
    z = torch.tensor(list(itertools.product(line.tolist(), repeat=LATENT))).double()
    cell, parts = (line[1] - line[0]) ** LATENT, []
    for label in range(CLASSES):
        y = torch.eye(CLASSES).double()[[label] * len(z)]
        p = model.vae.prior_distribution(y if "prior" in model.conditioned else None)
        nats = torch.stack([model.vae.decode(z, y).log_prob(row.expand(len(z), -1))[0] for row in x], 1)
        log_pz = p.log_prob(z[None])[0]
        parts.append(torch.logsumexp(nats + log_pz[:, None], 0) + cell.log() + model.log_y[0, label])
    return torch.stack(parts)


@pytest.mark.parametrize("settings", [{}, {"condition_on": ("encoder", "prior", "decoder")}])
def test_the_importance_bound_is_log_p_of_x(batch: Batch, settings: dict[str, Any]) -> None:
    model = model_of(**settings)
    each = log_evidence(model, batch.x)
    exact = torch.logsumexp(each, 0)
    assert np.abs(importance_bound(model, batch.x, 4000, seed=0).values - exact.numpy()).max() < 0.1
    known = importance_bound(model, batch[[1, 3]], 4000, seed=0).values
    given = (each - model.log_y.T)[[2, 0], [1, 3]].numpy()
    assert np.abs(known - given).max() < 0.1, "with the label it is log p(x|y)"
    torch.manual_seed(0)
    assert (model.draw(batch.x, 2000).elbo < exact + 0.02).all()


def test_posterior_and_prior_are_distributions_over_codes_and_labels(batch: Batch) -> None:
    model = model_of(condition_on=("encoder", "prior", "decoder"))
    torch.manual_seed(0)
    for found in (model.encode(batch), model.prior_distribution(), model.prior_distribution(batch.condition[[1]])):
        z = found.rsample(40_000)
        assert torch.allclose(z.mean(0), found.mean, atol=0.05)
        assert torch.allclose(z.var(0), found.variance, atol=0.1, rtol=0.05)
        assert torch.equal(z[..., LATENT:].sum(-1), torch.ones_like(z[..., 0]))
    # E_q[log q - log p] of draws is the divergence that is told
    q, p = model.encode(batch), model.prior_distribution()
    z = q.rsample(40_000)
    kl, exact = q.divergence(p, z)
    assert exact and torch.allclose((q.log_prob(z) - p.log_prob(z)).mean(0), kl.sum(1), atol=0.05)


@pytest.mark.parametrize("mode", ["marginal", "gumbel"])
def test_noise_that_no_label_is_a_function_of_is_refused(batch: Batch, mode: str) -> None:
    with pytest.raises(BadInput, match=r"noise: got \(3, 4, 2\); a label is no function of normal noise"):
        model_of(mode).draw(batch, 3, torch.zeros(3, 4, LATENT).double())


@pytest.mark.parametrize("known", [8, 40, 70])
def test_known_labels_weigh_as_much_as_is_said(known: int) -> None:
    """In a batch with the share of labels that batches have: weight * rows / known times their mean cross-entropy."""
    share, rows = labelled_share(known, 70), 70
    facts = Facts((ENTRIES,), condition=CLASSES, classes=CLASSES, rows=rows, frequencies=(known - 3, 2, 1))
    model = build_model(config_of(classifier_weight=0.1), facts).double()
    x = torch.rand(1, ENTRIES, generator=torch.Generator().manual_seed(0)).double().round()
    y = torch.eye(CLASSES).double()[[1]]
    own = model.draw(Batch(x, y)).extra["classification"]
    expected = -0.1 * rows / known * model.classify(x)[0, 1].log()
    torch.testing.assert_close(share * own[0], expected)


def test_a_label_that_is_given_takes_the_place_of_the_guess(batch: Batch) -> None:
    model = model_of()
    assert torch.equal(model.encode(batch).probabilities[[1, 3]], batch.condition[[1, 3]])
    z = torch.randn(2, 4, LATENT).double()
    codes = torch.cat([z, torch.eye(CLASSES).double()[[0] * 4].expand(2, -1, -1)], -1)
    swapped = model.decode(codes, torch.eye(CLASSES).double()[[1] * 4]).mean
    assert torch.equal(swapped, model.vae.decode(z, torch.eye(CLASSES).double()[[1] * 4]).mean)
    assert torch.equal(model.decode(codes, torch.full((4, CLASSES), torch.nan)).mean, model.decode(codes).mean)


@pytest.mark.parametrize("mode", ["marginal", "gumbel"])
def test_gradients_reach_every_parameter_and_agree_with_differences(batch: Batch, mode: str) -> None:
    model, objective = model_of(mode).train(), build_objective(build_config().objective, FACTS)

    def loss() -> Tensor:
        torch.manual_seed(3)
        return objective(model.draw(batch, 2), {"beta": 1.0}).total

    loss().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    for parameter in (model.classifier[-1].weight, model.encoder.head.weight, model.decoder.net.layers[0].weight):
        at, step = (0, 1), 1e-5
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                parameter[at] += sign * step
                values.append(loss().item())
                parameter[at] -= sign * step
        assert parameter.grad[at].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-7)


def test_the_relaxed_draw_becomes_the_sum_as_the_guess_becomes_certain(batch: Batch) -> None:
    marginal, relaxed = model_of(), model_of("gumbel")
    relaxed.load_state_dict(marginal.state_dict())
    for model in (marginal, relaxed):
        with torch.no_grad():
            model.classifier[-1].weight.zero_()
            model.classifier[-1].bias.copy_(torch.tensor([60.0, 0.0, 0.0]))
        model.train()
    torch.manual_seed(0)
    both = [model.draw(batch, 20_000).elbo for model in (marginal, relaxed)]
    assert torch.allclose(*both, atol=0.03)
    relaxed.eval()
    torch.manual_seed(1)
    guess = relaxed.draw(batch, 10)
    torch.manual_seed(1)
    assert torch.equal(marginal.eval().draw(batch, 10).elbo, guess.elbo), "summed over when it is measured"


def test_known_labels_train_the_classifier_with_the_weight_that_is_told(batch: Batch) -> None:
    model = model_of(classifier_weight=0.3).train()
    found = model.draw(batch).extra["classification"]
    known = sum(FREQUENCIES)
    weight = 0.3 * FACTS.rows / known / labelled_share(known, FACTS.rows)
    nats = -model.classify(batch).log()
    assert torch.allclose(found, torch.stack([0 * nats[0, 0], nats[1, 2], 0 * nats[0, 0], nats[3, 0]]) * weight)
    assert not model.eval().draw(batch).extra and not model.train().draw(batch.x).extra


def test_weights_are_read_back(batch: Batch) -> None:
    model, again = model_of(), build_model(config_of(), FACTS).double().eval()
    again.load_state_dict(model.state_dict())
    outputs = []
    for one in (model, again):
        torch.manual_seed(0)
        outputs.append(one.draw(batch, 3).elbo)
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("edit", "facts", "text"),
    [
        ({"objective.name": "iwae"}, FACTS, "which only the ELBO is"),
        ({"model.condition_on": ("encoder",)}, FACTS, "told by what the decoder makes of it"),
        ({}, Facts((ENTRIES,)), "it is for labels, and none are given"),
        ({"model.posterior": "delta"}, FACTS, "one latent group with a density"),
    ],
)
def test_what_does_not_go_together_is_refused(edit: dict[str, Any], facts: Facts, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        refuse_misfits(config_of().edited(edit), facts, frozenset())


def test_every_batch_has_its_share_of_known_labels() -> None:
    condition = np.full((800, 2), np.nan, np.float32)
    condition[::100] = [1, 0]
    raw = np.arange(800, dtype=np.float32)[:, None]
    rows = Rows(raw, None, Affine(), binarize="none", shape=(1,), device=torch.device("cpu"), condition=condition)
    order = rows.order(64, seed=0)
    batches = [order.batch(step) for step in range(40)]
    assert all(len(batch) == 64 and (batch[:8] % 100 == 0).all() for batch in batches)
    first = torch.cat([batch[:8] for batch in batches])
    assert (torch.bincount(first, minlength=800)[::100] == 40).all(), "every known row as often as the others"
    rest = torch.cat([batch[8:] for batch in batches])
    assert torch.bincount(rest[:800], minlength=800).eq(1).all()


# A run, end to end ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["marginal", "gumbel"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = {
        "data": {"condition": "labels", "labelled": 50},
        "model": {"latent": 4, "hidden": [64], "missing_labels": request.param},
        "train": {"steps": 300, "learning_rate": 3e-3, "evaluate_every": 150},
    }
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return vaelab.train("digits", out=folder, config=settings, progress=False)


def test_labels_are_told_and_the_accuracy_is_shown(run: Any) -> None:
    assert sum(run.spec.frequencies) == 50 and set(run.spec.frequencies) == {5}
    told = run.classify(run.preview)
    assert told.shape == (len(run.preview), 10) and np.allclose(told.sum(1), 1, atol=1e-5)
    accuracy = (told.argmax(1) == run.preview_labels).mean()
    assert accuracy == pytest.approx(run.metrics["accuracy"], abs=1e-6) and accuracy > 0.75
    finding = next(one for one in run.findings if one.code == "TR180")
    assert finding.measured == pytest.approx(100 * accuracy, abs=1e-4)
    assert "accuracy" in (run.folder / "report.html").read_text()


def test_uses_need_no_label_and_take_one(run: Any) -> None:
    rows = run.preview[:6]
    assert run.embed(rows).shape == (6, 14) and run.reconstruct(rows).shape == (6, 8, 8)
    known = run.embed(rows, condition=[3] * 6)
    assert np.array_equal(known[:, 4:], np.eye(10)[[3] * 6])
    assert not np.allclose(run.reconstruct(rows, to=1), run.reconstruct(rows))
    assert run.sample(5).shape == run.sample(5, condition=2).shape == (5, 8, 8)
    assert run.interpolate(rows[0], rows[1], 4).shape == (4, 8, 8)
    assert run.traverse(dimensions=[1], steps=3).shape == (1, 3, 8, 8)
    found = vaelab.evaluate(run, samples=10, metrics="reconstruction,latent,samples", rows=40)
    assert abs(found["bound.elbo"].value + run.metrics["negative_elbo"]) < 6
    with pytest.raises(BadInput, match="no points of a Euclidean space"):
        vaelab.evaluate(run, samples=5, rows=4, ais={"steps": 4, "chains": 2})
    assert vaelab.check(None, "digits", config=run.config.model_dump(exclude={"train"}))


def test_walks_are_along_z_alone_with_the_label_held(run: Any) -> None:
    row, other = run.preview[0], run.preview[np.argmax(run.preview_labels != run.preview_labels[0])]
    told = [run.spec.condition[place] for place in run.classify(np.stack([row, other])).argmax(1)]
    walks = run.traverse(row, steps=3, span=2.0)
    assert walks.shape == (4, 3, 8, 8)
    code = run.embed(row[None], condition=told[0])[0]
    code[1] = 2.0
    assert np.allclose(walks[1, 2], run.decode(code[None], condition=told[0])[0], atol=1e-5)
    assert np.allclose(run.traverse(row, [1], 3, condition=7)[0, 1], run.traverse(row, [1], 3, condition="7")[0, 1])
    assert not np.allclose(run.traverse(row, [1], 3, condition=7), run.traverse(row, [1], 3, condition=2))
    with pytest.raises(BadInput, match="latent dimensions 1 to 4"):
        run.traverse(row, [5])
    for path in ("linear", "spherical"):
        steps = run.interpolate(row, other, 5, path)
        ends = run.embed(np.stack([row, other]), condition=told)
        assert np.allclose(steps[[0, -1]], run.decode(ends, condition=told[0]), atol=1e-5)
    middle = np.concatenate([ends[:, :4].mean(0), ends[0, 4:]])
    assert np.allclose(run.interpolate(row, other, 3)[1], run.decode(middle[None], condition=told[0])[0], atol=1e-5)


@pytest.mark.parametrize(("right", "count"), [(18, 20), (20, 20), (12, 12), (13, 20), (0, 5), (700, 1000)])
def test_the_interval_of_the_accuracy_is_wilson_s_over_rows_whose_label_is_known(right: int, count: int) -> None:
    numbers = {"accuracy": right / count, "commonest_label": 0.5, "labelled_rows": count, "rows": 10_000}
    (finding,) = label_rules(numbers)
    expected = binomtest(right, count).proportion_ci(0.95, "wilson")
    assert finding.interval == pytest.approx(50 * (expected.high - expected.low), abs=1e-3)
    by_guessing = binomtest(right, count, 0.5, alternative="greater").pvalue
    assert finding.code == ("TR181" if by_guessing > norm.sf(2.5) else "TR180")


def test_held_out_rows_without_a_label_do_not_count(run: Any) -> None:
    raw = run.spec.to_model(run.preview)[:40]
    codes = np.where(np.arange(40) < 12, run.preview_labels[:40], -1)
    rows = Rows(
        raw.numpy(), None, Affine(), binarize="none", shape=(1, 8, 8), device=torch.device("cpu"),
        condition=one_hot(codes, 10),
    )  # fmt: skip
    found = evaluate(run.model, rows, seed=0, engine=Engine("cpu"), shift=0.0)
    assert found["labelled_rows"] == 12 and found["rows"] == 40
    assert found["accuracy"] == (run.classify(run.preview[:12]).argmax(1) == run.preview_labels[:12]).mean()


def test_it_goes_on_where_it_stopped(run: Any, tmp_path: Path) -> None:
    config = run.config.updated(train={"steps": 12, "checkpoint_every": 4, "schedule": "constant"}).model_dump()
    config["report"] = {"html": False}
    whole = vaelab.train("digits", out=tmp_path / "whole", config=config, progress=False)
    config["train"]["steps"] = 8
    half = vaelab.train("digits", out=tmp_path / "half", config=config, progress=False)
    vaelab.train(resume=half.folder, config={"train": {"steps": 12}}, progress=False)
    ends = [[line for line in vaelab.load(one.folder).history if line["step"] == 12] for one in (whole, half)]
    losses = [[line["negative_elbo"] for line in lines if line["kind"] == "held_out"] for lines in ends]
    assert losses[0] == losses[1] and len(losses[0]) == 1


def test_labels_of_a_table_s_column_are_told_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column of whole numbers beside one of text is a label where labels are to be guessed."""
    random = np.random.default_rng(0)
    kind = random.integers(0, 2, 120)
    lines = [f"{place},{'ab'[one]},{one + 0.1 * random.normal():.4f}" for place, one in enumerate(kind)]
    lines = [f"{one},{line.partition(',')[2]}" for one, line in zip(kind, lines, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["kind,word,number", *lines]))
    settings = ["data.condition=[kind]", "model.missing_labels=marginal", "data.labelled=40", "train.steps=300"]
    settings.append("train.learning_rate=5e-3")
    out = str(tmp_path / "run")
    call("train", str(tmp_path / "table.csv"), *settings, "report.html=false", "--out", out, "--quiet")
    assert vaelab.load(out).spec.condition == ("0", "1") and "kind" not in vaelab.load(out).spec.columns
    (tmp_path / "new.csv").write_text("word,number\nb,1.0\na,0.0\n")
    call("classify", out, str(tmp_path / "new.csv"), "--to", str(tmp_path / "labels.csv"))
    head, *told = (line.split(",") for line in (tmp_path / "labels.csv").read_text().splitlines())
    assert head == ["label", "p_0", "p_1"] and [row[0] for row in told] == ["1", "0"]
    assert np.allclose([float(row[1]) + float(row[2]) for row in told], 1, atol=1e-5)
    call("embed", out, "--to", str(tmp_path / "codes.csv"))
    header = (tmp_path / "codes.csv").read_text().splitlines()[0].split(",")
    assert header[-1] == "label" and {"p_0", "p_1"} <= set(header)
    assert "labels of 2 rows" in capsys.readouterr().out


def call(*words: str) -> None:
    with pytest.raises(SystemExit) as status:
        main(list(words))
    assert status.value.code == 0
