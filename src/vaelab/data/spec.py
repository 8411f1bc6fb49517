"""`Spec`: what a trained model must remember of its data, so that new rows can be read and results given back."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..core.durable import to_json
from ..core.errors import BadInput, did_you_mean
from ..core.facts import Column, Facts, Sampling
from .arrays import as_numpy, column_name, place
from .conditions import Conditioning
from .mixed import decode, encode, numbers_of, unseen_levels, without_unseen
from .text import rows_of, vocabulary_of
from .transforms import Affine

READING = ("condition_mean", "condition_scale", "frequencies")
PREVIEW_ROWS, PREVIEW_BYTES = 2000, 32 * 2**20


@dataclass(frozen=True)
class Spec:
    """A description of a data set.

    Args:
        name: What a person calls it.
        layout: "table", "image", or "sequence" for strings.
        axes: How an image's row looked to the user: "HW", "HWC", "CHW", or "" for a table.
        shape: Shape of a row as the model sees it.
        columns: Names of a table's columns.
        label_names: Names of the labels' codes.
        top: Highest possible value where the range is known.
        fingerprint: Of the rows, to recognise them.
        rows: Training rows.
        held_out_rows: Held-out rows.
        log_abs_det: Of the transform, nats per sample; 0 for a discrete likelihood.
        binarize: "threshold" is applied to new rows too; for "dynamic" they stay probabilities.
        transform: From the data's own scale to the model's.
        condition: Names of the entries of what is given beside a row; empty where nothing is.
        classes: Of the labels, where the condition is a one-hot label; else 0.
        condition_mean, condition_scale: Of numbers that are given beside a row; empty for labels.
        frequencies: Training rows of each label whose label is known; empty for numbers.
        mixed: The columns of a mixed table; empty for other data.
        vocabulary: The tokens of sequences; empty for other data.
        incomplete: Whether rows of numbers may miss entries, which the likelihood then leaves out.
        missing: Columns of a table, or channels of images, that missed some when the model was trained.
        series: How a time series was cut into rows; None for other data.
    """

    name: str
    layout: str
    axes: str
    shape: tuple[int, ...]
    columns: tuple[str, ...]
    label_names: tuple[str, ...]
    top: float | None
    fingerprint: str
    rows: int
    held_out_rows: int
    log_abs_det: float
    binarize: str
    transform: Affine
    condition: tuple[str, ...] = ()
    classes: int = 0
    condition_mean: tuple[float, ...] = ()
    condition_scale: tuple[float, ...] = ()
    frequencies: tuple[int, ...] = ()
    mixed: tuple[Column, ...] = ()
    vocabulary: tuple[str, ...] = ()
    incomplete: bool = False
    missing: tuple[int, ...] = ()
    series: Sampling | None = None

    @property
    def facts(self) -> Facts:
        """What a model must know of the data."""
        sizes = len(self.condition), self.classes
        return Facts(
            self.shape,
            *sizes,
            columns=self.mixed,
            vocabulary=len(self.vocabulary),
            rows=self.rows,
            frequencies=self.frequencies,
            incomplete=self.incomplete,
            missing=self.missing,
        )

    @property
    def conditioning(self) -> Conditioning:
        """How conditions are read."""
        return Conditioning(self.condition, self.condition_mean, self.condition_scale, self.frequencies)

    def to_model(self, x: Any, first: int = 0) -> Tensor:
        """New rows [n, ...] as the user has them, as float32 [n, *shape] on the model's scale.

        Errors count rows of numbers from `first` on.

        Raises:
            BadInput: if the rows are not of the shape the model was trained on, or hold no finite numbers.
        """
        if self.vocabulary:
            return torch.from_numpy(rows_of(x, self.vocabulary, *self.shape)).float()
        if self.mixed:
            return torch.from_numpy(encode(self.mixed, without_unseen(self.mixed, self._mixed_rows(x))))
        given = x if isinstance(x, np.ndarray | Tensor) else np.asarray(x)
        if given.ndim == 2:
            given = self.in_order(given, _names_of(x))
            given = numbers_of(given, self.columns) if given.dtype == object and self.columns else given
        kind = given.dtype.kind if isinstance(given, np.ndarray) else "f"
        if given.ndim < 2 or kind not in "biuf" or not len(given):
            raise BadInput("x", self._seen(x, given), self._wanted)
        rows = torch.from_numpy(np.require(as_numpy(given), requirements=["C", "W"]))
        self.check_width(rows)
        wrong = rows.isinf() if self.incomplete else ~rows.isfinite()
        if wrong.any():
            rule = "numbers must be finite" if self.incomplete else "the model takes complete rows"
            row, *entry = (int(at) for at in wrong.nonzero()[0])
            seen = f"missing or infinite entries, the first in {place((first + row, *entry), self.columns)}"
            raise BadInput("x", seen, rule, "vaelab impute, or VAEImputer, fills missing ones")
        if self.axes == "HWC" and rows.shape[1:] != self.shape:
            rows = rows.reshape(-1, *self.user_shape).movedim(-1, 1)
        y = self.transform(rows.reshape(-1, *self.shape))
        return (y >= 0.5).float() if self.binarize == "threshold" else y

    def unseen(self, x: Any) -> np.ndarray | None:
        """Which entries of rows of a mixed table are levels that no row had in training, bool [n, D]; None for none."""
        found = unseen_levels(self.mixed, self._mixed_rows(x)) if self.mixed else None
        return found if found is not None and found.any() else None

    def _mixed_rows(self, x: Any) -> np.ndarray:
        """Rows of a mixed table as a person has them, [n, D], in the order of the columns."""
        given = as_numpy(x if isinstance(x, np.ndarray | Tensor) else np.asarray(x))
        rows = self.in_order(given, _names_of(x)) if given.ndim == 2 else given
        if given.ndim != 2 or not len(given) or rows.shape[1] != len(self.mixed):
            rule = f"the model takes rows of {len(self.mixed)} columns: {', '.join(self.columns)}"
            raise BadInput("x", f"shape {tuple(given.shape)}", rule)
        return rows

    def check_width(self, rows: np.ndarray | Tensor) -> None:
        """Raises BadInput where rows [n, ...] have another number of entries than those of the model; reads none."""
        if math.prod(rows.shape[1:]) != math.prod(self.shape):
            raise BadInput("x", f"shape {tuple(rows.shape)}", self._wanted)

    @property
    def _wanted(self) -> str:
        return f"the model takes numbers of shape ({', '.join(map(str, ('n', *self.user_shape)))})"

    @staticmethod
    def _seen(x: Any, rows: Any) -> str:
        if rows.ndim and isinstance(rows, np.ndarray) and rows.dtype.kind not in "biuf":
            return f"entries of type {rows.dtype}"
        return f"shape {tuple(rows.shape)}" if rows.ndim else f"{type(x).__name__} {str(x)[:40]}"

    def to_user(self, y: Tensor) -> np.ndarray:
        """Rows [..., *shape] on the model's scale, as the user has them; of a mixed table, Python's own objects."""
        if self.mixed:
            return decode(self.mixed, y.detach().cpu())
        rows = self.transform.inverse(y.detach().cpu().float()).numpy()
        if self.vocabulary:
            return vocabulary_of(self.vocabulary).strings(rows)
        lead = rows.shape[: rows.ndim - len(self.shape)]
        if self.axes == "HWC":
            return np.moveaxis(rows, -3, -1)
        return rows.reshape(*lead, *self.user_shape)

    @property
    def user_shape(self) -> tuple[int, ...]:
        """Shape of a row as the user has it."""
        if self.axes == "HW":
            return self.shape[-2:]
        return (*self.shape[1:], self.shape[0]) if self.axes == "HWC" else self.shape

    def in_order(self, rows: Any, columns: tuple[str, ...], empty: tuple[str, ...] = ()) -> Any:
        """A table's rows [n, D'] with the columns the model was trained on, in their order; others are left out.

        Those of the `empty` ones that the model reads come back with all of their entries missing.

        Raises:
            BadInput: naming the columns that are missing.
        """
        if not columns or not self.columns or columns == self.columns:
            return rows
        lacking = [name for name in self.columns if name in empty]
        if not lacking and (_made_up(columns) or _made_up(self.columns)):
            return rows  # names that nobody gave say nothing: by position, and `to_model` looks at the width
        if lacking:
            plain = as_numpy(rows)
            kind = object if plain.dtype == object or self.mixed else np.float64
            rows = np.concatenate([plain.astype(kind), np.full((len(plain), len(lacking)), np.nan)], 1, dtype=kind)
            columns = (*columns, *lacking)
        missing = [name for name in self.columns if name not in columns]
        if missing:
            hint = did_you_mean(missing[0], columns)
            fix = f"add it to the table{f'; {hint}' if hint.endswith('?') else ''}"
            raise BadInput("columns", f"no column {missing[0]!r}", "the model was trained on it", fix)
        return rows[:, [columns.index(name) for name in self.columns]]

    def to_files(
        self, preview: np.ndarray, labels: np.ndarray | None, training: np.ndarray | None = None
    ) -> dict[str, bytes]:
        """The content of a run folder's `data`; `preview` [n, *shape] holds held-out rows on the data's own scale.

        `training` holds training rows likewise, for what is compared with them.
        """
        plain = {key: value for key, value in asdict(replace(self, transform=None)).items() if key != "transform"}  # type: ignore[arg-type]
        files = {
            "spec.json": to_json(plain, indent=1).encode(),
            "transform.safetensors": save_tensors(self.transform.state()),
        }
        files["preview.npy"] = _npy(preview)
        files |= {"training.npy": _npy(training)} if training is not None else {}
        return files | ({"labels.npy": _npy(labels)} if labels is not None else {})

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> tuple[Spec, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """What `to_files` wrote: the spec, the preview, its labels, and the training rows."""
        plain = json.loads(files["spec.json"])
        tuples: dict[str, Any] = {key: tuple(plain[key]) for key in ("shape", "columns", "label_names")}
        tuples |= {key: tuple(plain.get(key, ())) for key in ("condition", "vocabulary", "missing", *READING)}
        tuples["mixed"] = tuple(
            Column(**(column | {"levels": tuple(column["levels"])})) for column in plain.get("mixed", ())
        )
        if cut := plain.get("series"):
            plain["series"] = Sampling(**(cut | {"channels": tuple(cut["channels"])}))
        transform = Affine.from_state(load_tensors(files["transform.safetensors"]))
        labels = _array(files["labels.npy"]) if "labels.npy" in files else None
        training = _array(files["training.npy"]) if "training.npy" in files else None
        spec, preview = cls(**(plain | tuples), transform=transform), _array(files["preview.npy"])
        if spec.vocabulary:
            named = vocabulary_of(spec.vocabulary)
            preview, training = named.strings(preview), None if training is None else named.strings(training)
        if spec.mixed:
            preview, training = decode(spec.mixed, preview), None if training is None else decode(spec.mixed, training)
        return spec, preview, labels, training


def condition_files(held_out: Tensor, training: Tensor) -> dict[str, bytes]:
    """What a run folder keeps of the conditions of the rows that it keeps, as the model reads them, [n, C] each."""
    both = {"condition.npy": held_out, "training_condition.npy": training}
    return {name: _npy(part.cpu().numpy()) for name, part in both.items()}


def conditions_from(files: Mapping[str, bytes]) -> tuple[Tensor, Tensor] | None:
    """What `condition_files` wrote; None where nothing was given beside the rows."""
    if "condition.npy" not in files:
        return None
    held_out, training = (torch.from_numpy(_array(files[f"{part}condition.npy"])) for part in ("", "training_"))
    return held_out, training


def _names_of(x: Any) -> tuple[str, ...]:
    """Names of a data frame's columns."""
    return tuple(str(name) for name in getattr(x, "columns", ()))


def _made_up(names: tuple[str, ...]) -> bool:
    """Whether a reader or a data frame counted the columns, since they had no names."""
    return any(names == tuple(name(index) for index in range(len(names))) for name in (column_name, str))


def preview_count(shape: tuple[int, ...], held_out: int) -> int:
    """How many held-out rows a run folder keeps to be looked at."""
    return max(1, min(held_out, PREVIEW_ROWS, PREVIEW_BYTES // (8 * int(np.prod(shape)))))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _array(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)
