"""Reward models: sequence classification models of transformers with one output, the score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aligntune.errors import ModelError
from aligntune.failures import first_line
from aligntune.pretrained import load_errors, read_tokenizer, set_padding

HEAD = "ForSequenceClassification"


def load_model(
    folder: Path,
    name: str,
    device: Any,
    chat: bool,
    *,
    batch_size: int = 8,
    max_length: int | None = None,
) -> Callable[..., list[float | None]]:
    """The reward of a model: its output for prompt plus completion.

    A conversation is rendered with the reward model's chat template. A text ends with the model's
    end-of-sequence token, whose score the model was trained on. Samples that are too long lose
    their beginning, because the reward is about the completion.

    Args:
        folder: the model's folder.
        name: the model's name in the request, for messages.
        device: ``torch.device`` to compute on.
        chat: whether prompts are conversations.
        batch_size: samples scored at once.
        max_length: tokens of the longest sample; None is the model's limit.

    Raises:
        ModelError: the model does not load, or has no reward head.
    """
    config = _config(folder, name)
    tokenizer = read_tokenizer(folder, f"the reward model {name}")
    set_padding(tokenizer, f"the reward model {name}")
    tokenizer.truncation_side = "left"
    if chat and tokenizer.chat_template is None:
        raise ModelError(
            f"the prompts are conversations, and the reward model {name} has no chat template",
            "Save a chat template with its tokenizer, or use text prompts",
        )
    model = _weights(folder, name, device)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    takes = getattr(config.get_text_config(), "max_position_embeddings", None)
    limits = (max_length, takes, tokenizer.model_max_length)  # the last is huge if unknown
    most = min(limit for limit in limits if limit)

    probe = tokenizer("a")["input_ids"]
    adds_begin = probe[:1] == [tokenizer.bos_token_id]
    adds_end = probe[-1:] == [tokenizer.eos_token_id]

    def text(prompt: Any, completion: Any) -> str:
        if isinstance(prompt, str):
            whole, end = f"{prompt}{completion}", tokenizer.eos_token or ""
            if adds_begin:  # the tokenizer would add a second one
                whole = whole.removeprefix(tokenizer.bos_token)
            if adds_end:
                return whole.removesuffix(end)
            return whole if whole.endswith(end) else whole + end
        return str(tokenizer.apply_chat_template([*prompt, *completion], tokenize=False))

    def score(samples: list[tuple[Any, Any]]) -> list[float]:
        import torch

        inputs = tokenizer(
            [text(*sample) for sample in samples],
            # A chat template writes the special tokens itself.
            add_special_tokens=isinstance(samples[0][0], str),
            padding=True,
            truncation=True,
            max_length=most,
            return_tensors="pt",
        ).to(device)
        with torch.inference_mode():
            scores: list[float] = model(**inputs).logits[:, 0].float().tolist()
        return scores

    def reward_model(prompts: Any, completions: Any, **_: Any) -> list[float | None]:
        samples = list(zip(prompts, completions, strict=True))
        batches = (samples[at : at + batch_size] for at in range(0, len(samples), batch_size))
        return [value for batch in batches for value in score(batch)]

    return reward_model


def _config(folder: Path, name: str) -> Any:
    from transformers import AutoConfig

    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"the reward model {name} is an adapter, which is not supported",
            "Merge it into its base model (peft's merge_and_unload), or train without an adapter",
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"no reward model in {name}: there is no config.json", "Check the path of the model"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the reward model {name} cannot be read: {first_line(error)}", "Check its config.json"
        ) from error
    made = (config.architectures or ["model without a head"])[0]
    if not made.endswith(HEAD):
        raise ModelError(
            f"{name} is a {made}, which has no reward head",
            f"Use a *{HEAD} with one label, such as the result of --algo reward",
        )
    if config.num_labels != 1:
        labels = ", ".join(map(str, (config.id2label or {}).values()))
        raise ModelError(
            f"{name} is a classifier with {config.num_labels} labels ({labels}), but a reward "
            "model has one output",
            "Use a reward model, not a classifier",
        )
    return config


def _weights(folder: Path, name: str, device: Any) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    dtype: Any = torch.float32 if torch.device(device).type == "cpu" else "auto"
    with load_errors(f"the reward model {name}", "Check its files"):
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    lacking = sorted(found["missing_keys"])
    if lacking:  # transformers would initialize them randomly
        raise ModelError(
            f"the weights of the reward model {name} lack {', '.join(lacking[:3])}",
            "Save the model with its classification head",
        )
    return model.to(device).eval().requires_grad_(False)
