"""Logs of others: read under any names, brought to a `Trace`, and judged by the rules of the monitor and a few more."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.errors import BadInput, did_you_mean, one_line
from ..core.finding import Finding
from ..core.log_files import LogFile, Points, read_log_file
from ..monitoring.rules import judge
from ..monitoring.tags import guess
from ..monitoring.trace import ROLES, Series, Trace, from_columns, from_metrics
from .log_mending import in_order, mend_counters, mend_held_out, mend_signs, mend_widths, thinned
from .log_rules import judge_log
from .log_terms import beginning, mean_like, warmup_end
from .log_weights import mend_weights

OUR_KINDS = frozenset({"train", "held_out", "event", "baseline"})


@dataclass(frozen=True)
class Log:
    """What a log of scalars says about a training.

    Args:
        path: Where it was read.
        kind: What it is, such as "CSV".
        clock: What its steps are, such as "epoch".
        trace: Its series by role, with signs and scales as in a run of ours.
        roles: The tag taken for each role.
        logged: The series of these roles as they stand in the log, before anything was mended.
        left_out: Tags that were not used, and why.
        notes: What was mended while reading.
    """

    path: str
    kind: str
    clock: str
    trace: Trace
    roles: Mapping[str, str]
    logged: Mapping[str, Series]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        head = ("role", "tag", "points", "first", "last")
        rows = [
            (role, one_line(self.roles[role]), str(len(one)), _short(one.values[0]), _short(one.last))
            for role, one in self.logged.items()
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
        unused = one_line(f"not used: {', '.join(sorted(self.left_out))}") if self.left_out else ""
        table = "\n".join([f"{self.kind} by {self.clock}", *(line.rstrip() for line in lines)])
        return f"{table}\n{unused}" if unused else table


def _short(value: float | np.ndarray) -> str:
    return f"{float(value):.5g}" if np.ndim(value) == 0 else f"[{np.size(value)}]"


def read_log(path: str | os.PathLike[str], mapping: Mapping[str, str] | None = None) -> Log:
    """The log at a path: TensorBoard events or a folder of them, CSV, JSON lines, a trainer's state, our own metrics.

    Args:
        path: A file, or a folder of events.
        mapping: Tags by role, such as {"kl": "train/kld"}, which win over the guess.

    Raises:
        BadInput: for a log that cannot be read or holds no series of a known role; for an unknown role or tag.
        MissingExtra: for events where TensorBoard is not installed.
    """
    log = read_log_file(path)
    if not mapping and log.rows and all(map(_is_ours, log.rows)):
        return _own(str(path), log)
    roles = _roles(str(path), log, mapping or {})
    notes = list(_cut(log))
    series = dict(_series({role: log.columns[tag] for role, tag in roles.items()}, notes))
    logged = dict(series)
    for mended in (mend_widths(series), mend_counters(series), mend_signs(series, roles), mend_weights(series)):
        notes += mended
    notes += [*mend_held_out(series), *_unscaled(series)]
    trace = Trace(thinned(series), warmup_ends=warmup_end(series["beta"]) if "beta" in series else 0)
    unused = {tag: "has no known role" for tag in log.columns if tag not in roles.values()}
    return Log(str(path), log.kind, log.clock, trace, roles, logged, {**unused, **log.left_out}, tuple(notes))


def diagnose_log(path: str | os.PathLike[str] | Log, mapping: Mapping[str, str] | None = None) -> list[Finding]:
    """All findings on a log: the rules of the monitor, those of logs, and what was mended while reading.

    Args:
        path: As for `read_log`, or what it returned.
        mapping: As for `read_log`.

    Raises:
        BadInput: as `read_log` does.
    """
    log = path if isinstance(path, Log) else read_log(path, mapping)
    return [*judge(log.trace), *judge_log(log.trace), *log.notes]


def _is_ours(row: Mapping[str, Any]) -> bool:
    """Whether a row is a line of a run's metrics: of a known kind, with a step, and numbers or lists of numbers."""
    kind, step = row.get("kind"), row.get("step")
    if not isinstance(kind, str) or kind not in OUR_KINDS or not isinstance(step, int | float):
        return False
    if kind == "event":
        return isinstance(row.get("what"), str)
    values = [part for name, value in row.items() if name != "kind" for part in _parts(value)]
    return (kind != "baseline" or "negative_elbo" in row) and all(
        value is None or isinstance(value, int | float) for value in values
    )


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _own(path: str, log: LogFile) -> Log:
    """A run's own metrics need no guess."""
    trace = from_metrics(log.rows)
    ends = warmup_end(trace.series["beta"]) if trace.has("beta") else 0
    trace = Trace(trace.series, trace.events, ends, baseline=trace.baseline)
    return Log(path, "metrics of a run", log.clock, trace, {role: role for role in trace.series}, trace.series)


def _roles(path: str, log: LogFile, mapping: Mapping[str, str]) -> dict[str, str]:
    problems = [
        BadInput(f"mapping.{what}", name, f"must be {rule}", did_you_mean(name, known))
        for role, tag in mapping.items()
        for what, name, rule, known in (("role", role, "a role", ROLES), (role, tag, "a tag of the log", log.columns))
        if name not in known
    ]
    if problems:
        raise BadInput.collect(problems)
    guessed = {role: tag for role, tag in guess(log.columns).items() if tag not in mapping.values()}
    roles = {**guessed, **mapping}
    if not roles:
        tags = ", ".join(list(log.columns)[:8])
        raise BadInput(path, f"the tags {tags}", "must hold a known role", "name one by a mapping such as kl=my_tag")
    return {role: roles[role] for role in ROLES if role in roles}


def _cut(log: LogFile) -> Iterator[Finding]:
    if log.cut:
        yield Finding(
            "LG109",
            "info",
            f"the log breaks off: {log.cut}",
            why="the training or a copy was stopped while it was written; what stands before is read",
        )


def _series(columns: Mapping[str, Points], notes: list[Finding]) -> Iterator[tuple[str, Series]]:
    """Series with rising steps; what had to be done for that is noted once."""
    replaced, counted = {}, []
    for role, points in columns.items():
        points, again, anew = in_order(points)
        replaced.update({role: again} if again else {})
        counted += [role] if anew else []
        yield from from_columns({role: points}).series.items()
    if replaced:
        title = f"the steps go back, as in a run that was resumed: the later numbers are taken ({', '.join(replaced)})"
        notes.append(Finding("LG108", "info", title, float(max(replaced.values())), "points replaced"))
    if counted:
        title = f"the steps do not move: the points are counted instead ({', '.join(counted)})"
        notes.append(Finding("LG108", "info", title, float(len(counted)), "series"))


def _unscaled(series: dict[str, Series]) -> Iterator[Finding]:
    """A reconstruction whose weight beside the KL is unknown is not added to it, where the KL would drown it."""
    reconstruction, kl = series.get("reconstruction"), series.get("kl")
    if "beta" in series or reconstruction is None or kl is None or "loss" not in series:
        return
    if mean_like(reconstruction) and (settled := float(kl.settled())) > 1:
        del series["reconstruction"]
        yield Finding(
            "LG102",
            "info",
            "the reconstruction is no number of nats per sample and is left out of the bound",
            beginning(reconstruction),
            "at the start",
            evidence=f"the KL ends at {settled:.3g} nats",
            why="it is a mean over dimensions, and the weight of the KL beside it is not known",
            advice="log the reconstruction summed over dimensions, or the weight of the KL as beta",
        )
