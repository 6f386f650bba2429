"""Another distribution may own the import name ``aligntune``: it is detected and named."""

from __future__ import annotations

from importlib import metadata

import aligntune
from aligntune.errors import AligntuneError


def require_own_name() -> None:
    """Refuse to run beside a distribution that installs an ``aligntune`` package of its own.

    Raises:
        AligntuneError: naming that distribution.
    """
    ours = getattr(aligntune, "DISTRIBUTION", None)
    owner = _installed("aligntune")
    if ours == "aligntune-run" and owner is None:
        return
    owner = owner or ", ".join(
        name
        for name in metadata.packages_distributions().get("aligntune", [])
        if name != "aligntune-run"
    )
    raise AligntuneError(
        f"the distribution {owner or 'at ' + str(aligntune.__path__)} owns the import name "
        "'aligntune', which aligntune-run needs",
        "Uninstall it, or install aligntune-run in a virtual environment of its own",
    )


def _installed(name: str) -> str | None:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return None
