"""Runs a K-sample objective on inputs of our making, and measures its slope in the log weight of every sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.finding import Finding
from .calls import Call, main_value, numbers
from .codes import finding
from .exact import FAMILIES, KnownVAE, array, own_randomness
from .frameworks import NumPy, candidates
from .weights import Seen

SAMPLES, BATCH, PIXELS, LATENTS = 5, 7, 6, 3  # all different, so that no two axes can be mixed up unseen
CALLS = 3

TERMS = {"log_w": 1.0, "log_px": 1.0, "log_joint": 1.0, "nll": -1.0, "log_pz": 1.0, "log_qz": -1.0, "kl": -1.0}
_LEADS = ("log_w", "log_px", "log_joint", "nll")
_TYPICAL = {"log_w": (-8, 1.5), "log_px": (-6, 1), "log_joint": (-8, 1), "nll": (6, 1), "log_pz": (-3, 1), "log_qz": (-1, 1), "kl": (2, 0.5)}


@dataclass(frozen=True)
class Form:
    """One reading of an objective's arguments, and what was seen under it.

    Args:
        name: What the arguments are read as.
        seen: One entry a call.
        exact: Whether the log weights are known with their constants.
        flaw: Whether the reading itself says that the weights are wrong.
        findings: On the terms.
    """

    name: str
    seen: tuple[Seen, ...]
    exact: bool
    flaw: bool = False
    findings: tuple[Finding, ...] = field(default=())


def from_terms(call: Call, axes: Sequence[int | None], seed: int, failures: list[Exception]) -> Iterator[Form]:
    """Forms of an objective of log weights, or of the terms that add up to them."""
    used = [role for role in TERMS if role in call.roles]
    if not any(role in _LEADS for role in used):
        raise BadInput("inputs", ", ".join(used), f"one of {', '.join(_LEADS)} must be among the terms")
    for axis in axes:
        for framework in candidates(call.fn, None):
            try:
                slopes = [_slopes(call, framework, used, axis == 1, seed + i) for i in range(CALLS)]
            except Exception as error:  # a stranger's code may raise anything
                failures.append(error)
                continue
            yield _form_of_terms(used, slopes, f"{' '.join(used)}, samples on axis {axis}")
            break


def _slopes(
    call: Call, framework: NumPy, used: list[str], turned: bool, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Terms [K, B], the slope of the returned number in each entry of each, and that number."""
    draw = np.random.default_rng(seed)
    terms = {role: draw.normal(*_TYPICAL[role], (SAMPLES, BATCH)) for role in used}
    given = {role: term.T if turned else term for role, term in terms.items()}

    def value(tensors: Mapping[str, Any]) -> Any:
        return call({"samples": SAMPLES, "beta": 1.0, "device": "cpu", "model": None, **tensors})

    def total(tensors: Mapping[str, Any]) -> Any:
        out = main_value(value(tensors))
        return out.sum() if hasattr(out, "sum") else out

    found = framework.gradients(total, given, used, "float64")
    if found is None:
        found = {role: _differences(lambda t: float(numbers(value(t)).sum()), given, role) for role in used}
    values = numbers(value({role: framework.make(term, "float32") for role, term in given.items()}))
    return terms, {role: slope.T if turned else slope for role, slope in found.items()}, values


def _differences(value: Callable[[Mapping[str, Any]], float], terms: Mapping[str, np.ndarray], role: str, step: float = 1e-5) -> np.ndarray:
    """Central differences in every entry of one term."""
    slope = np.zeros_like(terms[role])
    for index in np.ndindex(slope.shape):
        nudge = np.zeros_like(slope)
        nudge[index] = step
        slope[index] = (value({**terms, role: terms[role] + nudge}) - value({**terms, role: terms[role] - nudge})) / (2 * step)
    return slope


def _form_of_terms(used: list[str], calls: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]], name: str) -> Form:
    lead = next(role for role in _LEADS if role in used)
    slope = np.stack([found[lead] for _, found, _ in calls])
    ratio = {role: float((np.stack([f[role] for _, f, _ in calls]) * slope).sum() / max((slope**2).sum(), 1e-300)) for role in used}
    # A term without a slope still enters the weight where its gradient alone is stopped; its value is there.
    factors = {role: TERMS[role] if abs(ratio[role]) < 1e-6 else TERMS[lead] * ratio[role] for role in used}
    seen = tuple(
        Seen(np.asarray(sum(factors[role] * terms[role] for role in used)), TERMS[lead] * found[lead], values) for terms, found, values in calls
    )
    findings = tuple(_term_finding(role, TERMS[lead] * ratio[role]) for role in used if slope.any() and abs(TERMS[lead] * ratio[role] - TERMS[role]) > 1e-3)
    return Form(name, seen, True, any(item.severity == "error" for item in findings), findings)


def _term_finding(role: str, factor: float) -> Finding:
    due = TERMS[role]
    stopped = abs(factor) < 1e-6
    shared: dict[str, Any] = {
        "measured": factor,
        "unit": f"times {role} in the log weight",
        "evidence": f"slope in {role} over the slope in the leading term; the bound has {due:+g}",
        "advice": "log_w = log_px + log_pz - log_qz",
    }
    if stopped:
        why = "its gradient is stopped: the path derivative of log q (Roeder and others, 2017) where z carries the rest"
        return finding("GR001", "info" if role == "log_qz" else "warning", f"{role} without gradient", why=why, **shared)
    if factor * due < 0:
        return finding("UN002", "error", f"{role} enters with the wrong sign", why="a weight is p(x|z) p(z) / q(z|x)", **shared)
    return finding("UN002", "info", f"{role} is weighted", why="a declared weight trades the terms off, and it is no bound then", **shared)


def from_model(call: Call, seed: int, failures: list[Exception]) -> Iterator[Form]:
    """Forms of an objective that calls a model: the slopes are those in the outputs that the model was made to decode."""
    for kind in FAMILIES.values():
        try:
            pieces = [_run_model(call, kind, seed + i) for i in range(CALLS)]
        except Exception as error:  # a stranger's code may raise anything
            failures.append(error)
            continue
        count = tuple(_count(len(pieces[0].slopes))) if "samples" in call.roles else ()
        yield from _forms_of_pieces(pieces, f"linear {kind.family} model", True, count)


def _count(drawn: int) -> Iterator[Finding]:
    if drawn != SAMPLES:
        yield finding(
            "LI004", "warning", f"{drawn} samples for {SAMPLES} asked", measured=float(drawn), unit=f"samples for {SAMPLES} asked",
            evidence="latent vectors decoded for each row of the batch", why="the count never reaches the draw of z",
            advice="z = mu + std * torch.randn(K, *mu.shape)",
        )  # fmt: skip


@dataclass(frozen=True)
class Pieces:
    """Log-densities of one call by sample and row, [K, B]: log p(x|z), log p(z) - log q(z|x), and minus the divergence."""

    log_px: np.ndarray
    ratio: np.ndarray
    negative_kl: np.ndarray
    slopes: np.ndarray
    values: np.ndarray


def _model(kind: type[KnownVAE]) -> KnownVAE:
    """A known model that also answers to the settings which methods read from their own class."""
    model = kind(PIXELS, 0, torch.float64)
    for name in ("n_samples", "num_samples", "K", "k"):
        setattr(model, name, SAMPLES)
    model.beta = 1.0
    return model


def _run_model(call: Call, kind: type[KnownVAE], seed: int) -> Pieces:
    model = _model(kind)
    rows = model.sample(BATCH, seed)
    x = torch.from_numpy(rows)
    mu, logvar = model.encode(x)
    half, labels = BATCH // 2, torch.zeros(BATCH, dtype=torch.long)
    loader = [(x[:half], labels[:half]), (x[half:], labels[half:])]
    given = {"model": model, "x": x, "loader": loader, "samples": SAMPLES, "per_pass": SAMPLES, "mu": mu, "logvar": logvar, "head": logvar}
    given |= {"encode": model.encoder, "decode": model.decoder, "log_px": model.log_px_given_z, "device": model.device, "beta": 1.0}
    with own_randomness(seed):
        result = main_value(call(given | {"latents": model.latents, "pixels": model.pixels}))
    values = numbers(result)
    if not isinstance(result, Tensor) or not result.requires_grad:
        raise BadInput("returned value", type(result).__name__, "has no gradient", "leave no_grad and .item() to the caller")
    slopes = torch.autograd.grad(result.sum(), [output for _, output in model.decoded], allow_unused=True)
    used = [(z, output, slope) for (z, output), slope in zip(model.decoded, slopes, strict=True) if slope is not None]
    if not used:
        raise BadInput("model", "no decoded sample has a gradient", "the objective must decode z and weigh x by the output")
    z, output, slope = (array(torch.cat([t[i].as_subclass(Tensor).reshape(-1, t[i].shape[-1]) for t in used])) for i in range(3))
    order, share = _layout(model, rows, output, slope)
    return _pieces_of_model(model, rows, z[order], output[order], share, values)


def _layout(model: KnownVAE, rows: np.ndarray, output: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which decoded vector is which sample of which row [K, B], and the slope in each log p(x|z): the order that fits better."""
    if len(output) % BATCH:
        raise BadInput("samples", f"{len(output)} decoded vectors", f"no whole number for each of {BATCH} rows")
    index = np.arange(len(output))
    tried = []
    for order in (index.reshape(-1, BATCH), index.reshape(BATCH, -1).T):
        direction = _direction(model, rows, output[order])
        share = (slope[order] * direction).sum(-1) / (direction**2).sum(-1)
        tried.append((float(np.abs(slope[order] - share[..., None] * direction).max()), order, share))
    rest, order, share = min(tried, key=lambda item: item[0])
    if rest > 1e-3 * np.abs(slope).max():
        raise BadInput("model", "the gradient in the decoder's output", f"is not that of a {model.family} density")
    return order, share


def _direction(model: KnownVAE, rows: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The slope of log p(x|output) in every entry of the output."""
    leaf = torch.tensor(output, requires_grad=True)
    return torch.autograd.grad(model.log_density(torch.from_numpy(rows), leaf).sum(), leaf)[0].numpy()


def _pieces_of_model(
    model: KnownVAE, rows: np.ndarray, z: np.ndarray, output: np.ndarray, share: np.ndarray, values: np.ndarray
) -> Pieces:
    mean, std = model.posterior(rows)
    return Pieces(model.log_density(rows, output).sum(-1), *_latent_terms(z, mean, std), share, values)


def _latent_terms(z: np.ndarray, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p(z) - log q(z|x) [K, B], and minus the closed divergence, the same for every sample."""
    ratio = (-0.5 * z**2 + 0.5 * ((z - mean) / std) ** 2 + np.log(std)).sum(-1)
    closed = (0.5 * (mean**2 + std**2 - 1) - np.log(std) + 0 * z).sum(-1)
    return ratio, -closed


def _forms_of_pieces(calls: list[Pieces], name: str, exact: bool, common: tuple[Finding, ...] = ()) -> Iterator[Form]:
    """One form for each scale of the log-density and each latent term that strangers' code puts into the weights."""
    scales = {"": 1.0, ", squared error without the half": 2.0, ", mean over features": 1 / PIXELS, ", mean squared error": 2 / PIXELS}
    for (note, scale), latent in product(scales.items(), ("ratio", "negative_kl")):
        seen = tuple(Seen(scale * p.log_px + getattr(p, latent), p.slopes / scale, p.values) for p in calls)
        findings = tuple(_piece_findings(latent, scale))
        yield Form(name + note, seen, exact and scale == 1.0, bool(findings), common + findings)


def _piece_findings(latent: str, scale: float) -> Iterator[Finding]:
    if latent == "negative_kl":
        yield finding(
            "UN002", "error", "the divergence is in closed form inside the weights", measured=0.0,
            unit="nats by which the latent term differs between samples of a row",
            evidence="the slopes follow weights of log p(x|z) alone, and not those with log p(z) - log q(z|x) at the samples",
            why="a closed divergence is one number for all samples of a row, so their weights are not p(x, z) / q(z|x)",
            advice="log_w = log_px + log_pz - log_qz  # each at the sampled z",
        )  # fmt: skip
    if scale < 0.5:
        yield finding(
            "RE001", "error", "the log-density is averaged over features", measured=scale, unit="times log p(x|z)",
            evidence="the slopes follow weights whose log p(x|z) is scaled so",
            why="a mean over features shrinks log p(x|z) against log p(z) - log q(z|x), and flattens the weights",
            advice="log_px = -((x - x_hat) ** 2).sum(-1) / 2",
        )  # fmt: skip


LAYOUTS: dict[str, dict[str, str]] = {
    "[B, K, .]": {"output": "BKP", "x": "BP", "mu": "BKD", "z": "BKD"},
    "[B, K, .], x repeated": {"output": "BKP", "x": "BKP", "mu": "BKD", "z": "BKD"},
    "[B, K, .], x [B, 1, .]": {"output": "BKP", "x": "B1P", "mu": "BKD", "z": "BKD"},
    "[B, K, .], mu [B, .]": {"output": "BKP", "x": "BP", "mu": "BD", "z": "BKD"},
    "[B, K, .], mu [B, 1, .]": {"output": "BKP", "x": "B1P", "mu": "B1D", "z": "BKD"},
    "[K, B, .]": {"output": "KBP", "x": "BP", "mu": "BD", "z": "KBD"},
    "[K, B, .], all repeated": {"output": "KBP", "x": "KBP", "mu": "KBD", "z": "KBD"},
    "output [B K, .]": {"output": "(BK)P", "x": "BP", "mu": "BKD", "z": "BKD"},
    "[B K, .]": {"output": "(BK)P", "x": "(BK)P", "mu": "(BK)D", "z": "(BK)D"},
    "[K B, .]": {"output": "(KB)P", "x": "(KB)P", "mu": "(KB)D", "z": "(KB)D"},
    "[B, K, .], x and mu as they are": {"output": "(BK)P", "x": "BP", "mu": "BD", "z": "(BK)D"},
}


def from_pieces(call: Call, seed: int, failures: list[Exception]) -> Iterator[Form]:
    """Forms of an objective of the decoder's outputs, the data, the posterior and its draws, in every usual layout."""
    for (name, layout), kind in product(LAYOUTS.items(), FAMILIES.values()):
        try:
            pieces = [_run_pieces(call, kind, layout, seed + i) for i in range(CALLS)]
        except Exception as error:  # a stranger's code may raise anything
            failures.append(error)
            continue
        yield from _forms_of_pieces(pieces, f"{name}, {kind.family} output", False)


def _run_pieces(call: Call, kind: type[KnownVAE], layout: Mapping[str, str], seed: int) -> Pieces:
    draw = np.random.default_rng(seed)
    x = draw.uniform(0.05, 0.95, (BATCH, PIXELS))
    mean, log_variance = draw.normal(0, 0.7, (BATCH, LATENTS)), draw.normal(-0.5, 0.4, (BATCH, LATENTS))
    z = mean + np.exp(0.5 * log_variance) * draw.standard_normal((SAMPLES, BATCH, LATENTS))
    output = draw.uniform(0.1, 0.9, (SAMPLES, BATCH, PIXELS))
    whole = {"output": output, "x": np.broadcast_to(x, output.shape), "z": z, "mu": np.broadcast_to(mean, z.shape)}
    whole["head"] = np.broadcast_to(log_variance, z.shape)
    given = {role: torch.tensor(arranged(array_, layout["mu" if role == "head" else role])) for role, array_ in whole.items()}
    leaf = given["output"].requires_grad_()
    model = _model(kind)
    with own_randomness(seed), warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size")  # of shapes that do not belong together
        result = main_value(call(given | {"samples": SAMPLES, "beta": 1.0, "model": model, "device": model.device}))
    slope = torch.autograd.grad(result.sum(), leaf)[0].numpy()
    slope = restored(slope, layout["output"])
    direction = _direction(model, x, output)
    share = (slope * direction).sum(-1) / (direction**2).sum(-1)
    if np.abs(slope - share[..., None] * direction).max() > 1e-3 * np.abs(slope).max():
        raise BadInput("output", "the gradient", f"is not that of a {kind.family} density")
    ratio, negative_kl = _latent_terms(z, mean, np.exp(0.5 * log_variance))
    return Pieces(model.log_density(x, output).sum(-1), ratio, negative_kl, share, numbers(result))


def arranged(whole: np.ndarray, layout: str) -> np.ndarray:
    """[K, B, .] arranged as a layout says: B and K are axes, 1 an axis of one, a bracket one axis for two.

    Example:
        >>> arranged(np.zeros((5, 7, 3)), "(BK)D").shape, arranged(np.zeros((5, 7, 3)), "B1D").shape
        ((35, 3), (7, 1, 3))
    """
    if "K" not in layout:
        return np.ascontiguousarray(whole[0][:, None] if "1" in layout else whole[0])
    turned = whole if layout.index("K") < layout.index("B") else whole.swapaxes(0, 1)
    return np.ascontiguousarray(turned.reshape(-1, whole.shape[-1]) if "(" in layout else turned)


def restored(given: np.ndarray, layout: str) -> np.ndarray:
    """The inverse of `arranged` for a layout with both axes: [K, B, .]."""
    first = layout.index("K") < layout.index("B")
    split = given.reshape(*((SAMPLES, BATCH) if first else (BATCH, SAMPLES)), given.shape[-1])
    return split if first else split.swapaxes(0, 1)
