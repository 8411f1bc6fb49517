"""What never trains: parameters without a gradient, or without an optimiser, and heads that z is cut off from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.finding import Finding
from ..codes import finding
from ..roles import words
from .hooks import Node
from .recording import Recording
from .sandbox import loose_weights
from .subject import Subject

# Layers of these names serve another mode than the step: a second task, an adversary, a copy, a condition.
OTHER = {
    "classifier", "classify", "cls", "clf", "discriminator", "disc", "critic", "predictor", "predict", "regressor",
    "prior", "aux", "auxiliary", "teacher", "ema", "target", "projector", "projection", "probe", "label", "class",
    "condition", "cond", "sampler", "generator", "flow",
}  # fmt: skip


def gradients(subject: Subject, recording: Recording, optimisers: Iterable[Any]) -> Iterator[Finding]:
    """Findings on parameters that the loss, or an optimiser, does not reach."""
    trainable = {name: p for name, p in subject.model.named_parameters() if p.requires_grad}
    yield from _cut_off(subject, recording)
    if not subject.step.has_loss or not recording.roots:
        return
    tape = recording.tape
    reached = recording.parameters(tape.reaches(recording.roots))
    called = recording.parameters(range(len(tape.nodes)))
    slopes = _slopes(recording, trainable)
    dead = [n for n, p in trainable.items() if id(p) in reached and _without(slopes[n], p)]
    if dead:
        why = "the loss is made from it, and no gradient comes back: it stands behind detach, no_grad or .item()"
        yield _never(dead, trainable, "error", why, "take detach() or no_grad() off the way from the loss to it")
    yield from _idle([n for n, p in trainable.items() if id(p) not in reached], trainable, called)
    owned = list(optimisers)
    held = {id(p) for o in owned for group in o.param_groups for p in group["params"]}
    left = [n for n, p in trainable.items() if owned and id(p) in reached and id(p) not in held]
    if left:
        yield _never(
            left,
            trainable,
            "error",
            "the loss depends on it and no optimiser has it",
            "optimizer = torch.optim.Adam(model.parameters())",
        )
    loose = {n: p for n, p in loose_weights(subject.model).items() if p.requires_grad and id(p) in reached - held}
    if loose:
        yield _never(
            list(loose),
            loose,
            "error" if owned else "warning",
            "a plain list, tuple or dict holds its layer, so model.parameters() and state_dict() leave it out",
            "hold it in nn.ModuleList or nn.ModuleDict; what is meant to stay as it is wants requires_grad_(False)",
        )


def _idle(names: Sequence[str], trainable: Mapping[str, nn.Parameter], called: set[int]) -> Iterator[Finding]:
    """Parameters that the loss is not made from: a trap, unless their name speaks of another use of the model."""
    elsewhere = [n for n in names if any(OTHER.intersection(words(part)) for part in n.split("."))]
    for severity, group in (("warning", [n for n in names if n not in elsewhere]), ("info", elsewhere)):
        if group:
            used = any(id(trainable[n]) in called for n in group)
            where = "is called, and the loss is not made from it" if used else "is not called in the step"
            yield _never(group, trainable, severity, f"it {where}", "remove it, or use it")


def _without(slope: Tensor | None, weight: nn.Parameter) -> bool:
    """Whether no gradient came, or a zero one; a bias before a batch normalisation has zero by right."""
    return slope is None or (weight.ndim > 1 and not slope.any())


def _slopes(recording: Recording, trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor | None]:
    roots = [
        recording.tape.nodes[n].tensor.sum() for n in recording.roots if recording.tape.nodes[n].tensor.requires_grad
    ]
    if not roots:
        return dict.fromkeys(trainable)
    found = torch.autograd.grad(
        torch.stack([r.double() for r in roots]).sum(), list(trainable.values()), allow_unused=True, retain_graph=True
    )
    return dict(zip(trainable, found, strict=True))


def _never(names: list[str], trainable: Mapping[str, nn.Parameter], severity: Any, why: str, advice: str) -> Finding:
    entries = sum(trainable[n].numel() for n in names)
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return finding("GR003", severity, shown, measured=entries, unit="entries without training", why=why, advice=advice,
                   evidence=f"gradients of one training step: {len(names)} of {len(trainable)} parameters")  # fmt: skip


def _cut_off(subject: Subject, recording: Recording) -> Iterator[Finding]:
    """Heads that the output is made from, and that it sends no gradient to."""
    if not subject.parts.output:
        return
    tape = recording.tape
    output = node_of(recording, subject.parts.output[0])
    above = tape.reaches([output.number])
    for role, name in (("mu", "mean"), ("head", "second head")):
        nodes = [
            n
            for n in (node_of(recording, part) for part in getattr(subject.parts, role))
            if n.number in above and n.tensor.requires_grad
        ]
        if nodes and not _reaches_back(output, nodes):
            yield finding(
                "GR001", "error", f"z is cut off from the {name}", measured=0.0, unit="gradient of the output",
                evidence=f"the output is made from the {name} and its gradient there is None",
                why="the draw of z is taken under no_grad, detached, or by sample() instead of rsample()",
                advice="z = mu + std * torch.randn_like(std), or q.rsample()",
            )  # fmt: skip


def _reaches_back(output: Node, nodes: list[Node]) -> bool:
    if not output.tensor.requires_grad:
        return False
    found = torch.autograd.grad(output.tensor.sum(), [n.tensor for n in nodes], allow_unused=True, retain_graph=True)
    return any(slope is not None for slope in found)


def node_of(recording: Recording, part: Node) -> Node:
    """The node of another recording of the same step."""
    return next(n for n in recording.tape.nodes if n.key == part.key)
