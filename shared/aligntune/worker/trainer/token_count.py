"""Tokens seen, counted exactly where rows are flattened into one without padding."""

from __future__ import annotations

from typing import Any


def counted_tokens(trainer: type[Any]) -> type[Any]:
    """``trainer`` that counts every token of a batch without an attention mask.

    A flattened batch (packing, padding-free) has no mask and no padding. transformers then counts
    the tokens that differ from the padding token, which leaves out every end of sequence where one
    token serves as both.
    """

    class CountedTokens(trainer):  # type: ignore[misc]
        def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
            counts = self.args.include_num_input_tokens_seen == "non_padding"
            if counts and "attention_mask" not in inputs and "input_ids" in inputs:
                ids = inputs["input_ids"]
                inputs = {**inputs, "attention_mask": ids.new_ones(1).expand_as(ids)}
            super()._track_num_input_tokens(inputs)

    CountedTokens.__name__ = trainer.__name__
    return CountedTokens
