"""The Python API without a backend: rewards, runners, and what a trainer does."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest
from tests.helpers.scripted_runner import Scripted

from aligntune.algorithms import ALGORITHMS, BACKENDS
from aligntune.api import discover
from aligntune.api.discover import find_runner
from aligntune.api.functions import named_function
from aligntune.core.backend_factory import (
    Trainer,
    create_rl_trainer,
    create_sft_trainer,
    list_backends,
    validate_backend_selection,
)
from aligntune.errors import EngineError, OutputError, SpecError
from aligntune.record.run_dir import RunDir
from aligntune.rewards import build
from aligntune.tasks import Evaluate, Predict, Prompt, Push

ROOT = Path(__file__).parents[3]
RL: Callable[..., Trainer] = create_rl_trainer
"""As a notebook sees them, which checks no types."""


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
    replaced = write_module(
        tmp_path, "api_replaced", "def f(): ...\ndef g(f=f): return f\ndef f(): ...\n"
    ).g()
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


def test_a_reward_may_be_whatever_a_module_has_and_a_call_of_it_is_the_same(tmp_path: Path) -> None:
    mine = write_module(
        tmp_path,
        "api_callables",
        "from functools import partial\n"
        "def f(completions, bonus=0.0, **_):\n    return [bonus] * len(completions)\n"
        "async def g(completions, trainer_state, answer):\n    return [1.0] * len(completions)\n"
        "class Scorer:\n"
        "    def __init__(self, value):\n        self.value = value\n"
        "    def __call__(self, completions):\n        return [self.value] * len(completions)\n"
        "scorer = Scorer(0.25)\n"
        "half = partial(f, bonus=0.5)\n",
    )
    file = f"{tmp_path}/api_callables.py"
    given = [mine.f, mine.g, mine.scorer, mine.half, partial(mine.half, bonus=0.75)]
    made = RL("m", "d", algorithm="grpo", rewards=given)
    names = [f"{file}:{name}" for name in ("f", "g", "scorer", "half", "f")]
    assert [reward.name for reward in made.spec.rewards] == names
    assert [reward.args for reward in made.spec.rewards] == [{}, {}, {}, {}, {"bonus": 0.75}]
    state = SimpleNamespace(global_step=3)
    columns = {"answer": ["4"], "other": ["x"], "trainer_state": state, "log_metric": print}
    scores = [
        reward(prompts=["p"], completions=["c"], completion_ids=[[1]], **columns)
        for reward in build(made.spec.rewards, Path)
    ]
    assert scores == [[0.0], [1.0], [0.25], [0.5], [0.75]]
    nested = RL("m", "d", algorithm="grpo", rewards={"name": partial(mine.f, bonus=1), "weight": 2})
    assert (nested.spec.rewards[0].args, nested.spec.rewards[0].weight) == ({"bonus": 1}, 2.0)
    for function, says in (
        (mine.Scorer(1), "is an object that no module has"),
        (mine.Scorer, "is a class"),
        (partial(mine.f, []), "fixes an argument by position"),
        (partial(lambda **_: [], x=1), "is a lambda"),
        (mine.scorer.__call__, "is a method"),
    ):
        with pytest.raises(SpecError, match=says):
            RL("m", "d", algorithm="grpo", rewards=[function])


def test_a_weight_that_is_set_twice_is_refused() -> None:
    given = {"name": "length", "args": {"max": 3}, "weight": 2}
    with pytest.raises(SpecError, match="the weight of the reward 'length' is set twice"):
        RL("m", "d", algorithm="grpo", reward_functions=[given], reward_function_weights=[1])


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
    del sys.modules["aligntune_backend"]


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
