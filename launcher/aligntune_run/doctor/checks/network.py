"""Checks of the hub, the token, proxies, certificates and the package index, without values."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from aligntune.errors import EngineError, HubError
from aligntune_run.check import Result, passes, warns
from aligntune_run.doctor.checks.base import MACHINE
from aligntune_run.doctor.probe import Findings
from aligntune_run.engines.docker.arguments import token
from aligntune_run.host.docker_client import address_parts

OTHERS = stat.S_IRWXG | stat.S_IRWXO
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@MACHINE.check("hub-token", HubError)
def _hub_token(findings: Findings) -> Iterator[Result]:
    if token(findings.environment):
        yield passes("a token is in the environment")
    if findings.host.token is None:
        if not token(findings.environment):
            yield passes("none set; public models and data need none (`hf auth login` sets one)")
    elif (findings.token_mode or 0) & OTHERS & ~0o111:
        yield warns(
            f"{findings.host.token} can be read by others (mode {findings.token_mode:o})",
            f"`chmod 600 {findings.host.token}`",
        )
    else:
        yield passes(f"a token is in {findings.host.token}, and only you can read it")


@MACHINE.check("hub", HubError)
def _hub(findings: Findings) -> Iterator[Result]:
    if findings.hub is None:
        yield passes(f"{findings.endpoint} was not contacted")
    elif not findings.hub:
        yield passes(f"{findings.endpoint} answers")
    elif "CERTIFICATE" in findings.hub:
        yield warns(
            f"{findings.endpoint}: {findings.hub}",
            "Behind a proxy that inspects TLS, set SSL_CERT_FILE to its CA bundle",
        )
    else:
        yield warns(
            f"{findings.endpoint} does not answer: {findings.hub}",
            "Use local models and data, or check HF_ENDPOINT and the proxies",
        )


@MACHINE.check("proxies", HubError)
def _proxies(findings: Findings) -> Iterator[Result]:
    named = {
        name: address_parts(value)[0] or "?"
        for name, value in findings.environment.items()
        if name.lower() in PROXIES and value
    }
    if named:
        yield passes(", ".join(f"{name} through {host}" for name, host in sorted(named.items())))


@MACHINE.check("certificates", HubError)
def _certificates(findings: Findings) -> Iterator[Result]:
    for name in findings.no_bundles:
        yield warns(f"{name} names a file that does not exist", f"`unset {name}`")
    if findings.bundle:
        yield passes(f"containers and builds trust {findings.bundle}")


@MACHINE.check("package-index", EngineError)
def _index(findings: Findings) -> Iterator[Result]:
    if findings.index:
        yield passes("builds and venvs use your own index")
    else:
        yield passes("builds and venvs use the public index")
