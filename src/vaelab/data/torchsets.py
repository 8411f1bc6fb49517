"""PyTorch datasets and loaders, read once into memory so that batches can be slices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ..core.errors import BadInput
from ..core.finding import Finding
from ..core.units import readable_bytes
from .arrays import Parts

LIMIT_BYTES = 4 << 30
ROW_NAMES, LABEL_NAMES = ("x", "image", "pixel_values", "data"), ("y", "label")


def from_loader(loader: DataLoader) -> Parts:
    """The rows of a loader's dataset; its batching, order and sampling are left to this package."""
    return from_dataset(loader.dataset)


def from_dataset(dataset: Dataset) -> Parts:
    """The rows of a dataset: tensors as they are, anything else item by item.

    Raises:
        BadInput: for no items, items of several shapes, items without rows, or more than `LIMIT_BYTES`.
    """
    name = type(dataset).__name__
    if isinstance(dataset, TensorDataset):
        x, *y = dataset.tensors
        return Parts(x, y[0] if y and y[0].shape in ((len(x),), (len(x), 1)) else None)
    rows: list[np.ndarray] = []
    labels: list[Any] = []
    taken = 0
    for item in _items(dataset):
        row, label = _row_and_label(item, name)
        if rows and row.shape != rows[0].shape:
            what = f"items 0 and {len(rows)} of shapes {rows[0].shape} and {row.shape}"
            raise BadInput(name, what, "items must have one shape", "crop or pad them in the dataset")
        taken += row.nbytes
        if taken > LIMIT_BYTES:
            fix = "write the rows to one .npy file, which is mapped into memory, and give its path"
            raise BadInput(name, f"more than {readable_bytes(LIMIT_BYTES)}", "is too large to be held in memory", fix)
        rows.append(row)
        labels.append(label)
    if not rows:
        raise BadInput(name, "no items", "must have at least two")
    return Parts(np.stack(rows), None if any(y is None for y in labels) else labels, findings=(_frozen(len(rows)),))


def _items(dataset: Dataset) -> Iterator[Any]:
    if isinstance(dataset, (IterableDataset, Iterable)):
        yield from dataset
    elif not hasattr(dataset, "__len__"):
        raise BadInput(type(dataset).__name__, "a dataset without a length", "must have __len__ or __iter__")
    else:
        yield from (dataset[i] for i in range(len(dataset)))


def _row_and_label(item: Any, name: str) -> tuple[np.ndarray, Any]:
    """A row and its label, None where the item has none, from `x`, `(x, y)` or a mapping."""
    if isinstance(item, Mapping):
        row = next((item[key] for key in ROW_NAMES if key in item), None)
        label = next((item[key] for key in LABEL_NAMES if key in item), None)
        if row is None:
            raise BadInput(name, f"items with {', '.join(map(str, item))}", f"need one of {', '.join(ROW_NAMES)}")
    else:
        row, label = (item[0], item[1]) if isinstance(item, (tuple, list)) and len(item) > 1 else (item, None)
        row = row[0] if isinstance(row, (tuple, list)) else row
    return _array(row), _label(label)


def _label(label: Any) -> Any:
    """A number or a name; None for anything else, such as the boxes of a detection set."""
    if isinstance(label, (Tensor, np.ndarray, np.generic)):
        return label.item() if _array(label).size == 1 else None
    return label if isinstance(label, (int, float, str)) else None


def _array(row: Any) -> np.ndarray:
    return row.detach().cpu().numpy() if isinstance(row, Tensor) else np.asarray(row)


def _frozen(rows: int) -> Finding:
    return Finding(
        "DA110",
        "info",
        "each item of the dataset is read once",
        rows,
        "rows",
        why="batches are slices of one tensor, so a random augmentation in the dataset is frozen at its first draw",
        advice="augment before, or give several passes as one dataset (torch.utils.data.ConcatDataset)",
    )
