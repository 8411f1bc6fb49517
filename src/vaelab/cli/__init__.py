"""The command: parse, call one function, print findings. The exit status is the worst of what was found.

0 fine, 1 a finding of severity error, 2 bad input, 3 in use, 4 corrupt, 5 no space, 6 diverged, 130 and 143 signals.
"""

from . import compressing, embedding, evaluating, exporting, imputing, learning, restoring, scoring, series, uses
from .app import app, main

__all__ = [
    "app",
    "compressing",
    "embedding",
    "evaluating",
    "exporting",
    "imputing",
    "learning",
    "main",
    "restoring",
    "scoring",
    "series",
    "uses",
]
