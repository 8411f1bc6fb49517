"""`VAEImputer`: how long it trains, what it hides to find out, and that it fills as its runs do."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from gappy_rows import gaps, linear_rows

import vaelab
from vaelab.core.errors import BadInput
from vaelab.sklearn import VAEImputer, hidden
from vaelab.use.imputing import impute

QUIET = {"report": {"html": False}}


def frames() -> dict[str, pd.DataFrame]:
    """Two columns that hang together, and a third of a kind of its own."""
    random = np.random.default_rng(0)
    a = random.normal(size=400)
    b, positive = a + 0.1 * random.normal(size=400), a > 0
    some = random.random(400) < 0.1
    thirds = {
        "numbers": a,
        "numbers and None": np.where(some, None, a),
        "Int64": pd.array(np.where(some, None, random.integers(0, 5, 400)), dtype="Int64"),
        "string": pd.array(np.where(some, None, np.where(positive, "x", "y")), dtype="string"),
        "boolean": pd.array(np.where(some, None, positive), dtype="boolean"),
        "bool": positive,
        "category": pd.Categorical(np.where(positive, "x", "y")),
        "free text": [f"name {row}" for row in range(400)],
        "marks of what is missing": np.where(some, "?", np.where(positive, "x", "y")).astype(object),
        "one value": [1.0] + [np.nan] * 399,
    }
    return {name: pd.DataFrame({"a": a, "b": b, "c": third}) for name, third in thirds.items()}


@pytest.mark.parametrize("kind", frames())
@pytest.mark.filterwarnings("error:X does not have", "error:Degrees of freedom")
def test_entries_of_any_column_are_hidden_to_choose_a_length(kind: str, monkeypatch) -> None:
    for name in ("LENGTHS", "WORDED_LENGTHS"):
        monkeypatch.setattr(f"vaelab.sklearn.imputer.{name}", (1, 200))
    frame = frames()[kind]
    imputer = VAEImputer(members=1, samples=20).fit(frame)
    assert list(imputer.errors_) == [1, 200] and imputer.steps_ == 200 == imputer.run_.config.train.total
    assert imputer.errors_[200] < 0.8 * imputer.errors_[1]  # a and b tell each other; all else would be 1 and more
    imputer.transform(frame)


def test_numbers_that_came_as_text_go_as_text() -> None:
    frame = frames()["numbers"].round(2)
    texts = frame["c"].map(str)
    texts[::7] = "?"
    frame["c"] = pd.array(texts, dtype="string")
    filled = VAEImputer(members=1, steps=300, samples=50).fit_transform(frame)
    assert filled["c"].dtype == frame["c"].dtype and (filled["c"][1:7] == frame["c"][1:7]).all()
    assert np.corrcoef(filled["c"][::7].astype(float), frame["a"][::7])[0, 1] > 0.5


def test_the_error_at_hidden_entries_counts_squares_and_wrong_levels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"size": random.normal(size=120) * 7, "code": random.integers(1, 4, 120), "word": ["x", "y"] * 60}
    )
    run = vaelab.train(frame, out=tmp_path / "a", config={"train": {"steps": 1}, **QUIET}, progress=False)
    gone = random.random(frame.shape) < 0.3
    filled = frame.copy()
    filled["size"] += 3.5
    filled["code"] = 2
    filled["word"] = "x"
    expected = [
        *np.full(gone[:, 0].sum(), 3.5**2 / frame["size"].var(ddof=0)),
        *(frame["code"] != 2)[gone[:, 1]],
        *(frame["word"] != "x")[gone[:, 2]],
    ]
    assert hidden.error(run, frame, filled, gone) == pytest.approx(np.mean(expected))
    few = gone & (np.arange(120)[:, None] < 20)
    assert 0 < few.sum() < 50 and math.isnan(hidden.error(run, frame, filled, few))
    holed = hidden.without(frame, gone)
    assert (hidden.known(frame).all(), (hidden.known(holed) == ~gone).all()) == (True, True)


@pytest.mark.parametrize(
    ("errors", "members", "steps"),
    [
        ((0.74, 0.72, 0.73), 5, 20_000),
        ((0.74, 0.72, 0.73), 1, 8000),
        ((0.58, 0.54, 0.52), 5, 20_000),
        ((0.36, 0.42), 5, 3000),
        ((0.74, 0.72, 0.757), 5, 8000),
    ],
)
def test_of_several_members_the_longest_training_is_taken_that_is_hardly_worse(
    monkeypatch: pytest.MonkeyPatch, errors: tuple[float, ...], members: int, steps: int
) -> None:
    left, one = iter(errors), SimpleNamespace(run=None, rows=None)
    monkeypatch.setattr(VAEImputer, "_trained", lambda *given, **further: [one])
    monkeypatch.setattr(VAEImputer, "_filled", lambda *given: one)
    monkeypatch.setattr("vaelab.sklearn.imputer.error", lambda *given: next(left))
    imputer = VAEImputer(members=members).fit(np.random.default_rng(0).normal(size=(500, 3)))
    assert imputer.steps_ == steps and tuple(imputer.errors_.values()) == errors
    assert next(left, None) is None


def test_steps_that_are_given_are_taken(tmp_path: Path) -> None:
    rows = gaps(linear_rows(), 0.3).astype(np.float64)
    cut = {"likelihood": {"name": "gaussian", "noise": "shared", "floor": 0.0}, "data": {"mask_model": "above"}}
    for given, config, steps in (
        (3, {}, 3),
        (3, {"train": {"steps": 4}}, 4),
        (None, {"train": {"epochs": 2}}, None),
        (2, cut, 2),
    ):
        imputer = VAEImputer(members=1, steps=given, config=config).fit(rows)
        train = imputer.run_.config.train
        assert (imputer.steps_, imputer.errors_) == (steps, {})
        assert train.total == (steps or 2 * math.ceil(360 / 64)) and train.evaluate_every >= train.total
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaelab.sklearn.imputer.LENGTHS", (2, 3))
        assert VAEImputer(members=1, config=cut).fit(rows).errors_ == {}  # gaps that are no chance cannot be tried out


def test_the_estimator_gives_what_its_runs_give(tmp_path: Path) -> None:
    rows = gaps(linear_rows(), 0.3).astype(np.float64)
    imputer = VAEImputer(members=2, steps=500, latent=2, samples=100, config={"model": {"hidden": [32]}}).fit(rows)
    filled, gone = imputer.transform(rows), np.isnan(rows)
    np.testing.assert_array_equal(filled, impute([kept.run for kept in imputer.runs_], rows, samples=100).rows)
    assert filled.dtype == rows.dtype and (filled[~gone] == rows[~gone]).all() and np.isfinite(filled).all()
    assert imputer.run_.config.likelihood.name == "student_t" and imputer.run_.config.objective.name == "iwae"
    low, high = imputer.interval(rows, 0.8)
    inside = (low <= filled) & (filled <= high)
    assert inside[gone].mean() > 0.95 and len(imputer.sample(rows, 3)) == 3
    assert ((filled - linear_rows())[gone] ** 2).mean() < 0.9 * linear_rows()[gone].var()
    assert (imputer.effective_samples(rows)[gone.any(1)] <= 200).all()
    with pytest.raises(BadInput, match="summary"):
        VAEImputer(summary="mode").fit(rows)


def test_columns_that_no_model_reads_keep_their_gaps_and_are_named() -> None:
    frame = frames()["numbers"]
    frame["notes"] = [None, *(f"note {row}" for row in range(1, 400))]
    frame["empty"] = None
    frame["whole"] = [f"name {row}" for row in range(400)]
    imputer = VAEImputer(members=1, steps=5, samples=10).fit(frame)
    with pytest.warns(UserWarning, match="whose gaps stay: notes, empty$"):
        filled = imputer.transform(frame)
    assert filled["empty"].isna().all() and filled["whole"].equals(frame["whole"])
    with pytest.warns(UserWarning, match="whose gaps stay: notes, empty, whole$"):
        imputer.transform(frame.assign(whole=None))


def test_hidden_entries_that_no_model_reads_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelab.sklearn.imputer.WORDED_LENGTHS", (3, 4))
    frame = frames()["free text"]

    def only_text(self: VAEImputer, rows: pd.DataFrame) -> np.ndarray:
        return np.arange(400)[:, None] % 4 == np.array([[9, 9, 0]])

    monkeypatch.setattr(VAEImputer, "_hidden", only_text)
    imputer = VAEImputer(members=1, samples=10).fit(frame)
    assert (imputer.errors_, imputer.steps_) == ({}, 3)
