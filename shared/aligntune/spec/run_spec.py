"""RunSpec: the request, validated and frozen, in one canonical form.

The command line, YAML, the environment and Python arguments all become a RunSpec (see
:mod:`aligntune.spec.resolve`). Everything after that reads only the RunSpec.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from aligntune.algorithms import ALGORITHMS, RESTRICTED, Algorithm
from aligntune.spec.algorithm_sections import PPOSpec, PreferenceSpec, RewardSpec, RLSpec
from aligntune.spec.flags import OUTPUT, REWARDS, WHAT, WHERE, Flag
from aligntune.spec.sections import (
    CANONICAL_COLUMNS,
    AdapterSpec,
    DatasetSpec,
    Keyword,
    ModelSpec,
    Section,
    TrainingSpec,
    is_local,
    require_recordable,
    sets,
)
from aligntune.spec.yaml import Dumper

__all__ = ["DatasetSpec", "RewardSpec", "RunSpec", "is_local"]

IMAGE = re.compile(
    r"sha256:[0-9a-f]{64}|"
    r"([a-zA-Z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
"""https://pkg.go.dev/github.com/distribution/reference, or the digest of a local image."""

ADAPTER_FACTOR = 10
"""An adapter learns best at ten times the rate of full fine-tuning
(https://thinkingmachines.ai/blog/lora)."""

ROWS = tuple(ALGORITHMS.values())

OPTIONAL_SECTIONS = ("preference", "rl", "ppo", "rewards")
"""Sections that apply to some algorithms only, see ``Algorithm.sections``."""


class RunSpec(Section):
    """The request for one run.

    Attributes:
        backend: ``auto`` selects the fastest backend that can run this; ``trl`` always selects TRL.
        strict: fail if the requested backend is unavailable, instead of falling back.
        output: the run directory; null creates a new folder below ``runs/``.
        engine: where it runs, by a name that the launcher knows (an image need not know it);
            ``process`` is a venv made from the image's lock.
        gpus: ``auto`` (one GPU if available), ``all``, a number (0 trains on the CPU), or a
            comma-separated list of indices or UUIDs.
        image: run this derived image instead of the pinned one.
        pull: when to obtain the image.
        memory: memory limit of the container, e.g. ``16g``; null reserves a little for the host.
        fit: what to do if training certainly needs more memory than available: ``refuse`` it, or
            only ``warn``.
        preference: for DPO and KTO.
        rl: for PPO, the GRPO family and RLOO.
        ppo: for PPO.
        rewards: the rewards of completions; each is logged separately.
        trainer_args: any other argument of the algorithm's configuration class.
        trl: arguments of the trainer or of loading the model that apply only to TRL.
        unsloth: the same for Unsloth, such as ``{use_gradient_checkpointing: unsloth}``.
    """

    algorithm: Annotated[str, Flag("--algo", "Algorithm: {names}.", WHAT, metavar="NAME")]
    model: ModelSpec
    dataset: DatasetSpec
    training: TrainingSpec = TrainingSpec()
    adapter: AdapterSpec = AdapterSpec()
    backend: Annotated[
        Literal["auto", "trl", "unsloth"],
        Flag("--backend", "auto picks the fastest that runs here.", WHERE),
    ] = "auto"
    strict: Annotated[
        bool,
        Flag(
            "--strict", "Fail if --backend is unavailable, instead of falling back to TRL.", WHERE
        ),
    ] = False
    output: Annotated[
        str | None,
        sets("output_dir"),
        Flag(
            "--output", "Run directory; by default a new folder in runs/.", OUTPUT, metavar="PATH"
        ),
        Keyword("output_dir"),
    ] = None
    engine: Annotated[str, Flag("--engine", "Container engine, or a process in a venv.", WHERE)] = (
        Field(default="auto", pattern=r"^[a-z][a-z0-9_-]*$")
    )
    gpus: Annotated[
        str,
        sets("use_cpu"),
        Flag(
            "--gpus", "auto, 0 (use the CPU), or the UUID of a GPU. One GPU per run so far.", WHERE
        ),
    ] = "auto"
    image: Annotated[
        str | None, Flag("--image", "Run this derived image instead of the pinned one.", WHERE)
    ] = None
    pull: Annotated[
        Literal["missing", "never", "always"], Flag("--pull", "When to get the image.", WHERE)
    ] = "missing"
    memory: str | None = None
    fit: Literal["refuse", "warn"] = "refuse"
    preference: PreferenceSpec = PreferenceSpec()
    rl: RLSpec = RLSpec()
    ppo: PPOSpec = PPOSpec()
    rewards: Annotated[
        tuple[RewardSpec, ...],
        sets("reward_weights", key="rewards[].weight"),
        Flag(
            "--reward",
            "Built-in reward or path.py:function, optionally with =WEIGHT. Repeatable.",
            REWARDS,
            metavar="NAME",
            many=True,
        ),
        Flag("--reward-model", "Reward model: folder or hub id.", REWARDS, many=True),
    ] = ()
    trainer_args: dict[str, Any] = Field(default_factory=dict)
    trl: dict[str, Any] = Field(default_factory=dict)
    unsloth: dict[str, Any] = Field(default_factory=dict)

    @property
    def row(self) -> Algorithm:
        """The algorithm's row in the table."""
        return ALGORITHMS[self.algorithm]

    def of_backend(self, name: str) -> dict[str, Any]:
        """The arguments that apply only to one backend."""
        return {"trl": self.trl, "unsloth": self.unsloth}[name]

    @model_validator(mode="before")
    @classmethod
    def _derive_defaults(cls, data: Any) -> Any:
        """Defaults that depend on other values: the algorithm's, an adapter with quantization, and
        its learning rate.
        """
        if not isinstance(data, dict):
            return data
        data = {
            key: dict(value) if isinstance(value, dict) else value for key, value in data.items()
        }
        model, adapter = (data.get(key) or {} for key in ("model", "adapter"))
        if isinstance(model, dict) and isinstance(adapter, dict):
            quantized = model.get("quantization", "none") != "none"
            if "type" not in adapter and (quantized or adapter):
                data["adapter"] = adapter = {**adapter, "type": "lora"}
        row = ALGORITHMS.get(str(data.get("algorithm")))
        for key, value in row.defaults.items() if row else ():
            section, _, name = key.partition(".")
            given = data.get(section) or {}
            if not isinstance(given, dict) or (
                name in given and not (name == "loss_type" and given[name] is None)
            ):
                continue
            adapted = isinstance(adapter, dict) and adapter.get("type", "none") != "none"
            if key == "training.learning_rate" and adapted:
                value = float(f"{value * ADAPTER_FACTOR:.12g}")  # 1e-05, not 9.999999999999999e-06
            data[section] = {**given, name: value}
        return data

    @field_validator("algorithm")
    @classmethod
    def _known_algorithm(cls, value: str) -> str:
        if value not in ALGORITHMS:
            raise ValueError(f"unknown algorithm {value!r}; known: {', '.join(ALGORITHMS)}")
        return value

    @field_validator("trainer_args", "trl", "unsloth")
    @classmethod
    def _recordable(cls, value: dict[str, Any]) -> dict[str, Any]:
        require_recordable(value)
        return value

    @field_validator("rewards", mode="before")
    @classmethod
    def _rewards_listed(cls, value: Any) -> Any:
        """``rewards: exact_match`` and ``rewards: {name: length}`` are one reward."""
        if isinstance(value, str | dict):
            return (value,)
        return () if value is None else value

    @field_validator("memory")
    @classmethod
    def _memory_in_form(cls, value: str | None) -> str | None:
        if value is None:
            return None
        size = value.lower().removesuffix("b")
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?[kmgt]?", size) or not float(size.rstrip("kmgt")):
            raise ValueError("must be a size, such as 16g or 800m")
        return value

    @field_validator("image")
    @classmethod
    def _image_in_form(cls, value: str | None) -> str | None:
        if value is not None and not IMAGE.fullmatch(value):
            raise ValueError("must be an image, as name:tag or name@sha256:...")
        return value

    @field_validator("gpus", mode="before")
    @classmethod
    def _gpus_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("gpus")
    @classmethod
    def _gpus_in_form(cls, value: str) -> str:
        item = r"(0|[1-9][0-9]*|GPU-[0-9A-Za-z-]+|MIG-[0-9A-Za-z/-]+)"
        if value not in ("auto", "all") and not re.fullmatch(rf"{item}(,{item})*", value):
            raise ValueError("must be auto, all, a number, or a comma-separated list of GPUs")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._require_meaning()
        self._require_groups()
        self._require_smoothing()
        if self.model.quantization != "none" and self.adapter.type == "none":
            raise ValueError(
                f"model.quantization={self.model.quantization} needs an adapter; "
                "remove adapter.type or set it to lora"
            )
        if self.training.warmup > 1 and self.training.warmup % 1:
            raise ValueError(
                "training.warmup must be a fraction below 1 or a whole number of steps"
            )
        if self.training.packing and self.training.max_length is None:
            raise ValueError("training.packing needs training.max_length")
        if self.adapter.type == "none" and self.adapter.path:
            raise ValueError("adapter.path needs adapter.type=lora")
        if self.adapter.type == "none" or self.adapter.path:
            shape = self.adapter.model_dump(exclude={"type", "path"}, exclude_defaults=True)
            if self.adapter.alpha == AdapterSpec().lora_alpha:
                shape.pop("alpha")  # specs of earlier versions name this default
            why = (
                "the adapter in adapter.path keeps its shape"
                if self.adapter.path
                else "adapter.type is none"
            )
            for key in shape:
                raise ValueError(f"adapter.{key} has no effect because {why}; remove it")
        for key, name, value in (
            ("model.revision", self.model.name, self.model.revision),
            ("dataset.revision", self.dataset.name, self.dataset.revision),
            ("dataset.config", self.dataset.name, self.dataset.config),
        ):
            if value is not None and is_local(name):
                raise ValueError(f"{key} applies only to a hub id, and {name} is local; remove it")
        if self.dataset.validation_fraction and (self.dataset.eval_name or self.dataset.eval_split):
            raise ValueError(
                "dataset.validation_fraction cannot be combined with dataset.eval_name or "
                "dataset.eval_split; remove one of them"
            )
        for key in ("eval_steps", "keep_best"):
            if getattr(self.training, key) and not (
                self.dataset.eval_name
                or self.dataset.eval_split
                or self.dataset.validation_fraction
            ):
                raise ValueError(
                    f"training.{key} needs evaluation data; set dataset.eval_name, "
                    "dataset.eval_split or dataset.validation_fraction"
                )
        if self.training.keep_best and not self.training.eval_steps:
            raise ValueError(
                "training.keep_best needs evaluations during training; set training.eval_steps"
            )
        return self

    def _require_meaning(self) -> None:
        """Refuse keys that do not apply to the algorithm, and the absence of keys that it needs."""
        row = self.row
        columns = list(self.dataset.columns)
        unknown = [name for name in columns if name not in CANONICAL_COLUMNS]
        if unknown and "rewards" not in row.sections:  # rewards receive columns of any name
            raise ValueError(
                f"dataset.columns: no column {unknown[0]!r}; it maps a canonical name to a name in "
                f"the data, and the canonical names are {', '.join(CANONICAL_COLUMNS)}"
            )
        given = self._given_keys()
        for key in given:
            section = key.partition(".")[0]
            if section in OPTIONAL_SECTIONS and section not in row.sections:
                raise self._not_applicable(key, [section in it.sections for it in ROWS])
        if row.online and not self.rewards:
            raise ValueError(
                f"{self.algorithm} needs a reward: --reward NAME, --reward path.py:function or "
                "--reward-model M (docs/rewards.md lists the names)"
            )
        if self.dataset.format not in ("auto", *row.formats):
            raise ValueError(
                f"{self.algorithm} does not train on dataset.format={self.dataset.format}; "
                f"use one of {', '.join(row.formats)}"
            )
        for key in given:
            if key in RESTRICTED and key not in row.keys:
                raise self._not_applicable(key, [key in it.keys for it in ROWS])

    def _given_keys(self) -> list[str]:
        """Dotted keys that ask for something besides the default; ``rewards`` is one key."""
        keys = ["rewards"] if self.rewards else []
        for section in ("training", "preference", "rl", "ppo"):
            values = getattr(self, section).model_dump(exclude_defaults=True)
            keys += [f"{section}.{name}" for name, value in values.items() if value is not False]
        return keys

    def _not_applicable(self, key: str, applicable: list[bool]) -> ValueError:
        names = [row.name for row, applies in zip(ROWS, applicable, strict=True) if applies]
        return ValueError(
            f"{key} does not apply to {self.algorithm}, only to {', '.join(names)}; remove it"
        )

    def _require_smoothing(self) -> None:
        """Refuse label smoothing that the loss ignores, and a loss that lacks it."""
        loss, smoothing = self.preference.loss_type, self.preference.label_smoothing
        losses = self.row.smoothed
        if smoothing and loss not in losses:
            raise ValueError(
                f"preference.label_smoothing has no effect on preference.loss_type={loss}, only on "
                f"{', '.join(losses)}; remove it"
            )
        if losses.get(str(loss)) and not smoothing:
            raise ValueError(
                f"preference.loss_type={loss} needs preference.label_smoothing, such as 0.001"
            )

    def _require_groups(self) -> None:
        if not self.row.grouped:
            return
        group, training = self.rl.num_generations, self.training
        if group < 2:
            raise ValueError(
                f"rl.num_generations must be at least 2: {self.algorithm} compares completions"
            )
        accumulation = training.accumulation()
        batch = training.batch_size * accumulation
        steps = {"steps_per_generation", "generation_batch_size"} & set(self.trainer_args)
        if batch % group and not steps:
            raise ValueError(
                f"the {batch} completions of a step (training.batch_size {training.batch_size} x "
                f"gradient_accumulation {accumulation}) must be a multiple of "
                f"rl.num_generations={group}"
            )

    @property
    def given_arguments(self) -> tuple[tuple[str, str], ...]:
        """Every trainer argument that the request sets by name: (section, name)."""
        sections = ("trainer_args", self.trainer_args), ("trl", self.trl), ("unsloth", self.unsloth)
        return tuple((section, name) for section, given in sections for name in given)

    @property
    def repositories(self) -> tuple[tuple[str, str, str | None], ...]:
        """Every model and dataset that the run reads, local or not: (kind, name, revision)."""
        wanted: list[tuple[str, str | None, str | None]] = [
            ("model", self.model.name, self.model.revision),
            ("adapter", self.adapter.path, None),
            *(("reward", reward.model, reward.revision) for reward in self.rewards),
            ("dataset", self.dataset.name, self.dataset.revision),
            ("dataset", self.dataset.eval_name, None),
        ]
        return tuple((kind, name, revision) for kind, name, revision in wanted if name)

    @property
    def local_inputs(self) -> tuple[str, ...]:
        """The user's files and folders that the run reads, by absolute path."""
        named = [name for _, name, _ in self.repositories if is_local(name)]
        named += [path for path in (self.model.chat_template,) if path]
        named += [reward.file for reward in self.rewards if reward.file]
        return tuple(dict.fromkeys(named))

    def to_yaml(self) -> str:
        """The canonical form, every value explicit, as a YAML document."""
        values = self.model_dump(mode="json")
        return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True)
