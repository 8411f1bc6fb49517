"""Saving: every crash point is safe, damage is named, and the lock is the kernel's."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from vaelab.core import durable
from vaelab.core.errors import Corrupt, InUse, NoSpace

OLD = {"a.bin": b"old" * 100, "b.bin": b""}
NEW = {"a.bin": b"new" * 200, "b.bin": b"more"}
OPERATIONS = ("_write", "_flush", "_rename")


class PowerCut(BaseException):
    """Neither an OSError nor an Exception: nothing may catch it and tidy up."""


def failing_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> list[str]:
    """Makes the Nth of all writes, flushes and renames fail; returns the list of those called."""
    called: list[str] = []
    for name in OPERATIONS:
        real = getattr(durable, name)

        def operation(*arguments, real=real, name=name):
            called.append(name)
            if len(called) == number:
                if name == "_write":
                    arguments[0].write(arguments[1][: len(arguments[1]) // 2])  # a torn write
                raise error
            return real(*arguments)

        monkeypatch.setattr(durable, name, operation)
    return called


@pytest.mark.parametrize("error", [PowerCut(), OSError(28, "No space left on device")])
def test_a_save_that_fails_at_any_point_leaves_the_old_state_or_the_new(tmp_path, monkeypatch, error) -> None:
    durable.save_folder(tmp_path / "step-1", OLD)
    number, finished = 0, False
    while not finished:
        number += 1
        with monkeypatch.context() as patch:
            called = failing_at(patch, number, error)
            try:
                durable.save_folder(tmp_path / "step-2", NEW)
            except (PowerCut, NoSpace) as failure:
                assert isinstance(failure, PowerCut) or ("step-2" in str(failure) and "No space left" in str(failure))
            finished = len(called) < number
        assert durable.load_folder(tmp_path / "step-1") == OLD
        if (tmp_path / "step-2").exists():
            assert durable.load_folder(tmp_path / "step-2") == NEW
        else:
            assert not finished
        durable.remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} <= {"step-1", "step-2"}
    assert number > 2 * len(NEW) + 4


def test_replacing_a_file_that_fails_at_any_point_keeps_the_old_content(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    for number in range(1, 6):
        durable.write_bytes(path, b"old")
        with monkeypatch.context() as patch:
            called = failing_at(patch, number, OSError(5, "Input/output error"))
            try:
                durable.write_bytes(path, b"new")
            except NoSpace:
                assert path.read_bytes() in (b"old", b"new")
                assert "_rename" in called[: number - 1] or path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_every_flipped_byte_truncation_and_missing_file_is_detected_and_named(tmp_path) -> None:
    chance, folder = random.Random(0), tmp_path / "step-1"
    files = {"model.safetensors": chance.randbytes(3000), "progress.json": b'{"step": 1}'}
    durable.save_folder(folder, files)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    damages = [("flip", chance.randrange(10**9)) for _ in range(200)] + [
        ("cut", chance.randrange(10**9)) for _ in range(50)
    ]
    for kind, place in damages:
        name = chance.choice(sorted(whole))
        data = bytearray(whole[name])
        if kind == "flip":
            data[place % len(data)] ^= 1 << (place % 8)
        else:
            del data[place % len(data) :]
        (folder / name).write_bytes(data)
        with pytest.raises(Corrupt, match="step-1"):
            durable.load_folder(folder)
        (folder / name).write_bytes(whole[name])
    for name in whole:
        (folder / name).unlink()
        with pytest.raises(Corrupt, match="step-1"):
            durable.load_folder(folder)
        (folder / name).write_bytes(whole[name])
    assert durable.load_folder(folder) == files


def test_a_manifest_cannot_point_outside_its_folder(tmp_path) -> None:
    durable.save_folder(tmp_path / "step-1", OLD)
    (tmp_path / "secret").write_text("x")
    manifest = tmp_path / "step-1" / durable.MANIFEST
    manifest.write_text('{"../secret": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}')
    with pytest.raises(Corrupt):
        durable.load_folder(tmp_path / "step-1")


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoSpace, match="file"):
        durable.save_folder(tmp_path / "file" / "step-1", OLD)
    assert NoSpace.status == 5


HOLD = """
import sys, time, pathlib
from vaelab.core.durable import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        for _ in range(7):
            with pytest.raises(InUse, match=f"process {holder.pid}"), durable.locked(tmp_path):
                pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with durable.locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".holder").read_text()


def test_json_has_no_nan(tmp_path) -> None:
    durable.write_json(tmp_path / "a.json", {"a": [float("nan"), 1.5, (float("inf"),)]})
    assert (tmp_path / "a.json").read_text().split() == ["{", '"a":', "[", "null,", "1.5,", "[", "null", "]", "]", "}"]
