"""Predict with a run's model: complete prompts, or score texts with its reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aligntune.data.messages import Ignored, UnusableError, read_messages
from aligntune.errors import DataError, ModelError
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Predict, Prompt
from aligntune.worker.families.reward_model import scores
from aligntune.worker.modeling.generate import complete
from aligntune.worker.tasks.saved import Saved
from aligntune.worker.text.checking import RenderedRows
from aligntune.worker.text.encoding import Encoder
from aligntune.worker.text.rendering import Conversation, Renderer
from aligntune.worker.text.stops import settle_ends


def predict(
    saved: Saved, spec: RunSpec, task: Predict, note: Callable[[str], None]
) -> dict[str, Any]:
    """The model's completion of each prompt, or its score of each text."""
    tokenizer = saved.tokenizer
    chat = tokenizer.chat_template is not None and task.chat is not False
    system = spec.dataset.system_prompt
    if spec.row.head == "classifier":
        return _score(saved, spec, task)
    encoder = Encoder.of(tokenizer, spec)
    asked_with = [_as_trained(prompt, chat, system) for prompt in task.prompts]
    prompts = _readable(asked_with, encoder.renderer)
    encoded = [encoder.prompt({"prompt": prompt}) for prompt in prompts]
    chats = any(not isinstance(prompt, str) for prompt in prompts)
    ends, _ = settle_ends(saved.model, encoder.renderer, chats)
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
                "ended": tokens[-1] in ends,
            }
            for asked, prompt, text, tokens in zip(task.prompts, prompts, texts, found, strict=True)
        ]
    }


def _score(saved: Saved, spec: RunSpec, task: Predict) -> dict[str, Any]:
    """A reward model's score of each text or conversation."""
    tokenizer = saved.tokenizer
    encoder = Encoder.of(tokenizer, spec)
    sequences = [
        encoder.text(prompt, ends=True)
        if isinstance(prompt, str)
        else encoder.chat(Conversation(prompt))
        for prompt in _readable(task.prompts, encoder.renderer)
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


def _readable(prompts: Sequence[Prompt], renderer: Renderer) -> list[Prompt]:
    """Prompts whose conversations are canonical, as rows of data are, and rendered whole."""
    check = RenderedRows(lambda _: renderer)
    readable: list[Prompt] = []
    for number, prompt in enumerate(prompts, 1):
        if isinstance(prompt, str):
            readable.append(prompt)
            continue
        if renderer.tokenizer.chat_template is None:
            raise ModelError(
                "the prompt is a conversation, but the model has no chat template",
                "Pass the prompt as text",
            )
        try:
            messages = read_messages(prompt, "prompt", Ignored())
        except UnusableError as problem:
            raise DataError(
                f"prompt {number}: {problem}",
                "Write a conversation as a list of messages, each with role and content",
            ) from None
        check(f"prompt {number}", {"prompt": messages})
        readable.append(messages)
    return readable


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
