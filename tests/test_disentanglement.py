"""Disentanglement against codes whose answer is known, plain loops, exact information, and a trained run."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import entropy, norm
from sklearn.metrics import mutual_info_score

import vaelab
from vaelab.core.errors import BadInput
from vaelab.data.factors import FACTOR_NAMES, shapes
from vaelab.evaluation import disentanglement as group
from vaelab.evaluation.case import Case
from vaelab.measure import disentanglement, factor_prediction
from vaelab.measure.disentanglement import (
    UNITS,
    Shared,
    disentanglement_scores,
    information_gap,
    modularity,
    shared_information,
)
from vaelab.measure.estimate import Estimate
from vaelab.measure.factor_prediction import (
    Labelled,
    attribute_gap,
    concentration,
    explicitness,
    fixed_factor_differences,
    fixed_factor_votes,
    tree_importances,
)

VALUES = (3, 4, 5)
CEILING = np.mean([1 - 1 / k for k in VALUES])
SCORES = tuple(name for name in UNITS if name != "mutual_information")


def drawn(rows: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Factors [n, 3], the same brought to mean 0 and deviation 1, and a generator."""
    random = np.random.default_rng(seed)
    factors = np.stack([random.integers(0, k, rows) for k in VALUES], 1)
    return factors, (factors - factors.mean(0)) / factors.std(0), random


def made(kind: str, rows: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a known kind with two dimensions of noise, and their factors."""
    factors, scaled, random = drawn(rows)
    turn = np.eye(3) - 2 / 3  # orthogonal; each code holds two factors equally, and a third weakly
    codes = {
        "perfect": lambda: -3 * scaled[:, [2, 0, 1]],
        "rotated": lambda: scaled @ turn,
        "noise 0.3": lambda: scaled + 0.3 * random.normal(size=scaled.shape),
        "noise 1": lambda: scaled + random.normal(size=scaled.shape),
        "random": lambda: random.normal(size=scaled.shape),
    }[kind]()
    return np.concatenate([codes, random.normal(size=(rows, 2))], 1), factors


@cache
def scored(kind: str) -> dict[str, Estimate]:
    return disentanglement_scores(*made(kind))


# -------------------------------------------------------------------------------------------------------- known answers
@pytest.mark.parametrize("name", SCORES)
def test_a_permuted_code_with_dimensions_of_noise_is_perfect(name: str) -> None:
    found, best = scored("perfect")[name], CEILING if name == "sap" else 1.0
    assert found.value == pytest.approx(best, abs=0.03 if name in ("sap", "mig") else 0.002)
    assert found.interval < 0.03


def test_the_table_says_which_code_holds_which_factor() -> None:
    table = scored("perfect")["mutual_information"]
    entropies = [entropy(np.bincount(column)) for column in made("perfect")[1].T]
    assert table.value.shape == table.interval.shape == (5, 3)
    assert table.value.argmax(0).tolist() == [1, 2, 0]
    np.testing.assert_allclose(table.value.max(0), entropies, atol=0.005)
    assert np.abs(np.sort(table.value, axis=0)[:-1]).max() < 0.03


@pytest.mark.parametrize("name", [n for n in SCORES if n not in ("dci_informativeness", "explicitness", "beta_vae")])
def test_a_rotated_code_is_entangled(name: str) -> None:
    assert scored("rotated")[name].high < scored("perfect")[name].low - 0.1


def test_and_yet_informative() -> None:
    assert scored("rotated")["explicitness"].value > 0.95
    assert scored("rotated")["dci_informativeness"].value > 0.85


@pytest.mark.parametrize("name", [name for name in SCORES if name != "modularity"])
def test_noise_lowers_every_score(name: str) -> None:
    ladder = [scored(kind)[name].value for kind in ("perfect", "noise 0.3", "noise 1", "random")]
    saturated = name in ("factor_vae", "beta_vae")  # groups of 64 average much noise away
    assert all(a > b or (saturated and a == b) for a, b in itertools.pairwise(ladder)), ladder


@pytest.mark.parametrize(
    ("name", "chance", "slack"),
    [
        ("mig", 0, 0.01),
        ("modularity", 0, 0),
        ("sap", 0, 0.03),
        ("dci_disentanglement", 0, 0.03),
        ("dci_completeness", 0, 0.03),
        ("dci_informativeness", np.mean([1 / k for k in VALUES]), 0.03),
        ("explicitness", 0.5, 0.03),
        ("factor_vae", 1 / 3, 0.06),
        ("beta_vae", 1 / 3, 0.06),
    ],
)
def test_random_codes_are_at_chance(name: str, chance: float, slack: float) -> None:
    assert scored("random")[name].value == pytest.approx(chance, abs=slack)


def test_an_even_mixture_halves_the_votes() -> None:
    assert scored("rotated")["factor_vae"].value == pytest.approx(0.5, abs=0.06)


def test_the_same_seed_gives_the_same_numbers_and_leaves_global_generators_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disentanglement, "HALVES", 2)
    codes, factors = made("noise 1", 200)
    np.random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index,union-attr]
    first, again, other = (disentanglement_scores(codes, factors, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(first[name].value, again[name].value) for name in UNITS)
    assert first["factor_vae"].value != other["factor_vae"].value
    assert np.array_equal(before[0], np.random.get_state()[1])  # type: ignore[index]
    assert torch.equal(before[1], torch.get_rng_state())


# --------------------------------------------------------------------------------------------- information and its bias
def test_plain_information_gap_and_modularity_equal_plain_loops() -> None:
    codes, factors = made("noise 1")
    table = np.empty((5, 3))
    for i, j in np.ndindex(5, 3):
        edges = np.histogram(codes[:, i], 20)[1]
        table[i, j] = mutual_info_score(factors[:, j], np.digitize(codes[:, i], edges[:-1]))
    found = shared_information(codes, factors, corrected=False)
    np.testing.assert_allclose(found.nats, table, rtol=1e-9)
    gaps = [
        (column[-1] - column[-2]) / mutual_info_score(factors[:, j], factors[:, j])
        for j, column in enumerate(np.sort(table, axis=0).T)
    ]
    assert information_gap(found) == pytest.approx(np.mean(gaps), rel=1e-9)
    deviations = []
    for row in table:  # the paper's template: the largest entry kept, zeros elsewhere
        template = np.where(row == row.max(), row.max(), 0)
        deviations.append(((row - template) ** 2).sum() / (row.max() ** 2 * 2))
    everything = Shared(table, np.zeros_like(table), found.entropy)
    assert modularity(everything) == pytest.approx(1 - np.mean(deviations), rel=1e-9)
    assert modularity(Shared(table[:3], np.zeros((3, 3)), found.entropy)) == pytest.approx(1 - np.mean(deviations[:3]))
    mended = shared_information(codes, factors)  # of which dimensions of noise are left out
    assert modularity(mended) == pytest.approx(1 - np.mean(deviations[:3]), abs=0.01)


@pytest.mark.parametrize("link", [0.0, 0.5])
def test_the_correction_removes_the_bias_of_frequencies(link: float) -> None:
    random, rows, repeats = np.random.default_rng(0), 400, 300
    share = np.full((8, 5), (1 - link) / 40)
    for value in range(5):
        share[value, value] += link / 5
    truth = entropy(share.ravel(), np.outer(share.sum(1), share.sum(0)).ravel())
    plain, mended = np.array([
        [shared_information(z, v, corrected=c).nats[0, 0] for c in (False, True)]
        for cells in (random.choice(40, rows, p=share.ravel()) for _ in range(repeats))
        for z, v in [(cells[:, None] // 5 * 1.0, cells[:, None] % 5)]
    ]).T  # fmt: skip
    error = plain.std() / np.sqrt(repeats)
    assert plain.mean() - truth == pytest.approx(7 * 4 / (2 * rows), abs=4 * error)
    assert abs(mended.mean() - truth) < 4 * error + 0.1 * 7 * 4 / (2 * rows)


def test_noise_is_the_deviation_under_chance() -> None:
    random = np.random.default_rng(0)
    codes, factors = random.integers(0, 6, (2000, 150)) * 1.0, random.integers(0, 4, (2000, 1))
    found = shared_information(codes, factors)
    assert found.nats.std() == pytest.approx(found.noise[0, 0], rel=0.2)


def test_intervals_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    untrained = {name: 0.0 for name in UNITS if name not in ("mig", "modularity", "mutual_information")}
    monkeypatch.setattr(disentanglement, "predicted", lambda *_: untrained)

    def sample(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        factors, _, random = drawn(rows, seed)
        kept = random.random(factors.shape) < 0.7
        return np.where(kept, factors, drawn(rows, seed + 10**6)[0]).astype(float), factors

    codes, factors = sample(200_000, 999)
    truth = information_gap(shared_information(codes, factors))
    found = [disentanglement_scores(*sample(500, seed), seed) for seed in range(60)]
    values, widths = np.array([(one["mig"].value, one["mig"].interval) for one in found]).T
    assert np.mean(np.abs(values - truth) <= widths) >= 0.85  # 0.95 less 3.5 deviations of 60 draws
    assert np.mean(widths) < 3 * np.std(values)


# -------------------------------------------------------------------------------------------------- trained classifiers
def split(kind: str, rows: int = 1000) -> tuple[Labelled, Labelled]:
    codes, factors = made(kind, rows)
    return Labelled(codes[::2], factors[::2]), Labelled(codes[1::2], factors[1::2])


def test_attribute_gap_is_that_of_the_best_threshold() -> None:
    train, test = (Labelled(part.codes, (part.factors[:, :2] > 1).astype(int)) for part in split("noise 1"))

    def balanced(code: np.ndarray, known: np.ndarray, limit: float) -> float:
        """Share of rows right where those above the limit are called 1, averaged over both values."""
        return (np.mean(code[known == 1] > limit) + np.mean(code[known == 0] <= limit)) / 2

    gaps = []
    for known, wanted in zip(train.factors.T, test.factors.T, strict=True):
        scores = [0.5]
        for code, other in zip(train.codes.T, test.codes.T, strict=True):
            limit = max(code, key=lambda value: abs(balanced(code, known, value) - 0.5))
            upwards = balanced(code, known, limit) > 0.5
            scores.append(balanced(other, wanted, limit) if upwards else 1 - balanced(other, wanted, limit))
        gaps.append(np.sort(scores)[-1] - np.sort(scores)[-2])
    assert attribute_gap(train, test) == pytest.approx(np.mean(gaps), abs=0.03)


def test_a_rare_value_counts_as_much_as_a_common_one() -> None:
    random = np.random.default_rng(0)
    factor = (random.random((4000, 1)) < 0.1).astype(int)
    codes = np.concatenate([factor, np.zeros((4000, 1))], 1) + 0.7 * random.normal(size=(4000, 2))
    parts = [Labelled(codes[i::2], factor[i::2]) for i in (0, 1)]
    assert attribute_gap(*parts) == pytest.approx(norm.cdf(0.5 / 0.7) - 0.5, abs=0.05)


def test_one_code_alone_is_held_against_a_guess() -> None:
    train, test = (Labelled(part.codes[:, :1], part.factors[:, 2:]) for part in split("perfect"))
    assert attribute_gap(train, test) == pytest.approx(1 - 1 / 5)
    assert information_gap(shared_information(train.codes, train.factors)) == pytest.approx(1)


def test_concentration_is_one_minus_the_relative_entropy() -> None:
    table = np.random.default_rng(0).gamma(0.3, size=(6, 4))
    for part in (table, table.T):
        each = 1 - entropy(part, base=part.shape[1], axis=1)
        assert concentration(part) == pytest.approx((each * part.sum(1)).sum() / part.sum())
    assert concentration(np.zeros((2, 3))) == 0


def test_importances_belong_to_codes_and_factors() -> None:
    """Two codes share a factor: each serves one factor, and no one of them is all there is of it."""
    factors, scaled, random = drawn(2000)
    halves = [scaled[:, 2:] + 0.7 * random.normal(size=(2000, 1)) for _ in range(2)]
    parts = [Labelled(np.concatenate([scaled[:, :1], *halves], 1)[i::2], factors[i::2, [0, 2]]) for i in (0, 1)]
    disentangled, complete, _ = tree_importances(*parts, np.random.default_rng(0))
    assert disentangled > 0.85 and complete < 0.75


def test_groups_share_one_factor_and_vary_in_the_others() -> None:
    factors, _, random = drawn(300)
    rows = random.integers(300, size=(50, 64))
    shared = factor_prediction._sharing(factors[:, 1], rows, random)
    np.testing.assert_array_equal(factors[shared, 1], factors[rows, 1])
    first = np.repeat(rows[:1, :1], 60_000)
    met = np.bincount(factor_prediction._sharing(factors[:, 1], first, random), minlength=300)
    allowed = factors[:, 1] == factors[first[0], 1]
    assert met[~allowed].sum() == 0
    np.testing.assert_allclose(met[allowed], 60_000 / allowed.sum(), rtol=0.25)


def test_scores_of_fixed_factors_equal_plain_loops() -> None:
    factors, scaled, random = drawn(800)
    codes = np.concatenate([scaled[:, :1] + scaled[:, 1:2], scaled[:, 1:] + 2 * random.normal(size=(800, 2))], 1)
    train, test = Labelled(codes[::2], factors[::2]), Labelled(codes[1::2], factors[1::2])

    def votes(part: Labelled, groups: int) -> list[tuple[int, int]]:
        found = []
        for _ in range(groups):
            factor = int(random.integers(3))
            value = random.choice(part.factors[:, factor])
            rows = random.choice(np.flatnonzero(part.factors[:, factor] == value), 64)
            found.append((int(np.argmin(part.codes[rows].var(0) / train.codes.var(0))), factor))
        return found

    learnt = votes(train, 1200)
    stands_for = {c: max(range(3), key=lambda f: sum(v == (c, f) for v in learnt)) for c in range(3)}
    right = np.mean([stands_for[code] == factor for code, factor in votes(test, 1200)])
    assert right < 0.95
    assert fixed_factor_votes(train, test, random) == pytest.approx(right, abs=0.08)


def test_collapsed_codes_have_no_vote() -> None:
    factors, scaled, random = drawn()
    wobble = 1e-3 * random.normal(size=(1000, 1)) * (factors[:, :1] > 0)  # varies least where factor 0 is 0
    parts = [Labelled(np.concatenate([scaled, wobble], 1)[i::2], factors[i::2]) for i in (0, 1)]
    assert fixed_factor_votes(*parts, random) == 1
    assert fixed_factor_votes(*(Labelled(1e-3 * part.codes, part.factors) for part in parts), random) == 0
    assert fixed_factor_differences(*(Labelled(1e-3 * part.codes, part.factors) for part in parts), random) > 0.95


def test_explicitness_counts_pairs_in_order() -> None:
    train, test = (Labelled(part.codes[:, :1], (part.factors[:, :1] > 0).astype(int)) for part in split("noise 1"))
    low, high = (test.codes[test.factors == value] for value in (0, 1))
    area = np.mean(high[:, None] > low)
    assert explicitness(train, test) == pytest.approx(max(area, 1 - area), abs=1e-9)


# ------------------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize(
    ("codes", "factors", "parts"),
    [
        (np.zeros((50, 2)), np.zeros((50, 2), int), ("factors: got 2, all constant in 50 rows", "has to vary")),
        (np.zeros((50, 2)), np.arange(50) % 2, ("[n, F]", "factors[:, None]")),
        (np.zeros((50, 2)), np.zeros((40, 2), int), ("codes (50, 2) and factors (40, 2)",)),
        (np.zeros((50, 2)), np.zeros((50, 2)), ("whole numbers",)),
        (np.full((50, 2), np.nan), np.arange(50)[:, None] % 2, ("codes: got a NaN",)),
        (np.zeros((50, 2)), np.arange(50)[:, None], ("column 0", "50 values in 50 rows", "classes")),
        (np.zeros((50, 1)), np.c_[np.arange(50) % 2, np.arange(50) // 45], ("column 1", "5 rows that differ")),
    ],
)
def test_refused(codes: np.ndarray, factors: np.ndarray, parts: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as refusal:
        disentanglement_scores(codes, factors)
    assert all(part in str(refusal.value) for part in parts), str(refusal.value)


def test_a_factor_of_one_value_and_a_constant_code_are_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disentanglement, "HALVES", 2)
    codes, factors = made("perfect", 400)
    found = disentanglement_scores(np.c_[codes, np.ones(400)], np.c_[factors[:, :2], np.ones(400, int), factors[:, 2]])
    table = found["mutual_information"].value
    assert table.shape == (6, 4)
    assert np.abs(table[:, 2]).max() == 0 == np.abs(table[5]).max()
    assert found["dci_disentanglement"].value == pytest.approx(1, abs=0.01)
    assert found["mig"].value > 0.95


# ----------------------------------------------------------------------------------------------------------- from a run
@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    run = vaelab.train(
        "shapes",
        out=tmp_path_factory.mktemp("runs") / "shapes",
        config={"model": {"latent": 6, "hidden": [64]}, "train": {"steps": 250, "batch_size": 64}},
        progress=False,
    )
    parts = shapes(None)
    x = run.spec.to_model(parts.x)
    return Case(run.config, run.spec, run.model, x[:10], factors=(x, parts.factors), factor_names=FACTOR_NAMES)


def test_a_run_knows_positions_best(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "MOST_ROWS", 700)
    monkeypatch.setattr(disentanglement, "HALVES", 4)
    found = group.disentanglement(case)
    assert set(found) == {"rows", "mutual_information", *SCORES, *(f"{name}_by_chance" for name in SCORES)}
    assert found["rows"].value == 700
    table = found["mutual_information"].value
    assert table.shape == (6, 5)
    assert table.max(0)[3:].min() > 0.3 > table.max(0)[[0, 2]].max()  # a code shows a blob where it is, and little else
    for name in ("dci_informativeness", "explicitness", "beta_vae"):
        assert found[name].low > found[f"{name}_by_chance"].high


def test_codes_that_know_nothing_have_no_modularity_and_the_unit_says_so() -> None:
    """No clamping makes it 0: no dimension is above chance, though some informations are above 0 and some below."""
    codes, factors = made("random")
    found = shared_information(codes, factors)
    assert found.nats.min() < 0 < found.nats.max()
    assert modularity(found) == 0 and "0 where none knows any" in scored("random")["modularity"].unit


def test_data_without_factors_is_refused(case: Case) -> None:
    with pytest.raises(BadInput, match=r"needs data with known factors; use `shapes`, or an \.npz file with whole"):
        group.disentanglement(Case(case.config, case.spec, case.model, case.x))
