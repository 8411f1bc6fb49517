"""Seconds an epoch of MNIST takes: this library's loop, other libraries' trainers, and the floor of matrix products.

Every peer trains the same network on the same data with the same batch and optimiser, in a process and an environment
of its own, and all take turns in blocks of steps. A line holds the medians over the blocks and their range; the ratio
is to ours: above 1 is slower than we are. With one thread the ratio is of processor time, so that other work on the
machine has little part in it; with several it is the clock's, which asks for a quiet machine. The memory is the most
that was resident. The test loss is that of the weights after all blocks, the same number of steps for everyone: minus
the bound in nats per sample at beta = 1, with one sample of z a row.

Without --data the images are scikit-learn's digits, enlarged and repeated: as many and as large, so that the times are
those of MNIST, and the losses are not.

Usage: python benchmarks/throughput.py [--data mnist.npz] [--environments FOLDER] [--threads 1] [--rounds 7] [--short]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from table import write_table

HERE = Path(__file__).parent
ROWS = 60_000
OURS = "ours"


@dataclass(frozen=True)
class Peer:
    """A script of `peers/`, the variant of it, and whose requirements it needs; "": what this process has."""

    script: str
    variant: str = ""
    environment: str = ""


PEERS = {
    "matrix products alone, torch's default": Peer("floor", "highest"),
    "matrix products alone, medium": Peer("floor", "medium"),
    OURS: Peer("ours"),
    "bare loop": Peer("bare"),
    "JAX and optax, jitted scan": Peer("jax_scan", environment="jax"),
    "tutorial, tensors in a loader": Peer("tutorial", "tensors"),
    "tutorial, as written": Peer("tutorial", "samples"),
    "Lightning": Peer("lightning_trainer", environment="lightning"),
    "pythae": Peer("pythae_trainer", environment="pythae"),
    "Keras on JAX": Peer("keras_fit", "jax", "keras"),
    "Keras on torch": Peer("keras_fit", "torch", "keras"),
    "PyOD (squared loss, ReLU)": Peer("pyod_vae", environment="pyod"),
}
MANY = ("matrix products alone, torch's default", "matrix products alone, medium", OURS, "bare loop")
CONVOLUTIONS = (OURS, "bare loop", "Lightning", "pythae")


@dataclass(frozen=True)
class Case:
    """A table: the network, the rows of a batch, steps of a block in the whole and in the short form, and the peers."""

    title: str
    network: str
    batch: int
    block: int
    short: int
    peers: Sequence[str]


CASES = {
    "mlp": Case("MLP 784-512-256-128-64-4 and mirror, batch 128", "mlp", 128, 469, 100, tuple(PEERS)),
    "batch512": Case("the same network, batch 512", "mlp", 512, 118, 30, (*MANY, "JAX and optax, jitted scan")),
    "conv": Case("convolutions 32-64-128 and mirror, latent 16, batch 128", "conv", 128, 60, 15, CONVOLUTIONS),
}


@dataclass
class Running:
    """A peer's process, and what it said."""

    process: subprocess.Popen[str]
    parameters: int = 0
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    loss: float | None = None
    memory: float = 0.0

    def ask(self, **command: Any) -> None:
        """Sends a command."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its answer, which is missing, says so
            print(json.dumps(command), file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, Any] | None:
        """Its next answer; None where the process is gone."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> None:
        """Closes its input, upon which it leaves."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def enlarged_digits(path: Path) -> None:
    """Writes an .npz file as large as MNIST: 8 x 8 digits, each pixel three times as wide and high, in a frame."""
    digits = (15 * load_digits().images).astype(np.uint8)
    images = np.pad(digits.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2)))
    np.savez(path, x_train=np.resize(images[:1500], (ROWS, 28, 28)), x_test=images[1500:])


def python_of(environment: str, folder: Path, until: float) -> str | None:
    """The interpreter of an environment, made and filled if it is not there; None where that fails or takes too long.

    Args:
        until: Of `time.monotonic`, after which nothing is installed any more.
    """
    if not environment:
        return sys.executable
    path, log = folder / environment, folder / f"{environment}.log"
    python, done = path / "bin" / "python", path / ".installed"
    if not done.exists():
        commands = (
            [sys.executable, "-m", "venv", str(path)],
            [str(python), "-m", "pip", "install", "--quiet", "-r", str(HERE / f"requirements-{environment}.txt")],
        )
        try:
            with log.open("w") as out:
                for command in commands:
                    left = max(0.0, until - time.monotonic())
                    subprocess.run(command, stdout=out, stderr=out, check=True, timeout=left)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return None
        done.touch()
    return str(python)


def start(peer: Peer, python: str, threads: int, log: Path, **words: Any) -> Running:
    """Its process, which is not yet ready; `words` are the task, as `peers/harness.py` reads it."""
    words["variant"] = peer.variant
    command = [python, str(HERE / "peers" / f"{peer.script}.py")]
    command += [word for name, value in words.items() for word in (f"--{name}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("w") as errors:
        pipe = subprocess.PIPE
        return Running(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment))


def take_turns(running: dict[str, Running], rounds: int, block: int) -> None:
    """Blocks of steps, one peer after the other; the first of each warms up. Who falls silent is left out."""
    for number in range(rounds + 1):
        for name, peer in list(running.items()):
            peer.ask(steps=block)
            if (told := peer.answer()) is None:
                del running[name]
                continue
            peer.memory = told["memory"]
            if number > 0:
                peer.wall.append(told["wall"])
                peer.processor.append(told["processor"])
    for peer in running.values():
        peer.ask(loss=True)
        if (told := peer.answer()) is not None:
            peer.loss = told["loss"]


def measured(case: Case, given: Any, folder: Path) -> list[str]:
    """The lines of a case's table."""
    block, rounds = (case.short, 5) if given.short else (case.block, given.rounds)
    running: dict[str, Running] = {}
    absent: dict[str, str] = {}
    for name in case.peers:
        if given.only and not any(word in name for word in given.only):
            continue
        peer = PEERS[name]
        print(f"starting {name}", file=sys.stderr)
        python = python_of(peer.environment, folder, given.until)
        if python is None:
            absent[name] = f"did not install, or not in time: {_last_words(folder / f'{peer.environment}.log')}"
            continue
        log = folder / f"{case.network}-{peer.script}-{peer.variant}.log"
        task = {"network": case.network, "data": given.data, "batch": case.batch, "block": block}
        started = start(peer, python, given.threads, log, **task)
        if (told := started.answer()) is None:
            absent[name] = f"did not start: {_last_words(log)}"
            continue
        started.parameters = told["parameters"]
        running[name] = started
    started_peers = dict(running)
    take_turns(running, rounds, block)
    absent |= {name: "stopped while it ran" for name in started_peers if name not in running}
    for one in started_peers.values():
        one.end()
    return [*_lines(running, case, block, rounds, given.threads), *(f"{name}: {why}" for name, why in absent.items())]


def _lines(running: dict[str, Running], case: Case, block: int, rounds: int, threads: int) -> list[str]:
    """Medians, ranges and ratios."""
    scale = ROWS / case.batch / block
    decisive = {
        name: statistics.median(peer.processor if threads == 1 else peer.wall) for name, peer in running.items()
    }
    sizes = {name: peer.parameters for name, peer in running.items()}
    assert len(set(sizes.values())) <= 1, f"not the same network: {sizes}"
    lines = [
        f"{case.title}; {rounds} blocks of {block} steps, test loss after {(rounds + 1) * block}",
        f"{'seconds an epoch':<40}{'clock':>11}{'lowest':>9}{'highest':>9}{'processor':>13}"
        f"{'ratio':>8}{'MB':>7}{'test loss':>11}",
    ]
    for name, peer in running.items():
        wall, processor = (sorted(scale * value for value in values) for values in (peer.wall, peer.processor))
        ratio = f"{decisive[name] / decisive[OURS]:.2f}" if OURS in decisive else "-"
        loss = "-" if peer.loss is None else f"{peer.loss:.2f}"
        lines.append(
            f"{name:<40}{statistics.median(wall):>11.2f}{wall[0]:>9.2f}{wall[-1]:>9.2f}"
            f"{statistics.median(processor):>13.2f}{ratio:>8}{peer.memory:>7.0f}{loss:>11}"
        )
    return lines


def _last_words(log: Path) -> str:
    lines = log.read_text().split("\n") if log.exists() else []
    lines = [line for line in lines if line.strip()]
    return lines[-1] if lines else "without a word"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", help="an .npz file with uint8 images x_train and x_test, 28 x 28")
    parser.add_argument(
        "--environments", help="where the peers' environments are or are made; None: a temporary folder"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--short", action="store_true", help="short blocks, which miss what happens once an epoch")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only", nargs="+", help="peers with one of these words in their name")
    parser.add_argument("--install-seconds", type=float, default=3600, help="for all environments together")
    given: SimpleNamespace = parser.parse_args()  # type: ignore[assignment]
    given.until = time.monotonic() + given.install_seconds
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-given.threads :])  # what the peers inherit
    with tempfile.TemporaryDirectory() as made:
        folder = Path(given.environments or made)
        folder.mkdir(parents=True, exist_ok=True)
        named = os.path.basename(given.data) if given.data else "enlarged digits, not MNIST"
        if given.data is None:
            given.data = Path(made) / "digits.npz"
            enlarged_digits(given.data)
        given.data, folder = os.path.abspath(given.data), folder.absolute()
        lines = [f"threads: {given.threads}, for every peer; data: {named}"]
        for name in given.cases:
            lines += ["", *measured(CASES[name], given, folder)]
    name = "throughput" if given.threads == 1 else f"throughput-{given.threads}-threads"
    write_table(name, "Training on MNIST: seconds an epoch, beside other libraries", lines)


if __name__ == "__main__":
    main()
