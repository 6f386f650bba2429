"""Models with random weights, made on the device: ``python make_models.py FOLDER SHAPES``.

``SHAPES`` is a JSON object of name -> configuration, with ``model_type``. The tokenizer's few words
are the first of each vocabulary.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ran", "in", "park"]


def main() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "helpers"))
    from tiny import make_tokenizer  # type: ignore[import-not-found]  # in tests/helpers/

    disable_progress_bar()
    tokenizer = make_tokenizer([" ".join(WORDS)])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, shape in json.loads(sys.argv[2]).items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            shape.pop("model_type"),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            **shape,
        )
        with torch.device(device):
            # A CPU is slow in bfloat16.
            dtype = torch.bfloat16 if device == "cuda" else torch.float32
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        folder = Path(sys.argv[1], name)
        model.save_pretrained(folder)
        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.save_pretrained(folder)
        print(name, sum(weight.numel() for weight in model.parameters()), flush=True)


if __name__ == "__main__":
    main()
