"""Distances between samples and data against closed forms, loops over rows, another library, and known models."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import binom
from sklearn.datasets import load_wine
from torch import Tensor, nn

import vaelab
from vaelab.core.config import build_config
from vaelab.core.errors import BadInput, MissingExtra
from vaelab.data.transforms import Affine
from vaelab.distributions.normal import DiagonalNormal, StandardNormal
from vaelab.distributions.observations import NormalObservation
from vaelab.evaluation import samples as group
from vaelab.evaluation.case import Case
from vaelab.evaluation.samples import fid, samples
from vaelab.measure import features as extractors
from vaelab.measure import samples as measure
from vaelab.measure.features import entries, inception, network, principal, usual
from vaelab.measure.samples import coverage_density, frechet_distance, kernel_distance, precision_recall

SEEDS = 100


def with_moments(random: np.random.Generator, rows: int, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Rows whose own mean and covariance are exactly the given ones."""
    drawn = random.standard_normal((rows, len(mean)))
    drawn -= drawn.mean(0)
    drawn = np.linalg.solve(np.linalg.cholesky(np.atleast_2d(np.cov(drawn, rowvar=False))), drawn.T).T
    return mean + drawn @ np.linalg.cholesky(covariance).T


def covariance_of(random: np.random.Generator, size: int) -> np.ndarray:
    root = random.standard_normal((size, size))
    return root @ root.T + 0.1 * np.eye(size)


# Frechet distance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_the_frechet_distance_is_the_closed_form_between_normals(size: int) -> None:
    random = np.random.default_rng(size)
    means = random.standard_normal((2, size))
    first, second = covariance_of(random, size), covariance_of(random, size)
    found, _ = frechet_distance(with_moments(random, 200, means[0], first), with_moments(random, 300, means[1], second))
    truth = ((means[0] - means[1]) ** 2).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert found.value == pytest.approx(truth, rel=1e-6)


def test_the_frechet_distance_is_that_of_torchmetrics() -> None:
    fid_of = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance
    random = np.random.default_rng(0)
    left, right = random.standard_normal((120, 9)), 0.3 + 1.4 * random.standard_normal((150, 9))
    flat = nn.Flatten()
    flat.num_features = 9
    metric = fid_of(feature=flat, normalize=True)
    metric.update(torch.tensor(left), real=True)
    metric.update(torch.tensor(right), real=False)
    assert frechet_distance(left, right)[0].value == pytest.approx(metric.compute().item(), rel=1e-6)


def test_equal_rows_are_at_no_distance_also_with_dead_features() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 5))
    rows[:, 3] = 2.0
    assert frechet_distance(rows, rows)[0].value == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("size", "shift", "scale"), [(5, 0.0, 1.0), (5, 1.0, 1.0), (12, 0.3, 1.3)])
def test_its_bias_is_as_stated_and_its_intervals_hold_the_truth(size: int, shift: float, scale: float) -> None:
    rows = 200
    truth, values, hits = size * shift**2 + size * (1 - scale) ** 2, [], np.zeros(2)
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        made = shift + scale * random.standard_normal((rows, size))
        found = frechet_distance(random.standard_normal((rows, size)), made)
        values.append([number.value for number in found])
        hits += [number.low <= truth <= number.high for number in found]
    plain, unbiased = np.mean(values, 0) - truth
    error = 3 * np.std(values, 0)[1] / np.sqrt(SEEDS)
    if shift == 0:
        assert plain == pytest.approx(2 / rows * (size + size * (size + 1) / 4), rel=0.1)
    assert abs(unbiased) < error + 0.1 * plain and plain > 0
    assert hits[0] >= 93 and 92 <= hits[1] <= 100, hits


@pytest.mark.parametrize(("rows", "size"), [(10, 10), (64, 64), (8, 2)])
def test_too_few_rows_for_a_covariance_are_refused(rows: int, size: int) -> None:
    with pytest.raises(BadInput, match=f"rows: got {rows}; a covariance of {size} features"):
        frechet_distance(np.random.default_rng(0).standard_normal((rows, size)), np.zeros((500, size)))


# Kernel distance ------------------------------------------------------------------------------------------------------


def kernel_by_pairs(left: np.ndarray, right: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    def pairs(rows: np.ndarray) -> float:
        return float(np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]))

    return pairs(left) + pairs(right) - 2 * float(np.mean([kernel(x, y) for x in left for y in right]))


@pytest.mark.parametrize("values", [2**22, 50])
def test_the_kernel_distance_is_that_of_all_pairs_whatever_the_chunks(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "KERNEL_VALUES", values)
    random = np.random.default_rng(0)
    left, right = random.standard_normal((23, 4)), 0.5 + random.standard_normal((31, 4))
    found = kernel_distance(left, right)
    assert found.value == pytest.approx(kernel_by_pairs(left, right), rel=1e-10)
    variance = 0.0
    for rows, other in ((left, right), (right, left)):
        without = [kernel_by_pairs(np.delete(rows, i, 0), other) for i in range(len(rows))]
        variance += (len(rows) - 1) * np.var(without)
    assert found.interval == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-8)


def test_the_kernel_distance_is_that_of_torchmetrics() -> None:
    poly_mmd = pytest.importorskip("torchmetrics.image.kid").poly_mmd
    random = np.random.default_rng(1)
    left, right = random.standard_normal((60, 8)), random.standard_normal((60, 8)) * 1.2
    theirs = poly_mmd(torch.tensor(left), torch.tensor(right)).item()
    assert kernel_distance(left, right).value == pytest.approx(theirs, rel=1e-8)


def cubic_between_normals(shift: float, size: int) -> float:
    """The distance between N(0, I) and N(shift, I) in closed form: cumulants of x'y are sums of those of x_j y_j."""

    def expected(a: float, b: float) -> float:
        first, second, third = a * b, (a**2 + 1) * (b**2 + 1), (a**3 + 3 * a) * (b**3 + 3 * b)
        mean = 1 + first
        variance = (second - first**2) / size
        skew = (third - 3 * second * first + 2 * first**3) / size**2
        return mean**3 + 3 * mean * variance + skew

    return expected(0.0, 0.0) + expected(shift, shift) - 2 * expected(0.0, shift)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_the_kernel_distance_has_no_bias_and_its_interval_holds_the_truth(shift: float) -> None:
    truth, values, hits = cubic_between_normals(shift, 5), [], 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        found = kernel_distance(random.standard_normal((200, 5)), shift + random.standard_normal((200, 5)))
        values.append(found.value)
        hits += found.low <= truth <= found.high
    assert abs(np.mean(values) - truth) < 3 * np.std(values) / np.sqrt(300)
    assert hits >= 279, hits  # a jackknife errs to the safe side


# Precision, recall, density, coverage ---------------------------------------------------------------------------------


def clusters(random: np.random.Generator, rows: int, centres: tuple[float, ...]) -> np.ndarray:
    which = np.resize(np.array(centres), rows)
    return np.stack([which, np.zeros(rows)], 1) + 0.5 * random.standard_normal((rows, 2))


def test_precision_and_recall_are_those_of_a_loop_over_balls() -> None:
    random = np.random.default_rng(0)
    real, made = random.standard_normal((40, 3)), 0.5 + 1.3 * random.standard_normal((30, 3))

    def inside(rows: np.ndarray, manifold: np.ndarray) -> float:
        radii = [sorted(np.linalg.norm(manifold - row, axis=1))[3] for row in manifold]
        near = [any(np.linalg.norm(row - at) <= r for at, r in zip(manifold, radii, strict=True)) for row in rows]
        return float(np.mean(near))

    precision, recall = precision_recall(real, made)
    assert (precision.value, recall.value) == (inside(made, real), inside(real, made))


def test_support_and_modes_are_told_apart() -> None:
    random = np.random.default_rng(0)
    real, everything = clusters(random, 400, (0.0, 8.0)), (0.0, 8.0)
    same, dropped = clusters(random, 400, everything), clusters(random, 400, (0.0,))
    invented, apart = clusters(random, 400, (0.0, 8.0, 30.0, 40.0)), clusters(random, 400, (100.0,))
    found = {
        name: [number.value for number in precision_recall(real, rows)]
        for name, rows in (("same", same), ("dropped", dropped), ("invented", invented), ("apart", apart))
    }
    assert min(found["same"]) > 0.93
    assert found["dropped"][0] > 0.93 and 0.45 < found["dropped"][1] < 0.55
    assert 0.45 < found["invented"][0] < 0.55 and found["invented"][1] > 0.9
    assert found["apart"] == [0.0, 0.0]
    coverage, _ = coverage_density(real, dropped)
    assert 0.45 < coverage.value < 0.55


@pytest.mark.parametrize("size", [2, 8])
def test_the_intervals_are_as_wide_as_other_rows_would_spread(size: int) -> None:
    found = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        real, made = random.standard_normal((150, size)), 0.4 + 0.9 * random.standard_normal((150, size))
        found.append([*precision_recall(real, made), *coverage_density(real, made)])
    spread = np.std([[number.value for number in row] for row in found], axis=0, ddof=1)
    stated = np.mean([[number.interval for number in row] for row in found], axis=0) / 2
    assert (0.8 * spread < stated).all() and (stated < 2.5 * spread).all(), (spread, stated)


def test_a_share_of_all_rows_is_not_certain() -> None:
    rows = np.random.default_rng(0).standard_normal((20, 2))
    precision, _ = precision_recall(rows, rows)
    assert precision.value == 1.0 and precision.interval > 0.1 and "1 at most" in precision.unit


@pytest.mark.parametrize("chance", [0.75, 0.9, 0.97])
def test_the_interval_of_a_share_holds_it_also_at_its_end(chance: float) -> None:
    """Of ten and of a hundred independent rows: an interval around 1 reaches as far down as Agresti and Coull's."""
    for count in (10, 100):
        found = [measure._no_narrower(np.arange(count) < k, 0.0, "") for k in range(count + 1)]
        held = [number.low <= chance <= number.high for number in found]
        assert (binom.pmf(np.arange(count + 1), count, chance) * held).sum() > 0.94


def test_an_interval_of_a_share_reaches_no_farther_than_0_and_1() -> None:
    half, none = (measure._no_narrower(np.arange(4) < k, 3.0, "") for k in (2, 0))
    assert (half.interval, none.interval) == (0.5, 1.0)
    assert measure._no_narrower(np.arange(4.0), 3.0, "").interval == 3.0  # a density has no such end
    random = np.random.default_rng(0)
    shares = precision_recall(random.standard_normal((5, 2)), random.standard_normal((5, 2)))
    assert all(number.interval <= max(number.value, 1 - number.value) for number in shares)


@pytest.mark.parametrize("call", [frechet_distance, kernel_distance, precision_recall, coverage_density])
def test_sets_over_other_features_are_refused(call: Any) -> None:
    with pytest.raises(BadInput, match=r"\(50, 3\) and \(50, 4\)"):
        call(np.zeros((50, 3)), np.zeros((50, 4)))


# Features -------------------------------------------------------------------------------------------------------------


class Half(nn.Module):
    """A network with dropout, whose output shows its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_a_network_is_evaluated_named_and_left_as_it_was() -> None:
    x, net = torch.rand(300, 3, 4), Half().double().train()
    state = torch.random.get_rng_state()
    found = network(net)
    features = found(x)
    assert found.name == "Half" and net.training and torch.equal(state, torch.random.get_rng_state())
    np.testing.assert_allclose(features, net.net[1](x.flatten(1).double()).detach().numpy(), rtol=1e-12)
    assert network(lambda rows: rows.flatten(1).numpy())(x).shape == (300, 12)


@pytest.mark.parametrize(
    ("extractor", "words"),
    [
        (lambda x: x, r"extractor <lambda>: got shape \(10, 3, 4\); must give features \[n, D\]"),
        (lambda x: x.flatten(1)[:4], r"for its n = 10 rows"),
        (lambda x: x.flatten(1) / 0, "not finite"),
    ],
)
def test_features_that_are_none_are_refused(extractor: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        network(extractor)(torch.rand(10, 3, 4))
    with pytest.raises(BadInput, match="rows: got entries that are not finite"):
        principal(torch.rand(10, 3), 2)(torch.full((5, 3), torch.nan))
    with pytest.raises(BadInput, match="extractor: got int"):
        network(3)  # type: ignore[arg-type]


def test_principal_components_keep_the_geometry() -> None:
    rows = torch.randn(200, 3, 4) * torch.arange(1.0, 5.0) + 7
    found = principal(rows, 12)
    features, flat = found(rows), rows.flatten(1).double().numpy()
    assert found.name == "pca-12" and features.var(0, ddof=1).mean() == pytest.approx(1.0)
    of_features, of_rows = (np.linalg.norm(table[:50, None] - table[:50], axis=2) for table in (features, flat))
    np.testing.assert_allclose(of_features * np.sqrt(flat.var(0, ddof=1).mean()), of_rows, rtol=1e-5, atol=1e-5)
    assert [usual(rows, count).name for count in (50, 119, 120)] == ["pca-5", "pca-11", entries().name]


# FID ------------------------------------------------------------------------------------------------------------------


def test_only_the_published_network_makes_a_fid(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        inception(tmp_path / "none.pth")
    (tmp_path / "other.pth").write_bytes(b"a pickle that would run")
    with pytest.raises(BadInput, match=r"weights: got SHA-256 [0-9a-f]{8}\.\.\.; is not the published Inception"):
        inception(tmp_path / "other.pth")


class Pool(nn.Module):
    """Stands for the Inception network: few numbers of bytes."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        return images.float().flatten(1)[:, ::37]


def test_a_fid_is_measured_on_bytes_in_three_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"published")
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", hashlib.sha256(b"published").hexdigest())
    fake = ModuleType("torchmetrics.image.fid")
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", fake)
    with pytest.raises(MissingExtra, match=r"vaelab\[metrics\]"):
        inception(weights)

    def metric(size: int, feature_extractor_weights_path: Any, antialias: bool) -> Any:
        assert (size, feature_extractor_weights_path.read(), antialias) == (2048, b"published", False)
        return SimpleNamespace(inception=Pool())

    fake.FrechetInceptionDistance = metric  # type: ignore[attr-defined]
    truth = linear_case(2100, np.array([[1.0], [0.5]] * 18), 0.3, images=True)
    found = fid(truth, weights)
    assert set(found) == {f"fid{a}{b}" for a in ("", "_unbiased") for b in ("", "_of_means", "_of_training")}
    assert found["fid"].unit == "FID, inception-2048, 2100 rows"
    by_hand = [
        Pool()((rows * 8 + 100).mul(255 / 200).round().clamp(0, 255).byte().repeat(1, 3, 1, 1)).numpy()
        for rows in (truth.x, truth.training)
    ]
    assert found["fid_of_training"].value == pytest.approx(frechet_distance(*by_hand)[0].value, rel=1e-6)
    assert abs(found["fid_unbiased"].value) <= 2 * found["fid_unbiased"].interval
    assert found["fid_of_means"].low > found["fid"].high
    with pytest.raises(BadInput, match="rows: got 200; a covariance of 2048"):
        fid(linear_case(200, np.ones((36, 1)), 0.3, images=True), weights)
    with pytest.raises(BadInput, match="fid: got table data"):
        fid(linear_case(2100, np.ones((3, 1)), 0.3), weights)


# Cases ----------------------------------------------------------------------------------------------------------------


class Linear:
    """p(x|z) = N(W z, s²), whose own draws are the data: what a perfect model is measured at."""

    def __init__(self, weights: np.ndarray, sigma: float, shape: tuple[int, ...]) -> None:
        self.weights, self.sigma, self.shape = torch.tensor(weights, dtype=torch.float32), sigma, shape

    def prior_distribution(self) -> StandardNormal:
        return StandardNormal(self.weights.shape[1])

    def decode(self, z: Tensor) -> NormalObservation:
        mean = (z @ self.weights.T).reshape(*z.shape[:2], *self.shape)
        return NormalObservation(mean, lambda squares: torch.tensor(self.sigma).log())

    def encode(self, x: Tensor) -> DiagonalNormal:
        return DiagonalNormal(x.flatten(1) @ self.weights, torch.zeros(len(x), self.weights.shape[1]))


def linear_case(rows: int, weights: np.ndarray, sigma: float, seed: int = 0, images: bool = False) -> Case:
    shape = (1, 6, 6) if images else (len(weights),)
    random = np.random.default_rng(seed)

    def draw() -> Tensor:
        drawn = random.standard_normal((rows, weights.shape[1])) @ weights.T
        drawn += sigma * random.standard_normal(drawn.shape)
        return torch.tensor(drawn, dtype=torch.float32).reshape(-1, *shape)

    spec = SimpleNamespace(
        layout="image" if images else "table",
        binarize="none",
        top=200.0,
        columns=(),
        vocabulary=(),
        mixed=(),
        transform=Affine(100.0, 8.0),
    )
    return Case(build_config({}), spec, Linear(weights, sigma, shape), draw(), draw(), seed=seed)  # type: ignore[arg-type]


LOADINGS = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 1.5], [0.5, -1.0]])


def test_a_perfect_model_is_as_near_as_training_rows_and_its_means_are_not() -> None:
    hits = 0
    for seed in range(30):
        found = samples(linear_case(200, LOADINGS, 0.5, seed))
        hits += abs(found["frechet_unbiased"].value) <= found["frechet_unbiased"].interval
    assert hits >= 26
    assert found["frechet_distance"].unit == "squared distance, entries as the model sees them, 200 rows"
    assert abs(found["precision"].value - found["precision_of_training"].value) < 0.1
    assert found["frechet_distance_of_means"].low > 0 and found["recall_of_means"].high < found["recall"].low


def test_a_model_with_a_dead_dimension_loses_recall_and_keeps_precision() -> None:
    case = linear_case(600, LOADINGS, 0.3)
    worse = replace(case, model=Linear(LOADINGS[:, :1], 0.3, (4,)))
    right, found = samples(case), samples(worse)
    assert found["recall"].high < right["recall"].low and found["coverage"].high < right["coverage"].low
    assert found["precision"].high > right["precision"].low
    assert found["frechet_unbiased"].low > right["frechet_unbiased"].high
    assert found["kernel_distance"].low > right["kernel_distance"].value


def test_rows_in_order_of_their_class_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "MOST_ROWS", 400)
    case = linear_case(600, LOADINGS, 0.5)
    ordered = replace(case, x=case.x[case.x[:, 0].argsort()], training=None)
    found = samples(ordered)  # 400 of 600 rows are taken: the first ones would be the lowest
    assert abs(found["frechet_unbiased"].value) <= 2 * samples(case)["frechet_unbiased"].interval
    assert "400 rows" in found["kernel_distance"].unit and "precision_of_training" not in found


def test_numbers_follow_the_seed_and_leave_the_random_state() -> None:
    case = linear_case(60, LOADINGS, 0.5)
    state = torch.random.get_rng_state()
    first, again, other = samples(case), samples(case), samples(replace(case, seed=5))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(first[name] == again[name] for name in first)
    assert first["frechet_distance"].value != other["frechet_distance"].value


def test_a_users_extractor_is_named_and_too_many_features_say_so() -> None:
    case = linear_case(60, LOADINGS, 0.5)

    def wide(x: Tensor) -> Tensor:
        return torch.cat([x * power for power in range(1, 21)], 1)

    found = samples(replace(case, extractor=wide))
    assert not any("frechet" in name for name in found) and len(found) == 16
    assert found["rows"].value == 60 and "80 features takes more than 80" in found["rows"].unit
    assert all(np.isfinite(number.value) for number in found.values())
    assert "wide, 60 rows" in found["kernel_distance"].unit and np.isfinite(found["kernel_distance"].value)
    with pytest.raises(BadInput, match="rows: got 2"):
        samples(replace(case, x=case.x[:2]))


@pytest.mark.parametrize(("source", "name"), [("digits", "pca-18, 180 rows"), ("wine", "pca-2, 18 rows")])
def test_trained_runs(source: str, name: str, tmp_path: Path) -> None:
    rows = load_wine(as_frame=True).data if source == "wine" else source
    settings = {"train": {"steps": 300, "threads": 1}, "report": {"html": False}}
    run = vaelab.train(rows, out=tmp_path / "run", config=settings, progress=False)
    x, training = (
        run.spec.transform(torch.as_tensor(np.ascontiguousarray(kept))).reshape(-1, *run.spec.shape)
        for kept in (run.preview, run.training_preview)
    )
    found = samples(Case(run.config, run.spec, run.model, x, training))
    assert len(found) == 21 and all(name in number.unit for number in found.values())
    assert all(np.isfinite(number.value) for number in found.values())
    near = found["frechet_unbiased_of_training"]
    assert near.low < 0.5 and abs(found["kernel_distance_of_training"].value) <= found["kernel_distance"].interval + 0.1
    assert found["recall_of_training"].value > 0.85
