"""The first remedy of each failure, applied as written: is the run healthy then, and what did its bound do?

Only failures whose leading finding carries an edit of the settings. A bound is that of held-out rows at beta = 1, in
nats per sample on the data's own scale, so that it can be compared where the likelihood stays what it was.
Usage: python benchmarks/failures/remedies.py [--only WORD]
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

from cases import FAILURES, Case
from gallery import PRESSING, trained, write_table

import vaelab
from vaelab.core.finding import settings_text


def bound(run: vaelab.Run) -> str:
    """The held-out negative ELBO and its standard error."""
    if not run.metrics:
        return "none"
    return f"{run.metrics['negative_elbo']:.2f} ± {run.metrics['standard_error']:.2f}"


def remedied(case: Case) -> tuple[str, bool] | None:
    """A line of the table, and whether the second run is healthy; None where there is no edit to apply."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = trained(case, Path(folder) / "first")
        lead = next((finding for finding in first.findings if finding.severity in PRESSING), None)
        if lead is None or not lead.edit or case.model is not None:
            return None
        second = trained(case, Path(folder) / "second", first.config.edited(lead.edit).model_dump(exclude_unset=True))
        left = [finding.code for finding in second.findings if finding.severity in PRESSING]
        same = first.config.likelihood.name == second.config.likelihood.name
        line = (
            f"{case.name:<38} {lead.code}  {settings_text(lead.edit):<52} {bound(first):>28} {bound(second):>18}"
            f"  {'healthy' if not left else ' '.join(left)}{'' if same else '  (another likelihood)'}"
        )
        return line, not left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    only = parser.parse_args().only
    lines, healthy = [], 0
    for case in FAILURES:
        if only in case.name and (found := remedied(case)):
            line, good = found
            healthy += good
            lines.append(line)
            print(line, flush=True)
    head = f"{'failure':<38} {'code':<6} {'first remedy':<52} {'bound before':>28} {'after':>18}  after"
    counted = f"{healthy} of {len(lines)} are healthy after their first remedy"
    if not only:
        title = "The first remedy of each failure, applied as written"
        write_table("failures-remedies", title, [head, *lines, "", counted])
    else:
        print(counted)


if __name__ == "__main__":
    main()
