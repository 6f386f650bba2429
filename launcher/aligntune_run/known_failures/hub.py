"""Known failures of the hub and the connection to it."""

from __future__ import annotations

from aligntune_run.known_failures.base import Symptom

HUB: tuple[Symptom, ...] = (
    Symptom(
        "hub-gated",
        (
            r"Cannot access gated repo",
            r"You are trying to access a gated repo",
            r"Access to (?:model|dataset) .{1,120} is restricted",
        ),
        "the repository is gated, and your token has no access",
        "Accept its terms on the hub, log in (`hf auth login`), and run again",
    ),
    Symptom(
        "hub-refused",
        (
            r"40[13] Client Error",
            r"Invalid credentials in Authorization header",
            r"Repository Not Found for url",
        ),
        "the hub refused access: the repository is private or misspelt, or the token lacks "
        "permission",
        "Check the name, and check your login with `hf auth whoami`",
    ),
    Symptom(
        "hub-rate",
        (r"429 Client Error|Too Many Requests for url|rate limit(?:ed)? (?:reached|exceeded)",),
        "you reached the hub's rate limit, which is lower without a token",
        "Log in (`hf auth login`), wait a few minutes, and run again",
    ),
    Symptom(
        "tls",
        (r"CERTIFICATE_VERIFY_FAILED", r"self[- ]signed certificate in certificate chain"),
        "a certificate is not trusted, for example behind a proxy that inspects TLS",
        "Set SSL_CERT_FILE to the proxy's CA bundle; containers get it too",
    ),
    Symptom(
        "xet",
        (r"CAS service error", r"hf_xet.{0,80}(?:Error|error)", r"XetDownloadError"),
        "the hub's Xet storage could not be read",
        "Run again with HF_HUB_DISABLE_XET=1",
    ),
    Symptom(
        "hub-unreachable",
        (
            r"outgoing traffic has been disabled",
            r"We couldn't connect to '.{1,120}' to load the files",
            r"OfflineModeIsEnabled|offline mode is enabled",
            r"Temporary failure in name resolution",
        ),
        "a hub file is not in the cache, and the training container has no network",
        "Name it in the spec, so that it is fetched first, and check the network "
        "(`aligntune-run doctor`)",
    ),
)
"""The most specific first."""
