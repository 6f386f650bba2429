"""Doctor: situations, and what it says of each; the command, its exit codes and its JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.command import TRACEBACK, run
from tests.helpers.findings import CUDA, ENGINE, GIB, H200, HEALTHY, image_state, on_host
from tests.helpers.hub import Hub

from aligntune.errors import KINDS, OutputError
from aligntune.record.events import EventWriter
from aligntune.record.run_dir import RunDir
from aligntune_run.doctor.checks import MACHINE
from aligntune_run.doctor.checks.base import RUN
from aligntune_run.doctor.diagnose import Diagnosis, checks, examine
from aligntune_run.doctor.probe import Container, Findings, Folder, ask_hub
from aligntune_run.doctor.run_report import report_run
from aligntune_run.host.types import Engine, Gpu
from aligntune_run.images import Listed
from aligntune_run.planning.preflight import INPUTS
from aligntune_run.selection import rules

DOCUMENTED = Path(__file__).parents[3] / "docs" / "doctor.md"

V100 = Gpu(0, "GPU-cccc", "Tesla V100", (7, 0), 16 * GIB, 16 * GIB)


CPU = replace(
    HEALTHY,
    host=replace(HEALTHY.host, gpus=(), driver=None, gpu_note="no NVIDIA driver"),
    modules=frozenset(),
    driver_loaded=False,
    nodes=(),
    displays=frozenset(),
)


def with_engine(**values: Any) -> Findings:
    return on_host(engine=replace(ENGINE, **values))


NO_ENGINE = on_host(engine=Engine(False, "there is no /var/run/docker.sock"))
MISSING = Listed("aligntune-trl:cuda-1", "trl", "cuda", None, None, 6 * 10**9, {}, "missing")
NAMES = {
    *MACHINE.checks,
    *(
        name
        for scope in (rules.MACHINE, rules.BACKEND)
        for name, check in scope.checks.items()
        if check.about == "machine"
    ),
}


def storage_for(missing: int) -> Findings:
    """A machine with 1 GB of space, on which the images of so many backends are missing."""
    backends = ("unsloth", "trl")
    images = tuple(
        image_state(name, "cuda", "build" if index < missing else "present")
        for index, name in enumerate(backends)
    )
    facts = {name: {"flavours": {"cuda": {**CUDA, "image_size": 6e9}}} for name in backends}
    found = on_host(images=images, engine=replace(ENGINE, storage_free=10**9))
    return replace(found, facts=facts)


STALE = replace(MISSING, id="sha256:1", state="stale: its lock changed")
LEFT = Container("aligntune-x-train-1", "exited", "x", "/runs/x", "train")
TOKEN = Path("/home/u/.cache/huggingface/token")

SITUATIONS: list[tuple[str, str, str, str, Findings]] = [
    ("platform", "fail", "macOS", "x86-64", on_host(system="Darwin", machine="arm64")),
    ("memory", "warn", "1.0 GiB of it available", "ps aux", replace(HEALTHY, available=GIB)),
    ("shm", "warn", "0.1 GiB", "mount -o remount", replace(NO_ENGINE, shm=64 * 2**20)),
    (
        "caches",
        "fail",
        "cannot be written to",
        "ALIGNTUNE_CACHE_DIR",
        replace(HEALTHY, folders=(Folder("our cache", Path("/c"), False, 10**12),)),
    ),
    (
        "caches",
        "warn",
        "has 0.9 GiB free",
        "HF_HOME",
        replace(HEALTHY, folders=(Folder("hub cache", Path("/c"), True, 10**9),)),
    ),
    ("engine", "warn", "a venv instead", "systemctl start docker", NO_ENGINE),
    (
        "engine",
        "fail",
        "needs python3.11",
        "systemctl start docker",
        replace(NO_ENGINE, no_venv="training needs python3.11, and here is only Python 3.13"),
    ),
    ("storage", "fail", "0.9 GiB free in /var/lib/docker", "images prune", storage_for(2)),
    ("storage", "warn", "0.9 GiB free in /var/lib/docker", "images prune", storage_for(1)),
    (
        "cgroups",
        "warn",
        "daemon-reload",
        "native.cgroupdriver=cgroupfs",
        with_engine(cgroup_driver="systemd"),
    ),
    (
        "engine-network",
        "fail",
        "docker0 is missing",
        "restart docker",
        replace(HEALTHY, no_bridge="docker0"),
    ),
    (
        "buildkit",
        "warn",
        "no docker client here",
        "buildx",
        replace(HEALTHY, no_builder="no docker client here has BuildKit. Install buildx"),
    ),
    (
        "image",
        "warn",
        "trl cpu is not here; the first run builds it",
        "images build trl --flavour cpu",
        on_host(images=(image_state("trl", "cpu", "build"),)),
    ),
    (
        "image",
        "warn",
        "unsloth cuda is unavailable: no wheel",
        "--find-links",
        on_host(images=(image_state("unsloth", "cuda", None, "no wheel. Use --find-links"),)),
    ),
    (
        "image",
        "fail",
        "trl cuda is unavailable: no wheel",
        "--find-links",
        on_host(images=(image_state("trl", "cuda", None, "no wheel. Use --find-links"),)),
    ),
    (
        "stale-images",
        "warn",
        "1 outdated image is",
        "images prune",
        replace(HEALTHY, listed=(STALE,)),
    ),
    (
        "containers",
        "warn",
        "aligntune-x-train-1 was left behind",
        "aligntune-run --resume /runs/x",
        replace(HEALTHY, containers=(LEFT,)),
    ),
    ("gpus", "warn", "training uses the CPU", "lspci", CPU),
    (
        "gpus",
        "warn",
        "hides every GPU",
        "unset CUDA_VISIBLE_DEVICES",
        on_host(
            replace(HEALTHY, environment={"CUDA_VISIBLE_DEVICES": ""}),
            gpus=(),
            gpu_note="CUDA_VISIBLE_DEVICES hides every GPU",
        ),
    ),
    (
        "gpus",
        "fail",
        "no device files",
        "nvidia-modprobe",
        replace(CPU, driver_loaded=True, nodes=("nvidia-modeset",)),
    ),
    (
        "gpus",
        "fail",
        "no GPU can be used: NVML does not start: Driver/library version mismatch",
        "restart the machine",
        on_host(
            replace(HEALTHY),
            gpus=(),
            driver=None,
            gpu_note="NVML does not start: Driver/library version mismatch",
        ),
    ),
    (
        "gpus",
        "fail",
        "no driver for it",
        "apt install nvidia-driver",
        replace(CPU, displays=frozenset({"NVIDIA", "Intel"})),
    ),
    (
        "nouveau",
        "fail",
        "nouveau",
        "blacklist nouveau",
        replace(CPU, displays=frozenset({"NVIDIA"}), modules=frozenset({"nouveau"})),
    ),
    ("vendor", "fail", "from AMD", "--gpus 0", on_host(CPU, other_gpu="AMD")),
    ("driver", "fail", "driver 550.54.15", "Update the NVIDIA driver", on_host(driver="550.54.15")),
    ("capability", "fail", "compute capability 7.0", "newer GPU", on_host(gpus=(V100,))),
    (
        "capability",
        "fail",
        "the image's torch supports sm_75, sm_80, sm_90",
        "--gpus 0",
        on_host(gpus=(replace(H200, capability=(10, 0)),)),
    ),
    (
        "gpu-memory",
        "warn",
        "used by python (pid 4711)",
        "nvidia-smi",
        on_host(gpus=(replace(H200, free=GIB, users=("python (pid 4711)",)),)),
    ),
    ("gpu_access", "fail", "cannot pass", "nvidia-ctk", with_engine(gpu_way="none")),
    (
        "hub-token",
        "warn",
        "mode 644",
        "chmod 600",
        replace(on_host(token=TOKEN), token_mode=0o644),
    ),
    ("hub", "warn", "does not answer: refused", "HF_ENDPOINT", replace(HEALTHY, hub="refused")),
    (
        "hub",
        "warn",
        "CERTIFICATE",
        "SSL_CERT_FILE",
        replace(HEALTHY, hub="[SSL: CERTIFICATE_VERIFY_FAILED]"),
    ),
    (
        "certificates",
        "warn",
        "SSL_CERT_FILE",
        "unset",
        replace(HEALTHY, no_bundles=("SSL_CERT_FILE",)),
    ),
    *(
        ("environment", "warn", name, f"unset {name}", replace(HEALTHY, environment={name: value}))
        for name, value in {
            "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
            "LD_PRELOAD": "/x.so",
            "PYTHONPATH": "/elsewhere",
            "BNB_CUDA_VERSION": "124",
            "HF_HUB_ENABLE_HF_TRANSFER": "1",
        }.items()
    ),
]


@pytest.mark.parametrize(("check", "level", "says", "remedy", "found"), SITUATIONS)
def test_each_problem_is_reported_with_its_remedy(
    check: str, level: str, says: str, remedy: str, found: Findings
) -> None:
    told = [one for one in checks(found) if one.rule == check and one.level != "pass"]
    assert any(
        one.level == level and says in one.evidence and remedy in one.remedy for one in told
    ), told


def test_a_healthy_machine_passes_every_check() -> None:
    assert [one for one in checks(HEALTHY) if one.level != "pass"] == []
    assert Diagnosis(checks(HEALTHY)).exit_code == 0


def test_whatever_warns_or_fails_says_what_to_do() -> None:
    said = [one for *_, found in SITUATIONS for one in checks(found)]
    assert all(one.remedy for one in said if one.level != "pass")


def test_warnings_alone_do_not_fail() -> None:
    found = replace(CPU, hub="refused")
    assert {one.level for one in checks(found)} == {"pass", "warn"}
    assert Diagnosis(checks(found)).exit_code == 0


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (replace(NO_ENGINE, no_venv="no Python"), 6),
        (on_host(images=(image_state("trl", "cpu", None, "no wheel"),)), 7),
        (on_host(driver="550.54.15"), 8),
        (replace(HEALTHY, folders=(Folder("our cache", Path("/c"), False, None),)), 5),
    ],
)
def test_the_exit_code_is_that_of_the_first_check_that_fails(found: Findings, code: int) -> None:
    assert Diagnosis(checks(found)).exit_code == code


def test_every_check_fails_as_a_class_of_the_taxonomy() -> None:
    scopes = (MACHINE, RUN, rules.MACHINE, rules.BACKEND, INPUTS)
    checks = [check for scope in scopes for check in scope.checks.values()]
    assert all(check.kind in KINDS.values() for check in checks)


SECRET = "s3cret-Value-9"


@given(
    st.sampled_from(
        ["HF_TOKEN", "HTTPS_PROXY", "LD_PRELOAD", "PYTHONPATH", "ALIGNTUNE_X", "BNB_CUDA_VERSION"]
    )
)
def test_no_check_shows_what_logs_in(name: str) -> None:
    value = f"http://user:{SECRET}@proxy.test:3128" if "PROXY" in name else SECRET
    said = checks(replace(HEALTHY, environment={name: value}))
    assert SECRET not in json.dumps([one.evidence + one.remedy for one in said])


@pytest.mark.parametrize(
    ("capability", "level"),
    [((8, 6), "pass"), ((8, 9), "pass"), ((9, 0), "pass"), ((10, 0), "fail"), ((7, 5), "pass")],
)
def test_a_gpu_runs_code_of_its_own_major_version_that_is_not_newer(
    capability: tuple[int, int], level: str
) -> None:
    found = on_host(gpus=(replace(H200, capability=capability),))
    assert {one.level for one in checks(found) if one.rule == "capability"} == {level}


def test_a_container_that_runs_is_not_left_behind() -> None:
    found = replace(HEALTHY, containers=(replace(LEFT, state="running"),))
    assert [one.level for one in checks(found) if one.rule == "containers"] == ["pass"]


def a_run(folder: Path, log: str = "", **values: Any) -> RunDir:
    folder.mkdir(parents=True)
    made = RunDir(folder)
    made.update(id="x", plan={}, **values)
    made.log.write_text(log)
    return made


def test_a_failed_run_is_reported_with_its_error_known_failure_and_resume(
    tmp_path: Path,
) -> None:
    error = {"kind": "TrainingError", "what": "the trainer failed: 1", "remedy": "See the log"}
    made = a_run(
        tmp_path / "x",
        "RuntimeError: Failed to find C compiler.",
        status="failed",
        error=error,
        exit={"code": 12, "oom": False},
    )
    (made.checkpoints / "checkpoint-4").mkdir(parents=True)
    told = {one.rule: one for one in report_run(made.path, ())}
    assert "failed, exit code 12: TrainingError: the trainer failed: 1" in told["run"].evidence
    assert told["run"].remedy == "See the log"
    assert told["run-log"].evidence.startswith("no-compiler: Triton compiles")
    assert "newest checkpoint" in told["resume"].evidence
    assert told["resume"].remedy == f"`aligntune-run --resume {made.path}`"


def test_a_finished_run_is_not_searched_for_failures(tmp_path: Path) -> None:
    made = a_run(tmp_path / "x", "CUDA out of memory", status="finished", exit={"code": 0})
    told = report_run(made.path, ())
    assert [(one.rule, one.level) for one in told] == [("run", "pass")]


def test_a_run_whose_worker_died_silently_is_reported(tmp_path: Path) -> None:
    made = a_run(tmp_path / "x", status="running")
    made.events.touch()
    assert "nothing is running in it" in report_run(made.path, ())[0].evidence


def test_a_running_run_is_left_alone(tmp_path: Path) -> None:
    made = a_run(tmp_path / "x", "CUDA out of memory", status="running")
    with EventWriter(made.events):
        told = report_run(made.path, (replace(LEFT, state="running"),))
    assert [(one.rule, one.level) for one in told] == [("run", "pass"), ("run-container", "pass")]
    assert "docker logs -f aligntune-x-train-1" in told[1].evidence


def test_a_run_s_leftover_container_should_be_removed(tmp_path: Path) -> None:
    made = a_run(tmp_path / "x", status="running")
    told = {one.rule: one for one in report_run(made.path, (LEFT, replace(LEFT, run_id="other")))}
    assert told["run-container"].remedy == "`docker rm -f aligntune-x-train-1`"


@pytest.mark.parametrize(
    ("values", "key"),
    [({"status": 7}, "status"), ({"error": {"kind": ["x"]}}, "error.kind"), ({"exit": 1}, "exit")],
)
def test_a_record_that_no_version_writes_is_refused_with_the_key(
    values: dict[str, Any], key: str, tmp_path: Path
) -> None:
    made = RunDir(tmp_path)
    made.record_file.write_text(json.dumps(values))
    with pytest.raises(OutputError, match=rf"run\.json is not a run's record: {key}: "):
        report_run(made.path, ())


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no run\.json"):
        examine(HEALTHY, tmp_path)


def test_how_a_run_ended_is_not_the_exit_code(tmp_path: Path) -> None:
    made = a_run(tmp_path / "x", status="failed")
    assert examine(HEALTHY, made.path).exit_code == 0


def test_the_hub_is_contacted_without_a_token_and_any_answer_counts() -> None:
    with Hub() as hub:
        assert ask_hub({"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": SECRET}) == ""
        assert hub.requests
        assert not hub.tokens


def test_an_unreachable_hub_is_reported() -> None:
    assert "refused" in str(ask_hub({"HF_ENDPOINT": "http://127.0.0.1:9"}))
    assert ask_hub({"HF_ENDPOINT": "no address"})


def test_the_command_prints_every_check_and_exits_with_its_code(
    environment: dict[str, str],
) -> None:
    done = run("doctor", "--offline", environment=environment)
    assert TRACEBACK not in done.stderr
    assert "warn  engine: there is no " in done.stdout
    assert "pass  hub: https://huggingface.co was not contacted" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("fail")


def test_the_command_prints_json_alone(environment: dict[str, str]) -> None:
    done = run("doctor", "--offline", "--json", environment=environment)
    told = json.loads(done.stdout)
    assert told["exit_code"] == done.returncode
    assert {"check", "backend", "level", "evidence", "remedy", "kind"} == set(told["checks"][0])
    assert {one["check"] for one in told["checks"]} <= NAMES


def test_the_command_refuses_a_folder_without_a_run(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = run("doctor", tmp_path, "--offline", environment=environment)
    assert done.returncode == 5
    assert "is not a run directory" in done.stderr


def test_offline_the_hub_is_not_contacted(environment: dict[str, str]) -> None:
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    assert "was not contacted" in run("doctor", environment=offline).stdout


def test_the_docs_name_every_check() -> None:
    text = DOCUMENTED.read_text("utf-8")
    assert [name for name in NAMES if f"`{name}`" not in text] == []
