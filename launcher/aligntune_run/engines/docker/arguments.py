"""All arguments of containers, as plain data. ``--dry-run`` prints them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune import contract
from aligntune.tasks import TASK_FILE
from aligntune_run.engines.docker.mounts import Bind, input_mounts
from aligntune_run.host.docker_client import address_parts, is_loopback
from aligntune_run.host.docker_info import NVIDIA_DEVICES
from aligntune_run.host.probe import WORKER_VARIABLES
from aligntune_run.host.types import Host
from aligntune_run.images.code import code_folder
from aligntune_run.images.indexes import ca_bundle
from aligntune_run.images.recipes import recipe
from aligntune_run.plan import ONLINE, Phase, Plan

ENTRY_POINT = "aligntune-train"

IDENTITY = {"HOME": "/tmp", "USER": "aligntune", "LOGNAME": "aligntune"}
"""The user as a container's programs see it; the caller's uid may have no name in the image."""

PIDS = 16384
"""Enough for one thread per core in every process on a large machine; it stops a fork bomb."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Set while training: everything has been fetched, so a missing file is an immediate error."""

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

SECRET_VARIABLES = f"{contract.SECRETS_DIR}/environment"
CA_BUNDLE = f"{contract.SECRETS_DIR}/ca.pem"


@dataclass(frozen=True)
class Surroundings:
    """What depends on the file system and the caller's environment, as data without secrets.

    Attributes:
        inputs: the run's local inputs, with the targets of links in them.
        groups: the caller's supplementary groups, which may make shared data readable.
        ca_bundle: the CA bundle of the caller's programs, such as behind a company proxy.
        token: a file with the hub token, which may be created later, see
            :meth:`DockerEngine.submit`.
        secret_variables: a file with variables that hold a password; the same holds.
        code: the folder of the launcher's code, which is mounted over the image's copy; None for
            the user's own image, which runs its own code.
    """

    inputs: tuple[Bind, ...] = ()
    groups: tuple[int, ...] = ()
    ca_bundle: str | None = None
    token: str | None = None
    secret_variables: str | None = None
    code: str | None = None


def confinement(host: Host, groups: tuple[int, ...], memory: int) -> dict[str, Any]:
    """What every container gets: the caller's rights and no more, limits, and a log that can be
    read whatever the engine's default log driver is.

    Args:
        host: whose user and groups the container has; on a rootless engine uid 0 is the caller.
        groups: the caller's supplementary groups.
        memory: bytes it may use, swap, ``/tmp`` and shared memory included.
    """
    return {
        "user": "0:0" if host.engine.rootless else f"{host.uid}:{host.gid}",
        "group_add": [] if host.engine.rootless else [str(group) for group in groups],
        "read_only": True,
        "tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={memory // 2}"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "init": True,
        "log_config": {"type": "json-file", "config": {}},
        "pids_limit": PIDS,
        "shm_size": memory // 2,
        "mem_limit": memory,
        "memswap_limit": memory,
    }


def device_requests(gpus: tuple[str, ...], host: Host) -> list[dict[str, Any]]:
    """The request for GPUs, in the form that the engine supports.

    Args:
        gpus: UUIDs, of whole GPUs or of MIG slices.
        host: whose engine it is.
    """
    if not gpus:
        return []
    if host.engine.gpu_way == "cdi":
        names = [cdi_name(uuid, host) for uuid in gpus]
        return [{"driver": "cdi", "device_ids": names}]
    return [{"device_ids": list(gpus), "capabilities": [["gpu", "compute", "utility"]]}]


def cdi_name(uuid: str, host: Host) -> str:
    """The engine's CDI name of a GPU: by UUID, or by number if the engine knows only that.

    The number in a CDI name is the driver's. A slice's consists of two numbers, which its UUID does
    not contain, so a slice is always named by UUID.
    """
    by_uuid = f"{NVIDIA_DEVICES}={uuid}"
    gpu = next((gpu for gpu in host.gpus if gpu.uuid == uuid), None)
    if by_uuid not in host.engine.cdi_devices and gpu is not None and gpu.parent is None:
        by_number = f"{NVIDIA_DEVICES}={gpu.index}"
        if by_number in host.engine.cdi_devices:
            return by_number
    return by_uuid


def container_arguments(
    plan: Plan, host: Host, phase: Phase, around: Surroundings
) -> dict[str, Any]:
    """All arguments of one phase's container. Pure; JSON-ready; without secrets.

    The keys are those of the Docker SDK's ``containers.create``, mounts being of plain data.
    Fetching gets the network and the token but none of the user's files; pushing gets the model.
    All other phases get the files they read, and neither network nor token.
    """
    image = plan.choice.image
    assert image is not None, "a plan for containers has an image"
    command = [ENTRY_POINT, "--spec", f"{contract.RUN_DIR}/spec.yaml"]
    mounts = [Bind(plan.run_dir, contract.RUN_DIR, read_only=False), *_caches(plan, host, phase)]
    if around.code:
        mounts.append(Bind(around.code, contract.CODE_DIR))
    environment = dict(IDENTITY)
    network, gpus = "none", () if phase in ONLINE else plan.choice.gpus
    if plan.task:
        command += ["--task", f"{contract.RUN_DIR}/{TASK_FILE}"]
    if phase == "fetch":
        command.append("--fetch")
    else:
        mounts += around.inputs
    if phase in ONLINE:
        variables, binds = _hub_access(host, around)
        environment |= variables
        mounts += binds
        network = "host" if _needs_loopback(host.environment) else "bridge"
        if around.secret_variables:
            load = f'set -a; . {SECRET_VARIABLES}; set +a; exec "$@"'
            command = ["/bin/sh", "-c", load, "sh", *command]
    else:
        environment |= OFFLINE
        environment |= {
            name: host.environment[name] for name in WORKER_VARIABLES if name in host.environment
        }
        environment |= (
            {"UNSLOTH_DISABLE_CPU_FALLBACK": "1"} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
        )
    return {
        "image": image.id or image.ref,
        "name": f"aligntune-{plan.run_id}-{phase}-{plan.attempt}",
        "entrypoint": command[:1],
        "command": command[1:],
        "working_dir": "/tmp",
        "environment": environment,
        **confinement(host, around.groups, plan.memory),
        "network_mode": network,
        "mounts": [bind.to_dict() for bind in mounts],
        "device_requests": device_requests(gpus, host),
        "labels": {
            contract.LABEL_RUN_ID: plan.run_id,
            contract.LABEL_RUN_DIR: plan.run_dir,
            contract.LABEL_PHASE: phase,
            **({contract.LABEL_GPUS: ",".join(gpus)} if gpus else {}),
        },
    }


def _caches(plan: Plan, host: Host, phase: Phase) -> list[Bind]:
    """The caller's caches: the hub's only if used, and never the folder with the token."""
    binds = [Bind(str(host.cache / "worker"), contract.CACHE_DIR, read_only=False)]
    if plan.fetch:
        binds.append(Bind(str(host.hub_cache), contract.HUB_CACHE, read_only=phase != "fetch"))
    if any(wanted.startswith("dataset ") for wanted in plan.fetch):
        binds.append(Bind(str(host.datasets_cache), contract.DATASETS_CACHE, read_only=False))
    return binds


def _hub_access(host: Host, around: Surroundings) -> tuple[dict[str, str], list[Bind]]:
    """Variables and mounts with which a container reaches the hub as the caller would."""
    hidden = secret_variables(host.environment)
    variables = {name: value for name, value in host.environment.items() if name not in hidden}
    binds = []
    if around.token:
        binds.append(Bind(around.token, contract.TOKEN_PATH))
        variables["HF_TOKEN_PATH"] = contract.TOKEN_PATH
    if around.secret_variables:
        binds.append(Bind(around.secret_variables, SECRET_VARIABLES))
    if around.ca_bundle:
        binds.append(Bind(around.ca_bundle, CA_BUNDLE))
        variables |= {"SSL_CERT_FILE": CA_BUNDLE, "REQUESTS_CA_BUNDLE": CA_BUNDLE}
    return variables, binds


def secret_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables for the hub that hold a password, as a proxy's address may."""
    return {name: value for name, value in environment.items() if address_parts(value)[1]}


def _needs_loopback(environment: Mapping[str, str]) -> bool:
    """Whether the hub or a proxy is at this machine's loopback address."""
    return any(
        is_loopback(value)
        for name, value in environment.items()
        if name == "HF_ENDPOINT" or name.lower() in ("http_proxy", "https_proxy")
    )


def look(plan: Plan, host: Host, environment: Mapping[str, str] = os.environ) -> Surroundings:
    """Read what a plan's containers need from file system and environment. Changes nothing."""
    private = private_folder(plan.run_id, host, environment)
    bundle = ca_bundle(environment)
    token_file = str(host.token.resolve()) if host.token else None
    if token(environment):
        token_file = str(private / "hf_token")
    return Surroundings(
        code=_code(plan, host),
        inputs=input_mounts(plan.local_inputs),
        groups=caller_groups(host),
        ca_bundle=str(bundle.resolve()) if bundle else None,
        token=token_file,
        secret_variables=(
            str(private / "environment") if secret_variables(host.environment) else None
        ),
    )


def _code(plan: Plan, host: Host) -> str | None:
    """The folder of the code that a plan's containers run; None for the user's own image."""
    if plan.spec.image:
        return None
    choice = plan.choice
    planned = choice.image.code_hash if choice.image else None
    code_hash = planned or recipe(choice.backend, choice.flavour).code_hash
    return str(code_folder(choice.backend, code_hash, host.cache))


def caller_groups(host: Host) -> tuple[int, ...]:
    """The caller's supplementary groups, except root's."""
    return tuple(sorted(set(os.getgroups()) - {host.gid, 0}))


def token(environment: Mapping[str, str]) -> str | None:
    """The token in the caller's environment, which the hub's own library prefers to the file."""
    return next(filter(None, (environment.get(name, "").strip() for name in TOKEN_VARIABLES)), None)


def private_folder(run_id: str, host: Host, environment: Mapping[str, str]) -> Path:
    """Where secrets are while a container starts; in memory if there is a runtime folder."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    above = Path(runtime) if runtime and Path(runtime).is_dir() else host.cache / "private"
    return above / f"aligntune-{run_id}"
