"""The one training loop: steps, not epochs; nothing non-finite enters the weights; a step follows from its number."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.config import Config
from ..core.errors import Diverged, Interrupted
from ..core.seeds import derive, seed_global
from ..data.batches import Order, Rows
from ..models.vae import Model
from ..objectives.elbo import ELBO
from ..schedules import Schedule
from .checkpoint import Checkpoints, Progress, load_weights, optimizer_tensors, restore_optimizer
from .engine import Engine
from .evaluate import evaluate, evaluated_rows
from .folder import RunFolder
from .show import Display
from .step import Step
from .window import Window

MOST_ROLLBACKS = 8  # each halves the learning rate: 1/256 of it is left when the run gives up


class Loop:
    """Trains a model and keeps its run folder.

    Args:
        model, objective: What is trained, and on what.
        rows, held_out: The two parts of the split.
        shift: log|det| of the data's transform, nats per sample; reported numbers are on the data's own scale.
    """

    def __init__(
        self,
        model: Model,
        objective: ELBO,
        rows: Rows,
        held_out: Rows,
        *,
        config: Config,
        engine: Engine,
        folder: RunFolder,
        display: Display,
        shift: float,
    ) -> None:
        train = config.train
        self.model, self.objective, self.rows, self.held_out = model, objective, rows, held_out
        self.config, self.engine, self.folder, self.display, self.shift = config, engine, folder, display, shift
        self.step = engine.wrap(Step(model, objective, torch.bfloat16 if train.precision == "bfloat16" else None))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=train.rate, weight_decay=train.weight_decay, fused=True
        )
        self.state = model.state_dict()  # shares memory with the model: its weights and what it saves besides
        self.buffers = [value for name, value in self.state.items() if name not in dict(model.named_parameters())]
        self.averaged = {name: value.clone() for name, value in self.state.items()} if train.ema else None
        self.order = Order(len(rows), train.batch_size, derive(config.seed, "rows"))
        self.decay = Schedule(train.schedule, 1.0, 1.0 if train.schedule == "constant" else 0.0, train.total)
        self.warmup = Schedule("linear", 0.0, 1.0, train.warmup_steps)
        self.checkpoints = Checkpoints(folder.path / "checkpoints")
        self.progress, self.window = Progress(), Window()
        self.selected: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._coins, self._noise = torch.Generator(engine.device), torch.Generator(engine.device)
        self._saved: int | None = None  # the step of the last checkpoint, and of the last selection, that is on disk
        self._saved_best: int | None = None
        self._received = 0  # the signal that came to this process
        self._started = time.monotonic()

    def run(self) -> Progress:
        """Trains until the last step, an early stop, or a signal.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with everything saved.
            Diverged: if a loss or gradient is not finite and the policy says stop, with the last good state saved.
        """
        if self._is_over():
            self.display.say(f"nothing left to do: the run ended at step {self.progress.step}")
            return self.progress
        if self.progress.step == 0:
            self._checkpoint()
        self.model.train()
        with self._signals():
            while not self._is_over():
                if self._advance(self.progress.step):
                    self.progress.step += 1
                    self._due(self.progress.step)
                if number := self._signal_anywhere():
                    self._checkpoint()
                    name, step = signal.Signals(number).name, self.progress.step
                    raise Interrupted(f"{name}: saved at step {step}; continue with --resume", number)
        return self.progress

    def restore(self) -> list[str]:
        """Continues from the newest whole checkpoint; returns a line for each damaged one passed over.

        A run that was killed before its first checkpoint starts from the beginning.
        """
        if not any(self.checkpoints.folder.glob("step-*")):
            self.folder.cut_metrics(0)
            return []
        progress, tensors, damaged = self.checkpoints.load_last()
        self._load(tensors)
        self.progress, self.window = progress, Window.restored(progress.window, self.engine)
        self._saved, self._saved_best, self.selected = progress.step, progress.best_step, None
        if progress.best_step is not None:
            self.selected = self.checkpoints.load_best(progress.best_step)
        self.folder.cut_metrics(progress.metrics_bytes)
        return damaged

    # One step -----------------------------------------------------------------------------------------------------

    def _advance(self, number: int) -> bool:
        """Does step `number`; False if the run went back instead."""
        batch, weights = self._draw(number), self.objective.weights(number)
        before = [buffer.clone() for buffer in self.buffers]
        loss, record = self._gradients(batch, weights)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        size = norm.item()
        if not self._finite(loss + size):
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)
            return self._refuse(number, loss, size)
        clip = self.config.train.clip_norm or math.inf
        if clipped := size > clip:
            nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)
        rate = self._rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self._average(number)
        self.window.add(record, loss=loss, gradient_norm=size, clipped=float(clipped))
        return True

    def _draw(self, number: int) -> tuple[Tensor, Tensor | None]:
        """This process's share of the rows of a step and of their base noise; both are functions of the number."""
        seed, share = self.config.seed, self.engine.share
        self._coins.manual_seed(derive(seed, "coins", number))
        x = share(self.rows.take(self.order.batch(number), self._coins))
        seed_global(seed, "step", number, self.engine.rank, device=self.engine.device)
        size = getattr(self.model, "noise_size", None)
        if size is None:
            return x, None
        self._noise.manual_seed(derive(seed, "noise", number))
        shape = (self.objective.samples, self.config.train.batch_size, size)
        return x, share(torch.randn(shape, generator=self._noise, device=self.engine.device), 1)

    def _gradients(self, batch: tuple[Tensor, Tensor | None], weights: dict[str, float]) -> tuple[float, list[Any]]:
        """Gradients of the global batch's mean loss; returns that loss (this process's part) and what to record."""
        (x, noise), count = batch, self.config.train.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        xs = x.tensor_split(count) if count > 1 else (x,)
        noises = noise.tensor_split(count, 1) if count > 1 and noise is not None else (noise,) * count
        loss, record = 0.0, []
        for number, (part, part_noise) in enumerate(zip(xs, noises, strict=True)):
            # A mean over this slice becomes its part of the mean over the global batch, however the slices came out.
            share = len(part) * self.engine.world / self.config.train.batch_size
            last = number == count - 1
            with contextlib.nullcontext() if last else self.engine.delayed(self.step):
                total, terms, kl = self.step(part, weights, part_noise)
                (total * share if share != 1 else total).backward()
            loss += total.item() * share
            record.append((len(part), terms, kl))
        return loss, record

    def _finite(self, value: float) -> bool:
        if self.engine.world == 1:
            return math.isfinite(value)
        return bool(self.engine.total(torch.tensor(float(not math.isfinite(value)))) == 0)

    def _rate(self, number: int) -> float:
        train = self.config.train
        return train.rate * self.progress.rate_factor * self.warmup(number + 1) * self.decay(number)

    def _average(self, number: int) -> None:
        """Exponential moving average of the weights, with a shorter memory in the first steps."""
        if self.averaged is None:
            return
        keep = min(self.config.train.ema or 0.0, (1 + number) / (10 + number))
        for name, value in self.state.items():
            average = self.averaged[name]
            average.lerp_(value, 1 - keep) if average.is_floating_point() else average.copy_(value)

    # What a non-finite number does --------------------------------------------------------------------------------

    def _refuse(self, number: int, loss: float, norm: float) -> bool:
        """The optimiser is not called: the weights are those before the step, bit for bit."""
        progress, policy = self.progress, self.config.train.on_nan
        progress.refused += 1
        what = f"step {number}: the loss is {loss:.6g}, the gradient's norm {norm:.6g}"
        if policy == "skip":
            self.display.say(f"{what}; step skipped")
            return True
        if policy == "rollback" and progress.rollbacks < MOST_ROLLBACKS:
            self._roll_back(what)
            return False
        self._checkpoint()
        raise Diverged(
            f"{what}; the weights before it are saved; try train.learning_rate={self._rate(number) / 3:.1g}, or "
            "train.on_nan=skip or rollback, and look at the data for that step"
        )

    def _roll_back(self, what: str) -> None:
        refused, rollbacks = self.progress.refused, self.progress.rollbacks + 1
        factor = self.progress.rate_factor / 2
        self.restore()
        self.progress.refused, self.progress.rollbacks, self.progress.rate_factor = refused, rollbacks, factor
        self.display.say(f"{what}; back to step {self.progress.step} with the learning rate times {factor:.3g}")

    # What is due between steps ------------------------------------------------------------------------------------

    def _every(self, name: str, times: int) -> int:
        return getattr(self.config.train, name) or max(1, self.config.train.total // times)

    @property
    def _evaluate_every(self) -> int:
        """Fifty times a run; as few as ten where a quarter of the time would go there, a row forward being a third."""
        total, rows = self.config.train.total, evaluated_rows(self.held_out)
        cheap = 4 * rows // (3 * self.config.train.batch_size)
        return self.config.train.evaluate_every or max(1, total // 50, min(cheap, total // 10))

    def _due(self, step: int) -> None:
        if step % self._every("log_every", 200) == 0:
            self._log(step)
        if step % self._evaluate_every == 0 or step == self.config.train.total:
            self._evaluate()
        if step % self._every("checkpoint_every", 10) == 0 or self._is_over():
            self._checkpoint()

    def _log(self, step: int) -> None:
        weights = self.objective.weights(step - 1)
        line = self.window.line(self.engine, self.shift) | {"learning_rate": self._rate(step - 1), **weights}
        self.window = Window()
        self.folder.add_metrics({"kind": "train", "step": step, **line})
        self.display.train(step, line)

    def _evaluate(self) -> None:
        """The held-out bound at beta = 1, whatever the training weight; the best one selects the weights."""
        progress = self.progress
        with self._averaged_weights():
            measured = evaluate(self.model, self.held_out, seed=self.config.seed, engine=self.engine, shift=self.shift)
            self.folder.add_metrics({"kind": "held_out", "step": progress.step, **measured})
            self.display.held_out(progress.step, measured, self.model)
            value = measured["negative_elbo"]
            if math.isfinite(value) and (progress.best is None or value < progress.best):
                progress.best, progress.best_step, progress.stale = value, progress.step, 0
                weights = {name: value.clone() for name, value in self.state.items()}
                self.selected = (weights, {"step": progress.step, **measured})
            elif progress.step > self.objective.warmup_ends:
                progress.stale += 1

    def _is_over(self) -> bool:
        steps, patience = self.config.train.total, self.config.train.patience
        return self.progress.step >= steps or (patience is not None and self.progress.stale >= patience)

    def _checkpoint(self) -> None:
        """Saves the selection first and then the state that refers to it, so that a crash between them is harmless."""
        progress = self.progress
        if progress.step == self._saved:
            return
        now = time.monotonic()
        progress.seconds, self._started = progress.seconds + now - self._started, now
        progress.window = self.window.saved(self.engine)
        self._saved = progress.step
        if not self.engine.is_main:
            return
        progress.metrics_bytes = self.folder.flush_metrics()
        if self.selected is not None and progress.best_step != self._saved_best:
            self.checkpoints.save_best(*self.selected)
            self._saved_best = progress.best_step
        tensors = {"model": self.state, "optimizer": optimizer_tensors(self.optimizer)}
        if self.averaged is not None:
            tensors["ema"] = self.averaged
        self.checkpoints.save(progress, tensors)

    def _load(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        load_weights(self.model, tensors["model"], self.checkpoints.folder)
        restore_optimizer(self.optimizer, tensors.get("optimizer", {}))
        if self.averaged is not None:
            for name, value in tensors["ema"].items():
                self.averaged[name].copy_(value)

    @contextlib.contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """The averaged weights in place of the running ones, where averaging is on."""
        if self.averaged is None:
            yield
            return
        running = {name: value.clone() for name, value in self.state.items()}
        self.model.load_state_dict(self.averaged)
        try:
            yield
        finally:
            self.model.load_state_dict(running)

    # Signals ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGTERM or SIGINT asks for a save after the running step; a second one exits at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: Any) -> None:
        if self._received and self.engine.world == 1:  # a launcher tells its processes more than once
            os._exit(128 + number)
        self._received = number

    def _signal_anywhere(self) -> int:
        """The signal that any process received, agreed by all; 0 for none."""
        return self._received if self.engine.world == 1 else int(self.engine.most(torch.tensor(self._received)))
