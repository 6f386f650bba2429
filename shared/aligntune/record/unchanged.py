"""A resumed run is the run that began: the same request, and the same content of what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aligntune.errors import AligntuneError, DataError, ModelError, RewardError, SpecError, shown

IDENTITY = ("algorithm", "model", "dataset", "adapter", "rewards")
"""Keys and sections of a spec that cannot change."""

SETTINGS = ("training", "preference", "rl", "ppo", "trainer_args", "trl", "unsloth")
"""Sections that can, which a note reports. All other keys say where a run computes."""

REMEDY = "Put it back, or start a new run without --resume"

TITLES: dict[str, tuple[str, type[AligntuneError]]] = {
    "model": ("the model", ModelError),
    "adapter": ("the adapter", ModelError),
    "chat_template": ("the chat template", ModelError),
    "rewards": ("the reward", RewardError),
    "train": ("the training data", DataError),
    "evaluation": ("the evaluation data", DataError),
}
"""By the key in the record's ``inputs``: what an input is called, and the error of its change."""


def require_same_spec(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse another model, data, adapter or rewards than the run began with.

    Args:
        before: the spec in the record; empty if there is none.
        now: the spec that the run would continue with.

    Raises:
        SpecError: it names the first key that differs, with both values.
    """
    for key, old, new in _differences(before, now, IDENTITY):
        raise SpecError(
            f"this run began with {key}={_value(old)}, and its spec.yaml now says {_value(new)}",
            REMEDY,
        )


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The training settings that differ, with both values; empty if none does."""
    found = _differences(before, now, SETTINGS)
    return ", ".join(f"{key} {_value(old)} -> {_value(new)}" for key, old, new in found)


def require_same_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse an input whose content has changed since the run began.

    Args:
        before: the ``inputs`` in the record; empty if the run never read them.
        now: all or some of them, as they are now.

    Raises:
        AligntuneError: of the input's kind; it names the input.
    """
    for key in before.keys() & now.keys() & TITLES.keys():
        title, kind = TITLES[key]
        old, new = (
            value if isinstance(value, list) else [value] for value in (before[key], now[key])
        )
        for one, other in zip(old, new, strict=False):
            if _fingerprint(one) != _fingerprint(other):
                source = shown(other.get("source", ""), 200)
                raise kind(f"{title} ({source}) has changed since this run began", REMEDY)


def _fingerprint(entry: Mapping[str, Any]) -> Any:
    return entry.get("sha256") or entry.get("fingerprint")


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], names: tuple[str, ...], above: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys of these sections that both specs have and whose values differ.

    A key that only one has is of another version of this program.
    """
    for name in names:
        if name not in before or name not in now:
            continue
        old, new, key = before[name], now[name], f"{above}{name}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, tuple(dict.fromkeys((*old, *new))), f"{key}.")
        elif old != new:
            yield key, old, new


def _value(value: Any) -> str:
    return shown(repr(value) if isinstance(value, str) else value)
