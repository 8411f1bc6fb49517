"""What `vaelab audit` does between the command line and the report."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.durable import write_text
from ..core.errors import BadInput, did_you_mean
from .report import AuditReport
from .run import audit, find

SECTIONS = ("constants", "sizes")


@dataclass(frozen=True)
class Options:
    """Options of the command; `kind` is "loss" (a loss or a model), "likelihood" or "importance"."""

    kind: str = "loss"
    inputs: str | None = None
    data: Any = None
    loss: str | None = None
    declared_beta: float | None = None
    family: str | None = None
    framework: str | None = None
    total: str | None = None
    seconds: float = 20.0


def run_audit(target: str, settings: Mapping[str, Any], options: Options, sarif: Path | None = None) -> AuditReport:
    """Finds a target by name, audits it, and writes SARIF where asked for. What the user's code prints goes to stderr.

    Raises:
        BadInput: for a target that is not there, an unknown setting, and what the audit itself refuses.
    """
    unknown = [key for key in settings if key not in SECTIONS or not isinstance(settings[key], Mapping)]
    if unknown:
        raise BadInput(
            "setting",
            unknown[0],
            "settings are constants.name=value and sizes.name=value",
            did_you_mean(unknown[0], SECTIONS),
        )
    with contextlib.redirect_stdout(sys.stderr):
        subject, file, line = find(target)
        report = _audited(subject, settings, options)
    if sarif is not None:
        write_text(sarif, json.dumps(report.to_sarif(_relative(file), line), indent=2) + "\n")
    return report


def _audited(subject: Any, settings: Mapping[str, Any], options: Options) -> Any:
    constants = settings.get("constants")
    return audit(
        subject,
        inputs=options.inputs,
        constants=constants,
        sizes=settings.get("sizes"),
        declared_beta=options.declared_beta,
        family=options.family,
        framework=options.framework,
        total=options.total,
        data=options.data,
        kind=options.kind,
        seconds=options.seconds,
        loss=find(options.loss)[0] if options.loss else None,
    )


def _relative(file: str | None) -> str | None:
    """A path as code scanning wants it: relative to where the command runs, where it lies below."""
    if file is None:
        return None
    path = Path(file).resolve()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.as_posix()
