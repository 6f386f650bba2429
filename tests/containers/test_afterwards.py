"""What is done with finished runs by the command: evaluate, predict and push, in real images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.containers.runs import TRACEBACK, UID, Bench, Ended
from tests.helpers.hub import Hub

WORDS = ("the cat sat on the mat", "a dog ran in the park", "four", "what is two plus two")
PAIRS = [{"prompt": f"what is {WORDS[n % 4]}", "completion": f" {WORDS[n % 3]}"} for n in range(16)]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": pair["prompt"]},
            {"role": "assistant", "content": pair["completion"].strip()},
        ]
    }
    for pair in PAIRS
]
PREFERENCES = [
    {"prompt": pair["prompt"], "chosen": " four", "rejected": " a dog ran in"} for pair in PAIRS
]
PROMPTS = [{"prompt": pair["prompt"], "answer": "four"} for pair in PAIRS]
TOKEN = "hf_thisMayWrite"

HEADLINES = {
    "sft": ("loss", "perplexity"),
    "dpo": ("loss", "accuracy", "margin"),
    "grpo": ("reward", "kl"),
    "reward": ("accuracy", "margin"),
    "sft in bf16": ("loss", "perplexity"),
    "dpo in bf16": ("loss", "accuracy", "margin"),
}

Trained = Callable[[str], Ended]


@pytest.fixture(scope="module")
def trained(bench: Bench) -> Trained:
    """Each run is made once, whichever claim asks for it first."""
    rows = {
        "sft": bench.write("after-chats.jsonl", CHATS),
        "dpo": bench.write("after-preferences.jsonl", PREFERENCES),
        "grpo": bench.write("after-prompts.jsonl", PROMPTS),
    }
    rows["reward"] = rows["dpo in bf16"] = rows["dpo"]
    rows["sft in bf16"] = rows["sft"]
    words = {
        "sft": ["--lora-rank", "4", "--set=dataset.system_prompt=Be brief."],
        "dpo": ["--algo", "dpo"],
        "grpo": [
            *("--algo", "grpo", "--reward", "exact_match", "--num-generations", "4"),
            *("--max-completion-length", "8"),
        ],
        "reward": ["--algo", "reward"],
        "sft in bf16": ["--set=training.precision=bf16"],
        "dpo in bf16": ["--algo", "dpo", "--set=training.precision=bf16"],
    }
    shape = {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-3, "precision": "fp32"}
    done: dict[str, Ended] = {}

    def get(name: str) -> Ended:
        if name not in done:
            part = "--set=dataset.validation_fraction=0.25"
            done[name] = bench.train("llama", rows[name], part, *words[name], training=shape)
        assert done[name].code == 0, done[name].report
        return done[name]

    return get


def done(run: Path, folder: str) -> list[Path]:
    return sorted((run / folder).iterdir()) if (run / folder).exists() else []


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(name, marks=[pytest.mark.matrix] * name.endswith("in bf16"))
        for name in HEADLINES
    ],
)
def test_an_evaluation_of_a_run_s_own_rows_gives_the_run_s_own_figures(
    algorithm: str, bench: Bench, trained: Trained
) -> None:
    first = trained(algorithm)
    ended = bench.run("evaluate", first.run, "--json")
    assert ended.code == 0, ended.report
    record = json.loads(ended.out)
    assert record["status"] == "finished"
    assert record["task"] == {
        "kind": "evaluate",
        "of": str(first.run),
        **dict.fromkeys(("dataset", "split", "max_samples", "batch_size")),
    }
    metrics = record["result"]["metrics"]
    for name in HEADLINES[algorithm]:
        before = first.result.get(f"eval_{name}")
        if before is None:  # training GRPO without a KL penalty has no reference to tell it to
            assert (algorithm, name) == ("grpo", "kl")
            assert metrics[name] is not None
        else:
            assert metrics[name] == before, "to the last digit"
    assert record["result"]["rows"] == 4
    assert record["result"]["samples"]
    folder = Path(record["run_dir"])
    assert folder.parent == first.run / "evaluations"
    assert {path.lstat().st_uid for path in folder.rglob("*")} == {UID}


def test_an_evaluation_takes_other_rows_and_overwrites_nothing(
    bench: Bench, trained: Trained
) -> None:
    run = trained("dpo").run
    other = bench.write("after-other.jsonl", PREFERENCES[:6])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ended = bench.run("evaluate", run, "--dataset", other, "--max-samples", "5")
    assert ended.code == 0, ended.report
    assert f"evaluated 5 rows of {other}, split train" in ended.out
    assert "accuracy" in ended.out
    assert "margin" in ended.out
    assert "sample:" in ended.out
    assert all(path.read_bytes() == content for path, content in before.items())


def test_answers_are_all_that_stdout_has_and_the_same_every_time(
    bench: Bench, trained: Trained
) -> None:
    run = trained("sft").run
    words = ("predict", run, "what is four", "--max-new-tokens", "6")
    first, second = bench.run(*words), bench.run(*words, "--json")
    assert first.code == second.code == 0, first.report + second.report
    (made,) = json.loads(second.out)["result"]["predictions"]
    assert first.out == made["text"] + "\n"
    assert made["chat"] is True, "as the training data was"
    assert made["tokens"] <= 6
    assert "predict ..." in first.err
    folders = done(run, "predictions")
    assert len(folders) == 2
    asked = json.loads((folders[0] / "task.json").read_text())
    assert asked["prompts"] == ["what is four"]


def test_several_prompts_from_a_file_are_answered_in_their_order(
    bench: Bench, trained: Trained
) -> None:
    chat = [{"role": "user", "content": "what is four"}]
    file = bench.write("asked.jsonl", ["what is", chat, "four"])
    run = trained("dpo").run
    ended = bench.run(
        *("predict", run, "a dog", "--prompts", file, "--max-new-tokens", "4", "--json"),
        *("--temperature", "0.8", "--seed", "3"),
    )
    assert ended.code == 0, ended.report
    made = json.loads(ended.out)["result"]["predictions"]
    assert [one["prompt"] for one in made] == ["a dog", "what is", chat, "four"]
    assert [one["chat"] for one in made] == [False, False, True, False]
    plain = bench.run("predict", trained("sft").run, "four", "--plain", "--json")
    assert json.loads(plain.out)["result"]["predictions"][0]["chat"] is False


def test_a_reward_model_scores_texts(bench: Bench, trained: Trained) -> None:
    run = trained("reward").run
    texts = [f"{PAIRS[0]['prompt']} four", f"{PAIRS[0]['prompt']} a dog ran in"]
    ended = bench.run("predict", run, *texts, "--json")
    assert ended.code == 0, ended.report
    good, bad = (one["score"] for one in json.loads(ended.out)["result"]["predictions"])
    assert good > bad


def test_a_model_is_pushed_with_the_token_and_the_run_keeps_none_of_it(
    bench: Bench, trained: Trained
) -> None:
    run = trained("sft").run
    with Hub(writer=TOKEN, home=bench.folder / "pushed") as hub:
        variables = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(bench.folder / "push-home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
        }
        words = ("push", run, "me/model", "--private", "--message", "first")
        first = bench.run(*words, environment=variables)
        assert first.code == 0, first.report
        assert f"pushed: {hub.endpoint}/me/model at " in first.out
        again = bench.run("push", run, "me/model", environment=variables)
        assert again.code == 0, again.report
        assert hub.private == {"me/model"}
        assert hub.summaries == ["first", "Upload a model trained with aligntune-run"]
        files = hub.repositories["models", "me/model"].files
        for path in (run / "model").iterdir():
            assert files[path.name].read_bytes() == path.read_bytes()

        for token, says in (("hf_reads", "the token has no write access"), ("", "needs a token")):
            refused = bench.run(
                "push", run, "me/other", environment={**variables, "HF_TOKEN": token}
            )
            assert refused.code == 11, refused.report
            assert says in refused.err
            assert len(refused.err.strip().splitlines()) == 1
    written = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["evaluate", "{run}", "--dataset", "{other}"], 4, "prompt"),
        (["predict", "{run}", "four " * 2000], 4, "prompt 1 has"),
        (["predict", "{run}", ""], 4, "prompt 1 is empty"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: list[str], code: int, says: str, bench: Bench, trained: Trained
) -> None:
    names = {"run": str(trained("dpo").run), "other": str(bench.write("texts.txt.jsonl", PAIRS))}
    ended = bench.run(*(word.format(**names) for word in words))
    assert ended.code == code, ended.report
    last = ended.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last
    assert TRACEBACK not in ended.out + ended.err


def test_a_run_without_held_out_rows_asks_for_some_and_one_that_moved_is_the_same(
    bench: Bench, trained: Trained
) -> None:
    rows = bench.write("after-pairs.jsonl", PAIRS)
    plain = bench.train("llama", rows, training={"max_steps": 1, "precision": "fp32"})
    assert plain.code == 0, plain.report
    ended = bench.run("evaluate", plain.run)
    assert ended.code == 4
    assert "was trained without evaluation rows. Set --dataset" in ended.err
    moved = bench.folder / "moved"
    shutil.move(plain.run, moved)
    ended = bench.run("evaluate", moved, "--dataset", rows, "--json")
    assert ended.code == 0, ended.report
    assert Path(json.loads(ended.out)["run_dir"]).parent == moved / "evaluations"
