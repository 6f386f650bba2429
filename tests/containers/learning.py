"""Toys (tests/helpers/toys.py) in real runs: by the command with TRL, else in a bare container."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.containers.runs import ROOT, Bench, Ended, bare, in_image
from tests.containers.sharing import made_once
from tests.helpers.toys import REWARD, TOYS, Toy, rows, spec_of

from aligntune.algorithms import ALGORITHMS


@dataclass(frozen=True)
class Learning:
    """Trains toys on either backend."""

    image: Callable[[str, str], str]
    bench: Bench

    @property
    def model(self) -> Path:
        return self.bench.models / "toy"

    @property
    def reward(self) -> Path:
        """The file of the reward function ``good``."""
        return self.bench.folder / "data" / "good.py"

    def prepare(self) -> None:
        """Make the model, the data and the reward."""

        def make(model: Path) -> None:
            for name in ("tiny.py", "toys.py"):
                script = Path(shutil.copy(ROOT / "tests" / "helpers" / name, self.bench.folder))
            in_image(self.image("trl", "cpu"), script, self.bench, self.model)
            shutil.copytree(self.model, model)

        shutil.copytree(made_once("toy", make), self.model, dirs_exist_ok=True)
        self.bench.give_away()
        self.bench.write(self.reward.name, REWARD)
        for name in {toy.data for toy in TOYS.values()}:
            for part, made in zip(("train", "held-out"), rows(name), strict=True):
                self.bench.write(f"{name}-{part}.jsonl", made)

    def data(self, algorithm: str, part: str = "train") -> Path:
        return self.bench.folder / "data" / f"{self.toy(algorithm).data}-{part}.jsonl"

    @staticmethod
    def toy(algorithm: str) -> Toy:
        return TOYS[ALGORITHMS[algorithm].family]

    def spec(self, algorithm: str, *, adapter: bool = False, **training: Any) -> dict[str, Any]:
        """A toy's whole spec; ``training`` instead of its own."""
        held_out = str(self.data(algorithm, "held-out"))
        spec = {
            **spec_of(algorithm, adapter, **training),
            "model": {"name": str(self.model)},
            "dataset": {"name": str(self.data(algorithm)), "eval_name": held_out},
        }
        if ALGORITHMS[algorithm].online:
            spec["rewards"] = [f"{self.reward}:good"]
        return spec

    def train(self, spec: Mapping[str, Any], backend: str = "trl") -> Ended:
        """The same spec, by the command or in a bare container."""
        if backend == "unsloth":
            return bare(self.image("unsloth", "cuda"), self.bench, spec)
        run = self.bench.output()
        return self.bench.run(*self.words(spec, run), run=run)

    def words(self, spec: Mapping[str, Any], run: Path) -> list[str | Path]:
        """What comes after ``aligntune-run``."""
        path = self.bench.write(f"spec-{run.name}.yaml", json.dumps(spec))
        fixed = ["--backend", "trl", "--gpus", "0", "--engine", "docker", "--pull", "never"]
        return ["-c", path, "--output", run, *fixed]
