"""The keywords of the API: what each sets, what is refused, and which source wins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from aligntune.api.keywords import CONVERTED, KEYWORDS, REWARD_KEYWORDS, RLKeywords, SFTKeywords
from aligntune.core.backend_factory import Trainer, create_rl_trainer, create_sft_trainer
from aligntune.errors import SpecError
from aligntune.spec.resolve import known_keys
from aligntune.spec.run_spec import RunSpec

SFT: Callable[..., Trainer] = create_sft_trainer
RL: Callable[..., Trainer] = create_rl_trainer
"""As a notebook sees them, which checks no types."""


def value(spec: RunSpec, key: str) -> Any:
    for name in key.split("."):
        spec = getattr(spec, name)
    return spec


SAID: dict[str, Any] = {
    "model_name": "org/other",
    "dataset_name": "org/rows",
    "num_epochs": 2,
    "max_steps": 7,
    "batch_size": 6,
    "gradient_accumulation_steps": 4,
    "learning_rate": 2e-4,
    "max_seq_length": 99,
    "packing": True,
    "completion_only_loss": True,
    "assistant_only_loss": True,
    "seed": 5,
    "max_samples": 11,
    "split": "train[:5]",
    "system_prompt": "Be brief.",
    "val_split_ratio": 0.25,
    "lora_r": 4,
    "lora_alpha": 9,
    "lora_dropout": 0.5,
    "cliprange": 0.3,
    "num_generations": 4,
    "max_prompt_length": 12,
    "max_completion_length": 13,
    "temperature": 0.7,
    "beta": 0.2,
    "kl_coef": 0.2,
}


@pytest.mark.parametrize("keyword", [name for name in KEYWORDS if name != "output_dir"])
def test_every_keyword_sets_its_key_and_the_record_says_so(keyword: str) -> None:
    key, said = KEYWORDS[keyword][-1], SAID[keyword]
    given = {"model_name": "org/m", "dataset_name": "org/d", keyword: said}
    if key.startswith("rl."):
        made = RL(algorithm="grpo", rewards=["exact_match"], batch_size=8, **given)
    else:
        made = SFT(**given)
    assert value(made.spec, key) == said
    assert made._settings.origins[key] == f"{keyword}="


def test_the_keywords_of_the_functions_types_are_those_that_are_known() -> None:
    typed = {*get_type_hints(SFTKeywords), *get_type_hints(RLKeywords)}
    known = {*KEYWORDS, *CONVERTED, *REWARD_KEYWORDS, *RunSpec.model_fields}
    assert typed | {"model_name", "dataset_name", "algorithm", "backend"} == known


def test_every_key_of_a_spec_is_reached_by_its_section() -> None:
    sections = {key.partition(".")[0] for key in known_keys()}
    assert sections <= {*get_type_hints(RLKeywords), "algorithm", "backend"}
    made = SFT("org/m", "org/d", training={"warmup": 10}, dataset={"columns": {"prompt": "q"}})
    assert made.spec.training.warmup == 10
    assert made.spec.dataset.name == "org/d"
    assert made.spec.dataset.columns == {"prompt": "q"}
    assert SFT("m", "d", trl={"use_kernels": True}, gpus=0).spec.gpus == "0"


def test_the_snippet_of_the_readme_means_what_it_says() -> None:
    made = create_sft_trainer(
        model_name="org/m", dataset_name="org/d", backend="auto", num_epochs=3, batch_size=4
    )
    spec = made.spec
    assert (spec.algorithm, spec.backend) == ("sft", "auto")
    assert (spec.training.epochs, spec.training.batch_size) == (3, 4)


@pytest.mark.parametrize(
    ("said", "key", "means"),
    [
        ({"use_peft": True}, "adapter.type", "lora"),
        ({"use_peft": False}, "adapter.type", "none"),
        ({"lora_target_modules": ["q_proj"]}, "adapter.targets", ["q_proj"]),
        ({"lora_target_modules": "q_proj"}, "adapter.targets", ["q_proj"]),
        ({"lora_target_modules": "all-linear"}, "adapter.targets", "all-linear"),
        ({"lora_target_modules": None}, "adapter.targets", "all-linear"),
        ({"quantization": {"load_in_4bit": True}}, "model.quantization", "4bit"),
        ({"quantization": {"load_in_8bit": True}}, "model.quantization", "8bit"),
        ({"quantization": {"load_in_4bit": False}}, "model.quantization", "none"),
        ({"quantization": "4bit"}, "adapter.type", "lora"),
        (
            {"quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}},
            "model.quantization",
            "4bit",
        ),
        ({"quantization": None}, "model.quantization", "none"),
        ({"column_mapping": {"prompt": "q"}}, "dataset.columns", {"prompt": "q"}),
        ({"report_to": "none"}, "strict", False),
        ({"report_to": ["tensorboard"]}, "strict", False),
        ({"max_seq_length": None}, "training.max_length", None),
        ({"num_epochs": None}, "training.epochs", 3.0),
        ({"output_dir": Path("here")}, "output", "here"),
    ],
)
def test_what_takes_more_than_another_name(said: dict[str, Any], key: str, means: Any) -> None:
    found = value(SFT("org/m", "org/d", **said).spec, key)
    assert found == (str(Path(means).absolute()) if key == "output" else means)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("dpo", "preference.beta"), ("grpo", "rl.beta"), ("kto", "preference.beta")],
)
@pytest.mark.parametrize("word", ["beta", "kl_coef"])
def test_beta_is_of_the_section_that_the_algorithm_has(algorithm: str, key: str, word: str) -> None:
    rewards = {"rewards": ["exact_match"]} if algorithm == "grpo" else {}
    made = RL("m", "d", algorithm=algorithm, **{word: 0.25}, **rewards)
    assert value(made.spec, key) == 0.25
    by_config = RL("m", "d", config={"algorithm": algorithm}, **{word: 0.25}, **rewards)
    assert value(by_config.spec, key) == 0.25


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"num_epoch": 1}, "unknown keyword 'num_epoch'; did you mean 'num_epochs'?"),
        ({"weight_decay": 1}, "did you mean training={'weight_decay': ...}?"),
        ({"zzz": 1}, "unknown keyword 'zzz'"),
        ({"training": {"epoch": 1}}, "unknown key 'training.epoch' (from training=)"),
        ({"num_epochs": 1, "training": {"epochs": 2}}, "training.epochs is set twice: by num_epo"),
        ({"model": "x"}, "model.name is set twice: by model_name and by model"),
        ({"batch_size": 0}, "training.batch_size (from batch_size=): Input should be greater"),
        ({"use_peft": "yes"}, "use_peft must be True or False, not 'yes'"),
        ({"quantization": {"bnb_4bit_quant_type": "fp4"}}, "bnb_4bit_quant_type='fp4' is not"),
        ({"quantization": {"load_in_4bit": "yes"}}, "load_in_4bit='yes' is not supported"),
        ({"quantization": {"load_in_4bit": True, "load_in_8bit": True}}, "cannot both be set"),
        ({"quantization": 4}, "quantization must be a mapping or text, not 4"),
        (
            {"report_to": "wandb"},
            "report_to='wandb' is not supported, because training has no network",
        ),
        ({"column_mapping": {"q": "prompt"}}, "it maps a canonical name to a name in the data"),
        ({"column_mapping": "prompt"}, "column_mapping must be a mapping"),
        ({"beta": 0.1}, "rl.beta does not apply to sft"),
        ({"algorithm": "dpo"}, "algorithm= sets algorithm dpo. Use create_rl_trainer"),
        ({"config": {"algorithm": "dpo"}}, "config= sets algorithm dpo. Use create_rl_trainer"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(said: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as refused:
        SFT(**{"model_name": "org/m", "dataset_name": "org/d", **said})
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_missing_is_named_by_its_keyword() -> None:
    with pytest.raises(SpecError, match="missing dataset_name"):
        SFT("org/m")
    with pytest.raises(SpecError, match="missing algorithm"):
        RL("org/m", "org/d")
    with pytest.raises(SpecError, match="Use create_sft_trainer"):
        RL("org/m", "org/d", algorithm="sft")
    with pytest.raises(SpecError, match="Use create_sft_trainer"):
        RL("org/m", "org/d", config={"algorithm": "sft"})


def test_a_config_beats_defaults_and_never_an_explicit_argument(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    said = {
        "model": "org/m",
        "dataset": "org/d",
        "backend": "trl",
        "training": {"epochs": 7, "batch_size": 3, "learning_rate": 1e-3},
    }
    file.write_text(json.dumps(said))  # JSON is YAML
    for config in (file, str(file), said):
        spec = SFT(config=config, batch_size=5).spec
        assert spec.backend == "trl", "that backend was not said is not auto"
        assert (spec.training.epochs, spec.training.learning_rate) == (7, 1e-3)
        assert spec.training.batch_size == 5
    assert SFT(config=file, backend="auto").spec.backend == "auto", "said, it counts"
    nothing = SFT(config={**said, "dataset": {"name": "d", "max_samples": 5}}, max_samples=None)
    assert nothing.spec.dataset.max_samples is None


def test_the_environment_is_between_config_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNTUNE_TRAINING__EPOCHS", "4")
    monkeypatch.setenv("ALIGNTUNE_TRAINING__SEED", "4")
    made = SFT("org/m", "org/d", config={"training": {"epochs": 7}}, seed=1)
    assert (made.spec.training.epochs, made.spec.training.seed) == (4, 1)


def test_epochs_that_are_said_are_not_silenced_by_steps_of_a_config() -> None:
    made = SFT("org/m", "org/d", config={"training": {"max_steps": 9}}, num_epochs=1)
    assert made.spec.training.max_steps is None
