"""The file: magic, version, header, words, and a digest of all that. A byte that is not what it was is an error."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..core.errors import BadInput, Corrupt
from .stack import MOST_LEVELS

MAGIC, VERSION = b"VAELABLZ", 2
LEAD = struct.Struct("<8sHI")  # magic, version, bytes of the header
DIGEST = 32  # bytes of a SHA-256
MOST_ENTRIES = 2**31
DTYPES = ("bool", "object", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))
DTYPES = (*DTYPES, "float16", "float32", "float64")


@dataclass(frozen=True)
class Header:
    """What stands before the words.

    Args:
        model: Digest of the model and of what else decoding depends on.
        rows: How many there are.
        shape: Of a row as it was given.
        dtype: Of the array that was given.
        symbols: That an entry can be.
    """

    model: str
    rows: int
    shape: tuple[int, ...]
    dtype: str
    symbols: int

    @property
    def entries(self) -> int:
        """Of all rows together."""
        return self.rows * int(np.prod(self.shape, dtype=object))


def pack(header: Header, words: np.ndarray) -> bytes:
    """The bytes of a file."""
    told = json.dumps(asdict(header), separators=(",", ":")).encode()
    body = LEAD.pack(MAGIC, VERSION, len(told)) + told + words.astype("<u4").tobytes()
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes, where: str) -> tuple[Header, np.ndarray]:
    """What `pack` was given.

    Raises:
        BadInput: for what is no such file, or one of another version.
        Corrupt: for one that was cut, added to or changed.
    """
    if not data.startswith(MAGIC) or len(data) < LEAD.size:
        raise BadInput(where, "other bytes than those that such a file begins with", "must come from vaelab compress")
    _, version, length = LEAD.unpack_from(data)
    if version != VERSION:
        raise BadInput(where, f"version {version} of the format", f"this vaelab reads version {VERSION}")
    body, digest = data[:-DIGEST], data[-DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise Corrupt(f"{where}: damaged or cut short: its content does not match its digest; copy it again")
    try:
        header = _header(json.loads(body[LEAD.size : LEAD.size + length]))
        return header, np.frombuffer(body[LEAD.size + length :], "<u4")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Corrupt(f"{where}: its header cannot be read ({error}); write it again") from None


def _header(plain: dict[str, Any]) -> Header:
    header = Header(**(plain | {"shape": tuple(plain["shape"])}))
    sizes = (header.rows, header.symbols, *header.shape)
    if not all(type(size) is int and size >= 1 for size in sizes) or header.dtype not in DTYPES:
        raise ValueError("sizes or type that no rows have")
    if header.entries > MOST_ENTRIES or header.symbols > MOST_LEVELS:
        raise ValueError(f"more than {MOST_ENTRIES} entries or {MOST_LEVELS} symbols")
    return header
