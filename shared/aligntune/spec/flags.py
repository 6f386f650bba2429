"""The flags of the spec's keys.

A key of the spec declares its flag where it is defined, as metadata of the field::

    alpha: Annotated[float, Flag("--lora-alpha", "The update is scaled by alpha / rank.", ADAPTER)]

:func:`read_flags` reads these declarations from the source of the spec. It does not import the
spec, because that takes as long as the whole of ``--help`` may.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

WHAT, DATA, TRAINING, ADAPTER, REWARDS, WHERE, OUTPUT = PANELS = (
    "What to train",
    "Model and data",
    "Training",
    "Adapter",
    "Rewards",
    "Where it runs",
    "Output",
)
"""Panels of ``--help``, in order."""


@dataclass(frozen=True)
class Flag:
    """Metadata of a key: a flag of its own. ``--set`` reaches every other key.

    Several keys can have the same flag; it sets the key that the algorithm uses.

    Attributes:
        help: one line; ``{names}`` stands for the values that the key takes.
        panel: one of :data:`PANELS`.
        value: what the flag sets if it takes no argument; of a bool, that is true.
        metavar: what stands for its argument, if that does not follow from the type.
        many: whether the flag can be repeated; its values make a list.
    """

    name: str
    help: str
    panel: str
    value: Any = None
    metavar: str | None = None
    many: bool = False


BETA = Flag(
    "--beta",
    "How strongly to stay near the reference model: rl.beta, or preference.beta.",
    TRAINING,
)


@dataclass(frozen=True)
class FlaggedKey:
    """A flag with the dotted keys that it sets and the source of their type."""

    flag: Flag
    keys: tuple[str, ...]
    type: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the key takes; empty if it takes others too."""
        if not self.type.startswith("Literal[") or "|" in self.type:
            return ()
        return tuple(ast.literal_eval(self.type.removeprefix("Literal")))


def read_flags() -> tuple[FlaggedKey, ...]:
    """Every flag of the spec: those of keys outside of sections first, then section by section."""
    classes = {
        node.name: node
        for name in ("sections.py", "algorithm_sections.py", "run_spec.py")
        for node in ast.parse(Path(__file__).with_name(name).read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    flagged: dict[str, FlaggedKey] = {}
    for key, annotation in sorted(
        _fields(classes, "RunSpec", ""), key=lambda field: "." in field[0]
    ):
        if not (isinstance(annotation, ast.Subscript) and _is_name(annotation.value, "Annotated")):
            continue
        assert isinstance(annotation.slice, ast.Tuple)
        of_type, *marks = annotation.slice.elts
        for flag in filter(None, map(_flag, marks)):
            before = flagged.get(flag.name) or FlaggedKey(flag, (), ast.unparse(of_type))
            flagged[flag.name] = replace(before, keys=(*before.keys, key))
    return tuple(flagged.values())


def _fields(
    classes: Mapping[str, ast.ClassDef], name: str, prefix: str
) -> Iterator[tuple[str, ast.expr]]:
    """Every dotted key of a class of the spec, with its annotation."""
    for node in classes[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            annotation, key = node.annotation, prefix + node.target.id
            if isinstance(annotation, ast.Name) and annotation.id in classes:
                yield from _fields(classes, annotation.id, f"{key}.")
            else:
                yield key, annotation


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _flag(mark: ast.expr) -> Flag | None:
    """The flag that metadata declares: a name of this module, or a call with literals and names."""
    if isinstance(mark, ast.Name):
        flag = globals().get(mark.id)
        return flag if isinstance(flag, Flag) else None
    if not (isinstance(mark, ast.Call) and _is_name(mark.func, "Flag")):
        return None

    def value(node: ast.expr) -> Any:
        return globals()[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)

    named = {keyword.arg or "": value(keyword.value) for keyword in mark.keywords}
    return Flag(*map(value, mark.args), **named)
