"""Numbers at the start: posterior, reconstruction and loss against what an untrained model should have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.batch import beside, rows_of
from ..core.finding import Finding
from ..core.output import VAEOutput
from ..distributions.likelihoods import Decoder
from ..distributions.observations import NormalObservation
from .step import Step, undisturbed

LARGE_MEAN, LARGE_LOG_VARIANCE = 10.0, 10.0  # KL of 50 nats a dimension; a deviation of e^5 or e^-5 of the prior's
OUTSIDE = 10.0  # times the data's largest value that a first reconstruction may be: all steps would go into its size
START_EXCESS = 2.0  # first reconstruction over that of outputs 0, in its own size: weights that are far too large


def check_start(step: Step, baseline: float | None = None) -> Iterator[Finding]:
    """Findings about the record of the first batch, before the first step."""
    output = _drawn(step)
    yield from _ranges(step, output)
    yield from _start(step, output, baseline)
    yield from _out_of_reach(step, output)


@torch.no_grad()
def _drawn(step: Step) -> VAEOutput:
    assert step.draw is not None
    with undisturbed(step.model, step.seed):
        step.model.train()
        return step.draw(step.model, step.batch)


def _median_largest(values: Tensor) -> float:
    """The median over rows of the largest size in a row, which single rows far out do not move."""
    return values.abs().flatten(1).amax(1).median().item()


def _sizes(variance: Tensor) -> Tensor:
    """Variances, with 1 in place of a 0, which is no small variance but a posterior that is a point."""
    return variance.where(variance > 0, 1.0)


@dataclass(frozen=True)
class _Range:
    """A number at the start, its bound, and what it means to be beyond."""

    code: str
    title: str
    measure: Callable[[VAEOutput], float]
    most: float
    unit: str
    why: str


def _size(output: VAEOutput) -> float:
    """Mean size of the first reconstructions' entries over the largest of the data's."""
    return output.likelihood.mean.abs().double().mean().item() / max(output.x.nan_to_num().abs().max().item(), 1e-12)


RANGES = (
    _Range(
        "CH110",
        "the posterior means are large at the start",
        lambda output: _median_largest(output.posterior.mean),
        LARGE_MEAN,
        "prior deviations, the largest of a row, median over rows",
        "the first steps only pull them back, with a divergence that drowns the reconstruction",
    ),
    _Range(
        "CH111",
        "the posterior variances are extreme at the start",
        lambda output: _median_largest(_sizes(output.posterior.variance).log()),
        LARGE_LOG_VARIANCE,
        "size of the log-variance, the largest of a row, median over rows",
        "codes are pure noise, or so exact that the first steps overshoot; e to that power is near overflow",
    ),
    _Range(
        "CH112",
        "the first reconstructions lie far outside the data's range",
        _size,
        OUTSIDE,
        "times the largest value of the data, the mean entry",
        "the decoder's output and the data are on different scales",
    ),
)


def _ranges(step: Step, output: VAEOutput) -> Iterator[Finding]:
    for item in RANGES:
        value = item.measure(output)
        if not value <= item.most:
            yield Finding(
                item.code,
                "warning",
                item.title,
                value,
                item.unit,
                evidence=f"a batch of {len(step.batch)} rows before the first step; the bound is {item.most:g}",
                why=item.why,
                advice="scale the data to order one, and start the last layers with small weights",
                expected="numbers near those of the prior, and near the data's, from the first step on",
            )


def _start(step: Step, output: VAEOutput, baseline: float | None) -> Iterator[Finding]:
    """The first reconstruction against that of an untrained decoder whose outputs are 0, and the one to beat."""
    decoder = getattr(step.model, "decoder", None)
    if not isinstance(decoder, Decoder):
        return
    rows = rows_of(step.batch)
    shape = (1, len(rows), *decoder.likelihood.layout(tuple(rows.shape[1:])))
    with torch.no_grad(), undisturbed(step.model, step.seed):
        untrained = -decoder.likelihood(rows.new_zeros(shape)).log_prob(rows).mean().item()
    found = -output.log_px.mean().item()
    excess = (found - untrained) / max(abs(untrained), step.batch[0].numel())
    beat = f"; the best decoder that ignores z has {baseline:.6g}" if baseline is not None else ""
    large = excess > START_EXCESS
    yield Finding(
        "CH113" if large else "CH114",
        "warning" if large else "info",
        "the reconstruction starts far too high" if large else "the reconstruction at the start",
        found,
        "nats per sample on the model's scale",
        evidence=f"an untrained decoder that puts out zeros has {untrained:.6g}{beat}",
        why="the decoder's first outputs are far from 0, as with weights or codes that are too large" if large else "",
        advice="model.init=fan, or smaller weights in the decoder's last layer" if large else "",
        expected="a start near that of zeros" if large else "",
    )


WIDE, MANY_CODES = 10.0, 256  # prior deviations that codes are drawn with: a linear last layer then has both signs
NEAR = 0.05  # of 0: as near as codes that far out bring a softplus or a sigmoid
BEYOND = 0.1  # share of the data's entries outside of what the decoder can give


@torch.no_grad()
def _out_of_reach(step: Step, output: VAEOutput) -> Iterator[Finding]:
    """A last layer whose outputs end at 0, or at 0 and 1, for data that go beyond."""
    decode = getattr(step.model, "decode", None)
    if not isinstance(output.likelihood, NormalObservation) or not callable(decode):
        return
    given = beside(step.batch[torch.arange(MANY_CODES) % len(step.batch)])
    with undisturbed(step.model, step.seed):
        step.model.eval()
        reached = decode(WIDE * torch.randn(1, MANY_CODES, output.z.shape[-1], device=output.z.device), *given).mean
    low, high = reached.min().item(), reached.max().item()
    ends_at_0 = 0 <= low < NEAR and high > low + 0.5
    below = (output.x < 0).double().mean().item() if ends_at_0 else 0.0
    above = (output.x > 1).double().mean().item() if ends_at_0 and high <= 1 else 0.0
    if below + above > BEYOND:
        yield Finding(
            "CH121",
            "warning",
            "the decoder cannot reach the data: its last activation bounds the output",
            100 * (below + above),
            "% of the entries lie outside of what it can give",
            evidence=f"{MANY_CODES} codes of {WIDE:g} prior deviations give outputs from {low:.3g} to {high:.3g}; the "
            f"data go from {output.x.min().item():.3g} to {output.x.max().item():.3g}",
            why="a ReLU gives nothing below 0 and a sigmoid nothing outside [0, 1]",
            advice="end the decoder with a linear layer, or scale the data to the range that it gives",
            expected="outputs on both sides of the data",
        )
