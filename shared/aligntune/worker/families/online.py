"""Online: learn from rewards of the policy's completions (PPO, the GRPO family, RLOO)."""

from __future__ import annotations

from typing import Any

from aligntune.data.formats import SETTINGS
from aligntune.errors import DataError
from aligntune.spec.run_spec import RunSpec
from aligntune.worker.families import Setup
from aligntune.worker.metrics import Measurement
from aligntune.worker.modeling.generate import complete
from aligntune.worker.modeling.reference import REFERENCE_ADAPTER, completion_logprobs, reference
from aligntune.worker.text.encoding import Encoder
from aligntune.worker.text.tokenize import (
    Tokenized,
    is_chat,
    notes,
    require_usable,
)

BEST = ("reward", True)
PREPARED = False
SAMPLES = 4
HEAD_FACTOR = 10
"""Learning rate of PPO's value head relative to the policy's, see docs/ppo.md."""


def arguments(spec: RunSpec, max_length: int | None) -> dict[str, Any]:
    """See :class:`~aligntune.worker.families.Family`."""
    rl = spec.rl
    common = {
        # Completions are counted when they are generated.
        "include_num_input_tokens_seen": "no",
        "train_sampling_strategy": "random",
        "remove_unused_columns": False,
        "max_completion_length": rl.max_completion_length,
        "max_prompt_length": None,  # prompts that are too long are skipped already
        "temperature": rl.temperature,
        "top_p": rl.top_p,
        "top_k": rl.top_k,
        "reward_weights": [reward.weight for reward in spec.rewards],
        "disable_dropout": not spec.adapter.dropout,  # it would disable the adapter's too
    }
    if spec.row.critic:
        return {
            **common,
            "include_num_input_tokens_seen": "non_padding",  # our trainer passes them
            **spec.ppo.model_dump(),
            # A head that starts at 0 has to learn faster than the model below it.
            "critic_learning_rate": spec.training.learning_rate
            * (HEAD_FACTOR if spec.ppo.critic == "head" else 1),
            "num_ppo_epochs": rl.num_iterations,
            "kl_coef": rl.beta,
            "cliprange": rl.epsilon,
        }
    return {
        **common,
        "num_generations": rl.num_generations,
        "num_generations_eval": None,
        "generation_batch_size": None,
        "steps_per_generation": None
        if "generation_batch_size" in spec.trainer_args
        else spec.training.accumulation(),
        "shuffle_dataset": True,
        "min_p": None,
        "repetition_penalty": 1.0,
        "chat_template_kwargs": spec.model.chat_template_args or None,
        "cache_implementation": None,
        "generation_kwargs": None,
        "beta": rl.beta,
        "num_iterations": rl.num_iterations,
        "epsilon": rl.epsilon,
        "epsilon_high": rl.epsilon_high,
        "scale_rewards": "group",
        "mask_truncated_completions": False,
        "delta": None,
        "normalize_advantages": False,
        "reward_clip_range": None,
        "multi_objective_aggregation": "sum_then_normalize",
        "top_entropy_quantile": 1.0,
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
        "off_policy_mask_threshold": None,
        "use_bias_correction_kl": True,
        "sync_ref_model": False,
        "cast_lm_head_to_fp32": False,
        "use_vllm": False,
        "use_transformers_continuous_batching": False,
        "log_completions": False,
        "pad_to_multiple_of": None,
    }


def encode(dataset: Any, setup: Setup, train: bool) -> Tokenized:
    """Rows with ``prompt`` and the columns for rewards; the trainer generates completions."""
    tokenizer, rl = setup.tokenizer, setup.spec.rl
    require_usable(tokenizer, setup.spec, is_chat(dataset))
    room = None if setup.max_length is None else setup.max_length - rl.max_completion_length
    limit = min((most for most in (rl.max_prompt_length, room) if most is not None), default=None)
    if limit is not None and limit < 1:
        raise DataError(
            f"a completion of {rl.max_completion_length} tokens leaves no room for a prompt in a "
            f"sequence of {setup.max_length} tokens",
            "Lower rl.max_completion_length",
        )
    encoder = Encoder.of(tokenizer, setup.spec)
    lengths = [len(encoder.prompt(row)) for row in _asked(dataset)]
    long = {n for n, length in enumerate(lengths) if limit is not None and length > limit}
    empty = {n for n, length in enumerate(lengths) if length == 0}
    kept = [n for n in range(len(lengths)) if n not in long | empty]
    if not kept:
        raise DataError(
            f"no prompt fits: every prompt is empty, or longer than {limit} tokens",
            "Raise rl.max_prompt_length, or lower rl.max_completion_length so that both fit",
        )
    return Tokenized(
        dataset.select(kept),
        notes(
            (len(long), f"prompts are longer than {limit} tokens and were skipped"),
            (len(empty), "prompts are empty and were skipped"),
        ),
    )


def _asked(dataset: Any) -> Any:
    """The rows without the columns that only rewards read."""
    asked = ("prompt", *SETTINGS)
    return dataset.select_columns([name for name in dataset.column_names if name in asked])


def extras(setup: Setup) -> dict[str, Any]:
    """The reward functions."""
    encode = Encoder.of(setup.tokenizer, setup.spec).prompt
    more = {"generating": setup.inference, "encode": encode} if setup.spec.row.critic else {}
    return {"reward_funcs": list(setup.rewards), **more}


def measure(model: Any, rows: Any, setup: Setup, frozen: Any | None) -> Measurement:
    """With one sampled completion per prompt: mean reward, the reward of each function, and KL to
    the reference (mean of log-ratios over tokens, nats), if there is one.

    The same seed and weights give the same completions. Training's random state is unchanged.
    """
    spec, tokenizer = setup.spec, setup.tokenizer
    encoder = Encoder.of(tokenizer, spec)
    prompts = [encoder.prompt(row) for row in _asked(rows)]
    size = spec.training.batch_size
    completions = generate(model, prompts, setup, size)
    ended = [tokens[-1] in setup.ends for tokens in completions]
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    answers = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {name: list(rows[name]) for name in rows.column_names if name != "prompt"}
    given = {
        "prompts": list(rows["prompt"]),
        "completions": answers if is_chat(rows) else texts,
        "completion_ids": completions,
        **columns,
    }
    each = {function.__name__: function(**given) for function in setup.rewards}
    totals = [
        sum(
            reward.weight * (values[n] or 0.0)
            for reward, values in zip(spec.rewards, each.values(), strict=True)
        )
        for n in range(len(texts))
    ]
    metrics: dict[str, float | int | None] = {"reward": sum(totals) / len(totals)}
    for name, values in each.items():
        counted = [value for value in values if value is not None]
        metrics[f"reward/{name}"] = sum(counted) / len(counted) if counted else None
    metrics["kl"] = _kl(model, prompts, completions, setup, frozen)
    metrics["completion_length"] = sum(map(len, completions)) / len(completions)
    metrics["ended"] = sum(ended) / len(ended)
    metrics["prompts"] = len(prompts)
    samples = tuple(
        {
            "prompt": rows["prompt"][n],
            "completion": texts[n],
            "reward": round(totals[n], 4),
            "rewards": {name: values[n] for name, values in each.items()},
        }
        for n in range(min(SAMPLES, len(texts)))
    )
    return Measurement(metrics, samples)


def _kl(
    model: Any,
    prompts: list[list[int]],
    completions: list[list[int]],
    setup: Setup,
    frozen: Any | None,
) -> float | None:
    tokens = sum(map(len, completions))
    spec = setup.spec
    if spec.adapter.path and REFERENCE_ADAPTER not in getattr(model, "peft_config", {}):
        return None  # no copy of the adapter that training started from is left
    with reference(model, frozen) as base:
        if base is None or not tokens:
            return None
        padding = setup.tokenizer.pad_token_id
        more = (spec.training.batch_size, padding, setup.head, spec.rl.temperature)
        before = completion_logprobs(base, prompts, completions, *more)
    now = completion_logprobs(model, prompts, completions, *more)
    return (sum(now) - sum(before)) / tokens


def generate(model: Any, prompts: list[list[int]], setup: Setup, size: int) -> list[list[int]]:
    """Sample one completion per prompt, as the trainer does, including its end token."""
    rl = setup.spec.rl
    sampling = {"do_sample": True, "temperature": rl.temperature, "top_p": rl.top_p}
    with setup.head.autocast():
        return complete(
            model,
            prompts,
            setup.tokenizer,
            setup.inference,
            size,
            seed=setup.spec.training.seed,
            max_new_tokens=rl.max_completion_length,
            top_k=rl.top_k,
            **sampling,
        )
