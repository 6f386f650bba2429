"""The house: no circles of imports, no arrow upward, nothing heavy on the host, no room too full.

What counts as an import:

- for circles, what is imported when a module is: imports inside functions are exempt, as they run
  when both modules are whole;
- for arrows, those too, since a call is a dependency whenever it is made;
- for neither what stands below ``TYPE_CHECKING``: it costs nothing and runs nowhere.

A package's own ``__init__`` is imported before any module in it, and counts as imported by whoever
imports such a module from outside of the package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {"aligntune_run": ROOT / "launcher", "aligntune": ROOT / "shared"}

WINGS = {
    "aligntune_run": (
        ("subprocesses", "known_failures"),
        ("check",),
        ("host",),
        ("models",),
        ("memory",),
        ("plan",),
        ("images",),
        ("engines",),
        ("selection",),
        ("planning",),
        ("runs",),
        ("doctor",),
        ("cli",),
        ("api",),
        ("__main__",),
    ),
    "aligntune": (
        ("errors", "contract", "algorithms", "units"),
        ("failures", "hub_errors"),
        ("record",),
        ("spec",),
        ("tasks", "packages", "defaults", "pretrained", "recipe"),
        ("data", "rewards"),
        ("worker",),
        ("api",),
        ("core", "training"),
    ),
}
"""The wings of each package from the ground up: each imports from those before its own only."""

HEAVY = {
    *("torch", "transformers", "trl", "unsloth", "peft", "accelerate", "bitsandbytes"),
    *("datasets", "pyarrow", "numpy", "huggingface_hub", "aligntune_backend"),
}
"""What only an image or its twin venv has."""

TRAINS = ("aligntune.worker.modeling", "aligntune.worker.ppo", "aligntune.worker.trainer")
"""The rooms that are entered once a run has begun, and so may import what is heavy at once."""

MOST_MODULES = 12
MOST_LINES = 400


@dataclass(frozen=True)
class Import:
    """What a statement imports; ``at_once`` when the module is, not when a function is called."""

    target: str
    at_once: bool


def name_of(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Every module of launcher and shared by its dotted name."""
    return {
        name_of(path, source): path
        for package, source in SOURCES.items()
        for path in sorted((source / package).rglob("*.py"))
    }


@cache
def imports_of(name: str) -> tuple[Import, ...]:
    """What a module imports, of ours and of others."""
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    return tuple(dict.fromkeys(_imports(tree.body, at_once=True)))


def _imports(body: list[ast.stmt], at_once: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(inner if inner in modules() else str(node.module), at_once)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from _imports(node.orelse, at_once)
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for _, value in ast.iter_fields(node):
                parts = value if isinstance(value, list) else [value]
                inside = [part for part in parts if isinstance(part, ast.stmt)]
                for part in parts:
                    if isinstance(part, ast.ExceptHandler | ast.match_case):
                        inside += part.body
                yield from _imports(inside, at_once and not later)


def packages_of(name: str) -> set[str]:
    """The packages that a module is in."""
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def ours(name: str, at_once: bool) -> set[str]:
    """The modules of ours that a module imports, with the packages that this enters."""
    found = set()
    for one in imports_of(name):
        if one.target in modules() and (one.at_once or not at_once):
            found |= {one.target, *packages_of(one.target)} - packages_of(name) - {name}
            if one.target in packages_of(name):
                found.add(one.target)
    return found


def wing_of(name: str) -> tuple[str, str]:
    package, _, rest = name.partition(".")
    return package, rest.partition(".")[0]


def floor_of(name: str) -> int:
    package, wing = wing_of(name)
    return next(floor for floor, wings in enumerate(WINGS[package]) if wing in wings)


def test_there_is_a_floor_for_every_wing_and_no_other() -> None:
    for package, floors in WINGS.items():
        named = [wing for wings in floors for wing in wings]
        there = {wing_of(name)[1] for name in modules() if wing_of(name)[0] == package}
        assert sorted(named) == sorted(there - {""})


def test_no_import_goes_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in sorted(ours(name, at_once=True)):
                visit(target, (*path, name))
            done.add(name)

    for name in modules():
        visit(name, ())


@pytest.mark.parametrize("package", WINGS)
def test_no_import_goes_up(package: str) -> None:
    upward = [
        f"{name} -> {target}"
        for name in modules()
        for target in sorted(ours(name, at_once=False))
        if wing_of(name)[0] == wing_of(target)[0] == package
        and wing_of(name)[1]
        and wing_of(target)[1] not in ("", wing_of(name)[1])
        and floor_of(target) >= floor_of(name)
    ]
    assert upward == []


def test_shared_knows_no_launcher() -> None:
    of_shared = [name for name in modules() if wing_of(name)[0] == "aligntune"]
    knowing = [
        name
        for name in of_shared
        if any(one.target.partition(".")[0] == "aligntune_run" for one in imports_of(name))
    ]
    assert knowing == []


def test_what_the_host_imports_is_not_heavy() -> None:
    heavy = [
        f"{name} -> {one.target}"
        for name in modules()
        for one in imports_of(name)
        if one.at_once
        and one.target.partition(".")[0] in HEAVY
        and not any(room in packages_of(name) for room in TRAINS)
    ]
    assert heavy == []


def test_the_launcher_imports_no_worker() -> None:
    arrows = [
        f"{name} -> {target}"
        for name in modules()
        for target in ours(name, at_once=False)
        if wing_of(name)[0] == "aligntune_run" and wing_of(target) == ("aligntune", "worker")
    ]
    assert arrows == []


def test_no_folder_is_too_full() -> None:
    folders: dict[Path, int] = {}
    for path in modules().values():
        folders[path.parent] = folders.get(path.parent, 0) + (not path.name.startswith("__"))
    full = {
        str(folder.relative_to(ROOT)): count
        for folder, count in folders.items()
        if count > MOST_MODULES
    }
    assert full == {}


def test_no_module_is_too_long() -> None:
    images = (ROOT / "images").rglob("*.py")
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (*modules().values(), *images)
    }
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}
