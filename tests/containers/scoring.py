"""Rewards where torch is: reward models, a trainer that takes them, and candidates as a stranger.

Run inside an image (or its venv): ``python scoring.py FOLDER``, which has ``models/llama`` and
``hostile.py``; prints what was found as JSON. The scores to compare with are plain transformers.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from aligntune.spec.algorithm_sections import RewardSpec

TEXTS = [("What is two plus two? ", "four"), ("Why? ", "the cat sat on the mat " * 8), ("a", "b")]
CHATS = [
    (
        [{"role": "user", "content": prompt.strip()}],
        [{"role": "assistant", "content": completion.strip()}],
    )
    for prompt, completion in TEXTS
]


def make_models(folder: Path) -> None:
    """A reward model, and folders that are none, all from the tiny causal model."""
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    causal = folder / "models" / "llama"
    tokenizer = AutoTokenizer.from_pretrained(causal)
    torch.manual_seed(1)
    for name, labels in (("judge", 1), ("classifier", 3), ("mute", 1)):
        model = AutoModelForSequenceClassification.from_pretrained(causal, num_labels=labels)
        if labels == 1:
            model.score.weight.data.normal_()  # a fresh head is all but zero
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    close(tokenizer).save_pretrained(shutil.copytree(folder / "judge", folder / "closed"))
    (folder / "mute" / "chat_template.jinja").unlink(missing_ok=True)
    headless = folder / "headless"
    AutoModel.from_pretrained(causal).save_pretrained(headless)
    tokenizer.save_pretrained(headless)
    (headless / "config.json").write_text((folder / "judge" / "config.json").read_text())
    (folder / "empty").mkdir(exist_ok=True)


def close(tokenizer: Any) -> Any:
    """The tokenizer, which now adds a token at the start and the end of a text itself."""
    from tokenizers import processors

    begin, end = "<|system|>", tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in (begin, end)],
    )
    tokenizer.bos_token = begin
    return tokenizer


def plain_scores(folder: Path, samples: list[tuple[Any, Any]]) -> list[float]:
    """Each sample by itself, so without padding."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt, completion in samples:
        if isinstance(prompt, str):
            ids = tokenizer(prompt + completion + tokenizer.eos_token)["input_ids"]
        else:
            text = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[0]
            last = max(place for place, one in enumerate(ids) if one != tokenizer.pad_token_id)
            found.append(float(model.score(hidden[last])))
    return found


def our_scores(folder: Path, samples: list[tuple[Any, Any]], **args: Any) -> list[float | None]:
    from aligntune.rewards import build

    chat = not isinstance(samples[0][0], str)
    (reward,) = build([RewardSpec(model=str(folder), args=args)], Path, "cpu", chat=chat)
    prompts, completions = zip(*samples, strict=True)
    return reward(prompts=list(prompts), completions=list(completions), completion_ids=[])


def refusal(folder: Path, chat: bool = False) -> list[str]:
    from aligntune.errors import AligntuneError
    from aligntune.rewards import build

    try:
        build([RewardSpec(model=str(folder))], Path, "cpu", chat=chat)
    except AligntuneError as error:
        return [type(error).__name__, error.what]
    return []


def train(folder: Path) -> dict[str, list[Any]]:
    """Two steps of GRPO under four rewards: what was logged of each, and of the whole."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from aligntune.rewards import build, labels

    own = folder / "mine.py"
    own.write_text(
        "def half(completions, answer):\n    return [0.5 if a else None for a in answer]\n"
    )
    asked = [
        RewardSpec(name="length", args={"max": 10_000}, weight=2.0),
        RewardSpec(name="length", args={"max": 1, "unit": "characters"}),
        RewardSpec(name=f"{own}:half", weight=4.0),
        RewardSpec(model=str(folder / "judge"), weight=0.0),
    ]
    rewards = build(asked, Path, "cpu", tell=print)
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "models" / "llama"),
        processing_class=AutoTokenizer.from_pretrained(folder / "models" / "llama"),
        reward_funcs=rewards,
        args=GRPOConfig(
            output_dir=str(folder / "grpo"),
            max_steps=2,
            logging_steps=1,
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=8,
            reward_weights=[one.weight for one in asked],
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": text, "answer": "x"} for text, _ in TEXTS * 4]),
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    names = ["reward", *(f"rewards/{label}/mean" for label in labels(asked))]
    return {name: [entry[name] for entry in logged] for name in names}


def candidates(folder: Path) -> list[str]:
    """What went otherwise than it must with the candidates of ``hostile.py``."""
    from aligntune.rewards.builtin.code_tests import read_tests
    from aligntune.rewards.sandbox.parent import Limits, Program, Step, run

    sys.path.insert(0, str(folder))
    hostile = importlib.import_module("hostile")
    kept = folder / "kept"
    kept.write_text("mine")
    source = hostile.HELP % str(kept)
    steps = [Step(f"assert refused({action!r})", True) for action in hostile.REFUSED.values()]
    verdicts = run([Program(source, (step,)) for step in steps], Limits(10, 2**29))
    wrong = [what for what, one in zip(hostile.REFUSED, verdicts, strict=True) if not one.passed]
    bad = {**hostile.FAKES, **hostile.ENDLESS, **hostile.TRICKS}
    tests = read_tests("assert f(1) == 2")
    verdicts = run([Program(source, tests) for source in bad.values()], Limits(1, 2**28))
    wrong += [what for what, one in zip(bad, verdicts, strict=True) if one.passed]
    good = "import numpy\ndef f(x):\n    return int(numpy.int64(x)) + 1"
    (verdict,) = run([Program(good, tests)], Limits(10, 2**30))
    wrong += [] if verdict.passed else ["a good one"]
    wrong += ["the file that is kept"] if kept.read_text() != "mine" else []
    return wrong


def main() -> None:
    folder = Path(sys.argv[1])
    os.environ["TRITON_INTERPRET"] = "1"  # trl 1.15 outside Unsloth needs it on a CPU
    with redirect_stdout(sys.stderr):
        make_models(folder)
        found = {
            "text": [plain_scores(folder / "judge", TEXTS), our_scores(folder / "judge", TEXTS)],
            "chat": [
                plain_scores(folder / "judge", CHATS),
                our_scores(folder / "judge", CHATS, batch_size=2),
            ],
            "cut": our_scores(folder / "judge", [("x " * 3000, "four")], max_length=16),
            "end": our_scores(folder / "judge", [(" x" * 8 + "x " * 8, "four")], max_length=16),
            "closed": [
                our_scores(folder / "closed", [("Why? ", "four")]),
                our_scores(folder / "closed", [("<|system|>Why? ", "four<|end|>")]),
                our_scores(folder / "judge", [("<|system|>Why? ", "four<|end|>")]),
            ],
            "refused": {
                name: refusal(folder / name)
                for name in ("classifier", "headless", "empty", "models/llama")
            },
            "mute": [refusal(folder / "mute", chat) for chat in (False, True)],
            "logged": train(folder),
            "candidates": candidates(folder),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
