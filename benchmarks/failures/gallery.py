"""Trainings that go wrong for a known reason, and healthy ones: is the one named, and the other left alone?

Usage: python benchmarks/failures/gallery.py [--only WORD]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from cases import FAILURES, HEALTHY, Case
from table import write_table

import vaelab
from vaelab.core.errors import Diverged
from vaelab.health import diagnose

PRESSING = ("warning", "error")


def trained(case: Case, folder: Path, settings: Any = None) -> vaelab.Run:
    """A training and its diagnosis; a run that was stopped has the findings that it left behind."""
    config = {**(settings or case.settings), "report": {"html": False}}
    model = case.model() if case.model else None
    objective = case.objective() if case.objective else None
    try:
        run = vaelab.train(case.x(), out=folder, config=config, model=model, objective=objective, progress=False)
    except Diverged:
        return vaelab.load(folder, model)
    diagnose(run)
    return run


def judged(case: Case) -> tuple[bool, str, float]:
    """Whether the verdict is right, the finding that leads it, and the seconds it took."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        findings = trained(case, Path(folder) / "run").findings
    pressing = [finding for finding in findings if finding.severity in PRESSING]
    lead = pressing[0] if pressing else None
    right = lead is None if not case.causes else lead is not None and lead.code in case.causes
    others = " ".join(finding.code for finding in pressing[1:])
    text = f"{lead.code} {lead.title}: {lead.number}" + (f" (also {others})" if others else "") if lead else "-"
    return right, text, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    lines, counts = [], []
    for title, cases in (("fails", FAILURES), ("healthy", HEALTHY)):
        chosen = [case for case in cases if arguments.only in case.name]
        right = 0
        for case in chosen:
            good, text, seconds = judged(case)
            right += good
            lines.append(f"{title:<8} {case.name:<40} {'right' if good else 'WRONG':<6} {text}")
            print(f"{lines[-1]}  [{seconds:.0f} s]", flush=True)
        counts.append(f"{title}: {right} of {len(chosen)} right")
    if not arguments.only:
        title = "Trainings of known outcome, and the finding that leads each diagnosis"
        write_table("failures", title, [*lines, "", *counts])
    else:
        print("\n".join(counts))


if __name__ == "__main__":
    main()
