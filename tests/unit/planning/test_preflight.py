"""What is seen of a request's own files before anything heavy, and what a look does not do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.helpers.checkpoints import write_model, write_safetensors
from tests.helpers.hub import Hub

from aligntune.errors import DataError, HubError, ModelError, OutputError, RewardError
from aligntune.spec.run_spec import RunSpec
from aligntune_run.check import Verdict
from aligntune_run.models.facts import ModelFacts, read_model
from aligntune_run.planning.preflight import look, require_writable, trained_parameters

GOOD = {"prompt": "a", "completion": "b"}
TOKEN = "hf_secret"


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- all of a request


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text(lines(GOOD))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


class Looked(NamedTuple):
    model: ModelFacts
    findings: tuple[Verdict, ...]


@pytest.fixture
def looked(tmp_path: Path, model: Path, data: Path) -> Callable[..., Looked]:
    def looked_at(environment: dict[str, str] | None = None, **values: Any) -> Looked:
        request = {
            "algorithm": "sft",
            "model": {"name": str(model)},
            "dataset": {"name": str(data)},
            **values,
        }
        spec = RunSpec.model_validate(request)
        run = tmp_path / "runs" / "run"
        return Looked(
            *look(spec, run, tmp_path / "cache", environment or {"HF_HUB_OFFLINE": "1"}, None)
        )

    return looked_at


Looks = Callable[..., Looked]


def only_failure(inputs: Looked) -> Verdict:
    (failure,) = (finding for finding in inputs.findings if finding.level == "fail")
    assert failure.error is not None
    assert failure.error.what == failure.evidence
    return failure


def test_a_good_request_passes_every_rule_and_tells_its_model(looked: Looks, model: Path) -> None:
    inputs = looked()
    assert {finding.level for finding in inputs.findings} == {"pass"}
    rules = [finding.rule for finding in inputs.findings]
    assert rules == ["model_files", "data", "output", "disk"]
    assert inputs.model == read_model(str(model))
    evidence = " | ".join(finding.evidence for finding in inputs.findings)
    assert "parameters in bfloat16" in evidence
    assert "prompt-completion data; its first row is good" in evidence


def test_everything_that_is_wrong_is_found_at_once(looked: Looks, model: Path, data: Path) -> None:
    (model / "config.json").write_text("{")
    data.write_text("{")
    found = looked().findings
    assert {finding.rule for finding in found if finding.level == "fail"} == {"model_files", "data"}
    codes = {finding.error.exit_code for finding in found if finding.error}
    assert codes == {ModelError.exit_code, DataError.exit_code}


def test_evaluation_data_is_looked_at_too(looked: Looks, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("{")
    failure = only_failure(looked(dataset={"name": str(data), "eval_name": str(other)}))
    assert (failure.rule, type(failure.error)) == ("evaluation_data", DataError)


def test_an_adapter_has_a_configuration_and_weights(looked: Looks, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    values = {"adapter": {"type": "lora", "path": str(folder)}}
    failure = only_failure(looked(**values))
    assert (failure.rule, type(failure.error)) == ("adapter", ModelError)
    (folder / "adapter_config.json").write_text("{}")
    assert "has no weights" in only_failure(looked(**values)).evidence
    write_safetensors(folder / "adapter_model.safetensors")
    assert all(finding.level == "pass" for finding in looked(**values).findings)


@pytest.mark.parametrize(("content", "fails"), [(b"{{ messages }}", False), (b"\xff", True)])
def test_a_chat_template_is_text(
    looked: Looks, model: Path, tmp_path: Path, content: bytes, fails: bool
) -> None:
    (tmp_path / "chat.jinja").write_bytes(content)
    inputs = looked(model={"name": str(model), "chat_template": str(tmp_path / "chat.jinja")})
    found = next(finding for finding in inputs.findings if finding.rule == "chat_template")
    assert (found.level == "fail") is fails


def reward(name: str) -> dict[str, Any]:
    return {"algorithm": "grpo", "rewards": [name], "rl": {"num_generations": 4}}


@pytest.mark.parametrize(
    "code", ["def good(completions)\n", "a = '", "\x00", "(" * 1000, "-" * 100_000 + "1"]
)
def test_a_reward_file_that_is_no_python_is_told(
    looked: Looks, tmp_path: Path, data: Path, code: str
) -> None:
    data.write_text(lines({"prompt": "a"}))
    (tmp_path / "mine.py").write_text(code)
    failure = only_failure(looked(**reward(f"{tmp_path}/mine.py:good")))
    assert (failure.rule, type(failure.error)) == ("rewards", RewardError)
    assert "mine.py does not import: " in failure.evidence


@pytest.mark.parametrize("content", ["(" * 2**19, "1 + " * 2**20 + "1"])
def test_a_long_reward_file_is_left_to_the_worker(
    looked: Looks, tmp_path: Path, data: Path, content: str
) -> None:
    data.write_text(lines({"prompt": "a"}))
    (tmp_path / "mine.py").write_text(content)
    found = looked(**reward(f"{tmp_path}/mine.py:good")).findings
    assert all(finding.level == "pass" for finding in found)


def test_a_reward_file_that_is_a_pipe_is_not_waited_for(
    looked: Looks, tmp_path: Path, data: Path
) -> None:
    data.write_text(lines({"prompt": "a"}))
    os.mkfifo(tmp_path / "mine.py")
    failure = only_failure(looked(**reward(f"{tmp_path}/mine.py:good")))
    assert "it is not a file" in failure.evidence


def test_a_column_that_a_reward_reads_is_in_the_first_row(looked: Looks, data: Path) -> None:
    data.write_text(lines({"prompt": "a", "solution": "b"}))
    failure = only_failure(looked(**reward("exact_match")))
    assert (failure.rule, type(failure.error)) == ("data", DataError)
    assert "reward exact_match reads the column 'answer', which" in failure.evidence
    assert "lacks; it has: solution" in failure.evidence
    values = reward("exact_match") | {"rewards": [{"name": "exact_match"}]}
    mapped = {"name": str(data), "columns": {"answer": "solution"}}
    assert not any(one.error for one in looked(**values, dataset=mapped).findings)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["q_proj", "v_prj"], "has no module 'v_prj'; did you mean 'v_proj'?"),
        (["query_key_value"], "has no module 'query_key_value'"),
        (["q_proj", "layers.0.mlp.up_proj", "lm_head", "embed_tokens"], ""),
        ("all-linear", ""),
    ],
)
def test_a_lora_target_is_a_module_of_the_model(
    looked: Looks, targets: list[str] | str, says: str
) -> None:
    inputs = looked(adapter={"type": "lora", "targets": targets})
    if not says:
        assert not any(one.error for one in inputs.findings)
        return
    failure = only_failure(inputs)
    assert (failure.rule, failure.kind) == ("adapter_targets", "SpecError")
    assert says in failure.evidence
    assert failure.error is not None
    assert "down_proj, gate_proj, k_proj, o_proj" in failure.error.remedy


def test_a_reward_model_is_a_model_folder(looked: Looks, tmp_path: Path, data: Path) -> None:
    data.write_text(lines({"prompt": "a"}))
    folder = write_model(tmp_path / "judge")
    values = reward("length") | {"rewards": [{"model": str(folder)}]}
    assert all(finding.level == "pass" for finding in looked(**values).findings)
    (folder / "model.safetensors").unlink()
    assert "judge has no weights" in only_failure(looked(**values)).evidence


def test_a_run_directory_that_cannot_be_made_is_told(
    looked: Looks, tmp_path: Path, ordinary_user: None
) -> None:
    spec = RunSpec.model_validate(
        {"algorithm": "sft", "model": {"name": "/m"}, "dataset": {"name": "/d"}}
    )
    found = look(spec, Path("/usr/local/run"), tmp_path, {}, None)[1]
    failure = next(finding for finding in found if finding.rule == "output")
    assert isinstance(failure.error, OutputError)
    assert "cannot write to /usr/local" in failure.evidence


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "\ud800", "a\0b"])
def test_a_run_directory_has_a_name_that_a_folder_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError) as caught:
        require_writable(tmp_path / name / "run")
    assert caught.value.what.endswith(" is not a valid folder name")
    require_writable(tmp_path / ("x" * 255) / "run")


@pytest.mark.parametrize("folder", ["/proc/run", "/sys/run", "/proc/self/fd/run"])
def test_no_run_directory_is_in_what_the_kernel_shows(tmp_path: Path, folder: str) -> None:
    (tmp_path / "link").symlink_to(Path(folder).parent)
    for path in (Path(folder), tmp_path / "link" / "run"):
        with pytest.raises(OutputError, match="belongs to the kernel"):
            require_writable(path)


def test_a_disk_too_small_for_checkpoints_is_warned_of(
    looked: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    for free, level in ((10**6, "warn"), (10**9, "pass")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: type(usage)(10**12, 0, free))
        found = next(finding for finding in looked().findings if finding.rule == "disk")
        assert (found.level, found.error) == (level, None)
        assert "the result and 3 checkpoints take about" in found.evidence


def test_what_is_trained_is_the_model_or_the_adapter_beside_it() -> None:
    known = ModelFacts(parameters=1000, linear=(("q_proj", 10), ("v_proj", 6)))
    request = {"algorithm": "sft", "model": {"name": "/m"}, "dataset": {"name": "/d"}}
    for adapter, count in (
        ({}, 1000),
        ({"type": "lora", "rank": 4}, 64),
        ({"type": "lora", "rank": 4, "targets": ["q_proj"]}, 40),
    ):
        spec = RunSpec.model_validate(request | {"adapter": adapter})
        assert trained_parameters(spec, known) == count


# --- what is on the hub


@pytest.fixture
def served() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


def test_gated_and_missing_repositories_of_every_kind_are_refused_before_anything_is_fetched(
    looked: Looks, served: Hub, model: Path, data: Path
) -> None:
    served.add("models", "org/model", model, token=TOKEN)
    served.add("datasets", "org/data", data.parent, token=TOKEN)
    values = {
        "model": {"name": "org/model"},
        "dataset": {"name": "org/data"},
        "adapter": {"type": "lora", "path": "org/adapter"},
    }
    environment = {"HF_ENDPOINT": served.endpoint}
    found = [one for one in looked(environment, **values).findings if one.level == "fail"]
    assert all(isinstance(one.error, HubError) for one in found)
    assert [(one.rule, one.evidence) for one in found] == [
        ("credentials", "model org/model is gated, and this token has no access"),
        ("credentials", "no such model org/adapter on the hub"),
        ("credentials", "dataset org/data is gated, and this token has no access"),
    ]
    served.add("models", "org/adapter", model)
    inputs = looked(environment | {"HF_TOKEN": TOKEN}, **values)
    assert {one.level for one in inputs.findings} == {"pass"}
    assert (inputs.model.gated, inputs.model.granted) == (True, True)
    assert TOKEN not in repr(inputs)


def test_a_hub_that_is_out_of_reach_is_a_warning(looked: Looks) -> None:
    values = {"model": {"name": "org/model"}, "dataset": {"name": "org/data"}}
    found = looked({"HF_ENDPOINT": "http://127.0.0.1:1"}, **values).findings
    warned = [one for one in found if one.level == "warn"]
    assert ["the hub was not reached" in one.evidence for one in warned] == [True, True]
    assert not any(one.error for one in found)


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:1"}, None])
def test_a_mistyped_path_that_looks_like_a_hub_id_is_answered_with_its_neighbour(
    looked: Looks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str] | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/chats.jsonl").touch()
    values = {"model": {"name": "modl"}, "dataset": {"name": "sets/chats"}}
    found = [one for one in looked(environment, **values).findings if one.level == "fail"]
    assert [type(one.error) for one in found] == [ModelError, DataError]
    assert [one.error.remedy for one in found if one.error] == [
        "Did you mean ./model?",
        "Did you mean ./sets/chats.jsonl?",
    ]
    assert found[0].evidence.startswith("no model modl on this machine, and ")
    assert found[1].evidence.startswith("no dataset sets/chats on this machine, and ")


def test_a_hub_id_that_is_there_is_no_mistyped_path(
    looked: Looks, served: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    served.add("models", "modl", model)
    inputs = looked({"HF_ENDPOINT": served.endpoint}, model={"name": "modl"})
    assert not any(one.error for one in inputs.findings)
