"""`push` and `pull`: runs at the hub, by the hub's own library; no call of the network is made anywhere else.

What is sent is what `export` writes. What is fetched are files of a run alone, by their names and within sizes; they
are checked against their digests, and the model is loaded, before the folder gets its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.durable import save_tree
from ..core.errors import BadInput, Corrupt, MissingExtra, VaelabError, one_line
from ..core.files import check_file, parse_yaml, read_bytes, read_json
from ..core.units import readable_bytes
from ..training.checkpoint import Checkpoints
from ..training.run import Run
from .exporting import CARD, CONTENTS, FORMAT, export, new_target
from .quiet import quiet

# What a run's folder can hold; nothing else is sent or fetched.
KNOWN = re.compile(
    r"config\.yaml|README\.md|(environment|diagnosis|evaluation|export)\.json|(metrics|findings)\.jsonl"
    r"|(encoder|decoder)\.onnx|data/[a-z_]+\.(json|npy|safetensors)"
    r"|checkpoints/best-\d{9}/(manifest\.json|measured\.json|model\.safetensors)"
)
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
NEEDED = ("config.yaml", "environment.json", CONTENTS)
MOST_BYTES = {".safetensors": 8 << 30, ".onnx": 2 << 30, ".npy": 1 << 30}  # of a file, by its ending
MOST_TEXT, MOST_FILES, MOST_TOTAL = 64 << 20, 64, 12 << 30
SPARE = 1 << 24  # entries of tensors that building a model may take beside four times those of its weights
HUB_OWN = (".gitattributes",)  # what the hub itself puts into every repository


@dataclass(frozen=True)
class Sent:
    """What was sent: the address of the repository, the files, and what stayed behind, in words."""

    address: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Pulled:
    """What was fetched: where it is now, its files, the commit they are of, and what was left there, in words."""

    folder: Path
    files: tuple[str, ...]
    commit: str
    left_out: tuple[str, ...]


def push(run: str | os.PathLike[str], name: str, private: bool = False) -> Sent:
    """Sends a run to the hub: the safetensors and the card that `export` makes, or a folder that it made, as it is.

    Args:
        run: A run's folder, or one that `export` wrote with the kind safetensors.
        name: "user/name"; a repository is made where there is none, and one that holds a run gets a new commit.
        private: Whether nobody else may see it; a repository that others can see is then refused.

    Raises:
        BadInput: without a token, for a name that is none, a repository that holds something else, no connection.
        Corrupt: for an exported folder whose files are not those it was written with.
        MissingExtra: without the extra hub.
    """
    hub, folder = _hub("push"), Path(run)
    _refuse_strange(name)
    if hub.get_token() is None:
        rule = "needs a token of the hub that may write"
        raise BadInput("push", "no token", rule, "hf auth login, or set HF_TOKEN")
    with tempfile.TemporaryDirectory() as temporary:
        told: tuple[str, ...] = ()
        if not (folder / CONTENTS).is_file():
            made = export(folder, Path(temporary) / "run")
            folder, told = made.folder, made.left_out
        files = _checked(folder, _names_in(folder))
        Run(folder)
        with _reaching(name):
            api = hub.HfApi(library_name="vaelab")
            _prepare(api, name, private)
            old = ["config.yaml", "*.json", "*.jsonl", "*.onnx", "data/*", "checkpoints/*"]
            commit = {"commit_message": "A run of vaelab", "allow_patterns": list(files), "delete_patterns": old}
            api.upload_folder(repo_id=name, folder_path=folder, **commit)
            address = f"{api.endpoint}/{name}"
        others = _others(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return Sent(address, tuple(files), (*told, *others))


def pull(name: str, to: str | os.PathLike[str] | None = None, revision: str | None = None) -> Pulled:
    """Fetches a run from the hub into a new folder.

    Args:
        name: "user/name".
        to: A new or an empty folder; None: `runs/NAME`.
        revision: A branch, a tag or a commit; None: the newest.

    Raises:
        BadInput: for a repository that is not there or holds no run, files beyond what a run can have, no connection;
            nothing has been written then.
        Corrupt: where a file does not match its digest, or the weights do not fit the config.
        MissingExtra: without the extra hub.
    """
    hub = _hub("pull")
    _refuse_strange(name)
    target = new_target(to if to is not None else Path("runs") / name.rpartition("/")[2], "to")
    with tempfile.TemporaryDirectory() as temporary:
        with _reaching(name):
            api = hub.HfApi(library_name="vaelab")
            commit = str(api.repo_info(name, revision=revision).sha)
            tree = api.list_repo_tree(name, recursive=True, revision=commit)
            sizes = {found.path: found.size for found in tree if hasattr(found, "size")}
            wanted = _fitting(sizes, name)
            place = {"revision": commit, "local_dir": temporary, "allow_patterns": wanted}
            hub.snapshot_download(name, **place, endpoint=api.endpoint, library_name="vaelab")
        folder = Path(temporary)
        files = _checked(folder, wanted)
        _refuse_misfit(folder, files)
        save_tree(target, files)
    return Pulled(target, tuple(files), commit, tuple(_others(sizes)))


def _hub(purpose: str) -> Any:
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        raise MissingExtra("huggingface_hub", "hub", purpose) from None
    disable_progress_bars()
    return huggingface_hub


def _refuse_strange(name: str) -> None:
    if not NAME.fullmatch(name):
        raise BadInput("name", repr(name), "must be user/name, of letters, digits and -_.", "such as user/my-vae")


@contextlib.contextmanager
def _reaching(name: str) -> Iterator[None]:
    """Turns what the hub's library raises into one line that says what to do."""
    from huggingface_hub import errors

    unreachable: Any = (OSError, *errors.HfHubHTTPError.__bases__)
    try:
        with quiet("huggingface_hub"):
            yield
    except VaelabError:
        raise
    except errors.OfflineModeIsEnabled:
        raise BadInput("hub", name, "HF_HUB_OFFLINE says that nothing may be fetched or sent", "unset it") from None
    except errors.RevisionNotFoundError:
        raise BadInput("revision", name, "the repository has no such branch, tag or commit", "leave it out") from None
    except errors.HFValidationError as error:
        raise BadInput("name", name, f"must be user/name ({_first_line(error)})") from None
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        rule, fix = ANSWERS.get(status, (f"the hub refused ({_first_line(error)})", "try again later"))
        raise BadInput("hub", name, rule, fix) from None
    except unreachable as error:
        rule = f"the hub cannot be reached ({_first_line(error)})"
        raise BadInput("hub", name, rule, "check the connection, and HF_ENDPOINT if it is set") from None


# By the status of the hub's answer.
ANSWERS: dict[Any, tuple[str, str]] = {
    401: ("no such repository, or none that your token may see", "check the name; hf auth login"),
    403: ("your token may not do that", "make one that may write, then hf auth login"),
    404: ("no such repository, or none that your token may see", "check the name; hf auth login"),
}


def _first_line(error: BaseException) -> str:
    return one_line(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)[:200]


def _prepare(api: Any, name: str, private: bool) -> None:
    """Makes the repository where there is none; refuses one that is not for a run."""
    if not api.repo_exists(name):
        api.create_repo(name, private=True if private else None)
        return
    found = api.repo_info(name)
    if private and not found.private:
        rule = "is there already, and everybody can see it"
        raise BadInput("private", name, rule, "make it private at the hub first, or name another")
    held = {file.rfilename for file in found.siblings or ()}
    if CONTENTS not in held and held - {CARD, *HUB_OWN}:
        raise BadInput("name", name, f"holds something else, such as {sorted(held)[-1]}", "name another repository")


def _fitting(sizes: Mapping[str, int], name: str) -> list[str]:
    """The files to fetch, once their names and sizes are those of a run."""
    wanted = sorted(path for path in sizes if KNOWN.fullmatch(path))
    missing = [path for path in NEEDED if path not in wanted]
    if missing:
        raise BadInput("name", name, f"holds no run of vaelab: no {missing[0]} in it", "check the name")
    if len(wanted) > MOST_FILES:
        raise BadInput("name", name, f"holds {len(wanted)} files, more than a run has")
    weights = {str(Path(path).parent) for path in wanted if path.startswith("checkpoints/")}
    if len(weights) != 1:
        raise BadInput("name", name, f"holds {len(weights)} sets of weights, and a run that was pushed holds one")
    for path in wanted:
        _refuse_large(f"{name}: {path}", sizes[path], _most(path))
    _refuse_large(name, sum(sizes[path] for path in wanted), MOST_TOTAL)
    return wanted


def _most(name: str) -> int:
    """Bytes that a file of a run may have."""
    return MOST_BYTES.get(Path(name).suffix, MOST_TEXT)


def _refuse_large(what: str, size: int, most: int) -> None:
    if size > most:
        raise BadInput(what, readable_bytes(size), f"must be at most {readable_bytes(most)}")


def _names_in(folder: Path) -> list[str]:
    """The files of a run in a folder that `export` wrote."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    known = [name for name in names if KNOWN.fullmatch(name)]
    for name in NEEDED:
        if name not in known:
            raise BadInput("run", folder, f"holds no {name}", "vaelab export RUN --safetensors --card")
    return known


def _checked(folder: Path, names: list[str]) -> dict[str, Path]:
    """The files that `export` wrote, each of its digest; the card alone may have been edited since.

    Raises:
        Corrupt: for a file that is missing, altered, or not of the export.
    """
    contents = read_json(folder / CONTENTS)
    digests = contents.get("files") if isinstance(contents, dict) else None
    if not isinstance(digests, dict) or contents.get("format") != FORMAT:
        raise Corrupt(f"{CONTENTS}: is not one that this version of vaelab writes")
    files = {name: check_file(folder / name) for name in names}
    for name, path in files.items():
        _refuse_large(name, path.stat().st_size, _most(name))
    for name in sorted({*digests, *files} - {CONTENTS, CARD}):
        if KNOWN.fullmatch(name) and (name not in files or digests.get(name) != _digest(files[name])):
            raise Corrupt(f"{name}: its content does not match the digest it was exported with")
    return files


def _digest(path: Path) -> str:
    """The SHA-256 of a file, which is never held whole."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _refuse_misfit(folder: Path, files: Mapping[str, Path]) -> None:
    """Loads a stranger's run within the memory that its weights can need.

    Raises:
        Corrupt: where the config describes another model than the weights are of, or an array is none.
    """
    parse_yaml(read_bytes(files["config.yaml"], MOST_TEXT).decode("utf-8", "replace"), "config.yaml")
    for name in (name for name in files if name.endswith(".npy")):
        _refuse_swollen(folder / name)
    run = Run(folder)
    weights, _ = Checkpoints(folder / "checkpoints").load_best()
    try:
        with _Budget(SPARE + 4 * sum(tensor.numel() for tensor in weights.values())):
            _ = run.model
    except (RuntimeError, MemoryError) as error:
        raise Corrupt(f"config.yaml: describes no model of these weights ({_first_line(error)})") from None


class _Budget(TorchDispatchMode):
    """Refuses to make tensors of more entries than that, all together; those made from other tensors do not count."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.left = entries

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = args[0] if args and isinstance(args[0], list | tuple) else ()
        if size and all(isinstance(length, int) for length in size):
            self.left -= prod(size)
        if self.left < 0:
            raise Corrupt("config.yaml: describes a model far larger than its weights")
        return func(*args, **(kwargs or {}))


def _refuse_swollen(path: Path) -> None:
    """Raises Corrupt for an array that would take more memory than its file; one of no rows is fine."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's parser fed a stranger's bytes raises whatever its tokenizer does
        raise Corrupt(f"{path.name}: is not an array of the size it says ({_first_line(error)})") from None


def _others(names: Any) -> list[str]:
    """What is no file of a run, in words."""
    strange = sorted(name for name in names if not KNOWN.fullmatch(name) and name not in HUB_OWN)
    shown = ", ".join(map(one_line, strange[:5]))
    more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
    return [f"no files of a run: {shown}{more}"] if strange else []
