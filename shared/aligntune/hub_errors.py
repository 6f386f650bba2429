"""Errors of a hub, translated for the user."""

from __future__ import annotations

from aligntune.errors import HubError


def hub_refusal(kind: str, what: str, revision: str | None) -> HubError | None:
    """The error for a huggingface_hub error whose meaning is clear, by its class name."""
    if kind == "GatedRepoError":
        return HubError(
            f"{what} is gated, and this token has no access",
            "Accept its terms on the hub, and log in with `hf auth login` or set HF_TOKEN",
        )
    if kind in ("RepositoryNotFoundError", "DatasetNotFoundError"):
        return HubError(
            f"no such {what} on the hub", "Check the name; a private repository needs HF_TOKEN"
        )
    if kind == "RevisionNotFoundError":
        return HubError(
            f"{what} has no revision {revision or 'main'}", "Check the branch, tag or commit"
        )
    if kind in ("OfflineModeIsEnabled", "LocalEntryNotFoundError"):
        return HubError(
            f"{what} is not in the cache, and the hub is unreachable",
            "Connect to the hub once to fill the cache",
        )
    return None
