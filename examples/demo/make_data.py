"""Make question and answer pairs from the docstrings of the installed Python standard library.

``python make_data.py FOLDER`` writes ``train.jsonl`` and ``eval.jsonl``, with one
``{"prompt": "What does os.path.join do?", "completion": "Join two or more ..."}`` per line. The
sources are parsed and never imported, so nothing runs. The same library gives the same files.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import sysconfig
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

NOT_LIBRARY = frozenset(
    {
        *("dist-packages", "site-packages", "test", "tests", "__pycache__"),
        *("ensurepip", "idlelib", "lib2to3", "turtledemo", "pydoc_data"),
        *("distutils", "tkinter", "turtle.py"),
        *("antigravity.py", "this.py", "ntpath.py", "nturl2path.py", "sre_compile.py"),
    }
)
"""Tests, programs, third-party packages, and parts that not every Python has."""

KNOWN_AS = {"posixpath": "os.path"}
"""Modules that users know by another name."""

SHORTEST, LONGEST = 20, 200
"""Characters of an answer: shorter ones say too little, longer ones need a larger model."""

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"])")

EVERY = 20
"""One answer in this many is held out."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "eval": []}
    for prompt, completion in sorted(set(pairs(Path(sysconfig.get_path("stdlib"))))):
        # Split by answer, so that no held-out answer was seen with another question.
        part = "eval" if int(sha256(completion.encode()).hexdigest(), 16) % EVERY == 0 else "train"
        rows[part].append({"prompt": prompt, "completion": completion})
    for part, found in rows.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{folder / part}.jsonl: {len(found):,} questions")


def pairs(library: Path) -> Iterator[tuple[str, str]]:
    """Yield a question and answer for each public function and class with a one-sentence summary.

    Methods are skipped, because their docstrings refer to a class that the question does not name.
    """
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        private = any(part.startswith("_") and part != "__init__.py" for part in parts)
        if private or NOT_LIBRARY.intersection(parts):
            continue
        module = ".".join((*parts[:-1], path.stem)).removesuffix(".__init__")
        for node in ast.parse(path.read_bytes()).body:
            if not isinstance(node, Definition) or node.name.startswith("_"):
                continue
            name, answer = f"{KNOWN_AS.get(module, module)}.{node.name}", summary(node)
            if SHORTEST <= len(answer) <= LONGEST and answer[0].isupper():
                is_class = isinstance(node, ast.ClassDef)
                yield (f"What is {name}?" if is_class else f"What does {name} do?"), answer


def summary(definition: Definition) -> str:
    """The first sentence of a docstring, on one line; empty if there is none."""
    paragraph = (ast.get_docstring(definition) or "").strip().partition("\n\n")[0]
    return SENTENCE_END.split(" ".join(paragraph.split()), maxsplit=1)[0]


if __name__ == "__main__":
    main()
