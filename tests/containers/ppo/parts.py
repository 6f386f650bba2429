"""Tiny models, prompts and trainers for the checks of PPO, and how numbers are compared."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from tests.helpers.ppo_toy import PAD, Logs, share, word_policy, word_tokenizer
from transformers.trainer_callback import PrinterCallback

from aligntune.worker.ppo.trainer import PPOConfig, PPOTrainer

WORDS = 24
TEMPLATE = (
    "{% for message in messages %}w02 {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}w03{% endif %}"
)
PROMPTS = [
    {"prompt": " ".join(f"w{4 + (row + place) % 20:02}" for place in range(1 + row % 5))}
    for row in range(20)
]
"""Prompts of 1 to 5 words."""


def tokenizer(pad: int = PAD) -> Any:
    made = word_tokenizer(WORDS, pad, model_max_length=128)
    made.chat_template = TEMPLATE
    return made


def policy(seed: int = 0, spread: float = 0.02, **shape: Any) -> Any:
    """A random Llama; a larger ``spread`` makes it sure of what it says."""
    small = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return word_policy(WORDS, seed, initializer_range=spread, **{**small, **heads, **shape})


def adapted(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = ["q_proj", "v_proj", "up_proj"]
    return get_peft_model(model, LoraConfig(r=4, lora_dropout=0.5, target_modules=targets))


def trainer(
    model: Any,
    reward: Any = share,
    rows: Any = PROMPTS,
    *,
    words: Any = None,
    logs: Logs | None = None,
    eval_rows: Any = None,
    generating: Any = None,
    ref_model: Any = None,
    folder: str | None = None,
    **named: Any,
) -> PPOTrainer:
    given = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "max_completion_length": 8,
        "max_steps": 8,
        **named,
    }
    made = PPOTrainer(
        model,
        PPOConfig(output_dir=folder or tempfile.mkdtemp(), **given),
        reward,
        rows,
        eval_rows,
        processing_class=words or tokenizer(),
        callbacks=[logs] if logs else None,
        generating=generating,
        ref_model=ref_model,
    )
    made.remove_callback(PrinterCallback)
    return made


def masked(rows: int, length: int, seed: int = 0) -> tuple[Any, Any]:
    """A generator, and a mask with rows of every length."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 1 + torch.arange(rows) % length
    return generator, torch.arange(length) < lengths[:, None]


def near(found: Any, wanted: Any, within: float = 1e-5) -> None:
    found, wanted = (torch.as_tensor(each, dtype=torch.float64) for each in (found, wanted))
    distance = float((found - wanted).abs().max())
    assert distance <= within, f"{distance} apart: {found} and {wanted}"


def equal(one: Any, other: Any) -> None:
    """The same to the last digit, name by name."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), (
            f"{name} differs by {(value - other[name]).abs().max()}"
        )


def numeric(function: Callable[[Any], Any], at: Any, step: float = 1e-3) -> Any:
    """The gradient of a scalar by central differences."""
    found = torch.zeros(at.shape, dtype=torch.float64)
    for place in itertools.product(*map(range, at.shape)):
        moved = [at.clone(), at.clone()]
        moved[0][place] += step
        moved[1][place] -= step
        found[place] = (float(function(moved[0])) - float(function(moved[1]))) / (2 * step)
    return found


def refuses(error: type[Exception], word: str, act: Callable[[], Any]) -> None:
    """That ``act`` raises ``error``, and ``word`` is in what it says."""
    try:
        act()
    except error as raised:
        told = f"{raised} {vars(raised)}"
    else:
        told = "nothing was raised"
    assert word in told, told
