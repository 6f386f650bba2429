"""What a run does where nobody says how, what it says before its first step, and what it keeps."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.containers.learning import Learning
from tests.containers.runs import TIMEOUT, Bench, Ended, in_image, wait_for_step

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"what is {one} plus {two}"},
            {"role": "assistant", "content": f"{one + two}"},
        ]
    }
    for one in range(8)
    for two in range(5)
]
QUICK = ("--set=training.precision=fp32", "--set=training.logging_steps=1")
PRINT_TEMPLATE = """
import json
from pathlib import Path
import trl
folder = Path(trl.__file__).parent / "chat_templates"
print(json.dumps((folder / "qwen3.jinja").read_text(encoding="utf-8")))
"""
UNMARKED = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def chats(bench: Bench) -> Path:
    return bench.write("sums.jsonl", CHATS)


def recipe_of(ended: Ended) -> dict[str, Any]:
    """The recipe in the record, which the event also has."""
    assert ended.code == 0, ended.report
    found = dict(ended.record["recipe"])
    assert ended.events("start")[-1]["recipe"] == found
    return found


def test_a_chat_run_with_no_settings_says_before_its_first_step_what_it_will_do(
    bench: Bench, chats: Path
) -> None:
    words = [*QUICK, "--val-fraction", "0.2", "--lora-rank", "4", "--lr", "1e-3"]
    ended = bench.train("qwen3", chats, *words, training={})
    recipe = recipe_of(ended)
    assert (recipe["rows"], recipe["held_out"]) == (32, 8)
    assert (recipe["batch_size"], recipe["accumulation"], recipe["effective_batch"]) == (8, 2, 16)
    assert (recipe["epochs"], recipe["steps"], recipe["warmup_steps"]) == (3, 6, 1)
    assert recipe["adapter"] == "LoRA rank 4, alpha 8"
    assert recipe["learns"] == "assistant turns only"
    assert 0 < recipe["learned_tokens"] < recipe["tokens"] / 2
    assert recipe["origins"]["training.learning_rate"] == "--lr"
    assert recipe["origins"]["training.schedule"] == "default for sft"
    learned = "".join(text for text, is_learned in recipe["example"] if is_learned)
    assert learned in {f"{sum_}<|end|>" for sum_ in range(12)}
    first_step = ended.out.index("step 1/6")
    for said in (
        "32 rows (8 held out)",
        "batch 8 x 2 x 1 = 16 sequences (default)",
        "learning rate 0.001 (--lr)",
        "cosine (default for sft)",
        "warm-up 3 % = 1 step (default for sft)",
        "learns assistant turns only",
        f"<|assistant|>«{learned}»",
    ):
        assert said in ended.out[:first_step], said


def test_a_template_without_marks_learns_every_token_and_says_so(bench: Bench, chats: Path) -> None:
    template = bench.write("unmarked.jinja", UNMARKED)
    words = [*QUICK, "--max-steps", "1", f"--set=model.chat_template={template}"]
    ended = bench.train("qwen3", chats, *words, training={})
    recipe = recipe_of(ended)
    assert recipe["learns"] == "every token"
    assert recipe["learned_tokens"] == recipe["tokens"]
    assert "does not mark assistant turns" in ended.out


def test_a_key_turns_the_marks_off(bench: Bench, chats: Path) -> None:
    words = [*QUICK, "--max-steps", "1", "--set=training.assistant_only_loss=false"]
    recipe = recipe_of(bench.train("qwen3", chats, *words, training={}))
    assert recipe["learned_tokens"] == recipe["tokens"]


def test_trl_s_template_marks_the_turns_of_a_model_s_own_and_a_note_says_how_it_differs(
    image: Callable[[str, str], str], bench: Bench
) -> None:
    script = bench.write("template.py", PRINT_TEMPLATE)
    printed = in_image(image("trl", "cpu"), script, bench)
    template = bench.write("qwen3.jinja", json.loads(printed.splitlines()[-1]))
    twice = [{"messages": CHATS[n]["messages"] + CHATS[n + 1]["messages"]} for n in range(20)]
    rows = bench.write("two-turns.jsonl", [*CHATS[:4], *twice])
    words = [*QUICK, "--max-steps", "1", f"--set=model.chat_template={template}"]
    ended = bench.train("qwen3", rows, *words, training={})
    recipe = recipe_of(ended)
    assert recipe["learns"] == "assistant turns only"
    learned = "".join(text for text, is_learned in recipe["example"] if is_learned)
    assert learned.startswith("<think>\n\n</think>\n\n"), recipe["example"]
    assert learned.rstrip().endswith("<|im_end|>"), recipe["example"]
    # Qwen's own template leaves empty thoughts out of earlier turns.
    assert "20 of the first 24 rows are rendered differently by TRL's training" in ended.out


def test_few_rows_are_not_accumulated_beyond_their_number(bench: Bench) -> None:
    few = bench.write("few.jsonl", CHATS[:10])
    ended = bench.train("llama", few, *QUICK, training={})
    recipe = recipe_of(ended)
    assert (recipe["accumulation"], recipe["steps"]) == (1, 6)
    assert "batch 8 x 1 x 1 = 8 sequences (default; few rows)" in ended.out


OVERFITS = {
    "max_steps": 36,
    "eval_steps": 4,
    "save_steps": 12,
    "learning_rate": 3e-2,
    "schedule": "constant",
    "logging_steps": 1,
}


def overfitting(learning: Learning, algorithm: str = "sft", **training: Any) -> dict[str, Any]:
    """A spec whose evaluation is best long before its end: few rows, and far too high a rate."""
    spec = learning.spec(algorithm, **{**OVERFITS, **training})
    spec["dataset"]["max_samples"] = 8
    return spec


def evaluations(ended: Ended) -> list[tuple[int, float]]:
    return [(event["step"], event["loss"]) for event in ended.events("evaluate")]


@pytest.mark.matrix
def test_the_best_checkpoint_is_the_result_after_a_stop_too(learning: Learning) -> None:
    bench = learning.bench
    last = learning.train(overfitting(learning))
    step, loss = min(evaluations(last), key=lambda pair: pair[1])
    assert step < 36, "the run must get worse for this test to show anything"
    assert last.result["best"] == {"figure": "loss", "value": loss, "step": step, "kept": False}
    assert f"the best evaluation was at step {step}" in last.out
    assert "training.keep_best=true would have kept it" in last.out

    kept = learning.train(overfitting(learning, keep_best=True))
    assert kept.result["best"] == {"figure": "loss", "value": loss, "step": step, "kept": True}
    assert kept.result["eval_loss"] == loss
    assert kept.events("evaluate")[-1]["step"] == step
    assert f"(best loss {loss:.4f} at step {step}, kept)" in kept.out

    run = bench.output()
    with bench.start(*learning.words(overfitting(learning, keep_best=True), run)) as command:
        wait_for_step(run, step + 5)
        command.send_signal(signal.SIGTERM)
        _, err = command.communicate(timeout=TIMEOUT)
    assert command.returncode == 75, err
    resumed = bench.run("--resume", run, run=run)
    assert resumed.result["best"] == kept.result["best"]
    assert resumed.result["eval_loss"] == loss
    assert weights(resumed) == weights(kept)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("algorithm", "adapter"),
    [
        ("sft", True),
        ("dpo", True),
        ("kto", False),
        ("reward", True),
        ("ppo", False),
        ("grpo", True),
    ],
)
def test_every_family_keeps_its_best(algorithm: str, adapter: bool, learning: Learning) -> None:
    steps = {"max_steps": 9, "eval_steps": 2, "save_steps": 4, "keep_best": True}
    toy = learning.toy(algorithm)
    ended = learning.train(learning.spec(algorithm, adapter=adapter, **steps))
    result = ended.result
    *during, last = [(event["step"], event[toy.figure]) for event in ended.events("evaluate")]
    assert [step for step, _ in during] == [2, 4, 6, 8, 9]
    value = (min if toy.low else max)(value for _, value in during)
    step = next(step for step, seen in during if seen == value)
    assert result["best"] == {"figure": toy.figure, "value": value, "step": step, "kept": True}
    assert last == (step, value) == (step, result[f"eval_{toy.figure}"])


def weights(ended: Ended) -> bytes:
    name = "model.safetensors"
    return (ended.run / "model" / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--lora-target", "q_proj,k_porj"],
            "no module 'k_porj'; did you mean 'k_proj'? Its linear layers are down_proj, gate_proj",
        ),
        (
            ["--lora-rank", "4", "--set=adapter.modules_to_save=[lm_haed]"],
            "no module 'lm_haed'; did you mean 'lm_head'?",
        ),
    ],
)
def test_an_adapter_names_modules_that_exist(
    words: Sequence[str], says: str, bench: Bench, chats: Path
) -> None:
    ended = bench.train("llama", chats, *words, training={})
    assert ended.code == 2, ended.report
    assert says in ended.err.replace("\n", " ")
    assert not ended.run.exists() or not ended.events("start"), "refused before the first step"


@pytest.mark.matrix
def test_modules_to_save_are_trained_and_saved_whole(bench: Bench, chats: Path) -> None:
    words = ["--lora-rank", "4", "--set=adapter.modules_to_save=[lm_head]", "--val-fraction", "0.2"]
    ended = bench.train("llama", chats, *words)
    result = ended.result
    content = (ended.run / "model" / "adapter_model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    whole = [tensor["shape"] for name, tensor in header.items() if "lm_head" in name]
    config = json.loads((bench.models / "llama" / "config.json").read_text())
    assert whole == [[config["vocab_size"], config["hidden_size"]]]
    again = bench.run("evaluate", ended.run)
    assert again.code == 0, again.report
    assert f"{result['eval_loss']:.6g}" in again.out
