"""Disentanglement by prediction: what a classifier, trained on some rows' codes, says about other rows' factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

TREES, LEAF = 10, 0.008  # a leaf's least share of the rows: importances then come close to those of boosted trees
GROUP, GROUPS = 64, 400  # pairs or rows in which one factor is held fixed, as in the papers; groups for each factor
ALIVE = 0.05  # deviation of a code, where the prior's is 1: below it FactorVAE's reference has it collapsed


class Labelled(NamedTuple):
    """Codes [n, L] and factors, whole numbers [n, F]."""

    codes: np.ndarray
    factors: np.ndarray

    def of(self, factors: np.ndarray) -> Labelled:
        """The same with some of the factors."""
        return Labelled(self.codes, self.factors[:, factors])


def predicted(train: Labelled, test: Labelled, random: np.random.Generator) -> dict[str, float]:
    """Every score of this module by name, for factors that all vary."""
    disentanglement, completeness, informativeness = tree_importances(train, test, random)
    return {
        "sap": attribute_gap(train, test),
        "dci_disentanglement": disentanglement,
        "dci_completeness": completeness,
        "dci_informativeness": informativeness,
        "explicitness": explicitness(train, test),
        "factor_vae": fixed_factor_votes(train, test, random),
        "beta_vae": fixed_factor_differences(train, test, random),
    }


def attribute_gap(train: Labelled, test: Labelled) -> float:
    """SAP: by how much the best single code predicts a factor better than the second best, mean over factors.

    Predicted by thresholds on the code (a tree with as many leaves as the factor has values), scored by the share of
    rows right, averaged over the values: 1/K by chance for K values, so that a gap is 1 - 1/K at most. The second best
    is at least a guess. The widely used code of Locatello et al., 2019, has a linear classifier instead, which cannot
    tell apart the middle ones of ordered values.

    Reference: Kumar, Sattigeri and Balakrishnan, Variational Inference of Disentangled Latent Concepts, 2018.
    """
    gaps = []
    for known, wanted in zip(train.factors.T, test.factors.T, strict=True):
        values = len(np.unique(known))
        pairs = zip(train.codes.T, test.codes.T, strict=True)
        ordered = np.sort([1 / values, *(_threshold_score(*pair, known, wanted, values) for pair in pairs)])
        gaps.append(ordered[-1] - ordered[-2])
    return float(np.mean(gaps))


def _threshold_score(code: np.ndarray, other: np.ndarray, known: np.ndarray, wanted: np.ndarray, values: int) -> float:
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=values, class_weight="balanced", random_state=0)
    right = tree.fit(code[:, None], known).predict(other[:, None]) == wanted
    return float(np.mean([right[wanted == value].mean() for value in np.unique(wanted)]))


def tree_importances(train: Labelled, test: Labelled, random: np.random.Generator) -> tuple[float, float, float]:
    r"""DCI: disentanglement, completeness, and informativeness as the share of rows predicted right.

    With R_lf, how much trees that predict factor f rely on code l, and P_l. its shares,

    .. math:: D = \sum_l \rho_l (1 - H(P_{l \cdot}) / \log F), \quad \rho_l = \sum_f R_{lf} / \sum R

    and C likewise with the codes' shares of each factor. R is the fall of Gini's impurity in bagged trees, as the
    paper's random forest; the code of Locatello et al., 2019, boosts trees, which takes fifty times as long.

    Reference: Eastwood and Williams, A Framework for the Quantitative Evaluation of Disentangled Representations, 2018.
    """
    from sklearn.ensemble import RandomForestClassifier

    table, right = [], []
    for known, wanted in zip(train.factors.T, test.factors.T, strict=True):
        forest = RandomForestClassifier(
            TREES, max_features=None, min_samples_leaf=LEAF, random_state=int(random.integers(2**31))
        ).fit(train.codes, known)
        table.append(forest.feature_importances_)
        right.append(forest.score(test.codes, wanted))
    importance = np.array(table).T
    return concentration(importance), concentration(importance.T), float(np.mean(right))


def concentration(importance: np.ndarray) -> float:
    """1 minus the entropy of each row's shares over the logarithm of their number, rows weighed by their sums, [m, k].

    Example:
        >>> concentration(np.eye(3)), round(concentration(np.ones((3, 3))), 6)
        (1.0, 0.0)
    """
    weights = importance.sum(1)
    if not weights.any():
        return 0.0
    used = importance[weights > 0]
    share = used / used.sum(1, keepdims=True)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1)
    return float(np.average(1 - entropy / np.log(max(importance.shape[1], 2)), weights=weights[weights > 0]))


def explicitness(train: Labelled, test: Labelled) -> float:
    """How well a linear classifier on all codes tells each value of a factor from the others: the mean area under the
    ROC curve over values, then over factors; 1/2 by chance.

    Reference: Ridgeway and Mozer, Learning Deep Disentangled Embeddings with the F-Statistic Loss, 2018.
    """
    from sklearn.metrics import roc_auc_score

    areas = []
    for known, wanted in zip(train.factors.T, test.factors.T, strict=True):
        model = _linear().fit(train.codes, known)
        chances = zip(model.classes_, model.predict_proba(test.codes).T, strict=True)
        told = [(wanted == value, chance) for value, chance in chances if 0 < np.mean(wanted == value) < 1]
        areas.append(np.mean([roc_auc_score(*pair) for pair in told]))
    return float(np.mean(areas))


def fixed_factor_votes(train: Labelled, test: Labelled, random: np.random.Generator) -> float:
    """FactorVAE's score: how often the code that varies least in a group of rows tells which factor they share.

    Variances are relative to those over all rows; codes of a deviation below `ALIVE` are left out, and 0 is the score
    of no others. Each code stands for the factor it voted for most in groups of the training rows; the votes counted
    are those in groups of the test rows. Reference: Kim and Mnih, Disentangling by Factorising, 2018.
    """
    spread = train.codes.std(0)
    alive = spread >= ALIVE
    if not alive.any():
        return 0.0
    learnt, counted = (_votes(part.codes[:, alive] / spread[alive], part.factors, random) for part in (train, test))
    return float(counted[learnt.argmax(0), np.arange(alive.sum())].sum() / counted.sum())


def _votes(codes: np.ndarray, factors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """How often each code varied least in groups that share a factor, [F, L]."""
    votes = []
    for column in factors.T:
        first = np.repeat(random.integers(len(codes), size=(GROUPS, 1)), GROUP, axis=1)
        least = codes[_sharing(column, first, random)].var(1).argmin(1)
        votes.append(np.bincount(least, minlength=codes.shape[1]))
    return np.array(votes)


def fixed_factor_differences(train: Labelled, test: Labelled, random: np.random.Generator) -> float:
    """beta-VAE's score: how often a linear classifier tells which factor a group of pairs shares, each pair its own
    value, from the mean absolute difference of their codes. Reference: Higgins et al., beta-VAE, 2017.
    """
    (x, y), (other, wanted) = (_differences(part, random) for part in (train, test))
    return float(_linear().fit(x, y).score(other, wanted)) if train.factors.shape[1] > 1 else 1.0


def _differences(part: Labelled, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute differences [F * G, L] and which factor each group shares, [F * G]."""
    found = []
    for column in part.factors.T:
        first = random.integers(len(part.codes), size=(GROUPS, GROUP))
        second = _sharing(column, first, random)
        found.append(np.abs(part.codes[first] - part.codes[second]).mean(1))
    return np.concatenate(found), np.repeat(np.arange(len(found)), GROUPS)


def _sharing(column: np.ndarray, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """For each of the rows one drawn from all that have its value, itself among them, of the shape of `rows`."""
    order = np.argsort(column, kind="stable")
    low, high = (np.searchsorted(column[order], column[rows], side) for side in ("left", "right"))
    return order[random.integers(low, high)]


def _linear() -> Any:
    """Logistic regression on codes brought to one scale."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
