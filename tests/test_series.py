"""Time series: reading, windows, scores at once and one by one, and what is refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vaelab
from vaelab import BadInput
from vaelab.cli import main
from vaelab.data.series import clock_of, held_out_blocks, read_series, window_length, windows_of
from vaelab.data.source import load
from vaelab.use.scoring import score
from vaelab.use.series import SeriesScorer, score_series, spread_over

START = datetime(2020, 1, 6)
WINDOW = 16
QUICK = {"data": {"window": WINDOW}, "train": {"steps": 60}, "report": {"html": False}}


def wave(points: int = 600, seed: int = 0, channels: int = 2) -> np.ndarray:
    """A daily cycle of hourly points with noise, [points, channels]."""
    rng, hours = np.random.default_rng(seed), np.arange(points)[:, None] + 3 * np.arange(channels)
    return np.sin(2 * np.pi * hours / 24) + 0.2 * rng.normal(size=hours.shape)


def table(values: np.ndarray, minutes: int = 60) -> pd.DataFrame:
    times = [(START + timedelta(minutes=minutes * i)).isoformat() for i in range(len(values))]
    return pd.DataFrame({"timestamp": times} | {f"c{i}": column for i, column in enumerate(values.T)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("series")
    frame = table(wave())
    frame = frame.drop(index=[*range(100, 103), *range(300, 340)])  # a small gap, and one longer than a window
    frame.to_csv(folder / "series.csv", index=False)
    run = vaelab.train(folder / "series.csv", out=folder / "run", recipe="series", config=QUICK, progress=False)
    return run, folder / "series.csv"


# Reading ------------------------------------------------------------------------------------------------------------


def test_times_are_sorted_averaged_and_put_on_a_grid(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = ["2020-01-01 00:20,5", "2020-01-01 00:00,1", "2020-01-01 00:10,2", "2020-01-01 00:10,4"]
    path.write_text("\n".join(["time,v", *lines, "2020-01-01 00:50:02,9", "2020-01-01 01:00,7"]))
    series = read_series(path)
    assert series.sampling.step == 600
    np.testing.assert_array_equal(series.values[:, 0], [1, 3, 5, np.nan, np.nan, 9, 7])
    assert series.labels()[:2] == ["2020-01-01 00:00:00", "2020-01-01 00:10:00"]
    assert [finding.code for finding in series.findings] == ["DA150", "DA151", "DA153"]


def test_uneven_steps_are_told() -> None:
    frame = pd.DataFrame({"time": [0.0, 1.0, 2.3, 3.0, 4.0], "v": [1.0, 2, 3, 4, 5]})
    series = read_series(frame)
    assert series.sampling.step == 1 and not series.sampling.clock
    assert [(finding.code, finding.measured) for finding in series.findings] == [("DA152", 1.0)]
    assert series.labels() == [0, 1, 2, 3, 4]


def uneven(points: int, step: float, jitter: float, seed: int = 0) -> np.ndarray:
    """Times in seconds, each at random up to a jitter beside its place."""
    return step * np.arange(points) + np.random.default_rng(seed).uniform(-jitter, jitter, points)


def dated(seconds: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    return table(values).assign(timestamp=[(START + timedelta(seconds=float(s))).isoformat() for s in seconds])


@pytest.mark.parametrize("seed", range(5))
def test_uneven_times_keep_their_points_apart(seed: int) -> None:
    values, kept = wave(5000), np.ones(5000, bool)
    kept[[50, 51, *range(2000, 2400)]] = False
    series = read_series(dated(uneven(5000, 1800, 300, seed)[kept], values[kept]))
    assert abs(series.sampling.step - 1800) < 4 * 300 / 3**0.5 * 12**0.5 / 5000**1.5  # of least squares
    np.testing.assert_array_equal(series.values, np.where(kept[:, None], values, np.nan))
    assert [(f.code, f.measured) for f in series.findings if f.code == "DA153"] == [("DA153", 402)]
    start = (START - datetime(1970, 1, 1)).total_seconds()
    assert np.abs(series.times - start - 1800 * np.arange(5000)).max() < 20


def test_one_stray_time_leaves_the_grid_of_the_others() -> None:
    series = read_series(pd.DataFrame({"time": [0, 60, 140, 180, 240, 300], "v": range(6)}))
    assert series.labels() == [0, 60, 120, 180, 240, 300]


@pytest.mark.parametrize("zone", ["+02:00", "Z", ""])
def test_dates_agree_with_pandas(zone: str) -> None:
    times = [f"2020-03-29T{hour:02d}:30:00{zone}" for hour in range(5)]
    series = read_series(pd.DataFrame({"when": times, "v": range(5)}))
    expected = pd.to_datetime(times, utc=True).as_unit("s").astype("int64")
    np.testing.assert_array_equal(series.times, expected)


def test_no_column_of_times_counts_steps() -> None:
    series = read_series(wave(20))
    np.testing.assert_array_equal(series.times, np.arange(20))
    np.testing.assert_allclose(series.values, wave(20))
    assert series.sampling.channels == ("column_1", "column_2")


def test_a_row_without_values_is_a_missing_point() -> None:
    series = read_series(pd.DataFrame({"t": range(4), "time": range(4), "v": [1.0, np.nan, 3, 4]}).drop(columns="t"))
    np.testing.assert_array_equal(series.values[:, 0], [1, np.nan, 3, 4])


def test_windows_are_the_slices() -> None:
    values = wave(30)
    values[4] = np.nan
    values[15:20] = np.nan
    rows, starts = windows_of(values, 8)
    kept = [i for i in range(23) if np.isnan(values[i : i + 8]).mean() <= 0.25]
    np.testing.assert_array_equal(starts, kept)
    for row, start in zip(rows, starts, strict=True):
        np.testing.assert_array_equal(row, values[start : start + 8].T.reshape(-1))


@pytest.mark.parametrize(
    ("points", "window", "share"), [(600, 16, 0.1), (4000, 128, 0.1), (100, 20, 0.3), (64, 16, 0.2)]
)
def test_held_out_windows_share_no_point_with_training(points: int, window: int, share: float) -> None:
    starts = np.arange(points - window + 1)
    for seed in range(20):
        train, held_out = held_out_blocks(starts, window, share, seed)
        seen = np.zeros((2, points), bool)
        for part, index in zip(seen, (train, held_out), strict=True):
            part[(starts[index][:, None] + np.arange(window)).ravel()] = True
        assert not (seen[0] & seen[1]).any() and seen.any(1).all()


def test_the_clock_is_that_of_the_calendar() -> None:
    times = pd.to_datetime(["2020-01-06 06:00", "2020-01-13 06:00", "2020-01-07 06:00"])
    clock = clock_of(np.asarray(times.as_unit("s").astype("int64"), dtype=np.float64))
    np.testing.assert_allclose(clock[0], clock[1], atol=1e-9)
    np.testing.assert_allclose(clock[0, :2], [1, 0], atol=1e-9)
    assert np.abs(clock[0, 2:] - clock[2, 2:]).max() > 0.1


def test_the_length_of_a_window_leaves_sixteen_of_them() -> None:
    assert [window_length(n) for n in (100, 128, 2047, 2048, 10**6)] == [8, 8, 64, 128, 128]


# Training and scoring -------------------------------------------------------------------------------------------------


def test_a_run_remembers_how_it_was_cut(trained: Any) -> None:
    run = vaelab.load(trained[0].folder)
    known = run.spec.series
    assert known is not None
    assert (known.channels, known.window, known.step, known.clock) == (("c0", "c1"), WINDOW, 3600.0, True)
    assert run.spec.columns[0] == "c0[-15]" and run.spec.columns[-1] == "c1[0]"
    assert run.config.data.condition == "array"


def test_a_causal_score_is_that_of_the_window_before(trained: Any) -> None:
    run, path = trained
    found = score_series(run, path, causal=True, samples=4)
    series = read_series(path)
    end = 60
    window = series.values[end - WINDOW + 1 : end + 1].T.reshape(1, -1)
    alone = score(run, window.astype(np.float32), samples=4, condition=clock_of(series.times[[end]]))
    assert found.values[end] == pytest.approx(alone.values[0] / WINDOW, abs=1e-9)
    assert np.isnan(found.values[: WINDOW - 1]).all() and np.isnan(found.values[320:330]).all()


def test_parts_add_up_and_points_average_their_windows(trained: Any) -> None:
    run, path = trained
    smooth, causal = (score_series(run, path, causal, samples=4) for causal in (False, True))
    known = ~np.isnan(smooth.values)
    np.testing.assert_allclose(smooth.parts.sum(1)[known], smooth.values[known])
    for point in (0, 5, 60, 200):  # the windows that contain a point end at it or up to W - 1 later
        expected = np.nanmean(causal.values[point : point + WINDOW])
        assert smooth.values[point] == pytest.approx(expected, abs=1e-9)


def test_spreading_is_a_mean_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    parts, starts = rng.normal(size=(5, 2)), np.array([0, 1, 4, 5, 9])
    found = spread_over(parts, starts, 3, 14)
    for point in range(14):
        inside = [parts[i] for i, start in enumerate(starts) if start <= point < start + 3]
        np.testing.assert_allclose(found[point], np.mean(inside, 0) if inside else [np.nan, np.nan])


def test_a_stream_gives_the_scores_of_the_batch(trained: Any) -> None:
    run, path = trained
    frame = pd.read_csv(path).iloc[60:320]
    together = score_series(run, frame, causal=True, samples=4)
    scorer = SeriesScorer(run, samples=4)
    assert scorer.limit == together.limit
    compared = 0
    for time, *values in frame.itertuples(index=False):
        alone = scorer.update(time, values)
        place = int((datetime.fromisoformat(time) - START).total_seconds() // 3600) - 60
        np.testing.assert_allclose(alone, together.values[place], atol=1e-9, rtol=0)
        compared += not np.isnan(alone)
    assert 150 < compared < len(frame) - WINDOW
    strangest = together.values[~np.isnan(together.values)].max()
    assert scorer.p_value(strangest) == np.nanmin(together.p_values)


def test_a_run_of_a_series_without_gaps_meets_its_first_one(tmp_path: Path) -> None:
    run = vaelab.train(table(wave(400)), out=tmp_path / "run", recipe="series", config=QUICK, progress=False)
    frame = table(wave(120, seed=4)).drop(index=[60])
    together, scorer = score_series(run, frame, causal=True, samples=4), SeriesScorer(run, samples=4)
    alone = [scorer.update(time, values) for time, *values in frame.itertuples(index=False)]
    np.testing.assert_allclose(alone, np.delete(together.values, 60), atol=1e-9, rtol=0)
    assert not np.isnan(together.values[WINDOW - 1 :]).any()
    whole = score_series(run, table(wave(120, seed=4)), causal=True, samples=4)
    np.testing.assert_array_equal(whole.values[:60], together.values[:60])
    assert (whole.values[60 : 60 + WINDOW] != together.values[60 : 60 + WINDOW]).all()


@pytest.mark.parametrize("seed", range(5))
def test_an_uneven_log_fits_the_step_trained_with(trained: Any, seed: int) -> None:
    seconds = uneven(180, 3600, 600, seed)
    frame, scorer = dated(seconds, wave(180)), SeriesScorer(trained[0], samples=2)
    together = score_series(trained[0], frame, causal=True, samples=2)
    assert len(together.values) == 180
    alone = [scorer.update(time, values) for time, *values in frame.itertuples(index=False)]
    np.testing.assert_allclose(alone, together.values, atol=1e-9, rtol=0)


@pytest.mark.parametrize("step", [1.06 * 3600, 2 * 3600])
def test_an_uneven_log_of_another_step_is_refused_at_once_and_as_a_stream(trained: Any, step: float) -> None:
    frame, scorer = dated(uneven(180, step, 60), wave(180)), SeriesScorer(trained[0], samples=2)
    with pytest.raises(BadInput, match=r"step: got .* s; the run was trained with a step of 3600 s"):
        score_series(trained[0], frame)
    for time, *values in frame[: WINDOW - 1].itertuples(index=False):
        scorer.update(time, values)
    for place in (WINDOW - 1, WINDOW):  # one that is refused changes nothing
        with pytest.raises(BadInput, match=r"step: got .* s; the run was trained with a step of 3600 s"):
            scorer.update(frame.timestamp[place], wave(1)[0])


def test_a_broken_channel_is_found_and_named(trained: Any) -> None:
    values = wave(300, seed=5)
    values[150:158, 1] += 6
    found = score_series(trained[0], table(values), causal=True)
    assert found.anomalies[157] and found.channels[157] == "c1"
    assert 150 <= int(np.nanargmax(found.values)) < 158 + WINDOW


def test_p_values_of_time_in_order_are_about_uniform(trained: Any) -> None:
    alarms = [score_series(trained[0], table(wave(600, seed)), causal=True, false_alarms=0.2) for seed in range(1, 5)]
    share = float(np.mean([found.anomalies[WINDOW:].mean() for found in alarms]))
    assert 0.05 < share < 0.45  # 45 dependent held-out windows: the share is near 0.2, and not exactly


def test_channels_are_found_by_name(trained: Any) -> None:
    frame = table(wave(100, seed=3))
    found, turned = (score_series(trained[0], f) for f in (frame, frame[["c1", "timestamp", "c0"]].assign(more=1.0)))
    np.testing.assert_array_equal(found.values, turned.values)


def test_a_resumed_run_is_of_the_same_windows(trained: Any) -> None:
    again = vaelab.train(resume=trained[0].folder, config={"train": {"steps": 70}}, progress=False)
    assert again.spec.series == trained[0].spec.series and again.metrics["step"] <= 70


# What is refused ------------------------------------------------------------------------------------------------------


REFUSED = {
    "short": (table(wave(10)), "series: got 10 points in time; a window of this run takes 16"),
    "channel": (table(wave(50)).rename(columns={"c1": "other"}), "channels: got no column c1; the run was trained on"),
    "step": (table(wave(50), minutes=30), "step: got 1800 s; the run was trained with a step of 3600 s"),
    "times": (wave(50), "channels: got no column c0"),
    "numbers": (
        table(wave(50)).assign(timestamp=range(50)),
        "timestamp: got numbers or steps; the run was trained with",
    ),
    "text": (table(wave(50)).assign(c1="x"), "series: got text in column c1; the channels of a series are numbers"),
    "date": (table(wave(50)).replace({"timestamp": {START.isoformat(): "soon"}}), "times must be ISO text"),
    "one time": (table(wave(50)).assign(timestamp=START.isoformat()), "a single time for all points"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_series_are_refused(trained: Any, case: str) -> None:
    given, text = REFUSED[case]
    with pytest.raises(BadInput) as caught:
        score_series(trained[0], given)
    assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "settings", "text"),
    [
        ("", {}, "an empty file"),
        ("time,v\n", {}, "a header and no rows"),
        ("time,v\n1,2\n2,3\n", {}, "2 points in time; a window takes 8"),
        ("time,v\n1,2\n2,3\n", {"timestamp": "when"}, "data.timestamp: got when"),
        ("time\n1\n2\n", {"timestamp": "time"}, "times alone"),
        ("time,v\n1,2\n2,inf\n", {}, "numbers must be finite"),
        ("time,v\n1,\n2,\n", {}, "column v without a single value"),
        ("time,v\n1,2\n2,3\n3,3\n4,3\n1e300,3\n", {}, "a grid of the median step"),
    ],
)
def test_series_that_cannot_be_trained_on(tmp_path: Path, content: str, settings: dict[str, Any], text: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(content)
    with pytest.raises(BadInput) as caught:
        load(path, window="auto", **settings)
    assert text in str(caught.value)
    with pytest.raises(BadInput, match=r"add data\.window=auto"):
        load(path, timestamp="time")


def test_a_stream_refuses_what_is_no_next_point(trained: Any) -> None:
    scorer = SeriesScorer(trained[0], samples=2)
    scorer.update(START, [0, 0])
    for time, values, text in (
        (START, [0, 0], "must be later than the one before by a step of 3600 s"),
        (3.5, [0, 0], "must be ISO text"),
        (START + timedelta(hours=1), [0], "takes one finite number for each of c0, c1"),
    ):
        with pytest.raises(BadInput, match=text):
            scorer.update(time, values)


def test_the_command_writes_a_table(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, path = trained
    to = tmp_path / "scores.csv"
    with pytest.raises(SystemExit) as done:
        main(["score-series", str(run.folder), str(path), "--to", str(to), "--samples", "2"])
    assert not done.value.code
    written = pd.read_csv(to, keep_default_na=False)
    assert list(written) == ["timestamp", "c0", "c1", "score", "p_value", "anomaly", "channel"]
    assert len(written) == 600 and written["score"][315] == "" and "threshold" in capsys.readouterr().out


def test_the_command_refuses_in_one_line(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.csv").write_text("")
    for source in (tmp_path / "empty.csv", tmp_path / "none.csv"):
        with pytest.raises(SystemExit) as done:
            main(["score-series", str(trained[0].folder), str(source), "--to", str(tmp_path / "out.csv")])
        assert done.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()
