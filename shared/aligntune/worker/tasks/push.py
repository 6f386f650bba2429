"""Upload the model of a run to a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligntune.errors import AligntuneError, HubError
from aligntune.failures import first_line
from aligntune.record.events import EventWriter
from aligntune.tasks import Push
from aligntune.worker.inputs.fetch import hub_error
from aligntune.worker.inputs.model import locate


def push(task: Push, events: EventWriter) -> dict[str, Any]:
    """Upload the model's folder in one commit; other files in the repository stay."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    what = f"repository {task.repository}"
    if get_token() is None:
        raise HubError("pushing needs a token", "Log in with `hf auth login` or set HF_TOKEN")
    hub = HfApi()
    folder = locate(str(Path(task.of, "model")))
    try:
        made = hub.create_repo(task.repository, private=task.private or None, exist_ok=True)
        events("note", message=f"uploading to {made}")
        done = hub.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message=task.message
        )
    except AligntuneError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"{what}: the token has no write access: {first_line(error)}",
                "Use a token with write access, and a repository of yours or your organisation's",
            ) from error
        raise hub_error(what, None, error, "pushed") from error
    return {"repository": made.repo_id, "url": str(made), "commit": done.oid}
