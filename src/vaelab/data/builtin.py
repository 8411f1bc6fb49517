"""Data sets by name: `digits` comes with scikit-learn, `mnist` from a local copy or by a checked download."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import importlib.util
import math
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..core.array_files import read_npz
from ..core.durable import write_bytes
from ..core.errors import BadInput, NoSpace
from ..core.files import read_bytes
from .arrays import Parts

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
DIGESTS = {  # SHA-256 of the entries as bytes
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
FILE_BYTES = 64 << 20
TIMEOUT_SECONDS = 20


def digits(data_dir: str | None) -> Parts:
    """1797 handwritten digits of 8x8 pixels with 17 gray levels (Alpaydin & Kaynak, Optical Recognition of Handwritten
    Digits, 1998), as scikit-learn ships them."""
    table = _digits_table()
    return Parts(table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64), top=16.0)


def _digits_table() -> np.ndarray:
    """scikit-learn's file of them, 64 entries and a label a row, [1797, 65]; importing the library takes a second."""
    spec = importlib.util.find_spec("sklearn")
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz" if spec and spec.origin else None
    if file is not None and file.exists():
        with gzip.open(file, "rt") as lines:
            return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.column_stack([found.data, found.target])


def mnist(data_dir: str | None) -> Parts:
    """70,000 handwritten digits of 28x28 pixels (LeCun, Cortes & Burges, The MNIST Database, 1998), 10,000 of them held
    out.

    They are looked for in `data_dir`, then in the cache folder, as `mnist.npz` or as the four original files, and
    downloaded into the cache folder otherwise.

    Raises:
        BadInput: where a file is not the original data, or there is neither a copy nor a network.
    """
    folders = ([Path(data_dir)] if data_dir else []) + [cache_folder()]
    arrays = next((found for folder in folders if (found := _local(folder))), None) or _download(folders[-1])
    return Parts(arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"])


def cache_folder() -> Path:
    """Where downloads are kept: `vaelab` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaelab"


def _local(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a folder, checked against their digests; None where it has no copy."""
    archive = folder / "mnist.npz"
    if archive.exists():
        return _verified(read_npz(archive), str(archive))
    files = {name: _either(folder / file) for name, file in IDX_FILES.items()}
    if not all(files.values()):
        return None
    return _verified({name: _parse_idx(file) for name, file in files.items() if file}, str(folder))


def _either(path: Path) -> Path | None:
    """The file or its gzipped twin."""
    return next((file for file in (path, path.with_name(f"{path.name}.gz")) if file.exists()), None)


def _parse_idx(path: Path) -> np.ndarray:
    """The bytes of an IDX file: two zeros, the type 8, the number of axes, big-endian sizes, then the entries."""
    data = read_bytes(path, FILE_BYTES)
    axes = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = (
        tuple(int(size) for size in np.frombuffer(data[4 : 4 + 4 * axes], ">u4")) if len(data) >= 4 + 4 * axes else ()
    )
    if not shape or len(data) - 4 - 4 * axes != math.prod(shape):
        raise BadInput(str(path), f"{len(data)} bytes", "is not a whole IDX file of bytes", "copy or download it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()


def _verified(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    if missing := [name for name in DIGESTS if name not in arrays]:
        raise BadInput(where, f"no {', '.join(missing)}", f"must hold {', '.join(DIGESTS)}")
    found = {name: np.ascontiguousarray(arrays[name]) for name in DIGESTS}
    for name, digest in DIGESTS.items():
        if found[name].dtype.kind in "iu":
            found[name] = found[name].astype(np.uint8)
        if hashlib.sha256(found[name].tobytes()).hexdigest() != digest:
            raise BadInput(
                where, f"other entries in {name}", "is not the original MNIST", "give its path as your own data"
            )
    return found


def _download(cache: Path) -> dict[str, np.ndarray]:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoSpace(f"{cache}: cannot be made ({error.strerror})") from None
    for file in IDX_FILES.values():
        write_bytes(cache / f"{file}.gz", _fetch(f"{file}.gz"))
    try:
        arrays = {name: _parse_idx(cache / f"{file}.gz") for name, file in IDX_FILES.items()}
        return _verified(arrays, str(cache))
    except BadInput:
        for file in IDX_FILES.values():
            (cache / f"{file}.gz").unlink(missing_ok=True)
        raise


def _fetch(name: str) -> bytes:
    reasons = []
    for mirror in MIRRORS:
        try:
            with urllib.request.urlopen(mirror + name, timeout=TIMEOUT_SECONDS) as response:
                return response.read(FILE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            reasons.append(str(getattr(error, "reason", error)))
    fix = "give a folder that holds mnist.npz or the four original files (--data-dir FOLDER, data.data_dir=FOLDER)"
    raise BadInput("mnist", None, f"cannot be downloaded ({reasons[-1]})", fix)
