"""The state of optimizers, by transformers' names."""

from __future__ import annotations

STATES = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "stable_adamw"), 2),
    **dict.fromkeys(("adamw_anyprecision", "grokadamw", "schedule_free_adamw"), 2),
    **dict.fromkeys(("adagrad", "rmsprop"), 1),
    **dict.fromkeys(("adafactor", "sgd"), 0),
}
"""Copies of the trainable weights an optimizer keeps, by transformers' name."""

STATE_BYTES = {
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), 2.1),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), 3.1),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), 1.05),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "rmsprop_bnb", "rmsprop_bnb_32bit"), 4),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit"), 12),
    "paged_adamw_32bit": 8,
    "adamw_torch_4bit": 1.1,
}
"""Bytes per trainable weight, for optimizers with their own form of state."""

PAGED = "paged_"
"""Name prefix of optimizers whose state can be moved out of a GPU."""
