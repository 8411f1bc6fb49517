"""Judgements on the weight of the divergence: what it depends on, its distance from the declared one, its unit."""

from __future__ import annotations

from itertools import product
from math import isfinite, sqrt

import numpy as np

from ..core.finding import Finding, Severity
from .case import Case, near
from .codes import finding
from .measured import Measured

KNOWN = {
    "pixels": (784, 1024, 3072, 4096, 12288, 16384, 49152, 150528, 196608),
    "batch": (8, 16, 32, 50, 64, 100, 128, 144, 200, 256, 500, 512, 1000, 1024),
    "latents": (8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256, 512),
}
FACTOR = 3.0  # how far beta may be from the declared one before that alone is an error
NOISE_RANGE = (1e-3, 1.0)  # standard deviations of the noise that some data can have, in units of the data's scale


def sizes(case: Case) -> list[Finding]:
    """What effective beta depends on that nobody declared."""
    family = case.m.reconstruction.family
    if family is None or family.wrong == "RE007" or case.m.divergence.form is None:
        return []
    hard = _hard_coded(case)
    excused = {size for size, _ in hard[1]}
    trap = any(f.severity == "warning" for f in hard[0])
    return [
        *hard[0],
        *_batch(case, trap),
        *([] if "pixels" in excused else _pixels(case)),
        *([] if "latents" in excused else _latents(case)),
    ]


def _hard_coded(case: Case) -> tuple[list[Finding], list[tuple[str, int]]]:
    """Sizes at which beta is just the declared one, where they are sizes that tutorials use.

    Plain means have natural numbers, such as P / (2 D), and are left to the findings on reductions.
    """
    sizes = case.m.probe.layout.sizes
    moving = {size: case.exponent(size) for size in KNOWN if abs(case.exponent(size)) > 0.5}
    rest = case.beta / case.declared if case.declared > 0 else 0.0
    for size, exponent in moving.items():
        rest /= sizes[size] ** exponent
    plain = any(near(rest, natural, 5e-3) for natural in (1, 0.5, 2))
    if not moving or plain or rest <= 0 or ("latents" in moving and len(moving) > 1):
        return [], []
    targets = (1.0, 0.5) if case.m.reconstruction.family and case.m.reconstruction.family.noise else (1.0,)
    for target, values in product(targets, product(*(KNOWN[size] for size in moving))):
        at = dict(zip(moving, values, strict=True))
        if near(rest * np.prod([float(v) ** moving[s] for s, v in at.items()]), target, 2e-3):
            return [_hard_coded_at(case, at, target)], list(at.items())
    return [], []


def _hard_coded_at(case: Case, at: dict[str, int], target: float) -> Finding:
    where = " and ".join(f"{size} = {value}" for size, value in at.items())
    here = all(case.m.probe.layout.sizes[size] == value for size, value in at.items())
    severity: Severity = "warning" if here else "error"
    return finding(
        "KL008",
        severity,
        f"beta is {target * case.declared:g} at {where} alone",
        measured=case.beta,
        unit=f"is beta at {case.here}",
        interval=case.spread,
        evidence=_exponents(case),
        why="a number of one data set stands in the code where the size belongs",
        advice="take the size from the tensor: x[0].numel(), len(x), mu.shape[1]",
    )


def _batch(case: Case, trap: bool) -> list[Finding]:
    exponent = case.exponent("batch")
    if abs(exponent) < 0.05:
        return []
    severity: Severity = "warning" if trap or (case.matches and case.explicit and case.declared != 1) else "error"
    terms = _terms(case, "batch")
    return [
        finding(
            "KL004",
            severity,
            f"beta goes with the batch to the power {exponent:.3g}",
            measured=case.beta,
            unit=f"is beta at {case.here}",
            interval=case.spread,
            evidence=terms,
            why="one term is averaged over the batch and the other is not, so a short last batch has another beta",
            advice="sum both over the dimensions of a sample, then average both over the batch",
        )
    ]


def _pixels(case: Case) -> list[Finding]:
    axes = {name: s for name, s in case.m.scaling.items() if name.startswith("pixels") and abs(s.beta) > 0.05}
    if not axes:
        return []
    mixed = any(name.startswith("pixels axis") for name in axes)
    up = all(s.beta > 0 for s in axes.values())
    declared = case.explicit and case.declared != 1 and case.matches
    single = mixed and all(case.m.probe.layout.data[int(name.split()[-1])] == 1 for name in axes)
    severity: Severity = "info" if declared or single else "error"
    found = []
    plain = not case.m.reconstruction.columns and not single
    if plain and up and any(s.reconstruction < -0.05 for s in axes.values()):
        found.append(
            finding(
                "RE001",
                severity,
                f"beta grows with {' and '.join(axes)}",
                measured=case.beta,
                unit=f"is beta at {case.here}",
                interval=case.spread,
                evidence=_terms(case, *axes),
                why=f"the reconstruction is averaged over {' and '.join(axes)} of x"
                + (" while the divergence is a sum over latents" if case.exponent("latents") > -0.05 else ""),
                advice=SUMS[family_of(case)],
            )
        )
    if mixed or not found:
        found.append(
            finding(
                "RE008",
                severity,
                "some entries of x weigh more than others"
                if case.m.reconstruction.columns
                else f"{' and '.join(axes)} reduced unlike the rest",
                measured=case.beta,
                unit=f"is beta at {case.here}",
                interval=case.spread,
                evidence=_terms(case, *axes),
                why="some axes of one sample are summed and others averaged",
                advice="sum over all axes of a sample, average over the batch alone",
            )
        )
    return found


def _latents(case: Case) -> list[Finding]:
    exponent = case.exponent("latents")
    if abs(exponent) < 0.05:
        return []
    severity: Severity = "info" if case.explicit and case.declared != 1 and case.matches else "error"
    code = "KL003" if exponent < 0 else "RE008"
    return [
        finding(
            code,
            severity,
            f"beta goes with the number of latents to the power {exponent:.3g}",
            measured=case.beta,
            unit=f"is beta at {case.here}",
            interval=case.spread,
            evidence=_terms(case, "latents"),
            why="the divergence of a sample is the sum over its latents",
            advice="sum over latents, average over the batch: (...).sum(1).mean()",
        )
    ]


def _terms(case: Case, *names: str) -> str:
    parts = [
        f"{name} doubled: reconstruction x {2**s.reconstruction:.4g}, divergence x {2**s.divergence:.4g}"
        for name, s in case.m.scaling.items()
        if name in names and isfinite(s.beta)
    ]
    return "; ".join(parts)


def _exponents(case: Case) -> str:
    return "exponents of beta: " + ", ".join(f"{name} {s.beta:.3g}" for name, s in case.m.scaling.items())


def weight(case: Case) -> list[Finding]:
    """Effective beta against the declared one, where nothing else explains the distance."""
    m = case.m
    rec, div = m.reconstruction, m.divergence
    known = (
        rec.family is not None
        and not rec.family.wrong
        and div.form is not None
        and case.beta > 0
        and np.isfinite(case.beta)
    )
    if not known or div.shape == "capacity" or _sizes_matter(case) or case.declared <= 0:
        return []
    if case.matches:
        return _named_weight(case)
    ratio = case.beta / case.declared
    off = max(ratio, 1 / ratio)
    if off > FACTOR and (means := _like_means(case, ratio)):
        return means
    if rec.family is not None and rec.family.noise:
        return _noise(case, ratio, off)
    severity: Severity = "error" if off > FACTOR else "info"
    declared = f"{case.declared:g} is declared" if case.declared != 1 or case.explicit else "nothing declares it"
    return [
        finding(
            "UN002",
            severity,
            f"the divergence weighs {case.beta:.4g} and {declared}",
            measured=case.beta,
            unit="is effective beta",
            interval=case.spread,
            evidence=f"b / a at {case.here}",
            why="the value is the bound only at beta = 1, and a beta-VAE's loss only at its declared beta",
            advice=f"multiply the divergence's weight by {1 / ratio:.4g}, or pass declared_beta={case.beta:.4g}",
        )
    ]


def _like_means(case: Case, ratio: float) -> list[Finding]:
    """Where sizes cannot be varied, as in a model: beta is just what means over entries or latents would give.

    A weight of 1 / D is left to the noise of a residual family, which may well be that.
    """
    sizes, noise = case.m.probe.layout.sizes, bool(case.m.reconstruction.family and case.m.reconstruction.family.noise)
    weights = [abs(float(w)) for w in case.m.probe.binding.constants.values() if isinstance(w, int | float) and w]
    known = {("pixels",): float(sizes["pixels"]), ("pixels", "latents"): sizes["pixels"] / sizes["latents"]}
    known |= {} if noise else {("latents",): 1 / sizes["latents"]}
    varied = {name.split(" ")[0] for name in case.m.scaling}
    for names, value in known.items():
        plain = [value * half * w for half in ((1.0, 0.5) if noise else (1.0,)) for w in (1.0, *weights)]
        if not varied & set(names) and any(near(ratio, beta, 2e-3) for beta in plain):
            return [_like_a_mean(case, name, names) for name in names]
    return []


def _like_a_mean(case: Case, size: str, names: tuple[str, ...]) -> Finding:
    code, term, over, advice = {
        "pixels": ("RE001", "the reconstruction", "entries of x", SUMS[family_of(case)]),
        "latents": ("KL003", "the divergence", "latents", "sum over latents: (...).sum(1).mean()"),
    }[size]
    return finding(
        code,
        "error",
        f"{term} is averaged over {over}",
        measured=case.beta,
        unit=f"is beta at {case.here}",
        evidence=f"beta is just what means over {' and '.join(names)} give",
        why=f"{term} of a sample is a sum over its {over}",
        advice=advice,
    )


SUMS = {
    "squared": "sum over the entries of a sample: F.mse_loss(output, x, reduction='sum') / len(x)",
    "absolute": "sum over the entries of a sample: F.l1_loss(output, x, reduction='sum') / len(x)",
    "Bernoulli on probabilities": "sum over entries: F.binary_cross_entropy(output, x, reduction='sum') / len(x)",
    "Bernoulli on logits": "sum over entries: F.binary_cross_entropy_with_logits(output, x, reduction='sum') / len(x)",
    "categorical": "sum over the entries of a sample: F.cross_entropy(output, x, reduction='sum') / len(x)",
    "": "sum over the entries of a sample, then average over the batch",
}


def family_of(case: Case) -> str:
    """The beginning of the family's name that has a cure of its own."""
    name = case.m.reconstruction.family.name if case.m.reconstruction.family else ""
    return next((start for start in SUMS if start and name.startswith(start)), "")


def _named_weight(case: Case) -> list[Finding]:
    """A weight other than 1 that an argument declares under another name than beta: right, and no bound."""
    if case.by in ("", "beta") or case.declared == 1:
        return []
    return [
        finding(
            "UN002",
            "info",
            f"{case.by} = {case.declared:g} is the weight of the divergence",
            measured=case.beta,
            unit="is effective beta",
            evidence=f"b / a at {case.here}",
            why="the value is the bound only at beta = 1",
            advice="report the bound at beta = 1 beside it",
        )
    ]


def _noise(case: Case, ratio: float, off: float) -> list[Finding]:
    """No noise scale that the data can have explains the weight of a residual family."""
    family = case.m.reconstruction.family
    assert family is not None
    scale = max(case.data[1] - case.data[0], 1e-12) if case.data else 1.0
    noise = (sqrt(ratio) if family.noise == "sigma^2" else ratio) / scale
    if NOISE_RANGE[0] <= noise <= NOISE_RANGE[1] or off <= FACTOR:
        return []
    named = "sigma" if family.noise == "sigma^2" else "b"
    return [
        finding(
            "RE006",
            "error",
            measured=noise * scale,
            unit=f"is {named}, beside a range of the data of {scale:.3g}",
            interval=None,
            evidence=f"effective beta {case.beta:.4g} at unit noise, {case.declared:g} declared",
            why="at the declared beta the noise would be wider than the data, or far finer than any measurement",
            advice="weigh the reconstruction by 1 / sigma^2 for a sigma of the data's scale, or learn sigma",
        )
    ]


def _sizes_matter(case: Case) -> bool:
    return any(abs(case.exponent(size)) > 0.05 for size in KNOWN)


def unit(case: Case) -> list[Finding]:
    m = case.m
    if m.reconstruction.family is None or "batch" not in m.scaling:
        return []
    base, weight = _base_unit(m)
    plain = base == "nats per sample" and (near(weight, 1, 0.01) or bool(m.reconstruction.family.noise))
    if plain:
        return []
    return [
        finding(
            "UN001",
            "info",
            base if base != "nats per sample" else "nats per sample times a constant",
            measured=m.reconstruction.weight * m.probe.layout.batch,
            unit=f"times nats per sample at {case.here}",
            evidence=_terms(case, "batch", "pixels"),
            why="the number moves with a size or a constant; the direction of the gradient does not",
            advice="sum over dimensions and average over the batch, so that numbers can be compared",
        )
    ]


def _base_unit(m: Measured) -> tuple[str, float]:
    """What a loss is summed and averaged over, and what is left of its weight then."""
    batch, pixels = m.scaling["batch"], m.scaling.get("pixels")
    whole = batch.reconstruction > -0.05
    per_dimension = pixels is not None and pixels.reconstruction < -0.95
    weight = (
        abs(m.reconstruction.weight)
        * (1 if whole else m.probe.layout.batch)
        * (m.probe.layout.pixels if per_dimension else 1)
    )
    return (
        "nats summed over the batch" if whole else "nats per dimension" if per_dimension else "nats per sample",
        weight,
    )


def unit_of(m: Measured) -> str:
    """The unit of the number that a loss returns; a residual family's weight is its noise's, and no matter of units."""
    family = m.reconstruction.family
    if family is None or "batch" not in m.scaling:
        return "unknown"
    base, weight = _base_unit(m)
    return base if family.noise or near(weight, 1, 0.01) else f"{base}, times {weight:.4g}"
