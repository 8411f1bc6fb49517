"""Runs a K-sample objective of a model, or of its outputs, and measures its slope in each sample's log p(x|z)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ...core.errors import BadInput
from ...core.finding import Finding
from ..codes import finding
from .calls import Call, main_value, numbers
from .exact import FAMILIES, KnownVAE, array, own_randomness
from .weights import BATCH, CALLS, LATENTS, PIXELS, SAMPLES, Form, Seen


def from_model(call: Call, seed: int, failures: list[Exception]) -> Iterator[Form]:
    """Forms of an objective that calls a model: the slopes are those in the outputs it had the model decode."""
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
            "LI004", "warning", f"{drawn} samples for {SAMPLES} asked",
            measured=float(drawn), unit=f"samples for {SAMPLES} asked",
            evidence="latent vectors decoded for each row of the batch", why="the count never reaches the draw of z",
            advice="z = mu + std * torch.randn(K, *mu.shape)",
        )  # fmt: skip


@dataclass(frozen=True)
class Pieces:
    """One call by sample and row, [K, B]: log p(x|z), log p(z) - log q(z|x), minus the divergence; and the slopes."""

    log_px: np.ndarray
    ratio: np.ndarray
    negative_kl: np.ndarray
    slopes: np.ndarray
    values: np.ndarray


def _model(kind: type[KnownVAE]) -> KnownVAE:
    """A known model that also answers to the settings which methods read from their own class."""
    model = kind(PIXELS, 0, torch.float64)
    for name, value in {**dict.fromkeys(("n_samples", "num_samples", "K", "k"), SAMPLES), "beta": 1.0}.items():
        setattr(model, name, value)
    return model


def _run_model(call: Call, kind: type[KnownVAE], seed: int) -> Pieces:
    model = _model(kind)
    rows = model.sample(BATCH, seed)
    x = torch.from_numpy(rows)
    mu, logvar = model.encode(x)
    half, labels = BATCH // 2, torch.zeros(BATCH, dtype=torch.long)
    loader = [(x[:half], labels[:half]), (x[half:], labels[half:])]
    given = {"model": model, "x": x, "loader": loader, "samples": SAMPLES, "per_pass": SAMPLES, "beta": 1.0}
    given |= {"mu": mu, "logvar": logvar, "head": logvar, "device": model.device}
    given |= {"encode": model.encoder, "decode": model.decoder, "log_px": model.log_px_given_z}
    with own_randomness(seed):
        result = main_value(call(given | {"latents": model.latents, "pixels": model.pixels}))
    values = numbers(result)
    if not isinstance(result, Tensor) or not result.requires_grad:
        raise BadInput("returned value", type(result).__name__, "has no gradient", "return the tensor itself")
    slopes = torch.autograd.grad(result.sum(), [output for _, output in model.decoded], allow_unused=True)
    used = [(z, output, slope) for (z, output), slope in zip(model.decoded, slopes, strict=True) if slope is not None]
    if not used:
        raise BadInput("model", None, "no decoded sample has a gradient", "decode z inside the objective")
    z, output, slope = (
        array(torch.cat([part.as_subclass(Tensor).reshape(-1, part.shape[-1]) for part in parts]))
        for parts in zip(*used, strict=True)
    )
    order, share = _layout(model, rows, output, slope)
    log_px = model.log_density(rows, output[order]).sum(-1)
    return Pieces(log_px, *_latent_terms(z[order], *model.posterior(rows)), share, values)


def _layout(model: KnownVAE, rows: np.ndarray, output: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which decoded vector is which sample of which row [K, B], and the slope in each log p(x|z): what fits better."""
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


def _latent_terms(z: np.ndarray, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p(z) - log q(z|x) [K, B], and minus the closed divergence, the same for every sample."""
    ratio = (-0.5 * z**2 + 0.5 * ((z - mean) / std) ** 2 + np.log(std)).sum(-1)
    closed = (0.5 * (mean**2 + std**2 - 1) - np.log(std) + 0 * z).sum(-1)
    return ratio, -closed


_SCALES = {
    "": 1.0,
    ", squared error without the half": 2.0,
    ", mean over features": 1 / PIXELS,
    ", mean squared error": 2 / PIXELS,
}  # of the log-density, as strangers' code has it


def _forms_of_pieces(calls: list[Pieces], name: str, exact: bool, common: tuple[Finding, ...] = ()) -> Iterator[Form]:
    """One form for each scale of the log-density and each latent term that may stand in the weights."""
    for (note, scale), latent in product(_SCALES.items(), ("ratio", "negative_kl")):
        seen = tuple(Seen(scale * p.log_px + getattr(p, latent), p.slopes / scale, p.values) for p in calls)
        findings = tuple(_piece_findings(latent, scale))
        yield Form(name + note, seen, exact and scale == 1.0, flaw=bool(findings), findings=common + findings)


def _piece_findings(latent: str, scale: float) -> Iterator[Finding]:
    if latent == "negative_kl":
        yield finding(
            "UN002", "error", "the divergence is in closed form inside the weights", measured=0.0,
            unit="nats by which the latent term differs between samples of a row",
            evidence="the slopes follow weights of log p(x|z) alone, without log p(z) - log q(z|x) at the samples",
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


IMAGE = (1, 2, 3)  # of PIXELS entries

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
    "[B, K, image]": {"output": "BKI", "x": "BI", "mu": "BKD", "z": "BKD"},
    "output [B K, image]": {"output": "(BK)I", "x": "BI", "mu": "BKD", "z": "BKD"},
    "output and z [B K, .]": {"output": "(BK)P", "x": "BP", "mu": "BD", "z": "(BK)D"},
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
    layout = {**layout, "head": layout["mu"]}
    given = {role: torch.tensor(arranged(values, layout[role])) for role, values in whole.items()}
    leaf = given["output"].requires_grad_()
    model = _model(kind)
    with own_randomness(seed), warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size")  # of shapes that do not belong together
        result = main_value(call(given | {"samples": SAMPLES, "beta": 1.0, "model": model, "device": model.device}))
    slope = restored(torch.autograd.grad(result.sum(), leaf)[0].numpy(), layout["output"])
    direction = _direction(model, x, output)
    share = (slope * direction).sum(-1) / (direction**2).sum(-1)
    if np.abs(slope - share[..., None] * direction).max() > 1e-3 * np.abs(slope).max():
        raise BadInput("output", "the gradient", f"is not that of a {kind.family} density")
    ratio, negative_kl = _latent_terms(z, mean, np.exp(0.5 * log_variance))
    return Pieces(model.log_density(x, output).sum(-1), ratio, negative_kl, share, numbers(result))


def arranged(whole: np.ndarray, layout: str) -> np.ndarray:
    """[K, B, .] arranged as a layout says: B and K are axes, 1 an axis of one, a bracket one axis for two, I an image.

    Example:
        >>> [arranged(np.zeros((5, 7, 6)), layout).shape for layout in ("(BK)P", "B1P", "BKI")]
        [(35, 6), (7, 1, 6), (7, 5, 1, 2, 3)]
    """
    if "K" not in layout:
        turned = whole[0][:, None] if "1" in layout else whole[0]
    else:
        turned = whole if layout.index("K") < layout.index("B") else whole.swapaxes(0, 1)
        turned = turned.reshape(-1, whole.shape[-1]) if "(" in layout else turned
    return np.ascontiguousarray(turned.reshape(*turned.shape[:-1], *IMAGE) if "I" in layout else turned)


def restored(given: np.ndarray, layout: str) -> np.ndarray:
    """The inverse of `arranged` for a layout with both axes: [K, B, .]."""
    first = layout.index("K") < layout.index("B")
    split = given.reshape(*((SAMPLES, BATCH) if first else (BATCH, SAMPLES)), -1)
    return split if first else split.swapaxes(0, 1)
