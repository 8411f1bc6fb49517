"""All writes that must last: atomic, flushed to disk, with digests; and the lock on a run folder.

A folder is saved by writing every file into a temporary sibling, flushing each, writing a manifest with their SHA-256
digests, flushing that, renaming the folder, and flushing its parent. A crash at any point leaves the old
state or the new.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import Corrupt, InUse, NoSpace

MANIFEST = "manifest.json"
PIECE = 1 << 20  # bytes of a file that are copied at once


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces a file by new content, or leaves it as it was.

    Raises:
        NoSpace: naming the path and the system's reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with saying_why(path):
            _write_flushed(temporary, data)
            _rename(temporary, path)
            _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for text, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` for plain values; NaN and infinities are written as null, since JSON has neither."""
    write_text(path, to_json(value, indent=1) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text of plain values; NaN and infinities become null."""
    try:
        return json.dumps(value, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(_without_nan(value), allow_nan=False, indent=indent)


def save_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Saves a folder of files with a manifest of their digests; the folder appears whole or not at all.

    Raises:
        NoSpace: naming the path and the system's reason.
    """
    temporary: Path | None = None
    try:
        with saying_why(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            for name, data in files.items():
                _write_flushed(temporary / name, data)
            _write_flushed(temporary / MANIFEST, manifest_of(files))
            _flush_folder(temporary)
            if path.exists():  # left by an interrupted run that is now being repeated
                _set_aside(path)
            _rename(temporary, path)
            _flush_folder(path.parent)
            shutil.rmtree(_aside(path), ignore_errors=True)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    """The content of the manifest that `save_folder` writes beside files."""
    return to_json({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, indent=1).encode()


def save_tree(path: Path, files: Mapping[str, bytes | Path]) -> None:
    """Makes a new folder of files and folders of files, without a manifest; it appears whole or not at all.

    Args:
        path: Nothing, or an empty folder.
        files: Contents, or files to copy piece by piece, by their names below it, such as "data/spec.json".

    Raises:
        NoSpace: naming the path and the system's reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with saying_why(path):
            shutil.rmtree(temporary, ignore_errors=True)
            for name, data in files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                _write_flushed(temporary / name, data)
            for folder in {(temporary / name).parent for name in files} | {temporary}:
                _flush_folder(folder)
            _rename(temporary, path)
            _flush_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.old.part")


def _set_aside(path: Path) -> None:
    """Moves a folder of ours out of the way; what this module did not save is never touched."""
    if not (path / MANIFEST).is_file():
        raise FileExistsError(17, "something else is there under that name")
    shutil.rmtree(_aside(path), ignore_errors=True)
    _rename(path, _aside(path))


def load_folder(path: Path) -> dict[str, bytes]:
    """Reads back what `save_folder` wrote, every file checked against its digest.

    Raises:
        Corrupt: naming the file that is missing or altered.
    """
    try:
        digests = json.loads((path / MANIFEST).read_bytes())
        files = {str(name): (path / Path(name).name).read_bytes() for name in digests}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise Corrupt(f"{path}: cannot be read back ({error})") from None
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != digests[name]:
            raise Corrupt(f"{path / name}: its content does not match the digest it was saved with")
    return files


def remove_folder(path: Path) -> None:
    """Removes a folder so that a crash midway never leaves a half-empty folder under its name."""
    doomed = path.with_name(f".{path.name}.{os.getpid()}.part")
    with contextlib.suppress(OSError):
        _rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what interrupted saves left behind; only the holder of the lock may call it."""
    for path in folder.glob(".*.part"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run folder for this process; the kernel gives the lock back when the holder dies, however it dies.

    Raises:
        InUse: saying who holds the folder.
    """
    from filelock import FileLock, Timeout

    lock, note = FileLock(folder / ".lock"), folder / ".holder"
    with saying_why(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:  # an OSError too, hence inside
            holder = note.read_text() if note.exists() else "another process"
            raise InUse(f"{folder}: in use by {holder}; wait for it, or train into another folder") from None
    try:
        write_text(note, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def saying_why(path: Path) -> Iterator[None]:
    """Turns an operating system's error into one that names the path and the reason."""
    try:
        yield
    except NoSpace:
        raise
    except OSError as error:
        raise NoSpace(f"{path}: cannot be written ({error.strerror or error})") from None


def _write_flushed(path: Path, data: bytes | Path) -> None:
    with open(path, "wb") as handle:
        for piece in _pieces(data) if isinstance(data, Path) else (data,):
            _write(handle, piece)
        handle.flush()
        _flush(handle.fileno())


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while piece := handle.read(PIECE):
            yield piece


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _flush(descriptor)
    finally:
        os.close(descriptor)


# The three operations that can fail, by name, so that a test can make the Nth of them fail.
def _write(handle: Any, data: bytes) -> None:
    handle.write(data)


def _flush(descriptor: int) -> None:
    os.fsync(descriptor)


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value
