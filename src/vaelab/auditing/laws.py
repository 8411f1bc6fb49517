"""The closed forms a loss is held against: negative log-likelihoods by family, and what a second head may mean.

Everything here is NumPy in float64 and in nats. A family gives the total over the batch, `sum_i R_i`, so that a loss
`L = a sum_i R_i / B + ...` shows its weight as the slope of L in that total.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lgamma

import numpy as np

Array = np.ndarray
log_gamma = np.vectorize(lgamma, otypes=[float])


def softplus(h: Array) -> Array:
    """log(1 + exp(h)) without overflow."""
    return np.logaddexp(0.0, h)


def sigmoid(h: Array) -> Array:
    """1 / (1 + exp(-h)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -h))


def log_softmax(h: Array, axis: int) -> Array:
    """Logarithms that are normalised along an axis."""
    return h - np.logaddexp.reduce(h, axis=axis, keepdims=True)


# ------------------------------------------------------------------------------------------------------- second heads
@dataclass(frozen=True)
class Head:
    """A reading of the second head: the variance and its logarithm as functions of the number in the head."""

    name: str
    variance: Callable[[Array], Array]
    log_variance: Callable[[Array], Array]
    from_log_variance: Callable[[Array], Array]
    log_kind: str  # which function of the head the logarithm is, up to a factor


def _inverse_softplus(s: Array) -> Array:
    return s + np.log(-np.expm1(-s))


HEADS: tuple[Head, ...] = (
    Head("log-variance", np.exp, lambda h: h, lambda v: v, "linear"),
    Head("log-std", lambda h: np.exp(2 * h), lambda h: 2 * h, lambda v: v / 2, "linear"),
    Head("std", np.square, lambda h: np.log(h**2), lambda v: np.exp(v / 2), "log"),
    Head("variance", lambda h: h, np.log, np.exp, "log"),
    Head("log-precision", lambda h: np.exp(-h), lambda h: -h, lambda v: -v, "linear"),
    Head("precision", lambda h: 1 / h, lambda h: -np.log(h), lambda v: np.exp(-v), "log"),
    Head(
        "std through softplus",
        lambda h: softplus(h) ** 2,
        lambda h: 2 * np.log(softplus(h)),
        lambda v: _inverse_softplus(np.exp(v / 2)),
        "log softplus",
    ),
    Head(
        "variance through softplus",
        softplus,
        lambda h: np.log(softplus(h)),
        lambda v: _inverse_softplus(np.exp(v)),
        "log softplus",
    ),
)


def _soft_clamp(c: float) -> Head:
    """log variance = c tanh(h / c)."""

    def log_variance(h: Array) -> Array:
        return c * np.tanh(h / c)

    def back(v: Array) -> Array:
        return c * np.arctanh(np.clip(v / c, -0.999, 0.999))

    return Head(
        f"log-variance, softly clamped at {c:.3g}", lambda h: np.exp(log_variance(h)), log_variance, back, "own"
    )


def _lifted(name: str, std: Callable[[Array], Array], back: Callable[[Array], Array]) -> Callable[[float], Head]:
    """std = std(h) + e."""

    def head(e: float) -> Head:
        return Head(
            f"{name} plus {e:.3g}",
            lambda h: (std(h) + e) ** 2,
            lambda h: 2 * np.log(std(h) + e),
            lambda v: back(np.maximum(np.exp(v / 2) - e, 1e-6)),
            "own",
        )

    return head


def _between(name: str, inner: Callable[[Array], Array], back: Callable[[Array], Array]) -> Callable[[float], Head]:
    """std = e + (1 - e) s(h), as neural processes have it (Garnelo et al., Neural Processes, 2018)."""

    def head(e: float) -> Head:
        def std(h: Array) -> Array:
            return e + (1 - e) * inner(h)

        def inverse(v: Array) -> Array:
            return back(np.maximum((np.exp(v / 2) - e) / (1 - e), 1e-6))

        return Head(f"std, {name} from {e:.3g} on", lambda h: std(h) ** 2, lambda h: 2 * np.log(std(h)), inverse, "own")

    return head


def _logit(share: Array) -> Array:
    share = np.minimum(share, 1 - 1e-6)
    return np.log(share) - np.log1p(-share)


# Readings with a parameter that is found by search, with the range to search in.
CURVED_HEADS: tuple[tuple[Callable[[float], Head], float, float], ...] = (
    (_soft_clamp, 1.0, 100.0),
    (_lifted("std through softplus", softplus, _inverse_softplus), 1e-6, 2.0),
    (_lifted("std through exp", np.exp, np.log), 1e-6, 2.0),
    (_lifted("std through exp(h / 2)", lambda h: np.exp(h / 2), lambda s: 2 * np.log(s)), 1e-6, 2.0),
    (_lifted("std", lambda h: h, lambda s: s), 1e-6, 2.0),
    (_between("a sigmoid", sigmoid, _logit), 1e-6, 0.9),
    (_between("a softplus", softplus, _inverse_softplus), 1e-6, 0.9),
)
LOGARITHMS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda h: h,
    "log": lambda h: np.log(np.abs(h)),
    "log softplus": lambda h: np.log(softplus(h)),
}


def divergence(mu: Array, log_variance: Array) -> Array:
    """KL(N(mu, exp(lv)) || N(0, 1)) an entry, half of `mu^2 + exp(lv) - lv - 1` (Kingma, Welling, 2014)."""
    return 0.5 * (mu**2 + np.expm1(log_variance) - log_variance)


# ---------------------------------------------------------------------------------------------- reconstruction families
Total = Callable[..., float]


@dataclass(frozen=True)
class Family:
    """A family of the reconstruction term.

    Args:
        name: The standard name.
        total: (x, output) or (x, output, scale) to the negative log-likelihood summed over the batch, in nats, up to a
            constant.
        domains: Names of the made-up data on which it can be told from the others.
        noise: What the weight of a residual family means at beta = 1: "sigma^2", "b", or "" where the weight of a
            likelihood is not a noise scale.
        wrong: The finding that names what is wrong with it; empty for a likelihood.
        detail: What the finding says beyond its code.
        scaled: True where `total` takes the decoder's second output as well.
    """

    name: str
    total: Total
    domains: tuple[str, ...] = ("unit", "binary")
    noise: str = ""
    wrong: str = ""
    detail: str = ""
    scaled: bool = False


def _sum(element: Callable[..., Array]) -> Total:
    return lambda *parts: float(element(*parts).sum())


def _rows(a: Array) -> Array:
    return a.reshape(len(a), -1)


def _bernoulli(x: Array, p: Array) -> Array:
    return -(x * np.log(p) + (1 - x) * np.log1p(-p))


def _bernoulli_logits(x: Array, o: Array) -> Array:
    return softplus(o) - x * o


def _log_normaliser(p: Array) -> Array:
    """log C(p) of the continuous Bernoulli (Loaiza-Ganem, Cunningham, The continuous Bernoulli, 2019)."""
    centre = 1 - 2 * p
    near = np.abs(centre) < 1e-4
    safe = np.where(near, 0.5, centre)
    return np.where(near, np.log(2.0) + centre**2 / 3, np.log(2 * np.arctanh(safe) / safe))


def _cosine(x: Array, o: Array) -> float:
    x, o = _rows(x), _rows(o)
    return float((1 - (x * o).sum(1) / np.sqrt((x**2).sum(1) * (o**2).sum(1))).sum())


def _optimal_noise(x: Array, o: Array) -> float:
    """P/2 log of the batch's mean squared error, times B (Rybkin, Daniilidis, Levine, sigma-VAE, 2021)."""
    return 0.5 * x.size * float(np.log(np.mean((x - o) ** 2)))


def _rows_optimal_noise(x: Array, o: Array) -> float:
    return 0.5 * x[0].size * float(np.log(np.mean(_rows(x - o) ** 2, 1)).sum())


def _multinomial(x: Array, o: Array, axis: int = -1) -> float:
    return -float((x * log_softmax(o, axis)).sum())


def _one_hot(x: Array, o: Array) -> float:
    return -float(np.take_along_axis(log_softmax(o, -1), x.argmax(-1)[..., None], -1).sum())


def huber(delta: float) -> Callable[[Array, Array], Array]:
    """Squares up to delta, absolute values beyond."""

    def element(x: Array, o: Array) -> Array:
        r = np.abs(x - o)
        return np.where(r < delta, 0.5 * r**2, delta * (r - 0.5 * delta))

    return element


def log_cosh(alpha: float) -> Callable[[Array, Array], Array]:
    """log cosh(alpha r) / alpha^2, whose curvature at 0 is 1: the hyperbolic secant distribution."""

    def element(x: Array, o: Array) -> Array:
        r = np.abs(alpha * (x - o))
        return (r + np.log1p(np.exp(-2 * r)) - np.log(2)) / alpha**2

    return element


SCALES: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("log-variance", lambda t: np.exp(t / 2)),
    ("log-std", np.exp),
    ("std", lambda t: t),
    ("variance", np.sqrt),
    ("std through softplus", softplus),
)


def _with_noise(
    name: str, power: int, reading: str, std: Callable[[Array], Array], mean: Callable[[Array], Array] = np.asarray
) -> Family:
    """Gaussian (power 2) or Laplace (power 1) whose noise is the decoder's second output."""

    def element(x: Array, o: Array, t: Array) -> Array:
        s, o = std(t), mean(o)
        return (0.5 if power == 2 else 1.0) * (np.abs(x - o) / s) ** power + np.log(s) * np.ones_like(x)

    return Family(f"{name} with learned noise ({reading})", _sum(element), ("unit", "binary", "wide"), scaled=True)


def _negative_binomial(x: Array, o: Array, theta: Array) -> Array:
    theta = theta * np.ones_like(o)
    log_both = np.log(theta + o)
    return (
        log_gamma(theta)
        + log_gamma(x + 1)
        - log_gamma(x + theta)
        - theta * (np.log(theta) - log_both)
        - x * (np.log(o) - log_both)
    )


REAL = ("unit", "binary", "wide", "counts")
POSITIVE = ("unit", "binary", "counts")
TOKENS = ("tokens", "tokens first")

FAMILIES: tuple[Family, ...] = (
    Family("squared error", _sum(lambda x, o: 0.5 * (x - o) ** 2), REAL, noise="sigma^2"),
    Family("absolute error", _sum(lambda x, o: np.abs(x - o)), REAL, noise="b"),
    Family("Bernoulli on probabilities", _sum(_bernoulli), ("unit", "binary")),
    Family("Bernoulli on logits", _sum(_bernoulli_logits), ("unit", "binary", "wide")),
    Family("Poisson on rates", _sum(lambda x, o: o - x * np.log(o)), POSITIVE),
    Family("Poisson on log-rates", _sum(lambda x, o: np.exp(o) - x * o), REAL),
    Family(
        "continuous Bernoulli on probabilities",
        _sum(lambda x, p: _bernoulli(x, p) - _log_normaliser(p)),
        ("unit", "binary"),
    ),
    Family(
        "continuous Bernoulli on logits",
        _sum(lambda x, o: _bernoulli_logits(x, o) - _log_normaliser(sigmoid(o))),
        ("unit", "binary", "wide"),
    ),
    Family(
        "Bernoulli on probabilities, both from [-1, 1]",
        _sum(lambda x, o: _bernoulli((x + 1) / 2, (o + 1) / 2)),
        ("unit", "binary"),
    ),
    Family("categorical on logits, one-hot data", _one_hot, ("unit", "binary", "wide", "one-hot")),
    Family("exponential on means", _sum(lambda x, o: x / o + np.log(o)), POSITIVE),
    Family("squared error after a sigmoid", _sum(lambda x, o: 0.5 * (x - sigmoid(o)) ** 2), REAL, noise="sigma^2"),
    Family("squared error after tanh", _sum(lambda x, o: 0.5 * (x - np.tanh(o)) ** 2), REAL, noise="sigma^2"),
    Family("multinomial on logits", _multinomial, (*REAL, "one-hot")),
    Family("multinomial on logits", lambda x, o: _multinomial(x, o, 1), REAL),
    Family("categorical on probabilities, one-hot data", _sum(lambda x, o: -x * np.log(o)), ("one-hot",)),
    Family("Gaussian with optimal noise", _optimal_noise, REAL),
    Family("Gaussian with optimal noise per row", _rows_optimal_noise, REAL),
    Family("categorical on logits", lambda x, o: _categorical(x, log_softmax(o, -1)), ("tokens",)),
    Family("categorical on logits", lambda x, o: _categorical(x, log_softmax(o, 1), 1), ("tokens first",)),
    Family("categorical on log-probabilities", lambda x, o: _categorical(x, o), ("tokens",)),
    Family("categorical on log-probabilities", lambda x, o: _categorical(x, o, 1), ("tokens first",)),
    Family("categorical on probabilities", lambda x, o: _categorical(x, np.log(o)), ("token probabilities",)),
    Family("Bernoulli on probabilities", _sum(_bernoulli), ("one-hot",)),
    *(_with_noise("Gaussian", 2, name, std) for name, std in SCALES),
    *(_with_noise("Laplace", 1, name, std) for name, std in SCALES),
    *(_with_noise("Gaussian after tanh", 2, name, std, np.tanh) for name, std in SCALES),
    Family("negative binomial on means and dispersions", _sum(_negative_binomial), ("counts",), scaled=True),
    Family(
        "negative binomial on means and log-dispersions",
        _sum(lambda x, o, t: _negative_binomial(x, o, np.exp(t))),
        ("counts",),
        scaled=True,
    ),
    # What is no likelihood of the data given the output, with the finding that names it.
    Family(
        "Bernoulli with its arguments swapped",
        _sum(lambda x, o: _bernoulli(o, x)),
        ("unit", "swapped binary"),
        wrong="RE004",
        detail="the output is taken for the data and the data for probabilities",
    ),
    Family(
        "Bernoulli on logits with its arguments swapped",
        _sum(lambda x, o: _bernoulli_logits(o, x)),
        ("unit", "wide", "swapped binary"),
        wrong="RE004",
        detail="the output is taken for the data and the data for logits",
    ),
    Family(
        "Poisson with its arguments swapped",
        _sum(lambda x, o: x - o * np.log(x)),
        ("unit",),
        wrong="RE004",
        detail="the output is taken for the counts and the data for rates",
    ),
    Family(
        "Poisson with its arguments swapped",
        _sum(lambda x, o: x - o * np.log(x) + log_gamma(o + 1)),
        ("swapped counts",),
        wrong="RE004",
        detail="the output is taken for the counts and the data for rates",
    ),
    Family(
        "Bernoulli on logits of a sigmoid",
        _sum(lambda x, o: _bernoulli_logits(x, sigmoid(o))),
        ("unit", "binary", "wide"),
        wrong="RE002",
        detail="a sigmoid is applied twice",
    ),
    Family(
        "Bernoulli on probabilities, ones only",
        _sum(lambda x, o: -x * np.log(o)),
        ("unit", "binary"),
        wrong="RE007",
        detail="only the half for ones is there, so the best output is 1 everywhere",
    ),
    Family(
        "categorical on logits of a softmax",
        lambda x, o: _categorical(x, log_softmax(np.exp(log_softmax(o, -1)), -1)),
        ("tokens",),
        wrong="RE002",
        detail="a softmax is applied twice",
    ),
    Family(
        "categorical on logits of a softmax",
        lambda x, o: _categorical(x, log_softmax(np.exp(log_softmax(o, 1)), 1), 1),
        ("tokens first",),
        wrong="RE002",
        detail="a softmax is applied twice",
    ),
    Family(
        "root of the mean squared error",
        lambda x, o: x.size * float(np.sqrt(np.mean((x - o) ** 2))),
        REAL,
        wrong="RE007",
        detail="the root of the batch's mean squared error is no sum over rows, and its weight moves with the error",
    ),
    Family(
        "root of each row's squared error",
        lambda x, o: float(np.sqrt((_rows(x - o) ** 2).sum(1)).sum()),
        REAL,
        wrong="RE007",
        detail="a norm per row instead of its square",
    ),
    Family(
        "difference without a square",
        _sum(lambda x, o: x - o),
        REAL,
        wrong="RE007",
        detail="errors of opposite sign cancel, and a larger output always costs less",
    ),
    Family(
        "cosine distance", _cosine, REAL, wrong="RE007", detail="a cosine does not see the scale of the output at all"
    ),
)


def _categorical(x: Array, logs: Array, axis: int = -1) -> float:
    return -float(np.take_along_axis(logs, np.expand_dims(x.astype(int), axis), axis).sum())


def curved(name: str, shape: Callable[[float], Callable[[Array, Array], Array]], parameter: float) -> Family:
    """A residual family with a parameter that was found by search, such as Huber's threshold."""
    return Family(f"{name} ({parameter:.3g})", _sum(shape(parameter)), REAL, noise="sigma^2")


def student_t(nu: float) -> Callable[[Array, Array], Array]:
    """(nu + 1) / 2 log(1 + r^2 / nu): Student's t with nu degrees of freedom."""
    return lambda x, o: (nu + 1) / 2 * np.log1p((x - o) ** 2 / nu)


CURVED: dict[str, Callable[[float], Callable[[Array, Array], Array]]] = {
    "Huber": huber,
    "log-cosh": log_cosh,
    "Student's t": student_t,
}
