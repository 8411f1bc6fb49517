"""The command that scores rows: score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .app import RunPath, To, app
from .words import rows_of, wrote


@app.command
def score(
    run: RunPath,
    source: Annotated[str | None, Parameter(help="rows; default: held-out rows kept in the run")] = None,
    /,
    *,
    to: To = Path("scores.csv"),
    count: Annotated[int | None, Parameter(help="only the first rows")] = None,
    kind: Annotated[str, Parameter(help="likelihood, reconstruction, latent or typicality")] = "likelihood",
    samples: Annotated[int, Parameter(help="draws of z for each row")] = 50,
    false_alarms: Annotated[float, Parameter(help="share of rows in order that may be called anomalies")] = 0.05,
    explain: Annotated[int, Parameter(help="columns named for each row; 0: none")] = 3,
    seed: int = 0,
) -> int:
    """Say how strange rows are, with a p-value, a threshold, and the columns that made them so."""
    from ..api import load
    from ..use.anomalies import judge_rows, save_scores

    loaded = load(run)
    rows, given, _, what = rows_of(loaded, source, count, to)
    judged = judge_rows(loaded, rows, kind, samples, false_alarms, seed, given)
    written = save_scores(judged, to, 0 if loaded.spec.layout == "image" else explain)
    if judged.calibration is None:
        print("no p-values: this run was exported without rows of its data; vaelab export --rows takes them along")
        return wrote(written, f"scores of {what}, {kind}, {samples} draws a row")
    held_out = len(judged.calibration.values)
    if judged.limit == float("inf"):
        least = round(1 / false_alarms) - 1
        print(f"no threshold: {false_alarms:g} takes at least {least} held-out rows, and the run keeps {held_out}")
        print(f"give --false-alarms {1 / (held_out + 1):.2g} or more, or train with a larger data.held_out")
    else:
        print(f"threshold {judged.limit:.4g} nats: p <= {false_alarms:g} by {held_out} held-out rows")
        print(f"anomalies {judged.anomalies.sum()} of {len(rows)} rows ({100 * judged.anomalies.mean():.1f} %)")
        if judged.anomalies.all():
            print("note      every row is strange: were columns or units other ones when the run was trained?")
    return wrote(written, f"scores of {what}, {kind}, {samples} draws a row")
