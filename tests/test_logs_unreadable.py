"""Logs that are damaged, cut, huge or hostile: one line that says so, or what can be read of them."""

from __future__ import annotations

import csv
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from foreign_logs import (
    events,
    json_lines,
    semicolons,
    serious,
    trained,
)

from vaelab.core.errors import BadInput
from vaelab.core.log_files import read_log_file
from vaelab.diagnosis.logs import diagnose_log, read_log


def one_line(error: pytest.ExceptionInfo[BadInput]) -> str:
    text = str(error.value)
    assert "\n" not in text and error.value.status == 2
    return text


def masked(data: bytes) -> int:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    return masked_crc32c(data)


def claim(length: int) -> bytes:
    head = struct.pack("<Q", length)
    return head + struct.pack("<I", masked(head)) + b"short"


BAD: Mapping[str, tuple[str, bytes, str]] = {
    "empty": ("log.csv", b"", "empty file"),
    "blank": ("log.csv", b" \n \n", "blanks"),
    "garbage": ("log.csv", bytes(range(256)) * 8, "UTF-8"),
    "NUL": ("log.csv", b"loss\n1\0\n", "NUL"),
    "spreadsheet": ("log.csv", b"PK\x03\x04" + b"x" * 50, "zip"),
    "header only": ("log.csv", b"step,loss,kl\n", "without numbers"),
    "words": ("log.csv", b"name,phase\nx,y\nz,w\n", "without numbers"),
    "no header": ("log.csv", b"1,2,3\n4,5,6\n", "first line of numbers"),
    "ragged": ("log.csv", b"step,loss\n1,2\n2\n3,4\n", "line 3"),
    "twice": ("log.csv", b"step,loss,loss\n1,2,3\n", "two columns called loss"),
    "quote": ("log.csv", b'step,loss\n1,"2\n', "quotes"),
    "only steps": ("log.csv", b"step,epoch\n1,0\n2,0\n", "without numbers"),
    "no role": ("log.csv", b"step,temperature\n1,2\n2,3\n", "known role"),
    "JSON numbers": ("log.json", b"[1, 2, 3]", "objects"),
    "broken JSON": ("log.jsonl", b'{"loss": 1}\n{"loss" 2}\n{"loss": 3}\n', "line 2"),
    "deep JSON": ("log.json", b'{"a":' * 100_000, "not valid JSON"),
    "huge integer": ("log.json", b'{"loss": ' + b"9" * 10_000 + b"}", "not valid JSON"),
    "no events": ("events.out.tfevents.1", bytes(range(256)) * 8, "no log of events"),
    "zeros as events": ("events.out.tfevents.1", bytes(4096), "no log of events"),
    "cut events": ("events.out.tfevents.1", b"\x18\0\0\0", "no log of events"),
    "a record of 2^60 bytes": ("events.out.tfevents.1", claim(1 << 60), "no log of events"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file, content, says = BAD[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(BadInput) as error:
        read_log(tmp_path / file)
    assert says in one_line(error) and file in one_line(error)


def test_folders_and_paths_without_a_log_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("loss\n1\n")
    with pytest.raises(BadInput) as error:
        read_log(tmp_path)
    assert "without events" in one_line(error) and "metrics.csv" in one_line(error)
    with pytest.raises(BadInput, match="no such file"):
        read_log(tmp_path / "nothing.csv")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name, says in (("log.csv", "more than 64.0 MiB"), ("events.out.tfevents.9", "no log of events")):
        with open(tmp_path / name, "wb") as handle:
            handle.truncate(1 << 40)
        with pytest.raises(BadInput, match=says):
            read_log(tmp_path / name)


def test_a_log_that_breaks_off_is_read_up_to_there(tmp_path: Path) -> None:
    rows = trained()
    whole = next(events(tmp_path, rows).iterdir())
    lines = json_lines(tmp_path, rows)
    sheet = semicolons(tmp_path, rows)
    for path, bytes_cut in ((whole, 9), (lines, 9), (sheet, 90)):
        path.write_bytes(path.read_bytes()[:-bytes_cut])
        log = read_log(path)
        assert len(log.trace.get("loss")) >= 59
        assert "LG109" in {note.code for note in log.notes}


def test_a_flipped_byte_ends_the_events_and_never_becomes_a_number(tmp_path: Path) -> None:
    whole = next(events(tmp_path, trained()).iterdir())
    data, want = whole.read_bytes(), [row["loss"] for row in trained()]
    for place in np.random.default_rng(4).integers(0, len(data), 40):
        whole.write_bytes(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])
        try:
            values = read_log(whole).logged["loss"].values
        except (BadInput, KeyError):
            continue
        np.testing.assert_allclose(values, want[: len(values)], rtol=1e-6)


def test_a_tensor_that_claims_a_great_shape_is_no_scalar(tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event

    event = Event(step=1)
    value = event.summary.value.add(tag="loss")
    value.tensor.dtype = 1
    value.tensor.tensor_shape.dim.add(size=1 << 40)
    value.tensor.float_val.append(1.0)
    record = event.SerializeToString()
    (tmp_path / "x.tfevents").write_bytes(claim(len(record))[:12] + record + struct.pack("<I", masked(record)))
    with pytest.raises(BadInput, match="without numbers"):
        read_log_file(tmp_path / "x.tfevents")


def test_names_from_a_log_cannot_steer_a_terminal(tmp_path: Path) -> None:
    rows = tuple({"step": r["step"], "loss": r["loss"], "\x1b[31mkl\x1b[0m\n": r["kl"]} for r in trained())
    text = str(read_log(json_lines(tmp_path, rows), {"kl": "\x1b[31mkl\x1b[0m\n"}))
    assert "\x1b" not in text and len(text.splitlines()) == 5


def test_gaps_written_as_nan_are_no_divergence_and_real_ones_are(tmp_path: Path) -> None:
    gaps = [{"step": i, "loss": 50 - i, "val_loss": 51 - i if i % 5 == 0 else "nan"} for i in range(30)]
    ends = [{"step": i, "loss": 50 - i if i < 20 else "nan"} for i in range(30)]
    for rows, clean in ((gaps, True), (ends, False)):
        with open(tmp_path / "log.csv", "w", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        assert (not serious(diagnose_log(tmp_path / "log.csv"))) == clean
