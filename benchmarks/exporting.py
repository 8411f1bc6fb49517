"""Exported graphs against the models they were made of, on real data: differences, sizes, and a pulled run's scores.

    python benchmarks/exporting.py DATA [--picture docs/export.png]

DATA is the folder with `mnist.npz` and `tables/`. Models are trained just long enough to be no start. Each file of
a graph is run on held-out rows by onnxruntime, or loaded by torch, and compared with the model; what `vaelab push`
sends is loaded as a run again, and log p(x) of held-out rows is compared bit by bit.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
from PIL import Image
from table import write_table

import vaelab
from vaelab.use.exporting import export

QUICK: dict[str, Any] = {"report": {"html": False}, "train": {"steps": 150}}
CONV = {"encoder": "conv", "decoder": "conv", "channels": [16, 32]}
HEAD = f"{'run':<34}{'onnx':>9}{'pt2':>9}{'onnx, KiB':>11}{'weights, KiB':>14}  log p(x) of the exported run"


def cases(data: Path) -> dict[str, tuple[Any, dict[str, Any]]]:
    """What is trained, by name."""
    with np.load(data / "mnist.npz") as images:
        mnist, labels = images["x_train"][:4000], images["y_train"][:4000]
    tables = data / "tables"
    banknote = np.genfromtxt(tables / "banknote.csv", delimiter=",")[:, :4]
    return {
        "mnist, mlp, bernoulli": (mnist, {"data": {"binarize": "threshold"}, "likelihood": {"name": "bernoulli"}}),
        "mnist, conv, given the digit": ((mnist, labels), {"model": CONV, "data": {"condition": "labels"}}),
        "banknote, gaussian": (banknote, {"likelihood": {"name": "gaussian", "noise": "pixel"}}),
        "banknote, student_t, full": (banknote, {"likelihood": {"name": "student_t"}, "model": {"posterior": "full"}}),
        "titanic, mixed": (tables / "titanic.csv", {}),
        "digits, negative binomial": ("digits", {"likelihood": {"name": "negative_binomial"}}),
    }


def line(name: str, x: Any, settings: dict[str, Any], folder: Path) -> str:
    """Trains, exports all kinds, and says how far apart they are."""
    run = vaelab.train(x, out=folder / "run", config=QUICK | settings, progress=False)
    made = export(run, folder / "out", ("safetensors", "onnx", "torch", "card"))
    sizes = {
        ending: sum(f.stat().st_size for f in made.folder.rglob(f"*{ending}")) / 1024
        for ending in (".onnx", "model.safetensors")
    }
    rows = run.preview[:50]
    given = None if run.preview_condition is None else run.preview_condition[:50]
    here, there = (
        vaelab.log_likelihood(one, rows, samples=100, condition=given).values for one in (run, vaelab.load(made.folder))
    )
    same = "the same bits" if np.array_equal(here, there) else f"differs by {np.abs(here - there).max():.1e}"
    gaps = f"{made.gaps['onnx']:>9.1e}{made.gaps['torch']:>9.1e}"
    return f"{name:<34}{gaps}{sizes['.onnx']:>11.0f}{sizes['model.safetensors']:>14.0f}  {same}"


def picture(data: Path, to: Path) -> None:
    """The latent map of the MNIST test images, and a grid of decoded codes, by onnxruntime alone."""
    with np.load(data / "mnist.npz") as images:
        train, test, labels = images["x_train"], images["x_test"], images["y_test"]
    with tempfile.TemporaryDirectory() as temporary:
        settings = QUICK | {"model": {"latent": 2}, "train": {"steps": 4000}, "likelihood": {"name": "bernoulli"}}
        run = vaelab.train(train, out=Path(temporary) / "run", config=settings, progress=False)
        folder = export(run, Path(temporary) / "out", ["onnx"]).folder
        encoder, decoder = (onnxruntime.InferenceSession(folder / f"{half}.onnx") for half in ("encoder", "decoder"))
    (mean,) = encoder.run(["mean"], {"x": test.astype(np.float32)})
    steps = np.linspace(-1.5, 1.5, 14, dtype=np.float32)
    grid = np.array([(a, b) for b in steps[::-1] for a in steps])
    (shown,) = decoder.run(["mean"], {"z": grid})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), dpi=80)
    points = left.scatter(*mean.T, c=labels, s=1, cmap="tab10")
    left.legend(*points.legend_elements(), fontsize=7, markerscale=0.7, loc="upper left", ncol=2)
    left.set(
        title="encoder.onnx: means of 10,000 test images", xlabel="$z_1$", ylabel="$z_2$", xlim=(-4, 4), ylim=(-4, 4)
    )
    tiles = shown.reshape(14, 14, 28, 28).swapaxes(1, 2).reshape(14 * 28, 14 * 28)
    right.imshow(tiles, cmap="gray_r", extent=(-1.6, 1.6, -1.6, 1.6), vmin=0, vmax=255)
    right.set(title="decoder.onnx: means of p(x|z)", xlabel="$z_1$", ylabel="$z_2$")
    figure.tight_layout()
    figure.savefig(to)
    Image.open(to).convert("RGB").quantize(96).save(to, optimize=True)


def main() -> None:
    """Writes the table, and the picture where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    if given.picture:
        return picture(given.data, given.picture)
    lines = []
    for name, (x, settings) in cases(given.data).items():
        with tempfile.TemporaryDirectory() as temporary:
            lines.append(line(name, x, settings, Path(temporary)))
            print(lines[-1], flush=True)
    title = "exported graphs and the model: largest |a - b| / max(unit, |b|) over 64 held-out rows; limit 1e-5"
    write_table("exporting", title, [HEAD, *lines])


if __name__ == "__main__":
    main()
