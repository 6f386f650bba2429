"""What the hub is asked, over real HTTP, and what a hub that means no good cannot do."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.checkpoints import LLAMA, llama, write_model, write_safetensors
from tests.helpers.hub import Hub

from aligntune.errors import HubError, ModelError
from aligntune_run.models import hub_client as hub_module
from aligntune_run.models.facts import ModelFacts, read_model
from aligntune_run.models.hub import read_hub_model
from aligntune_run.models.hub_client import Answer, connect, refusal, secret, snapshot

TOKEN = "hf_secret"
NAME = "org/model"


@pytest.fixture
def served() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def model(served: Hub, tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "model")
    served.add("models", NAME, folder)
    return folder


@pytest.fixture
def ask(served: Hub, tmp_path: Path) -> Callable[..., ModelFacts]:
    def asked(name: str = NAME, revision: str | None = None, **environment: str) -> ModelFacts:
        values = {"HF_ENDPOINT": served.endpoint, **environment}
        return read_hub_model(name, revision, tmp_path / "cache", values, None)

    return asked


Ask = Callable[..., ModelFacts]


def cached(cache: Path, folder: Path, revision: str = "main") -> Path:
    """A snapshot as huggingface_hub leaves it, of links to blobs."""
    home = cache / "models--org--model"
    there = home / "snapshots" / ("a" * 40)
    there.mkdir(parents=True)
    for path in folder.iterdir():
        (there / path.name).symlink_to(path)
    (home / "refs" / revision).parent.mkdir(parents=True)
    (home / "refs" / revision).write_text("a" * 40)
    return there


def test_a_hub_model_gives_the_same_facts_as_its_folder(model: Path, ask: Ask) -> None:
    assert ask() == read_model(str(model))


def test_an_index_gives_the_same_facts_without_its_shards(
    served: Hub, tmp_path: Path, ask: Ask
) -> None:
    folder = write_model(tmp_path / "sharded", shards=3)
    served.add("models", NAME, folder)
    assert ask() == read_model(str(folder))
    assert not any("-of-00003" in request for request in served.requests)


@pytest.mark.parametrize("ranges", [True, False])
def test_no_more_than_the_header_of_large_weights_is_read(
    served: Hub, tmp_path: Path, ask: Ask, ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "HUB_SECONDS", 60)  # the stand-in reads the weights, slowly
    tensors = llama() | {"big.weight": ("F32", (4096, 4096))}
    folder = write_model(tmp_path / "large", tensors=tensors)
    served.add("models", NAME, folder)
    served.ranges = ranges
    known = ask()
    assert known == read_model(str(folder))
    if ranges:
        assert served.sent < 200_000


def test_a_long_header_takes_a_second_request(served: Hub, tmp_path: Path, ask: Ask) -> None:
    tensors = llama() | {f"h.{n}.norm.weight": ("F32", (2,)) for n in range(3000)}
    folder = write_model(tmp_path / "long", tensors=tensors)
    served.add("models", NAME, folder)
    assert ask() == read_model(str(folder))
    assert sum("model.safetensors" in request for request in served.requests) == 2


@pytest.mark.parametrize("revision", ["main", "feature/long-context", "commit"])
def test_a_revision_may_be_a_branch_with_slashes_or_a_commit(
    served: Hub, model: Path, ask: Ask, revision: str
) -> None:
    repository = served.add("models", NAME, model, branches=("main", "feature/long-context"))
    wanted = repository.commit if revision == "commit" else revision
    assert ask(revision=wanted).shape is not None


def test_a_cached_model_is_not_requested(
    served: Hub, model: Path, tmp_path: Path, ask: Ask
) -> None:
    there = cached(tmp_path / "cache", model, "feature/x")
    assert ask(revision="feature/x") == read_model(str(model))
    assert ask(revision=there.name) == read_model(str(model))
    assert served.requests == []


def test_a_snapshot_without_weights_is_completed_from_the_hub(
    served: Hub, model: Path, tmp_path: Path, ask: Ask
) -> None:
    (cached(tmp_path / "cache", model) / "model.safetensors").unlink()
    assert ask() == read_model(str(model))
    known = ask(HF_HUB_OFFLINE="1")
    assert (known.shape, known.parameters) == (read_model(str(model)).shape, None)
    assert "HF_HUB_OFFLINE" in known.note
    assert isinstance(known.refused, HubError)
    assert "model org/model is incomplete" in known.refused.what
    assert "has no weights" in known.refused.what


# --- who may


def test_a_gated_model_needs_a_token_that_was_granted(served: Hub, model: Path, ask: Ask) -> None:
    served.add("models", NAME, model, token=TOKEN)
    for environment in ({}, {"HF_TOKEN": "hf_other"}):
        known = ask(**environment)
        assert (known.gated, known.granted) == (True, False)
        assert isinstance(known.refused, HubError)
        assert "model org/model is gated" in known.refused.what
        assert "HF_TOKEN" in known.refused.remedy
    known = ask(HF_TOKEN=f" {TOKEN}\n")
    assert known == replace(read_model(str(model)), gated=True, granted=True)


def test_the_token_in_the_callers_file_opens_it_too(
    served: Hub, model: Path, tmp_path: Path
) -> None:
    served.add("models", NAME, model, token=TOKEN)
    (tmp_path / "token").write_text(TOKEN)
    environment = {"HF_ENDPOINT": served.endpoint}
    known = read_hub_model(NAME, None, tmp_path / "cache", environment, tmp_path / "token")
    assert known.granted is True


def test_the_token_is_sent_to_the_hub_only(served: Hub, model: Path, ask: Ask) -> None:
    served.cdn = True
    served.add("models", NAME, model, token=TOKEN)
    assert ask(HF_TOKEN=TOKEN).parameters == read_model(str(model)).parameters
    assert served.tokens == {TOKEN}
    assert any(request.startswith("GET /cdn/") for request in served.requests)
    assert served.cdn_tokens == set()


def test_an_unreadable_token_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    assert secret({}, tmp_path / "token") == ""
    assert secret({}, tmp_path / "nowhere") == ""
    assert secret({"HF_TOKEN": "  "}, None) == ""
    assert "hf_" not in repr(connect({"HF_TOKEN": TOKEN}, None))


def test_a_token_unknown_to_the_hub_is_reported() -> None:
    said = Answer(401, message="Invalid credentials in Authorization header")
    error = refusal(said, "model a", None)
    assert error is not None
    assert "does not know this token" in error.what


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize(
    ("name", "revision", "says"),
    [
        ("org/nowhere", None, "no such model org/nowhere on the hub"),
        (NAME, "v9", "model org/model has no revision v9"),
    ],
)
def test_what_is_not_on_the_hub_is_refused_before_anything_is_fetched(
    model: Path, ask: Ask, name: str, revision: str | None, says: str, token: str
) -> None:
    known = ask(name, revision, HF_TOKEN=token)
    assert isinstance(known.refused, HubError)
    assert (known.refused.what, known.note) == (says, says)
    assert known.gated is False


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"adapter_config.json": "{}"}, "is an adapter, not a model"),
        ({"README.md": ""}, "there is no config.json"),
        ({"config.json": json.dumps(LLAMA), "model.gguf": ""}, "has no weights"),
    ],
)
def test_a_repository_without_a_model_is_refused(
    served: Hub, tmp_path: Path, ask: Ask, files: dict[str, str], says: str
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    served.add("models", NAME, folder)
    known = ask()
    assert isinstance(known.refused, ModelError)
    assert says in known.refused.what


# --- what is no error


def test_offline_nothing_is_requested_and_uncached_models_are_refused(
    served: Hub, model: Path, ask: Ask
) -> None:
    known = ask(HF_HUB_OFFLINE="true")
    assert served.requests == []
    assert isinstance(known.refused, HubError)
    assert "not in the cache" in known.refused.what


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://nowhere.invalid", ""])
def test_an_unreachable_hub_is_a_note(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "HUB", "http://127.0.0.1:1")
    known = read_hub_model(NAME, None, tmp_path, {"HF_ENDPOINT": endpoint}, None)
    assert known.refused is None
    assert known.note.startswith("the hub was not reached: ")
    assert len(known.note.splitlines()) == 1


@pytest.mark.parametrize(
    "endpoint",
    ["no address", "gopher://x", "http://", "https:///x", "http://[", "http://x:y", "file:///etc"],
)
def test_an_invalid_endpoint_is_named(tmp_path: Path, endpoint: str) -> None:
    known = read_hub_model(NAME, None, tmp_path, {"HF_ENDPOINT": endpoint}, None)
    assert known.note.startswith("the hub was not reached: HF_ENDPOINT is ")
    assert known.refused is None


def test_a_shape_too_large_for_the_weights_is_rejected(
    served: Hub, tmp_path: Path, ask: Ask
) -> None:
    for shards in (1, 2):
        config = LLAMA | {"vocab_size": 2**30}
        folder = write_model(tmp_path / f"{shards}", config, llama(), shards=shards)
        served.add("models", NAME, folder)
        known = ask()
        assert known.shape is None
        assert "config.json and the weights disagree" in known.note


def test_bin_files_on_the_hub_have_an_unknown_size(served: Hub, tmp_path: Path, ask: Ask) -> None:
    folder = write_model(tmp_path / "old")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    served.add("models", NAME, folder)
    known = ask()
    assert known.shape is not None
    assert (known.parameters, known.refused) == (None, None)
    assert "no safetensors" in known.note


# --- what means no good


BAD = {
    "config.json": ["[", "[]", "\x00", "[" * 100_000, "x" * 2**21],
    "model.safetensors": ["", "x" * 100, "\x7f" * 8, "\2\0\0\0\0\0\0\0{}"],
    "model.safetensors.index.json": ["[]", '{"weight_map": {"a": "../x"}}', '{"weight_map": 1}'],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, given in BAD.items() for content in given]
)
def test_a_broken_or_hostile_file_on_the_hub_is_a_note(
    served: Hub, model: Path, ask: Ask, name: str, content: str
) -> None:
    if name.endswith("index.json"):
        (model / "model.safetensors").unlink()
        write_safetensors(model / "x.safetensors")
    (model / name).write_text(content)
    known = ask()
    assert known.note
    assert (known.parameters, known.refused) == (None, None)


class Rogue:
    """Answers every connection in its own way, and goes on with it until the test ends."""

    def __init__(self, behave: Callable[[socket.socket, threading.Event], Any]) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.behave = behave
        self.over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with closing(client):
            try:
                self.behave(client, self.over)
            except OSError:
                return  # the other side has hung up, as it should

    def close(self) -> None:
        self.over.set()
        self.socket.close()


def _silent(client: socket.socket, over: threading.Event) -> None:
    over.wait()


def _slow(client: socket.socket, over: threading.Event) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not over.wait(0.1):
        client.sendall(b" ")


def _slow_headers(client: socket.socket, over: threading.Event) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not over.wait(0.1):
        client.sendall(b"x")


def _endless(client: socket.socket, over: threading.Event) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    while not over.is_set():
        client.sendall(b" " * 2**16)


def _to_itself(client: socket.socket, over: threading.Event) -> None:
    client.recv(2**16)
    client.sendall(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")


def _to_a_file(client: socket.socket, over: threading.Event) -> None:
    client.recv(2**16)
    client.sendall(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n")


def _no_http(client: socket.socket, over: threading.Event) -> None:
    client.sendall(b"SSH-2.0-OpenSSH_9\r\n")


@pytest.mark.parametrize(
    "behave", [_silent, _slow, _endless, _slow_headers, _to_itself, _to_a_file, _no_http]
)
def test_a_hostile_server_is_abandoned_and_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behave: Callable[..., Any]
) -> None:
    monkeypatch.setattr(hub_module, "HUB_SECONDS", 0.5)
    with closing(Rogue(behave)) as rogue:
        known = read_hub_model(NAME, None, tmp_path, {"HF_ENDPOINT": rogue.address}, None)
        assert not rogue.over.is_set(), "it was left while it went on"
    assert (known.model_type, known.refused) == (None, None)
    assert known.note


@pytest.mark.parametrize("text", ["", "..", ".", "x" * 300, "x" * 2**20, "a\0b"])
def test_a_cached_branch_without_a_commit_is_ignored(
    model: Path, tmp_path: Path, text: str
) -> None:
    cached(tmp_path / "cache", model)
    (tmp_path / "cache" / "models--org--model" / "refs" / "main").write_text(text)
    assert snapshot(tmp_path / "cache", NAME, None) is None


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_cached_branch_that_is_a_special_file_is_ignored(
    model: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    cached(tmp_path / "cache", model)
    branch = tmp_path / "cache" / "models--org--model" / "refs" / "main"
    branch.unlink()
    make(branch)
    assert snapshot(tmp_path / "cache", NAME, None) is None


@given(st.text(max_size=30))
def test_no_revision_leads_out_of_the_cache(
    tmp_path_factory: pytest.TempPathFactory, revision: str
) -> None:
    cache = tmp_path_factory.getbasetemp() / "cache"
    outside = cache / "models--org--model" / "outside"
    outside.mkdir(parents=True, exist_ok=True)
    for wanted in (revision, f"../{revision}", "../outside", str(outside)):
        found = snapshot(cache, NAME, wanted)
        assert found is None or found.parent.name == "snapshots"
