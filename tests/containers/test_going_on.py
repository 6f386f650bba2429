"""Going on: with a run that was stopped, and from the model that another run left."""

from __future__ import annotations

import signal
from hashlib import sha256
from typing import Any

import pytest
from tests.containers.learning import Learning
from tests.containers.runs import TIMEOUT, TRACEBACK, Ended, wait_for_step
from tests.helpers.toys import REWARD, TOYS

SLOW_REWARD = f"import time\n{REWARD}\n    time.sleep(0.2)".replace("    return", "    scores =")
SLOW_REWARD += "\n    return scores\n"
"""So that a run lasts long enough to be stopped."""

OFF_POLICY = {"num_iterations": 2, "beta": 0.05, "num_generations": 4, "max_completion_length": 12}
STOPPED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"max_steps": 60, "gradient_accumulation": 2, "batch_size": 4}, {"rl": OFF_POLICY}),
    "ppo": ({"max_steps": 80}, {}),
    "dpo": ({"max_steps": 100}, {}),
    "kto": ({"max_steps": 100}, {}),
}
"""By algorithm: training and sections of a run whose epochs are short, as going on is harder in a
later one."""


def model_hash(ended: Ended) -> str:
    return sha256((ended.run / "model" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "algorithm",
    ["grpo", *(pytest.param(name, marks=pytest.mark.matrix) for name in ("ppo", "dpo", "kto"))],
)
def test_a_stopped_run_goes_on_to_the_same_weights(algorithm: str, learning: Learning) -> None:
    bench = learning.bench
    training, sections = STOPPED[algorithm]
    spec = learning.spec(algorithm, **{"learning_rate": 1e-3, **training}) | sections
    spec["dataset"]["max_samples"] = 16
    if "rewards" in spec:
        spec["rewards"] = [f"{bench.write('slow.py', SLOW_REWARD)}:good"]
    whole = learning.train(spec)
    assert whole.code == 0, whole.report

    run = bench.output()
    with bench.start(*learning.words(spec, run)) as command:
        wait_for_step(run, 21)
        command.send_signal(signal.SIGTERM)
        _, err = command.communicate(timeout=TIMEOUT)
    assert command.returncode == 75, err
    assert TRACEBACK not in err
    resumed = bench.run("--resume", run, run=run)
    result = resumed.result
    assert 20 < result["resumed_from"] < training["max_steps"]
    assert resumed.losses == whole.losses
    held_out = f"eval_{learning.toy(algorithm).figure}"
    for figure in ("final_loss", "train_loss", "tokens", "steps", held_out):
        assert result[figure] == whole.result[figure]
    assert model_hash(resumed) == model_hash(whole)


@pytest.mark.parametrize("kind", ["full", pytest.param("LoRA", marks=pytest.mark.matrix)])
def test_dpo_goes_on_from_what_sft_left(kind: str, learning: Learning) -> None:
    adapter = kind == "LoRA"
    taught = learning.train(learning.spec("sft", adapter=adapter))
    assert TOYS["supervised"].learned(taught.result), taught.report
    spec = learning.spec("dpo", adapter=adapter)
    del spec["model"]
    spec.pop("adapter", None)  # the adapter that is gone on with keeps its own shape
    run = learning.bench.output()
    ended = learning.bench.run("--model", taught.run, *learning.words(spec, run), run=run)
    assert TOYS["preference"].learned(ended.result), ended.report
    assert (ended.run / "model" / "adapter_config.json").is_file() == adapter
