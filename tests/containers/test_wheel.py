"""The wheel alone is enough: installed elsewhere, without a clone, it plans, lists and trains."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.containers.runs import ROOT, TIMEOUT, TRACEBACK, TRAINING, Bench, Ended

from aligntune_run.images import recipe

PAIRS = [{"prompt": f"what is {n} plus two", "completion": f" {n + 2}"} for n in range(16)]
LATER_SECONDS = 5
"""By which the worker's first event may come later after its code has changed."""
REFUSED = 1
"""The exit code where another distribution owns our import name."""


class Installation:
    """A fresh virtual environment with the wheel in it, and a folder that is no clone.

    Attributes:
        environment: the caller's, with nothing in it that could lead back to the clone.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.venv = folder / "venv"
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.wheel = wheel
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ALIGNTUNE_", "HF_", "PYTHON", "VIRTUAL_ENV", "XDG_CACHE"))
        }
        self.environment = {
            **kept,
            "ALIGNTUNE_CACHE_DIR": str(folder / "cache"),
            "HF_HOME": str(folder / "huggingface"),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        checked([sys.executable, "-m", "venv", self.venv])
        self.pip("install", wheel)

    def pip(self, *words: str | Path) -> None:
        options = ["--quiet", "--disable-pip-version-check"]
        checked([self.venv / "bin" / "python", "-m", "pip", *words, *options])

    def run(self, *words: str | Path, output: Path | None = None) -> Ended:
        done = subprocess.run(
            [self.venv / "bin" / "aligntune-run", *map(str, words)],
            env=self.environment,
            cwd=self.elsewhere,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        return Ended(done.returncode, done.stdout, done.stderr, output or self.elsewhere / "none")

    @contextmanager
    def beside(self, stranger: Path, *, first: bool = False) -> Iterator[None]:
        """With another distribution installed as well, before ours or after it."""
        name = stranger.name.partition("-")[0]
        self.pip("install", "--no-index", "--no-deps", stranger)
        if first:
            self.reinstall()
        yield
        self.pip("uninstall", "--yes", name)
        self.reinstall()

    def reinstall(self) -> None:
        self.pip("install", "--no-index", "--no-deps", "--force-reinstall", self.wheel)


def checked(words: Sequence[str | Path]) -> None:
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, built as an installer would build it."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--quiet", "--disable-pip-version-check", f"--wheel-dir={folder}"]
    checked([sys.executable, "-m", "pip", "wheel", *options, ROOT])
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("installed")
    yield Installation(folder, wheel)
    shutil.rmtree(folder)


def stranger(folder: Path, distribution: str) -> Path:
    """The wheel of a distribution that owns an ``aligntune`` package, as AlignTune itself does."""
    path = folder / f"{distribution}-9.9-py3-none-any.whl"
    about = f"{distribution}-9.9.dist-info"
    files = {
        "aligntune/__init__.py": "raise RuntimeError('a stranger\\'s code was run')\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 9.9\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(name, content)
    return path


def request(installed: Installation, bench: Bench) -> list[str]:
    """Words that ask for a short training of a model and data of the caller's own."""
    model, data = installed.elsewhere / "model", installed.elsewhere / "data.jsonl"
    if not model.exists():
        shutil.copytree(bench.models / "llama", model)
        data.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    sets = [f"--set=training.{key}={value}" for key, value in TRAINING.items()]
    words = ["--algo", "sft", "--model", "./model", "--dataset", "./data.jsonl", "--gpus", "0"]
    return [*words, *sets]


def test_the_wheel_carries_what_images_are_made_of_and_neither_tests_nor_caches(
    wheel: Path,
) -> None:
    carried = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "images", "launcher/aligntune_run", "shared/aligntune"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    wanted = {
        path.replace("images/", "aligntune_run/recipes/", 1)
        if path.startswith("images/")
        else path.partition("/")[2]
        for path in listed
    }
    essential = ["Dockerfile", "pins.json", "base/install.sh", "base/packages.txt", "base/cpu.lock"]
    essential += ["trl/cpu.lock", "trl/cuda.lock", "trl/facts.json", "trl/aligntune_backend.py"]
    essential += ["unsloth/cuda.lock", "unsloth/facts.json", "unsloth/aligntune_backend.py"]
    assert {f"aligntune_run/recipes/{name}" for name in essential} <= wanted, "the list is right"
    assert wanted <= carried
    packages = {name.partition("/")[0] for name in carried if ".dist-info/" not in name}
    assert packages == {"aligntune", "aligntune_run"}
    assert not [name for name in carried if name.endswith(".pyc") or "/test" in f"/{name}"]


def test_its_files_are_the_installed_programs_own(installed: Installation) -> None:
    program = (
        "import aligntune, aligntune_run, sys\n"
        "from aligntune_run.images import images_dir\n"
        "print(aligntune.__file__, aligntune_run.__file__, images_dir(), sep='\\n')"
    )
    said = subprocess.run(
        [installed.venv / "bin" / "python", "-c", program],
        cwd=installed.elsewhere,
        env=installed.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(said) == 3
    assert all(Path(path).is_relative_to(installed.venv) for path in said)


def test_its_images_are_those_of_the_clone_so_nothing_is_built_again(
    installed: Installation, bench: Bench, image: Callable[[str, str], str]
) -> None:
    here = image("trl", "cpu")
    ended = installed.run(*request(installed, bench), "--dry-run", "--json")
    assert ended.code == 0, ended.report
    planned = json.loads(ended.out)["plan"]["choice"]["image"]
    assert planned["ref"] == recipe("trl", "cpu").ref
    assert (planned["id"], planned["how"]) == (here, "present")

    listed = installed.run("images", "list", "--json")
    assert listed.code == 0, listed.report
    row = next(row for row in json.loads(listed.out) if row["ref"] == recipe("trl", "cpu").ref)
    assert (row["id"], row["state"]) == (here, "up to date")


Trained = tuple[Ended, float]
"""A run, and the seconds from the command to the worker's first event."""


def train(installed: Installation, bench: Bench, name: str) -> Trained:
    output = installed.elsewhere / name
    fixed = ["--engine", "docker", "--pull", "never", "--output", str(output)]
    words = [*request(installed, bench), *fixed, "--set=training.save_steps=1"]
    asked = time.time()
    ended = installed.run(*words, output=output)
    assert ended.code == 0, ended.report
    first = json.loads((output / "events.jsonl").read_text().splitlines()[0])
    return ended, first["time"] - asked


@pytest.fixture(scope="module")
def trained(installed: Installation, bench: Bench) -> Trained:
    """With the code as it was installed."""
    return train(installed, bench, "run")


def test_it_trains_in_a_container(trained: Trained) -> None:
    ended, _ = trained
    assert ended.losses[-1] < ended.losses[0] - 1
    assert ended.record["plan"]["choice"]["image"]["ref"] == recipe("trl", "cpu").ref
    assert (ended.run / "model" / "model.safetensors").stat().st_size > 0


def test_changed_code_starts_at_once_in_the_same_image_and_a_resumed_run_says_so(
    installed: Installation, bench: Bench, trained: Trained
) -> None:
    (module,) = installed.venv.glob("lib/*/site-packages/aligntune/worker/main.py")
    with module.open("a", encoding="utf-8") as file:
        file.write("# a comment\n")
    ended, seconds = train(installed, bench, "changed")
    assert ended.record["plan"]["choice"]["image"]["how"] == "present"
    assert seconds < trained[1] + LATER_SECONDS
    output = ended.run
    (code,) = ended.record["code"]
    assert code != recipe("trl", "cpu").code_hash

    stopped = {**ended.record, "status": "stopped"}
    (output / "run.json").write_text(json.dumps(stopped), encoding="utf-8")
    shutil.rmtree(output / "model")
    installed.reinstall()
    ended = installed.run("--resume", output, output=output)
    assert ended.code == 0, ended.report
    assert ended.record["code"] == [code, recipe("trl", "cpu").code_hash]
    assert f"this run began with version {code[:12]} of the code" in ended.report


@pytest.mark.parametrize(
    ("distribution", "first"),
    [("aligntune", False), ("aligntune", True), ("tunes_of_others", False)],
    ids=["aligntune, after ours", "aligntune, before ours", "one of another name"],
)
def test_another_distribution_that_owns_the_import_name_is_named(
    distribution: str, first: bool, installed: Installation, tmp_path: Path
) -> None:
    with installed.beside(stranger(tmp_path, distribution), first=first):
        ended = installed.run("--version")
    assert ended.code == REFUSED, ended.report
    assert ended.err.startswith(f"error: the distribution {distribution} 9.9 owns the import name")
    assert f"pip uninstall {distribution}" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert TRACEBACK not in ended.err + ended.out
    assert installed.run("--version").code == 0, "what it says to do mends it"


def test_what_is_left_when_such_a_distribution_is_removed_is_told(
    installed: Installation, tmp_path: Path
) -> None:
    """pip removes the file that both had installed, so ours is no longer whole."""
    other = stranger(tmp_path, "aligntune")
    with installed.beside(other):
        installed.pip("uninstall", "--yes", "aligntune")
        ended = installed.run("--version")
    assert ended.code == REFUSED, ended.report
    assert ended.err.startswith("error: aligntune-run's package 'aligntune' is incomplete")
    assert "--force-reinstall" in ended.err
    assert len(ended.err.splitlines()) == 1
