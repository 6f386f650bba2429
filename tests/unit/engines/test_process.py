"""Workers as processes in a venv, with a made-up image."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.helpers.hosts import GPU, make_host
from tests.helpers.plans import make_plan

from aligntune.errors import EngineError, ImageError, OutputError
from aligntune_run.engines.base import Command
from aligntune_run.engines.local import venv
from aligntune_run.engines.local import worker as local_worker
from aligntune_run.engines.local.engine import ProcessEngine
from aligntune_run.engines.local.venv import find_python, without
from aligntune_run.engines.local.worker import ProcessWorker
from aligntune_run.host.types import Host
from aligntune_run.images.recipes import Sources
from aligntune_run.plan import Plan

TOKEN = "hf_thisIsNobodysToken"
Edited: TypeAlias = Callable[[str, str], ProcessEngine]

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
        worker.wait(60)

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
        assert "2.3 GiB to download" in asked[0]
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
