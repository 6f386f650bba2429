"""Hold memory of the first GPU until a line comes: ``python hold_memory.py BYTES``.

Prints the bytes that are then free.
"""

from __future__ import annotations

import sys


def main() -> None:
    import torch

    held = torch.zeros(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
    print(torch.cuda.mem_get_info()[0], flush=True)
    input()
    del held


if __name__ == "__main__":
    main()
