"""A stand-in for the Hugging Face hub on this machine's loopback address.

Speaks as much of its protocol as huggingface_hub and datasets need to fetch: repository info, file
trees, and files with their headers; and, without Xet, to upload: a new repository, the way each
file goes, large ones by LFS, and a commit. Repositories are folders; a revision is a branch, by
default ``main`` alone, or the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE_SUFFIXES = (".safetensors", ".parquet", ".bin")
"""What the hub keeps in LFS, and describes by the hash of its content."""

PIECE = 2**16

GATED = ("resolve", "auth-check")
"""What a gated repository gives to those alone who were granted access."""


@dataclass(frozen=True)
class Repository:
    """A folder as a repository; ``token`` is what a gated one asks for."""

    kind: str
    name: str
    folder: Path
    token: str | None = None
    branches: tuple[str, ...] = ("main",)

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
        writer: the token that may upload; without one nobody may.
        home: where new repositories are made.
        private: names of new ones that were asked to be so.
        summaries: the first line of every commit.
        cdn: whether large files are elsewhere, as on the real one: at the same server under its
            other name, ``localhost``.
        cdn_tokens: every bearer token that came there, where none should.
        ranges: whether parts of files can be asked for.
        sent: bytes of content that were taken off it, as far as a server can tell.
    """

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    writer: str | None = None
    home: Path | None = None
    private: set[str] = field(default_factory=set)
    summaries: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    cdn: bool = False
    cdn_tokens: set[str] = field(default_factory=set)
    ranges: bool = True
    sent: int = 0

    def add(
        self,
        kind: str,
        name: str,
        folder: Path,
        token: str | None = None,
        branches: tuple[str, ...] = ("main",),
    ) -> Repository:
        """Serve ``folder`` as a ``models`` or ``datasets`` repository."""
        made = self.repositories[kind, name] = Repository(kind, name, folder, token, branches)
        return made

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"served": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True)
class _Upload:
    """A request that writes: the repository in its address, and its body's JSON lines."""

    name: str
    lines: list[Any]


class _Refusal(Exception):  # noqa: N818
    def __init__(self, status: HTTPStatus, code: str, message: str, **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Requests are kept in ``Hub.requests`` instead."""

    def _answer(self) -> None:
        body = self._body()
        self.served.requests.append(f"{self.command} {self.path}")
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        elsewhere = self.path.startswith("/cdn/")
        if scheme == "Bearer":
            (self.served.cdn_tokens if elsewhere else self.served.tokens).add(token)
        try:
            parts = urlsplit(self.path).path.strip("/").split("/")
            path = "/".join(map(unquote, parts))
            if elsewhere:
                kind, name, inner = map(unquote, parts[1:])
                self._send_content(self.served.repositories[kind, name].folder / inner, {})
            elif not self._upload(path, body, token):
                self._route(parts, body.decode(), token)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
            self._send(
                refusal.status,
                json.dumps({"error": str(refusal), **refusal.more}).encode(),
                headers,
            )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _upload(self, path: str, body: bytes, token: str) -> bool:
        """Answer a request that writes; whether this is one."""
        steps: tuple[tuple[str, Callable[[_Upload], Any]], ...] = (
            (r"api/repos/create", self._create),
            (r"api/validate-yaml", lambda _: {"errors": [], "warnings": []}),
            (r"api/models/(.+)/preupload/main", self._ways),
            (r"(.+)\.git/info/lfs/objects/batch", self._lfs),
            (r"lfs/([0-9a-f]{64})", lambda _: self._keep(path, body)),
            (r"api/models/(.+)/commit/main", self._commit),
        )
        for pattern, step in steps:
            found = re.fullmatch(pattern, path)
            if found is None or self.command not in ("POST", "PUT"):
                continue
            if self.command == "POST" and (not token or token != self.served.writer):
                status = HTTPStatus.FORBIDDEN if token else HTTPStatus.UNAUTHORIZED
                raise _Refusal(status, "", "You may not write here")
            name = found[1] if found.groups() else ""
            lines = [json.loads(line) for line in body.splitlines()] if body[:1] == b"{" else []
            self._send_json(step(_Upload(name, lines)))
            return True
        return False

    def _create(self, asked: _Upload) -> Any:
        wanted = asked.lines[0]
        name = "/".join(filter(None, (wanted["organization"] or "somebody", wanted["name"])))
        if ("models", name) in self.served.repositories:
            there, address = "You already created this model repo", f"{self.served.endpoint}/{name}"
            raise _Refusal(HTTPStatus.CONFLICT, "", there, url=address)
        assert self.served.home is not None
        folder = self.served.home / name
        folder.mkdir(parents=True)
        self.served.add("models", name, folder)
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.served.private.add(name)
        return {"url": f"{self.served.endpoint}/{name}", "name": name}

    def _ways(self, asked: _Upload) -> Any:
        files = [file["path"] for file in asked.lines[0]["files"]]
        ways = {path: "lfs" if path.endswith(LARGE_SUFFIXES) else "regular" for path in files}
        return {
            "files": [
                {"path": path, "uploadMode": way, "shouldIgnore": False}
                for path, way in ways.items()
            ]
        }

    def _lfs(self, asked: _Upload) -> Any:
        return {
            "transfer": "basic",
            "objects": [
                {**one, "actions": {"upload": {"href": f"{self.served.endpoint}/lfs/{one['oid']}"}}}
                for one in asked.lines[0]["objects"]
            ],
        }

    def _keep(self, path: str, body: bytes) -> Any:
        assert path.endswith(hashlib.sha256(body).hexdigest())
        self.served.blobs[path.removeprefix("lfs/")] = body
        return {}

    def _commit(self, asked: _Upload) -> Any:
        repository = self.served.repositories["models", asked.name]
        for line in asked.lines:
            value = line["value"]
            if line["key"] == "header":
                self.served.summaries.append(value["summary"])
                continue
            path = repository.folder / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            large = line["key"] == "lfsFile"
            content = value if large else base64.b64decode(value["content"])
            path.write_bytes(self.served.blobs[value["oid"]] if large else content)
        commit = repository.commit
        address = f"{self.served.endpoint}/{asked.name}/commit/{commit}"
        return {"success": True, "commitOid": commit, "commitUrl": address, "hookOutput": ""}

    def _route(self, parts: list[str], body: str, token: str) -> None:
        parts = list(map(unquote, parts))  # a branch may have slashes in its one part
        if parts[0] == "api":
            repository, action, revision, inner = self._find(parts[1], parts[2:], token)
            self._send_json(self._api(repository, action, revision, inner, body))
            return
        kind, below = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
        repository, action, revision, inner = self._find(kind, below, token)
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
            # To whom is not logged in the hub does not tell a private one from one that is not.
            status = HTTPStatus.NOT_FOUND if token else HTTPStatus.UNAUTHORIZED
            raise _Refusal(status, "RepoNotFound", "Repository not found")
        action, revision, *inner = [*parts[length:], "", ""][: max(2, len(parts) - length)]
        if repository.token is not None and token != repository.token and action in GATED:
            status = HTTPStatus.FORBIDDEN if token else HTTPStatus.UNAUTHORIZED
            raise _Refusal(status, "GatedRepo", f"Access to {repository.name} is restricted")
        if revision not in ("", *repository.branches, repository.commit):
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
        if action == "auth-check":
            return {}
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
        tag = f'"{etag(path)}"'
        headers = {**commit, "ETag": tag}
        if path.suffix in LARGE_SUFFIXES:
            headers |= {"X-Linked-ETag": tag, "X-Linked-Size": str(path.stat().st_size)}
            if self.served.cdn:
                port = urlsplit(self.served.endpoint).port
                place = "/".join(
                    quote(part, safe="") for part in (repository.kind, repository.name, name)
                )
                headers["Location"] = f"http://localhost:{port}/cdn/{place}"
                self._send(HTTPStatus.FOUND, b"", headers)
                return
        self._send_content(path, headers)

    def _send_content(self, path: Path, headers: dict[str, str]) -> None:
        content = path.read_bytes()
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if first and self.command == "GET" and self.served.ranges:
            end = min(int(last) if last else len(content), len(content) - 1)
            headers |= {"Content-Range": f"bytes {first}-{end}/{len(content)}"}
            self._send(HTTPStatus.PARTIAL_CONTENT, content[int(first) : end + 1], headers)
            return
        self._send(HTTPStatus.OK, content, headers | {"Accept-Ranges": "bytes"})

    def _send_json(self, value: Any) -> None:
        self._send(HTTPStatus.OK, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: HTTPStatus, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for begin in range(0, len(content), PIECE):
                self.wfile.write(content[begin : begin + PIECE])
                self.served.sent += len(content[begin : begin + PIECE])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has seen enough
