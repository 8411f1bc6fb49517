"""The audit of a whole model: its own step with mu, the second head and the output given, and what surrounds it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import BadInput, one_line
from ...core.finding import Finding
from ..care import Failed, same_randomness, time_limit
from ..laws import HEADS, Head
from ..loss import audit_loss
from ..report import AuditReport
from .keras_model import audit_keras, is_keras
from .optimisers import optimisers_of
from .sampler import audit_sampler, by_name, clamp_finding, clamp_of, measured_reading, read_head
from .sandbox import Sealed, Snapshot, batches, borrowed, constructed, copied, doubled, seeded
from .steps import Step, find_step, forward_of, stub_trainer
from .structure import audit_structure, joined, noisy_evaluation, start_of, two_modes
from .subject import ROWS, Subject, added
from .wiring import collapsed, free_noise, wired

SAMPLER_ROWS = 64
LARGE = 1e6  # entries of one step's tensors beyond which z is drawn in fewer rows at a time
BUDGET = 20.0  # seconds after which no further part of the audit is begun


def audit_model(
    model: Any,
    *,
    data: Any = None,
    loss: Callable[..., Any] | None = None,
    inputs: str | None = None,
    constants: Mapping[str, Any] | None = None,
    declared_beta: float | None = None,
    optimizer: Any = None,
    seed: int = 0,
    seconds: float = 60.0,
    **loss_options: Any,
) -> AuditReport:
    """Audits a model as it stands: its loss, how it draws z, and what ignores what. It is neither trained nor changed.

    Args:
        model: A torch module (a Lightning module too), a Keras model, or a class that can be made without further word.
        data: A batch [B, ...] as the model takes it, or a tuple of which the first entry is the data; None: made up, in
            (0, 1).
        loss: The loss, where the model has none of its own; its parameters are found by their names, and one named
            `model` is given the model.
        inputs: Roles of the loss's parameters in order, such as "output x mu head".
        constants: Values of further parameters of the loss, by name.
        declared_beta: As in the audit of a loss.
        optimizer: The optimiser, or several, to see whether a parameter is left out.
        seed: Of the made-up data.
        seconds: Time limit.
        loss_options: Passed on to the audit of the loss.

    Raises:
        BadInput: for what is no such model, refuses the data, or has no code z.
    """
    if is_keras(model):
        return audit_keras(model, data=data, declared_beta=declared_beta, seed=seed, **loss_options)
    module = constructed(model)
    if loss is None and inputs is not None and not any(True for _ in module.parameters()):
        return audit_loss(
            module, inputs=inputs, constants=constants, declared_beta=declared_beta, data=data, **loss_options
        )
    with warnings.catch_warnings(), same_randomness(), borrowed(module) as work, torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            with time_limit(seconds):
                bench = Bench.open(work, data, loss, inputs, dict(constants or {}), seed, seconds)
            held = optimisers_of(module, work, optimizer)
            return bench.report(type(module).__name__, held, declared_beta, loss_options)
        except Failed as late:
            raise BadInput("model", None, str(late), "raise seconds=, or pass a smaller model") from None


# ------------------------------------------------------------------------------------------------------------ the bench
@dataclass
class Bench:
    """The subject in double precision where the model allows it, and in its own."""

    subject: Subject
    native: Subject
    forward: Callable[[Tensor], Any]
    data: Tensor | None
    reopened: Callable[[], Subject]
    seconds: float
    until: float

    @classmethod
    def open(
        cls,
        work: nn.Module,
        data: Any,
        loss: Callable[..., Any] | None,
        inputs: str | None,
        constants: dict[str, Any],
        seed: int,
        seconds: float,
    ) -> Bench:
        """Finds a batch, a step and the parts of a model."""
        until = time.monotonic() + BUDGET
        first, rest = (data[0], tuple(data[1:])) if isinstance(data, (tuple, list)) else (data, ())
        given = None if first is None else _tensor(first)

        def opened(model: nn.Module, training: bool = True) -> tuple[Subject, Callable[[Tensor], Any]]:
            return _subject(model, given, rest, loss, inputs, constants, seed, training)

        native, forward = opened(work)
        try:
            subject, forward = opened(doubled(work))
        except Failed:
            raise
        except Exception:  # whatever cannot be copied, or mixes precisions
            subject = native
        return cls(subject, native, forward, given, lambda: opened(copied(subject.model), False)[0], seconds, until)

    # ------------------------------------------------------------------------------------------------------ the report
    def report(
        self, name: str, optimisers: Iterable[Any], declared_beta: float | None, options: dict[str, Any]
    ) -> AuditReport:
        """All findings in one report."""
        about = self._loss_report(name, declared_beta, options)
        checks: dict[str, Callable[[], Iterable[Finding]]] = {
            "the draws of z": lambda: self._sampler(about),
            "the wiring of the heads": lambda: wired(self.subject),
            "what the model does besides its loss": lambda: audit_structure(self.native, self.data, optimisers),
            "the learned noise": lambda: self._noise(about),
            "the posterior on the given data": lambda: collapsed(self.native, self.data, self._head(about)),
            "evaluation mode": lambda: noisy_evaluation(self.subject, self.forward),
            "the loss at start": lambda: start_of(self.native, about.reconstruction, about.unit),
            "the two modes": self._modes,
        }
        found, skipped = _all_of(checks, self.seconds, self.until)
        told = {f.code for f in found if f.severity == "error"} & {"RE003", "RE007"}  # here with its cause
        about = replace(about, findings=tuple(f for f in about.findings if f.code not in told))
        notes = (
            f"the loss is that of {self.subject.step.name}" if self.subject.step.has_loss else NO_LOSS,
            *self._where(),
            *(f"{what} could not be examined: {why}" for what, why in skipped.items()),
        )
        return joined(replace(about, subject=name, notes=(*notes, *about.notes)), found, tuple(skipped))

    def _where(self) -> tuple[str, ...]:
        parts = self.subject.parts
        return tuple(f"{role} is {path}" for role, path in parts.paths.items() if path)

    def _loss_report(self, name: str, declared_beta: float | None, options: dict[str, Any]) -> AuditReport:
        if not self.subject.step.has_loss:
            return AuditReport(name, f"{NOTHING}; the loss was not", (), notes=())
        if reason := self.subject.unfit():
            return _untaken(name, reason)
        given = None if self.data is None else self.data.detach().cpu().numpy()
        family = "categorical" if not self.subject.x.is_floating_point() else None
        try:
            return audit_loss(
                self.loss(), inputs=" ".join(self.subject.roles()), sizes=self.subject.sizes(), data=given, name=name,
                declared_beta=declared_beta, fixed=("pixels", "latents"), framework="torch",
                **{"family": family, **options},
            )  # fmt: skip
        except BadInput as refused:
            return _untaken(name, str(refused))

    def loss(self) -> Callable[..., Any]:
        """The step as a function of its roles, in the precision of what it is given.

        Raises:
            BadInput: for double precision where the model mixes precisions.
        """
        by_dtype = {s.x.dtype if s.x.is_floating_point() else s.dtype: s for s in (self.native, self.subject)}
        calls = {dtype: subject.loss() for dtype, subject in by_dtype.items()}
        until = time.monotonic() + self.seconds / 2

        def model_loss(*tensors: Tensor) -> Any:
            if time.monotonic() > until:
                raise Failed(f"the time limit of {self.seconds / 2:g} s is over")
            dtype = tensors[2].dtype
            if dtype not in calls:
                raise BadInput("model", str(dtype), "does not run in this precision")
            return calls[dtype](*tensors)

        return Sealed(model_loss, getattr(self.subject.step.run, "loss", None))

    def _modes(self) -> Iterable[Finding]:
        """The loss in evaluation mode; a model whose parts cannot be told there has nothing to compare."""
        if not self.subject.step.has_loss:
            return []
        try:
            evaluation = self.reopened()
        except Exception:  # whatever a stranger's model raises in evaluation mode, or when copied
            return []
        return two_modes(self.subject, evaluation)

    # ------------------------------------------------------------------------------------------------------ the sampler
    def _sampler(self, about: AuditReport) -> list[Finding]:
        parts = self.subject.parts
        if parts.z is None or len(parts.keys("head")) == 0 or self.subject.unfit():
            return []
        latents = self.subject.sizes()["latents"]
        width = int(np.prod(latents))

        def sample(mu: np.ndarray, head: np.ndarray, seed: int) -> np.ndarray:
            given = {"mu": torch.from_numpy(mu), "head": torch.from_numpy(head)}
            z = self.subject.run(given, "z", len(mu), seed).double().numpy()
            return z.reshape(-1, *mu.shape)[0]

        head, said_by = self._reading(about, sample, width)
        found = audit_sampler(sample, self._rows, width, head, said_by, self.subject.step.has_loss)
        if head.log_kind == "linear" and not {"SA001", "SA003"} & {f.code for f in found}:
            found += self._clamps(sample, width, head)
        return found

    def _reading(self, about: AuditReport, sample: Any, width: int) -> tuple[Head, str]:
        """How the divergence reads the head: as measured, or as its name says, or as the draws themselves have it."""
        if about.second_head is not None and (known := by_name(about.second_head)) is not None:
            return known, "the divergence as measured"
        path = self._head_name
        if (named := read_head(path)) is not None:
            return named, f"its name {path}"
        return measured_reading(sample, self._rows, width) or HEADS[0], "the draws themselves"

    @property
    def _rows(self) -> int:
        """Rows of one draw of z."""
        return SAMPLER_ROWS if self.subject.work < LARGE else ROWS

    @property
    def _head_name(self) -> str:
        return self.subject.parts.paths.get("head", "").split(":")[0].split(".")[-1]

    def _head(self, about: AuditReport) -> Head | None:
        """The reading of the head by the divergence, else by its name."""
        return by_name(about.second_head or "") or read_head(self._head_name)

    def _noise(self, about: AuditReport) -> Iterable[Finding]:
        told = bool(about.framework) and about.reconstruction == "unknown"
        return free_noise(self.subject, self.loss()) if told else []

    def _clamps(self, sample: Any, width: int, head: Head) -> Iterator[Finding]:
        for side in (-1.0, 1.0) if self.subject.step.has_loss else ():
            threshold = clamp_of(sample, self._rows, width, head, side)
            if threshold is not None and (slope := self._slope(head, side * 14.0)):
                yield clamp_finding(threshold, slope)

    def _slope(self, head: Head, lv: float) -> float:
        """The loss's slope in the head far out, with the output held."""
        subject, loss = self.subject, self.subject.loss()
        shape = (ROWS, *subject.sizes()["latents"])
        zeros, x = torch.zeros(shape, dtype=subject.dtype), subject.sized(ROWS)
        output = torch.full(
            subject.recording(ROWS).tape.at(subject.parts.keys("output")[0]).shape, 0.5, dtype=subject.dtype
        )
        at = torch.full(shape, float(head.from_log_variance(np.array(lv))), dtype=subject.dtype, requires_grad=True)
        seeded(0)
        given = {"x": x, "output": output, "mu": zeros, "head": at, "z": zeros, "scale": output}
        value = added(loss(*(given[role] for role in subject.roles())))
        return float(torch.autograd.grad(value, at)[0].sum()) if value.requires_grad else 0.0


def _all_of(
    checks: Mapping[str, Callable[[], Iterable[Finding]]], seconds: float, until: float
) -> tuple[list[Finding], dict[str, str]]:
    """Findings of all checks, and the reason for each that a stranger's model, or the time, does not let through."""
    found: list[Finding] = []
    skipped: dict[str, str] = {}
    for name, check in checks.items():
        if time.monotonic() > until:
            skipped[name] = f"{BUDGET:g} s were over"
            continue
        try:
            with time_limit(seconds):
                found += check()
        except Exception as error:
            skipped[name] = f"{type(error).__name__}: {one_line(str(error))[:160]}"
    return found, skipped


def _untaken(name: str, reason: str) -> AuditReport:
    """A report on a model whose loss is not audited, which the verdict says."""
    told = f"its loss could not be taken apart: {reason}"
    return AuditReport(name, f"{NOTHING}; its loss could not be taken apart, so it was not", (), notes=(told,))


NOTHING = "nothing wrong with what was looked at"
NO_LOSS = "no loss was found in the model: its loss is not audited, pass loss="


def _tensor(given: Any) -> Tensor:
    """Given data as a tensor.

    Raises:
        BadInput: for what is no array of numbers [B, ...].
    """
    try:
        made = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    except (TypeError, ValueError) as error:
        raise BadInput("data", type(given).__name__, f"must be an array of numbers [B, ...] ({error})") from error
    if made.ndim < 2 or not len(made):
        raise BadInput(
            "data",
            f"shape {tuple(made.shape)}",
            "must be a batch [B, ...] with at least one row",
            "reshape it, or add the first axis",
        )
    return made.detach()


def _subject(
    model: nn.Module, given: Tensor | None, rest: tuple[Any, ...], loss: Callable[..., Any] | None, inputs: str | None,
    constants: dict[str, Any], seed: int, training: bool,
) -> tuple[Subject, Callable[[Tensor], Any]]:  # fmt: skip
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def cast(item: Any) -> Any:
        return item.to(dtype) if isinstance(item, Tensor) and item.is_floating_point() else item

    model.train(training)
    model.zero_grad()
    stub_trainer(model)
    rest, state = tuple(map(cast, rest)), Snapshot(model)
    first: BadInput | None = None
    for x in map(cast, batches(model, given, ROWS, seed)):
        try:
            forward = forward_of(model, x, rest)
            paths = partial(_paths, model, x, forward)
            step = find_step(model, x, forward, rest, loss, inputs, constants, paths)
            state.restore()  # the calls that were tried have moved counters and running means
            return Subject(model, x, step), forward
        except BadInput as error:  # another shape may be taken, or another kind of data be within the support
            first = first or error
    rule, fix = "has no layer to read the shape of its data from", "pass data=, a batch"
    if not any(True for _ in model.parameters()):
        rule = "has no weights: a model is asked for, or a module whose forward is a loss"
        fix = 'name the order of what forward takes, such as inputs="(output mu head) x" or inputs="output x mu head"'
    raise first or BadInput("model", type(model).__name__, rule, fix)


def _paths(model: nn.Module, x: Tensor, forward: Callable[[Tensor], Any]) -> Mapping[str, str]:
    """Names under which the parts are seen in a forward pass."""
    return Subject(model, x, Step("forward", forward, False)).parts.paths
