"""Conditional models: exact densities, label swaps, what is read and refused, and every use of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vaelab
from vaelab.cli import main
from vaelab.core.batch import Batch
from vaelab.core.config import build_config
from vaelab.core.errors import BadInput
from vaelab.core.facts import Facts
from vaelab.data.conditions import Conditioning, conditioned, keep_labelled, one_hot
from vaelab.data.source import load, split
from vaelab.distributions.likelihoods import Decoder, Gaussian
from vaelab.distributions.normal import DiagonalNormal
from vaelab.measure.importance import importance_bound
from vaelab.models.build import build_model, resolve
from vaelab.models.vae import VAE

ENTRIES, LATENT, GIVEN = 4, 2, 3


class Posterior(nn.Module):
    """The exact posterior of the linear model below, a little too wide."""

    latent, noise_size = LATENT, LATENT

    def __init__(self, truth: Truth) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, x: Tensor, condition: Tensor) -> DiagonalNormal:
        mean, covariance = self.truth.posterior(x, condition)
        return DiagonalNormal(mean, (1.1 * covariance.diagonal().sqrt()).log().expand_as(mean))


class Prior(nn.Module):
    def __init__(self, truth: Truth) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, condition: Tensor) -> DiagonalNormal:
        mean = condition @ self.truth.shift.T
        return DiagonalNormal(mean, torch.full_like(mean, math.log(self.truth.spread)))


class Truth:
    """z ~ N(S c, s²), x ~ N(W z + V c, σ²): p(x|c) is a normal whose moments can be written down."""

    spread, sigma = 0.7, 0.5

    def __init__(self) -> None:
        coins = torch.Generator().manual_seed(1)
        self.weight, self.beside, self.shift = (
            torch.randn(*shape, generator=coins, dtype=torch.float64)
            for shape in ((ENTRIES, LATENT), (ENTRIES, GIVEN), (LATENT, GIVEN))
        )

    def log_px(self, x: Tensor, condition: Tensor) -> Tensor:
        mean = condition @ (self.weight @ self.shift + self.beside).T
        covariance = self.spread**2 * self.weight @ self.weight.T + self.sigma**2 * torch.eye(ENTRIES).double()
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)

    def posterior(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        precision = self.weight.T @ self.weight / self.sigma**2 + torch.eye(LATENT).double() / self.spread**2
        covariance = precision.inverse()
        residual = (x - condition @ self.beside.T) @ self.weight / self.sigma**2
        return (residual + condition @ self.shift.T / self.spread**2) @ covariance, covariance

    def model(self) -> VAE:
        net = nn.Linear(LATENT + GIVEN, ENTRIES, bias=False).double()
        with torch.no_grad():
            net.weight.copy_(torch.cat([self.weight, self.beside], 1))
        decoder = Decoder(net, Gaussian("fixed", self.sigma))
        parts = ("encoder", "prior", "decoder")
        return VAE(Posterior(self), decoder, Prior(self), latent=LATENT, condition=parts).double()


@pytest.fixture(scope="module")
def linear() -> tuple[Truth, Batch]:
    coins = torch.Generator().manual_seed(2)
    x, condition = (torch.randn(6, size, generator=coins, dtype=torch.float64) for size in (ENTRIES, GIVEN))
    return Truth(), Batch(x, condition)


def test_the_importance_bound_is_log_p_of_x_given_c(linear: tuple[Truth, Batch]) -> None:
    truth, batch = linear
    bound = importance_bound(truth.model(), batch, 20_000, seed=0)
    exact = truth.log_px(batch.x, batch.condition).numpy()
    assert np.abs(bound.values - exact).max() < 5 * np.sqrt(bound.variance).max() < 0.1
    other = Batch(batch.x, batch.condition.roll(1, 0))
    assert np.abs(importance_bound(truth.model(), other, 100).values - exact).max() > 1, "the condition counts"


@pytest.mark.parametrize("start", ["encoder", "prior"])
def test_annealing_brackets_log_p_of_x_given_c(linear: tuple[Truth, Batch], start: str) -> None:
    truth, batch = linear
    bracket = vaelab.ais(truth.model(), batch.x, 60, 16, condition=batch.condition, start=start)
    exact = float(truth.log_px(batch.x, batch.condition).mean())
    assert bracket.between.low - 0.02 < exact < bracket.between.high + 0.02


def test_the_record_is_a_bound_given_c(linear: tuple[Truth, Batch]) -> None:
    truth, batch = linear
    torch.manual_seed(0)
    output = truth.model().draw(batch, 5000)
    assert output.kl.shape == (6, LATENT) and output.kl_is_exact
    mean, covariance = truth.posterior(batch.x, batch.condition)
    wide = torch.diag(1.21 * covariance.diagonal())
    loss = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(mean, wide), torch.distributions.MultivariateNormal(mean, covariance)
    )
    assert torch.allclose(output.elbo, truth.log_px(batch.x, batch.condition) - loss, atol=0.1)


def test_a_condition_that_is_read_has_to_be_given(linear: tuple[Truth, Batch]) -> None:
    truth, batch = linear
    with pytest.raises(BadInput, match="the encoder reads what is given beside a row, and nothing is"):
        truth.model().draw(batch.x)


def built(condition_on: tuple[str, ...], encoder: str = "mlp", **prior: Any) -> Any:
    facts = Facts((1, 8, 8), condition=3, classes=3, rows=100)
    settings = {
        "model": {"encoder": encoder, "latent": 2, "hidden": [8], "channels": [4], "condition_on": condition_on},
        "prior": prior,
        "likelihood": {"name": "bernoulli"},
    }
    config = resolve(build_config(settings), facts, "image")
    return build_model(config, facts).double(), config, facts


@pytest.mark.parametrize("encoder", ["linear", "mlp", "conv"])
@pytest.mark.parametrize("part", ["encoder", "prior", "decoder"])
def test_each_part_reads_the_condition_where_it_is_named_and_nowhere_else(encoder: str, part: str) -> None:
    model, _, _ = built((part,), encoder)
    assert model.conditioned == {part}
    x, coins = torch.rand(4, 1, 8, 8).double().round(), torch.randn(1, 4, 2).double()
    first, second = (model.draw(Batch(x, torch.eye(3).double()[[k] * 4]), 1, coins) for k in (0, 1))
    decoded = [model.decode(coins, output.condition).mean for output in (first, second)]
    changed = {
        "encoder": not torch.equal(first.posterior.mean, second.posterior.mean),
        "prior": not torch.equal(first.prior.mean, second.prior.mean),
        "decoder": not torch.equal(*decoded),
    }
    assert changed == {name: name == part for name in changed}
    first.elbo.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_only_priors_that_can_read_a_condition_take_one() -> None:
    from vaelab.models.fits import refuse_misfits

    _, config, facts = built(("prior", "decoder"), name="standard")
    refuse_misfits(config, facts, frozenset())
    with pytest.raises(BadInput, match=r"it cannot depend on what is given beside a row; prior\.name=standard"):
        refuse_misfits(config.edited({"prior.name": "mixture"}), facts, frozenset())
    with pytest.raises(BadInput, match="no part reads what is given"):
        refuse_misfits(config.edited({"model.condition_on": ()}), facts, frozenset())


def test_the_reading_of_conditions_there_and_back() -> None:
    labels = Conditioning(("1", "2", "7"))
    assert labels.encode([7, "1", 2.0], 3).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert labels.decode(labels.encode(np.array([7, 1, -1]), 3)).tolist() == ["7", "1", ""]
    numbers = Conditioning(("age", "income"), (40.0, 1e3), (10.0, 500.0))
    given = np.array([[50, 500], [40, 1500]])
    assert numbers.encode(given, 2).tolist() == [[1, -1], [0, 1]]
    assert np.allclose(numbers.decode(numbers.encode(given, 2)), given)
    assert torch.equal(numbers.encode({"income": 500, "age": 50}, 4), numbers.encode([50, 500], 4))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("3", "'3'; no training row has that label"),
        ([1, 5], "'5' in row 1; no training row has that label"),
        ([1, 2, 1], "3 of them; there must be one for each of the 2 rows"),
    ],
)
def test_unknown_labels_are_refused_by_row_and_name(given: Any, text: str) -> None:
    with pytest.raises(BadInput) as told:
        Conditioning(("1", "2", "7")).encode(given, 2)
    assert text in str(told.value)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([[1, 2], [3, np.nan]], "nan in row 1, income"),
        ([1, 2, 3], "must be 2 numbers: age, income"),
        ({"age": 3}, "income; is missing"),
        ({"age": 3, "size": 1, "income": 2}, "size; is not what the model was trained on"),
        ("old", "must be 2 numbers"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(given: Any, text: str) -> None:
    with pytest.raises(BadInput) as told:
        Conditioning(("age", "income"), (0.0, 0.0), (1.0, 1.0)).encode(given, 2)
    assert text in str(told.value)


def test_a_single_number_is_asked_for_as_one() -> None:
    with pytest.raises(BadInput, match=r"must be a number: age"):
        Conditioning(("age",), (0.0,), (1.0,)).encode("old", 1)


def reading(rows: Any, condition: Any, index: np.ndarray | None = None, **settings: Any) -> Any:
    return conditioned(load(rows), build_config({"data": {"condition": condition}}, settings), index)


def test_columns_are_taken_out_and_standardised_by_the_training_rows_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(30, 4))
    path = tmp_path / "table.csv"
    np.savetxt(path, table, delimiter=",", header="a,b,c,d", comments="")
    index, held = split(30, 0.2, 0)
    source, found = reading(str(path), ["c", "a"], index)
    assert source.columns == ("b", "d") and found.names == ("c", "a")
    assert np.allclose(source.train, table[:, [1, 3]], atol=1e-6)
    assert np.allclose(found.mean, table[index][:, [2, 0]].mean(0))
    assert np.allclose(source.condition[index].std(0), 1, atol=1e-5)
    assert not np.allclose(source.condition[held].mean(0), 0, atol=1e-3)


def test_a_column_of_text_is_a_label_and_the_rest_stays_a_table(tmp_path: Path) -> None:
    path = tmp_path / "flowers.csv"
    path.write_text("kind,size,width\n" + "".join(f"{'ab'[row % 2]},{row},{row / 3}\n" for row in range(12)))
    source, found = reading(str(path), "kind")
    assert source.columns == ("size", "width") and source.train.dtype == np.float32
    assert found.names == ("a", "b") and found.frequencies == (6, 6)
    assert source.condition[:3].tolist() == [[1, 0], [0, 1], [1, 0]]
    path.write_text(path.read_text().replace("b,1,", ",1,"))
    with pytest.raises(BadInput, match="1 rows without a label, the first is row 1"):
        reading(str(path), "kind")
    source, found = reading(str(path), "kind", model={"missing_labels": "marginal"})
    assert np.isnan(source.condition[1]).all() and found.frequencies == (6, 5)
    with pytest.raises(BadInput, match="holds text, which is one label a row; name it alone"):
        reading(str(path), ["kind", "size"])


@pytest.mark.parametrize(
    ("data", "condition", "settings", "text"),
    [
        (np.zeros((9, 2)), "labels", {}, "has no labels"),
        ((np.zeros((9, 2)), [3] * 9), "labels", {}, "there must be two at least"),
        ((np.zeros((9, 2)), [3, 4, -1] * 3), "labels", {}, "3 rows without a label, the first is row 2"),
        ((np.zeros((9, 2)), ["a", "b", ""] * 3), "labels", {}, "3 rows without a label, the first is row 2"),
        ((np.zeros((9, 2)), [3, 4, np.nan] * 3), "labels", {}, "3 rows without a label, the first is row 2"),
        (np.zeros((9, 2)), "column_3", {}, "has no such column; did you mean"),
        (np.zeros((9, 2)), ["column_1", "column_2"], {}, "no column is left to learn"),
        (np.zeros((9, 2)), "array", {}, "no array called condition"),
        ({"x": np.zeros((9, 2)), "condition": np.array([0.0] * 8 + [np.nan])}, "array", {}, "row 8"),
        (np.zeros((9, 2)), None, {"data": {"labelled": 3}}, "data.labelled: got 3; needs a model that reads labels"),
        (
            (np.zeros((9, 2)), [3, 4, 5] * 3),
            "labels",
            {"data": {"labelled": 6}},
            "data.labelled: got 6; the other rows would have no label, and this model needs them all; "
            "model.missing_labels=marginal",
        ),
        (
            {"x_train": np.zeros((4, 2)), "y_train": [0, 1] * 2, "x_test": np.zeros((3, 2)), "y_test": [0, -1, 1]},
            "labels",
            {},
            "1 test rows without a label, the first is row 1",
        ),
    ],
)
def test_what_is_missing_is_refused(data: Any, condition: Any, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput) as told:
        reading(data, condition, **settings)
    assert text in str(told.value)


def test_labels_may_be_asked_for_that_are_all_kept() -> None:
    source, found = reading((np.zeros((9, 2)), [3, 4, 5] * 3), "labels", data={"labelled": 9})
    assert found.frequencies == (3, 3, 3) and not np.isnan(source.condition).any()


def test_a_label_that_no_training_row_has_is_refused_by_row_and_label() -> None:
    data = {"x_train": np.zeros((4, 2)), "y_train": [0, 1, 0, 1], "x_test": np.zeros((3, 2)), "y_test": [0, 1, 7]}
    with pytest.raises(BadInput, match=r"label 7 of row 2 \(counting from 0\) of the test rows; no training row"):
        reading(data, "labels")


@pytest.mark.parametrize("count", [3, 10, 17, 40])
def test_labels_are_kept_evenly_over_classes(count: int) -> None:
    codes = np.repeat([0, 1, 2], [20, 20, 4])
    kept = keep_labelled(codes, count, seed=3)
    found = np.bincount(kept[kept >= 0], minlength=3)
    assert found.sum() == count and np.array_equal(kept[kept >= 0], codes[kept >= 0])
    assert found[2] == min(4, math.ceil(count / 3)) or found.max() - found.min() <= 1
    assert np.array_equal(kept, keep_labelled(codes, count, 3))
    assert not np.array_equal(kept, keep_labelled(codes, count, 4))


def test_one_hot_of_a_label_that_is_not_known_is_nan() -> None:
    found = one_hot(np.array([1, -1]), 2)
    assert found[0].tolist() == [0, 1] and np.isnan(found[1]).all()


# A run, end to end ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("conditional")
    settings = {
        "data": {"condition": "labels"},
        "model": {"latent": 2, "hidden": [128]},
        "train": {"steps": 400, "learning_rate": 3e-3},
    }
    return vaelab.train("digits", out=folder / "run", config=settings, progress=False)


def recognised(rows: np.ndarray) -> np.ndarray:
    """The digits that a classifier trained on real ones sees."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    known = load_digits()
    return SVC(gamma=0.001).fit(known.data, known.target).predict(rows.reshape(len(rows), -1))


def test_samples_are_the_digits_that_were_asked_for(digits: Any) -> None:
    asked = np.arange(200) % 10
    assert (recognised(digits.sample(200, condition=asked)) == asked).mean() > 0.9
    assert np.array_equal(digits.sample(3, condition=4), digits.sample(3, condition=["4"] * 3))
    drawn = np.bincount(recognised(digits.sample(500)), minlength=10)
    assert drawn.min() > 20, "without a condition it is drawn as in the training rows"


def test_a_label_that_is_not_known_is_refused_by_a_model_that_cannot_guess(digits: Any) -> None:
    for use in (
        lambda: digits.sample(2, condition=[3, -1]),
        lambda: digits.decode(np.zeros((2, 2)), condition=[1, ""]),
    ):
        with pytest.raises(BadInput, match="no label in row 1; must be known: this model tells none; one of 0, 1, 2"):
            use()


def test_a_swapped_label_is_what_is_seen_afterwards(digits: Any) -> None:
    own = digits.preview_condition
    assert own.tolist() == [str(label) for label in digits.preview_labels]
    same, swapped = digits.reconstruct(digits.preview, own), digits.reconstruct(digits.preview, own, to=3)
    assert (recognised(swapped) == 3).mean() > 0.9 > 0.5 > (recognised(same) == 3).mean()
    assert np.allclose(same, digits.decode(digits.embed(digits.preview, condition=own), condition=own))


def test_uses_take_a_condition_and_ask_for_it(digits: Any) -> None:
    a, b = digits.preview[:2]
    line = digits.interpolate(a, b, 5, condition=digits.preview_condition[:2])
    ends = digits.reconstruct(digits.preview[:2], digits.preview_condition[:2])
    assert np.allclose(line[[0, -1]], ends, atol=1e-5)
    assert digits.traverse(condition=1, steps=3).shape == (2, 3, 8, 8)
    uses = lambda: digits.embed(digits.preview), lambda: digits.decode(np.zeros((1, 2))), digits.traverse
    for use in uses:
        with pytest.raises(
            BadInput, match="read what is given beside a row; give one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9: --condition"
        ):
            use()
    with pytest.raises(BadInput, match="'12'; no training row has that label"):
        digits.sample(2, condition=12)
    with pytest.raises(BadInput, match="its model does not tell labels"):
        digits.classify(digits.preview)


def test_the_run_is_read_back_as_it_was(digits: Any) -> None:
    again = vaelab.load(digits.folder)
    assert again.spec == digits.spec or again.spec.condition == digits.spec.condition
    assert np.array_equal(again.sample(4, condition=2), digits.sample(4, condition=2))
    assert again.preview_condition.tolist() == digits.preview_condition.tolist()


def test_evaluation_diagnosis_and_page_cope(digits: Any) -> None:
    found = vaelab.evaluate(digits, samples=20, metrics="reconstruction,latent,samples", rows=60)
    assert abs(found["bound.elbo"].value + digits.metrics["negative_elbo"]) < 5
    by_hand = vaelab.log_likelihood(digits, digits.preview[:5], 20, condition=digits.preview_labels[:5])
    wrong = vaelab.log_likelihood(digits, digits.preview[:5], 20, condition=(digits.preview_labels[:5] + 1) % 10)
    assert by_hand.mean > wrong.mean + 1
    assert vaelab.diagnose(digits).numbers["skill"].value > 0
    page = (digits.folder / "report.html").read_text()
    assert "Samples of each label" in page
    assert vaelab.check(None, "digits", config={"data": {"condition": "labels"}})


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(words))
    return int(done.value.code or 0)


def test_commands(digits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, rows = str(digits.folder), str(tmp_path / "rows.npy")
    assert command("sample", run, "--condition", "3", "--count", "20", "--to", rows) == 0
    assert (recognised(np.load(rows)) == 3).mean() > 0.8
    assert command("reconstruct", run, "--condition", "3", "--count", "20", "--to", rows) == 0
    assert (recognised(np.load(rows)) == 3).mean() > 0.8
    assert command("embed", run, "digits", "--to", str(tmp_path / "codes.csv"), "--count", "5") == 0
    assert command("interpolate", run, "--to", rows) == 0
    assert command("traverse", run, "--row", "1", "--to", rows) == 0
    assert command("evaluate", run, "--samples", "5", "--rows", "20", "--quiet") == 0
    capsys.readouterr()
    assert command("sample", run, "--condition", "cat", "--to", rows) == 2
    assert "'cat'; no training row has that label" in capsys.readouterr().err


def test_a_resumed_run_ends_at_the_same_weights_and_other_labels_are_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 3)), random.integers(0, 2, 60)
    settings = {"data": {"condition": "labels"}, "train": {"checkpoint_every": 10}, "report": {"html": False}}

    def run(steps: int, name: str) -> Any:
        config = settings | {"train": settings["train"] | {"steps": steps, "schedule": "constant"}}
        return vaelab.train((x, y), out=tmp_path / name, config=config, progress=False)

    whole, half = run(40, "whole"), run(20, "half")
    with pytest.raises(BadInput, match="name the same data"):
        vaelab.train((x, 1 - y), resume=half.folder, config={"train": {"steps": 40}}, progress=False)
    vaelab.train((x, y), resume=half.folder, config={"train": {"steps": 40}}, progress=False)
    lines = [[line for line in vaelab.load(one.folder).history if line.get("step") == 40] for one in (whole, half)]
    assert [line.get("negative_elbo") for line in lines[0]] == [line.get("negative_elbo") for line in lines[1]]


def test_numbers_as_conditions_end_to_end(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    given = random.normal(5, 3, size=(400, 1))
    x = np.concatenate([given, -given], 1) * 2 + 0.3 * random.normal(size=(400, 2))
    settings = {"data": {"condition": "array"}, "model": {"latent": 1, "hidden": [16]}, "train": {"steps": 500}}
    run = vaelab.train(
        {"x": x, "condition": given},
        out=tmp_path / "run",
        config=settings | {"report": {"html": False}},
        progress=False,
    )
    for value in (2.0, 8.0):
        assert np.allclose(run.sample(50, condition=value).mean(0), [2 * value, -2 * value], atol=1)
    assert np.allclose(run.preview_condition[:, 0] * 2, run.preview[:, 0], atol=1.5)
    assert run.sample(5).shape == (5, 2)
    assert vaelab.evaluate(run, samples=5)["bound.elbo"].value < 0
    with pytest.raises(BadInput, match="give one number a row: --condition"):
        run.decode(np.zeros((1, 1)))


def test_slices_of_a_batch_keep_their_conditions(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 3)), random.integers(0, 3, 60)
    ends = []
    for parts in (1, 3):
        train = {"steps": 20, "accumulate": parts, "batch_size": 30, "evaluate_every": 20}
        config = {"data": {"condition": "labels"}, "train": train, "report": {"html": False}}
        run = vaelab.train((x, y), out=tmp_path / str(parts), config=config, progress=False)
        ends.append(run.metrics["negative_elbo"])
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)
