"""The statistics of a diagnosis against closed forms, brute force and other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn.metrics import roc_auc_score

from vaelab.measure.aggregate import (
    area_under_curve,
    holes,
    jarque_bera,
    saturation,
    separability,
    two_sample,
    two_sample_limit,
)
from vaelab.measure.blur import fine_energy
from vaelab.measure.estimate import Estimate, between, mean_of, ratio_of
from vaelab.measure.information import Information, information
from vaelab.measure.samples import copies, coverage_density, nearest_two, spread_ratio

RANDOM = np.random.default_rng(0)
SEEDS = 100


# Estimates ------------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_holds_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).exponential(2.0, (400, 2000))
    found = mean_of(draws)
    assert 0.93 < np.mean((found.low <= 2.0) & (found.high >= 2.0)) < 0.97


def test_the_interval_of_a_ratio_holds_the_ratio_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    bottom = random.exponential(1.0, (400, 2000))
    found = ratio_of(3 * bottom + random.normal(size=bottom.shape), bottom)
    assert 0.93 < np.mean((found.low <= 3.0) & (found.high >= 3.0)) < 0.97


def test_bounds_become_the_middle_and_half_the_width() -> None:
    found = between(1.0, 5.0, 0.5, "nats")
    assert (found.value, found.low, found.high) == (3.0, 0.5, 5.5)


@pytest.mark.parametrize("number", [Estimate(1.5, 0.25, "nats"), Estimate(1.5), Estimate(np.arange(3.0), np.ones(3))])
def test_an_estimate_comes_back_from_plain_values(number: Estimate) -> None:
    back = Estimate.from_dict(number.to_dict())
    assert np.array_equal(back.value, number.value) and back.unit == number.unit
    assert back.interval is None if number.interval is None else np.array_equal(back.interval, number.interval)


# Information of a linear-Gaussian model -------------------------------------------------------------------------------


def linear_gaussian(seed: int, rows: int, gains: np.ndarray, variance: np.ndarray) -> tuple[Information, np.ndarray]:
    """q(z|x) = N(x A, diag(variance)) for x ~ N(0, I): z ~ N(0, A'A + diag(variance)), all known exactly."""
    random = np.random.default_rng(seed)
    mean = random.standard_normal((rows, len(gains))) @ gains
    spread = np.broadcast_to(variance, mean.shape)
    z = mean + np.sqrt(spread) * random.standard_normal(mean.shape)
    scaled = (z[:, None] - mean) ** 2 / variance
    pairs = -0.5 * (scaled + np.log(2 * math.pi * variance)).sum(-1)
    prior = stats.norm.logpdf(z).sum(1)
    return information(z, pairs, prior, mean, spread), gains.T @ gains + np.diag(variance)


def truths(covariance: np.ndarray, variance: np.ndarray) -> dict[str, float]:
    """The closed forms, from determinants and the trace."""
    log_det = np.linalg.slogdet(covariance)[1]
    return {
        "mutual": 0.5 * (log_det - np.log(variance).sum()),
        "marginal": 0.5 * (np.trace(covariance) - len(covariance) - log_det),
        "correlation": 0.5 * (np.log(np.diag(covariance)).sum() - log_det),
    }


MODELS = {
    "a little": (np.array([[0.6, 0.2], [0.1, 0.5]]), np.array([0.8, 0.7])),
    "some": (np.array([[1.0, 0.6, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 0.9]]), np.array([0.2, 0.1, 0.3])),
    "far from the prior": (np.array([[3.0, 2.0], [0.0, 2.0]]), np.array([0.5, 0.3])),
    "more than log N": (np.eye(6) + 0.3, np.full(6, 0.01)),
}


@pytest.mark.parametrize("name", MODELS)
def test_information_and_total_correlation_lie_in_their_intervals(name: str) -> None:
    gains, variance = MODELS[name]
    hits = dict.fromkeys(("mutual", "marginal", "correlation"), 0)
    for seed in range(SEEDS):
        found, covariance = linear_gaussian(seed, 300, gains, variance)
        for key, truth in truths(covariance, variance).items():
            number = getattr(found, key)
            hits[key] += number.low <= truth <= number.high
    assert min(hits.values()) >= 90, hits


def test_the_intervals_are_narrow_where_rows_suffice() -> None:
    gains, variance = MODELS["a little"]
    found, _ = linear_gaussian(0, 1000, gains, variance)
    assert found.mutual.interval < 0.1 and found.marginal.interval < 0.1 and found.correlation.interval < 0.15
    assert found.ceiling == pytest.approx(math.log(1000))


def test_beyond_log_n_the_interval_says_so() -> None:
    gains, variance = MODELS["more than log N"]
    found, covariance = linear_gaussian(0, 300, gains, variance)
    truth = truths(covariance, variance)["mutual"]
    assert truth > found.ceiling and found.mutual.interval > (truth - found.ceiling) / 2


# The aggregate posterior against the prior ----------------------------------------------------------------------------


def test_the_two_sample_distance_is_scipys_also_with_ties() -> None:
    left, right = RANDOM.normal(size=(70, 3)).round(1), RANDOM.normal(0.4, 1.3, (90, 3)).round(1)
    expected = [stats.ks_2samp(a, b).statistic for a, b in zip(left.T, right.T, strict=True)]
    assert two_sample(left, right) == pytest.approx(expected)


def test_one_distribution_exceeds_the_limit_once_in_twenty_times() -> None:
    random = np.random.default_rng(5)
    distances = two_sample(random.normal(size=(500, 2000)), random.normal(size=(500, 2000)))
    assert 0.03 < np.mean(distances > two_sample_limit(500, 500)) < 0.07


def test_the_normality_statistic_is_scipys() -> None:
    rows = np.stack([RANDOM.normal(size=200), RANDOM.exponential(size=200), RANDOM.uniform(size=200)], axis=1)
    expected = [stats.jarque_bera(column).statistic for column in rows.T]
    assert jarque_bera(rows) == pytest.approx(expected)


def test_the_area_is_scikit_learns_also_with_ties() -> None:
    positive, negative = RANDOM.normal(1, 1, 80).round(1), RANDOM.normal(0, 1, 120).round(1)
    labels = np.repeat([1, 0], [80, 120])
    found = area_under_curve(positive, negative)
    assert found.value == pytest.approx(roc_auc_score(labels, np.concatenate([positive, negative])))


def test_the_area_of_two_normals_is_known_and_lies_in_the_interval() -> None:
    random, truth, hits = np.random.default_rng(3), stats.norm.cdf(1 / math.sqrt(2)), 0
    for _ in range(SEEDS):
        found = area_under_curve(random.normal(1, 1, 150), random.normal(0, 1, 150))
        hits += found.low <= truth <= found.high
    assert hits >= 90


def test_a_classifier_reaches_the_best_area_of_two_normals() -> None:
    """The best score of N(m, I) against N(0, I) is m'z, with the area cdf(|m| / sqrt 2)."""
    random = np.random.default_rng(4)
    found = separability(random.normal((1.0, 0.5, 0.0), size=(600, 3)), random.normal(size=(600, 3)))
    assert found is not None
    assert found.value == pytest.approx(stats.norm.cdf(math.hypot(1.0, 0.5) / math.sqrt(2)), abs=0.04)


@pytest.mark.parametrize("kind", ["wider", "two clusters", "correlated"])
def test_a_classifier_sees_more_than_means(kind: str) -> None:
    random = np.random.default_rng(6)
    prior, codes = random.normal(size=(500, 2)), random.normal(size=(500, 2))
    if kind == "wider":
        codes *= 2
    elif kind == "two clusters":  # the prior's mean and variance, and a gap
        codes[:, 0] = 0.2 * codes[:, 0] + np.where(random.random(500) < 0.5, 0.98, -0.98)
    else:
        codes[:, 1] = 0.95 * codes[:, 0] + math.sqrt(1 - 0.95**2) * codes[:, 1]
    found = separability(codes, prior)
    assert found is not None and found.low > 0.6


def test_a_classifier_finds_no_difference_where_there_is_none() -> None:
    random = np.random.default_rng(7)
    found = separability(random.normal(size=(400, 8)), random.normal(size=(400, 8)))
    assert found is not None and found.low < 0.52 and found.high > 0.48
    assert separability(random.normal(size=(19, 2)), random.normal(size=(50, 2))) is None
    assert separability(random.normal(size=(25, 64)), random.normal(size=(25, 64))) is not None


def test_holes_are_the_share_of_the_prior_outside() -> None:
    """Codes that fill a disc of radius 1: of a standard normal in the plane exp(-1/2) lies outside it."""
    random = np.random.default_rng(8)
    angle, radius = random.uniform(0, 2 * math.pi, 8000), np.sqrt(random.random(8000))
    disc = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    prior = random.standard_normal((3000, 2))
    found = holes(prior, disc[4000:], disc[:4000], np.full(2, 0.02), own=False)
    assert found.value == pytest.approx(math.exp(-0.5), abs=0.06)
    filled = random.standard_normal((2000, 2))
    assert holes(prior, filled, filled, np.ones(2), own=True).value < 0.05


def test_saturation_of_known_shapes() -> None:
    random = np.random.default_rng(9)
    ends = np.sign(random.normal(size=2000)) + 0.001 * random.normal(size=2000)
    found = saturation(np.stack([random.random(2000), random.normal(size=2000), ends], axis=1))
    assert found == pytest.approx([0.1, 0.005, 1.0], abs=0.02)


# Samples --------------------------------------------------------------------------------------------------------------


def test_coverage_and_density_by_brute_force() -> None:
    real, made = RANDOM.normal(size=(40, 3)), RANDOM.normal(0.5, 1, (30, 3))
    radius = [sorted(np.linalg.norm(row - other) for other in real)[5] for row in real]
    inside = [[np.linalg.norm(r - m) < k for m in made] for r, k in zip(real, radius, strict=True)]
    coverage, density = coverage_density(real, made, 5)
    assert coverage.value == pytest.approx(np.mean([any(row) for row in inside]))
    assert density.value == pytest.approx(np.sum(inside) / (5 * 30))


def test_coverage_and_density_of_one_distribution() -> None:
    random = np.random.default_rng(10)
    coverage, density = coverage_density(random.normal(size=(800, 2)), random.normal(size=(800, 2)), 5)
    assert coverage.value == pytest.approx(1 - 2**-5, abs=0.02) and density.value == pytest.approx(1, abs=0.1)


def test_one_mode_of_two_is_half_covered() -> None:
    random = np.random.default_rng(11)
    real = random.normal(size=(400, 2)) + np.repeat([[0.0], [50.0]], 200, axis=0)
    coverage, _ = coverage_density(real, random.normal(size=(400, 2)))
    assert coverage.value == pytest.approx(0.5, abs=0.03)


def test_the_spread_is_the_mean_squared_distance() -> None:
    made, real = RANDOM.normal(0, 2, (60, 4)), RANDOM.normal(size=(60, 4))
    by_pairs = [np.mean([((a - b) ** 2).sum() for a in rows for b in rows]) for rows in (made, real)]
    assert spread_ratio(made, real).value == pytest.approx(by_pairs[0] / by_pairs[1])


def test_copies_are_told_from_neighbours() -> None:
    random = np.random.default_rng(12)
    training = random.normal(size=(300, 20))
    made = np.concatenate([training[:50] + 0.01 * random.normal(size=(50, 20)), random.normal(size=(150, 20))])
    twice = np.concatenate([training, training])  # a row that is there twice is no neighbour of itself
    assert copies(nearest_two(made, twice)).tolist() == [1.0] * 50 + [0.0] * 150
    table = np.sort(np.linalg.norm(made[:, None] - training, axis=-1), axis=1)[:, :2]
    assert nearest_two(made, training) == pytest.approx(table, abs=1e-6)


# Blur -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cycles", [(1, 0), (0, 3), (5, 5), (7, 2), (8, 8)])
def test_a_wave_has_its_energy_where_its_frequency_says(cycles: tuple[int, int]) -> None:
    size = 16
    rows, columns = np.indices((size, size))
    wave = np.cos(2 * math.pi * (cycles[0] * rows + cycles[1] * columns) / size)
    fine = math.hypot(*cycles) / size > 0.25
    assert fine_energy(wave[None, None])[0] == pytest.approx((wave**2).mean() if fine else 0.0, abs=1e-12)


def test_a_blur_removes_what_its_transfer_function_says() -> None:
    """The kernel (1, 2, 1) / 4 multiplies a wave by (1 + cos 2 pi f) / 2; white noise holds all waves alike."""
    noise = np.random.default_rng(13).normal(size=(40, 1, 32, 32))
    blurred = noise
    for axis in (2, 3):
        blurred = ndimage.convolve1d(blurred, [0.25, 0.5, 0.25], axis=axis, mode="wrap")
    rows, columns = np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32))
    gain = ((1 + np.cos(2 * math.pi * rows)) * (1 + np.cos(2 * math.pi * columns)) / 4) ** 2
    expected = gain[np.hypot(rows, columns) > 0.25].mean()
    assert fine_energy(blurred).mean() / fine_energy(noise).mean() == pytest.approx(expected, rel=0.05)
