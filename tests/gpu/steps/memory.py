"""The estimate of memory against the measured peak, and what happens where it does not suffice."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from tests.gpu.bench import Bench, Run
from tests.gpu.launcher import last_words, run_launcher
from tests.gpu.models import long_rows, make_models
from tests.gpu.results import Row
from tests.gpu.stacks import StepError

from aligntune.errors import OutOfMemoryError
from aligntune.spec.run_spec import RunSpec
from aligntune_run.host.gpus import probe_gpus
from aligntune_run.memory.estimate import GPU_CONTEXT, Estimate, estimate
from aligntune_run.models.facts import read_model

LIMIT_SECONDS = 180
CASE_SECONDS = 100
GIB = 1 << 30

BOUNDS = (-0.10, 0.25)
"""How far an estimate may be below and above what was measured, as shares of that."""

TOO_LARGE = {"num_hidden_layers": 600, "vocab_size": 128256, "hidden_size": 16384}
"""Of a model that no GPU holds: about 700 billion weights."""


@dataclass(frozen=True)
class Case:
    """One short training on rows of one length.

    Attributes:
        kind: full, LoRA or 4bit.
        batch: sequences at once; 16,384 tokens where nothing else is said.
    """

    backend: str
    algorithm: str
    kind: str
    length: int
    checkpointing: bool = True
    batch: int = 0
    sections: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def rows(self) -> int:
        return self.batch or 16384 // self.length

    @property
    def name(self) -> str:
        kept = "checkpointing" if self.checkpointing else "all kept"
        return f"{self.backend} {self.algorithm} {self.kind} {self.rows} x {self.length}, {kept}"


RL = {"rl": {"max_prompt_length": 256, "max_completion_length": 256, "beta": 0.04}}

CASES = (
    Case("trl", "sft", "full", 1024),
    Case("trl", "sft", "full", 1024, checkpointing=False, batch=8),
    Case("trl", "sft", "full", 4096),
    Case("trl", "sft", "LoRA", 1024),
    Case("trl", "sft", "LoRA", 1024, checkpointing=False),
    Case("trl", "sft", "LoRA", 4096),
    Case("trl", "sft", "LoRA", 4096, checkpointing=False),
    Case("trl", "sft", "4bit", 1024),
    Case("trl", "sft", "4bit", 4096),
    Case("trl", "sft", "4bit", 4096, checkpointing=False),
    Case("trl", "dpo", "LoRA", 1024, batch=8),
    Case("trl", "grpo", "LoRA", 512, batch=16, sections=RL),
    Case("unsloth", "sft", "full", 4096),
    Case("unsloth", "sft", "LoRA", 4096),
    Case("unsloth", "sft", "4bit", 4096),
    Case("unsloth", "grpo", "LoRA", 512, batch=16, sections=RL),
)
"""The twelve cases, and four of them on Unsloth."""

REHEARSED = (
    Case("trl", "sft", "full", 256, checkpointing=False, batch=4),
    Case("trl", "sft", "LoRA", 512, batch=4),
)


class Room:
    """Memory that cases share: each waits until what it takes is there."""

    def __init__(self, size: float) -> None:
        self._free = self._size = size
        self._changed = threading.Condition()

    def take(self, size: float) -> float:
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        return size

    def give(self, size: float) -> None:
        with self._changed:
            self._free += size
            self._changed.notify_all()


def run(bench: Bench) -> Iterator[Row]:
    """A row a case, the refusal, and an out-of-memory made on purpose."""
    cases = REHEARSED if bench.rehearsing else CASES
    models = make_models(bench)
    specs = {case: _spec(bench, case, str(models["llama"])) for case in cases}
    room = Room(0.8 * probe_gpus().found[0].free)

    def measure(case: Case) -> tuple[Run, Estimate]:
        expected = _estimate(bench, specs[case], case.backend)
        taken = room.take(1.3 * expected.expected + GIB)
        try:
            name = "memory-" + case.name.replace(" ", "-").replace(",", "")
            return bench.train(case.backend, specs[case], name, CASE_SECONDS), expected
        finally:
            room.give(taken)

    for case, (run, expected) in bench.at_once(measure, cases):
        yield _judge(bench, case, run, expected)
    yield _refused(bench)
    yield _out_of_memory(bench, str(models["llama"]))


def _spec(bench: Bench, case: Case, model: str) -> dict[str, Any]:
    kind = {"dpo": "pairs", "grpo": "prompts"}.get(case.algorithm, "text")
    data = str(long_rows(bench, kind, case.length // 2 if kind == "prompts" else case.length))
    training: dict[str, Any] = {
        "max_steps": 3,
        "batch_size": case.rows,
        "gradient_accumulation": 1,
        "logging_steps": 1,
        "gradient_checkpointing": case.checkpointing,
        **({"precision": "fp32"} if bench.rehearsing else {}),
    }
    if kind != "prompts":
        training["max_length"] = case.length
    return {
        "algorithm": case.algorithm,
        "model": {"name": model, **({"quantization": "4bit"} if case.kind == "4bit" else {})},
        "dataset": {"name": data},
        "training": training,
        **({} if case.kind == "full" else {"adapter": {"rank": 16}}),
        **({"rewards": [{"name": "length", "args": {"target": 100}}]} if kind == "prompts" else {}),
        **case.sections,
    }


def _estimate(bench: Bench, spec: Mapping[str, Any], backend: str) -> Estimate:
    request = RunSpec.model_validate(spec)
    cuda = not bench.rehearsing
    found = estimate(request, read_model(request.model.name), backend, cuda=cuda, bf16=cuda)
    if found is None:
        raise StepError(f"no estimate for {spec['model']['name']}")
    return found


def _judge(bench: Bench, case: Case, run: Run, expected: Estimate) -> Row:
    try:
        memory = run.result["memory"]
    except StepError as error:
        return Row.judge(case.name, False, str(error))
    size = expected.expected * (2 if bench.planted == "memory" else 1)
    if bench.rehearsing:
        measured = memory["peak"] - memory["after_imports"]
    else:
        measured = memory["peak_gpu"] + GPU_CONTEXT
    off = size / measured - 1
    says = f"estimate {size / GIB:.2f} GiB, measured {measured / GIB:.2f} GiB: {off:+.1%}"
    return Row.judge(
        case.name,
        BOUNDS[0] <= off <= BOUNDS[1],
        says,
        estimate=size,
        parts=dict(expected.parts),
        measured=measured,
        reserved=memory.get("peak_gpu_reserved"),
        off=round(off, 4),
    )


def _refused(bench: Bench) -> Row:
    """A training that cannot fit is refused by the plan, before anything is loaded."""
    from tests.helpers.checkpoints import LLAMA, header, llama

    name = "a training that cannot fit is refused"
    config = {**LLAMA, **TOO_LARGE, "intermediate_size": 65536, "num_attention_heads": 128}
    config |= {"num_key_value_heads": 16}
    folder = bench.work / "models" / "too-large"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for part in bench.toy_model().glob("tokenizer*"):
        (folder / part.name).write_bytes(part.read_bytes())
    tensors = llama(config)
    head = header(tensors)
    size = len(head) + sum(2 * prod(shape) for _, shape in tensors.values())
    with (folder / "model.safetensors").open("wb") as weights:
        weights.write(head)
        weights.truncate(size)  # takes no room on the disk
    data = long_rows(bench, "text", 128)
    began = time.monotonic()
    words = ["explain", "--algo", "sft", "--model", str(folder), "--dataset", str(data), "--json"]
    done = run_launcher([*words, "--engine", "process", "--output", str(bench.work / "never")])
    spent = time.monotonic() - began
    if not done.stdout.startswith("{"):
        return Row.judge(name, False, last_words(done))
    told = json.loads(done.stdout)
    refusal = told["refusal"] or {}
    good = done.returncode == OutOfMemoryError.exit_code and told["rule"] == "memory"
    says = f"code {done.returncode} in {spent:.1f} s: {refusal.get('what', 'not refused')}"
    return Row.judge(name, good, says)


def _out_of_memory(bench: Bench, model: str) -> Row:
    name = "an out-of-memory made on purpose is named as one"
    if bench.rehearsing:
        return Row(name, "left out", "a CPU's memory is not to be used up")
    case = Case("trl", "sft", "full", 8192, checkpointing=False, batch=512)
    run = bench.train(case.backend, _spec(bench, case, model), "out-of-memory", CASE_SECONDS)
    code = run.job.process.returncode
    return Row.judge(name, code == OutOfMemoryError.exit_code, f"code {code}: {run.failure}")
