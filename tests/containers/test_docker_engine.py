"""The docker engine on a real one, with a shell script of the test's in the worker's place."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import shutil
import signal
import stat
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from testcontainers.core.container import DockerContainer
from tests.containers.runs import TIMEOUT
from tests.helpers.hosts import make_host
from tests.helpers.scripted_engine import ScriptedPlanner

from aligntune import contract
from aligntune.errors import EngineError, HardwareError, ImageError, OutputError, TrainingError
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import ExitRecord
from aligntune.spec.run_spec import RunSpec
from aligntune_run.engines.base import Command, Exit
from aligntune_run.engines.docker import arguments as docker_arguments
from aligntune_run.engines.docker import worker as docker_worker
from aligntune_run.engines.docker.engine import DockerEngine
from aligntune_run.engines.docker.worker import ContainerWorker
from aligntune_run.host.caches import cache_dir
from aligntune_run.host.docker_client import connect
from aligntune_run.host.docker_info import probe_engine
from aligntune_run.plan import Choice, Image, Phase, Plan, hub_ids
from aligntune_run.planning.planner import Prepared
from aligntune_run.runs.execute import attach, execute

TOKEN = "hf_thisIsNobodysToken"
PASSWORD = "letmein"
MEMORY = 128 * 2**20
STRANGER = 1234
"""A user that no image knows."""

STAND_IN = "aligntune-test:stand-in"
SCRIPT = b'#!/bin/sh\nexec /bin/sh /run-dir/script "$@"\n'
REPORT = """
id -u > uid; id -g > gid
grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs)' /proc/self/status > status
tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' > interfaces
touch /usr/new 2> /dev/null && echo yes > wrote_root
touch /cache/new && mkdir -p "$HOME/x" && echo yes > wrote_caches
printf '#!/bin/sh\\necho ran' > /tmp/program && chmod +x /tmp/program && /tmp/program > from_tmp
stat -c %a /tmp > tmp_mode
df -k /dev/shm | tail -1 | awk '{print $2}' > shm
echo "$*" > arguments
echo "$USER" > user
"""

Images: TypeAlias = Callable[[str, str], str]


@pytest.fixture(scope="module")
def stand_in(engine: Any, image: Images) -> Iterator[str]:
    """A user's derived image whose worker is the script in the run directory."""
    with DockerContainer(image("trl", "cpu")) as container:
        container.copy_into_container(SCRIPT, "/usr/local/bin/aligntune-train", 0o755)
        made = container.get_wrapped_container().commit(*STAND_IN.split(":"))
    yield str(made.id)
    engine.images.remove(made.id, force=True)


class Bench:
    """A folder with a run, a cache and inputs, and an engine for them."""

    def __init__(self, folder: Path, image: str, uid: int, environment: dict[str, str]) -> None:
        client, reason = connect()
        assert client is not None, reason
        self.client = client
        self.folder = folder
        self.uid = uid
        self.image = image
        self.environment = environment
        for name in ("run", "inputs", "runtime"):
            (folder / name).mkdir()
        (folder / "inputs" / "d.jsonl").write_text('{"text": "x"}\n')
        proxies = {name: environment[name] for name in ("https_proxy",) if name in environment}
        self.host = make_host(
            folder,
            uid=uid,
            gid=os.getgid(),
            cpus=1,
            engine=probe_engine(client, ""),
            cache=cache_dir({"ALIGNTUNE_CACHE_DIR": str(folder / "cache")}),
            environment=proxies,
        )
        caller = environment | {"XDG_RUNTIME_DIR": str(folder / "runtime")}
        self.engine = DockerEngine(client, self.host, caller)

    def plan(self, model: str = "org/model", dataset: str | None = None) -> Plan:
        dataset = dataset or str(self.folder / "inputs" / "d.jsonl")
        spec = RunSpec.model_validate(
            {
                "algorithm": "sft",
                "model": {"name": model},
                "dataset": {"name": dataset},
                "image": STAND_IN,
            }
        )
        image = Image(STAND_IN, self.image, "present", "f00")
        choice = Choice("trl", "cpu", "docker", image, "f00", (), "TRL", (), ())
        run_id = f"test-{os.path.basename(self.folder)}"
        return Plan(run_id, str(self.run_dir), spec, {}, choice, MEMORY, hub_ids(spec))

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def command(self, phase: Phase, plan: Plan | None = None) -> Command:
        commands = self.engine.commands(plan or self.plan())
        return next(command for command in commands if command.phase == phase)

    def start(
        self, script: str, phase: Phase = "train", plan: Plan | None = None
    ) -> ContainerWorker:
        """Start the stand-in, which reports into ``/run-dir/seen`` and says when it is ready."""
        (self.run_dir / "seen").mkdir()
        (self.run_dir / "script").write_text(f"cd /run-dir/seen\n{script}\n")
        return self.engine.attach(self.engine.submit(self.command(phase, plan), print))

    def run(self, script: str, phase: Phase = "train", plan: Plan | None = None) -> Exit:
        return ended(self.start(script, phase, plan))

    def seen(self, name: str) -> str:
        path = self.run_dir / "seen" / name
        deadline = time.monotonic() + TIMEOUT
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return path.read_text().strip()

    def inspect(self, worker: ContainerWorker) -> dict[str, Any]:
        return dict(self.client.api.inspect_container(worker.name))

    def containers(self) -> list[str]:
        label = f"{contract.LABEL_RUN_ID}={self.plan().run_id}"
        found = self.client.containers.list(all=True, filters={"label": label})
        return [str(container.name) for container in found]

    def close(self) -> None:
        for name in self.containers():
            self.client.api.remove_container(name, force=True)
        self.client.close()


@pytest.fixture
def bench(stand_in: str) -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="aligntune-bench-"))
    made = Bench(folder, stand_in, os.getuid(), {})
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture
def secretive(stand_in: str) -> Iterator[Bench]:
    """A bench of a caller whose environment holds a hub token and a proxy's password."""
    folder = Path(tempfile.mkdtemp(prefix="aligntune-bench-"))
    environment = {"HF_TOKEN": TOKEN, "https_proxy": f"http://me:{PASSWORD}@proxy.invalid:1"}
    made = Bench(folder, stand_in, os.getuid(), environment)
    yield made
    made.close()
    shutil.rmtree(folder)


def ended(worker: ContainerWorker) -> Exit:
    end = worker.wait(TIMEOUT)
    assert end is not None, "the container does not end"
    return end


def as_stranger(groups: list[int], do: Callable[[Path], None]) -> None:
    """Do something as :data:`STRANGER`, in a folder of its own; a failure there is one here."""
    if os.getuid() != 0:
        raise RuntimeError("only root can become another user: run the container tests as root")
    folder = Path(tempfile.mkdtemp(prefix="aligntune-stranger-"))
    os.chown(folder, STRANGER, STRANGER)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups(groups)
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            do(folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    try:
        assert os.waitstatus_to_exitcode(status) == 0
        owners = {path.lstat().st_uid for path in folder.rglob("*")}
        assert owners <= {STRANGER}
    finally:
        shutil.rmtree(folder)


def test_a_training_container_is_confined(bench: Bench) -> None:
    end = bench.run(REPORT)
    assert (end.code, end.output) == (0, "")
    assert bench.seen("uid") == str(bench.uid)
    status = dict(line.split(":\t") for line in bench.seen("status").splitlines())
    assert status.pop("NoNewPrivs") == "1"
    assert {int(capabilities, 16) for capabilities in status.values()} == {0}
    assert bench.seen("interfaces") == "lo"
    assert not (bench.run_dir / "seen" / "wrote_root").exists()
    assert bench.seen("arguments") == "--spec /run-dir/spec.yaml"


def test_a_training_container_has_what_a_worker_needs(bench: Bench) -> None:
    bench.run(REPORT)
    assert bench.seen("wrote_caches") == "yes"
    assert bench.seen("from_tmp") == "ran"
    assert bench.seen("tmp_mode") == "1777"
    assert int(bench.seen("shm")) * 1024 == MEMORY // 2
    assert bench.seen("user") == "aligntune"


def test_what_a_dry_run_prints_is_what_the_engine_runs(bench: Bench) -> None:
    given = bench.command("train").arguments
    worker = bench.start("sleep 60")
    seen = bench.inspect(worker)
    config, limits = seen["Config"], seen["HostConfig"]
    assert seen["Image"] == given["image"]
    assert seen["Name"] == f"/{given['name']}"
    assert config["User"] == given["user"]
    assert config["Entrypoint"] + config["Cmd"] == given["entrypoint"] + given["command"]
    assert config["WorkingDir"] == given["working_dir"]
    assert given["labels"].items() <= config["Labels"].items()
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert given["environment"].items() <= environment.items()
    assert environment[contract.INPUT_ROOT_VARIABLE] == contract.INPUT_ROOT
    assert limits["ReadonlyRootfs"] is given["read_only"]
    assert limits["Tmpfs"] == given["tmpfs"]
    assert limits["CapDrop"] == given["cap_drop"]
    assert limits["CapAdd"] is None
    assert limits["Privileged"] is False
    assert limits["SecurityOpt"] == given["security_opt"]
    assert limits["Init"] is given["init"]
    assert limits["PidsLimit"] == given["pids_limit"]
    assert limits["ShmSize"] == given["shm_size"]
    assert limits["Memory"] == given["mem_limit"]
    assert limits["MemorySwap"] == given["memswap_limit"]
    assert limits["NetworkMode"] == given["network_mode"] == "none"
    assert not limits["Binds"]
    assert not limits["DeviceRequests"]
    mounted = {(one["Source"], one["Destination"], not one["RW"]) for one in seen["Mounts"]}
    assert mounted == {(one["source"], one["target"], one["read_only"]) for one in given["mounts"]}
    worker.kill()
    ended(worker)


def test_the_token_reaches_the_fetching_container_and_nothing_else(secretive: Bench) -> None:
    worker = secretive.start(
        'sleep 0.3; cat "$HF_TOKEN_PATH" > token; echo "$https_proxy" > proxy\n'
        "touch done; sleep 60",
        "fetch",
    )
    assert list((secretive.folder / "runtime").iterdir()) == [], "a secret is left on the host"
    told = json.dumps(secretive.inspect(worker))
    assert TOKEN not in told
    assert PASSWORD not in told
    secretive.seen("done")
    assert secretive.seen("token") == TOKEN
    assert secretive.seen("proxy") == secretive.environment["https_proxy"]
    worker.kill()
    assert TOKEN not in ended(worker).output


def test_a_training_container_has_no_secret(secretive: Bench) -> None:
    worker = secretive.start("env > env; ls /run/secrets > secrets 2>&1; touch done; sleep 60")
    secretive.seen("done")
    told = json.dumps(secretive.inspect(worker)) + secretive.seen("env") + secretive.seen("secrets")
    assert TOKEN not in told
    assert PASSWORD not in told
    assert "hf_token" not in secretive.seen("secrets")
    worker.kill()
    ended(worker)


def test_a_fetching_container_has_a_network_and_none_of_the_users_files(bench: Bench) -> None:
    end = bench.run("ls /in > in 2>&1; ls /sys/class/net > nets; echo $* > arguments", "fetch")
    assert end.code == 0
    assert "eth0" in bench.seen("nets").split()
    assert "No such file" in bench.seen("in")
    assert bench.seen("arguments").endswith("--fetch")


def test_outputs_belong_to_the_caller_who_is_not_root(stand_in: str) -> None:
    docker_group = os.stat("/var/run/docker.sock").st_gid

    def do(folder: Path) -> None:
        bench = Bench(folder, stand_in, STRANGER, {"HF_TOKEN": TOKEN})
        dataset = bench.plan(dataset="org/data")
        try:
            end = bench.run(f"{REPORT}\nmkdir model; touch model/m", plan=dataset)
            assert end.code == 0, end
            assert bench.seen("uid") == bench.seen("gid") == str(STRANGER)
            assert bench.seen("wrote_caches") == "yes"
            shutil.rmtree(bench.run_dir / "seen")
            end = bench.run('cat "$HF_TOKEN_PATH" > token', "fetch", dataset)
            assert end.code == 0, end
            assert bench.seen("token") == TOKEN
        finally:
            bench.close()

    as_stranger([docker_group], do)


def test_data_that_only_the_callers_group_may_read_can_be_read(stand_in: str) -> None:
    docker_group = os.stat("/var/run/docker.sock").st_gid
    shared = Path(tempfile.mkdtemp(prefix="aligntune-shared-"))
    (shared / "d.jsonl").write_text("rows")
    for path in (shared, shared / "d.jsonl"):
        os.chown(path, 0, 4321)
        path.chmod(0o750)

    def do(folder: Path) -> None:
        bench = Bench(folder, stand_in, STRANGER, {})
        try:
            plan = bench.plan(dataset=str(shared / "d.jsonl"))
            assert bench.run(f"cat /in{shared}/d.jsonl > rows", plan=plan).code == 0
            assert bench.seen("rows") == "rows"
        finally:
            bench.close()

    try:
        as_stranger([docker_group, 4321], do)
    finally:
        shutil.rmtree(shared)


def test_who_may_not_use_the_engine_is_told_which_group_to_join() -> None:
    def do(folder: Path) -> None:
        client, reason = connect({})
        assert client is None
        group = grp.getgrgid(os.stat("/var/run/docker.sock").st_gid).gr_name
        assert f"usermod -aG {group}" in reason

    as_stranger([], do)


def test_a_worker_killed_for_memory_is_reported(bench: Bench) -> None:
    end = bench.run("exec tail /dev/zero")
    assert (end.code, end.oom) == (137, True)


def test_a_child_killed_for_memory_is_reported_too(bench: Bench) -> None:
    end = bench.run("tail /dev/zero; echo child: $?; exit 3")
    assert (end.code, end.oom) == (3, True)
    assert "child: 137" in end.output


def test_a_kill_from_outside_is_not_called_out_of_memory(bench: Bench) -> None:
    worker = bench.start("touch ready; sleep 60")
    bench.seen("ready")
    worker.kill()
    end = ended(worker)
    assert (end.code, end.oom) == (137, False)


def test_stopping_sends_sigterm_and_waits_for_the_checkpoint(bench: Bench) -> None:
    worker = bench.start(
        "trap 'sleep 0.5; echo checkpoint; exit 75' TERM\ntouch ready\nwhile :; do sleep 0.05; done"
    )
    bench.seen("ready")
    assert worker.wait(0.05) is None
    worker.stop()
    assert worker.wait(0) is None
    end = ended(worker)
    assert (end.code, end.output) == (75, "checkpoint\n")
    assert worker.wait(0) == end


def test_a_worker_that_does_not_stop_is_killed_after_the_grace(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_worker, "GRACE_SECONDS", 0.3)
    worker = bench.start("trap '' TERM\ntouch ready\nwhile :; do sleep 0.05; done")
    bench.seen("ready")
    worker.stop()
    assert worker.wait(0.1) is None
    assert worker.wait(5) is None, "the first wait after the grace kills"
    assert ended(worker).code == 137


def test_a_worker_whose_launcher_is_killed_is_followed_to_its_end_by_another(bench: Bench) -> None:
    plan = replace(bench.plan(model=str(bench.folder / "inputs")), attempt=2)
    assert plan.phases == ("train",)
    run = RunDir(bench.run_dir)
    run.create(plan.run_id, plan.spec, plan=plan.to_dict())
    (bench.run_dir / "seen").mkdir()
    work = "cd /run-dir/seen; touch ready; while [ ! -e enough ]; do sleep 0.05; done; exit 12"
    (bench.run_dir / "script").write_text(work)
    launcher = os.fork()
    if launcher == 0:
        planner = ScriptedPlanner(bench.host, bench.engine, choose=lambda _: plan.choice)
        with contextlib.suppress(BaseException):
            execute(Prepared(plan, planner), lambda event: None)
        os._exit(1)
    bench.seen("ready")
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    client = connect()[0]
    assert client is not None
    engine = DockerEngine(client, bench.host)
    handle = run.record().handle
    assert handle == f"docker:aligntune-{plan.run_id}-train-2"
    assert engine.status(handle) == "running"
    assert run.record().exit is None
    (bench.run_dir / "seen" / "enough").touch()
    with pytest.raises(TrainingError, match="code 12"):
        attach(run, engine, lambda event: None)
    assert (run.record().status, run.record().exit) == ("failed", ExitRecord(code=12, oom=False))
    assert engine.status(handle) == "gone"
    assert engine.logs(handle) == ""
    assert bench.containers() == []
    client.close()


def test_a_worker_is_recorded_before_its_container_starts(bench: Bench) -> None:
    recorded: list[str] = []

    def record(handle: str) -> None:
        recorded.append(handle)
        assert bench.engine.status(handle) == "gone", "it was created and is not started"
        with pytest.raises(EngineError, match="was never started"):
            bench.engine.attach(handle)
        raise OutputError("no space left")

    with pytest.raises(OutputError, match="no space left"):
        bench.engine.submit(bench.command("train"), record)
    assert recorded == [f"docker:{bench.command('train').arguments['name']}"]
    assert bench.containers() == []


def test_a_worker_can_be_stopped_and_its_logs_read_by_its_handle(bench: Bench) -> None:
    worker = bench.start("trap 'exit 75' TERM; echo here; touch ready; while :; do :; done")
    bench.seen("ready")
    handle = f"docker:{worker.name}"
    assert bench.engine.logs(handle) == "here\n"
    bench.engine.stop(handle)
    assert ended(worker).code == 75


def test_the_last_output_is_kept_and_the_container_is_gone(bench: Bench) -> None:
    # One stream: the engine reads two apart, so that the order between them is chance.
    end = bench.run("seq 1000 >&2; exit 4")
    assert end.code == 4
    lines = end.output.splitlines()
    assert lines == [str(number) for number in range(1001 - len(lines), 1001)]
    assert 10 < len(lines) < 1000
    assert bench.containers() == []


def test_both_streams_are_kept(bench: Bench) -> None:
    assert set(bench.run("echo out; echo error >&2").output.split()) == {"out", "error"}


def test_a_running_container_is_found_by_its_run(bench: Bench) -> None:
    worker = bench.start("sleep 60")
    assert bench.containers() == [worker.name]
    worker.kill()
    ended(worker)


def test_a_second_container_of_the_same_phase_is_refused(bench: Bench) -> None:
    worker = bench.start("sleep 60")
    with pytest.raises(EngineError, match=r"container .* already exists"):
        bench.engine.submit(bench.command("train"), print)
    assert bench.containers() == [worker.name], "the first one must survive"
    worker.kill()
    ended(worker)


def test_a_container_that_is_removed_from_outside_is_an_error(bench: Bench) -> None:
    worker = bench.start("sleep 60")
    bench.client.api.remove_container(worker.name, force=True)
    with pytest.raises(EngineError, match="removed while the run was active"):
        worker.wait(TIMEOUT)


def test_an_input_that_has_gone_is_an_error_and_not_an_empty_folder(bench: Bench) -> None:
    command = bench.command("train")
    dataset = bench.folder / "inputs" / "d.jsonl"
    dataset.unlink()
    with pytest.raises(EngineError, match=rf"does not see {dataset}"):
        bench.engine.submit(command, print)
    assert not dataset.exists()
    assert bench.containers() == []


def test_an_image_that_has_gone_is_an_error(bench: Bench) -> None:
    bench.image = "sha256:" + "0" * 64
    with pytest.raises(ImageError, match="was removed"):
        bench.engine.submit(bench.command("train"), print)


def test_an_image_without_a_worker_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (docker_worker, docker_arguments):
        monkeypatch.setattr(module, "ENTRY_POINT", "no-such-program")
    with pytest.raises(ImageError, match="has no no-such-program"):
        bench.run("")
    assert bench.containers() == []


def test_a_gpu_that_the_engine_cannot_pass_is_refused(bench: Bench) -> None:
    plan = bench.plan()
    plan = replace(plan, choice=replace(plan.choice, gpus=("GPU-that-is-not-here",)))
    with pytest.raises(HardwareError, match="cannot pass the GPU"):
        bench.engine.submit(bench.command("train", plan), print)
    assert bench.containers() == []


def test_a_snapshot_of_a_hugging_face_cache_is_whole_and_read_only(bench: Bench) -> None:
    repository = bench.folder / "hub" / "models--org--m"
    snapshot = repository / "snapshots" / "0123abc"
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "blobs" / "aa").write_text("weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/aa")
    (bench.folder / "elsewhere").write_text("config")
    (snapshot / "config.json").symlink_to(bench.folder / "elsewhere")
    end = bench.run(
        f"cd /in{snapshot}; cat model.safetensors config.json > /run-dir/seen/read\n"
        "touch new 2> /run-dir/seen/refused; echo x >> model.safetensors; true",
        plan=bench.plan(model=str(snapshot)),
    )
    assert bench.seen("read") == "weightsconfig", end
    assert "Read-only file system" in bench.seen("refused")
    assert (repository / "blobs" / "aa").read_text() == "weights"


def test_the_callers_caches_are_one_tree_and_made_by_the_caller(bench: Bench) -> None:
    plan = bench.plan(dataset="org/data")
    script = f"touch {contract.HUB_CACHE}/h {contract.DATASETS_CACHE}/d /cache/c"
    assert bench.run(script, "fetch", plan).code == 0
    assert (bench.host.hub_cache / "h").exists()
    assert (bench.host.datasets_cache / "d").exists()
    assert (bench.host.cache / "worker" / "c").exists()
    assert not (bench.host.cache / "worker/huggingface/hub/h").exists()


def test_preparing_takes_the_image_that_is_here(bench: Bench, stand_in: str) -> None:
    plan = bench.plan()
    spec = plan.spec.model_copy(update={"image": "aligntune-test:stand-in"})
    image = Image("aligntune-test:stand-in", None, "present", "f00")
    plan = replace(plan, spec=spec, choice=replace(plan.choice, image=image))
    prepared = bench.engine.prepare(plan, print).choice.image
    assert prepared is not None
    assert prepared.id == stand_in


def test_preparing_refuses_an_image_that_is_none_of_ours(bench: Bench, engine: Any) -> None:
    name = "aligntune-test:foreign"
    engine.api.import_image_from_data(b"\0" * 10240, repository="aligntune-test", tag="foreign")
    spec = bench.plan().spec.model_copy(update={"image": name})
    try:
        with pytest.raises(ImageError, match="is not made from an aligntune image"):
            bench.engine.prepare(replace(bench.plan(), spec=spec), print)
    finally:
        engine.images.remove(name)


def test_private_files_are_the_callers_only(
    secretive: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: dict[str, int] = {}
    create = type(secretive.client.containers).create

    def spy(*arguments: Any, **keywords: Any) -> Any:
        for path in (secretive.folder / "runtime").rglob("*"):
            modes[path.name] = stat.S_IMODE(path.stat().st_mode)
        return create(*arguments, **keywords)

    monkeypatch.setattr(type(secretive.client.containers), "create", spy)
    secretive.run("true", "fetch")
    assert modes == {
        f"aligntune-{secretive.plan().run_id}": 0o700,
        "hf_token": 0o600,
        "environment": 0o600,
    }
