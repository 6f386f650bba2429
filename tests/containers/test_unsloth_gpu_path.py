"""The trainers that Unsloth rewrites for a GPU take our arguments and data, and learn the same.

On a stand-in for a GPU, so kernels and bitsandbytes are not exercised: see unsloth_gpu_path.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from docker import DockerClient

TESTS = Path(__file__).resolve().parents[1]

ADAPTER = {"type": "lora", "rank": 8, "targets": ["q_proj", "v_proj"]}


def rows(folder: Path) -> Path:
    path = folder / "data.jsonl"
    made = [
        {"prompt": f"{n} plus {n} is ", "completion": f"{2 * n} " * (n % 7 + 1)} for n in range(64)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.mark.parametrize("adapter", [{"type": "none"}, ADAPTER], ids=["full", "lora"])
def test_unsloths_gpu_trainer_reaches_the_loss_that_trl_reaches(
    adapter: dict[str, object],
    engine: DockerClient,
    image: Callable[[str, str], str],
    tmp_path: Path,
) -> None:
    spec = {
        "algorithm": "sft",
        "model": "/bench/models/llama",
        "dataset": {"name": "/bench/data.jsonl", "eval_name": "/bench/data.jsonl"},
        "training": {"max_steps": 12, "learning_rate": 1e-3, "precision": "fp32"},
        "adapter": adapter,
    }
    rows(tmp_path)
    for name in ("gpu_path", "trl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.yaml").write_text(json.dumps(spec))

    def run(backend: str, flavour: str, *command: str) -> None:
        engine.containers.run(
            image(backend, flavour),
            entrypoint=list(command),
            volumes={
                str(tmp_path): {"bind": "/bench", "mode": "rw"},
                str(TESTS): {"bind": "/tests", "mode": "ro"},
            },
            network_mode="none",
            remove=True,
        )

    run("trl", "cpu", "python", "/tests/tiny.py", "/bench/models", "llama")
    run(
        "unsloth",
        "cuda",
        "python",
        "/tests/unsloth_gpu_path.py",
        "--spec",
        "/bench/gpu_path/spec.yaml",
    )
    run("trl", "cpu", "aligntune-train", "--spec", "/bench/trl/spec.yaml")

    results = [
        json.loads((tmp_path / name / "run.json").read_text())["result"]
        for name in ("gpu_path", "trl")
    ]
    assert results[0]["backend"] == "unsloth"
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"], abs=0.02)


def test_our_ppo_learns_over_unsloths_patches(
    engine: DockerClient, image: Callable[[str, str], str], tmp_path: Path
) -> None:
    output: bytes = engine.containers.run(
        image("unsloth", "cuda"),
        ["/tests/unsloth_gpu_path_ppo.py", "/bench"],
        entrypoint=["python"],
        volumes={
            str(tmp_path): {"bind": "/bench", "mode": "rw"},
            str(TESTS): {"bind": "/tests", "mode": "ro"},
        },
        network_mode="none",
        remove=True,
    )
    lines = [line for line in output.decode().splitlines() if line.startswith('{"adapter"')]
    full, adapter = map(json.loads, lines)
    for told in (full, adapter):
        assert told["patched"]
        assert told["first_ratio"] == 1.0
        assert told["rewards"][1] > told["rewards"][0] + 0.1
        assert told["eval_kl"] > 0.1
    assert not full["adapter"]
    assert adapter["adapter"]
    assert (tmp_path / "False" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "True" / "model" / "adapter_model.safetensors").is_file()
