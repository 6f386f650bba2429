"""The YAML of a RunSpec: numbers as in YAML 1.2, and no repeated keys."""

from __future__ import annotations

import re
from typing import Any

import yaml

YAML_FLOAT = re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$")
"""``1e-4``: a number in YAML 1.2, which PyYAML reads as text."""


class Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-4`` as a number, as YAML 1.2 does, and refuses repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            # Keys that ``<<`` merges in may be replaced; only written keys are checked.
            key = key_node.value
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is not text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


Loader.add_implicit_resolver("tag:yaml.org,2002:float", YAML_FLOAT, list("-+0123456789"))


class Dumper(yaml.SafeDumper):
    """SafeDumper that quotes texts that would not be read back unchanged.

    These are texts that look like numbers, and line separators, which PyYAML otherwise folds into
    spaces.
    """

    def represent_str(self, text: str) -> yaml.ScalarNode:
        breaks = any(character in text for character in "\x85\u2028\u2029")
        return self.represent_scalar("tag:yaml.org,2002:str", text, '"' if breaks else None)


Dumper.add_representer(str, Dumper.represent_str)
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", YAML_FLOAT, list("-+0123456789"))
