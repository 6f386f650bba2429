"""Every Yes of the matrix learns its toy, keeps checkpointing on, and loads plainly afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.gpu.bench import INSIDE, Bench, Run
from tests.gpu.results import Row
from tests.gpu.stacks import StepError
from tests.helpers.toys import TOYS

from aligntune.algorithms import ALGORITHMS

LIMIT_SECONDS = 260
CELL_SECONDS = 120

KINDS = ("full", "LoRA", "4bit")

FIRST = ("sft", "grpo", "dpo", "ppo")
"""Algorithms in order of value; the others follow in the table's own order."""

REHEARSED = {
    ("trl", "sft", "4bit"): None,
    ("unsloth", "grpo", "full"): 4,
    ("unsloth", "sft", "LoRA"): None,
    ("trl", "ppo", "LoRA"): 20,
}
"""Cells that are enough for every line of this step to run, with the number of steps; where that is
given, learning is not judged. ``make test-matrix`` trains all cells on the CPU."""

PLANTED = ("trl", "sft", "4bit")
"""The cell that ``--plant`` breaks."""

LONGER = {"ppo": 2, "rloo": 2}
"""Times the steps of the toy that an adapter needs here: the model is wider than in other tests."""

CLOSE = {
    "supervised": 0.02,
    "preference": 0.05,
    "feedback": 0.1,
    "reward_model": 0.05,
    "online": 0.15,
}
"""How far the plainly loaded model's figure may be from the reported one, by family: bf16 on the
GPU against fp32 on the CPU, and another draw of samples for online algorithms."""


@dataclass(frozen=True)
class Cell:
    """One training: ``kind`` is full, LoRA, 4bit or 8bit."""

    backend: str
    algorithm: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.backend} {self.algorithm} {self.kind}"

    @property
    def family(self) -> str:
        return ALGORITHMS[self.algorithm].family


def cells() -> list[Cell]:
    """Every Yes of the table, the most valuable first; 8 bits once on each backend."""
    order = [*FIRST, *(name for name in ALGORITHMS if name not in FIRST)]
    found = [
        Cell(backend, algorithm, kind)
        for algorithm in order
        for kind in KINDS
        for backend in ALGORITHMS[algorithm].backends
    ]
    return [*found, Cell("trl", "sft", "8bit"), Cell("unsloth", "sft", "8bit")]


def run(bench: Bench) -> Iterator[Row]:
    """A row a cell as it ends, then what could not be loaded plainly."""
    wanted = [Cell(*cell) for cell in REHEARSED] if bench.rehearsing else cells()
    bench.toy_model()
    for cell in wanted:  # before several threads write the same data
        spec_of(bench, cell)
    learned: dict[Cell, dict[str, Any]] = {}
    for cell, (run, seconds) in bench.at_once(lambda cell: _train(bench, cell), wanted):
        row, result = _judge(bench, cell, run, seconds)
        if result:
            learned[cell] = result
        yield row
    yield from _reload(bench, learned)
    yield from _ppo_numbers(bench)
    if bench.rehearsing:
        rest = len(cells()) - len(wanted)
        yield Row(f"the other {rest} cells", "left out", "make test-matrix trains them on the CPU")
        yield Row("4 bits on Unsloth", "left out", "bitsandbytes is off in the emulated GPU path")


def spec_of(bench: Bench, cell: Cell) -> dict[str, Any]:
    """The cell's toy with checkpointing on and an evaluation halfway."""
    spec = bench.toy_spec(
        cell.algorithm,
        cell.kind != "full",
        precision="fp32" if bench.rehearsing else "auto",
        gradient_checkpointing=True,
    )
    training = spec["training"]
    longer = 1 if cell.kind == "full" else LONGER.get(cell.algorithm, 1)
    training["max_steps"] = _few(bench, cell) or training["max_steps"] * longer
    training["eval_steps"] = training["max_steps"] // 2
    if cell.kind in ("4bit", "8bit"):
        spec["model"]["quantization"] = cell.kind
    if cell == Cell(*PLANTED) and bench.planted == "matrix":
        training["learning_rate"] = 0.0
    if cell == Cell(*PLANTED) and bench.planted == "checkpointing":
        training["gradient_checkpointing"] = False
    if cell.backend == "unsloth" and bench.rehearsing and cell.kind != "full":
        spec["adapter"]["targets"] = ["q_proj", "v_proj", "up_proj", "down_proj"]
    return spec


def _few(bench: Bench, cell: Cell) -> int | None:
    """Steps of a rehearsed cell that is too short to learn anything."""
    return REHEARSED[cell.backend, cell.algorithm, cell.kind] if bench.rehearsing else None


def _train(bench: Bench, cell: Cell) -> tuple[Run, float]:
    began = time.monotonic()
    name = cell.name.replace(" ", "-")
    run = bench.train(cell.backend, spec_of(bench, cell), name, CELL_SECONDS)
    return run, time.monotonic() - began


def _judge(bench: Bench, cell: Cell, run: Run, seconds: float) -> tuple[Row, dict[str, Any] | None]:
    try:
        result = run.result
    except StepError as error:
        return Row.judge(cell.name, False, str(error)), None
    toy = TOYS[cell.family]
    figure = float(result[f"eval_{toy.figure}"])
    few = _few(bench, cell)
    learned = few is not None or toy.learned(result)
    wrong = [] if learned else [f"it did not learn: {toy.reaches} is wanted"]
    if result.get("gradient_checkpointing") is not True:
        wrong.append(
            f"checkpointing is planned and was {result.get('gradient_checkpointing')} at the end"
        )
    if not bench.rehearsing and not result["memory"]["peak_gpu"]:
        wrong.append("it did not use the GPU")
    if not bench.rehearsing and result["precision"] != "bf16":
        wrong.append(f"it computed in {result['precision']}")
    steps = "" if few is None else f" after {few} steps only"
    says = f"{toy.figure} {figure:.3f}{steps}, {result['precision']}, {seconds:.0f} s"
    row = Row.judge(
        cell.name,
        not wrong,
        "; ".join([says, *wrong]),
        figure=figure,
        seconds=round(seconds, 1),
        phases=result["seconds"],
        peak_gpu=result["memory"]["peak_gpu"],
    )
    return row, result


def _reload(bench: Bench, learned: dict[Cell, dict[str, Any]]) -> Iterator[Row]:
    """Load every saved toy in plain transformers or PEFT on the CPU, and compare its figure."""
    runs = bench.work / "runs"
    jobs = [
        {
            "name": cell.name,
            "family": cell.family,
            "model": str(runs / cell.name.replace(" ", "-") / "model"),
            "base": str(bench.toy_model()),
            "adapter": cell.kind != "full",
            "four_bit": cell.kind == "4bit",
            "rows": str(bench.work / "data" / f"{TOYS[cell.family].data}-held-out.jsonl"),
        }
        for cell in learned
        if cell.kind != "8bit"  # bitsandbytes has no 8-bit kernels to train with on a CPU
    ]
    reported = {cell.name: (cell, result) for cell, result in learned.items()}
    found = [line for _, lines in bench.at_once(_reloads(bench), _parts(jobs)) for line in lines]
    for one in found:
        cell, result = reported[one["name"]]
        figure = float(result[f"eval_{TOYS[cell.family].figure}"])
        name = f"{cell.name}, loaded plainly"
        if one.get("figure") is None:
            yield Row.judge(name, False, one.get("error", "its figure is not a number"))
            continue
        apart = abs(one["figure"] - figure)
        close = apart <= CLOSE[cell.family] * max(1.0, abs(figure))
        says = f"{one['figure']:.3f}, reported {figure:.3f}"
        yield Row.judge(name, close, says, figure=one["figure"], reported=figure)
    for job in jobs:
        if job["name"] not in [one["name"] for one in found]:
            yield Row.judge(f"{job['name']}, loaded plainly", False, "see the reload's log")


def _parts(jobs: list[dict[str, Any]], size: int = 10) -> list[tuple[int, list[dict[str, Any]]]]:
    return [(start, jobs[start : start + size]) for start in range(0, len(jobs), size)]


def _reloads(bench: Bench) -> Any:
    def reload(part: tuple[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
        number, jobs = part
        path = bench.write(f"reload-{number}.json", json.dumps(jobs))
        words, log = [INSIDE / "reload.py", path], bench.log(f"reload-{number}")
        try:
            lines = bench.stacks["trl"].run(words, log, CELL_SECONDS, {"CUDA_VISIBLE_DEVICES": ""})
        except StepError:
            return []
        return [json.loads(line) for line in lines if line.startswith("{")]

    return reload


def _ppo_numbers(bench: Bench) -> Iterator[Row]:
    """Our PPO over each backend's model: sampled, scored and learned under the same kernels."""
    cases = [
        (backend, policy, critic)
        for backend in ("trl", "unsloth")
        for policy in KINDS
        for critic in ("head", "model")
    ]
    if bench.rehearsing:
        yield Row("PPO's ratios and padding", "left out", "tests/containers/test_ppo.py holds them")
        return
    for _, row in bench.at_once(lambda case: _ppo(bench, *case), cases):
        yield row


def _ppo(bench: Bench, backend: str, policy: str, critic: str) -> Row:
    name = f"{backend} PPO's numbers, {policy}, critic {critic}"
    folder = bench.work / "ppo" / f"{backend}-{policy}-{critic}"
    folder.mkdir(parents=True)
    log = bench.log(f"ppo-{backend}-{policy}-{critic}")
    variables = {"UNSLOTH_COMPILE_LOCATION": str(folder / "compiled")}
    words = [INSIDE / "ppo.py", policy.lower(), critic, folder]
    try:
        told = json.loads(bench.stacks[backend].run(words, log, CELL_SECONDS, variables)[-1])
    except StepError as error:
        return Row.judge(name, False, str(error))
    rose = told["rewards"][1] - told["rewards"][0]
    wrong = [
        what
        for what, bad in {
            # Nothing has moved at the first step.
            f"first KL {told['first_approx_kl']:.1e}": told["first_approx_kl"] >= 1e-3,
            f"first ratio {told['first_ratio']:.3f}": abs(told["first_ratio"] - 1) >= 0.02,
            # Against one row at a time, unpadded, with the model as it is after training.
            f"padding moves log-probabilities by {told['padding_error']:.3f}": told["padding_error"]
            >= 0.05,
            f"the reward rose by {rose:.2f}": rose <= 0.1,
        }.items()
        if bad
    ]
    return Row.judge(name, not wrong, "; ".join(wrong) or f"the reward rose by {rose:.2f}", **told)
