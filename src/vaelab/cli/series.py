"""The command that scores time series: score-series."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .app import RunPath, To, app
from .words import refuse_to, wrote


@app.command
def score_series(
    run: RunPath,
    source: Annotated[str, Parameter(help="table with the run's channels, and its column of times if it had one")],
    /,
    *,
    to: To = Path("scores.csv"),
    causal: Annotated[bool, Parameter(help="score each point by the past alone, as a stream is scored")] = False,
    false_alarms: Annotated[float, Parameter(help="share of points in order that may be called anomalies")] = 0.05,
    samples: Annotated[int, Parameter(help="draws of z for each window")] = 8,
    seed: int = 0,
) -> int:
    """Say how strange each point of a time series is, with a p-value, a threshold and the channel that made it so."""
    from ..api import load
    from ..use.series import save_series, score_series

    loaded = load(run)
    refuse_to(to, source, loaded)
    found = score_series(loaded, source, causal, false_alarms, samples, seed)
    written = save_series(found, to)
    for finding in found.series.findings:
        print(finding)
    held_out = len(found.calibration)
    if found.limit == float("inf"):
        print(f"no threshold: the run keeps {held_out} held-out points, too few for --false-alarms {false_alarms:g}")
    else:
        print(f"threshold {found.limit:.7g} nats per time point: p <= {false_alarms:g} by {held_out} held-out points")
        print(f"anomalies {found.anomalies.sum()} of {len(found.values)} points ({100 * found.anomalies.mean():.1f} %)")
    return wrote(written, f"scores of {len(found.values)} points of {source}, {samples} draws a window")
