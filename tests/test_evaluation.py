"""`evaluate`, `log_likelihood` and `ais` of runs: the data's own scale, which rows, and what is told about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import lognorm, multivariate_normal, norm
from sklearn.datasets import load_digits, load_wine
from torch import nn

import vaelab
from vaelab.cli import main
from vaelab.evaluation.judge import judge_bound, judge_bracket
from vaelab.evaluation.rows import given_rows, take
from vaelab.measure.estimate import Estimate
from vaelab.measure.exact import linear_gaussian_of
from vaelab.measure.importance import Bound, importance_bound

LINEAR = {"model": {"encoder": "linear", "decoder": "linear", "latent": 2}, "train": {"steps": 400}}
SHORT = {"train": {"steps": 60}, "report": {"html": False}}


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A linear model of standardised wine: log p(x) is a normal's, on the data's own scale too."""
    path = tmp_path_factory.mktemp("wine")
    np.save(path / "wine.npy", load_wine().data)
    config = LINEAR | {"report": {"html": False}}
    return vaelab.train(str(path / "wine.npy"), out=path / "run", config=config, progress=False)


@pytest.fixture(scope="module")
def bits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Digits, each gray level a probability."""
    out = tmp_path_factory.mktemp("bits") / "run"
    return vaelab.train("digits", out=out, config=SHORT | {"data": {"binarize": "dynamic"}}, progress=False)


def on_own_scale(run: Any, x: np.ndarray) -> np.ndarray:
    """log p(x) of a linear run by scipy, from the normal of the rows as the user has them."""
    ruler, transform = linear_gaussian_of(run.model), run.spec.transform
    scale = transform.scale.double().numpy()
    covariance = ruler.weight @ ruler.weight.T + np.diag(np.broadcast_to(ruler.variance, len(ruler.offset)))
    mean = transform.shift.double().numpy() + scale * ruler.offset
    return multivariate_normal(mean, covariance * np.outer(scale, scale)).logpdf(x)


def test_a_run_s_log_likelihood_is_that_of_the_rows_as_they_were_given(wine: Any) -> None:
    rows = load_wine().data[:40]
    bound = vaelab.log_likelihood(wine, rows, samples=4000)
    exact = on_own_scale(wine, rows)
    assert bound.unit == "nats per sample"
    assert np.abs(bound.values - exact).max() < 6 * np.sqrt(bound.variance).max() + 1e-3
    assert bound.mean == pytest.approx(exact.mean(), abs=4 * bound.sampling_error + 1e-3)
    assert np.abs(bound.values - exact).max() < 0.5 < np.abs(wine.spec.log_abs_det)


def test_annealing_a_run_holds_the_truth_between_its_sides(wine: Any) -> None:
    rows = load_wine().data[:6]
    bracket, exact = vaelab.ais(wine, rows, steps=300, chains=16), on_own_scale(wine, rows)
    assert bracket.lower.mean() == pytest.approx(exact.mean(), abs=0.05)
    assert bracket.upper.mean() == pytest.approx(exact.mean(), abs=0.05)


def test_the_parts_of_a_bound_are_all_on_the_scale_of_the_rows(wine: Any) -> None:
    bound = vaelab.log_likelihood(wine, wine.preview, samples=500)
    assert (bound.elbo < bound.values + 0.5).all()
    assert -bound.elbo.mean() == pytest.approx(wine.metrics["negative_elbo"], abs=0.1)
    assert bound.gain.value == pytest.approx((bound.values - bound.half).mean())


def test_rows_of_a_run_are_all_its_held_out_rows_and_are_said_to_be(wine: Any, bits: Any) -> None:
    found = vaelab.evaluate(wine, samples=20)
    assert "18 of 18 held-out rows of" in found.facts["rows"] and "chose which weights" in found.facts["rows"]
    assert found["bound.log_likelihood"].unit == "nats per sample"
    assert "drawn once as a bit, with seed 0" in vaelab.evaluate(bits, samples=5, rows=10).facts["values"]


def test_bits_are_drawn_from_the_gray_levels_by_the_seed(bits: Any) -> None:
    gray = load_digits().images[:300]
    drawn = given_rows(bits, gray, seed=1)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(drawn, given_rows(bits, gray, seed=1))
    assert not torch.equal(drawn, given_rows(bits, gray, seed=2))
    assert drawn.double().mean().item() == pytest.approx(gray.mean() / 16, abs=0.01)
    assert "drawn once as a bit, with seed 3" in repr(vaelab.log_likelihood(bits, gray[:2], 5, seed=3))
    once, again = (vaelab.log_likelihood(bits, gray[:5], 50, seed=3).mean for _ in range(2))
    assert once == again


def test_rows_of_a_moved_or_changed_file_are_the_kept_ones(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    np.save(tmp_path / "x.npy", rows)
    run = vaelab.train(str(tmp_path / "x.npy"), out=tmp_path / "run", config=SHORT, progress=False)
    whole = take(run, None, 0, None)
    np.save(tmp_path / "x.npy", rows + 1)
    changed = take(vaelab.load(tmp_path / "run"), None, 0, None)
    (tmp_path / "x.npy").unlink()
    gone = take(vaelab.load(tmp_path / "run"), None, 0, None)
    assert whole.kept_only == "" and "other rows" in changed.kept_only and "x.npy" in gone.kept_only
    assert torch.allclose(whole.x, gone.x) and torch.allclose(whole.x, changed.x)
    assert any(finding.code == "EV110" for finding in vaelab.evaluate(tmp_path / "run", samples=5).findings)


def test_dequantised_rows_bound_the_mass_of_whole_numbers(tmp_path: Path) -> None:
    """Rolls of a fair die have the variance 35/12; under a normal of it, noise of width 1 adds 1/12 to the squares."""
    rolls = np.random.default_rng(0).integers(1, 7, size=(600, 4)).astype(float)
    config = LINEAR | {"likelihood": "gaussian", "data": {"scale": "standardize"}, "report": {"html": False}}
    run = vaelab.train(rolls, out=tmp_path / "run", config=config, progress=False)
    plain, noisy = (vaelab.log_likelihood(run, rolls, 200, dequantize=given) for given in (False, True))
    assert noisy.mean < -4 * np.log(6)
    half_log = 0.5 * np.log(2 * np.pi * 35 / 12)
    assert noisy.mean == pytest.approx(-4 * (half_log + 36 / 70), abs=0.03)
    assert plain.mean == pytest.approx(-4 * (half_log + 35 / 70), abs=0.03)
    assert any(finding.code == "EV111" for finding in vaelab.evaluate(run, rolls, samples=5).findings)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"samples": 0}, "samples: got 0"),
        ({"rows": 0}, "rows: got 0"),
        ({"metrics": "blur"}, "metrics: got blur"),
        ({"dequantize": True}, "dequantize"),
        ({"ais": {"stepz": 3}}, "did you mean steps"),
        ({"ais": {"steps": 1}}, "steps: got 1"),
        ({"x": np.zeros((3, 5))}, "shape (3, 5)"),
        ({"metrics": "disentanglement"}, "factors"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(wine: Any, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(vaelab.BadInput) as refused:
        vaelab.evaluate(wine, **({"samples": 5} | arguments))
    assert told in str(refused.value)


def test_a_loose_bound_is_told_and_a_tight_one_is_not() -> None:
    torch.manual_seed(0)
    decoder = nn.Linear(3, 30)
    narrow = nn.Linear(30, 6)
    nn.init.zeros_(narrow.weight)
    narrow.bias.data = torch.tensor([3.0, 3.0, 3.0, -2.0, -2.0, -2.0])  # far from any posterior, and sure of it
    model = vaelab.VAE(narrow, decoder, likelihood="gaussian", latent=3)
    rows = torch.randn(200, 30)
    assert "EV101" in {finding.code for finding in judge_bound(importance_bound(model, rows, 200))}
    nn.init.zeros_(decoder.weight)
    narrow.bias.data.zero_()  # z says nothing, and q is the prior: exact
    assert "EV101" not in {finding.code for finding in judge_bound(importance_bound(model, rows, 200))}


def test_gray_levels_under_a_bernoulli_are_said_to_be_no_likelihood(tmp_path: Path) -> None:
    run = vaelab.train("digits", out=tmp_path / "run", config=SHORT | {"likelihood": "bernoulli"}, progress=False)
    assert "EV112" in {finding.code for finding in vaelab.evaluate(run, samples=5).findings}


def test_a_model_and_functions_take_arrays_and_tensors() -> None:
    model = vaelab.VAE(nn.Linear(4, 4), nn.Linear(2, 4), likelihood="gaussian", latent=2)
    rows = np.random.default_rng(0).normal(size=(3, 4))
    functions = {
        "encode": lambda x: tuple(model.encoder(x).chunk(2, -1)),
        "log_px": lambda x, z: model.decode(z).log_prob(x)[0],
        "log_pz": lambda z: -0.5 * (z.square() + np.log(2 * np.pi)).sum(1),
    }
    ours = vaelab.log_likelihood(model, rows, 50)
    theirs = vaelab.log_likelihood(functions, torch.tensor(rows).float(), 50)
    assert np.allclose(ours.values, theirs.values, atol=1e-4)
    with pytest.raises(vaelab.BadInput, match="needs a run"):
        vaelab.log_likelihood(model, rows, 5, dequantize=True)


def test_an_evaluation_is_kept_and_shown_on_the_page(wine: Any) -> None:
    found = vaelab.evaluate(wine, samples=30, metrics="reconstruction")
    kept = vaelab.load(wine.folder)
    assert kept.evaluation["numbers"]["bound"] == json.loads(json.dumps(found.to_dict()["numbers"]["bound"]))
    page = vaelab.write_report(kept).read_text()
    assert "gain of last half" in page and "Reconstruction" in page


def status(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_the_command_prints_every_number_with_its_unit(wine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(wine.folder), "--samples", "20", "--metrics", "reconstruction,latent", "--quiet"]
    assert status(arguments) == 0
    told = capsys.readouterr().out
    for word in ("held-out rows of", "nats per sample", "log likelihood", "mutual"):
        assert word in told
    assert status([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["numbers"]["bound"]["elbo"]["unit"] == "nats per sample"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["evaluate"], "vaelab: run: there is nothing to evaluate"),
        (["evaluate", "RUN", "--steps", "5"], "add --ais"),
        (["evaluate", "RUN", "--metrics", "reconstructon"], "reconstruction"),
        (["evaluate", "RUN", "--self-test"], "leave the run out"),
        (["evaluate", "nowhere"], "nowhere"),
        (["evaluate", "RUN", "nofile.npy"], "nofile.npy"),
        (["rate-distortion", "digits", "--beta", "1,x"], "beta"),
        (["intrinsic-dimension", "--latent", "2"], "source"),
    ],
)
def test_wrong_calls_end_with_status_two_and_one_line(
    wine: Any, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status([str(wine.folder) if word == "RUN" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error


# What a new user met -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 2), (40, 1), (2,), ()])
def test_a_log_variance_that_is_shared_counts_in_every_dimension(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, log_variance = torch.randn(40, 2), torch.full(shape, -0.7)
    functions = {
        "encode": lambda rows: (0.5 * rows, log_variance),
        "log_px": lambda rows, z: torch.distributions.Normal(z, 1.0).log_prob(rows).sum(1),
    }
    exact = torch.distributions.Normal(0.0, 2**0.5).log_prob(x).sum(1).numpy()
    assert vaelab.log_likelihood(functions, x, 2000).mean == pytest.approx(exact.mean(), abs=0.005)


@pytest.mark.parametrize(
    ("encode", "told"),
    [
        (lambda x: (x, x, x), "encode: got 3 results"),
        (lambda x: (x[:, None], x[:, None]), "encode: got mean (5, 1, 2)"),
        (lambda x: (x, torch.zeros(5, 3)), "log-variance (5, 3)"),
        (lambda x: (x[:2], x[:2]), "encode: got 2 posteriors for 5 rows"),
    ],
)
def test_an_encoder_of_other_shapes_is_refused(encode: Any, told: str) -> None:
    functions = {"encode": encode, "log_px": lambda x, z: -(x - z).square().sum(1)}
    with pytest.raises(vaelab.BadInput) as refused:
        vaelab.log_likelihood(functions, torch.zeros(5, 2), 10)
    assert told in str(refused.value)


def test_both_halves_in_one_tensor_are_a_pair() -> None:
    torch.manual_seed(0)
    log_px = lambda x, z: -(x - z).square().sum(1)  # noqa: E731
    together, apart = (
        {"encode": encode, "log_px": log_px} for encode in (lambda x: torch.cat([x, x - 1], 1), lambda x: (x, x - 1))
    )
    x = torch.randn(4, 2)
    assert vaelab.log_likelihood(together, x, 20).mean == vaelab.log_likelihood(apart, x, 20).mean


@pytest.mark.parametrize(
    ("likelihood", "value"),
    [("bernoulli", -0.5), ("bernoulli", 1.5), ("continuous_bernoulli", 2.0), ("poisson", 0.5), ("poisson", -1.0)],
)
def test_rows_outside_the_likelihood_are_refused_by_entry(likelihood: str, value: float) -> None:
    model = vaelab.VAE(nn.Linear(3, 4), nn.Linear(2, 3), likelihood=likelihood, latent=2)
    rows = torch.zeros(6, 3)
    rows[4, 1] = value
    for call in (vaelab.log_likelihood, vaelab.ais):
        with pytest.raises(vaelab.BadInput, match=r"in entry 1 of row 4"):
            call(model, rows, 5)


def test_levels_beyond_a_categorical_are_refused() -> None:
    model = vaelab.VAE(nn.Linear(3, 4), nn.Linear(2, 3 * 256), likelihood="categorical", latent=2)
    with pytest.raises(vaelab.BadInput, match="whole numbers from 0 to 255"):
        vaelab.log_likelihood(model, torch.full((2, 3), 302.0), 5)


def test_nan_is_refused_and_an_impossible_row_is_an_error() -> None:
    functions = {"encode": lambda x: (x, torch.zeros_like(x)), "log_px": lambda x, z: x[:, 0]}
    with pytest.raises(vaelab.BadInput, match=r"row 2, for which log p\(x\|z\) is NaN"):
        vaelab.log_likelihood({**functions, "encode": lambda x: (0 * x.nan_to_num(), 0 * x.nan_to_num())},
                              torch.tensor([[0.0], [1.0], [np.nan]]), 5)  # fmt: skip
    functions["log_px"] = lambda x, z: torch.where(x[:, 0] > 0, 0.0, -torch.inf)
    bound = vaelab.log_likelihood(functions, torch.tensor([[1.0], [-1.0]]), 50)
    assert np.isfinite(bound.values[0]) and np.isneginf(bound.values[1])
    assert [finding.code for finding in judge_bound(bound)] == ["EV103"]


def test_a_huge_number_of_samples_is_refused_with_what_it_would_take(wine: Any) -> None:
    with pytest.raises(vaelab.BadInput, match=r"samples: got 1000000000; the noise of one row would take 7.5 GiB"):
        vaelab.log_likelihood(wine, wine.preview, samples=10**9)


def test_rows_that_were_trained_on_are_said_to_be(wine: Any) -> None:
    found = vaelab.evaluate(wine, load_wine().data, samples=5)
    told = next(finding for finding in found.findings if finding.code == "EV113")
    assert told.measured == 160 and not any(f.code == "EV113" for f in vaelab.evaluate(wine, samples=5).findings)


def test_only_an_evaluation_of_all_held_out_rows_is_kept_and_groups_add_up(wine: Any) -> None:
    vaelab.evaluate(wine, samples=5, metrics="reconstruction")
    vaelab.evaluate(wine, samples=7)
    vaelab.evaluate(wine, load_wine().data[:3], samples=5)
    vaelab.evaluate(wine, samples=5, rows=2)
    kept = vaelab.load(wine.folder).evaluation
    assert {"bound", "reconstruction"} <= set(kept["numbers"])
    assert kept["facts"]["rows"].startswith("18 of 18") and "K = 7" in kept["facts"]["samples"]


def test_columns_without_names_are_matched_by_position(wine: Any, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = load_wine().data[:9]
    plain = vaelab.log_likelihood(wine, rows, 20).mean
    assert vaelab.log_likelihood(wine, pandas.DataFrame(rows), 20).mean == plain
    np.save(tmp_path / "wide.npy", np.hstack([rows, rows]))
    with pytest.raises(vaelab.BadInput, match="26"):
        vaelab.evaluate(wine, str(tmp_path / "wide.npy"), samples=5)


def test_one_row_and_one_sample_have_no_interval_and_say_nothing_of_it(wine: Any) -> None:
    shown = str(vaelab.evaluate(wine, wine.preview[:1], samples=1))
    assert "inf" not in shown and "nan" not in shown


# What nothing noticed when it was broken ------------------------------------------------------------------------------


def test_the_headline_of_an_evaluation_is_that_of_the_rows_as_given(wine: Any) -> None:
    held_out = wine.preview
    found, exact = vaelab.evaluate(wine, samples=2000), on_own_scale(wine, wine.preview)
    bound = vaelab.log_likelihood(wine, held_out, 2000)
    assert found["bound.log_likelihood"].value == pytest.approx(bound.mean, abs=1e-6)
    assert found["bound.log_likelihood"].value == pytest.approx(exact.mean(), abs=0.02)
    error = found["bound.log_likelihood_of_these_rows"].interval
    assert error == pytest.approx(1.959964 * bound.sampling_error, rel=1e-6)


def test_annealing_in_an_evaluation_is_of_the_rows_that_it_names(wine: Any) -> None:
    """Twelve of all rows, evenly spaced: their exact mean, and the bound of these very rows beside it."""
    rows = load_wine().data
    found = vaelab.evaluate(wine, rows, samples=2000, rows=12, ais={"steps": 100, "chains": 8})
    exact = on_own_scale(wine, rows[np.linspace(0, 177, 12).astype(int)]).mean()
    for name in ("ais.lower", "ais.upper", "ais.importance_bound_of_these_rows", "bound.log_likelihood"):
        assert found[name].value == pytest.approx(exact, abs=0.1), name
    assert abs(found["ais.gain_over_importance_bound"].value) < 0.1
    assert found["ais.between_for_these_rows"].low < exact < found["ais.between_for_these_rows"].high


def test_the_annealed_rows_are_compared_with_their_own_bound(bits: Any) -> None:
    """Fifty of 180 rows where none were asked for: their bound is the mean of theirs, not of the first fifty."""
    found = vaelab.evaluate(bits, samples=20, ais={"steps": 2, "chains": 1})
    spaced = np.linspace(0, 179, 50).astype(int)
    taken = take(bits, None, 0, None).x
    values = importance_bound(bits.model, taken, 20).values[spaced]
    assert found["ais.rows"].value == 50
    assert found["ais.importance_bound_of_these_rows"].value == pytest.approx(values.mean(), abs=1e-6)


def test_bits_per_dimension_are_those_of_a_mass_and_of_dequantised_rows(bits: Any, tmp_path: Path) -> None:
    found = vaelab.evaluate(bits, samples=20)
    assert found["bound.bits_per_dimension"].value == pytest.approx(
        -found["bound.log_likelihood"].value / (64 * np.log(2))
    )
    assert found["bound.bits_per_dimension"].value > 0
    rolls = np.random.default_rng(0).integers(1, 7, size=(60, 4)).astype(float)
    config = SHORT | {"likelihood": "gaussian", "data": {"scale": "standardize"}}
    run = vaelab.train(rolls, out=tmp_path / "run", config=config, progress=False)
    assert "bits_per_dimension" in vaelab.evaluate(run, rolls, samples=5, dequantize=True).numbers["bound"]
    assert "bits_per_dimension" not in vaelab.evaluate(run, rolls, samples=5).numbers["bound"]


def test_heavy_tails_and_wide_gaps_are_told() -> None:
    count = 40
    numbers = {name: np.full(count, -3.0) for name in ("values", "elbo", "half")}
    heavy = Bound(**numbers, ess=np.ones(count), k_hat=np.full(count, 0.9), variance=np.zeros(count),
                  samples=100, dimensions=3)  # fmt: skip
    told = {finding.code: finding.severity for finding in judge_bound(heavy)}
    assert told["EV102"] == "warning"
    some = replace(heavy, k_hat=np.where(np.arange(count) < 8, 0.9, 0.2))
    assert {finding.code: finding.severity for finding in judge_bound(some)}["EV102"] == "info"
    light = replace(heavy, k_hat=np.full(count, 0.2))
    assert "EV102" not in {finding.code for finding in judge_bound(light)}
    bracket = SimpleNamespace(lower=np.full(5, -3.0), unit="nats per sample")
    codes = [[f.code for f in judge_bracket(bracket, Estimate(gap, 0.1, "nats"))] for gap in (1.5, 0.5)]
    assert codes == [["EV120", "EV121"], ["EV120"]]


def test_narrow_posteriors_lose_no_digits() -> None:
    """log q from the noise: a deviation of 1e-7 is below the rounding of a mean of 1 in float32."""
    x = torch.ones(3, 2)
    found = []
    for kind in (torch.float32, torch.float64):
        log_variance = torch.full((3, 2), 2 * np.log(1e-7), dtype=kind)
        functions = {
            "encode": lambda rows, spread=log_variance: (rows, spread),
            "log_px": lambda rows, z: torch.distributions.Normal(z, 1.0).log_prob(rows).sum(1),
        }
        found.append(vaelab.log_likelihood(functions, x.to(kind), 50).mean)
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_a_posterior_without_a_mean_is_taken() -> None:
    """A flow knows its density and its draws alone: z = exp(n) about the truth of a log-normal prior is exact."""
    td = torch.distributions
    flow = lambda count: td.TransformedDistribution(  # noqa: E731
        td.Normal(torch.zeros(count, 1), 1.0), [td.ExpTransform()]
    )
    functions = {
        "encode": lambda x: td.Independent(flow(len(x)), 1),
        "log_px": lambda x, z: td.Normal(z, 1.0).log_prob(x).sum(1),
        "log_pz": lambda z: td.LogNormal(0.0, 1.0).log_prob(z).sum(1),
    }
    x = torch.tensor([[1.0], [2.0]])
    bound = vaelab.log_likelihood(functions, x, 20_000)
    z = np.exp(np.linspace(-8, 8, 20_001))
    density = norm.pdf(x.numpy(), z) * lognorm.pdf(z, 1.0)
    exact = np.log(np.trapezoid(density, z, axis=1))
    assert np.allclose(bound.values, exact, atol=0.03)


def test_groups_that_do_not_apply_are_refused_before_the_bound(wine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelab.evaluation.run.importance_bound", lambda *a, **b: pytest.fail("computed the bound"))
    with pytest.raises(vaelab.BadInput):
        vaelab.evaluate(wine, metrics="disentanglement")
    with pytest.raises(vaelab.BadInput):
        vaelab.evaluate(wine, inception="nofile.pth")


def test_an_annealing_stays_kept_with_its_findings_until_the_seed_changes(bits: Any) -> None:
    vaelab.evaluate(bits, samples=5, ais={"steps": 2, "chains": 1})
    vaelab.evaluate(bits, samples=6)
    kept = vaelab.load(bits.folder).evaluation
    assert "ais" in kept["numbers"] and "EV120" in {finding["code"] for finding in kept["findings"]}
    vaelab.evaluate(bits, samples=6, seed=1)
    assert "ais" not in vaelab.load(bits.folder).evaluation["numbers"]


def test_a_damaged_evaluation_is_told_by_its_name(bits: Any) -> None:
    path = bits.folder / "evaluation.json"
    before = path.read_text() if path.exists() else None
    path.write_text(json.dumps({"step": bits.metrics["step"], "numbers": {"bound": {"elbo": 3}}}))
    with pytest.raises(vaelab.VaelabError, match=r"evaluation\.json: no evaluation"):
        _ = vaelab.load(bits.folder).evaluation
    path.unlink()
    if before is not None:
        path.write_text(before)


def test_large_real_numbers_are_not_taken_for_whole_ones(tmp_path: Path) -> None:
    rows = 2e5 + np.random.default_rng(0).normal(0, 3e4, size=(60, 3)).round(1)
    run = vaelab.train(rows, out=tmp_path / "run", config=SHORT, progress=False)
    assert not any(f.code == "EV111" for f in vaelab.evaluate(run, rows, samples=5).findings)


def test_codes_without_noise_are_measured_by_what_they_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SHORT | {"objective": "wae", "model": {"posterior": "delta"}}
    run = vaelab.train("digits", out=tmp_path / "run", config=config, progress=False)
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(tmp_path / "run"), "--quiet"])
    assert "no bound on log p(x); measure what it has: --metrics reconstruction,samples" in capsys.readouterr().err
    found = vaelab.evaluate(run, metrics="reconstruction,samples")
    assert set(found.numbers) == {"reconstruction", "samples"} and not found.findings
    back = run.reconstruct(run.preview)
    assert found["reconstruction.mse"].value == pytest.approx(
        np.square(back - run.preview.reshape(back.shape)).mean(), rel=1e-4
    )
