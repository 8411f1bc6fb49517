"""Where mu, the second head, z and the decoder's output arise in a recorded step: told from what is made from what.

z is the last tensor that the posterior's noise reaches without passing a layer (a call that takes weights). Behind z,
the tensor whose shift moves z alike under every draw is mu, and the one whose shift moves z by what depends on the draw
is the second head. Names are asked only where there is no noise to tell by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor, nn

from ...core.errors import BadInput
from ..roles import guess
from .hooks import LEAF, NOISE, Key, Node
from .recording import Recording, same_value
from .sandbox import DECODE, SAMPLE

FIRST = ("forward", "encode", "encoder", "reparameterize", "decode", "decoder")


@dataclass(frozen=True)
class Parts:
    """Nodes of the step by role; each role may arise at several calls with one value.

    Attributes:
        paths: The name under which a role was seen, such as `forward.1`.
        extra: Further outputs of the decoder (a learned noise scale).
        leaks: Calls by which the loss reaches the networks besides these.
        alike: Names of what is returned as mu and as the head, where that is one tensor.
    """

    z: Node | None
    mu: tuple[Node, ...]
    head: tuple[Node, ...]
    output: tuple[Node, ...]
    extra: tuple[Node, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    leaks: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()

    def keys(self, role: str) -> list[Key]:
        """Where a role is replaced."""
        found = getattr(self, role)
        nodes = found if isinstance(found, tuple) else (found,) if found else ()
        return [node.key for node in nodes]


Candidates = dict[str, list[tuple[str, Node]]]


class Finder:
    """Finds the parts of a recorded step.

    Args:
        recording: The step on jittered weights, where no two tensors agree by accident.
        again: Runs the step again: takes swaps, a watched key and a seed, and returns the watched tensor.
    """

    def __init__(self, recording: Recording, again: Callable[[Mapping[Key, Tensor], Key, int], Tensor]) -> None:
        self.r, self.tape, self.again = recording, recording.tape, again

    # ------------------------------------------------------------------------------------------------------------- z
    def z(self) -> Node | None:
        """The last tensor that noise reaches without passing a layer, behind at least one layer of the encoder."""
        found = [pair for pair in map(self._from_noise, self._sources()) if pair is not None]
        above = self.tape.reaches(self.r.roots)
        # Of several draws the one that a decoder takes counts, and of several decodings the one in the loss.
        return max(found, key=lambda pair: (pair[1], pair[0].number in above), default=(self._by_name(), False))[0]

    def _sources(self) -> list[Node]:
        return [n for n in self.tape.nodes if n.name in NOISE and not isinstance(n.tensor, nn.Parameter)]

    def _from_noise(self, source: Node) -> tuple[Node, bool] | None:
        """z as made from one source of noise, and whether it feeds a layer."""
        nodes = self.tape.nodes
        plain = self.tape.made_from([source.number], lambda n: not self.r.is_layer(n))
        mixed = [nodes[n] for n in sorted(plain & self.r.data & self.r.weights) if nodes[n].size >= self.r.rows]
        mixed = [n for n in mixed if n.size == mixed[0].size]
        fed = {p for n in nodes if self.r.is_layer(n) for p in n.parents} & plain
        if fed:  # the last that all the layers are fed from: one may take z itself, and another a view of it
            ways = [self.tape.reaches([n]) for n in fed]
            ways = [way for way in ways if not way.isdisjoint(n.number for n in mixed)]
            resting = [n for n in mixed if ways and all(n.number in way for way in ways)]
            return (resting[-1], True) if resting else None
        named = {node.number for _, node in self.r.names}
        return (
            (next((n for n in reversed(mixed) if n.number in named), mixed[min(1, len(mixed) - 1)]), False)
            if mixed
            else None
        )

    def _by_name(self) -> Node | None:
        """What a sampling method returns or a decoder takes."""
        for name, node in self.r.names:
            first, taken = name.split(":")[0].split(".")[0], ":in" in name
            if (
                first in DECODE if taken else first in SAMPLE or _named(name) == "z"
            ) and node.number in self.r.data | self.r.weights:
                return node
        return None

    # --------------------------------------------------------------------------------------------------------- mu, head
    def heads(self, z: Node) -> list[Node]:
        """Tensors that z is made of: where the way back, through calls that keep the shape, meets a layer or a part."""
        found, queue, seen = [], [z.number], set()
        while queue:
            node = self.tape.nodes[queue.pop()]
            if node.number in seen or node.number not in self.r.weights:
                continue
            seen.add(node.number)
            larger = [self.tape.nodes[p] for p in node.parents if self.tape.nodes[p].size > node.size]
            if node.key == LEAF or self.r.is_layer(node) or larger or not node.parents:
                found.append(node)
            else:
                queue += node.parents
        return sorted((n for n in found if n.size > 1), key=lambda n: n.number)

    def kind(self, node: Node, z: Node) -> str | None:
        """What a shift of a node does to z: "mu" if it is the same under every draw, "head" if the draw decides."""
        held = {n.key: n.tensor.detach() for n in self.r.origins(node)}
        shifted = {key: tensor + 0.1 for key, tensor in held.items()}
        # The plain value is put in as well, since other noise (dropout, noisy data) moves the node between draws.
        first, second = (self.again(shifted, z.key, seed) - self.again(held, z.key, seed) for seed in (11, 12))
        largest = max(first.abs().max(), second.abs().max())
        if not torch.isfinite(largest) or largest < 1e-9:
            return None
        return "mu" if (first - second).abs().max() < 1e-3 * largest else "head"

    def candidates(self, z: Node) -> Candidates:
        """For mu and the head, the nodes that play the role: those seen under a name first, the user's own notion."""
        raw = self.heads(z)
        sizes = {n.size for n in raw} | {z.size}
        made = self.tape.made_from(n.number for n in raw) & self.tape.reaches([z.number]) - {z.number}
        named = [(name, n) for name, n in self.r.names if n.number in made and n.size in sizes]
        pool = {
            n.number: (name, n)
            for name, n in sorted([*named, *(("", n) for n in raw)], key=lambda i: _rank(i[0]), reverse=True)
        }
        ordered = sorted(pool.values(), key=lambda item: _rank(item[0]))
        found: Candidates = {"mu": [], "head": []}
        for name, node in ordered:
            if (kind := self.kind(node, z)) is not None:
                found[kind].append((name, node))
        return self._by_names(found, z, ordered)

    def _by_names(self, found: Candidates, z: Node, pool: list[tuple[str, Node]]) -> Candidates:
        """Where the draw tells mu or the head not, because it has a mistake or no noise, names and sizes do."""
        mu, head = found["mu"], found["head"]
        if not mu:
            mu = [item for item in pool if "mu" in self._guesses(item[1])] or [("", z)]
        if not head and len({n.number for _, n in mu}) > 1:
            head = [item for item in mu if "head" in self._guesses(item[1])] or mu[1:]
            mu = [item for item in mu if item not in head] or mu
        if not head:
            behind = {n.number for n in self.r.tape.nodes if n.key in {n.key for _, n in mu}} | self.tape.made_from(
                [z.number]
            )
            above = self.tape.reaches(n.number for _, n in mu)
            beside = [(name, n) for name, n in self._networks() if n.number not in behind | above]
            head = [item for item in beside if _named(item[0]) == "head"] or [
                i for i in beside if i[1].size == mu[0][1].size
            ]
        return {"mu": mu, "head": head}

    def _guesses(self, node: Node) -> set[str | None]:
        """Roles that the names of a node suggest."""
        return {_named(name) for name, n in self.r.names if n.number == node.number}

    def _networks(self) -> list[tuple[str, Node]]:
        """What is seen under a name as returned by the networks, the user's own notion first."""
        made = self.r.data & self.r.weights
        found = [(name, n) for name, n in self.r.names if ":in" not in name and n.number in made]
        return sorted(found, key=lambda item: _rank(item[0]))

    # ------------------------------------------------------------------------------------------------------- the output
    def outputs(self, z: Node) -> list[Node]:
        """Candidates for the decoder's output: made from z behind a layer, as large as the data or a multiple of it.

        Where nothing is made from z, the decoder ignores it, and what the networks return counts.
        """
        layers = self._behind_layers({z.number}) or set(self.r.weights - self.tape.reaches([z.number]))
        wanted = layers & self.tape.reaches(self.r.roots)
        size = self.r.x.numel()
        named = [i for i in self.r.names if i[1].number in wanted and ":in" not in i[0] and i[1].size % size == 0]
        pieces = [n for n in map(self.tape.nodes.__getitem__, sorted(wanted)) if self._is_piece(n)]
        # Of what forward returns the first counts, unless a name says otherwise; of submodules the last.
        named.sort(key=lambda i: (_rank(i[0]), _named(i[0]) != "output", -i[1].number * (_rank(i[0]) >= len(FIRST))))
        every = [*(node for _, node in named), *pieces, *self._raw_outputs(z, wanted)]
        # Several numbers for an entry are its probabilities by class where data are integers, else a mean and a scale.
        if pieces:
            every.sort(key=lambda n: self.r.x.is_floating_point() and n.size != size)
        return list({n.number: n for n in every}.values())

    def _is_piece(self, node: Node) -> bool:
        """Whether a call cuts a tensor as large as the data out of a multiple of it."""
        size = self.r.x.numel()
        whole = [self.tape.nodes[p].size for p in node.parents]
        return node.size == size and len(whole) == 1 and whole[0] in (2 * size, 3 * size)

    def _beside(self, output: Node) -> list[Node]:
        """The pieces that the last layer gives beside the one that the output is made from, as the loss takes them."""
        above = self.tape.reaches([output.number])
        uses = self.tape.reaches(self.r.roots)
        shown = {n.number for name, n in self.r.names if _rank(name) < len(FIRST)}
        cut = [self.tape.nodes[n] for n in above if self._is_piece(self.tape.nodes[n])]
        whole = {p for n in cut for p in n.parents}
        found = [n for n in self.tape.nodes if whole.intersection(n.parents) and self._is_piece(n)]
        found = [n for n in found if n.number in uses - above]
        # A piece that forward returns is the user's own notion of it: after its clamp, say.
        after = {n.number: self.tape.made_from([n.number], lambda m: not self.r.is_layer(m)) & shown for n in found}
        nodes = self.tape.nodes
        last = {k: [m for m in v if nodes[m].size == nodes[k].size] for k, v in after.items()}
        return [nodes[max(last[n.number], default=n.number)] for n in found]

    def _behind_layers(self, sources: set[int]) -> set[int]:
        after = self.tape.made_from(sources) - sources
        return self.tape.made_from(n for n in after if self.r.is_layer(self.tape.nodes[n]))

    def _raw_outputs(self, z: Node, wanted: set[int]) -> list[Node]:
        """Outputs of the layers that the loss is made from directly."""
        plain: set[int] = set()
        found, queue = [], list(self.r.roots)
        while queue:
            node = self.tape.nodes[queue.pop()]
            if node.number in plain | {z.number}:
                continue
            plain.add(node.number)
            if self.r.is_layer(node) and node.number in wanted and node.size >= self.r.rows:
                found.append(node)
            else:
                queue += node.parents
        return sorted(found, key=lambda n: (n.size % self.r.x.numel() != 0, n.number))

    # ----------------------------------------------------------------------------------------------------- all together
    def parts(self) -> Parts:
        """The first choice of mu, head and output behind which the loss has no other way to the networks' weights.

        Raises:
            BadInput: where no mean, no second head or no output can be found.
        """
        z = self.z()
        if z is None:
            rule = "no code z could be found: no noise, no reparameterize, no decode"
            raise BadInput("model", None, rule, "is it a VAE? pass one whose forward samples z")
        found = self.candidates(z)
        if not found["mu"] or not found["head"]:
            lack = "mean" if not found["mu"] else "second head (log-variance, std)"
            rule = f"z is there and no {lack} of its posterior"
            raise BadInput("model", None, rule, "return mu and logvar from encode or forward")
        outputs: list[Node | None] = [*self.outputs(z)] or [None]
        best: Parts | None = None
        for (_, mu), (_, head), output in product(found["mu"], found["head"], outputs):
            parts = self._built(z, mu, head, output)
            best = parts if best is None or len(parts.leaks) < len(best.leaks) else best
            if not parts.leaks:
                break
        assert best is not None
        return best

    def _built(self, z: Node, mu: Node, head: Node, output: Node | None) -> Parts:
        nodes = {
            "mu": self.r.origins(mu),
            "head": self.r.origins(head),
            "output": self.r.origins(output) if output else (),
        }
        pieces = self._beside(output) if output else []
        leaks = self._leaks(z, {n.number for part in (*nodes.values(), pieces) for n in part})
        above = self.tape.reaches(n.number for n in nodes["output"])
        decoders = self.tape.made_from([z.number]) - above - {z.number}
        largest = max((n.size for n in nodes["output"]), default=0)
        extra = (*pieces, *(n for n in leaks if n.number in decoders and n.size <= largest))
        seen = {"z": z, "mu": mu, "head": head, "output": output}
        paths = {role: self._seen_as(node) for role, node in seen.items() if node}
        return Parts(
            z,
            **nodes,
            extra=extra,
            paths=paths,
            leaks=tuple(n.name for n in leaks if n not in extra),
            alike=self._alike(mu, head),
        )

    def _seen_as(self, node: Node) -> str:
        """The name under which a value is seen, the user's own notion first; empty where it has none."""
        alike = {name for name, n in self.r.names if same_value(n.tensor, node.tensor)}
        return min(alike, key=_rank, default="")

    def _alike(self, mu: Node, head: Node) -> tuple[str, ...]:
        """Names under which one call returns the same tensor twice, where mu and the head are that tensor."""
        if not same_value(mu.tensor, head.tensor):
            return ()
        same = sorted({n for n, node in self.r.names if ":in" not in n and same_value(node.tensor, mu.tensor)})
        for call in FIRST:
            if len(found := [n for n in same if n.split(".")[0] == call and "." in n]) > 1:
                return tuple(found)
        return ()

    def _leaks(self, z: Node, stop: set[int]) -> list[Node]:
        """Layers by which the loss still depends on the networks, with mu, head and output held.

        A layer counts if it works on features of the networks, or on z to give something as large as the data. Learned
        noise and learned priors take weights too, and are part of the loss.
        """
        posterior = self.tape.made_from(stop) & self.tape.reaches([z.number])
        moving = self.r.weights & (self.r.data | self.r.noise)
        features = (self.tape.reaches(stop) & moving) - stop - posterior - {z.number}
        found, queue, seen = [], list(self.r.roots), set(stop)
        while queue:
            node = self.tape.nodes[queue.pop()]
            if node.number in seen:
                continue
            seen.add(node.number)
            below = self.tape.reaches([node.number], stop) - stop if self.r.is_layer(node) else set()
            if below & features or (z.number in below and node.size % self.r.x.numel() == 0):
                found.append(node)
            else:
                queue += node.parents
        return found


def _rank(name: str) -> int:
    """Order of names: what forward returns, then the methods, then submodules, then nothing."""
    if not name:
        return 99
    head = name.split(":")[0].split(".")[0]
    base = FIRST.index(head) if head in FIRST else len(FIRST)
    return base + (len(FIRST) if ":in" in name else 0)


def _named(name: str) -> str | None:
    return guess(name.split(":")[0].split(".")[-1]) if name else None
