"""The command that fills gaps: impute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from .app import RunPath, app
from .words import condition_of, refuse_to, taken, wrote


@app.command
def impute(
    run: RunPath,
    source: Annotated[str, Parameter(help="rows with gaps")],
    /,
    *,
    to: Annotated[Path | None, Parameter(help="file to write; None: filled.csv, and filled.npz for images")] = None,
    draws: Annotated[int, Parameter(help="complete tables drawn at random; 0: the best guess alone")] = 0,
    interval: Annotated[float | None, Parameter(help="probability of an interval for each gap, such as 0.9")] = None,
    summary: Annotated[str, Parameter(help="of what a gap may be: mean or median")] = "mean",
    samples: Annotated[int, Parameter(help="draws of z for each row")] = 1000,
    seed: int = 0,
    condition: Annotated[str | None, Parameter(help="label, or numbers: what stands beside all rows")] = None,
) -> int:
    """Fill the missing entries of rows, by what the model makes of the known ones."""
    import numpy as np

    from ..api import load
    from ..use.files import FILES, refuse_path, save_rows
    from ..use.filled_files import WRITES, TextTable, columns_beside, is_text, refuse_columns
    from ..use.imputing import impute as fill

    loaded = load(run)
    to = to or Path("filled.csv" if loaded.spec.layout == "table" else "filled.npz")
    refuse_to(to, source, loaded)
    plain = is_text(source) and loaded.spec.layout == "table" and not loaded.spec.condition
    as_text = plain and is_text(to)  # then what was written stays as it was
    refuse_path(to, WRITES if as_text else FILES[loaded.spec.layout])
    refuse_columns(loaded, to, draws, interval)
    table = TextTable(source, loaded) if plain else None
    found = taken(loaded, source, None, to) if table is None else None
    rows, given = (table.rows, None) if table is not None else (found.rows, found.given)  # type: ignore[union-attr]
    own = condition_of(loaded, condition)
    options: dict[str, Any] = {"samples": samples, "summary": summary, "draws": draws, "interval": interval}
    filled = fill(loaded, rows, **options, seed=seed, condition=given if own is None else own)
    for finding in filled.findings:
        print(finding)
    if table is not None and as_text:
        return wrote(table.save(filled, to), filled.told)
    several = np.concatenate(filled.draws) if draws else filled.rows
    return wrote(save_rows(loaded, np.asarray(several), to, columns_beside(loaded, filled)), filled.told)
