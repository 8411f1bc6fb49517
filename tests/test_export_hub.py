"""Push and pull against a stand-in of the hub on the loopback, through the hub's own library."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_stand_in import TOKEN, Repository, StandIn, stand_in

import vaelab
from vaelab.core.durable import save_tree
from vaelab.core.errors import BadInput, Corrupt
from vaelab.use.exporting import FORMAT, export
from vaelab.use.hub import _checked, _fitting, pull, push

pytest.importorskip("huggingface_hub", reason="needs the extra hub")
NAME = "ada/digits"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vaelab.Run:
    settings = {"train": {"steps": 30}, "report": {"html": False}, "model": {"hidden": [32]}}
    return vaelab.train("digits", out=tmp_path_factory.mktemp("run"), config=settings, progress=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    from huggingface_hub import constants

    with stand_in() as held:
        template = held.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", held.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield held


def test_a_pulled_model_scores_identically(run: vaelab.Run, hub: StandIn, tmp_path: Path) -> None:
    rows = run.preview[:20]
    sent = push(run.folder, NAME)
    got = pull(NAME, tmp_path / "pulled")
    again = vaelab.load(got.folder)
    first, second = (vaelab.log_likelihood(one, rows, samples=20, seed=3).values for one in (run, again))
    assert (first == second).all()
    assert (again.sample(5, seed=1) == run.sample(5, seed=1)).all()
    assert set(got.files) == set(sent.files) == {p.relative_to(got.folder).as_posix() for p in got.folder.rglob("*.*")}


def test_what_is_sent_names_no_machine_and_holds_no_row(run: vaelab.Run, hub: StandIn) -> None:
    from huggingface_hub import get_token

    sent = push(run.folder, NAME)
    held = hub.repositories[NAME].files
    together = b"\n".join(held.values())
    for private in (
        str(run.folder),
        str(Path.home()),
        json.loads((run.folder / "environment.json").read_text())["platform"],
    ):
        assert private.encode() not in together
    assert np.load(io.BytesIO(held["data/preview.npy"])).shape == (0, 1, 8, 8)
    assert not any(name in path for path in held for name in ("step-", "optimizer", "training", "labels"))
    assert any("rows of the data" in line for line in sent.left_out)
    assert get_token() == TOKEN and TOKEN.encode() not in together


def test_a_second_push_leaves_nothing_of_the_first(run: vaelab.Run, hub: StandIn, tmp_path: Path) -> None:
    push(run.folder, NAME)
    hub.repositories[NAME].files["checkpoints/best-000009999/model.safetensors"] = b"older"
    hub.repositories[NAME].files["data/labels.npy"] = b"older"
    push(run.folder, NAME)
    assert not [path for path, data in hub.repositories[NAME].files.items() if data == b"older"]
    assert vaelab.load(pull(NAME, tmp_path / "again").folder).metrics["step"] == run.metrics["step"]


def test_an_exported_folder_is_sent_as_it_is(run: vaelab.Run, hub: StandIn, tmp_path: Path) -> None:
    made = export(run, tmp_path / "made", ("safetensors", "card"), rows=True)
    (made.folder / "notes.txt").write_text("mine")
    (made.folder / "README.md").write_text("a card of my own")
    sent = push(made.folder, NAME, private=True)
    assert hub.repositories[NAME].private
    assert "notes.txt" not in hub.repositories[NAME].files and "notes.txt" in sent.left_out[0]
    again = vaelab.load(pull(NAME, tmp_path / "pulled").folder)
    assert (again.preview == run.preview).all()
    assert (again.folder / "README.md").read_text() == "a card of my own"


def test_nothing_but_files_of_a_run_is_fetched(run: vaelab.Run, hub: StandIn, tmp_path: Path) -> None:
    push(run.folder, NAME)
    strangers = {"modeling.py": b"boom", "pytorch_model.bin": b"\x80", "data/x.pkl": b"\x80", "encoder.pt2": b"PK"}
    hub.repositories[NAME].files |= strangers
    got = pull(NAME, tmp_path / "pulled")
    assert not [path for path in strangers if (got.folder / path).exists()]
    assert not [line for line in hub.requests if any(path in line for path in strangers)]
    assert all(path in got.left_out[0] for path in strangers)


def _replace(hub: StandIn, path: str, content: bytes) -> None:
    """Another content in the repository, with digests that go with it."""
    files = hub.repositories[NAME].files
    contents = json.loads(files["export.json"])
    for name, data in {path: content, **_manifest(files, path, content)}.items():
        files[name] = data
        contents["files"][name] = hashlib.sha256(data).hexdigest()
    files["export.json"] = json.dumps(contents).encode()


def _manifest(files: dict[str, bytes], path: str, content: bytes) -> dict[str, bytes]:
    folder, _, name = path.rpartition("/")
    if not folder:
        return {}
    digests = json.loads(files[f"{folder}/manifest.json"]) | {name: hashlib.sha256(content).hexdigest()}
    return {f"{folder}/manifest.json": json.dumps(digests).encode()}


def _config(hub: StandIn, **model: object) -> None:
    config = yaml.safe_load(hub.repositories[NAME].files["config.yaml"])
    config["model"] |= model
    _replace(hub, "config.yaml", yaml.safe_dump(config).encode())


def _swollen() -> bytes:
    """An array that says it has 10^13 rows."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": (10**13, 1, 8, 8)})
    return content.getvalue()


def np_bytes(array: np.ndarray) -> bytes:
    """An array file, pickled where it has to be."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


BROKEN = {
    "a flipped byte on the way": lambda hub: setattr(hub, "garble", "checkpoints/best-000000030/model.safetensors"),
    "an altered file": lambda hub: hub.repositories[NAME].files.update({"findings.jsonl": b"{}"}),
    "a missing file": lambda hub: hub.repositories[NAME].files.pop("data/spec.json"),
    "no digests": lambda hub: hub.repositories[NAME].files.update({"export.json": b"[]"}),
    "an array larger than its file": lambda hub: _replace(hub, "data/preview.npy", _swollen()),
    "an array of objects": lambda hub: _replace(hub, "data/preview.npy", np_bytes(np.array([{}], object))),
    "no tensors": lambda hub: _replace(hub, "data/transform.safetensors", b"x" * 64),
    "a model that would not fit in memory": lambda hub: _config(hub, hidden=[2**40]),
    "another model than the weights are of": lambda hub: _config(hub, hidden=[33]),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_not_what_was_sent_is_corrupt_and_not_written(
    run: vaelab.Run, hub: StandIn, tmp_path: Path, how: str
) -> None:
    push(run.folder, NAME)
    BROKEN[how](hub)
    with pytest.raises(Corrupt):
        pull(NAME, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_a_repository_of_something_else_is_refused_both_ways(run: vaelab.Run, hub: StandIn, tmp_path: Path) -> None:
    hub.repositories[NAME] = Repository({".gitattributes": b"", "README.md": b"", "model.gguf": b"x"})
    with pytest.raises(BadInput, match=r"holds something else, such as model\.gguf"):
        push(run.folder, NAME)
    with pytest.raises(BadInput, match="holds no run of vaelab"):
        pull(NAME, tmp_path / "pulled")
    assert set(hub.repositories[NAME].files) == {".gitattributes", "README.md", "model.gguf"}


def test_private_is_never_sent_to_where_all_can_see(run: vaelab.Run, hub: StandIn) -> None:
    push(run.folder, NAME)
    before = hub.repositories[NAME].sha
    with pytest.raises(BadInput, match="everybody can see it"):
        push(run.folder, NAME, private=True)
    assert hub.repositories[NAME].sha == before


@pytest.mark.parametrize(
    ("size", "path", "match"),
    [
        (9 << 30, "checkpoints/best-000000030/model.safetensors", "must be at most 8.0 GiB"),
        (65 << 20, "config.yaml", "must be at most 64.0 MiB"),
    ],
)
def test_sizes_are_looked_at_before_anything_is_fetched(
    run: vaelab.Run, hub: StandIn, tmp_path: Path, size: int, path: str, match: str
) -> None:
    class Claims(bytes):
        def __len__(self) -> int:
            return size

    push(run.folder, NAME)
    hub.repositories[NAME].files[path] = Claims(b"small")
    hub.requests.clear()
    with pytest.raises(BadInput, match=match):
        pull(NAME, tmp_path / "pulled")
    assert not [line for line in hub.requests if "/resolve/" in line]


def test_a_run_has_one_set_of_weights_and_so_many_bytes_in_all() -> None:
    names = ["config.yaml", "environment.json", "export.json", "data/preview.npy"]
    best = {"checkpoints/best-000000030/model.safetensors": 8 << 30}
    run = dict.fromkeys(names, 1000) | best
    assert _fitting(run, NAME) == sorted(run)
    for other in ({}, best | {"checkpoints/best-000000040/model.safetensors": 1000}):
        with pytest.raises(BadInput, match=f"holds {len(other)} sets of weights"):
            _fitting(dict.fromkeys(names, 1000) | other, NAME)
    arrays = {f"data/{letter}.npy": 1 << 30 for letter in "abcde"}
    with pytest.raises(BadInput, match=r"ada/digits: got 13\.0 GiB; must be at most 12\.0 GiB"):
        _fitting(run | arrays, NAME)


def test_large_files_are_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = np.random.default_rng(0).bytes(32 << 20)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "preview.npy").write_bytes(content)
    contents = {"format": FORMAT, "files": {"data/preview.npy": hashlib.sha256(content).hexdigest()}}
    monkeypatch.setattr("vaelab.use.hub.read_json", lambda path: contents)  # it sets the most that it may read aside
    tracemalloc.start()
    save_tree(tmp_path / "saved", _checked(tmp_path, ["data/preview.npy"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "saved" / "data" / "preview.npy").read_bytes() == content and peak < 8 << 20


@pytest.mark.parametrize("name", ["", "digits", "a/b/c", "../x/y", "a b/c", "user/na\nme"])
def test_names_are_user_and_name(run: vaelab.Run, hub: StandIn, name: str, tmp_path: Path) -> None:
    for call in (lambda: push(run.folder, name), lambda: pull(name, tmp_path / "pulled")):
        with pytest.raises(BadInput, match="must be user/name"):
            call()
    assert not hub.requests


def test_no_token_no_repository_no_revision_no_connection(
    run: vaelab.Run, hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with pytest.raises(BadInput, match="no such repository, or none that your token may see; check the name"):
        pull(NAME, tmp_path / "pulled")
    push(run.folder, NAME)
    with pytest.raises(BadInput, match="no such branch, tag or commit"):
        pull(NAME, tmp_path / "pulled", revision="nothing")
    hub.answer = 403
    with pytest.raises(BadInput, match="your token may not do that"):
        push(run.folder, NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BadInput, match=r"the hub cannot be reached .*check the connection"):
        pull(NAME, tmp_path / "pulled")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(BadInput, match=r"needs a token of the hub that may write; hf auth login, or set HF_TOKEN"):
        push(run.folder, NAME)
    assert not list(tmp_path.glob("pulled*"))


def test_a_folder_with_something_in_it_is_left_alone(run: vaelab.Run, hub: StandIn, tmp_path: Path) -> None:
    push(run.folder, NAME)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(BadInput, match="is a folder with something in it"):
        pull(NAME, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter"]
