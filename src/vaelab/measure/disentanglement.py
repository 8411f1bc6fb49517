"""Disentanglement of codes against known factors: every metric with its error.

Codes are [n, L] and factors whole numbers [n, F]. What has to be trained is trained on a random half of the rows and
looked at on the other half, again and again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import BadInput
from .estimate import Estimate
from .factor_prediction import Labelled, predicted

BINS = 20  # of a code, as published numbers have it
LOUD = 8.0  # times the deviation under chance, whose tail is a chi-squared's: no code seems to know what it does not
HALVES, T95 = 10, 2.262157  # random halves, and Student's t with one degree of freedom fewer: ten are too few for 1.96
LEAST_ROWS = 20  # with other than the commonest value: a half then lacks them once in 500,000 times
UNITS = {
    "mig": "of the factors' entropy",
    "modularity": "1 where each dimension knows one factor, 0 where none knows any",
    "sap": "gap in balanced accuracy",
    "dci_disentanglement": "1 where each dimension serves one factor",
    "dci_completeness": "1 where one dimension serves each factor",
    "dci_informativeness": "share of rows right",
    "explicitness": "area under the curve",
    "factor_vae": "share of groups right",
    "beta_vae": "share of groups right",
    "mutual_information": "nats, a row for each code and a column for each factor",
}


class Shared(NamedTuple):
    """What each code says about each factor.

    Args:
        nats: Mutual information, [L, F].
        noise: Its standard deviation if there were none, [L, F].
        entropy: Of the factors in nats, [F].
    """

    nats: np.ndarray
    noise: np.ndarray
    entropy: np.ndarray

    def of(self, factors: np.ndarray) -> Shared:
        """The same for some of the factors."""
        return Shared(self.nats[:, factors], self.noise[:, factors], self.entropy[factors])


def shared_information(codes: np.ndarray, factors: np.ndarray, bins: int = BINS, corrected: bool = True) -> Shared:
    r"""Mutual information of every code, cut into bins of one width, with every factor, in nats.

    .. math:: I(z_l; v_f) = H(z_l) + H(v_f) - H(z_l, v_f)

    Frequencies of n rows give too much: (K_z - 1)(K_v - 1) / 2n on average where there is nothing and K_z and K_v
    values are in use. `corrected` adds (K - 1) / 2n to each entropy, after which the bias is of order 1/n² as long as
    every value has been met, and an estimate may be below 0. The bins lose information; that is not corrected.

    Reference: Miller, Note on the Bias of Information Estimates, 1955.

    Args:
        codes: [n, L].
        factors: Whole numbers [n, F].
        bins: Of a code, between its lowest and its highest value.
        corrected: False: the plain frequencies, as published numbers have it.

    Example:
        >>> codes, factors = np.array([[0.0], [0.1], [1.0], [0.9]]), np.array([[3], [3], [5], [5]])
        >>> shared_information(codes, factors, bins=2, corrected=False).nats.round(6)
        array([[0.693147]])
    """
    binned = [_bin(column, bins) for column in codes.T]
    values = [_numbered(column) for column in factors.T]
    of_codes, of_factors = (np.array([_entropy(c, corrected) for c in columns]) for columns in (binned, values))
    joint = [[_entropy(_numbered(b * (v.max() + 1) + v), corrected) for v in values] for b in binned]
    # 2n times the plain estimate is chi-squared where there is nothing: a variance of 2 for each degree of freedom.
    freedom = np.outer([b.max() for b in binned], [v.max() for v in values])
    noise = np.sqrt(2 * freedom) / (2 * len(codes))
    return Shared(of_codes[:, None] + of_factors - np.array(joint), noise, of_factors)


def _bin(code: np.ndarray, bins: int) -> np.ndarray:
    """The bins in use, numbered from 0, [n]."""
    edges = np.linspace(code.min(), code.max(), bins + 1)
    return _numbered(np.digitize(code, edges[1:-1]))


def _numbered(values: np.ndarray) -> np.ndarray:
    """Values in order as 0, 1, 2, ..."""
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def _entropy(numbered: np.ndarray, corrected: bool) -> float:
    """In nats, of values 0 ... K-1 that all occur."""
    share = np.bincount(numbered) / len(numbered)
    return float(-(share * np.log(share)).sum() + corrected * (len(share) - 1) / (2 * len(numbered)))


def information_gap(shared: Shared) -> float:
    r"""MIG: by how much the best code knows a factor better than the second best, as a share of the factor's entropy.

    .. math:: \frac{1}{F} \sum_f \frac{I(z_{(1)}; v_f) - I(z_{(2)}; v_f)}{H(v_f)}

    A single code competes with one that knows nothing. A factor with more values than there are bins stays below 1.
    Reference: Chen, Li, Grosse and Duvenaud, Isolating Sources of Disentanglement in VAEs, 2018.
    """
    nothing = np.zeros((2, len(shared.entropy)))
    ordered = np.sort(np.vstack([nothing, shared.nats]), axis=0)
    return float(((ordered[-1] - ordered[-2]) / shared.entropy).mean())


def modularity(shared: Shared) -> float:
    r"""How close each code comes to knowing one factor alone, on average over the codes that know any.

    .. math:: 1 - \frac{\sum_{f \ne f^*} I(z_l; v_f)^2}{(F - 1) I(z_l; v_{f^*})^2}

    Codes without information (none above chance by `LOUD` deviations) are left out, about which the paper is silent;
    0 where all are, which is what factors by chance give: noise would otherwise count as evenly spread knowledge.

    Reference: Ridgeway and Mozer, Learning Deep Disentangled Embeddings with the F-Statistic Loss, 2018.
    """
    loud = (shared.nats > LOUD * shared.noise).any(1)
    if not loud.any():
        return 0.0
    squares = np.maximum(shared.nats[loud], 0) ** 2
    top = squares.max(1)
    others = max(squares.shape[1] - 1, 1)
    return float((1 - (squares.sum(1) - top) / (others * top)).mean())


def disentanglement_scores(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> dict[str, Estimate]:
    """Every score by the names of `UNITS`; factors of one value count in `mutual_information` [L, F] only.

    What follows from `shared_information` takes all rows. What is trained is the mean over `HALVES` random halves, so
    it learns from half of the rows, and is lower than it would be with all. Intervals are for other rows from the same
    source, and for what is drawn: a score's deviation over halves is its standard error over all rows, to first order.

    Reference: Shao and Wu, A General Theory for Jackknife Variance Estimation, 1989, of which this deletes half.

    Args:
        codes: [n, L], such as posterior means.
        factors: Whole numbers [n, F].
        seed: Of halves, groups and trees.

    Raises:
        BadInput: for codes that are not finite, and factors that cannot be told apart or held fixed.
    """
    rows = Labelled(np.asarray(codes, np.float64), np.asarray(factors))
    _check(*rows)
    varies = np.ptp(rows.factors, 0) > 0
    whole = _from_table(rows, varies)
    halves = [
        _from_table(train, varies) | predicted(train.of(varies), test.of(varies), random)
        for train, test, random in _halves(rows, seed)
    ]
    values = np.array([len(np.unique(column)) for column in rows.factors.T[varies]])
    units = UNITS | {"sap": f"{UNITS['sap']}, {np.mean(1 - 1 / values):.2f} at most"}
    return {name: _estimate([half[name] for half in halves], whole.get(name), unit) for name, unit in units.items()}


def _from_table(rows: Labelled, varies: np.ndarray) -> dict[str, Any]:
    shared = shared_information(*rows)
    varying = shared.of(varies)
    return {
        "mig": information_gap(varying),
        "modularity": modularity(varying),
        "mutual_information": shared.nats,
    }


def _halves(rows: Labelled, seed: int) -> Iterator[tuple[Labelled, Labelled, np.random.Generator]]:
    """Rows to train on, the others, and a generator for what is drawn with them."""
    count = len(rows.codes)
    for random in np.random.default_rng(seed).spawn(HALVES):
        order = random.permutation(count)
        train, test = (Labelled(rows.codes[part], rows.factors[part]) for part in np.split(order, [count // 2]))
        yield train, test, random


def _estimate(halves: list[Any], whole: Any, unit: str) -> Estimate:
    """The value from all rows, or else the mean over halves, with the half-width from their deviation."""
    value = np.mean(halves, axis=0) if whole is None else whole
    spread = T95 * np.std(halves, axis=0, ddof=1)
    return Estimate(value, spread, unit) if np.ndim(value) else Estimate(float(value), float(spread), unit)


def _check(codes: np.ndarray, factors: np.ndarray) -> None:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or factors.dtype.kind not in "iu":
        received = f"codes {codes.shape} and factors {factors.shape} {factors.dtype}"
        fix = "factors[:, None] for a single factor" if factors.ndim == 1 else ""
        raise BadInput("factors", received, "must be [n, L] and whole numbers [n, F]", fix)
    if not np.isfinite(codes).all():
        raise BadInput("codes", "a NaN or an infinity", "must be finite numbers", "look for it with vaelab diagnose")
    count = len(codes)
    used = [np.unique(column, return_counts=True)[1] for column in factors.T]
    if not any(len(rows) > 1 for rows in used):
        fix = "rows in which a factor varies; one that is constant says nothing of the code"
        raise BadInput("factors", f"{len(used)}, all constant in {count} rows", "at least one has to vary", fix)
    for column, rows in enumerate(used):
        place = f"factors, column {column} (counting from 0)"
        if len(rows) > count // 2:
            rule = "rows with one value are needed, to hold it fixed"
            raise BadInput(place, f"{len(rows)} values in {count} rows", rule, "put its values into classes")
        if 0 < (others := count - int(rows.max())) < LEAST_ROWS:
            rule = f"at least {LEAST_ROWS} rows have to differ from the commonest value"
            raise BadInput(place, f"{others} rows that differ", rule, "leave it out, or give more rows")
