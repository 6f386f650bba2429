"""What the launcher says of the GPU, held against what torch and the driver say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tests.gpu.bench import INSIDE, Bench
from tests.gpu.launcher import last_words, run_launcher, run_python
from tests.gpu.results import Row
from tests.gpu.stacks import last_line

from aligntune_run.host.gpus import probe_gpus
from aligntune_run.host.nvidia_smi import ask_nvidia_smi
from aligntune_run.host.types import Gpu, Gpus

LIMIT_SECONDS = 90
GIB = 1 << 30
HELD = 4 * GIB

LEASE = """
import os
from aligntune_run.engines import gpu_leases
from aligntune_run.host.gpus import probe_gpus
with gpu_leases.choosing():
    lease = gpu_leases.Lease.take(probe_gpus().found[:1])
lease.sign(f"the kit's own lease (pid {os.getpid()})")
print("held", flush=True)
input()
"""


def run(bench: Bench) -> Iterator[Row]:
    """NVML against torch, the look-only commands, visible devices, memory in use, and leases."""
    seen = probe_gpus()
    yield _probe(bench, seen)
    if bench.rehearsing:
        yield from _stand_in_memory(bench, seen)
    else:
        yield _held_memory(bench, seen)
    yield _nvidia_smi(seen)
    yield _visible_devices(bench, seen)
    yield _status(seen)
    yield _explain(bench, seen)
    yield _doctor(seen)
    yield _lease(bench)


def torch_facts(bench: Bench, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What torch says in the TRL stack."""
    script = INSIDE / "torch_facts.py"
    lines = bench.stacks["trl"].run([script], bench.log("torch-facts"), 60, variables)
    return dict(json.loads(lines[-1]))


def _probe(bench: Bench, seen: Gpus) -> Row:
    name = "NVML and torch agree"
    told = ", ".join(f"{gpu.name}, {gpu.memory / GIB:.1f} GiB" for gpu in seen.found)
    says = f"{told}; driver {seen.driver}, CUDA {seen.cuda}, by {seen.source}"
    wrong = [] if seen.source == "NVML" and not seen.note else [f"the probe notes: {seen.note}"]
    if bench.planted == "facts":
        wrong.append("planted: another name")
    if bench.rehearsing:
        return Row.judge(name, not wrong and bool(seen.found), f"stand-in: {says}")
    facts = torch_facts(bench)
    if len(facts["gpus"]) != len(seen.found):
        wrong.append(f"torch sees {len(facts['gpus'])} GPUs")
    for gpu, other in zip(seen.found, facts["gpus"], strict=False):
        wrong += _differences(gpu, other)
    if not seen.cuda or _numbers(seen.cuda) < _numbers(facts["cuda"]):
        wrong.append(f"torch is for CUDA {facts['cuda']}")
    if facts["bf16"] != all(gpu.capability >= (8, 0) for gpu in seen.found):
        wrong.append(f"torch says bf16 is {facts['bf16']}")
    says += f"; torch {facts['torch']}"
    return Row.judge(name, not wrong, "; ".join([says, *wrong]), torch=facts)


def _differences(gpu: Gpu, other: Mapping[str, Any]) -> list[str]:
    uuid = gpu.uuid.removeprefix("GPU-").removeprefix("MIG-")
    pairs = {
        "name": (gpu.name, other["name"]),
        "uuid": (uuid, other["uuid"]),
        "capability": (gpu.capability, tuple(other["capability"])),
    }
    wrong = [
        f"{key}: {ours} and {theirs}" for key, (ours, theirs) in pairs.items() if ours != theirs
    ]
    # The driver keeps a little for itself.
    if not 0.95 * gpu.memory <= other["memory"] <= gpu.memory:
        wrong.append(f"memory: {gpu.memory} and {other['memory']}")
    return wrong


def _held_memory(bench: Bench, seen: Gpus) -> Row:
    """A process takes memory: the probe sees as much less free, and the process."""
    name = "memory that a process holds"
    job = bench.stacks["trl"].start(
        [INSIDE / "hold_memory.py", str(HELD)], bench.log("hold-memory"), piped=True
    )
    assert job.process.stdout
    line = job.process.stdout.readline()
    if not line:
        return Row.judge(name, False, f"nothing was held: {last_line(job.log)}")
    now = probe_gpus().found[0]
    job.process.communicate("\n", timeout=30)
    less = seen.found[0].free - now.free
    apart = abs(now.free - int(line))
    # A driver in a container or under virtualisation may not tell of processes.
    pid = job.process.pid
    named = any(user.endswith(f"(pid {pid})") for user in now.users)
    told = "which is named" if named else f"users told: {', '.join(now.users) or 'none'}"
    good = less >= HELD and apart < GIB and (named or not now.users or bool(job.container))
    return Row.judge(
        name,
        good,
        f"{less / GIB:.2f} GiB less free for {HELD / GIB:.0f} held, {apart / GIB:.2f} GiB from "
        f"torch's figure; {told}",
        less=less,
        apart=apart,
        users=list(now.users),
    )


def _stand_in_memory(bench: Bench, seen: Gpus) -> Iterator[Row]:
    """The same against a stand-in that tells of a process which is really there."""
    from tests.helpers.nvml import Device, stand_in

    free = seen.found[0].free
    facts = os.environ["NVML_STAND_IN"]
    folder = bench.work / "held"
    folder.mkdir(exist_ok=True)
    code = (
        "from aligntune_run.host.gpus import probe_gpus\n"
        "gpu = probe_gpus().found[0]; print(gpu.free, gpu.users)"
    )
    environment = stand_in(folder, [Device(free=free - HELD, pids=(os.getpid(),))])
    done = run_python(["-c", code], environment)
    size, _, users = done.stdout.partition(" ")
    good = size == str(free - HELD) and f"(pid {os.getpid()})" in users
    says = f"stand-in: {done.stdout.strip() or last_words(done)}"
    yield Row.judge("memory that a process holds", good, says)
    assert os.environ["NVML_STAND_IN"] == facts
    yield Row("NVML and torch on a real driver", "left out", "there is no GPU to hold it against")


def _nvidia_smi(seen: Gpus) -> Row:
    name = "nvidia-smi says the same"
    if shutil.which("nvidia-smi") is None:
        return Row(name, "left out", "nvidia-smi is not here")
    told = ask_nvidia_smi(os.environ["PATH"])
    names = ("index", "uuid", "name", "capability")
    ours = [[getattr(gpu, one) for one in names] for gpu in probe_gpus({}).found]
    theirs = [[getattr(gpu, one) for one in names] for gpu in told.found]
    good = told.driver == seen.driver and ours == theirs
    return Row.judge(name, good, f"driver {told.driver}; {ours} and {theirs}")


def _visible_devices(bench: Bench, seen: Gpus) -> Row:
    """``CUDA_VISIBLE_DEVICES`` by index, by UUID, and empty, as CUDA itself reads it."""
    last = seen.found[-1]
    wrong = []
    for value in (str(last.index), last.uuid, ""):
        variables = {"CUDA_VISIBLE_DEVICES": value}
        ours = [gpu.uuid for gpu in probe_gpus({**os.environ, **variables}).found]
        expected = [last.uuid] if value else []
        if not bench.rehearsing:
            theirs = [gpu["uuid"] for gpu in torch_facts(bench, variables)["gpus"]]
            expected = (
                [uuid for uuid in [last.uuid] if uuid.endswith(tuple(theirs))] if theirs else []
            )
        if ours != expected:
            wrong.append(f"{value!r} leaves {ours}, CUDA {expected}")
    return Row.judge("CUDA_VISIBLE_DEVICES", not wrong, "; ".join(wrong) or "index, UUID, empty")


def _status(seen: Gpus) -> Row:
    done = run_launcher(["status", "--json"])
    if done.returncode:
        return Row.judge("aligntune-run status", False, last_words(done))
    told = json.loads(done.stdout)
    gpus = [gpu["uuid"] for gpu in told["host"]["gpus"]]
    good = gpus == [gpu.uuid for gpu in seen.found]
    missed = [
        f"{backend} {one['rule']}: {one['evidence']}"
        for backend, state in told["backends"].items()
        for one in state["verdicts"]
        if one["rule"] in ("platform", "gpus", "gpu", "driver", "capability")
        and one["level"] != "pass"
    ]
    return Row.judge(
        "aligntune-run status", good and not missed, "; ".join(missed) or f"sees {', '.join(gpus)}"
    )


def _explain(bench: Bench, seen: Gpus) -> Row:
    """The rules of driver, capability, precision and lease pass, and Unsloth is chosen."""
    name = "aligntune-run explain"
    done = run_launcher(_explain_words(bench))
    if not done.stdout.startswith("{"):
        return Row.judge(name, False, last_words(done))
    told = json.loads(done.stdout)
    wanted = ("gpus", "lease", "driver", "capability", "precision", "model", "memory")
    verdicts = [one for one in told["verdicts"] if one["rule"] in wanted]
    missed = [f"{one['rule']}: {one['evidence']}" for one in verdicts if one["level"] != "pass"]
    choice = told["choice"] or {}
    good = not missed and choice.get("backend") == "unsloth" and bool(choice.get("gpus"))
    refusal = (told["refusal"] or {}).get("what", "")
    says = f"chooses {choice.get('backend')} on {choice.get('gpus')}"
    precision = next((one["evidence"] for one in verdicts if one["rule"] == "precision"), "")
    return Row.judge(name, good, "; ".join(filter(None, [says, precision, *missed, refusal])))


def _doctor(seen: Gpus) -> Row:
    done = run_launcher(["doctor", "--json"])
    name = "aligntune-run doctor"
    if "Traceback" in done.stderr or not done.stdout.startswith("{"):
        return Row.judge(name, False, last_words(done))
    checks = json.loads(done.stdout)["checks"]
    of_gpus = [
        one for one in checks if one["check"] in ("gpu", "driver", "capability", "gpu-memory")
    ]
    missed = [f"{one['check']}: {one['evidence']}" for one in of_gpus if one["level"] != "pass"]
    named = any(seen.found[0].uuid in one["evidence"] for one in of_gpus)
    return Row.judge(name, named and not missed, "; ".join(missed) or "names the GPU; all pass")


def _lease(bench: Bench) -> Row:
    """A second launch sees that a process holds the GPU, and that it is free again afterwards."""
    name = "a lease held by a running process"
    with subprocess.Popen(
        [sys.executable, "-c", LEASE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout
        if not holder.stdout.readline():
            return Row.judge(name, False, "the lease was not taken")
        during = _lease_verdict(bench)
        holder.communicate("\n")
    after = _lease_verdict(bench)
    good = "the kit's own lease" in during and "the kit's own lease" not in after
    return Row.judge(name, good, f"while it is held: {during}; then: {after}")


def _lease_verdict(bench: Bench) -> str:
    done = run_launcher(_explain_words(bench))
    if not done.stdout.startswith("{"):
        return last_words(done)
    verdicts = json.loads(done.stdout)["verdicts"]
    return next((one["evidence"] for one in verdicts if one["rule"] == "lease"), "no verdict")


def _explain_words(bench: Bench) -> list[str]:
    """Of the process engine, as the worker runs here without an image."""
    spec = bench.toy_spec("sft", adapter=False)
    words = ["explain", "--algo", "sft", "--model", spec["model"]["name"], "--json"]
    words += ["--dataset", spec["dataset"]["name"], "--output", str(bench.work / "never")]
    return [*words, "--engine", "process"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
