"""Engines, the parts that are data in and data out: no engine and no network is needed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
from docker.errors import APIError
from tests.helpers.hosts import GPU, make_host

from aligntune import contract
from aligntune.errors import AligntuneError, EngineError, HardwareError, ImageError, OutputError
from aligntune.spec.run_spec import RunSpec
from aligntune_run.engines.base import Command, Exit
from aligntune_run.engines.docker.arguments import (
    SECRET_VARIABLES,
    Surroundings,
    container_arguments,
    look,
)
from aligntune_run.engines.docker.engine import refusal
from aligntune_run.engines.docker.environment import for_sdk
from aligntune_run.engines.docker.mounts import Bind, input_mounts
from aligntune_run.engines.docker.worker import ContainerWorker
from aligntune_run.engines.gpu_leases import Lease
from aligntune_run.engines.local import venv
from aligntune_run.engines.local import worker as local_worker
from aligntune_run.engines.local.engine import ProcessEngine
from aligntune_run.engines.local.venv import find_python, without
from aligntune_run.engines.local.worker import ProcessWorker
from aligntune_run.host.docker_client import connect
from aligntune_run.host.types import Engine, Host
from aligntune_run.images.code import code_folder
from aligntune_run.images.recipes import Sources, recipe
from aligntune_run.plan import Choice, Image, Phase, Plan, hub_ids

TOKEN = "hf_thisIsNobodysToken"
Edited: TypeAlias = Callable[[str, str], ProcessEngine]


def make_plan(model: str = "/m", dataset: str = "/d.jsonl", gpus: tuple[str, ...] = ()) -> Plan:
    spec = RunSpec.model_validate(
        {"algorithm": "sft", "model": {"name": model}, "dataset": {"name": dataset}}
    )
    image = Image("aligntune-trl:cpu-abc", "sha256:abc", "present", "f00")
    choice = Choice("trl", "cpu", "docker", image, "f00", gpus, "TRL", (), ())
    return Plan("20261123-sft-m-1a2b3c", "/runs/r", spec, {}, choice, 2**33, hub_ids(spec))


def arguments(
    plan: Plan, host: Host, phase: Phase = "train", around: Surroundings | None = None
) -> dict[str, Any]:
    return container_arguments(plan, host, phase, around or Surroundings())


def targets(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["target"]: mount for mount in given["mounts"]}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path)


class TestContainerArguments:
    def test_they_are_json_and_the_same_every_time(self, host: Host) -> None:
        given = arguments(make_plan(), host)
        assert json.loads(json.dumps(given)) == given == arguments(make_plan(), host)

    def test_a_container_is_confined(self, host: Host) -> None:
        given = arguments(make_plan(), host)
        assert given["user"] == "1234:2345"
        assert given["read_only"] is True
        assert given["cap_drop"] == ["ALL"]
        assert given["security_opt"] == ["no-new-privileges"]
        assert given["init"] is True
        assert for_sdk(given)["log_config"]["type"] == "json-file"
        assert given["mem_limit"] == given["memswap_limit"] == 2**33
        assert given["pids_limit"] > 0
        assert given["shm_size"] > 64 * 2**20
        assert {"exec", "mode=1777"} <= set(given["tmpfs"]["/tmp"].split(","))

    def test_the_image_is_run_by_digest_and_by_name_only_before_it_has_one(
        self, host: Host
    ) -> None:
        plan = make_plan()
        assert arguments(plan, host)["image"] == "sha256:abc"
        image = Image("aligntune-trl:cpu-abc", None, "build", "f00")
        plan = replace(plan, choice=replace(plan.choice, image=image))
        assert arguments(plan, host)["image"] == "aligntune-trl:cpu-abc"

    def test_on_a_rootless_engine_container_root_is_the_caller(self, tmp_path: Path) -> None:
        rootless = make_host(tmp_path, engine=Engine(True, rootless=True))
        given = arguments(make_plan(), rootless, around=Surroundings(groups=(27,)))
        assert given["user"] == "0:0"
        assert given["group_add"] == []

    def test_the_callers_further_groups_are_kept(self, host: Host) -> None:
        given = arguments(make_plan(), host, around=Surroundings(groups=(27, 1000)))
        assert given["group_add"] == ["27", "1000"]

    def test_labels_and_name_say_which_run_it_is(self, host: Host) -> None:
        given = arguments(make_plan(), host)
        assert given["name"] == "aligntune-20261123-sft-m-1a2b3c-train-1"
        assert given["labels"] == {
            contract.LABEL_RUN_ID: "20261123-sft-m-1a2b3c",
            contract.LABEL_RUN_DIR: "/runs/r",
            contract.LABEL_PHASE: "train",
        }

    def test_gpus_are_named_by_uuid_and_may_not_go_missing(self, host: Host) -> None:
        given = arguments(make_plan(gpus=(GPU,)), host)
        assert given["device_requests"] == [
            {"device_ids": [GPU], "capabilities": [["gpu", "compute", "utility"]]}
        ]
        assert given["labels"][contract.LABEL_GPUS] == GPU
        assert given["environment"]["UNSLOTH_DISABLE_CPU_FALLBACK"] == "1"
        assert "CUDA_VISIBLE_DEVICES" not in given["environment"]

    def test_a_run_on_the_cpu_sees_no_gpu(self, host: Host) -> None:
        given = arguments(make_plan(), host)
        assert given["device_requests"] == []
        assert given["environment"]["CUDA_VISIBLE_DEVICES"] == ""
        assert "UNSLOTH_DISABLE_CPU_FALLBACK" not in given["environment"]

    def test_training_has_no_network_and_knows_it(self, host: Host) -> None:
        given = arguments(make_plan("org/model", "org/data"), host)
        assert given["network_mode"] == "none"
        offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
        assert [given["environment"][name] for name in offline] == ["1", "1", "1"]

    def test_fetching_has_the_network_but_none_of_the_users_files_and_no_gpu(
        self, host: Host
    ) -> None:
        around = Surroundings(inputs=(Bind("/d.jsonl", "/in/d.jsonl"),))
        given = arguments(make_plan("org/model", gpus=(GPU,)), host, "fetch", around)
        assert given["network_mode"] == "bridge"
        assert given["command"][-1] == "--fetch"
        assert not [target for target in targets(given) if target.startswith("/in")]
        assert given["device_requests"] == []
        assert contract.LABEL_GPUS not in given["labels"]
        assert "HF_HUB_OFFLINE" not in given["environment"]

    @pytest.mark.parametrize(
        ("name", "value", "network"),
        [
            ("HF_ENDPOINT", "http://localhost:8080", "host"),
            ("https_proxy", "127.0.0.1:3128", "host"),
            ("HTTP_PROXY", "http://[::1]:3128", "host"),
            ("HF_ENDPOINT", "https://mirror.example.org", "bridge"),
            ("HTTPS_PROXY", "http://proxy.example.org:3128", "bridge"),
            ("NO_PROXY", "localhost,127.0.0.1", "bridge"),
        ],
    )
    def test_fetching_shares_the_hosts_network_only_for_what_is_on_its_loopback(
        self, tmp_path: Path, name: str, value: str, network: str
    ) -> None:
        host = make_host(tmp_path, environment={name: value})
        given = arguments(make_plan("org/model"), host, "fetch")
        assert given["network_mode"] == network
        assert given["environment"][name] == value

    def test_the_run_directory_and_caches_are_all_that_is_writable(self, host: Host) -> None:
        around = Surroundings(inputs=(Bind("/m", "/in/m"),))
        given = arguments(make_plan("/m", "org/data"), host, around=around)
        writable = [mount["target"] for mount in given["mounts"] if not mount["read_only"]]
        assert writable == ["/run-dir", "/cache", "/cache/huggingface/datasets"]

    def test_a_local_run_sees_none_of_the_hubs_caches(self, host: Host) -> None:
        assert list(targets(arguments(make_plan(), host))) == ["/run-dir", "/cache"]

    def test_the_hub_cache_can_be_written_while_fetching_only(self, host: Host) -> None:
        plan = make_plan("org/model")
        fetching, training = (arguments(plan, host, phase) for phase in ("fetch", "train"))
        assert targets(fetching)[contract.HUB_CACHE]["read_only"] is False
        assert targets(training)[contract.HUB_CACHE]["read_only"] is True
        assert contract.DATASETS_CACHE not in targets(fetching)

    def test_the_folder_that_holds_the_hub_token_is_never_mounted(self, host: Host) -> None:
        for phase in ("fetch", "train"):
            given = arguments(make_plan("org/model", "org/data"), host, phase)
            sources = {mount["source"] for mount in given["mounts"]}
            assert str(host.hub_cache.parent) not in sources

    def test_every_phase_runs_the_launchers_code_which_it_cannot_change(self, host: Host) -> None:
        plan = make_plan("org/model")
        code = look(plan, host, {}).code
        now = recipe("trl", "cpu").code_hash
        assert code == str(code_folder("trl", now, host.cache))
        for phase in plan.phases:
            mount = targets(arguments(plan, host, phase, Surroundings(code=code)))[
                contract.CODE_DIR
            ]
            assert (mount["source"], mount["read_only"]) == (code, True)

    def test_a_plan_keeps_its_code_while_it_waits_and_the_clone_is_edited(self, host: Host) -> None:
        plan = make_plan()
        image = Image("aligntune-trl:cpu-abc", "sha256:abc", "present", "f00", "0" * 64)
        plan = replace(plan, choice=replace(plan.choice, image=image))
        assert look(plan, host, {}).code == str(code_folder("trl", "0" * 64, host.cache))

    def test_the_users_own_image_runs_its_own_code(self, host: Host) -> None:
        plan = make_plan()
        plan = replace(plan, spec=plan.spec.model_copy(update={"image": "mine:1"}))
        around = look(plan, host, {})
        assert around.code is None
        assert contract.CODE_DIR not in targets(arguments(plan, host, around=around))

    def test_a_company_proxys_ca_bundle_is_given_to_fetching(self, host: Host) -> None:
        around = Surroundings(ca_bundle="/etc/ssl/company.pem")
        given = arguments(make_plan("org/model"), host, "fetch", around)
        place = given["environment"]["SSL_CERT_FILE"]
        assert targets(given)[place]["source"] == "/etc/ssl/company.pem"
        assert given["environment"]["REQUESTS_CA_BUNDLE"] == place


class TestSecrets:
    def test_a_token_file_is_mounted_for_fetching_only(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text(TOKEN)
        host = make_host(tmp_path, token=file)
        plan = make_plan("org/model")
        around = look(plan, host, {})
        fetching = arguments(plan, host, "fetch", around)
        assert targets(fetching)[contract.TOKEN_PATH]["source"] == str(file)
        assert targets(fetching)[contract.TOKEN_PATH]["read_only"] is True
        assert fetching["environment"]["HF_TOKEN_PATH"] == contract.TOKEN_PATH
        assert contract.TOKEN_PATH not in targets(arguments(plan, host, "train", around))

    def test_no_secret_is_in_any_argument(self, tmp_path: Path) -> None:
        environment = {"HF_TOKEN": TOKEN, "XDG_RUNTIME_DIR": str(tmp_path)}
        proxy = "http://me:letmein@proxy.example.org:3128"
        host = make_host(tmp_path, environment={"https_proxy": proxy, "no_proxy": "localhost"})
        plan = make_plan("org/model")
        around = look(plan, host, environment)
        for phase in ("fetch", "train"):
            told = json.dumps(arguments(plan, host, phase, around))
            assert TOKEN not in told
            assert "letmein" not in told

    def test_what_holds_a_password_is_read_from_a_file_by_the_container(
        self, tmp_path: Path
    ) -> None:
        host = make_host(tmp_path, environment={"https_proxy": "http://me:letmein@proxy:1"})
        plan = make_plan("org/model")
        given = arguments(plan, host, "fetch", look(plan, host, {}))
        assert SECRET_VARIABLES in targets(given)
        assert any(SECRET_VARIABLES in word for word in given["command"])

    def test_looking_writes_nothing(self, tmp_path: Path) -> None:
        look(make_plan("org/model"), make_host(tmp_path), {"HF_TOKEN": TOKEN})
        assert list(tmp_path.iterdir()) == []


class TestInputs:
    def test_a_path_is_mounted_below_in(self, tmp_path: Path) -> None:
        (tmp_path / "d.jsonl").touch()
        assert input_mounts([f"{tmp_path}/d.jsonl"]) == (
            Bind(f"{tmp_path}/d.jsonl", f"/in{tmp_path}/d.jsonl"),
        )

    def test_a_snapshot_of_a_hugging_face_cache_gets_its_blobs(self, tmp_path: Path) -> None:
        repository = tmp_path / "models--org--m"
        snapshot = repository / "snapshots" / "0123abc"
        (repository / "blobs").mkdir(parents=True)
        (snapshot / "sub").mkdir(parents=True)
        for name, link in (("aa", "config.json"), ("bb", "model.safetensors"), ("cc", "sub/x")):
            (repository / "blobs" / name).touch()
            up = "../" * (2 + link.count("/"))
            (snapshot / link).symlink_to(f"{up}blobs/{name}")
        assert input_mounts([str(snapshot)]) == (
            Bind(f"{repository}/blobs", f"/in{repository}/blobs"),
            Bind(str(snapshot), f"/in{snapshot}"),
        )

    def test_blobs_that_are_links_themselves_are_followed_to_their_end(
        self, tmp_path: Path
    ) -> None:
        snapshot, blobs, disk = (tmp_path / name for name in ("s/snapshots/1", "s/blobs", "disk"))
        for folder in (snapshot, blobs, disk):
            folder.mkdir(parents=True)
        (disk / "weights").touch()
        (blobs / "bb").symlink_to("../../disk/weights")
        (snapshot / "w").symlink_to("../../blobs/bb")
        assert Bind(f"{disk}/weights", f"/in{disk}/weights") in input_mounts([str(snapshot)])

    def test_of_another_folder_only_the_file_is_mounted(self, tmp_path: Path) -> None:
        model = tmp_path / "model"
        model.mkdir()
        (tmp_path / "id_rsa").touch()
        (tmp_path / "w.safetensors").touch()
        (model / "w.safetensors").symlink_to("../w.safetensors")
        assert input_mounts([str(model)]) == (
            Bind(str(model), f"/in{model}"),
            Bind(f"{tmp_path}/w.safetensors", f"/in{tmp_path}/w.safetensors"),
        )

    def test_an_absolute_link_finds_its_target_at_the_same_path(self, tmp_path: Path) -> None:
        model, store = tmp_path / "model", tmp_path / "store"
        model.mkdir()
        store.mkdir()
        (store / "w").touch()
        (model / "w").symlink_to(store / "w")
        assert Bind(f"{store}/w", f"{store}/w") in input_mounts([str(model)])

    def test_a_linked_folder_is_mounted_with_what_its_own_links_lead_to(
        self, tmp_path: Path
    ) -> None:
        data, part, deep = (tmp_path / name for name in ("data", "part", "deep"))
        for folder in (data, part, deep):
            folder.mkdir()
        (deep / "rows.jsonl").touch()
        (part / "rows.jsonl").symlink_to("../deep/rows.jsonl")
        (data / "part").symlink_to("../part")
        sources = {bind.source for bind in input_mounts([str(data)])}
        assert sources == {str(data), str(part), f"{deep}/rows.jsonl"}

    def test_a_path_that_is_a_link_is_mounted_as_what_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "latest").symlink_to("real")
        assert input_mounts([f"{tmp_path}/latest"]) == (
            Bind(f"{tmp_path}/real", f"/in{tmp_path}/latest"),
        )

    def test_links_that_stay_inside_lead_nowhere_or_go_in_circles_add_nothing(
        self, tmp_path: Path
    ) -> None:
        model = tmp_path / "model"
        model.mkdir()
        (model / "a").touch()
        (model / "b").symlink_to("a")
        (model / "c").symlink_to("b")
        (model / "gone").symlink_to("../nothing")
        (model / "self").symlink_to("self")
        (model / "up").symlink_to("..")
        assert input_mounts([str(model)]) == (Bind(str(model), f"/in{model}"),)

    def test_what_is_inside_another_input_is_mounted_once(self, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").touch()
        assert input_mounts([f"{tmp_path}/rows.jsonl", str(tmp_path)]) == (
            Bind(str(tmp_path), f"/in{tmp_path}"),
        )

    @pytest.mark.parametrize("place", ["/etc/passwd", "/proc/self/environ", "/usr"])
    def test_a_link_to_what_a_container_has_of_its_own_is_refused(
        self, tmp_path: Path, place: str
    ) -> None:
        (tmp_path / "config.json").symlink_to(place)
        with pytest.raises(EngineError, match=r"config\.json is a link to"):
            input_mounts([str(tmp_path)])


class Listener:
    """A socket that answers every request with the same bytes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(self._answer)

    def close(self) -> None:
        self._thread.join()
        self._socket.close()


class TestConnect:
    @pytest.mark.parametrize(
        "address", ["ssh://me@far", "tcp://192.0.2.1:2376", "npipe:////./pipe/x"]
    )
    def test_an_engine_on_another_machine_is_refused_with_the_reason(self, address: str) -> None:
        client, reason = connect({"DOCKER_HOST": address})
        assert client is None
        assert "another machine" in reason
        assert "me@" not in reason

    def test_the_current_context_is_looked_at(self, tmp_path: Path) -> None:
        digest = hashlib.sha256(b"far").hexdigest()
        folder = tmp_path / "contexts" / "meta" / digest
        folder.mkdir(parents=True)
        (tmp_path / "config.json").write_text('{"currentContext": "far"}')
        (folder / "meta.json").write_text('{"Endpoints": {"docker": {"Host": "ssh://far"}}}')
        client, reason = connect({"DOCKER_CONFIG": str(tmp_path)})
        assert client is None
        assert "context 'far' is an engine on another machine" in reason

    def test_what_is_named_is_not_replaced_by_what_is_usual(self, tmp_path: Path) -> None:
        client, reason = connect({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
        assert client is None
        assert f"there is no {tmp_path}/none.sock" in reason

    def test_a_socket_that_nothing_listens_at_is_a_stopped_engine(self, tmp_path: Path) -> None:
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(f"{tmp_path}/dead.sock")
        dead.close()
        client, reason = connect({"DOCKER_HOST": f"unix://{tmp_path}/dead.sock"})
        assert client is None
        assert "has stopped" in reason

    def test_something_else_that_listens_is_no_engine(self, tmp_path: Path) -> None:
        listener = Listener(tmp_path / "s", b"HTTP/1.0 404 Not Found\r\n\r\n")
        client, reason = connect({"DOCKER_HOST": f"unix://{tmp_path}/s"})
        listener.close()
        assert client is None
        assert "404" in reason

    def test_an_engine_that_answers_is_connected_to(self, tmp_path: Path) -> None:
        listener = Listener(tmp_path / "s", b"HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\n\r\nOK")
        client, reason = connect({"DOCKER_HOST": f"unix://{tmp_path}/s"})
        listener.close()
        assert client is not None
        assert client.api.api_version == "1.41"
        assert reason == ""
        client.close()


@pytest.mark.parametrize(
    ("message", "kind", "says"),
    [
        (
            'Bad Request ("invalid mount config for type "bind": bind source path does not exist: '
            '/data/x y")',
            EngineError,
            "does not see /data/x y",
        ),
        ('could not select device driver "" with capabilities: [[gpu]]', HardwareError, "GPU"),
        ("404 Client Error: Not Found (No such image: sha256:abc)", ImageError, "sha256:abc"),
        (
            'The container name "/n" is already in use by container "f"',
            EngineError,
            "already exists",
        ),
        ("write /var/lib/x: no space left on device", EngineError, "disk is full"),
        ("something quite new", EngineError, "something quite new"),
    ],
)
def test_an_engines_refusal_is_told_in_the_users_words(
    message: str, kind: type[AligntuneError], says: str
) -> None:
    error = refusal(message, {"image": "sha256:abc", "name": "n"})
    assert type(error) is kind
    assert says in str(error)


class FakeContainer:
    """A container that ends when it is killed, or at once."""

    def __init__(self, code: int, running: bool) -> None:
        self.id, self.name, self.code = "c", "c", code
        self.gone = threading.Event()
        if not running:
            self.gone.set()

    def kill(self, signal: str) -> None:
        if self.gone.is_set():
            raise APIError("container c is not running")
        if signal == "SIGKILL":
            self.gone.set()

    def logs(self, tail: int) -> bytes:
        raise APIError("configured logging driver does not support reading")

    def remove(self, force: bool, v: bool) -> None:
        pass

    def worker(self) -> ContainerWorker:
        state = {"Running": False, "ExitCode": self.code, "OOMKilled": False}
        api: Any = SimpleNamespace(
            wait=lambda *_, timeout: self.gone.wait(30),
            inspect_container=lambda *_: {"State": state},
        )
        container: Any = self
        return ContainerWorker(api, container, Lease())


class TestContainerWorker:
    def test_a_log_that_cannot_be_read_takes_nothing_from_success(self) -> None:
        assert FakeContainer(0, running=False).worker().wait(30) == Exit(0, False, "")

    def test_a_worker_that_we_kill_is_told_from_one_that_is_killed(self) -> None:
        worker = FakeContainer(137, running=True).worker()
        worker.stop()
        worker.kill()
        assert worker.wait(30) == Exit(137, False, "", killed=True)
        worker = FakeContainer(137, running=False).worker()
        worker.kill()
        assert worker.wait(30) == Exit(137, False, "")


COUNTS = "counts = iter([1, 2]); s.oom_kills = lambda: next(counts); "
"""The kernel counts one more kill for lack of memory."""

WORKER = (
    "import json, os, signal, sys, time, onlywheel\n"
    "def stopped(*_):\n"
    "    print('checkpoint', flush=True)\n"
    "    sys.exit(75)\n"
    "signal.signal(signal.SIGTERM, stopped)\n"
    # Last, as tests stop it once they see the file: a signal while it prints would be an error.
    "print('here', flush=True)\n"
    "json.dump([sys.argv[1:], dict(os.environ), sys.path], open('seen.json', 'w'))\n"
    "while os.path.exists('wait'):\n"
    "    time.sleep(0.01)\n"
    "sys.exit(int(os.path.exists('fail')) * 4)\n"
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, the wheel that its lock names, and one cache for all the tests."""
    shop = tmp_path_factory.mktemp("shop")
    (shop / "wheels").mkdir()
    wheel = shop / "wheels" / "onlywheel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "onlywheel-1.0.dist-info"
        said = {"Metadata-Version": "2.1", "Name": "onlywheel", "Version": "1.0"}
        tags = {"Wheel-Version": "1.0", "Root-Is-Purelib": "true", "Tag": "py3-none-any"}
        for name, lines in (("METADATA", said), ("WHEEL", tags), ("RECORD", {})):
            text = "".join(f"{key}: {value}\n" for key, value in lines.items())
            archive.writestr(f"{info}/{name}", text)
        archive.writestr("onlywheel.py", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    files = {
        "images/Dockerfile": "FROM scratch\n",
        "images/pins.json": "{}",
        "images/base/packages.txt": "",
        "images/base/tools.lock": "",
        "images/base/install.sh": "",
        "images/base/cpu.lock": "",
        "images/trl/cpu.lock": f"onlywheel==1.0 \\\n    --hash=sha256:{digest}\n",
        "images/trl/facts.json": "{}",
        "images/trl/aligntune_backend.py": "NAME = 'trl'\n",
        "shared/__init__.py": "",
        "shared/training/__init__.py": "",
        "shared/training/__main__.py": WORKER,
    }
    for name, text in files.items():
        path = shop / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return shop


class TestProcess:
    """The process engine with a made-up image: a lock of one wheel, and a worker that reports."""

    @pytest.fixture
    def environment(self, shop: Path) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(shop),
            "HF_TOKEN": TOKEN,
            "PYTHONPATH": "/nonsense",
            "ALIGNTUNE_INPUT_ROOT": "/in",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(shop / "wheels"),
        }

    @pytest.fixture
    def engine(self, shop: Path, environment: dict[str, str]) -> ProcessEngine:
        sources = Sources(shop / "images", shop / "shared")
        return ProcessEngine(make_host(shop), environment, sources=sources)

    @pytest.fixture
    def edited(self, shop: Path, host: Host, environment: dict[str, str]) -> Edited:
        """Makes an engine for an edited lock, with a cache of its own."""

        def make(old: str, new: str) -> ProcessEngine:
            shutil.copytree(shop / "images", host.cache.parent / "images")
            lock = host.cache.parent / "images/trl/cpu.lock"
            lock.write_text(re.sub(old, new, lock.read_text()))
            sources = Sources(host.cache.parent / "images", shop / "shared")
            return ProcessEngine(host, environment, sources=sources)

        return make

    @pytest.fixture
    def plan(self, tmp_path: Path) -> Plan:
        plan = make_plan("org/model")
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        choice = replace(plan.choice, engine="process", image=None)
        return replace(plan, run_dir=str(run_dir), choice=choice)

    @pytest.fixture
    def handles(self) -> list[str]:
        """What was recorded."""
        return []

    @pytest.fixture
    def started(
        self, engine: ProcessEngine, plan: Plan, handles: list[str]
    ) -> Iterator[ProcessWorker]:
        """A training worker that waits."""
        wait = Path(plan.run_dir, "wait")
        wait.touch()
        engine.prepare(plan, print)
        worker = engine.attach(engine.submit(engine.commands(plan)[-1], handles.append))
        seen = Path(plan.run_dir, "seen.json")
        while not (seen.exists() and seen.read_text().endswith("]")):
            assert worker.wait(0.02) is None
        yield worker
        worker.kill()
        worker.wait(5)

    def test_the_venv_is_made_once(self, edited: Edited, plan: Plan) -> None:
        engine = edited("", "")
        said: list[str] = []
        engine.prepare(plan, said.append)
        assert "package 1 of 1: onlywheel 1.0" in said
        said.clear()
        engine.prepare(plan, said.append)
        assert said == []

    def test_it_asks_with_the_size_before_a_venv_is_made(
        self, shop: Path, host: Host, environment: dict[str, str], plan: Plan
    ) -> None:
        images = shutil.copytree(shop / "images", host.cache.parent / "images")
        (images / "trl/facts.json").write_text(
            '{"flavours": {"cpu": {"download_size": 2500000000}}}'
        )
        asked: list[str] = []

        def answer(agreed: bool) -> ProcessEngine:
            def agree(question: str) -> bool:
                asked.append(question)
                return agreed

            sources = Sources(images, shop / "shared")
            return ProcessEngine(host, environment, sources=sources, agree=agree)

        with pytest.raises(ImageError, match="was not wanted"):
            answer(False).prepare(plan, print)
        assert "2.5 GB to download" in asked[0]
        assert not (host.cache / "envs").exists()
        answer(True).prepare(plan, print)
        answer(False).prepare(plan, print)
        assert len(asked) == 2, "what is here is not asked for"

    def test_a_venv_that_was_cut_short_is_made_anew(
        self, edited: Edited, plan: Plan, host: Host
    ) -> None:
        engine = edited("", "")
        engine.prepare(plan, print)
        (marker,) = host.cache.glob(f"envs/*/{venv.COMPLETE}")
        marker.unlink()
        (installed,) = host.cache.glob("envs/*/lib/*/site-packages/onlywheel.py")
        installed.unlink()
        engine.prepare(plan, print)
        assert installed.exists()
        assert marker.exists()

    def test_a_package_that_cannot_be_had_leaves_no_venv(
        self, edited: Edited, plan: Plan, host: Host
    ) -> None:
        with pytest.raises(ImageError, match=r"has no other==1\.0"):
            edited("onlywheel", "other").prepare(plan, print)
        assert not [path for path in (host.cache / "envs").iterdir() if path.is_dir()]

    def test_a_wheel_of_another_hash_is_refused(self, edited: Edited, plan: Plan) -> None:
        with pytest.raises(ImageError, match="another hash than the lock's"):
            edited("sha256:.{4}", "sha256:0000").prepare(plan, print)

    def test_training_gets_no_token_no_network_and_nothing_of_the_callers_python(
        self, engine: ProcessEngine, plan: Plan, started: ProcessWorker
    ) -> None:
        argv, environment, path = json.loads(Path(plan.run_dir, "seen.json").read_text())
        assert argv == ["--spec", f"{plan.run_dir}/spec.yaml"]
        assert TOKEN not in environment.values()
        assert environment["HF_TOKEN_PATH"] == os.devnull
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
        assert "ALIGNTUNE_INPUT_ROOT" not in environment
        assert "/nonsense" not in path
        assert not set(path) & {entry for entry in sys.path if "site-packages" in entry}

    def test_fetching_has_the_token_and_the_network(
        self, engine: ProcessEngine, plan: Plan
    ) -> None:
        engine.prepare(plan, print)
        worker = engine.attach(engine.submit(engine.commands(plan)[0], print))
        ended = worker.wait(30)
        assert ended is not None
        assert ended.code == 0
        argv, environment, _ = json.loads(Path(plan.run_dir, "seen.json").read_text())
        assert argv[-1] == "--fetch"
        assert environment["HF_TOKEN"] == TOKEN
        assert "HF_HUB_OFFLINE" not in environment

    def test_no_secret_is_in_any_argument(self, engine: ProcessEngine, plan: Plan) -> None:
        assert TOKEN not in json.dumps([command.arguments for command in engine.commands(plan)])

    def test_gpus_are_those_of_the_plan(self, engine: ProcessEngine, plan: Plan) -> None:
        plan = replace(plan, choice=replace(plan.choice, gpus=(GPU,)))
        environment = engine.commands(plan)[-1].arguments["environment"]
        assert environment["CUDA_VISIBLE_DEVICES"] == GPU
        assert environment["UNSLOTH_DISABLE_CPU_FALLBACK"] == "1"

    def test_the_exit_code_and_the_last_output_are_the_workers(
        self, engine: ProcessEngine, plan: Plan, started: ProcessWorker
    ) -> None:
        Path(plan.run_dir, "fail").touch()
        Path(plan.run_dir, "wait").unlink()
        ended = started.wait(30)
        assert ended is not None
        assert (ended.code, ended.oom) == (4, False)
        assert "here" in ended.output
        assert started.wait(0) == ended

    def test_stopping_lets_the_worker_write_its_checkpoint(self, started: ProcessWorker) -> None:
        started.stop()
        ended = started.wait(30)
        assert ended is not None
        assert ended.code == 75
        assert "checkpoint" in ended.output

    def test_a_worker_that_does_not_stop_is_killed_after_the_grace(
        self, started: ProcessWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local_worker, "GRACE_SECONDS", 0)
        os.kill(started.pid, 19)  # SIGSTOP: it cannot answer
        started.stop()
        assert started.wait(0) is None
        ended = started.wait(30)
        assert ended is not None
        assert (ended.code, ended.oom, ended.killed) == (137, False, True)

    def test_a_kill_is_called_out_of_memory_only_on_the_kernels_word(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        job = {"command": ["sh", "-c", "kill -9 $$"], "folder": str(tmp_path), "descriptors": []}
        code = f"from aligntune_run.engines.local import supervisor as s; {COUNTS}s.main()"
        subprocess.run(
            [sys.executable, "-c", code],
            input=f"{json.dumps(job)}\ngo\n",
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        assert json.loads((tmp_path / "exit.json").read_text()) == {"code": 137, "oom": True}

    def test_another_kill_is_not_called_out_of_memory(self, started: ProcessWorker) -> None:
        os.kill(started.pid, 9)
        ended = started.wait(30)
        assert ended is not None
        assert (ended.code, ended.oom, ended.killed) == (137, False, False)

    def test_the_worker_has_a_session_of_its_own(self, started: ProcessWorker) -> None:
        assert os.getsid(started.pid) == started.pid != os.getsid(0)

    def test_another_engine_object_reaches_it_by_the_recorded_handle(
        self,
        host: Host,
        plan: Plan,
        handles: list[str],
        started: ProcessWorker,
    ) -> None:
        (handle,) = handles
        assert handle.startswith(f"process:{started.pid}:")
        other = ProcessEngine(host)
        assert other.status(handle) == "running"
        assert "here" in other.logs(handle)
        other.stop(handle)
        ended = other.attach(handle).wait(30)
        assert ended is not None
        assert (ended.code, ended.killed) == (75, False)
        assert other.status(handle) == "gone"
        assert not Path(plan.run_dir, ".worker").exists()

    @pytest.mark.parametrize("part", [2, 3])
    def test_a_pid_that_was_used_again_is_another_process(
        self,
        host: Host,
        handles: list[str],
        started: ProcessWorker,
        part: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        words = handles[0].split(":")
        words[part] = "1"
        monkeypatch.setattr(local_worker, "EXIT_SECONDS", 0)
        engine = ProcessEngine(host)
        assert engine.status(":".join(words)) == "gone"
        stranger = engine.attach(":".join(words))
        stranger.stop()
        stranger.kill()
        with pytest.raises(EngineError, match="how it ended is not known"):
            stranger.wait(1)
        assert started.wait(0.1) is None, "it got no signal"

    def test_what_cannot_be_recorded_does_not_start(
        self, engine: ProcessEngine, plan: Plan
    ) -> None:
        def full(handle: str) -> None:
            raise OutputError("no space left")

        engine.prepare(plan, print)
        with pytest.raises(OutputError, match="no space left"):
            engine.submit(engine.commands(plan)[-1], full)
        assert list(Path(plan.run_dir).iterdir()) == []

    def test_a_program_that_is_not_there_is_an_error(
        self, engine: ProcessEngine, tmp_path: Path
    ) -> None:
        values = {"command": ["/no/such"], "environment": {}, "without": []}
        command = Command("train", {**values, "working_dir": str(tmp_path)})
        with pytest.raises(EngineError, match="cannot start /no/such: No such file"):
            engine.submit(command, print)

    @pytest.mark.parametrize("handle", ["docker:x", "process:1:2", "process:x:2:b:/f", ""])
    def test_only_a_local_workers_handle_is_attached_to(
        self, engine: ProcessEngine, handle: str
    ) -> None:
        with pytest.raises(EngineError, match="does not name a process"):
            engine.attach(handle)

    def test_without_the_locks_python_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(venv, "PYTHON", (3, 99))
        with pytest.raises(EngineError, match=r"python3\.99") as caught:
            find_python()
        assert "Install it" in caught.value.remedy

    def test_names_of_variables_may_end_in_a_star(self) -> None:
        kept = without({"PYTHONPATH": "", "PATH": "", "HF_TOKEN": ""}, ["PYTHON*", "HF_TOKEN"])
        assert list(kept) == ["PATH"]


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("OSError: [Errno 28] No space left on device", "no space left"),
        ("Failed to establish a new connection: NewConnectionError(...)", "cannot be reached"),
        ("SSLError(SSLCertVerificationError(CERTIFICATE_VERIFY_FAILED", "not trusted"),
        ("ERROR: No matching distribution found for torch==2.13.0+cpu", "torch==2.13.0+cpu"),
    ],
)
def test_what_pip_says_is_told_with_a_remedy(said: str, says: str) -> None:
    error = venv._failure(said)
    assert error is not None
    assert says in error.what
    assert error.remedy
