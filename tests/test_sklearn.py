"""The estimators: scikit-learn's own conformance suite, pipelines, searches, pickles, clones, and data frames."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from vaelab import BadInput, Run, load
from vaelab.sklearn import VAEAnomalyDetector, VAEDensity, VAEEmbedder, VAEImputer

QUICK = {"steps": 20}
WINE = load_wine()
SMALL = (
    VAEEmbedder(**QUICK),
    VAEDensity(samples=5, **QUICK),
    VAEAnomalyDetector(members=2, samples=5, **QUICK),
    VAEImputer(members=2, samples=5, **QUICK),
)


@parametrize_with_checks(SMALL)
def test_scikit_learns_own_suite(estimator, check) -> None:
    check(estimator)


def test_a_search_in_a_pipeline_finds_the_latent_space_that_the_rows_need() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 4)) @ random.normal(size=(4, 9)) + 0.1 * random.normal(size=(300, 9))
    pipeline = make_pipeline(StandardScaler(), VAEDensity(steps=400, samples=20))
    search = GridSearchCV(pipeline, {"vaedensity__latent": [1, 4]}, cv=2).fit(rows)
    assert search.best_params_["vaedensity__latent"] == 4


def test_embeddings_tell_the_classes_in_a_pipeline() -> None:
    pipeline = make_pipeline(VAEEmbedder(latent=3, steps=400), LogisticRegression())
    assert pipeline.fit(WINE.data[::2], WINE.target[::2]).score(WINE.data[1::2], WINE.target[1::2]) > 0.85


@pytest.mark.parametrize("estimator", SMALL, ids=lambda e: type(e).__name__)
def test_a_pickled_estimator_gives_the_same_numbers(estimator) -> None:
    fitted = clone(estimator).fit(WINE.data)
    again = pickle.loads(pickle.dumps(fitted))
    method = "transform" if hasattr(fitted, "transform") else "score_samples"
    np.testing.assert_array_equal(getattr(fitted, method)(WINE.data), getattr(again, method)(WINE.data))
    assert isinstance(again.run_, Run)
    np.testing.assert_array_equal(
        getattr(clone(fitted).fit(WINE.data), method)(WINE.data), getattr(fitted, method)(WINE.data)
    )


def test_fitting_is_silent_and_leaves_nothing_behind(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fitted = VAEEmbedder(**QUICK).fit(WINE.data)
    fitted.transform(WINE.data)
    del fitted
    out, error = capfd.readouterr()
    assert (out, error) == ("", "") and not list(tmp_path.iterdir())


def test_frames_come_out_where_they_are_asked_for() -> None:
    frame = load_iris(as_frame=True).data
    embedder = VAEEmbedder(latent=2, **QUICK).set_output(transform="pandas").fit(frame)
    found = embedder.transform(frame)
    assert list(found.columns) == ["vaeembedder0", "vaeembedder1"] and found.index.equals(frame.index)
    assert list(embedder.feature_names_in_) == list(frame.columns)


@pytest.fixture(scope="module")
def words() -> pd.DataFrame:
    random = np.random.default_rng(0)
    colour = random.choice(["red", "green", "blue"], 240)
    size = random.normal(np.where(colour == "red", 5.0, 1.0), 0.5)
    frame = pd.DataFrame({"colour": colour, "size": size, "heavy": size > 3})
    frame.loc[::17, "size"] = np.nan
    return frame


def test_a_frame_with_words_and_gaps_is_embedded_and_scored(words: pd.DataFrame) -> None:
    assert VAEEmbedder(latent=2, **QUICK).fit_transform(words).shape == (240, 2)
    detector = VAEAnomalyDetector(members=2, steps=400, false_alarms=0.1).fit(words)
    odd = pd.DataFrame({"colour": ["red", "blue"], "size": [1.0, 6.0], "heavy": [False, True]})
    assert (detector.score_samples(odd) < np.median(detector.score_samples(words))).all()
    with pytest.raises(BadInput, match="fitted on a data frame with words"):
        detector.predict(words.to_numpy())


def test_the_fitted_run_is_a_run_and_decodes(tmp_path: Path) -> None:
    embedder = VAEEmbedder(latent=2, config={"train": {"learning_rate": 3e-3}}, **QUICK).fit(WINE.data)
    assert embedder.run_.config.train.learning_rate == 3e-3
    codes = embedder.transform(WINE.data)
    np.testing.assert_allclose(codes, embedder.run_.embed(WINE.data), atol=1e-4)
    assert embedder.inverse_transform(codes).shape == WINE.data.shape
    assert load(embedder.run_.folder).latent == 2


def test_density_is_the_importance_weighted_bound() -> None:
    density = VAEDensity(samples=200, steps=200).fit(WINE.data)
    from vaelab import log_likelihood

    bound = log_likelihood(density.run_, WINE.data, samples=200)
    assert density.score(WINE.data) == pytest.approx(bound.mean, abs=0.15)
    assert density.sample(7, random_state=1).shape == (7, 13)


@pytest.mark.parametrize(("calibration", "members"), [("cross", 5), (0.2, 1)])
def test_false_alarms_are_those_asked_for(calibration: float | str, members: int) -> None:
    random = np.random.default_rng(0)
    mixing = random.normal(size=(3, 6))
    rates = []
    for seed in range(6):
        rows = random.normal(size=(600, 3)) @ mixing + 0.3 * random.normal(size=(600, 6))
        given = {"calibration": calibration, "members": members, "steps": 150, "samples": 10, "random_state": seed}
        detector = VAEAnomalyDetector(false_alarms=0.1, **given).fit(rows[:300])
        rates.append((detector.predict(rows[300:]) == -1).mean())
        assert np.array_equal(detector.predict(rows) == -1, detector.p_values(rows) <= 0.1)
    # Six calibrations of 60 rows and more: two points, and two standard deviations of 0.017.
    assert abs(np.mean(rates) - 0.1) < 0.02 + 2 * 0.017


def test_tables_of_many_rows_keep_some_apart() -> None:
    rows = np.random.default_rng(0).normal(size=(2500, 2))
    given = {"members": 2, "steps": 2, "samples": 1}
    sizes = [len(VAEAnomalyDetector(**given).fit(rows[:count]).calibration_.values) for count in (2500, 2499)]
    assert sizes == [500, 2 * 250]  # rows that no model saw; each model's own held-out tenth


@pytest.mark.parametrize(
    ("count", "members", "calibration", "share", "false_alarms"),
    [(1000, 5, "cross", 0.1, 0.05), (100, 5, "cross", 0.1, 0.05), (80, 5, "cross", 0.125, 0.05),
     (30, 5, "cross", 0.2, 0.05), (100, 1, "cross", 0.2, 0.05), (2500, 2, 0.2, 0.05, 0.05), (625, 2, 0.2, 0.1, 0.05),
     (100, 2, 0.2, 0.2, 0.05), (150, 5, "cross", 2 / 15, 0.01), (600, 1, "cross", 1 / 6, 0.01)],
)  # fmt: skip
def test_each_model_holds_out_as_few_rows_as_will_do(
    count: int, members: int, calibration: float | str, share: float, false_alarms: float
) -> None:
    rows = np.random.default_rng(0).normal(size=(count, 2))
    given = {"members": members, "calibration": calibration, "steps": 2, "samples": 1, "false_alarms": false_alarms}
    detector = VAEAnomalyDetector(**given).fit(rows)
    assert np.isfinite(detector.offset_)
    assert detector.run_.config.data.held_out == pytest.approx(share)
    calibrating = share * members * count if calibration == "cross" else calibration * count
    assert len(detector.calibration_.values) == round(calibrating)


@pytest.mark.parametrize("given", [{}, {"calibration": 0.2}, {"contamination": 0.05}], ids=str)
def test_a_level_that_is_rare_is_trained_on(given: dict) -> None:
    random = np.random.default_rng(1)
    word = np.array(["x", "y"], object)[random.integers(0, 2, 2600)]
    word[[5, 70, 900]] = ["rare", "rarer", "rarest"]
    frame = pd.DataFrame({"a": random.normal(size=2600), "word": word, "name": [f"name {row}" for row in range(2600)]})
    frame.loc[[5, 70], "a"] = 100.0
    for seed in range(3):
        detector = VAEAnomalyDetector(members=1, steps=2, samples=1, random_state=seed, **given).fit(frame)
        assert np.isfinite(detector.score_samples(frame.iloc[:100])).all()


def test_the_prior_follows_how_complete_rows_cluster() -> None:
    quick = {"members": 1, "steps": 2, "samples": 1}
    rows = np.random.default_rng(0).normal(size=(60, 3))
    found = VAEAnomalyDetector(**quick).fit(rows).run_.config.prior
    assert (found.name, found.components) == ("vamp", 12)
    holed = rows.copy()
    holed[3, 1] = np.nan
    assert VAEAnomalyDetector(**quick).fit(holed).run_.config.prior.name == "standard"
    assert VAEAnomalyDetector(contamination=0.1, **quick).fit(rows).run_.config.prior.name == "standard"
    for config, prior in (({"prior": {"name": "flow"}}, "flow"), ({"model": {"posterior": "iaf"}}, "standard"),
                          ({"likelihood": "laplace"}, "standard"),
                          ({"likelihood": {"floor": 0.1}}, "vamp")):  # fmt: skip
        assert VAEAnomalyDetector(config=config, **quick).fit(rows).run_.config.prior.name == prior
    for given, floor in (({}, pytest.approx(0.4 * 60 ** (-2 / 7))), ({"likelihood": {"floor": 0.01}}, 0.01)):
        found = VAEAnomalyDetector(config=given, **quick).fit(rows).run_.config.likelihood
        assert (found.name, found.noise, found.floor) == ("gaussian", "feature", floor)


def test_members_that_go_into_no_stack_are_trained_one_by_one() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    detector = VAEAnomalyDetector(members=3, steps=3, config={"model": {"dropout": 0.2}}).fit(rows)
    assert [kept.run.config.seed for kept in detector.runs_] == [0, 1, 2]
    assert len({kept.run.metrics["negative_elbo"] for kept in detector.runs_}) == 3


def test_dates_are_refused_by_name() -> None:
    frame = pd.DataFrame({"a": np.arange(9.0), "when": pd.date_range("2020", periods=9)})
    with pytest.raises(BadInput, match="dates in column when"):
        VAEImputer(**QUICK).fit(frame)


def test_rows_that_are_spoilt_are_found_and_explained() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 1)) * np.ones((1, 5)) + 0.2 * random.normal(size=(400, 5))
    odd = rows[:40].copy()
    odd[np.arange(40), np.arange(40) % 5] += 3.0
    detector = VAEAnomalyDetector(members=2, steps=400).fit(rows[40:])
    labels = np.r_[np.zeros(40), np.ones(40)]
    assert roc_auc_score(labels, -detector.score_samples(np.r_[rows[:40], odd])) > 0.97
    why = detector.explain(odd)
    named = [why.strangest(row, 1, detector.usual_parts_)[0][0] for row in range(40)]
    assert sum(name == f"column_{row % 5 + 1}" for row, name in enumerate(named)) >= 32


def test_anomalies_among_the_rows_to_be_fitted_do_little_harm() -> None:
    random = np.random.default_rng(1)
    clean = random.normal(size=(500, 1)) * np.ones((1, 6)) + 0.2 * random.normal(size=(500, 6))
    noise = random.normal(size=(120, 6)) * 1.5
    labels = np.r_[np.zeros(100), np.ones(60)]
    fitted_on = np.r_[clean[100:], noise[60:]]
    scored = np.r_[clean[:100], noise[:60]]
    robust = VAEAnomalyDetector(contamination=60 / 460, members=2, steps=400).fit(fitted_on)
    assert roc_auc_score(labels, -robust.score_samples(scored)) > 0.93
    assert (robust.predict(fitted_on) == -1).mean() == pytest.approx(60 / 460, abs=0.01)


def test_odd_columns_do_not_ruin_a_detector() -> None:
    """Discrete, constant, heavy-tailed and doubled columns beside the ones that tell."""
    random = np.random.default_rng(2)
    clean = random.normal(size=(500, 1)) * np.ones((1, 4)) + 0.3 * random.normal(size=(500, 4))
    odd = random.normal(size=(100, 4))

    def widened(rows: np.ndarray) -> np.ndarray:
        n = len(rows)
        further = [random.integers(0, 2, n), np.ones(n), random.standard_cauchy(n), rows[:, 0], random.poisson(1.0, n)]
        return np.column_stack([rows, *further])

    labels = np.r_[np.zeros(100), np.ones(100)]
    plain = VAEAnomalyDetector(members=2, steps=500).fit(clean[100:])
    wide = VAEAnomalyDetector(members=2, steps=500).fit(widened(clean[100:]))
    alone = roc_auc_score(labels, -plain.score_samples(np.r_[clean[:100], odd]))
    among = roc_auc_score(labels, -wide.score_samples(widened(np.r_[clean[:100], odd])))
    assert among > alone - 0.06


REFUSED = {
    "contamination": (
        VAEAnomalyDetector(contamination=0.7),
        'contamination: got 0.7; is a share in (0, 0.5], or "auto"',
    ),
    "calibration": (
        VAEAnomalyDetector(calibration=1.0),
        'calibration: got 1.0; is a share in (0, 1), "cross" or "auto"',
    ),
    "members": (VAEAnomalyDetector(members=0), "members: got 0; must be a whole number of at least 1"),
    "samples": (VAEDensity(samples=1.5), "samples: got 1.5; must be a whole number of at least 1"),
    "latent": (VAEEmbedder(latent=0), "model.latent: got 0; must be greater than or equal to 1"),
    "config": (VAEEmbedder(config={"trian": {}}), "trian: no such setting; did you mean train?"),
}


@pytest.mark.parametrize(("estimator", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_arguments_are_refused_when_fitting(estimator, message: str) -> None:
    with pytest.raises(BadInput) as refusal:
        estimator.fit(WINE.data)
    assert str(refusal.value).startswith(message)
