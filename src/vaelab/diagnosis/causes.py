"""Rules that name why a run went wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.finding import Finding
from .case import FAST, HIGH_BETA, LOW_BETA, MANY_ROWS, Case, Found, of, slower
from .symptoms import exploding

WIDENED = 1.0  # log of the factor by which the best q is wider: the weight 1 / e; default runs stay within 0.1
NOISE_LARGE, NOISE_SMALL = 0.5, 2.0  # residuals of half, or of twice, the variance that a noise not learned expects
STRONG = 0.1  # of the constant decoder's nats; a baseline from few rows is itself some percent too high
SAME = 1e-9  # variance over rows; what training leaves of a code that it gave up is some 1e-5
CARRIES = 0.5  # nats a row: more than dimensions at the limit of being in use add up to
DEAD_CODES = {"encoder": "DG117", "decoder": "DG118"}
DEAD_LAYER = 0.9  # of a layer's units; rectified networks train well with half of them dead
SATURATED = 0.6  # of the rows in the outer tenth of the range; a uniform code has 10 % there, a normal one 0.3 %
ONE_ENTRY = 0.9  # of the variance that the model sees; standardised columns have equal shares
FEW_ROWS = 10  # on fewer rows any unit may answer alike
LEARNED = 0.1  # of the constant decoder's nats, before it can be said that learning did not carry over
OVERFIT = 0.25  # of what training rows gained over a constant decoder; 0.18 in default runs, whatever chance adds
COPIED = 0.2  # of the samples, more than among held-out rows
FLOOR, AT_FLOOR = -5.0, 0.02  # noise 150 times below the data's own unit, for one entry in fifty


def noise(c: Case) -> Found:
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
            **of(size),
            evidence="mean squared residual over the variance of the decoder's noise, 1 where it fits",
            why="differences well below the noise cost almost nothing, so that no code is spent on them",
            edit=learned,
            expected="a ratio near 1, a higher rate and a lower bound",
        )
    elif size.value > NOISE_SMALL and not next(exploding(c), None):  # codes that noise drowns leave residuals as well
        yield Finding(
            "DG114",
            "warning",
            "the decoder's fixed noise is too small: the code stores every row, and the prior is not met",
            **of(size),
            evidence="mean squared residual over the variance of the decoder's noise, 1 where it fits",
            why="residuals are charged so highly that the divergence no longer counts",
            edit=learned,
            expected="a ratio near 1, a lower rate and samples that look like data",
        )


def beta_small(c: Case) -> Found:
    if c.config.objective.charges and c.beta < LOW_BETA and c.value("widening") > WIDENED:
        yield Finding(
            "DG110",
            "warning",
            "the codes leave the prior full of holes: beta is too small",
            float(np.exp(c.numbers["widening"].value)),
            "times as wide would posteriors be at a weight of 1",
            evidence=f"posteriors fitted again, row by row, with a weight of 1; beta is {c.beta:.3g}"
            f", and a classifier tells codes from the prior with {c.value('separability'):.2f} (0.5: not at all)",
            why="with so small a weight posteriors shrink to points and stand where they like, so that draws from the "
            "prior fall between them",
            edit={"objective.beta": 1.0},
            expected="a factor near 1, a lower rate, and samples as good as reconstructions",
        )


def collapse(c: Case) -> Found:
    """No rate and no listening: z says nothing; why, is told by the weight and by a decoder without z."""
    if not (c.collapsed and c.deaf) or next(dead(c), None) or next(noise(c), None):
        return
    gain, error = c.value("skill", 0.0), c.numbers["bound"].interval if "bound" in c.numbers else np.inf
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
                **of(c.numbers["listening"]),
                evidence=f"nats gained by a row's own code over another's; the rate is {c.value('rate'):.2g} nats",
                why=why,
                edit=edit,
                expected="a rate of some nats, and as much or more gained by the right code",
            )
            return


def dead(c: Case) -> Found:
    """Layers, or whole networks, that answer every row alike, which no pull of the divergence does so thoroughly."""
    if c.rows < FEW_ROWS:
        return
    rate = c.config.train.learning_rate or 1e-3
    outputs = {"decoder": "reconstruction_spread", "encoder": "code_variance"}
    stuck = {part: _stuck(c, part, name) for part, name in outputs.items()}
    found = {part: number for part, number in stuck.items() if number is not None}
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
            edit=slower(c) | {"model.activation": "silu"},
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


def cut_off(c: Case) -> Found:
    """The code tells rows apart, and the decoder makes nothing of it."""
    if c.surely_deaf and not c.collapsed and c.value("rate") > CARRIES and not next(dead(c), None):
        yield Finding(
            "DG104",
            "warning",
            "the code carries information that the decoder ignores",
            **of(c.numbers["listening"]),
            evidence=f"nats gained by a row's own code over another's, at a rate of {c.value('rate'):.3g} nats",
            why="the decoder is frozen, was not trained, or is not joined to z",
            advice="see that every parameter of the decoder gets a gradient and is given to the optimiser",
            expected="a gain of at least the rate",
        )


def saturated(c: Case) -> Found:
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


def one_column(c: Case) -> Found:
    """One column's variance dwarfs the rest, so that the model is one of that column."""
    share = c.value("largest_entry")
    if not c.image and not c.counts and share > ONE_ENTRY and c.config.data.scale != "standardize":
        yield Finding(
            "DG127",
            "warning",
            "one column outweighs all others: the data is not scaled",
            100 * share,
            "% of the variance that the model sees are one column's",
            evidence="variances of the columns on the model's scale",
            why="one noise is shared by all columns, and the largest sets it: the others drown",
            edit={"data.scale": "standardize"},
            expected="equal shares, and a code that tells of all columns",
        )


def overfit(c: Case) -> Found:
    """The share of the gain on training rows, over a constant decoder, that is lost on new rows."""
    if "overfit_gap" not in c.numbers or "baseline" not in c.numbers:
        return
    gap, gained = c.numbers["overfit_gap"], c.value("baseline") - c.value("training_bound")
    learned = gained > LEARNED * abs(c.value("baseline"))  # else the gap is measured against next to nothing
    if learned and not c.collapsed and 0 < OVERFIT * gained < gap.low:
        yield Finding(
            "DG119",
            "warning",
            "the model knows the training rows by heart: much of what it learned does not hold for new rows",
            **of(gap),
            evidence=f"held-out minus training bound; training rows beat a constant decoder by {gained:.3g} nats",
            why="the networks are large, or trained long, for so few rows",
            edit={"model.dropout": 0.2, "train.weight_decay": 0.01},
            expected="a smaller gap, and a lower held-out bound; more rows help most",
        )


def memorised(c: Case) -> Found:
    if "copied" not in c.numbers:
        return
    copied, usual = c.numbers["copied"], c.value("copied_held_out", 0.0)
    if not c.deaf and copied.low - usual > COPIED:
        yield Finding(
            "DG112",
            "warning",
            "samples are copies of training rows",
            **of(copied),
            evidence=f"samples less than half as far from a training row as from the next one; among held-out rows "
            f"{usual:.2g}",
            why="the decoder stores the training rows and gives them back",
            edit={"model.dropout": 0.2, "train.weight_decay": 0.01},
            expected="no more copies than among held-out rows",
        )


def noise_floor(c: Case) -> Found:
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
