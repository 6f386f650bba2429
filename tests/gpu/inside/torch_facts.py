"""What torch says of the GPUs, as one JSON object."""

from __future__ import annotations

import json


def main() -> None:
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(
            {
                "name": properties.name,
                "uuid": str(properties.uuid),
                "capability": [properties.major, properties.minor],
                "memory": properties.total_memory,
                "free": torch.cuda.mem_get_info(number)[0],
            }
        )
    print(
        json.dumps(
            {
                "gpus": found,
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "bf16": bool(found) and torch.cuda.is_bf16_supported(),
            }
        )
    )


if __name__ == "__main__":
    main()
