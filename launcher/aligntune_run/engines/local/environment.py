"""Any program in a backend's venv."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aligntune_run.engines.gpu_leases import LocalGpus
from aligntune_run.subprocesses import passthrough


@dataclass(frozen=True)
class VenvEnvironment:
    """A venv that was made from an image's lock.

    Attributes:
        local: this machine's GPUs.
        gpus: UUIDs of those that a program gets.
        variables: all variables of a program.
    """

    local: LocalGpus
    gpus: tuple[str, ...]
    variables: Mapping[str, str]

    def run(self, words: Sequence[str], folders: Sequence[Path]) -> int:
        """See :class:`~aligntune_run.engines.base.Environment`; a program can use every folder."""
        with self.local.held(self.gpus, f"{words[0]} (pid {os.getpid()})") as lease:
            program = ["/usr/bin/env", *words]
            return passthrough(program, env=self.variables, descriptors=lease.descriptors)
