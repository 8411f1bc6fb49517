"""Anomaly scores against densities known in closed form; conformal p-values against their guarantee."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_wine

from vaelab import BadInput, Run, train, train_many
from vaelab.use.anomalies import judge_rows, save_scores
from vaelab.use.conformal import p_values, threshold
from vaelab.use.scoring import KINDS, REST, score

WINE = load_wine()
LINEAR = {
    "model": {"encoder": "linear", "latent": 3},
    "likelihood": {"name": "gaussian", "noise": "feature"},
    "train": {"steps": 400},
    "report": {"html": False},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    out = tmp_path_factory.mktemp("scoring") / "runs"
    return train_many(WINE.data, 2, out=out, config=LINEAR, progress=False)


def exact(run: Run, rows: np.ndarray) -> np.ndarray:
    """log p(x) of a linear model on the data's own scale: N(b, W W' + diag(s²)), by scipy."""
    state = {name: part.detach().double().numpy() for name, part in run.model.named_parameters()}
    weight, bias = (
        next(v for k, v in state.items() if k.startswith("decoder") and k.endswith(e)) for e in ("weight", "bias")
    )
    sigma = run.model.decoder.likelihood.noise(None, None).exp().detach().double().numpy()
    shift, scale = (part.double().numpy() for part in (run.spec.transform.shift, run.spec.transform.scale))
    covariance = weight @ weight.T + np.diag(sigma**2)
    return stats.multivariate_normal(bias, covariance).logpdf((rows - shift) / scale) - np.log(scale).sum()


def test_the_score_is_minus_log_p_of_the_closed_form(runs: list[Run]) -> None:
    found = score(runs[0], WINE.data, samples=3000)
    truth = -exact(runs[0], WINE.data)
    assert np.abs(found.values - truth).max() < 0.35
    assert abs((found.values - truth).mean()) < 0.02
    assert (np.abs(found.values - truth) < 5 * found.error + 0.02).mean() > 0.98


def test_several_runs_are_averaged(runs: list[Run]) -> None:
    together = score(runs, WINE.data, samples=2000).values
    truth = -np.mean([exact(run, WINE.data) for run in runs], axis=0)
    assert np.abs(together - truth).max() < 0.35


@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_to_the_score(runs: list[Run], kind: str) -> None:
    found = score(runs, WINE.data, kind, usual=20.0)
    np.testing.assert_allclose(found.parts.sum(1), found.values, atol=1e-9)
    assert found.names == (*runs[0].spec.columns, REST)


def test_a_row_has_the_same_score_in_any_company(runs: list[Run]) -> None:
    whole = score(runs, WINE.data).values
    np.testing.assert_allclose(score(runs, WINE.data[40:50]).values, whole[40:50], rtol=1e-10)
    np.testing.assert_allclose(score(runs, WINE.data[::-1]).values, whole[::-1], rtol=1e-10)


def test_latent_and_reconstruction_scores_are_their_closed_forms(runs: list[Run]) -> None:
    run = runs[0]
    mean, std = run.posterior(WINE.data)
    kl = (0.5 * (mean**2 + std**2 - 1) - np.log(std)).sum(1)
    np.testing.assert_allclose(score(run, WINE.data, "latent").values, kl, rtol=1e-4)
    found = score(run, WINE.data, "reconstruction", samples=4000)
    elbo_like = found.values + kl
    assert (elbo_like > -exact(run, WINE.data) - 5 * found.error - 0.01).all()  # -ELBO bounds -log p(x) from above


def test_the_column_that_was_spoilt_is_named(runs: list[Run]) -> None:
    rows = WINE.data[:13].copy()
    rows[np.arange(13), np.arange(13)] += 8 * WINE.data.std(0)
    judged = judge_rows(runs[0], rows)
    named = [judged.scores.strangest(row, 1, judged.usual)[0][0] for row in range(13)]
    hits = sum(name == f"column_{row + 1}" for row, name in enumerate(named))
    assert hits >= 11


def test_p_values_are_valid_and_near_uniform() -> None:
    random = np.random.default_rng(0)
    found = np.array([p_values(random.normal(size=1), random.normal(size=39))[0] for _ in range(20_000)])
    for level in (0.05, 0.1, 0.25, 0.5):  # (m + 1) level is whole: the chance is exactly the level
        assert abs((found <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / len(found))


def test_the_threshold_and_the_p_values_agree() -> None:
    random = np.random.default_rng(1)
    calibration, scores = random.normal(size=37).round(1), random.normal(size=500).round(1)  # with ties
    for level in (0.03, 0.05, 0.1, 0.33, 0.9):
        assert np.array_equal(scores > threshold(calibration, level), p_values(scores, calibration) <= level)
    assert threshold(calibration, 0.01) == np.inf


def test_missing_anomalies_are_written_and_read_back(runs: list[Run], tmp_path: Path) -> None:
    judged = judge_rows(runs[0], WINE.data, false_alarms=0.1)
    lines = save_scores(judged, tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "score,error,p_value,anomaly,why" and len(lines) == 1 + len(WINE.data)
    arrays = np.load(save_scores(judged, tmp_path / "scores.npz"))
    np.testing.assert_array_equal(arrays["score"], judged.scores.values)
    np.testing.assert_allclose(arrays["parts"].sum(1), arrays["score"], atol=1e-9)
    assert arrays["names"].tolist()[-1] == REST


def test_images_and_masses_have_scores_too(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    images = (load_digits().images > 7).astype(np.uint8)
    config = {"likelihood": "bernoulli", "train": {"steps": 60}, "report": {"html": False}}
    run = train(images, out=tmp_path / "run", config=config, progress=False)
    found = score(run, images[:50], samples=200)
    assert found.parts.shape == (50, 65) and found.names[:2] == ("0,0", "0,1")
    bound = -run_bound(run, images[:50])
    assert abs((found.values - bound).mean()) < 0.15


def run_bound(run: Run, rows: np.ndarray) -> np.ndarray:
    from vaelab import log_likelihood

    return log_likelihood(run, rows, samples=200).values


REFUSED = {
    "kind": ({"kind": "likelyhood"}, "kind: got likelyhood; no such name; did you mean likelihood?"),
    "samples": ({"samples": 0}, "samples: got 0; must be a whole number of at least 1"),
    "share": (
        {"false_alarms": 1.5},
        "false_alarms: got 1.5; is a share of the rows in order, between 0 and 1; such as 0.05",
    ),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_words_are_refused(runs: list[Run], given: dict, message: str) -> None:
    with pytest.raises(BadInput) as refusal:
        judge_rows(runs[0], WINE.data, **given)
    assert str(refusal.value) == message


def test_typicality_needs_what_is_usual(runs: list[Run]) -> None:
    with pytest.raises(BadInput, match="typicality is a distance"):
        score(runs[0], WINE.data, "typicality")
    judged = judge_rows(runs[0], WINE.data, "typicality")
    assert (judged.scores.values >= 0).all()


def test_a_run_that_was_exported_without_its_rows_still_scores(runs: list[Run], tmp_path: Path) -> None:
    from vaelab.use.exporting import export

    bare = Run(export(runs[0].folder, tmp_path / "bare", ["safetensors"]).folder)
    judged = judge_rows(bare, WINE.data)
    np.testing.assert_array_equal(judged.scores.values, judge_rows(runs[0], WINE.data).scores.values)
    assert np.isnan(judged.p_values).all() and not judged.anomalies.any()
    assert save_scores(judged, tmp_path / "scores.csv").exists()
