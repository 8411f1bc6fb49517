"""A step recorded once and replayed: one launch on the device in place of hundreds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.batch import Batch, condition_of, rows_of

STEADY = 8  # steps with the same weights of terms before these are taken for what stays
CLOSE = 1e-4  # of a replay's numbers to those of the step itself, relatively


class Graph(Protocol):
    """A function without arguments that runs on the device, recorded."""

    def __init__(self, function: Callable[[], Tensor]) -> None: ...

    def replay(self) -> Tensor:
        """Runs it on what its tensors hold now; the result is overwritten by the next replay."""
        ...


class CudaGraph:
    """A `torch.cuda.CUDAGraph` of a function, which has run before, so that nothing is set up while it is recorded."""

    def __init__(self, function: Callable[[], Tensor]) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                function()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = function()

    def replay(self) -> Tensor:
        """Runs it on what its tensors hold now; the result is overwritten by the next replay."""
        self.graph.replay()
        return self.result


class Replays:
    """Steps by replay, once the weights of the loss's terms are steady; until then, and else, as they are.

    The rate is a tensor either way, so that a step has the same bits however it is run. Rows, noise and rate are copied
    into tensors of the recording; random numbers that the model draws follow the global generator's seed, as they do
    without. A recording is made with the flag up, so that it moves nothing, and is held to the step itself; where a
    model cannot be recorded, or differs, that is said once, and steps are run as they are.

    Args:
        graphs: What records.
        step: Of (rows, noise, weights, rate), the numbers of a step.
        refused: The flag that keeps a step from moving anything.
        say: Tells a person.
    """

    def __init__(
        self, graphs: type[Graph], step: Callable[..., Tensor], refused: Tensor, say: Callable[[str], None]
    ) -> None:
        self.graphs, self.step, self.refused, self.say = graphs, step, refused, say
        self.graph: Graph | None = None
        self.given_up = False
        self._weights: dict[str, float] = {}
        self._steady = 0
        self._held: tuple[Any, Tensor | None, Tensor] | None = None

    def __call__(self, x: Tensor | Batch, noise: Tensor | None, weights: dict[str, float], rate: float) -> Tensor:
        """The numbers of a step."""
        self._steady = self._steady + 1 if weights == self._weights else 0
        if weights != self._weights:
            self._weights, self.graph = dict(weights), None
        if self.graph is None and self._steady >= STEADY and not self.given_up:
            self._record(x, noise, weights, rate)
        if self.graph is None:
            return self.step(x, noise, weights, torch.tensor(rate, device=self.refused.device))
        self._hold(x, noise, rate)
        return self.graph.replay().clone()

    def _record(self, x: Tensor | Batch, noise: Tensor | None, weights: Mapping[str, float], rate: float) -> None:
        """Records a step with these weights of terms."""
        before = self.refused.clone()
        self.refused.fill_(1.0)
        held = _copy(x), None if noise is None else noise.clone(), torch.tensor(rate, device=self.refused.device)
        states = _random_states(self.refused.device)
        try:
            expected = self.step(*held[:2], weights, held[2])
            self._held = held
            self.graph = self.graphs(lambda: self.step(held[0], held[1], weights, held[2]))
            _set_random_states(states)
            found = self.graph.replay().clone()
            if not torch.allclose(found, expected, rtol=CLOSE, atol=CLOSE, equal_nan=True):
                raise RuntimeError("a replay has other numbers than the step itself")
        except Exception as error:  # whatever a model of anybody's does that cannot be recorded
            self.graph, self.given_up = None, True
            self.say(f"steps are launched one by one: no graph can be made of them ({str(error).splitlines()[0]})")
        _set_random_states(states)
        self.refused.copy_(before)

    def _hold(self, x: Tensor | Batch, noise: Tensor | None, rate: float) -> None:
        """Puts a step's rows, noise and rate where the recording reads them."""
        assert self._held is not None
        held_x, held_noise, held_rate = self._held
        rows_of(held_x).copy_(rows_of(x))
        condition, held_condition = condition_of(x), condition_of(held_x)
        if condition is not None and held_condition is not None:
            held_condition.copy_(condition)
        if noise is not None and held_noise is not None:
            held_noise.copy_(noise)
        held_rate.fill_(rate)


def _copy(x: Tensor | Batch) -> Tensor | Batch:
    condition = condition_of(x)
    return rows_of(x).clone() if condition is None else Batch(rows_of(x).clone(), condition.clone())


def _random_states(device: torch.device) -> list[tuple[torch.Generator, Tensor]]:
    """The global generators and where they stand."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    return [(one, one.get_state()) for one in generators]


def _set_random_states(states: list[tuple[torch.Generator, Tensor]]) -> None:
    for one, state in states:
        one.set_state(state)
