"""Train, save and load every architecture that transformers can make tiny, inside an image.

``python architectures.py FOLDER [--only KIND ...]`` prints one JSON object per line: the kind of
model, the kind of run (``full``, ``LoRA`` or ``packed``), and what was found. ``fault`` is empty if
all is right. Next to it must lie ``tiny.py`` (tests/helpers).
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "attention_hidden_size", "lru_width"), 32),
    **dict.fromkeys(("hidden_dim", "ffn_dim", "n_inner", "d_ff", "mlp_dim", "mamba_d_ssm"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("intermediate_size", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "rotary_dim", "query_pre_attn_scalar"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "num_shared_experts"), 1),
    **dict.fromkeys(("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "qk_head_dim", "sliding_window", "block_size"), 16),
    **dict.fromkeys(("state_size", "mamba_d_head", "mamba_head_dim", "mamba_d_state"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "chunk_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("index_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("index_n_heads", "linear_num_key_heads", "conv_kernel", "expand"), 2),
    **dict.fromkeys(("time_step_rank", "linear_num_value_heads", "laurel_rank"), 4),
    **dict.fromkeys(("mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("num_kv_shared_layers", "pad_token_id"), 0),
    **dict.fromkeys(("eos_token_id", "bos_token_id"), 1),
    "hidden_size_per_layer_input": 8,
    "index_topk": 64,
    "initializer_range": 0.1,
}
"""Sizes under all names that configurations have for them."""

SPECIAL: dict[str, dict[str, Any]] = {
    **{
        kind: {"num_key_value_heads": 4}
        for kind in ("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "longcat_flash", "minicpm3")
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3, "logits_soft_cap": 3.0},
}

RENAMED = {"transformers_version", "tokenizer_class", "unk_token"}
"""What transformers writes anew: these models all have the same generic tokenizer."""

OTHERS = {"moshi", "musicgen", "musicgen_melody", "prophetnet", "trocr", "whisper"}
"""Parts of models of speech, images and translation; prophetnet has no backward pass by itself."""

MOST_WEIGHTS = 3_000_000

TRAINING = {"max_steps": 2, "learning_rate": 1e-3, "batch_size": 4, "precision": "fp32"}
ROWS = [{"prompt": "q", "completion": " a" + " b" * count} for count in range(1, 9)]
TOKENS = 3


def kinds() -> list[str]:
    """All model types with a causal language model in this image's transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - OTHERS)


def make(kind: str, tokenizer: Any) -> Any | None:
    """A tiny random model; None if this configuration cannot be made tiny by its sizes alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {**SMALL, "vocab_size": 320, "vocab_size_per_layer_input": 320}
    try:
        whole = AutoConfig.for_model(kind)
        if whole.get_text_config() is not whole:
            return None  # a model of text and images
        renamed = getattr(whole, "attribute_map", {})
        known = {*whole.to_dict(), *renamed}
        chosen = {
            name: size
            for name, size in sizes.items()
            if name in known and renamed.get(name, name) in (name, *(known - set(sizes)))
        }
        # A training step has the loss of an evaluation only without noise.
        noise = {name: 0.0 for name, value in whole.to_dict().items() if is_noise(name, value)}
        config = AutoConfig.for_model(kind, **{**chosen, **noise, **SPECIAL.get(kind, {})})
        if hasattr(config, "is_decoder"):
            config.is_decoder = True
        with torch.device("meta"):
            weights = AutoModelForCausalLM.from_config(config).parameters()
        if sum(weight.numel() for weight in weights) > MOST_WEIGHTS:
            return None
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            model(torch.tensor([[5, 6, 7]]))
    except Exception as error:  # whatever a configuration of these sizes raises
        print(f"{kind} cannot be made tiny: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    return model


def is_noise(name: str, value: Any) -> bool:
    """Whether a setting is a dropout or the jitter of a router."""
    return isinstance(value, float) and any(word in name for word in ("drop", "jitter"))


def run(name: str, folder: Path, spec: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """Train in this process; returns the result and the run directory."""
    from aligntune.api.in_process import carry_out
    from aligntune.record.run_dir import RunDir
    from aligntune.spec.run_spec import RunSpec
    from aligntune.worker.train import train

    path = folder / "runs" / name
    shutil.rmtree(path, ignore_errors=True)
    request = RunSpec.model_validate(spec)
    there = RunDir(path)
    there.create(path.name, request)
    return dict(carry_out(train, request, there).result or {}), path


def trained(kind: str, how: str, model: Path, data: Path, folder: Path) -> dict[str, Any]:
    """Train two steps, load the result with plain transformers, and hold it against the run."""
    from aligntune.errors import ModelError, SpecError

    adapter = {"type": "lora", "rank": 2, "alpha": 4} if how == "LoRA" else {}
    spec = {
        "algorithm": "sft",
        "model": {"name": str(model)},
        "dataset": {"name": str(data), "eval_name": str(data)},
        "training": TRAINING,
        "adapter": adapter,
    }
    try:
        result, path = run(f"{kind}-{how}", folder, spec)
    except (SpecError, ModelError) as error:
        # There are layers that peft cannot adapt, and models that TRL cannot train.
        expected = ("cannot compute a loss", "adapter: ", "peft does not load all")
        if not any(words in error.what for words in expected):
            raise
        return {"refused": error.what, "fault": ""}
    loss, length = plainly(path / "model")
    difference = abs(result["eval_loss"] - loss)
    notes = [event["message"] for event in events(path, "note")]
    told = [note for note in notes if "the trainer" in note or "sees padding" in note]
    if any("sees padding" in note for note in told):
        return {"note": "; ".join(told), "fault": ""}  # a batch is not what its rows are
    saved = differences(path / "model", model) if how == "full" else []
    faults = {
        f"evaluated {result['eval_loss']:.6f}, loads with {loss:.6f}": difference > 1e-4,
        f"generated {length} tokens where the end came after {TOKENS}": length != TOKENS,
        f"saved settings differ: {', '.join(saved)}": bool(saved),
    }
    return {
        "difference": difference,
        "note": "; ".join(told),
        "fault": "; ".join(fault for fault, found in faults.items() if found),
    }


def packed(kind: str, model: Path, data: Path, folder: Path) -> dict[str, Any]:
    """At learning rate 0, a packed step has the loss of the rows by themselves, or is refused."""
    from aligntune.errors import ModelError, SpecError

    spec = {
        "algorithm": "sft",
        "model": {"name": str(model)},
        "dataset": {"name": str(data), "eval_name": str(data)},
        "training": {**TRAINING, "max_steps": 1, "learning_rate": 0, "packing": True}
        | {"max_length": 64},
        "trainer_args": {"router_aux_loss_coef": 0.0},
    }
    try:
        result, _ = run(f"{kind}-packed", folder, spec)
    except (SpecError, ModelError) as error:
        if "packing=false" not in error.remedy and "cannot compute a loss" not in error.what:
            raise
        return {"refused": error.what, "fault": ""}
    difference = abs(result["train_loss"] - result["eval_loss"])
    seen = f"packed {result['train_loss']:.6f}, alone {result['eval_loss']:.6f}"
    return {"difference": difference, "fault": seen if difference > 1e-4 else ""}


def plainly(folder: Path) -> tuple[float, int]:
    """Mean loss of the rows by transformers alone, and the tokens that it generates when the end
    is certain after :data:`TOKENS`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for row in ROWS:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double()
        found = logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
        total -= float(found[len(prompt) - 1 :].sum())
        count += len(ids) - len(prompt)
    prompt = torch.tensor([tokenizer("q a b")["input_ids"]])

    def end(ids: Any, scores: Any) -> Any:
        last = ids.shape[1] == prompt.shape[1] + TOKENS - 1
        scores[:, tokenizer.eos_token_id] = float("inf") if last else -float("inf")
        return scores

    made = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        logits_processor=LogitsProcessorList([end]),
        max_new_tokens=TOKENS + 4,
        do_sample=False,
    )
    return total / count, made.shape[1] - prompt.shape[1]


def differences(saved: Path, given: Path) -> list[str]:
    """Settings of a saved folder that training changed, and should not have."""
    found = []
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if not (given / name).is_file():
            continue
        before, after = (json.loads((folder / name).read_text()) for folder in (given, saved))
        found += [
            f"{name}: {key}"
            for key in sorted({*before, *after} - RENAMED)
            if without_dtype(before.get(key)) != without_dtype(after.get(key))
        ]
    return found


def without_dtype(value: Any) -> Any:
    """A nested configuration without its dtype, which transformers sets in all parts."""
    if not isinstance(value, dict):
        return value
    return {key: inner for key, inner in value.items() if key != "dtype"}


def events(path: Path, kind: str) -> list[dict[str, Any]]:
    lines = (path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def check(kind: str, tokenizer: Any, data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """What was found of one architecture, per kind of run."""
    made = make(kind, tokenizer)
    if made is None:
        return
    model = folder / "architectures" / kind
    made.save_pretrained(model)
    tokenizer.save_pretrained(model)
    for how in ("full", "LoRA", "packed"):
        try:
            found = (
                packed(kind, model, data, folder)
                if how == "packed"
                else trained(kind, how, model, data, folder)
            )
        except Exception as error:  # one architecture must not end the others
            found = {"fault": f"{type(error).__name__}: {error}"}
        yield {"kind": kind, "run": how, **found}


@contextmanager
def reporting() -> Iterator[tuple[Path, Any]]:
    """The folder in the arguments, and where to report; what libraries print goes to stderr."""
    os.environ["TRITON_INTERPRET"] = "1"  # trl 1.15 outside Unsloth needs it on a CPU
    with os.fdopen(os.dup(1), "w") as people, redirect_stdout(sys.stderr):
        importlib.import_module("aligntune_backend").prepare()  # before transformers
        yield Path(sys.argv[1]), people


def main() -> None:
    with reporting() as (folder, people):
        import transformers

        transformers.logging.set_verbosity_error()
        data = folder / "architectures.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
        tokenizer = importlib.import_module("tiny").make_tokenizer(["q a b", "b a q"], 300)
        for kind in sys.argv[3:] or kinds():
            for found in check(kind, tokenizer, data, folder):
                print(json.dumps(found), file=people, flush=True)


if __name__ == "__main__":
    main()
