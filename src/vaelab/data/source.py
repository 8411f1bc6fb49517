"""`load`: anything a person calls data, checked and laid out as one `Source`."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..core.errors import BadInput, did_you_mean
from ..core.facts import Column, Sampling
from ..core.files import check_file
from ..core.finding import Finding
from .arrays import (
    Axes,
    Layout,
    Parts,
    Rows,
    arranged,
    as_numpy,
    checked,
    column_name,
    conditions_of,
    factors_of,
    from_arrays,
    from_npy,
    from_npz,
    labels_of,
)
from .builtin import digits, mnist
from .cells import from_anndata, from_h5ad, is_anndata
from .factors import shapes
from .images import from_folder
from .parquet import from_parquet
from .series import from_series
from .sparse import SparseRows
from .tables import from_frame
from .text import Text, are_strings, as_strings, tokenised
from .text_columns import frame_of_text
from .text_tables import from_text
from .torchsets import from_dataset, from_loader

FINGERPRINT_BYTES, FINGERPRINT_ROWS = 256 << 20, 1000
HASH_ROWS = 1024


class Wanted(NamedTuple):
    """Which part of a file is wanted; see `load`."""

    key: str | None = None
    text_column: str | None = None
    genes: str = "variable"


NAMES: dict[str, Callable[[str | None], Parts]] = {"digits": digits, "mnist": mnist, "shapes": shapes}
TEXTS = (".csv", ".tsv", ".txt", ".smi", ".csv.gz", ".tsv.gz", ".txt.gz", ".smi.gz")
READERS: dict[str, Callable[[Path, Wanted], Parts]] = {
    ".npz": lambda path, wanted: from_npz(path, wanted.key),
    ".npy": lambda path, wanted: from_npy(path),
    **dict.fromkeys(TEXTS, lambda path, wanted: from_text(path, wanted.text_column)),
    ".parquet": lambda path, wanted: from_parquet(path, wanted.text_column),
    ".h5ad": lambda path, wanted: from_h5ad(path, wanted.key, wanted.genes),
}


@dataclass(frozen=True)
class Source:
    """Rows to learn from and what is known of them.

    Args:
        name: What a person calls the data: a path, a name, or "array".
        train: Rows [N, D] of a table or [N, C, H, W] of images; uint8, int64 or float32, but a memory map keeps its
            own dtype, and a table with columns of text holds objects: text, floats, and None where one is missing.
        test: Held-out rows where the data brings them, else None.
        train_labels: int64 [N], or None.
        test_labels: int64 [M], or None.
        label_names: What the codes stand for; empty where they are the user's own numbers.
        layout: "table", "image" or "text"; rows of text are strings [N], until `as_tokens` numbers their tokens and
            makes it "sequence".
        axes: How an image looked to the user, so that results can be given back the same way; "" for tables.
        columns: A table's column names; empty for images.
        top: The highest possible value where the range [0, top] is known, such as 255 for 8-bit images, else None.
        findings: What was met while reading.
        factors: What each training row was made from, int64 [N, F], where it is known, else None.
        factors_test: The same of the held-out rows, [M, F], or None.
        factor_names: F names.
        condition: Numbers that are given beside each training row, [N, C], or None.
        condition_test: The same of the held-out rows, [M, C], or None.
        mixed: What the columns of a mixed table are, whose rows are then in numbers; empty for other data.
        text: Strings as rows of tokens; None for other data.
        names: What the training rows are called, text [N]; None where they have no names.
        empty: Columns of a table without any value, which are left out.
        beside: What is known of each training row besides, which `data.condition` can name, [N] each.
        series: How a time series was cut into rows; None for other data.
        starts: The place in time of each such row's first point, ascending, [N].
    """

    name: str
    train: Rows
    test: Rows | None
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None
    label_names: tuple[str, ...]
    layout: Layout
    axes: Axes
    columns: tuple[str, ...]
    top: float | None
    findings: tuple[Finding, ...] = ()
    factors: np.ndarray | None = None
    factors_test: np.ndarray | None = None
    factor_names: tuple[str, ...] = ()
    condition: np.ndarray | None = None
    condition_test: np.ndarray | None = None
    mixed: tuple[Column, ...] = ()
    text: Text | None = None
    names: np.ndarray | None = None
    empty: tuple[str, ...] = ()
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)
    series: Sampling | None = None
    starts: np.ndarray | None = None

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Names of the tokens of sequences; empty for other data."""
        return self.text.vocabulary if self.text is not None else ()


def load(
    source: Any,
    *,
    key: str | None = None,
    data_dir: str | None = None,
    text_column: str | None = None,
    genes: str = "variable",
    window: int | str | None = None,
    timestamp: str | None = None,
    least: int = 2,
) -> Source:
    """Data from an array, a tensor, `(x, y)`, a mapping of arrays, a PyTorch dataset or loader, a data frame, cells, a
    path, or a name.

    Args:
        source: The data. A path ends in .npz, .npy, .csv, .tsv or .txt (the last three also with .gz), .parquet or
            .h5ad, or is a folder of images. The names are `digits`, `mnist` and `shapes`. A mapping holds what an .npz
            file would. Cells are an AnnData object of counts, or an .h5ad file.
        key: Which array of an .npz file, or matrix of cells; None where the data says so itself.
        data_dir: A folder with local copies of downloadable data; None for the cache folder alone.
        text_column: The column of a table that holds strings to learn; None: no column, unless it is the only one.
        genes: Of cells: "variable", those marked as highly variable where some are, or "all".
        window: Points of the windows that a time series is cut into, or "auto"; None: the data is no time series.
        timestamp: Its column of times; None: the first that looks so.
        least: Rows: two for training, of which one is held out, or one for a model to read.

    Raises:
        BadInput: one line with the file or argument, the row or column where there is one, the rule, and the remedy.

    Example:
        >>> source = load("digits")
        >>> source.layout, tuple(source.train.shape), source.top
        ('image', (1797, 1, 8, 8), 16.0)
    """
    if timestamp is not None and window is None:
        raise BadInput("data.timestamp", timestamp, "is for time series", "add data.window=auto")
    if window is not None:
        return _assemble(
            from_series(source, window, timestamp), os.fspath(source) if _is_path(source) else "series", least
        )
    wanted = Wanted(key, text_column, genes)
    if _is_path(source):
        name = os.fspath(source)
        return _assemble(_read(name, data_dir, wanted), name, least)
    name = "array"
    if isinstance(source, tuple) and len(source) == 2:
        source, labels = source
        return _assemble(replace(_in_memory(source, name, wanted), y=labels), name, least)
    return _assemble(_in_memory(source, name, wanted), name, least)


def _is_path(source: Any) -> bool:
    return isinstance(source, str | os.PathLike)


def _read(name: str, data_dir: str | None, wanted: Wanted) -> Parts:
    if name in NAMES:
        return NAMES[name](data_dir)
    path = Path(name)
    if os.path.isdir(path):  # unlike the method of Path, false for names that no file can have
        return from_folder(path)
    if not path.suffix and not os.path.lexists(path):
        raise BadInput(name, None, "no such file, folder or data set", did_you_mean(name, NAMES))
    suffix = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()
    if suffix not in READERS:
        check_file(path)
        raise BadInput(
            name, f"the suffix {suffix or '(none)'}", f"known: {', '.join(READERS)}", "or a folder of images"
        )
    return READERS[suffix](path, wanted)


def _in_memory(source: Any, where: str, wanted: Wanted) -> Parts:
    if are_strings(source):
        return Parts(as_strings(source, where))
    if isinstance(source, (np.ndarray, Tensor)) or hasattr(source, "nnz"):
        return Parts(source)
    if isinstance(source, Mapping):
        return from_arrays(source, where, None)
    if isinstance(source, DataLoader):
        return from_loader(source)
    if isinstance(source, Dataset):
        return from_dataset(source)
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(source, pandas.DataFrame):
        return frame_of_text(source, where, wanted.text_column) or from_frame(source, where)
    if is_anndata(source):
        return from_anndata(source, where, wanted.key, wanted.genes)
    rule = "must be an array, a tensor, (x, y), {'x': ...}, a PyTorch dataset or loader, a data frame, a path or a name"
    raise BadInput("data", f"a {type(source).__name__}", rule, "numpy.asarray(x) turns lists into an array")


def as_tokens(source: Source) -> Source:
    """Strings as rows of tokens; other data as it is."""
    if source.text is None:
        return source
    return replace(
        source, train=source.text.rows, layout="sequence", findings=(*source.findings, *source.text.findings)
    )


def _assemble(parts: Parts, name: str, least: int) -> Source:
    if isinstance(parts.x, np.ndarray) and parts.x.dtype.kind == "U" and parts.x.ndim == 1:
        return _strings(parts, name, least)
    ready = parts.worded or isinstance(parts.x, SparseRows)
    train, findings = (parts.x, ()) if ready else checked(parts.x, name, parts.columns)
    rows, layout, axes = arranged(train, name)
    if len(rows) < least:
        raise BadInput(name, "one row", "must have at least two", "one is held out")
    test, more = _held_out(parts, train, name)
    test_rows = len(test) if test is not None else 0
    labels = labels_of(parts, len(rows), test_rows, name)
    factors = factors_of(parts, len(rows), test_rows, name)
    condition, condition_test = conditions_of(parts, len(rows), test_rows, name)
    known_range = 255.0 if layout == "image" and str(train.dtype).endswith("uint8") else None
    return Source(
        name=name,
        train=rows,
        test=test,
        train_labels=labels.train,
        test_labels=labels.test,
        label_names=labels.names,
        layout=layout,
        axes=axes,
        columns=(parts.columns or tuple(map(column_name, range(rows.shape[1])))) if layout == "table" else (),
        top=parts.top if parts.top is not None else known_range,
        findings=(*parts.findings, *findings, *more, *labels.findings),
        factors=factors.train,
        factors_test=factors.test,
        factor_names=factors.names,
        condition=condition,
        condition_test=condition_test,
        names=parts.names,
        empty=parts.empty,
        beside=parts.beside,
        series=parts.series,
        starts=parts.starts,
    )


def _strings(parts: Parts, name: str, least: int) -> Source:
    if len(parts.x) < least:
        raise BadInput(name, "one row", "must have at least two", "one is held out")
    labels = labels_of(parts, len(parts.x), 0, name)
    condition, _ = conditions_of(parts, len(parts.x), 0, name)
    return Source(
        name=name,
        train=parts.x,
        test=None,
        train_labels=labels.train,
        test_labels=None,
        label_names=labels.names,
        layout="text",
        axes="",
        columns=(),
        top=None,
        findings=(*parts.findings, *labels.findings),
        condition=condition,
        text=tokenised(parts.x, name),
    )


def _held_out(parts: Parts, train: Rows, name: str) -> tuple[Rows | None, tuple[Finding, ...]]:
    if parts.x_test is None:
        return None, ()
    where = f"{name}: test rows"
    test, findings = checked(parts.x_test, where)
    if test.shape[1:] != train.shape[1:] or test.dtype != train.dtype:
        received = f"{tuple(test.shape[1:])} {test.dtype} a row"
        raise BadInput(where, received, f"must be {tuple(train.shape[1:])} {train.dtype} as for training")
    return arranged(test, where)[0], findings


def split(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of the training and the held-out rows, at least one each, the same for the same seed.

    Raises:
        BadInput: for fewer than two rows.

    Example:
        >>> train, held_out = split(10, 0.2, seed=0)
        >>> len(train), len(held_out)
        (8, 2)
    """
    if n < 2:
        raise BadInput("data", f"{n} rows", "must have at least two", "one is held out")
    held_out = min(max(round(n * share), 1), n - 1)
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def fingerprint(rows: Rows) -> str:
    """SHA-256 of the shape, the dtype and the entries; an array and a tensor of the same entries agree.

    Above 256 MiB the entries are those of 1000 evenly spaced rows, the first and the last among them.

    Example:
        >>> fingerprint(np.zeros((2, 3)))[:12]
        '9646fe05fff9'
    """
    dtype = as_numpy(rows[:1]).dtype
    digest = hashlib.sha256(f"{tuple(rows.shape)} {dtype.name}".encode())
    large = math.prod(rows.shape) * dtype.itemsize > FINGERPRINT_BYTES
    chosen = np.unique(np.linspace(0, len(rows) - 1, FINGERPRINT_ROWS).astype(int)) if large else np.arange(len(rows))
    for start in range(0, len(chosen), HASH_ROWS):
        part = as_numpy(rows[chosen[start : start + HASH_ROWS]])
        digest.update(np.ascontiguousarray(part.astype(str) if part.dtype == object else part).tobytes())
    return digest.hexdigest()
