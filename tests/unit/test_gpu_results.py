"""What the GPU kit keeps and how it judges, without running anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.gpu import machine, stacks
from tests.gpu.__main__ import STEPS, _steps
from tests.gpu.bench import Bench
from tests.gpu.machine import GIB, NotReadyError, require_gpu, require_room
from tests.gpu.results import Results, Row
from tests.gpu.steps import matrix, memory, resume, speed

from aligntune.algorithms import ALGORITHMS
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.trainer_args import refuse_owned
from aligntune_run.host.types import Gpu, Gpus
from aligntune_run.memory.estimate import GPU_CONTEXT

H100 = Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", (9, 0), 80 * GIB, 79 * GIB)


def results(path: Path) -> Results:
    return Results(path, {"when": "now"})


def test_the_file_is_valid_after_every_row(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    kept = results(path)
    for step in ("facts", "matrix"):
        kept.begin(step)
        assert json.loads(path.read_text())["steps"][step]["status"] == "running"
        kept.add(step, Row.judge("one", True, "fine", figure=1.0))
        assert json.loads(path.read_text())["steps"][step]["rows"][0]["figures"] == {"figure": 1.0}
    kept.end("facts", 1.23)
    steps = json.loads(path.read_text())["steps"]
    assert (steps["facts"]["status"], steps["matrix"]["status"]) == ("ended", "running")


def test_a_later_call_adds_to_what_an_earlier_one_left(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    first = results(path)
    first.begin("facts")
    first.add("facts", Row.judge("one", False, "broken"))
    second = results(path)
    second.begin("matrix")
    second.add("matrix", Row.judge("two", True, "fine"))
    assert [(step, row["name"]) for step, row in second.rows()] == [
        ("facts", "one"),
        ("matrix", "two"),
    ]
    assert not second.good
    second.begin("facts")  # run again, its old rows are gone
    second.add("facts", Row.judge("one", True, "fine"))
    assert second.good


def test_nothing_checked_is_not_good(tmp_path: Path) -> None:
    kept = results(tmp_path / "results.json")
    kept.begin("facts")
    kept.add("facts", Row("one", "left out", "no GPU"))
    assert not kept.good


def test_steps_are_picked_by_name_and_by_what_comes_after() -> None:
    assert _steps(None, None) == STEPS
    assert _steps("resume,facts", None) == ("facts", "resume")
    assert _steps(None, "memory") == ("speed", "resume")
    with pytest.raises(NotReadyError, match="--only fact: the steps are facts"):
        _steps("fact", None)


def test_the_matrix_has_every_yes_of_the_table_three_times_and_8_bits_once_a_backend() -> None:
    cells = {(cell.backend, cell.algorithm, cell.kind) for cell in matrix.cells()}
    for row in ALGORITHMS.values():
        for backend in row.backends:
            assert {(backend, row.name, kind) for kind in ("full", "LoRA", "4bit")} <= cells
    assert sum(kind == "8bit" for _, _, kind in cells) == 2
    assert ("unsloth", "gspo", "full") not in cells
    assert set(matrix.REHEARSED) <= cells
    assert len(matrix.cells()) == len(cells)


def test_memory_has_twelve_cases_of_trl_and_each_is_judged_by_its_bounds() -> None:
    assert sum(case.backend == "trl" for case in memory.CASES) == 12
    assert {case.kind for case in memory.CASES} == {"full", "LoRA", "4bit"}
    assert {case.algorithm for case in memory.CASES} == {"sft", "dpo", "grpo"}
    assert {case.checkpointing for case in memory.CASES} == {True, False}
    estimate = SimpleNamespace(expected=100 * GIB, parts=())
    bench: Any = SimpleNamespace(rehearsing=False, planted="")
    for peak, verdict in ((100, "ok"), (112, "wrong"), (81, "ok"), (79, "wrong")):
        taken = {"peak_gpu": peak * GIB - GPU_CONTEXT}
        run: Any = SimpleNamespace(result={"memory": taken})
        assert memory._judge(bench, memory.CASES[0], run, estimate).verdict == verdict  # type: ignore[arg-type]


def test_every_case_is_a_request_that_the_spec_accepts(tmp_path: Path) -> None:
    (tmp_path / "models" / "toy").mkdir(parents=True)
    (tmp_path / "models" / "toy" / "config.json").write_text("{}")
    for rehearsing in (True, False):
        bench = Bench(tmp_path, tmp_path / "logs", {}, rehearsing)
        specs = [
            memory._spec(bench, case, "/models/llama")
            for case in (*memory.CASES, *memory.REHEARSED)
        ]
        specs += [
            speed._spec(bench, case, "/models/llama") for case in (*speed.CASES, *speed.REHEARSED)
        ]
        cells = [matrix.Cell(*cell) for cell in matrix.REHEARSED] if rehearsing else matrix.cells()
        specs += [matrix.spec_of(bench, cell) for cell in cells]
        kinds = [kind for name in ("trl", "unsloth") for kind in resume.kinds(name, rehearsing)]
        specs += [resume._spec(bench, kind) for kind in kinds]
        for spec in specs:
            refuse_owned(RunSpec.model_validate(spec))


def test_a_backend_slower_than_its_stock_peer_is_red() -> None:
    bench: Any = SimpleNamespace(rehearsing=True)
    case = speed.CASES[0]

    def ratio(ours: float) -> Row:
        seconds = {"ours on trl": [ours, ours], "stock trl": [1.0, 1.0]}
        return list(speed._rows(bench, case, [], seconds, {}))[-1]

    assert ratio(1.0).verdict == "ok"
    assert ratio(2.1).verdict == "wrong"
    assert ratio(0.5).figures["ratio"] == 2.0


def test_utilization_is_the_models_own_work_over_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "probe_gpus", lambda: Gpus((H100,)))
    bench: Any = SimpleNamespace(rehearsing=False)
    full = speed.Case("sft", "llama", "full", 4096, 4)
    found = speed.utilization(full, bench, 10_000)
    # 1.236 billion weights, 6 FLOP each; 6 x 16 layers x 2048 x 4096 for attention.
    expected = 10_000 * (6 * 1.2358e9 + 6 * 16 * 2048 * 4096) / 989.4e12
    assert found == pytest.approx(expected, rel=1e-3)
    adapted = speed.utilization(replace(full, kind="LoRA"), bench, 10_000)
    assert found is not None
    assert adapted is not None
    assert adapted < found
    monkeypatch.setattr(speed, "probe_gpus", lambda: Gpus((replace(H100, name="Unknown"),)))
    assert speed.utilization(full, bench, 10_000) is None


@pytest.mark.parametrize(
    ("gpus", "driver", "words"),
    [
        ((), None, "there is no NVIDIA GPU here"),
        ((H100,), "570.1", "driver 570.1 is too old: CUDA 13 needs 580.65.06"),
        (
            (replace(H100, free=40 * GIB, users=("python (pid 7)",)),),
            "580.65.06",
            r"40.0 of 80.0 GiB free. It is used by python \(pid 7\); end that first",
        ),
    ],
)
def test_a_machine_that_is_not_ready_is_one_line(
    gpus: tuple[Gpu, ...], driver: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "probe_gpus", lambda: Gpus(gpus, driver=driver))
    with pytest.raises(NotReadyError, match=words) as caught:
        require_gpu()
    assert "\n" not in str(caught.value)


def test_a_machine_without_docker_and_git_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    stacks.remove_containers(tmp_path)
    assert machine.about(rehearsing=True)["commit"] is None


def test_a_disk_that_is_full_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=GIB)
    monkeypatch.setattr("tests.gpu.machine.shutil.disk_usage", lambda _: usage)
    with pytest.raises(NotReadyError, match=r"has 1.0 GiB free and 2 are needed. Free some"):
        require_room(tmp_path, rehearsing=True)
