"""A model under audit: its step recorded once for each batch size, and run again with parts of it given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import BadInput, one_line
from ..care import same_randomness
from .hooks import LEAF, NOISE, NORMAL, Key, Node, Replay, Stopped, Tape, grown_by, writes
from .parts import Finder
from .recording import Recording
from .sandbox import Snapshot, Watch, labelled, loose_weights, rows_like, seeded
from .steps import Step, losses_in, only_losses

# As they are before an audit of a loss lets something stand in for them: stand-ins make calls that no recording has.
DRAWS = [(owner, name, getattr(owner, name)) for owner, name in (
    (torch, "randn"), (torch, "randn_like"), (torch, "normal"), (Tensor, "normal_"), (np.random, "randn"),
    (np.random, "normal"), (np.random, "standard_normal"),
)]  # fmt: skip
ROWS = 7  # a number that is seldom another dimension's size, so that shapes tell which dimension is the batch


class Subject:
    """The working copy of a model with its step.

    Args:
        model: A copy, or a model that is put back later.
        x: A batch that it takes.
        step: How to run it.

    Attributes:
        work: Entries of all tensors of one step on `x`.
    """

    def __init__(self, model: nn.Module, x: Tensor, step: Step) -> None:
        self.model, self.x, self.step = model, x, step
        self._state = Snapshot(model)
        self._loose = loose_weights(model)
        self._recordings: dict[tuple[int, bool], Recording] = {}
        with self.jittered():
            recording = self.record(x)
            self.work = sum(node.size for node in recording.tape.nodes)
            self.parts = Finder(
                recording, lambda swap, key, seed: self._again(recording, swap, [key], seed)[key]
            ).parts()

    # ---------------------------------------------------------------------------------------------------------- running
    @contextmanager
    def jittered(self, scale: float = 0.1) -> Iterator[None]:
        """Weights moved a little, so that zeros and ties of an initialisation hide nothing."""
        tools = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for weight in (*self.model.parameters(), *self._loose.values()):
                if weight.is_floating_point():
                    spread = scale * (weight.std() if weight.numel() > 1 else weight.abs().mean()) + 0.02
                    weight.data.add_(spread * torch.randn(weight.shape, generator=tools, dtype=weight.dtype))
        try:
            yield
        finally:
            self._state.restore()

    def record(self, x: Tensor, seed: int = 0) -> Recording:
        """One run of the step on x, with its graph.

        Raises:
            BadInput: where the model raises.
        """
        seeded(seed)
        x = x.clone()
        try:
            with Watch(self.model) as watch, torch.enable_grad(), Tape() as tape:
                raw = self.step.run(x)
        except Exception as error:
            said = one_line(f"{type(error).__name__}: {error}")[:200]
            raise BadInput(f"model.{self.step.name}", f"{len(x)} rows", f"raised {said}") from error
        finally:
            self._state.restore_attributes()
        found = [*tape.losses, *losses_in(raw, len(x)).values()] if self.step.has_loss else []
        names = [(name, node) for name, t in watch.seen if (node := tape.find(t)) is not None and node.key != LEAF]
        roots = [node.number for t in found if (node := tape.find(t)) is not None]
        returned = [node.number for name, node in names if name.startswith("forward") and ":in" not in name]
        return Recording(tape, tuple(names), raw, x, tuple(roots or returned or [node.number for _, node in names]))

    def recording(self, rows: int) -> Recording:
        """The step on a batch of that many rows, recorded once for each number and mode."""
        known = (rows, self.model.training)
        if known not in self._recordings:
            with same_randomness():  # a recording may be asked for in the middle of a seeded call
                self._recordings[known] = self.record(self.sized(rows))
        return self._recordings[known]

    def sized(self, rows: int) -> Tensor:
        """The batch repeated or cut to that many rows."""
        return rows_like(self.x, rows)

    def _again(
        self, recording: Recording, swap: Mapping[Key, Tensor], watch: Sequence[Key], seed: int
    ) -> dict[Key, Tensor]:
        seeded(seed)
        x = recording.x.clone()
        replay = Replay(recording.tape, swap, watch, self._idle(recording, swap, watch), early=True)
        try:
            with torch.no_grad(), replay:
                self.step.run(x)
        except Stopped:
            pass
        finally:
            self._state.restore_attributes()
        return replay.seen

    def run(self, given: Mapping[str, Tensor], wanted: str, rows: int, seed: int, x: Tensor | None = None) -> Tensor:
        """A part of the step with other parts given; the mean over parts is never taken, the batch comes first.

        Args:
            given: Tensors by role, in any shape with the right number of entries.
            wanted: "z", "mu", "head" or "output".
        """
        recording = self.recording(rows)
        if x is not None:
            recording = replace(recording, x=x)
        key = self.parts.keys(wanted)[0]
        return self._again(recording, self.swaps(recording, given), [key], seed)[key].detach()

    def swaps(self, recording: Recording, given: Mapping[str, Tensor]) -> dict[Key, Tensor]:
        """Given tensors by the calls whose results they replace."""
        found: dict[Key, Tensor] = {}
        for role, tensor in given.items():
            for key in self.parts.keys(role):
                own = recording.tape.at(key)
                found[key] = _fitted(tensor.to(own.dtype), own.shape)
        return found

    # ------------------------------------------------------------------------------------------------ shapes and roles
    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    def unfit(self) -> str:
        """Why the step cannot be had as a function of x, output, mu and head; empty where it can."""
        parts = self.parts
        if parts.alike:
            return "mu and the second head are one tensor"
        sizes = {role: getattr(parts, role)[0].size if getattr(parts, role) else 0 for role in ("mu", "head", "output")}
        if not sizes["output"] or sizes["output"] % self.x.numel():
            return f"no output of the data's size was found ({sizes['output']} entries for {self.x.numel()})"
        if sizes["mu"] != sizes["head"]:
            return f"mu has {sizes['mu']} entries and the second head {sizes['head']}"
        if parts.leaks:
            return f"it reaches the networks through {', '.join(parts.leaks)} besides mu, head and output"
        if self._rows_meet():
            return "it compares codes of different rows (as MMD or total correlation do), and is no sum over samples"
        return "its prior has parameters of its own, and only a fixed one is read" if self._learned_prior() else ""

    def _rows_meet(self) -> bool:
        """Whether what is made from mu, the head or z is broadcast against other rows on the way to the loss."""
        recording = self.recording(ROWS)
        tape = recording.tape
        keys = {key for role in ("mu", "head", "z") for key in self.parts.keys(role)}
        codes = tape.made_from((n.number for n in tape.nodes if n.key in keys), lambda n: not recording.is_layer(n))
        meeting = (tape.nodes[n] for n in tape.reaches(recording.roots) & codes)
        return any(
            len(p) > 1 and grown_by([tape.nodes[i].tensor.shape for i in p]) == ROWS
            for p in (n.parents for n in meeting)
        )

    def _learned_prior(self) -> bool:
        """Whether mu, the head or z meet weights on the way to the loss."""
        recording = self.recording(ROWS)
        tape = recording.tape
        held = {
            role: {n.number for n in tape.nodes if n.key in self.parts.keys(role)}
            for role in ("mu", "head", "z", "output", "extra")
        }
        every = set().union(*held.values())
        posterior = held["mu"] | held["head"] | held["z"]
        for number in tape.reaches(recording.roots, every) - every:
            below = tape.reaches([number], every) if recording.is_layer(tape.nodes[number]) else set()
            if below & posterior and not below & held["output"]:
                return True
        return False

    def roles(self) -> tuple[str, ...]:
        """What the loss is a function of: z too where it enters directly, a scale where the decoder gives one."""
        recording, parts = self.recording(ROWS), self.parts
        drawn = parts.z is not None and parts.z.key not in parts.keys("mu")
        z = drawn and parts.z is not None and parts.z.size == parts.mu[0].size and self._z_enters(recording)
        extra = len(parts.extra) == 1 and parts.extra[0].size == parts.output[0].size
        return ("x", "output", "mu", "head", *("z",) * z, *("scale",) * extra)

    def _z_enters(self, recording: Recording) -> bool:
        """Whether the loss takes z itself, and the noise behind it by no other way."""
        tape = recording.tape
        held = {
            n.number
            for n in tape.nodes
            if n.key in {k for role in ("mu", "head", "output", "extra") for k in self.parts.keys(role)}
        }
        z = {n.number for n in tape.nodes if n.key in self.parts.keys("z")}
        direct = not z.isdisjoint(tape.reaches(recording.roots, held))
        other = tape.reaches(recording.roots, held | z) - held - z
        return direct and not any(tape.nodes[n].name in NOISE for n in other)

    def sizes(self) -> dict[str, Any]:
        """Sizes for the audit of the loss: the batch, and the shapes of a row of data and of mu."""
        shape = self.parts.mu[0].tensor.shape
        latents = tuple(shape[1:]) if shape[0] == ROWS else (self.parts.mu[0].size // ROWS,)
        sizes = {"batch": 6, "pixels": tuple(self.x.shape[1:]), "latents": latents}
        classes = self.parts.output[0].size // self.x.numel() if self.parts.output else 1
        return sizes if self.x.is_floating_point() else {**sizes, "classes": classes}

    # --------------------------------------------------------------------------------------------------------- the loss
    def loss(self) -> Callable[..., Any]:
        """The model's own step as a function of tensors in the order of `roles`, in any shape of the right size."""
        names = ["extra" if role == "scale" else role for role in self.roles()[1:]]

        def model_loss(x: Tensor, *tensors: Tensor) -> Any:
            node = float(torch.randn(())) if torch.randn is not DRAWS[0][2] else None
            with own_draws():
                return self._loss(x, dict(zip(names, tensors, strict=True)), node)

        return model_loss

    def value_at(self, seed: int) -> float:
        """The loss at tensors that are the same whatever the seed, which is that of noise inside the loss."""
        tape, tools = self.recording(ROWS).tape, torch.Generator().manual_seed(9)
        roles = ["extra" if role == "scale" else role for role in self.roles()[1:]]
        given = [torch.rand(tape.at(self.parts.keys(role)[0]).shape, generator=tools) * 0.8 + 0.1 for role in roles]
        seeded(seed)
        return float(added(self.loss()(self.sized(ROWS), *given)))

    def _loss(self, x: Tensor, given: Mapping[str, Tensor], node: float | None) -> Any:
        x = x.to(self.x.dtype).reshape(len(x), *self.x.shape[1:])
        recording = self.recording(len(x))
        swap = self.swaps(recording, given)
        if node is not None:  # the audit of the loss puts a node of a quadrature in place of the loss's own noise
            noise = [n for n in recording.tape.nodes if n.name in NORMAL and not n.parents and n.key not in swap]
            swap |= {n.key: torch.full_like(n.tensor, node) for n in noise}
        replay = Replay(recording.tape, swap, skip=self._idle(recording, swap))
        try:
            with replay:
                raw = self.step.run(x)
        finally:
            self._state.restore_attributes()
        return replay.losses[-1] if replay.losses else only_losses(raw, len(x))

    def _idle(self, recording: Recording, swap: Mapping[Key, Tensor], watch: Sequence[Key] = ()) -> frozenset[int]:
        """Calls from which nothing is made but replaced tensors, and nothing that is wanted."""
        question, known = (frozenset(swap), tuple(watch)), recording.idle
        if question not in known:
            nodes = recording.tape.nodes
            held = {n.number for n in nodes if n.key in swap}
            wanted = [n.number for n in nodes if n.key in watch] if watch else recording.roots
            busy = {nodes[n].key[0] for n in recording.tape.reaches(wanted, held) - held} | {key[0] for key in swap}
            # What a call that is made writes into must be made anew as well.
            written = {nodes[p].key[0] for n in nodes if writes(n.name) and n.key[0] in busy for p in n.parents}
            plain = {n.key[0] for n in nodes if n.key != LEAF and not writes(n.name) and n.name not in NOISE}
            known[question] = frozenset(plain - busy - written)
        return known[question]

    # ------------------------------------------------------------------------------------------------- ends and targets
    def last_layers(self, recording: Recording) -> list[Node]:
        """The layers that the decoder's output is made from without a further layer."""
        found, queue, seen = [], [n.number for n in recording.tape.nodes if n.key in self.parts.keys("output")], set()
        while queue:
            node = recording.tape.nodes[queue.pop()]
            if node.number in seen:
                continue
            seen.add(node.number)
            if recording.is_layer(node):
                found.append(node)
            else:
                queue += node.parents
        return [n for n in found if n.tensor.is_floating_point()]

    def at_ends(
        self, recording: Recording, layers: Sequence[Node], watch: Sequence[Key], reach: float
    ) -> dict[Key, tuple[float, float]]:
        """The range of watched tensors when layers' outputs run from -reach to reach."""
        swap = {
            n.key: torch.linspace(-reach, reach, n.size, dtype=n.tensor.dtype).reshape(n.tensor.shape) for n in layers
        }
        seen = self._again(recording, swap, list(dict.fromkeys(watch)), 0)
        return {key: (float(t.min()), float(t.max())) for key, t in seen.items()}

    def targets(self, data: Tensor) -> Tensor | None:
        """What the loss compares the output with, for given data; None where no such call is seen."""
        recording = self.record(data.to(self.x.dtype).reshape(len(data), *self.x.shape[1:]))
        tape, outputs = recording.tape, self.parts.keys("output")
        behind = tape.made_from(n.number for n in tape.nodes if n.key in outputs)
        x = [n.number for n in tape.nodes if n.key == LEAF and n.tensor.data_ptr() == recording.x.data_ptr()]
        plain = tape.made_from(x, lambda n: not recording.is_layer(n)) - recording.weights - recording.noise
        for number in sorted(behind & tape.reaches(recording.roots)):
            beside = [tape.nodes[p].tensor for p in tape.nodes[number].parents if p in plain]
            if beside:
                return beside[0].detach()
        return None

    def outputs(self, forward: Callable[[Tensor], Any], seed: int) -> list[Tensor]:
        """The tensors that a forward pass returns in evaluation mode."""
        self.model.eval()
        seeded(seed)
        try:
            with torch.no_grad(), Tape():
                found = [t for _, t in labelled(forward(self.x.clone()), "") if t.is_floating_point()]
            return [t for t in found if t.ndim]  # a loss alone is neither an embedding nor a reconstruction
        finally:
            self._state.restore()


@contextmanager
def own_draws() -> Iterator[None]:
    """Random functions as they are, whatever stands in for them outside."""
    outside = [(owner, name, getattr(owner, name)) for owner, name, own in DRAWS if getattr(owner, name) is not own]
    for owner, name, own in DRAWS:
        if any((owner, name) == pair[:2] for pair in outside):
            setattr(owner, name, own)
    try:
        yield
    finally:
        for owner, name, stand_in in outside:
            setattr(owner, name, stand_in)


def _fitted(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A tensor in the shape of the one it replaces; several samples of z, in leading dimensions, all take it."""
    inner = next((i for i in range(len(shape)) if shape[i:].numel() == tensor.numel()), 0)
    return tensor.reshape(shape[inner:]).expand(shape)


def added(value: Any) -> Tensor:
    """A loss as one number: its parts added, each a mean over rows."""
    parts = value.values() if isinstance(value, Mapping) else [value]
    return torch.stack([part.double().mean() for part in parts]).sum()
