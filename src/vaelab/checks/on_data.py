"""Checks of the rows as the model will see them: copies in both splits, scale, noise, latent size, shared structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..core.finding import Finding
from ..core.tokens import PADDING
from ..distributions.incomplete import complete_of
from ..models.codes import has_codes
from .copies import leaked
from .facts import MOST_VARIANCE, Facts
from .on_likelihood import wrong_likelihood

# A standardised column has a root mean square of 1. Gray levels from 0 to 16 reach 8 and still train; at some tens the
# first layers saturate, the squared error swamps the divergence, and the steps of Adam are too small for the last bias.
LARGE_SCALE, SMALL_SCALE = 20.0, 0.02
UNEQUAL_SCALES = 100.0  # the squared errors of two columns then differ by 10^4: the smaller one counts for nothing
CENTRAL = (1, 99)  # per cent: what is outside may be called single entries
CROWDED, FEWEST_VALUES = 0.02, 10  # a normal column's centre is 4.7 wide; zeros and ones are no crowded column
NEARLY_CONSTANT = 0.01  # deviation, over that of all entries, of an entry on which a density can gain 4.6 nats and more
CONSTANT_SHARE = 0.01  # share of such entries from which they drive the bound
LOUD_NOISE = 1.6  # fixed noise over the data's own deviation; at 1 it is as if nothing had been learned
LATENT_EXCESS = 2  # latent dimensions per entry of a row from which they cost time and invite to store rows
DEFAULT_LATENT = 16
FEWEST_ROWS = 50  # below this, independence cannot be told from weak dependence
MOST_COLUMNS = 256
INDEPENDENT = 3.0  # standard errors of the mean squared correlation within which it is that of independent columns


def check_data(facts: Facts) -> list[Finding]:
    """All findings about the data."""
    rules = OF_STRINGS if facts.spec.vocabulary else RULES
    return [finding for rule in rules for finding in rule(facts)]


def describe_data(facts: Facts) -> Finding:
    """What reaches the model, as numbers."""
    x, raw = facts.x, facts.raw
    if facts.spec.mixed:
        return Finding(
            "DA144",
            "info",
            f"{len(facts.rows)} rows of a mixed table of {x.shape[1]} columns",
            100 * facts.missing,
            "% of the entries are missing",
            evidence=f"{int((facts.std == 0).sum())} constant columns; {len(facts.held_out)} rows held out",
        )
    if facts.spec.vocabulary:
        return Finding(
            "DA144",
            "info",
            f"{len(facts.rows)} strings of at most {x.shape[1] - 1} tokens out of {len(facts.spec.vocabulary)}",
            float((x != PADDING).sum(1).mean()),
            "tokens on average, the end included",
            evidence=f"{len(facts.held_out)} strings held out",
        )
    kind = "whole numbers" if facts.whole else "real numbers"
    return Finding(
        "DA144",
        "info",
        f"{len(facts.rows)} rows of {x.shape[1]} {kind} from {raw.min():.6g} to {raw.max():.6g}",
        facts.spread,
        "root mean square of the entries' deviations on the model's scale",
        evidence=f"{100 * facts.zeros:.3g} % zeros; {int((facts.std == 0).sum())} constant entries; "
        f"{_gaps(facts)}from {x.min():.4g} to {x.max():.4g} on the model's scale; {len(facts.held_out)} rows held out",
    )


def _gaps(facts: Facts) -> str:
    return f"{100 * facts.missing:.3g} % missing; " if facts.missing else ""


def _leaked(facts: Facts) -> Iterator[Finding]:
    if found := leaked(facts.rows, facts.held_out, facts.config.seed):
        yield Finding(
            "DA127",
            "warning",
            "held-out rows are exact copies of training rows",
            100 * found.share,
            "% of the held-out rows",
            evidence=f"{found.count} rows, compared entry by entry; {100 * found.inside:.3g} % of the training rows "
            f"repeat one another, and {100 * found.halves:.3g} % of the other held-out rows agree with one in half of "
            "their columns, which is what chance would have to grow from",
            why="a row that was trained on says nothing of rows not seen, so the held-out loss looks better than it is",
            advice="remove the copies before splitting, such as numpy.unique(x, axis=0), or split by what they share",
            expected="the held-out loss rises to what new rows will cost",
        )


def _unscaled(facts: Facts) -> Iterator[Finding]:
    """Real values far from order one, or columns of a table on different scales."""
    if facts.likelihood not in ("gaussian", "continuous_bernoulli") or not facts.std.any():
        return
    size, std = np.sqrt((facts.x**2).mean(0)), facts.std
    varying = std > 1e-6 * std.max()  # rounding errors of a large constant are no scale
    # On [0, 1] small columns are small probabilities, or the pixels of an image's border.
    by_column = facts.is_table and facts.likelihood == "gaussian" and not (facts.x.min() >= 0 and facts.x.max() <= 1)
    ratio = float(std[varying].max() / std[varying].min()) if by_column else 1.0
    overall = float(size.max() if facts.is_table else np.sqrt((size**2).mean()))
    if SMALL_SCALE <= overall <= LARGE_SCALE and ratio <= UNEQUAL_SCALES:
        return
    widest = f", the largest in column {facts.spec.columns[int(size.argmax())]}" if facts.spec.columns else ""
    yield Finding(
        "DA128",
        "warning",
        "the data are not scaled",
        overall,
        f"root mean square of the values that reach the model{widest}",
        evidence=f"the widest column varies {ratio:.3g} times as much as the narrowest; data.scale="
        f"{facts.config.data.scale}",
        why="start values and learning rate are made for numbers near one, and a column in large units drowns the rest",
        edit={"likelihood.name": "gaussian", "data.scale": "standardize"},
        expected="a root mean square of 1 for every column, and a held-out loss in which each has its part",
    )


def _crowded(facts: Facts) -> Iterator[Finding]:
    """Columns whose single entries far out decide the scale, so that all the others are one number to the model."""
    if facts.likelihood != "gaussian" or facts.config.data.scale not in ("auto", "standardize"):
        return
    x, raw = (rows if facts.is_table else rows.reshape(-1, 1) for rows in (facts.x, facts.raw))
    width = np.subtract(*np.percentile(x, CENTRAL[::-1], axis=0))
    crowded = width < CROWDED
    for column in np.flatnonzero(crowded):  # few values are crowded by nature: a constant, or zeros and a rare one
        low, high = np.percentile(raw[:, column], CENTRAL)
        inside = (raw[:, column] >= low) & (raw[:, column] <= high)
        crowded[column] = len(np.unique(raw[inside, column])) >= FEWEST_VALUES
    if crowded.any():
        names = facts.names(crowded) if facts.spec.columns else ""
        yield Finding(
            "DA142",
            "warning",
            f"single values far out set the scale{f' of {names}' if names else ''}",
            float(width[crowded].min()),
            f"is as wide as the central {CENTRAL[1] - CENTRAL[0]} % of the values are on the model's scale",
            evidence=f"{len(facts.x)} training rows; a normal column has 4.7",
            why="the deviation is that of the outliers, and next to it all other values are one number to the model",
            advice="drop or clip the outliers, or take a logarithm of the column",
            expected="values that fill a few units around 0",
        )


def _pixel_noise(facts: Facts) -> Iterator[Finding]:
    share = float(np.mean(facts.std < NEARLY_CONSTANT * facts.spread))
    if facts.noise == "pixel" and share > CONSTANT_SHARE:
        yield Finding(
            "DA137",
            "warning",
            "a noise for each entry, and entries that hardly vary",
            100 * share,
            f"% of the entries vary less than {100 * NEARLY_CONSTANT:g} % as much as all do",
            evidence=f"{len(facts.x)} training rows",
            why="the density of a constant entry grows without bound as its noise shrinks, and hides what others lack",
            edit={"likelihood.noise": "shared"},
            expected="a bound that falls only where rows are reconstructed better",
        )


def _loud_noise(facts: Facts) -> Iterator[Finding]:
    if facts.noise != "fixed" or facts.spread == 0:
        return
    sigma = complete_of(facts.module).noise.log_sigma.exp().item()
    ratio = sigma / facts.spread
    if ratio > LOUD_NOISE:
        yield Finding(
            "DA138",
            "warning",
            "the fixed noise is larger than the data's own variation",
            ratio,
            "times the deviation of the entries",
            evidence=f"a deviation of {sigma:.3g}; the entries deviate by {facts.spread:.3g} on the model's scale",
            why="with so much noise hardly any detail is worth its nats in the code: blurred rows, or a collapse",
            edit={"likelihood.noise": "shared"},
            expected="a learned noise near the residuals, a higher KL and sharper reconstructions",
        )


def _latent_size(facts: Facts) -> Iterator[Finding]:
    latent, entries = facts.config.model.latent or 0, facts.x.shape[1]
    if has_codes(facts.config.model):
        return  # they are no numbers of their own, but entries of a book
    if latent > LATENT_EXCESS * entries:
        yield Finding(
            "DA139",
            "warning",
            f"{latent} latent dimensions for rows of {entries} entries",
            latent / entries,
            "latent dimensions for each entry",
            why="no row needs more numbers in its code than it has itself; the others stay unused or store noise",
            edit={"model.latent": max(1, min(DEFAULT_LATENT, entries // 2))},
            expected="the same bound with fewer unused dimensions",
        )
    elif facts.needed is not None and latent > facts.needed:
        yield Finding(
            "DA140",
            "info",
            f"the data's linear structure needs fewer than {latent} latent dimensions",
            float(facts.needed),
            f"principal components hold {100 * MOST_VARIANCE:g} % of the variance",
            evidence=f"{len(facts.x)} training rows on the model's scale",
            why="dimensions beyond what the data hold stay unused, which costs nothing but time",
        )


def _independent(facts: Facts) -> Iterator[Finding]:
    """The mean squared correlation of columns, and of their squares, against 1 / (n - 1), what shuffling leaves."""
    count = len(facts.x)
    columns = facts.x[:, facts.std > 0][:, :MOST_COLUMNS]
    if columns.shape[1] < 2 or count < FEWEST_ROWS:
        return
    centred = _standardised(columns)
    squares = _standardised(centred**2)
    pairs = np.triu_indices(columns.shape[1], 1)
    kinds = ((centred, centred), (squares, squares), (centred, squares))
    found = np.concatenate([((a.T @ b / count)[pairs]) ** 2 * (count - 1) for a, b in kinds])
    error = np.sqrt(2 / len(found))  # each is nearly the square of a standard normal
    mean = float(found.mean())
    if mean < 1 + INDEPENDENT * error:
        yield Finding(
            "DA141",
            "warning",
            "the columns say nothing of each other",
            mean,
            "times the squared correlation that shuffled columns have",
            interval=float(1.96 * error),
            evidence=f"{len(found)} pairs of columns and of their squares, {count} training rows",
            why="a code carries what columns share; where they share nothing, the best model ignores it",
            advice="look at how the rows were made: shuffled or generated column by column",
            expected="a KL near 0 whatever the settings, unless the columns are put right",
        )


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 of each column; the squares of a balanced two-valued one are constant, and become 0."""
    std = columns.std(0)
    return (columns - columns.mean(0)) / np.where(std > 1e-9, std, np.inf)


def _duplicated(facts: Facts) -> Iterator[Finding]:
    """Columns that are the same but for shift, scale and sign."""
    varying = np.flatnonzero(facts.std > 0)
    if not facts.is_table or len(varying) < 2:
        return
    columns = _standardised(facts.x[:, varying])
    columns = (columns * np.sign(columns[np.abs(columns).argmax(0), np.arange(len(varying))])).round(4) + 0.0
    _, first = np.unique(columns, axis=1, return_index=True)
    copies = np.ones(facts.x.shape[1], bool)
    copies[varying[first]] = copies[facts.std == 0] = False
    if copies.any():
        yield Finding(
            "DA143",
            "info",
            f"columns that repeat another: {facts.names(copies)}",
            float(copies.sum()),
            "columns",
            evidence=f"{len(facts.x)} training rows, up to shift, scale and sign",
            why="what they say counts twice in the bound",
            advice="remove them, unless the model is to give them back",
        )


Rule = Callable[[Facts], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    _leaked,
    _unscaled,
    wrong_likelihood,
    _crowded,
    _pixel_noise,
    _loud_noise,
    _latent_size,
    _independent,
    _duplicated,
)
OF_STRINGS: tuple[Rule, ...] = (_leaked,)  # the others take entries for numbers
