"""A few small requests to the model hub, all within three seconds.

The protocol is https://huggingface.co/docs/hub/api, as huggingface_hub uses it: the code of a
refusal is in the header ``X-Error-Code``, and large files are behind a redirect.
"""

from __future__ import annotations

import http.client
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from aligntune.errors import HubError, shown
from aligntune.hub_errors import hub_refusal

HUB = "https://huggingface.co"
HUB_SECONDS = 3.0
CHUNK = 2**16
COMMIT_BYTES = 256
"""More than a branch's file in the cache, which holds a commit hash."""

T = TypeVar("T")

CODES = {
    "GatedRepo": "GatedRepoError",
    "RepoNotFound": "RepositoryNotFoundError",
    "RevisionNotFound": "RevisionNotFoundError",
}
"""The hub's code -> the name in huggingface_hub."""

BAD_TOKEN = "Invalid credentials in Authorization header"


@dataclass(frozen=True)
class Answer:
    """An answer of the hub.

    Attributes:
        status: the HTTP status.
        code: the hub's code for a refusal; empty if it did not refuse.
        body: the first bytes, at most as many as requested.
        size: the size of the whole file in bytes, if the server sends it.
        message: the hub's message for the code.
    """

    status: int
    code: str = ""
    body: bytes = b""
    size: int | None = None
    message: str = ""

    @property
    def good(self) -> bool:
        return self.status in (200, 206)


@dataclass(frozen=True)
class Hub:
    """The hub's address and token; no request starts after ``deadline`` (monotonic)."""

    endpoint: str
    token: str = field(default="", repr=False)
    deadline: float = field(default_factory=lambda: time.monotonic() + HUB_SECONDS)

    def info(self, kind: str, name: str, revision: str, limit: int) -> Answer:
        """A repository's metadata, which is public even if its files are gated."""
        return self._get(f"/api/{kind}s/{quote(name)}/revision/{quote(revision, safe='')}", limit)

    def access(self, kind: str, name: str) -> Answer:
        """Whether the caller can read a repository's files."""
        return self._get(f"/api/{kind}s/{quote(name)}/auth-check", CHUNK)

    def file(
        self, name: str, revision: str, path: str, limit: int, *, part: bool = False
    ) -> Answer:
        """The first ``limit`` bytes of a model's file; ``part`` requests only these."""
        address = f"/{quote(name)}/resolve/{quote(revision, safe='')}/{quote(path)}"
        return self._get(address, limit, {"Range": f"bytes=0-{limit - 1}"} if part else {})

    def _get(self, path: str, limit: int, headers: Mapping[str, str] | None = None) -> Answer:
        if not _is_address(self.endpoint):
            raise OSError(
                f"HF_ENDPOINT is '{shown(self.endpoint)}', which is not an http(s) address"
            )
        request = Request(self.endpoint + path, headers=dict(headers or {}))
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        left = max(0.001, self.deadline - time.monotonic())
        try:
            with build_opener(_Redirects).open(request, timeout=left) as answer:
                return Answer(
                    answer.status,
                    body=self._read(answer, limit),
                    size=_size(answer.status, answer.headers),
                )
        except HTTPError as error:
            with error:
                code = error.headers.get("X-Error-Code") or ""
                return Answer(error.code, code, message=error.headers.get("X-Error-Message") or "")
        except http.client.HTTPException as error:
            raise OSError(f"it does not speak HTTP ({type(error).__name__})") from error

    def _read(self, answer: Any, limit: int) -> bytes:
        """At most ``limit`` bytes, however many the server sends and however slowly."""
        found = b""
        while len(found) < limit:
            if time.monotonic() > self.deadline:
                raise TimeoutError("timed out")
            more = answer.read1(min(CHUNK, limit - len(found)))
            if not more:
                break
            found += more
        return found


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to other hosts without the token, which urllib would send to them."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            return None
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and _origin(newurl) != _origin(req.full_url):
            request.remove_header("Authorization")
        return request


def _is_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        return False


def _origin(url: str) -> tuple[str, str]:
    return urlsplit(url).scheme, urlsplit(url).netloc


def _size(status: int, headers: Any) -> int | None:
    header = headers.get("Content-Range") if status == 206 else headers.get("Content-Length")
    found = re.search(r"(\d{1,18})$", header or "")
    return int(found[1]) if found else None


def connect(environment: Mapping[str, str], token: Path | None) -> Hub | None:
    """The caller's hub; None if it must not be contacted (``HF_HUB_OFFLINE``).

    Args:
        environment: for HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN.
        token: the file with the hub token, if any.
    """
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    return Hub((environment.get("HF_ENDPOINT") or HUB).rstrip("/"), secret(environment, token))


def secret(environment: Mapping[str, str], token: Path | None) -> str:
    """The caller's token, from the environment or the file; empty if there is none."""
    if named := environment.get("HF_TOKEN", "").strip():
        return named
    try:
        return token.read_text(encoding="utf-8").strip() if token else ""
    except (OSError, UnicodeDecodeError):
        return ""


def refusal(answer: Answer, what: str, revision: str | None) -> HubError | None:
    """The error that fetching would end with; None if the hub did not refuse, or in doubt."""
    if answer.status == 401 and BAD_TOKEN in answer.message:
        return HubError(
            f"{what}: the hub does not know this token",
            "Log in again with `hf auth login`, or fix HF_TOKEN",
        )
    return hub_refusal(CODES.get(answer.code, ""), what, revision)


def together(jobs: Mapping[str, Callable[[], T]], deadline: float) -> dict[str, T | OSError]:
    """Run several jobs at once; a job not done by ``deadline`` (monotonic) timed out.

    Args:
        jobs: by name; if one raises OSError or ValueError, its result is an OSError.
        deadline: when to stop waiting, because a thread can hang longer in the resolver.
    """
    done: dict[str, T | OSError] = {}

    def work(name: str, job: Callable[[], T]) -> None:
        try:
            done[name] = job()
        except OSError as error:
            done[name] = error
        except ValueError as error:  # an invalid address
            done[name] = OSError(str(error))

    threads = [
        threading.Thread(target=work, args=one, name=f"hub {one[0]}", daemon=True)
        for one in jobs.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {name: done.get(name, TimeoutError("timed out")) for name in jobs}


def reason(error: OSError) -> str:
    """Why the hub was not reached, in one line."""
    inner = getattr(error, "reason", None) or error.strerror or error
    return str(inner).splitlines()[0] if str(inner) else type(error).__name__


def snapshot(cache: Path, name: str, revision: str | None, kind: str = "model") -> Path | None:
    """A repository's folder in the hub's cache, if that revision was fetched."""
    wanted = revision or "main"
    if ".." in Path(wanted).parts or Path(wanted).is_absolute():
        return None
    folder = cache / f"{kind}s--{name.replace('/', '--')}"
    branch, commit = folder / "refs" / wanted, wanted
    if os.path.exists(branch):
        try:
            if not os.path.isfile(branch) or os.path.getsize(branch) > COMMIT_BYTES:
                return None
            commit = branch.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    commit = os.path.basename(commit)
    found = folder / "snapshots" / commit
    return found if commit not in ("", ".", "..") and os.path.isdir(found) else None
