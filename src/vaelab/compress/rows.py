"""Rows on the data's own scale as bytes, and back: `compress` and `decompress`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadInput, Corrupt
from ..data.arrays import as_numpy, place
from .coder import Coder
from .container import DTYPES, MOST_ENTRIES, Header, pack, unpack
from .subject import check_run, digest_of, symbols_of


def compress(run: Any, rows: Any) -> bytes:
    """Rows as the bytes of a file, about as many bits as the negative ELBO; the same rows give the same bytes.

    They are decoded once before they are returned: what comes back is what was given, of a table with names with its
    columns in the order that the model knows.

    Args:
        run: The run of the model (`vaelab.load`), which decoding needs again.
        rows: [n, ...] on the data's own scale.

    Raises:
        BadInput: for a model that is no code, and for rows that it could not give back as they are.
        MissingExtra: without the extra `codec`.
        Corrupt: where this machine does not compute the same thing twice.

    Example:
        >>> import tempfile, vaelab
        >>> settings = {"data": {"binarize": "threshold"}, "likelihood": "bernoulli", "train": {"steps": 5}}
        >>> settings["report"] = {"html": False}
        >>> run = vaelab.train("digits", out=tempfile.mkdtemp() + "/run", config=settings, progress=False)
        >>> images = np.random.default_rng(0).integers(0, 2, (3, 8, 8)).astype("uint8") * 16
        >>> bool((decompress(run, compress(run, images)) == images).all())
        True
    """
    check_run(run)
    given = in_order(run, rows)
    symbols, levels = as_symbols(run, given)
    coder = Coder(run.model, run.spec.shape, levels)
    words = coder.encode(symbols)
    _check_again(coder, words, symbols)
    header = Header(digest_of(run), len(symbols), tuple(given.shape[1:]), _type_of(given), levels)
    return pack(header, words)


def decompress(run: Any, data: bytes, where: str = "data") -> np.ndarray:
    """The rows that `compress` was given, with their shape and type; of a table with categories Python's own objects.

    Args:
        run: The run that they were compressed with.
        data: What `compress` returned.
        where: What an error calls it.

    Raises:
        BadInput: for other data, another version of the format, and another model.
        Corrupt: for data that was cut, added to or changed, and where this machine's numbers are not those of the
            machine that wrote them.
    """
    check_run(run)
    header, words = unpack(data, where)
    if header.model != digest_of(run):
        raise BadInput(where, f"made with model {header.model[:12]}", f"is not of {run.folder}", "name its own run")
    coder = Coder(run.model, run.spec.shape, header.symbols)
    try:
        if header.entries != header.rows * coder.entries:
            raise ValueError("rows of another size than the model's")
        symbols = coder.decode(words, header.rows)
    except ValueError as error:
        cause = f"{error}; this machine or its torch may compute other numbers than the one that wrote it"
        raise Corrupt(f"{where}: cannot be decoded ({cause})") from None
    return as_rows(run, symbols, header.shape, header.dtype)


def in_order(run: Any, rows: Any) -> np.ndarray:
    """Rows as an array, a table's columns in the order that the model knows.

    Raises:
        BadInput: for a column that is missing, and for one that the model does not know.
    """
    columns = tuple(str(name) for name in getattr(rows, "columns", ()))
    refuse_unknown(run, columns)
    plain = as_numpy(rows if isinstance(rows, np.ndarray | Tensor) else np.asarray(rows))
    return run.spec.in_order(plain, columns) if plain.ndim == 2 else plain


def refuse_unknown(run: Any, columns: Sequence[str]) -> None:
    """Refuses columns that the model does not know, since they would not come back."""
    if (more := [name for name in columns if name not in run.spec.columns]) and run.spec.columns:
        rule = f"the model does not know it, and it would not come back; its columns are {', '.join(run.spec.columns)}"
        raise BadInput("columns", f"the column {more[0]!r}", rule, "leave it out")


def as_symbols(run: Any, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows as the numbers 0, 1, ... of the model's symbols, [n, D], and how many symbols there are.

    Raises:
        BadInput: for rows that those numbers would not give back.
    """
    if (unseen := run.spec.unseen(rows)) is not None:
        first = tuple(int(at) for at in np.argwhere(unseen)[0])
        seen = f"{str(rows[first])[:40]!r} in {place(first, run.spec.columns)}"
        raise BadInput("rows", seen, "no row had that level in training", "leave the row out")
    y = run.spec.to_model(rows).flatten(1)
    if y.numel() > MOST_ENTRIES:
        raise BadInput("rows", f"{y.numel()} entries", f"a file holds at most {MOST_ENTRIES}", "make several of them")
    symbols = y.round().nan_to_num(-1).numpy()
    levels, support = symbols_of(run, symbols)
    if symbols.min() < 0 or symbols.max() >= levels:
        row = int(np.flatnonzero(((symbols < 0) | (symbols >= levels)).any(1))[0])
        raise BadInput("rows", f"row {row}, which the model gives no mass to", f"entries must be {support}")
    again = as_rows(run, symbols, rows.shape[1:], _type_of(rows))
    changed = np.asarray(again != rows)
    if rows.dtype.kind == "f":
        changed |= np.signbit(again) != np.signbit(rows)  # -0.0 equals 0.0
    if different := np.flatnonzero(changed.reshape(len(rows), -1).any(1)).tolist():
        raise BadInput("rows", f"row {different[0]}, which would not come back as it is", f"entries must be {support}")
    return symbols.astype(np.int32), levels


def as_rows(run: Any, symbols: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Symbols [n, D] as rows [n, *shape]."""
    y = torch.from_numpy(symbols.astype(np.float32)).view(-1, *run.spec.shape)
    return run.spec.to_user(y).reshape(-1, *shape).astype(dtype)


def _type_of(rows: np.ndarray) -> str:
    return rows.dtype.name if rows.dtype.name in DTYPES else "object"


def _check_again(coder: Coder, words: np.ndarray, symbols: np.ndarray) -> None:
    try:
        same = np.array_equal(coder.decode(words, len(symbols)), symbols)
    except ValueError:
        same = False
    if not same:
        raise Corrupt("rows: they do not come back; this machine does not compute the same numbers twice")
