"""How the parts meet the loss: heads that are one or swapped, noise that costs nothing, a collapsed posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.finding import Finding
from ..codes import finding
from ..laws import Head
from .by_roles import ByRoles
from .subject import ROWS, Subject, added

COLLAPSED = 0.01  # nats a row, below which z tells nothing about x
LOOKED_AT = 64


def wired(subject: Subject) -> Iterator[Finding]:
    """Findings on the two heads."""
    if names := subject.parts.alike:
        yield finding(
            "KL005", "error", "mu and the second head are one tensor", measured=0.0,
            unit="difference between mu and the second head",
            evidence=f"{' and '.join(names)} agree in every entry, on weights moved at random",
            why="both heads come from the same layer, so the posterior has no spread of its own",
            advice="return self.fc_mu(h), self.fc_logvar(h)",
        )  # fmt: skip
        return
    run = subject.step.run
    if isinstance(run, ByRoles) and (order := run.crossed()):
        shown = {"mu": "the mean", "head": "the second head"}
        yield finding(
            "KL006", "warning", "returned in another order than the loss takes them", measured=2,
            unit="heads out of place",
            evidence=f"forward returns {shown[order[0]]} before {shown[order[1]]}, and {subject.step.name} takes "
            f"{' '.join(map(str, run.binding.arguments))}; audited here with each in its own place",
            why="a call by position, loss(recon, x, *rest), takes the mean for the second head",
            advice="return both in the loss's order: return recon, mu, logvar",
        )  # fmt: skip


def free_noise(subject: Subject, loss: Callable[..., Any]) -> Iterator[Finding]:
    """A learned noise scale that costs nothing: at x = output a Gaussian still has its log-determinant."""
    if "scale" not in subject.roles():
        return
    tape, roles = subject.recording(ROWS).tape, subject.roles()
    names = {"scale": "extra"}
    given = {r: torch.full(tape.at(subject.parts.keys(names.get(r, r))[0]).shape, 0.5) for r in roles[1:]}
    x = torch.full(subject.sized(ROWS).shape, 0.5)

    def at(residual: float, scale: float) -> float:
        moved = {**given, "scale": given["scale"] + scale}
        tensors = (x + residual, *(moved[role] for role in roles[1:]))
        return float(added(loss(*(t.to(subject.dtype) for t in tensors))))

    fit, apart = (at(residual, 1.0) - at(residual, 0.0) for residual in (0.0, 0.4))
    if abs(fit) <= 1e-6 * abs(apart):
        yield finding(
            "RE007", "error", "the learned noise has no log-determinant", measured=fit,
            unit="move of the loss with the noise, where output and data agree",
            evidence=f"the decoder's second output moved by 1: the loss moves by {fit:.3g} where x = output, and by "
            f"{apart:.3g} where they are 0.4 apart",
            why="more noise is free, so the decoder can make the residual vanish by predicting infinite noise",
            advice="add the log-determinant: 0.5 * (logvar_x + (x - mean_x) ** 2 / logvar_x.exp()).sum(1)",
        )  # fmt: skip


def collapsed(subject: Subject, data: Tensor | None, head: Head | None) -> Iterator[Finding]:
    """Posterior collapse on the user's own data; heads that begin at zero are no collapse, and give exactly 0 nats."""
    if data is None or head is None or subject.unfit():
        return
    rows = data[:LOOKED_AT].to(subject.x.dtype)
    tape = subject.record(rows.reshape(len(rows), *subject.x.shape[1:])).tape
    mu, second = (
        tape.at(subject.parts.keys(role)[0]).detach().double().numpy().reshape(len(rows), -1) for role in ("mu", "head")
    )
    with np.errstate(all="ignore"):
        each = 0.5 * (mu**2 + head.variance(second) - 1 - head.log_variance(second)).sum(1)
    if 1e-12 < each.mean() < COLLAPSED:
        yield finding(
            "MO001", "warning", "the posterior is the prior", measured=float(each.mean()), unit="nats of KL per row",
            evidence=f"{len(rows)} rows of the given data, the head read as {head.name}; the largest {each.max():.3g}",
            why="z says nothing about x: the posterior has collapsed, or the model is not trained yet",
            advice="weigh the divergence less at first (warm it up), sum the reconstruction over entries, or keep "
            "free bits",
        )  # fmt: skip
