"""What a worker does with a finished run: evaluate it, ask it, push its model to a hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune.errors import AligntuneError, DataError, HubError, ModelError
from aligntune.events import EventWriter
from aligntune.rundir import RunDir
from aligntune.spec import RunSpec
from aligntune.tasks import Evaluate, Predict, Prompt, Push, Task, needs_reference, spec_for
from aligntune.training import data
from aligntune.training.arguments import Device
from aligntune.training.backend import Backend, installed
from aligntune.training.failures import first_line
from aligntune.training.families import Setup, family
from aligntune.training.families.reward_model import scores
from aligntune.training.fetch import fetch_missing, fetched, hub_error
from aligntune.training.generation import complete
from aligntune.training.loading import (
    find_device,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    locate_model,
    row_length,
)
from aligntune.training.logprobs import REFERENCE_ADAPTER
from aligntune.training.loss_head import LossHead
from aligntune.training.stop import StopSignal
from aligntune.training.tokenization import IGNORED, encode_answered, encode_prompt
from aligntune.training.worker import (
    Clock,
    held_out_rows,
    load_rewards,
    load_rows,
    machine,
    stack_versions,
)

SAMPLES = 4
SAMPLE_TOKENS = 64
"""Rows, and tokens of each, that a model completes for whoever reads its evaluation."""


def do(spec: RunSpec, run: RunDir, events: EventWriter, task: Task) -> None:
    """Do ``task`` and leave its result in the record of ``run``.

    Args:
        spec: of the run that the task is of.
        run: the task's own folder.
        events: the stream of what happens.
        task: what to do.

    Raises:
        AligntuneError: anything foreseen, by class.
    """
    StopSignal("it was done")
    spec = spec_for(spec, task)
    clock = Clock(events)
    run.update(status="running")
    if isinstance(task, Push):
        with clock.phase("push"):
            result: dict[str, Any] = _push(task, events)
    else:
        backend, device = _start(spec, run, events, clock)
        fetch_missing(spec, run, events, task)
        with clock.phase("load_model"):
            saved = _load(spec, run, task, backend, device)
        with clock.phase(task.kind):
            result = (
                _evaluate(saved, spec, run, events, task)
                if isinstance(task, Evaluate)
                else _predict(saved, spec, task)
            )
        result |= {"backend": backend.NAME, "precision": device.precision}
        run.update(machine=machine(device))
    seconds = {name: round(spent, 3) for name, spent in clock.seconds.items()}
    result |= {"versions": stack_versions(), "seconds": seconds}
    run.update(status="finished", result=result)
    events("end", status="finished", result=result)


@dataclass(frozen=True)
class _Saved:
    """What a run left, loaded."""

    model: Any
    tokenizer: Any
    max_length: int | None
    backend: Backend
    device: Device


def _start(spec: RunSpec, run: RunDir, events: EventWriter, clock: Clock) -> tuple[Backend, Device]:
    with clock.phase("import"):
        backend = installed()
        backend.prepare()
        import datasets
        import transformers

        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        device = find_device(spec, run)
        events("note", message=f"computing on the {device.name}")
    return backend, device


def _load(spec: RunSpec, run: RunDir, task: Task, backend: Backend, device: Device) -> _Saved:
    """The model that a run left: whole, or its adapter on the base that it was trained on."""
    folder = locate(str(Path(task.of, "model")))
    if not folder.is_dir():
        raise ModelError(f"{task.of} has no model")
    tokenizer = load_tokenizer(spec, folder)
    head = family(spec.row).HEAD
    path = folder
    if spec.adapter.type != "none":
        path = locate_model(spec, run)
        shape = spec.adapter.model_copy(update={"path": str(Path(task.of, "model"))})
        loaded = spec.model_copy(update={"adapter": shape})
    else:
        loaded = spec
    config = load_config(loaded, path)
    max_length = row_length(spec, config)
    model = load_model(loaded, path, config, max_length, backend, device, run, head)
    if device.cuda and spec.model.quantization == "none":
        model.to("cuda")
    return _Saved(model, tokenizer, max_length, backend, device)


def _reference(saved: _Saved, spec: RunSpec, run: RunDir) -> Any | None:
    """What training began with, where it is not the saved model with its adapter switched off."""
    if not needs_reference(spec):
        return None
    if spec.adapter.type == "none":
        path = locate_model(spec, run)
        config = load_config(spec, path)
        length, backend, device = saved.max_length, saved.backend, saved.device
        base = load_model(spec, path, config, length, backend, device, run, "causal")
        return base.to("cuda") if device.cuda else base
    if spec.adapter.path:  # an adapter that was gone on with: as it was then
        name = spec.adapter.path
        path = locate(name) if Path(name).is_absolute() else Path(fetched(run)["adapter"]["path"])
        saved.model.load_adapter(str(path), adapter_name=REFERENCE_ADAPTER)
    return None


def _evaluate(
    saved: _Saved, spec: RunSpec, run: RunDir, events: EventWriter, task: Evaluate
) -> dict[str, Any]:
    rows = _rows(saved, spec, run, task)
    part = {"part": "evaluation", "rows": len(rows.dataset), "source": rows.source}
    events("data", format=rows.format, **part)
    rewards = load_rewards(spec, run, events, saved.device, rows)
    head = LossHead(saved.device, saved.backend.computes_loss())
    setup = Setup(spec, saved.tokenizer, saved.max_length, rewards, saved.backend.inference, head)
    kind = family(spec.row)
    encoded = kind.encode(rows.dataset, setup, train=False)
    for note in encoded.notes:
        events("note", message=f"evaluation: {note}")
    frozen = _reference(saved, spec, run)
    found = kind.measure(saved.model, encoded.dataset, setup, frozen)
    events("evaluate", **found.metrics)
    supervised = spec.row.family == "supervised"
    samples = _written(saved, encoded.dataset, spec) if supervised else list(found.samples)
    return {
        "metrics": found.metrics,
        "samples": samples,
        "rows": len(encoded.dataset),
        "source": rows.source,
    }


def _written(saved: _Saved, rows: Any, spec: RunSpec) -> list[dict[str, Any]]:
    """What the model itself writes where a few rows have what it was to learn."""
    tokenizer = saved.tokenizer
    prompts, answers = [], []
    for row in rows.select(range(min(SAMPLES, len(rows)))):
        ids, labels = row["input_ids"], row["labels"]
        start = next(n for n, label in enumerate(labels) if label != IGNORED)
        # Of a text that is learned from its first token on, the first half is the prompt.
        start = start or max(len(ids) // 2, 1)
        prompts.append(ids[:start])
        answers.append(ids[start:])
    made = complete(
        saved.model,
        prompts,
        tokenizer,
        saved.backend.inference,
        spec.training.batch_size,
        seed=spec.training.seed,
        max_new_tokens=max(1, min(SAMPLE_TOKENS, max(map(len, answers)))),
        do_sample=False,
    )
    texts = zip(prompts, answers, made, strict=True)
    names = ("prompt", "reference", "completion")
    return [dict(zip(names, tokenizer.batch_decode(one), strict=True)) for one in texts]


def _rows(saved: _Saved, spec: RunSpec, run: RunDir, task: Evaluate) -> data.Rows:
    chat = saved.tokenizer.chat_template is not None
    limit = task.max_samples
    if spec.dataset.eval_name or spec.dataset.eval_split:
        return held_out_rows(spec, run, chat, limit)
    rows = load_rows(spec, run, chat)[1]  # the part that training left out
    if rows is None:
        raise DataError("there are no evaluation rows", "Name some with --dataset")
    if limit is None:
        return rows
    first = rows.dataset.select(range(min(limit, len(rows.dataset))))
    return data.Rows(first, rows.format, rows.source)


def _predict(saved: _Saved, spec: RunSpec, task: Predict) -> dict[str, Any]:
    tokenizer = saved.tokenizer
    chat = tokenizer.chat_template is not None and task.chat is not False
    system = spec.dataset.system_prompt
    if family(spec.row).HEAD == "classifier":
        return _score(saved, spec, task)
    prompts = [_said(prompt, chat, system) for prompt in task.prompts]
    encoded = [encode_prompt(tokenizer, prompt) for prompt in _renderable(prompts, tokenizer)]
    _require_room(encoded, saved.model, task.max_new_tokens)
    sampling: dict[str, Any] = {"do_sample": False}
    if task.temperature:
        sampling = {"do_sample": True, "temperature": task.temperature, "top_k": 0, "top_p": 1.0}
    found = complete(
        saved.model,
        encoded,
        tokenizer,
        saved.backend.inference,
        task.batch_size,
        seed=task.seed,
        max_new_tokens=task.max_new_tokens,
        **sampling,
    )
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    return {
        "predictions": [
            {
                "prompt": asked,
                "chat": not isinstance(prompt, str),
                "text": text,
                "tokens": len(tokens),
                "ended": tokens[-1:] == [tokenizer.eos_token_id],
            }
            for asked, prompt, text, tokens in zip(task.prompts, prompts, texts, found, strict=True)
        ]
    }


def _score(saved: _Saved, spec: RunSpec, task: Predict) -> dict[str, Any]:
    """A reward model's score of each text, which is taken as it is, or whole conversation."""
    tokenizer = saved.tokenizer
    sequences = [
        encode_answered(tokenizer, "", prompt)
        if isinstance(prompt, str)
        else encode_answered(tokenizer, prompt, [])
        for prompt in _renderable(task.prompts, tokenizer)
    ]
    found = scores(saved.model, sequences, task.batch_size, tokenizer.pad_token_id)
    return {
        "predictions": [
            {"prompt": prompt, "chat": not isinstance(prompt, str), "score": round(score, 6)}
            for prompt, score in zip(task.prompts, found, strict=True)
        ]
    }


def _said(prompt: Prompt, chat: bool, system: str | None) -> Prompt:
    """A prompt as training had it: a text is what a user says, after the run's system prompt."""
    if isinstance(prompt, str):
        if not chat:
            return prompt
        prompt = [{"role": "user", "content": prompt}]
    begun = any(message.get("role") == "system" for message in prompt)
    return prompt if begun or not system else [{"role": "system", "content": system}, *prompt]


def _renderable(prompts: Sequence[Prompt], tokenizer: Any) -> Sequence[Prompt]:
    for prompt in prompts:
        if isinstance(prompt, str):
            continue
        if tokenizer.chat_template is None:
            raise ModelError(
                "the prompt is a conversation, and the model has no chat template",
                "Give it as a text",
            )
        if not prompt or any({"role", "content"} - message.keys() for message in prompt):
            raise DataError("a prompt is a list of messages, each with a role and a content")
    return prompts


def _require_room(encoded: list[list[int]], model: Any, wanted: int) -> None:
    from aligntune.training.loading import context_length

    limit = context_length(model.config)
    for number, tokens in enumerate(encoded, 1):
        if not tokens:
            raise DataError(f"prompt {number} is empty")
        if limit is not None and len(tokens) + wanted > limit:
            raise DataError(
                f"prompt {number} has {len(tokens)} tokens, and with {wanted} new ones more than "
                f"the {limit} that the model takes",
                "Shorten it, or lower --max-new-tokens",
            )


def _push(task: Push, events: EventWriter) -> dict[str, Any]:
    """Upload the model's folder in one commit; what the repository has beside it stays."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    what = f"repository {task.repository}"
    if get_token() is None:
        raise HubError("pushing needs a token", "Log in with `hf auth login` or set HF_TOKEN")
    hub = HfApi()
    folder = locate(str(Path(task.of, "model")))
    try:
        made = hub.create_repo(task.repository, private=task.private or None, exist_ok=True)
        events("note", message=f"uploading to {made}")
        done = hub.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message=task.message
        )
    except AligntuneError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"{what}: this token may not write there: {first_line(error)}",
                "Use a token with write access, and a name of your own or your organisation's",
            ) from error
        raise hub_error(what, None, error, "pushed") from error
    return {"repository": made.repo_id, "url": str(made), "commit": done.oid}
