"""From the numbers of a diagnosis to findings: causes first; symptoms only where no cause explains them; then notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.config import Config
from ..core.finding import Finding
from ..measure.bound import ACTIVE_NATS
from ..measure.estimate import Estimate
from .measured import Numbers

DEAF = 0.2  # nats a row that the right code gains over another row's: ten dimensions at the limit of being in use
HIGH_BETA, LOW_BETA = 1.5, 0.5  # a weight of the divergence between these is a matter of taste
WIDENED = 1.0  # log of the factor by which the best q is wider: the weight 1 / e; default runs stay within 0.1
NOISE_LARGE, NOISE_SMALL = 0.5, 2.0  # residuals of half, or of twice, the variance that a noise not learned expects
STRONG = 0.1  # of the constant decoder's nats; a baseline from few rows is itself some percent too high
SAME = 1e-9  # variance over rows; what training leaves of a code that it gave up is some 1e-5
CARRIES = 0.5  # nats a row: more than dimensions at the limit of being in use add up to
FAST = 1e-2  # ten times the usual learning rate
DEAD_CODES = {"encoder": "DG117", "decoder": "DG118"}
DEAD_LAYER = 0.9  # of a layer's units; rectified networks train well with half of them dead
SATURATED = 0.6  # of the rows in the outer tenth of the range; a uniform code has 10 % there, a normal one 0.3 %
EXPLODED = 2.0  # prior variances, at the median row; the divergence is least at 1, and data only ever lower it
VANISHED = 1e-4  # prior variances, in the widest dimension in use: more than four nats each
ONE_ENTRY = 0.9  # of the variance that the model sees; standardised columns have equal shares
OVERFIT = 0.25  # of what training rows gained over a constant decoder; 0.18 in default runs, whatever chance adds
COPIED = 0.2  # of the samples, more than among held-out rows
FLOOR, AT_FLOOR = -5.0, 0.02  # noise 150 times below the data's own unit, for one entry in fifty
ALIKE = 0.2  # of the spread of reconstructions; default runs have 0.4 or more
FAR, IN_HOLES = 0.45, 0.5  # distance of a dimension's distribution from the prior's, beyond chance; share of draws
DOMINATING, MANY_NATS = 0.9, 3.0  # share of the rate in one dimension, and nats there: one of twenty kinds
MANY_ROWS = 50  # fewer say too little of shapes of distributions
LARGE_GAP = 0.5  # of the skill: what q loses is then half of what the model gains


@dataclass(frozen=True)
class Case:
    """What the rules read.

    Args:
        config: The resolved config.
        numbers: Of `measure`.
        rows: Held-out rows looked at.
        beta: Weight of the divergence in the last steps.
        fixed_noise: Whether the decoder's noise is given and not learned.
        counts: Whether the likelihood is one of counts.
        image: Whether rows are images.
    """

    config: Config
    numbers: Numbers
    rows: int
    beta: float
    fixed_noise: bool
    counts: bool
    image: bool

    def value(self, name: str, missing: Any = np.nan) -> Any:
        """A number's value; comparisons with NaN, where it is missing, are false."""
        return self.numbers[name].value if name in self.numbers else missing

    @property
    def active(self) -> np.ndarray:
        """Which groups of the divergence are in use."""
        return np.atleast_1d(self.value("kl_per_dimension")) > ACTIVE_NATS

    @property
    def collapsed(self) -> bool:
        """Whether no dimension carries anything."""
        return "kl_per_dimension" in self.numbers and not self.active.any()

    @property
    def deaf(self) -> bool:
        """Whether the decoder does as well with the code of another row."""
        return self.value("listening") < DEAF


Found = Iterator[Finding]


def judge(case: Case) -> list[Finding]:
    """All findings, the most urgent kind first; symptoms are told only where no cause was found."""
    causes = [finding for rule in CAUSES for finding in rule(case)]
    if not any(finding.severity in ("warning", "error") for finding in causes):
        causes = [finding for rule in SYMPTOMS for finding in rule(case)]
    return [*causes, *(finding for rule in NOTES for finding in rule(case))]


def _of(number: Estimate, index: int | None = None) -> dict[str, Any]:
    """The measured number of a finding, with interval and unit."""
    pick: Callable[[Any], Any] = lambda value: float(value if index is None else value[index])  # noqa: E731
    interval = None if number.interval is None else pick(number.interval)
    return {"measured": pick(number.value), "interval": interval, "unit": number.unit}


# Causes ---------------------------------------------------------------------------------------------------------------


def _noise(c: Case) -> Found:
    """A noise that was given: its variance against that of the residuals on training rows, which no overfit shrinks."""
    name = "training_dispersion" if "training_dispersion" in c.numbers else "dispersion"
    if not c.fixed_noise or name not in c.numbers:
        return
    size = c.numbers[name]
    learned = {"likelihood.name": "gaussian", "likelihood.noise": "shared", "likelihood.sigma": 1.0}
    if size.value < NOISE_LARGE:
        yield Finding(
            "DG113",
            "warning",
            "the decoder's fixed noise is too large: it hides detail, and pictures come out blurred",
            **_of(size),
            evidence="mean squared residual over the variance of the decoder's noise, 1 where it fits",
            why="differences well below the noise cost almost nothing, so that no code is spent on them",
            edit=learned,
            expected="a ratio near 1, a higher rate and a lower bound",
        )
    elif size.value > NOISE_SMALL:
        yield Finding(
            "DG114",
            "warning",
            "the decoder's fixed noise is too small: the code stores every row, and the prior is not met",
            **_of(size),
            evidence="mean squared residual over the variance of the decoder's noise, 1 where it fits",
            why="residuals are charged so highly that the divergence no longer counts",
            edit=learned,
            expected="a ratio near 1, a lower rate and samples that look like data",
        )


def _beta_small(c: Case) -> Found:
    if c.beta < LOW_BETA and c.value("widening") > WIDENED:
        yield Finding(
            "DG110",
            "warning",
            "the codes leave the prior full of holes: beta is too small",
            **_of(c.numbers["widening"]),
            evidence=f"log of the factor by which posteriors widen when fitted with a weight of 1; beta is {c.beta:.3g}"
            f", and a classifier tells codes from the prior with {c.value('separability'):.2f} (0.5: not at all)",
            why="with so small a weight posteriors shrink to points and stand where they like, so that draws from the "
            "prior fall between them",
            edit={"objective.beta": 1.0},
            expected="a factor near 1, a lower rate, and samples as good as reconstructions",
        )


def _collapse(c: Case) -> Found:
    """No rate and no listening: z says nothing; why, is told by the weight and by a decoder without z."""
    if not (c.collapsed and c.deaf) or next(_dead(c), None):
        return
    gain, error = c.value("skill", 0.0), c.numbers["bound"].interval
    steps = c.config.train.steps or 1
    for applies, code, title, why, edit in (
        (
            gain > 2 * error and gain > STRONG * abs(c.value("baseline", 0.0)),
            "DG102",
            "the decoder is so strong that it needs no code",
            "it is better than any decoder of independent entries though z tells it nothing: it reads the row itself",
            {"objective.free_bits": 0.2},
        ),
        (
            c.beta > HIGH_BETA,
            "DG101",
            "the decoder does not listen to the code: beta is too high",
            f"each nat of the code is charged {c.beta:.3g} times, more than it saves in reconstruction",
            {"objective.beta": 1.0},
        ),
        (
            True,
            "DG103",
            "the decoder does not listen to the code, and is no better than a constant",
            "the first steps taught it to do without, the noise is large, or the data has no structure to code",
            {"objective.anneal": "linear", "objective.warmup_steps": max(1, steps // 3)},
        ),
    ):
        if applies:
            yield Finding(
                code,
                "error",
                title,
                **_of(c.numbers["listening"]),
                evidence=f"nats gained by a row's own code over another's; the rate is {c.value('rate'):.2g} nats",
                why=why,
                edit=edit,
                expected="a rate of some nats, and as much or more gained by the right code",
            )
            return


def _dead(c: Case) -> Found:
    """Layers, or whole networks, that answer every row alike, which no pull of the divergence does so thoroughly."""
    rate = c.config.train.learning_rate or 1e-3
    outputs = {"decoder": "reconstruction_spread", "encoder": "code_variance"}
    stuck = {part: _stuck(c, part, name) for part, name in outputs.items()}
    found = {part: number for part, number in stuck.items() if number is not None}
    slower = {"train.learning_rate": min(1e-3, rate / 10), "model.activation": "silu"}
    for part, number in found.items():
        code, why = DEAD_CODES[part], "its units are where their slope is 0, and no gradient brings them back"
        if rate >= FAST:
            code, why = "DG105", f"steps with a learning rate of {rate:g} have driven its units where their slope is 0"
        yield Finding(
            code,
            "error" if c.deaf else "warning",
            f"the {part} is dead" + (": the learning rate is too high" if code == "DG105" else ""),
            **number,
            evidence="over all held-out rows",
            why=why,
            edit=slower,
            expected="units and outputs that differ between rows",
        )


def _stuck(c: Case, part: str, name: str) -> dict[str, Any] | None:
    """The number that shows a network to answer every row alike; None where it does not."""
    if c.value(f"dead_{part}") >= DEAD_LAYER:
        unit = "of the units of its worst layer give every row the same"
        return {"measured": c.value(f"dead_{part}"), "unit": unit}
    if np.max(c.value(name)) < SAME:
        return {"measured": float(np.max(c.value(name))), "unit": "variance of its output over rows"}
    return None


def _cut_off(c: Case) -> Found:
    """The code tells rows apart, and the decoder makes nothing of it."""
    if c.deaf and not c.collapsed and c.value("rate") > CARRIES and not next(_dead(c), None):
        yield Finding(
            "DG104",
            "error",
            "the code carries information that the decoder ignores",
            **_of(c.numbers["listening"]),
            evidence=f"nats gained by a row's own code over another's, at a rate of {c.value('rate'):.3g} nats",
            why="the decoder is frozen, was not trained, or is not joined to z",
            advice="see that every parameter of the decoder gets a gradient and is given to the optimiser",
            expected="a gain of at least the rate",
        )


def _saturated(c: Case) -> Found:
    """Codes at the two ends of their range in most dimensions that are in use."""
    ends, active = c.value("saturation"), c.active
    if c.rows < MANY_ROWS or c.deaf or np.ndim(ends) == 0:
        return
    used = ends[active] if len(active) == len(ends) else ends
    if np.median(used) > SATURATED:
        yield Finding(
            "DG116",
            "warning",
            "codes sit at the two ends of their range, like entries of a codebook",
            float(np.median(used)),
            "share of rows, in the middle dimension in use",
            evidence="posterior means in the outer 5 % of the range at either end",
            why="the encoder's output is bounded or has grown until it saturates, and its gradient is gone there",
            advice="leave the posterior mean unbounded (no tanh or sigmoid on it), and lower the learning rate",
            expected="posterior means spread like the prior",
        )


def _one_column(c: Case) -> Found:
    """One column's variance dwarfs the rest, so that the model is one of that column."""
    share = c.value("largest_entry")
    if not c.image and share > ONE_ENTRY and c.config.data.scale != "standardize":
        yield Finding(
            "DG127",
            "warning",
            "one column outweighs all others: the data is not scaled",
            **_of(c.numbers["largest_entry"]),
            evidence="share of one column in the variance that the model sees",
            why="one noise is shared by all columns, and the largest sets it: the others drown",
            edit={"data.scale": "standardize"},
            expected="equal shares, and a code that tells of all columns",
        )


def _overfit(c: Case) -> Found:
    """The share of the gain on training rows, over a constant decoder, that is lost on new rows."""
    if "overfit_gap" not in c.numbers or "baseline" not in c.numbers:
        return
    gap, gained = c.numbers["overfit_gap"], c.value("baseline") - c.value("training_bound")
    if 0 < OVERFIT * gained < gap.low:
        yield Finding(
            "DG119",
            "warning",
            "the model knows the training rows by heart: much of what it learned does not hold for new rows",
            **_of(gap),
            evidence=f"held-out minus training bound; a constant decoder is beaten by {gained:.3g} nats on training rows",
            why="the networks are large, or trained long, for so few rows",
            edit={"model.dropout": 0.2, "train.weight_decay": 0.01},
            expected="a smaller gap, and a lower held-out bound; more rows help most",
        )


def _memorised(c: Case) -> Found:
    if "copied" not in c.numbers:
        return
    copied, usual = c.numbers["copied"], c.value("copied_held_out", 0.0)
    if not c.deaf and copied.low - usual > COPIED:
        yield Finding(
            "DG112",
            "warning",
            "samples are copies of training rows",
            **_of(copied),
            evidence=f"samples less than half as far from a training row as from the next one; among held-out rows "
            f"{usual:.2g}",
            why="the decoder stores the training rows and gives them back",
            edit={"model.dropout": 0.2, "train.weight_decay": 0.01},
            expected="no more copies than among held-out rows",
        )


def _noise_floor(c: Case) -> Found:
    """Entries whose own noise goes to nothing: their density grows without bound."""
    noise = c.value("log_sigma_per_entry", None)
    if noise is not None and np.ndim(noise) and (share := float((noise < FLOOR).mean())) > AT_FLOOR:
        yield Finding(
            "DG124",
            "warning",
            "the noise of some entries is at its floor: they win the bound for nothing",
            share,
            f"share of entries with a log-noise below {FLOOR:g}",
            why="entries that never vary have no best noise: the smaller, the higher their density",
            edit={"likelihood.noise": "shared"},
            expected="one noise that all entries set together, and a bound that can be compared",
        )


# Symptoms -------------------------------------------------------------------------------------------------------------


def _exploding(c: Case) -> Found:
    widest = np.atleast_1d(c.value("posterior_variance_median"))
    if widest.max() > EXPLODED:
        yield Finding(
            "DG122",
            "warning",
            "the posterior is wider than the prior: its variance has exploded",
            float(widest.max()),
            "prior variances, at the median row in the widest dimension",
            evidence="variance of q(z|x) on held-out rows; the divergence is least at 1",
            why="nothing keeps q(z|x) near the prior: the weight of the KL is tiny, or its sign is wrong",
            edit={"objective.beta": 1.0},
            expected="variances between 0 and 1",
        )


def _worse_than_constant(c: Case) -> Found:
    if "skill" in c.numbers and c.numbers["skill"].high < 0:
        yield Finding(
            "DG125",
            "error",
            "worse than a decoder that gives every row the same",
            **_of(c.numbers["skill"]),
            evidence="negative log-likelihood of the best constant decoder minus the held-out bound",
            why="training has not arrived, has diverged, or serves something else than this bound",
            edit={"train.learning_rate": min(1e-3, (c.config.train.learning_rate or 1e-3) / 3), "train.clip_norm": 1.0},
            expected="a bound below that of the constant decoder",
        )


def _low_diversity(c: Case) -> Found:
    if not c.collapsed and "diversity" in c.numbers and c.numbers["diversity"].high < ALIKE:
        yield Finding(
            "DG111",
            "warning",
            "samples are all alike: they show a small part of what reconstructions show",
            **_of(c.numbers["diversity"]),
            evidence="spread of samples over the spread of reconstructions of held-out rows",
            why="codes of the data lie far out, and the prior's draws fall into the small region between them",
            edit={"objective.beta": max(1.0, c.beta)},
            expected="samples as varied as reconstructions",
        )


def _vanishing(c: Case) -> Found:
    variance, active = np.atleast_1d(c.value("posterior_variance_median")), c.active
    used = variance[active] if len(active) == len(variance) and active.any() else variance
    if used.max() < VANISHED:
        yield Finding(
            "DG123",
            "warning",
            "the posterior's variance vanishes: this is a plain autoencoder",
            float(used.max()),
            "prior variances, at the median row in the widest dimension in use",
            why="the divergence hardly counts beside so large a reconstruction",
            edit={"objective.beta": 1.0, "likelihood.noise": "shared"},
            expected="variances between 0.001 and 1",
        )


def _dominating(c: Case) -> Found:
    kl = np.atleast_1d(c.value("kl_per_dimension"))
    first, whole = int(np.argmax(kl)), kl.sum()
    if len(kl) > 2 and kl[first] > max(DOMINATING * whole, MANY_NATS):
        yield Finding(
            "DG121",
            "warning",
            f"one latent dimension dominates: z{first + 1} holds nearly the whole code",
            float(kl[first] / whole),
            f"of a rate of {whole:.3g} nats",
            why="one direction of the data is far larger than all others",
            edit={"data.scale": "standardize"},
            expected="a rate spread over several dimensions",
        )


# Notes ----------------------------------------------------------------------------------------------------------------


def _listens(c: Case) -> Found:
    if "listening" in c.numbers and not c.deaf:
        yield Finding(
            "DG100",
            "ok",
            "the decoder listens to the code",
            **_of(c.numbers["listening"]),
            evidence="nats gained by a row's own code over another row's",
        )


def _blurred(c: Case) -> Found:
    if "detail_reconstructions" in c.numbers and c.numbers["detail_reconstructions"].high < 0.5:
        yield Finding(
            "DG115",
            "info",
            "reconstructions are smoother than the images",
            **_of(c.numbers["detail_reconstructions"]),
            evidence="energy above a quarter cycle per pixel, over that of the held-out images",
            why="the mean of p(x|z) averages over what the code leaves open; that is usual for VAEs",
            advice="a larger model.latent or longer training, where finer detail matters",
        )


def _far_from_prior(c: Case) -> Found:
    distance = c.numbers.get("two_sample")
    if distance is None or c.rows < MANY_ROWS:
        return
    worst = int(np.argmax(distance.value))
    if distance.value[worst] - distance.interval[worst] > FAR and c.value("holes") > IN_HOLES:
        yield Finding(
            "DG128",
            "info",
            f"the codes lie elsewhere than the prior, most of all in z{worst + 1}: samples will look wrong",
            float(distance.value[worst]),
            distance.unit,
            float(distance.interval[worst]),
            evidence=f"codes against draws from the prior; {100 * c.value('holes'):.0f} % of the draws lie in holes",
            why="training stopped before the codes found the prior, or the likelihood rewards ever larger outputs",
            edit={"train.steps": 2 * (c.config.train.steps or 1000)},
            expected="a distance below 0.2",
        )


def _amortisation(c: Case) -> Found:
    gap, skill = c.numbers.get("amortisation_gap"), c.value("skill")
    if gap is not None and gap.low > LARGE_GAP * max(skill, 0.0) and not c.beta < LOW_BETA:
        yield Finding(
            "DG120",
            "info",
            "the encoder's posteriors are far from the best ones",
            **_of(gap),
            evidence="nats gained by 50 gradient steps on q of single rows, the decoder held fast",
            why="the encoder is small, or has not caught up with the decoder",
            advice="a wider model.hidden, or longer training",
        )


def _dispersion(c: Case) -> Found:
    name = "training_dispersion"
    if c.counts and name in c.numbers and (c.numbers[name].low > 2 or c.numbers[name].high < 0.5):
        over = c.value(name) > 1
        yield Finding(
            "DG126",
            "info",
            f"counts vary {'more' if over else 'less'} than a Poisson's",
            **_of(c.numbers[name]),
            evidence="mean squared residual over the Poisson's variance, 1 where it fits",
            why="events come in bursts" if over else "the counts are levels or sums with a limit, not events",
            edit={"likelihood.name": "gaussian", "data.scale": "standardize"},
            expected="a noise that is learned, and a ratio near 1",
        )


CAUSES: tuple[Callable[[Case], Found], ...] = (
    _dead,
    _one_column,
    _noise,
    _beta_small,
    _collapse,
    _cut_off,
    _saturated,
    _noise_floor,
    _memorised,
    _overfit,
)
SYMPTOMS: tuple[Callable[[Case], Found], ...] = (
    _exploding,
    _worse_than_constant,
    _vanishing,
    _low_diversity,
    _dominating,
)
NOTES: tuple[Callable[[Case], Found], ...] = (_listens, _blurred, _far_from_prior, _amortisation, _dispersion)
