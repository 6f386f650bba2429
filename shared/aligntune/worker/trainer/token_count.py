"""Exact token counts for batches that are flattened into one row without padding."""

from __future__ import annotations

from typing import Any


class CountedTokens:
    """Mixin: counts every token of a batch that has no attention mask.

    A flattened batch (packing, padding-free) has neither mask nor padding. transformers then counts
    the tokens that differ from the padding token. If the same token also ends sequences, those ends
    would be missing from the count.
    """

    args: Any

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        counts = self.args.include_num_input_tokens_seen == "non_padding"
        if counts and "attention_mask" not in inputs and "input_ids" in inputs:
            ids = inputs["input_ids"]
            inputs = {**inputs, "attention_mask": ids.new_ones(1).expand_as(ids)}
        super()._track_num_input_tokens(inputs)  # type: ignore[misc]
