"""The Python API for real: its page and its example word by word, and inside an image."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker import DockerClient
from tests.containers.runs import ROOT, TRACEBACK, Bench, in_image
from tests.helpers.hub import Hub

PAGE = ROOT / "docs" / "python-api.md"
EXAMPLE = ROOT / "examples" / "python_api.py"
TOKEN = "hf_thisMayWrite"
LONGEST = 900
"""Seconds in which a whole page of runs is done, on a machine that others use too."""

MODEL = "Qwen/Qwen3-0.6B"
QUESTIONS = ("what is two plus two", "a dog ran", "the cat sat on the mat", "four")
CHATS = [
    {
        "messages": [
            {"role": "user", "content": QUESTIONS[n % 4]},
            {"role": "assistant", "content": QUESTIONS[(n + 1) % 4]},
        ]
    }
    for n in range(12)
]
SUMMARIES = [
    {"prompt": f"{QUESTIONS[n % 4]} TL;DR:", "completion": f" {QUESTIONS[(n + 1) % 4]}"}
    for n in range(12)
]
PREFERENCES = [
    {
        side: [
            {"role": "user", "content": QUESTIONS[n % 4]},
            {"role": "assistant", "content": answer},
        ]
        for side, answer in (("chosen", "four"), ("rejected", "a dog ran in the park"))
    }
    for n in range(12)
]
"""Tiny data under the names of what the examples are about, so that they run as they stand."""


@pytest.fixture(scope="module")
def hub(bench: Bench) -> Iterator[Hub]:
    above = bench.folder / "hub"
    with Hub(writer=TOKEN, home=above / "made") as served:
        served.add("models", MODEL, bench.models / "qwen3")
        for name, rows in (
            ("trl-lib/Capybara", CHATS),
            ("trl-lib/tldr", SUMMARIES),
            ("trl-lib/ultrafeedback_binarized", PREFERENCES),
        ):
            folder = above / name
            folder.mkdir(parents=True)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "train.jsonl").write_text(lines, encoding="utf-8")
            served.add("datasets", name, folder)
        yield served


@pytest.fixture
def variables(bench: Bench, hub: Hub) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(bench.folder / "api-home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",  # which speaks to servers of its own
        "ALIGNTUNE_GPUS": "0",
        "ALIGNTUNE_ENGINE": "docker",
        "ALIGNTUNE_PULL": "never",
        "ALIGNTUNE_TRAINING__PRECISION": "fp32",
    }


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)


def test_every_example_of_the_page_runs_as_it_stands(
    bench: Bench, hub: Hub, variables: dict[str, str]
) -> None:
    folder = bench.folder / "page"
    folder.mkdir()
    program = []
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        named = re.match(r"# (\w+\.py)\n", block)
        if named:  # a file of the reader's
            (folder / named[1]).write_text(block, encoding="utf-8")
        else:
            program.append(block)
    assert len(program) >= 8
    (folder / "page.py").write_text("\n".join(program), encoding="utf-8")
    bench.give_away()
    ended = bench.script(folder / "page.py", variables, LONGEST)
    assert ended.code == 0, ended.report
    assert "unknown keyword 'num_epoch'; did you mean 'num_epochs'?" in ended.out
    assert (folder / "my-model" / "model.safetensors").is_file()
    runs = [json.loads(path.read_text()) for path in (folder / "runs").glob("*/run.json")]
    assert {run["status"] for run in runs} == {"finished"}
    assert {run["spec"]["algorithm"] for run in runs} == {"sft", "grpo"}
    assert hub.private == {"my-organisation/my-model"}
    pushed = hub.repositories["models", "my-organisation/my-model"].files
    assert "model.safetensors" in pushed
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in content for content in written)


@pytest.mark.matrix
def test_the_notebook_runs_as_it_stands(bench: Bench, variables: dict[str, str]) -> None:
    folder = bench.folder / "notebook"
    folder.mkdir()
    script = folder / EXAMPLE.name
    script.write_bytes(EXAMPLE.read_bytes())
    bench.give_away()
    ended = bench.script(script, variables, LONGEST)
    assert ended.code == 0, ended.report
    runs = [json.loads(path.read_text()) for path in (folder / "runs").glob("*/run.json")]
    assert {run["spec"]["algorithm"] for run in runs} == {"sft", "dpo"}
    (dpo,) = (run for run in runs if run["spec"]["algorithm"] == "dpo")
    (again,) = Path(dpo["run_dir"]).glob("evaluations/*/run.json")
    metrics = json.loads(again.read_text())["result"]["metrics"]
    for name in ("loss", "accuracy", "margin"):
        assert metrics[name] == pytest.approx(dpo["result"][f"eval_{name}"], abs=1e-4)
    assert (folder / "aligned-model" / "adapter_model.safetensors").is_file()


INSIDE = """
import json, os, signal, subprocess, sys
from aligntune.core.backend_factory import *
from aligntune.errors import AligntuneError

model, data, folder, other = sys.argv[1:]
os.chdir(folder)
status = get_backend_status()
assert not {"torch", "trl", "unsloth"} & set(sys.modules), "a status imports nothing"

started = []

class Watched(subprocess.Popen):
    def __init__(self, words, *how, **more):
        started.append(str(words))
        super().__init__(words, *how, **more)

subprocess.Popen = Watched
before = signal.getsignal(signal.SIGINT)
trainer = create_sft_trainer(
    model,
    data,
    max_steps=4,
    batch_size=4,
    gpus=0,
    val_split_ratio=0.25,
    training={"precision": "fp32"},
)
plan = trainer.plan()
result = trainer.train()
assert signal.getsignal(signal.SIGINT) is before
evaluation = trainer.evaluate()
answers = Trainer.from_run(result.run_dir).predict(["what is", "a dog"], max_new_tokens=4)
saved = trainer.save_model("copy")
assert not any("aligntune" in words for words in started), "it is this process that trains"
try:
    create_sft_trainer(model, "nothing.jsonl")
except AligntuneError as error:
    refused = str(error)
try:
    create_sft_trainer(model, data, backend=other, strict=True).plan()
except AligntuneError as error:
    strict = str(error)
print(json.dumps({
    "status": status, "backend": plan.backend, "reason": plan.reason, "refused": refused,
    "loss": [result.metrics["loss"], evaluation.loss], "texts": answers.texts, "strict": strict,
    "files": saved.files, "here": "torch" in sys.modules,
}))
"""


@pytest.mark.parametrize(
    ("backend", "flavour", "other"), [("trl", "cpu", "unsloth"), ("unsloth", "cuda", "trl")]
)
def test_inside_an_image_the_same_words_train_in_the_process_itself(
    bench: Bench,
    engine: DockerClient,
    image: Callable[[str, str], str],
    backend: str,
    flavour: str,
    other: str,
) -> None:
    folder = bench.folder / f"inside-{backend}"
    folder.mkdir()
    script = folder / "inside.py"
    script.write_text(INSIDE, encoding="utf-8")
    data = bench.write("inside.jsonl", SUMMARIES)
    bench.give_away()
    words = (bench.models / "llama", data, folder, other)
    out = in_image(image(backend, flavour), script, bench, *words)
    told = json.loads(out.splitlines()[-1])
    assert told["here"]
    assert told["backend"] == backend
    assert told["status"][backend]["available"]
    assert not told["status"][other]["available"]
    assert told["loss"][0] == pytest.approx(told["loss"][1], abs=1e-4)
    assert len(told["texts"]) == 2
    assert "model.safetensors" in told["files"]
    assert "no such dataset: nothing.jsonl" in told["refused"]
    assert "was requested, but this is the" in told["strict"]
    assert "training 115,008 of 115,008 parameters" in out, "events are told as they come"
    assert TRACEBACK not in out
