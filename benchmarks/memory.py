"""Check the memory estimate: expected and measured peaks of short runs on the CPU.

    python benchmarks/memory.py [--all] [--only TEXT] [--engine docker] [--precision auto]

It trains three random models of different shapes and vocabularies through `aligntune-run`: in full
and with LoRA, with and without gradient checkpointing, on rows of two lengths, for a few steps with
an evaluation and a save. The measured value is the worker's peak resident memory minus what it held
after its imports, from its record. `--all` adds the other families of algorithms. It needs an
engine with the trl image (built if missing), or `--engine process`; 6 GB of memory; and ten minutes
on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, "-m", "aligntune_run"]

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "16M": (
        "llama",
        {"vocab_size": 8192, "hidden_size": 320, "intermediate_size": 896}
        | {"num_hidden_layers": 8, "num_attention_heads": 5, "num_key_value_heads": 5},
    ),
    "62M": (
        "llama",
        {"vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1408}
        | {"num_hidden_layers": 10, "num_attention_heads": 8, "num_key_value_heads": 4},
    ),
    "170M": (
        "qwen3",
        {"vocab_size": 50304, "hidden_size": 1024, "intermediate_size": 2816}
        | {"num_hidden_layers": 10, "num_attention_heads": 16, "num_key_value_heads": 8}
        | {"tie_word_embeddings": True},
    ),
}
BATCH = {"16M": 4, "62M": 2, "170M": 1}
LENGTHS = (256, 1024)
WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ran", "in", "park"]
DATA = {"sft": "text", "dpo": "pairs", "reward": "fitting", "kto": "answers"}
"""Data by algorithm; all others take prompts."""

PROMPT, COMPLETION = 48, 128


@dataclass(frozen=True)
class Case:
    """One run: its name, and its arguments besides model and data."""

    name: str
    algorithm: str
    model: str
    words: tuple[str, ...]


def main() -> None:
    """Print one line per case, and whether all are within bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="the other families too")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--engine", default="auto", choices=["auto", "docker", "process"])
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make_models(given.make)
        return
    cases = supervised() + (others() if given.all else [])
    cases = [case for case in cases if given.only in case.name]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, given.engine)
        print(f"{'case':44}{'expected':>10}{'measured':>10}{'error':>9}", flush=True)
        errors = [measure(case, folder, given.engine, given.precision) for case in cases]
    print(f"{min(errors):+.1%} to {max(errors):+.1%} of {len(errors)} cases")
    sys.exit(not all(-0.10 <= error <= 0.25 for error in errors))


def supervised() -> list[Case]:
    """Every size, full and LoRA, with and without checkpointing; the two lengths alternate."""
    cases = []
    ways: Iterable[tuple[str, str, bool]] = product(MODELS, ("full", "LoRA"), (False, True))
    for place, (model, way, checkpointing) in enumerate(ways):
        length = LENGTHS[(place + place // 4) % 2]
        words = ["--batch-size", str(BATCH[model]), "--max-length", str(length)]
        words += ["--lora-rank", "16"] if way == "LoRA" else []
        words += ["--set", f"training.gradient_checkpointing={str(checkpointing).lower()}"]
        kept = "checkpointing" if checkpointing else "all kept"
        name = f"sft {model} {way}, {kept}, {BATCH[model]} x {length}"
        cases.append(Case(name, "sft", model, tuple(words)))
    return cases


def others() -> list[Case]:
    """One or two cases of each other family."""
    pairs = ("--batch-size", "2", "--max-length", "512")
    lengths = f"rl.max_prompt_length={PROMPT}", f"rl.max_completion_length={COMPLETION}"
    reward = "rewards=[{name: length, args: {target: 100}}]"
    keys = (reward, *lengths)
    sampled = ("--batch-size", "8", *(word for key in keys for word in ("--set", key)))
    lora = ("--lora-rank", "16")
    return [
        Case("dpo 16M full, 2 x 512", "dpo", "16M", pairs),
        Case("dpo 62M LoRA, 2 x 512", "dpo", "62M", (*pairs, *lora)),
        Case("kto 16M full, 2 x 512", "kto", "16M", pairs),
        Case("reward 16M full, 2 x 512", "reward", "16M", pairs),
        Case("grpo 16M full, 8 x 176", "grpo", "16M", sampled),
        Case("grpo 62M LoRA, 8 x 176", "grpo", "62M", (*sampled, *lora)),
        Case("ppo 16M full, 8 x 176", "ppo", "16M", sampled),
        Case("ppo 62M LoRA, 8 x 176", "ppo", "62M", (*sampled, *lora)),
    ]


def prepare(folder: Path, engine: str) -> None:
    """Make models and data in ``folder``."""
    where = ["exec", "--backend", "trl", "--engine", engine, "--yes", "--mount", str(folder)]
    script = ["python", __file__, "--make", str(folder / "models")]
    subprocess.run([*PROGRAM, *where, "--", *script], check=True, cwd=REPOSITORY)
    chance = random.Random(0)

    def text(words: int) -> str:
        return " " + " ".join(chance.choices(WORDS, k=words))

    long = 2 * max(LENGTHS)
    made: dict[str, list[dict[str, Any]]] = {
        "text": [{"text": text(long)} for _ in range(20)],
        "pairs": [
            {"prompt": text(20), "chosen": text(long), "rejected": text(long)} for _ in range(20)
        ],
        # Reward models skip rows that would be truncated.
        "fitting": [
            {"prompt": text(20), "chosen": text(400), "rejected": text(400)} for _ in range(20)
        ],
        "answers": [
            {"prompt": text(20), "completion": text(long), "label": n % 2 == 0} for n in range(20)
        ],
        "prompts": [{"prompt": text(PROMPT * 3 // 4)} for _ in range(20)],
    }
    for name, rows in made.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)


def make_models(folder: Path) -> None:
    """Make random weights; the tokenizer's few words are the first of each vocabulary."""
    sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))
    from tiny import make_model, make_tokenizer  # type: ignore[import-not-found]
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = make_tokenizer([" ".join(WORDS)])
    for name, (architecture, shape) in MODELS.items():
        shape = {**shape, "head_dim": 64, "max_position_embeddings": 2048}
        make_model(folder / name, architecture, tokenizer, **shape)


def measure(case: Case, folder: Path, engine: str, precision: str) -> float:
    """Run a case, print its line, and return the estimate's error relative to the measured value.

    Of the measured peak the memory after the worker's imports is taken off.
    """
    from aligntune.spec.run_spec import RunSpec
    from aligntune_run.memory.estimate import estimate
    from aligntune_run.models.facts import read_model

    data = folder / f"{DATA.get(case.algorithm, 'prompts')}.jsonl"
    with tempfile.TemporaryDirectory(dir=folder) as output:
        named = ["--model", str(folder / "models" / case.model), "--dataset", str(data)]
        where = ["--backend", "trl", "--engine", engine, "--gpus", "0", "--output", f"{output}/run"]
        sets = ["dataset.validation_fraction=0.2", "training.gradient_accumulation=1"]
        sets.append(f"training.precision={precision}")
        words = ["--algo", case.algorithm, *named, *where, "--max-steps", "3", *case.words]
        words += [word for key in sets for word in ("--set", key)]
        done = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, env=os.environ)
        if done.returncode:
            sys.exit(f"{case.name}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        record = json.loads((Path(output) / "run" / "run.json").read_text())
    spec, result = RunSpec.model_validate(record["spec"]), record["result"]
    bf16 = result["precision"] == "bf16"
    expected = estimate(spec, read_model(spec.model.name), "trl", cuda=False, bf16=bf16)
    assert expected is not None
    measured = int(result["memory"]["peak"]) - int(result["memory"]["after_imports"])
    error = expected.expected / measured - 1
    sizes = (f"{size / 10**6:7.0f} MB" for size in (expected.expected, measured))
    print(f"{case.name:44}{''.join(sizes)}{error:+9.1%}", flush=True)
    return error


if __name__ == "__main__":
    main()
