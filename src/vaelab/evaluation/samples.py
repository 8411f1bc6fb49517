"""Samples of the model against held-out rows, in features that are named, beside real rows against real rows."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput
from ..core.seeds import generator, seed_global
from ..measure.estimate import Estimate
from ..measure.features import INCEPTION_FEATURES, Features, inception, network, usual
from ..measure.samples import coverage_density, frechet_distance, frechet_limit, kernel_distance, precision_recall
from ..models.vae import prior_codes
from .case import Case, Numbers
from .columns import metric_features
from .strings import strings_made

MOST_ROWS = 2000  # on either side: tables of distances have four million entries then
LEAST_ROWS = 3
DECODED = 512  # rows at once


def samples(case: Case) -> Numbers:
    """Draws of p(x|z), z from the prior, against as many held-out rows, and two comparisons to read them by.

    Names without an ending are of the model's samples, draws of p(x|z). `..._of_means` takes the means of p(x|z) at the
    same z, which are what is mostly shown, but no samples: they lack the noise. `..._of_training` compares as many
    training rows with the held-out ones: what a perfect model would come to with so many rows, where samples that
    repeat training rows come too. Where rows are too few for the Frechet distances they are left out,
    and `rows` says how many it would take. Strings are counted instead, see `strings_made`.

    Features are those of `case.extractor`, else of `measure.features.usual`: the few entries of a row, or principal
    components of the training rows. They are named with each number, as is how many rows were on either side.

    Raises:
        BadInput: for fewer than 3 rows on a side, and for features that are no numbers.
    """
    if case.spec.vocabulary:
        return strings_made(case)
    count = _count(case, MOST_ROWS)
    if case.extractor is not None:
        features = network(case.extractor)
    elif case.spec.mixed:
        features = metric_features(case)
    else:
        features = usual(case.complete(case.x if case.training is None else case.training), count)
    real, others = _sets(case, features, count)
    unit = f"{features.name}, {count} rows"
    found: Numbers = {}
    least = frechet_limit(real.shape[1])
    if count <= least:
        few = f"on either side, {features.name}; a Frechet distance of {real.shape[1]} features takes more than {least}"
        found["rows"] = Estimate(float(count), None, few)
    for ending, made in others.items():
        found |= {f"{name}{ending}": number for name, number in _compared(real, made, unit).items()}
    return found


def fid(case: Case, weights: str | os.PathLike[str]) -> Numbers:
    """The Frechet inception distance of the model's samples, of means and of training rows, to held-out images.

    Over `measure.features.inception`, which needs the published weights in a file and the extra `metrics`; a CPU
    core takes half a second for an image. Published figures have 50,000 samples: with fewer the distance is
    higher, which its interval spans, and `fid_unbiased` takes off to first order. Gray images are given three equal
    channels. Endings of names as in `samples`.

    Raises:
        BadInput: for rows that are no images of a known range, 2048 of them or fewer, and other weights.
        MissingExtra: without the packages.
    """
    bits = case.spec.binarize != "none"
    top = 1.0 if bits else case.spec.top
    count = _count(case, None)
    if not case.is_image or top is None:
        raise BadInput("fid", f"{case.spec.layout} data", "is for images whose highest value is known", "use samples")
    if count <= INCEPTION_FEATURES:
        rule = f"a covariance of {INCEPTION_FEATURES} features needs more rows than features"
        raise BadInput("rows", count, rule, "use samples, whose features are fewer")
    deep = inception(weights)

    def of(rows: Tensor) -> Tensor:
        levels = rows if bits else case.spec.transform.inverse(rows)
        return deep.of((levels * (255 / top)).round().clamp(0, 255).byte())

    real, others = _sets(case, Features(deep.name, of), count)
    found: Numbers = {}
    for ending, made in others.items():
        plain, unbiased = frechet_distance(real, made, f"FID, {deep.name}, {count} rows")
        found |= {f"fid{ending}": plain, f"fid_unbiased{ending}": unbiased}
    return found


def _count(case: Case, most: int | None) -> int:
    """How many rows there can be on either side."""
    count = min(len(rows) for rows in (case.x, case.training) if rows is not None)
    if count < LEAST_ROWS:
        raise BadInput("rows", count, f"samples are compared with at least {LEAST_ROWS}", "evaluate more rows")
    return count if most is None else min(count, most)


def _sets(case: Case, features: Features, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features of so many held-out rows, and of what they are compared with, by the ending of its numbers' names."""
    means, drawn = _made(case, count)
    others = {"": drawn, "_of_means": means}
    if case.training is not None:
        others["_of_training"] = _some(case.complete(case.training), count, case.seed, "training")
    real = features(_some(case.complete(case.x), count, case.seed, "held out"))
    return real, {ending: features(rows) for ending, rows in others.items()}


def _some(rows: Tensor, count: int, seed: int, which: str) -> Tensor:
    """So many rows in random order: files are often sorted, and intervals come from parts of the rows."""
    return rows[torch.randperm(len(rows), generator=generator(seed, "samples", which))[:count]]


@torch.no_grad()
def _made(case: Case, count: int) -> tuple[Tensor, Tensor]:
    """Means and draws of p(x|z) for z from the prior, [count, *shape] each."""
    coins = generator(case.seed, "samples")
    parts = []
    with torch.random.fork_rng(devices=[]):
        seed_global(case.seed, "samples")
        given = () if case.condition is None else (case.condition[torch.arange(count) % len(case.condition)],)
        z = prior_codes(case.model, count, coins, *given)
        for codes, *beside in zip(*(part.split(DECODED) for part in (z, *given)), strict=True):
            likelihood = case.model.decode(codes[None], *beside)
            parts.append((likelihood.mean[0], likelihood.sample(coins)[0]))
    means, drawn = (torch.cat(column).to(case.x.dtype) for column in zip(*parts, strict=True))
    return means, drawn


def _compared(real: np.ndarray, made: np.ndarray, unit: str) -> Numbers:
    """All distances and shares between two sets of as many rows; without Frechet's where the rows are too few."""
    frechet: Numbers = {}
    if len(real) > frechet_limit(real.shape[1]):
        distances = frechet_distance(real, made, f"squared distance, {unit}")
        frechet = dict(zip(("frechet_distance", "frechet_unbiased"), distances, strict=True))
    precision, recall = precision_recall(real, made)
    coverage, density = coverage_density(real, made)
    shares = {"precision": precision, "recall": recall, "density": density, "coverage": coverage}
    return {
        **frechet,
        "kernel_distance": kernel_distance(real, made, f"cubic kernel, {unit}"),
        **{name: replace(number, unit=f"{number.unit}, {unit}") for name, number in shares.items()},
    }
