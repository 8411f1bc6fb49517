"""Errors that say which argument, what was received, the rule, and what to do next.

Each class carries the exit status of the command, so that the command needs no table of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class VaelabError(Exception):
    """Base of every error this library raises on purpose; `status` is the exit status of the command."""

    status = 1


class BadInput(VaelabError, ValueError):
    """An argument, a config or a file breaks a rule (exit status 2).

    Example:
        >>> print(BadInput("train.learning_rate", "nan", "must be a finite number above 0", "use 1e-3"))
        train.learning_rate: got nan; must be a finite number above 0; use 1e-3
    """

    status = 2

    def __init__(self, argument: str, received: object = None, rule: str = "", fix: str = "") -> None:
        parts = [f"got {received}" if received is not None else "", rule, fix]
        text = "; ".join(part for part in parts if part)
        super().__init__(one_line(f"{argument}: {text}" if text else argument))

    @classmethod
    def collect(cls, problems: Iterable[BadInput]) -> BadInput:
        """One error from several problems, a line each, so that all can be mended at once."""
        error = cls.__new__(cls)
        Exception.__init__(error, "\n".join(str(problem) for problem in problems))
        return error


class UnseenLevel(UserWarning):
    """Rows hold levels of a category that no row had in training; they are taken as missing."""


def whole(name: str, value: object, least: int = 1) -> None:
    """Refuses what is no whole number of at least `least`.

    Example:
        >>> whole("samples", 5000)
        >>> whole("samples", 0)
        Traceback (most recent call last):
        vaelab.core.errors.BadInput: samples: got 0; must be a whole number of at least 1
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInput(name, value, f"must be a whole number of at least {least}")


class MissingExtra(BadInput):
    """An optional package is needed and not installed; the message names the extra to install (exit status 2)."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(purpose, f"no package {package}", f"needs the extra {extra}", f'pip install "vaelab[{extra}]"')


class InUse(VaelabError):
    """Another process holds the run folder (exit status 3)."""

    status = 3


class Corrupt(VaelabError):
    """A file does not match its digest, or cannot be read back (exit status 4)."""

    status = 4


class NoSpace(VaelabError, OSError):
    """Something could not be written: disk full, folder read-only (exit status 5)."""

    status = 5


class Diverged(VaelabError):
    """Training met a NaN or an infinity and the policy says stop (exit status 6).

    Attributes:
        folder: The run folder with what was saved and found; None before it is known.
    """

    status = 6
    folder: Path | None = None


class Interrupted(VaelabError):
    """Training saved and stopped on a signal (exit status 128 + the signal's number)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number


def one_line(text: str) -> str:
    """Text with control characters shown escaped, so that data cannot break a line or steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelt name, or the list of what there is.

    Example:
        >>> did_you_mean("learnin_rate", ["learning_rate", "steps"])
        'did you mean learning_rate?'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
