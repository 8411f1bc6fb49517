"""What several commands share: reading their words, and printing findings and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def source_and_settings(
    source: str | None, settings: tuple[str, ...], data_dir: str | None
) -> tuple[str | None, dict[str, Any]]:
    """The source, and the settings as a nested mapping; the first word may be a setting."""
    from ..core.config import parse_overrides

    if source is not None and "=" in source and not os.path.exists(source):
        settings, source = (source, *settings), None
    overrides: dict[str, Any] = parse_overrides(settings)
    if data_dir is not None:
        overrides.setdefault("data", {})["data_dir"] = data_dir
    return source, overrides


def roles_of(given: tuple[str, ...]) -> dict[str, str]:
    """`role=tag` words as a mapping."""
    from ..core.errors import BadInput

    pairs = [word.partition("=") for word in given]
    for word, (role, _, tag) in zip(given, pairs, strict=True):
        if not role or not tag:
            raise BadInput("role", word, "is written role=tag", "such as kl=train/kld")
    return {role: tag for role, _, tag in pairs}


def layers(path: Path, overrides: dict[str, Any]) -> Any:
    from ..core.config import build_config
    from ..core.files import read_yaml

    return build_config(read_yaml(path), overrides)


def numbers(text: str, flag: str, kind: type) -> list[Any]:
    """Numbers with commas."""
    from ..core.errors import BadInput

    try:
        return [kind(word) for word in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise BadInput(flag, text, f"is a list of {what} with commas", f"such as --{flag} 1,2,4") from None


def condition_of(run: Any, text: str | None) -> Any:
    """A condition as it is typed: a label, numbers with commas, or name=number with commas."""
    from ..core.errors import BadInput

    if text is None or not run.spec.condition or run.spec.classes:
        return text
    pairs = [word.rpartition("=") for word in text.split(",")]
    try:
        numbers = [float(number) for _, _, number in pairs]
    except ValueError:
        rule = f"must be numbers: {', '.join(run.spec.condition)}"
        raise BadInput("condition", text, rule, "such as --condition=-1.5,2 or --condition=name=1.5") from None
    names = [name.strip() for name, _, _ in pairs]
    return dict(zip(names, numbers, strict=True)) if any(names) else numbers


def rows_of(run: Any, source: str | None, count: int | None, to: Path) -> tuple[Any, Any, Any, str]:
    """Rows to work on, what stands beside them, their labels, and what they are: of a file, or those the run kept."""
    from ..core.errors import BadInput
    from ..data.conditions import words_in
    from ..data.source import load

    if count is not None and count < 1:
        raise BadInput("count", count, "must be at least 1")
    if source is None:
        rows, labels, name = run.preview, run.preview_labels, "held-out rows kept in the run"
        given = run.preview_condition
    else:
        if to.exists() and Path(source).exists() and to.samefile(source):
            raise BadInput("to", to, "is the file that is read", "name another file to write")
        data = run.config.data
        read = load(source, key=data.key, data_dir=data.data_dir, text_column=data.text_column)
        test = read.test is not None
        rows, labels = (read.test, read.test_labels) if test else (read.train, read.train_labels)
        given = words_in(read, run.config.data.condition, test) if reads_beside(run) else None
        rows, name = run.spec.in_order(rows, read.columns), f"{'test ' * test}rows of {source}"
    given, labels = (None if part is None else part[:count] for part in (given, labels))
    return rows[:count], given, labels, f"{len(rows[:count])} {name}"


def reads_beside(run: Any) -> bool:
    """Whether the model cannot do without what stands beside a row."""
    return bool(getattr(run.model, "conditioned", ())) and not run.model.guesses


def batch_of(path: Path) -> Any:
    from ..data.source import load

    return load(str(path)).train


def row_of(rows: Any, index: int, argument: str) -> Any:
    from ..core.errors import BadInput

    if not 0 <= index < len(rows):
        raise BadInput(argument, index, f"there are rows 0 to {len(rows) - 1}")
    return rows[index]


def show(run: Any) -> int:
    """What a person reads after training: findings, then the verdict and where the page is."""
    if int(os.environ.get("RANK", 0)) != 0:
        return 0
    status = print_findings(run)
    page = run.folder / "report.html"
    print(f"run       {run.folder}")
    if page.exists():
        print(f"page      {page.resolve()}")
    return status


def print_findings(run: Any) -> int:
    """Findings, the worst first, and the verdict that the page gives too."""
    from ..core.finding import SEVERITIES
    from ..report.verdict import verdict

    for finding in sorted(run.findings, key=lambda f: -SEVERITIES.index(f.severity)):
        print(finding)
    judged = verdict(run)
    print(f"verdict   {judged.words}: {judged.sentence}")
    return int(judged.severity == "error")


def wrote(path: Path, what: str) -> int:
    print(f"wrote     {path} ({what})")
    return 0
