"""The app itself, its types, and `main`: what a wrong call or a failure prints, and the exit status."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

app = App(
    name="vaelab",
    help="Train, audit, evaluate and use variational autoencoders. Numbers are in nats per sample unless they say.",
    version_flags=["--version"],
)

RunPath = Annotated[Path, Parameter(help="a run folder")]
To = Annotated[Path, Parameter(help="file to write; its ending chooses the format")]
Settings = Annotated[str, Parameter(help="section.key=value, such as train.steps=2000 or likelihood=bernoulli")]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits with its status."""
    from ..core.errors import VaelabError

    before_told, warnings.formatwarning = warnings.formatwarning, _told
    # Until training saves on a signal itself, Ctrl-C may come in the middle of an import: leave at once and say so.
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, _leave) if main_thread else None
    try:
        status = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        status = _fail(str(error), 2)
    except VaelabError as error:
        status = _fail(str(error), error.status)
    except BrokenPipeError:
        status = 0
    finally:
        warnings.formatwarning = before_told
        if main_thread:
            signal.signal(signal.SIGINT, before)
    sys.exit(status or 0)


def _leave(number: int, _frame: Any) -> None:
    os.write(2, b"vaelab: interrupted\n")
    os._exit(128 + number)


def _told(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning as a person reads it: that something was wrong with rows, and not where in the code it was seen."""
    return f"warning   {message}\n"


def _fail(text: str, status: int) -> int:
    for line in text.strip().splitlines():
        print(f"vaelab: {line.strip()}", file=sys.stderr)
    return status
