"""The command: parse, call one function, print findings. The exit status is the worst of what was found.

0 fine, 1 a finding of severity error, 2 bad input, 3 in use, 4 corrupt, 5 no space, 6 diverged, 130 and 143 signals.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

app = App(
    name="vaelab",
    help="Train, audit, look at and use variational autoencoders. Numbers are in nats per sample unless they say.",
    version_flags=["--version"],
)

RunPath = Annotated[Path, Parameter(help="a run folder")]
To = Annotated[Path, Parameter(help="file to write; its ending chooses the format")]


@app.command
def train(
    source: Annotated[str | None, Parameter(help="file, folder of images, digits or mnist")] = None,
    /,
    *settings: Annotated[str, Parameter(help="section.key=value, such as train.steps=2000 or likelihood=bernoulli")],
    out: Annotated[Path | None, Parameter(help="new folder for the run; default: a fresh one under runs/")] = None,
    config: Annotated[Path | None, Parameter(help="YAML file with settings")] = None,
    recipe: Annotated[str | None, Parameter(help="settings by name; see `vaelab recipes`")] = None,
    resume: Annotated[Path | None, Parameter(help="run folder to continue")] = None,
    data_dir: Annotated[str | None, Parameter(help="folder with local copies of data sets")] = None,
    quiet: Annotated[bool, Parameter(negative=(), help="no progress")] = False,
) -> int:
    """Train a VAE and write a run folder with a page to look at.

    `vaelab train digits` needs nothing else; `vaelab settings` lists what can be set.
    """
    from .api import load
    from .api import train as train_run
    from .core.errors import Diverged

    source, overrides = _source_and_settings(source, settings, data_dir)
    try:
        run = train_run(
            source,
            out=out,
            config=overrides if config is None else _layers(config, overrides),
            recipe=recipe,
            resume=resume,
            progress=not quiet,
        )
    except Diverged as error:
        if error.folder is not None:
            _show(load(error.folder))
        raise
    return _show(run)


@app.command
def audit(
    target: Annotated[str, Parameter(help="file.py:name or package.module:name; a loss, a model, or an estimator")],
    /,
    *settings: Annotated[str, Parameter(help="constants.name=value and sizes.pixels=784, [1, 28, 28] or the like")],
    inputs: Annotated[str | None, Parameter(help='roles in order, such as "x output mu head"')] = None,
    data: Annotated[Path | None, Parameter(help="a batch of your own, such as batch.npz")] = None,
    loss: Annotated[str | None, Parameter(help="for a model that returns none: file.py:name of its loss")] = None,
    declared_beta: Annotated[float | None, Parameter(help="the weight that is meant")] = None,
    family: Annotated[str | None, Parameter(help="categorical, counts, bernoulli or gaussian data")] = None,
    framework: Annotated[str | None, Parameter(help="torch, numpy, jax, tensorflow or keras")] = None,
    total: Annotated[str | None, Parameter(help="which part of a structured result is the loss")] = None,
    likelihood: Annotated[bool, Parameter(negative=(), help="the target estimates log p(x)")] = False,
    importance: Annotated[bool, Parameter(negative=(), help="the target is an importance-weighted objective")] = False,
    seconds: Annotated[float, Parameter(help="time limit of a single call")] = 20.0,
    json: Annotated[bool, Parameter(negative=(), help="print JSON")] = False,
    sarif: Annotated[Path | None, Parameter(help="also write SARIF for code scanning to this file")] = None,
) -> int:
    """Say in nats what a loss, a model or an estimator of the likelihood really computes.

    The code is called as a black box: no source is read, nothing is trained. Exit status 1: something is wrong.
    """
    from .auditing.command import Options, run_audit
    from .core.config import parse_overrides

    if likelihood and importance:
        from .core.errors import BadInput

        raise BadInput("likelihood", "together with --importance", "a target is one of them")
    kind = "likelihood" if likelihood else "importance" if importance else "loss"
    rows = None if data is None else _batch_of(data)
    options = Options(kind, inputs, rows, loss, declared_beta, family, framework, total, seconds)
    found = run_audit(target, parse_overrides(settings), options, sarif)
    print(found.to_json() if json else found)
    return found.status


@app.command
def check(
    source: Annotated[str | None, Parameter(help="file, folder of images, digits or mnist")] = None,
    /,
    *settings: Annotated[str, Parameter(help="section.key=value, such as likelihood=bernoulli")],
    config: Annotated[Path | None, Parameter(help="YAML file with settings")] = None,
    data_dir: Annotated[str | None, Parameter(help="folder with local copies of data sets")] = None,
) -> int:
    """Look at data and model before training: what does not fit, what cannot learn, what a step takes.

    Nothing is written. Exit status 1: a finding of severity error.
    """
    from .core.errors import BadInput
    from .core.finding import worst
    from .health import check as check_all

    source, overrides = _source_and_settings(source, settings, data_dir)
    settled = overrides if config is None else _layers(config, overrides).model_dump()
    source = source or settled.get("data", {}).get("source")
    if source is None:
        raise BadInput("source", None, "there is nothing to check", "name a file, a folder, digits or mnist")
    found = check_all(None, source, config=settled)
    for finding in found:
        print(finding)
    words = {"ok": "ready to train", "info": "ready to train", "warning": "worth a look first", "error": "not ready"}
    print(f"verdict   {words[worst(found)]}")
    return int(worst(found) == "error")


@app.command
def diagnose(
    subject: Annotated[Path, Parameter(help="run folder, or a log: TensorBoard events, .csv, .json or .jsonl")],
    /,
    *roles: Annotated[str, Parameter(help="for a log, role=tag where the guess is wrong, such as kl=train/kld")],
    json: Annotated[bool, Parameter(negative=(), help="print JSON")] = False,
) -> int:
    """Say what went wrong in a training, from which number, and what to do first.

    Exit status 1: a finding of severity error.
    """
    from .api import load
    from .core.finding import worst
    from .diagnosis.table import as_json, as_text
    from .health import diagnose as diagnose_it
    from .monitoring.causes import PRESSING
    from .report.verdict import again

    found = diagnose_it(subject, mapping=_roles(roles))
    edit = next((finding.edit for finding in found.findings if finding.edit and finding.severity in PRESSING), None)
    is_run = (subject / "config.yaml").is_file()
    command = again(load(subject), edit) if is_run and edit else ""
    numbers = found.to_dict()["numbers"]
    print(as_json(found.findings, numbers) if json else as_text(found.findings, found.heading, command))
    return int(worst(found.findings) == "error")


@app.command
def report(
    run: RunPath, /, *, to: Annotated[Path | None, Parameter(help="default: report.html in the run")] = None
) -> int:
    """Diagnose a run where that was not done yet, write its page and print its findings."""
    from .api import load
    from .health import diagnose
    from .report.page import write_report

    loaded = load(run)
    if loaded.is_finished and not loaded.diagnosis:
        diagnose(loaded)
    print(f"page      {write_report(loaded, to)}")
    return _print_findings(loaded)


@app.command
def compare(
    *runs: Annotated[Path, Parameter(help="two run folders or more; the others are compared with the first")],
    to: Annotated[Path | None, Parameter(help="also write a page, such as compare.html")] = None,
) -> int:
    """Put runs side by side: bounds where they can be compared, settings that differ, the same rows."""
    from .api import load
    from .report.compare import compare_text, write_compare

    loaded = [load(run) for run in runs]
    print(compare_text(loaded))
    return _wrote(write_compare(loaded, to), "the runs side by side") if to is not None else 0


@app.command
def sample(
    run: RunPath,
    /,
    *,
    count: Annotated[int, Parameter(help="rows")] = 64,
    to: To = Path("samples.npy"),
    seed: int = 0,
    noisy: Annotated[bool, Parameter(help="draw from p(x|z) instead of taking its mean")] = False,
) -> int:
    """Draw new rows from the prior."""
    from .api import load
    from .use.files import save_rows

    loaded = load(run)
    return _wrote(save_rows(loaded, loaded.sample(count, seed, noisy), to), f"{count} rows from the prior")


@app.command
def reconstruct(
    run: RunPath,
    source: Annotated[str | None, Parameter(help="rows; default: held-out rows kept in the run")] = None,
    /,
    *,
    to: To = Path("reconstructions.npy"),
    count: Annotated[int | None, Parameter(help="only the first rows")] = None,
) -> int:
    """Encode rows and decode them again."""
    import numpy as np

    from .api import load
    from .use.files import save_rows

    loaded = load(run)
    rows, _, what = _rows(loaded, source, count, to)
    if to.suffix.lower() == ".png":  # originals above, reconstructions below
        rows = np.asarray(rows[: count or 10])
        again = loaded.reconstruct(rows)
        shown = np.stack([np.reshape(rows, again.shape), again])
        return _wrote(save_rows(loaded, shown, to), f"the first {len(rows)} {what}, reconstructions below")
    return _wrote(save_rows(loaded, loaded.reconstruct(rows), to), f"reconstructions of {what}")


@app.command
def embed(
    run: RunPath,
    source: Annotated[str | None, Parameter(help="rows; default: held-out rows kept in the run")] = None,
    /,
    *,
    to: To = Path("codes.csv"),
    count: Annotated[int | None, Parameter(help="only the first rows")] = None,
    sample: Annotated[bool, Parameter(help="one draw of q(z|x) instead of its mean")] = False,
) -> int:
    """Write the latent codes of rows."""
    from .api import load
    from .use.files import save_codes

    loaded = load(run)
    rows, labels, what = _rows(loaded, source, count, to)
    return _wrote(save_codes(loaded.embed(rows, sample), to, labels), f"codes of {what}")


@app.command
def interpolate(
    run: RunPath,
    source: Annotated[str | None, Parameter(help="rows; default: held-out rows kept in the run")] = None,
    /,
    *,
    first: Annotated[int, Parameter(help="row to start from, counted from 0")] = 0,
    second: Annotated[int, Parameter(help="row to end at")] = 1,
    steps: int = 15,
    path: Annotated[str, Parameter(help="linear or spherical")] = "linear",
    to: To = Path("interpolation.npy"),
) -> int:
    """Decode a path between two rows."""
    from .api import load
    from .use.files import save_rows

    loaded = load(run)
    rows, _, what = _rows(loaded, source, None, to)
    a, b = _row(rows, first, "first"), _row(rows, second, "second")
    between = loaded.interpolate(a, b, steps, path)
    line = between[None] if to.suffix.lower() == ".png" else between
    return _wrote(save_rows(loaded, line, to), f"{steps} steps from row {first} to row {second} of {what}")


@app.command
def traverse(
    run: RunPath,
    source: Annotated[str | None, Parameter(help="rows; default: held-out rows kept in the run")] = None,
    /,
    *,
    row: Annotated[int | None, Parameter(help="row to walk around; default: the prior's mean")] = None,
    dimension: Annotated[list[int] | None, Parameter(help="latent dimension, counted from 1; default: all")] = None,
    steps: int = 11,
    span: Annotated[float, Parameter(help="half-width in standard deviations")] = 3.0,
    to: To = Path("traversal.npy"),
) -> int:
    """Decode walks along single latent dimensions."""
    from .api import load
    from .use.files import save_rows

    loaded = load(run)
    base = None if row is None else _row(_rows(loaded, source, None, to)[0], row, "row")
    walks = loaded.traverse(base, dimension, steps, span)
    return _wrote(save_rows(loaded, walks, to), f"{len(walks)} dimensions, {steps} steps each")


@app.command
def recipes() -> int:
    """List the recipes."""
    from .recipes import RECIPES

    for name, entry in RECIPES.items():
        print(f"{name}\n  {entry.title}\n  source: {entry.source}\n  published: {entry.published}")
    return 0


@app.command
def settings() -> int:
    """List every setting with its default."""
    from .core.config import describe_settings

    print(describe_settings())
    return 0


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits with its status."""
    from .core.errors import VaelabError

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
        if main_thread:
            signal.signal(signal.SIGINT, before)
    sys.exit(status or 0)


def _leave(number: int, _frame: Any) -> None:
    os.write(2, b"vaelab: interrupted\n")
    os._exit(128 + number)


def _fail(text: str, status: int) -> int:
    for line in text.strip().splitlines():
        print(f"vaelab: {line.strip()}", file=sys.stderr)
    return status


def _source_and_settings(
    source: str | None, settings: tuple[str, ...], data_dir: str | None
) -> tuple[str | None, dict[str, Any]]:
    """The source, and the settings as a nested mapping; the first word may be a setting."""
    from .core.config import parse_overrides

    if source is not None and "=" in source and not os.path.exists(source):
        settings, source = (source, *settings), None
    overrides: dict[str, Any] = parse_overrides(settings)
    if data_dir is not None:
        overrides.setdefault("data", {})["data_dir"] = data_dir
    return source, overrides


def _roles(given: tuple[str, ...]) -> dict[str, str]:
    """`role=tag` words as a mapping."""
    from .core.errors import BadInput

    pairs = [word.partition("=") for word in given]
    for word, (role, _, tag) in zip(given, pairs, strict=True):
        if not role or not tag:
            raise BadInput("role", word, "is written role=tag", "such as kl=train/kld")
    return {role: tag for role, _, tag in pairs}


def _layers(path: Path, overrides: dict[str, Any]) -> Any:
    from .core.config import build_config
    from .core.files import read_yaml

    return build_config(read_yaml(path), overrides)


def _rows(run: Any, source: str | None, count: int | None, to: Path) -> tuple[Any, Any, str]:
    """Rows to work on, their labels, and what they are: of a file, or the held-out rows kept in the run."""
    from .core.errors import BadInput
    from .data.source import load

    if count is not None and count < 1:
        raise BadInput("count", count, "must be at least 1")
    if source is None:
        rows, labels, name = run.preview, run.preview_labels, "held-out rows kept in the run"
    else:
        if to.exists() and Path(source).exists() and to.samefile(source):
            raise BadInput("to", to, "is the file that is read", "name another file to write")
        read = load(source, key=run.config.data.key, data_dir=run.config.data.data_dir)
        test = read.test is not None
        rows, labels = (read.test, read.test_labels) if test else (read.train, read.train_labels)
        rows, name = run.spec.in_order(rows, read.columns), f"{'test ' * test}rows of {source}"
    return rows[:count], None if labels is None else labels[:count], f"{len(rows[:count])} {name}"


def _batch_of(path: Path) -> Any:
    from .data.source import load

    return load(str(path)).train


def _row(rows: Any, index: int, argument: str) -> Any:
    from .core.errors import BadInput

    if not 0 <= index < len(rows):
        raise BadInput(argument, index, f"there are rows 0 to {len(rows) - 1}")
    return rows[index]


def _show(run: Any) -> int:
    """What a person reads after training: findings, then the verdict and where the page is."""
    if int(os.environ.get("RANK", 0)) != 0:
        return 0
    status = _print_findings(run)
    page = run.folder / "report.html"
    print(f"run       {run.folder}")
    if page.exists():
        print(f"page      {page.resolve()}")
    return status


def _print_findings(run: Any) -> int:
    """Findings, the worst first, and the verdict that the page gives too."""
    from .core.finding import SEVERITIES
    from .report.verdict import verdict

    for finding in sorted(run.findings, key=lambda f: -SEVERITIES.index(f.severity)):
        print(finding)
    judged = verdict(run)
    print(f"verdict   {judged.words}: {judged.sentence}")
    return int(judged.severity == "error")


def _wrote(path: Path, what: str) -> int:
    print(f"wrote     {path} ({what})")
    return 0
