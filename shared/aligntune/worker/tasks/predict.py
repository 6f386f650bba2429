"""Predict with a run's model: complete prompts, or score texts with its reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aligntune.errors import DataError, ModelError
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Predict, Prompt
from aligntune.worker.families.reward_model import scores
from aligntune.worker.inputs.tokenize import encode_answered, encode_prompt
from aligntune.worker.modeling.generate import complete
from aligntune.worker.tasks.saved import Saved


def predict(
    saved: Saved, spec: RunSpec, task: Predict, note: Callable[[str], None]
) -> dict[str, Any]:
    """The model's completion of each prompt, or its score of each text."""
    tokenizer = saved.tokenizer
    chat = tokenizer.chat_template is not None and task.chat is not False
    system = spec.dataset.system_prompt
    if spec.row.head == "classifier":
        return _score(saved, spec, task)
    prompts = [_as_trained(prompt, chat, system) for prompt in task.prompts]
    encoded = [encode_prompt(tokenizer, prompt) for prompt in _renderable(prompts, tokenizer)]
    most = _fitting(encoded, saved.model, task.max_new_tokens, note)
    sampling: dict[str, Any] = {"do_sample": False}
    if task.temperature:
        sampling = {"do_sample": True, "temperature": task.temperature, "top_k": 0, "top_p": 1.0}
    found = complete(
        saved.model,
        encoded,
        tokenizer,
        saved.backend.inference,
        task.batch_size,
        seed=task.seed,
        max_new_tokens=most,
        **sampling,
    )
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    return {
        "predictions": [
            {
                "prompt": asked,
                "chat": not isinstance(prompt, str),
                "text": text,
                "tokens": len(tokens),
                "ended": tokens[-1:] == [tokenizer.eos_token_id],
            }
            for asked, prompt, text, tokens in zip(task.prompts, prompts, texts, found, strict=True)
        ]
    }


def _score(saved: Saved, spec: RunSpec, task: Predict) -> dict[str, Any]:
    """A reward model's score of each text or conversation."""
    tokenizer = saved.tokenizer
    sequences = [
        encode_answered(tokenizer, "", prompt)
        if isinstance(prompt, str)
        else encode_answered(tokenizer, prompt, [])
        for prompt in _renderable(task.prompts, tokenizer)
    ]
    found = scores(saved.model, sequences, task.batch_size, tokenizer.pad_token_id)
    return {
        "predictions": [
            {"prompt": prompt, "chat": not isinstance(prompt, str), "score": round(score, 6)}
            for prompt, score in zip(task.prompts, found, strict=True)
        ]
    }


def _as_trained(prompt: Prompt, chat: bool, system: str | None) -> Prompt:
    """A prompt as in training: a text becomes a user's message after the run's system prompt."""
    if isinstance(prompt, str):
        if not chat:
            return prompt
        prompt = [{"role": "user", "content": prompt}]
    begun = any(message.get("role") == "system" for message in prompt)
    return prompt if begun or not system else [{"role": "system", "content": system}, *prompt]


def _renderable(prompts: Sequence[Prompt], tokenizer: Any) -> Sequence[Prompt]:
    for prompt in prompts:
        if isinstance(prompt, str):
            continue
        if tokenizer.chat_template is None:
            raise ModelError(
                "the prompt is a conversation, but the model has no chat template",
                "Pass the prompt as text",
            )
        if not prompt or any({"role", "content"} - message.keys() for message in prompt):
            raise DataError(
                "a message has no role or no content",
                "Write a conversation as a list of messages, each with role and content",
            )
    return prompts


def _fitting(encoded: list[list[int]], model: Any, wanted: int, note: Callable[[str], None]) -> int:
    """The new tokens, up to those wanted, for which every prompt leaves room in the model.

    Raises:
        DataError: a prompt is empty, or leaves no room at all.
    """
    from aligntune.worker.inputs.model import context_length

    limit = context_length(model.config)
    for number, tokens in enumerate(encoded, 1):
        if not tokens:
            raise DataError(f"prompt {number} is empty", "Remove it")
        if limit is not None and len(tokens) >= limit:
            raise DataError(
                f"prompt {number} has {len(tokens)} tokens, and the model takes {limit} in all",
                "Shorten it",
            )
    longest = max(map(len, encoded))
    if limit is None or longest + wanted <= limit:
        return wanted
    note(
        f"completions end after {limit - longest} new tokens, not {wanted}: the longest prompt has "
        f"{longest} tokens, and the model takes {limit} in all"
    )
    return limit - longest
