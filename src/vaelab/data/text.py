"""Strings as rows of tokens: how they are cut, what the tokens are called, and which strings are too long."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..core.errors import BadInput
from ..core.finding import Finding
from ..core.tokens import END, PADDING, SPECIALS, UNKNOWN

MOST_CHARACTERS = 4096  # of a string; recurrent and attending networks learn little from longer ones
MOST_TOKENS = 4096
LONG_SHARE = 0.01  # strings that may be left out where they would make all rows much longer
MUCH_LONGER = 1.25
SMILES_SHARE = 0.95
STRANGE = "\N{REPLACEMENT CHARACTER}"  # how the unknown token is written

ATOMS = r"\[[^\[\]\s]+\]|Br|Cl|%\d\d"  # what SMILES writes with several characters and reads as one
SMILES = re.compile(rf"(?:{ATOMS}|[BCNOPSFIbcnops0-9=#$:/\\.()~*+@-])+")
CUTS = {"smiles": re.compile(rf"{ATOMS}|.", re.DOTALL), "characters": re.compile(".", re.DOTALL)}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by number, and strings as rows of them.

    A string is cut into the longest tokens there are, from its left, so that the names alone say how to cut.

    Args:
        tokens: Names; the first four stand for no text, see `vaelab.core.tokens`.

    Example:
        >>> vocabulary = Vocabulary((*SPECIALS, "C", "Cl", "O"))
        >>> vocabulary.numbers(["ClCO"], 6)
        array([[5, 4, 6, 2, 0, 0]])
        >>> vocabulary.strings(vocabulary.numbers(["ClCO"], 6)).tolist()
        ['ClCO']
    """

    tokens: tuple[str, ...]

    def numbers(self, strings: Sequence[str], steps: int, where: str = "x") -> np.ndarray:
        """Strings as rows of tokens [n, steps], each with its end, and padding after it.

        Raises:
            BadInput: for a string with a piece that is no token, and for one of more than steps - 1 tokens.
        """
        rows = np.full((len(strings), steps), PADDING)
        for row, string in enumerate(strings):
            found = [self._number.get(piece, -1) for piece in self._cut.findall(string)]
            if -1 in found:
                piece = self._cut.findall(string)[found.index(-1)]
                what = f"{piece!r} in row {row} (counting from 0), {string[:40]!r}"
                raise BadInput(where, what, "no string that the model was trained on has it", "leave the row out")
            if len(found) >= steps:
                what = f"{len(found)} tokens in row {row} (counting from 0), {string[:40]!r}"
                raise BadInput(where, what, f"the model takes strings of at most {steps - 1}", "leave the row out")
            rows[row, : len(found) + 1] = [*found, END]
        return rows

    def strings(self, rows: np.ndarray) -> np.ndarray:
        """Rows of tokens [..., T] as strings [...]; what stands for no text is left out, an unknown token shows."""
        names = np.array([*[""] * UNKNOWN, STRANGE, *self.tokens[len(SPECIALS) :]], dtype=object)
        flat = rows.reshape(-1, rows.shape[-1]).astype(np.int64)
        written = ["".join(names[row[row >= UNKNOWN]]) for row in flat]
        return np.array(written, dtype=np.str_).reshape(rows.shape[:-1])

    @cached_property
    def _number(self) -> dict[str, int]:
        return {STRANGE: UNKNOWN} | {name: number for number, name in enumerate(self.tokens) if number > UNKNOWN}

    @cached_property
    def _cut(self) -> re.Pattern[str]:
        longest_first = sorted(self.tokens[len(SPECIALS) :], key=len, reverse=True)
        return re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)


@lru_cache
def vocabulary_of(tokens: tuple[str, ...]) -> Vocabulary:
    """The vocabulary of these names, made once."""
    return Vocabulary(tokens)


@dataclass(frozen=True)
class Text:
    """Strings as rows of tokens.

    Args:
        rows: [N, T]; of strings that are too long, nothing.
        kept: Which strings are short enough, bool [N].
        vocabulary: Names of the tokens.
        findings: How the strings were cut, and which are left out.
    """

    rows: np.ndarray
    kept: np.ndarray
    vocabulary: tuple[str, ...]
    findings: tuple[Finding, ...]


def as_strings(values: Iterable[Any], where: str) -> np.ndarray:
    """A list, an array or a series of strings as an array [N] of text.

    Raises:
        BadInput: for entries that are no strings, and for strings of more than 4096 characters.
    """
    found = list(values)
    for row, value in enumerate(found):
        if not isinstance(value, str):
            what = f"{value!r:.40} in row {row} (counting from 0)"
            raise BadInput(where, what, "every row must be a string", "leave it out")
        if len(value) > MOST_CHARACTERS:
            what = f"{len(value)} characters in row {row} (counting from 0)"
            rule = f"a string may have {MOST_CHARACTERS}"
            raise BadInput(where, what, rule, "cut it into sentences, or leave it out")
    return np.array(found, dtype=np.str_)


def are_strings(x: Any) -> bool:
    """Whether a value is a list, an array or a series of strings."""
    if isinstance(x, list | tuple):
        return bool(x) and all(isinstance(value, str) for value in x)
    kind = getattr(getattr(x, "dtype", None), "kind", "")
    if getattr(x, "ndim", 0) != 1 or not len(x):
        return False
    return kind in "UT" or (kind == "O" and all(isinstance(value, str) for value in x))


def tokenised(strings: np.ndarray, where: str) -> Text:
    """Strings [N] cut into tokens, with a vocabulary made of them.

    They are read as SMILES, where atoms of two letters and in brackets are one token, if 95 % of them can be, and by
    the character otherwise. Where one string in a hundred makes the rows much longer, those are left out.

    Raises:
        BadInput: for no text at all, and for more than 4096 different tokens.

    References:
        Weininger, SMILES, a chemical language and information system, 1988.
    """
    kind = "smiles" if _are_smiles(strings) else "characters"
    pieces = [CUTS[kind].findall(string) for string in strings.tolist()]
    if not any(pieces):
        raise BadInput(where, "no text", "must hold strings to learn")
    sizes = np.array([len(found) for found in pieces])
    usual = int(np.quantile(sizes, 1 - LONG_SHARE, method="higher"))
    longest = int(sizes.max()) if sizes.max() <= MUCH_LONGER * usual else usual
    kept = sizes <= longest
    names = sorted({piece for found, stays in zip(pieces, kept, strict=True) if stays for piece in found} - {STRANGE})
    if len(names) > MOST_TOKENS:
        raise BadInput(where, f"{len(names)} different characters", f"a vocabulary may have {MOST_TOKENS}")
    vocabulary = (*SPECIALS, *names)
    width = np.uint8 if len(vocabulary) <= np.iinfo(np.uint8).max + 1 else np.int64
    rows = np.full((len(strings), longest + 1), PADDING, dtype=width)
    rows[kept] = Vocabulary(vocabulary).numbers(strings[kept].tolist(), longest + 1, where)
    return Text(rows, kept, vocabulary, tuple(_told(kind, len(names), sizes, longest)))


def rows_of(x: Any, tokens: tuple[str, ...], steps: int) -> np.ndarray:
    """New strings as rows of tokens [n, steps].

    Raises:
        BadInput: for anything but strings, and for those that the model cannot read.
    """
    if isinstance(x, str) or not (are_strings(x) or hasattr(x, "__len__")) or not len(x):
        raise BadInput("x", f"{type(x).__name__} {str(x)[:40]}".strip(), "the model takes a list of strings")
    return vocabulary_of(tokens).numbers(as_strings(np.ravel(x).tolist(), "x").tolist(), steps)


def _are_smiles(strings: np.ndarray) -> bool:
    """Whether nearly all could be SMILES, and some are more than a word of letters."""
    fitting = [bool(SMILES.fullmatch(string)) for string in strings.tolist()]
    return bool(np.mean(fitting) >= SMILES_SHARE) and not all(string.isalpha() for string in strings.tolist())


def _told(kind: str, names: int, sizes: np.ndarray, longest: int) -> Iterable[Finding]:
    by = "as SMILES: atoms of two letters or in brackets are one token" if kind == "smiles" else "by the character"
    yield Finding(
        "DA115",
        "info",
        f"strings are read {by}",
        float(names),
        "different tokens",
        evidence=f"{len(sizes)} strings of {sizes.mean():.1f} tokens on average; rows have {longest} and the end",
        why="a model writes a string token by token",
        advice="the vocabulary stands in data/spec.json of the run",
    )
    left_out = int((sizes > longest).sum())
    if left_out:
        yield Finding(
            "DA116",
            "warning",
            f"strings of more than {longest} tokens are left out",
            100 * left_out / len(sizes),
            "% of the strings",
            evidence=f"{left_out} strings; the longest has {sizes.max()} tokens",
            why=f"{longest} is the {1 - LONG_SHARE:.0%} quantile, and every row would be as long as the longest",
            advice="remove or cut them yourself where that is not what you want",
        )
