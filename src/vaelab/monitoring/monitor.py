"""`Monitor`: watches any training loop, a stranger's too, at next to no cost, and says what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import BadInput, did_you_mean
from ..core.finding import Finding
from .causes import explained
from .culprit import bad_data, behind, find_culprit
from .looks import Looks
from .rules import judge
from .trace import ROLES, Trace, from_columns
from .units import at_ends
from .windows import HIGHEST, MOMENTS, Windows

LOOK_EVERY = 100  # steps; a look takes about a step
MOST_EVENTS = 1000
MOST_REPLAYS = 3  # the first non-finite steps tell; after them the weights are usually gone
MOST_PENDING = 2**20  # entries of mu kept until they are added up: 4 MiB
STRAINED = 60.0  # a log-variance beyond ±60 is none of data: e^30 is a deviation of 10^13
MOVED = 0.01  # a beta this share away from its last value is still on its way
TERMS = ("loss", "reconstruction", "kl")
Number = float | Tensor | np.ndarray

JUDGED = {
    "loss": "the curve (loss)",
    "kl": "collapse (kl, or mu and log_var)",
    "update_ratio": "the length of the steps (model)",
    "held_out_loss": "overfitting (held_out)",
}
ENOUGH_ROWS = 50  # of a few rows most lie at the ends of their range
MUCH_FROZEN = 0.2  # of all entries: a part that was trained elsewhere rarely stands in the model itself


class Monitor:
    """Keeps the numbers of a training as sums and counts, and judges them.

    `update` is called once a step, best between `backward` and the optimiser's step, with whatever is at hand; nothing
    is required. A number may be a float, a tensor or an array; one value per row is averaged. Nothing that is kept
    holds a graph, and a device is waited for once in a window only.

    Args:
        latent_dim: Dimensions of z; None: from the first `mu`.
        every: Steps of a window, which becomes a point of the curves; None: a two-hundredth of `total_steps`, or 10.
        warmup_steps: Steps until the weight of the KL has its final value; a beta passed to `update` tells too.
        total_steps: Steps that are planned; None where nobody knows.

    Example:
        >>> monitor = Monitor(latent_dim=2)
        >>> for step in range(100):
        ...     monitor.update(step, loss=10.0, kl=0.0, mu=torch.zeros(8, 2), log_var=torch.zeros(8, 2), beta=4.0)
        >>> [finding.code for finding in monitor.findings if finding.severity == "error"]
        ['TR121']
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        *,
        every: int | None = None,
        warmup_steps: int = 0,
        total_steps: int | None = None,
    ) -> None:
        for name, value in (("latent_dim", latent_dim), ("every", every), ("total_steps", total_steps)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise BadInput(name, value, "must be a whole number of at least 1, or None")
        self.latent_dim, self.warmup_steps, self.total_steps = latent_dim, warmup_steps, total_steps
        self.events: list[dict[str, Any]] = []
        self._windows = Windows(every or max(1, total_steps // 200 if total_steps else 10))
        self._pending: dict[str, list[Any]] = {}
        self._entries = 0  # of mu that are pending
        self._updates = 0
        self._looks: Looks | None = None

    def update(
        self,
        step: int,
        *,
        loss: Number | None = None,
        reconstruction: Number | None = None,
        kl: Number | None = None,
        mu: Tensor | np.ndarray | None = None,
        log_var: Tensor | np.ndarray | None = None,
        std: Tensor | np.ndarray | None = None,
        model: nn.Module | None = None,
        beta: Number | None = None,
        learning_rate: float | None = None,
        gradient_norm: Number | None = None,
        held_out: Number | Mapping[str, Number] | None = None,
        codes: Tensor | np.ndarray | None = None,
        codebook_size: int | None = None,
        batch: Tensor | None = None,
        replay: Callable[..., Tensor] | None = None,
    ) -> None:
        """Takes in a step.

        Args:
            step: Its number; numbers rise.
            loss: What is minimised.
            reconstruction: -log p(x|z) in nats per sample.
            kl: KL(q(z|x) || p(z)) in nats per sample; [B, L] gives it per dimension.
            mu: Mean of q(z|x), [B, L].
            log_var: Log-variance of q(z|x), [B, L]; or `std`, its deviation.
            model: For gradients, the size of a step, dead units and parameters that are never reached.
            beta: Weight of the KL at this step.
            gradient_norm: Before clipping; None: from `model` at sampled steps.
            held_out: The loss on held-out rows, or a mapping: loss, error, reconstruction, kl.
            codes: Numbers of the codes that were chosen, of any shape; `codebook_size` is how many there are.
            batch: Rows of the step, to be searched should the loss not be finite.
            replay: The loss again, of `batch` where that is given; then layer and operation of a NaN are found.

        Raises:
            BadInput: for a mu of another size than `latent_dim`, or an unknown held-out number.
        """
        self._updates += 1
        given = {"loss": loss, "reconstruction": reconstruction, "kl": kl, "gradient_norm": gradient_norm}
        given |= {"beta": beta, "learning_rate": learning_rate}
        numbers = {role: _number(value) for role, value in given.items() if value is not None}
        window = self._windows.current
        suspects = Suspects(log_var, std, model, batch, replay)
        if bad := [role for role, value in numbers.items() if isinstance(value, float) and not math.isfinite(value)]:
            self._refused([{"what": "not_finite", "step": step, "numbers": bad}], suspects)
            return
        window.step, window.steps = step, window.steps + 1
        for role, value in numbers.items():
            self._pending.setdefault(role, []).append(value)
        if kl is not None and np.ndim(kl) == 2:
            self._pending.setdefault("kl_per_dimension", []).append(_tensor(kl).mean(0))
        if mu is not None and (log_var is not None or std is not None):
            self._posterior(mu, log_var, std)
        if held_out is not None:
            self._held_out(held_out)
        if codes is not None:
            self._codes(codes, codebook_size)
        if model is not None:
            self._look(model)
        if self._windows.full or self._entries > MOST_PENDING:
            self._refused(self._settle(), suspects)
        if self._windows.full:
            self._windows.close()

    @property
    def trace(self) -> Trace:
        """Everything that is known, as the rules read it."""
        self._refused(self._settle(), None)
        columns = self._windows.columns()
        return from_columns(
            columns,
            events=tuple(self.events),
            warmup_ends=max(self.warmup_steps, _still_moving(columns.get("beta", []))),
            total=self.total_steps,
            latent=self.latent_dim,
        )

    @property
    def findings(self) -> list[Finding]:
        """What is wrong, and what to try first; empty where nothing is."""
        trace = self.trace
        unreached = _unreached(self._looks) if self._updates > trace.warmup_ends else ()
        return explained([*judge(trace), *unreached])

    def report(self) -> str:
        """The findings as text."""
        findings = self.findings
        seen = f"{self._updates} steps seen"
        given = self.trace
        blind = [words for role, words in JUDGED.items() if not given.has(role)]
        fine = "nothing is wrong" + f" in what was given; not judged: {'; '.join(blind)}" * bool(blind)
        return "\n".join([seen, *map(str, findings)]) if findings else f"{seen}: {fine}"

    __str__ = report

    def lightning(self, names: Mapping[str, str] | None = None) -> Any:
        """This monitor as a callback of Lightning; see `vaelab.monitoring.callbacks.lightning_callback`."""
        from .callbacks import lightning_callback

        return lightning_callback(self, names)

    def hugging_face(self, names: Mapping[str, str] | None = None) -> Any:
        """This monitor as a callback of a Trainer; see `vaelab.monitoring.callbacks.trainer_callback`."""
        from .callbacks import trainer_callback

        return trainer_callback(self, names)

    # What a step brings -------------------------------------------------------------------------------------------

    def _posterior(self, mu: Any, log_var: Any, std: Any) -> None:
        """Keeps mu and log-variance until the window is full: adding them up at once takes a tenth of the time."""
        mean = _tensor(mu).flatten(1)
        self.latent_dim = self.latent_dim or mean.shape[1]
        if mean.shape[1] != self.latent_dim:
            raise BadInput("mu", f"shape {tuple(np.shape(mu))}", f"rows must have {self.latent_dim} latent dimensions")
        spread = _tensor(log_var) if log_var is not None else 2 * _tensor(std).log()
        self._pending.setdefault("mu", []).append(mean)
        self._pending.setdefault("log_variance", []).append(spread.flatten(1).expand_as(mean))
        self._entries += mean.numel()

    def _held_out(self, given: Any) -> None:
        numbers = given if isinstance(given, Mapping) else {"loss": given}
        for name, value in numbers.items():
            role = f"held_out_{name}"
            if role not in ROLES:
                known = [known.removeprefix("held_out_") for known in ROLES if known.startswith("held_out_")]
                raise BadInput("held_out", name, "no such number", did_you_mean(name, known))
            self._windows.current.add(role, np.asarray(_plain(value), np.float64))

    def _codes(self, codes: Any, size: int | None) -> None:
        if size is None:
            raise BadInput("codebook_size", None, "is needed beside codes", "such as codebook_size=512")
        used = torch.bincount(_tensor(codes).flatten().long(), minlength=size)
        self._windows.current.add("codes", used.cpu().numpy().astype(np.float64))

    def _look(self, model: nn.Module) -> None:
        """At the first steps, further and further apart, and then every 100 steps a look at the model."""
        if self._looks is None or self._looks.model is not model:
            self._looks = Looks(model)
        looks, updates = self._looks, self._updates
        if looks.open:
            for role, value in looks.end().items():
                if math.isfinite(value) and not (role == "gradient_norm" and role in self._pending):
                    self._windows.current.add(role, value)
        if updates % LOOK_EVERY == 0 or (updates < LOOK_EVERY and updates & (updates - 1) == 0):
            looks.start()

    def _settle(self) -> list[dict[str, Any]]:
        """Adds up what is pending, which alone waits for a device; returns an event for each loss that is NaN."""
        window, pending = self._windows.current, self._pending
        self._pending, self._entries = {}, 0
        if "mu" in pending:
            mu, log_variance = torch.cat(pending.pop("mu")), torch.cat(pending.pop("log_variance"))
            parts = (mu, mu.square(), log_variance.exp(), log_variance)
            for role, part in zip(MOMENTS, parts, strict=True):
                window.add(role, part.sum(0, dtype=torch.float64).cpu().numpy(), len(part))
            if len(mu) >= ENOUGH_ROWS:
                window.add("means_at_ends", at_ends(mu).cpu().numpy() * len(mu), len(mu))
        lost = 0
        for role, values in pending.items():
            points = _on_host(values)
            kept = points[np.isfinite(points).reshape(len(points), -1).all(1)]
            if len(kept):
                window.add(role, kept.sum(0), len(kept))
            if len(kept) and role in HIGHEST:
                window.top(HIGHEST[role], float(kept.max()))
            lost = max(lost, len(points) - len(kept) if role in TERMS else 0)
        return [{"what": "not_finite", "step": window.step}] * lost

    def _refused(self, events: list[dict[str, Any]], suspects: Suspects | None) -> None:
        """Notes steps that are not finite, with the culprit of the first of them; later ones are laid to the last."""
        known = self.events[-1] if self.events else {}
        if events and suspects is not None and len(self.events) < MOST_REPLAYS:
            known = suspects.culprit() or known
        for event in events:
            del self.events[MOST_EVENTS - 1 :]
            self.events.append({**known, **event})


@dataclass(frozen=True)
class Suspects:
    """What was passed of a step that may tell who made it non-finite."""

    log_var: Any
    std: Any
    model: nn.Module | None
    batch: Tensor | None
    replay: Callable[..., Tensor] | None

    def culprit(self) -> dict[str, Any]:
        """By replaying the step where that is possible; else from batch, weights and log-variances alone."""
        found = bad_data(self.batch) or {}
        if not found and self.replay is not None and self.model is not None:
            found = find_culprit(self.replay, self.model, self.batch)
        elif not found and self.model is not None and (reasons := behind(self.model, self.batch)):
            return {"cause": reasons[0], "text": reasons[1]}
        # Weights that are not finite after the optimiser's step do not tell what was wrong with the step.
        if found.get("cause", "rate") == "rate" and (size := self._strain()) > STRAINED:
            found = {"cause": "variance", "text": f"log-variances reach {size:.3g} in absolute value"}
        return found

    def _strain(self) -> float:
        """The largest log-variance in absolute value; infinite for a deviation of 0 or infinity."""
        if self.log_var is None and self.std is None:
            return 0.0
        values = _tensor(self.log_var) if self.log_var is not None else 2 * _tensor(self.std).log()
        values = values[~values.isnan()].abs()
        return float(values.max()) if len(values) else 0.0


def _number(value: Any) -> float | Tensor:
    """The mean over rows: a float, or a tensor [] that a device still computes."""
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value)
    if value.ndim:
        value = value.detach().flatten(1).sum(1).mean() if value.ndim > 1 else value.detach().mean()
    return value.item() if value.device.type == "cpu" else value.detach()


def _tensor(value: Any) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _on_host(values: list[Any]) -> np.ndarray:
    """[n] or [n, L] from so many floats or tensors, with a single wait for the device."""
    if isinstance(values[0], Tensor):
        return torch.stack(values).double().cpu().numpy()
    return np.array(values)


def _still_moving(betas: list[tuple[float, Any]]) -> int:
    """The last step at which the weight of the KL was not yet what it is in the end; 0 where it never moved."""
    if not betas:
        return 0
    end = betas[-1][1]
    return int(max((step for step, beta in betas if abs(beta - end) > MOVED * abs(end)), default=0))


def _unreached(looks: Looks | None) -> list[Finding]:
    """Parameters that never get a gradient, get one and do not move, or are not to be trained."""
    if looks is None:
        return []
    found = [
        Finding(
            code,
            "warning",
            f"{title} {_first(names)}",
            float(len(names)),
            f"of {looks.parameters} parameters",
            evidence=evidence,
            why=why,
            advice=advice,
            expected=expected,
        )
        for names, code, title, evidence, why, advice, expected in (
            (
                looks.unreached,
                "TR141",
                "the loss never reaches",
                "no gradient, or one of exactly 0, at every look",
                "they are not used in the loss, or a detach, a no_grad or dead units stand in between",
                "use them in the loss, or take them out of the model and the optimiser",
                "a gradient for every parameter",
            ),
            (
                looks.unmoved,
                "TR143",
                "parameters do not move, as if frozen:",
                "a gradient and no change at every look",
                "they were not given to the optimiser, its step is not called, or the learning rate is 0",
                "give the optimiser all of model.parameters()",
                "every parameter moves",
            ),
        )
        if names
    ]
    if looks.frozen:
        found.append(
            Finding(
                "TR142",
                "warning" if looks.frozen_share > MUCH_FROZEN else "info",
                f"parameters are frozen: {_first(looks.frozen)}",
                100 * looks.frozen_share,
                "% of the parameters' entries",
                why="requires_grad is False, so that the optimiser leaves them as they are",
                advice="set requires_grad to True, unless they come trained from elsewhere",
            )
        )
    return found


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
