"""`Signals`: SIGTERM and SIGINT ask for a save after the running step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch

from .engine import Engine


class Signals:
    """The signals that came to the processes of a run."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._received = 0  # the signal that came to this process

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """The first SIGTERM or SIGINT is kept for the loop to ask for; a second one exits at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def anywhere(self) -> int:
        """The signal that any process received, agreed by all; 0 for none."""
        return self._received if self.engine.world == 1 else int(self.engine.most(torch.tensor(self._received)))

    def _on_signal(self, number: int, _frame: Any) -> None:
        if self._received and self.engine.world == 1:  # a launcher tells its processes more than once
            os._exit(128 + number)
        self._received = number
