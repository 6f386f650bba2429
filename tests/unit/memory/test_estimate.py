"""The estimate of memory grows with what grows, and what is proposed makes a training fit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aligntune.algorithms import ALGORITHMS
from aligntune.spec.run_spec import RunSpec
from aligntune_run.memory.estimate import Estimate, estimate
from aligntune_run.memory.suggest import changes
from aligntune_run.models.facts import ModelFacts, Shape

GB = 10**9
LLAMA_7B = ModelFacts(
    model_type="llama",
    parameters=6_738_415_616,
    dtype="bfloat16",
    context=4096,
    shape=Shape(4096, 32, 32, 32, 128, 11008, 32000, tied=False),
    linear=(
        ("down_proj", 32 * 15104),
        ("gate_proj", 32 * 15104),
        ("k_proj", 32 * 8192),
        ("o_proj", 32 * 8192),
        ("q_proj", 32 * 8192),
        ("up_proj", 32 * 15104),
        ("v_proj", 32 * 8192),
    ),
)
SMALL = ModelFacts(
    model_type="llama",
    parameters=62_275_072,
    dtype="float32",
    context=4096,
    shape=Shape(512, 10, 8, 4, 64, 1408, 32000, tied=False),
)
REWARDED = [row.name for row in ALGORITHMS.values() if row.online]


def spec_of(algorithm: str = "sft", **sections: Any) -> RunSpec:
    rewards = ["length"] if algorithm in REWARDED else []
    whole = {"algorithm": algorithm, "model": {"name": "/m"}, "dataset": {"name": "/d.jsonl"}}
    return RunSpec.model_validate({**whole, "rewards": rewards, **sections})


def size(spec: RunSpec, model: ModelFacts = SMALL, cuda: bool = False) -> int:
    return known(spec, model, cuda).expected


def known(spec: RunSpec, model: ModelFacts = SMALL, cuda: bool = False) -> Estimate:
    found = estimate(spec, model, "trl", cuda=cuda, bf16=True)
    assert found is not None
    return found


def training(**keys: Any) -> dict[str, Any]:
    return {"training": keys}


LORA: dict[str, Any] = {"adapter": {"type": "lora", "rank": 16}}
FOUR_BITS: dict[str, Any] = {"model": {"name": "/m", "quantization": "4bit"}}


def test_a_full_7b_with_adamw_takes_16_bytes_a_weight_and_more() -> None:
    found = known(spec_of(), LLAMA_7B, cuda=True)
    assert 112 * GB > found.low > 90 * GB  # a tenth less than the four numbers alone
    assert 107.8 * GB < found.expected < 160 * GB


def test_a_7b_in_4_bits_trains_on_16_gb() -> None:
    few = training(batch_size=1, max_length=512)
    found = known(spec_of(**FOUR_BITS, **few), LLAMA_7B, cuda=True)
    assert 4 * GB < found.expected < found.high < 16 * GB


def test_a_7b_with_an_adapter_holds_its_weights_in_their_own_half_precision() -> None:
    parts = dict(known(spec_of(**LORA), LLAMA_7B, cuda=True).parts)
    assert parts["weights"] == 2 * LLAMA_7B.parameters  # type: ignore[operator]
    assert parts["adapter"] == 4 * 16 * sum(sums for _, sums in LLAMA_7B.linear)


def test_an_adapter_takes_less_than_all_weights() -> None:
    assert size(spec_of(**LORA)) < size(spec_of())


def test_checkpointing_keeps_fewer_activations() -> None:
    kept, again = (
        dict(known(spec_of(**training(gradient_checkpointing=on))).parts)["activations"]
        for on in (False, True)
    )
    assert again < kept / 4


def test_an_eight_bit_optimizer_has_a_quarter_of_the_state() -> None:
    whole, small = (
        dict(known(spec_of(**training(optimizer=name))).parts)["optimizer"]
        for name in ("adamw_torch_fused", "adamw_8bit")
    )
    assert small < 0.3 * whole


def test_an_unknown_optimizer_counts_nothing_in_the_lower_bound() -> None:
    unknown, none = (
        known(spec_of(**training(optimizer=name))) for name in ("somebodys_own", "sgd")
    )
    assert unknown.low <= none.low
    assert unknown.expected > none.expected


@pytest.mark.parametrize("algorithm", ["dpo", "kto", "rloo", "ppo"])
def test_a_reference_is_a_second_model_unless_there_is_an_adapter(algorithm: str) -> None:
    whole = dict(known(spec_of(algorithm)).parts)
    adapted = dict(known(spec_of(algorithm, **LORA)).parts)
    assert whole["reference"] == whole["weights"]
    assert "reference" not in adapted


def test_grpo_has_a_reference_only_with_a_kl_penalty() -> None:
    assert "reference" not in dict(known(spec_of("grpo")).parts)
    assert "reference" in dict(known(spec_of("grpo", rl={"beta": 0.1})).parts)


def test_pairs_are_twice_the_sequences() -> None:
    rows = training(batch_size=2, max_length=256)
    twice = training(batch_size=4, max_length=256)
    pairs, single = (
        dict(known(spec).parts)["activations"]
        for spec in (spec_of("dpo", **rows), spec_of("sft", **twice))
    )
    assert pairs == single


def test_a_critic_of_its_own_is_another_model_that_learns() -> None:
    head, model = (size(spec_of("ppo", ppo={"critic": critic})) for critic in ("head", "model"))
    assert model > head + 16 * 55_000_000


def test_rows_are_at_most_as_long_as_the_model_supports() -> None:
    short = replace(SMALL, context=64)
    cut, wanted = (training(max_length=length) for length in (64, 1024))
    assert size(spec_of(**wanted), short) == size(spec_of(**cut))


def test_accumulated_gradients_are_there_during_the_next_pass() -> None:
    alone, summed = (
        size(spec_of(**training(gradient_accumulation=batches, batch_size=2))) for batches in (1, 2)
    )
    assert summed - alone == 4 * SMALL.parameters  # type: ignore[operator]


def test_eager_attention_keeps_the_scores_of_all_pairs() -> None:
    eager: dict[str, Any] = {"model": {"name": "/m", "attention": "eager"}}
    assert size(spec_of(**eager)) > size(spec_of())


def test_frozen_weights_in_their_file_are_not_needed_at_least_on_a_cpu() -> None:
    assert known(spec_of(**LORA), LLAMA_7B).low < GB
    assert known(spec_of(**LORA), LLAMA_7B, cuda=True).low > 12 * GB


@pytest.mark.parametrize(
    "unknown",
    [
        replace(SMALL, shape=None),
        replace(SMALL, parameters=None),
        replace(SMALL, quantized="gptq"),
        ModelFacts(),
    ],
)
def test_without_facts_there_is_no_estimate(unknown: ModelFacts) -> None:
    assert estimate(spec_of(), unknown, "trl", cuda=True, bf16=True) is None
    assert changes(spec_of(), unknown, "trl", cuda=True, bf16=True, available=1) == ()


def test_an_estimate_can_be_serialized() -> None:
    found = known(spec_of())
    assert json.loads(json.dumps(asdict(found)))["expected"] == found.expected


def test_the_parts_add_up() -> None:
    found = known(spec_of("grpo", rl={"beta": 0.1}))
    assert sum(bytes_ for _, bytes_ in found.parts) == found.expected


algorithms = st.sampled_from(list(ALGORITHMS))
batches = st.sampled_from([8, 16, 32])
switches = st.booleans()


@given(algorithms, batches, st.sampled_from([64, 200, 1024]), switches, switches, switches)
def test_twice_the_batch_or_the_length_never_takes_less(
    algorithm: str, batch: int, length: int, lora: bool, checkpointing: bool, cuda: bool
) -> None:
    def made(batch: int, length: int) -> Estimate:
        keys = {"batch_size": batch, "gradient_checkpointing": checkpointing}
        more: dict[str, Any] = dict(LORA) if lora else {}
        if ALGORITHMS[algorithm].online:
            more["rl"] = {"max_completion_length": length, "max_prompt_length": 64}
        else:
            keys["max_length"] = length
        return known(spec_of(algorithm, training=keys, **more), cuda=cuda)

    once, more, longer = made(batch, length), made(2 * batch, length), made(batch, 2 * length)
    assert once.low <= once.expected <= once.high
    assert once.expected <= more.expected
    assert once.expected <= longer.expected


@given(algorithms, st.floats(0.05, 1.1), switches, st.sampled_from(["expected", "high"]))
def test_suggested_changes_make_it_fit(
    algorithm: str, share: float, cuda: bool, figure: Any
) -> None:
    spec = spec_of(algorithm)
    available = round(size(spec, LLAMA_7B, cuda) * share)
    words = changes(spec, LLAMA_7B, "trl", cuda=cuda, bf16=True, available=available, figure=figure)
    if words:
        found = known(typed(spec, " ".join(words)), LLAMA_7B, cuda=cuda)
        assert getattr(found, figure) <= available


def typed(spec: RunSpec, words: str) -> RunSpec:
    """The request with what the words say, as the command line takes them."""
    values = spec.model_dump()
    parts = words.split()
    assert set(parts[::2]) <= {"--set"}
    for word in parts[1::2]:
        key, _, value = word.partition("=")
        section, _, name = key.partition(".")
        values[section][name] = yaml.safe_load(value)
    return RunSpec.model_validate(values)


def proposed(spec: RunSpec, available: float, model: ModelFacts = LLAMA_7B) -> tuple[str, ...]:
    return changes(spec, model, "trl", cuda=True, bf16=True, available=round(available))


def test_nothing_is_suggested_if_it_fits() -> None:
    assert proposed(spec_of(), 1000 * GB) == ()


def test_nothing_is_suggested_if_nothing_helps() -> None:
    assert proposed(spec_of(), GB) == ()


def test_a_smaller_batch_comes_first_and_keeps_the_rows_of_a_step() -> None:
    spec = spec_of(**LORA, **training(batch_size=6, gradient_accumulation=2, max_length=2048))
    enough = size(spec, LLAMA_7B, cuda=True) - 1
    words = "--set training.batch_size=3 --set training.gradient_accumulation=4"
    assert proposed(spec, enough) == (words,)


def test_checkpointing_comes_before_an_adapter() -> None:
    spec = spec_of(**training(batch_size=1, gradient_checkpointing=False, max_length=4096))
    enough = size(spec, LLAMA_7B, cuda=True) - 1
    assert proposed(spec, enough) == ("--set training.gradient_checkpointing=true",)


def test_an_adapter_makes_a_7b_fit_on_24_gb_and_four_bits_on_12() -> None:
    spec = spec_of(**training(max_length=512))
    assert proposed(spec, 24 * GB) == ("--set adapter.type=lora --set adapter.rank=16",)
    assert "model.quantization=4bit" in " ".join(proposed(spec, 12 * GB))


def test_shorter_rows_are_the_last_resort() -> None:
    spec = spec_of(**FOUR_BITS, **training(batch_size=1, max_length=4096))
    least = size(spec_of(**FOUR_BITS, **training(batch_size=1, max_length=512)), LLAMA_7B, True)
    assert proposed(spec, least) == ("--set training.max_length=512",)


def test_kto_keeps_two_rows_a_batch() -> None:
    spec = spec_of("kto", **LORA, **training(batch_size=2, max_length=512))
    assert not any("batch_size" in words for words in proposed(spec, 13 * GB))


def test_groups_of_completions_stay_whole() -> None:
    spec = spec_of("grpo", **LORA, **training(batch_size=8))
    for words in proposed(spec, size(spec, LLAMA_7B, cuda=True) - 1):
        training_ = typed(spec, words).training
        assert training_.batch_size * training_.accumulation() == 8


def test_dropout_and_dora_keep_more_of_an_adapter() -> None:
    plain, dropped, decomposed = (
        size(spec_of(adapter={"type": "lora", **keys}))
        for keys in ({}, {"dropout": 0.1}, {"dora": True})
    )
    assert plain < dropped
    assert plain < decomposed


MANY_WORDS = replace(SMALL, shape=Shape(64, 2, 4, 4, 16, 128, 256_000, tied=True))
HELD_OUT = {"name": "/d.jsonl", "validation_fraction": 0.1}


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto"])
def test_an_evaluation_makes_no_whole_logits_and_takes_no_more_than_training(
    algorithm: str, cuda: bool
) -> None:
    whole, alone = (
        known(spec_of(algorithm, dataset=data), MANY_WORDS, cuda)
        for data in (HELD_OUT, {"name": "/d.jsonl"})
    )
    assert whole == alone


def test_unsloth_on_a_gpu_makes_the_logits_of_completions_in_an_evaluation() -> None:
    spec = spec_of("dpo", dataset=HELD_OUT, **LORA)
    found = estimate(spec, MANY_WORDS, "unsloth", cuda=True, bf16=True)
    assert found is not None
    logits = 8 * 1024 * 256_000
    assert dict(found.parts)["evaluation"] == 2 * logits + 2 * 64 * 2**20


def unsloth(spec: RunSpec) -> int:
    """Bytes of activations with Unsloth on a GPU."""
    found = estimate(spec, LLAMA_7B, "unsloth", cuda=True, bf16=True)
    assert found is not None
    return dict(found.parts)["activations"]


def test_unsloth_s_own_checkpointing_keeps_no_layer_s_states_on_the_gpu() -> None:
    on, off = (spec_of(**LORA, **training(gradient_checkpointing=it)) for it in ("auto", False))
    kept = dict(known(on, LLAMA_7B, cuda=True).parts)["activations"]
    tokens = 8 * 1024
    assert kept - unsloth(on) == 32 * 2 * tokens * 4096, "the states between 32 layers"
    assert unsloth(off) > kept, "switched off it keeps everything"


@pytest.mark.parametrize(
    "other",
    [
        spec_of(**LORA, **training(max_length=256)),
        spec_of("ppo", **LORA, rl={"max_prompt_length": 512, "max_completion_length": 512}),
        spec_of(**LORA, unsloth={"use_gradient_checkpointing": True}),
    ],
    ids=["short rows", "PPO", "transformers' way asked for"],
)
def test_plain_checkpointing_keeps_them_with_unsloth_too(other: RunSpec) -> None:
    found = estimate(other, LLAMA_7B, "unsloth", cuda=True, bf16=True)
    assert found == known(other, LLAMA_7B, cuda=True)


def test_full_training_in_half_precision_copies_all_weights_of_the_layers() -> None:
    kept = [
        dict(known(spec_of(**training(precision=precision))).parts)["activations"]
        for precision in ("fp32", "bf16")
    ]
    other = replace(SMALL, parameters=2 * SMALL.parameters)  # type: ignore[operator]
    more = dict(known(spec_of(**training(precision="bf16")), other).parts)["activations"]
    assert more - kept[1] == 2 * SMALL.parameters  # type: ignore[operator]
    assert kept[1] < kept[0]


def test_a_bitsandbytes_checkpoint_is_taken_as_4_bits() -> None:
    packed = replace(LLAMA_7B, quantized="bitsandbytes")
    assert size(spec_of(**LORA), packed, True) == size(spec_of(**FOUR_BITS), LLAMA_7B, True)
