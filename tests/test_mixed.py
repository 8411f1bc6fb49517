"""Mixed tables: densities against brute force and scipy, missing entries, values that come back, the command."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from reading import refused
from scipy import integrate, stats
from torch import Tensor

import vaelab
from vaelab.cli.app import main
from vaelab.core.config import build_config
from vaelab.core.errors import BadInput, UnseenLevel
from vaelab.core.facts import Column, Facts
from vaelab.data.mixed import Metric, as_mixed, decode, encode
from vaelab.data.source import load
from vaelab.distributions.logistic import LogisticMixtures, spread_out
from vaelab.distributions.mixed import Mixed, MixedInput
from vaelab.measure.baseline import baseline
from vaelab.models.build import acquaint, build_model, resolve

COLUMNS = (
    Column("size", "number"),
    Column("colour", "category", ("blue", "green", "red")),
    Column("visits", "count"),
    Column("young", "category", ("False", "True"), levels_are="truth"),
)
NAN = math.nan


def mixture(count: int = 3, whole: bool = False, seed: int = 0) -> LogisticMixtures:
    """One column, M components."""
    coins = torch.Generator().manual_seed(seed)
    logits, center, log_scale = torch.randn(3, 1, 1, 1, count, generator=coins, dtype=torch.float64)
    center = 4 + 3 * center if whole else center
    return LogisticMixtures(logits.log_softmax(-1), center, log_scale, torch.tensor([whole]))


def by_scipy(p: LogisticMixtures) -> list[tuple[float, Any]]:
    weights, centers, scales = (part.flatten().tolist() for part in (p.log_weight.exp(), p.center, p.log_scale.exp()))
    return [(w, stats.logistic(c, s)) for w, c, s in zip(weights, centers, scales, strict=True)]


def spread(p: LogisticMixtures, count: int) -> LogisticMixtures:
    """The same mixture for so many rows."""
    parts = (part.expand(1, count, 1, -1) for part in (p.log_weight, p.center, p.log_scale))
    return LogisticMixtures(*parts, p.whole)


def log_prob(p: LogisticMixtures, x: Any) -> np.ndarray:
    """Of numbers x [n] in the one column, [n]."""
    values = torch.as_tensor(np.atleast_1d(np.asarray(x, float)))
    wide = LogisticMixtures(
        *(part.expand(1, len(values), 1, -1) for part in (p.log_weight, p.center, p.log_scale)), p.whole
    )
    return wide.log_prob(values[:, None])[0, :, 0].numpy()


@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_is_the_density_that_scipy_has_and_integrates_to_one(seed: int) -> None:
    p = mixture(seed=seed)
    x = np.linspace(-8, 8, 41)
    np.testing.assert_allclose(np.exp(log_prob(p, x)), sum(w * d.pdf(x) for w, d in by_scipy(p)), rtol=1e-10)
    grid = np.linspace(-300, 300, 300_001)
    assert integrate.simpson(np.exp(log_prob(p, grid)), x=grid) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_counts_have_the_mass_around_them_and_sum_to_one(seed: int) -> None:
    p = mixture(whole=True, seed=seed)
    x = np.arange(0, 3000)
    below = sum(w * d.cdf(x - 0.5) for w, d in by_scipy(p)) * (x > 0)
    expected = sum(w * d.cdf(x + 0.5) for w, d in by_scipy(p)) - below
    np.testing.assert_allclose(np.exp(log_prob(p, x))[:60], expected[:60], rtol=1e-8, atol=1e-14)
    assert np.exp(log_prob(p, x)).sum() == pytest.approx(1, abs=1e-12)


def test_a_narrow_count_keeps_its_digits_in_float32() -> None:
    """A bin that is a millionth of the scale: the difference of two sigmoids would be 0 in float32."""
    single = [torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2e5), torch.full((1, 1, 1, 1), math.log(1e6))]
    found = LogisticMixtures(*single, torch.tensor([True])).log_prob(torch.tensor([[150_000.0]])).item()
    law = stats.logistic(2e5, 1e6)
    assert found == pytest.approx(math.log(law.cdf(150_000.5) - law.cdf(149_999.5)), abs=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_samples_of_a_mixture_follow_its_law(whole: bool) -> None:
    p = mixture(whole=whole, seed=4)
    wide = spread(p, 40_000)
    drawn = wide.sample(torch.Generator().manual_seed(1)).flatten().numpy()
    for edge in (0.5, 2.5, 5.5):
        expected = sum(w * d.cdf(edge) for w, d in by_scipy(p))
        assert (drawn <= edge).mean() == pytest.approx(expected, abs=5 * math.sqrt(0.25 / len(drawn)))
    assert drawn.mean() == pytest.approx(wide.mean[0, 0, 0].item(), abs=0.05 if not whole else 0.2)
    if whole:
        assert (drawn >= 0).all() and (drawn == drawn.round()).all()


def likelihood(columns: tuple[Column, ...] = COLUMNS, components: int = 2) -> Mixed:
    made = Mixed(columns, components).double()
    made.see(rows(200))
    return made


def rows(count: int, seed: int = 0) -> Tensor:
    """Rows of COLUMNS, with entries missing."""
    random = np.random.default_rng(seed)
    colour = random.integers(0, 3, count)
    found = np.stack([random.normal(colour), colour, random.poisson(3 + 20 * colour), random.integers(0, 2, count)], 1)
    found[random.random(found.shape) < 0.15] = np.nan
    return torch.from_numpy(found.astype(np.float64))


def parameters(made: Mixed, samples: int, count: int) -> Tensor:
    coins = torch.Generator().manual_seed(2)
    return torch.randn(samples, count, *made.layout((4,)), generator=coins, dtype=torch.float64)


def test_columns_add_up_and_a_missing_entry_costs_nothing() -> None:
    made, x = likelihood(), rows(20)
    p = made(parameters(made, 3, 20))
    each = p.per_entry(x)
    assert each.shape == (3, 20, 4)
    torch.testing.assert_close(p.log_prob(x), each.sum(-1))
    assert (each[:, x.isnan()] == 0).all() and (each[:, ~x.isnan()] != 0).all()


def test_missing_entries_leave_the_model_of_the_other_columns() -> None:
    """A column that is missing everywhere changes neither the code nor the density: as if it were not there."""
    made = likelihood()
    raw, x = parameters(made, 3, 20), rows(20)
    without = x.clone()
    without[:, 1] = NAN
    gone = made(raw).per_entry(x)[..., [0, 2, 3]].sum(-1)
    torch.testing.assert_close(made(raw).log_prob(without), gone)
    without.requires_grad_()
    leaf = raw.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(made(leaf).log_prob(without).sum(), leaf)
    assert gradient.isfinite().all()
    start = made.sizes[0]
    assert (gradient[:, :, start : start + 3] == 0).all()


def test_a_category_is_a_softmax_and_sums_to_one() -> None:
    made = likelihood()
    p = made(parameters(made, 2, 1))
    levels = torch.tensor([[NAN, level, NAN, NAN] for level in range(3)], dtype=torch.float64)
    mass = torch.cat([p.log_prob(level[None]) for level in levels], 1).exp()
    torch.testing.assert_close(mass.sum(1), torch.ones(2, dtype=torch.float64))
    logits = (parameters(made, 2, 1)[..., 0] + made.base)[..., made.sizes[0] : made.sizes[0] + 3]
    torch.testing.assert_close(mass, logits.softmax(-1)[:, 0])


def test_samples_are_rows_that_the_likelihood_holds() -> None:
    made = likelihood()
    p = made(parameters(made, 5, 40))
    drawn = p.sample(torch.Generator().manual_seed(0))
    assert drawn.shape == p.mean.shape == (5, 40, 4)
    assert made.holds(drawn).all() and made.holds(p.mean[..., [0, 1, 3]].new_tensor([[0.5, 2.0, 4.0, 1.0]])).all()
    assert not made.holds(torch.tensor([[0.5, 3.0, 4.5, -1.0]]))[0, 1:].any()
    again = made(parameters(made, 5, 40)).sample(torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_what_it_begins_with_are_the_columns_by_themselves() -> None:
    """Shares of levels with one made-up row; and numbers no worse than the best of three laws that scipy fits."""
    x = rows(2000, seed=3)
    made = likelihood(components=4)
    made.see(x)
    p = made(torch.zeros(1, 1, *made.layout((4,)), dtype=torch.float64))
    known = x[~x[:, 1].isnan(), 1]
    share = (int((known == 2).sum()) + 1 / 3) / (len(known) + 1)
    assert p.tables[0][0, 0, 2].exp().item() == pytest.approx(share, rel=1e-9)
    size = x[~x[:, 0].isnan(), 0].numpy()
    best = max(law(*law.fit(size)).logpdf(size).mean() for law in (stats.norm, stats.logistic, stats.t))
    ours = p.per_entry(x)[0, :, 0]
    assert ours[~x[:, 0].isnan()].mean().item() > best - 0.01


def test_the_best_decoder_without_a_code_is_what_it_begins_with() -> None:
    train, held_out = rows(1500, seed=5), rows(500, seed=6)
    made = likelihood()
    made.see(train)
    expected = -made(torch.zeros(1, 1, *made.layout((4,)), dtype=torch.float64)).log_prob(held_out).mean().item()
    found, error = baseline(Mixed(COLUMNS, 2), train, held_out)  # type: ignore[misc]
    assert found == pytest.approx(expected, rel=1e-9) and 0 < error < 0.2


def test_an_encoder_sees_flags_and_zeros_for_what_is_missing() -> None:
    columns = (*COLUMNS[:3], Column("young", "category", ("False", "True"), missing=True, levels_are="truth"))
    seen = MixedInput(columns, steps=2)
    seen.see(rows(100))
    full, gone = seen(torch.tensor([[0.3, 2.0, 7.0, 1.0], [NAN, NAN, NAN, NAN]]))
    assert len(full) == seen.size == 2 * 3 + 3 + 2 + 1
    assert full[6:].tolist() == [0, 0, 1, 0, 1, 0]
    assert gone.tolist() == [0] * 11 + [1]


def test_shares_of_the_rows_are_even() -> None:
    x = torch.arange(1.0, 1001)[:, None].double()
    center, unit = spread_out(x, 4)
    np.testing.assert_allclose(center[0], [125.875, 375.625, 625.375, 875.125], rtol=1e-3)
    np.testing.assert_allclose(unit[0], 999 / 16, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-7, 1.0, 1e20])
def test_a_column_is_spread_out_and_seen_whatever_its_units_are(size: float) -> None:
    numbers = torch.from_numpy(np.random.default_rng(0).normal(3, 1, (200, 1)))
    for found, plain in zip(spread_out(size * numbers, 4), spread_out(numbers, 4), strict=True):
        np.testing.assert_allclose(found, size * plain, rtol=1e-9)
    net, scaled = (MixedInput([Column("a", "number")]).double() for _ in range(2))
    net.see(numbers)
    scaled.see(size * numbers)
    torch.testing.assert_close(scaled(size * numbers), net(numbers))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-30, 1e9 / 3, 1e20 / 7])
def test_a_constant_column_is_told_at_any_size_from_one_that_varies_by_little(value: float) -> None:
    x = torch.full((1001, 1), value, dtype=torch.float64)
    x[5] = NAN
    center, unit = spread_out(x, 3)
    assert (unit == 1).all() and (center == value).all()
    net = MixedInput([Column("a", "number")]).double()
    net.see(x)
    assert (net.unit == 1).all()
    spread = 1e-7 * abs(value) * torch.linspace(-1, 1, 1001, dtype=torch.float64)[:, None]
    assert value == 0 or (spread_out(x + spread, 3)[1] < 1e-7 * abs(value)).all()


# Values in and out ----------------------------------------------------------------------------------------------------

TABLE = """name,age,member,income,note
Ann,31,True,1200.5,a
Bob,,False,800,b
Cid,45,True,,a
Dan,31,,950.25,b
"""


def table(tmp_path: Path, text: str = TABLE, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def mixed_source(path: Any, **settings: Any) -> Any:
    return as_mixed(load(path), build_config(settings))


def test_a_table_with_text_says_what_each_column_became(tmp_path: Path) -> None:
    found = mixed_source(table(tmp_path))
    kinds = {column.name: (column.kind, column.levels, column.missing, column.levels_are) for column in found.mixed}
    assert kinds == {
        "age": ("category", ("31", "45"), True, "numbers"),
        "member": ("category", ("False", "True"), True, "truth"),
        "income": ("category", ("800", "950.25", "1200.5"), True, "numbers"),
        "note": ("category", ("a", "b"), False, "text"),
        "name": ("category", ("Ann", "Bob", "Cid", "Dan"), False, "text"),
    }
    (told,) = (finding for finding in found.findings if finding.code == "DA003")
    assert "age (2 numbers)" in told.evidence and "missing in age, member, income" in told.evidence
    np.testing.assert_array_equal(found.train[:, 1], [0, NAN, 1, 0])


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    found = mixed_source(table(tmp_path), data={"kinds": {"income": "number", "age": "count"}})
    back = decode(found.mixed, found.train)
    given = [["Ann", 31, True, 1200.5, "a"], ["Bob", None, False, 800.0, "b"], ["Cid", 45, True, None, "a"]]
    assert back[:3].tolist() == given
    assert [type(cell) for cell in back[0]] == [str, int, bool, float, str]
    again = encode(found.mixed, back)
    np.testing.assert_array_equal(again, found.train)


@pytest.mark.parametrize("name", ["adult", "titanic", "penguins", "mpg"])
def test_real_tables_come_back_as_they_were(shared: Path, name: str) -> None:
    path = shared / "tables" / f"{name}.csv"
    frame = pandas.read_csv(path, skipinitialspace=True, na_values="?")
    found = mixed_source(path)
    assert set(frame.columns) - set(found.columns) == ({"name"} if name == "mpg" else set())
    back = pandas.DataFrame(decode(found.mixed, found.train), columns=found.columns).infer_objects()
    for column in found.columns:
        expected = frame[column]
        there = ~expected.isna()
        assert (back[column].isna() == ~there).all()
        assert (back[column][there].astype(str) == expected[there].astype(back[column][there].dtype).astype(str)).all()


def test_numbers_and_frames_are_read_at_use_by_name() -> None:
    columns = (Column("size", "number"), Column("age", "category", ("31", "45"), levels_are="numbers"), COLUMNS[3])
    frame = pandas.DataFrame({"young": [True, None], "age": [45.0, 31.0], "size": [1, 2.5], "more": ["x", "y"]})
    spec = _spec(columns)
    np.testing.assert_array_equal(spec.to_model(frame).numpy(), [[1, 1, 1], [2.5, 0, NAN]])
    np.testing.assert_array_equal(spec.to_model(np.array([[1.0, 45, 0]])).numpy(), [[1, 1, 0]])


def _spec(columns: tuple[Column, ...]) -> Any:
    from vaelab.data.spec import Spec
    from vaelab.data.transforms import Affine

    names = tuple(column.name for column in columns)
    return Spec("t", "table", "", (len(columns),), names, (), None, "", 9, 1, 0.0, "none", Affine(), mixed=columns)


@pytest.mark.parametrize(
    ("cells", "parts"),
    [
        (["tall", "red", 3, True], ("'tall'", "column size", "holds numbers")),
        ([math.inf, "red", 3, True], ("'inf'", "finite")),
        ([0.5, "red", 3.5, True], ("'3.5'", "column visits", "whole numbers of at least 0")),
        ([0.5, "red", -1, True], ("'-1'", "column visits")),
    ],
)
def test_what_a_column_cannot_be_is_refused_at_use(cells: list[Any], parts: tuple[str, ...]) -> None:
    refused(lambda: _spec(COLUMNS).to_model(np.array([cells], dtype=object)), *parts)


@pytest.mark.parametrize(
    ("cells", "at", "parts"),
    [
        ([0.5, "pink", 3, True], 1, ("taken as missing: 1 in all, such as 'pink' in row 0", "column colour")),
        ([0.5, "gren", 3, True], 1, ("did you mean green?",)),
        ([0.5, "red", 3, "maybe"], 3, ("'maybe'", "column young")),
    ],
)
def test_a_level_that_no_row_had_is_missing_at_use(cells: list[Any], at: int, parts: tuple[str, ...]) -> None:
    spec, rows = _spec(COLUMNS), np.array([cells], dtype=object)
    with pytest.warns(UnseenLevel) as told:
        found = spec.to_model(rows)
    assert all(part in str(told[0].message) for part in parts)
    assert found.isnan().nonzero().tolist() == [[0, at]] == np.argwhere(spec.unseen(rows)).tolist()
    assert spec.unseen(np.array([[0.5, "red", 3, True]], dtype=object)) is None


def test_a_missing_column_is_refused_at_use() -> None:
    frame = pandas.DataFrame({"size": [1.0], "colour": ["red"], "visits": [2]})
    refused(lambda: _spec(COLUMNS).to_model(frame), "no column 'young'", "add it")
    refused(lambda: _spec(COLUMNS).to_model(np.zeros((2, 3), object)), "shape (2, 3)")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (
            {"likelihood": "gaussian"},
            ("likelihood.name: got gaussian", "do not: name, member, note", "likelihood=mixed"),
        ),
        ({"data": {"scale": "standardize"}}, ("data.scale", "as they are")),
        ({"data": {"kinds": {"agee": "number"}}}, ("data.kinds: got agee", "did you mean age?")),
        ({"data": {"kinds": {"note": "number"}}}, ("number for note", "it holds text, such as 'a'")),
        ({"data": {"kinds": {"income": "count"}}}, ("count for income", "950.25")),
    ],
)
def test_settings_that_do_not_fit_a_mixed_table_are_refused(
    tmp_path: Path, settings: dict[str, Any], parts: tuple[str, ...]
) -> None:
    refused(lambda: mixed_source(table(tmp_path), **settings), *parts)


def test_a_slip_in_a_column_of_numbers_is_no_category(tmp_path: Path) -> None:
    refused(
        lambda: load(table(tmp_path, "a,b\n1,x\n2,y\nO,x\n")), "'O' in row 3 (line 4), column a", "must hold numbers"
    )


def test_numbers_alone_stay_what_they_were_unless_mixed_is_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, "a,b\n1,2.5\n,3.5\n3,4.5\n")
    assert not mixed_source(path).mixed
    assert [column.kind for column in mixed_source(path, likelihood="mixed").mixed] == ["category", "category"]
    kinds = mixed_source(path, data={"kinds": {"b": "number"}}).mixed
    assert (kinds[1].kind, kinds[1].decimals) == ("number", 1)


def test_distances_count_levels_and_standard_scores() -> None:
    metric = Metric(COLUMNS, rows(500).numpy())
    a, b, c = metric(np.array([[0.0, 0, 5, 1], [0.0, 2, 5, 1], [0.0, 0, 5, 0]]))
    assert np.linalg.norm(a - b) == pytest.approx(1) == np.linalg.norm(a - c)
    assert np.isfinite(metric(rows(50).numpy())).all()


# The model and the command ------------------------------------------------------------------------------------------


def small(posterior: str = "diagonal", **settings: Any) -> Any:
    facts = Facts((4,), columns=COLUMNS, rows=200)
    given = {"model": {"hidden": [8], "latent": 2, "posterior": posterior}, "likelihood": "mixed"} | settings
    config = resolve(build_config(given), facts, "table")
    model = build_model(config, facts).double()
    acquaint(model, rows(200))
    return model, config, facts


def test_training_begins_at_the_columns_by_themselves() -> None:
    model, _, _ = small()
    x = rows(300, seed=9)
    alone = Mixed(COLUMNS).double()
    alone.see(rows(200))
    expected = alone(torch.zeros(1, 1, *alone.layout((4,)), dtype=torch.float64)).log_prob(x).mean()
    assert model.draw(x).log_px.mean().item() == pytest.approx(expected.item(), abs=1.5)


def test_a_missing_column_is_the_importance_weighted_model_of_the_others() -> None:
    """log p of the other columns by quadrature over z, against the importance-weighted bound of the product."""
    from vaelab.measure.importance import importance_bound

    model, _, _ = small(model={"hidden": [8], "latent": 1})
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()  # q is the prior, which covers whatever the posterior is
    x = rows(5, seed=11)
    x[:, 2] = NAN
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    with torch.no_grad():
        p = model.decode(grid[:, None, None].expand(-1, 5, 1))
        inside = p.per_entry(x)[..., [0, 1, 3]].sum(-1) - 0.5 * grid[:, None] ** 2 - 0.5 * math.log(2 * math.pi)
    truth = inside.logsumexp(0) + math.log(16 / 4000)
    found = importance_bound(model.eval(), x, samples=20_000)
    np.testing.assert_allclose(found.values, truth.numpy(), atol=0.03)


SETTINGS = ("train.steps=40", "model.latent=2", "model.hidden=[16]", "train.threads=1")


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def test_a_real_table_from_end_to_end(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of text, truth, numbers and counts, with entries missing, through every command."""
    monkeypatch.chdir(tmp_path)
    path = shared / "tables" / "titanic.csv"
    assert command("train", path, *SETTINGS, "--out", "run", "--quiet") == 0
    page = Path("run/report.html").read_text()
    assert "What comes back of every column" in page and "embark_town" in page
    for words in (
        ("sample", "run", "--count", 60, "--to", "made.csv"),
        ("reconstruct", "run", "made.csv", "--to", "back.csv"),
        ("embed", "run", path, "--to", "codes.csv"),
        ("interpolate", "run", "--to", "line.csv"),
        ("traverse", "run", "--to", "walk.npy"),
        ("traverse", "run", "--dimension", 2, "--steps", 3, "--span", 2, "--to", "walk.csv"),
        ("evaluate", "run", "--samples", 20, "--rows", 20, "--metrics", "reconstruction,samples,columns"),
    ):
        assert command(*words) in (0, 1), words
    made, back, real = (pandas.read_csv(file) for file in ("made.csv", "back.csv", path))
    assert list(made.columns) == list(real.columns) and len(back) == len(made) == 60
    for column in real.columns:
        if pandas.api.types.is_numeric_dtype(real[column]):
            assert made[column].dtype == real[column].dtype, column
        else:
            assert set(made[column].dropna()) <= set(real[column].dropna())
    assert np.load("walk.npy").shape == (2, 11, 15)
    walk, line = pandas.read_csv("walk.csv"), pandas.read_csv("line.csv")
    assert list(walk.columns) == ["dimension", "deviations", *real.columns] and list(walk.deviations) == [-2, 0, 2]
    assert list(line.columns) == ["share", *real.columns] and list(line.share[[0, 14]]) == [0, 1]
    assert command("compare", "run", "run", "--to", "both.html") == 0
    assert "embark_town" in Path("both.html").read_text()


def test_draws_and_not_likeliest_levels_are_samples(shared: Path, tmp_path: Path) -> None:
    settings = {"train": {"steps": 5, "threads": 1}, "model": {"hidden": [8], "latent": 2}, "report": {"html": False}}
    path = str(shared / "tables" / "penguins.csv")
    run = vaelab.train(path, config=settings, out=tmp_path / "run", progress=False)
    assert len(set(run.sample(50)[:, 0])) == 3 and len(set(run.sample(50, noisy=False)[:, 0])) < 3
    assert run.sample(20, seed=1).tolist() == run.sample(20, seed=1, noisy=True).tolist()


def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(shared: Path, tmp_path: Path) -> None:
    path = str(shared / "tables" / "titanic.csv")
    train = {"steps": 30, "schedule": "constant", "evaluate_every": 15, "checkpoint_every": 15, "threads": 1}
    settings = {"train": train, "model": {"hidden": [8], "latent": 2}, "report": {"html": False}}
    whole = vaelab.train(path, config=settings, out=tmp_path / "whole", progress=False)
    vaelab.train(path, config=settings | {"train": train | {"steps": 15}}, out=tmp_path / "half", progress=False)
    half = vaelab.train(resume=tmp_path / "half", config={"train": {"steps": 30}}, progress=False)
    weights = zip(whole.model.state_dict().items(), half.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for (_, a), b in weights)
    loaded = vaelab.load(tmp_path / "whole")
    assert loaded.sample(5).tolist() == half.sample(5).tolist()
    assert loaded.spec.mixed == whole.spec.mixed and loaded.preview.dtype == object
    rows = load(path).train[:7]
    np.testing.assert_array_equal(loaded.embed(rows), whole.embed(pandas.DataFrame(rows, columns=load(path).columns)))


def test_a_mixed_likelihood_needs_a_table() -> None:
    with pytest.raises(BadInput, match=r"likelihood\.name: got mixed; .*tables"):
        Mixed(())
