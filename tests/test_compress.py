"""Compression: every codec gives back what it took, rows come back exactly, and cost what the model's bound says."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import vaelab
from vaelab import cli
from vaelab.compress import compress, decompress, rates
from vaelab.compress import rows as rows_module
from vaelab.compress.coder import Coder
from vaelab.compress.codes import draw, pop_prior, push_prior, undraw
from vaelab.compress.container import DIGEST, LEAD, MAGIC, VERSION, unpack
from vaelab.compress.masses import MASSES, masses
from vaelab.compress.rates import raw_bytes
from vaelab.compress.stack import Bins, Stack, Table, standard_bins
from vaelab.core.errors import BadInput, Corrupt, MissingExtra
from vaelab.distributions.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaelab.distributions.levels import BetaBinomial, LogisticMixture
from vaelab.distributions.likelihoods import Bernoulli, Categorical

pytest.importorskip("constriction")

DIGITS = load_digits().images.astype(np.uint8)
BITS = (DIGITS > 7).astype(np.uint8) * 255
STEPS = 30


def words(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)


# Codecs ---------------------------------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(1)
SPARSE = RANDOM.random((300, 7)) ** 20 * (RANDOM.random((300, 7)) < 0.5)
SPARSE[:, 3] += 1e-9
CODECS: dict[str, tuple[Any, int]] = {
    "table": (Table(RANDOM.random((400, 17))), 17),
    "bits that are nearly certain": (Table(np.tile([[1e-12, 1.0]], (400, 1))), 2),
    "masses of 0": (Table(SPARSE), 7),
    "most levels": (Table(RANDOM.random((20, 4096)) ** 8), 4096),
    "prior": (standard_bins(500), 0),
    "posteriors": (Bins(RANDOM.normal(size=500) * 2, np.exp(RANDOM.normal(size=500) * 2 - 3)), 0),
    "points": (Bins(RANDOM.normal(size=50), np.full(50, 1e-9)), 0),
    "out of reach": (Bins(np.array([-1e9, 30.0, 1e9, 0.0]), np.array([1e-3, 0.1, 1.0, 1e12])), 0),
}


@pytest.mark.parametrize("left", [0, 3, 4000], ids=["empty", "soon empty", "full"])
@pytest.mark.parametrize("name", CODECS)
def test_what_is_taken_off_a_stack_is_put_back_bit_for_bit(name: str, left: int) -> None:
    codec, _ = CODECS[name]
    stack = Stack(words(left))
    symbols = codec.pop(stack)
    codec.push(stack, symbols)
    np.testing.assert_array_equal(stack.unsealed, words(left))


@pytest.mark.parametrize("name", CODECS)
def test_what_is_put_on_a_stack_comes_off(name: str) -> None:
    codec, levels = CODECS[name]
    count = len(codec.masses) if levels else len(codec.mean)
    rng = np.random.default_rng(2)
    symbols = rng.integers(0, levels, count) if levels else rng.integers(-64 * 64, 65 * 64, count)
    stack = Stack(words(10))
    codec.push(stack, symbols)
    before = stack.words.copy()
    np.testing.assert_array_equal(Stack(before, sealed=True).words, before)
    np.testing.assert_array_equal(codec.pop(Stack(before, sealed=True)), symbols)
    np.testing.assert_array_equal(codec.pop(stack), symbols)
    np.testing.assert_array_equal(stack.unsealed, words(10))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_table_costs_the_logarithm_of_its_masses(order: Literal["C", "F"]) -> None:
    masses_of = RANDOM.random((20_000, 5)) ** 3
    shares = masses_of / masses_of.sum(1, keepdims=True)
    symbols = (RANDOM.random((20_000, 1)) > shares.cumsum(1)).sum(1).clip(max=4)
    stack = Stack(words(10))
    Table(np.array(masses_of, order=order)).push(stack, symbols)
    bits = -np.log2(shares[np.arange(20_000), symbols]).sum()
    assert 32 * (len(stack.words) - 11) == pytest.approx(bits, rel=2e-3)


@pytest.mark.parametrize("deviation", [0.004, 0.05, 0.3, 1.0])
def test_codes_are_draws_of_their_normal_distribution(deviation: float) -> None:
    """Least masses throw one code in 100,000 anywhere, of 50,000 draws, and no more; all others are near."""
    mean = np.linspace(-3, 3, 50_000)
    stack = Stack(words(40_000))
    z = (Bins(mean, np.full(50_000, deviation)).pop(stack) - 31.5) / 512
    near = np.abs(z - mean) < 6 * deviation + 1 / 512
    assert (~near).sum() <= 5
    scores = ((z - mean) / deviation)[near]
    assert scores.mean() == pytest.approx(0, abs=0.02)
    assert scores.var() == pytest.approx(1 + (1 / 512 / deviation) ** 2 / 12, abs=0.05)


@pytest.mark.parametrize("kind", ["bits", "ladder", "two levels"])
def test_codes_drawn_by_a_posterior_are_put_back(kind: str, run_of: Callable[..., Any]) -> None:
    run = run_of(kind)
    with torch.no_grad():
        posterior = Coder(run.model, run.spec.shape, 2)._posterior(BITS[:9] // 255)
        stack = Stack(words(200))
        z = draw(stack, posterior)
        assert z.shape == (9, run.latent)
        push_prior(stack, z)
        torch.testing.assert_close(pop_prior(stack, 9, run.latent), z, rtol=0, atol=0)
        undraw(stack, posterior, z)
    np.testing.assert_array_equal(stack.unsealed, words(200))


LIKELIHOODS: dict[str, tuple[Any, int]] = {
    "bernoulli": (Bernoulli(), 2),
    "categorical": (Categorical(11), 11),
    "beta_binomial": (BetaBinomial(256), 256),
    "two levels": (BetaBinomial(2), 2),
    "logistic_mixture": (LogisticMixture(256, 3), 256),
    "poisson": (Poisson(), 60),
    "negative_binomial": (NegativeBinomial(), 60),
    "zero_inflated_negative_binomial": (ZeroInflatedNegativeBinomial(), 60),
}


COUNTS = ("poisson", "negative_binomial", "zero_inflated_negative_binomial")


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_masses_are_those_of_the_likelihood(name: str) -> None:
    likelihood, levels = LIKELIHOODS[name]
    parameters = torch.randn(1, 3, likelihood.channels, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    observed = likelihood(parameters * (1 if name in COUNTS else 3))
    table = masses(observed, levels)
    assert table.shape == (3, 8, levels)
    expected = torch.zeros_like(table)
    for level in range(levels):
        one = torch.full((3, 2, 4), float(level), dtype=torch.float64)
        expected[..., level] = observed.per_entry(one)[0].flatten(1).exp()
    total = expected.sum(-1, keepdim=True)  # below 1 for counts, of which there are more
    assert name in COUNTS or torch.allclose(total, torch.ones_like(total))
    torch.testing.assert_close(table, expected / total, rtol=1e-6, atol=1e-13)


# Rows -----------------------------------------------------------------------------------------------------------------


def table_of(count: int) -> pd.DataFrame:
    """Three columns of categories that depend on each other."""
    rng = np.random.default_rng(3)
    kind = rng.integers(0, 3, count)
    size = np.where(rng.random(count) < 0.8, kind, rng.integers(0, 3, count))
    wild = rng.random(count) < 0.2 + 0.3 * kind
    columns = {"animal": np.array(["ant", "bee", "cow"])[kind], "size": np.array(["s", "m", "l"])[size]}
    return pd.DataFrame(columns | {"wild": np.where(wild, "yes", "no")})


LADDER = {"latent": None, "groups": [4, 6], "ladder": True}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "bits": (BITS, {"likelihood": "bernoulli"}),
    # A code is drawn by what the one before left on the stack. Where a model fits badly that is not random, the codes
    # are no draws of its posterior, and their cost is not the bound.
    "levels": (DIGITS, {"likelihood": {"name": "categorical", "levels": 17}, "train": {"steps": 300}}),
    "ordered levels": (DIGITS, {"likelihood": {"name": "beta_binomial", "levels": 17}}),
    "mixtures": (DIGITS, {"likelihood": {"name": "logistic_mixture", "levels": 17, "components": 2}}),
    "counts": (DIGITS.reshape(-1, 64).astype(np.int64), {"likelihood": "poisson"}),
    "overdispersed counts": (DIGITS.reshape(-1, 64).astype(np.float32), {"likelihood": "negative_binomial"}),
    "categories": (table_of(900), {"model": {"latent": 2}}),
    "ladder": (BITS, {"likelihood": "bernoulli", "model": LADDER}),
    "two levels": (BITS, {"likelihood": "bernoulli", "model": LADDER | {"ladder": False}}),
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Small trained runs by kind of rows, each trained once."""
    known: dict[tuple[str, int], Any] = {}
    folder = tmp_path_factory.mktemp("compress")

    def trained(kind: str, seed: int = 0) -> Any:
        if (kind, seed) not in known:
            rows, given = KINDS[kind]
            config = {"model": {"latent": 6} | {"hidden": [64]}, "seed": seed, "report": {"html": False}} | {
                key: value for key, value in given.items() if key != "model"
            }
            config["model"] |= given.get("model", {})
            config["train"] = {"steps": STEPS, "threads": 1} | given.get("train", {})
            known[kind, seed] = vaelab.train(rows, out=folder / f"{kind}-{seed}", config=config, progress=False)
        return known[kind, seed]

    return trained


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_back_and_cost_the_bound(kind: str, run_of: Callable[..., Any]) -> None:
    run, rows = run_of(kind), KINDS[kind][0]
    data = compress(run, rows)
    back = decompress(run, data)
    assert back.shape == rows.shape
    assert kind == "categories" or back.dtype == rows.dtype
    np.testing.assert_array_equal(back, np.asarray(rows))
    found = rates(run, rows, data)
    header = 8 * (LEAD.size + DIGEST + LEAD.unpack_from(data)[2]) / found.entries
    left = 96 / found.entries + 3 * found.bound_error  # words that the stack ends in, and the draws of the codes
    assert found.net - header < 1.01 * found.bound + left
    # Counts above the highest one cannot come, and their mass goes to the others: fewer bits than the bound.
    assert "counts" in kind or found.net - header > 0.99 * found.bound - left


def test_the_bound_is_the_one_that_training_measured(run_of: Callable[..., Any]) -> None:
    run = run_of("bits")
    rows = run.preview
    found = rates(run, rows, compress(run, rows))
    nats = found.bound * 64 * np.log(2)
    error = run.metrics["standard_error"]
    assert nats == pytest.approx(run.metrics["negative_elbo"], abs=4 * error)


def test_the_same_rows_give_the_same_bytes_whatever_the_threads(run_of: Callable[..., Any]) -> None:
    run, before = run_of("ladder"), torch.get_num_threads()
    first = compress(run, BITS[:200])
    try:
        torch.set_num_threads(before + 1)
        assert compress(run, BITS[:200]) == first
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(decompress(vaelab.load(run.folder), first), BITS[:200])


@pytest.mark.parametrize("count", [1, 2, 17, 33])
def test_few_rows_come_back(count: int, run_of: Callable[..., Any]) -> None:
    run = run_of("levels")
    np.testing.assert_array_equal(decompress(run, compress(run, DIGITS[:count])), DIGITS[:count])


@pytest.mark.parametrize("kind", ["bits", "levels", "ladder", "ordered levels", "mixtures"])
def test_rows_like_none_in_training_come_back_too(kind: str, run_of: Callable[..., Any]) -> None:
    symbols, unit = (2, 255) if kind in ("bits", "ladder") else (17, 1)
    noise = np.random.default_rng(0).integers(0, symbols, (400, 8, 8)).astype(np.uint8) * unit
    noise[:3] = (symbols - 1) * unit
    run = run_of(kind)
    np.testing.assert_array_equal(decompress(run, compress(run, noise)), noise)


def test_where_a_plain_coder_does_better_that_is_said(run_of: Callable[..., Any]) -> None:
    run, noise = run_of("bits"), np.random.default_rng(0).integers(0, 2, (400, 8, 8)).astype(np.uint8) * 255
    found = rates(run, noise, compress(run, noise))
    assert [finding.code for finding in found.findings] == ["CM100"]
    assert found.findings[0].measured == min(found.others.values())
    assert not replace(found, others={"bz2": found.bound + 0.01}).findings


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64", ">f4", "float16"])
def test_types_and_shapes_are_kept(dtype: str, run_of: Callable[..., Any]) -> None:
    rows = np.asfortranarray(DIGITS[:5].astype(dtype))
    back = decompress(run_of("levels"), compress(run_of("levels"), rows))
    assert back.dtype == rows.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, rows)
    flat = decompress(run_of("levels"), compress(run_of("levels"), rows.reshape(5, 64)))
    np.testing.assert_array_equal(flat, rows.reshape(5, 64))


def test_a_table_in_another_order_comes_back_in_the_models(run_of: Callable[..., Any]) -> None:
    table = table_of(20)
    back = decompress(run_of("categories"), compress(run_of("categories"), table[["wild", "animal", "size"]]))
    np.testing.assert_array_equal(back, table.to_numpy())


def test_a_picture_with_other_levels_than_the_runs_is_refused(
    run_of: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = run_of("levels"), tmp_path / "rows.vlz"
    shown = np.rint(DIGITS[5] * (255 / 16)).astype(np.uint8)
    for name, pixels, status in (("fine", shown, 0), ("lost", shown // 2, 2)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        assert called("compress", run.folder, tmp_path / f"{name}.png", "--to", out) == status
    assert "would not come back" in capsys.readouterr().err
    assert called("decompress", run.folder, out, "--to", tmp_path / "back.npz") == 0
    with np.load(tmp_path / "back.npz") as found:
        np.testing.assert_array_equal(found["x"], DIGITS[5:6])


def test_what_would_be_lost_is_refused(run_of: Callable[..., Any]) -> None:
    with pytest.raises(BadInput, match="the column 'name'; the model does not know it, and it would not come back"):
        compress(run_of("categories"), table_of(20).assign(name="x"))
    with pytest.raises(BadInput, match="row 2, which would not come back as it is"):
        compress(run_of("bits"), np.where(np.arange(4)[:, None, None] == 2, -0.0, BITS[:4].astype("float32")))


def test_plain_coders_are_given_bits_and_bytes() -> None:
    assert raw_bytes(np.array([[1, 0, 0, 0], [0, 0, 0, 1]]), 2) == b"\x81"
    assert raw_bytes(np.array([[255, 3]]), 256) == b"\xff\x03"
    assert len(raw_bytes(np.array([[256, 3]]), 257)) == 4


# Damage ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(run_of: Callable[..., Any]) -> tuple[Any, bytes]:
    run = run_of("bits")
    return run, compress(run, BITS[:60])


def test_every_damage_is_detected(small: tuple[Any, bytes]) -> None:
    run, data = small
    rng = np.random.default_rng(0)
    for _ in range(300):
        at, kind = int(rng.integers(len(data))), rng.integers(4)
        flipped = data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]
        added = data[:at] + bytes([int(rng.integers(256))]) + data[at:]
        damaged = (flipped, data[:at], added, data[:at] + data[at + 1 :])[kind]
        with pytest.raises((Corrupt, BadInput)):
            decompress(run, damaged)


def test_a_wrong_decoder_is_detected_by_what_is_left(small: tuple[Any, bytes]) -> None:
    """Words that were changed and sealed anew stand for a machine whose numbers differ: never wrong rows."""
    run, data = small
    start = LEAD.size + LEAD.unpack_from(data)[2]
    rng = np.random.default_rng(0)
    for _ in range(60):
        at = int(rng.integers(start, len(data) - DIGEST))
        body = data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 : -DIGEST]
        with pytest.raises(Corrupt, match="cannot be decoded"):
            decompress(run, body + hashlib.sha256(body).digest())


def test_a_decoder_with_other_numbers_says_so(small: tuple[Any, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    run, data = small
    true = Coder._table

    def other(self: Coder, z: torch.Tensor) -> Table:
        return true(self, z + 1e-3)

    monkeypatch.setattr(Coder, "_table", other)
    with pytest.raises(Corrupt, match="other numbers than the one that wrote it"):
        decompress(run, data)


def test_a_machine_that_computes_nothing_twice_writes_nothing(
    run_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    true, noise = Coder._table, iter(range(10_000))

    def shaky(self: Coder, z: torch.Tensor) -> Table:
        return true(self, z + 1e-3 * next(noise))

    monkeypatch.setattr(Coder, "_table", shaky)
    with pytest.raises(Corrupt, match="does not compute the same numbers twice"):
        compress(run_of("bits"), BITS[:40])


def test_another_model_is_refused(small: tuple[Any, bytes], run_of: Callable[..., Any]) -> None:
    for kind, seed in (("bits", 1), ("ladder", 0), ("levels", 0)):
        with pytest.raises(BadInput, match="made with model"):
            decompress(run_of(kind, seed), small[1])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "begins with"),
        (b"PK\x03\x04" * 20, "begins with"),
        (MAGIC, "begins with"),
        (LEAD.pack(MAGIC, VERSION + 1, 0) + b"0" * 40, f"version {VERSION + 1} of the format"),
    ],
    ids=["nothing", "a zip", "magic alone", "a later version"],
)
def test_other_files_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        unpack(data, "file")


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{}", b"{" * 9000, b'{"model":"","rows":true,"shape":[8],"dtype":"uint8","symbols":2}',
     b'{"model":"","rows":-1,"shape":[8],"dtype":"uint8","symbols":2}',
     b'{"model":"","rows":1000000000,"shape":[1000000000],"dtype":"uint8","symbols":2}',
     b'{"model":"","rows":1,"shape":[8],"dtype":"O8,evil","symbols":2}',
     b'{"model":"","rows":1,"shape":[8],"dtype":"uint8","symbols":1000000000}'],
)  # fmt: skip
def test_headers_that_no_one_wrote_are_refused(header: bytes) -> None:
    body = LEAD.pack(MAGIC, VERSION, len(header)) + header
    with pytest.raises(Corrupt, match="header cannot be read"):
        unpack(body + hashlib.sha256(body).digest(), "file")


# Refusals -------------------------------------------------------------------------------------------------------------

BERNOULLI = {"likelihood": "bernoulli"}
PIXELS = {"decoder": "pixel_cnn", "layers": 1, "width": 4}
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a density": (DIGITS / 16.0, {"likelihood": "gaussian"}, "likelihood.name: got gaussian; gives no masses"),
    "codes": (BITS, {"likelihood": "bernoulli", "model": {"posterior": "vq"}}, "model.posterior: got vq"),
    "correlated": (BITS, {"likelihood": "bernoulli", "model": {"posterior": "full"}}, "model.posterior: got full"),
    "a mixture": (BITS, {"likelihood": "bernoulli", "prior": "vamp"}, "prior.name: got vamp"),
    "pixel by pixel": (BITS, BERNOULLI | {"model": PIXELS}, "model.decoder: got pixel_cnn"),
    "a total": (DIGITS.reshape(-1, 64), {"likelihood": "multinomial"}, "likelihood.name: got multinomial"),
    "numbers": (table_of(90).assign(x=np.linspace(0, 1, 90)), {}, "column: got x; is no category"),
    "labels": ((BITS, load_digits().target), BERNOULLI | {"data": {"condition": "labels"}}, "data.condition: got"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_are_no_code_are_refused_by_name(name: str, tmp_path: Path) -> None:
    rows, config, said = REFUSED[name]
    settings = {"report": {"html": False}, "train": {"steps": 1}} | config
    run = vaelab.train(rows, out=tmp_path / "run", config=settings, progress=False)
    with pytest.raises(BadInput, match=said):
        compress(run, run.preview[:2])
    with pytest.raises(BadInput, match=said):
        decompress(run, b"")


@pytest.mark.parametrize(
    ("kind", "rows", "said"),
    [
        ("bits", DIGITS, r"row 0, which would not come back as it is; entries must be 0 or 255, since"),
        ("bits", np.zeros((2, 7, 7)), r"shape \(2, 7, 7\)"),
        ("bits", np.full((2, 8, 8), np.nan), "missing or infinite"),
        ("levels", DIGITS + 1, "row 1, which the model gives no mass to; entries must be whole numbers from 0 to 16"),
        ("levels", DIGITS + 0.25, "would not come back"),
        ("counts", DIGITS.reshape(-1, 64) * 1000.0, "values of an entry; at most 4096 are coded"),
        ("categories", np.array([["ant", "s", None]], object), "levels, and none missing"),
        ("categories", np.array([["ant", "s", "maybe"]], object), "'maybe' in row 0"),
    ],
)
def test_rows_that_would_not_come_back_are_refused(
    kind: str, rows: np.ndarray, said: str, run_of: Callable[..., Any]
) -> None:
    with pytest.raises(BadInput, match=said):
        compress(run_of(kind), rows)


def test_without_the_package_the_extra_is_named(run_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(MissingExtra, match=r"vaelab\[codec\]"):
        compress(run_of("bits"), BITS[:2])


# The command ----------------------------------------------------------------------------------------------------------


def called(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_the_command_writes_and_reads(
    run_of: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, source, packed, back = run_of("bits"), tmp_path / "a.npz", tmp_path / "a.vlz", tmp_path / "b.npz"
    np.savez(source, x=BITS[:100])
    assert called("compress", run.folder, source, "--to", packed) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("rate", "bound", "ratio", "gzip", "bz2", "wrote"))
    assert called("decompress", run.folder, packed, "--to", back) == 0
    np.testing.assert_array_equal(np.load(back)["x"].reshape(100, 8, 8), BITS[:100])


def test_the_command_fails_in_one_line_and_writes_nothing(
    small: tuple[Any, bytes], run_of: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = small
    good, cut, empty, gray = (tmp_path / name for name in ("good.vlz", "cut.vlz", "empty.vlz", "gray.npy"))
    good.write_bytes(data)
    cut.write_bytes(data[:-5])
    empty.write_bytes(b"")
    np.save(gray, DIGITS)
    to = tmp_path / "out.npz"
    cases = [
        (4, ("decompress", run.folder, cut, "--to", to)),
        (2, ("decompress", run.folder, empty, "--to", to)),
        (2, ("decompress", run.folder, tmp_path / "none.vlz", "--to", to)),
        (2, ("decompress", run.folder, gray, "--to", to)),
        (2, ("decompress", run_of("bits", 1).folder, good, "--to", to)),
        (2, ("decompress", run.folder, good, "--to", good)),
        (2, ("compress", run.folder, gray, "--to", tmp_path / "out.vlz")),
        (2, ("compress", run.folder, "--to", tmp_path / "out.zip")),
    ]
    capsys.readouterr()
    for status, arguments in cases:
        assert called(*arguments) == status, arguments
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert good.read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.vlz", "empty.vlz", "good.vlz", "gray.npy"]


def test_every_observation_with_masses_is_tested() -> None:
    tested = {type(likelihood(torch.zeros(1, 1, likelihood.channels, 2))) for likelihood, _ in LIKELIHOODS.values()}
    from vaelab.distributions.mixed import MixedObservation

    assert tested | {MixedObservation} == set(MASSES)
    assert rows_module.compress is compress
