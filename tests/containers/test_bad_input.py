"""What bad input gets: its exit code, one clear line, no traceback, and nothing written over."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.containers.runs import ROOTED, TRACEBACK, UID, Bench, Ended, bare, copy_program

PAIRS = [{"prompt": "a", "chosen": " b", "rejected": " c"}] * 8
ANSWERS = [{"prompt": "a", "completion": " b", "label": True}] * 8
PROMPTS = [{"prompt": f"{n} plus {n} is", "answer": str(2 * n)} for n in range(8)]
GROUPS = ["--reward", "exact_match", "--num-generations", "4"]
GOOD = [{"prompt": f"{n} plus {n} is", "completion": f" {2 * n}"} for n in range(8)]
CHAT = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}]


@pytest.fixture(scope="session")
def good(bench: Bench) -> Path:
    return bench.write("good.jsonl", GOOD)


def refused(
    ended: Ended, code: int, says: str, *, before: bool = False, theirs: bool = False
) -> None:
    """What every failure has in common; ``before`` a run directory was made, or in a container.

    The log may tell where in ``theirs``, the user's own code, it failed.
    """
    assert ended.code == code, ended.report
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert len(lines) == 1, ended.report
    assert lines[0].startswith("error: ")
    assert re.search(says, lines[0]), lines[0]
    assert TRACEBACK not in ended.out + ended.err
    assert not (ended.run / "model").exists()
    if before:
        assert not ended.run.exists(), "nothing was written"
    else:
        assert ended.record["status"] == "failed"
        assert ended.record["error"]["what"] in lines[0]
        log = (ended.run / "train.log").read_text(encoding="utf-8", errors="replace")
        assert theirs or TRACEBACK not in log, "foreseen, so no traceback anywhere"


# --- refused on the host, before anything starts


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--set=training.epoch=1"], 2, r"unknown key .*did you mean 'training\.epochs'\?"),
        (["--set=training.learning_rate=-1"], 2, r"training\.learning_rate .*not -1"),
        (["--set=trainer_args.neftune_alpha=5"], 2, r"did you mean 'neftune_noise_alpha'\?"),
        (["--set=training.optimizer=adamw_trch"], 2, r"no 'adamw_trch' in transformers"),
        (["--set=training.optimizer=lomo"], 2, r"lomo needs the package lomo-optim, which the im"),
        (["--set=trl.use_liger_kernel=true"], 2, r"needs the package liger-kernel, which the im"),
        (["--model", "./nowhere"], 3, r"no such model: \./nowhere"),
        (["--dataset", "nowhere.jsonl"], 4, r"no such dataset: nowhere\.jsonl"),
        (["--output", "/usr/local/run"], 5, r"cannot write to /usr/local"),
        (["--lora-target", "no_proj"], 2, r"adapter\.targets: .* has no module 'no_proj'"),
        (["--num-train-epochs", "1"], 2, r"no such option: .*did you mean '--epochs'\?"),
        (["--gpus", "2"], 8, r"--gpus 2: this machine has [01]\b"),
        (["--image", "nobodys/image:none"], 7, r"nobodys/image:none"),
        (["--backend", "unsloth", "--strict"], 9, r"--strict: Unsloth is unavailable"),
    ],
)
def test_what_is_refused_on_the_host(
    words: list[str], code: int, says: str, bench: Bench, good: Path
) -> None:
    if "/usr/local/run" in words and UID == 0:
        pytest.fail("run as root or as a user who may not write to /usr")
    refused(bench.train("llama", good, *words), code, says, before=True)


@pytest.mark.parametrize(
    ("algorithm", "words", "code", "says"),
    [
        ("grpo", [], 2, r"grpo needs a reward: --reward NAME"),
        ("ppo", [], 2, r"ppo needs a reward"),
        ("ppo", ["--reward", "lenght"], 2, r"did you mean 'length'\?"),
        ("grpo", ["--reward", "nowhere.py:f"], 2, r"no such file: nowhere\.py"),
        ("sft", ["--reward", "length"], 2, r"rewards does not apply to sft, only to .*grpo"),
        (
            "rloo",
            ["--reward", "exact_match", "--num-generations", "3"],
            2,
            r"the 4 completions of a step .* must be a multiple of rl\.num_generations=3",
        ),
        ("dpo", ["--set=trainer_args.packing_strategy=bfd"], 2, r"trainer_args\.packing_strategy"),
        ("dpo", ["--set=preference.betta=1"], 2, r"did you mean 'preference\.beta'\?"),
        ("dpo", ["--set=trainer_args.beta=1"], 2, r"Set preference\.beta"),
        ("gspo", [*GROUPS, "--set=trainer_args.loss_type=bnpo"], 2, r"it defines gspo"),
        (
            "gspo",
            [*GROUPS, "--backend", "unsloth", "--strict"],
            9,
            r"--strict: Unsloth is unavailable: Group Sequence .* does not run on Unsloth",
        ),
    ],
)
def test_what_an_algorithm_cannot_do_is_refused_on_the_host(
    algorithm: str, words: list[str], code: int, says: str, bench: Bench
) -> None:
    rows = bench.write("rows.jsonl", PAIRS if algorithm == "dpo" else PROMPTS)
    ended = bench.train("llama", rows, *words, algo=algorithm)
    refused(ended, code, says, before=True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"trl": {"use_kernels": True}}, "trl.use_kernels=true needs the package kernels, which"),
        ({"training": {"optimizer": "grokadamw"}}, "needs the package grokadamw, which is not"),
    ],
)
def test_a_worker_without_a_launcher_refuses_what_needs_a_missing_package(
    given: dict[str, Any],
    says: str,
    engine: Any,
    image: Callable[[str, str], str],
    bench: Bench,
    good: Path,
) -> None:
    model = {"name": str(bench.models / "llama")}
    spec = {"algorithm": "sft", "model": model, "dataset": {"name": str(good)}, **given}
    ended = bare(image("trl", "cpu"), bench, spec)
    assert ended.code == 2, ended.report
    assert says in ended.record["error"]["what"]
    phases = [event["name"] for event in ended.events("phase")]
    assert phases == ["import"], "before the model is loaded"


def test_a_typing_error_in_a_yaml_file_is_named(bench: Bench, good: Path) -> None:
    path = bench.write("typo.yaml", "algorithm: grpo\nrl: {num_generation: 4}\n")
    ended = bench.run("-c", path, "--model", bench.models / "llama", "--dataset", good)
    assert ended.code == 2
    assert "typo.yaml" in ended.err
    assert "did you mean 'rl.num_generations'?" in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_gspo_is_trls_whatever_was_asked_for(bench: Bench) -> None:
    rows = bench.write("prompts.jsonl", PROMPTS)
    ended = bench.train("llama", rows, *GROUPS, "--backend", "unsloth", "--dry-run", algo="gspo")
    assert ended.code == 0, ended.report
    assert "gspo with TRL " in ended.out + ended.err
    assert "WARNING: Unsloth is unavailable: Group Sequence" in ended.err


def test_an_unknown_algorithm_is_named(bench: Bench, good: Path) -> None:
    ended = bench.train("llama", good, "--algo", "sfd")
    assert ended.code == 2
    assert "'sfd' is not" in ended.err
    assert TRACEBACK not in ended.err
    refused(bench.run("--set", "algorithm=sfd", run=ended.run), 2, "missing", before=True)


def test_no_engine(bench: Bench, good: Path) -> None:
    nowhere = {"DOCKER_HOST": f"unix://{bench.folder}/no.sock"}
    ended = bench.train("llama", good, environment=nowhere)
    refused(ended, 6, r"no container engine: .*no\.sock.*--engine process", before=True)


def test_an_engine_on_another_machine(bench: Bench, good: Path) -> None:
    ended = bench.train("llama", good, environment={"DOCKER_HOST": "ssh://me@elsewhere"})
    refused(ended, 6, r"elsewhere", before=True)


def test_an_image_that_is_missing_and_may_not_be_obtained(bench: Bench, good: Path) -> None:
    other = copy_program(bench.folder / "changed")
    with (other / "images" / "Dockerfile").open("a") as file:
        file.write("# another environment, and so another image\n")
    ended = bench.train("llama", good, program=other)
    refused(ended, 7, r"--pull never", before=True)


def test_a_finished_run_is_left_as_it_is(bench: Bench, good: Path) -> None:
    run = bench.output()
    run.mkdir()
    (run / "run.json").write_text('{"status": "finished", "id": "a"}')
    bench.give_away()
    for words in (["--output", str(run)], ["--output", str(run), "--dry-run"]):
        ended = bench.train("llama", good, *words)
        refused(ended, 5, r"already holds a run \(finished\)", before=True)
    resumed = bench.run("--resume", run)
    assert (resumed.code, TRACEBACK in resumed.err) == (5, False)
    assert [path.name for path in run.iterdir()] == ["run.json"]
    assert (run / "run.json").read_text() == '{"status": "finished", "id": "a"}'


def test_a_folder_of_something_else_is_left_as_it_is(bench: Bench, good: Path) -> None:
    run = bench.output()
    run.mkdir()
    (run / "thesis.tex").touch()
    bench.give_away()
    refused(bench.train("llama", good, "--output", run), 5, r"is not empty", before=True)
    assert [path.name for path in run.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot read"),
    ],
)
def test_a_model_folder_that_is_not_whole(
    spoil: Callable[[Path], Any], says: str, bench: Bench, good: Path, tmp_path: Path
) -> None:
    folder = bench.models / f"spoilt-{tmp_path.name}"
    shutil.copytree(bench.models / "llama", folder)
    spoil(folder)
    bench.give_away()
    refused(bench.train(folder.name, good), 3, says, before=True)


def test_a_vision_model(bench: Bench, good: Path) -> None:
    folder = bench.models / "llava"
    shutil.copytree(bench.models / "llama", folder)
    (folder / "config.json").write_text('{"model_type": "llava", "vision_config": {}}')
    bench.give_away()
    refused(
        bench.train("llava", good), 3, "llava is a vision model, and its transformers", before=True
    )


# --- the data's first rows are looked at before, all of them by the worker


@pytest.mark.parametrize(
    ("name", "rows", "words", "says"),
    [
        (
            "malformed.jsonl",
            json.dumps(GOOD[0]) + '\n{"prompt": "a"\n',
            [],
            r"malformed\.jsonl, line 2: not valid JSON",
        ),
        ("empty.jsonl", "", [], r"empty\.jsonl has no rows"),
        (
            "mixed.jsonl",
            [*GOOD[:3], {"text": "a"}],
            [],
            r"mixed\.jsonl, line 4: no column 'prompt'",
        ),
        (
            "good.jsonl",
            GOOD,
            ["--set=dataset.columns.prompt=promt"],
            r"no column 'promt'; .*did you mean 'prompt'\?",
        ),
        ("good.jsonl", GOOD, ["--set=dataset.split=test"], r"has no split 'test'"),
    ],
)
def test_bad_first_rows(name: str, rows: Any, words: list[str], says: str, bench: Bench) -> None:
    refused(bench.train("llama", bench.write(name, rows), *words), 4, says, before=True)


@pytest.mark.parametrize(
    ("algorithm", "rows", "says"),
    [
        ("sft", PAIRS, r"preference.*dpo or reward"),
        ("dpo", GOOD, r"prompt.completion.*sft"),
        ("dpo", ANSWERS, r"unpaired.*kto"),
        ("reward", GOOD, r"prompt.completion.*sft"),
    ],
)
def test_rows_that_are_for_another_algorithm(
    algorithm: str, rows: list[dict[str, Any]], says: str, bench: Bench
) -> None:
    data = bench.write("other.jsonl", rows)
    refused(bench.train("llama", data, algo=algorithm), 4, says, before=True)


# --- found by the worker


@pytest.mark.parametrize(
    ("rows", "words", "code", "says"),
    [
        ([*GOOD * 400, {"text": "a"}], [], 4, r"line \d+: no column 'prompt'"),
        (GOOD, ["--max-length", "2"], 4, r"no row has a token to learn"),
    ],
)
def test_bad_rows(
    rows: list[dict[str, Any]], words: list[str], code: int, says: str, bench: Bench
) -> None:
    refused(bench.train("llama", bench.write("rows.jsonl", rows), *words), code, says)


def test_answers_that_are_all_good(bench: Bench) -> None:
    data = bench.write("other.jsonl", ANSWERS)
    refused(bench.train("llama", data, algo="kto"), 4, r"every answer is labelled good")


REWARDS = {
    "unknown.py": "import nothing_that_exists\n",
    "broken.py": "def good(completions)\n",
    "other.py": "def goood(completions):\n    return [0.0] * len(completions)\n",
}


@pytest.mark.parametrize(
    ("file", "code", "says"),
    [
        ("unknown.py", 13, r"unknown\.py does not import: line 1: .*nothing_that_exists"),
        ("other.py", 2, r"no function 'good'; did you mean 'goood'\?"),
    ],
)
def test_a_reward_file_that_cannot_be_used(file: str, code: int, says: str, bench: Bench) -> None:
    reward = bench.write(file, REWARDS[file])
    rows = bench.write("prompts.jsonl", PROMPTS)
    words = ["--reward", f"{reward}:good", "--num-generations", "4"]
    ended = bench.train("llama", rows, *words, algo="grpo")
    refused(ended, code, says, theirs=True)
    assert not ended.events("start"), "training has not begun"


def test_a_reward_file_that_is_no_python(bench: Bench) -> None:
    reward = bench.write("broken.py", REWARDS["broken.py"])
    rows = bench.write("prompts.jsonl", PROMPTS)
    words = ["--reward", f"{reward}:good", "--num-generations", "4"]
    ended = bench.train("llama", rows, *words, algo="grpo")
    refused(ended, 13, r"broken\.py does not import: line 1: ", before=True)


def test_a_reward_model_without_a_reward_head(bench: Bench) -> None:
    rows = bench.write("prompts.jsonl", PROMPTS)
    words = ["--reward-model", str(bench.models / "qwen2"), "--num-generations", "4"]
    ended = bench.train("llama", rows, *words, algo="grpo")
    refused(ended, 3, r"qwen2")
    assert not ended.events("start")


def test_the_wrong_tokenizer(bench: Bench, good: Path) -> None:
    folder = bench.models / "wrong-tokenizer"
    shutil.copytree(bench.models / "llama", folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    last = max(token["id"] for token in tokenizer["added_tokens"])
    size = max(last, *tokenizer["model"]["vocab"].values()) + 1
    tokenizer["added_tokens"] += [
        {**tokenizer["added_tokens"][0], "id": size + n, "content": f"<|{n}|>"} for n in range(99)
    ]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    bench.give_away()
    refused(bench.train(folder.name, good), 3, r"wrong tokenizer: it has \d+ tokens")


def test_chat_data_without_a_chat_template(bench: Bench) -> None:
    folder = bench.models / "no-template"
    ignored = shutil.ignore_patterns("chat_template.jinja")
    shutil.copytree(bench.models / "llama", folder, ignore=ignored)
    bench.give_away()
    ended = bench.train(folder.name, bench.write("chat.jsonl", CHAT))
    refused(ended, 3, r"no-template has no chat template, but the data is chat")


def test_a_loss_that_is_no_number(bench: Bench, good: Path) -> None:
    words = ["--lr", "1e20", "--set=training.max_grad_norm=0", "--set=training.logging_steps=1"]
    refused(bench.train("llama", good, *words, training={"max_steps": 8}), 12, r"the loss is")


def test_a_run_killed_for_memory(bench: Bench, good: Path) -> None:
    refused(bench.train("llama", good, "--set=memory=150m"), 10, r"it needs at least", before=True)
    ended = bench.train("llama", good, "--set=memory=150m", "--set=fit=warn")
    assert ended.code == 10, ended.report
    assert "out of memory: the run was killed at its limit of 0.1 GiB" in ended.err
    assert ended.record["exit"]["oom"] is True
    assert ended.record["status"] == "failed"
    assert TRACEBACK not in ended.out + ended.err


@pytest.fixture
def small_disk(bench: Bench) -> Iterator[Path]:
    """A file system with room for a run's first files and no checkpoint."""
    if not ROOTED:
        pytest.skip("only root may mount a small file system")
    folder = bench.folder / "disk"
    folder.mkdir()
    options = f"size=1m,uid={UID},mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk(bench: Bench, good: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    ended = bench.train("llama", good, "--output", run)
    assert ended.code == 5, ended.report
    assert "no space left" in ended.err.lower()
    assert "WARNING: 0.0 GiB are free on" in ended.err
    assert ended.err.strip().splitlines()[-1].startswith("error: ")
    assert TRACEBACK not in ended.out + ended.err
    assert not (run / "model").exists()
    (small_disk / "filler").write_bytes(b"")
    with (small_disk / "filler").open("wb") as file, pytest.raises(OSError, match="No space"):
        file.write(os.urandom(2**20))
    ended = bench.train("llama", good, "--output", small_disk / "another")
    assert ended.code == 5, ended.report
    assert "no space left" in ended.err.lower()
    assert TRACEBACK not in ended.out + ended.err
