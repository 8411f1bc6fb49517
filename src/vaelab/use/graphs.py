"""A trained model as two graphs of tensors: from rows to q(z|x), and from codes to p(x|z); no draw is made in either.

Rows go in and come out on the data's own scale and in its own layout; those of a mixed table as codes of levels and
numbers, NaN where an entry is missing. B rows, L latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import BadInput
from ..data.spec import Spec
from ..distributions.counts import MultinomialObservation, NegativeBinomialObservation, ZeroInflatedObservation
from ..distributions.delta import Delta
from ..distributions.heavy_tails import LaplaceObservation, StudentTObservation
from ..distributions.incomplete import IncompleteObservation
from ..distributions.levels import BetaBinomialObservation, LogisticMixtureObservation
from ..distributions.library import LibraryObservation
from ..distributions.mixed import MixedObservation, by_kind
from ..distributions.normal import DiagonalNormal, FullNormal
from ..distributions.observations import (
    BernoulliObservation,
    CategoricalObservation,
    ContinuousBernoulliObservation,
    NormalObservation,
    PoissonObservation,
)
from ..models.fits import is_hierarchy
from ..models.parts import READERS
from ..training.run import Run

Named = dict[str, Tensor]
ROWS = 64  # that a graph is traced and compared with
POSTERIORS: dict[type, Callable[[Any], Named]] = {
    DiagonalNormal: lambda q: {"mean": q.mean, "log_variance": 2 * q.log_std},
    FullNormal: lambda q: {"mean": q.mean, "log_variance": q.variance.log(), "scale_tril": q.scale_tril},
    Delta: lambda q: {"mean": q.mean},
}
# What cannot be a graph, in words, and what would be one.
REFUSALS: tuple[tuple[Callable[[Run], object], str, str], ...] = (
    (lambda run: run.spec.vocabulary, "its rows are strings, which are no tensors", "a model of numbers"),
    (
        lambda run: is_hierarchy(run.config),
        "its groups of codes are drawn one given the other, inside the encoder",
        "a model without model.groups",
    ),
    (
        lambda run: run.model.guesses,
        "its code ends in a label that is drawn",
        "model.missing_labels=refuse, with a label for every row",
    ),
    (
        lambda run: run.config.model.posterior not in ("diagonal", "full", "delta"),
        "its q(z|x) has no mean and log-variance in closed form",
        "model.posterior=diagonal, full or delta",
    ),
    (
        lambda run: run.config.model.decoder in READERS,
        "its decoder reads what it has drawn, entry after entry",
        "model.decoder=mlp, conv or linear",
    ),
)


class Encoder(nn.Module):
    """Rows x [B, ...], and what is given beside them, to the parameters of q(z|x) by name, [B, L] each."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.model, self.spec = run.model, run.spec
        self.reads = "encoder" in run.model.conditioned

    def units(self) -> Named:
        """None: codes are in units of the prior."""
        return {}

    def forward(self, x: Tensor, *condition: Tensor) -> Named:
        spec = self.spec
        rows = x.movedim(-1, 1) if spec.axes == "HWC" else x.unsqueeze(1) if spec.axes == "HW" else x
        y = rows if spec.mixed else spec.transform(rows)
        y = (y >= 0.5).float() if spec.binarize == "threshold" else y
        q = self.model.encode(Batch(y, _read(condition[0], spec)) if condition else y)
        return _of_its_kind(POSTERIORS, q)(q)


class Decoder(nn.Module):
    """Codes z [B, L], and what is given beside the rows, to the mean and the parameters of p(x|z) by name."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.model, self.spec = run.model, run.spec
        self.reads = "decoder" in run.model.conditioned

    def forward(self, z: Tensor, *condition: Tensor) -> Named:
        p = self.model.decode(z[None], *(_read(given, self.spec) for given in condition))
        p = p.complete if isinstance(p, IncompleteObservation) else p
        mean = _level_mean(p) if isinstance(p, LogisticMixtureObservation) else p.mean
        named = {"mean": self._own(mean)} | _of_its_kind(OBSERVATIONS, p)(p, self.spec)
        return {name: value[0] if self.spec.mixed else _laid_out(value, self.spec)[0] for name, value in named.items()}

    def units(self) -> Named:
        """What is 1 to the model, on the data's own scale: of outputs that are on it."""
        if not self.spec.mixed:
            return {"mean": _laid_out(self.spec.transform.scale.expand(self.spec.shape), self.spec)}
        likelihood = self.model.decoder.likelihood
        numbers = likelihood.unit.amax(-1)
        every = torch.cat([numbers, torch.ones(len(likelihood.categories))])[likelihood.order]
        return {"mean": every, "centres": numbers[:, None]}

    def _own(self, y: Tensor) -> Tensor:
        return y if self.spec.mixed else self.spec.transform.inverse(y)


def _of_its_kind(table: Mapping[type, Any], found: Any) -> Any:
    """What reads the parameters of a distribution."""
    if type(found) not in table:
        rule = "has no parameters that a graph could put out"
        raise BadInput("run", f"a {type(found).__name__}", rule, "--safetensors hands on the whole run")
    return table[type(found)]


def _read(given: Tensor, spec: Spec) -> Tensor:
    """What stands beside rows as the model reads it, [B, C], from numbers of labels [B] or numbers [B, C]."""
    if spec.classes:
        return (given[:, None] == torch.arange(spec.classes)).float()
    mean, scale = (torch.tensor(part, dtype=torch.float64) for part in (spec.condition_mean, spec.condition_scale))
    return ((given - mean) / scale).float()


def _laid_out(y: Tensor, spec: Spec) -> Tensor:
    """Entries of rows [..., *shape] as the user has them."""
    if spec.axes == "HWC":
        return y.movedim(-3, -1)
    return y.squeeze(-3) if spec.axes == "HW" else y


def _wide(log_width: Tensor, like: Tensor, spec: Spec) -> Tensor:
    """The logarithm of a width, of each entry and on the data's own scale."""
    return (log_width + spec.transform.scale.log()).expand_as(like)


def _level_mean(p: LogisticMixtureObservation) -> Tensor:
    """The mean over all levels at once: in pieces whose number depends on B there is no graph."""
    half = 0.5 / (p.levels - 1)
    ends = torch.linspace(-1 + 2 * half, 1 - 2 * half, p.levels - 1)
    above = ((p.centres[..., None] - ends) * (-p.log_scales).exp()[..., None]).sigmoid().sum(-1)
    return (p.log_weights.exp() * above).sum(2)


def _columns(p: MixedObservation, spec: Spec) -> Named:
    """Mixtures of the columns of numbers and counts, and a table of log-mass for each column of levels, by its name."""
    numbers, categories = by_kind(spec.mixed)
    parts = {"log_weights": p.numbers.log_weight, "centres": p.numbers.center, "log_scales": p.numbers.log_scale}
    tables = {f"log_mass_{place}": table for place, table in zip(categories, p.tables, strict=True)}
    return (parts if numbers else {}) | tables


# Widths are brought to the data's own scale; other parameters are of numbers that a likelihood takes as they are.
OBSERVATIONS: dict[type, Callable[[Any, Spec], Named]] = {
    BernoulliObservation: lambda p, spec: {"logits": p.logits},
    ContinuousBernoulliObservation: lambda p, spec: {"logits": p.logits},
    NormalObservation: lambda p, spec: {"log_sigma": _wide(p.log_sigma(None), p.mean, spec)},
    LaplaceObservation: lambda p, spec: {"log_scale": _wide(p.log_scale(None), p.mean, spec)},
    StudentTObservation: lambda p, spec: {
        "log_sigma": _wide(p.log_sigma, p.mean, spec),
        "degrees": p.degrees.expand_as(p.mean),
    },
    CategoricalObservation: lambda p, spec: {"logits": p.logits},
    LogisticMixtureObservation: lambda p, spec: {
        "log_weights": p.log_weights,
        "centres": p.centres,
        "log_scales": p.log_scales,
    },
    BetaBinomialObservation: lambda p, spec: {"log_alpha": p.log_alpha, "log_beta": p.log_beta},
    PoissonObservation: lambda p, spec: {"log_rate": p.log_rate},
    NegativeBinomialObservation: lambda p, spec: {"log_mean": p.log_mean, "log_dispersion": p.log_dispersion},
    ZeroInflatedObservation: lambda p, spec: (
        _of_its_kind(OBSERVATIONS, p.counts)(p.counts, spec) | {"logit_zero": p.logit}
    ),
    LibraryObservation: lambda p, spec: {"log_shares": p.log_shares, "log_dispersion": p.log_dispersion},
    MultinomialObservation: lambda p, spec: {"log_shares": p.log_shares},
    MixedObservation: _columns,
}


@dataclass(frozen=True)
class Graph:
    """One half of a model, ready to be traced.

    Args:
        name: "encoder" or "decoder".
        module: In evaluation mode.
        inputs: By name: `x` or `z`, and `condition` where the half reads one; B rows each.
        outputs: What the module makes of them, by name.
        units: Of outputs on the data's own scale, those of the model on that scale; 1 for the others.
    """

    name: str
    module: nn.Module
    inputs: Named
    outputs: Named
    units: Named

    @cached_property
    def program(self) -> Any:
        """As a program of `torch.export` that takes any number of rows."""
        rows = torch.export.Dim("rows")
        shapes = ({0: rows}, *([({0: rows},)] if "condition" in self.inputs else []))
        with torch.no_grad():
            program = torch.export.export(self.module, tuple(self.inputs.values()), dynamic_shapes=shapes)
        for node in program.graph.nodes:  # else it names the files of this machine that the operations come from
            node.meta.pop("stack_trace", None)
        program.example_inputs = None  # rows of the data, which are no part of a model
        return program


def graphs(run: Run) -> list[Graph]:
    """Encoder and decoder of a run, with rows to trace and to compare them with: held-out ones, else drawn ones.

    Raises:
        BadInput: for a model that no graph without draws can be made of, saying why and what would go.
    """
    for applies, why, fix in REFUSALS:
        if applies(run):
            raise BadInput("run", run.folder, f"{why}, so that there is no graph of it", f"{fix} would go")
    rows, condition = _examples(run)
    encoder = _graph("encoder", Encoder(run), {"x": rows}, condition)
    return [encoder, _graph("decoder", Decoder(run), {"z": encoder.outputs["mean"]}, condition)]


def _graph(name: str, module: Encoder | Decoder, inputs: Named, condition: Tensor | None) -> Graph:
    inputs = inputs | ({"condition": condition} if module.reads and condition is not None else {})
    with torch.no_grad():
        return Graph(name, module.eval(), inputs, module(*inputs.values()), module.units())


def _examples(run: Run) -> tuple[Tensor, Tensor | None]:
    """Rows as the encoder's graph takes them, and what is given beside them."""
    spec, given = run.spec, run.preview_condition if run.keeps_rows else _any_condition(run.spec)
    rows = run.preview if run.keeps_rows else run.sample(ROWS, noisy=True, condition=given)
    places = np.arange(max(2, min(ROWS, len(rows)))) % len(rows)  # a graph traced with one row takes one only
    read = None if given is None else _numbered(np.asarray(given)[places], spec)
    if spec.mixed:
        return spec.to_model(rows[places]), read
    x = torch.from_numpy(np.ascontiguousarray(rows[places], number_type(spec)))
    return (_laid_out(x, spec) if run.keeps_rows else x), read


def _any_condition(spec: Spec) -> Any:
    """One for each row that is drawn: the labels in turn, or the numbers' means; None where nothing is given."""
    if spec.classes:
        return np.resize(np.array(spec.condition), ROWS)
    return np.tile(np.array(spec.condition_mean), (ROWS, 1)) if spec.condition else None


def number_type(spec: Spec) -> type:
    """What numbers a graph takes: those of tables may need more than seven digits."""
    return np.float64 if spec.layout == "table" and not spec.mixed else np.float32


def _numbered(given: np.ndarray, spec: Spec) -> Tensor:
    """Labels by their places, [B]; numbers as they are, [B, C]."""
    if not spec.classes:
        return torch.from_numpy(np.asarray(given, np.float64))
    return torch.tensor([spec.condition.index(str(label)) for label in given])


def apart(found: Mapping[str, Any], expected: Mapping[str, Tensor], units: Mapping[str, Tensor]) -> float:
    """The largest difference |a - b| / max(unit, |b|) of tensors of the same names; inf where only one is finite.

    Args:
        found: a, by name.
        expected: b, likewise.
        units: Of numbers on the data's own scale, which float32 has no more digits of; 1 for names that are not there.

    Example:
        >>> round(apart({"mean": torch.tensor([1.0, 202.0])}, {"mean": torch.tensor([1.5, 200.0])}, {}), 3)
        0.333
    """
    worst = 0.0
    for name, b in expected.items():
        a, b = torch.as_tensor(found[name]).double(), b.double()
        size = torch.maximum(b.abs(), units.get(name, torch.ones(())).double())
        gap = torch.where(a == b, 0.0, (a - b).abs() / size).nan_to_num(nan=torch.inf)
        worst = max(worst, float(gap.max()) if gap.numel() else 0.0)
    return worst
