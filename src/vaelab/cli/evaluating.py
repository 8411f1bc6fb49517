"""Commands that measure: evaluate, rate-distortion, intrinsic-dimension."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from .app import Settings, app
from .words import layers, numbers, source_and_settings

Out = Annotated[Path | None, Parameter(help="folder for the runs and the result; a scan goes on where it stopped")]
Listed = Annotated[str | None, Parameter(help="numbers with commas")]


@app.command
def evaluate(
    run: Annotated[Path | None, Parameter(help="a run folder")] = None,
    source: Annotated[str | None, Parameter(help="rows; default: all held-out rows of the run")] = None,
    /,
    *,
    samples: Annotated[int | None, Parameter(help="K of the importance-weighted bound; default 1000")] = None,
    metrics: Annotated[str, Parameter(help="also reconstruction, latent, samples, disentanglement; with commas")] = "",
    ais: Annotated[bool, Parameter(negative=(), help="bounds from both sides by annealed importance sampling")] = False,
    steps: Annotated[int | None, Parameter(help="of the annealing; default 1000")] = None,
    chains: Annotated[int | None, Parameter(help="of the annealing, a row; default 16")] = None,
    rows: Annotated[int | None, Parameter(help="only so many, evenly spaced; default: all, and 50 for --ais")] = None,
    dequantize: Annotated[
        bool, Parameter(negative=(), help="whole numbers under a density: add uniform noise, for a code length")
    ] = False,
    inception: Annotated[Path | None, Parameter(help="file with the Inception network's weights, for FID")] = None,
    seed: int = 0,
    self_test: Annotated[bool, Parameter(negative=(), help="hold every estimator to models known exactly")] = False,
    json: Annotated[bool, Parameter(negative=(), help="print JSON")] = False,
    quiet: Annotated[bool, Parameter(negative=(), help="no progress")] = False,
) -> int:
    """Measure a run on held-out rows: bounds on log p(x) with their errors, and the metrics that are asked for.

    What is measured on all held-out rows is kept in the run, for its page. A run of a model of your own is evaluated in
    Python: vaelab.evaluate(folder, model=...). Exit status 1: a finding of severity error, or a self test that fails.
    """
    from ..core.durable import to_json
    from ..core.errors import BadInput
    from ..core.finding import worst

    if self_test and json:
        raise BadInput("json", True, "the self test is printed as a table", "leave --json out")
    if self_test:
        return _self_test(run, seed)
    if run is None:
        raise BadInput("run", None, "there is nothing to evaluate", "name a run folder, or --self-test")
    from ..evaluation.run import SAMPLES
    from ..evaluation.run import evaluate as evaluate_run

    given = {"steps": steps, "chains": chains}
    options = {name: value for name, value in given.items() if value is not None}
    if options and not ais:
        raise BadInput(next(iter(options)), options[next(iter(options))], "belongs to the annealing", "add --ais")
    found = evaluate_run(
        run,
        source,
        samples=SAMPLES if samples is None else samples,
        metrics=metrics,
        ais=options if ais else False,
        rows=rows,
        dequantize=dequantize,
        inception=inception,
        seed=seed,
        progress=not quiet,
    )
    print(to_json(found.to_dict(), indent=1) if json else found)
    if source is None and rows is None and not json:
        print(f"kept      {run / 'evaluation.json'}")
    return int(worst(found.findings) == "error")


@app.command(name="rate-distortion")
def rate_distortion(
    source: Annotated[str | None, Parameter(help="file, folder of images, or a name such as digits")] = None,
    /,
    *settings: Settings,
    beta: Listed = None,
    out: Out = None,
    config: Annotated[Path | None, Parameter(help="YAML file with settings")] = None,
    data_dir: Annotated[str | None, Parameter(help="folder with local copies of data sets")] = None,
    quiet: Annotated[bool, Parameter(negative=(), help="no progress")] = False,
) -> int:
    """Train a run for each beta and measure what it transmits against what it loses.

    Default: 0.25, 0.5, 1, 2, 4, 8.
    """
    from ..evaluation.scan import rate_distortion as scan

    return _scan(scan, "betas", beta, "beta", float, source, settings, out, config, data_dir, quiet)


@app.command(name="intrinsic-dimension")
def intrinsic_dimension(
    source: Annotated[str | None, Parameter(help="file, folder of images, or a name such as digits")] = None,
    /,
    *settings: Settings,
    latent: Listed = None,
    out: Out = None,
    config: Annotated[Path | None, Parameter(help="YAML file with settings")] = None,
    data_dir: Annotated[str | None, Parameter(help="folder with local copies of data sets")] = None,
    quiet: Annotated[bool, Parameter(negative=(), help="no progress")] = False,
) -> int:
    """Train a run for each number of latent dimensions and say how many the data has use for.

    Default: 1, 2, 4, 8, 16, 32, as far as a row has entries.
    """
    from ..evaluation.scan import intrinsic_dimension as scan

    return _scan(scan, "latents", latent, "latent", int, source, settings, out, config, data_dir, quiet)


def _self_test(run: Path | None, seed: int) -> int:
    from ..core.errors import BadInput
    from ..evaluation.self_test import self_test

    if run is not None:
        raise BadInput("run", run, "the self test holds estimators to models of its own", "leave the run out")
    found = self_test(seed)
    print(found)
    return int(not found.ok)


def _scan(
    scan: Callable[..., Any],
    argument: str,
    values: str | None,
    flag: str,
    kind: type,
    source: str | None,
    settings: tuple[str, ...],
    out: Path | None,
    config: Path | None,
    data_dir: str | None,
    quiet: bool,
) -> int:
    from ..core.errors import BadInput
    from ..report.scan_plot import write_scan_plot

    source, overrides = source_and_settings(source, settings, data_dir)
    if source is None:
        raise BadInput("source", None, "there is nothing to train on", "name a file, a folder, digits, mnist or shapes")
    given = {} if values is None else {argument: numbers(values, flag, kind)}
    settled = overrides if config is None else layers(config, overrides)
    found = scan(source, **given, config=settled, out=out, progress=not quiet)
    print(found)
    print(f"picture   {write_scan_plot(found, found.folder / 'scan.svg')}")
    return 0
