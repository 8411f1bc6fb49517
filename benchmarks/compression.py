"""Bits-back coding of the MNIST test images, binarised and with 256 levels, beside the model's bound and other coders.

Usage: python benchmarks/compression.py mnist.npz --runs FOLDER [--picture docs/compression.png]

Runs that FOLDER holds already (`bits`, `levels`) are not trained again, and one that was broken off is resumed.
"""

from __future__ import annotations

import argparse
import io
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from table import write_table

import vaelab
from vaelab.compress import Rates, compress, decompress, rates
from vaelab.compress.rows import as_symbols
from vaelab.core.errors import BadInput, Corrupt
from vaelab.recipes import on_digits

DAMAGES = 1000
GROUPS = {"latent": None, "groups": [20, 20, 20], "ladder": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "bits": on_digits(report={"html": False}, model=GROUPS),
    "levels": on_digits(
        report={"html": False}, model=GROUPS, likelihood={"name": "beta_binomial"}, data={"binarize": "none"}
    ),
}
SETTINGS["levels"]["train"] |= {"steps": 12_000, "evaluate_every": 1000, "checkpoint_every": 1000}
TITLES = {"bits": "binarised", "levels": "256 levels"}
PUBLISHED = {"bits": "BB-ANS .19", "levels": "BB-ANS 1.39 to 1.41, Bit-Swap 1.27"}
NOTES = """A ladder of three groups of 20 latent dimensions, 784-300-300 and its mirror; Bernoulli, and beta-binomial
for 256 levels. Bits per dimension, all 10,000 test images. Binarised: each gray level drawn once as a bit of that
probability (seed 0). file: everything, header and digest included. bound: the model's negative ELBO on the same
images, ± 95 % over four draws of the codes. gzip, bz2: level 9, all images at once, eight pixels to a byte where they
are bits. PNG (optimised, 1 bit a pixel where binarised) and WebP (lossless): an image a file. Weights were selected
by the bound on these images. exact: what is decoded equals what was given, in every entry. CPU s: one thread;
compressing decodes once to check. damage: single bits flipped, bytes put in or taken out, and cuts, at random;
detected: an error, no rows."""


@dataclass(frozen=True)
class Case:
    """What was measured of a model.

    Args:
        seconds: Of the processor, to compress and to decompress.
        sizes: Of a PNG and of a WebP file, bits per dimension.
        detected: Of `DAMAGES`.
    """

    name: str
    run: vaelab.Run
    rates: Rates
    exact: bool
    seconds: tuple[float, float]
    sizes: dict[str, float]
    detected: int

    @property
    def line(self) -> str:
        """A line of the table."""
        r, plain = self.rates, {**self.rates.others, **self.sizes}
        return (
            f"{TITLES[self.name]:<11} {r.total:>7.4f} {r.net:>7.4f} {r.bound:>7.4f} ±{r.bound_error:.5f} "
            f"{r.total / r.bound:>6.4f} "
            + " ".join(f"{plain[other]:>6.3f}" for other in ("gzip", "bz2", "png", "webp"))
            + f" {r.size:>8} {'yes' if self.exact else 'NO':>5} {self.seconds[0]:>6.0f} {self.seconds[1]:>6.0f}"
        )


HEAD = (
    f"{'rows':<11} {'file':>7} {'net':>7} {'bound':>7} {'':>8} {'ratio':>6} {'gzip':>6} {'bz2':>6} "
    f"{'PNG':>6} {'WebP':>6} {'bytes':>8} {'exact':>5} {'CPU s':>6} {'back':>6}"
)


def trained(data: str, path: Path, name: str) -> vaelab.Run:
    """The run of a name, trained if it is not there."""
    if path.exists():
        run = vaelab.load(path)
        return run if run.is_finished else vaelab.train(data, resume=path, progress=False)
    return vaelab.train(data, out=path, config=SETTINGS[name], progress=False)


def images_of(data: str, name: str) -> np.ndarray:
    """The test images, [10,000, 28, 28] of uint8; as bits 0 and 255 for `bits`."""
    with np.load(data) as file:
        gray = file["x_test"]
    drawn = np.random.default_rng(0).random(gray.shape) * 255 < gray
    return np.where(drawn, 255, 0).astype(np.uint8) if name == "bits" else gray


def image_bytes(image: np.ndarray, kind: str, bits: bool) -> int:
    """Size of a file of one image."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    options: dict[str, Any] = {"optimize": True} if kind == "png" else {"lossless": True, "quality": 100, "method": 6}
    (picture.convert("1") if bits and kind == "png" else picture).save(buffer, kind, **options)
    return len(buffer.getvalue())


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with one damage."""
    at = int(rng.integers(len(data)))
    put = bytes([int(rng.integers(256))])
    flipped = bytes([data[at] ^ (1 << int(rng.integers(8)))])
    return (data[:at] + flipped + data[at + 1 :], data[:at] + put + data[at:], data[:at] + data[at + 1 :], data[:at])[
        rng.integers(4)
    ]


def detected(run: vaelab.Run, data: bytes) -> int:
    """How many of `DAMAGES` are errors of the two kinds that are meant."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(DAMAGES):
        try:
            decompress(run, damaged(data, rng))
        except (BadInput, Corrupt):
            found += 1
    return found


def measured(data: str, folder: Path, name: str) -> Case:
    """All numbers of a model."""
    run, images = trained(data, folder / name, name), images_of(data, name)
    start = time.process_time()
    packed = compress(run, images)
    middle = time.process_time()
    back = decompress(run, packed)
    seconds = middle - start, time.process_time() - middle
    sizes = {kind: 8 * sum(image_bytes(one, kind, name == "bits") for one in images) for kind in ("png", "webp")}
    exact = back.dtype == images.dtype and np.array_equal(back, images)
    per_entry = {kind: size / images.size for kind, size in sizes.items()}
    case = Case(name, run, rates(run, images, packed), exact, seconds, per_entry, detected(run, packed))
    print(case.line, flush=True)
    return case


def picture(cases: list[Case], data: str, path: Path) -> None:
    """Rates as bars, and the cheapest and dearest gray images with the bits that each adds to the file."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15), squeeze=False)[0]
    for axes, case in zip(left.subplots(1, len(cases)), cases, strict=True):
        named = {"PNG": case.sizes["png"], "WebP": case.sizes["webp"], **case.rates.others}
        named |= {"vaelab": case.rates.total}
        bars = axes.bar(list(named), list(named.values()), color=["#b8b8b8"] * (len(named) - 1) + ["#0a6e8a"])
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
        axes.axhline(case.rates.bound, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(TITLES[case.name], fontsize=10)
        axes.set_ylabel("bits per dimension", fontsize=8)
        axes.tick_params(axis="x", rotation=60, labelsize=8)
        axes.tick_params(axis="y", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    images = images_of(data, cases[-1].name)
    cost = bits_of(cases[-1].run, images)
    order = np.argsort(cost)
    shown = np.concatenate([order[:4], order[len(order) // 2 - 2 : len(order) // 2 + 2], order[-4:]])
    for axes, index in zip(right.subplots(3, 4).flat, shown, strict=True):
        axes.imshow(255 - images[index], cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{cost[index] / 8:.0f} bytes", fontsize=8)
        axes.axis("off")
    right.suptitle("cheapest, middle and dearest test images", fontsize=10)
    figure.savefig(path, dpi=110)


def bits_of(run: vaelab.Run, images: np.ndarray) -> np.ndarray:
    """Bits that each image costs by the bound, a mean over four draws of its code, [n]."""
    import torch

    symbols, _ = as_symbols(run, images)
    rows = torch.from_numpy(symbols).float().view(-1, *run.spec.shape)
    torch.manual_seed(0)
    with torch.no_grad():
        nats = [-run.model.draw(part, 4).log_weights.mean(0) for part in rows.split(500)]
    return torch.cat(nats).numpy() / np.log(2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", help="npz with x_train and x_test")
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps the runs")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--picture", type=Path, help="png to write")
    arguments = parser.parse_args()
    cases = [measured(arguments.path, arguments.runs, name) for name in arguments.only]
    lines = [*textwrap.wrap(NOTES, 120), "", HEAD, *(case.line for case in cases), ""]
    for case in cases:
        steps = (
            f"{case.run.metrics['step']} of {case.run.config.train.steps} steps of {case.run.config.train.batch_size}"
        )
        lines.append(f"{TITLES[case.name]}: weights of step {steps} rows; published: {PUBLISHED[case.name]}.")
        lines.append(f"{'':<11} damage: {case.detected} of {DAMAGES} detected.")
    write_table("compression", "Lossless compression of the MNIST test images", lines)
    if arguments.picture:
        picture(cases, arguments.path, arguments.picture)


if __name__ == "__main__":
    main()
