"""Doctor's own checks. To add one, write a function with ``@MACHINE.check(...)`` in a module."""

# The modules of the checks, which add them to the scope.
from aligntune_run.doctor.checks import engine, gpu, machine, network  # noqa: F401
from aligntune_run.doctor.checks.base import MACHINE

__all__ = ["MACHINE"]
