"""Tasks of finished runs: what they come to, what they read, and the plans that do them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.checkpoints import write_safetensors
from tests.helpers.hosts import make_host
from tests.helpers.scripted_engine import ScriptedPlanner

from aligntune.errors import (
    AligntuneError,
    BackendError,
    DataError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    SpecError,
)
from aligntune.record.run_dir import RunDir
from aligntune.spec.layers import Layer
from aligntune.spec.resolve import resolve
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import (
    Evaluate,
    Predict,
    Push,
    Task,
    evaluation_set,
    fitting_remedy,
    job,
    make,
    read,
    read_prompts,
    repositories,
    spec_for,
)
from aligntune_run.engines.docker.arguments import Surroundings, container_arguments
from aligntune_run.engines.local.engine import ProcessEngine
from aligntune_run.host.types import Host
from aligntune_run.plan import Choice, Image, Plan, hub_ids
from aligntune_run.planning import tasks
from aligntune_run.planning.planner import Obtaining, Planner
from aligntune_run.planning.prepare import prepare_resume
from aligntune_run.selection.select import Outcome

ROOT = Path(__file__).parents[3]


def spec_of(algorithm: str = "sft", **values: Any) -> RunSpec:
    needed = {"algorithm": algorithm, "model": "org/model", "dataset": "org/data", **values}
    return resolve([Layer("test", needed)]).spec


EVALUATE = Evaluate(of="/run")
PREDICT = Predict(of="/run", prompts=("a",))


def finished(folder: Path, spec: RunSpec, **record: Any) -> RunDir:
    """A run that has a model, as far as the host looks."""
    run = RunDir(folder / "run")
    run.create("id", spec, **record)
    run.model.mkdir()
    (run.model / "config.json").write_text('{"model_type": "llama"}')
    write_safetensors(run.model / "model.safetensors")
    run.update(status="finished")
    return run


HELD_OUT = {"name": "org/data", "eval_name": "org/held-out", "eval_split": "test"}
LORA = {"type": "lora"}


@pytest.mark.parametrize(
    ("algorithm", "values", "kind", "reads"),
    [
        ("sft", {}, "predict", []),
        ("sft", {"adapter": LORA}, "predict", ["model org/model"]),
        ("sft", {"adapter": {"path": "org/adapter"}}, "predict", ["model org/model"]),
        ("sft", {}, "evaluate", ["dataset org/held-out"]),
        ("sft", {"adapter": LORA}, "evaluate", ["model org/model", "dataset org/held-out"]),
        ("reward", {}, "evaluate", ["dataset org/held-out"]),
        ("dpo", {}, "evaluate", ["model org/model", "dataset org/held-out"]),
        (
            "dpo",
            {"adapter": {"path": "org/adapter"}},
            "evaluate",
            ["model org/model", "adapter org/adapter", "dataset org/held-out"],
        ),
        (
            "grpo",
            {"rewards": [{"model": "org/judge"}]},
            "evaluate",
            ["model org/model", "reward org/judge", "dataset org/held-out"],
        ),
        ("dpo", {"adapter": LORA}, "push", []),
    ],
)
def test_a_task_reads_what_it_needs_and_nothing_else(
    algorithm: str, values: dict[str, Any], kind: str, reads: list[str]
) -> None:
    spec = spec_of(algorithm, dataset=HELD_OUT, **values)
    tasks: dict[str, Task] = {
        "evaluate": Evaluate(of="/run"),
        "predict": Predict(of="/run", prompts=("p",)),
        "push": Push(of="/run", repository="a/b"),
    }
    assert list(hub_ids(spec, tasks[kind])) == reads
    assert [f"{kind} {name}" for kind, name, _ in repositories(spec, tasks[kind])] == reads


def test_what_is_evaluated_on_is_the_run_s_own_rows_or_what_is_named() -> None:
    plain, held_out = spec_of(), spec_of(dataset=HELD_OUT)
    part = spec_of(dataset={"name": "org/data", "validation_fraction": 0.5})

    def found(spec: RunSpec, **how: Any) -> tuple[str, str] | None:
        return evaluation_set(spec_for(spec, Evaluate(of="/run", **how)))

    assert found(held_out) == ("org/held-out", "test")
    assert found(held_out, split="dev") == ("org/held-out", "dev")
    assert found(held_out, dataset="org/other") == ("org/other", "train")
    assert found(part) == ("org/data", "train")
    assert found(part, split="test") == ("org/data", "test")
    assert found(plain, dataset="org/other", split="dev") == ("org/other", "dev")
    with pytest.raises(DataError, match="/run was trained without evaluation rows"):
        found(plain)
    task = Evaluate(of="/run", dataset="org/other", batch_size=3)
    once = spec_for(plain, task)
    assert once.training.batch_size == 3
    assert spec_for(once, task) == once


def test_a_job_is_of_a_finished_run_only(tmp_path: Path) -> None:
    task = Evaluate(of=str(tmp_path / "run"))
    with pytest.raises(OutputError, match="is not a run directory"):
        job(task)
    run = finished(tmp_path, spec_of(dataset=HELD_OUT))
    wanted = job(task)
    assert wanted.record.id == "id"
    assert wanted.new_folder().parent == run.path / "evaluations"
    assert wanted.new_folder() != wanted.new_folder()
    run.update(status="stopped")
    with pytest.raises(OutputError, match=r"has not finished \(stopped\).*--resume"):
        job(task)


@pytest.mark.parametrize(("trained", "said", "means"), [(True, None, True), (True, False, False)])
def test_a_text_is_asked_as_the_training_data_was_unless_said(
    trained: bool, said: bool | None, means: bool, tmp_path: Path
) -> None:
    run = finished(tmp_path, spec_of(), inputs={"train": {"chat": trained}})
    task = job(Predict(of=str(run.path), prompts=("p",), chat=said)).task
    assert isinstance(task, Predict)
    assert task.chat is means


def test_a_dataset_that_is_named_by_path_has_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    of = str(finished(tmp_path, spec_of()).path)
    with pytest.raises(DataError, match=r"no such dataset: rows\.jsonl"):
        job(Evaluate(of=of, dataset="rows.jsonl"))
    Path("rows.jsonl").touch()
    spec = job(Evaluate(of=of, dataset="rows.jsonl")).spec
    assert spec.dataset.eval_name == str(tmp_path / "rows.jsonl")


def test_a_task_survives_its_file(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    for task in (
        make(Evaluate, of="/run", max_samples=3, dataset=None),
        make(Predict, of="/run", prompts=["p", chat]),
        make(Push, of="/run", repository="a/b"),
    ):
        file = tmp_path / "task.json"
        file.write_text(task.model_dump_json())
        assert read(file) == task
    file.write_text('{"kind": "sing"}')
    with pytest.raises(SpecError, match="is not a task"):
        read(file)
    with pytest.raises(SpecError, match="is not a task"):
        read(tmp_path / "none.json")
    with pytest.raises(SpecError, match="temperature: Input should be greater than or equal to 0"):
        make(Predict, of="/run", prompts=["p"], temperature=-1)


def test_prompts_are_read_from_lines_of_text_or_json(tmp_path: Path) -> None:
    text, lines = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    text.write_text("one\n\ntwo words\n")
    lines.write_text('"one"\n[{"role": "user", "content": "hi"}]\n')
    assert read_prompts(text) == ["one", "two words"]
    assert read_prompts(lines) == ["one", [{"role": "user", "content": "hi"}]]
    lines.write_text("{")
    with pytest.raises(DataError, match="is not JSON lines"):
        read_prompts(lines)
    with pytest.raises(DataError, match="cannot read"):
        read_prompts(tmp_path / "none")
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="it is not UTF-8 text"):
        read_prompts(text)


# --- plans


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path, environment={"HF_ENDPOINT": "https://hub.example"})


def choice(lock: str = "f00", gpus: tuple[str, ...] = ()) -> Choice:
    image = Image("aligntune-trl:cpu-abc", "sha256:abc", "present", lock)
    return Choice("trl", "cpu", "docker", image, lock, gpus, "TRL", (), ())


def plan_of(task: Task, spec: RunSpec, gpus: tuple[str, ...] = ()) -> Plan:
    return Plan(
        "id", "/runs/r/x", spec, {}, choice(gpus=gpus), 2**33, hub_ids(spec, task), task=task
    )


@pytest.mark.parametrize("kind", ["evaluate", "predict"])
def test_a_task_runs_without_network_or_token_and_is_told_by_a_file(kind: str, host: Host) -> None:
    tasks: dict[str, Task] = {
        "evaluate": Evaluate(of="/runs/r"),
        "predict": Predict(of="/runs/r", prompts=("p",)),
    }
    spec = spec_of(dataset=HELD_OUT, adapter=LORA)
    plan = plan_of(tasks[kind], spec, ("GPU-1",))
    assert plan.phases == ("fetch", kind)
    around = Surroundings(token="/home/me/token")
    last = container_arguments(plan, host, plan.phases[-1], around)
    assert last["network_mode"] == "none"
    assert last["command"] == ["--spec", "/run-dir/spec.yaml", "--task", "/run-dir/task.json"]
    assert last["device_requests"]
    assert "HF_TOKEN_PATH" not in last["environment"]
    assert last["environment"]["HF_HUB_OFFLINE"] == "1"
    first = container_arguments(plan, host, "fetch", around)
    assert first["command"][2:] == ["--task", "/run-dir/task.json", "--fetch"]
    assert first["network_mode"] == "bridge"


def test_pushing_has_the_network_the_token_and_the_model_and_no_gpu(host: Host) -> None:
    from aligntune_run.engines.docker.mounts import Bind

    plan = plan_of(Push(of="/runs/r", repository="a/b"), spec_of(), ("GPU-1",))
    assert plan.phases == ("push",)
    model = Bind("/runs/r/model", "/in/runs/r/model")
    given = container_arguments(plan, host, "push", Surroundings((model,), token="/home/me/token"))
    assert given["network_mode"] == "bridge"
    assert given["environment"]["HF_TOKEN_PATH"] == "/run/secrets/hf_token"
    assert given["environment"]["HF_ENDPOINT"] == "https://hub.example"
    assert "HF_HUB_OFFLINE" not in given["environment"]
    assert not given["device_requests"]
    targets = {mount["target"]: mount["read_only"] for mount in given["mounts"]}
    assert targets["/in/runs/r/model"] is True


def test_a_process_does_a_task_with_the_same_words(host: Host, tmp_path: Path) -> None:
    engine = ProcessEngine(host, {"HF_TOKEN": "secret"})
    for task in (Predict(of="/r", prompts=("p",)), Push(of="/r", repository="a/b")):
        (command,) = engine.commands(plan_of(task, spec_of()))
        assert command.arguments["command"][-2:] == ["--task", "/runs/r/x/task.json"]
        assert ("HF_TOKEN" in command.arguments["without"]) is (task.kind == "predict")


class Machine:
    """What :func:`aligntune_run.planning.planner.inspect` decides, by the request."""

    def __init__(self, host: Host, lock: str = "f00", lacks: tuple[str, ...] = ()) -> None:
        self.host, self.lock, self.lacks = host, lock, lacks
        self.asked: list[RunSpec] = []
        self.models: list[str | None] = []
        self.waits: list[bool] = []

    def __call__(self, spec: RunSpec, obtaining: Obtaining, model: str | None) -> Planner:
        self.asked.append(spec)
        self.models.append(model)
        self.waits.append(obtaining.wait)
        if spec.backend in self.lacks:
            raise BackendError(f"--strict: {spec.backend} is unavailable: no GPU")
        engine: Any = None
        chosen = choice(self.lock)
        outcome = Outcome((), chosen, None, "", None)
        return ScriptedPlanner(self.host, engine, choose=lambda _: chosen, outcome=outcome)


def prepared(
    task: Task, machine: Machine, monkeypatch: pytest.MonkeyPatch, **how: str
) -> tuple[Plan, RunSpec]:
    monkeypatch.setattr(tasks, "inspect", machine)
    return tasks.prepare(task, Obtaining(), **how).plan, machine.asked[-1]


def before(backend: str = "trl", gpus: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"choice": {"backend": backend, "engine": "docker", "lock_hash": "f00", "gpus": gpus}}


def test_a_task_is_done_by_what_trained_the_run(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = {"datasets": {}, "model": {"path": "/x", "commit": "c"}}
    run = finished(tmp_path, spec_of(), plan=before(), fetched=fetched)
    machine = Machine(host)
    task = Predict(of=str(run.path), prompts=("p",))
    plan, asked = prepared(task, machine, monkeypatch)
    assert (asked.backend, asked.engine, asked.gpus, asked.strict) == ("trl", "docker", "0", True)
    assert machine.models == [str(run.model)]
    assert plan.choice.warnings == ()
    assert plan.local_inputs == (str(run.model),)
    assert plan.fetched == fetched
    assert Path(plan.run_dir).parent == run.path / "predictions"
    assert not (run.path / "predictions").exists(), "preparing changes nothing"
    _, asked = prepared(task, machine, monkeypatch, gpus="1", engine="process")
    assert (asked.gpus, asked.engine) == ("1", "process")


def test_where_that_cannot_be_had_something_else_is_chosen_with_a_warning(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path, spec_of(), plan=before("unsloth", ("GPU-1",)))
    machine = Machine(host, lacks=("unsloth",))
    task = Predict(of=str(run.path), prompts=("p",))
    plan, asked = prepared(task, machine, monkeypatch)
    assert (asked.backend, asked.strict) == ("auto", False)
    (warning,) = plan.choice.warnings
    assert "unsloth is unavailable: no GPU" in warning
    assert "TRL is used instead" in warning


def test_another_lock_than_the_run_had_is_said(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path, spec_of(), plan=before())
    task = Predict(of=str(run.path), prompts=("p",))
    plan, _ = prepared(task, Machine(host, lock="ba5"), monkeypatch)
    assert (
        "was trained with another lock (f00) than TRL cpu has now (ba5)" in plan.choice.warnings[0]
    )


def test_a_run_of_no_launcher_is_worked_on_as_its_spec_says(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path, spec_of(adapter=LORA))
    machine = Machine(host)
    _, asked = prepared(Predict(of=str(run.path), prompts=("p",)), machine, monkeypatch)
    assert (asked.backend, asked.engine, asked.strict) == ("auto", "auto", False)
    assert machine.models == ["org/model"], "an adapter's base is what a backend has to know"
    prepared(Push(of=str(run.path), repository="a/b"), machine, monkeypatch)
    assert machine.models[-1] is None
    assert machine.waits == [False, True], "who has the GPUs does not matter to a push"


def test_what_is_gone_and_needed_is_named(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = str(tmp_path / "gone")
    rows = {"name": gone, "eval_name": gone}
    run = finished(tmp_path, spec_of(model=gone, dataset=rows), plan=before())
    machine = Machine(host)
    prepared(Predict(of=str(run.path), prompts=("p",)), machine, monkeypatch)
    with pytest.raises(DataError, match="gone no longer exists, and the run needs it again"):
        prepared(Evaluate(of=str(run.path)), machine, monkeypatch)
    base = finished(tmp_path / "lora", spec_of(model=gone, adapter=LORA), plan=before())
    with pytest.raises(ModelError, match="gone no longer exists"):
        prepared(Predict(of=str(base.path), prompts=("p",)), machine, monkeypatch)


# --- commands


def command(*words: object) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT / "launcher"), str(ROOT / "shared")])
    variables = {**os.environ, "PYTHONPATH": paths, "DOCKER_HOST": "unix:///no.sock"}
    called = [sys.executable, "-m", "aligntune_run", *map(str, words)]
    return subprocess.run(called, env=variables, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["evaluate", "nowhere"], 5, "nowhere is not a run directory"),
        (["predict", "nowhere"], 2, "prompts: there are no prompts"),
        (["predict", "nowhere", "p", "--temperature", "-1"], 2, "temperature: Input should be"),
        (["predict", "nowhere", "--prompts", "none.txt"], 4, "cannot read none.txt"),
        (["push", "nowhere", "not a name"], 2, "repository: String should match"),
        (["push", "nowhere"], 2, "Missing argument 'REPOSITORY'"),
    ],
)
def test_what_a_command_refuses_is_one_line_and_a_code(
    words: list[str], code: int, says: str
) -> None:
    ended = command(*words)
    assert ended.returncode == code, ended.stderr
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_command_s_plan_is_printed_and_nothing_is_changed(tmp_path: Path) -> None:
    run = finished(tmp_path, spec_of(), plan={"choice": {"backend": "trl", "gpus": []}})
    words = ["predict", run.path, "p", "--engine", "process", "--dry-run", "--json"]
    ended = command(*words)
    assert ended.returncode == 0, ended.stderr
    (phase,) = json.loads(ended.stdout)["commands"]
    assert phase["phase"] == "predict"
    assert not (run.path / "predictions").exists()


def test_a_plan_of_training_is_json_as_before() -> None:
    plan = Plan("id", "/r", spec_of(), {}, choice(), 1, ("model m",))
    assert plan.phases == ("fetch", "train")
    assert json.dumps(plan.to_dict())
    assert plan.local_inputs == plan.spec.local_inputs


@pytest.mark.parametrize(
    ("task", "error", "says"),
    [
        (EVALUATE, DataError("x", "Map the columns, e.g. --set dataset.columns.a=b"), "--dataset"),
        (EVALUATE, DataError("x", "Set dataset.split"), "--split"),
        (EVALUATE, DataError("x", "Use --algo dpo, or other data"), "rename the columns"),
        (EVALUATE, DataError("x", "Fix that row"), "Fix that row"),
        (EVALUATE, OutOfMemoryError("x", "Lower training.batch_size"), "Lower --batch-size"),
        (EVALUATE, OutputError("x", "Set dataset.split"), "Set dataset.split"),
        (PREDICT, OutOfMemoryError("x", "use --lora-rank"), "Lower --max-new-tokens"),
    ],
)
def test_a_task_s_error_names_the_task_s_own_options(
    task: Task, error: AligntuneError, says: str
) -> None:
    remedy = fitting_remedy(task, error)
    assert says in remedy
    if says not in error.remedy:
        assert "--set" not in remedy
        assert "training." not in remedy


def test_a_mistyped_run_is_answered_with_its_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished(tmp_path, spec_of())
    with pytest.raises(OutputError, match=r"Did you mean \./run\?"):
        job(Evaluate(of=str(tmp_path / "runn")))
    with pytest.raises(OutputError, match=r"Did you mean \./run\?"):
        prepare_resume(Path("runn"), Obtaining())
    with pytest.raises(OutputError, match="Name the folder of a finished run"):
        job(Evaluate(of=str(tmp_path / "other")))


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    for name, text in (("a.txt", "hello"), ("a.jsonl", '"hello"')):
        (tmp_path / name).write_text(f"\ufeff{text}\n", encoding="utf-8")
        assert read_prompts(tmp_path / name) == ["hello"]
