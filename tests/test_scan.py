"""Scans: the curve of reverse water-filling, data of known dimension, scans that were interrupted, what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_wine

from vaelab.core.config import build_config
from vaelab.core.errors import BadInput, Diverged, Interrupted, InUse
from vaelab.core.finding import Finding
from vaelab.evaluation import scan_runs
from vaelab.evaluation.scan import LATENTS, Scan, intrinsic_dimension, rate_distortion
from vaelab.evaluation.scan_judge import as_good, ends, envelope, judge_betas, judge_latents, plateau
from vaelab.evaluation.scan_runs import Reading
from vaelab.evaluation.scan_text import as_text
from vaelab.measure.estimate import Estimate, mean_of
from vaelab.report.scan_plot import write_scan_plot
from vaelab.training.loop import Loop
from vaelab.training.run import Run
from vaelab.training.show import Display

RANDOM = np.random.default_rng(0)
LINEAR: dict[str, Any] = {"encoder": "linear", "decoder": "linear"}
SHORT: dict[str, Any] = {"evaluate_every": 200, "checkpoint_every": 200}
TINY: dict[str, Any] = {"model": LINEAR, "train": {"steps": 40, "evaluate_every": 20, "checkpoint_every": 20}}
ROWS = RANDOM.standard_normal((120, 2)) @ RANDOM.standard_normal((2, 5)) + 0.3 * RANDOM.standard_normal((120, 5))


def codes(scan: Scan) -> list[str]:
    return [finding.code for finding in scan.findings]


def digests(folder: Path) -> dict[str, str]:
    """What a folder holds, its notes of who held it left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", ".holder"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# The curve ------------------------------------------------------------------------------------------------------------

EIGENVALUES = np.array([6.0, 3.0, 1.5, 0.5, 0.5, 0.5])  # the noise of the model is that of the rest
SIGMA = math.sqrt(0.5)


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    rows = np.random.default_rng(2).standard_normal((6000, 6)) * np.sqrt(EIGENVALUES) @ rotation.T
    config = {
        "model": {**LINEAR, "latent": 3},
        "data": {"scale": "none", "held_out": 0.5},
        "likelihood": {"name": "gaussian", "noise": "fixed", "sigma": SIGMA},
        "train": {**SHORT, "steps": 600, "learning_rate": 0.02, "batch_size": 256},
    }
    out = tmp_path_factory.mktemp("gaussian") / "s"
    return rate_distortion(rows, (0.5, 1.0, 2.0, 4.0), config=config, out=out, progress=False)


def water_filling(beta: float) -> tuple[float, float]:
    """Rate and distortion of the best linear model with noise s²: of each direction above the water level beta s², half
    the logarithm of its height over it, and that much squared error; all of the variance of the others."""
    level = beta * SIGMA**2
    above = np.arange(6) < 3
    above &= level < EIGENVALUES
    rate = 0.5 * np.log(EIGENVALUES[above] / level).sum()
    squares = level * above.sum() + EIGENVALUES[~above].sum()
    return rate, squares / (2 * SIGMA**2) + 3 * math.log(2 * math.pi * SIGMA**2)


def test_a_linear_model_has_the_curve_of_reverse_water_filling(gaussian: Scan) -> None:
    for point in gaussian.points:
        rate, distortion = water_filling(point.value)
        assert point.rate.value == pytest.approx(rate, abs=2 * point.rate.interval + 0.03)
        assert point.distortion.value == pytest.approx(distortion, abs=2 * point.distortion.interval + 0.03)
        assert point.rate.interval < 0.1 and point.distortion.interval < 0.12
        assert point.negative_elbo.value == pytest.approx(point.rate.value + point.distortion.value)


def test_the_best_bound_is_that_of_beta_one_and_is_the_exact_likelihood(gaussian: Scan) -> None:
    entropy = 0.5 * np.log(2 * math.pi * math.e * EIGENVALUES).sum()
    best = gaussian.points[1]
    assert best.behind.value == 0 and [point.behind.low > 0 for point in gaussian.points] == [True, False, True, True]
    for number in (best.negative_elbo, best.negative_bound):  # both tight: the posterior is in the family
        assert number.value == pytest.approx(entropy, abs=2 * number.interval)
    assert all(point.negative_bound.value < point.negative_elbo.value + 1e-3 for point in gaussian.points)
    assert codes(gaussian) == ["EV201"] and gaussian.findings[0].edit == {"objective.beta": 1.0}


def test_the_slope_between_runs_is_between_their_betas(gaussian: Scan) -> None:
    for one, two in zip(gaussian.points, gaussian.points[1:], strict=False):
        slope = (one.distortion.value - two.distortion.value) / (two.rate.value - one.rate.value)
        assert one.value < slope < two.value
    rates = [point.rate.value for point in gaussian.points]
    assert envelope(rates, [point.distortion.value for point in gaussian.points]) == [True] * 4


def test_the_numbers_are_kept_in_words_and_as_json(gaussian: Scan) -> None:
    kept = json.loads((gaussian.folder / "scan.json").read_text())
    assert kept == json.loads(json.dumps(gaussian.to_dict()))
    assert Estimate.from_dict(kept["points"][2]["rate"]) == gaussian.points[2].rate
    assert [Finding.from_dict(finding) for finding in kept["findings"]] == list(gaussian.findings)
    text = (gaussian.folder / "scan.txt").read_text()
    assert text == f"{gaussian}\n"
    assert "3000 held-out rows" in text and "K = 64" in text and "EV201" in text
    assert [line.split()[0] for line in text.splitlines()[4:9]] == ["beta", "0.5", "1", "2", "4"]


def test_a_run_of_the_scan_is_a_whole_run(gaussian: Scan) -> None:
    point = gaussian.points[1]
    run = Run(gaussian.folder / point.folder)
    assert run.is_finished and run.config.objective.beta == 1.0
    assert not (run.folder / "report.html").exists()
    if point.step == run.metrics["step"]:
        measured = run.metrics["negative_elbo"], run.metrics["kl"], run.metrics["active_units"]
        assert point.negative_elbo.value == pytest.approx(measured[0], abs=0.02)
        assert (point.rate.value, point.active_units.value) == pytest.approx(measured[1:], abs=0.01)


@pytest.mark.parametrize("data", ["digits", "wine"])
def test_along_beta_the_rate_falls_and_the_distortion_rises(data: str, tmp_path: Path) -> None:
    """Real data on its own scale: the bound of each run is its metrics', with the logarithm of the determinant."""
    rows = load_digits().images[:500] if data == "digits" else load_wine().data
    config = {"model": {"hidden": [32], "latent": 3}, "train": {**SHORT, "steps": 200, "learning_rate": 3e-3}}
    scan = rate_distortion(rows, (4.0, 0.25, 1.0), config=config, out=tmp_path / "s", progress=False)
    assert [point.value for point in scan.points] == [0.25, 1.0, 4.0]
    assert np.all(np.diff([point.rate.value for point in scan.points]) < 0)
    assert np.all(np.diff([point.distortion.value for point in scan.points]) > 0)
    for point in scan.points:
        run = Run(scan.folder / point.folder)
        assert point.negative_elbo.value == pytest.approx(run.metrics["negative_elbo"], abs=0.1 + point.behind.value)
        assert point.negative_bound.value < point.negative_elbo.value - 0.05
    assert scan.rows == run.spec.held_out_rows and scan.data == "array"


def test_gray_levels_become_the_same_bits_for_all_runs(tmp_path: Path) -> None:
    """The decoder at beta = 1000 is deaf, and costs each entry the entropy of its bits."""
    level = RANDOM.uniform(0.1, 0.9, 6)
    rows = np.clip(level + 0.02 * RANDOM.standard_normal((1500, 6)), 0, 1)
    config = {
        "data": {"binarize": "dynamic", "held_out": 0.5},
        "model": {"hidden": [8], "latent": 1},
        "train": {**SHORT, "steps": 300, "learning_rate": 0.02},
    }
    scan = rate_distortion(rows, (1000.0, 2000.0), config=config, out=tmp_path / "s", progress=False)
    entropy = -(level * np.log(level) + (1 - level) * np.log(1 - level)).sum()
    for point in scan.points:
        assert point.negative_elbo.value == pytest.approx(entropy, abs=1.5 * point.negative_elbo.interval)
    assert max(point.behind.interval for point in scan.points) < 0.1 * scan.points[0].negative_elbo.interval
    assert "drawn as bits once, the same for all runs" in str(scan)


def test_of_two_kept_weights_those_of_the_lower_trained_loss_count(tmp_path: Path) -> None:
    """Beta rises to 8: the best bound at beta = 1 comes on the way, with far more rate than what was asked for."""
    train = {"steps": 300, "evaluate_every": 10, "checkpoint_every": 150, "learning_rate": 5e-3}
    objective = {"anneal": "linear", "warmup_steps": 250}
    config = {"model": {"hidden": [32], "latent": 3}, "train": train, "objective": objective}
    rows = load_digits().images[:500]
    scan = rate_distortion(rows, (8.0,), config=config, out=tmp_path / "s", progress=False)
    run = Run(tmp_path / "s" / "beta-8")
    held_out = {line["step"]: line for line in run.history if line["kind"] == "held_out"}
    early, last = (held_out[step] for step in (run.metrics["step"], 300))
    assert early["reconstruction"] + 8 * early["kl"] > last["reconstruction"] + 8 * last["kl"] + 1
    assert scan.points[0].step == 300
    assert scan.points[0].rate.value == pytest.approx(last["kl"], abs=0.05)


# Dimensions -----------------------------------------------------------------------------------------------------------


def test_three_factors_in_twenty_columns_are_found(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    factors = random.standard_normal((3, 20))
    factors /= np.linalg.norm(factors, axis=0)  # equal columns: standardised, their noise stays equal, too
    rows = random.standard_normal((4000, 3)) @ factors + 0.1 * random.standard_normal((4000, 20))
    config = {"model": LINEAR, "train": {**SHORT, "steps": 800, "learning_rate": 0.02}}
    scan = intrinsic_dimension(rows, (1, 2, 3, 4), config=config, out=tmp_path / "s", progress=False)
    by_bound = next(finding for finding in scan.findings if finding.code == "EV211")
    by_units = next(finding for finding in scan.findings if finding.code == "EV212")
    assert by_bound.measured == 3 and by_bound.edit == {"model.latent": 3}
    assert by_units.measured == 3
    assert [point.active_by_mean.value for point in scan.points[:3]] == [1, 2, 3]
    assert scan.points[1].behind.low > 1


@pytest.mark.parametrize(("columns", "expected"), [(3, [1, 2, 3]), (8, [1, 2, 4, 8]), (40, list(LATENTS))])
def test_sizes_end_at_the_entries_of_a_row(
    columns: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr("vaelab.evaluation.scan.run_of", lambda *given: seen.append(given[1].model.latent))
    monkeypatch.setattr("vaelab.evaluation.scan.read_best", lambda *given: reading(np.zeros(5), np.zeros(5), 1))
    intrinsic_dimension(RANDOM.standard_normal((50, columns)), config=TINY, out=tmp_path / "s", progress=False)
    assert seen == expected


def reading(rate: np.ndarray, distortion: np.ndarray, latent: int = 2) -> Reading:
    kl = np.repeat(np.asarray(rate, np.float64)[:, None] / latent, latent, 1)
    return Reading("run", 1, kl, np.zeros_like(kl), -(rate + distortion), -(rate + distortion))


def judged(
    kind: str,
    values: Sequence[float],
    readings: list[Reading],
    used: Sequence[int | Estimate] | None = None,
    entries: int = 50,
) -> dict[str, Finding]:
    best, units = max(readings, key=lambda one: one.elbo.mean()), used or [0] * 9
    points = [
        SimpleNamespace(
            value=value,
            negative_elbo=mean_of(-one.elbo),
            behind=mean_of(best.elbo - one.elbo),
            active_by_mean=units[place] if isinstance(units[place], Estimate) else Estimate(units[place], 0.0),
        )
        for place, (value, one) in enumerate(zip(values, readings, strict=True))
    ]
    judge = judge_betas if kind == "betas" else judge_latents
    return {finding.code: finding for finding in judge(points, readings, entries)}


NOISE = 0.1 * RANDOM.standard_normal((4, 400))


def test_runs_off_the_curve_are_named_with_their_cause() -> None:
    """Rate and distortion of beta = 0.5, 1, 2, 4: the first is beaten by the second, the last by the third."""
    rates, distortions = (9.0, 6.0, 4.0, 4.5), (21.0, 20.0, 23.0, 24.0)
    readings = [reading(r + e, d - e) for r, d, e in zip(rates, distortions, NOISE, strict=True)]
    found = judged("betas", [0.5, 1.0, 2.0, 4.0], readings)
    assert {code: finding.severity for code, finding in found.items()} == {
        "EV201": "info", "EV202": "warning", "EV203": "info",
    }  # fmt: skip
    assert "4 by 2" in found["EV202"].evidence and found["EV202"].measured == pytest.approx(1.5, abs=0.01)
    assert "0.5 by 1" in found["EV203"].evidence and found["EV203"].measured == pytest.approx(4.0, abs=0.01)
    assert found["EV201"].edit == {"objective.beta": 1.0}
    assert envelope(rates, distortions) == [False, True, True, False]


def test_runs_within_their_errors_are_not_told_apart() -> None:
    """The second is worse in both means, by less than what the rows leave open."""
    loud = 3 * RANDOM.standard_normal((2, 40))
    loud -= loud.mean(1, keepdims=True)
    readings = [reading(5 + loud[0], 20 - loud[0]), reading(5.05 + loud[1], 20.05 - 1.3 * loud[1])]
    readings.insert(0, reading(9 + loud[0], 30 + loud[1]))
    found = judged("betas", [0.5, 1.0, 2.0], readings)
    assert envelope([5, 5.05], [20, 20.05]) == [True, False]
    assert "not told from it: 2" in found["EV201"].evidence
    assert not {pair for code in found for pair in ("1 by 2", "2 by 1") if pair in found[code].evidence}


ENDS = {  # betas, their ELBOs, what is said, and where to go on
    "smallest": ((0.25, 1.0, 4.0), (-20, -21, -22), "0.25 is the smallest tried", "a smaller one", "beta = 0.125 "),
    "largest": ((0.25, 1.0, 4.0), (-22, -21, -20), "4 is the largest tried", "a larger one", "beta = 8 "),
    "zero": ((0.0, 0.5, 1.0), (-20, -21, -22), "0 is the smallest tried", "no advice", "beta = 0.25 "),
    "of two": ((1.0, 2.0), (-20, -21), "1 is the smallest tried", "a smaller one", "beta = 0.5 "),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_best_beta_at_an_end_of_the_scan_is_no_advice_but_to_go_on(name: str) -> None:
    betas, bounds, title, why, advice = ENDS[name]
    found = judged("betas", list(betas), [reading(np.ones(40), -bound - 1 + NOISE[0, :40]) for bound in bounds])
    assert "EV201" not in found and not any(finding.edit for finding in found.values())
    assert found["EV204"].title.endswith(title) and why in found["EV204"].why and advice in found["EV204"].advice
    assert found["EV204"].measured == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("kind", ["betas", "latents"])
@pytest.mark.parametrize("lost", [0, 1])
def test_fewer_than_two_runs_lead_to_no_advice(kind: str, lost: int) -> None:
    readings = [reading(np.ones(40), np.full(40, cost)) for cost in (20.0, math.nan)[: 1 + lost]]
    found = judged(kind, [1, 2][: 1 + lost], readings)
    assert set(found) == {"EV200"} and not found["EV200"].edit
    assert (found["EV200"].number, found["EV200"].severity) == ("1 run", "info")


BOUNDS = {  # ELBOs of sizes 1, 2, 4, 8, units in use, and what is found
    "enough at 4": ((-30, -25, -20, -20.02), (1, 2, 4, 4), {"EV211": 4, "EV212": 4}),
    "worse beyond 2": ((-30, -20, -21, -22), (1, 2, 2, 2), {"EV211": 2, "EV212": 2}),
    "a hair for each dimension": ((-30, -20.05, -20.03, -20), (1, 2, 2, 2), {"EV211": 2, "EV212": 2}),
    "still better at the end": ((-30, -25, -20, -15), (1, 2, 4, 8), {"EV213": 8}),
    "used but of no use": ((-30, -25, -20, -20.5), (1, 2, 4, 8), {"EV211": 4, "EV214": 8}),
    "units stop before the bound": ((-30, -25, -20, -15), (1, 2, 3, 3), {"EV213": 8, "EV212": 3}),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_dimension_is_read_in_two_ways(name: str) -> None:
    bounds, used, expected = BOUNDS[name]
    readings = [reading(np.zeros(400), -bound + 0.05 * noise) for bound, noise in zip(bounds, NOISE, strict=True)]
    found = judged("latents", [1, 2, 4, 8], readings, list(used))
    assert {code: finding.measured for code, finding in found.items()} == expected
    assert found.get("EV211", found.get("EV213")).severity == ("info" if "EV211" in expected else "warning")  # type: ignore[union-attr]


# ELBOs of sizes 1, 2, 4, 8, units in use, what the second reading says, and which is to be trusted
SECOND: dict[str, tuple[Any, Any, str, str]] = {
    "agree": ((-30, -25, -20, -20.02), (1, 2, 4, 4), "agrees with EV211", ""),
    "agree between sizes tried": ((-30, -25, -20, -20.02), (1, 2, 3, 3), "agrees with EV211", ""),
    "agree but for the undecided": ((-30, -20, -21, -22), (1, 2, Estimate(3.0, 1.0), 3), "agrees with EV211", ""),
    "more units": ((-30, -20, -21, -22), (1, 2, 3, 3), "no gain in the bound", "trust EV211, the bound; with more"),
    "fewer units": ((-30, -25, -20, -21), (1, 2, 2, 2), "trained to a better bound", "trust EV211, the bound"),
    "all units": ((-30, -25, -20, -20.5), (1, 2, 4, 8), "noise of the training rows", "trust EV211, the bound: units"),
    "open end": ((-30, -25, -20, -15), (1, 2, 3, 3), "while the bound still improves", "trust EV213, the bound"),
    "open end, nearly all": ((-30, -25, -20, -15), (1, 2, 4, 7), "the bound still improves", "trust EV213, the bound"),
}


@pytest.mark.parametrize("name", SECOND)
def test_the_bound_is_the_answer_and_units_a_second_reading_that_says_which_to_trust(name: str) -> None:
    bounds, used, why, advice = SECOND[name]
    readings = [reading(np.zeros(400), -bound + 0.05 * noise) for bound, noise in zip(bounds, NOISE, strict=True)]
    first, second = judged("latents", [1, 2, 4, 8], readings, used).values()
    assert first.code in ("EV211", "EV213") and not second.edit
    assert second.title.startswith("second reading") and why in second.why
    assert second.advice.startswith(advice) and bool(second.advice) == bool(advice)


def test_an_answer_below_which_nothing_was_tried_is_a_ceiling() -> None:
    readings = [reading(np.zeros(400), 20 + 0.05 * noise) for noise in NOISE[:2]]
    found = judged("latents", [6, 8], readings, [3, 3])["EV211"]
    assert found.number == "6 dimensions at most" and not found.edit and "latent = 3 " in found.advice
    found = judged("latents", [1, 8], readings, [1, 1])["EV211"]
    assert found.number == "1 dimension" and found.edit == {"model.latent": 1}


@pytest.mark.parametrize(("entries", "further"), [(50, 16), (13, 13)])
def test_larger_sizes_are_advised_as_far_as_a_row_has_entries(entries: int, further: int) -> None:
    readings = [reading(np.zeros(400), 20 - size + 0.05 * NOISE[0]) for size in (4, 8)]
    found = judged("latents", [4, 8], readings, [4, 8], entries)
    assert f"latent = {further} " in found["EV213"].advice


def test_undecided_units_are_between_none_and_all(gaussian: Scan) -> None:
    assert [ends(Estimate(value, 9.0), 8) for value in (0.0, 3.0, 8.0)] == [(0, 8)] * 3
    assert ends(Estimate(3.0, 2.0), 8) == (1, 5) and ends(Estimate(3.0, None), 8) == (3, 3)
    points = [dataclasses.replace(point, active_by_mean=Estimate(2.0, 388.0)) for point in gaussian.points]
    assert [point.latent for point in points] == [3] * 4
    text = as_text(dataclasses.replace(gaussian, points=tuple(points)))
    assert text.count("2 (0 to 3)") == 4 and "388" not in text
    readings = [reading(np.zeros(400), 20 + 0.05 * noise) for noise in NOISE[:2]]
    found = judged("latents", [1, 8], readings, [Estimate(1.0, 0.0), Estimate(3.0, 388.0)])
    assert found["EV212"].interval == 5


def test_as_good_is_within_the_paired_error_not_that_of_each() -> None:
    """Rows differ by tens of nats and sizes by a tenth on each row: the difference is known all the same."""
    rows = 30 * RANDOM.standard_normal(500)
    assert as_good([1, 2], [rows - 0.1, rows]) == (1, 1)
    assert as_good([1, 2], [rows - 0.005, rows]) == (0, 1)
    assert as_good([1, 2], [rows - 0.1, 30 * RANDOM.standard_normal(500) + rows.mean()])[0] == 0


def test_undecided_units_do_not_make_a_size_larger() -> None:
    counts = [Estimate(1.0, 0.0), Estimate(4.0, 0.0), Estimate(7.0, 1.0), Estimate(8.0, 0.0)]
    assert plateau(counts) == 2
    assert plateau([*counts, Estimate(12.0, 0.0)]) == 4


# Interrupted, kept, refused -------------------------------------------------------------------------------------------


def test_an_interrupted_scan_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of the second of three runs; the bits in the end are those of a scan in one go."""
    whole = rate_distortion(ROWS, (0.5, 1.0, 2.0), config=TINY, out=tmp_path / "whole", progress=False)
    advance = Loop._advance

    def stopped(loop: Loop, number: int) -> bool:
        if loop.config.objective.beta == 1.0 and number == 30:
            raise KeyboardInterrupt
        return advance(loop, number)

    monkeypatch.setattr(Loop, "_advance", stopped)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        rate_distortion(ROWS, (0.5, 1.0, 2.0), config=TINY, out=out, progress=False)
    monkeypatch.setattr(Loop, "_advance", advance)
    assert sorted(path.name for path in out.glob("beta-*")) == ["beta-0.5", "beta-1"]
    assert not (out / "scan.json").exists() and not Run(out / "beta-1").is_finished
    before = digests(out / "beta-0.5")
    resumed: list[int] = []
    run = Loop.run
    monkeypatch.setattr(Loop, "run", lambda loop: (resumed.append(loop.progress.step), run(loop))[1])
    again = rate_distortion(ROWS, (0.5, 1.0, 2.0), config=TINY, out=out, progress=False)
    assert resumed == [20, 0]
    assert digests(out / "beta-0.5") == before
    assert again.to_dict() == whole.to_dict()
    assert (out / "scan.json").read_bytes() == (tmp_path / "whole" / "scan.json").read_bytes()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_with_how_the_scan_goes_on(
    number: signal.Signals, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the message, also one that was chosen for the user, is that in which the same call goes on."""
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", ROWS)
    advance = Loop._advance

    def signalled(loop: Loop, step: int) -> bool:
        if loop.config.objective.beta == 1.0 and step == 30:
            signal.raise_signal(number)
        return advance(loop, step)

    monkeypatch.setattr(Loop, "_advance", signalled)
    with pytest.raises(Interrupted) as caught:
        rate_distortion("rows.npy", (0.5, 1.0, 2.0), config=TINY, out="mine" if named else None, progress=False)
    assert caught.value.status == 128 + number and "--resume" not in str(caught.value)
    assert str(caught.value).startswith(f"{number.name}: stopped in run 2 of 3, beta-1, and saved")
    advice, _, folder = str(caught.value).rpartition("the same command again with --out ")
    assert advice and sorted(path.name for path in Path(folder).glob("beta-*")) == ["beta-0.5", "beta-1"]
    assert folder == ("mine" if named else str(next(Path("runs").glob("rows-rate-distortion-*"))))
    monkeypatch.setattr(Loop, "_advance", advance)
    starts: list[int] = []
    monkeypatch.setattr(Display, "begin", lambda _, *steps: starts.append(steps[0]))
    assert len(rate_distortion("rows.npy", (0.5, 1.0, 2.0), config=TINY, out=folder, progress=False).points) == 3
    assert starts == [31, 0]


def test_without_a_terminal_each_run_is_told_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate_distortion(ROWS, (0.5, 2.0), config=TINY, out=tmp_path / "s", progress=True)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run ")]
    folder = tmp_path / "s"
    assert told == [
        f"run 1 of 2: objective.beta=0.5, in {folder / 'beta-0.5'}",
        f"run 2 of 2: objective.beta=2, in {folder / 'beta-2'}",
    ]
    rate_distortion(ROWS, (0.5, 2.0), config=TINY, out=tmp_path / "s", progress=False)
    assert capsys.readouterr().err == ""


def cut(pattern: str) -> Callable[[Path], None]:
    """Damage: the last file of a pattern loses a byte."""

    def damage(run: Path) -> None:
        path = sorted(run.glob(pattern))[-1]
        path.write_bytes(path.read_bytes()[:-1])

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "last weights": (cut("checkpoints/step-*/model.safetensors"), "damaged, an earlier checkpoint counts"),
    "last progress": (cut("checkpoints/step-*/progress.json"), "damaged, an earlier checkpoint counts"),
    "all checkpoints": (
        lambda run: shutil.rmtree(run / "checkpoints"),
        "damaged, its checkpoints are gone after 40 steps: trained anew",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_told_even_without_progress(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = DAMAGES[name]
    rate_distortion(ROWS, (1.0, 2.0), config=TINY, out=tmp_path / "s", progress=False)
    assert capsys.readouterr().err == ""
    damage(tmp_path / "s" / "beta-2")
    rate_distortion(ROWS, (1.0, 2.0), config=TINY, out=tmp_path / "s", progress=False)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith(f"{tmp_path / 's' / 'beta-2'}: {words}")


def test_a_kept_run_without_its_full_checkpoints_is_not_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = rate_distortion(ROWS, (1.0,), config=TINY, out=tmp_path / "s", progress=False)
    for path in (tmp_path / "s" / "beta-1" / "checkpoints").glob("step-*"):
        shutil.rmtree(path)
    again = rate_distortion(ROWS, (1.0,), config=TINY, out=tmp_path / "s", progress=False)
    assert capsys.readouterr().err == "" and [point.folder for point in again.points] == [first.points[0].folder]


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    ("scan", "section", "name", "value"),
    [(rate_distortion, "objective", "beta", 3.0), (intrinsic_dimension, "model", "latent", 3)],
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_setting_that_the_scan_sets_itself_is_refused(
    scan: Callable[..., Scan], section: str, name: str, value: float, listed: bool, built: bool, tmp_path: Path
) -> None:
    config: Any = {**TINY, section: {**TINY.get(section, {}), name: value}}
    config = build_config(config) if built else config
    with pytest.raises(BadInput, match=rf"^{section}\.{name}: got {value}; the scan itself sets it"):
        scan(ROWS, *([(1, 2)] if listed else []), config=config, out=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()


def test_sizes_above_the_entries_of_a_row_are_refused_with_the_rule(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^latent: got 6; must be at most 5, the entries of a row"):
        intrinsic_dimension(ROWS, (1, 6), config=TINY, out=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()
    scan = intrinsic_dimension(ROWS, (1, 5), config=TINY, out=tmp_path / "s", progress=False)
    assert [point.latent for point in scan.points] == [1, 5]


def test_a_finished_scan_is_read_again_and_can_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s"
    first = rate_distortion(ROWS, (1.0,), config=TINY, out=out, progress=False)
    before = digests(out)
    trained: list[float] = []
    fit = scan_runs.fit
    monkeypatch.setattr(scan_runs, "fit", lambda *a, **k: (trained.append(a[1].objective.beta), fit(*a, **k))[1])
    assert rate_distortion(ROWS, (1.0,), config=TINY, out=out, progress=False).to_dict() == first.to_dict()
    assert digests(out) == before and trained == []
    both = rate_distortion(ROWS, (1.0, 3.0), config=TINY, out=out, progress=False)
    assert trained == [3.0] and [point.value for point in both.points] == [1.0, 3.0]
    assert both.points[0].rate == first.points[0].rate


def test_runs_with_other_settings_or_data_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "s"
    rate_distortion(ROWS, (1.0,), config=TINY, out=out, progress=False)
    before = digests(out)
    other = {**TINY, "train": {**TINY["train"], "steps": 60}}
    cases: list[tuple[Any, Any, str]] = [
        (ROWS, other, "train.steps 40 -> 60"),
        (ROWS + 1.0, TINY, "is a run on other data"),
        (ROWS, {**TINY, "seed": 1}, "seed 0 -> 1"),
    ]
    for betas in ((1.0,), (2.0,)):  # a run that is kept, and one that would be added beside it
        for rows, config, words in cases:
            with pytest.raises(BadInput, match=words):
                rate_distortion(rows, betas, config=config, out=out, progress=False)
    assert digests(out) == before
    with pytest.raises(BadInput, match="holds something else: beta-1"):
        intrinsic_dimension(ROWS, (1,), config=TINY, out=out, progress=False)


@pytest.mark.parametrize("there", ["file", "other", "run"])
def test_a_place_that_is_taken_is_refused(there: str, tmp_path: Path) -> None:
    out = tmp_path / "s"
    if there == "file":
        out.write_text("mine")
    elif there == "other":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    else:
        rate_distortion(ROWS, (1.0,), config=TINY, out=tmp_path / "t", progress=False)
        out = tmp_path / "t" / "beta-1"
    before = digests(tmp_path)
    with pytest.raises(BadInput, match=r"out: got .*(is a file|holds something else)"):
        rate_distortion(ROWS, (1.0,), config=TINY, out=out, progress=False)
    assert digests(tmp_path) == before


def test_two_scans_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        scan_runs.scan_folder(tmp_path / "s", "x", "beta"),
        pytest.raises(InUse),
        scan_runs.scan_folder(tmp_path / "s", "x", "beta"),
    ):
        pass


@pytest.mark.parametrize(
    "betas", [(), (-1.0,), (math.nan,), (math.inf,), (1.0, 1.0), (True,), ("1",), (1, 2, 1.0), (None,)]
)
def test_weights_that_break_a_rule_are_refused_before_anything_is_written(betas: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^beta: got .*must be finite numbers from 0 on, each once"):
        rate_distortion(ROWS, betas, config=TINY, out=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("latents", [(), (0,), (-2,), (1.5,), (2, 2), (False,), (math.nan,)])
def test_sizes_that_break_a_rule_are_refused_before_anything_is_written(latents: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^latent: got .*must be whole numbers from 1 on, each once"):
        intrinsic_dimension(ROWS, latents, config=TINY, out=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("source", "settings", "words"),
    [
        (None, {}, "there is nothing to train on"),
        ("nothing-here", {}, "no such file"),
        (ROWS, {"objective": {"target_rate": 2.0}}, "a target moves beta by itself"),
        (ROWS, {"train": {"stepz": 3}}, "no such setting"),
    ],
)
def test_bad_data_and_settings_are_refused_before_anything_is_written(
    source: Any, settings: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=words):
        rate_distortion(source, (0.5,), config=settings, out=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()


def test_a_run_without_a_finite_evaluation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_runs, "fit", lambda *given, **options: SimpleNamespace(metrics={}))
    with pytest.raises(Diverged, match="beta-1"):
        rate_distortion(ROWS, (1.0,), config=TINY, out=tmp_path / "s", progress=False)


def test_random_state_is_as_it_was(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    rate_distortion(ROWS, (1.0,), config=TINY, out=tmp_path / "s", progress=False)
    assert torch.equal(before, torch.get_rng_state())


# The picture ----------------------------------------------------------------------------------------------------------


def test_the_picture_of_a_scan(gaussian: Scan, tmp_path: Path) -> None:
    first, second = (write_scan_plot(gaussian, tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second and b"<svg" in first and b"Rate and distortion" not in first.split(b"<g")[0]
    write_scan_plot(gaussian, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.verify()
        assert image.width > 1000
    with pytest.raises(BadInput, match=r"ends in \.svg or \.png"):
        write_scan_plot(gaussian, tmp_path / "a.gif")
