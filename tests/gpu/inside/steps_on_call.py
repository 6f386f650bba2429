"""Trains cases when told to, in slices, so that several stacks can be timed in turn.

``python steps_on_call.py ours|stock trl|unsloth``. Reads one JSON object per line:
``{"case": ...}`` loads and warms up; ``{"steps": N}`` trains N steps and times them;
``{"steps": 0}`` ends the case and is not answered. Answers are lines that begin with ``@@``.

The time is from the start of the first step to the end of the last, with the device synchronized at
both: it includes data loading, forward, backward, optimizer, and generation if there is any.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

WARM_UP = 2
"""Steps before the first that is timed: kernels are compiled and the allocator fills."""

SLOW = float(os.environ.get("GPU_KIT_SLOW", "0"))
"""Seconds that every step is made slower by, to see that the kit notices."""


class CaseEnded(BaseException):
    """Leaves a training at the gate; no trainer takes it for a failure of its own."""


def answer(**values: Any) -> None:
    print("@@ " + json.dumps(values), flush=True)


def main() -> None:
    whose, backend = sys.argv[1:]
    if backend == "unsloth":
        take_unsloth()
    import torch
    import transformers.trainer as trainer
    from transformers import TrainerCallback

    def synchronize() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    class Gate(TrainerCallback):  # type: ignore[misc]
        """Stands in every trainer that is made here, ours and the stock ones alike."""

        def __init__(self) -> None:
            self.left, self.done, self.began = WARM_UP, 0, 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.left == 0:
                self._next()
            if SLOW:
                time.sleep(SLOW)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.left -= 1
            self.done += 1
            if self.left:
                return
            synchronize()
            if self.began:
                answer(seconds=time.perf_counter() - self.began, **peak())
            else:
                answer(ready=True)

        def _next(self) -> None:
            self.left = json.loads(sys.stdin.readline() or "{}").get("steps", 0)
            if not self.left:
                raise CaseEnded
            synchronize()
            self.began = time.perf_counter()

    def peak() -> dict[str, int]:
        cuda = torch.cuda.is_available()
        return {"peak_gpu": torch.cuda.max_memory_allocated() if cuda else 0}

    defaults = list(trainer.DEFAULT_CALLBACKS)
    train = {"ours": ours, "stock": stock}[whose]
    for line in sys.stdin:
        case = json.loads(line)["case"]
        trainer.DEFAULT_CALLBACKS[:] = [*defaults, Gate()]
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            train(backend, case)
            answer(error="it trained to its end, which the gate should not let it")
        except CaseEnded:
            pass
        except Exception as error:  # a row of the kit's table
            traceback.print_exc()
            answer(error=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def take_unsloth() -> None:
    """Import Unsloth first; without a GPU, through the trainers that one would get."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        from tests.containers.unsloth_gpu_path import load_on_cpu, take_gpu_path

        take_gpu_path()
        load_on_cpu()
    else:
        import unsloth  # noqa: F401


def ours(backend: str, case: dict[str, Any]) -> None:
    """The worker's own training of the case's spec."""
    from aligntune.record.events import EventWriter
    from aligntune.record.run_dir import RunDir
    from aligntune.spec.layers import from_file
    from aligntune.spec.resolve import resolve
    from aligntune.worker.train import train

    run = RunDir(Path(case["folder"]))
    run.path.mkdir(parents=True, exist_ok=True)
    path = run.path / "spec.yaml"
    path.write_text(json.dumps(case["spec"]), encoding="utf-8")
    train(resolve([from_file(path)]).spec, run, EventWriter(run.events))


def stock(backend: str, case: dict[str, Any]) -> None:
    """The stack as its own documentation uses it, with the case's batch, lengths and optimizer."""
    import torch
    import trl
    from datasets import load_dataset
    from transformers import AutoTokenizer

    spec = case["spec"]
    training, rl = spec["training"], spec.get("rl", {})
    cuda = torch.cuda.is_available()
    tokenizer = AutoTokenizer.from_pretrained(spec["model"]["name"])
    common: dict[str, Any] = {
        "output_dir": case["folder"],
        "max_steps": training["max_steps"],
        "per_device_train_batch_size": training["batch_size"],
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-5,
        "optim": "adamw_torch_fused",
        "bf16": cuda,
        "use_cpu": not cuda,
        "logging_steps": training["logging_steps"],
        "save_strategy": "no",
        "report_to": "none",
        "seed": 42,
    }
    given: dict[str, Any] = {
        "model": model_of(backend, spec),
        "processing_class": tokenizer,
        "train_dataset": load_dataset("json", data_files=spec["dataset"]["name"], split="train"),
    }
    if spec.get("adapter") and backend == "trl":
        from peft import LoraConfig

        given["peft_config"] = LoraConfig(
            task_type="CAUSAL_LM", r=spec["adapter"]["rank"], target_modules="all-linear"
        )
    made: Any
    if spec["algorithm"] == "sft":
        args = trl.SFTConfig(**common, max_length=training["max_length"])
        made = trl.SFTTrainer(**given, args=args)
    elif spec["algorithm"] == "dpo":
        args = trl.DPOConfig(**common, max_length=training["max_length"])
        made = trl.DPOTrainer(**given, args=args)
    else:
        args = trl.GRPOConfig(
            **common,
            num_generations=rl["num_generations"],
            max_completion_length=rl["max_completion_length"],
            beta=0.0,
        )
        made = trl.GRPOTrainer(**given, args=args, reward_funcs=near_100)
    made.train()


def near_100(completions: list[str], **_: Any) -> list[float]:
    """The reward of the case, without the worker's guard."""
    return [-abs(len(text) - 100) / 100 for text in completions]


def model_of(backend: str, spec: dict[str, Any]) -> Any:
    import torch

    name, adapted = spec["model"]["name"], bool(spec.get("adapter"))
    if backend == "trl":
        from transformers import AutoModelForCausalLM

        dtype = torch.bfloat16 if adapted and torch.cuda.is_available() else torch.float32
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    cuda = torch.cuda.is_available()
    from unsloth import FastLanguageModel, FastModel

    loader = FastLanguageModel if cuda else FastModel
    length = spec["training"].get("max_length") or 1024
    model, _ = loader.from_pretrained(
        name,
        max_seq_length=length,
        load_in_4bit=False,
        full_finetuning=not adapted,
        local_files_only=True,
        **({} if cuda else {"device_map": {"": "cpu"}, "dtype": torch.float32}),
    )
    if not adapted:
        return model
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return loader.get_peft_model(
        model,
        r=spec["adapter"]["rank"],
        lora_alpha=spec["adapter"]["rank"],
        target_modules=targets,
        use_gradient_checkpointing="unsloth" if cuda else False,
    )


if __name__ == "__main__":
    main()
