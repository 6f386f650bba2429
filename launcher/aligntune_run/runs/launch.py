"""Starting a phase, on other GPUs if those of the plan are taken by now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from aligntune.errors import AligntuneError, HardwareError, StoppedError
from aligntune.record.events import Event
from aligntune.record.run_dir import RunDir
from aligntune_run.engines.base import Command, Worker
from aligntune_run.engines.gpu_leases import TICK_SECONDS, GpusInUseError
from aligntune_run.host.types import Gpu, Host
from aligntune_run.plan import Plan
from aligntune_run.runs.signals import Interrupt

if TYPE_CHECKING:
    from aligntune_run.planning.planner import Prepared

AGAIN = "Fix that, and try again"

POLL_SECONDS = 2.0
"""Seconds between two checks whether a GPU is free."""


def start(
    prepared: Prepared,
    command: Command,
    run: RunDir,
    tell: Callable[[Event], None],
    interrupt: Interrupt,
) -> Worker:
    """Start a phase's worker.

    Args:
        prepared: the plan.
        command: of the phase.
        run: its record gets the worker's handle, and the plan if that changes because another run
            was quicker to take a GPU.
        tell: shows the user a note.
        interrupt: ends waiting.

    Raises:
        HardwareError: other runs hold the GPUs, and waiting was not asked for.
        StoppedError: interrupted while waiting.
        AligntuneError: the engine refused.
    """

    def record(handle: str) -> None:
        with run.writing(AGAIN):
            run.update(handle=handle, phase=command.phase)

    def check_interrupt() -> None:
        if interrupt.asked:
            raise StoppedError("stopped while it waited for a GPU", prepared.plan.next_step)

    waits = False
    while True:
        try:
            handle = prepared.engine.submit(command, record, check_interrupt)
            return prepared.engine.attach(handle)
        except GpusInUseError:
            pass  # others took them since the plan was made
        try:
            plan = _on_free_gpus(prepared)
        except HardwareError as error:
            if not prepared.planner.waits:
                raise
            if not waits:
                tell({"event": "note", "message": f"waiting for a GPU: {error.what}"})
            waits = True
            until = time.monotonic() + POLL_SECONDS
            while time.monotonic() < until:
                check_interrupt()
                time.sleep(TICK_SECONDS)
        else:
            if plan is not prepared.plan:
                with run.writing(AGAIN):
                    run.update(plan=plan.to_dict())
                tell({"event": "note", "message": f"now {plan.choice.reason}"})
                prepared = replace(prepared, plan=plan)
                command = _same_phase(prepared, command)


def _same_phase(prepared: Prepared, command: Command) -> Command:
    commands = prepared.engine.commands(prepared.plan)
    return next(other for other in commands if other.phase == command.phase)


def _on_free_gpus(prepared: Prepared) -> Plan:
    """The plan itself if its GPUs are free, else the same plan on other GPUs that are.

    Raises:
        HardwareError: no GPU is free, or other GPUs would change more than the GPUs of the run.
    """
    plan, host = prepared.plan, prepared.planner.look_again()
    taken = [gpu for gpu in _gpus(host, plan) if gpu.leased]
    if not taken:
        return plan
    try:
        now = prepared.planner.choose_on(host)
    except AligntuneError as error:  # such as a free GPU that is too small
        raise GpusInUseError(taken).refusal from error
    before = plan.choice
    same_run = replace(
        before, gpus=now.gpus, reason=now.reason, verdicts=now.verdicts, estimate=now.estimate
    )
    moved = replace(plan, choice=same_run)
    same = (now.backend, now.flavour, now.engine, now.lock_hash) == (
        before.backend,
        before.flavour,
        before.engine,
        before.lock_hash,
    )
    if not same or any(gpu.leased for gpu in _gpus(host, moved)):
        raise GpusInUseError(taken).refusal
    return moved


def _gpus(host: Host, plan: Plan) -> list[Gpu]:
    return [gpu for gpu in host.gpus if gpu.uuid in plan.choice.gpus]
