"""Checks of the hub, the token, proxies, certificates and the package index, without values."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from aligntune.errors import EngineError, HubError
from aligntune_run.doctor.checks.base import Checks, good, warn
from aligntune_run.doctor.probe import Findings
from aligntune_run.engines.docker.arguments import token
from aligntune_run.host.docker_client import address_parts
from aligntune_run.plan import Verdict

OTHERS = stat.S_IRWXG | stat.S_IRWXO
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def hub_token(found: Findings) -> Iterator[Verdict]:
    if token(found.environment):
        yield good("a token is in the environment")
    if found.host.token is None:
        if not token(found.environment):
            yield good("none set; public models and data need none (`hf auth login` sets one)")
    elif (found.token_mode or 0) & OTHERS & ~0o111:
        yield warn(
            f"{found.host.token} can be read by others (mode {found.token_mode:o})",
            f"`chmod 600 {found.host.token}`",
        )
    else:
        yield good(f"a token is in {found.host.token}, and only you can read it")


def hub(found: Findings) -> Iterator[Verdict]:
    if found.hub is None:
        yield good(f"{found.endpoint} was not contacted")
    elif not found.hub:
        yield good(f"{found.endpoint} answers")
    elif "CERTIFICATE" in found.hub:
        yield warn(
            f"{found.endpoint}: {found.hub}",
            "Behind a proxy that inspects TLS, set SSL_CERT_FILE to its CA bundle",
        )
    else:
        yield warn(
            f"{found.endpoint} does not answer: {found.hub}",
            "Use local models and data, or check HF_ENDPOINT and the proxies",
        )


def proxies(found: Findings) -> Iterator[Verdict]:
    named = {
        name: address_parts(value)[0] or "?"
        for name, value in found.environment.items()
        if name.lower() in PROXIES and value
    }
    if named:
        yield good(", ".join(f"{name} through {host}" for name, host in sorted(named.items())))


def certificates(found: Findings) -> Iterator[Verdict]:
    for name in found.no_bundles:
        yield warn(f"{name} names a file that does not exist", f"`unset {name}`")
    if found.bundle:
        yield good(f"containers and builds trust {found.bundle}")


def index(found: Findings) -> Iterator[Verdict]:
    if found.index:
        yield good("builds and venvs use your own index")
    else:
        yield good("builds and venvs use the public index")


CHECKS: Checks = {
    "hub-token": (hub_token, HubError),
    "hub": (hub, HubError),
    "proxies": (proxies, HubError),
    "certificates": (certificates, HubError),
    "package-index": (index, EngineError),
}
