"""The Python API without a backend: keywords, precedence, refusals, runners and results."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import FunctionType
from typing import Any, get_type_hints

import pytest

from aligntune.algorithms import ALGORITHMS, BACKENDS
from aligntune.api import discover, trainer
from aligntune.api.discover import find_runner
from aligntune.api.functions import named_function
from aligntune.api.keywords import CONVERTED, KEYWORDS, REWARD_KEYWORDS, RLKeywords, SFTKeywords
from aligntune.api.runner import BackendStatus, Selection
from aligntune.core import backend_factory
from aligntune.core.backend_factory import (
    Trainer,
    create_rl_trainer,
    create_sft_trainer,
    list_backends,
    validate_backend_selection,
)
from aligntune.errors import EngineError, OutputError, SpecError
from aligntune.record.run_dir import RunDir
from aligntune.record.schema import RunRecord
from aligntune.spec.resolve import Settings, known_keys
from aligntune.spec.run_spec import RunSpec
from aligntune.tasks import Evaluate, Predict, Prompt, Push, Task

ROOT = Path(__file__).parents[3]

SFT: Callable[..., Trainer] = create_sft_trainer
RL: Callable[..., Trainer] = create_rl_trainer
"""As a notebook sees them, which checks no types."""


class Scripted:
    """A runner that remembers what it was asked, and leaves what a worker would."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def plan(self, settings: Settings) -> dict[str, Any]:
        choice = {"backend": "trl", "reason": "it is here", "warnings": [], "verdicts": []}
        plan = {"run_dir": "/runs/r", "choice": choice}
        return {"spec": settings.spec.model_dump(), "plan": plan, "commands": []}

    def train(self, settings: Settings) -> RunRecord:
        self.asked.append("train")
        path = Path(settings.spec.output or "run").absolute()
        RunDir(path).create("id", settings.spec)
        (path / "model").mkdir()
        (path / "model" / "config.json").write_text("{}")
        result = {"steps": 3, "backend": "trl", "final_loss": 1.0, "eval_loss": 2.0}
        return RunDir(path).update(status="finished", result=result)

    def resume(self, run: Path) -> RunRecord:
        self.asked.append(("resume", run))
        return RunDir(run).update(status="finished", result={"steps": 3, "backend": "trl"})

    def do(self, task: Task) -> RunRecord:
        self.asked.append(task)
        results: dict[str, Any] = {
            "evaluate": {"metrics": {"loss": 2.0}, "samples": [], "rows": 4, "source": "d"},
            "predict": {"predictions": [{"prompt": "p", "chat": False, "text": "t"}]},
            "push": {"repository": "a/b", "url": "u", "commit": "c"},
        }
        return RunRecord(run_dir=f"{task.of}/x", result=results[task.kind])

    def status(self) -> dict[str, BackendStatus]:
        raise NotImplementedError

    def select(self, spec: RunSpec, model: bool) -> Selection:
        self.asked.append((spec, model))
        return {"backend": "trl", "reason": "", "warnings": [], "verdicts": []}


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scripted:
    for name in [name for name in os.environ if name.startswith("ALIGNTUNE_")]:
        monkeypatch.delenv(name)
    made = Scripted()
    monkeypatch.setattr(trainer, "find_runner", lambda: made)
    monkeypatch.setattr(backend_factory, "find_runner", lambda: made)
    monkeypatch.chdir(tmp_path)
    return made


# --- keywords


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


# --- precedence


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


# --- rewards


def write_module(folder: Path, name: str, text: str) -> Any:
    (folder / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def test_rewards_are_names_functions_models_and_weights(tmp_path: Path) -> None:
    mine = write_module(tmp_path, "api_rewards", "def short(completions, **_):\n    return [0.0]\n")
    made = RL(
        "org/m",
        "org/d",
        algorithm="grpo",
        reward_functions=["exact_match", mine.short, f"{tmp_path}/api_rewards.py:short"],
        reward_function_weights=[1.0, 0.5, 2, 3],
        reward_model_name="org/judge",
    )
    own = f"{tmp_path}/api_rewards.py:short"
    assert [reward.name for reward in made.spec.rewards] == ["exact_match", own, own, None]
    assert [reward.weight for reward in made.spec.rewards] == [1.0, 0.5, 2.0, 3.0]
    assert made.spec.rewards[3].model == "org/judge"
    one = RL("org/m", "org/d", algorithm="grpo", rewards={"name": mine.short, "weight": 2})
    assert (one.spec.rewards[0].name, one.spec.rewards[0].weight) == (own, 2.0)


def test_weights_are_one_a_reward_and_rewards_are_said_once() -> None:
    with pytest.raises(SpecError, match="has 2 weights for 1 rewards"):
        RL("m", "d", algorithm="grpo", reward_functions="length", reward_function_weights=[1, 2])
    with pytest.raises(SpecError, match="rewards is set twice"):
        RL("m", "d", algorithm="grpo", reward_functions=["length"], rewards=["length"])
    with pytest.raises(SpecError, match="3 is not a reward"):
        RL("m", "d", algorithm="grpo", reward_functions=[3])


def test_a_function_that_no_other_process_can_import_is_refused_with_the_remedy(
    tmp_path: Path,
) -> None:
    def inner() -> None: ...

    exec(compile("def cell(): ...", "<ipython-input-1>", "exec"), space := {"__name__": "cells"})
    main: Any = FunctionType(inner.__code__, {}, "main")
    main.__qualname__, main.__module__ = "main", "__main__"
    replaced = write_module(tmp_path, "api_replaced", "def f(): ...\ng = f\ndef f(): ...\n").g
    refusals: tuple[tuple[Any, str], ...] = (
        (lambda: None, "is not at the top level of a module"),
        (inner, "is not at the top level of a module"),
        (len, "is not a plain function"),
        (Scripted().plan, "is not a plain function"),
        (main, "is defined in the running program"),
        (space["cell"], "is not defined in a file"),
        (replaced, "is not the function that api_replaced has"),
    )
    for function, says in refusals:
        with pytest.raises(SpecError, match=says) as refused:
            named_function(function)
        assert "Move it to a separate .py file" in str(refused.value)


# --- runners


def test_a_host_s_runner_is_the_launcher_s_by_its_entry_point() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    ((_, target),) = named[discover.GROUP].items()
    made = EntryPoint("host", target, discover.GROUP).load()()
    assert type(made).__name__ == "HostRunner"
    assert type(find_runner()) is type(made)


def test_in_an_image_this_process_is_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aligntune_backend.py").write_text("NAME = 'trl'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = find_runner()
    assert type(found).__name__ == "InsideRunner"
    status = found.status()
    assert status["trl"]["available"]
    assert not status["unsloth"]["available"]
    assert "has another" in status["unsloth"]["reason"]
    spec = create_sft_trainer("org/m", "org/d", backend="unsloth").spec
    chosen = found.select(spec, True)
    assert chosen["backend"] == "trl"
    assert "Unsloth was requested" in chosen["warnings"][0]
    monkeypatch.delitem(sys.modules, "aligntune_backend")


def test_where_nothing_can_run_it_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discover, "find_spec", lambda name: None)
    monkeypatch.setattr(discover, "entry_points", lambda group: ())
    with pytest.raises(EngineError, match="pip install aligntune-run"):
        find_runner()


def test_importing_the_api_and_making_a_trainer_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from aligntune.core.backend_factory import create_sft_trainer, get_backend_status\n"
        "create_sft_trainer('org/m', 'org/d')\n"
        "status = get_backend_status()\n"
        "assert status['trl'].keys() == status['unsloth'].keys()\n"
        "heavy = {'torch', 'transformers', 'trl', 'unsloth', 'datasets', 'peft'}\n"
        "assert not heavy & set(sys.modules)\n"
    )
    paths = os.pathsep.join([str(ROOT / "launcher"), str(ROOT / "shared")])
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": paths}, check=True
    )


def test_backends_are_listed_and_selected(scripted: Scripted) -> None:
    assert list_backends() == list(BACKENDS)
    for algorithm in ALGORITHMS:
        validate_backend_selection("trl", algorithm)
        spec, model = scripted.asked[-1]
        assert (spec.algorithm, spec.backend, model) == (algorithm, "trl", False)
    validate_backend_selection("unsloth", model_name="org/m", strict=True)
    spec, model = scripted.asked[-1]
    assert (spec.model.name, spec.strict, model) == ("org/m", True, True)
    with pytest.raises(SpecError, match="unknown algorithm 'sftt'"):
        validate_backend_selection("trl", "sftt")


# --- what a trainer does


def test_a_trainer_plans_trains_and_works_on_its_run(scripted: Scripted, tmp_path: Path) -> None:
    made = create_sft_trainer("org/m", "org/d", output_dir="run")
    assert made.plan().reason == "it is here"
    assert made.run_dir is None
    result = made.train()
    assert (result.run_dir, result.steps, result.metrics) == (tmp_path / "run", 3, {"loss": 2.0})
    assert "record" not in repr(result)
    assert made.evaluate(max_samples=2).loss == 2.0
    assert made.predict("p").texts == ["t"]
    assert made.predict([{"role": "user", "content": "hi"}])[0].text == "t"
    both: list[Prompt] = ["a", [{"role": "user", "content": "hi"}]]
    assert len(made.predict(both, temperature=0.5)) == 1
    assert made.push_to_hub("a/b", private=True).url == "u"
    of = str(tmp_path / "run")
    chat = [{"role": "user", "content": "hi"}]
    assert scripted.asked == [
        "train",
        Evaluate(of=of, max_samples=2),
        Predict(of=of, prompts=("p",)),
        Predict(of=of, prompts=(chat,)),
        Predict(of=of, prompts=("a", chat), temperature=0.5),
        Push(of=of, repository="a/b", private=True),
    ]


def test_a_run_is_taken_up_again_in_another_process(scripted: Scripted, tmp_path: Path) -> None:
    create_sft_trainer("org/m", "org/d", output_dir="run").train()
    again = Trainer.from_run("run")
    assert again.spec.model.name == "org/m"
    assert again.evaluate().rows == 4
    RunDir(tmp_path / "run").update(status="stopped")
    assert Trainer.from_run("run").train().steps == 3
    assert scripted.asked[-1] == ("resume", tmp_path / "run")
    with pytest.raises(OutputError, match="is not a run directory"):
        Trainer.from_run(tmp_path)


def test_nothing_can_be_done_with_what_is_not_trained() -> None:
    made = create_sft_trainer("org/m", "org/d")
    for method in (made.evaluate, lambda: made.predict("p"), lambda: made.save_model("x")):
        with pytest.raises(OutputError, match="no model has been trained yet"):
            method()


def test_a_model_is_saved_where_nothing_is(tmp_path: Path) -> None:
    made = create_sft_trainer("org/m", "org/d", output_dir="run")
    made.train()
    saved = made.save_model("copy")
    assert (saved.path, saved.files) == (tmp_path / "copy", ("config.json",))
    (tmp_path / "empty").mkdir()
    assert made.save_model(tmp_path / "empty").files == ("config.json",)
    with pytest.raises(OutputError, match="is not an empty folder"):
        made.save_model("copy")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "copy", "empty"}


def test_a_task_s_values_are_checked_before_anything_starts(tmp_path: Path) -> None:
    made = create_sft_trainer("org/m", "org/d", output_dir="run")
    made.train()
    for bad, says in (
        (lambda: made.predict("p", max_new_tokens=0), "max-new-tokens: Input should be greater"),
        (lambda: made.predict([]), "prompts: there are no prompts"),
        (lambda: made.push_to_hub("not a name"), "repository: String should match"),
        (lambda: made.evaluate(max_samples=-1), "max-samples: Input should be greater"),
    ):
        with pytest.raises(SpecError, match=says):
            bad()
