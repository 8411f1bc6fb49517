"""Logs of others: written by the real loggers from real trainings, told apart, mended and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_logs import (
    WRITERS,
    Rows,
    events,
    json_lines,
    lightning_csv,
    object_of_lists,
    serious,
    trained,
    without,
)
from sklearn.datasets import load_digits

from vaelab.core.errors import BadInput
from vaelab.core.finding import worst
from vaelab.core.log_files import read_log_file
from vaelab.diagnosis.log_mending import in_order, thinned
from vaelab.diagnosis.log_terms import fit_weights, rising_weight, warmup_end
from vaelab.diagnosis.logs import diagnose_log, read_log
from vaelab.monitoring.causes import explained
from vaelab.monitoring.trace import Series


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_every_format_gives_the_same_series(writer: Callable[[Path, Rows], Path], tmp_path: Path) -> None:
    rows = trained(warmup=150)
    log = read_log(writer(tmp_path, rows))
    names = {"loss": "loss", "reconstruction": "recon", "kl": "kl", "beta": "beta",
             "held_out_reconstruction": "val_recon", "held_out_kl": "val_kl"}  # fmt: skip
    for role, name in names.items():
        points = [(row["step"], row[name]) for row in rows if name in row]
        np.testing.assert_array_equal(log.logged[role].steps, [step for step, _ in points], err_msg=role)
        np.testing.assert_allclose(log.logged[role].values, [value for _, value in points], rtol=1e-6, err_msg=role)
    assert log.trace.warmup_ends == 150
    assert not serious(diagnose_log(log)), diagnose_log(log)
    table = str(log).splitlines()
    assert table[1].split() == ["role", "tag", "points", "first", "last"]
    assert table[2].split()[:3] == ["loss", log.roles["loss"], "60"]


def test_an_object_of_lists_is_a_history(tmp_path: Path) -> None:
    rows = without(trained(), "val_loss", "val_recon", "val_kl")
    log = read_log(object_of_lists(tmp_path, rows))
    np.testing.assert_allclose(log.trace.get("loss").values, [row["loss"] for row in rows])


FAILURES: Mapping[str, tuple[dict[str, Any], set[str], tuple[str, ...]]] = {
    # what was done, a code that names it, and codes that may stand beside it
    "healthy": ({}, set(), ()),
    "healthy warm-up": ({"warmup": 150}, set(), ()),
    "healthy mean with a weight that makes up for it": ({"mean": True, "beta": 1 / 64}, set(), ()),
    "beta too high": ({"beta": 50.0}, {"TR121"}, ()),
    "mean over dimensions": ({"mean": True}, {"LG102"}, ("TR101",)),
    "KL subtracted": ({"sign": -1.0}, {"LG111"}, ()),
    "beta too small": ({"beta": 0.01}, {"LG112"}, ()),
    "overfitted": ({"rows": 60, "steps": 800, "hidden": 256, "rate": 5e-3}, {"TR103"}, ()),
}


@pytest.mark.parametrize("hidden_beta", [False, True], ids=["beta logged", "beta not logged"])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_named_and_a_healthy_run_is_left_alone(name: str, hidden_beta: bool, tmp_path: Path) -> None:
    settings, named, beside = FAILURES[name]
    rows = without(trained(**settings), "beta") if hidden_beta else trained(**settings)
    codes = serious(explained(diagnose_log(json_lines(tmp_path, rows))))
    assert named <= codes and codes <= named | set(beside), codes


def test_a_diverged_run_is_an_error_however_it_is_logged(tmp_path: Path) -> None:
    rows = trained(rate=10.0)
    for writer in (json_lines, lightning_csv, events):
        findings = diagnose_log(writer(tmp_path, rows))
        assert worst(findings) == "error"
        assert any("NaN" in finding.title or "rate" in finding.title for finding in findings), findings


@pytest.mark.parametrize("warmup", [150, 300])
def test_a_warm_up_that_was_not_logged_is_found(warmup: int, tmp_path: Path) -> None:
    rows = trained(warmup=warmup)
    log = read_log(json_lines(tmp_path, without(rows, "beta")))
    np.testing.assert_allclose(log.trace.get("beta").values, [row["beta"] for row in rows], rtol=1e-3)
    assert abs(log.trace.warmup_ends - warmup) <= 5
    codes = {finding.code for finding in diagnose_log(log)}
    assert {"LG101", "LG103", "LG104"} <= codes


def test_annealing_is_not_taken_for_overfitting(tmp_path: Path) -> None:
    rows = trained(beta=0.001, rise_by=1.0, steps=900, rate=5e-3)
    held = [row["val_loss"] for row in rows if "val_loss" in row]
    assert held[-1] > min(held) + 3, "the case itself: the held-out loss rises by several nats"
    findings = diagnose_log(json_lines(tmp_path, rows))
    assert "TR103" not in {finding.code for finding in findings}
    title = next(finding.title for finding in findings if finding.code == "LG104")
    assert "rises while the weight of the KL does" in title
    alone = diagnose_log(json_lines(tmp_path, without(rows, "val_recon", "val_kl")))
    assert "TR103" not in {finding.code for finding in alone}


# The numbers themselves


def series(values: Any, steps: Any = None) -> Series:
    values = np.asarray(values, np.float64)
    return Series(np.arange(1.0, len(values) + 1) if steps is None else np.asarray(steps, np.float64), values)


@pytest.mark.parametrize(("a", "b", "c"), [(1.0, 1.0, 0.0), (1.0, 0.01, 5.0), (128.0, 512.0, -3.0), (-1.0, 4.0, 0.0)])
def test_the_weights_are_those_of_the_sum_that_was_logged(a: float, b: float, c: float) -> None:
    rng = np.random.default_rng(0)
    r, k = 20 + rng.normal(size=40), 5 + rng.normal(size=40)
    fit = fit_weights(series(a * r + b * k + c), series(r), series(k))
    assert fit is not None and fit.exact
    np.testing.assert_allclose([fit.a, fit.b], [a, b], rtol=1e-9)


def test_the_interval_of_a_weight_covers_it_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        r, k = 20 + rng.normal(size=60), 5 + rng.normal(size=60)
        fit = fit_weights(series(r + 2 * k + 0.3 * rng.normal(size=60)), series(r), series(k))
        assert fit is not None and not fit.exact
        hits += abs(fit.b - 2) <= fit.b_error
    assert 180 <= hits <= 198  # 190 in the mean, with a standard deviation of 3


def test_terms_that_move_together_cannot_be_told_apart() -> None:
    r = np.linspace(30, 20, 30)
    assert fit_weights(series(3 * r), series(r), series(2 * r)) is None
    assert fit_weights(series(r), series(r), series(np.ones(30))) is None


def test_noise_is_no_warm_up() -> None:
    rng = np.random.default_rng(2)
    r, k = 20 + rng.normal(size=40), 5 + rng.normal(size=40)
    assert rising_weight(series(r + rng.uniform(0, 1, 40) * k), series(r), series(k)) is None
    assert rising_weight(series(r + k), series(r), series(k)) is None
    ramp = np.minimum(1.0, np.arange(40) / 20)
    found = rising_weight(series(r + ramp * k), series(r), series(k))
    assert found is not None and warmup_end(found) == 21


@pytest.mark.parametrize(("name", "factor"), [("loss", 128.0), ("recon", 1 / 64)])
def test_scales_are_mended_by_the_weights(name: str, factor: float, tmp_path: Path) -> None:
    """A loss logged as a sum over the batch, and a reconstruction logged as a mean that the loss multiplies."""
    rows = without(trained(), "beta", "val_loss")
    scaled = tuple({**row, name: factor * row[name]} for row in rows)
    log = read_log(json_lines(tmp_path, scaled))
    assert {note.code for note in log.notes} == {"LG101", "LG106"}
    np.testing.assert_allclose(log.trace.get("loss").values, [row["loss"] for row in rows], rtol=1e-4)
    np.testing.assert_allclose(log.trace.get("reconstruction").values, [row["recon"] for row in rows], rtol=1e-4)
    np.testing.assert_allclose(log.trace.get("beta").values, 1.0, rtol=1e-4)


def test_signs_are_turned_round(tmp_path: Path) -> None:
    rows = trained()
    turned = [{"step": row["step"], "elbo": -row["loss"], "log_px": -row["recon"], "kl": -row["kl"]} for row in rows]
    log = read_log(json_lines(tmp_path, tuple(turned)))
    assert log.roles == {"loss": "elbo", "reconstruction": "log_px", "kl": "kl"}
    for role, name in (("loss", "loss"), ("reconstruction", "recon"), ("kl", "kl")):
        np.testing.assert_allclose(log.trace.get(role).values, [row[name] for row in rows], err_msg=role)
    assert "LG107" in {note.code for note in log.notes}
    assert not serious(diagnose_log(log))


def test_a_negative_elbo_called_elbo_is_left_as_it_is(tmp_path: Path) -> None:
    log = read_log(json_lines(tmp_path, tuple({"step": r["step"], "elbo": r["loss"]} for r in trained())))
    assert log.trace.get("loss").values[0] > log.trace.get("loss").values[-1] > 0


# Steps


def test_a_resumed_run_replaces_what_it_went_over_again() -> None:
    points = [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0), (2.0, 20.0), (3.0, 30.0), (4.0, 40.0)]
    assert in_order(points) == ([(1.0, 1.0), (2.0, 20.0), (3.0, 30.0), (4.0, 40.0)], 1, False)
    assert in_order([(0.0, 5.0)] * 9) == ([(float(i), 5.0) for i in range(9)], 0, True)


def test_a_resumed_log_says_so_and_a_second_header_is_no_row(tmp_path: Path) -> None:
    rows = without(trained(), "val_loss", "val_recon", "val_kl")
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in (*rows[:40],))]
    lines += [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows[30:])]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    log = read_log(tmp_path / "log.csv")
    np.testing.assert_allclose(log.trace.get("loss").values, [row["loss"] for row in rows])
    assert "LG108" in {note.code for note in log.notes}


def test_steps_within_an_epoch_are_no_clock(tmp_path: Path) -> None:
    rows = [{"epoch": i // 20, "step": i % 20, "loss": 50.0 - 0.1 * i} for i in range(200)]
    log = read_log(json_lines(tmp_path, tuple(rows)))
    assert log.clock == "row number"
    assert len(log.trace.get("loss")) == 200


def test_a_counter_of_epochs_is_stretched_to_the_steps(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "e")) as writer:
        for step in range(0, 1000, 10):
            writer.add_scalar("train/loss", 100 - step / 50, step)
        for epoch in range(10):
            writer.add_scalar("val/loss", 100 - 2 * epoch, epoch)
    log = read_log(tmp_path / "e")
    assert log.trace.get("held_out_loss").steps[-1] == 990
    assert "LG110" in {note.code for note in log.notes}


def test_long_series_are_thinned_by_means_that_keep_the_sum_and_the_peak() -> None:
    values = np.random.default_rng(3).normal(size=100_000)
    thin = thinned({"loss": series(values)})
    assert len(thin["loss"]) == len(thin["loss_max"]) == 2000
    assert thin["loss"].values.mean() == pytest.approx(values.mean())
    assert thin["loss_max"].values.max() == values.max()
    assert thin["loss"].steps[-1] == 100_000


# Names


def test_a_mapping_wins_over_the_guess(tmp_path: Path) -> None:
    rows = tuple({"step": r["step"], "loss": r["loss"], "kl": 1.0, "q": r["kl"]} for r in trained())
    log = read_log(json_lines(tmp_path, rows), {"kl": "q"})
    assert log.roles["kl"] == "q" and log.left_out["kl"] == "has no known role"
    np.testing.assert_allclose(log.trace.get("kl").values, [row["q"] for row in rows])


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ({"kll": "kl"}, "mapping.role: got kll; must be a role; did you mean kl?"),
        ({"kl": "klx"}, "mapping.kl: got klx; must be a tag of the log; did you mean kl?"),
    ],
)
def test_an_unknown_name_in_a_mapping_is_answered_with_a_known_one(
    mapping: dict[str, str], text: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as error:
        read_log(json_lines(tmp_path, trained()), mapping)
    assert str(error.value) == text


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    findings = diagnose_log(json_lines(tmp_path, without(trained(), "kl", "val_kl", "beta")))
    missing = next(finding for finding in findings if finding.code == "LG105")
    assert "collapse (kl)" in missing.title and "overfitting" not in missing.title


def test_our_own_metrics_need_no_guess(tmp_path: Path) -> None:
    import vaelab

    settings = {"train": {"steps": 60, "evaluate_every": 20}, "report": {"html": False}}
    vaelab.train(load_digits().data[:400] / 16, out=tmp_path / "run", config=settings, progress=False)
    log = read_log(tmp_path / "run" / "metrics.jsonl")
    assert {"loss", "kl", "beta", "held_out_loss", "kl_per_dimension"} <= set(log.trace.series)
    assert log.trace.baseline is not None and log.kind == "metrics of a run"
    judged = {"loss", "kl", "held_out_loss"}
    assert all(np.isfinite(log.trace.get(role).values).all() for role in judged) and not log.notes
    assert not serious(diagnose_log(log))


def test_folders_of_splits_are_one_run_and_other_folders_are_several(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for folder, level in (("train", 1.0), ("validation", 2.0)):
        with SummaryWriter(str(tmp_path / "keras" / folder)) as writer:
            for epoch in range(5):
                writer.add_scalar("epoch_loss", level - 0.1 * epoch, epoch)
    log = read_log(tmp_path / "keras")
    assert log.trace.get("loss").values[0] == 1.0 and log.trace.get("held_out_loss").values[0] == 2.0
    events(tmp_path / "a", trained())
    events(tmp_path / "b", trained())
    with pytest.raises(BadInput, match="several runs: a/events, b/events"):
        read_log_file(tmp_path / "a" / "..")
