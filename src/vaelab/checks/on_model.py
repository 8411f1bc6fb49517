"""Checks of a model by one step of its training: does it run, does the gradient arrive, do x and z count?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..core.batch import Batch, beside, rows_of
from ..core.errors import one_line
from ..core.finding import Finding
from ..data.tables import listed
from ..monitoring.culprit import find_culprit
from .at_start import check_start
from .step import (
    SAFE_RATE,
    Step,
    Watched,
    described,
    first_constant,
    is_constant,
    stepped,
    trainable,
    undisturbed,
    watch,
)

SETTLING_STEPS = 3  # a last layer that starts at zero blocks the gradient, and x and z, for its first step
PRIOR_DEVIATIONS = 3.0  # codes that far out cover all that the prior gives


def check_model(step: Step, baseline: float | None = None) -> list[Finding]:
    """One step's findings; where it fails or is not finite, that alone.

    Args:
        baseline: Negative log-likelihood of the best decoder that ignores z, held-out, nats per sample.
    """
    seen = watch(step)
    broken = list(_broken(step, seen))
    if broken:
        return broken
    findings = [*_unreached(step, seen), *_frozen(step)]
    if step.draw is not None:
        findings += [*_dead(step), *_cut(step), *check_start(step, baseline)]
    return findings


# The step itself ------------------------------------------------------------------------------------------------------


def _unfit(step: Step) -> int:
    """Entries of the batch that are not finite, and that the likelihood has no place for; a missing one may have."""
    rows = rows_of(step.batch)
    holds = getattr(getattr(getattr(step.model, "decoder", None), "likelihood", None), "holds", torch.isfinite)
    return int((~rows.isfinite() & ~holds(rows)).sum())


def _broken(step: Step, seen: Watched) -> Iterator[Finding]:
    where = f" in {seen.module}" if seen.module else ""
    if seen.failure is not None:
        text = one_line(str(seen.failure).strip().splitlines()[0] if str(seen.failure).strip() else "no message")
        yield Finding(
            "CH101",
            "error",
            f"the {seen.stage} pass fails{where}",
            evidence=f"a batch of shape {tuple(step.batch.shape)}",
            why=f"{type(seen.failure).__name__}: {text}",
            advice=f"mend{where.removeprefix(' in') or ' the loss'}, and check again",
        )
    elif bad := _unfit(step):
        yield Finding(
            "CH102",
            "error",
            "the batch itself holds entries that are not finite",
            float(bad),
            f"of {step.batch.numel()} entries",
            why="one such entry makes the loss, and every gradient, not finite",
            advice="fill or drop the rows: they are a missing value, a division by 0 or an overflow in preparing them",
        )
    elif seen.loss is not None and seen.loss - seen.loss != 0:
        culprit = find_culprit(lambda x: step.loss(step.model, x), step.model, step.batch)
        layer = culprit["layer"] or "the loss"
        yield Finding(
            "CH103",
            "error",
            f"the loss is NaN or infinite at the start, in {layer}{BROKEN.get(culprit['cause'], '')}",
            culprit["largest_input"],
            f"is the largest number that goes into {layer}",
            evidence=culprit["text"],
            why="finite data met a weight, an exponential, a logarithm or a division that leaves the numbers' range",
            advice=f"clamp what goes into it, or scale it down: {layer}",
        )
    elif names := seen.not_finite:
        yield Finding(
            "CH104",
            "error",
            f"gradients are not finite: {listed(names)}",
            float(len(names)),
            f"of {len(seen.gradients)} parameters",
            evidence=f"the loss is {seen.loss:.6g}",
            why="the loss is finite and its slope is not, as with a square root or a logarithm at 0",
            advice="add a small constant inside the root or the logarithm, or clamp its argument",
        )
    elif seen.gradients and all(gradient is None for gradient in seen.gradients.values()):
        yield Finding(
            "CH105",
            "error",
            "the loss depends on no parameter",
            0.0,
            f"of {len(seen.gradients)} parameters",
            why="the graph is cut between the model and the loss: detach(), item(), numpy() or no_grad()",
            advice="keep everything between model and loss a tensor, outside torch.no_grad()",
        )


BROKEN = {"variance": ": a variance overflows or shrinks to 0", "rate": ": weights are infinite or far too large"}


def _unreached(step: Step, seen: Watched) -> Iterator[Finding]:
    """Parameters without a gradient, at the start and after steps that let a zero last layer open."""
    names = seen.unreached
    if not names:
        return
    settled = stepped(step, SETTLING_STEPS, SAFE_RATE)
    if settled is not None:
        names &= watch(Step(settled[0], step.loss, step.batch, seed=step.seed), seed=1).unreached
    if not names:
        return
    total = sum(p.numel() for p in step.model.parameters())
    share = sum(p.numel() for n, p in step.model.named_parameters() if n in names) / total
    yield Finding(
        "CH106",
        "warning",
        f"the loss never reaches {_grouped(step.model, names)}",
        100 * share,
        "% of the parameters",
        evidence=f"no gradient, or exactly 0, in {1 + (settled is not None)} steps",
        why="a part that is not called, whose output is not used, or behind units that are off for every row",
        advice="use the part's output in the loss, or remove it",
    )


def _frozen(step: Step) -> Iterator[Finding]:
    """Parameters of encoder and decoder that do not learn; of the whole module where it has no such parts."""
    parts = tuple(f"{n}." for n in ("encoder", "decoder") if isinstance(getattr(step.model, n, None), nn.Module))
    inside = {n: p for n, p in step.model.named_parameters() if not parts or n.startswith(parts)}
    names = {name for name, parameter in inside.items() if not parameter.requires_grad}
    if names:
        share = sum(inside[name].numel() for name in names) / sum(p.numel() for p in step.model.parameters())
        yield Finding(
            "CH107",
            "error" if len(names) == len(inside) else "warning",
            f"parameters are frozen: {_grouped(step.model, names)}",
            100 * share,
            "% of the parameters",
            why="requires_grad is False there, so training leaves them at their start",
            advice="parameter.requires_grad_(True), unless they were trained before",
            expected="they change, and the loss falls further",
        )


# Do x and z count? ----------------------------------------------------------------------------------------------------


def _dead(step: Step) -> Iterator[Finding]:
    """An encoder that ignores x, a decoder that ignores z; asked again after steps that let a zero layer open."""
    for code, title, ignores, why in DEAD:
        where = ignores(step, step.model)
        if where is None:
            continue
        settled = stepped(step, SETTLING_STEPS, SAFE_RATE)
        if settled is not None and (where := ignores(step, settled[0])) is None:
            continue
        yield Finding(
            code,
            "error",
            f"{title}{f', from {where} on' if where else ''}",
            0.0,
            "variance over rows" if code == "CH108" else "variance over codes",
            evidence=f"asked at the start and after {SETTLING_STEPS} steps" if settled else "asked at the start",
            why=why,
            advice=f"look at {where or 'what is passed on'}: units that are off for every row, a weight of 0, a wrong "
            "input or a cut graph",
            expected="outputs that differ from row to row",
        )


@torch.no_grad()
def _encoder_ignores(step: Step, model: nn.Module) -> str | None:
    """The module from which on rows no longer differ ("" for none in particular); None if they do."""
    assert step.draw is not None
    draw, batch = step.draw, _alike(step.batch)
    if is_constant(rows_of(batch)):
        return None
    with undisturbed(model, step.seed):
        model.eval()
        posterior = draw(model, batch).posterior
        if not is_constant(posterior.mean, float(posterior.variance.mean())):
            return None
        encoder = getattr(model, "encoder", None)
        rows = len(batch)
        return first_constant(encoder, lambda: draw(model, batch), rows) if isinstance(encoder, nn.Module) else ""


def _alike(batch: Tensor | Batch) -> Tensor | Batch:
    """Rows under the condition of the first, so that nothing else tells them apart."""
    return Batch(batch.x, batch.condition[:1].expand_as(batch.condition)) if isinstance(batch, Batch) else batch


@torch.no_grad()
def _decoder_ignores(step: Step, model: nn.Module) -> str | None:
    assert step.draw is not None
    decode = getattr(model, "decode", None)
    if not callable(decode):
        return None
    with undisturbed(model, step.seed):
        model.eval()
        z = PRIOR_DEVIATIONS * torch.randn_like(step.draw(model, step.batch).z[:1])
        given = beside(_alike(step.batch))
        if z.shape[1] < 2 or not is_constant(decode(z, *given).mean[0]):
            return None
        return first_constant(model, lambda: decode(z, *given), z.shape[1])


DEAD: tuple[tuple[str, str, Callable[[Step, nn.Module], str | None], str], ...] = (
    (
        "CH108",
        "the encoder gives every row the same code",
        _encoder_ignores,
        "the mean of q(z|x) does not depend on x, so z can carry nothing and the model learns one row for all",
    ),
    (
        "CH109",
        "the decoder gives every code the same row",
        _decoder_ignores,
        "the output does not depend on z, so the code is unused and every sample is the same",
    ),
)


def _cut(step: Step) -> Iterator[Finding]:
    """A decoder that listens to z, and a gradient that does not come back through z."""
    draw, encoder = step.draw, getattr(step.model, "encoder", None)
    assert draw is not None
    inside = {f"encoder.{name}" for name in trainable(encoder)} if isinstance(encoder, nn.Module) else set()
    fit = Step(step.model, lambda model, x: -draw(model, x).log_px.mean(), step.batch, draw, step.seed)
    if not inside or not inside <= watch(fit).unreached or _decoder_ignores(step, step.model) is not None:
        return
    yield Finding(
        "CH120",
        "error",
        "the reconstruction does not reach the encoder",
        0.0,
        f"of {len(inside)} parameters of the encoder get a gradient from -log p(x|z)",
        why="z carries no gradient, as when it is detached or drawn with sample() in place of rsample()",
        advice="z = mean + deviation * noise, without detach() or no_grad()",
        expected="a divergence that rises as the code learns to say something",
    )


def _grouped(model: nn.Module, names: set[str]) -> str:
    """Parameters by name; a module all of whose parameters are among them stands for them."""
    whole: list[str] = []
    for path, module in model.named_modules():
        inside = {f"{path}.{name}" if path else name for name, _ in module.named_parameters()}
        if path and inside and inside <= names:
            whole.append(described(path, module))
            names = names - inside
    return listed(whole + sorted(names))
