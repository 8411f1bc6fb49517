"""What several commands share: reading their words, and printing findings and files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEFT_OUT = "DA102"  # rows without any value


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


@dataclass(frozen=True)
class Taken:
    """Rows that a command works on.

    Args:
        rows: [n, ...].
        given: What stands beside them; None where nothing does.
        labels, names: Of each row; None where they have none.
        what: They are, in words.
        exact: Whether a picture's own gray levels can be told from its row.
    """

    rows: Any
    given: Any
    labels: Any
    names: Any
    what: str
    exact: bool = True


def rows_of(run: Any, source: str | None, count: int | None, to: Path) -> tuple[Any, Any, Any, str]:
    """Rows to work on, what stands beside them, their labels, and what they are; see `taken`."""
    found = taken(run, source, count, to)
    return found.rows, found.given, found.labels, found.what


def taken(run: Any, source: str | None, count: int | None, to: Path) -> Taken:
    """The first `count` rows of a file, or of those that the run kept; all of them where `count` is None."""
    from ..core.errors import BadInput
    from ..core.image_files import IMAGE_SUFFIXES
    from ..data.conditions import named, words_in
    from ..data.source import load

    if count is not None and count < 1:
        raise BadInput("count", count, "must be at least 1")
    refuse_to(to, source, run)
    if source is None:
        rows, name = run.preview, "held-out rows kept in the run"
        labels = named(run.preview_labels, run.spec.label_names)
        given, names = run.preview_condition, None
    elif run.spec.layout == "image" and source.lower().endswith(IMAGE_SUFFIXES):
        return _picture(run, source)
    else:
        read = load(source, **run.config.data.reading | {"genes": "all"}, least=1)
        test = read.test is not None
        rows, labels = (read.test, read.test_labels) if test else (read.train, read.train_labels)
        labels = named(labels, read.label_names)
        names = None if test else read.names
        given = words_in(read, run.config.data.condition, test) if reads_beside(run) else None
        rows, name = run.spec.in_order(rows, read.columns, read.empty), f"{'test ' * test}rows of {source}"
        _note_scale(run, rows)
        for finding in read.findings:
            if finding.code == LEFT_OUT:
                print(f"note      {finding.title}: {finding.measured:g} of {source}, whose later rows move up")
    if count is not None:
        rows = rows[:count]
        given, labels, names = (None if part is None else part[:count] for part in (given, labels, names))
    return Taken(rows, given, labels, names, f"{len(rows)} {name}")


def _picture(run: Any, path: str) -> Taken:
    """One image file as a row on the run's scale, [1, C, H, W]: black and white are the ends of its range."""
    import numpy as np

    from ..core.image_files import read_image

    picture = read_image(path)
    pixels = np.moveaxis(_in_channels(picture.pixels, run.spec.shape[0], path), -1, 0)[None]
    low, top = _black_and_white(run, path)
    rows = low + pixels / 255 * (top - low)
    if run.is_mass and top > 1:  # levels are whole
        rows = rows.round().astype(np.uint8 if top <= 255 else np.int64)
    if picture.frames > 1:
        print(f"note      {path} has {picture.frames} frames, of which the first is read")
    exact = np.array_equal(np.rint((rows - low) / (top - low) * 255), pixels)
    return Taken(rows, None, None, None, f"the image {path}", exact)


def _in_channels(pixels: Any, channels: int, path: str) -> Any:
    """Pixels [H, W, 1 or 3] in as many channels as a run has: gray ones in each, and equal ones as gray."""
    from ..core.errors import BadInput

    if channels == 1 and (pixels != pixels[..., :1]).any():
        raise BadInput(path, "an image in colour", "the run was trained on gray ones", "make it gray first")
    return pixels[..., :1].repeat(channels, -1) if pixels.shape[-1] != channels and channels in (1, 3) else pixels


def _black_and_white(run: Any, path: str) -> tuple[float, float]:
    """What black and white are on the run's scale; where it does not know, the ends of the rows that it kept."""
    from ..core.errors import BadInput
    from ..measure.pictures import value_range

    likelihood = getattr(getattr(run.model, "decoder", None), "likelihood", None)
    tops = [top for top in (run.spec.top, getattr(likelihood, "levels", 1) - 1) if top]
    if tops:
        return 0.0, float(min(tops))
    if not run.keeps_rows:
        fix = "give the image as .npy, on the scale of the rows it was trained on"
        raise BadInput(path, None, "this run does not say what black and white are on its scale", fix)
    low, high = value_range(run.preview)
    print(f"note      black and white are read as {low:.4g} and {high:.4g}, the ends of the rows that the run kept")
    return low, high


def _note_scale(run: Any, rows: Any) -> None:
    """Says so where images look as if they were shares of the range that the run was trained on."""
    top = run.spec.top
    if run.spec.layout == "image" and top is not None and top > 1 and 0 < float(rows.max()) <= 1:
        told = f"the largest value is {float(rows.max()):.3g}, and the run was trained on 0 to {top:g}: another scale?"
        print(f"note      {told}")


def refuse_to(to: Path, source: str | Path | None, run: Any) -> None:
    """Refuses to write over the file that is read, and over the one that the run was trained on."""
    from ..core.errors import BadInput

    for path, rule in (
        (source, "is the file that is read"),
        (run.config.data.source, "is what the run was trained on"),
    ):
        if path is None or not os.path.exists(path) or not os.path.exists(to):  # false for names that no file can have
            continue
        if os.path.samefile(to, path) or (os.path.isdir(path) and Path(path).resolve() in to.resolve().parents):
            raise BadInput("to", to, rule, "name another file to write")


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
