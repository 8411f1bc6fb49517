"""Missing entries left out, and filled in, against closed forms, brute force and real tables."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from gappy_rows import gaps, linear_rows
from scipy import integrate, special, stats

import vaelab
from vaelab.cli import main as command_line
from vaelab.core.errors import BadInput
from vaelab.core.missing import over_known, stood_in
from vaelab.data.summary import summarise
from vaelab.distributions import LIKELIHOODS
from vaelab.distributions.incomplete import Incomplete, IncompleteObservation, SelfMasking
from vaelab.distributions.likelihoods import Gaussian
from vaelab.models.prepare import Filled
from vaelab.use.imputing import impute
from vaelab.use.mixing import Completed, even_mixture

DOUBLE = {"dtype": torch.float64}
QUIET = {"report": {"html": False}}
BY_ENTRY = [name for name, kind in LIKELIHOODS.items() if kind.by_entry and name != "tokens"]


def main(arguments: list[str]) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        command_line(arguments)
    return int(ended.value.code or 0)


# ---------------------------------------------------------------------------------------------------------- statistics
def test_statistics_leave_missing_entries_out() -> None:
    rows = gaps(linear_rows(), 0.3)
    rows[0] = np.nan
    found = summarise(rows)
    np.testing.assert_allclose(found.mean, np.nanmean(rows.astype(float), 0))
    np.testing.assert_allclose(found.std, np.nanstd(rows.astype(float), 0))
    assert (found.minimum, found.maximum) == (np.nanmin(rows), np.nanmax(rows))
    assert found.between == pytest.approx(1 - 2 / np.isfinite(rows).sum())


def test_known_entries_stand_in_for_missing_ones() -> None:
    rows = gaps(linear_rows(), 0.4)
    filled = stood_in(rows)
    known = ~np.isnan(rows)
    assert (filled[known] == rows[known]).all() and np.isfinite(filled).all()
    for column, own in zip(filled.T, rows.T, strict=True):
        assert set(column) == set(own[~np.isnan(own)])
    some = rows[np.isfinite(rows).any(1)]
    np.testing.assert_allclose(over_known(rows), np.nanmean(some, 1), rtol=1e-6)


# -------------------------------------------------------------------------------------------------------- distributions
@pytest.mark.parametrize("name", BY_ENTRY)
def test_a_row_with_gaps_has_the_log_density_of_what_is_known(name: str) -> None:
    torch.manual_seed(0)
    complete = LIKELIHOODS[name]().double()
    parameters = torch.randn(2, 3, complete.channels, 5, **DOUBLE)
    x = torch.randint(0, 2, (3, 5)).double()
    missing = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    with_gaps = torch.where(missing, torch.nan, x)
    wrapped = Incomplete(complete)
    found = wrapped(parameters).log_prob(with_gaps)
    for row in range(3):
        kept = ~missing[row]
        alone = complete(parameters[:, row : row + 1][..., kept]).log_prob(x[row : row + 1, kept])[:, 0]
        torch.testing.assert_close(found[:, row], alone if kept.any() else torch.zeros_like(alone))
    assert wrapped.holds(with_gaps).all() and wrapped.channels == complete.channels
    assert wrapped.layout((5,)) == complete.layout((5,))


@pytest.mark.parametrize(("direction", "slope"), [("self", -1.7), ("above", 0.9), ("below", 2.0)])
def test_the_chance_of_a_gap_is_integrated_over_its_value(direction: str, slope: float) -> None:
    """Against adaptive quadrature: the log-mass, the mean given that a value is missing, and draws of it."""
    mean, sigma, offset = 0.4, 0.8, -0.3
    masking = SelfMasking((1,), direction).double()
    with torch.no_grad():
        masking.offset.fill_(offset), masking.slope.fill_(slope)
    softplus = math.log1p(math.exp(slope))
    weight = {"self": slope, "above": softplus, "below": -softplus}[direction]

    def chance(x: float) -> float:
        return float(special.expit(offset + weight * x))

    def moment(power: int) -> float:
        return integrate.quad(lambda x: x**power * chance(x) * stats.norm.pdf(x, mean, sigma), -9, 9)[0]

    normal = Gaussian("fixed", sigma).double()(torch.full((1, 1, 1, 1), mean, **DOUBLE))
    observation = IncompleteObservation(normal, masking)
    gone = observation.log_prob(torch.full((1, 1), torch.nan, **DOUBLE)).item()
    assert gone == pytest.approx(math.log(moment(0)), abs=1e-6)
    seen = observation.log_prob(torch.full((1, 1), 0.7, **DOUBLE)).item()
    assert seen == pytest.approx(stats.norm.logpdf(0.7, mean, sigma) + math.log(1 - chance(0.7)), abs=1e-6)
    expected = moment(1) / moment(0)
    assert observation.mean_if_missing.item() == pytest.approx(expected, abs=1e-5)
    many = IncompleteObservation(Gaussian("fixed", sigma)(torch.full((20_000, 1, 1, 1), mean)), masking.float())
    drawn = many.sample_if_missing(torch.Generator().manual_seed(0)).mean().item()
    assert drawn == pytest.approx(expected, abs=5 * sigma / math.sqrt(20_000))


def test_an_encoder_sees_the_mean_and_a_flag() -> None:
    filled = Filled(torch.log1p, (3,), (0, 2))
    rows = torch.tensor([[1.0, 2.0, torch.nan], [torch.nan, 4.0, 5.0], [3.0, 6.0, 7.0]])
    filled.see(rows)
    seen = filled(rows)
    assert filled.shape == (5,)
    torch.testing.assert_close(seen[:, 3:], torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(seen[0, 2], torch.tensor([5.0, 7.0]).log1p().mean())
    torch.testing.assert_close(seen[2, :3], rows[2].log1p())


# ------------------------------------------------------------------------------------------------------------ the whole
@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory):
    """A linear model of rows with gaps: its p(x_missing|x_known) is a normal distribution in closed form."""
    rows = gaps(linear_rows(), 0.3)
    settings = {
        "model": {"encoder": "linear", "decoder": "linear", "latent": 2},
        "objective": {"name": "iwae", "samples": 5},
        "train": {"steps": 600},
        **QUIET,
    }
    return vaelab.train(rows, out=tmp_path_factory.mktemp("run") / "a", config=settings, progress=False), rows


def conditional(run, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the missing entries of a row given the known ones, by the formula for normals."""
    layer = next(module for module in run.model.decoder.modules() if isinstance(module, torch.nn.Linear))
    weight, bias = (part.detach().double().numpy() for part in (layer.weight, layer.bias))
    sigma = math.exp(run.model.decoder.likelihood.complete.noise.log_sigma.item())
    cov = weight @ weight.T + sigma**2 * np.eye(len(bias))
    shift, scale = (np.asarray(part, float) for part in (run.spec.transform.shift, run.spec.transform.scale))
    y, gone = (row - shift) / scale, np.isnan(row)
    gain = cov[np.ix_(gone, ~gone)] @ np.linalg.inv(cov[np.ix_(~gone, ~gone)])
    mean = bias[gone] + gain @ (y[~gone] - bias[~gone])
    spread = np.sqrt(np.diag(cov[np.ix_(gone, gone)] - gain @ cov[np.ix_(~gone, gone)]))
    return mean * scale[gone] + shift[gone], spread * scale[gone]


def test_guesses_draws_and_intervals_are_those_of_the_exact_posterior(linear) -> None:
    run, rows = linear
    some = rows[:40]
    found = impute(run, some, samples=4000, draws=200, interval=0.9)
    median = impute(run, some, samples=4000, summary="median").rows
    errors, z, width, middle = [], [], [], []
    for row in np.flatnonzero(np.isnan(some).any(1) & ~np.isnan(some).all(1)):
        gone = np.isnan(some[row])
        mean, std = conditional(run, some[row].astype(float))
        errors += ((found.rows[row, gone] - mean) / std).tolist()
        middle += ((median[row, gone] - mean) / std).tolist()
        z += ((np.mean([one[row, gone] for one in found.draws], 0) - mean) / std * math.sqrt(200)).tolist()
        width += ((found.upper[row, gone] - found.lower[row, gone]) / std).tolist()
    assert np.abs(errors).max() < 0.15 and np.sqrt(np.mean(np.square(errors))) < 0.04
    assert np.sqrt(np.mean(np.square(middle))) < 0.06
    assert np.mean(np.square(z)) == pytest.approx(1, abs=0.5)
    assert np.mean(width) == pytest.approx(2 * stats.norm.ppf(0.95), rel=0.02)


def test_what_is_known_stays_as_it_was_and_what_is_missing_is_counted(linear) -> None:
    run, rows = linear
    found = impute(run, rows, samples=50, draws=2, interval=0.5)
    gone = np.isnan(rows)
    assert found.filled == gone.sum() and (found.missing == gone).all()
    for table in (found.rows, *found.draws):
        assert table.dtype == rows.dtype and (table[~gone] == rows[~gone]).all() and np.isfinite(table).all()
    assert np.isnan(found.lower[~gone]).all() and (found.lower[gone] <= found.upper[gone]).all()
    incomplete = gone.any(1)
    assert np.isnan(found.ess[~incomplete]).all() and (found.ess[incomplete] >= 1).all()
    assert (impute(run, rows, samples=50, draws=2).rows == found.rows).all()
    assert not (impute(run, rows, samples=50, seed=1).rows == found.rows).all()


def test_a_frame_comes_back_as_a_frame(linear) -> None:
    pandas = pytest.importorskip("pandas")
    run, rows = linear
    frame = pandas.DataFrame(rows[:20].astype(float), columns=[f"column_{at + 1}" for at in range(4)])
    frame["word"] = "kept"
    turned = frame[["column_3", "word", "column_1", "column_4", "column_2"]]
    found = impute(run, turned, samples=100).rows
    assert list(found.columns) == list(turned.columns) and (found["word"] == "kept").all()
    plain = impute(run, rows[:20], samples=100).rows
    np.testing.assert_allclose(found[list(run.spec.columns)].to_numpy(), plain, rtol=1e-6, atol=1e-6)


def test_a_run_of_complete_rows_fills_gaps_too_and_says_so(tmp_path: Path) -> None:
    rows = linear_rows().astype(np.float32)
    settings = {"train": {"steps": 800}, "model": {"latent": 2}, **QUIET}
    run = vaelab.train(rows, out=tmp_path / "a", config=settings, progress=False)
    holed = gaps(rows, 0.25, seed=3)
    found = impute(run, holed, samples=300)
    gone = np.isnan(holed)
    assert [finding.code for finding in found.findings][:1] == ["IM101"]
    assert ((found.rows - rows)[gone] ** 2).mean() < 0.5 * rows[gone].var()
    with pytest.raises(BadInput, match=r"missing.*vaelab impute"):
        run.embed(holed)


def test_gaps_that_depend_on_the_value_are_filled_higher_by_a_model_of_the_mask() -> None:
    """Values above 0 go missing: under a normal p(x|z) and a steep π a gap's mean is that of the upper half."""
    masking = SelfMasking((1,), "above")
    with torch.no_grad():
        masking.slope.fill_(40.0), masking.offset.fill_(0.0)
    normal = Gaussian("fixed", 1.0)(torch.zeros(1, 1, 1, 1))
    half_normal = math.sqrt(2 / math.pi)
    assert IncompleteObservation(normal, masking).mean_if_missing.item() == pytest.approx(half_normal, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"likelihood": {"name": "gaussian", "noise": "optimal"}}, "likelihood.noise"),
        ({"prior": {"name": "vamp", "components": 5}}, "prior.name"),
        ({"data": {"mask_model": "self"}, "likelihood": {"name": "laplace"}}, "data.mask_model"),
        ({"data": {"missing": "refuse"}}, "a missing entry"),
        ({"objective": {"adversarial": 0.1}}, "objective.adversarial"),
    ],
)
def test_what_needs_complete_rows_is_refused_by_name(tmp_path: Path, settings: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        vaelab.train(gaps(linear_rows(), 0.2), out=tmp_path / "a", config=settings, progress=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "a").exists()


def test_the_command_leaves_what_was_written_to_the_letter(linear, tmp_path: Path, capsys) -> None:
    run, _ = linear
    gaps_file, filled_file = tmp_path / "gaps.csv", tmp_path / "filled.csv"
    gaps_file.write_text("name;column_2;column_1;column_4;column_3\na;1,50;NA;;0,25\nb;-1,00;2;3,0;1e-1\n;;;;\n")
    assert main(["impute", str(run.folder), str(gaps_file), "--to", str(filled_file), "--samples", "200"]) == 0
    lines = filled_file.read_text().splitlines()
    assert lines[0] == "name;column_2;column_1;column_4;column_3" and lines[2] == "b;-1,00;2;3,0;1e-1"
    first = lines[1].split(";")
    assert (first[:2], first[4]) == (["a", "1,50"], "0,25") and "," in first[2] and "," in first[3]
    assert all(lines[3].split(";")[1:])
    rows = np.array([[np.nan, 1.5, 0.25, np.nan]])
    expected = impute(run, rows, samples=200).rows
    assert float(first[2].replace(",", ".")) == pytest.approx(expected[0, 0], abs=1e-5)
    assert "6 entries of 2 rows filled; effective draws of z" in capsys.readouterr().out


def test_several_draws_and_intervals_stand_in_one_file(linear, tmp_path: Path) -> None:
    run, _ = linear
    gaps_file, filled_file = tmp_path / "gaps.csv", tmp_path / "filled.csv"
    gaps_file.write_text("column_1,column_2,column_3,column_4\n1,,0.5,2\n1,2,3,4\n")
    command = ["impute", str(run.folder), str(gaps_file), "--to", str(filled_file), "--draws", "3"]
    assert main([*command, "--interval", "0.8", "--samples", "300"]) == 0
    lines = [line.split(",") for line in filled_file.read_text().splitlines()]
    assert lines[0] == ["draw", "column_1", "column_2", "column_3", "column_4", "column_2_low", "column_2_high"]
    assert [line[0] for line in lines[1:]] == ["1", "1", "2", "2", "3", "3"]
    assert len({line[2] for line in lines[1::2]}) == 3 and lines[2][5:] == ["", ""]
    assert all(float(line[5]) < float(line[6]) for line in lines[1::2])


def test_a_parquet_file_holds_what_a_text_file_does(linear, tmp_path: Path) -> None:
    run, _ = linear
    gaps = pd.DataFrame([[1, np.nan, 0.5, 2], [1, 2, 3, 4]], columns=[f"column_{at}" for at in range(1, 5)])
    gaps.to_csv(tmp_path / "gaps.csv", index=False)
    gaps.to_parquet(tmp_path / "gaps.parquet")
    np.save(tmp_path / "gaps.npy", gaps.to_numpy())
    wanted = ["--draws", "3", "--interval", "0.8", "--samples", "300"]
    for source, to in (("csv", "csv"), ("csv", "parquet"), ("parquet", "parquet"), ("npy", "parquet")):
        files = str(tmp_path / f"gaps.{source}"), "--to", str(tmp_path / f"from_{source}.{to}")
        assert main(["impute", str(run.folder), *files, *wanted]) == 0
    text = pd.read_csv(tmp_path / "from_csv.csv")
    for source in ("csv", "parquet", "npy"):
        found = pd.read_parquet(tmp_path / f"from_{source}.parquet")
        assert sorted(found) == sorted(text) and found["draw"].tolist() == [1, 1, 2, 2, 3, 3]
        np.testing.assert_allclose(found[list(text)].to_numpy(float), text.to_numpy(float), atol=1e-5)


def test_a_parquet_file_of_a_mixed_table_has_the_types_that_its_columns_have(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.normal(size=60).round(2), "kind": random.integers(1, 4, 60),
                          "word": random.choice(["x", "y"], 60), "known": random.random(60) < 0.5})  # fmt: skip
    frame = frame.astype(object)
    frame.loc[::7, ["size", "word"]] = None
    frame.to_csv(tmp_path / "gaps.csv", index=False)
    run = vaelab.train(tmp_path / "gaps.csv", out=tmp_path / "run", config={"train": {"steps": 5}}, progress=False)
    assert main(["impute", str(run.folder), str(tmp_path / "gaps.csv"), "--to", str(tmp_path / "a.parquet")]) == 0
    assert main(["impute", str(run.folder), str(tmp_path / "a.parquet"), "--to", str(tmp_path / "b.parquet")]) == 0
    assert main(["sample", str(run.folder), "--to", str(tmp_path / "c.parquet")]) == 0
    for name in "abc":
        types = pd.read_parquet(tmp_path / f"{name}.parquet").dtypes
        assert [types[column].kind for column in ("size", "kind", "known")] == ["f", "i", "b"]
        assert pd.api.types.is_string_dtype(types["word"])
    found = pd.read_parquet(tmp_path / "a.parquet")
    assert found["kind"].tolist() == frame["kind"].tolist() and not found.isna().any().any()


def test_columns_of_one_name_are_refused_before_the_work(tmp_path: Path, capsys, monkeypatch) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=["draw", "b"])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    run = vaelab.train(tmp_path / "rows.csv", out=tmp_path / "run", config={"train": {"steps": 2}}, progress=False)
    monkeypatch.setattr("vaelab.use.imputing.impute", None)
    files = str(tmp_path / "rows.csv"), "--to", str(tmp_path / "out.parquet")
    assert main(["impute", str(run.folder), *files, "--draws", "2"]) == 2
    assert "two columns called draw" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("to", "options", "words"),
    [
        ("filled.zip", [], "the name's ending chooses the format"),
        ("no/filled.csv", [], "there is no folder"),
        ("filled.npz", ["--interval", "0.9"], "interval: got 0.9; its ends are columns of a table"),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_the_work(
    linear, tmp_path: Path, capsys, monkeypatch, to: str, options: list[str], words: str
) -> None:
    run, _ = linear
    (tmp_path / "gaps.csv").write_text("column_1,column_2,column_3,column_4\n1,,0.5,2\n")
    monkeypatch.setattr("vaelab.use.imputing.impute", None)
    files = str(tmp_path / "gaps.csv"), "--to", str(tmp_path / to)
    assert main(["impute", str(run.folder), *files, *options]) == 2
    assert words in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "no column 'column_1'"),
        ("", "an empty file"),
        ("column_1,column_2,column_3,column_4\n", "a header and no rows"),
        ("column_1,column_2,column_3,column_4\n1,2,3,4\n1,2,oops,4\n", "'oops' in line 3, column column_3"),
        ("column_1,column_2,column_3,column_4\n1,2,3\n", "3 cells in row 1 (line 2)"),
        ("column_1,column_2,column_3,column_4\n1,inf,3,\n", "finite"),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_one_line(linear, tmp_path: Path, capsys, text: str, words: str) -> None:
    run, _ = linear
    file = tmp_path / "gaps.csv"
    file.write_text(text)
    assert main(["impute", str(run.folder), str(file), "--to", str(tmp_path / "filled.csv")]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and not (tmp_path / "filled.csv").exists()


def test_nothing_missing_is_said_so(linear, tmp_path: Path, capsys) -> None:
    run, _ = linear
    file = tmp_path / "whole.csv"
    file.write_text("column_1,column_2,column_3,column_4\n1,2,3,4\n")
    assert main(["impute", str(run.folder), str(file), "--to", str(tmp_path / "filled.csv")]) == 0
    assert "1 rows as they were: nothing is missing" in capsys.readouterr().out
    assert (tmp_path / "filled.csv").read_text() == file.read_text()


def test_a_table_of_words_is_filled_with_its_own_words(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    size = random.normal(size=300)
    word = np.where(size + 0.3 * random.normal(size=300) > 0, "large", "small")
    lines = [f"{a:.2f},{b},{random.poisson(3)}" for a, b in zip(size, word, strict=True)]
    file = tmp_path / "words.csv"
    file.write_text("\n".join(["size,word,count", *lines]))
    settings = {"train": {"steps": 400}, "model": {"latent": 2}, **QUIET}
    run = vaelab.train(str(file), out=tmp_path / "a", config=settings, progress=False)
    (tmp_path / "gaps.csv").write_text("size,word,count\n2.00,,\n-2.00,,4\n,small,\n")
    command = ["impute", str(run.folder), str(tmp_path / "gaps.csv"), "--to", str(tmp_path / "filled.csv")]
    assert main([*command, "--samples", "200", "--summary", "median"]) == 0
    rows = [line.split(",") for line in (tmp_path / "filled.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == ["large", "small", "small"] and rows[1][2] == "4"
    assert float(rows[2][0]) < 0 and rows[0][2].isdigit()  # a count is whole
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"word": ["large", None], "size": [np.nan, -2.0], "count": [np.nan, 4.0]})
    found = impute(run, frame, samples=200).rows
    assert found.dtypes.equals(frame.dtypes) and found["word"].tolist() == ["large", "small"]
    assert found["size"][0] > 0 > found["size"][1] and found["count"].notna().all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"summary": "mode"}, "summary"),
        ({"draws": -1}, "draws"),
        ({"interval": 1.0}, "interval"),
        ({"interval": "90%"}, "interval"),
        ({"samples": 0}, "samples"),
    ],
)
def test_arguments_are_checked(linear, arguments: dict, words: str) -> None:
    run, rows = linear
    with pytest.raises(BadInput, match=words):
        impute(run, rows, **arguments)


def test_several_runs_fill_as_their_even_mixture(tmp_path: Path) -> None:
    rows = gaps(linear_rows(200), 0.3) * np.float32([1, 10, 100, 1]) + 5
    settings = {"model": {"latent": 2, "hidden": [16]}, "train": {"steps": 150}, "data": {"held_out": 0.5}, **QUIET}
    runs = [
        vaelab.train(rows, out=tmp_path / str(seed), config={**settings, "seed": seed}, progress=False)
        for seed in range(2)
    ]
    assert not torch.equal(runs[0].spec.transform.scale, runs[1].spec.transform.scale)  # they held out other rows
    given = {"samples": 3000, "draws": 4000, "interval": 0.8}
    first, second = (impute(run, rows, **given) for run in runs)
    found, turned = impute(runs, rows, **given), impute(runs[::-1], rows, **given)
    spread = np.nanstd(rows, 0)
    np.testing.assert_allclose(found.rows / spread, (first.rows + second.rows) / 2 / spread, atol=0.2)
    np.testing.assert_allclose(found.rows / spread, turned.rows / spread, atol=0.2)
    both = np.quantile(np.concatenate([first.draws, second.draws]), [0.1, 0.9], axis=0)
    for end, expected in zip((found.lower, found.upper), both, strict=True):
        apart = np.abs((end - expected) / spread)[found.missing]
        assert apart.mean() < 0.05 and apart.max() < 0.6  # what quantiles of some thousand draws of tails leave open
    assert found.samples == 6000 and len(found.draws) == 4000
    few = impute(runs, rows, samples=50, draws=3)
    assert len(few.draws) == 3 and np.isfinite(few.draws[2]).all()


def test_levels_that_are_many_numbers_are_filled_by_their_mean(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    age = random.integers(20, 40, 800)
    frame = np.array([[float(a), "old" if a >= 30 else "young"] for a in age], object)
    lines = ["age,word", *(f"{a:.0f},{w}" for a, w in frame)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    settings = {"train": {"steps": 400}, "model": {"latent": 1}, **QUIET}
    run = vaelab.train(str(tmp_path / "a.csv"), out=tmp_path / "a", config=settings, progress=False)
    assert [(column.kind, len(column.levels)) for column in run.spec.mixed] == [("category", 20), ("category", 2)]
    rows = np.array([[None, "young"], [None, "old"], [25.0, None]], object)
    for summary in ("mean", "median"):
        found = impute(run, rows, samples=3000, summary=summary, interval=0.9, draws=3000)
        drawn = np.array([table[:2, 0] for table in found.draws], float)
        of_draws = {"mean": drawn.mean(0), "median": np.median(drawn, 0)}[summary]
        np.testing.assert_allclose(found.rows[:2, 0].astype(float), of_draws, atol=1)
        assert found.rows[0, 0] < found.rows[1, 0] and found.rows[2, 1] == "young"
        np.testing.assert_allclose(found.lower[:2, 0], np.quantile(drawn, 0.05, axis=0), atol=1)
        np.testing.assert_allclose(found.upper[:2, 0], np.quantile(drawn, 0.95, axis=0), atol=1)
        assert np.isnan(found.lower[2, 1])


def test_runs_of_different_data_are_not_mixed(linear, tmp_path: Path) -> None:
    run, rows = linear
    other = vaelab.train(rows[:, :3], out=tmp_path / "a", config={"train": {"steps": 1}, **QUIET}, progress=False)
    settings = {"train": {"steps": 1}, **QUIET}
    scaled = vaelab.train(rows * np.float32(1000), out=tmp_path / "b", config=settings, progress=False)
    for runs, words in (([], "none"), ([run, other], "columns"), ([run, scaled], "another scale")):
        with pytest.raises(BadInput, match=words):
            impute(runs, rows)


def test_a_mixture_counts_as_many_draws_as_weigh_the_same() -> None:
    y = torch.zeros(1, 2)
    found = [
        Completed(y + place, torch.full((3, 1, 2), float(place)), torch.tensor([ess]))
        for place, ess in enumerate((1.2, 900.0))
    ]
    spec = SimpleNamespace(mixed=())
    guess, drawn, _, ess = even_mixture(SimpleNamespace(spec=spec), y, found, "mean", None, 0)
    weights = np.array([0.5 / 1.2] * 1 + [0.5 / 900] * 900)  # 1.2 draws of even weight, and 900 of them
    assert ess.item() == pytest.approx(1 / (0.25 / 1.2 + (weights[1:] ** 2).sum()))
    assert guess.tolist() == [[0.5, 0.5]] and sorted(drawn[:2, 0, 0].tolist()) == [0, 1]
    firsts = {
        even_mixture(SimpleNamespace(spec=spec), y, found, "mean", None, seed)[1][0, 0, 0].item() for seed in range(9)
    }
    assert firsts == {0.0, 1.0}
