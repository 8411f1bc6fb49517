"""Images from linear observations, against dense matrices, conditional normals, sums and quadrature."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import integrate, stats

import vaelab
from vaelab.cli import main as command_line
from vaelab.core.errors import BadInput
from vaelab.data.transforms import Affine
from vaelab.distributions.heavy_tails import LaplaceObservation
from vaelab.distributions.levels import BetaBinomialObservation
from vaelab.distributions.observations import (
    BernoulliObservation,
    CategoricalObservation,
    ContinuousBernoulliObservation,
    NormalObservation,
    PoissonObservation,
)
from vaelab.use.evidence import Moments, NoisyBits, variance_of
from vaelab.use.observed import noise_of, restore
from vaelab.use.operators import Average, Blur, Operator, hiding

SHAPE = (1, 4, 4)
QUIET = {"report": {"html": False}}
OPERATORS: dict[str, Operator] = {
    "mask": hiding("lower", SHAPE),
    "everything": hiding(np.zeros(SHAPE), SHAPE),
    "average": Average(2),
    "blur": Blur(0.8),
}


def digits_of(run: Any) -> np.ndarray:
    """The held-out rows that a run kept, [n, H, W]."""
    return np.asarray(run.preview.reshape(-1, *run.spec.shape[1:]))


def main(arguments: list[str]) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        command_line(arguments)
    return int(ended.value.code or 0)


def dense(operator: Operator) -> np.ndarray:
    """A as a matrix [M, D], a column for each unit image."""
    return operator.forward(torch.eye(math.prod(SHAPE)).reshape(-1, *SHAPE)).flatten(1).T.double().numpy()


def written_out(name: str) -> np.ndarray:
    """The same matrices from their definitions."""
    pixels = [(row, column) for row in range(4) for column in range(4)]
    if name == "average":
        return np.array([[0.25 * (r // 2 == i and c // 2 == j) for r, c in pixels] for i in range(2) for j in range(2)])
    if name == "blur":
        bell = stats.norm.pdf(np.arange(-3, 4) / 0.8)
        bell = dict(zip(range(-3, 4), bell / bell.sum(), strict=True))
        return np.array([[bell[r - i] * bell[c - j] for r, c in pixels] for i, j in pixels])
    return np.eye(16)[: 8 if name == "mask" else 16]


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_their_matrices(name: str) -> None:
    operator, matrix = OPERATORS[name], written_out(name)
    coins = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, *SHAPE, generator=coins)
    seen = operator.forward(x)
    y = torch.randn(seen.shape, generator=coins)
    np.testing.assert_allclose(seen.flatten(2), x.flatten(2).numpy() @ matrix.T, atol=1e-6)
    np.testing.assert_allclose(operator.adjoint(y).flatten(2), y.flatten(2).numpy() @ matrix, atol=1e-6)
    np.testing.assert_allclose(
        operator.squared(x.square()).flatten(2), x.square().flatten(2).numpy() @ (matrix**2).T, atol=1e-6
    )
    torch.testing.assert_close(operator.read(operator.given(x)), seen)
    shown = operator.shown(operator.given(x))
    assert shown.shape == x.shape
    assert bool(shown.isnan().any()) == (name == "mask")


def test_masks_by_word_box_and_picture() -> None:
    hidden = {word: ~hiding(word, (1, 4, 6)).known[0] for word in ("lower", "upper", "left", "right", "1,2,3,4")}
    assert hidden["lower"].nonzero()[:, 0].unique().tolist() == [2, 3]
    assert hidden["upper"].nonzero()[:, 0].unique().tolist() == [0, 1]
    assert hidden["left"].nonzero()[:, 1].unique().tolist() == [0, 1, 2]
    assert hidden["right"].nonzero()[:, 1].unique().tolist() == [3, 4, 5]
    assert hidden["1,2,3,4"].nonzero().tolist() == [[2, 1], [2, 2], [3, 1], [3, 2]]
    drawn = np.zeros((4, 6))
    drawn[2:] = 255
    assert torch.equal(hiding(drawn, (1, 4, 6)).known, hiding("lower", (1, 4, 6)).known)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("lowr", "did you mean lower"),
        ("0,0,9,1", "0 <= x0 < x1 <= 6"),
        ("1,1,1,2", "0 <= x0"),
        ("1,2", "a box"),
        (np.ones((4, 4)), "4 x 6"),
        (np.ones((4, 6)), "something must be known"),
    ],
)
def test_wrong_masks_say_so(what: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        hiding(what, (1, 4, 6))


# ------------------------------------------------------------------------------------------------------------ evidence
def masses(p: Any, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance by adding up all masses."""
    shape = p.mean.shape[1:]
    mass = np.stack([p.per_entry(torch.full(shape, float(k))).double().exp().numpy() for k in range(values)])
    levels = np.arange(values).reshape(-1, *[1] * (mass.ndim - 1))
    mean = (levels * mass).sum(0)
    return mean, (levels**2 * mass).sum(0) - mean**2


def test_variances_are_those_of_the_masses() -> None:
    coins = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, 3, *SHAPE, generator=coins) for _ in range(2))
    levels = torch.randn(2, 3, 5, *SHAPE, generator=coins)
    cases = ((BernoulliObservation(a), 2), (CategoricalObservation(levels), 5), (PoissonObservation(a), 60))
    for p, values in (*cases, (BetaBinomialObservation(a, b, 9), 9)):
        mean, variance = masses(p, values)
        np.testing.assert_allclose(p.mean, mean, rtol=1e-4)
        np.testing.assert_allclose(variance_of(p), variance, rtol=2e-3)


def test_variances_are_those_of_the_densities() -> None:
    logits = torch.tensor([-80.0, -20.0, -3.0, -0.49, 0.0, 0.3, 0.51, 4.0, 60.0], dtype=torch.float64).requires_grad_()
    found = variance_of(ContinuousBernoulliObservation(logits))
    (slope,) = torch.autograd.grad(found.sum(), logits)
    assert slope.isfinite().all()
    for logit, variance in zip(logits.tolist(), found.tolist(), strict=True):
        weight = lambda x, n, logit=logit: x**n * math.exp(logit * (x - (logit > 0)))  # noqa: E731
        first, second, third = (integrate.quad(weight, 0, 1, args=(n,), points=[0.01, 0.99])[0] for n in range(3))
        assert variance == pytest.approx(third / first - (second / first) ** 2, rel=1e-5)
    mean, width = torch.zeros(1, 1, *SHAPE), torch.tensor(0.3)
    for kind, known in ((NormalObservation, stats.norm), (LaplaceObservation, stats.laplace)):
        expected = known(scale=math.exp(0.3)).var()
        np.testing.assert_allclose(
            variance_of(kind(mean, lambda _: width)), np.full((1, 1, *SHAPE), expected), rtol=1e-5
        )


def test_noisy_bits_are_a_sum_over_both_values() -> None:
    coins = torch.Generator().manual_seed(2)
    logits, y, sigma = torch.randn(5, 3, *SHAPE, generator=coins), torch.rand(3, *SHAPE, generator=coins), 0.4
    mask = hiding("upper", SHAPE)
    tilt = torch.where(mask.known, (2 * y - 1) / (2 * sigma**2), 0.0)
    nats = mask.forward(-0.5 * (y / sigma).square() - math.log(sigma * math.sqrt(2 * math.pi))).double().sum(-1)
    evidence = NoisyBits(mask, tilt, nats, Affine(0.0, 1.0))
    one = stats.norm.pdf(y.numpy(), 1, sigma) * logits.sigmoid().numpy()
    zero = stats.norm.pdf(y.numpy(), 0, sigma) * (-logits).sigmoid().numpy()
    known = mask.known.numpy()
    expected = np.where(known, np.log(one + zero), 0).reshape(5, 3, -1).sum(-1)
    np.testing.assert_allclose(evidence.log_prob(BernoulliObservation(logits)), expected, rtol=1e-5)
    mean = np.where(known, one / (one + zero), logits.sigmoid().numpy())
    np.testing.assert_allclose(evidence.mean(BernoulliObservation(logits)), mean, rtol=1e-4)


@pytest.mark.parametrize("name", ["average", "blur", "everything"])
def test_x_given_z_and_y_is_the_conditional_normal(name: str) -> None:
    """Given z the entries of x are independent normals: the mean and the covariance of x have closed forms."""
    operator, matrix, noise = OPERATORS[name], written_out(name), 0.3
    coins = torch.Generator().manual_seed(3)
    mean, log_sigma = torch.randn(1, 1, *SHAPE, generator=coins), 0.5 * torch.randn(1, 1, *SHAPE, generator=coins)
    y = operator.forward(torch.randn(1, *SHAPE, generator=coins))
    evidence = Moments(operator, y, noise, 0.0, Affine(0.0, 1.0), lambda x: x)
    count = 8000
    p = NormalObservation(mean.expand(count, -1, -1, -1, -1), lambda _: log_sigma)
    prior = np.diag(np.exp(2 * log_sigma.flatten().double().numpy()))
    gain = prior @ matrix.T @ np.linalg.inv(matrix @ prior @ matrix.T + noise**2 * np.eye(len(matrix)))
    expected = mean.flatten().numpy() + gain @ (y.flatten().numpy() - matrix @ mean.flatten().numpy())
    np.testing.assert_allclose(evidence.mean(p)[0].flatten(), expected, atol=1e-4)
    drawn = evidence.sample(p, coins).flatten(1).double().numpy()
    covariance = prior - gain @ matrix @ prior
    error = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)) / count)
    assert (np.abs(np.cov(drawn.T) - covariance) < 6 * error).all()
    if name != "blur":
        spread = np.diag(matrix @ prior @ matrix.T) + noise**2
        expected = stats.norm.logpdf(y.flatten().numpy(), matrix @ mean.flatten().numpy(), np.sqrt(spread)).sum()
        assert evidence.log_prob(p)[0].item() == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------------------- whole runs: normals
@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run whose decoder is linear with Gaussian noise, so that all of x and y is jointly normal."""
    random = np.random.default_rng(0)
    images = 5 + (random.normal(size=(300, 3)) @ random.normal(size=(3, 16)) + 0.4 * random.normal(size=(300, 16)))
    settings = {"model": {"encoder": "linear", "decoder": "linear", "latent": 3}, "likelihood": "gaussian"}
    settings |= {"train": {"steps": 600, "learning_rate": 0.01}} | QUIET
    out = tmp_path_factory.mktemp("linear") / "run"
    return vaelab.train(images.reshape(-1, 4, 4).astype(np.float32), out=out, config=settings, progress=False)


def joint(run: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x on the data's own scale, from what the decoder makes of unit codes."""
    codes = np.concatenate([np.zeros((1, run.latent)), np.eye(run.latent)])
    offset, *rest = run.decode(codes).reshape(-1, 16).astype(np.float64)
    weight = np.stack(rest) - offset
    with torch.no_grad():
        noise = variance_of(run.model.decode(torch.zeros(1, 1, run.latent))) * run.spec.transform.scale.square()
    return offset, weight.T @ weight + np.diag(noise.flatten().numpy().astype(np.float64))


@pytest.mark.parametrize(("name", "noise"), [("mask", 0.0), ("mask", 0.5), ("everything", 0.7), ("average", 0.0)])
def test_a_linear_run_gives_the_conditional_normal(linear: Any, name: str, noise: float) -> None:
    operator, matrix = OPERATORS[name], written_out(name)
    mean, covariance = joint(linear)
    random = np.random.default_rng(1)
    x = random.multivariate_normal(mean, covariance, size=3)
    given = operator.given(torch.from_numpy(x.reshape(-1, *SHAPE)).float()).numpy()
    given = given + noise * random.normal(size=given.shape).astype(np.float32)
    y = operator.read(torch.from_numpy(given)).flatten(1).double().numpy()
    found = restore(linear, given[:, 0], operator, noise, samples=4096, draws=4096, chains=64, steps=100)
    inner = matrix @ covariance @ matrix.T + noise**2 * np.eye(len(matrix))
    gain = covariance @ matrix.T @ np.linalg.inv(inner)
    left = covariance - gain @ matrix @ covariance
    deviation = np.sqrt(np.diag(left).clip(0))
    expected = mean + (y - mean @ matrix.T) @ gain.T
    # 64 chains are moved on 64 times: of the draws a quarter at least are worth an independent one.
    error = deviation / math.sqrt(4096 / 4)
    assert (np.abs(found.mean.reshape(3, 16) - expected) < 5 * error + 1e-3).all()
    assert (np.abs(found.std.reshape(3, 16) - deviation) < 5 * error + 1e-3).all()
    drawn = found.draws.reshape(4096, 3, 16)
    for row in range(3):
        assert np.abs(np.cov(drawn[:, row].T) - left).max() < 6 * np.diag(left).max() / math.sqrt(4096 / 4)
    evidence = stats.multivariate_normal(matrix @ mean, inner).logpdf(y)
    np.testing.assert_allclose(found.log_likelihood, evidence, atol=0.5)
    assert (found.ess > 16).all()


def test_known_pixels_come_back_exactly_and_averages_are_kept(linear: Any) -> None:
    rows = linear.preview[:5].reshape(-1, 4, 4)
    mask = hiding("1,0,3,4", SHAPE)
    found = restore(linear, rows, mask, samples=64, steps=50)
    known = mask.known[0].numpy()
    assert (found.mean[:, known] == rows[:, known]).all()
    assert (found.draws[:, :, known] == rows[:, known]).all()
    assert (found.std[:, known] == 0).all()
    assert (found.std[:, ~known] > 0).all()
    small = Average(2).given(torch.from_numpy(rows)[:, None])[:, 0].numpy()
    found = restore(linear, small, Average(2), samples=64, steps=50)
    again = Average(2).given(torch.from_numpy(found.draws)[:, :, None])[:, :, 0].numpy()
    np.testing.assert_allclose(again, np.broadcast_to(small, again.shape), rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_and_other_images_change_nothing(linear: Any) -> None:
    rows = linear.preview[:4].reshape(-1, 4, 4)
    options: dict[str, Any] = {"samples": 64, "steps": 20}
    first, again, more = (restore(linear, part, OPERATORS["mask"], **options) for part in (rows[:2], rows[:2], rows))
    np.testing.assert_array_equal(first.draws, again.draws)
    np.testing.assert_allclose(more.log_likelihood[:2], first.log_likelihood, rtol=1e-4)
    np.testing.assert_allclose(more.codes[:, :2], first.codes, rtol=1e-2, atol=1e-3)
    assert not np.array_equal(first.draws, restore(linear, rows[:2], OPERATORS["mask"], seed=1, **options).draws)


# ---------------------------------------------------------------------------------------------------- whole runs: bits
@pytest.fixture(scope="module")
def bits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Digits as bits with two latent dimensions, whose posterior a grid can add up."""
    settings = {"model": {"latent": 2, "hidden": [32]}, "likelihood": "bernoulli", "data": {"binarize": "dynamic"}}
    out = tmp_path_factory.mktemp("bits") / "run"
    return vaelab.train("digits", out=out, config=settings | {"train": {"steps": 800}} | QUIET, progress=False)


@pytest.mark.parametrize(("what", "noise"), [("mask", 0.0), ("noise", 8.0)])
def test_bits_agree_with_quadrature_over_the_codes(bits: Any, what: str, noise: float) -> None:
    shape = bits.spec.shape
    operator = hiding("lower", shape) if what == "mask" else hiding(np.zeros(shape), shape)
    rows = np.where(digits_of(bits)[:6] >= 8, 16.0, 0.0)
    given = rows + noise * np.random.default_rng(0).normal(size=rows.shape)
    found = restore(bits, given, operator, noise, samples=2048, chains=64, steps=100)
    axis = torch.linspace(-6, 6, 241)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        chances = bits.model.decode(grid[:, None]).mean[:, 0].double().numpy().reshape(-1, 64)
    prior = stats.norm.logpdf(grid.numpy()).sum(1) + 2 * math.log(12 / 240)
    known = operator.known.flatten().numpy()
    for row in range(6):
        y = given[row].flatten()
        if noise:
            each = np.log(chances * stats.norm.pdf(y, 16, noise) + (1 - chances) * stats.norm.pdf(y, 0, noise))
        else:
            each = np.log(np.where(y > 8, chances, 1 - chances)) * known
        joint_nats = prior + each.sum(1)
        evidence = np.logaddexp.reduce(joint_nats)
        weight = np.exp(joint_nats - evidence)
        assert found.log_likelihood[row] == pytest.approx(evidence, abs=0.5)
        tilted = chances * stats.norm.pdf(y, 16, noise) if noise else chances
        tilted = tilted / (tilted + (1 - chances) * stats.norm.pdf(y, 0, noise)) if noise else tilted
        expected = np.where(known & (noise == 0), y, 16 * (weight @ tilted))
        assert np.abs(found.mean[row].flatten() - expected).max() < 16 * 0.06


def test_a_condition_is_read(tmp_path: Path) -> None:
    settings = {"model": {"latent": 2, "hidden": [16]}, "data": {"condition": "labels", "binarize": "threshold"}}
    run = vaelab.train(
        "digits", out=tmp_path / "run", config=settings | {"train": {"steps": 50}} | QUIET, progress=False
    )
    lower, rows = hiding("lower", run.spec.shape), digits_of(run)[:3]
    one, other = (restore(run, rows, lower, condition=label, steps=20) for label in ("0", "7"))
    assert not np.allclose(one.mean, other.mean)
    with pytest.raises(BadInput, match="condition"):
        restore(run, digits_of(run)[:3], hiding("lower", run.spec.shape))


def test_noise_is_estimated_where_images_are_smooth() -> None:
    random = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(60.0), np.arange(60.0))
    assert noise_of(ramp + 2.5 * random.normal(size=(5, 60, 60))) == pytest.approx(2.5, rel=0.05)
    assert noise_of(ramp[None]) == 0


# ------------------------------------------------------------------------------------------------------------ commands
@pytest.fixture
def image(bits: Any, tmp_path: Path) -> Path:
    Image.fromarray(np.uint8(digits_of(bits)[0] * 255 / 16)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_inpaint_writes_a_picture_and_arrays(bits: Any, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = str(bits.folder), image.parent / "out.png"
    assert main(["inpaint", run, str(image), "--mask", "lower", "--to", str(out), "--draws", "3", "--steps", "10"]) == 0
    assert "effective chains" in capsys.readouterr().out
    assert Image.open(out).size == (6 * (48 + 2) - 2, 48)  # given, mean, three draws, deviation
    drawn = np.zeros((8, 8), np.uint8)
    drawn[4:] = 255
    Image.fromarray(drawn).save(image.parent / "mask.png")
    arrays = image.parent / "out.npz"
    words = ["--mask", str(image.parent / "mask.png"), "--to", str(arrays), "--count", "4", "--steps", "10"]
    assert main(["inpaint", run, "digits", *words]) == 0
    with np.load(arrays) as found:
        assert found["draws"].shape == (5, 4, 8, 8)
        np.testing.assert_array_equal(found["mean"][:, :4], np.reshape(found["given"], (4, 8, 8))[:, :4])


@pytest.mark.parametrize(
    ("command", "to"), [("embed", "out.npy"), ("reconstruct", "out.npy"), ("score", "out.npz"), ("nearest", "out.png")]
)
def test_one_picture_is_read_as_a_row_is(bits: Any, image: Path, command: str, to: str) -> None:
    """The picture has 255 gray levels for the 16 of the row: the same but for rounding."""
    out = image.parent / to
    np.save(image.parent / "row.npy", digits_of(bits)[:1])
    found = []
    for source in (image, image.parent / "row.npy"):
        assert main([command, str(bits.folder), str(source), "--to", str(out)]) == 0
        found.append(out.read_bytes() if out.suffix == ".png" else np.load(out))
    if out.suffix == ".npz":
        found = [part["score"] for part in found]
    assert found[0] == found[1] if out.suffix == ".png" else np.allclose(*found, atol=0.02)


def test_a_picture_is_read_in_the_channels_that_the_run_has(bits: Any, image: Path, capsys) -> None:
    levels, folder = np.asarray(Image.open(image)), image.parent
    Image.fromarray(np.stack([levels] * 3, -1)).save(folder / "gray.png")
    Image.fromarray(np.stack([levels, 0 * levels, levels], -1)).save(folder / "colour.png")
    Image.fromarray(levels).save(folder / "two.gif", save_all=True, append_images=[Image.fromarray(255 - levels)])
    codes = []
    for name in ("image.png", "gray.png", "two.gif"):
        assert main(["embed", str(bits.folder), str(folder / name), "--to", str(folder / "z.npy")]) == 0
        codes.append(np.load(folder / "z.npy"))
    assert np.array_equal(codes[0], codes[1]) and np.allclose(codes[0], codes[2], atol=0.05)
    assert "has 2 frames, of which the first is read" in capsys.readouterr().out
    assert main(["embed", str(bits.folder), str(folder / "colour.png"), "--to", str(folder / "z.npy")]) == 2
    assert "an image in colour; the run was trained on gray ones" in capsys.readouterr().err


def test_denoise_and_upscale_write_what_they_make(
    bits: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = digits_of(bits)[:3] + 3 * np.random.default_rng(0).normal(size=(3, 8, 8))
    np.save(tmp_path / "noisy.npy", rows)
    run, out = str(bits.folder), tmp_path / "out.npz"
    assert main(["denoise", run, str(tmp_path / "noisy.npy"), "--to", str(out), "--steps", "10"]) == 0
    assert "noise estimated as" in capsys.readouterr().out
    assert (
        main(["denoise", run, str(tmp_path / "noisy.npy"), "--to", str(out), "--noise", "0.25", "--steps", "10"]) == 0
    )
    with np.load(out) as found:
        assert found["noise"] == 4
    np.save(tmp_path / "small.npy", digits_of(bits)[:3].reshape(3, 4, 2, 4, 2).mean((2, 4)))
    assert (
        main(["upscale", run, str(tmp_path / "small.npy"), "--to", str(tmp_path / "large.npy"), "--steps", "10"]) == 0
    )
    assert np.load(tmp_path / "large.npy").shape == (3, 8, 8)


WRONG = {
    "another size": (["inpaint", "RUN", "large.npy", "--mask", "lower"], "(n, 8 x 8)"),
    "a mask of another size": (["inpaint", "RUN", "image.png", "--mask", "mask.png"], "mask: got 5 x 5"),
    "no such mask": (["inpaint", "RUN", "image.png", "--mask", "lowest"], "did you mean lower"),
    "no such image": (["inpaint", "RUN", "none.png", "--mask", "lower"], "no such file"),
    "no image": (["denoise", "RUN", "text.png"], "is not an image"),
    "noise below 0": (["denoise", "RUN", "image.png", "--noise=-0.1"], "between 0 and 1"),
    "a factor that does not divide": (["upscale", "RUN", "image.png", "--factor", "3"], "must divide"),
    "a factor below 1": (["upscale", "RUN", "image.png", "--factor", "0"], "factor: got 0"),
    "a large image to upscale": (["upscale", "RUN", "image.png"], "(n, 4 x 4)"),
    "a table": (["inpaint", "TABLE", "image.png", "--mask", "lower"], "no run of images"),
    "no folder to write to": (["denoise", "RUN", "none.png", "--to", "no/x.png"], "there is no folder no"),
    "an unknown ending": (["denoise", "RUN", "image.png", "--noise", "0.1", "--steps", "5", "--to", "x.csv"], ".png"),
    "onto itself": (["denoise", "RUN", "image.png", "--to", "image.png"], "is the file that is read"),
    "no draws": (["denoise", "RUN", "image.png", "--draws", "0"], "draws: got 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line(
    case: str, bits: Any, table: Any, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(image.parent)
    np.save("large.npy", np.zeros((3, 9, 9)))
    Image.fromarray(np.zeros((5, 5), np.uint8)).save("mask.png")
    Path("text.png").write_text("no image")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    words, told = WRONG[case]
    places = {"RUN": str(bits.folder), "TABLE": str(table.folder)}
    assert main([places.get(word, word) for word in words]) == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rows = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    out = tmp_path_factory.mktemp("table") / "run"
    return vaelab.train(rows, out=out, config={"train": {"steps": 2}} | QUIET, progress=False)


def test_few_chains_are_told(bits: Any) -> None:
    found = restore(bits, digits_of(bits)[:20], hiding("0,7,8,8", bits.spec.shape), steps=2, chains=64, samples=64)
    assert [finding.code for finding in found.findings] == ["OB101"]
    assert found.findings[0].advice == "--steps 6, three times as many; it is slower in proportion"
    assert (found.ess < 8).any()


def test_what_the_posterior_cannot_be_drawn_for_is_refused(tmp_path: Path) -> None:
    settings = {"model": {"posterior": "vq", "latent": 16, "hidden": [16]}, "train": {"steps": 2}}
    run = vaelab.train("digits", out=tmp_path / "run", config=settings | QUIET, progress=False)
    with pytest.raises(BadInput, match="along a slope"):
        restore(run, digits_of(run)[:2], hiding("lower", run.spec.shape))


def test_a_value_beyond_the_likelihood_is_refused(bits: Any) -> None:
    with pytest.raises(BadInput, match="probabilities of ones"):
        restore(bits, digits_of(bits)[:2] + 100, hiding("lower", bits.spec.shape))
    rows = digits_of(bits)[:2].copy()
    rows[:, 4:] = np.nan  # hidden: never read
    assert np.isfinite(restore(bits, rows, hiding("lower", bits.spec.shape), steps=5, samples=32).mean).all()
    rows[0, 0, 0] = np.nan
    with pytest.raises(BadInput, match="must be numbers"):
        restore(bits, rows, hiding("lower", bits.spec.shape))
