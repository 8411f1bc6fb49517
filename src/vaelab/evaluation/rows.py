"""The rows that a run is evaluated on, as its model sees them, and what a person must know of them to read a number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.errors import BadInput, whole
from ..core.seeds import generator
from ..data.arrays import as_numpy
from ..data.conditions import conditioned, words_in
from ..data.source import Source, load
from ..measure.baseline import spaced
from ..training.job import fingerprint_of, held_out_of

MOST_TRAINING = 10_000  # training rows that held-out ones and samples are compared with
MOST_FACTORS = 5000  # rows whose factors are looked at
BLOCK = 4096  # rows turned to float32 at once


@dataclass(frozen=True)
class Taken:
    """Rows to evaluate.

    Args:
        x: As the model sees them, [n, *shape].
        where: Which rows they are, in words.
        kept_only: Why they are only those that the run folder keeps; empty where they are all there are.
        training: Training rows likewise; None where the run kept none.
        factors: All rows with their known factors, [N, F]; None where the data has none.
        factor_names: F names.
        trained_on: How many of the rows equal a training row; 0 for the run's own held-out rows.
        whole: Whether all entries are whole numbers on the data's own scale.
    """

    x: Tensor | Batch
    where: str
    kept_only: str = ""
    training: Tensor | None = None
    factors: tuple[Tensor | Batch, np.ndarray] | None = None
    factor_names: tuple[str, ...] = ()
    trained_on: int = 0
    whole: bool = False


def given_rows(run: Any, x: Any, seed: int, dequantize: bool = False, condition: Any = None) -> Tensor | Batch:
    """The rows of `plain_rows`, and beside them their condition, in the data's own words, where the model reads one."""
    y = plain_rows(run, x, seed, dequantize)
    given = run.given(condition, len(y), "encoder", "prior", "decoder")
    return Batch(y, *given) if given else y


def plain_rows(run: Any, x: Any, seed: int, dequantize: bool = False) -> Tensor:
    """Rows [n, ...] on the data's own scale, as the run's model sees them.

    Gray levels that the run draws anew as bits are drawn once, by the seed. Where `dequantize`, uniform noise in
    [-1/2, 1/2) is added first: the mean log-density of whole numbers so treated is a lower bound of their mean log-mass
    (Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2016).

    Raises:
        BadInput: for rows of another shape, and for whole numbers' noise where the likelihood is a mass.
    """
    if dequantize:
        x = _dequantized(run, x, seed)
    y = run.spec.to_model(x)
    if run.spec.binarize != "dynamic":
        return y
    if y.min() < 0 or y.max() > 1:
        seen = f"values from {y.min():.3g} to {y.max():.3g} on the model's scale"
        raise BadInput("x", seen, "are the probabilities of ones here, in [0, 1]")
    return torch.bernoulli(y, generator=generator(seed, "evaluation coins"))


def how_read(run: Any, seed: int, dequantize: bool) -> str:
    """What was done to the entries of rows before the model saw them, in words."""
    drawn = {
        "dynamic": f"each gray level was drawn once as a bit, with seed {seed}",
        "threshold": "values were cut at one half",
        "none": "as they are",
    }
    return "uniform noise of width 1 was added to whole numbers" if dequantize else drawn[run.spec.binarize]


def _dequantized(run: Any, x: Any, seed: int) -> np.ndarray:
    if run.spec.mixed:
        rule = "is for numbers of one kind, and the columns of a mixed table are modelled as they are"
        raise BadInput("dequantize", True, rule, "leave it out")
    if run.is_mass:
        rule = "is for densities, and this run's likelihood is a mass, whose number is exact"
        raise BadInput("dequantize", True, rule, "leave it out")
    if run.config.likelihood.name == "continuous_bernoulli":
        rule = "its noise leaves [0, 1], where this likelihood has its density"
        raise BadInput("dequantize", True, rule, "train with likelihood=gaussian")
    rows = np.asarray(x, np.float64)
    if not np.array_equal(rows, np.round(rows)):
        raise BadInput("dequantize", True, "is for whole numbers, and these rows hold others", "leave it out")
    return rows + np.random.default_rng(seed).uniform(-0.5, 0.5, rows.shape)


def take(
    run: Any,
    given: Any,
    seed: int,
    count: int | None,
    dequantize: bool = False,
    with_factors: bool = False,
    condition: Any = None,
) -> Taken:
    """The rows that were given, or all held-out rows of the run, read again from where its data came from.

    Where that is not there any more, or was an object in memory, the held-out rows that the folder keeps have to do.

    Args:
        run: A `vaelab.Run`.
        given: Rows as the user has them, a path or a name; None for the run's own held-out rows.
        seed: Of what is drawn.
        count: Only so many rows, evenly spaced; None for all.
        dequantize: Add uniform noise to whole numbers.
        with_factors: Whether rows with known factors are wanted too.
        condition: What is given beside rows that were given, in the data's own words.
    """
    if count is not None:
        whole("rows", count)
    source, why = own_source(run)
    if given is not None:
        raw, words, where, why = *_read(run, given, condition), ""
    elif source is None:
        raw, words, where = run.preview, run.preview_condition, f"held-out rows kept in {run.folder}"
    else:
        held, _, index = held_out_of(source, run.config)
        raw, where = held if index is None else held[index], f"held-out rows of {source.name}"
        words = words_of(run, source.condition if source.test is None else source.condition_test, index)
    chosen = slice(None) if count is None else spaced(len(raw), count).numpy()
    rows = np.asarray(raw[chosen])
    x = given_rows(run, rows, seed, dequantize, words if words is None or np.ndim(words) == 0 else words[chosen])
    training, factors = _training(run, source, seed), _factors(run, source, seed) if with_factors else None
    names = () if source is None else source.factor_names
    seen = 0 if given is None else _trained_on(run, source, rows)
    whole_numbers = rows.dtype.kind in "biuf" and bool((rows == np.round(rows)).all())
    return Taken(x, f"{len(x)} of {len(raw)} {where}", why, training, factors, names, seen, whole_numbers)


def _trained_on(run: Any, source: Source | None, rows: Any) -> int:
    """How many rows equal one that the run was trained on, as far as the training rows can be read."""
    if source is not None:
        _, index, _ = held_out_of(source, run.config)
        training = as_numpy(source.train if index is None else source.train[index])
    else:
        training = run.training_preview if run.training_preview is not None else np.zeros((0, 1))
    coded = run.spec.to_model if run.spec.mixed or run.spec.vocabulary else np.asarray
    known = set(_digests(np.asarray(coded(training))))
    return sum(digest in known for digest in _digests(np.asarray(coded(rows))))


def _digests(rows: np.ndarray) -> Iterator[int]:
    """A number for the entries of each row as float32, whatever its shape and type."""
    flat = rows.reshape(len(rows), -1)
    blocks = (flat[start : start + BLOCK] for start in range(0, len(flat), BLOCK))
    return (hash(row.tobytes()) for block in blocks for row in np.ascontiguousarray(block, np.float32))


def own_source(run: Any) -> tuple[Source | None, str]:
    """The data that a run was trained on, or why it cannot be read again."""
    data = run.config.data
    if data.source is None:
        return None, "the run was given its data as an object"
    try:
        source = load(data.source, **data.reading)
        source, _ = conditioned(source, run.config, held_out_of(source, run.config)[1])
    except BadInput as error:
        return None, str(error)
    if fingerprint_of(source) != run.spec.fingerprint:
        return None, f"{data.source} holds other rows than the run was trained on"
    return (in_columns(run, source) if run.spec.mixed else source), ""


def in_columns(run: Any, source: Source) -> Source:
    """The source with the columns that a run kept, since a mixed table may have left some out."""
    train = run.spec.in_order(source.train, source.columns)
    test = None if source.test is None else run.spec.in_order(source.test, source.columns)
    return replace(source, train=train, test=test, columns=run.spec.columns)


def words_of(run: Any, condition: np.ndarray | None, index: np.ndarray | None) -> Any:
    """Conditions [N, C] of the run's own data, of the rows of an index, in the data's own words."""
    if condition is None or run.model.guesses:
        return None
    return run.spec.conditioning.decode(torch.from_numpy(condition if index is None else condition[index]))


def _read(run: Any, given: Any, condition: Any) -> tuple[Any, Any, str]:
    if not isinstance(given, str | os.PathLike):
        return given, condition, "rows that were given"
    source = load(given, **run.config.data.reading | {"genes": "all"}, least=1)
    test = source.test is not None
    rows = run.spec.in_order(source.test if test else source.train, source.columns, source.empty)
    words = condition if condition is not None else words_in(source, run.config.data.condition, test)
    return rows, None if run.model.guesses else words, f"{'test ' * test}rows of {given}"


def _training(run: Any, source: Source | None, seed: int) -> Tensor | None:
    """Training rows as the model sees them, evenly spaced where there are many."""
    if source is None:
        return None if run.training_preview is None else plain_rows(run, run.training_preview, seed + 1)
    _, index, _ = held_out_of(source, run.config)
    index = np.arange(len(source.train)) if index is None else index
    chosen = index[spaced(len(index), MOST_TRAINING).numpy()]
    return plain_rows(run, as_numpy(source.train[chosen]), seed + 1)


def _factors(run: Any, source: Source | None, seed: int) -> tuple[Tensor | Batch, np.ndarray] | None:
    """Rows with known factors: the held-out ones where they have some, else a random choice of all."""
    if source is None or source.factors is None:
        return None
    held_out = source.test is not None and source.factors_test is not None
    rows, factors = (source.test, source.factors_test) if held_out else (source.train, source.factors)
    assert rows is not None and factors is not None
    chosen = np.sort(np.random.default_rng(seed).permutation(len(factors))[:MOST_FACTORS])
    words = words_of(run, source.condition_test if held_out else source.condition, chosen)
    return given_rows(run, as_numpy(rows[chosen]), seed, condition=words), factors[chosen]
