"""Reading foreign files: bytes, text, YAML and JSON. Arrays are in `array_files`, images in `image_files`.

All three share one promise: nothing that is read can run code, and sizes are checked before memory is taken. Heavy
packages are imported inside the functions that need them, so that importing these modules costs nothing.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import BadInput, Corrupt
from .units import readable_bytes

YAML_BYTES, YAML_DEPTH = 1 << 20, 20
TEXT_BYTES = 1 << 30


def check_file(path: str | os.PathLike[str]) -> Path:
    """The path, once it is known to be a readable file with something in it.

    Raises:
        BadInput: for a missing path, a broken or circular link, a folder, a device, an unreadable or an empty file.
    """
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            path.open("rb").close()
    except FileNotFoundError:
        broken = path.is_symlink()
        raise BadInput(str(path), None, "a link to nothing" if broken else "no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise BadInput(str(path), None, f"cannot be read ({reason(error)})", "check the path and its rights") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
        raise BadInput(str(path), kind, "must be a file")
    if status.st_size == 0:
        raise BadInput(str(path), "an empty file", "must have content")
    return path


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """A file's bytes, decompressed where they are gzip, and never more than `limit` of them.

    Raises:
        BadInput: for what `check_file` refuses, more bytes than the limit, or a damaged gzip stream.
    """
    path = check_file(path)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as handle:
            # A plain file's own size, since room for all that is asked for is set aside at once.
            data = handle.read(1 + (limit if packed else min(limit, path.stat().st_size)))
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(str(path), None, f"is damaged or cut short ({reason(error)})", "copy it again") from None
    if len(data) > limit:
        raise BadInput(str(path), f"more than {readable_bytes(limit)}", "is too large to be read whole", "use .npy")
    return data


def read_text(path: str | os.PathLike[str], limit: int = TEXT_BYTES) -> str:
    """A file's text: UTF-8 with or without a byte-order mark, or UTF-16 with one; gzip is decompressed.

    Raises:
        BadInput: for what `read_bytes` refuses, a zip archive, other encodings, or NUL characters.
    """
    data = read_bytes(path, limit)
    if data.startswith(b"PK\x03\x04"):
        raise BadInput(str(path), "a zip archive (a spreadsheet?)", "must be text", "export it as CSV")
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(str(path), f"bytes in line {line} that are not {encoding}", "must be UTF-8 text") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BadInput(str(path), f"a NUL character in line {line}", "must be plain text")
    return text


def parse_yaml(text: str, where: str) -> Any:
    """Plain values from YAML, where `1e-3` is a number.

    Args:
        text: The YAML text.
        where: What an error calls the text: a file, or the key of a setting.

    Raises:
        BadInput: for bad syntax, tags, anchors, aliases, keys given twice, and depth or size beyond any config.

    Example:
        >>> parse_yaml("{rate: 1e-3, widths: [400, 200], name: null}", where="example")
        {'rate': 0.001, 'widths': [400, 200], 'name': None}
    """
    import yaml

    if len(text) > YAML_BYTES:
        raise BadInput(where, readable_bytes(len(text)), f"must be at most {readable_bytes(YAML_BYTES)}")
    try:
        _check_events(yaml.parse(text, yaml.SafeLoader), where)
        return yaml.load(text, _loader())
    except BadInput:
        raise
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or "a value or character that cannot be read")
        place = f" in line {mark.line + 1}" if mark else ""
        raise BadInput(where, None, f"is not valid YAML: {problem}{place}") from None


def _check_events(events: Iterator[Any], where: str) -> None:
    """Refuses on the flat stream of events, before anything is built or recursed into."""
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        trouble = {
            "an alias or anchor": getattr(event, "anchor", None),
            "a tag": getattr(event, "tag", None),
            f"nesting deeper than {YAML_DEPTH}": depth > YAML_DEPTH,
        }
        for name, found in trouble.items():
            if found:
                raise BadInput(where, f"{name} in line {event.start_mark.line + 1}", "only plain values are read")


@functools.cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [str(key.value) for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise yaml.MarkedYAMLError(problem=f"key {twice[0]!r} given twice", problem_mark=node.start_mark)
            return super().construct_mapping(node, deep)

    exponent = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+\.?[0-9]*)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))
    return Loader


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        BadInput: for what `read_text` and `parse_yaml` refuse, and for anything but a mapping.
    """
    value = parse_yaml(read_text(path, YAML_BYTES), where=str(path))
    if not isinstance(value, dict):
        kind = "nothing but comments" if value is None else f"a {type(value).__name__}"
        raise BadInput(str(path), kind, "must be a mapping", "such as train: {steps: 2000}")
    return value


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file that this package wrote.

    Raises:
        BadInput: for what `read_text` refuses.
        Corrupt: where the text is not JSON.
    """
    return _from_json(read_text(path), str(path))


def read_json_lines(path: str | os.PathLike[str]) -> list[Any]:
    """The values of a file with one JSON value a line; a last line that a crash cut short is left out.

    Raises:
        BadInput: for what `check_file` refuses.
        Corrupt: naming any other line that is not JSON.
    """
    *whole, cut = read_bytes(path, TEXT_BYTES).split(b"\n")
    values = [_from_json(line, f"{path}: line {number}") for number, line in enumerate(whole, 1) if line.strip()]
    try:
        return [*values, json.loads(cut)] if cut.strip() else values
    except (ValueError, RecursionError):
        return values


def _from_json(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{where}: is not valid JSON ({reason(error)})") from None


def reason(error: BaseException) -> str:
    """One short phrase of why."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]
