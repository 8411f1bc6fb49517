"""Commands that use a trained model: sample, reconstruct, embed, interpolate, traverse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .app import RunPath, To, app
from .words import row_of, rows_of, wrote


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
    from ..api import load
    from ..use.files import save_rows

    loaded = load(run)
    return wrote(save_rows(loaded, loaded.sample(count, seed, noisy), to), f"{count} rows from the prior")


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

    from ..api import load
    from ..use.files import save_rows

    loaded = load(run)
    rows, _, what = rows_of(loaded, source, count, to)
    if to.suffix.lower() == ".png":  # originals above, reconstructions below
        rows = np.asarray(rows[: count or 10])
        again = loaded.reconstruct(rows)
        shown = np.stack([np.reshape(rows, again.shape), again])
        return wrote(save_rows(loaded, shown, to), f"the first {len(rows)} {what}, reconstructions below")
    return wrote(save_rows(loaded, loaded.reconstruct(rows), to), f"reconstructions of {what}")


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
    from ..api import load
    from ..use.files import save_codes

    loaded = load(run)
    rows, labels, what = rows_of(loaded, source, count, to)
    return wrote(save_codes(loaded.embed(rows, sample), to, labels), f"codes of {what}")


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
    from ..api import load
    from ..use.files import save_rows

    loaded = load(run)
    rows, _, what = rows_of(loaded, source, None, to)
    a, b = row_of(rows, first, "first"), row_of(rows, second, "second")
    between = loaded.interpolate(a, b, steps, path)
    line = between[None] if to.suffix.lower() == ".png" else between
    return wrote(save_rows(loaded, line, to), f"{steps} steps from row {first} to row {second} of {what}")


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
    from ..api import load
    from ..use.files import save_rows

    loaded = load(run)
    base = None if row is None else row_of(rows_of(loaded, source, None, to)[0], row, "row")
    walks = loaded.traverse(base, dimension, steps, span)
    return wrote(save_rows(loaded, walks, to), f"{len(walks)} dimensions, {steps} steps each")
