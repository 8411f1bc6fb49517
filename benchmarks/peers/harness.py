"""What `throughput.py` and its peers say to each other: a JSON line asks for a block of steps, and one answers.

A peer trains as its users would, and calls `Gate.step` after every step of the optimiser: there it stops at the end of
a block, answers with what the block took, and waits to be asked for the next one. So all peers take turns in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WIDTHS, CHANNELS = (512, 256, 128, 64), (32, 64, 128)
LATENTS = {"mlp": 2, "conv": 16}
RATE, DECAY, CLIP = 1e-3, 1e-2, 1.0


@dataclass(frozen=True)
class Task:
    """What all peers are given.

    Args:
        network: "mlp" or "conv".
        data: A path to an .npz file with uint8 images `x_train` and `x_test`, [N, 28, 28].
        batch: Rows of a batch.
        block: Steps between two answers.
        latent: Dimensions of z.
        variant: Which of the ways of one script.
        seed: Of what our loop and the bare one draw; the others draw as they do.
    """

    network: str
    data: str
    batch: int
    block: int
    latent: int
    variant: str
    seed: int

    @cached_property
    def train(self) -> np.ndarray:
        """Training rows as they came, uint8 [N, 784]."""
        return self._rows("x_train")

    @property
    def test(self) -> np.ndarray:
        """Test rows in [0, 1], float32 [M, 784]."""
        return self._rows("x_test").astype(np.float32) / 255

    @property
    def scaled(self) -> np.ndarray:
        """Training rows in [0, 1], float32 [N, 784]."""
        return self.train.astype(np.float32) / 255

    def _rows(self, name: str) -> np.ndarray:
        with np.load(self.data) as archive:
            rows = archive[name]
        return rows.reshape(len(rows), -1)


class Gate:
    """Where a peer waits between blocks of steps.

    Standard output is kept for answers; what a framework prints goes to standard error.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._left = 0
        self._test_loss: Callable[[], float | None] = lambda: None

    def open(self, parameters: int, test_loss: Callable[[], float | None] = lambda: None) -> None:
        """Says that the peer is ready, and returns when the first step is asked for.

        Args:
            parameters: How many numbers are learned.
            test_loss: The mean over the test rows in nats per sample, at beta = 1 with a sample of z; None if unknown.
        """
        self._test_loss = test_loss
        self._answer(parameters=parameters)
        self._wait()

    def step(self, count: int = 1) -> None:
        """To be called after so many steps; at the end of a block, returns when the next one is asked for."""
        self._left -= count
        if self._left <= 0:
            wall, processor = time.perf_counter() - self._wall, time.process_time() - self._processor
            self._answer(wall=wall, processor=processor, memory=memory("VmHWM"), anonymous=memory("RssAnon"))
            self._wait()

    def _wait(self) -> None:
        for line in sys.stdin:
            asked = json.loads(line)
            if "steps" in asked:
                self._left = asked["steps"]
                self._wall, self._processor = time.perf_counter(), time.process_time()
                return
            self._answer(loss=self._test_loss())
        os._exit(0)  # from within a framework's loop, which may catch exceptions

    def _answer(self, **facts: float | None) -> None:
        print(json.dumps(facts), file=self._answers, flush=True)


def memory(kind: str) -> float:
    """Resident memory of this process in MB: "VmHWM", the most it had, or "RssAnon", what the system cannot drop."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith(kind))


def begin() -> tuple[Task, Gate]:
    """The task from the command line, and the gate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=LATENTS, default="mlp")
    parser.add_argument("--data", required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--block", type=int, default=469)
    parser.add_argument("--latent", type=int)
    parser.add_argument("--variant", default="")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.latent = given.latent or LATENTS[given.network]
    return Task(**vars(given)), Gate()
