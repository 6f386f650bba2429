"""A stand-in for the Hugging Face hub on this machine's loopback address.

Speaks as much of its protocol as huggingface_hub and datasets need to fetch: repository info, file
trees, and files with their headers. Repositories are folders; a revision is ``main`` or the commit.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_SUFFIXES = (".safetensors", ".parquet", ".bin")
"""What the hub keeps in LFS, and describes by the hash of its content."""


@dataclass(frozen=True)
class Repository:
    """A folder as a repository; ``token`` is what a gated one asks for."""

    kind: str
    name: str
    folder: Path
    token: str | None = None

    @property
    def files(self) -> dict[str, Path]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}

    @property
    def commit(self) -> str:
        names = "\n".join(f"{name} {etag(path)}" for name, path in self.files.items())
        return hashlib.sha1(f"{self.kind} {self.name}\n{names}".encode()).hexdigest()


def etag(path: Path) -> str:
    """The git hash of a small file, the SHA-256 of a large one."""
    content = path.read_bytes()
    if path.suffix in LARGE_SUFFIXES:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """Serves repositories until its ``with`` block ends.

    Attributes:
        requests: ``METHOD path`` of every request, in order.
        tokens: every bearer token that came with one.
    """

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    def add(self, kind: str, name: str, folder: Path, token: str | None = None) -> Repository:
        """Serve ``folder`` as a ``models`` or ``datasets`` repository."""
        made = self.repositories[kind, name] = Repository(kind, name, folder, token)
        return made

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"served": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Refusal(Exception):  # noqa: N818
    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Requests are kept in ``Hub.requests`` instead."""

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size).decode()
        self.served.requests.append(f"{self.command} {self.path}")
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer":
            self.served.tokens.add(token)
        try:
            self._route(unquote(urlsplit(self.path).path).strip("/"), body, token)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
            self._send(refusal.status, json.dumps({"error": str(refusal)}).encode(), headers)

    def _route(self, path: str, body: str, token: str) -> None:
        if path.startswith("api/"):
            _, kind, *rest = path.split("/")
            repository, action, revision, inner = self._find(kind, rest, token)
            self._send_json(self._api(repository, action, revision, inner, body))
            return
        kind, _, below = (
            path.partition("/") if path.startswith("datasets/") else ("models", "", path)
        )
        repository, action, revision, inner = self._find(kind, below.split("/"), token)
        if action != "resolve":
            raise _Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound", "Not found")
        self._send_file(repository, inner)

    def _find(self, kind: str, parts: list[str], token: str) -> tuple[Repository, str, str, str]:
        """The repository of a path like ``org/name/action/revision/inner``, and its other parts."""
        for length in (2, 1):
            repository = self.served.repositories.get((kind, "/".join(parts[:length])))
            if repository is not None:
                break
        else:
            raise _Refusal(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")
        action, revision, *inner = [*parts[length:], "", ""][: max(2, len(parts) - length)]
        if repository.token is not None and token != repository.token and action == "resolve":
            status = HTTPStatus.FORBIDDEN if token else HTTPStatus.UNAUTHORIZED
            raise _Refusal(status, "GatedRepo", f"Access to {repository.name} is restricted")
        if revision not in ("", "main", repository.commit):
            raise _Refusal(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, action, revision, "/".join(inner)

    def _api(
        self, repository: Repository, action: str, revision: str, inner: str, body: str
    ) -> Any:
        entries = [self._entry(name, path) for name, path in repository.files.items()]
        if action in ("", "revision"):
            return {
                "_id": repository.commit[:24],
                "id": repository.name,
                "sha": repository.commit,
                "private": False,
                "disabled": False,
                "gated": "manual" if repository.token else False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": entry["path"]} for entry in entries],
            }
        if action == "tree":
            below = [
                entry
                for entry in entries
                if f"{entry['path']}/".startswith(f"{inner}/".lstrip("/"))
            ]
            if inner and not below:
                raise _Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound", f"{inner} does not exist")
            return below
        if action == "paths-info":
            asked = json.loads(body) if body.startswith("{") else parse_qs(body)
            paths = asked.get("paths", [])
            return [entry for entry in entries if entry["path"] in paths]
        raise _Refusal(HTTPStatus.NOT_FOUND, "EntryNotFound", f"no {action}")

    @staticmethod
    def _entry(name: str, path: Path) -> dict[str, Any]:
        size = path.stat().st_size
        entry = {"type": "file", "path": name, "size": size, "oid": etag(path)}
        if path.suffix in LARGE_SUFFIXES:
            entry["lfs"] = {"oid": etag(path), "size": size, "pointerSize": 134}
        return entry

    def _send_file(self, repository: Repository, name: str) -> None:
        path = repository.files.get(name)
        commit = {"X-Repo-Commit": repository.commit}
        if path is None:
            headers = {
                **commit,
                "X-Error-Code": "EntryNotFound",
                "X-Error-Message": "Entry not found",
            }
            self._send(HTTPStatus.NOT_FOUND, b"Entry not found", headers)
            return
        content = path.read_bytes()
        tag = f'"{etag(path)}"'
        headers = {**commit, "ETag": tag, "Accept-Ranges": "bytes"}
        if path.suffix in LARGE_SUFFIXES:
            headers |= {"X-Linked-ETag": tag, "X-Linked-Size": str(len(content))}
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if first and self.command == "GET":
            end = int(last) if last else len(content) - 1
            headers["Content-Range"] = f"bytes {first}-{end}/{len(content)}"
            self._send(HTTPStatus.PARTIAL_CONTENT, content[int(first) : end + 1], headers)
            return
        self._send(HTTPStatus.OK, content, headers)

    def _send_json(self, value: Any) -> None:
        self._send(HTTPStatus.OK, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: HTTPStatus, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
