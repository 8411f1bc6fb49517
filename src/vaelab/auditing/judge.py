"""Measurements in, findings out: what is wrong with a loss, from which number, and what to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import sqrt

import numpy as np

from ..core.finding import Finding, Severity
from .codes import finding
from .measured import Measured
from .roles import is_beta, words

KNOWN = {
    "pixels": (784, 1024, 3072, 4096, 12288, 16384, 49152, 150528, 196608),
    "batch": (8, 16, 32, 50, 64, 100, 128, 144, 200, 256, 500, 512, 1000, 1024),
    "latents": (8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256, 512),
}
FACTOR = 3.0  # how far beta may be from the declared one before that alone is an error
NOISE_RANGE = (1e-3, 1.0)  # standard deviations of the noise that some data can have, in units of the data's scale


@dataclass(frozen=True)
class Case:
    """What a judgement may look at.

    Args:
        m: The measurements.
        declared: The declared weight of the divergence.
        explicit: Whether it was given as `declared_beta`, which declares the dependence on sizes too.
        data: Smallest and largest value of the user's data, and its standard deviation; None without data.
        counts: Whether the user's data are whole numbers.
        name: The callable's name.
    """

    m: Measured
    declared: float = 1.0
    explicit: bool = False
    data: tuple[float, float, float] | None = None
    counts: bool = False
    name: str = ""

    @property
    def beta(self) -> float:
        """Effective beta as the gradients have it: a divergence without gradient weighs nothing."""
        lost = [self.m.slopes[r].missing for r in ("mu", "head") if r in self.m.slopes]
        if lost and all(lost):
            return 0.0
        if "output" in self.m.slopes and self.m.slopes["output"].missing and self.m.divergence.weight:
            return float("inf")
        return self.m.beta

    @property
    def tolerance(self) -> float:
        """How near two weights must be to count as equal."""
        return 0.15 if self.m.noise else 0.02

    @property
    def matches(self) -> bool:
        """Whether effective beta is the declared one."""
        return abs(self.beta / self.declared - 1) < max(0.01, self.m.noise) if self.declared else self.beta == 0

    @property
    def spread(self) -> float | None:
        """Half-width of the 95 % interval of effective beta; None where it is exact."""
        return self.m.noise * abs(self.m.beta) if self.m.noise else None

    @property
    def upside_down(self) -> bool:
        """Whether both terms have the sign of a bound that is maximised."""
        return self.m.reconstruction.weight < 0 and self.m.divergence.weight < 0

    def exponent(self, size: str, term: str = "beta") -> float:
        """The largest exponent in a size, over its axes."""
        found = [getattr(s, term) for name, s in self.m.scaling.items() if name.split(" ")[0] == size]
        return max(found, key=abs, default=0.0)


def judge(case: Case) -> list[Finding]:
    """All findings on a loss."""
    return [found for rule in RULES for found in rule(case)]


# ------------------------------------------------------------------------------------------------------ reconstruction
def _reconstruction(case: Case) -> list[Finding]:
    rec = case.m.reconstruction
    roles = case.m.probe.binding.roles
    if "output" not in roles:
        return []
    if not rec.moves[1]:
        return [finding("RE007", "error", "the decoder's output does not move the loss", measured=0.0, unit="change of the loss",
                        evidence="three made-up outputs, everything else held still", why="there is no reconstruction term",
                        advice="add the negative log-likelihood of x given the output")]  # fmt: skip
    if rec.family is None:
        return [finding("RE007", "warning", "no known likelihood explains the reconstruction term", measured=case.m.reconstruction.residual,
                        unit="of its spread unexplained", evidence="least squares on every family of docs/audit/RE007.md",
                        why="effective beta has a meaning only beside a negative log-likelihood",
                        advice="sum a negative log-likelihood over the entries of x, or pass family=")]  # fmt: skip
    if rec.family.wrong:
        return [finding(rec.family.wrong, "error", rec.family.detail, measured=rec.residual, unit="of its spread unexplained by this reading",
                        evidence=f"the term is {rec.family.name} with weight {rec.weight:.4g}",
                        why="what is minimised is no likelihood of the data given the output", advice=ADVICE[rec.family.wrong])]  # fmt: skip
    return []


ADVICE = {
    "RE002": "feed the raw output to binary_cross_entropy_with_logits, or sigmoid(output) to binary_cross_entropy: one sigmoid in all",
    "RE004": "swap the two arguments: F.binary_cross_entropy(output, x), keras.losses.binary_crossentropy(x, output)",
    "RE007": "use a sum of squares, F.mse_loss(output, x, reduction='sum') / len(x), or another negative log-likelihood",
}


def _named_wrong(case: Case) -> list[Finding]:
    """A parameter that calls itself logits and is read as probabilities, or the other way round."""
    rec, name = case.m.reconstruction, case.m.probe.binding.names.get("output", "")
    called = set(words(name)) | {"".join(words(name))}
    logits = any("logit" in word for word in called)
    probabilities = bool(called & {"prob", "probs", "probability", "probabilities", "sigmoid"})
    family = rec.family.name if rec.family else ""
    wrong = (logits and family.endswith("on probabilities")) or (probabilities and family.endswith("on logits"))
    if not wrong or (rec.family and rec.family.wrong):
        return []
    return [finding("RE002", "error", f"{name!r} is read as {family.split(' on ')[1]}", measured=rec.residual,
                    unit="of its spread unexplained by this reading", evidence=f"the term is {family}",
                    why="the parameter's name promises the other one", advice=ADVICE["RE002"])]  # fmt: skip


def _signs(case: Case) -> list[Finding]:
    rec, div = case.m.reconstruction, case.m.divergence
    if case.upside_down and any(w in case.name.lower() for w in ("elbo", "bound", "objective", "likelihood", "evidence")):
        return [finding("UN002", "info", "the value is the bound itself, to be maximised", measured=-div.weight / -rec.weight, unit="beta",
                        evidence="both terms have a negative weight", why="an optimiser minimises", advice="minimise its negative")]  # fmt: skip
    found = []
    if rec.weight < 0:
        found.append(finding("RE005", "error", measured=rec.weight * case.m.probe.layout.batch, unit="times the negative log-likelihood",
                             evidence=f"slope of the loss in {rec.name}", why="minimising it makes the reconstruction worse",
                             advice="change the sign of the reconstruction term"))  # fmt: skip
    if div.weight < 0:
        found.append(finding("KL002", "error", "unbounded below", measured=div.weight * case.m.probe.layout.batch, unit="times the divergence",
                             evidence="slope of the loss in the closed form", why="minimising it drives the posterior away from the prior without end",
                             advice="use -0.5 * (1 + log_var - mu**2 - log_var.exp()), added"))  # fmt: skip
    return found


# ---------------------------------------------------------------------------------------------------------- divergence
def _divergence(case: Case) -> list[Finding]:
    m, roles = case.m, case.m.probe.binding.roles
    if "mu" not in roles and "head" not in roles:
        return []
    if m.divergence.shape == "flat" and not any(m.divergence.moves):
        return [_no_effect(m)]
    if m.divergence.form is None:
        return [finding("KL005", "error", "no known form", measured=1.0, unit="of its spread unexplained",
                        evidence="least squares on mu^2, variance and log-variance under every reading of the head",
                        why="it is no divergence of a diagonal Gaussian from a Gaussian prior",
                        advice="use -0.5 * (1 + log_var - mu**2 - log_var.exp()), summed over latents")]  # fmt: skip
    return _proportions(case) or _name_of_head(case)


def _no_effect(m: Measured) -> Finding:
    name, (value, other) = next(iter(m.revived.items()), ("", (0.0, 0.0)))
    why = f"{name} = {value:g} switches it off; at {name} = {other:g} it moves the loss" if name else "it is clamped to a constant, weighed by zero, or left out"
    fix = f"pass {name} above {value:g}, or take {name} away" if name else "add the divergence, -0.5 * (1 + log_var - mu**2 - log_var.exp()) summed over latents"
    return finding("KL001", "error", "the divergence never moves the loss", measured=0.0, unit="nats of change over divergences from 0.02 to 1000 nats an entry",
                   evidence="mu and the head moved, everything else held still", why=why, advice=fix)  # fmt: skip


def _proportions(case: Case) -> list[Finding]:
    """The three terms must weigh the same; a prior of another variance weighs the logarithm differently, and has its own constant."""
    m, form = case.m, case.m.divergence.form
    assert form is not None
    if "head" not in m.probe.binding.roles:
        return []
    mean, variance, logarithm = form.mean, form.variance, form.log
    equal = _near(mean, variance, case.tolerance) and _near(variance, logarithm, case.tolerance)
    if equal and not form.two_ways:
        return []
    if _near(mean, variance, case.tolerance) and not form.two_ways and mean * logarithm > 0 and m.prior_variance is not None:
        return []
    shares = f"weights of mu^2/2, variance/2 and -log-variance/2: {mean:.4g}, {variance:.4g}, {logarithm:.4g} ({form.head.name})"
    found = []
    ratio = abs(logarithm / variance) if variance else 0.0
    if form.two_ways or any(_near(ratio, r, case.tolerance) for r in (0.5, 2.0)) and _near(mean, variance, case.tolerance):
        found.append(finding("KL006", "error", measured=ratio, unit="times the logarithm that belongs to the variance term", evidence=shares,
                             why=f"one term reads the head as {form.head.name}, the other as something else",
                             advice="choose one reading: with log_var the variance is log_var.exp() and the logarithm log_var"))  # fmt: skip
    missing = [word for word, share in (("mu^2", mean), ("the variance", variance), ("the log-variance", logarithm)) if share == 0]
    lowest = logarithm / variance if variance and logarithm * variance > 0 and not form.two_ways else float("nan")
    detail = f"the term in {' and '.join(missing)} is missing" if missing else "its minimum is not at the prior"
    found.append(finding("KL005", "error", detail, measured=None if np.isnan(lowest) else lowest, unit="is the variance at its minimum, for a prior of 1",
                         evidence=shares, why="the three terms of the divergence are not in proportion 1 : 1 : 1",
                         advice="use -0.5 * (1 + log_var - mu**2 - log_var.exp()), summed over latents"))  # fmt: skip
    return found


def _near(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= tolerance * max(abs(a), abs(b))


def _name_of_head(case: Case) -> list[Finding]:
    """The reading that the parameter's name promises, against the one that the formula has."""
    form, name = case.m.divergence.form, case.m.probe.binding.names.get("head", "")
    assert form is not None
    called = "".join(words(name))
    log_named = bool(words(name)) and ("log" in called or called.endswith("lv"))
    positive = form.head.name in ("std", "variance")
    if not name or "head" not in case.m.probe.binding.roles:
        return []
    if log_named and positive:
        lowest = 1.0  # log-variance at the minimum of the formula: the head is 1 there
        return [finding("KL005", "error", f"{name!r} is read as a {form.head.name}", measured=np.exp(lowest),
                        unit="is the variance at its minimum, for a prior of 1", evidence=f"the formula is exact for a head that is the {form.head.name}",
                        why="a logarithm, which may be negative, is used as if it were positive", advice=f"use {name}.exp() for the variance")]  # fmt: skip
    squares = ("std" in called or "dev" in called) and not log_named and form.head.name == "variance"
    squares |= "var" in called and not log_named and form.head.name == "std"
    other = (log_named and "var" in called and form.head.name == "log-std") or (
        log_named and ("std" in called or "sigma" in called) and "2" not in called and "sq" not in called and form.head.name == "log-variance"
    )
    other |= not log_named and any(w in called for w in ("std", "sigma", "var", "scale")) and form.head.name.startswith("log-")
    if not (squares or other):
        return []
    return [finding("KL006", "warning" if squares else "info", f"{name!r} is read as {form.head.name}", measured=1.0, unit="times the exact divergence of that reading",
                    evidence="least squares under every reading of the head", why="the name suggests another reading; the sampler must use this one",
                    advice=f"draw z with the {form.head.name}, and rename {name!r}")]  # fmt: skip


def _bends(case: Case) -> list[Finding]:
    div = case.m.divergence
    if div.form is None or div.shape in ("linear", "flat"):
        return []
    slopes = [slope * case.m.probe.layout.batch for slope in div.slopes]
    seen = f"weights at 0.02, 1, 40 and 1000 nats an entry: {', '.join(f'{s:.4g}' for s in slopes)} (nan: it bends there)"
    known = [s for s in slopes if not np.isnan(s)]
    if div.shape == "bent" and (not known or max(known) - min(known) > 0.02 * max(map(abs, known))):
        return [finding("KL005", "error", "its weight moves with its size", measured=slopes[-1] / slopes[0] if slopes[0] else slopes[-1],
                        unit="times the weight at 0.02 nats, at 1000 nats an entry", evidence=seen,
                        why="the divergence enters through a curve, so no beta describes the loss", advice="add the divergence itself, times beta")]  # fmt: skip
    words_of = {"floor": "divergences below it cost nothing (free bits)", "cap": "divergences above it cost nothing more",
                "capacity": "the divergence is held at a target", "bent": "single entries are bent near half a nat"}  # fmt: skip
    where = f"nats per {div.per}" if div.threshold is not None else "nats per entry, roughly"
    return [finding("KL007", "info", words_of[div.shape], measured=div.threshold if div.threshold is not None else 0.5, unit=where, evidence=seen,
                    why="below or above the threshold the divergence has no gradient", advice="meant so: nothing; otherwise take the clamp away")]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- scaling
def _sizes(case: Case) -> list[Finding]:
    """What effective beta depends on that nobody declared."""
    if case.m.reconstruction.family is None or case.m.divergence.form is None:
        return []
    hard = _hard_coded(case)
    excused = {size for size, _ in hard[1]}
    trap = any(f.severity == "warning" for f in hard[0])
    return [*hard[0], *_batch(case, trap), *([] if "pixels" in excused else _pixels(case)),
            *([] if "latents" in excused else _latents(case))]  # fmt: skip


def _hard_coded(case: Case) -> tuple[list[Finding], list[tuple[str, int]]]:
    """Sizes at which beta is just the declared one, where they are sizes that tutorials use.

    Plain means have natural numbers, such as P / (2 D), and are left to the findings on reductions.
    """
    sizes = case.m.probe.layout.sizes
    moving = {size: case.exponent(size) for size in KNOWN if abs(case.exponent(size)) > 0.5}
    rest = case.beta / case.declared if case.declared > 0 else 0.0
    for size, exponent in moving.items():
        rest /= sizes[size] ** exponent
    plain = any(_near(rest, natural, 5e-3) for natural in (1, 0.5, 2))
    if not moving or plain or rest <= 0 or ("latents" in moving and len(moving) > 1):
        return [], []
    targets = (1.0, 0.5) if case.m.reconstruction.family and case.m.reconstruction.family.noise else (1.0,)
    for target, values in product(targets, product(*(KNOWN[size] for size in moving))):
        at = dict(zip(moving, values, strict=True))
        if _near(rest * np.prod([float(v) ** moving[s] for s, v in at.items()]), target, 2e-3):
            return [_hard_coded_at(case, at, target)], list(at.items())
    return [], []


def _hard_coded_at(case: Case, at: dict[str, int], target: float) -> Finding:
    where = " and ".join(f"{size} = {value}" for size, value in at.items())
    here = all(case.m.probe.layout.sizes[size] == value for size, value in at.items())
    severity: Severity = "warning" if here else "error"
    return finding("KL008", severity, f"beta is {target * case.declared:g} at {where} alone", measured=case.beta, unit=f"is beta at {_here(case)}",
                   interval=case.spread, evidence=_exponents(case), why="a number of one data set stands in the code where the size belongs",
                   advice="take the size from the tensor: x[0].numel(), len(x), mu.shape[1]")  # fmt: skip


def _batch(case: Case, trap: bool) -> list[Finding]:
    exponent = case.exponent("batch")
    if abs(exponent) < 0.05:
        return []
    severity: Severity = "warning" if trap or (case.matches and case.explicit and case.declared != 1) else "error"
    terms = _terms(case, "batch")
    return [finding("KL004", severity, f"beta goes with the batch to the power {exponent:.3g}", measured=case.beta, unit=f"is beta at {_here(case)}",
                    interval=case.spread, evidence=terms, why="one term is averaged over the batch and the other is not, so a short last batch has another beta",
                    advice="sum both over the dimensions of a sample, then average both over the batch")]  # fmt: skip


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
    if up and any(s.reconstruction < -0.05 for s in axes.values()):
        found.append(finding("RE001", severity, f"beta grows with {' and '.join(axes)}", measured=case.beta, unit=f"is beta at {_here(case)}",
                             interval=case.spread, evidence=_terms(case, *axes),
                             why="the reconstruction is averaged over entries of x while the divergence is a sum over latents"
                             if case.exponent("latents") > -0.05 else "the reconstruction is averaged over entries of x, whatever their number",
                             advice="sum over the entries of a sample: F.mse_loss(output, x, reduction='sum') / len(x)"))  # fmt: skip
    if mixed or not found:
        found.append(finding("RE008", severity, f"{' and '.join(axes)} reduced unlike the rest", measured=case.beta, unit=f"is beta at {_here(case)}",
                             interval=case.spread, evidence=_terms(case, *axes), why="some axes of one sample are summed and others averaged",
                             advice="sum over all axes of a sample, average over the batch alone"))  # fmt: skip
    return found


def _latents(case: Case) -> list[Finding]:
    exponent = case.exponent("latents")
    if abs(exponent) < 0.05:
        return []
    severity: Severity = "info" if case.explicit and case.declared != 1 and case.matches else "error"
    code = "KL003" if exponent < 0 else "RE008"
    return [finding(code, severity, f"beta goes with the number of latents to the power {exponent:.3g}", measured=case.beta, unit=f"is beta at {_here(case)}",
                    interval=case.spread, evidence=_terms(case, "latents"), why="the divergence of a sample is the sum over its latents",
                    advice="sum over latents, average over the batch: (...).sum(1).mean()")]  # fmt: skip


def _terms(case: Case, *names: str) -> str:
    parts = [f"{name} doubled: reconstruction x {2 ** s.reconstruction:.4g}, divergence x {2 ** s.divergence:.4g}"
             for name, s in case.m.scaling.items() if name in names]  # fmt: skip
    return "; ".join(parts)


def _exponents(case: Case) -> str:
    return "exponents of beta: " + ", ".join(f"{name} {s.beta:.3g}" for name, s in case.m.scaling.items())


def _here(case: Case) -> str:
    return ", ".join(f"{name} {size}" for name, size in case.m.probe.layout.sizes.items())


# ------------------------------------------------------------------------------------------------- gradients, constants
def _gradients(case: Case) -> list[Finding]:
    found = []
    for role, slope in case.m.slopes.items():
        if not (slope.missing or slope.wrong):
            continue
        term = {"mu": "divergence in mu", "head": "divergence in the second head"}.get(role, f"reconstruction in the {role}")
        code, why = ("GR001", "the term was computed without gradient: detach, item, no_grad, or another framework") if slope.missing else (
            "GR002", "part of the term was computed without gradient, or a gradient was put in its place")  # fmt: skip
        found.append(finding(code, "error", term, measured=slope.automatic, unit=f"is the derivative, by values {slope.by_values:.4g}",
                             evidence="one direction, automatic differentiation against central differences", why=why,
                             advice="take detach(), item() and no_grad() out of the loss"))  # fmt: skip
    return found


def _constants(case: Case) -> list[Finding]:
    found = []
    for name, (value, other) in case.m.unused.items():
        given = name not in case.m.probe.binding.optional
        if case.m.divergence.shape == "flat" and is_beta(name) and not given:
            continue  # there is nothing to weigh, which KL001 says
        severity: Severity = "error" if is_beta(name) else "warning" if given else "info"
        found.append(finding("GR004", severity, f"{name!r}", measured=0.0, unit=f"change of the loss between {name} = {value:g} and {other:g}",
                             evidence="at small, medium and large divergences", why="the argument is accepted and never reaches the loss",
                             advice=f"multiply the term by {name}, or take the argument away"))  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------- numbers, units, data
def _numbers(case: Case) -> list[Finding]:
    m = case.m
    found = [finding("NU001", "warning", f"not finite at a {what}", measured=at, unit="(float32)", evidence="the closed form is finite there",
                     why="an exponential, a square or a quotient overflows before it is needed", advice="work with log_var, and clamp it to [-30, 20]")
             for what, at in m.overflow]  # fmt: skip
    if m.log_of_zero:
        at = " and ".join(f"{end:g}" for _, end in m.log_of_zero)
        found.append(finding("NU002", "warning", f"not finite at an output of {at}", measured=m.log_of_zero[0][1], unit="(float32)",
                             evidence="targets of 0 and 1 at outputs at the end of their range", why="a saturated sigmoid is exactly 0 or 1, and its logarithm infinite",
                             advice="use F.binary_cross_entropy_with_logits on the raw output"))  # fmt: skip
    return found


def _data(case: Case) -> list[Finding]:
    family = case.m.reconstruction.family
    name = family.name if family else ""
    unit = name.startswith(("Bernoulli", "continuous"))
    positive = name.startswith(("Poisson", "negative", "exponential", "multinomial"))
    if case.data is None:
        if case.m.silent is None:
            return []
        return [finding("RE003", "info", "targets outside [0, 1] are accepted without a word", measured=case.m.silent, unit="is the loss for targets from -0.85 to 1.85",
                        evidence="made-up targets", why="the formula has a value there, and no meaning", advice="check the range of the data once, when it is loaded")]  # fmt: skip
    low, high, _ = case.data
    if not (unit and (low < 0 or high > 1) or positive and low < 0):
        return []
    return [finding("RE003", "error", f"the data run from {low:.4g} to {high:.4g}", measured=low if low < 0 else high, unit="where the family ends at 0 and 1" if unit else "where the family begins at 0",
                    evidence="the smallest and the largest value given", why=f"{name} has no meaning for such targets",
                    advice="scale the data to [0, 1], or use a Gaussian likelihood")]  # fmt: skip


def _weight(case: Case) -> list[Finding]:
    """Effective beta against the declared one, where nothing else explains the distance."""
    m = case.m
    rec, div = m.reconstruction, m.divergence
    known = rec.family is not None and not rec.family.wrong and div.form is not None and case.beta > 0 and np.isfinite(case.beta)
    if not known or case.matches or div.shape == "capacity" or _sizes_matter(case) or case.declared <= 0:
        return []
    ratio = case.beta / case.declared
    off = max(ratio, 1 / ratio)
    if rec.family is not None and rec.family.noise:
        return _noise(case, ratio, off)
    severity: Severity = "error" if off > FACTOR else "info"
    declared = f"{case.declared:g} is declared" if case.declared != 1 or case.explicit else "nothing declares it"
    return [finding("UN002", severity, f"the divergence weighs {case.beta:.4g} and {declared}", measured=case.beta, unit="is effective beta", interval=case.spread,
                    evidence=f"b / a at {_here(case)}", why="the value is the bound only at beta = 1, and a beta-VAE's loss only at its declared beta",
                    advice=f"weigh the divergence by {1 / ratio:.4g} of what it has, or declare_beta={case.beta:.4g}".replace("declare_beta", "pass declared_beta"))]  # fmt: skip


def _noise(case: Case, ratio: float, off: float) -> list[Finding]:
    """No noise scale that the data can have explains the weight of a residual family."""
    family = case.m.reconstruction.family
    assert family is not None
    scale = max(case.data[2], 1e-12) if case.data else 1.0
    noise = (sqrt(ratio) if family.noise == "sigma^2" else ratio) / scale
    if NOISE_RANGE[0] <= noise <= NOISE_RANGE[1] or off <= FACTOR:
        return []
    named = "sigma" if family.noise == "sigma^2" else "b"
    return [finding("RE006", "error", measured=noise * scale, unit=f"is {named}, beside a spread of the data of {scale:.3g}", interval=None,
                    evidence=f"effective beta {case.beta:.4g} at unit noise, {case.declared:g} declared",
                    why="at the declared beta the weights say that the noise is wider than the data, or far finer than any measurement",
                    advice="weigh the reconstruction by 1 / sigma^2 for a sigma of the data's scale, or learn sigma")]  # fmt: skip


def _sizes_matter(case: Case) -> bool:
    return any(abs(case.exponent(size)) > 0.05 for size in KNOWN)


def _unit(case: Case) -> list[Finding]:
    m = case.m
    if m.reconstruction.family is None or "batch" not in m.scaling:
        return []
    base, weight = _base_unit(m)
    plain = base == "nats per sample" and (_near(weight, 1, 0.01) or bool(m.reconstruction.family.noise))
    if plain:
        return []
    return [finding("UN001", "info", base if base != "nats per sample" else "nats per sample times a constant",
                    measured=m.reconstruction.weight * m.probe.layout.batch, unit=f"times nats per sample at {_here(case)}",
                    evidence=_terms(case, "batch", "pixels"), why="the number moves with the batch, the size of the data or a constant; the direction of the gradient does not",
                    advice="sum over dimensions and average over the batch, so that numbers can be compared")]  # fmt: skip


def _base_unit(m: Measured) -> tuple[str, float]:
    """What a loss is summed and averaged over, and what is left of its weight then."""
    batch, pixels = m.scaling["batch"], m.scaling.get("pixels")
    whole = batch.reconstruction > -0.05
    per_dimension = pixels is not None and pixels.reconstruction < -0.95
    weight = abs(m.reconstruction.weight) * (1 if whole else m.probe.layout.batch) * (m.probe.layout.pixels if per_dimension else 1)
    return "nats summed over the batch" if whole else "nats per dimension" if per_dimension else "nats per sample", weight


def unit_of(m: Measured) -> str:
    """The unit of the number that a loss returns."""
    family = m.reconstruction.family
    if family is None or "batch" not in m.scaling:
        return "unknown"
    base, weight = _base_unit(m)
    if _near(weight, 1, 0.01):
        return base
    return f"{base} at sigma^2 = {1 / weight:.4g}" if family.noise == "sigma^2" else f"{base}, times {weight:.4g}"


def _sum_of_terms(case: Case) -> list[Finding]:
    if case.m.interaction < 1e-3:
        return []
    return [finding("UN002", "error", "the terms are not added", measured=case.m.interaction, unit="of the loss's move is neither of the two terms",
                    evidence="second difference in (data, output) and (mu, head)", why="the weight of one term depends on the other",
                    advice="add the reconstruction and beta times the divergence")]  # fmt: skip


RULES: tuple[Callable[[Case], list[Finding]], ...] = (
    _reconstruction, _named_wrong, _signs, _divergence, _bends, _sizes, _gradients, _constants, _sum_of_terms, _weight, _numbers, _data, _unit,
)  # fmt: skip
