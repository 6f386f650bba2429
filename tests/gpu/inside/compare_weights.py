"""Largest differences between saved weights: ``python compare_weights.py JOBS``.

``JOBS`` is a JSON object of name -> two model folders; prints name -> difference.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    from safetensors.torch import load_file

    found = {}
    for name, folders in json.loads(sys.argv[1]).items():
        one, other = (load_file(f"{folder}/model.safetensors") for folder in folders)
        if one.keys() != other.keys():
            raise SystemExit(f"{folders}: they have other tensors")
        found[name] = max(float((one[key] - other[key]).abs().max()) for key in one)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
