"""The importance-weighted bound beside the usual way: speed, value, memory, and how it scales with K.

The usual way runs the whole network, the encoder included, on a hundred copies of an image at a time, as the evaluation
of most papers' code and of the largest library of VAEs does. It is written out here, with the same noise, so that its
value can be compared; and the library's own is timed too where it is installed (requirements-pythae.txt). The ways take
turns on the same images in one run; the ratio is of the medians. With one thread it is processor time, so that other
work on the machine has little part in it; with several it is the clock's, which asks for a quiet machine.

Usage: python benchmarks/bound.py --run RUN --data mnist.npz [--images 20] [--rounds 9] [--whole] [--threads 2]
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from table import write_table
from torch import Tensor

import vaelab
from vaelab.core.batch import rows_of
from vaelab.evaluation.rows import take
from vaelab.measure.importance import draw_z, importance_bound

SAMPLES, GROUP = 5000, 100
Way = Callable[[Tensor], Tensor]


@torch.no_grad()
def usual(model: Any, x: Tensor, seed: int = 0) -> Tensor:
    """One image after the other, the whole network for each hundred samples; the noise of `importance_bound`."""
    found = []
    for row, image in enumerate(x):
        noise = _noise(model, image[None], seed, row)
        log_w = []
        for group in noise.split(GROUP):
            again = image.expand(GROUP, *image.shape).contiguous()
            q = model.encode(again)
            z = q.mean + q.std * group
            logits = model.decoder.net(z).reshape(GROUP, -1)
            log_px = -F.binary_cross_entropy_with_logits(logits, again.reshape(GROUP, -1), reduction="none").sum(-1)
            log_pz = -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)
            log_qz = -0.5 * (((z - q.mean) / q.std) ** 2 + 2 * q.log_std + math.log(2 * math.pi)).sum(-1)
            log_w.append(log_px + log_pz - log_qz)
        found.append(torch.cat(log_w).logsumexp(0) - math.log(SAMPLES))
    return torch.stack(found)


def _noise(model: Any, x: Tensor, seed: int, row: int) -> Tensor:
    """The standard normal entries behind the draws of a row, [K, L]."""
    q = model.encode(x)
    standard = type(q)(torch.zeros_like(q.mean), torch.zeros_like(q.mean))
    return draw_z(standard, SAMPLES, seed, row)[:, 0]


def library(model: Any) -> Way | None:
    """The same network in pythae, and its `get_nll`; None where it is not installed."""
    try:
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
    except ImportError:
        return None

    class Encoder(BaseEncoder):
        def forward(self, x: Tensor) -> Any:
            q = model.encode(x)
            return ModelOutput(embedding=q.mean, log_covariance=2 * q.log_std)

    class Decoder(BaseDecoder):
        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=model.decoder.net(z).sigmoid())

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=model.latent, reconstruction_loss="bce")
    theirs = VAE(config, encoder=Encoder(), decoder=Decoder())
    return torch.no_grad()(lambda x: torch.tensor([theirs.get_nll(x, SAMPLES, GROUP)]))


def ours(model: Any, x: Tensor, samples: int = SAMPLES) -> Any:
    """The bound of this library."""
    return importance_bound(model, x, samples)


def timed(way: Callable[[Tensor], Any], x: Tensor, clock: Callable[[], float] = time.process_time) -> tuple[float, Any]:
    """Seconds, and what came out."""
    start = clock()
    found = way(x)
    return clock() - start, found


def compare(model: Any, x: Tensor, rounds: int, images: int, threads: int) -> list[str]:
    """Ours and the others in turns."""
    torch.set_num_threads(threads)
    clock, what = (time.process_time, "processor time") if threads == 1 else (time.perf_counter, "by the clock")
    ways: dict[str, Callable[[Tensor], Any]] = {
        "this library": lambda part: torch.from_numpy(ours(model, part).values),
        "usual way, on logits": lambda part: usual(model, part),
    }
    if (theirs := library(model)) is not None:
        ways["pythae's get_nll"] = theirs
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    apart = []
    for number in range(rounds + 1):
        part = x[number * images : (number + 1) * images]
        values = {}
        for name, way in ways.items():
            took, values[name] = timed(way, part, clock)
            seconds[name].append(took / len(part))
        apart.append((values["this library"] - values["usual way, on logits"].double()).abs().max().item())
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first warms up
    base = medians["this library"]
    lines = [f"threads: {threads}, {what}"]
    lines += [f"{'way':<24}{'ms an image':>12}{'lowest':>9}{'highest':>9}{'ratio':>8}"]
    for name, value in medians.items():
        low, high = min(seconds[name][1:]), max(seconds[name][1:])
        lines.append(f"{name:<24}{1e3 * value:>12.1f}{1e3 * low:>9.1f}{1e3 * high:>9.1f}{value / base:>8.2f}")
    return [*lines, f"largest difference of an image's value, same noise: {max(apart):.1e} nats", ""]


def scaling(model: Any, x: Tensor) -> list[str]:
    """Milliseconds an image over K."""
    lines = [f"{'K':>7}{'ms an image':>13}{'us a sample':>13}"]
    for samples in (1, 10, 100, 1000, 10_000, 50_000):
        part = x[: 2000 if samples <= 100 else 20]
        took = statistics.median(timed(partial(ours, model, samples=samples), part)[0] for _ in range(3))
        each = took / len(part)
        lines.append(f"{samples:>7}{1e3 * each:>13.3f}{1e6 * each / samples:>13.2f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="all rows at K = 5000 as well")
    given: SimpleNamespace = parser.parse_args()  # type: ignore[assignment]
    run = vaelab.load(given.run)
    x = rows_of(take(run, given.data, 0, None).x)
    lines = compare(run.model, x, given.rounds, given.images, 1)
    lines += [] if given.threads == 1 else compare(run.model, x, given.rounds, given.images, given.threads)
    lines += scaling(run.model, x)
    if given.whole:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        took, bound = timed(lambda rows: ours(run.model, rows), x, time.perf_counter)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        lines += [
            "",
            f"all {len(x)} images at K = {SAMPLES}: {took:.0f} s by the clock, {1e3 * took / len(x):.1f} ms an image",
            f"log p(x) >= {bound.mean:.3f} ± {1.96 * bound.standard_error:.3f} (95 %) nats per sample",
            f"for these images ± {1.96 * bound.sampling_error:.4f}; gain from K/2 {bound.gain.value:.4f}",
            f"most memory of the process {memory:.2f} GiB; before, with data and the ways above, {before:.2f} GiB",
        ]
    write_table("bound", f"The importance-weighted bound at K = {SAMPLES} (bound: 3.5 times, 1 GiB)", lines)


if __name__ == "__main__":
    main()
