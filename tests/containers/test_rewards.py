"""Rewards in both images: reward models, TRL's own trainer under them, and hostile candidates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from tests.containers.jobs import CONFINED, output_of
from tests.containers.runs import GID, ROOT, UID, Bench

Found = dict[str, Any]


@pytest.fixture(
    scope="module", params=[("trl", "cpu"), ("unsloth", "cuda")], ids=["trl", "unsloth"]
)
def found(request: pytest.FixtureRequest, image: Callable[[str, str], str], bench: Bench) -> Found:
    """What ``scoring.py`` found in an image, confined as a training container is."""
    folder = bench.folder / f"scoring-{request.param[0]}"
    folder.mkdir()
    shutil.copytree(bench.models / "llama", folder / "models" / "llama")
    for script in ("tests/containers/scoring.py", "tests/helpers/hostile.py"):
        shutil.copy(ROOT / script, folder)
    bench.give_away()
    output = output_of(
        image(*request.param),
        [folder / "scoring.py", folder],
        entrypoint=["python"],
        user=f"{UID}:{GID}",
        volumes={folder: (str(folder), "rw")},
        environment={"HF_HUB_OFFLINE": "1"},
        **CONFINED,
    )
    return dict(json.loads(output))


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_a_reward_model_scores_a_padded_batch_as_each_sample_by_itself(
    kind: str, found: Found
) -> None:
    plain, ours = found[kind]
    assert ours == pytest.approx(plain, abs=1e-4)
    assert max(plain) - min(plain) > 0.01, "else a wrong sample would not be seen"


def test_a_text_starts_and_ends_once_for_a_reward_model_whatever_its_tokenizer_adds(
    found: Found,
) -> None:
    (plain,), *others = found["closed"]
    assert [score for (score,) in others] == pytest.approx([plain, plain], abs=1e-4)


def test_what_is_too_long_for_a_reward_model_loses_its_beginning(found: Found) -> None:
    assert found["cut"] == pytest.approx(found["end"], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("classifier", "is a classifier with 3 labels (LABEL_0, LABEL_1, LABEL_2)"),
        ("headless", "lack score.weight"),
        ("empty", "there is no config.json"),
        ("models/llama", "is a LlamaForCausalLM, which has no reward head"),
    ],
)
def test_what_is_no_reward_model_is_refused(name: str, said: str, found: Found) -> None:
    kind, what = found["refused"][name]
    assert kind == "ModelError"
    assert said in what


def test_a_reward_model_without_chat_template_takes_text_only(found: Found) -> None:
    with_text, with_chat = found["mute"]
    assert with_text == []
    assert with_chat[0] == "ModelError"
    assert "no chat template" in with_chat[1]


def test_a_trainer_logs_each_reward_by_itself_and_weighs_them(found: Found) -> None:
    logged = found["logged"]
    assert list(logged) == [
        "reward",
        *(f"rewards/{name}/mean" for name in ("length", "length_2", "half", "judge")),
    ]
    for whole, long, short, half, judge in zip(*logged.values(), strict=True):
        assert (long, half) == pytest.approx((1.0, 0.5))
        assert 0 <= short < 1
        assert judge not in (0, 1)
        assert whole == pytest.approx(2 * long + short + 4 * half, abs=1e-5)


def test_candidates_are_confined_in_a_training_container(found: Found) -> None:
    assert found["candidates"] == []
