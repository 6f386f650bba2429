"""The keys of a RunSpec with their fields and the metadata that these declare."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aligntune.spec.flags import Flag
from aligntune.spec.run_spec import RunSpec
from aligntune.spec.sections import Keyword, Sets

Mark = TypeVar("Mark", Sets, Flag, Keyword)


def spec_fields(
    model: type[BaseModel] = RunSpec, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key of a RunSpec with its field, in order."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from spec_fields(section, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def marked_keys(kind: type[Mark]) -> Iterator[tuple[str, Mark]]:
    """Each dotted key with its metadata of one kind."""
    for key, field in spec_fields():
        for mark in field.metadata:
            if isinstance(mark, kind):
                yield key, mark
