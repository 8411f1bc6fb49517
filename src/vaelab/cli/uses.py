"""Commands that use a trained model: sample, reconstruct, classify, interpolate, traverse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from .app import RunPath, To, app
from .words import condition_of, refuse_to, row_of, rows_of, wrote


@app.command
def sample(
    run: RunPath,
    /,
    *,
    count: Annotated[int, Parameter(help="rows")] = 64,
    to: To = Path("samples.npy"),
    seed: int = 0,
    noisy: Annotated[
        bool | None, Parameter(help="draw from p(x|z), as for strings and mixed tables, or take its mean")
    ] = None,
    condition: Annotated[str | None, Parameter(help="label, or numbers; default: as in the training rows")] = None,
) -> int:
    """Draw new rows from the prior."""
    from ..api import load
    from ..use.files import save_rows

    loaded = load(run)
    refuse_to(to, None, loaded)
    made = loaded.sample(count, seed, noisy, condition_of(loaded, condition))
    return wrote(save_rows(loaded, made, to), f"{count} rows from the prior{_drawn(loaded, condition)}")


@app.command
def reconstruct(
    run: RunPath,
    source: Annotated[str | None, Parameter(help="rows; default: held-out rows kept in the run")] = None,
    /,
    *,
    to: To = Path("reconstructions.npy"),
    count: Annotated[int | None, Parameter(help="only the first rows")] = None,
    condition: Annotated[str | None, Parameter(help="decode them under this label, or these numbers")] = None,
) -> int:
    """Encode rows and decode them again, under another condition where one is named."""
    import numpy as np

    from ..api import load
    from ..use.files import save_rows

    loaded = load(run)
    picture = to.suffix.lower() == ".png"
    rows, given, _, what = rows_of(loaded, source, (count or 10) if picture else count, to)
    again = loaded.reconstruct(rows, given, condition_of(loaded, condition))
    if picture:  # originals above, reconstructions below
        shown = np.stack([np.reshape(np.asarray(rows), again.shape), again])
        return wrote(save_rows(loaded, shown, to), f"{what}, reconstructions below{_under(condition)}")
    return wrote(save_rows(loaded, again, to), f"reconstructions of {what}{_under(condition)}")


@app.command
def classify(
    run: RunPath,
    source: Annotated[str | None, Parameter(help="rows; default: held-out rows kept in the run")] = None,
    /,
    *,
    to: To = Path("labels.csv"),
    count: Annotated[int | None, Parameter(help="only the first rows")] = None,
) -> int:
    """Write each row's likeliest label and the probability of each, where the run learned to tell labels."""
    from ..api import load
    from ..use.files import save_labels

    loaded = load(run)
    rows, _, _, what = rows_of(loaded, source, count, to)
    return wrote(save_labels(loaded.classify(rows), loaded.spec.condition, to), f"labels of {what}")


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
    condition: Annotated[
        str | None, Parameter(help="label, or numbers; default: from the one row's to the other's")
    ] = None,
) -> int:
    """Decode a path between two rows."""
    import numpy as np

    from ..api import load
    from ..use.files import save_rows

    loaded = load(run)
    rows, given, _, what = rows_of(loaded, source, None, to)
    a, b = row_of(rows, first, "first"), row_of(rows, second, "second")
    own = condition_of(loaded, condition)
    ends = given[[first, second]] if own is None and given is not None else own
    between = loaded.interpolate(a, b, steps, path, ends)
    line = between[None] if to.suffix.lower() == ".png" else between
    beside = {"share": np.linspace(0, 1, steps)}
    return wrote(
        save_rows(loaded, line, to, beside),
        f"{steps} steps from row {first} to row {second} of {what}{_under(condition)}",
    )


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
    condition: Annotated[str | None, Parameter(help="label, or numbers; default: that of the row")] = None,
) -> int:
    """Decode walks along single latent dimensions."""
    import numpy as np

    from ..api import load
    from ..use.files import save_rows

    loaded = load(run)
    refuse_to(to, source, loaded)
    base, own = None, condition_of(loaded, condition)
    if row is not None:
        rows, given, _, _ = rows_of(loaded, source, None, to)
        base = row_of(rows, row, "row")
        own = given[row] if own is None and given is not None else own
    walks = loaded.traverse(base, dimension, steps, span, own)
    which = ", ".join(map(str, dimension or range(1, len(walks) + 1)))
    line = (
        f"a line each for dimension {which}; {steps} steps from {-span:g} to {span:g} standard deviations of the prior"
    )
    beside = {"dimension": np.repeat(dimension or range(1, len(walks) + 1), steps)}
    beside["deviations"] = np.tile(np.linspace(-span, span, steps), len(walks))
    return wrote(save_rows(loaded, walks, to, beside), line)


def _drawn(run: Any, condition: str | None) -> str:
    """Under what rows were drawn."""
    if condition is None and run.spec.condition:
        return ", under conditions drawn from those of the training rows; --condition names one"
    return _under(condition)


def _under(condition: str | None) -> str:
    return "" if condition is None else f" under {condition}"
