"""Training for real: from a command to a model that others can load, in both images."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.containers.runs import (
    GID,
    ROOT,
    TIMEOUT,
    TRACEBACK,
    TRAINING,
    UID,
    Bench,
    Ended,
    bare,
    in_image,
    wait_for_step,
)
from tests.helpers.hub import Hub

from aligntune.record.events import EventReader

WORDS = ("the cat sat on the mat", "a dog ran in the park", "four", "what is two plus two")

PAIRS = [
    {
        "prompt": " ".join(["what", "is", *(WORDS[(n + k) % 4] for k in range(n % 5))]),
        "completion": " " + " ".join(WORDS[n % 4].split() * (1 + n % 3)),
    }
    for n in range(32)
]
"""Prompts and completions of many lengths; a completion begins with a space, and so a new token."""

CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": pair["prompt"]},
            {"role": "assistant", "content": pair["completion"].strip()},
        ]
    }
    for pair in PAIRS
]
TEXTS = [{"text": pair["prompt"] + pair["completion"]} for pair in PAIRS]
TASKS = [
    {"instruction": pair["prompt"], "input": "", "output": pair["completion"].strip()}
    for pair in PAIRS
]

Trained = Callable[[str], Ended]


@pytest.fixture(scope="session")
def data(bench: Bench) -> dict[str, Path]:
    return {
        "pairs": bench.write("pairs.jsonl", PAIRS),
        "held out": bench.write("held-out.jsonl", PAIRS[:12]),
        "chats": bench.write("chats.jsonl", CHATS),
        "texts": bench.write("texts.jsonl", TEXTS),
        "tasks": bench.write("tasks.json", json.dumps(TASKS)),
    }


@pytest.fixture(scope="session")
def snapshot(bench: Bench) -> Path:
    """A model as a Hugging Face cache keeps it: links into a folder of blobs beside it."""
    above = bench.folder / "hf" / "hub" / "models--org--gpt2"
    folder = above / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (above / "blobs").mkdir()
    for number, file in enumerate(sorted((bench.models / "gpt2").iterdir())):
        shutil.copy(file, above / "blobs" / str(number))
        (folder / file.name).symlink_to(f"../../blobs/{number}")
    bench.give_away()
    return folder


@pytest.fixture(scope="session")
def trained(bench: Bench, data: dict[str, Path], snapshot: Path) -> Trained:
    """Each run is made once, whichever claim asks for it first."""
    lora = ["--lora-rank", "8"]
    held_out = [f"--set=dataset.eval_name={data['held out']}"]
    runs: dict[str, tuple[str | Path, str, list[str]]] = {
        "llama, full": ("llama", "pairs", held_out),
        "llama, full, again": ("llama", "pairs", held_out),
        "qwen2, LoRA": ("qwen2", "pairs", [*lora, *held_out]),
        "qwen3, chat": ("qwen3", "chats", ["--set=training.assistant_only_loss=true"]),
        "mistral, text": ("mistral", "texts", ["--set=training.packing=true"]),
        "gemma, instructions": ("gemma", "tasks", ["--set=dataset.validation_fraction=0.25"]),
        "gpt2, snapshot": (snapshot, "pairs", held_out),
        "llama, packed": (
            "llama",
            "pairs",
            [*held_out, "--set=training.packing=true", "--set=training.max_length=96"],
        ),
    }
    done: dict[str, Ended] = {}

    def get(name: str) -> Ended:
        if name not in done:
            model, rows, words = runs[name]
            done[name] = bench.train(model, data[rows], *words)
        assert done[name].code == 0, done[name].report
        return done[name]

    return get


EVALUATED = ("llama, full", "qwen2, LoRA", "gpt2, snapshot", "llama, packed")
OTHERS = ("qwen3, chat", "mistral, text", "gemma, instructions")


@pytest.mark.parametrize(
    "name", [*EVALUATED, *(pytest.param(name, marks=pytest.mark.matrix) for name in OTHERS)]
)
def test_every_architecture_trains_and_its_loss_falls(name: str, trained: Trained) -> None:
    losses = trained(name).losses
    assert len(losses) > 5
    assert losses[-1] < 0.92 * losses[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("llama, full", "prompt_completion"),
        ("qwen3, chat", "chat"),
        ("mistral, text", "text"),
        ("gemma, instructions", "instruction"),
    ],
)
def test_the_format_of_the_data_is_detected_and_told(
    name: str, kind: str, trained: Trained
) -> None:
    ended = trained(name)
    told = [event for event in EventReader(ended.run / "events.jsonl") if event["event"] == "data"]
    assert told[0]["format"] == kind
    assert f"train: {told[0]['rows']} rows, {kind}" in ended.out


@pytest.fixture(scope="session")
def evaluations(
    engine: Any,
    image: Callable[[str, str], str],
    bench: Bench,
    data: dict[str, Path],
    trained: Trained,
) -> dict[str, tuple[float, int]]:
    """Loss and tokens of saved models over the held-out rows, by a script of its own."""
    jobs = [
        {
            "model": str(trained(name).run / "model"),
            "adapter": "LoRA" in name,
            "data": str(data["held out"]),
        }
        for name in EVALUATED
    ]
    script = Path(shutil.copy(ROOT / "tests" / "containers" / "evaluate.py", bench.folder))
    listed = bench.folder / "jobs.json"
    listed.write_text(json.dumps(jobs), encoding="utf-8")
    printed = in_image(image("trl", "cpu"), script, bench, listed)
    return dict(zip(EVALUATED, json.loads(printed.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", EVALUATED)
def test_the_reported_evaluation_is_what_plain_transformers_finds_in_the_saved_weights(
    name: str, trained: Trained, evaluations: dict[str, tuple[float, int]]
) -> None:
    result = trained(name).result
    loss, tokens = evaluations[name]
    assert result["eval_loss"] == pytest.approx(loss, abs=1e-4)
    assert result["eval_tokens"] == tokens


def test_the_same_spec_and_seed_give_the_same_losses_to_the_last_digit(trained: Trained) -> None:
    first, second = trained("llama, full"), trained("llama, full, again")
    assert first.losses == second.losses
    for figure in ("final_loss", "train_loss", "eval_loss", "tokens"):
        assert first.result[figure] == second.result[figure]


def test_the_summary_says_where_the_model_is_and_how_to_load_it(trained: Trained) -> None:
    full, lora = trained("llama, full"), trained("qwen2, LoRA")
    assert full.out.startswith("sft with TRL on the CPU (not Unsloth: it needs an NVIDIA GPU")
    for ended, loader in ((full, "AutoModelForCausalLM"), (lora, "AutoPeftModelForCausalLM")):
        assert f"model: {ended.run}/model" in ended.out
        assert f"{loader}.from_pretrained('{ended.run}/model')" in ended.out


def test_a_run_leaves_what_the_docs_say_and_nothing_half_done(trained: Trained) -> None:
    ended = trained("llama, full")
    names = {path.name for path in ended.run.iterdir()}
    assert {"run.json", "spec.yaml", "events.jsonl", "train.log", "checkpoints", "model"} <= names
    assert not [path for path in ended.run.rglob("*") if path.name.endswith(".part")]
    model = {path.name for path in (ended.run / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= model
    adapter = {path.name for path in (trained("qwen2, LoRA").run / "model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= adapter
    assert "model.safetensors" not in adapter


def test_the_record_holds_what_ran_and_what_came_out(trained: Trained) -> None:
    record = trained("llama, full").record
    result = record["result"]
    assert record["status"] == "finished"
    assert record["exit"] == {"code": 0, "oom": False}
    assert record["plan"]["choice"]["image"]["id"].startswith("sha256:")
    assert result["backend"] == "trl"
    assert result["steps"] == TRAINING["max_steps"]
    assert result["tokens"] > 0
    assert result["tokens_per_second"] > 0
    assert result["memory"]["peak"] > result["memory"]["after_imports"] > 2**27
    assert {"torch", "transformers", "trl"} <= set(result["versions"])
    assert {"import", "load_model", "load_data", "train", "evaluate", "save"} <= set(
        result["seconds"]
    )


def test_everything_a_run_leaves_belongs_to_the_caller(trained: Trained, bench: Bench) -> None:
    trained("llama, full")
    for folder in (trained("qwen2, LoRA").run, bench.folder / "cache"):
        owners = {
            (path.lstat().st_uid, path.lstat().st_gid) for path in (folder, *folder.rglob("*"))
        }
        assert owners == {(UID, GID)}


def test_a_command_repeated_gets_a_folder_of_its_own_and_its_spec_runs_again(
    bench: Bench, data: dict[str, Path], trained: Trained
) -> None:
    first = trained("llama, full")
    words = ["-c", str(first.run / "spec.yaml"), "--dry-run", "--json"]
    one, two = (json.loads(bench.run(*words).out) for _ in range(2))
    assert one["plan"]["run_dir"] != two["plan"]["run_dir"]
    assert one["plan"]["run_dir"].startswith(str(bench.folder / "runs" / "2"))
    assert one["spec"]["training"] == first.record["spec"]["training"]


# --- both images, without a launcher

KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "LoRA": {"adapter": {"rank": 4}},
    "QLoRA": {"adapter": {"rank": 4}, "model": {"quantization": "4bit"}},
}


@pytest.fixture(scope="session")
def both(
    engine: Any, image: Callable[[str, str], str], bench: Bench, data: dict[str, Path]
) -> Callable[[str], tuple[Ended, Ended]]:
    """The same spec by ``docker run IMAGE --spec FILE`` in both images."""
    done: dict[str, tuple[Ended, Ended]] = {}

    def get(kind: str) -> tuple[Ended, Ended]:
        spec = {
            "algorithm": "sft",
            "dataset": {"name": str(data["pairs"]), "eval_name": str(data["held out"])},
            "training": {**TRAINING, "max_steps": 8, "learning_rate": 1e-3},
            **KINDS[kind],
        }
        spec["model"] = {"name": str(bench.models / "llama"), **spec.get("model", {})}
        if kind not in done:
            done[kind] = (
                bare(image("trl", "cpu"), bench, spec),
                bare(image("unsloth", "cuda"), bench, spec),
            )
        return done[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_both_images_train_the_same_spec_to_the_same_losses(
    kind: str, both: Callable[[str], tuple[Ended, Ended]]
) -> None:
    trl, unsloth = both(kind)
    assert (trl.result["backend"], unsloth.result["backend"]) == ("trl", "unsloth")
    assert trl.result["trainable"] == unsloth.result["trainable"]
    if kind == "full":  # an adapter's first weights are random, in each backend's own way
        assert unsloth.losses == pytest.approx(trl.losses, abs=1e-3)
        assert unsloth.result["eval_loss"] == pytest.approx(trl.result["eval_loss"], abs=1e-3)
    else:
        assert unsloth.losses[0] == pytest.approx(trl.losses[0], abs=1e-3)


# --- stopping and going on


def test_a_stopped_run_goes_on_to_the_same_end(bench: Bench, data: dict[str, Path]) -> None:
    steps = {**TRAINING, "max_steps": 160, "learning_rate": 1e-4, "logging_steps": 20}
    words = [f"--set=dataset.eval_name={data['held out']}"]
    whole = bench.train("llama", data["pairs"], *words, training=steps)
    run = bench.output()
    spec = whole.run / "spec.yaml"
    with bench.start("-c", spec, "--output", run) as command:
        wait_for_step(run, 10)
        command.send_signal(signal.SIGTERM)
        _, err = command.communicate(timeout=TIMEOUT)
    assert command.returncode == 75, err
    assert err.startswith("stopped: stopped at step ")
    assert f"aligntune-run --resume {run}" in err
    assert TRACEBACK not in err
    stopped = Ended(75, "", err, run)
    assert stopped.record["status"] == "stopped"
    assert not (run / "model").exists()
    resumed = bench.run("--resume", run, run=run)
    assert resumed.result["steps"] == 160
    assert resumed.losses == whole.losses, "the one logged next is of steps before the stop too"
    for figure in ("final_loss", "train_loss", "eval_loss", "tokens"):
        assert resumed.result[figure] == whole.result[figure]
    again = bench.run("--resume", run, run=run)
    assert again.code == 5, "it has finished"


def test_a_run_that_died_after_its_last_step_makes_no_more_of_them(
    bench: Bench, trained: Trained
) -> None:
    whole = trained("llama, full")
    run = bench.output()
    shutil.copytree(whole.run, run)
    shutil.rmtree(run / "model")
    record = {**whole.record, "status": "failed"}
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    bench.give_away()
    resumed = bench.run("--resume", run, run=run)
    for figure in ("steps", "final_loss", "train_loss", "eval_loss", "tokens"):
        assert resumed.result[figure] == whole.result[figure]
    weights = [(each.run / "model" / "model.safetensors").read_bytes() for each in (whole, resumed)]
    assert weights[0] == weights[1]


# --- the hub


@pytest.fixture(scope="session")
def shared(bench: Bench, data: dict[str, Path]) -> Path:
    """A dataset repository with two splits."""
    folder = bench.folder / "repository"
    folder.mkdir()
    shutil.copy(data["pairs"], folder / "train.jsonl")
    shutil.copy(data["held out"], folder / "test.jsonl")
    (folder / "words.txt").write_text("no rows")
    return folder


def test_hub_ids_are_fetched_with_the_token_and_trained_on_without_network(
    bench: Bench, shared: Path
) -> None:
    token = "hf_nobodysTokenAtAll"
    with Hub() as hub:
        model = hub.add("models", "org/tiny-llama", bench.models / "llama", token)
        rows = hub.add("datasets", "org/rows", shared)
        variables = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(bench.folder / "hf-home"),
            "HF_TOKEN": token,
        }
        split = "--set=dataset.eval_split=test"
        first = bench.train("org/tiny-llama", "org/rows", split, environment=variables)
        assert first.losses[-1] < first.losses[0]
        assert "rows; not read: 1 .txt (words.txt)" in first.out
        fetched = first.record["fetched"]
        assert fetched["model"]["commit"] == model.commit
        assert fetched["datasets"]["org/rows:train"]["commit"] == rows.commit
        assert first.result["eval_tokens"] > 0
        assert hub.tokens == {token}
        whole = f"GET /org/tiny-llama/resolve/{model.commit}/model.safetensors"
        assert hub.requests.count(whole) == 1, "what looks before reads the header alone"

    offline = {**variables, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    second = bench.train("org/tiny-llama", "org/rows", split, environment=offline)
    assert second.result["final_loss"] == first.result["final_loss"], "from the caller's own cache"
    written = b"".join(path.read_bytes() for path in first.run.rglob("*") if path.is_file())
    assert token.encode() not in written
    cache = bench.folder / "hf-home" / "hub" / "models--org--tiny-llama"
    assert {path.lstat().st_uid for path in cache.rglob("*")} == {UID}


@pytest.mark.parametrize(
    ("model", "rows", "token", "code", "says"),
    [
        ("org/none", "org/rows", "", 11, "no such model org/none on the hub"),
        ("org/gated", "org/rows", "", 11, "model org/gated is gated"),
        ("org/gated", "org/rows", "hf_wrong", 11, "model org/gated is gated"),
        ("llama", "org/none", "", 11, "no such dataset org/none on the hub"),
        ("llama", "org/rows", "", 4, 'Unknown split "dev"'),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(
    model: str, rows: str, token: str, code: int, says: str, bench: Bench, shared: Path
) -> None:
    with Hub() as hub:
        hub.add("models", "org/gated", bench.models / "llama", "hf_right")
        hub.add("datasets", "org/rows", shared)
        variables = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(bench.folder / "empty-home")}
        if token:
            variables["HF_TOKEN"] = token
        split = ["--set=dataset.split=dev"] if code == 4 else []
        ended = bench.train(model, rows, *split, environment=variables)
    assert ended.code == code, ended.report
    assert says in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert TRACEBACK not in ended.out + ended.err
    if code == 11:
        assert not ended.run.exists(), "nothing was written"
    else:
        assert os.listdir(ended.run)
        assert not (ended.run / "model").exists()
