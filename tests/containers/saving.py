"""What is loaded, saved and measured, run by run, inside an image: ``python saving.py FOLDER``.

Prints a JSON object of what was found. Next to it must lie ``tiny.py`` and ``architectures.py``.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

PAIRS = [
    {"prompt": "q" * count, "chosen": " a few words", "rejected": " b few text" * count}
    for count in range(1, 9)
]
JUDGED = [
    {"prompt": row["prompt"], "completion": row["chosen"], "label": bool(number % 2)}
    for number, row in enumerate(PAIRS)
]
STILL = {"max_steps": 1, "learning_rate": 0, "batch_size": 4}


def checkpoints(folder: Path, llama: Path) -> dict[str, str]:
    """What is said of damaged copies of a model, by the damage."""
    from safetensors.torch import load_file, save_file

    weights = load_file(llama / "model.safetensors")
    first = "model.layers.0.mlp.up_proj.weight"
    damages = {
        "wrapped": {f"_orig_mod.{name}": weight for name, weight in weights.items()},
        "no head": {name: weights[name] for name in weights if name != "lm_head.weight"},
        "unknown": weights | {"v_head.weight": weights[first][:1].clone()},
        "another size": weights | {first: weights[first][:-1].clone()},
        "buffers": weights
        | {"model.layers.0.self_attn.rotary_emb.inv_freq": weights[first][0].clone()},
    }
    found = {}
    for name, damaged in damages.items():
        broken = copy(llama, folder / f"damaged {name}")
        save_file(damaged, broken / "model.safetensors", {"format": "pt"})
        found[name] = said(folder, broken, "sft")
    if "reward" in algorithms():
        found["a new head"] = said(folder, folder / "damaged no head", "reward")
    found["adapter"] = said(
        folder, llama, "sft", adapter={"path": str(half_adapter(folder, llama))}
    )
    return found


def algorithms() -> list[str]:
    """What this image's backend trains."""
    from aligntune.algorithms import ALGORITHMS
    from aligntune.worker.backend import installed

    return [name for name, row in ALGORITHMS.items() if installed().NAME in row.backends]


def half_adapter(folder: Path, llama: Path) -> Path:
    """An adapter whose files lack half of its weights."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    path = folder / "half adapter"
    model = AutoModelForCausalLM.from_pretrained(llama)
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    get_peft_model(model, lora).save_pretrained(path)
    file = path / "adapter_model.safetensors"
    weights = load_file(file)
    kept = {name: weights[name] for name in weights if ".layers.0." in name}
    save_file(kept, file, {"format": "pt"})
    return path


def copy(model: Path, folder: Path) -> Path:
    import shutil

    shutil.copytree(model, folder, dirs_exist_ok=True)
    return folder


def request(folder: Path, model: Path, algorithm: str, **sections: Any) -> dict[str, Any]:
    rows = {"sft": "rows", "kto": "judged"}.get(algorithm, "pairs")
    data = str(folder / f"{rows}.jsonl")
    return {
        "algorithm": algorithm,
        "model": {"name": str(model)},
        "dataset": {"name": data, "eval_name": data},
        **sections,
        "training": {**STILL, "precision": "fp32", **sections.get("training", {})},
    }


def said(folder: Path, model: Path, algorithm: str, **sections: Any) -> str:
    """The error of a run; empty if it trained."""
    from aligntune.errors import AligntuneError

    try:
        train(folder, model, algorithm, **sections)
    except AligntuneError as error:
        return str(error)
    return ""


def train(folder: Path, model: Path, algorithm: str, **sections: Any) -> tuple[Any, Path]:
    run = importlib.import_module("architectures").run
    name = f"{model.name} {algorithm} {len(list((folder / 'runs').glob('*')))}"
    found: tuple[Any, Path] = run(name, folder, request(folder, model, algorithm, **sections))
    return found


def half_precision(folder: Path, llama: Path) -> dict[str, Any]:
    """A model in bfloat16 at learning rate 0: margins, and what its folder says after training."""
    import torch
    from transformers import AutoModelForCausalLM

    half = copy(llama, folder / "half")
    AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16).save_pretrained(half)
    found: dict[str, Any] = {}
    for algorithm, precision, adapter in (
        ("dpo", "bf16", {}),
        ("dpo", "bf16", {"type": "lora", "rank": 2}),
        ("dpo", "fp32", {}),
        ("kto", "bf16", {}),
    ):
        how = {"training": {"precision": precision}, "adapter": adapter}
        result, _ = train(folder, half, algorithm, **how)
        key = f"{algorithm} {precision} {adapter.get('type', 'full')}"
        names = ("eval_margin", "eval_reward_chosen", "eval_kl")
        found[key] = [result[name] for name in names if result.get(name) is not None]
    how = {"training": {"learning_rate": 1e-3, "max_steps": 3}}
    result, path = train(folder, half, "sft", **how)
    found["sft dtypes"] = sorted({str(weight.dtype) for weight in weights_of(path / "model")})
    found["sft loss"] = [result["eval_loss"], evaluated(path)]
    return found


def weights_of(model: Path) -> list[Any]:
    from safetensors.torch import load_file

    return list(load_file(model / "model.safetensors").values())


def evaluated(path: Path) -> float:
    """The loss that ``evaluate RUN`` measures."""
    from aligntune.api.in_process import InsideRunner
    from aligntune.tasks import Evaluate

    return float(InsideRunner().do(Evaluate(of=str(path))).result["metrics"]["loss"])


def settings(folder: Path, mixtral: Path) -> dict[str, Any]:
    """A model of experts with settings that trainers change, and that transformers cannot save."""
    given = {"eos_token_id": 1, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6}
    (mixtral / "generation_config.json").write_text(json.dumps(given))
    tokenizer = json.loads((mixtral / "tokenizer_config.json").read_text())
    left = json.dumps({**tokenizer, "padding_side": "left"})
    (mixtral / "tokenizer_config.json").write_text(left)
    architectures = importlib.import_module("architectures")
    result, path = train(folder, mixtral, "sft")
    loss, _ = architectures.plainly(path / "model")
    return {
        "differences": architectures.differences(path / "model", mixtral),
        "loss": [result["eval_loss"], loss, evaluated(path)],
        "left over": [entry.name for entry in path.iterdir() if entry.name.startswith("model.")],
    }


REWARD = """
def kinds(prompts, completions, answer, **_):
    whole = [type(value) is int for value in answer]
    return [float(one == prompt.startswith("whole")) for one, prompt in zip(whole, prompts)]
"""


def numbers(folder: Path, llama: Path) -> float:
    """The share of answers that reach a reward as the numbers that the rows have."""
    rows = [{"prompt": "whole", "answer": count} for count in range(4)]
    rows += [{"prompt": "fraction", "answer": count + 0.5} for count in range(4)]
    data = folder / "numbers.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "kinds.py").write_text(REWARD, encoding="utf-8")
    sections = {
        "dataset": {"name": str(data), "eval_name": str(data)},
        "rewards": [f"{folder / 'kinds.py'}:kinds"],
        "rl": {"num_generations": 2, "max_completion_length": 4},
    }
    result, _ = train(folder, llama, "grpo", **sections)
    return float(result["eval_reward"])


def unsavable(folder: Path, llama: Path) -> dict[str, Any]:
    """A template that the saved tokenizer cannot keep ends the run before its first step."""
    from unittest.mock import patch

    from transformers import PreTrainedTokenizerFast

    def save(self: Any, *_: Any, **__: Any) -> None:
        raise ValueError("this tokenizer cannot be saved")

    with patch.object(PreTrainedTokenizerFast, "save_pretrained", save):
        error = said(folder, llama, "sft")
    newest = max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    events = importlib.import_module("architectures").events(newest, "step")
    return {"error": error, "steps": len(events)}


def nested_modes() -> dict[str, bool]:
    """Modes of modules in an evaluation, after another one inside it has ended."""
    import torch

    from aligntune.worker.modeling.modes import quiet

    class Linear4bit(torch.nn.Linear):  # type: ignore[misc]  # by its name, as bitsandbytes' own
        pass

    model = torch.nn.Sequential(Linear4bit(1, 1), torch.nn.Dropout())
    with quiet(model):
        with quiet(model):
            pass
        return {"packed": model[0].training, "dropout": model[1].training}


def main() -> None:
    architectures = importlib.import_module("architectures")
    with architectures.reporting() as (folder, people):
        tokenizer = importlib.import_module("tiny").make_tokenizer(["q a b", "a few words"], 300)
        named = (("rows", architectures.ROWS), ("pairs", PAIRS), ("judged", JUDGED))
        for name, rows in named:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        (folder / "runs").mkdir()
        models = {}
        for kind in ("llama", "mixtral", "roberta"):
            models[kind] = folder / kind
            architectures.make(kind, tokenizer).save_pretrained(models[kind])
            tokenizer.save_pretrained(models[kind])
        found = {
            "checkpoints": checkpoints(folder, models["llama"]),
            "half precision": half_precision(folder, models["llama"]),
            "settings": settings(folder, models["mixtral"]),
            "numbers": numbers(folder, models["llama"]),
            "another head": said(folder, models["roberta"], "dpo"),
            "unsavable": unsavable(folder, models["llama"]),
            "nested modes": nested_modes(),
        }
        print(json.dumps(found), file=people, flush=True)


if __name__ == "__main__":
    main()
