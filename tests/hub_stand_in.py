"""A stand-in for the hub on the loopback: as much of its HTTP interface as its library uses, with files in memory."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"


@dataclass
class Repository:
    """Files by path, and whether only its owner sees it."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False

    @property
    def sha(self) -> str:
        """A commit's name: forty hexadecimal digits that follow from the content."""
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class StandIn:
    """What the server holds, and every request it got."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    garble: str = ""  # a path whose content goes out with a flipped byte
    answer: int = 200  # to every question about a repository, where it is not 200


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    held: StandIn

    def do_GET(self) -> None:
        self._answer(b"")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.held.requests.append(f"{self.command} {path}")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        found = self.held.repositories.get(name)
        if self.held.answer != 200:
            return self._send(b"{}", self.held.answer)
        if found is None:
            return self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        if parts[0] != "api":
            return self._resolve(found, "/".join(parts[4:]))
        kind = parts[4] if len(parts) > 4 else "revision"
        if kind == "revision" and parts[5:] not in ([], ["main"], [found.sha]):
            return self._send(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        {"revision": self._info, "tree": self._tree, "preupload": self._preupload, "commit": self._commit}[kind](
            name, found, body
        )

    def _create(self, asked: dict[str, Any]) -> None:
        hidden = bool(asked.get("private")) or asked.get("visibility") == "private"
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        self.held.repositories[name] = Repository({".gitattributes": b"*"}, hidden)
        self._json({"url": f"{self.held.address}/{name}", "name": name, "id": name})

    def _info(self, name: str, found: Repository, body: bytes) -> None:
        siblings = [{"rfilename": path} for path in found.files]
        self._json({"id": name, "sha": found.sha, "private": found.private, "siblings": siblings})

    def _tree(self, name: str, found: Repository, body: bytes) -> None:
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in found.files.items()
        ]
        self._json([*entries, {"type": "directory", "path": "data", "oid": "0" * 40}])

    def _preupload(self, name: str, found: Repository, body: bytes) -> None:
        asked = json.loads(body)["files"]
        self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]})

    def _commit(self, name: str, found: Repository, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "deletedFile":
                found.files.pop(value["path"], None)
        oid = found.sha
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.held.address}/{name}/commit/{oid}"})

    def _resolve(self, found: Repository, path: str) -> None:
        if path not in found.files:
            return self._send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        data = found.files[path]
        tag = hashlib.sha1(data).hexdigest()
        if path == self.held.garble:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._send(data, 200, {"X-Repo-Commit": found.sha, "ETag": f'"{tag}"'})

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def _send(self, data: bytes, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    """Runs one for as long as the block lasts."""
    held = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"held": held}))
    held.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
