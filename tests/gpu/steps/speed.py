"""Ours and the stock stacks, in turn: tokens a second, model FLOPs utilization, peak memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.gpu.bench import INSIDE, Bench
from tests.gpu.models import long_rows, make_models, parameters, shapes
from tests.gpu.results import Row
from tests.gpu.stacks import Job, last_line

from aligntune_run.host.gpus import probe_gpus

LIMIT_SECONDS = 300
GIB = 1 << 30

PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 311.9e12, "L40S": 362.05e12, "B200": 2250e12}
"""Dense bf16 FLOP a second by NVIDIA's datasheets (SXM); a GPU that is not here gets no MFU."""

SLOWEST = {True: 0.5, False: 0.9}
"""The least that ours may have of its stock peer's rate, rehearsing (where times say little, as
models are tiny and two cores are shared) and in earnest."""

TOKENS = 16384
SLICES, STEPS = 3, 3
ROWS = 16
"""Batches of data: more than are trained on, so that no epoch ends within a slice."""


@dataclass(frozen=True)
class Case:
    """What all stacks train; ``kind`` is full or LoRA."""

    algorithm: str
    model: str
    kind: str
    length: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.algorithm} {self.model} {self.kind}, {self.batch} x {self.length}"


CASES = (
    *(
        Case("sft", model, kind, length, TOKENS // length)
        for model in ("llama", "qwen3")
        for kind in ("LoRA", "full")
        for length in (4096, 1024)
    ),
    Case("dpo", "llama", "LoRA", 1024, 8),
    Case("grpo", "llama", "LoRA", 512, 16),
)
REHEARSED = (Case("sft", "llama", "full", 64, 2),)

STACKS = (("ours", "trl"), ("stock", "trl"), ("ours", "unsloth"), ("stock", "unsloth"))

ROOM_FOR_ALL = 100 * GIB
"""Memory of a GPU from which on all stacks are loaded at once; else one backend's two at a time."""


@dataclass(frozen=True)
class Peer:
    """One stack's process."""

    whose: str
    backend: str
    job: Job

    @property
    def name(self) -> str:
        return (
            f"{self.whose} on {self.backend}" if self.whose == "ours" else f"stock {self.backend}"
        )

    def tell(self, **asked: Any) -> None:
        assert self.job.process.stdin
        with suppress(BrokenPipeError):  # it has ended, as its next answer says
            print(json.dumps(asked), file=self.job.process.stdin, flush=True)

    def hear(self) -> dict[str, Any]:
        """Its next answer, an ``error`` if it has ended; what else it prints is passed over."""
        assert self.job.process.stdout
        for line in self.job.process.stdout:
            if line.startswith("@@ "):
                return dict(json.loads(line[3:]))
        code = self.job.process.wait()
        return {"error": f"it ended with code {code}: {last_line(self.job.log)}"}


def run(bench: Bench) -> Iterator[Row]:
    """A row a case and stack, then a row a case and backend with the ratio to its stock peer."""
    models = make_models(bench)
    cases = REHEARSED if bench.rehearsing else CASES
    peers = [_start(bench, whose, backend) for whose, backend in STACKS]
    room = probe_gpus().found[0].memory
    groups = [peers] if bench.rehearsing or room > ROOM_FOR_ALL else [peers[:2], peers[2:]]
    try:
        for number, case in enumerate(cases):
            folders = bench.work / "runs" / f"speed-{number}"
            spec = _spec(bench, case, str(models[case.model]))
            for group in groups:
                alive = [peer for peer in group if peer.job.process.poll() is None]
                yield from _measure(bench, case, spec, alive, str(folders))
    finally:
        for peer in peers:
            peer.job.process.kill()
    if bench.rehearsing:
        yield Row("MFU and ratios that mean something", "left out", "they are a GPU's")


def _start(bench: Bench, whose: str, backend: str) -> Peer:
    variables = {"UNSLOTH_COMPILE_LOCATION": str(bench.work / f"compiled-{whose}")}
    if bench.planted == "speed" and (whose, backend) == ("ours", "trl"):
        variables["GPU_KIT_SLOW"] = "2"
    words = [INSIDE / "steps_on_call.py", whose, backend]
    log = bench.log(f"speed-{whose}-{backend}")
    return Peer(whose, backend, bench.stacks[backend].start(words, log, variables, piped=True))


def _spec(bench: Bench, case: Case, model: str) -> dict[str, Any]:
    kind = {"dpo": "pairs", "grpo": "prompts"}.get(case.algorithm, "text")
    training: dict[str, Any] = {
        "max_steps": 1000,
        "batch_size": case.batch,
        "gradient_accumulation": 1,
        "logging_steps": 10,
        "save_steps": 1000,
        **({"precision": "fp32"} if bench.rehearsing else {}),
    }
    spec: dict[str, Any] = {
        "algorithm": case.algorithm,
        "model": {"name": model},
        "training": training,
        **({"adapter": {"rank": 16}} if case.kind == "LoRA" else {}),
    }
    if kind == "prompts":
        half = case.length // 2
        spec["rl"] = {"max_completion_length": half, "num_generations": 8}
        spec["rewards"] = [{"name": "length", "args": {"target": 100}}]
        data = long_rows(bench, kind, half, ROWS * case.batch)
    else:
        training["max_length"] = case.length
        data = long_rows(bench, kind, case.length, ROWS * case.batch)
    spec["dataset"] = {"name": str(data)}
    return spec


def _measure(
    bench: Bench, case: Case, spec: Mapping[str, Any], peers: Sequence[Peer], folders: str
) -> Iterator[Row]:
    """Load all, then let each train a slice in turn."""
    failed: dict[Peer, str] = {}
    for peer in peers:
        peer.tell(case={"spec": spec, "folder": f"{folders}-{peer.whose}-{peer.backend}"})
    for peer in peers:
        heard = peer.hear()
        if "ready" not in heard:
            failed[peer] = heard["error"]
    slices, steps = (1, 2) if bench.rehearsing else (SLICES, STEPS)
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    for _ in range(slices):
        for peer in peers:
            if peer in failed:
                continue
            peer.tell(steps=steps)
            heard = peer.hear()
            if "seconds" in heard:
                seconds.setdefault(peer.name, []).append(heard["seconds"] / steps)
                peaks[peer.name] = heard["peak_gpu"]
            else:
                failed[peer] = heard["error"]
                seconds.pop(peer.name, None)
    for peer, why in failed.items():
        yield Row.judge(f"{case.name}, {peer.name}", False, why)
    ready = [peer for peer in peers if peer not in failed]
    for peer in ready:
        peer.tell(steps=0)
    yield from _rows(bench, case, ready, seconds, peaks)


def _rows(
    bench: Bench,
    case: Case,
    peers: Sequence[Peer],
    seconds: Mapping[str, Sequence[float]],
    peaks: Mapping[str, int],
) -> Iterator[Row]:
    """What was measured, and how ours compares with the stock stack of the same backend."""
    tokens = case.batch * case.length
    for peer in peers:
        step = median(seconds[peer.name])
        found = utilization(case, bench, tokens / step)
        mfu = "" if found is None else f", {found:.1%} MFU"
        says = f"{step:.3f} s a step, {tokens / step:,.0f} token/s{mfu}"
        yield Row.judge(
            f"{case.name}, {peer.name}",
            True,
            f"{says}, peak {peaks[peer.name] / GIB:.1f} GiB",
            seconds=list(seconds[peer.name]),
            tokens_per_second=tokens / step,
            mfu=found,
            peak_gpu=peaks[peer.name],
        )
    for backend in ("trl", "unsloth"):
        ours, theirs = (seconds.get(name) for name in (f"ours on {backend}", f"stock {backend}"))
        if not ours or not theirs:
            continue
        ratios = [other / mine for mine, other in zip(ours, theirs, strict=True)]
        ratio = median(ratios)
        yield Row.judge(
            f"{case.name}, ours over stock {backend}",
            ratio >= SLOWEST[bench.rehearsing],
            f"{ratio:.2f} times its rate ({min(ratios):.2f} to {max(ratios):.2f})",
            ratio=ratio,
            ratios=ratios,
        )


def utilization(case: Case, bench: Bench, rate: float) -> float | None:
    """Model FLOPs utilization: the share of the GPU's dense bf16 peak that the model's own work is.

    By PaLM's appendix B (https://arxiv.org/abs/2204.02311), with causal attention counted once: a
    token takes 2 FLOP a weight forward and 4 backward, with LoRA 2 backward, as frozen weights
    need no gradient; and 2 x 2 x layers x width x length / 2 for attention forward, twice that
    backward. Recomputation does not count. None for an unknown GPU, and where tokens are generated.
    """
    gpu = probe_gpus().found[0].name
    peak = next((flops for name, flops in PEAKS.items() if name in gpu), None)
    if peak is None or case.algorithm != "sft" or bench.rehearsing:
        return None
    shape = shapes(bench.rehearsing)[case.model]
    layers, head = parameters(shape)
    weights = (layers + head) * (6 if case.kind == "full" else 4)
    width = shape["num_attention_heads"] * shape["head_dim"]
    attention = 3 * 2 * shape["num_hidden_layers"] * width * case.length
    return float(rate * (weights + attention) / peak)
