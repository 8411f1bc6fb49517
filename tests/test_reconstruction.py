"""Errors of reconstructions against other libraries, loops over pixels, and trained runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t
from sklearn.datasets import load_wine
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

import vaelab
from vaelab.core.errors import BadInput
from vaelab.evaluation import reconstruction as group
from vaelab.evaluation.case import Case
from vaelab.evaluation.reconstruction import reconstruction
from vaelab.measure.estimate import mean_of
from vaelab.measure.reconstruction import absolute_error, cross_entropy, explained, psnr, squared_error, ssim, window_of

RANDOM = np.random.default_rng(0)
SETTINGS: dict[str, Any] = {"train": {"steps": 300, "threads": 1}, "report": {"html": False}}


def pair(*shape: int, low: float = 0.0, high: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    x = RANDOM.uniform(low, high, shape)
    return x, np.clip(x + 0.2 * (high - low) * RANDOM.standard_normal(shape), low, high)


# Against other libraries ----------------------------------------------------------------------------------------------


def test_squared_and_absolute_errors_are_scikit_learns() -> None:
    x, fitted = pair(40, 6, low=-3, high=50)
    for ours, theirs in ((squared_error, mean_squared_error), (absolute_error, mean_absolute_error)):
        errors = ours(x, fitted)
        np.testing.assert_allclose(errors.mean(0), theirs(x, fitted, multioutput="raw_values"), rtol=1e-12)
        np.testing.assert_allclose(errors.mean(1), theirs(x.T, fitted.T, multioutput="raw_values"), rtol=1e-12)


def test_the_cross_entropy_is_pytorchs_also_where_it_would_be_infinite() -> None:
    x, fitted = pair(30, 7)
    x[0], fitted[0] = [0, 0, 1, 1, 0.5, 0.5, 1], [0, 1, 0, 1, 0, 1, 1e-20]
    theirs = torch.nn.functional.binary_cross_entropy(torch.tensor(fitted), torch.tensor(x), reduction="none")
    np.testing.assert_allclose(cross_entropy(x, fitted), theirs.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "peak"), [((5, 1, 28, 28), 1.0), ((4, 3, 16, 21), 255.0), ((3, 1, 11, 11), 16.0)])
def test_psnr_and_ssim_are_those_of_torchmetrics(shape: tuple[int, ...], peak: float) -> None:
    metrics = pytest.importorskip("torchmetrics.functional.image")
    x, fitted = pair(*shape, high=peak)
    tensors = torch.tensor(fitted), torch.tensor(x)
    similarity = metrics.structural_similarity_index_measure(*tensors, data_range=peak, reduction="none")
    np.testing.assert_allclose(ssim(x, fitted, peak, reflect=True), similarity.numpy(), atol=1e-9)
    ratio = metrics.peak_signal_noise_ratio(*tensors, data_range=peak, reduction="none", dim=(1, 2, 3))
    np.testing.assert_allclose(psnr(x, fitted, peak), ratio.numpy(), rtol=1e-6)


def ssim_by_windows(x: np.ndarray, y: np.ndarray, peak: float, size: int) -> float:
    """One gray image [H, W], window by window, with NumPy's weighted covariance."""
    at = np.arange(size) - size // 2
    weights = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2)).ravel()
    first, second = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    found = []
    for i in range(len(x) - size + 1):
        for j in range(x.shape[1] - size + 1):
            window = np.stack([image[i : i + size, j : j + size].ravel() for image in (x, y)])
            mean = np.average(window, axis=1, weights=weights)
            spread = np.cov(window, aweights=weights, ddof=0)
            top = (2 * mean.prod() + first) * (2 * spread[0, 1] + second)
            found.append(top / (((mean**2).sum() + first) * (np.trace(spread) + second)))
    return float(np.mean(found))


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 7), (5, 9, 5), (12, 30, 11), (3, 3, 3), (10, 11, 9)])
def test_ssim_of_small_images_has_the_largest_odd_window_that_fits(height: int, width: int, size: int) -> None:
    x, fitted = pair(2, 2, height, width, high=16.0)
    assert window_of(height, width) == size
    one_by_one = [
        np.mean([ssim_by_windows(x[n, c], fitted[n, c], 16.0, size) for c in range(2)]) for n in range(len(x))
    ]
    np.testing.assert_allclose(ssim(x, fitted, 16.0), one_by_one, atol=1e-10)


def test_equal_images_are_at_one_and_their_ratio_is_infinite() -> None:
    x, _ = pair(3, 1, 8, 8)
    np.testing.assert_allclose(ssim(x, x, 1.0), 1.0, atol=1e-12)
    assert np.isinf(psnr(x, x, 1.0)).all()


# R² -------------------------------------------------------------------------------------------------------------------


def test_explained_variance_is_scikit_learns_r2() -> None:
    x, fitted = pair(50, 5, low=-10, high=4)
    np.testing.assert_allclose(explained(x, fitted).mean(0), r2_score(x, fitted, multioutput="raw_values"), rtol=1e-10)
    pooled = r2_score(x, fitted, multioutput="variance_weighted")
    np.testing.assert_allclose(explained(x, fitted, pooled=True).mean(), pooled, rtol=1e-10)
    assert np.isnan(explained(np.ones((4, 1)), np.zeros((4, 1)))).all()


def test_the_interval_of_r2_holds_it_as_often_as_it_says() -> None:
    random, hits = np.random.default_rng(1), 0
    for _ in range(400):
        signal = random.standard_normal((300, 1))
        found = mean_of(explained(signal + 0.5 * random.standard_normal((300, 1)), signal))
        hits += bool(found.low <= 0.8 <= found.high)  # 1 - 0.25 / 1.25
    assert 365 <= hits <= 395


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: squared_error(np.zeros((3, 2)), np.zeros((3, 4))), r"fitted: got shape \(3, 4\)"),
        (lambda: squared_error(np.zeros(3), np.zeros(3)), "must be rows"),
        (lambda: cross_entropy(np.zeros((3, 2)), np.full((3, 2), 1.5)), r"fitted: .*must lie in \[0, 1\]"),
        (lambda: cross_entropy(np.full((3, 2), -1.0), np.zeros((3, 2))), r"x: .*must lie in \[0, 1\]"),
        (lambda: psnr(np.zeros((3, 2)), np.ones((3, 2)), 0.0), "peak: got 0.0"),
        (lambda: ssim(np.zeros((3, 9, 9)), np.ones((3, 9, 9)), 1.0), r"\[n, C, H, W\]"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        call()


# Runs -----------------------------------------------------------------------------------------------------------------


def trained(folder: Path, source: Any, **settings: Any) -> tuple[Any, Case]:
    run = vaelab.train(source, out=folder, config={**SETTINGS, **settings}, progress=False)
    spec = run.spec
    x, training = (
        torch.as_tensor(np.ascontiguousarray(rows)).reshape(-1, *spec.shape)
        for rows in (run.preview, run.training_preview)
    )
    coins = torch.Generator().manual_seed(0)
    seen = [spec.transform(rows) for rows in (x, training)]
    if spec.binarize == "dynamic":
        seen = [torch.bernoulli(rows, generator=coins) for rows in seen]
    return run, Case(run.config, spec, run.model, *seen)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Case]:
    return trained(tmp_path_factory.mktemp("digits") / "run", "digits")


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Case]:
    return trained(tmp_path_factory.mktemp("wine") / "run", load_wine(as_frame=True).data)


def test_digits_are_measured_on_their_own_scale(digits: tuple[Any, Case]) -> None:
    run, case = digits
    state = torch.random.get_rng_state()
    found = reconstruction(case)
    assert torch.equal(state, torch.random.get_rng_state())
    x = np.asarray(run.preview, np.float64).reshape(len(run.preview), -1)
    back = run.reconstruct(run.preview).reshape(x.shape)
    errors = (x - back) ** 2
    assert found["mse"].value == pytest.approx(errors.mean(), rel=1e-5)
    half = t.ppf(0.975, len(x) - 1) * errors.mean(1).std(ddof=1) / np.sqrt(len(x))
    assert found["mse"].interval == pytest.approx(half, rel=1e-4)
    assert found["psnr"].value == pytest.approx((10 * np.log10(256 / errors.mean(1))).mean(), rel=1e-5)
    assert found["psnr"].unit == "dB, peak 16" and "window 7 x 7" in found["ssim"].unit
    assert found["r2"].value == pytest.approx(1 - errors.sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-5)
    np.testing.assert_allclose(found["mse_per_entry"].value, errors.mean(0), rtol=1e-3, atol=1e-6)
    assert found["mse_at_a_draw"].low > found["mse"].high and "bce" not in found


def test_a_table_is_measured_column_by_column(wine: tuple[Any, Case]) -> None:
    run, case = wine
    found = reconstruction(case)
    x = np.asarray(run.preview, np.float64)
    back = run.reconstruct(run.preview)
    assert len(case.spec.columns) == 13
    np.testing.assert_allclose(found["mse_per_column"].value, ((x - back) ** 2).mean(0), rtol=1e-3)
    np.testing.assert_allclose(found["mae_per_column"].value, np.abs(x - back).mean(0), rtol=1e-3)
    each = r2_score(x, back, multioutput="raw_values")
    np.testing.assert_allclose(found["r2_per_column"].value, each, atol=1e-3)
    assert found["r2"].value == pytest.approx(each.mean(), abs=1e-3)
    scaled = (x - back) / case.spec.transform.scale.numpy()
    assert found["mse"].value == pytest.approx((scaled**2).mean(), rel=1e-3)
    assert "psnr" not in found and found["mse_per_column"].interval.shape == (13,)


def test_bits_are_measured_as_bits(tmp_path: Path) -> None:
    _, case = trained(tmp_path / "run", "digits", data={"binarize": "dynamic"})
    found = reconstruction(case)
    with torch.no_grad():
        decoded = case.model.decode(case.model.encode(case.x).mean[None])
    assert found["bce"].value == pytest.approx(-decoded.log_prob(case.x)[0].mean().item(), rel=1e-4)
    assert found["mse"].value == pytest.approx((case.x - decoded.mean[0]).square().mean().item(), rel=1e-4)
    assert found["mse"].unit == "squared bits of gray levels, mean over entries" and "peak 1" in found["psnr"].unit


@pytest.mark.parametrize(
    ("rows", "unit"),
    [("counts", "counts"), ("bits", "units of the data"), ("standardised", "units of the model's scale")],
)
def test_errors_of_tables_say_what_they_are_counted_in(rows: str, unit: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = {
        "counts": random.poisson(3.0, (80, 4)),
        "bits": random.integers(0, 2, (80, 4)),
        "standardised": 5 * random.standard_normal((80, 4)),
    }[rows]
    _, case = trained(tmp_path / "run", table, train={"steps": 2})
    found = reconstruction(case)
    assert found["mse"].unit == f"squared {unit}, mean over entries" and found["mae"].unit.startswith(unit)
    own = unit.replace("the model's scale", "the data")
    assert found["mse_per_column"].unit == f"squared {own}"
    same = found["mse"].value == pytest.approx(found["mse_per_column"].value.mean())
    assert same == (rows != "standardised")


def test_chunks_and_seeds_do_what_they_say(digits: tuple[Any, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    _, case = digits
    whole = reconstruction(case)
    monkeypatch.setattr(group, "DECODED", 7)
    in_parts = reconstruction(case)
    for name, number in whole.items():
        np.testing.assert_allclose(in_parts[name].value, number.value, rtol=1e-5)
    other = reconstruction(replace(case, seed=1))
    assert other["mse"].value == in_parts["mse"].value
    assert other["mse_at_a_draw"].value != in_parts["mse_at_a_draw"].value
