"""Commands before, during and after training: train, check, audit, diagnose, report, compare; recipes and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .app import RunPath, Settings, app
from .words import batch_of, layers, numbers, print_findings, roles_of, show, source_and_settings, wrote


@app.command
def train(
    source: Annotated[str | None, Parameter(help="file, folder of images, digits, mnist or shapes")] = None,
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
    from ..api import load
    from ..api import train as train_run
    from ..core.errors import Diverged

    source, overrides = source_and_settings(source, settings, data_dir)
    try:
        run = train_run(
            source,
            out=out,
            config=overrides if config is None else layers(config, overrides),
            recipe=recipe,
            resume=resume,
            progress=not quiet,
        )
    except Diverged as error:
        if error.folder is not None:
            show(load(error.folder))
        raise
    return show(run)


@app.command(name="train-many")
def train_many(
    source: Annotated[str | None, Parameter(help="file, folder of images, digits, mnist or shapes")] = None,
    /,
    *settings: Settings,
    seeds: Annotated[str, Parameter(help="how many, or which, with commas")] = "8",
    betas: Annotated[str | None, Parameter(help="weights of the divergence with commas, such as 0.5,1,2")] = None,
    out: Annotated[Path | None, Parameter(help="new folder for the runs; default: a fresh one under runs/")] = None,
    config: Annotated[Path | None, Parameter(help="YAML file with settings")] = None,
    recipe: Annotated[str | None, Parameter(help="settings by name; see `vaelab recipes`")] = None,
    data_dir: Annotated[str | None, Parameter(help="folder with local copies of data sets")] = None,
    quiet: Annotated[bool, Parameter(negative=(), help="no progress")] = False,
) -> int:
    """Train one model from several seeds at once, and with several weights of the divergence.

    Each seed and beta is a run folder of its own, for `report`, `evaluate` and `compare`.
    """
    from ..api import train_many as train_runs
    from ..measure.bound import selected_by
    from ..measure.estimate import Z95

    source, overrides = source_and_settings(source, settings, data_dir)
    chosen = numbers(seeds, "seeds", int)
    runs = train_runs(
        source,
        chosen[0] if len(chosen) == 1 and "," not in seeds else chosen,
        None if betas is None else numbers(betas, "betas", float),
        out=out,
        config=overrides if config is None else layers(config, overrides),
        recipe=recipe,
        progress=not quiet,
    )
    for run in runs:
        name, value, error = selected_by(run.metrics)
        print(f"run       {run.folder}  held-out {name} {value:.3f} ± {Z95 * error:.3f} (95 %) nats per sample")
    return 0


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
    from ..auditing.command import Options, run_audit
    from ..core.config import parse_overrides

    if likelihood and importance:
        from ..core.errors import BadInput

        raise BadInput("likelihood", "together with --importance", "a target is one of them")
    kind = "likelihood" if likelihood else "importance" if importance else "loss"
    rows = None if data is None else batch_of(data)
    options = Options(kind, inputs, rows, loss, declared_beta, family, framework, total, seconds)
    found = run_audit(target, parse_overrides(settings), options, sarif)
    print(found.to_json() if json else found)
    return found.status


@app.command
def check(
    source: Annotated[str | None, Parameter(help="file, folder of images, digits, mnist or shapes")] = None,
    /,
    *settings: Annotated[str, Parameter(help="section.key=value, such as likelihood=bernoulli")],
    config: Annotated[Path | None, Parameter(help="YAML file with settings")] = None,
    data_dir: Annotated[str | None, Parameter(help="folder with local copies of data sets")] = None,
) -> int:
    """Look at data and model before training: what does not fit, what cannot learn, what a step takes.

    Nothing is written. Exit status 1: a finding of severity error.
    """
    from ..core.errors import BadInput
    from ..core.finding import worst
    from ..health import check as check_all

    source, overrides = source_and_settings(source, settings, data_dir)
    settled = overrides if config is None else layers(config, overrides).model_dump()
    source = source or settled.get("data", {}).get("source")
    if source is None:
        raise BadInput("source", None, "there is nothing to check", "name a file, a folder, digits, mnist or shapes")
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
    from ..api import load
    from ..core.finding import worst
    from ..diagnosis.table import as_json, as_text
    from ..health import diagnose as diagnose_it
    from ..monitoring.causes import PRESSING
    from ..report.verdict import again

    found = diagnose_it(subject, mapping=roles_of(roles))
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
    from ..api import load
    from ..health import diagnose
    from ..report.page import write_report

    loaded = load(run)
    if loaded.is_finished and not loaded.diagnosis:
        diagnose(loaded)
    print(f"page      {write_report(loaded, to)}")
    return print_findings(loaded)


@app.command
def compare(
    *runs: Annotated[Path, Parameter(help="two run folders or more; the others are compared with the first")],
    to: Annotated[Path | None, Parameter(help="also write a page, such as compare.html")] = None,
) -> int:
    """Put runs side by side: bounds where they can be compared, settings that differ, the same rows."""
    from ..api import load
    from ..report.compare import compare_text, write_compare

    loaded = [load(run) for run in runs]
    print(compare_text(loaded))
    return wrote(write_compare(loaded, to), "the runs side by side") if to is not None else 0


@app.command
def recipes(name: Annotated[str | None, Parameter(help="of one recipe")] = None, /) -> int:
    """List the recipes, a card each, or give the card of one."""
    from ..catalogue import card
    from ..core.tables import pick
    from ..recipes import RECIPES

    if name is not None:
        pick(RECIPES, name, "recipe")
    print("\n\n".join(map(card, RECIPES if name is None else [name])))
    return 0


@app.command
def models(
    name: Annotated[str | None, Parameter(help="a part, such as vamp, or a recipe")] = None,
    /,
) -> int:
    """List every part of a model, what goes with what, and the recipes; or say all about one of them."""
    from ..catalogue import about, everything

    print(everything() if name is None else about(name))
    return 0


@app.command
def settings() -> int:
    """List every setting with its default."""
    from ..core.config import describe_settings

    print(describe_settings())
    return 0
