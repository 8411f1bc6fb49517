"""What a person sees while a model trains: one bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from ..measure.bound import selected_by
from ..measure.estimate import Z95
from ..models.vae import Model


class Display:
    """What the loop tells, in nats per sample; this one shows nothing."""

    def begin(self, step: int, steps: int) -> None:
        """Training starts at `step`."""

    def train(self, step: int, line: dict[str, Any]) -> None:
        """A line of training metrics."""

    def held_out(self, step: int, measured: dict[str, Any], model: Model) -> None:
        """A held-out evaluation; the model has the weights that were evaluated."""

    def say(self, text: str) -> None:
        """A message."""

    def end(self) -> None:
        """Training is over, well or not."""


def numbers(line: dict[str, Any]) -> str:
    """The terms of a line of metrics as a person reads them, with the divergence of each dimension."""
    if "loss" not in line:
        return "no finite step yet"
    per_dimension = sorted(line["kl_per_dimension"], reverse=True)
    dimensions = " ".join(f"{value:.2f}" for value in per_dimension[:4]) + (" ..." if len(per_dimension) > 4 else "")
    return (
        f"loss {line['loss']:.2f}  reconstruction {line['reconstruction']:.2f}  kl {line['kl']:.2f} "
        f"[{dimensions}]  {_penalties(line)}beta {line['beta']:.3g}  lr {line['learning_rate']:.1e}"
    )


def _penalties(line: dict[str, Any]) -> str:
    """What an objective adds to the bound, each with the weight that it has in the loss."""
    weights = {key.removesuffix("_weight"): value for key, value in line.items() if key.endswith("_weight")}
    known = {name: weight for name, weight in weights.items() if name in line}
    return "".join(f"{weight:.3g} x {name} {line[name]:.3g}  " for name, weight in known.items())


class Lines(Display):
    """Plain lines, about one every five seconds, and the last held-out bound."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds, self.steps = seconds, 0
        self._last, self._started, self._first = time.monotonic(), time.monotonic(), 0

    def begin(self, step: int, steps: int) -> None:
        self.steps, self._first, self._started = steps, step, time.monotonic()

    def train(self, step: int, line: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last >= self.seconds:
            self._last = now
            rate = (step - self._first) / max(now - self._started, 1e-9)
            left = (self.steps - step) / max(rate, 1e-9)
            self.say(f"step {step}/{self.steps}  {numbers(line)}  {rate:.0f} steps/s  {left:.0f} s left")

    def held_out(self, step: int, measured: dict[str, Any], model: Model) -> None:
        if step >= self.steps:
            name, value, error = selected_by(measured)
            self.say(
                f"step {step}/{self.steps}  held-out {name} {value:.3f} ± {Z95 * error:.3f} (95 %) nats per sample"
            )

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Bar(Display):
    """One rich progress bar with the numbers beneath it."""

    _bar: Any = None  # before training begins

    def begin(self, step: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._held = ""
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("\n{task.fields[numbers]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=steps, completed=step, numbers="", rate="")
        self._bar.start()

    def train(self, step: int, line: dict[str, Any]) -> None:
        speed = self._bar.tasks[0].speed
        rate = f"{speed:.0f} steps/s" if speed else ""
        self._bar.update(self._task, completed=step, numbers=f"{numbers(line)}{self._held}", rate=rate)

    def held_out(self, step: int, measured: dict[str, Any], model: Model) -> None:
        name, value, error = selected_by(measured)
        self._held = f"\nheld-out {name} {value:.2f} ± {Z95 * error:.2f} (95 %) nats"

    def say(self, text: str) -> None:
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(text, markup=False)

    def end(self) -> None:
        self._bar.stop()


class Several(Display):
    """Tells each of several displays the same."""

    def __init__(self, *displays: Display) -> None:
        for name in ("begin", "train", "held_out", "say", "end"):
            setattr(self, name, _each([getattr(display, name) for display in displays]))


def _each(calls: list[Callable[..., None]]) -> Callable[..., None]:
    def tell(*arguments: Any) -> None:
        for call in calls:
            call(*arguments)

    return tell


def choose_display(progress: bool) -> Display:
    """A bar where there is a terminal, lines where there is none, nothing where progress is not wanted."""
    if not progress:
        return Display()
    return Bar() if sys.stderr.isatty() else Lines()
