"""The one training loop: steps, not epochs; nothing non-finite enters the weights; a step follows from its number."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.config import Config
from ..core.errors import Diverged, Interrupted
from ..data.batches import Rows
from ..measure.bound import selected_by
from ..models.vae import Model
from ..monitoring.culprit import find_culprit
from ..objectives.base import Objective
from ..schedules import Schedule
from .ahead import Ahead, room
from .average import Averaged
from .checkpoint import Checkpoints, Progress, load_weights
from .controllers import Weighting
from .engine import Engine
from .evaluate import evaluate, evaluated_rows
from .folder import RunFolder
from .graph import CudaGraph
from .optimizer import AdamW
from .remedies import MOST_ROLLBACKS, acquitted, gone_back, leave_out, lower, recovered, refusals
from .show import Display
from .signals import Signals
from .step import Draws, Step, relative_change
from .tuning import Pace
from .window import Window, means_of

MOST_REPLAYED = 3  # refused steps that are done again to find the culprit: a run that skips hundreds stays fast


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
        objective: Objective,
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
        self.player = objective if isinstance(objective, nn.Module) else nn.Module()
        self.opponents = [p for p in self.player.parameters() if p.requires_grad]
        self.optimizer = AdamW(self.parameters, train.weight_decay)
        self.opponent = AdamW(self.opponents, train.weight_decay, len(self.parameters))
        inference = {p for part in ("encoder", "classifier") for p in getattr(model, part, nn.Module()).parameters()}
        self.others = [parameter for parameter in self.parameters if parameter not in inference]
        self.state = model.state_dict()  # shares memory with the model: its weights and what it saves besides
        self.buffers = [*model.buffers(), *self.player.buffers()]  # those too that are not saved
        self.averaged = Averaged(model, train.ema) if train.ema else None
        self.draws = Draws(rows, train.batch_size, objective.samples, config.seed, engine)
        self.decay = Schedule(train.schedule, 1.0, 1.0 if train.schedule == "constant" else 0.0, train.total)
        self.warmup = Schedule("linear", 0.0, 1.0, train.warmup_steps)
        self.checkpoints = Checkpoints(folder.path / "checkpoints")
        self.bound_samples = getattr(objective, "bound_samples", 1)
        self.progress, self.window = Progress(), Window()
        self.selected: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._used: dict[str, float] = {}  # the weights of the last step that was taken
        self._measured: dict[str, float] = {}  # of the last step alone, where a line of metrics follows it
        self._saved: int | None = None  # the step of the last checkpoint, and of the last selection, that is on disk
        self._saved_best: int | None = None
        self.signals = Signals(engine)
        self.weighting = Weighting(objective, config, shift)
        self.reads_late, self._looks = engine.device.type == "cuda", False
        self.ahead = Ahead(self, CudaGraph if self.reads_late and train.cuda_graph else None)
        self.pace = Pace(self._every("log_every", 200))
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
        self.model.train()
        with self.signals.heard():
            if self.progress.step == 0:
                self._regular_checkpoint()
            while not self._is_over():
                start = time.perf_counter()
                taken = self._go()
                self.pace.add(time.perf_counter() - start, taken)
                self.progress.step += taken
                if taken:
                    self._due(self.progress.step)
                if number := self.signals.anywhere():
                    self._checkpoint()
                    name, step = signal.Signals(number).name, self.progress.step
                    raise Interrupted(f"{name}: saved at step {step}; continue with --resume", number)
        return self.progress

    def _go(self) -> int:
        """Takes the next step, or several whose numbers are read together; returns how many."""
        count = 1 if self._looks else room(self)
        if count == 1:
            self._looks = False
            return int(self._advance(self.progress.step))
        taken = self.ahead.take(count)
        self._looks = taken < count  # the next one is not finite, and is done again by itself
        return taken

    def restore(self, newest: int | None = None) -> list[str]:
        """Continues from the newest whole checkpoint; returns a line for each damaged one passed over.

        Args:
            newest: Take none of a later step; None takes any.

        A run that was killed before its first checkpoint starts from the beginning.
        """
        if not any(self.checkpoints.folder.glob("step-*")):
            self.folder.cut_metrics(0)
            return []
        progress, tensors, damaged = self.checkpoints.load_last(newest)
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
        batch, weights = self._draw(number), self.weighting(number, self.progress)
        before = [buffer.clone() for buffer in self.buffers]
        loss, record = self._gradients(batch, weights)
        norm, others = (self.norm_of(parameters) for parameters in (self.parameters, self.opponents))
        size = norm.item()
        if not self._finite(loss + size + others.item()):
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)
            return self._refuse(number, loss, size)
        if acquitted(self.progress):
            self._event("recovered", number, factor=self.progress.rate_factor)
        clip = self.config.train.clip_norm or math.inf
        clipped = size > clip
        self._update(number, norm / clip if clipped else None)
        self.window.add(record, loss=loss, gradient_norm=size, clipped=float(clipped))
        self._used = weights
        if self.weighting.controller is not None:
            self.weighting.observe(self.progress, means_of(record, self.engine))
        return True

    def _update(self, number: int, divisor: Tensor | None) -> None:
        """Calls the optimiser; where a line of metrics follows, the size of the change is measured too."""
        before, rate = self._before_update(number), self._rate(number)
        given = torch.tensor(rate, device=self.engine.device) if self.ahead.replays else rate  # the same bits
        self._move(given, divisor, None, self._encoder_only(number))
        self._after_update(number, before)

    def _before_update(self, number: int) -> list[Tensor]:
        """The parameters, where a line of metrics follows that says by how much they moved."""
        logged = (number + 1) % self._every("log_every", 200) == 0
        return [parameter.detach().clone() for parameter in self.parameters] if logged else []

    def _move(self, rate: float | Tensor, divisor: Tensor | None, refused: Tensor | None, encoder_only: bool) -> None:
        """Moves the parameters of all players along their gradients."""
        if encoder_only:
            for parameter in self.others:
                parameter.grad = None  # the optimiser passes over it
        self.optimizer.step(rate, divisor, refused)
        if self.opponents:
            self.opponent.step(rate, None, refused)

    def _after_update(self, number: int, before: list[Tensor]) -> None:
        """Notes by how much the parameters moved, and takes them into their average."""
        self._measured = {"update_ratio": relative_change(before, self.parameters)} if before else {}
        if self.averaged is not None:
            self.averaged.update(number)

    def _draw(self, number: int) -> tuple[Tensor | Batch, Tensor | None]:
        """This process's share of the rows of a step and of their base noise; both are functions of the number."""
        return self.draws(number, getattr(self.model, "noise_size", None))

    def _gradients(
        self, batch: tuple[Tensor | Batch, Tensor | None], weights: dict[str, float]
    ) -> tuple[float, list[Any]]:
        """Gradients of the global batch's mean loss; returns that loss (this process's part) and what to record."""
        (x, noise), count = batch, self.config.train.accumulate
        self.optimizer.zero_grad()
        self.opponent.zero_grad()
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

    @staticmethod
    def norm_of(parameters: Sequence[Tensor]) -> Tensor:
        """Of all gradients together; 0 where there are none."""
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def _finite(self, value: float) -> bool:
        if self.engine.world == 1:
            return math.isfinite(value)
        return bool(self.engine.total(torch.tensor(float(not math.isfinite(value)))) == 0)

    def _encoder_only(self, number: int) -> bool:
        """Whether step `number` moves the encoder alone (He et al., Lagging Inference Networks, 2019)."""
        train = self.config.train
        return number < train.aggressive_until and number % train.aggressive != train.aggressive - 1

    def _rate(self, number: int) -> float:
        train = self.config.train
        return train.rate * self.progress.rate_factor * self.warmup(number + 1) * self.decay(number)

    # What a non-finite number does --------------------------------------------------------------------------------

    def _refuse(self, number: int, loss: float, norm: float) -> bool:
        """The optimiser is not called: the weights are those before the step, bit for bit."""
        progress, policy = self.progress, self.config.train.on_nan
        progress.refused += 1
        culprit = self._culprit(number)
        self._event("refused", number, loss=loss, gradient_norm=norm, **culprit)
        what = f"step {number}: the loss is {loss:.6g}, the gradient's norm {norm:.6g}"
        what += f"; {culprit['text']}" if culprit else ""
        if policy == "skip" or (policy == "rollback" and leave_out(progress, number)):
            self._event("skipped", number)
            self.display.say(f"{what}; step skipped")
            return True
        if policy == "rollback" and progress.rollbacks < MOST_ROLLBACKS:
            self._roll_back(number, what, passing=culprit.get("cause") == "gone")
            return False
        self._checkpoint()
        if self.engine.is_main:
            self.folder.flush_metrics()
        lower = min(self._rate(number) / 10, 1e-3)
        raise Diverged(
            f"{what}; the weights before it are saved; try train.learning_rate={lower:.1g}, or "
            "train.on_nan=skip or rollback, and look at the data for that step"
        )

    def _culprit(self, number: int) -> dict[str, Any]:
        """What made the step not finite, found by doing it again, and its rows in the data; {} where not asked."""
        if self.engine.world > 1 or self.progress.refused > MOST_REPLAYED:
            return {}
        weights, (x, noise) = self.weighting(number, self.progress), self._draw(number)

        def again(part: Tensor) -> Tensor:
            self.draws.seed_others(number)
            return self.step(part, weights, None if noise is None else noise[:, : len(part)])[0]

        found = find_culprit(again, self.model, x)
        return {**found, "data_rows": self.rows.places(self.draws.order.batch(number)[found["rows"]].numpy()).tolist()}

    def _roll_back(self, number: int, what: str, passing: bool) -> None:
        """Goes back to the last checkpoint reached without a fault, and saves there what is known now."""
        lower(self.progress, number, passing)
        now, happened = self.progress, self._refusals()
        if self.engine.is_main and now.anchor is not None:
            self.checkpoints.forget_after(now.anchor)  # first: they count on lines of metrics that are about to be cut
        self.engine.total(torch.zeros(1))  # no process reads before that
        self.restore(now.anchor)
        self.progress = gone_back(now, self.progress)
        step, factor = self.progress.step, self.progress.rate_factor
        for line in happened[len(self._refusals()) :]:
            self.folder.add_metrics(line)
        self._event("rollback", number, to=step, factor=factor)
        self.engine.total(torch.zeros(1))  # all processes have read the checkpoint before one of them replaces it
        self._saved = None
        self._checkpoint()
        if self.engine.is_main:
            self.checkpoints.forget_after(step)
        self.display.say(f"{what}; back to step {step} with the learning rate times {factor:.3g}")

    def _refusals(self) -> list[dict[str, Any]]:
        """The events on disk that going back does not undo."""
        if not self.engine.is_main:
            return []
        self.folder.flush_metrics()
        return refusals(self.folder.metrics())

    def _event(self, what: str, step: int, **facts: Any) -> None:
        """A line of metrics for what happens once."""
        self.folder.add_metrics({"kind": "event", "what": what, "step": step, **facts})

    # What is due between steps ------------------------------------------------------------------------------------

    def _every(self, name: str, times: int) -> int:
        return getattr(self.config.train, name) or max(1, self.config.train.total // times)

    @property
    def _evaluate_every(self) -> int:
        """Fifty times a run; as few as ten where a quarter of the time would go there, a row forward being a third."""
        total, rows = self.config.train.total, evaluated_rows(self.held_out, self.bound_samples)
        cheap = 4 * rows // (3 * self.config.train.batch_size)
        return self.config.train.evaluate_every or max(1, total // 50, min(cheap, total // 10))

    def _due(self, step: int) -> None:
        if step % self._every("log_every", 200) == 0:
            self._log(step)
        if step % self._evaluate_every == 0 or step == self.config.train.total:
            self._evaluate()
        if step % self._every("checkpoint_every", 10) == 0 or self._is_over():
            self._regular_checkpoint()

    def _log(self, step: int) -> None:
        line = self.window.line(self.engine, self.shift) | self._measured
        line |= {"learning_rate": self._rate(step - 1), **self._used}
        slowed = self.pace.slowed()
        if slowed is not None and torch.get_num_threads() > 1:
            why = f"another process may use a core that one of {torch.get_num_threads()} threads waits for"
            self.display.say(f"step {step}: steps take {slowed:.1f} times as long as before; {why}: train.threads=1")
        self.window, self._measured = Window(), {}
        self.folder.add_metrics({"kind": "train", "step": step, **line})
        self.display.train(step, line)

    def _evaluate(self) -> None:
        """The held-out bound at beta = 1, whatever the training weight; the best one selects the weights.

        Where the objective is an importance-weighted bound of several samples, that one selects; of a Wasserstein
        autoencoder the reconstruction does.
        A run with a target keeps its last weights: those of a better bound have another rate than was asked for.
        """
        progress = self.progress
        with self.averaged.in_place() if self.averaged is not None else contextlib.nullcontext():
            measured = evaluate(
                self.model,
                self.held_out,
                seed=self.config.seed,
                engine=self.engine,
                shift=self.shift,
                bound_samples=self.bound_samples,
                charged=self.config.objective.selects_by_bound,
            )
            self.folder.add_metrics({"kind": "held_out", "step": progress.step, **measured})
            self.display.held_out(progress.step, measured, self.model)
            _, value, _ = selected_by(measured)
            if math.isfinite(value) and (self.weighting.controller or progress.best is None or value < progress.best):
                progress.best, progress.best_step, progress.stale = value, progress.step, 0
                weights = {name: value.clone() for name, value in self.state.items()}
                self.selected = (weights, {"step": progress.step, **measured})
            elif progress.step > self.weighting.settled(progress):
                progress.stale += 1
        if self.weighting.restarts(progress, measured["active_units"]):
            self._event("annealed", progress.step, steps=progress.anneal_steps)
            self.display.say(f"step {progress.step}: no dimension is in use; the weight of the KL rises again from 0")

    def _is_over(self) -> bool:
        steps, patience = self.config.train.total, self.config.train.patience
        return self.progress.step >= steps or (patience is not None and self.progress.stale >= patience)

    def _regular_checkpoint(self) -> None:
        """The checkpoint at a fixed step; reached without a fault it is one to go back to."""
        if not self.progress.trial:
            self.progress.anchor = self.progress.step
            if recovered(self.progress):
                self._event("recovered", self.progress.step, factor=self.progress.rate_factor)
        self._checkpoint()

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
        tensors = {"model": self.state, "optimizer": self.optimizer.tensors() | self.opponent.tensors()}
        if player := self.player.state_dict():
            tensors["objective"] = player
        if self.averaged is not None:
            tensors["ema"] = self.averaged.values
        self.checkpoints.save(progress, tensors)

    def _load(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        load_weights(self.model, tensors["model"], self.checkpoints.folder)
        if "objective" in tensors:
            load_weights(self.player, tensors["objective"], self.checkpoints.folder)
        for optimizer in (self.optimizer, self.opponent):
            optimizer.load(tensors.get("optimizer", {}))
        if self.averaged is not None:
            self.averaged.load(tensors["ema"])
