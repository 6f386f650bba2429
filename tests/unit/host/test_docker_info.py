"""What engines say of themselves and how they are asked for GPUs; the answers are real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from docker.types import HostConfig
from tests.helpers.hosts import GPU, make_host

from aligntune_run.engines.docker.arguments import device_requests
from aligntune_run.host import docker_info
from aligntune_run.host.docker_info import probe_engine
from aligntune_run.host.types import Engine, Gpu

SLICE = "MIG-7a2b3c4d-0000-0000-0000-000000000000"

DEBIAN = {
    "ServerVersion": "20.10.24+dfsg1",
    "SecurityOptions": ["name=seccomp,profile=default"],
    "Runtimes": {"io.containerd.runc.v2": {"path": "runc"}, "runc": {"path": "runc"}},
    "CgroupDriver": "cgroupfs",
    "MemTotal": 2**34,
    "DockerRootDir": "/",
}
DOCKER_28 = {
    **DEBIAN,
    "ServerVersion": "28.2.2",
    "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
    "DiscoveredDevices": [
        {"Source": "cdi", "ID": "nvidia.com/gpu=0"},
        {"Source": "cdi", "ID": "vendor.example/net=eth0"},
    ],
}
PODMAN = {
    "ServerVersion": "5.4.0",
    "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
    "Runtimes": {"crun": {"path": "/usr/bin/crun"}, "nvidia": {"path": ""}},
    "CgroupDriver": "systemd",
    "MemTotal": 2**34,
    "DockerRootDir": "/home/nobody-here/.local/share/containers/storage",
    "CDISpecDirs": None,
    "BuildahVersion": "1.39.0",
}


@pytest.fixture(autouse=True)
def no_hook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the machine of the tests has, as of GPUs it has none."""
    monkeypatch.setattr(docker_info, "GPU_HOOK", "no-such-hook")
    monkeypatch.setattr(
        docker_info, "PODMAN_FOLDERS", (str(tmp_path / "etc"), str(tmp_path / "run"))
    )


def engine(info: dict[str, Any], **changes: Any) -> Engine:
    client = SimpleNamespace(
        info=lambda: info | changes, api=SimpleNamespace(base_url="http+docker://localhost")
    )
    return probe_engine(client, "")


def specification(folder: Path, name: str = "nvidia.yaml", *devices: str) -> Path:
    folder.mkdir(exist_ok=True)
    values = {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": device} for device in devices or ("0", GPU, "all")],
    }
    dump = json.dumps if name.endswith(".json") else yaml.safe_dump
    (folder / name).write_text(dump(values))
    return folder


def test_a_plain_engine_passes_no_gpus() -> None:
    found = engine(DEBIAN)
    assert (found.kind, found.version, found.gpu_way) == ("docker", "20.10.24+dfsg1", "none")
    assert (found.cgroup_driver, found.rootless) == ("cgroupfs", False)


def test_where_the_engine_keeps_images_there_is_so_much_room() -> None:
    disk = os.statvfs("/")
    found = engine(DEBIAN)
    assert found.root == "/"
    assert found.storage_free is not None
    assert 0 < found.storage_free <= disk.f_blocks * disk.f_frsize


def test_of_a_folder_that_is_not_on_this_machine_no_room_is_told() -> None:
    assert engine(DEBIAN, DockerRootDir="/no/such/folder").storage_free is None
    assert engine(DEBIAN, DockerRootDir=None).storage_free is None


def test_nvidias_runtime_passes_gpus() -> None:
    assert engine(DEBIAN, Runtimes={"runc": {}, "nvidia": {}}).gpu_way == "nvidia"


def test_nvidias_hook_passes_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = tmp_path / "nvidia-container-runtime-hook"
    hook.touch(mode=0o755)
    monkeypatch.setattr(docker_info, "GPU_HOOK", hook.name)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine(DEBIAN).gpu_way == "nvidia"
    assert engine(PODMAN).gpu_way == "none", "podman does not run it when it is asked"


def test_a_new_docker_tells_its_cdi_devices() -> None:
    found = engine(DOCKER_28)
    assert (found.gpu_way, found.cdi_devices) == ("cdi", ("nvidia.com/gpu=0",))


def test_devices_of_other_vendors_are_no_gpus() -> None:
    others = [{"Source": "cdi", "ID": "vendor.example/net=eth0"}]
    assert engine(DOCKER_28, DiscoveredDevices=others).gpu_way == "none"


def test_nvidias_runtime_is_preferred_to_cdi() -> None:
    assert engine(DOCKER_28, Runtimes={"nvidia": {}}).gpu_way == "nvidia"


@pytest.mark.parametrize("name", ["nvidia.yaml", "nvidia.json"])
def test_of_an_older_docker_with_cdi_the_devices_are_read_where_they_are_described(
    tmp_path: Path, name: str
) -> None:
    folder = str(specification(tmp_path / "cdi", name))
    found = engine(DEBIAN, ServerVersion="27.5.1", CDISpecDirs=[folder, "/no/such/folder"])
    devices = ("nvidia.com/gpu=0", f"nvidia.com/gpu={GPU}", "nvidia.com/gpu=all")
    assert (found.gpu_way, found.cdi_devices) == ("cdi", devices)


def test_a_docker_whose_cdi_is_off_passes_no_gpus(tmp_path: Path) -> None:
    specification(tmp_path / "etc")
    assert engine(DEBIAN, ServerVersion="25.0.5", CDISpecDirs=[]).gpu_way == "none"


def test_descriptions_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    folder = specification(tmp_path / "cdi")
    (folder / "a.json").write_text("{")
    (folder / "b.yaml").write_text("[:")
    (folder / "c.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "d.json").mkdir()
    (folder / "e.yaml").write_text("just words")
    (folder / "nvidia.yaml.bak").write_text("[:")
    (folder / "f.json").write_text("[" * 100_000)
    (folder / "g.yaml").write_text("[" * 100_000)
    os.mkfifo(folder / "h.json")
    (folder / "i.json").symlink_to("i.json")
    with (folder / "j.json").open("wb") as file:
        file.truncate(2**33)
    assert len(engine(DEBIAN, CDISpecDirs=[str(folder)]).cdi_devices) == 3


@pytest.mark.parametrize(
    "devices", [None, 7, "all", {"name": "0"}, [None, 7, "all", [], {}, {"name": 7}, {"name": ""}]]
)
def test_devices_without_a_name_are_passed_over(tmp_path: Path, devices: Any) -> None:
    folder = specification(tmp_path / "cdi")
    values = {"kind": "nvidia.com/gpu", "devices": devices}
    (folder / "a.json").write_text(json.dumps(values))
    assert len(engine(DEBIAN, CDISpecDirs=[str(folder)]).cdi_devices) == 3


def test_podman_is_told_by_its_answer_and_passes_gpus_by_cdi(tmp_path: Path) -> None:
    assert engine(PODMAN).kind == "podman"
    assert engine(PODMAN).gpu_way == "none", "a runtime of NVIDIA's that is configured is not used"
    specification(tmp_path / "etc")
    found = engine(PODMAN)
    assert (found.gpu_way, found.rootless, found.cgroup_driver) == ("cdi", True, "systemd")


@pytest.mark.parametrize(("version", "way"), [("4.3.1", "none"), ("5.3.2", "none"), ("6.0", "cdi")])
def test_an_old_podman_would_start_a_container_without_its_gpu(
    tmp_path: Path, version: str, way: str
) -> None:
    specification(tmp_path / "etc")
    assert engine(PODMAN, ServerVersion=version).gpu_way == way


def test_an_engine_that_does_not_answer_says_why() -> None:
    def info() -> None:
        raise OSError("gone")

    client: Any = SimpleNamespace(info=info)
    assert "gone" in probe_engine(client, "").reason
    assert probe_engine(None, "none runs") == Engine(False, "none runs")


class TestDeviceRequests:
    def request(self, gpu: Gpu, *devices: str) -> list[dict[str, Any]]:
        facts = Engine(True, gpu_way="cdi", cdi_devices=devices)
        host = make_host(Path("/cache"), engine=facts, gpus=(gpu,))
        return device_requests((gpu.uuid,), host)

    def gpu(self, uuid: str = GPU, parent: str | None = None) -> Gpu:
        return Gpu(1, uuid, "NVIDIA H200", (9, 0), 2**37, 2**37, parent=parent)

    def test_a_cdi_engine_is_asked_by_uuid_where_it_knows_it(self) -> None:
        known = (f"nvidia.com/gpu={GPU}", "nvidia.com/gpu=1")
        assert self.request(self.gpu(), *known) == [
            {"driver": "cdi", "device_ids": [f"nvidia.com/gpu={GPU}"]}
        ]

    def test_a_cdi_engine_that_knows_numbers_only_is_asked_by_the_drivers_number(self) -> None:
        known = ("nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=all")
        (asked,) = self.request(self.gpu(), *known)
        assert asked["device_ids"] == ["nvidia.com/gpu=1"]

    def test_a_slice_is_never_taken_for_the_whole_gpu(self) -> None:
        (asked,) = self.request(self.gpu(SLICE, parent=GPU), "nvidia.com/gpu=1")
        assert asked["device_ids"] == [f"nvidia.com/gpu={SLICE}"]

    def test_a_slice_is_asked_for_by_uuid_of_nvidias_runtime_too(self) -> None:
        host = make_host(Path("/cache"), engine=Engine(True, gpu_way="nvidia"))
        (asked,) = device_requests((SLICE,), host)
        assert asked["device_ids"] == [SLICE]

    def test_no_gpu_is_asked_for_where_none_is_wanted(self) -> None:
        assert device_requests((), make_host(Path("/cache"))) == []

    def test_it_is_what_the_api_of_docker_has_for_cdi(self) -> None:
        asked: Any = self.request(self.gpu())
        sent = HostConfig(version="1.44", device_requests=asked)
        (request,) = sent["DeviceRequests"]
        assert request["Driver"] == "cdi"
        assert request["DeviceIDs"] == [f"nvidia.com/gpu={GPU}"]
        assert (request["Count"], request["Capabilities"]) == (0, [])
