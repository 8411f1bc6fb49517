"""Rules: small functions from measured numbers to a finding, each threshold with its reason beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..core.config import Config
from ..core.finding import Finding
from .checkpoint import Progress

NATS = "nats per sample"
REGULARISE = "train.weight_decay=0.01, model.dropout=0.1 or a smaller model.hidden"


@dataclass(frozen=True)
class Measured:
    """What the rules read.

    Args:
        config: The resolved config.
        selected: The held-out numbers of the selected weights.
        training: The same numbers on training rows.
        last: The held-out numbers of the last evaluation.
        progress: Counters of the run.
        metrics: All lines of metrics.
    """

    config: Config
    selected: dict[str, Any]
    training: dict[str, Any]
    last: dict[str, Any]
    progress: Progress
    metrics: list[dict[str, Any]]


def judge(measured: Measured) -> list[Finding]:
    """All findings of a finished run; the bound itself comes first."""
    return [finding for rule in RULES for finding in rule(measured)]


def never_finite(progress: Progress) -> Finding:
    """The one finding of a run without any finite evaluation."""
    return Finding(
        "TR112",
        "error",
        "no held-out evaluation was finite: there is no model to keep",
        float(progress.step),
        "steps",
        why="the weights or the likelihood have gone beyond what numbers can hold",
        advice="train.learning_rate a third of what it is, and train.clip_norm=1",
    )


def _not_finite(m: Measured) -> Iterator[Finding]:
    """An evaluation without a finite bound is one too many."""
    held_out = [line["negative_elbo"] for line in m.metrics if line["kind"] == "held_out"]
    if count := sum(value is None for value in held_out):
        yield Finding(
            "TR113",
            "warning",
            "some held-out evaluations were not finite",
            float(count),
            f"of {len(held_out)} evaluations",
            why="some held-out rows lie where the model's likelihood overflows",
            advice=f"train.learning_rate={m.config.train.rate / 3:.2g}, train.clip_norm=1",
        )


def _bound(m: Measured) -> Iterator[Finding]:
    yield Finding(
        "TR100",
        "ok",
        "held-out negative ELBO",
        m.selected["negative_elbo"],
        NATS,
        1.96 * m.selected["standard_error"],
        f"{m.selected['rows']} held-out rows, beta = 1, posterior samples a row: {m.selected['samples']}, "
        f"weights of step {m.selected['step']}, {'closed-form' if m.selected['kl_is_exact'] else 'Monte Carlo'} KL",
    )


def _collapse(m: Measured) -> Iterator[Finding]:
    """No dimension above 0.01 nats: the decoder draws from the marginal, and z says nothing about x."""
    if m.selected["active_units"] == 0:
        beta, train = _beta(m), m.config.train
        slower = f"objective.anneal=linear objective.warmup_steps={max(1, train.total // 4)}"
        yield Finding(
            "TR101",
            "warning",
            "posterior collapse: the latent code carries no information",
            m.selected["kl"],
            NATS,
            evidence="held-out KL(q(z|x) || p(z)), summed over dimensions; none is above 0.01 nats",
            why="ignoring z serves the bound best: beta is high, the decoder's noise is large, or the data is noise",
            advice=f"objective.beta={beta / 4:.3g}" if beta > 1 else slower,
        )


def _beta(m: Measured) -> float:
    """The weight of the divergence in the last steps, whoever set it."""
    return next((line["beta"] for line in reversed(m.metrics) if "beta" in line), 1.0)


def _off_centre(m: Measured) -> Iterator[Finding]:
    """A tenth of the rate, and more than half a nat, spent on q(z) as a whole being elsewhere than the prior."""
    spent, rate, beta = m.selected["aggregate_kl"] or 0.0, m.selected["kl"], _beta(m)
    if spent > 0.5 and spent > 0.1 * rate:
        yield Finding(
            "TR110",
            "warning",
            "the codes of the data lie elsewhere than the prior: samples from the prior will look wrong",
            spent,
            NATS,
            evidence=f"KL from N(0, 1) of a normal with the codes' mean and variance; the whole KL is {rate:.3g}",
            why="training stopped early, beta is small, or the likelihood rewards ever larger outputs",
            advice=f"objective.beta=1 instead of {beta:g}" if beta < 1 else f"train.steps={2 * m.config.train.total}",
        )


def _unused(m: Measured) -> Iterator[Finding]:
    active, latent = m.selected["active_units"], len(m.selected["kl_per_dimension"])
    if 0 < active < latent:
        yield Finding(
            "TR102",
            "info",
            f"{active} of {latent} latent dimensions are in use",
            float(active),
            "dimensions above 0.01 nats",
            evidence="held-out KL of each dimension",
            why="the bound switches off dimensions it has no use for; that is not collapse and costs nothing",
            advice=f"model.latent={active} gives the same model, smaller",
        )


def _overfitting(m: Measured) -> Iterator[Finding]:
    """Worse by more than three standard errors after the best: the selection saved it, but steps were wasted."""
    last = m.last["negative_elbo"]
    rise = 0.0 if last is None else last - m.selected["negative_elbo"]
    if rise > 3 * m.selected["standard_error"] and m.progress.step > m.selected["step"]:
        yield Finding(
            "TR103",
            "info",
            "the held-out bound got worse after its best; the best weights are the ones kept",
            rise,
            NATS,
            evidence=f"best at step {m.selected['step']}, last at step {m.progress.step}",
            why="the model went on to learn the training rows by heart",
            advice=f"train.steps={m.selected['step']}, or {REGULARISE}",
        )


def _gap(m: Measured) -> Iterator[Finding]:
    """Training rows and held-out rows differ by more than chance: three standard errors of the difference."""
    gap = m.selected["negative_elbo"] - m.training["negative_elbo"]
    error = (m.selected["standard_error"] ** 2 + m.training["standard_error"] ** 2) ** 0.5
    if gap > 3 * error:
        yield Finding(
            "TR104",
            "info",
            "held-out rows cost more than training rows",
            gap,
            NATS,
            1.96 * error,
            f"selected weights on {m.training['rows']} training and {m.selected['rows']} held-out rows",
            "the model knows the training rows better than new ones",
            f"more data, {REGULARISE}",
        )


def _unfinished(m: Measured) -> Iterator[Finding]:
    """Still falling at the end: the last tenth of the evaluations gained more than two standard errors."""
    held_out = [line for line in m.metrics if line["kind"] == "held_out" and line["negative_elbo"] is not None]
    tenth = max(1, len(held_out) // 10)
    if len(held_out) < 5 or m.progress.step != m.selected["step"]:
        return
    gain = held_out[-1 - tenth]["negative_elbo"] - held_out[-1]["negative_elbo"]
    if gain > 2 * m.selected["standard_error"]:
        yield Finding(
            "TR105",
            "info",
            "the held-out bound was still getting better at the last step",
            gain,
            NATS,
            evidence=f"gain over the last {tenth} evaluations",
            why="training stopped before it was done",
            advice=f"train.steps={2 * m.config.train.total}",
        )


def _refused(m: Measured) -> Iterator[Finding]:
    if m.progress.refused:
        yield Finding(
            "TR106",
            "warning",
            "steps with a loss or gradient that was not finite were refused",
            float(m.progress.refused),
            "steps",
            evidence=f"train.on_nan={m.config.train.on_nan}; none of them reached the weights",
            why="the learning rate is too high, or some rows are extreme",
            advice=f"train.learning_rate={m.config.train.rate / 3:.2g}, train.clip_norm=1",
        )


def _clipped(m: Measured) -> Iterator[Finding]:
    """Clipping in more than half of the steps means that its bound sets the step's length, not the gradient."""
    lines = [line for line in m.metrics if line["kind"] == "train" and "clipped" in line]
    later = lines[len(lines) // 5 :]  # the first steps of any run are clipped
    share = sum(line["clipped"] for line in later) / len(later) if later else 0.0
    if share > 0.5:
        yield Finding(
            "TR107",
            "info",
            "most gradients were clipped",
            100 * share,
            "% of steps after the first fifth",
            evidence=f"norm above train.clip_norm={m.config.train.clip_norm}",
            why="with Adam this is harmless unless the norm varies a lot: it only rescales what Adam rescales again",
            advice="train.clip_norm=null or a higher bound, if the curve of the norm is flat",
        )


def _stopped_early(m: Measured) -> Iterator[Finding]:
    if m.progress.step < m.config.train.total:
        yield Finding(
            "TR108",
            "info",
            "stopped early",
            float(m.progress.step),
            "steps",
            evidence=f"{m.progress.stale} evaluations without a better held-out bound (train.patience)",
        )


RULES: tuple[Callable[[Measured], Iterator[Finding]], ...] = (
    _bound,
    _not_finite,
    _collapse,
    _off_centre,
    _refused,
    _unused,
    _overfitting,
    _gap,
    _unfinished,
    _clipped,
    _stopped_early,
)
