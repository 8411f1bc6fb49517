"""What a whole model does besides its loss: what ignores what, what never trains, ranges and shapes that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite, log
from typing import Any

import torch
from torch import Tensor

from ...core.finding import Finding
from ..codes import finding
from ..report import AuditReport, sorted_findings
from .gradients import gradients, node_of
from .hooks import LEAF, Node, grown_by
from .recording import Recording
from .subject import ROWS, Subject

STILL = 1e-6  # relative moves below this are rounding
SQUASHED = frozenset(("binary_cross_entropy_with_logits", "sigmoid", "special_expit", "logsigmoid"))
REDRAWN = "relative move of the output when z is drawn anew"
REACH = 40.0  # pre-activations at which every bounded activation is at its bound


def audit_structure(subject: Subject, data: Tensor | None, optimisers: Iterable[Any]) -> Iterator[Finding]:
    """All findings of this file on one model."""
    ranges = list(_ranges(subject, data))
    with subject.jittered():
        recording = subject.record(subject.x)
        found = list(_ignored(subject))
        # Data outside the range saturate what comes after, and a gradient that is lost so says nothing of the model.
        if not any(finding.code == "RE003" for finding in ranges):
            found += gradients(subject, recording, optimisers)
    yield from [*found, *ranges]
    if subject.step.has_loss:
        yield from _crossed(subject, recording)


# -------------------------------------------------------------------------------------------------- what ignores what
def _move(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))


def _noise(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def _ignored(subject: Subject) -> Iterator[Finding]:
    parts, model = subject.parts, "on weights moved at random, so that no zero of an initialisation hides it"
    if parts.output and parts.z is not None:
        moves = {role: _answer(subject, role) for role in ("z", "mu")}
        if moves["z"] < STILL and moves["mu"] < STILL:
            yield ignores_z(moves["z"], f"the output of {ROWS} rows under two z, {model}")
        elif moves["z"] < STILL:
            yield finding(
                "SA003", "error", "the decoder is given the mean", measured=moves["z"], unit=REDRAWN,
                evidence=f"the output moves by {moves['mu']:.3g} with mu and not with z, {model}",
                why="z is drawn and not used, so the decoder never sees noise",
                advice="pass z, not mu: recon = self.decode(z)",
            )  # fmt: skip
    other = subject.sized(ROWS).flip(0) if not subject.x.is_floating_point() else 1 - subject.sized(ROWS).flip(0)
    blind = {
        role: _move(subject.run({}, role, ROWS, 1), subject.run({}, role, ROWS, 1, other)) for role in ("mu", "head")
    }
    if max(blind.values()) < STILL:
        yield ignores_x(max(blind.values()), f"mu and the head of {ROWS} rows under two batches, {model}")


def ignores_z(move: float, evidence: str) -> Finding:
    """The finding on a decoder that ignores z."""
    return finding(
        "MO001", "error", measured=move, unit=REDRAWN, evidence=evidence, advice="pass z on: recon = self.decode(z)",
        why="nothing the decoder returns is made from z, so the encoder is trained by the divergence alone",
    )  # fmt: skip


def ignores_x(move: float, evidence: str) -> Finding:
    """The finding on an encoder that ignores x."""
    return finding(
        "MO002", "error", measured=move, unit="relative move of mu and the head when the data change",
        evidence=evidence,
        why="nothing the encoder returns is made from the data, so z can carry nothing about them",
        advice="feed the batch to the encoder: mu, logvar = self.encode(x)",
    )  # fmt: skip


def joined(about: AuditReport, found: Iterable[Finding], unseen: Sequence[str] = ()) -> AuditReport:
    """The report on the loss with the findings on the model around it.

    Args:
        unseen: What could not be looked at, which no verdict may pass over.
    """
    around = list(found)
    every = sorted_findings([*around, *about.findings])
    errors = "; ".join(dict.fromkeys(f"{f.code} {f.title}" for f in every if f.severity == "error"))
    traps = sum(f.severity == "warning" for f in around)
    told = [
        f"not right: {errors}" if errors else about.verdict or "nothing wrong with what was looked at",
        *[f"{traps} warning{'s' * (traps > 1)} on the model around it"] * bool(traps and not errors),
        *[f"not looked at: {', '.join(unseen)}"] * bool(unseen),
    ]
    return replace(about, findings=every, verdict="; ".join(told))


def _answer(subject: Subject, role: str) -> float:
    """How far the output moves when z, or mu, is replaced."""
    own = subject.recording(ROWS).tape.at(subject.parts.keys(role)[0])
    return _move(*(subject.run({role: 2 * _noise(own, seed)}, "output", ROWS, 1) for seed in (1, 2)))


# ----------------------------------------------------------------------------------------------- shapes that do not fit
def _crossed(subject: Subject, recording: Recording) -> Iterator[Finding]:
    """Broadcasts that pair one row with another, between output and data, and between mu and the head."""
    parts, tape = subject.parts, recording.tape

    def sides(nodes: Iterable[Node]) -> set[int]:
        return tape.made_from([node_of(recording, n).number for n in nodes], lambda n: not recording.is_layer(n))

    mu, head, output = sides(parts.mu), sides(parts.head), sides(parts.output)
    plain = (
        tape.made_from([n.number for n in tape.nodes if _is_data(recording, n)], lambda n: not recording.is_layer(n))
        - recording.weights
    )
    wanted = tape.reaches(recording.roots)
    pairs = (
        ("RE008", "output and data", output, plain - output),
        ("KL005", "mu and the second head", mu - head - recording.noise, head - mu - recording.noise),
    )
    for code, what, one, other in pairs:
        for node in tape.nodes:
            shapes = [tape.nodes[p].tensor.shape for side in (one, other) for p in node.parents if p in side]
            if node.number in wanted and len(shapes) >= 2 and (grown := grown_by(shapes)):
                yield _mixed(code, what, [tuple(s) for s in shapes[:2]], grown, node.name)
                break
    if parts.mu and parts.head and parts.mu[0].size < parts.head[0].size:
        both = [tuple(part[0].tensor.shape) for part in (parts.mu, parts.head)]
        yield _mixed("KL005", "mu and the second head", both, parts.head[0].size / parts.mu[0].size, "the divergence")


def _is_data(recording: Recording, node: Node) -> bool:
    return node.key == LEAF and node.tensor.data_ptr() == recording.x.data_ptr()


def _mixed(code: str, what: str, shapes: Sequence[tuple[int, ...]], grown: float, call: str) -> Finding:
    return finding(
        code, "error", f"{what} are broadcast", measured=grown, unit="times the entries that belong together",
        evidence=f"shapes {shapes[0]} and {shapes[1]} meet in {call}, with {ROWS} rows",
        why="the shapes differ, so that entries of one row are compared with those of another",
        advice="give both the same shape: output = output.view_as(x)",
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------- ranges that do not fit
def _ranges(subject: Subject, data: Tensor | None) -> Iterator[Finding]:
    """The decoder's range at its ends, against the loss that takes it and the data it is compared with."""
    recording, parts = subject.recording(ROWS), subject.parts
    if recording.tape.outside:
        yield from _no_probabilities(recording.tape.outside)
        return
    layers = subject.last_layers(recording)
    if not parts.output or not layers:
        return
    squashed = list(_squashings(subject, recording, layers))
    ends = subject.at_ends(recording, layers, [n.key for n in squashed] + [parts.output[0].key], REACH)
    for node in squashed:
        low, high = ends[node.key]
        if 0.1 < high - low < 10:
            yield finding(
                "RE002", "error", "the output is squashed twice", measured=high, unit="largest logit within reach",
                evidence=f"the decoder's last layer driven to ±{REACH:g}: {node.name} is given [{low:.3g}, {high:.3g}]",
                why="the loss takes logits and is given values that an activation has already squashed",
                advice="leave the decoder's last activation out, or use F.binary_cross_entropy",
            )  # fmt: skip
            return
    yield from _outside(subject, data, *ends[parts.output[0].key])


def _no_probabilities(outside: Mapping[str, tuple[float, float]]) -> Iterator[Finding]:
    """What a cross-entropy takes that is none of probabilities; the steps were gone on with at the nearest that are."""
    about = {
        "input": (
            "RE002", "the output is no probability", "the decoder's last activation is no sigmoid",
            "end the decoder by torch.sigmoid, or use F.binary_cross_entropy_with_logits on its plain output",
        ),
        "target": (
            "RE003", "of the likelihood", "a Bernoulli is a law on [0, 1], and its cross-entropy raises beyond",
            "scale the data to [0, 1] before the model, such as x = x / 255, or (x + 1) / 2",
        ),
    }  # fmt: skip
    for role, (low, high) in outside.items():
        code, detail, why, advice = about[role]
        yield finding(
            code, "error", detail, measured=high if high > 1 else low, unit="where [0, 1] is the range",
            evidence=f"the {role} of binary_cross_entropy in one training step reaches from {low:.3g} to {high:.3g}",
            why=why, advice=advice,
        )  # fmt: skip


def _squashings(subject: Subject, recording: Recording, layers: list[Node]) -> Iterator[Node]:
    """What the squashing calls of the loss take, where an activation stands between it and the last layer."""
    tape = recording.tape
    behind = tape.made_from([n.number for n in layers], lambda n: not recording.is_layer(n))
    for number in sorted(tape.reaches(recording.roots) & behind) if subject.step.has_loss else ():
        node = tape.nodes[number]
        if node.name in SQUASHED:
            yield from (tape.nodes[p] for p in node.parents if p in behind and tape.nodes[p].key != LEAF)


def _outside(subject: Subject, data: Tensor | None, low: float, high: float) -> Iterator[Finding]:
    """Data that the decoder cannot reach; only for data that the user gave."""
    if data is None or not subject.step.has_loss or not subject.x.is_floating_point():
        return
    targets = subject.targets(data)
    if targets is None or high - low > 2 * REACH - 1 or high - low < 1e-3:
        return
    outside = ((targets < low - 0.02 * (high - low)) | (targets > high + 0.02 * (high - low))).double().mean().item()
    if outside > 0.001:
        yield finding(
            "RE003", "warning", "of the decoder", measured=outside, unit="share of the data's entries",
            evidence=f"the output stays within [{low:.3g}, {high:.3g}] with its last layer driven to ±{REACH:g}; "
            f"the data reach from {targets.min():.3g} to {targets.max():.3g}",
            why="the decoder's last activation cannot reach these values",
            advice="scale the data to the decoder's range, or leave the last activation out",
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- loss at start
def start_of(subject: Subject, family: str, unit: str) -> Iterator[Finding]:
    """Whether the loss at the given weights is finite, and for a Bernoulli near the P log 2 of even odds."""
    if not subject.step.has_loss:
        return
    recording, pixels = subject.recording(ROWS), subject.x[0].numel()
    value = float(sum(recording.tape.nodes[n].tensor.double().mean() for n in recording.roots))
    evidence = f"one training step on {ROWS} rows at the given weights"
    if not isfinite(value):
        yield finding(
            "MO003", "error", "not finite", measured=value, unit="", evidence=evidence,
            why="some value overflows or leaves the range of a logarithm before any training",
            advice="look at the head's first values: logvar.clamp(-10, 10), and at the scale of the data",
        )  # fmt: skip
    elif family.startswith("Bernoulli") and unit == "nats per sample" and value > 3 * pixels * log(2):
        yield finding(
            "MO003", "warning", "far above even odds", measured=value, unit="nats per sample", evidence=evidence,
            why=f"a decoder that knows nothing costs {pixels} log 2 = {pixels * log(2):.4g} nats: "
            "its first outputs are sure and wrong, or the data leave [0, 1]",
            advice="scale the data to [0, 1], and the decoder's last weights down",
        )  # fmt: skip


def noisy_evaluation(subject: Subject, forward: Callable[[Tensor], Any]) -> Iterator[Finding]:
    """Whether the forward pass in evaluation mode draws noise."""
    one, other = (subject.outputs(forward, seed) for seed in (1, 2))
    moves = [_move(a, b) for a, b in zip(one, other, strict=False) if a.shape == b.shape]
    if moves and max(moves) > STILL:
        yield finding(
            "SA004", "info", measured=max(moves), unit="relative move of what forward returns, between two calls",
            evidence="two forward passes in evaluation mode on the same batch",
            why="z is drawn in evaluation mode too: right for the bound, and noise in embeddings and reconstructions",
            advice="use mu where you need a code: z = mu if not self.training else mu + std * eps",
        )  # fmt: skip


def two_modes(training: Subject, evaluation: Subject) -> Iterator[Finding]:
    """Whether the same x, output, mu and head give another loss in evaluation mode."""
    outside = training.recording(ROWS).tape.outside  # torch would stop at it again
    if outside or training.unfit() or evaluation.unfit() or training.roles() != evaluation.roles():
        return
    values = [[subject.value_at(seed) for seed in (1, 2, 3)] for subject in (training, evaluation)]
    moves = [abs(a - b) / max(abs(a), 1e-30) for a, b in zip(*values, strict=True)]
    if min(moves) > STILL and len({round(v, 9) for v in values[0]}) == 1:
        yield finding(
            "UN002", "warning", "train and evaluation differ", measured=values[1][0] / values[0][0],
            unit="times the training loss, in evaluation mode",
            evidence=f"the same x, output, mu and head: {values[0][0]:.6g} training, {values[1][0]:.6g} evaluating",
            why="the loss looks at self.training, so the two curves are not of one quantity",
            advice="report the bound in both modes: recon + kl, and the weighted loss under another name",
        )  # fmt: skip
