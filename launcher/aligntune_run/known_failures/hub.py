"""Known failures: the hub and the way to it."""

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
        "the repository is gated, and the token has no access",
        "Accept its terms on the hub, log in (`hf auth login`), and run again",
    ),
    Symptom(
        "hub-refused",
        (
            r"40[13] Client Error",
            r"Invalid credentials in Authorization header",
            r"Repository Not Found for url",
        ),
        "the hub refused: a private or misspelt repository, or a token without the right",
        "Check the name, and `hf auth whoami`",
    ),
    Symptom(
        "hub-rate",
        (r"429 Client Error|Too Many Requests for url|rate limit(?:ed)? (?:reached|exceeded)",),
        "the hub limits how much it is asked, and more so without a token",
        "Log in (`hf auth login`), wait some minutes, and run again",
    ),
    Symptom(
        "tls",
        (r"CERTIFICATE_VERIFY_FAILED", r"self[- ]signed certificate in certificate chain"),
        "a certificate is not trusted, as behind a proxy that inspects TLS",
        "Point SSL_CERT_FILE at the proxy's CA bundle; containers are given it too",
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
        "a file of the hub is not in the cache, and training has no network",
        "Name what is read in the spec, so that it is fetched first; check the network "
        "(`aligntune-run doctor`)",
    ),
)
"""The most telling first."""
