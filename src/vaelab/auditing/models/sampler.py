"""The law of z given mu and the second head: its moments over many draws against what the divergence assumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...core.finding import Finding
from ..codes import finding
from ..laws import HEADS, Head

SIGMAS = 5.0  # standard errors beyond which a deviation is no accident
SLACK = 0.02  # relative deviations below this are rounding or a small constant added for stability
CENTRE = (-2.0, 0.0, 1.0)  # log-variances at which the scale is measured
FAR = (4.0, 6.0, 8.0, 10.0, 12.0, 14.0)
READINGS = {"logvar": 0, "logvariance": 0, "lv": 0, "logstd": 1, "std": 2, "stddev": 2, "var": 3, "variance": 3}


class Sampler(Protocol):
    """Draws of z: mu and head [B, D] to z [B, D]; every seed is another draw."""

    def __call__(self, mu: np.ndarray, head: np.ndarray, seed: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Draws:
    """Residuals z - mu of T draws at one setting of the head.

    Args:
        residual: [T, B, D], in the units of z.
        mu: [B, D], the same for every draw.
        z: [T, B, D].
    """

    residual: np.ndarray
    mu: np.ndarray
    z: np.ndarray

    @property
    def std(self) -> float:
        """Root mean square about the mean."""
        return float(self.residual.std())

    def pair_correlation(self, axis: int) -> tuple[float, float]:
        """The mean correlation between different rows (axis 1) or latents (axis 2), and its standard error if none."""
        unit = (self.residual - self.residual.mean()) / max(self.std, 1e-300)
        n = unit.shape[axis]
        if n < 2:
            return 0.0, np.inf
        pairs = (unit.sum(axis) ** 2 - (unit**2).sum(axis)) / (n * (n - 1))
        # Where the other axis shares its noise, its entries say the same over and over: only calls are independent.
        other, between = unit.shape[3 - axis], unit.sum(3 - axis)
        alike = float((between**2 - (unit**2).sum(3 - axis)).mean()) / max(other * (other - 1), 1)
        effective = pairs.size / (1 + (other - 1) * min(alike, 1.0) ** 2)
        return float(pairs.mean()), float(np.sqrt(2 / (n * (n - 1)) / effective))

    def independent(self) -> float:
        """How many of the entries are independent, given the correlations."""
        n = float(self.residual.size)
        for axis in (1, 2):
            value, error = self.pair_correlation(axis)
            n /= 1 + (self.residual.shape[axis] - 1) * value if value > SIGMAS * error else 1
        return n


def draw(sample: Sampler, lv: float, head: Head, rows: int, latents: int, wanted: int) -> Draws:
    """Draws at a log-variance, with means spread over the rows."""
    tools = np.random.default_rng(3)
    mu = tools.normal(size=(rows, latents))
    values = np.full((rows, latents), float(head.from_log_variance(np.array(lv))))
    times = int(np.clip(wanted // (rows * latents), 12, 80))
    z = np.stack([sample(mu, values, seed) for seed in range(times)])
    return Draws(z - mu, mu, z)


def read_head(name: str) -> Head | None:
    """The reading of the head that its name promises, or None where the name leaves it open.

    Example:
        >>> read_head("logvar").name, read_head("log_sigma")
        ('log-variance', None)
    """
    index = READINGS.get(name.lower().replace("_", "").removeprefix("z").removeprefix("q"))
    return None if index is None else HEADS[index]


def by_name(name: str) -> Head | None:
    """The reading of that name."""
    return next((head for head in HEADS if head.name == name), None)


def measured_reading(sample: Sampler, rows: int, latents: int) -> Head | None:
    """The reading that the draws themselves follow, from positive heads that every reading takes."""
    for head in HEADS:
        ratios = [draw(sample, lv, head, rows, latents, 4000).std / np.exp(lv / 2) for lv in (-1.5, 1.0)]
        if max(abs(r - 1) for r in ratios) < 0.1:
            return head
    return None


# ------------------------------------------------------------------------------------------------------- the findings
def audit_sampler(
    sample: Sampler, rows: int, latents: int, head: Head, said_by: str, with_loss: bool = True, wanted: int = 20_000
) -> list[Finding]:
    """Findings on how z is drawn, given how the divergence reads the second head.

    Args:
        sample: Draws of z.
        rows: B of a draw.
        latents: D.
        head: The reading that the divergence assumes.
        said_by: Where that reading comes from, for the evidence.
        with_loss: Whether the draws are of a training step; a forward pass alone may leave the noise to an option.
        wanted: Entries of z to draw for each setting.
    """
    taken = {lv: draw(sample, lv, head, rows, latents, wanted) for lv in CENTRE}
    middle = taken[0.0]
    if float(np.ptp(middle.z, axis=0).max()) == 0.0:
        return [_no_noise(middle, rows, with_loss)]
    found = [_mean_factor(middle), *_shape(middle), _scale(taken, head, said_by)]
    return [f for f in found if f is not None]


def _no_noise(draws: Draws, rows: int, with_loss: bool) -> Finding:
    return finding(
        "SA003", "error" if with_loss else "warning", measured=0.0, unit="standard deviation of z over draws",
        evidence=f"{len(draws.z)} draws of z in training mode with mu and the head held, {rows} rows: all alike",
        why="without noise z is a plain code and the second head has no effect on the reconstruction",
        advice="z = mu + torch.randn_like(std) * std",
    )  # fmt: skip


def _scale(taken: dict[float, Draws], head: Head, said_by: str) -> Finding | None:
    ratios = {lv: draws.std / np.exp(lv / 2) for lv, draws in taken.items()}
    errors = {lv: r * _relative_error(taken[lv]) for lv, r in ratios.items()}
    worst = max(ratios, key=lambda lv: abs(np.log(max(ratios[lv], 1e-300))))
    if abs(ratios[worst] - 1) <= max(SIGMAS * errors[worst], SLACK):
        return None
    table = ", ".join(f"{r:.3g} at log-variance {lv:g}" for lv, r in ratios.items())
    return finding(
        "SA001", "error", measured=ratios[worst], interval=1.96 * errors[worst],
        unit="times the standard deviation that the divergence assumes",
        evidence=f"std of z - mu over {taken[worst].z.size} draws with mu and the head held; "
        f"the head is {head.name} by {said_by}; ratios: {table}",
        why=_cause(ratios), advice="std = torch.exp(0.5 * logvar); z = mu + std * torch.randn_like(std)",
    )  # fmt: skip


def _cause(ratios: dict[float, float]) -> str:
    """The law that the ratios follow: a power of the variance, or a factor."""
    low, high = min(ratios), max(ratios)
    power = float(np.log(ratios[high] / ratios[low]) / (high - low))
    causes = {
        0.5: "the variance is used as the standard deviation",
        -0.25: "the standard deviation is exp(logvar / 4)",
        -0.5: "the noise does not scale with the head",
    }
    close = next((text for p, text in causes.items() if abs(power - p) < 0.02), None)
    return close or (
        "the noise is multiplied by a constant"
        if abs(power) < 0.02
        else f"the noise grows with the variance to the power {power + 0.5:.2f}, not 0.5"
    )


def _relative_error(draws: Draws) -> float:
    unit = draws.residual / draws.std
    return float(np.sqrt(max((unit**4).mean() - 1, 0.1) / draws.independent())) / 2


def _mean_factor(draws: Draws) -> Finding | None:
    centre = draws.mu - draws.mu.mean()
    weight = float((centre**2).sum()) * len(draws.z)
    slope = float((centre * draws.z).sum()) / weight
    # Noise that rows or latents share makes the slope less certain; the worst case is one number for each draw.
    error = draws.std / np.sqrt(weight) * np.sqrt(draws.residual.size / draws.independent())
    if abs(slope - 1) <= max(SIGMAS * error, SLACK):
        return None
    return finding(
        "SA001", "error", "the mean", measured=slope, interval=1.96 * error, unit="times mu",
        evidence=f"slope of z in mu over {draws.z.size} draws with mu and the head held",
        why="z is not centred on the mean that the divergence takes", advice="z = mu + std * torch.randn_like(std)",
    )  # fmt: skip


def _shape(draws: Draws) -> list[Finding | None]:
    n, unit = draws.independent(), draws.residual / draws.std
    moments = {
        "not centred on mu": (
            float(unit.mean()),
            1.0,
            "standard deviations",
            "torch.rand and other one-sided noise shifts z",
        ),
        "skewed": (float(((unit - unit.mean()) ** 3).mean()), 6.0**0.5, "skewness", "the noise is not normal"),
        "not normal": (
            float(((unit - unit.mean()) ** 4).mean()) - 3,
            24.0**0.5,
            "excess kurtosis (normal 0, uniform -1.2)",
            "the noise is not normal",
        ),
    }
    # The first that deviates: noise that is not centred is often not normal either, and that is one mistake.
    for detail, (value, spread, unit_name, why) in moments.items():
        error = spread / np.sqrt(n)
        if abs(value) > max(SIGMAS * error, 0.05):
            return [_shaped(detail, value, error, unit_name, why, draws), *_shared(draws)]
    return _shared(draws)


def _shaped(detail: str, value: float, error: float, unit: str, why: str, draws: Draws) -> Finding:
    return finding(
        "SA002", "error", detail, measured=value, interval=1.96 * error, unit=unit,
        evidence=f"{draws.z.size} values of z - mu with mu and the head held", why=why,
        advice="draw the noise by torch.randn_like(std)",
    )  # fmt: skip


SHARED = {
    1: ("the batch", "rows", "one draw serves all rows, so their gradients are not independent"),
    2: ("the latents", "latents", "one number moves all latents, so z is not the diagonal normal of the divergence"),
}


def _shared(draws: Draws) -> list[Finding | None]:
    """The finding on noise that rows, latents or both have in common."""
    measured = {axis: draws.pair_correlation(axis) for axis in SHARED}
    over = [axis for axis, (value, error) in measured.items() if value > max(SIGMAS * error, 0.02)]
    if not over:
        return []
    value, error = measured[over[0]]
    names, between, why = zip(*(SHARED[axis] for axis in over), strict=True)
    return [finding(
        "SA002", "error", f"shared over {' and '.join(names)}", measured=value, interval=1.96 * error,
        unit="mean correlation", evidence=f"between {' and '.join(between)} of one draw, {len(draws.z)} draws",
        why="; ".join(why), advice="torch.randn_like(std) draws a number for each row and latent",
    )]  # fmt: skip


def clamp_of(sample: Sampler, rows: int, latents: int, head: Head, side: float) -> float | None:
    """The log-variance from which on the noise of z stays the same, on one side; None up to 14."""
    stds = [draw(sample, side * lv, head, rows, latents, 1).std for lv in FAR]
    for lv, std, further in zip(FAR, stds, stds[1:], strict=False):
        if abs(further / std - 1) < 0.03 and abs(std / np.exp(side * lv / 2) - 1) > 0.1:
            return side * 2 * float(np.log(std)) * side if std > 0 else None
    return None


def clamp_finding(threshold: float, slope: float) -> Finding:
    """The finding on a clamp that the draws have and the divergence has not."""
    return finding(
        "SA002", "warning", "a clamp that the divergence does not have", measured=threshold,
        unit="log-variance at which z stops following the head",
        evidence=f"std of z with the head far out, while the loss still has slope {slope:.3g} in the head there",
        why="beyond the clamp the divergence is of another normal than the one z is drawn from",
        advice="clamp once, before both: logvar = logvar.clamp(-10, 10)",
    )  # fmt: skip
