"""Hidden halves, noise and small images of MNIST restored by a trained run, beside nearest neighbours and filters.

Usage: python benchmarks/inpainting.py mnist.npz --run FOLDER --keep FOLDER [--picture docs/restoring.png]

The run is one of dynamically binarised MNIST, such as `benchmarks/families.py` leaves. What was restored is kept, so
that the table can be made in several sittings.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.special import logsumexp
from table import write_table

import vaelab
from vaelab.measure.estimate import mean_of
from vaelab.measure.pictures import image_grid, png_bytes
from vaelab.use.observed import Restored, restore
from vaelab.use.operators import Average, Operator, hiding

IMAGES, FEWER, TUNING = 500, 50, 500
STEPS, CHAINS, SAMPLES = 100, 32, 1024
SHAPE, TOP = (1, 28, 28), 255.0
LOWER, ALL = hiding("lower", SHAPE), hiding(np.zeros(SHAPE), SHAPE)
NOISE, FACTORS = 0.5, (2, 4)
NEIGHBOURS = (1, 3, 5, 10, 20, 50, 100, 200, 500)
SMOOTHINGS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
FLIPS = (0.01, 0.02, 0.05, 0.07, 0.1, 0.15)
KEPT = ("mean", "std", "draws", "codes", "log_likelihood", "ess")
WIDTHS = (0.4, 0.6, 0.8, 1.0, 1.3)
SHOWN = 8
NOTES = f"""All images are bits, cut at one half; pixels are 0 and 1 in these figures. The first {IMAGES} test images
in-painted, the first {FEWER} denoised and upscaled, with {STEPS} temperatures, {CHAINS} chains and {SAMPLES} draws of
the code an image. k, smoothing, share of flipped bits and widths of filters were chosen on {TUNING} training images,
which were then no neighbours; the other 59,500 were. ± 95 % over images.
log-likelihood: of the hidden half (392 pixels), nats an image, higher is better.
  mixture of p(x|z): mean over the draws of the code of the product over pixels: what the draws come from.
  mean as bits: each pixel a bit of the probability that the mean gives.
  log p(x) - log p(y): the same by the chain rule, p(x) by importance weights (1000 samples), p(y) by the chains.
  k nearest, mean as bits: (ones + a) / (k + 2 a) of the k training images whose upper halves are nearest.
  k nearest, mixture: the mean over these of the product over pixels, each bit flipped with one probability.
squared error: of a pixel of the hidden half, in the mean over pixels. PSNR: 10 log10(1 / squared error), in dB."""


def bits_of(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images as bits, [n, 28, 28]."""
    with np.load(data) as file:
        return tuple((file[name] >= 128).astype(np.float32) for name in ("x_train", "x_test"))


def nearest(known: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """Places of the `most` rows [N, D] nearest to each of the known ones [n, D], nearest first, [n, most]."""
    squares = np.square(rows).sum(1)
    found = []
    for part in np.array_split(known, max(1, len(known) // 100)):
        distance = squares - 2 * part @ rows.T
        close = np.argpartition(distance, most, 1)[:, :most]
        order = np.take_along_axis(distance, close, 1).argsort(1, kind="stable")
        found.append(np.take_along_axis(close, order, 1))
    return np.concatenate(found)


def of_bits(x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """log-mass in nats of bits x [n, D] with probabilities p, [n]."""
    return np.where(x > 0.5, np.log(p), np.log1p(-p)).sum(-1)


def as_bits(x: np.ndarray, near: np.ndarray, k: int, a: float) -> np.ndarray:
    """The smoothed mean of k neighbours [n, most, D] as bits."""
    return of_bits(x, (near[:, :k].sum(1) + a) / (k + 2 * a))


def as_mixture(x: np.ndarray, near: np.ndarray, k: int, flip: float) -> np.ndarray:
    """A mixture of k neighbours with bits flipped."""
    differ = np.abs(near[:, :k] - x[:, None]).sum(-1)
    each = differ * np.log(flip) + (x.shape[1] - differ) * np.log1p(-flip)
    return logsumexp(each, axis=1) - np.log(k)


def best(score: Callable[..., np.ndarray], *choices: Iterable[Any]) -> tuple[Any, ...]:
    """The choice with the highest mean score."""
    grid = [tuple(one) for one in np.array(np.meshgrid(*choices), dtype=object).reshape(len(choices), -1).T]
    return max(grid, key=lambda one: float(score(*one).mean()))


def psnr(x: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Of each image [n, 28, 28], in dB."""
    return -10 * np.log10(np.square(x - guess.clip(0, 1)).mean((1, 2)))


def line(name: str, values: np.ndarray, digits: int = 2) -> str:
    """A line of the table."""
    found = mean_of(values, "")
    return f"{name:46s} {found.value:9.{digits}f} ± {found.interval:.{digits}f}"


def restored(keep: Path, run: vaelab.Run, given: np.ndarray, operator: Operator, noise: float = 0.0) -> Restored:
    """From pixels in [0, 1], on the run's scale; read from the file `keep` where it is there."""
    options: dict[str, Any] = {"steps": STEPS, "chains": CHAINS, "samples": SAMPLES}
    if not keep.exists():
        start = time.process_time()
        found = restore(run, TOP * given, operator, TOP * noise, **options)
        seconds = (time.process_time() - start) / len(given)
        np.savez(keep, **{name: getattr(found, name) for name in KEPT}, seconds=seconds)
        print(keep.stem, f"{seconds:.2f} s of the processor an image", flush=True)
    with np.load(keep) as file:
        return Restored(**{name: file[name] for name in KEPT}, chains=CHAINS, noise=noise, findings=())


def observed(operator: Operator, x: np.ndarray) -> np.ndarray:
    """A x of images [n, 28, 28], likewise."""
    return operator.given(torch.from_numpy(x)[:, None])[:, 0].numpy()


@torch.no_grad()
def mixture(run: vaelab.Run, found: Restored, x: np.ndarray) -> np.ndarray:
    """log of the mean over draws of the code of p(x_hidden|z), [n]."""
    rows, hidden = torch.from_numpy(x)[:, None], ~LOWER.known
    parts = []
    for z in torch.from_numpy(found.codes).split(CHAINS):
        nats = run.model.decode(z).per_entry(rows)
        parts.append(torch.where(hidden, nats, 0.0).flatten(2).sum(-1).double())
    return (torch.cat(parts).logsumexp(0) - np.log(len(found.codes))).numpy()


def inpainting(
    keep: Path, run: vaelab.Run, train: np.ndarray, tuning: np.ndarray, test: np.ndarray
) -> tuple[list[str], Restored]:
    """Lines about hidden halves, and the restored images."""
    found = restored(keep / "halves.npz", run, test, LOWER)
    near_to, *known = [x[:, :14].reshape(len(x), -1) for x in (train, tuning, test)]
    fills, told, truth = [x[:, 14:].reshape(len(x), -1) for x in (train, tuning, test)]
    near_tuning, near_test = (fills[nearest(part, near_to, max(NEIGHBOURS))] for part in known)
    k, a = best(lambda k, a: as_bits(told, near_tuning, k, a), NEIGHBOURS, SMOOTHINGS)
    many, flip = best(lambda k, flip: as_mixture(told, near_tuning, k, flip), NEIGHBOURS, FLIPS)
    (few,) = best(lambda k: -np.square(near_tuning[:, :k].mean(1) - told).mean(1), NEIGHBOURS)
    mean = found.mean[:, 14:].reshape(len(test), -1) / TOP
    whole = vaelab.log_likelihood(run, TOP * test, samples=1000, seed=0).values
    ours, theirs = mixture(run, found, test), as_bits(truth, near_test, k, a)
    lines = [
        f"hidden lower half, {len(test)} images            log-likelihood",
        line("vaelab, mixture of p(x|z)", ours),
        line("vaelab, mean as bits", of_bits(truth, mean.clip(1e-4, 1 - 1e-4))),
        line("vaelab, log p(x) - log p(y)", whole - found.log_likelihood),
        line(f"{k} nearest, mean as bits (a = {a})", theirs),
        line(f"{many} nearest, mixture ({flip} flipped)", as_mixture(truth, near_test, many, flip)),
        line("vaelab less k nearest as bits, image by image", ours - theirs),
        line("vaelab less k nearest mixture, image by image", ours - as_mixture(truth, near_test, many, flip)),
        "",
        "                                               squared error",
        line("vaelab, mean", np.square(mean - truth).mean(1), 4),
        line(f"{few} nearest, mean", np.square(near_test[:, :few].mean(1) - truth).mean(1), 4),
        "",
        f"effective chains of {CHAINS}: {np.median(found.ess):.1f} in the middle image, {found.ess.min():.1f} at worst",
    ]
    return lines, found


def by_neighbours(
    train: np.ndarray, tuning: np.ndarray, test: np.ndarray, seen: list[np.ndarray]
) -> tuple[int, np.ndarray]:
    """k, and the mean of the k training images whose observations are nearest; `seen` of all three, in that order."""
    flat = [part.reshape(len(part), -1) for part in seen]
    near = [nearest(part, flat[0], max(NEIGHBOURS)) for part in flat[1:]]
    (k,) = best(lambda k: psnr(tuning, train[near[0][:, :k]].mean(1)), NEIGHBOURS)
    return k, train[near[1][:, :k]].mean(1)


def denoising(
    keep: Path, run: vaelab.Run, train: np.ndarray, tuning: np.ndarray, test: np.ndarray
) -> tuple[list[str], Restored]:
    """Lines about noise, and the restored images."""
    random = np.random.default_rng(0)
    noisy = [x + NOISE * random.normal(size=x.shape).astype(np.float32) for x in (tuning, test)]
    found = restored(keep / "noise.npz", run, noisy[1], ALL, NOISE)
    k, guess = by_neighbours(train, tuning, test, [train, *noisy])
    (width,) = best(lambda width: psnr(tuning, gaussian_filter(noisy[0], (0, width, width))), WIDTHS)
    return [
        "",
        f"noise of deviation {NOISE}, {len(test)} images                     PSNR",
        line("vaelab, mean", psnr(test, found.mean / TOP)),
        line(f"{k} nearest, mean", psnr(test, guess)),
        line(f"Gaussian filter, {width} pixels", psnr(test, gaussian_filter(noisy[1], (0, width, width)))),
        line("as given", psnr(test, noisy[1])),
    ], found


def upscaling(
    keep: Path, run: vaelab.Run, train: np.ndarray, tuning: np.ndarray, test: np.ndarray, factor: int
) -> tuple[list[str], Restored]:
    """Lines about small images, and the restored ones."""
    small = [observed(Average(factor), x) for x in (train, tuning, test)]
    found = restored(keep / f"factor-{factor}.npz", run, small[2], Average(factor))
    k, guess = by_neighbours(train, tuning, test, small)
    enlarged = [Image.fromarray(one).resize((28, 28), Image.Resampling.BICUBIC) for one in small[2]]
    side = 28 // factor
    return [
        "",
        f"{side} x {side} pixels to 28 x 28, {len(test)} images                PSNR",
        line("vaelab, mean", psnr(test, found.mean / TOP)),
        line(f"{k} nearest, mean", psnr(test, guess)),
        line("bicubic, Pillow", psnr(test, np.stack([np.asarray(one) for one in enlarged]))),
    ], found


def shown(operator: Operator, given: np.ndarray, found: Restored, truth: np.ndarray) -> list[np.ndarray]:
    """Lines of the picture: given, mean, two draws, truth."""
    seen = operator.shown(torch.from_numpy(given[:SHOWN])[:, None]).nan_to_num(nan=0.5)[:, 0].numpy()
    return [seen, found.mean[:SHOWN] / TOP, *found.draws[:2, :SHOWN] / TOP, truth[:SHOWN]]


def main() -> None:
    """Trains nothing: measures, and writes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--images", type=int, default=IMAGES)
    given = parser.parse_args()
    run = vaelab.load(given.run)
    known, test = bits_of(given.data)
    train, tuning, test = known[:-TUNING], known[-TUNING:], test[: given.images]
    lines, halves = inpainting(given.keep, run, train, tuning, test)
    print("\n".join(lines), flush=True)
    few = test[:FEWER]
    random = np.random.default_rng(0)
    random.normal(size=tuning.shape)
    noisy = few + NOISE * random.normal(size=few.shape).astype(np.float32)
    more, clean = denoising(given.keep, run, train, tuning, few)
    pictures = [*shown(LOWER, test, halves, test), *shown(ALL, noisy, clean, few)]
    lines += more
    print("\n".join(more), flush=True)
    for factor in FACTORS:
        more, large = upscaling(given.keep, run, train, tuning, few, factor)
        lines += more
        print("\n".join(more), flush=True)
    pictures += shown(Average(FACTORS[-1]), observed(Average(FACTORS[-1]), few), large, few)
    if given.picture:
        grid = np.stack(pictures).reshape(-1, 1, 28, 28)
        given.picture.write_bytes(png_bytes(image_grid(grid, SHOWN, 1.0)))
    network = ", ".join(map(str, run.config.model.hidden or ()))
    what = f"model: objective {run.config.objective.name}, hidden {network}, {run.latent} latent dimensions, MNIST bits"
    write_table("inpainting", "Images restored by the posterior of a VAE", [*NOTES.splitlines(), what, "", *lines])


if __name__ == "__main__":
    main()
