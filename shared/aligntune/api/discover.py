"""Which runner there is: the launcher on a host, this very process in an image."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import cast

from aligntune.api.runner import Runner
from aligntune.errors import EngineError

GROUP = "aligntune.runners"
"""Entry points that make a :class:`Runner` when they are called."""


def find_runner() -> Runner:
    """The runner for where this is: in an image this process, else what is installed as one.

    Raises:
        EngineError: there is none.
    """
    if find_spec("aligntune_backend"):
        inside = import_module("aligntune.api.in_process")
        return cast(Runner, inside.InsideRunner())
    for found in entry_points(group=GROUP):
        return cast(Runner, found.load()())
    if find_spec("aligntune_run"):  # from a source tree, which has no entry points
        return cast(Runner, import_module("aligntune_run.api").HostRunner())
    raise EngineError(
        "nothing here can run this: no backend and no launcher",
        "Install the launcher: pip install aligntune-run",
    )
