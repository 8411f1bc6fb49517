"""`Averaged`: an exponential moving average of the weights, which is then what is evaluated and kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn


class Averaged:
    """Averages of all that a model saves.

    Args:
        model: What is trained.
        decay: Share of the average that a step keeps, once there are many steps; shorter memory before.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.running = model.state_dict()  # shares memory with the model
        self.values = {name: value.clone() for name, value in self.running.items()}

    def update(self, number: int) -> None:
        """Takes in the weights after step `number`."""
        keep = min(self.decay, (1 + number) / (10 + number))
        for name, value in self.running.items():
            average = self.values[name]
            average.lerp_(value, 1 - keep) if average.is_floating_point() else average.copy_(value)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back saved averages."""
        for name, value in tensors.items():
            self.values[name].copy_(value)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages in the model, and the running weights back in it afterwards."""
        running = {name: value.clone() for name, value in self.running.items()}
        self.model.load_state_dict(self.values)
        try:
            yield
        finally:
            self.model.load_state_dict(running)
