"""From data and settings to a job: everything checked and chosen, the model built, nothing written yet."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core.config import Config
from ..core.errors import BadInput
from ..core.finding import Finding
from ..core.seeds import generator
from ..core.settings import TrainConfig
from ..data.batches import Part, Rows
from ..data.choose import choose, summarise
from ..data.conditions import Conditioning, conditioned
from ..data.missing import is_modelled
from ..data.mixed import as_mixed
from ..data.series import held_out_blocks
from ..data.source import Source, as_tokens, fingerprint, load, split
from ..data.spec import Spec
from ..distributions.code_posteriors import GumbelPosterior
from ..distributions.likelihoods import LIKELIHOODS, OptimalNoise
from ..distributions.quantize import VectorBook
from ..models.build import acquaint, build_model, resolve
from ..models.fits import refuse_misfits
from ..models.prepare import COUNTS, start_at
from ..models.unread import changed
from ..objectives.base import Objective
from ..objectives.build import build_objective
from ..objectives.penalised import Penalty
from .engine import Engine
from .trial import check_kinds, try_out

DEFAULT_PASSES, LEAST_STEPS, MOST_STEPS = 200, 2_000, 10_000
SEEN = 10_000  # training rows that parts of a model may look at before training starts
TARGETS = ("objective.target_rate", "objective.target_reconstruction")  # held beside any objective
SIZES = ("model.hidden", "model.channels")  # which a config of many models may hold beside one of one's own
SMALL_STEP = 10**8  # multiplications of a batch with every weight: about 2 ms of one core, there and back


@dataclass
class Job:
    """All that the loop needs, ready to start."""

    config: Config
    spec: Spec
    rows: Rows
    held_out: Rows
    labels: np.ndarray | None
    model: Any
    objective: Objective
    findings: list[Finding]
    own_model: bool
    own_objective: bool


def prepare(
    x: Any,
    config: Config,
    engine: Engine,
    model: nn.Module | None,
    objective: Objective | None,
    *,
    source: Source | None = None,
) -> Job:
    """Reads and checks the data, makes every choice that depends on it, and builds the model.

    Args:
        source: What `x` holds, where it has been read already.
    """
    check_kinds(model, objective)
    _refuse_replaced(config, model, objective)
    _refuse_without_gpu(config, engine)
    if source is None:
        source = load(x, **config.data.reading)
    if model is not None:
        config = config.updated(likelihood={"name": _likelihood_of(model)})
    config = _by_clock(config, source, model)
    given, reading = conditioned(as_tokens(source), config, held_out_of(source, config)[1])
    if reading is not None and model is not None and not getattr(model, "conditioned", ()):
        rule = "the model passed reads nothing that is given beside a row: its `conditioned` is empty"
        fix = "leave it out, or name the parts that read it: vaelab.VAE(..., condition=('encoder', 'decoder'))"
        raise BadInput("data.condition", config.data.condition, rule, fix)
    if model is not None:
        config = _complete_only(config)
    source = as_mixed(given, config)
    held_rows, index, held_index = held_out_of(source, config)
    labels = source.test_labels if source.test is not None else _pick(source.train_labels, held_index)
    summary = summarise(source.train)
    trained_on = summary if index is None else summarise(Part(source.train, index))
    choice = choose(summary, source, config, trained_on)
    shape = tuple(source.train.shape[1:])
    if model is not None and source.axes == "HW":
        shape = shape[1:]  # a network of one's own sees images as one has them
    config = config.updated(likelihood={"name": choice.likelihood}, data={"source": _named(x)})
    count = len(source.train) if index is None else len(index)
    rows, held_out = (
        Rows(raw, part, choice.transform, binarize=config.data.binarize, shape=shape, device=engine.device, condition=c)
        for raw, part, c in (
            (source.train, index, source.condition),
            (held_rows, held_index, source.condition if source.test is None else source.condition_test),
        )
    )
    spec = Spec(
        name=source.name,
        layout=source.layout,
        axes=source.axes,
        shape=shape,
        columns=source.columns,
        label_names=source.label_names,
        top=1.0 if source.top is not None and summary.maximum <= 1 else source.top,  # bits in bytes
        fingerprint=fingerprint_of(given),
        rows=count,
        held_out_rows=len(held_out),
        log_abs_det=0.0 if choice.discrete else choice.transform.log_abs_det(shape),
        binarize=config.data.binarize,
        transform=choice.transform,
        mixed=source.mixed,
        vocabulary=source.vocabulary,
        incomplete=_is_incomplete(config, source, choice.missing),
        missing=_flagged(choice.missing, shape),
        series=source.series,
        **_condition_facts(reading),
    )
    if model is None:
        config = resolve(config, spec.facts, source.layout)
    else:
        config = config.updated(model={"latent": getattr(model, "latent", None)})
    config, capped = _batch_within(config, count)
    config = _with_rate(_in_steps(config, count))
    chosen: Any = objective or build_objective(config.objective, spec.facts, config.model.latent or 0, config.seed)
    if isinstance(chosen, nn.Module):
        chosen.to(engine.device)
    if model is None:
        refuse_misfits(config, spec.facts, getattr(chosen, "requires", frozenset()))
    built = model if model is not None else build_model(config, spec.facts)
    if model is None and convolves(built):
        built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if model is None:
        _begin(built, rows, config, trained_on)
    if model is not None or objective is not None:
        try_out(built.to(engine.device), chosen, rows)
    if engine.device.type == "cpu":
        torch.set_num_threads(config.train.threads or _threads(built, config.train.batch_size))
    findings = [*source.findings, *choice.findings, *capped]
    _refuse_slices(config, chosen, built, engine, len(held_out))
    return Job(config, spec, rows, held_out, labels, built, chosen, findings, model is not None, objective is not None)


def _by_clock(config: Config, source: Source, model: Any) -> Config:
    """Windows of dates have the time of day and of the week beside them, unless the config says otherwise."""
    if source.series is None or source.condition is None or config.data.condition is not None or model is not None:
        return config
    return config.updated(data={"condition": "array"})


def _complete_only(config: Config) -> Config:
    """A model of one's own sees rows as they are, and would make a missing entry of everything it touches."""
    if config.data.missing == "model":
        rule = "a model of one's own takes complete rows"
        raise BadInput("data.missing", "model", rule, "leave it out and fill the rows, or leave out model=...")
    return config.updated(data={"missing": "refuse"})


def _is_incomplete(config: Config, source: Source, missing: np.ndarray) -> bool:
    """Whether rows of numbers may miss entries; those of mixed tables and strings always may, or never."""
    numbers = not source.mixed and source.layout != "sequence"
    gaps_later = source.series is not None and is_modelled(source, config)  # a series breaks off in use, if not before
    return numbers and (config.data.missing == "model" or gaps_later or bool(missing.any()))


def _flagged(missing: np.ndarray, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Columns, or channels of images, of which some entries are missing."""
    if not missing.any():
        return ()
    return tuple(np.flatnonzero(missing.reshape(shape[0], -1).any(1)).tolist())


def _refuse_without_gpu(config: Config, engine: Engine) -> None:
    """TF32 and a recording of steps need a GPU, and the latter steps that need not be looked at one by one."""
    train = config.train
    if train.precision == "tf32" and engine.device.type != "cuda":
        rule = f"is for a GPU, and this run is on {engine.device}"
        raise BadInput("train.precision", "tf32", rule, "use float32 or bfloat16")
    if not train.cuda_graph:
        return
    if engine.device.type != "cuda":
        raise BadInput("train.cuda_graph", True, f"is for a GPU, and this run is on {engine.device}", "leave it out")
    alone = {"train.ema": train.ema, "train.accumulate": train.accumulate > 1, "several processes": engine.world > 1}
    for name in (name for name, given in alone.items() if given):
        raise BadInput("train.cuda_graph", True, f"does not go together with {name}", "leave one of them out")


def _refuse_replaced(config: Config, model: Any, objective: Any) -> None:
    """Settings that describe what one of one's own stands in for would reach nothing."""
    guesses = getattr(model, "guesses", False)  # then labels may be missing
    fine = {"model.latent", *SIZES, *(["model.missing_labels"] if guesses else []), *TARGETS}
    for part, name, sections in ((model, "model", ("model", "prior")), (objective, "objective", ("objective",))):
        found = [key for section in sections for key in changed(config, section) if key not in fine]
        if part is not None and found:
            rule = f"the {name} that was passed is used as it is, and these settings describe another"
            raise BadInput("config", ", ".join(found), rule, f"leave them out, or leave out {name}=...")


def _condition_facts(reading: Conditioning | None) -> dict[str, Any]:
    """What a spec keeps of how conditions are read."""
    if reading is None:
        return {}
    return {
        "condition": reading.names,
        "classes": len(reading.names) if reading.labels else 0,
        "condition_mean": reading.mean,
        "condition_scale": reading.scale,
        "frequencies": reading.frequencies,
    }


def _begin(model: Any, rows: Rows, config: Config, trained_on: Any) -> None:
    """Start values that depend on the training rows."""
    if config.likelihood.name in COUNTS:
        start_at(model, *(torch.from_numpy(part).float() for part in (trained_on.mean, trained_on.std)))
    coins = generator(config.seed, "seen", device=rows.device)
    some = torch.randperm(len(rows), generator=generator(config.seed, "seen rows"))[:SEEN]
    acquaint(model, rows.take(some, coins))


def _threads(model: nn.Module, batch: int) -> int:
    """One thread for a small network, else PyTorch's choice.

    A step of some milliseconds gains little from a second thread, and takes ten times as long where another process
    wants the core that the second thread waits for.
    """
    return 1 if is_small(model, batch) else torch.get_num_threads()


def is_small(model: nn.Module, batch: int) -> bool:
    """Whether a step takes some milliseconds at most."""
    small = batch * sum(parameter.numel() for parameter in model.parameters()) < SMALL_STEP
    return small and not convolves(model)


def convolves(model: nn.Module) -> bool:
    """Whether there are convolutions over images."""
    return any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())


def held_out_of(source: Source, config: Config) -> tuple[Any, np.ndarray | None, np.ndarray | None]:
    """Held-out rows, and the indices of the training and of the held-out rows (None: all)."""
    if source.test is not None:
        return source.test, None, None
    if source.series is not None and source.starts is not None:
        blocks = held_out_blocks(source.starts, source.series.window, config.data.held_out, config.seed)
        return source.train, *blocks
    index, held_index = split(len(source.train), config.data.held_out, config.seed)
    if source.text is not None:
        index, held_index = (part[source.text.kept[part]] for part in (index, held_index))
    return source.train, index, held_index


def fingerprint_of(source: Source) -> str:
    """Of all rows, held-out ones that the data brings along included, and of what is given beside them."""
    train = source.train if source.text is None else source.text.rows
    parts = (train, source.test, source.condition, source.condition_test)
    return "+".join(fingerprint(part) for part in parts if part is not None)


def _pick(labels: np.ndarray | None, index: np.ndarray | None) -> np.ndarray | None:
    return labels if labels is None or index is None else labels[index]


def _named(x: Any) -> str | None:
    return str(x) if isinstance(x, (str, os.PathLike)) else None


def _likelihood_of(model: Any) -> str:
    """The name of the likelihood that a model of one's own decodes to, so that the data is checked against it."""
    kind = type(getattr(getattr(model, "decoder", None), "likelihood", None))
    return next((name for name, known in LIKELIHOODS.items() if known is kind), "auto")


def _refuse_slices(config: Config, objective: Any, model: nn.Module, engine: Engine, held_out: int) -> None:
    """Slices of a batch have to have rows, and a loss that is no mean over their rows cannot be added up from them."""
    parts, size = config.train.accumulate * engine.world, config.train.batch_size
    if size < parts:
        raise BadInput("train.batch_size", size, f"must be at least {parts}, a row for each slice and process")
    if held_out < engine.world:
        raise BadInput("data.held_out", f"{held_out} rows", f"there are {engine.world} processes", "hold out more rows")
    penalties = objective.modules() if engine.world > 1 and isinstance(objective, nn.Module) else ()
    if any(isinstance(part, Penalty) and part.bends for part in penalties):
        why = f"its term compares the rows of a whole batch, of which each of the {engine.world} processes has a part"
        raise BadInput("objective.name", config.objective.name, why, "train with one process")
    if config.train.accumulate > 1 and (rule := _against_slices(objective, model)):
        raise BadInput("train.accumulate", config.train.accumulate, rule, "use train.accumulate=1")


def _against_slices(objective: Any, model: nn.Module) -> str | None:
    """Why the gradients of slices would not add up to that of the batch; None where they do."""

    def has(*kinds: type) -> bool:
        return any(isinstance(module, kinds) for module in model.modules())

    if has(VectorBook, GumbelPosterior):
        return "the books or the temperature of codes move with every pass, of which each slice would be one"
    if has(OptimalNoise):
        return "with likelihood.noise=optimal the loss depends on the mean of the whole batch"
    if getattr(objective, "bends", False):
        what = "free bits or a capacity, or with a term of a whole batch,"
        return f"with {what} the loss depends on the mean of the whole batch"
    return None


def _batch_within(config: Config, rows: int) -> tuple[Config, list[Finding]]:
    """The config with a batch no larger than the training rows, and the finding that says so."""
    given = config.train.batch_size
    if given <= rows:
        return config, []
    finding = Finding(
        "TR111",
        "info" if given == TrainConfig().batch_size else "warning",
        f"train.batch_size={given} is more than there are rows to train on; a batch is all of them",
        float(rows),
        "rows",
    )
    return config.updated(train={"batch_size": rows}), [finding]


def _with_rate(config: Config) -> Config:
    """A linear model stands a higher learning rate, and needs it to arrive at its optimum."""
    if config.train.learning_rate is not None:
        return config
    linear = (config.model.encoder, config.model.decoder) == ("linear", "linear")
    return config.updated(train={"learning_rate": 1e-2 if linear else 1e-3})


def _in_steps(config: Config, rows: int) -> Config:
    """The number of steps: as given, or as many batches as it takes to draw every row so many times.

    Two hundred passes are plenty for a small table; ten thousand steps are enough to see how a model does.
    """
    if config.train.steps is not None:
        return config
    passes = config.train.epochs or DEFAULT_PASSES
    steps = math.ceil(passes * rows / config.train.batch_size)
    if config.train.epochs is None:
        steps = min(max(steps, LEAST_STEPS), MOST_STEPS)
    return config.updated(train={"steps": steps})
