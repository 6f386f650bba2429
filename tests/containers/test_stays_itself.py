"""A run stays itself: resumed, trained further, or ended by a library in the middle."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.containers.runs import TRACEBACK, Bench, wait_for_step

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"who are you, {number}"},
            {"role": "assistant", "content": "one"},
        ]
    }
    for number in range(8)
]
PAIRS = [
    {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
] * 4
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LEAVES = """
import os
calls = []

def leave(completions, **columns):
    calls.append(1)
    if len(calls) > 1:
        os._exit(0)
    return [0.0 for _ in completions]
"""
SHORT = {"max_steps": 1, "precision": "fp32"}


def test_a_run_is_resumed_with_the_rows_that_it_began_with_or_not_at_all(bench: Bench) -> None:
    data = bench.write("changing.jsonl", CHATS)
    run = bench.output()
    words: list[str | Path] = [
        "--algo",
        "sft",
        "--model",
        bench.models / "llama",
        "--dataset",
        data,
    ]
    words += ["--gpus", "0", "--engine", "docker", "--pull", "never", "--output", run]
    words += ["--max-steps", "400", "--save-steps", "5", "--set=training.precision=fp32"]
    with bench.start(*words) as command:
        wait_for_step(run, 11)
        command.send_signal(signal.SIGTERM)
        _, err = command.communicate(timeout=120)
    assert command.returncode == 75, err

    bench.write(data.name, CHATS[:7])
    refused = bench.run("--resume", run, run=run)
    assert refused.code == 4, refused.report
    assert f"the training data ({data}, split train) has changed since" in refused.err
    assert TRACEBACK not in refused.report
    assert (run / "checkpoints").is_dir(), "nothing of the run is lost"

    bench.write(data.name, CHATS)
    (run / "spec.yaml").write_text(
        (run / "spec.yaml").read_text(encoding="utf-8").replace("max_steps: 400", "max_steps: 30")
    )
    resumed = bench.run("--resume", run, run=run)
    assert resumed.result["steps"] == 30
    assert f"resuming from step {resumed.result['resumed_from']}" in resumed.out
    assert "has changed since the run began: training.max_steps 400 -> 30" in resumed.out


def test_dpo_keeps_the_template_and_the_names_of_the_sft_that_it_starts_from(bench: Bench) -> None:
    template = bench.write("own.jinja", TEMPLATE)
    chats, pairs = bench.write("chats.jsonl", CHATS), bench.write("pairs.jsonl", PAIRS)
    own = f"--set=model.chat_template={template}"
    taught = bench.train("llama", chats, own, "--lora-rank", "4", training=SHORT)
    assert taught.code == 0, taught.report
    evaluated = f"--set=dataset.eval_name={pairs}"
    ended = bench.train(taught.run, pairs, evaluated, algo="dpo", training=SHORT)
    prompt = ended.result["samples"][0]["prompt"]
    assert prompt.startswith("user: q")
    assert "<|user|>" not in prompt
    assert ended.record["parent"] == {
        "id": taught.record["id"],
        "run_dir": str(taught.run),
        "algorithm": "sft",
        "base": str(bench.models / "llama"),
    }
    short = taught.record["id"].rpartition("-")[2]
    assert ended.out.startswith(f"dpo of {short} with ")
    card = (Path(ended.run) / "model" / "README.md").read_text(encoding="utf-8")
    assert card.partition("# ")[2].startswith("llama, dpo")
    assert f"after sft in run `{taught.record['id']}`" in card


def test_a_worker_that_a_library_ends_with_code_0_has_failed(bench: Bench) -> None:
    reward = bench.write("leaves.py", LEAVES)
    prompts = bench.write("leaving.jsonl", [{"prompt": "a"}] * 8)
    words = ["--reward", f"{reward}:leave", "--num-generations", "4"]
    words += ["--batch-size", "4", "--max-completion-length", "8"]
    ended = bench.train("llama", prompts, *words, algo="grpo", training={"max_steps": 4})
    assert ended.code == 12, ended.report
    assert "the worker ended with code 0 in the middle of train" in ended.err
    assert ended.record["status"] == "failed"
    assert ended.record["exit"] == {"code": 0, "oom": False}
    assert json.loads(json.dumps(ended.record["error"]))["kind"] == "TrainingError"
