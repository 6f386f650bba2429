"""What the user sees before and after a run, as text or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

import yaml

from aligntune.algorithms import TITLES
from aligntune.recipe import known_recipe
from aligntune.record.events import headline
from aligntune.record.recipe import Recipe, recipe_lines
from aligntune.record.run_dir import parent_of
from aligntune.record.schema import RunRecord
from aligntune.spec.resolve import Settings
from aligntune.units import gib
from aligntune_run.check import Verdict
from aligntune_run.engines.registry import engine_kind
from aligntune_run.host.types import Gpu
from aligntune_run.images import Listed
from aligntune_run.memory.estimate import Estimate
from aligntune_run.plan import Plan
from aligntune_run.planning.planner import Planner, Prepared
from aligntune_run.selection.availability import Status


def choice(prepared: Prepared, stream: TextIO) -> None:
    """Print the choice in one line, then every warning where it cannot be missed."""
    plan = prepared.plan
    engine = plan.choice.engine
    if plan.spec.engine == engine:
        engine += ", as requested"
    elif not engine_kind(engine).in_containers:
        engine += f", as no container engine is reachable: {prepared.host.engine.reason}"
    if plan.task:
        job = f"{plan.task.kind} {plan.task.of}"
    else:
        parent = parent_of(plan.spec)
        job = plan.spec.algorithm + (f" of {parent.short_id}" if parent else "")
    print(f"{job} with {plan.choice.reason}, engine {engine}", file=stream)
    for warning in plan.choice.warnings:
        rule = "!" * 78
        print(f"{rule}\nWARNING: {warning}\n{rule}", file=sys.stderr)
    print(f"run directory: {plan.run_dir}", file=stream, flush=True)


def values(prepared: Prepared) -> dict[str, Any]:
    """The plan as data, with the exact arguments it would run with."""
    return {
        "spec": prepared.plan.spec.model_dump(mode="json"),
        "plan": prepared.plan.to_dict(),
        **({} if prepared.plan.task else {"recipe": recipe_of(prepared.plan)}),
        "commands": [
            {"phase": command.phase, "engine": prepared.plan.choice.engine, **command.arguments}
            for command in prepared.engine.commands(prepared.plan)
        ],
    }


def plan(prepared: Prepared, as_json: bool) -> None:
    """Print the plan, with the exact arguments it would run with."""
    data = values(prepared)
    if as_json:
        json_line(data)
        return
    choice(prepared, sys.stdout)
    recipe(data["recipe"])
    verdicts(prepared.plan.choice.verdicts)
    print(yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False, allow_unicode=True), end="")


def recipe_of(planned: Plan) -> Recipe:
    """What a run will train with, as far as it is known before anything is loaded."""
    choice = planned.choice
    device = "GPU" if choice.gpus else "CPU"
    where = {"backend": TITLES[choice.backend], "device": device}
    return known_recipe(planned.spec, planned.origins) | where


def recipe(known: Recipe) -> None:
    """Print what a run trains with, in a few lines."""
    print("\n".join(f"  {line}" for line in recipe_lines(known)))


def verdicts(shown: Sequence[Verdict]) -> None:
    """Print one line per rule, and the remedy if it does not pass."""
    for verdict in shown:
        backend = verdict.backend or "both"
        print(f"  {verdict.level}  {backend:8} {verdict.rule:13} {verdict.evidence}")
        if verdict.remedy:
            print(f"{'':30}-> {verdict.remedy}")


def explanation(planner: Planner, settings: Settings, as_json: bool) -> None:
    """Print the outcome of a request, with what it trains with and the verdict of every rule."""
    known = known_recipe(settings.spec, settings.origins)
    outcome = planner.outcome
    refusal = outcome.refusal
    if as_json:
        json_line(
            {
                "recipe": known,
                "choice": outcome.choice and asdict(outcome.choice),
                "refusal": refusal
                and {
                    "kind": type(refusal).__name__,
                    "exit_code": refusal.exit_code,
                    "what": refusal.what,
                    "remedy": refusal.remedy,
                },
                "rule": outcome.rule,
                "estimate": outcome.estimate and asdict(outcome.estimate),
                "verdicts": [asdict(one) for one in outcome.verdicts],
                "model": planner.inspection.model and asdict(planner.inspection.model),
                "gpus": [asdict(gpu) for gpu in planner.inspection.host.gpus],
            }
        )
        return
    recipe(known)
    for gpu in planner.inspection.host.gpus:
        print(f"GPU: {_gpu(gpu)}")
    verdicts(outcome.verdicts)
    if outcome.estimate:
        _memory(outcome.estimate)
    print(outcome.choice.reason if outcome.choice else f"refused by the rule {outcome.rule!r}")


def status(found: Status, as_json: bool) -> None:
    """Print which backends are available here, and the hardware to run them on."""
    if as_json:
        json_line(found.to_dict())
        return
    for name, backend in found.backends.items():
        label = "available" if backend["available"] else "unavailable"
        print(f"{name:8} {label}: {backend['reason']}")
    host = found.host
    for gpu in host.gpus:
        print(f"GPU      {_gpu(gpu)}")
    if host.gpu_note:
        print(f"GPU      {host.gpu_note if host.gpus else f'none: {host.gpu_note}'}")
    if host.driver:
        print(f"driver   {host.driver}{f', CUDA {host.driver_cuda}' if host.driver_cuda else ''}")
    engine = host.engine
    label = f"{engine.kind} {engine.version}" if engine.reachable else f"none: {engine.reason}"
    print(f"engine   {label}")
    print(f"machine  {host.cpus} CPUs, {gib(host.memory)}")


def _memory(needed: Estimate) -> None:
    print(
        f"memory: at least {gib(needed.low)}, about {gib(needed.expected)}, "
        f"at most {gib(needed.high)}: "
        + ", ".join(f"{name} {gib(size)}" for name, size in needed.parts)
    )


def _gpu(gpu: Gpu) -> str:
    """Describe one GPU."""
    parts = [
        f"{gpu.index} {gpu.name} ({gpu.uuid})",
        f"compute capability {gpu.capability[0]}.{gpu.capability[1]}",
        f"{gib(gpu.free)} of {gib(gpu.memory)} free",
    ]
    if gpu.leased:
        parts.append(f"in use by {gpu.leased}")
    if gpu.users:
        parts.append(f"used by {', '.join(gpu.users)}")
    return ", ".join(parts)


def json_line(values: Any) -> None:
    """Print JSON for programs on stdout."""
    print(json.dumps(values, indent=2, ensure_ascii=False, default=str))


def summary(record: RunRecord, stream: TextIO) -> None:
    """Print the result, where it is, and how to load it."""
    result = record.result
    model = f"{record.run_dir}/model"
    losses = f"loss {result['final_loss']:.4f}"
    metrics = {name[len("eval_") :]: result[name] for name in result if name.startswith("eval_")}
    if best := headline(metrics):
        losses += f", evaluation {best}"
    kept = result.get("best")
    if kept and (not kept["kept"] or record.spec["training"].get("keep_best")):
        state = "kept" if kept["kept"] else "not kept"
        losses += f" (best {kept['figure']} {kept['value']:.4f} at step {kept['step']}, {state})"
    speed = f"{result['tokens']:,} tokens at {result['tokens_per_second']:,.0f} token/s"
    memory = result["memory"]["peak_gpu"] or result["memory"]["peak"]
    print(
        f"finished: {result['steps']} steps, {losses}; {speed}, peak {gib(memory)}",
        file=stream,
    )
    print(f"model: {model}", file=stream)
    text_class = result.get("text_class")
    if text_class and record.spec["adapter"]["type"] != "none":
        print(
            f"the adapter fits {text_class}, the text part of its base model, not the whole "
            f"checkpoint; `aligntune-run predict {record.run_dir}` loads both",
            file=stream,
        )
        return
    print(f"load it with:\n{_loading(record, model)}", file=stream)


def _loading(record: RunRecord, model: str) -> str:
    spec = record.spec
    if spec["algorithm"] == "reward":
        return (
            "    from transformers import AutoModelForSequenceClassification\n"
            f"    model = AutoModelForSequenceClassification.from_pretrained({model!r})"
        )
    if spec["adapter"]["type"] == "none":
        return (
            "    from transformers import AutoModelForCausalLM\n"
            f"    model = AutoModelForCausalLM.from_pretrained({model!r})"
        )
    return (
        "    from peft import AutoPeftModelForCausalLM\n"
        f"    model = AutoPeftModelForCausalLM.from_pretrained({model!r})"
    )


def evaluation(record: RunRecord, stream: TextIO) -> None:
    """Print the results of an evaluation, and a few of its rows."""
    result = record.result
    print(f"evaluated {result['rows']} rows of {result['source']}", file=stream)
    for name, value in result["metrics"].items():
        if value is not None:
            print(f"  {name:20} {_figure(value)}", file=stream)
    for sample in result["samples"]:
        print("sample:", file=stream)
        for name, value in sample.items():
            print(f"  {name}: {_figure(value)}", file=stream)
    print(f"record: {record.run_dir}/run.json", file=stream)


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def predictions(record: RunRecord, stream: TextIO) -> None:
    """Print a model's output for each prompt, with the prompts if there are several."""
    results = record.result["predictions"]
    for prediction in results:
        if len(results) > 1:
            print(f"> {prediction['prompt']}", file=stream)
        text = prediction["text"] if "text" in prediction else f"score {prediction['score']:.6g}"
        print(text, file=stream)


def pushed(record: RunRecord, stream: TextIO) -> None:
    """Print where a model was uploaded."""
    result = record.result
    print(f"pushed: {result['url']} at {result['commit'][:12]}", file=stream)


HEADLINE_VERSIONS = ("unsloth", "trl", "transformers", "torch")


def images(found: Sequence[Listed], as_json: bool) -> None:
    """Print the images on this machine, one line each, or everything about them as JSON."""
    if as_json:
        json_line([asdict(image) for image in found])
        return
    for image in found:
        size = gib(image.size) if image.size else "?"
        versions = " ".join(
            f"{name} {image.versions[name]}" for name in HEADLINE_VERSIONS if name in image.versions
        )
        state = image.state + (f", code {image.code}" if image.code == "differs" else "")
        print(f"{image.ref:38} {size:>8}  {(image.id or '-')[7:19]:12}  {state}; {versions}")
    if any(image.stale for image in found):
        print("To remove the stale images, run `aligntune-run images prune`")
    if any(image.code == "differs" and not image.stale for image in found):
        print(
            "code differs: runs are not affected, because they mount this version's code. "
            "`aligntune-run images build` renews the copy for compose and `docker run`"
        )
