"""The command as a subprocess, in the surroundings of the step that calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from tests.gpu.stacks import ROOT


def run_launcher(words: list[str]) -> subprocess.CompletedProcess[str]:
    return run_python(["-m", "aligntune_run", *words])


def run_python(
    words: list[str], variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(variables or {})}
    return subprocess.run(
        [sys.executable, *words],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Why a command failed, in one line."""
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return f"code {done.returncode}: {lines[-1][:200] if lines else 'it printed nothing'}"
