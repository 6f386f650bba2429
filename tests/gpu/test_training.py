"""On a real GPU, in the environment of a backend (``aligntune_backend`` on the path), no engine.

PYTHONPATH=shared:launcher:images/trl python -m pytest tests/gpu
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.toys import REWARD, TOYS, rows, spec_of

from aligntune.algorithms import ALGORITHMS
from aligntune.worker.backend import installed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    subprocess.run(
        [sys.executable, str(ROOT / "tests" / "helpers" / "tiny.py"), str(folder)], check=True
    )
    return folder


def train(run: Path, folder: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    run.mkdir()
    sums = [{"prompt": f"{n} plus {n} is ", "completion": f"{2 * n}"} for n in range(64)]
    data = run / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in sums))
    training = {"max_steps": 20, "learning_rate": 1e-3, "logging_steps": 1}
    spec = {
        "algorithm": "sft",
        "model": {"name": str(folder), **sections.pop("model", {})},
        "dataset": {"name": str(data), "eval_name": str(data)},
        "training": {**training, **sections.pop("training", {})},
        **sections,
    }
    return work(run, spec)


def work(run: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Have the worker do what ``spec`` says, and its record."""
    (run / "spec.yaml").write_text(json.dumps(spec))
    worker = [sys.executable, "-m", "aligntune.training", "--spec", str(run / "spec.yaml")]
    done = subprocess.run(worker, capture_output=True, text=True)
    log = run / "train.log"
    assert done.returncode == 0, done.stdout + (log.read_text()[-4000:] if log.exists() else "")
    return dict(json.loads((run / "run.json").read_text()))


def losses(run: Path) -> list[float]:
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [event["loss"] for event in events if event["event"] == "step" and "loss" in event]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2"])
def test_full_fine_tuning_learns_on_the_gpu(
    architecture: str, models: Path, tmp_path: Path
) -> None:
    record = train(tmp_path / "run", models / architecture)
    assert record["result"]["memory"]["peak_gpu"] > 0
    told = losses(tmp_path / "run")
    assert told[-1] < told[0] - 0.5


@pytest.mark.parametrize("quantization", ["none", "4bit", "8bit"])
def test_an_adapter_learns_on_the_gpu(quantization: str, models: Path, tmp_path: Path) -> None:
    record = train(
        tmp_path / "run",
        models / "llama",
        model={"quantization": quantization},
        adapter={"type": "lora", "rank": 8},
        training={"learning_rate": 5e-3},
    )
    assert record["result"]["trainable"] < record["result"]["parameters"]
    told = losses(tmp_path / "run")
    assert told[-1] < told[0] - 0.2


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toys' model, data and reward, see :mod:`tests.helpers.toys`."""
    folder = tmp_path_factory.mktemp("toy")
    script = ROOT / "tests" / "helpers" / "toys.py"
    subprocess.run([sys.executable, str(script), str(folder / "model")], check=True)
    (folder / "good.py").write_text(REWARD)
    for name in {toy.data for toy in TOYS.values()}:
        for part, made in zip(("train", "held-out"), rows(name), strict=True):
            lines = "".join(json.dumps(row) + "\n" for row in made)
            (folder / f"{name}-{part}.jsonl").write_text(lines)
    return folder


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_learns_its_toy_on_the_gpu(
    algorithm: str, adapter: bool, toy: Path, tmp_path: Path
) -> None:
    row = ALGORITHMS[algorithm]
    if installed().NAME not in row.backends:
        pytest.skip(f"the table has no {algorithm} on {installed().NAME}")
    lesson = TOYS[row.family]
    data = {"name": f"{toy}/{lesson.data}-train.jsonl"}
    spec = {
        **spec_of(algorithm, adapter, precision="auto"),
        "model": {"name": str(toy / "model")},
        "dataset": {**data, "eval_name": f"{toy}/{lesson.data}-held-out.jsonl"},
        **({"rewards": [f"{toy}/good.py:good"]} if "rewards" in row.needs else {}),
    }
    result = work(tmp_path, spec)["result"]
    assert result["memory"]["peak_gpu"] > 0
    assert lesson.learned(result)
