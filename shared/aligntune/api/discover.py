"""Find the runner: the launcher on a host, this process in an image."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import cast

from aligntune.api.runner import Runner
from aligntune.errors import EngineError

GROUP = "aligntune.runners"
"""Entry points that return a :class:`Runner` when called."""


def find_runner() -> Runner:
    """The runner for this environment: this process in an image, else the installed runner.

    Raises:
        EngineError: no runner is installed.
    """
    if find_spec("aligntune_backend"):
        inside = import_module("aligntune.api.in_process")
        return cast(Runner, inside.InsideRunner())
    for found in entry_points(group=GROUP):
        return cast(Runner, found.load()())
    if find_spec("aligntune_run"):  # from a source tree, which has no entry points
        return cast(Runner, import_module("aligntune_run.api").HostRunner())
    raise EngineError(
        "neither a backend nor the launcher is installed",
        "Install the launcher: pip install aligntune-run",
    )
