"""Tiny models, prompts and trainers for the checks of PPO, and how numbers are compared."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from aligntune.worker.ppo.trainer import PPOConfig, PPOTrainer

WORDS, PAD, END, CHOSEN = 24, 0, 1, 7
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
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{number:02}": number for number in range(WORDS)}
    made = Tokenizer(models.WordLevel(words, unk_token="w00"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=f"w{pad:02}", eos_token=f"w{END:02}", model_max_length=128
    )
    fast.chat_template = TEMPLATE
    return fast


def policy(seed: int = 0, spread: float = 0.02, **shape: Any) -> Any:
    """A random Llama; a larger ``spread`` makes it sure of what it says."""
    torch.manual_seed(seed)
    given = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, **shape}
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            initializer_range=spread,
            pad_token_id=PAD,
            eos_token_id=END,
            bos_token_id=None,
            **given,
        )
    )


def adapted(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = ["q_proj", "v_proj", "up_proj"]
    return get_peft_model(model, LoraConfig(r=4, lora_dropout=0.5, target_modules=targets))


def share(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    return [tokens.count(CHOSEN) / len(tokens) for tokens in completion_ids]


class Logs(TrainerCallback):  # type: ignore[misc]
    """What was logged; and a stop after a step, as the worker's own callback does it."""

    def __init__(self, stop: int = 0) -> None:
        self.told: list[dict[str, float]] = []
        self._stop = stop

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.told.append(dict(logs))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._stop:
            control.should_save = control.should_training_stop = True

    def of(self, name: str) -> list[float]:
        return [told[name] for told in self.told if name in told]


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
