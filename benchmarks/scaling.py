"""Does a step stay as fast when there is more of something: rows, latent dimensions, rows of a batch?

Rows: uint8 images in one .npy file, mapped into memory, at three sizes. All sizes take turns in blocks of steps, each
in a process of its own. The file has just been written, so its pages are in memory; where they do not fit there, the
disk decides. "Held" is memory that the system cannot drop (RssAnon of /proc/self/status), the most at the end of a
block. The ratio is of processor time to the first line's, a row of a batch.

Usage: python benchmarks/scaling.py [--folder /tmp] [--rows 60000 600000 6000000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from table import write_table
from throughput import Peer, Running, start

SHAPE, CHUNK = (28, 28), 60_000
STEPS = 100
LATENTS = (2, 8, 32, 128, 512)
BATCHES = (32, 128, 512, 2048, 8192)
SAMPLES = 12_800  # rows of a block, at least 2 batches


def make_rows(path: Path, count: int) -> None:
    """Writes a file of uint8 images [count, 28, 28], some ink on black, in chunks, so that no more is ever in memory.

    Raises:
        SystemExit: where the disk has not twice the room.
    """
    size = count * math.prod(SHAPE)
    if shutil.disk_usage(path.parent).free < 2 * size:
        sys.exit(f"{path.parent}: no room for {2 * size / 1e9:.0f} GB; name another --folder")
    rows = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *SHAPE))
    random = np.random.default_rng(0)
    ink = random.integers(0, 256, (CHUNK, *SHAPE), np.uint8) * (random.random((CHUNK, *SHAPE)) < 0.2)
    for begin in range(0, count, CHUNK):
        part = rows[begin : begin + CHUNK]
        part[:] = np.roll(ink, begin // CHUNK, axis=1)[: len(part)]
    rows.flush()


@dataclass
class Line:
    """A line of a table, and the process behind it.

    Args:
        name: What has grown.
        running: Our loop.
        batch: Rows of a batch.
        steps: Of a block.
    """

    name: str
    running: Running
    batch: int = 128
    steps: int = STEPS
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    held: float = 0.0

    def block(self) -> None:
        """Takes the steps of a block, and keeps the microseconds of a row."""
        self.running.ask(steps=self.steps)
        told = self.running.answer()
        assert told is not None, f"{self.name}: the loop has stopped"
        rows = self.steps * self.batch
        self.wall.append(1e6 * told["wall"] / rows)
        self.processor.append(1e6 * told["processor"] / rows)
        self.held = max(self.held, told["anonymous"])

    def text(self, first: Line) -> str:
        """Medians, the first block aside, and the ratio of the steps' times to those of another line."""
        wall, processor = (statistics.median(values[1:]) for values in (self.wall, self.processor))
        ratio = processor / statistics.median(first.processor[1:])
        return (
            f"{self.name:<28}{1e-3 * wall * self.batch:>11.2f}{wall:>10.2f}{min(self.wall[1:]):>9.2f}"
            f"{processor:>16.2f}{ratio:>8.2f}{self.held:>9.0f}"
        )


def launched(data: Path, threads: int, batch: int = 128, latent: int = 2) -> Running:
    """Our loop on a file, ready to take steps."""
    log = data.with_suffix(f".{batch}.{latent}.log")
    words = {"data": data, "batch": batch, "latent": latent}
    running = start(Peer("ours"), sys.executable, threads, log, **words)
    if running.answer() is None:
        sys.exit(f"{data}: {log.read_text()[-1000:]}")
    return running


def table(what: str, lines: list[Line], rounds: int) -> list[str]:
    """All take turns; then their processes end."""
    for _ in range(rounds + 1):
        for line in lines:
            line.block()
    for line in lines:
        line.running.end()
    head = f"{what:<28}{'ms a step':>11}{'us a row':>10}{'lowest':>9}{'processor us':>16}{'ratio':>8}{'held MB':>9}"
    return ["", head, *(line.text(lines[0]) for line in lines)]


def over_rows(files: dict[int, Path], given: Any) -> list[str]:
    """Time and memory over the number of rows."""
    lines = [Line(f"{count:,}", launched(path, given.threads)) for count, path in files.items()]
    return table("rows in the file", lines, given.rounds)


def over_latents(data: Path, given: Any) -> list[str]:
    """Time over latent dimensions."""
    lines = [Line(str(latent), launched(data, given.threads, latent=latent)) for latent in LATENTS]
    return table("latent dimensions", lines, given.rounds)


def over_batches(data: Path, given: Any) -> list[str]:
    """Time over the rows of a batch."""
    lines = []
    for batch in BATCHES:
        lines.append(Line(str(batch), launched(data, given.threads, batch=batch), batch, max(2, SAMPLES // batch)))
    return table("rows of a batch", lines, given.rounds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", help="where the rows are written for the time being; None: the system's own place")
    parser.add_argument("--rows", type=int, nargs="+", default=[60_000, 600_000, 6_000_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given: SimpleNamespace = parser.parse_args()  # type: ignore[assignment]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-given.threads :])
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        files = {count: folder / f"rows-{count}.npy" for count in sorted(given.rows)}
        for count, path in files.items():
            make_rows(path, count)
        lines = ["MLP 784-512-256-128-64 and its mirror; batch 128 and latent 2 unless said"]
        lines += [*over_rows(files, given), *over_latents(next(iter(files.values())), given)]
        lines += over_batches(next(iter(files.values())), given)
    write_table("scaling", "A step as rows, latent dimensions and batches grow", lines)


if __name__ == "__main__":
    main()
