"""The GPU probe through the real pynvml, with a stand-in for the driver library below it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import nvml
from tests.helpers.checkpoints import write_model
from tests.helpers.nvml import GIB, Device

from aligntune_run.host import nvidia_smi
from aligntune_run.host.nvidia_smi import ask_nvidia_smi
from aligntune_run.host.resources import memory_total
from aligntune_run.host.types import Gpu, Gpus

ROOT = Path(__file__).resolve().parents[3]
PROBE = """
import dataclasses, json, sys
from aligntune_run.host import nvidia_smi, nvml
from aligntune_run.host.gpus import probe_gpus
nvml.LIBRARIES = sys.argv[1].split(",")
nvidia_smi.WSL = "/nowhere"
probed = dataclasses.asdict(probe_gpus())
print(json.dumps({"probed": probed, "imported": "pynvml" in sys.modules}))
"""
MISSING = "libno-such-library.so.1"

Probe = Callable[..., Gpus]


def run_probe(environment: dict[str, str], library: str = nvml.LIBRARY) -> dict[str, Any]:
    """What the probe says in a process of its own, which must print nothing else."""
    inherited = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    paths = os.pathsep.join(str(ROOT / room) for room in ("launcher", "shared"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE, library],
        env={**inherited, "PYTHONPATH": paths, "PATH": "/nowhere", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(json.loads(done.stdout))


def gpus_of(probed: dict[str, Any]) -> Gpus:
    found = [
        Gpu(**{**gpu, "capability": tuple(gpu["capability"]), "users": tuple(gpu["users"])})
        for gpu in probed.pop("found")
    ]
    return Gpus(tuple(found), **probed)


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    """Probe a machine with these GPUs; arguments as of :func:`tests.nvml.stand_in`."""

    def probed(*arguments: Any, variables: dict[str, str] | None = None, **words: Any) -> Gpus:
        environment = nvml.stand_in(tmp_path, *arguments, **words)
        return gpus_of(run_probe({**environment, **(variables or {})})["probed"])

    return probed


def test_a_gpu_is_told_with_everything_that_choosing_looks_at(probe: Probe) -> None:
    user = subprocess.Popen(["sleep", "60"])
    try:
        gpu = Device("NVIDIA A100-SXM4-40GB", (8, 0), 40 * GIB, 3 * GIB, pids=(user.pid, 2**31))
        probed = probe([gpu], driver="575.51.03", cuda=12090)
    finally:
        user.kill()
        user.wait()
    assert probed == Gpus(
        (
            Gpu(
                index=0,
                uuid=nvml.uuid(0),
                name="NVIDIA A100-SXM4-40GB",
                capability=(8, 0),
                memory=40 * GIB,
                free=3 * GIB,
                users=(f"sleep (pid {user.pid})", f"pid {2**31}"),
            ),
        ),
        driver="575.51.03",
        cuda="12.9",
        source="NVML",
    )


@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_gpu_is_found_in_the_driver_s_order(count: int, probe: Probe) -> None:
    probed = probe(count)
    assert [gpu.index for gpu in probed.found] == list(range(count))
    assert [gpu.uuid for gpu in probed.found] == list(map(nvml.uuid, range(count)))
    assert probed.note == ""


def test_a_driver_without_a_gpu_is_said_so(probe: Probe) -> None:
    probed = probe(0)
    assert probed.found == ()
    assert probed.note == "NVML finds no GPU"
    assert probed.driver == "580.65.06"


def test_a_gpu_with_mig_on_is_its_slices(probe: Probe) -> None:
    part = Device("NVIDIA A100 MIG 3g.20gb", (0, 0), 20 * GIB, 19 * GIB)
    whole = Device("NVIDIA A100", (8, 0), 40 * GIB, 38 * GIB)
    probed = probe([replace(whole, slices=(part, part)), whole])
    parent = nvml.uuid(0)
    assert [(gpu.uuid[:4], gpu.parent, gpu.memory // GIB, gpu.index) for gpu in probed.found] == [
        ("MIG-", parent, 20, 0),
        ("MIG-", parent, 20, 0),
        ("GPU-", None, 40, 1),
    ]
    assert {gpu.capability for gpu in probed.found} == {(8, 0)}
    assert len({gpu.uuid for gpu in probed.found}) == 3


def test_mig_without_a_slice_is_no_gpu_and_said_so(probe: Probe) -> None:
    probed = probe([Device(slices=())])
    assert probed.found == ()
    assert probed.note == "GPU 0 has MIG on and no slice"
    assert probed.failed


def test_a_slice_that_fails_leaves_its_neighbour(probe: Probe) -> None:
    gpu = Device(slices=(Device("one"), Device("two")))
    probed = probe([gpu], fail={"nvmlDeviceGetUUID:1": nvml.GPU_IS_LOST})
    assert [gpu.name for gpu in probed.found] == ["two"]
    assert probed.note == "slice 0 of GPU 0 is left out: GPU is lost"


def test_a_driver_from_before_r510_is_still_told(probe: Probe) -> None:
    probed = probe([Device("Tesla V100", (7, 0), 16 * GIB, 15 * GIB)], driver="470.57.02", old=True)
    (gpu,) = probed.found
    assert (gpu.name, gpu.memory, gpu.free, gpu.users) == ("Tesla V100", 16 * GIB, 15 * GIB, ())
    assert probed.driver == "470.57.02"


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetName",
        "nvmlDeviceGetCudaComputeCapability",
    ],
)
def test_a_gpu_that_fails_leaves_the_others(function: str, probe: Probe) -> None:
    probed = probe(3, fail={f"{function}:1": nvml.GPU_IS_LOST})
    assert [gpu.index for gpu in probed.found] == [0, 2]
    assert probed.note == "GPU 1 is left out: GPU is lost"
    assert not probed.failed, "others are left"


def test_a_gpu_whose_memory_cannot_be_read_is_left_out(probe: Probe) -> None:
    lost = {f"nvmlDeviceGetMemoryInfo{form}:0": nvml.GPU_IS_LOST for form in ("", "_v2")}
    probed = probe(2, fail=lost)
    assert [gpu.index for gpu in probed.found] == [1]
    assert probed.note == "GPU 0 is left out: GPU is lost"


def test_a_gpu_without_memory_of_its_own_has_the_machine_s(probe: Probe) -> None:
    none = {f"nvmlDeviceGetMemoryInfo{form}": nvml.NOT_SUPPORTED for form in ("", "_v2")}
    (gpu,) = probe([Device("NVIDIA GB10", (12, 1))], fail=none).found
    assert gpu.memory == memory_total()
    assert 0 < gpu.free <= gpu.memory


def test_who_uses_a_gpu_may_be_a_secret(probe: Probe) -> None:
    secret = {"nvmlDeviceGetComputeRunningProcesses_v3": nvml.NO_PERMISSION}
    probed = probe([Device(pids=(1,))], fail=secret)
    assert probed.found[0].users == ()
    assert probed.note == ""


def test_versions_that_the_driver_keeps_to_itself_are_unknown(probe: Probe) -> None:
    kept = ("nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion", "nvmlDeviceGetMigMode")
    probed = probe(1, fail=dict.fromkeys(kept, nvml.NOT_SUPPORTED))
    assert len(probed.found) == 1
    assert probed.driver is probed.cuda is None


def test_a_name_that_is_no_text_leaves_the_gpu_out(probe: Probe) -> None:
    probed = probe([Device(name="\udcff\udcfe"), Device()])
    assert [gpu.index for gpu in probed.found] == [1]
    assert probed.note.startswith("GPU 0 is left out: ")


def test_a_process_cannot_write_to_the_terminal_by_its_name(tmp_path: Path, probe: Probe) -> None:
    hostile = tmp_path / "\x1b[2Jevil"
    hostile.symlink_to("/bin/sleep")
    user = subprocess.Popen([str(hostile), "60"])
    try:
        (gpu,) = probe([Device(pids=(user.pid,))]).found
    finally:
        user.kill()
        user.wait()
    assert gpu.users == (f"[2Jevil (pid {user.pid})",)


@pytest.mark.parametrize(
    ("function", "code", "note"),
    [
        ("nvmlInitWithFlags", nvml.DRIVER_NOT_LOADED, "NVML does not start: Driver Not Loaded"),
        ("nvmlInitWithFlags", nvml.VERSION_MISMATCH, "NVML does not start: RM has detected an"),
        ("nvmlDeviceGetCount_v2", 999, "NVML does not count the GPUs: Unknown Error"),
    ],
)
def test_nvml_that_does_not_work_is_said_so(
    function: str, code: int, note: str, probe: Probe
) -> None:
    probed = probe(1, fail={function: code})
    assert probed.failed is (code != nvml.DRIVER_NOT_LOADED), "there may well be no GPU then"
    assert probed.found == ()
    assert probed.note.startswith(note)
    assert probed.source == ""


def test_an_end_that_fails_costs_nothing(probe: Probe) -> None:
    assert len(probe(1, fail={"nvmlShutdown": 999}).found) == 1


def test_without_the_library_pynvml_is_not_imported() -> None:
    said = run_probe({}, MISSING)
    assert said["probed"]["found"] == []
    assert said["probed"]["note"] == "no NVIDIA driver, as there is no libnvidia-ml.so.1"
    assert not said["imported"]


def test_a_library_that_is_no_library_is_said_so(tmp_path: Path) -> None:
    # As NVIDIA's container tools leave it in an image that was made with a GPU.
    (tmp_path / nvml.LIBRARY).touch()
    said = run_probe({"LD_LIBRARY_PATH": str(tmp_path)})
    assert said["probed"]["note"].startswith("NVML does not load: ")
    assert "too short" in said["probed"]["note"]
    assert not said["imported"]


def test_the_library_is_found_where_wsl_has_it(tmp_path: Path) -> None:
    environment = nvml.stand_in(tmp_path, 1)
    folder = environment.pop("LD_LIBRARY_PATH").split(":")[0]
    probed = run_probe(environment, f"{MISSING},{folder}/{nvml.LIBRARY}")["probed"]
    assert len(probed["found"]) == 1


def test_cuda_visible_devices_chooses_and_orders(probe: Probe) -> None:
    probed = probe(3, variables={"CUDA_VISIBLE_DEVICES": "2,0"})
    assert [gpu.index for gpu in probed.found] == [2, 0]
    hidden = probe(3, variables={"CUDA_VISIBLE_DEVICES": ""})
    assert (hidden.found, hidden.driver) == ((), "580.65.06")
    assert hidden.note == "CUDA_VISIBLE_DEVICES hides every GPU"
    assert not hidden.failed


@pytest.mark.parametrize(("driver", "new_enough"), [("580.65.06", True), ("470.57.02", False)])
def test_the_whole_command_judges_the_driver_that_it_finds(
    driver: str, new_enough: bool, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    command = f"--algo sft --model {model} --dataset {tmp_path}/data.jsonl --engine process"
    paths = os.pathsep.join(str(ROOT / room) for room in ("launcher", "shared"))
    done = subprocess.run(
        [sys.executable, "-m", "aligntune_run", *command.split(), "--dry-run"],
        env={**os.environ, **nvml.stand_in(tmp_path, driver=driver), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert f"driver {driver} (CUDA 13.0); the image's CUDA 13.0 needs" in done.stdout + done.stderr
    assert (done.returncode == 0) is new_enough, done.stdout + done.stderr


def gpu(index: int, uuid: str, parent: str | None = None) -> Gpu:
    return Gpu(index, uuid, "H100", (9, 0), 80 * GIB, 79 * GIB, parent=parent)


def smi(folder: Path, script: str) -> str:
    """A stand-in for nvidia-smi: a shell script; what ``PATH`` is where it is found."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"{folder}:/usr/bin:/bin"


def printing(*lines: str) -> str:
    return "cat <<'END'\n" + "".join(f"{line}\n" for line in lines) + "END\n"


GOOD = "0, GPU-aaaa1111, NVIDIA RTX A6000, 8.6, 49140, 48000, 580.65.06, [N/A]"


def test_nvidia_smi_is_asked_where_the_library_is_missing(tmp_path: Path) -> None:
    probed = gpus_of(run_probe({"PATH": smi(tmp_path, printing(GOOD))}, MISSING)["probed"])
    assert probed == Gpus(
        (Gpu(0, "GPU-aaaa1111", "NVIDIA RTX A6000", (8, 6), 49140 << 20, 48000 << 20),),
        "no NVIDIA driver, as there is no libnvidia-ml.so.1",
        driver="580.65.06",
        source="nvidia-smi",
    )


def test_nvidia_smi_is_asked_where_nvml_does_not_start(tmp_path: Path, probe: Probe) -> None:
    path = smi(tmp_path, printing(GOOD, GOOD.replace("0, GPU-a", "1, GPU-b")))
    probed = probe(1, fail={"nvmlInitWithFlags": 999}, variables={"PATH": path})
    assert [gpu.index for gpu in probed.found] == [0, 1]
    assert probed.note == "NVML does not start: Unknown Error"


def test_nvidia_smi_is_left_alone_where_nvml_answers(tmp_path: Path, probe: Probe) -> None:
    path = smi(tmp_path, f"touch {tmp_path}/asked")
    assert probe(0, variables={"PATH": path}).source == "NVML"
    assert not (tmp_path / "asked").exists()


def test_cuda_visible_devices_holds_for_nvidia_smi_too(tmp_path: Path) -> None:
    path = smi(tmp_path, printing(GOOD))
    probed = run_probe({"PATH": path, "CUDA_VISIBLE_DEVICES": "-1"}, MISSING)["probed"]
    assert probed["found"] == []
    assert probed["note"].endswith("CUDA_VISIBLE_DEVICES hides every GPU")


def test_a_gpu_without_memory_of_its_own_has_the_machine_s_by_nvidia_smi_too(
    tmp_path: Path,
) -> None:
    line = GOOD.replace("49140, 48000", "[N/A], [Not Supported]")
    (gpu,) = ask_nvidia_smi(smi(tmp_path, printing(line))).found
    assert gpu.memory == memory_total() >= gpu.free > 0


def test_slices_that_nvidia_smi_does_not_tell_are_said_so(tmp_path: Path) -> None:
    probed = ask_nvidia_smi(smi(tmp_path, printing(GOOD.replace("[N/A]", "Enabled"))))
    assert (probed.found, probed.driver) == ((), "580.65.06")
    assert probed.note == "GPU 0 has MIG on: nvidia-smi does not tell its slices"


def test_where_there_is_no_nvidia_smi_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert ask_nvidia_smi(str(tmp_path)) == Gpus()


@pytest.mark.parametrize(
    ("script", "note"),
    [
        (printing("No devices were found") + "exit 6", "nvidia-smi says 'No devices were found'"),
        (printing('Field "compute_cap" is not a valid field to query.'), "not a valid field"),
        (printing("0, GPU-a, H100"), "nvidia-smi says '0, GPU-a, H100'"),
        (printing(GOOD.replace("8.6", "[Unknown Error]")), "Unknown Error"),
        (printing(GOOD.replace("49140", "[GPU is lost]")), "[GPU is lost]"),
        (printing(GOOD.replace("RTX", "\x1b[2J")), r"\x1b[2J"),
        (printing(GOOD.replace("49140", "9" * 5000)), "nvidia-smi says"),
        (printing(GOOD.replace("49140", "-1")), "nvidia-smi says"),
        (printing("\x1b[2J"), r"\x1b[2J"),
        ("head -c 500 /bin/sh", "nvidia-smi says"),
        ("yes nonsense | head -n 1000", "nvidia-smi says 'nonsense'"),
        ("exit 9", "nvidia-smi says nothing and ends with 9"),
        ("kill -SEGV $$", "nvidia-smi says nothing and ends with -11"),
        ("yes", "nvidia-smi fails: more than 1048576 bytes"),
        ("cat /dev/zero", "nvidia-smi fails: more than 1048576 bytes"),
    ],
)
def test_what_is_wrong_with_nvidia_smi_is_said(script: str, note: str, tmp_path: Path) -> None:
    probed = ask_nvidia_smi(smi(tmp_path, script))
    assert probed.found == ()
    assert note in probed.note
    assert probed.note.isprintable()
    assert len(probed.note) < 1000
    assert probed.source == ""


def test_nonsense_beside_a_gpu_leaves_the_gpu(tmp_path: Path) -> None:
    lost = "Unable to determine the device handle for GPU0000:01:00.0: Unknown Error"
    probed = ask_nvidia_smi(smi(tmp_path, printing(lost, GOOD) + "exit 15"))
    assert len(probed.found) == 1
    assert probed.note == f"nvidia-smi says {lost!r}"


def test_an_nvidia_smi_that_does_not_start_is_said_so(tmp_path: Path) -> None:
    path = smi(tmp_path, "")
    (tmp_path / "nvidia-smi").write_text("#!/no/such/shell\n")
    assert "No such file" in ask_nvidia_smi(path).note


@pytest.mark.parametrize(
    "script", ["sleep 600", "exec sleep 600", "sleep 600 &", "exec >&- 2>&-; sleep 600"]
)
def test_an_nvidia_smi_that_hangs_is_ended_whatever_holds_its_output(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia_smi, "TIMEOUT", 0.3)
    probed = ask_nvidia_smi(smi(tmp_path, script))
    assert probed.note == "nvidia-smi fails: no end after 0.3 s"
