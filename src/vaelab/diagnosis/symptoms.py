"""Rules that say what is wrong where no cause is known, and notes on what is fine or could be better."""

from __future__ import annotations

import numpy as np

from ..core.finding import Finding
from .case import FAST, LOW_BETA, MANY_ROWS, Case, Found, of, slower

EXPLODED = 2.0  # prior variances, at the median row; the divergence is least at 1, and data only ever lower it
VANISHED = 1e-4  # prior variances, in the widest dimension in use: more than four nats each
ALIKE = 0.2  # of the spread of reconstructions; default runs have 0.4 or more
FAR, IN_HOLES = 0.45, 0.5  # distance of a dimension's distribution from the prior's, beyond chance; share of draws
DOMINATING, MANY_NATS = 0.9, 3.0  # share of the rate in one dimension, and nats there: one of twenty kinds
LARGE_GAP = 0.5  # of the skill: what q loses is then half of what the model gains


def exploding(c: Case) -> Found:
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


def worse_than_constant(c: Case) -> Found:
    no_measure = c.config.prior.name == "uniform" or not c.config.objective.charges
    if "skill" not in c.numbers or c.numbers["skill"].high >= 0 or no_measure:
        return  # a prior over codes that was not fitted, or a KL that was not charged: each has a finding of its own
    rate, steps = c.config.train.learning_rate or 1e-3, c.config.train.steps or 1000
    long = {"train.steps": max(2000, 2 * steps)}
    yield Finding(
        "DG125",
        "warning",
        "worse than a decoder that gives every row the same",
        -c.value("skill"),
        "nats per sample worse",
        c.numbers["skill"].interval,
        evidence="held-out negative ELBO minus that of the best constant decoder",
        why="training has not arrived, has diverged, or serves something else than this bound",
        edit=long if rate < FAST else slower(c) | {"train.clip_norm": 1.0},
        expected="a bound below that of the constant decoder",
    )


def low_diversity(c: Case) -> Found:
    enough = c.rows >= MANY_ROWS and "diversity" in c.numbers
    if enough and not c.collapsed and not next(far_from_prior(c), None) and c.numbers["diversity"].high < ALIKE:
        yield Finding(
            "DG111",
            "warning",
            "samples are all alike: they show a small part of what reconstructions show",
            **of(c.numbers["diversity"]),
            evidence="spread of samples over the spread of reconstructions of held-out rows",
            why="codes of the data lie far out, and the prior's draws fall into the small region between them",
            edit={"objective.beta": max(1.0, c.beta)},
            expected="samples as varied as reconstructions",
        )


def vanishing(c: Case) -> Found:
    variance, active = np.atleast_1d(c.value("posterior_variance_median")), c.active
    used = variance[active] if len(active) == len(variance) and active.any() else variance
    if 0 < used.max() < VANISHED:  # at 0 it is a point by its making
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


def dominating(c: Case) -> Found:
    kl = np.atleast_1d(c.value("kl_per_dimension"))
    first, whole = int(np.argmax(kl)), kl.sum()
    if len(kl) > 2 and not c.config.model.groups and kl[first] > max(DOMINATING * whole, MANY_NATS):
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


def listens(c: Case) -> Found:
    if "listening" in c.numbers and c.numbers["listening"].low > 0 and not c.deaf:
        yield Finding(
            "DG100",
            "ok",
            "the decoder listens to the code",
            **of(c.numbers["listening"]),
            evidence="nats gained by a row's own code over another row's",
        )


def blurred(c: Case) -> Found:
    if "detail_reconstructions" in c.numbers and c.numbers["detail_reconstructions"].high < 0.5:
        yield Finding(
            "DG115",
            "info",
            "reconstructions are smoother than the images",
            **of(c.numbers["detail_reconstructions"]),
            evidence="energy above a quarter cycle per pixel, over that of the held-out images",
            why="the mean of p(x|z) averages over what the code leaves open; that is usual for VAEs",
            advice="a larger model.latent or longer training, where finer detail matters",
        )


def far_from_prior(c: Case) -> Found:
    distance = c.numbers.get("two_sample")
    if distance is None or c.rows < MANY_ROWS:
        return
    worst = int(np.argmax(distance.value[: c.config.model.latent]))  # entries of a label stand behind the dimensions
    if distance.value[worst] - distance.interval[worst] > FAR and c.value("holes") > IN_HOLES:
        yield Finding(
            "DG128",
            "info",
            f"the codes lie elsewhere than the prior, most of all in z{worst + 1}: samples will differ from the data",
            float(distance.value[worst]),
            distance.unit,
            float(distance.interval[worst]),
            evidence=f"codes against draws from the prior; {100 * c.value('holes'):.0f} % of the draws lie in holes",
            why="training stopped before the codes found the prior, or the likelihood rewards ever larger outputs",
            edit={"train.steps": 2 * (c.config.train.steps or 1000)},
            expected="a distance below 0.2",
        )


def amortisation(c: Case) -> Found:
    gap, skill = c.numbers.get("amortisation_gap"), c.value("skill")
    if gap is not None and gap.low > LARGE_GAP * max(skill, 0.0) and not c.beta < LOW_BETA:
        yield Finding(
            "DG120",
            "info",
            "the encoder's posteriors are far from the best ones",
            **of(gap),
            evidence="nats gained by 50 gradient steps on q of single rows, the decoder held fast",
            why="the encoder is small, or has not caught up with the decoder",
            advice="a wider model.hidden, or longer training",
        )


WIDER = {"likelihood.name": "negative_binomial"}
NARROWER = {"likelihood.name": "gaussian", "data.scale": "standardize"}


def dispersion(c: Case) -> Found:
    name = "training_dispersion"
    if c.counts and name in c.numbers and (c.numbers[name].low > 2 or c.numbers[name].high < 0.5):
        over = c.value(name) > 1
        yield Finding(
            "DG126",
            "info",
            f"counts vary {'more' if over else 'less'} than a Poisson's",
            **of(c.numbers[name]),
            evidence="mean squared residual over the Poisson's variance, 1 where it fits",
            why="events come in bursts" if over else "the counts are levels or sums with a limit, not events",
            edit=WIDER if over else NARROWER,
            expected="a spread that is learned, and a ratio near 1",
        )
