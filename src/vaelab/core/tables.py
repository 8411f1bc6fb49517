"""Choosing by name from a table, with an error that suggests the right name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from .errors import BadInput, did_you_mean

Entry = TypeVar("Entry")


def pick(table: Mapping[str, Entry], name: str, argument: str) -> Entry:
    """The table's entry of that name.

    Raises:
        BadInput: naming `argument` and the nearest name there is.

    Example:
        >>> pick({"relu": 1, "tanh": 2}, "tahn", "activation")
        Traceback (most recent call last):
        vaelab.core.errors.BadInput: activation: got tahn; no such name; did you mean tanh?
    """
    if name not in table:
        raise BadInput(argument, name, "no such name", did_you_mean(str(name), table))
    return table[name]
