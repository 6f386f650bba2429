"""Trainers that take rows and prompts as they are encoded everywhere else."""

from __future__ import annotations

from typing import Any

from aligntune.worker.text.encoding import Encoding


class PreparedRows:
    """Mixin: leaves rows alone that :meth:`Family.encode` has already prepared."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class OwnPrompts:
    """Mixin: encodes prompts with each row's tools and template arguments.

    TRL renders all prompts alike, and lets tokenizers add a second token at the start of a text, or
    an end to it.
    """

    encode_prompt: Encoding
    _asked: list[dict[str, Any]] = []  # noqa: RUF012 - replaced before each use

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self._asked = inputs
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Token ids of each prompt, no images and no further inputs."""
        rows = self._asked if len(self._asked) == len(prompts) else [{} for _ in prompts]
        found: list[list[int]] = []
        before = None
        for row, prompt in zip(rows, prompts, strict=True):
            asked = {**row, "prompt": prompt}
            # The completions of a group have the same prompt.
            found.append(found[-1] if asked == before else self.encode_prompt(asked))
            before = asked
        return found, None, {}
