"""A callable measured on models whose log p(x) is known: its values, its draws, and the unit and sign they are in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...core.errors import BadInput
from .calls import Call, numbers
from .exact import LOG_2PI, KnownVAE, log_mean_exp

ROWS, COPIES = 10, 4  # every batch holds the same 10 rows 4 times, so that passes over its rows are alike
FEW, SOME, MANY, MORE, PASS = 1, 10, 100, 1000, 30  # draws asked for; passes of 30 divide neither 10 nor 100
_BUDGET = 2.0  # seconds of calls after the first
SURE = 5.0  # standard errors that make a difference a finding
SMALL = 0.02  # nats: below this a difference is none


@dataclass(frozen=True)
class Reading:
    """One way to read what an estimator takes p(x|z) to be, and where it draws."""

    name: str
    log_density: Callable[[Any, Any], Any]
    code: str = ""
    prior: bool = False
    constant: float = 0.0  # nats an entry that such a density has and code may leave out


def readings_of(model: KnownVAE) -> tuple[Reading, ...]:
    """The model's own density first; then those that strangers' code is known to use in its place."""
    own, share = model.log_density, 1 / model.pixels
    constant = 0.5 * LOG_2PI if model.family == "gaussian" else 0.0
    usual = (
        Reading("the model's own density", own, constant=constant),
        Reading("draws of the prior instead of the encoder's", own, prior=True, constant=constant),
    )
    if model.family != "gaussian":
        return (*usual, Reading("the mean over features instead of the sum", lambda x, y: share * own(x, y), "RE001"))
    return (
        *usual,
        Reading(
            "squared error without the half, so sigma^2 = 1/2", _unhalved, "RE006", constant=0.5 * math.log(math.pi)
        ),
        Reading("half the mean squared error over features", lambda x, y: -0.5 * share * (x - y) ** 2, "RE001"),
        Reading("the mean squared error over features", lambda x, y: -share * (x - y) ** 2, "RE001"),
    )


def _unhalved(x: Any, output: Any) -> Any:
    return -((x - output) ** 2) - 0.5 * math.log(math.pi)


class Bench:
    """Batches of a known model, a callable to be measured on them, and what came out.

    Args:
        model: The known model.
        call: The estimator.
        numpy: Whether it is given arrays instead of tensors.
    """

    def __init__(self, model: KnownVAE, call: Call, numpy: bool, seed: int) -> None:
        self.model, self.call, self.numpy, self.seed = model, call, numpy, seed
        kinds = ((1.0, 1.0), (3.0, 1.0), (1.0, -2.0))  # the model's own rows, and two that are unlike in two ways
        self.rows = [model.sample(ROWS, seed + j, *kind) for j, kind in enumerate(kinds)]
        self._weights: dict[str, np.ndarray] = {}
        self.values: dict[int, np.ndarray] = {}  # by draws asked for: means over a batch as returned, [repeat, batch]
        self.drawn: dict[int, float] = {}  # by draws asked for: latent vectors decoded for each row of the data

    def run(self, rows: np.ndarray, samples: int) -> float:
        """The mean over rows that the estimator returns, in its own unit and sign."""
        x = np.tile(rows, (COPIES, 1)).astype(np.float32)
        batch = x if self.numpy else torch.from_numpy(x)
        mu, logvar = self.model.encode(batch)
        half, labels = len(x) // 2, torch.zeros(len(x) // 2, dtype=torch.long)
        self.model.drawn()
        loader = [(batch[:half], labels), (batch[half:], labels)]
        result = numbers(
            self.call(
                {"model": self.model, "x": batch, "loader": loader, "mu": mu, "logvar": logvar, "samples": samples}
                | {"per_pass": min(samples, PASS) if samples == FEW else PASS, "device": self.model.device}
                | {"encode": self.model.encoder, "decode": self.model.decoder, "log_px": self.model.log_px_given_z}
                | {"latents": self.model.latents, "pixels": self.model.pixels}
            )
        )
        self.drawn[samples] = self.model.drawn() / len(x)
        if result.size not in (1, len(x)):
            received = f"{result.size} numbers for {len(x)} rows"
            raise BadInput("returned value", received, "must be one number, or one a row")
        return float(result.mean())

    def measure(self) -> None:
        """Repeated calls with few and with many draws on every batch, as many as fit into the time."""
        start = time.perf_counter()
        first = self.run(self.rows[0], MANY)
        if not math.isfinite(first):
            raise BadInput("returned value", first, "must be finite on data of the model")
        spent = time.perf_counter() - start
        repeats = int(np.clip(_BUDGET / (1.3 * len(self.rows) * max(spent, 1e-9)), 3, 30))
        self.run(self.rows[0], SOME)
        self.repeat(MANY, repeats)
        self.repeat(FEW, 2 * repeats)

    def repeat(self, asked: int, times: int) -> None:
        """Keeps the values of repeated calls on every batch."""
        self.values[asked] = np.array([[self.run(rows, asked) for rows in self.rows] for _ in range(times)])

    size = ROWS * COPIES  # rows in a batch

    @property
    def asks(self) -> bool:
        """Whether the number of draws is an argument."""
        return "samples" in self.call.roles

    def expected(self, reading: Reading, samples: int) -> np.ndarray:
        """The mean of the K-sample bound, E log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x), simulated on each batch."""
        weights = self.log_weights(reading)
        groups = weights.shape[1] // samples
        cut = weights[:, : groups * samples].reshape(len(self.rows), groups, samples, ROWS)
        return np.asarray(log_mean_exp(cut, 2).mean((1, 2)))

    def log_weights(self, reading: Reading) -> np.ndarray:
        """Log weights of a reading at our own draws, [batch, draw, row]; made once."""
        if reading.name not in self._weights:
            draws = 10_000 if self.model.pixels < 100 else 1_000
            drawn = [self.model.log_weights(x, draws, self.seed, reading.log_density, reading.prior) for x in self.rows]
            self._weights[reading.name] = np.stack(drawn)
        return self._weights[reading.name]

    def used(self, asked: int) -> int:
        """The draws to compare the bound at: those asked for, or those counted where none can be asked for."""
        counted = round(self.drawn[MANY])
        return asked if self.asks or not counted else min(counted, MORE)


@dataclass(frozen=True)
class Fit:
    """A bench's values read in nats per sample: estimate = sign * value / unit, under one reading of the density."""

    bench: Bench
    reading: Reading
    sign: int
    unit: str
    matched: bool

    def nats(self, asked: int) -> np.ndarray:
        """Estimates of log p(x) in nats per sample, [repeat, batch]."""
        return self.sign * self.bench.values[asked] / units(self.bench.model.pixels)[self.unit]

    def error(self, asked: int) -> float:
        """Standard error of the mean over batches and repeats; never below what the weights' own spread allows."""
        values = self.nats(asked)
        spread = values.std(0, ddof=1)
        return float(max(np.sqrt((spread**2).mean() / values.size), 0.05 / math.sqrt(values.size * ROWS * COPIES)))

    @cached_property
    def truth(self) -> np.ndarray:
        """log p(x) on each batch, [batch]."""
        model, density = self.bench.model, self.reading.log_density
        return np.array([model.log_likelihood(x, density).mean() for x in self.bench.rows])

    @cached_property
    def bounds(self) -> dict[int, np.ndarray]:
        """What the right estimator gives on average, [batch], by draws asked for."""
        return {asked: self.bench.expected(self.reading, self.bench.used(asked)) for asked in (FEW, MANY, MORE)}

    def off(self, asked: int) -> float:
        """How far the estimate lies above the right estimator's mean."""
        return float((self.nats(asked).mean(0) - self.bounds[asked]).mean())

    @property
    def above(self) -> float:
        """How far the estimate with many draws lies above log p(x)."""
        return float((self.nats(MANY).mean(0) - self.truth).mean())

    def closes(self) -> bool:
        """Whether ten times the draws bring a low estimate clearly closer to the right one."""
        counts = dict(self.bench.drawn)
        self.bench.repeat(MORE, 3)
        self.bench.drawn = counts
        return self.off(MORE) > 0.8 * self.off(MANY)

    @property
    def margin(self) -> float:
        """A difference at many draws that is more than noise."""
        return SURE * self.error(MANY) + SMALL

    @property
    def drawn(self) -> dict[int, float]:
        """Draws for each row by draws asked for; one extra decoding that every call makes is not counted as a draw."""
        counts = self.bench.drawn
        extra = 1.0 if counts[FEW] == 2 else 0.0
        return {asked: count - extra for asked, count in counts.items()}


def units(pixels: int) -> dict[str, float]:
    """Units that estimators report in, as multiples of nats per sample."""
    rows, bits = float(ROWS * COPIES), 1 / math.log(2)
    return {
        "nats per sample": 1.0,
        "bits per sample": bits,
        "nats per dimension": 1 / pixels,
        "bits per dimension": bits / pixels,
        "nats summed over the rows": rows,
        "bits summed over the rows": rows * bits,
    }


def fit(bench: Bench) -> Fit:
    """The first reading, unit and sign under which the estimates follow log p(x) over batches, constants aside."""
    value = bench.values[MANY].mean(0)
    noise = np.sqrt((bench.values[MANY].std(0, ddof=1) ** 2).mean() / len(bench.values[MANY]))
    for reading in readings_of(bench.model):
        bound = bench.expected(reading, bench.used(MANY))
        for unit, scale in units(bench.model.pixels).items():
            for sign in (1, -1):
                rest = sign * value / scale - bound
                if np.abs(rest - rest.mean()).max() <= SURE * noise / scale + 0.02 * np.ptp(bound):
                    return Fit(bench, reading, sign, unit, True)
    own = readings_of(bench.model)[0]
    slope = np.polyfit(bench.expected(own, bench.used(MANY)), value, 1)[0]
    return Fit(bench, own, -1 if slope < 0 else 1, "nats per sample", False)
