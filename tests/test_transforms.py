"""Transforms are inverted exactly and carry the right log|det|; statistics in chunks are those of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vaelab.core.config import build_config
from vaelab.core.errors import BadInput
from vaelab.data import arrays
from vaelab.data.choose import Choice, choose, summarise
from vaelab.data.source import Source, load
from vaelab.data.transforms import Affine, Moments, standardising

RANDOM = np.random.default_rng(0)
AFFINES = {
    "identity": Affine(),
    "scalar": Affine(-3.0, 16.0),
    "columns": Affine(torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 3.0, 1.0])),
}


# ----------------------------------------------------------------------------------------------------------- transforms
@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64, torch.bool])
def test_inverse_and_dtype(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[0, 1, 7], [3, 0, 200]]).to(dtype)
    y = AFFINES[name](x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(AFFINES[name].inverse(y), x.float())


@pytest.mark.parametrize("name", AFFINES)
def test_log_abs_det_is_that_of_the_jacobian(name: str) -> None:
    jacobian = torch.autograd.functional.jacobian(AFFINES[name], torch.zeros(3, dtype=torch.float64))
    assert isinstance(jacobian, Tensor)
    assert AFFINES[name].log_abs_det((3,)) == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item())


def test_log_abs_det_turns_densities_into_those_of_the_data() -> None:
    affine, x = AFFINES["columns"], torch.tensor([0.3, 5.0, -1.0])
    std = affine.scale.double()
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(affine(x).double()).sum() + affine.log_abs_det((3,))
    direct = torch.distributions.Normal(affine.shift.double(), std).log_prob(x.double()).sum()
    torch.testing.assert_close(standard, direct)


@pytest.mark.parametrize("name", AFFINES)
def test_state_brings_the_transform_back(name: str) -> None:
    again, x = Affine.from_state(AFFINES[name].to("cpu").state()), torch.randn(4, 3)
    assert torch.equal(again(x), AFFINES[name](x))
    assert again.is_identity == (name == "identity")


def test_float64_far_from_zero_is_shifted_before_it_is_rounded() -> None:
    x = torch.tensor([2.0**30 + 0.25], dtype=torch.float64)
    assert Affine(2.0**30)(x).item() == 0.25


# ----------------------------------------------------------------------------------------------------------- statistics
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([0.0, 1e8, -1e8]), st.integers(0, 99))
def test_moments_in_chunks_are_those_of_the_whole(sizes: list[int], offset: float, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(offset, 1, (sum(sizes), 3))
    moments = Moments(3)
    for chunk in np.split(rows, np.cumsum(sizes)[:-1]):
        moments.update(chunk)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(moments.std, rows.std(0), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", ["float32", "uint8", "int64", ">f8"])
@pytest.mark.parametrize("shape", [(57, 4), (57, 1, 3, 2)])
def test_summary_against_the_whole_array(monkeypatch: pytest.MonkeyPatch, kind: str, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 700)  # so that several chunks meet
    rows = np.round(RANDOM.normal(3, 2, shape) ** 2).astype(kind)
    rows[5] = rows[50]
    found, flat = summarise(rows), rows.reshape(57, -1).astype(np.float64)
    low, high = flat.min(), flat.max()
    assert (found.rows, found.shape, found.minimum, found.maximum) == (57, shape[1:], low, high)
    assert found.zeros == pytest.approx((flat == 0).mean())
    assert found.between == pytest.approx(((flat > low) & (flat < high)).mean())
    assert found.duplicates == pytest.approx(1 - len(np.unique(flat, axis=0)) / 57)
    np.testing.assert_allclose(found.mean, flat.mean(0))
    np.testing.assert_allclose(found.std, flat.std(0))
    np.testing.assert_allclose(found.overall, (flat.mean(), flat.std()))
    assert found.all_integer


def test_columns_are_judged_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 200)
    count = np.arange(40.0)
    back = np.where(count == 16, 0, count)  # a chunk of four rows begins there
    rows = np.stack([count, -count, count / 2, back, np.full(40, 0.1), np.minimum(count, 30)], 1).astype(np.float32)
    found = summarise(rows)
    assert found.identifier.tolist() == [True, True, False, False, False, False]
    assert (found.std == 0).tolist() == [False] * 4 + [True, False]
    assert not found.all_integer


def test_standardising_gives_mean_0_and_std_1_and_leaves_constants() -> None:
    rows = np.stack([RANDOM.normal(1e6, 1e3, 500), RANDOM.normal(0, 1e-30, 500), np.full(500, 7.0)], 1)
    found = summarise(rows)
    y = standardising(found.mean, found.std, (3,))(torch.from_numpy(rows)).double()
    torch.testing.assert_close(y.mean(0), torch.zeros(3).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]).double(), atol=1e-5, rtol=0)


# -------------------------------------------------------------------------------------------------------------- choices
def chosen(x: object, **sections: object) -> Choice:
    source = x if isinstance(x, Source) else load(x)
    return choose(summarise(source.train), source, build_config(sections))


BINARY = RANDOM.integers(0, 2, (30, 4)).astype(np.float32)
UNIT = RANDOM.uniform(0, 1, (30, 4)).astype(np.float32)
COUNTS = RANDOM.poisson(4.0, (30, 4)).astype(np.float32)
REAL = RANDOM.normal(5, 2, (30, 4)).astype(np.float32)
GRAY = RANDOM.integers(0, 256, (30, 6, 6)).astype(np.uint8)


@pytest.mark.parametrize(
    ("x", "sections", "likelihood", "scale"),
    [
        (BINARY, {}, "bernoulli", 1),
        (BINARY.astype(bool), {}, "bernoulli", 1),
        (255 * (GRAY > 99).astype(np.uint8), {}, "bernoulli", 255),
        ((GRAY > 99).astype(np.uint8), {}, "bernoulli", 1),
        (UNIT, {}, "continuous_bernoulli", 1),
        (0.2 + 0.6 * BINARY, {}, "continuous_bernoulli", 1),  # two values, but not the ends of the range
        (GRAY, {}, "continuous_bernoulli", 255),
        ("digits", {}, "gaussian", None),  # 58 % of its entries sit at the ends
        ("digits", {"likelihood": "continuous_bernoulli"}, "continuous_bernoulli", 16),
        (COUNTS, {}, "poisson", 1),
        (COUNTS.astype(np.int64), {}, "poisson", 1),
        (-COUNTS, {}, "gaussian", None),
        (REAL, {}, "gaussian", None),
        (REAL.reshape(30, 2, 2), {}, "gaussian", None),
        (GRAY, {"data": {"binarize": "dynamic"}}, "bernoulli", 255),
        (REAL, {"data": {"binarize": "threshold"}}, "bernoulli", None),
        (UNIT, {"data": {"scale": "standardize"}}, "gaussian", None),
        (GRAY, {"data": {"scale": "none"}}, "poisson", 1),
        (COUNTS, {"data": {"scale": "unit"}}, "gaussian", None),
        (GRAY, {"likelihood": "categorical"}, "categorical", 1),
        (GRAY, {"likelihood": "gaussian"}, "gaussian", None),
        (GRAY, {"likelihood": "gaussian", "data": {"scale": "none"}}, "gaussian", 1),
        (REAL, {"likelihood": "continuous_bernoulli", "data": {"scale": "unit"}}, "continuous_bernoulli", None),
    ],
)
def test_likelihood_and_scale(x: object, sections: dict, likelihood: str, scale: float | None) -> None:
    choice = chosen(x, **sections)
    assert choice.likelihood == likelihood
    assert choice.discrete == (likelihood in ("bernoulli", "poisson", "categorical"))
    if scale is not None:
        assert (choice.transform.shift.max().item(), choice.transform.scale.max().item()) == (0, scale)
    told = [finding for finding in choice.findings if finding.code == "DA001"]
    assert len(told) == ("likelihood" not in sections)
    for finding in told:
        assert likelihood in finding.title
        assert "likelihood=" in finding.advice
        assert finding.measured is not None


def test_scales_map_as_they_say() -> None:
    rows = torch.from_numpy(REAL)
    unit = chosen(REAL, data={"scale": "unit"}, likelihood="bernoulli").transform(rows)
    assert (unit.min().item(), unit.max().item()) == (0, 1)
    table = chosen(REAL).transform(rows)
    torch.testing.assert_close(table.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    image = chosen(REAL.reshape(30, 2, 2)).transform
    assert image.scale.ndim == 0
    assert image.scale.item() == pytest.approx(REAL.std(), rel=1e-5)


def test_the_unit_scale_covers_held_out_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=REAL, x_test=10 * REAL)
    source = load(tmp_path / "a.npz")
    mapped = chosen(source, data={"scale": "unit"}, likelihood="bernoulli").transform(torch.from_numpy(10 * REAL))
    assert mapped.max().item() == 1


def test_gray_levels_under_a_bernoulli_are_told() -> None:
    def codes(**sections: object) -> set[str]:
        return {finding.code for finding in chosen(GRAY, **sections).findings}

    assert "DA002" in codes(likelihood="bernoulli")
    assert "DA002" not in codes(likelihood="bernoulli", data={"binarize": "dynamic"})
    assert "DA002" not in codes(likelihood="continuous_bernoulli")


def with_entry(rows: np.ndarray, value: float) -> np.ndarray:
    changed = rows.astype(np.float64)
    changed[17, 2] = value
    return changed


@pytest.mark.parametrize(
    ("x", "sections", "parts"),
    [
        (
            with_entry(REAL, np.nan),
            {"data": {"missing": "refuse"}},
            ("missing entry", "row 17 (counting from 0), column column_3", "data.missing=model"),
        ),
        (np.where(GRAY.max() == GRAY, np.nan, GRAY), {}, ("missing entry", "row", "data.missing=model")),
        (with_entry(REAL, -np.inf), {}, ("-inf", "row 17 (counting from 0), column column_3", "finite")),
        (np.ma.masked_greater(REAL, REAL.max() - 1e-3), {"data": {"missing": "refuse"}}, ("missing entry", "row")),
        (np.where(np.arange(4) == 1, np.nan, REAL), {}, ("column column_2 without a single value", "leave it out")),
        (
            REAL,
            {"likelihood": "bernoulli"},
            ("likelihood.name", "bernoulli for values from", "[0, 1]", "data.scale=unit"),
        ),
        (GRAY, {"likelihood": "bernoulli", "data": {"scale": "none"}}, ("from 0 to 255", "[0, 1]")),
        (UNIT, {"likelihood": "bernoulli", "data": {"scale": "standardize"}}, ("data.scale", "standardize")),
        (with_entry(COUNTS, -2), {"likelihood": "poisson"}, ("(-2)", "row 17 (counting from 0), column column_3")),
        (with_entry(COUNTS, 2.5), {"likelihood": "poisson"}, ("(2.5)", "row 17", "whole numbers")),
        (COUNTS, {"likelihood": "poisson", "data": {"scale": "standardize"}}, ("data.scale", "as they are")),
        (GRAY, {"likelihood": "poisson", "data": {"binarize": "dynamic"}}, ("data.binarize", "dynamic")),
        (with_entry(COUNTS, 256), {"likelihood": "categorical"}, ("(256)", "row 17", "0 to 255")),
        (with_entry(COUNTS, 0.5), {"likelihood": "categorical"}, ("(0.5)", "row 17")),
    ],
)
def test_data_outside_the_support_is_refused(
    monkeypatch: pytest.MonkeyPatch, x: np.ndarray, sections: dict, parts: tuple[str, ...]
) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 100)  # so that the place has to be counted over chunks
    with pytest.raises(BadInput) as caught:
        chosen(x, **sections)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_held_out_rows_are_checked_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=REAL, x_test=with_entry(REAL, np.nan).astype(np.float32))
    with pytest.raises(BadInput, match="test row 17"):
        chosen(load(tmp_path / "a.npz"), data={"missing": "refuse"})


def test_a_memory_map_beyond_float32_is_refused_with_its_place(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", with_entry(REAL, 1e300))
    with pytest.raises(BadInput, match=r"1e\+300.*row 17.*within float32"):
        chosen(load(tmp_path / "a.npy"))


# -------------------------------------------------------------------------------------------------------------- worries
@pytest.mark.parametrize(
    ("code", "x", "measured", "named"),
    [
        ("DA121", np.column_stack([REAL, np.full(30, 3.0)]), 1, "column_5"),
        ("DA122", REAL, 30, "64 latent"),
        ("DA123", np.column_stack([REAL, np.arange(30)]), 1, "column_5"),
        ("DA124", REAL * np.array([1e-30, 1, 1, 1e30]), None, ""),
        ("DA125", np.concatenate([REAL, REAL]), 50, ""),
        ("DA126", REAL[:, :1], 1, ""),
    ],
)
def test_worries(code: str, x: np.ndarray, measured: float | None, named: str) -> None:
    found = {finding.code: finding for finding in chosen(x, model={"latent": 64 if code == "DA122" else 2}).findings}
    assert code in found
    assert found[code].severity == ("info" if code == "DA125" else "warning")  # copies in both splits are DA127
    assert found[code].why
    assert found[code].advice
    assert named in found[code].title
    assert found[code].measured == pytest.approx(measured) if measured is not None else found[code].measured > 1e50
    assert not {finding.code for finding in chosen(REAL, model={"latent": 2}).findings} - {"DA001"}


def test_images_may_have_constant_pixels() -> None:
    rows = np.pad(GRAY, ((0, 0), (2, 2), (2, 2)))
    assert {finding.code for finding in chosen(rows).findings} == {"DA001"}


def test_extreme_scales_stay_finite() -> None:
    rows = REAL * np.array([1e-30, 1, 1, 1e30])
    transform = chosen(rows).transform
    y = transform(torch.from_numpy(rows))
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)
    assert transform.log_abs_det((4,)) == pytest.approx(-np.log(rows.std(0)).sum(), rel=1e-6)
