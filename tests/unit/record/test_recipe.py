"""The recipe in words."""

from __future__ import annotations

from aligntune.record.events import describe
from aligntune.record.recipe import recipe_lines

KEYS = ("epochs", "max_steps", "batch_size", "gradient_accumulation", "learning_rate")
ORIGINS = {f"training.{key}": "default" for key in (*KEYS, "schedule", "warmup")}
KNOWN = {
    "title": "Supervised fine-tuning",
    "model": "Qwen3-0.6B",
    "adapter": "LoRA rank 16, alpha 32",
    "batch_size": 8,
    "accumulation": 2,
    "devices": 1,
    "effective_batch": 16,
    "epochs": 3.0,
    "max_steps": None,
    "learning_rate": 2e-4,
    "schedule": "cosine",
    "warmup": 0.03,
    "learns": "completions",
    "origins": {**ORIGINS, "training.learning_rate": "--lr"},
}
COUNTED = {
    **KNOWN,
    "backend": "TRL",
    "device": "CPU",
    "rows": 1306,
    "held_out": 73,
    "tokens": 221480,
    "learned_tokens": 90800,
    "few_rows": False,
    "steps": 246,
    "warmup_steps": 8,
    "precision": "bf16",
    "example": [("<|user|>\n2 + 2?", False), ("4", True)],
}


def test_what_is_known_before_loading_takes_four_lines() -> None:
    assert recipe_lines(KNOWN) == [
        "Supervised fine-tuning · Qwen3-0.6B + LoRA rank 16, alpha 32",
        "batch 8 x 2 x 1 = 16 sequences (default) · 3 epochs (default)",
        "learning rate 0.0002 (--lr) · cosine (default) · warm-up 3 % (default)",
        "learns completions",
    ]


def test_the_block_before_the_first_step_counts_and_shows_what_is_learned() -> None:
    start = {"event": "start", "max_steps": 246, "epochs": 3, "parameters": 10, "trainable": 5}
    assert describe({**start, "recipe": COUNTED}).splitlines() == [
        "Supervised fine-tuning · Qwen3-0.6B + LoRA rank 16, alpha 32 · TRL on the CPU",
        "1,306 rows (73 held out) · 221,480 tokens (41 % learned) · batch 8 x 2 x 1 = 16 sequences "
        "(default) · 3 epochs (default) · 246 steps",
        "learning rate 0.0002 (--lr) · cosine (default) · warm-up 3 % = 8 steps (default) · bf16",
        "learns completions",
        "  for example <|user|>\\n2 + 2?«4»",
        "training 5 of 10 parameters (50.00 %), 246 steps",
    ]


def test_steps_that_were_asked_for_stand_in_place_of_epochs() -> None:
    asked = {**COUNTED, "max_steps": 1, "steps": 1, "warmup": 1.0, "few_rows": True}
    text = "\n".join(recipe_lines(asked))
    assert "epoch" not in text
    assert " · 1 step (default)" in text
    assert "warm-up 1 step (default)" in text
    assert "16 sequences (default; few rows)" in text
